package library

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"
)

var (
	followers = view{"followed_users", "item_id", "user_id"}
	blocked   = view{"blocked_users", "user_id", "item_id"}
)

// lockBoth locks two people, always in the same order.
func lockBoth(ctx context.Context, tx *sql.Tx, a, b string) error {
	if _, err := lock(ctx, tx, min(a, b)); err != nil {
		return err
	}
	_, err := lock(ctx, tx, max(a, b))
	return err
}

// followUser: somebody who is not to be found, or has blocked the caller, is media.ErrNotFound like who does not exist.
// Who follows already goes on, whatever became of the profile.
func (s *Service) followUser(ctx context.Context, userID, id string) error {
	if userID == id {
		return fmt.Errorf("id: one does not follow oneself: %w", media.ErrInvalid)
	}
	people, err := s.ask.People(ctx, id)
	if err != nil {
		return err
	}
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		if err := lockBoth(ctx, tx, userID, id); err != nil {
			return err
		}
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM followed_users WHERE user_id = $1 AND item_id = $2`, userID, id).Scan(&n); err != nil || n > 0 {
			return err
		}
		// Under both locks: who blocks at this moment has either done so or will find this follower.
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM blocked_users WHERE user_id = $1 AND item_id = $2`, id, userID).Scan(&n); err != nil {
			return err
		}
		if n > 0 || len(people) == 0 || !people[0].Discoverable {
			return fmt.Errorf("user %s: %w", id, media.ErrNotFound)
		}
		if _, err := add(ctx, tx, userID, Users, id); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `UPDATE listeners SET followers = followers + 1 WHERE user_id = $1`, id)
		return err
	})
}

// unfollow ends that userID follows id.
func unfollow(ctx context.Context, tx *sql.Tx, userID, id string) error {
	if err := lockBoth(ctx, tx, userID, id); errors.Is(err, media.ErrNotFound) {
		return nil // an account that is gone is followed by nobody
	} else if err != nil {
		return err
	}
	if was, err := remove(ctx, tx, userID, Users, id); err != nil || !was {
		return err
	}
	_, err := tx.ExecContext(ctx, `UPDATE listeners SET followers = followers - 1 WHERE user_id = $1`, id)
	return err
}

// RemoveFollower makes somebody follow no longer; they may follow again. Repeating it changes nothing.
func (s *Service) RemoveFollower(ctx context.Context, userID, follower string) error {
	if !media.ValidID(follower) {
		return nil
	}
	return s.db.Tx(ctx, func(tx *sql.Tx) error { return unfollow(ctx, tx, follower, userID) })
}

// maxBlocked bounds a person's list of blocked people.
const maxBlocked = 5000

// Block ends that two people follow each other; id cannot follow userID again, and does not learn why. Errors:
// media.ErrNotFound for an account that does not exist, media.ErrInvalid for oneself, media.ErrTooLarge.
func (s *Service) Block(ctx context.Context, userID, id string) error {
	if userID == id {
		return fmt.Errorf("id: one does not block oneself: %w", media.ErrInvalid)
	}
	if !media.ValidID(id) {
		return fmt.Errorf("user %q: %w", id, media.ErrNotFound)
	}
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		if err := lockBoth(ctx, tx, userID, id); err != nil {
			return err
		}
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM blocked_users WHERE user_id = $1`, userID).Scan(&n); err != nil {
			return err
		}
		if n >= maxBlocked {
			return fmt.Errorf("a list of blocked people holds at most %d: %w", maxBlocked, media.ErrTooLarge)
		}
		if err := unfollow(ctx, tx, userID, id); err != nil {
			return err
		}
		if err := unfollow(ctx, tx, id, userID); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO blocked_users (user_id, item_id, added_at) VALUES ($1, $2, $3) ON CONFLICT (user_id, item_id) DO NOTHING`,
			userID, id, store.Micros(time.Now()))
		return err
	})
}

// Unblock ends a Block; nobody follows by it. Repeating it changes nothing.
func (s *Service) Unblock(ctx context.Context, userID, id string) error {
	if !media.ValidID(id) {
		return nil
	}
	_, err := s.db.ExecContext(ctx, `DELETE FROM blocked_users WHERE user_id = $1 AND item_id = $2`, userID, id)
	return err
}

// FollowedArtists pages through the followed artists, newest first.
func (s *Service) FollowedArtists(ctx context.Context, userID, cursor string, limit int) (p api.Page[api.FollowedArtist], err error) {
	list, next, err := s.page(ctx, Artists.view(), userID, cursor, limit)
	if err != nil {
		return p, err
	}
	artists, err := s.ask.Artists(ctx, ids(list)...)
	known := map[media.ArtistID]*api.Artist{}
	for i := range artists {
		known[artists[i].ID] = &artists[i]
	}
	p.Items, p.Next = []api.FollowedArtist{}, next
	for _, e := range list {
		a := known[media.ArtistID(e.id)]
		p.Items = append(p.Items, api.FollowedArtist{ID: media.ArtistID(e.id), AddedAt: e.at, Available: a != nil && (a.Unavailable == "" || a.MergedInto != ""), Artist: a})
	}
	return p, err
}

// FollowedUsers, Followers and Blocked page through people, newest first.
func (s *Service) FollowedUsers(ctx context.Context, userID, cursor string, limit int) (api.Page[api.Person], error) {
	return s.people(ctx, Users.view(), userID, cursor, limit)
}

// Followers: see FollowedUsers.
func (s *Service) Followers(ctx context.Context, userID, cursor string, limit int) (api.Page[api.Person], error) {
	return s.people(ctx, followers, userID, cursor, limit)
}

// Blocked: see FollowedUsers.
func (s *Service) Blocked(ctx context.Context, userID, cursor string, limit int) (api.Page[api.Person], error) {
	return s.people(ctx, blocked, userID, cursor, limit)
}

func (s *Service) people(ctx context.Context, v view, userID, cursor string, limit int) (p api.Page[api.Person], err error) {
	list, next, err := s.page(ctx, v, userID, cursor, limit)
	if err != nil {
		return p, err
	}
	names, err := s.names(ctx, ids(list)...)
	p.Items, p.Next = []api.Person{}, next
	for _, e := range list {
		p.Items = append(p.Items, api.Person{ID: e.id, DisplayName: names[e.id], AddedAt: e.at})
	}
	return p, err
}

func (s *Service) names(ctx context.Context, ids ...string) (map[string]string, error) {
	list, err := s.ask.People(ctx, ids...)
	out := map[string]string{}
	for _, p := range list {
		out[p.ID] = p.DisplayName
	}
	return out, err
}

// Social is how many follow a public profile, and whether the caller does. Errors: media.ErrNotFound, also for a profile
// that is not public or whose owner has blocked the caller, unless it is the caller's own.
func (s *Service) Social(ctx context.Context, userID, id string) (api.Social, error) {
	out := api.Social{UserID: id}
	people, err := s.ask.People(ctx, id)
	if err != nil {
		return out, err
	}
	var block int64
	err = s.db.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM blocked_users WHERE user_id = $1 AND item_id = $2),
		(SELECT count(*) FROM followed_users WHERE user_id = $2 AND item_id = $1) > 0, COALESCE((SELECT followers FROM listeners WHERE user_id = $1), 0)`, id, userID).
		Scan(&block, &out.Following, &out.Followers)
	if err != nil {
		return out, err
	}
	if id != userID && (block > 0 || len(people) == 0 || !people[0].Discoverable) {
		return api.Social{}, fmt.Errorf("user %s: %w", id, media.ErrNotFound)
	}
	return out, nil
}
