package registry

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"segue/geo"
)

// Member is an edge that has joined, as SQL says. What a registry says of somebody else is not looked at.
type Member struct {
	ID, Name, Region, URL string
	At                    geo.Point
	Draining              bool
}

// Known is what is remembered of a node over the end of the control plane.
type Known struct {
	Beat Beat
	At   time.Time // when it was good
}

// HealthConfig is what a Health is made of. The zero value is the default.
type HealthConfig struct {
	Rules Rules
	Probe func(ctx context.Context, url string) ProbeResult // nil: ProbeHTTP; it must respect ctx
	Log   *slog.Logger                                      // nil: none
}

const (
	// A node that all is well with is probed every 5 s, give or take a half, so that replicas do not come together; one in
	// doubt at once, and then twice a second.
	probeEvery   = 5 * time.Second
	probeDoubted = 500 * time.Millisecond
	// probeTime is what a node in doubt has to answer: LateAfter and this are less than DeadAfter.
	probeTime  = 750 * time.Millisecond
	probeCalm  = 2 * time.Second
	maxProbing = 64 // at a time

	tick       = 50 * time.Millisecond
	verdictFor = 25 * time.Millisecond // how old the verdicts of an answer may be, beside what is heard

	// lostAfter is how long the word of an outside registry that is not heard any more is an opinion.
	lostAfter = 4 * time.Second

	maxSamples = 5 // of a clock
)

// Health knows which nodes players can be sent to. It is safe for concurrent use.
type Health struct {
	cfg     HealthConfig
	beats   *Memory
	reports Reports

	mu       sync.Mutex // guards the fields below
	judge    *Judge
	members  map[string]Member
	sorted   []string       // ids of members, by name
	index    map[string]int // of sorted, by id
	known    map[string]Known
	outside  Snapshot // of another registry; the zero value: there is none
	outsider map[string]Entry
	listed   map[string]bool // whom the outside registry has had
	probes   map[string]*probing
	clocks   map[string][]time.Duration
	verdicts []Verdict
	nodes    []geo.Node
	judged   time.Time
	version  uint64
	changed  bool // since the last verdict, beside heartbeats
}

type probing struct {
	Probe
	next time.Time
	busy bool
	url  string
	err  string
}

// NewHealth returns one that watches the heartbeats in beats.
func NewHealth(cfg HealthConfig, beats *Memory) *Health {
	if cfg.Probe == nil {
		cfg.Probe = ProbeHTTP
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Health{cfg: cfg, beats: beats, judge: NewJudge(cfg.Rules), members: map[string]Member{}, known: map[string]Known{}, listed: map[string]bool{},
		probes: map[string]*probing{}, clocks: map[string][]time.Duration{}}
}

// SetMembers replaces the edges that there are.
func (h *Health) SetMembers(all []Member) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.members = make(map[string]Member, len(all))
	for _, m := range all {
		h.members[m.ID] = m
	}
	h.sortMembers()
	for id := range h.probes {
		if _, ok := h.members[id]; !ok {
			delete(h.probes, id)
			delete(h.clocks, id)
			delete(h.known, id)
			delete(h.listed, id)
		}
	}
}

func (h *Health) sortMembers() {
	h.sorted = h.sorted[:0]
	for id := range h.members {
		h.sorted = append(h.sorted, id)
	}
	slices.SortFunc(h.sorted, func(a, b string) int { return strings.Compare(h.members[a].Name, h.members[b].Name) })
	h.index = make(map[string]int, len(h.sorted))
	for i, id := range h.sorted {
		h.index[id] = i
	}
	h.changed = true
}

// Forget drops an edge that was deleted, and all that is known of it, without waiting for SetMembers.
func (h *Health) Forget(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.members, id)
	delete(h.probes, id)
	delete(h.clocks, id)
	delete(h.known, id)
	delete(h.listed, id)
	_ = h.beats.Withdraw(context.Background(), id) // it never fails
	h.sortMembers()
}

// Remember tells what was known at the end of an earlier life.
func (h *Health) Remember(all []Known) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, k := range all {
		h.known[k.Beat.ID] = k
	}
	h.changed = true
}

// Heard notes the heartbeat of a member: m as SQL says, b as it says itself.
func (h *Health) Heard(m Member, b Beat, at time.Time) {
	h.mu.Lock()
	old, ok := h.members[m.ID]
	h.members[m.ID] = m
	if !ok || old.Name != m.Name {
		h.sortMembers()
	}
	h.changed = h.changed || old != m
	h.mu.Unlock()
	h.beats.announce(b, at)
}

// Clock notes by how much the clock of a node is ahead of ours, as one heartbeat has it: what it showed when it was sent,
// plus half a round trip, minus our time.
func (h *Health) Clock(id string, ahead time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := append(h.clocks[id], ahead)
	h.clocks[id] = s[max(0, len(s)-maxSamples):]
}

// skew is the clock of a node minus ours: by the latest heartbeats the one that was under way for the shortest time, which
// is the one whose clock looks least late.
func (h *Health) skew(id string) (skew time.Duration, ok bool) {
	s := h.clocks[id]
	if len(s) == 0 {
		return 0, false
	}
	return slices.Max(s), true
}

// Outside takes what another registry says.
func (h *Health) Outside(s Snapshot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.Lost != nil {
		if h.outside.Lost == nil && !h.outside.At.IsZero() {
			h.cfg.Log.Warn("the registry is lost; heartbeats and probes decide", "err", s.Lost)
		}
		h.outside.Lost = s.Lost
		return
	}
	if h.outside.Lost != nil {
		h.cfg.Log.Info("the registry is back")
	}
	h.outside, h.outsider = s, make(map[string]Entry, len(s.Entries))
	for _, e := range s.Entries {
		h.outsider[e.ID] = e
		h.listed[e.ID] = true
	}
	h.changed = true
}

// Report notes whether a listener could play from the edge of a name.
func (h *Health) Report(edge, listener string, ok bool, at time.Time) {
	h.mu.Lock()
	known := slices.ContainsFunc(h.sorted, func(id string) bool { return h.members[id].Name == edge })
	h.mu.Unlock()
	if known {
		h.reports.Report(edge, listener, ok, at)
	}
}

// OutsideAge is the time since another registry was heard; ok false: there is none.
func (h *Health) OutsideAge(now time.Time) (age time.Duration, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return now.Sub(h.outside.At), !h.outside.At.IsZero()
}

// Condition is all that is known of a member.
type Condition struct {
	Member  Member
	Verdict Verdict
	Beat    Beat
	Heard   time.Time // last heartbeat; zero: none
	Known   time.Time // last known good of an earlier life; zero: none, or it is heard again
	Skew    time.Duration
	SkewOK  bool
	ProbeAt time.Time // last probe; zero: none
	ProbeOK bool
	Error   string // of the last probe
}

// Conditions lists all members by name.
func (h *Health) Conditions(now time.Time) []Condition {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.decide(now)
	out := make([]Condition, 0, len(h.sorted))
	for i, id := range h.sorted {
		c := Condition{Member: h.members[id], Verdict: h.verdicts[i]}
		if l, ok := h.beats.last(id); ok {
			c.Beat, c.Heard = l.Beat, l.at
		} else if k, ok := h.known[id]; ok {
			c.Beat, c.Known = k.Beat, k.At
		}
		c.Skew, c.SkewOK = h.skew(id)
		if p := h.probes[id]; p != nil {
			c.ProbeAt, c.ProbeOK, c.Error = p.At, p.OK, p.err
		}
		out = append(out, c)
	}
	return out
}

// Nodes lists what steering decides on, by name: the members that are heard of, or were. The list is not to be changed.
func (h *Health) Nodes(now time.Time) []geo.Node {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.decide(now)
	return h.nodes
}

// Lives reports whether a node answers as far as is known: players may be sent to it, or its heartbeat is fresh. heard: it has
// sent one in this life.
func (h *Health) Lives(id string, now time.Time) (lives, heard bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.decide(now)
	i, member := h.index[id]
	l, heard := h.beats.last(id)
	return member && h.verdicts[i].Up || heard && now.Sub(l.at) < DeadAfter, heard
}

// OurClock reports whether most edges say that our clock is wrong.
func (h *Health) OurClock() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.judge.OurClock
}

// decide brings verdicts and nodes up to date; with mu held.
func (h *Health) decide(now time.Time) {
	version := h.beats.version.Load()
	if age := now.Sub(h.judged); !h.changed && version == h.version && age < verdictFor && age >= 0 {
		return
	}
	if now.Before(h.judged) { // a caller that took its time
		now = h.judged
	}
	votes := h.reports.Votes(now)
	evidence := make([]Evidence, len(h.sorted))
	beats := make([]Beat, len(h.sorted))
	ever := make([]bool, len(h.sorted))
	for i, id := range h.sorted {
		m := h.members[id]
		e := Evidence{ID: id, Region: m.Region, Draining: m.Draining, Players: votes[m.Name]}
		if l, ok := h.beats.last(id); ok {
			e.Heard, beats[i], ever[i] = l.at, l.Beat, true
		} else if k, ok := h.known[id]; ok {
			e.Known, beats[i], ever[i] = k.At, k.Beat, true
		}
		if h.outside.Lost == nil && !h.outside.At.IsZero() && now.Sub(h.outside.At) < lostAfter && h.listed[id] {
			e.Registry = Down
			if o, ok := h.outsider[id]; ok && o.Passing {
				e.Registry = Up
				e.Draining = e.Draining || o.Draining
				if !ever[i] || now.Sub(e.Heard) > LateAfter { // of two reports the one that is fresh
					beats[i].Load, beats[i].CapacityBps, beats[i].Weight, beats[i].Tier = o.Load, o.CapacityBps, o.Weight, o.Tier
				}
				ever[i] = true
			}
		}
		e.Draining = e.Draining || beats[i].Draining
		if p := h.probes[id]; p != nil {
			e.Probe = p.Probe
		}
		e.Skew, e.SkewOK = h.skew(id)
		evidence[i] = e
	}
	before := make(map[string]Verdict, len(h.verdicts))
	for _, v := range h.verdicts {
		before[v.ID] = v
	}
	own := h.judge.OurClock
	h.verdicts = h.judge.Decide(now, evidence)
	h.tell(before, own, evidence)
	h.judged, h.version, h.changed = now, version, false
	nodes := make([]geo.Node, 0, len(h.sorted))
	for i, id := range h.sorted {
		if !ever[i] {
			continue // it never was
		}
		m, b, v := h.members[id], beats[i], h.verdicts[i]
		n := geo.Node{ID: id, Name: m.Name, Region: m.Region, URL: b.URL, At: m.At, Healthy: v.Up, Why: v.Why, ClockWrong: v.ClockWrong, Draining: evidence[i].Draining,
			LoadRatio: b.Load.Ratio, CapacityBps: b.CapacityBps, Weight: b.Weight, Tier: b.Tier}
		if n.URL == "" {
			n.URL = m.URL
		}
		nodes = append(nodes, n)
	}
	h.nodes = nodes // whole: who has the old one keeps it
}

// tell logs what has changed; with mu held.
func (h *Health) tell(before map[string]Verdict, own bool, evidence []Evidence) {
	log := h.cfg.Log
	for i, v := range h.verdicts {
		was, ok := before[v.ID]
		node := h.members[v.ID].Name
		if ok && was.Up && !v.Up {
			log.Warn("edge is out", "node", node, "status", string(v.Why), "beat", v.Beat.String(), "registry", v.Registry.String(), "probe", v.Probe.String(), "players", v.Players.String(), "doubted", v.Doubted)
		} else if ok && !was.Up && v.Up {
			log.Info("edge is in", "node", node)
		}
		if ok && !was.Suppressed && v.Suppressed {
			log.Warn("edge comes and goes, it is left alone for a while", "node", node, "penalty", int(v.Penalty))
		}
		if !was.ClockWrong && v.ClockWrong {
			log.Error("clock of an edge is wrong: it gets no players whose links hold tokens; set its clock", "node", node, "skew", evidence[i].Skew.Round(time.Millisecond).String())
		} else if ok && was.ClockWrong && !v.ClockWrong {
			log.Info("clock of an edge is right again", "node", node)
		}
	}
	if h.judge.OurClock && !own {
		log.Error("most edges have another time: the clock of this control plane is wrong; set it")
	}
}

// Run probes, and looks at everything again and again, until ctx ends.
func (h *Health) Run(ctx context.Context) error {
	var probes sync.WaitGroup
	defer probes.Wait()
	slots := make(chan struct{}, maxProbing)
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		for _, d := range h.due(time.Now()) {
			select {
			case slots <- struct{}{}:
				probes.Go(func() {
					defer func() { <-slots }()
					h.probe(ctx, d)
				})
			default: // as many as may be; it is due again with the next tick
				h.put(d)
			}
		}
	}
}

type dueProbe struct {
	id, url string
	within  time.Duration
}

// due marks the probes that are to be begun now as busy.
func (h *Health) due(now time.Time) []dueProbe {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.decide(now)
	var out []dueProbe
	for i, id := range h.sorted {
		last, ok := h.beats.last(id)
		url := h.members[id].URL
		switch k, remembered := h.known[id]; {
		case ok:
			url = last.URL
		case remembered:
			url = k.Beat.URL
		case !h.listed[id]:
			continue // it was never there
		}
		p := h.probes[id]
		if p == nil || p.url != url {
			p = &probing{url: url, next: now.Add(time.Duration(rand.Int64N(int64(probeDoubted))))}
			h.probes[id] = p
		}
		v := h.verdicts[i]
		calm := v.Beat == Up && v.Registry != Down && v.Players != Down && (p.At.IsZero() || p.OK || !p.Reached)
		within := probeTime
		if calm {
			within = probeCalm
		} else if soon := p.At.Add(probeDoubted); p.next.After(soon) {
			p.next = soon
			if !v.Up && now.Sub(last.at) > time.Minute { // it is long gone
				p.next = p.At.Add(probeEvery)
			}
		}
		if p.busy || now.Before(p.next) {
			continue
		}
		p.busy = true
		out = append(out, dueProbe{id, url, within})
	}
	return out
}

func (h *Health) put(d dueProbe) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.probes[d.id]; p != nil {
		p.busy = false
	}
}

func (h *Health) probe(ctx context.Context, d dueProbe) {
	begun := time.Now()
	pctx, cancel := context.WithTimeout(ctx, d.within)
	r := h.cfg.Probe(pctx, d.url)
	cancel()
	if ctx.Err() != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.probes[d.id]
	if p == nil || p.url != d.url {
		return
	}
	p.busy = false
	p.Probe = Probe{At: begun, OK: r.OK, Certain: r.Certain, Reached: p.Reached || r.OK}
	p.err = r.Error
	p.next = time.Now().Add(probeEvery/2 + time.Duration(rand.Int64N(int64(probeEvery))))
	h.changed = true
}

// LastKnown lists the members that are good now, for the next life.
func (h *Health) LastKnown(now time.Time) []Known {
	var out []Known
	for _, c := range h.Conditions(now) {
		if !c.Verdict.Up || c.Beat.ID == "" {
			continue
		}
		k := Known{c.Beat, c.Heard}
		if k.At.IsZero() {
			k.At = c.Known
		}
		if c.Verdict.Probe == Up && c.ProbeAt.After(k.At) {
			k.At = c.ProbeAt
		}
		out = append(out, k)
	}
	return out
}
