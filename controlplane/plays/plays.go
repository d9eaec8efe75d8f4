// Package plays carries what players report into ClickHouse.
//
//	POST /v1/events -> Ingest (check, stamp) -> event log, then 202 -> Sink -> play_events -> plays
//
// ClickHouse is a reader of the log: away, it is late; a repeat of a batch is harmless, because play_events keeps one row
// per event id and plays is made of aggregates that do not count twice (max, min, any, distinct).
package plays

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"segue/controlplane/api"
	"segue/internal/eventlog"
	"segue/media"

	"github.com/oklog/ulid/v2"
)

// Stream is the log of play events.
var Stream = eventlog.Stream{Name: "plays", MaxAge: 30 * 24 * time.Hour}

const subject = "plays.event"

// MaxEvents is the largest batch of one request.
const MaxEvents = 1000

// Stamped is an event as it stands in the log: what the player said and what the server knows.
type Stamped struct {
	api.Event
	UserKey    string        `json:"user_key"` // pseudonym: the same listener always has the same one
	TrackID    media.TrackID `json:"track_id"`
	Version    media.Version `json:"version"`
	Title      string        `json:"title"`
	Artist     string        `json:"artist"`
	Album      string        `json:"album"`
	DurationMS int64         `json:"duration_ms"`
	Plan       api.Plan      `json:"plan"`
	ReceivedAt time.Time     `json:"received_at"`
	SkewMS     int64         `json:"skew_ms,omitempty"` // added to what the player said, because its clock was wrong
	ArtistID   string        `json:"artist_id,omitempty"`
	AlbumID    string        `json:"album_id,omitempty"`
	Genre      string        `json:"genre,omitempty"`       // the track's first
	Country    string        `json:"country,omitempty"`     // ISO 3166-1 alpha-2, of the address that reported it
	Region     string        `json:"region,omitempty"`      // of Edge
	DeviceType string        `json:"device_type,omitempty"` // web, phone, …
}

// Play is what is known of a granted play. Track may lack everything but its ID when the catalogue dropped it.
type Play struct {
	UserID    string
	Plan      api.Plan
	Version   media.Version
	CreatedAt time.Time
	ExpiresAt time.Time
	Track     api.Track
}

// Ingest takes events from players. It is safe for concurrent use.
type Ingest struct {
	append func(ctx context.Context, messages ...eventlog.Message) error
	lookup func(ctx context.Context, playID string) (Play, error)
	secret []byte // makes pseudonyms

	// Heard is told of accepted events that say that a play is heard, after they are durable; nil: nobody is.
	Heard func(ctx context.Context, userID string, e Stamped)
	// Offline makes a play known that a player made offline, by its first event, and returns it; media.ErrNotFound: there is
	// no such licence, or the id is another play's. Nil: none is taken. Set it before the first call of Take.
	Offline func(ctx context.Context, userID string, e api.Event) (Play, error)

	mu    sync.Mutex // guards known
	known map[string]Play
}

// NewIngest wires the log and the record of granted plays: append returns when the messages are durable; lookup returns
// media.ErrNotFound for a play never granted.
func NewIngest(append func(ctx context.Context, messages ...eventlog.Message) error, secret []byte, lookup func(ctx context.Context, playID string) (Play, error)) *Ingest {
	return &Ingest{append: append, lookup: lookup, secret: secret, known: map[string]Play{}}
}

const (
	maxKnown   = 10_000              // plays remembered
	lateFor    = 30 * 24 * time.Hour // a phone may be off-line for so long: as long as an offline licence lasts
	clockSlack = 10 * time.Minute    // a player's clock may be ahead by so much
)

// Take checks events one by one and appends the good ones to the log. When it returns nil they are durable.
func (g *Ingest) Take(ctx context.Context, userID string, events []api.Event) (api.EventsAccepted, error) {
	out := api.EventsAccepted{Results: []api.EventResult{}}
	now := time.Now().UTC()
	var messages []eventlog.Message
	var heard []Stamped
	for _, e := range events {
		p, err := g.play(ctx, userID, e, now)
		if err != nil && !errors.Is(err, media.ErrNotFound) && !errors.Is(err, media.ErrInvalid) {
			return out, err
		}
		if err == nil {
			err = check(e, p, userID, now)
		}
		if err != nil {
			out.Rejected++
			out.Results = append(out.Results, api.EventResult{ID: e.ID, Status: "rejected", Error: err.Error()})
			continue
		}
		s := Stamped{Event: e, UserKey: g.UserKey(userID), TrackID: p.Track.ID, Version: p.Version, Title: p.Track.Title, Album: p.Track.Album.Title,
			DurationMS: p.Track.DurationMS, Plan: p.Plan, ReceivedAt: now}
		if len(p.Track.Artists) > 0 {
			s.Artist = p.Track.Artists[0].Name
		}
		body, err := json.Marshal(s)
		if err != nil {
			return out, fmt.Errorf("bug: %w", err)
		}
		messages = append(messages, eventlog.Message{ID: e.ID, Subject: subject, Body: body})
		if e.Type == api.EventStart || e.Type == api.EventProgress {
			heard = append(heard, s)
		}
	}
	if err := g.append(ctx, messages...); err != nil {
		return out, err
	}
	if g.Heard != nil {
		for _, s := range heard {
			g.Heard(ctx, userID, s)
		}
	}
	out.Accepted = len(messages)
	return out, nil
}

func (g *Ingest) play(ctx context.Context, userID string, e api.Event, now time.Time) (Play, error) {
	id := e.PlayID
	g.mu.Lock()
	p, ok := g.known[id]
	g.mu.Unlock()
	if ok {
		return p, nil
	}
	if !media.ValidID(id) {
		return Play{}, fmt.Errorf("play_id: %w", media.ErrNotFound)
	}
	p, err := g.lookup(ctx, id)
	if errors.Is(err, media.ErrNotFound) && e.LicenceID != "" && g.Offline != nil {
		// Nothing is written for an event that would not be taken.
		if err := check(e, Play{UserID: userID, CreatedAt: now.Add(-lateFor)}, userID, now); err != nil {
			return p, err
		}
		p, err = g.Offline(ctx, userID, e)
	}
	if err != nil {
		return p, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.known) >= maxKnown {
		clear(g.known)
	}
	g.known[id] = p
	return p, nil
}

var eventTypes = []string{api.EventStart, api.EventProgress, api.EventPause, api.EventResume, api.EventSeek, api.EventStall, api.EventRendition, api.EventEnd, api.EventError}

func check(e api.Event, p Play, userID string, now time.Time) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf(format+": %w", append(args, media.ErrInvalid)...)
	}
	if _, err := ulid.ParseStrict(e.ID); err != nil {
		return bad("event_id: not a ULID")
	}
	const day = 24 * 60 * 60 * 1000
	switch {
	case p.UserID != userID:
		return fmt.Errorf("play_id: %w", media.ErrNotFound) // somebody else's is nobody's business
	case !slices.Contains(eventTypes, e.Type):
		return bad("type: unknown")
	case e.At.After(now.Add(clockSlack)) || e.At.Before(now.Add(-lateFor)) || e.At.Before(p.CreatedAt.Add(-clockSlack)):
		return bad("at: not within this play and the last 30 days")
	case e.PositionMS < 0 || e.PositionMS > day || e.PlayedMS < 0 || e.PlayedMS > day || e.StartupMS < 0 || e.StartupMS > day || e.StallMS < 0 || e.StallMS > day:
		return bad("a time in milliseconds is negative or over a day")
	case len(e.Rendition) > 64 || len(e.Edge) > 64 || len(e.Player) > 128 || len(e.Message) > 1024:
		return bad("a text is too long")
	case e.Context != nil && (len(e.Context.Type) > 16 || len(e.Context.ID) > 64 || !utf8.ValidString(e.Context.Type+e.Context.ID)):
		return bad("context: unknown")
	case !utf8.ValidString(e.Rendition + e.Edge + e.Player + e.Message):
		return bad("a text is not UTF-8")
	}
	return nil
}

// UserKey is a listener's pseudonym in the play logs. Without the key that it was made with, nobody can tell whose it is.
func (g *Ingest) UserKey(userID string) string {
	h := hmac.New(sha256.New, g.secret)
	h.Write([]byte(userID))
	return hex.EncodeToString(h.Sum(nil)[:16])
}
