package playback

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"
)

const (
	// liveFor is how long a stream lives after its last sign: two reports of 30 s.
	liveFor = time.Minute
	// writeEvery is how long signs of life are gathered before they are written. A report every 30 s and this stay well
	// below liveFor.
	writeEvery = 2 * time.Second
	// maxSigns bounds what is gathered: of more, streams live on by their next sign.
	maxSigns = 200_000
)

// slot is one stream of an account: a device, the play it is at, and the one before, which may still sound while the next
// one is prepared. play "": the slot is empty.
type slot struct {
	number       int64
	device, name string
	play, before string
	seen         time.Time
}

func (s slot) live(now time.Time) bool { return s.play != "" && now.Sub(s.seen) < liveFor }

// take gives a play a slot: its device's own, a free one, or, when it may take over, that of another device. It returns the
// streams that ended by that. Slot 0's lock puts all starts of an account in one order.
func (s *Service) take(ctx context.Context, tx *sql.Tx, l api.Listener, name, play string, streams int, takeOver bool, now time.Time) (ended []slot, err error) {
	slots, err := lockStreams(ctx, tx, l.UserID)
	if err != nil {
		return nil, err
	}
	mine := slot{number: -1}
	var others []slot // live ones of other devices, the one that is longest silent first
	used := map[int64]bool{}
	for _, k := range slots {
		switch {
		case k.device == l.DeviceID && k.play != "":
			mine = k
		case k.live(now):
			others = append(others, k)
			used[k.number] = true
		}
	}
	slices.SortStableFunc(others, func(a, b slot) int { return a.seen.Compare(b.seen) })
	if over := len(others) - (max(1, streams) - 1); over > 0 {
		if !takeOver {
			busy := &api.DevicesError{Reason: ErrStreamLimit}
			for _, k := range others {
				busy.Have = append(busy.Have, api.BusyDevice{ID: k.device, Name: k.name, PlayID: k.play})
			}
			return nil, busy
		}
		for _, k := range others[:over] {
			if err := s.end(ctx, tx, l.UserID, k, api.RevokedTakenOver); err != nil {
				return nil, err
			}
			used[k.number] = false
			ended = append(ended, k)
		}
	}
	next := slot{number: mine.number, device: l.DeviceID, name: name, play: play}
	if mine.live(now) {
		next.before = mine.play
	}
	for next.number < 0 || used[next.number] {
		next.number++
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO streams (user_id, slot, device_id, device_name, play_id, before_id, seen_at, turn) VALUES ($1, $2, $3, $4, $5, $6, $7, 0)
		ON CONFLICT (user_id, slot) DO UPDATE SET device_id = excluded.device_id, device_name = excluded.device_name, play_id = excluded.play_id,
		before_id = excluded.before_id, seen_at = excluded.seen_at`, l.UserID, next.number, next.device, next.name, next.play, next.before, store.Micros(now))
	return ended, err
}

// lockStreams reads the slots of an account and keeps others from changing who holds them until the transaction ends.
func lockStreams(ctx context.Context, tx *sql.Tx, userID string) ([]slot, error) {
	if _, err := tx.ExecContext(ctx, `INSERT INTO streams (user_id, slot, device_id, device_name, play_id, before_id, seen_at, turn) VALUES ($1, 0, '', '', '', '', 0, 0)
		ON CONFLICT (user_id, slot) DO UPDATE SET turn = streams.turn + 1`, userID); err != nil {
		return nil, err
	}
	return readStreams(ctx, tx, userID)
}

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

func readStreams(ctx context.Context, q querier, userID string) ([]slot, error) {
	rows, err := q.QueryContext(ctx, `SELECT slot, device_id, device_name, play_id, before_id, seen_at FROM streams WHERE user_id = $1 ORDER BY slot`, userID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []slot
	for rows.Next() {
		var k slot
		var seen int64
		if err := rows.Scan(&k.number, &k.device, &k.name, &k.play, &k.before, &seen); err != nil {
			return nil, err
		}
		k.seen = store.Time(seen)
		out = append(out, k)
	}
	return out, rows.Err()
}

// end empties a slot and has edges refuse the tokens of its plays.
func (s *Service) end(ctx context.Context, tx *sql.Tx, userID string, k slot, reason string) error {
	if _, err := tx.ExecContext(ctx, `UPDATE streams SET play_id = '', before_id = '', device_id = '', device_name = '', seen_at = 0 WHERE user_id = $1 AND slot = $2`, userID, k.number); err != nil {
		return err
	}
	return s.revoke(ctx, tx, reason, k.play, k.before)
}

// revoke has edges refuse the tokens of plays, as long as there are any.
func (s *Service) revoke(ctx context.Context, tx *sql.Tx, reason string, plays ...string) error {
	for _, id := range plays {
		if id == "" {
			continue
		}
		// A renewal that has not committed yet could be of a later end than the row says.
		if err := s.ask.Revoke(ctx, tx, reason, time.Now().Add(tokenFor+time.Minute), id); err != nil {
			return err
		}
	}
	return nil
}

// Keepalive is a sign that a play goes on. Errors: ErrOver when its stream has ended or was taken over.
func (s *Service) Keepalive(ctx context.Context, userID, playID string) error {
	slots, err := readStreams(ctx, s.db, userID)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(slots, func(k slot) bool { return playID != "" && (k.play == playID || k.before == playID) }) {
		return ErrOver
	}
	s.Seen(userID, playID, time.Now())
	return nil
}

// sign is what a sign of life is of.
type sign struct{ user, play string }

// Seen notes a sign of life of a play: an event, a keepalive, a segment that an edge served. It costs no SQL: signs are
// written together.
func (s *Service) Seen(userID, playID string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := sign{userID, playID}
	if was, ok := s.signs[k]; ok && !at.After(was) || !ok && len(s.signs) >= maxSigns {
		return
	}
	s.signs[k] = at
}

// Heard takes what events say of streams: they live, or have ended.
func (s *Service) Heard(ctx context.Context, userID string, events []api.Event) error {
	now := time.Now()
	for _, e := range events {
		at := e.At
		if at.After(now) { // the player's clock is ahead
			at = now
		}
		if e.LicenceID != "" || now.Sub(at) > liveFor {
			continue
		}
		if e.Type != api.EventEnd && e.Type != api.EventError {
			s.Seen(userID, e.PlayID, at)
		}
	}
	for _, e := range events {
		if e.Type == api.EventEnd && e.LicenceID == "" && media.ValidID(e.PlayID) {
			if err := s.ended(ctx, userID, e.PlayID); err != nil {
				return err
			}
		}
	}
	return nil
}

// ended takes a play out of its slot; when nothing else is in it, the slot is free.
func (s *Service) ended(ctx context.Context, userID, playID string) error {
	s.mu.Lock()
	delete(s.signs, sign{userID, playID})
	s.mu.Unlock()
	_, err := s.db.ExecContext(ctx, `UPDATE streams SET play_id = CASE WHEN play_id = $1 THEN before_id ELSE play_id END, before_id = ''
		WHERE user_id = $2 AND (play_id = $1 OR before_id = $1)`, playID, userID)
	return err
}

// Run writes signs of life and sweeps plays that nothing can be said of any more, until ctx ends.
func (s *Service) Run(ctx context.Context, failed func(error)) error {
	tick := time.NewTicker(writeEvery)
	defer tick.Stop()
	swept := time.Now()
	for {
		select {
		case <-ctx.Done():
			return s.Write(context.WithoutCancel(ctx)) // else streams would die with every restart
		case <-tick.C:
		}
		if err := s.Write(ctx); err != nil && ctx.Err() == nil {
			failed(fmt.Errorf("write signs of life: %w", err))
		}
		if time.Since(swept) > time.Minute {
			swept = time.Now()
			if err := s.Sweep(ctx, swept); err != nil && ctx.Err() == nil {
				failed(fmt.Errorf("sweep plays: %w", err))
			}
		}
	}
}

// StreamsByEdge counts the streams that live by the name of the edge that they began on.
func (s *Service) StreamsByEdge(ctx context.Context) (map[string]int, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT p.edge, count(*) FROM streams s JOIN playbacks p ON p.play_id = s.play_id WHERE s.seen_at > $1 GROUP BY p.edge`, store.Micros(time.Now().Add(-liveFor)))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]int{}
	for rows.Next() {
		var name string
		var n int
		if err := rows.Scan(&name, &n); err != nil {
			return nil, err
		}
		out[name] = n
	}
	return out, rows.Err()
}

// Write writes the signs of life that were gathered. When it fails they are kept for the next time.
func (s *Service) Write(ctx context.Context) error {
	s.mu.Lock()
	signs := s.signs
	s.signs = map[sign]time.Time{}
	s.mu.Unlock()
	err := s.write(ctx, signs)
	if err != nil {
		for k, at := range signs {
			s.Seen(k.user, k.play, at)
		}
	}
	return err
}

func (s *Service) write(ctx context.Context, signs map[sign]time.Time) error {
	// In one order on all replicas, so that they never wait for each other in a ring.
	keys := slices.SortedFunc(maps.Keys(signs), func(a, b sign) int { return cmp.Or(strings.Compare(a.user, b.user), strings.Compare(a.play, b.play)) })
	for some := range slices.Chunk(keys, 250) {
		var rows []string
		var args []any
		for _, k := range some {
			n := len(args)
			rows = append(rows, "($"+strconv.Itoa(n+1)+", $"+strconv.Itoa(n+2)+", CAST($"+strconv.Itoa(n+3)+" AS BIGINT))")
			args = append(args, k.user, k.play, store.Micros(signs[k]))
		}
		err := s.db.Tx(ctx, func(tx *sql.Tx) error { // a start locks the slots of an account in another order, and may make it lose
			// The two plays of a slot would be two rows for one, of which any counts: they are seconds apart.
			_, err := tx.ExecContext(ctx, `UPDATE streams SET seen_at = v.column3 FROM (VALUES `+strings.Join(rows, ", ")+`) AS v
			WHERE streams.user_id = v.column1 AND (streams.play_id = v.column2 OR streams.before_id = v.column2) AND streams.seen_at < v.column3`, args...)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Sweep forgets plays of which no event is taken any more, a thousand at a time.
func (s *Service) Sweep(ctx context.Context, now time.Time) error {
	for {
		res, err := s.db.ExecContext(ctx, `DELETE FROM playbacks WHERE play_id IN (SELECT play_id FROM playbacks WHERE expires_at < $1 ORDER BY expires_at LIMIT 1000)`, store.Micros(now.Add(-keepFor)))
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n < 1000 {
			return err
		}
	}
}

// RevokePlay has edges refuse a play's tokens and ends its stream. It returns the ctis, none when the play is past.
func (s *Service) RevokePlay(ctx context.Context, tx *sql.Tx, playID, reason string) ([]string, error) {
	return s.revokePlays(ctx, tx, reason, `play_id = $1`, playID)
}

// RevokeUser does that with all plays of an account.
func (s *Service) RevokeUser(ctx context.Context, tx *sql.Tx, userID, reason string) ([]string, error) {
	if _, err := lockStreams(ctx, tx, userID); err != nil { // no new one meanwhile
		return nil, err
	}
	return s.revokePlays(ctx, tx, reason, `user_id = $1`, userID)
}

func (s *Service) revokePlays(ctx context.Context, tx *sql.Tx, reason, where, arg string) ([]string, error) {
	rows, err := tx.QueryContext(ctx, `SELECT play_id, user_id FROM playbacks WHERE `+where+` AND expires_at > $2 AND licence_id = ''`, arg, store.Micros(time.Now()))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var plays, users []string
	for rows.Next() {
		var play, user string
		if err := rows.Scan(&play, &user); err != nil {
			return nil, err
		}
		plays, users = append(plays, play), append(users, user)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	rows.Close()
	for i, id := range plays {
		if _, err := tx.ExecContext(ctx, `UPDATE streams SET play_id = '', before_id = '', seen_at = 0 WHERE user_id = $1 AND (play_id = $2 OR before_id = $2)`, users[i], id); err != nil {
			return nil, err
		}
	}
	return plays, s.revoke(ctx, tx, reason, plays...)
}

// DeviceRemoved ends what a device plays.
func (s *Service) DeviceRemoved(ctx context.Context, tx *sql.Tx, userID, deviceID string) error {
	slots, err := lockStreams(ctx, tx, userID)
	if err != nil {
		return err
	}
	for _, k := range slots {
		if k.device == deviceID && k.play != "" {
			if err := s.end(ctx, tx, userID, k, api.RevokedDevice); err != nil {
				return err
			}
		}
	}
	return nil
}

// Forget has edges refuse what an account's plays could still fetch; the rows go with the account.
func (s *Service) Forget(ctx context.Context, tx *sql.Tx, userID string) error {
	_, err := s.RevokeUser(ctx, tx, userID, api.RevokedAccount)
	return err
}

// exported is one play in an export.
type exported struct {
	PlayID    string        `json:"play_id"`
	TrackID   media.TrackID `json:"track_id"`
	DeviceID  string        `json:"device_id,omitempty"`
	Plan      api.Plan      `json:"plan"`
	LicenceID string        `json:"licence_id,omitempty"`
	At        time.Time     `json:"at"`
}

// Export is all plays that are kept of an account, oldest first.
func (s *Service) Export(ctx context.Context, userID string) (any, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT play_id, track_id, device_id, plan, licence_id, created_at FROM playbacks WHERE user_id = $1 ORDER BY expires_at, play_id`, userID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []exported{}
	for rows.Next() {
		var e exported
		var at int64
		if err := rows.Scan(&e.PlayID, &e.TrackID, &e.DeviceID, &e.Plan, &e.LicenceID, &at); err != nil {
			return nil, err
		}
		e.At = store.Time(at)
		out = append(out, e)
	}
	return out, rows.Err()
}
