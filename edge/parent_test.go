package edge_test

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"io"
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

	"github.com/prometheus/client_golang/prometheus"
)

// site is a plain HTTP origin that counts the GETs that it answers in full or in part.
type site struct {
	gets  atomic.Int64
	epoch atomic.Int64 // goes into bodies; a POST raises it
	slow  time.Duration
}

func (s *site) body(path string) []byte {
	return append(pattern(700_000), fmt.Sprint(path, " ", s.epoch.Load())...)
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	time.Sleep(s.slow)
	switch {
	case r.Method == http.MethodPost:
		s.epoch.Add(1)
		w.WriteHeader(http.StatusNoContent)
		return
	case strings.HasPrefix(r.URL.Path, "/private/"):
		w.Header().Set("Cache-Control", "private")
	default:
		w.Header().Set("Cache-Control", "max-age=600")
	}
	s.gets.Add(1)
	w.Header().Set("ETag", fmt.Sprintf("%q", fmt.Sprint(r.URL.Path, s.epoch.Load())))
	w.Header().Set("Surrogate-Key", "all "+strings.ReplaceAll(strings.Trim(r.URL.Path, "/"), "/", "-"))
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.body(r.URL.Path)))
}

func httpFleet(t *testing.T, n int, s *site) (bases []string, edges []*edge.Edge, stops []func(), repeats func() int) {
	t.Helper()
	origin := httptest.NewServer(s)
	t.Cleanup(origin.Close)
	to, err := edge.NewHTTPOrigin(origin.URL)
	if err != nil {
		t.Fatal(err)
	}
	return fleetOf(t, n, edge.Config{Routes: []*edge.Route{{Prefix: "/", Origin: to}}})
}

// Peers share what a plain HTTP origin gives from the first request on, when nothing is known of it yet: each resource leaves the
// origin once, however many edges are asked for it at once, and one of the edges may die.
func TestPeersShareHTTPOrigin(t *testing.T) {
	s := &site{slow: 5 * time.Millisecond}
	bases, _, stops, repeats := httpFleet(t, 3, s)
	const resources = 40
	var shielded atomic.Int32
	read := func(base, path, rng string) *http.Response {
		resp, got, err := try(t, base+path, rng)
		name, _, _ := strings.Cut(path, "?")
		want, status := s.body(name), 200
		if rng != "" {
			want, status = want[300_000:400_001], 206
		}
		if resp.StatusCode != status || err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s at %s: %s, %d bytes, %v", path, base, resp.Status, len(got), err)
		}
		if strings.Contains(resp.Header.Get("Cache-Status"), "detail=shield") {
			shielded.Add(1)
		}
		return resp
	}
	var clients sync.WaitGroup
	for i := range 4 * resources {
		base := bases[rand.N(len(bases))]
		clients.Go(func() { read(base, fmt.Sprintf("/r/%d?v=%d", i%resources, i%resources), "") })
		if i%16 == 15 {
			clients.Wait()
		}
	}
	clients.Wait()
	if n, again := int(s.gets.Load()), repeats(); n < resources || n > resources+again {
		t.Errorf("%d GETs for %d resources reached the origin, %d of them repeats", n, resources, again)
	}
	if shielded.Load() == 0 {
		t.Error("no reply came from a peer")
	}
	before := s.gets.Load()
	for i := range resources { // ranges of what nobody knows yet: one GET for the blocks that hold it
		read(bases[i%3], fmt.Sprint("/part/", i), "bytes=300000-400000")
		read(bases[(i+1)%3], fmt.Sprint("/part/", i), "bytes=300000-400000")
	}
	if n, again := int(s.gets.Load()-before), repeats(); n > resources+again {
		t.Errorf("%d GETs for ranges of %d resources reached the origin, %d repeats", n, resources, again)
	}
	stops[1]()
	for i := range resources {
		read(bases[i%2*2], fmt.Sprint("/after/", i), "")
	}
}

// What is for one player goes through without being kept by anybody; a change by an unsafe method is seen at once where it was
// made; what is purged by tag is gone everywhere, by the tags that the origin gave to the first edge.
func TestPeersKeepToTheRules(t *testing.T) {
	s := &site{}
	bases, edges, _, _ := httpFleet(t, 2, s)
	for i := range 20 {
		for _, base := range bases {
			before := s.gets.Load()
			if resp, _ := get(t, fmt.Sprint(base, "/private/", i), ""); resp.StatusCode != 200 || s.gets.Load() != before+1 {
				t.Errorf("private: %s after %d GETs", resp.Status, s.gets.Load()-before)
			}
		}
		path := fmt.Sprint("/page/", i)
		for _, base := range bases {
			get(t, base+path, "")
		}
		resp, err := http.Post(bases[i%2]+path, "text/plain", strings.NewReader("x"))
		if err != nil || resp.StatusCode != http.StatusNoContent {
			t.Fatal(resp, err)
		}
		resp.Body.Close()
		if _, got := get(t, bases[i%2]+path, ""); !bytes.Equal(got, s.body(path)) {
			t.Errorf("%s: the change is not seen where it was made", path)
		}
	}
	fill := func() {
		for i := range 20 {
			get(t, fmt.Sprint(bases[i%2], "/tagged/", i), "")
			get(t, fmt.Sprint(bases[1-i%2], "/tagged/", i), "")
		}
	}
	fill()
	s.epoch.Add(1)
	for _, e := range edges {
		if err := e.Purge(edge.Purge{Kind: edge.PurgeTag, Value: "all", Epoch: 3}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		for _, base := range bases {
			path := fmt.Sprint("/tagged/", i)
			if _, got := get(t, base+path, ""); !bytes.Equal(got, s.body(path)) {
				t.Errorf("%s at %s: old bytes after a purge of their tag", path, base)
			}
		}
	}
}

// A peer that answers with an error, or as somebody who is no cache, costs a request and not an answer; and a peer's age counts.
func TestPeersAnswerIsACaches(t *testing.T) {
	s := &site{}
	origin := httptest.NewServer(s)
	defer origin.Close()
	for name, answer := range map[string]http.HandlerFunc{
		"error":    func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusBadGateway) },
		"stranger": func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "a page of somebody else") },
		"refuses":  func(w http.ResponseWriter, r *http.Request) { http.Error(w, "who are you", http.StatusUnauthorized) },
	} {
		t.Run(name, func(t *testing.T) {
			base, asked := besidePeer(t, origin.URL, answer)
			for i := range 20 {
				path := fmt.Sprint("/x/", name, i)
				if resp, got := get(t, base+path, ""); resp.StatusCode != 200 || !bytes.Equal(got, s.body(path)) {
					t.Errorf("%s: %s, %d bytes", path, resp.Status, len(got))
				}
			}
			if asked.Load() == 0 {
				t.Error("the peer was never asked")
			}
		})
	}
	base, asked := besidePeer(t, origin.URL, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=600")
		w.Header().Set("Age", "500")
		w.Header().Set("Cache-Status", "other; hit")
		io.WriteString(w, "from the peer")
	})
	for i := range 20 {
		resp, got := get(t, fmt.Sprint(base, "/aged/", i), "")
		if string(got) != "from the peer" {
			continue
		}
		if age := resp.Header.Get("Age"); age < "500" || len(age) != 3 {
			t.Errorf("Age %q of what a peer had for 500 s", age)
		}
		if status := resp.Header.Get("Cache-Status"); !strings.HasPrefix(status, "other; hit, ") || !strings.Contains(status, "detail=shield") {
			t.Errorf("Cache-Status %q", status)
		}
		return
	}
	t.Errorf("no answer of the peer's came through, asked %d times", asked.Load())
}

// besidePeer starts an edge in front of an HTTP origin, with one peer that answers as it is told.
func besidePeer(t *testing.T, origin string, answer http.HandlerFunc) (base string, asked *atomic.Int32) {
	t.Helper()
	asked = new(atomic.Int32)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		answer(w, r)
	}))
	t.Cleanup(other.Close)
	to, err := edge.NewHTTPOrigin(origin)
	if err != nil {
		t.Fatal(err)
	}
	e, base, _ := serveEdge(t, edge.Config{Routes: []*edge.Route{{Prefix: "/", Origin: to}}}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	public, private, _ := ed25519.GenerateKey(nil)
	e.SetPeers("self", private, []edge.Peer{{Name: "other", URL: other.URL, Key: public}})
	return base, asked
}

// Edges of a region get a new release one after the other: one that has the new origin takes nothing from a peer that has the old.
func TestPeersOfAnotherOriginDecline(t *testing.T) {
	old, next := &site{}, &site{}
	next.epoch.Store(1)
	bases, edges, _, _ := httpFleet(t, 2, old)
	origin := httptest.NewServer(next)
	defer origin.Close()
	for i := range 20 {
		get(t, fmt.Sprint(bases[0], "/r/", i), "")
	}
	to, err := edge.NewHTTPOrigin(origin.URL)
	if err != nil {
		t.Fatal(err)
	}
	if err := edges[1].SetRoutes([]*edge.Route{{Prefix: "/r/", Origin: to}}); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		path := fmt.Sprint("/r/", i)
		want := next.body(fmt.Sprint("/", i)) // the prefix is the edge's
		if _, got := get(t, bases[1]+path, ""); !bytes.Equal(got, want) {
			t.Errorf("%s: from the old origin", path)
		}
	}
}

// One that has no route yet, or refused the release, does not say 404 for those that have it.
func TestPeersWithoutTheRouteDecline(t *testing.T) {
	s := &site{}
	origin := httptest.NewServer(s)
	defer origin.Close()
	to, err := edge.NewHTTPOrigin(origin.URL)
	if err != nil {
		t.Fatal(err)
	}
	bases, edges, _, _ := fleetOf(t, 2, edge.Config{Routes: []*edge.Route{{Prefix: "/own/", Origin: to}}})
	if err := edges[1].SetRoutes([]*edge.Route{{Prefix: "/r/", Origin: to}}); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if resp, got, err := try(t, fmt.Sprint(bases[1], "/r/", i), ""); err != nil || !bytes.Equal(got, s.body(fmt.Sprint("/", i))) {
			t.Errorf("/r/%d: %s, %v", i, resp.Status, err)
		}
	}
	if resp, _, _ := try(t, bases[0]+"/r/0", ""); resp.StatusCode != http.StatusNotFound {
		t.Errorf("without the route: %s", resp.Status)
	}
}
