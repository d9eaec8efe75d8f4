package library_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/library"
	"segue/controlplane/store"
	"segue/internal/testenv"
	"segue/media"

	"github.com/google/go-cmp/cmp"
	"github.com/oklog/ulid/v2"
)

// world is a library on a real database; the services that it asks are maps.
type world struct {
	*library.Service
	t  testing.TB
	db *store.DB

	mu      sync.Mutex // guards the fields below
	tracks  map[string]bool
	albums  map[string]bool
	artists map[string]bool
	hidden  map[string]bool // people who are not discoverable
	playing []library.Listening
}

func newWorld(t testing.TB, dsn string) *world {
	t.Helper()
	db, err := store.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	w := &world{t: t, db: db, tracks: map[string]bool{}, albums: map[string]bool{}, artists: map[string]bool{}, hidden: map[string]bool{}}
	w.Service = library.New(db, library.Sources{
		Tracks: func(_ context.Context, ids ...string) (out []api.Track, err error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, id := range ids {
				if w.tracks[id] {
					out = append(out, api.Track{ID: media.TrackID(id), Title: "track " + id})
				}
			}
			return out, nil
		},
		Albums: func(_ context.Context, ids ...string) (out []api.Album, err error) {
			for _, id := range ids {
				if w.albums[id] {
					out = append(out, api.Album{ID: media.AlbumID(id)})
				}
			}
			return out, nil
		},
		Artists: func(_ context.Context, ids ...string) (out []api.Artist, err error) {
			for _, id := range ids {
				if w.artists[id] {
					out = append(out, api.Artist{ID: media.ArtistID(id)})
				}
			}
			return out, nil
		},
		People: func(ctx context.Context, ids ...string) (out []library.Person, err error) {
			for _, id := range ids {
				p := library.Person{ID: id, Discoverable: !w.hidden[id]}
				if err := db.QueryRowContext(ctx, `SELECT display_name FROM users WHERE id = $1`, id).Scan(&p.DisplayName); errors.Is(err, sql.ErrNoRows) {
					continue
				} else if err != nil {
					return nil, err
				}
				out = append(out, p)
			}
			return out, nil
		},
		Playing: func(_ context.Context, ids ...string) (out []library.Listening, err error) {
			for _, p := range w.playing {
				if slices.Contains(ids, p.UserID) {
					out = append(out, p)
				}
			}
			return out, nil
		},
	})
	return w
}

// TestLibrary runs everything on SQLite and on PostgreSQL, each on a database of its own.
func TestLibrary(t *testing.T) {
	all := map[string]func(*testing.T, *world){"likes": likes, "counts": counts, "people": people, "releases": releases, "history": history, "privacy": privacy, "export": export}
	t.Run("sqlite", func(t *testing.T) {
		for name, f := range all {
			t.Run(name, func(t *testing.T) { f(t, newWorld(t, "sqlite:"+t.TempDir()+"/segue.db")) })
		}
	})
	t.Run("postgres", func(t *testing.T) {
		server := testenv.Postgres(t)
		db, err := sql.Open("pgx", server)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		for name, f := range all {
			t.Run(name, func(t *testing.T) {
				if _, err := db.ExecContext(t.Context(), `CREATE DATABASE `+name); err != nil {
					t.Fatal(err)
				}
				f(t, newWorld(t, strings.Replace(server, "/postgres?", "/"+name+"?", 1)))
			})
		}
	})
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) is(err, want error) {
	w.t.Helper()
	if !errors.Is(err, want) {
		w.t.Errorf("got %v, want %v", err, want)
	}
}

func (w *world) user(name string) string {
	w.t.Helper()
	id := ulid.Make().String()
	_, err := w.db.ExecContext(w.t.Context(), `INSERT INTO users (id, email, email_key, display_name, password_hash, plan, created_at) VALUES ($1, $2, $2, $3, '', 'free', 0)`, id, id+"@example.org", name)
	w.must(err)
	return id
}

// item makes an id and says that it exists.
func item(in map[string]bool) string {
	id := ulid.Make().String()
	in[id] = true
	return id
}

func (w *world) counted(user string, want api.LibraryCounts) {
	w.t.Helper()
	got, err := w.Counts(w.t.Context(), user)
	w.must(err)
	if d := cmp.Diff(got, want); d != "" {
		w.t.Error(d)
	}
}

func likes(t *testing.T, w *world) {
	ctx, ada, bob := t.Context(), w.user("Ada"), w.user("Bob")
	var want []string
	for range 7 {
		id := item(w.tracks)
		w.must(w.Put(ctx, ada, library.Tracks, id))
		want = append([]string{id}, want...)
	}
	w.must(w.Put(ctx, ada, library.Tracks, want[3])) // again: its place stays
	w.is(w.Put(ctx, ada, library.Tracks, ulid.Make().String()), media.ErrNotFound)
	w.is(w.Put(ctx, ada, library.Tracks, "no id \x00"), media.ErrNotFound)
	list := func(user string, limit int) (ids []string, gone []string) {
		t.Helper()
		for cursor := ""; ; {
			p, err := w.SavedTracks(ctx, user, cursor, limit)
			w.must(err)
			for _, i := range p.Items {
				if ids = append(ids, string(i.ID)); !i.Available {
					gone = append(gone, string(i.ID))
				}
			}
			if cursor = p.Next; cursor == "" {
				return ids, gone
			}
		}
	}
	for _, limit := range []int{1, 3, 7, 100} {
		if got, _ := list(ada, limit); cmp.Diff(got, want) != "" {
			t.Errorf("pages of %d: %s", limit, cmp.Diff(got, want))
		}
	}
	w.counted(ada, api.LibraryCounts{Tracks: 7})
	if got, _ := list(bob, 10); len(got) != 0 {
		t.Errorf("somebody else's likes: %v", got)
	}

	// What leaves the catalogue stays; liking it again is no error, for others it does not exist.
	w.tracks[want[2]] = false
	if got, gone := list(ada, 10); len(got) != 7 || cmp.Diff(gone, want[2:3]) != "" {
		t.Errorf("%v %v", got, gone)
	}
	w.must(w.Put(ctx, ada, library.Tracks, want[2]))
	w.is(w.Put(ctx, bob, library.Tracks, want[2]), media.ErrNotFound)

	has, err := w.Contains(ctx, ada, library.Tracks, []string{want[0], want[2], "\x00", ada})
	w.must(err)
	if d := cmp.Diff(has, map[string]bool{want[0]: true, want[2]: true, "\x00": false, ada: false}); d != "" {
		t.Error(d)
	}
	for range 2 {
		w.must(w.Delete(ctx, ada, library.Tracks, want[0]))
		w.must(w.Delete(ctx, ada, library.Tracks, "\x00"))
	}
	w.counted(ada, api.LibraryCounts{Tracks: 6})
	w.is(w.Has(ctx, ada, library.Tracks, want[0]), media.ErrNotFound)
	w.must(w.Has(ctx, ada, library.Tracks, want[1]))
	album := item(w.albums)
	w.must(w.Put(ctx, ada, library.Albums, album))
	p, err := w.SavedAlbums(ctx, ada, "", 10)
	w.must(err)
	if len(p.Items) != 1 || string(p.Items[0].ID) != album || !p.Items[0].Available || p.Items[0].Album == nil {
		t.Errorf("%+v", p)
	}
	for _, cursor := range []string{"!", "AAAA", "MSAA", strings.Repeat("a", 2000)} {
		_, err := w.SavedTracks(ctx, ada, cursor, 1)
		w.is(err, media.ErrInvalid)
	}
	_, err = w.Contains(ctx, ada, library.Tracks, make([]string, library.MaxAsked+1))
	w.is(err, media.ErrInvalid)
	w.is(w.Put(ctx, ulid.Make().String(), library.Albums, album), media.ErrNotFound) // an account that is gone
}

// counts: whatever many do at once, counters are what the lists hold.
func counts(t *testing.T, w *world) {
	ctx := t.Context()
	var people, tracks []string
	for i := range 4 {
		people = append(people, w.user(fmt.Sprint("user ", i)))
		tracks = append(tracks, item(w.tracks))
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 15 {
				me, other := people[(i+n)%4], people[(i*n+1)%4]
				var errs []error
				errs = append(errs, w.Put(ctx, me, library.Tracks, tracks[n%4]))
				if n%3 == 0 {
					errs = append(errs, w.Delete(ctx, me, library.Tracks, tracks[(n+i)%4]))
				}
				if me != other {
					if err := w.Put(ctx, me, library.Users, other); !errors.Is(err, media.ErrNotFound) { // blocked
						errs = append(errs, err)
					}
					switch n % 5 {
					case 0:
						errs = append(errs, w.Delete(ctx, me, library.Users, other))
					case 1:
						errs = append(errs, w.RemoveFollower(ctx, me, other))
					case 2:
						errs = append(errs, w.Block(ctx, me, other))
					case 3:
						errs = append(errs, w.Unblock(ctx, other, me))
					}
				}
				if err := errors.Join(errs...); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, p := range people {
		var want api.LibraryCounts
		for q, to := range map[string]*int64{`saved_tracks WHERE user_id`: &want.Tracks, `followed_users WHERE user_id`: &want.Users, `followed_users WHERE item_id`: &want.Followers} {
			w.must(w.db.QueryRowContext(ctx, `SELECT count(*) FROM `+q+` = $1`, p).Scan(to))
		}
		w.counted(p, want)
	}
	var both int // who blocks may follow the other one again: only the blocked one may not
	w.must(w.db.QueryRowContext(ctx, `SELECT count(*) FROM followed_users f JOIN blocked_users b ON b.user_id = f.item_id AND b.item_id = f.user_id`).Scan(&both))
	if both != 0 {
		t.Errorf("%d blocked people follow", both)
	}
}

func people(t *testing.T, w *world) {
	ctx, ada, bob, eve := t.Context(), w.user("Ada"), w.user("Bøb 🎵"), w.user("Eve")
	w.must(w.Put(ctx, ada, library.Users, bob))
	w.must(w.Put(ctx, ada, library.Users, bob))
	w.must(w.Put(ctx, eve, library.Users, bob))
	w.is(w.Put(ctx, ada, library.Users, ada), media.ErrInvalid)
	w.is(w.Put(ctx, ada, library.Users, ulid.Make().String()), media.ErrNotFound)
	social := func(me, id string) api.Social {
		t.Helper()
		s, err := w.Social(ctx, me, id)
		w.must(err)
		return s
	}
	if got := social(ada, bob); got != (api.Social{UserID: bob, Followers: 2, Following: true}) {
		t.Errorf("%+v", got)
	}
	page, err := w.Followers(ctx, bob, "", 1)
	w.must(err)
	if len(page.Items) != 1 || page.Items[0].DisplayName != "Eve" || page.Next == "" {
		t.Errorf("%+v", page)
	}
	page, err = w.FollowedUsers(ctx, ada, "", 10)
	w.must(err)
	if len(page.Items) != 1 || page.Items[0].DisplayName != "Bøb 🎵" {
		t.Errorf("%+v", page)
	}

	// A profile that is no longer public: followers stay, nobody new comes, numbers are its owner's.
	w.hidden[bob] = true
	w.must(w.Put(ctx, ada, library.Users, bob))
	w.is(w.Put(ctx, w.user("Zoe"), library.Users, bob), media.ErrNotFound)
	_, err = w.Social(ctx, ada, bob)
	w.is(err, media.ErrNotFound)
	if got := social(bob, bob); got.Followers != 2 {
		t.Errorf("%+v", got)
	}
	w.hidden[bob] = false

	w.must(w.RemoveFollower(ctx, bob, ada))
	w.must(w.RemoveFollower(ctx, bob, ada))
	w.counted(bob, api.LibraryCounts{Followers: 1})
	w.must(w.Put(ctx, ada, library.Users, bob))
	w.must(w.Put(ctx, bob, library.Users, ada))
	w.must(w.Block(ctx, bob, ada))
	w.must(w.Block(ctx, bob, ada))
	w.counted(bob, api.LibraryCounts{Followers: 1})
	w.counted(ada, api.LibraryCounts{})
	w.is(w.Put(ctx, ada, library.Users, bob), media.ErrNotFound)
	_, err = w.Social(ctx, ada, bob)
	w.is(err, media.ErrNotFound)
	w.is(w.Block(ctx, bob, bob), media.ErrInvalid)
	w.is(w.Block(ctx, bob, ulid.Make().String()), media.ErrNotFound)
	page, err = w.Blocked(ctx, bob, "", 10)
	w.must(err)
	if len(page.Items) != 1 || page.Items[0].ID != ada {
		t.Errorf("%+v", page)
	}
	w.must(w.Unblock(ctx, bob, ada))
	w.must(w.Put(ctx, ada, library.Users, bob))
	w.must(w.Put(ctx, bob, library.Users, eve))

	// An account that is deleted is counted out everywhere.
	w.must(w.db.Tx(ctx, func(tx *sql.Tx) error {
		if err := w.Forget(ctx, tx, bob); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM users WHERE id = $1`, bob)
		return err
	}))
	w.counted(ada, api.LibraryCounts{})
	w.counted(eve, api.LibraryCounts{})
	w.must(w.Delete(ctx, ada, library.Users, bob))
}

func releases(t *testing.T, w *world) {
	ctx, ada := t.Context(), w.user("Ada")
	artist := func(name string) string {
		id := item(w.artists)
		_, err := w.db.ExecContext(ctx, `INSERT INTO artists (id, name, name_key) VALUES ($1, $2, $2)`, id, name)
		w.must(err)
		return id
	}
	album := func(artist, date string) string {
		id := item(w.albums)
		_, err := w.db.ExecContext(ctx, `INSERT INTO albums (id, title, artist_id, date, art_version, created_at) VALUES ($1, 'x', $2, $3, '', 0)`, id, artist, date)
		w.must(err)
		return id
	}
	one, two, three := artist("one"), artist("two"), artist("three")
	a, b := album(one, "2020-05-01"), album(two, "2021")
	c, d := album(one, "2020-05-01"), album(one, "1999-01")
	today := album(two, time.Now().UTC().Format(time.DateOnly))
	album(three, "2024-01-01")                                              // nobody follows
	album(one, "")                                                          // no date
	album(one, time.Now().UTC().AddDate(0, 0, 2).Format(time.DateOnly))     // to come
	shared, removed := album(three, "2010-06-01"), album(one, "2011-01-01") // with two as a further artist
	merged := artist("merged")
	for _, q := range []struct{ sql, arg, other string }{
		{`INSERT INTO album_credits (album_id, position, artist_id, role, join_phrase) VALUES ($1, 1, $2, 'main', ' & ')`, shared, two},
		{`INSERT INTO album_credits (album_id, position, artist_id, role, join_phrase) VALUES ($1, 2, $2, 'producer', '')`, album(three, "2012-01-01"), two},
		{`UPDATE albums SET removed_at = 1 WHERE id = $1 AND artist_id = $2`, removed, one},
		{`UPDATE artists SET merged_into = $2 WHERE id = $1`, merged, one},
	} {
		_, err := w.db.ExecContext(ctx, q.sql, q.arg, q.other)
		w.must(err)
	}
	w.must(w.Put(ctx, ada, library.Artists, merged)) // by its old id, as from before the merge: nothing comes twice
	want := []string{today, b, c, a, shared, d}
	w.must(w.Put(ctx, ada, library.Artists, one))
	w.must(w.Put(ctx, ada, library.Artists, two))
	for limit := 1; limit < 7; limit++ {
		var got []string
		for cursor := ""; ; {
			p, err := w.Releases(ctx, ada, cursor, limit)
			w.must(err)
			for _, a := range p.Items {
				got = append(got, string(a.ID))
			}
			if cursor = p.Next; cursor == "" {
				break
			}
		}
		if d := cmp.Diff(got, want); d != "" {
			t.Errorf("pages of %d: %s", limit, d)
		}
	}
	page, err := w.FollowedArtists(ctx, ada, "", 10)
	w.must(err)
	if len(page.Items) != 3 || string(page.Items[0].ID) != two || page.Items[0].Artist == nil {
		t.Errorf("%+v", page)
	}
	_, err = w.Releases(ctx, ada, "!", 10)
	w.is(err, media.ErrInvalid)
}

func history(t *testing.T, w *world) {
	ctx, ada, bob := t.Context(), w.user("Ada"), w.user("Bob")
	track, album := item(w.tracks), item(w.albums)
	now := time.Now().UTC().Truncate(time.Microsecond)
	play := func(at time.Time) string {
		id := ulid.Make().String()
		w.must(w.Played(ctx, ada, id, media.TrackID(track), &api.PlayContext{Type: api.ContextAlbum, ID: album}, at))
		return id
	}
	recent := func(user string, limit int) []api.RecentPlay {
		t.Helper()
		var out []api.RecentPlay
		for cursor := ""; ; {
			p, err := w.Recent(ctx, user, cursor, limit)
			w.must(err)
			out = append(out, p.Items...)
			if cursor = p.Next; cursor == "" {
				return out
			}
		}
	}
	first := play(now.Add(-time.Hour))
	w.must(w.Played(ctx, ada, first, media.TrackID(track), nil, now)) // progress of the same play
	got := recent(ada, 10)
	if len(got) != 1 || got[0].PlayID != first || !got[0].PlayedAt.Equal(now.Add(-time.Hour)) || got[0].Context == nil || got[0].Context.ID != album || !got[0].Available {
		t.Errorf("%+v", got)
	}
	offline := play(now.Add(-48 * time.Hour)) // comes later, was earlier
	ahead := play(now.Add(9 * time.Minute))   // a clock that is ahead
	odd := ulid.Make().String()
	w.must(w.Played(ctx, ada, odd, media.TrackID(ulid.Make().String()), &api.PlayContext{Type: "moon\x00", ID: "\x00"}, now.Add(-time.Minute)))
	for _, limit := range []int{1, 2, 10} {
		var ids []string
		for _, r := range recent(ada, limit) {
			ids = append(ids, r.PlayID)
			if r.PlayID == odd && (r.Context != nil || r.Available) || r.PlayedAt.After(time.Now()) {
				t.Errorf("%+v", r)
			}
		}
		if d := cmp.Diff(ids, []string{ahead, odd, first, offline}); d != "" {
			t.Errorf("pages of %d: %s", limit, d)
		}
	}
	if len(recent(bob, 10)) != 0 {
		t.Error("somebody else's history")
	}
	w.must(w.ClearRecent(ctx, ada))
	fresh := library.New(w.db, library.Sources{Tracks: func(context.Context, ...string) ([]api.Track, error) { return nil, nil }}) // another replica: remembers nothing
	w.must(fresh.Played(ctx, ada, first, media.TrackID(track), nil, time.Now()))
	if got := recent(ada, 10); len(got) != 0 {
		t.Errorf("came back after it was cleared: %+v", got)
	}
	no, yes := false, true
	_, err := w.SetPrivacy(ctx, ada, api.PrivacyChange{KeepHistory: &no})
	w.must(err)
	for cleared := ulid.Now(); ulid.Now() == cleared; { // ids of plays count milliseconds
	}
	play(time.Now())
	if got := recent(ada, 10); len(got) != 0 {
		t.Errorf("written although it should not be: %+v", got)
	}
	_, err = w.SetPrivacy(ctx, ada, api.PrivacyChange{KeepHistory: &yes})
	w.must(err)

	// Bounded, under many at once.
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range library.MaxRecent/4 + 5 {
				if err := w.Played(ctx, ada, ulid.Make().String(), media.TrackID(track), nil, now.Add(time.Duration(-n*4-i)*time.Second)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := len(recent(ada, 200)); n != library.MaxRecent {
		t.Errorf("%d plays are kept", n)
	}
	w.must(w.Played(ctx, ulid.Make().String(), ulid.Make().String(), media.TrackID(track), nil, now)) // deleted meanwhile
}

// privacy: what one plays is seen by followers alone, and only after one said so.
func privacy(t *testing.T, w *world) {
	ctx, ada, bob, eve := t.Context(), w.user("Ada"), w.user("Bob"), w.user("Eve")
	track := item(w.tracks)
	w.playing = []library.Listening{{UserID: bob, TrackID: media.TrackID(track), At: time.Now()}, {UserID: eve, TrackID: media.TrackID(track), At: time.Now()}}
	w.must(w.Put(ctx, ada, library.Users, bob))
	sees := func(who string, want ...string) {
		t.Helper()
		got, err := w.FriendsListening(ctx, who)
		w.must(err)
		var names []string
		for _, f := range got.Items {
			names = append(names, f.DisplayName)
		}
		if d := cmp.Diff(names, want); d != "" {
			t.Error(d)
		}
	}
	share := func(who, how string) {
		t.Helper()
		p, err := w.SetPrivacy(ctx, who, api.PrivacyChange{ShareListening: &how})
		w.must(err)
		if p.ShareListening != how || !p.KeepHistory {
			t.Errorf("%+v", p)
		}
	}
	if p, err := w.Privacy(ctx, bob); err != nil || p != (api.Privacy{ShareListening: api.ShareNobody, KeepHistory: true}) {
		t.Errorf("%+v %v", p, err)
	}
	sees(ada) // Bob said nothing
	share(bob, api.ShareFollowers)
	share(eve, api.ShareFollowers)
	sees(ada, "Bob") // Eve is not followed
	sees(eve)        // follows nobody
	sees(bob)        // nor does Bob, who is followed
	share(bob, api.ShareNobody)
	sees(ada)
	share(bob, api.ShareFollowers)
	w.must(w.RemoveFollower(ctx, bob, ada))
	sees(ada)
	w.must(w.Put(ctx, ada, library.Users, bob))
	w.tracks[track] = false // left the catalogue
	sees(ada)
	w.tracks[track] = true
	sees(ada, "Bob")
	w.must(w.Block(ctx, bob, ada))
	sees(ada)
}

func export(t *testing.T, w *world) {
	ctx, ada, bob := t.Context(), w.user("Ada"), w.user("Bob")
	track := item(w.tracks)
	w.must(w.Put(ctx, ada, library.Tracks, track))
	w.must(w.Put(ctx, bob, library.Users, ada))
	w.must(w.Put(ctx, ada, library.Users, bob))
	play := ulid.Make().String()
	w.must(w.Played(ctx, ada, play, media.TrackID(track), nil, time.Now()))
	v, err := w.Export(ctx, ada)
	w.must(err)
	b, err := json.Marshal(v)
	w.must(err)
	for _, want := range []string{`"tracks":[{"id":"` + track, `"followed_users":[{"id":"` + bob, `"play_id":"` + play, `"albums":[]`, `"share_listening":"nobody"`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%s lacks %s", b, want)
		}
	}
}
