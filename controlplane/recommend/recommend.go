package recommend

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/recommend/model"
	"segue/controlplane/store"
	"segue/media"
)

// Sources is what is asked of other services.
type Sources struct {
	Tracks   func(ctx context.Context, ids ...string) ([]api.Track, error) // those that there are, in any order
	Releases func(ctx context.Context, userID, cursor string, limit int) (api.Page[api.Album], error)
	Person   func(ctx context.Context, userID string) (country string, plan api.Plan, err error)
	// Plays calls add for the plays that began from since on and before until, added up by listener and track. Nil: there are
	// no play logs.
	Plays func(ctx context.Context, since, until time.Time, add func(model.Play)) error
	// Pseudonyms are the names of listeners in Plays.
	Pseudonyms func(ctx context.Context, userIDs []string) ([]string, error)
}

// Config is how to train and what to serve. A zero field is its default.
type Config struct {
	Dir    string        // of the model and of what the next training goes on from
	Every  time.Duration // between trainings that go on: an hour
	Full   time.Duration // between trainings from all plays: a day
	Limits model.Limits
	Model  model.Config
}

// Service is safe for concurrent use.
type Service struct {
	db    *store.DB
	cfg   Config
	ask   Sources
	log   *slog.Logger
	model atomic.Pointer[model.Model] // nil: none yet
	noted noted
	kept  kept

	order   chan bool  // trainings that somebody wants: from all plays or not
	turn    sync.Mutex // one training at a time
	mu      sync.Mutex // guards the fields below
	running bool
	runs    int
	lastErr string
}

// New wires the service and reads the model of an earlier run; one that cannot be read is left behind.
func New(db *store.DB, cfg Config, ask Sources, log *slog.Logger) *Service {
	cfg.Every, cfg.Full = cmp.Or(cfg.Every, time.Hour), cmp.Or(cfg.Full, 24*time.Hour)
	s := &Service{db: db, cfg: cfg, ask: ask, log: log, order: make(chan bool, 1)}
	if m, err := model.Load(s.path("model")); err == nil {
		s.model.Store(m)
	} else if errors.Is(err, media.ErrCorrupt) {
		log.Warn("the model of recommendations is made anew", "err", err)
	}
	return s
}

func (s *Service) path(name string) string { return filepath.Join(s.cfg.Dir, name) }

// SetModel makes m the one that serves.
func (s *Service) SetModel(m *model.Model) { s.model.Store(m) }

const (
	maxSignals = 500 // plays kept of one listener
	maxSaved   = 200 // liked tracks looked at
	maxGenres  = 20
)

// lock makes and locks a person's row. Errors: media.ErrNotFound for an account that is gone.
func lock(ctx context.Context, tx *sql.Tx, userID string) (personalised bool, err error) {
	var on int64
	err = tx.QueryRowContext(ctx, `INSERT INTO recommend_people (user_id) SELECT id FROM users WHERE id = $1 ON CONFLICT (user_id) DO UPDATE SET user_id = excluded.user_id
		RETURNING personalised`, userID).Scan(&on)
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("user %s: %w", userID, media.ErrNotFound)
	}
	return on != 0, err
}

// Taste returns what a person says about recommendations.
func (s *Service) Taste(ctx context.Context, userID string) (api.Taste, error) {
	t := api.Taste{Personalised: true, Genres: []string{}}
	var on int64
	var genres string
	err := s.db.QueryRowContext(ctx, `SELECT personalised, genres FROM recommend_people WHERE user_id = $1`, userID).Scan(&on, &genres)
	if errors.Is(err, sql.ErrNoRows) {
		return t, nil
	} else if err != nil {
		return t, err
	}
	t.Personalised = on != 0
	if err := json.Unmarshal([]byte(genres), &t.Genres); err != nil {
		return t, fmt.Errorf("genres of user %s: %w: %w", userID, media.ErrCorrupt, err)
	}
	return t, nil
}

// SetTaste changes it. Who turns personalisation off loses what was kept; the next training is without them. Errors:
// media.ErrInvalid for a genre that there is not.
func (s *Service) SetTaste(ctx context.Context, userID string, c api.TasteChange) (api.Taste, error) {
	var genres *string
	if c.Genres != nil {
		list := slices.Clone(*c.Genres)
		slices.Sort(list)
		if list = slices.Compact(list); list == nil {
			list = []string{}
		}
		if len(list) > maxGenres {
			return api.Taste{}, fmt.Errorf("genres: want at most %d: %w", maxGenres, media.ErrInvalid)
		}
		for _, g := range list {
			var n int
			if strings.ContainsRune(g, 0) || len(g) > 500 {
				return api.Taste{}, fmt.Errorf("genres: there is no %q: %w", g, media.ErrInvalid)
			}
			if err := s.db.QueryRowContext(ctx, `SELECT count(*) FROM genres WHERE id = $1`, g).Scan(&n); err != nil {
				return api.Taste{}, err
			} else if n == 0 {
				return api.Taste{}, fmt.Errorf("genres: there is no %q: %w", g, media.ErrInvalid)
			}
		}
		b, err := json.Marshal(list)
		if err != nil {
			return api.Taste{}, fmt.Errorf("bug: %w", err)
		}
		text := string(b)
		genres = &text
	}
	var on *int64
	if c.Personalised != nil {
		on = new(int64)
		if *c.Personalised {
			*on = 1
		}
	}
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		if _, err := lock(ctx, tx, userID); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE recommend_people SET personalised = COALESCE($2, personalised), genres = COALESCE($3, genres), changed_at = $4 WHERE user_id = $1`,
			userID, on, genres, store.Micros(time.Now())); err != nil {
			return err
		}
		if on == nil || *on != 0 {
			return nil
		}
		for _, table := range []string{"recommend_signals", "recommend_mixes"} {
			if _, err := tx.ExecContext(ctx, `DELETE FROM `+table+` WHERE user_id = $1`, userID); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return api.Taste{}, err
	}
	s.noted.forget(userID)
	return s.Taste(ctx, userID)
}

// noted remembers plays whose fate was written, so that a report every half minute costs nothing.
type noted struct {
	mu    sync.Mutex        // guards plays
	plays map[string]string // play -> user
}

const maxNoted = 20_000

func (n *noted) has(playID string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, ok := n.plays[playID]
	return ok
}

func (n *noted) add(playID, userID string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.plays == nil || len(n.plays) >= maxNoted {
		n.plays = map[string]string{}
	}
	n.plays[playID] = userID
}

func (n *noted) forget(userID string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	maps.DeleteFunc(n.plays, func(_, user string) bool { return user == userID })
}

// A play counts from here; left earlier, and before the half, it was skipped.
const countsFrom = 30 * time.Second

// Heard takes what a listener's player reported, after it was taken into the log; what is not theirs is passed over.
// Events that say nothing new cost nothing.
func (s *Service) Heard(ctx context.Context, userID string, events []api.Event) error {
	fates := map[string]api.Event{}
	for _, e := range events {
		played := time.Duration(e.PlayedMS) * time.Millisecond
		if !media.ValidID(e.PlayID) || e.Type != api.EventEnd && (e.Type != api.EventProgress || played < countsFrom) || s.noted.has(e.PlayID) {
			continue
		}
		if have, ok := fates[e.PlayID]; !ok || e.PlayedMS > have.PlayedMS {
			fates[e.PlayID] = e
		}
	}
	for _, id := range slices.Sorted(maps.Keys(fates)) {
		if err := s.note(ctx, userID, fates[id]); err != nil && !errors.Is(err, media.ErrNotFound) {
			return err
		}
	}
	return nil
}

func (s *Service) note(ctx context.Context, userID string, e api.Event) error {
	at := e.At
	if now := time.Now(); at.After(now) {
		at = now
	}
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		on, err := lock(ctx, tx, userID)
		if err != nil || !on {
			return err
		}
		var track string
		var length int64
		err = tx.QueryRowContext(ctx, `SELECT t.id, t.duration_ms FROM playbacks p JOIN tracks t ON t.id = p.track_id WHERE p.play_id = $1 AND p.user_id = $2
			AND NOT EXISTS (SELECT 1 FROM listeners l WHERE l.user_id = $2 AND l.keep_history = 0)`, e.PlayID, userID).Scan(&track, &length)
		if errors.Is(err, sql.ErrNoRows) {
			return nil // somebody else's, or of a track that is gone; or they want no history
		} else if err != nil {
			return err
		}
		heard := int64(0)
		if played := e.PlayedMS; played >= countsFrom.Milliseconds() || 2*played >= length {
			heard = 1
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO recommend_signals (user_id, play_id, track_id, heard, at) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (user_id, play_id) DO UPDATE SET heard = CASE WHEN recommend_signals.heard > excluded.heard THEN recommend_signals.heard ELSE excluded.heard END`,
			userID, e.PlayID, track, heard, store.Micros(at)); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM recommend_signals WHERE user_id = $1 AND (at, play_id) < (SELECT at, play_id FROM recommend_signals WHERE user_id = $1
			ORDER BY at DESC, play_id DESC LIMIT 1 OFFSET $2)`, userID, maxSignals-1)
		return err
	})
	if err == nil {
		s.noted.add(e.PlayID, userID)
	}
	return err
}

// listener is what is known of a person.
type listener struct {
	api.Taste
	id      string
	country string
	plan    api.Plan
	tracks  map[string]*fate // heard, skipped, liked
	latest  []string         // tracks heard, latest first
}

// fate is what a person did with one track.
type fate struct {
	heard, skipped int
	liked          bool
	heardAt        time.Time
	skippedAt      time.Time
}

// weight is how much it says: above 0 for, below against.
func (f *fate) weight() float32 {
	w := float32(f.heard) - float32(f.skipped)/2
	if f.liked {
		w += 3
	}
	if f.heard == 0 && !f.liked {
		w = -float32(min(f.skipped, 3))
	}
	if w == 0 {
		w = 0.25
	}
	return w
}

func (f *fate) last() time.Time {
	if f.skippedAt.After(f.heardAt) {
		return f.skippedAt
	}
	return f.heardAt
}

func (s *Service) listener(ctx context.Context, userID string) (*listener, error) {
	l := &listener{id: userID, tracks: map[string]*fate{}}
	var err error
	if l.Taste, err = s.Taste(ctx, userID); err != nil {
		return nil, err
	}
	if l.country, l.plan, err = s.ask.Person(ctx, userID); err != nil {
		return nil, err
	}
	if !l.Personalised {
		l.Genres = nil
		return l, nil
	}
	of := func(id string) *fate {
		f := l.tracks[id]
		if f == nil {
			f = &fate{}
			l.tracks[id] = f
		}
		return f
	}
	err = s.rows(ctx, `SELECT track_id, heard, at FROM recommend_signals WHERE user_id = $1 AND at > COALESCE((SELECT cleared_at FROM listeners WHERE user_id = $1), 0)
		ORDER BY at DESC, play_id DESC LIMIT $2`, []any{userID, maxSignals}, func(scan func(...any) error) error {
		var id string
		var heard, at int64
		if err := scan(&id, &heard, &at); err != nil {
			return err
		}
		f := of(id)
		if heard == 0 {
			if f.skipped++; f.skippedAt.IsZero() {
				f.skippedAt = store.Time(at)
			}
			return nil
		}
		if f.heard == 0 {
			l.latest = append(l.latest, id)
			f.heardAt = store.Time(at)
		}
		f.heard++
		return nil
	})
	if err != nil {
		return nil, err
	}
	return l, s.rows(ctx, `SELECT item_id, added_at FROM saved_tracks WHERE user_id = $1 ORDER BY added_at DESC, item_id DESC LIMIT $2`, []any{userID, maxSaved}, func(scan func(...any) error) error {
		var id string
		var at int64
		if err := scan(&id, &at); err != nil {
			return err
		}
		f := of(id)
		if f.liked = true; f.heardAt.IsZero() {
			f.heardAt = store.Time(at)
		}
		return nil
	})
}

// heard is what the model is asked with.
func (l *listener) heard(m *model.Model, now time.Time) []model.Heard {
	var out []model.Heard
	for id, f := range l.tracks {
		if n := m.Find(id); n >= 0 {
			out = append(out, model.Heard{Item: n, Weight: f.weight(), Ago: max(0, now.Sub(f.last()))})
		}
	}
	slices.SortFunc(out, func(a, b model.Heard) int { return cmp.Compare(a.Item, b.Item) }) // sums in one order are the same sums
	return out
}

const (
	restFor    = 14 * 24 * time.Hour // what was heard is held back for so long from what is to be discovered
	skippedFor = 60 * 24 * time.Hour
)

// rests reports whether a track is held back.
func (l *listener) rests(id string, now time.Time, heardFor time.Duration) bool {
	f := l.tracks[id]
	return f != nil && (f.heard > 0 && now.Sub(f.heardAt) < heardFor || !f.skippedAt.IsZero() && f.skippedAt.After(f.heardAt) && now.Sub(f.skippedAt) < skippedFor)
}

// positive is how many tracks speak for what they like.
func (l *listener) positive() int {
	n := 0
	for _, f := range l.tracks {
		if f.weight() > 0 {
			n++
		}
	}
	return n
}

func (s *Service) rows(ctx context.Context, text string, args []any, row func(scan func(...any) error) error) error {
	rows, err := s.db.QueryContext(ctx, text, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// ids reads one column of texts.
func (s *Service) ids(ctx context.Context, text string, args ...any) (out []string, err error) {
	err = s.rows(ctx, text, args, func(scan func(...any) error) error {
		var id string
		err := scan(&id)
		out = append(out, id)
		return err
	})
	return out, err
}

// marks writes ($from, …).
func marks(from int, ids []string) (string, []any) {
	var b strings.Builder
	args := make([]any, len(ids))
	for i, id := range ids {
		b.WriteString(map[bool]string{true: "($", false: ", $"}[i == 0])
		b.WriteString(strconv.Itoa(from + i))
		args[i] = id
	}
	return b.String() + ")", args
}

// export is all that is kept of a person.
type export struct {
	Taste   api.Taste        `json:"taste"`
	Signals []exportedSignal `json:"signals"`
	Mixes   []exportedMix    `json:"mixes"`
}

type exportedSignal struct {
	PlayID  string    `json:"play_id"`
	TrackID string    `json:"track_id"`
	Heard   bool      `json:"heard"` // false: skipped
	At      time.Time `json:"at"`
}

type exportedMix struct {
	Week   string          `json:"week"`
	Number int             `json:"number"`
	Name   string          `json:"name"`
	Tracks json.RawMessage `json:"tracks"`
}

// Export returns it.
func (s *Service) Export(ctx context.Context, userID string) (any, error) {
	out := export{Signals: []exportedSignal{}, Mixes: []exportedMix{}}
	var err error
	if out.Taste, err = s.Taste(ctx, userID); err != nil {
		return nil, err
	}
	err = s.rows(ctx, `SELECT play_id, track_id, heard, at FROM recommend_signals WHERE user_id = $1 ORDER BY at DESC, play_id DESC`, []any{userID}, func(scan func(...any) error) error {
		var x exportedSignal
		var heard, at int64
		err := scan(&x.PlayID, &x.TrackID, &heard, &at)
		x.Heard, x.At = heard != 0, store.Time(at)
		out.Signals = append(out.Signals, x)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, s.rows(ctx, `SELECT week, number, name, tracks FROM recommend_mixes WHERE user_id = $1 ORDER BY week, number`, []any{userID}, func(scan func(...any) error) error {
		var x exportedMix
		var tracks string
		err := scan(&x.Week, &x.Number, &x.Name, &tracks)
		x.Tracks = json.RawMessage(tracks)
		out.Mixes = append(out.Mixes, x)
		return err
	})
}
