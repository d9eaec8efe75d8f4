package controlplane_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"segue/controlplane"
	"segue/controlplane/api"
	"segue/edge"
	"segue/edge/fleet"
	"segue/internal/testenv"
	"segue/media"
	"segue/media/hls"
	"segue/origin/dirstore"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
)

// wire is a loopback TCP proxy: a way between two hosts that can be cut. A cut wire takes connections and says nothing, as
// a network does that loses packets.
type wire struct {
	ln net.Listener
	to string
	t  testing.TB

	mu    sync.Mutex // guards the fields below
	cut   bool
	conns map[net.Conn]bool
}

func newWire(t testing.TB, to string) *wire {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{ln: ln, to: to, t: t, conns: map[net.Conn]bool{}}
	var done sync.WaitGroup
	done.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			done.Go(func() { w.carry(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		w.closeAll()
		done.Wait()
	})
	return w
}

func (w *wire) addr() string { return w.ln.Addr().String() }

// hold keeps a connection for the next cut; false: the wire is cut.
func (w *wire) hold(c net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns[c] = true
	return !w.cut
}

func (w *wire) carry(a net.Conn) {
	defer a.Close()
	if !w.hold(a) {
		_, _ = io.Copy(io.Discard, a) // until it gives up, or the test ends
		return
	}
	b, err := net.Dial("tcp", w.to)
	if err != nil {
		return
	}
	defer b.Close()
	if !w.hold(b) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(a, b); a.Close() })
	_, _ = io.Copy(b, a)
	b.Close()
	both.Wait()
}

func (w *wire) closeAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		c.Close()
	}
	w.conns = map[net.Conn]bool{}
}

// sever cuts the wire, or mends it.
func (w *wire) sever(on bool) {
	w.mu.Lock()
	w.cut = on
	w.mu.Unlock()
	w.closeAll()
}

// program is an edge as a process.
type program struct {
	*exec.Cmd
	name, addr string
}

// runEdge starts segue-edge; more are flags.
func (s *server) runEdge(name, host, region, origin string, more ...string) *program {
	s.t.Helper()
	call[api.Region](s.t, s.admin, "PUT", "/v1/admin/regions/"+region, api.NewRegion{DisplayName: region, Latitude: 52, Longitude: 5})
	token := call[api.JoinToken](s.t, s.admin, "POST", "/v1/admin/join-tokens", api.NewJoinToken{Region: region})
	dir := s.t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte(token.Token), 0o600); err != nil {
		s.t.Fatal(err)
	}
	p := &program{name: name, addr: fmt.Sprintf("%s:%d", host, testenv.Port(s.t))}
	args := append([]string{"--listen", p.addr, "--origin", origin, "--memory", "64MiB", "--control", s.URL, "--name", name, "--join-token-file", filepath.Join(dir, "token"), "--state", filepath.Join(dir, "state"),
		"--log-level", "error"}, more...)
	for i := range args { // the last one of a flag counts
		args[i] = strings.ReplaceAll(args[i], "ADDR", p.addr)
	}
	p.Cmd = exec.Command(testenv.Program(s.t, "segue-edge"), args...)
	p.Stderr = os.Stderr
	if err := p.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = p.Process.Kill() // it may be dead
		_ = p.Wait()
	})
	return p
}

// edges are the operator's view, by name.
func (s *server) edges() map[string]api.Edge {
	s.t.Helper()
	out := map[string]api.Edge{}
	for _, e := range call[api.Page[api.Edge]](s.t, s.admin, "GET", "/v1/admin/edges", nil).Items {
		out[e.Name] = e
	}
	return out
}

func (s *server) states() string {
	var out []string
	for name, e := range s.edges() {
		out = append(out, name+" "+e.State)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// within waits for a condition and returns how long it took.
func within(t testing.TB, limit time.Duration, what string, f func() bool) time.Duration {
	t.Helper()
	begun := time.Now()
	for !f() {
		if time.Since(begun) > limit {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(begun)
}

// holds checks that a condition is true all the time.
func holds(t testing.TB, d time.Duration, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if !f() {
			t.Fatalf("does not hold: %s", what)
		}
	}
}

// registries runs a test with heartbeats only, and with Consul beside them.
func registries(t *testing.T, f func(t *testing.T, cfg func(*controlplane.Config), flags []string, agent *testenv.Consul)) {
	t.Run("memory", func(t *testing.T) { f(t, func(*controlplane.Config) {}, nil, nil) })
	t.Run("consul", func(t *testing.T) {
		agent := testenv.StartConsul(t)
		f(t, func(c *controlplane.Config) { c.Registry.URL = agent.URL() }, []string{"--registry", agent.URL()}, agent)
	})
}

// TestKilledEdgeLeavesEveryAnswer: playback, steering manifest, redirect and DNS, within 3 s of SIGKILL.
func TestKilledEdgeLeavesEveryAnswer(t *testing.T) {
	registries(t, func(t *testing.T, cfg func(*controlplane.Config), flags []string, _ *testenv.Consul) {
		zone := filepath.Join(t.TempDir(), "zone.json")
		if err := os.WriteFile(zone, []byte(`{"zone": "play.example.org", "ns": [{"name": "ns1.example.net"}], "hostmaster": "dns@example.org", "per_second": -1}`), 0o600); err != nil {
			t.Fatal(err)
		}
		dns := testenv.Addr(t)
		s := newServerWith(t, "sqlite:"+t.TempDir()+"/segue.db", "", func(c *controlplane.Config) {
			cfg(c)
			c.DNSListen, c.DNSZone = dns, zone
		})
		user, _ := s.signIn("ada@example.org")
		track := s.publish(media.Tags{Title: "A", Artist: "B", AlbumArtist: "B", Album: "C"}, 100, "a")
		list := string(hls.Multivariant([]media.Rendition{{Name: "aac_96", File: "aac_96.mp4", Codec: "mp4a.40.2"}}))
		if _, err := s.objects.Put(t.Context(), media.Object{Key: media.TrackKey(track.ID, track.Version, media.LimitedMasterPlaylist), Size: int64(len(list))}, strings.NewReader(list)); err != nil {
			t.Fatal(err)
		}
		var edges []*program
		for i := range 3 {
			edges = append(edges, s.runEdge(fmt.Sprint("e", i), fmt.Sprintf("127.0.0.%d", 2+i), "eu", t.TempDir(), flags...))
		}
		within(t, 60*time.Second, "three edges", func() bool { return s.states() == "e0 healthy, e1 healthy, e2 healthy" })
		p := call[api.Playback](t, user, "POST", "/v1/playback", api.NewPlayback{TrackID: track.ID})
		_, body := get(t, p.SteeredHLSURL)
		_, rest, _ := strings.Cut(body, `SERVER-URI="`)
		server, _, _ := strings.Cut(rest, `"`)
		// The victim is the one that players are sent to first.
		victim := edges[slices.IndexFunc(edges, func(e *program) bool { return e.name == p.Pathways[0].ID })]
		resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, dns)
		}}
		host, _, _ := net.SplitHostPort(victim.addr)
		_, token, _ := strings.Cut(p.HLSURL, "/t/")
		token, _, _ = strings.Cut(token, "/")
		answers := map[string]func() bool{ // whether the victim is in it
			"playback": func() bool {
				r := call[api.Playback](t, user, "POST", "/v1/playback/"+p.PlayID+"/renew", api.RenewPlayback{})
				return slices.ContainsFunc(r.Pathways, func(w api.Pathway) bool { return w.ID == victim.name })
			},
			"steering": func() bool {
				_, body := get(t, server+"&_HLS_pathway=x")
				var a struct {
					Priority []string `json:"PATHWAY-PRIORITY"`
				}
				if err := json.Unmarshal([]byte(body), &a); err != nil {
					t.Fatalf("%v: %s", err, body)
				}
				return len(a.Priority) > 0 && a.Priority[0] == victim.name
			},
			"redirect": func() bool {
				r, _ := get(t, s.URL+"/r/t/"+token+"/"+string(media.TrackKey(track.ID, track.Version, "aac_96.mp4")))
				return strings.Contains(r.Header.Get("Location"), "//"+host+":")
			},
			"dns": func() bool {
				addrs, err := resolver.LookupHost(t.Context(), "play.example.org")
				return err == nil && slices.Contains(addrs, host)
			},
		}
		for name, in := range answers {
			if name != "dns" && !in() { // of DNS: the name's own hash may put others first
				t.Fatalf("%s: the victim is not in it before", name)
			}
		}
		killed := time.Now()
		if err := victim.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for name, in := range answers {
			all.Go(func() {
				last := killed
				for now := killed; now.Sub(killed) < 6*time.Second; now = time.Now() {
					if in() {
						last = time.Now()
					}
					time.Sleep(20 * time.Millisecond)
				}
				t.Logf("%s: out after %v", name, last.Sub(killed).Round(time.Millisecond))
				if last.Sub(killed) > 3*time.Second {
					t.Errorf("%s: the killed edge was in it for %v", name, last.Sub(killed))
				}
			})
		}
		all.Wait()
	})
}

// TestPartitions cuts the ways between an edge, the control plane and Consul, one direction or more at a time.
func TestPartitions(t *testing.T) {
	agent := testenv.StartConsul(t)
	toConsul := newWire(t, agent.Addr) // of the control plane
	s := newServerWith(t, "sqlite:"+t.TempDir()+"/segue.db", "", func(c *controlplane.Config) { c.Registry.URL = "consul://" + toConsul.addr() })
	toControl := newWire(t, strings.TrimPrefix(s.URL, "http://")) // of the edge e0
	addr := fmt.Sprintf("127.0.0.1:%d", testenv.Port(t))
	toEdge := newWire(t, addr) // of the control plane and of players, to e0
	origin := t.TempDir()
	s.runEdge("e0", "127.0.0.1", "eu", origin, "--listen", addr, "--control", "http://"+toControl.addr(), "--public-url", "http://"+toEdge.addr(), "--registry", agent.URL())
	for i := 1; i < 4; i++ { // the rest of the fleet
		s.runEdge(fmt.Sprint("e", i), "127.0.0.1", "eu", origin, "--registry", agent.URL())
	}
	const well = "e0 healthy, e1 healthy, e2 healthy, e3 healthy"
	opinions := func(want api.Opinions) func() bool {
		return func() bool { return s.edges()["e0"].Opinions == want }
	}
	in := func() bool { return s.states() == well }
	within(t, 90*time.Second, "four edges, of which all is known", func() bool {
		return in() && opinions(api.Opinions{Heartbeat: "up", Registry: "up", Probe: "up", Players: "-"})()
	})

	t.Log("edge -> control plane")
	toControl.sever(true)
	holds(t, 6*time.Second, "an edge that cannot reach us stays", in)
	within(t, time.Second, "but we know", opinions(api.Opinions{Heartbeat: "down", Registry: "up", Probe: "up", Players: "-"}))

	t.Log("and control plane -> Consul")
	toConsul.sever(true)
	holds(t, 8*time.Second, "stays by the probe", in)
	within(t, 2*time.Second, "and the registry has no say", opinions(api.Opinions{Heartbeat: "down", Registry: "-", Probe: "up", Players: "-"}))
	toConsul.sever(false)
	within(t, 10*time.Second, "Consul is heard again", opinions(api.Opinions{Heartbeat: "down", Registry: "up", Probe: "up", Players: "-"}))

	t.Log("both ways between edge and control plane, players included")
	toEdge.sever(true)
	within(t, 3*time.Second, "out, though Consul still has it", func() bool { return s.edges()["e0"].State == "dead" })
	toEdge.sever(false)
	within(t, 6*time.Second, "in again by a probe", in)
	toControl.sever(false)
	within(t, 12*time.Second, "all is well", opinions(api.Opinions{Heartbeat: "up", Registry: "up", Probe: "up", Players: "-"}))

	t.Log("control plane -> edge")
	toEdge.sever(true)
	holds(t, 8*time.Second, "an edge that says that it lives stays", in)
	toEdge.sever(false)

	t.Log("Consul is killed and comes back without memory")
	agent.Kill()
	holds(t, 5*time.Second, "nobody leaves", in)
	agent.Start()
	within(t, 20*time.Second, "registered again", func() bool {
		return s.edges()["e3"].Opinions.Registry == "up" && s.edges()["e0"].Opinions.Registry == "up"
	})
	holds(t, 2*time.Second, "nobody left", in)
}

// TestConsulLeaderIsLost: three servers, an edge at each of two, the control plane at the third.
func TestConsulLeaderIsLost(t *testing.T) {
	servers := testenv.StartConsulCluster(t, 3)
	s := newServerWith(t, "sqlite:"+t.TempDir()+"/segue.db", "", func(c *controlplane.Config) { c.Registry.URL = servers[0].URL() })
	var edges []*program
	for i := range 3 {
		edges = append(edges, s.runEdge(fmt.Sprint("e", i), "127.0.0.1", "eu", t.TempDir(), "--registry", servers[i].URL()))
	}
	in := func() bool { return s.states() == "e0 healthy, e1 healthy, e2 healthy" }
	within(t, 90*time.Second, "three edges", func() bool { return in() && s.edges()["e2"].Opinions.Registry == "up" })
	for i, c := range servers {
		if c.Leads() {
			t.Logf("server %d leads, and is killed", i)
			c.Kill()
			break
		}
	}
	holds(t, 5*time.Second, "nobody leaves with the leader", in)
	if err := edges[1].Process.Kill(); err != nil {
		t.Fatal(err)
	}
	t.Logf("a killed edge is out after %v", within(t, 3200*time.Millisecond, "a killed edge", func() bool { return s.edges()["e1"].State == "dead" }))
}

// TestControlPlaneAway: 50 edges and playing clients lose their control plane. Pauses between tries reach their longest
// after some 15 s, and tokens live for hours: what is true after 20 s is so after 10 minutes.
func TestControlPlaneAway(t *testing.T) {
	const fleetSize, away = 50, 20 * time.Second
	s := newServer(t, "sqlite:"+t.TempDir()+"/segue.db", "")
	user, _ := s.signIn("ada@example.org")
	track := s.publish(media.Tags{Title: "A", Artist: "B", AlbumArtist: "B", Album: "C"}, 100, "a")
	origin := t.TempDir()
	store, err := dirstore.Open(origin)
	if err != nil {
		t.Fatal(err)
	}
	body := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	key := media.TrackKey(track.ID, track.Version, "aac_96.mp4")
	if _, err := store.Put(t.Context(), media.Object{Key: key, Size: int64(len(body)), ContentType: "audio/mp4"}, strings.NewReader(body)); err != nil {
		t.Fatal(err)
	}

	// front stands before the control plane, is it or is not, and counts.
	var down atomic.Bool
	var mu sync.Mutex
	var asked []time.Time
	target, _ := url.Parse(s.URL)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			panic(http.ErrAbortHandler)
		}
		mu.Lock()
		asked = append(asked, time.Now())
		mu.Unlock()
		proxy.ServeHTTP(w, r)
	}))
	front.Config.ErrorLog = proxy.ErrorLog
	t.Cleanup(front.Close)

	call[api.Region](t, s.admin, "PUT", "/v1/admin/regions/eu", api.NewRegion{DisplayName: "eu"})
	token := call[api.JoinToken](t, s.admin, "POST", "/v1/admin/join-tokens", api.NewJoinToken{Region: "eu", MaxUses: fleetSize})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	log := slog.New(slog.DiscardHandler)
	for i := range fleetSize {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		files, err := dirstore.OpenReadOnly(origin)
		if err != nil {
			t.Fatal(err)
		}
		e, err := edge.New(edge.Config{Name: fmt.Sprintf("e%02d", i), Memory: 4 << 20, Records: 1 << 20, Tokens: true, Routes: []*edge.Route{{Prefix: "/", Origin: edge.StoreOrigin{Store: files, Fresh: time.Minute}}}}, log, prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() {
			if err := e.Serve(ctx, ln, func() {}); err != nil {
				t.Error(err)
			}
		})
		m, err := fleet.Join(ctx, fleet.Config{ControlPlane: front.URL, Name: fmt.Sprintf("e%02d", i), PublicURL: "http://" + ln.Addr().String(), JoinToken: token.Token, Dir: t.TempDir()}, e, log)
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() {
			if err := m.Run(ctx, func() {}); err != nil {
				t.Error(err)
			}
		})
	}
	healthy := func() (n int) {
		for _, e := range s.edges() {
			if e.State == "healthy" {
				n++
			}
		}
		return n
	}
	within(t, 60*time.Second, "50 edges", func() bool { return healthy() == fleetSize })
	p := call[api.Playback](t, user, "POST", "/v1/playback", api.NewPlayback{TrackID: track.ID})
	base := p.Pathways[0]
	_, tok, _ := strings.Cut(p.HLSURL, "/t/")
	tok, _, _ = strings.Cut(tok, "/")
	link := s.edges()[base.ID].URL + "/t/" + tok + "/" + string(key)

	var played, failed atomic.Int64
	playing, stop := context.WithCancel(ctx)
	var player sync.WaitGroup
	player.Go(func() { // a segment now and then, until the end
		for i := 0; playing.Err() == nil; i++ {
			at := i * 4096 % len(body)
			req, _ := http.NewRequestWithContext(ctx, http.MethodGet, link, nil)
			req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", at, at+4095))
			resp, err := http.DefaultClient.Do(req)
			if err == nil {
				b, rerr := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err = rerr; err == nil && (resp.StatusCode != http.StatusPartialContent || string(b) != body[at:at+4096]) {
					err = fmt.Errorf("%s, %d bytes", resp.Status, len(b))
				}
			}
			if err != nil {
				failed.Add(1)
				t.Log(err)
			}
			played.Add(1)
			time.Sleep(20 * time.Millisecond)
		}
	})
	mu.Lock()
	begun := time.Now()
	asked = nil
	mu.Unlock()
	time.Sleep(5 * time.Second) // what is usual
	mu.Lock()
	usual := float64(len(asked)) / time.Since(begun).Seconds()
	mu.Unlock()

	down.Store(true)
	front.CloseClientConnections()
	// The player's events wait with the player, as it has no answer.
	waiting := []api.Event{{ID: ulid.Make().String(), PlayID: p.PlayID, Type: api.EventStart, At: time.Now().UTC(), StartupMS: 80, Edge: base.ID, Rendition: "aac_96"},
		{ID: ulid.Make().String(), PlayID: p.PlayID, Type: api.EventProgress, At: time.Now().UTC(), PositionMS: 30_000, PlayedMS: 30_000, Edge: base.ID, Rendition: "aac_96"}}
	through, err := api.NewClient(front.URL, func() (string, error) { return "", nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := through.Call(ctx, "GET", "/v1/me", nil, nil); err == nil {
		t.Error("the control plane is not away")
	}
	before := played.Load()
	holds(t, away, "segments are served", func() bool { return failed.Load() == 0 })
	if played.Load()-before < 50 {
		t.Errorf("only %d segments", played.Load()-before)
	}

	mu.Lock()
	asked = nil
	mu.Unlock()
	back := time.Now()
	down.Store(false)
	took := within(t, 30*time.Second, "all edges are heard again", func() bool {
		n := 0
		for _, e := range s.edges() {
			if e.Opinions.Heartbeat == "up" && e.State == "healthy" {
				n++
			}
		}
		return n == fleetSize
	})
	time.Sleep(12 * time.Second) // more than the longest pause
	mu.Lock()
	var bins [120]int
	for _, at := range asked {
		if i := int(at.Sub(back) / (100 * time.Millisecond)); i >= 0 && i < len(bins) {
			bins[i]++
		}
	}
	mu.Unlock()
	second := 0
	for i := range len(bins) - 9 {
		n := 0
		for _, b := range bins[i : i+10] {
			n += b
		}
		second = max(second, n)
	}
	t.Logf("usual %.0f requests/s; after the return at most %d in 0.1 s and %d in 1 s; all edges heard after %v", usual, slices.Max(bins[:]), second, took.Round(time.Millisecond))
	// Every edge has three things to ask: heartbeat, configuration, purges. Without jitter all 150 come within a moment.
	if slices.Max(bins[:]) > fleetSize/2 || second > 3*fleetSize/2 {
		t.Errorf("a stampede: %v", bins)
	}
	stop()
	player.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d of %d segments failed", failed.Load(), played.Load())
	}
	if r := call[api.EventsAccepted](t, user, "POST", "/v1/events", waiting); r.Accepted != 2 {
		t.Errorf("%+v", r)
	}
	if r := call[api.Playback](t, user, "POST", "/v1/playback/"+p.PlayID+"/renew", api.RenewPlayback{}); r.PlayID != p.PlayID || len(r.Pathways) == 0 {
		t.Errorf("%+v", r)
	}
}

// TestLastKnownAndClocks: a control plane that begins anew sends players to the edges that were good; an edge with a wrong
// clock is told from the others.
func TestLastKnownAndClocks(t *testing.T) {
	database := "sqlite:" + t.TempDir() + "/segue.db"
	alive := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(alive.Close)
	t.Run("before", func(t *testing.T) {
		s := newServer(t, database, "")
		ms := []member{s.join("e0", "eu", alive.URL, 52, 5), s.join("e1", "eu", "http://127.0.0.1:1", 52, 5), s.join("e2", "eu", alive.URL, 52, 5)}
		beat := func(m member, off time.Duration) {
			call[api.HeartbeatReply](t, m.client(t, s), "POST", "/v1/fleet/heartbeat", api.Heartbeat{URL: alive.URL, At: time.Now().Add(off), CPURatio: 0.5, CapacityBps: 2e9, Weight: 3})
		}
		for range 5 {
			beat(ms[0], 0)
			beat(ms[2], 30*time.Second)
		}
		e := s.edges()
		if !e["e2"].ClockWrong || e["e0"].ClockWrong || e["e2"].ClockSkewMS == nil || *e["e2"].ClockSkewMS < 29_000 || *e["e2"].ClockSkewMS > 31_000 {
			t.Errorf("%+v", e["e2"])
		}
		user, _ := s.signIn("ada@example.org")
		track := s.publish(media.Tags{Title: "A", Artist: "B", AlbumArtist: "B", Album: "C"}, 100, "a")
		for _, w := range call[api.Playback](t, user, "POST", "/v1/playback", api.NewPlayback{TrackID: track.ID}).Pathways {
			if w.ID == "e2" {
				t.Error("a player with a token is sent to a wrong clock")
			}
		}
		x := call[api.Explanation](t, s.admin, "GET", "/v1/admin/explain?ip=192.0.2.1&track="+string(track.ID), nil)
		if b, _ := json.Marshal(x); !strings.Contains(string(b), "clock-is-wrong") {
			t.Errorf("%s", b)
		}
	})
	t.Run("after", func(t *testing.T) {
		s := newServer(t, database, "")
		e := s.edges()
		if e["e0"].State != "healthy" || !e["e0"].LastKnown && e["e0"].Opinions.Probe != "up" || e["e0"].URL != alive.URL || e["e0"].LastSeen.IsZero() {
			t.Errorf("%+v", e["e0"])
		}
		within(t, 5*time.Second, "probes find who is there", func() bool { return s.edges()["e0"].Opinions.Probe == "up" })
		within(t, 5*time.Second, "and who is not", func() bool { return s.edges()["e1"].State == "dead" })
	})
}

// TestDatabaseAway: heartbeats count while SQL says nothing, and an edge that falls silent goes all the same.
func TestDatabaseAway(t *testing.T) {
	at, err := url.Parse(testenv.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	way := newWire(t, at.Host)
	at.Host = way.addr()
	s := newServerWith(t, at.String(), "", func(*controlplane.Config) {})
	t.Cleanup(func() { way.sever(false) })
	one, two := s.join("e0", "eu", "http://e0.example", 52, 5), s.join("e1", "eu", "http://e1.example", 52, 5)
	_ = two // says no more
	edge := one.client(t, s)
	beat := func() {
		call[api.HeartbeatReply](t, edge, "POST", "/v1/fleet/heartbeat", api.Heartbeat{URL: "http://e0.example", At: time.Now()})
	}
	to := func() string {
		r, _ := get(t, s.URL+"/r/news/a")
		return r.Header.Get("Location")
	}
	beat()
	way.sever(true)
	for end := time.Now().Add(8 * time.Second); time.Now().Before(end); {
		beat()
		if left := time.Until(end); left < 4*time.Second && to() != "http://e0.example/news/a" {
			t.Fatalf("sent to %q", to())
		}
	}
	way.sever(false)
	within(t, 20*time.Second, "the database is back", func() bool { beat(); return s.admin.Call(t.Context(), "GET", "/v1/admin/edges", nil, nil) == nil })
	if got := s.states(); got != "e0 healthy, e1 dead" {
		t.Error(got)
	}
}

// TestLiarsAndComplaints: what listeners say counts when they are several, and never against an edge that we reach.
func TestLiarsAndComplaints(t *testing.T) {
	alive := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(alive.Close)
	s := newServer(t, "sqlite:"+t.TempDir()+"/segue.db", "")
	track := s.publish(media.Tags{Title: "A", Artist: "B", AlbumArtist: "B", Album: "C"}, 100, "a")
	ms := []member{s.join("e0", "eu", alive.URL, 52, 5), s.join("e1", "eu", "http://127.0.0.1:1", 52, 5), s.join("e2", "eu", alive.URL, 52, 5), s.join("e3", "eu", alive.URL, 52, 5)}
	urls := []string{alive.URL, "http://127.0.0.1:1", alive.URL, alive.URL}
	beat := func() {
		for i, m := range ms {
			call[api.HeartbeatReply](t, m.client(t, s), "POST", "/v1/fleet/heartbeat", api.Heartbeat{URL: urls[i], At: time.Now()})
		}
	}
	beat()
	within(t, 10*time.Second, "probes", func() bool {
		beat()
		return s.edges()["e0"].Opinions.Probe == "up" && s.edges()["e1"].Opinions.Probe == "down"
	})
	complain := func(who int, edges ...string) {
		user, _ := s.signIn(fmt.Sprintf("u%d-%s@example.org", who, edges[0]))
		p := call[api.Playback](t, user, "POST", "/v1/playback", api.NewPlayback{TrackID: track.ID})
		for _, e := range edges {
			call[api.EventsAccepted](t, user, "POST", "/v1/events", []api.Event{{ID: ulid.Make().String(), PlayID: p.PlayID, Type: api.EventError, At: time.Now().UTC(), Edge: e, Message: "x"}})
		}
	}
	for i := range 2 {
		complain(i, "e1")
	}
	beat()
	if e := s.edges()["e1"]; e.State != "healthy" || e.Opinions.Players != "-" {
		t.Errorf("two are enough: %+v", e)
	}
	complain(2, "e1")
	for i := range 4 {
		complain(i, "e0")
	}
	beat()
	e := s.edges()
	if e["e1"].State != "dead" || e["e1"].Reason != "players-report-errors" {
		t.Errorf("an edge that nobody reaches: %+v", e["e1"])
	}
	if e["e0"].State != "healthy" || e["e0"].Opinions.Players != "down" {
		t.Errorf("an edge that answers: %+v", e["e0"])
	}
}
