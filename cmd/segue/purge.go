package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"segue/controlplane/api"

	"golang.org/x/term"
)

// AdminPurge is `segue admin purge`: all edges forget, and say so.
type AdminPurge struct {
	operator
	Key    string        `help:"One path, as /media/…, with its query where queries count." xor:"what" required:"" placeholder:"PATH"`
	Prefix string        `help:"All paths that begin so." xor:"what" required:"" placeholder:"PATH"`
	Tag    string        `help:"All objects with this surrogate key: track:<id>, album:<id>, version:<v>, or an origin's own." xor:"what" required:"" placeholder:"TAG"`
	Soft   bool          `help:"What is stored becomes stale: it is validated before it is used. Without: it is never used again."`
	Wait   time.Duration `help:"How long to wait for the edges." default:"30s"`
	JSON   bool          `help:"Print the answer as it is." name:"json"`
}

// Run orders the purge and waits for every edge that lives. One that does not answer in time makes the exit status 1.
func (c *AdminPurge) Run(ctx context.Context, out *IO) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	order := api.NewPurge{Soft: c.Soft}
	switch {
	case c.Key != "":
		order.Kind, order.Value = "key", c.Key
	case c.Prefix != "":
		order.Kind, order.Value = "prefix", c.Prefix
	default:
		order.Kind, order.Value = "tag", c.Tag
	}
	p, err := client.NewPurge(ctx, order)
	if err != nil {
		return err
	}
	live := false
	if f, ok := out.Stderr.(*os.File); ok {
		live = term.IsTerminal(int(f.Fd()))
	}
	begun := time.Now()
	for {
		done, due := purgeDone(p)
		if live {
			fmt.Fprintf(out.Stderr, "\r%d of %d edges have purged, %s ", done, due, time.Since(begun).Round(100*time.Millisecond))
		}
		if done == due || time.Since(begun) > c.Wait {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(500*time.Millisecond, 20*time.Millisecond+time.Since(begun)/4)):
		}
		if p, err = client.GetPurge(ctx, p.ID); err != nil {
			return err
		}
	}
	if live {
		fmt.Fprint(out.Stderr, "\r\x1b[K")
	}
	if c.JSON {
		j := json.NewEncoder(out.Stdout)
		j.SetIndent("", "  ")
		err = j.Encode(p)
	} else {
		err = printPurge(out.Stdout, p)
	}
	if err != nil {
		return err
	}
	if done, due := purgeDone(p); done < due {
		return fmt.Errorf("%d of %d edges have not purged yet; they will, see GET /v1/admin/purges/%s", due-done, due, p.ID)
	}
	return nil
}

// purgeDone counts the edges that purged, and those that are to: not the dead, who purge before they are back.
func purgeDone(p api.Purge) (done, due int) {
	for _, e := range p.Edges {
		switch {
		case e.DoneAt != nil:
			done++
			due++
		case e.State != "dead":
			due++
		}
	}
	return done, due
}

func printPurge(out io.Writer, p api.Purge) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	how := map[bool]string{true: "soft", false: "hard"}[p.Soft]
	fmt.Fprintf(w, "purge %s: %s %s, %s\n\nEDGE\tREGION\tSTATE\tPURGED AFTER\n", p.ID, p.Kind, p.Value, how)
	for _, e := range p.Edges {
		after := "not yet"
		if e.DoneAt != nil {
			after = e.DoneAt.Sub(p.CreatedAt).Round(time.Millisecond / 10).String()
		} else if e.State == "dead" {
			after = "when it is back"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", e.Name, e.Region, e.State, after)
	}
	return w.Flush()
}
