package cat

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"segue/media"

	"github.com/fxamacker/cbor/v2"
)

// RenewalMode says how a renewed token goes to the client.
type RenewalMode int8

// Modes of catr, with the numbers of CTA-5007. Automatic means "the way it came": a token that came in the path goes
// back in a header, because no player would see a cookie's token and a path is not the server's to change.
const (
	RenewAutomatic RenewalMode = iota
	RenewCookie
	RenewHeader
	RenewRedirect
)

// RenewalName is the header, and in lower case the cookie, of a renewed token that names no other.
const RenewalName = "CTA-Common-Access-Token"

// renewalWindow is the deadline of a catr that has none.
const renewalWindow = time.Minute

// Renewal is catr: whoever shows the token when it is about to end gets one that ends later.
type Renewal struct {
	Mode   RenewalMode
	Extend time.Duration // expadd: a renewed token ends so much after its renewal; whole seconds; zero: no renewal
	Window time.Duration // deadline: so long before the end a token is renewed; whole seconds; zero: a minute
	Name   string        // of the header or cookie; empty: RenewalName
	Params string        // after the token, as "; a; b"; empty: none
	Code   int           // status of a redirect; zero: 302
}

// Renewed is a token and how to hand it out.
type Renewed struct {
	Token         string
	Header, Value string // a response header to set; empty for a redirect
	Code          int    // not zero: answer so, with a Location: the same URL with Token in the place of the old one
}

const (
	catrType, catrExpadd, catrDeadline, catrCookieName, catrHeaderName = 0, 1, 2, 3, 4
	catrCookieParams, catrHeaderParams, catrCode                       = 5, 6, 7
)

// RenewalDue reports whether a token with these claims should be renewed now.
func (c *Claims) RenewalDue(now time.Time) bool {
	window := c.Renewal.Window
	if window == 0 {
		window = renewalWindow
	}
	return c.Renewal.Extend > 0 && now.Before(c.Expires) && !now.Before(c.Expires.Add(-window))
}

// Renew verifies a token and, when renewal is due, signs it anew with the key that signed it. Everything but exp and
// iat stays, the claims this package passes over as well, and cti: who revokes a grant revokes its renewals. ok is
// false, without an error, when nothing is due or the key can only verify, as EdDSA keys of edges do: then the token
// ends when it ends. Errors are those of Verify.
func Renew(keys []Key, issuer string, now time.Time, token string) (r Renewed, ok bool, err error) {
	c, err := Verify(keys, issuer, now, token)
	if err != nil || !c.RenewalDue(now) {
		return r, false, err
	}
	key, payload, err := open(keys, token)
	if err != nil || !key.canSign() {
		return r, false, err
	}
	var claims map[int64]cbor.RawMessage
	if err := dec.Unmarshal(payload, &claims); err != nil {
		return r, false, refuse(media.ErrDenied, "has broken claims")
	}
	for claim, at := range map[int64]time.Time{claimExp: now.Add(c.Renewal.Extend), claimIat: now} {
		if claims[claim], err = enc.Marshal(at.Unix()); err != nil {
			return r, false, fmt.Errorf("bug: %w", err)
		}
	}
	if payload, err = enc.Marshal(claims); err != nil {
		return r, false, fmt.Errorf("bug: %w", err)
	}
	if r.Token, err = sign(key, payload); err != nil || len(r.Token) > MaxTokenLen {
		return Renewed{}, false, err
	}
	name := c.Renewal.Name
	switch c.Renewal.Mode {
	case RenewRedirect:
		if r.Code = c.Renewal.Code; r.Code == 0 {
			r.Code = 302
		}
	case RenewCookie:
		if name == "" {
			name = strings.ToLower(RenewalName)
		}
		r.Header, r.Value = "Set-Cookie", name+"="+r.Token+c.Renewal.Params
	default:
		if name == "" {
			name = RenewalName
		}
		r.Header, r.Value = name, r.Token+c.Renewal.Params
	}
	return r, true, nil
}

func (r Renewal) encode() map[int64]any {
	m := map[int64]any{catrType: int(r.Mode), catrExpadd: int64(r.Extend / time.Second)}
	if r.Window > 0 {
		m[catrDeadline] = int64(r.Window / time.Second)
	}
	name, params := int64(catrHeaderName), int64(catrHeaderParams)
	if r.Mode == RenewCookie {
		name, params = catrCookieName, catrCookieParams
	}
	if r.Name != "" {
		m[name] = r.Name
	}
	if r.Params != "" {
		m[params] = strings.Split(strings.TrimPrefix(r.Params, "; "), "; ")
	}
	if r.Code != 0 {
		m[catrCode] = r.Code
	}
	return m
}

func parseRenewal(raw cbor.RawMessage) (r Renewal, err error) {
	broken := errors.New("has a broken catr")
	var m map[int64]cbor.RawMessage
	if dec.Unmarshal(raw, &m) != nil {
		return r, broken
	}
	var names, params [2]string // of the cookie, of the header
	for k, v := range m {
		bad := false
		switch k {
		case catrType:
			bad = dec.Unmarshal(v, &r.Mode) != nil || r.Mode < RenewAutomatic || r.Mode > RenewRedirect
		case catrExpadd:
			r.Extend, bad = span(v)
		case catrDeadline:
			r.Window, bad = span(v)
		case catrCookieName, catrHeaderName:
			bad = dec.Unmarshal(v, &names[k-catrCookieName]) != nil || !isName(names[k-catrCookieName])
		case catrCookieParams, catrHeaderParams:
			params[k-catrCookieParams], bad = parseParams(v)
		case catrCode:
			bad = dec.Unmarshal(v, &r.Code) != nil || r.Code != 301 && r.Code != 302 && r.Code != 303 && r.Code != 307 && r.Code != 308
		default:
			bad = true
		}
		if bad {
			return r, broken
		}
	}
	if _, there := m[catrType]; !there || r.Extend == 0 {
		return r, broken
	}
	switch r.Mode {
	case RenewCookie:
		r.Name, r.Params = names[0], params[0]
	case RenewAutomatic, RenewHeader:
		r.Name, r.Params = names[1], params[1]
	}
	return r, nil
}

// span reads a number of seconds, a year at most; bad says that it is none. It is a second at least: a window of none
// would be one that nobody can hit.
func span(raw cbor.RawMessage) (d time.Duration, bad bool) {
	f, err := number(raw)
	if err != nil || f < 0 || f > 366*24*3600 {
		return 0, true
	}
	return max(time.Second, time.Duration(f)*time.Second), false
}

func parseParams(raw cbor.RawMessage) (s string, bad bool) {
	var list []string
	if dec.Unmarshal(raw, &list) != nil {
		list = []string{""}
		if dec.Unmarshal(raw, &list[0]) != nil {
			return "", true
		}
	}
	for _, p := range list {
		for i := range len(p) {
			if p[i] < ' ' || p[i] > '~' { // RFC 9110 5.5: nothing that could begin a line of its own
				return "", true
			}
		}
		s += "; " + p
	}
	return s, false
}

// isName: a token of RFC 9110 5.6.2 that no framing and no cache rule hangs on.
func isName(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') && c != '-' && c != '_' {
			return false
		}
	}
	switch strings.ToLower(s) {
	case "", "connection", "content-length", "content-range", "content-type", "content-encoding", "transfer-encoding", "trailer", "upgrade",
		"cache-control", "location", "etag", "age", "date", "vary", "set-cookie", "host":
		return false
	}
	return true
}
