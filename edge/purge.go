package edge

import (
	"cmp"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"segue/media"

	"github.com/prometheus/client_golang/prometheus"
)

// PurgeKind is what a purge names.
type PurgeKind string

// The kinds of purges.
const (
	PurgeKey    PurgeKind = "key"    // one URL path, with its query where the route has queries; every variant of it
	PurgePrefix PurgeKind = "prefix" // all URL paths that begin so
	PurgeTag    PurgeKind = "tag"    // all objects with that surrogate key
)

// Purge is an order to forget. Paths are those of the edge's URL space, without token: /media/…; the first slash may be
// missing.
type Purge struct {
	Kind  PurgeKind
	Value string
	Soft  bool  // what is stored becomes stale; else it is never used again
	Epoch int64 // the fleet's number of it, rising; one that was applied before does nothing. 0: a purge of this edge alone
}

// maxPurgeValue bounds Purge.Value, in bytes.
const maxPurgeValue = 4096

// Purge applies purges in order, and returns when no request can see what they name: one that begins after it is
// answered with what the origin says after it. An error that wraps media.ErrInvalid is of an order that is not the fleet's,
// and nothing was done; any other says that the purges hold now, but would not survive a restart.
func (e *Edge) Purge(ps ...Purge) error {
	marks := make([]purgeRecord, 0, len(ps))
	for _, p := range ps {
		r, err := e.door.mark(p)
		switch {
		case err != nil && p.Epoch != 0: // another edge's routes have it; here there is nothing to do
			r = purgeRecord{kind: recordNone, soft: true, fleet: p.Epoch}
		case err != nil:
			return err
		}
		marks = append(marks, r)
	}
	hard, err := e.door.metas.purges.apply(marks)
	if hard {
		e.sweep()
	}
	return err
}

// PurgedTo is the greatest Purge.Epoch that was applied; 0: none.
func (e *Edge) PurgedTo() int64 { return e.door.metas.purges.fleet.Load() }

// sweep drops the bytes of what a hard purge took, behind the purge; purges that come meanwhile share the next sweep.
func (e *Edge) sweep() {
	t := e.door.metas
	if len(t.removers) == 0 || e.asks.life.Err() != nil || t.sweeping.Add(1) > 1 {
		return
	}
	e.asks.behind.Go(func() {
		for n := t.sweeping.Load(); ; n = t.sweeping.Load() {
			t.sweep()
			if t.sweeping.CompareAndSwap(n, 0) {
				return
			}
		}
	})
}

// mark turns an order into what the table keeps.
func (d *door) mark(p Purge) (purgeRecord, error) {
	r := purgeRecord{soft: p.Soft, fleet: p.Epoch}
	if p.Value == "" || len(p.Value) > maxPurgeValue {
		return r, fmt.Errorf("value of %d bytes, want 1 to %d: %w", len(p.Value), maxPurgeValue, media.ErrInvalid)
	}
	switch p.Kind {
	case PurgeTag:
		r.kind, r.hash = recordExact, tagHash(p.Value)
		return r, nil
	case PurgeKey:
		t, err := d.locate(slash(p.Value))
		if err != nil {
			return r, fmt.Errorf("key %q names nothing here: %w", p.Value, media.ErrInvalid)
		}
		r.kind, r.hash = recordExact, keyHash(t.route.Prefix, t.key)
		return r, nil
	case PurgePrefix:
		r.kind, r.prefix = recordPrefix, slash(p.Value)
		if route := d.routes.find(r.prefix); route == nil || route.http() == nil { // keys of stores are not encoded
			plain, err := url.PathUnescape(r.prefix)
			if err != nil {
				return r, fmt.Errorf("prefix %q: %w", p.Value, media.ErrInvalid)
			}
			r.prefix = plain
		}
		return r, nil
	}
	return r, fmt.Errorf("kind %q: want key, prefix or tag: %w", p.Kind, media.ErrInvalid)
}

func slash(path string) string {
	if strings.HasPrefix(path, "/") {
		return path
	}
	return "/" + path
}

// purges says what was purged since when, with no scan: a purge writes a number, and a Meta that is older than the
// number that concerns it is not used (hard) or stale (soft). Numbers are nanoseconds of this edge's clock, each greater
// than all before it, so that "older" needs no synchronised clocks: docs/decisions/0006.
type purges struct {
	clock  atomic.Int64 // the last number given out, to a Meta or a purge
	newest atomic.Int64 // of the purges; 0: there are none
	fleet  atomic.Int64 // greatest Purge.Epoch
	log    *purgeLog    // nil: purges need not survive, since nothing else does
	writes sync.Mutex   // held over a purge: one at a time

	mu       sync.RWMutex // guards the fields below
	exact    map[uint64]mark
	prefixes []prefixMark
	floor    mark // of everything: what purges became that were too many to keep

	count *prometheus.CounterVec
}

// mark is the last hard and the last soft purge of something. Salt goes into the names of objects that were stored
// after the hard one, so that their blocks are never those of before. Zero: never.
type mark struct {
	hard, soft int64
	salt       uint64
}

type prefixMark struct {
	prefix string // as route prefix and key begin
	mark
}

const (
	maxExact    = 1 << 16 // keys and tags
	maxPrefixes = 256
	// oldestMeta is an age at which a Meta is stale whatever it says: soft purges older than that need not be kept.
	oldestMeta = 366 * 24 * time.Hour
)

// openPurges reads what an earlier life was told, from a folder; empty: nothing is kept.
func openPurges(dir string, reg prometheus.Registerer) (*purges, error) {
	p := &purges{exact: map[uint64]mark{}, count: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "segue_edge_purges_total", Help: "Purges applied."}, []string{"kind", "soft"})}
	p.clock.Store(time.Now().UnixNano())
	if dir != "" {
		log, records, whole, err := openPurgeLog(dir)
		if err != nil {
			return nil, err
		}
		p.log = log
		for _, r := range records {
			p.enter(r)
			p.fleet.Store(max(p.fleet.Load(), r.fleet))
		}
		if !whole { // nobody knows what was purged: everything was
			if _, err := p.apply([]purgeRecord{{kind: recordFloor}}); err != nil {
				return nil, err
			}
		}
	}
	reg.MustRegister(p.count, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "segue_edge_purge_marks", Help: "Keys, tags and prefixes whose last purge is remembered."}, func() float64 {
		p.mu.RLock()
		defer p.mu.RUnlock()
		return float64(len(p.exact) + len(p.prefixes))
	}))
	return p, nil
}

// tick gives a number greater than all before it.
func (p *purges) tick() int64 {
	now := time.Now().UnixNano()
	for {
		last := p.clock.Load()
		if next := max(now, last+1); p.clock.CompareAndSwap(last, next) {
			return next
		}
	}
}

// apply numbers purges, keeps them and makes them count. hard says that one of them was. Those of the fleet that were
// applied before are left out. An error is of keeping them: they count all the same.
func (p *purges) apply(records []purgeRecord) (hard bool, err error) {
	p.writes.Lock()
	defer p.writes.Unlock()
	todo := records[:0:0]
	for _, r := range records {
		if r.fleet != 0 && r.fleet <= p.fleet.Load() {
			continue
		}
		r = p.enter(r)
		hard = hard || !r.soft
		todo = append(todo, r)
		kind := map[byte]string{recordPrefix: "prefix", recordFloor: "all", recordNone: "none"}[r.kind]
		p.count.WithLabelValues(cmp.Or(kind, "exact"), fmt.Sprint(r.soft)).Inc()
	}
	if len(todo) == 0 {
		return false, nil
	}
	if p.log != nil {
		err = p.log.append(todo)
	}
	if err == nil { // else the fleet sends them again
		p.fleet.Store(max(p.fleet.Load(), todo[len(todo)-1].fleet))
	}
	if p.log != nil && err == nil && p.log.records > 1024+2*p.live() {
		err = p.log.rewrite(p.dump())
	}
	return hard, err
}

// enter makes one purge count, with its number of an earlier life or a new one. Who took a number after it sees it:
// until the mark is there nobody goes by newest.
func (p *purges) enter(r purgeRecord) purgeRecord {
	p.mu.Lock()
	defer p.mu.Unlock()
	newest := p.newest.Swap(math.MaxInt64)
	if r.number == 0 {
		r.number = p.tick()
		r.salt = uint64(cmp.Or(r.fleet, r.number)) // the same at all edges of the fleet, where it can be
	}
	switch r.kind {
	case recordExact:
		p.raiseExact(r.hash, r)
		if r.hash&1 != 0 {
			p.raiseExact(anyTag, r)
		}
		if len(p.exact) > maxExact {
			p.shrink()
		}
	case recordPrefix:
		p.enterPrefix(r)
	case recordFloor:
		p.floor.raise(r)
	}
	p.newest.Store(max(newest, r.number))
	for last := p.clock.Load(); last < r.number && !p.clock.CompareAndSwap(last, r.number); last = p.clock.Load() {
	}
	return r
}

func (p *purges) raiseExact(hash uint64, r purgeRecord) {
	m := p.exact[hash]
	m.raise(r)
	p.exact[hash] = m
}

func (m *mark) raise(r purgeRecord) {
	if r.soft {
		m.soft = max(m.soft, r.number)
	} else if r.number > m.hard {
		m.hard, m.salt = r.number, r.salt
	}
}

// enterPrefix adds a prefix, and drops what it says of longer ones too. The caller holds mu.
func (p *purges) enterPrefix(r purgeRecord) {
	i := slices.IndexFunc(p.prefixes, func(m prefixMark) bool { return m.prefix == r.prefix })
	if i < 0 {
		p.prefixes = append(p.prefixes, prefixMark{prefix: r.prefix})
		i = len(p.prefixes) - 1
	}
	p.prefixes[i].raise(r)
	by := p.prefixes[i].mark
	p.prefixes = slices.DeleteFunc(p.prefixes, func(m prefixMark) bool {
		return m.prefix != r.prefix && strings.HasPrefix(m.prefix, r.prefix) && m.hard <= by.hard && m.soft <= max(by.hard, by.soft)
	})
	for len(p.prefixes) > maxPrefixes { // the oldest becomes a purge of everything of that time
		oldest := 0
		for i := range p.prefixes {
			if p.prefixes[i].last() < p.prefixes[oldest].last() {
				oldest = i
			}
		}
		p.lower(p.prefixes[oldest].mark)
		p.prefixes = slices.Delete(p.prefixes, oldest, oldest+1)
	}
}

func (m mark) last() int64 { return max(m.hard, m.soft) }

// shrink makes the older half of the marks of keys and tags a purge of everything of that time. The caller holds mu.
func (p *purges) shrink() {
	all := make([]int64, 0, len(p.exact))
	for _, m := range p.exact {
		all = append(all, m.last())
	}
	slices.Sort(all)
	limit := all[len(all)/2]
	for hash, m := range p.exact {
		if m.last() <= limit {
			p.lower(m)
			delete(p.exact, hash)
		}
	}
}

// lower lets a mark stand for everything; a soft one that is older than every Meta is just dropped.
func (p *purges) lower(m mark) {
	if m.hard > p.floor.hard {
		p.floor.hard, p.floor.salt = m.hard, m.salt
	}
	if m.soft > time.Now().Add(-oldestMeta).UnixNano() {
		p.floor.soft = max(p.floor.soft, m.soft)
	}
}

// of is the last hard and soft purge that concern a Meta.
func (p *purges) of(m *Meta) mark {
	p.mu.RLock()
	defer p.mu.RUnlock()
	out := p.floor
	take := func(with mark) {
		out.soft = max(out.soft, with.soft)
		if with.hard > out.hard {
			out.hard, out.salt = with.hard, with.salt
		}
	}
	if len(p.exact) > 0 {
		take(p.exact[keyHash(m.Route.Prefix, m.Key)])
		m.Tags.each(func(hash uint64) { take(p.exact[hash]) })
	}
	for i := range p.prefixes {
		if begins(m, p.prefixes[i].prefix) {
			take(p.prefixes[i].mark)
		}
	}
	return out
}

// begins reports whether the path of a Meta, route and key, begins with prefix.
func begins(m *Meta, prefix string) bool {
	route := m.Route.Prefix
	if len(prefix) <= len(route) {
		return strings.HasPrefix(route, prefix)
	}
	return strings.HasPrefix(prefix, route) && strings.HasPrefix(m.Key, prefix[len(route):])
}

// judge returns m as it may be used now: itself, a stale copy, or nil. A Meta that is younger than every purge costs two
// loads.
func (p *purges) judge(m *Meta) *Meta {
	newest := p.newest.Load()
	if newest == 0 || m.Epoch > newest && m.Epoch <= p.clock.Load() {
		return m
	}
	return p.weigh(m)
}

func (p *purges) weigh(m *Meta) *Meta {
	age := m.Epoch
	if age > p.clock.Load() { // of a life whose clock was ahead: its numbers say nothing
		age = 0
	}
	by := p.of(m)
	if by.hard > age {
		return nil
	}
	by.soft = max(by.soft, time.Now().Add(-oldestMeta).UnixNano())
	if at := time.Unix(0, by.soft); by.soft > age && m.FreshUntil.After(at) {
		stale := *m
		early := m.FreshUntil.Sub(at)
		for _, t := range []*time.Time{&stale.FreshUntil, &stale.RevalidateUntil, &stale.ErrorUntil} {
			if !t.IsZero() {
				*t = t.Add(-early)
			}
		}
		return &stale
	}
	return m
}

// salt is what goes into the name of the object of a new Meta. Once: a purge came while the origin was asked, so that
// its bytes may be those of before.
func (p *purges) salt(m *Meta) (salt uint64, once bool) {
	if p.newest.Load() == 0 {
		return 0, false
	}
	by := p.of(m)
	return by.salt, by.hard > m.Epoch
}

func (p *purges) live() int {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return len(p.exact) + len(p.prefixes) + 1
}

// dump is all that counts, as records; soft marks older than every Meta are left out.
func (p *purges) dump() []purgeRecord {
	p.mu.RLock()
	defer p.mu.RUnlock()
	oldest := time.Now().Add(-oldestMeta).UnixNano()
	var out []purgeRecord
	add := func(r purgeRecord, m mark) {
		if m.hard > 0 {
			r.number, r.salt, r.soft = m.hard, m.salt, false
			out = append(out, r)
		}
		if m.soft > max(m.hard, oldest) {
			r.number, r.salt, r.soft = m.soft, 0, true
			out = append(out, r)
		}
	}
	add(purgeRecord{kind: recordFloor}, p.floor)
	for hash, m := range p.exact {
		add(purgeRecord{kind: recordExact, hash: hash}, m)
	}
	for _, m := range p.prefixes {
		add(purgeRecord{kind: recordPrefix, prefix: m.prefix}, m.mark)
	}
	return append(out, purgeRecord{kind: recordNone, number: p.newest.Load(), fleet: p.fleet.Load()})
}

// remover is a tier that can give up all blocks of an object, for a hard purge. Without it they are never found again,
// and leave when others need their place.
type remover interface{ Remove(ObjectID) }
