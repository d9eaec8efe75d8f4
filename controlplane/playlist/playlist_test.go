package playlist_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/playlist"
	"segue/controlplane/store"
	"segue/media"

	"github.com/google/go-cmp/cmp"
	"github.com/oklog/ulid/v2"
)

// env is the service on a real database, with a catalogue and an origin of its own.
type env struct {
	*playlist.Service
	t     testing.TB
	db    *store.DB
	users []string // ids

	mu     sync.Mutex // guards the fields below
	tracks map[string]api.Track
	put    map[media.Key][]byte
}

func newEnv(t testing.TB, dsn string) *env {
	t.Helper()
	db, err := store.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	e := &env{t: t, db: db, tracks: map[string]api.Track{}, put: map[media.Key][]byte{}}
	e.Service = playlist.New(db, playlist.Deps{Tracks: e.tracksByID, Names: e.names, Put: e.putObject})
	for i := range 5 {
		e.users = append(e.users, e.user(fmt.Sprint("user ", i)))
	}
	return e
}

func (e *env) user(name string) string {
	id := ulid.Make().String()
	e.exec(`INSERT INTO users (id, email, email_key, display_name, password_hash, plan, created_at) VALUES ($1, $1, $1, $2, '', 'free', 0)`, id, name)
	return id
}

func (e *env) exec(query string, args ...any) {
	e.t.Helper()
	if _, err := e.db.ExecContext(e.t.Context(), query, args...); err != nil {
		e.t.Fatal(err)
	}
}

func (e *env) number(query string, args ...any) (n int64) {
	e.t.Helper()
	if err := e.db.QueryRowContext(e.t.Context(), query, args...).Scan(&n); err != nil {
		e.t.Fatal(err)
	}
	return n
}

func (e *env) tracksByID(_ context.Context, ids ...string) ([]api.Track, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []api.Track
	for _, id := range ids {
		if t, ok := e.tracks[id]; ok {
			out = append(out, t)
		}
	}
	return out, nil
}

func (e *env) names(ctx context.Context, ids ...string) (map[string]string, error) {
	out := map[string]string{}
	for _, id := range ids {
		var name string
		if err := e.db.QueryRowContext(ctx, `SELECT display_name FROM users WHERE id = $1`, id).Scan(&name); err == nil {
			out[id] = name
		} else if !errors.Is(err, sql.ErrNoRows) {
			return nil, err
		}
	}
	return out, nil
}

func (e *env) putObject(_ context.Context, o media.Object, r io.Reader) (media.Object, error) {
	b, err := io.ReadAll(r)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.put[o.Key] = b
	return o, err
}

// track makes one, on an album of its own with a picture, of one second.
func (e *env) track(title string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	id, album := ulid.Make().String(), ulid.Make().String()
	e.tracks[id] = api.Track{ID: media.TrackID(id), Title: title, DurationMS: 1000, Artists: []api.ArtistRef{{Name: "Somebody"}, {Name: "Another"}},
		Album: api.AlbumRef{ID: media.AlbumID(album), Art: &api.Art{URL: "/r/art/" + title, Sizes: media.ArtSizes}}}
	return id
}

func (e *env) create(who string) string {
	e.t.Helper()
	p, err := e.Create(e.t.Context(), who, api.NewPlaylist{Name: "one"})
	if err != nil {
		e.t.Fatal(err)
	}
	return p.ID
}

func (e *env) add(who, id string, in api.AddItems, tracks ...string) []string {
	e.t.Helper()
	for _, t := range tracks {
		in.Items = append(in.Items, api.NewItem{TrackID: media.TrackID(t)})
	}
	c, err := e.Add(e.t.Context(), who, id, nil, in)
	if err != nil {
		e.t.Fatal(err)
	}
	return c.EntryIDs
}

// items reads all pages of a revision, 0: of now.
func (e *env) items(who, id string, revision int64, limit int) (out []api.PlaylistItem) {
	e.t.Helper()
	for cursor := ""; ; {
		page, err := e.Items(e.t.Context(), who, id, revision, cursor, limit)
		if err != nil {
			e.t.Fatal(err)
		}
		out = append(out, page.Items...)
		if cursor = page.Next; cursor == "" {
			return out
		}
	}
}

func (e *env) titles(who, id string, revision int64) string {
	e.t.Helper()
	var out []string
	for _, i := range e.items(who, id, revision, 100) {
		out = append(out, i.Title)
	}
	return strings.Join(out, " ")
}

func entries(items []api.PlaylistItem) []string {
	out := []string{}
	for _, i := range items {
		out = append(out, i.EntryID)
	}
	return out
}

// fails checks for a sentinel error.
func fails(t testing.TB, why string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", why, err, want)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ptr[T any](v T) *T { return &v }

func testNames(t *testing.T, e *env) {
	ada := e.users[0]
	f := func(why string, n api.NewPlaylist, want error) {
		t.Helper()
		_, err := e.Create(t.Context(), ada, n)
		fails(t, why, err, want)
	}
	f("200 letters of four bytes", api.NewPlaylist{Name: " " + strings.Repeat("🎵", 200) + "\n"}, nil)
	f("201", api.NewPlaylist{Name: strings.Repeat("é", 201)}, media.ErrInvalid)
	f("nothing but space", api.NewPlaylist{Name: " \u00a0\t"}, media.ErrInvalid)
	f("a NUL", api.NewPlaylist{Name: "a\x00b"}, media.ErrInvalid)
	f("a line feed within", api.NewPlaylist{Name: "a\nb"}, media.ErrInvalid)
	f("not UTF-8", api.NewPlaylist{Name: "a\xff"}, media.ErrInvalid)
	f("lines in a description", api.NewPlaylist{Name: "a", Description: "one\r\ntwo\tthree"}, nil)
	f("a NUL in a description", api.NewPlaylist{Name: "a", Description: "one\x00"}, media.ErrInvalid)
	f("a long description", api.NewPlaylist{Name: "a", Description: strings.Repeat("x", 2001)}, media.ErrInvalid)
	f("no such folder", api.NewPlaylist{Name: "a", FolderID: ulid.Make().String()}, media.ErrInvalid)
	f("not a folder", api.NewPlaylist{Name: "a", FolderID: "\x00"}, media.ErrInvalid)
	_, err := e.Get(t.Context(), ada, "\x00")
	fails(t, "an odd id", err, media.ErrNotFound)

	p, err := e.Create(t.Context(), ada, api.NewPlaylist{Name: " a ", Description: "x"})
	must(t, err)
	if p.Name != "a" || p.Revision != 1 || p.Role != api.RoleOwner || !p.InLibrary || p.Owner != (api.UserRef{ID: ada, DisplayName: "user 0"}) || p.Public {
		t.Errorf("%+v", p)
	}
	p, err = e.Change(t.Context(), ada, p.ID, playlist.Match{1}, api.PlaylistChange{Name: ptr("b"), Public: ptr(true)})
	must(t, err)
	if p.Name != "b" || p.Description != "x" || !p.Public || p.Revision != 2 {
		t.Errorf("%+v", p)
	}
	_, err = e.Change(t.Context(), ada, p.ID, playlist.Match{1}, api.PlaylistChange{Name: ptr("c")})
	var stale playlist.StaleError
	if !errors.As(err, &stale) || stale.Revision != 2 || !errors.Is(err, media.ErrChanged) {
		t.Error(err)
	}
	if p, err = e.Change(t.Context(), ada, p.ID, playlist.Match{7, 2}, api.PlaylistChange{Name: ptr("b")}); err != nil || p.Revision != 2 {
		t.Errorf("a change of nothing: %+v %v", p, err)
	}
	_, err = e.Change(t.Context(), ada, p.ID, nil, api.PlaylistChange{Name: ptr("")})
	fails(t, "an empty name", err, media.ErrInvalid)
}

func testItems(t *testing.T, e *env) {
	ada := e.users[0]
	id := e.create(ada)
	a, b, c, d := e.track("a"), e.track("b"), e.track("c"), e.track("d")
	first := e.add(ada, id, api.AddItems{}, a, b)
	e.add(ada, id, api.AddItems{AtStart: true}, c)
	e.add(ada, id, api.AddItems{After: first[0]}, d, a)
	e.add(ada, id, api.AddItems{Before: first[0]}, d)
	if got := e.titles(ada, id, 0); got != "c d a d a b" {
		t.Error(got)
	}
	p, err := e.Get(t.Context(), ada, id)
	must(t, err)
	if p.TrackCount != 6 || p.DurationMS != 6000 || p.Revision != 5 || len(p.Mosaic) != 4 || p.Mosaic[0].URL != "/r/art/c" {
		t.Errorf("%+v", p)
	}
	got, err := e.Add(t.Context(), ada, id, nil, api.AddItems{Duplicates: "skip", Items: []api.NewItem{{TrackID: media.TrackID(a)}, {TrackID: media.TrackID(e.track("e"))}}})
	must(t, err)
	if len(got.EntryIDs) != 1 || len(got.Skipped) != 1 || string(got.Skipped[0]) != a || got.Total != 7 || got.Revision != 6 {
		t.Errorf("%+v", got)
	}
	f := e.track("f")
	got, err = e.Add(t.Context(), ada, id, nil, api.AddItems{Duplicates: "skip", Items: []api.NewItem{{TrackID: media.TrackID(f)}, {TrackID: media.TrackID(f)}}})
	must(t, err)
	if len(got.EntryIDs) != 1 || len(got.Skipped) != 1 {
		t.Errorf("twice in one request: %+v", got)
	}
	last := got.EntryIDs[0]

	// Its own entry id makes an add repeatable, and it does not bring back what was removed.
	own := ulid.Make().String()
	in := api.AddItems{Items: []api.NewItem{{TrackID: media.TrackID(f), EntryID: own}}}
	for i := range 2 {
		got, err = e.Add(t.Context(), ada, id, nil, in)
		must(t, err)
		if len(got.EntryIDs) != 1-i || len(got.Left) != i || got.Total != 9 || got.Revision != 8 {
			t.Errorf("%d: %+v", i, got)
		}
	}
	got, err = e.Remove(t.Context(), ada, id, nil, []string{own, own, ulid.Make().String()})
	must(t, err)
	if d := cmp.Diff(got.EntryIDs, []string{own}); d != "" || len(got.Left) != 1 || got.Total != 8 || got.Revision != 9 {
		t.Errorf("%+v", got)
	}
	if got, err = e.Add(t.Context(), ada, id, nil, in); err != nil || len(got.EntryIDs) != 0 || got.Revision != 9 {
		t.Errorf("%+v %v", got, err)
	}
	if got, err = e.Remove(t.Context(), ada, id, nil, []string{own}); err != nil || len(got.EntryIDs) != 0 || got.Revision != 9 {
		t.Errorf("%+v %v", got, err)
	}

	// Moves: several, in the order given, also next to what is gone.
	items := entries(e.items(ada, id, 0, 3)) // c d a d a b e f
	_, err = e.Move(t.Context(), ada, id, nil, api.MoveItems{EntryIDs: []string{items[5], items[0]}, After: items[2]})
	must(t, err)
	if got := e.titles(ada, id, 0); got != "d a b c d a e f" {
		t.Error(got)
	}
	got, err = e.Move(t.Context(), ada, id, nil, api.MoveItems{EntryIDs: []string{items[1], ulid.Make().String()}, After: own}) // own was behind f
	must(t, err)
	if len(got.Left) != 1 || e.titles(ada, id, 0) != "a b c d a e f d" {
		t.Errorf("%+v %s", got, e.titles(ada, id, 0))
	}
	_, err = e.Move(t.Context(), ada, id, nil, api.MoveItems{EntryIDs: []string{last}, AtStart: true})
	must(t, err)
	_, err = e.Move(t.Context(), ada, id, nil, api.MoveItems{EntryIDs: []string{items[2]}, AtEnd: true})
	must(t, err)
	if got := e.titles(ada, id, 0); got != "f b c d a e d a" {
		t.Error(got)
	}
	if p, err = e.Get(t.Context(), ada, id); err != nil || p.DurationMS != 8000 || p.TrackCount != 8 || p.Mosaic[0].URL != "/r/art/f" {
		t.Errorf("%+v %v", p, err)
	}

	// Not in the catalogue any more: in its place, with the name that the catalogue still knows, else that of the day
	// it was added.
	e.mu.Lock()
	gone := e.tracks[b]
	gone.Unavailable, gone.Title = api.Removed, "B"
	e.tracks[b] = gone
	e.mu.Unlock()
	if i := e.items(ada, id, 0, 100)[1]; !i.Unavailable || i.Title != "B" || i.Track != nil {
		t.Errorf("%+v", i)
	}
	_, err = e.Add(t.Context(), ada, id, nil, api.AddItems{Items: []api.NewItem{{TrackID: media.TrackID(b)}}})
	fails(t, "what was removed is added", err, media.ErrInvalid)
	e.mu.Lock()
	delete(e.tracks, b)
	e.mu.Unlock()
	if i := e.items(ada, id, 0, 100)[1]; !i.Unavailable || i.Title != "b" || i.Artist != "Somebody, Another" || i.Track != nil || string(i.TrackID) != b || i.AddedBy.DisplayName != "user 0" {
		t.Errorf("%+v", i)
	}

	bad := func(why string, err error) { t.Helper(); fails(t, why, err, media.ErrInvalid) }
	add := func(in api.AddItems, item api.NewItem) error {
		in.Items = []api.NewItem{{TrackID: media.TrackID(a)}, item}
		_, err := e.Add(t.Context(), ada, id, nil, in)
		return err
	}
	bad("no such track", add(api.AddItems{}, api.NewItem{TrackID: media.TrackID(b)}))
	bad("not a track", add(api.AddItems{}, api.NewItem{TrackID: "\x00"}))
	bad("not an entry", add(api.AddItems{}, api.NewItem{TrackID: media.TrackID(a), EntryID: "x"}))
	bad("after what never was", add(api.AddItems{After: ulid.Make().String()}, api.NewItem{TrackID: media.TrackID(a)}))
	bad("two places", add(api.AddItems{After: last, AtStart: true}, api.NewItem{TrackID: media.TrackID(a)}))
	move := func(in api.MoveItems) error { _, err := e.Move(t.Context(), ada, id, nil, in); return err }
	bad("nowhere", move(api.MoveItems{EntryIDs: []string{last}}))
	bad("next to itself", move(api.MoveItems{EntryIDs: []string{last}, After: last}))
	bad("next to what never was", move(api.MoveItems{EntryIDs: []string{last}, After: ulid.Make().String()}))
	_, err = e.Items(t.Context(), ada, id, 0, "!", 10)
	bad("a foreign cursor", err)
	_, err = e.Items(t.Context(), ada, id, 99, "", 10)
	fails(t, "a revision to come", err, media.ErrNotFound)
}

// testPagesAreOfOneRevision: a reader sees the playlist as it was when they began, whatever happens meanwhile.
func testPagesAreOfOneRevision(t *testing.T, e *env) {
	ada := e.users[0]
	id := e.create(ada)
	x := e.track("x")
	all := e.add(ada, id, api.AddItems{}, slices.Repeat([]string{x}, 20)...)
	var seen []string
	for cursor := ""; ; {
		page, err := e.Items(t.Context(), ada, id, 0, cursor, 3)
		must(t, err)
		if page.Revision != 2 {
			t.Errorf("a page of revision %d", page.Revision)
		}
		seen = append(seen, entries(page.Items)...)
		if cursor = page.Next; cursor == "" {
			break
		}
		_, err = e.Remove(t.Context(), ada, id, nil, []string{all[len(seen)-1], all[min(len(seen)+1, 19)]}) // the one that the cursor is at, and one to come
		must(t, err)
		_, err = e.Move(t.Context(), ada, id, nil, api.MoveItems{EntryIDs: []string{all[19]}, AtStart: true})
		must(t, err)
		e.add(ada, id, api.AddItems{AtStart: true}, x)
		for range 40 { // until room must be made at the cursor
			e.add(ada, id, api.AddItems{After: all[len(seen)-1]}, x)
		}
	}
	if d := cmp.Diff(seen, all); d != "" {
		t.Error(d)
	}
}

// testAgainstALine plays random changes against a plain slice: each revision can be read as it was then, and taking all
// back leads there again.
func testAgainstALine(t *testing.T, e *env) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	ada := e.users[0]
	id := e.create(ada)
	var tracks []string
	for i := range 10 {
		tracks = append(tracks, e.track(fmt.Sprint(i)))
	}
	line := []string{}               // entries
	was := map[int64][]string{1: {}} // by revision
	var order []int64                // revisions that are plain changes
	revision := int64(1)
	next := func() { revision++; was[revision] = slices.Clone(line) }
	some := func(n int) []string {
		var out []string
		for _, i := range rng.Perm(len(line))[:min(n, len(line))] {
			out = append(out, line[i])
		}
		return out
	}
	without := func(drop []string) []string {
		return slices.DeleteFunc(slices.Clone(line), func(x string) bool { return slices.Contains(drop, x) })
	}
	insert := func(into []string, at place, what []string) []string {
		i := len(into)
		switch {
		case at.start:
			i = 0
		case at.before != "":
			i = slices.Index(into, at.before)
		case at.after != "":
			i = slices.Index(into, at.after) + 1
		}
		return slices.Insert(slices.Clone(into), i, what...)
	}
	somewhere := func(from []string) place {
		if len(from) == 0 {
			return place{end: true}
		}
		x := from[rng.IntN(len(from))]
		if rng.IntN(2) == 0 {
			x = from[len(from)/2] // always the same gap
		}
		return []place{{start: true}, {end: true}, {before: x}, {after: x}}[rng.IntN(4)]
	}
	for range 150 {
		switch k := rng.IntN(10); {
		case k < 5 || len(line) < 3:
			at := somewhere(line)
			in := api.AddItems{Before: at.before, After: at.after, AtStart: at.start}
			line = insert(line, at, e.add(ada, id, in, tracks[:1+rng.IntN(5)]...))
			next()
			order = append(order, revision)
		case k < 7:
			drop := some(1 + rng.IntN(3))
			_, err := e.Remove(t.Context(), ada, id, nil, drop)
			must(t, err)
			line = without(drop)
			next()
			order = append(order, revision)
		case k < 9:
			what := some(1 + rng.IntN(3))
			rest := without(what)
			at := somewhere(rest)
			_, err := e.Move(t.Context(), ada, id, nil, api.MoveItems{EntryIDs: what, Before: at.before, After: at.after, AtStart: at.start, AtEnd: at.end})
			must(t, err)
			line = insert(rest, at, what)
			next()
			order = append(order, revision)
		default:
			n := min(1+rng.IntN(4), len(order))
			_, err := e.Undo(t.Context(), ada, id, playlist.Match{revision}, api.UndoPlaylist{Count: n})
			must(t, err)
			line = was[order[len(order)-n]-1]
			order = order[:len(order)-n]
			next()
		}
		if d := cmp.Diff(entries(e.items(ada, id, 0, 7)), line); d != "" {
			t.Fatalf("at revision %d: %s", revision, d)
		}
	}
	for r, want := range was {
		if d := cmp.Diff(entries(e.items(ada, id, r, 50)), want); d != "" {
			t.Errorf("as of revision %d: %s", r, d)
		}
	}
	for range 10 {
		to := 1 + rng.Int64N(revision)
		_, err := e.Restore(t.Context(), ada, id, nil, api.RestorePlaylist{Revision: to})
		must(t, err)
		revision++
		if d := cmp.Diff(entries(e.items(ada, id, 0, 50)), was[to]); d != "" {
			t.Errorf("restored to %d: %s", to, d)
		}
		was[revision] = was[to]
	}
	p, err := e.Get(t.Context(), ada, id)
	must(t, err)
	if n := len(was[revision]); p.TrackCount != n || p.DurationMS != int64(n)*1000 || p.Revision != revision {
		t.Errorf("%d items at revision %d: %+v", n, revision, p)
	}
	if _, err = e.Undo(t.Context(), ada, id, nil, api.UndoPlaylist{Count: 100}); err != nil {
		t.Error(err)
	}
}

type place struct {
	before, after string
	start, end    bool
}
