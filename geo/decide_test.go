package geo_test

import (
	"flag"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"segue/geo"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files")

var (
	paris     = geo.Point{Lat: 48.86, Lon: 2.35}
	singapore = geo.Point{Lat: 1.35, Lon: 103.8}
)

func fleet() []geo.Node {
	return []geo.Node{
		{Name: "ams-1", Region: "ams", At: amsterdam, Healthy: true},
		{Name: "ams-2", Region: "ams", At: amsterdam, Healthy: true},
		{Name: "ams-3", Region: "ams", At: amsterdam, Healthy: true},
		{Name: "ams-shield", Region: "ams", At: amsterdam, Healthy: true, Tier: geo.TierShield},
		{Name: "iad-1", Region: "iad", At: ashburn, Healthy: true},
		{Name: "sin-1", Region: "sin", At: singapore, Healthy: true},
	}
}

// TestGoldenDecisions prints what is decided, and every reason, in situations that an operator meets.
func TestGoldenDecisions(t *testing.T) {
	var out strings.Builder
	show := func(what string, c geo.Client, p geo.Policy, change func(n map[string]*geo.Node)) {
		nodes := fleet()
		byName := map[string]*geo.Node{}
		for i := range nodes {
			byName[nodes[i].Name] = &nodes[i]
		}
		if change != nil {
			change(byName)
		}
		d := geo.Decide(c, nodes, p)
		fmt.Fprintf(&out, "## %s\nhome %q spill %v canary %v\n", what, d.Home, d.Spill, d.Canary)
		for i, k := range d.Picks {
			fmt.Fprintf(&out, "%d. %-10s %6.0f km  %s\n", i+1, k.Name, k.DistanceKm, k.Reason)
		}
		for _, r := range d.Rejected {
			fmt.Fprintf(&out, "-  %-10s            %s\n", r.Name, r.Reason)
		}
		out.WriteString("\n")
	}
	in := func(at geo.Point, country string) geo.Client {
		return geo.Client{Place: geo.Place{Point: at, OK: true, Country: country, ASN: 1136}, ID: "anna", Object: "media/track/version/"}
	}
	here := in(paris, "FR")
	show("three near edges share objects", here, geo.Policy{}, nil)
	other := here
	other.Object = "media/other/version/"
	show("another object", other, geo.Policy{}, nil)
	show("no object: the least loaded", geo.Client{Place: here.Place}, geo.Policy{Max: 2}, func(n map[string]*geo.Node) {
		n["ams-1"].LoadRatio, n["ams-2"].LoadRatio, n["ams-3"].LoadRatio = 0.5, 0.1, 0.3
	})
	show("the object's edge is dead", here, geo.Policy{}, func(n map[string]*geo.Node) { n["ams-3"].Healthy, n["ams-2"].Draining = false, true })
	show("the object's edge is full", here, geo.Policy{Max: 6}, func(n map[string]*geo.Node) {
		n["ams-1"].LoadRatio, n["ams-2"].LoadRatio, n["ams-3"].LoadRatio = 1, 0.95, 0.1
	})
	show("the region is gone", here, geo.Policy{}, func(n map[string]*geo.Node) {
		n["ams-1"].Healthy, n["ams-2"].Healthy, n["ams-3"].Healthy = false, false, false
	})
	fallback := geo.Policy{Regions: map[string]geo.Region{"ams": {Fallback: []string{"sin", "iad"}}}}
	show("the region is gone, and the policy names the next", here, fallback, func(n map[string]*geo.Node) {
		n["ams-1"].Healthy, n["ams-2"].Healthy, n["ams-3"].Healthy = false, false, false
	})
	show("the region is over its threshold", here, geo.Policy{}, func(n map[string]*geo.Node) {
		n["ams-1"].LoadRatio, n["ams-2"].LoadRatio, n["ams-3"].LoadRatio = 0.999, 0.999, 0.999
	})
	show("so is it, and the policy names the next", here, fallback, func(n map[string]*geo.Node) {
		n["ams-1"].LoadRatio, n["ams-2"].LoadRatio, n["ams-3"].LoadRatio = 0.999, 0.999, 0.999
	})
	show("all regions are over it", here, geo.Policy{Max: 5}, func(n map[string]*geo.Node) {
		for _, k := range n {
			k.LoadRatio = 0.99
		}
	})
	show("country and network rules", here, geo.Policy{Regions: map[string]geo.Region{"iad": {Rule: geo.Rule{Only: []string{"US", "CA"}}}}}, func(n map[string]*geo.Node) {
		n["ams-1"].Rule.Never, n["ams-2"].Rule.Never, n["sin-1"].Rule.Only = []string{"FR"}, []string{"AS1136"}, []string{"as1136"}
	})
	show("nothing is known of the client", geo.Client{Object: "a", ID: "b"}, geo.Policy{Max: 5}, func(n map[string]*geo.Node) { n["sin-1"].Rule.Only = []string{"SG"} })
	show("an own rule ties it to a region", geo.Client{Place: geo.Place{Point: paris, OK: true, Region: "sin"}, Object: "a"}, geo.Policy{}, nil)
	show("a canary, and the client is one", here, geo.Policy{CanaryPercent: 100}, func(n map[string]*geo.Node) { n["ams-2"].Canary = true })
	show("a canary, and the client is none", here, geo.Policy{CanaryPercent: 0}, func(n map[string]*geo.Node) { n["ams-2"].Canary = true })
	show("shields", here, geo.Policy{Tier: geo.TierShield}, nil)
	show("nothing there", here, geo.Policy{Tier: "none"}, nil)
	const golden = "testdata/decisions.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(out.String(), string(want)); d != "" {
		t.Errorf("decisions changed; if that is meant, run with -update: %s", d)
	}
}

func TestParsePolicy(t *testing.T) {
	p, err := geo.ParsePolicy([]byte(`{"band_km": 50, "canary_percent": 5, "regions": {"ams": {"fallback": ["iad"], "spill_at": 0.7, "never": ["US", "AS1136"]}}}`))
	want := geo.Policy{BandKm: 50, CanaryPercent: 5, Regions: map[string]geo.Region{"ams": {Fallback: []string{"iad"}, SpillAt: 0.7, Rule: geo.Rule{Never: []string{"US", "AS1136"}}}}}
	if d := cmp.Diff(p, want); err != nil || d != "" {
		t.Error(err, d)
	}
	for _, text := range []string{`{"colour": 1}`, `{"load_bound": 2}`, `{"regions": {"a": {"fallback": ["a"]}}}`, `{"regions": {"a": {"only": ["Holland"]}}}`, `{"regions": {"a": {"only": ["AS12x"]}}}`, `{"max": -1}`, ``} {
		if _, err := geo.ParsePolicy([]byte(text)); err == nil {
			t.Errorf("%s is a policy", text)
		}
	}
}

func anyNodes(t *rapid.T, least int) []geo.Node {
	n := rapid.IntRange(least, 24).Draw(t, "nodes")
	out := make([]geo.Node, n)
	for i := range out {
		region := rapid.IntRange(0, 4).Draw(t, "region")
		out[i] = geo.Node{ID: fmt.Sprint(i), Name: fmt.Sprintf("edge-%d", i), Region: fmt.Sprintf("r%d", region), At: geo.Point{Lat: float64(region*30 - 60), Lon: float64(region*70 - 140)},
			Healthy: rapid.Bool().Draw(t, "healthy"), Draining: rapid.IntRange(0, 9).Draw(t, "draining") == 0, LoadRatio: rapid.Float64Range(0, 1.2).Draw(t, "load"),
			Weight: rapid.Float64Range(0, 4).Draw(t, "weight"), Canary: rapid.IntRange(0, 9).Draw(t, "canary") == 0}
	}
	return out
}

func anyClient(t *rapid.T) geo.Client {
	return geo.Client{Place: geo.Place{Point: geo.Point{Lat: rapid.Float64Range(-90, 90).Draw(t, "lat"), Lon: rapid.Float64Range(-180, 180).Draw(t, "lon")}, OK: rapid.Bool().Draw(t, "known")},
		ID: rapid.StringN(0, 8, 8).Draw(t, "who"), Object: rapid.StringN(0, 8, 8).Draw(t, "object")}
}

func anyPolicy(t *rapid.T) geo.Policy {
	p := geo.Policy{Max: rapid.IntRange(0, 30).Draw(t, "max"), CanaryPercent: rapid.Float64Range(0, 100).Draw(t, "canaries")}
	if rapid.Bool().Draw(t, "regions") {
		p.Regions = map[string]geo.Region{"r1": {Fallback: []string{"r3", "r0"}, SpillAt: rapid.Float64Range(0, 1).Draw(t, "spill")}, "r2": {Rule: geo.Rule{Never: []string{"XX"}}}}
	}
	return p
}

// A policy's weight of a pool is times that of its nodes: objects follow it, and at 0 none goes there.
func TestWeightsOfPools(t *testing.T) {
	nodes := []geo.Node{{Name: "a", Region: "r", Healthy: true, Pool: "big"}, {Name: "b", Region: "r", Healthy: true, Pool: "small"}, {Name: "c", Region: "r", Healthy: true}}
	count := func(p geo.Policy) map[string]int {
		n := map[string]int{}
		for i := range 6000 {
			n[geo.Decide(geo.Client{Object: fmt.Sprint(i)}, nodes, p).Picks[0].Name]++
		}
		return n
	}
	if n := count(geo.Policy{Weights: map[string]float64{"big": 2, "small": 0.5, "other": 9}}); n["a"] < 3200 || n["a"] > 3700 || n["b"] < 700 || n["b"] > 1050 { // of 3.5: 2, 0.5 and 1
		t.Errorf("%v", n)
	}
	p := geo.Policy{Weights: map[string]float64{"small": 0}}
	if n := count(p); n["b"] != 0 {
		t.Errorf("%v", n)
	}
	if d := geo.Decide(geo.Client{Object: "x"}, nodes, p); len(d.Rejected) != 1 || d.Rejected[0] != (geo.Rejection{Name: "b", Region: "r", Pool: "small", Reason: geo.PoolOff}) {
		t.Errorf("%+v", d.Rejected)
	}
	if err := (geo.Policy{Weights: map[string]float64{"small": -1}}).Validate(); err == nil {
		t.Error("a negative weight is valid")
	}
}

// Every node is either picked or has a reason; only usable ones are picked; one usable is enough; the same question has
// the same answer whatever the order of the nodes.
func TestDecisionIsWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes, c, p := anyNodes(t, 0), anyClient(t), anyPolicy(t)
		d := geo.Decide(c, nodes, p)
		if len(d.Picks)+len(d.Rejected) != len(nodes) {
			t.Fatalf("%d nodes, %d picks, %d rejected", len(nodes), len(d.Picks), len(d.Rejected))
		}
		usable := 0
		for _, n := range nodes {
			if n.Healthy && !n.Draining && (!n.Canary || d.Canary) {
				usable++
			}
		}
		most := p.Max
		if most == 0 {
			most = 3
		}
		if len(d.Picks) != min(most, usable) {
			t.Fatalf("%d picks of %d usable, at most %d", len(d.Picks), usable, most)
		}
		for _, k := range d.Picks {
			if !k.Healthy || k.Draining || k.Reason == "" || k.Canary && !d.Canary {
				t.Fatalf("picked %+v", k)
			}
		}
		other := rapid.Permutation(nodes).Draw(t, "order")
		if again := geo.Decide(c, other, p); cmp.Diff(again.Picks, d.Picks) != "" {
			t.Fatal(cmp.Diff(again.Picks, d.Picks))
		}
	})
}

// A node that leaves moves only those who were on it.
func TestOneLeaves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes, c := anyNodes(t, 2), anyClient(t)
		for i := range nodes {
			nodes[i].LoadRatio /= 2 // with no overflow: that moves others, and is meant to
		}
		p := geo.Policy{Max: 1}
		before := geo.Decide(c, nodes, p)
		if len(before.Picks) == 0 {
			return
		}
		gone := rapid.IntRange(0, len(nodes)-1).Draw(t, "gone")
		how := rapid.Bool().Draw(t, "dies")
		name := nodes[gone].Name
		if how {
			nodes[gone].Healthy = false
		} else {
			nodes = append(nodes[:gone:gone], nodes[gone+1:]...)
		}
		after := geo.Decide(c, nodes, p)
		if was := before.Picks[0].Name; was != name && after.Picks[0].Name != was {
			t.Fatalf("%s left and the client of %s went to %s", name, was, after.Picks[0].Name)
		}
	})
}

func equals(n int) []geo.Node {
	var out []geo.Node
	for i := range n {
		out = append(out, geo.Node{Name: fmt.Sprintf("edge-%d", i), Region: "one", At: amsterdam, Healthy: true})
	}
	return out
}

// A node that comes takes its share from all, and shares follow weight and capacity.
func TestOneComes(t *testing.T) {
	const objects = 20000
	where := func(nodes []geo.Node) (out []string, count map[string]float64) {
		count = map[string]float64{}
		for i := range objects {
			d := geo.Decide(geo.Client{Place: geo.Place{Point: paris, OK: true}, Object: fmt.Sprintf("media/%d/", i)}, nodes, geo.Policy{Max: 1})
			out = append(out, d.Picks[0].Name)
			count[d.Picks[0].Name]++
		}
		return out, count
	}
	nodes := equals(10)
	before, count := where(nodes[:9])
	for name, n := range count {
		if math.Abs(n/objects-1.0/9) > 0.01 {
			t.Errorf("%s has %.3f of the objects", name, n/objects)
		}
	}
	after, _ := where(nodes)
	moved := 0.0
	for i := range before {
		if before[i] != after[i] {
			moved++
			if after[i] != "edge-9" {
				t.Fatalf("an object moved from %s to %s", before[i], after[i])
			}
		}
	}
	if math.Abs(moved/objects-0.1) > 0.01 {
		t.Errorf("a tenth node took %.3f of the objects", moved/objects)
	}
	nodes[0].Weight, nodes[1].CapacityBps = 2, 10e9
	_, count = where(nodes)
	if w, c := count["edge-0"]/objects, count["edge-1"]/objects; math.Abs(w-2.0/20) > 0.01 || math.Abs(c-10.0/20) > 0.02 {
		t.Errorf("weight 2 of 20 has %.3f, 10 Gbit/s of 20 has %.3f", w, c)
	}
	canaries := 0.0
	for i := range objects {
		if geo.Decide(geo.Client{ID: fmt.Sprint("user", i)}, nodes, geo.Policy{CanaryPercent: 5}).Canary {
			canaries++
		}
	}
	if math.Abs(canaries/objects-0.05) > 0.005 {
		t.Errorf("%.3f of the clients are canaries of 5 percent", canaries/objects)
	}
}

// TestBoundedLoad lets players come one after the other, all for a few hot objects, to nodes that say how full they are.
func TestBoundedLoad(t *testing.T) {
	nodes := equals(8)
	each := 1.0 / 100 // a node takes a hundred players
	for i := range 600 {
		d := geo.Decide(geo.Client{Place: geo.Place{Point: paris, OK: true}, ID: fmt.Sprint("user", i), Object: fmt.Sprint(i % 3)}, nodes, geo.Policy{})
		for j := range nodes {
			if nodes[j].Name == d.Picks[0].Name {
				nodes[j].LoadRatio += each
			}
		}
	}
	for _, n := range nodes {
		if n.LoadRatio > 1+1e-9 {
			t.Errorf("%s carries %.2f of what it can", n.Name, n.LoadRatio)
		}
	}
	// Below the bound nothing is passed on: three objects stay on their three nodes.
	nodes = equals(8)
	seen := map[string]bool{}
	for i := range 600 {
		seen[geo.Decide(geo.Client{Place: geo.Place{Point: paris, OK: true}, ID: fmt.Sprint("user", i), Object: fmt.Sprint(i % 3)}, nodes, geo.Policy{}).Picks[0].Name] = true
	}
	if len(seen) > 3 {
		t.Errorf("three objects are on %d nodes", len(seen))
	}
}

func BenchmarkDecide(b *testing.B) {
	var nodes []geo.Node
	for i := range 20 {
		at := []geo.Point{amsterdam, ashburn, singapore, paris}[i%4]
		nodes = append(nodes, geo.Node{Name: fmt.Sprintf("edge-%d", i), Region: fmt.Sprintf("r%d", i%4), At: at, Healthy: i != 7, LoadRatio: float64(i) / 20})
	}
	c := geo.Client{Place: geo.Place{Point: paris, OK: true, Country: "FR", ASN: 1136}, ID: "listener", Object: "media/01ARZ3NDEKTSV4RRFFQ69G5FAV/v/"}
	b.ReportAllocs()
	for b.Loop() {
		if d := geo.Decide(c, nodes, geo.Policy{}); len(d.Picks) != 3 {
			b.Fatal(d)
		}
	}
}
