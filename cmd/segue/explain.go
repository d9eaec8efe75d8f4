package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"text/tabwriter"

	"segue/controlplane/api"
)

// AdminExplain is `segue admin explain`: the decision for one client, with every reason.
type AdminExplain struct {
	operator
	IP    string `help:"Address of a client." required:"" name:"ip" placeholder:"ADDRESS"`
	Track string `help:"What it plays; without: what has no place of its own, as the least loaded edge." placeholder:"ID"`
	Who   string `help:"Play id, which decides on canaries and on who is passed on by a full edge." placeholder:"ID"`
	JSON  bool   `help:"Print the answer as it is." name:"json"`
}

// Run asks and prints a table.
func (c *AdminExplain) Run(ctx context.Context, out *IO) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	var e api.Explanation
	q := url.Values{"ip": {c.IP}, "track": {c.Track}, "who": {c.Who}}
	if err := client.Call(ctx, http.MethodGet, "/v1/admin/explain?"+q.Encode(), nil, &e); err != nil {
		return err
	}
	if c.JSON {
		j := json.NewEncoder(out.Stdout)
		j.SetIndent("", "  ")
		return j.Encode(e)
	}
	return printExplanation(out.Stdout, e)
}

func printExplanation(out io.Writer, e api.Explanation) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	where := "place not known"
	if p := e.Place; p.Latitude != nil {
		where = fmt.Sprintf("at %.1f,%.1f (from %s)", *p.Latitude, *p.Longitude, p.Source)
	}
	if e.Place.Country != "" {
		where += ", country " + e.Place.Country
	}
	if e.Place.ASN != 0 {
		where += fmt.Sprintf(", AS%d", e.Place.ASN)
	}
	if e.Place.Region != "" {
		where += ", tied to region " + e.Place.Region
	}
	fmt.Fprintf(w, "client %s: %s\n", e.IP, where)
	if e.Object != "" {
		fmt.Fprintf(w, "object %s\n", e.Object)
	}
	if e.Policy != "" {
		fmt.Fprintf(w, "steering policy %s\n", e.Policy)
	}
	if e.Home != "" {
		spill := ""
		if e.Spill {
			spill = ", which has no room for it"
		}
		fmt.Fprintf(w, "nearest region %s%s\n", e.Home, spill)
	}
	if e.Canary {
		fmt.Fprintln(w, "among the canaries")
	}
	fmt.Fprint(w, "\n\tEDGE\tREGION\tKM\tLOAD\tREASON\n")
	for i, k := range e.Picks {
		km, load := "-", "-"
		if k.DistanceKm != nil {
			km = fmt.Sprintf("%.0f", *k.DistanceKm)
		}
		if k.LoadRatio != nil {
			load = fmt.Sprintf("%.0f %%", *k.LoadRatio*100)
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", i+1, k.Name, k.Region, km, load, k.Reason)
	}
	for _, k := range e.Rejected {
		fmt.Fprintf(w, "not\t%s\t%s\t\t\t%s\n", k.Name, k.Region, k.Reason)
	}
	for _, f := range e.Files {
		fmt.Fprintf(w, "\n%s: %s, built %s", f.Name, f.Path, f.BuiltAt.Format("2006-01-02"))
		if f.Error != "" {
			fmt.Fprintf(w, "; a newer one is not in use: %s", f.Error)
		}
	}
	if len(e.Files) > 0 {
		fmt.Fprintln(w)
	}
	return w.Flush()
}
