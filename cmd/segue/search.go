package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"segue/controlplane/api"

	"golang.org/x/term"
)

// searchServer is where the commands about the search index go. Each replica has its own index: name one, not a load
// balancer in front of several.
type searchServer struct {
	Server    string `help:"Control plane; each replica has an index of its own." default:"http://127.0.0.1:8080"`
	Token     string `help:"Admin token with the scope admin." env:"SEGUE_ADMIN_TOKEN" placeholder:"TOKEN"`
	TokenFile string `help:"File that holds it." default:"segue-data/admin.token" type:"path"`
}

// AdminReindex is `segue admin reindex`.
type AdminReindex struct{ searchServer }

// Run orders a rebuild and shows how it goes until it is done.
func (c *AdminReindex) Run(ctx context.Context, out *IO) error {
	var x api.SearchIndex
	err := c.order(ctx, out, "/v1/admin/search/rebuild", nil, &x, func() (done, total int64, running bool) { return x.Done, x.Total, x.EndedAt == nil })
	if err != nil {
		return err
	}
	if x.Error != "" {
		return fmt.Errorf("search index of replica %s: %s", x.Replica, x.Error)
	}
	_, err = fmt.Fprintf(out.Stdout, "search index of replica %s: %d documents in %s, %d MiB\n", x.Replica, x.Done, x.EndedAt.Sub(*x.StartedAt).Round(time.Millisecond), x.Bytes>>20)
	return err
}

// AdminVerify is `segue admin verify`.
type AdminVerify struct {
	searchServer
	Mend bool `help:"Bring what differs up to date."`
}

// Run orders the comparison and shows how it goes. A difference that was not mended makes the exit status 1.
func (c *AdminVerify) Run(ctx context.Context, out *IO) error {
	var x api.SearchIndex
	err := c.order(ctx, out, "/v1/admin/search/check", api.NewSearchCheck{Mend: c.Mend}, &x, func() (done, total int64, running bool) {
		return x.Check.Done, x.Check.Total, x.Check.Running
	})
	if err != nil {
		return err
	}
	if x.Check.Error != "" {
		return fmt.Errorf("search index of replica %s: %s", x.Replica, x.Check.Error)
	}
	if err := printCheck(out.Stdout, x); err != nil {
		return err
	}
	if left := x.Check.Missing + x.Check.Extra + x.Check.Stale - x.Check.Mended; left > 0 {
		return fmt.Errorf("%d documents differ from the database; --mend brings them up to date", left)
	}
	return nil
}

func printCheck(out io.Writer, x api.SearchIndex) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "TYPE\tDATABASE\tINDEX\n")
	for _, kind := range slices.Sorted(maps.Keys(x.Check.Tables)) {
		fmt.Fprintf(w, "%s\t%d\t%d\n", kind, x.Check.Tables[kind], x.Check.Index[kind])
	}
	fmt.Fprintf(w, "\nmissing %d, extra %d, stale %d, mended %d\n", x.Check.Missing, x.Check.Extra, x.Check.Stale, x.Check.Mended)
	for _, d := range x.Check.Differences {
		fmt.Fprintf(w, "%s\t%s\t%s\n", d.What, d.Type, d.ID)
	}
	return w.Flush()
}

// order posts in to path and asks for the state until it runs no more.
func (c *searchServer) order(ctx context.Context, out *IO, path string, in any, x *api.SearchIndex, state func() (done, total int64, running bool)) error {
	client, err := operator(*c).client()
	if err != nil {
		return err
	}
	if err := client.Call(ctx, http.MethodPost, path, in, x); err != nil {
		return err
	}
	live := false
	if f, ok := out.Stderr.(*os.File); ok {
		live = term.IsTerminal(int(f.Fd()))
	}
	for begun := time.Now(); ; {
		done, total, running := state()
		if live {
			of := ""
			if total > 0 {
				of = fmt.Sprintf(" of about %d", total)
			}
			fmt.Fprintf(out.Stderr, "\r\x1b[K%d%s documents, %s ", done, of, time.Since(begun).Round(100*time.Millisecond))
		}
		if !running {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(500*time.Millisecond, 20*time.Millisecond+time.Since(begun)/4)):
		}
		*x = api.SearchIndex{}
		if err := client.Call(ctx, http.MethodGet, "/v1/admin/search", nil, x); err != nil {
			return err
		}
	}
	if live {
		fmt.Fprint(out.Stderr, "\r\x1b[K")
	}
	return nil
}
