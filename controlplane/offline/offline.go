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
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"
	"segue/media/cat"

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
	// ErrDevices is the reason of an *api.DevicesError: the devices that have licences.
	ErrDevices = errors.New("as many devices of this account as are allowed have music offline: remove it from one of them")
)

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

// Sources is what offline asks of others; all are required.
type Sources struct {
	Plan    func(ctx context.Context, userID string) (api.Plan, error) // now
	Devices func(api.Plan) int                                         // devices that may have licences; 0: the plan has no offline
	Device  func(ctx context.Context, userID, deviceID string) (name string, err error)
	// Item is what a licence is for: its title and its tracks; media.ErrNotFound: there is none that the user may hear.
	Item   func(ctx context.Context, userID, kind, id string) (title string, tracks []media.TrackID, err error)
	Briefs func(ctx context.Context, ids ...media.TrackID) (map[media.TrackID]Brief, error) // of those that can be played
	Track  func(ctx context.Context, id media.TrackID) (Track, error)
	Here   func(ctx context.Context, l api.Listener, countries []string) (bool, error)
	Edge   func(l api.Listener, prefix string) (baseURL string, err error) // scheme://host of the best edge
	Key    func() cat.Key                                                  // that signs download tokens
	Signer func() (kid string, private ed25519.PrivateKey)                 // of documents
	Revoke func(ctx context.Context, tx *sql.Tx, reason string, until time.Time, ctis ...string) error
}

// Service is safe for concurrent use.
type Service struct {
	db  *store.DB
	ask Sources
}

// New wires the service.
func New(db *store.DB, ask Sources) *Service { return &Service{db, ask} }

// Create gives the device a licence. Errors: ErrPlan, media.ErrNotFound, media.ErrInvalid, *api.DevicesError, ErrFull.
func (s *Service) Create(ctx context.Context, l api.Listener, n api.NewOfflineLicence) (api.OfflineLicence, error) {
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
			return &api.DevicesError{Reason: ErrDevices, Have: have}
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

// Renew is a device's check-in. Errors: media.ErrNotFound, media.ErrDenied for another device's, ErrRevoked, ErrPlan; and
// *api.DevicesError, when the licence had expired and others took the device's place.
func (s *Service) Renew(ctx context.Context, l api.Listener, id string) (api.OfflineLicence, error) {
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
			return &api.DevicesError{Reason: ErrDevices, Have: have}
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
