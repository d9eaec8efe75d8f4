package edge_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"segue/edge"
	"segue/media"
)

const (
	trackID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
	albumID = "01ARZ3NDEKTSV4RRFFQ69G5FAW"
	version = "abcdefghijklmnopqrstuvwxyz"
)

// changing is an HTTP origin whose answers say how often it was asked, and what else a test wants.
type changing struct {
	*httptest.Server
	asked  atomic.Int64
	header func(r *http.Request, h http.Header)
	status atomic.Int64 // 0: 200
}

func newChanging(t *testing.T, header func(r *http.Request, h http.Header)) *changing {
	c := &changing{header: header}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := c.asked.Add(1)
		header(r, w.Header())
		if tag := w.Header().Get("ETag"); tag != "" && r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		if s := c.status.Load(); s != 0 {
			w.WriteHeader(int(s))
		}
		fmt.Fprintf(w, "%s %d", r.URL.RequestURI(), n)
	}))
	t.Cleanup(c.Close)
	return c
}

func fronting(t *testing.T, origin string, cfg edge.Config) (*edge.Edge, string) {
	t.Helper()
	o, err := edge.NewHTTPOrigin(origin)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Routes = append(cfg.Routes, &edge.Route{Prefix: "/", Origin: o})
	return start(t, cfg)
}

func purge(t *testing.T, e *edge.Edge, ps ...edge.Purge) {
	t.Helper()
	if err := e.Purge(ps...); err != nil {
		t.Fatal(err)
	}
}

// wants gets a URL and checks how the edge came by its answer.
func wants(t *testing.T, url, status string) string {
	t.Helper()
	resp, body := get(t, url, "")
	if got := resp.Header.Get("Cache-Status"); !strings.Contains(got, status) {
		t.Errorf("%s: Cache-Status %q, want %q; %d %s", url, got, status, resp.StatusCode, body)
	}
	return string(body)
}

func TestPurgeOfAnHTTPOrigin(t *testing.T) {
	o := newChanging(t, func(r *http.Request, h http.Header) {
		h.Set("Cache-Control", "max-age=3600")
		h.Set("ETag", `"`+r.URL.Path+`"`) // a broken origin: the same validator, other bytes
		h.Set("Surrogate-Key", "all  "+r.URL.Query().Get("k"))
		h.Set("Cache-Tag", "more , "+r.URL.Query().Get("t"))
	})
	e, base := fronting(t, o.URL, edge.Config{})
	paths := []string{"/a/1", "/a/2?k=red", "/b/1?t=blue", "/b/2"}
	check := func(what string, purged ...string) {
		t.Helper()
		for _, p := range paths {
			want := "hit"
			for _, q := range purged {
				if p == q {
					want = "fwd=miss"
				}
			}
			before := o.asked.Load()
			body := wants(t, base+p, want)
			if want == "fwd=miss" && !strings.HasSuffix(body, fmt.Sprint(" ", before+1)) {
				t.Errorf("after a purge of %s, %s has bytes from before: %q", what, p, body)
			}
		}
	}
	check("nothing", paths...)
	check("nothing")
	purge(t, e, edge.Purge{Kind: edge.PurgeKey, Value: "/a/1"})
	check("key", "/a/1")
	check("key again")
	purge(t, e, edge.Purge{Kind: edge.PurgeKey, Value: "a/2?k=red"})
	check("key with query", "/a/2?k=red")
	purge(t, e, edge.Purge{Kind: edge.PurgePrefix, Value: "/b/"})
	check("prefix", "/b/1?t=blue", "/b/2")
	purge(t, e, edge.Purge{Kind: edge.PurgeTag, Value: "red"}, edge.Purge{Kind: edge.PurgeTag, Value: "blue"})
	check("tags", "/a/2?k=red", "/b/1?t=blue")
	purge(t, e, edge.Purge{Kind: edge.PurgeTag, Value: "all"})
	check("tag of all", paths...)
	purge(t, e, edge.Purge{Kind: edge.PurgeTag, Value: "more"})
	check("the other tag of all", paths...)
	purge(t, e, edge.Purge{Kind: edge.PurgePrefix, Value: "/"})
	check("everything", paths...)
	purge(t, e, edge.Purge{Kind: edge.PurgeTag, Value: "nobody's"}, edge.Purge{Kind: edge.PurgePrefix, Value: "/c"}, edge.Purge{Kind: edge.PurgeKey, Value: "/a"})
	check("what is not there")

	for _, p := range []edge.Purge{{}, {Kind: "all", Value: "x"}, {Kind: edge.PurgeTag}, {Kind: edge.PurgeTag, Value: strings.Repeat("x", 5000)}} {
		if err := e.Purge(p); !errors.Is(err, media.ErrInvalid) {
			t.Errorf("%+v: %v", p, err)
		}
	}
}

func TestSoftPurgeIsValidated(t *testing.T) {
	o := newChanging(t, func(r *http.Request, h http.Header) {
		h.Set("Cache-Control", "max-age=3600, stale-while-revalidate="+r.URL.Query().Get("swr")+", stale-if-error=600")
		h.Set("ETag", `"1"`)
	})
	e, base := fronting(t, o.URL, edge.Config{})
	for _, path := range []string{"/a?swr=0", "/b?swr=60"} {
		wants(t, base+path, "fwd=miss")
	}
	purge(t, e, edge.Purge{Kind: edge.PurgePrefix, Value: "/", Soft: true})
	if body := wants(t, base+"/a?swr=0", "fwd=stale; fwd-status=304"); body != "/a?swr=0 1" {
		t.Errorf("validated, but the bytes are others: %q", body)
	}
	wants(t, base+"/a?swr=0", "hit")
	wants(t, base+"/b?swr=60", "hit") // used while it is validated
	for end := time.Now().Add(5 * time.Second); o.asked.Load() < 4 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if o.asked.Load() != 4 {
		t.Errorf("origin asked %d times, want 4", o.asked.Load())
	}
	purge(t, e, edge.Purge{Kind: edge.PurgeKey, Value: "/a?swr=0", Soft: true})
	o.Close()
	wants(t, base+"/a?swr=0", "detail=stale-if-error")
	purge(t, e, edge.Purge{Kind: edge.PurgeKey, Value: "/a?swr=0"})
	if resp, _ := get(t, base+"/a?swr=0", ""); resp.StatusCode != http.StatusBadGateway {
		t.Errorf("hard purge with the origin away: %d", resp.StatusCode)
	}
}

func TestPurgeOfVariants(t *testing.T) {
	o := newChanging(t, func(r *http.Request, h http.Header) {
		h.Set("Cache-Control", "max-age=3600")
		h.Set("Vary", "X-Kind")
	})
	e, base := fronting(t, o.URL, edge.Config{})
	ask := func(kind string) string {
		req, _ := http.NewRequest("GET", base+"/a", nil)
		req.Header.Set("X-Kind", kind)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return string(b)
	}
	if ask("x")+ask("y")+ask("x")+ask("y") != "/a 1/a 2/a 1/a 2" {
		t.Error("variants are not stored")
	}
	purge(t, e, edge.Purge{Kind: edge.PurgeKey, Value: "/a"})
	if got := ask("x") + ask("y") + ask("x"); got != "/a 3/a 4/a 3" {
		t.Error(got)
	}
}

// TestPurgeDuringAnExchange: an answer that was on its way when the purge came is not used after it.
func TestPurgeDuringAnExchange(t *testing.T) {
	arrived, release := make(chan struct{}, 2), make(chan struct{})
	var n atomic.Int64
	o := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k := n.Add(1)
		w.Header().Set("Cache-Control", "max-age=3600")
		w.Header().Set("ETag", `"same"`)
		if k == 1 {
			arrived <- struct{}{}
			<-release
		}
		fmt.Fprint(w, k)
	}))
	defer o.Close()
	e, base := fronting(t, o.URL, edge.Config{})
	var wg sync.WaitGroup
	wg.Go(func() { wants(t, base+"/a", "fwd=miss") })
	<-arrived
	purge(t, e, edge.Purge{Kind: edge.PurgeKey, Value: "/a"})
	close(release)
	wg.Wait()
	if body := wants(t, base+"/a", "fwd=miss"); body != "2" {
		t.Errorf("bytes from before the purge: %q", body)
	}
	if body := wants(t, base+"/a", "hit"); body != "2" {
		t.Errorf("%q", body)
	}
}

func TestPurgeOfAStore(t *testing.T) {
	store := &counting{}
	files := []media.Key{
		media.TrackKey(trackID, version, "a.mp4"), media.TrackKey(trackID, version, "b.mp4"), media.ArtKey(albumID, version, 64)}
	for _, k := range files {
		put(t, store, k, pattern(1000), "audio/mp4")
	}
	e, base := start(t, edge.Config{Routes: []*edge.Route{{Prefix: "/", Origin: edge.StoreOrigin{Store: store, Fresh: time.Minute}}}})
	fetched := func(what string, want int) {
		t.Helper()
		gets := func() int {
			store.mu.Lock()
			defer store.mu.Unlock()
			return len(store.ranges)
		}
		before := gets()
		for range 2 {
			for _, k := range files {
				if resp, body := get(t, base+"/"+string(k), ""); resp.StatusCode != 200 || !bytes.Equal(body, pattern(1000)) {
					t.Errorf("%s: %d", k, resp.StatusCode)
				}
			}
		}
		if got := gets() - before; got != want {
			t.Errorf("after a purge of %s, bytes were fetched %d times, want %d", what, got, want)
		}
	}
	fetched("nothing", 3)
	purge(t, e, edge.Purge{Kind: edge.PurgeTag, Value: "track:" + trackID})
	fetched("track", 2)
	purge(t, e, edge.Purge{Kind: edge.PurgeTag, Value: "album:" + albumID})
	fetched("album", 1)
	purge(t, e, edge.Purge{Kind: edge.PurgeTag, Value: "version:" + version})
	fetched("version", 3)
	purge(t, e, edge.Purge{Kind: edge.PurgeKey, Value: string(files[1])})
	fetched("key", 1)
	purge(t, e, edge.Purge{Kind: edge.PurgePrefix, Value: "/art/"})
	fetched("prefix", 1)
	purge(t, e, edge.Purge{Kind: edge.PurgePrefix, Value: "/", Soft: true})
	fetched("everything, soft", 0) // the store says that nothing changed
	if err := store.Delete(t.Context(), files[0]); err != nil {
		t.Fatal(err)
	}
	purge(t, e, edge.Purge{Kind: edge.PurgeKey, Value: string(files[0])})
	if resp, _ := get(t, base+"/"+string(files[0]), ""); resp.StatusCode != 404 {
		t.Errorf("an object that was taken down is served: %d", resp.StatusCode)
	}
}

// TestPurgeOutlivesAnEdge: what is on disk does not come back.
func TestPurgeOutlivesAnEdge(t *testing.T) {
	store := &counting{}
	key, other := media.TrackKey(trackID, version, "a.mp4"), media.Key("other")
	put(t, store, key, pattern(edge.BlockSize), "audio/mp4")
	put(t, store, other, pattern(edge.BlockSize), "audio/mp4")
	cfg := edge.Config{DiskDir: t.TempDir(), Memory: edge.BlockSize, Routes: []*edge.Route{{Prefix: "/", Origin: edge.StoreOrigin{Store: store, Fresh: time.Minute}}}}
	life := func(what string, f func(t *testing.T, e *edge.Edge, tier func() string)) {
		t.Run(what, func(t *testing.T) {
			e, base := start(t, cfg)
			f(t, e, func() string {
				get(t, base+"/"+string(other), "") // out of memory with it
				resp, body := get(t, base+"/"+string(key), "")
				if !bytes.Equal(body, pattern(edge.BlockSize)) {
					t.Error("wrong bytes")
				}
				_, tier, _ := strings.Cut(resp.Header.Get("Server-Timing"), "tier;desc=")
				return tier
			})
		})
	}
	is := func(t *testing.T, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("from %s, want %s", got, want)
		}
	}
	life("cold", func(t *testing.T, _ *edge.Edge, tier func() string) {
		is(t, tier(), "origin")
		for end := time.Now().Add(10 * time.Second); tier() != "disk" && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		is(t, tier(), "disk")
	})
	life("warm", func(t *testing.T, e *edge.Edge, tier func() string) {
		is(t, tier(), "disk")
		purge(t, e, edge.Purge{Kind: edge.PurgeTag, Value: "track:" + trackID, Epoch: 7})
	})
	life("purged in an earlier life", func(t *testing.T, e *edge.Edge, tier func() string) {
		is(t, tier(), "origin")
		if e.PurgedTo() != 7 {
			t.Errorf("purged to %d, want 7", e.PurgedTo())
		}
		purge(t, e, edge.Purge{Kind: edge.PurgeKey, Value: string(other), Epoch: 7}) // not for the second time
		is(t, tier(), "origin")
	})
}

// TestPurgeUnderLoad: no request that begins after a purge sees what was there before it.
func TestPurgeUnderLoad(t *testing.T) {
	var value atomic.Int64
	o := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=3600")
		w.Header().Set("ETag", `"same"`)
		w.Header().Set("Surrogate-Key", "k")
		fmt.Fprintf(w, "%08d", value.Load())
	}))
	defer o.Close()
	e, base := fronting(t, o.URL, edge.Config{})
	var least atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				want := least.Load()
				_, body := get(t, base+"/a", "")
				var got int64
				fmt.Sscanf(string(body), "%d", &got)
				if got < want {
					t.Errorf("got %d after a purge at %d", got, want)
					return
				}
			}
		})
	}
	for i := int64(1); i <= 60; i++ {
		value.Store(i)
		purge(t, e, []edge.Purge{{Kind: edge.PurgeTag, Value: "k"}, {Kind: edge.PurgeKey, Value: "/a"}, {Kind: edge.PurgePrefix, Value: "/"}}[i%3])
		least.Store(i)
		get(t, base+"/a", "")
	}
	close(stop)
	wg.Wait()
}

func TestPrivateListener(t *testing.T) {
	o := newChanging(t, func(r *http.Request, h http.Header) {
		h.Set("Cache-Control", r.URL.Query().Get("cc"))
		h.Set("ETag", `"1"`)
		h.Set("Surrogate-Key", "one two")
	})
	e, base := fronting(t, o.URL, edge.Config{})
	private := httptest.NewServer(e.Private())
	defer private.Close()
	post := func(body string, want int) {
		t.Helper()
		resp, err := http.Post(private.URL+"/purge", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != want || want >= 400 && resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s", body, resp.StatusCode, b)
		}
	}
	get(t, base+"/a?cc=max-age=60", "")
	post(`{"kind": "tag", "value": "two"}`, 204)
	wants(t, base+"/a?cc=max-age=60", "fwd=miss")
	post(`{"kind": "tag"}`, 422)
	post(`{"kind": "everything", "value": "x"}`, 422)
	post(`{"kind": "tag", "value": "x", "hard": true}`, 400)
	post(`{`, 400)
	if resp, _ := get(t, private.URL+"/purge", ""); resp.StatusCode != 404 {
		t.Errorf("GET /purge: %d", resp.StatusCode)
	}

	in, err := e.Inspect(base + "/a?cc=max-age=60")
	if err != nil || len(in.Stored) != 1 || in.State != "fresh" || in.Stored[0].Blocks != "m" || strings.Join(in.Stored[0].Tags, " ") != "one two" || in.Last != nil {
		t.Errorf("%+v %v", in, err)
	}
	get(t, base+"/b?cc=no-store", "")
	if in, err = e.Inspect("b?cc=no-store"); err != nil || in.Last == nil || in.Last.Reason != "not stored: no-store" || in.State != "pass" {
		t.Errorf("%+v %v", in, err)
	}
	purge(t, e, edge.Purge{Kind: edge.PurgeTag, Value: "one", Soft: true})
	if in, _ = e.Inspect("/a?cc=max-age=60"); in.State != "stale" {
		t.Errorf("%+v", in)
	}
	purge(t, e, edge.Purge{Kind: edge.PurgeTag, Value: "one"})
	if in, _ = e.Inspect("/a?cc=max-age=60"); in.State != "purged" {
		t.Errorf("%+v", in)
	}
	if in, _ = e.Inspect("/nothing"); in.State != "none" {
		t.Errorf("%+v", in)
	}
	for _, path := range []string{"/inspect?url=/a", "/top"} {
		if resp, body := get(t, private.URL+path, ""); resp.StatusCode != 200 || !bytes.HasPrefix(body, []byte("{")) {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
	if top := e.Top(); top.Requests != 3 || top.RecentlyNot[0].Key != "/b?cc=no-store" || top.Memory.Used != 0 { // a hard purge takes the bytes too
		t.Errorf("%+v", top)
	}
}
