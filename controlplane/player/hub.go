package player

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"segue/controlplane/store"
)

const (
	beatEvery  = 5 * time.Second
	hubGone    = 30 * time.Second // without a beat; clocks of replicas may differ by a part of it
	sweepEvery = 15 * time.Second
	pollEvery  = time.Second // for ends of sessions, and for news while notices do not come
	chunk      = 500         // ids in one statement
)

// notice is what replicas tell each other.
type notice struct {
	Hub  string `json:"hub"`
	User string `json:"user"`
	Seq  int64  `json:"seq"`
}

// notify tells the streams of this replica and, through notices, those of others. A notice that cannot be sent is found
// out by a sweep.
func (s *Service) notify(n notice) {
	s.heard(n)
	n.Hub = s.hub.id
	body, err := json.Marshal(n)
	if err != nil {
		s.log.Error("bug: notice", "err", err)
		return
	}
	if err := s.notices.Publish(body); err != nil {
		s.log.Debug("notice is not sent", "err", err)
	}
}

func (s *Service) heard(n notice) {
	for _, st := range s.hub.streams(n.User) {
		if st.last.Load() < n.Seq {
			st.poke()
		}
	}
}

// Run keeps the streams of this replica informed and known to others until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	if err := s.beat(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("announce this replica's streams: %w", err)
	}
	var all sync.WaitGroup
	defer all.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	failed, ready := make(chan error, 1), make(chan struct{}, 1)
	all.Go(func() {
		failed <- s.notices.Subscribe(ctx, func() { ready <- struct{}{} }, func(body []byte) {
			var n notice
			if err := json.Unmarshal(body, &n); err != nil || n.Hub == s.hub.id || n.User == "" {
				return
			}
			s.heard(n)
		})
	})
	beat, sweep, poll := time.NewTicker(beatEvery), time.NewTicker(sweepEvery), time.NewTicker(pollEvery)
	defer beat.Stop()
	defer sweep.Stop()
	defer poll.Stop()
	failing, missed := false, false
	for {
		var err error
		select {
		case <-ctx.Done():
			s.EndStreams()
			gctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			if err := s.bury(gctx, s.hub.id, time.Now().Add(time.Hour)); err != nil {
				s.log.Warn("others learn late that this replica is gone", "err", err)
			}
			return nil
		case err := <-failed:
			if ctx.Err() == nil {
				return fmt.Errorf("notices between replicas: %w", err)
			}
			continue
		case <-ready: // what was told before was not heard
			err = s.compare(ctx)
		case <-beat.C:
			err = s.beat(ctx)
		case <-poll.C:
			s.endStreams()
			if away := !s.notices.Connected(); away || missed {
				missed = away // once more when they come again
				err = s.compare(ctx)
			}
		case <-sweep.C:
			if err = s.compare(ctx); err == nil {
				err = s.buryDead(ctx)
			}
		}
		if err != nil && ctx.Err() == nil && !failing {
			s.log.Warn("streams may be late, nothing is lost", "err", err)
		}
		failing = err != nil
	}
}

// beat says that this replica is alive. One that was taken for dead brings its streams back.
func (s *Service) beat(ctx context.Context) error {
	now := store.Micros(time.Now())
	res, err := s.db.ExecContext(ctx, `UPDATE player_hubs SET seen_at = $2 WHERE id = $1`, s.hub.id, now)
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err != nil {
		return err
	}
	if n == 0 {
		if _, err := s.db.ExecContext(ctx, `INSERT INTO player_hubs (id, seen_at) VALUES ($1, $2)`, s.hub.id, now); err != nil {
			return err
		}
		for _, st := range s.hub.streams("") {
			if err := st.insert(ctx, s.db); err != nil {
				return err
			}
		}
	}
	s.hub.mu.Lock()
	unsaved := s.hub.unsaved
	s.hub.unsaved = nil
	s.hub.mu.Unlock()
	for i, id := range unsaved {
		if _, err := s.db.ExecContext(ctx, `DELETE FROM player_streams WHERE id = $1`, id); err != nil {
			s.hub.mu.Lock()
			s.hub.unsaved = append(s.hub.unsaved, unsaved[i:]...)
			s.hub.mu.Unlock()
			return err
		}
	}
	return nil
}

// compare wakes the streams for which SQL has something newer than what they have.
func (s *Service) compare(ctx context.Context) error {
	behind := map[string][]*Stream{}
	var users []string
	for _, st := range s.hub.streams("") {
		if behind[st.who.UserID] == nil {
			users = append(users, st.who.UserID)
		}
		behind[st.who.UserID] = append(behind[st.who.UserID], st)
	}
	for some := range slices.Chunk(users, chunk) {
		in, args := anyOf(some)
		rows, err := s.db.QueryContext(ctx, `SELECT user_id, seq FROM players WHERE user_id IN `+in, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var user string
			var seq int64
			if err := rows.Scan(&user, &seq); err != nil {
				return err
			}
			for _, st := range behind[user] {
				if st.last.Load() < seq {
					st.poke()
				}
			}
		}
		if err := rows.Err(); err != nil {
			return err
		}
	}
	return nil
}

// endStreams ends those whose session has ended, or who had their time.
func (s *Service) endStreams() {
	now := time.Now()
	for _, st := range s.hub.streams("") {
		if s.ask.Ended(st.who.SessionID) || now.Sub(st.opened) > streamFor {
			st.end()
		}
	}
}

// buryDead takes away what replicas left that stopped without a word.
func (s *Service) buryDead(ctx context.Context) error {
	before := time.Now().Add(-hubGone)
	rows, err := s.db.QueryContext(ctx, `SELECT id FROM player_hubs WHERE seen_at < $1`, store.Micros(before))
	if err != nil {
		return err
	}
	defer rows.Close()
	var dead []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return err
		}
		dead = append(dead, id)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	rows.Close()
	for _, id := range dead {
		if err := s.bury(ctx, id, before); err != nil {
			return err
		}
	}
	// What a replica wrote after its burial, before it stopped for good.
	_, err = s.db.ExecContext(ctx, `DELETE FROM player_streams WHERE hub_id NOT IN (SELECT id FROM player_hubs)`)
	return err
}

// bury removes a hub that was not seen since before, with its streams, and marks the people whose devices those were.
func (s *Service) bury(ctx context.Context, id string, before time.Time) error {
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `DELETE FROM player_hubs WHERE id = $1 AND seen_at < $2`, id, store.Micros(before))
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err // it lives, or another replica was faster
		}
		if _, err := tx.ExecContext(ctx, `UPDATE players SET seq = seq + 1, devices_seq = seq + 1 WHERE user_id IN (SELECT user_id FROM player_streams WHERE hub_id = $1)`, id); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM player_streams WHERE hub_id = $1`, id)
		return err
	})
}

// Export returns all that is kept of a person, as JSON can hold it.
func (s *Service) Export(ctx context.Context, userID string) (any, error) {
	p, err := s.Player(ctx, userID)
	if err != nil {
		return nil, err
	}
	q, err := s.Queue(ctx, userID, 0)
	return map[string]any{"state": p.State, "queue": q}, err
}

// DeviceRemoved runs in the transaction that takes a device from a person: it is active no longer and gets no more
// commands. Its streams end with its session.
func (s *Service) DeviceRemoved(ctx context.Context, tx *sql.Tx, userID, deviceID string) error {
	_, err := s.changeIn(ctx, tx, userID, func(tx *sql.Tx, p *row) error {
		if p.devicesSeq = p.seq; p.active == deviceID {
			p.active, p.stateSeq, p.paused, p.at = "", p.seq, true, time.Now()
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM player_streams WHERE user_id = $1 AND device_id = $2`, userID, deviceID); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM player_commands WHERE user_id = $1 AND device_id = $2`, userID, deviceID)
		return err
	})
	return err
}
