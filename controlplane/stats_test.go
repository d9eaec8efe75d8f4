package controlplane_test

import (
	"fmt"
	"testing"
	"time"

	"segue/controlplane"
	"segue/controlplane/api"
	"segue/internal/testenv"
	"segue/media"

	"github.com/oklog/ulid/v2"
)

// TestStatsAndRecommendations: a play is in the listener's recap, the track's numbers, the chart and the console's answer; with
// ClickHouse away the last answers come, marked. What was played is in the home feed's reasons.
func TestStatsAndRecommendations(t *testing.T) {
	ch := testenv.StartClickHouse(t)
	database := "sqlite:" + t.TempDir() + "/db"
	s := newServerWith(t, database, ch.URL(), func(c *controlplane.Config) { c.Analyst = ch.QueryURL() })
	ada, _ := s.signIn("ada@example.org")
	s.join("eu-1", "eu", "http://eu.example", 52, 5)
	track := s.publish(media.Tags{Title: "Ærø 🌊", Artist: "B", AlbumArtist: "B", Album: "C", Date: "2020-02", Genres: []string{"Ambient"}}, 100, "a")
	second := s.publish(media.Tags{Title: "Two", Artist: "B", AlbumArtist: "B", Album: "C", Date: "2020-02", Genres: []string{"Ambient"}}, 100, "b")
	refused(t, ada, "GET", "/v1/stats/artists/"+ulid.Make().String(), nil, 404, "not-found")
	refused(t, ada, "GET", "/v1/stats/charts/de", nil, 422, "validation")
	refused(t, ada, "GET", "/v1/stats/charts/DE?week=2026-W60", nil, 400, "invalid-request")

	p := call[api.Playback](t, ada, "POST", "/v1/playback", api.NewPlayback{TrackID: track.ID})
	at := time.Now().UTC()
	call[api.EventsAccepted](t, ada, "POST", "/v1/events", []api.Event{
		{ID: ulid.Make().String(), PlayID: p.PlayID, Type: api.EventStart, At: at, StartupMS: 120},
		{ID: ulid.Make().String(), PlayID: p.PlayID, Type: api.EventEnd, At: at, PlayedMS: 90_000}})
	year, week := at.ISOWeek()
	until := time.Now().Add(30 * time.Second)
	for {
		if got := ask(t, ch, "SELECT count() FROM plays WHERE counted"); got == "1\n" {
			break
		} else if time.Now().After(until) {
			t.Fatalf("the play does not come: %q", got)
		}
		time.Sleep(50 * time.Millisecond)
	}
	recap := func() api.Recap {
		t.Helper()
		return call[api.Recap](t, ada, "GET", "/v1/stats/me", nil)
	}
	if r := recap(); r.Stale || r.Plays != 1 || r.Minutes != 1.5 || len(r.TopTracks) != 1 || r.TopTracks[0].TrackID != track.ID || r.TopTracks[0].Title != "Ærø 🌊" || r.Streak != 1 || len(r.Days) != 1 {
		t.Errorf("%+v", r)
	}
	if r := call[api.TrackStats](t, ada, "GET", "/v1/stats/tracks/"+string(track.ID), nil); r.Plays != 1 || r.Listeners != 1 || r.Starts != 1 || r.Completions != 1 || r.Skips != 0 {
		t.Errorf("%+v", r)
	}
	artist := string(track.Artists[0].ID)
	call[api.ArtistStats](t, ada, "GET", "/v1/stats/artists/"+artist, nil)
	chart := call[api.Chart](t, ada, "GET", fmt.Sprintf("/v1/stats/charts/all?week=%d-W%02d", year, week), nil)
	if len(chart.Entries) != 1 || chart.Entries[0].TrackID != track.ID || chart.Entries[0].Place != 1 || chart.Final {
		t.Errorf("%+v", chart)
	}
	if c := call[api.Chart](t, ada, "GET", "/v1/stats/charts/DE", nil); len(c.Entries) != 0 {
		t.Errorf("%+v", c)
	}

	// The console asks as one who may only read.
	table := call[api.Table](t, s.admin, "POST", "/v1/admin/sql", api.Question{SQL: "SELECT title, counted FROM plays"})
	if len(table.Rows) != 1 || table.Rows[0][0] != "Ærø 🌊" || table.Columns[0].Name != "title" {
		t.Errorf("%+v", table)
	}
	if table := call[api.Table](t, s.admin, "POST", "/v1/admin/sql", api.Question{SQL: "SELECT number FROM numbers(100000)", MaxRows: 10}); len(table.Rows) != 10 || !table.Truncated {
		t.Errorf("%d rows, truncated %v", len(table.Rows), table.Truncated)
	}
	for _, bad := range []string{"DROP TABLE play_events", "INSERT INTO play_events (title) VALUES ('x')", "SELECT nonsense", "SELECT * FROM url('http://127.0.0.1/', LineAsString, 'l String')", "SELECT 1 FORMAT CSV",
		"SELECT repeat('x', 1000000) FROM numbers(1000)"} {
		refused(t, s.admin, "POST", "/v1/admin/sql", api.Question{SQL: bad}, 400, "invalid-request")
	}
	refused(t, ada, "POST", "/v1/admin/sql", api.Question{SQL: "SELECT 1"}, 401, "unauthenticated")

	// The feed knows what was heard, and has a reason for all.
	home := call[api.Home](t, ada, "GET", "/v1/me/home", nil)
	found := false
	for _, shelf := range home.Shelves {
		for _, r := range shelf.Tracks {
			found = found || r.Track.ID == second.ID
			if r.Reason.Text == "" {
				t.Errorf("%+v", r)
			}
		}
	}
	if !found || !home.Personalised {
		t.Errorf("%+v", home)
	}
	if r := call[api.Radio](t, ada, "GET", "/v1/me/radio/"+string(track.ID), nil); len(r.Tracks) != 1 || r.Tracks[0].Track.ID != second.ID {
		t.Errorf("%+v", r)
	}
	if r := call[api.Radio](t, ada, "GET", "/v1/me/radio/"+string(track.ID)+"?exclude="+string(second.ID), nil); len(r.Tracks) != 0 {
		t.Errorf("%+v", r)
	}
	call[api.Similar](t, ada, "GET", "/v1/tracks/"+string(track.ID)+"/similar", nil)
	call[api.Mixes](t, ada, "GET", "/v1/me/mixes", nil)
	if got := call[api.Taste](t, ada, "PATCH", "/v1/me/taste", map[string]any{"personalised": false}); got.Personalised {
		t.Errorf("%+v", got)
	}
	if got := call[api.Home](t, ada, "GET", "/v1/me/home", nil); got.Personalised {
		t.Errorf("%+v", got)
	}
	call[api.RecommendModel](t, s.admin, "GET", "/v1/admin/recommendations", nil)

	// Away: a new replica has nothing in memory, and gives the last answer.
	before := recap()
	ch.Stop()
	other := newServerWith(t, database, ch.URL(), func(c *controlplane.Config) { c.Replica = "two"; c.Listen = testenv.Addr(t) })
	sess := call[api.Session](t, other.client(""), "POST", "/v1/sessions", api.NewSession{Email: "ada@example.org", Password: "correct horse", Device: api.Device{Type: "cli", Name: "test"}})
	again := other.client(sess.AccessToken)
	if r := call[api.Recap](t, again, "GET", "/v1/stats/me", nil); !r.Stale || r.Plays != 1 || r.AsOf.AsOf.IsZero() || r.AsOf.AsOf.After(before.AsOf.AsOf) {
		t.Errorf("%+v, want that of %v, stale", r, before.AsOf.AsOf)
	}
	refused(t, again, "GET", "/v1/stats/me?period=year", nil, 503, "no-play-logs")
	call[api.Home](t, again, "GET", "/v1/me/home", nil)
}
