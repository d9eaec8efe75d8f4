// Package pictures deletes covers that nothing names any more: of albums that got another one, of playlists that were
// changed or deleted, of an ingest that broke off.
//
//	origin: art/<id>/<version>/…  named by a row?  -> leave it
//	                              not named        -> mark it; still so after the grace -> delete it
//
// The grace is there for those who hold an answer that names the old one: pages, caches, exports; and for an ingest that has
// written its objects and not yet its row. What is not named is found by looking, not by being told: no service has to think
// of it, and nothing is forgotten in a crash.
package pictures

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"segue/controlplane/store"
	"segue/media"
)

// Objects is the part of origin.Store that is needed.
type Objects interface {
	List(ctx context.Context, prefix string) iter.Seq2[media.Object, error]
	Delete(ctx context.Context, key media.Key) error
}

// Picture is a folder of sizes: art/<Of>/<Version>/.
type Picture struct {
	Of      string // id of an album or a playlist
	Version media.Version
}

// Grace is how long a picture that is not named stays, unless the configuration says otherwise.
const Grace = 7 * 24 * time.Hour

// every is how often one of the replicas looks, and lookEvery how often each asks whether it is its turn.
const (
	every     = 24 * time.Hour
	lookEvery = 10 * time.Minute
)

// Service is safe for concurrent use.
type Service struct {
	db      *store.DB
	objects Objects
	named   func(ctx context.Context, of ...Picture) (map[Picture]bool, error)
	grace   time.Duration
}

// New wires the service. named says which of some pictures, at most 500, something names. grace 0 is Grace.
func New(db *store.DB, objects Objects, grace time.Duration, named func(ctx context.Context, of ...Picture) (map[Picture]bool, error)) *Service {
	if grace == 0 {
		grace = Grace
	}
	return &Service{db, objects, named, grace}
}

// Run looks once a day, on one replica, until ctx ends. A grace below zero keeps everything.
func (s *Service) Run(ctx context.Context, failed func(error)) error {
	if s.grace < 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			mine, err := s.turn(ctx, now)
			if err == nil && mine {
				_, err = s.Sweep(ctx, now)
			}
			if err != nil && ctx.Err() == nil {
				failed(fmt.Errorf("old pictures: %w", err))
			}
		}
	}
}

// turn is true for one replica a day.
func (s *Service) turn(ctx context.Context, now time.Time) (bool, error) {
	res, err := s.db.ExecContext(ctx, `UPDATE picture_turn SET next_at = $1 WHERE id = 1 AND next_at <= $2`, store.Micros(now.Add(every)), store.Micros(now))
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

// few is how many pictures are looked at together.
const few = 500

// Sweep looks at all pictures once and returns how many it deleted.
func (s *Service) Sweep(ctx context.Context, now time.Time) (deleted int, err error) {
	var some []Picture
	look := func() error {
		n, err := s.look(ctx, some, now)
		deleted += n
		some = some[:0]
		return err
	}
	for o, err := range s.objects.List(ctx, "art/") { // in the order of keys: those of a picture come together
		if err != nil {
			return deleted, err
		}
		p, ok := parse(o.Key)
		if !ok || len(some) > 0 && some[len(some)-1] == p {
			continue
		}
		if len(some) == few {
			if err := look(); err != nil {
				return deleted, err
			}
		}
		some = append(some, p)
	}
	if err := look(); err != nil {
		return deleted, err
	}
	// Marks of what is gone by other ways. One that is needed still is made again: it was looked at just now.
	_, err = s.db.ExecContext(ctx, `DELETE FROM old_pictures WHERE seen_at < $1`, store.Micros(now))
	return deleted, err
}

// parse reads art/<id>/<version>/<size>.jpg; anything else is not ours to judge.
func parse(key media.Key) (Picture, bool) {
	parts := strings.Split(string(key), "/")
	if len(parts) != 4 || parts[0] != "art" || !media.ValidID(parts[1]) {
		return Picture{}, false
	}
	return Picture{parts[1], media.Version(parts[2])}, true
}

// look marks those that nothing names, takes the marks of the others away, and deletes those whose grace is over.
func (s *Service) look(ctx context.Context, list []Picture, now time.Time) (deleted int, err error) {
	if len(list) == 0 {
		return 0, nil
	}
	named, err := s.named(ctx, list...)
	if err != nil {
		return 0, err
	}
	for _, p := range list {
		if named[p] {
			continue // its mark, if it has one, is older than this look: Sweep takes it away
		}
		var since int64
		if err := s.db.QueryRowContext(ctx, `INSERT INTO old_pictures (item_id, version, marked_at, seen_at) VALUES ($1, $2, $3, $3)
			ON CONFLICT (item_id, version) DO UPDATE SET seen_at = excluded.seen_at RETURNING marked_at`, p.Of, string(p.Version), store.Micros(now)).Scan(&since); err != nil {
			return deleted, err
		}
		if store.Time(since).Add(s.grace).After(now) {
			continue
		}
		// Once more, right before: the same picture may have been taken up again.
		if again, err := s.named(ctx, p); err != nil || again[p] {
			return deleted, err
		}
		for o, err := range s.objects.List(ctx, media.ArtPrefix(media.AlbumID(p.Of), p.Version)) {
			if err == nil {
				err = s.objects.Delete(ctx, o.Key)
			}
			if err != nil {
				return deleted, err
			}
		}
		if _, err := s.db.ExecContext(ctx, `DELETE FROM old_pictures WHERE item_id = $1 AND version = $2`, p.Of, string(p.Version)); err != nil {
			return deleted, err
		}
		deleted++
	}
	return deleted, nil
}

// Named is a source for New: pictures of albums and of playlists are named by their rows, those of a playlist also by the
// changes of it that can be undone.
func Named(ctx context.Context, db *store.DB, of ...Picture) (map[Picture]bool, error) {
	out := map[Picture]bool{}
	var marks []string
	var args []any
	byID := map[string][]Picture{}
	for _, p := range of {
		if byID[p.Of] == nil {
			args = append(args, p.Of)
			marks = append(marks, fmt.Sprintf("$%d", len(args)))
		}
		byID[p.Of] = append(byID[p.Of], p)
	}
	if len(args) == 0 {
		return out, nil
	}
	in := strings.Join(marks, ", ")
	rows, err := db.QueryContext(ctx, `SELECT id, art_version FROM albums WHERE id IN (`+in+`) UNION ALL SELECT id, cover FROM playlists WHERE id IN (`+in+`)
		UNION ALL SELECT playlist_id, changes FROM playlist_revisions WHERE playlist_id IN (`+in+`) AND changes LIKE '%"cover"%'`, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id, text string
		if err := rows.Scan(&id, &text); err != nil {
			return nil, err
		}
		for _, p := range byID[id] {
			if strings.Contains(text, string(p.Version)) { // a version is 26 characters of a hash
				out[p] = true
			}
		}
	}
	return out, errors.Join(rows.Err(), ctx.Err())
}
