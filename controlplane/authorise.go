package controlplane

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"segue/media"

	"github.com/danielgtaylor/huma/v2"
)

// need says in an operation's metadata who may call it.
const need = "need"

// Kinds of need; adminScope and a colon stand before an admin scope.
const (
	needUser   = "user"
	needEdge   = "edge"
	adminScope = "admin:"
)

func bearer(header string) string {
	scheme, token, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// authenticate checks a bearer token against a need. It returns the context that knows who calls, and the caller's name.
func (cp *ControlPlane) authenticate(ctx context.Context, kind, token string) (context.Context, string, error) {
	if token == "" {
		return ctx, "", fmt.Errorf("a bearer token is missing: %w", media.ErrNoAccess)
	}
	scope, admin := strings.CutPrefix(kind, adminScope)
	switch {
	case admin:
		sum := sha256.Sum256([]byte(token))
		return context.WithValue(ctx, keyAdmin, hex.EncodeToString(sum[:])), "admin:" + hex.EncodeToString(sum[:8]), cp.identity.VerifyAdmin(ctx, token, scope)
	case kind == needEdge:
		id, err := cp.fleet.Verify(ctx, token)
		return context.WithValue(ctx, keyEdge, id), "edge:" + id, err
	default:
		p, err := cp.identity.Verify(token)
		return context.WithValue(ctx, keyPrincipal, p), "user:" + p.UserID, err
	}
}

// authorise checks who calls, and charges the budget of that one: of the account when it is proven, else of the address.
func (cp *ControlPlane) authorise(op *huma.Operation, next http.Handler) http.Handler {
	kind, _ := op.Metadata[need].(string)
	guess := guessable(op.Method, op.Path, kind == "")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := visitOf(r.Context())
		addr := network(v.addr)
		if kind == "" {
			wait := cp.limits.address.take(w.Header(), addr)
			if guess {
				wait = max(wait, cp.limits.guess.take(w.Header(), addr))
			}
			if wait > 0 {
				cp.tooMany(w, r, wait)
				return
			}
			next.ServeHTTP(w, r)
			return
		}
		ctx, owner, err := cp.authenticate(r.Context(), kind, bearer(r.Header.Get("Authorization")))
		if err != nil && !errors.Is(err, media.ErrDenied) {
			if wait := cp.limits.address.take(w.Header(), addr); wait > 0 {
				cp.tooMany(w, r, wait)
				return
			}
			cp.writeProblem(w, r, err)
			return
		}
		v.owner = owner
		wait := cp.limits.account.take(w.Header(), owner)
		if guess {
			wait = max(wait, cp.limits.guess.take(w.Header(), addr))
		}
		switch {
		case wait > 0:
			cp.tooMany(w, r, wait)
		case err != nil:
			cp.writeProblem(w, r, err)
		default:
			next.ServeHTTP(w, r.WithContext(ctx))
		}
	})
}
