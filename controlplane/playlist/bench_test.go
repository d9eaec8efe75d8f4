package playlist_test

import (
	"slices"
	"testing"

	"segue/controlplane/api"
	"segue/internal/testenv"
)

// BenchmarkPlaylist is one change or read of a playlist of about 100 and of about 10000 entries, by the service, on a real
// database: what it costs must not grow with the playlist. "insert" and "move" always go into the same gap, so the making
// of room is in them.
func BenchmarkPlaylist(b *testing.B) {
	b.Run("sqlite", func(b *testing.B) { benchmark(b, "sqlite:"+b.TempDir()+"/segue.db") })
	b.Run("postgres", func(b *testing.B) { benchmark(b, testenv.Postgres(b)) })
}

func benchmark(b *testing.B, dsn string) {
	e := newEnv(b, dsn)
	ada, x := e.users[0], e.track("x")
	for _, size := range []struct {
		name string
		n    int
	}{{"100", 100}, {"10000", 9990}} {
		id := e.create(ada)
		var line []string
		for some := range slices.Chunk(slices.Repeat([]string{x}, size.n), 999) {
			line = append(line, e.add(ada, id, api.AddItems{}, some...)...)
		}
		if !e.db.Embedded {
			e.exec(`ANALYZE playlist_items`) // PostgreSQL does so by itself within a minute; until then it plans for an empty table
		}
		run := func(name string, f func() error) {
			b.Run(name+"/"+size.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if err := f(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		middle := line[len(line)/2]
		move := func(in api.MoveItems) error { _, err := e.Move(b.Context(), ada, id, nil, in); return err }
		// An add is taken out again, so that the playlist keeps its size: half of the figure is the add.
		added := func(in api.AddItems) error {
			_, err := e.Remove(b.Context(), ada, id, nil, e.add(ada, id, in, x))
			return err
		}
		run("add+remove", func() error { return added(api.AddItems{}) })
		run("insert+remove", func() error { return added(api.AddItems{After: middle}) })
		run("move", func() error { return move(api.MoveItems{EntryIDs: line[:1], After: middle}) })
		run("move to end", func() error { return move(api.MoveItems{EntryIDs: line[1:2], AtEnd: true}) })
		run("undo", func() error {
			if err := move(api.MoveItems{EntryIDs: line[2:3], After: middle}); err != nil {
				return err
			}
			_, err := e.Undo(b.Context(), ada, id, nil, api.UndoPlaylist{})
			return err
		})
		run("read 100", func() error { _, err := e.Items(b.Context(), ada, id, 0, "", 100); return err })
		page, err := e.Items(b.Context(), ada, id, 0, "", min(500, size.n/2))
		must(b, err)
		run("read 100 more", func() error { _, err := e.Items(b.Context(), ada, id, 0, page.Next, 100); return err })
		run("read all", func() error { e.items(ada, id, 0, 500); return nil })
	}
}
