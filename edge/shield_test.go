package edge_test

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"segue/edge"
	"segue/media"
	"segue/media/cat"

	"github.com/prometheus/client_golang/prometheus"
)

// fleetOf starts edges with one store as their origin, each the others' peer.
func fleetOf(t *testing.T, n int, cfg edge.Config) (bases []string, edges []*edge.Edge, stops []func(), repeats func() int) {
	t.Helper()
	var regs []*prometheus.Registry
	var peers []edge.Peer
	var keys []ed25519.PrivateKey
	for i := range n {
		own := cfg
		own.Name = fmt.Sprintf("e%d", i)
		reg := prometheus.NewRegistry()
		regs = append(regs, reg)
		e, base, stop := serveEdge(t, own, slog.New(slog.DiscardHandler), reg)
		public, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		bases, edges, stops, keys = append(bases, base), append(edges, e), append(stops, stop), append(keys, private)
		peers = append(peers, edge.Peer{Name: own.Name, URL: base, Key: public})
	}
	for i, e := range edges {
		e.SetPeers(peers[i].Name, keys[i], peers)
	}
	// Repeats are what edges asked origins more than once for, because an answer was slow on a busy machine.
	return bases, edges, stops, func() (n int) {
		for _, reg := range regs {
			families, err := reg.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range families {
				if f.GetName() == "segue_edge_upstream_repeats_total" {
					for _, m := range f.GetMetric() {
						n += int(m.GetCounter().GetValue())
					}
				}
			}
		}
		return n
	}
}

func TestPeersShareObjects(t *testing.T) {
	store := &faulty{}
	const objects = 100
	body := func(i int) []byte { return append(pattern(300_000), byte(i)) }
	for i := range 2 * objects {
		put(t, store, media.Key(fmt.Sprintf("media/T/v/%d.mp4", i)), body(i), "audio/mp4")
	}
	key := cat.Key{ID: "k", Alg: cat.HS256, Secret: pattern(32)}
	token, err := cat.Mint(key, cat.Claims{Issuer: "segue", ID: "c", Expires: time.Now().Add(time.Hour), PathPrefix: "/media/T/v/"})
	if err != nil {
		t.Fatal(err)
	}
	bases, edges, stops, repeats := fleetOf(t, 3, edge.Config{Tokens: true, Routes: []*edge.Route{{Prefix: "/", Origin: edge.StoreOrigin{Store: store}}}})
	for _, e := range edges {
		e.Trust(&edge.Trust{Issuer: "segue", Keys: []cat.Key{key}})
	}
	var shielded atomic.Int32
	read := func(base string, i int) {
		resp, got, err := try(t, fmt.Sprintf("%s/t/%s/media/T/v/%d.mp4", base, token, i), "")
		if resp.StatusCode != 200 || err != nil || !bytes.Equal(got, body(i)) {
			t.Errorf("object %d at %s: %s, %d bytes, %v", i, base, resp.Status, len(got), err)
		}
		if strings.Contains(resp.Header.Get("Cache-Status"), "detail=shield") {
			shielded.Add(1)
		}
	}
	var clients sync.WaitGroup
	for i := range 3 * objects { // each object three times, at edges picked by chance, at once
		base := bases[rand.N(len(bases))]
		clients.Go(func() { read(base, i%objects) })
		if i%20 == 19 {
			clients.Wait()
		}
	}
	clients.Wait()
	if n, again := int(store.gets.Load()), repeats(); n < objects || n > objects+again {
		t.Errorf("%d requests for %d objects reached the origin, %d of them repeats", n, objects, again)
	}
	if shielded.Load() == 0 {
		t.Error("no reply came from a peer")
	}
	if resp, _ := get(t, bases[0]+"/media/T/v/0.mp4", ""); resp.StatusCode != 401 {
		t.Errorf("with no token: %s", resp.Status)
	}
	stops[1]() // of what it owned, the next is the owner
	for i := range 2 * objects {
		read(bases[i%2*2], i)
	}
	if n := store.gets.Load(); n > 2*objects+objects/2 {
		t.Errorf("%d requests for %d objects, with one of three edges gone", n, 2*objects)
	}
}

// An edge that has purged is not given what it purged by a peer that has not.
func TestPurgedIsNotRefilledByPeers(t *testing.T) {
	store := &faulty{}
	const objects = 30
	for i := range objects {
		put(t, store, media.Key(fmt.Sprintf("art/A/v/%d.jpg", i)), append(pattern(300_000), byte(i)), "image/jpeg")
	}
	bases, edges, _, _ := fleetOf(t, 2, edge.Config{Routes: []*edge.Route{{Prefix: "/", Origin: edge.StoreOrigin{Store: store}}}})
	// served counts replies that came from a peer.
	served := func() (n int) {
		for i := range objects {
			resp, got, err := try(t, fmt.Sprintf("%s/art/A/v/%d.jpg", bases[0], i), "")
			if resp.StatusCode != 200 || err != nil || len(got) != 300_001 {
				t.Fatalf("object %d: %s, %d bytes, %v", i, resp.Status, len(got), err)
			}
			if strings.Contains(resp.Header.Get("Cache-Status"), "detail=shield") {
				n++
			}
		}
		return n
	}
	if served() == 0 {
		t.Fatal("no reply came from a peer")
	}
	purge := edge.Purge{Kind: edge.PurgePrefix, Value: "/art/", Epoch: 7}
	if err := edges[0].Purge(purge); err != nil {
		t.Fatal(err)
	}
	before := store.gets.Load()
	if n := served(); n != 0 || store.gets.Load()-before < objects {
		t.Errorf("%d replies came from a peer that holds what was purged, %d requests to the origin", n, store.gets.Load()-before)
	}
	for _, e := range edges { // the other one too; and the first again
		if err := e.Purge(purge, edge.Purge{Kind: edge.PurgePrefix, Value: "/art/", Epoch: 8}); err != nil {
			t.Fatal(err)
		}
	}
	if served() == 0 {
		t.Error("no reply came from a peer that has purged too")
	}
}

// A list of peers that is wrong costs a request, not an answer: here the peer is somebody else, who says no or lies.
func TestBadPeerIsPassedBy(t *testing.T) {
	store := &faulty{}
	want := pattern(600_000)
	for i := range 20 {
		put(t, store, media.Key(fmt.Sprint("o/", i)), want, "")
	}
	for name, h := range map[string]http.HandlerFunc{
		"says no": func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusUnauthorized) },
		"is elsewhere": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		},
		"has another": func(w http.ResponseWriter, r *http.Request) { honest(r, hijack(w), pattern(600_000), `"other"`) },
		"lies of range": func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(hijack(w), "HTTP/1.1 206 OK\r\nContent-Range: bytes 1-2/3\r\n\r\nxx")
		},
		"cuts": func(w http.ResponseWriter, r *http.Request) {
			var b bytes.Buffer
			honest(r, &b, want, r.Header.Get("If-Match"))
			hijack(w).Write(b.Bytes()[:300_000])
		},
	} {
		t.Run(name, func(t *testing.T) {
			asked := atomic.Int32{}
			bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				if r.Header.Get("CDN-Loop") == "" || r.Header.Get("Segue-Peer") == "" {
					t.Error("no CDN-Loop, or no identity")
				}
				h(w, r)
			}))
			defer bad.Close()
			e, base, _ := serveEdge(t, edge.Config{Routes: []*edge.Route{{Prefix: "/", Origin: edge.StoreOrigin{Store: store, Fresh: time.Hour}}}}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
			_, key, _ := ed25519.GenerateKey(nil)
			e.SetPeers("self", key, []edge.Peer{{Name: "bad", URL: bad.URL, Key: key.Public().(ed25519.PublicKey)}})
			for i := range 20 {
				if resp, got, err := try(t, fmt.Sprint(base, "/o/", i), ""); resp.StatusCode != 200 || err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s, %d bytes, %v", resp.Status, len(got), err)
				}
			}
			if asked.Load() == 0 {
				t.Error("the peer was never asked")
			}
		})
	}
}

type hijacked struct{ http.ResponseWriter }

// hijack writes to the connection as it is, and ends it after one write.
func hijack(w http.ResponseWriter) hijacked { return hijacked{w} }

func (h hijacked) Write(p []byte) (int, error) {
	conn, _, err := h.ResponseWriter.(http.Hijacker).Hijack()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	return conn.Write(p)
}

// Two edges that are each other's origin: the request that comes back is refused, RFC 8586.
func TestLoopIsRefused(t *testing.T) {
	var second string
	var hops atomic.Int32
	between := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hops.Add(1)
		req, _ := http.NewRequest(r.Method, second+r.URL.Path, nil)
		req.Header = r.Header.Clone()
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			w.WriteHeader(502)
			return
		}
		resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
	}))
	defer between.Close()
	first, _ := front(t, between.URL, edge.Config{})
	second, _ = front(t, first, edge.Config{})
	if resp, _ := get(t, first+"/a", ""); resp.StatusCode != http.StatusLoopDetected || hops.Load() != 1 {
		t.Errorf("%s after %d hops", resp.Status, hops.Load())
	}
}
