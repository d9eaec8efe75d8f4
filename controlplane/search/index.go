package search

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"segue/media"
)

// generation is raised when what is indexed or stored changes: an index of another one is made again.
const generation = "3"

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
	Shards     int   // 0: 1. More let several cores write at once, and cost each query a little
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
	Shards     int      `json:"shards"`
	Kinds      []string `json:"kinds"`
}

// Open opens the index in cfg.Dir. One that is missing, of another version, or damaged is made anew by Run; until then it
// is empty, and Find says Building. It fails only when the folder cannot be used.
func Open(cfg Config) (*Index, error) {
	cfg.Shards, cfg.CacheBytes = cmp.Or(max(cfg.Shards, 0), 1), cmp.Or(cfg.CacheBytes, 16<<20)
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
	if err == nil && m.Generation == generation && m.Shards == cfg.Shards && slices.Equal(m.Kinds, x.kinds) {
		g, err = openGeneration(filepath.Join(cfg.Dir, m.Folder), m.Shards, x.kinds, false)
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
	return openGeneration(dir, x.cfg.Shards, x.kinds, true)
}

// publish makes a sealed generation the one that Open opens.
func (x *Index) publish(g *genState) error {
	b, err := json.Marshal(manifest{generation, filepath.Base(g.dir), x.cfg.Shards, x.kinds})
	if err != nil {
		return fmt.Errorf("bug: %w", err)
	}
	path := filepath.Join(x.cfg.Dir, currentFile)
	f, err := os.CreateTemp(x.cfg.Dir, currentFile)
	if err != nil {
		return fmt.Errorf("search index: %w", err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		var d *os.File
		if d, err = os.Open(x.cfg.Dir); err == nil {
			err = errors.Join(d.Sync(), d.Close())
		}
	}
	if err != nil {
		return fmt.Errorf("search index: %w", err)
	}
	return nil
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

// Run fills the index when it must be, checks its files once, makes merged segments visible, and does the rebuilds and
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

// follow shows the segments that scorch merged in the background; what Apply writes it shows itself.
func (x *Index) follow(ctx context.Context) {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		x.swap.RLock()
		err := x.current.Load().refresh()
		x.swap.RUnlock()
		if err != nil {
			x.log.Warn("search index cannot be read", "err", err)
		}
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
	return x.current.Load().refresh()
}

// copy writes into g what the source holds now.
func (x *Index) copy(ctx context.Context, g *genState, s Source, ids []string, wait bool) error {
	docs, err := s.Load(ctx, ids)
	if err != nil {
		return fmt.Errorf("search: read %s: %w", s.Kind, err)
	}
	missing := map[string]bool{}
	for _, id := range ids {
		missing[key(s.Kind, id)] = true
	}
	for i := range docs {
		docs[i].Kind = s.Kind
		delete(missing, key(s.Kind, docs[i].ID))
	}
	return g.write(ctx, docs, slices.Collect(maps.Keys(missing)), wait)
}

const (
	fillBatch    = 4000 // documents a batch of a build; each becomes a segment in memory
	fillInFlight = 3    // batches being made at once, for each shard
)

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
	if err := g.seal(ctx); err != nil {
		return err
	}
	if err := g.compact(ctx); err != nil {
		return fmt.Errorf("search index: merge: %w", err)
	}
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
	if err := g.seal(ctx); err != nil {
		return nil, err
	}
	if err := g.refresh(); err != nil {
		return nil, err
	}
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
	batches := make(chan []Doc)
	var wg sync.WaitGroup
	for range max(runtime.GOMAXPROCS(0), fillInFlight*len(g.shards)) {
		wg.Go(func() {
			for docs := range batches {
				if err := g.write(ctx, docs, nil, true); err != nil {
					stop(err)
				}
				x.done.Add(int64(len(docs)))
			}
		})
	}
	shown := time.Now()
	send := func(docs []Doc) error {
		if serve && time.Since(shown) > time.Second {
			if err := g.refresh(); err != nil {
				return err
			}
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
