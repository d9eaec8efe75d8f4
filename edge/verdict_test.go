package edge

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"segue/media"
	"segue/media/cat"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	gatePriv  = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	gateKeys  = []cat.Key{{ID: "e", Alg: cat.EdDSA, Public: gatePriv.Public().(ed25519.PublicKey)}, {ID: "h", Alg: cat.HS256, Secret: bytes.Repeat([]byte{1}, 32)}}
	gateNow   = time.Unix(1_800_000_000, 0)
	gateGrant = cat.Claims{Issuer: "segue", ID: "c1", Expires: gateNow.Add(time.Hour), PathPrefix: "/media/T/v/", PlayID: "p1", Renditions: []string{"aac_96", "aac_160"}}
)

func newTestGate(t testing.TB) *gate {
	t.Helper()
	g, err := newGate(1<<20, newMetrics(prometheus.NewRegistry()))
	if err != nil {
		t.Fatal(err)
	}
	g.set(&Trust{Issuer: "segue", Keys: gateKeys})
	return g
}

func mintFor(t testing.TB, k cat.Key, change func(*cat.Claims)) string {
	t.Helper()
	c := gateGrant
	if change != nil {
		change(&c)
	}
	if k.Alg == cat.EdDSA {
		k.Private = gatePriv
	}
	token, err := cat.Mint(k, c)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// count reads a counter.
func count(t testing.TB, c prometheus.Collector) float64 {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families[0].GetMetric()[0].GetCounter().GetValue()
}

func request() *cat.Request {
	return &cat.Request{Method: "GET", Scheme: "https", Host: "edge.example.com", Key: "media/T/v/aac_96.mp4", Client: netip.MustParseAddr("10.1.2.3")}
}

// TestVerdict asks every question twice: what is remembered must decide as what was verified.
func TestVerdict(t *testing.T) {
	g := newTestGate(t)
	g.country = func(a netip.Addr) string { return map[string]string{"10.1.2.3": "SE", "10.1.2.4": "NO"}[a.String()] }
	token := mintFor(t, gateKeys[0], func(c *cat.Claims) {
		c.Methods, c.Countries = []string{"GET"}, []string{"SE"}
		c.Networks = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("2001:db8::/32")}
		c.URI = []cat.Match{{Part: cat.Host, How: cat.Suffix, Value: ".example.com"}, {Part: cat.Extension, How: cat.Exact, Value: ".mp4"}}
	})
	f := func(want string, now time.Time, change func(*cat.Request)) {
		t.Helper()
		for _, what := range []string{"first", "again"} {
			r := request()
			if change != nil {
				change(r)
			}
			got, err := g.allow(token, r, now)
			if want == "" && (err != nil || got.PlayID != "p1") || want != "" && (!errors.Is(err, media.ErrDenied) || !strings.Contains(err.Error(), want)) {
				t.Errorf("%s: %+v %v, want %q", what, got, err, want)
			}
		}
	}
	f("method", gateNow, func(r *cat.Request) { r.Method = "HEAD" })
	f("", gateNow, nil)
	f("method", gateNow, func(r *cat.Request) { r.Method = "HEAD" })
	f("object", gateNow, func(r *cat.Request) { r.Key = "media/T/w/aac_96.mp4" })
	f("object", gateNow, func(r *cat.Request) { r.Key = "media/T/v/aac_256.mp4" })
	f("object", gateNow, func(r *cat.Request) { r.Key = "media/T/v/aac_96.m3u8" })
	f("object", gateNow, func(r *cat.Request) { r.Host = "example.net" })
	f("address", gateNow, func(r *cat.Request) { r.Client = netip.MustParseAddr("10.2.2.3") })
	f("country", gateNow, func(r *cat.Request) { r.Client = netip.MustParseAddr("10.1.2.4") })
	f("none is known", gateNow, func(r *cat.Request) { r.Client = netip.MustParseAddr("2001:db8::1") })
	f("expired", gateNow.Add(time.Hour+cat.Leeway), nil)
	f("", gateNow, nil)
	if n := count(t, g.metrics.tokensVerified); n != 1 {
		t.Errorf("%v signatures checked", n)
	}
	g.set(&Trust{Issuer: "segue", Keys: gateKeys, Revoked: map[string]bool{"c1": true}})
	f("revoked", gateNow, nil)
	g.set(&Trust{Issuer: "segue", Keys: gateKeys})
	f("", gateNow, nil)
	if n := count(t, g.metrics.tokensVerified); n != 1 {
		t.Errorf("%v signatures checked: a revocation is no reason to", n)
	}
	g.set(&Trust{Issuer: "segue", Keys: gateKeys[1:]})
	if _, err := g.allow(token, request(), gateNow); !errors.Is(err, media.ErrNoAccess) {
		t.Error("the key was taken away", err)
	}
	g.set(&Trust{Issuer: "another", Keys: gateKeys})
	if _, err := g.allow(token, request(), gateNow); !errors.Is(err, media.ErrNoAccess) {
		t.Error("another issuer", err)
	}
	if _, err := g.allow("", request(), gateNow); !errors.Is(err, media.ErrNoAccess) {
		t.Error("no token", err)
	}
}

func TestVerdictRenews(t *testing.T) {
	g := newTestGate(t)
	renewal := func(c *cat.Claims) { c.Renewal = cat.Renewal{Extend: time.Hour, Window: 10 * time.Minute} }
	late := gateGrant.Expires.Add(-5 * time.Minute)
	for _, now := range []time.Time{gateNow, late, late} {
		got, err := g.allow(mintFor(t, gateKeys[1], renewal), request(), now)
		if err != nil || (got.Renewed.Token != "") != (now == late) {
			t.Fatal(now, got, err)
		}
		if now == late {
			if got, err = g.allow(got.Renewed.Token, request(), gateGrant.Expires.Add(30*time.Minute)); err != nil || got.Renewed.Token != "" {
				t.Error("the renewed token", got, err)
			}
		}
	}
	if got, err := g.allow(mintFor(t, gateKeys[0], renewal), request(), late); err != nil || got.Renewed.Token != "" {
		t.Error("a key that verifies only", got, err)
	}
}

// TestVerdictRace: a Trust that comes while a token is verified must not leave a verdict of the old one behind.
func TestVerdictRace(t *testing.T) {
	g := newTestGate(t)
	for i := range 300 {
		g.set(&Trust{Issuer: "segue", Keys: gateKeys})
		token := mintFor(t, gateKeys[1], func(c *cat.Claims) { c.ID = fmt.Sprint(i) })
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { _, _ = g.allow(token, request(), gateNow) })
		}
		g.set(&Trust{Issuer: "segue", Keys: gateKeys[:1]})
		wg.Wait()
		if _, err := g.allow(token, request(), gateNow); err == nil {
			t.Fatalf("round %d: the key was taken away, its token is still good", i)
		}
	}
}

func TestVerdictAllocs(t *testing.T) {
	for name, change := range verdictShapes {
		g := newTestGate(t)
		g.country = func(netip.Addr) string { return "SE" }
		token, r := mintFor(t, gateKeys[0], change), request()
		if n := testing.AllocsPerRun(200, func() {
			if _, err := g.allow(token, r, gateNow); err != nil {
				t.Fatal(err)
			}
		}); n > 2 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

var verdictShapes = map[string]func(*cat.Claims){
	"plain": nil,
	"full": func(c *cat.Claims) {
		c.Methods, c.Countries = []string{"GET", "HEAD"}, []string{"NO", "DK", "FI", "SE"}
		c.Networks = []netip.Prefix{netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("10.1.0.0/16")}
		c.URI = []cat.Match{{Part: cat.Extension, How: cat.Exact, Value: ".mp4"}}
	},
}

func BenchmarkVerdict(b *testing.B) {
	for name, change := range verdictShapes {
		g := newTestGate(b)
		g.country = func(netip.Addr) string { return "SE" }
		token, r := mintFor(b, gateKeys[0], change), request()
		b.Run("remembered/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := g.allow(token, r, gateNow); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	for i, k := range gateKeys {
		token := mintFor(b, k, nil)
		b.Run(fmt.Sprintf("verified/%s", gateKeys[i].Alg), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := cat.Verify(gateKeys, "segue", gateNow, token); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
