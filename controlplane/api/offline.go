package api

import (
	"time"

	"segue/media"
)

// Kinds of what a licence is for.
const (
	OfflineTrack    = "track"
	OfflineAlbum    = "album"
	OfflinePlaylist = "playlist"
)

// States of a licence. Files of a revoked one are deleted; those of an expired one are kept, and play after a renewal.
const (
	LicenceActive  = "active"
	LicenceExpired = "expired"
	LicenceRevoked = "revoked"
)

// NewOfflineLicence is the body of POST /v1/offline/licences. The licence is for the device that asks. One for the same
// thing is given again, with the rendition asked for now.
type NewOfflineLicence struct {
	Kind      string `json:"kind" enum:"track,album,playlist"`
	ID        string `json:"id"`
	Rendition string `json:"rendition,omitempty" maxLength:"64" doc:"default, and for tracks that have it not: the best AAC"`
}

// OfflineLicence lets one device keep and play files without a connection until ExpiresAt.
//
// Document is the same as a JWS (EdDSA; keys at /v1/offline/jwks.json; typ segue-licence+jwt, aud segue-offline), which a
// player checks before it plays: jti the licence, sub the account, did the device, knd and itm what it is for, iat, exp,
// rva renew_after, rev the revision, and fls, the lower-case hex SHA-256 over one line "track_id version rendition sha256"
// and a line feed for each file, by rising track_id. A player keeps the latest time that it has seen (iat of its documents,
// Date of answers, its own clock) and, when the clock shows less than that by more than an hour, plays nothing until it was
// online again: a clock that was set back must not prolong a licence.
type OfflineLicence struct {
	ID         string     `json:"id"`
	DeviceID   string     `json:"device_id"`
	DeviceName string     `json:"device_name"`
	Kind       string     `json:"kind"`
	ItemID     string     `json:"item_id"`
	Title      string     `json:"title"`
	Rendition  string     `json:"rendition,omitempty"`
	State      string     `json:"state"`
	Reason     string     `json:"reason,omitempty"` // why it is revoked: plan-ended, device-removed, returned, …
	Revision   int64      `json:"revision"`         // rises when files come, go or change
	Files      int        `json:"files"`
	Bytes      int64      `json:"bytes"`
	CreatedAt  time.Time  `json:"created_at"`
	RenewAfter *time.Time `json:"renew_after,omitempty"` // from then on: renew when online
	ExpiresAt  time.Time  `json:"expires_at"`
	Document   string     `json:"document,omitempty"` // of active ones
}

// OfflineFile is one file to download. URL takes Range, and works until ExpiresAt: ask again then, and go on where it
// stopped; a file of the same SHA256 is the same bytes.
type OfflineFile struct {
	TrackID    media.TrackID  `json:"track_id"`
	Version    media.Version  `json:"version"`
	Rendition  string         `json:"rendition"`
	Codec      string         `json:"codec"` // RFC 6381
	URL        string         `json:"url"`
	ExpiresAt  time.Time      `json:"expires_at"` // of URL
	Size       int64          `json:"size"`       // bytes
	SHA256     string         `json:"sha256"`     // lower-case hex
	DurationMS int64          `json:"duration_ms"`
	Loudness   media.Loudness `json:"loudness"`
	GainDB     float64        `json:"gain_db"`
	Gapless    media.Gapless  `json:"gapless"`
	SampleRate int            `json:"sample_rate_hz"` // of Gapless
	Title      string         `json:"title"`
	Artists    []ArtistRef    `json:"artists"`
	Album      AlbumRef       `json:"album"` // with the art, which is public
}

// OfflineFiles is one page of a licence's files: all of them, or with since those that came or changed after a revision,
// and what went. A device that has all pages has the Revision of the first one, and asks with it next time.
type OfflineFiles struct {
	LicenceID string          `json:"licence_id"`
	Revision  int64           `json:"revision"`
	Files     []OfflineFile   `json:"files"`
	Removed   []media.TrackID `json:"removed"` // on the first page; only with since
	Next      string          `json:"next,omitempty"`
}

// KeySet is a JWK set, RFC 7517.
type KeySet struct {
	Keys []PublicKey `json:"keys"`
}

// PublicKey is an Ed25519 key, RFC 8037 2.
type PublicKey struct {
	KeyType   string `json:"kty"`
	Curve     string `json:"crv"`
	Use       string `json:"use"`
	Algorithm string `json:"alg"`
	ID        string `json:"kid"`
	X         string `json:"x"`
}
