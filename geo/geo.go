// Package geo places clients and chooses nodes for them. Decide is pure; Locate looks an address up in an MMDB file.
package geo

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// Point is a place on the globe, in degrees; north and east are positive.
type Point struct{ Lat, Lon float64 }

// Place is what is known of a client's whereabouts. OK false: nothing is, and the rest is zero.
type Place struct {
	Point
	Country string // ISO 3166-1 alpha-2, or empty
	OK      bool
}

// DistanceKm is the great-circle distance, on a sphere of the Earth's mean radius.
func DistanceKm(a, b Point) float64 {
	const radius, deg = 6371.0088, math.Pi / 180
	dLat, dLon := (b.Lat-a.Lat)*deg, (b.Lon-a.Lon)*deg
	h := math.Pow(math.Sin(dLat/2), 2) + math.Cos(a.Lat*deg)*math.Cos(b.Lat*deg)*math.Pow(math.Sin(dLon/2), 2)
	return 2 * radius * math.Asin(math.Min(1, math.Sqrt(h)))
}

// Node is one edge, as the registry sees it now.
type Node struct {
	ID        string
	Name      string
	Region    string
	URL       string // scheme://host[:port]
	At        Point
	Healthy   bool
	Draining  bool
	LoadRatio float64 // 0..1 of what it can take
}

// Policy tunes Decide. The zero value is the default.
type Policy struct {
	Max    int     // picks at most; default 3
	BandKm float64 // nodes within so much of the nearest are equals, ranked by load; default 100
}

// Decision is the answer: nodes best first, and why each other node was not picked.
type Decision struct {
	Picks    []Pick
	Rejected map[string]string // node name -> reason
}

// Pick is one chosen node. DistanceKm is -1 when the client's place is unknown.
type Pick struct {
	Node
	DistanceKm float64
}

// Decide ranks nodes for one client: healthy and not draining ones, by distance in bands, then by load, then by name so
// that the answer is stable. An unknown place means rank by load only. With no usable node Picks is empty.
func Decide(client Place, nodes []Node, p Policy) Decision {
	p.Max, p.BandKm = cmp.Or(p.Max, 3), cmp.Or(p.BandKm, 100)
	d := Decision{Rejected: map[string]string{}}
	for _, n := range nodes {
		switch {
		case !n.Healthy:
			d.Rejected[n.Name] = "no heartbeat"
		case n.Draining:
			d.Rejected[n.Name] = "draining"
		default:
			pick := Pick{n, -1}
			if client.OK {
				pick.DistanceKm = DistanceKm(client.Point, n.At)
			}
			d.Picks = append(d.Picks, pick)
		}
	}
	nearest := math.Inf(1)
	for _, k := range d.Picks {
		nearest = min(nearest, k.DistanceKm)
	}
	band := func(k Pick) float64 { return math.Floor((k.DistanceKm - nearest) / p.BandKm) }
	slices.SortStableFunc(d.Picks, func(a, b Pick) int {
		return cmp.Or(cmp.Compare(band(a), band(b)), cmp.Compare(a.LoadRatio, b.LoadRatio), cmp.Compare(a.Name, b.Name))
	})
	if len(d.Picks) > p.Max {
		for _, k := range d.Picks[p.Max:] {
			d.Rejected[k.Name] = fmt.Sprintf("not among the best %d", p.Max)
		}
		d.Picks = d.Picks[:p.Max]
	}
	return d
}
