package cat_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"segue/media"
	"segue/media/cat"

	"github.com/fxamacker/cbor/v2"
)

// foreign mints a token as another issuer might: any claims, signed by the HS256 key.
func foreign(t testing.TB, claims map[int64]any) string {
	t.Helper()
	marshal := func(v any) []byte {
		b, err := cbor.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	protected, payload := marshal(map[int64]any{1: 5}), marshal(claims)
	h := hmac.New(sha256.New, keys[0].Secret)
	h.Write(marshal([]any{"MAC0", protected, []byte{}, payload}))
	return base64.RawURLEncoding.EncodeToString(marshal(cbor.Tag{Number: 17, Content: []any{protected, map[int64]any{4: []byte("h")}, payload, h.Sum(nil)}}))
}

// with is a good token's claims and some more; nil takes one away.
func with(more map[int64]any) map[int64]any {
	m := map[int64]any{1: "segue", 4: now.Add(time.Hour).Unix(), 312: map[int]any{3: map[int]any{1: "/media/T/"}}}
	for k, v := range more {
		if m[k] = v; v == nil {
			delete(m, k)
		}
	}
	return m
}

// TestUnenforcedClaims: whatever this package does not enforce, it refuses, and says why.
func TestUnenforcedClaims(t *testing.T) {
	f := func(want string, more map[int64]any) {
		t.Helper()
		_, err := cat.Verify(keys, "segue", now, foreign(t, with(more)))
		switch {
		case want == "" && err != nil:
			t.Errorf("%v: %v", more, err)
		case want != "" && (!errors.Is(err, media.ErrDenied) || !strings.Contains(err.Error(), want)):
			t.Errorf("%v: %v, want %q", more, err, want)
		}
	}
	type m = map[int]any
	f("", nil)
	f("", map[int64]any{2: "somebody", 6: now.Unix()}) // sub, iat
	f("", map[int64]any{310: 1})
	f("", map[int64]any{308: 0})
	f("version", map[int64]any{310: 2})
	f("version", map[int64]any{310: "1"})
	f("once only", map[int64]any{308: 1})
	f("once only", map[int64]any{308: 2})
	for claim, name := range map[int64]string{3: "aud", 8: "cnf", 282: "geohash", 309: "catpor", 314: "catalpn", 315: "cath", 317: "catgeocoord", 318: "catgeoalt",
		319: "cattpk", 320: "catifdata", 321: "catdpop", 322: "catif", 9999: "", -70004: ""} {
		f(name+", which is not supported", map[int64]any{claim: "x"})
	}
	f("no end or no path", map[int64]any{4: nil})
	f("no end or no path", map[int64]any{312: nil})
	f("no end or no path", map[int64]any{312: m{1: m{0: "example.com"}}})
	f("date", map[int64]any{4: "tomorrow"})
	f("date", map[int64]any{4: uint64(1) << 63})
	f("date", map[int64]any{5: int64(-1) << 62})
	f("", map[int64]any{4: float64(now.Unix()) + 60.5})
	f("expired", map[int64]any{4: now.Add(-cat.Leeway).Unix()})
	f("", map[int64]any{4: now.Add(-cat.Leeway + time.Second).Unix()})
	f("not valid yet", map[int64]any{5: now.Add(cat.Leeway + time.Second).Unix()})
	f("", map[int64]any{5: now.Add(cat.Leeway).Unix()})
	// catu
	f("not supported", map[int64]any{312: m{3: m{1: "/m"}, 4: m{0: "a=b"}}})
	f("not supported", map[int64]any{312: m{3: m{4: []string{".*"}}}})
	f("not supported", map[int64]any{312: m{3: m{1: "/m", 9: "x"}}})
	f("not supported", map[int64]any{312: m{3: m{1: "/m"}, 9: m{0: "x"}}})
	f("not supported", map[int64]any{312: m{3: m{1: "/m"}, 1: m{}}})
	f("broken catu", map[int64]any{312: m{3: m{1: ""}}})
	f("broken catu", map[int64]any{312: m{3: m{1: 7}}})
	f("broken catu", map[int64]any{312: m{3: m{-1: []byte("short")}}})
	f("broken catu", map[int64]any{312: m{3: m{-2: strings.Repeat("0", 128)}}}) // SHA-512 is not SHA-512/256
	f("slash", map[int64]any{312: m{3: m{1: "media"}}})
	f("broken catu", map[int64]any{312: "/media"})
	// lists
	f("list", map[int64]any{313: []string{}})
	f("list", map[int64]any{316: []string{}})
	f("list", map[int64]any{316: "SE"})
	f("list", map[int64]any{-70003: []string{}})
	// catnip
	f("autonomous system", map[int64]any{311: []any{64500}})
	f("autonomous system", map[int64]any{311: []any{}})
	f("", map[int64]any{311: []any{64500, cbor.Tag{Number: 52, Content: []byte{10, 0, 0, 1}}}})
	for _, bad := range []any{"10.0.0.0/8", cbor.Tag{Number: 52, Content: []byte{1, 2, 3}}, cbor.Tag{Number: 52, Content: []any{33, []byte{10}}}, cbor.Tag{Number: 53, Content: []byte{10, 0, 0, 1}},
		cbor.Tag{Number: 52, Content: []any{8, []byte{1, 2, 3, 4, 5}}}, cbor.Tag{Number: 54, Content: []byte{10, 0, 0, 1}}} {
		f("broken catnip", map[int64]any{311: []any{bad}})
	}
	// catr
	f("", map[int64]any{323: m{0: 2, 1: 60, 2: 0}})
	f("", map[int64]any{323: m{0: 1, 1: 60, 3: "c", 5: "Secure"}})
	for _, bad := range []any{m{}, m{0: 0}, m{1: 60}, m{0: 4, 1: 60}, m{0: -1, 1: 60}, m{0: 0, 1: -60}, m{0: 0, 1: 60, 8: 1}, m{0: 2, 1: 60, 4: "a b"}, m{0: 2, 1: 60, 4: "Content-Length"},
		m{0: 2, 1: 60, 6: []string{"a\r\nb"}}, m{0: 3, 1: 60, 7: 200}, "x"} {
		f("broken catr", map[int64]any{323: bad})
	}
}

func TestCriticalHeader(t *testing.T) {
	protected, _ := cbor.Marshal(map[int64]any{1: 5, 2: []int{99}, 99: 1})
	b, _ := cbor.Marshal(cbor.Tag{Number: 17, Content: []any{protected, map[int64]any{}, []byte{}, []byte{}}})
	if _, err := cat.Verify(keys, "segue", now, base64.RawURLEncoding.EncodeToString(b)); !errors.Is(err, media.ErrNoAccess) || !strings.Contains(err.Error(), "critical") {
		t.Error(err)
	}
}

// TestRoundTrip: every claim that can be minted comes back.
func TestRoundTrip(t *testing.T) {
	full := cat.Claims{Issuer: "segue", ID: "c", NotBefore: now, Expires: now.Add(time.Hour), PathPrefix: "/media/T/",
		URI: []cat.Match{{Part: cat.Scheme, How: cat.Exact, Value: "https"}, {Part: cat.Host, How: cat.Suffix, Value: ".example.com"},
			{Part: cat.Path, How: cat.SHA512256, Value: strings.Repeat("s", 32)}, {Part: cat.Path, How: cat.Contains, Value: "x"}, {Part: cat.Extension, How: cat.Exact, Value: ""}},
		Methods: []string{"GET", "HEAD"}, Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("0.0.0.0/0")},
		Countries: []string{"SE", "US-CA"}, Renewal: cat.Renewal{Mode: cat.RenewCookie, Extend: time.Hour, Window: 30 * time.Second, Name: "tok", Params: "; Secure; HttpOnly", Code: 303},
		PlayID: "p", Plan: "free", Renditions: []string{"aac_96"}}
	token, err := cat.Mint(keys[1], full)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := cat.Verify(keys, "segue", now, token); err != nil || !reflect.DeepEqual(got, full) {
		t.Errorf("%v\n%+v\n%+v", err, got, full)
	}
	twice := full
	twice.URI = append(twice.URI, cat.Match{Part: cat.Path, How: cat.Prefix, Value: "/other"})
	if _, err := cat.Mint(keys[1], twice); err == nil {
		t.Error("two prefixes: one would be lost")
	}
	if _, err := cat.Mint(cat.Key{ID: "e", Alg: cat.EdDSA, Public: keys[1].Public}, full); err == nil {
		t.Error("a public key signs nothing")
	}
}

func TestCheck(t *testing.T) {
	seen := map[string]string{"10.1.2.3": "SE", "2001:db8::1": "US-CA"}
	country := func(a netip.Addr) string { return seen[a.Unmap().String()] }
	base := cat.Request{Method: "GET", Scheme: "https", Host: "Edge.example.com:8443", Key: "media/T/v/aac_96.mp4", Client: netip.MustParseAddr("::ffff:10.1.2.3"), Country: country}
	f := func(want string, c cat.Claims, change func(*cat.Request)) {
		t.Helper()
		r := base
		if change != nil {
			change(&r)
		}
		c.Expires = now.Add(time.Minute)
		err := c.Check(now, &r)
		if got := err; want == "" && got != nil || want != "" && (!errors.Is(got, media.ErrDenied) || !strings.Contains(got.Error(), want)) {
			t.Errorf("%+v: %v, want %q", c, err, want)
		}
	}
	path := func(m ...cat.Match) cat.Claims { return cat.Claims{URI: m} }
	f("", cat.Claims{PathPrefix: "/media/T/v/"}, nil)
	f("", cat.Claims{PathPrefix: "/"}, nil)
	f("object", cat.Claims{PathPrefix: "/media/T/w/"}, nil)
	f("object", cat.Claims{PathPrefix: "media/T/v/"}, nil)
	f("object", cat.Claims{PathPrefix: "/media/", Renditions: []string{"aac_256"}}, nil)
	f("", path(cat.Match{Part: cat.Path, How: cat.Exact, Value: "/media/T/v/aac_96.mp4"}), nil)
	f("object", path(cat.Match{Part: cat.Path, How: cat.Exact, Value: "/media/T/v/aac_96"}), nil)
	f("", path(cat.Match{Part: cat.Path, How: cat.Suffix, Value: ".mp4"}), nil)
	f("", path(cat.Match{Part: cat.Path, How: cat.Contains, Value: "/v/"}), nil)
	f("object", path(cat.Match{Part: cat.Path, How: cat.Contains, Value: "/w/"}), nil)
	sum := sha256.Sum256([]byte("/media/T/v/aac_96.mp4"))
	f("", path(cat.Match{Part: cat.Path, How: cat.SHA256, Value: string(sum[:])}), nil)
	f("object", path(cat.Match{Part: cat.Path, How: cat.SHA512256, Value: string(sum[:])}), nil)
	f("", path(cat.Match{Part: cat.ParentPath, Value: "/media/T/v"}), nil)
	f("", path(cat.Match{Part: cat.Filename, Value: "aac_96.mp4"}), nil)
	f("", path(cat.Match{Part: cat.Stem, Value: "aac_96"}), nil)
	f("", path(cat.Match{Part: cat.Extension, Value: ".mp4"}), nil)
	f("object", path(cat.Match{Part: cat.Extension, Value: ".m3u8"}), nil)
	f("", path(cat.Match{Part: cat.Host, Value: "edge.example.com"}, cat.Match{Part: cat.Port, Value: "8443"}, cat.Match{Part: cat.Scheme, Value: "https"}), nil)
	f("object", path(cat.Match{Part: cat.Host, Value: "edge.example.com"}, cat.Match{Part: cat.Scheme, Value: "http"}), nil)
	f("", path(cat.Match{Part: cat.Port, Value: "443"}), func(r *cat.Request) { r.Host = "h" })
	f("", path(cat.Match{Part: cat.Host, Value: "::1"}, cat.Match{Part: cat.Port, Value: "80"}), func(r *cat.Request) { r.Host, r.Scheme = "[::1]", "http" })
	f("", cat.Claims{Methods: []string{"GET"}}, nil)
	f("method", cat.Claims{Methods: []string{"GET"}}, func(r *cat.Request) { r.Method = "HEAD" })
	ten, v6 := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, []netip.Prefix{netip.MustParsePrefix("2001:db8::/32")}
	f("", cat.Claims{Networks: ten}, nil)
	f("address", cat.Claims{Networks: v6}, nil)
	f("", cat.Claims{Networks: v6}, func(r *cat.Request) { r.Client = netip.MustParseAddr("2001:db8::1%eth0") })
	f("address", cat.Claims{Networks: ten}, func(r *cat.Request) { r.Client = netip.Addr{} })
	f("", cat.Claims{Countries: []string{"NO", "se"}}, nil)
	f("country", cat.Claims{Countries: []string{"NO"}}, nil)
	f("country", cat.Claims{Countries: []string{"S"}}, nil)
	f("country", cat.Claims{Countries: []string{"SE-AB"}}, nil) // the edge knows "SE" only
	f("", cat.Claims{Countries: []string{"US"}}, func(r *cat.Request) { r.Client = netip.MustParseAddr("2001:db8::1") })
	f("", cat.Claims{Countries: []string{"US-CA"}}, func(r *cat.Request) { r.Client = netip.MustParseAddr("2001:db8::1") })
	f("none is known", cat.Claims{Countries: []string{"SE"}}, func(r *cat.Request) { r.Country = nil })
	f("none is known", cat.Claims{Countries: []string{"SE"}}, func(r *cat.Request) { r.Client = netip.MustParseAddr("192.0.2.1") })
	f("none is known", cat.Claims{Countries: []string{"SE"}}, func(r *cat.Request) { r.Client = netip.Addr{} })

	c := cat.Claims{Expires: now, PathPrefix: "/media/T/v/", Methods: []string{"GET"}, Networks: ten, Countries: []string{"SE"}, Renditions: []string{"aac_96"}}
	if n := testing.AllocsPerRun(100, func() {
		if c.PathPrefix == "" || c.Check(now, &base) != nil {
			t.Error("refused")
		}
	}); n > 1 { // what String in country allocates
		t.Errorf("%v allocations", n)
	}
	if err := c.Check(now.Add(cat.Leeway), &base); !errors.Is(err, media.ErrDenied) {
		t.Error("ended", err)
	}
}

func TestRenew(t *testing.T) {
	c := grant
	c.Renewal = cat.Renewal{Mode: cat.RenewAutomatic, Extend: time.Hour, Window: 10 * time.Minute}
	mint := func(k cat.Key, change func(*cat.Claims)) string {
		c := c
		if change != nil {
			change(&c)
		}
		token, err := cat.Mint(k, c)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	late := grant.Expires.Add(-5 * time.Minute)
	token := mint(keys[0], nil)
	if r, ok, err := cat.Renew(keys, "segue", now, token); ok || err != nil {
		t.Error("too early", r, err)
	}
	if r, ok, err := cat.Renew(keys, "segue", grant.Expires, token); ok || err != nil {
		t.Error("an ended token is not renewed, though the leeway still takes it", r, err)
	}
	for _, k := range keys {
		r, ok, err := cat.Renew(keys, "segue", late, mint(k, nil))
		if !ok || err != nil || r.Header != "CTA-Common-Access-Token" || r.Value != r.Token || r.Code != 0 {
			t.Fatal(r, ok, err)
		}
		got, err := cat.Verify(keys, "segue", late, r.Token)
		want := c
		want.Expires = late.Add(time.Hour)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v\n%+v\n%+v", err, got, want)
		}
	}
	public := []cat.Key{{ID: "e", Alg: cat.EdDSA, Public: keys[1].Public}}
	if r, ok, err := cat.Renew(public, "segue", late, mint(keys[1], nil)); ok || err != nil {
		t.Error("an edge that cannot sign", r, err)
	}
	if _, ok, err := cat.Renew(public, "segue", late, token); ok || !errors.Is(err, media.ErrNoAccess) {
		t.Error("a token of a key that is not known", err)
	}
	r, ok, err := cat.Renew(keys, "segue", late, mint(keys[0], func(c *cat.Claims) { c.Renewal.Mode, c.Renewal.Params = cat.RenewCookie, "; Secure" }))
	if !ok || err != nil || r.Header != "Set-Cookie" || r.Value != "cta-common-access-token="+r.Token+"; Secure" {
		t.Error(r, err)
	}
	r, ok, err = cat.Renew(keys, "segue", late, mint(keys[0], func(c *cat.Claims) { c.Renewal.Mode, c.Renewal.Name = cat.RenewHeader, "X-Token" }))
	if !ok || err != nil || r.Header != "X-Token" || r.Value != r.Token {
		t.Error(r, err)
	}
	r, ok, err = cat.Renew(keys, "segue", late, mint(keys[0], func(c *cat.Claims) { c.Renewal.Mode, c.Renewal.Code = cat.RenewRedirect, 307 }))
	if !ok || err != nil || r.Header != "" || r.Code != 307 {
		t.Error(r, err)
	}
	// What this package passes over stays in the token: the next verifier may want it.
	kept, _, err := cat.Renew(keys, "segue", late, foreign(t, with(map[int64]any{2: "somebody", 323: map[int]any{0: 0, 1: 60, 2: 3600}})))
	if b, derr := base64.RawURLEncoding.DecodeString(kept.Token); err != nil || derr != nil || !bytes.Contains(b, []byte("somebody")) {
		t.Error(err, derr)
	}
}
