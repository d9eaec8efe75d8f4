// Package offline licenses devices to keep files: for a track, an album or a playlist, as long as the account's plan has
// offline and the device checks in once in 30 days.
//
//	POST licences -> licence (signed: a player checks it with no connection) -> files (URLs on a near edge, with tokens)
//	renew: plan still there? -> the same licence for 30 more days       plan ends, device goes -> revoked, downloads too
//
// A licence follows what it is for: each look at its files compares it with the catalogue and the playlist, and a change
// raises its revision, so that a device asks only for what came and went since.
package offline

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"
	"segue/media/cat"

	"github.com/golang-jwt/jwt/v5"
	"github.com/oklog/ulid/v2"
)

const (
	licenceFor  = 30 * 24 * time.Hour // without a check-in
	renewAfter  = 7 * 24 * time.Hour  // after a check-in the next one is asked for
	downloadFor = 24 * time.Hour      // a slow line, or a phone that sleeps between
	keepFor     = 60 * 24 * time.Hour // an ended licence is known: devices learn its state, and late plays are counted

	maxFiles    = 10_000 // of one licence
	maxLicences = 1_000  // of one account, in force

	issuer   = "segue"
	audience = "segue-offline"
)

var (
	// ErrPlan: the account's plan has no offline.
	ErrPlan = errors.New("offline is not in your plan")
	// ErrFull: a limit of licences or files is reached.
	ErrFull = errors.New("that is more than can be offline")
	// ErrExpired: the licence has to be renewed first.
	ErrExpired = errors.New("the licence has expired: renew it")
	// ErrRevoked: the licence is over. Its files are to be deleted.
	ErrRevoked = errors.New("the licence is revoked: delete its files")
	// ErrDevices is what a *DevicesError is.
	ErrDevices = errors.New("as many devices of this account as are allowed have music offline: remove it from one of them")
)

// DevicesError lists the devices that have licences. It is an ErrDevices.
type DevicesError struct{ Have []api.BusyDevice }

func (e *DevicesError) Error() string             { return ErrDevices.Error() }
func (e *DevicesError) Is(target error) bool      { return target == ErrDevices }
func (e *DevicesError) Devices() []api.BusyDevice { return e.Have }

// Track is what offline needs of the catalogue.
type Track struct {
	api.Track
	Media []media.Rendition
}

// Brief is what may change of a track that a device has: its version, and the countries it is limited to (none: everywhere).
type Brief struct {
	Version     media.Version
	AvailableIn []string
}

// Listener is who asks, on which device, from where.
type Listener struct {
	UserID   string
	DeviceID string
	Client   netip.Addr
}

// Sources is what offline asks of others; all are required.
type Sources struct {
	Plan    func(ctx context.Context, userID string) (api.Plan, error) // now
	Devices func(api.Plan) int                                         // devices that may have licences; 0: the plan has no offline
	Device  func(ctx context.Context, userID, deviceID string) (name string, err error)
	// Item is what a licence is for: its title and its tracks; media.ErrNotFound: there is none that the user may hear.
	Item   func(ctx context.Context, userID, kind, id string) (title string, tracks []media.TrackID, err error)
	Briefs func(ctx context.Context, ids ...media.TrackID) (map[media.TrackID]Brief, error) // of those that can be played
	Track  func(ctx context.Context, id media.TrackID) (Track, error)
	Here   func(ctx context.Context, l Listener, countries []string) (bool, error)
	Edge   func(l Listener, prefix string) (baseURL string, err error) // scheme://host of the best edge
	Key    func() cat.Key                                              // that signs download tokens
	Signer func() (kid string, private ed25519.PrivateKey)             // of documents
	Revoke func(ctx context.Context, tx *sql.Tx, reason string, until time.Time, ctis ...string) error
}

// Service is safe for concurrent use.
type Service struct {
	db  *store.DB
	ask Sources
}

// New wires the service.
func New(db *store.DB, ask Sources) *Service { return &Service{db, ask} }

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
func own(ctx context.Context, q querier, l Listener, id string) (licence, error) {
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

// Create gives the device a licence. Errors: ErrPlan, media.ErrNotFound, media.ErrInvalid, *DevicesError, ErrFull.
func (s *Service) Create(ctx context.Context, l Listener, n api.NewOfflineLicence) (api.OfflineLicence, error) {
	plan, limit, err := s.plan(ctx, l.UserID)
	if err != nil {
		return api.OfflineLicence{}, err
	}
	if !slices.Contains([]string{api.OfflineTrack, api.OfflineAlbum, api.OfflinePlaylist}, n.Kind) {
		return api.OfflineLicence{}, fmt.Errorf("kind: want track, album or playlist: %w", media.ErrInvalid)
	}
	if !media.ValidID(n.ID) {
		return api.OfflineLicence{}, fmt.Errorf("%s %s: %w", n.Kind, n.ID, media.ErrNotFound)
	}
	name, err := s.ask.Device(ctx, l.UserID, l.DeviceID)
	if err != nil {
		return api.OfflineLicence{}, err
	}
	k := licence{user: l.UserID, OfflineLicence: api.OfflineLicence{Kind: n.Kind, ItemID: n.ID, Rendition: n.Rendition}}
	title, files, err := s.files(ctx, l, k, nil)
	if err != nil {
		return api.OfflineLicence{}, err
	}
	if len(files) == 0 && n.Kind == api.OfflineTrack {
		return api.OfflineLicence{}, fmt.Errorf("track %s cannot be played: %w", n.ID, media.ErrNotFound)
	}
	if n.Rendition != "" && len(files) > 0 && !slices.ContainsFunc(files, func(f file) bool { return f.Rendition == n.Rendition }) {
		return api.OfflineLicence{}, fmt.Errorf("rendition %q is one of none of the tracks: %w", n.Rendition, media.ErrInvalid)
	}
	var id string
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		if err := lock(ctx, tx, l.UserID); err != nil {
			return err
		}
		now := time.Now()
		active, err := list(ctx, tx, `WHERE user_id = $1 AND revoked_at = 0 AND expires_at > $2 ORDER BY id`, l.UserID, store.Micros(now))
		if err != nil {
			return err
		}
		have := devices(active)
		if !slices.ContainsFunc(have, func(d api.BusyDevice) bool { return d.ID == l.DeviceID }) && len(have) >= limit {
			return &DevicesError{have}
		}
		same := slices.IndexFunc(active, func(a licence) bool { return a.DeviceID == l.DeviceID && a.Kind == n.Kind && a.ItemID == n.ID })
		if same >= 0 {
			id = active[same].ID
		} else if len(active) >= maxLicences {
			return fmt.Errorf("%d licences: %w", len(active), ErrFull)
		} else {
			id = ulid.Make().String()
			if _, err := tx.ExecContext(ctx, `INSERT INTO offline_licences (`+columns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, 0, 0, '', $10, $10, $11, 0, 0, '')`,
				id, l.UserID, l.DeviceID, name, string(plan), n.Kind, n.ID, title, n.Rendition, store.Micros(now), store.Micros(now.Add(licenceFor))); err != nil {
				return err
			}
		}
		if err := extend(ctx, tx, id, plan, n.Rendition, title, now); err != nil {
			return err
		}
		return put(ctx, tx, id, files)
	})
	if err != nil {
		return api.OfflineLicence{}, err
	}
	// The plan may have ended between the look at it and the commit, in time to miss this licence.
	if plan, _, err = s.plan(ctx, l.UserID); errors.Is(err, ErrPlan) {
		err = errors.Join(err, s.db.Tx(ctx, func(tx *sql.Tx) error { return s.PlanChanged(ctx, tx, l.UserID, plan) }))
	}
	if err != nil {
		return api.OfflineLicence{}, err
	}
	return s.Licence(ctx, l.UserID, id)
}

func (s *Service) plan(ctx context.Context, userID string) (api.Plan, int, error) {
	plan, err := s.ask.Plan(ctx, userID)
	if err != nil {
		return "", 0, err
	}
	limit := s.ask.Devices(plan)
	if limit == 0 {
		return plan, 0, ErrPlan
	}
	return plan, limit, nil
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

// Renew is a device's check-in. Errors: media.ErrNotFound, media.ErrDenied for another device's, ErrRevoked, ErrPlan; and
// *DevicesError, when the licence had expired and others took the device's place.
func (s *Service) Renew(ctx context.Context, l Listener, id string) (api.OfflineLicence, error) {
	k, err := own(ctx, s.db, l, id)
	if err == nil && k.State == api.LicenceRevoked {
		err = ErrRevoked
	}
	if err != nil {
		return api.OfflineLicence{}, err
	}
	plan, limit, err := s.plan(ctx, l.UserID)
	if err != nil {
		return api.OfflineLicence{}, err
	}
	title, files, err := s.current(ctx, l, k)
	if err != nil {
		return api.OfflineLicence{}, err
	}
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		if err := lock(ctx, tx, l.UserID); err != nil {
			return err
		}
		now := time.Now()
		active, err := list(ctx, tx, `WHERE user_id = $1 AND revoked_at = 0 AND expires_at > $2 ORDER BY id`, l.UserID, store.Micros(now))
		if err != nil {
			return err
		}
		if have := devices(active); !slices.ContainsFunc(have, func(d api.BusyDevice) bool { return d.ID == l.DeviceID }) && len(have) >= limit {
			return &DevicesError{have}
		}
		if err := extend(ctx, tx, id, plan, k.Rendition, title, now); err != nil {
			return err
		}
		return put(ctx, tx, id, files)
	})
	if err != nil {
		return api.OfflineLicence{}, err
	}
	return s.Licence(ctx, l.UserID, id)
}

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

// file is what the licence's row of a track keeps: all but the URL.
type file struct {
	api.OfflineFile
	unchanged bool // is the row that stands
}

// item is a row.
type item struct {
	version  media.Version
	file     string // JSON
	revision int64
	removed  bool
}

func items(ctx context.Context, q querier, licence string) (map[media.TrackID]item, error) {
	rows, err := q.QueryContext(ctx, `SELECT track_id, version, file, revision, removed FROM offline_items WHERE licence_id = $1`, licence)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[media.TrackID]item{}
	for rows.Next() {
		var id media.TrackID
		var i item
		var removed int64
		if err := rows.Scan(&id, &i.version, &i.file, &i.revision, &removed); err != nil {
			return nil, err
		}
		i.removed = removed != 0
		out[id] = i
	}
	return out, rows.Err()
}

// current is what a licence should be of now. What it is for may be gone: then it is of nothing.
func (s *Service) current(ctx context.Context, l Listener, k licence) (string, []file, error) {
	have, err := items(ctx, s.db, k.ID)
	if err != nil {
		return "", nil, err
	}
	title, files, err := s.files(ctx, l, k, have)
	if errors.Is(err, media.ErrNotFound) {
		return k.Title, nil, nil
	}
	return title, files, err
}

// files lists what a licence should be of, reading only those tracks whole that have is not of already.
func (s *Service) files(ctx context.Context, l Listener, k licence, have map[media.TrackID]item) (title string, out []file, err error) {
	title, ids, err := s.ask.Item(ctx, l.UserID, k.Kind, k.ItemID)
	if err != nil {
		return "", nil, err
	}
	ids = slices.Clone(ids)
	slices.Sort(ids)
	ids = slices.Compact(ids) // a playlist may have a track twice
	if len(ids) > maxFiles {
		return "", nil, fmt.Errorf("%d tracks: %w", len(ids), ErrFull)
	}
	briefs := map[media.TrackID]Brief{}
	if len(ids) > 0 {
		if briefs, err = s.ask.Briefs(ctx, ids...); err != nil {
			return "", nil, err
		}
	}
	for _, id := range ids {
		b, ok := briefs[id]
		if !ok {
			continue
		}
		if here, err := s.ask.Here(ctx, l, b.AvailableIn); err != nil {
			return "", nil, err
		} else if !here {
			continue
		}
		if h, ok := have[id]; ok && !h.removed && h.version == b.Version {
			var f file
			if err := json.Unmarshal([]byte(h.file), &f.OfflineFile); err != nil {
				return "", nil, fmt.Errorf("file of licence %s in SQL: %w: %w", k.ID, media.ErrCorrupt, err)
			}
			f.unchanged = true
			out = append(out, f)
			continue
		}
		t, err := s.ask.Track(ctx, id)
		if errors.Is(err, media.ErrNotFound) {
			continue // went just now
		} else if err != nil {
			return "", nil, err
		}
		r, ok := pick(t.Media, k.Rendition)
		if !ok {
			continue
		}
		out = append(out, file{OfflineFile: api.OfflineFile{TrackID: t.ID, Version: t.Version, Rendition: r.Name, Codec: r.Codec, Size: r.Size, SHA256: r.SHA256, DurationMS: t.DurationMS,
			Loudness: t.Loudness, GainDB: t.Loudness.GainDB(), Gapless: r.Gapless, SampleRate: r.SampleRateHz, Title: t.Title, Artists: t.Artists, Album: t.Album}})
	}
	return title, out, nil
}

// pick is the rendition asked for, else the best AAC, else the best.
func pick(all []media.Rendition, want string) (best media.Rendition, ok bool) {
	score := func(r media.Rendition) int64 {
		n := int64(r.BitrateBps)
		if strings.HasPrefix(strings.ToLower(r.Codec), "mp4a") {
			n += 1 << 30
		}
		if r.Name == want {
			n += 1 << 31
		}
		return n
	}
	for _, r := range all {
		if !ok || score(r) > score(best) {
			best, ok = r, true
		}
	}
	return best, ok
}

// put brings a licence's rows to what it should be of; when that changes anything, it has a new revision.
func put(ctx context.Context, tx *sql.Tx, id string, files []file) error {
	have, err := items(ctx, tx, id)
	if err != nil {
		return err
	}
	var revision int64
	if err := tx.QueryRowContext(ctx, `SELECT revision FROM offline_licences WHERE id = $1`, id).Scan(&revision); err != nil {
		return err
	}
	changed := revision == 0
	lines := sha256.New()
	var bytes int64
	for _, f := range files {
		fmt.Fprintf(lines, "%s %s %s %s\n", f.TrackID, f.Version, f.Rendition, f.SHA256)
		bytes += f.Size
		f.URL, f.ExpiresAt = "", time.Time{}
		b, err := json.Marshal(f.OfflineFile)
		if err != nil {
			return fmt.Errorf("bug: %w", err)
		}
		h, ok := have[f.TrackID]
		delete(have, f.TrackID)
		if ok && !h.removed && h.file == string(b) {
			continue
		}
		changed = true
		if _, err := tx.ExecContext(ctx, `INSERT INTO offline_items (licence_id, track_id, version, file, revision, removed) VALUES ($1, $2, $3, $4, $5, 0)
			ON CONFLICT (licence_id, track_id) DO UPDATE SET version = excluded.version, file = excluded.file, revision = excluded.revision, removed = 0`,
			id, string(f.TrackID), string(f.Version), string(b), revision+1); err != nil {
			return err
		}
	}
	for track, h := range have {
		if h.removed {
			continue
		}
		changed = true
		if _, err := tx.ExecContext(ctx, `UPDATE offline_items SET removed = 1, revision = $1 WHERE licence_id = $2 AND track_id = $3`, revision+1, id, string(track)); err != nil {
			return err
		}
	}
	if !changed {
		return nil
	}
	_, err = tx.ExecContext(ctx, `UPDATE offline_licences SET revision = $1, files = $2, bytes = $3, digest = $4 WHERE id = $5`, revision+1, len(files), bytes, hex.EncodeToString(lines.Sum(nil)), id)
	return err
}

// Files is one page of a licence's files, with URLs. Errors: media.ErrNotFound, media.ErrDenied for another device's,
// ErrRevoked, ErrExpired, media.ErrInvalid for a cursor, and those of Sources.Edge.
func (s *Service) Files(ctx context.Context, l Listener, id string, since int64, cursor string, limit int) (api.OfflineFiles, error) {
	out := api.OfflineFiles{LicenceID: id, Files: []api.OfflineFile{}, Removed: []media.TrackID{}}
	k, err := own(ctx, s.db, l, id)
	if err != nil {
		return out, err
	}
	if err := inForce(k); err != nil {
		return out, err
	}
	after := ""
	if cursor != "" {
		if out.Revision, after, err = parseCursor(cursor); err != nil {
			return out, err
		}
	} else {
		_, files, err := s.current(ctx, l, k)
		if err != nil {
			return out, err
		}
		// A track less, or one that is new or another version: nothing else can differ.
		if len(files) != k.Files || slices.ContainsFunc(files, func(f file) bool { return !f.unchanged }) {
			if err := s.db.Tx(ctx, func(tx *sql.Tx) error {
				if err := lock(ctx, tx, l.UserID); err != nil {
					return err
				}
				return put(ctx, tx, id, files)
			}); err != nil {
				return out, err
			}
		}
	}
	now := time.Now()
	until := now.Add(downloadFor).UTC().Truncate(time.Second)
	// From here on a revocation knows of the tokens; after one there are none.
	res, err := s.db.ExecContext(ctx, `UPDATE offline_licences SET token_until = $1 WHERE id = $2 AND revoked_at = 0`, store.Micros(until), id)
	if err != nil {
		return out, err
	}
	if n, err := res.RowsAffected(); err != nil {
		return out, err
	} else if n == 0 {
		return out, ErrRevoked
	}
	if k, err = one(ctx, s.db, l.UserID, id); err != nil {
		return out, err
	}
	if cursor == "" {
		out.Revision = k.Revision
		if since > 0 {
			if out.Removed, err = s.removed(ctx, id, since); err != nil {
				return out, err
			}
		}
	}
	rows, err := s.db.QueryContext(ctx, `SELECT track_id, file FROM offline_items WHERE licence_id = $1 AND removed = 0 AND revision > $2 AND track_id > $3 ORDER BY track_id LIMIT $4`, id, since, after, limit+1)
	if err != nil {
		return out, err
	}
	defer rows.Close()
	for rows.Next() {
		var track, text string
		if err := rows.Scan(&track, &text); err != nil {
			return out, err
		}
		if len(out.Files) == limit {
			out.Next = base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(out.Revision, 10) + " " + after))
			break
		}
		after = track
		var f api.OfflineFile
		if err := json.Unmarshal([]byte(text), &f); err != nil {
			return out, fmt.Errorf("file of licence %s in SQL: %w: %w", id, media.ErrCorrupt, err)
		}
		prefix := media.TrackPrefix(f.TrackID, f.Version)
		edge, err := s.ask.Edge(l, prefix)
		if err != nil {
			return out, err
		}
		token, err := cat.Mint(s.ask.Key(), cat.Claims{Issuer: issuer, ID: id, NotBefore: now.Add(-time.Minute).Truncate(time.Second), Expires: until, PathPrefix: "/" + prefix,
			Plan: string(k.plan), Renditions: []string{f.Rendition}})
		if err != nil {
			return out, err
		}
		f.URL, f.ExpiresAt = edge+"/t/"+token+"/"+prefix+f.Rendition+".mp4", until
		out.Files = append(out.Files, f)
	}
	return out, rows.Err()
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

func (s *Service) removed(ctx context.Context, id string, since int64) ([]media.TrackID, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT track_id FROM offline_items WHERE licence_id = $1 AND removed = 1 AND revision > $2 ORDER BY track_id`, id, since)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []media.TrackID{}
	for rows.Next() {
		var track media.TrackID
		if err := rows.Scan(&track); err != nil {
			return nil, err
		}
		out = append(out, track)
	}
	return out, rows.Err()
}

// parseCursor reads the revision of the first page and the last track seen.
func parseCursor(cursor string) (revision int64, after string, err error) {
	b, err := base64.RawURLEncoding.DecodeString(cursor)
	number, after, _ := strings.Cut(string(b), " ")
	revision, nerr := strconv.ParseInt(number, 10, 64)
	if err != nil || nerr != nil || !media.ValidID(after) {
		return 0, "", fmt.Errorf("cursor is not one of ours: %w", media.ErrInvalid)
	}
	return revision, after, nil
}
