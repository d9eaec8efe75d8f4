package controlplane_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"segue/controlplane/api"
	"segue/edge"
	"segue/edge/fleet"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
)

// fleetEdge is a real edge in front of an HTTP origin, and a member of the fleet.
type fleetEdge struct {
	name, dir, url string
	stop           func()
}

func (s *server) startEdge(name, dir, origin string) *fleetEdge {
	s.t.Helper()
	o, err := edge.NewHTTPOrigin(origin)
	if err != nil {
		s.t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	e, err := edge.New(edge.Config{Name: name, DiskDir: dir + "/blocks", Tokens: true, Routes: []*edge.Route{{Prefix: "/", Origin: o}}}, log, prometheus.NewRegistry())
	if err != nil {
		s.t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	f := &fleetEdge{name: name, dir: dir, url: "http://" + ln.Addr().String()}
	token := call[api.JoinToken](s.t, s.admin, "POST", "/v1/admin/join-tokens", api.NewJoinToken{Region: "eu"})
	ctx, cancel := context.WithCancel(context.Background())
	served, beaten, up := make(chan error, 1), make(chan error, 1), make(chan struct{}, 2)
	go func() { served <- e.Serve(ctx, ln, func() { up <- struct{}{} }) }()
	<-up
	mctx, mcancel := context.WithCancel(ctx)
	m, err := fleet.Join(mctx, fleet.Config{ControlPlane: s.URL, Name: name, PublicURL: f.url, JoinToken: token.Token, Dir: dir}, e, log)
	if err != nil {
		s.t.Fatal(err)
	}
	go func() { beaten <- m.Run(mctx, func() { up <- struct{}{} }) }()
	<-up
	f.stop = func() {
		mcancel()
		if err := <-beaten; err != nil {
			s.t.Error(err)
		}
		cancel()
		if err := <-served; err != nil {
			s.t.Error(err)
		}
		f.stop = func() {}
	}
	s.t.Cleanup(func() { f.stop() })
	return f
}

func fetch(t testing.TB, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// acknowledged waits for the edges with these names, and returns the time from the order to the last of them.
func (s *server) acknowledged(p api.Purge, names ...string) time.Duration {
	s.t.Helper()
	var last time.Duration
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		now := call[api.Purge](s.t, s.admin, "GET", "/v1/admin/purges/"+p.ID, nil)
		n := 0
		last = 0
		for _, e := range now.Edges {
			if e.DoneAt != nil && slices.Contains(names, e.Name) {
				n++
				last = max(last, e.DoneAt.Sub(p.CreatedAt))
			}
		}
		if n == len(names) {
			return last
		}
	}
	s.t.Fatalf("purge %s was not acknowledged by %v", p.ID, names)
	return 0
}

// TestPurgeOfTheFleet: three edges, from the operator's order to the last acknowledgement.
func TestPurgeOfTheFleet(t *testing.T) {
	databases(t, func(t *testing.T, s *server) {
		var value atomic.Int64
		origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=3600")
			w.Header().Set("ETag", `"same"`)
			w.Header().Set("Surrogate-Key", "news")
			fmt.Fprint(w, value.Load())
		}))
		t.Cleanup(origin.Close)
		call[api.Region](t, s.admin, "PUT", "/v1/admin/regions/eu", api.NewRegion{DisplayName: "eu"})
		refused(t, s.admin, "POST", "/v1/admin/purges", api.NewPurge{Kind: "everything", Value: "x"}, 422, "validation")
		refused(t, s.admin, "POST", "/v1/admin/purges", api.NewPurge{Kind: "tag"}, 422, "validation")
		refused(t, s.admin, "GET", "/v1/admin/purges/"+ulid.Make().String(), nil, 404, "not-found")
		refused(t, s.client("nobody"), "POST", "/v1/admin/purges", api.NewPurge{Kind: "tag", Value: "x"}, 401, "unauthenticated")
		order := func(kind, value string) api.Purge {
			t.Helper()
			return call[api.Purge](t, s.admin, "POST", "/v1/admin/purges", api.NewPurge{Kind: kind, Value: value})
		}
		var edges []*fleetEdge
		var names []string
		for i := range 3 {
			edges = append(edges, s.startEdge(fmt.Sprint("e", i), t.TempDir(), origin.URL))
			names = append(names, edges[i].name)
		}
		var times []time.Duration
		for i := range 20 {
			value.Store(int64(i))
			p := order([]string{"tag", "key", "prefix"}[i%3], []string{"news", "/art/a", "/"}[i%3])
			times = append(times, s.acknowledged(p, names...))
			for _, e := range edges {
				if got := fetch(t, e.url+"/art/a"); got != fmt.Sprint(i) {
					t.Errorf("%s acknowledged purge %d and serves %s", e.name, i, got)
				}
			}
		}
		slices.Sort(times)
		t.Logf("from order to last of 3 acknowledgements: median %v, p90 %v, max %v", times[len(times)/2], times[len(times)*9/10], times[len(times)-1])

		// An edge that was away purges before it is back among those that players are sent to.
		edges[2].stop()
		value.Store(100)
		p := order("tag", "news")
		s.acknowledged(p, names[:2]...)
		if now := call[api.Purge](t, s.admin, "GET", "/v1/admin/purges/"+p.ID, nil); now.Edges[2].DoneAt != nil || now.Epoch != p.Epoch || now.Value != "news" || len(now.Edges) != 3 {
			t.Errorf("%+v", now)
		}
		back := s.startEdge(edges[2].name, edges[2].dir, origin.URL)
		s.acknowledged(p, names...)
		if got := fetch(t, back.url+"/art/a"); got != "100" {
			t.Errorf("back, and serves %s", got)
		}

		// What names nothing at an edge is acknowledged all the same, and does not stand in the way.
		s.acknowledged(order("key", "/"+strings.Repeat("%zz", 3)), names...)
		s.acknowledged(order("tag", "news"), names...)
	})
}
