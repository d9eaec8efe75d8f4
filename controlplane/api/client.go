package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	mrand "math/rand/v2"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	"segue/media"
)

// Error makes a Problem an error.
func (p *Problem) Error() string {
	text := p.Title
	if p.Detail != "" {
		text = p.Detail
	}
	for _, e := range p.Errors {
		text += "; " + e.Location + ": " + e.Message
	}
	return fmt.Sprintf("%s (%d)", text, p.Status)
}

// GetStatus and ContentType are what huma asks of an error.
func (p *Problem) GetStatus() int            { return p.Status }
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// Client calls a control plane. It is safe for concurrent use.
type Client struct {
	base  string
	token func() (string, error)
	http  *http.Client
}

// NewClient checks the server's base URL. token gives the bearer token of each call; nil: none.
func NewClient(server string, token func() (string, error)) (*Client, error) {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("server %q: want http://host:port: %w", server, media.ErrInvalid)
	}
	return &Client{strings.TrimRight(server, "/"), token, &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: 5 * time.Second}}}, nil
}

// Through has all calls go through what f makes of the client's transport; for use before the first call.
func (c *Client) Through(f func(http.RoundTripper) http.RoundTripper) {
	c.http.Transport = f(c.http.Transport)
}

// Call sends in as JSON, when it is not nil, and reads the answer into out, when that is not nil. A status of 400 and
// more is a *Problem; a server that does not answer is media.ErrUnreachable. The methods below are the same, one per operation.
func (c *Client) Call(ctx context.Context, method, path string, in, out any) error {
	_, err := c.do(ctx, request{method: method, path: path, in: in, out: out})
	return err
}

// ErrNotModified: the answer is still the one that IfNoneMatch named.
var ErrNotModified = errors.New("not modified")

// request is one logical call; it may be sent more than once.
type request struct {
	method, path string
	in, out      any
	keyed        bool // a create: it gets one Idempotency-Key, whatever happens
	args         url.Values
	headers      http.Header
}

func (r *request) header(name, value string) {
	if value != "" {
		if r.headers == nil {
			r.headers = http.Header{}
		}
		r.headers.Set(name, value)
	}
}

// query adds an argument; lists are written with commas, as the API reads them.
func (r *request) query(name string, value any) {
	v := reflect.ValueOf(value)
	if v.IsZero() {
		return
	}
	if r.args == nil {
		r.args = url.Values{}
	}
	if v.Kind() == reflect.Slice {
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = fmt.Sprint(v.Index(i).Interface())
		}
		r.args.Set(name, strings.Join(parts, ","))
		return
	}
	if t, ok := value.(time.Time); ok {
		value = t.Format(time.RFC3339Nano)
	}
	r.args.Set(name, fmt.Sprint(value))
}

const (
	maxTries  = 4                // of one logical call
	maxPauses = 10 * time.Second // all waits of one logical call together
)

// do sends a call, and again when the server says 429 or 503 and how long to wait (Retry-After), and the call may be
// repeated: it reads, replaces or deletes, or it has a key. It returns the answer's entity tag.
func (c *Client) do(ctx context.Context, r request) (etag string, err error) {
	var body []byte
	if b, ok := r.in.([]byte); ok {
		body = b
	} else if r.in != nil {
		if body, err = json.Marshal(r.in); err != nil {
			return "", fmt.Errorf("bug: %w", err)
		}
	}
	if r.keyed {
		r.header("Idempotency-Key", rand.Text())
	}
	path := r.path
	if len(r.args) > 0 {
		path += "?" + r.args.Encode()
	}
	repeatable := r.keyed || r.method != http.MethodPost && r.method != http.MethodPatch
	var paused time.Duration
	for try := 1; ; try++ {
		header := http.Header{"Content-Type": {"application/json"}}
		maps.Copy(header, r.headers)
		var in io.Reader
		if r.in != nil {
			in = bytes.NewReader(body)
		}
		resp, err := c.send(ctx, r.method, path, in, -1, header)
		if err == nil {
			return resp.Header.Get("ETag"), read(resp, r)
		}
		p, ok := errors.AsType[*Problem](err)
		if !ok || !repeatable || try == maxTries || p.RetryAfter == 0 || p.Status != http.StatusTooManyRequests && p.Status != http.StatusServiceUnavailable {
			return "", err
		}
		pause := time.Duration(p.RetryAfter)*time.Second + time.Duration(mrand.Int64N(int64(500*time.Millisecond)))
		if paused += pause; paused > maxPauses {
			return "", err
		}
		select {
		case <-ctx.Done():
			return "", err
		case <-time.After(pause):
		}
	}
}

func read(resp *http.Response, r request) error {
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotModified {
		return ErrNotModified
	}
	if r.out == nil || resp.StatusCode == http.StatusNoContent {
		_, err := io.Copy(io.Discard, resp.Body)
		return err
	}
	if err := json.NewDecoder(resp.Body).Decode(r.out); err != nil {
		return fmt.Errorf("%s %s: answer: %w", r.method, r.path, err)
	}
	return nil
}

func (c *Client) send(ctx context.Context, method, path string, body io.Reader, size int64, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	req.Header = header
	if size >= 0 {
		req.ContentLength = size
	}
	if c.token != nil {
		token, err := c.token()
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		if ctx.Err() == nil {
			err = fmt.Errorf("%w: %w", media.ErrUnreachable, err)
		}
		return nil, fmt.Errorf("%s %s%s: %w", method, c.base, path, err)
	}
	if resp.StatusCode < 400 {
		return resp, nil
	}
	defer resp.Body.Close()
	p := &Problem{Status: resp.StatusCode, Title: http.StatusText(resp.StatusCode)}
	if b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10)); err == nil && strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem+json") {
		_ = json.Unmarshal(b, p) // what is not a problem document stays a bare status
	}
	p.RetryAfter, _ = strconv.Atoi(resp.Header.Get("Retry-After")) // in seconds, as this API writes it; 0 when absent
	return nil, p
}

// Ready asks whether the server takes calls.
func (c *Client) Ready(ctx context.Context) error {
	return c.Call(ctx, http.MethodGet, "/readyz", nil, nil)
}

// Ingester gives a packager what it needs of a control plane: claims, objects, publishing.
type Ingester struct{ Client *Client }

func objectPath(key media.Key) string {
	return "/v1/admin/ingest/objects/" + (&url.URL{Path: string(key)}).EscapedPath()
}

// Claim asks which track a source is.
func (i Ingester) Claim(ctx context.Context, r ClaimRequest) (Claim, error) {
	return i.Client.Claim(ctx, r)
}

// Publish takes a track into the catalogue.
func (i Ingester) Publish(ctx context.Context, t media.Track) error {
	_, err := i.Client.Publish(ctx, t)
	return err
}

// Put stores an object; o.SHA256 is required and is checked by the server.
func (i Ingester) Put(ctx context.Context, o media.Object, r io.Reader) (media.Object, error) {
	sum, err := hex.DecodeString(o.SHA256)
	if err != nil || len(sum) != 32 {
		return o, fmt.Errorf("bug: put %s without its digest", o.Key)
	}
	header := http.Header{"Content-Type": {o.ContentType}, "Content-Digest": {"sha-256=:" + base64.StdEncoding.EncodeToString(sum) + ":"}} // RFC 9530 2
	resp, err := i.Client.send(ctx, http.MethodPut, objectPath(o.Key), r, o.Size, header)
	if err != nil {
		return o, err
	}
	o.ETag = resp.Header.Get("ETag")
	return o, resp.Body.Close()
}

// Stat describes a stored object, or returns media.ErrNotFound.
func (i Ingester) Stat(ctx context.Context, key media.Key) (media.Object, error) {
	resp, err := i.Client.send(ctx, http.MethodHead, objectPath(key), nil, -1, http.Header{})
	if p, ok := errors.AsType[*Problem](err); ok && p.Status == http.StatusNotFound {
		return media.Object{}, fmt.Errorf("%s: %w", key, media.ErrNotFound)
	} else if err != nil {
		return media.Object{}, err
	}
	return media.Object{Key: key, Size: resp.ContentLength, ETag: resp.Header.Get("ETag")}, resp.Body.Close()
}

// Import sends lines of an import, the first of them numbered first; r is read to its end.
func (c *Client) Import(ctx context.Context, first int, r io.Reader) (out ImportResult, err error) {
	resp, err := c.send(ctx, http.MethodPost, fmt.Sprintf("/v1/admin/import?first_line=%d", first), r, -1, http.Header{"Content-Type": {"application/x-ndjson"}})
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		return out, fmt.Errorf("import: answer: %w", err)
	}
	return out, nil
}

// Stream reads an answer that is no document as it comes; the caller closes it.
func (c *Client) Stream(ctx context.Context, method, path string) (io.ReadCloser, error) {
	resp, err := c.send(ctx, method, path, nil, -1, http.Header{})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Poll asks for a document that is not the revision at hand; changed false means that it still is.
func (c *Client) Poll(ctx context.Context, path, revision string, out any) (changed bool, err error) {
	resp, err := c.send(ctx, http.MethodGet, path, nil, -1, http.Header{"If-None-Match": {`"` + revision + `"`}})
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotModified {
		return false, nil
	}
	return true, json.NewDecoder(resp.Body).Decode(out)
}

// SendEdgeLogs hands over frames of an edge's request log.
func (c *Client) SendEdgeLogs(ctx context.Context, frames []byte) (out EdgeLogsAccepted, err error) {
	resp, err := c.send(ctx, http.MethodPost, "/v1/fleet/logs", bytes.NewReader(frames), int64(len(frames)), http.Header{"Content-Type": {"application/vnd.segue.edgelog"}})
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		return out, fmt.Errorf("hand over request logs: answer: %w", err)
	}
	return out, nil
}
