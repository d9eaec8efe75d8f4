package controlplane_test

import (
	"net/http"
	"strings"
	"testing"

	"segue/controlplane/api"
	"segue/media"

	"github.com/google/go-cmp/cmp"
	"github.com/oklog/ulid/v2"
)

// An import waits for audio: a file of the same names takes over the identity, and the names that were curated stay.
func TestImportThenAudio(t *testing.T) {
	databases(t, func(t *testing.T, s *server) {
		user, _ := s.signIn("ada@example.org")
		s.join("eu-1", "eu", "http://eu.example", 52.4, 4.9)
		lines := `{"type":"artist","id":"b","name":"Björk"}
{"type":"album","id":"p","title":"Post","artists":[{"id":"b"}],"date":"1995-06-13"}
{"type":"track","id":"h","title":"Hyperballad","album_id":"p","track_number":3,"duration_ms":100500,"genres":["Art Pop"],"artists":[{"id":"b"},{"name":"Nellee Hooper","role":"producer"}]}
{"type":"track","id":"broken"}`
		out, err := s.admin.Import(t.Context(), 1, strings.NewReader(lines))
		if err != nil || out.Tracks != 1 || out.Failed != 1 || out.Errors[0].Line != 4 {
			t.Fatalf("%+v %v", out, err)
		}
		if _, err := user.Import(t.Context(), 1, strings.NewReader(lines)); err == nil {
			t.Error("a listener imports")
		}
		id := api.ImportID("track", "h")
		refused(t, user, "POST", "/v1/playback", api.NewPlayback{TrackID: media.TrackID(id)}, 409, "no-media")
		track := s.publish(media.Tags{Title: "hyperballad", Artist: "BJÖRK feat. Somebody", AlbumArtist: "BJÖRK", Album: "POST", TrackNumber: 3, Genres: []string{"Pop"}}, 101, "a")
		if string(track.ID) != id || string(track.Album.ID) != api.ImportID("album", "p") || track.Title != "Hyperballad" || len(track.Artists) != 1 || track.Artists[0].Name != "Björk" ||
			track.Unavailable != "" || track.DurationMS != 101_000 || track.Album.Art == nil {
			t.Errorf("%+v", track)
		}
		if d := cmp.Diff(call[api.Track](t, user, "GET", "/v1/tracks/"+id, nil), track); d != "" {
			t.Error(d)
		}
		call[api.Playback](t, user, "POST", "/v1/playback", api.NewPlayback{TrackID: track.ID})

		// Removed: not played, not listed, and again when it is restored.
		if err := s.admin.Call(t.Context(), "DELETE", "/v1/admin/tracks/"+id, nil, nil); err != nil {
			t.Fatal(err)
		}
		refused(t, user, "POST", "/v1/playback", api.NewPlayback{TrackID: track.ID}, 404, "not-found")
		refused(t, user, "GET", "/v1/tracks/"+id, nil, 404, "not-found")
		if a := call[api.Album](t, user, "GET", "/v1/albums/"+string(track.Album.ID), nil); a.TrackCount != 0 || len(a.Tracks) != 0 {
			t.Errorf("%+v", a)
		}
		if err := s.admin.Call(t.Context(), "POST", "/v1/admin/tracks/"+id+"/restore", nil, nil); err != nil {
			t.Fatal(err)
		}
		call[api.Playback](t, user, "POST", "/v1/playback", api.NewPlayback{TrackID: track.ID})
		refused(t, user, "DELETE", "/v1/admin/tracks/"+id, nil, 401, "unauthenticated")
		refused(t, s.admin, "DELETE", "/v1/admin/albums/"+ulid.Make().String(), nil, 404, "not-found")
	})
}

func TestCuration(t *testing.T) {
	databases(t, func(t *testing.T, s *server) {
		user, _ := s.signIn("ada@example.org")
		tags := media.Tags{Title: "One", Artist: "A feat. B", AlbumArtist: "Various Artists", Album: "Hits", Composer: "C; D", Genres: []string{"Hip Hop", "hip-hop"}, Date: "1999-05", TrackNumber: 1}
		track := s.publish(tags, 100, "a")
		var names []string
		for _, a := range append(track.Artists, track.Credits...) {
			names = append(names, a.Role+a.Join+a.Name)
		}
		if d := cmp.Diff(names, []string{"A", "featured feat. B", "composerC", "composerD"}); d != "" {
			t.Error(d)
		}
		album := call[api.Album](t, user, "GET", "/v1/albums/"+string(track.Album.ID), nil)
		if album.Type != "compilation" || len(album.Genres) != 1 || len(album.Tracks) != 1 {
			t.Errorf("%+v", album)
		}
		guest := call[api.Artist](t, user, "GET", "/v1/artists/"+string(track.Artists[1].ID), nil)
		if len(guest.TopTracks) != 1 || len(guest.AppearsOn) != 1 || len(guest.Albums) != 0 {
			t.Errorf("%+v", guest)
		}
		edited := call[api.Track](t, s.admin, "PATCH", "/v1/admin/tracks/"+string(track.ID), map[string]any{"title": "Ein", "available_in": []string{"de"}})
		if edited.Title != "Ein" || edited.AvailableIn[0] != "DE" {
			t.Errorf("%+v", edited)
		}
		refused(t, s.admin, "PATCH", "/v1/admin/tracks/"+string(track.ID), map[string]any{"date": "May"}, 400, "invalid-request")
		refused(t, s.admin, "PATCH", "/v1/admin/tracks/"+string(track.ID), map[string]any{"colour": "red"}, 422, "validation")
		refused(t, s.admin, "PATCH", "/v1/admin/albums/"+string(album.ID), map[string]any{"type": "box"}, 422, "validation")
		if a := call[api.Album](t, s.admin, "PATCH", "/v1/admin/albums/"+string(album.ID), map[string]any{"type": "ep", "date": "1999-05-06"}); a.Type != "ep" || a.Date != "1999-05-06" {
			t.Errorf("%+v", a)
		}
		// A better rip keeps what an operator wrote.
		if again := s.publish(tags, 101, "b"); again.ID != track.ID || again.Title != "Ein" || again.Version == track.Version {
			t.Errorf("%+v", again)
		}
		g := call[api.Page[api.Genre]](t, user, "GET", "/v1/genres", nil)
		if len(g.Items) != 1 || g.Items[0].ID != "hip-hop" || g.Items[0].TrackCount != 1 {
			t.Errorf("%+v", g)
		}
		for _, path := range []string{"/v1/genres/hip-hop/tracks?limit=1", "/v1/artists/" + string(guest.ID) + "/tracks"} {
			if p := call[api.Page[api.Track]](t, user, "GET", path, nil); len(p.Items) != 1 {
				t.Errorf("%s: %+v", path, p)
			}
		}
		for _, path := range []string{"/v1/genres/hip-hop/albums", "/v1/albums?sort=-release_date", "/v1/artists/" + string(album.Artists[0].ID) + "/albums"} {
			if p := call[api.Page[api.Album]](t, user, "GET", path, nil); len(p.Items) != 1 {
				t.Errorf("%s: %+v", path, p)
			}
		}
		refused(t, user, "GET", "/v1/genres/none", nil, 404, "not-found")
		merged := call[api.Artist](t, s.admin, "POST", "/v1/admin/artists/"+string(guest.ID)+"/merge", api.ArtistMerge{Into: track.Artists[0].ID})
		if merged.ID != track.Artists[0].ID || call[api.Artist](t, user, "GET", "/v1/artists/"+string(guest.ID), nil).ID != merged.ID {
			t.Errorf("%+v", merged)
		}
		resp, err := http.Post(s.URL+"/v1/admin/import", "application/x-ndjson", strings.NewReader(""))
		if err != nil || resp.StatusCode != 401 {
			t.Errorf("%v %v", resp, err)
		}
		resp.Body.Close()
	})
}
