package player

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"

	"github.com/oklog/ulid/v2"
)

// MaxStreams bounds the streams of one person at one replica.
const MaxStreams = 20

// streamFor is how long a stream lives: a session of which nobody says that it ended, since it just expired, has none for
// longer.
const streamFor = 12 * time.Hour

// hub holds the streams of this replica.
type hub struct {
	id string

	mu      sync.Mutex // guards the fields below
	users   map[string][]*Stream
	count   int
	closing bool
	unsaved []string // streams that closed while SQL was away: their rows still stand
}

func newHub() *hub {
	return &hub{id: ulid.Make().String(), users: map[string][]*Stream{}}
}

// Stream is one open connection of a device.
type Stream struct {
	s          *Service
	id         string
	who        Opening
	opened     time.Time
	wake       chan struct{} // holds one: there may be something new
	ended      chan struct{}
	once       sync.Once // closes ended
	last       atomic.Int64
	fresh      bool  // nothing was sent yet, and nothing before
	commandsOf int64 // commands with higher numbers are still to be sent
}

// Opening says whose stream it is.
type Opening struct {
	UserID    string
	SessionID string
	DeviceID  string
	Plays     bool  // the device can play, not only show and command
	After     int64 // the number of the last event that it has; 0: none
}

// Event is one thing to send. Data is what api.Stream… says. ID is set on the last of a batch only: who has seen it has
// seen all before it.
type Event struct {
	ID   int64
	Kind string
	Data any
}

// Open registers a stream: its device counts as connected until Close. Errors: media.ErrBusy when this
// replica is stopping or the person has too many streams, media.ErrNotFound for an account that is gone.
func (s *Service) Open(ctx context.Context, who Opening) (*Stream, error) {
	st := &Stream{s: s, id: ulid.Make().String(), who: who, opened: time.Now(), wake: make(chan struct{}, 1), ended: make(chan struct{})}
	// In the hub first: what changes from here on wakes it.
	if err := s.hub.add(st); err != nil {
		return nil, err
	}
	p, err := s.change(ctx, who.UserID, func(tx *sql.Tx, p *row) error {
		p.devicesSeq = p.seq
		return st.insert(ctx, tx)
	})
	if err != nil {
		s.hub.remove(st)
		return nil, err
	}
	// A number of ours that is not of the future: go on from there. Else the whole picture, and commands from now on.
	if st.fresh = who.After <= 0 || who.After > p.seq; st.fresh {
		st.commandsOf = p.seq
	} else {
		st.commandsOf = who.After
		st.last.Store(who.After)
	}
	st.poke()
	return st, nil
}

type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

func (st *Stream) insert(ctx context.Context, x execer) error {
	plays := 0
	if st.who.Plays {
		plays = 1
	}
	_, err := x.ExecContext(ctx, `INSERT INTO player_streams (id, user_id, device_id, plays, hub_id, opened_at) SELECT $1, id, $3, $4, $5, $6 FROM users WHERE id = $2
		ON CONFLICT (id) DO NOTHING`, st.id, st.who.UserID, st.who.DeviceID, plays, st.s.hub.id, store.Micros(st.opened))
	return err
}

// Next waits for something new, for at most wait: then it returns none. While SQL is away it
// waits on. Errors: ErrEnded, that of ctx.
// One goroutine at a time may wait.
func (st *Stream) Next(ctx context.Context, wait time.Duration) ([]Event, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	var again <-chan time.Time
	for {
		select {
		case <-st.ended:
			return nil, ErrEnded
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timer.C:
			if again != nil {
				st.poke()
			}
			return nil, nil
		case <-st.wake:
		case <-again:
		}
		again = nil
		events, err := st.read(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			// SQL is away: it is no use that all streams break and come back at once.
			st.s.log.Debug("stream waits", "err", err)
			again = time.After(time.Second)
		case err != nil || len(events) > 0:
			return events, err
		}
	}
}

// read collects what the stream has not seen.
func (st *Stream) read(ctx context.Context) ([]Event, error) {
	last := st.last.Load()
	p, err := st.s.load(ctx, st.who.UserID)
	if err != nil || p.seq <= last && !st.fresh {
		return nil, err
	}
	var out []Event
	if p.devicesSeq > last || st.fresh {
		devices, err := st.s.devices(ctx, st.who.UserID, p.active)
		if err != nil {
			return nil, err
		}
		out = append(out, Event{Kind: api.StreamDevices, Data: devices})
	}
	if p.queueSeq > last || st.fresh {
		out = append(out, Event{Kind: api.StreamQueue, Data: api.QueueChanged{Revision: p.queueSeq}})
	}
	if p.stateSeq > last || st.fresh {
		out = append(out, Event{Kind: api.StreamState, Data: p.state()})
	}
	// All of them up to p.seq are there to be read: they were committed with it.
	commands, err := st.s.commands(ctx, st.who.UserID, st.who.DeviceID, st.commandsOf, p.seq)
	if err != nil {
		return nil, err
	}
	for _, c := range commands {
		out = append(out, Event{Kind: api.StreamCommand, Data: c})
	}
	st.fresh, st.commandsOf = false, max(st.commandsOf, p.seq)
	st.last.Store(p.seq)
	if len(out) > 0 {
		out[len(out)-1].ID = p.seq
	}
	return out, nil
}

// Close ends the stream; its device is connected no longer, unless by another one.
func (st *Stream) Close() {
	st.end()
	if stopping := st.s.hub.remove(st); stopping {
		return // Run takes all rows away at once
	}
	// The connection is gone, and its context with it.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err := st.s.change(ctx, st.who.UserID, func(tx *sql.Tx, p *row) error {
		p.devicesSeq = p.seq
		_, err := tx.ExecContext(ctx, `DELETE FROM player_streams WHERE id = $1`, st.id)
		return err
	})
	if err != nil && !errors.Is(err, media.ErrNotFound) { // an account that is gone took its rows with it
		st.s.log.Warn("stream's row stays for a while", "err", err)
		st.s.hub.mu.Lock()
		st.s.hub.unsaved = append(st.s.hub.unsaved, st.id)
		st.s.hub.mu.Unlock()
	}
}

func (st *Stream) end() { st.once.Do(func() { close(st.ended) }) }

func (st *Stream) poke() {
	select {
	case st.wake <- struct{}{}:
	default:
	}
}

func (h *hub) add(st *Stream) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closing:
		return fmt.Errorf("this replica is stopping: %w", media.ErrBusy)
	case len(h.users[st.who.UserID]) >= MaxStreams:
		return fmt.Errorf("at most %d streams of one account: %w", MaxStreams, media.ErrBusy)
	}
	h.users[st.who.UserID] = append(h.users[st.who.UserID], st)
	h.count++
	return nil
}

// remove forgets a stream and reports whether the replica is stopping.
func (h *hub) remove(st *Stream) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := h.users[st.who.UserID]
	for i, other := range list {
		if other == st {
			list[i] = list[len(list)-1]
			list[len(list)-1] = nil
			list = list[:len(list)-1]
			h.count--
			break
		}
	}
	if h.users[st.who.UserID] = list; len(list) == 0 {
		delete(h.users, st.who.UserID)
	}
	return h.closing
}

// streams lists those of a user, or of all users for "".
func (h *hub) streams(userID string) []*Stream {
	h.mu.Lock()
	defer h.mu.Unlock()
	if userID != "" {
		return append([]*Stream(nil), h.users[userID]...)
	}
	out := make([]*Stream, 0, h.count)
	for _, list := range h.users {
		out = append(out, list...)
	}
	return out
}

// Streams is how many are open at this replica.
func (s *Service) Streams() int {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return s.hub.count
}

// EndStreams ends all streams of this replica and lets no more in: a server that shuts down waits for its requests.
func (s *Service) EndStreams() {
	s.hub.mu.Lock()
	s.hub.closing = true
	s.hub.mu.Unlock()
	for _, st := range s.hub.streams("") {
		st.end()
	}
}
