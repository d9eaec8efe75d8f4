package search

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"segue/media"
)

// copy writes into g what the source holds now.
func (x *Index) copy(ctx context.Context, g *genState, s Source, ids []string, wait bool) error {
	docs, err := s.Load(ctx, ids)
	if err != nil {
		return fmt.Errorf("search: read %s: %w", s.Kind, err)
	}
	missing := map[string]bool{}
	for _, id := range ids {
		missing[id] = true
	}
	for i := range docs {
		docs[i].Kind = s.Kind
		delete(missing, docs[i].ID)
	}
	return g.write(s.Kind, docs, slices.Collect(maps.Keys(missing)), wait, false)
}

const fillBatch = 20_000 // documents of a segment while an index is built

// Rebuild fills a new generation from the sources, brings it up to date with what changed meanwhile, and serves it
// instead of the present one, which is then deleted. Searches and changes go on all the time. When it fails, or the
// process ends, the present generation stays.
func (x *Index) Rebuild(ctx context.Context) (err error) {
	x.writing.Lock()
	if x.next != nil {
		x.writing.Unlock()
		return fmt.Errorf("search index is being built already: %w", media.ErrBusy)
	}
	first := x.building.Load()
	g := x.current.Load()
	if !first {
		if g, err = x.fresh(); err != nil {
			x.writing.Unlock()
			return err
		}
	}
	x.next, x.changed = g, map[string]struct{}{}
	x.writing.Unlock()
	x.done.Store(0)
	x.set(func(s *Status) { s.StartedAt, s.EndedAt, s.Total = time.Now(), time.Time{}, 0 })
	defer func() {
		x.writing.Lock()
		if x.next != nil { // it failed
			x.next = nil
			if !first {
				err = errors.Join(err, g.close(), g.remove())
			}
		}
		x.changed = nil
		x.writing.Unlock()
		x.set(func(s *Status) {
			s.EndedAt, s.Error = time.Now(), ""
			if err != nil {
				s.Error = err.Error()
			}
		})
	}()
	total := int64(0)
	for _, s := range x.cfg.Sources {
		if s.Count == nil {
			continue
		}
		n, err := s.Count(ctx)
		if err != nil {
			return fmt.Errorf("search: count %s: %w", s.Kind, err)
		}
		total += n
	}
	if total == 0 {
		for _, n := range x.Documents() {
			total += int64(n) // about as many as there are now
		}
	}
	x.set(func(s *Status) { s.Total = total })
	if err := x.fill(ctx, g, first); err != nil {
		return err
	}
	if err := g.compact(ctx); err != nil {
		return err
	}
	if err := g.seal(); err != nil {
		return err
	}
	debug.FreeOSMemory() // a build needs much, and the next may be weeks away
	// Most of what changed is brought in while changes still come, the rest while they wait.
	for range 5 {
		if n, err := x.replay(ctx, g, false); err != nil {
			return err
		} else if n < 100 {
			break
		}
	}
	old, err := x.take(ctx, g)
	if err != nil {
		return err
	}
	if old != g {
		err = errors.Join(old.close(), old.remove())
	}
	return err
}

// take makes a filled generation the current one, with the last changes, and returns the one before.
func (x *Index) take(ctx context.Context, g *genState) (*genState, error) {
	x.writing.Lock()
	defer x.writing.Unlock()
	if _, err := x.replay(ctx, g, true); err != nil {
		return nil, err
	}
	if err := g.seal(); err != nil {
		return nil, err
	}
	g.refresh()
	if err := x.publish(g); err != nil {
		return nil, err
	}
	x.next = nil
	x.swap.Lock()
	defer x.swap.Unlock()
	x.building.Store(false)
	return x.current.Swap(g), nil
}

// fill copies all sources. serve shows what there is while it is filled.
func (x *Index) fill(ctx context.Context, g *genState, serve bool) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	shown, blank := time.Now(), g.empty() // else an earlier attempt left something
	batches := make(chan []Doc)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for docs := range batches {
				n, kind := len(docs), docs[0].Kind
				if serve {
					docs = x.unchanged(docs)
				}
				if err := g.write(kind, docs, nil, false, blank); err != nil {
					stop(err)
				}
				x.done.Add(int64(n))
			}
		})
	}
	send := func(docs []Doc) error {
		if serve && time.Since(shown) > time.Second {
			g.refresh()
			shown = time.Now()
		}
		select {
		case batches <- docs:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	var err error
	for _, s := range x.cfg.Sources {
		docs := make([]Doc, 0, fillBatch)
		err = s.Each(ctx, func(d Doc) error {
			d.Kind = s.Kind
			if docs = append(docs, d); len(docs) < fillBatch {
				return nil
			}
			full := docs
			docs = make([]Doc, 0, fillBatch)
			return send(full)
		})
		if err == nil && len(docs) > 0 {
			err = send(docs)
		}
		if err != nil {
			err = fmt.Errorf("search: read all of kind %s: %w", s.Kind, err)
			stop(err)
			break
		}
	}
	close(batches)
	wg.Wait()
	return cmp.Or(err, context.Cause(ctx))
}

// unchanged leaves out what was changed since it was read, perhaps: that is there already, and is replayed.
func (x *Index) unchanged(docs []Doc) []Doc {
	x.writing.Lock()
	defer x.writing.Unlock()
	return slices.DeleteFunc(docs, func(d Doc) bool { _, ok := x.changed[key(d.Kind, d.ID)]; return ok })
}

// replay brings into g what changed since it began, and returns how much that was. held: the caller holds writing.
func (x *Index) replay(ctx context.Context, g *genState, held bool) (int, error) {
	if !held {
		x.writing.Lock()
		defer x.writing.Unlock()
	}
	byKind := map[string][]string{}
	for k := range x.changed {
		kind, id, _ := strings.Cut(k, "/")
		byKind[kind] = append(byKind[kind], id)
	}
	n := len(x.changed)
	clear(x.changed)
	for _, s := range x.cfg.Sources {
		for some := range slices.Chunk(byKind[s.Kind], 1000) {
			if err := x.copy(ctx, g, s, some, false); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}
