package api

import (
	"crypto/sha256"

	"segue/media"

	"github.com/oklog/ulid/v2"
)

// Roles of an artist on a track or album. The first three perform and are in Artists; others (producer, lyricist,
// conductor, … in lower case) are in Credits.
const (
	RoleMain     = "main"
	RoleFeatured = "featured"
	RoleRemixer  = "remixer"
	RoleComposer = "composer"
)

// AlbumTypes are what an album may be.
var AlbumTypes = []string{"album", "single", "ep", "compilation"}

// Values of Unavailable.
const (
	Removed = "removed"  // taken out of the catalogue: nothing lists it, but a list that held it still can say what it was
	NoMedia = "no-media" // known by name, with no audio yet
)

// Genre is one of GET /v1/genres. ID is the folded name: hip-hop.
type Genre struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	TrackCount int    `json:"track_count"`
	AlbumCount int    `json:"album_count"`
}

// ArtistName names an artist in an import or edit: by ID (a ULID, or an import's own id), else by name, which makes the
// artist when there is none of that name.
type ArtistName struct {
	ID   string  `json:"id,omitempty"`
	Name string  `json:"name,omitempty"`
	Role string  `json:"role,omitempty" doc:"main (default), featured, remixer, composer, producer, …"`
	Join *string `json:"join,omitempty" doc:"what stands between this artist and the one before; default: , or feat."`
}

// ImportLine is one line of the NDJSON of POST /v1/admin/import: an artist, album or track. Artists come before their
// albums, and albums before their tracks.
//
//	{"type":"artist","id":"label:17","name":"Björk"}
//	{"type":"album","id":"label:a9","title":"Post","artists":[{"id":"label:17"}],"date":"1995-06","upc":"5016958021627"}
//	{"type":"track","id":"label:t3","title":"Hyperballad","album_id":"label:a9","track_number":3,"duration_ms":321000}
//
// ID is a ULID, or any text of the sender's own: ImportID makes it one, so a repeat of a line finds its row again. A line
// that is as it was the last time changes nothing. A track without artists is its album's. Audio comes later by ingest:
// a file of the same album artist, album, numbers and title takes over the row's identity.
type ImportLine struct {
	Type        string       `json:"type" enum:"artist,album,track"`
	ID          string       `json:"id" maxLength:"200"`
	Name        string       `json:"name,omitempty"`      // of an artist
	SortName    string       `json:"sort_name,omitempty"` // where lists show it, when not by its name
	Title       string       `json:"title,omitempty"`
	Artists     []ArtistName `json:"artists,omitempty"` // in order, performers and credits
	AlbumID     string       `json:"album_id,omitempty"`
	AlbumType   string       `json:"album_type,omitempty"` // album (default), single, ep, compilation
	Date        string       `json:"date,omitempty"`       // YYYY, YYYY-MM or YYYY-MM-DD
	UPC         string       `json:"upc,omitempty"`
	ISRC        string       `json:"isrc,omitempty"`
	Genres      []string     `json:"genres,omitempty"`
	DiscNumber  int          `json:"disc_number,omitempty"`
	TrackNumber int          `json:"track_number,omitempty"`
	DurationMS  int64        `json:"duration_ms,omitempty"`
	AvailableIn []string     `json:"available_in,omitempty"` // ISO 3166-1 alpha-2; none: everywhere
	Popularity  float64      `json:"popularity,omitempty"`   // 0 leaves what is known
}

// ImportResult answers POST /v1/admin/import. Unchanged counts lines that were the same the last time. Errors holds the
// first 1000 of Failed.
type ImportResult struct {
	Lines     int           `json:"lines"`
	Artists   int           `json:"artists"`
	Albums    int           `json:"albums"`
	Tracks    int           `json:"tracks"`
	Unchanged int           `json:"unchanged"`
	Failed    int           `json:"failed"`
	Errors    []ImportError `json:"errors"`
}

// ImportError says what is wrong with one line, counted from 1.
type ImportError struct {
	Line    int    `json:"line"`
	Message string `json:"message"`
}

// ImportID is the ID of what an import calls id: itself when it is a ULID, else one made from it, with no time in it.
// kind is artist, album or track.
func ImportID(kind, id string) string {
	if media.ValidID(id) {
		return id
	}
	sum := sha256.Sum256([]byte(kind + "\x00" + id))
	var u ulid.ULID
	copy(u[6:], sum[:10])
	return u.String()
}

// TrackEdit is the body of PATCH /v1/admin/tracks/{id}. What is absent stays. From then on tags of files no longer change
// the names.
type TrackEdit struct {
	Title       *string       `json:"title,omitempty"`
	Artists     *[]ArtistName `json:"artists,omitempty" doc:"all of them in order, performers and credits"`
	AlbumID     *string       `json:"album_id,omitempty"`
	Date        *string       `json:"date,omitempty"`
	ISRC        *string       `json:"isrc,omitempty"`
	Genres      *[]string     `json:"genres,omitempty"`
	DiscNumber  *int          `json:"disc_number,omitempty" minimum:"0" maximum:"9999"`
	TrackNumber *int          `json:"track_number,omitempty" minimum:"0" maximum:"9999"`
	AvailableIn *[]string     `json:"available_in,omitempty" doc:"ISO 3166-1 alpha-2; empty: as the album"`
}

// AlbumEdit is the body of PATCH /v1/admin/albums/{id}.
type AlbumEdit struct {
	Title       *string       `json:"title,omitempty"`
	Artists     *[]ArtistName `json:"artists,omitempty"`
	Type        *string       `json:"type,omitempty" enum:"album,single,ep,compilation"`
	Date        *string       `json:"date,omitempty"`
	UPC         *string       `json:"upc,omitempty"`
	AvailableIn *[]string     `json:"available_in,omitempty" doc:"ISO 3166-1 alpha-2; empty: everywhere"`
}

// ArtistEdit is the body of PATCH /v1/admin/artists/{id}.
type ArtistEdit struct {
	Name     *string `json:"name,omitempty"`
	SortName *string `json:"sort_name,omitempty"`
}

// ArtistMerge is the body of POST /v1/admin/artists/{id}/merge: the artist becomes another one.
type ArtistMerge struct {
	Into media.ArtistID `json:"into"`
}
