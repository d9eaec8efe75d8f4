package search

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"segue/media"
)

// generation is raised when what is indexed or stored changes: an index of another one is made again.
const generation = "4"

// Source is where the documents of one kind come from.
type Source struct {
	Kind string
	// Load returns those of the documents that there are now, in any order: what it leaves out is taken from the index.
	Load func(ctx context.Context, ids []string) ([]Doc, error)
	// Each calls f with every document. One that changes meanwhile may be given as it was or as it is.
	Each func(ctx context.Context, f func(Doc) error) error
	// Count is about how many there are, for progress; nil: unknown.
	Count func(ctx context.Context) (int64, error)
}

// Config says where and how an index is kept.
type Config struct {
	Dir        string
	CacheBytes int64 // of answers; 0: 16 MiB, negative: none
	Sources    []Source
	Log        *slog.Logger // nil: none
}

// States of Status.
const (
	Ready      = "ready"
	Building   = "building" // filled for the first time: served as far as it is
	Rebuilding = "rebuilding"
)

// Status is how an index is.
type Status struct {
	State     string
	Documents map[string]int // by kind
	Done      int64          // documents of the build that runs, or of the last one
	Total     int64          // 0: unknown
	StartedAt time.Time      // of that build; zero: none in this process
	EndedAt   time.Time      // zero: it runs
	Error     string         // why the last build failed, or what is damaged; it is tried again
	Bytes     int64          // on disk
	Check     Check
}

// Check is the state of Verify and Mend.
type Check struct {
	Running   bool
	Mend      bool
	Done      int64
	Total     int64
	StartedAt time.Time
	EndedAt   time.Time
	Error     string
	Report    Report
}

// Index is safe for concurrent use.
type Index struct {
	cfg     Config
	kinds   []string
	log     *slog.Logger
	asked   chan struct{} // a rebuild was asked for
	checks  chan bool     // a check was asked for; true: and mending
	cache   *cache
	current atomic.Pointer[genState] // what is searched; never nil while open

	writing sync.Mutex          // held by whoever writes to a generation or changes which is current
	next    *genState           // being filled beside current, or the same one when it is the first; nil: none
	changed map[string]struct{} // keys written since next began

	mu     sync.Mutex // guards the fields below
	status Status
	swap   sync.RWMutex // held while a query takes a view, so that a generation is not closed in between

	building atomic.Bool // current is being filled
	done     atomic.Int64
	checked  atomic.Int64
}

// current names the generation that is served.
const currentFile = "current.json"

type manifest struct {
	Generation string   `json:"generation"`
	Folder     string   `json:"folder"`
	Kinds      []string `json:"kinds"`
}

// Open opens the index in cfg.Dir. One that is missing, of another version, or damaged is made anew by Run; until then it
// is empty, and Find says Building. It fails only when the folder cannot be used.
func Open(cfg Config) (*Index, error) {
	cfg.CacheBytes = cmp.Or(cfg.CacheBytes, 16<<20)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	x := &Index{cfg: cfg, log: cfg.Log, asked: make(chan struct{}, 1), checks: make(chan bool, 1), cache: newCache(cfg.CacheBytes)}
	for _, s := range cfg.Sources {
		x.kinds = append(x.kinds, s.Kind)
	}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("search index: %w", err)
	}
	m, err := readManifest(cfg.Dir)
	var g *genState
	if err == nil && m.Generation == generation && slices.Equal(m.Kinds, x.kinds) {
		g, err = openGeneration(filepath.Join(cfg.Dir, m.Folder), x.kinds, false)
		if err != nil {
			x.log.Warn("search index cannot be read, it is made again", "err", err)
			x.status.Error = err.Error()
		}
	} else {
		m.Folder = ""
	}
	if g == nil {
		m.Folder = ""
	}
	if err := x.sweep(m.Folder); err != nil {
		return nil, err
	}
	if g == nil {
		if g, err = x.fresh(); err != nil {
			return nil, err
		}
		x.building.Store(true)
	}
	x.current.Store(g)
	return x, nil
}

func readManifest(dir string) (m manifest, err error) {
	b, err := os.ReadFile(filepath.Join(dir, currentFile))
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err == nil && (m.Folder == "" || filepath.Base(m.Folder) != m.Folder) {
		err = media.ErrCorrupt
	}
	return m, err
}

// sweep removes what is not the folder kept: generations that were not finished, those of older versions.
func (x *Index) sweep(keep string) error {
	entries, err := os.ReadDir(x.cfg.Dir)
	for _, e := range entries {
		if name := e.Name(); name != keep && (name != currentFile || keep == "") {
			err = errors.Join(err, os.RemoveAll(filepath.Join(x.cfg.Dir, name)))
		}
	}
	if err != nil {
		return fmt.Errorf("search index: %w", err)
	}
	return nil
}

// fresh makes an empty generation.
func (x *Index) fresh() (*genState, error) {
	dir, err := os.MkdirTemp(x.cfg.Dir, "v"+generation+"-")
	if err != nil {
		return nil, fmt.Errorf("search index: %w", err)
	}
	return openGeneration(dir, x.kinds, true)
}

// publish makes a sealed generation the one that Open opens.
func (x *Index) publish(g *genState) error {
	return replaceFile(filepath.Join(x.cfg.Dir, currentFile), manifest{generation, filepath.Base(g.dir), x.kinds})
}

// Close closes the files. Nothing may use the index any more.
func (x *Index) Close() error {
	x.writing.Lock()
	defer x.writing.Unlock()
	var err error
	if x.next != nil && x.next != x.current.Load() {
		err = x.next.close()
	}
	x.next = nil
	if g := x.current.Load(); g != nil {
		err = errors.Join(err, g.close())
	}
	return err
}

// Run fills the index when it must be, checks its files once, merges segments, and does the rebuilds and
// checks that are asked for, until ctx ends.
func (x *Index) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	wg.Go(func() { x.follow(ctx) })
	if x.building.Load() {
		x.ask()
	} else {
		wg.Go(func() {
			x.swap.RLock()
			g := x.current.Load()
			x.swap.RUnlock()
			if err := g.check(ctx); err != nil && ctx.Err() == nil {
				x.log.Warn("search index is damaged, it is made again", "err", err)
				x.set(func(s *Status) { s.Error = err.Error() })
				x.ask()
			}
		})
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case mend := <-x.checks:
			x.check(ctx, mend)
		case <-x.asked:
			for wait := time.Second; ; wait = min(2*wait, time.Minute) {
				err := x.Rebuild(ctx)
				if err == nil || ctx.Err() != nil {
					break
				}
				x.log.Warn("search index cannot be built, tried again", "err", err)
				select {
				case <-ctx.Done():
				case <-time.After(wait):
				}
			}
		}
	}
}

// follow merges what is too large for Apply to merge itself.
func (x *Index) follow(ctx context.Context) {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := x.current.Load().tidy(ctx, math.MaxInt) // no lock: a generation that was closed has nothing to merge
		if err != nil && ctx.Err() == nil && !failing {
			x.log.Warn("search index cannot be merged", "err", err)
		}
		failing = err != nil
		x.swap.RLock()
		x.current.Load().refresh()
		x.swap.RUnlock()
	}
}

func (x *Index) ask() {
	select {
	case x.asked <- struct{}{}:
	default: // one is asked for already
	}
}

// StartRebuild asks Run for a rebuild; Status tells how it goes.
func (x *Index) StartRebuild() Status {
	x.set(func(s *Status) { s.StartedAt, s.EndedAt = time.Now(), time.Time{} })
	x.ask()
	return x.Status()
}

func (x *Index) set(f func(*Status)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	f(&x.status)
}

// Status tells how the index is.
func (x *Index) Status() Status {
	x.mu.Lock()
	s := x.status
	x.mu.Unlock()
	s.Documents, s.Done, s.Check.Done, s.Bytes = x.Documents(), x.done.Load(), x.checked.Load(), x.current.Load().bytes()
	switch {
	case x.building.Load():
		s.State = Building
	case !s.StartedAt.IsZero() && s.EndedAt.IsZero():
		s.State = Rebuilding
	default:
		s.State = Ready
	}
	return s
}

// Documents is how many there are, by kind.
func (x *Index) Documents() map[string]int {
	out := map[string]int{}
	x.swap.RLock()
	v := x.current.Load().acquire()
	x.swap.RUnlock()
	if v != nil {
		for i, n := range v.byKind {
			out[x.kinds[i]] = n
		}
		v.release()
	}
	return out
}

// Answers is how many queries were answered, and how many of them from the cache.
func (x *Index) Answers() (all, cached uint64) {
	x.cache.mu.Lock()
	defer x.cache.mu.Unlock()
	return x.cache.all, x.cache.hits
}

// Building reports whether the index is filled for the first time.
func (x *Index) Building() bool { return x.building.Load() }

// Kinds are what can be searched for.
func (x *Index) Kinds() []string { return slices.Clone(x.kinds) }

// Find answers a query: whatever it says, it is no error. Errors are unknown kinds and cursors (media.ErrInvalid), and a
// damaged index (media.ErrBusy: it is being made again).
func (x *Index) Find(ctx context.Context, q Query) (out Result, err error) {
	q.Limit = cmp.Or(q.Limit, 20)
	if q.Cursor != "" && len(q.Kinds) != 1 {
		return out, fmt.Errorf("a cursor goes with one type: %w", media.ErrInvalid)
	}
	ask, err := newQuestion(q, x.kinds)
	if err != nil {
		return out, err
	}
	x.swap.RLock()
	g := x.current.Load()
	v := g.acquire()
	x.swap.RUnlock()
	if v == nil {
		return out, fmt.Errorf("search index is closed: %w", media.ErrBusy)
	}
	defer v.release()
	building := x.building.Load()
	name := cacheKey(q, ask, v.number, building)
	if r, ok := x.cache.get(name); ok {
		return r, nil
	}
	defer func() {
		if p := recover(); p != nil { // what damaged files do to their readers
			x.log.Error("search index is damaged, it is made again", "err", p, "stack", string(debug.Stack()))
			x.ask()
			err = fmt.Errorf("search index is damaged: %w", media.ErrBusy)
		}
	}()
	lists, err := v.search(ctx, ask)
	if err != nil {
		return out, err
	}
	out = Result{Lists: map[string]List{}, Building: building}
	for _, k := range ask.kinds {
		kind := x.kinds[k]
		list, err := page(lists[k], kind, ask, q.Cursor, q.Limit)
		if err != nil {
			return Result{}, err
		}
		out.Lists[kind] = list
		if q.Cursor == "" && len(list.Hits) > 0 {
			h := list.Hits[0]
			if out.Top == nil || h.Score+artistsFirst[h.Kind] > out.Top.Score+artistsFirst[out.Top.Kind] {
				out.Top = &h
			}
		}
	}
	x.cache.put(name, out)
	return out, nil
}

// Apply brings documents up to date with their source: what it holds now is found by the next Find, and is on disk.
// Ids of a kind that is not indexed are passed over.
func (x *Index) Apply(ctx context.Context, kind string, ids ...string) error {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	ids = slices.Compact(ids)
	i := slices.Index(x.kinds, kind)
	if i < 0 {
		return nil
	}
	x.writing.Lock()
	defer x.writing.Unlock()
	for some := range slices.Chunk(ids, 1000) {
		// Noted before the rows are read: a build that read them earlier must read them again.
		if x.next != nil {
			for _, id := range some {
				x.changed[key(kind, id)] = struct{}{}
			}
		}
		if err := x.copy(ctx, x.current.Load(), x.cfg.Sources[i], some, true); err != nil {
			return err
		}
	}
	g := x.current.Load()
	g.refresh()
	if err := g.tidy(ctx, smallMerge); err != nil {
		return err
	}
	g.refresh()
	return nil
}
