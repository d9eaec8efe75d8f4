// Package memstore keeps objects in memory, for unit tests of what stands above a store.
package memstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"iter"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"segue/media"
)

// Store implements origin.Store in a map. The zero value is empty and ready.
type Store struct {
	mu      sync.Mutex // guards objects
	objects map[media.Key]object
}

type object struct {
	media.Object
	body []byte
}

// Put keeps a copy.
func (s *Store) Put(ctx context.Context, o media.Object, r io.Reader) (media.Object, error) {
	body, err := io.ReadAll(r)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return media.Object{}, fmt.Errorf("put %s: %w", o.Key, err)
	}
	sum := sha256.Sum256(body)
	got := hex.EncodeToString(sum[:])
	if o.Size >= 0 && int64(len(body)) != o.Size || o.SHA256 != "" && o.SHA256 != got {
		return media.Object{}, fmt.Errorf("put %s: %w", o.Key, media.ErrCorrupt)
	}
	if o.ContentType == "" {
		o.ContentType = media.ContentTypes[path.Ext(string(o.Key))]
	}
	o.Size, o.SHA256, o.ETag, o.ModTime = int64(len(body)), got, `"`+got[:32]+`"`, time.Now().UTC().Truncate(time.Second)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects == nil {
		s.objects = map[media.Key]object{}
	}
	s.objects[o.Key] = object{o, body}
	return o, nil
}

// Get reads from the shared copy.
func (s *Store) Get(ctx context.Context, key media.Key, rng media.ByteRange, ifMatch string) (io.ReadCloser, media.Object, error) {
	s.mu.Lock()
	o, ok := s.objects[key]
	s.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return nil, media.Object{}, fmt.Errorf("get %s: %w", key, ctx.Err())
	case !ok:
		return nil, media.Object{}, fmt.Errorf("get %s: %w", key, media.ErrNotFound)
	case ifMatch != "" && ifMatch != o.ETag:
		return nil, o.Object, fmt.Errorf("get %s: %w", key, media.ErrChanged)
	case rng.Offset < 0 || rng.Offset > 0 && rng.Offset >= o.Size:
		return nil, o.Object, fmt.Errorf("get %s: %w", key, media.ErrRange)
	}
	body := o.body[rng.Offset:]
	if rng.Length >= 0 {
		body = body[:min(rng.Length, int64(len(body)))]
	}
	return io.NopCloser(bytes.NewReader(body)), o.Object, nil
}

// Stat looks the object up.
func (s *Store) Stat(ctx context.Context, key media.Key) (media.Object, error) {
	r, o, err := s.Get(ctx, key, media.WholeObject, "")
	if err != nil {
		return media.Object{}, err
	}
	return o, r.Close()
}

// Delete forgets the object.
func (s *Store) Delete(_ context.Context, key media.Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, key)
	return nil
}

// List yields a snapshot.
func (s *Store) List(_ context.Context, prefix string) iter.Seq2[media.Object, error] {
	s.mu.Lock()
	var found []media.Object
	for k, o := range s.objects {
		if strings.HasPrefix(string(k), prefix) {
			found = append(found, o.Object)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(found, func(a, b media.Object) int { return strings.Compare(string(a.Key), string(b.Key)) })
	return func(yield func(media.Object, error) bool) {
		for _, o := range found {
			if !yield(o, nil) {
				return
			}
		}
	}
}
