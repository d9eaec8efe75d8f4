package controlplane_test

import (
	"net/url"
	"testing"

	"segue/controlplane/api"
	"segue/media"

	"github.com/google/go-cmp/cmp"
)

// One box over all types, kept up by the events of publishing, rebuilt and compared by operators.
func TestSearch(t *testing.T) {
	databases(t, func(t *testing.T, s *server) {
		user, _ := s.signIn("ada@example.org")
		yesterday := s.publish(media.Tags{Title: "Yesterday", Artist: "The Beatles", AlbumArtist: "The Beatles", Album: "Help!", Date: "1965", Genres: []string{"Rock"}, TrackNumber: 13}, 120, "a")
		help := s.publish(media.Tags{Title: "Help!", Artist: "The Beatles", AlbumArtist: "The Beatles", Album: "Help!", Date: "1965", Genres: []string{"Rock"}, TrackNumber: 1}, 140, "b")
		find := func(q string, more ...string) api.SearchResult {
			v := url.Values{"q": {q}}
			for i := 0; i < len(more); i += 2 {
				v.Add(more[i], more[i+1])
			}
			return call[api.SearchResult](t, user, "GET", "/v1/search?"+v.Encode(), nil)
		}
		eventually(t, "both are found", func() bool {
			r := find("beatles")
			return len(r.Tracks) == 2 && len(r.Albums) == 1 && len(r.Artists) == 1
		})
		eventually(t, "the first filling is over", func() bool { return !find("beatles").Building })

		r := find("beatles yest")
		if len(r.Tracks) != 1 || r.Top == nil || *r.Top != (api.SearchTop{Type: "track", ID: string(yesterday.ID)}) {
			t.Errorf("%+v", r)
		} else if d := cmp.Diff(r.Tracks[0], call[api.Track](t, user, "GET", "/v1/tracks/"+string(yesterday.ID), nil)); d != "" {
			t.Error(d)
		}
		want := []api.SearchHighlight{{Field: "name", Text: "Yesterday", Ranges: [][2]int{{0, 4}}}, {Field: "artist", Text: "The Beatles", Ranges: [][2]int{{4, 11}}}}
		if d := cmp.Diff(r.Highlights[string(yesterday.ID)], want); d != "" {
			t.Error(d)
		}
		if r := find("beatels"); r.Top == nil || r.Top.Type != "artist" {
			t.Errorf("%+v", r.Top)
		}
		first := find("beatles", "type", "track", "limit", "1")
		second := find("beatles", "type", "track", "limit", "1", "cursor", first.Next["track"])
		if len(first.Tracks) != 1 || len(second.Tracks) != 1 || first.Tracks[0].ID == second.Tracks[0].ID || second.Next["track"] != "" || len(first.Artists) != 0 {
			t.Errorf("%+v, %+v", first, second)
		}
		if r := find("help", "year_from", "1966"); len(r.Tracks) != 0 {
			t.Errorf("%+v", r.Tracks)
		}
		if r := find("help", "genre", "rock", "artist", string(help.Artists[0].ID), "year_to", "1965", "type", "track"); len(r.Tracks) != 2 || r.Tracks[0].ID != help.ID {
			t.Errorf("%+v", r.Tracks)
		}
		refused(t, user, "GET", "/v1/search?q=", nil, 422, "validation")
		refused(t, user, "GET", "/v1/search?q=x&type=edge", nil, 422, "validation")
		refused(t, user, "GET", "/v1/search?q=x&cursor=x", nil, 400, "invalid-request")
		refused(t, user, "GET", "/v1/search?q=x&cursor=x&type=track", nil, 400, "invalid-request")

		refused(t, user, "GET", "/v1/admin/search", nil, 401, "unauthenticated")
		call[api.SearchIndex](t, s.admin, "POST", "/v1/admin/search/rebuild", nil)
		eventually(t, "the index is made anew", func() bool {
			x := call[api.SearchIndex](t, s.admin, "GET", "/v1/admin/search", nil)
			return x.State == "ready" && x.Done == 4 && x.EndedAt != nil && x.Error == ""
		})
		call[api.SearchIndex](t, s.admin, "POST", "/v1/admin/search/check", api.NewSearchCheck{Mend: true})
		eventually(t, "the index is compared", func() bool {
			c := call[api.SearchIndex](t, s.admin, "GET", "/v1/admin/search", nil).Check
			return !c.Running && c.Tables["track"] == 2 && c.Index["track"] == 2 && c.Missing+c.Extra+c.Stale == 0
		})
		if r := find("yest"); len(r.Tracks) != 1 {
			t.Errorf("%+v", r)
		}
	})
}
