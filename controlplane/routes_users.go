package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"segue/controlplane/api"
	"segue/controlplane/identity"
	"segue/media"

	"github.com/danielgtaylor/huma/v2"
)

// none is the answer of 204.
type none = struct{}

// secret is a JSON body that no cache keeps.
type secret[T any] struct {
	CacheControl string `header:"Cache-Control"`
	Body         T
}

func private[T any](v T, err error) (*secret[T], error) {
	if err != nil {
		return nil, err
	}
	return &secret[T]{"no-store", v}, nil
}

func (cp *ControlPlane) userRoutes(a huma.API) {
	cp.accountRoutes(a)
	cp.sessionRoutes(a)
	cp.familyRoutes(a)
	cp.adminRoutes(a)
}

func (cp *ControlPlane) accountRoutes(a huma.API) {
	const tag = "Accounts"
	op := operation("sign-up", http.MethodPost, "/v1/users", tag, "Sign up", "")
	op.DefaultStatus = http.StatusCreated
	register(cp, a, op, func(ctx context.Context, in *struct{ Body api.NewUser }) (*answer[api.User], error) {
		return reply(cp.identity.SignUp(ctx, in.Body, api.PlanFree))
	})
	register(cp, a, operation("user", http.MethodGet, "/v1/users/{id}", tag, "The profile of somebody who is discoverable", needUser), func(ctx context.Context, in *byID) (*answer[api.Profile], error) {
		return reply(cp.identity.Profile(ctx, in.ID))
	})
	register(cp, a, operation("plans", http.MethodGet, "/v1/plans", tag, "The plans, and what they allow", ""), func(context.Context, *none) (*answer[api.Page[api.PlanLimits]], error) {
		return reply(api.Page[api.PlanLimits]{Items: cp.identity.Plans()}, nil)
	})
	register(cp, a, operation("me", http.MethodGet, "/v1/me", tag, "One's own account", needUser), func(ctx context.Context, _ *none) (*answer[api.User], error) {
		return reply(cp.identity.User(ctx, principal(ctx).UserID))
	})
	register(cp, a, operation("change-me", http.MethodPatch, "/v1/me", tag, "Change one's profile", needUser), func(ctx context.Context, in *struct{ Body api.UserChange }) (*answer[api.User], error) {
		return reply(cp.identity.Change(ctx, principal(ctx).UserID, in.Body))
	})
	op = operation("delete-me", http.MethodDelete, "/v1/me", tag, "Delete one's account", needUser)
	op.Description = "Deletes everything that is kept of the account, at once and for good. Play logs keep a pseudonym that leads to nobody."
	op.DefaultStatus = http.StatusNoContent
	register(cp, a, op, func(ctx context.Context, in *struct{ Body api.Goodbye }) (*none, error) {
		return nil, cp.identity.Delete(ctx, principal(ctx), in.Body.Password)
	})
	op = operation("export-me", http.MethodGet, "/v1/me/export", tag, "Everything that is kept of one's account", needUser)
	register(cp, a, op, func(ctx context.Context, _ *none) (*struct {
		Disposition  string `header:"Content-Disposition"`
		CacheControl string `header:"Cache-Control"`
		Body         api.Export
	}, error) {
		e, err := cp.identity.Export(ctx, principal(ctx))
		if err != nil {
			return nil, err
		}
		return &struct {
			Disposition  string `header:"Content-Disposition"`
			CacheControl string `header:"Cache-Control"`
			Body         api.Export
		}{`attachment; filename="segue-export.json"`, "no-store", e}, nil
	})
	op = operation("change-password", http.MethodPut, "/v1/me/password", tag, "Change one's password", needUser)
	op.Description = "Ends all other sessions of the account."
	op.DefaultStatus = http.StatusNoContent
	register(cp, a, op, func(ctx context.Context, in *struct{ Body api.NewPassword }) (*none, error) {
		return nil, cp.identity.ChangePassword(ctx, principal(ctx), in.Body)
	})

	register(cp, a, operation("devices", http.MethodGet, "/v1/me/devices", tag, "One's devices, those active last first", needUser), func(ctx context.Context, _ *none) (*answer[api.Page[api.OwnDevice]], error) {
		list, err := cp.identity.Devices(ctx, principal(ctx).UserID, principal(ctx).DeviceID)
		return reply(api.Page[api.OwnDevice]{Items: list}, err)
	})
	register(cp, a, operation("rename-device", http.MethodPatch, "/v1/me/devices/{id}", tag, "Give a device another name", needUser), func(ctx context.Context, in *struct {
		byID
		Body api.DeviceChange
	}) (*answer[api.OwnDevice], error) {
		return reply(cp.identity.RenameDevice(ctx, principal(ctx).UserID, principal(ctx).DeviceID, in.ID, in.Body.Name))
	})
	op = operation("remove-device", http.MethodDelete, "/v1/me/devices/{id}", tag, "Remove a device", needUser)
	op.Description = "Ends what is signed in on it, and takes back what it holds offline."
	op.DefaultStatus = http.StatusNoContent
	register(cp, a, op, func(ctx context.Context, in *byID) (*none, error) {
		return nil, cp.identity.RemoveDevice(ctx, principal(ctx).UserID, in.ID)
	})
}

func (cp *ControlPlane) sessionRoutes(a huma.API) {
	const tag = "Accounts"
	op := operation("sign-in", http.MethodPost, "/v1/sessions", tag, "Sign in on a device", "")
	op.Description = "After five wrong passwords each one more doubles a delay, during which the answer is 429 with Retry-After; so for an address that has no account. " +
		"A client keeps device_id and names it at its next sign-in: then the device goes on, and others' wrong passwords do not lock it out."
	op.DefaultStatus = http.StatusCreated
	register(cp, a, op, func(ctx context.Context, in *struct{ Body api.NewSession }) (*secret[api.Session], error) {
		return private(cp.identity.SignIn(ctx, in.Body, client(ctx)))
	})
	op = operation("refresh", http.MethodPost, "/v1/sessions/refresh", tag, "Change a refresh token for a new pair", "")
	op.Description = "A refresh token works once. Using it again ends its whole session: somebody else has it too. Only a client whose answer was lost may ask again, " +
		"within a minute and not in two changes running: it gets the same refresh token that was lost. So let one part of a program refresh at a time."
	register(cp, a, op, func(ctx context.Context, in *struct{ Body api.Refresh }) (*secret[api.Session], error) {
		return private(cp.identity.Refresh(ctx, in.Body.RefreshToken))
	})
	op = operation("sign-out", http.MethodDelete, "/v1/sessions/current", tag, "Sign out", needUser)
	op.Description = "The session's tokens are refused here at once, and within seconds by every replica."
	op.DefaultStatus = http.StatusNoContent
	register(cp, a, op, func(ctx context.Context, _ *none) (*none, error) {
		return nil, cp.identity.SignOut(ctx, principal(ctx))
	})
	op = operation("sign-out-everywhere", http.MethodDelete, "/v1/sessions", tag, "Sign out on all devices, this one too", needUser)
	op.DefaultStatus = http.StatusNoContent
	register(cp, a, op, func(ctx context.Context, _ *none) (*none, error) {
		return nil, cp.identity.SignOutEverywhere(ctx, principal(ctx).UserID)
	})

	register(cp, a, operation("oidc", http.MethodGet, "/v1/sessions/oidc", tag, "Whether one can sign in through a provider", ""), func(context.Context, *none) (*answer[api.OIDCInfo], error) {
		return reply(cp.identity.OIDCInfo(), nil)
	})
	type redirect struct {
		Location     string `header:"Location"`
		CacheControl string `header:"Cache-Control"`
	}
	op = operation("oidc-start", http.MethodGet, "/v1/sessions/oidc/start", tag, "Sign in through the provider: a browser is sent there", "")
	op.Description = "The player keeps a random secret and gives its SHA-256 as challenge. The browser comes back to the player with #oidc=CODE, or #oidc_error=REASON " +
		"(access_denied, expired, failed); the code and the secret go into POST /v1/sessions/oidc, or POST /v1/me/identities to link a provider's account to one's own."
	op.DefaultStatus = http.StatusFound
	register(cp, a, op, func(ctx context.Context, in *struct {
		Challenge string `query:"challenge" required:"true" doc:"base64url, with no padding, of the SHA-256 of the secret"`
	}) (*redirect, error) {
		to, err := cp.identity.StartOIDC(ctx, in.Challenge)
		if err != nil {
			return nil, err
		}
		return &redirect{to, "no-store"}, nil
	})
	op = operation("oidc-callback", http.MethodGet, identity.CallbackPath, tag, "Where the provider sends browsers back to", "")
	op.DefaultStatus = http.StatusFound
	register(cp, a, op, func(ctx context.Context, in *struct {
		State string `query:"state"`
		Code  string `query:"code"`
		Error string `query:"error"`
	}) (*redirect, error) {
		// A person looks at the answer. What is in a fragment reaches no server, no log and no Referer.
		back := func(key, value string) (*redirect, error) {
			return &redirect{"/#" + key + "=" + url.QueryEscape(value), "no-store"}, nil
		}
		if in.Error != "" {
			if in.Error != "access_denied" {
				cp.log.Warn("sign-in provider refuses", "request", requestID(ctx), "err", in.Error)
				return back("oidc_error", "failed")
			}
			return back("oidc_error", in.Error)
		}
		code, err := cp.identity.FinishOIDC(ctx, in.State, in.Code)
		switch {
		case errors.Is(err, identity.ErrOldFlow):
			return back("oidc_error", "expired")
		case err != nil:
			cp.log.Warn("sign-in through the provider failed", "request", requestID(ctx), "err", err)
			return back("oidc_error", "failed")
		}
		return back("oidc", code)
	})
	op = operation("oidc-sign-in", http.MethodPost, "/v1/sessions/oidc", tag, "Change the code of a sign-in through the provider for a session", "")
	op.DefaultStatus = http.StatusCreated
	register(cp, a, op, func(ctx context.Context, in *struct{ Body api.OIDCSession }) (*secret[api.Session], error) {
		return private(cp.identity.SignInOIDC(ctx, in.Body))
	})
	op = operation("oidc-link", http.MethodPost, "/v1/me/identities", tag, "Let a provider's account sign in to one's own", needUser)
	op.DefaultStatus = http.StatusCreated
	register(cp, a, op, func(ctx context.Context, in *struct{ Body api.OIDCLink }) (*answer[api.OIDCIdentity], error) {
		return reply(cp.identity.LinkOIDC(ctx, principal(ctx).UserID, in.Body))
	})
	register(cp, a, operation("identities", http.MethodGet, "/v1/me/identities", tag, "The providers' accounts that sign in to one's own", needUser), func(ctx context.Context, _ *none) (*answer[api.Page[api.OIDCIdentity]], error) {
		list, err := cp.identity.Identities(ctx, principal(ctx).UserID)
		return reply(api.Page[api.OIDCIdentity]{Items: list}, err)
	})
}

func (cp *ControlPlane) familyRoutes(a huma.API) {
	const tag = "Family"
	register(cp, a, operation("family", http.MethodGet, "/v1/me/family", tag, "One's family", needUser), func(ctx context.Context, _ *none) (*answer[api.Family], error) {
		return reply(cp.identity.Family(ctx, principal(ctx).UserID))
	})
	op := operation("join-family", http.MethodPost, "/v1/me/family", tag, "Join a family by its code", needUser)
	op.Description = "Repeating it changes nothing. While the owner has the family plan, so has every member; when it ends, members have their own plan again, and stay."
	register(cp, a, op, func(ctx context.Context, in *struct{ Body api.JoinFamily }) (*answer[api.Family], error) {
		return reply(cp.identity.JoinFamily(ctx, principal(ctx).UserID, in.Body.Code))
	})
	op = operation("leave-family", http.MethodDelete, "/v1/me/family", tag, "Leave one's family; its owner sends everybody away", needUser)
	op.DefaultStatus = http.StatusNoContent
	register(cp, a, op, func(ctx context.Context, _ *none) (*none, error) {
		return nil, cp.identity.LeaveFamily(ctx, principal(ctx).UserID)
	})
	op = operation("remove-member", http.MethodDelete, "/v1/me/family/members/{id}", tag, "Send a member away, and make the code worth nothing", needUser)
	op.DefaultStatus = http.StatusNoContent
	register(cp, a, op, func(ctx context.Context, in *byID) (*none, error) {
		return nil, cp.identity.RemoveMember(ctx, principal(ctx).UserID, in.ID)
	})
	op = operation("invite", http.MethodPost, "/v1/me/family/invites", tag, "Make the code that lets people into one's family", needUser)
	op.Description = "For a week, until the family is full, or until the next one is made. It is shown once."
	op.DefaultStatus = http.StatusCreated
	register(cp, a, op, func(ctx context.Context, _ *none) (*secret[api.FamilyInvite], error) {
		return private(cp.identity.Invite(ctx, principal(ctx).UserID))
	})
	op = operation("uninvite", http.MethodDelete, "/v1/me/family/invites", tag, "Make one's code worth nothing", needUser)
	op.DefaultStatus = http.StatusNoContent
	register(cp, a, op, func(ctx context.Context, _ *none) (*none, error) {
		return nil, cp.identity.Uninvite(ctx, principal(ctx).UserID)
	})
}

func (cp *ControlPlane) adminRoutes(a huma.API) {
	const tag, who, top = "Operators", adminScope + identity.ScopeUsers, adminScope + identity.ScopeAdmin
	register(cp, a, operation("list-users", http.MethodGet, "/v1/admin/users", tag, "Accounts, by their address", who), func(ctx context.Context, in *struct {
		Email  string `query:"email" doc:"how the address begins"`
		Cursor string `query:"cursor"`
		Limit  int    `query:"limit" minimum:"1" maximum:"200" default:"50"`
	}) (*answer[api.Page[api.AdminUser]], error) {
		return reply(cp.identity.AdminUsers(ctx, in.Email, in.Cursor, in.Limit))
	})
	register(cp, a, operation("get-user", http.MethodGet, "/v1/admin/users/{id}", tag, "An account", who), func(ctx context.Context, in *byID) (*answer[api.AdminUser], error) {
		return reply(cp.identity.AdminUser(ctx, in.ID))
	})
	op := operation("change-user", http.MethodPatch, "/v1/admin/users/{id}", tag, "Give an account a plan, or suspend it", who)
	op.Description = "A suspended account is signed out everywhere and cannot sign in; everything it has stays."
	register(cp, a, op, func(ctx context.Context, in *struct {
		byID
		Body api.AdminUserChange
	}) (*answer[api.AdminUser], error) {
		return reply(cp.identity.AdminChange(ctx, in.ID, in.Body))
	})
	op = operation("delete-user", http.MethodDelete, "/v1/admin/users/{id}", tag, "Delete an account and everything that is kept of it", who)
	op.DefaultStatus = http.StatusNoContent
	register(cp, a, op, func(ctx context.Context, in *byID) (*none, error) { return nil, cp.identity.AdminDelete(ctx, in.ID) })

	op = operation("new-admin-token", http.MethodPost, "/v1/admin/tokens", tag, "Make an admin token", top)
	op.Description = "The answer holds its secret, which is shown once."
	op.DefaultStatus = http.StatusCreated
	register(cp, a, op, func(ctx context.Context, in *struct{ Body api.NewAdminToken }) (*secret[api.AdminToken], error) {
		return private(cp.identity.NewAdminToken(ctx, in.Body))
	})
	register(cp, a, operation("list-admin-tokens", http.MethodGet, "/v1/admin/tokens", tag, "All admin tokens, without their secrets", top), func(ctx context.Context, _ *none) (*answer[api.Page[api.AdminToken]], error) {
		list, err := cp.identity.AdminTokens(ctx)
		return reply(api.Page[api.AdminToken]{Items: list}, err)
	})
	op = operation("delete-admin-token", http.MethodDelete, "/v1/admin/tokens/{id}", tag, "Take an admin token back", top)
	op.Description = "The last one with the scope admin stays."
	op.DefaultStatus = http.StatusNoContent
	register(cp, a, op, func(ctx context.Context, in *byID) (*none, error) {
		return nil, cp.identity.DeleteAdminToken(ctx, in.ID)
	})

	keys := func(purpose string) (*identity.Keys, error) {
		switch purpose {
		case identity.PurposeAccess:
			return cp.identity.Keys(), nil
		case identity.PurposeTokens:
			return cp.tokens, nil
		}
		return nil, fmt.Errorf("purpose %q: %w", purpose, media.ErrNotFound)
	}
	type byPurpose struct {
		Purpose string `path:"purpose" enum:"access,tokens"`
	}
	register(cp, a, operation("list-keys", http.MethodGet, "/v1/admin/keys/{purpose}", tag, "The keys that sign access tokens of the API, or media tokens", top), func(ctx context.Context, in *byPurpose) (*answer[api.Page[api.SigningKey]], error) {
		k, err := keys(in.Purpose)
		if err != nil {
			return nil, err
		}
		return reply(api.Page[api.SigningKey]{Items: k.List()}, k.Reload(ctx))
	})
	op = operation("rotate-key", http.MethodPost, "/v1/admin/keys/{purpose}", tag, "Make a new key", top)
	op.Description = "It signs from starts_at on, when every replica and edge knows it. What older keys signed stays good. It happens by itself too, every month or three."
	op.DefaultStatus = http.StatusCreated
	register(cp, a, op, func(ctx context.Context, in *byPurpose) (*answer[api.SigningKey], error) {
		k, err := keys(in.Purpose)
		if err != nil {
			return nil, err
		}
		return reply(k.Rotate(ctx))
	})
	op = operation("revoke-key", http.MethodDelete, "/v1/admin/keys/{purpose}/{id}", tag, "Take back a key that leaked", top)
	op.Description = "Everything it signed is worth nothing within seconds. When no other signs yet, a new one does at once."
	op.DefaultStatus = http.StatusNoContent
	register(cp, a, op, func(ctx context.Context, in *struct {
		byPurpose
		byID
	}) (*none, error) {
		k, err := keys(in.Purpose)
		if err != nil {
			return nil, err
		}
		return nil, k.Revoke(ctx, in.ID)
	})
}
