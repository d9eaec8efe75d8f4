package edge

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"segue/media"
	"segue/media/cat"

	"github.com/allegro/bigcache/v3"
)

// Trust is what an edge checks tokens against, swapped whole when the control plane changes it. A key that can sign
// also renews the tokens it signed; the keys of a fleet's edges only verify, and their tokens end when they end.
type Trust struct {
	Issuer  string
	Keys    []cat.Key
	Revoked map[string]bool // cti
	Lately  map[string]bool // more of them: a small map is made anew for each change, the large one seldom
}

// trusted is a Trust and its number. They are read together: a verdict found under an old Trust must not be remembered
// under the number of a new one.
type trusted struct {
	*Trust
	epoch uint32 // verdicts of another epoch do not count
}

// gate verifies tokens and remembers what good ones grant, so that a hit costs no signature. Remembered is the grant,
// not the answer: address, method, object and end are checked on every request, and so is revocation.
type gate struct {
	setting sync.Mutex // one set at a time
	trust   atomic.Pointer[trusted]
	verdict *bigcache.BigCache
	country func(netip.Addr) string // ISO 3166 code, "" unknown; nil: tokens limited to countries are refused
	metrics *metrics
}

func newGate(records int64, m *metrics) (*gate, error) {
	cache, err := newRecords(records)
	return &gate{verdict: cache, metrics: m}, err
}

// set replaces the Trust. Other keys or another issuer make all verdicts forgotten; revocations need not.
func (g *gate) set(t *Trust) {
	g.setting.Lock()
	defer g.setting.Unlock()
	next := &trusted{Trust: t}
	if old := g.trust.Load(); old != nil {
		next.epoch = old.epoch
		if old.Issuer != t.Issuer || !reflect.DeepEqual(old.Keys, t.Keys) {
			next.epoch++
		}
	}
	g.trust.Store(next)
}

// grant is what the door needs to know of a token that was good.
type grant struct {
	PlayID  string      // empty: the token names none
	Renewed cat.Renewed // Token empty: nothing to hand out
}

// allow decides on a request. It sets r.Country. Errors wrap media.ErrNoAccess, media.ErrDenied or, before the first
// Trust, media.ErrBusy, and say why. A remembered token costs two allocations: bigcache's copies of key and record.
func (g *gate) allow(token string, r *cat.Request, now time.Time) (grant, error) {
	trust := g.trust.Load()
	if trust == nil {
		return grant{}, fmt.Errorf("this edge has no keys yet: %w", media.ErrBusy)
	}
	if token == "" {
		return grant{}, fmt.Errorf("a token is needed, as /t/<token>/%s: %w", r.Key, media.ErrNoAccess)
	}
	var room scratch
	c, playID, ok := g.recall(token, trust.epoch, &room)
	if !ok {
		fresh, err := cat.Verify(trust.Keys, trust.Issuer, now, token)
		if err != nil {
			return grant{}, err
		}
		c, playID = fresh, fresh.PlayID
		g.metrics.tokensVerified.Inc()
		_ = g.verdict.Set(token, encodeVerdict(&c, trust.epoch)) // too large a record: verified again next time
	}
	if trust.Revoked[c.ID] || trust.Lately[c.ID] {
		return grant{}, fmt.Errorf("token is revoked: %w", media.ErrDenied)
	}
	r.Country = g.country
	if err := c.Check(now, r); err != nil {
		return grant{}, err
	}
	given := grant{PlayID: playID}
	if c.RenewalDue(now) {
		var err error
		if given.Renewed, _, err = cat.Renew(trust.Keys, trust.Issuer, now, token); err != nil {
			return grant{}, err
		}
	}
	return given, nil
}

// scratch is room for the lists of one remembered token; longer ones are allocated.
type scratch struct {
	methods, countries, renditions [16]string
	networks                       [4]netip.Prefix
	uri                            [4]cat.Match
}

// recall reads a verdict. Its strings lie in the copy that bigcache made for this call, its lists in room. The play id
// comes apart from the Claims: it leaves allow, and taken out of c it would take room to the heap.
func (g *gate) recall(token string, epoch uint32, room *scratch) (c cat.Claims, playID string, ok bool) {
	b, err := g.verdict.Get(token)
	if err != nil {
		return c, "", false
	}
	r := record{rest: unsafe.String(unsafe.SliceData(b), len(b))} // nobody writes to b any more
	if uint32(r.number()) != epoch {
		return c, "", false
	}
	c.Expires = time.Unix(r.number(), 0)
	c.ID, c.PathPrefix, playID = r.text(), r.text(), r.text()
	c.Renewal.Extend, c.Renewal.Window = time.Duration(r.number()), time.Duration(r.number())
	c.Methods, c.Countries, c.Renditions = r.texts(room.methods[:0]), r.texts(room.countries[:0]), r.texts(room.renditions[:0])
	c.Networks = room.networks[:0]
	for range r.number() {
		bits := int(r.number())
		var raw [16]byte
		n := copy(raw[:], r.text())
		addr, _ := netip.AddrFromSlice(raw[:n])
		c.Networks = append(c.Networks, netip.PrefixFrom(addr, bits))
	}
	c.URI = room.uri[:0]
	for range r.number() {
		c.URI = append(c.URI, cat.Match{Part: cat.Part(r.number()), How: cat.How(r.number()), Value: r.text()})
	}
	return c, playID, !r.broken
}

// encodeVerdict keeps what is asked again: not issuer and beginning, which held once and still do, and of the renewal
// only when it is due.
func encodeVerdict(c *cat.Claims, epoch uint32) []byte {
	b := make([]byte, 0, 256)
	number := func(n int64) { b = binary.AppendVarint(b, n) }
	text := func(s string) { number(int64(len(s))); b = append(b, s...) }
	number(int64(epoch))
	number(c.Expires.Unix())
	text(c.ID)
	text(c.PathPrefix)
	text(c.PlayID)
	number(int64(c.Renewal.Extend))
	number(int64(c.Renewal.Window))
	for _, list := range [][]string{c.Methods, c.Countries, c.Renditions} {
		number(int64(len(list)))
		for _, s := range list {
			text(s)
		}
	}
	number(int64(len(c.Networks)))
	for _, p := range c.Networks {
		number(int64(p.Bits()))
		text(string(p.Addr().AsSlice()))
	}
	number(int64(len(c.URI)))
	for _, m := range c.URI {
		number(int64(m.Part))
		number(int64(m.How))
		text(m.Value)
	}
	return b
}

// record reads what encodeVerdict wrote, without copies; after the first fault it gives zeros.
type record struct {
	rest   string
	broken bool
}

func (r *record) number() int64 {
	var n uint64
	for i := 0; i < len(r.rest) && i < binary.MaxVarintLen64; i++ {
		n |= uint64(r.rest[i]&0x7f) << (7 * i)
		if r.rest[i] < 0x80 {
			r.rest = r.rest[i+1:]
			return int64(n>>1) ^ -int64(n&1)
		}
	}
	r.rest, r.broken = "", true
	return 0
}

func (r *record) text() string {
	n := r.number()
	if n < 0 || n > int64(len(r.rest)) {
		r.rest, r.broken = "", true
		return ""
	}
	s := r.rest[:n]
	r.rest = r.rest[n:]
	return s
}

func (r *record) texts(into []string) []string {
	for range r.number() {
		into = append(into, r.text())
	}
	return into
}
