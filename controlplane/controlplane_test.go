package controlplane_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"segue/controlplane"
	"segue/controlplane/api"
	"segue/geo"
	"segue/internal/serve"
	"segue/internal/testenv"
	"segue/media"
	"segue/media/cat"
	"segue/origin/memstore"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
)

var update = flag.Bool("update", false, "write the golden files")

const adminToken = "sga_test-token-of-the-operator"

// server is a control plane on a real database, a real event log and a store in memory.
type server struct {
	*httptest.Server
	t       *testing.T
	objects *memstore.Store
	admin   *api.Client
	cp      *controlplane.ControlPlane
}

func newServer(t *testing.T, database, clickhouse string) *server {
	t.Helper()
	return newServerWith(t, database, clickhouse, func(*controlplane.Config) {})
}

// newServerWith lets a test change the configuration.
func newServerWith(t *testing.T, database, clickhouse string, change func(*controlplane.Config)) *server {
	t.Helper()
	s := &server{t: t, objects: &memstore.Store{}}
	cfg := controlplane.Config{Listen: testenv.Addr(t), Database: database, Data: t.TempDir(), PlaysKey: bytes.Repeat([]byte{1}, 32),
		AdminToken: adminToken, ClickHouse: clickhouse, PerSecond: -1, Version: "test", Home: geo.Place{Point: geo.Point{Lat: 52, Lon: 5}, OK: true}}
	change(&cfg)
	cp, err := controlplane.Open(t.Context(), cfg, s.objects, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done, up := make(chan error, 1), make(chan struct{})
	go func() { done <- cp.Run(ctx, func() { close(up) }) }()
	select {
	case <-up:
	case err := <-done:
		t.Fatal(err)
	}
	checked := &contract{next: cp.Handler()}
	s.Server = httptest.NewServer(checked)
	t.Cleanup(func() {
		s.Close()
		for _, why := range checked.wrong {
			t.Errorf("an answer is not as documented: %s", why)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	s.admin, s.cp = s.client(adminToken), cp
	return s
}

func (s *server) client(token string) *api.Client {
	s.t.Helper()
	c, err := api.NewClient(s.URL, func() (string, error) { return token, nil })
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// call fails the test when the call does.
func call[T any](t *testing.T, c *api.Client, method, path string, in any) (out T) {
	t.Helper()
	if err := c.Call(t.Context(), method, path, in, &out); err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return out
}

// refused checks a call's status and problem type.
func refused(t *testing.T, c *api.Client, method, path string, in any, status int, slug string) {
	t.Helper()
	err := c.Call(t.Context(), method, path, in, nil)
	p, ok := errors.AsType[*api.Problem](err)
	if !ok || p.Status != status || p.Type != "/problems/"+slug {
		t.Errorf("%s %s: %+v, want %d %s", method, path, err, status, slug)
	}
}

func (s *server) signIn(email string) (*api.Client, api.Session) {
	s.t.Helper()
	call[api.User](s.t, s.client(""), "POST", "/v1/users", api.NewUser{Email: email, Password: "correct horse"})
	sess := call[api.Session](s.t, s.client(""), "POST", "/v1/sessions", api.NewSession{Email: strings.ToUpper(email), Password: "correct horse", Device: api.Device{Type: "cli", Name: "test"}})
	return s.client(sess.AccessToken), sess
}

// publish ingests a made-up track as a packager would.
func (s *server) publish(tags media.Tags, seconds int64, sum string) api.Track {
	s.t.Helper()
	artVersion := media.Version(strings.Repeat("z", 26))
	version := media.Version(strings.Repeat(strings.ToLower(sum[:1]), 26))
	req := api.ClaimRequest{SourceSHA256: strings.Repeat(sum, 64), Version: version, Tags: tags, DurationMS: seconds * 1000}
	in := api.Ingester{Client: s.admin}
	c, err := in.Claim(s.t.Context(), req)
	if err != nil {
		s.t.Fatal(err)
	}
	t := media.Track{ID: c.TrackID, Version: version, Tags: tags, Encoder: "test", Loudness: media.Loudness{IntegratedLUFS: -10, TruePeakDBTP: -1},
		Source:     media.Source{SHA256: req.SourceSHA256, SampleRateHz: 44100, Samples: seconds * 44100, Channels: 2},
		Renditions: []media.Rendition{}, Art: &media.Art{AlbumID: c.AlbumID, Version: artVersion}}
	put := func(key media.Key, body string) {
		if _, err := s.objects.Put(s.t.Context(), media.Object{Key: key, Size: int64(len(body))}, strings.NewReader(body)); err != nil {
			s.t.Fatal(err)
		}
	}
	for _, bps := range []int{96000, 160000, 256000} {
		name := fmt.Sprintf("aac_%d", bps/1000)
		t.Renditions = append(t.Renditions, media.Rendition{Name: name, File: name + ".mp4", Codec: "mp4a.40.2", BitrateBps: bps, Size: 4, SampleRateHz: 44100, Channels: 2,
			Segments: []media.Segment{}, Gapless: media.Gapless{Priming: 1024, Samples: seconds * 44100}})
		put(media.TrackKey(t.ID, version, name+".mp4"), "data")
		put(media.TrackKey(t.ID, version, name+".m3u8"), "list")
	}
	for _, name := range []string{media.MasterPlaylist, media.Manifest, media.LimitedMasterPlaylist, media.LimitedManifest} {
		put(media.TrackKey(t.ID, version, name), "list")
	}
	for _, size := range media.ArtSizes {
		put(media.ArtKey(c.AlbumID, artVersion, size), "jpeg")
	}
	refused(s.t, s.admin, "POST", "/v1/admin/ingest/tracks", t, 409, "object-missing") // track.json is not there yet
	put(media.TrackKey(t.ID, version, media.TrackFile), "{}")
	return call[api.Track](s.t, s.admin, "POST", "/v1/admin/ingest/tracks", t)
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatal("not in time: " + what)
}

// databases runs a test on SQLite and on PostgreSQL: the same SQL, the same answers.
func databases(t *testing.T, f func(t *testing.T, s *server)) {
	t.Run("sqlite", func(t *testing.T) { f(t, newServer(t, "sqlite:"+t.TempDir()+"/segue.db", "")) })
	t.Run("postgres", func(t *testing.T) { f(t, newServer(t, testenv.Postgres(t), "")) })
}

func TestAccounts(t *testing.T) {
	databases(t, func(t *testing.T, s *server) {
		anybody := s.client("")
		user, sess := s.signIn("ada@example.org")
		me := call[api.User](t, user, "GET", "/v1/me", nil)
		if me.Email != "ada@example.org" || me.Plan != api.PlanFree || me.DisplayName != "ada" || me.ID != sess.User.ID {
			t.Errorf("%+v", me)
		}
		refused(t, anybody, "POST", "/v1/users", api.NewUser{Email: "ADA@example.org", Password: "another one"}, 409, "email-taken")
		refused(t, anybody, "POST", "/v1/users", api.NewUser{Email: "not an address", Password: "long enough"}, 400, "invalid-request")
		refused(t, anybody, "POST", "/v1/users", api.NewUser{Email: "b@example.org", Password: "short"}, 400, "invalid-request")
		refused(t, anybody, "POST", "/v1/users", map[string]any{"email": 7}, 422, "validation")
		refused(t, anybody, "POST", "/v1/sessions", api.NewSession{Email: "ada@example.org", Password: "wrong one"}, 401, "unauthenticated")
		refused(t, anybody, "POST", "/v1/sessions", api.NewSession{Email: "nobody@example.org", Password: "wrong one"}, 401, "unauthenticated")
		refused(t, anybody, "GET", "/v1/me", nil, 401, "unauthenticated")
		refused(t, s.client("x.y.z"), "GET", "/v1/me", nil, 401, "unauthenticated")
		refused(t, user, "GET", "/v1/admin/edges", nil, 401, "unauthenticated")

		second := call[api.Session](t, anybody, "POST", "/v1/sessions/refresh", api.Refresh{RefreshToken: sess.RefreshToken})
		if second.RefreshToken == sess.RefreshToken || second.AccessToken == sess.AccessToken {
			t.Error("nothing rotated")
		}
		if again := call[api.Session](t, anybody, "POST", "/v1/sessions/refresh", api.Refresh{RefreshToken: sess.RefreshToken}); again.RefreshToken != second.RefreshToken {
			t.Error("a lost answer cannot be asked for again")
		}
		next := call[api.Session](t, anybody, "POST", "/v1/sessions/refresh", api.Refresh{RefreshToken: second.RefreshToken})
		// Reuse: somebody else has the token, so the session ends for both.
		refused(t, anybody, "POST", "/v1/sessions/refresh", api.Refresh{RefreshToken: sess.RefreshToken}, 401, "unauthenticated")
		refused(t, anybody, "POST", "/v1/sessions/refresh", api.Refresh{RefreshToken: next.RefreshToken}, 401, "unauthenticated")
		refused(t, s.client(next.AccessToken), "GET", "/v1/me", nil, 401, "unauthenticated")

		_, third := s.signIn("bob@example.org")
		if err := s.client(third.AccessToken).Call(t.Context(), "DELETE", "/v1/sessions/current", nil, nil); err != nil {
			t.Fatal(err)
		}
		refused(t, anybody, "POST", "/v1/sessions/refresh", api.Refresh{RefreshToken: third.RefreshToken}, 401, "unauthenticated")
	})
}

func TestCatalogueAndSearch(t *testing.T) {
	databases(t, func(t *testing.T, s *server) {
		user, _ := s.signIn("ada@example.org")
		tags := media.Tags{Title: "Breaking the Chains", Artist: "T. Pinkham", AlbumArtist: "Wesnoth", Album: "OST", Genres: []string{"Classical"}, Date: "2005-01", TrackNumber: 2}
		first := s.publish(tags, 100, "a")
		tags.Title, tags.TrackNumber, tags.Artist = "Café del Sur", 1, "Björk"
		second := s.publish(tags, 60, "b")
		if got := call[api.Track](t, user, "GET", "/v1/tracks/"+string(first.ID), nil); cmp.Diff(got, first) != "" {
			t.Error(cmp.Diff(got, first))
		}
		album := call[api.Album](t, user, "GET", "/v1/albums/"+string(first.Album.ID), nil)
		if len(album.Tracks) != 2 || album.Tracks[0].ID != second.ID || album.DurationMS != 160_000 || album.Art == nil {
			t.Errorf("%+v", album)
		}
		artist := call[api.Artist](t, user, "GET", "/v1/artists/"+string(second.Artists[0].ID), nil)
		if artist.Name != "Björk" || len(artist.Albums) != 0 || len(artist.AppearsOn) != 1 || len(artist.TopTracks) != 1 {
			t.Errorf("%+v", artist)
		}
		var titles []string
		for cursor := ""; ; {
			page := call[api.Page[api.Track]](t, user, "GET", "/v1/tracks?limit=1&cursor="+cursor, nil)
			for _, t := range page.Items {
				titles = append(titles, t.Title)
			}
			if cursor = page.Next; cursor == "" {
				break
			}
		}
		if d := cmp.Diff(titles, []string{"Breaking the Chains", "Café del Sur"}); d != "" {
			t.Error(d)
		}
		find := func(q string) []api.Track {
			return call[api.SearchResult](t, user, "GET", "/v1/search?q="+q, nil).Tracks
		}
		eventually(t, "search finds what was published", func() bool { return len(find("chains")) == 1 && len(find("cafe+bjork")) == 1 })
		if r := call[api.SearchResult](t, user, "GET", "/v1/search?q=wesnoth+os&type=album", nil); len(r.Tracks) != 0 {
			t.Errorf("%+v", r)
		}

		// A better rip keeps the ID and replaces the version; the older one is not asked for again.
		better := s.publish(media.Tags{Title: "Breaking the Chains", Artist: "T. Pinkham", AlbumArtist: "Wesnoth", Album: "OST", TrackNumber: 2}, 101, "c")
		if better.ID != first.ID || better.Version == first.Version {
			t.Errorf("%+v", better)
		}
		other := s.publish(media.Tags{Title: "Breaking the Chains", Artist: "T. Pinkham", AlbumArtist: "Wesnoth", Album: "OST", TrackNumber: 2}, 300, "d")
		if other.ID == first.ID {
			t.Error("a recording of another length took the ID")
		}
		c := call[api.Claim](t, s.admin, "POST", "/v1/admin/ingest/claims", api.ClaimRequest{SourceSHA256: strings.Repeat("a", 64), Version: first.Version, Tags: tags})
		if c.TrackID != first.ID || !c.Published {
			t.Errorf("%+v", c)
		}
		refused(t, user, "GET", "/v1/tracks/"+ulid.Make().String(), nil, 404, "not-found")
		refused(t, user, "GET", "/v1/tracks?cursor=%21", nil, 400, "invalid-request")
		refused(t, user, "GET", "/v1/tracks?limit=1000", nil, 422, "validation")
		refused(t, user, "GET", "/v1/nothing", nil, 404, "not-found")
		refused(t, user, "PUT", "/v1/me", nil, 405, "method-not-allowed")
	})
}

// member joins an edge and beats for it.
type member struct {
	id  string
	key ed25519.PrivateKey
}

func (m member) client(t *testing.T, s *server) *api.Client {
	c, err := api.NewClient(s.URL, func() (string, error) { return m.token(t), nil })
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (m member) token(t *testing.T) string {
	now := time.Now()
	token, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.RegisteredClaims{Issuer: m.id, Subject: m.id, Audience: jwt.ClaimStrings{"segue-fleet"},
		IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(30 * time.Second))}).SignedString(m.key)
	if err != nil {
		t.Error(err)
	}
	return token
}

func (s *server) join(name, region, url string, lat, lon float64) member {
	s.t.Helper()
	_, _, err := s.admin.PutRegion(s.t.Context(), region, api.NewRegion{DisplayName: region, Latitude: lat, Longitude: lon}, "", api.PutRegionOptions{IfNoneMatch: "*"})
	if p, ok := errors.AsType[*api.Problem](err); err != nil && !(ok && p.Status == 412) { // 412: it is there
		s.t.Fatal(err)
	}
	token := call[api.JoinToken](s.t, s.admin, "POST", "/v1/admin/join-tokens", api.NewJoinToken{Region: region})
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	in := api.Join{Token: token.Token, Name: name, URL: url, PublicKey: public}
	joined := call[api.Joined](s.t, s.client(""), "POST", "/v1/fleet/join", in)
	if again := call[api.Joined](s.t, s.client(""), "POST", "/v1/fleet/join", in); again != joined {
		s.t.Error("joining again with the same key gives another identity")
	}
	other, _, _ := ed25519.GenerateKey(rand.Reader)
	in.PublicKey = other
	refused(s.t, s.client(""), "POST", "/v1/fleet/join", in, 401, "unauthenticated") // the token was for one
	m := member{joined.EdgeID, private}
	call[api.HeartbeatReply](s.t, m.client(s.t, s), "POST", "/v1/fleet/heartbeat", api.Heartbeat{URL: url, At: time.Now()})
	return m
}

// Peers of an edge are the healthy ones of its region, and a change of them leaves the rest of its configuration.
func TestPeersOfARegion(t *testing.T) {
	databases(t, func(t *testing.T, s *server) {
		one := s.join("eu-1", "eu", "http://one.example", 52.4, 4.9)
		config := func(m member) api.EdgeConfig {
			return call[api.EdgeConfig](t, m.client(t, s), "GET", "/v1/fleet/config", nil)
		}
		before := config(one)
		if len(before.Peers) != 0 {
			t.Errorf("an edge alone has peers: %+v", before.Peers)
		}
		two := s.join("eu-2", "eu", "http://two.example", 52.4, 4.9)
		far := s.join("us-1", "us", "http://us.example", 39, -77)
		after := config(one)
		want := []api.Peer{{Name: "eu-2", Region: "eu", URL: "http://two.example", PublicKey: two.key.Public().(ed25519.PublicKey)}}
		if d := cmp.Diff(after.Peers, want); d != "" {
			t.Error(d)
		}
		if after.Revision == before.Revision {
			t.Error("a new peer has no new revision")
		}
		if d := cmp.Diff(after.Keys, before.Keys); d != "" {
			t.Error(d)
		}
		if p := config(far).Peers; len(p) != 0 {
			t.Errorf("peers of another region: %+v", p)
		}
		if err := s.admin.Call(t.Context(), "POST", "/v1/admin/edges/"+two.id+"/drain", nil, nil); err != nil {
			t.Fatal(err)
		}
		call[api.HeartbeatReply](t, two.client(t, s), "POST", "/v1/fleet/heartbeat", api.Heartbeat{URL: "http://two.example"})
		call[api.HeartbeatReply](t, one.client(t, s), "POST", "/v1/fleet/heartbeat", api.Heartbeat{URL: "http://one.example"})
		if p := config(one).Peers; len(p) != 0 {
			t.Errorf("a draining edge is a peer still: %+v", p)
		}
		if p := config(two).Peers; len(p) != 1 || p[0].Name != "eu-1" {
			t.Errorf("a draining edge has no peers to ask: %+v", p)
		}
	})
}

func TestPlaybackOnTheNearestEdge(t *testing.T) {
	databases(t, func(t *testing.T, s *server) {
		user, _ := s.signIn("ada@example.org")
		track := s.publish(media.Tags{Title: "A", Artist: "B", AlbumArtist: "B", Album: "C"}, 100, "a")
		refused(t, user, "POST", "/v1/playback", api.NewPlayback{TrackID: track.ID}, 503, "no-edge")
		far := s.join("us-1", "us", "http://us.example", 39, -77)
		near := s.join("eu-1", "eu", "http://eu.example", 52.4, 4.9)

		p := call[api.Playback](t, user, "POST", "/v1/playback", api.NewPlayback{TrackID: track.ID})
		if len(p.Pathways) != 2 || p.Pathways[0].ID != "eu-1" || !strings.HasPrefix(p.HLSURL, "http://eu.example/t/") || !strings.HasSuffix(p.HLSURL, "/master_160.m3u8") ||
			!strings.HasSuffix(p.FileURL, "/aac_160.mp4") || !strings.HasSuffix(p.DASHURL, "/manifest_160.mpd") || p.GainDB != -4 || p.Gapless.Priming != 1024 {
			t.Errorf("%+v", p)
		}
		cfg := call[api.EdgeConfig](t, near.client(t, s), "GET", "/v1/fleet/config", nil)
		token, _, _ := strings.Cut(strings.TrimPrefix(p.HLSURL, "http://eu.example/t/"), "/")
		claims, err := cat.Verify([]cat.Key{{ID: cfg.Keys[0].ID, Alg: cfg.Keys[0].Alg, Public: cfg.Keys[0].Key}}, cfg.Issuer, time.Now(), token)
		if err != nil || !claims.Allows(media.TrackKey(track.ID, track.Version, "aac_160.mp4")) || claims.Allows(media.TrackKey(track.ID, track.Version, "aac_256.mp4")) {
			t.Errorf("%+v, %v", claims, err)
		}
		refused(t, user, "POST", "/v1/playback", api.NewPlayback{TrackID: track.ID, Rendition: "aac_256"}, 403, "plan-required")
		refused(t, user, "POST", "/v1/playback", api.NewPlayback{TrackID: track.ID, Rendition: "mp2"}, 400, "invalid-request")
		refused(t, user, "POST", "/v1/playback", api.NewPlayback{TrackID: media.TrackID(ulid.Make().String())}, 404, "not-found")

		if err := s.admin.Call(t.Context(), "POST", "/v1/admin/edges/"+near.id+"/drain", nil, nil); err != nil {
			t.Fatal(err)
		}
		if r := call[api.HeartbeatReply](t, near.client(t, s), "POST", "/v1/fleet/heartbeat", api.Heartbeat{URL: "http://eu.example"}); !r.Draining {
			t.Error("a drained edge is not told")
		}
		if p := call[api.Playback](t, user, "POST", "/v1/playback", api.NewPlayback{TrackID: track.ID}); p.Pathways[0].ID != "us-1" || len(p.Pathways) != 1 {
			t.Errorf("a drained edge is still given: %+v", p.Pathways)
		}
		edges := call[api.Page[api.Edge]](t, s.admin, "GET", "/v1/admin/edges", nil)
		if len(edges.Items) != 2 || edges.Items[0].State != "draining" || edges.Items[1].State != "healthy" {
			t.Errorf("%+v", edges.Items)
		}
		eventually(t, "a silent edge leaves the answers", func() bool {
			err := user.Call(t.Context(), "POST", "/v1/playback", api.NewPlayback{TrackID: track.ID}, nil)
			return err != nil
		})
		refused(t, member{far.id, near.key}.client(t, s), "POST", "/v1/fleet/heartbeat", api.Heartbeat{URL: "http://us.example"}, 401, "unauthenticated")

		call[api.HeartbeatReply](t, far.client(t, s), "POST", "/v1/fleet/heartbeat", api.Heartbeat{URL: "http://us.example"})
		noFollow := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		resp, err := noFollow.Get(s.URL + strings.Replace(track.Album.Art.URL, "{size}", "64", 1))
		if err != nil || resp.StatusCode != 302 || !strings.HasPrefix(resp.Header.Get("Location"), "http://us.example/art/") {
			t.Errorf("%v %v", resp, err)
		}
		resp.Body.Close()
		if resp, err := http.Get(s.URL + "/r/media/x"); err != nil || resp.StatusCode != 403 {
			t.Errorf("a protected object is redirected to: %v %v", resp.Status, err)
		}
	})
}

func TestUploads(t *testing.T) {
	s := newServer(t, "sqlite:"+t.TempDir()+"/segue.db", "")
	put := func(key, digest, token string, body string) int {
		req, err := http.NewRequest("PUT", s.URL+"/v1/admin/ingest/objects/"+key, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Digest", digest)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode
	}
	const good = "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:" // of "hello"
	f := func(why string, want, got int) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %d, want %d", why, got, want)
		}
	}
	f("good", 201, put("media/x.mp4", good, adminToken, "hello"))
	f("no token", 401, put("media/x.mp4", good, "nobody", "hello"))
	f("other bytes", 422, put("media/y.mp4", good, adminToken, "jello"))
	f("no digest", 400, put("media/y.mp4", "", adminToken, "hello"))
	f("outside the layout", 400, put("etc/passwd.mp4", good, adminToken, "hello"))
	f("odd ending", 400, put("media/x.html", good, adminToken, "hello"))
	f("relative", 400, put("media/%2e%2e/x.mp4", good, adminToken, "hello"))
	in := api.Ingester{Client: s.admin}
	if o, err := in.Stat(t.Context(), "media/x.mp4"); err != nil || o.Size != 5 {
		t.Errorf("%+v %v", o, err)
	}
	if _, err := in.Stat(t.Context(), "media/y.mp4"); !errors.Is(err, media.ErrNotFound) {
		t.Errorf("a refused upload left something: %v", err)
	}
}

func TestRateLimit(t *testing.T) {
	cp, err := controlplane.Open(t.Context(), controlplane.Config{Listen: testenv.Addr(t), Database: "sqlite:" + t.TempDir() + "/segue.db", Data: t.TempDir(), PlaysKey: bytes.Repeat([]byte{1}, 32), PerSecond: 5},
		&memstore.Store{}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	defer cp.Close()
	last := 0
	for range 30 {
		w := httptest.NewRecorder()
		cp.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/v1/me", nil))
		last = w.Code
		if last == 429 {
			if w.Header().Get("Retry-After") == "" || w.Header().Get("Content-Type") != "application/problem+json" {
				t.Errorf("%v", w.Header())
			}
		}
	}
	if last != 429 {
		t.Errorf("30 requests at once are answered with %d", last)
	}
}

func TestOpenAPI(t *testing.T) {
	s := newServer(t, "sqlite:"+t.TempDir()+"/segue.db", "")
	resp, err := http.Get(s.URL + "/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var doc any
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/openapi.json"
	if *update {
		if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(append(got, '\n')), string(want)); d != "" {
		t.Errorf("the API changed; if that is meant, run with -update: %s", d)
	}
}

func TestOpenRefuses(t *testing.T) {
	f := func(why string, c controlplane.Config) {
		t.Helper()
		c.Data, c.PlaysKey = t.TempDir(), bytes.Repeat([]byte{1}, 32)
		_, err := controlplane.Open(t.Context(), c, &memstore.Store{}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
		if _, setup := errors.AsType[serve.SetupError](err); !setup || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", why, err)
		}
	}
	f("no such database kind", controlplane.Config{Database: "mysql://x"})
	f("no server", controlplane.Config{Database: "postgres://u:secret@" + testenv.Addr(t) + "/x"})
	f("unwritable file", controlplane.Config{Database: "sqlite:/proc/none/segue.db"})
	f("no NATS server", controlplane.Config{Database: "sqlite:" + t.TempDir() + "/x.db", NATS: "nats://" + testenv.Addr(t)})
	f("two replicas on SQLite", controlplane.Config{Database: "sqlite:" + t.TempDir() + "/x.db", Replicas: 2})
}

// TestPlaysReachClickHouse: events once each, over repeats and an engine that goes away.
func TestPlaysReachClickHouse(t *testing.T) {
	ch := testenv.StartClickHouse(t)
	s := newServer(t, "sqlite:"+t.TempDir()+"/segue.db", ch.URL())
	user, _ := s.signIn("ada@example.org")
	track := s.publish(media.Tags{Title: "A", Artist: "B", AlbumArtist: "B", Album: "C"}, 100, "a")
	s.join("eu-1", "eu", "http://eu.example", 52, 5)
	p := call[api.Playback](t, user, "POST", "/v1/playback", api.NewPlayback{TrackID: track.ID})
	event := func(kind string, played int64) api.Event {
		return api.Event{ID: ulid.Make().String(), PlayID: p.PlayID, Type: kind, At: time.Now().UTC(), PositionMS: played, PlayedMS: played, Edge: "eu-1", Rendition: "aac_160"}
	}
	start, stall := event(api.EventStart, 0), event(api.EventStall, 9000)
	start.StartupMS, stall.StallMS = 123, 400
	send := func(events ...api.Event) {
		t.Helper()
		if r := call[api.EventsAccepted](t, user, "POST", "/v1/events", events); r.Accepted != len(events) {
			t.Fatalf("%+v", r)
		}
	}
	row := func() string {
		return ask(t, ch, "SELECT played_ms, counted, startup_ms, stalls, ended, edges, title FROM plays FORMAT TSV")
	}
	send(start, stall)
	send(start, stall) // the log drops a repeat
	eventually(t, "the play is a row", func() bool { return row() == "9000\t0\t123\t1\t0\t['eu-1']\tA\n" })

	ch.Stop()
	end := event(api.EventEnd, 31000)
	send(end) // accepted: late, not lost
	ch.Start()
	eventually(t, "the play's end is in the row", func() bool { return row() == "31000\t1\t123\t1\t1\t['eu-1']\tA\n" })
	if n := ask(t, ch, "SELECT count() FROM play_events FINAL"); n != "3\n" {
		t.Errorf("%s events for three", n)
	}

	stranger, _ := s.signIn("eve@example.org")
	old, foreign := event(api.EventEnd, 1), event("nonsense", 1)
	old.At = time.Now().Add(-30 * 24 * time.Hour)
	if r := call[api.EventsAccepted](t, user, "POST", "/v1/events", []api.Event{old, foreign}); r.Rejected != 2 {
		t.Errorf("%+v", r)
	}
	if r := call[api.EventsAccepted](t, stranger, "POST", "/v1/events", []api.Event{event(api.EventEnd, 1)}); r.Rejected != 1 {
		t.Errorf("somebody else's play: %+v", r)
	}
	refused(t, user, "POST", "/v1/events", []api.Event{}, 400, "invalid-request")
}
