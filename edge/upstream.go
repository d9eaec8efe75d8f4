package edge

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"time"

	"segue/edge/policy"
	"segue/media"

	"golang.org/x/sync/semaphore"
)

// Origin is where a route's objects come from. Keys are what follows the route's prefix. Errors wrap
// media.ErrNotFound and media.ErrChanged where they apply. Safe for concurrent use.
type Origin interface {
	// Open yields the bytes of rng of what m.Object names; the caller closes.
	Open(ctx context.Context, m *Meta, rng media.ByteRange) (io.ReadCloser, error)
}

// objects is an Origin whose keys name objects: what they are can be asked apart from their bytes. An HTTPOrigin is
// none; there the answer to a GET says it.
type objects interface {
	Origin
	// Stat describes what a key names now: Status, Size, Fields, validators and times of a new Meta.
	Stat(ctx context.Context, key string) (*Meta, error)
}

// Upstream is the lowest tier: one ranged request per run of blocks, to the origin of the Meta's route.
type Upstream struct {
	slots   *semaphore.Weighted // requests to origins at once
	alloc   func(n int) *Block
	metrics *metrics
}

func newUpstream(concurrent int64, alloc func(n int) *Block, m *metrics) *Upstream {
	return &Upstream{semaphore.NewWeighted(concurrent), alloc, m}
}

// Fetch implements Source.
func (u *Upstream) Fetch(ctx context.Context, w Want) iter.Seq2[Piece, error] {
	return func(yield func(Piece, error) bool) {
		fail := func(err error) { yield(Piece{}, fmt.Errorf("fetch %s: %w", w.Meta.Key, err)) }
		if err := u.slots.Acquire(ctx, 1); err != nil {
			fail(err)
			return
		}
		defer u.slots.Release(1)
		from := int64(w.First) * BlockSize
		to := min(int64(w.Last+1)*BlockSize, w.Meta.Size)
		u.metrics.originRequests.WithLabelValues("get").Inc()
		body, err := w.Meta.Route.Origin.Open(ctx, w.Meta, media.ByteRange{Offset: from, Length: to - from})
		if err != nil {
			fail(err)
			return
		}
		defer body.Close()
		for n := w.First; n <= w.Last; n++ {
			block := u.alloc(blockLen(w.Meta.Size, n))
			if _, err := io.ReadFull(body, block.Bytes); err != nil {
				fail(fmt.Errorf("block %d: %w", n, err))
				return
			}
			if !yield(Piece{n, block, TierOrigin}, nil) {
				return
			}
		}
	}
}

// immutable is how long a versioned object is fresh: for ever, in the words of HTTP a year.
const immutable = 365 * 24 * time.Hour

// Store is the part of origin.Store that an edge needs, with the same promises.
type Store interface {
	Get(ctx context.Context, key media.Key, rng media.ByteRange, ifMatch string) (io.ReadCloser, media.Object, error)
	Stat(ctx context.Context, key media.Key) (media.Object, error)
}

// StoreOrigin serves from a Store: a directory or a bucket. Objects of the platform's own layout never change under
// their key; others are fresh for Fresh.
type StoreOrigin struct {
	Store Store
	Fresh time.Duration
}

// Stat implements Origin.
func (s StoreOrigin) Stat(ctx context.Context, key string) (*Meta, error) {
	k, err := media.ParseKey(key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", media.ErrNotFound, err)
	}
	o, err := s.Store.Stat(ctx, k)
	if err != nil {
		return nil, err
	}
	h := http.Header{"Etag": {o.ETag}, "Content-Type": {cmp.Or(o.ContentType, "application/octet-stream")}}
	if !o.ModTime.IsZero() {
		h.Set("Last-Modified", o.ModTime.UTC().Format(http.TimeFormat))
	}
	fresh := s.Fresh
	if strings.HasPrefix(key, "media/") || strings.HasPrefix(key, "art/") {
		fresh = immutable
		h.Set("Cache-Control", "public, max-age=31536000, immutable") // RFC 8246
		if k.Protected() {
			h.Set("Cache-Control", "private, max-age=31536000, immutable") // the URL holds a listener's token
		}
	}
	return &Meta{Status: http.StatusOK, Size: o.Size, ETag: o.ETag, ModTime: o.ModTime, Fields: makeFields(h, nil),
		Stored: policy.Stored{FreshUntil: time.Now().Add(fresh)}}, nil
}

// Open implements Origin.
func (s StoreOrigin) Open(ctx context.Context, m *Meta, rng media.ByteRange) (io.ReadCloser, error) {
	body, _, err := s.Store.Get(ctx, media.Key(m.Key), rng, m.ETag)
	return body, err
}
