package edge

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"time"

	"segue/media"

	"github.com/allegro/bigcache/v3"
	"golang.org/x/sync/singleflight"
)

// negativeFor is how long "not found" is remembered.
const negativeFor = 5 * time.Second

// metas remembers what keys name. A stale or missing one is asked for at the origin, once for all who wait.
type metas struct {
	cache   *bigcache.BigCache
	asking  singleflight.Group
	timeout time.Duration
	routes  routes
	metrics *metrics
}

func newMetas(rs routes, timeout time.Duration, m *metrics) (*metas, error) {
	cache, err := newRecords()
	return &metas{cache: cache, timeout: timeout, routes: rs, metrics: m}, err
}

// newRecords makes a bigcache for small records that carry their own end.
func newRecords() (*bigcache.BigCache, error) {
	c := bigcache.DefaultConfig(24 * time.Hour)
	c.Shards, c.MaxEntriesInWindow, c.MaxEntrySize, c.HardMaxCacheSize, c.Verbose = 256, 64<<10, 256, 64, false // MB
	return bigcache.New(context.Background(), c)
}

// get returns the Meta of a key; known says that no origin was asked. When the origin fails, a stale Meta is better
// than none: RFC 9111 4.2.4, RFC 5861 4.
func (t *metas) get(ctx context.Context, r *Route, key string) (m *Meta, known bool, err error) {
	id := r.Prefix + "\x00" + key
	old := t.recall(id)
	if old != nil && time.Now().Before(old.FreshUntil) {
		return old, true, nil
	}
	v, err, _ := t.asking.Do(id, func() (any, error) {
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.timeout)
		defer cancel()
		t.metrics.originRequests.WithLabelValues("stat").Inc()
		m, err := r.Origin.Stat(sctx, key)
		now := time.Now()
		switch {
		case errors.Is(err, media.ErrNotFound):
			m = Meta{Status: http.StatusNotFound, Stored: now, FreshUntil: now.Add(negativeFor)}
		case err != nil && old != nil && old.Status == http.StatusOK:
			stale := *old
			stale.FreshUntil = now.Add(negativeFor) // do not ask a broken origin for every request
			return &stale, nil
		case err != nil:
			return nil, fmt.Errorf("stat %s: %w", key, err)
		}
		m.Key, m.Route = key, r
		m.identify()
		t.cache.Set(id, m.encode()) // a record that is too large is not kept: asked again
		return &m, nil
	})
	if err != nil {
		return nil, false, err
	}
	return v.(*Meta), false, nil
}

// forget drops what is known of a key: the origin said that it changed.
func (t *metas) forget(m *Meta) { _ = t.cache.Delete(m.Route.Prefix + "\x00" + m.Key) }

func (t *metas) recall(id string) *Meta {
	b, err := t.cache.Get(id)
	if err != nil {
		return nil
	}
	m, err := decodeMeta(b)
	if err != nil {
		return nil
	}
	for _, r := range t.routes {
		if len(id) == len(r.Prefix)+1+len(m.Key) && id[:len(r.Prefix)] == r.Prefix {
			m.Route = r
		}
	}
	if m.Route == nil {
		return nil
	}
	return m
}

func (m *Meta) encode() []byte {
	b := make([]byte, 0, 160+len(m.Key))
	b = binary.AppendUvarint(b, uint64(m.Status))
	b = binary.AppendUvarint(b, uint64(m.Size))
	for _, t := range []time.Time{m.ModTime, m.Stored, m.FreshUntil} {
		n := int64(0)
		if !t.IsZero() {
			n = t.UnixNano()
		}
		b = binary.AppendVarint(b, n)
	}
	b = append(b, m.Object[:]...)
	for _, s := range []string{m.Key, m.ETag, m.ContentType, m.CacheControl} {
		b = appendString(b, s)
	}
	return b
}

func decodeMeta(b []byte) (*Meta, error) {
	r := reader{b: b}
	m := &Meta{Status: int(r.uvarint()), Size: int64(r.uvarint())}
	for _, t := range []*time.Time{&m.ModTime, &m.Stored, &m.FreshUntil} {
		if n := r.varint(); n != 0 {
			*t = time.Unix(0, n).UTC()
		}
	}
	copy(m.Object[:], r.take(16))
	for _, s := range []*string{&m.Key, &m.ETag, &m.ContentType, &m.CacheControl} {
		*s = r.string()
	}
	return m, r.err
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// reader reads records; after the first fault it returns zeros.
type reader struct {
	b   []byte
	err error
}

func (r *reader) uvarint() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 {
		r.err, r.b = media.ErrCorrupt, nil
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) varint() int64 {
	n, size := binary.Varint(r.b)
	if size <= 0 {
		r.err, r.b = media.ErrCorrupt, nil
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) take(n uint64) []byte {
	if uint64(len(r.b)) < n {
		r.err, r.b = media.ErrCorrupt, nil
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) string() string { return string(r.take(r.uvarint())) }
