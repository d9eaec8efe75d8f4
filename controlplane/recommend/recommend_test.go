package recommend_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/catalog"
	"segue/controlplane/recommend"
	"segue/controlplane/recommend/model"
	"segue/controlplane/store"
	"segue/internal/testenv"
	"segue/media"

	"github.com/oklog/ulid/v2"
)

// world is a service on a real database with a catalogue of two kinds of music, and play logs in memory.
type world struct {
	*recommend.Service
	t     testing.TB
	db    *store.DB
	dir   string
	users map[string]string // email -> id
	rock  []string          // tracks: 10 artists with 6 each
	jazz  []string
	logs  []model.Play
	fails error
	asked []time.Time // since of each reading of the logs
}

func databases(t *testing.T, f func(t *testing.T, w *world)) {
	t.Run("SQLite", func(t *testing.T) { f(t, newWorld(t, "sqlite:"+filepath.Join(t.TempDir(), "db"))) })
	t.Run("PostgreSQL", func(t *testing.T) { f(t, newWorld(t, testenv.Postgres(t))) })
}

func newWorld(t testing.TB, dsn string) *world {
	t.Helper()
	db, err := store.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	w := &world{t: t, db: db, dir: t.TempDir(), users: map[string]string{}}
	for _, kind := range []string{"rock", "jazz"} {
		w.exec(`INSERT INTO genres (id, name, track_count) VALUES ($1, $2, 60)`, kind, strings.ToUpper(kind[:1])+kind[1:])
		for a := range 10 {
			artist, album := ulid.Make().String(), ulid.Make().String()
			w.exec(`INSERT INTO artists (id, name, name_key) VALUES ($1, $2, $3)`, artist, fmt.Sprintf("%s artist %d", kind, a), artist)
			w.exec(`INSERT INTO albums (id, title, artist_id, date, art_version, created_at) VALUES ($1, 'Album', $2, '2020', '', 0)`, album, artist)
			for n := range 6 {
				old := ulid.MustNew(ulid.Timestamp(time.Now().AddDate(-1, 0, 0)), ulid.DefaultEntropy()).String()
				w.track(old, artist, album, fmt.Sprintf("%s %d-%d", kind, a, n), kind)
				if kind == "rock" {
					w.rock = append(w.rock, old)
				} else {
					w.jazz = append(w.jazz, old)
				}
			}
		}
	}
	w.open()
	return w
}

func (w *world) open() {
	w.Service = recommend.New(w.db, recommend.Config{Dir: w.dir, Model: model.Config{Dim: 16, Sweeps: 6}}, recommend.Sources{
		Tracks: catalog.New(w.db, nil).TracksByID,
		Releases: func(context.Context, string, string, int) (api.Page[api.Album], error) {
			return api.Page[api.Album]{}, nil
		},
		Person: func(ctx context.Context, id string) (country string, plan api.Plan, err error) {
			err = w.db.QueryRowContext(ctx, `SELECT country, plan FROM users WHERE id = $1`, id).Scan(&country, &plan)
			return country, plan, err
		},
		Plays: func(_ context.Context, since, _ time.Time, add func(model.Play)) error {
			w.asked = append(w.asked, since)
			for _, p := range w.logs {
				if !p.Last.Before(since) {
					add(p)
				}
			}
			return w.fails
		},
		Pseudonyms: func(_ context.Context, ids []string) ([]string, error) {
			var out []string
			for _, id := range ids {
				out = append(out, "key of "+id)
			}
			return out, nil
		},
	}, slog.New(slog.DiscardHandler))
}

func (w *world) exec(text string, args ...any) {
	w.t.Helper()
	if _, err := w.db.ExecContext(context.Background(), text, args...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) track(id, artist, album, title, genre string) {
	w.t.Helper()
	w.exec(`INSERT INTO tracks (id, album_id, artist_id, title, version, duration_ms, disc_number, track_number, date, genres, renditions, loudness, created_at, updated_at, popularity)
		VALUES ($1, $2, $3, $4, 'v', 200000, 1, 1, '2020', $5, '[]', '{}', 0, 0, 0)`, id, album, artist, title, `["`+genre+`"]`)
	w.exec(`INSERT INTO track_genres (track_id, genre_id, popularity) VALUES ($1, $2, 0)`, id, genre)
}

func (w *world) user(name, country string) string {
	w.t.Helper()
	id := ulid.Make().String()
	w.exec(`INSERT INTO users (id, email, email_key, display_name, password_hash, plan, created_at, country) VALUES ($1, $2, $2, $2, '', 'free', 0, $3)`, id, name, country)
	w.users[name] = id
	return id
}

// play grants a play and reports its end.
func (w *world) play(user, track string, seconds int64, ago time.Duration) string {
	w.t.Helper()
	play := ulid.Make().String()
	w.exec(`INSERT INTO playbacks (play_id, user_id, device_id, track_id, version, plan, edge, licence_id, created_at, expires_at) VALUES ($1, $2, '', $3, 'v', 'free', '', '', 0, 0)`, play, user, track)
	e := api.Event{ID: ulid.Make().String(), PlayID: play, Type: api.EventEnd, At: time.Now().Add(-ago), PlayedMS: seconds * 1000}
	if err := w.Heard(w.t.Context(), user, []api.Event{e}); err != nil {
		w.t.Fatal(err)
	}
	return play
}

// fill writes logs: listeners of rock and of jazz, the former in DE, the latter in US.
func (w *world) fill() {
	rng := rand.New(rand.NewPCG(1, 1))
	for u := range 120 {
		tracks, country := w.rock, "DE"
		if u%2 == 1 {
			tracks, country = w.jazz, "US"
		}
		for range 25 {
			i := int(rng.ExpFloat64()*20) % len(tracks)
			w.logs = append(w.logs, model.Play{User: fmt.Sprintf("u%d", u), Track: tracks[i], Country: country, Plan: "free", Heard: 1, Last: time.Now().Add(-time.Duration(rng.IntN(60*24)+1) * time.Hour)})
		}
	}
}

func (w *world) home(user string) map[string]api.Shelf {
	w.t.Helper()
	h, err := w.Home(w.t.Context(), user)
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[string]api.Shelf{}
	seen := map[media.TrackID]bool{}
	for _, s := range h.Shelves {
		if _, twice := out[s.ID]; !twice {
			out[s.ID] = s
		}
		artists := map[media.ArtistID]int{}
		for _, r := range s.Tracks {
			if seen[r.Track.ID] {
				w.t.Errorf("%s is on two shelves", r.Track.Title)
			}
			seen[r.Track.ID] = true
			if artists[r.Track.Artists[0].ID]++; artists[r.Track.Artists[0].ID] > 3 {
				w.t.Errorf("shelf %s is full of %s", s.ID, r.Track.Artists[0].Name)
			}
			if r.Reason.Type == "" || r.Reason.Text == "" {
				w.t.Errorf("%s on %s has no reason", r.Track.Title, s.ID)
			}
		}
	}
	return out
}

func kinds(list []api.Recommended) (rock, jazz int) {
	for _, r := range list {
		if strings.HasPrefix(r.Track.Title, "rock") {
			rock++
		} else {
			jazz++
		}
	}
	return rock, jazz
}

// TestHome goes the way of a listener: nothing is known, then of all, then of them, then they want none of it.
func TestHome(t *testing.T) {
	databases(t, func(t *testing.T, w *world) {
		ada := w.user("ada", "DE")
		shelves := w.home(ada)
		if s := shelves[api.ShelfPopular]; len(s.Tracks) != 20 || s.Reason.Country != "" {
			t.Errorf("with no model, popularity stands in: %+v", s)
		}
		if err := w.Train(t.Context(), false); !errors.Is(err, model.ErrTooLittle) {
			t.Errorf("%v, want that there is too little", err)
		}
		w.fill()
		if err := w.Train(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		shelves = w.home(ada)
		if s := shelves[api.ShelfPopular]; len(s.Tracks) < 15 || s.Reason.Country != "DE" {
			t.Errorf("popular in DE: %+v", s)
		} else if rock, jazz := kinds(s.Tracks); jazz > 0 {
			t.Errorf("popular in DE is rock, got %d and %d of jazz", rock, jazz)
		}
		if _, ok := shelves[api.ShelfMadeForYou]; ok {
			t.Error("nothing is known of her, and something is made for her")
		}
		// A genre is chosen.
		if _, err := w.SetTaste(t.Context(), ada, api.TasteChange{Genres: &[]string{"polka"}}); !errors.Is(err, media.ErrInvalid) {
			t.Errorf("%v", err)
		}
		if _, err := w.SetTaste(t.Context(), ada, api.TasteChange{Genres: &[]string{"jazz"}}); err != nil {
			t.Fatal(err)
		}
		if s := w.home(ada)[api.ShelfGenre]; len(s.Tracks) == 0 || s.Title != "Jazz" {
			t.Errorf("%+v", s)
		}
		// She plays jazz: the next answer knows. What she has heard just now rests; what she skipped too.
		for i := range 12 {
			w.play(ada, w.jazz[i*3], 200, time.Duration(i)*time.Minute)
		}
		skipped := w.jazz[1]
		w.play(ada, skipped, 5, 0)
		shelves = w.home(ada)
		mine := shelves[api.ShelfMadeForYou].Tracks
		if rock, jazz := kinds(mine); jazz < 6 || rock > jazz/2 {
			t.Errorf("made for her: %d rock, %d jazz", rock, jazz)
		}
		for _, r := range mine {
			if string(r.Track.ID) == skipped || slices.Contains([]string{w.jazz[0], w.jazz[3], w.jazz[6]}, string(r.Track.ID)) {
				t.Errorf("%s was heard or skipped a moment ago", r.Track.Title)
			}
		}
		if s := shelves[api.ShelfBecause]; len(s.Tracks) == 0 || !strings.HasPrefix(s.Title, "Because you listened to jazz") {
			t.Errorf("%+v", s)
		}
		mixes, err := w.Mixes(t.Context(), ada)
		if err != nil || len(mixes.Items) == 0 || len(mixes.Items[0].Tracks) < 8 || len(shelves[api.ShelfMixes].Mixes) != len(mixes.Items) {
			t.Errorf("%+v %v", mixes, err)
		}
		again, err := w.Mixes(t.Context(), ada)
		if a, b := marshal(again), marshal(mixes); err != nil || a != b {
			t.Errorf("mixes of a week change: %v\n%s\n%s", err, a, b)
		}

		// A new track of an artist she hears gets a place, though nobody has heard it.
		var artist, album string
		if err := w.db.QueryRowContext(t.Context(), `SELECT artist_id, album_id FROM tracks WHERE id = $1`, w.jazz[0]).Scan(&artist, &album); err != nil {
			t.Fatal(err)
		}
		w.open() // what is kept for a minute would hide it
		fresh := ulid.Make().String()
		w.track(fresh, artist, album, "jazz new", "jazz")
		found := false
		for _, r := range w.home(ada)[api.ShelfMadeForYou].Tracks {
			if string(r.Track.ID) == fresh {
				found = r.Reason.Type == api.ReasonArtist
			}
		}
		if !found {
			t.Error("the new track of an artist whom she hears is not made for her")
		}

		// Export, opt-out.
		x, err := w.Export(t.Context(), ada)
		if err != nil || !strings.Contains(marshal(x), skipped) {
			t.Errorf("%v %s", err, marshal(x))
		}
		off := false
		if _, err := w.SetTaste(t.Context(), ada, api.TasteChange{Personalised: &off}); err != nil {
			t.Fatal(err)
		}
		w.play(ada, w.jazz[2], 200, 0)
		var n int
		if err := w.db.QueryRowContext(t.Context(), `SELECT (SELECT count(*) FROM recommend_signals) + (SELECT count(*) FROM recommend_mixes)`).Scan(&n); err != nil || n != 0 {
			t.Errorf("%d rows are kept of her who wants none: %v", n, err)
		}
		h, err := w.Home(t.Context(), ada)
		if err != nil || h.Personalised {
			t.Errorf("%+v %v", h, err)
		}
		for _, s := range h.Shelves {
			if s.ID != api.ShelfPopular && s.ID != api.ShelfNew {
				t.Errorf("shelf %s for her who wants no personalisation", s.ID)
			}
		}
		// Somebody else's play says nothing of one's taste.
		bob := w.user("bob", "")
		play := w.play(bob, w.rock[0], 200, 0)
		eve := w.user("eve", "")
		if err := w.Heard(t.Context(), eve, []api.Event{{PlayID: play, Type: api.EventEnd, At: time.Now(), PlayedMS: 100_000}}); err != nil {
			t.Fatal(err)
		}
		if _, ok := w.home(eve)[api.ShelfMadeForYou]; ok {
			t.Error("Eve's taste comes from Bob's play")
		}
		w.exec(`DELETE FROM users WHERE id = $1`, bob)
		if err := w.Heard(t.Context(), bob, []api.Event{{PlayID: ulid.Make().String(), Type: api.EventEnd, At: time.Now()}}); err != nil {
			t.Errorf("events of who was deleted: %v", err)
		}
	})
}

func marshal(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// TestRadio: it is of its seed, goes on without repeating, and takes a skip at once.
func TestRadio(t *testing.T) {
	databases(t, func(t *testing.T, w *world) {
		w.fill()
		if err := w.Train(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		ada := w.user("ada", "US")
		var had []string
		for page := range 3 {
			r, err := w.Radio(t.Context(), ada, w.rock[0], had, 10)
			if err != nil || len(r.Tracks) != 10 {
				t.Fatalf("page %d: %d tracks, %v", page, len(r.Tracks), err)
			}
			for i, x := range r.Tracks {
				if slices.Contains(had, string(x.Track.ID)) {
					t.Errorf("%s comes again", x.Track.Title)
				}
				had = append(had, string(x.Track.ID))
				if i > 0 && r.Tracks[i-1].Track.Artists[0].ID == x.Track.Artists[0].ID && page == 0 {
					t.Errorf("%s twice in a row", x.Track.Artists[0].Name)
				}
			}
			if rock, jazz := kinds(r.Tracks); jazz > 2 {
				t.Errorf("page %d of a radio of rock: %d rock, %d jazz", page, rock, jazz)
			}
		}
		first, err := w.Radio(t.Context(), ada, w.rock[0], nil, 10)
		if err != nil {
			t.Fatal(err)
		}
		w.play(ada, string(first.Tracks[0].Track.ID), 3, 0)
		next, err := w.Radio(t.Context(), ada, w.rock[0], nil, 10)
		if err != nil || next.Tracks[0].Track.ID == first.Tracks[0].Track.ID {
			t.Errorf("skipped, and there again: %v", err)
		}
		var artist string
		if err := w.db.QueryRowContext(t.Context(), `SELECT artist_id FROM tracks WHERE id = $1`, w.jazz[0]).Scan(&artist); err != nil {
			t.Fatal(err)
		}
		if r, err := w.Radio(t.Context(), ada, artist, nil, 10); err != nil || len(r.Tracks) != 10 {
			t.Errorf("radio of an artist: %d, %v", len(r.Tracks), err)
		}
		if _, err := w.Radio(t.Context(), ada, ulid.Make().String(), nil, 10); !errors.Is(err, media.ErrNotFound) {
			t.Errorf("%v", err)
		}
		// A track that nobody heard: its artist and genre speak for it.
		s, err := w.Similar(t.Context(), ada, w.jazz[59], 10)
		if err != nil || len(s.Tracks) < 5 {
			t.Errorf("%d, %v", len(s.Tracks), err)
		}
		if rock, jazz := kinds(s.Tracks); rock > jazz {
			t.Errorf("similar to jazz: %d rock, %d jazz", rock, jazz)
		}
	})
}

// TestTraining: it goes on from the last one, is swapped whole or not at all, forgets who left, and survives a bad file.
func TestTraining(t *testing.T) {
	w := newWorld(t, "sqlite:"+filepath.Join(t.TempDir(), "db"))
	w.fill()
	w.logs = append(w.logs, model.Play{User: "key of nobody", Track: w.rock[0], Heard: 1, Last: time.Now()})
	if err := w.Train(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	first := w.Model()
	if first.Users != 121 || first.Recall < first.PopularRecall {
		t.Errorf("%+v", first)
	}
	if err := w.Train(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if since := w.asked[len(w.asked)-1]; !since.Equal(*first.Until) {
		t.Errorf("it reads plays since %v, wants since the last one, %v", since, first.Until)
	}
	if m := w.Model(); !m.Full.Equal(*first.Full) || m.Users != 121 || m.Runs != 2 {
		t.Errorf("%+v", m)
	}
	// ClickHouse away: the old one serves.
	w.fails = errors.New("connection refused")
	if err := w.Train(t.Context(), true); err == nil || w.Model().Made == nil || w.Model().Error == "" {
		t.Errorf("%v %+v", err, w.Model())
	}
	w.fails = nil
	// Far fewer tracks than before: not sane.
	kept := w.logs
	w.logs = slices.DeleteFunc(slices.Clone(kept), func(p model.Play) bool { return !slices.Contains(w.rock[:3], p.Track) })
	if err := w.Train(t.Context(), true); !errors.Is(err, recommend.ErrWorse) || w.Model().Tracks != first.Tracks {
		t.Errorf("%v %+v", err, w.Model())
	}
	w.logs = kept
	// Somebody leaves: all is learnt anew, without them.
	id := w.user("leaver", "")
	w.logs = append(w.logs, model.Play{User: "key of " + id, Track: w.rock[1], Heard: 1, Last: time.Now()})
	off := false
	if _, err := w.SetTaste(t.Context(), id, api.TasteChange{Personalised: &off}); err != nil {
		t.Fatal(err)
	}
	if err := w.Train(t.Context(), false); err != nil || w.Model().Users != 121 || !w.Model().Full.After(*first.Full) {
		t.Errorf("%v %+v", err, w.Model())
	}
	// A restart reads the file; a torn one is left behind.
	w.open()
	if w.Model().Made == nil {
		t.Error("the model is gone after a restart")
	}
	path := filepath.Join(w.dir, "model")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	w.open()
	if w.Model().Made != nil {
		t.Error("a torn model is served")
	}
	if err := w.Train(t.Context(), false); err != nil || w.Model().Made == nil {
		t.Errorf("%v", err)
	}
}
