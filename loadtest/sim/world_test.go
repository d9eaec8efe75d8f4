package sim

import (
	"math"
	"testing"
	"time"
)

// TestLuminate: the curve has the sums that the report has.
func TestLuminate(t *testing.T) {
	p := Luminate()
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	all, middle := p.mass(1, p.Tracks+1), p.mass(20.2e3, 558e3)
	if math.Abs(all/5.1e12-1) > .02 || math.Abs(middle/all-.494) > .01 {
		t.Errorf("%.3g streams, %.1f %% of them of tracks with 1e6 to 50e6", all, 100*middle/all)
	}
	exact := 0.0
	z := Popularity{Tracks: 5000, Zipf: .9}
	for r := 1.0; r <= 5000; r++ {
		exact += z.plays(r)
	}
	if got := z.mass(1, 5001); math.Abs(got/exact-1) > 1e-4 {
		t.Errorf("mass %g, want %g", got, exact)
	}
}

// TestDay: the hours' weights are around a peak of 1.6 times the mean, and all countries together listen once.
func TestDay(t *testing.T) {
	c := Config{}
	c.defaults()
	sum, most := 0.0, 0.0
	for _, v := range c.Day {
		sum += v / 24
		most = max(most, v)
	}
	if math.Abs(most/sum-1.6) > .1 {
		t.Errorf("the peak is %.2f times the mean", most/sum)
	}
	mean := 0.0
	for at := range time.Duration(24 * 6) {
		for i := range c.Countries {
			mean += c.rate(&c.Countries[i], at*10*time.Minute) / (24 * 6)
		}
	}
	if math.Abs(mean-1) > 1e-3 {
		t.Errorf("%g plays where there is one", mean)
	}
}
