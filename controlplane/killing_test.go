package controlplane_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/plays"
	"segue/internal/clickhouse"
	"segue/internal/testenv"
	"segue/media"

	natsd "github.com/nats-io/nats-server/v2/server"
	"github.com/oklog/ulid/v2"
)

// natsProcess, in the environment, makes this test program a NATS server: host:port, a space, a folder.
const natsProcess = "SEGUE_TEST_NATS"

func TestMain(m *testing.M) {
	if where := os.Getenv(natsProcess); where != "" {
		addr, dir, _ := strings.Cut(where, " ")
		host, port, _ := net.SplitHostPort(addr)
		number, _ := strconv.Atoi(port)
		s, err := natsd.NewServer(&natsd.Options{Host: host, Port: number, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		go func() { <-stop; s.Shutdown() }()
		s.Start()
		s.WaitForShutdown()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// victim is a process that is killed and started again.
type victim struct {
	t     *testing.T
	name  string
	make  func() *exec.Cmd
	ready func() bool
	cmd   *exec.Cmd
	out   *os.File
}

func (v *victim) start() {
	v.t.Helper()
	v.launch()
	v.await()
}

func (v *victim) launch() {
	v.t.Helper()
	v.cmd = v.make()
	v.cmd.Stdout, v.cmd.Stderr = v.out, v.out
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := v.cmd.Start(); err != nil {
		v.t.Fatal(err)
	}
}

func (v *victim) await() {
	v.t.Helper()
	for end := time.Now().Add(90 * time.Second); !v.ready(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			b, _ := os.ReadFile(v.out.Name())
			v.t.Fatalf("%s does not come up:\n%s", v.name, b[max(0, len(b)-3000):])
		}
	}
}

func (v *victim) kill() {
	_ = v.cmd.Process.Kill()
	_ = v.cmd.Wait()
}

func answers(url string) func() bool {
	return func() bool {
		resp, err := http.Get(url)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}
}

// TestNothingLostNothingDoubled sends play events and requests to an edge while the control plane (with the sink in it), NATS, ClickHouse and the
// edge are killed in turn, and ClickHouse is cut off for a while. Then what players got an answer for, and what stands in the tables and
// in the sums, are compared as sets.
func TestNothingLostNothingDoubled(t *testing.T) {
	dir := t.TempDir()
	engine := clickhouse.Config{Library: testenv.Library(t), Dir: filepath.Join(dir, "clickhouse"), HTTP: testenv.Addr(t), Native: testenv.Addr(t), WriterPassword: "write", AnalystPassword: "read"}
	ch := &testenv.ClickHouse{Config: engine}
	natsAddr, cpAddr, edgeAddr := testenv.Addr(t), testenv.Addr(t), testenv.Addr(t)
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	objects := filepath.Join(dir, "objects")
	if err := os.MkdirAll(objects, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// A player that is known to the gateway's limits would be slowed down: this is about what is kept, not how fast.
	control := []string{"--listen", cpAddr, "--data", filepath.Join(dir, "control"), "--nats", "nats://" + natsAddr, "--clickhouse", ch.URL(), "--origin", objects,
		"--admin-token-file", file("admin", adminToken), "--plays-key-file", file("key", strings.Repeat("k", 32)), "--rate-limit=-1", "--drain", "0s"}
	tokenFile := filepath.Join(dir, "join")
	edge := []string{"--listen", edgeAddr, "--origin", objects, "--control", "http://" + cpAddr, "--name", "e1", "--join-token-file", tokenFile, "--state", filepath.Join(dir, "edge"), "--memory", "64MiB"}
	var all []*victim
	add := func(name string, ready func() bool, make func() *exec.Cmd) *victim {
		out, err := os.Create(filepath.Join(dir, name+".log"))
		if err != nil {
			t.Fatal(err)
		}
		v := &victim{t: t, name: name, make: make, ready: ready, out: out}
		all = append(all, v)
		return v
	}
	nats := add("nats", func() bool {
		c, err := net.Dial("tcp", natsAddr)
		if err == nil {
			c.Close()
		}
		return err == nil
	}, func() *exec.Cmd {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), natsProcess+"="+natsAddr+" "+filepath.Join(dir, "nats"))
		return cmd
	})
	house := add("clickhouse", answers((&url.URL{Scheme: "http", Host: engine.HTTP, Path: "/ping"}).String()), func() *exec.Cmd {
		cmd := exec.Command(testenv.Program(t, "segue"), "clickhouse", "--path", engine.Dir, "--http", engine.HTTP, "--native", engine.Native, "--library", engine.Library, "--secrets-from-stdin")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.WriteString(in, engine.WriterPassword+"\n"+engine.AnalystPassword+"\n") }()
		return cmd
	})
	cp := add("control plane", answers("http://"+cpAddr+"/readyz"), func() *exec.Cmd { return exec.Command(testenv.Program(t, "segue-controlplane"), control...) })
	door := add("edge", answers("http://"+edgeAddr+"/healthz"), func() *exec.Cmd { return exec.Command(testenv.Program(t, "segue-edge"), edge...) })
	t.Cleanup(func() {
		for _, v := range all {
			if v.cmd != nil {
				v.kill()
			}
			if t.Failed() {
				b, _ := os.ReadFile(v.out.Name())
				t.Logf("%s wrote:\n%s", v.name, b[max(0, len(b)-3000):])
			}
			v.out.Close()
		}
	})
	nats.start()
	house.start()
	cp.start()

	s := &server{t: t, Server: &httptest.Server{URL: "http://" + cpAddr}}
	s.admin = s.client(adminToken)
	track, art := s.upload(media.Tags{Title: "Kill", Artist: "Ann", AlbumArtist: "Ann", Album: "C"}, 100)
	call[api.Region](t, s.admin, "PUT", "/v1/admin/regions/eu", api.NewRegion{DisplayName: "eu", Latitude: 52, Longitude: 5})
	file("join", call[api.JoinToken](t, s.admin, "POST", "/v1/admin/join-tokens", api.NewJoinToken{Region: "eu"}).Token)
	door.start()
	eventually(t, "the edge is known", func() bool {
		list := call[api.Page[api.Edge]](t, s.admin, "GET", "/v1/admin/edges", nil).Items
		return len(list) == 1 && list[0].State == "healthy"
	})
	user, _ := s.signIn("ada@example.org")
	var playIDs []string
	for range 30 {
		playIDs = append(playIDs, call[api.Playback](t, user, "POST", "/v1/playback", api.NewPlayback{TrackID: track, TakeOver: true}).PlayID)
	}

	// Players report, and repeat until they have an answer.
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var mu sync.Mutex // guards the fields below
	sent := map[string]bool{}
	played := map[string]int64{}
	asked := map[string]time.Time{} // sessions of requests that the edge answered
	var work sync.WaitGroup
	for player := range 4 {
		work.Go(func() {
			for n := int64(0); ctx.Err() == nil; n++ {
				id := playIDs[rand.IntN(len(playIDs))]
				events := make([]api.Event, 1+rand.IntN(20))
				for i := range events {
					ms := int64(rand.IntN(60_000))
					events[i] = api.Event{ID: ulid.Make().String(), PlayID: id, Type: api.EventProgress, At: time.Now().UTC(), PlayedMS: ms, PositionMS: ms, Edge: "e1", Rendition: "aac_160", Player: fmt.Sprint("p", player)}
				}
				for {
					tctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
					r, err := user.Events(tctx, events, api.EventsOptions{})
					cancel()
					if err == nil && r.Accepted == len(events) {
						break
					} else if err == nil {
						t.Errorf("%+v", r)
						return
					}
					if t.Context().Err() != nil {
						return
					}
					time.Sleep(100 * time.Millisecond)
				}
				mu.Lock()
				for _, e := range events {
					sent[e.ID] = true
					played[id] = max(played[id], e.PlayedMS)
				}
				mu.Unlock()
				time.Sleep(5 * time.Millisecond)
			}
		})
		work.Go(func() {
			for ctx.Err() == nil {
				sid := ulid.Make().String()
				resp, err := http.Get("http://" + edgeAddr + "/" + string(art) + "?CMCD=" + url.QueryEscape(`sid="`+sid+`"`))
				if err != nil {
					time.Sleep(50 * time.Millisecond)
					continue
				}
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err == nil && resp.StatusCode == http.StatusOK {
					mu.Lock()
					asked[sid] = time.Now()
					mu.Unlock()
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(sent) }
	more := func(n int) {
		t.Helper()
		at := count()
		for end := time.Now().Add(90 * time.Second); count() < at+n; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("no events are taken any more")
			}
		}
	}
	var edgeKills []time.Time
	for range 2 {
		for _, v := range []*victim{cp, house, nats, door} {
			more(200)
			if v == door {
				edgeKills = append(edgeKills, time.Now())
			}
			v.kill()
			switch v {
			case house: // cut off for a while: events are taken on
				more(500)
			case nats: // then SQL keeps them
				more(50)
			}
			v.start()
		}
	}
	more(200)
	stop()
	work.Wait()
	mu.Lock()
	defer mu.Unlock()
	t.Logf("%d events of %d plays, %d requests", len(sent), len(played), len(asked))

	rows := func(sql string) []string {
		var b bytes.Buffer
		if err := plays.Query(t.Context(), ch.QueryURL(), sql, "TSV", &b); err != nil {
			return []string{err.Error()}
		}
		return strings.Split(strings.TrimSpace(b.String()), "\n")
	}
	one := func(sql string) string { return rows(sql)[0] }
	await := func(what, sql, want string) {
		t.Helper()
		got := ""
		for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
			if got = one(sql); got == want {
				return
			}
		}
		t.Errorf("%s: %s, want %s", what, got, want)
	}
	await("events in the table", "SELECT count(), uniqExact(event_id) FROM play_events FINAL", fmt.Sprintf("%d\t%d", len(sent), len(sent)))
	in := map[string]bool{}
	for _, id := range rows("SELECT event_id FROM play_events FINAL") {
		in[id] = true
	}
	if !maps.Equal(in, sent) {
		t.Error("the ids in the table are not those that were sent")
	}
	var heard, counted int64
	for _, ms := range played {
		heard += ms
		if ms >= 30_000 {
			counted++
		}
	}
	sums := fmt.Sprintf("%d\t%d\t%d", len(played), counted, heard)
	for what, sql := range map[string]string{
		"plays":         "SELECT count(), countIf(counted), sum(played_ms) FROM plays",
		"track_hourly":  "SELECT sum(starts), sum(plays), sum(heard_ms) FROM track_hourly",
		"artist_daily":  fmt.Sprintf("SELECT sum(starts), sum(plays), %d FROM artist_daily", heard),
		"country_daily": fmt.Sprintf("SELECT sum(starts), sum(plays), %d FROM country_daily", heard),
	} {
		if got := one(sql); got != sums {
			t.Errorf("%s: plays, counted, heard: %s, want %s", what, got, sums)
		}
	}

	// Requests: what the edge had in memory when it was killed is the one thing that may be lost: half a second of it.
	must := map[string]bool{}
	for sid, at := range asked {
		excused := false
		for _, k := range edgeKills {
			excused = excused || at.After(k.Add(-time.Second)) && at.Before(k.Add(time.Second))
		}
		if !excused {
			must[sid] = true
		}
	}
	missing := func() (n int) {
		got := map[string]bool{}
		for _, sid := range rows("SELECT sid FROM edge_requests FINAL") {
			got[sid] = true
		}
		for sid := range must {
			if !got[sid] {
				n++
			}
		}
		return n
	}
	for end := time.Now().Add(60 * time.Second); missing() > 0 && time.Now().Before(end); {
		time.Sleep(200 * time.Millisecond)
	}
	if n := missing(); n > 0 {
		t.Errorf("%d of %d requests are not in the table", n, len(must))
	}
	if got := one("SELECT count() - uniqExact(sid), count() - uniqExact(edge, log, seq) FROM edge_requests FINAL WHERE sid != ''"); got != "0\t0" {
		t.Errorf("doubled requests, by session and by number: %s", got)
	}
	if got := one("SELECT count() FROM (SELECT log, max(seq) - count() AS gap FROM edge_requests FINAL GROUP BY log HAVING gap != 0)"); got != "0" {
		t.Errorf("%s logs of the edge have gaps", got)
	}
	await("requests in the sums", "SELECT (SELECT sum(requests) FROM edge_minutely) = (SELECT count() FROM edge_requests FINAL)", "1")
	if got := call[api.Page[api.DeadLetter]](t, s.admin, "GET", "/v1/admin/deadletters", nil); len(got.Items) != 0 {
		b, _ := json.Marshal(got)
		t.Errorf("dead letters: %s", b)
	}
}

// upload publishes a made-up track through the API alone.
func (s *server) upload(tags media.Tags, seconds int64) (media.TrackID, media.Key) {
	s.t.Helper()
	version, artVersion := media.Version(strings.Repeat("a", 26)), media.Version(strings.Repeat("z", 26))
	in := api.Ingester{Client: s.admin}
	c, err := in.Claim(s.t.Context(), api.ClaimRequest{SourceSHA256: strings.Repeat("a", 64), Version: version, Tags: tags, DurationMS: seconds * 1000})
	if err != nil {
		s.t.Fatal(err)
	}
	t := media.Track{ID: c.TrackID, Version: version, Tags: tags, Encoder: "test", Loudness: media.Loudness{IntegratedLUFS: -10, TruePeakDBTP: -1},
		Source:     media.Source{SHA256: strings.Repeat("a", 64), SampleRateHz: 44100, Samples: seconds * 44100, Channels: 2},
		Renditions: []media.Rendition{}, Art: &media.Art{AlbumID: c.AlbumID, Version: artVersion}}
	put := func(key media.Key, body string) {
		sum := sha256.Sum256([]byte(body))
		if _, err := in.Put(s.t.Context(), media.Object{Key: key, Size: int64(len(body)), SHA256: hex.EncodeToString(sum[:])}, strings.NewReader(body)); err != nil {
			s.t.Fatal(err)
		}
	}
	t.Renditions = append(t.Renditions, media.Rendition{Name: "aac_160", File: "aac_160.mp4", Codec: "mp4a.40.2", BitrateBps: 160_000, Size: 4, SampleRateHz: 44100, Channels: 2,
		Segments: []media.Segment{}, Gapless: media.Gapless{Priming: 1024, Samples: seconds * 44100}})
	put(media.TrackKey(t.ID, version, "aac_160.mp4"), "data")
	for _, name := range []string{"aac_160.m3u8", media.MasterPlaylist, media.Manifest, media.LimitedMasterPlaylist, media.LimitedManifest} {
		put(media.TrackKey(t.ID, version, name), "list")
	}
	for _, size := range media.ArtSizes {
		put(media.ArtKey(c.AlbumID, artVersion, size), "jpeg")
	}
	put(media.TrackKey(t.ID, version, media.TrackFile), "{}")
	if err := in.Publish(s.t.Context(), t); err != nil {
		s.t.Fatal(err)
	}
	return t.ID, media.ArtKey(c.AlbumID, artVersion, media.ArtSizes[0])
}
