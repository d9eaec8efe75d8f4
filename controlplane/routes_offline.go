package controlplane

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/offline"
	"segue/controlplane/playback"
	"segue/controlplane/plays"
	"segue/media"
	"segue/media/cat"

	"github.com/danielgtaylor/huma/v2"
)

func (cp *ControlPlane) offlineRoutes(a huma.API) {
	const tag = "Offline"
	op := operation("new-offline-licence", http.MethodPost, "/v1/offline/licences", tag, "Take a track, an album or a playlist offline, on this device", needUser)
	op.Description = "For plans with offline (else 403 of type plan-required), on at most five devices of an account (else 409 of type offline-device-limit, with those devices). " +
		"The licence ends 30 days after the last renewal. Plays are reported later, up to 30 days, as events with licence_id and track_id, and a play_id that the player makes: a ULID of the time at which the play began. " +
		"A repeat of an event is harmless."
	op.DefaultStatus = http.StatusCreated
	register(cp, a, op, func(ctx context.Context, in *struct{ Body api.NewOfflineLicence }) (*answer[api.OfflineLicence], error) {
		return reply(cp.offline.Create(ctx, listener(ctx), in.Body))
	})
	register(cp, a, operation("list-offline-licences", http.MethodGet, "/v1/offline/licences", tag, "One's licences, also those that ended", needUser), func(ctx context.Context, in *struct {
		Device string `query:"device" maxLength:"64" doc:"a device's id, or current; default: all devices"`
		Cursor string `query:"cursor"`
		Limit  int    `query:"limit" minimum:"1" maximum:"200" default:"50"`
	}) (*answer[api.Page[api.OfflineLicence]], error) {
		p := principal(ctx)
		if in.Device == "current" {
			in.Device = p.DeviceID
		}
		return reply(cp.offline.Licences(ctx, p.UserID, in.Device, in.Cursor, in.Limit))
	})
	register(cp, a, operation("get-offline-licence", http.MethodGet, "/v1/offline/licences/{id}", tag, "A licence", needUser), func(ctx context.Context, in *byID) (*answer[api.OfflineLicence], error) {
		return reply(cp.offline.Licence(ctx, principal(ctx).UserID, in.ID))
	})
	op = operation("offline-files", http.MethodGet, "/v1/offline/licences/{id}/files", tag, "The files of a licence, to download", needUser)
	op.Description = "URLs on a near edge, for a day; an interrupted download goes on with Range. With since, only what came, changed or went after that revision."
	op.Errors = []int{http.StatusConflict, http.StatusGone}
	register(cp, a, op, func(ctx context.Context, in *struct {
		ID     string `path:"id" minLength:"26" maxLength:"26"`
		Since  int64  `query:"since" minimum:"0" doc:"a revision that the device has"`
		Cursor string `query:"cursor"`
		Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"100"`
	}) (*answer[api.OfflineFiles], error) {
		return reply(cp.offline.Files(ctx, listener(ctx), in.ID, in.Since, in.Cursor, in.Limit))
	})
	op = operation("renew-offline-licence", http.MethodPost, "/v1/offline/licences/{id}/renew", tag, "Check in: 30 more days", needUser)
	op.Description = "410 of type licence-revoked: delete the files. 403 of type plan-required: the plan has no offline any more."
	op.Errors = []int{http.StatusGone}
	register(cp, a, op, func(ctx context.Context, in *byID) (*answer[api.OfflineLicence], error) {
		return reply(cp.offline.Renew(ctx, listener(ctx), in.ID))
	})
	op = operation("delete-offline-licence", http.MethodDelete, "/v1/offline/licences/{id}", tag, "Give a licence back; its device deletes the files", needUser)
	op.DefaultStatus = http.StatusNoContent
	register(cp, a, op, func(ctx context.Context, in *byID) (*struct{}, error) {
		return nil, cp.offline.Delete(ctx, principal(ctx).UserID, in.ID)
	})
	register(cp, a, operation("list-offline-devices", http.MethodGet, "/v1/offline/devices", tag, "Devices that have music offline", needUser), func(ctx context.Context, _ *struct{}) (*answer[api.Page[api.BusyDevice]], error) {
		list, err := cp.offline.Devices(ctx, principal(ctx).UserID)
		return reply(api.Page[api.BusyDevice]{Items: list}, err)
	})
	op = operation("delete-offline-device", http.MethodDelete, "/v1/offline/devices/{id}", tag, "Give back all licences of a device", needUser)
	op.DefaultStatus = http.StatusNoContent
	register(cp, a, op, func(ctx context.Context, in *byID) (*struct{}, error) {
		return nil, cp.offline.DeleteDevice(ctx, principal(ctx).UserID, in.ID)
	})
	register(cp, a, operation("offline-keys", http.MethodGet, "/v1/offline/jwks.json", tag, "Keys of licence documents, RFC 7517", ""), func(context.Context, *struct{}) (*answer[api.KeySet], error) {
		out := api.KeySet{Keys: []api.PublicKey{}}
		for id, public := range cp.licences.Public() {
			out.Keys = append(out.Keys, api.PublicKey{KeyType: "OKP", Curve: "Ed25519", Use: "sig", Algorithm: "EdDSA", ID: id, X: base64.RawURLEncoding.EncodeToString(public)})
		}
		slices.SortFunc(out.Keys, func(a, b api.PublicKey) int { return strings.Compare(a.ID, b.ID) })
		return reply(out, nil)
	})
}

// newOffline wires what offline asks of the others.
func (cp *ControlPlane) newOffline() *offline.Service {
	return offline.New(cp.db, offline.Sources{
		Plan: cp.identity.Plan, Devices: func(plan api.Plan) int { return cp.identity.Limits(plan).OfflineDevices }, Device: cp.deviceName, Item: cp.offlineItem, Key: func() cat.Key { return cp.tokenKeys()[0] }, Revoke: cp.fleet.Revoke,
		Signer: func() (string, ed25519.PrivateKey) { return cp.licences.Current() },
		Track: func(ctx context.Context, id media.TrackID) (offline.Track, error) {
			t, err := cp.catalog.Track(ctx, id)
			return offline.Track{Track: t.Track, Media: t.Media}, err
		},
		Briefs: func(ctx context.Context, ids ...media.TrackID) (map[media.TrackID]offline.Brief, error) {
			out := map[media.TrackID]offline.Brief{}
			for some := range slices.Chunk(ids, 500) {
				names := make([]string, len(some))
				for i, id := range some {
					names[i] = string(id)
				}
				list, err := cp.catalog.TracksByID(ctx, names...)
				if err != nil {
					return nil, err
				}
				for _, t := range list {
					if t.Unavailable == "" {
						out[t.ID] = offline.Brief{Version: t.Version, AvailableIn: t.AvailableIn}
					}
				}
			}
			return out, nil
		},
		Here: func(ctx context.Context, l api.Listener, countries []string) (bool, error) {
			err := cp.playback.Here(ctx, l.UserID, l.Client, countries)
			if errors.Is(err, playback.ErrNotHere) {
				return false, nil
			}
			return err == nil, err
		},
		Edge: func(l api.Listener, prefix string) (string, error) {
			picks, err := cp.playback.Edges(l, l.UserID, prefix)
			if err != nil {
				return "", err
			}
			return picks[0].URL, nil
		},
	})
}

// offlineItem is what a licence is for.
func (cp *ControlPlane) offlineItem(ctx context.Context, userID, kind, id string) (title string, tracks []media.TrackID, err error) {
	switch kind {
	case api.OfflineTrack:
		t, err := cp.catalog.Track(ctx, media.TrackID(id))
		return t.Title, []media.TrackID{media.TrackID(id)}, err
	case api.OfflineAlbum:
		a, err := cp.catalog.Album(ctx, media.AlbumID(id))
		for _, t := range a.Tracks {
			tracks = append(tracks, t.ID)
		}
		return a.Title, tracks, err
	case api.OfflinePlaylist:
		p, err := cp.playlist.Get(ctx, userID, id)
		if err != nil {
			return "", nil, err
		}
		seen := map[media.TrackID]bool{} // a track may be in twice
		for cursor := ""; ; {
			page, err := cp.playlist.Items(ctx, userID, id, 0, cursor, 500)
			if err != nil {
				return "", nil, err
			}
			for _, item := range page.Items {
				if !seen[item.TrackID] {
					seen[item.TrackID] = true
					tracks = append(tracks, item.TrackID)
				}
			}
			if cursor = page.Next; cursor == "" {
				return p.Name, tracks, nil
			}
		}
	}
	return "", nil, fmt.Errorf("%s %s: %w", kind, id, media.ErrNotFound)
}

// heardOffline notes a play that was made offline, by its first event.
func (cp *ControlPlane) heardOffline(ctx context.Context, userID string, e api.Event) (plays.Play, error) {
	p, err := cp.offline.Heard(ctx, userID, e)
	if err != nil {
		return plays.Play{}, err
	}
	stands, err := cp.playback.PutOffline(ctx, e.PlayID, playback.Play{UserID: userID, DeviceID: p.DeviceID, TrackID: p.TrackID, Version: p.Version, Plan: p.Plan, LicenceID: e.LicenceID,
		CreatedAt: p.CreatedAt, ExpiresAt: p.CreatedAt.Add(24 * time.Hour)})
	if err != nil {
		return plays.Play{}, err
	}
	if stands.UserID != userID || stands.TrackID != p.TrackID || stands.LicenceID != e.LicenceID {
		return plays.Play{}, fmt.Errorf("play_id: %w", media.ErrNotFound)
	}
	return cp.granted(ctx, e.PlayID)
}
