package edge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"segue/edge/policy"
	"segue/media"
	"segue/media/cat"

	"github.com/valyala/fasthttp"
)

// door is the HTTP side: it takes a request apart, asks metas and policy what to answer, and sends blocks.
type door struct {
	name     string // in Cache-Status and Server-Timing
	routes   routes
	metas    *metas
	source   Source
	memory   *Memory
	gate     *gate // nil: no tokens, everything is public
	metrics  *metrics
	ready    atomic.Bool
	wait     time.Duration // for the first byte
	requests atomic.Int64
	hits     atomic.Int64
	served   atomic.Int64 // bytes
}

const (
	exposed     = "Accept-Ranges, Age, Cache-Status, Content-Length, Content-Range, Date, ETag, Server-Timing"
	maxURL      = 4096
	tokenFolder = "t/"
)

func (d *door) handle(ctx *fasthttp.RequestCtx) {
	h := &ctx.Response.Header
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Expose-Headers", exposed)
	h.Set("Timing-Allow-Origin", "*")
	rh := &ctx.Request.Header
	raw := rh.RequestURI()
	if status := guard(rh.Protocol(), raw, rh.RawHeaders()); status != 0 {
		ctx.SetConnectionClose()
		d.problem(ctx, status, "bad-head", "the head of the request is not one of HTTP/1.1, or too large")
		return
	}
	switch path := string(raw); {
	case path == "/healthz":
		d.plain(ctx, http.StatusOK, "ok\n")
		return
	case path == "/readyz" && d.ready.Load():
		d.plain(ctx, http.StatusOK, "ready\n")
		return
	case path == "/readyz":
		d.plain(ctx, http.StatusServiceUnavailable, "draining\n")
		return
	}
	switch {
	case ctx.IsOptions():
		h.Set("Access-Control-Allow-Methods", "GET, HEAD, OPTIONS")
		h.Set("Access-Control-Allow-Headers", "Range, If-None-Match, If-Modified-Since, If-Range, CMCD-Request, CMCD-Object, CMCD-Status, CMCD-Session")
		h.Set("Access-Control-Max-Age", "86400")
		ctx.SetStatusCode(http.StatusNoContent)
		return
	case !ctx.IsGet() && !ctx.IsHead():
		d.otherMethod(ctx, string(raw))
		return
	}
	d.get(ctx, string(raw))
}

// target is what a URL names.
type target struct {
	route *Route
	key   string
	token string
}

// locate parses a request target: /t/<token>/<key> or /<key>, for a route without queries the query cut off.
func (d *door) locate(raw string) (t target, err error) {
	path, query, hasQuery := strings.Cut(raw, "?")
	path, ok := strings.CutPrefix(path, "/")
	if !ok {
		return t, media.ErrInvalid
	}
	if d.gate != nil {
		if rest, tokened := strings.CutPrefix(path, tokenFolder); tokened {
			if t.token, path, ok = strings.Cut(rest, "/"); !ok || t.token == "" {
				return t, media.ErrNotFound
			}
		}
	}
	if t.route = d.routes.find("/" + path); t.route == nil {
		return t, media.ErrNotFound
	}
	rest := strings.TrimPrefix("/"+path, t.route.Prefix)
	if t.route.http() != nil { // the origin's own names: kept as they are, with their query
		if hasQuery {
			rest += "?" + query
		}
		t.key = rest
		return t, nil
	}
	name, err := url.PathUnescape(rest)
	if err != nil {
		return t, media.ErrInvalid
	}
	key, err := media.ParseKey(name)
	if err != nil {
		return t, media.ErrNotFound
	}
	t.key = string(key)
	return t, nil
}

func (d *door) get(ctx *fasthttp.RequestCtx, raw string) {
	begun := time.Now()
	d.requests.Add(1)
	t, err := d.locate(raw)
	if err == nil && d.gate != nil && media.Key(t.key).Protected() {
		_, err = d.gate.allow(t.token, &cat.Request{Method: string(ctx.Method()), Key: media.Key(t.key)}, begun)
	}
	if err != nil {
		d.fail(ctx, err)
		return
	}
	// A change of the object seen before the first byte is healed by asking again; a second one is the origin's fault.
	for try := 0; ; try++ {
		m, known, err := d.metas.get(ctx, t.route, t.key)
		if err == nil && m.Status == 0 {
			d.pass(ctx, t)
			return
		}
		if err == nil && m.Status == http.StatusNotFound {
			err = media.ErrNotFound
		}
		if err == nil {
			err = d.answer(ctx, m, known, begun)
		}
		if errors.Is(err, media.ErrChanged) && try == 0 {
			d.metas.forget(m)
			continue
		}
		if err != nil {
			d.fail(ctx, err)
		}
		return
	}
}

// answer sends what policy decides. An error means that nothing was written yet.
func (d *door) answer(ctx *fasthttp.RequestCtx, m *Meta, known bool, begun time.Time) error {
	rh := &ctx.Request.Header
	req := policy.Request{Method: string(ctx.Method()), Range: string(rh.Peek("Range")), IfRange: string(rh.Peek("If-Range")),
		IfMatch: string(rh.Peek("If-Match")), IfNoneMatch: string(rh.Peek("If-None-Match")),
		IfModifiedSince: string(rh.Peek("If-Modified-Since")), IfUnmodifiedSince: string(rh.Peek("If-Unmodified-Since"))}
	a := policy.Plan(req, policy.Object{Size: m.Size, ETag: m.ETag, ModTime: m.ModTime})
	tier := TierMemory // what needs no bytes is answered from the Meta alone
	if !known {
		tier = TierOrigin
	}
	h := &ctx.Response.Header
	if ctx.IsGet() && a.Length > 0 && (a.Status == http.StatusOK || a.Status == http.StatusPartialContent) {
		body, from, err := d.open(m, a)
		if err != nil {
			return err
		}
		tier = from
		if body.left == 0 {
			ctx.Response.SetBodyRaw(body.head)
		} else {
			ctx.Response.SetBodyStream(body, int(a.Length))
		}
		d.metrics.firstByte.Observe(time.Since(begun).Seconds())
		d.metrics.servedBytes.Add(float64(a.Length))
		d.served.Add(a.Length)
	} else if ctx.IsHead() {
		ctx.Response.SkipBody = true
		h.SetContentLength(int(a.Length))
	}
	ctx.SetStatusCode(a.Status)
	h.Set("ETag", m.ETag)
	h.Set("Accept-Ranges", "bytes")
	if !m.ModTime.IsZero() {
		h.Set("Last-Modified", m.ModTime.UTC().Format(http.TimeFormat))
	}
	if m.CacheControl != "" {
		h.Set("Cache-Control", m.CacheControl)
	}
	if m.Route.http() != nil {
		h.Set("Age", strconv.FormatInt(max(0, int64(time.Since(m.Stored).Seconds())), 10)) // RFC 9111 5.1
		h.Set("Via", "1.1 segue")
	}
	switch a.Status {
	case http.StatusOK, http.StatusPartialContent:
		h.SetContentType(m.ContentType)
	case http.StatusNotModified:
		h.SetNoDefaultContentType(true)
	case http.StatusRequestedRangeNotSatisfiable, http.StatusPreconditionFailed:
		if a.Status == http.StatusRequestedRangeNotSatisfiable {
			h.Set("Content-Range", "bytes */"+strconv.FormatInt(m.Size, 10))
		}
		h.Del("Cache-Control")
	}
	if a.Status == http.StatusPartialContent {
		h.Set("Content-Range", "bytes "+strconv.FormatInt(a.Offset, 10)+"-"+strconv.FormatInt(a.Offset+a.Length-1, 10)+"/"+strconv.FormatInt(m.Size, 10))
	}
	d.say(ctx, tier)
	return nil
}

// say writes Cache-Status (RFC 9211) and Server-Timing, and counts.
func (d *door) say(ctx *fasthttp.RequestCtx, tier Tier) {
	status := d.name + "; hit; detail=" + string(tier)
	if tier == TierOrigin {
		status = d.name + "; fwd=miss; stored; detail=origin"
	} else {
		d.hits.Add(1)
	}
	ctx.Response.Header.Set("Cache-Status", status)
	ctx.Response.Header.Set("Server-Timing", `edge;desc="`+d.name+`", tier;desc=`+string(tier))
	d.metrics.requests.WithLabelValues(strconv.Itoa(ctx.Response.StatusCode()), string(tier)).Inc()
}

// body is a run of bytes over blocks. What is part of one block is all in head, with nothing left.
type body struct {
	block  *Block // in hand
	head   []byte // of it, not sent yet
	left   int64
	next   func() (Piece, error, bool)
	stop   func()
	cancel context.CancelFunc
}

// open fetches the first block, so that a failure can still become a status, and returns the tier it came from.
func (d *door) open(m *Meta, a policy.Answer) (*body, Tier, error) {
	first, last := uint32(a.Offset/BlockSize), uint32((a.Offset+a.Length-1)/BlockSize)
	skip := a.Offset - int64(first)*BlockSize
	if first == last {
		if b := d.memory.Get(BlockKey{m.Object, first}); b != nil {
			return &body{block: b, head: b.Bytes[skip : skip+a.Length]}, TierMemory, nil
		}
	}
	ctx, cancel := context.WithCancel(context.Background()) // ends with the reply, not with the handler
	next, stop := iter.Pull2(d.source.Fetch(ctx, Want{m, first, last}))
	timer := time.AfterFunc(d.wait, cancel)
	p, err, ok := next()
	if !timer.Stop() && err != nil {
		err = errors.Join(context.DeadlineExceeded, err)
	}
	if err != nil || !ok {
		stop()
		cancel()
		if err == nil {
			err = media.ErrCorrupt
		}
		return nil, "", err
	}
	if first == last {
		stop()
		cancel()
		return &body{block: p.Block, head: p.Block.Bytes[skip : skip+a.Length]}, p.Tier, nil
	}
	return &body{block: p.Block, head: p.Block.Bytes[skip:], left: a.Length, next: next, stop: stop, cancel: cancel}, p.Tier, nil
}

// WriteTo sends whole blocks, without a copy.
func (b *body) WriteTo(w io.Writer) (n int64, err error) {
	for b.left > 0 {
		if err := b.fill(); err != nil {
			return n, err
		}
		part := b.head[:min(int64(len(b.head)), b.left)]
		k, err := w.Write(part)
		n += int64(k)
		b.take(k)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// Read implements io.Reader for where WriteTo is not used.
func (b *body) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	if err := b.fill(); err != nil {
		return 0, err
	}
	n := copy(p, b.head[:min(int64(len(b.head)), b.left)])
	b.take(n)
	return n, nil
}

func (b *body) take(n int) {
	b.head = b.head[n:]
	b.left -= int64(n)
}

func (b *body) fill() error {
	if len(b.head) > 0 {
		return nil
	}
	p, err, ok := b.next()
	if err == nil && !ok {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	b.block, b.head = p.Block, p.Block.Bytes
	return nil
}

// Close ends the fetch; fasthttp calls it when the reply is out or the player has gone.
func (b *body) Close() error {
	b.stop()
	b.cancel()
	return nil
}

// pass sends a request on to an HTTP origin and its answer back, with nothing kept.
func (d *door) pass(ctx *fasthttp.RequestCtx, t target) {
	header := http.Header{}
	for k, v := range ctx.Request.Header.All() {
		if name := string(k); name != "Host" && name != "Content-Length" {
			header.Add(name, string(v))
		}
	}
	pctx, cancel := context.WithCancel(context.Background())
	timer := time.AfterFunc(d.wait, cancel)
	resp, err := t.route.http().pass(pctx, string(ctx.Method()), t.key, header, bytes.NewReader(ctx.Request.Body()))
	if err != nil {
		cancel()
		d.fail(ctx, err)
		return
	}
	timer.Stop()
	for _, name := range hopByHop {
		resp.Header.Del(name)
	}
	ctx.SetStatusCode(resp.StatusCode)
	for k, vs := range resp.Header {
		for _, v := range vs {
			ctx.Response.Header.Add(k, v)
		}
	}
	ctx.Response.Header.Add("Via", "1.1 segue")
	ctx.Response.Header.Set("Cache-Status", d.name+"; fwd=bypass; fwd-status="+strconv.Itoa(resp.StatusCode))
	ctx.Response.Header.Del("Content-Length")
	ctx.Response.SkipBody = ctx.IsHead()
	ctx.Response.SetBodyStream(passed{resp.Body, cancel}, int(resp.ContentLength))
	d.metrics.requests.WithLabelValues(strconv.Itoa(resp.StatusCode), "bypass").Inc()
}

type passed struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (p passed) Close() error {
	defer p.cancel()
	return p.ReadCloser.Close()
}

// otherMethod passes methods with effects on to HTTP origins, and forgets what they may have changed: RFC 9111 4.4.
func (d *door) otherMethod(ctx *fasthttp.RequestCtx, raw string) {
	t, err := d.locate(raw)
	if err != nil || t.route.http() == nil {
		ctx.Response.Header.Set("Allow", "GET, HEAD, OPTIONS")
		d.problem(ctx, http.StatusMethodNotAllowed, "method-not-allowed", "this object can be read only")
		return
	}
	d.pass(ctx, t)
	if status := ctx.Response.StatusCode(); status >= 200 && status < 400 {
		d.metas.forget(&Meta{Route: t.route, Key: t.key})
	}
}

// fail turns an error into a status: the one table for that.
func (d *door) fail(ctx *fasthttp.RequestCtx, err error) {
	switch {
	case errors.Is(err, media.ErrNotFound):
		d.problem(ctx, http.StatusNotFound, "not-found", "there is no such object")
	case errors.Is(err, media.ErrNoAccess):
		d.metrics.refused.WithLabelValues("unauthorized").Inc()
		ctx.Response.Header.Set("WWW-Authenticate", `CAT realm="media"`)
		d.problem(ctx, http.StatusUnauthorized, "unauthorized", err.Error())
	case errors.Is(err, media.ErrDenied):
		d.metrics.refused.WithLabelValues("forbidden").Inc()
		d.problem(ctx, http.StatusForbidden, "forbidden", err.Error())
	case errors.Is(err, media.ErrInvalid):
		d.problem(ctx, http.StatusBadRequest, "bad-request", "the URL is not well formed")
	case errors.Is(err, media.ErrBusy):
		ctx.Response.Header.Set("Retry-After", "1")
		d.problem(ctx, http.StatusServiceUnavailable, "busy", "try again soon")
	case errors.Is(err, context.DeadlineExceeded):
		d.problem(ctx, http.StatusGatewayTimeout, "origin-timeout", "the origin did not answer in time")
	default:
		d.problem(ctx, http.StatusBadGateway, "origin-failed", "the origin could not be read")
	}
}

// problem answers with an RFC 9457 body.
func (d *door) problem(ctx *fasthttp.RequestCtx, status int, slug, detail string) {
	h := &ctx.Response.Header
	for _, name := range []string{"Cache-Control", "Content-Encoding", "Etag", "Last-Modified"} {
		h.Del(name)
	}
	body, err := json.Marshal(map[string]any{"type": "/problems/" + slug, "title": http.StatusText(status), "status": status, "detail": detail})
	if err != nil {
		panic("bug: " + err.Error())
	}
	h.SetContentType("application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Set("Cache-Status", d.name+`; detail=`+slug)
	ctx.SetStatusCode(status)
	ctx.Response.SetBodyRaw(body)
	d.metrics.requests.WithLabelValues(strconv.Itoa(status), "none").Inc()
}

func (d *door) plain(ctx *fasthttp.RequestCtx, status int, text string) {
	ctx.Response.Header.Set("Cache-Control", "no-store")
	ctx.SetStatusCode(status)
	ctx.SetBodyString(text)
}
