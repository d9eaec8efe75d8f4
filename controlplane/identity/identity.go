// Package identity knows who calls: accounts, sessions with rotating refresh tokens, short access tokens (JWT, EdDSA,
// keys published as JWKS) and admin tokens with scopes. Secrets are stored as hashes only.
package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"net/mail"
	"slices"
	"strings"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"

	"github.com/alexedwards/argon2id"
	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/semaphore"
)

const (
	accessFor  = 15 * time.Minute
	sessionFor = 60 * 24 * time.Hour // since the last refresh

	// MinPassword and MaxPassword bound a password, in bytes. The upper one bounds the work of hashing.
	MinPassword, MaxPassword = 8, 256
)

// hashing is OWASP's second choice for argon2id: 19 MiB, two passes.
var hashing = &argon2id.Params{Memory: 19 << 10, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32}

// Service is safe for concurrent use.
type Service struct {
	db      *store.DB
	keys    *Keys
	hashing *semaphore.Weighted // passwords hashed at once: each takes 19 MiB
	decoy   string              // hash that nobody's password matches: unknown accounts cost the same time
}

// New loads or makes the signing keys.
func New(ctx context.Context, db *store.DB) (*Service, error) {
	keys, err := OpenKeys(ctx, db, "access")
	if err != nil {
		return nil, err
	}
	decoy, err := argon2id.CreateHash(rand.Text(), hashing)
	if err != nil {
		return nil, fmt.Errorf("bug: %w", err)
	}
	return &Service{db, keys, semaphore.NewWeighted(4), decoy}, nil
}

// SignUp makes an account. Errors: media.ErrInvalid with the field's name first, ErrTaken.
func (s *Service) SignUp(ctx context.Context, u api.NewUser, plan api.Plan) (api.User, error) {
	addr, err := mail.ParseAddress(u.Email)
	if err != nil || addr.Address != u.Email || len(u.Email) > 254 || !strings.Contains(u.Email, ".") {
		return api.User{}, fmt.Errorf("email: not an address: %w", media.ErrInvalid)
	}
	if len(u.Password) < MinPassword || len(u.Password) > MaxPassword {
		return api.User{}, fmt.Errorf("password: want %d to %d bytes: %w", MinPassword, MaxPassword, media.ErrInvalid)
	}
	if u.DisplayName == "" {
		u.DisplayName, _, _ = strings.Cut(u.Email, "@")
	}
	if err := s.hashing.Acquire(ctx, 1); err != nil {
		return api.User{}, err
	}
	hash, err := argon2id.CreateHash(u.Password, hashing)
	s.hashing.Release(1)
	if err != nil {
		return api.User{}, fmt.Errorf("hash password: %w", err)
	}
	user := api.User{ID: ulid.Make().String(), Email: u.Email, DisplayName: u.DisplayName, Plan: plan, CreatedAt: time.Now().UTC().Truncate(time.Microsecond)}
	_, err = s.db.ExecContext(ctx, `INSERT INTO users (id, email, email_key, display_name, password_hash, plan, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		user.ID, user.Email, strings.ToLower(user.Email), user.DisplayName, hash, string(plan), store.Micros(user.CreatedAt))
	if store.Duplicate(err) {
		return api.User{}, ErrTaken
	}
	return user, err
}

// ErrTaken: the address has an account already.
var ErrTaken = errors.New("there is an account with this address already")

// User returns an account, or media.ErrNotFound.
func (s *Service) User(ctx context.Context, id string) (api.User, error) {
	u, _, err := s.user(ctx, `id = $1`, id)
	return u, err
}

func (s *Service) user(ctx context.Context, where, arg string) (u api.User, hash string, err error) {
	var plan string
	var created int64
	err = s.db.QueryRowContext(ctx, `SELECT id, email, display_name, plan, created_at, password_hash FROM users WHERE `+where, arg).
		Scan(&u.ID, &u.Email, &u.DisplayName, &plan, &created, &hash)
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("user: %w", media.ErrNotFound)
	}
	u.Plan, u.CreatedAt = api.Plan(plan), store.Time(created)
	return u, hash, err
}

// SignIn opens a session. A wrong address and a wrong password are the same media.ErrNoAccess and take the same time.
func (s *Service) SignIn(ctx context.Context, n api.NewSession) (api.Session, error) {
	if len(n.Password) > MaxPassword {
		return api.Session{}, fmt.Errorf("wrong address or password: %w", media.ErrNoAccess)
	}
	u, hash, err := s.user(ctx, `email_key = $1`, strings.ToLower(n.Email))
	if errors.Is(err, media.ErrNotFound) {
		hash = s.decoy
	} else if err != nil {
		return api.Session{}, err
	}
	if err := s.hashing.Acquire(ctx, 1); err != nil {
		return api.Session{}, err
	}
	same, herr := argon2id.ComparePasswordAndHash(n.Password, hash)
	s.hashing.Release(1)
	if herr != nil || !same || u.ID == "" {
		return api.Session{}, fmt.Errorf("wrong address or password: %w", media.ErrNoAccess)
	}
	session, refresh, now := ulid.Make().String(), newSecret("sgr_"), time.Now()
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO sessions (id, user_id, device_type, device_name, created_at, seen_at, expires_at) VALUES ($1, $2, $3, $4, $5, $5, $6)`,
			session, u.ID, n.Device.Type, n.Device.Name, store.Micros(now), store.Micros(now.Add(sessionFor))); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO refresh_tokens (hash, session_id) VALUES ($1, $2)`, digest(refresh), session)
		return err
	})
	if err != nil {
		return api.Session{}, err
	}
	return s.grant(u, session, refresh, now)
}

// Refresh changes a refresh token for a new pair. One that was used before means that somebody else has it too: the
// whole session ends. Errors: media.ErrNoAccess.
func (s *Service) Refresh(ctx context.Context, token string) (api.Session, error) {
	var userID, session string
	next, now := newSecret("sgr_"), time.Now()
	reused := false
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		var used, expires, revoked int64
		reused = false
		err := tx.QueryRowContext(ctx, `SELECT r.used_at, s.id, s.user_id, s.expires_at, s.revoked_at FROM refresh_tokens r JOIN sessions s ON s.id = r.session_id WHERE r.hash = $1`, digest(token)).
			Scan(&used, &session, &userID, &expires, &revoked)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return fmt.Errorf("refresh token is unknown: %w", media.ErrNoAccess)
		case err != nil:
			return err
		case revoked != 0 || expires <= store.Micros(now):
			return fmt.Errorf("session has ended: %w", media.ErrNoAccess)
		}
		// The row that says "unused" decides between two who come at once.
		res, err := tx.ExecContext(ctx, `UPDATE refresh_tokens SET used_at = $1 WHERE hash = $2 AND used_at = 0`, store.Micros(now), digest(token))
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil {
			return err
		} else if n == 0 {
			reused = true
			_, err = tx.ExecContext(ctx, `UPDATE sessions SET revoked_at = $1 WHERE id = $2`, store.Micros(now), session)
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE sessions SET seen_at = $1, expires_at = $2 WHERE id = $3`, store.Micros(now), store.Micros(now.Add(sessionFor)), session); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO refresh_tokens (hash, session_id) VALUES ($1, $2)`, digest(next), session)
		return err
	})
	if err == nil && reused {
		err = fmt.Errorf("refresh token was used before, the session is ended: %w", media.ErrNoAccess)
	}
	if err != nil {
		return api.Session{}, err
	}
	u, err := s.User(ctx, userID)
	if err != nil {
		return api.Session{}, err
	}
	return s.grant(u, session, next, now)
}

func (s *Service) grant(u api.User, session, refresh string, now time.Time) (api.Session, error) {
	access, err := s.keys.sign(Principal{UserID: u.ID, SessionID: session, DeviceID: session, Plan: u.Plan}, now)
	return api.Session{AccessToken: access, TokenType: "Bearer", ExpiresInSeconds: int(accessFor.Seconds()), RefreshToken: refresh, User: u}, err
}

// SignOut ends a session: its refresh token is worth nothing; the access token ends by itself within minutes.
func (s *Service) SignOut(ctx context.Context, session string) error {
	_, err := s.db.ExecContext(ctx, `UPDATE sessions SET revoked_at = $1 WHERE id = $2 AND revoked_at = 0`, store.Micros(time.Now()), session)
	return err
}

// Principal is who an access token speaks for.
type Principal struct {
	UserID    string
	SessionID string
	DeviceID  string
	Plan      api.Plan // when the token was made; who grants things asks Service.Plan
}

// Plan is an account's plan now, or media.ErrNotFound.
func (s *Service) Plan(ctx context.Context, userID string) (api.Plan, error) {
	u, err := s.User(ctx, userID)
	return u.Plan, err
}

// Verify reads an access token. Errors: media.ErrNoAccess.
func (s *Service) Verify(token string) (Principal, error) { return s.keys.verify(token, time.Now()) }

// JWKS is the public half of the signing keys, RFC 7517.
func (s *Service) JWKS() map[string]any { return s.keys.jwks() }

// Scopes of admin tokens. "admin" includes all.
const (
	ScopeAdmin  = "admin"
	ScopeIngest = "ingest"
	ScopeFleet  = "fleet"
)

// PutAdminToken makes a secret that the operator chose an admin token. Repeating it changes nothing.
func (s *Service) PutAdminToken(ctx context.Context, name, secret string, scopes ...string) error {
	_, err := s.db.ExecContext(ctx, `INSERT INTO admin_tokens (hash, name, scopes, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT (hash) DO NOTHING`,
		digest(secret), name, strings.Join(scopes, " "), store.Micros(time.Now()))
	return err
}

// VerifyAdmin checks an admin token for a scope. Errors: media.ErrNoAccess, media.ErrDenied.
func (s *Service) VerifyAdmin(ctx context.Context, secret, scope string) error {
	var scopes string
	err := s.db.QueryRowContext(ctx, `SELECT scopes FROM admin_tokens WHERE hash = $1`, digest(secret)).Scan(&scopes)
	switch list := strings.Fields(scopes); {
	case errors.Is(err, sql.ErrNoRows):
		return fmt.Errorf("admin token is unknown: %w", media.ErrNoAccess)
	case err != nil:
		return err
	case !slices.Contains(list, scope) && !slices.Contains(list, ScopeAdmin):
		return fmt.Errorf("admin token has not the scope %q: %w", scope, media.ErrDenied)
	}
	return nil
}

// newSecret returns a prefix, which tells leaked secrets apart, and at least 128 random bits.
func newSecret(prefix string) string { return prefix + rand.Text() }

// digest is how secrets of full entropy are stored: they need no slow hash.
func digest(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}
