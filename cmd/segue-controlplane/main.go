// Command segue-controlplane is one replica of the control plane, over stores of your own.
//
//	event log -> search index, ClickHouse sink -> HTTP
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"segue/controlplane"
	"segue/controlplane/identity"
	"segue/controlplane/playback"
	"segue/controlplane/plays"
	"segue/geo"
	"segue/internal/registry"
	"segue/internal/serve"
	"segue/origin/dirstore"
	"segue/origin/s3store"

	"github.com/alecthomas/kong"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// version is set by the build: -ldflags "-X main.version=…".
var version = "dev"

type cli struct {
	Config         kong.ConfigFlag  `help:"Read flags from this YAML file; its keys are the flag names without dashes." placeholder:"FILE"`
	Check          bool             `help:"Check flags and surroundings, then exit."`
	Version        kong.VersionFlag `help:"Print the version."`
	Listen         string           `help:"Players, operators and edges." default:"127.0.0.1:8080"`
	DebugListen    string           `help:"Metrics and profiles; private; empty: none." placeholder:"HOST:PORT"`
	Data           string           `help:"Folder of this replica: search index, and event log and SQLite when embedded." default:"./segue-control" type:"path"`
	Database       string           `help:"postgres://user@host/name or sqlite:PATH; default: SQLite in --data." placeholder:"URL"`
	NATS           string           `help:"nats://host:4222[,…]; default: embedded in --data." name:"nats" placeholder:"URL"`
	ClickHouse     string           `help:"clickhouse://user:password@host:9000/database; empty: plays stay in the event log." name:"clickhouse" placeholder:"URL"`
	PlayLogs       playLogs         `embed:"" prefix:"clickhouse-"`
	Analyst        string           `help:"http://user:password@host:8123/database of a ClickHouse user who may only read: answers questions in the console." name:"clickhouse-analyst" placeholder:"URL"`
	Origin         string           `help:"Media objects: s3://bucket[/prefix]?endpoint=http://host:port, or a folder." required:"" placeholder:"WHERE"`
	AdminTokenFile string           `help:"File with a secret that becomes an admin token." type:"path" required:"" placeholder:"FILE"`
	PlaysKeyFile   string           `help:"File with a secret that makes pseudonyms in the play logs; the same on all replicas." type:"path" required:"" placeholder:"FILE"`
	PublicURL      string           `help:"https://host of this control plane in what players get; default: the one they reached." name:"public-url" placeholder:"URL"`
	GeoDB          string           `help:"MMDB file with cities or countries; read again when it is replaced." name:"geo-db" type:"path" placeholder:"FILE"`
	GeoASN         string           `help:"MMDB file with autonomous systems." name:"geo-asn" type:"path" placeholder:"FILE"`
	GeoRules       string           `help:"JSON file that says for addresses and networks what the databases do not know; see docs/steering.md." name:"geo-rules" type:"path" placeholder:"FILE"`
	Policy         string           `help:"JSON file that says how edges are chosen: bands, load, fallback regions, countries; see docs/steering.md." name:"steering-policy" type:"path" placeholder:"FILE"`
	DNSListen      string           `help:"Answer DNS here, UDP and TCP, with the nearest edges; empty: do not." name:"dns-listen" placeholder:"HOST:PORT"`
	DNSZone        string           `help:"JSON file of the zone; see docs/steering.md." name:"dns-zone" type:"path" placeholder:"FILE"`
	Home           string           `help:"Where addresses of the own network are: LAT,LON." placeholder:"LAT,LON"`
	StrictCountry  bool             `help:"Refuse tracks that are limited to countries to listeners whose country is not known."`
	Registry       string           `help:"Consul agent, consul://127.0.0.1:8500 or consul+tls://…: what it says of edges counts beside their heartbeats." placeholder:"URL"`
	RegistryFiles  registry.Files   `embed:"" prefix:"registry-"`
	Replica        string           `help:"Name of this replica." default:"one"`
	Replicas       int              `help:"How many there are." default:"1"`
	RateLimit      float64          `help:"Requests a second of one account or address; negative: no limit." default:"100"`
	TrainPairs     int              `help:"Pairs of listener and track that recommendations learn from, at most; training takes some 50 bytes for each." default:"20000000"`
	PremiumStreams int              `help:"Streams at a time of an account with a plan that is paid for." default:"1"`
	OIDC           oidc             `embed:"" prefix:"oidc-"`
	TrustedProxies []string         `help:"Load balancers whose X-Forwarded-For and Forwarded are believed: addresses or networks." name:"trusted-proxy" placeholder:"CIDR"`
	InService      int              `help:"Requests in service at once; 0: 16 per core, at least 32." default:"0"`
	MaxOutbox      int              `help:"Play events kept in SQL while the event log is away." default:"100000"`
	OldPictures    time.Duration    `help:"How long covers stay in the origin after nothing names them any more; negative: for ever." default:"168h"`
	Drain          time.Duration    `help:"On stop, from \"not ready\" to the end of listening: what the load balancer needs to see it." default:"2s"`
	TraceEndpoint  string           `help:"OpenTelemetry collector (OTLP/HTTP); empty: no traces." placeholder:"http://HOST:4318"`
	Pyroscope      string           `help:"Push profiles to this server; empty: none." placeholder:"URL"`
	LogLevel       slog.Level       `help:"Least level logged: debug, info, warn, error." default:"info" placeholder:"LEVEL"`
	LogJSON        bool             `help:"Log as JSON." name:"log-json"`
}

// playLogs are the flags of how ClickHouse's tables are made.
type playLogs struct {
	Cluster      string `help:"Name of a cluster in ClickHouse's configuration: tables are replicated and distributed over it; empty: one server." placeholder:"NAME"`
	KeepEvents   int    `help:"Days that play events are kept; 0: for ever." default:"396"`
	KeepRollups  int    `help:"Days that plays by hour and day are kept." default:"1826"`
	KeepRequests int    `help:"Days that requests of edges are kept." default:"31"`
	KeepMinutes  int    `help:"Days that requests by minute are kept." default:"396"`
	KeepCMCD     int    `help:"Days that CMCD reports are kept." name:"keep-cmcd" default:"92"`
}

// oidc are the flags of sign-in through a provider.
type oidc struct {
	Issuer       string `help:"Let people sign in with this OpenID Connect provider; empty: with a password only." placeholder:"URL"`
	ClientID     string `help:"Who we are there." name:"client-id" placeholder:"ID"`
	SecretFile   string `help:"File with the client's secret; none: a public client." name:"client-secret-file" type:"path" placeholder:"FILE"`
	RedirectBase string `help:"Our URL as browsers see it; the provider must allow it with /v1/sessions/oidc/callback." placeholder:"URL"`
}

func main() { serve.Main(run) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var c cli
	return serve.CommandLine("segue-controlplane", "Catalogue, accounts, playback, fleet and play logs.", &c, args, stdout, stderr, func(*kong.Context) error {
		return c.run(ctx, stdout, stderr)
	}, kong.Vars{"version": "segue-controlplane " + version})
}

func (c *cli) run(ctx context.Context, stdout, stderr io.Writer) (err error) {
	log := serve.Logger(stderr, c.LogLevel, c.LogJSON)
	cfg := controlplane.Config{Listen: c.Listen, Database: c.Database, Data: c.Data, Replica: c.Replica, Replicas: c.Replicas, NATS: c.NATS, ClickHouse: c.ClickHouse, Analyst: c.Analyst, TrainPairs: c.TrainPairs,
		GeoDB: c.GeoDB, GeoASN: c.GeoASN, GeoRules: c.GeoRules, DNSListen: c.DNSListen, DNSZone: c.DNSZone, PublicURL: strings.TrimRight(c.PublicURL, "/"),
		Playback: playback.Config{RefuseUnknownCountry: c.StrictCountry}, PerSecond: c.RateLimit, Version: version,
		Registry: registry.ConsulConfig{URL: c.Registry, Files: c.RegistryFiles}, TrustedProxies: c.TrustedProxies, InService: c.InService, MaxOutbox: c.MaxOutbox,
		PlaysSchema: plays.Schema{Cluster: c.PlayLogs.Cluster, Retention: plays.Retention{Events: c.PlayLogs.KeepEvents, Rollups: c.PlayLogs.KeepRollups, Requests: c.PlayLogs.KeepRequests,
			Minutes: c.PlayLogs.KeepMinutes, CMCD: c.PlayLogs.KeepCMCD}},
		Drain: c.Drain, OldPictures: c.OldPictures, TraceEndpoint: c.TraceEndpoint}
	if cfg.Home, err = parseHome(c.Home); err != nil {
		return err
	}
	if c.Policy != "" {
		b, err := os.ReadFile(c.Policy)
		if err == nil {
			cfg.Steering, err = geo.ParsePolicy(b)
		}
		if err != nil {
			return serve.Setupf("steering policy %s: %w", c.Policy, err)
		}
	}
	cfg.Identity = identity.Config{PremiumStreams: c.PremiumStreams, OIDC: identity.OIDC{Issuer: c.OIDC.Issuer, ClientID: c.OIDC.ClientID, RedirectBase: c.OIDC.RedirectBase}}
	for _, f := range []struct {
		file string
		to   func([]byte)
	}{{c.AdminTokenFile, func(b []byte) { cfg.AdminToken = string(b) }}, {c.PlaysKeyFile, func(b []byte) { cfg.PlaysKey = b }},
		{c.OIDC.SecretFile, func(b []byte) { cfg.Identity.OIDC.ClientSecret = string(b) }}} {
		if f.file == "" {
			continue
		}
		b, err := os.ReadFile(f.file)
		if err != nil {
			return serve.SetupError{Err: err}
		}
		f.to([]byte(strings.TrimSpace(string(b))))
	}
	if len(cfg.AdminToken) < 16 {
		return serve.Setupf("the admin token in %s has %d characters, want at least 16", c.AdminTokenFile, len(cfg.AdminToken))
	}
	if err := os.MkdirAll(c.Data, 0o755); err != nil {
		return serve.Setupf("data folder: %w", err)
	}
	if cfg.Database == "" {
		cfg.Database = "sqlite:" + c.Data + "/segue.db"
	}
	objects, err := openOrigin(ctx, c.Origin)
	if err != nil {
		return err
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	cp, err := controlplane.Open(ctx, cfg, objects, log, reg)
	if err != nil {
		return err
	}
	if c.Check {
		cp.Close()
		_, err := fmt.Fprintln(stdout, "all is well")
		return err
	}
	return serve.Run(ctx, log,
		serve.Part{Name: "debug", Run: serve.Debug{Listen: c.DebugListen, Metrics: promhttp.HandlerFor(reg, promhttp.HandlerOpts{})}.Run},
		serve.Part{Name: "profiler", Run: serve.Profiler{Server: c.Pyroscope, App: "segue-controlplane", Tags: map[string]string{"node": c.Replica}}.Run},
		serve.Part{Name: "control plane", Run: func(ctx context.Context, ready func()) error {
			return cp.Run(ctx, func() {
				log.Info("serving", "listen", c.Listen, "version", version)
				ready()
			})
		}})
}

func openOrigin(ctx context.Context, where string) (controlplane.Objects, error) {
	if strings.HasPrefix(where, "s3://") {
		return s3store.OpenURL(ctx, where, 0, os.Getenv)
	}
	s, err := dirstore.Open(where)
	if err != nil {
		return nil, serve.SetupError{Err: err}
	}
	return s, nil
}

func parseHome(s string) (geo.Place, error) {
	if s == "" {
		return geo.Place{}, nil
	}
	lat, lon, _ := strings.Cut(s, ",")
	y, err1 := strconv.ParseFloat(strings.TrimSpace(lat), 64)
	x, err2 := strconv.ParseFloat(strings.TrimSpace(lon), 64)
	if err1 != nil || err2 != nil || y < -90 || y > 90 || x < -180 || x > 180 {
		return geo.Place{}, serve.Setupf("--home %q: want LAT,LON in degrees", s)
	}
	return geo.Place{Point: geo.Point{Lat: y, Lon: x}, OK: true}, nil
}
