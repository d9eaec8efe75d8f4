// Package cat mints, verifies, checks and renews Common Access Tokens (CTA-5007): a CWT (RFC 8392) in COSE (RFC 9052),
// as base64url text without padding. HS256 (COSE_Mac0) and EdDSA (COSE_Sign1). Pure functions: keys and time are
// arguments.
//
//	Verify   form, signature, issuer, times           once per token, then remember the Claims
//	Check    does it grant this request                every request
//	Renew    the same token with a later end           when Claims.RenewalDue says so
//
// Enforced: iss exp nbf cti catv catreplay (0 only) catu (all parts but the query, all matches but regular expressions)
// catm catnip (addresses and prefixes) catgeoiso3166 catr, and three private claims. Of the rest, sub and iat inform and
// are passed over; a token with any other claim is refused, whatever it says: what is not enforced is not accepted.
package cat

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"time"

	"segue/media"

	"github.com/fxamacker/cbor/v2"
)

const (
	// MaxTokenLen bounds the text of a token, in bytes.
	MaxTokenLen = 2048

	// Leeway is how far apart the clocks of issuer and verifier may be: exp and nbf are that much kinder (RFC 8725 names
	// none, RFC 7519 4.1.4 "no more than a few minutes"; machines with NTP differ by less than a second).
	Leeway = 10 * time.Second
)

// Algorithms of Key.Alg.
const (
	HS256 = "HS256"
	EdDSA = "EdDSA"
)

// Key verifies, and with its private half mints. Alg HS256: Secret. Alg EdDSA: Public, and Private to mint.
type Key struct {
	ID      string // COSE kid
	Alg     string
	Secret  []byte
	Public  ed25519.PublicKey
	Private ed25519.PrivateKey
}

// minSecret is the shortest secret that signs, in bytes.
const minSecret = 16

func (k Key) canSign() bool {
	return k.Alg == HS256 && len(k.Secret) >= minSecret || k.Alg == EdDSA && len(k.Private) == ed25519.PrivateKeySize
}

const (
	headerAlg, headerCrit, headerKid = 1, 2, 4 // RFC 9052 3.1
	algHS256, algEdDSA               = 5, -8
	tagMac0, tagSign1                = 17, 18
	tagCWT                           = 61
)

var enc = func() cbor.EncMode {
	m, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		panic("bug: " + err.Error())
	}
	return m
}()

var dec = func() cbor.DecMode {
	m, err := cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, MaxNestedLevels: 8, MaxArrayElements: 64, MaxMapPairs: 64}.DecMode()
	if err != nil {
		panic("bug: " + err.Error())
	}
	return m
}()

type message struct {
	_           struct{} `cbor:",toarray"`
	Protected   []byte
	Unprotected map[int64]cbor.RawMessage
	Payload     []byte
	Proof       []byte
}

// Mint signs claims. Only a key that cannot sign, or claims that no token can say, fail: without an end or a path, or
// with two limits on one part of the URL that compare alike.
func Mint(k Key, c Claims) (string, error) {
	if c.Expires.IsZero() || !c.limitsPath() {
		return "", fmt.Errorf("bug: token without an end or a path")
	}
	for i, m := range c.URI {
		same := func(o Match) bool { return o.Part == m.Part && o.How == m.How }
		if slices.ContainsFunc(c.URI[:i], same) || c.PathPrefix != "" && same(Match{Part: Path, How: Prefix}) {
			return "", fmt.Errorf("bug: token with two limits of one kind on its URL")
		}
	}
	payload, err := enc.Marshal(c.encode())
	if err != nil {
		return "", fmt.Errorf("bug: %w", err)
	}
	return sign(k, payload)
}

// sign wraps a payload in COSE, in the tag of CWT: other verifiers ask for it (RFC 8392 6).
func sign(k Key, payload []byte) (string, error) {
	if !k.canSign() {
		return "", fmt.Errorf("key %q of algorithm %q cannot sign", k.ID, k.Alg)
	}
	alg, tag := algHS256, uint64(tagMac0)
	if k.Alg == EdDSA {
		alg, tag = algEdDSA, tagSign1
	}
	protected, err := enc.Marshal(map[int64]any{headerAlg: alg, headerKid: []byte(k.ID)})
	if err != nil {
		return "", fmt.Errorf("bug: %w", err)
	}
	m := message{Protected: protected, Unprotected: map[int64]cbor.RawMessage{}, Payload: payload}
	signed := toSign(tag, protected, payload)
	if k.Alg == EdDSA {
		m.Proof = ed25519.Sign(k.Private, signed)
	} else {
		m.Proof = mac(k.Secret, signed)
	}
	b, err := enc.Marshal(cbor.Tag{Number: tagCWT, Content: cbor.Tag{Number: tag, Content: m}})
	if err != nil {
		return "", fmt.Errorf("bug: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(b), nil
}

// Verify checks a token's form, signature, issuer and times and returns its claims. The caller asks Claims.Check about
// the request and looks Claims.ID up among the revoked. Errors wrap media.ErrNoAccess (form, key, signature, issuer) or
// media.ErrDenied (good signature, but ended, not yet begun, or with a claim that is not enforced here).
func Verify(keys []Key, issuer string, now time.Time, token string) (Claims, error) {
	_, payload, err := open(keys, token)
	if err != nil {
		return Claims{}, err
	}
	c, err := parseClaims(payload)
	switch {
	case err != nil:
		return Claims{}, refuse(media.ErrDenied, err.Error())
	case c.Issuer != issuer:
		return Claims{}, refuse(media.ErrNoAccess, "has another issuer")
	case c.ended(now):
		return Claims{}, refuse(media.ErrDenied, "has expired")
	case !c.NotBefore.IsZero() && now.Add(Leeway).Before(c.NotBefore):
		return Claims{}, refuse(media.ErrDenied, "is not valid yet")
	}
	return c, nil
}

func refuse(sentinel error, why string) error { return fmt.Errorf("token %s: %w", why, sentinel) }

// open returns the payload of a token, and the key that signed it.
func open(keys []Key, token string) (Key, []byte, error) {
	bad := func(why string) (Key, []byte, error) { return Key{}, nil, refuse(media.ErrNoAccess, why) }
	if len(token) > MaxTokenLen {
		return bad("is too long")
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return bad("is no base64url")
	}
	var outer cbor.RawTag
	if err := dec.Unmarshal(b, &outer); err != nil {
		return bad("is no COSE message")
	}
	if outer.Number == tagCWT { // RFC 8392 6: optional
		content := outer.Content
		outer = cbor.RawTag{}
		if err := dec.Unmarshal(content, &outer); err != nil {
			return bad("is no COSE message")
		}
	}
	var m message
	if err := dec.Unmarshal(outer.Content, &m); err != nil {
		return bad("is no COSE message")
	}
	var protected map[int64]cbor.RawMessage
	if err := dec.Unmarshal(m.Protected, &protected); err != nil {
		return bad("has a broken header")
	}
	var alg int64
	var kid []byte
	if dec.Unmarshal(protected[headerAlg], &alg) != nil {
		return bad("names no algorithm")
	}
	for _, h := range []map[int64]cbor.RawMessage{protected, m.Unprotected} {
		if raw, ok := h[headerKid]; ok && kid == nil && dec.Unmarshal(raw, &kid) != nil {
			return bad("has a broken header")
		}
		if _, ok := h[headerCrit]; ok { // RFC 9052 3.1: whoever does not know a critical header stops here
			return bad("has a critical header, which is not supported")
		}
	}
	signed := toSign(outer.Number, m.Protected, m.Payload)
	i := slices.IndexFunc(keys, func(k Key) bool {
		if kid != nil && k.ID != string(kid) {
			return false
		}
		// The key decides the algorithm, never the token alone.
		switch {
		case k.Alg == HS256 && alg == algHS256 && outer.Number == tagMac0:
			return len(k.Secret) >= minSecret && hmac.Equal(mac(k.Secret, signed), m.Proof)
		case k.Alg == EdDSA && alg == algEdDSA && outer.Number == tagSign1:
			return len(k.Public) == ed25519.PublicKeySize && ed25519.Verify(k.Public, signed, m.Proof)
		}
		return false
	})
	if i < 0 {
		return bad("is signed by no key known here")
	}
	return keys[i], m.Payload, nil
}

// toSign is the MAC_structure or Sig_structure of RFC 9052 6.3 and 4.4.
func toSign(tag uint64, protected, payload []byte) []byte {
	context := "MAC0"
	if tag == tagSign1 {
		context = "Signature1"
	}
	b, err := enc.Marshal([]any{context, protected, []byte{}, payload})
	if err != nil {
		panic("bug: " + err.Error())
	}
	return b
}

func mac(secret, b []byte) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write(b)
	return h.Sum(nil)
}
