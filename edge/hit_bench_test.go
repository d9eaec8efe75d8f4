package edge

import (
	"bytes"
	"log/slog"
	"testing"
	"time"

	"segue/media"
	"segue/origin/memstore"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"
)

// BenchmarkHit is a range of one block out of memory, from the parsed request to the reply that is ready to be sent.
func BenchmarkHit(b *testing.B) {
	var store memstore.Store
	body := bytes.Repeat([]byte("x"), 4*BlockSize)
	if _, err := store.Put(b.Context(), media.Object{Key: "media/T/v/a.mp4", Size: int64(len(body)), ContentType: "audio/mp4"}, bytes.NewReader(body)); err != nil {
		b.Fatal(err)
	}
	e, err := New(Config{Routes: []*Route{{Prefix: "/", Origin: StoreOrigin{Store: &store, Fresh: time.Hour}}}}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		b.Fatal(err)
	}
	var req fasthttp.Request
	req.SetRequestURI("/media/T/v/a.mp4")
	req.Header.Set("Range", "bytes=600000-665535")
	var ctx fasthttp.RequestCtx
	b.ReportAllocs()
	for b.Loop() {
		ctx.Init(&req, nil, nil)
		ctx.Response.Reset()
		e.door.handle(&ctx)
		if ctx.Response.StatusCode() != 206 {
			b.Fatal(ctx.Response.StatusCode())
		}
		ctx.Response.ResetBody()
	}
}
