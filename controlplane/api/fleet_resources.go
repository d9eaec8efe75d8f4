package api

import "time"

// The fleet is configured by resources that are declared by name. All have the same verbs (admin scope "fleet"):
//
//	GET    /v1/admin/<kinds>          -> Page[X], by name; ?cursor=&limit=
//	GET    /v1/admin/<kinds>/{name}   -> X, ETag = its revision
//	PUT    /v1/admin/<kinds>/{name}   NewX -> X. If-None-Match: * creates (412: it exists), If-Match changes (412: somebody
//	                                  else did meanwhile; 404: it is gone; 428: neither header, and it differs)
//	DELETE /v1/admin/<kinds>/{name}   204; 409 in-use, with those that use it in errors
//
// kinds: regions, pools, origins, routes, steering-policies, signing-keys. What is written is made canonical (sets sorted,
// hosts in lower case, networks masked) and checked with everything else: 422 with the field at fault. Each change is a
// revision, GET /v1/admin/fleet/revisions. Regions, pools and signing keys count at once; origins, routes and steering
// policies count when a release that holds them is active.

// States of regions and pools.
const (
	StateActive   = "active"
	StateDraining = "draining" // players are sent elsewhere
	StateDisabled = "disabled" // as draining, and no edge may join
	StateInactive = "inactive" // of a route: edges do not have it
	StateRevoked  = "revoked"  // of a signing key: nothing that it signed is good any more
)

// NewRegion declares a region. Only and Never hold countries (NL) and networks (AS1136).
type NewRegion struct {
	DisplayName string            `json:"display_name" maxLength:"200"`
	Latitude    float64           `json:"latitude"`
	Longitude   float64           `json:"longitude"`
	State       string            `json:"state,omitempty" enum:"active,draining,disabled"` // default active
	Fallback    []string          `json:"fallback,omitempty" maxItems:"32"`                // regions for when this one has nothing or no room, in order; default by distance
	SpillAt     float64           `json:"spill_at,omitempty" minimum:"0" maximum:"1"`      // mean load from which it passes clients on; default 0.9
	Only        []string          `json:"only,omitempty" maxItems:"300"`                   // whom it serves; empty: everybody
	Never       []string          `json:"never,omitempty" maxItems:"300"`                  // whom it does not serve
	ClientCIDRs []string          `json:"client_cidrs,omitempty" maxItems:"1000"`          // clients that belong to it, however far they are
	Labels      map[string]string `json:"labels,omitempty" maxProperties:"50"`             // for people and programs of the operator
}

// Region is a place with edges. DrainUntil: it is being deleted; it goes when its edges serve nobody any more, then at the
// latest.
type Region struct {
	Name string `json:"name"` // [a-z0-9-]{1,63}
	NewRegion
	Revision   int64      `json:"revision"`
	DrainUntil *time.Time `json:"drain_until,omitempty"`
}

// NewEdgePool declares how edges of a region are used. An edge belongs to the pool with the longest pattern that matches its
// name; one that is in no pool serves as if in one with the defaults.
type NewEdgePool struct {
	Region       string   `json:"region" minLength:"1" maxLength:"63"`
	Match        []string `json:"match,omitempty" maxItems:"100"`                        // names of edges, * is any text; default *
	Tier         string   `json:"tier,omitempty" enum:"edge,shield"`                     // default edge: players are sent there
	Weight       float64  `json:"weight,omitempty" minimum:"0" maximum:"100"`            // share among equals, beside the capacity; default 1
	CapacityMbps int64    `json:"capacity_mbps,omitempty" minimum:"0" maximum:"1000000"` // of each edge; default 1000
	Canary       bool     `json:"canary,omitempty"`                                      // only for a steering policy's canary_percent of clients
	State        string   `json:"state,omitempty" enum:"active,draining"`                // default active
	Only         []string `json:"only,omitempty" maxItems:"300"`
	Never        []string `json:"never,omitempty" maxItems:"300"`
}

// EdgePool is a declared pool.
type EdgePool struct {
	Name string `json:"name"`
	NewEdgePool
	Revision int64 `json:"revision"`
}

// NewOrigin declares where edges fetch from: http(s)://host[:port][/path], or s3://bucket[/prefix]?endpoint=… with the
// credentials that each edge has in its environment. AuthHeader is sent with Secret as its value; Secret is never given out
// again but to edges. To change it, send another with a higher SecretVersion; without Secret it stays.
type NewOrigin struct {
	URL                string `json:"url" minLength:"1" maxLength:"2000"`
	HostHeader         string `json:"host_header,omitempty" maxLength:"253"`                       // default: the URL's
	ConnectTimeoutMS   int    `json:"connect_timeout_ms,omitempty" minimum:"0" maximum:"60000"`    // default 2000
	FirstByteTimeoutMS int    `json:"first_byte_timeout_ms,omitempty" minimum:"0" maximum:"60000"` // default 10000
	MaxRequests        int    `json:"max_requests,omitempty" minimum:"0" maximum:"10000"`          // of one edge at once; default 128
	FreshSeconds       int    `json:"fresh_seconds,omitempty" minimum:"0" maximum:"31536000"`      // objects of a bucket are used so long without asking; default 60
	AuthHeader         string `json:"auth_header,omitempty" maxLength:"100"`                       // such as Authorization
	Secret             string `json:"secret,omitempty" maxLength:"4096" writeOnly:"true"`          // value of AuthHeader
	SecretVersion      int64  `json:"secret_version,omitempty" minimum:"0"`                        // the caller's number of the secret
	SecretID           string `json:"secret_id,omitempty" maxLength:"64" readOnly:"true"`          // names the secret that is kept; what is sent is not looked at
}

// Origin is a declared origin. Secret is empty.
type Origin struct {
	Name string `json:"name"`
	NewOrigin
	Revision int64 `json:"revision"`
}

// NewRoute declares a delivery: the part of the edges' URL space below Prefix is an origin's. The longest prefix counts, and
// before the routes of an edge's own flags.
type NewRoute struct {
	Prefix         string   `json:"prefix" minLength:"1" maxLength:"1000"` // begins and ends with a slash
	Origin         string   `json:"origin" minLength:"1" maxLength:"63"`
	Public         bool     `json:"public,omitempty"`                         // no token is needed; default: one is, but for pictures (art/)
	Regions        []string `json:"regions,omitempty" maxItems:"300"`         // whose edges have it; empty: all
	State          string   `json:"state,omitempty" enum:"active,inactive"`   // default active
	SteeringPolicy string   `json:"steering_policy,omitempty" maxLength:"63"` // how edges are chosen for it; default: the policy named "default", if there is one
}

// Route is a declared route.
type Route struct {
	Name string `json:"name"`
	NewRoute
	Revision int64 `json:"revision"`
}

// NewSteeringPolicy declares how edges are chosen: docs/steering.md says what each member means. What it says of a region
// counts before what the region says of itself.
type NewSteeringPolicy struct {
	Max           int                     `json:"max,omitempty" minimum:"0" maximum:"16"`
	BandKm        float64                 `json:"band_km,omitempty" minimum:"0" maximum:"20000"`
	LoadBound     float64                 `json:"load_bound,omitempty" minimum:"0" maximum:"1"`
	CanaryPercent float64                 `json:"canary_percent,omitempty" minimum:"0" maximum:"100"`
	Weights       map[string]float64      `json:"weights,omitempty" maxProperties:"300"` // by pool: its edges' weight is multiplied by it; 0: none of them
	Regions       map[string]PolicyRegion `json:"regions,omitempty" maxProperties:"300"` // by region
}

// PolicyRegion is how a policy treats a region.
type PolicyRegion struct {
	Fallback []string `json:"fallback,omitempty" maxItems:"32"`
	SpillAt  float64  `json:"spill_at,omitempty" minimum:"0" maximum:"1"`
	Only     []string `json:"only,omitempty" maxItems:"300"`
	Never    []string `json:"never,omitempty" maxItems:"300"`
}

// SteeringPolicy is a declared policy.
type SteeringPolicy struct {
	Name string `json:"name"`
	NewSteeringPolicy
	Revision int64 `json:"revision"`
}

// NewFleetKey declares a key of somebody else who makes tokens for this fleet's edges (with iss "segue"); its name is their
// kid. HS256 has a Secret, which is never given out again but to edges; EdDSA has the PublicKey. The platform's own keys are
// at /v1/admin/keys.
type NewFleetKey struct {
	Algorithm     string     `json:"algorithm" enum:"HS256,EdDSA"`
	Secret        string     `json:"secret,omitempty" maxLength:"4096" writeOnly:"true"` // at least 32 bytes
	SecretVersion int64      `json:"secret_version,omitempty" minimum:"0"`
	SecretID      string     `json:"secret_id,omitempty" maxLength:"64" readOnly:"true"`
	PublicKey     []byte     `json:"public_key,omitempty" maxLength:"64"`   // Ed25519, 32 bytes
	State         string     `json:"state,omitempty" enum:"active,revoked"` // default active. Revoked counts at once, also in old releases
	NotBefore     *time.Time `json:"not_before,omitempty"`
	NotAfter      *time.Time `json:"not_after,omitempty"`
}

// FleetKey is a declared key. Secret is empty.
type FleetKey struct {
	Name string `json:"name"`
	NewFleetKey
	Revision int64 `json:"revision"`
}
