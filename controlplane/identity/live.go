package identity

import (
	"context"
	"strconv"
	"strings"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
)

// EndedSessions returns those of the sessions that are over, or never were.
func (s *Service) EndedSessions(ctx context.Context, ids ...string) ([]string, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	in, args := anyOf(ids, store.Micros(time.Now()))
	rows, err := s.db.QueryContext(ctx, `SELECT id FROM sessions WHERE expires_at > $1 AND revoked_at = 0 AND id IN `+in, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	live := map[string]bool{}
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		live[id] = true
	}
	var out []string
	for _, id := range ids {
		if !live[id] {
			out = append(out, id)
		}
	}
	return out, rows.Err()
}

// DeviceNames returns types and names of a person's devices, by device.
func (s *Service) DeviceNames(ctx context.Context, userID string) (map[string]api.Device, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT id, device_type, device_name FROM sessions WHERE user_id = $1`, userID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]api.Device{}
	for rows.Next() {
		var id string
		var d api.Device
		if err := rows.Scan(&id, &d.Type, &d.Name); err != nil {
			return nil, err
		}
		out[id] = d
	}
	return out, rows.Err()
}

// Person is what others may learn of an account.
type Person struct {
	ID           string
	DisplayName  string
	Discoverable bool
}

// People returns those of the accounts that there are, in no order.
func (s *Service) People(ctx context.Context, ids ...string) ([]Person, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	in, args := anyOf(ids)
	rows, err := s.db.QueryContext(ctx, `SELECT id, display_name FROM users WHERE id IN `+in, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []Person
	for rows.Next() {
		p := Person{Discoverable: true}
		if err := rows.Scan(&p.ID, &p.DisplayName); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, rows.Err()
}

// anyOf writes ($2, $3, …) behind first arguments.
func anyOf(ids []string, first ...any) (string, []any) {
	marks, args := make([]string, len(ids)), first
	for i, id := range ids {
		args = append(args, id)
		marks[i] = "$" + strconv.Itoa(len(args))
	}
	return "(" + strings.Join(marks, ", ") + ")", args
}
