package controlplane

import (
	"context"
	"net/http"

	"segue/controlplane/api"

	"github.com/danielgtaylor/huma/v2"
)

func (cp *ControlPlane) userRoutes(a huma.API) {
	const tag = "Accounts"
	op := operation("sign-up", http.MethodPost, "/v1/users", tag, "Sign up", "")
	op.DefaultStatus = http.StatusCreated
	register(cp, a, op, func(ctx context.Context, in *struct{ Body api.NewUser }) (*answer[api.User], error) {
		return reply(cp.identity.SignUp(ctx, in.Body, api.PlanFree))
	})
	op = operation("sign-in", http.MethodPost, "/v1/sessions", tag, "Sign in on a device", "")
	op.DefaultStatus = http.StatusCreated
	register(cp, a, op, func(ctx context.Context, in *struct{ Body api.NewSession }) (*answer[api.Session], error) {
		return reply(cp.identity.SignIn(ctx, in.Body))
	})
	op = operation("refresh", http.MethodPost, "/v1/sessions/refresh", tag, "Change a refresh token for a new pair", "")
	op.Description = "A refresh token works once. Using it again ends its whole session: somebody else has it too."
	register(cp, a, op, func(ctx context.Context, in *struct{ Body api.Refresh }) (*answer[api.Session], error) {
		return reply(cp.identity.Refresh(ctx, in.Body.RefreshToken))
	})
	op = operation("sign-out", http.MethodDelete, "/v1/sessions/current", tag, "Sign out", needUser)
	op.DefaultStatus = http.StatusNoContent
	register(cp, a, op, func(ctx context.Context, _ *struct{}) (*struct{}, error) {
		p := principal(ctx)
		err := cp.identity.SignOut(ctx, p.SessionID)
		cp.player.SessionEnded(p.UserID)
		return nil, err
	})
	register(cp, a, operation("me", http.MethodGet, "/v1/me", tag, "One's own account", needUser), func(ctx context.Context, _ *struct{}) (*answer[api.User], error) {
		return reply(cp.identity.User(ctx, principal(ctx).UserID))
	})
}
