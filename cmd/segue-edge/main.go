// Command segue-edge is one edge: alone in front of any origin, or as a member of a fleet.
//
//	player -> door -> Memory+Coalesce -> Disk -> Upstream -> origin
package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"segue/controlplane/api"
	"segue/edge"
	"segue/edge/fleet"
	"segue/edge/transport"
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
	Config      kong.ConfigFlag  `help:"Read flags from this YAML file; its keys are the flag names without dashes." placeholder:"FILE"`
	Check       bool             `help:"Check flags and surroundings, then exit."`
	Version     kong.VersionFlag `help:"Print the version."`
	Listen      string           `help:"Players' side." default:"127.0.0.1:8081"`
	DebugListen string           `help:"Metrics and profiles; private; empty: none." placeholder:"HOST:PORT"`
	Origin      string           `help:"What is at /: http://host[:port][/path], s3://bucket[/prefix]?endpoint=http://host:port, or a folder." placeholder:"WHERE"`
	Route       []string         `help:"More origins: PREFIX=WHERE; the longest prefix counts. Repeatable." sep:"none" placeholder:"/p/=WHERE"`
	Fresh       time.Duration    `help:"How long an object of a folder or bucket is used without asking again; media/ and art/ never change." default:"1m"`
	Memory      serve.ByteCount  `help:"Memory of the whole process, within a fifth; most of it holds blocks." default:"256MiB"`
	Disk        string           `help:"Folder for blocks on disk; empty: none." type:"path" placeholder:"DIR"`
	DiskSize    serve.ByteCount  `help:"Disk for blocks." default:"4GiB"`
	Drain       time.Duration    `help:"How long /readyz says no before the end, for load balancers to notice." default:"0s"`
	AccessLog   string           `help:"File for a line of JSON per request, put aside at 256 MiB; -: stderr; empty: none. Addresses are cut to /24 and /48." placeholder:"FILE"`
	GeoDB       string           `help:"MMDB file with countries, for tokens that are limited to some; empty: such tokens are refused." name:"geo-db" type:"path" placeholder:"FILE"`
	Pyroscope   string           `help:"Push profiles to this server; empty: none." placeholder:"URL"`
	LogLevel    slog.Level       `help:"Least level logged: debug, info, warn, error." default:"info" placeholder:"LEVEL"`
	LogJSON     bool             `help:"Log as JSON." name:"log-json"`

	TLSCert       string   `help:"Certificate in PEM, with its chain; read again when it changes." name:"tls-cert" type:"path" placeholder:"FILE" group:"TLS"`
	TLSKey        string   `help:"Its key." name:"tls-key" type:"path" placeholder:"FILE" group:"TLS"`
	ACMEHost      []string `help:"Get certificates for this name by ACME (TLS-ALPN-01; players must reach the edge at port 443). Repeatable." name:"acme-host" placeholder:"NAME" group:"TLS"`
	ACMEDir       string   `help:"Folder for the account and certificates of ACME." name:"acme-dir" default:"./segue-edge-acme" type:"path" group:"TLS"`
	ACMEEmail     string   `help:"Where the authority writes to." name:"acme-email" group:"TLS"`
	ACMEDirectory string   `help:"Directory of another authority than Let's Encrypt." name:"acme-directory" placeholder:"URL" group:"TLS"`
	MaxConns      int      `help:"Connections at once." default:"200000" group:"Limits"`
	MaxPerAddress int      `help:"Connections at once of one IPv4 address or IPv6 /64; 0: no limit." default:"0" group:"Limits"`
	Listeners     int      `help:"Listeners on the address, with SO_REUSEPORT; 0: one for each processor." default:"1" group:"Limits"`
	Serve         struct{} `cmd:"" default:"1" help:"Serve: what happens without a command."`
	Inspect       inspect  `cmd:"" help:"Look into a running edge: what is cached, and why something is not."`

	Control       string          `help:"Control plane to join; protected objects need its tokens then. Empty: no fleet, everything is public." placeholder:"URL" group:"Fleet"`
	Name          string          `help:"Name in the fleet and in Cache-Status: lower-case letters, digits, dashes." default:"segue" group:"Fleet"`
	PublicURL     string          `help:"How players reach this edge; default: http:// and --listen." placeholder:"URL" group:"Fleet"`
	JoinTokenFile string          `help:"File with the join token; needed the first time." type:"path" placeholder:"FILE" group:"Fleet"`
	AllowOrigin   []string        `help:"Host that a release of the fleet may name as an origin; *.example.org is all below it. Repeatable; none: any host." placeholder:"HOST" group:"Fleet"`
	State         string          `help:"Folder for the identity, the last configuration and the request log." default:"./segue-edge-state" type:"path" group:"Fleet"`
	SpoolSize     serve.ByteCount `help:"Disk for the request log until the control plane has taken it; when it is spent, the oldest goes. 0: no request log." default:"1GiB" group:"Fleet"`
	Tier          string          `help:"What this node is for: edge, or shield." enum:"edge,shield" default:"edge" group:"Fleet"`
	CapacityMbps  float64         `help:"What it can send, in Mbit/s: its load is counted of that, and so is its share of the objects." default:"1000" name:"capacity-mbps" placeholder:"N" group:"Fleet"`
	Weight        float64         `help:"Its share among equals, beside the capacity." default:"1" group:"Fleet"`
	Registry      string          `help:"Consul agent of this machine, consul://127.0.0.1:8500 or consul+tls://…: this edge is a service there, too." placeholder:"URL" group:"Fleet"`
	RegistryFiles registry.Files  `embed:"" prefix:"registry-" group:"Fleet"`
}

func main() { serve.Main(run) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var c cli
	return serve.CommandLine("segue-edge", "A cache for media, and for any HTTP origin.", &c, args, stdout, stderr, func(k *kong.Context) error {
		if strings.HasPrefix(k.Command(), "inspect") {
			return c.Inspect.run(ctx, c.DebugListen, stdout)
		}
		return c.run(ctx, stdout, stderr)
	}, kong.Vars{"version": "segue-edge " + version, "debug": defaultDebug})
}

func (c *cli) run(ctx context.Context, stdout, stderr io.Writer) error {
	log := serve.Logger(stderr, c.LogLevel, c.LogJSON)
	routes, err := c.routes(ctx)
	if err != nil {
		return err
	}
	conns, err := c.transport(log)
	if err != nil {
		return err
	}
	listeners := c.Listeners
	if listeners == 0 {
		listeners = runtime.GOMAXPROCS(0)
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	var requests *edge.RequestLog
	var spool *edge.Spool
	var sinks []edge.Sink
	if c.AccessLog != "" {
		file, err := edge.OpenAccessFile(c.AccessLog)
		if err != nil {
			return serve.SetupError{Err: err}
		}
		defer file.Close()
		sinks = append(sinks, file)
	}
	if c.Control != "" && c.SpoolSize > 0 && !c.Check {
		if spool, err = edge.OpenSpool(filepath.Join(c.State, "requests"), int64(c.SpoolSize), log, reg); err != nil {
			return serve.SetupError{Err: err}
		}
		defer spool.Close()
		sinks = append(sinks, spool)
	}
	if len(sinks) > 0 {
		if requests, err = edge.NewRequestLog(edge.LogConfig{}, log, reg, sinks...); err != nil {
			return serve.SetupError{Err: err}
		}
	}
	var country func(netip.Addr) string
	var places *geo.Locator
	if c.GeoDB != "" {
		if places, err = geo.OpenLocator(geo.LocatorConfig{Places: c.GeoDB}); err != nil {
			return serve.SetupError{Err: err}
		}
		country = places.Country
	}
	blocks, records := edge.Split(int64(c.Memory))
	debug.SetGCPercent(50) // little is in the heap: the collector has not much to do, and memory is for blocks
	e, err := edge.New(edge.Config{Log: requests, Country: country, Name: c.Name, Listen: c.Listen, Memory: blocks, Records: records, DiskDir: c.Disk, DiskSize: int64(c.DiskSize), Routes: routes,
		Tokens: c.Control != "", DrainFor: c.Drain, Listeners: listeners, Transport: conns}, log, reg)
	if err != nil {
		return serve.SetupError{Err: err}
	}
	var consul *registry.Consul
	if c.Registry != "" {
		if c.Control == "" {
			return serve.Setupf("--registry is for an edge of a fleet: give --control")
		}
		if consul, err = registry.OpenConsul(registry.ConsulConfig{URL: c.Registry, Files: c.RegistryFiles}); err != nil {
			return serve.SetupError{Err: err}
		}
	}
	if c.CapacityMbps <= 0 || c.Weight <= 0 || c.Weight > 100 {
		return serve.Setupf("--capacity-mbps must be more than 0, --weight more than 0 and at most 100")
	}
	if c.Check {
		_, err := fmt.Fprintln(stdout, "all is well")
		return err
	}
	parts := []serve.Part{
		{Name: "debug", Run: serve.Debug{Listen: c.DebugListen, Metrics: promhttp.HandlerFor(reg, promhttp.HandlerOpts{}),
			Also: map[string]http.Handler{"/purge": e.Private(), "/inspect": e.Private(), "/top": e.Private()}}.Run},
	}
	parts = append(parts, serve.Part{Name: "profiler", Run: serve.Profiler{Server: c.Pyroscope, App: "segue-edge", Tags: map[string]string{"node": c.Name}}.Run})
	if requests != nil { // before the edge: it stops after it
		parts = append(parts, serve.Part{Name: "request log", Run: requests.Run})
	}
	if places != nil {
		parts = append(parts, serve.Part{Name: "places", Run: func(ctx context.Context, ready func()) error {
			ready()
			return places.Watch(ctx, 5*time.Second, func(path string, err error) {
				if err != nil {
					log.Warn("a new file of places is not in use, the old one is", "key", path, "err", err)
				}
			})
		}})
	}
	parts = append(parts, serve.Part{Name: "edge", Run: e.Run})
	if c.Control != "" {
		cfg := fleet.Config{ControlPlane: c.Control, Name: c.Name, PublicURL: c.PublicURL, Dir: c.State, Version: version, Tier: c.Tier, CapacityBps: c.CapacityMbps * 1e6, Weight: c.Weight, MaxConnections: int64(c.MaxConns),
			Spool: spool, AllowOrigins: c.AllowOrigin,
			Open: func(ctx context.Context, o api.EdgeOrigin) (edge.Origin, error) {
				s, err := s3store.OpenURL(ctx, o.URL, 1, os.Getenv)
				if err != nil {
					return nil, err
				}
				return edge.StoreOrigin{Store: s, Fresh: cmp.Or(time.Duration(o.FreshSeconds)*time.Second, c.Fresh)}, nil
			}}
		if c.Disk != "" {
			cfg.DiskSize = int64(c.DiskSize)
		}
		if consul != nil {
			cfg.Registry = consul
		}
		if cfg.PublicURL == "" {
			scheme := "http://"
			if conns.TLS != nil {
				scheme = "https://"
			}
			cfg.PublicURL = scheme + c.Listen
		}
		if c.JoinTokenFile != "" {
			b, err := os.ReadFile(c.JoinTokenFile)
			if err != nil {
				return serve.SetupError{Err: err}
			}
			cfg.JoinToken = strings.TrimSpace(string(b))
		}
		parts = append(parts, serve.Part{Name: "fleet", Run: func(ctx context.Context, ready func()) error {
			m, err := fleet.Join(ctx, cfg, e, log)
			if err != nil {
				return err
			}
			return m.Run(ctx, ready)
		}})
	}
	parts = append(parts, serve.Part{Name: "say so", Run: func(_ context.Context, ready func()) error {
		ready()
		log.Info("serving", "listen", c.Listen, "routes", len(routes), "version", version)
		return nil
	}})
	return serve.Run(ctx, log, parts...)
}

// transport is what the flags say about connections.
func (c *cli) transport(log *slog.Logger) (transport.Config, error) {
	t := transport.Config{MaxConns: c.MaxConns, MaxPerAddr: c.MaxPerAddress}
	switch {
	case len(c.ACMEHost) > 0 && c.TLSCert+c.TLSKey != "":
		return t, serve.Setupf("give --acme-host or --tls-cert, not both")
	case len(c.ACMEHost) > 0:
		t.TLS = transport.ACME{Hosts: c.ACMEHost, Dir: c.ACMEDir, Email: c.ACMEEmail, Directory: c.ACMEDirectory}.Config()
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return t, serve.Setupf("--tls-cert and --tls-key go together")
	case c.TLSCert != "":
		files, err := transport.OpenFiles(c.TLSCert, c.TLSKey, func(err error) { log.Error("the old certificate stays in use", "err", err) })
		if err != nil {
			return t, serve.SetupError{Err: err}
		}
		t.TLS = files.Config()
	}
	return t, nil
}

func (c *cli) routes(ctx context.Context) ([]*edge.Route, error) {
	specs := c.Route
	if c.Origin != "" {
		specs = append([]string{"/=" + c.Origin}, specs...)
	}
	if len(specs) == 0 && c.Control == "" { // else they come with a release
		return nil, serve.Setupf("an edge needs an origin: give --origin http://host:port, s3://bucket or a folder")
	}
	var out []*edge.Route
	for _, spec := range specs {
		prefix, where, ok := strings.Cut(spec, "=")
		if !ok || !strings.HasPrefix(prefix, "/") || !strings.HasSuffix(prefix, "/") {
			return nil, serve.Setupf("--route %q: want /prefix/=WHERE", spec)
		}
		o, err := c.origin(ctx, where)
		if err != nil {
			return nil, err
		}
		out = append(out, &edge.Route{Prefix: prefix, Origin: o})
	}
	return out, nil
}

func (c *cli) origin(ctx context.Context, where string) (edge.Origin, error) {
	switch {
	case strings.HasPrefix(where, "http://"), strings.HasPrefix(where, "https://"):
		o, err := edge.NewHTTPOrigin(where)
		if err != nil {
			return nil, serve.SetupError{Err: err}
		}
		return o, nil
	case strings.HasPrefix(where, "s3://"):
		s, err := s3store.OpenURL(ctx, where, 1, os.Getenv) // the edge repeats: edge/care.go
		if err != nil {
			return nil, err
		}
		return edge.StoreOrigin{Store: s, Fresh: c.Fresh}, nil
	}
	s, err := dirstore.OpenReadOnly(where)
	if err != nil {
		return nil, serve.SetupError{Err: err}
	}
	return edge.StoreOrigin{Store: s, Fresh: c.Fresh}, nil
}
