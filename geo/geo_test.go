package geo_test

import (
	"math"
	"testing"

	"segue/geo"

	"github.com/google/go-cmp/cmp"
)

var (
	amsterdam = geo.Point{Lat: 52.37, Lon: 4.90}
	ashburn   = geo.Point{Lat: 39.04, Lon: -77.49}
)

func TestDistance(t *testing.T) {
	if d := geo.DistanceKm(amsterdam, ashburn); math.Abs(d-6180) > 30 {
		t.Errorf("Amsterdam to Ashburn is %f km", d)
	}
	if d := geo.DistanceKm(geo.Point{Lat: 0, Lon: 179.5}, geo.Point{Lat: 0, Lon: -179.5}); math.Abs(d-111.2) > 1 {
		t.Errorf("over the date line: %f km", d)
	}
}

func TestDecide(t *testing.T) {
	nodes := []geo.Node{
		{Name: "us-1", At: ashburn, Healthy: true},
		{Name: "eu-2", At: amsterdam, Healthy: true, LoadRatio: 0.2},
		{Name: "eu-1", At: amsterdam, Healthy: true, LoadRatio: 0.5},
		{Name: "dead", At: amsterdam},
		{Name: "leaving", At: amsterdam, Healthy: true, Draining: true},
	}
	f := func(why string, c geo.Place, max int, want ...string) {
		t.Helper()
		d := geo.Decide(geo.Client{Place: c}, nodes, geo.Policy{Max: max})
		var got []string
		for _, p := range d.Picks {
			got = append(got, p.Name)
		}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("%s: %s", why, diff)
		}
		if len(got)+len(d.Rejected) != len(nodes) {
			t.Errorf("%s: a node has no reason: %v", why, d.Rejected)
		}
	}
	f("near first, then less loaded", geo.Place{Point: amsterdam, OK: true}, 3, "eu-2", "eu-1", "us-1")
	f("other side", geo.Place{Point: ashburn, OK: true}, 1, "us-1")
	f("unknown place: by load", geo.Place{}, 3, "us-1", "eu-2", "eu-1")
}
