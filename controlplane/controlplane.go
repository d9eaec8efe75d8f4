package controlplane

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/catalog"
	"segue/controlplane/fleet"
	"segue/controlplane/identity"
	"segue/controlplane/once"
	"segue/controlplane/playback"
	"segue/controlplane/plays"
	"segue/controlplane/search"
	"segue/controlplane/store"
	"segue/geo"
	"segue/internal/eventlog"
	"segue/internal/registry"
	"segue/internal/serve"
	"segue/media"
	"segue/media/cat"

	"github.com/prometheus/client_golang/prometheus"
)

// Config is what one replica is.
type Config struct {
	Listen     string // host:port
	Database   string // sqlite:PATH or postgres://…
	Data       string // folder of what this replica derives: the search index
	Replica    string // names this replica's place in the event log; default "one"
	Replicas   int    // how many there are; more than one refuses the embedded stores
	NATS       string // URL; empty: embedded, in Data/events
	ClickHouse string // clickhouse://…; empty: plays stay in the log
	PlaysKey   []byte // makes pseudonyms of listeners in the play logs; at least 16 bytes
	AdminToken string // made an admin token with all scopes at start; empty: none is made
	GeoDB      string // MMDB file; empty: none
	Home       geo.Place
	PerSecond  float64 // requests of one address or account; 0: 100, negative: no limit
	Version    string

	TrustedProxies []string      // networks and addresses whose X-Forwarded-For and Forwarded are believed
	InService      int           // requests in service at once; 0: 16 per core, at least 32
	MaxOutbox      int           // play events that may wait in SQL while the event log is away; 0: 100,000
	TraceEndpoint  string        // OTLP/HTTP collector, http://host:4318; empty: no traces
	Drain          time.Duration // from "not ready" to the end of listening, so that load balancers see it; 0: none
}

// Objects is the part of origin.Store that the gateway needs.
type Objects interface {
	objectWriter
	catalog.Objects
}

// ControlPlane is one opened replica.
type ControlPlane struct {
	cfg      Config
	log      *slog.Logger
	db       *store.DB
	events   *eventlog.Log
	index    *search.Index
	objects  Objects
	identity *identity.Service
	catalog  *catalog.Service
	playback *playback.Service
	fleet    *fleet.Service
	ingest   *plays.Ingest
	sink     *plays.Sink // nil: no ClickHouse
	tokens   *identity.Keys
	handler  http.Handler
	metrics  *metrics

	proxies  proxies
	limits   *limits
	gate     *gate
	keys     *once.Memory // answers to requests with an Idempotency-Key
	tracing  *tracing     // nil: off
	eventlog breaker
	wires    []Wire
	stopping context.Context // ends when Run does
	stop     context.CancelFunc
	draining atomic.Bool // not ready any more
}

// catalogStream carries catalogue events; kept for ever, since a new replica could read it from the start.
var catalogStream = eventlog.Stream{Name: "catalog"}

// Open opens the stores and wires the services. What the operator can mend is a serve.SetupError.
func Open(ctx context.Context, cfg Config, objects Objects, log *slog.Logger, reg prometheus.Registerer) (_ *ControlPlane, err error) {
	cfg.Replica, cfg.Replicas, cfg.PerSecond = cmp.Or(cfg.Replica, "one"), cmp.Or(cfg.Replicas, 1), cmp.Or(cfg.PerSecond, 100)
	cfg.MaxOutbox = cmp.Or(cfg.MaxOutbox, 100_000)
	if len(cfg.PlaysKey) < 16 {
		return nil, serve.Setupf("the key for pseudonyms in the play logs has %d bytes, want at least 16", len(cfg.PlaysKey))
	}
	cp := &ControlPlane{cfg: cfg, log: log, objects: objects, metrics: newMetrics(reg), limits: newLimits(cfg.PerSecond), gate: newGate(cfg.InService)}
	cp.stopping, cp.stop = context.WithCancel(context.WithoutCancel(ctx))
	cp.metrics.watch(reg, cp.gate)
	cp.eventlog = cp.newBreaker("event log")
	defer func() {
		if err != nil {
			cp.Close()
		}
	}()
	if cp.proxies, err = parseProxies(cfg.TrustedProxies); err != nil {
		return nil, err
	}
	if cp.tracing, err = openTracing(ctx, log, cfg.TraceEndpoint, cfg.Version, cfg.Replica); err != nil {
		return nil, err
	}
	locator, err := geo.OpenLocator(cfg.GeoDB, cfg.Home)
	if err != nil {
		return nil, serve.SetupError{Err: err}
	}
	if cp.db, err = store.Open(ctx, cfg.Database); err != nil {
		return nil, err
	}
	if cp.tracing != nil {
		cp.db.Observe = cp.tracing.statement
	}
	cp.keys = once.New(cp.db, cfg.PlaysKey)
	if cfg.Replicas > 1 && (cp.db.Embedded || cfg.NATS == "") {
		return nil, serve.Setupf("SQLite and the embedded event log are for one replica; %d need postgres:// and nats://", cfg.Replicas)
	}
	if cp.events, err = eventlog.Open(ctx, eventlog.Config{URL: cfg.NATS, Dir: filepath.Join(cfg.Data, "events")}, plays.Stream, catalogStream); err != nil {
		return nil, err
	}
	if cp.index, err = search.Open(filepath.Join(cfg.Data, "search")); err != nil {
		return nil, serve.SetupError{Err: err}
	}
	if cp.identity, err = identity.New(ctx, cp.db); err != nil {
		return nil, err
	}
	if cp.tokens, err = identity.OpenKeys(ctx, cp.db, "tokens"); err != nil {
		return nil, err
	}
	if cfg.AdminToken != "" {
		if err = cp.identity.PutAdminToken(ctx, "operator", cfg.AdminToken, identity.ScopeAdmin); err != nil {
			return nil, err
		}
	}
	if cfg.ClickHouse != "" {
		if cp.sink, err = plays.NewSink(cfg.ClickHouse, log); err != nil {
			return nil, err
		}
	}
	cp.catalog = catalog.New(cp.db, objects)
	nodes := &registry.Memory{}
	cp.fleet = fleet.New(cp.db, nodes, cp.verifyKeys)
	cp.playback = playback.New(cp.db, func(ctx context.Context, id media.TrackID) (playback.Track, error) {
		t, err := cp.catalog.Track(ctx, id)
		return playback.Track{Track: t.Track, Media: t.Media}, err
	}, nodes.Nodes, locator.Locate, func() cat.Key {
		id, private := cp.tokens.Current()
		return cat.Key{ID: id, Alg: cat.EdDSA, Private: private}
	})
	cp.ingest = plays.NewIngest(cp.append, cfg.PlaysKey, cp.granted)
	cp.handler = cp.routes()
	return cp, nil
}

// verifyKeys are the public halves of the keys that sign access tokens for edges.
func (cp *ControlPlane) verifyKeys() []api.TokenKey {
	out := []api.TokenKey{}
	for id, public := range cp.tokens.Public() {
		out = append(out, api.TokenKey{ID: id, Alg: cat.EdDSA, Key: public})
	}
	return out
}

// granted joins a play with its track, for the play logs.
func (cp *ControlPlane) granted(ctx context.Context, playID string) (plays.Play, error) {
	p, err := cp.playback.Play(ctx, playID)
	if err != nil {
		return plays.Play{}, err
	}
	t, err := cp.catalog.Track(ctx, p.TrackID)
	if errors.Is(err, media.ErrNotFound) {
		t.ID = p.TrackID // taken out of the catalogue since: the play still counts
	} else if err != nil {
		return plays.Play{}, err
	}
	return plays.Play{UserID: p.UserID, Plan: p.Plan, Version: p.Version, CreatedAt: p.CreatedAt, ExpiresAt: p.ExpiresAt, Track: t.Track}, nil
}

// PutUser makes an account, or does nothing when the address has one: for accounts that an operator declares.
func (cp *ControlPlane) PutUser(ctx context.Context, u api.NewUser, plan api.Plan) error {
	_, err := cp.identity.SignUp(ctx, u, plan)
	if errors.Is(err, identity.ErrTaken) {
		return nil
	}
	return err
}

// Handler is the whole HTTP side.
func (cp *ControlPlane) Handler() http.Handler { return cp.handler }

// Close releases the stores; only for what was never Run.
func (cp *ControlPlane) Close() {
	cp.stop()
	cp.tracing.close()
	if cp.index != nil {
		_ = cp.index.Close()
	}
	if cp.events != nil {
		cp.events.Close()
	}
	if cp.db != nil {
		_ = cp.db.Close()
	}
}

// Run serves until ctx ends: first the readers of events, then the listener; it stops them in reverse and closes the
// stores.
func (cp *ControlPlane) Run(ctx context.Context, ready func()) error {
	defer cp.Close()
	if cp.index.Empty() {
		if err := cp.index.Build(func(f func(api.Track) error) error { return cp.catalog.Each(ctx, f) }); err != nil {
			return fmt.Errorf("build the search index: %w", err)
		}
	}
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	var workers sync.WaitGroup
	defer workers.Wait()
	defer stop()
	failed := make(chan error, 8)
	start := func(name string, f func(context.Context) error) {
		workers.Go(func() {
			if err := f(work); err != nil && work.Err() == nil {
				failed <- fmt.Errorf("%s: %w", name, err)
			}
		})
	}
	start("outbox", func(ctx context.Context) error {
		cp.db.Relay(ctx, 200*time.Millisecond, cp.relay, func(err error) { cp.log.Warn("outbox waits, nothing is lost", "err", err) })
		return nil
	})
	start("search", func(ctx context.Context) error {
		return cp.events.Consume(ctx, cp.log, eventlog.Reader{Stream: catalogStream.Name, Name: "search-" + cp.cfg.Replica, Batch: 500, Wait: 100 * time.Millisecond}, cp.indexTracks)
	})
	start("purges", cp.fleet.WatchPurges)
	if cp.sink != nil {
		start("clickhouse sink", func(ctx context.Context) error { return cp.sink.Run(ctx, cp.events) })
	}
	start("idempotency keys", cp.sweepKeys)
	return cp.listen(ctx, failed, ready)
}

// indexTracks brings the index up to date with the tracks that a batch names.
func (cp *ControlPlane) indexTracks(ctx context.Context, batch []eventlog.Message) error {
	var ids []string
	for _, m := range batch {
		var c store.Changed
		if err := json.Unmarshal(m.Body, &c); err != nil {
			cp.log.Error("catalogue event cannot be read, passed over", "id", m.ID, "err", err)
			continue
		}
		if c.Kind == "track" {
			ids = append(ids, c.IDs...)
		}
	}
	slices.Sort(ids)
	for some := range slices.Chunk(slices.Compact(ids), 500) {
		tracks, err := cp.catalog.TracksByID(ctx, some...)
		if err != nil {
			return err
		}
		if err := cp.index.Put(tracks...); err != nil {
			return err
		}
	}
	return nil
}
