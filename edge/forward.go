package edge

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"segue/edge/policy"
	"segue/media"

	"github.com/valyala/fasthttp"
)

// forward answers a GET or HEAD on a route of an HTTP origin: RFC 9111 4.
func (d *door) forward(ctx *fasthttp.RequestCtx, t target, begun time.Time) {
	req := conditions(ctx)
	field := func(name string) []string {
		var lines []string
		for _, v := range ctx.Request.Header.PeekAll(name) {
			lines = append(lines, string(v))
		}
		return lines
	}
	m := d.metas.find(t.route, t.key, field)
	// Bytes that cannot be had any more, or that changed at the origin, are asked for once more.
	for try := 0; ; try++ {
		now := time.Now()
		use := policy.Validate
		if m != nil && m.Status != 0 {
			use = m.Use(now)
		}
		if use != policy.Validate {
			forward := ""
			if use == policy.Stale {
				d.exchange.refresh(d.newAsk(ctx, t, req, begun), m)
				d.metrics.staleWhile.Inc()
			}
			err := d.answer(ctx, m, req, forward, TierOrigin, begun)
			if err == nil {
				return
			}
			if !errors.Is(err, media.ErrChanged) && !errors.Is(err, errPart) {
				d.fail(ctx, err)
				return
			}
			m = nil
		}
		if policy.OnlyIfCached(string(ctx.Request.Header.Peek("Cache-Control"))) {
			d.problem(ctx, http.StatusGatewayTimeout, "not-cached", "only-if-cached was asked, and nothing fresh is stored")
			return
		}
		if ctx.IsHead() {
			d.pass(ctx, t, "fwd=miss")
			return
		}
		o, err := d.exchange.fetch(d.newAsk(ctx, t, req, begun), m)
		switch {
		case err != nil:
			d.fail(ctx, err)
			return
		case o.response != nil:
			d.relay(ctx, o.response, o.forward)
			return
		}
		err = d.answer(ctx, o.meta, req, o.forward, o.from, begun)
		if err == nil {
			return
		}
		if try > 0 || !errors.Is(err, media.ErrChanged) && !errors.Is(err, errPart) {
			d.fail(ctx, err)
			return
		}
		d.metas.forget(t.route, t.key)
		m = nil
	}
}

func (d *door) newAsk(ctx *fasthttp.RequestCtx, t target, req policy.Request, begun time.Time) *ask {
	return &ask{method: http.MethodGet, route: t.route, key: strings.Clone(t.key), header: requestHeader(ctx),
		plan: policy.Request{Method: http.MethodGet, Range: strings.Clone(req.Range)}, begun: begun, peer: d.peer(ctx)}
}

// requestHeader copies the end-to-end fields of a request.
func requestHeader(ctx *fasthttp.RequestCtx) http.Header {
	h := http.Header{}
	for k, v := range ctx.Request.Header.All() {
		if name := http.CanonicalHeaderKey(string(k)); !endsHere(name) {
			h.Add(name, string(v))
		}
	}
	policy.EndToEnd(h)
	return h
}

// pass sends a request on and its answer back, with nothing kept.
func (d *door) pass(ctx *fasthttp.RequestCtx, t target, reason string) {
	p, err := d.send(ctx, t)
	if err != nil {
		d.fail(ctx, err)
		return
	}
	d.relay(ctx, p, reason+"; fwd-status="+strconv.Itoa(p.StatusCode))
}

// send sends a request on as it is.
func (d *door) send(ctx *fasthttp.RequestCtx, t target) (*passing, error) {
	pctx, end := context.WithCancelCause(context.Background()) // ends with the reply, not with the handler
	cancel := func() { end(context.Canceled) }
	timer := time.AfterFunc(d.wait, func() { end(context.DeadlineExceeded) })
	resp, err := t.route.forward(pctx, string(ctx.Method()), strings.Clone(t.key), requestHeader(ctx), bytes.NewReader(ctx.Request.Body()), false)
	timer.Stop()
	if err != nil {
		cancel()
		return nil, err
	}
	return &passing{resp, cancel}, nil
}

// relay answers with a response that is not kept.
func (d *door) relay(ctx *fasthttp.RequestCtx, p *passing, forward string) {
	h := &ctx.Response.Header
	h.SetNoDefaultContentType(true)
	ctx.SetStatusCode(p.StatusCode)
	for name, values := range p.Header {
		for i, v := range values {
			switch {
			case name == "Date":
				setDate(h, v)
			case name == "Content-Length":
			case i == 0:
				h.Set(name, v)
			default:
				h.Add(name, v)
			}
		}
	}
	extend(h, "Via", via)
	extend(h, "Cache-Status", d.name+"; "+forward)
	d.metrics.requests.WithLabelValues(strconv.Itoa(p.StatusCode), "bypass").Inc()
	if ctx.IsHead() {
		ctx.Response.SkipBody = true
		if p.ContentLength >= 0 {
			h.SetContentLength(int(p.ContentLength))
		}
		p.Close()
		return
	}
	ctx.Response.SetBodyStream(p, int(p.ContentLength))
}

// otherMethod passes methods with effects on to HTTP origins, and forgets what they may have changed: RFC 9111 4.4.
func (d *door) otherMethod(ctx *fasthttp.RequestCtx, raw string) {
	t, err := d.locate(raw)
	if err != nil || t.route.http() == nil {
		ctx.Response.Header.Set("Allow", "GET, HEAD, OPTIONS")
		d.problem(ctx, http.StatusMethodNotAllowed, "method-not-allowed", "this object can be read only")
		return
	}
	begun, epoch := time.Now(), d.metas.purges.tick()
	p, err := d.send(ctx, t)
	if err != nil {
		d.fail(ctx, err)
		return
	}
	forward := "fwd=method; fwd-status=" + strconv.Itoa(p.StatusCode)
	method := string(ctx.Method())
	if !policy.Safe(method) {
		for _, at := range policy.Invalidates(p.StatusCode, p.Header, string(ctx.Host()), raw) {
			if t, err := d.locate(at); err == nil {
				d.exchange.invalidate(t.route, strings.Clone(t.key))
			}
		}
	}
	// RFC 9110 9.3.3: the answer to a POST that says that it is what a GET would get.
	if at, ok := policy.SameHost(p.Header.Get("Content-Location"), string(ctx.Host()), raw); method == http.MethodPost && ok && at == raw {
		a := &ask{method: method, route: t.route, key: strings.Clone(t.key), header: requestHeader(ctx), begun: begun, epoch: epoch}
		m, err := d.exchange.keep(a, p, policy.Response{Status: p.StatusCode, Header: p.Header, Asked: begun, Answered: time.Now()}, "", TierOrigin)
		if err == nil && m != nil {
			err = d.answer(ctx, m, policy.Request{Method: http.MethodGet}, forward+"; stored", TierOrigin, begun)
		}
		if err != nil {
			d.fail(ctx, err)
		}
		if err != nil || m != nil {
			return
		}
	}
	d.relay(ctx, p, forward)
}

// dates is the current Date line's value, renewed once a second.
var dates atomic.Pointer[dated]

type dated struct {
	second int64
	text   string
}

// today is the value of Date for a response made now: RFC 9110 6.6.1.
func today() string {
	now := time.Now()
	d := dates.Load()
	if d == nil || d.second != now.Unix() {
		d = &dated{now.Unix(), now.UTC().Format(http.TimeFormat)}
		dates.Store(d)
	}
	return d.text
}

// setDate sets Date, which fasthttp keeps to itself: a cache sends the origin's on (RFC 9110 6.6.1). The field is
// added under a name of the same length, and renamed where it lies.
func setDate(h *fasthttp.ResponseHeader, value string) {
	const stand = "Dat0"
	if old := h.Peek("Date"); len(old) == len(value) {
		copy(old, value)
		return
	}
	h.Set(stand, value)
	for k := range h.All() {
		if string(k) == stand {
			copy(k, "Date")
			return
		}
	}
}
