package controlplane_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"segue/controlplane"
	"segue/controlplane/api"
	"segue/internal/testenv"
	"segue/media"
	"segue/origin/memstore"
)

// twoReplicas are on one PostgreSQL and one NATS.
func twoReplicas(t *testing.T, cfg controlplane.Config) (one, two *server) {
	t.Helper()
	database, nats, objects := testenv.Postgres(t), runNATS(t, -1, t.TempDir()), &memstore.Store{}
	t.Cleanup(func() { nats.Shutdown(); nats.WaitForShutdown() })
	var out []*server
	for _, name := range []string{"one", "two"} {
		cfg.Database, cfg.NATS, cfg.Replica, cfg.Replicas = database, nats.ClientURL(), name, 2
		at, _ := replica(t, cfg, objects)
		s := &server{Server: &httptest.Server{URL: at}, t: t, objects: objects}
		s.admin = s.client(adminToken)
		out = append(out, s)
	}
	return out[0], out[1]
}

// TestReplicasAreOne: what is done at one replica holds at the other.
func TestReplicasAreOne(t *testing.T) {
	one, two := twoReplicas(t, controlplane.Config{})
	track := one.publish(media.Tags{Title: "Breaking the Chains", Artist: "B", AlbumArtist: "B", Album: "C"}, 100, "a")
	ada, session := one.signIn("ada@example.org")
	both := func(token string) []*api.Client { return []*api.Client{one.client(token), two.client(token)} }

	t.Run("search catches up", func(t *testing.T) {
		for i, c := range both(session.AccessToken) {
			eventually(t, "a track is found", func() bool {
				return len(call[api.SearchResult](t, c, "GET", "/v1/search?q=chains", nil).Tracks) == 1
			})
			_ = i
		}
		name := "Renamed Entirely"
		call[api.Track](t, two.admin, "PATCH", "/v1/admin/tracks/"+string(track.ID), api.TrackEdit{Title: &name})
		for _, c := range both(session.AccessToken) {
			eventually(t, "the new title is found, the old one is not", func() bool {
				return len(call[api.SearchResult](t, c, "GET", "/v1/search?q=entirely", nil).Tracks) == 1 && len(call[api.SearchResult](t, c, "GET", "/v1/search?q=chains", nil).Tracks) == 0
			})
			eventually(t, "no cache keeps the old title", func() bool {
				return call[api.Track](t, c, "GET", "/v1/tracks/"+string(track.ID), nil).Title == name
			})
		}
	})

	t.Run("heartbeats, streams, revocations", func(t *testing.T) {
		edge := one.join("eu-1", "eu", "http://eu.example", 52.4, 4.9)
		beats := edge.client(t, one)
		beat := func() {
			t.Helper()
			call[api.HeartbeatReply](t, beats, "POST", "/v1/fleet/heartbeat", api.Heartbeat{URL: "http://eu.example", EgressBps: 17, At: time.Now()})
		}
		eventually(t, "the other replica has heard of the edge", func() bool {
			beat()
			list := call[api.Page[api.Edge]](t, two.admin, "GET", "/v1/admin/edges", nil).Items
			return len(list) == 1 && list[0].State == "healthy" && list[0].Heartbeat != nil && list[0].Heartbeat.EgressBps == 17
		})
		desk := two.client(call[api.Session](t, two.client(""), "POST", "/v1/sessions", api.NewSession{Email: "ada@example.org", Password: "correct horse", Device: api.Device{Type: "web", Name: "desk"}}).AccessToken)
		beat()
		first := call[api.Playback](t, ada, "POST", "/v1/playback", api.NewPlayback{TrackID: track.ID})
		beat()
		refused(t, desk, "POST", "/v1/playback", api.NewPlayback{TrackID: track.ID}, 409, "stream-limit")
		beat()
		second := call[api.Playback](t, desk, "POST", "/v1/playback", api.NewPlayback{TrackID: track.ID, TakeOver: true})
		refused(t, ada, "PUT", "/v1/playback/"+first.PlayID+"/keepalive", nil, 410, "play-over")
		call[api.Revocation](t, two.admin, "POST", "/v1/admin/revocations", api.NewRevocation{PlayID: second.PlayID})
		for _, s := range []*server{one, two} {
			eventually(t, "edges of either replica hear of both", func() bool {
				beat()
				list := revokedAt(t, edge.client(t, s))
				return slices.Contains(list, first.PlayID) && slices.Contains(list, second.PlayID)
			})
		}
		// Both start at once, at one replica each, again and again: one of them plays.
		for range 20 {
			beat()
			var wg sync.WaitGroup
			var mu sync.Mutex
			var plays []string
			for i, c := range []*api.Client{ada, desk} {
				wg.Go(func() {
					var p api.Playback
					if err := c.Call(t.Context(), "POST", "/v1/playback", api.NewPlayback{TrackID: track.ID, TakeOver: true}, &p); err != nil {
						t.Errorf("device %d: %v", i, err)
						return
					}
					mu.Lock()
					defer mu.Unlock()
					plays = append(plays, p.PlayID)
				})
			}
			wg.Wait()
			alive := 0
			for _, id := range plays {
				if one.client(session.AccessToken).Call(t.Context(), "PUT", "/v1/playback/"+id+"/keepalive", nil, nil) == nil {
					alive++
				}
			}
			if len(plays) == 2 && alive != 1 {
				t.Fatalf("%d of two streams go on", alive)
			}
		}
	})

	t.Run("a purge reaches edges of both", func(t *testing.T) {
		a, b := one.join("eu-2", "eu", "http://a.example", 52.4, 4.9).client(t, one), two.join("eu-3", "eu", "http://b.example", 52.4, 4.9).client(t, two)
		waits := make(chan api.PurgeFeed, 2)
		for _, c := range []*api.Client{a, b} {
			go func() {
				var f api.PurgeFeed
				if err := c.Call(t.Context(), "GET", "/v1/fleet/purges?after=0&wait=20s", nil, &f); err != nil {
					t.Error(err)
				}
				waits <- f
			}()
		}
		p := call[api.Purge](t, two.admin, "POST", "/v1/admin/purges", api.NewPurge{Kind: "tag", Value: "track:" + string(track.ID)})
		for range 2 {
			select {
			case f := <-waits:
				if len(f.Purges) != 1 || f.Purges[0].Epoch != p.Epoch {
					t.Errorf("%+v", f)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("an edge does not hear of a purge")
			}
		}
	})

	t.Run("who is signed out at one is out at the other", func(t *testing.T) {
		gone := call[api.Session](t, one.client(""), "POST", "/v1/sessions", api.NewSession{Email: "ada@example.org", Password: "correct horse", Device: api.Device{Type: "web", Name: "gone"}}).AccessToken
		for _, c := range both(gone) {
			call[api.User](t, c, "GET", "/v1/me", nil)
		}
		if err := two.client(gone).Call(t.Context(), "DELETE", "/v1/sessions/current", nil, nil); err != nil {
			t.Fatal(err)
		}
		for _, c := range both(gone) {
			eventually(t, "the session is over", func() bool { return c.Call(t.Context(), "GET", "/v1/me", nil, nil) != nil })
		}
	})
}

// TestOneBudget: an account that a load balancer sends here and there has one budget.
func TestOneBudget(t *testing.T) {
	const perSecond = 20.0
	one, two := twoReplicas(t, controlplane.Config{PerSecond: perSecond})
	_, session := one.signIn("ada@example.org")
	get := func(s *server) bool {
		req, err := http.NewRequestWithContext(t.Context(), "GET", s.URL+"/v1/me", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+session.AccessToken)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}
	// In step with what replicas tell each other: as fast as twice the rate, for four seconds.
	begun, good := time.Now(), 0
	for tick := time.NewTicker(time.Second / (2 * perSecond)); time.Since(begun) < 4*time.Second; <-tick.C {
		for _, s := range []*server{one, two} {
			if get(s) {
				good++
			}
		}
	}
	allowed := 2*perSecond + perSecond*time.Since(begun).Seconds() // the burst of two seconds, and what comes back
	if max := allowed * 1.25; float64(good) > max || float64(good) < allowed/2 {
		t.Errorf("%d requests got through, of one budget of %.0f", good, allowed)
	}
	t.Logf("%d requests got through, of one budget of %.0f", good, allowed)
}

// revokedAt is what an edge hears of revocations.
func revokedAt(t *testing.T, c *api.Client) []string {
	t.Helper()
	out := []string{}
	for _, r := range call[api.RevokedFeed](t, c, "GET", "/v1/fleet/revocations", nil).Tokens {
		out = append(out, r.CTI)
	}
	return out
}
