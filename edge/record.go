package edge

import (
	"net/netip"
	"strings"
	"time"

	"segue/edge/transport"

	"github.com/valyala/fasthttp"
)

// record hands a request that was answered to the log; play is the playback that its token names. A reply whose body is
// sent after the handler, block by block, is recorded when that has ended, with the bytes that went out. All texts are
// borrowed from the request, which lives as long as its reply.
func (d *door) record(ctx *fasthttp.RequestCtx, t target, play string, begun time.Time) {
	if d.log == nil {
		return
	}
	rh, h := &ctx.Request.Header, &ctx.Response.Header
	path, query, _ := strings.Cut(t.key, "?")
	r := Record{Time: begun, FirstByte: time.Since(begun), Client: clientAddr(ctx), Method: borrow(ctx.Method()), Key: path, Status: ctx.Response.StatusCode(),
		Range: borrow(rh.Peek("Range")), PlayID: play, UserAgent: borrow(rh.UserAgent()), Referer: borrow(rh.Referer()), Proto: borrow(rh.Protocol()),
		ConnRequests: ctx.ConnRequestNum()}
	if t.route != nil {
		r.Route = t.route.Prefix
	} else {
		r.Key = borrow(rh.RequestURI())
		hideTokens(&r.Key)
	}
	if state := ctx.TLSConnectionState(); state != nil {
		r.TLS = tlsVersions[state.Version]
	}
	r.Cache, r.Tier = verdictOf(borrow(h.Peek("Cache-Status")))
	if _, all, ok := strings.Cut(borrow(rh.RequestURI()), "?"); ok {
		query = all
	}
	r.CMCD.AddQuery(query)
	for _, name := range [...]string{"CMCD-Request", "CMCD-Object", "CMCD-Status", "CMCD-Session"} {
		if v := rh.Peek(name); len(v) > 0 {
			r.CMCD.AddText(borrow(v))
		}
	}
	if b, ok := ctx.Response.BodyStream().(*body); ok {
		b.log, b.record = d.log, r
		return
	}
	r.Duration = r.FirstByte
	if !ctx.Response.SkipBody {
		r.Bytes = int64(max(0, h.ContentLength(), len(ctx.Response.Body())))
	}
	d.log.Add(&r)
}

var tlsVersions = map[uint16]string{0x0301: "1.0", 0x0302: "1.1", 0x0303: "1.2", 0x0304: "1.3"}

// verdictOf reads the last member of a Cache-Status: hit, or why the request went forward, and the tier.
func verdictOf(status string) (cache string, tier Tier) {
	status = status[strings.LastIndexByte(status, ',')+1:]
	for param := range strings.SplitSeq(status, ";") {
		switch param = strings.TrimSpace(param); {
		case param == "hit":
			cache = param
		case strings.HasPrefix(param, "fwd="):
			cache = param[len("fwd="):]
		case strings.HasPrefix(param, "detail="):
			tier = Tier(param[len("detail="):])
		}
	}
	return cache, tier
}

// clientAddr is the address that a request came from.
func clientAddr(ctx *fasthttp.RequestCtx) netip.Addr {
	if c, ok := ctx.Conn().(interface{ Client() netip.Addr }); ok {
		return c.Client()
	}
	ap, _ := netip.ParseAddrPort(ctx.RemoteAddr().String())
	return ap.Addr().Unmap()
}

var _ interface{ Client() netip.Addr } = (*transport.Conn)(nil)
