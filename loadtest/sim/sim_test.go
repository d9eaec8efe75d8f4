package sim_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"segue/geo"
	"segue/loadtest/sim"
)

// small is a world of one region and few tracks, that can be simulated whole.
func small(plays float64, seed uint64) sim.Config {
	c := sim.Config{People: 3000, HoursMonth: 20, Countries: []sim.Country{{Code: "NL", Weight: 1, UTC: 1}}, Regions: []sim.Region{{Name: "ams", At: geo.Point{Lat: 52.4, Lon: 4.9}, Edges: 3}},
		Popularity: sim.Popularity{Tracks: 30_000, Zipf: .9}, Plays: plays, Replicas: 1, Seed: seed, Fail: "none", TrackS: 100}
	c.Edge.Memory, c.Edge.Disk = 2<<30, 4<<30
	return c
}

// TestSampleAgainstWhole: a sample of tracks and caches finds what the whole catalogue and the whole caches do, and says how far
// off it is.
func TestSampleAgainstWhole(t *testing.T) {
	whole, err := sim.Run(small(1e6, 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	if whole.Sample != 1 {
		t.Fatalf("the whole is a sample of %g", whole.Sample)
	}
	c := small(whole.PlaysDay/8, 2)
	c.Replicas = 6
	part, err := sim.Run(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("origin %v of the whole, %v of 1 track in %.0f; request hits %v and %v", whole.OriginShare, part.OriginShare, 1/part.Sample, whole.RequestHits, part.RequestHits)
	for what, pair := range map[string][2]sim.Estimate{"origin": {whole.OriginShare, part.OriginShare}, "disk": {whole.Disk, part.Disk}, "memory": {whole.Memory, part.Memory}} {
		if off := math.Abs(pair[0].Value - pair[1].Value); off > .03 {
			t.Errorf("%s: %v of the whole, %v of the sample", what, pair[0], pair[1])
		}
	}
	if part.OriginShare.Error <= 0 || part.OriginShare.Error > .03 {
		t.Errorf("the error of six replicas: %v", part.OriginShare)
	}
}

// TestSameSeed: a plan can be made again.
func TestSameSeed(t *testing.T) {
	a, err := sim.Run(small(5000, 7), nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := sim.Run(small(5000, 7), nil)
	if err != nil || a.OriginShare != b.OriginShare || a.EgressPeak != b.EgressPeak {
		t.Errorf("%v and %v, %v", a.OriginShare, b.OriginShare, err)
	}
}

// TestRegionFails: its listeners go to the next region, which is told how full that makes it.
func TestRegionFails(t *testing.T) {
	c := small(20_000, 1)
	c.People, c.Fail = 1e5, "ams"
	c.Countries = []sim.Country{{Code: "NL", Weight: 2, UTC: 1}, {Code: "US", Weight: 1, UTC: -5}}
	c.Regions = []sim.Region{{Name: "ams", At: geo.Point{Lat: 52.4, Lon: 4.9}}, {Name: "iad", At: geo.Point{Lat: 39, Lon: -77.5}}}
	c.Edge.Bps = 1e8
	p, err := sim.Run(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	ams, iad := p.Regions[0], p.Regions[1]
	if p.Failed != "ams" || iad.FailLoad <= iad.PeakBps/(float64(iad.Edges)*1e8)*1.2 || p.FailOrigin <= 0 || len(p.FailBreaks) == 0 || p.FailBreaks[0].What != "iad: bandwidth" {
		t.Errorf("failed %s, %+v, %+v", p.Failed, iad, p.FailBreaks)
	}
	if ams.Edges <= iad.Edges || p.Breaks[0].Used > 1.1 || p.Breaks[0].Used < .3 || ams.Away > .05 {
		t.Errorf("%+v, %+v: sized for its peak and the reserve", ams, p.Breaks)
	}
	if got := p.EgressPeak / (ams.PeakBps + iad.PeakBps); got < .6 || got > 1.01 {
		t.Errorf("the peak of all is %.2f of the sum of the peaks", got)
	}
	var b strings.Builder
	p.Print(&b)
	if err := p.Write(&b); err != nil || !strings.Contains(b.String(), "when ams fails") {
		t.Error(err, b.String())
	}
}

// TestLarger: more memory hits more, and a play that counts once for each block leaves more room than one that counts for each segment.
func TestLarger(t *testing.T) {
	run := func(change func(*sim.Config)) float64 {
		c := small(20_000, 3)
		change(&c)
		p, err := sim.Run(c, nil)
		if err != nil {
			t.Fatal(err)
		}
		return p.OriginShare.Value
	}
	base := run(func(*sim.Config) {})
	if more := run(func(c *sim.Config) { c.Edge.Disk *= 4 }); more >= base {
		t.Errorf("origin %.4f with four times the disk, %.4f without", more, base)
	}
	if few := run(func(c *sim.Config) { c.Popularity.Tracks = 300 }); few >= base/2 {
		t.Errorf("origin %.4f with 300 tracks, %.4f with 30,000", few, base)
	}
	t.Logf("origin %.4f; if the segments of one play counted once, %.4f", base, run(func(c *sim.Config) { c.AskOnce = true }))
}

func TestFitLog(t *testing.T) {
	var log strings.Builder
	log.WriteString("at,track_id,plays\n")
	for i := range 5000 {
		fmt.Fprintf(&log, "x,t%d,%d\n", i, int(1e6*math.Pow(float64(i+1), -.9)))
	}
	p, err := sim.FitLog(strings.NewReader(log.String()))
	if err != nil {
		t.Fatal(err)
	}
	if p.Tracks != 5000 {
		t.Errorf("%g tracks", p.Tracks)
	}
	for _, k := range p.Knots {
		if want := 1e6 * math.Pow(k.Rank, -.9); math.Abs(k.Plays-want) > .03*want+1 {
			t.Errorf("rank %g: %g plays, want %g", k.Rank, k.Plays, want)
		}
	}
	for _, bad := range []string{"", "a,b\n1,2\n", "track\nx\n", "track,count\nx,1\ny,many\n", "track\n\"x\n"} {
		if _, err := sim.FitLog(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
	if one, err := sim.FitLog(strings.NewReader("track\na\na\nb\n")); err != nil || one.Tracks != 2 || one.Knots[0].Plays != 2 {
		t.Errorf("a line per play: %+v, %v", one, err)
	}
}

func TestRefuses(t *testing.T) {
	for name, change := range map[string]func(*sim.Config){
		"people": func(c *sim.Config) { c.People = -1 }, "country": func(c *sim.Config) { c.Countries[0].Code = "XX" }, "region": func(c *sim.Config) { c.Fail = "nowhere" },
		"popularity": func(c *sim.Config) {
			c.Popularity = sim.Popularity{Tracks: 10, Knots: []sim.Knot{{Rank: 1, Plays: 1}, {Rank: 2, Plays: 5}}}
		}, "reserve": func(c *sim.Config) { c.Reserve = 1 },
		"number": func(c *sim.Config) { c.HoursMonth = math.NaN() },
	} {
		c := small(5000, 1)
		change(&c)
		if _, err := sim.Run(c, nil); err == nil {
			t.Errorf("%s was not refused", name)
		}
	}
	if _, err := sim.ParseConfig([]byte(`{"Peple": 1}`)); err == nil {
		t.Error("an unknown member")
	}
}

// BenchmarkHundredMillion plans for 100 million monthly listeners in sixteen regions: one day after one of warming up.
//
//	go test -run '^$' -bench HundredMillion -benchtime 1x ./loadtest/sim
func BenchmarkHundredMillion(b *testing.B) {
	for b.Loop() {
		p, err := sim.Run(sim.Config{People: 100e6}, nil)
		if err != nil {
			b.Fatal(err)
		}
		var text strings.Builder
		p.Print(&text)
		b.Log(text.String())
		b.ReportMetric(float64(p.MemoryInUse)/(1<<20), "MiB")
	}
}
