package controlplane

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"segue/controlplane/api"
	"segue/controlplane/fleet"
	"segue/controlplane/identity"
	"segue/media"

	"github.com/danielgtaylor/huma/v2"
)

const (
	fleetTag = "Fleet"
	fleetWho = adminScope + identity.ScopeFleet
)

// Conditions of a change of a declared resource.
type Conditions struct {
	IfMatch     []string `header:"If-Match" doc:"the ETag that the change is meant for; at another one: 412 with its ETag"`
	IfNoneMatch string   `header:"If-None-Match" maxLength:"64" doc:"*: only when there is none yet; else 412"`
}

// condition reads them. What cannot be one of our ETags matches nothing.
func (c Conditions) condition() (fleet.Condition, error) {
	out := fleet.Condition{Create: c.IfNoneMatch == "*"}
	if c.IfNoneMatch != "" && !out.Create {
		return out, fmt.Errorf("If-None-Match: want *: %w", media.ErrInvalid)
	}
	for _, part := range c.IfMatch {
		for tag := range strings.SplitSeq(part, ",") {
			if tag = strings.TrimSpace(tag); tag == "*" {
				out.Any = true
				continue
			}
			n := int64(-1)
			if len(tag) > 2 && tag[0] == '"' && tag[len(tag)-1] == '"' {
				if v, err := strconv.ParseInt(tag[1:len(tag)-1], 10, 64); err == nil {
					n = v
				}
			}
			out.Match = append(out.Match, n)
		}
	}
	if out.Any {
		out.Match = nil
	}
	return out, nil
}

// staleTag gives a 412 the ETag to come back with.
func staleTag(err error) error {
	if stale, ok := errors.AsType[fleet.StaleError](err); ok {
		return huma.ErrorWithHeaders(err, http.Header{"Etag": {etag(stale.Revision)}})
	}
	return err
}

// atRevision is an answer with its ETag.
func atRevision[T any](v T, revision int64, err error) (*revised[T], error) {
	if err != nil {
		return nil, staleTag(err)
	}
	return &revised[T]{etag(revision), v}, nil
}

// Declared is the path of a resource.
type Declared struct {
	Name string `path:"name" minLength:"1" maxLength:"63"`
}

// nameCursor and afterName are the cursor of lists by name.
func nameCursor(name string) string { return base64.RawURLEncoding.EncodeToString([]byte(name)) }

func afterName(cursor string) (string, error) {
	b, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || !utf8.Valid(b) || strings.ContainsRune(string(b), 0) {
		return "", fmt.Errorf("cursor is not one of ours: %w", media.ErrInvalid)
	}
	return string(b), nil
}

// belowNumber is the cursor of lists by number, newest first; 0: from the beginning.
func belowNumber(cursor string) (int64, error) {
	if cursor == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(cursor, 10, 64)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("cursor is not one of ours: %w", media.ErrInvalid)
	}
	return n, nil
}

// author is the name of the admin token that a request came with.
func (cp *ControlPlane) author(ctx context.Context) string {
	hash, _ := ctx.Value(keyAdmin).(string)
	return cp.identity.AdminName(ctx, hash)
}

// declare adds the verbs of a kind of resources.
func declare[N, R any](cp *ControlPlane, a huma.API, kind fleet.Kind, plural, what string, wrap func(fleet.Resource[N]) R) {
	path := "/v1/admin/" + plural
	register(cp, a, operation("list-"+plural, http.MethodGet, path, fleetTag, "All "+strings.ReplaceAll(plural, "-", " ")+", by name", fleetWho), func(ctx context.Context, in *struct{ Paged }) (*answer[api.Page[R]], error) {
		after, err := afterName(in.Cursor)
		if err != nil {
			return nil, err
		}
		list, more, err := fleet.List[N](ctx, cp.fleet, kind, after, in.Limit)
		if err != nil {
			return nil, err
		}
		page := api.Page[R]{Items: []R{}}
		for _, r := range list {
			page.Items = append(page.Items, wrap(r))
		}
		if more {
			page.Next = nameCursor(list[len(list)-1].Name)
		}
		return reply(page, nil)
	})
	register(cp, a, operation("get-"+string(kind), http.MethodGet, path+"/{name}", fleetTag, "A "+what, fleetWho), func(ctx context.Context, in *Declared) (*revised[R], error) {
		r, err := fleet.Get[N](ctx, cp.fleet, kind, in.Name)
		return atRevision(wrap(r), r.Revision, err)
	})
	op := operation("put-"+string(kind), http.MethodPut, path+"/{name}", fleetTag, "Declare a "+what, fleetWho)
	op.Description = "With If-None-Match: * it is made, with If-Match changed; with neither it is made, or nothing happens when it is there and the same, or 428. " +
		"The answer is the canonical form. What is wrong with it, alone or among all others, is 422 with the fields."
	op.MaxBodyBytes = 1 << 20
	register(cp, a, op, func(ctx context.Context, in *struct {
		Declared
		Conditions
		Body N
	}) (*revised[R], error) {
		c, err := in.condition()
		if err != nil {
			return nil, err
		}
		r, err := fleet.Put(ctx, cp.fleet, kind, in.Name, in.Body, c, cp.author(ctx))
		return atRevision(wrap(r), r.Revision, err)
	})
	if kind == fleet.KindRegion {
		return // it has a way of its own to be deleted
	}
	op = operation("delete-"+string(kind), http.MethodDelete, path+"/{name}", fleetTag, "Delete a "+what, fleetWho)
	op.Description = "409 of type in-use names who uses it, in errors."
	op.DefaultStatus = http.StatusNoContent
	register(cp, a, op, func(ctx context.Context, in *struct {
		Declared
		Conditions
	}) (*none, error) {
		c, err := in.condition()
		if err != nil {
			return nil, err
		}
		return nil, staleTag(cp.fleet.Delete(ctx, kind, in.Name, c, cp.author(ctx)))
	})
}

func (cp *ControlPlane) fleetConfigRoutes(a huma.API) {
	region := func(r fleet.Resource[api.NewRegion]) api.Region {
		return api.Region{Name: r.Name, NewRegion: r.Spec, Revision: r.Revision, DrainUntil: r.DrainUntil}
	}
	declare(cp, a, fleet.KindRegion, "regions", "region", region)
	declare(cp, a, fleet.KindPool, "pools", "pool of edges", func(r fleet.Resource[api.NewEdgePool]) api.EdgePool {
		return api.EdgePool{Name: r.Name, NewEdgePool: r.Spec, Revision: r.Revision}
	})
	declare(cp, a, fleet.KindOrigin, "origins", "origin", func(r fleet.Resource[api.NewOrigin]) api.Origin {
		return api.Origin{Name: r.Name, NewOrigin: r.Spec, Revision: r.Revision}
	})
	declare(cp, a, fleet.KindRoute, "routes", "route", func(r fleet.Resource[api.NewRoute]) api.Route {
		return api.Route{Name: r.Name, NewRoute: r.Spec, Revision: r.Revision}
	})
	declare(cp, a, fleet.KindPolicy, "steering-policies", "steering policy", func(r fleet.Resource[api.NewSteeringPolicy]) api.SteeringPolicy {
		return api.SteeringPolicy{Name: r.Name, NewSteeringPolicy: r.Spec, Revision: r.Revision}
	})
	declare(cp, a, fleet.KindKey, "signing-keys", "key that others sign tokens with", func(r fleet.Resource[api.NewFleetKey]) api.FleetKey {
		return api.FleetKey{Name: r.Name, NewFleetKey: r.Spec, Revision: r.Revision}
	})

	op := operation("delete-region", http.MethodDelete, "/v1/admin/regions/{name}", fleetTag, "Delete a region", fleetWho)
	op.Description = "With its join tokens and the registrations of edges that are dead. 409 of type in-use names the edges that live and what else names the region, in errors. " +
		"With force edges that live are no hindrance: the answer is 202, the region drains, and it goes when its edges serve nobody any more, or after drain_timeout."
	op.DefaultStatus = http.StatusNoContent
	op.Responses = map[string]*huma.Response{"202": {Description: "It drains first", Content: map[string]*huma.MediaType{
		"application/json": {Schema: a.OpenAPI().Components.Schemas.Schema(typeOf[api.Region](), true, "Region")}}}}
	op.Metadata[wireAnswer] = typeOf[api.Region]()
	type gone struct {
		Status int
		Body   *api.Region
	}
	register(cp, a, op, func(ctx context.Context, in *struct {
		Declared
		Conditions
		Force        bool   `query:"force"`
		DrainTimeout string `query:"drain_timeout" maxLength:"20" doc:"such as 90s or 5m, at most 24h; default 5m"`
	}) (*gone, error) {
		c, err := in.condition()
		if err != nil {
			return nil, err
		}
		wait, err := time.ParseDuration(in.DrainTimeout)
		if err != nil && in.DrainTimeout != "" {
			return nil, fmt.Errorf("drain_timeout: want a time such as 90s or 5m: %w", media.ErrInvalid)
		}
		done, err := cp.fleet.DeleteRegion(ctx, in.Name, c, in.Force, wait, cp.author(ctx))
		if err != nil {
			return nil, staleTag(err)
		} else if done {
			return &gone{Status: http.StatusNoContent}, nil
		}
		r, err := fleet.Get[api.NewRegion](ctx, cp.fleet, fleet.KindRegion, in.Name)
		if errors.Is(err, media.ErrNotFound) {
			return &gone{Status: http.StatusNoContent}, nil
		}
		out := region(r)
		return &gone{http.StatusAccepted, &out}, err
	})
	for _, d := range []struct {
		id, summary string
		on          bool
	}{{"drain", "Send a region's players elsewhere", true}, {"undrain", "Send players to a region again", false}} {
		op := operation(d.id+"-region", http.MethodPost, "/v1/admin/regions/{name}/"+d.id, fleetTag, d.summary, fleetWho)
		op.DefaultStatus = http.StatusNoContent
		register(cp, a, op, func(ctx context.Context, in *Declared) (*none, error) {
			return nil, cp.fleet.DrainRegion(ctx, in.Name, d.on, cp.author(ctx))
		})
	}
	cp.memberRoutes(a)
	cp.releaseRoutes(a)
}

// memberRoutes are about edges and who may become one.
func (cp *ControlPlane) memberRoutes(a huma.API) {
	register(cp, a, operation("list-join-tokens", http.MethodGet, "/v1/admin/join-tokens", fleetTag, "Join tokens that still admit edges, without their secrets", fleetWho), func(ctx context.Context, in *struct{ Paged }) (*answer[api.Page[api.JoinToken]], error) {
		after, err := afterName(in.Cursor)
		if err != nil {
			return nil, err
		}
		list, err := cp.fleet.JoinTokens(ctx, after, in.Limit+1)
		page := api.Page[api.JoinToken]{Items: list}
		if len(list) > in.Limit {
			page.Items = list[:in.Limit]
			page.Next = nameCursor(page.Items[in.Limit-1].ID)
		}
		return reply(page, err)
	})
	type token struct {
		ID string `path:"id" minLength:"26" maxLength:"26" pattern:"^[0-9a-f]+$"`
	}
	register(cp, a, operation("get-join-token", http.MethodGet, "/v1/admin/join-tokens/{id}", fleetTag, "A join token, without its secret; 404 when it admits nobody any more", fleetWho), func(ctx context.Context, in *token) (*answer[api.JoinToken], error) {
		return reply(cp.fleet.JoinToken(ctx, in.ID))
	})
	op := operation("delete-join-token", http.MethodDelete, "/v1/admin/join-tokens/{id}", fleetTag, "Take a join token back", fleetWho)
	op.DefaultStatus = http.StatusNoContent
	register(cp, a, op, func(ctx context.Context, in *token) (*none, error) { return nil, cp.fleet.DeleteJoinToken(ctx, in.ID) })
	op = operation("delete-edge", http.MethodDelete, "/v1/admin/edges/{id}", fleetTag, "Take an edge's registration away", fleetWho)
	op.Description = "It has to join anew. 409 of type in-use while it answers players, unless force."
	op.DefaultStatus = http.StatusNoContent
	register(cp, a, op, func(ctx context.Context, in *struct {
		Named
		Force bool `query:"force"`
	}) (*none, error) {
		return nil, cp.fleet.DeleteEdge(ctx, in.ID, in.Force)
	})
	op = operation("get-admin-token", http.MethodGet, "/v1/admin/tokens/{id}", "Operators", "An admin token, without its secret", adminScope+identity.ScopeAdmin)
	register(cp, a, op, func(ctx context.Context, in *byID) (*answer[api.AdminToken], error) {
		list, err := cp.identity.AdminTokens(ctx)
		if err != nil {
			return nil, err
		}
		for _, t := range list {
			if t.ID == in.ID {
				return reply(t, nil)
			}
		}
		return nil, fmt.Errorf("admin token: %w", media.ErrNotFound)
	})
	op = operation("edge-state", http.MethodPut, "/v1/fleet/state", fleetTag, "What an edge did with its configuration", needEdge)
	op.DefaultStatus = http.StatusNoContent
	register(cp, a, op, func(ctx context.Context, in *struct{ Body api.EdgeState }) (*none, error) {
		return nil, cp.fleet.Said(ctx, edgeID(ctx), in.Body)
	})
	register(cp, a, operation("fleet-status", http.MethodGet, "/v1/admin/fleet", fleetTag, "Who runs what", fleetWho), func(ctx context.Context, _ *none) (*answer[api.FleetStatus], error) {
		streams, err := cp.playback.StreamsByEdge(ctx)
		if err != nil {
			return nil, err
		}
		return reply(cp.fleet.Status(ctx, streams))
	})
	register(cp, a, operation("list-ip-ranges", http.MethodGet, "/v1/admin/fleet/ip-ranges", fleetTag, "Addresses of edges, by region: for firewalls of origins", fleetWho), func(ctx context.Context, _ *none) (*answer[api.Page[api.IPRange]], error) {
		return reply(api.Page[api.IPRange]{Items: cp.fleet.IPRanges()}, nil)
	})
}

// numbered is the path of a release or a revision.
type numbered struct {
	Number int64 `path:"number" minimum:"1"`
}

func (cp *ControlPlane) releaseRoutes(a huma.API) {
	op := operation("new-release", http.MethodPost, "/v1/admin/fleet/releases", fleetTag, "Make an immutable snapshot of what edges need", fleetWho)
	op.Description = "It does nothing until it is activated."
	op.DefaultStatus = http.StatusCreated
	register(cp, a, op, func(ctx context.Context, in *struct{ Body api.NewRelease }) (*answer[api.Release], error) {
		return reply(cp.fleet.NewRelease(ctx, in.Body, cp.author(ctx)))
	})
	register(cp, a, operation("list-releases", http.MethodGet, "/v1/admin/fleet/releases", fleetTag, "Releases, newest first, without their contents", fleetWho), func(ctx context.Context, in *struct{ Paged }) (*answer[api.Page[api.Release]], error) {
		return numberedPage(in.Paged, func(below int64, limit int) ([]api.Release, error) {
			return cp.fleet.Releases(ctx, below, limit)
		}, func(r api.Release) int64 { return r.Number })
	})
	register(cp, a, operation("get-release", http.MethodGet, "/v1/admin/fleet/releases/{number}", fleetTag, "A release", fleetWho), func(ctx context.Context, in *numbered) (*answer[api.Release], error) {
		return reply(cp.fleet.Release(ctx, in.Number))
	})
	op = operation("delete-release", http.MethodDelete, "/v1/admin/fleet/releases/{number}", fleetTag, "Forget a release", fleetWho)
	op.DefaultStatus = http.StatusNoContent
	register(cp, a, op, func(ctx context.Context, in *numbered) (*none, error) {
		return nil, cp.fleet.DeleteRelease(ctx, in.Number)
	})
	op = operation("get-activation", http.MethodGet, "/v1/admin/fleet/activation", fleetTag, "Which release edges are to run", fleetWho)
	op.Description = "404: none, they run their own routes."
	op.Errors = []int{http.StatusNotFound}
	register(cp, a, op, func(ctx context.Context, _ *none) (*revised[api.Activation], error) {
		v, err := cp.fleet.Activation(ctx)
		return atRevision(v, v.Revision, err)
	})
	op = operation("put-activation", http.MethodPut, "/v1/admin/fleet/activation", fleetTag, "Give a release to edges: to all, to a part, to some regions", fleetWho)
	op.Description = "An older release is a rollback. Edges take it whole or not at all; GET /v1/admin/fleet says who has."
	register(cp, a, op, func(ctx context.Context, in *struct {
		Conditions
		Body api.NewActivation
	}) (*revised[api.Activation], error) {
		c, err := in.condition()
		if err != nil {
			return nil, err
		}
		v, err := cp.fleet.Activate(ctx, in.Body, c, cp.author(ctx))
		return atRevision(v, v.Revision, err)
	})
	op = operation("delete-activation", http.MethodDelete, "/v1/admin/fleet/activation", fleetTag, "Have edges run their own routes again", fleetWho)
	op.DefaultStatus = http.StatusNoContent
	register(cp, a, op, func(ctx context.Context, in *struct{ Conditions }) (*none, error) {
		c, err := in.condition()
		if err != nil {
			return nil, err
		}
		return nil, staleTag(cp.fleet.Deactivate(ctx, c, cp.author(ctx)))
	})
	register(cp, a, operation("pending-changes", http.MethodGet, "/v1/admin/fleet/pending", fleetTag, "What a release made now would change", fleetWho), func(ctx context.Context, _ *none) (*answer[api.PendingChanges], error) {
		return reply(cp.fleet.Pending(ctx))
	})
	register(cp, a, operation("list-revisions", http.MethodGet, "/v1/admin/fleet/revisions", fleetTag, "Changes of the fleet's configuration, newest first", fleetWho), func(ctx context.Context, in *struct{ Paged }) (*answer[api.Page[api.Revision]], error) {
		return numberedPage(in.Paged, func(below int64, limit int) ([]api.Revision, error) {
			return cp.fleet.Revisions(ctx, below, limit)
		}, func(r api.Revision) int64 { return r.Number })
	})
	register(cp, a, operation("get-revision", http.MethodGet, "/v1/admin/fleet/revisions/{number}", fleetTag, "A change", fleetWho), func(ctx context.Context, in *numbered) (*answer[api.Revision], error) {
		return reply(cp.fleet.Revision(ctx, in.Number))
	})
	op = operation("undo-revision", http.MethodPost, "/v1/admin/fleet/revisions/{number}/rollback", fleetTag, "Undo a change, by a new one", fleetWho)
	op.Description = "What the revision changed becomes what it was before. 409 of type changed-since when a later revision changed the same."
	op.DefaultStatus = http.StatusCreated
	register(cp, a, op, func(ctx context.Context, in *numbered) (*answer[api.Revision], error) {
		return reply(cp.fleet.Rollback(ctx, in.Number, cp.author(ctx)))
	})
}

// numberedPage reads one page of a list by number, newest first.
func numberedPage[T any](in Paged, list func(below int64, limit int) ([]T, error), number func(T) int64) (*answer[api.Page[T]], error) {
	below, err := belowNumber(in.Cursor)
	if err != nil {
		return nil, err
	}
	items, err := list(below, in.Limit+1)
	page := api.Page[T]{Items: items}
	if len(items) > in.Limit {
		page.Items = items[:in.Limit]
		page.Next = strconv.FormatInt(number(page.Items[in.Limit-1]), 10)
	}
	return reply(page, err)
}
