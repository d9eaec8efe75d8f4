package geo

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Policy tunes Decide. The zero value is the default.
type Policy struct {
	Max    int     `json:"max,omitempty"`     // picks at most; zero: 3
	BandKm float64 `json:"band_km,omitempty"` // nodes nearer than this are equals; further away, those within a quarter of the distance; zero: 100
	Tier   Tier    `json:"tier,omitempty"`    // the nodes wanted
	// LoadBound is the LoadRatio from which a node passes clients on to the next of its band, a growing part of them up to
	// all at 1. It is a part, and not a switch, so that the load settles between the two; zero: 0.8.
	LoadBound float64 `json:"load_bound,omitempty"`
	// CanaryPercent of the clients get the nodes marked Canary first among equals; nobody else gets those at all.
	CanaryPercent float64            `json:"canary_percent,omitempty"`
	Weights       map[string]float64 `json:"weights,omitempty"` // by pool: times Node.Weight; a pool without an entry has 1; 0: none of its nodes
	Regions       map[string]Region  `json:"regions,omitempty"` // by name; a region without an entry has the zero Region
}

// share is Node.share with the policy's weight of the node's pool.
func (p *Policy) share(n *Node) float64 {
	if len(p.Weights) > 0 {
		if w, ok := p.Weights[n.Pool]; ok {
			return w * n.share()
		}
	}
	return n.share()
}

// Region is how one region is treated.
type Region struct {
	Rule
	// Fallback are the regions that its clients get when it has no room, in this order, before any other. Empty: by
	// distance.
	Fallback []string `json:"fallback,omitempty"`
	// SpillAt is the region's mean LoadRatio from which a growing part of its clients, up to all at 1, goes to the next
	// region that has room; zero: 0.9.
	SpillAt float64 `json:"spill_at,omitempty"`
}

// Validate finds what cannot be meant.
func (p Policy) Validate() error {
	ratio := func(name string, v, most float64) error {
		if v < 0 || v > most {
			return fmt.Errorf("%s: want 0 to %g", name, most)
		}
		return nil
	}
	err := cmp.Or(ratio("max", float64(p.Max), 16), ratio("band_km", p.BandKm, 20000), ratio("load_bound", p.LoadBound, 1), ratio("canary_percent", p.CanaryPercent, 100))
	for name, w := range p.Weights {
		err = cmp.Or(err, ratio("weights."+name, w, 100))
	}
	for name, r := range p.Regions {
		err = cmp.Or(err, ratio("regions."+name+".spill_at", r.SpillAt, 1))
		for _, other := range r.Fallback {
			if other == name {
				err = cmp.Or(err, fmt.Errorf("regions.%s.fallback: a region is not its own", name))
			}
		}
		for _, e := range slices.Concat(r.Only, r.Never) {
			_, country := Centroid(e)
			if number, network := strings.CutPrefix(e, "AS"); !country && (!network || number == "" || strings.Trim(number, "0123456789") != "") {
				err = cmp.Or(err, fmt.Errorf("regions.%s: %q: want a country of ISO 3166-1 (NL) or a network (AS1136)", name, e))
			}
		}
	}
	return err
}

// ParsePolicy reads a policy in JSON; unknown members are errors.
func ParsePolicy(b []byte) (Policy, error) {
	var p Policy
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return p, err
	}
	return p, p.Validate()
}

// Reason says why a node was picked or not. The texts are stable: dashboards and tests may switch on them.
type Reason string

// Reasons of picks.
const (
	Nearest     Reason = "nearest"      // alone in its band
	Hashed      Reason = "hash"         // the object's own among equals
	LeastLoaded Reason = "least-loaded" // the least loaded among equals
	NextBest    Reason = "next-best"    // for when those before it fail
	Overflow    Reason = "overflow"     // a node before it in the hash order is over its bound
	Spilled     Reason = "spill-over"   // the client's region has no room
	Fallback    Reason = "fallback"     // the policy's region for when the client's has nothing
	CanaryPick  Reason = "canary"
)

// Reasons of rejections.
const (
	Unhealthy       Reason = "no-heartbeat"
	ProbeFailed     Reason = "probe-failed" // and nothing is heard from it
	PlayersComplain Reason = "players-report-errors"
	Flapping        Reason = "flapping" // it came and went too often in the last minutes
	WrongClock      Reason = "clock-is-wrong"
	Draining        Reason = "draining"
	OtherTier       Reason = "other-tier"
	PoolOff         Reason = "pool-off"    // the policy gives the node's pool no weight
	NodeRule        Reason = "node-rule"   // the node's own rule is against the client's country or network
	RegionRule      Reason = "region-rule" // its region's is
	NotCanary       Reason = "canary-only"
	NotAmongTheMax  Reason = "not-among-the-best"
)

// Decision is the answer: nodes best first, and why each other node was not picked.
type Decision struct {
	Picks    []Pick
	Rejected []Rejection // in the order of the nodes given, those that lost by rank last
	Home     string      // region of the nearest node that may serve the client, healthy or not; empty: there is none
	Spill    bool        // the client was sent away from Home for its load
	Canary   bool        // the client is one of Policy.CanaryPercent
}

// Pick is one chosen node. DistanceKm is -1 when the client's place is unknown.
type Pick struct {
	Node
	DistanceKm float64
	Reason     Reason
}

// Rejection is one node that was not chosen.
type Rejection struct {
	Name   string
	Region string
	Pool   string
	Reason Reason
}

// candidate is a usable node while it is ranked. The fields stand in the order in which they count.
type candidate struct {
	full   bool // nothing more fits in
	region int  // 0: as near as it is; else what fallback or spill-over make of its region
	band   int
	canary bool
	passed bool    // this client is passed on
	score  float64 // of the rendezvous, higher is better; without an object: minus the load
	km     float64
	node   int // index in the list given
}

// ring is what is known of a place with nodes.
type ring struct {
	at   Point
	km   float64
	band int
}

// bandOf numbers rings around a client: the first is bandKm wide, each further one ends at a quarter more. The rings do
// not depend on which nodes there are, so that a node that comes or goes changes nobody else's rank.
func bandOf(km, bandKm float64) int {
	if km < bandKm {
		return 0
	}
	const log125 = 0.22314355131420976 // ln 1.25
	return 1 + int(math.Log(km/bandKm)/log125)
}

// Decide ranks nodes for one client, best first. It drops what is not usable (health, drain, tier, rules, canaries),
// rings the rest by distance, and within a ring gives every object its own order of the nodes (rendezvous hashing by
// share): a node that leaves moves only its own objects, a new one takes its share from all. A node over its bound passes
// clients on in that order, a region over its threshold to the next region. An unknown place is one ring. It does no I/O
// and cannot fail: with no usable node Picks is empty.
func Decide(c Client, nodes []Node, p Policy) Decision {
	p.Max, p.BandKm, p.LoadBound = cmp.Or(p.Max, 3), cmp.Or(p.BandKm, 100), cmp.Or(p.LoadBound, 0.8)
	var d Decision
	who, object, network := hash(c.ID), hash(c.Object), ""
	if c.ASN != 0 {
		var text [12]byte
		network = string(strconv.AppendUint(append(text[:0], "AS"...), uint64(c.ASN), 10))
	}
	d.Canary = p.CanaryPercent > 0 && fraction(mix(who^canarySalt)) < p.CanaryPercent/100
	var few [24]candidate
	some := few[:0]
	home, homeKm := -1, math.Inf(1) // the nearest that may serve the client at all
	rejected := 0
	var why [64]Reason
	reasons := why[:0]
	var rings [8]ring // nodes of one region have one place: the trigonometry is done once for it
	known := 0
	for i := range nodes {
		n := &nodes[i]
		km, band := -1.0, 0
		if c.OK {
			at := 0
			for at < known && rings[at].at != n.At {
				at++
			}
			if at < known {
				km, band = rings[at].km, rings[at].band
			} else {
				km = DistanceKm(c.Point, n.At)
				band = bandOf(km, p.BandKm)
				if known < len(rings) {
					rings[known] = ring{n.At, km, band}
					known++
				}
			}
		}
		reason := refuse(n, &c, network, &p, d.Canary)
		if reason == "" || passing(reason) {
			tied := c.Region != "" && n.Region == c.Region
			at := km
			if tied {
				at = -2
			}
			if at < homeKm || at == homeKm && n.Region < nodes[home].Region {
				home, homeKm = i, at
			}
		}
		reasons = append(reasons, reason)
		if reason != "" {
			rejected++
			continue
		}
		k := candidate{full: n.LoadRatio >= 1, canary: n.Canary, km: km, band: band, node: i}
		if c.Object == "" {
			k.score = -n.LoadRatio
		} else {
			// Weighted rendezvous: the node with the highest -share/ln(u) wins with a probability of share over all shares.
			pair := object ^ hash(n.Name)
			k.score = -p.share(n) / math.Log(fraction(mix(pair)))
			k.passed = n.LoadRatio > p.LoadBound && over(n.LoadRatio, p.LoadBound, mix(who^pair^passSalt))
		}
		some = append(some, k)
	}
	if home >= 0 && (c.OK || c.Region != "") {
		d.Home = nodes[home].Region
		d.Spill = orderRegions(some, nodes, d.Home, who, &p, c.Region != "")
	}
	slices.SortFunc(some, func(a, b candidate) int {
		return cmp.Or(order(a.full, b.full), cmp.Compare(a.region, b.region), cmp.Compare(a.band, b.band), order(b.canary, a.canary), order(a.passed, b.passed),
			cmp.Compare(b.score, a.score), strings.Compare(nodes[a.node].Name, nodes[b.node].Name))
	})
	picked := min(p.Max, len(some))
	if picked > 0 {
		d.Picks = make([]Pick, picked)
	}
	for i := range picked {
		d.Picks[i] = Pick{nodes[some[i].node], some[i].km, explain(i, some, nodes, &c, &d)}
	}
	if rejected+len(some) > picked {
		d.Rejected = make([]Rejection, 0, rejected+len(some)-picked)
	}
	for i, reason := range reasons {
		if reason != "" {
			d.Rejected = append(d.Rejected, Rejection{nodes[i].Name, nodes[i].Region, nodes[i].Pool, reason})
		}
	}
	for _, k := range some[picked:] {
		d.Rejected = append(d.Rejected, Rejection{nodes[k.node].Name, nodes[k.node].Region, nodes[k.node].Pool, NotAmongTheMax})
	}
	return d
}

// refuse says why a node cannot serve a client, or "".
func refuse(n *Node, c *Client, network string, p *Policy, canary bool) Reason {
	switch {
	case n.Tier.normal() != p.Tier.normal():
		return OtherTier
	case len(p.Weights) > 0 && p.share(n) == 0:
		return PoolOff
	case !n.Rule.allows(c.Country, network):
		return NodeRule
	case n.Canary && !canary:
		return NotCanary
	}
	if len(p.Regions) > 0 {
		if r, ok := p.Regions[n.Region]; ok && !r.Rule.allows(c.Country, network) {
			return RegionRule
		}
	}
	switch {
	case !n.Healthy:
		return cmp.Or(n.Why, Unhealthy)
	case n.Draining:
		return Draining
	case n.ClockWrong && c.Tokens:
		return WrongClock
	}
	return ""
}

// passing reports whether a rejection is for the node's state of now, and not for a rule.
func passing(r Reason) bool {
	return r == Unhealthy || r == Draining || r == WrongClock || r == ProbeFailed || r == PlayersComplain || r == Flapping
}

// Ranks of regions. Without a policy and with room at home all have rank 0, and only distance counts.
const (
	rankHome  = 0
	rankAfter = 1 << 10 // of home after a spill-over: behind the fallbacks, before the rest
	rankRest  = 1 << 11
)

// orderRegions sets candidate.region, and reports whether the client spills over. tied: home is the client's by a rule,
// so that it comes first however far it is.
func orderRegions(some []candidate, nodes []Node, home string, who uint64, p *Policy, tied bool) bool {
	policy := p.Regions[home]
	spill := false
	if load, ok := regionLoad(some, nodes, home); ok && over(load, cmp.Or(policy.SpillAt, 0.9), mix(who^hash(home)^spillSalt)) {
		// To the first of the policy that has room, else to the nearest that has.
		next := ""
		for _, name := range policy.Fallback {
			if load, ok := regionLoad(some, nodes, name); ok && name != home && load < cmp.Or(p.Regions[name].SpillAt, 0.9) {
				next = name
				break
			}
		}
		if next == "" {
			band := math.MaxInt
			for i := range some {
				name := nodes[some[i].node].Region
				if name == home || some[i].band > band || some[i].band == band && name >= next {
					continue
				}
				if load, _ := regionLoad(some, nodes, name); load < cmp.Or(p.Regions[name].SpillAt, 0.9) {
					next, band = name, some[i].band
				}
			}
		}
		if next != "" {
			spill = true
			for i := range some {
				switch nodes[some[i].node].Region {
				case next:
					some[i].region = rankHome
				case home:
					some[i].region = rankAfter
				default:
					some[i].region = rankRest
				}
			}
		}
	}
	if spill || len(policy.Fallback) == 0 && !tied {
		return spill
	}
	for i := range some {
		name := nodes[some[i].node].Region
		if name == home {
			some[i].region = rankHome
		} else if at := slices.Index(policy.Fallback, name); at >= 0 {
			some[i].region = 1 + at
		} else {
			some[i].region = rankRest
		}
	}
	return false
}

// regionLoad is the mean load of the usable nodes of a region, by their share; ok false: it has none.
func regionLoad(some []candidate, nodes []Node, region string) (load float64, ok bool) {
	var sum, shares float64
	for i := range some {
		if n := &nodes[some[i].node]; n.Region == region {
			s := n.share()
			sum, shares = sum+s*n.LoadRatio, shares+s
		}
	}
	return sum / shares, shares > 0
}

// over draws, by a hash, whether somebody is passed on: nobody at the bound, everybody at 1.
func over(load, bound float64, h uint64) bool {
	return load > bound && fraction(h)*(1-bound) <= load-bound
}

// explain says why the pick at i stands there.
func explain(i int, some []candidate, nodes []Node, c *Client, d *Decision) Reason {
	k := &some[i]
	if i > 0 {
		return NextBest
	}
	switch region := nodes[k.node].Region; {
	case d.Spill && region != d.Home:
		return Spilled
	case k.region > rankHome:
		return Fallback
	case k.canary:
		return CanaryPick
	}
	equals := 0
	for j := range some {
		o := &some[j]
		if o.region != k.region || o.band != k.band {
			continue
		}
		equals++
		if o.score > k.score && (o.passed || o.full) && c.Object != "" {
			return Overflow
		}
	}
	switch {
	case equals == 1 && c.OK:
		return Nearest
	case c.Object != "":
		return Hashed
	}
	return LeastLoaded
}

func order(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// Salts make draws of the same client independent of each other.
const (
	canarySalt = 0x9ae16a3b2f90404f
	passSalt   = 0xc949d7c7509e6557
	spillSalt  = 0xff51afd7ed558ccd
)

// hash is 64-bit FNV-1a. It is the same on every replica and in every release: caches stay warm over an update.
func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// mix is the finalizer of SplitMix64: FNV's high bits alone are poor for short names.
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// fraction maps a hash to (0, 1).
func fraction(h uint64) float64 { return (float64(h>>11) + 0.5) / (1 << 53) }
