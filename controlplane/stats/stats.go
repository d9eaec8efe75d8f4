// Package stats answers questions about plays: a listener's recap, what is heard of artists and tracks, charts.
//
//	question -> memory (minutes) -> ClickHouse -> answer, kept in SQL -> with ClickHouse away: the kept one, marked stale
//
// It knows no ClickHouse: rows come by a func. What is kept about a listener goes with the account.
package stats

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"
)

// Sources is what is asked of others.
type Sources struct {
	// Rows asks ClickHouse; parameters stand in the statement as {name:Type}. Nil: there is none.
	Rows    func(ctx context.Context, sql string, params map[string]string, each func(scan func(...any) error) error) error
	UserKey func(userID string) string // pseudonym in the play logs
	Tracks  func(ctx context.Context, ids ...string) ([]api.Track, error)
	Artists func(ctx context.Context, ids ...string) ([]api.Artist, error)
}

// ErrAway: play logs cannot be asked, and there is no answer from before.
var ErrAway = errors.New("play logs cannot be asked just now")

// Service is safe for concurrent use.
type Service struct {
	db  *store.DB
	ask Sources
	log *slog.Logger

	mu     sync.Mutex // guards recent
	recent map[string]recent
}

type recent struct {
	body  []byte
	asOf  time.Time
	until time.Time
}

// New wires the service.
func New(db *store.DB, ask Sources, log *slog.Logger) *Service {
	return &Service{db: db, ask: ask, log: log, recent: map[string]recent{}}
}

const (
	maxRecent = 2000                // answers in memory, some KB each
	keepFor   = 90 * 24 * time.Hour // answers in SQL
	askTime   = 20 * time.Second    // for ClickHouse
	mineFor   = time.Minute         // how long an answer is given again
	othersFor = 10 * time.Minute
)

// answer gives the answer to a question: of memory, of ClickHouse, or, when that cannot be asked, the last one that was
// given. ErrAway when there is none.
func answer[T any](ctx context.Context, s *Service, key, userID string, valid time.Duration, stamp func(*T) *api.AsOf, ask func(context.Context) (T, error)) (T, error) {
	now := time.Now().UTC().Truncate(time.Millisecond)
	s.mu.Lock()
	r, ok := s.recent[key]
	s.mu.Unlock()
	var out T
	if ok && now.Before(r.until) {
		if err := json.Unmarshal(r.body, &out); err != nil {
			return out, fmt.Errorf("bug: %w", err)
		}
		*stamp(&out) = api.AsOf{AsOf: r.asOf}
		return out, nil
	}
	err := ErrAway
	if s.ask.Rows != nil {
		actx, cancel := context.WithTimeout(ctx, askTime)
		out, err = ask(actx)
		cancel()
	}
	if ctx.Err() != nil {
		return out, ctx.Err()
	}
	if err == nil {
		body, err := json.Marshal(out)
		if err != nil {
			return out, fmt.Errorf("bug: %w", err)
		}
		s.keep(ctx, key, userID, recent{body, now, now.Add(valid)})
		*stamp(&out) = api.AsOf{AsOf: now}
		return out, nil
	}
	if !errors.Is(err, ErrAway) {
		s.log.Warn("play logs do not answer", "question", key, "err", err)
	}
	var body string
	var at int64
	if err := s.db.QueryRowContext(ctx, `SELECT body, as_of FROM stats_answers WHERE key = $1`, key).Scan(&body, &at); errors.Is(err, sql.ErrNoRows) {
		return out, ErrAway
	} else if err != nil {
		return out, err
	}
	s.log.Debug("the last answer is given", "question", key, "err", err)
	var last T
	if err := json.Unmarshal([]byte(body), &last); err != nil {
		return out, fmt.Errorf("answer %s in SQL: %w: %w", key, media.ErrCorrupt, err)
	}
	*stamp(&last) = api.AsOf{AsOf: store.Time(at), Stale: true}
	return last, nil
}

// keep puts an answer into memory and SQL. One that is not kept in SQL is an answer all the same.
func (s *Service) keep(ctx context.Context, key, userID string, r recent) {
	s.mu.Lock()
	if len(s.recent) >= maxRecent {
		clear(s.recent)
	}
	s.recent[key] = r
	s.mu.Unlock()
	var user *string
	if userID != "" {
		user = &userID
	}
	_, err := s.db.ExecContext(ctx, `INSERT INTO stats_answers (key, user_id, body, as_of) VALUES ($1, $2, $3, $4)
		ON CONFLICT (key) DO UPDATE SET body = excluded.body, as_of = excluded.as_of`, key, user, string(r.body), store.Micros(r.asOf))
	if err != nil && ctx.Err() == nil {
		s.log.Warn("an answer about plays is not kept", "err", err)
	}
}

// Run deletes answers that nobody asked for again for long, until ctx ends.
func (s *Service) Run(ctx context.Context, failed func(error)) error {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		if _, err := s.db.ExecContext(ctx, `DELETE FROM stats_answers WHERE as_of < $1`, store.Micros(time.Now().Add(-keepFor))); err != nil && ctx.Err() == nil {
			failed(err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// plays puts a selection of plays together from what is known of them. The view plays does the same, but a condition on it
// is looked at after all plays are put together; every row of a play names its listener, track and artist.
func plays(where string) string {
	return `(SELECT s.play_id AS play_id, any(s.user_key) AS user_key, toString(any(s.track_id)) AS track_id, toString(any(s.title)) AS title, toString(any(s.artist_id)) AS artist_id, toString(any(s.artist)) AS artist,
		toString(max(s.country)) AS country, toDate(min(s.play_at)) AS day, max(s.ended) AS ended, max(s.duration_ms) AS duration_ms, toUInt32(max(s.played_ms)) AS played_ms,
		max(s.played_ms) >= least(30000, greatest(max(s.duration_ms), 1000) - 500) AS counted FROM play_states AS s WHERE ` + where + ` GROUP BY s.play_id)`
}

// Periods of Recap, in days; 0: all that is kept.
var periods = map[string]int{"week": 7, "month": 30, "year": 365, "all": 0}

const topOf = 10

// Recap is what a listener heard in a period. Errors: media.ErrInvalid for another one than week, month, year and all.
func (s *Service) Recap(ctx context.Context, userID, period string) (api.Recap, error) {
	days, ok := periods[period]
	if !ok {
		return api.Recap{}, fmt.Errorf("period: want week, month, year or all: %w", media.ErrInvalid)
	}
	return answer(ctx, s, "me "+userID+" "+period, userID, mineFor, func(r *api.Recap) *api.AsOf { return &r.AsOf }, func(ctx context.Context) (api.Recap, error) {
		today := day(time.Now())
		since := "1970-01-01"
		if days > 0 {
			since = today.AddDate(0, 0, 1-days).Format(time.DateOnly)
		}
		tracks, artists, byDay := map[string]*api.HeardTrack{}, map[string]*api.HeardArtist{}, map[string]*api.HeardDay{}
		r := api.Recap{Period: period, TopTracks: []api.HeardTrack{}, TopArtists: []api.HeardArtist{}, Days: []api.HeardDay{}}
		err := s.ask.Rows(ctx, `SELECT toString(day), track_id, any(title), any(artist_id), any(artist), countIf(counted), sum(played_ms) FROM `+
			plays(`s.user_key = {user:String} AND s.play_at >= toDateTime64({since:String}, 3, 'UTC')`)+` GROUP BY day, track_id`,
			map[string]string{"user": s.ask.UserKey(userID), "since": since + " 00:00:00"}, func(scan func(...any) error) error {
				var d, id, title, artistID, artist string
				var n, ms uint64
				if err := scan(&d, &id, &title, &artistID, &artist, &n, &ms); err != nil {
					return err
				}
				if ms == 0 {
					return nil // started, and nothing heard
				}
				minutes := float64(ms) / 60000
				t := tracks[id]
				if t == nil {
					t = &api.HeardTrack{TrackID: media.TrackID(id), Title: title, ArtistID: media.ArtistID(artistID), Artist: artist}
					tracks[id] = t
				}
				a := artists[cmp.Or(artistID, artist)]
				if a == nil {
					a = &api.HeardArtist{ArtistID: media.ArtistID(artistID), Artist: artist}
					artists[cmp.Or(artistID, artist)] = a
				}
				h := byDay[d]
				if h == nil {
					h = &api.HeardDay{Day: d}
					byDay[d] = h
				}
				for _, to := range []struct {
					plays   *int64
					minutes *float64
				}{{&t.Plays, &t.Minutes}, {&a.Plays, &a.Minutes}, {&h.Plays, &h.Minutes}, {&r.Plays, &r.Minutes}} {
					*to.plays += int64(n)
					*to.minutes += minutes
				}
				return nil
			})
		if err != nil {
			return r, err
		}
		r.Tracks, r.Artists = len(tracks), len(artists)
		for _, t := range tracks {
			r.TopTracks = append(r.TopTracks, *t)
		}
		for _, a := range artists {
			r.TopArtists = append(r.TopArtists, *a)
		}
		for _, d := range byDay {
			r.Days = append(r.Days, *d)
		}
		slices.SortFunc(r.TopTracks, func(a, b api.HeardTrack) int {
			return cmp.Or(cmp.Compare(b.Plays, a.Plays), cmp.Compare(b.Minutes, a.Minutes), cmp.Compare(a.TrackID, b.TrackID))
		})
		slices.SortFunc(r.TopArtists, func(a, b api.HeardArtist) int {
			return cmp.Or(cmp.Compare(b.Plays, a.Plays), cmp.Compare(b.Minutes, a.Minutes), cmp.Compare(a.Artist, b.Artist))
		})
		slices.SortFunc(r.Days, func(a, b api.HeardDay) int { return cmp.Compare(a.Day, b.Day) })
		r.TopTracks, r.TopArtists = r.TopTracks[:min(topOf, len(r.TopTracks))], r.TopArtists[:min(topOf, len(r.TopArtists))]
		r.Streak, r.LongStreak = streaks(r.Days, today)
		for i := range r.TopTracks {
			r.TopTracks[i].Minutes = tenth(r.TopTracks[i].Minutes)
		}
		for i := range r.TopArtists {
			r.TopArtists[i].Minutes = tenth(r.TopArtists[i].Minutes)
		}
		for i := range r.Days {
			r.Days[i].Minutes = tenth(r.Days[i].Minutes)
		}
		r.Minutes = tenth(r.Minutes)
		return r, nil
	})
}

func tenth(x float64) float64 { return math.Round(10*x) / 10 }

func day(t time.Time) time.Time { return t.UTC().Truncate(24 * time.Hour) }

// streaks counts days in a row on which something was heard for long enough to count: the one that lasts, and the longest.
func streaks(days []api.HeardDay, today time.Time) (now, longest int) {
	var before time.Time
	run := 0
	for _, d := range days {
		t, err := time.Parse(time.DateOnly, d.Day)
		if err != nil || d.Plays == 0 {
			continue
		}
		if run > 0 && t.Equal(before.AddDate(0, 0, 1)) {
			run++
		} else {
			run = 1
		}
		before, longest = t, max(longest, run)
	}
	if !before.IsZero() && !before.Before(today.AddDate(0, 0, -1)) {
		now = run
	}
	return now, longest
}

// window is what artists and tracks are counted over.
const window = 28

// fewest: a country with fewer listeners would say of single people what they hear.
const fewest = 5

// Artist is what is heard of an artist. Errors: media.ErrNotFound.
func (s *Service) Artist(ctx context.Context, id string) (api.ArtistStats, error) {
	list, err := s.ask.Artists(ctx, id)
	if err == nil && (len(list) == 0 || list[0].Unavailable != "" && list[0].MergedInto == "") {
		err = fmt.Errorf("artist %s: %w", id, media.ErrNotFound)
	}
	if err != nil {
		return api.ArtistStats{}, err
	}
	return answer(ctx, s, "artist "+id, "", othersFor, func(a *api.ArtistStats) *api.AsOf { return &a.AsOf }, func(ctx context.Context) (api.ArtistStats, error) {
		a := api.ArtistStats{ArtistID: media.ArtistID(id), TopTracks: []api.HeardTrack{}}
		params := map[string]string{"id": id, "since": since()}
		from := plays(`s.artist_id = {id:String} AND s.play_at >= toDateTime64({since:String}, 3, 'UTC')`)
		var ms, n, listeners uint64
		if err := s.ask.Rows(ctx, `SELECT countIf(counted), uniqExactIf(user_key, counted), sum(played_ms) FROM `+from, params, func(scan func(...any) error) error {
			return scan(&n, &listeners, &ms)
		}); err != nil {
			return a, err
		}
		a.Plays, a.Listeners, a.Minutes = int64(n), int64(listeners), tenth(float64(ms)/60000)
		err := s.ask.Rows(ctx, `SELECT track_id, any(title), any(artist), countIf(counted) AS n, sum(played_ms) FROM `+from+` GROUP BY track_id HAVING n > 0 ORDER BY n DESC, track_id LIMIT 10`, params, func(scan func(...any) error) error {
			t := api.HeardTrack{ArtistID: a.ArtistID}
			var n, ms uint64
			err := scan((*string)(&t.TrackID), &t.Title, &t.Artist, &n, &ms) // the driver knows no named types
			t.Plays, t.Minutes = int64(n), tenth(float64(ms)/60000)
			a.TopTracks = append(a.TopTracks, t)
			return err
		})
		if err != nil {
			return a, err
		}
		if a.Days, err = s.days(ctx, from, params); err != nil {
			return a, err
		}
		a.Countries, err = s.countries(ctx, from, params)
		return a, err
	})
}

// Track is what is heard of a track. Errors: media.ErrNotFound.
func (s *Service) Track(ctx context.Context, id string) (api.TrackStats, error) {
	list, err := s.ask.Tracks(ctx, id)
	if err == nil && (len(list) == 0 || list[0].Unavailable == api.Removed) {
		err = fmt.Errorf("track %s: %w", id, media.ErrNotFound)
	}
	if err != nil {
		return api.TrackStats{}, err
	}
	return answer(ctx, s, "track "+id, "", othersFor, func(t *api.TrackStats) *api.AsOf { return &t.AsOf }, func(ctx context.Context) (api.TrackStats, error) {
		t := api.TrackStats{TrackID: media.TrackID(id)}
		params := map[string]string{"id": id, "since": since()}
		from := plays(`s.track_id = {id:String} AND s.play_at >= toDateTime64({since:String}, 3, 'UTC')`)
		var starts, n, whole, skips, listeners, ms uint64
		err := s.ask.Rows(ctx, `SELECT count(), countIf(counted), countIf(duration_ms > 0 AND played_ms >= 0.9 * duration_ms), countIf(ended AND NOT counted), uniqExactIf(user_key, counted),
			sum(played_ms) FROM `+from, params, func(scan func(...any) error) error {
			return scan(&starts, &n, &whole, &skips, &listeners, &ms)
		})
		if err != nil {
			return t, err
		}
		t.Starts, t.Plays, t.Completions, t.Skips, t.Listeners, t.Minutes = int64(starts), int64(n), int64(whole), int64(skips), int64(listeners), tenth(float64(ms)/60000)
		if t.Days, err = s.days(ctx, from, params); err != nil {
			return t, err
		}
		t.Countries, err = s.countries(ctx, from, params)
		return t, err
	})
}

func since() string {
	return day(time.Now()).AddDate(0, 0, 1-window).Format(time.DateOnly) + " 00:00:00"
}

func (s *Service) days(ctx context.Context, from string, params map[string]string) ([]api.HeardDay, error) {
	out := []api.HeardDay{}
	err := s.ask.Rows(ctx, `SELECT toString(day), countIf(counted), sum(played_ms) FROM `+from+` GROUP BY day ORDER BY day`, params, func(scan func(...any) error) error {
		var d api.HeardDay
		var n, ms uint64
		err := scan(&d.Day, &n, &ms)
		d.Plays, d.Minutes = int64(n), tenth(float64(ms)/60000)
		out = append(out, d)
		return err
	})
	return out, err
}

func (s *Service) countries(ctx context.Context, from string, params map[string]string) ([]api.CountryPlays, error) {
	out := []api.CountryPlays{}
	var rest api.CountryPlays
	err := s.ask.Rows(ctx, `SELECT country, countIf(counted) AS n, uniqExactIf(user_key, counted) FROM `+from+` GROUP BY country HAVING n > 0 ORDER BY n DESC, country`, params, func(scan func(...any) error) error {
		var c api.CountryPlays
		var n, listeners uint64
		err := scan(&c.Country, &n, &listeners)
		c.Plays, c.Listeners = int64(n), int64(listeners)
		if c.Country == "" || c.Listeners < fewest {
			rest.Plays += c.Plays
			rest.Listeners += c.Listeners
		} else {
			out = append(out, c)
		}
		return err
	})
	if rest.Plays > 0 {
		out = append(out, rest)
	}
	return out, err
}

var countryForm = regexp.MustCompile(`^([A-Z]{2}|all)$`)

const (
	chartLength = 100
	atMost      = 10 // plays of one listener and track that count in a week: a chart is of what many hear
	lateFor     = 30 * 24 * time.Hour
)

// Chart is the chart of a country, or of all, and a week; "" is the last whole one. Errors: media.ErrInvalid.
func (s *Service) Chart(ctx context.Context, country, week string) (api.Chart, error) {
	if !countryForm.MatchString(country) {
		return api.Chart{}, fmt.Errorf("country: want two capital letters, or all: %w", media.ErrInvalid)
	}
	monday := day(time.Now()).AddDate(0, 0, -7)
	monday = monday.AddDate(0, 0, -(int(monday.Weekday())+6)%7)
	if week != "" {
		var err error
		if monday, err = parseWeek(week); err != nil {
			return api.Chart{}, err
		}
	}
	if monday.After(time.Now()) || monday.Year() < 2000 {
		return api.Chart{}, fmt.Errorf("week: want one that has begun: %w", media.ErrInvalid)
	}
	year, number := monday.ISOWeek()
	week = fmt.Sprintf("%d-W%02d", year, number)
	return answer(ctx, s, "chart "+country+" "+week, "", othersFor, func(c *api.Chart) *api.AsOf { return &c.AsOf }, func(ctx context.Context) (api.Chart, error) {
		c := api.Chart{Country: country, Week: week, From: monday.Format(time.DateOnly), Final: time.Since(monday) > 7*24*time.Hour+lateFor, Entries: []api.ChartEntry{}}
		places := map[media.TrackID]int{}
		err := s.chart(ctx, country, monday.AddDate(0, 0, -7), func(e api.ChartEntry) { places[e.TrackID] = e.Place })
		if err != nil {
			return c, err
		}
		err = s.chart(ctx, country, monday, func(e api.ChartEntry) {
			e.Before = places[e.TrackID]
			c.Entries = append(c.Entries, e)
		})
		return c, err
	})
}

func (s *Service) chart(ctx context.Context, country string, monday time.Time, add func(api.ChartEntry)) error {
	where := `s.play_at >= toDateTime64({from:String}, 3, 'UTC') AND s.play_at < toDateTime64({to:String}, 3, 'UTC')`
	having := ""
	if country != "all" {
		having = ` WHERE country = {country:String}`
	}
	place := 0
	return s.ask.Rows(ctx, `SELECT track_id, any(title) AS title, any(artist_id) AS artist_id, any(artist) AS artist, sum(least(n, `+strconv.Itoa(atMost)+`)) AS total FROM
		(SELECT user_key, track_id, any(title) AS title, any(artist_id) AS artist_id, any(artist) AS artist, countIf(counted) AS n FROM `+plays(where)+having+` GROUP BY user_key, track_id)
		GROUP BY track_id HAVING total > 0 ORDER BY total DESC, track_id LIMIT `+strconv.Itoa(chartLength),
		map[string]string{"from": monday.Format(time.DateOnly) + " 00:00:00", "to": monday.AddDate(0, 0, 7).Format(time.DateOnly) + " 00:00:00", "country": country}, func(scan func(...any) error) error {
			var e api.ChartEntry
			var n uint64
			err := scan((*string)(&e.TrackID), &e.Title, (*string)(&e.ArtistID), &e.Artist, &n)
			place++
			e.Place, e.Plays = place, int64(n)
			add(e)
			return err
		})
}

// parseWeek returns the Monday of an ISO week.
func parseWeek(s string) (time.Time, error) {
	var year, week int
	if n, err := fmt.Sscanf(s, "%4d-W%2d", &year, &week); err != nil || n != 2 || len(s) != 8 {
		return time.Time{}, fmt.Errorf("week: want the form 2026-W48: %w", media.ErrInvalid)
	}
	fourth := time.Date(year, 1, 4, 0, 0, 0, 0, time.UTC) // is in week 1
	monday := fourth.AddDate(0, 0, -(int(fourth.Weekday())+6)%7+7*(week-1))
	if y, w := monday.ISOWeek(); y != year || w != week {
		return time.Time{}, fmt.Errorf("week: there is no %s: %w", s, media.ErrInvalid)
	}
	return monday, nil
}
