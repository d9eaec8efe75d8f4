package edge_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"segue/edge"
	"segue/media"
	"segue/media/cat"
)

// prefetched waits until an edge has prefetched that much, and says how it went.
func prefetched(t *testing.T, e *edge.Edge, result string, atLeast float64) map[string]float64 {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if p := e.Top(); p.Prefetch[result] >= atLeast && p.OpenFills == 0 {
			return p.Prefetch
		}
	}
	t.Fatalf("prefetch: %v, want %s %v", e.Top().Prefetch, result, atLeast)
	return nil
}

func tier(resp *http.Response) string {
	_, tier, _ := strings.Cut(resp.Header.Get("Server-Timing"), "tier;desc=")
	return tier
}

func TestPrefetchOfASequentialReader(t *testing.T) {
	store := &counting{}
	key := media.TrackKey(trackID, version, "a.mp4")
	const size = 8*edge.BlockSize + 100
	put(t, store, key, pattern(size), "audio/mp4")
	e, base := start(t, edge.Config{Routes: []*edge.Route{{Prefix: "/", Origin: edge.StoreOrigin{Store: store, Fresh: time.Minute}}}})
	get(t, base+"/"+string(key), "bytes=0-999") // init and index
	prefetched(t, e, "started", 1)
	const step = 150_000
	for at := 20_000; at < size; at += step {
		resp, body := get(t, base+"/"+string(key), fmt.Sprintf("bytes=%d-%d", at, at+step-1))
		if got := tier(resp); got != "memory" {
			t.Errorf("range at %d from %s", at, got)
		}
		if !bytes.Equal(body, pattern(size)[at:min(at+step, size)]) {
			t.Errorf("range at %d: wrong bytes", at)
		}
		prefetched(t, e, "started", min(8, float64((at+2*step)/edge.BlockSize)))
	}
	if p := prefetched(t, e, "used", 8); p["started"] != 8 || p["dropped"] != 0 {
		t.Errorf("%v", p)
	}
}

func TestNoPrefetchForAReaderWhoJumps(t *testing.T) {
	store := &counting{}
	put(t, store, "a", pattern(40*edge.BlockSize), "audio/mp4")
	e, base := start(t, edge.Config{Routes: []*edge.Route{{Prefix: "/", Origin: edge.StoreOrigin{Store: store, Fresh: time.Minute}}}})
	for _, block := range []int{3, 20, 9, 31, 12} {
		get(t, base+"/a", fmt.Sprintf("bytes=%d-%d", block*edge.BlockSize+5, block*edge.BlockSize+100_000))
	}
	if p := e.Top().Prefetch; p["started"] != 0 {
		t.Errorf("%v", p)
	}
}

// TestPrefetchOfWhatAPlayerNames: CMCD nor and nrr, on this edge and under the player's token only.
func TestPrefetchOfWhatAPlayerNames(t *testing.T) {
	store := &counting{}
	for _, key := range []media.Key{"media/T/v/a.mp4", "media/T/v/b.mp4", "media/T/v/c.mp4", "media/U/v/a.mp4"} {
		put(t, store, key, pattern(5*edge.BlockSize), "audio/mp4")
	}
	key := cat.Key{ID: "k", Alg: cat.HS256, Secret: pattern(32)}
	token, err := cat.Mint(key, cat.Claims{Issuer: "segue", ID: "c", Expires: time.Now().Add(time.Hour), PathPrefix: "/media/T/v/"})
	if err != nil {
		t.Fatal(err)
	}
	e, base := start(t, edge.Config{Tokens: true, Routes: []*edge.Route{{Prefix: "/", Origin: edge.StoreOrigin{Store: store, Fresh: time.Minute}}}})
	e.Trust(&edge.Trust{Issuer: "segue", Keys: []cat.Key{key}})
	at := base + "/t/" + token + "/media/T/v/a.mp4"
	asked := func(text string) { get(t, at+"?CMCD="+url.QueryEscape(text), "bytes=600000-600001") }

	asked(`nor="b.mp4",nrr="300000-300100"`)
	prefetched(t, e, "started", 1)
	asked(`nor="/t/` + token + `/media/T/v/c.mp4"`)
	prefetched(t, e, "started", 1+4) // the start of it
	for _, elsewhere := range []string{"http://127.0.0.1:1/x", "//127.0.0.1:1/x", "../../U/v/a.mp4", "../../../other/media/T/v/b.mp4", "/media/T/v/b.mp4", "/healthz", "%2e%2e/x", "missing.mp4"} {
		asked(`nor="` + strings.ReplaceAll(url.PathEscape(elsewhere), "%252e", "%2e") + `"`)
	}
	resp, _ := get(t, strings.Replace(at, "a.mp4", "b.mp4", 1), "bytes=300000-300100")
	if got := tier(resp); got != "memory" {
		t.Errorf("what was named comes from %s", got)
	}
	if p := prefetched(t, e, "used", 1); p["started"] != 5 {
		t.Errorf("%v", p)
	}
}

func TestPrefetchFromAnHTTPOrigin(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	body := pattern(3 * edge.BlockSize)
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen = append(seen, r.URL.Path)
		mu.Unlock()
		w.Header().Set("ETag", `"1"`)
		w.Header().Set("Cache-Control", "max-age=60")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
	}))
	defer origin.Close()
	e, base := fronting(t, origin.URL, edge.Config{})
	req, _ := http.NewRequest("GET", base+"/x/1.ts", nil)
	req.Header.Set("CMCD-Request", `nor="2.ts"`)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if in, err := e.Inspect("/x/2.ts"); err == nil && len(in.Stored) == 1 && in.Stored[0].Blocks == "mmm" {
			break
		}
	}
	if resp, got := get(t, base+"/x/2.ts", ""); tier(resp) != "memory" || !bytes.Equal(got, body) {
		t.Errorf("from %s, %s", tier(resp), resp.Header.Get("Cache-Status"))
	}
	mu.Lock()
	defer mu.Unlock()
	if len(seen) != 2 {
		t.Errorf("origin was asked for %v", seen)
	}
}

// TestPrefetchHasItsShare: at most a sixteenth of the memory is held for what nobody asked for yet.
func TestPrefetchHasItsShare(t *testing.T) {
	store := &counting{}
	for i := range 10 {
		put(t, store, media.Key(fmt.Sprint("a", i)), pattern(3*edge.BlockSize), "audio/mp4")
	}
	e, base := start(t, edge.Config{Memory: 64 * edge.BlockSize, Routes: []*edge.Route{{Prefix: "/", Origin: edge.StoreOrigin{Store: store, Fresh: time.Minute}}}})
	for i := range 10 {
		get(t, fmt.Sprint(base, "/a", i), "bytes=0-99")
		prefetched(t, e, "started", min(4, float64(i+1)))
	}
	if p := prefetched(t, e, "dropped", 6); p["started"] != 4 {
		t.Errorf("%v", p)
	}
}
