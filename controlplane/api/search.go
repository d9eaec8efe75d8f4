package api

import (
	"time"
)

// SearchResult answers GET /v1/search?q=&type=track,album,artist,playlist,user&limit=&cursor=, best match first in each
// list. The lists of types that were not asked for are empty.
type SearchResult struct {
	Query     string     `json:"query"`
	Top       *SearchTop `json:"top,omitempty"` // the best of all; the first of its list
	Tracks    []Track    `json:"tracks"`
	Albums    []Album    `json:"albums"`
	Artists   []Artist   `json:"artists"`
	Playlists []Playlist `json:"playlists"`
	Users     []Profile  `json:"users"`

	// Highlights tell where the query's words stand, by the id of what was found.
	Highlights map[string][]SearchHighlight `json:"highlights"`
	// Next has the cursor of a type's next page, when there is one: it goes with ?type= of that type alone.
	Next map[string]string `json:"next,omitempty"`
	// Building is true while the index is filled for the first time: there may be more to find soon.
	Building bool `json:"building,omitempty"`
}

// SearchTop names the best hit.
type SearchTop struct {
	Type string `json:"type"` // track, album, artist, playlist, user
	ID   string `json:"id"`
}

// SearchHighlight marks a text of a hit. Ranges are [first byte, byte after the last] of Text in UTF-8, ascending.
type SearchHighlight struct {
	Field  string   `json:"field"` // name, artist, album, genre, …
	Text   string   `json:"text"`
	Ranges [][2]int `json:"ranges"`
}

// SearchIndex answers GET /v1/admin/search: the index of the replica that was asked.
type SearchIndex struct {
	Replica   string         `json:"replica"`
	State     string         `json:"state"`     // ready, building (for the first time), rebuilding (the old one is searched)
	Documents map[string]int `json:"documents"` // by type
	Bytes     int64          `json:"bytes"`     // on disk
	Done      int64          `json:"done"`      // documents of the build that runs, or of the last one
	Total     int64          `json:"total"`     // about how many it has; 0: unknown
	StartedAt *time.Time     `json:"started_at,omitempty"`
	EndedAt   *time.Time     `json:"ended_at,omitempty"`
	Error     string         `json:"error,omitempty"` // why the last build failed, or what is damaged; it is tried again
	Check     *SearchCheck   `json:"check,omitempty"` // the last one
}

// NewSearchCheck is the body of POST /v1/admin/search/check.
type NewSearchCheck struct {
	Mend bool `json:"mend,omitempty"` // bring what differs up to date
}

// SearchCheck compares the index with the database, document by document.
type SearchCheck struct {
	Running   bool             `json:"running"`
	Mend      bool             `json:"mend"`
	Done      int64            `json:"done"`
	Total     int64            `json:"total"`
	StartedAt time.Time        `json:"started_at"`
	EndedAt   *time.Time       `json:"ended_at,omitempty"`
	Error     string           `json:"error,omitempty"`
	Tables    map[string]int64 `json:"tables,omitempty"` // rows by type
	Index     map[string]int64 `json:"index,omitempty"`  // documents by type
	Missing   int64            `json:"missing"`          // are in the database only
	Extra     int64            `json:"extra"`            // are in the index only
	Stale     int64            `json:"stale"`            // differ
	Mended    int64            `json:"mended"`

	Differences []SearchDifference `json:"differences,omitempty"` // the first hundred
}

// SearchDifference is one document that is not as the database has it.
type SearchDifference struct {
	Type string `json:"type"`
	ID   string `json:"id"`
	What string `json:"what"` // missing, extra, stale
}
