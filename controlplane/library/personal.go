package library

import (
	"context"
	"database/sql"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
)

// export is all that the library keeps of a person.
type export struct {
	Privacy         api.Privacy `json:"privacy"`
	Tracks          []kept      `json:"tracks"`
	Albums          []kept      `json:"albums"`
	FollowedArtists []kept      `json:"followed_artists"`
	FollowedUsers   []kept      `json:"followed_users"`
	Blocked         []kept      `json:"blocked"`
	RecentlyPlayed  []recent    `json:"recently_played"`
}

type kept struct {
	ID      string    `json:"id"`
	AddedAt time.Time `json:"added_at"`
}

type recent struct {
	PlayID   string          `json:"play_id"`
	TrackID  string          `json:"track_id"`
	PlayedAt time.Time       `json:"played_at"`
	Context  api.PlayContext `json:"context"`
}

// Export returns all it keeps of a person, as JSON can hold it: ids, not what they name. Who follows the person is the
// followers' data and not in it.
func (s *Service) Export(ctx context.Context, userID string) (any, error) {
	out := export{RecentlyPlayed: []recent{}}
	var err error
	if out.Privacy, err = s.Privacy(ctx, userID); err != nil {
		return nil, err
	}
	for _, l := range []struct {
		view
		to *[]kept
	}{{Tracks.view(), &out.Tracks}, {Albums.view(), &out.Albums}, {Artists.view(), &out.FollowedArtists}, {Users.view(), &out.FollowedUsers}, {blocked, &out.Blocked}} {
		*l.to = []kept{}
		for cursor := ""; ; {
			list, next, err := s.page(ctx, l.view, userID, cursor, 1000)
			if err != nil {
				return nil, err
			}
			for _, e := range list {
				*l.to = append(*l.to, kept{e.id, e.at})
			}
			if cursor = next; cursor == "" {
				break
			}
		}
	}
	rows, err := s.db.QueryContext(ctx, `SELECT play_id, track_id, context_type, context_id, played_at FROM recent_plays WHERE user_id = $1 ORDER BY played_at DESC, play_id DESC`, userID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var r recent
		var micros int64
		if err := rows.Scan(&r.PlayID, &r.TrackID, &r.Context.Type, &r.Context.ID, &micros); err != nil {
			return nil, err
		}
		r.PlayedAt = store.Time(micros)
		out.RecentlyPlayed = append(out.RecentlyPlayed, r)
	}
	return out, rows.Err()
}

// Forget runs in the transaction that deletes the person, before the row goes and takes the lists with it: it counts
// them out where others count them.
func (s *Service) Forget(ctx context.Context, tx *sql.Tx, userID string) error {
	if _, err := lock(ctx, tx, userID); err != nil {
		return err
	}
	for _, q := range []string{
		`UPDATE listeners SET followers = followers - 1 WHERE user_id IN (SELECT item_id FROM followed_users WHERE user_id = $1)`,
		`UPDATE listeners SET users = users - 1 WHERE user_id IN (SELECT user_id FROM followed_users WHERE item_id = $1)`,
		`DELETE FROM followed_users WHERE user_id = $1 OR item_id = $1`,
	} {
		if _, err := tx.ExecContext(ctx, q, userID); err != nil {
			return err
		}
	}
	return nil
}
