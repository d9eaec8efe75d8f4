package edge

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"segue/edge/transport"
	"segue/internal/serve"
	"segue/media"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"
)

// Config is what one edge is.
type Config struct {
	Name        string                  // in Cache-Status: [a-z0-9-]+; default segue
	Listen      string                  // host:port
	Memory      int64                   // bytes of blocks in memory; default 256 MiB
	Records     int64                   // bytes of records of objects in memory, and a quarter of that for tokens; default 64 MiB
	DiskDir     string                  // empty: no disk tier
	DiskSize    int64                   // bytes of blocks on disk; default 4 GiB
	Routes      []*Route                // at least one, unless Tokens: a member of a fleet may get all of its routes by SetRoutes
	Tokens      bool                    // protected objects need a token; without, everything is public
	FillTimeout time.Duration           // for one run of blocks from the origin; default 2 min
	FirstByte   time.Duration           // until the first block is there; default 15 s
	DrainFor    time.Duration           // after the end was asked for, while /readyz says 503; default 0
	Listeners   int                     // on the one address, with SO_REUSEPORT; default 1
	Transport   transport.Config        // limits and TLS
	Log         *RequestLog             // of every request; nil: none. Its Run is the caller's
	Country     func(netip.Addr) string // ISO 3166 code of an address, "" unknown; nil: tokens limited to countries are refused
}

// Split divides what a process may take between Config.Memory and Config.Records, so that from 128 MiB up all of it stays
// within total and a fifth. 24 MiB are for the rest of the program; and blocks have an eighth over their budget while
// replies are still under way from those that were evicted. docs/performance.md, "Memory".
func Split(total int64) (blocks, records int64) {
	records = min(max(total/16, 1<<20), 64<<20)
	return max(total-records-24<<20, total/2), records
}

// Route maps the part of the URL space below Prefix to one origin.
type Route struct {
	Prefix string // begins and ends with "/"
	Origin Origin
	Slots  int64 // requests to the origin at once; default 128
	Public bool  // no token is needed; else for all but pictures where Config.Tokens is set

	care *care  // of the origin; New sets it
	loop string // what this edge is called in CDN-Loop
}

func (r *Route) http() *HTTPOrigin {
	h, _ := r.Origin.(*HTTPOrigin)
	return h
}

// routes is sorted, longest prefix first.
type routes []*Route

func (rs routes) find(path string) *Route {
	for _, r := range rs {
		if strings.HasPrefix(path, r.Prefix) {
			return r
		}
	}
	return nil
}

// routeTable holds the routes that are in force, swapped whole.
type routeTable struct{ now atomic.Pointer[routes] }

func newRouteTable(rs routes) *routeTable {
	t := &routeTable{}
	t.now.Store(&rs)
	return t
}

func (t *routeTable) find(path string) *Route { return t.now.Load().find(path) }

// idle reports whether nobody waits for an origin.
func (t *routeTable) idle() bool {
	return !slices.ContainsFunc(*t.now.Load(), func(r *Route) bool { return r.care.waiting.Load() > 0 || r.care.busy.Load() >= r.care.cap })
}

// Edge is one running cache.
type Edge struct {
	cfg     Config
	log     *slog.Logger
	door    *door
	fills   *Coalesce
	asks    *exchange
	disk    *Disk // nil: none
	shield  *Shield
	server  *fasthttp.Server
	conns   connections
	begun   time.Time
	own     routes // of the configuration
	routes  *routeTable
	setting sync.Mutex // one SetRoutes at a time
	metrics *metrics
	gather  prometheus.Gatherer // nil: the registerer is not one
}

// New checks the configuration and opens the disk tier; it serves nothing yet.
func New(cfg Config, log *slog.Logger, reg prometheus.Registerer) (*Edge, error) {
	cfg.Name = cmp.Or(cfg.Name, "segue")
	cfg.Memory, cfg.Records = cmp.Or(cfg.Memory, 256<<20), cmp.Or(cfg.Records, 64<<20)
	cfg.DiskSize = cmp.Or(cfg.DiskSize, 4<<30)
	cfg.FillTimeout = cmp.Or(cfg.FillTimeout, 2*time.Minute)
	cfg.FirstByte = cmp.Or(cfg.FirstByte, 15*time.Second)
	if cfg.Memory < BlockSize || cfg.DiskSize < BlockSize {
		return nil, fmt.Errorf("memory and disk must hold at least one block of %d bytes: %w", BlockSize, media.ErrInvalid)
	}
	if len(cfg.Routes) == 0 && !cfg.Tokens {
		return nil, fmt.Errorf("an edge needs an origin: %w", media.ErrInvalid)
	}
	m := newMetrics(reg)
	name := "segue-" + strings.ToLower(rand.Text()[:12])
	//  client -> door(metas, policy) -> Memory+Coalesce -> Disk -> Shield -> Upstream -> origin
	e := &Edge{cfg: cfg, log: log, begun: time.Now(), metrics: m}
	for _, r := range cfg.Routes {
		if err := r.check(); err != nil {
			return nil, err
		}
		e.own = append(e.own, &Route{r.Prefix, r.Origin, r.Slots, r.Public, newCare(r.Prefix, cmp.Or(r.Slots, originSlots), originFailing, log, m), name})
	}
	slices.SortStableFunc(e.own, byLength)
	e.routes = newRouteTable(e.own)
	memory := NewMemory(cfg.Memory)
	e.shield = newShield(&Upstream{memory.Alloc}, memory.Alloc, name, e.PurgedTo, log, m)
	var below Source = e.shield
	if cfg.DiskDir != "" {
		disk, err := openDisk(cfg.DiskDir, cfg.DiskSize, below, memory.Alloc, log, reg)
		switch {
		case err == nil:
			e.disk, below = disk, disk
		case diskSick(err):
			log.Error("no disk cache in this life: going on in memory", "err", err)
		default:
			return nil, err
		}
	}
	e.fills = newCoalesce(memory, below, e.shield.remote, cfg.Memory, cfg.FillTimeout, m)
	journal := cfg.DiskDir
	if e.disk == nil { // none wanted, or sick
		journal = ""
	}
	purges, err := openPurges(journal, reg)
	if err != nil {
		return nil, err
	}
	metas, err := newMetas(e.routes, cfg.Records, cfg.FirstByte, purges, m)
	if err != nil {
		return nil, err
	}
	metas.removers = append(metas.removers, memory)
	if e.disk != nil {
		e.fills.keep = e.disk.Keep
		metas.kept = e.disk
		metas.removers = append(metas.removers, e.disk)
	}
	e.asks = newExchange(metas, e.fills, cfg.Memory, cfg.FirstByte, m)
	e.asks.shield = e.shield
	e.door = &door{name: cfg.Name, routes: e.routes, metas: metas, exchange: e.asks, source: e.fills, shield: e.shield, loop: name, memory: memory, metrics: m, wait: cfg.FirstByte, log: cfg.Log}
	e.door.ahead = newAhead(e.door, cfg.Memory, e.routes.idle, cfg.FillTimeout, reg)
	if cfg.Tokens {
		if e.door.gate, err = newGate(cfg.Records/4, m); err != nil {
			return nil, err
		}
		e.door.gate.country = cfg.Country
	}
	e.server = &fasthttp.Server{
		Handler:               e.door.handle,
		NoDefaultServerHeader: true,
		NoDefaultContentType:  true,
		NoDefaultDate:         true,    // setDate
		ReadBufferSize:        8 << 10, // a URL with a token, and CMCD
		WriteBufferSize:       1536,    // the head; bodies pass by
		MaxRequestBodySize:    16 << 20,
		Concurrency:           200_000,
		CloseOnShutdown:       true,
		LazyRequestTime:       true,
		MaxIdleWorkerDuration: time.Second, // goroutines whose connection was parked
		ConnState:             idle,        // timeouts are the transport's business
		Logger:                quiet{log},
	}
	reg.MustRegister(&e.conns, breakers(func() []*care {
		cares := e.shield.cares()
		for _, r := range *e.routes.now.Load() {
			cares = append(cares, r.care)
		}
		return cares
	}))
	e.gather, _ = reg.(prometheus.Gatherer)
	return e, nil
}

// Trust replaces what tokens are checked against. Until the first call an edge with Tokens serves public objects only.
func (e *Edge) Trust(t *Trust) {
	if e.door.gate != nil {
		e.door.gate.set(t)
	}
}

// SetPeers replaces the edges of the region that share objects with this one; self is the name of this edge among them,
// key its identity. Until the first call an edge has none, and asks origins only.
func (e *Edge) SetPeers(self string, key ed25519.PrivateKey, peers []Peer) {
	e.shield.set(self, key, peers)
}

// Drain makes /readyz say 503, or 200 again. Requests are served all the same, each with a word to its client that it is the
// last one on this connection: so that connections go, and none with a request on its way.
func (e *Edge) Drain(on bool) {
	e.door.leaving.Store(on)
	e.door.ready.Store(!on)
}

func (r *Route) check() error {
	if !strings.HasPrefix(r.Prefix, "/") || !strings.HasSuffix(r.Prefix, "/") {
		return fmt.Errorf("route %q must begin and end with a slash: %w", r.Prefix, media.ErrInvalid)
	}
	if r.Origin == nil {
		return fmt.Errorf("route %q has no origin: %w", r.Prefix, media.ErrInvalid)
	}
	return nil
}

// byLength puts the longest prefix first.
func byLength(a, b *Route) int { return len(b.Prefix) - len(a.Prefix) }

// SetRoutes replaces all routes but those of the configuration, before which they count. It is all or nothing: an error,
// which wraps media.ErrInvalid, leaves everything as it was. Requests under way end with the routes that they began with. A
// route that stays, prefix and Origin the same, keeps its connections and breaker. Of one that is new here, what is stored of its
// prefix is validated before it is used again.
func (e *Edge) SetRoutes(rs []*Route) error {
	e.setting.Lock()
	defer e.setting.Unlock()
	before := *e.routes.now.Load()
	var next, fresh routes
	for _, r := range rs {
		if err := r.check(); err != nil {
			return err
		}
		same := func(o *Route) bool { return o.Prefix == r.Prefix }
		if slices.ContainsFunc(next, same) {
			return fmt.Errorf("route %q is there twice: %w", r.Prefix, media.ErrInvalid)
		}
		if at := slices.IndexFunc(before, same); at >= 0 && before[at].Origin == r.Origin && before[at].Slots == r.Slots && before[at].Public == r.Public {
			next = append(next, before[at])
			continue
		}
		made := &Route{r.Prefix, r.Origin, r.Slots, r.Public, newCare(r.Prefix, cmp.Or(r.Slots, originSlots), originFailing, e.log, e.metrics), e.door.loop}
		next, fresh = append(next, made), append(fresh, made)
	}
	for _, o := range e.own {
		if !slices.ContainsFunc(next, func(r *Route) bool { return r.Prefix == o.Prefix }) {
			next = append(next, o)
		}
	}
	slices.SortStableFunc(next, byLength)
	e.routes.now.Store(&next)
	for _, r := range fresh { // behind the swap: what the old origin is asked for meanwhile is marked too
		if err := e.Purge(Purge{Kind: PurgePrefix, Value: r.Prefix, Soft: true}); err != nil {
			e.log.Warn("what is stored under a new route is not validated after a restart", "key", r.Prefix, "err", err)
		}
	}
	return nil
}

// Counters is what an edge did since it began.
type Counters struct {
	Requests, Hits, ServedBytes int64
	Connections                 int64
	MemoryBytes, DiskBytes      int64
}

// Counters reads them.
func (e *Edge) Counters() Counters {
	c := Counters{Requests: e.door.requests.Load(), Hits: e.door.hits.Load(), ServedBytes: e.door.served.Load(),
		Connections: e.conns.stats().Open, MemoryBytes: e.door.memory.Used()}
	if e.disk != nil {
		c.DiskBytes = e.disk.Used()
	}
	return c
}

// Run serves until ctx ends, then drains: /readyz first, then open requests, then fills.
func (e *Edge) Run(ctx context.Context, ready func()) error {
	lns, err := transport.Listen(e.cfg.Listen, e.cfg.Listeners)
	if err != nil {
		return serve.Setupf("listen on %s: %w; free the port or choose another address", e.cfg.Listen, err)
	}
	return e.serve(ctx, lns, ready)
}

// Serve is Run on a listener of the caller's.
func (e *Edge) Serve(ctx context.Context, ln net.Listener, ready func()) error {
	return e.serve(ctx, []net.Listener{ln}, ready)
}

func (e *Edge) serve(ctx context.Context, lns []net.Listener, ready func()) error {
	l, err := transport.New(e.cfg.Transport, lns...)
	if err != nil {
		return err
	}
	e.conns.of.Store(l)
	done := make(chan error, 1)
	go func() { done <- e.server.Serve(l) }()
	e.door.ready.Store(true)
	ready()
	select {
	case err := <-done:
		return errors.Join(err, e.end())
	case <-ctx.Done():
	}
	e.door.ready.Store(false)
	time.Sleep(e.cfg.DrainFor)
	sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := e.server.ShutdownWithContext(sctx); err != nil {
		e.log.Warn("requests were cut off at the end", "err", err)
	}
	<-done
	return e.end()
}

// end waits for the fills, then for the disk, to which they write.
func (e *Edge) end() error {
	e.door.ahead.end()
	e.asks.end()
	e.fills.end()
	if e.disk != nil {
		return e.disk.Close()
	}
	return nil
}

// quiet takes fasthttp's lines about single connections: of interest only when debugging.
type quiet struct{ log *slog.Logger }

func (q quiet) Printf(format string, args ...any) {
	q.log.Debug("connection", "err", fmt.Sprintf(format, args...))
}
