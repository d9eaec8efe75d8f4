// Package plays carries what players and edges report into ClickHouse.
//
//	POST /v1/events      -> Ingest.Take     -> log "plays"    -+
//	POST /v1/cmcd        -> Ingest.Reports  -> log "cmcd"      +-> Sink -> play_events, cmcd_events, edge_requests -> views
//	POST /v1/fleet/logs  -> Ingest.Requests -> log "edgelogs" -+      \-> log "deadletter": what can never be stored
//
// ClickHouse is a reader of the logs: away, it is late. What comes twice counts once: the tables keep one row per event, the
// sums are of sets of plays, and of edges' batches, which replace themselves.
package plays

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"segue/controlplane/api"
	"segue/internal/eventlog"
	"segue/media"

	"github.com/oklog/ulid/v2"
)

// The logs. Full, they take nothing more: players and edges get a 503 and keep what they have. So many bytes are some 300 million
// events (they are compressed), and weeks of most fleets' requests.
var (
	Stream        = eventlog.Stream{Name: "plays", MaxAge: 30 * 24 * time.Hour, MaxBytes: 32 << 30}
	RequestStream = eventlog.Stream{Name: "edgelogs", MaxAge: 7 * 24 * time.Hour, MaxBytes: 32 << 30}
	CMCDStream    = eventlog.Stream{Name: "cmcd", MaxAge: 7 * 24 * time.Hour, MaxBytes: 8 << 30}
)

// Streams are all of them, for whoever opens the log.
func Streams() []eventlog.Stream {
	return []eventlog.Stream{Stream, RequestStream, CMCDStream, DeadStream}
}

const subject = "plays.events"

// messageBytes is how large a message of the log becomes before the next one is begun: some 200 events. The log takes 1 MiB at most; what waits in
// SQL while the log is away is counted in messages.
const messageBytes = 64 << 10

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
	// Log appends what its senders keep until it is taken: requests of edges, and CMCD. Nil: append does.
	Log    func(ctx context.Context, messages ...eventlog.Message) error
	lookup func(ctx context.Context, playID string) (Play, error)
	secret []byte // makes pseudonyms

	// Heard is told of the first accepted events that say that a play is heard, after they are durable; nil: nobody is.
	Heard func(ctx context.Context, userID string, e Stamped)
	// Region is the region of an edge by its name; empty: not known. Nil: none is.
	Region func(edge string) string
	// Offline makes a play known that a player made offline, by its first event, and returns it; media.ErrNotFound: there is
	// no such licence, or the id is another play's. Nil: none is taken. Set it before the first call of Take.
	Offline func(ctx context.Context, userID string, e api.Event) (Play, error)

	mu    sync.Mutex // guards known
	known map[string]*knownPlay
}

// knownPlay is a play with its listener's pseudonym, which costs more to make than to remember.
type knownPlay struct {
	Play
	key  string
	told atomic.Int32 // how many of its events Heard was told of
}

// tellHeard is of how many events of a play Heard is told: of the first, and of some more in case it failed.
const tellHeard = 3

// NewIngest wires the log and the record of granted plays: append returns when the messages are durable; lookup returns
// media.ErrNotFound for a play never granted.
func NewIngest(append func(ctx context.Context, messages ...eventlog.Message) error, secret []byte, lookup func(ctx context.Context, playID string) (Play, error)) *Ingest {
	return &Ingest{append: append, lookup: lookup, secret: secret, known: map[string]*knownPlay{}}
}

const (
	maxKnown   = 100_000             // plays remembered
	lateFor    = 30 * 24 * time.Hour // a phone may be off-line for so long: as long as an offline licence lasts
	clockSlack = 10 * time.Minute    // a player's clock may be ahead by so much
)

// From is who reports, and how.
type From struct {
	UserID     string
	Country    string // ISO 3166-1 alpha-2; empty: not known
	DeviceType string // as api.Device
	Network    string // of the address, as edgelog.Row.Client
	UserAgent  string
	SentAt     time.Time // when it was sent, by the clock that events are stamped with; zero: not said
}

// skewLeast is how wrong a player's clock has to be to be corrected: less is the way of the request.
const skewLeast = 2 * time.Second

// Take checks events one by one and appends the good ones to the log. When it returns nil they are durable.
func (g *Ingest) Take(ctx context.Context, from From, events []api.Event) (api.EventsAccepted, error) {
	out := api.EventsAccepted{Results: []api.EventResult{}}
	now := time.Now().UTC()
	var skew time.Duration
	if !from.SentAt.IsZero() {
		if skew = now.Sub(from.SentAt).Truncate(time.Millisecond); skew.Abs() < skewLeast {
			skew = 0
		}
	}
	good := make([]Stamped, 0, len(events))
	var heard []int // places in good
	for _, e := range events {
		e.At = e.At.Add(skew)
		p, err := g.play(ctx, from.UserID, e, now)
		if err != nil && !errors.Is(err, media.ErrNotFound) && !errors.Is(err, media.ErrInvalid) {
			return out, err
		}
		if err == nil {
			err = check(e, p.Play, from.UserID, now)
		}
		if err != nil {
			out.Rejected++
			out.Results = append(out.Results, api.EventResult{ID: e.ID, Status: "rejected", Error: err.Error()})
			continue
		}
		s := Stamped{Event: e, UserKey: p.key, TrackID: p.Track.ID, Version: p.Version, Title: p.Track.Title, Album: p.Track.Album.Title, AlbumID: string(p.Track.Album.ID),
			DurationMS: p.Track.DurationMS, Plan: p.Plan, ReceivedAt: now, SkewMS: skew.Milliseconds(), Country: from.Country, DeviceType: from.DeviceType}
		if len(p.Track.Artists) > 0 {
			s.Artist, s.ArtistID = p.Track.Artists[0].Name, string(p.Track.Artists[0].ID)
		}
		if len(p.Track.Genres) > 0 {
			s.Genre = p.Track.Genres[0]
		}
		if g.Region != nil && e.Edge != "" {
			s.Region = g.Region(e.Edge)
		}
		if g.Heard != nil && (s.Type == api.EventStart || s.Type == api.EventProgress) && p.told.Add(1) <= tellHeard {
			heard = append(heard, len(good))
		}
		good = append(good, s)
	}
	if err := g.append(ctx, messages(good)...); err != nil {
		return out, err
	}
	for _, i := range heard {
		g.Heard(ctx, from.UserID, good[i])
	}
	out.Accepted = len(good)
	return out, nil
}

// messages puts events together, as few messages as there may be. A message's id is made of its events', so that a request that is
// repeated as it was is dropped by the log; one that is divided in another way, by ClickHouse.
func messages(events []Stamped) []eventlog.Message {
	var out []eventlog.Message
	body, ids, first := []byte{formEvents}, sha256.New(), 0
	flush := func(end int) {
		if end == first {
			return
		}
		out = append(out, eventlog.Message{ID: hex.EncodeToString(ids.Sum(nil)[:16]), Subject: subject, Body: body})
		body, first = []byte{formEvents}, end
		ids.Reset()
	}
	for i := range events {
		body = appendEvent(body, &events[i])
		ids.Write([]byte(events[i].ID))
		if len(body) > messageBytes {
			flush(i + 1)
		}
	}
	flush(len(events))
	return out
}

func (g *Ingest) play(ctx context.Context, userID string, e api.Event, now time.Time) (*knownPlay, error) {
	id := e.PlayID
	g.mu.Lock()
	k, ok := g.known[id]
	g.mu.Unlock()
	if ok {
		return k, nil
	}
	if !media.ValidID(id) {
		return nil, fmt.Errorf("play_id: %w", media.ErrNotFound)
	}
	if _, err := playTime(id); err != nil {
		return nil, fmt.Errorf("play_id: %w: %w", err, media.ErrInvalid)
	}
	p, err := g.lookup(ctx, id)
	if errors.Is(err, media.ErrNotFound) && e.LicenceID != "" && g.Offline != nil {
		// Nothing is written for an event that would not be taken.
		if err := check(e, Play{UserID: userID, CreatedAt: now.Add(-lateFor)}, userID, now); err != nil {
			return nil, err
		}
		p, err = g.Offline(ctx, userID, e)
	}
	if err != nil {
		return nil, err
	}
	k = &knownPlay{Play: p, key: g.UserKey(p.UserID)}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.known) >= maxKnown {
		clear(g.known)
	}
	g.known[id] = k
	return k, nil
}

func (g *Ingest) direct(ctx context.Context, messages ...eventlog.Message) error {
	if g.Log != nil {
		return g.Log(ctx, messages...)
	}
	return g.append(ctx, messages...)
}

// forget drops what is remembered of a listener's plays.
func (g *Ingest) forget(userID string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, k := range g.known {
		if k.UserID == userID {
			delete(g.known, id)
		}
	}
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
