package edge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"segue/edge/policy"
	"segue/media"
)

// HTTPOrigin is a plain HTTP server that the edge fronts as an RFC 9111 shared cache.
type HTTPOrigin struct {
	base   string       // scheme://host[:port][/path], no slash at the end
	name   string       // what peers call it: a hash of base and host
	host   string       // in requests; empty: the base's
	header http.Header  // set in every request
	client *http.Client // its connections are headFilters
	bodies *http.Client // for requests with a body
}

// HTTPOptions are what may be said of an HTTP origin. The zero value is the default.
type HTTPOptions struct {
	Host      string        // Host of requests; default the base URL's
	Header    http.Header   // set in every request, in the place of what a player sent: credentials
	Connect   time.Duration // for a connection; default 2 s
	FirstByte time.Duration // for the head of a response; default 10 s
}

// NewHTTPOrigin checks the base URL.
func NewHTTPOrigin(base string) (*HTTPOrigin, error) { return OpenHTTPOrigin(base, HTTPOptions{}) }

// OpenHTTPOrigin is NewHTTPOrigin with options.
func OpenHTTPOrigin(base string, opts HTTPOptions) (*HTTPOrigin, error) {
	opts.Connect, opts.FirstByte = cmp.Or(opts.Connect, 2*time.Second), cmp.Or(opts.FirstByte, 10*time.Second)
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("origin %q: want http://host[:port][/path]: %w", base, media.ErrInvalid)
	}
	dial := (&net.Dialer{Timeout: opts.Connect}).DialContext
	asIs := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // redirects are the player's business
	transport := &http.Transport{
		DialContext:           dial,
		TLSHandshakeTimeout:   opts.Connect,
		ResponseHeaderTimeout: opts.FirstByte,
		MaxIdleConnsPerHost:   256,
		IdleConnTimeout:       time.Minute,
		DisableCompression:    true,
	}
	filtered := transport.Clone()
	if u.Scheme == "http" { // below TLS there are no heads to see
		filtered.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &headFilter{Conn: c}, nil
		}
	}
	base = strings.TrimRight(base, "/")
	return &HTTPOrigin{base, strconv.FormatUint(seed(base+" "+opts.Host), 36), opts.Host, opts.Header, &http.Client{CheckRedirect: asIs, Transport: filtered}, &http.Client{CheckRedirect: asIs, Transport: transport}}, nil
}

// send passes a request on for a key, which is a path with its query, and returns what comes back as it is. header
// holds end-to-end fields; it is changed.
func (h *HTTPOrigin) send(ctx context.Context, method, key string, header http.Header, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, h.base+"/"+key, body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", media.ErrInvalid, err)
	}
	policy.EndToEnd(header)
	if _, said := header["User-Agent"]; !said {
		header["User-Agent"] = []string{""} // net/http would make one up
	}
	header.Add("Via", via)                                                  // RFC 9110 7.6.3
	header.Set("Surrogate-Capability", policy.Surrogate+`="Surrogate/1.0"`) // W3C Edge Architecture 1.0, 2.1
	for name, v := range h.header {
		header[name] = v
	}
	req.Header = header
	if h.host != "" {
		req.Host = h.host
	}
	client := h.client
	if req.Body != nil && req.Body != http.NoBody {
		client = h.bodies
	}
	resp, err := client.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return nil, err
	}
	policy.EndToEnd(resp.Header)
	return resp, nil
}

// forward is HTTPOrigin.send under the route's care. The answer's body ends the request. again: it may be repeated when no
// answer came. An answer of 5xx is one, however it counts for the breaker: what it means is for RFC 9111 to say.
func (r *Route) forward(ctx context.Context, method, key string, header http.Header, body io.Reader, again bool) (*http.Response, error) {
	header.Add("Cdn-Loop", r.loop) // RFC 8586 2
	resp, l, err := perform(ctx, r.care, call[*http.Response]{verb: strings.ToLower(method), again: again,
		once: func(ctx context.Context) (*http.Response, error) {
			return r.http().send(ctx, method, key, header.Clone(), body)
		},
		fault: func(resp *http.Response) error {
			if resp.StatusCode >= 500 && resp.StatusCode != http.StatusNotImplemented {
				return fmt.Errorf("origin answers %s", resp.Status)
			}
			return nil
		}})
	if err != nil {
		r.care.complain(key, err)
		return nil, err
	}
	resp.Body = newCaredBody(resp.Body, l, -1) // net/http knows the length
	return resp, nil
}

// via is what this edge puts into Via.
const via = "1.1 segue"

// Open sends a ranged GET and checks that the answer is of the version wanted. A server without ranges answers with
// everything: what comes before the range is read and dropped. Without a strong validator nothing can be fetched later.
func (h *HTTPOrigin) Open(ctx context.Context, m *Meta, rng media.ByteRange) (io.ReadCloser, error) {
	if !m.Strong || m.part() {
		return nil, media.ErrChanged
	}
	header := http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", rng.Offset, rng.Offset+rng.Length-1)}}
	resp, err := h.send(ctx, http.MethodGet, m.Key, header, nil)
	if err != nil {
		return nil, err
	}
	first, length, whole, err := extent(resp)
	etag, strong := policy.Validators(resp.Header, whole)
	switch {
	case resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusGone:
		err = media.ErrNotFound
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		err = media.ErrChanged
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent:
		err = fmt.Errorf("origin answers %s", resp.Status)
	case err != nil:
	case !strong || etag != m.ETag || whole != m.Size:
		err = media.ErrChanged
	case resp.StatusCode == http.StatusOK:
		_, err = io.CopyN(io.Discard, resp.Body, rng.Offset)
	case first != rng.Offset || length < rng.Length || resp.ContentLength >= 0 && resp.ContentLength != length:
		err = fmt.Errorf("origin's Content-Range %q, asked for %s: %w", resp.Header.Get("Content-Range"), header.Get("Range"), media.ErrCorrupt)
	}
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp.Body, nil
}

// extent says what bytes of the representation a response holds: length bytes from first of whole. Length and whole are
// -1 where the response does not say. RFC 9110 14.4.
func extent(resp *http.Response) (first, length, whole int64, err error) {
	if resp.StatusCode != http.StatusPartialContent {
		return 0, resp.ContentLength, resp.ContentLength, nil
	}
	var last int64
	whole = -1
	field := resp.Header.Get("Content-Range")
	if n, _ := fmt.Sscanf(field, "bytes %d-%d/%d", &first, &last, &whole); n < 2 || first < 0 || last < first || n == 3 && last >= whole {
		return 0, 0, 0, fmt.Errorf("origin's Content-Range %q: %w", field, media.ErrCorrupt)
	}
	return first, last - first + 1, whole, nil
}
