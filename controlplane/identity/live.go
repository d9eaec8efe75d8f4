package identity

import (
	"context"
	"fmt"
	"strings"

	"segue/controlplane/api"
)

// SessionEnded reports whether a session ended within the last quarter of an hour, which this replica knows within
// seconds: for what was begun with its access token and goes on.
func (s *Service) SessionEnded(id string) bool { return s.ended.has(id) }

// DeviceNames returns types and names of a person's devices, by device.
func (s *Service) DeviceNames(ctx context.Context, userID string) (map[string]api.Device, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT id, type, name FROM devices WHERE user_id = $1`, userID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]api.Device{}
	for rows.Next() {
		var d api.Device
		if err := rows.Scan(&d.ID, &d.Type, &d.Name); err != nil {
			return nil, err
		}
		out[d.ID] = d
	}
	return out, rows.Err()
}

// Person is an account as those see it who have to do with it. Discoverable says whether others may learn of it.
type Person struct {
	ID           string
	DisplayName  string
	Discoverable bool
}

// People returns those of the accounts, at most 1000, that there are, in no order: also those of which others learn
// nothing, see Profiles.
func (s *Service) People(ctx context.Context, ids ...string) ([]Person, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	marks, args := make([]string, len(ids)), make([]any, len(ids))
	for i, id := range ids {
		marks[i], args[i] = fmt.Sprintf("$%d", i+1), id
	}
	rows, err := s.db.QueryContext(ctx, `SELECT id, display_name, discoverable, suspended_at FROM users WHERE id IN (`+strings.Join(marks, ", ")+`)`, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []Person
	for rows.Next() {
		var p Person
		var discoverable, suspended int64
		if err := rows.Scan(&p.ID, &p.DisplayName, &discoverable, &suspended); err != nil {
			return nil, err
		}
		p.Discoverable = discoverable != 0 && suspended == 0
		out = append(out, p)
	}
	return out, rows.Err()
}
