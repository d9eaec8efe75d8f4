package controlplane

import (
	"context"
	"database/sql"

	"segue/controlplane/api"
)

// SetPlan gives an account another plan, and tells the services that keep things of people.
func (cp *ControlPlane) SetPlan(ctx context.Context, user string, plan api.Plan) error {
	return cp.db.Tx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `UPDATE users SET plan = $1 WHERE id = $2`, string(plan), user); err != nil {
			return err
		}
		for _, p := range cp.personal {
			if p.PlanChanged != nil {
				if err := p.PlanChanged(ctx, tx, user, plan); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
