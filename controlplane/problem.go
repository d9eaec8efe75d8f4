package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"

	"segue/controlplane/api"
	"segue/controlplane/catalog"
	"segue/controlplane/fleet"
	"segue/controlplane/identity"
	"segue/controlplane/offline"
	"segue/controlplane/playback"
	"segue/controlplane/player"
	"segue/controlplane/playlist"
	"segue/controlplane/stats"
	"segue/controlplane/steer"
	"segue/controlplane/store"
	"segue/media"

	"github.com/danielgtaylor/huma/v2"
)

// problems is the one table from errors to statuses. The first that matches counts.
var problems = []struct {
	is     error
	status int
	slug   string
}{
	{identity.ErrTaken, http.StatusConflict, "email-taken"},
	{identity.ErrSuspended, http.StatusForbidden, "account-suspended"},
	{identity.ErrFamilyFull, http.StatusConflict, "family-full"},
	{identity.ErrInFamily, http.StatusConflict, "in-family"},
	{identity.ErrOtherLink, http.StatusConflict, "other-account"},
	{identity.ErrLastAdmin, http.StatusConflict, "last-admin-token"},
	{catalog.ErrMissing, http.StatusConflict, "object-missing"},
	{catalog.ErrNoMedia, http.StatusConflict, "no-media"},
	{store.ErrNotEmbedded, http.StatusConflict, "not-embedded"},
	{fleet.ErrNameTaken, http.StatusConflict, "name-taken"},
	{fleet.ErrFields, http.StatusUnprocessableEntity, "validation"},
	{fleet.ErrInUse, http.StatusConflict, "in-use"},
	{fleet.ErrSince, http.StatusConflict, "changed-since"},
	{fleet.ErrUnconditional, http.StatusPreconditionRequired, "precondition-required"},
	{playlist.ErrLimit, http.StatusConflict, "limit-reached"},
	{playlist.ErrNothing, http.StatusConflict, "nothing-to-undo"},
	{playback.ErrStreamLimit, http.StatusConflict, "stream-limit"},
	{playback.ErrOver, http.StatusGone, "play-over"},
	{playback.ErrPlan, http.StatusForbidden, "plan-required"},
	{playback.ErrNotHere, http.StatusForbidden, "not-available-here"},
	{playback.ErrNoMedia, http.StatusConflict, "no-media"},
	{offline.ErrPlan, http.StatusForbidden, "plan-required"},
	{offline.ErrDevices, http.StatusConflict, "offline-device-limit"},
	{offline.ErrFull, http.StatusConflict, "offline-full"},
	{offline.ErrExpired, http.StatusConflict, "licence-expired"},
	{offline.ErrRevoked, http.StatusGone, "licence-revoked"},
	{playback.ErrNoEdge, http.StatusServiceUnavailable, "no-edge"},
	{stats.ErrAway, http.StatusServiceUnavailable, "no-play-logs"},
	{player.ErrNotActive, http.StatusConflict, "not-active"},
	{player.ErrNoActive, http.StatusConflict, "no-active-device"},
	{steer.ErrNoEdge, http.StatusServiceUnavailable, "no-edge"},
	{steer.ErrOver, http.StatusGone, "play-over"},
	{media.ErrInvalid, http.StatusBadRequest, "invalid-request"},
	{media.ErrNoAccess, http.StatusUnauthorized, "unauthenticated"},
	{media.ErrDenied, http.StatusForbidden, "forbidden"},
	{media.ErrNotFound, http.StatusNotFound, "not-found"},
	{media.ErrChanged, http.StatusPreconditionFailed, "precondition-failed"},
	{media.ErrTooLarge, http.StatusRequestEntityTooLarge, "too-large"},
	{media.ErrCorrupt, http.StatusUnprocessableEntity, "digest-mismatch"},
	{media.ErrBusy, http.StatusServiceUnavailable, "busy"},
	{context.DeadlineExceeded, http.StatusServiceUnavailable, "timeout"},
	{context.Canceled, http.StatusServiceUnavailable, "cancelled"}, // the client left, or this replica stops
}

// slugs name the statuses that huma and the router give by themselves.
var slugs = map[int]string{400: "invalid-request", 401: "unauthenticated", 403: "forbidden", 404: "not-found", 405: "method-not-allowed", 406: "not-acceptable",
	408: "timeout", 409: "conflict", 411: "length-required", 412: "precondition-failed", 413: "too-large", 415: "unsupported-media-type", 422: "validation", 428: "precondition-required", 429: "too-many-requests", 500: "internal", 503: "busy"}

// problem turns an error into its answer. One that is in no table is ours: it is logged, and the client learns nothing
// of it but the request's id.
func (cp *ControlPlane) problem(ctx context.Context, err error) error {
	if p, ok := errors.AsType[*api.Problem](err); ok {
		return p
	}
	if t, ok := errors.AsType[*identity.Throttled](err); ok {
		p := newProblem(http.StatusTooManyRequests, "too-many-attempts", t.Error())
		p.RetryAfter = int(math.Ceil(t.Wait.Seconds()))
		return p
	}
	for _, k := range problems {
		if errors.Is(err, k.is) {
			p := newProblem(k.status, k.slug, strings.TrimSuffix(err.Error(), ": "+k.is.Error()))
			if d, ok := errors.AsType[*api.DevicesError](err); ok {
				p.Devices = d.Have
			}
			if f, ok := errors.AsType[interface {
				error
				Fields() []api.FieldProblem
			}](err); ok {
				p.Errors = f.Fields()
			}
			if k.is == media.ErrBusy {
				p.RetryAfter = 1
			}
			return p
		}
	}
	if ctx.Err() == nil {
		cp.log.Error("request failed", "request", requestID(ctx), "err", err)
	}
	return newProblem(http.StatusInternalServerError, "internal", "this is our fault; it is logged under the request id")
}

func fieldProblem(location, message string) api.FieldProblem {
	return api.FieldProblem{Location: location, Message: message}
}

func newProblem(status int, slug, detail string) *api.Problem {
	return &api.Problem{Type: "/problems/" + slug, Title: http.StatusText(status), Status: status, Detail: detail}
}

func init() {
	// huma makes its own errors (validation, decoding) through these variables.
	newError := func(status int, message string, errs ...error) huma.StatusError {
		slug := slugs[status]
		if slug == "" {
			slug = strings.ReplaceAll(strings.ToLower(http.StatusText(status)), " ", "-")
		}
		p := newProblem(status, slug, message)
		for _, err := range errs {
			if d, ok := err.(huma.ErrorDetailer); ok {
				p.Errors = append(p.Errors, api.FieldProblem{Location: d.ErrorDetail().Location, Message: d.ErrorDetail().Message})
			} else if err != nil {
				p.Errors = append(p.Errors, api.FieldProblem{Message: err.Error()})
			}
		}
		return p
	}
	huma.NewError = newError
	huma.NewErrorWithContext = func(c huma.Context, status int, message string, errs ...error) huma.StatusError {
		p := newError(status, message, errs...).(*api.Problem)
		if c != nil {
			p.Instance = requestID(c.Context())
		}
		return p
	}
}

// writeProblem answers outside huma.
func (cp *ControlPlane) writeProblem(w http.ResponseWriter, r *http.Request, err error) {
	p := *cp.problem(r.Context(), err).(*api.Problem)
	p.Instance = requestID(r.Context())
	if p.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	if p.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(p.RetryAfter))
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client may be gone
}
