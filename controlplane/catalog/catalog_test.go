package catalog_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"segue/controlplane/api"
	"segue/controlplane/catalog"
	"segue/controlplane/catalog/sample"
	"segue/controlplane/store"
	"segue/internal/testenv"
	"segue/media"
	"segue/origin/memstore"

	"github.com/google/go-cmp/cmp"
	"github.com/oklog/ulid/v2"
)

// world is a catalogue on a real database.
type world struct {
	*catalog.Service
	t       *testing.T
	db      *store.DB
	objects *memstore.Store
}

func databases(t *testing.T, f func(t *testing.T, w *world)) {
	for name, dsn := range map[string]func(t *testing.T) string{
		"sqlite":   func(t *testing.T) string { return "sqlite:" + filepath.Join(t.TempDir(), "segue.db") },
		"postgres": func(t *testing.T) string { return testenv.Postgres(t) },
	} {
		t.Run(name, func(t *testing.T) {
			db, err := store.Open(t.Context(), dsn(t))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { db.Close() })
			w := &world{t: t, db: db, objects: &memstore.Store{}}
			w.Service = catalog.New(db, w.objects)
			f(t, w)
			w.consistent()
		})
	}
}

// load imports lines and fails when one does.
func (w *world) load(lines ...string) api.ImportResult {
	w.t.Helper()
	out, err := w.Import(w.t.Context(), strings.NewReader(strings.Join(lines, "\n")), 1)
	if err != nil || out.Failed > 0 {
		w.t.Fatalf("%+v %v", out, err)
	}
	return out
}

// consistent compares what is kept beside the rows (counts, places on genres' pages) with the rows.
func (w *world) consistent() {
	w.t.Helper()
	for what, text := range map[string]string{
		"album counts": `SELECT a.id FROM albums a WHERE a.track_count <> (SELECT count(*) FROM tracks t WHERE t.album_id = a.id AND t.removed_at = 0)
			OR a.duration_ms <> (SELECT coalesce(sum(t.duration_ms), 0) FROM tracks t WHERE t.album_id = a.id AND t.removed_at = 0)`,
		"artists' albums": `SELECT r.id FROM artists r WHERE r.album_count <> (SELECT count(*) FROM albums a WHERE a.artist_id = r.id AND a.removed_at = 0)
			+ (SELECT count(*) FROM album_credits c JOIN albums a ON a.id = c.album_id WHERE c.artist_id = r.id AND a.artist_id <> r.id AND a.removed_at = 0)`,
		"artists' tracks": `SELECT r.id FROM artists r WHERE r.track_count <> (SELECT count(*) FROM tracks t WHERE t.artist_id = r.id AND t.removed_at = 0)
			+ (SELECT count(DISTINCT t.id) FROM track_credits c JOIN tracks t ON t.id = c.track_id WHERE c.artist_id = r.id AND t.artist_id <> r.id
				AND c.role IN ('main', 'featured', 'remixer') AND t.removed_at = 0)`,
		"genres' tracks":   `SELECT g.id FROM genres g WHERE g.track_count <> (SELECT count(*) FROM track_genres x WHERE x.genre_id = g.id)`,
		"genres' albums":   `SELECT g.id FROM genres g WHERE g.album_count <> (SELECT count(*) FROM album_genres x WHERE x.genre_id = g.id)`,
		"removed listed":   `SELECT t.id FROM tracks t JOIN track_genres x ON x.track_id = t.id WHERE t.removed_at <> 0 OR x.popularity <> t.popularity`,
		"albums' genres":   `SELECT a.id FROM albums a JOIN album_genres x ON x.album_id = a.id WHERE a.removed_at <> 0 OR x.date <> a.date`,
		"sort keys":        `SELECT id FROM tracks WHERE sort_key = '' UNION SELECT id FROM albums WHERE sort_key = '' UNION SELECT id FROM artists WHERE sort_key = ''`,
		"merged away, yet": `SELECT t.id FROM tracks t JOIN artists r ON r.id = t.artist_id WHERE r.merged_into <> ''`,
	} {
		rows, err := w.db.QueryContext(context.Background(), text)
		if err != nil {
			w.t.Fatal(err)
		}
		for rows.Next() {
			var id string
			_ = rows.Scan(&id)
			w.t.Errorf("%s: %s is wrong", what, id)
		}
		if err := rows.Err(); err != nil {
			w.t.Error(err)
		}
		rows.Close()
	}
}

// events returns the ids of each kind told of since the last call.
func (w *world) events() map[string][]string {
	w.t.Helper()
	rows, err := w.db.Query(`DELETE FROM outbox RETURNING body`)
	if err != nil {
		w.t.Fatal(err)
	}
	defer rows.Close()
	out := map[string][]string{}
	for rows.Next() {
		var body string
		var c store.Changed
		if err := errors.Join(rows.Scan(&body), json.Unmarshal([]byte(body), &c)); err != nil {
			w.t.Fatal(err)
		}
		out[c.Kind] = append(out[c.Kind], c.IDs...)
	}
	for _, ids := range out {
		slices.Sort(ids)
	}
	return out
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func is(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%v, want %v", err, want)
	}
}

const small = `{"type":"artist","id":"bjork","name":"Björk"}
{"type":"artist","id":"thom","name":"Thom Yorke"}
{"type":"artist","id":"va","name":"Various Artists"}
{"type":"album","id":"post","title":"Post","artists":[{"id":"bjork"}],"date":"1995-06","upc":"5016958021627","available_in":["is","gb"]}
{"type":"album","id":"selma","title":"Selmasongs","artists":[{"id":"bjork"}],"date":"2000"}
{"type":"album","id":"best","title":"A Sampler","artists":[{"id":"va"}],"album_type":"compilation","date":"2001-02-03"}
{"type":"track","id":"hyper","title":"Hyperballad","album_id":"post","genres":["Electronic","Art Pop"],"track_number":3,"duration_ms":321000,"isrc":"GB-AYE-95-00003","popularity":7}
{"type":"track","id":"army","title":"Army of Me","album_id":"post","genres":["electronic"],"track_number":1,"duration_ms":234000,"popularity":9}
{"type":"track","id":"seen","title":"I've Seen It All","album_id":"selma","artists":[{"id":"bjork"},{"id":"thom","role":"featured"},{"name":"Sjón","role":"lyricist"}],"track_number":3,"duration_ms":329000,"available_in":["JP"]}
{"type":"track","id":"sampled","title":"Ísjaki","album_id":"best","artists":[{"name":"Sigur Rós"},{"id":"bjork","role":"remixer","join":" / "}],"disc_number":2,"track_number":1,"duration_ms":1000}`

func track(id string) media.TrackID   { return media.TrackID(api.ImportID("track", id)) }
func album(id string) media.AlbumID   { return media.AlbumID(api.ImportID("album", id)) }
func artist(id string) media.ArtistID { return media.ArtistID(api.ImportID("artist", id)) }

func named(refs []api.ArtistRef) string {
	var b strings.Builder
	for _, r := range refs {
		b.WriteString(r.Join + r.Name)
	}
	return b.String()
}

func titles(list []api.Track) (out []string) {
	for _, t := range list {
		out = append(out, t.Title)
	}
	return out
}

func albumTitles(list []api.Album) (out []string) {
	for _, a := range list {
		out = append(out, a.Title)
	}
	return out
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("%s: %s", what, d)
	}
}

func TestImportAndBrowse(t *testing.T) {
	databases(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		r := w.load(small)
		equal(t, "result", r, api.ImportResult{Lines: 10, Artists: 3, Albums: 3, Tracks: 4, Errors: []api.ImportError{}})
		if e := w.events(); len(e["track"]) != 4 || len(e["album"]) != 3 || len(e["artist"]) != 5 {
			t.Errorf("%v", e)
		}
		r = w.load(small)
		if r.Unchanged != 10 || r.Tracks != 0 {
			t.Errorf("a repeat: %+v", r)
		}

		seen := must[catalog.Playable](t)(w.Track(ctx, track("seen")))
		equal(t, "artists", named(seen.Artists), "Björk feat. Thom Yorke")
		equal(t, "credits", seen.Credits, []api.ArtistRef{{ID: seen.Credits[0].ID, Name: "Sjón", Role: "lyricist"}})
		equal(t, "own countries", seen.AvailableIn, []string{"JP"})
		equal(t, "unavailable", seen.Unavailable, api.NoMedia)
		hyper := must[catalog.Playable](t)(w.Track(ctx, track("hyper")))
		equal(t, "the album's countries", hyper.AvailableIn, []string{"GB", "IS"})
		equal(t, "isrc", hyper.ISRC, "GBAYE9500003")
		_, err := w.Playable(ctx, track("hyper"))
		is(t, err, catalog.ErrNoMedia)

		post := must[api.Album](t)(w.Album(ctx, album("post")))
		equal(t, "post", titles(post.Tracks), []string{"Army of Me", "Hyperballad"})
		if post.TrackCount != 2 || post.DurationMS != 555_000 || post.Type != "album" || post.UPC != "5016958021627" {
			t.Errorf("%+v", post)
		}
		equal(t, "genres of the album", post.Genres, []string{must[api.Genre](t)(w.Genre(ctx, "electronic")).Name, "Art Pop"})

		bjork := must[api.Artist](t)(w.Artist(ctx, artist("bjork")))
		equal(t, "top tracks", titles(bjork.TopTracks)[:2], []string{"Army of Me", "Hyperballad"})
		equal(t, "albums", albumTitles(bjork.Albums), []string{"Selmasongs", "Post"})
		equal(t, "appears on", albumTitles(bjork.AppearsOn), []string{"A Sampler"})
		if bjork.TrackCount != 4 || bjork.AlbumCount != 2 {
			t.Errorf("%+v", bjork)
		}
		equal(t, "join", named(must[catalog.Playable](t)(w.Track(ctx, track("sampled"))).Artists), "Sigur Rós / Björk")

		pages := func(read func(cursor string) (api.Page[api.Track], error)) (out []string) {
			for cursor := ""; ; {
				p := must[api.Page[api.Track]](t)(read(cursor))
				out = append(out, titles(p.Items)...)
				if cursor = p.Next; cursor == "" {
					return out
				}
			}
		}
		equal(t, "by title", pages(func(c string) (api.Page[api.Track], error) { return w.Tracks(ctx, c, 1) }), []string{"Army of Me", "Hyperballad", "I've Seen It All", "Ísjaki"})
		equal(t, "all", len(pages(func(c string) (api.Page[api.Track], error) { return w.Tracks(ctx, c, 3) })), 4)
		equal(t, "genre", pages(func(c string) (api.Page[api.Track], error) { return w.GenreTracks(ctx, "electronic", c, 1) }), []string{"Army of Me", "Hyperballad"})
		equal(t, "artist's", len(pages(func(c string) (api.Page[api.Track], error) { return w.ArtistTracks(ctx, artist("bjork"), c, 1) })), 4)
		newest := must[api.Page[api.Album]](t)(w.Albums(ctx, catalog.ByReleaseDate, "", 2))
		equal(t, "newest", albumTitles(newest.Items), []string{"A Sampler", "Selmasongs"})
		newest = must[api.Page[api.Album]](t)(w.Albums(ctx, catalog.ByReleaseDate, newest.Next, 2))
		equal(t, "then", albumTitles(newest.Items), []string{"Post"})
		_, err = w.Tracks(ctx, newest.Next+"YQBiAGM", 2)
		is(t, err, media.ErrInvalid)
		equal(t, "isrc", titles(must[api.Page[api.Track]](t)(w.TracksByISRC(ctx, "gb-aye-95-00003")).Items), []string{"Hyperballad"})
		equal(t, "upc", albumTitles(must[api.Page[api.Album]](t)(w.AlbumsByUPC(ctx, "5016958021627")).Items), []string{"Post"})
		equal(t, "genre's albums", albumTitles(must[api.Page[api.Album]](t)(w.GenreAlbums(ctx, "art-pop", "", 5)).Items), []string{"Post"})
		genres := must[api.Page[api.Genre]](t)(w.Genres(ctx))
		equal(t, "genres", genres.Items, []api.Genre{{ID: "art-pop", Name: "Art Pop", TrackCount: 1, AlbumCount: 1}, {ID: "electronic", Name: genres.Items[1].Name, TrackCount: 2, AlbumCount: 1}})
		_, err = w.GenreTracks(ctx, "none", "", 5)
		is(t, err, media.ErrNotFound)

		// A line that changed: the track moves, and its genres with it.
		w.load(`{"type":"track","id":"hyper","title":"Hyper-Ballad","album_id":"selma","genres":["Pop"],"track_number":3,"duration_ms":321000}`)
		equal(t, "left", titles(must[api.Album](t)(w.Album(ctx, album("post"))).Tracks), []string{"Army of Me"})
		equal(t, "moved", must[catalog.Playable](t)(w.Track(ctx, track("hyper"))).Album.Title, "Selmasongs")
		if p := must[catalog.Playable](t)(w.Track(ctx, track("hyper"))).Popularity; p != 7 {
			t.Errorf("an import without popularity forgot it: %v", p)
		}
	})
}

func TestImportErrors(t *testing.T) {
	databases(t, func(t *testing.T, w *world) {
		lines := []string{
			`{"type":"artist","id":"a","name":"A"}`,
			`{"type":"album","id":"x","title":"X","artists":[{"id":"nobody"}]}`,
			`not json`,
			``,
			`{"type":"album","id":"y","title":"Y","artists":[{"id":"a"}],"date":"1999-13"}`,
			`{"type":"album","id":"z","title":"Z","artists":[{"id":"a"}]}`,
			`{"type":"track","id":"t","title":"T","album_id":"none"}`,
			`{"type":"track","id":"u","title":"U","album_id":"z","colour":"red"}`,
			`{"type":"track","id":"v","title":"` + strings.Repeat("v", maxLine) + `","album_id":"z"}`,
			`{"type":"track","id":"w","title":"W","album_id":"z","available_in":["Germany"]}`,
			`{"type":"track","id":"ok","title":"早い ⚡","album_id":"z"}`,
			`{"type":"track","id":"ok","title":"早い ⚡⚡","album_id":"z"}`, // again: the later line wins
		}
		out, err := w.Import(t.Context(), strings.NewReader(strings.Join(lines, "\n")), 101)
		if err != nil {
			t.Fatal(err)
		}
		var wrong []int
		for _, e := range out.Errors {
			wrong = append(wrong, e.Line)
		}
		slices.Sort(wrong)
		equal(t, "lines refused", wrong, []int{102, 103, 105, 107, 108, 109, 110})
		if out.Lines != 11 || out.Failed != 7 || out.Tracks != 2 || out.Albums != 1 || out.Artists != 1 {
			t.Errorf("%+v", out)
		}
		equal(t, "later line", must[catalog.Playable](t)(w.Track(t.Context(), track("ok"))).Title, "早い ⚡⚡")
	})
}

const maxLine = 1 << 20

func TestRemoveRestoreMergeEdit(t *testing.T) {
	databases(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		w.load(small)
		w.events()
		// Removed: nobody lists it, but its id resolves.
		if _, err := w.Track(ctx, track("army")); err != nil { // now in the cache
			t.Fatal(err)
		}
		for range 2 {
			if err := w.Remove(ctx, "track", string(track("army"))); err != nil {
				t.Fatal(err)
			}
		}
		_, err := w.Track(ctx, track("army"))
		is(t, err, media.ErrNotFound)
		list := must[[]api.Track](t)(w.TracksByID(ctx, string(track("army")), ulid.Make().String()))
		if len(list) != 1 || list[0].Unavailable != api.Removed || list[0].Title != "Army of Me" {
			t.Errorf("%+v", list)
		}
		equal(t, "album without it", titles(must[api.Album](t)(w.Album(ctx, album("post"))).Tracks), []string{"Hyperballad"})
		if e := w.events(); !slices.Contains(e["track"], string(track("army"))) || !slices.Contains(e["album"], string(album("post"))) || !slices.Contains(e["artist"], string(artist("bjork"))) {
			t.Errorf("%v", e)
		}
		w.consistent()
		// An album goes with its tracks, and comes back without the one that was removed before.
		if err := w.Remove(ctx, "album", string(album("post"))); err != nil {
			t.Fatal(err)
		}
		_, err = w.Album(ctx, album("post"))
		is(t, err, media.ErrNotFound)
		_, err = w.Track(ctx, track("hyper"))
		is(t, err, media.ErrNotFound)
		is(t, w.Restore(ctx, "track", string(track("army"))), media.ErrInvalid)
		if err := w.Restore(ctx, "album", string(album("post"))); err != nil {
			t.Fatal(err)
		}
		equal(t, "restored", titles(must[api.Album](t)(w.Album(ctx, album("post"))).Tracks), []string{"Hyperballad"})
		if err := w.Restore(ctx, "track", string(track("army"))); err != nil {
			t.Fatal(err)
		}
		is(t, w.Remove(ctx, "track", ulid.Make().String()), media.ErrNotFound)
		// An artist goes with everything of theirs.
		if err := w.Remove(ctx, "artist", string(artist("bjork"))); err != nil {
			t.Fatal(err)
		}
		_, err = w.Artist(ctx, artist("bjork"))
		is(t, err, media.ErrNotFound)
		equal(t, "left", titles(must[api.Page[api.Track]](t)(w.Tracks(ctx, "", 9)).Items), []string{"Ísjaki"})
		w.consistent()
		if err := w.Restore(ctx, "artist", string(artist("bjork"))); err != nil {
			t.Fatal(err)
		}
		equal(t, "all back", len(must[api.Page[api.Track]](t)(w.Tracks(ctx, "", 9)).Items), 4)

		// Edits show wherever the name does, at once.
		before := must[api.Artist](t)(w.Artist(ctx, artist("bjork")))
		w.events()
		name := "Björk Guðmundsdóttir"
		if a := must[api.Artist](t)(w.EditArtist(ctx, artist("bjork"), api.ArtistEdit{Name: &name})); a.Name != name || before.Name == name {
			t.Errorf("%+v", a)
		}
		if e := w.events(); len(e["track"]) != 4 || len(e["album"]) != 3 {
			t.Errorf("a rename is told of all that show it: %v", e)
		}
		equal(t, "renamed", named(must[catalog.Playable](t)(w.Track(ctx, track("hyper"))).Artists), name)
		title, nowhere, day := "Hyper", []string{"xx", "de"}, "1995-06-13"
		edited := must[api.Track](t)(w.EditTrack(ctx, track("hyper"), api.TrackEdit{Title: &title, AvailableIn: &nowhere, Date: &day, Genres: &[]string{"Trip Hop", "trip-hop"}}))
		equal(t, "edited", []any{edited.Title, edited.AvailableIn, edited.Date, edited.Genres}, []any{"Hyper", []string{"DE", "XX"}, day, []string{"Trip Hop"}})
		equal(t, "in its album", titles(must[api.Album](t)(w.Album(ctx, album("post"))).Tracks), []string{"Army of Me", "Hyper"})
		bad := "June"
		_, err = w.EditTrack(ctx, track("hyper"), api.TrackEdit{Date: &bad})
		is(t, err, media.ErrInvalid)
		_, err = w.EditTrack(ctx, track("hyper"), api.TrackEdit{AlbumID: &bad})
		is(t, err, media.ErrInvalid)
		_, err = w.EditAlbum(ctx, media.AlbumID(ulid.Make().String()), api.AlbumEdit{})
		is(t, err, media.ErrNotFound)
		_, err = w.EditAlbum(ctx, album("post"), api.AlbumEdit{Artists: &[]api.ArtistName{{ID: "thom", Role: "featured"}}})
		is(t, err, media.ErrInvalid)
		both := must[api.Album](t)(w.EditAlbum(ctx, album("post"), api.AlbumEdit{Artists: &[]api.ArtistName{{ID: "bjork"}, {ID: "thom"}}}))
		equal(t, "two artists", named(both.Artists), name+", Thom Yorke")
		equal(t, "the second one's too", albumTitles(must[api.Artist](t)(w.Artist(ctx, artist("thom"))).Albums), []string{"Post"})

		// A merge leads from the old id, and who guested on their own track is on it once.
		merged := must[api.Artist](t)(w.Merge(ctx, artist("thom"), artist("bjork")))
		if merged.ID != artist("bjork") || merged.TrackCount != 4 {
			t.Errorf("%+v", merged)
		}
		equal(t, "old id", must[api.Artist](t)(w.Artist(ctx, artist("thom"))).ID, artist("bjork"))
		old := must[[]api.Artist](t)(w.ArtistsByID(ctx, string(artist("thom"))))
		if len(old) != 1 || old[0].MergedInto != artist("bjork") || old[0].Unavailable == "" {
			t.Errorf("%+v", old)
		}
		equal(t, "once", named(must[catalog.Playable](t)(w.Track(ctx, track("seen"))).Artists), name)
		_, err = w.Merge(ctx, artist("bjork"), artist("bjork"))
		is(t, err, media.ErrInvalid)
		_, err = w.Merge(ctx, artist("thom"), artist("va"))
		is(t, err, media.ErrInvalid)
		is(t, w.Restore(ctx, "artist", string(artist("thom"))), media.ErrInvalid)
		w.load(`{"type":"track","id":"new","title":"New","album_id":"post","artists":[{"name":"Thom Yorke"}]}`)
		equal(t, "the old name", must[catalog.Playable](t)(w.Track(ctx, track("new"))).Artists[0].ID, artist("bjork"))
	})
}

func TestPopularity(t *testing.T) {
	databases(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		w.load(small)
		must[api.Artist](t)(w.Artist(ctx, artist("bjork")))
		w.events()
		if err := w.SetPopularity(ctx, "track", maps.All(map[string]float64{string(track("hyper")): 99, ulid.Make().String(): 5})); err != nil {
			t.Fatal(err)
		}
		equal(t, "artist", titles(must[api.Artist](t)(w.Artist(ctx, artist("bjork"))).TopTracks)[0], "Hyperballad")
		equal(t, "genre", titles(must[api.Page[api.Track]](t)(w.GenreTracks(ctx, "electronic", "", 1)).Items), []string{"Hyperballad"})
		if e := w.events(); !slices.Contains(e["track"], string(track("hyper"))) {
			t.Errorf("%v", e)
		}
		is(t, w.SetPopularity(ctx, "track", maps.All(map[string]float64{string(track("hyper")): -1})), media.ErrInvalid)
		is(t, w.SetPopularity(ctx, "genre", maps.All(map[string]float64{})), media.ErrInvalid)
	})
}

// Two writers of one album at once: the counts are of what both wrote.
func TestConcurrentWriters(t *testing.T) {
	databases(t, func(t *testing.T, w *world) {
		w.load(small)
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				for j := range 5 {
					line := fmt.Sprintf(`{"type":"track","id":"c%d-%d","title":"C","album_id":"post","genres":["Pop","Rock"],"artists":[{"id":"bjork"},{"name":"Guest %d","role":"featured"}]}`, i, j, j)
					if out, err := w.Import(t.Context(), strings.NewReader(line+"\n"+small), 1); err != nil || out.Failed > 0 {
						t.Errorf("%+v %v", out, err)
					}
					title := fmt.Sprint("Hyper ", i, j)
					if _, err := w.EditTrack(t.Context(), track("hyper"), api.TrackEdit{Title: &title, Genres: &[]string{"Pop"}}); err != nil {
						t.Error(err)
					}
					if err := w.Remove(t.Context(), "track", string(track("army"))); err != nil {
						t.Error(err)
					}
					if err := w.Restore(t.Context(), "track", string(track("army"))); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if a := must[api.Album](t)(w.Album(t.Context(), album("post"))); a.TrackCount != 32 || len(a.Tracks) != 32 {
			t.Errorf("%d %d", a.TrackCount, len(a.Tracks))
		}
	})
}

// One's own write is seen at once, whatever was being read meanwhile.
func TestNoStaleRead(t *testing.T) {
	databases(t, func(t *testing.T, w *world) {
		w.load(small)
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for ctx.Err() == nil {
					if _, err := w.Track(ctx, track("hyper")); err != nil && ctx.Err() == nil {
						t.Error(err)
					}
				}
			})
		}
		for i := range 50 {
			title := fmt.Sprint("Version ", i)
			if got := must[api.Track](t)(w.EditTrack(ctx, track("hyper"), api.TrackEdit{Title: &title})); got.Title != title {
				t.Errorf("%q after writing %q", got.Title, title)
			}
		}
		stop()
		wg.Wait()
	})
}

func TestEachReadsEverythingOnce(t *testing.T) {
	databases(t, func(t *testing.T, w *world) {
		want := map[string]int{}
		var b strings.Builder
		for l := range sample.Lines(7, 2500) {
			want[l.Type]++
			line := must[[]byte](t)(json.Marshal(l))
			b.Write(append(line, '\n'))
		}
		out := w.load(b.String())
		equal(t, "imported", map[string]int{"artist": out.Artists, "album": out.Albums, "track": out.Tracks}, want)
		got, seen := map[string]int{}, map[string]bool{}
		count := func(kind, id, name string) error {
			if seen[id] || name == "" {
				t.Errorf("%s %s %q again or nameless", kind, id, name)
			}
			seen[id] = true
			got[kind]++
			return nil
		}
		err := errors.Join(
			w.Each(t.Context(), func(x api.Track) error {
				return count("track", string(x.ID), x.Artists[0].Name+x.Album.Artists[0].Name)
			}),
			w.EachAlbum(t.Context(), func(x api.Album) error { return count("album", string(x.ID), x.Artists[0].Name) }),
			w.EachArtist(t.Context(), func(x api.Artist) error { return count("artist", string(x.ID), x.Name) }))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "each", got, want)
		// Every list, page by page, has everything once.
		seen = map[string]bool{}
		n := 0
		for cursor := ""; ; {
			p := must[api.Page[api.Track]](t)(w.Tracks(t.Context(), cursor, 200))
			for _, x := range p.Items {
				if seen[string(x.ID)] {
					t.Errorf("%s again", x.ID)
				}
				seen[string(x.ID)] = true
				n++
			}
			if cursor = p.Next; cursor == "" {
				break
			}
		}
		equal(t, "listed", n, 2500)
	})
}
