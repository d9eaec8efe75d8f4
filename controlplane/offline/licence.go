package offline

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"

	"github.com/golang-jwt/jwt/v5"
)

// licence is a row.
type licence struct {
	api.OfflineLicence
	user       string
	plan       api.Plan
	digest     string
	renewed    time.Time
	tokenUntil time.Time
	revokedAt  int64
}

const columns = `id, user_id, device_id, device_name, plan, kind, item_id, title, rendition, revision, files, bytes, digest, created_at, renewed_at, expires_at, token_until, revoked_at, reason`

func scan(f func(...any) error, now time.Time) (l licence, err error) {
	var created, renewed, expires, token int64
	if err := f(&l.ID, &l.user, &l.DeviceID, &l.DeviceName, &l.plan, &l.Kind, &l.ItemID, &l.Title, &l.Rendition, &l.Revision, &l.Files, &l.Bytes, &l.digest,
		&created, &renewed, &expires, &token, &l.revokedAt, &l.Reason); err != nil {
		return l, err
	}
	l.CreatedAt, l.renewed, l.ExpiresAt, l.tokenUntil = store.Time(created), store.Time(renewed), store.Time(expires), store.Time(token)
	switch {
	case l.revokedAt != 0:
		l.State = api.LicenceRevoked
	case !now.Before(l.ExpiresAt):
		l.State = api.LicenceExpired
	default:
		l.State = api.LicenceActive
		after := l.renewed.Add(renewAfter)
		l.RenewAfter = &after
	}
	return l, nil
}

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

func list(ctx context.Context, q querier, tail string, args ...any) ([]licence, error) {
	rows, err := q.QueryContext(ctx, `SELECT `+columns+` FROM offline_licences `+tail, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []licence
	for now := time.Now(); rows.Next(); {
		l, err := scan(rows.Scan, now)
		if err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, rows.Err()
}

// one returns a licence of the user, or media.ErrNotFound.
func one(ctx context.Context, q querier, userID, id string) (licence, error) {
	found, err := list(ctx, q, `WHERE id = $1 AND user_id = $2`, id, userID)
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("licence %s: %w", id, media.ErrNotFound)
	}
	if err != nil {
		return licence{}, err
	}
	return found[0], nil
}

// own is one for its device.
func own(ctx context.Context, q querier, l api.Listener, id string) (licence, error) {
	k, err := one(ctx, q, l.UserID, id)
	if err == nil && k.DeviceID != l.DeviceID {
		err = fmt.Errorf("the licence is of another device, %q: %w", k.DeviceName, media.ErrDenied)
	}
	return k, err
}

// lock keeps others from changing an account's licences until the transaction ends.
func lock(ctx context.Context, tx *sql.Tx, userID string) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO offline_accounts (user_id, turn) VALUES ($1, 0) ON CONFLICT (user_id) DO UPDATE SET turn = offline_accounts.turn + 1`, userID)
	return err
}

// extend is ErrRevoked when the licence was revoked meanwhile.
func extend(ctx context.Context, tx *sql.Tx, id string, plan api.Plan, rendition, title string, now time.Time) error {
	res, err := tx.ExecContext(ctx, `UPDATE offline_licences SET renewed_at = $1, expires_at = $2, plan = $3, rendition = $4, title = $5 WHERE id = $6 AND revoked_at = 0`,
		store.Micros(now), store.Micros(now.Add(licenceFor)), string(plan), rendition, title, id)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n > 0 {
		return err
	}
	return ErrRevoked
}

// devices counts licences by device, in the order in which devices came.
func devices(active []licence) []api.BusyDevice {
	out := []api.BusyDevice{}
	for _, a := range active {
		i := slices.IndexFunc(out, func(d api.BusyDevice) bool { return d.ID == a.DeviceID })
		if i < 0 {
			i, out = len(out), append(out, api.BusyDevice{ID: a.DeviceID})
		}
		out[i].Name = a.DeviceName // the newest
		out[i].Licences++
	}
	return out
}

// Devices lists the devices that have licences in force.
func (s *Service) Devices(ctx context.Context, userID string) ([]api.BusyDevice, error) {
	active, err := list(ctx, s.db, `WHERE user_id = $1 AND revoked_at = 0 AND expires_at > $2 ORDER BY id`, userID, store.Micros(time.Now()))
	return devices(active), err
}

// Licences pages through an account's licences, oldest first, ended ones too; device "" is all of them.
func (s *Service) Licences(ctx context.Context, userID, device, cursor string, limit int) (api.Page[api.OfflineLicence], error) {
	page := api.Page[api.OfflineLicence]{Items: []api.OfflineLicence{}}
	if cursor != "" && !media.ValidID(cursor) {
		return page, fmt.Errorf("cursor is not one of ours: %w", media.ErrInvalid)
	}
	found, err := list(ctx, s.db, `WHERE user_id = $1 AND id > $2 AND ($3 = '' OR device_id = $3) ORDER BY id LIMIT $4`, userID, cursor, device, limit+1)
	if err != nil {
		return page, err
	}
	if len(found) > limit {
		found = found[:limit]
		page.Next = found[limit-1].ID
	}
	for _, k := range found {
		doc, err := s.document(k)
		if err != nil {
			return page, err
		}
		page.Items = append(page.Items, doc)
	}
	return page, nil
}

// Licence returns one of the user's, or media.ErrNotFound.
func (s *Service) Licence(ctx context.Context, userID, id string) (api.OfflineLicence, error) {
	k, err := one(ctx, s.db, userID, id)
	if err != nil {
		return api.OfflineLicence{}, err
	}
	return s.document(k)
}

// document signs a licence that is in force.
func (s *Service) document(k licence) (api.OfflineLicence, error) {
	if k.State != api.LicenceActive {
		return k.OfflineLicence, nil
	}
	kid, key := s.ask.Signer()
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{"iss": issuer, "aud": audience, "sub": k.user, "jti": k.ID, "iat": time.Now().Unix(), "exp": k.ExpiresAt.Unix(),
		"did": k.DeviceID, "knd": k.Kind, "itm": k.ItemID, "rva": k.RenewAfter.Unix(), "rev": k.Revision, "fls": k.digest})
	t.Header["kid"], t.Header["typ"] = kid, "segue-licence+jwt" // its own type: it is never taken for an access token
	var err error
	if k.Document, err = t.SignedString(key); err != nil {
		return api.OfflineLicence{}, fmt.Errorf("sign licence %s: %w", k.ID, err)
	}
	return k.OfflineLicence, nil
}

func inForce(k licence) error {
	switch k.State {
	case api.LicenceRevoked:
		return ErrRevoked
	case api.LicenceExpired:
		return ErrExpired
	}
	return nil
}
