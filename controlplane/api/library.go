package api

import (
	"time"

	"segue/media"
)

// SavedTrack is an entry of GET /v1/me/library/tracks. One that left the catalogue stays, with Available false; Track
// is then what is still known of it, or absent.
type SavedTrack struct {
	ID        media.TrackID `json:"id"`
	AddedAt   time.Time     `json:"added_at"`
	Available bool          `json:"available"`
	Track     *Track        `json:"track,omitempty"`
}

// SavedAlbum is an entry of GET /v1/me/library/albums; see SavedTrack.
type SavedAlbum struct {
	ID        media.AlbumID `json:"id"`
	AddedAt   time.Time     `json:"added_at"`
	Available bool          `json:"available"`
	Album     *Album        `json:"album,omitempty"`
}

// FollowedArtist is an entry of GET /v1/me/following/artists; see SavedTrack.
type FollowedArtist struct {
	ID        media.ArtistID `json:"id"`
	AddedAt   time.Time      `json:"added_at"`
	Available bool           `json:"available"`
	Artist    *Artist        `json:"artist,omitempty"`
}

// Person is somebody else, as far as one may know: an entry of GET /v1/me/following/users, /v1/me/followers and
// /v1/me/blocked. AddedAt is when it began.
type Person struct {
	ID          string    `json:"id"`
	DisplayName string    `json:"display_name"`
	AddedAt     time.Time `json:"added_at"`
}

// LibraryCounts answers GET /v1/me/library.
type LibraryCounts struct {
	Tracks    int64 `json:"tracks"`
	Albums    int64 `json:"albums"`
	Artists   int64 `json:"artists"` // followed
	Users     int64 `json:"users"`   // followed
	Followers int64 `json:"followers"`
}

// LibraryContains answers GET /v1/me/library/contains: every id that was asked for, and whether it is there.
type LibraryContains struct {
	Tracks  map[string]bool `json:"tracks"`
	Albums  map[string]bool `json:"albums"`
	Artists map[string]bool `json:"artists"` // followed
	Users   map[string]bool `json:"users"`   // followed
}

// Social answers GET /v1/users/{id}/social, for people whose profile is public.
type Social struct {
	UserID    string `json:"user_id"`
	Followers int64  `json:"followers"`
	Following bool   `json:"following"` // the caller follows them
}

// Kinds of PlayContext.
const (
	ContextAlbum    = "album"
	ContextPlaylist = "playlist"
	ContextArtist   = "artist"
	ContextRadio    = "radio"   // ID is the track or artist that it started from
	ContextLibrary  = "library" // the listener's own tracks; no ID
	ContextSearch   = "search"  // no ID
)

// PlayContext says what a track is played from.
type PlayContext struct {
	Type string `json:"type" enum:"album,playlist,artist,radio,library,search"`
	ID   string `json:"id,omitempty" maxLength:"64"`
}

// RecentPlay is an entry of GET /v1/me/recently-played; see SavedTrack.
type RecentPlay struct {
	PlayID    string        `json:"play_id"`
	TrackID   media.TrackID `json:"track_id"`
	PlayedAt  time.Time     `json:"played_at"`
	Context   *PlayContext  `json:"context,omitempty"`
	Available bool          `json:"available"`
	Track     *Track        `json:"track,omitempty"`
}

// Who sees what one listens to.
const (
	ShareNobody    = "nobody"
	ShareFollowers = "followers"
)

// Privacy is the listener's choice: GET and PATCH /v1/me/privacy.
type Privacy struct {
	ShareListening string `json:"share_listening" enum:"nobody,followers"` // at first: nobody
	KeepHistory    bool   `json:"keep_history"`                            // whether recently played is written; at first: true
}

// PrivacyChange is the body of PATCH /v1/me/privacy: what is absent stays.
type PrivacyChange struct {
	ShareListening *string `json:"share_listening,omitempty" enum:"nobody,followers"`
	KeepHistory    *bool   `json:"keep_history,omitempty"`
}

// FriendListening is an entry of GET /v1/me/friends/listening: somebody whom one follows, who shares it, plays a track.
type FriendListening struct {
	UserID      string    `json:"user_id"`
	DisplayName string    `json:"display_name"`
	Track       Track     `json:"track"`
	At          time.Time `json:"at"` // when their player last said so
}

// FriendsListening answers GET /v1/me/friends/listening, latest first.
type FriendsListening struct {
	Items []FriendListening `json:"items"`
}
