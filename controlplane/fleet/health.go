package fleet

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/geo"
	"segue/internal/registry"
	"segue/media"
)

const (
	// capacityBps is what an edge is taken to carry until it says otherwise: 1 Gbit/s.
	capacityBps = 1e9
	// clockLeeway is how far the times in an edge's JWT may be from ours. An edge whose clock is further off learns the right
	// time from our answers, and signs with that: its heartbeats still say what its clock shows.
	clockLeeway = 5 * time.Second

	// lookFor is how long a database may take to say who an edge is, before what it said last is good enough.
	lookFor = 700 * time.Millisecond

	membersEvery = time.Second      // how often the edges that there are, and who drains, are read
	saveEvery    = 10 * time.Second // how often the last known is written, give or take a half
)

const memberRows = `SELECT e.id, e.name, e.region, e.url, e.draining, e.public_key, r.latitude, r.longitude FROM edges e JOIN regions r ON r.name = e.region`

func (s *Service) scanMember(row interface{ Scan(...any) error }) (m registry.Member, err error) {
	var draining int
	var key string
	if err := row.Scan(&m.ID, &m.Name, &m.Region, &m.URL, &draining, &key, &m.At.Lat, &m.At.Lon); err != nil {
		return m, err
	}
	m.Draining = draining != 0 || s.state.Load().draining(m.ID) != ""
	public, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		return m, fmt.Errorf("public key of edge %s: %w: %w", m.ID, media.ErrCorrupt, err)
	}
	s.mu.Lock()
	s.members[m.ID], s.ids[m.ID] = m, public
	s.mu.Unlock()
	return m, nil
}

// member is an edge, as SQL says now, or as it said last when it does not answer: an edge must not die of our database.
func (s *Service) member(ctx context.Context, id string) (registry.Member, error) {
	qctx, cancel := context.WithTimeout(ctx, lookFor)
	defer cancel()
	m, err := s.scanMember(s.db.QueryRowContext(qctx, memberRows+` WHERE e.id = $1`, id))
	if errors.Is(err, sql.ErrNoRows) {
		return m, fmt.Errorf("edge %s: %w", id, media.ErrNotFound)
	} else if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if known, ok := s.members[id]; ok {
			return known, nil
		}
	}
	return m, err
}

// keyWithoutDatabase is the key of an edge that was known before the database went away.
func (s *Service) keyWithoutDatabase(id string, err error) (ed25519.PublicKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if key := s.ids[id]; key != nil && !errors.Is(err, sql.ErrNoRows) {
		return key, nil
	}
	return nil, err
}

// shared is a heartbeat on its way to the other replicas.
type shared struct {
	From  string        `json:"from"`
	Edge  string        `json:"edge"`
	Beat  api.Heartbeat `json:"beat"`
	Ahead time.Duration `json:"ahead"` // its clock before ours
}

// heard takes a heartbeat in, here and at the other replicas.
func (s *Service) heard(m registry.Member, h api.Heartbeat, now time.Time) {
	var ahead time.Duration
	if !h.At.IsZero() {
		trip := time.Duration(h.RoundTripMS) * time.Millisecond
		if trip < 0 || trip > registry.DeadAfter {
			trip = 0
		}
		ahead = h.At.Sub(now) + trip/2
	}
	s.note(m, h, ahead, now)
	if s.Share != nil {
		if b, err := json.Marshal(shared{s.self, m.ID, h, ahead}); err == nil {
			s.Share(b)
		}
	}
}

func (s *Service) note(m registry.Member, h api.Heartbeat, ahead time.Duration, now time.Time) {
	if !h.At.IsZero() {
		s.nodes.Clock(m.ID, ahead)
	}
	s.nodes.Heard(m, beatOf(m, h, s.state.Load().capacityBps(m.ID, h.CapacityBps)), now)
	s.mu.Lock()
	s.beats[m.ID] = h
	s.mu.Unlock()
	s.hearTraffic(m.ID, h, now)
}

// forget drops what is in memory of an edge that was deleted.
func (s *Service) forget(id string) {
	s.mu.Lock()
	delete(s.members, id)
	delete(s.ids, id)
	delete(s.beats, id)
	delete(s.busy, id)
	delete(s.purged, id)
	s.mu.Unlock()
	s.nodes.Forget(id)
}

// Shared takes in a heartbeat that another replica heard. An own one, which comes back, is known.
func (s *Service) Shared(body []byte) {
	var b shared
	if json.Unmarshal(body, &b) != nil || b.From == s.self {
		return
	}
	s.mu.Lock()
	m, ok := s.members[b.Edge]
	s.mu.Unlock()
	if ok { // else it has just joined: the next one
		s.note(m, b.Beat, b.Ahead, time.Now())
	}
}

// beatOf is a heartbeat for the registry. The load is the most used of what an edge can run out of, as a part of what it can
// send.
func beatOf(m registry.Member, h api.Heartbeat, capacity float64) registry.Beat {
	b := registry.Beat{ID: m.ID, Name: m.Name, Region: m.Region, URL: h.URL, Version: h.Version, Tier: geo.Tier(h.Tier), Draining: h.Draining, CapacityBps: h.CapacityBps, Weight: h.Weight,
		Load: registry.Load{Connections: h.Connections, EgressBps: h.EgressBps, CPURatio: h.CPURatio, HitRatio: h.HitRatio}}
	b.Load.Ratio = max(h.CPURatio, float64(h.EgressBps)/capacity)
	if h.MaxConnections > 0 {
		b.Load.Ratio = max(b.Load.Ratio, float64(h.Connections)/float64(h.MaxConnections))
	}
	b.Load.Ratio = min(1, max(0, b.Load.Ratio))
	if h.DiskSizeBytes > 0 {
		b.Load.DiskRatio = min(1, float64(h.DiskBytes)/float64(h.DiskSizeBytes))
	}
	return b
}

func (s *Service) conditions() map[string]registry.Condition {
	out := map[string]registry.Condition{}
	for _, c := range s.nodes.Conditions(time.Now()) {
		out[c.Member.ID] = c
	}
	return out
}

// describe adds to an edge what is known of its health. The zero Condition: nothing, it has just joined.
func (s *Service) describe(e *api.Edge, c registry.Condition, draining bool) {
	v := c.Verdict
	e.State, e.Reason, e.Since = "dead", string(v.Why), v.Since.UTC()
	e.Opinions = api.Opinions{Heartbeat: v.Beat.String(), Registry: v.Registry.String(), Probe: v.Probe.String(), Players: v.Players.String()}
	e.LastKnown, e.Doubted, e.Penalty, e.ClockWrong, e.ProbeError = v.Held && !c.Known.IsZero(), v.Doubted, float64(int(v.Penalty)), v.ClockWrong, c.Error
	switch {
	case v.Up && (draining || c.Beat.Draining):
		e.State = "draining"
	case v.Up:
		e.State = "healthy"
	case v.Why == geo.Flapping:
		e.State = "damped"
	}
	if c.SkewOK {
		ms := c.Skew.Milliseconds()
		e.ClockSkewMS = &ms
	}
	switch {
	case !c.Heard.IsZero():
		e.LastSeen = c.Heard.UTC()
		s.mu.Lock()
		h := s.beats[e.ID]
		s.mu.Unlock()
		e.URL, e.Heartbeat = h.URL, &h
	case !c.Known.IsZero():
		e.LastSeen, e.URL = c.Known.UTC(), c.Beat.URL
	}
}

// ReadHealth reads which edges there are, and what was known of them at the end of an earlier life. It is read once before
// anything is answered.
func (s *Service) ReadHealth(ctx context.Context) error {
	if err := s.readMembers(ctx); err != nil {
		return err
	}
	rows, err := s.db.QueryContext(ctx, `SELECT beat, good_at FROM edges_last_known`)
	if err != nil {
		return fmt.Errorf("read the last known edges: %w", err)
	}
	defer rows.Close()
	var all []registry.Known
	for rows.Next() {
		var body string
		var at int64
		var k registry.Known
		if err := rows.Scan(&body, &at); err != nil {
			return fmt.Errorf("read the last known edges: %w", err)
		}
		if json.Unmarshal([]byte(body), &k.Beat) == nil && k.Beat.ID != "" {
			k.At = store.Time(at)
			all = append(all, k)
		}
	}
	s.nodes.Remember(all)
	return rows.Err()
}

func (s *Service) readMembers(ctx context.Context) error {
	rows, err := s.db.QueryContext(ctx, memberRows)
	if err != nil {
		return fmt.Errorf("read edges: %w", err)
	}
	defer rows.Close()
	var all []registry.Member
	for rows.Next() {
		m, err := s.scanMember(rows)
		if err != nil {
			return fmt.Errorf("read edges: %w", err)
		}
		all = append(all, m)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read edges: %w", err)
	}
	s.nodes.SetMembers(all)
	return nil
}

// WatchHealth keeps the list of edges up to date, and writes down which ones are good, until ctx ends. A database that does
// not answer leaves both as they were.
func (s *Service) WatchHealth(ctx context.Context, failed func(error)) error {
	tick := time.NewTicker(membersEvery)
	defer tick.Stop()
	ok := true
	next := time.Now().Add(saveEvery / 2)
	for {
		select {
		case <-ctx.Done():
			sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			return s.saveHealth(sctx)
		case <-tick.C:
		}
		err := s.readMembers(ctx)
		if err == nil && time.Now().After(next) {
			err = s.saveHealth(ctx)
			next = time.Now().Add(saveEvery/2 + time.Duration(rand.Int64N(int64(saveEvery))))
		}
		if err != nil && ok && ctx.Err() == nil {
			failed(err)
		}
		ok = err == nil
	}
}

func (s *Service) saveHealth(ctx context.Context) error {
	all := s.nodes.LastKnown(time.Now())
	if len(all) == 0 {
		return nil
	}
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		for _, k := range all {
			b, err := json.Marshal(k.Beat)
			if err != nil {
				return fmt.Errorf("bug: %w", err)
			}
			// Of several replicas the one that heard it last is right; an edge may have been deleted.
			if _, err := tx.ExecContext(ctx, `INSERT INTO edges_last_known (edge_id, beat, good_at) SELECT id, CAST($1 AS TEXT), CAST($2 AS BIGINT) FROM edges WHERE id = $3
				ON CONFLICT (edge_id) DO UPDATE SET beat = excluded.beat, good_at = excluded.good_at WHERE edges_last_known.good_at < excluded.good_at`, string(b), store.Micros(k.At), k.Beat.ID); err != nil {
				return fmt.Errorf("write the last known edges: %w", err)
			}
		}
		return nil
	})
}
