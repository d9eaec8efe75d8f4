// Package identity knows who calls: accounts and their plans, devices, sessions with rotating refresh tokens, short
// access tokens (JWT, EdDSA, keys published as JWKS), sign-in through an OIDC provider, families, and admin tokens with
// scopes. Secrets are stored as hashes only.
//
//	account -< device - session (refresh tokens) -> access token -> Principal
//	account -< family_members >- account that pays
//
// Access tokens are checked without SQL: a replica knows the keys and the sessions that ended within the life of a
// token, and brings both up to date by the second (Run).
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
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"

	"github.com/alexedwards/argon2id"
	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/semaphore"
	"golang.org/x/text/language"
	"golang.org/x/text/unicode/norm"
)

const (
	accessFor  = 15 * time.Minute
	sessionFor = 60 * 24 * time.Hour // since the last refresh

	// MinPassword and MaxPassword bound a password, in bytes. The upper one bounds the work of hashing.
	MinPassword, MaxPassword = 8, 256

	maxName = 80 // characters of a display name
)

// hashing is OWASP's second choice for argon2id: 19 MiB, two passes.
var hashing = &argon2id.Params{Memory: 19 << 10, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32}

// Config is what an operator may choose. The zero value is one stream for premium and no OIDC.
type Config struct {
	PremiumStreams int // concurrent streams of an account with the plan premium or family; 0: 1
	OIDC           OIDC
}

// Service is safe for concurrent use.
type Service struct {
	db       *store.DB
	cfg      Config
	keys     *Keys
	ended    ended
	hashing  *semaphore.Weighted // passwords hashed at once: each takes 19 MiB
	decoy    string              // hash that nobody's password matches: unknown accounts cost the same time
	provider provider
	personal []Personal
}

// New loads or makes the signing keys.
func New(ctx context.Context, db *store.DB, cfg Config) (*Service, error) {
	keys, err := OpenKeys(ctx, db, PurposeAccess)
	if err != nil {
		return nil, err
	}
	decoy, err := argon2id.CreateHash(rand.Text(), hashing)
	if err != nil {
		return nil, fmt.Errorf("bug: %w", err)
	}
	s := &Service{db: db, cfg: cfg, keys: keys, hashing: semaphore.NewWeighted(4), decoy: decoy, provider: provider{cfg: cfg.OIDC}}
	return s, s.ended.poll(ctx, db, time.Now())
}

// SetPersonal says what other services keep of people. It is called once, before anything is served.
func (s *Service) SetPersonal(all []Personal) { s.personal = all }

// Run keeps a replica up to date with the others, and the tables short, until ctx ends. failed hears of what did not
// work; it is tried again.
func (s *Service) Run(ctx context.Context, failed func(error)) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n := 0; ; n++ {
		do := func(every int, what string, f func(context.Context) error) {
			if n%every != 0 {
				return
			}
			if err := f(ctx); err != nil && ctx.Err() == nil {
				failed(fmt.Errorf("%s: %w", what, err))
			}
		}
		do(1, "read ended sessions", func(ctx context.Context) error { return s.ended.poll(ctx, s.db, time.Now()) })
		do(keysEvery, "read signing keys", s.keys.Reload)
		do(30, "end plans", s.EndPlans)
		do(600, "rotate signing keys", s.keys.maintain)
		do(600, "delete what is over", s.prune)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// prune deletes what no longer means anything.
func (s *Service) prune(ctx context.Context) error {
	now := time.Now()
	for _, q := range []struct {
		sql    string
		before time.Time
	}{
		{`DELETE FROM sessions WHERE expires_at < $1`, now},
		{`DELETE FROM ended_sessions WHERE ended_at < $1`, now.Add(-2 * endedFor)},
		{`DELETE FROM wrong_passwords WHERE last_at < $1`, now.Add(-forgetWrong)},
		{`DELETE FROM oidc_flows WHERE expires_at < $1`, now},
		{`DELETE FROM oidc_codes WHERE expires_at < $1`, now},
		{`DELETE FROM family_invites WHERE expires_at < $1`, now},
	} {
		if _, err := s.db.ExecContext(ctx, q.sql, store.Micros(q.before)); err != nil {
			return err
		}
	}
	return nil
}

// ErrTaken: the address has an account already.
var ErrTaken = errors.New("there is an account with this address already")

// SignUp makes an account. Errors: media.ErrInvalid with the field's name first, ErrTaken.
func (s *Service) SignUp(ctx context.Context, u api.NewUser, plan api.Plan) (api.User, error) {
	addr, err := mail.ParseAddress(u.Email)
	if err != nil || addr.Address != u.Email || len(u.Email) > 254 || !strings.Contains(u.Email, ".") {
		return api.User{}, fmt.Errorf("email: not an address: %w", media.ErrInvalid)
	}
	if _, known := plans[plan]; !known {
		return api.User{}, fmt.Errorf("plan: %q is none: %w", plan, media.ErrInvalid)
	}
	name := nameFrom(u.Email)
	if u.DisplayName != "" {
		if name, err = displayName(u.DisplayName); err != nil {
			return api.User{}, err
		}
	}
	hash, err := s.hash(ctx, "password", u.Password)
	if err != nil {
		return api.User{}, err
	}
	var id string
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		id, err = insertUser(ctx, tx, u.Email, emailKey(u.Email), name, hash, plan)
		return err
	})
	if err != nil {
		return api.User{}, err
	}
	return s.User(ctx, id)
}

func insertUser(ctx context.Context, tx *sql.Tx, email, key, name, hash string, plan api.Plan) (string, error) {
	id := ulid.Make().String()
	_, err := tx.ExecContext(ctx, `INSERT INTO users (id, email, email_key, display_name, password_hash, plan, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		id, email, key, name, hash, string(plan), store.Micros(time.Now()))
	if store.Duplicate(err) {
		return "", ErrTaken
	} else if err != nil {
		return "", err
	}
	return id, store.Emit(ctx, tx, "user", id)
}

// emailKey is by what an address is found: people type it in any case.
func emailKey(email string) string { return strings.ToLower(norm.NFC.String(email)) }

// nameFrom makes a display name of an address: the part before the @, and no longer than a name may be.
func nameFrom(email string) string {
	name, _, _ := strings.Cut(email, "@")
	name, err := displayName(name)
	if err != nil {
		return "Listener"
	}
	return name
}

func displayName(s string) (string, error) {
	s = strings.TrimSpace(norm.NFC.String(s))
	if !utf8.ValidString(s) || s == "" || utf8.RuneCountInString(s) > maxName || strings.ContainsFunc(s, unicode.IsControl) {
		return "", fmt.Errorf("display_name: want 1 to %d characters: %w", maxName, media.ErrInvalid)
	}
	return s, nil
}

// account is a row of users with the plan of its family.
type account struct {
	api.User
	emailKey    string
	hash        string // of the password; empty: it has none
	own         api.Plan
	familyOwner string
	suspendedAt int64
	signedInAt  int64
}

const accountColumns = `u.id, u.email, u.email_key, u.display_name, u.country, u.discoverable, u.password_hash, u.plan, u.plan_until, u.suspended_at, u.signed_in_at, u.created_at,
  COALESCE(o.id, ''), COALESCE(o.plan, ''), COALESCE(o.plan_until, 0)
  FROM users u LEFT JOIN family_members m ON m.user_id = u.id LEFT JOIN users o ON o.id = m.owner_id`

// scanAccount reads accountColumns; now decides which plans have ended.
func scanAccount(scan func(...any) error, now time.Time) (a account, err error) {
	var plan, owners string
	var until, ownersUntil, created, discoverable int64
	err = scan(&a.ID, &a.Email, &a.emailKey, &a.DisplayName, &a.Country, &discoverable, &a.hash, &plan, &until, &a.suspendedAt, &a.signedInAt, &created,
		&a.familyOwner, &owners, &ownersUntil)
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("user: %w", media.ErrNotFound)
	}
	a.Discoverable, a.CreatedAt = discoverable != 0, store.Time(created)
	a.own = inForce(api.Plan(plan), until, now)
	a.Plan = withFamily(a.own, inForce(api.Plan(owners), ownersUntil, now))
	if a.own != api.PlanFree {
		a.PlanExpiresAt = optional(until)
	}
	return a, err
}

type querier interface {
	QueryRowContext(ctx context.Context, sql string, args ...any) *sql.Row
}

// find returns the account with a value in a column.
func (s *Service) find(ctx context.Context, q querier, column, value string) (account, error) {
	return scanAccount(q.QueryRowContext(ctx, `SELECT `+accountColumns+` WHERE u.`+column+` = $1`, value).Scan, time.Now())
}

// optional is a stored time where 0 means none.
func optional(micros int64) *time.Time {
	if micros == 0 {
		return nil
	}
	t := store.Time(micros)
	return &t
}

// User returns an account, or media.ErrNotFound.
func (s *Service) User(ctx context.Context, id string) (api.User, error) {
	a, err := s.find(ctx, s.db, "id", id)
	return a.User, err
}

// Change changes an account's profile. Errors: media.ErrInvalid with the field's name first, media.ErrNotFound.
func (s *Service) Change(ctx context.Context, id string, c api.UserChange) (api.User, error) {
	var name, country sql.NullString
	var discoverable sql.NullInt64
	if c.DisplayName != nil {
		n, err := displayName(*c.DisplayName)
		if err != nil {
			return api.User{}, err
		}
		name = sql.NullString{String: n, Valid: true}
	}
	if c.Country != nil {
		if !isCountry(*c.Country) {
			return api.User{}, fmt.Errorf("country: want two capital letters of ISO 3166-1, or nothing: %w", media.ErrInvalid)
		}
		country = sql.NullString{String: *c.Country, Valid: true}
	}
	if c.Discoverable != nil {
		discoverable = sql.NullInt64{Int64: number(*c.Discoverable), Valid: true}
	}
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE users SET display_name = COALESCE($1, display_name), country = COALESCE($2, country), discoverable = COALESCE($3, discoverable) WHERE id = $4`,
			name, country, discoverable, id)
		if err := changedOne(res, err, "user"); err != nil || !name.Valid && !discoverable.Valid {
			return err
		}
		return store.Emit(ctx, tx, "user", id)
	})
	if err != nil {
		return api.User{}, err
	}
	return s.User(ctx, id)
}

// isCountry: "" is none. "UK" and the like are regions of language tags, not ISO's.
func isCountry(code string) bool {
	if code == "" {
		return true
	}
	r, err := language.ParseRegion(code)
	return err == nil && len(code) == 2 && r.IsCountry() && r.Canonicalize().String() == code
}

func number(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// changedOne is media.ErrNotFound when a statement found no row.
func changedOne(res sql.Result, err error, what string) error {
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil {
		return err
	} else if n == 0 {
		return fmt.Errorf("%s: %w", what, media.ErrNotFound)
	}
	return nil
}

// Profiles returns those of the accounts that others may see: discoverable, not suspended; in no order. The rest is
// left out.
func (s *Service) Profiles(ctx context.Context, ids ...string) ([]api.Profile, error) {
	out := []api.Profile{}
	for len(ids) > 0 {
		some := ids[:min(len(ids), 500)]
		ids = ids[len(some):]
		args := make([]any, len(some))
		marks := make([]string, len(some))
		for i, id := range some {
			args[i], marks[i] = id, fmt.Sprintf("$%d", i+1)
		}
		list, err := s.profiles(ctx, `id IN (`+strings.Join(marks, ", ")+`) AND discoverable = 1 AND suspended_at = 0`, args...)
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	return out, nil
}

// Profile is one of Profiles, or media.ErrNotFound.
func (s *Service) Profile(ctx context.Context, id string) (api.Profile, error) {
	list, err := s.Profiles(ctx, id)
	if err != nil {
		return api.Profile{}, err
	}
	if len(list) == 0 {
		return api.Profile{}, fmt.Errorf("user: %w", media.ErrNotFound)
	}
	return list[0], nil
}

// EachProfile calls f for all of Profiles, until it fails.
func (s *Service) EachProfile(ctx context.Context, f func(api.Profile) error) error {
	for after := ""; ; {
		list, err := s.profiles(ctx, `id > $1 AND discoverable = 1 AND suspended_at = 0 ORDER BY id LIMIT 500`, after)
		if err != nil || len(list) == 0 {
			return err
		}
		for _, p := range list {
			if err := f(p); err != nil {
				return err
			}
		}
		after = list[len(list)-1].ID
	}
}

func (s *Service) profiles(ctx context.Context, where string, args ...any) ([]api.Profile, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT id, display_name FROM users WHERE `+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []api.Profile
	for rows.Next() {
		var p api.Profile
		if err := rows.Scan(&p.ID, &p.DisplayName); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, rows.Err()
}

// Principal is who an access token speaks for.
type Principal struct {
	UserID    string
	SessionID string
	DeviceID  string   // lasts longer than the session
	Plan      api.Plan // when the token was made; who grants things asks Service.Plan
}

// Verify reads an access token. Errors: media.ErrNoAccess.
func (s *Service) Verify(token string) (Principal, error) {
	p, err := s.keys.verify(token, time.Now())
	if err == nil && s.ended.has(p.SessionID) {
		err = fmt.Errorf("session has ended: %w", media.ErrNoAccess)
	}
	return p, err
}

// Keys sign access tokens of the API.
func (s *Service) Keys() *Keys { return s.keys }

// newSecret returns a prefix, which tells leaked secrets apart, and at least 128 random bits.
func newSecret(prefix string) string { return prefix + rand.Text() }

// digest is how secrets of full entropy are stored: they need no slow hash.
func digest(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}
