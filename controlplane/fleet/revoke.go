package fleet

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"
)

const (
	// maxRevoked bounds one answer to an edge, about half a megabyte; one that is new asks until it has all.
	maxRevoked = 10_000

	revokedEvery = 250 * time.Millisecond // how often a replica looks
)

// Revoke makes edges refuse tokens by their cti, from about half a second after the commit until the last of them ends.
// An empty list does nothing, and so does a repeat, but for a later end.
func (s *Service) Revoke(ctx context.Context, tx *sql.Tx, reason string, until time.Time, ctis ...string) error {
	for _, id := range ctis {
		// A later end is news: it gets a new number.
		if _, err := tx.ExecContext(ctx, `INSERT INTO revoked_tokens (cti, reason, created_at, expires_at, seq) VALUES ($1, $2, $3, $4, 0)
			ON CONFLICT (cti) DO UPDATE SET expires_at = excluded.expires_at, seq = 0 WHERE revoked_tokens.expires_at < excluded.expires_at`,
			id, reason, store.Micros(time.Now()), store.Micros(until)); err != nil {
			return fmt.Errorf("revoke token %s: %w", id, err)
		}
	}
	return nil
}

// Revoked is an edge's poll: it knows what was revoked up to a place, "" for the beginning, and is told what follows, when
// there is something or the wait is over. Errors: media.ErrInvalid for a place that is none.
func (s *Service) Revoked(ctx context.Context, place string, wait time.Duration) (api.RevokedFeed, error) {
	feed := api.RevokedFeed{Tokens: []api.RevokedToken{}, Next: place}
	seq, cti := int64(1), "" // 0 is what has no number yet
	if place != "" {
		number, rest, ok := strings.Cut(place, "-")
		n, err := strconv.ParseInt(number, 10, 64)
		if !ok || err != nil || n < 1 {
			return feed, fmt.Errorf("after: not a place of ours: %w", media.ErrInvalid)
		}
		seq, cti = n, rest
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		changed := s.recalled.next() // before the look, so that what comes after it is not missed
		err := s.revokedAfter(ctx, seq, cti, &feed)
		if err != nil || len(feed.Tokens) > 0 {
			return feed, err
		}
		select {
		case <-ctx.Done():
			return feed, ctx.Err()
		case <-timer.C:
			return feed, nil
		case <-changed:
		}
	}
}

func (s *Service) revokedAfter(ctx context.Context, seq int64, cti string, feed *api.RevokedFeed) error {
	rows, err := s.db.QueryContext(ctx, `SELECT cti, expires_at, seq FROM revoked_tokens WHERE (seq, cti) > ($1, $2) AND expires_at > $3 ORDER BY seq, cti LIMIT $4`,
		seq, cti, store.Micros(time.Now()), maxRevoked)
	if err != nil {
		return fmt.Errorf("read revoked tokens: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var t api.RevokedToken
		var until int64
		if err := rows.Scan(&t.CTI, &until, &seq); err != nil {
			return fmt.Errorf("read revoked tokens: %w", err)
		}
		t.ExpiresAt = store.Time(until)
		feed.Tokens = append(feed.Tokens, t)
		feed.Next = strconv.FormatInt(seq, 10) + "-" + t.CTI
	}
	feed.More = len(feed.Tokens) == maxRevoked
	return rows.Err()
}

// NumberRevoked gives what was revoked since the last time its place among what edges hear, and wakes those that wait.
func (s *Service) NumberRevoked(ctx context.Context) error {
	var waiting int
	if err := s.db.QueryRowContext(ctx, `SELECT count(*) FROM (SELECT 1 FROM revoked_tokens WHERE seq = 0 LIMIT 1) AS w`).Scan(&waiting); err != nil {
		return fmt.Errorf("read revoked tokens: %w", err)
	}
	if waiting > 0 {
		if err := s.db.Tx(ctx, func(tx *sql.Tx) error {
			// Microseconds, or one more than the last: it rises even over the loss of the database. All that has committed by now gets
			// the same number; what commits later gets a higher one, since this lock is held until our own commit.
			var seq int64
			if err := tx.QueryRowContext(ctx, `UPDATE revocation_clock SET seq = CASE WHEN seq >= $1 THEN seq + 1 ELSE $1 END WHERE id = 1 RETURNING seq`, store.Micros(time.Now())).Scan(&seq); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, `UPDATE revoked_tokens SET seq = $1 WHERE seq = 0`, seq)
			return err
		}); err != nil {
			return fmt.Errorf("number revoked tokens: %w", err)
		}
	}
	var seq int64
	if err := s.db.QueryRowContext(ctx, `SELECT seq FROM revocation_clock WHERE id = 1`).Scan(&seq); err != nil {
		return fmt.Errorf("read revoked tokens: %w", err)
	}
	s.recalled.tell(seq)
	return nil
}

// WatchRevoked does that again and again and forgets what has ended, until ctx ends.
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
		err := s.NumberRevoked(ctx)
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
