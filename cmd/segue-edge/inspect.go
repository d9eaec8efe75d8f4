package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"segue/edge"
	"segue/internal/serve"
)

// inspect is `segue-edge inspect`: what a running edge holds, and why it holds something or does not.
type inspect struct {
	Target string `arg:"" optional:"" name:"url-or-key" help:"What to look at: a URL of the edge, or a key."`
	Top    bool   `help:"How the edge does as a whole."`
	Debug  string `help:"The edge's private listener; default: --debug-listen, else ${debug}." placeholder:"HOST:PORT"`
	JSON   bool   `help:"Print JSON."`
}

// defaultDebug is where `segue up` has its private listener.
const defaultDebug = "127.0.0.1:8070"

func (c *inspect) run(ctx context.Context, debugListen string, stdout io.Writer) error {
	base := "http://" + cmp.Or(c.Debug, debugListen, defaultDebug)
	if !c.Top && c.Target == "" {
		return serve.Setupf("name a URL or a key, or ask for --top; see segue-edge inspect --help")
	}
	path := "/top"
	if !c.Top {
		path = "/inspect?" + url.Values{"url": {c.Target}}.Encode()
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, nil)
	if err != nil {
		return serve.SetupError{Err: err}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return serve.Setupf("no edge answers at %s: %w; give --debug", base, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return fmt.Errorf("%s: %w", base, err)
	}
	if resp.StatusCode != http.StatusOK {
		var p struct{ Detail string }
		_ = json.Unmarshal(body, &p) // what is no problem document stays a bare status
		return fmt.Errorf("%s%s: %s %s", base, path, resp.Status, p.Detail)
	}
	if c.JSON {
		_, err := stdout.Write(body)
		return err
	}
	if c.Top {
		var t edge.Top
		if err := json.Unmarshal(body, &t); err != nil {
			return fmt.Errorf("%s is not an edge of this version: %w", base, err)
		}
		return printTop(stdout, t)
	}
	var i edge.Inspection
	if err := json.Unmarshal(body, &i); err != nil {
		return fmt.Errorf("%s is not an edge of this version: %w", base, err)
	}
	return printInspection(stdout, i)
}

func printInspection(out io.Writer, i edge.Inspection) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s%s\t%s\n", i.Route, i.Key, i.State)
	if len(i.VariesBy) > 0 {
		fmt.Fprintf(w, "varies by\t%s\n", strings.Join(i.VariesBy, ", "))
	}
	if i.Last != nil {
		fmt.Fprintf(w, "last answer\t%d, %s, %s ago\n", i.Last.Status, i.Last.Reason, time.Since(i.Last.At).Round(time.Second))
	}
	for _, s := range i.Stored {
		if s.Variant != "" {
			fmt.Fprintf(w, "\nvariant\t%s\n", s.Variant)
		}
		fmt.Fprintf(w, "status\t%d %s\n", s.Status, s.State)
		if s.SizeBytes != s.WholeBytes {
			fmt.Fprintf(w, "size\t%s, part of %s\n", size(s.SizeBytes), size(s.WholeBytes))
		} else {
			fmt.Fprintf(w, "size\t%s\n", size(s.SizeBytes))
		}
		strength := map[bool]string{true: "strong", false: "weak or none: its blocks cannot be fetched again"}[s.Strong]
		fmt.Fprintf(w, "validator\t%s %s\n", s.ETag, strength)
		if !s.LastModified.IsZero() {
			fmt.Fprintf(w, "last modified\t%s\n", s.LastModified.Format(time.RFC3339))
		}
		fmt.Fprintf(w, "answered\t%s\n", s.Answered.Format(time.RFC3339))
		fmt.Fprintf(w, "fresh for\t%s\n", seconds(s.FreshSeconds))
		fmt.Fprintf(w, "stale while revalidated for\t%s\n", seconds(s.StaleSeconds))
		fmt.Fprintf(w, "stale if error for\t%s\n", seconds(s.ErrorSeconds))
		fmt.Fprintf(w, "tags\t%s\n", strings.Join(s.Tags, " "))
		fmt.Fprintf(w, "blocks\t%d in memory, %d on disk only, %d missing\n", s.MemoryBlocks, s.DiskBlocks, s.MissingBlocks)
		for line := range slices.Chunk([]byte(s.Blocks), 64) {
			fmt.Fprintf(w, "\t%s\n", strings.NewReplacer("m", "█", "d", "▒", ".", "·").Replace(string(line)))
		}
		for _, h := range s.Header {
			fmt.Fprintf(w, "%s:\t%s\n", h.Name, h.Value)
		}
	}
	return w.Flush()
}

func printTop(out io.Writer, t edge.Top) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	ready := map[bool]string{true: "ready", false: "draining"}[t.Ready]
	fmt.Fprintf(w, "%s\t%s, up %s\n", t.Name, ready, seconds(t.UpSeconds))
	fmt.Fprintf(w, "memory\t%s\n", bar(t.Memory))
	if t.Disk != nil {
		fmt.Fprintf(w, "disk\t%s\n", bar(*t.Disk))
	}
	fmt.Fprintf(w, "requests\t%d, %.1f %% hits, %s served, %d connections\n", t.Requests, 100*t.HitRatio, size(t.ServedBytes), t.Connections)
	total := 0.0
	for _, n := range t.Tiers {
		total += n
	}
	for _, tier := range slices.Sorted(maps.Keys(t.Tiers)) {
		fmt.Fprintf(w, "  from %s\t%.0f, %.1f %%\n", tier, t.Tiers[tier], 100*t.Tiers[tier]/max(total, 1))
	}
	fmt.Fprintf(w, "blocks being filled\t%d\n", t.OpenFills)
	fmt.Fprintf(w, "metas\t%d\n", t.Metas)
	fmt.Fprintf(w, "purges remembered\t%d, of the fleet up to %d\n", t.PurgeMarks, t.PurgedTo)
	for _, what := range slices.Sorted(maps.Keys(t.Prefetch)) {
		fmt.Fprintf(w, "prefetch %s\t%.0f\n", what, t.Prefetch[what])
	}
	for _, name := range slices.Sorted(maps.Keys(t.Breakers)) {
		fmt.Fprintf(w, "%s\t%g\n", name, t.Breakers[name])
	}
	fmt.Fprintf(w, "process\t%s heap, %d goroutines\n", size(int64(t.HeapBytes)), t.Goroutines)
	for _, n := range t.RecentlyNot {
		fmt.Fprintf(w, "%s\t%d, %s, %s ago\n", n.Key, n.Status, n.Reason, time.Since(n.At).Round(time.Second))
	}
	return w.Flush()
}

// bar draws how full a tier is.
func bar(u edge.Use) string {
	const width = 32
	full := int(min(width, width*float64(u.Used)/max(float64(u.Limit), 1)))
	return strings.Repeat("█", full) + strings.Repeat("·", width-full) + " " + size(u.Used) + " of " + size(u.Limit)
}

func size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for ; f >= 1024 && i < len(units)-1; i++ {
		f /= 1024
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}

func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(time.Second).String()
}
