package edge

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"
)

// BenchmarkHit is a hit on a route of an HTTP origin as the door sees it, with nothing sent.
func BenchmarkHit(b *testing.B) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("Cache-Control", "max-age=3600")
		http.ServeContent(w, r, "a.mp4", time.Unix(1e9, 0), bytes.NewReader(make([]byte, 8<<20)))
	}))
	defer origin.Close()
	o, err := NewHTTPOrigin(origin.URL)
	if err != nil {
		b.Fatal(err)
	}
	e, err := New(Config{Routes: []*Route{{Prefix: "/", Origin: o}}}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		b.Fatal(err)
	}
	for name, rng := range map[string]string{"16KiB": "bytes=0-16383", "1MiB": "bytes=0-1048575"} {
		b.Run(name, func(b *testing.B) {
			var ctx fasthttp.RequestCtx
			var req fasthttp.Request
			req.SetRequestURI("/a.mp4")
			req.Header.Set("Range", rng)
			ctx.Init(&req, nil, nil)
			hit := func() {
				ctx.Response.Reset()
				e.door.handle(&ctx)
				if ctx.Response.StatusCode() != 206 {
					b.Fatal(ctx.Response.String())
				}
				_ = ctx.Response.CloseBodyStream()
			}
			hit()
			hit()
			b.ReportAllocs()
			for b.Loop() {
				hit()
			}
		})
	}
}
