package controlplane

import (
	"context"
	"net/http"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/identity"
	"segue/controlplane/playback"

	"github.com/danielgtaylor/huma/v2"
)

func (cp *ControlPlane) fleetRoutes(a huma.API) {
	const tag, who = "Fleet", adminScope + identity.ScopeFleet
	cp.fleetConfigRoutes(a)
	op := operation("new-join-token", http.MethodPost, "/v1/admin/join-tokens", tag, "Make a token that admits edges into a region", who)
	op.DefaultStatus = http.StatusCreated
	register(cp, a, op, func(ctx context.Context, in *struct{ Body api.NewJoinToken }) (*answer[api.JoinToken], error) {
		return reply(cp.fleet.NewJoinToken(ctx, in.Body))
	})
	register(cp, a, operation("list-edges", http.MethodGet, "/v1/admin/edges", tag, "All edges, with their state", who), func(ctx context.Context, _ *struct{}) (*answer[api.Page[api.Edge]], error) {
		list, err := cp.fleet.Edges(ctx)
		return reply(api.Page[api.Edge]{Items: list}, err)
	})
	for _, d := range []struct {
		id, summary string
		on          bool
	}{{"drain", "Send players elsewhere", true}, {"undrain", "Send players again", false}} {
		op := operation(d.id+"-edge", http.MethodPost, "/v1/admin/edges/{id}/"+d.id, tag, d.summary, who)
		op.DefaultStatus = http.StatusNoContent
		register(cp, a, op, func(ctx context.Context, in *byID) (*struct{}, error) { return nil, cp.fleet.Drain(ctx, in.ID, d.on) })
	}
	register(cp, a, operation("join", http.MethodPost, "/v1/fleet/join", tag, "Join the fleet", ""), func(ctx context.Context, in *struct{ Body api.Join }) (*answer[api.Joined], error) {
		return reply(cp.fleet.Join(ctx, in.Body))
	})
	register(cp, a, operation("heartbeat", http.MethodPost, "/v1/fleet/heartbeat", tag, "Say that an edge lives", needEdge), func(ctx context.Context, in *struct{ Body api.Heartbeat }) (*answer[api.HeartbeatReply], error) {
		return reply(cp.fleet.Heartbeat(ctx, edgeID(ctx), in.Body))
	})
	op = operation("new-purge", http.MethodPost, "/v1/admin/purges", tag, "Make all edges forget a key, a prefix or a tag", who)
	op.DefaultStatus = http.StatusCreated
	register(cp, a, op, func(ctx context.Context, in *struct{ Body api.NewPurge }) (*answer[api.Purge], error) {
		return reply(cp.fleet.Purge(ctx, in.Body))
	})
	register(cp, a, operation("get-purge", http.MethodGet, "/v1/admin/purges/{id}", tag, "A purge, and which edges have done it", who), func(ctx context.Context, in *byID) (*answer[api.Purge], error) {
		return reply(cp.fleet.PurgeByID(ctx, in.ID))
	})
	op = operation("edge-purges", http.MethodGet, "/v1/fleet/purges", tag, "What an edge has to purge", needEdge)
	op.Metadata[longPoll] = true
	op.Description = "The edge says by after what it has purged already; with wait, the answer comes with the next purge, or empty after the wait."
	register(cp, a, op, func(ctx context.Context, in *struct {
		After int64  `query:"after" minimum:"0"`
		Wait  string `query:"wait" doc:"at most 30s"`
	}) (*answer[api.PurgeFeed], error) {
		wait, _ := time.ParseDuration(in.Wait)
		return reply(cp.fleet.Purges(ctx, edgeID(ctx), in.After, min(wait, 30*time.Second)))
	})
	op = operation("edge-revocations", http.MethodGet, "/v1/fleet/revocations", tag, "What an edge has to refuse", needEdge)
	op.Metadata[longPoll] = true
	op.Description = "Tokens that were revoked after a place, next of the answer before; without one, all that are in force. With wait, the answer comes with the next revocation, or empty after the wait."
	register(cp, a, op, func(ctx context.Context, in *struct {
		After string `query:"after" maxLength:"600"`
		Wait  string `query:"wait" doc:"at most 30s"`
	}) (*answer[api.RevokedFeed], error) {
		wait, _ := time.ParseDuration(in.Wait)
		return reply(cp.fleet.Revoked(ctx, in.After, min(wait, 30*time.Second)))
	})
	op = operation("edge-config", http.MethodGet, "/v1/fleet/config", tag, "The configuration of an edge", needEdge)
	op.Metadata[longPoll] = true
	op.Description = "With If-None-Match and wait, the answer comes when the configuration changes, or as 304 after the wait."
	register(cp, a, op, func(ctx context.Context, in *struct {
		Wait string `query:"wait" doc:"at most 30s"`
		Have string `header:"If-None-Match"`
	}) (*struct {
		Status int
		ETag   string `header:"ETag"`
		Body   *api.EdgeConfig
	}, error) {
		out := &struct {
			Status int
			ETag   string `header:"ETag"`
			Body   *api.EdgeConfig
		}{}
		wait, _ := time.ParseDuration(in.Wait)
		end := time.Now().Add(min(wait, 30*time.Second))
		for {
			c, err := cp.fleet.Config(edgeID(ctx), playback.Issuer)
			if err != nil {
				return nil, err
			}
			out.ETag = `"` + c.Revision + `"`
			if in.Have != out.ETag {
				out.Status, out.Body = http.StatusOK, &c
				return out, nil
			}
			if time.Now().After(end) {
				out.Status = http.StatusNotModified
				return out, nil
			}
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(250 * time.Millisecond):
			}
		}
	})
}
