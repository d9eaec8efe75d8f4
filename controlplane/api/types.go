package api

import (
	"time"

	"segue/media"
)

// Problem is an RFC 9457 error body. Type is stable and the field to switch on: "/problems/<slug>".
// As a Go error it is what the client returns for every status of 400 and more.
type Problem struct {
	Type     string         `json:"type"`
	Title    string         `json:"title"`
	Status   int            `json:"status"`
	Detail   string         `json:"detail,omitempty"`
	Instance string         `json:"instance,omitempty"` // the request id
	Errors   []FieldProblem `json:"errors,omitempty"`

	RetryAfter int `json:"-"` // seconds: the answer's Retry-After; 0: none
}

// FieldProblem points at one wrong field of a request.
type FieldProblem struct {
	Location string `json:"location"` // body.email, query.limit, …
	Message  string `json:"message"`
}

// Plan is a subscription plan.
type Plan string

const (
	PlanFree    Plan = "free"    // renditions up to 160 kbit/s, one stream
	PlanPremium Plan = "premium" // all renditions, offline
	PlanFamily  Plan = "family"  // premium for six members
)

// NewUser is the body of POST /v1/users. Password: 8 to 256 bytes.
type NewUser struct {
	Email       string `json:"email"`
	Password    string `json:"password"`
	DisplayName string `json:"display_name,omitempty"` // default: the part of Email before the @
}

// User is one's own account: POST /v1/users (201), GET /v1/me.
type User struct {
	ID          string    `json:"id"`
	Email       string    `json:"email"`
	DisplayName string    `json:"display_name"`
	Plan        Plan      `json:"plan"`
	CreatedAt   time.Time `json:"created_at"`
}

// NewSession is the body of POST /v1/sessions.
type NewSession struct {
	Email    string `json:"email"`
	Password string `json:"password"`
	Device   Device `json:"device" required:"false"`
}

// Device is where a session runs.
type Device struct {
	Type string `json:"type"` // web, phone, desktop, tv, speaker, cli
	Name string `json:"name"`
}

// Session is the answer to POST /v1/sessions and /v1/sessions/refresh. AccessToken is a JWT signed by EdDSA
// (keys at /.well-known/jwks.json) and goes into Authorization: Bearer. RefreshToken works once.
type Session struct {
	AccessToken      string `json:"access_token"`
	TokenType        string `json:"token_type"` // Bearer
	ExpiresInSeconds int    `json:"expires_in"`
	RefreshToken     string `json:"refresh_token"`
	User             User   `json:"user"`
}

// Refresh is the body of POST /v1/sessions/refresh.
type Refresh struct {
	RefreshToken string `json:"refresh_token"`
}

// Art is an album's picture. URL holds "{size}", to be replaced by one of Sizes; it is relative to the control
// plane, which redirects to a near edge.
type Art struct {
	URL   string `json:"url"` // /r/art/<album_id>/<version>/{size}.jpg
	Sizes []int  `json:"sizes"`
}

// ArtistRef and AlbumRef name an artist or album inside another answer.
type ArtistRef struct {
	ID   media.ArtistID `json:"id"`
	Name string         `json:"name"`
}

// AlbumRef: see ArtistRef. Artists are the album's, who need not be the track's.
type AlbumRef struct {
	ID      media.AlbumID `json:"id"`
	Title   string        `json:"title"`
	Artists []ArtistRef   `json:"artists"`
	Art     *Art          `json:"art,omitempty"`
}

// Track is a catalogue entry.
type Track struct {
	ID          media.TrackID  `json:"id"`
	Title       string         `json:"title"`
	Artists     []ArtistRef    `json:"artists"`
	Album       AlbumRef       `json:"album"`
	Genres      []string       `json:"genres"`
	DurationMS  int64          `json:"duration_ms"`
	TrackNumber int            `json:"track_number,omitempty"`
	DiscNumber  int            `json:"disc_number,omitempty"`
	Date        string         `json:"date,omitempty"`
	Version     media.Version  `json:"version"`
	Renditions  []string       `json:"renditions"` // names, as in track.json
	Loudness    media.Loudness `json:"loudness"`
	CreatedAt   time.Time      `json:"created_at"`
}

// Album is a catalogue entry. Tracks is filled by GET /v1/albums/{id} only, in disc and track order.
type Album struct {
	ID         media.AlbumID `json:"id"`
	Title      string        `json:"title"`
	Artists    []ArtistRef   `json:"artists"`
	Date       string        `json:"date,omitempty"`
	Art        *Art          `json:"art,omitempty"`
	TrackCount int           `json:"track_count"`
	DurationMS int64         `json:"duration_ms"`
	Tracks     []Track       `json:"tracks,omitempty"`
}

// Artist is a catalogue entry. Albums is filled by GET /v1/artists/{id} only.
type Artist struct {
	ID         media.ArtistID `json:"id"`
	Name       string         `json:"name"`
	AlbumCount int            `json:"album_count"`
	TrackCount int            `json:"track_count"`
	Albums     []Album        `json:"albums,omitempty"`
}

// Page is one page of a list: GET /v1/tracks, /v1/albums, /v1/artists with ?limit= (1..200, default 50) and
// ?cursor=. Next is empty on the last page.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}

// SearchResult answers GET /v1/search?q=&type=track,album,artist&limit=, best match first in each list.
type SearchResult struct {
	Query   string   `json:"query"`
	Tracks  []Track  `json:"tracks"`
	Albums  []Album  `json:"albums"`
	Artists []Artist `json:"artists"`
}

// NewPlayback is the body of POST /v1/playback.
type NewPlayback struct {
	TrackID   media.TrackID `json:"track_id"`
	Rendition string        `json:"rendition,omitempty"` // which one file_url names; default: the best AAC allowed
}

// Playback grants one listen to one track. The URLs carry a token that ends at ExpiresAt; ask again then.
type Playback struct {
	PlayID     string         `json:"play_id"` // ULID; CMCD sid, and play_id of every event
	TrackID    media.TrackID  `json:"track_id"`
	Version    media.Version  `json:"version"`
	HLSURL     string         `json:"hls_url"`
	DASHURL    string         `json:"dash_url"`
	FileURL    string         `json:"file_url"`
	Rendition  string         `json:"rendition"`  // of FileURL
	Renditions []string       `json:"renditions"` // those the plan allows
	ExpiresAt  time.Time      `json:"expires_at"`
	DurationMS int64          `json:"duration_ms"`
	Loudness   media.Loudness `json:"loudness"`
	GainDB     float64        `json:"gain_db"`        // to reach -14 LUFS without clipping
	Gapless    media.Gapless  `json:"gapless"`        // of Rendition
	SampleRate int            `json:"sample_rate_hz"` // of Gapless
	Pathways   []Pathway      `json:"pathways"`       // best first; the URLs above are on the first
}

// Pathway is one edge that can serve the playback.
type Pathway struct {
	ID         string  `json:"id"` // the edge's name
	Region     string  `json:"region"`
	BaseURL    string  `json:"base_url"`    // prefix + object key: https://edge/t/<token>/
	DistanceKm float64 `json:"distance_km"` // -1 when the client's place is unknown
}

// Event types of Event.Type.
const (
	EventStart     = "start"    // first sound; StartupMS is set
	EventProgress  = "progress" // at least every 30 s of playing
	EventPause     = "pause"
	EventResume    = "resume"
	EventSeek      = "seek"
	EventStall     = "stall"     // a stall ended; StallMS is set
	EventRendition = "rendition" // Rendition changed
	EventEnd       = "end"       // the track ended or was left; the last event of a play
	EventError     = "error"     // Message is set
)

// Event is one thing a player saw: POST /v1/events takes 1 to 1000 of them as a JSON array or NDJSON.
type Event struct {
	ID         string    `json:"event_id"` // ULID made by the player; a repeat is harmless
	PlayID     string    `json:"play_id"`
	Type       string    `json:"type"`
	At         time.Time `json:"at"`          // the player's clock
	PositionMS int64     `json:"position_ms"` // in the track
	PlayedMS   int64     `json:"played_ms"`   // heard so far in this play, without pauses, stalls and seeks
	Rendition  string    `json:"rendition,omitempty"`
	Edge       string    `json:"edge,omitempty"` // pathway id in use
	StartupMS  int64     `json:"startup_ms,omitempty"`
	StallMS    int64     `json:"stall_ms,omitempty"`
	Player     string    `json:"player,omitempty"` // segue-web/1, hls.js/1.7, …
	Message    string    `json:"message,omitempty"`
}

// EventResult is the fate of one event of a batch.
type EventResult struct {
	ID     string `json:"event_id"`
	Status string `json:"status"` // accepted, or rejected with Error set
	Error  string `json:"error,omitempty"`
}

// EventsAccepted answers POST /v1/events with 202: every accepted event is in the durable log.
type EventsAccepted struct {
	Accepted int           `json:"accepted"`
	Rejected int           `json:"rejected"`
	Results  []EventResult `json:"results"` // only the rejected ones
}
