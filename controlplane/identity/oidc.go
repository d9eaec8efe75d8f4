package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// OIDC is a provider that people may sign in with. Its accounts are linked by (issuer, subject), never by e-mail: our own
// addresses are not verified, so whoever signed up with somebody's address would get that person's sign-ins.
type OIDC struct {
	Issuer       string // its URL, exactly as in its own tokens; empty: none
	ClientID     string
	ClientSecret string
	RedirectBase string // our URL as browsers see it, https://music.example
}

// Validate says what is missing or wrong, in the words of the flags.
func (o OIDC) Validate() error {
	if o.Issuer == "" {
		return nil
	}
	for _, u := range []struct{ name, url string }{{"issuer", o.Issuer}, {"redirect base", o.RedirectBase}} {
		if p, err := url.Parse(u.url); err != nil || p.Host == "" || p.Scheme != "https" && p.Scheme != "http" || strings.HasSuffix(u.url, "?") {
			return fmt.Errorf("OIDC %s %q: want https://host: %w", u.name, u.url, media.ErrInvalid)
		}
	}
	if o.ClientID == "" {
		return fmt.Errorf("OIDC client ID is missing: %w", media.ErrInvalid)
	}
	return nil
}

// CallbackPath is where the provider sends people back to, below RedirectBase.
const CallbackPath = "/v1/sessions/oidc/callback"

const (
	flowFor = 10 * time.Minute // for a person to sign in there
	codeFor = time.Minute      // for a page to load here
)

// provider is found when the first person asks, and again if that failed: one that is down keeps nobody from starting.
type provider struct {
	cfg   OIDC
	found atomic.Pointer[oidc.Provider]
}

var oidcHTTP = &http.Client{Timeout: 10 * time.Second}

// open returns the client side of the flow. Errors: media.ErrNotFound when no provider is configured, media.ErrBusy when
// it does not answer.
func (p *provider) open(ctx context.Context) (*oidc.Provider, *oauth2.Config, error) {
	if p.cfg.Issuer == "" {
		return nil, nil, fmt.Errorf("there is no sign-in through a provider here: %w", media.ErrNotFound)
	}
	found := p.found.Load()
	if found == nil {
		var err error
		// The provider keeps the context's client, and nothing else of it, for the keys that it reads later.
		if found, err = oidc.NewProvider(oidc.ClientContext(context.WithoutCancel(ctx), oidcHTTP), p.cfg.Issuer); err != nil {
			return nil, nil, fmt.Errorf("sign-in provider: %w: %w", err, media.ErrBusy)
		}
		p.found.Store(found) // two who find it at once find the same
	}
	return found, &oauth2.Config{ClientID: p.cfg.ClientID, ClientSecret: p.cfg.ClientSecret, Endpoint: found.Endpoint(), RedirectURL: strings.TrimRight(p.cfg.RedirectBase, "/") + CallbackPath,
		Scopes: []string{oidc.ScopeOpenID, "email", "profile"}}, nil
}

// OIDCInfo says whether there is a provider.
func (s *Service) OIDCInfo() api.OIDCInfo {
	return api.OIDCInfo{Enabled: s.cfg.OIDC.Issuer != "", Issuer: s.cfg.OIDC.Issuer}
}

// StartOIDC begins a sign-in and returns the provider's page. challenge is the player's: base64url of the SHA-256 of a
// secret that it keeps and shows at the end, so that nobody else can use what comes back, nor make a player take what
// belongs to another (RFC 7636, once more between player and us).
func (s *Service) StartOIDC(ctx context.Context, challenge string) (string, error) {
	if b, err := base64.RawURLEncoding.DecodeString(challenge); err != nil || len(b) != sha256.Size {
		return "", fmt.Errorf("challenge: want base64url of a SHA-256: %w", media.ErrInvalid)
	}
	_, client, err := s.provider.open(ctx)
	if err != nil {
		return "", err
	}
	state, nonce, verifier := rand.Text(), rand.Text(), oauth2.GenerateVerifier()
	_, err = s.db.ExecContext(ctx, `INSERT INTO oidc_flows (state_hash, nonce, verifier, challenge, expires_at) VALUES ($1, $2, $3, $4, $5)`,
		digest(state), nonce, verifier, challenge, store.Micros(time.Now().Add(flowFor)))
	return client.AuthCodeURL(state, oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier)), err
}

// ErrOldFlow: a sign-in that was not begun here, or long ago, or that came back before.
var ErrOldFlow = fmt.Errorf("this sign-in was not begun here, or long ago: %w", media.ErrNoAccess)

// FinishOIDC takes what the provider sent a browser back with, and returns a code, good once and for a minute, that the
// player changes for a session. Errors: ErrOldFlow, media.ErrNoAccess, media.ErrBusy.
func (s *Service) FinishOIDC(ctx context.Context, state, code string) (string, error) {
	provider, client, err := s.provider.open(ctx)
	if err != nil {
		return "", err
	}
	var nonce, verifier, challenge string
	var expires int64
	err = s.db.QueryRowContext(ctx, `DELETE FROM oidc_flows WHERE state_hash = $1 RETURNING nonce, verifier, challenge, expires_at`, digest(state)).Scan(&nonce, &verifier, &challenge, &expires)
	if errors.Is(err, sql.ErrNoRows) || err == nil && expires <= store.Micros(time.Now()) {
		return "", ErrOldFlow
	} else if err != nil {
		return "", err
	}
	octx := oidc.ClientContext(ctx, oidcHTTP)
	token, err := client.Exchange(octx, code, oauth2.VerifierOption(verifier))
	if err != nil {
		return "", fmt.Errorf("sign-in provider: %w: %w", media.ErrNoAccess, err)
	}
	raw, _ := token.Extra("id_token").(string)
	id, err := provider.Verifier(&oidc.Config{ClientID: client.ClientID}).Verify(octx, raw)
	if err != nil {
		return "", fmt.Errorf("sign-in provider: %w: %w", media.ErrNoAccess, err)
	}
	if !same(id.Nonce, nonce) || id.Subject == "" {
		return "", fmt.Errorf("sign-in provider: the answer is to another question: %w", media.ErrNoAccess)
	}
	type person struct {
		Email    string `json:"email"`
		Verified any    `json:"email_verified"` // some providers send "true"
		Name     string `json:"name"`
	}
	var who person
	if err := id.Claims(&who); err != nil {
		return "", fmt.Errorf("sign-in provider: %w: %w", media.ErrNoAccess, err)
	}
	if who.Email == "" { // OIDC Core 5.4: with a code, these claims come from the UserInfo endpoint
		if info, err := provider.UserInfo(octx, oauth2.StaticTokenSource(token)); err == nil && info.Subject == id.Subject {
			var more person
			if err := info.Claims(&more); err != nil {
				return "", fmt.Errorf("sign-in provider: %w: %w", media.ErrNoAccess, err)
			}
			who = more
		}
	}
	if who.Verified != true && who.Verified != "true" {
		who.Email = "" // anybody's
	}
	back := newSecret("sgo_")
	_, err = s.db.ExecContext(ctx, `INSERT INTO oidc_codes (hash, challenge, issuer, subject, email, name, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		digest(back), challenge, id.Issuer, id.Subject, who.Email, who.Name, store.Micros(time.Now().Add(codeFor)))
	return back, err
}

// foreigner is who a code stands for.
type foreigner struct{ issuer, subject, email, name string }

// redeem takes a code, which is good once, even when the verifier is wrong.
func (s *Service) redeem(ctx context.Context, code, verifier string) (f foreigner, err error) {
	var challenge string
	var expires int64
	err = s.db.QueryRowContext(ctx, `DELETE FROM oidc_codes WHERE hash = $1 RETURNING challenge, issuer, subject, email, name, expires_at`, digest(code)).
		Scan(&challenge, &f.issuer, &f.subject, &f.email, &f.name, &expires)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return f, err
	}
	sum := sha256.Sum256([]byte(verifier))
	if err != nil || expires <= store.Micros(time.Now()) || !same(base64.RawURLEncoding.EncodeToString(sum[:]), challenge) {
		return f, fmt.Errorf("code is not good, or no longer: %w", media.ErrNoAccess)
	}
	return f, nil
}

// linked returns the account of a foreigner, or media.ErrNotFound.
func (s *Service) linked(ctx context.Context, q querier, f foreigner) (account, error) {
	var id string
	err := q.QueryRowContext(ctx, `SELECT user_id FROM oidc_identities WHERE issuer = $1 AND subject = $2`, f.issuer, f.subject).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return account{}, fmt.Errorf("user: %w", media.ErrNotFound)
	} else if err != nil {
		return account{}, err
	}
	return s.find(ctx, q, "id", id)
}

// ErrOtherLink: signing in there leads elsewhere.
var ErrOtherLink = errors.New("this sign-in belongs to another account")

// SignInOIDC opens a session with a code of FinishOIDC. Somebody new gets an account of the plan free, with the address
// when the provider has verified it. Errors: media.ErrNoAccess, ErrTaken when that address has an account here: its
// owner signs in there and links; ErrSuspended.
func (s *Service) SignInOIDC(ctx context.Context, n api.OIDCSession) (api.Session, error) {
	if err := checkDevice(&n.Device); err != nil {
		return api.Session{}, err
	}
	f, err := s.redeem(ctx, n.Code, n.Verifier)
	if err != nil {
		return api.Session{}, err
	}
	var a account
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		if a, err = s.linked(ctx, tx, f); !errors.Is(err, media.ErrNotFound) {
			return err
		}
		key := emailKey(f.email)
		if key == "" {
			key = "oidc:" + digest(f.issuer + " " + f.subject)[:32] // unique, and no address
		}
		name, err := displayName(f.name)
		if err != nil {
			name = nameFrom(f.email)
		}
		id, err := insertUser(ctx, tx, f.email, key, name, "", api.PlanFree)
		if errors.Is(err, ErrTaken) && strings.HasPrefix(key, "oidc:") {
			return fmt.Errorf("two first sign-ins at once: %w", media.ErrBusy)
		} else if err != nil {
			return err
		}
		if err := link(ctx, tx, f, id); err != nil {
			return err
		}
		a, err = s.find(ctx, tx, "id", id)
		return err
	})
	if err != nil {
		return api.Session{}, err
	}
	if a.suspendedAt != 0 {
		return api.Session{}, ErrSuspended
	}
	return s.open(ctx, a, n.Device, nil)
}

func link(ctx context.Context, tx *sql.Tx, f foreigner, userID string) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO oidc_identities (issuer, subject, user_id, created_at) VALUES ($1, $2, $3, $4)`, f.issuer, f.subject, userID, store.Micros(time.Now()))
	return err
}

// LinkOIDC lets a code's owner sign in to an account from now on. Doing it again changes nothing. Errors:
// media.ErrNoAccess, ErrOtherLink.
func (s *Service) LinkOIDC(ctx context.Context, userID string, n api.OIDCLink) (api.OIDCIdentity, error) {
	f, err := s.redeem(ctx, n.Code, n.Verifier)
	if errors.Is(err, media.ErrNoAccess) {
		return api.OIDCIdentity{}, fmt.Errorf("code is not good, or no longer: %w", media.ErrDenied) // not 401: the access token is good
	} else if err != nil {
		return api.OIDCIdentity{}, err
	}
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		a, err := s.linked(ctx, tx, f)
		switch {
		case errors.Is(err, media.ErrNotFound):
			return link(ctx, tx, f, userID)
		case err == nil && a.ID != userID:
			return ErrOtherLink
		}
		return err
	})
	if store.Duplicate(err) {
		err = ErrOtherLink
	}
	if err != nil {
		return api.OIDCIdentity{}, err
	}
	list, err := s.Identities(ctx, userID)
	for _, i := range list {
		if i.Issuer == f.issuer && i.Subject == f.subject {
			return i, nil
		}
	}
	return api.OIDCIdentity{Issuer: f.issuer, Subject: f.subject}, err
}

// Identities lists what signs in to an account from elsewhere.
func (s *Service) Identities(ctx context.Context, userID string) ([]api.OIDCIdentity, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT issuer, subject, created_at FROM oidc_identities WHERE user_id = $1 ORDER BY created_at`, userID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []api.OIDCIdentity{}
	for rows.Next() {
		var i api.OIDCIdentity
		var created int64
		if err := rows.Scan(&i.Issuer, &i.Subject, &created); err != nil {
			return nil, err
		}
		i.CreatedAt = store.Time(created)
		out = append(out, i)
	}
	return out, rows.Err()
}
