package registry

import (
	"maps"
	"math"
	"slices"
	"time"

	"segue/geo"
)

// Vote is one opinion about a node.
type Vote int8

// Votes.
const (
	Down    Vote = -1
	Abstain Vote = 0 // does not know
	Up      Vote = 1
)

func (v Vote) String() string { return [...]string{"down", "-", "up"}[v+1] }

// Weights of opinions. A node is up when those for it weigh at least as much as those against it. From them follows:
//
//   - one opinion against a fresh heartbeat takes no node out: not a prober that is cut off, not a registry, and players
//     not while a probe succeeds, however many there are
//   - a heartbeat that is missing takes no node out that a probe reaches: it is the way to the control plane that is cut
//   - a probe that fails takes out a node of which nothing is heard, without waiting for DeadAfter
//   - a registry that still believes in a node whose host is gone is outvoted by silence and a failed probe
const (
	beatWeight       = 1
	registryWeight   = 1
	probeUpWeight    = 2 // it is what a player does
	probeDownWeight  = 1 // it may be our network
	playersUpWeight  = 1
	playersBadWeight = 2 // several different listeners: see Reports
)

// Evidence is what is known of one node at one moment.
type Evidence struct {
	ID       string
	Region   string
	Draining bool
	Heard    time.Time // last heartbeat; zero: none in this life of the control plane
	Known    time.Time // it was good then, in an earlier life of the control plane; zero: it was not
	Registry Vote      // of an outside registry; Abstain: there is none, it is lost, or it never had the node
	Probe    Probe
	Players  Vote
	Skew     time.Duration // its clock minus ours
	SkewOK   bool          // Skew is known
}

// Probe is the result of the last probe. The zero value: none.
type Probe struct {
	At      time.Time // when it was begun
	OK      bool
	Certain bool // not OK, and it is the node that says so: the connection was refused, or it answers that it is not ready
	Reached bool // some probe reached it before: without, a failure may tell of our network only, and is no opinion
}

// Verdict is what follows for a node.
type Verdict struct {
	ID         string
	Up         bool // players may be sent to it
	Why        geo.Reason
	Since      time.Time // of Up
	Beat       Vote
	Registry   Vote
	Probe      Vote
	Players    Vote
	Doubted    bool // too many left at once: probes decide, see Judge
	Held       bool // as it was: nothing is known now
	Suppressed bool // it came and went too often
	Penalty    float64
	ClockWrong bool // by more than tokens allow
	alive      bool // Up, were it not for the damping
}

// Rules are the numbers of a Judge. The zero value is the default.
type Rules struct {
	Leeway time.Duration // clocks that are further off are wrong; zero: 10 s, the leeway of tokens

	// Damping, as RFC 2439 has it for routes: every fall costs Flap; the sum halves in HalfLife; from Suppress on the node is
	// left alone until it is below Reuse. The ceiling bounds how long that may be.
	Flap, Suppress, Reuse, Ceiling float64       // zero: 1000, 2500, 1000, 5000
	HalfLife                       time.Duration // zero: 1 min

	AtOnce time.Duration // nodes lost within this time are lost at once; zero: 10 s
	Hold   time.Duration // how long the last known is used when nothing is known; zero: 10 min
}

func (r Rules) withDefaults() Rules {
	d := func(v *time.Duration, or time.Duration) {
		if *v == 0 {
			*v = or
		}
	}
	f := func(v *float64, or float64) {
		if *v == 0 {
			*v = or
		}
	}
	d(&r.Leeway, 10*time.Second)
	d(&r.HalfLife, time.Minute)
	d(&r.AtOnce, 10*time.Second)
	d(&r.Hold, 10*time.Minute)
	f(&r.Flap, 1000)
	f(&r.Suppress, 2500)
	f(&r.Reuse, 1000)
	f(&r.Ceiling, 5000)
	return r
}

// probeFresh is how long the result of a probe is an opinion: a node that is in doubt is probed twice a second. probeStale is
// how long it is beside a fresh heartbeat: probes are rare then.
const (
	probeFresh = 2500 * time.Millisecond
	probeStale = 9 * time.Second
)

// patience is how long a node that is doubted waits for its first probe.
const patience = 1500 * time.Millisecond

// Judge turns evidence into verdicts. It remembers of each node what it was, how often it fell, and since when. It does no
// I/O and reads no clock. It is not safe for concurrent use.
//
// When more than half of the nodes that were up, or all of a region, would fall at once, the sources are doubted rather than
// the nodes: only a failed probe takes one out then. When every single probe fails as well, and without an answer, while no
// node at all is heard, this control plane is the one that is cut off, and everything stays as it was for Rules.Hold.
type Judge struct {
	rules Rules
	began time.Time // of the first Decide
	cut   time.Time // since when this control plane is cut off; zero: it is not
	nodes map[string]*record

	// OurClock is set when most nodes disagree with our clock in the same way: then it is ours that is wrong.
	OurClock bool
}

// record is what a Judge remembers of a node.
type record struct {
	region    string
	alive     bool
	since     time.Time // of Up
	up        bool
	lastAlive time.Time // when it was last alive
	confirmed time.Time // when an opinion last said so
	doubted   time.Time // since when; zero: not doubted
	mass      bool      // it is doubted with others
	penalty   float64
	penaltyAt time.Time
	suppress  bool
}

// NewJudge returns one that knows nothing.
func NewJudge(r Rules) *Judge { return &Judge{rules: r.withDefaults(), nodes: map[string]*record{}} }

// Decide returns one verdict per node, in the order of the evidence. Nodes without evidence are forgotten. now must not go
// back.
func (j *Judge) Decide(now time.Time, all []Evidence) []Verdict {
	if j.began.IsZero() {
		j.began = now
	}
	out := make([]Verdict, len(all))
	seen := make(map[string]bool, len(all))
	anybody := slices.ContainsFunc(all, func(e Evidence) bool { return !e.Heard.IsZero() })
	for i := range all {
		e := &all[i]
		seen[e.ID] = true
		if j.nodes[e.ID] == nil {
			r := &record{region: e.Region, since: now, penaltyAt: now}
			if !e.Known.IsZero() && now.Sub(e.Known) < j.rules.Hold {
				r.alive, r.lastAlive, r.confirmed = true, now, now
			}
			j.nodes[e.ID] = r
		}
		j.nodes[e.ID].region = e.Region
		out[i] = j.weigh(now, e, anybody)
	}
	maps.DeleteFunc(j.nodes, func(id string, _ *record) bool { return !seen[id] })
	j.doubt(now, all, out)
	j.damp(now, all, out)
	j.clocks(all, out)
	return out
}

// weigh counts the opinions about one node.
func (j *Judge) weigh(now time.Time, e *Evidence, anybody bool) Verdict {
	v := Verdict{ID: e.ID, Registry: e.Registry, Players: e.Players}
	switch age := now.Sub(e.Heard); {
	case e.Heard.IsZero(): // not in this life
		if anybody && now.Sub(j.began) >= 2*DeadAfter { // others were: it had its time
			v.Beat = Down
		}
	case age < LateAfter:
		v.Beat = Up
	case age >= DeadAfter:
		v.Beat = Down
	}
	fresh := probeFresh
	if v.Beat == Up {
		fresh = probeStale
	}
	if p := e.Probe; !p.At.IsZero() && now.Sub(p.At) < fresh {
		switch {
		case p.OK:
			v.Probe = Up
		case p.Reached || p.Certain:
			v.Probe = Down
		}
	}
	up, down := 0, 0
	count := func(v Vote, forWeight, against int) {
		switch v {
		case Up:
			up += forWeight
		case Down:
			down += against
		}
	}
	count(v.Beat, beatWeight, beatWeight)
	count(v.Registry, registryWeight, registryWeight)
	count(v.Probe, probeUpWeight, probeDownWeight)
	count(v.Players, playersUpWeight, playersBadWeight)
	r := j.nodes[e.ID]
	switch {
	case up == 0 && down == 0:
		// Nobody knows: a heartbeat that is late, a control plane that has just begun, a registry that is lost.
		v.alive = r.alive && now.Sub(r.confirmed) < j.rules.Hold
		v.Held = v.alive
	default:
		if v.alive = up > 0 && up >= down; v.alive {
			r.confirmed = now
		}
	}
	if !v.alive {
		v.Why = geo.Unhealthy
		switch {
		case v.Players == Down && (v.Beat == Up || v.Probe == Up):
			v.Why = geo.PlayersComplain
		case v.Probe == Down:
			v.Why = geo.ProbeFailed
		}
	}
	return v
}

// doubt finds that too much is gone at once.
func (j *Judge) doubt(now time.Time, all []Evidence, out []Verdict) {
	type tally struct{ was, lost int }
	var fleet tally
	regions := map[string]tally{}
	recent := func(i int) bool {
		r := j.nodes[all[i].ID]
		return !all[i].Draining && (r.alive || !r.lastAlive.IsZero() && now.Sub(r.lastAlive) < j.rules.AtOnce)
	}
	heard, answered, silent := 0, 0, 0
	for i := range all {
		if out[i].Beat == Up {
			heard++
		}
		if p := all[i].Probe; !p.At.IsZero() && now.Sub(p.At) < probeFresh {
			if p.OK || p.Certain {
				answered++
			} else if p.Reached {
				silent++
			}
		}
		if !recent(i) {
			continue
		}
		t := regions[all[i].Region]
		t.was++
		fleet.was++
		if !out[i].alive {
			t.lost++
			fleet.lost++
		}
		regions[all[i].Region] = t
	}
	// Cut off: nothing is heard of anybody, and no probe is answered, by nobody, while they used to be. With one node it is
	// the node. It ends with the first that is heard or answers.
	switch {
	case heard > 0 || answered > 0 || len(all) < 2:
		j.cut = time.Time{}
	case j.cut.IsZero() && silent > 1 && fleet.lost > 0 && fleet.lost == fleet.was:
		j.cut = now
	}
	for i := range all {
		r, v := j.nodes[all[i].ID], &out[i]
		if v.alive || all[i].Draining {
			r.doubted, r.mass = time.Time{}, false
			continue
		}
		t := regions[all[i].Region]
		if recent(i) && (fleet.lost*2 > fleet.was || t.lost == t.was) {
			if r.doubted.IsZero() {
				r.doubted = now
			}
			r.mass = r.mass || t.was > 1 || fleet.was > 1 && fleet.lost*2 > fleet.was
		} else if !r.alive {
			r.doubted, r.mass = time.Time{}, false
		}
		if !j.cut.IsZero() && now.Sub(j.cut) < j.rules.Hold && (r.alive || recent(i)) {
			v.alive, v.Held = true, true
			continue
		}
		if r.doubted.IsZero() {
			continue
		}
		v.Doubted = true
		p := all[i].Probe
		probed := !p.At.IsZero() && !p.OK && now.Sub(p.At) < probeFresh || p.At.After(r.doubted)
		if v.Players != Down && !probed && now.Sub(r.doubted) < patience && r.alive {
			v.alive = true
		}
	}
}

// damp counts falls, and keeps back who falls too often.
func (j *Judge) damp(now time.Time, all []Evidence, out []Verdict) {
	usable := 0
	for i := range out {
		r, v := j.nodes[all[i].ID], &out[i]
		r.penalty *= math.Exp2(-float64(now.Sub(r.penaltyAt)) / float64(j.rules.HalfLife))
		r.penaltyAt = now
		if r.alive && !v.alive && !all[i].Draining && !r.mass {
			r.penalty = min(r.penalty+j.rules.Flap, j.rules.Ceiling)
		}
		if r.alive = v.alive; r.alive {
			r.lastAlive = now
		}
		switch {
		case r.penalty >= j.rules.Suppress:
			r.suppress = true
		case r.penalty < j.rules.Reuse:
			r.suppress = false
		}
		v.Penalty, v.Suppressed = r.penalty, r.suppress
		if v.alive && !r.suppress && !all[i].Draining {
			usable++
		}
	}
	for i := range out {
		r, v := j.nodes[all[i].ID], &out[i]
		v.Up = v.alive && (!v.Suppressed || usable == 0) // one that flaps is better than none
		if v.alive && !v.Up {
			v.Why = geo.Flapping
		}
		if v.Up {
			v.Why = ""
		}
		if v.Up != r.up {
			r.up, r.since = v.Up, now
		}
		v.Since = r.since
	}
}

// clocks finds those that are wrong.
func (j *Judge) clocks(all []Evidence, out []Verdict) {
	var skews []time.Duration
	for i := range all {
		if all[i].SkewOK {
			skews = append(skews, all[i].Skew)
			out[i].ClockWrong = all[i].Skew.Abs() > j.rules.Leeway
		}
	}
	j.OurClock = false
	if len(skews) < 3 {
		return // two clocks do not tell which one is wrong; that of the tokens' issuer counts
	}
	slices.Sort(skews)
	if middle := skews[len(skews)/2]; middle.Abs() > j.rules.Leeway {
		j.OurClock = true
		for i := range all {
			out[i].ClockWrong = all[i].SkewOK && (all[i].Skew-middle).Abs() > j.rules.Leeway
		}
	}
}
