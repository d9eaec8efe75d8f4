package fleet

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
)

const (
	// maxRevoked bounds the list that every edge holds and gets whole with each change: 20,000 are about 600 KB. Of more,
	// those of streams that moved to another device are left out first: each is for one track.
	maxRevoked = 20_000

	revokedEvery = 250 * time.Millisecond // how often a replica reads the list
)

// Revoke makes edges refuse tokens by their cti, from about half a second after the commit until the last of them ends.
// An empty list does nothing, and so does a repeat, but for a later end.
func (s *Service) Revoke(ctx context.Context, tx *sql.Tx, reason string, until time.Time, ctis ...string) error {
	for _, id := range ctis {
		if _, err := tx.ExecContext(ctx, `INSERT INTO revoked_tokens (cti, reason, created_at, expires_at) VALUES ($1, $2, $3, $4)
			ON CONFLICT (cti) DO UPDATE SET expires_at = excluded.expires_at WHERE revoked_tokens.expires_at < excluded.expires_at`,
			id, reason, store.Micros(time.Now()), store.Micros(until)); err != nil {
			return fmt.Errorf("revoke token %s: %w", id, err)
		}
	}
	return nil
}

// revoked is the list as edges get it. digest stands for it in revisions, so that a poll costs the same at any length.
type revoked struct {
	list   []string
	digest string
}

// ReadRevoked brings the list in memory up to date. It is read once before edges are answered.
func (s *Service) ReadRevoked(ctx context.Context) error {
	rows, err := s.db.QueryContext(ctx, `SELECT cti FROM revoked_tokens WHERE expires_at > $1
		ORDER BY CASE WHEN reason = $2 THEN 1 ELSE 0 END, expires_at DESC, cti LIMIT $3`, store.Micros(time.Now()), api.RevokedTakenOver, maxRevoked)
	if err != nil {
		return fmt.Errorf("read revoked tokens: %w", err)
	}
	defer rows.Close()
	r := revoked{list: []string{}}
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return fmt.Errorf("read revoked tokens: %w", err)
		}
		r.list = append(r.list, id)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read revoked tokens: %w", err)
	}
	slices.Sort(r.list)
	r.digest = digest(strings.Join(r.list, " "))
	s.revoked.Store(&r)
	return nil
}

// WatchRevoked keeps the list up to date and forgets what has ended, until ctx ends. A database that does not answer
// leaves the list as it was.
func (s *Service) WatchRevoked(ctx context.Context, failed func(error)) error {
	tick := time.NewTicker(revokedEvery)
	defer tick.Stop()
	ok, swept := true, time.Time{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := s.ReadRevoked(ctx)
		if err != nil && ok && ctx.Err() == nil {
			failed(err)
		}
		if ok = err == nil; ok && time.Since(swept) > time.Minute {
			swept = time.Now()
			if _, err := s.db.ExecContext(ctx, `DELETE FROM revoked_tokens WHERE expires_at <= $1`, store.Micros(swept.Add(-time.Hour))); err != nil && ctx.Err() == nil {
				failed(fmt.Errorf("forget ended revocations: %w", err))
			}
		}
	}
}
