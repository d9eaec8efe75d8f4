package loadtest

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// Live shows a run while it goes on: a few lines that are written over on a terminal, a line every ten seconds elsewhere.
type Live struct {
	W        io.Writer
	Terminal bool

	lines int // to go up
	last  time.Time
	phase string
	seen  *Result // a second ago
}

// Show is for Config.Progress.
func (v *Live) Show(p Progress) {
	now := time.Now()
	step := 10 * time.Second
	if v.Terminal {
		step = time.Second / 2
	}
	if now.Sub(v.last) < step && p.Phase == v.phase && p.Done != p.Of {
		return
	}
	if p.Phase != v.phase {
		v.seen = nil
	}
	v.last, v.phase = now, p.Phase
	lines := []string{fmt.Sprintf("%-9s %d / %d", p.Phase, p.Done, p.Of)}
	if p.Now != nil {
		lines = append(lines, v.figures(p.Now)...)
		v.seen = p.Now
	}
	if !v.Terminal {
		fmt.Fprintln(v.W, strings.Join(lines, " | "))
		return
	}
	v.clear()
	fmt.Fprint(v.W, strings.Join(lines, "\n")+"\n")
	v.lines = len(lines)
}

func (v *Live) clear() {
	if v.lines > 0 {
		fmt.Fprintf(v.W, "\x1b[%dA\x1b[J", v.lines) // ECMA-48: cursor up, erase to the end
	}
	v.lines = 0
}

// End leaves the terminal clean.
func (v *Live) End() {
	if v.Terminal {
		v.clear()
	}
}

// figures are those of a moment: rates are those since the last one.
func (v *Live) figures(r *Result) []string {
	good, bad := r.Requests()
	var bytes, lastGood, lastBytes int64
	for _, t := range r.Tiers {
		bytes += t.Bytes
	}
	span := r.SecondsRun
	if v.seen != nil && r.SecondsRun > v.seen.SecondsRun {
		span = r.SecondsRun - v.seen.SecondsRun
		lastGood, _ = v.seen.Requests()
		for _, t := range v.seen.Tiers {
			lastBytes += t.Bytes
		}
	}
	span = max(span, 1e-9)
	listeners := int64(0)
	if n := len(r.Intervals); n > 0 {
		listeners = r.Intervals[n-1].Listeners
	}
	s, lag := r.Moments[momentStartup], r.Moments[momentLag]
	return []string{
		fmt.Sprintf("listeners %d  plays %d  %.0f requests/s  %s", listeners, r.Counts.Plays, float64(good-lastGood)/span, bits(float64(bytes-lastBytes)*8/span)),
		fmt.Sprintf("startup   p50 %s  p95 %s  p99 %s  stalls %d", micros(s.P50), micros(s.P95), micros(s.P99), r.Counts.Stalls),
		"cache     " + tierText(r),
		fmt.Sprintf("errors    %d %s  generator lag p99 %s", bad, errorText(r, 3), micros(lag.P99)),
	}
}

func tierText(r *Result) string {
	var all int64
	for _, t := range r.Tiers {
		all += t.Requests
	}
	var parts []string
	for _, t := range r.Tiers {
		parts = append(parts, fmt.Sprintf("%s %.1f %%", t.Tier, 100*float64(t.Requests)/float64(all)))
	}
	return strings.Join(parts, "  ")
}

func errorText(r *Result, most int) string {
	var parts []string
	for _, e := range r.Errors[:min(len(r.Errors), most)] {
		parts = append(parts, fmt.Sprintf("%s %s %d", e.Operation, e.Kind, e.Count))
	}
	if len(parts) == 0 {
		return ""
	}
	return "(" + strings.Join(parts, ", ") + ")"
}

// Summary prints a result.
func Summary(w io.Writer, r *Result) {
	fmt.Fprintf(w, "%s: %d listeners for %.0f s against %s\n", r.Name, r.Wanted, r.SecondsRun, r.Base)
	fmt.Fprintf(w, "%-10s %9s %10s %10s %10s %10s %10s\n", "", "count", "p50", "p95", "p99", "p99.9", "max")
	row := func(name string, l Latency) {
		if l.Count > 0 {
			fmt.Fprintf(w, "%-10s %9d %10s %10s %10s %10s %10s\n", name, l.Count, micros(l.P50), micros(l.P95), micros(l.P99), micros(l.P999), micros(l.Max))
		}
	}
	for _, name := range []string{momentStartup, momentSeek, momentGap, momentStall} {
		row(name, r.Moments[name])
	}
	for _, name := range slices.Sorted(maps.Keys(r.Operations)) {
		row(name, r.Operations[name].Response)
	}
	row("own lag", r.Moments[momentLag])
	good, bad := r.Requests()
	c := &r.Counts
	fmt.Fprintf(w, "plays %d, failed %d, stalls %d (%.1f s of %.0f s), skips %d, seeks %d, failovers %d, moves %d\n", c.Plays, c.Failed, c.Stalls, c.StallS, c.PlayedS, c.Skips, c.Seeks, c.Failovers, c.Moves)
	fmt.Fprintf(w, "requests %d, %.0f/s; errors %d %s; %s from edges; cache: %s\n", good, float64(good)/r.seconds(), bad, errorText(r, 5), bits(r.EgressBps()), tierText(r))
	fmt.Fprintf(w, "sha256: %d samples, %d wrong, %d not compared; %d connections; generator: %.1f s CPU, %d MiB, %.1f KiB per listener at the peak of %d\n",
		c.Sampled, c.Mismatched, c.Unchecked, c.Dials, c.CPUSeconds, c.RSSBytes>>20, float64(c.RSSBytes-c.BaseRSS)/1024/max(float64(c.Peak), 1), c.Peak)
	if r.Verdict.Valid {
		fmt.Fprintln(w, "verdict: valid")
	}
	for _, why := range r.Verdict.Reasons {
		fmt.Fprintln(w, "verdict: INVALID:", why)
	}
}
