package identity

import (
	"context"
	"database/sql"

	"segue/controlplane/api"
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
