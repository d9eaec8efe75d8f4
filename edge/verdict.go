package edge

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"

	"segue/media"
	"segue/media/cat"

	"github.com/allegro/bigcache/v3"
)

// Trust is what an edge checks tokens against, swapped whole when the control plane changes it.
type Trust struct {
	Issuer  string
	Keys    []cat.Key
	Revoked map[string]bool // cti
}

// gate verifies tokens and remembers what good ones grant, so that a hit costs no signature.
type gate struct {
	trust   atomic.Pointer[Trust]
	epoch   atomic.Uint32 // raised with every new Trust: older verdicts do not count
	verdict *bigcache.BigCache
	metrics *metrics
}

func newGate(m *metrics) (*gate, error) {
	cache, err := newRecords()
	return &gate{verdict: cache, metrics: m}, err
}

func (g *gate) set(t *Trust) {
	g.trust.Store(t)
	g.epoch.Add(1)
}

// allow returns nil, or an error that wraps media.ErrNoAccess or media.ErrDenied and says why.
func (g *gate) allow(token string, key media.Key, now time.Time) error {
	trust := g.trust.Load()
	if trust == nil {
		return fmt.Errorf("this edge has no keys yet: %w", media.ErrBusy)
	}
	if token == "" {
		return fmt.Errorf("a token is needed, as /t/<token>/%s: %w", key, media.ErrNoAccess)
	}
	epoch := g.epoch.Load()
	c, ok := g.recall(token, epoch)
	if !ok {
		var err error
		if c, err = cat.Verify(trust.Keys, trust.Issuer, now, token); err != nil {
			return err
		}
		g.metrics.tokensVerified.Inc()
		if trust.Revoked[c.ID] {
			return fmt.Errorf("token is revoked: %w", media.ErrDenied)
		}
		_ = g.verdict.Set(token, encodeVerdict(c, epoch)) // too large a record: verified again next time
	}
	switch {
	case !now.Before(c.Expires):
		return fmt.Errorf("token has expired: %w", media.ErrDenied)
	case !c.Allows(key):
		return fmt.Errorf("token does not allow this object: %w", media.ErrDenied)
	}
	return nil
}

func (g *gate) recall(token string, epoch uint32) (cat.Claims, bool) {
	b, err := g.verdict.Get(token)
	if err != nil {
		return cat.Claims{}, false
	}
	r := reader{b: b}
	var c cat.Claims
	same := uint32(r.uvarint()) == epoch
	c.Expires = time.Unix(r.varint(), 0)
	c.PathPrefix = r.string()
	for range r.uvarint() {
		if r.err != nil {
			break
		}
		c.Renditions = append(c.Renditions, r.string())
	}
	return c, same && r.err == nil
}

func encodeVerdict(c cat.Claims, epoch uint32) []byte {
	b := binary.AppendUvarint(nil, uint64(epoch))
	b = binary.AppendVarint(b, c.Expires.Unix())
	b = appendString(b, c.PathPrefix)
	b = binary.AppendUvarint(b, uint64(len(c.Renditions)))
	for _, r := range c.Renditions {
		b = appendString(b, r)
	}
	return b
}
