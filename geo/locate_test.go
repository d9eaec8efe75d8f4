package geo_test

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"segue/geo"

	"github.com/google/go-cmp/cmp"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestLocateHome(t *testing.T) {
	l, err := geo.OpenLocator(geo.LocatorConfig{Home: geo.Place{Point: amsterdam, OK: true}})
	if err != nil {
		t.Fatal(err)
	}
	if p := l.Locate(netip.MustParseAddr("::ffff:127.0.0.1")); !p.OK || p.Source != "home" {
		t.Error("loopback is not at home")
	}
	if p := l.Locate(netip.MustParseAddr("192.0.2.1")); p.OK {
		t.Error("a foreign address is placed with no database")
	}
	if _, err := geo.OpenLocator(geo.LocatorConfig{Places: "none.mmdb"}); err == nil {
		t.Error("a missing file is no error")
	}
}

func TestRules(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rules.json")
	write(t, path, `{"rules": [
		{"cidr": "203.0.113.0/24", "country": "NL", "asn": 64500},
		{"cidr": "203.0.113.128/25", "latitude": 1.5, "longitude": 103},
		{"cidr": "2001:db8::/32", "country": "JP"},
		{"cidr": "10.1.0.0/16", "region": "iad"},
		{"asn": 64500, "region": "ams", "country": "BE"}]}`)
	l, err := geo.OpenLocator(geo.LocatorConfig{Rules: path, Home: geo.Place{Point: paris, OK: true, Country: "FR"}})
	if err != nil {
		t.Fatal(err)
	}
	nl, _ := geo.Centroid("NL")
	jp, _ := geo.Centroid("JP")
	for ip, want := range map[string]geo.Place{
		"203.0.113.1":        {Point: nl, Country: "NL", OK: true, ASN: 64500, Region: "ams", Source: "country"},
		"::ffff:203.0.113.1": {Point: nl, Country: "NL", OK: true, ASN: 64500, Region: "ams", Source: "country"},
		"203.0.113.200":      {Point: geo.Point{Lat: 1.5, Lon: 103}, OK: true, Source: "rule"},
		"2001:db8:1::1":      {Point: jp, Country: "JP", OK: true, Source: "country"},
		"10.1.2.3":           {Point: paris, Country: "FR", OK: true, Region: "iad", Source: "home"},
		"10.2.2.3":           {Point: paris, Country: "FR", OK: true, Source: "home"},
		"198.51.100.1":       {},
	} {
		if d := cmp.Diff(l.Locate(netip.MustParseAddr(ip)), want); d != "" {
			t.Errorf("%s: %s", ip, d)
		}
	}
	for text, want := range map[string]string{
		`{"rules": [{"cidr": "1.2.3.4"}]}`:                                      "address/bits",
		`{"rules": [{"country": "NL"}]}`:                                        "neither",
		`{"rules": [{"asn": 1, "country": "Holland"}]}`:                         "ISO 3166-1",
		`{"rules": [{"asn": 1, "latitude": 1}]}`:                                "both",
		`{"rules": [{"asn": 1, "colour": "red"}]}`:                              "colour",
		`{"rules": [{"cidr": "1.2.3.4/8"}, {"cidr": "1.0.0.0/8"}]}`:             "before it",
		`{"rules": [{"cidr": "::ffff:1.2.3.0/120", "region": "ams"}]}`:          "IPv4",
		`{"rules": [{"asn": 1, "latitude": 91, "longitude": 0}]}`:               "degrees",
		`{"rules": [{"asn": 1, "country": "NL"}, {"asn": 1, "country": "BE"}]}`: "before it",
	} {
		write(t, path, text)
		if _, err := geo.OpenLocator(geo.LocatorConfig{Rules: path}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestWatch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rules.json")
	write(t, path, `{"rules": [{"cidr": "203.0.113.0/24", "country": "NL"}]}`)
	l, err := geo.OpenLocator(geo.LocatorConfig{Rules: path})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	told, done := make(chan error, 10), make(chan struct{})
	go func() {
		defer close(done)
		_ = l.Watch(ctx, time.Millisecond, func(_ string, err error) { told <- err })
	}()
	write(t, path+".new", `{"rules": [{"cidr": "203.0.113.0/24", "country": "SG"}]} `)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	if err := <-told; err != nil {
		t.Fatal(err)
	}
	country := func() string { return l.Country(netip.MustParseAddr("203.0.113.1")) }
	if country() != "SG" {
		t.Error("a new file is not in use")
	}
	write(t, path+".new", `{"rules": [{]}`)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	if err := <-told; err == nil || country() != "SG" {
		t.Errorf("a broken file: %v, %s", err, country())
	}
	if d := l.Databases(); len(d) != 1 || d[0].Name != "rules" || d[0].Error == "" || d[0].BuiltAt.IsZero() {
		t.Errorf("%+v", d)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := <-told; err == nil || country() != "SG" {
		t.Errorf("a missing file: %v", err)
	}
	cancel()
	<-done
}

func TestCentroids(t *testing.T) {
	for country, want := range map[string]geo.Point{"NL": amsterdam, "SG": singapore, "FJ": {Lat: -17.8, Lon: 178}, "FR": paris} {
		if p, ok := geo.Centroid(country); !ok || geo.DistanceKm(p, want) > 300 {
			t.Errorf("%s is at %v", country, p)
		}
	}
	if _, ok := geo.Centroid("ZZ"); ok {
		t.Error("ZZ is a country")
	}
}
