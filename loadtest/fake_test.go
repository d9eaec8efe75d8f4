package loadtest_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"segue/controlplane/api"
	"segue/loadtest"
	"segue/media"
	"segue/media/hls"
)

// platform is a control plane and an edge in a few lines, to see what the generator does when they misbehave.
type platform struct {
	*httptest.Server
	rendition media.Rendition
	body      []byte
	track     api.Track
	before    func(r *http.Request) // hears of every request first
	spoil     atomic.Bool           // send wrong bytes
	signIns   atomic.Int64
}

func newPlatform(t *testing.T, before func(r *http.Request)) *platform {
	p := &platform{before: before}
	p.rendition, p.body = loadtest.Noise(rand.New(rand.NewPCG(1, 1)), 160_000, 44100, 44100*30)
	p.track = api.Track{ID: "01ARZ3NDEKTSV4RRFFQ69G5FAV", Version: media.Version(strings.Repeat("a", 26)), Title: "Noise", Renditions: []string{"aac_160"}}
	folder := "/t/token/" + media.TrackPrefix(p.track.ID, p.track.Version)
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	var accounts atomic.Bool
	mux.HandleFunc("POST /v1/users", func(w http.ResponseWriter, r *http.Request) { accounts.Store(true); answer(w, 201, api.User{}) })
	mux.HandleFunc("POST /v1/sessions", func(w http.ResponseWriter, r *http.Request) {
		if !accounts.Load() {
			answer(w, 401, api.Problem{Status: 401})
			return
		}
		p.signIns.Add(1)
		answer(w, 201, api.Session{AccessToken: "t", RefreshToken: "r", DeviceID: "d", ExpiresInSeconds: 900})
	})
	mux.HandleFunc("POST /v1/sessions/refresh", func(w http.ResponseWriter, r *http.Request) {
		answer(w, 200, api.Session{AccessToken: "t", RefreshToken: "r", DeviceID: "d", ExpiresInSeconds: 900})
	})
	mux.HandleFunc("GET /v1/tracks", func(w http.ResponseWriter, r *http.Request) {
		answer(w, 200, api.Page[api.Track]{Items: []api.Track{p.track}})
	})
	mux.HandleFunc("GET /v1/search", func(w http.ResponseWriter, r *http.Request) { answer(w, 200, api.SearchResult{}) })
	mux.HandleFunc("POST /v1/events", func(w http.ResponseWriter, r *http.Request) {
		var in []api.Event
		_ = json.NewDecoder(r.Body).Decode(&in)
		answer(w, 202, api.EventsAccepted{Accepted: len(in)})
	})
	mux.HandleFunc("POST /v1/playback", func(w http.ResponseWriter, r *http.Request) {
		answer(w, 201, api.Playback{PlayID: "play", TrackID: p.track.ID, Version: p.track.Version, HLSURL: p.URL + folder + "master.m3u8", Pathways: []api.Pathway{{ID: "one", BaseURL: p.URL + "/t/token/"}}})
	})
	mux.HandleFunc("GET "+folder+"master.m3u8", func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(hls.Multivariant([]media.Rendition{p.rendition}))
	})
	mux.HandleFunc("GET "+folder+"aac_160.m3u8", func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(hls.Media(p.rendition)) })
	mux.HandleFunc("GET "+folder+"track.json", func(w http.ResponseWriter, r *http.Request) {
		answer(w, 200, media.Track{ID: p.track.ID, Version: p.track.Version, Renditions: []media.Rendition{p.rendition}})
	})
	mux.HandleFunc("GET "+folder+"aac_160.mp4", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Status", "segue; hit; detail=memory")
		body := p.body
		if p.spoil.Load() && r.Header.Get("Range") != "" {
			body = make([]byte, len(body))
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(body)))
	})
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.before != nil {
			p.before(r)
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(p.Server.Close)
	return p
}

func scenario(t *testing.T, text string) loadtest.Scenario {
	t.Helper()
	s, err := loadtest.ParseScenario([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func run(t *testing.T, cfg loadtest.Config) *loadtest.Result {
	t.Helper()
	r, err := loadtest.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestListens runs against a platform that does all right: what is played is complete, and the bytes are compared.
func TestListens(t *testing.T) {
	p := newPlatform(t, nil)
	s := scenario(t, "name: short\nsession: 5s\npause: 0.5\npause_for: 200ms\nseek: 0.5\nskip: [{by: 1, part: 0.5}]\nsign_in: 0.2")
	cfg := loadtest.Config{Base: p.URL, Scenario: s, Listeners: 20, Duration: 3 * time.Second, Warm: time.Second, Verify: 1, MaxLag: time.Minute, Accounts: t.TempDir() + "/accounts"}
	r := run(t, cfg)
	c := r.Counts
	if c.Plays == 0 || c.Failed != 0 || c.Skips == 0 || c.Seeks == 0 || c.Pauses == 0 || c.Events == 0 || c.PlayedS == 0 || len(r.Errors) != 0 {
		t.Errorf("%+v, errors %v", c, r.Errors)
	}
	if c.Sampled == 0 || c.Mismatched != 0 || c.Unchecked != 0 {
		t.Errorf("samples: %d, wrong %d, not compared %d", c.Sampled, c.Mismatched, c.Unchecked)
	}
	if r.HitRatio() != 1 || r.Moments["startup"].Count == 0 || r.Operations["segment"].Response.Count == 0 {
		t.Errorf("hit ratio %g, moments %v", r.HitRatio(), r.Moments)
	}
	var sum int64
	for _, i := range r.Intervals {
		sum += i.Plays
	}
	if sum != c.Plays {
		t.Errorf("%d plays in the intervals, %d in all", sum, c.Plays)
	}
	// The accounts are kept: the next run makes none, and signs nobody in with a password but those of the scenario.
	before := p.signIns.Load()
	s.SignIn = 0
	cfg.Scenario, cfg.Duration = s, time.Second
	run(t, cfg)
	if got := p.signIns.Load() - before; got != 0 {
		t.Errorf("%d sign-ins with a password in the second run", got)
	}
}

// TestWrongBytes: an edge that sends other bytes of the right length is found out.
func TestWrongBytes(t *testing.T) {
	p := newPlatform(t, nil)
	p.spoil.Store(true)
	r := run(t, loadtest.Config{Base: p.URL, Listeners: 5, Duration: 2 * time.Second, Warm: time.Second, Verify: 1, MaxLag: time.Minute, Scenario: scenario(t, "name: short\nsession: 2s")})
	if r.Counts.Sampled == 0 || r.Counts.Mismatched != r.Counts.Sampled {
		t.Errorf("%d of %d samples were found wrong", r.Counts.Mismatched, r.Counts.Sampled)
	}
}

// TestNoOmission: the platform stands still for a second. A generator that waits with it would see one slow request per connection;
// here everybody who pressed play meanwhile counts from then, so that the slow ones are as many as were due in that second.
func TestNoOmission(t *testing.T) {
	var freeze atomic.Int64 // UnixNano until which all answers wait
	p := newPlatform(t, func(*http.Request) {
		if d := time.Until(time.Unix(0, freeze.Load())); d > 0 {
			time.Sleep(d)
		}
	})
	s := scenario(t, "name: freeze\nsession: 10s\nskip: [{by: 0.5, part: 1}]\nsearch: 0\npause: 0\nseek: 0\ndo: [{at: 0.5, do: freeze}]")
	const listeners, hold = 20, time.Second
	r := run(t, loadtest.Config{Base: p.URL, Scenario: s, Listeners: listeners, Duration: 4 * time.Second, Warm: time.Second, MaxLag: time.Minute, On: map[string]func(context.Context) error{"freeze": func(context.Context) error {
		freeze.Store(time.Now().Add(hold).UnixNano())
		return nil
	}}})
	m := r.Moments["startup"]
	// Everybody skips at least every half second, so nearly all listeners pressed play while it stood still.
	if time.Duration(m.Max)*time.Microsecond < hold*8/10 {
		t.Errorf("the longest start-up is %d µs, although nothing was answered for %s", m.Max, hold)
	}
	slow, err := r.Slower("startup", hold/4)
	if err != nil || slow < listeners/2 {
		t.Errorf("%d start-ups of more than %s (%v), want most of the %d listeners", slow, hold/4, err, listeners)
	}
	if lag := time.Duration(r.Moments["lag"].P99) * time.Microsecond; lag > hold/2 {
		t.Errorf("the platform stood still, and the generator takes the blame: lag p99 %s", lag)
	}
	marked := false
	for _, i := range r.Intervals {
		marked = marked || i.Mark == "freeze"
	}
	if !marked {
		t.Error("the deed is not in the time line")
	}
}

// TestStarved: a generator that may have one request at a time cannot keep its schedule, and says that the run is invalid.
func TestStarved(t *testing.T) {
	p := newPlatform(t, func(*http.Request) { time.Sleep(5 * time.Millisecond) })
	r := run(t, loadtest.Config{Base: p.URL, Scenario: scenario(t, "name: short\nsession: 4s\nskip: [{by: 1, part: 1}]"), Listeners: 60, Duration: 3 * time.Second, Warm: time.Second, MaxInFlight: 1})
	if r.Verdict.Valid || !strings.Contains(strings.Join(r.Verdict.Reasons, " "), "lag") {
		t.Errorf("verdict %+v with a lag p99 of %d µs", r.Verdict, r.Moments["lag"].P99)
	}
	var text strings.Builder
	loadtest.Summary(&text, r)
	if !strings.Contains(text.String(), "INVALID") {
		t.Error("the summary does not say that the run is invalid")
	}
}

// TestErrors: failures are counted by what they are, and the plays with them.
func TestErrors(t *testing.T) {
	p := newPlatform(t, nil)
	var n atomic.Int64
	p.before = func(r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".mp4") && n.Add(1)%3 != 0 {
			panic(http.ErrAbortHandler) // the connection breaks, often twice in a row: once is what a player repeats
		}
	}
	r := run(t, loadtest.Config{Base: p.URL, Scenario: scenario(t, "name: short\nsession: 4s"), Listeners: 10, Duration: 2 * time.Second, Warm: time.Second, MaxLag: time.Minute})
	kinds := map[string]int64{}
	for _, e := range r.Errors {
		kinds[e.Kind] += e.Count
	}
	if kinds["reset"] == 0 || r.Counts.Failed == 0 {
		t.Errorf("errors %v, %d plays failed", r.Errors, r.Counts.Failed)
	}
}

func TestRefuses(t *testing.T) {
	for name, cfg := range map[string]loadtest.Config{
		"no base":      {Listeners: 1, Duration: time.Second},
		"nobody":       {Base: "http://127.0.0.1:1", Duration: time.Second},
		"unknown deed": {Base: "http://127.0.0.1:1", Listeners: 1, Duration: time.Second, Scenario: scenario(t, "name: x\ndo: [{at: 0.5, do: something}]")},
		"no network":   {Base: "http://127.0.0.1:1", Listeners: 1, Duration: time.Second, From: "somewhere"},
		"nobody there": {Base: "http://127.0.0.1:1", Listeners: 1, Duration: time.Second},
	} {
		if r, err := loadtest.Run(t.Context(), cfg); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// TestWire reads what servers write.
func TestWire(t *testing.T) {
	big := strings.Repeat("x", 200_000)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/chunked":
			w.(http.Flusher).Flush()
			fmt.Fprint(w, big)
		case "/length":
			w.Header().Set("Content-Length", fmt.Sprint(len(big)))
			fmt.Fprint(w, big)
		case "/close":
			w.Header().Set("Connection", "close")
			fmt.Fprint(w, "bye")
		case "/short":
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "half")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		case "/nothing":
			w.WriteHeader(204)
		}
	}))
	defer s.Close()
	do := loadtest.Wire(s.URL)
	for _, x := range []struct {
		path, want string
		dials      int
	}{{"/chunked", big, 1}, {"/length", big, 1}, {"/nothing", "", 1}, {"/close", "bye", 1}, {"/length", big, 2}} {
		status, got, dials, err := do("GET", x.path, "", nil)
		if err != nil || string(got) != x.want || dials != x.dials || status/100 != 2 {
			t.Errorf("%s: %d, %d bytes, %d connections, %v", x.path, status, len(got), dials, err)
		}
	}
	if _, _, _, err := do("GET", "/short", "", nil); loadtest.KindOf(err) != "short-body" {
		t.Errorf("a body that breaks off: %v", err)
	}
	s.CloseClientConnections() // an idle connection goes: no error
	if _, got, _, err := do("GET", "/length", "", nil); err != nil || string(got) != big {
		t.Errorf("after the server closed the idle connection: %d bytes, %v", len(got), err)
	}
	s.Close()
	if _, _, _, err := do("GET", "/length", "", nil); loadtest.KindOf(err) != "refused" && loadtest.KindOf(err) != "reset" {
		t.Errorf("nobody listens: %v", err)
	}
}

func TestNoiseIsWhatItSays(t *testing.T) {
	r, body := loadtest.Noise(rand.New(rand.NewPCG(3, 3)), 96_000, 44100, 44100*13+17)
	sum := sha256.Sum256(body)
	last := r.Segments[len(r.Segments)-1]
	ticks := int64(0)
	for i, s := range r.Segments {
		ticks += s.Duration
		if i > 0 && s.Offset != r.Segments[i-1].Offset+r.Segments[i-1].Size {
			t.Errorf("a gap before segment %d", i)
		}
	}
	if r.Size != int64(len(body)) || r.SHA256 != hex.EncodeToString(sum[:]) || last.Offset+last.Size != r.Size || ticks != 44100*13+17 {
		t.Errorf("%d bytes, last segment %+v, %d ticks", r.Size, last, ticks)
	}
}
