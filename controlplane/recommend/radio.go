package recommend

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/recommend/model"
	"segue/controlplane/store"
	"segue/media"

	"github.com/oklog/ulid/v2"
)

// madeAt is the time in an id.
func madeAt(id string) (time.Time, bool) {
	u, err := ulid.ParseStrict(id)
	if err != nil {
		return time.Time{}, false
	}
	return ulid.Time(u.Time()), true
}

func genreNames(column string) []string {
	var out []string
	if len(column) > 2 {
		_ = json.Unmarshal([]byte(column), &out) // catalog reads it and says when it is wrong
	}
	return out
}

// MaxExclude bounds what a radio is told not to play.
const MaxExclude = 500

// Radio is what comes next in a radio that began with a track or an artist: what goes with it, in the order of what the
// person likes. exclude is what they have of it already. What they skip in the meantime counts at once. Errors:
// media.ErrNotFound.
func (s *Service) Radio(ctx context.Context, userID, id string, exclude []string, n int) (api.Radio, error) {
	if len(exclude) > MaxExclude {
		return api.Radio{}, fmt.Errorf("exclude: want at most %d ids: %w", MaxExclude, media.ErrInvalid)
	}
	l, err := s.listener(ctx, userID)
	if err != nil {
		return api.Radio{}, err
	}
	seeds, err := s.seeds(ctx, id)
	if err != nil {
		return api.Radio{}, err
	}
	m, now := s.model.Load(), time.Now()
	out := map[string]bool{}
	for _, x := range exclude {
		out[x] = true
	}
	leave := func(id string) bool { return out[id] || l.rests(id, now, weekOff) }
	var list []wanted
	if m != nil {
		var numbers []int
		for _, seed := range seeds {
			if i := m.Find(seed); i >= 0 {
				numbers = append(numbers, i)
			}
		}
		if len(numbers) > 0 {
			ranked := m.Rank(model.Ask{Heard: l.heard(m, now), Seeds: numbers, N: 10 * n, Leave: func(i int) bool { return leave(m.ID(i)) || slices.Contains(numbers, i) }})
			for _, x := range m.Diverse(ranked, model.Rules{N: 2 * n, PerGroup: max(3, n/5), Spread: 0.2, Apart: true}, nil) {
				w := wanted{id: m.ID(x.Item), reason: api.Reason{Type: api.ReasonTaste, Text: "Goes with this radio"}}
				if x.Because >= 0 {
					w.reason = api.Reason{Type: api.ReasonListened, TrackID: media.TrackID(m.ID(x.Because))}
				}
				list = append(list, w)
			}
		}
	}
	if len(list) < n { // little is known of it: what is alike, and then what is popular, go on
		for _, seed := range seeds[:min(len(seeds), 3)] {
			more, err := s.alike(ctx, seed, 100)
			if err != nil {
				return api.Radio{}, err
			}
			list = append(list, more...)
		}
		popular, err := s.popular(ctx, l, m)
		if err != nil {
			return api.Radio{}, err
		}
		if len(list) < n {
			list = append(list, popular.tracks...)
		}
		seen := map[string]bool{}
		list = slices.DeleteFunc(list, func(w wanted) bool {
			again := seen[w.id] || slices.Contains(seeds, w.id) || leave(w.id)
			seen[w.id] = true
			return again
		})
		list = list[:min(len(list), 3*n)]
	}
	known, err := s.tracks(ctx, []row{{tracks: list}}, append(ids(list), seeds...))
	if err != nil {
		return api.Radio{}, err
	}
	r := api.Radio{Tracks: place(l, known, list, nil, n, 0)}
	for i := range r.Tracks {
		if reason := &r.Tracks[i].Reason; reason.Type == api.ReasonListened {
			reason.Text = "Goes with " + reason.Name
		}
	}
	return r, nil
}

// seeds are the tracks that a radio begins with: the track, or an artist's most popular.
func (s *Service) seeds(ctx context.Context, id string) ([]string, error) {
	seeds, err := s.ids(ctx, `SELECT id FROM tracks WHERE id = $1 AND removed_at = 0`, id)
	if err == nil && len(seeds) == 0 {
		seeds, err = s.ids(ctx, `SELECT id FROM tracks WHERE artist_id = $1 AND removed_at = 0 AND version <> '' ORDER BY popularity DESC, id DESC LIMIT 5`, id)
	}
	if err == nil && len(seeds) == 0 {
		err = fmt.Errorf("track or artist %s: %w", id, media.ErrNotFound)
	}
	return seeds, err
}

const (
	mixesOf   = 4
	mixLength = 30
	mixLeast  = 10 // tracks that somebody must like before mixes are made
)

// madeMix is a mix with the ids of its tracks.
type madeMix struct {
	api.Mix
	tracks []string
}

func weekOf(t time.Time) string {
	year, week := t.UTC().ISOWeek()
	return fmt.Sprintf("%d-W%02d", year, week)
}

// mixes are a person's mixes of the week. The first who asks makes them.
func (s *Service) mixes(ctx context.Context, l *listener, m *model.Model, now time.Time) ([]madeMix, error) {
	week := weekOf(now)
	list, err := s.readMixes(ctx, l.id, week)
	if err != nil || len(list) > 0 || m == nil || l.positive() < mixLeast {
		return list, err
	}
	made, err := s.makeMixes(ctx, l, m, now)
	if err != nil || len(made) == 0 {
		return nil, err
	}
	if err := s.writeMixes(ctx, l.id, week, made); err != nil {
		return nil, err
	}
	return s.readMixes(ctx, l.id, week)
}

func (s *Service) readMixes(ctx context.Context, userID, week string) (out []madeMix, err error) {
	err = s.rows(ctx, `SELECT number, name, tracks FROM recommend_mixes WHERE user_id = $1 AND week = $2 ORDER BY number`, []any{userID, week}, func(scan func(...any) error) error {
		x := madeMix{Mix: api.Mix{Week: week}}
		var tracks string
		if err := scan(&x.Number, &x.Name, &tracks); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(tracks), &x.tracks); err != nil {
			return fmt.Errorf("mix of user %s: %w: %w", userID, media.ErrCorrupt, err)
		}
		x.TrackCount = len(x.tracks)
		out = append(out, x)
		return nil
	})
	return out, err
}

// writeMixes keeps a week's mixes, unless somebody else did or the person wants none; those of weeks before go.
func (s *Service) writeMixes(ctx context.Context, userID, week string, list []madeMix) error {
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		on, err := lock(ctx, tx, userID)
		if err != nil || !on {
			return err
		}
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM recommend_mixes WHERE user_id = $1 AND week = $2`, userID, week).Scan(&n); err != nil || n > 0 {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM recommend_mixes WHERE user_id = $1`, userID); err != nil {
			return err
		}
		for _, x := range list {
			tracks, err := json.Marshal(x.tracks)
			if err != nil {
				return fmt.Errorf("bug: %w", err)
			}
			if _, err := tx.ExecContext(ctx, `INSERT INTO recommend_mixes (user_id, week, number, name, tracks, made_at) VALUES ($1, $2, $3, $4, $5, $6)`,
				userID, week, x.Number, x.Name, string(tracks), store.Micros(time.Now())); err != nil {
				return err
			}
		}
		return nil
	})
}

// makeMixes divides what somebody likes into groups that go together, and makes a list of each: a third of what they know,
// the rest of what goes with it.
func (s *Service) makeMixes(ctx context.Context, l *listener, m *model.Model, now time.Time) ([]madeMix, error) {
	var liked []int
	heard := l.heard(m, now)
	for _, h := range heard {
		if h.Weight > 0 {
			liked = append(liked, h.Item)
		}
	}
	if len(liked) < mixLeast {
		return nil, nil
	}
	rng := rand.New(rand.NewPCG(uint64(now.Unix()/(7*86400)), uint64(len(liked))))
	var out []madeMix
	used := map[int]bool{}
	for _, group := range m.Groups(liked, min(mixesOf, len(liked)/5)) {
		if len(group) < 3 {
			continue
		}
		seeds := slices.Clone(group)
		rng.Shuffle(len(seeds), func(i, j int) { seeds[i], seeds[j] = seeds[j], seeds[i] })
		seeds = seeds[:min(len(seeds), 6)]
		ranked := m.Rank(model.Ask{Heard: heard, Seeds: seeds, N: 300, Leave: func(i int) bool {
			f := l.tracks[m.ID(i)]
			return used[i] || f != nil && f.heard > 0 || l.rests(m.ID(i), now, 0)
		}})
		found := m.Diverse(ranked, model.Rules{N: mixLength, PerGroup: 3, Spread: spread, Apart: true}, nil)
		x := madeMix{}
		for i, f := range found {
			if i%3 == 0 && i/3 < len(group) && !used[group[i/3]] {
				used[group[i/3]] = true
				x.tracks = append(x.tracks, m.ID(group[i/3]))
			}
			used[f.Item] = true
			x.tracks = append(x.tracks, m.ID(f.Item))
		}
		x.tracks = x.tracks[:min(len(x.tracks), mixLength)]
		if len(x.tracks) < 8 {
			continue
		}
		name, err := s.artistNames(ctx, group, m)
		if err != nil {
			return nil, err
		}
		x.Number, x.Name = len(out)+1, name
		out = append(out, x)
	}
	return out, nil
}

// artistNames calls a mix by those who are in its middle.
func (s *Service) artistNames(ctx context.Context, group []int, m *model.Model) (string, error) {
	var some []string
	for _, i := range group[:min(len(group), 8)] {
		some = append(some, m.ID(i))
	}
	in, args := marks(1, some)
	names := map[string]int{}
	var order []string
	err := s.rows(ctx, `SELECT a.name FROM tracks t JOIN artists a ON a.id = t.artist_id WHERE t.id IN `+in+` ORDER BY t.id`, args, func(scan func(...any) error) error {
		var n string
		err := scan(&n)
		if names[n]++; names[n] == 1 {
			order = append(order, n)
		}
		return err
	})
	slices.SortStableFunc(order, func(a, b string) int { return names[b] - names[a] })
	switch len(order) {
	case 0:
		return "Mix", err
	case 1:
		return order[0] + " and more", err
	default:
		return order[0] + ", " + order[1] + " and more", err
	}
}

// Mixes returns a person's mixes of the week with their tracks.
func (s *Service) Mixes(ctx context.Context, userID string) (api.Mixes, error) {
	out := api.Mixes{Items: []api.Mix{}}
	l, err := s.listener(ctx, userID)
	if err != nil || !l.Personalised {
		return out, err
	}
	m, now := s.model.Load(), time.Now()
	list, err := s.mixes(ctx, l, m, now)
	if err != nil {
		return out, err
	}
	var all []string
	for _, x := range list {
		all = append(all, x.tracks...)
	}
	known, err := s.tracks(ctx, nil, all)
	if err != nil {
		return out, err
	}
	for _, x := range list {
		var tracks []wanted
		for _, id := range x.tracks {
			w := wanted{id, api.Reason{Type: api.ReasonTaste, Text: "It goes with this mix"}}
			if f := l.tracks[id]; f != nil && f.weight() > 0 {
				w.reason = api.Reason{Type: api.ReasonLiked, Text: "You like it"}
			}
			tracks = append(tracks, w)
		}
		x.Mix.Tracks = place(l, known, tracks, nil, mixLength, 0)
		x.TrackCount = len(x.Mix.Tracks)
		out.Items = append(out.Items, x.Mix)
	}
	return out, nil
}
