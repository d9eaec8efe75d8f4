package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	stdio "io"
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
	Format string `help:"table, csv, json, parquet, or any name of ClickHouse's; default: by the file's ending, else a table on a terminal and tab-separated text in a pipe." placeholder:"NAME"`
	Output string `short:"o" help:"Write to this file, whole or not at all." type:"path" placeholder:"FILE"`
}

// formats are short names of ClickHouse's formats, which are also the endings of files.
var formats = map[string]string{"table": "PrettyCompact", "csv": "CSVWithNames", "json": "JSONEachRow", "parquet": "Parquet", "tsv": "TSVWithNames", "ndjson": "JSONEachRow", "txt": "PrettyCompact"}

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
	if known, ok := formats[strings.ToLower(format)]; ok {
		format = known
	}
	if format == "" {
		format = formats[strings.TrimPrefix(strings.ToLower(filepath.Ext(c.Output)), ".")]
	}
	f, ok := io.Stdout.(*os.File)
	terminal := ok && term.IsTerminal(int(f.Fd()))
	if format == "" {
		format = "TSVWithNames"
		if terminal && c.Output == "" {
			format = "PrettyCompact"
		}
	}
	if c.Output != "" {
		return toFile(c.Output, func(w stdio.Writer) error { return plays.Query(ctx, url, c.Query, format, w) })
	}
	if format == "Parquet" && terminal {
		return serve.Setupf("Parquet is not for a terminal: give -o FILE")
	}
	return plays.Query(ctx, url, c.Query, format, io.Stdout)
}

// toFile writes beside the file and renames, so that there is never half an answer in it.
func toFile(path string, write func(stdio.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return serve.SetupError{Err: err}
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if err := errors.Join(write(f), f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
