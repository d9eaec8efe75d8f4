package fleet

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"

	"github.com/oklog/ulid/v2"
)

const (
	maxFeed    = 1000                  // purges in one answer to an edge
	watchEvery = 50 * time.Millisecond // how often a replica looks for the purges of another
)

// Purge gives an order to all edges.
func (s *Service) Purge(ctx context.Context, n api.NewPurge) (api.Purge, error) {
	if strings.ContainsFunc(n.Value, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return api.Purge{}, fmt.Errorf("value: has control characters: %w", media.ErrInvalid)
	}
	soft := 0
	if n.Soft {
		soft = 1
	}
	p := api.Purge{ID: ulid.Make().String(), NewPurge: n}
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		now := time.Now()
		// Microseconds, or one more than the last: it rises even over the loss of the database.
		err := tx.QueryRowContext(ctx, `UPDATE purge_clock SET epoch = CASE WHEN epoch >= $1 THEN epoch + 1 ELSE $1 END WHERE id = 1 RETURNING epoch`, store.Micros(now)).Scan(&p.Epoch)
		if err != nil {
			return err
		}
		p.CreatedAt = store.Time(store.Micros(now))
		_, err = tx.ExecContext(ctx, `INSERT INTO purges (epoch, id, kind, value, soft, created_at) VALUES ($1, $2, $3, $4, $5, $6)`, p.Epoch, p.ID, n.Kind, n.Value, soft, store.Micros(now))
		return err
	})
	if err != nil {
		return api.Purge{}, err
	}
	s.news.tell(p.Epoch)
	p.Edges, err = s.purgeEdges(ctx, p.Epoch)
	return p, err
}

// PurgeByID returns an order and how far the edges are with it.
func (s *Service) PurgeByID(ctx context.Context, id string) (api.Purge, error) {
	p := api.Purge{ID: id}
	var soft, created int64
	err := s.db.QueryRowContext(ctx, `SELECT epoch, kind, value, soft, created_at FROM purges WHERE id = $1`, id).Scan(&p.Epoch, &p.Kind, &p.Value, &soft, &created)
	if errors.Is(err, sql.ErrNoRows) {
		return p, fmt.Errorf("purge %s: %w", id, media.ErrNotFound)
	} else if err != nil {
		return p, err
	}
	p.Soft, p.CreatedAt = soft != 0, store.Time(created)
	p.Edges, err = s.purgeEdges(ctx, p.Epoch)
	return p, err
}

func (s *Service) purgeEdges(ctx context.Context, epoch int64) ([]api.PurgeEdge, error) {
	edges, err := s.Edges(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := s.db.QueryContext(ctx, `SELECT edge_id, at FROM purge_acks WHERE epoch = $1`, epoch)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	done := map[string]time.Time{}
	for rows.Next() {
		var id string
		var at int64
		if err := rows.Scan(&id, &at); err != nil {
			return nil, err
		}
		done[id] = store.Time(at)
	}
	out := []api.PurgeEdge{}
	for _, e := range edges {
		p := api.PurgeEdge{EdgeID: e.ID, Name: e.Name, Region: e.Region, State: e.State}
		if at, ok := done[e.ID]; ok {
			p.DoneAt = &at
		}
		out = append(out, p)
	}
	return out, rows.Err()
}

// Purges is an edge's poll: it has applied all up to after, and is told what follows, when there is something or the
// wait is over.
func (s *Service) Purges(ctx context.Context, edge string, after int64, wait time.Duration) (api.PurgeFeed, error) {
	feed := api.PurgeFeed{Purges: []api.EdgePurge{}}
	if err := s.acknowledge(ctx, edge, after); err != nil {
		return feed, err
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		changed := s.news.next() // before the look, so that what comes after it is not missed
		rows, err := s.db.QueryContext(ctx, `SELECT epoch, kind, value, soft FROM purges WHERE epoch > $1 ORDER BY epoch LIMIT $2`, after, maxFeed)
		if err != nil {
			return feed, err
		}
		for rows.Next() {
			var p api.EdgePurge
			var soft int64
			if err := rows.Scan(&p.Epoch, &p.Kind, &p.Value, &soft); err != nil {
				return feed, errors.Join(err, rows.Close())
			}
			p.Soft = soft != 0
			feed.Purges = append(feed.Purges, p)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil || len(feed.Purges) > 0 {
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

// acknowledge notes that an edge has applied all purges up to an epoch.
func (s *Service) acknowledge(ctx context.Context, edge string, epoch int64) error {
	s.mu.Lock()
	before := s.purged[edge]
	s.mu.Unlock()
	if epoch <= before {
		return nil
	}
	_, err := s.db.ExecContext(ctx, `INSERT INTO purge_acks (epoch, edge_id, at) SELECT epoch, CAST($1 AS TEXT), CAST($2 AS BIGINT) FROM purges
		WHERE epoch > $3 AND epoch <= $4 ON CONFLICT (epoch, edge_id) DO NOTHING`, edge, store.Micros(time.Now()), before, epoch)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.purged[edge] = max(s.purged[edge], epoch)
	s.mu.Unlock()
	return nil
}

// WatchPurges tells waiting edges of purges that another replica took, until ctx ends. With an embedded database there is
// no other replica.
func (s *Service) WatchPurges(ctx context.Context) error {
	if s.db.Embedded {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		var epoch int64
		if err := s.db.QueryRowContext(ctx, `SELECT epoch FROM purge_clock WHERE id = 1`).Scan(&epoch); err == nil { // else the polls say what is wrong
			s.news.tell(epoch)
		}
	}
}

// newest wakes who waits for a purge. The zero value is ready.
type newest struct {
	mu      sync.Mutex // guards the fields below
	epoch   int64
	changed chan struct{} // closed when epoch rises; nil: nobody waits
}

func (n *newest) next() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.changed == nil {
		n.changed = make(chan struct{})
	}
	return n.changed
}

func (n *newest) tell(epoch int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if epoch <= n.epoch {
		return
	}
	n.epoch = epoch
	if n.changed != nil {
		close(n.changed)
		n.changed = nil
	}
}
