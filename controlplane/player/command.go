package player

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"
)

// commandFor is how long a command waits for a stream that broke: a late "next" is worse than none.
const commandFor = 30 * time.Second

// Commands lists what one device may ask of another, besides a transfer.
var Commands = []string{api.CommandPlay, api.CommandPause, api.CommandSeek, api.CommandNext, api.CommandPrevious, api.CommandVolume}

// command writes one for a device, in the transaction of a change, with a number of its own.
func command(ctx context.Context, tx *sql.Tx, p *row, userID string, c api.Command) error {
	now := time.Now()
	p.seq++
	c.ID, c.ExpiresAt = p.seq, now.Add(commandFor).UTC().Truncate(time.Microsecond)
	body, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("bug: %w", err)
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM player_commands WHERE user_id = $1 AND expires_at < $2`, userID, store.Micros(now)); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO player_commands (user_id, seq, device_id, type, body, expires_at) VALUES ($1, $2, $3, $4, $5, $6)`,
		userID, p.seq, c.DeviceID, c.Type, string(body), store.Micros(c.ExpiresAt))
	return err
}

// Command asks a device, by default the active one, to do something. It is delivered, not done: the device's reports
// tell. To play on a device that is not active is a transfer. Errors: ErrNoActive, media.ErrNotFound for a device that
// is not connected, media.ErrInvalid.
func (s *Service) Command(ctx context.Context, userID, fromDevice, kind string, in api.NewCommand) (api.PlayerState, error) {
	c := api.Command{Type: kind, FromDeviceID: fromDevice}
	switch {
	case !slices.Contains(Commands, kind):
		return api.PlayerState{}, fmt.Errorf("command %q: %w", kind, media.ErrNotFound)
	case kind == api.CommandSeek:
		if c.PositionMS = in.PositionMS; in.PositionMS == nil {
			return api.PlayerState{}, fmt.Errorf("position_ms: is needed to seek: %w", media.ErrInvalid)
		}
	case kind == api.CommandVolume:
		if c.Volume = in.Volume; in.Volume == nil {
			return api.PlayerState{}, fmt.Errorf("volume: is needed: %w", media.ErrInvalid)
		}
	}
	p, err := s.change(ctx, userID, func(tx *sql.Tx, p *row) error {
		if c.DeviceID = in.DeviceID; c.DeviceID == "" {
			c.DeviceID = p.active
		}
		if kind == api.CommandPlay && c.DeviceID != p.active {
			play := true
			return transfer(ctx, tx, p, userID, fromDevice, api.Transfer{DeviceID: c.DeviceID, Play: &play})
		}
		list, err := connected(ctx, tx, userID)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(list, func(d device) bool { return d.id == c.DeviceID }) {
			if in.DeviceID == "" {
				return ErrNoActive
			}
			return fmt.Errorf("device_id: no such device is connected: %w", media.ErrNotFound)
		}
		if kind == api.CommandPlay { // what to play, for a device that has another queue at hand
			start, err := toStart(ctx, tx, p, userID)
			if err != nil {
				return err
			}
			c.TrackID, c.EntryID, c.PositionMS, c.QueueRevision = start.TrackID, start.EntryID, start.PositionMS, p.queueSeq
		}
		return command(ctx, tx, p, userID, c)
	})
	return p.state(), err
}

// Transfer makes a device the active one: the device before is told to stop and this one to start where that was. The
// row's lock puts transfers in order, so that one device is active after any number of them at once. Errors:
// media.ErrNotFound for a device that is not connected, or does not play, unless it is the one that asks.
func (s *Service) Transfer(ctx context.Context, userID, fromDevice string, in api.Transfer) (api.PlayerState, error) {
	p, err := s.change(ctx, userID, func(tx *sql.Tx, p *row) error { return transfer(ctx, tx, p, userID, fromDevice, in) })
	return p.state(), err
}

func transfer(ctx context.Context, tx *sql.Tx, p *row, userID, fromDevice string, in api.Transfer) error {
	list, err := connected(ctx, tx, userID)
	if err != nil {
		return err
	}
	if in.DeviceID == "" || in.DeviceID != fromDevice && !slices.Contains(list, device{in.DeviceID, true}) {
		return fmt.Errorf("device_id: no such device is connected to play: %w", media.ErrNotFound)
	}
	paused := p.paused
	if in.Play != nil {
		paused = !*in.Play
	}
	if in.DeviceID == p.active {
		if paused == p.paused {
			return nil // it plays there, or does not, as wanted
		}
		kind := api.CommandPlay
		if paused {
			kind = api.CommandPause
		}
		return command(ctx, tx, p, userID, api.Command{Type: kind, DeviceID: in.DeviceID, FromDeviceID: fromDevice})
	}
	start, err := toStart(ctx, tx, p, userID)
	if err != nil {
		return err
	}
	if p.active != "" {
		// A start that the device before has not heard yet is taken back: it would sound for a moment.
		if _, err := tx.ExecContext(ctx, `DELETE FROM player_commands WHERE user_id = $1 AND device_id = $2 AND type = $3`, userID, p.active, api.CommandStart); err != nil {
			return err
		}
		if err := command(ctx, tx, p, userID, api.Command{Type: api.CommandStop, DeviceID: p.active, FromDeviceID: fromDevice}); err != nil {
			return err
		}
	}
	start.DeviceID, start.FromDeviceID, start.Paused, start.QueueRevision = in.DeviceID, fromDevice, &paused, p.queueSeq
	if err := command(ctx, tx, p, userID, start); err != nil {
		return err
	}
	p.active, p.stateSeq, p.devicesSeq = in.DeviceID, p.seq, p.seq
	p.track, p.entry, p.play, p.positionMS, p.paused, p.at = start.TrackID, start.EntryID, "", *start.PositionMS, paused, time.Now()
	return nil
}

// toStart says what a device that begins now has to play: where the active one is, unless the queue was put elsewhere
// since.
func toStart(ctx context.Context, tx *sql.Tx, p *row, userID string) (api.Command, error) {
	c := api.Command{Type: api.CommandStart, TrackID: p.track, EntryID: p.entry}
	position := p.positionAt(time.Now())
	if p.queueEntry != "" && (p.placedSeq > p.stateSeq || p.track == "") {
		q, err := loadQueue(ctx, tx, userID)
		if err != nil {
			return c, err
		}
		if i := q.index(p.queueEntry); i >= 0 {
			c.TrackID, c.EntryID, position = q.entries[i].TrackID, p.queueEntry, p.queuePositionMS
		}
	}
	c.PositionMS = &position
	return c, nil
}

// commands reads those for a device with numbers in (after, upTo] that have not expired.
func (s *Service) commands(ctx context.Context, userID, deviceID string, after, upTo int64) ([]api.Command, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT body FROM player_commands WHERE user_id = $1 AND seq > $2 AND seq <= $3 AND device_id = $4 AND expires_at > $5 ORDER BY seq`,
		userID, after, upTo, deviceID, store.Micros(time.Now()))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []api.Command
	for rows.Next() {
		var body string
		var c api.Command
		if err := rows.Scan(&body); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(body), &c); err != nil {
			return nil, fmt.Errorf("command of %s in SQL: %w: %w", userID, media.ErrCorrupt, err)
		}
		out = append(out, c)
	}
	return out, rows.Err()
}
