package controlplane_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"segue/controlplane"
	"segue/controlplane/api"
	"segue/internal/testenv"
	"segue/media"
	"segue/origin/dirstore"
)

// process is a segue-edge of its own, a member of a server's fleet.
type process struct {
	t     *testing.T
	name  string
	url   string
	state string
	args  []string
	cmd   *exec.Cmd
}

// startProcess joins a new edge to region eu, which is there.
func (s *server) startProcess(name string, more ...string) *process {
	s.t.Helper()
	token := call[api.JoinToken](s.t, s.admin, "POST", "/v1/admin/join-tokens", api.NewJoinToken{Region: "eu"})
	dir := s.t.TempDir()
	file := filepath.Join(dir, "token")
	if err := os.WriteFile(file, []byte(token.Token), 0o600); err != nil {
		s.t.Fatal(err)
	}
	addr := testenv.Addr(s.t)
	p := &process{t: s.t, name: name, url: "http://" + addr, state: filepath.Join(dir, "state")}
	p.args = append([]string{"--listen", addr, "--memory", "32MiB", "--name", name, "--join-token-file", file, "--state", p.state, "--log-level", "error"}, more...)
	p.start(s.URL)
	s.t.Cleanup(p.kill)
	return p
}

func (p *process) start(control string) {
	p.t.Helper()
	p.cmd = exec.Command(testenv.Program(p.t, "segue-edge"), append(p.args, "--control", control)...)
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
}

// kill is kill -9. It may be dead.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// get is a body, or the status when that is not 200, or the error.
func (p *process) get(path string) string {
	resp, err := http.Get(p.url + path)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err.Error()
	case resp.StatusCode != http.StatusOK:
		return fmt.Sprint(resp.StatusCode)
	}
	return string(b)
}

func (s *server) fleetStatus() map[string]api.FleetEdge {
	s.t.Helper()
	out := map[string]api.FleetEdge{}
	for _, e := range call[api.FleetStatus](s.t, s.admin, "GET", "/v1/admin/fleet", nil).Edges {
		out[e.Name] = e
	}
	return out
}

func (s *server) allHealthy(n int) {
	s.t.Helper()
	eventually(s.t, fmt.Sprint(n, " healthy edges"), func() bool {
		healthy := 0
		for _, e := range s.fleetStatus() {
			if e.State == "healthy" {
				healthy++
			}
		}
		return healthy == n
	})
}

func (s *server) activate(n api.NewActivation) api.Activation {
	s.t.Helper()
	_, tag, err := s.admin.GetActivation(s.t.Context())
	if err != nil {
		tag = ""
	}
	a, _, err := s.admin.PutActivation(s.t.Context(), n, tag, api.PutActivationOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

// TestStagedRelease gives a release to four real edges by and by: one of them refuses it, since its operator does not let it
// reach the origin. Then one is killed again and again in the middle of changes: it is always with the one or the other release.
func TestStagedRelease(t *testing.T) {
	s := newServer(t, "sqlite:"+filepath.Join(t.TempDir(), "db"), "")
	ctx, c := t.Context(), s.admin
	letter := func(text string) *httptest.Server {
		o := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=3600")
			w.Header().Set("ETag", `"`+text+`"`)
			fmt.Fprint(w, text, r.Host, r.Header.Get("X-Key"))
		}))
		t.Cleanup(o.Close)
		return o
	}
	a, b := letter("A"), letter("B")
	call[api.Region](t, c, "PUT", "/v1/admin/regions/eu", api.NewRegion{DisplayName: "EU"})
	var edges []*process
	for i := range 4 {
		more := []string{}
		if i == 3 {
			more = []string{"--allow-origin", "example.org"}
		}
		edges = append(edges, s.startProcess(fmt.Sprint("e", i), more...))
	}
	s.allHealthy(4)
	if got := edges[0].get("/one/x"); got != "404" {
		t.Errorf("an edge with no routes says %s", got)
	}

	origin := func(url string) {
		t.Helper()
		_, tag, err := c.GetOrigin(ctx, "o")
		if err != nil {
			tag = ""
		}
		if _, _, err := c.PutOrigin(ctx, "o", api.NewOrigin{URL: url, HostHeader: "news.example", AuthHeader: "X-Key", Secret: "sesame", SecretVersion: 1}, tag, api.PutOriginOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	release := func() int64 {
		t.Helper()
		r, err := c.NewRelease(ctx, api.NewRelease{})
		if err != nil {
			t.Fatal(err)
		}
		return r.Number
	}
	origin(a.URL)
	for _, name := range []string{"one", "two"} {
		if _, _, err := c.PutRoute(ctx, name, api.NewRoute{Prefix: "/" + name + "/", Origin: "o", Public: true}, "", api.PutRouteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if p := call[api.PendingChanges](t, c, "GET", "/v1/admin/fleet/pending", nil); len(p.Changes) != 3 || p.Changes[0].Action != "created" {
		t.Errorf("%+v", p)
	}
	_, _, err := c.PutActivation(ctx, api.NewActivation{Release: 7}, "", api.PutActivationOptions{})
	faults(t, err, 422, "body.release")
	first := release()
	s.activate(api.NewActivation{Release: first})
	running := func(number int64, names ...string) bool {
		st := s.fleetStatus()
		return !slices.ContainsFunc(names, func(name string) bool { return st[name].Release != number })
	}
	eventually(t, "three edges run the first release and one refuses it", func() bool {
		return running(first, "e0", "e1", "e2") && s.fleetStatus()["e3"].Refused == first
	})
	if e := s.fleetStatus()["e3"]; e.Release != 0 || !strings.Contains(e.RefusedReason, "--allow-origin") || e.LagSeconds <= 0 || e.Wanted != first || len(e.Keys) == 0 {
		t.Errorf("%+v", e)
	}
	for i, want := range []string{"Anews.examplesesame", "Anews.examplesesame", "Anews.examplesesame", "404"} {
		if got := edges[i].get("/one/x"); got != want {
			t.Errorf("%s says %q, want %q", edges[i].name, got, want)
		}
	}
	if p := call[api.PendingChanges](t, c, "GET", "/v1/admin/fleet/pending", nil); len(p.Changes) != 0 || p.Release != first {
		t.Errorf("%+v", p)
	}

	// The second release: first for a quarter of the edges, then for all.
	origin(b.URL)
	second := release()
	if p := call[api.PendingChanges](t, c, "GET", "/v1/admin/fleet/pending", nil); len(p.Changes) != 1 || p.Changes[0].Patch["url"] != b.URL {
		t.Errorf("%+v", p)
	}
	quarter := 25.0
	if act := s.activate(api.NewActivation{Release: second, Percent: &quarter}); act.Base != first {
		t.Errorf("%+v", act)
	}
	wanted := map[string]int64{}
	canaries := 0
	for name, e := range s.fleetStatus() {
		if wanted[name] = e.Wanted; e.Wanted == second {
			canaries++
		}
	}
	if canaries == 0 || canaries == 4 {
		t.Errorf("a quarter of 4 edges is %d", canaries)
	}
	eventually(t, "the canaries run the second release", func() bool {
		for name, e := range s.fleetStatus() {
			if name != "e3" && e.Release != wanted[name] {
				return false
			}
		}
		return true
	})
	for i, e := range edges[:3] {
		want := map[int64]string{first: "A", second: "B"}[wanted[e.name]]
		eventually(t, fmt.Sprintf("edge %d serves %s", i, want), func() bool { return strings.HasPrefix(e.get("/one/x"), want) })
	}
	all := 100.0
	s.activate(api.NewActivation{Release: second, Percent: &all})
	eventually(t, "all run the second release", func() bool { return running(second, "e0", "e1", "e2") })
	err = c.DeleteRelease(ctx, second)
	faults(t, err, 409, "activation/fleet")

	// Killed while releases change under it, and started with a control plane that is not there: it has one of them, whole.
	victim := edges[0]
	for i := range 12 {
		s.activate(api.NewActivation{Release: []int64{first, second}[i%2]})
		time.Sleep(time.Duration(i*37%200) * time.Millisecond) // any moment is a good one
		victim.kill()
		victim.start("http://127.0.0.1:1")
		eventually(t, "the killed edge serves", func() bool { return strings.HasSuffix(victim.get("/two/y"), "sesame") })
		if one, two := victim.get("/one/fresh"+fmt.Sprint(i)), victim.get("/two/fresh"+fmt.Sprint(i)); one != two || one[0] != 'A' && one[0] != 'B' {
			t.Errorf("half a release: %q and %q", one, two)
		}
		victim.kill()
		victim.start(s.URL)
	}
	s.activate(api.NewActivation{Release: first}) // a rollback
	eventually(t, "all are back at the first release", func() bool { return running(first, "e0", "e1", "e2") })

	if err := c.DeleteActivation(ctx, "", api.DeleteActivationOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "edges have their own routes again: none", func() bool { return victim.get("/one/x") == "404" })
}

// TestDrainLosesNoRequest has players go on, on connections that they keep, while an edge and then its region's pool drain and
// come back.
func TestDrainLosesNoRequest(t *testing.T) {
	s := newServer(t, "sqlite:"+filepath.Join(t.TempDir(), "db"), "")
	folder := t.TempDir()
	store, err := dirstore.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	const objects = 50
	body := bytes.Repeat([]byte("segue "), 2000)
	for i := range objects {
		if _, err := store.Put(t.Context(), media.Object{Key: artKey(i), Size: int64(len(body)), ContentType: "image/jpeg"}, bytes.NewReader(body)); err != nil {
			t.Fatal(err)
		}
	}
	call[api.Region](t, s.admin, "PUT", "/v1/admin/regions/eu", api.NewRegion{DisplayName: "EU"})
	edges := []*process{s.startProcess("e0", "--origin", folder), s.startProcess("e1", "--origin", folder)}
	s.allHealthy(2)

	ctx, stop := context.WithCancel(t.Context())
	var players sync.WaitGroup
	var sent [2]atomic.Int64
	for i := range 8 {
		players.Go(func() {
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			for n := i; ctx.Err() == nil; n++ {
				resp, err := client.Get(s.URL + "/r/" + string(artKey(n%objects)))
				if err != nil {
					t.Errorf("steering: %v", err)
					return
				}
				resp.Body.Close()
				where := resp.Header.Get("Location")
				for range 5 { // a player stays for some segments
					resp, err := client.Get(where)
					if err != nil {
						t.Errorf("%s: %v", where, err)
						return
					}
					got, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if err != nil || resp.StatusCode != http.StatusOK || !bytes.Equal(got, body) {
						t.Errorf("%s: %s, %d bytes, %v", where, resp.Status, len(got), err)
					}
					for k, e := range edges {
						if strings.HasPrefix(where, e.url) {
							sent[k].Add(1)
						}
					}
					time.Sleep(5 * time.Millisecond)
				}
			}
		})
	}
	defer players.Wait()
	defer stop()
	busy := func(k int) {
		t.Helper()
		before := sent[k].Load()
		eventually(t, fmt.Sprintf("edge %d gets players", k), func() bool { return sent[k].Load() > before+20 })
	}
	drained := func(name string) {
		t.Helper()
		for end := time.Now().Add(60 * time.Second); !s.fleetStatus()[name].Drained; time.Sleep(100 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s does not drain: %+v", name, s.fleetStatus()[name])
			}
		}
	}
	busy(0)
	busy(1)
	id := s.fleetStatus()["e0"].ID
	if err := s.admin.DrainEdge(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	faults(t, s.admin.DeleteEdge(t.Context(), id, api.DeleteEdgeOptions{}), 409, "edge/e0")
	drained("e0")
	if e := s.fleetStatus()["e0"]; e.IdleSeconds < 10 || e.Draining != "edge" || e.State != "draining" {
		t.Errorf("a drained edge: %+v", e)
	}
	resp, err := http.Get(edges[0].url + "/readyz")
	if err != nil || resp.StatusCode != http.StatusServiceUnavailable || !resp.Close {
		t.Fatalf("a drained edge is ready: %+v %v", resp, err)
	}
	resp.Body.Close()
	busy(1)
	if err := s.admin.UndrainEdge(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	busy(0)

	// The same by its pool.
	if _, _, err := s.admin.PutPool(t.Context(), "first", api.NewEdgePool{Region: "eu", Match: []string{"e1"}, State: "draining"}, "", api.PutPoolOptions{}); err != nil {
		t.Fatal(err)
	}
	drained("e1")
	busy(0)
	stop()
	players.Wait()
	if sent[0].Load() == 0 || sent[1].Load() == 0 {
		t.Errorf("requests: %d and %d", sent[0].Load(), sent[1].Load())
	}
	t.Logf("%d and %d requests, none failed", sent[0].Load(), sent[1].Load())
}

// TestPurgeOfFiftyEdges measures from the order to the last acknowledgement of fifty processes. The figure is worth something
// on a machine that does nothing else: docs/operations.md.
func TestPurgeOfFiftyEdges(t *testing.T) {
	const edges, purges = 50, 100
	// Nothing is shed: under the race detector fifty edges that start at once are more than a small machine does in time.
	s := newServerWith(t, "sqlite:"+filepath.Join(t.TempDir(), "db"), "", func(c *controlplane.Config) { c.InService = 1000 })
	folder := t.TempDir()
	call[api.Region](t, s.admin, "PUT", "/v1/admin/regions/eu", api.NewRegion{DisplayName: "EU"})
	for i := range edges {
		s.startProcess(fmt.Sprintf("e%d", i), "--origin", folder)
	}
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		healthy := 0
		for _, e := range s.fleetStatus() {
			if e.State == "healthy" {
				healthy++
			}
		}
		if healthy == edges {
			break
		} else if time.Now().After(end) {
			t.Fatalf("%d of %d edges are healthy", healthy, edges)
		}
	}
	var before, after syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &before); err != nil {
		t.Fatal(err)
	}
	var times []time.Duration
	for i := range purges {
		p := call[api.Purge](t, s.admin, "POST", "/v1/admin/purges", api.NewPurge{Kind: "tag", Value: fmt.Sprint("track:", i)})
		eventually(t, "all edges have purged", func() bool { // by the control plane's clock: how often it is asked is no part of it
			p = call[api.Purge](t, s.admin, "GET", "/v1/admin/purges/"+p.ID, nil)
			return !slices.ContainsFunc(p.Edges, func(e api.PurgeEdge) bool { return e.DoneAt == nil })
		})
		last := time.Duration(0)
		for _, e := range p.Edges {
			last = max(last, e.DoneAt.Sub(p.CreatedAt))
		}
		times = append(times, last)
	}
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &after); err != nil {
		t.Fatal(err)
	}
	slices.Sort(times)
	cpu := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	t.Logf("%d edges, %d purges: median %v, p90 %v, p99 %v, max %v; %v of CPU in the control plane for each, with the questions how far it is", edges, purges, times[purges/2], times[purges*9/10], times[purges*99/100], times[purges-1], cpu/purges)
	if times[purges/2] > 5*time.Second {
		t.Error("a purge takes seconds")
	}
}

// TestSameEdgeForPlaybackAndSteering: what draws canaries is one thing, so a play begins on the edge that steering leaves it on.
func TestSameEdgeForPlaybackAndSteering(t *testing.T) {
	s := newServer(t, "sqlite:"+filepath.Join(t.TempDir(), "db"), "")
	ctx := t.Context()
	members := map[string]member{"http://one.example": s.join("eu-1", "eu", "http://one.example", 52, 5), "http://new.example": s.join("eu-new", "eu", "http://new.example", 52, 5)}
	if _, _, err := s.admin.PutPool(ctx, "new", api.NewEdgePool{Region: "eu", Match: []string{"*-new"}, Canary: true}, "", api.PutPoolOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.admin.PutSteeringPolicy(ctx, "default", api.NewSteeringPolicy{CanaryPercent: 50}, "", api.PutSteeringPolicyOptions{}); err != nil {
		t.Fatal(err)
	}
	r, err := s.admin.NewRelease(ctx, api.NewRelease{})
	if err != nil {
		t.Fatal(err)
	}
	s.activate(api.NewActivation{Release: r.Number})
	user, _ := s.signIn("ada@example.org")
	track := s.publish(media.Tags{Title: "A", Artist: "B", AlbumArtist: "B", Album: "C"}, 100, "a")
	on := map[string]int{}
	for range 24 {
		for url, m := range members { // they live
			call[api.HeartbeatReply](t, m.client(t, s), "POST", "/v1/fleet/heartbeat", api.Heartbeat{URL: url})
		}
		p := call[api.Playback](t, user, "POST", "/v1/playback", api.NewPlayback{TrackID: track.ID, TakeOver: true})
		token, _, _ := strings.Cut(strings.TrimPrefix(p.HLSURL[strings.Index(p.HLSURL, "/t/"):], "/t/"), "/")
		resp, err := http.Get(s.URL + "/steering/hls?t=" + token)
		if err != nil {
			t.Fatal(err)
		}
		var m struct {
			Priority []string `json:"PATHWAY-PRIORITY"`
		}
		err = json.NewDecoder(resp.Body).Decode(&m)
		resp.Body.Close()
		if err != nil || len(m.Priority) == 0 || m.Priority[0] != p.Pathways[0].ID {
			t.Errorf("playback begins on %s, steering says %v, %v", p.Pathways[0].ID, m.Priority, err)
		}
		on[p.Pathways[0].ID]++
	}
	if on["eu-1"] == 0 || on["eu-new"] == 0 {
		t.Errorf("plays: %v", on)
	}
	e := call[api.Explanation](t, s.admin, "GET", "/v1/admin/explain?ip=203.0.113.7&track="+string(track.ID), nil)
	if e.Policy != "default" {
		t.Errorf("%+v", e)
	}
}
