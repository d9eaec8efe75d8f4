package playlist_test

import (
	"slices"
	"testing"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/playlist"
	"segue/media"

	"github.com/google/go-cmp/cmp"
)

// together makes a playlist of two people.
func (e *env) together(owner, editor string) string {
	e.t.Helper()
	id := e.create(owner)
	must(e.t, e.Invite(e.t.Context(), owner, id, editor, api.RoleEditor))
	if _, err := e.Keep(e.t.Context(), editor, id); err != nil {
		e.t.Fatal(err)
	}
	return id
}

// testUndoKeepsWhatOthersDid: a change is taken back only where nobody changed the same thing since.
func testUndoKeepsWhatOthersDid(t *testing.T, e *env) {
	ctx, ada, bob := t.Context(), e.users[0], e.users[1]
	id := e.together(ada, bob)
	undo := func(who string, in api.UndoPlaylist) api.Playlist {
		t.Helper()
		p, err := e.Undo(ctx, who, id, nil, in)
		must(t, err)
		return p
	}
	see := func(want string) {
		t.Helper()
		if got := e.titles(ada, id, 0); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	es := e.add(ada, id, api.AddItems{}, e.track("a"), e.track("b"), e.track("c"), e.track("d")) // 2
	_, err := e.Remove(ctx, ada, id, nil, []string{es[1], es[2]})                                // 3
	must(t, err)
	bobs := e.add(bob, id, api.AddItems{After: es[0]}, e.track("B")) // 4, where b and c were
	see("a B d")
	p := undo(ada, api.UndoPlaylist{Mine: true}) // 5, takes back 3
	see("a B b c d")
	if p.TrackCount != 5 || p.DurationMS != 5000 || p.Revision != 5 {
		t.Errorf("%+v", p)
	}
	_, err = e.Undo(ctx, ada, id, nil, api.UndoPlaylist{Revision: 3})
	fails(t, "twice", err, playlist.ErrNothing)
	undo(ada, api.UndoPlaylist{Revision: 5}) // 6: redo
	see("a B d")
	undo(ada, api.UndoPlaylist{}) // 7: the last is 4 by bob
	see("a d")
	undo(ada, api.UndoPlaylist{}) // 8: 3 again
	see("a b c d")

	// Moved by one, then moved again by another, who has the last word.
	move := func(who, what, after string) {
		t.Helper()
		_, err := e.Move(ctx, who, id, nil, api.MoveItems{EntryIDs: []string{what}, After: after})
		must(t, err)
	}
	move(ada, es[0], es[3]) // 9: b c d a
	move(bob, es[0], es[1]) // 10: b a c d
	undo(ada, api.UndoPlaylist{Mine: true})
	see("b a c d")
	undo(bob, api.UndoPlaylist{Mine: true}) // 12: back to where ada had put it
	see("b c d a")
	revisions, err := e.Revisions(ctx, bob, id, "", 100)
	must(t, err)
	for i, r := range revisions.Items {
		if r.Revision != int64(12-i) {
			t.Errorf("revision %d at %d", r.Revision, i)
		}
	}
	if r := revisions.Items[1]; r.Operation != api.PlaylistUndone || r.Author.DisplayName != "user 0" || cmp.Diff(r.Of, []int64{9}) != "" || r.Moved != 0 || revisions.Items[3].UndoneBy != 11 {
		t.Errorf("%+v", r)
	}
	if r := revisions.Items[10]; r.Added != 4 || r.Operation != api.PlaylistAdded {
		t.Errorf("%+v", r)
	}
	undo(ada, api.UndoPlaylist{Revision: 2}) // 13: the add of all four; bob's is out already
	see("")
	if _, err := e.Undo(ctx, bob, id, nil, api.UndoPlaylist{Revision: 13}); err != nil { // redo, by another
		t.Error(err)
	}
	see("b c d a")

	// Names.
	name := func(who, to string) {
		t.Helper()
		_, err := e.Change(ctx, who, id, nil, api.PlaylistChange{Name: &to})
		must(t, err)
	}
	name(ada, "two")   // 15
	name(bob, "three") // 16
	undo(ada, api.UndoPlaylist{Mine: true})
	if p, err := e.Get(ctx, ada, id); err != nil || p.Name != "three" {
		t.Errorf("%+v %v", p, err)
	}
	if p := undo(bob, api.UndoPlaylist{}); p.Name != "two" {
		t.Errorf("%+v", p)
	}
	if _, err := e.Change(ctx, ada, id, nil, api.PlaylistChange{Public: ptr(true)}); err != nil { // 19
		t.Fatal(err)
	}
	_, err = e.Undo(ctx, ada, id, nil, api.UndoPlaylist{Revision: 19})
	fails(t, "visibility", err, media.ErrInvalid)
	_, err = e.Undo(ctx, ada, id, nil, api.UndoPlaylist{Revision: 1})
	fails(t, "the creation", err, media.ErrNotFound)
	_, err = e.Undo(ctx, ada, id, playlist.Match{18}, api.UndoPlaylist{})
	fails(t, "stale", err, media.ErrChanged)
	_ = bobs

	empty := e.create(ada)
	_, err = e.Undo(ctx, ada, empty, nil, api.UndoPlaylist{})
	fails(t, "nothing was done", err, playlist.ErrNothing)
}

func testRestore(t *testing.T, e *env) {
	ctx, ada, bob := t.Context(), e.users[0], e.users[1]
	id := e.together(ada, bob)
	es := e.add(ada, id, api.AddItems{}, e.track("a"), e.track("b"), e.track("c")) // 2
	_, err := e.Move(ctx, ada, id, nil, api.MoveItems{EntryIDs: es[:1], AtEnd: true})
	must(t, err)
	e.add(bob, id, api.AddItems{After: es[1]}, e.track("B"))
	e.add(ada, id, api.AddItems{AtStart: true}, e.track("A"))
	_, err = e.Remove(ctx, bob, id, nil, es[2:])
	must(t, err)
	if got := e.titles(ada, id, 0); got != "A b B a" {
		t.Fatal(got)
	}
	f := func(keep, want string) {
		t.Helper()
		p, err := e.Restore(ctx, ada, id, nil, api.RestorePlaylist{Revision: 2, Keep: keep})
		must(t, err)
		if got := e.titles(ada, id, 0); got != want || p.TrackCount != (len(want)+1)/2 || p.DurationMS != int64(p.TrackCount)*1000 {
			t.Errorf("keep %q: %s, %+v", keep, got, p)
		}
		if _, err = e.Undo(ctx, ada, id, nil, api.UndoPlaylist{}); err != nil {
			t.Fatal(err)
		}
		if got := e.titles(ada, id, 0); got != "A b B a" {
			t.Errorf("undone: %s", got)
		}
	}
	f("", "a b B c")
	f("others", "a b B c")
	f("all", "A a b B c")
	f("none", "a b c")
	_, err = e.Restore(ctx, ada, id, nil, api.RestorePlaylist{Revision: 1000})
	fails(t, "to come", err, media.ErrNotFound)
}

// testHistoryIsBounded: by number, by age and by how much was moved about; what is kept can be read.
func testHistoryIsBounded(t *testing.T, e *env) {
	ctx, ada := t.Context(), e.users[0]
	oldest := func(id string) int64 {
		return e.number(`SELECT min(revision) FROM playlist_revisions WHERE playlist_id = $1`, id)
	}
	closed := func(id string) int64 {
		return e.number(`SELECT count(*) FROM playlist_items WHERE playlist_id = $1 AND to_revision < 9223372036854775807`, id)
	}
	id := e.create(ada)
	x := e.track("x")
	es := e.add(ada, id, api.AddItems{}, x, x, x)
	move := func(what ...string) {
		t.Helper()
		_, err := e.Move(ctx, ada, id, nil, api.MoveItems{EntryIDs: what, AtEnd: true})
		must(t, err)
	}
	for i := range 30 {
		move(es[i%3])
	}
	if oldest(id) != 1 || closed(id) != 30 {
		t.Errorf("forgotten too early: %d, %d", oldest(id), closed(id))
	}
	e.exec(`UPDATE playlist_revisions SET at = $2 WHERE playlist_id = $1 AND revision <= 20`, id, time.Now().Add(-playlist.KeepFor-time.Hour).UnixMicro())
	for i := range 16 {
		move(es[i%3])
	}
	if oldest(id) != 21 || closed(id) != 48-21 {
		t.Errorf("too old: %d, %d", oldest(id), closed(id))
	}
	if got := len(e.items(ada, id, 21, 10)); got != 3 {
		t.Errorf("%d items as of the oldest", got)
	}
	_, err := e.Items(ctx, ada, id, 20, "", 10)
	fails(t, "not kept", err, media.ErrNotFound)
	_, err = e.Undo(ctx, ada, id, nil, api.UndoPlaylist{Revision: 21})
	fails(t, "the oldest cannot be taken back", err, media.ErrNotFound)
	_, err = e.Items(ctx, ada, id, 0, "MjAgMDFLQVRYNEgyV0pWMFNQU0ZCRVBOUzVSTkE", 10) // "20 01KATX4H2WJV0SPSFBEPNS5RNA"
	fails(t, "a cursor into it", err, media.ErrInvalid)

	// Many changes: their lines as if they had been made.
	for r := e.number(`SELECT revision FROM playlists WHERE id = $1`, id); r%16 != 15 || r < 700; {
		r++
		e.exec(`INSERT INTO playlist_revisions (playlist_id, revision, at, operation, added, removed, moved, closed, changes, of_revisions) VALUES ($1, $2, $3, 'details', 0, 0, 0, 0, '{}', 'null')`, id, r, time.Now().UnixMicro())
		e.exec(`UPDATE playlists SET revision = $2 WHERE id = $1`, id, r)
	}
	move(es[0])
	if n := e.number(`SELECT count(*) FROM playlist_revisions WHERE playlist_id = $1`, id); n != playlist.KeepRevisions || closed(id) != 1 {
		t.Errorf("%d revisions are kept, %d places", n, closed(id))
	}
	// Very large ones.
	for r := e.number(`SELECT revision FROM playlists WHERE id = $1`, id); r%16 != 15; {
		r++
		e.exec(`INSERT INTO playlist_revisions (playlist_id, revision, at, operation, added, removed, moved, closed, changes, of_revisions) VALUES ($1, $2, $3, 'move', 0, 0, 0, 9000, '{}', 'null')`, id, r, time.Now().UnixMicro())
		e.exec(`UPDATE playlists SET revision = $2 WHERE id = $1`, id, r)
	}
	move(es[0])
	if n := e.number(`SELECT count(*) FROM playlist_revisions WHERE playlist_id = $1`, id); n < 6 || n > 8 {
		t.Errorf("%d large revisions are kept", n)
	}
	if _, err := e.Undo(ctx, ada, id, nil, api.UndoPlaylist{}); err != nil {
		t.Error(err)
	}
}

// testPositionsRunOut: room is made in the middle and at both ends, and the order stays.
func testPositionsRunOut(t *testing.T, e *env) {
	ctx, ada := t.Context(), e.users[0]
	id := e.create(ada)
	x := e.track("x")
	line := e.add(ada, id, api.AddItems{}, slices.Repeat([]string{x}, 300)...)
	_, err := e.Remove(ctx, ada, id, nil, line[100:120]) // they keep their places
	must(t, err)
	line = slices.Delete(line, 100, 120)
	check := func(why string) {
		t.Helper()
		if d := cmp.Diff(entries(e.items(ada, id, 0, 500)), line); d != "" {
			t.Fatalf("%s: %s", why, d)
		}
	}
	for range 100 { // 36 halvings
		line = slices.Insert(line, 99, e.add(ada, id, api.AddItems{After: line[98]}, x)...)
	}
	check("after the same")
	for range 100 {
		line = slices.Insert(line, 50, e.add(ada, id, api.AddItems{Before: line[50]}, x)...)
	}
	check("before the last one")
	line = slices.Insert(line, 99, e.add(ada, id, api.AddItems{After: line[98]}, slices.Repeat([]string{x}, 1000)...)...)
	check("a thousand at once")
	for range 3 { // an entry at each end of all positions, whichever that is now
		for which, to := range map[string]int64{"max": int64(1)<<61 - 5, "min": -int64(1)<<61 + 5} {
			e.exec(`UPDATE playlist_items SET position = $2 WHERE playlist_id = $1 AND position = $3`, id, to, e.number(`SELECT `+which+`(position) FROM playlist_items WHERE playlist_id = $1`, id))
		}
		line = append(line, e.add(ada, id, api.AddItems{}, x, x, x, x, x, x, x, x)...)
		check("the upper end")
		line = append(e.add(ada, id, api.AddItems{AtStart: true}, x, x, x, x, x, x, x, x), line...)
		check("the lower end")
	}
	if n := e.number(`SELECT count(*) - count(DISTINCT position) FROM playlist_items WHERE playlist_id = $1`, id); n != 0 {
		t.Errorf("%d positions are shared", n)
	}
	if _, err := e.Restore(ctx, ada, id, nil, api.RestorePlaylist{Revision: 2}); err != nil {
		t.Fatal(err)
	}
	if got := e.items(ada, id, 2, 500); len(got) != 300 || cmp.Diff(entries(got), entries(e.items(ada, id, 0, 500))) != "" {
		t.Error("the order of then is lost")
	}
}
