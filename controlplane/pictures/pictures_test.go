package pictures_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"segue/controlplane/pictures"
	"segue/controlplane/store"
	"segue/internal/testenv"
	"segue/media"
	"segue/origin/memstore"

	"github.com/oklog/ulid/v2"
)

// TestSweep: an album and two playlists with pictures of now and of before.
func TestSweep(t *testing.T) {
	test := func(dsn string) func(*testing.T) {
		return func(t *testing.T) {
			db, err := store.Open(t.Context(), dsn)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			objects := &memstore.Store{}
			version := func(c string) media.Version { return media.Version(strings.Repeat(c, 26)) }
			put := func(of string, v media.Version) {
				t.Helper()
				for _, size := range media.ArtSizes {
					if _, err := objects.Put(t.Context(), media.Object{Key: media.ArtKey(media.AlbumID(of), v, size), Size: 1}, strings.NewReader("x")); err != nil {
						t.Fatal(err)
					}
				}
			}
			exec := func(q string, args ...any) {
				t.Helper()
				if _, err := db.ExecContext(t.Context(), q, args...); err != nil {
					t.Fatal(err)
				}
			}
			there := func() (out []string) {
				t.Helper()
				for o, err := range objects.List(t.Context(), "art/") {
					if err != nil {
						t.Fatal(err)
					}
					if strings.HasSuffix(string(o.Key), "/64.jpg") {
						out = append(out, string(o.Key)[31:32])
					}
				}
				slices.Sort(out)
				return out
			}
			album, list, gone := ulid.Make().String(), ulid.Make().String(), ulid.Make().String()
			exec(`INSERT INTO users (id, email, email_key, display_name, password_hash, plan, created_at) VALUES ('u', 'u', 'u', '', '', 'free', 1)`)
			exec(`INSERT INTO artists (id, name, name_key) VALUES ('r', 'R', 'r')`)
			exec(`INSERT INTO albums (id, title, artist_id, date, art_version, created_at) VALUES ($1, 'A', 'r', '', $2, 1)`, album, string(version("b")))
			exec(`INSERT INTO playlists (id, owner_id, name, description, public, cover, mosaic, item_count, duration_ms, followers, revision, kept_from, created_at, updated_at)
				VALUES ($1, 'u', 'P', '', 0, $2, '[]', 0, 0, 0, 3, 1, 1, 1)`, list, string(version("d")))
			exec(`INSERT INTO playlist_revisions (playlist_id, revision, author, at, operation, added, removed, moved, closed, changes, of_revisions) VALUES ($1, 3, 'u', 1, 'details', 0, 0, 0, 0, $2, '[]')`,
				list, fmt.Sprintf(`{"cover":{"from":"%s","to":"%s"}}`, version("c"), version("d")))
			put(album, version("a")) // before
			put(album, version("b"))
			put(list, version("c")) // can be undone
			put(list, version("d"))
			put(list, version("e")) // of a revision that is kept no longer
			put(gone, version("f")) // of a playlist that was deleted
			for i := range 600 {    // more than are looked at together
				of := ulid.Make().String()
				put(of, version("g"))
				exec(`INSERT INTO albums (id, title, artist_id, date, art_version, created_at) VALUES ($1, 'A', 'r', '', $2, 1)`, of, string(version("g")))
				_ = i
			}
			named := func(ctx context.Context, of ...pictures.Picture) (map[pictures.Picture]bool, error) {
				if len(of) > 500 {
					t.Errorf("asked for %d at once", len(of))
				}
				return pictures.Named(ctx, db, of...)
			}
			s, now := pictures.New(db, objects, 0, named), time.Now()
			sweep := func(after time.Duration, want int) {
				t.Helper()
				if n, err := s.Sweep(t.Context(), now.Add(after)); err != nil || n != want {
					t.Errorf("after %v: %d deleted, %v; want %d", after, n, err, want)
				}
			}
			sweep(0, 0)
			sweep(pictures.Grace-time.Hour, 0)
			exec(`UPDATE albums SET art_version = $1 WHERE id = $2`, string(version("a")), album) // taken up again
			sweep(pictures.Grace, 2)                                                              // e, f
			if got := strings.Join(slices.DeleteFunc(there(), func(s string) bool { return s == "g" }), ""); got != "abcd" {
				t.Errorf("there are %s", got)
			}
			sweep(2*pictures.Grace-time.Hour, 0) // b was marked with the last look only
			sweep(2*pictures.Grace, 1)
			exec(`UPDATE albums SET art_version = $1 WHERE id = $2`, string(version("z")), album)
			sweep(2*pictures.Grace+time.Hour, 0) // the mark that a had in the beginning is of no account
			sweep(3*pictures.Grace, 0)
			sweep(3*pictures.Grace+2*time.Hour, 1)
			if got := there(); len(got) != 602 {
				t.Errorf("%d pictures are there", len(got))
			}
		}
	}
	t.Run("sqlite", test("sqlite:"+t.TempDir()+"/segue.db"))
	t.Run("postgres", func(t *testing.T) { test(testenv.Postgres(t))(t) })
}
