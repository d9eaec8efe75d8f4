package cat_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/netip"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"segue/internal/testenv"
	"segue/media"
	"segue/media/cat"
)

// TestInterop: tokens made here are judged there, and tokens made there are judged here, by the npm package
// @eyevinn/cat (its version is in web/e2e/package.json). HS256 only: the package has no EdDSA.
func TestInterop(t *testing.T) {
	node := testenv.Tool(t, "node")
	type m = map[string]any
	type check struct {
		Token string `json:"token"`
		URL   string `json:"url"`
		IP    string `json:"ip,omitempty"`
	}
	key := keys[0]
	real := time.Now().UTC().Truncate(time.Second) // the package has no clock to set
	ours := func(change func(*cat.Claims)) string {
		c := cat.Claims{Issuer: "segue", ID: "grant", NotBefore: real.Add(-time.Minute), Expires: real.Add(time.Hour), PathPrefix: "/media/T/v/"}
		if change != nil {
			change(&c)
		}
		token, err := cat.Mint(key, c)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	good := ours(nil)
	const inside, outside = "https://edge.example.com/media/T/v/aac_96.mp4", "https://edge.example.com/media/T/w/aac_96.mp4"
	tampered := []byte(good)
	tampered[len(good)/2] ^= 1
	there := []struct { // what of ours the package should say
		check
		want string // the class of its error
	}{
		{check{good, inside, ""}, ""},
		{check{good, outside, ""}, "UriNotAllowedError"},
		{check{string(tampered), inside, ""}, "KeyNotFoundError"},
		{check{ours(func(c *cat.Claims) { c.Expires = real.Add(-time.Minute) }), inside, ""}, "TokenExpiredError"},
		{check{ours(func(c *cat.Claims) { c.NotBefore = real.Add(time.Minute) }), inside, ""}, "TokenNotActiveError"},
		{check{ours(func(c *cat.Claims) { c.Issuer = "another" }), inside, ""}, "InvalidIssuerError"},
		// Whole addresses only: the package does not know that RFC 9164 3.1.2 leaves out a prefix's zeros.
		{check{ours(func(c *cat.Claims) { c.Networks = []netip.Prefix{netip.MustParsePrefix("10.1.2.3/32")} }), inside, "10.1.2.3"}, ""},
		{check{ours(func(c *cat.Claims) { c.Networks = []netip.Prefix{netip.MustParsePrefix("2001:db8::1/128")} }), inside, "2001:db8::1"}, ""},
		{check{ours(func(c *cat.Claims) { c.Networks = []netip.Prefix{netip.MustParsePrefix("10.1.2.3/32")} }), inside, "10.2.2.3"}, "IPNotAllowed"},
		{check{ours(func(c *cat.Claims) {
			c.URI = []cat.Match{{Part: cat.Host, How: cat.Suffix, Value: ".example.com"}, {Part: cat.Extension, How: cat.Exact, Value: ".mp4"}}
		}), inside, ""}, ""},
		{check{ours(func(c *cat.Claims) { c.URI = []cat.Match{{Part: cat.Extension, How: cat.Exact, Value: ".m3u8"}} }), inside, ""}, "UriNotAllowedError"},
		{check{ours(func(c *cat.Claims) {
			c.Renewal, c.Expires = cat.Renewal{Extend: time.Hour, Window: time.Hour}, real.Add(time.Minute)
		}), inside, ""}, ""},
	}
	base := func(more m) m {
		c := m{"iss": "segue", "exp": real.Add(time.Hour).Unix(), "cti": "0a0b", "catu": m{"path": m{"prefix-match": "/media/T/v/"}}}
		for k, v := range more {
			c[k] = v
		}
		return c
	}
	in := cat.Request{Method: "GET", Scheme: "https", Host: "edge.example.com", Key: "media/T/v/aac_96.mp4", Client: netip.MustParseAddr("10.1.2.3"),
		Country: func(netip.Addr) string { return "SE" }}
	out := in
	out.Key = "media/T/w/aac_96.mp4"
	here := []struct { // what of theirs we should say
		claims m
		req    cat.Request
		want   string // part of the error
	}{
		{base(nil), in, ""},
		{base(nil), out, "object"},
		{base(m{"exp": real.Add(-time.Minute).Unix()}), in, "expired"},
		{base(m{"nbf": real.Add(time.Minute).Unix()}), in, "not valid yet"},
		{base(m{"iss": "another"}), in, "issuer"},
		{base(m{"catm": []string{"GET", "HEAD"}, "sub": "somebody", "iat": real.Unix()}), in, ""},
		{base(m{"catm": []string{"POST"}}), in, "method"},
		{base(m{"catnip": []string{"10.1.0.0/16", "2001:db8::/32"}}), in, ""},
		{base(m{"catnip": []string{"10.1.2.3"}}), in, ""},
		{base(m{"catnip": []string{"10.1.2.4"}}), in, "address"},
		{base(m{"catnip": []any{64500}}), in, "autonomous"},
		{base(m{"catgeoiso3166": []string{"SE", "NO"}}), in, ""},
		{base(m{"catgeoiso3166": []string{"NO"}}), in, "country"},
		{base(m{"catu": m{"host": m{"exact-match": "edge.example.com"}, "path": m{"prefix-match": "/media/"}, "extension": m{"exact-match": ".mp4"}}}), in, ""},
		{base(m{"catu": m{"host": m{"exact-match": "other.example.com"}, "path": m{"prefix-match": "/media/"}}}), in, "object"},
		{base(m{"catu": m{"path": m{"suffix-match": "_96.mp4"}}}), in, ""},
		{base(m{"catu": m{"path": m{"regex-match": []string{".*"}}}}), in, "not supported"},
		{base(m{"catu": m{"parent-path": m{"exact-match": "/media/T/v"}}}), in, ""},
		{base(m{"catr": m{"type": "header", "header-name": "x-token", "expadd": 120, "deadline": 60}}), in, ""},
		{base(m{"catreplay": 0}), in, ""},
		{base(m{"catreplay": 1}), in, "once"},
		{base(m{"aud": "somebody"}), in, "aud"},
		{base(m{"catif": m{"exp": []any{307, m{"Location": "https://example.com/"}}}}), in, "catif"},
		{base(m{"catpor": []any{1}}), in, "catpor"},
	}
	task := struct {
		Kid    string  `json:"kid"`
		Secret []byte  `json:"secret"`
		Issuer string  `json:"issuer"`
		Mint   []m     `json:"mint"`
		Check  []check `json:"check"`
	}{key.ID, key.Secret, "segue", nil, nil}
	for _, c := range there {
		task.Check = append(task.Check, c.check)
	}
	for _, c := range here {
		task.Mint = append(task.Mint, c.claims)
	}
	var answer struct {
		Minted  []string
		Checked []struct {
			Error  string
			Claims map[string]any
			Renew  bool
		}
	}
	input, err := json.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), node, "cat.mjs")
	cmd.Dir = filepath.Join(testenv.Root(t), "web/e2e")
	cmd.Stdin = bytes.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v; `make deps` installs the package\n%s", err, stderr.Bytes())
	}
	if err := json.Unmarshal(output, &answer); err != nil || len(answer.Checked) != len(there) || len(answer.Minted) != len(here) {
		t.Fatalf("%v: %s", err, output)
	}

	for i, c := range there {
		if got := answer.Checked[i]; got.Error != c.want {
			t.Errorf("ours %d, %s: the package says %q, want %q", i, c.URL, got.Error, c.want)
		}
	}
	if got, want := answer.Checked[0].Claims["cti"], hex.EncodeToString([]byte("grant")); got != want {
		t.Errorf("cti %v, want %s", got, want)
	}
	if !answer.Checked[len(there)-1].Renew {
		t.Error("the package does not see that our token should be renewed")
	}
	if r, ok, err := cat.Renew(keys, "segue", time.Now(), there[len(there)-1].Token); !ok || err != nil || r.Header != cat.RenewalName {
		t.Error("nor do we", r, err)
	}

	for i, c := range here {
		claims, err := cat.Verify(keys, "segue", real, answer.Minted[i])
		if err == nil {
			err = claims.Check(real, &c.req)
		}
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("theirs %d, %v: %v, want %q", i, c.claims, err, c.want)
		}
		b := []byte(answer.Minted[i])
		b[len(b)/2] ^= 1
		if _, err := cat.Verify(keys, "segue", real, string(b)); !errors.Is(err, media.ErrNoAccess) {
			t.Errorf("theirs %d, tampered with: %v", i, err)
		}
		if _, named := c.claims["catr"]; named {
			if want := (cat.Renewal{Mode: cat.RenewHeader, Extend: 2 * time.Minute, Window: time.Minute, Name: "x-token"}); !reflect.DeepEqual(claims.Renewal, want) {
				t.Errorf("catr is %+v", claims.Renewal)
			}
		}
	}
}
