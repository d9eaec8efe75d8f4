package api

import (
	"time"

	"segue/media"
)

// Explanation answers GET /v1/admin/explain (admin scope fleet): where a client would be sent now, and why not elsewhere.
type Explanation struct {
	IP       string             `json:"ip"`
	Place    ExplainedPlace     `json:"place"`
	TrackID  media.TrackID      `json:"track_id,omitempty"`
	Object   string             `json:"object,omitempty"` // what the choice among equals was made for: a track's folder, a path
	Policy   string             `json:"policy,omitempty"` // declared steering policy that decided; empty: the operator's file and the regions
	Home     string             `json:"home_region,omitempty"`
	Spill    bool               `json:"spill_over"` // sent away from its region for its load
	Canary   bool               `json:"canary"`     // among the clients that canary edges get
	Picks    []ExplainedEdge    `json:"picks"`      // best first
	Rejected []ExplainedEdge    `json:"rejected"`
	Files    []ExplainedGeoFile `json:"files"` // that places come from
}

// ExplainedPlace is what is known of an address. Latitude and Longitude are missing when they are not known.
type ExplainedPlace struct {
	Latitude  *float64 `json:"latitude,omitempty"`
	Longitude *float64 `json:"longitude,omitempty"`
	Country   string   `json:"country,omitempty"`
	ASN       uint32   `json:"asn,omitempty"`
	Region    string   `json:"region,omitempty"` // that an own rule ties it to
	Source    string   `json:"source,omitempty"` // rule, database, country (a centroid), home
}

// ExplainedEdge is one edge of a decision. Reason is one of a closed set: nearest, hash, least-loaded, next-best, overflow,
// spill-over, fallback, canary; of rejected ones no-heartbeat, draining, other-tier, pool-off, node-rule, region-rule,
// canary-only,
// not-among-the-best.
type ExplainedEdge struct {
	Name       string   `json:"name"`
	Region     string   `json:"region"`
	Pool       string   `json:"pool,omitempty"`
	URL        string   `json:"url,omitempty"`
	DistanceKm *float64 `json:"distance_km,omitempty"`
	LoadRatio  *float64 `json:"load_ratio,omitempty"`
	Reason     string   `json:"reason"`
}

// ExplainedGeoFile is one file that addresses are placed with.
type ExplainedGeoFile struct {
	Name    string    `json:"name"` // places, networks, rules
	Path    string    `json:"path"`
	Type    string    `json:"type,omitempty"`
	BuiltAt time.Time `json:"built_at"`
	ReadAt  time.Time `json:"read_at"`
	Error   string    `json:"error,omitempty"` // why a newer file is not in use
}
