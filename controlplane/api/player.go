package api

import (
	"time"

	"segue/media"
)

// Repeat modes of a Queue.
const (
	RepeatOff   = "off"
	RepeatAll   = "all"
	RepeatTrack = "track"
)

// Queue is what one's devices play: GET and PUT /v1/me/queue. Entries are in the order of playing; those before Current
// were played. Shuffle and Repeat are for players to show and to obey: the server does not reorder by itself. Revision
// changes with everything but PositionMS, and is the answer's ETag.
type Queue struct {
	Revision   int64        `json:"revision"`
	Context    *PlayContext `json:"context,omitempty"`
	Shuffle    bool         `json:"shuffle"`
	Repeat     string       `json:"repeat" enum:"off,all,track"`
	CurrentID  string       `json:"current_id,omitempty"` // an entry; none: nothing was begun
	PositionMS int64        `json:"position_ms"`          // in the current entry, as last reported
	Entries    []QueueEntry `json:"entries"`
	Tracks     []Track      `json:"tracks"` // of the current entry and the next ones, as many as ?expand= says
}

// QueueEntry is one place in a Queue. The same track may be in several.
type QueueEntry struct {
	ID      string        `json:"id"`
	TrackID media.TrackID `json:"track_id"`
}

// NewQueue replaces a queue. The server names the entries.
type NewQueue struct {
	TrackIDs   []media.TrackID `json:"track_ids" maxItems:"5000"`
	Current    int             `json:"current" required:"false" minimum:"0" doc:"index into track_ids"`
	PositionMS int64           `json:"position_ms" required:"false" minimum:"0"`
	Shuffle    bool            `json:"shuffle" required:"false"`
	Repeat     string          `json:"repeat,omitempty" enum:"off,all,track" doc:"default: off"`
	Context    *PlayContext    `json:"context,omitempty"`
}

// NewEntries is the body of POST /v1/me/queue/entries.
type NewEntries struct {
	TrackIDs []media.TrackID `json:"track_ids" minItems:"1" maxItems:"5000"`
	Next     bool            `json:"next" required:"false" doc:"right after the current entry; default: at the end"`
}

// MoveEntry is the body of POST /v1/me/queue/entries/{id}/move.
type MoveEntry struct {
	Before string `json:"before,omitempty" maxLength:"32" doc:"the entry that shall follow it; none: to the end"`
}

// QueueChange is the body of PATCH /v1/me/queue: what is absent stays.
type QueueChange struct {
	CurrentID  *string `json:"current_id,omitempty" maxLength:"32"`
	PositionMS *int64  `json:"position_ms,omitempty" minimum:"0"`
	Shuffle    *bool   `json:"shuffle,omitempty"`
	Repeat     *string `json:"repeat,omitempty" enum:"off,all,track"`
}

// QueueChanged answers a change of a queue. Entries are those that it made.
type QueueChanged struct {
	Revision int64        `json:"revision"`
	Entries  []QueueEntry `json:"entries,omitempty"`
}

// PlayerState is what the active device plays. Whoever shows a running position adds the time since At to PositionMS
// unless Paused.
type PlayerState struct {
	ActiveDeviceID string        `json:"active_device_id,omitempty"` // none: nothing plays
	TrackID        media.TrackID `json:"track_id,omitempty"`
	EntryID        string        `json:"entry_id,omitempty"` // in the queue
	PlayID         string        `json:"play_id,omitempty"`
	PositionMS     int64         `json:"position_ms"`
	Paused         bool          `json:"paused"`
	Volume         int           `json:"volume"` // percent
	At             time.Time     `json:"at"`     // when the server learned it
}

// StateReport is the body of PUT /v1/me/player/state: the active device says so at every change and every 30 s of
// playing.
type StateReport struct {
	TrackID    media.TrackID `json:"track_id,omitempty"`
	EntryID    string        `json:"entry_id,omitempty" maxLength:"32" doc:"becomes the queue's current entry"`
	PlayID     string        `json:"play_id,omitempty" maxLength:"26"`
	PositionMS int64         `json:"position_ms" minimum:"0" maximum:"86400000"`
	Paused     bool          `json:"paused"`
	Volume     *int          `json:"volume,omitempty" minimum:"0" maximum:"100"`
}

// PlayerDevice is a device that is connected, with an open stream.
type PlayerDevice struct {
	ID     string `json:"id"`
	Type   string `json:"type"`
	Name   string `json:"name"`
	Plays  bool   `json:"plays"` // false: it only shows and commands
	Active bool   `json:"active"`
}

// Player answers GET /v1/me/player.
type Player struct {
	State         PlayerState    `json:"state"`
	Devices       []PlayerDevice `json:"devices"`
	QueueRevision int64          `json:"queue_revision"`
}

// Types of Command.Type.
const (
	CommandStart    = "start" // become active: load TrackID at PositionMS, and play unless Paused
	CommandStop     = "stop"  // another device is active now: stop, and report nothing more
	CommandPlay     = "play"
	CommandPause    = "pause"
	CommandSeek     = "seek"     // to PositionMS
	CommandNext     = "next"     // in the queue
	CommandPrevious = "previous" // in the queue
	CommandVolume   = "volume"   // to Volume
)

// Command is what a device is told on its stream. A command can come twice, after a broken connection: ID tells.
type Command struct {
	ID            int64         `json:"id"` // rises
	Type          string        `json:"type"`
	DeviceID      string        `json:"device_id"`      // who is told
	FromDeviceID  string        `json:"from_device_id"` // who asked
	TrackID       media.TrackID `json:"track_id,omitempty"`
	EntryID       string        `json:"entry_id,omitempty"`
	PositionMS    *int64        `json:"position_ms,omitempty"`
	Paused        *bool         `json:"paused,omitempty"`
	Volume        *int          `json:"volume,omitempty"`
	QueueRevision int64         `json:"queue_revision,omitempty"`
	ExpiresAt     time.Time     `json:"expires_at"` // it is not delivered later than this
}

// NewCommand is the body of POST /v1/me/player/{play,pause,seek,next,previous,volume}.
type NewCommand struct {
	DeviceID   string `json:"device_id,omitempty" maxLength:"64" doc:"default: the active device"`
	PositionMS *int64 `json:"position_ms,omitempty" minimum:"0" maximum:"86400000" doc:"of seek"`
	Volume     *int   `json:"volume,omitempty" minimum:"0" maximum:"100" doc:"of volume, percent"`
}

// Transfer is the body of POST /v1/me/queue/transfer and /v1/me/player/transfer.
type Transfer struct {
	DeviceID string `json:"device_id" maxLength:"64"`
	Play     *bool  `json:"play,omitempty" doc:"whether it shall play; default: as the device before did"`
}

// Kinds of events on a stream; what their data is.
const (
	StreamState   = "state"   // PlayerState
	StreamQueue   = "queue"   // QueueChanged, without entries: it is another one now
	StreamDevices = "devices" // []PlayerDevice
	StreamCommand = "command" // Command
)
