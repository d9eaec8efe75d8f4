package plays

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// Reader asks ClickHouse. It is safe for concurrent use.
type Reader struct {
	opts *clickhouse.Options
	mu   sync.Mutex // guards conn
	conn driver.Conn
}

// NewReader takes a URL as NewSink does. It connects when it is first asked.
func NewReader(url string) (*Reader, error) {
	opts, err := options(url)
	return &Reader{opts: opts}, err
}

// Close ends its connections.
func (r *Reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn == nil {
		return nil
	}
	conn := r.conn
	r.conn = nil
	return conn.Close()
}

func (r *Reader) connect() (driver.Conn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var err error
	if r.conn == nil {
		r.conn, err = clickhouse.Open(r.opts)
	}
	return r.conn, err
}

// Rows calls each for every row of an answer. Parameters stand in the statement as {name:Type}. Tables come with the
// first event: until then there is an error.
func (r *Reader) Rows(ctx context.Context, sql string, params map[string]string, each func(scan func(...any) error) error) error {
	conn, err := r.connect()
	if err != nil {
		return fmt.Errorf("clickhouse: %w", err)
	}
	rows, err := conn.Query(clickhouse.Context(ctx, clickhouse.WithParameters(params)), sql)
	if err != nil {
		return fmt.Errorf("clickhouse: %w", err)
	}
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return errors.Join(err, rows.Close())
		}
	}
	return errors.Join(rows.Err(), rows.Close())
}

// Pair is what one listener did with one track.
type Pair struct {
	UserKey, TrackID, Country, Plan string
	Heard, Skipped                  uint64 // plays that counted; plays that were left before they did
	Last                            time.Time
}

// pairsAtOnce bounds what ClickHouse adds up at a time, in plays: some 200 bytes each.
const pairsAtOnce = 5_000_000

// Pairs calls add for every listener and track of the plays that were granted from since on and before until. ClickHouse
// adds up a part of the listeners at a time, so that it needs no more memory for more of them.
func (r *Reader) Pairs(ctx context.Context, since, until time.Time, add func(Pair)) error {
	params := map[string]string{"since": since.UTC().Format("2006-01-02 15:04:05.000"), "until": until.UTC().Format("2006-01-02 15:04:05.000")}
	const within = ` play_at >= {since:DateTime64(3, 'UTC')} AND play_at < {until:DateTime64(3, 'UTC')}`
	var n uint64
	if err := r.Rows(ctx, `SELECT count() FROM play_states WHERE`+within, params, func(scan func(...any) error) error { return scan(&n) }); err != nil {
		return err
	}
	parts := n/pairsAtOnce + 1
	params["parts"] = fmt.Sprint(parts)
	for part := range parts {
		params["part"] = fmt.Sprint(part)
		// Not by the view plays: the listeners' part has to be chosen before plays are put together, and every row of a play names
		// its listener.
		err := r.Rows(ctx, `SELECT user_key, track_id, max(country) AS country, any(plan) AS plan, countIf(counted) AS heard, countIf(ended AND NOT counted) AS skipped, max(last_at) AS last
			FROM (SELECT toString(any(s.user_key)) AS user_key, toString(any(s.track_id)) AS track_id, toString(max(s.country)) AS country, toString(any(s.plan)) AS plan,
				max(s.played_ms) >= least(30000, greatest(max(s.duration_ms), 1000) - 500) AS counted, max(s.ended) AS ended, CAST(max(s.last_at), 'DateTime64(3, \'UTC\')') AS last_at
				FROM play_states AS s WHERE`+within+` AND cityHash64(s.user_key) % {parts:UInt64} = {part:UInt64} GROUP BY s.play_id)
			GROUP BY user_key, track_id`, params, func(scan func(...any) error) error {
			var p Pair
			if err := scan(&p.UserKey, &p.TrackID, &p.Country, &p.Plan, &p.Heard, &p.Skipped, &p.Last); err != nil {
				return err
			}
			add(p)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
