package edge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"segue/edge/policy"
	"segue/media"

	"golang.org/x/sync/semaphore"
)

// Origin is where a route's objects come from. Keys are what follows the route's prefix. Errors wrap
// media.ErrNotFound and media.ErrChanged where they apply. Safe for concurrent use.
type Origin interface {
	// Stat describes what a key names now: all fields of Meta but Key, Route and Object. Status 0 means "exists, but is
	// not for a cache".
	Stat(ctx context.Context, key string) (Meta, error)
	// Open yields the bytes of rng of the version that m names; the caller closes.
	Open(ctx context.Context, m *Meta, rng media.ByteRange) (io.ReadCloser, error)
}

// Upstream is the lowest tier: one ranged request per run of blocks, to the origin of the Meta's route.
type Upstream struct {
	slots   *semaphore.Weighted // requests to origins at once
	alloc   func(n int) *Block
	metrics *metrics
}

func newUpstream(concurrent int64, alloc func(n int) *Block, m *metrics) *Upstream {
	return &Upstream{semaphore.NewWeighted(concurrent), alloc, m}
}

// Fetch implements Source.
func (u *Upstream) Fetch(ctx context.Context, w Want) iter.Seq2[Piece, error] {
	return func(yield func(Piece, error) bool) {
		fail := func(err error) { yield(Piece{}, fmt.Errorf("fetch %s: %w", w.Meta.Key, err)) }
		if err := u.slots.Acquire(ctx, 1); err != nil {
			fail(err)
			return
		}
		defer u.slots.Release(1)
		from := int64(w.First) * BlockSize
		to := min(int64(w.Last+1)*BlockSize, w.Meta.Size)
		u.metrics.originRequests.WithLabelValues("get").Inc()
		body, err := w.Meta.Route.Origin.Open(ctx, w.Meta, media.ByteRange{Offset: from, Length: to - from})
		if err != nil {
			fail(err)
			return
		}
		defer body.Close()
		for n := w.First; n <= w.Last; n++ {
			block := u.alloc(blockLen(w.Meta.Size, n))
			if _, err := io.ReadFull(body, block.Bytes); err != nil {
				fail(fmt.Errorf("block %d: %w", n, err))
				return
			}
			if !yield(Piece{n, block, TierOrigin}, nil) {
				return
			}
		}
	}
}

// immutable is how long a versioned object is fresh: for ever, in the words of HTTP a year.
const immutable = 365 * 24 * time.Hour

// Store is the part of origin.Store that an edge needs, with the same promises.
type Store interface {
	Get(ctx context.Context, key media.Key, rng media.ByteRange, ifMatch string) (io.ReadCloser, media.Object, error)
	Stat(ctx context.Context, key media.Key) (media.Object, error)
}

// StoreOrigin serves from a Store: a directory or a bucket. Objects of the platform's own layout never change under
// their key; others are fresh for Fresh.
type StoreOrigin struct {
	Store Store
	Fresh time.Duration
}

// Stat implements Origin.
func (s StoreOrigin) Stat(ctx context.Context, key string) (Meta, error) {
	k, err := media.ParseKey(key)
	if err != nil {
		return Meta{}, fmt.Errorf("%w: %w", media.ErrNotFound, err)
	}
	o, err := s.Store.Stat(ctx, k)
	if err != nil {
		return Meta{}, err
	}
	now := time.Now()
	m := Meta{Status: http.StatusOK, Size: o.Size, ETag: o.ETag, ContentType: o.ContentType, ModTime: o.ModTime, Stored: now, FreshUntil: now.Add(s.Fresh)}
	if m.ContentType == "" {
		m.ContentType = "application/octet-stream"
	}
	if strings.HasPrefix(key, "media/") || strings.HasPrefix(key, "art/") {
		m.FreshUntil = now.Add(immutable)
		m.CacheControl = "public, max-age=31536000, immutable" // RFC 8246
		if k.Protected() {
			m.CacheControl = "private, max-age=31536000, immutable" // the URL holds a listener's token
		}
	}
	return m, nil
}

// Open implements Origin.
func (s StoreOrigin) Open(ctx context.Context, m *Meta, rng media.ByteRange) (io.ReadCloser, error) {
	body, _, err := s.Store.Get(ctx, media.Key(m.Key), rng, m.ETag)
	return body, err
}

// HTTPOrigin fronts a plain HTTP server as an RFC 9111 shared cache.
type HTTPOrigin struct {
	base   string // scheme://host[:port][/path], no slash at the end
	client *http.Client
}

// NewHTTPOrigin checks the base URL.
func NewHTTPOrigin(base string) (*HTTPOrigin, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("origin %q: want http://host[:port][/path]: %w", base, media.ErrInvalid)
	}
	return &HTTPOrigin{strings.TrimRight(base, "/"), &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the player's business
		Transport: &http.Transport{
			DialContext:           (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
			TLSHandshakeTimeout:   2 * time.Second,
			ResponseHeaderTimeout: 10 * time.Second,
			MaxIdleConnsPerHost:   64,
			IdleConnTimeout:       time.Minute,
			DisableCompression:    true,
		},
	}}, nil
}

// Stat sends a HEAD. What has no strong validator or no length, or may not be stored, is to be passed on.
func (h *HTTPOrigin) Stat(ctx context.Context, key string) (Meta, error) {
	resp, err := h.do(ctx, http.MethodHead, key, nil)
	if err != nil {
		return Meta{}, err
	}
	resp.Body.Close()
	now := time.Now()
	m := Meta{Stored: now, FreshUntil: now.Add(10 * time.Second)} // not for a cache: ask again then
	switch {
	case resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusGone:
		return Meta{}, fmt.Errorf("%s: %w", resp.Status, media.ErrNotFound)
	case resp.StatusCode >= 500 && resp.StatusCode != http.StatusNotImplemented:
		return Meta{}, fmt.Errorf("origin answers %s", resp.Status)
	case resp.StatusCode != http.StatusOK || resp.ContentLength < 0:
		return m, nil
	}
	fresh, ok := policy.Lifetime(resp.Header, now)
	etag, strong := policy.Strong(resp.Header, resp.ContentLength)
	if !ok || !strong {
		return m, nil
	}
	m.Status, m.Size, m.ETag, m.ContentType = http.StatusOK, resp.ContentLength, etag, resp.Header.Get("Content-Type")
	m.CacheControl = strings.Join(resp.Header.Values("Cache-Control"), ", ")
	m.FreshUntil = now.Add(fresh)
	if t, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil {
		m.ModTime = t
	}
	return m, nil
}

// Open sends a ranged GET and checks that the answer is of the version wanted. A server without ranges answers with
// everything: what comes before the range is read and dropped.
func (h *HTTPOrigin) Open(ctx context.Context, m *Meta, rng media.ByteRange) (io.ReadCloser, error) {
	header := http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", rng.Offset, rng.Offset+rng.Length-1)}}
	resp, err := h.do(ctx, http.MethodGet, m.Key, header)
	if err != nil {
		return nil, err
	}
	size := resp.ContentLength
	if resp.StatusCode == http.StatusPartialContent {
		var first, last int64
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/%d", &first, &last, &size); err != nil || first != rng.Offset {
			resp.Body.Close()
			return nil, fmt.Errorf("origin's Content-Range %q: %w", resp.Header.Get("Content-Range"), media.ErrCorrupt)
		}
	}
	switch etag, ok := policy.Strong(resp.Header, size); {
	case resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusGone:
		err = media.ErrNotFound
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		err = media.ErrChanged
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent:
		err = fmt.Errorf("origin answers %s", resp.Status)
	case !ok || etag != m.ETag || size != m.Size:
		err = media.ErrChanged
	case resp.StatusCode == http.StatusOK:
		_, err = io.CopyN(io.Discard, resp.Body, rng.Offset)
	}
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp.Body, nil
}

// hopByHop are fields of one connection: RFC 9110 7.6.1.
var hopByHop = []string{"Connection", "Proxy-Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Proxy-Authorization", "Proxy-Authenticate"}

// do sends a request for a key, which is a path with its query.
func (h *HTTPOrigin) do(ctx context.Context, method, key string, header http.Header) (*http.Response, error) {
	return h.pass(ctx, method, key, header, nil)
}

// pass sends a whole request on: for what is not cacheable.
func (h *HTTPOrigin) pass(ctx context.Context, method, key string, header http.Header, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, h.base+"/"+key, body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", media.ErrInvalid, err)
	}
	if header != nil {
		req.Header = header
	}
	for _, named := range req.Header.Values("Connection") {
		for name := range strings.SplitSeq(named, ",") {
			req.Header.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range hopByHop {
		req.Header.Del(name)
	}
	req.Header.Set("Via", "1.1 segue") // RFC 9110 7.6.3
	resp, err := h.client.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return nil, err
	}
	return resp, nil
}
