package controlplane

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"time"

	"segue/controlplane/api"
)

// Replicas share SQL. What lives for seconds and is in the memory of one they tell each other, as notices of the event
// log: an edge's heartbeat, which a load balancer brought to one of them, and what busy callers have used up of their
// budgets. A notice that is lost is followed by the next; while NATS is away each replica counts for itself, and knows the
// edges that reach it.

// word is one notice.
type word struct {
	From  string                    `json:"from"` // not the replica's name: two may have the same by mistake
	Edge  string                    `json:"edge,omitempty"`
	Beat  *api.Heartbeat            `json:"beat,omitempty"`
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

// heartbeat takes an edge's heartbeat and passes it on.
func (cp *ControlPlane) heartbeat(ctx context.Context, id string, h api.Heartbeat) (api.HeartbeatReply, error) {
	r, err := cp.fleet.Heartbeat(ctx, id, h)
	if err == nil {
		cp.tell(word{Edge: id, Beat: &h})
	}
	return r, err
}

// hearReplicas takes what others say, until ctx ends.
func (cp *ControlPlane) hearReplicas(ctx context.Context) error {
	return cp.events.Subscribe(ctx, replicaSubject, nil, func(_ string, body []byte) {
		var w word
		if json.Unmarshal(body, &w) != nil || w.From == cp.others.self {
			return
		}
		if w.Beat != nil {
			if _, err := cp.fleet.Heartbeat(ctx, w.Edge, *w.Beat); err != nil && ctx.Err() == nil {
				cp.log.Debug("heartbeat from another replica", "node", w.Edge, "err", err)
			}
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
