package library_test

import (
	"database/sql"
	"testing"
	"time"

	"segue/internal/testenv"

	"github.com/oklog/ulid/v2"
)

// BenchmarkReleases reads the first page of the feed of somebody who follows 2,000 artists, with 100,000 albums of 10,000
// artists in the catalogue: a million tracks, at ten each. Tracks are not looked at.
func BenchmarkReleases(b *testing.B) {
	for name, dsn := range map[string]func() string{"sqlite": func() string { return "sqlite:" + b.TempDir() + "/segue.db" }, "postgres": func() string { return testenv.Postgres(b) }} {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b, dsn())
			user := w.user("Ada")
			w.must(w.db.Tx(b.Context(), func(tx *sql.Tx) error {
				run := func(q string, args ...any) {
					if _, err := tx.ExecContext(b.Context(), q, args...); err != nil {
						b.Fatal(err)
					}
				}
				for i := range 10_000 {
					artist := ulid.Make().String()
					run(`INSERT INTO artists (id, name, name_key) VALUES ($1, $1, $1)`, artist)
					for n := range 10 {
						album := ulid.Make().String()
						w.albums[album] = true
						run(`INSERT INTO albums (id, title, artist_id, date, art_version, created_at) VALUES ($1, 'x', $2, $3, '', 0)`, album, artist, time.Now().UTC().AddDate(0, 0, -(i*10+n)*7919%14_600).Format(time.DateOnly))
						if n == 0 {
							run(`INSERT INTO album_credits (album_id, position, artist_id, role, join_phrase) VALUES ($1, 1, $2, 'main', '')`, album, artist)
						}
					}
					if i%5 == 0 {
						run(`INSERT INTO followed_artists (user_id, item_id, added_at) VALUES ($1, $2, 0)`, user, artist)
					}
				}
				return nil
			}))
			if _, err := w.db.ExecContext(b.Context(), `ANALYZE`); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if p, err := w.Releases(b.Context(), user, "", 50); err != nil || len(p.Items) != 50 {
					b.Fatal(len(p.Items), err)
				}
			}
		})
	}
}

// BenchmarkSavedTracks reads pages in the middle of 20,000 liked tracks.
func BenchmarkSavedTracks(b *testing.B) {
	w := newWorld(b, "sqlite:"+b.TempDir()+"/segue.db")
	user := w.user("Ada")
	for i := range 20_000 {
		id := item(w.tracks)
		if _, err := w.db.ExecContext(b.Context(), `INSERT INTO saved_tracks (user_id, item_id, added_at) VALUES ($1, $2, $3)`, user, id, i); err != nil {
			b.Fatal(err)
		}
	}
	cursor := ""
	for b.Loop() {
		p, err := w.SavedTracks(b.Context(), user, cursor, 50)
		if err != nil {
			b.Fatal(err)
		}
		cursor = p.Next
	}
}
