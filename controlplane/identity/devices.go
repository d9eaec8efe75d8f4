package identity

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"

	"github.com/oklog/ulid/v2"
)

const (
	// maxDevices is how many an account keeps: of more, those that were quiet longest go, since every sign-in that names
	// none makes one.
	maxDevices    = 50
	maxDeviceName = 100 // characters
)

var deviceTypes = []string{"web", "phone", "desktop", "tv", "speaker", "cli", "other"}

func checkDevice(d *api.Device) error {
	if d.Type == "" {
		d.Type = "other"
	}
	if !slices.Contains(deviceTypes, d.Type) {
		return fmt.Errorf("device.type: want one of %s: %w", strings.Join(deviceTypes, ", "), media.ErrInvalid)
	}
	if d.Name == "" {
		d.Name = d.Type
	}
	return checkDeviceName("device.name", d.Name)
}

func checkDeviceName(field, name string) error {
	if strings.TrimSpace(name) == "" || !utf8.ValidString(name) || utf8.RuneCountInString(name) > maxDeviceName || strings.ContainsFunc(name, unicode.IsControl) {
		return fmt.Errorf("%s: want 1 to %d characters: %w", field, maxDeviceName, media.ErrInvalid)
	}
	return nil
}

// ownsDevice returns the device's id when it is the user's, else "".
func (s *Service) ownsDevice(ctx context.Context, userID, device string) (string, error) {
	var id string
	err := s.db.QueryRowContext(ctx, `SELECT id FROM devices WHERE id = $1 AND user_id = $2`, device, userID).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return id, err
}

// takeDevice continues the device that d names, when it is the user's, and ends what is signed in on it; or makes one.
func (s *Service) takeDevice(ctx context.Context, tx *sql.Tx, userID string, d api.Device, now time.Time) (id string, ended []string, err error) {
	if d.ID != "" {
		res, err := tx.ExecContext(ctx, `UPDATE devices SET last_active_at = $1 WHERE id = $2 AND user_id = $3`, store.Micros(now), d.ID, userID)
		if err := changedOne(res, err, "device"); err == nil {
			ended, err = endSessions(ctx, tx, `device_id = $1`, d.ID)
			return d.ID, ended, err
		} else if !errors.Is(err, media.ErrNotFound) {
			return "", nil, err
		}
	}
	var quiet []string
	rows, err := tx.QueryContext(ctx, `SELECT id FROM devices WHERE user_id = $1 ORDER BY last_active_at DESC, id DESC`, userID)
	if err != nil {
		return "", nil, err
	}
	defer rows.Close()
	for n := 1; rows.Next(); n++ {
		var id string
		if err := rows.Scan(&id); err != nil {
			return "", nil, err
		}
		if n >= maxDevices {
			quiet = append(quiet, id)
		}
	}
	if err := rows.Err(); err != nil {
		return "", nil, err
	}
	rows.Close()
	for _, id := range quiet {
		more, err := s.removeDevice(ctx, tx, userID, id)
		if err != nil {
			return "", nil, err
		}
		ended = append(ended, more...)
	}
	id = ulid.Make().String()
	_, err = tx.ExecContext(ctx, `INSERT INTO devices (id, user_id, type, name, created_at, last_active_at) VALUES ($1, $2, $3, $4, $5, $5)`, id, userID, d.Type, d.Name, store.Micros(now))
	return id, ended, err
}

// removeDevice ends the device's sessions and lets the other services take back what they gave it.
func (s *Service) removeDevice(ctx context.Context, tx *sql.Tx, userID, device string) ([]string, error) {
	ended, err := endSessions(ctx, tx, `device_id = $1`, device)
	if err != nil {
		return nil, err
	}
	for _, p := range s.personal {
		if p.DeviceRemoved != nil {
			if err := p.DeviceRemoved(ctx, tx, userID, device); err != nil {
				return nil, fmt.Errorf("%s of a removed device: %w", p.Name, err)
			}
		}
	}
	_, err = tx.ExecContext(ctx, `DELETE FROM devices WHERE id = $1`, device)
	return ended, err
}

// Devices lists an account's devices, those that were active last first. current marks one.
func (s *Service) Devices(ctx context.Context, userID, current string) ([]api.OwnDevice, error) {
	return s.devices(ctx, current, `user_id = $1 ORDER BY last_active_at DESC, id DESC`, userID)
}

func (s *Service) devices(ctx context.Context, current, where string, args ...any) ([]api.OwnDevice, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT id, type, name, created_at, last_active_at, (SELECT COUNT(*) FROM sessions WHERE device_id = devices.id) FROM devices WHERE `+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []api.OwnDevice{}
	for rows.Next() {
		var d api.OwnDevice
		var created, active, sessions int64
		if err := rows.Scan(&d.ID, &d.Type, &d.Name, &created, &active, &sessions); err != nil {
			return nil, err
		}
		d.CreatedAt, d.LastActiveAt, d.SignedIn, d.Current = store.Time(created), store.Time(active), sessions > 0, d.ID == current
		out = append(out, d)
	}
	return out, rows.Err()
}

// RenameDevice returns media.ErrNotFound for one that is not the user's.
func (s *Service) RenameDevice(ctx context.Context, userID, current, id, name string) (api.OwnDevice, error) {
	if err := checkDeviceName("name", name); err != nil {
		return api.OwnDevice{}, err
	}
	res, err := s.db.ExecContext(ctx, `UPDATE devices SET name = $1 WHERE id = $2 AND user_id = $3`, name, id, userID)
	if err := changedOne(res, err, "device"); err != nil {
		return api.OwnDevice{}, err
	}
	list, err := s.devices(ctx, current, `id = $1`, id)
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("device: %w", media.ErrNotFound)
	}
	if err != nil {
		return api.OwnDevice{}, err
	}
	return list[0], nil
}

// RemoveDevice ends what is signed in on a device and forgets it, or returns media.ErrNotFound for one that is not the
// user's.
func (s *Service) RemoveDevice(ctx context.Context, userID, id string) error {
	return s.endAfter(ctx, func(tx *sql.Tx) ([]string, error) {
		res, err := tx.ExecContext(ctx, `UPDATE devices SET user_id = user_id WHERE id = $1 AND user_id = $2`, id, userID)
		if err := changedOne(res, err, "device"); err != nil {
			return nil, err
		}
		return s.removeDevice(ctx, tx, userID, id)
	})
}
