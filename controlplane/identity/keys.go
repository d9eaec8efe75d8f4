package identity

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"

	"github.com/golang-jwt/jwt/v5"
	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/singleflight"
)

const (
	issuer   = "segue"
	audience = "segue-api"
)

// Purposes of keys.
const (
	PurposeAccess  = "access"  // access tokens of the API
	PurposeTokens  = "tokens"  // media tokens, checked by edges
	PurposeOffline = "offline" // documents of offline licences, checked by players
)

// lives says how long keys of a purpose sign, and how long they verify after another one took over: longer than what
// they signed lives.
var lives = map[string]struct{ sign, verify time.Duration }{
	PurposeAccess:  {30 * 24 * time.Hour, time.Hour},
	PurposeTokens:  {90 * 24 * time.Hour, 45 * 24 * time.Hour},
	PurposeOffline: {90 * 24 * time.Hour, 45 * 24 * time.Hour},
}

const (
	keysEvery = 5 // seconds between two looks for keys that others made or took back

	// leadTime is from the making of a key to its first signature: until then every replica and edge has read of it.
	leadTime = 2 * time.Minute

	// waitFor is how long after its time a key waits for edges that do not say that they know it.
	waitFor = 10 * time.Minute
)

// Keys are the Ed25519 keys of one purpose, kept in SQL: the newest that has started signs, all verify. It is safe for
// concurrent use.
type Keys struct {
	db      *store.DB
	purpose string
	list    atomic.Pointer[[]signingKey] // newest first

	good verdicts // access tokens that were checked
	// Known, when set before use, is asked whether those who verify know a key already: until they do it signs nothing, for
	// waitFor at most.
	Known func(id string) bool

	asking singleflight.Group // reloads for a key that is not known, one at a time
	missed atomic.Int64       // Unix time of the last one, seconds
}

type signingKey struct {
	id        string
	private   ed25519.PrivateKey
	createdAt time.Time
	startsAt  time.Time
}

// OpenKeys reads the keys of a purpose from SQL and makes the first one.
func OpenKeys(ctx context.Context, db *store.DB, purpose string) (*Keys, error) {
	if _, ok := lives[purpose]; !ok {
		return nil, fmt.Errorf("bug: keys of purpose %q", purpose)
	}
	k := &Keys{db: db, purpose: purpose}
	return k, k.ensure(ctx)
}

// ensure reloads, and makes a key that signs at once when there is none.
func (k *Keys) ensure(ctx context.Context) error {
	if err := k.Reload(ctx); !errors.Is(err, errNoKey) {
		return err
	}
	// Two replicas that start together write two keys; both verify.
	if _, err := k.insert(ctx, time.Now()); err != nil {
		return err
	}
	return k.Reload(ctx)
}

func (k *Keys) insert(ctx context.Context, starts time.Time) (string, error) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return "", fmt.Errorf("bug: %w", err)
	}
	id, enc := ulid.Make().String(), base64.StdEncoding.EncodeToString
	_, err = k.db.ExecContext(ctx, `INSERT INTO signing_keys (id, purpose, private_key, public_key, created_at, starts_at) VALUES ($1, $2, $3, $4, $5, $6)`,
		id, k.purpose, enc(private.Seed()), enc(public), store.Micros(time.Now()), store.Micros(starts))
	return id, err
}

var errNoKey = errors.New("no signing key")

// Reload brings the keys up to date with SQL. When it fails, those at hand stay.
func (k *Keys) Reload(ctx context.Context) error {
	rows, err := k.db.QueryContext(ctx, `SELECT id, private_key, created_at, starts_at FROM signing_keys WHERE purpose = $1 AND retired_at = 0`, k.purpose)
	if err != nil {
		return err
	}
	defer rows.Close()
	var list []signingKey
	for rows.Next() {
		var key signingKey
		var seed string
		var created, starts int64
		if err := rows.Scan(&key.id, &seed, &created, &starts); err != nil {
			return err
		}
		b, err := base64.StdEncoding.DecodeString(seed)
		if err != nil || len(b) != ed25519.SeedSize {
			return fmt.Errorf("signing key %s is damaged: %w", key.id, media.ErrCorrupt)
		}
		key.private, key.createdAt, key.startsAt = ed25519.NewKeyFromSeed(b), store.Time(created), store.Time(starts)
		list = append(list, key)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if len(list) == 0 {
		return fmt.Errorf("purpose %s: %w", k.purpose, errNoKey)
	}
	slices.SortFunc(list, func(a, b signingKey) int { return cmp.Or(b.startsAt.Compare(a.startsAt), cmp.Compare(b.id, a.id)) })
	k.list.Store(&list)
	return nil
}

// Run reloads and rotates until ctx ends; failed hears of what did not work.
func (k *Keys) Run(ctx context.Context, failed func(error)) {
	tick := time.NewTicker(keysEvery * time.Second)
	defer tick.Stop()
	for n := 0; ; n++ {
		err := k.Reload(ctx)
		if err == nil && n%120 == 0 {
			err = k.maintain(ctx)
		}
		if err != nil && ctx.Err() == nil {
			failed(fmt.Errorf("signing keys: %w", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// maintain makes a new key when the newest is old, and retires those that signed nothing that still lives. Two replicas
// that do it together make two keys, which does no harm.
func (k *Keys) maintain(ctx context.Context) error {
	now, life, list := time.Now(), lives[k.purpose], *k.list.Load()
	for i, key := range list {
		if i > 0 && now.Sub(list[i-1].startsAt) > life.verify {
			if err := k.retire(ctx, key.id); err != nil {
				return err
			}
		}
	}
	if now.Sub(list[0].createdAt) < life.sign {
		return nil
	}
	_, err := k.Rotate(ctx)
	return err
}

// Rotate makes a key that will sign after leadTime. Those before it go on verifying.
func (k *Keys) Rotate(ctx context.Context) (api.SigningKey, error) {
	id, err := k.insert(ctx, time.Now().Add(leadTime))
	if err != nil {
		return api.SigningKey{}, err
	}
	if err := k.Reload(ctx); err != nil {
		return api.SigningKey{}, err
	}
	for _, key := range k.List() {
		if key.ID == id {
			return key, nil
		}
	}
	return api.SigningKey{}, fmt.Errorf("signing key %s: %w", id, media.ErrNotFound) // retired again already
}

// Revoke takes a key back at once, for one that leaked: what it signed is worth nothing, within seconds on every
// replica. When none is left that signs, one is made that does. Errors: media.ErrNotFound.
func (k *Keys) Revoke(ctx context.Context, id string) error {
	if err := k.retire(ctx, id); err != nil {
		return err
	}
	if err := k.ensure(ctx); err != nil {
		return err
	}
	if now := time.Now(); !slices.ContainsFunc(*k.list.Load(), func(key signingKey) bool { return !key.startsAt.After(now) }) {
		if _, err := k.insert(ctx, now); err != nil {
			return err
		}
		return k.Reload(ctx)
	}
	return nil
}

// retire keeps the row, so that it stays known when a key was in use, without the secret.
func (k *Keys) retire(ctx context.Context, id string) error {
	res, err := k.db.ExecContext(ctx, `UPDATE signing_keys SET retired_at = $1, private_key = '' WHERE id = $2 AND purpose = $3 AND retired_at = 0`, store.Micros(time.Now()), id, k.purpose)
	return changedOne(res, err, "signing key")
}

// signer is the newest key that has started and is known; or, where clocks differ, the oldest.
func (k *Keys) signer(now time.Time) signingKey {
	list := *k.list.Load()
	for i, key := range list {
		if !key.startsAt.After(now) && (i == len(list)-1 || k.Known == nil || now.Sub(key.startsAt) > waitFor || k.Known(key.id)) {
			return key
		}
	}
	return list[len(list)-1]
}

// List is all keys, newest first.
func (k *Keys) List() []api.SigningKey {
	out, signer := []api.SigningKey{}, k.signer(time.Now())
	for _, key := range *k.list.Load() {
		out = append(out, api.SigningKey{ID: key.id, Purpose: k.purpose, CreatedAt: key.createdAt, StartsAt: key.startsAt, Signs: key.id == signer.id})
	}
	return out
}

// find returns the public half of a key. One that is not known may have been made by another replica just now: SQL is
// asked, at most once a second, whatever strangers send.
func (k *Keys) find(id any) (ed25519.PublicKey, bool) {
	look := func() (ed25519.PublicKey, bool) {
		for _, key := range *k.list.Load() {
			if key.id == id {
				return key.private.Public().(ed25519.PublicKey), true
			}
		}
		return nil, false
	}
	if public, ok := look(); ok {
		return public, true
	}
	_, _, _ = k.asking.Do("", func() (any, error) {
		now := time.Now().Unix()
		if k.missed.Swap(now) == now {
			return nil, nil
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = k.Reload(ctx) // Run reports what is wrong
		return nil, nil
	})
	return look()
}

// claims is the body of an access token.
type claims struct {
	jwt.RegisteredClaims
	Session string   `json:"sid"`
	Device  string   `json:"did"`
	Plan    api.Plan `json:"plan"`
}

func (k *Keys) sign(p Principal, now time.Time) (string, error) {
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims{
		RegisteredClaims: jwt.RegisteredClaims{Issuer: issuer, Audience: jwt.ClaimStrings{audience}, Subject: p.UserID, ID: ulid.Make().String(),
			IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(accessFor))},
		Session: p.SessionID, Device: p.DeviceID, Plan: p.Plan,
	})
	key := k.signer(now)
	t.Header["kid"] = key.id
	return t.SignedString(key.private)
}

func (k *Keys) verify(token string, now time.Time) (Principal, error) {
	keys, sum := k.list.Load(), sha256.Sum256([]byte(token)) // before the check: what is found under these keys counts for these
	if p, ok := k.good.get(sum, keys, now); ok {
		return p, nil
	}
	var c claims
	_, err := jwt.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		if public, ok := k.find(t.Header["kid"]); ok {
			return public, nil
		}
		return nil, errNoKey
	}, jwt.WithValidMethods([]string{"EdDSA"}), jwt.WithIssuer(issuer), jwt.WithAudience(audience), jwt.WithExpirationRequired(), jwt.WithTimeFunc(func() time.Time { return now }))
	if err != nil {
		return Principal{}, fmt.Errorf("access token is not valid: %w", media.ErrNoAccess)
	}
	p := Principal{c.Subject, c.Session, c.Device, c.Plan}
	k.good.put(sum, verdict{p, keys, c.ExpiresAt.Time})
	return p, nil
}

// verdicts remembers good tokens, so that the next request of a listener costs no signature: it was a fifth of the gateway's
// CPU. A verdict counts under the keys that it was found under, and until its token ends; that a session has ended is asked
// apart. What was not asked for during two generations is forgotten. The zero value is ready.
type verdicts struct {
	mu         sync.Mutex // guards the fields below
	young, old map[[sha256.Size]byte]verdict
}

type verdict struct {
	principal Principal
	keys      *[]signingKey
	ends      time.Time
}

// maxVerdicts is the size of a generation; a verdict is about 250 bytes.
const maxVerdicts = 50_000

func (v *verdicts) get(sum [sha256.Size]byte, keys *[]signingKey, now time.Time) (Principal, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	found, ok := v.young[sum]
	if !ok {
		if found, ok = v.old[sum]; ok {
			v.add(sum, found)
		}
	}
	return found.principal, ok && found.keys == keys && now.Before(found.ends)
}

func (v *verdicts) put(sum [sha256.Size]byte, found verdict) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.add(sum, found)
}

// add needs the lock.
func (v *verdicts) add(sum [sha256.Size]byte, found verdict) {
	if v.young == nil || len(v.young) >= maxVerdicts {
		v.young, v.old = map[[sha256.Size]byte]verdict{}, v.young
	}
	v.young[sum] = found
}

// JWKS is the public half of the keys, RFC 7517.
func (k *Keys) JWKS() map[string]any {
	list := []map[string]string{}
	for _, key := range *k.list.Load() {
		// RFC 8037 2: an Ed25519 key is an OKP.
		list = append(list, map[string]string{"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": key.id,
			"x": base64.RawURLEncoding.EncodeToString(key.private.Public().(ed25519.PublicKey))})
	}
	return map[string]any{"keys": list}
}

// Current is the key that signs: its id and private half.
func (k *Keys) Current() (id string, private ed25519.PrivateKey) {
	key := k.signer(time.Now())
	return key.id, key.private
}

// Public lists id and public half of all keys that verify.
func (k *Keys) Public() map[string]ed25519.PublicKey {
	out := map[string]ed25519.PublicKey{}
	for _, key := range *k.list.Load() {
		out[key.id] = key.private.Public().(ed25519.PublicKey)
	}
	return out
}
