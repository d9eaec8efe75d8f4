package plays

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"segue/controlplane/store"
	"segue/internal/eventlog"
)

// Forgetter deletes the rows of people whose account was deleted. The wish stands in SQL, in the transaction of the account's end, and is
// carried out when ClickHouse is there: at once, and again until nothing of theirs can be under way any more.
type Forgetter struct {
	db     *store.DB
	ingest *Ingest
	sink   *Sink // nil: no ClickHouse, wishes wait
	log    *eventlog.Log
}

// NewForgetter wires it.
func NewForgetter(db *store.DB, ingest *Ingest, sink *Sink, log *eventlog.Log) *Forgetter {
	return &Forgetter{db, ingest, sink, log}
}

const (
	forgetEvery = 5 * time.Second
	// forgetAgain is the pause before rows are looked for again.
	forgetAgain = 10 * time.Minute
	// forgetFor is how long something may be under way: what other replicas remember of plays, and accesses that were granted.
	forgetFor = 2 * time.Hour
)

// Forget notes the wish; it has the signature of identity.Personal.Forget.
func (f *Forgetter) Forget(ctx context.Context, tx *sql.Tx, userID string) error {
	f.ingest.forget(userID)
	now := store.Micros(time.Now())
	_, err := tx.ExecContext(ctx, `INSERT INTO play_forgets (user_key, asked_at, next_at) VALUES ($1, $2, $2) ON CONFLICT (user_key) DO NOTHING`, f.ingest.UserKey(userID), now)
	if err != nil {
		return fmt.Errorf("forget plays: %w", err)
	}
	return nil
}

// Run carries wishes out until ctx ends.
func (f *Forgetter) Run(ctx context.Context, failed func(error)) error {
	t := time.NewTicker(forgetEvery)
	defer t.Stop()
	failing := false
	for {
		err := f.due(ctx)
		if err != nil && ctx.Err() == nil && !failing {
			failed(err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// due carries out what is due now. Replicas that do the same at once do no harm.
func (f *Forgetter) due(ctx context.Context) error {
	if f.sink == nil {
		return nil
	}
	rows, err := f.db.QueryContext(ctx, `SELECT user_key, asked_at FROM play_forgets WHERE next_at <= $1 ORDER BY next_at LIMIT 100`, store.Micros(time.Now()))
	if err != nil {
		return fmt.Errorf("forget plays: %w", err)
	}
	defer rows.Close()
	wishes := map[string]time.Time{}
	for rows.Next() {
		var key string
		var asked int64
		if err := rows.Scan(&key, &asked); err != nil {
			return fmt.Errorf("forget plays: %w", err)
		}
		wishes[key] = store.Time(asked)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil { // closed before the next statement: SQLite has one connection to give
		return fmt.Errorf("forget plays: %w", err)
	}
	for key, asked := range wishes {
		done := time.Since(asked) > forgetFor
		for _, feed := range feeds {
			if !done {
				break
			}
			lag, err := f.log.Lag(ctx, feed.stream.Name, readerName)
			if err != nil {
				return fmt.Errorf("forget plays: %w", err)
			}
			done = lag.Oldest < time.Since(asked)-forgetFor // what waits was taken after that
		}
		if err := f.sink.Forget(ctx, key); err != nil {
			return fmt.Errorf("forget plays: %w", err)
		}
		if done {
			_, err = f.db.ExecContext(ctx, `DELETE FROM play_forgets WHERE user_key = $1`, key)
		} else {
			_, err = f.db.ExecContext(ctx, `UPDATE play_forgets SET next_at = $2 WHERE user_key = $1`, key, store.Micros(time.Now().Add(forgetAgain)))
		}
		if err != nil {
			return fmt.Errorf("forget plays: %w", err)
		}
	}
	return nil
}

// Forget deletes the rows of one pseudonym: events, what is known of the plays, and the requests and reports of their sessions. Sums of many people
// stay as they are; nobody is known from them.
func (s *Sink) Forget(ctx context.Context, userKey string) error {
	conn, err := s.open(ctx)
	if err != nil {
		return err
	}
	on := s.schema.funcs()["on"].(func() string)()
	// A play's row goes last: with it, nobody knows any more which sessions to look for.
	for {
		rows, err := conn.Query(ctx, "SELECT DISTINCT toString(play_id) FROM play_states WHERE user_key = toFixedString(?, 32) LIMIT 1000", userKey)
		if err != nil {
			return err
		}
		var ids []string
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				rows.Close()
				return err
			}
			ids = append(ids, id)
		}
		if err := rows.Err(); err != nil || len(ids) == 0 {
			return err
		}
		in := " IN ('" + strings.Join(ids, "','") + "')" // ULIDs
		for _, d := range []struct{ table, where string }{{"edge_requests", "sid" + in}, {"cmcd_events", "sid" + in}, {"play_events", "play_id" + in}, {"play_states", "play_id" + in}} {
			if err := conn.Exec(ctx, "DELETE FROM "+s.schema.local(d.table)+on+" WHERE "+d.where+" SETTINGS lightweight_deletes_sync = 2"); err != nil {
				return fmt.Errorf("delete from %s: %w", d.table, err)
			}
		}
	}
}
