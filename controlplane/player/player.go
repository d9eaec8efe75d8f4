// Package player is a person's one player over all devices: the queue, what plays where, commands from one device to
// another, and the streams on which devices hear of it.
//
//	change: one transaction on players (its row's lock puts a person's changes in one order, seq counts them)
//	   -> notice "user, seq" to all replicas -> each stream of that user asks SQL for what it has not seen
//
// SQL is the only place where anything stands. A notice that is lost costs time, not truth: replicas compare numbers with
// SQL every 15 s, and every second while the log of notices is out of reach.
package player

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"
)

var (
	// ErrNotActive: a device reports that it plays while another one is active. It has to stop.
	ErrNotActive = errors.New("another device is active")
	// ErrNoActive: a command for the active device while there is none that could hear it.
	ErrNoActive = errors.New("no active device is connected")
	// ErrEnded: a stream is over, with its session or this replica.
	ErrEnded = errors.New("stream has ended")
)

// Notices carry word of changes between replicas, at most once.
type Notices struct {
	Publish func(body []byte) error
	// Subscribe hands notices to take until ctx ends, and calls ready when those that are published from then on come.
	Subscribe func(ctx context.Context, ready func(), take func(body []byte)) error
	Connected func() bool
}

// Sources is what the player asks of other services.
type Sources struct {
	Devices func(ctx context.Context, userID string) (map[string]api.Device, error)  // types and names, by device
	Ended   func(sessionID string) bool                                              // ended lately; asked often
	Tracks  func(ctx context.Context, ids ...string) (tracks []api.Track, err error) // those that there are
}

// Service is safe for concurrent use.
type Service struct {
	db      *store.DB
	notices Notices
	ask     Sources
	log     *slog.Logger
	hub     *hub
}

// New wires the service. Streams are told of changes elsewhere only while it is Run.
func New(db *store.DB, n Notices, ask Sources, log *slog.Logger) *Service {
	return &Service{db, n, ask, log, newHub()}
}

const (
	// reportEvery is how often a playing device reports at least, with some patience: a state that is older says little.
	reportEvery = 35 * time.Second
	// goneAfter is how long an active device may be silent without a stream before another takes its place unasked.
	goneAfter = time.Minute
	// playingFor is how long a report of playing is believed.
	playingFor = 90 * time.Second
)

// row is a row of players.
type row struct {
	seq, stateSeq, queueSeq, devicesSeq int64
	active                              string
	queueEntry                          string
	queuePositionMS                     int64
	placedSeq                           int64
	track                               media.TrackID
	entry, play                         string
	positionMS                          int64
	paused                              bool
	volume                              int
	at                                  time.Time
}

const columns = `seq, state_seq, queue_seq, devices_seq, active_device, queue_entry, queue_position_ms, placed_seq, track_id, entry_id, play_id, position_ms, paused, volume, reported_at`

func scan(r *sql.Row) (p row, err error) {
	var paused, at int64
	err = r.Scan(&p.seq, &p.stateSeq, &p.queueSeq, &p.devicesSeq, &p.active, &p.queueEntry, &p.queuePositionMS, &p.placedSeq, &p.track, &p.entry, &p.play, &p.positionMS, &paused, &p.volume, &at)
	p.paused, p.at = paused != 0, store.Time(at)
	return p, err
}

// load reads a row; a person who never played anything has one of zeros.
func (s *Service) load(ctx context.Context, userID string) (row, error) {
	p, err := scan(s.db.QueryRowContext(ctx, `SELECT `+columns+` FROM players WHERE user_id = $1`, userID))
	if errors.Is(err, sql.ErrNoRows) {
		return row{paused: true, volume: 100, at: store.Time(0)}, nil
	}
	return p, err
}

// change makes and locks a person's row, gives it the next number, lets f change it (and mark what it changed with that
// number), stores it, and tells all streams. Errors: media.ErrNotFound for an account that is gone, those of f.
func (s *Service) change(ctx context.Context, userID string, f func(tx *sql.Tx, p *row) error) (p row, err error) {
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		p, err = s.changeIn(ctx, tx, userID, f)
		return err
	})
	if err == nil {
		s.notify(notice{User: userID, Seq: p.seq})
	}
	return p, err
}

func (s *Service) changeIn(ctx context.Context, tx *sql.Tx, userID string, f func(tx *sql.Tx, p *row) error) (row, error) {
	p, err := scan(tx.QueryRowContext(ctx, `INSERT INTO players (user_id, seq) SELECT id, 1 FROM users WHERE id = $1 ON CONFLICT (user_id) DO UPDATE SET seq = players.seq + 1
		RETURNING `+columns, userID))
	if errors.Is(err, sql.ErrNoRows) {
		return p, fmt.Errorf("user %s: %w", userID, media.ErrNotFound)
	}
	if err != nil {
		return p, err
	}
	if err := f(tx, &p); err != nil {
		return p, err
	}
	paused := 0
	if p.paused {
		paused = 1
	}
	_, err = tx.ExecContext(ctx, `UPDATE players SET seq = $2, state_seq = $3, queue_seq = $4, devices_seq = $5, active_device = $6, queue_entry = $7, queue_position_ms = $8,
		placed_seq = $9, track_id = $10, entry_id = $11, play_id = $12, position_ms = $13, paused = $14, volume = $15, reported_at = $16 WHERE user_id = $1`,
		userID, p.seq, p.stateSeq, p.queueSeq, p.devicesSeq, p.active, p.queueEntry, p.queuePositionMS, p.placedSeq, string(p.track), p.entry, p.play, p.positionMS, paused, p.volume, store.Micros(p.at))
	return p, err
}

func (p row) state() api.PlayerState {
	return api.PlayerState{ActiveDeviceID: p.active, TrackID: p.track, EntryID: p.entry, PlayID: p.play, PositionMS: p.positionMS, Paused: p.paused, Volume: p.volume, At: p.at}
}

// positionAt is where the active device is by now, when it was heard lately.
func (p row) positionAt(now time.Time) int64 {
	if since := now.Sub(p.at); !p.paused && since > 0 && since < reportEvery {
		return p.positionMS + since.Milliseconds()
	}
	return p.positionMS
}

// querier is *sql.DB or *sql.Tx.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// device is one that is connected.
type device struct {
	id    string
	plays bool
}

// connected lists a person's devices that have a stream anywhere, the first comer first.
func connected(ctx context.Context, q querier, userID string) ([]device, error) {
	rows, err := q.QueryContext(ctx, `SELECT s.device_id, max(s.plays) FROM player_streams s JOIN player_hubs h ON h.id = s.hub_id WHERE s.user_id = $1 AND h.seen_at > $2
		GROUP BY s.device_id ORDER BY min(s.opened_at), s.device_id`, userID, store.Micros(time.Now().Add(-hubGone)))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []device
	for rows.Next() {
		var d device
		var plays int64
		if err := rows.Scan(&d.id, &plays); err != nil {
			return nil, err
		}
		d.plays = plays != 0
		out = append(out, d)
	}
	return out, rows.Err()
}

func (s *Service) devices(ctx context.Context, userID, active string) ([]api.PlayerDevice, error) {
	list, err := connected(ctx, s.db, userID)
	if err != nil {
		return nil, err
	}
	out := []api.PlayerDevice{}
	if len(list) == 0 {
		return out, nil
	}
	names, err := s.ask.Devices(ctx, userID)
	for _, d := range list {
		n := names[d.id]
		out = append(out, api.PlayerDevice{ID: d.id, Type: n.Type, Name: n.Name, Plays: d.plays, Active: d.id == active})
	}
	return out, err
}

// Player returns everything but the queue's entries.
func (s *Service) Player(ctx context.Context, userID string) (out api.Player, err error) {
	p, err := s.load(ctx, userID)
	if err != nil {
		return out, err
	}
	out.State, out.QueueRevision = p.state(), p.queueSeq
	out.Devices, err = s.devices(ctx, userID, p.active)
	return out, err
}

// Report takes the word of the active device for what it does. A device that reports while none is active, or while the
// active one has been silent and without a stream for a minute, becomes active. Errors: ErrNotActive, media.ErrInvalid.
func (s *Service) Report(ctx context.Context, userID, deviceID string, in api.StateReport) (api.PlayerState, error) {
	for field, id := range map[string]string{"track_id": string(in.TrackID), "play_id": in.PlayID} {
		if id != "" && !media.ValidID(id) {
			return api.PlayerState{}, fmt.Errorf("%s: not an id: %w", field, media.ErrInvalid)
		}
	}
	p, err := s.change(ctx, userID, func(tx *sql.Tx, p *row) error {
		now := time.Now()
		if p.active != deviceID {
			if gone, err := activeGone(ctx, tx, userID, p, now); err != nil {
				return err
			} else if !gone {
				return ErrNotActive
			}
			if p.active != "" { // it may come back and must know then
				if err := command(ctx, tx, p, userID, api.Command{Type: api.CommandStop, DeviceID: p.active, FromDeviceID: deviceID}); err != nil {
					return err
				}
			}
			p.active, p.devicesSeq = deviceID, p.seq
		}
		p.track, p.play, p.entry = in.TrackID, in.PlayID, ""
		p.positionMS, p.paused, p.at, p.stateSeq = in.PositionMS, in.Paused, now, p.seq
		if in.Volume != nil {
			p.volume = *in.Volume
		}
		if in.EntryID == "" {
			return nil
		}
		if in.EntryID != p.queueEntry {
			q, err := loadQueue(ctx, tx, userID)
			if err != nil {
				return err
			}
			if q.index(in.EntryID) < 0 {
				return nil // somebody took it out of the queue while it played
			}
			p.queueEntry, p.queueSeq = in.EntryID, p.seq
		}
		p.entry, p.queuePositionMS = in.EntryID, in.PositionMS
		return nil
	})
	return p.state(), err
}

// activeGone reports whether another device may take the active one's place unasked.
func activeGone(ctx context.Context, tx *sql.Tx, userID string, p *row, now time.Time) (bool, error) {
	if p.active == "" {
		return true, nil
	}
	if now.Sub(p.at) < goneAfter {
		return false, nil
	}
	list, err := connected(ctx, tx, userID)
	for _, d := range list {
		if d.id == p.active {
			return false, err
		}
	}
	return true, err
}

// Playing is what one person plays at this moment.
type Playing struct {
	UserID  string
	TrackID media.TrackID
	At      time.Time
}

// Playing returns those of the people, at most 500, who play something at this moment.
func (s *Service) Playing(ctx context.Context, userIDs ...string) ([]Playing, error) {
	if len(userIDs) == 0 {
		return nil, nil
	}
	in, args := anyOf(userIDs, store.Micros(time.Now().Add(-playingFor)))
	rows, err := s.db.QueryContext(ctx, `SELECT user_id, track_id, reported_at FROM players WHERE reported_at > $1 AND paused = 0 AND active_device <> '' AND track_id <> '' AND user_id IN `+in, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []Playing
	for rows.Next() {
		var p Playing
		var at int64
		if err := rows.Scan(&p.UserID, &p.TrackID, &at); err != nil {
			return nil, err
		}
		p.At = store.Time(at)
		out = append(out, p)
	}
	return out, rows.Err()
}

// anyOf writes ($2, $3, …) behind a first argument.
func anyOf(ids []string, first ...any) (string, []any) {
	marks, args := make([]string, len(ids)), first
	for i, id := range ids {
		args = append(args, id)
		marks[i] = "$" + strconv.Itoa(len(args))
	}
	return "(" + strings.Join(marks, ", ") + ")", args
}
