package identity

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"segue/controlplane/api"
	"segue/media"
)

// Device is one of an account's devices, or media.ErrNoAccess when it was taken from the account.
func (s *Service) Device(ctx context.Context, userID, deviceID string) (api.Device, error) {
	var d api.Device
	err := s.db.QueryRowContext(ctx, `SELECT device_type, device_name FROM sessions WHERE id = $1 AND user_id = $2`, deviceID, userID).Scan(&d.Type, &d.Name)
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("device is signed out: %w", media.ErrNoAccess)
	}
	return d, err
}
