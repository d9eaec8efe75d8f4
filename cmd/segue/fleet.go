package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"segue/controlplane/api"

	"golang.org/x/term"
)

// AdminFleet is `segue admin fleet`.
type AdminFleet struct {
	Status     FleetStatus     `cmd:"" default:"withargs" help:"Who runs what: releases, weights, drains, what was refused and why."`
	Pending    FleetPending    `cmd:"" help:"What a release made now would change."`
	Release    FleetRelease    `cmd:"" help:"Make a release: a snapshot of origins, routes, steering policies and keys."`
	Releases   FleetReleases   `cmd:"" help:"List releases."`
	Activate   FleetActivate   `cmd:"" help:"Give a release to edges, in part or to all; an older one is a rollback. Waits until they run it."`
	Deactivate FleetDeactivate `cmd:"" help:"Have edges run their own routes again."`
	Revisions  FleetRevisions  `cmd:"" help:"List changes of the configuration."`
	Undo       FleetUndo       `cmd:"" help:"Undo one change, by a new one."`
}

// fleetOperator is an operator who may want JSON.
type fleetOperator struct {
	operator
	JSON bool `help:"Print the answer as it is." name:"json"`
}

// print writes JSON when it is wanted, else what table makes.
func (o fleetOperator) print(out *IO, v any, table func(w io.Writer)) error {
	if o.JSON {
		j := json.NewEncoder(out.Stdout)
		j.SetIndent("", "  ")
		return j.Encode(v)
	}
	w := tabwriter.NewWriter(out.Stdout, 0, 0, 2, ' ', 0)
	table(w)
	return w.Flush()
}

// watched shows one line of progress: rewritten on a terminal, elsewhere a new one with each change.
type watched struct {
	w    io.Writer
	live bool
	last string
}

func watch(out *IO) *watched {
	f, ok := out.Stderr.(*os.File)
	return &watched{w: out.Stderr, live: ok && term.IsTerminal(int(f.Fd()))}
}

func (p *watched) say(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if p.live {
		fmt.Fprint(p.w, "\r\x1b[K"+text)
	} else if text != p.last {
		fmt.Fprintln(p.w, text)
	}
	p.last = text
}

func (p *watched) end() {
	if p.live {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

// until calls look, more and more seldom, until it says that all is done or the time is over: then done is false.
func until(ctx context.Context, wait time.Duration, look func() (bool, error)) (done bool, err error) {
	begun := time.Now()
	for {
		if done, err := look(); err != nil || done {
			return done, err
		}
		if time.Since(begun) > wait {
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(min(time.Second, 50*time.Millisecond+time.Since(begun)/8)):
		}
	}
}

// FleetStatus is `segue admin fleet status`.
type FleetStatus struct{ fleetOperator }

// Run prints a table.
func (c *FleetStatus) Run(ctx context.Context, out *IO) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	st, err := client.FleetStatus(ctx)
	if err != nil {
		return err
	}
	return c.print(out, st, func(w io.Writer) { printFleet(w, st, time.Now()) })
}

func printFleet(w io.Writer, st api.FleetStatus, now time.Time) {
	fmt.Fprintf(w, "revision %d; ", st.Revision)
	if a := st.Activation; a == nil {
		fmt.Fprint(w, "no release is active: edges run their own routes\n\n")
	} else {
		fmt.Fprintf(w, "%s\n\n", activationText(*a))
	}
	fmt.Fprint(w, "EDGE\tREGION\tPOOL\tSTATE\tRELEASE\tSINCE\tLAG\tWEIGHT\tLOAD\tREMARK\n")
	for _, e := range st.Edges {
		since, lag := "-", "-"
		if e.Since != nil {
			since = short(now.Sub(*e.Since)) + " ago"
		}
		if e.Release != e.Wanted {
			lag = short(time.Duration(e.LagSeconds*float64(time.Second))) + fmt.Sprintf(" to %s", releaseText(e.Wanted))
		}
		var remarks []string
		if e.Draining != "" {
			what := "draining"
			if e.Drained {
				what = "drained"
			}
			remarks = append(remarks, fmt.Sprintf("%s (by %s)", what, e.Draining))
		}
		if e.Refused != 0 {
			remarks = append(remarks, fmt.Sprintf("refused release %d: %s", e.Refused, e.RefusedReason))
		}
		if e.Canary {
			remarks = append(remarks, "canary")
		}
		if e.Tier != "edge" {
			remarks = append(remarks, e.Tier)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%g\t%d conn, %.0f/s, %d plays\t%s\n", e.Name, e.Region, cmp.Or(e.Pool, "-"), e.State, releaseText(e.Release), since, lag, e.Weight,
			e.Connections, e.RequestsPerSec, e.Streams, strings.Join(remarks, "; "))
	}
}

func releaseText(n int64) string {
	if n == 0 {
		return "own"
	}
	return fmt.Sprint(n)
}

func activationText(a api.Activation) string {
	text := fmt.Sprintf("release %d", a.Release)
	if *a.Percent < 100 {
		text += fmt.Sprintf(" for %g %%", *a.Percent)
	}
	if len(a.Regions) > 0 {
		text += " in " + strings.Join(a.Regions, ", ")
	}
	if a.Base != a.Release {
		text += ", the other edges " + map[bool]string{true: "their own routes", false: fmt.Sprintf("release %d", a.Base)}[a.Base == 0]
	}
	return text
}

// short is a time without its small parts.
func short(d time.Duration) string {
	switch {
	case d > 48*time.Hour:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	case d > time.Minute:
		return d.Round(time.Minute).String()[:len(d.Round(time.Minute).String())-2]
	}
	return d.Round(time.Second).String()
}

// FleetPending is `segue admin fleet pending`.
type FleetPending struct{ fleetOperator }

// Run prints the changes.
func (c *FleetPending) Run(ctx context.Context, out *IO) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	p, err := client.PendingChanges(ctx)
	if err != nil {
		return err
	}
	return c.print(out, p, func(w io.Writer) {
		if len(p.Changes) == 0 {
			fmt.Fprintf(w, "nothing: release %d is as the resources are\n", p.Release)
		}
		printChanges(w, p.Changes)
	})
}

func printChanges(w io.Writer, list []api.Change) {
	for _, c := range list {
		fmt.Fprintf(w, "%s\t%s %s\t", c.Action, c.Kind, c.Name)
		for i, name := range slices.Sorted(maps.Keys(c.Patch)) {
			b, err := json.Marshal(c.Patch[name])
			if err != nil {
				b = []byte("?")
			}
			fmt.Fprintf(w, "%s%s=%s", map[bool]string{true: " "}[i > 0], name, b)
		}
		fmt.Fprintln(w)
	}
}

// FleetRelease is `segue admin fleet release`.
type FleetRelease struct {
	fleetOperator
	Note string `help:"What it is for." placeholder:"TEXT"`
}

// Run prints the number of the release.
func (c *FleetRelease) Run(ctx context.Context, out *IO) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	r, err := client.NewRelease(ctx, api.NewRelease{Note: c.Note})
	if err != nil {
		return err
	}
	return c.print(out, r, func(w io.Writer) { fmt.Fprintln(w, r.Number) })
}

// FleetReleases is `segue admin fleet releases`.
type FleetReleases struct{ fleetOperator }

// Run prints the newest of them.
func (c *FleetReleases) Run(ctx context.Context, out *IO) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	page, err := client.ListReleases(ctx, api.ListReleasesOptions{})
	if err != nil {
		return err
	}
	return c.print(out, page, func(w io.Writer) {
		fmt.Fprint(w, "RELEASE\tMADE\tBY\tDIGEST\tNOTE\n")
		for _, r := range page.Items {
			fmt.Fprintf(w, "%d\t%s\t%s\t%.12s\t%s\n", r.Number, r.CreatedAt.Format(time.DateTime), r.Author, r.Digest, r.Note)
		}
	})
}

// FleetRevisions is `segue admin fleet revisions`.
type FleetRevisions struct{ fleetOperator }

// Run prints the newest of them.
func (c *FleetRevisions) Run(ctx context.Context, out *IO) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	page, err := client.ListRevisions(ctx, api.ListRevisionsOptions{})
	if err != nil {
		return err
	}
	return c.print(out, page, func(w io.Writer) { printRevisions(w, page.Items...) })
}

func printRevisions(w io.Writer, list ...api.Revision) {
	for _, r := range list {
		fmt.Fprintf(w, "%d\t%s\t%s", r.Number, r.CreatedAt.Format(time.DateTime), r.Author)
		if r.Undoes != 0 {
			fmt.Fprintf(w, "\tundoes %d", r.Undoes)
		}
		fmt.Fprint(w, "\n")
		for _, ch := range r.Changes {
			fmt.Fprint(w, "\t")
			printChanges(w, []api.Change{ch})
		}
	}
}

// FleetUndo is `segue admin fleet undo`.
type FleetUndo struct {
	fleetOperator
	Revision int64 `arg:"" help:"Number of the change."`
}

// Run undoes it.
func (c *FleetUndo) Run(ctx context.Context, out *IO) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	r, err := client.UndoRevision(ctx, c.Revision)
	if err != nil {
		return err
	}
	return c.print(out, r, func(w io.Writer) { printRevisions(w, r) })
}

// FleetDeactivate is `segue admin fleet deactivate`.
type FleetDeactivate struct{ operator }

// Run takes the activation away.
func (c *FleetDeactivate) Run(ctx context.Context) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	return client.DeleteActivation(ctx, "", api.DeleteActivationOptions{})
}

// FleetActivate is `segue admin fleet activate`.
type FleetActivate struct {
	fleetOperator
	Release int64         `arg:"" help:"Number of the release."`
	Percent float64       `help:"Part of the edges, drawn by their ids: one at least." default:"100"`
	Region  []string      `help:"Edges of this region only. Repeatable."`
	Wait    time.Duration `help:"How long to wait for the edges." default:"1m"`
}

// Run activates it and waits for every edge that lives. One that refuses or does not come in time makes the exit status 1.
func (c *FleetActivate) Run(ctx context.Context, out *IO) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	_, tag, err := client.GetActivation(ctx)
	opts := api.PutActivationOptions{}
	if p, ok := errors.AsType[*api.Problem](err); ok && p.Status == http.StatusNotFound {
		opts.IfNoneMatch = "*"
	} else if err != nil {
		return err
	}
	if _, _, err := client.PutActivation(ctx, api.NewActivation{Release: c.Release, Percent: &c.Percent, Regions: c.Region}, tag, opts); err != nil {
		return err
	}
	progress := watch(out)
	var st api.FleetStatus
	var due, done, refused int
	_, err = until(ctx, c.Wait, func() (bool, error) {
		var err error
		if st, err = client.FleetStatus(ctx); err != nil {
			return false, err
		}
		due, done, refused = 0, 0, 0
		for _, e := range st.Edges {
			switch {
			case e.State == "dead":
			case e.Release == e.Wanted:
				due, done = due+1, done+1
			case e.Refused != 0 && e.Refused == e.Wanted:
				due, refused = due+1, refused+1
			default:
				due++
			}
		}
		progress.say("%d of %d edges run what they should, %d refuse", done, due, refused)
		return done+refused == due, nil
	})
	progress.end()
	if err != nil {
		return err
	}
	if err := c.print(out, st, func(w io.Writer) { printFleet(w, st, time.Now()) }); err != nil {
		return err
	}
	if done < due {
		return fmt.Errorf("%d of %d edges do not run what they should (%d refused it)", due-done, due, refused)
	}
	return nil
}

// drainer is what drain and undrain share.
type drainer struct {
	fleetOperator
	Edge   string        `help:"An edge, by its name." xor:"what" required:"" placeholder:"NAME"`
	Region string        `help:"All edges of a region." xor:"what" required:"" placeholder:"NAME"`
	Wait   time.Duration `help:"How long to wait." default:"5m"`
}

// order tells the control plane, and returns how to find the edges in a status.
func (c *drainer) order(ctx context.Context, client *api.Client, on bool) (mine func(api.FleetEdge) bool, err error) {
	if c.Region != "" {
		call := client.DrainRegion
		if !on {
			call = client.UndrainRegion
		}
		return func(e api.FleetEdge) bool { return e.Region == c.Region }, call(ctx, c.Region)
	}
	st, err := client.FleetStatus(ctx)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(st.Edges, func(e api.FleetEdge) bool { return e.Name == c.Edge })
	if at < 0 {
		return nil, fmt.Errorf("there is no edge %q; segue admin fleet lists them", c.Edge)
	}
	call := client.DrainEdge
	if !on {
		call = client.UndrainEdge
	}
	return func(e api.FleetEdge) bool { return e.ID == st.Edges[at].ID }, call(ctx, st.Edges[at].ID)
}

// follow waits until all of the edges that live are done, and prints them. One that is not makes the exit status 1.
func (c *drainer) follow(ctx context.Context, out *IO, client *api.Client, mine, done func(api.FleetEdge) bool, verb, undone string) error {
	progress := watch(out)
	var st api.FleetStatus
	var ready, total int
	_, err := until(ctx, c.Wait, func() (bool, error) {
		var err error
		if st, err = client.FleetStatus(ctx); err != nil {
			return false, err
		}
		st.Edges = slices.DeleteFunc(st.Edges, func(e api.FleetEdge) bool { return !mine(e) })
		ready, total = 0, len(st.Edges)
		var conns int64
		var rate float64
		for _, e := range st.Edges {
			conns, rate = conns+e.Connections, rate+e.RequestsPerSec
			if e.State == "dead" || done(e) {
				ready++
			}
		}
		progress.say("%d of %d edges %s; %d connections, %.0f requests/s", ready, total, verb, conns, rate)
		return ready == total, nil
	})
	progress.end()
	if err != nil {
		return err
	}
	if err := c.print(out, st, func(w io.Writer) { printFleet(w, st, time.Now()) }); err != nil {
		return err
	}
	if ready < total {
		return fmt.Errorf("%d of %d edges %s", total-ready, total, undone)
	}
	return nil
}

// AdminDrain is `segue admin drain`.
type AdminDrain struct{ drainer }

// Run sends players elsewhere and waits until nobody is served any more.
func (c *AdminDrain) Run(ctx context.Context, out *IO) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	mine, err := c.order(ctx, client, true)
	if err != nil {
		return err
	}
	return c.follow(ctx, out, client, mine, func(e api.FleetEdge) bool { return e.Drained }, "are drained", "serve players still; they drain on")
}

// AdminUndrain is `segue admin undrain`.
type AdminUndrain struct{ drainer }

// Run has players sent again, and waits until the edges say that they are ready.
func (c *AdminUndrain) Run(ctx context.Context, out *IO) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	mine, err := c.order(ctx, client, false)
	if err != nil {
		return err
	}
	return c.follow(ctx, out, client, mine, func(e api.FleetEdge) bool { return e.Draining == "" && e.State == "healthy" }, "are back", "are not back: their region, their pool or they themselves drain")
}

// AdminRotateKeys is `segue admin rotate-keys`.
type AdminRotateKeys struct {
	fleetOperator
	Purpose string        `arg:"" optional:"" help:"tokens of media, or access tokens of the API." enum:"tokens,access" default:"tokens"`
	Signs   bool          `help:"Wait until the new key signs, not only until all edges know it."`
	Wait    time.Duration `help:"How long to wait." default:"5m"`
}

// Rotation is what rotate-keys prints.
type Rotation struct {
	api.SigningKey
	Known   []string `json:"known_by"`     // edges that verify tokens with it
	Unknown []string `json:"not_known_by"` // edges that live and do not yet
}

// Run makes a new key and waits until every edge that lives knows it: before that it signs nothing.
func (c *AdminRotateKeys) Run(ctx context.Context, out *IO) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	key, err := client.RotateKey(ctx, c.Purpose)
	if err != nil {
		return err
	}
	r := Rotation{SigningKey: key}
	progress := watch(out)
	done, err := until(ctx, c.Wait, func() (bool, error) {
		r.Known, r.Unknown = []string{}, []string{}
		if c.Purpose == "tokens" {
			st, err := client.FleetStatus(ctx)
			if err != nil {
				return false, err
			}
			for _, e := range st.Edges {
				if slices.Contains(e.Keys, key.ID) {
					r.Known = append(r.Known, e.Name)
				} else if e.State != "dead" {
					r.Unknown = append(r.Unknown, e.Name)
				}
			}
		}
		if c.Signs {
			list, err := client.ListKeys(ctx, c.Purpose)
			if err != nil {
				return false, err
			}
			for _, k := range list.Items {
				if k.ID == key.ID {
					r.SigningKey = k
				}
			}
		}
		progress.say("key %s: known by %d edges, not yet by %d; it signs %s", key.ID, len(r.Known), len(r.Unknown), map[bool]string{true: "now", false: "from " + key.StartsAt.Local().Format(time.TimeOnly) + " on"}[r.Signs])
		return len(r.Unknown) == 0 && (r.Signs || !c.Signs), nil
	})
	progress.end()
	if err != nil {
		return err
	}
	if err := c.print(out, r, func(w io.Writer) {
		fmt.Fprintf(w, "new key %s, signs from %s on; those before it verify on until what they signed has ended\n", r.ID, r.StartsAt.Local().Format(time.DateTime))
	}); err != nil {
		return err
	}
	if !done {
		return fmt.Errorf("%d edges do not know the new key yet (%s): it signs when they do, ten minutes after its time at the latest", len(r.Unknown), strings.Join(r.Unknown, ", "))
	}
	return nil
}
