package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"segue/controlplane/plays"
	"segue/internal/clickhouse"
	"segue/internal/platform"
	"segue/internal/serve"

	"golang.org/x/term"
)

// AdminSQL is `segue admin sql`: one question to ClickHouse, as the analyst.
type AdminSQL struct {
	Query  string `arg:"" help:"Statement."`
	URL    string `help:"http://user:password@host:8123/database; default: that of the data folder." placeholder:"URL"`
	Data   string `help:"Data folder of a platform on this machine." default:"./segue-data" type:"path"`
	Format string `help:"Any ClickHouse format; default: a table on a terminal, else tab-separated with names." placeholder:"NAME"`
}

// Run prints the answer.
func (c *AdminSQL) Run(ctx context.Context, io *IO) error {
	url := c.URL
	if url == "" {
		b, err := os.ReadFile(filepath.Join(c.Data, "credentials.json"))
		if err != nil {
			return serve.Setupf("%w; give --url or --data", err)
		}
		var creds platform.Credentials
		if err := json.Unmarshal(b, &creds); err != nil || creds.ClickHouse.User == "" {
			return serve.Setupf("%s names no ClickHouse; give --url", filepath.Join(c.Data, "credentials.json"))
		}
		db := creds.ClickHouse
		url = fmt.Sprintf("http://%s:%s@%s/%s", db.User, db.Password, strings.TrimPrefix(db.HTTPURL, "http://"), clickhouse.Database)
	}
	format := c.Format
	if format == "" {
		format = "TSVWithNames"
		if f, ok := io.Stdout.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			format = "PrettyCompact"
		}
	}
	return plays.Query(ctx, url, c.Query, format, io.Stdout)
}
