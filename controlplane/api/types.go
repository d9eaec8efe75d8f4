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
	Devices  []BusyDevice   `json:"devices,omitempty"` // of stream-limit and offline-device-limit

	RetryAfter int `json:"-"` // seconds: the answer's Retry-After; 0: none
}

// FieldProblem points at one wrong field of a request.
type FieldProblem struct {
	Location string `json:"location"` // body.email, query.limit, …
	Message  string `json:"message"`
}

// Art is an album's picture. URL holds "{size}", to be replaced by one of Sizes; it is relative to the control
// plane, which redirects to a near edge.
type Art struct {
	URL   string `json:"url"` // /r/art/<album_id>/<version>/{size}.jpg
	Sizes []int  `json:"sizes"`
}

// ArtistRef and AlbumRef name an artist or album inside another answer. Role is empty for main artists. Join is what is
// written between the artist before and this one; a list is printed as Join+Name of each.
type ArtistRef struct {
	ID   media.ArtistID `json:"id"`
	Name string         `json:"name"`
	Role string         `json:"role,omitempty"`
	Join string         `json:"join,omitempty"`
}

// AlbumRef: see ArtistRef. Artists are the album's, who need not be the track's.
type AlbumRef struct {
	ID      media.AlbumID `json:"id"`
	Title   string        `json:"title"`
	Artists []ArtistRef   `json:"artists"`
	Art     *Art          `json:"art,omitempty"`
}

// Track is a catalogue entry. Unavailable is empty for what can be played, else Removed or NoMedia. Credits is filled by
// GET /v1/tracks/{id} only.
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
	ISRC        string         `json:"isrc,omitempty"`
	Version     media.Version  `json:"version"`    // empty: no media yet
	Renditions  []string       `json:"renditions"` // names, as in track.json
	Loudness    media.Loudness `json:"loudness"`
	Popularity  float64        `json:"popularity"`             // 0 or more; what it counts is the platform's matter
	AvailableIn []string       `json:"available_in,omitempty"` // ISO 3166-1 alpha-2; none: everywhere
	Unavailable string         `json:"unavailable,omitempty"`
	Credits     []ArtistRef    `json:"credits,omitempty"` // who did not perform: composer, producer, …
	CreatedAt   time.Time      `json:"created_at"`
}

// Album is a catalogue entry. Tracks is filled by GET /v1/albums/{id} only, in disc and track order.
type Album struct {
	ID          media.AlbumID `json:"id"`
	Title       string        `json:"title"`
	Type        string        `json:"type"` // one of AlbumTypes
	Artists     []ArtistRef   `json:"artists"`
	Date        string        `json:"date,omitempty"` // YYYY, YYYY-MM or YYYY-MM-DD
	Genres      []string      `json:"genres"`         // of its tracks
	UPC         string        `json:"upc,omitempty"`
	Art         *Art          `json:"art,omitempty"`
	TrackCount  int           `json:"track_count"`
	DurationMS  int64         `json:"duration_ms"`
	Popularity  float64       `json:"popularity"`
	AvailableIn []string      `json:"available_in,omitempty"` // ISO 3166-1 alpha-2; none: everywhere
	Unavailable string        `json:"unavailable,omitempty"`  // Removed
	Tracks      []Track       `json:"tracks,omitempty"`
}

// Artist is a catalogue entry. The lists are filled by GET /v1/artists/{id} only, with the first of each; all of them
// are at /v1/artists/{id}/tracks and /albums.
type Artist struct {
	ID          media.ArtistID `json:"id"`
	Name        string         `json:"name"`
	AlbumCount  int            `json:"album_count"` // as an artist of the album
	TrackCount  int            `json:"track_count"` // as a performer
	Popularity  float64        `json:"popularity"`
	Unavailable string         `json:"unavailable,omitempty"` // Removed
	MergedInto  media.ArtistID `json:"merged_into,omitempty"` // who it is now, when it was removed by a merge
	TopTracks   []Track        `json:"top_tracks,omitempty"`  // most popular first
	Albums      []Album        `json:"albums,omitempty"`      // newest first
	AppearsOn   []Album        `json:"appears_on,omitempty"`  // albums of others, newest first
}

// Page is one page of a list: GET /v1/tracks, /v1/albums, /v1/artists with ?limit= (1..200, default 50) and
// ?cursor=. Next is empty on the last page.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}

// NewPlayback is the body of POST /v1/playback. Codecs, MaxBitrateBps and Renditions say what the player can and wants to
// play: a rendition has to fit all of them that are given.
type NewPlayback struct {
	TrackID       media.TrackID   `json:"track_id"`
	Rendition     string          `json:"rendition,omitempty" doc:"which one file_url names; default: the best AAC that fits, else the best that fits"`
	Codecs        []string        `json:"codecs,omitempty" maxItems:"16" doc:"as in RFC 6381, of which the first part counts: mp4a.40.2, opus, flac"`
	MaxBitrateBps int             `json:"max_bitrate_bps,omitempty" minimum:"0"`
	Renditions    []string        `json:"renditions,omitempty" maxItems:"16" doc:"names, such as aac_160"`
	TakeOver      bool            `json:"take_over,omitempty" doc:"end the stream of another device that is in the way"`
	NextTrackIDs  []media.TrackID `json:"next_track_ids,omitempty" maxItems:"3" doc:"what is probably played next; default: the next of the queue"`
}

// Playback grants one listen to one track. The URLs carry a token that ends at ExpiresAt; ask again then.
type Playback struct {
	PlayID  string        `json:"play_id"` // ULID; CMCD sid, and play_id of every event
	TrackID media.TrackID `json:"track_id"`
	Version media.Version `json:"version"`
	HLSURL  string        `json:"hls_url"`
	DASHURL string        `json:"dash_url"`
	FileURL string        `json:"file_url"`
	// The steered ones list every rendition on several edges and name the steering server. They come from the control
	// plane: without it, hls_url and dash_url on an edge work on.
	SteeredHLSURL  string `json:"steered_hls_url"`
	SteeredDASHURL string `json:"steered_dash_url"`

	Rendition  string         `json:"rendition"`  // of FileURL
	Renditions []string       `json:"renditions"` // those that the plan allows and the player wants
	ExpiresAt  time.Time      `json:"expires_at"`
	DurationMS int64          `json:"duration_ms"`
	Loudness   media.Loudness `json:"loudness"`
	GainDB     float64        `json:"gain_db"`        // to reach -14 LUFS without clipping
	Gapless    media.Gapless  `json:"gapless"`        // of Rendition
	SampleRate int            `json:"sample_rate_hz"` // of Gapless
	Pathways   []Pathway      `json:"pathways"`       // best first; the URLs above are on the first
	Next       []Prefetch     `json:"next"`           // what to fetch ahead for the next track
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

	Context *PlayContext `json:"context,omitempty"` // of start: what the track is played from
	// Of a play that was made offline, and only of such: the player made PlayID itself, a ULID of the time it began.
	LicenceID string        `json:"licence_id,omitempty"`
	TrackID   media.TrackID `json:"track_id,omitempty"`
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
