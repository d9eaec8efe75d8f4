package controlplane_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"segue/controlplane/api"
	"segue/media"

	"github.com/oklog/ulid/v2"
)

// TestLibraryOverHTTP: what one likes, follows and plays, from the player's side.
func TestLibraryOverHTTP(t *testing.T) {
	databases(t, func(t *testing.T, s *server) {
		ada, adaSession := s.signIn("ada@example.org")
		bob, bobSession := s.signIn("bob@example.org")
		track := s.publish(media.Tags{Title: "Ærø 🌊", Artist: "B", AlbumArtist: "B", Album: "C", Date: "2020-02"}, 100, "a")
		album, artist := string(track.Album.ID), string(track.Artists[0].ID)
		do := func(c *api.Client, method, path string) {
			t.Helper()
			if err := c.Call(t.Context(), method, path, nil, nil); err != nil {
				t.Errorf("%s %s: %v", method, path, err)
			}
		}
		for range 2 {
			do(ada, "PUT", "/v1/me/library/tracks/"+string(track.ID))
			do(ada, "PUT", "/v1/me/library/albums/"+album)
			do(ada, "PUT", "/v1/me/following/artists/"+artist)
		}
		do(ada, "GET", "/v1/me/library/albums/"+album)
		refused(t, bob, "GET", "/v1/me/library/albums/"+album, nil, 404, "not-found")
		refused(t, ada, "PUT", "/v1/me/library/tracks/"+album, nil, 404, "not-found")
		refused(t, ada, "PUT", "/v1/me/library/tracks/%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00", nil, 400, "invalid-request")
		refused(t, ada, "GET", "/v1/me/library/tracks?cursor=%21", nil, 400, "invalid-request")
		has := call[api.LibraryContains](t, ada, "GET", "/v1/me/library/contains?tracks="+string(track.ID)+","+album+"&artists="+artist, nil)
		if !has.Tracks[string(track.ID)] || has.Tracks[album] || !has.Artists[artist] || len(has.Users) != 0 {
			t.Errorf("%+v", has)
		}
		if got := call[api.LibraryCounts](t, ada, "GET", "/v1/me/library", nil); got != (api.LibraryCounts{Tracks: 1, Albums: 1, Artists: 1}) {
			t.Errorf("%+v", got)
		}
		if got := call[api.Page[api.Album]](t, ada, "GET", "/v1/me/releases", nil); len(got.Items) != 1 || string(got.Items[0].ID) != album {
			t.Errorf("%+v", got)
		}
		if got := call[api.Page[api.Album]](t, bob, "GET", "/v1/me/releases", nil); len(got.Items) != 0 {
			t.Errorf("%+v", got)
		}

		// People: who is not discoverable does not exist for others.
		bobID := bobSession.User.ID
		refused(t, ada, "PUT", "/v1/me/following/users/"+bobID, nil, 404, "not-found")
		refused(t, ada, "GET", "/v1/users/"+bobID+"/social", nil, 404, "not-found")
		call[api.User](t, bob, "PATCH", "/v1/me", map[string]any{"discoverable": true})
		do(ada, "PUT", "/v1/me/following/users/"+bobID)
		if got := call[api.Social](t, ada, "GET", "/v1/users/"+bobID+"/social", nil); got != (api.Social{UserID: bobID, Followers: 1, Following: true}) {
			t.Errorf("%+v", got)
		}

		// Bob plays: it is in his history when it is heard, and is seen when he says so.
		s.join("eu-1", "eu", "http://eu.example", 52, 5)
		p := call[api.Playback](t, bob, "POST", "/v1/playback", api.NewPlayback{TrackID: track.ID})
		recent := func(c *api.Client) []api.RecentPlay {
			t.Helper()
			return call[api.Page[api.RecentPlay]](t, c, "GET", "/v1/me/recently-played", nil).Items
		}
		if got := recent(bob); len(got) != 0 {
			t.Errorf("granted, not heard: %+v", got)
		}
		event := api.Event{ID: ulid.Make().String(), PlayID: p.PlayID, Type: api.EventStart, At: time.Now().UTC(), Context: &api.PlayContext{Type: api.ContextAlbum, ID: album}}
		for range 2 {
			call[api.EventsAccepted](t, bob, "POST", "/v1/events", []api.Event{event})
		}
		call[api.EventsAccepted](t, ada, "POST", "/v1/events", []api.Event{event}) // not hers: refused
		if got := recent(bob); len(got) != 1 || got[0].PlayID != p.PlayID || got[0].Context == nil || got[0].Context.ID != album || got[0].Track == nil || got[0].Track.Title != "Ærø 🌊" {
			t.Errorf("%+v", got)
		}
		if got := recent(ada); len(got) != 0 {
			t.Errorf("%+v", got)
		}
		friends := func() int {
			t.Helper()
			return len(call[api.FriendsListening](t, ada, "GET", "/v1/me/friends/listening", nil).Items)
		}
		call[api.PlayerState](t, bob, "PUT", "/v1/me/player/state", api.StateReport{TrackID: track.ID, PlayID: p.PlayID})
		if friends() != 0 {
			t.Error("Bob said nothing, and Ada sees what he plays")
		}
		call[api.Privacy](t, bob, "PATCH", "/v1/me/privacy", map[string]any{"share_listening": "followers"})
		if friends() != 1 {
			t.Error("Bob shares, and Ada sees nothing")
		}
		refused(t, bob, "PATCH", "/v1/me/privacy", map[string]any{"share_listening": "all"}, 422, "validation")
		call[api.PlayerState](t, bob, "PUT", "/v1/me/player/state", api.StateReport{TrackID: track.ID, PlayID: p.PlayID, Paused: true})
		if friends() != 0 {
			t.Error("Bob has paused")
		}
		export, err := json.Marshal(call[api.Export](t, bob, "GET", "/v1/me/export", nil).Parts)
		if err != nil || !strings.Contains(string(export), p.PlayID) || !strings.Contains(string(export), `"queue"`) {
			t.Errorf("%s %v", export, err)
		}
		do(bob, "DELETE", "/v1/me/recently-played")
		if got := recent(bob); len(got) != 0 {
			t.Errorf("%+v", got)
		}
		do(bob, "PUT", "/v1/me/blocked/"+adaSession.User.ID)
		refused(t, ada, "PUT", "/v1/me/following/users/"+bobID, nil, 404, "not-found")
		do(bob, "DELETE", "/v1/me/blocked/"+adaSession.User.ID)
		do(ada, "PUT", "/v1/me/following/users/"+bobID)

		// What is taken out of the catalogue stays in lists; whoever is deleted goes from those of others.
		do(s.admin, "DELETE", "/v1/admin/tracks/"+string(track.ID))
		if got := call[api.Page[api.SavedTrack]](t, ada, "GET", "/v1/me/library/tracks", nil).Items; len(got) != 1 || got[0].Available || got[0].Track == nil || got[0].Track.Title != "Ærø 🌊" {
			t.Errorf("%+v", got)
		}
		refused(t, bob, "PUT", "/v1/me/library/tracks/"+string(track.ID), nil, 404, "not-found")
		if err := bob.Call(t.Context(), http.MethodDelete, "/v1/me", api.Goodbye{Password: "correct horse"}, nil); err != nil {
			t.Fatal(err)
		}
		if got := call[api.LibraryCounts](t, ada, "GET", "/v1/me/library", nil); got.Users != 0 {
			t.Errorf("%+v", got)
		}
	})
}
