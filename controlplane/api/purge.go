package api

import "time"

// A purge is an order to all edges to forget. Edges ask for purges in a long poll, in the order of their epochs; the
// next poll acknowledges what the last one brought.
//
//	POST /v1/admin/purges        NewPurge -> Purge                                  (admin scope "fleet")
//	GET  /v1/admin/purges/{id}   -> Purge, with the acknowledgements                (admin scope "fleet")
//	GET  /v1/fleet/purges?after=EPOCH&wait=25s   -> PurgeFeed                       (edge)

// NewPurge names what to forget. Kind is key, prefix or tag; paths are those of the edges' URL space, without token.
type NewPurge struct {
	Kind  string `json:"kind" enum:"key,prefix,tag"`
	Value string `json:"value" minLength:"1" maxLength:"4096"`
	Soft  bool   `json:"soft,omitempty"` // what is stored becomes stale; else it is never used again
}

// Purge is an order that was given.
type Purge struct {
	ID        string    `json:"id"`
	Epoch     int64     `json:"epoch"`
	CreatedAt time.Time `json:"created_at"`
	NewPurge
	Edges []PurgeEdge `json:"edges"`
}

// PurgeEdge is how far one edge is with a purge.
type PurgeEdge struct {
	EdgeID string     `json:"edge_id"`
	Name   string     `json:"name"`
	Region string     `json:"region"`
	State  string     `json:"state"`             // healthy, draining, dead: a dead edge purges when it is back, before it is given to players
	DoneAt *time.Time `json:"done_at,omitempty"` // when it acknowledged
}

// PurgeFeed is what an edge has to purge after an epoch, oldest first; there may be more.
type PurgeFeed struct {
	Purges []EdgePurge `json:"purges"`
}

// EdgePurge is a purge as an edge applies it.
type EdgePurge struct {
	Epoch int64 `json:"epoch"`
	NewPurge
}
