package catalog_test

import (
	"database/sql"
	"os"
	"testing"

	"segue/controlplane/catalog"
	"segue/controlplane/store"
	"segue/internal/testenv"
	"segue/media"
	"segue/origin/memstore"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/oklog/ulid/v2"
	"github.com/pressly/goose/v3"
)

// TestUpgrade: rows from before lists had keys, counts and genres are listed and counted as if they had been made today.
func TestUpgrade(t *testing.T) {
	test := func(t *testing.T, driver string, dialect goose.Dialect, name, dsn string) {
		old, err := sql.Open(driver, name)
		if err != nil {
			t.Fatal(err)
		}
		defer old.Close()
		provider, err := goose.NewProvider(dialect, old, os.DirFS("../store/migrations"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := provider.UpTo(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		exec := func(q string, args ...any) {
			t.Helper()
			if _, err := old.ExecContext(t.Context(), q, args...); err != nil {
				t.Fatal(err)
			}
		}
		id := func() string { return ulid.Make().String() }
		bjork, sigur, post := id(), id(), id()
		exec(`INSERT INTO artists (id, name, name_key) VALUES ($1, 'Björk', 'bjork'), ($2, 'Sigur Rós', 'sigur ros')`, bjork, sigur)
		exec(`INSERT INTO albums (id, title, artist_id, date, art_version, created_at) VALUES ($1, 'Post', $2, '1995-06', '', 1)`, post, bjork)
		track := func(title, album, artist string, n int) {
			exec(`INSERT INTO tracks (id, album_id, artist_id, title, version, duration_ms, disc_number, track_number, date, genres, renditions, loudness, created_at, updated_at)
				VALUES ($1, $2, $3, $4, 'v', 1000, 1, $5, '1995', '["Electronic", "Art Pop"]', '[{"name":"aac_96","codec":"mp4a.40.2"}]', '{}', 1, 1)`, id(), album, artist, title, n)
		}
		track("Élan", post, bjork, 1)
		track("army of me", post, bjork, 2)
		track("Zebra", post, sigur, 3)
		const more = 2300 // more than go in one step
		big := id()
		exec(`INSERT INTO albums (id, title, artist_id, date, art_version, created_at) VALUES ($1, '( )', $2, '2002', '', 1)`, big, sigur)
		for i := range more {
			track("Untitled", big, sigur, i+1)
		}
		old.Close()

		for range 2 { // a second time there is nothing to do
			db, err := store.Open(t.Context(), dsn)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			w := &world{Service: catalog.New(db, &memstore.Store{}), t: t, db: db}
			if err := w.Upgrade(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.consistent()
			page, err := w.Tracks(t.Context(), "", 3)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "in the order of titles", titles(page.Items), []string{"army of me", "Élan", "Untitled"})
			a, err := w.Artist(t.Context(), media.ArtistID(sigur))
			if err != nil || a.AlbumCount != 1 || a.TrackCount != more+1 {
				t.Errorf("%+v %v", a, err)
			}
			genres, err := w.Genres(t.Context())
			if err != nil || len(genres.Items) != 2 || genres.Items[0].TrackCount != more+3 {
				t.Errorf("%+v %v", genres, err)
			}
			if e := w.events(); len(e["track"]) != 0 && len(e["track"]) != more+3 {
				t.Errorf("readers are told of %d tracks", len(e["track"]))
			}
		}
	}
	t.Run("sqlite", func(t *testing.T) {
		path := t.TempDir() + "/segue.db"
		test(t, "sqlite", goose.DialectSQLite3, "file:"+path+"?_pragma=foreign_keys(1)", "sqlite:"+path)
	})
	t.Run("postgres", func(t *testing.T) {
		url := testenv.Postgres(t)
		test(t, "pgx", goose.DialectPostgres, url, url)
	})
}
