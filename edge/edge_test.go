package edge_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"segue/edge"
	"segue/media"
	"segue/media/cat"
	"segue/origin"
	"segue/origin/memstore"

	"github.com/prometheus/client_golang/prometheus"
)

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i % 251)
	}
	return b
}

// start runs an edge on loopback and returns its base URL.
func start(t *testing.T, cfg edge.Config) (*edge.Edge, string) {
	t.Helper()
	cfg.Name = "test"
	e, err := edge.New(cfg, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	up := make(chan struct{})
	go func() { done <- e.Serve(ctx, ln, func() { close(up) }) }()
	<-up
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return e, "http://" + ln.Addr().String()
}

func put(t *testing.T, s origin.Store, key media.Key, body []byte, contentType string) media.Object {
	t.Helper()
	o, err := s.Put(context.Background(), media.Object{Key: key, Size: int64(len(body)), ContentType: contentType}, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func get(t *testing.T, url, rng string) (*http.Response, []byte) {
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
	if err != nil {
		t.Fatal(err)
	}
	return resp, b
}

// TestScripts runs testdata/*.txt: a raw request over a raw connection, so that nothing cleans the URL.
func TestScripts(t *testing.T) {
	var store memstore.Store
	track := put(t, &store, "media/T/v/a.mp4", pattern(600000), "audio/mp4")
	put(t, &store, "art/A/v/64.jpg", []byte("picture"), "image/jpeg")
	key := cat.Key{ID: "k", Alg: cat.HS256, Secret: pattern(32)}
	mint := func(end time.Time) string {
		token, err := cat.Mint(key, cat.Claims{Issuer: "segue", ID: "c", Expires: end, PathPrefix: "/media/T/v/", Renditions: []string{"a"}})
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	fill := strings.NewReplacer("{token}", mint(time.Now().Add(time.Hour)), "{expired}", mint(time.Now().Add(-time.Hour)), "{etag}", track.ETag)

	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		e, base := start(t, edge.Config{Tokens: true, Routes: []*edge.Route{{Prefix: "/", Origin: edge.StoreOrigin{Store: &store, Fresh: time.Minute}}}})
		e.Trust(&edge.Trust{Issuer: "segue", Keys: []cat.Key{key}})
		steps := 0
		for i, step := range strings.Split(fill.Replace(string(text)), "\n\n") {
			var request, want []string
			for line := range strings.Lines(step) {
				line = strings.TrimSpace(line)
				switch {
				case line == "" || strings.HasPrefix(line, "#"):
				case strings.HasPrefix(line, "> "):
					want = append(want, line[2:])
				default:
					request = append(request, line)
				}
			}
			if len(request) == 0 {
				continue
			}
			steps++
			conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			request[0] += " HTTP/1.1\r\nHost: test\r\nConnection: close"
			fmt.Fprintf(conn, "%s\r\n\r\n", strings.Join(request, "\r\n"))
			method, _, _ := strings.Cut(request[0], " ")
			resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
			if err != nil {
				t.Fatalf("%s step %d: %v", file, i+1, err)
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Errorf("%s step %d: %v", file, i+1, err)
			}
			conn.Close()
			if len(want) == 0 || fmt.Sprint(resp.StatusCode) != want[0] {
				t.Errorf("%s step %d, %s: status %d, want %v; %s", file, i+1, request[0], resp.StatusCode, want, body)
				continue
			}
			for _, line := range want[1:] {
				name, value, _ := strings.Cut(line, ": ")
				if absent, ok := strings.CutPrefix(name, "-"); ok {
					if got := resp.Header.Get(absent); got != "" {
						t.Errorf("%s step %d: %s: %s is there", file, i+1, absent, got)
					}
				} else if got := resp.Header.Get(name); got != value && !(name == "Content-Length" && fmt.Sprint(resp.ContentLength) == value) {
					t.Errorf("%s step %d, %s: %s: %q, want %q", file, i+1, request[0], name, got, value)
				}
			}
			if resp.StatusCode == 206 {
				var first, last int
				fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/", &first, &last)
				if !bytes.Equal(body, pattern(600000)[first:last+1]) {
					t.Errorf("%s step %d: wrong bytes", file, i+1)
				}
			}
		}
		if steps < 5 {
			t.Errorf("%s: only %d steps read", file, steps)
		}
	}
}

// counting is a store that counts Gets, can be held up and remembers what ranges were asked.
type counting struct {
	memstore.Store
	mu     sync.Mutex
	ranges []media.ByteRange
	gate   chan struct{} // nil: open
}

func (c *counting) Get(ctx context.Context, key media.Key, rng media.ByteRange, ifMatch string) (io.ReadCloser, media.Object, error) {
	c.mu.Lock()
	c.ranges = append(c.ranges, rng)
	c.mu.Unlock()
	if c.gate != nil {
		<-c.gate
	}
	return c.Store.Get(ctx, key, rng, ifMatch)
}

func TestColdRangeFetchesItsBlockOnly(t *testing.T) {
	store := &counting{}
	put(t, store, "big", pattern(10<<20), "")
	_, base := start(t, edge.Config{Routes: []*edge.Route{{Prefix: "/", Origin: edge.StoreOrigin{Store: store, Fresh: time.Minute}}}})
	_, body := get(t, base+"/big", "bytes=5000000-5000099")
	if !bytes.Equal(body, pattern(10 << 20)[5000000:5000100]) {
		t.Error("wrong bytes")
	}
	if len(store.ranges) != 1 || store.ranges[0] != (media.ByteRange{Offset: 19 * edge.BlockSize, Length: edge.BlockSize}) {
		t.Errorf("asked the origin for %v", store.ranges)
	}
}

func TestHerdMakesOneRequest(t *testing.T) {
	store := &counting{gate: make(chan struct{})}
	want := pattern(3<<20 + 17)
	put(t, store, "herd", want, "")
	e, base := start(t, edge.Config{Routes: []*edge.Route{{Prefix: "/", Origin: edge.StoreOrigin{Store: store, Fresh: time.Minute}}}})
	var wg sync.WaitGroup
	var good atomic.Int32
	for range 100 {
		wg.Go(func() {
			resp, body := get(t, base+"/herd", "")
			if resp.StatusCode == 200 && bytes.Equal(body, want) {
				good.Add(1)
			}
		})
	}
	for e.Counters().Requests < 100 {
		time.Sleep(time.Millisecond)
	}
	close(store.gate)
	wg.Wait()
	if good.Load() != 100 || len(store.ranges) != 1 {
		t.Errorf("%d good answers, origin asked for %v", good.Load(), store.ranges)
	}
}

func TestChangeHeals(t *testing.T) {
	var store memstore.Store
	put(t, &store, "doc", []byte("first version"), "")
	_, base := start(t, edge.Config{Memory: edge.BlockSize, Routes: []*edge.Route{{Prefix: "/", Origin: edge.StoreOrigin{Store: &store, Fresh: time.Hour}}}})
	if resp, _ := http.Head(base + "/doc"); resp.StatusCode != 200 { // the Meta is known, no block is
		t.Fatal(resp.Status)
	}
	put(t, &store, "doc", []byte("second"), "")
	if _, body := get(t, base+"/doc", ""); string(body) != "second" {
		t.Errorf("got %q", body)
	}
}

func TestDiskSurvivesRestartAndDamage(t *testing.T) {
	store := &counting{}
	want := pattern(edge.BlockSize*2 + 5)
	put(t, store, "media/T/v/a.mp4", want, "")
	dir := t.TempDir()
	cfg := edge.Config{Memory: edge.BlockSize, DiskDir: dir, DiskSize: 64 << 20, Routes: []*edge.Route{{Prefix: "/", Origin: edge.StoreOrigin{Store: store}}}}
	read := func(base, tier string) {
		t.Helper()
		resp, body := get(t, base+"/media/T/v/a.mp4", "")
		if !bytes.Equal(body, want) {
			t.Error("wrong bytes")
		}
		if got := resp.Header.Get("Cache-Status"); !strings.Contains(got, "detail="+tier) {
			t.Errorf("Cache-Status %q, want %s", got, tier)
		}
	}
	t.Run("fill", func(t *testing.T) {
		_, base := start(t, cfg)
		read(base, "origin")
		read(base, "origin") // the second miss is the one that is kept
	})
	t.Run("warm", func(t *testing.T) {
		_, base := start(t, cfg)
		before := len(store.ranges)
		read(base, "disk")
		if len(store.ranges) != before {
			t.Error("the origin was asked although the disk has it all")
		}
	})
	files, err := filepath.Glob(dir + "/*/*.blocks")
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	f, err := os.OpenFile(files[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("damage"), 1000)
	f.Close()
	t.Run("damaged", func(t *testing.T) {
		_, base := start(t, cfg)
		read(base, "origin")
	})
}

func TestHTTPOrigin(t *testing.T) {
	var gets atomic.Int32
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" {
			gets.Add(1)
		}
		switch r.URL.Path {
		case "/a":
			w.Header().Set("ETag", `"v1"`)
			w.Header().Set("Cache-Control", "max-age=60")
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(pattern(300000)))
		case "/live":
			w.Header().Set("Cache-Control", "no-store")
			fmt.Fprintf(w, "call %d?%s", gets.Load(), r.URL.RawQuery)
		case "/post":
			b, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %s", r.Method, b)
		default:
			http.NotFound(w, r)
		}
	}))
	defer origin.Close()
	o, err := edge.NewHTTPOrigin(origin.URL)
	if err != nil {
		t.Fatal(err)
	}
	_, base := start(t, edge.Config{Routes: []*edge.Route{{Prefix: "/", Origin: o}}})
	for range 3 {
		resp, body := get(t, base+"/a", "bytes=10-19")
		if resp.StatusCode != 206 || !bytes.Equal(body, pattern(300000)[10:20]) || resp.Header.Get("ETag") != `"v1"` || resp.Header.Get("Age") == "" {
			t.Errorf("%s %v", resp.Status, resp.Header)
		}
	}
	if gets.Load() != 1 {
		t.Errorf("%d GETs for three hits", gets.Load())
	}
	_, one := get(t, base+"/live?q=1", "")
	_, two := get(t, base+"/live?q=1", "")
	if string(one) == string(two) || !strings.HasSuffix(string(two), "?q=1") {
		t.Errorf("no-store was stored: %s %s", one, two)
	}
	resp, err := http.Post(base+"/post", "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); string(b) != "POST hello" {
		t.Errorf("POST came back as %q", b)
	}
	if resp, _ := get(t, base+"/none", ""); resp.StatusCode != 404 {
		t.Error(resp.Status)
	}
	origin.Close()
	if resp, _ := get(t, base+"/a", "bytes=10-19"); resp.StatusCode != 206 {
		t.Errorf("a hit needs the origin: %s", resp.Status)
	}
	if resp, _ := get(t, base+"/other", ""); resp.StatusCode != 502 {
		t.Errorf("a broken origin is %s", resp.Status)
	}
}
