// Package registry knows which edges live. Edges announce themselves; readers watch; and Health weighs what is heard of an
// edge with what probes and players find, into the nodes that steering decides on.
//
//	edge -> heartbeat over HTTP -> Memory  \
//	edge -> Consul agent -> Consul.Watch    -> Health -> Judge (pure) -> []geo.Node
//	prober, players                        /
//
// A registry is believed for liveness and load only. Who an edge is, where it is and under which URL players reach it comes
// from its signed heartbeat and from SQL: who may write to Consul cannot send players anywhere.
package registry

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"segue/geo"
)

const (
	// BeatEvery is the pause between two heartbeats of an edge.
	BeatEvery = 2 * time.Second
	// LateAfter is the silence after which a heartbeat is late: one should have come, a fifth of a second ago.
	LateAfter = 2200 * time.Millisecond
	// DeadAfter is the silence that is an opinion: this edge is dead. One heartbeat of 2 s, and half of one for the way.
	DeadAfter = 3 * time.Second
)

// Registry is where nodes say that they live. Its methods are safe for concurrent use.
type Registry interface {
	// Announce says that a node lives and replaces what it said before. The node passes for about DeadAfter, unless it is
	// announced again: callers do that at least every BeatEvery. nil means that the registry, or the local agent of it, has
	// it; readers learn of it at once while the registry is whole, and as soon as it is whole again otherwise.
	Announce(ctx context.Context, b Beat) error
	// Withdraw takes a node out at once. One that is not there is no error.
	Withdraw(ctx context.Context, id string) error
	// Watch calls take with what is announced, first with what there is, then soon after every change and now and then
	// without one, until ctx ends; then it returns nil. take is never called twice at once, and owns what it gets. A registry
	// that is lost is told by Snapshot.Lost, and is no reason to return.
	Watch(ctx context.Context, take func(Snapshot)) error
}

// Beat is what a node says of itself.
type Beat struct {
	ID          string   `json:"id"`
	Name        string   `json:"name"`
	Region      string   `json:"region"`
	URL         string   `json:"url"`
	Version     string   `json:"version"`
	Tier        geo.Tier `json:"tier,omitempty"`
	Draining    bool     `json:"draining,omitempty"`
	CapacityBps float64  `json:"capacity_bps,omitempty"` // zero: not said
	Weight      float64  `json:"weight,omitempty"`       // zero: not said
	Load        Load     `json:"load"`
}

// Load is how busy a node is. Ratio, 0..1 of what it can take, is the one that steering looks at.
type Load struct {
	Ratio       float64 `json:"ratio"`
	Connections int64   `json:"connections"`
	EgressBps   int64   `json:"egress_bps"`
	CPURatio    float64 `json:"cpu_ratio"`
	HitRatio    float64 `json:"hit_ratio"`
	DiskRatio   float64 `json:"disk_ratio"`
}

// Snapshot is what a registry knows. Lost non-nil: it cannot be asked now, and Entries are the last known of it; At is when
// it was last known.
type Snapshot struct {
	At      time.Time
	Entries []Entry // by ID
	Lost    error
}

// Entry is one announced node. Not Passing: it fell silent.
type Entry struct {
	Beat
	Passing bool
}

// Memory is the registry inside the control plane. The zero value is empty and ready.
type Memory struct {
	version atomic.Uint64 // counts changes

	mu       sync.RWMutex // guards the fields below
	nodes    map[string]heard
	watchers map[chan struct{}]bool
}

type heard struct {
	Beat
	at time.Time
}

// Announce is Registry's. The load follows what is said in steps of a quarter: a busy moment of two seconds moves nobody
// away and back.
func (m *Memory) Announce(_ context.Context, b Beat) error {
	m.announce(b, time.Now())
	return nil
}

func (m *Memory) announce(b Beat, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.nodes == nil {
		m.nodes = map[string]heard{}
	}
	if old, ok := m.nodes[b.ID]; ok && at.Sub(old.at) < DeadAfter {
		b.Load.Ratio = old.Load.Ratio + (b.Load.Ratio-old.Load.Ratio)/4
	}
	m.nodes[b.ID] = heard{b, at}
	m.changed()
}

// Withdraw is Registry's.
func (m *Memory) Withdraw(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.nodes[id]; ok {
		delete(m.nodes, id)
		m.changed()
	}
	return nil
}

// changed wakes the watchers; with mu held.
func (m *Memory) changed() {
	m.version.Add(1)
	for c := range m.watchers {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// Watch is Registry's.
func (m *Memory) Watch(ctx context.Context, take func(Snapshot)) error {
	wake := make(chan struct{}, 1)
	m.mu.Lock()
	if m.watchers == nil {
		m.watchers = map[chan struct{}]bool{}
	}
	m.watchers[wake] = true
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.watchers, wake)
		m.mu.Unlock()
	}()
	tick := time.NewTicker(100 * time.Millisecond) // silence makes no noise
	defer tick.Stop()
	for {
		take(m.snapshot(time.Now()))
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-tick.C:
		}
	}
}

func (m *Memory) snapshot(now time.Time) Snapshot {
	m.mu.RLock()
	defer m.mu.RUnlock()
	s := Snapshot{At: now, Entries: make([]Entry, 0, len(m.nodes))}
	for h := range maps.Values(m.nodes) {
		s.Entries = append(s.Entries, Entry{h.Beat, now.Sub(h.at) < DeadAfter})
	}
	slices.SortFunc(s.Entries, func(a, b Entry) int { return strings.Compare(a.ID, b.ID) })
	return s
}

// last is what a node said last, and when; ok false: nothing.
func (m *Memory) last(id string) (h heard, ok bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	h, ok = m.nodes[id]
	return h, ok
}
