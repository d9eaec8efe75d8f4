package api

import (
	"time"

	"segue/media"
)

// Types of Reason.
const (
	ReasonListened = "listened" // goes with a track that was heard: TrackID, Name is its title
	ReasonTaste    = "taste"    // goes with what one hears, with no track that stands out
	ReasonLiked    = "liked"    // one heard it often
	ReasonPopular  = "popular"  // heard much: Country, when it is there; else everywhere
	ReasonGenre    = "genre"    // of a genre that one chose or hears: Name
	ReasonArtist   = "artist"   // by an artist whom one hears or follows: ArtistID, Name
	ReasonNew      = "new"      // came into the catalogue lately
)

// Reason says why a track is recommended. Text is a sentence for people.
type Reason struct {
	Type     string         `json:"type" enum:"listened,taste,liked,popular,genre,artist,new"`
	Text     string         `json:"text"`
	TrackID  media.TrackID  `json:"track_id,omitempty"`
	ArtistID media.ArtistID `json:"artist_id,omitempty"`
	Name     string         `json:"name,omitempty"`
	Country  string         `json:"country,omitempty"`
}

// Recommended is a track and why it is there.
type Recommended struct {
	Track  Track  `json:"track"`
	Reason Reason `json:"reason"`
}

// Ids of Shelf.
const (
	ShelfMadeForYou = "made-for-you"
	ShelfBecause    = "because" // one shelf for each of several tracks: Reason.TrackID
	ShelfMixes      = "mixes"
	ShelfFollowed   = "new-from-followed"
	ShelfPopular    = "popular"
	ShelfGenre      = "genre"
	ShelfNew        = "new"
)

// Shelf is a row of the home feed. It holds tracks, albums or mixes.
type Shelf struct {
	ID     string        `json:"id"`
	Title  string        `json:"title"`
	Reason *Reason       `json:"reason,omitempty"` // of all that is in it
	Tracks []Recommended `json:"tracks,omitempty"`
	Albums []Album       `json:"albums,omitempty"`
	Mixes  []Mix         `json:"mixes,omitempty"` // without their tracks
}

// Home answers GET /v1/me/home. Shelves that would be empty are not there.
type Home struct {
	Shelves      []Shelf    `json:"shelves"`
	Personalised bool       `json:"personalised"`         // false: the listener wants none of it
	ModelMade    *time.Time `json:"model_made,omitempty"` // when what it rests on was learnt; absent: nothing was yet, and popularity stands in
}

// Radio answers GET /v1/me/radio/{id}: what comes next. Ask again with exclude for more.
type Radio struct {
	Tracks []Recommended `json:"tracks"`
}

// Similar answers GET /v1/tracks/{id}/similar, most similar first.
type Similar struct {
	Tracks []Recommended `json:"tracks"`
}

// Mix is a list that is made once a week and then stays.
type Mix struct {
	Number     int           `json:"number"` // from 1
	Name       string        `json:"name"`
	Week       string        `json:"week"` // ISO 8601: 2026-W48
	TrackCount int           `json:"track_count"`
	Tracks     []Recommended `json:"tracks,omitempty"`
}

// Mixes answers GET /v1/me/mixes. It is empty for who has heard little.
type Mixes struct {
	Items []Mix `json:"items"`
}

// Taste is what one says about recommendations: GET and PATCH /v1/me/taste.
type Taste struct {
	Personalised bool     `json:"personalised"` // at first: true
	Genres       []string `json:"genres"`       // ids, as in GET /v1/genres
}

// TasteChange is the body of PATCH /v1/me/taste: what is absent stays.
type TasteChange struct {
	Personalised *bool     `json:"personalised,omitempty"`
	Genres       *[]string `json:"genres,omitempty" maxItems:"20"`
}

// RecommendModel says what recommendations of a replica rest on: GET /v1/admin/recommendations.
type RecommendModel struct {
	Replica string     `json:"replica"`
	Made    *time.Time `json:"made,omitempty"`  // absent: there is no model
	Until   *time.Time `json:"until,omitempty"` // plays that began before it are in
	Full    *time.Time `json:"full,omitempty"`  // when it was last learnt from all plays; between, it goes on from the one before
	Tracks  int        `json:"tracks"`
	Users   int        `json:"users"`
	Pairs   int        `json:"pairs"` // of listener and track
	Sampled float64    `json:"sampled"`
	Bytes   int64      `json:"bytes"`
	// Share of what was held back in training that was found among the first 20, and the same of what is just popular.
	Recall        float64 `json:"recall"`
	PopularRecall float64 `json:"popular_recall"`
	Running       bool    `json:"running"`
	Runs          int     `json:"runs"`            // that ended since this replica began
	Error         string  `json:"error,omitempty"` // why the last run made none
}

// NewTraining is the body of POST /v1/admin/recommendations/train.
type NewTraining struct {
	Full bool `json:"full,omitempty" doc:"learn from all plays; default: go on from the last one when it is of today"`
}
