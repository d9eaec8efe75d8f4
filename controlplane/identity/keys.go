package identity

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"

	"github.com/golang-jwt/jwt/v5"
	"github.com/oklog/ulid/v2"
)

const (
	issuer   = "segue"
	audience = "segue-api"
)

// Keys are the Ed25519 keys of one purpose, newest first: the first signs, all verify.
type Keys struct{ list []signingKey }

type signingKey struct {
	id      string
	private ed25519.PrivateKey
}

// OpenKeys reads the keys of a purpose from SQL and makes the first one.
func OpenKeys(ctx context.Context, db *store.DB, purpose string) (*Keys, error) {
	for try := 0; ; try++ {
		k, err := readKeys(ctx, db, purpose)
		if err != nil || len(k.list) > 0 || try > 0 {
			return k, err
		}
		public, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			return nil, fmt.Errorf("bug: %w", err)
		}
		enc := base64.StdEncoding.EncodeToString
		// Two replicas that start together write two keys; both verify.
		if _, err := db.ExecContext(ctx, `INSERT INTO signing_keys (id, purpose, private_key, public_key, created_at) VALUES ($1, $2, $3, $4, $5)`,
			ulid.Make().String(), purpose, enc(private.Seed()), enc(public), store.Micros(time.Now())); err != nil {
			return nil, err
		}
	}
}

func readKeys(ctx context.Context, db *store.DB, purpose string) (*Keys, error) {
	rows, err := db.QueryContext(ctx, `SELECT id, private_key FROM signing_keys WHERE purpose = $1 AND retired_at = 0 ORDER BY id DESC`, purpose)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	k := &Keys{}
	for rows.Next() {
		var id, seed string
		if err := rows.Scan(&id, &seed); err != nil {
			return nil, err
		}
		b, err := base64.StdEncoding.DecodeString(seed)
		if err != nil || len(b) != ed25519.SeedSize {
			return nil, fmt.Errorf("signing key %s is damaged: %w", id, media.ErrCorrupt)
		}
		k.list = append(k.list, signingKey{id, ed25519.NewKeyFromSeed(b)})
	}
	return k, rows.Err()
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
	t.Header["kid"] = k.list[0].id
	return t.SignedString(k.list[0].private)
}

func (k *Keys) verify(token string, now time.Time) (Principal, error) {
	var c claims
	_, err := jwt.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		for _, key := range k.list {
			if key.id == t.Header["kid"] {
				return key.private.Public(), nil
			}
		}
		return nil, fmt.Errorf("unknown key")
	}, jwt.WithValidMethods([]string{"EdDSA"}), jwt.WithIssuer(issuer), jwt.WithAudience(audience), jwt.WithExpirationRequired(), jwt.WithTimeFunc(func() time.Time { return now }))
	if err != nil {
		return Principal{}, fmt.Errorf("access token is not valid: %w", media.ErrNoAccess)
	}
	return Principal{c.Subject, c.Session, c.Device, c.Plan}, nil
}

func (k *Keys) jwks() map[string]any {
	list := []map[string]string{}
	for _, key := range k.list {
		// RFC 8037 2: an Ed25519 key is an OKP.
		list = append(list, map[string]string{"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": key.id,
			"x": base64.RawURLEncoding.EncodeToString(key.private.Public().(ed25519.PublicKey))})
	}
	return map[string]any{"keys": list}
}

// Current is the key that signs: its id and private half.
func (k *Keys) Current() (id string, private ed25519.PrivateKey) {
	return k.list[0].id, k.list[0].private
}

// Public lists id and public half of all keys that verify.
func (k *Keys) Public() map[string]ed25519.PublicKey {
	out := map[string]ed25519.PublicKey{}
	for _, key := range k.list {
		out[key.id] = key.private.Public().(ed25519.PublicKey)
	}
	return out
}
