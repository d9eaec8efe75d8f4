package api

import (
	"time"

	"segue/media"
)

// AsOf says how old an answer about play logs is. Stale: they cannot be asked just now, and this is the last answer.
type AsOf struct {
	AsOf  time.Time `json:"as_of"`
	Stale bool      `json:"stale"`
}

// HeardTrack, HeardArtist: how often and how long. Plays are those of 30 s or more, or to the end of a shorter track.
type HeardTrack struct {
	TrackID  media.TrackID  `json:"track_id"`
	Title    string         `json:"title"`
	ArtistID media.ArtistID `json:"artist_id,omitempty"`
	Artist   string         `json:"artist"`
	Plays    int64          `json:"plays"`
	Minutes  float64        `json:"minutes"`
}

// HeardArtist: see HeardTrack.
type HeardArtist struct {
	ArtistID media.ArtistID `json:"artist_id,omitempty"`
	Artist   string         `json:"artist"`
	Plays    int64          `json:"plays"`
	Minutes  float64        `json:"minutes"`
}

// HeardDay is a day in UTC on which something was heard.
type HeardDay struct {
	Day     string  `json:"day"` // YYYY-MM-DD
	Plays   int64   `json:"plays"`
	Minutes float64 `json:"minutes"`
}

// Recap answers GET /v1/stats/me.
type Recap struct {
	AsOf
	Period     string        `json:"period"` // week, month, year: the last 7, 30, 365 days; all
	Plays      int64         `json:"plays"`
	Minutes    float64       `json:"minutes"`
	Tracks     int           `json:"tracks"`  // different ones
	Artists    int           `json:"artists"` // different ones
	TopTracks  []HeardTrack  `json:"top_tracks"`
	TopArtists []HeardArtist `json:"top_artists"`
	Days       []HeardDay    `json:"days"`           // oldest first
	Streak     int           `json:"streak"`         // days in a row with a play, up to today or yesterday
	LongStreak int           `json:"longest_streak"` // of the period
}

// CountryPlays is a country's share. Listeners of countries with fewer than 5 of them are added up under no country.
type CountryPlays struct {
	Country   string `json:"country"`
	Plays     int64  `json:"plays"`
	Listeners int64  `json:"listeners"`
}

// ArtistStats answers GET /v1/stats/artists/{id}: the last 28 days.
type ArtistStats struct {
	AsOf
	ArtistID  media.ArtistID `json:"artist_id"`
	Plays     int64          `json:"plays"`
	Listeners int64          `json:"listeners"`
	Minutes   float64        `json:"minutes"`
	TopTracks []HeardTrack   `json:"top_tracks"`
	Days      []HeardDay     `json:"days"`
	Countries []CountryPlays `json:"countries"` // most plays first
}

// TrackStats answers GET /v1/stats/tracks/{id}: the last 28 days.
type TrackStats struct {
	AsOf
	TrackID     media.TrackID  `json:"track_id"`
	Starts      int64          `json:"starts"`
	Plays       int64          `json:"plays"`
	Completions int64          `json:"completions"` // heard to nine tenths
	Skips       int64          `json:"skips"`       // left before it counted
	Listeners   int64          `json:"listeners"`
	Minutes     float64        `json:"minutes"`
	Days        []HeardDay     `json:"days"`
	Countries   []CountryPlays `json:"countries"`
}

// ChartEntry is a place in a chart.
type ChartEntry struct {
	Place    int            `json:"place"`
	Before   int            `json:"before,omitempty"` // the week before; absent: it was not in it
	TrackID  media.TrackID  `json:"track_id"`
	Title    string         `json:"title"`
	ArtistID media.ArtistID `json:"artist_id,omitempty"`
	Artist   string         `json:"artist"`
	Plays    int64          `json:"plays"` // as they count: of one listener at most 10 a week
}

// Chart answers GET /v1/stats/charts/{country}.
type Chart struct {
	AsOf
	Country string       `json:"country"` // or all
	Week    string       `json:"week"`    // ISO 8601, UTC: 2026-W48
	From    string       `json:"from"`    // its Monday
	Final   bool         `json:"final"`   // the week is over, and what players kept while off-line has come, but for what is over 30 days late
	Entries []ChartEntry `json:"entries"`
}

// Question is the body of POST /v1/admin/sql.
type Question struct {
	SQL     string `json:"sql" minLength:"1" maxLength:"20000"`
	MaxRows int    `json:"max_rows,omitempty" minimum:"0" maximum:"10000" doc:"default: 1000"`
}

// Table is ClickHouse's answer.
type Table struct {
	Columns    []Column `json:"columns"`
	Rows       [][]any  `json:"rows"`
	Truncated  bool     `json:"truncated"` // there are more rows
	DurationMS int64    `json:"duration_ms"`
}

// Column is one of a Table. Type is ClickHouse's.
type Column struct {
	Name string `json:"name"`
	Type string `json:"type"`
}
