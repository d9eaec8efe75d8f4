package identity

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"
)

// MaxMembers is how many accounts share a family plan, its owner among them.
const MaxMembers = 6

// plans is what each plan allows one account.
var plans = map[api.Plan]api.PlanLimits{
	api.PlanFree:    {Plan: api.PlanFree, MaxBitrateBps: media.LimitedBps, Streams: 1, Members: 1},
	api.PlanPremium: {Plan: api.PlanPremium, Lossless: true, Streams: 1, OfflineDevices: 5, Members: 1},
	api.PlanFamily:  {Plan: api.PlanFamily, Lossless: true, Streams: 1, OfflineDevices: 5, Members: MaxMembers}, // streams and devices: each member
}

// Limits is what a plan allows; an unknown one allows what free does.
func (s *Service) Limits(plan api.Plan) api.PlanLimits {
	l, ok := plans[plan]
	if !ok {
		return plans[api.PlanFree]
	}
	if l.Plan != api.PlanFree {
		l.Streams = cmp.Or(s.cfg.PremiumStreams, l.Streams)
	}
	return l
}

// Plans lists what there is.
func (s *Service) Plans() []api.PlanLimits {
	return []api.PlanLimits{s.Limits(api.PlanFree), s.Limits(api.PlanPremium), s.Limits(api.PlanFamily)}
}

// Plan is an account's plan now, or media.ErrNotFound.
func (s *Service) Plan(ctx context.Context, userID string) (api.Plan, error) {
	a, err := s.find(ctx, s.db, "id", userID)
	return a.Plan, err
}

// inForce is an account's own plan: until 0 means that it does not end.
func inForce(plan api.Plan, until int64, now time.Time) api.Plan {
	if until != 0 && until <= store.Micros(now) {
		return api.PlanFree
	}
	return plan
}

// withFamily is the plan of an account whose family's owner has another; "" is no family.
func withFamily(own, owners api.Plan) api.Plan {
	if owners == api.PlanFamily {
		return api.PlanFamily
	}
	return own
}

// changePlans runs change, which may change the plans of some accounts, and tells the other services of every plan that
// is another afterwards, once, in the same transaction. What they were told last is what the rows say if no plan ever
// ended by itself: reading goes by the clock, but EndPlans brings the rows after it.
//
// affected runs under the lock that puts all of this in one order, so what it reads stays until the commit.
func (s *Service) changePlans(ctx context.Context, tx *sql.Tx, affected func() ([]string, error), change func() error) error {
	if err := lockPlans(ctx, tx); err != nil {
		return err
	}
	ids, err := affected()
	if err != nil {
		return err
	}
	before := map[string]api.Plan{}
	for _, id := range ids {
		if before[id], err = s.toldPlan(ctx, tx, id); err != nil {
			return err
		}
	}
	if err := change(); err != nil {
		return err
	}
	for _, id := range ids {
		after, err := s.toldPlan(ctx, tx, id)
		if err != nil {
			return err
		}
		if after == before[id] || after == "" {
			continue
		}
		for _, p := range s.personal {
			if p.PlanChanged != nil {
				if err := p.PlanChanged(ctx, tx, id, after); err != nil {
					return fmt.Errorf("%s after a change of plan: %w", p.Name, err)
				}
			}
		}
	}
	return nil
}

func lockPlans(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, `UPDATE plan_lock SET turn = turn + 1 WHERE id = 1`)
	return err
}

// toldPlan is what the other services know; "" for an account that is not there.
func (s *Service) toldPlan(ctx context.Context, tx *sql.Tx, id string) (api.Plan, error) {
	a, err := scanAccount(tx.QueryRowContext(ctx, `SELECT `+accountColumns+` WHERE u.id = $1`, id).Scan, time.Time{})
	if errors.Is(err, media.ErrNotFound) {
		return "", nil
	}
	return a.Plan, err
}

// withMembers are an account and those who share its plan, or would.
func withMembers(ctx context.Context, tx *sql.Tx, owner string) ([]string, error) {
	rows, err := tx.QueryContext(ctx, `SELECT user_id FROM family_members WHERE owner_id = $1 ORDER BY user_id`, owner)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	ids := []string{owner}
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

// setPlan gives an account a plan until a time; the zero time is for good. Who gets the family plan leaves the family
// they were in.
func (s *Service) setPlan(ctx context.Context, tx *sql.Tx, id string, plan api.Plan, until *time.Time) error {
	if _, ok := plans[plan]; !ok {
		return fmt.Errorf("plan: %q is none: %w", plan, media.ErrInvalid)
	}
	var ends int64
	if until != nil {
		if plan == api.PlanFree || !until.After(time.Now()) {
			return fmt.Errorf("plan_expires_at: want a time to come, and a plan other than free: %w", media.ErrInvalid)
		}
		ends = store.Micros(*until)
	}
	return s.changePlans(ctx, tx, func() ([]string, error) { return withMembers(ctx, tx, id) }, func() error {
		res, err := tx.ExecContext(ctx, `UPDATE users SET plan = $1, plan_until = $2 WHERE id = $3`, string(plan), ends, id)
		if err := changedOne(res, err, "user"); err != nil || plan != api.PlanFamily {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM family_members WHERE user_id = $1`, id)
		return err
	})
}

// EndPlans writes down the plans that ended by the clock and tells the other services, once for each account however
// many replicas do it. Run calls it.
func (s *Service) EndPlans(ctx context.Context) error {
	var failed []error
	for after := ""; ; {
		rows, err := s.db.QueryContext(ctx, `SELECT id FROM users WHERE plan_until > 0 AND plan_until <= $1 AND id > $2 ORDER BY id LIMIT 100`, store.Micros(time.Now()), after)
		if err != nil {
			return err
		}
		ids, err := allStrings(rows)
		if err != nil {
			return err
		}
		for _, id := range ids {
			if err := s.db.Tx(ctx, func(tx *sql.Tx) error {
				return s.changePlans(ctx, tx, func() ([]string, error) { return withMembers(ctx, tx, id) }, func() error {
					_, err := tx.ExecContext(ctx, `UPDATE users SET plan = $1, plan_until = 0 WHERE id = $2 AND plan_until > 0 AND plan_until <= $3`, string(api.PlanFree), id, store.Micros(time.Now()))
					return err
				})
			}); err != nil {
				failed = append(failed, fmt.Errorf("user %s: %w", id, err)) // the others go on
			}
		}
		if len(ids) < 100 {
			return errors.Join(failed...)
		}
		after = ids[len(ids)-1]
	}
}

func allStrings(rows *sql.Rows) ([]string, error) {
	defer rows.Close()
	var out []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, rows.Err()
}

// Errors of families.
var (
	ErrFamilyFull = errors.New("this family is full")
	ErrInFamily   = errors.New("this account has a family already, or a family plan of its own")
)

const inviteFor = 7 * 24 * time.Hour

// Family returns the family that an account owns or is in, or media.ErrNotFound.
func (s *Service) Family(ctx context.Context, userID string) (api.Family, error) {
	a, err := s.find(ctx, s.db, "id", userID)
	if err != nil {
		return api.Family{}, err
	}
	owner := cmp.Or(a.familyOwner, a.ID)
	o, err := s.find(ctx, s.db, "id", owner)
	if err != nil {
		return api.Family{}, err
	}
	f := api.Family{Active: o.own == api.PlanFamily, MaxMembers: MaxMembers, Members: []api.FamilyMember{{ID: o.ID, DisplayName: o.DisplayName, Owner: true}}}
	rows, err := s.db.QueryContext(ctx, `SELECT u.id, u.display_name, m.joined_at FROM family_members m JOIN users u ON u.id = m.user_id WHERE m.owner_id = $1`, owner)
	if err != nil {
		return api.Family{}, err
	}
	defer rows.Close()
	for rows.Next() {
		var m api.FamilyMember
		var joined int64
		if err := rows.Scan(&m.ID, &m.DisplayName, &joined); err != nil {
			return api.Family{}, err
		}
		m.JoinedAt = optional(joined)
		f.Members = append(f.Members, m)
	}
	if err := rows.Err(); err != nil {
		return api.Family{}, err
	}
	if !f.Active && len(f.Members) == 1 {
		return api.Family{}, fmt.Errorf("family: %w", media.ErrNotFound)
	}
	slices.SortFunc(f.Members[1:], func(a, b api.FamilyMember) int {
		return cmp.Or(a.JoinedAt.Compare(*b.JoinedAt), cmp.Compare(a.ID, b.ID))
	})
	return f, nil
}

// Invite makes the code that lets people into an owner's family; the one before is worth nothing then. Errors:
// media.ErrDenied without the family plan.
func (s *Service) Invite(ctx context.Context, owner string) (api.FamilyInvite, error) {
	a, err := s.find(ctx, s.db, "id", owner)
	if err != nil {
		return api.FamilyInvite{}, err
	}
	if a.own != api.PlanFamily {
		return api.FamilyInvite{}, fmt.Errorf("only who has the family plan invites: %w", media.ErrDenied)
	}
	code, ends := newSecret("sgf_"), time.Now().Add(inviteFor).UTC().Truncate(time.Second)
	_, err = s.db.ExecContext(ctx, `INSERT INTO family_invites (owner_id, hash, expires_at) VALUES ($1, $2, $3) ON CONFLICT (owner_id) DO UPDATE SET hash = $2, expires_at = $3`,
		owner, digest(code), store.Micros(ends))
	return api.FamilyInvite{Code: code, URL: "/#family=" + code, ExpiresAt: ends}, err // a fragment reaches no log
}

// Uninvite makes an owner's code worth nothing.
func (s *Service) Uninvite(ctx context.Context, owner string) error {
	_, err := s.db.ExecContext(ctx, `DELETE FROM family_invites WHERE owner_id = $1`, owner)
	return err
}

// JoinFamily takes an account into the family of a code; doing it again changes nothing. Errors: media.ErrNotFound for a
// code that is not or no longer good, ErrFamilyFull, ErrInFamily.
func (s *Service) JoinFamily(ctx context.Context, userID, code string) (api.Family, error) {
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		return s.changePlans(ctx, tx, func() ([]string, error) { return []string{userID}, nil }, func() error {
			now := time.Now()
			var owner string
			err := tx.QueryRowContext(ctx, `SELECT i.owner_id FROM family_invites i JOIN users o ON o.id = i.owner_id
			  WHERE i.hash = $1 AND i.expires_at > $2 AND o.suspended_at = 0 AND o.plan = $3 AND (o.plan_until = 0 OR o.plan_until > $2)`,
				digest(code), store.Micros(now), string(api.PlanFamily)).Scan(&owner)
			if errors.Is(err, sql.ErrNoRows) {
				return fmt.Errorf("code: it is not good, or no longer: %w", media.ErrNotFound)
			} else if err != nil {
				return err
			}
			a, err := scanAccount(tx.QueryRowContext(ctx, `SELECT `+accountColumns+` WHERE u.id = $1`, userID).Scan, now)
			switch {
			case err != nil:
				return err
			case a.familyOwner == owner || a.ID == owner:
				return nil
			case a.familyOwner != "" || a.own == api.PlanFamily:
				return ErrInFamily
			}
			if own, err := withMembers(ctx, tx, userID); err != nil {
				return err
			} else if len(own) > 1 {
				return ErrInFamily // its plan has ended, and may come back
			}
			members, err := withMembers(ctx, tx, owner)
			if err != nil {
				return err
			}
			if len(members) >= MaxMembers {
				return ErrFamilyFull
			}
			_, err = tx.ExecContext(ctx, `INSERT INTO family_members (user_id, owner_id, joined_at) VALUES ($1, $2, $3)`, userID, owner, store.Micros(now))
			return err
		})
	})
	if err != nil {
		return api.Family{}, err
	}
	return s.Family(ctx, userID)
}

// LeaveFamily takes an account out of its family. The owner sends everybody away by it. Without a family it does
// nothing.
func (s *Service) LeaveFamily(ctx context.Context, userID string) error {
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		return s.changePlans(ctx, tx, func() ([]string, error) { return withMembers(ctx, tx, userID) }, func() error {
			if _, err := tx.ExecContext(ctx, `DELETE FROM family_members WHERE user_id = $1 OR owner_id = $1`, userID); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, `DELETE FROM family_invites WHERE owner_id = $1`, userID)
			return err
		})
	})
}

// RemoveMember takes somebody out of an owner's family, and the code with them, which they know. Errors:
// media.ErrNotFound.
func (s *Service) RemoveMember(ctx context.Context, owner, userID string) error {
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		return s.changePlans(ctx, tx, func() ([]string, error) { return []string{userID}, nil }, func() error {
			res, err := tx.ExecContext(ctx, `DELETE FROM family_members WHERE user_id = $1 AND owner_id = $2`, userID, owner)
			if err := changedOne(res, err, "member"); err != nil {
				return err
			}
			_, err = tx.ExecContext(ctx, `DELETE FROM family_invites WHERE owner_id = $1`, owner)
			return err
		})
	})
}
