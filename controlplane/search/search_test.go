package search_test

import (
	"testing"

	"segue/controlplane/api"
	"segue/controlplane/search"
	"segue/media"
)

func TestFind(t *testing.T) {
	dir := t.TempDir()
	x, err := search.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !x.Empty() {
		t.Error("a new index is not empty")
	}
	track := func(id, title, artist, album string) api.Track {
		return api.Track{ID: media.TrackID(id), Title: title, Artists: []api.ArtistRef{{ID: media.ArtistID("r" + artist), Name: artist}},
			Album: api.AlbumRef{ID: media.AlbumID("a" + album), Title: album, Artists: []api.ArtistRef{{ID: "rvarious", Name: "Various Artists"}}}, Genres: []string{"Classical"}}
	}
	all := []api.Track{track("1", "Breaking the Chains", "Timothy Pinkham", "OST"), track("2", "Łódź Café", "Björk", "Été"), track("3", "Battle", "Aleksi", "OST"), track("4", "The Battle for Café", "Aleksi", "OST")}
	if err := x.Build(func(f func(api.Track) error) error {
		for _, t := range all {
			if err := f(t); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	f := func(q string, want ...media.TrackID) {
		t.Helper()
		r, err := x.Find(t.Context(), q, search.Kinds, 10)
		if err != nil {
			t.Fatal(err)
		}
		var got []media.TrackID
		for _, t := range r.Tracks {
			got = append(got, t.ID)
		}
		if len(got) != len(want) {
			t.Errorf("%q finds %v, want %v", q, got, want)
			return
		}
		for i := range got {
			if got[i] != want[i] {
				t.Errorf("%q finds %v, want %v", q, got, want)
			}
		}
	}
	f("chain", "1")
	f("CHAINS", "1")
	f("chians", "1") // letters swapped
	f("brea cha")    // only the last word may be a beginning
	f("breaking cha", "1")
	f("cafe bjork", "2")
	f("battle", "3", "4")
	f("battle aleksi cafe", "4")
	f("nothing of the kind")
	f("")
	f("***")
	r, err := x.Find(t.Context(), "ost", []string{"album"}, 10)
	if err != nil || len(r.Albums) != 1 || len(r.Tracks) != 0 {
		t.Errorf("albums: %+v %v", r, err)
	} else if by := r.Albums[0].Artists; len(by) != 1 || by[0].Name != "Various Artists" {
		t.Errorf("the album is by %+v: whichever track came last", by)
	}
	if r, err = x.Find(t.Context(), "various", []string{"artist", "album"}, 10); err != nil || len(r.Artists) != 1 || len(r.Albums) != 2 {
		t.Errorf("album artist: %+v %v", r, err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	if x, err = search.Open(dir); err != nil || x.Empty() {
		t.Fatal("an index does not survive", err)
	}
	defer x.Close()
	f("chain", "1")
}
