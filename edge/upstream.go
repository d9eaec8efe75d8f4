package edge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"time"

	"segue/edge/policy"
	"segue/media"
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

// Upstream is the lowest tier: one ranged request per run of blocks, to the origin of the Meta's route, under its care.
// A body that breaks is resumed from the block where it broke, while the budget lasts.
type Upstream struct {
	alloc func(n int) *Block
}

// errStopped: the consumer wants no more.
var errStopped = errors.New("stopped")

// Fetch implements Source.
func (u *Upstream) Fetch(ctx context.Context, w Want) iter.Seq2[Piece, error] {
	return func(yield func(Piece, error) bool) {
		c := w.Meta.Route.care
		for tries := 1; ; tries++ {
			body, err := w.Meta.Route.open(ctx, w.Meta, w.bytes())
			opened := err == nil
			if opened {
				before := w.First
				err = blocks(body, &w, u.alloc, TierOrigin, yield)
				body.Close()
				if w.First > before {
					tries = 1
				}
			}
			if err == nil || err == errStopped {
				return
			}
			if !opened || tries == maxTries || answered(err) || !c.again(ctx, "resume") {
				c.complain(w.Meta.Key, err)
				yield(Piece{}, fmt.Errorf("fetch %s: block %d: %w", w.Meta.Key, w.First, err))
				return
			}
		}
	}
}

// bytes is the range of a Want.
func (w Want) bytes() media.ByteRange {
	from := int64(w.First) * BlockSize
	return media.ByteRange{Offset: from, Length: min(int64(w.Last+1)*BlockSize, w.Meta.Size) - from}
}

// blocks hands on the blocks of a run as they come out of a body, and moves w.First over what was handed on. Errors:
// errStopped, the body's.
func blocks(body io.Reader, w *Want, alloc func(n int) *Block, tier Tier, yield func(Piece, error) bool) error {
	for w.First <= w.Last {
		b := alloc(blockLen(w.Meta.Size, w.First))
		if _, err := io.ReadFull(body, b.Bytes); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		p := Piece{w.First, b, tier}
		w.First++
		if !yield(p, nil) {
			return errStopped
		}
	}
	return nil
}

// open is Origin.Open under the route's care.
func (r *Route) open(ctx context.Context, m *Meta, rng media.ByteRange) (io.ReadCloser, error) {
	body, l, err := perform(ctx, r.care, call[io.ReadCloser]{verb: "get", again: true, hedge: true,
		once: func(ctx context.Context) (io.ReadCloser, error) { return r.Origin.Open(ctx, m, rng) },
		drop: func(body io.ReadCloser) { body.Close() }})
	if err != nil {
		return nil, err
	}
	return newCaredBody(body, l, rng.Length), nil
}

// stat is objects.Stat under the route's care.
func (r *Route) stat(ctx context.Context, key string) (*Meta, error) {
	m, l, err := perform(ctx, r.care, call[*Meta]{verb: "stat", again: true, hedge: true,
		once: func(ctx context.Context) (*Meta, error) { return r.Origin.(objects).Stat(ctx, key) },
		drop: func(*Meta) {}})
	if err != nil {
		r.care.complain(key, err)
		return nil, err
	}
	l.end()
	return m, nil
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
