package recommend

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/recommend/model"
	"segue/media"
)

const (
	shelfLength = 20
	candidates  = 32 // looked up for a shelf: some are on another one, or cannot be played here
	becauseOf   = 2  // shelves of what goes with one track
	genreOf     = 3  // shelves of genres
	exploring   = 8  // every eighth place of made-for-you is for a track that is new here
	perArtist   = 2  // on a shelf
	spread      = 0.25
	newFor      = 45 * 24 * time.Hour
	weekOff     = 7 * 24 * time.Hour // a radio holds back what was heard in it
)

// wanted is a track that was chosen, before it is known what it is.
type wanted struct {
	id     string
	reason api.Reason
}

// row is a shelf in the making.
type row struct {
	api.Shelf
	tracks []wanted
	least  int // a shelf with fewer is left out
}

// Home makes a person's home feed.
func (s *Service) Home(ctx context.Context, userID string) (api.Home, error) {
	l, err := s.listener(ctx, userID)
	if err != nil {
		return api.Home{}, err
	}
	m, now := s.model.Load(), time.Now()
	out := api.Home{Shelves: []api.Shelf{}, Personalised: l.Personalised}
	if m != nil {
		out.ModelMade = &m.Made
	}
	var rows []row
	if l.Personalised {
		personal, err := s.personal(ctx, l, m, now)
		if err != nil {
			return out, err
		}
		rows = append(rows, personal...)
	}
	popular, err := s.popular(ctx, l, m)
	if err != nil {
		return out, err
	}
	rows = append(rows, popular)
	for _, g := range l.Genres[:min(len(l.Genres), genreOf)] {
		ids, name, err := s.genre(ctx, g)
		if err != nil {
			return out, err
		}
		reason := api.Reason{Type: api.ReasonGenre, Text: "Because you chose " + name, Name: name}
		rows = append(rows, row{Shelf: api.Shelf{ID: api.ShelfGenre, Title: name, Reason: &reason}, tracks: because(ids, reason), least: 1})
	}
	fresh, err := s.fresh(ctx)
	if err != nil {
		return out, err
	}
	reason := api.Reason{Type: api.ReasonNew, Text: "New here"}
	rows = append(rows, row{Shelf: api.Shelf{ID: api.ShelfNew, Title: "New here", Reason: &reason}, tracks: because(spreadOut(fresh), reason), least: 1})
	out.Shelves, err = s.fill(ctx, l, rows)
	return out, err
}

func because(ids []string, reason api.Reason) []wanted {
	out := make([]wanted, len(ids))
	for i, id := range ids {
		out[i] = wanted{id, reason}
	}
	return out
}

// personal are the shelves that are made for one person.
func (s *Service) personal(ctx context.Context, l *listener, m *model.Model, now time.Time) (rows []row, err error) {
	if m != nil && l.positive() > 0 {
		mine, err := s.madeForYou(ctx, l, m, now)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row{Shelf: api.Shelf{ID: api.ShelfMadeForYou, Title: "Made for you"}, tracks: mine, least: 4})
		mixes, err := s.mixes(ctx, l, m, now)
		if err != nil {
			return nil, err
		}
		if len(mixes) > 0 {
			shelf := api.Shelf{ID: api.ShelfMixes, Title: "Your mixes of this week"}
			for _, x := range mixes {
				shelf.Mixes = append(shelf.Mixes, x.Mix)
			}
			rows = append(rows, row{Shelf: shelf})
		}
	}
	shelves := 0
	for _, id := range l.latest[:min(len(l.latest), 10)] {
		if shelves == becauseOf {
			break
		}
		list, err := s.similar(ctx, m, id, candidates)
		if err != nil {
			return nil, err
		}
		list = slices.DeleteFunc(list, func(w wanted) bool { return l.rests(w.id, now, restFor) })
		if len(list) >= 4 {
			shelves++
			reason := api.Reason{Type: api.ReasonListened, TrackID: media.TrackID(id)}
			rows = append(rows, row{Shelf: api.Shelf{ID: api.ShelfBecause, Reason: &reason}, tracks: list, least: 3})
		}
	}
	releases, err := s.ask.Releases(ctx, l.id, "", shelfLength)
	if err != nil {
		return nil, err
	}
	if len(releases.Items) > 0 {
		rows = append(rows, row{Shelf: api.Shelf{ID: api.ShelfFollowed, Title: "New from artists you follow", Reason: &api.Reason{Type: api.ReasonArtist, Text: "You follow them"}, Albums: releases.Items}})
	}
	return rows, nil
}

// madeForYou ranks everything for a person, and keeps the rules.
func (s *Service) madeForYou(ctx context.Context, l *listener, m *model.Model, now time.Time) ([]wanted, error) {
	list := m.Rank(model.Ask{Heard: l.heard(m, now), Charts: l.charts(), N: 300, Leave: func(i int) bool { return l.rests(m.ID(i), now, restFor) }})
	list = m.Diverse(list, model.Rules{N: shelfLength + shelfLength/2, PerGroup: perArtist, Spread: spread}, nil)
	explore, err := s.explore(ctx, l, m, now, len(list)/exploring+1)
	if err != nil {
		return nil, err
	}
	count := map[uint32]int{} // new tracks come first where an artist has no more than so many places
	for _, e := range explore {
		count[groupOf(e.artist)]++
	}
	var out []wanted
	for _, x := range list {
		if len(out)%exploring == exploring-2 && len(explore) > 0 {
			out = append(out, explore[0].wanted)
			explore = explore[1:]
		}
		if count[m.Group(x.Item)]++; count[m.Group(x.Item)] <= perArtist || m.Group(x.Item) == 0 {
			out = append(out, l.explain(m, x))
		}
	}
	return out, nil
}

// explain gives a ranked track its reason.
func (l *listener) explain(m *model.Model, x model.Scored) wanted {
	w := wanted{id: m.ID(x.Item)}
	switch f := l.tracks[w.id]; {
	case f != nil && f.weight() > 0:
		w.reason = api.Reason{Type: api.ReasonLiked, Text: "You like it"}
	case x.Because >= 0:
		w.reason = api.Reason{Type: api.ReasonListened, TrackID: media.TrackID(m.ID(x.Because))}
	default:
		w.reason = api.Reason{Type: api.ReasonTaste, Text: "It fits what you hear"}
	}
	return w
}

// charts are those that say something about a person they know nothing else of, best first.
func (l *listener) charts() []string {
	var out []string
	if l.country != "" {
		out = append(out, l.country)
	}
	if l.plan != "" {
		out = append(out, "plan:"+string(l.plan))
	}
	return out
}

// leastChart: a country's chart of fewer tracks says little.
const leastChart = 10

// popular is what is heard much where the person is; with no model, what the catalogue says.
func (s *Service) popular(ctx context.Context, l *listener, m *model.Model) (row, error) {
	shelf := func(title, text, country string, ids []string) row {
		reason := api.Reason{Type: api.ReasonPopular, Text: text, Country: country}
		return row{Shelf: api.Shelf{ID: api.ShelfPopular, Title: title, Reason: &reason}, tracks: because(ids, reason), least: 1}
	}
	if m != nil {
		for _, name := range append(l.charts(), "") {
			chart := m.Chart(name)
			if len(chart) == 0 || name != "" && len(chart) < leastChart {
				continue
			}
			list := make([]model.Scored, len(chart))
			for i, n := range chart {
				list[i] = model.Scored{Item: int(n), Score: -float32(i)}
			}
			var ids []string
			for _, x := range m.Diverse(list, model.Rules{N: candidates, PerGroup: perArtist}, nil) {
				ids = append(ids, m.ID(x.Item))
			}
			if name == l.country && name != "" {
				return shelf("Popular where you are", "Popular in "+name, name, ids), nil
			}
			return shelf("Popular now", "Popular now", "", ids), nil
		}
	}
	ids, err := s.popularInSQL(ctx)
	return shelf("Popular", "Popular", "", ids), err
}

// kept are lists that are the same for all, kept for a minute.
type kept struct {
	mu      sync.Mutex // guards the fields below; held while one is read, so that one reads
	popular []string
	fresh   []freshTrack
	at      [2]time.Time
}

const keepFor = time.Minute

func (s *Service) popularInSQL(ctx context.Context) ([]string, error) {
	s.kept.mu.Lock()
	defer s.kept.mu.Unlock()
	if time.Since(s.kept.at[0]) < keepFor {
		return s.kept.popular, nil
	}
	list, err := s.short(ctx, `SELECT id, artist_id, genres FROM tracks WHERE removed_at = 0 AND version <> '' ORDER BY popularity DESC, id DESC LIMIT 300`)
	if err == nil {
		s.kept.popular, s.kept.at[0] = spreadOut(list), time.Now()
	}
	return s.kept.popular, err
}

// freshTrack is one that came lately.
type freshTrack struct{ id, artist, genres string }

// fresh are the latest tracks of the catalogue: an id is of the time when it was made.
func (s *Service) fresh(ctx context.Context) ([]freshTrack, error) {
	s.kept.mu.Lock()
	defer s.kept.mu.Unlock()
	if time.Since(s.kept.at[1]) < keepFor {
		return s.kept.fresh, nil
	}
	list, err := s.short(ctx, `SELECT id, artist_id, genres FROM tracks WHERE removed_at = 0 AND version <> '' ORDER BY id DESC LIMIT 1000`)
	if err == nil {
		s.kept.fresh, s.kept.at[1] = list, time.Now()
	}
	return list, err
}

// short reads what rules ask of tracks.
func (s *Service) short(ctx context.Context, text string, args ...any) (list []freshTrack, err error) {
	err = s.rows(ctx, text, args, func(scan func(...any) error) error {
		var f freshTrack
		err := scan(&f.id, &f.artist, &f.genres)
		list = append(list, f)
		return err
	})
	return list, err
}

// spreadOut is the head of a list with no artist more often than they may be on a shelf; the rest follows when there are
// too few artists for that.
func spreadOut(list []freshTrack) []string {
	count := map[string]int{}
	var out, more []string
	for _, f := range list {
		if count[f.artist]++; count[f.artist] <= perArtist {
			out = append(out, f.id)
		} else {
			more = append(more, f.id)
		}
		if len(out) == candidates {
			return out
		}
	}
	return append(out, more[:min(len(more), candidates-len(out))]...)
}

// genre is what is popular in a genre, and what the genre is called.
func (s *Service) genre(ctx context.Context, id string) (ids []string, name string, err error) {
	names, err := s.ids(ctx, `SELECT name FROM genres WHERE id = $1`, id)
	if err != nil {
		return nil, "", err
	}
	list, err := s.short(ctx, `SELECT t.id, t.artist_id, t.genres FROM (SELECT track_id, popularity FROM track_genres WHERE genre_id = $1 ORDER BY popularity DESC, track_id DESC LIMIT 200) AS g
		JOIN tracks t ON t.id = g.track_id WHERE t.version <> '' ORDER BY g.popularity DESC, g.track_id DESC`, id)
	return spreadOut(list), append(names, id)[0], err
}

// newTrack is one to explore, and whose it is.
type newTrack struct {
	wanted
	artist string
}

// explore picks tracks that are too new for the model to know them: of artists whom the person hears, of genres they hear,
// and some by chance, which is how a new track gets its first listeners.
func (s *Service) explore(ctx context.Context, l *listener, m *model.Model, now time.Time, n int) ([]newTrack, error) {
	fresh, err := s.fresh(ctx)
	if err != nil || len(fresh) == 0 {
		return nil, err
	}
	artists, genres := map[string]bool{}, map[string]bool{}
	if latest := l.latest[:min(len(l.latest), 60)]; len(latest) > 0 {
		in, args := marks(1, latest)
		err := s.rows(ctx, `SELECT artist_id, genres FROM tracks WHERE id IN `+in, args, func(scan func(...any) error) error {
			var a, g string
			err := scan(&a, &g)
			artists[a] = true
			for _, name := range genreNames(g) {
				genres[name] = true
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	// The same ones for a day: a page that is loaded again is not another one.
	h := fnv.New64a()
	h.Write([]byte(l.id))
	rng := rand.New(rand.NewPCG(h.Sum64(), uint64(now.Unix()/86400)))
	type option struct {
		newTrack
		score float64
	}
	var options []option
	since := now.Add(-newFor)
	for _, f := range fresh {
		if made, ok := madeAt(f.id); !ok || made.Before(since) || l.tracks[f.id] != nil {
			continue
		}
		if i := m.Find(f.id); i >= 0 && m.Recent(i) > 50 {
			continue // the model knows it well
		}
		o := option{newTrack{wanted{f.id, api.Reason{Type: api.ReasonNew, Text: "New here"}}, f.artist}, rng.Float64()}
		switch {
		case artists[f.artist]:
			o.score += 2
			o.reason = api.Reason{Type: api.ReasonArtist, Text: "New from an artist you hear", ArtistID: media.ArtistID(f.artist)}
		case slices.ContainsFunc(genreNames(f.genres), func(g string) bool { return genres[g] }):
			o.score++
			o.reason = api.Reason{Type: api.ReasonGenre, Text: "New, and of a genre you hear"}
		}
		options = append(options, o)
	}
	slices.SortFunc(options, func(a, b option) int { return cmp.Or(cmp.Compare(b.score, a.score), strings.Compare(a.id, b.id)) })
	out := make([]newTrack, 0, n)
	for _, o := range options[:min(len(options), n)] {
		out = append(out, o.newTrack)
	}
	return out, nil
}

// fill looks up what was chosen and makes shelves of it: a track is on one of them, none is of a track that cannot be played
// where the person is, and no artist is on a shelf more than they may.
func (s *Service) fill(ctx context.Context, l *listener, rows []row) ([]api.Shelf, error) {
	var ids []string
	for _, r := range rows {
		for _, w := range r.tracks[:min(len(r.tracks), candidates)] {
			ids = append(ids, w.id)
		}
		if r.Reason != nil && r.Reason.TrackID != "" {
			ids = append(ids, string(r.Reason.TrackID))
		}
	}
	known, err := s.tracks(ctx, rows, ids)
	if err != nil {
		return nil, err
	}
	shown := map[string]bool{}
	out := []api.Shelf{}
	for _, r := range rows {
		if r.tracks != nil || r.Albums == nil && r.Mixes == nil {
			most := perArtist
			if r.ID == api.ShelfBecause {
				most++
			}
			r.Tracks = place(l, known, r.tracks, shown, shelfLength, most)
			if len(r.Tracks) < max(r.least, 1) {
				for _, t := range r.Tracks {
					delete(shown, string(t.Track.ID))
				}
				continue
			}
		}
		if r.ID == api.ShelfBecause {
			t, ok := known[string(r.Reason.TrackID)]
			if !ok {
				continue
			}
			r.Reason.Name, r.Reason.Text = t.Title, "Because you listened to "+t.Title
			r.Title = r.Reason.Text
		}
		out = append(out, r.Shelf)
	}
	return out, nil
}

// tracks looks up the tracks and those that reasons name.
func (s *Service) tracks(ctx context.Context, rows []row, ids []string) (map[string]api.Track, error) {
	for _, r := range rows {
		for _, w := range r.tracks[:min(len(r.tracks), candidates)] {
			if w.reason.TrackID != "" {
				ids = append(ids, string(w.reason.TrackID))
			}
		}
	}
	slices.Sort(ids)
	list, err := s.ask.Tracks(ctx, slices.Compact(ids)...)
	known := make(map[string]api.Track, len(list))
	for _, t := range list {
		known[string(t.ID)] = t
	}
	return known, err
}

// place makes a list of what was chosen. shown, when not nil, holds what is elsewhere and gets what is here.
func place(l *listener, known map[string]api.Track, list []wanted, shown map[string]bool, n, perArtist int) []api.Recommended {
	count := map[string]int{}
	out := []api.Recommended{}
	for _, w := range list {
		t, ok := known[w.id]
		if !ok || t.Unavailable != "" || shown[w.id] || !available(t, l.country) {
			continue
		}
		if len(t.Artists) > 0 && perArtist > 0 {
			if a := string(t.Artists[0].ID); count[a] >= perArtist {
				continue
			} else {
				count[a]++
			}
		}
		r := w.reason
		switch {
		case r.Type == api.ReasonListened:
			from, ok := known[string(r.TrackID)]
			if !ok {
				r = api.Reason{Type: api.ReasonTaste, Text: "It fits what you hear"}
			} else {
				r.Name, r.Text = from.Title, "Because you listened to "+from.Title
			}
		case r.Type == api.ReasonArtist && len(t.Artists) > 0:
			r.ArtistID, r.Name = t.Artists[0].ID, t.Artists[0].Name
			r.Text = "New from " + r.Name
		}
		if shown != nil {
			shown[w.id] = true
		}
		if out = append(out, api.Recommended{Track: t, Reason: r}); len(out) == n {
			break
		}
	}
	return out
}

func available(t api.Track, country string) bool {
	return len(t.AvailableIn) == 0 || country == "" || slices.Contains(t.AvailableIn, country)
}

// similar is what goes with a track: as the model says, and, when that is little, what is alike in the catalogue.
func (s *Service) similar(ctx context.Context, m *model.Model, id string, n int) ([]wanted, error) {
	var out []wanted
	reason := api.Reason{Type: api.ReasonListened, TrackID: media.TrackID(id)}
	if m != nil {
		if i := m.Find(id); i >= 0 {
			list := m.Similar(i, n)
			for _, x := range m.Diverse(list, model.Rules{N: n, PerGroup: 3, Spread: 0.1}, nil) {
				out = append(out, wanted{m.ID(x.Item), reason})
			}
		}
	}
	if len(out) >= min(n, 10) {
		return out, nil
	}
	more, err := s.alike(ctx, id, n)
	for _, w := range more {
		if !slices.ContainsFunc(out, func(x wanted) bool { return x.id == w.id }) {
			out = append(out, w)
		}
	}
	return out[:min(n, len(out))], err
}

// alike is what the catalogue knows to be like a track: others of its artist, of its album, of its genres.
func (s *Service) alike(ctx context.Context, id string, n int) ([]wanted, error) {
	var artist, album, genres string
	found := false
	err := s.rows(ctx, `SELECT artist_id, album_id, genres FROM tracks WHERE id = $1`, []any{id}, func(scan func(...any) error) error {
		found = true
		return scan(&artist, &album, &genres)
	})
	if err != nil || !found {
		return nil, err
	}
	var out []wanted
	add := func(reason api.Reason, limit int, text string, args ...any) error {
		ids, err := s.ids(ctx, text, args...)
		for _, x := range ids {
			if x != id && limit > 0 && !slices.ContainsFunc(out, func(w wanted) bool { return w.id == x }) {
				out = append(out, wanted{x, reason})
				limit--
			}
		}
		return err
	}
	same := api.Reason{Type: api.ReasonTaste, Text: "By the same artist"}
	if err := add(same, 3, `SELECT id FROM tracks WHERE artist_id = $1 AND removed_at = 0 AND version <> '' ORDER BY popularity DESC, id DESC LIMIT 6`, artist); err != nil {
		return nil, err
	}
	for _, g := range genreNames(genres)[:min(3, len(genreNames(genres)))] {
		reason := api.Reason{Type: api.ReasonGenre, Text: "Of the same genre: " + g, Name: g}
		if err := add(reason, n, `SELECT t.track_id FROM track_genres t JOIN genres g ON g.id = t.genre_id WHERE g.name = $1 OR g.id = $1 ORDER BY t.popularity DESC, t.track_id DESC LIMIT $2`, g, n); err != nil {
			return nil, err
		}
	}
	if err := add(api.Reason{Type: api.ReasonTaste, Text: "From the same album"}, 3, `SELECT id FROM tracks WHERE album_id = $1 AND removed_at = 0 AND version <> '' ORDER BY popularity DESC, id DESC LIMIT 6`, album); err != nil {
		return nil, err
	}
	return out[:min(n, len(out))], nil
}

// Similar answers what goes with a track, for a person: what they skipped is left out. Errors: media.ErrNotFound.
func (s *Service) Similar(ctx context.Context, userID, id string, n int) (api.Similar, error) {
	l, err := s.listener(ctx, userID)
	if err != nil {
		return api.Similar{}, err
	}
	list, err := s.similar(ctx, s.model.Load(), id, 2*n)
	if err != nil {
		return api.Similar{}, err
	}
	now := time.Now()
	list = slices.DeleteFunc(list, func(w wanted) bool { return l.rests(w.id, now, 0) })
	known, err := s.tracks(ctx, []row{{tracks: list}}, append(ids(list), id))
	if err != nil {
		return api.Similar{}, err
	}
	of, ok := known[id]
	if !ok || of.Unavailable == api.Removed {
		return api.Similar{}, fmt.Errorf("track %s: %w", id, media.ErrNotFound)
	}
	out := api.Similar{Tracks: place(l, known, list, nil, n, 0)}
	for i := range out.Tracks {
		if r := &out.Tracks[i].Reason; r.Type == api.ReasonListened {
			r.Text = "Goes with " + of.Title
		}
	}
	return out, nil
}

func ids(list []wanted) []string {
	out := make([]string, len(list))
	for i, w := range list {
		out[i] = w.id
	}
	return out
}
