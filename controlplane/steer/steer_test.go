package steer_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"segue/controlplane/steer"
	"segue/geo"
	"segue/media"
	"segue/media/cat"
	"segue/media/hls"

	"github.com/google/go-cmp/cmp"
	"github.com/oklog/ulid/v2"
)

var (
	begun  = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	paris  = geo.Place{Point: geo.Point{Lat: 48.9, Lon: 2.4}, OK: true, Country: "FR"}
	client = netip.MustParseAddr("192.0.2.1")
)

// stage is a fleet of three edges and one play.
type stage struct {
	*steer.Service
	t     testing.TB
	key   cat.Key
	nodes []geo.Node
	reads atomic.Int64
	play  string
	token string
}

func newStage(t testing.TB, limited bool) *stage {
	private := ed25519.NewKeyFromSeed([]byte(strings.Repeat("k", 32)))
	s := &stage{t: t, key: cat.Key{ID: "k1", Alg: cat.EdDSA, Private: private, Public: private.Public().(ed25519.PublicKey)}, nodes: []geo.Node{
		{Name: "eu-1", Region: "eu", URL: "http://127.0.0.2:8081", At: geo.Point{Lat: 52, Lon: 5}, Healthy: true},
		{Name: "us-1", Region: "us", URL: "http://127.0.0.3:8081", At: geo.Point{Lat: 39, Lon: -77}, Healthy: true},
		{Name: "us-2", Region: "us", URL: "https://us2.example", At: geo.Point{Lat: 30, Lon: -90}, Healthy: true},
	}}
	s.play = ulid.MustNew(ulid.Timestamp(begun), strings.NewReader(strings.Repeat("x", 16))).String()
	s.Service = steer.New(steer.Config{Nodes: func(time.Time) []geo.Node { return append([]geo.Node(nil), s.nodes...) }, Locate: func(netip.Addr) geo.Place { return paris }, Issuer: "segue",
		Keys: func() []cat.Key { return []cat.Key{s.key} },
		Object: func(_ context.Context, key media.Key) ([]byte, error) {
			s.reads.Add(1)
			if !strings.HasPrefix(string(key), "media/T/v/") {
				return nil, media.ErrNotFound
			}
			if strings.HasSuffix(string(key), ".mpd") {
				return []byte("<MPD><Period><BaseURL>flac.mp4</BaseURL></Period></MPD>"), nil
			}
			return hls.Multivariant([]media.Rendition{{Name: "aac_96", Codec: "mp4a.40.2"}, {Name: "aac_160", Codec: "mp4a.40.2"}}), nil
		}})
	claims := cat.Claims{Issuer: "segue", ID: s.play, PlayID: s.play, Plan: "premium", PathPrefix: "/media/T/v/", NotBefore: begun.Add(-time.Minute), Expires: begun.Add(6 * time.Hour)}
	if limited {
		claims.Renditions = []string{"aac_96"}
	}
	s.token = s.mint(claims)
	return s
}

func (s *stage) mint(c cat.Claims) string {
	token, err := cat.Mint(s.key, c)
	if err != nil {
		s.t.Fatal(err)
	}
	return token
}

// answer is a manifest as a player reads it.
type answer struct {
	Version  int      `json:"VERSION"`
	TTL      *int     `json:"TTL"`
	Reload   string   `json:"RELOAD-URI"`
	Priority []string `json:"PATHWAY-PRIORITY"`
	Services []string `json:"SERVICE-LOCATION-PRIORITY"`
	Clones   []struct {
		Base    string `json:"BASE-ID"`
		ID      string `json:"ID"`
		Replace struct {
			Host     string            `json:"HOST"`
			Variants map[string]string `json:"PER-VARIANT-URIS"`
		} `json:"URI-REPLACEMENT"`
	} `json:"PATHWAY-CLONES"`
}

func (s *stage) ask(after time.Duration, f steer.Format, query string) answer {
	s.t.Helper()
	a, err := s.try(after, f, query, false)
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

func (s *stage) try(after time.Duration, f steer.Format, query string, busy bool) (a answer, err error) {
	s.t.Helper()
	v, err := url.ParseQuery(query)
	if err != nil {
		s.t.Fatal(err)
	}
	b, err := s.Manifest(begun.Add(after), steer.Query{Format: f, Client: client, Base: "https://cp.example", Params: v, Busy: busy})
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(b, &a); err != nil {
		s.t.Fatal(err)
	}
	if a.Version != 1 || len(a.Priority) == 0 {
		s.t.Errorf("%s", b)
	}
	return a, nil
}

// reload asks where the answer says, as a player does.
func (s *stage) reload(after time.Duration, f steer.Format, a answer, more string) answer {
	s.t.Helper()
	_, query, _ := strings.Cut(a.Reload, "?")
	return s.ask(after, f, query+more)
}

// TestQuirks has one case for each thing that players do.
func TestQuirks(t *testing.T) {
	s := newStage(t, false)
	base := "t=" + s.token + "&p=eu-1,us-1&v=aac_96,aac_160"
	second := func(i int) time.Duration { return time.Duration(i) * time.Second }
	cases := map[int]func(t *testing.T){
		0: func(t *testing.T) {
			for _, f := range []steer.Format{steer.HLS, steer.DASH} {
				if a := s.ask(0, f, base); a.TTL == nil || *a.TTL < 5 {
					t.Errorf("TTL %v", a.TTL)
				}
			}
		},
		1: func(t *testing.T) {
			if a, err := s.try(0, steer.HLS, base, true); err != nil || *a.TTL < 60 {
				t.Errorf("%+v %v", a, err)
			}
		},
		2: func(t *testing.T) {
			for _, pathway := range []string{"us-1", "%22us-1%22"} {
				a := s.ask(0, steer.HLS, base+"&_HLS_pathway="+pathway+"&_HLS_throughput=1000")
				if a.Priority[len(a.Priority)-1] != "us-1" {
					t.Errorf("the slow pathway is not last: %v", a.Priority)
				}
			}
		},
		3: func(t *testing.T) {
			a := s.ask(0, steer.DASH, base+"&_DASH_pathway=%22eu-1,us-1%22&_DASH_throughput=1000,9000000")
			if a.Priority[0] == "eu-1" || a.Priority[len(a.Priority)-1] != "eu-1" {
				t.Errorf("%v", a.Priority)
			}
			if a := s.ask(0, steer.DASH, base+"&_DASH_pathway=%22eu-1,us-1%22&_DASH_throughput=,"); a.Priority[0] != "eu-1" {
				t.Errorf("no measurement counts as slow: %v", a.Priority)
			}
		},
		4: func(t *testing.T) {
			s.nodes = append(s.nodes, geo.Node{Name: "eu-2", Region: "eu", URL: "http://127.0.0.9:9999", At: s.nodes[0].At, Healthy: true})
			defer func() { s.nodes = s.nodes[:3] }()
			a := s.ask(second(1), steer.HLS, base)
			if len(a.Clones) != 1 || a.Clones[0].ID != "eu-2" || a.Clones[0].Base != "eu-1" || a.Clones[0].Replace.Host != "" {
				t.Fatalf("%+v", a)
			}
			want := map[string]string{"aac_96": "http://127.0.0.9:9999/t/" + s.token + "/media/T/v/aac_96.m3u8", "aac_160": "http://127.0.0.9:9999/t/" + s.token + "/media/T/v/aac_160.m3u8"}
			if d := cmp.Diff(a.Clones[0].Replace.Variants, want); d != "" {
				t.Error(d)
			}
			s.nodes[3].URL = "http://127.0.0.9:8081"
			if a := s.ask(second(11), steer.HLS, base); len(a.Clones) != 1 || a.Clones[0].Replace.Host != "127.0.0.9" {
				t.Errorf("%+v", a)
			}
		},
		5: func(t *testing.T) {
			s.nodes = append(s.nodes, geo.Node{Name: "eu-2", Region: "eu", URL: "http://127.0.0.9:8081", At: s.nodes[0].At, Healthy: true})
			defer func() { s.nodes = s.nodes[:3] }()
			for pathway, host := range map[string]string{"%22eu-1%22": "http://127.0.0.9:8081", "eu-1": "127.0.0.9"} {
				if a := s.ask(second(2), steer.DASH, base+"&_DASH_pathway="+pathway); len(a.Clones) != 1 || a.Clones[0].Replace.Host != host || a.Clones[0].Replace.Variants != nil {
					t.Errorf("%s: %+v", pathway, a.Clones)
				}
			}
			// With another port no host alone reaches it: Shaka does not hear of it.
			s.nodes[3].URL = "http://127.0.0.9:9999"
			if a := s.ask(second(3), steer.DASH, base+"&_DASH_pathway=eu-1"); len(a.Clones) != 0 {
				t.Errorf("%+v", a.Clones)
			}
		},
		6: func(t *testing.T) {
			a := s.ask(4*time.Hour, steer.HLS, base)
			if len(a.Clones) != 3 || a.Clones[0].ID != "eu-1.t1" || a.Priority[0] != "eu-1.t1" || a.Clones[0].Base != "eu-1" || strings.Contains(a.Clones[0].Replace.Variants["aac_96"], s.token) {
				t.Fatalf("%+v", a)
			}
			b := s.reload(4*time.Hour+time.Minute, steer.HLS, a, "&_HLS_pathway=eu-1.t1&_HLS_throughput=9000000")
			if d := cmp.Diff(b, a); d != "" {
				t.Errorf("the same epoch says something else: %s", d)
			}
			for i := range 7 { // to the end of the day
				at := 4*time.Hour + time.Duration(i)*3*time.Hour
				b = s.reload(at, steer.HLS, b, "")
				for _, c := range b.Clones {
					if c.ID == c.Base {
						t.Errorf("%+v", c)
					}
				}
			}
			_, query, _ := strings.Cut(b.Reload, "?")
			if _, err := s.try(25*time.Hour, steer.HLS, query, false); !errors.Is(err, steer.ErrOver) {
				t.Errorf("a play goes on for ever: %v", err)
			}
		},
		7: func(t *testing.T) {
			if a := s.ask(0, steer.HLS, base); !strings.HasPrefix(a.Reload, "https://cp.example/steering/hls?") {
				t.Errorf("%q", a.Reload)
			}
		},
		8: func(t *testing.T) {
			if _, err := s.try(7*time.Hour, steer.DASH, base, false); !errors.Is(err, steer.ErrOver) {
				t.Errorf("%v", err)
			}
			for i := range s.nodes {
				s.nodes[i].Healthy = false
			}
			a, err := s.try(second(10), steer.HLS, base+"&_HLS_pathway=us-1", false)
			if err != nil || cmp.Diff(a.Priority, []string{"us-1", "eu-1"}) != "" {
				t.Errorf("with nothing healthy: %v %v", a.Priority, err)
			}
			for i := range s.nodes {
				s.nodes[i].Healthy = true
			}
		},
		9: func(t *testing.T) {
			if a := s.ask(0, steer.DASH, base); cmp.Diff(a.Services, a.Priority) != "" {
				t.Errorf("%+v", a)
			}
			if a := s.ask(0, steer.HLS, base); a.Services != nil {
				t.Errorf("%+v", a)
			}
		},
	}
	cases[10] = func(t *testing.T) {
		b, err := s.Playlist(t.Context(), begun, steer.DASH, s.token, client, "https://cp.example")
		if err != nil || !strings.Contains(string(b), `queryBeforeStart="true"`) {
			t.Errorf("%s %v", b, err)
		}
	}
	for i, q := range steer.Quirks {
		if cases[i] == nil {
			t.Errorf("no test that %s %s", q.Player, q.Does)
			continue
		}
		t.Run(q.Player+" "+q.Does, cases[i])
	}
}

// A pathway that was slow stays last while the address remembers it, and comes back after.
func TestSlowPathway(t *testing.T) {
	s := newStage(t, false)
	a := s.ask(0, steer.HLS, "t="+s.token+"&p=eu-1,us-1&_HLS_pathway=eu-1&_HLS_throughput=100000")
	if a.Priority[0] == "eu-1" {
		t.Fatal(a.Priority)
	}
	if b := s.reload(time.Minute, steer.HLS, a, "&_HLS_pathway=us-1&_HLS_throughput=9000000"); b.Priority[0] == "eu-1" {
		t.Error("back at once")
	}
	if b := s.reload(6*time.Minute, steer.HLS, a, "&_HLS_pathway=us-1&_HLS_throughput=9000000"); b.Priority[0] != "eu-1" || strings.Contains(b.Reload, "&x=") {
		t.Errorf("%+v", b)
	}
}

func TestHealthMovesPlayers(t *testing.T) {
	s := newStage(t, false)
	base := "t=" + s.token + "&p=eu-1,us-1,us-2&v=aac_96"
	if a := s.ask(0, steer.HLS, base); a.Priority[0] != "eu-1" || len(a.Clones) != 0 {
		t.Fatalf("%+v", a)
	}
	if a := s.ask(0, steer.HLS, "t="+s.token); a.Priority[0] != "eu-1" || len(a.Clones) != 0 {
		t.Errorf("without names: %+v", a)
	}
	s.nodes[0].Draining = true
	if a := s.ask(time.Second, steer.HLS, base); cmp.Diff(a.Priority, []string{"us-1", "us-2", "eu-1"}) != "" {
		t.Errorf("an edge that drains does not come last: %+v", a)
	}
	s.nodes[0].Healthy = false
	if a := s.ask(2*time.Second, steer.HLS, base); cmp.Diff(a.Priority, []string{"us-1", "us-2"}) != "" {
		t.Errorf("a dead edge is in the answer: %+v", a)
	}
}

// TestOthers: steering for manifests that this platform did not make.
func TestOthers(t *testing.T) {
	s := newStage(t, false)
	f := func(query string, want ...string) {
		t.Helper()
		if a := s.ask(0, steer.HLS, query); cmp.Diff(a.Priority, want) != "" || len(a.Clones) != 0 {
			t.Errorf("%s: %+v", query, a)
		}
	}
	f("p=us-2,us-1,eu-1", "eu-1", "us-1", "us-2")
	f("p=us,eu", "eu", "us")
	f("p=other-cdn,us,eu-1", "eu-1", "us", "other-cdn")
	f("p=a,b", "a", "b")
	f("p=us,eu&_HLS_pathway=eu&_HLS_throughput=1000", "us", "eu")
	s.nodes[0].Healthy = false
	s.nodes[1].Name = "moved" // another snapshot
	if a := s.ask(time.Second, steer.HLS, "p=eu-1,us"); cmp.Diff(a.Priority, []string{"us"}) != "" {
		t.Errorf("%+v", a)
	}
	for _, query := range []string{"", "p=a b", "p=%22%22", "p=" + strings.Repeat("a,", 20) + "a", "t=" + s.token + "&p=<script>", "t=" + s.token + "&v=a/b&p=a"} {
		if _, err := s.try(0, steer.HLS, query, false); !errors.Is(err, media.ErrInvalid) {
			t.Errorf("%q: %v", query, err)
		}
	}
	for _, query := range []string{"t=x", "t=" + s.token + "x", "t=" + s.mint(cat.Claims{Issuer: "other", ID: "x", PlayID: "x", PathPrefix: "/media/T/v/", Expires: begun.Add(time.Hour)})} {
		if _, err := s.try(0, steer.HLS, query, false); !errors.Is(err, media.ErrNoAccess) {
			t.Errorf("%q: %v", query, err)
		}
	}
}

func TestPlaylist(t *testing.T) {
	s := newStage(t, false)
	get := func(f steer.Format, after time.Duration) string {
		t.Helper()
		b, err := s.Playlist(t.Context(), begun.Add(after), f, s.token, client, "https://cp.example")
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	m := get(steer.HLS, 0)
	for _, want := range []string{"#EXT-X-CONTENT-STEERING:SERVER-URI=\"https://cp.example/steering/hls?p=eu-1%2Cus-1%2Cus-2&t=" + s.token + "&v=aac_96%2Caac_160\",PATHWAY-ID=\"eu-1\"",
		"\nhttp://127.0.0.2:8081/t/" + s.token + "/media/T/v/aac_96.m3u8\n", "\nhttps://us2.example/t/" + s.token + "/media/T/v/aac_160.m3u8\n"} {
		if !strings.Contains(m, want) {
			t.Errorf("%q is not in\n%s", want, m)
		}
	}
	mpd := get(steer.DASH, 0)
	if !strings.Contains(mpd, `<BaseURL serviceLocation="us-2">https://us2.example/t/`+s.token+`/media/T/v/</BaseURL>`) || !strings.Contains(mpd, `>https://cp.example/steering/dash?p=eu-1%2Cus-1%2Cus-2&amp;t=`) {
		t.Error(mpd)
	}
	// What the playlist names, the server knows: no clone, the same first pathway.
	_, rest, _ := strings.Cut(m, "steering/hls?")
	query, _, _ := strings.Cut(rest, `"`)
	if a := s.ask(0, steer.HLS, query); len(a.Clones) != 0 || a.Priority[0] != "eu-1" {
		t.Errorf("%+v", a)
	}
	get(steer.HLS, time.Second)
	if n := s.reads.Load(); n != 2 {
		t.Errorf("%d reads of the origin", n)
	}
	s.nodes = nil
	if _, err := s.Playlist(t.Context(), begun.Add(2*time.Second), steer.HLS, s.token, client, ""); !errors.Is(err, steer.ErrNoEdge) {
		t.Error(err)
	}
}

// FuzzManifest: whatever a player sends, the answer is a manifest or one of the known errors.
func FuzzManifest(f *testing.F) {
	s := newStage(f, false)
	f.Add("p=eu-1&_HLS_pathway=%22a,b%22&_HLS_throughput=1,2&x=a:1,b:99999999999", "hls")
	f.Add("t="+s.token+"&p=us-2,eu-1&v=a,b&_DASH_pathway=eu-1.t3", "dash")
	f.Fuzz(func(t *testing.T, query, format string) {
		v, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		b, err := s.Manifest(begun.Add(time.Hour), steer.Query{Format: steer.Format(format), Client: client, Base: "http://cp", Params: v})
		if err != nil {
			if !errors.Is(err, media.ErrInvalid) && !errors.Is(err, media.ErrNoAccess) && !errors.Is(err, media.ErrDenied) && !errors.Is(err, media.ErrNotFound) && !errors.Is(err, steer.ErrNoEdge) {
				t.Fatal(err)
			}
			return
		}
		var a answer
		if err := json.Unmarshal(b, &a); err != nil || len(a.Priority) == 0 || len(b) > 64<<10 {
			t.Fatalf("%v: %s", err, b)
		}
	})
}

func BenchmarkManifest(b *testing.B) {
	s := newStage(b, false)
	for i := range 17 {
		n := s.nodes[i%3]
		n.Name += strings.Repeat("x", i)
		s.nodes = append(s.nodes, n)
	}
	q := steer.Query{Format: steer.HLS, Client: client, Base: "https://cp.example", Params: url.Values{"t": {s.token}, "p": {"eu-1,us-1,us-2"}, "v": {"aac_96,aac_160,aac_256"}, "_HLS_pathway": {"eu-1"}, "_HLS_throughput": {"9000000"}}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Manifest(begun.Add(time.Minute), q); err != nil {
			b.Fatal(err)
		}
	}
}
