// Package registry knows which edges live. Edges announce themselves by heartbeat; a reader gets the nodes with their
// health as of now. This is the registry inside the control plane; its snapshot is what steering decides on.
package registry

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"segue/geo"
)

// DeadAfter is the silence after which a node leaves every answer: one heartbeat of 2 s, and half of one for the way.
const DeadAfter = 3 * time.Second

// Memory is safe for concurrent use. The zero value is empty and ready.
type Memory struct {
	mu    sync.RWMutex // guards nodes
	nodes map[string]entry
}

type entry struct {
	node geo.Node
	seen time.Time
}

// Announce notes that a node was heard at a time. Node.Healthy is not looked at. The load follows what is said in steps of
// a quarter: a busy moment of two seconds moves nobody away and back.
func (m *Memory) Announce(n geo.Node, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.nodes == nil {
		m.nodes = map[string]entry{}
	}
	if old, ok := m.nodes[n.ID]; ok && at.Sub(old.seen) < DeadAfter {
		n.LoadRatio = old.node.LoadRatio + (n.LoadRatio-old.node.LoadRatio)/4
	}
	m.nodes[n.ID] = entry{n, at}
}

// Forget removes a node.
func (m *Memory) Forget(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.nodes, id)
}

// Nodes lists all nodes by name, with Healthy as of now.
func (m *Memory) Nodes(now time.Time) []geo.Node {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]geo.Node, 0, len(m.nodes))
	for e := range maps.Values(m.nodes) {
		e.node.Healthy = now.Sub(e.seen) < DeadAfter
		out = append(out, e.node)
	}
	slices.SortFunc(out, func(a, b geo.Node) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Seen is when a node was last heard; ok false: never.
func (m *Memory) Seen(id string) (at time.Time, ok bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	e, ok := m.nodes[id]
	return e.seen, ok
}
