package identity

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"
)

// Personal is what another service keeps of people. All its tables refer to users(id) ON DELETE CASCADE; its functions
// are for what that cannot do, and any of them may be nil.
type Personal struct {
	Name string // the part's name in an export: playlists, library, …

	// Export returns all it keeps of a user, as JSON can hold it.
	Export func(ctx context.Context, userID string) (any, error)
	// Forget runs in the transaction that deletes the user, before the row goes: it emits the events of what goes with it.
	Forget func(ctx context.Context, tx *sql.Tx, userID string) error
	// PlanChanged runs in the transaction that gives the user another plan.
	PlanChanged func(ctx context.Context, tx *sql.Tx, userID string, plan api.Plan) error
	// DeviceRemoved runs in the transaction that takes a device from the user.
	DeviceRemoved func(ctx context.Context, tx *sql.Tx, userID, deviceID string) error
}

// Delete deletes an account and everything that is kept of it, after its password. Errors: media.ErrDenied, *Throttled.
func (s *Service) Delete(ctx context.Context, p Principal, password string) error {
	a, err := s.find(ctx, s.db, "id", p.UserID)
	if err != nil {
		return err
	}
	if err := s.confirm(ctx, a, p.SessionID, password, "password"); err != nil {
		return err
	}
	return s.AdminDelete(ctx, p.UserID)
}

// AdminDelete is Delete without a password. Errors: media.ErrNotFound.
func (s *Service) AdminDelete(ctx context.Context, id string) error {
	return s.endAfter(ctx, func(tx *sql.Tx) (ended []string, err error) {
		// The plans of those who share the account's fall back with it.
		err = s.changePlans(ctx, tx, func() ([]string, error) { return withMembers(ctx, tx, id) }, func() error {
			var key string
			if err := tx.QueryRowContext(ctx, `UPDATE users SET suspended_at = $1 WHERE id = $2 RETURNING email_key`, store.Micros(time.Now()), id).Scan(&key); errors.Is(err, sql.ErrNoRows) {
				return fmt.Errorf("user: %w", media.ErrNotFound)
			} else if err != nil {
				return err
			}
			for _, p := range s.personal {
				if p.Forget != nil {
					if err := p.Forget(ctx, tx, id); err != nil {
						return fmt.Errorf("%s of a deleted user: %w", p.Name, err)
					}
				}
			}
			for _, t := range append(signInTargets(key, "", netip.Addr{}), passwordTarget(id)) {
				if err := forgetWrongOn(ctx, tx, t); err != nil {
					return err
				}
			}
			if ended, err = endSessions(ctx, tx, `user_id = $1`, id); err != nil {
				return err
			}
			if err := store.Emit(ctx, tx, "user", id); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, `DELETE FROM users WHERE id = $1`, id)
			return err
		})
		return ended, err
	})
}

// Export returns everything that is kept of an account.
func (s *Service) Export(ctx context.Context, p Principal) (api.Export, error) {
	out := api.Export{ExportedAt: time.Now().UTC().Truncate(time.Second), Sessions: []api.OwnSession{}, Identities: []api.OIDCIdentity{}, Parts: map[string]any{}}
	var err error
	if out.Account, err = s.User(ctx, p.UserID); err != nil {
		return out, err
	}
	if out.Devices, err = s.Devices(ctx, p.UserID, p.DeviceID); err != nil {
		return out, err
	}
	if f, err := s.Family(ctx, p.UserID); err == nil {
		out.Family = &f
	} else if !errors.Is(err, media.ErrNotFound) {
		return out, err
	}
	if out.Identities, err = s.Identities(ctx, p.UserID); err != nil {
		return out, err
	}
	rows, err := s.db.QueryContext(ctx, `SELECT id, device_id, created_at, seen_at, expires_at FROM sessions WHERE user_id = $1 ORDER BY id`, p.UserID)
	if err != nil {
		return out, err
	}
	defer rows.Close()
	for rows.Next() {
		var o api.OwnSession
		var created, seen, expires int64
		if err := rows.Scan(&o.ID, &o.DeviceID, &created, &seen, &expires); err != nil {
			return out, err
		}
		o.CreatedAt, o.SeenAt, o.ExpiresAt = store.Time(created), store.Time(seen), store.Time(expires)
		out.Sessions = append(out.Sessions, o)
	}
	if err := rows.Err(); err != nil {
		return out, err
	}
	for _, part := range s.personal {
		if part.Export == nil {
			continue
		}
		if out.Parts[part.Name], err = part.Export(ctx, p.UserID); err != nil {
			return out, fmt.Errorf("export %s: %w", part.Name, err)
		}
	}
	return out, nil
}
