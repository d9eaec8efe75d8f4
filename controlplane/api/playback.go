package api

import (
	"time"

	"segue/media"
)

// RenewPlayback is the body of POST /v1/playback/{play_id}/renew: the fields of NewPlayback that may change in mid-play.
type RenewPlayback struct {
	Rendition     string          `json:"rendition,omitempty"`
	Codecs        []string        `json:"codecs,omitempty" maxItems:"16"`
	MaxBitrateBps int             `json:"max_bitrate_bps,omitempty" minimum:"0"`
	Renditions    []string        `json:"renditions,omitempty" maxItems:"16"`
	NextTrackIDs  []media.TrackID `json:"next_track_ids,omitempty" maxItems:"3"`
}

// Prefetch is the start of a track that may be played next: POST /v1/playback answers with it for next_track_ids, or for
// what the listener's queue has next. A GET of URL with Range: bytes=0-(Bytes-1) brings the start to the edge and opens the
// connection, so that a playback of the track starts at once. It is no playback: nothing counts, and URL ends at ExpiresAt.
type Prefetch struct {
	TrackID   media.TrackID `json:"track_id"`
	Version   media.Version `json:"version"`
	Rendition string        `json:"rendition"`
	URL       string        `json:"url"`
	Bytes     int64         `json:"bytes"` // of the file: its head and about two segments
	ExpiresAt time.Time     `json:"expires_at"`
}

// BusyDevice is one of the devices that a limit counts: the one that plays now in a problem of type stream-limit, the ones
// with licences in one of type offline-device-limit.
type BusyDevice struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	PlayID   string `json:"play_id,omitempty"`
	Licences int    `json:"licences,omitempty"`
}

// Reasons of revocations that the platform makes itself; an operator's are his own words.
const (
	RevokedTakenOver = "taken-over" // the account plays on another device
	RevokedDevice    = "device-removed"
	RevokedPlan      = "plan-ended"
	RevokedAccount   = "account-deleted"
	RevokedReturned  = "returned" // a device gave its offline licence back
	RevokedOperator  = "operator"
)

// NewRevocation is the body of POST /v1/admin/revocations (admin scope "admin"): exactly one of PlayID, UserID and CTI.
// Edges refuse the tokens within seconds. A user's are those of all plays and all offline downloads.
type NewRevocation struct {
	PlayID string `json:"play_id,omitempty"`
	UserID string `json:"user_id,omitempty"`
	CTI    string `json:"cti,omitempty"` // of any token that edges take; refused for two days
	Reason string `json:"reason,omitempty" maxLength:"200"`
}

// Revocation answers POST /v1/admin/revocations.
type Revocation struct {
	Reason string   `json:"reason"`
	CTIs   []string `json:"ctis"` // refused from now on; none: nothing of it was in force
}
