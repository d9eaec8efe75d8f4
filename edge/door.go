package edge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"segue/edge/cmcd"
	"segue/edge/policy"
	"segue/media"
	"segue/media/cat"

	"github.com/valyala/fasthttp"
)

// door is the HTTP side: it takes a request apart, asks metas and policy what to answer, and sends blocks.
type door struct {
	name     string // in Cache-Status and Server-Timing
	routes   *routeTable
	metas    *metas
	exchange *exchange
	source   Source
	memory   *Memory
	shield   *Shield
	ahead    *ahead
	loop     string // what this edge is called in CDN-Loop
	gate     *gate  // nil: no tokens, everything is public
	log      *RequestLog
	metrics  *metrics
	ready    atomic.Bool
	leaving  atomic.Bool   // each reply is the last one of its connection
	wait     time.Duration // for the first byte
	requests atomic.Int64
	hits     atomic.Int64
	served   atomic.Int64 // bytes
}

const (
	exposed     = "Accept-Ranges, Age, CTA-Common-Access-Token, Cache-Status, Content-Length, Content-Range, Date, ETag, Server-Timing"
	maxURL      = 4096
	tokenFolder = "/t/"
)

func (d *door) handle(ctx *fasthttp.RequestCtx) {
	h := &ctx.Response.Header
	setDate(h, today())
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Expose-Headers", exposed)
	h.Set("Timing-Allow-Origin", "*")
	if d.leaving.Load() {
		ctx.SetConnectionClose()
	}
	rh := &ctx.Request.Header
	raw := rh.RequestURI()
	if status := guard(rh.Protocol(), raw, rh.RawHeaders()); status != 0 {
		ctx.SetConnectionClose()
		d.problem(ctx, status, "bad-head", "the head of the request is not one of HTTP/1.1, or too large")
		return
	}
	switch path := borrow(raw); {
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
	case d.looped(ctx):
		d.metrics.loops.Inc()
		d.problem(ctx, http.StatusLoopDetected, "loop", "this request was here before")
		return
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
	d.get(ctx, borrow(raw))
}

// borrow reads bytes of a request as a string, for as long as the handler runs: who keeps it copies it.
func borrow(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// looped reports whether a request has been here before: RFC 8586.
func (d *door) looped(ctx *fasthttp.RequestCtx) bool {
	if len(ctx.Request.Header.Peek("CDN-Loop")) == 0 {
		return false
	}
	for _, line := range ctx.Request.Header.PeekAll("CDN-Loop") {
		if bytes.Contains(line, []byte(d.loop)) {
			return true
		}
	}
	return false
}

// peer reports whether a request comes from a peer, who has checked its player's token and must be answered from here or
// from the origin.
func (d *door) peer(ctx *fasthttp.RequestCtx) bool {
	token := ctx.Request.Header.Peek("Segue-Peer")
	return len(token) > 0 && d.shield.knows(string(token), time.Now())
}

// behind reports whether a request comes from a peer that has applied purges which are still to come here.
func (d *door) behind(ctx *fasthttp.RequestCtx) bool {
	field := ctx.Request.Header.Peek(purgedTo)
	if len(field) == 0 {
		return false
	}
	n, err := strconv.ParseInt(borrow(field), 10, 64)
	return err == nil && n > d.metas.purges.fleet.Load()
}

// elsewhere reports whether a request comes from a peer that has another origin behind this route, or one where there is none here.
func elsewhere(ctx *fasthttp.RequestCtx, r *Route) bool {
	field := ctx.Request.Header.Peek(routedTo)
	return len(field) > 0 && (r == nil || r.http() == nil || r.http().name != string(field))
}

// target is what a URL names; key and token may be borrowed.
type target struct {
	route *Route
	key   string
	token string
}

// locate parses a request target: /t/<token>/<key> or /<key>, for a route without queries the query cut off.
func (d *door) locate(raw string) (t target, err error) {
	for _, scheme := range []string{"http://", "https://"} { // RFC 9112 3.2.2: the absolute form names this host
		if rest, ok := strings.CutPrefix(raw, scheme); ok {
			_, raw, _ = strings.Cut(rest, "/")
			raw = "/" + raw
		}
	}
	path, query, hasQuery := strings.Cut(raw, "?")
	if path, err = normalPath(path); err != nil {
		return t, err
	}
	if d.gate != nil {
		if rest, tokened := strings.CutPrefix(path, tokenFolder); tokened {
			end := strings.IndexByte(rest, '/')
			if end <= 0 {
				return t, media.ErrNotFound
			}
			t.token, path = rest[:end], rest[end:]
		}
	}
	if t.route = d.routes.find(path); t.route == nil {
		return t, media.ErrNotFound
	}
	t.key = path[len(t.route.Prefix):]
	if t.route.http() != nil { // the origin's own names: with their query, less what the player says of itself
		if hasQuery {
			if query = cmcd.Strip(query); query != "" {
				t.key += "?" + query
			}
		}
		return t, nil
	}
	key, err := objectKey(t.key)
	if err != nil {
		return target{}, media.ErrNotFound
	}
	t.key = string(key)
	return t, nil
}

func (d *door) get(ctx *fasthttp.RequestCtx, raw string) {
	begun := time.Now()
	d.requests.Add(1)
	t, err := d.locate(raw)
	play := ""
	if err == nil && d.behind(ctx) || elsewhere(ctx, t.route) {
		err = media.ErrBusy
	}
	if err == nil && d.gate != nil && !t.route.Public && media.Key(t.key).Protected() && !d.peer(ctx) {
		play, err = d.admit(ctx, t, begun)
	}
	switch {
	case err != nil:
		d.fail(ctx, err)
	case ctx.Response.StatusCode() != http.StatusOK: // a token was renewed by a redirect
	default:
		d.ahead.hint(ctx, t, raw)
		d.serve(ctx, t, begun)
	}
	d.record(ctx, t, play, begun)
}

// admit checks the token of a request, and hands out the one that renews it. It returns the playback that it names.
func (d *door) admit(ctx *fasthttp.RequestCtx, t target, now time.Time) (play string, err error) {
	scheme := "http"
	if ctx.IsTLS() {
		scheme = "https"
	}
	g, err := d.gate.allow(t.token, &cat.Request{Method: borrow(ctx.Method()), Scheme: scheme, Host: borrow(ctx.Host()), Key: media.Key(t.key), Client: clientAddr(ctx)}, now)
	if r := g.Renewed; err == nil && r.Token != "" {
		h := &ctx.Response.Header
		if r.Code != 0 {
			ctx.SetStatusCode(r.Code)
			h.Set("Location", tokenFolder+r.Token+strings.TrimPrefix(borrow(ctx.Request.Header.RequestURI()), tokenFolder+t.token))
			h.Set("Cache-Control", "no-store")
		} else {
			h.Set(r.Header, r.Value)
		}
	}
	return g.PlayID, err
}

// serve answers a GET or HEAD that may be answered.
func (d *door) serve(ctx *fasthttp.RequestCtx, t target, begun time.Time) {
	if t.route.http() != nil {
		d.forward(ctx, t, begun)
		return
	}
	// A change of the object seen before the first byte is healed by asking again; a second one is the origin's fault.
	for try := 0; ; try++ {
		m, known, err := d.metas.stat(ctx, t.route, t.key)
		if err == nil && m.Status == http.StatusNotFound {
			err = media.ErrNotFound
		}
		if err == nil {
			forward := ""
			if !known {
				forward = "fwd=miss; stored"
			}
			err = d.answer(ctx, m, conditions(ctx), forward, TierOrigin, begun)
		}
		if errors.Is(err, media.ErrChanged) && try == 0 {
			d.metas.forget(t.route, t.key)
			continue
		}
		if err != nil {
			d.fail(ctx, err)
		}
		return
	}
}

// conditions are the fields of a request that policy looks at, borrowed.
func conditions(ctx *fasthttp.RequestCtx) policy.Request {
	h := &ctx.Request.Header
	return policy.Request{Method: borrow(ctx.Method()), Range: borrow(h.Peek("Range")), IfRange: borrow(h.Peek("If-Range")),
		IfMatch: borrow(h.Peek("If-Match")), IfNoneMatch: borrow(h.Peek("If-None-Match")),
		IfModifiedSince: borrow(h.Peek("If-Modified-Since")), IfUnmodifiedSince: borrow(h.Peek("If-Unmodified-Since"))}
}

// errPart: of the representation only other bytes are held than a request wants.
var errPart = errors.New("only a part is held")

// answer sends what policy decides on m. forward says, in the words of RFC 9211, how the origin was asked for m; empty:
// it was not; else asked is who answered for it. An error means that nothing was written yet.
func (d *door) answer(ctx *fasthttp.RequestCtx, m *Meta, req policy.Request, forward string, asked Tier, begun time.Time) error {
	a := policy.Answer{Status: m.Status, Length: m.Whole}
	if m.Status == http.StatusOK {
		a = policy.Plan(req, m.object())
	}
	if m.Asked != "" && m.Asked == req.Range && req.IfRange == "" && a.Status != http.StatusNotModified { // the same question has the same answer
		a = policy.Answer{Status: http.StatusPartialContent, Offset: m.First, Length: m.Size}
	}
	content := a.Status == m.Status || a.Status == http.StatusPartialContent
	if m.part() && content && (a.Parts != nil || a.Offset < m.First || a.Offset+a.Length > m.First+m.Size) {
		return errPart
	}
	if d.peer(ctx) {
		own := *m
		own.alone = true
		m = &own
	}
	tier := TierMemory // what needs no bytes is answered from the Meta alone
	h := &ctx.Response.Header
	switch {
	case !content || a.Parts == nil && a.Length == 0:
	case ctx.IsHead():
		ctx.Response.SkipBody = true
		h.SetContentLength(int(a.Length))
	case a.Parts != nil:
		body, err := d.multipart(ctx, m, a)
		if err != nil {
			return err
		}
		tier = body.tier
		ctx.Response.SetBodyStream(body, int(body.length))
		d.count(body.length, begun)
	default:
		at := a
		at.Offset -= m.First
		body, from, err := d.open(m, at)
		if err != nil {
			return err
		}
		tier = from
		d.ahead.served(ctx, m, at.Offset, a.Length)
		body.send(ctx)
		d.count(a.Length, begun)
	}
	if len(forward) > 0 && tier == TierMemory {
		tier = asked
	}
	ctx.SetStatusCode(a.Status)
	d.fields(h, m, a)
	d.say(ctx, m, tier, forward)
	return nil
}

func (d *door) count(bytes int64, begun time.Time) {
	d.metrics.firstByte.Observe(time.Since(begun).Seconds())
	d.metrics.servedBytes.Add(float64(bytes))
	d.served.Add(bytes)
}

// fields writes the header of an answer on m.
func (d *door) fields(h *fasthttp.ResponseHeader, m *Meta, a policy.Answer) {
	h.SetNoDefaultContentType(true)
	if a.Status == http.StatusRequestedRangeNotSatisfiable || a.Status == http.StatusPreconditionFailed {
		h.Set("ETag", m.ETag)
		if a.Status == http.StatusRequestedRangeNotSatisfiable { // RFC 9110 15.5.17
			h.Set("Content-Range", "bytes */"+strconv.FormatInt(m.Whole, 10))
		}
		return
	}
	before := ""
	for name, value := range m.Fields.All() {
		switch {
		case a.Status == http.StatusNotModified && (name == "Content-Type" || name == "Content-Encoding"): // RFC 9110 15.4.5
		case a.Parts != nil && name == "Content-Type": // each part has it
		case name == "Date":
			setDate(h, value)
		case name == before:
			h.Add(name, value)
		default:
			h.Set(name, value)
		}
		before = name
	}
	if m.Status == http.StatusOK {
		h.Set("Accept-Ranges", "bytes")
	}
	if m.Route.http() != nil {
		var b [24]byte
		h.SetBytesV("Age", strconv.AppendInt(b[:0], int64((m.Age+max(0, time.Since(m.Answered)))/time.Second), 10)) // RFC 9111 4.2.3, 5.1
		extend(h, "Via", via)
	}
	if a.Status == http.StatusPartialContent && a.Parts == nil {
		if a.Offset == m.First && a.Length == m.Size && m.Said != "" {
			h.Set("Content-Range", m.Said)
		} else {
			var b [80]byte
			h.SetBytesV("Content-Range", appendContentRange(b[:0], a.Offset, a.Length, m.Whole))
		}
	}
}

// appendContentRange appends the value of RFC 9110 14.4.
func appendContentRange(b []byte, offset, length, whole int64) []byte {
	b = append(b, "bytes "...)
	b = append(strconv.AppendInt(b, offset, 10), '-')
	b = append(strconv.AppendInt(b, offset+length-1, 10), '/')
	return strconv.AppendInt(b, whole, 10)
}

// extend adds a member to a field that is a list.
func extend(h *fasthttp.ResponseHeader, name, member string) {
	if before := h.Peek(name); len(before) > 0 {
		member = string(before) + ", " + member
	}
	h.Set(name, member)
}

// say writes Cache-Status (RFC 9211) and Server-Timing, and counts.
func (d *door) say(ctx *fasthttp.RequestCtx, m *Meta, tier Tier, forward string) {
	h := &ctx.Response.Header
	var room [192]byte
	b := room[:0]
	if before := h.Peek("Cache-Status"); len(before) > 0 { // a cache nearer to the origin said something: RFC 9211 2
		b = append(append(b, before...), ", "...)
	}
	b = append(append(b, d.name...), "; "...)
	switch {
	case forward != "":
		b = append(b, forward...)
	case tier == TierOrigin || tier == TierShield: // what the key names was known, but not these bytes
		b = append(b, "fwd=partial; stored"...)
	default:
		b = append(b, "hit"...)
		d.hits.Add(1)
	}
	if m.Route.http() != nil {
		b = strconv.AppendInt(append(b, "; ttl="...), int64(time.Until(m.FreshUntil)/time.Second), 10)
	}
	if !strings.Contains(forward, "detail=") {
		b = append(append(b, "; detail="...), tier...)
	}
	h.SetBytesV("Cache-Status", b)
	b = append(append(room[:0], `edge;desc="`...), d.name...)
	h.SetBytesV("Server-Timing", append(append(b, `", tier;desc=`...), tier...))
	d.metrics.answered(ctx.Response.StatusCode(), tier)
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
