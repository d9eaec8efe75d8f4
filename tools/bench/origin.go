package main

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// origin serves /…/<size>/<name>: size bytes of a pattern, strong validators, fresh for an hour. /stats says how many
// GETs and bytes it answered with.
type origin struct {
	delay time.Duration
	rate  int64 // bytes per second of one reply; 0: no limit
	gets  atomic.Int64
	bytes atomic.Int64
}

var began = time.Now().Truncate(time.Second).Add(-24 * time.Hour)

func (o *origin) serve(listen string) error {
	return http.ListenAndServe(listen, o)
}

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/stats" {
		fmt.Fprintf(w, "%d %d\n", o.gets.Load(), o.bytes.Load())
		return
	}
	parts := strings.Split(r.URL.Path, "/")
	size, err := strconv.ParseInt(parts[max(0, len(parts)-2)], 10, 64)
	if err != nil || size < 0 {
		http.NotFound(w, r)
		return
	}
	if r.Method == http.MethodGet {
		o.gets.Add(1)
	}
	time.Sleep(o.delay)
	w.Header().Set("ETag", `"`+strings.ReplaceAll(r.URL.Path, `"`, "")+`"`)
	w.Header().Set("Cache-Control", "max-age=3600")
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(paced{w, o, time.Now(), new(int64)}, r, "", began, io.NewSectionReader(pattern{}, 0, size))
}

// paced counts, and keeps to the rate.
type paced struct {
	http.ResponseWriter
	o     *origin
	began time.Time
	sent  *int64
}

func (p paced) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		part := b[:min(len(b), 16<<10)]
		k, err := p.ResponseWriter.Write(part)
		n += k
		*p.sent += int64(k)
		p.o.bytes.Add(int64(k))
		if err != nil {
			return n, err
		}
		b = b[len(part):]
		if p.o.rate > 0 {
			if f, ok := p.ResponseWriter.(http.Flusher); ok {
				f.Flush()
			}
			time.Sleep(time.Until(p.began.Add(time.Duration(float64(*p.sent) / float64(p.o.rate) * 1e9))))
		}
	}
	return n, nil
}

// pattern is endless bytes that differ from place to place.
type pattern struct{}

var tile = func() []byte {
	b := make([]byte, 1<<20)
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}()

func (pattern) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		n += copy(p[n:], tile[(off+int64(n))%int64(len(tile)):])
	}
	return n, nil
}
