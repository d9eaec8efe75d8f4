package loadtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"

	"segue/media"
)

// Result is a run, or several that ran at the same time: what `segue loadtest` writes as JSON. Histograms are whole, so
// that results can be merged and compared without loss.
type Result struct {
	Format      int                  `json:"format"` // 1
	Name        string               `json:"name"`   // of the scenario
	Base        string               `json:"base"`
	Machine     string               `json:"machine"`
	Version     string               `json:"version"`
	Began       time.Time            `json:"began"`    // when the measured part did
	SecondsRun  float64              `json:"seconds"`  // of the measured part
	Planned     float64              `json:"planned"`  // seconds that it was to last
	IntervalS   float64              `json:"interval"` // seconds
	Wanted      int                  `json:"wanted_listeners"`
	Generators  int                  `json:"generators"`
	Seed        uint64               `json:"seed"`
	Connections string               `json:"connections"` // how listeners use them, in words
	Verdict     Verdict              `json:"verdict"`
	Counts      Counts               `json:"counts"`
	Moments     map[string]Latency   `json:"moments"` // startup, seek, stall, gap, lag
	Operations  map[string]Operation `json:"operations"`
	Errors      []ErrorCount         `json:"errors"`
	Tiers       []TierCount          `json:"tiers"`
	Intervals   []Interval           `json:"intervals"`
}

// Verdict says whether the figures are about the platform. Reasons is empty for a valid run.
type Verdict struct {
	Valid   bool     `json:"valid"`
	Reasons []string `json:"reasons,omitempty"`
}

// Latency is a distribution, in microseconds. HDR is the whole histogram in its V2 encoding.
type Latency struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean_us"`
	P50   int64   `json:"p50_us"`
	P95   int64   `json:"p95_us"`
	P99   int64   `json:"p99_us"`
	P999  int64   `json:"p999_us"`
	Max   int64   `json:"max_us"`
	HDR   []byte  `json:"hdr"`
}

// Operation is one kind of request. Response counts from the intended moment, Service from when it was really sent: where they
// differ, requests waited for earlier ones of the same listener or for the generator.
type Operation struct {
	Response Latency `json:"response"`
	Service  Latency `json:"service"`
	Bytes    int64   `json:"bytes"`
}

// ErrorCount counts the failures of one kind; Kind is a status, or one of the kinds of the network.
type ErrorCount struct {
	Operation string `json:"operation"`
	Kind      string `json:"kind"`
	Count     int64  `json:"count"`
}

// TierCount counts requests of media by where the edge had the bytes.
type TierCount struct {
	Tier     string `json:"tier"`
	Requests int64  `json:"requests"`
	Bytes    int64  `json:"bytes"`
}

func latency(h *hdr.Histogram) Latency {
	return Latency{Count: h.TotalCount(), Mean: h.Mean(), P50: h.ValueAtQuantile(50), P95: h.ValueAtQuantile(95), P99: h.ValueAtQuantile(99), P999: h.ValueAtQuantile(99.9), Max: h.Max(), HDR: encode(h)}
}

func encode(h *hdr.Histogram) []byte {
	if h.TotalCount() == 0 {
		return nil
	}
	b, err := h.EncodeV2()
	if err != nil {
		panic("bug: " + err.Error()) // it writes into memory
	}
	return b
}

// histogram is the whole of a Latency.
func histogram(b []byte) (*hdr.Histogram, error) {
	if len(b) == 0 {
		return newHistogram(), nil
	}
	h, err := hdr.Decode(b)
	if err != nil {
		return nil, fmt.Errorf("histogram: %w: %w", media.ErrCorrupt, err)
	}
	out := newHistogram()
	if out.Merge(h) > 0 {
		return nil, fmt.Errorf("histogram with values over %s: %w", Longest, media.ErrCorrupt)
	}
	return out, nil
}

// Write writes JSON.
func (r *Result) Write(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(r)
}

// ReadResult reads what Write wrote.
func ReadResult(rd io.Reader) (*Result, error) {
	b, err := io.ReadAll(io.LimitReader(rd, 256<<20))
	if err != nil {
		return nil, err
	}
	r := &Result{}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(r); err != nil {
		return nil, fmt.Errorf("result: %w: %w", media.ErrInvalid, err)
	}
	if r.Format != 1 || r.IntervalS <= 0 {
		return nil, fmt.Errorf("result of format %d: want 1: %w", r.Format, media.ErrInvalid)
	}
	return r, nil
}

// Seconds is the length of the measured part, or a moment where there is none.
func (r *Result) seconds() float64 { return max(r.SecondsRun, 1e-9) }

// HitRatio is the part of media requests that no other machine was asked for; -1: there were none.
func (r *Result) HitRatio() float64 {
	var all, hits int64
	for _, t := range r.Tiers {
		all += t.Requests
		if t.Tier == "memory" || t.Tier == "disk" {
			hits += t.Requests
		}
	}
	if all == 0 {
		return -1
	}
	return float64(hits) / float64(all)
}

// EgressBps is what the edges sent, of media, on average.
func (r *Result) EgressBps() float64 {
	var n int64
	for _, t := range r.Tiers {
		n += t.Bytes
	}
	return float64(n) * 8 / r.seconds()
}

// Slower is how many of a moment, as startup, took longer than d.
func (r *Result) Slower(moment string, d time.Duration) (n int64, err error) {
	h, err := histogram(r.Moments[moment].HDR)
	if err != nil {
		return 0, err
	}
	for _, b := range h.Distribution() {
		if b.From > d.Microseconds() {
			n += b.Count
		}
	}
	return n, nil
}

// Requests is how many ended well, and how many did not.
func (r *Result) Requests() (good, bad int64) {
	for _, o := range r.Operations {
		good += o.Response.Count
	}
	for _, e := range r.Errors {
		bad += e.Count
	}
	return good, bad
}

// Merge adds up results of generators that ran side by side on the same scenario. Histograms are added bucket by bucket, so
// the percentiles are those of all listeners together; intervals are laid over each other by the clock.
func Merge(all ...*Result) (*Result, error) {
	if len(all) == 0 {
		return nil, fmt.Errorf("nothing to merge: %w", media.ErrInvalid)
	}
	first := all[0]
	for _, r := range all {
		if r.Began.Before(first.Began) {
			first = r
		}
	}
	out := &Result{Format: 1, Name: first.Name, Base: first.Base, Version: first.Version, Began: first.Began, IntervalS: first.IntervalS, Seed: first.Seed, Connections: first.Connections, Verdict: Verdict{Valid: true},
		Moments: map[string]Latency{}, Operations: map[string]Operation{}}
	add := func(a, b Latency) (Latency, error) {
		x, err := histogram(a.HDR)
		if err != nil {
			return a, err
		}
		y, err := histogram(b.HDR)
		if err != nil {
			return a, err
		}
		x.Merge(y)
		return latency(x), nil
	}
	errs, byTier := map[errorKey]int64{}, map[string]TierCount{}
	end := 0.0
	for i, r := range all {
		if r.Name != first.Name || r.Base != first.Base || r.IntervalS != first.IntervalS {
			return nil, fmt.Errorf("%s against %s, in steps of %g s, is another run than %s against %s, in steps of %g s: %w", r.Name, r.Base, r.IntervalS, first.Name, first.Base, first.IntervalS, media.ErrInvalid)
		}
		shift := r.Began.Sub(first.Began).Seconds()
		if shift > first.SecondsRun/4 {
			out.Verdict.Reasons = append(out.Verdict.Reasons, fmt.Sprintf("generator %d began %.0f s after the first: it was not one run", i+1, shift))
		}
		out.Machine = first.Machine
		if r.Machine != first.Machine {
			out.Machine = "several machines"
		}
		end = max(end, shift+r.SecondsRun)
		out.Planned = max(out.Planned, r.Planned)
		out.Wanted += r.Wanted
		out.Generators += max(r.Generators, 1)
		for _, why := range r.Verdict.Reasons {
			out.Verdict.Reasons = append(out.Verdict.Reasons, fmt.Sprintf("generator %d: %s", i+1, why))
		}
		addCounts(&out.Counts, &r.Counts)
		for name, m := range r.Moments {
			sum, err := add(out.Moments[name], m)
			if err != nil {
				return nil, err
			}
			out.Moments[name] = sum
		}
		for name, o := range r.Operations {
			have := out.Operations[name]
			response, err := add(have.Response, o.Response)
			if err != nil {
				return nil, err
			}
			service, err := add(have.Service, o.Service)
			if err != nil {
				return nil, err
			}
			out.Operations[name] = Operation{response, service, have.Bytes + o.Bytes}
		}
		for _, e := range r.Errors {
			errs[errorKey{e.Operation, e.Kind}] += e.Count
		}
		for _, t := range r.Tiers {
			have := byTier[t.Tier]
			byTier[t.Tier] = TierCount{t.Tier, have.Requests + t.Requests, have.Bytes + t.Bytes}
		}
		for k, v := range r.Intervals {
			at := int(shift/r.IntervalS+0.5) + k
			for len(out.Intervals) <= at {
				out.Intervals = append(out.Intervals, Interval{AtS: float64(len(out.Intervals)+1) * r.IntervalS})
			}
			if err := addInterval(&out.Intervals[at], &v); err != nil {
				return nil, err
			}
		}
	}
	for k, n := range errs {
		out.Errors = append(out.Errors, ErrorCount{k.op, k.kind, n})
	}
	slices.SortFunc(out.Errors, func(a, b ErrorCount) int { return int(b.Count - a.Count) })
	for _, t := range tiers {
		if c, ok := byTier[t]; ok {
			out.Tiers = append(out.Tiers, c)
		}
	}
	out.SecondsRun = end
	out.Verdict.Valid = len(out.Verdict.Reasons) == 0
	return out, nil
}

func addCounts(a, b *Counts) {
	for _, p := range [][2]*int64{{&a.Arrivals, &b.Arrivals}, {&a.Dropped, &b.Dropped}, {&a.Plays, &b.Plays}, {&a.Failed, &b.Failed}, {&a.Skips, &b.Skips}, {&a.Seeks, &b.Seeks}, {&a.Pauses, &b.Pauses},
		{&a.Stalls, &b.Stalls}, {&a.Failovers, &b.Failovers}, {&a.Moves, &b.Moves}, {&a.Switches, &b.Switches}, {&a.Events, &b.Events}, {&a.Dials, &b.Dials}, {&a.Sampled, &b.Sampled},
		{&a.Mismatched, &b.Mismatched}, {&a.Unchecked, &b.Unchecked}, {&a.Peak, &b.Peak}, {&a.InFlight, &b.InFlight}, {&a.RSSBytes, &b.RSSBytes}, {&a.BaseRSS, &b.BaseRSS}} {
		*p[0] += *p[1]
	}
	a.StallS += b.StallS
	a.PlayedS += b.PlayedS
	a.CPUSeconds += b.CPUSeconds
}

func addInterval(a, b *Interval) error {
	a.Listeners += b.Listeners
	a.Requests += b.Requests
	a.Bytes += b.Bytes
	a.Plays += b.Plays
	a.Stalls += b.Stalls
	a.Errors += b.Errors
	for i := range a.Tiers {
		a.Tiers[i] += b.Tiers[i]
	}
	a.LagUS = max(a.LagUS, b.LagUS)
	x, err := histogram(a.Startup)
	if err != nil {
		return err
	}
	y, err := histogram(b.Startup)
	if err != nil {
		return err
	}
	x.Merge(y)
	a.Startup = encode(x)
	if b.Mark != "" && a.Mark != b.Mark {
		if a.Mark != "" {
			a.Mark += ", "
		}
		a.Mark += b.Mark
	}
	return nil
}
