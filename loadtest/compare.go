package loadtest

import (
	"fmt"
	"io"
	"math"
	"slices"
	"sort"

	"segue/media"
)

// Comparison is what differs between two runs.
type Comparison struct {
	Before, After *Result
	Rows          []Difference
}

// Difference is one figure in both runs. Requests of one second are not independent of each other, so that a test over all
// of them would call everything significant: each run is cut into batches, one figure is taken of each, and these are
// compared by the Mann-Whitney U test, which asks for no distribution. P is Holm's correction over all rows.
type Difference struct {
	What          string
	Before, After float64 // over the whole run
	Change        float64 // relative; NaN where Before is 0
	P             float64 // probability of such a difference by chance; 1: cannot be told
	Better        int     // 1: After is better, -1: worse, 0: neither, or not significant
	print         func(float64) string
}

const (
	batches     = 20
	minBatches  = 8
	significant = 0.05
)

// Compare compares two runs of the same scenario with the same number of listeners.
func Compare(before, after *Result) (*Comparison, error) {
	if before.Name != after.Name || before.Wanted != after.Wanted {
		return nil, fmt.Errorf("%d listeners of %s cannot be compared with %d of %s: %w", before.Wanted, before.Name, after.Wanted, after.Name, media.ErrInvalid)
	}
	a, err := batch(before)
	if err != nil {
		return nil, err
	}
	b, err := batch(after)
	if err != nil {
		return nil, err
	}
	c := &Comparison{Before: before, After: after}
	for _, f := range figures {
		x, y := f.each(a), f.each(b)
		d := Difference{What: f.name, Before: f.all(before), After: f.all(after), P: mannWhitney(x, y), print: f.print}
		d.Change = (d.After - d.Before) / d.Before
		c.Rows = append(c.Rows, d)
	}
	// Holm: the smallest p by the number of rows, the next by one less, never falling.
	order := make([]int, len(c.Rows))
	for i := range order {
		order[i] = i
	}
	sort.Slice(order, func(i, j int) bool { return c.Rows[order[i]].P < c.Rows[order[j]].P })
	last := 0.0
	for k, i := range order {
		d := &c.Rows[i]
		last = max(last, min(1, d.P*float64(len(order)-k)))
		d.P = last
		if d.P < significant && d.After != d.Before {
			d.Better = -1
			if d.After < d.Before == figures[i].less {
				d.Better = 1
			}
		}
	}
	return c, nil
}

type figure struct {
	name  string
	less  bool // is better
	all   func(*Result) float64
	one   func(*Interval) float64 // of a batch; NaN: it has none
	print func(float64) string
}

func (f *figure) each(in []Interval) (out []float64) {
	for i := range in {
		if v := f.one(&in[i]); !math.IsNaN(v) {
			out = append(out, v)
		}
	}
	return out
}

func startupAt(q float64) func(*Interval) float64 {
	return func(i *Interval) float64 {
		h, err := histogram(i.Startup)
		if err != nil || h.TotalCount() == 0 {
			return math.NaN()
		}
		return float64(h.ValueAtQuantile(q)) / 1e6
	}
}

var figures = []figure{
	{"startup p50", true, func(r *Result) float64 { return float64(r.Moments[momentStartup].P50) / 1e6 }, startupAt(50), seconds},
	{"startup p99", true, func(r *Result) float64 { return float64(r.Moments[momentStartup].P99) / 1e6 }, startupAt(99), seconds},
	{"stalls per play", true, func(r *Result) float64 { return float64(r.Counts.Stalls) / max(float64(r.Counts.Plays), 1) },
		func(i *Interval) float64 { return float64(i.Stalls) / max(float64(i.Plays), 1) }, percent},
	{"errors", true, simple["errors"], func(i *Interval) float64 { return float64(i.Errors) / max(float64(i.Requests), 1) }, percent},
	{"hit ratio", false, (*Result).HitRatio, func(i *Interval) float64 {
		var all int64
		for _, n := range i.Tiers {
			all += n
		}
		if all == 0 {
			return math.NaN()
		}
		return float64(i.Tiers[0]+i.Tiers[1]) / float64(all)
	}, percent},
	{"egress", false, (*Result).EgressBps, func(i *Interval) float64 { return float64(i.Bytes) * 8 }, bits},
}

func percent(v float64) string { return fmt.Sprintf("%.2f %%", 100*v) }

// batch cuts a run's intervals into batches of equal length. A last one that is not whole is left out.
func batch(r *Result) ([]Interval, error) {
	size := max(1, len(r.Intervals)/batches)
	var out []Interval
	for i := 0; i+size <= len(r.Intervals); i += size {
		var sum Interval
		for _, one := range r.Intervals[i : i+size] {
			if err := addInterval(&sum, &one); err != nil {
				return nil, err
			}
		}
		out = append(out, sum)
	}
	return out, nil
}

// mannWhitney is the two-sided p of the U test, by its normal approximation with ties; 1 where there are too few.
func mannWhitney(x, y []float64) float64 {
	n, m := float64(len(x)), float64(len(y))
	if len(x) < minBatches || len(y) < minBatches {
		return 1
	}
	all := slices.Concat(x, y)
	slices.Sort(all)
	rank, ties := map[float64]float64{}, 0.0
	for i := 0; i < len(all); {
		j := i
		for j < len(all) && all[j] == all[i] {
			j++
		}
		t := float64(j - i)
		rank[all[i]] = float64(i+j+1) / 2
		ties += t*t*t - t
		i = j
	}
	sum := 0.0
	for _, v := range x {
		sum += rank[v]
	}
	u := sum - n*(n+1)/2
	total := n + m
	variance := n * m / 12 * (total + 1 - ties/(total*(total-1)))
	if variance <= 0 {
		return 1
	}
	z := max(0, math.Abs(u-n*m/2)-.5) / math.Sqrt(variance)
	return math.Erfc(z / math.Sqrt2)
}

// Print writes the table.
func (c *Comparison) Print(w io.Writer) {
	fmt.Fprintf(w, "%-16s %14s %14s %9s %8s\n", "", "before", "after", "change", "p")
	for _, d := range c.Rows {
		word := map[int]string{1: "better", -1: "worse", 0: "~"}[d.Better]
		change := "-"
		if !math.IsNaN(d.Change) && !math.IsInf(d.Change, 0) {
			change = fmt.Sprintf("%+.1f %%", 100*d.Change)
		}
		fmt.Fprintf(w, "%-16s %14s %14s %9s %8.3f  %s\n", d.What, d.print(d.Before), d.print(d.After), change, d.P, word)
	}
	for _, r := range []*Result{c.Before, c.After} {
		for _, why := range r.Verdict.Reasons {
			fmt.Fprintf(w, "the run of %s is invalid: %s\n", r.Began.Format("2006-01-02 15:04:05"), why)
		}
	}
}

// Worse names what became worse and means something.
func (c *Comparison) Worse() (out []string) {
	for _, d := range c.Rows {
		if d.Better < 0 {
			out = append(out, d.What)
		}
	}
	return out
}
