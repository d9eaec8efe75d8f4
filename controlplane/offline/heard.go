package offline

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"segue/controlplane/api"
	"segue/media"

	"github.com/oklog/ulid/v2"
)

// Play is what a play made offline is of.
type Play struct {
	DeviceID  string
	Plan      api.Plan
	TrackID   media.TrackID
	Version   media.Version
	CreatedAt time.Time // the time in the play's id
}

// Heard checks the first event of a play that was made offline: it names a licence of the user and a track of it, and the
// player made the play's id while the licence held. The licence may have ended since: what was heard was heard. Errors:
// media.ErrNotFound, media.ErrInvalid.
func (s *Service) Heard(ctx context.Context, userID string, e api.Event) (Play, error) {
	id, err := ulid.ParseStrict(e.PlayID)
	if err != nil {
		return Play{}, fmt.Errorf("play_id: not a ULID: %w", media.ErrInvalid)
	}
	k, err := one(ctx, s.db, userID, e.LicenceID)
	if err != nil {
		return Play{}, err
	}
	const slack = 10 * time.Minute // clocks differ
	p := Play{DeviceID: k.DeviceID, Plan: k.plan, TrackID: e.TrackID, CreatedAt: ulid.Time(id.Time()).UTC()}
	if p.CreatedAt.Before(k.CreatedAt.Add(-slack)) || p.CreatedAt.After(k.ExpiresAt.Add(slack)) || p.CreatedAt.After(time.Now().Add(slack)) {
		return Play{}, fmt.Errorf("play_id: made while the licence did not hold: %w", media.ErrInvalid)
	}
	err = s.db.QueryRowContext(ctx, `SELECT version FROM offline_items WHERE licence_id = $1 AND track_id = $2`, k.ID, string(e.TrackID)).Scan(&p.Version)
	if errors.Is(err, sql.ErrNoRows) {
		return Play{}, fmt.Errorf("track_id: the licence is not for it: %w", media.ErrNotFound)
	}
	return p, err
}
