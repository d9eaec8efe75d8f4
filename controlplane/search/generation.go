package search

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"segue/media"

	"github.com/blevesearch/bleve/v2/index/scorch"
	"github.com/blevesearch/bleve/v2/index/scorch/mergeplan"
	index "github.com/blevesearch/bleve_index_api"
)

// analysis makes terms of documents, for all shards of the process.
var analysis = sync.OnceValue(func() *index.AnalysisQueue { return index.NewAnalysisQueue(runtime.GOMAXPROCS(0)) })

// genState is a generation's folder, open. It is safe for concurrent use, but what is written by whom, and in which
// order, is Index's to know.
type genState struct {
	dir    string
	kinds  []string
	shards []*scorch.Scorch

	mu    sync.Mutex // guards refresh and the fields below
	ranks map[segmentID]*ranks
	view  atomic.Pointer[view]
}

type segmentID struct {
	shard int
	id    uint64
}

// completeKey is in every shard of a generation that was filled to the end.
var completeKey = []byte("complete")

// openGeneration opens or makes the shards in dir. fresh: dir is made; else what is not whole there is media.ErrCorrupt.
func openGeneration(dir string, shards int, kinds []string, fresh bool) (_ *genState, err error) {
	g := &genState{dir: dir, kinds: kinds, ranks: map[segmentID]*ranks{}}
	defer func() {
		if v := recover(); v != nil { // what damaged files do to their readers
			err = fmt.Errorf("search index %s: %w: %v", dir, media.ErrCorrupt, v)
		}
		if err != nil {
			g.closeShards()
		}
	}()
	for i := range shards {
		path := filepath.Join(dir, "shard-"+strconv.Itoa(i))
		if fresh {
			if err := os.MkdirAll(path, 0o755); err != nil {
				return nil, fmt.Errorf("search index: %w", err)
			}
		} else if _, err := os.Stat(filepath.Join(path, "root.bolt")); err != nil {
			return nil, fmt.Errorf("search index %s: %w: %w", path, media.ErrCorrupt, err)
		} else if err := whole(path); err != nil {
			return nil, fmt.Errorf("search index %s: %w", path, err)
		}
		x, err := scorch.NewScorch(scorch.Name, map[string]any{
			"path": path,
			// Whoever needs a batch to be on disk waits for its callback: filling does not, so that small segments are merged
			// in memory and written once.
			"unsafe_batch": true,
			"bolt_timeout": "2s",
			// No nap of the persister: changes wait for the disk. Few and wide merges: a build ends with one merge of all
			// (compact), and until the next one a query pays for at most this many small segments.
			"scorchPersisterOptions": map[string]any{"PersisterNapTimeMSec": 0, "PersisterNapUnderNumFiles": 1000},
			"scorchMergePlanOptions": map[string]any{"MaxSegmentsPerTier": 30, "MaxSegmentSize": 20_000_000, "TierGrowth": 10.0, "SegmentsPerMergeTask": 30, "FloorSegmentSize": 20_000, "ReclaimDeletesWeight": 2.0},
		}, analysis())
		if err != nil {
			return nil, fmt.Errorf("search index %s: %w", path, err)
		}
		s := x.(*scorch.Scorch)
		if err := s.Open(); err != nil {
			return nil, fmt.Errorf("search index %s: %w: %w", path, media.ErrCorrupt, err)
		}
		g.shards = append(g.shards, s)
	}
	return g, g.refresh()
}

// whole: scorch passes over a snapshot that it cannot read and opens an older one, or none. It is looked at before the
// shard is opened to be written: loading a snapshot is for tools, and not safe beside scorch's own writers.
func whole(path string) (err error) {
	x, err := scorch.NewScorch(scorch.Name, map[string]any{"path": path, "read_only": true, "bolt_timeout": "2s"}, analysis())
	if err != nil {
		return err
	}
	s := x.(*scorch.Scorch)
	if err := s.Open(); err != nil {
		return fmt.Errorf("%w: %w", media.ErrCorrupt, err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	epochs, err := s.RootBoltSnapshotEpochs()
	if err != nil {
		return fmt.Errorf("%w: %w", media.ErrCorrupt, err)
	}
	r, err := s.Reader()
	if err != nil {
		return err
	}
	defer r.Close()
	done, err := r.GetInternal(completeKey)
	if err != nil || done == nil {
		return fmt.Errorf("%w: it was never filled to the end, or its newest part cannot be read", media.ErrCorrupt)
	}
	if len(epochs) == 0 {
		return fmt.Errorf("%w: it has no snapshot", media.ErrCorrupt)
	}
	newest, err := s.LoadSnapshot(slices.Max(epochs))
	if err != nil {
		return fmt.Errorf("%w: its newest part: %w", media.ErrCorrupt, err)
	}
	_ = newest.Close() // counts down what was opened to look at it
	return nil
}

// check reads all files and compares their checksums (zap ends each with a CRC-32 of the rest).
func (g *genState) check(ctx context.Context) error {
	files, err := filepath.Glob(filepath.Join(g.dir, "shard-*", "*.zap"))
	if err != nil {
		return err
	}
	for _, path := range files {
		if err := checkFile(ctx, path); err != nil && !errors.Is(err, os.ErrNotExist) { // merged away meanwhile
			return fmt.Errorf("search index: %s: %w", path, err)
		}
	}
	return nil
}

func checkFile(ctx context.Context, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() < 4 {
		return media.ErrCorrupt
	}
	sum := crc32.NewIEEE()
	for left := st.Size() - 4; left > 0 && ctx.Err() == nil; {
		n, err := io.CopyN(sum, f, min(left, 8<<20))
		if left -= n; err != nil {
			return err
		}
	}
	var want [4]byte
	if _, err := io.ReadFull(f, want[:]); err != nil {
		return err
	}
	if ctx.Err() == nil && binary.BigEndian.Uint32(want[:]) != sum.Sum32() {
		return media.ErrCorrupt
	}
	return ctx.Err()
}

func (g *genState) shardOf(key string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key))
	return int(h.Sum32() % uint32(len(g.shards)))
}

func (g *genState) kindByte(kind string) (byte, bool) {
	i := slices.Index(g.kinds, kind)
	return byte(i), i >= 0
}

// write puts docs and takes gone away (their keys). With wait it returns when that is on disk; in both cases the next
// view has it.
func (g *genState) write(ctx context.Context, docs []Doc, gone []string, wait bool) error {
	batches := make([]*index.Batch, len(g.shards))
	at := func(key string) *index.Batch {
		i := g.shardOf(key)
		if batches[i] == nil {
			batches[i] = index.NewBatch()
		}
		return batches[i]
	}
	for _, k := range gone {
		at(k).Delete(k)
	}
	for _, d := range docs {
		kind, ok := g.kindByte(d.Kind)
		if !ok {
			return fmt.Errorf("bug: search document of kind %q", d.Kind)
		}
		e := newEntry(clean(d), kind)
		at(e.ID()).Update(e)
	}
	return g.run(ctx, batches, wait)
}

// run hands each shard its batch, all at once.
func (g *genState) run(ctx context.Context, batches []*index.Batch, wait bool) error {
	results := make(chan error, 2*len(batches))
	n := 0
	for i, b := range batches {
		if b == nil {
			continue
		}
		n++
		if wait {
			n++
			b.SetPersistedCallback(func(err error) { results <- err })
		}
		go func() { results <- g.shards[i].Batch(b) }()
	}
	var err error
	for range n {
		select {
		case e := <-results:
			err = errors.Join(err, e)
		case <-ctx.Done():
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("search index: write: %w", err)
		}
	}
	return nil
}

// seal marks the generation as filled and returns when all of it is on disk.
func (g *genState) seal(ctx context.Context) error {
	batches := make([]*index.Batch, len(g.shards))
	for i := range batches {
		batches[i] = index.NewBatch()
		batches[i].SetInternal(completeKey, []byte{1})
	}
	return g.run(ctx, batches, true)
}

// compact merges each shard into few segments: a query pays for every one.
func (g *genState) compact(ctx context.Context) error {
	var wg sync.WaitGroup
	errs := make([]error, len(g.shards))
	for i, s := range g.shards {
		wg.Go(func() {
			o := mergeplan.SingleSegmentMergePlanOptions
			o.MaxSegmentSize = 20_000_000
			errs[i] = s.ForceMerge(ctx, &o)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// refresh makes what was written visible to the next query. It is cheap when nothing was.
func (g *genState) refresh() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	next := &view{}
	next.refs.Store(1)
	used := map[segmentID]*ranks{}
	old := g.view.Load()
	same := old != nil
	n := 0
	for i, s := range g.shards {
		r, err := s.Reader()
		if err != nil {
			next.release()
			return fmt.Errorf("search index: %w", err)
		}
		snapshot := r.(*scorch.IndexSnapshot)
		next.snapshots = append(next.snapshots, snapshot)
		same = same && old.snapshots[i] == snapshot
	}
	if same {
		next.release()
		return nil
	}
	for i, snapshot := range next.snapshots {
		for _, seg := range snapshot.Segments() {
			id := segmentID{i, seg.Id()}
			known := g.ranks[id]
			if known == nil || known.docs != int(seg.Segment().Count()) {
				var err error
				if known, err = newRanks(seg.Segment(), len(g.kinds)); err != nil {
					next.release()
					return fmt.Errorf("search index: %w: %w", media.ErrCorrupt, err)
				}
			}
			used[id] = known
			next.segments = append(next.segments, newSegment(seg, known))
			n += int(seg.Count())
		}
	}
	next.finish(len(g.kinds), n)
	g.ranks = used
	g.view.Store(next)
	if old != nil {
		old.release()
	}
	return nil
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
	_ = filepath.WalkDir(g.dir, func(_ string, d os.DirEntry, err error) error {
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
	g.mu.Lock()
	v := g.view.Swap(nil)
	g.mu.Unlock()
	if v != nil {
		v.release()
		for v.refs.Load() > 0 {
			time.Sleep(time.Millisecond)
		}
	}
	return g.closeShards()
}

func (g *genState) closeShards() error {
	var err error
	for _, s := range g.shards {
		err = errors.Join(err, s.Close())
	}
	g.shards = nil
	return err
}

// remove deletes the folder.
func (g *genState) remove() error { return os.RemoveAll(g.dir) }
