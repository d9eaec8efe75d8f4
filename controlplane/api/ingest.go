package api

import "segue/media"

// The ingest calls need an admin token with the scope "ingest". An ingester claims an identity, puts the objects,
// then publishes; each call may be repeated.
//
//	POST /v1/admin/ingest/claims          ClaimRequest -> Claim
//	HEAD /v1/admin/ingest/objects/{key}   200 with Content-Length and ETag, or 404
//	PUT  /v1/admin/ingest/objects/{key}   the bytes; Content-Type; Content-Digest: sha-256=:…: (RFC 9530), checked
//	POST /v1/admin/ingest/tracks          media.Track -> Track; 409 when an object it names is not in the origin

// ClaimRequest asks which track a source file is. It is known by its bytes, else by album artist, album, disc,
// track number, title and nearly the same length together, so that a better rip keeps the track's ID.
type ClaimRequest struct {
	SourceSHA256 string        `json:"source_sha256"`
	Version      media.Version `json:"version"`
	Tags         media.Tags    `json:"tags"`
	DurationMS   int64         `json:"duration_ms"`
}

// Claim is the identity to package under. Published means that this very version is in the catalogue already, or was
// until another one replaced it: there is nothing to do.
type Claim struct {
	TrackID   media.TrackID `json:"track_id"`
	AlbumID   media.AlbumID `json:"album_id"`
	Published bool          `json:"published"`
}
