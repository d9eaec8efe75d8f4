package edge

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"segue/edge/policy"
	"segue/media"

	"github.com/allegro/bigcache/v3"
	"golang.org/x/sync/singleflight"
)

// negativeFor is how long a store's "not found" is remembered, and how long a store that fails is not asked again.
const negativeFor = 5 * time.Second

// metas remembers what keys name, in bigcache: many small records that carry their own end. A key of an HTTP origin
// whose responses vary has a record of the fields that they vary by, and one record per variant.
//
//	id -> Meta        id -> vary(epoch, names)        id + epoch + values of names -> Meta
type metas struct {
	cache   *bigcache.BigCache
	kept    recordStore // of an earlier life too; nil: none
	hot     hot
	asking  singleflight.Group
	timeout time.Duration
	routes  *routeTable
	metrics *metrics

	purges   *purges
	removers []remover    // tiers that can give up what a hard purge took
	sweeping atomic.Int32 // hard purges since the sweep that is under way began; 0: none is
}

// recordStore keeps records under names: the disk tier.
type recordStore interface {
	PutMeta(id string, record []byte)
	GetMeta(id string) ([]byte, bool)
	DeleteMeta(id string)
}

func (t *metas) get(at string) []byte {
	if b, err := t.cache.Get(at); err == nil && len(b) > 0 {
		return b
	}
	if t.kept == nil {
		return nil
	}
	b, ok := t.kept.GetMeta(at)
	if !ok || len(b) == 0 {
		return nil
	}
	_ = t.cache.Set(at, b)
	return b
}

func (t *metas) set(at string, b []byte) {
	_ = t.cache.Set(at, b) // too large a record is not kept: the origin is asked again
	if t.kept != nil {
		t.kept.PutMeta(at, b)
	}
}

func newMetas(rs *routeTable, records int64, timeout time.Duration, p *purges, m *metrics) (*metas, error) {
	cache, err := newRecords(records)
	return &metas{cache: cache, hot: hot{maphash.MakeSeed(), make([]atomic.Pointer[hotMeta], hotSlots)}, timeout: timeout, routes: rs, purges: p, metrics: m}, err
}

// newRecords makes a bigcache of at most size bytes, in whole MiB, for small records that carry their own end.
func newRecords(size int64) (*bigcache.BigCache, error) {
	c := bigcache.DefaultConfig(24 * time.Hour)
	c.Shards, c.MaxEntriesInWindow, c.MaxEntrySize, c.HardMaxCacheSize, c.Verbose = 64, 32<<10, 256, max(1, int(size>>20)), false
	return bigcache.New(context.Background(), c)
}

// id names a key in the table.
func id(r *Route, key string) string { return r.Prefix + "\x00" + key }

// kinds of records: the first byte.
const (
	recordMeta = iota
	recordVary
)

// find returns the stored Meta that a request selects, or nil. field gives the request's lines of a header field.
func (t *metas) find(r *Route, key string, field func(name string) []string) *Meta {
	slot := t.hot.slot(r, key)
	seen := slot.Load()
	if seen != nil && seen.m != nil && seen.m.Route == r && seen.m.Key == key {
		if m := t.purges.judge(seen.m); m != nil {
			return m
		}
	}
	at := id(r, key)
	for i := range 2 {
		b := t.get(at)
		if b == nil {
			return nil
		}
		if b[0] == recordVary {
			if field == nil {
				return nil
			}
			epoch, names, ok := decodeVary(b[1:])
			if !ok {
				return nil
			}
			at = id(r, key) + "\x00" + epoch + policy.Variant(names, field)
			continue
		}
		m, err := decodeMeta(b[1:])
		if err != nil {
			return nil
		}
		m.Route = r
		now := t.purges.judge(m)
		switch {
		case now == nil:
			t.give(at, m)
		case now == m && i == 0 && m.Key == key:
			slot.CompareAndSwap(seen, &hotMeta{m}) // unless it was changed since: what is here may be older
		}
		return now
	}
	return nil
}

// hot holds decoded Metas of keys without variants, each in the one place that its key has: in front of the table, so
// that a hit decodes nothing. A change of the key leaves an empty hotMeta there.
type hot struct {
	seed  maphash.Seed
	slots []atomic.Pointer[hotMeta]
}

type hotMeta struct{ m *Meta }

// hotSlots is a power of two. A Meta is some 500 bytes.
const hotSlots = 1 << 14

func (h *hot) slot(r *Route, key string) *atomic.Pointer[hotMeta] {
	return &h.slots[(maphash.String(h.seed, key)^uint64(len(r.Prefix)))&(hotSlots-1)]
}

// give drops a Meta that a hard purge took, and its bytes.
func (t *metas) give(at string, m *Meta) {
	_ = t.cache.Delete(at)
	if t.kept != nil {
		t.kept.DeleteMeta(at)
	}
	t.hot.slot(m.Route, m.Key).Store(&hotMeta{})
	for _, r := range t.removers {
		r.Remove(m.Object)
	}
}

// sweep gives up every Meta that a hard purge took, in no hurry: nobody can find them.
func (t *metas) sweep() {
	for it := t.cache.Iterator(); it.SetNext(); {
		e, err := it.Value()
		if err != nil || len(e.Value()) == 0 || e.Value()[0] != recordMeta {
			continue
		}
		prefix, _, _ := strings.Cut(e.Key(), "\x00")
		m, err := decodeMeta(e.Value()[1:])
		if m.Route = t.routes.find(prefix); err == nil && m.Route != nil && t.purges.judge(m) == nil {
			t.give(e.Key(), m)
		}
	}
}

// put stores a Meta whose response varies by the fields named (lower case), for the request that field speaks for.
func (t *metas) put(m *Meta, vary []string, field func(name string) []string) {
	at := id(m.Route, m.Key)
	if len(vary) > 0 {
		epoch, names := "", []string(nil)
		if b := t.get(at); b != nil && b[0] == recordVary {
			epoch, names, _ = decodeVary(b[1:])
		}
		// Other fields than before, or none known: the variants stored until now cannot be found any more.
		if policy.Variant(names, none) != policy.Variant(vary, none) || epoch == "" {
			epoch = string(binary.AppendVarint(nil, m.Answered.UnixNano()))
			t.set(at, encodeVary(epoch, vary))
		}
		at += "\x00" + epoch + policy.Variant(vary, field)
	}
	record := append([]byte{recordMeta}, m.encode()...)
	if m.Strong || m.Size == 0 {
		t.set(at, record)
	} else {
		_ = t.cache.Set(at, record) // its bytes are in memory only
	}
	t.hot.slot(m.Route, m.Key).Store(&hotMeta{}) // after the change: who decoded the old record meanwhile cannot put it here
}

func none(string) []string { return nil }

// forget drops what is known of a key, all variants.
func (t *metas) forget(r *Route, key string) {
	_ = t.cache.Delete(id(r, key))
	if t.kept != nil {
		t.kept.DeleteMeta(id(r, key))
	}
	t.hot.slot(r, key).Store(&hotMeta{})
}

func encodeVary(epoch string, names []string) []byte {
	b := appendString([]byte{recordVary}, epoch)
	b = binary.AppendUvarint(b, uint64(len(names)))
	for _, n := range names {
		b = appendString(b, n)
	}
	return b
}

func decodeVary(b []byte) (epoch string, names []string, ok bool) {
	r := reader{b: b}
	epoch = r.string()
	for range min(r.uvarint(), 64) {
		names = append(names, r.string())
	}
	return epoch, names, r.err == nil
}

// stat returns the Meta of a key of a store; known says that no origin was asked. When the origin fails, a stale Meta
// is better than none.
func (t *metas) stat(ctx context.Context, r *Route, key string) (m *Meta, known bool, err error) {
	old := t.find(r, key, nil)
	if old != nil && time.Now().Before(old.FreshUntil) {
		return old, true, nil
	}
	key = strings.Clone(key) // it may be borrowed
	// Who comes after a purge does not share an answer from before it.
	since := t.purges.newest.Load()
	v, err, _ := t.asking.Do(id(r, key)+"\x00"+strconv.FormatInt(since, 36), func() (any, error) {
		epoch := t.purges.tick()
		if old != nil {
			old = t.purges.judge(old)
		}
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.timeout)
		defer cancel()
		m, err := r.stat(sctx, key)
		now := time.Now()
		switch {
		case errors.Is(err, media.ErrNotFound):
			m = &Meta{Status: http.StatusNotFound, Stored: policy.Stored{FreshUntil: now.Add(negativeFor)}}
		case err != nil && old != nil && old.Status == http.StatusOK:
			stale := *old
			stale.Epoch, stale.FreshUntil = epoch, now.Add(negativeFor) // do not ask a broken origin for every request
			t.put(&stale, nil, nil)
			return &stale, nil
		case err != nil:
			return nil, fmt.Errorf("stat %s: %w", key, err)
		}
		m.Key, m.Route, m.Answered, m.Strong, m.Whole, m.Epoch = key, r, now, true, m.Size, epoch
		m.identify("", t.purges)
		t.put(m, nil, nil)
		return m, nil
	})
	if err != nil {
		return nil, false, err
	}
	return v.(*Meta), false, nil
}
