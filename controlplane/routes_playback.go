package controlplane

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/identity"
	"segue/controlplane/playback"
	"segue/media"
	"segue/media/cat"

	"github.com/danielgtaylor/huma/v2"
)

func (cp *ControlPlane) playbackRoutes(a huma.API) {
	const tag = "Playback"
	op := operation("playback", http.MethodPost, "/v1/playback", tag, "Start to play a track", needUser)
	op.Description = "Returns URLs on the nearest healthy edge, with a token in their path that ends at expires_at, and the other edges as pathways. An account " +
		"plays on one device at a time: while another one does, the answer is 409 of type stream-limit with that device, unless take_over ends its stream. " +
		"A stream lives by its events and keepalives, at least one in 60 s, until its event end. A device may ask for the next track before the first has ended. " +
		"403 of type plan-required or not-available-here and 409 of type no-media say why a track cannot be played."
	op.DefaultStatus = http.StatusCreated
	register(cp, a, op, func(ctx context.Context, in *struct {
		reached
		Body api.NewPlayback
	}) (*answer[api.Playback], error) {
		granted, err := cp.playback.Start(ctx, listener(ctx), in.Body)
		return reply(cp.steered(granted, err, &in.reached))
	})
	op = operation("renew-playback", http.MethodPost, "/v1/playback/{play_id}/renew", tag, "New URLs for a play that goes on", needUser)
	op.Description = "The same play with a new token and the edges that are best now; the body says again what the player can play. 410 of type play-over: it has ended, or another device took over."
	op.Errors = []int{http.StatusGone}
	register(cp, a, op, func(ctx context.Context, in *struct {
		reached
		PlayID string `path:"play_id" maxLength:"64"`
		Body   api.RenewPlayback
	}) (*answer[api.Playback], error) {
		b := in.Body
		granted, err := cp.playback.Renew(ctx, listener(ctx), in.PlayID, api.NewPlayback{Rendition: b.Rendition, Codecs: b.Codecs, MaxBitrateBps: b.MaxBitrateBps, Renditions: b.Renditions, NextTrackIDs: b.NextTrackIDs})
		return reply(cp.steered(granted, err, &in.reached))
	})
	op = operation("keep-playback", http.MethodPut, "/v1/playback/{play_id}/keepalive", tag, "Say that a play goes on", needUser)
	op.Description = "For players that report no progress every 30 s, and for those that want to know soon of a take-over: 410 of type play-over."
	op.Errors = []int{http.StatusGone}
	op.DefaultStatus = http.StatusNoContent
	register(cp, a, op, func(ctx context.Context, in *struct {
		PlayID string `path:"play_id" maxLength:"64"`
	}) (*struct{}, error) {
		return nil, cp.playback.Keepalive(ctx, principal(ctx).UserID, in.PlayID)
	})
	op = operation("revoke", http.MethodPost, "/v1/admin/revocations", tag, "Have edges refuse tokens before their end", adminScope+identity.ScopeAdmin)
	op.DefaultStatus = http.StatusCreated
	register(cp, a, op, func(ctx context.Context, in *struct{ Body api.NewRevocation }) (*answer[api.Revocation], error) {
		return reply(cp.revoke(ctx, in.Body))
	})
}

// listener is who a playback is for.
func listener(ctx context.Context) api.Listener {
	p := principal(ctx)
	return api.Listener{UserID: p.UserID, DeviceID: p.DeviceID, Client: client(ctx)}
}

// newPlayback wires what playback asks of the others.
func (cp *ControlPlane) newPlayback() *playback.Service {
	return playback.New(cp.db, playback.Config{RefuseUnknownCountry: cp.cfg.Playback.RefuseUnknownCountry}, playback.Sources{
		Plan: cp.identity.Plan, Limits: cp.planLimits, Device: cp.deviceName, Nodes: cp.fleet.Nodes, Policy: cp.fleet.Policy, Locate: cp.locate, Where: cp.places.Country, Key: func() cat.Key { return cp.tokenKeys()[0] }, Revoke: cp.fleet.Revoke,
		Track: func(ctx context.Context, id media.TrackID) (playback.Track, error) {
			t, err := cp.catalog.Playable(ctx, id)
			return playback.Track{Track: t.Track, Media: t.Media, AvailableIn: t.AvailableIn}, err
		},
		Country: func(ctx context.Context, userID string) (string, error) {
			u, err := cp.identity.User(ctx, userID)
			return u.Country, err
		},
		Next: cp.player.Next,
		TakenOver: func(ctx context.Context, userID, deviceID, _, byDevice string) {
			// Its tokens are refused already: this is for it to stop before it finds that out. It may not be connected.
			if _, err := cp.player.Command(ctx, userID, byDevice, api.CommandPause, api.NewCommand{DeviceID: deviceID}); err != nil {
				cp.log.Debug("a device is not told that another one plays", "err", err)
			}
		},
	})
}

// planLimits is what a plan allows one account; of a family each member.
func (cp *ControlPlane) planLimits(plan api.Plan) playback.Limits {
	l := cp.identity.Limits(plan)
	return playback.Limits{MaxBitrateBps: l.MaxBitrateBps, Lossless: l.Lossless, Streams: l.Streams}
}

// deviceName is how a device is called to the account's other devices; media.ErrNoAccess when it was taken away.
func (cp *ControlPlane) deviceName(ctx context.Context, userID, deviceID string) (string, error) {
	devices, err := cp.identity.DeviceNames(ctx, userID)
	if err != nil {
		return "", err
	}
	d, ok := devices[deviceID]
	if !ok {
		return "", fmt.Errorf("device is signed out: %w", media.ErrNoAccess)
	}
	if d.Type == "other" { // what a device of no known type is; it is no name
		d.Type = ""
	}
	return cmp.Or(d.Name, d.Type, "another device"), nil
}

// revokeFor is how long a token that only its cti is known of is refused: longer than any is made for.
const revokeFor = 48 * time.Hour

func (cp *ControlPlane) revoke(ctx context.Context, n api.NewRevocation) (api.Revocation, error) {
	r := api.Revocation{Reason: cmp.Or(n.Reason, api.RevokedOperator)}
	given := 0
	for _, s := range []string{n.PlayID, n.UserID, n.CTI} {
		if s != "" {
			given++
		}
	}
	if given != 1 || len(n.PlayID+n.UserID+n.CTI) > 128 {
		return r, fmt.Errorf("want exactly one of play_id, user_id and cti: %w", media.ErrInvalid)
	}
	if n.PlayID != "" {
		if _, err := cp.playback.Play(ctx, n.PlayID); err != nil {
			return r, err
		}
	}
	if n.UserID != "" {
		if _, err := cp.identity.User(ctx, n.UserID); err != nil {
			return r, fmt.Errorf("%s: %w", n.UserID, err)
		}
	}
	err := cp.db.Tx(ctx, func(tx *sql.Tx) (err error) {
		r.CTIs = []string{}
		switch {
		case n.PlayID != "":
			r.CTIs, err = cp.playback.RevokePlay(ctx, tx, n.PlayID, r.Reason)
		case n.UserID != "":
			var downloads []string
			if r.CTIs, err = cp.playback.RevokeUser(ctx, tx, n.UserID, r.Reason); err == nil {
				downloads, err = cp.offline.RevokeUser(ctx, tx, n.UserID, r.Reason)
				r.CTIs = append(r.CTIs, downloads...)
			}
		default:
			r.CTIs = []string{n.CTI}
			err = cp.fleet.Revoke(ctx, tx, r.Reason, time.Now().Add(revokeFor), n.CTI)
		}
		return err
	})
	if r.CTIs == nil {
		r.CTIs = []string{}
	}
	return r, err
}
