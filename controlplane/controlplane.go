package controlplane

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/catalog"
	"segue/controlplane/fleet"
	"segue/controlplane/identity"
	"segue/controlplane/library"
	"segue/controlplane/offline"
	"segue/controlplane/once"
	"segue/controlplane/pictures"
	"segue/controlplane/playback"
	"segue/controlplane/player"
	"segue/controlplane/playlist"
	"segue/controlplane/plays"
	"segue/controlplane/recommend"
	"segue/controlplane/search"
	"segue/controlplane/stats"
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
	Listen      string // host:port
	Database    string // sqlite:PATH or postgres://…
	Data        string // folder of what this replica derives: the search index
	Replica     string // names this replica's place in the event log; default "one"
	Replicas    int    // how many there are; more than one refuses the embedded stores
	NATS        string // URL; empty: embedded, in Data/events
	ClickHouse  string // clickhouse://…; empty: plays stay in the log
	Analyst     string // http://user:password@host:8123/database of a ClickHouse user who may only read; empty: no questions in the console
	PlaysSchema plays.Schema
	TrainPairs  int    // pairs of listener and track that recommendations learn from, at most, some 50 bytes each while they do; 0: 20 million
	PlaysKey    []byte // makes pseudonyms of listeners in the play logs; at least 16 bytes
	AdminToken  string // made an admin token with all scopes at start; empty: none is made
	GeoDB       string // MMDB file of cities or countries; empty: none
	GeoASN      string // MMDB file of autonomous systems; empty: none
	GeoRules    string // file of own rules, see geo.Rules; empty: none
	Steering    geo.Policy
	DNSListen   string                // host:port, UDP and TCP; empty: no DNS responder
	DNSZone     string                // file of the zone, see steer.Zone
	PublicURL   string                // scheme://host of the control plane in what players get; empty: the one they reached
	Registry    registry.ConsulConfig // beside heartbeats; without URL: none
	Health      registry.Rules        // how edges are judged; the zero value is the default
	Home        geo.Place
	Playback    playback.Config
	PerSecond   float64 // requests of one address or account; 0: 100, negative: no limit
	Identity    identity.Config
	Version     string

	TrustedProxies []string      // networks and addresses whose X-Forwarded-For and Forwarded are believed
	InService      int           // requests in service at once; 0: 16 per core, at least 32
	MaxOutbox      int           // play events that may wait in SQL while the event log is away; 0: 100,000
	TraceEndpoint  string        // OTLP/HTTP collector, http://host:4318; empty: no traces
	OldPictures    time.Duration // that covers stay in the origin after nothing names them any more; 0: a week, negative: for ever
	Drain          time.Duration // from "not ready" to the end of listening, so that load balancers see it; 0: none
}

// Objects is the part of origin.Store that the gateway needs.
type Objects interface {
	objectWriter
	objectReader
	catalog.Objects
	pictures.Objects
}

// ControlPlane is one opened replica.
type ControlPlane struct {
	cfg        Config
	log        *slog.Logger
	db         *store.DB
	events     *eventlog.Log
	index      *search.Index
	objects    Objects
	identity   *identity.Service
	catalog    *catalog.Service
	playback   *playback.Service
	playlist   *playlist.Service
	offline    *offline.Service
	fleet      *fleet.Service
	health     *registry.Health
	consul     *registry.Consul // nil: none
	library    *library.Service
	player     *player.Service
	steer      *steer.Service
	places     *geo.Locator
	dns        *steer.DNS // nil: none
	ingest     *plays.Ingest
	sink       *plays.Sink // nil: no ClickHouse
	dead       *plays.DeadLetters
	reader     *plays.Reader // nil: no ClickHouse
	recommend  *recommend.Service
	stats      *stats.Service
	clickhouse breaker

	forgetter *plays.Forgetter
	names     fewNames
	tokens    *identity.Keys
	licences  *identity.Keys // sign offline licences
	handler   http.Handler
	metrics   *metrics

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
	others   replicas
	backing  sync.Mutex // held while a backup is made
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
	if err := cfg.Identity.Validate(); err != nil {
		return nil, serve.SetupError{Err: err}
	}
	if u, err := url.Parse(cfg.PublicURL); cfg.PublicURL != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.Path != "") {
		return nil, serve.Setupf("public URL %q: want https://host with no path", cfg.PublicURL)
	}
	cp := &ControlPlane{cfg: cfg, log: log, objects: objects, metrics: newMetrics(reg), limits: newLimits(cfg.PerSecond), gate: newGate(cfg.InService), others: newReplicas(cfg.Replicas)}
	cp.stopping, cp.stop = context.WithCancel(context.WithoutCancel(ctx))
	cp.metrics.watch(reg, cp.gate)
	cp.eventlog, cp.clickhouse = cp.newBreaker("event log"), cp.newBreaker("clickhouse")
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
	if cp.places, err = geo.OpenLocator(geo.LocatorConfig{Places: cfg.GeoDB, Networks: cfg.GeoASN, Rules: cfg.GeoRules, Home: cfg.Home}); err != nil {
		return nil, serve.SetupError{Err: err}
	}
	cp.metrics.places(reg, cp.places)
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
	if cp.events, err = eventlog.Open(ctx, eventlog.Config{URL: cfg.NATS, Dir: filepath.Join(cfg.Data, "events")}, append(plays.Streams(), catalogStream)...); err != nil {
		return nil, err
	}
	if cp.identity, err = identity.New(ctx, cp.db, cfg.Identity); err != nil {
		return nil, err
	}
	if cp.tokens, err = identity.OpenKeys(ctx, cp.db, identity.PurposeTokens); err != nil {
		return nil, err
	}
	if cfg.AdminToken != "" {
		if err = cp.identity.PutAdminToken(ctx, "operator", cfg.AdminToken, identity.ScopeAdmin); err != nil {
			return nil, err
		}
	}
	cp.dead = plays.NewDeadLetters(cp.events)
	if cfg.ClickHouse != "" {
		if cp.sink, err = plays.NewSink(cfg.ClickHouse, cfg.PlaysSchema, log); err != nil {
			return nil, err
		}
		cp.sink.Country, cp.sink.Dead = cp.places.Country, cp.dead.Keep
		reg.MustRegister(cp.sink)
		if cp.reader, err = plays.NewReader(cfg.ClickHouse); err != nil {
			return nil, err
		}
	}
	cp.catalog = catalog.New(cp.db, objects)
	if err = cp.catalog.Upgrade(ctx); err != nil {
		return nil, err
	}
	if err = cp.openHealth(reg); err != nil {
		return nil, err
	}
	cp.fleet.Steering = cfg.Steering
	if err = errors.Join(cp.fleet.NumberRevoked(ctx), cp.fleet.Upgrade(ctx), cp.fleet.ReadHealth(ctx)); err != nil {
		return nil, err
	}
	cp.tokens.Known = cp.fleet.Known
	if cp.licences, err = identity.OpenKeys(ctx, cp.db, identity.PurposeOffline); err != nil {
		return nil, err
	}
	cp.player = player.New(cp.db, cp.notices(), player.Sources{Devices: cp.identity.DeviceNames, Ended: cp.identity.SessionEnded, Tracks: cp.catalog.TracksByID}, log)
	cp.playback = cp.newPlayback()
	cp.steer = steer.New(steer.Config{Nodes: cp.fleet.Nodes, Locate: cp.locate, Issuer: playback.Issuer, Keys: cp.tokenKeys, Object: readSmall(objects), Policy: cp.fleet.Policy})
	if cfg.DNSListen != "" {
		zone, err := steer.ReadZone(cfg.DNSZone)
		if err != nil {
			return nil, serve.SetupError{Err: err}
		}
		cp.dns = steer.NewDNS(cp.steer, zone)
		cp.dns.Told = func(kind string) { cp.metrics.dns.WithLabelValues(kind).Inc() }
	}
	cp.playlist = playlist.New(cp.db, playlist.Deps{Tracks: cp.catalog.TracksByID, Names: cp.displayNames, Put: objects.Put})
	if cp.index, err = search.Open(search.Config{Dir: filepath.Join(cfg.Data, "search"), Sources: cp.searchSources(), Log: log}); err != nil {
		return nil, serve.SetupError{Err: err}
	}
	reg.MustRegister(searchMetrics(cp.index)...)
	cp.offline = cp.newOffline()
	cp.library = library.New(cp.db, library.Sources{Tracks: cp.catalog.TracksByID, Albums: cp.catalog.AlbumsByID, Artists: cp.catalog.ArtistsByID,
		People: cp.people, Playing: cp.playing})
	cp.ingest = plays.NewIngest(cp.append, cfg.PlaysKey, cp.granted)
	cp.forgetter = plays.NewForgetter(cp.db, cp.ingest, cp.sink, cp.events)
	cp.ingest.Heard, cp.ingest.Offline, cp.ingest.Region, cp.ingest.Log = cp.heard, cp.heardOffline, cp.regionOf, cp.appendLog
	cp.recommend, cp.stats = cp.newRecommend(cp.reader), cp.newStats(cp.reader)
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "segue_api_streams", Help: "Event streams that are open."}, func() float64 { return float64(cp.player.Streams()) }))
	cp.identity.SetPersonal([]identity.Personal{
		{Name: "playlists", Export: cp.playlist.Export, Forget: cp.playlist.Forget},
		{Name: "recommendations", Export: cp.recommend.Export},
		{Name: "library", Export: cp.library.Export, Forget: cp.library.Forget},
		{Name: "player", Export: cp.player.Export, DeviceRemoved: cp.player.DeviceRemoved},
		{Name: "plays", Export: cp.playback.Export, Forget: cp.playback.Forget, DeviceRemoved: cp.playback.DeviceRemoved},
		{Name: "play logs", Forget: cp.forgetter.Forget},
		{Name: "offline", Export: cp.offline.Export, Forget: cp.offline.Forget, PlanChanged: cp.offline.PlanChanged, DeviceRemoved: cp.offline.DeviceRemoved},
	})
	cp.handler = cp.routes()
	return cp, nil
}

// locate places an address; a region may have declared it as one of its clients.
func (cp *ControlPlane) locate(a netip.Addr) geo.Place {
	p := cp.places.Locate(a)
	if p.Region == "" {
		p.Region = cp.fleet.Tie(a)
	}
	return p
}

// verifyKeys are the public halves of the keys that sign access tokens for edges.
func (cp *ControlPlane) verifyKeys() []api.TokenKey {
	out := []api.TokenKey{}
	for id, public := range cp.tokens.Public() {
		out = append(out, api.TokenKey{ID: id, Alg: cat.EdDSA, Key: public})
	}
	slices.SortFunc(out, func(a, b api.TokenKey) int { return cmp.Compare(a.ID, b.ID) }) // else the revision of every edge's config would change by itself
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

// displayNames returns the names of those of the accounts that there are, discoverable or not: they share something.
func (cp *ControlPlane) displayNames(ctx context.Context, ids ...string) (map[string]string, error) {
	names := map[string]string{}
	people, err := cp.identity.People(ctx, ids...)
	for _, p := range people {
		names[p.ID] = p.DisplayName
	}
	return names, err
}

// notices carries the player's word from replica to replica.
func (cp *ControlPlane) notices() player.Notices {
	const subject = "player"
	return player.Notices{
		Publish: func(body []byte) error { return cp.events.Publish(subject, body) },
		Subscribe: func(ctx context.Context, ready func(), take func([]byte)) error {
			return cp.events.Subscribe(ctx, subject, ready, func(_ string, body []byte) { take(body) })
		},
		Connected: cp.events.Connected,
	}
}

// people and playing give the library what identity and player know.
func (cp *ControlPlane) people(ctx context.Context, ids ...string) ([]library.Person, error) {
	list, err := cp.identity.People(ctx, ids...)
	out := make([]library.Person, len(list))
	for i, p := range list {
		out[i] = library.Person(p)
	}
	return out, err
}

func (cp *ControlPlane) playing(ctx context.Context, ids ...string) ([]library.Listening, error) {
	list, err := cp.player.Playing(ctx, ids...)
	out := make([]library.Listening, len(list))
	for i, p := range list {
		out[i] = library.Listening(p)
	}
	return out, err
}

// heard writes the listener's history. Events are durable by now: a history that lacks a play is no reason to refuse them.
func (cp *ControlPlane) heard(ctx context.Context, userID string, e plays.Stamped) {
	if err := cp.library.Played(ctx, userID, e.PlayID, e.TrackID, e.Context, e.At); err != nil {
		cp.log.Warn("recently played lacks a play", "play", e.PlayID, "err", err)
	}
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
	if cp.reader != nil {
		_ = cp.reader.Close()
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
	start("search index", cp.index.Run)
	start("search", func(ctx context.Context) error {
		return cp.events.Consume(ctx, cp.log, eventlog.Reader{Stream: catalogStream.Name, Name: "search-" + cp.cfg.Replica, Batch: 500, Wait: 100 * time.Millisecond}, cp.followCatalogue)
	})
	start("purges", cp.fleet.WatchPurges)
	start("player streams", cp.player.Run)
	if cp.others.self != "" {
		start("other replicas", cp.hearReplicas)
		start("limits", cp.tellReplicas)
	}
	background := func(name string, run func(context.Context, func(error)) error) {
		start(name, func(ctx context.Context) error {
			return run(ctx, func(err error) { cp.log.Warn(name+" has to wait", "err", err) })
		})
	}
	cp.startHealth(start, background)
	background("revocations", cp.fleet.WatchRevoked)
	background("fleet configuration", cp.fleet.Watch)
	background("streams", cp.playback.Run)
	background("offline", cp.offline.Run)
	background("play logs of deleted accounts", cp.forgetter.Run)
	background("recommendations", cp.recommend.Run)
	background("stats", cp.stats.Run)
	background("old pictures", pictures.New(cp.db, cp.objects, cp.cfg.OldPictures, func(ctx context.Context, of ...pictures.Picture) (map[pictures.Picture]bool, error) {
		return pictures.Named(ctx, cp.db, of...)
	}).Run)
	for name, run := range map[string]func(context.Context, func(error)){"identity": cp.identity.Run, "media token keys": cp.tokens.Run, "licence keys": cp.licences.Run} {
		background(name, func(ctx context.Context, failed func(error)) error {
			run(ctx, failed)
			return nil
		})
	}
	start("places", cp.watchPlaces)
	if cp.dns != nil {
		start("dns", func(ctx context.Context) error { return cp.dns.Run(ctx, cp.cfg.DNSListen, func() {}) })
	}
	if cp.sink != nil {
		start("clickhouse sink", func(ctx context.Context) error { return cp.sink.Run(ctx, cp.events) })
	}
	start("idempotency keys", cp.sweepKeys)
	return cp.listen(ctx, failed, ready)
}

// followCatalogue brings the caches and the search index up to date with what a batch names; after it, the batch is
// acknowledged.
func (cp *ControlPlane) followCatalogue(ctx context.Context, batch []eventlog.Message) error {
	ids := map[string][]string{}
	for _, m := range batch {
		var c store.Changed
		if err := json.Unmarshal(m.Body, &c); err != nil {
			cp.log.Error("catalogue event cannot be read, passed over", "id", m.ID, "err", err)
			continue
		}
		cp.catalog.Forget(c.Kind, c.IDs...) // another replica may have made the change
		ids[c.Kind] = append(ids[c.Kind], c.IDs...)
	}
	for kind, list := range ids {
		if err := cp.index.Apply(ctx, kind, list...); err != nil {
			return err
		}
	}
	return nil
}
