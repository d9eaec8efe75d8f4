package edge_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"segue/edge"
	"segue/media"
	"segue/origin/memstore"

	"github.com/prometheus/client_golang/prometheus"
)

// scripted is an origin on a raw listener: say writes what it likes to the n-th request, from 1; the connection ends
// when it returns false.
type scripted struct {
	url  string
	mu   sync.Mutex
	seen []string // Range of each request
}

func newScripted(t *testing.T, say func(n int, r *http.Request, w net.Conn) bool) *scripted {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &scripted{url: "http://" + ln.Addr().String()}
	var conns sync.WaitGroup
	var all sync.Map // open connections
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer conn.Close()
				all.Store(conn, nil)
				defer all.Delete(conn)
				in := bufio.NewReader(conn)
				for {
					r, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					s.mu.Lock()
					s.seen = append(s.seen, r.Header.Get("Range"))
					n := len(s.seen)
					s.mu.Unlock()
					if !say(n, r, conn) {
						return
					}
				}
			})
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		all.Range(func(c, _ any) bool { return c.(net.Conn).Close() == nil })
		conns.Wait()
	})
	return s
}

func (s *scripted) ranges() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.seen...)
}

// honest answers with body under an ETag, or the range of it that was asked for.
func honest(r *http.Request, w io.Writer, body []byte, etag string) bool {
	first, last := 0, len(body)-1
	status := "200 OK"
	extra := ""
	if n, _ := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &first, &last); n > 0 {
		last = min(last, len(body)-1)
		status = "206 Partial Content"
		extra = fmt.Sprintf("Content-Range: bytes %d-%d/%d\r\n", first, last, len(body))
	}
	_, err := fmt.Fprintf(w, "HTTP/1.1 %s\r\nETag: %s\r\nCache-Control: max-age=60\r\nAccept-Ranges: bytes\r\n%sContent-Length: %d\r\n\r\n%s", status, etag, extra, last-first+1, body[first:last+1])
	return err == nil
}

// front starts an edge before an HTTP origin; its log goes to the buffer.
func front(t *testing.T, url string, cfg edge.Config) (string, *lines) {
	t.Helper()
	o, err := edge.NewHTTPOrigin(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Name, cfg.Routes = "test", []*edge.Route{{Prefix: "/", Origin: o}}
	out := &lines{}
	base, _ := serve(t, cfg, slog.New(slog.NewTextHandler(out, nil)))
	return base, out
}

// lines is a log that can be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), what)
}

// serve runs an edge on loopback until the test ends or stop is called.
func serve(t *testing.T, cfg edge.Config, log *slog.Logger) (base string, stop func()) {
	t.Helper()
	_, base, stop = serveEdge(t, cfg, log, prometheus.NewRegistry())
	return base, stop
}

func serveEdge(t *testing.T, cfg edge.Config, log *slog.Logger, reg *prometheus.Registry) (e *edge.Edge, base string, stop func()) {
	t.Helper()
	e, err := edge.New(cfg, log, reg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done, up := make(chan error, 1), make(chan struct{})
	go func() { done <- e.Serve(ctx, ln, func() { close(up) }) }()
	<-up
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return e, "http://" + ln.Addr().String(), stop
}

// try is a GET whose body may break.
func try(t *testing.T, url, rng string) (*http.Response, []byte, error) {
	t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if rng != "" {
		req.Header.Set("Range", rng)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, b, err
}

func TestCutBodyIsResumed(t *testing.T) {
	want := pattern(5*edge.BlockSize + 99)
	s := newScripted(t, func(n int, r *http.Request, w net.Conn) bool {
		if n <= 2 { // twice: in the second block of what is sent
			var b bytes.Buffer
			honest(r, &b, want, `"v1"`)
			w.Write(b.Bytes()[:edge.BlockSize*3/2])
			return false
		}
		return honest(r, w, want, `"v1"`)
	})
	base, log := front(t, s.url, edge.Config{})
	var clients sync.WaitGroup
	for range 5 {
		clients.Go(func() {
			if resp, got, err := try(t, base+"/a", ""); resp.StatusCode != 200 || err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, %d bytes, %v", resp.Status, len(got), err)
			}
		})
	}
	clients.Wait()
	rest := func(from int) string { return fmt.Sprintf("bytes=%d-%d", from*edge.BlockSize, len(want)-1) }
	if got := s.ranges(); len(got) != 3 || got[0] != "" || got[1] != rest(1) || got[2] != rest(2) {
		t.Errorf("origin was asked for %q", got)
	}
	if log.count("upstream failed") != 0 {
		t.Error("a fault that healed was logged")
	}
}

// Without a validator there is nothing to resume: the player's connection ends, and the next request is right.
func TestCutBodyWithNoValidator(t *testing.T) {
	want := pattern(900)
	s := newScripted(t, func(n int, r *http.Request, w net.Conn) bool {
		body := want
		if n == 1 {
			body = want[:500]
		}
		fmt.Fprintf(w, "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 900\r\n\r\n%s", body)
		return n != 1
	})
	base, log := front(t, s.url, edge.Config{})
	if resp, got, err := try(t, base+"/a", ""); resp.StatusCode == 200 && err == nil {
		t.Errorf("%s and %d bytes of half a body", resp.Status, len(got))
	}
	if resp, got, err := try(t, base+"/a", ""); resp.StatusCode != 200 || err != nil || !bytes.Equal(got, want) {
		t.Errorf("no recovery: %s, %d bytes, %v", resp.Status, len(got), err)
	}
	if n := log.count("upstream failed"); n != 1 || log.count("key=a") != 1 {
		t.Errorf("%d lines in the log", n)
	}
}

// More than was promised: what is too much belongs to no response.
func TestTooLongBody(t *testing.T) {
	s := newScripted(t, func(n int, r *http.Request, w net.Conn) bool {
		fmt.Fprintf(w, "HTTP/1.1 200 OK\r\nETag: \"%d\"\r\nCache-Control: max-age=60\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", n)
		return true
	})
	base, _ := front(t, s.url, edge.Config{})
	for _, path := range []string{"/a", "/b", "/c"} {
		if resp, got, err := try(t, base+path, ""); resp.StatusCode != 200 || err != nil || string(got) != "hello" {
			t.Errorf("%s %q %v", resp.Status, got, err)
		}
	}
}

// An origin that says one range and means another, in all ways that can be seen.
func TestLyingRanges(t *testing.T) {
	want := pattern(4 * edge.BlockSize)
	var lie atomic.Value
	lie.Store("")
	s := newScripted(t, func(n int, r *http.Request, w net.Conn) bool {
		if text := lie.Load().(string); text != "" {
			fmt.Fprintf(w, "HTTP/1.1 %s\r\n\r\n%s", text, want[:1000])
			return false
		}
		return honest(r, w, want, `"v1"`)
	})
	const head = "206 Partial Content\r\nETag: \"v1\"\r\nCache-Control: max-age=60\r\n"
	for _, text := range []string{
		head + "Content-Range: bytes 5-262148/1048576\r\nContent-Length: 262144",
		head + "Content-Range: bytes 786432-1048575/1048576\r\nContent-Length: 1000",
		head + "Content-Range: bytes 786432-787431/1048576\r\nContent-Length: 1000",
		head + "Content-Range: bytes 9-1/3\r\nContent-Length: 1000",
		head + "Content-Range: nonsense\r\nContent-Length: 1000",
		head + "Content-Length: 1000",
		"500 Oh\r\nContent-Length: 1000",
		"banana",
	} {
		lie.Store("")
		base, log := front(t, s.url, edge.Config{})
		if resp, got, _ := try(t, base+"/a", "bytes=0-9"); resp.StatusCode != 206 || !bytes.Equal(got, want[:10]) {
			t.Fatal(resp.Status)
		}
		lie.Store(text)
		for range 2 {
			resp, got, err := try(t, base+"/a", "bytes=786432-786441")
			if err != nil || resp.StatusCode != 502 || resp.Header.Get("Cache-Status") == "" {
				t.Errorf("%q: %s, %q, %v", text, resp.Status, got, err)
			}
		}
		lie.Store("")
		if resp, got, err := try(t, base+"/a", "bytes=786432-786441"); resp.StatusCode != 206 || err != nil || !bytes.Equal(got, want[786432:786442]) {
			t.Errorf("%q: no recovery: %s %v", text, resp.Status, err)
		}
		if n := log.count("upstream failed"); n != 1 {
			t.Errorf("%q: %d lines in the log, want one", text, n)
		}
	}
}

func TestGarbageAndSilence(t *testing.T) {
	var mode atomic.Value
	mode.Store("garbage")
	hold := make(chan struct{})
	s := newScripted(t, func(n int, r *http.Request, w net.Conn) bool {
		switch mode.Load() {
		case "garbage":
			io.WriteString(w, "\x00\x01 what is HTTP\r\n\r\n")
			return false
		case "silence":
			<-hold
			return false
		case "reset":
			return false
		}
		return honest(r, w, []byte("fine"), `"v"`)
	})
	defer close(hold)
	base, log := front(t, s.url, edge.Config{FirstByte: 100 * time.Millisecond})
	for i, c := range []struct {
		mode   string
		status int
		detail string
	}{{"garbage", 502, "origin-failed"}, {"reset", 502, "origin-failed"}, {"silence", 504, "origin-timeout"}} {
		mode.Store(c.mode)
		resp, _, err := try(t, fmt.Sprintf("%s/%d", base, i), "")
		if resp.StatusCode != c.status || err != nil || resp.Header.Get("Cache-Status") != "test; detail="+c.detail {
			t.Errorf("%s: %s, %q, %v", c.mode, resp.Status, resp.Header.Get("Cache-Status"), err)
		}
	}
	mode.Store("")
	for i := range 3 {
		if resp, got, _ := try(t, fmt.Sprintf("%s/%d", base, i), ""); resp.StatusCode != 200 || string(got) != "fine" {
			t.Errorf("no recovery: %s", resp.Status)
		}
	}
	if n := log.count("upstream failed"); n != 1 {
		t.Errorf("%d lines in the log, want one", n)
	}
}

// A change seen before the first byte is the new version's 200; after it, the reply ends, and no byte is of the other.
func TestChangeInMidFill(t *testing.T) {
	old, fresh := bytes.Repeat([]byte("old."), edge.BlockSize), bytes.Repeat([]byte("new!"), edge.BlockSize)
	for _, c := range []struct {
		name string
		cut  int
	}{{"before the first byte", 1000}, {"after it", edge.BlockSize * 3 / 2}} {
		t.Run(c.name, func(t *testing.T) {
			s := newScripted(t, func(n int, r *http.Request, w net.Conn) bool {
				if n == 1 {
					var b bytes.Buffer
					honest(r, &b, old, `"v1"`)
					w.Write(b.Bytes()[:c.cut])
					return false
				}
				return honest(r, w, fresh, `"v2"`)
			})
			base, _ := front(t, s.url, edge.Config{})
			resp, got, err := try(t, base+"/a", "")
			if c.cut < edge.BlockSize {
				if resp.StatusCode != 200 || err != nil || !bytes.Equal(got, fresh) {
					t.Errorf("%s, %d bytes, %v: want the new version", resp.Status, len(got), err)
				}
			} else if err == nil || !bytes.HasPrefix(old, got) {
				t.Errorf("%d bytes, %v: want a part of the old version", len(got), err)
			}
			if resp, got, err = try(t, base+"/a", "bytes=500000-"); resp.Header.Get("ETag") != `"v2"` || err != nil || !bytes.Equal(got, fresh[500000:]) {
				t.Errorf("afterwards: %s %s %v", resp.Status, resp.Header.Get("ETag"), err)
			}
		})
	}
}

// faulty is a store that fails when told to, and can be held up.
type faulty struct {
	memstore.Store
	down atomic.Bool
	gate chan struct{} // nil: open
	gets atomic.Int32
	open atomic.Int32 // bodies
}

func (f *faulty) Get(ctx context.Context, key media.Key, rng media.ByteRange, ifMatch string) (io.ReadCloser, media.Object, error) {
	f.gets.Add(1)
	if f.down.Load() {
		return nil, media.Object{}, errors.New("connection refused")
	}
	if f.gate != nil {
		select {
		case <-f.gate:
		case <-ctx.Done():
			return nil, media.Object{}, ctx.Err()
		}
	}
	body, o, err := f.Store.Get(ctx, key, rng, ifMatch)
	if err != nil {
		return nil, o, err
	}
	f.open.Add(1)
	return closing{body, func() { f.open.Add(-1) }}, o, nil
}

type closing struct {
	io.ReadCloser
	closed func()
}

func (c closing) Close() error { c.closed(); return c.ReadCloser.Close() }

func TestDownOriginIsLeftAlone(t *testing.T) {
	f := &faulty{}
	for i := range 100 {
		put(t, f, media.Key(fmt.Sprint("o/", i)), pattern(10), "")
	}
	_, base := start(t, edge.Config{Routes: []*edge.Route{{Prefix: "/", Origin: edge.StoreOrigin{Store: f, Fresh: time.Hour}}}})
	get(t, base+"/o/99", "")
	f.gets.Store(0)
	f.down.Store(true)
	busy := 0
	for i := range 60 {
		resp, _ := get(t, fmt.Sprintf("%s/o/%d", base, i), "")
		switch {
		case resp.StatusCode == 503 && resp.Header.Get("Retry-After") != "" && resp.Header.Get("Cache-Status") != "":
			busy++
		case resp.StatusCode != 502 || busy > 0:
			t.Errorf("request %d: %s", i, resp.Status)
		}
	}
	if n := f.gets.Load(); busy < 40 || n > 30 {
		t.Errorf("%d requests reached a dead origin, %d of 60 were refused at once", n, busy)
	}
	if resp, _ := get(t, base+"/o/99", ""); resp.StatusCode != 200 {
		t.Errorf("a hit is %s while the origin is down", resp.Status)
	}
}

func TestSlowOriginStallsNobodyElse(t *testing.T) {
	slow, quick := &faulty{gate: make(chan struct{})}, &faulty{}
	for i := range 300 {
		put(t, slow, media.Key(fmt.Sprint(i)), pattern(10), "")
	}
	put(t, quick, "a", pattern(10), "")
	_, base := start(t, edge.Config{Routes: []*edge.Route{{Prefix: "/slow/", Origin: edge.StoreOrigin{Store: slow}}, {Prefix: "/quick/", Origin: edge.StoreOrigin{Store: quick}}}})
	var clients sync.WaitGroup
	for i := range 300 {
		clients.Go(func() {
			if resp, _, err := try(t, fmt.Sprintf("%s/slow/%d", base, i), ""); resp.StatusCode != 200 || err != nil {
				t.Errorf("%s %v", resp.Status, err)
			}
		})
	}
	for slow.gets.Load() < 128 {
		time.Sleep(time.Millisecond)
	}
	if resp, _ := get(t, base+"/quick/a", ""); resp.StatusCode != 200 {
		t.Error(resp.Status)
	}
	if n := slow.gets.Load(); n != 128 {
		t.Errorf("%d requests to the slow origin at once, want 128", n)
	}
	close(slow.gate)
	clients.Wait()
}

// A long range has several fills under way, and a reader who stops leaves no body open and no more in memory than that.
func TestLongRangeReadsAhead(t *testing.T) {
	const size = 60 << 20
	store := &faulty{}
	want := pattern(size)
	put(t, store, "long", want, "")
	_, base := start(t, edge.Config{Routes: []*edge.Route{{Prefix: "/", Origin: edge.StoreOrigin{Store: store, Fresh: time.Hour}}}})
	conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.(*net.TCPConn).SetReadBuffer(64 << 10)
	io.WriteString(conn, "GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, resp.Body, 1); err != nil {
		t.Fatal(err)
	}
	for store.gets.Load() < 3 || store.open.Load() > 0 { // three fills, and they end though nobody reads
		time.Sleep(time.Millisecond)
	}
	if n := store.gets.Load(); n > 4 {
		t.Errorf("%d fills for a reader of one byte", n)
	}
	rest, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(rest, want[1:]) {
		t.Errorf("%d bytes, %v", len(rest), err)
	}
	if n := store.gets.Load(); n > size>>20/8+1 {
		t.Errorf("%d fills of 60 MiB", n)
	}
}
