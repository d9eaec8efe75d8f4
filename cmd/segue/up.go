package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"segue/controlplane/identity"
	"segue/internal/platform"
	"segue/internal/serve"
	"segue/packager"
)

// Up is `segue up`: the whole platform on one machine.
type Up struct {
	Data              string          `help:"Folder for everything that is kept." default:"./segue-data" type:"path"`
	Music             string          `help:"Folder of music to ingest in the background." type:"path" placeholder:"DIR"`
	Listen            string          `help:"Control plane and player." default:"127.0.0.1:8080"`
	EdgeListen        string          `help:"First edge; the others take the following ports." default:"127.0.0.1:8081"`
	Edges             int             `help:"Number of edges, dealt out over two pretend regions." default:"2"`
	DebugListen       string          `help:"Metrics and profiles; private; empty: none." default:"127.0.0.1:8070"`
	ClickHouseHTTP    string          `help:"Embedded ClickHouse, HTTP." default:"127.0.0.1:8123" name:"clickhouse-http"`
	ClickHouseNative  string          `help:"Embedded ClickHouse, native protocol." default:"127.0.0.1:9000" name:"clickhouse-native"`
	ClickHouseLibrary string          `help:"libchdb.so; default: where make puts it." name:"clickhouse-library" env:"SEGUE_LIBCHDB" type:"path" placeholder:"FILE"`
	Origin            string          `help:"Media objects: a folder, or s3://bucket?endpoint=http://host:port; default: in the data folder." placeholder:"WHERE"`
	Database          string          `help:"postgres://… instead of SQLite in the data folder." placeholder:"URL"`
	EdgeMemory        serve.ByteCount `help:"Memory for blocks, each edge." default:"256MiB"`
	EdgeDisk          serve.ByteCount `help:"Disk for blocks, each edge." default:"4GiB"`
	GeoDB             string          `help:"MMDB file with cities or countries; default: the country database that make installs, if it is there." name:"geo-db" type:"path" placeholder:"FILE"`
	GeoRules          string          `help:"JSON file that says for addresses and networks what the database does not know." name:"geo-rules" type:"path" placeholder:"FILE"`
	PublicHost        string          `help:"Host name in the URLs that players get; default: the one listened on." placeholder:"HOST"`
	PremiumStreams    int             `help:"Streams at a time of an account with a plan that is paid for." default:"1"`
	OIDC              oidc            `embed:"" prefix:"oidc-"`
	Check             bool            `help:"Check flags and surroundings, then exit."`
}

// oidc are the flags of sign-in through a provider.
type oidc struct {
	Issuer       string `help:"Let people sign in with this OpenID Connect provider; empty: with a password only." placeholder:"URL"`
	ClientID     string `help:"Who we are there." name:"client-id" placeholder:"ID"`
	SecretFile   string `help:"File with the client's secret; none: a public client." name:"client-secret-file" type:"path" placeholder:"FILE"`
	RedirectBase string `help:"Our URL as browsers see it; the provider must allow it with /v1/sessions/oidc/callback." placeholder:"URL"`
}

func (o oidc) config() (identity.OIDC, error) {
	c := identity.OIDC{Issuer: o.Issuer, ClientID: o.ClientID, RedirectBase: o.RedirectBase}
	if o.SecretFile != "" {
		b, err := os.ReadFile(o.SecretFile)
		if err != nil {
			return c, serve.SetupError{Err: err}
		}
		c.ClientSecret = strings.TrimSpace(string(b))
	}
	return c, nil
}

// Run serves until a signal.
func (c *Up) Run(ctx context.Context, io *IO) error {
	begun := time.Now()
	var files []string
	if c.Music != "" {
		var err error
		if files, err = packager.Scan([]string{c.Music}); err != nil {
			return err
		}
		if err := packager.CheckFFmpeg(); err != nil {
			return err
		}
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the own program: %w", err)
	}
	provider, err := c.OIDC.config()
	if err != nil {
		return err
	}
	p, err := platform.Open(ctx, platform.Config{Data: c.Data, Listen: c.Listen, EdgeListen: c.EdgeListen, Edges: c.Edges, DebugListen: c.DebugListen,
		ClickHouseHTTP: c.ClickHouseHTTP, ClickHouseNative: c.ClickHouseNative, Library: c.ClickHouseLibrary, Origin: c.Origin, Database: c.Database, Identity: identity.Config{PremiumStreams: c.PremiumStreams, OIDC: provider},
		EdgeMemory: int64(c.EdgeMemory), EdgeDisk: int64(c.EdgeDisk), GeoDB: c.GeoDB, GeoRules: c.GeoRules, PublicHost: c.PublicHost, Program: program, Version: version}, io.Log)
	if err != nil {
		return err
	}
	if c.Check {
		p.Close()
		_, err := fmt.Fprintln(io.Stdout, "all is well")
		return err
	}
	return p.Run(ctx, serve.Part{Name: "ingest", Run: func(ctx context.Context, ready func()) error {
		ready()
		p.Banner(io.Stdout)
		fmt.Fprintf(io.Stdout, "ready after %s; Ctrl-C stops\n", time.Since(begun).Round(time.Millisecond))
		if len(files) == 0 {
			return nil
		}
		client, err := p.Admin()
		if err != nil {
			return err
		}
		// Files that fail are listed by the progress; the platform goes on without them.
		if err := ingest(ctx, client, packager.Config{}, files, newProgress(io.Stderr, len(files))); err != nil && ctx.Err() == nil {
			io.Log.Warn("ingest is not complete", "err", err)
		}
		return nil
	}})
}
