package library

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"slices"
	"sync"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"

	"github.com/oklog/ulid/v2"
)

// MaxRecent is how many plays a person's history holds.
const MaxRecent = 500

// seen remembers plays that were written: a player reports a play every half minute, and SQL is asked once.
type seen struct {
	mu    sync.Mutex // guards plays
	plays map[string]struct{}
}

// maxSeen bounds seen; when it is full it is emptied, which costs one statement per play that goes on.
const maxSeen = 20_000

func (s *seen) has(playID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.plays[playID]
	return ok
}

func (s *seen) add(playID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.plays == nil || len(s.plays) >= maxSeen {
		s.plays = map[string]struct{}{}
	}
	s.plays[playID] = struct{}{}
}

// Played notes that a granted play was heard: it is for the first event of a play that says so, and repeating it
// changes nothing. at is the player's clock; what it says of the future is now. from may be nil, and counts as nil when
// it makes no sense. A play that was granted before the history was cleared does not come back into it.
func (s *Service) Played(ctx context.Context, userID, playID string, trackID media.TrackID, from *api.PlayContext, at time.Time) error {
	if s.seen.has(playID) {
		return nil
	}
	granted, err := ulid.ParseStrict(playID)
	if err != nil {
		return nil // was granted by nobody
	}
	if now := time.Now(); at.After(now) {
		at = now
	}
	var c api.PlayContext
	if from != nil && validContext(*from) {
		c = *from
	}
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		l, err := lock(ctx, tx, userID)
		if err != nil || !l.keepHistory || !ulid.Time(granted.Time()).After(l.cleared) {
			return err
		}
		n, err := affected(tx.ExecContext(ctx, `INSERT INTO recent_plays (user_id, play_id, track_id, context_type, context_id, played_at) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (user_id, play_id) DO NOTHING`, userID, playID, string(trackID), c.Type, c.ID, store.Micros(at)))
		if err != nil || n == 0 {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM recent_plays WHERE user_id = $1 AND (played_at, play_id) < (SELECT played_at, play_id FROM recent_plays WHERE user_id = $1
			ORDER BY played_at DESC, play_id DESC LIMIT 1 OFFSET $2)`, userID, MaxRecent-1)
		return err
	})
	if errors.Is(err, media.ErrNotFound) {
		return nil // the account was deleted while it played
	}
	if err == nil {
		s.seen.add(playID)
	}
	return err
}

// validContext: a context of a known type, with an id where one belongs.
func validContext(c api.PlayContext) bool {
	switch c.Type {
	case api.ContextAlbum, api.ContextPlaylist, api.ContextArtist, api.ContextRadio:
		return media.ValidID(c.ID)
	case api.ContextLibrary, api.ContextSearch:
		return c.ID == ""
	}
	return false
}

// Recent pages through the history, latest first.
func (s *Service) Recent(ctx context.Context, userID, cursor string, limit int) (p api.Page[api.RecentPlay], err error) {
	at, id, err := parseCursor(cursor)
	if err != nil {
		return p, err
	}
	rows, err := s.db.QueryContext(ctx, `SELECT play_id, track_id, context_type, context_id, played_at FROM recent_plays WHERE user_id = $1
		AND played_at <= $2 AND (played_at < $2 OR play_id < $3) ORDER BY played_at DESC, play_id DESC LIMIT $4`, userID, at, id, limit+1)
	if err != nil {
		return p, err
	}
	defer rows.Close()
	p.Items = []api.RecentPlay{}
	var tracks []string
	for rows.Next() {
		var r api.RecentPlay
		var c api.PlayContext
		var micros int64
		if err := rows.Scan(&r.PlayID, &r.TrackID, &c.Type, &c.ID, &micros); err != nil {
			return p, err
		}
		if len(p.Items) == limit {
			last := p.Items[limit-1]
			p.Next = makeCursor(store.Micros(last.PlayedAt), last.PlayID)
			break
		}
		if r.PlayedAt = store.Time(micros); c.Type != "" {
			r.Context = &c
		}
		p.Items = append(p.Items, r)
		tracks = append(tracks, string(r.TrackID))
	}
	if err := rows.Err(); err != nil {
		return p, err
	}
	rows.Close()
	known, err := s.tracks(ctx, tracks...)
	for i := range p.Items {
		p.Items[i].Track = known[p.Items[i].TrackID]
		p.Items[i].Available = playable(p.Items[i].Track)
	}
	return p, err
}

// ClearRecent empties the history. Repeating it changes nothing.
func (s *Service) ClearRecent(ctx context.Context, userID string) error {
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		if _, err := lock(ctx, tx, userID); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE listeners SET cleared_at = $1 WHERE user_id = $2`, store.Micros(time.Now()), userID); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM recent_plays WHERE user_id = $1`, userID)
		return err
	})
}

// Privacy returns a person's choices.
func (s *Service) Privacy(ctx context.Context, userID string) (api.Privacy, error) {
	p := api.Privacy{ShareListening: api.ShareNobody, KeepHistory: true}
	var keep int64
	err := s.db.QueryRowContext(ctx, `SELECT share_listening, keep_history FROM listeners WHERE user_id = $1`, userID).Scan(&p.ShareListening, &keep)
	if errors.Is(err, sql.ErrNoRows) {
		return p, nil
	}
	p.KeepHistory = keep != 0
	return p, err
}

// SetPrivacy changes them and returns the new ones. What is in the history already stays: ClearRecent empties it.
func (s *Service) SetPrivacy(ctx context.Context, userID string, c api.PrivacyChange) (api.Privacy, error) {
	var keep *int64
	if c.KeepHistory != nil {
		keep = new(int64)
		if *c.KeepHistory {
			*keep = 1
		}
	}
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		if _, err := lock(ctx, tx, userID); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `UPDATE listeners SET share_listening = COALESCE($2, share_listening), keep_history = COALESCE($3, keep_history) WHERE user_id = $1`,
			userID, c.ShareListening, keep)
		return err
	})
	if err != nil {
		return api.Privacy{}, err
	}
	return s.Privacy(ctx, userID)
}

// maxFriends bounds one look at what others play.
const maxFriends = 100

// FriendsListening is what the people whom userID follows play now, of those who share it with their followers: nobody
// does without having said so. Latest first, at most 100.
func (s *Service) FriendsListening(ctx context.Context, userID string) (out api.FriendsListening, err error) {
	out.Items = []api.FriendListening{}
	rows, err := s.db.QueryContext(ctx, `SELECT f.item_id FROM followed_users f JOIN listeners l ON l.user_id = f.item_id WHERE f.user_id = $1 AND l.share_listening = $2`,
		userID, api.ShareFollowers)
	if err != nil {
		return out, err
	}
	defer rows.Close()
	var friends []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return out, err
		}
		friends = append(friends, id)
	}
	if err := rows.Err(); err != nil {
		return out, err
	}
	rows.Close()
	var playing []Listening
	for some := range slices.Chunk(friends, 500) {
		list, err := s.ask.Playing(ctx, some...)
		if err != nil {
			return out, err
		}
		playing = append(playing, list...)
	}
	slices.SortFunc(playing, func(a, b Listening) int { return cmp.Or(b.At.Compare(a.At), cmp.Compare(a.UserID, b.UserID)) })
	playing = playing[:min(len(playing), maxFriends)]
	var people, tracks []string
	for _, l := range playing {
		people, tracks = append(people, l.UserID), append(tracks, string(l.TrackID))
	}
	names, err := s.names(ctx, people...)
	if err != nil {
		return out, err
	}
	known, err := s.tracks(ctx, tracks...)
	for _, l := range playing {
		if t := known[l.TrackID]; t != nil {
			out.Items = append(out.Items, api.FriendListening{UserID: l.UserID, DisplayName: names[l.UserID], Track: *t, At: l.At})
		}
	}
	return out, err
}
