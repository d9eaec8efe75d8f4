package identity

import (
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"

	"github.com/oklog/ulid/v2"
)

// Scopes of admin tokens: a closed list. "admin" includes all, and only it makes and deletes admin tokens and keys.
const (
	ScopeAdmin   = "admin"
	ScopeCatalog = "catalog" // what is in the catalogue, and where it may be heard
	ScopeFleet   = "fleet"   // regions, edges, purges
	ScopeIngest  = "ingest"  // uploads and publishing
	ScopeStats   = "stats"   // play logs
	ScopeUsers   = "users"   // accounts and their plans
)

// Scopes is the whole list.
var Scopes = []string{ScopeAdmin, ScopeCatalog, ScopeFleet, ScopeIngest, ScopeStats, ScopeUsers}

// ErrLastAdmin: without it nobody could make another.
var ErrLastAdmin = errors.New("this is the last token with the scope admin")

// PutAdminToken makes a secret that the operator chose an admin token. Repeating it changes nothing.
func (s *Service) PutAdminToken(ctx context.Context, name, secret string, scopes ...string) error {
	_, err := s.db.ExecContext(ctx, `INSERT INTO admin_tokens (hash, id, name, scopes, created_at) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (hash) DO NOTHING`,
		digest(secret), ulid.Make().String(), name, strings.Join(scopes, " "), store.Micros(time.Now()))
	return err
}

// NewAdminToken makes an admin token; the answer holds its secret. Errors: media.ErrInvalid with the field's name first.
func (s *Service) NewAdminToken(ctx context.Context, n api.NewAdminToken) (api.AdminToken, error) {
	slices.Sort(n.Scopes)
	n.Scopes = slices.Compact(n.Scopes)
	if name := strings.TrimSpace(n.Name); !strings.ContainsFunc(name, visible) || utf8.RuneCountInString(name) > maxName || strings.ContainsFunc(name, unfit) {
		return api.AdminToken{}, fmt.Errorf("name: want 1 to %d characters: %w", maxName, media.ErrInvalid)
	}
	if len(n.Scopes) == 0 || slices.ContainsFunc(n.Scopes, func(scope string) bool { return !slices.Contains(Scopes, scope) }) {
		return api.AdminToken{}, fmt.Errorf("scopes: want one or more of %s: %w", strings.Join(Scopes, ", "), media.ErrInvalid)
	}
	var ends int64
	if n.ExpiresAt != nil {
		if ends = store.Micros(*n.ExpiresAt); !n.ExpiresAt.After(time.Now()) {
			return api.AdminToken{}, fmt.Errorf("expires_at: want a time to come: %w", media.ErrInvalid)
		}
	}
	now := time.Now()
	t := api.AdminToken{ID: ulid.Make().String(), Name: strings.TrimSpace(n.Name), Scopes: n.Scopes, CreatedAt: store.Time(store.Micros(now)), ExpiresAt: optional(ends), Token: newSecret("sga_")}
	_, err := s.db.ExecContext(ctx, `INSERT INTO admin_tokens (hash, id, name, scopes, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6)`,
		digest(t.Token), t.ID, t.Name, strings.Join(t.Scopes, " "), store.Micros(now), ends)
	return t, err
}

// AdminTokens lists all, without their secrets, oldest first.
func (s *Service) AdminTokens(ctx context.Context) ([]api.AdminToken, error) {
	return adminTokens(ctx, s.db)
}

func adminTokens(ctx context.Context, q interface {
	QueryContext(ctx context.Context, sql string, args ...any) (*sql.Rows, error)
}) ([]api.AdminToken, error) {
	rows, err := q.QueryContext(ctx, `SELECT id, name, scopes, created_at, expires_at FROM admin_tokens ORDER BY id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []api.AdminToken{}
	for rows.Next() {
		var t api.AdminToken
		var scopes string
		var created, ends int64
		if err := rows.Scan(&t.ID, &t.Name, &scopes, &created, &ends); err != nil {
			return nil, err
		}
		t.Scopes, t.CreatedAt, t.ExpiresAt = strings.Fields(scopes), store.Time(created), optional(ends)
		out = append(out, t)
	}
	return out, rows.Err()
}

// DeleteAdminToken errors: media.ErrNotFound, ErrLastAdmin.
func (s *Service) DeleteAdminToken(ctx context.Context, id string) error {
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		// Two who delete each other's at once come one after the other: a row of few is no crowd, so all are locked.
		if _, err := tx.ExecContext(ctx, `UPDATE admin_tokens SET id = id`); err != nil {
			return err
		}
		list, err := adminTokens(ctx, tx)
		if err != nil {
			return err
		}
		found, others := false, false
		for _, t := range list {
			switch {
			case t.ID == id:
				found = true
			case slices.Contains(t.Scopes, ScopeAdmin) && (t.ExpiresAt == nil || t.ExpiresAt.After(time.Now())):
				others = true
			}
		}
		switch {
		case !found:
			return fmt.Errorf("admin token: %w", media.ErrNotFound)
		case !others:
			return ErrLastAdmin
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM admin_tokens WHERE id = $1`, id)
		return err
	})
}

// VerifyAdmin checks an admin token for a scope. Errors: media.ErrNoAccess, media.ErrDenied.
func (s *Service) VerifyAdmin(ctx context.Context, secret, scope string) error {
	var scopes string
	var ends int64
	err := s.db.QueryRowContext(ctx, `SELECT scopes, expires_at FROM admin_tokens WHERE hash = $1`, digest(secret)).Scan(&scopes, &ends)
	switch list := strings.Fields(scopes); {
	case errors.Is(err, sql.ErrNoRows):
		return fmt.Errorf("admin token is unknown: %w", media.ErrNoAccess)
	case err != nil:
		return err
	case ends != 0 && ends <= store.Micros(time.Now()):
		return fmt.Errorf("admin token has expired: %w", media.ErrNoAccess)
	case !slices.Contains(list, scope) && !slices.Contains(list, ScopeAdmin):
		return fmt.Errorf("admin token has not the scope %q: %w", scope, media.ErrDenied)
	}
	return nil
}

// AdminName is the name of the admin token whose SHA-256 in hex is hash: for the record of who changed something.
func (s *Service) AdminName(ctx context.Context, hash string) string {
	name := "an admin token that is gone"
	_ = s.db.QueryRowContext(ctx, `SELECT name FROM admin_tokens WHERE hash = $1`, hash).Scan(&name) // it may have been deleted meanwhile
	return name
}

func (a account) admin() api.AdminUser {
	return api.AdminUser{ID: a.ID, Email: a.Email, DisplayName: a.DisplayName, Country: a.Country, Discoverable: a.Discoverable, Plan: a.Plan, OwnPlan: a.own,
		PlanExpiresAt: a.PlanExpiresAt, FamilyOwnerID: a.familyOwner, SuspendedAt: optional(a.suspendedAt), CreatedAt: a.CreatedAt, SignedInAt: optional(a.signedInAt)}
}

// AdminUsers pages through the accounts whose address begins with prefix, in the order of addresses. Cursor "" is the
// beginning; a foreign one is media.ErrInvalid.
func (s *Service) AdminUsers(ctx context.Context, prefix, cursor string, limit int) (api.Page[api.AdminUser], error) {
	after, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || !utf8.Valid(after) || slices.Contains(after, 0) {
		return api.Page[api.AdminUser]{}, fmt.Errorf("cursor is not one of ours: %w", media.ErrInvalid)
	}
	// LIKE and not a range: a database's collation need not have all that share a prefix in one place.
	like := strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(emailKey(prefix)) + "%"
	rows, err := s.db.QueryContext(ctx, `SELECT `+accountColumns+` WHERE u.email_key > $1 AND u.email_key LIKE $2 ESCAPE '\' ORDER BY u.email_key LIMIT $3`, string(after), like, limit+1)
	if err != nil {
		return api.Page[api.AdminUser]{}, err
	}
	defer rows.Close()
	page := api.Page[api.AdminUser]{Items: []api.AdminUser{}}
	last := ""
	for rows.Next() {
		a, err := scanAccount(rows.Scan, time.Now())
		if err != nil {
			return page, err
		}
		if len(page.Items) == limit {
			page.Next = base64.RawURLEncoding.EncodeToString([]byte(last))
			break
		}
		page.Items, last = append(page.Items, a.admin()), a.emailKey
	}
	return page, rows.Err()
}

// AdminUser is one account as operators see it, or media.ErrNotFound.
func (s *Service) AdminUser(ctx context.Context, id string) (api.AdminUser, error) {
	a, err := s.find(ctx, s.db, "id", id)
	return a.admin(), err
}

// AdminChange gives an account another plan, or suspends it and ends its sessions. Errors: media.ErrNotFound,
// media.ErrInvalid with the field's name first.
func (s *Service) AdminChange(ctx context.Context, id string, c api.AdminUserChange) (api.AdminUser, error) {
	if c.PlanExpiresAt != nil && c.Plan == nil {
		return api.AdminUser{}, fmt.Errorf("plan: want one with plan_expires_at: %w", media.ErrInvalid)
	}
	err := s.endAfter(ctx, func(tx *sql.Tx) (ended []string, err error) {
		if c.Plan != nil {
			if err := s.setPlan(ctx, tx, id, *c.Plan, c.PlanExpiresAt); err != nil {
				return nil, err
			}
		}
		if c.Suspended == nil {
			return nil, nil
		}
		at := int64(0)
		if *c.Suspended {
			at = store.Micros(time.Now())
		}
		res, err := tx.ExecContext(ctx, `UPDATE users SET suspended_at = $1 WHERE id = $2`, at, id)
		if err := changedOne(res, err, "user"); err != nil {
			return nil, err
		}
		if err := store.Emit(ctx, tx, "user", id); err != nil {
			return nil, err
		}
		if *c.Suspended {
			ended, err = endSessions(ctx, tx, `user_id = $1`, id)
		}
		return ended, err
	})
	if err != nil {
		return api.AdminUser{}, err
	}
	return s.AdminUser(ctx, id)
}
