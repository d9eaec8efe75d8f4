package controlplane

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/catalog"
	"segue/controlplane/fleet"
	"segue/controlplane/identity"
	"segue/controlplane/playback"
	"segue/controlplane/plays"
	"segue/controlplane/search"
	"segue/controlplane/steer"
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
	GeoDB      string // MMDB file of cities or countries; empty: none
	GeoASN     string // MMDB file of autonomous systems; empty: none
	GeoRules   string // file of own rules, see geo.Rules; empty: none
	Steering   geo.Policy
	DNSListen  string // host:port, UDP and TCP; empty: no DNS responder
	DNSZone    string // file of the zone, see steer.Zone
	PublicURL  string // scheme://host of the control plane in what players get; empty: the one they reached
	Home       geo.Place
	PerSecond  float64 // requests of one address or account; 0: 100, negative: no limit
	Version    string
}

// Objects is the part of origin.Store that the gateway needs.
type Objects interface {
	objectWriter
	objectReader
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
	steer    *steer.Service
	places   *geo.Locator
	dns      *steer.DNS // nil: none
	ingest   *plays.Ingest
	sink     *plays.Sink // nil: no ClickHouse
	tokens   *identity.Keys
	handler  http.Handler
	metrics  *metrics
}

// catalogStream carries catalogue events; kept for ever, since a new replica could read it from the start.
var catalogStream = eventlog.Stream{Name: "catalog"}

// Open opens the stores and wires the services. What the operator can mend is a serve.SetupError.
func Open(ctx context.Context, cfg Config, objects Objects, log *slog.Logger, reg prometheus.Registerer) (_ *ControlPlane, err error) {
	cfg.Replica, cfg.Replicas, cfg.PerSecond = cmp.Or(cfg.Replica, "one"), cmp.Or(cfg.Replicas, 1), cmp.Or(cfg.PerSecond, 100)
	if len(cfg.PlaysKey) < 16 {
		return nil, serve.Setupf("the key for pseudonyms in the play logs has %d bytes, want at least 16", len(cfg.PlaysKey))
	}
	if u, err := url.Parse(cfg.PublicURL); cfg.PublicURL != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.Path != "") {
		return nil, serve.Setupf("public URL %q: want https://host with no path", cfg.PublicURL)
	}
	cp := &ControlPlane{cfg: cfg, log: log, objects: objects, metrics: newMetrics(reg)}
	defer func() {
		if err != nil {
			cp.Close()
		}
	}()
	if cp.places, err = geo.OpenLocator(geo.LocatorConfig{Places: cfg.GeoDB, Networks: cfg.GeoASN, Rules: cfg.GeoRules, Home: cfg.Home}); err != nil {
		return nil, serve.SetupError{Err: err}
	}
	cp.metrics.places(reg, cp.places)
	if cp.db, err = store.Open(ctx, cfg.Database); err != nil {
		return nil, err
	}
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
	}, nodes.Nodes, cp.places.Locate, func() cat.Key { return cp.tokenKeys()[0] })
	cp.playback.Policy = cfg.Steering
	cp.steer = steer.New(steer.Config{Nodes: nodes.Nodes, Locate: cp.places.Locate, Issuer: playback.Issuer, Keys: cp.tokenKeys, Object: readSmall(objects), Policy: cfg.Steering})
	if cfg.DNSListen != "" {
		zone, err := steer.ReadZone(cfg.DNSZone)
		if err != nil {
			return nil, serve.SetupError{Err: err}
		}
		cp.dns = steer.NewDNS(cp.steer, zone)
		cp.dns.Told = func(kind string) { cp.metrics.dns.WithLabelValues(kind).Inc() }
	}
	cp.ingest = plays.NewIngest(cp.events, cfg.PlaysKey, cp.granted)
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

// tokenKeys are the keys of access tokens: the first one signs, all verify.
func (cp *ControlPlane) tokenKeys() []cat.Key {
	id, private := cp.tokens.Current()
	public := cp.tokens.Public()
	out := []cat.Key{{ID: id, Alg: cat.EdDSA, Private: private, Public: public[id]}}
	for other, key := range public {
		if other != id {
			out = append(out, cat.Key{ID: other, Alg: cat.EdDSA, Public: key})
		}
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
	failed := make(chan error, 4)
	start := func(name string, f func(context.Context) error) {
		workers.Go(func() {
			if err := f(work); err != nil && work.Err() == nil {
				failed <- fmt.Errorf("%s: %w", name, err)
			}
		})
	}
	start("outbox", func(ctx context.Context) error {
		cp.db.Relay(ctx, 200*time.Millisecond, func(ctx context.Context, e store.Event) error {
			return cp.events.Append(ctx, eventlog.Message{ID: e.ID, Subject: e.Subject, Body: e.Body})
		}, func(err error) { cp.log.Warn("outbox waits, nothing is lost", "err", err) })
		return nil
	})
	start("search", func(ctx context.Context) error {
		return cp.events.Consume(ctx, cp.log, eventlog.Reader{Stream: catalogStream.Name, Name: "search-" + cp.cfg.Replica, Batch: 500, Wait: 100 * time.Millisecond}, cp.indexTracks)
	})
	start("purges", cp.fleet.WatchPurges)
	start("places", cp.watchPlaces)
	if cp.dns != nil {
		start("dns", func(ctx context.Context) error { return cp.dns.Run(ctx, cp.cfg.DNSListen, func() {}) })
	}
	if cp.sink != nil {
		start("clickhouse sink", func(ctx context.Context) error { return cp.sink.Run(ctx, cp.events) })
	}
	ln, err := serve.Listen(cp.cfg.Listen)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: cp.handler, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		ErrorLog: slog.NewLogLogger(cp.log.Handler(), slog.LevelDebug)}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	ready()
	select {
	case err = <-failed:
	case err = <-served:
		return err
	case <-ctx.Done():
	}
	sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if serr := srv.Shutdown(sctx); serr != nil {
		_ = srv.Close()
	}
	<-served
	return err
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
