package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"segue/controlplane/api"
	"segue/internal/serve"
)

// AdminEdges is `segue admin edges`: who is in the fleet, how it is, and whose opinion that is.
type AdminEdges struct {
	JSON      bool   `help:"Print the answer as it is." name:"json"`
	Server    string `help:"Control plane." default:"http://127.0.0.1:8080"`
	Token     string `help:"Admin token with the scope fleet." env:"SEGUE_ADMIN_TOKEN" placeholder:"TOKEN"`
	TokenFile string `help:"File that holds it." default:"segue-data/admin.token" type:"path"`
}

// Run asks and prints a table.
func (c *AdminEdges) Run(ctx context.Context, out *IO) error {
	token, err := adminToken(c.Token, c.TokenFile)
	if err != nil {
		return err
	}
	client, err := api.NewClient(c.Server, func() (string, error) { return token, nil })
	if err != nil {
		return serve.SetupError{Err: err}
	}
	page, err := client.ListEdges(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		j := json.NewEncoder(out.Stdout)
		j.SetIndent("", "  ")
		return j.Encode(page)
	}
	return printEdges(out.Stdout, page.Items, time.Now())
}

func printEdges(out io.Writer, edges []api.Edge, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "EDGE\tREGION\tSTATE\tHEARD\tBEAT/REGISTRY/PROBE/PLAYERS\tCONNS\tMbit/s\tCPU\tHITS\tCLOCK\tURL\tREMARK")
	for _, e := range edges {
		heard, conns, mbit, cpu, hits, clock := "never", "", "", "", "", ""
		if !e.LastSeen.IsZero() {
			heard = now.Sub(e.LastSeen).Round(100*time.Millisecond).String() + " ago"
		}
		if h := e.Heartbeat; h != nil {
			conns, mbit, cpu, hits = fmt.Sprint(h.Connections), fmt.Sprintf("%.1f", float64(h.EgressBps)/1e6), fmt.Sprintf("%.0f %%", 100*h.CPURatio), fmt.Sprintf("%.0f %%", 100*h.HitRatio)
		}
		if e.ClockSkewMS != nil {
			clock = fmt.Sprintf("%+.1f s", float64(*e.ClockSkewMS)/1000)
		}
		o := e.Opinions
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s/%s/%s/%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", e.Name, e.Region, e.State, heard, o.Heartbeat, o.Registry, o.Probe, o.Players, conns, mbit, cpu, hits, clock, e.URL, remarks(e))
	}
	return w.Flush()
}

// remarks are what an operator should see at once.
func remarks(e api.Edge) string {
	var out []string
	add := func(when bool, text string) {
		if when {
			out = append(out, text)
		}
	}
	add(e.ClockWrong, "CLOCK IS WRONG: no players with tokens")
	add(e.LastKnown, "nothing is heard: last known")
	add(e.Doubted, "too many fell silent at once: probes decide")
	add(e.State != "healthy" && e.Reason != "", e.Reason)
	add(e.Penalty >= 1, fmt.Sprintf("penalty %.0f", e.Penalty))
	add(e.ProbeError != "", "probe: "+e.ProbeError)
	return strings.Join(out, "; ")
}
