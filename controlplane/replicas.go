package controlplane

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"time"
)

// Replicas share SQL. What lives for seconds and is in the memory of one they tell each other, as notices of the event
// log: here what busy callers have used up of their budgets; heartbeats of edges are in health.go. A notice that is lost is
// followed by the next; while NATS is away each replica counts for itself.

// word is one notice.
type word struct {
	From  string                    `json:"from"`            // not the replica's name: two may have the same by mistake
	Spent map[string]map[string]int `json:"spent,omitempty"` // policy -> caller -> requests
}

const (
	replicaSubject = "replicas"
	// tellEvery is how far replicas may lag behind each other in what a caller has used.
	tellEvery = 200 * time.Millisecond
)

// replicas is one replica's end. Its zero value, for a replica that is alone, tells nobody.
type replicas struct{ self string }

func newReplicas(n int) replicas {
	if n < 2 {
		return replicas{}
	}
	return replicas{self: rand.Text()}
}

func (cp *ControlPlane) tell(w word) {
	if w.From = cp.others.self; w.From == "" {
		return
	}
	b, err := json.Marshal(w)
	if err != nil {
		return // no value of these types does
	}
	_ = cp.events.Publish(replicaSubject, b) // NATS is away: see above
}

// hearReplicas takes what others say, until ctx ends.
func (cp *ControlPlane) hearReplicas(ctx context.Context) error {
	return cp.events.Subscribe(ctx, replicaSubject, nil, func(_ string, body []byte) {
		var w word
		if json.Unmarshal(body, &w) != nil || w.From == cp.others.self {
			return
		}
		for _, l := range cp.limits.all() {
			for caller, n := range w.Spent[l.policy] {
				l.charge(caller, n)
			}
		}
	})
}

// tellReplicas says what callers have used, until ctx ends.
func (cp *ControlPlane) tellReplicas(ctx context.Context) error {
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		spent := map[string]map[string]int{}
		for _, l := range cp.limits.all() {
			if some := l.untold(); len(some) > 0 {
				spent[l.policy] = some
			}
		}
		if len(spent) > 0 {
			cp.tell(word{Spent: spent})
		}
	}
}
