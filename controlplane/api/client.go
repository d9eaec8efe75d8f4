package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
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

// Call sends in as JSON, when it is not nil, and reads the answer into out, when that is not nil. A status of 400 and
// more is a *Problem; a server that does not answer is media.ErrUnreachable.
func (c *Client) Call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("bug: %w", err)
		}
		body = bytes.NewReader(b)
	}
	resp, err := c.send(ctx, method, path, body, -1, http.Header{"Content-Type": {"application/json"}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("%s %s: answer: %w", method, path, err)
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
	return nil, p
}

// Ingester gives a packager what it needs of a control plane: claims, objects, publishing.
type Ingester struct{ Client *Client }

func objectPath(key media.Key) string {
	return "/v1/admin/ingest/objects/" + (&url.URL{Path: string(key)}).EscapedPath()
}

// Claim asks which track a source is.
func (i Ingester) Claim(ctx context.Context, r ClaimRequest) (c Claim, err error) {
	err = i.Client.Call(ctx, http.MethodPost, "/v1/admin/ingest/claims", r, &c)
	return c, err
}

// Publish takes a track into the catalogue.
func (i Ingester) Publish(ctx context.Context, t media.Track) error {
	return i.Client.Call(ctx, http.MethodPost, "/v1/admin/ingest/tracks", t, nil)
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
