package search

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"segue/media"
)

// genState is a generation's folder, open: for each kind a list of segments, the oldest first. What changes is written as
// a new segment, and hides what older ones have of the same ids; segments are merged before there are too many. It is safe
// for concurrent use, but what is written by whom, and in which order, is Index's to know.
type genState struct {
	dir   string
	kinds []string

	mu       sync.Mutex        // guards the fields below
	pieces   [][]*piece        // by kind
	loose    map[*segment]bool // not surely on disk yet
	complete bool              // filled to the end: the list of segments is on disk, and every change of it
	stale    bool              // pieces are not those of view
	next     int               // number of the next file

	merging sync.Mutex // held by a merge of any size
	view    atomic.Pointer[view]
}

// listFile names the segments, for each kind in order. It is there when the generation was filled to the end.
const listFile = "segments.json"

// openGeneration opens or makes the one in dir. fresh: dir is new; else what is not whole there is media.ErrCorrupt.
func openGeneration(dir string, kinds []string, fresh bool) (_ *genState, err error) {
	g := &genState{dir: dir, kinds: kinds, pieces: make([][]*piece, len(kinds)), loose: map[*segment]bool{}, stale: true}
	if fresh {
		g.refresh()
		return g, nil
	}
	defer func() {
		if v := recover(); v != nil { // what damaged files do to their readers
			err = fmt.Errorf("search index %s: %w: %v", dir, media.ErrCorrupt, v)
		}
		if err != nil {
			_ = g.close()
		}
	}()
	b, err := os.ReadFile(filepath.Join(dir, listFile))
	var lists map[string][]string
	if err == nil {
		err = json.Unmarshal(b, &lists)
	}
	if err != nil {
		return nil, fmt.Errorf("search index %s: %w: %w", dir, media.ErrCorrupt, err)
	}
	known := map[string]bool{listFile: true}
	for k, kind := range kinds {
		for _, name := range lists[kind] {
			s, err := openSegment(filepath.Join(dir, filepath.Base(name)))
			if err != nil {
				return nil, err
			}
			known[name] = true
			n, _ := strconv.Atoi(name[:max(0, len(name)-len(extension))])
			g.next = max(g.next, n+1)
			g.hide(k, s)
			g.pieces[k] = append(g.pieces[k], &piece{segment: s})
		}
	}
	g.complete = true
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("search index: %w", err)
	}
	for _, e := range entries { // what a kill left
		if !known[e.Name()] {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return nil, fmt.Errorf("search index: %w", err)
			}
		}
	}
	g.refresh()
	return g, nil
}

const extension = ".seg"

// path is a new file's.
func (g *genState) path() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.next++
	return filepath.Join(g.dir, fmt.Sprintf("%08d", g.next)+extension)
}

// check reads all files and compares their checksums.
func (g *genState) check(ctx context.Context) error {
	v := g.acquire()
	if v == nil {
		return nil
	}
	defer v.release()
	for _, list := range v.pieces {
		for _, p := range list {
			if err := p.check(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// write puts docs of one kind and takes gone away (ids). With wait that is on disk when it returns, in a generation that
// is complete; in both cases the next view has it. fresh: no older segment has any of them.
func (g *genState) write(kind string, docs []Doc, gone []string, wait, fresh bool) (err error) {
	defer func() {
		if v := recover(); v != nil { // what damaged files do to their readers
			err = fmt.Errorf("search index %s: %w: %v", g.dir, media.ErrCorrupt, v)
		}
	}()
	k := slices.Index(g.kinds, kind)
	if k < 0 {
		return fmt.Errorf("bug: search document of kind %q", kind)
	}
	if len(docs)+len(gone) == 0 {
		return nil
	}
	g.mu.Lock()
	durable := wait && g.complete
	g.mu.Unlock()
	s, err := build(g.path(), docs, gone, durable)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !durable {
		g.loose[s] = true
	}
	if !fresh {
		g.hide(k, s)
	}
	g.pieces[k] = append(g.pieces[k], &piece{segment: s})
	g.stale = true
	if durable {
		return g.list()
	}
	return nil
}

// empty reports whether nothing was written yet.
func (g *genState) empty() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !slices.ContainsFunc(g.pieces, func(list []*piece) bool { return len(list) > 0 })
}

// hide deletes what s replaces in the segments before it; mu is held.
func (g *genState) hide(kind int, s *segment) {
	for i, p := range g.pieces[kind] {
		var docs []uint32
		note := func(id []byte) {
			if d, ok := p.lookup(id); ok && !p.deleted.Contains(d) {
				docs = append(docs, d)
			}
		}
		for d := range uint32(s.docs) {
			note(s.id(d))
		}
		for j := range s.gone.len() {
			note(s.gone.at(j))
		}
		if len(docs) > 0 {
			g.pieces[kind][i] = p.without(docs)
		}
	}
}

// list writes listFile, and returns when it and all that it names is on disk; mu is held.
func (g *genState) list() error {
	for s := range g.loose {
		if err := s.sync(); err != nil {
			return err
		}
	}
	clear(g.loose)
	lists := map[string][]string{}
	for k, list := range g.pieces {
		for _, p := range list {
			lists[g.kinds[k]] = append(lists[g.kinds[k]], filepath.Base(p.path))
		}
	}
	return replaceFile(filepath.Join(g.dir, listFile), lists)
}

// replaceFile writes v as JSON in one step, and returns when that is on disk.
func replaceFile(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("bug: %w", err)
	}
	tmp := path + ".new"
	f, err := os.Create(tmp)
	if err != nil {
		return fmt.Errorf("search index: %w", err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		var d *os.File
		if d, err = os.Open(filepath.Dir(path)); err == nil {
			err = errors.Join(d.Sync(), d.Close())
		}
	}
	if err != nil {
		return fmt.Errorf("search index: %w", err)
	}
	return nil
}

// seal marks the generation as filled and returns when all of it is on disk.
func (g *genState) seal() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.list(); err != nil {
		return err
	}
	g.complete = true
	return nil
}

// compact merges the segments of each kind into one.
func (g *genState) compact(ctx context.Context) error {
	g.merging.Lock()
	defer g.merging.Unlock()
	for k := range g.kinds {
		if err := g.merge(ctx, k, func(list []*piece) int { return 0 }); err != nil {
			return err
		}
	}
	return nil
}

const (
	fewSegments = 8      // of a kind are left alone: a query pays for each
	smallMerge  = 20_000 // documents that a writer merges itself
)

// tidy merges segments of a complete generation where there are too many of a size, up to so many documents at once. When
// another merge runs it does nothing.
func (g *genState) tidy(ctx context.Context, most int) error {
	g.mu.Lock()
	complete := g.complete
	g.mu.Unlock()
	if !complete || !g.merging.TryLock() {
		return nil
	}
	defer g.merging.Unlock()
	for k := range g.kinds {
		err := g.merge(ctx, k, func(list []*piece) int {
			size := func(i int) int { return list[i].docs + list[i].gone.len() }
			from, sum := len(list), 0
			if len(list) <= fewSegments {
				return from
			}
			// Two, and older ones as long as they are not much more: a document is written again some log(n) times.
			for from > 0 && sum+size(from-1) <= most && (size(from-1) <= 2*sum || len(list)-from < 2) {
				from--
				sum += size(from)
			}
			return from
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// merge makes one segment of those that choose gives, which are the newest from some index on; merging is held. What is
// written meanwhile comes after them.
func (g *genState) merge(ctx context.Context, kind int, choose func([]*piece) int) error {
	g.mu.Lock()
	from := choose(g.pieces[kind])
	in := slices.Clone(g.pieces[kind][from:])
	durable := g.complete
	for _, p := range in {
		p.acquire()
	}
	g.mu.Unlock()
	if len(in) < 2 {
		for _, p := range in {
			p.release()
		}
		return nil
	}
	defer func() {
		for _, p := range in {
			p.release()
		}
	}()
	s, to, err := mergeSegments(ctx, g.path(), in, from == 0, durable)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	var deleted []uint32
	for i := range in {
		now := g.pieces[kind][from+i].deleted
		if now.Bitmap == nil {
			continue
		}
		for it := now.Iterator(); it.HasNext(); {
			if d := to[i][it.Next()]; d != nowhere {
				deleted = append(deleted, d)
			}
		}
	}
	merged := &piece{segment: s}
	if len(deleted) > 0 {
		merged = merged.without(deleted)
	}
	g.pieces[kind] = slices.Replace(g.pieces[kind], from, from+len(in), merged)
	g.stale = true
	if !durable || !g.complete {
		g.loose[s] = true
	}
	if g.complete {
		err = g.list()
	}
	for _, p := range in {
		delete(g.loose, p.segment)
		if err == nil {
			p.outlive.Store(false)
		}
		p.release() // the list's
	}
	return err
}

// refresh makes what was written visible to the next query. It is cheap when nothing was.
func (g *genState) refresh() {
	g.mu.Lock()
	if !g.stale {
		g.mu.Unlock()
		return
	}
	old := g.view.Swap(newView(g.pieces))
	g.stale = false
	g.mu.Unlock()
	if old != nil {
		old.release()
	}
}

// acquire returns the present view; release it.
func (g *genState) acquire() *view {
	for {
		v := g.view.Load()
		if v == nil {
			return nil
		}
		if v.acquire() {
			return v
		}
		runtime.Gosched() // it was replaced between the two lines
	}
}

// bytes is what the generation takes on disk.
func (g *genState) bytes() (n int64) {
	_ = filepath.WalkDir(g.dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if i, err := d.Info(); err == nil {
				n += i.Size()
			}
		}
		return nil
	})
	return n
}

// close waits until no query uses the generation.
func (g *genState) close() error {
	g.merging.Lock()
	defer g.merging.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	if v := g.view.Swap(nil); v != nil {
		v.release()
		for v.refs.Load() > 0 {
			time.Sleep(time.Millisecond)
		}
	}
	for k, list := range g.pieces {
		for _, p := range list {
			p.release()
		}
		g.pieces[k] = nil
	}
	return nil
}

// remove deletes the folder.
func (g *genState) remove() error { return os.RemoveAll(g.dir) }
