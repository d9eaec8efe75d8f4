package fleet

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"segue/controlplane/api"
	"segue/edge"
)

// revocations are the tokens that this edge refuses before their end. They come as what is new since the last time, and are
// kept in a file with the place up to which they are known.
type revocations struct {
	mu      sync.Mutex // guards the fields below
	place   string
	ends    map[string]time.Time // by cti; an ended token is refused by itself
	all     map[string]bool      // what the edge has; never written to, but replaced
	lately  map[string]bool      // and what came since all was made
	trust   edge.Trust           // issuer and keys
	trusted bool                 // there are keys
	unsaved bool
}

const (
	revokedFile = "revoked.json"
	// tooLately is when what came lately is put to the rest: the small map is copied for every change.
	tooLately = 1000
	// saveEvery is how often the file is written, when there is something new: it is read only by the next life of the edge,
	// which asks from its place on.
	saveEvery = 10 * time.Second
)

// keptRevocations is the file.
type keptRevocations struct {
	Place string               `json:"place"`
	Ends  map[string]time.Time `json:"ends"`
}

// openRevocations reads the file; one that cannot be read is as good as none, since all is asked for then.
func (m *Member) openRevocations() {
	var k keptRevocations
	b, err := os.ReadFile(filepath.Join(m.cfg.Dir, revokedFile))
	if err != nil || json.Unmarshal(b, &k) != nil || k.Ends == nil {
		k = keptRevocations{Ends: map[string]time.Time{}}
	}
	m.revoked.place, m.revoked.ends = k.Place, k.Ends
	m.revoked.gather(time.Now())
}

// gather makes one map of what has not ended.
func (r *revocations) gather(now time.Time) {
	maps.DeleteFunc(r.ends, func(_ string, end time.Time) bool { return now.After(end.Add(time.Hour)) }) // clocks differ
	r.all, r.lately = make(map[string]bool, len(r.ends)), nil
	for cti := range r.ends {
		r.all[cti] = true
	}
}

// keys puts other keys in force.
func (m *Member) keys(t edge.Trust) {
	m.revoked.mu.Lock()
	defer m.revoked.mu.Unlock()
	m.revoked.trust, m.revoked.trusted = t, true
	m.enforce()
}

// enforce gives the edge what it trusts; the lock is held.
func (m *Member) enforce() {
	if !m.revoked.trusted {
		return
	}
	t := m.revoked.trust
	t.Revoked, t.Lately = m.revoked.all, m.revoked.lately
	m.edge.Trust(&t)
}

// refuse takes a part of what was revoked.
func (m *Member) refuse(feed api.RevokedFeed, now time.Time) {
	r := &m.revoked
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unsaved = r.unsaved || r.place != feed.Next
	r.place = feed.Next
	if len(feed.Tokens) == 0 {
		return
	}
	lately := maps.Clone(r.lately)
	if lately == nil {
		lately = map[string]bool{}
	}
	for _, t := range feed.Tokens {
		r.ends[t.CTI] = t.ExpiresAt
		lately[t.CTI] = true
	}
	if r.lately = lately; len(lately) > tooLately {
		r.gather(now)
	}
	m.enforce()
}

// askRevoked asks for what was revoked since the last time, until all of it is there.
func (m *Member) askRevoked(ctx context.Context, wait string) error {
	for {
		m.revoked.mu.Lock()
		place := m.revoked.place
		m.revoked.mu.Unlock()
		q := url.Values{"after": {place}}
		if wait != "" {
			q.Set("wait", wait)
		}
		var feed api.RevokedFeed
		if err := m.client.Call(ctx, http.MethodGet, "/v1/fleet/revocations?"+q.Encode(), nil, &feed); err != nil {
			return err
		}
		m.refuse(feed, time.Now())
		if !feed.More {
			return nil
		}
	}
}

// followRevoked refuses tokens as they are revoked, until ctx ends.
func (m *Member) followRevoked(ctx context.Context) {
	saved := time.Now()
	var p pause
	for ctx.Err() == nil {
		err := m.askRevoked(ctx, "25s")
		if err != nil && ctx.Err() == nil {
			m.log.Debug("revocations cannot be followed, trying on", "err", err)
		}
		p.after(ctx, err)
		if time.Since(saved) > saveEvery || ctx.Err() != nil {
			saved = time.Now()
			if err := m.saveRevoked(); err != nil {
				m.log.Warn("revocations are not kept, the next start asks for them", "err", err)
			}
		}
	}
}

func (m *Member) saveRevoked() error {
	r := &m.revoked
	r.mu.Lock()
	if !r.unsaved {
		r.mu.Unlock()
		return nil
	}
	k := keptRevocations{r.place, maps.Clone(r.ends)}
	r.unsaved = false
	r.mu.Unlock()
	return m.write(revokedFile, k)
}
