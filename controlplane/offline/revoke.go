package offline

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
)

// Delete is a device, or its owner from another one, giving a licence back.
func (s *Service) Delete(ctx context.Context, userID, id string) error {
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		if err := lock(ctx, tx, userID); err != nil {
			return err
		}
		k, err := one(ctx, tx, userID, id)
		if err != nil || k.State == api.LicenceRevoked {
			return err
		}
		_, err = s.revoke(ctx, tx, api.RevokedReturned, k)
		return err
	})
}

// DeleteDevice gives back all licences of a device. One that has none is no error.
func (s *Service) DeleteDevice(ctx context.Context, userID, device string) error {
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		_, err := s.revokeAll(ctx, tx, userID, device, api.RevokedReturned)
		return err
	})
}

// revoke ends licences, and has edges refuse their download tokens. It returns the ctis.
func (s *Service) revoke(ctx context.Context, tx *sql.Tx, reason string, ks ...licence) ([]string, error) {
	now := time.Now()
	var ctis []string
	for _, k := range ks {
		if _, err := tx.ExecContext(ctx, `UPDATE offline_licences SET revoked_at = $1, reason = $2 WHERE id = $3 AND revoked_at = 0`, store.Micros(now), reason, k.ID); err != nil {
			return nil, err
		}
		// Read again: tokens may have been made since, and none is from here on (Files asks for revoked_at 0).
		var until int64
		if err := tx.QueryRowContext(ctx, `SELECT token_until FROM offline_licences WHERE id = $1`, k.ID).Scan(&until); err != nil {
			return nil, err
		}
		if until > store.Micros(now) {
			ctis = append(ctis, k.ID)
		}
	}
	return ctis, s.ask.Revoke(ctx, tx, reason, now.Add(downloadFor+2*time.Hour), ctis...)
}

// revokeAll ends all licences of an account, or of one device of it.
func (s *Service) revokeAll(ctx context.Context, tx *sql.Tx, userID, device, reason string) ([]string, error) {
	if err := lock(ctx, tx, userID); err != nil {
		return nil, err
	}
	ks, err := list(ctx, tx, `WHERE user_id = $1 AND revoked_at = 0 AND ($2 = '' OR device_id = $2) ORDER BY id`, userID, device)
	if err != nil {
		return nil, err
	}
	return s.revoke(ctx, tx, reason, ks...)
}

// RevokeUser ends all licences of an account, and returns the ctis of download tokens that are refused from now on.
func (s *Service) RevokeUser(ctx context.Context, tx *sql.Tx, userID, reason string) ([]string, error) {
	return s.revokeAll(ctx, tx, userID, "", reason)
}

// PlanChanged ends all licences when the new plan has no offline.
func (s *Service) PlanChanged(ctx context.Context, tx *sql.Tx, userID string, plan api.Plan) error {
	if s.ask.Devices(plan) > 0 {
		return nil
	}
	_, err := s.revokeAll(ctx, tx, userID, "", api.RevokedPlan)
	return err
}

// DeviceRemoved ends the licences of a device.
func (s *Service) DeviceRemoved(ctx context.Context, tx *sql.Tx, userID, deviceID string) error {
	_, err := s.revokeAll(ctx, tx, userID, deviceID, api.RevokedDevice)
	return err
}

// Forget has edges refuse the downloads of an account; the rows go with it.
func (s *Service) Forget(ctx context.Context, tx *sql.Tx, userID string) error {
	_, err := s.revokeAll(ctx, tx, userID, "", api.RevokedAccount)
	return err
}

// Export is all licences of an account.
func (s *Service) Export(ctx context.Context, userID string) (any, error) {
	ks, err := list(ctx, s.db, `WHERE user_id = $1 ORDER BY id`, userID)
	out := make([]api.OfflineLicence, len(ks))
	for i, k := range ks {
		out[i] = k.OfflineLicence
	}
	return out, err
}

// Sweep forgets licences that ended long ago.
func (s *Service) Sweep(ctx context.Context, now time.Time) error {
	_, err := s.db.ExecContext(ctx, `DELETE FROM offline_licences WHERE id IN (SELECT id FROM offline_licences WHERE expires_at < $1 ORDER BY expires_at LIMIT 100)`, store.Micros(now.Add(-keepFor)))
	return err
}

// Run sweeps until ctx ends.
func (s *Service) Run(ctx context.Context, failed func(error)) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			if err := s.Sweep(ctx, now); err != nil && ctx.Err() == nil {
				failed(fmt.Errorf("sweep offline licences: %w", err))
			}
		}
	}
}
