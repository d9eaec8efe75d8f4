package sim

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"time"

	"segue/geo"
)

// Estimate is a figure of several replicas: their mean, and half of its 95 % confidence interval, or -1 for one replica. It is about sampling alone: what the
// inputs are wrong by is not in it.
type Estimate struct {
	Value float64 `json:"value"`
	Error float64 `json:"error"`
}

func (e Estimate) String() string {
	if e.Error < 0 {
		return fmt.Sprintf("%.2f %%", 100*e.Value)
	}
	return fmt.Sprintf("%.2f ± %.2f %%", 100*e.Value, 100*e.Error)
}

// student is the t for 95 % by degrees of freedom.
var student = []float64{math.NaN(), 12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26}

func estimate(x []float64) Estimate {
	sum, n := 0.0, float64(len(x))
	for _, v := range x {
		sum += v
	}
	e := Estimate{Value: sum / n, Error: -1}
	if len(x) > 1 {
		sq := 0.0
		for _, v := range x {
			sq += (v - e.Value) * (v - e.Value)
		}
		t := 2.1
		if len(x)-1 < len(student) {
			t = student[len(x)-1]
		}
		e.Error = t * math.Sqrt(sq/(n-1)/n)
	}
	return e
}

// RegionPlan is one region.
type RegionPlan struct {
	Name       string   `json:"name"`
	Edges      int      `json:"edges"`
	PeakBps    float64  `json:"peak_bps"`
	PeakHour   float64  `json:"peak_hour_utc"`
	PeakReq    float64  `json:"peak_requests_per_s"`
	Listeners  float64  `json:"peak_listeners"`
	HitRatio   Estimate `json:"hit_ratio"`    // of bytes: not from another edge, not from the origin
	Offload    Estimate `json:"offload"`      // of bytes: not from the origin
	OriginBps  float64  `json:"origin_bps"`   // at its own peak
	DiskBps    float64  `json:"disk_bps"`     // read, at its peak
	ShieldBps  float64  `json:"shield_bps"`   // between edges, on average
	DistanceKm float64  `json:"distance_km"`  // mean
	Away       float64  `json:"away"`         // part of plays that belong to another region
	CostMonth  float64  `json:"cost_month"`   // machines and traffic
	FailLoad   float64  `json:"failure_load"` // of capacity at the most, while the failing region is away
}

// Plan is the outcome.
type Plan struct {
	People      float64      `json:"people"`
	PlaysDay    float64      `json:"plays_per_day"`
	PeakPlays   float64      `json:"peak_plays_per_s"`
	Concurrent  float64      `json:"peak_listeners"`
	EgressPeak  float64      `json:"peak_egress_bps"`
	EgressMonth float64      `json:"egress_bytes_month"`
	Memory      Estimate     `json:"memory"` // of bytes
	Disk        Estimate     `json:"disk"`
	Shield      Estimate     `json:"shield"`
	OriginShare Estimate     `json:"origin"`
	RequestHits Estimate     `json:"request_hits"` // of requests: memory or disk of the edge asked, as Cache-Status says
	OriginPeak  float64      `json:"peak_origin_bps"`
	OriginGets  float64      `json:"peak_origin_blocks_per_s"`
	Edges       int          `json:"edges"`
	Regions     []RegionPlan `json:"regions"`
	Failed      string       `json:"failed_region"`
	FailOrigin  float64      `json:"failure_origin_bps"` // at the most
	Breaks      []Limit      `json:"limits"`             // the tightest first
	FailBreaks  []Limit      `json:"failure_limits"`
	Control     Control      `json:"control_plane"`
	CostMonth   float64      `json:"cost_month"`
	Drift       float64      `json:"drift"` // of the origin's part, second half of the day against the first: far from 0, caches are not warm yet
	Sample      float64      `json:"sample"`
	Simulated   float64      `json:"simulated_plays"`
	Replicas    int          `json:"replicas"`
	Took        float64      `json:"took_s"`
	MemoryInUse uint64       `json:"memory_bytes"`
}

// Limit is how much of something is used at the peak.
type Limit struct {
	What string  `json:"what"`
	Used float64 `json:"used"` // of what there is
}

// Control is what the control plane hears at the peak.
type Control struct {
	PlaybacksS float64 `json:"playbacks_per_s"`
	BatchesS   float64 `json:"event_batches_per_s"`
	EventsS    float64 `json:"events_per_s"`
	SteeringS  float64 `json:"steering_per_s"`
	EventsDay  float64 `json:"events_per_day"`
}

// Run plans. Progress hears of each simulated hour of each replica; nil: nobody does.
func Run(c Config, progress func(done, of int)) (*Plan, error) {
	c.defaults()
	if err := c.validate(); err != nil {
		return nil, err
	}
	begun := time.Now()
	edges, peakAt := c.build()
	plan := &Plan{People: c.People, PlaysDay: c.perDay(), Replicas: c.Replicas}
	largest := 0
	for i := range c.Regions {
		plan.Regions = append(plan.Regions, RegionPlan{Name: c.Regions[i].Name, Edges: edges[i], PeakHour: peakAt[i].Hours()})
		plan.Edges += edges[i]
		if edges[i] > edges[largest] {
			largest = i
		}
	}
	fails := largest
	for i := range c.Regions {
		if c.Regions[i].Name == c.Fail {
			fails = i
		}
	}
	day := 24 * time.Hour
	warm := time.Duration(c.WarmDays * float64(day)).Truncate(step)
	outs := make([]outcome, c.Replicas)
	hours, done := c.Replicas*int((warm+day)/time.Hour), make(chan struct{}, 1024)
	told := make(chan struct{})
	go func() {
		defer close(told)
		n := 0
		for range done {
			if n++; progress != nil {
				progress(n, hours)
			}
		}
	}()
	parallel(c.Replicas, min(c.Replicas, runtime.GOMAXPROCS(0)), func(i int) {
		r := c.newRun(uint64(i), edges)
		o := &outs[i]
		o.day, o.most, o.failMost = make([]counts, len(c.Regions)), make([]counts, len(c.Regions)), make([]counts, len(c.Regions))
		tick := func(at time.Duration) {
			if at%time.Hour == 0 {
				done <- struct{}{}
			}
		}
		r.simulate(0, warm, func(at time.Duration, _ []counts) { tick(at) })
		r.simulate(warm, warm+day, func(at time.Duration, by []counts) {
			tick(at)
			o.minute(by, (at-warm)/(day/2) == 1)
		})
		if c.Fail != "none" && len(c.Regions) > 1 {
			// The same hour of the next day, with half an hour before it to be as loaded as then.
			peak := warm + day + peakAt[fails]
			r.simulate(peak-30*time.Minute, peak, func(time.Duration, []counts) {})
			for k := range r.nodes {
				if r.nodes[k].Region == c.Regions[fails].Name {
					r.nodes[k].Healthy = false
				}
			}
			r.simulate(peak, peak+30*time.Minute, func(_ time.Duration, by []counts) { o.failing(by) })
		}
		o.sample, o.plays = r.s.factor, r.s.scale*c.perDay()
		if i == 0 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			plan.MemoryInUse = m.Sys
		}
	})
	close(done)
	<-told
	plan.fill(&c, outs, fails)
	plan.Took = time.Since(begun).Seconds()
	return plan, nil
}

// outcome is one replica's.
type outcome struct {
	day, most, failMost []counts // by region
	halves              [2]counts
	peak, failPeak      counts // of all regions at one time
	peakPlays           float64
	sample, plays       float64
}

func (o *outcome) minute(by []counts, second bool) {
	var all counts
	half := &o.halves[0]
	if second {
		half = &o.halves[1]
	}
	for i := range by {
		o.day[i].add(&by[i])
		o.most[i].peak(&by[i])
		half.add(&by[i])
		all.add(&by[i])
	}
	o.peak.peak(&all)
	o.peakPlays = max(o.peakPlays, all.plays/step.Seconds())
}

func (o *outcome) failing(by []counts) {
	var all counts
	for i := range by {
		o.failMost[i].peak(&by[i])
		all.add(&by[i])
	}
	o.failPeak.peak(&all)
}

// add sums; the peaks of what happens at one time are sums too.
func (c *counts) add(b *counts) {
	c.plays += b.plays
	c.requests += b.requests
	c.bytes += b.bytes
	for i := range c.hits {
		c.hits[i] += b.hits[i]
	}
	c.shieldBytes += b.shieldBytes
	c.origin += b.origin
	c.disk += b.disk
	c.distance += b.distance
	c.away += b.away
	c.peakBps += b.peakBps
	c.peakReq += b.peakReq
	c.peakDisk += b.peakDisk
	c.peakOrigin += b.peakOrigin
	c.peakConcurrency += b.peakConcurrency
}

func (c *counts) peak(b *counts) {
	c.peakBps, c.peakReq, c.peakDisk = max(c.peakBps, b.peakBps), max(c.peakReq, b.peakReq), max(c.peakDisk, b.peakDisk)
	c.peakOrigin, c.peakConcurrency = max(c.peakOrigin, b.peakOrigin), max(c.peakConcurrency, b.peakConcurrency)
}

// build finds the edges of each region from its own people, and when its peak is.
func (c *Config) build() (edges []int, at []time.Duration) {
	nodes := make([]geo.Node, len(c.Regions))
	for i, r := range c.Regions {
		nodes[i] = geo.Node{Name: r.Name, Region: r.Name, At: r.At, Healthy: true}
	}
	home := make([]int, len(c.Countries))
	for i, k := range c.Countries {
		point, _ := geo.Centroid(k.Code)
		home[i] = -1
		if d := geo.Decide(geo.Client{Place: geo.Place{Point: point, Country: k.Code, OK: true}}, nodes, c.Policy); len(d.Picks) > 0 {
			home[i] = slices.IndexFunc(c.Regions, func(r Region) bool { return r.Name == d.Picks[0].Name })
		}
	}
	peak := make([]float64, len(c.Regions))
	at = make([]time.Duration, len(c.Regions))
	for t := time.Duration(0); t < 24*time.Hour; t += 10 * time.Minute {
		now := make([]float64, len(c.Regions))
		for i := range c.Countries {
			if home[i] >= 0 {
				now[home[i]] += c.rate(&c.Countries[i], t)
			}
		}
		for i, v := range now {
			if v > peak[i] {
				peak[i], at[i] = v, t
			}
		}
	}
	edges = make([]int, len(c.Regions))
	for i, r := range c.Regions {
		plays := peak[i] * c.perDay() / 86400
		bps, requests := plays*c.fetched()*8, plays*(c.fetched()/(segmentS*c.Bps/8)+1)
		edges[i] = r.Edges
		if edges[i] == 0 {
			// Two at least: one alone cannot fail.
			edges[i] = max(2, int(math.Ceil(max(bps/c.Edge.Bps, requests/c.Edge.PerSecond)/(1-c.Reserve))))
		}
	}
	return edges, at
}

// fetched is the mean of a play's bytes: what is heard, and what is fetched ahead and thrown away at a skip.
func (c *Config) fetched() float64 {
	d := *c
	d.Skip = slices.Clone(c.Skip)
	for i := range d.Skip {
		d.Skip[i].By = math.Min(d.Skip[i].By+c.BufferS, c.TrackS)
	}
	sum, part := 0.0, 0.0
	lastBy := c.BufferS
	for _, l := range d.Skip {
		sum += (l.Part - part) * (l.By + lastBy) / 2
		part, lastBy = l.Part, l.By
	}
	return (sum + (1-part)*c.TrackS) * c.Bps / 8
}

func (p *Plan) fill(c *Config, outs []outcome, fails int) {
	n := float64(len(outs))
	collect := func(f func(o *outcome) float64) (x []float64) {
		for i := range outs {
			x = append(x, f(&outs[i]))
		}
		return x
	}
	mean := func(f func(o *outcome) float64) float64 { return estimate(collect(f)).Value }
	total := func(o *outcome) (all counts) {
		for i := range o.day {
			all.add(&o.day[i])
		}
		return all
	}
	part := func(f func(c counts) float64) Estimate {
		return estimate(collect(func(o *outcome) float64 { t := total(o); return f(t) / t.bytes }))
	}
	// Blocks that came from below are larger than what was asked of them: parts are of the bytes that came in, as far as they served.
	p.OriginShare = part(func(c counts) float64 { return c.origin })
	p.Shield = part(func(c counts) float64 { return c.shieldBytes - min(c.shieldBytes, c.origin) })
	p.Disk = part(func(c counts) float64 { return c.disk })
	p.Memory = part(func(c counts) float64 { return c.bytes - c.disk - max(c.origin, c.shieldBytes) })
	p.RequestHits = estimate(collect(func(o *outcome) float64 { t := total(o); return (t.hits[0] + t.hits[1]) / t.requests }))
	p.PeakPlays = mean(func(o *outcome) float64 { return o.peakPlays })
	p.EgressPeak, p.OriginPeak = mean(func(o *outcome) float64 { return o.peak.peakBps }), mean(func(o *outcome) float64 { return o.peak.peakOrigin })
	p.OriginGets = p.OriginPeak / 8 / (256 << 10)
	p.Concurrent = p.PeakPlays * c.heard()
	p.EgressMonth = 30 * mean(func(o *outcome) float64 { return total(o).bytes })
	p.Drift = mean(func(o *outcome) float64 {
		a, b := o.halves[0], o.halves[1]
		return (b.origin/b.bytes)/(a.origin/a.bytes) - 1
	})
	p.Sample, p.Simulated = outs[0].sample, mean(func(o *outcome) float64 { return o.plays })*n
	for i := range p.Regions {
		r := &p.Regions[i]
		of := func(f func(d, m *counts) float64) []float64 {
			return collect(func(o *outcome) float64 { return f(&o.day[i], &o.most[i]) })
		}
		avg := func(f func(d, m *counts) float64) float64 { return estimate(of(f)).Value }
		r.PeakBps = avg(func(_, m *counts) float64 { return m.peakBps })
		r.PeakReq = avg(func(_, m *counts) float64 { return m.peakReq })
		r.OriginBps = avg(func(_, m *counts) float64 { return m.peakOrigin })
		r.DiskBps = avg(func(_, m *counts) float64 { return m.peakDisk })
		r.Listeners = r.PeakBps / c.Bps
		r.ShieldBps = avg(func(d, _ *counts) float64 { return d.shieldBytes * 8 / 86400 })
		r.HitRatio = estimate(of(func(d, _ *counts) float64 { return 1 - max(d.origin, d.shieldBytes)/max(d.bytes, 1) }))
		r.Offload = estimate(of(func(d, _ *counts) float64 { return 1 - d.origin/max(d.bytes, 1) }))
		r.DistanceKm = avg(func(d, _ *counts) float64 { return d.distance / max(d.plays, 1) })
		r.Away = avg(func(d, _ *counts) float64 { return d.away / max(d.plays, 1) })
		r.CostMonth = float64(r.Edges)*c.Edge.CostMonth + r.PeakBps/1e6*c.Edge.CostMbps
		p.CostMonth += r.CostMonth
		room := float64(r.Edges) * c.Edge.Bps
		p.Breaks = append(p.Breaks, Limit{r.Name + ": bandwidth", r.PeakBps / room}, Limit{r.Name + ": requests", r.PeakReq / (float64(r.Edges) * c.Edge.PerSecond)},
			Limit{r.Name + ": disk reads", r.DiskBps / (float64(r.Edges) * c.Edge.DiskBps)})
		if c.Fail != "none" && i != fails {
			r.FailLoad = estimate(collect(func(o *outcome) float64 { return o.failMost[i].peakBps })).Value / room
			p.FailBreaks = append(p.FailBreaks, Limit{r.Name + ": bandwidth", r.FailLoad})
		}
	}
	if c.Origin > 0 {
		p.Breaks = append(p.Breaks, Limit{"origin: bandwidth", p.OriginPeak / c.Origin})
	}
	if c.Fail != "none" && len(c.Regions) > 1 {
		p.Failed = c.Regions[fails].Name
		p.FailOrigin = mean(func(o *outcome) float64 { return o.failPeak.peakOrigin })
		if c.Origin > 0 {
			p.FailBreaks = append(p.FailBreaks, Limit{"origin: bandwidth", p.FailOrigin / c.Origin})
		}
	}
	for _, l := range [][]Limit{p.Breaks, p.FailBreaks} {
		slices.SortStableFunc(l, func(a, b Limit) int { return int(math.Copysign(1, b.Used-a.Used)) })
	}
	// A playback per play; progress every 15 s of sound, one batch each, and one for the end; start and end are events too; steering
	// of half of the players every 10 s.
	k := &p.Control
	k.PlaybacksS = p.PeakPlays
	k.BatchesS = p.PeakPlays * (c.heard()/15 + 1)
	k.EventsS = p.PeakPlays * (c.heard()/15 + 2)
	k.SteeringS = p.PeakPlays * c.heard() / 10 / 2
	k.EventsDay = p.PlaysDay * (c.heard()/15 + 2)
}

// Write writes JSON.
func (p *Plan) Write(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(p)
}

func bits(v float64) string {
	switch {
	case v >= 1e12:
		return fmt.Sprintf("%.2f Tbit/s", v/1e12)
	case v >= 1e9:
		return fmt.Sprintf("%.1f Gbit/s", v/1e9)
	}
	return fmt.Sprintf("%.1f Mbit/s", v/1e6)
}

func many(v float64) string {
	switch {
	case v >= 1e9:
		return fmt.Sprintf("%.2fe9", v/1e9)
	case v >= 1e6:
		return fmt.Sprintf("%.2fe6", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%.1fe3", v/1e3)
	}
	return fmt.Sprintf("%.0f", v)
}

// Print writes tables.
func (p *Plan) Print(w io.Writer) {
	fmt.Fprintf(w, "%s people, %s plays a day; at the peak %s listen, %.0f plays begin per second, %s\n", many(p.People), many(p.PlaysDay), many(p.Concurrent), p.PeakPlays, bits(p.EgressPeak))
	fmt.Fprintf(w, "bytes come from memory %v, disk %v, another edge %v, origin %v; requests that find their block on the edge: %v\n", p.Memory, p.Disk, p.Shield, p.OriginShare, p.RequestHits)
	fmt.Fprintf(w, "origin at the peak %s, %s blocks/s; %.1f PB a month leave the edges\n\n", bits(p.OriginPeak), many(p.OriginGets), p.EgressMonth/1e15)
	fmt.Fprintf(w, "%-11s %5s %12s %9s %10s %18s %12s %8s %6s %9s %9s\n", "region", "edges", "peak", "at (UTC)", "requests/s", "not from origin", "origin", "km", "away", "$/month", "failure")
	for _, r := range p.Regions {
		fail := "-"
		if r.FailLoad > 0 {
			fail = fmt.Sprintf("%.0f %%", 100*r.FailLoad)
		}
		fmt.Fprintf(w, "%-11s %5d %12s %9.1f %10s %18v %12s %8.0f %5.1f%% %9s %9s\n", r.Name, r.Edges, bits(r.PeakBps), r.PeakHour, many(r.PeakReq), r.Offload, bits(r.OriginBps), r.DistanceKm, 100*r.Away, many(r.CostMonth), fail)
	}
	fmt.Fprintf(w, "%-11s %5d %12s %61s %26s\n\n", "all", p.Edges, bits(p.EgressPeak), "", many(p.CostMonth))
	fmt.Fprint(w, "what breaks first, of what there is at the peak: ")
	for _, l := range p.Breaks[:min(3, len(p.Breaks))] {
		fmt.Fprintf(w, "%s %.0f %%; ", l.What, 100*l.Used)
	}
	fmt.Fprintln(w)
	if p.Failed != "" {
		fmt.Fprintf(w, "when %s fails at its peak: ", p.Failed)
		for _, l := range p.FailBreaks[:min(3, len(p.FailBreaks))] {
			fmt.Fprintf(w, "%s %.0f %%; ", l.What, 100*l.Used)
		}
		fmt.Fprintf(w, "origin %s\n", bits(p.FailOrigin))
	}
	fmt.Fprintf(w, "control plane at the peak: %.0f playbacks/s, %s event batches/s with %s events/s, %s steering answers/s; %s events a day\n", p.Control.PlaybacksS, many(p.Control.BatchesS), many(p.Control.EventsS), many(p.Control.SteeringS), many(p.Control.EventsDay))
	fmt.Fprintf(w, "sampled 1 track in %.0f, %s plays in %d replicas; second half of the day %+.1f %% of the first's origin part; took %.0f s, %d MiB\n", 1/p.Sample, many(p.Simulated), p.Replicas, 100*p.Drift, p.Took, p.MemoryInUse>>20)
}
