package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"

	"segue/internal/clickhouse"
	"segue/internal/serve"
)

// ClickHouse is `segue clickhouse`: the embedded engine alone. `segue up` runs it as its child.
type ClickHouse struct {
	Path             string `required:"" help:"Data folder." type:"path"`
	HTTP             string `help:"HTTP address." default:"127.0.0.1:8123" name:"http"`
	Native           string `help:"Native protocol's address, on the same host." default:"127.0.0.1:9000"`
	Library          string `help:"libchdb.so; default: where make puts it." env:"SEGUE_LIBCHDB" type:"path" placeholder:"FILE"`
	WriterPassword   string `help:"File with the password of user segue." type:"existingfile" placeholder:"FILE"`
	AnalystPassword  string `help:"File with the password of user analyst." type:"existingfile" placeholder:"FILE"`
	SecretsFromStdin bool   `hidden:"" help:"Two lines: writer's and analyst's password; stop at the end of the input."`
}

// Run serves until a signal.
func (c *ClickHouse) Run(ctx context.Context, io *IO) error {
	library, err := clickhouse.FindLibrary(c.Library)
	if err != nil {
		return serve.Setupf("%w; npm package @chdb/lib-linux-x64-gnu has it, `make deps` installs it", err)
	}
	cfg := clickhouse.Config{Library: library, Dir: c.Path, HTTP: c.HTTP, Native: c.Native}
	if c.SecretsFromStdin {
		in := bufio.NewReader(os.Stdin)
		for _, to := range []*string{&cfg.WriterPassword, &cfg.AnalystPassword} {
			line, err := in.ReadString('\n')
			if err != nil {
				return serve.Setupf("passwords on standard input: %w", err)
			}
			*to = strings.TrimSpace(line)
		}
		var cancel context.CancelFunc
		ctx, cancel = clickhouse.UntilEOF(ctx, in)
		defer cancel()
	} else {
		for _, f := range []struct {
			file string
			to   *string
		}{{c.WriterPassword, &cfg.WriterPassword}, {c.AnalystPassword, &cfg.AnalystPassword}} {
			if f.file == "" {
				return serve.Setupf("want --writer-password and --analyst-password: files that hold them")
			}
			b, err := os.ReadFile(f.file)
			if err != nil {
				return serve.SetupError{Err: err}
			}
			*f.to = strings.TrimSpace(string(b))
		}
	}
	return clickhouse.Serve(ctx, cfg, func() {
		fmt.Fprintf(io.Stdout, "clickhouse ready: http://%s, native %s\n", c.HTTP, c.Native)
	})
}
