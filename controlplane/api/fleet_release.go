package api

import "time"

// A release is an immutable snapshot of what edges need: origins, active routes, steering policies, and which keys. An
// activation says which edges run it; going back is activating an older one.
//
//	POST   /v1/admin/fleet/releases           NewRelease -> Release                     (admin scope "fleet", as all)
//	GET    /v1/admin/fleet/releases           -> Page[Release], newest first, without contents
//	GET    /v1/admin/fleet/releases/{number}  -> Release
//	DELETE /v1/admin/fleet/releases/{number}  204; 409 in-use while it is active
//	GET    /v1/admin/fleet/activation         -> Activation, ETag; 404: edges run their own routes
//	PUT    /v1/admin/fleet/activation         NewActivation -> Activation; conditions as of resources
//	DELETE /v1/admin/fleet/activation         204: back to the edges' own routes
//	GET    /v1/admin/fleet/pending            -> PendingChanges: what a release made now would change
//	GET    /v1/admin/fleet/revisions          -> Page[Revision], newest first
//	POST   /v1/admin/fleet/revisions/{number}/rollback   -> Revision that undoes it
//	GET    /v1/admin/fleet                    -> FleetStatus: who runs what
//	GET    /v1/admin/fleet/ip-ranges          -> Page[IPRange]
//	PUT    /v1/fleet/state                    EdgeState -> 204                          (edge), after each configuration

// NewRelease makes a release of the resources as they are now.
type NewRelease struct {
	Note string `json:"note,omitempty" maxLength:"1000"`
}

// Release never changes. Digest names its contents: two releases with the same digest are the same to edges.
type Release struct {
	Number    int64            `json:"number"`
	Digest    string           `json:"digest"`
	Revision  int64            `json:"revision"` // of the resources that it holds
	CreatedAt time.Time        `json:"created_at"`
	Author    string           `json:"author"`
	Note      string           `json:"note,omitempty"`
	Contents  *ReleaseContents `json:"contents,omitempty"` // not in lists
}

// ReleaseContents is what a release holds, each by name. Secrets are in it by their ids.
type ReleaseContents struct {
	Origins          []Origin         `json:"origins"`
	Routes           []Route          `json:"routes"`
	SteeringPolicies []SteeringPolicy `json:"steering_policies"`
	Keys             []FleetKey       `json:"keys"`
}

// NewActivation gives a release to edges. With Percent below 100 or with Regions the other edges keep what they had: Percent
// of the edges (of those regions) is drawn by a hash of the edge's id, so a higher one has all those of a lower one; one edge at
// least. At 100 without regions the release is everybody's, and its steering policies count.
type NewActivation struct {
	Release int64    `json:"release" minimum:"1"`
	Percent *float64 `json:"percent,omitempty" minimum:"0" maximum:"100"` // default 100
	Regions []string `json:"regions,omitempty" maxItems:"300"`
}

// Activation is who is to run what.
type Activation struct {
	NewActivation
	Base     int64 `json:"base"` // release of all other edges; 0: none
	Revision int64 `json:"revision"`
}

// PendingChanges is what a release made now would change in the active one.
type PendingChanges struct {
	Release  int64    `json:"release"`  // that is active, or on its way; 0: none
	Revision int64    `json:"revision"` // of the resources now
	Changes  []Change `json:"changes"`
}

// Change is one resource's part of a revision. Patch is a JSON merge patch (RFC 7396) from what was to what is; of what was
// made, all of it; of what was deleted, what it was.
type Change struct {
	Kind   string         `json:"kind"` // region, pool, origin, route, steering-policy, signing-key, activation
	Name   string         `json:"name"`
	Action string         `json:"action" enum:"created,updated,deleted"`
	Patch  map[string]any `json:"patch"`
}

// Revision is one change of the fleet's configuration, whole.
type Revision struct {
	Number    int64     `json:"number"`
	CreatedAt time.Time `json:"created_at"`
	Author    string    `json:"author"` // name of the admin token
	Undoes    int64     `json:"undoes,omitempty"`
	Changes   []Change  `json:"changes"`
}

// FleetStatus is who runs what.
type FleetStatus struct {
	Revision   int64       `json:"revision"` // of the resources
	Activation *Activation `json:"activation,omitempty"`
	Edges      []FleetEdge `json:"edges"`
}

// FleetEdge is one edge in the fleet's status.
type FleetEdge struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Region   string    `json:"region"`
	Pool     string    `json:"pool,omitempty"`
	State    string    `json:"state"` // healthy, draining, dead
	LastSeen time.Time `json:"last_seen"`
	Version  string    `json:"version,omitempty"`

	Wanted        int64      `json:"wanted_release"`            // 0: its own routes
	Release       int64      `json:"release"`                   // that it serves with
	Since         *time.Time `json:"since,omitempty"`           // it serves with it
	LagSeconds    float64    `json:"lag_seconds"`               // since when it should run another; 0: it runs what it should
	Refused       int64      `json:"refused_release,omitempty"` // the one that it would not take
	RefusedReason string     `json:"refused_reason,omitempty"`
	Config        string     `json:"config_revision,omitempty"` // of keys, peers and release together
	Keys          []string   `json:"keys"`                      // ids of those that it verifies tokens with

	Tier         string  `json:"tier"`
	Weight       float64 `json:"weight"`
	CapacityMbps int64   `json:"capacity_mbps"`
	Canary       bool    `json:"canary"`
	Draining     string  `json:"draining,omitempty"` // by what: edge, pool, region, itself

	Connections    int64   `json:"connections"`
	RequestsPerSec float64 `json:"requests_per_second"`
	Streams        int     `json:"streams"`      // plays that were begun on it and go on
	IdleSeconds    float64 `json:"idle_seconds"` // since it last had a request from a player
	Drained        bool    `json:"drained"`      // it drains, and has served nobody for ten seconds
}

// IPRange is where the edges of a region answer from.
type IPRange struct {
	Region string   `json:"region"`
	CIDRs  []string `json:"cidrs"` // of edges whose URL has an address
	Hosts  []string `json:"hosts"` // of the others
}

// EdgeRelease is an edge's part of a release: applied whole or not at all.
type EdgeRelease struct {
	Number int64       `json:"number"`
	Digest string      `json:"digest"` // of this part
	Routes []EdgeRoute `json:"routes"`
}

// EdgeRoute is a route with its origin.
type EdgeRoute struct {
	Name   string     `json:"name"`
	Prefix string     `json:"prefix"`
	Public bool       `json:"public,omitempty"`
	Origin EdgeOrigin `json:"origin"`
}

// EdgeOrigin is an origin with its secret.
type EdgeOrigin struct {
	Name               string `json:"name"`
	URL                string `json:"url"`
	HostHeader         string `json:"host_header,omitempty"`
	ConnectTimeoutMS   int    `json:"connect_timeout_ms,omitempty"`
	FirstByteTimeoutMS int    `json:"first_byte_timeout_ms,omitempty"`
	MaxRequests        int    `json:"max_requests,omitempty"`
	FreshSeconds       int    `json:"fresh_seconds,omitempty"`
	AuthHeader         string `json:"auth_header,omitempty"`
	Secret             string `json:"secret,omitempty"`
}

// EdgeState is an edge's word on its configuration.
type EdgeState struct {
	Revision string   `json:"revision" maxLength:"64"` // of the EdgeConfig whose keys and peers it has
	Release  int64    `json:"release" minimum:"0"`     // in force
	Refused  int64    `json:"refused,omitempty" minimum:"0"`
	Reason   string   `json:"reason,omitempty" maxLength:"2000"` // why Refused is not in force
	Keys     []string `json:"keys" maxItems:"200"`
}
