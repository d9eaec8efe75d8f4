package api

import "time"

// An edge joins once with a join token, then signs every call with its own Ed25519 key: Authorization: Bearer of a
// JWT (EdDSA, iss = sub = edge id, aud = "segue-fleet", at most 60 s long).
//
//	POST /v1/admin/join-tokens     NewJoinToken -> JoinToken        (admin scope "fleet")
//	GET  /v1/admin/edges           -> Page[Edge]                    (admin scope "fleet")
//	POST /v1/admin/edges/{id}/drain, /undrain                       (admin scope "fleet")
//	POST /v1/fleet/join            Join -> Joined
//	POST /v1/fleet/heartbeat       Heartbeat -> HeartbeatReply      (edge), every 2 s
//	GET  /v1/fleet/revocations     -> RevokedFeed                   (edge), ?after=, ?wait=30s: long poll
//	GET  /v1/fleet/config          -> EdgeConfig, ETag = revision   (edge), If-None-Match and ?wait=30s: long poll

// NewJoinToken asks for a join token.
type NewJoinToken struct {
	Region     string `json:"region"`
	TTLSeconds int    `json:"ttl_seconds,omitempty"` // default 3600, at most 86400
	MaxUses    int    `json:"max_uses,omitempty"`    // default 1
}

// JoinToken lets edges into one region until ExpiresAt. Token is the secret, in the answer to POST only.
type JoinToken struct {
	ID        string    `json:"id"`
	Token     string    `json:"token,omitempty"`
	Region    string    `json:"region"`
	ExpiresAt time.Time `json:"expires_at"`
	UsesLeft  int       `json:"uses_left"`
}

// Join is an edge's request to be admitted. Joining again with the same PublicKey returns the same identity.
type Join struct {
	Token     string `json:"token"`
	Name      string `json:"name"`       // [a-z0-9-]{1,63}, unique in the fleet; the pathway id
	URL       string `json:"url"`        // how players reach it: http(s)://host[:port], no path
	PublicKey []byte `json:"public_key"` // Ed25519, 32 bytes
	Version   string `json:"version"`    // of the software
}

// Joined is the edge's identity.
type Joined struct {
	EdgeID string `json:"edge_id"`
	Region string `json:"region"`
}

// Heartbeat is what an edge says of itself. Rates are over the time since the last one.
type Heartbeat struct {
	URL            string    `json:"url"`
	Version        string    `json:"version"`
	At             time.Time `json:"at"` // the edge's clock
	Draining       bool      `json:"draining"`
	Connections    int64     `json:"connections"`
	EgressBps      int64     `json:"egress_bps"`
	RequestsPerSec float64   `json:"requests_per_second"`
	HitRatio       float64   `json:"hit_ratio"` // 0..1 of requests
	CPURatio       float64   `json:"cpu_ratio"` // 0..1 of all cores
	MemoryBytes    int64     `json:"memory_bytes"`
	DiskBytes      int64     `json:"disk_bytes"`
	ConfigRevision string    `json:"config_revision"` // the EdgeConfig in force

	Tier           string  `json:"tier,omitempty" enum:"edge,shield"`          // default edge
	CapacityBps    float64 `json:"capacity_bps,omitempty" minimum:"0"`         // what it can send; 0: 1 Gbit/s is taken
	Weight         float64 `json:"weight,omitempty" minimum:"0" maximum:"100"` // its share among equals; 0: 1
	MaxConnections int64   `json:"max_connections,omitempty" minimum:"0"`      // 0: not said
	DiskSizeBytes  int64   `json:"disk_size_bytes,omitempty" minimum:"0"`      // what DiskBytes may become; 0: no disk
	RoundTripMS    int64   `json:"round_trip_ms,omitempty"`                    // of the heartbeat before; 0: not known
}

// HeartbeatReply tells the edge what to be.
type HeartbeatReply struct {
	Draining bool      `json:"draining"`
	Now      time.Time `json:"now"` // the control plane's clock: that of tokens
}

// EdgeConfig is an edge's part of the fleet's configuration, applied whole or not at all.
type EdgeConfig struct {
	Revision string     `json:"revision"`
	Issuer   string     `json:"issuer"` // iss of valid access tokens
	Keys     []TokenKey `json:"keys"`   // all that verify now
	Peers    []Peer     `json:"peers"`  // healthy edges of the same region, by name, but for the one that asks

	// Release is the edge's part of the release that it is to run; nil: of none, it goes on with its own routes.
	Release *EdgeRelease `json:"release,omitempty"`
}

// Peer is another edge of the region: one that shares objects, and signs its requests for them.
type Peer struct {
	Name      string `json:"name"`
	Region    string `json:"region"`
	URL       string `json:"url"`
	PublicKey []byte `json:"public_key"` // Ed25519, 32 bytes
}

// TokenKey verifies Common Access Tokens. Alg EdDSA: Key is the public key, 32 bytes. Alg HS256: the secret.
type TokenKey struct {
	ID  string `json:"id"` // COSE kid
	Alg string `json:"alg"`
	Key []byte `json:"key"`
}

// Edge is what an operator sees of an edge.
type Edge struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Region    string     `json:"region"`
	URL       string     `json:"url"`
	State     string     `json:"state"` // healthy, draining, damped (it comes and goes, and is left alone for a while), dead
	LastSeen  time.Time  `json:"last_seen"`
	Heartbeat *Heartbeat `json:"heartbeat,omitempty"`

	Reason      string    `json:"reason,omitempty"`        // why players are not sent to it
	Since       time.Time `json:"since,omitzero"`          // of that
	Opinions    Opinions  `json:"opinions"`                // that State follows from
	LastKnown   bool      `json:"last_known,omitempty"`    // nothing is known now: State is what was known at LastSeen
	Doubted     bool      `json:"doubted,omitempty"`       // too many fell silent at once: probes alone decide
	Penalty     float64   `json:"penalty,omitempty"`       // for coming and going
	ClockSkewMS *int64    `json:"clock_skew_ms,omitempty"` // its clock minus the control plane's
	ClockWrong  bool      `json:"clock_wrong,omitempty"`   // it gets no players whose links hold tokens
	ProbeError  string    `json:"probe_error,omitempty"`   // of the last probe
}

// Opinions on an edge: up, down, or - for none.
type Opinions struct {
	Heartbeat string `json:"heartbeat"`
	Registry  string `json:"registry"` // of Consul
	Probe     string `json:"probe"`
	Players   string `json:"players"`
}

// RevokedFeed is what an edge has to refuse beyond what it knew up to a place. Next is the place to ask from the next time;
// More: at once, there is more.
type RevokedFeed struct {
	Tokens []RevokedToken `json:"tokens"`
	Next   string         `json:"next"`
	More   bool           `json:"more,omitempty"`
}

// RevokedToken is a cti whose tokens are refused, until the last of them has ended by itself.
type RevokedToken struct {
	CTI       string    `json:"cti"`
	ExpiresAt time.Time `json:"expires_at"`
}
