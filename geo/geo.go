// Package geo places clients and chooses nodes for them.
//
//	address -> Locator (own rules, MMDB files, centroids of countries) -> Place -> Decide -> Decision
//
// Decide is pure. What prints its answer (steering manifest, redirect, DNS) is elsewhere.
package geo

import (
	"math"
	"strings"
)

// Point is a place on the globe, in degrees; north and east are positive.
type Point struct{ Lat, Lon float64 }

// Place is what is known of a client's whereabouts. OK false: Point is not known; the other fields may be nevertheless.
type Place struct {
	Point
	Country string // ISO 3166-1 alpha-2, or empty
	OK      bool
	ASN     uint32 // autonomous system number; 0: not known
	Region  string // a region that an own rule ties the client to; empty: the nearest
	Source  string // where Point comes from: rule, database, country (a centroid), home; empty: not known
}

// DistanceKm is the great-circle distance, on a sphere of the Earth's mean radius.
func DistanceKm(a, b Point) float64 {
	const radius, deg = 6371.0088, math.Pi / 180
	sLat, sLon := math.Sin((b.Lat-a.Lat)*deg/2), math.Sin((b.Lon-a.Lon)*deg/2)
	h := sLat*sLat + math.Cos(a.Lat*deg)*math.Cos(b.Lat*deg)*sLon*sLon
	return 2 * radius * math.Asin(math.Min(1, math.Sqrt(h)))
}

// Tier says what a node is for.
type Tier string

// Tiers. Players are sent to edges; edges ask shields before the origin.
const (
	TierEdge   Tier = "" // also written "edge"
	TierShield Tier = "shield"
)

func (t Tier) normal() Tier {
	if t == "edge" {
		return TierEdge
	}
	return t
}

// Rule says whom a node or region may serve. An entry is a country ("NL", ISO 3166-1 alpha-2) or a network ("AS1136").
// Only: nobody else, so a client of whom neither is known is refused. Never counts before Only. The zero value is
// everybody.
type Rule struct {
	Only  []string `json:"only,omitempty"`
	Never []string `json:"never,omitempty"`
}

// allows names the entry that decided, for the explanation.
func (r *Rule) allows(country, network string) bool {
	for _, e := range r.Never {
		if matches(e, country, network) {
			return false
		}
	}
	for _, e := range r.Only {
		if matches(e, country, network) {
			return true
		}
	}
	return len(r.Only) == 0
}

func matches(entry, country, network string) bool {
	return entry != "" && (strings.EqualFold(entry, country) || strings.EqualFold(entry, network))
}

// Node is one server, as the registry sees it now.
type Node struct {
	ID          string
	Name        string
	Region      string
	URL         string // scheme://host[:port]
	At          Point
	Healthy     bool
	Why         Reason // when it is not Healthy; empty: Unhealthy
	Draining    bool
	ClockWrong  bool    // by more than tokens allow: it would refuse good ones, and take old ones
	LoadRatio   float64 // 0..1 of what it can take
	Tier        Tier
	Weight      float64 // its share among equals, beside its capacity; zero: 1
	CapacityBps float64 // what it can send; zero: 1 Gbit/s
	Canary      bool    // serves only the clients of Policy.CanaryPercent
	Rule        Rule
	Pool        string // which Policy.Weights names; empty: none
}

// defaultCapacityBps is taken for a node that does not say what it can send.
const defaultCapacityBps = 1e9

// share is the part of the objects of a band that a node gets, relative to the others.
func (n *Node) share() float64 {
	w, c := n.Weight, n.CapacityBps
	if w == 0 {
		w = 1
	}
	if c == 0 {
		c = defaultCapacityBps
	}
	return w * c / defaultCapacityBps
}

// Client is who asks, and for what. A Place alone is enough: then nodes that are equally near are ranked by load.
type Client struct {
	Place
	// ID decides who is a canary and who is passed on when a node is full: an account, a play, a network. May be empty.
	ID string
	// Object spreads over the equally near nodes, each object always to the same one, so that their caches hold different
	// things: a track's folder, a path. Empty: the least loaded one.
	Object string
	// Tokens: what the client gets holds a token with a beginning and an end, so that nodes with a wrong clock are no use.
	Tokens bool
}
