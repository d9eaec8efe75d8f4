package edge

import (
	"context"
	"encoding/json"
	"errors"
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
	exchange *exchange
	source   Source
	memory   *Memory
	ahead    *ahead
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
	setDate(h, today())
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
	d.ahead.hint(ctx, t, raw)
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
			err = d.answer(ctx, m, conditions(ctx), forward, begun)
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

// conditions are the fields of a request that policy looks at.
func conditions(ctx *fasthttp.RequestCtx) policy.Request {
	h := &ctx.Request.Header
	return policy.Request{Method: string(ctx.Method()), Range: string(h.Peek("Range")), IfRange: string(h.Peek("If-Range")),
		IfMatch: string(h.Peek("If-Match")), IfNoneMatch: string(h.Peek("If-None-Match")),
		IfModifiedSince: string(h.Peek("If-Modified-Since")), IfUnmodifiedSince: string(h.Peek("If-Unmodified-Since"))}
}

// errPart: of the representation only other bytes are held than a request wants.
var errPart = errors.New("only a part is held")

// answer sends what policy decides on m. forward says, in the words of RFC 9211, how the origin was asked for m; empty:
// it was not. An error means that nothing was written yet.
func (d *door) answer(ctx *fasthttp.RequestCtx, m *Meta, req policy.Request, forward string, begun time.Time) error {
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
		tier = TierOrigin
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
		h.Set("Age", strconv.FormatInt(int64((m.Age+max(0, time.Since(m.Answered)))/time.Second), 10)) // RFC 9111 4.2.3, 5.1
		extend(h, "Via", via)
	}
	if a.Status == http.StatusPartialContent && a.Parts == nil {
		if a.Offset == m.First && a.Length == m.Size && m.Said != "" {
			h.Set("Content-Range", m.Said)
		} else {
			h.Set("Content-Range", contentRange(a.Offset, a.Length, m.Whole))
		}
	}
}

// contentRange is the value of RFC 9110 14.4.
func contentRange(offset, length, whole int64) string {
	b := append(make([]byte, 0, 64), "bytes "...)
	b = append(strconv.AppendInt(b, offset, 10), '-')
	b = append(strconv.AppendInt(b, offset+length-1, 10), '/')
	return string(strconv.AppendInt(b, whole, 10))
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
	status := d.name + "; "
	switch {
	case forward != "":
		status += forward
	case tier == TierOrigin: // what the key names was known, but not these bytes
		status += "fwd=partial; stored"
	default:
		status += "hit"
		d.hits.Add(1)
	}
	if m.Route.http() != nil {
		status += "; ttl=" + strconv.FormatInt(int64(time.Until(m.FreshUntil)/time.Second), 10)
	}
	if !strings.Contains(forward, "detail=") {
		status += "; detail=" + string(tier)
	}
	extend(&ctx.Response.Header, "Cache-Status", status)
	ctx.Response.Header.Set("Server-Timing", `edge;desc="`+d.name+`", tier;desc=`+string(tier))
	d.metrics.requests.WithLabelValues(strconv.Itoa(ctx.Response.StatusCode()), string(tier)).Inc()
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
