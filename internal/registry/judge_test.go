package registry_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"segue/geo"
	"segue/internal/registry"
)

var noon = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func at(s float64) time.Time { return noon.Add(time.Duration(s * float64(time.Second))) }

// TestOpinions: which of four opinions make an edge that was up go, when the rest of the fleet is well.
func TestOpinions(t *testing.T) {
	const up, down, none = registry.Up, registry.Down, registry.Abstain
	beats := map[registry.Vote]time.Time{up: at(99), none: at(97.5), down: at(90)} // none: late
	for _, c := range []struct {
		why                            string
		beat, registry, probe, players registry.Vote
		want                           bool
		reason                         geo.Reason
	}{
		{"all is well", up, up, up, up, true, ""},
		{"no Consul, no listeners", up, none, up, none, true, ""},
		{"never probed", up, none, none, none, true, ""},
		{"its way to us is cut", down, none, up, none, true, ""},
		{"its way to us and to Consul is cut", down, down, up, none, true, ""},
		{"our way to it is cut", up, none, down, none, true, ""},
		{"Consul is wrong", up, down, up, none, true, ""},
		{"players only, and we reach it: liars", up, none, up, down, true, ""},
		{"players cannot, nor can we", up, none, down, down, false, geo.PlayersComplain},
		{"players cannot, and it cannot reach us", down, none, up, down, false, geo.PlayersComplain},
		{"silent, nobody else knows", down, none, none, none, false, geo.Unhealthy},
		{"silent, and does not answer", down, none, down, none, false, geo.ProbeFailed},
		{"late, and does not answer", none, none, down, none, false, geo.ProbeFailed},
		{"late, and Consul has it", none, up, down, none, true, ""},
		{"late, nothing else: as it was", none, none, none, none, true, ""},
		{"its host is gone with the agent", down, up, down, none, false, geo.ProbeFailed},
		{"we are cut off from it, Consul and players are not", down, up, down, up, true, ""},
		{"silent here, Consul has it", down, up, none, none, true, ""},
		{"Consul only", none, down, none, none, false, geo.Unhealthy},
	} {
		t.Run(c.why, func(t *testing.T) {
			others := func(now float64) (out []registry.Evidence) {
				for i := range 4 {
					out = append(out, registry.Evidence{ID: fmt.Sprint("other", i), Region: "eu", Heard: at(now - 1)})
				}
				return out
			}
			j := registry.NewJudge(registry.Rules{})
			j.Decide(at(90), append(others(90), registry.Evidence{ID: "e", Region: "eu", Heard: at(89.5)}))
			e := registry.Evidence{ID: "e", Region: "eu", Heard: beats[c.beat], Registry: c.registry, Players: c.players}
			if c.probe != none {
				e.Probe = registry.Probe{At: at(99), OK: c.probe == up, Reached: true}
			}
			v := j.Decide(at(100), append(others(100), e))[4]
			if v.Up != c.want || v.Why != c.reason {
				t.Errorf("up %v %q, want %v %q: %+v", v.Up, v.Why, c.want, c.reason, v)
			}
		})
	}
}

// fleet plays a script: a set of edges, each with what is known of it, over time.
type fleet struct {
	t     *testing.T
	judge *registry.Judge
	edges []*registry.Evidence
	beats map[string]bool
	now   float64
}

func newFleet(t *testing.T, regions ...string) *fleet {
	f := &fleet{t: t, judge: registry.NewJudge(registry.Rules{}), beats: map[string]bool{}}
	for i, r := range regions {
		e := &registry.Evidence{ID: fmt.Sprint("e", i), Region: r, Probe: registry.Probe{At: at(0), OK: true, Reached: true}, Heard: at(0)}
		f.edges = append(f.edges, e)
		f.beats[e.ID] = true
	}
	f.run(1)
	return f
}

// run lets time pass in steps of a tenth of a second; edges that beat do so.
func (f *fleet) run(seconds float64) (last []registry.Verdict) {
	for end := f.now + seconds; f.now < end-0.001; {
		f.now += 0.1
		var all []registry.Evidence
		for _, e := range f.edges {
			if f.beats[e.ID] {
				e.Heard = at(f.now)
			}
			all = append(all, *e)
		}
		last = f.judge.Decide(at(f.now), all)
	}
	return last
}

// probes sets the result of a probe that was begun now, for some.
func (f *fleet) probes(p registry.Probe, ids ...int) {
	for _, i := range ids {
		p.At = at(f.now)
		f.edges[i].Probe = p
	}
}

func (f *fleet) silence(ids ...int) {
	for _, i := range ids {
		f.beats[f.edges[i].ID] = false
	}
}

func ups(all []registry.Verdict) (s string) {
	for _, v := range all {
		s += map[bool]string{true: "+", false: "-"}[v.Up]
	}
	return s
}

func (f *fleet) want(what, want string, got []registry.Verdict) {
	f.t.Helper()
	if ups(got) != want {
		f.t.Errorf("%s: %s, want %s: %+v", what, ups(got), want, got)
	}
}

var (
	refused     = registry.Probe{Certain: true, Reached: true}
	unreachable = registry.Probe{Reached: true}
	fine        = registry.Probe{OK: true, Reached: true}
)

func TestKilled(t *testing.T) {
	f := newFleet(t, "eu", "eu", "eu", "us", "us")
	f.silence(1)
	f.want("on time", "+++++", f.run(2.1))
	f.probes(refused, 1) // the probe of what is late
	f.want("out after late and refused", "+-+++", f.run(0.2))
	// A whole region, alone in it: the same.
	f.silence(3, 4)
	f.run(2.2)
	f.probes(refused, 3, 4)
	f.want("a region is killed", "+-+--", f.run(0.7))
	// All of them: refused is certain.
	f.silence(0, 2)
	f.run(2.2)
	f.probes(refused, 0, 1, 2, 3, 4)
	f.want("everything is killed", "-----", f.run(0.7))
}

func TestSourcesAreDoubted(t *testing.T) {
	f := newFleet(t, "eu", "eu", "eu", "us", "us")
	// The way of all heartbeats is cut; edges answer probes.
	f.silence(0, 1, 2, 3, 4)
	for range 20 {
		f.probes(fine, 0, 1, 2, 3, 4)
		f.want("probes keep them", "+++++", f.run(0.5))
	}
	// One of them dies meanwhile.
	f.probes(refused, 2)
	f.want("but for the one that refuses", "++-++", f.run(0.1))
	// All come back: no penalty for a fault that was none of theirs.
	for id := range f.beats {
		f.beats[id] = true
	}
	f.probes(fine, 0, 1, 2, 3, 4)
	got := f.run(0.2)
	f.want("back", "+++++", got)
	if got[0].Penalty != 0 || got[4].Penalty != 0 {
		t.Errorf("penalties: %+v", got)
	}
}

func TestCutOff(t *testing.T) {
	f := newFleet(t, "eu", "eu", "us")
	f.silence(0, 1, 2)
	f.run(2)
	step := func(seconds float64) (v []registry.Verdict) {
		for end := f.now + seconds; f.now < end; {
			f.probes(unreachable, 0, 1, 2)
			v = f.run(0.5)
		}
		return v
	}
	v := step(60)
	f.want("nothing is heard, nobody answers: it is us", "+++", v)
	if !v[0].Held {
		t.Errorf("%+v", v[0])
	}
	f.beats["e1"] = true
	f.want("one is heard again: the others are gone after all", "-+-", step(3))
	f.silence(1)
	f.beats["e0"], f.beats["e1"], f.beats["e2"] = true, true, true
	f.probes(fine, 0, 1, 2)
	f.want("all are back", "+++", f.run(1))
	f.silence(0, 1, 2)
	step(590)
	f.want("not for ever", "---", step(30))
}

func TestDamping(t *testing.T) {
	f := newFleet(t, "eu", "eu", "eu", "eu")
	flap := func() (v []registry.Verdict) {
		f.silence(0)
		f.run(2.5)
		f.probes(refused, 0)
		f.run(0.5)
		f.beats["e0"] = true
		f.probes(fine, 0)
		return f.run(2)
	}
	f.want("a restart costs nothing", "++++", flap())
	f.want("nor do two", "++++", flap())
	v := flap()
	f.want("three in a quarter of a minute do", "-+++", v)
	if v[0].Why != geo.Flapping || !v[0].Suppressed {
		t.Errorf("%+v", v[0])
	}
	f.want("still", "-+++", f.run(60))
	f.want("it comes back when it has been quiet", "++++", f.run(40))
	for range 20 {
		flap()
	}
	v = f.run(1)
	if v[0].Penalty > 5000 {
		t.Errorf("the penalty has no ceiling: %f", v[0].Penalty)
	}
	f.silence(1, 2, 3)
	f.run(2.3)
	f.probes(refused, 1, 2, 3)
	f.want("one that flaps is better than none", "+---", f.run(1))
}

func TestClocks(t *testing.T) {
	f := newFleet(t, "eu", "eu", "eu", "eu")
	wrong := func(skews ...time.Duration) (s string) {
		for i, d := range skews {
			f.edges[i].Skew, f.edges[i].SkewOK = d, true
		}
		for _, v := range f.run(0.1) {
			s += map[bool]string{true: "x", false: "."}[v.ClockWrong]
		}
		return s
	}
	check := func(got, want string, own bool) {
		t.Helper()
		if got != want || f.judge.OurClock != own {
			t.Errorf("%s, our own: %v; want %s, %v", got, f.judge.OurClock, want, own)
		}
	}
	check(wrong(0, time.Second, -9*time.Second, 20*time.Second), "...x", false)
	check(wrong(0, time.Second, -9*time.Second, -11*time.Second), "...x", false)
	check(wrong(time.Hour, time.Hour+time.Second, time.Hour-time.Second, 0), "...x", true)
}

// TestBeginAnew: what was known before the control plane began holds until something is known again.
func TestBeginAnew(t *testing.T) {
	j := registry.NewJudge(registry.Rules{})
	edge := func(id string, known, heard float64) registry.Evidence {
		e := registry.Evidence{ID: id, Region: "eu"}
		if known != 0 {
			e.Known = at(known)
		}
		if heard != 0 {
			e.Heard = at(heard)
		}
		return e
	}
	show := func(now float64, want string, all ...registry.Evidence) {
		t.Helper()
		if v := j.Decide(at(now), all); ups(v) != want {
			t.Errorf("at %v: %s, want %s: %+v", now, ups(v), want, v)
		}
	}
	a, b, c := edge("a", 70, 0), edge("b", 70, 0), edge("c", -3600, 0)
	show(100, "++-", a, b, c) // c was good an hour ago: too long
	show(130, "++-", a, b, c) // nobody is heard: as it was
	show(131, "+--", edge("a", 70, 131), b, c)
	show(800, "+--", a, b, c) // its time is over: is it the sources? A moment for a probe
	show(802, "---", a, b, c)
}

// TestNeverWorseThanTheProbe: whatever happens, an edge that answered its last probes and that nobody complains of is up or
// damped, and one that refused them and is silent is down.
func TestNeverWorseThanTheProbe(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		f := newFleet(t, "eu", "eu", "us", "us", "us", "ap")
		for range 100 {
			for i := range f.edges {
				switch r.IntN(8) {
				case 0:
					f.silence(i)
				case 1:
					f.beats[f.edges[i].ID] = true
				case 2:
					f.probes(refused, i)
				case 3:
					f.probes(fine, i)
				case 4:
					f.edges[i].Registry = registry.Vote(r.IntN(3) - 1)
				case 5:
					f.probes(unreachable, i)
				}
			}
			for i, v := range f.run(0.5) {
				e := f.edges[i]
				fresh := at(f.now).Sub(e.Probe.At) < 2*time.Second
				if fresh && e.Probe.OK && !v.Up && !v.Suppressed {
					t.Fatalf("seed %d: %+v of %+v", seed, v, *e)
				}
				if fresh && e.Probe.Certain && v.Up && v.Beat == registry.Down && v.Registry != registry.Up {
					t.Fatalf("seed %d: %+v of %+v", seed, v, *e)
				}
			}
		}
	}
}

func TestReports(t *testing.T) {
	var r registry.Reports
	vote := func(now float64, want registry.Vote) {
		t.Helper()
		if got := r.Votes(at(now))["eu-1"]; got != want {
			t.Errorf("%v, want %v", got, want)
		}
	}
	for i := range 50 {
		r.Report("eu-1", "liar", false, at(float64(i)/10))
	}
	vote(5, registry.Abstain)
	r.Report("eu-1", "b", false, at(5))
	vote(5, registry.Abstain)
	r.Report("eu-1", "c", false, at(5))
	vote(5, registry.Down)
	r.Report("us-1", "c", false, at(5)) // c fails everywhere: it is c's network
	vote(5, registry.Abstain)
	r.Report("eu-1", "d", false, at(6))
	vote(6, registry.Down)
	r.Report("eu-1", "e", true, at(7))
	r.Report("eu-1", "f", true, at(7))
	vote(7, registry.Abstain)
	vote(36.5, registry.Up) // the complaints are old, e and f are not
	vote(60, registry.Abstain)
	for i := range 10_000 {
		r.Report("eu-1", fmt.Sprint(i), true, at(100))
	}
	vote(100, registry.Up)
}

func TestLoadIsSmoothed(t *testing.T) {
	h := registry.NewHealth(registry.HealthConfig{}, &registry.Memory{})
	m := registry.Member{ID: "a", Name: "a", Region: "eu"}
	now := noon
	beat := func(after time.Duration, load, want float64) {
		t.Helper()
		now = now.Add(after)
		h.Heard(m, registry.Beat{ID: "a", Name: "a", Load: registry.Load{Ratio: load}}, now)
		if got := h.Nodes(now)[0].LoadRatio; got < want-1e-9 || got > want+1e-9 {
			t.Errorf("load %f, want %f", got, want)
		}
	}
	beat(0, 0.2, 0.2)
	beat(2*time.Second, 1, 0.4) // one busy moment
	beat(2*time.Second, 0.2, 0.35)
	beat(registry.DeadAfter, 0.9, 0.9) // it was away: nothing of before counts
}
