// Package cat mints and verifies Common Access Tokens (CTA-5007): a CWT (RFC 8392) in COSE (RFC 9052), as base64url
// text without padding. HS256 (COSE_Mac0) and EdDSA (COSE_Sign1). Pure functions: keys and time are arguments.
//
// Understood: iss exp nbf cti catu (path, prefix match only) and three private claims. A token that holds any other
// claim that restricts its use is refused, as CTA-5007 asks of a verifier that does not implement a claim.
package cat

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"

	"segue/media"

	"github.com/fxamacker/cbor/v2"
)

// MaxTokenLen bounds the text of a token, in bytes.
const MaxTokenLen = 2048

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

// Claims is what a token grants.
type Claims struct {
	Issuer     string
	ID         string    // cti: names the token, for revocation
	NotBefore  time.Time // whole seconds; zero: no limit
	Expires    time.Time // whole seconds; required
	PathPrefix string    // catu: the path, without the token, begins so; required
	PlayID     string    // private: the playback it was made for
	Plan       string    // private
	Renditions []string  // private: names allowed below PathPrefix; empty: all
}

// Claim keys: RFC 8392 4, CTA-5007 and, below -65536, ours (RFC 8392 9.1: private use).
const (
	claimIss, claimExp, claimNbf, claimCti = 1, 4, 5, 7
	claimCatv, claimCatu                   = 310, 312
	claimPlay, claimPlan, claimRenditions  = -70001, -70002, -70003
	catuPath, matchPrefix                  = 3, 1

	headerAlg, headerKid = 1, 4
	algHS256, algEdDSA   = 5, -8
	tagMac0, tagSign1    = 17, 18
	tagCWT               = 61
)

// harmless are claims that inform and do not restrict: a verifier may pass over them.
var harmless = map[int64]bool{2: true /* sub */, 6: true /* iat */, claimCatv: true, 323: true /* catr: renewal */}

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

// Mint signs claims. Only a key that cannot sign, or claims without an end or a path, fail.
func Mint(k Key, c Claims) (string, error) {
	if c.Expires.IsZero() || c.PathPrefix == "" {
		return "", fmt.Errorf("bug: token without an end or a path")
	}
	claims := map[int64]any{
		claimIss: c.Issuer, claimExp: c.Expires.Unix(), claimCti: []byte(c.ID), claimCatv: 1,
		claimCatu: map[int64]any{catuPath: map[int64]any{matchPrefix: c.PathPrefix}},
	}
	if !c.NotBefore.IsZero() {
		claims[claimNbf] = c.NotBefore.Unix()
	}
	if c.PlayID != "" {
		claims[claimPlay] = c.PlayID
	}
	if c.Plan != "" {
		claims[claimPlan] = c.Plan
	}
	if len(c.Renditions) > 0 {
		claims[claimRenditions] = c.Renditions
	}
	payload, err := enc.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("bug: %w", err)
	}
	alg, tag := algHS256, uint64(tagMac0)
	if k.Alg == EdDSA {
		alg, tag = algEdDSA, tagSign1
	}
	protected, err := enc.Marshal(map[int64]any{headerAlg: alg, headerKid: []byte(k.ID)})
	if err != nil {
		return "", fmt.Errorf("bug: %w", err)
	}
	signed := toSign(tag, protected, payload)
	m := message{Protected: protected, Unprotected: map[int64]cbor.RawMessage{}, Payload: payload}
	switch {
	case k.Alg == HS256 && len(k.Secret) >= 16:
		m.Proof = mac(k.Secret, signed)
	case k.Alg == EdDSA && len(k.Private) == ed25519.PrivateKeySize:
		m.Proof = ed25519.Sign(k.Private, signed)
	default:
		return "", fmt.Errorf("key %q of algorithm %q cannot sign", k.ID, k.Alg)
	}
	b, err := enc.Marshal(cbor.Tag{Number: tag, Content: m})
	if err != nil {
		return "", fmt.Errorf("bug: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(b), nil
}

// Verify checks a token's form, signature and times and returns its claims. The caller matches Claims.Allows against
// the request and looks Claims.ID up among the revoked. Errors wrap media.ErrNoAccess (form, key, signature) or
// media.ErrDenied (good signature, but ended, not yet begun, or with a claim that is not understood).
func Verify(keys []Key, issuer string, now time.Time, token string) (Claims, error) {
	refuse := func(sentinel error, why string) (Claims, error) {
		return Claims{}, fmt.Errorf("token %s: %w", why, sentinel)
	}
	if len(token) > MaxTokenLen {
		return refuse(media.ErrNoAccess, "is too long")
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return refuse(media.ErrNoAccess, "is no base64url")
	}
	var outer cbor.RawTag
	if err := dec.Unmarshal(b, &outer); err != nil {
		return refuse(media.ErrNoAccess, "is no COSE message")
	}
	if outer.Number == tagCWT { // RFC 8392 6: optional
		content := outer.Content
		outer = cbor.RawTag{}
		if err := dec.Unmarshal(content, &outer); err != nil {
			return refuse(media.ErrNoAccess, "is no COSE message")
		}
	}
	var m message
	if err := dec.Unmarshal(outer.Content, &m); err != nil {
		return refuse(media.ErrNoAccess, "is no COSE message")
	}
	var protected map[int64]cbor.RawMessage
	if err := dec.Unmarshal(m.Protected, &protected); err != nil {
		return refuse(media.ErrNoAccess, "has a broken header")
	}
	var alg int64
	var kid []byte
	if dec.Unmarshal(protected[headerAlg], &alg) != nil {
		return refuse(media.ErrNoAccess, "names no algorithm")
	}
	for _, h := range []map[int64]cbor.RawMessage{protected, m.Unprotected} {
		if raw, ok := h[headerKid]; ok && kid == nil && dec.Unmarshal(raw, &kid) != nil {
			return refuse(media.ErrNoAccess, "has a broken header")
		}
	}
	signed := toSign(outer.Number, m.Protected, m.Payload)
	good := slices.ContainsFunc(keys, func(k Key) bool {
		if kid != nil && k.ID != string(kid) {
			return false
		}
		// The key decides the algorithm, never the token alone.
		switch {
		case k.Alg == HS256 && alg == algHS256 && outer.Number == tagMac0:
			return hmac.Equal(mac(k.Secret, signed), m.Proof)
		case k.Alg == EdDSA && alg == algEdDSA && outer.Number == tagSign1:
			return len(k.Public) == ed25519.PublicKeySize && ed25519.Verify(k.Public, signed, m.Proof)
		}
		return false
	})
	if !good {
		return refuse(media.ErrNoAccess, "is signed by no key known here")
	}
	c, err := parseClaims(m.Payload)
	switch {
	case err != nil:
		return refuse(media.ErrDenied, err.Error())
	case c.Issuer != issuer:
		return refuse(media.ErrNoAccess, "has another issuer")
	case !now.Before(c.Expires):
		return refuse(media.ErrDenied, "has expired")
	case !c.NotBefore.IsZero() && now.Before(c.NotBefore):
		return refuse(media.ErrDenied, "is not valid yet")
	}
	return c, nil
}

// Allows reports whether the claims grant an object: its path begins with PathPrefix, and a rendition's file or
// playlist is of an allowed rendition.
func (c Claims) Allows(key media.Key) bool {
	path := "/" + string(key)
	if !strings.HasPrefix(path, c.PathPrefix) {
		return false
	}
	if len(c.Renditions) == 0 {
		return true
	}
	name := path[strings.LastIndexByte(path, '/')+1:]
	switch name {
	case media.MasterPlaylist, media.Manifest, media.LimitedMasterPlaylist, media.LimitedManifest, media.TrackFile:
		return true
	}
	base, _, _ := strings.Cut(name, ".")
	return slices.Contains(c.Renditions, base)
}

func parseClaims(payload []byte) (Claims, error) {
	var c Claims
	var raw map[int64]cbor.RawMessage
	if err := dec.Unmarshal(payload, &raw); err != nil {
		return c, fmt.Errorf("has broken claims")
	}
	for k, v := range raw {
		var err error
		switch k {
		case claimIss:
			err = dec.Unmarshal(v, &c.Issuer)
		case claimExp:
			c.Expires, err = seconds(v)
		case claimNbf:
			c.NotBefore, err = seconds(v)
		case claimCti:
			var id []byte
			err = dec.Unmarshal(v, &id)
			c.ID = string(id)
		case claimCatu:
			var catu map[int64]map[int64]string
			if err = dec.Unmarshal(v, &catu); err == nil {
				c.PathPrefix = catu[catuPath][matchPrefix]
				if len(catu) != 1 || len(catu[catuPath]) != 1 || c.PathPrefix == "" {
					err = fmt.Errorf("has a catu other than a path prefix")
				}
			}
		case claimPlay:
			err = dec.Unmarshal(v, &c.PlayID)
		case claimPlan:
			err = dec.Unmarshal(v, &c.Plan)
		case claimRenditions:
			err = dec.Unmarshal(v, &c.Renditions)
		default:
			if !harmless[k] {
				err = fmt.Errorf("holds the claim %d, which is not supported", k)
			}
		}
		if err != nil {
			return c, err
		}
	}
	if c.Expires.IsZero() || c.PathPrefix == "" {
		return c, fmt.Errorf("has no end or no path")
	}
	return c, nil
}

// seconds reads a NumericDate of RFC 8392 2: an integer or a float.
func seconds(raw cbor.RawMessage) (time.Time, error) {
	var n int64
	if err := dec.Unmarshal(raw, &n); err == nil {
		return time.Unix(n, 0).UTC(), nil
	}
	var f float64
	if err := dec.Unmarshal(raw, &f); err != nil {
		return time.Time{}, fmt.Errorf("has a broken date")
	}
	return time.Unix(int64(f), 0).UTC(), nil
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
