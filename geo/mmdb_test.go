package geo_test

import (
	"encoding/binary"
	"maps"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"segue/geo"

	"github.com/google/go-cmp/cmp"
)

// writeMMDB makes a small file in the MaxMind DB format 2.0, for networks of both families.
func writeMMDB(t *testing.T, path, kind string, built uint64, records map[string]any) {
	t.Helper()
	type node [2]int // index of a node; -1: nothing; less: data at -2-offset
	nodes := []node{{-1, -1}}
	var data []byte
	for _, cidr := range slices.Sorted(maps.Keys(records)) {
		p := netip.MustParsePrefix(cidr)
		bits, b := p.Bits(), p.Addr().As16()
		if p.Addr().Is4() { // IPv4 lies below ::/96
			four := p.Addr().As4()
			b, bits = [16]byte{}, bits+96
			copy(b[12:], four[:])
		}
		at := 0
		for i := range bits {
			side := int(b[i/8]>>(7-i%8)) & 1
			if i == bits-1 {
				nodes[at][side] = -2 - len(data)
				break
			}
			if nodes[at][side] < 0 {
				nodes = append(nodes, node{-1, -1})
				nodes[at][side] = len(nodes) - 1
			}
			at = nodes[at][side]
		}
		data = encodeMMDB(data, records[cidr])
	}
	var out []byte
	for _, n := range nodes {
		for _, r := range n {
			v := r
			if r == -1 {
				v = len(nodes)
			} else if r < -1 {
				v = len(nodes) + 16 + (-2 - r)
			}
			out = append(out, byte(v>>16), byte(v>>8), byte(v))
		}
	}
	out = append(append(out, make([]byte, 16)...), data...)
	out = append(out, "\xab\xcd\xefMaxMind.com"...)
	out = encodeMMDB(out, map[string]any{"node_count": uint32(len(nodes)), "record_size": uint16(24), "ip_version": uint16(6), "database_type": kind,
		"binary_format_major_version": uint16(2), "binary_format_minor_version": uint16(0), "build_epoch": built, "languages": []string{"en"}, "description": map[string]any{"en": "test"}})
	if err := os.WriteFile(path, out, 0o644); err != nil {
		t.Fatal(err)
	}
}

func encodeMMDB(b []byte, v any) []byte {
	head := func(kind, size int) []byte { // sizes here are below 29
		if kind > 7 {
			return append(b, byte(size), byte(kind-7))
		}
		return append(b, byte(kind<<5|size))
	}
	switch v := v.(type) {
	case string:
		return append(head(2, len(v)), v...)
	case float64:
		return binary.BigEndian.AppendUint64(head(3, 8), math.Float64bits(v))
	case uint16:
		return binary.BigEndian.AppendUint16(head(5, 2), v)
	case uint32:
		return binary.BigEndian.AppendUint32(head(6, 4), v)
	case uint64:
		return binary.BigEndian.AppendUint64(head(9, 8), v)
	case []string:
		b = head(11, len(v))
		for _, s := range v {
			b = encodeMMDB(b, s)
		}
		return b
	case map[string]any:
		b = head(7, len(v))
		for k, x := range v {
			b = encodeMMDB(encodeMMDB(b, k), x)
		}
		return b
	}
	panic("bug: another type")
}

func TestLocateInDatabases(t *testing.T) {
	dir := t.TempDir()
	places, networks := filepath.Join(dir, "city.mmdb"), filepath.Join(dir, "asn.mmdb")
	writeMMDB(t, places, "Test-City", 1_700_000_000, map[string]any{
		"203.0.113.0/24":   map[string]any{"country": map[string]any{"iso_code": "NL"}, "location": map[string]any{"latitude": 52.37, "longitude": 4.9}}, // as MaxMind
		"198.51.100.0/24":  map[string]any{"country_code": "SG"},                                                                                         // as ip-location-db, countries
		"192.0.2.0/25":     map[string]any{"country_code": "FR", "latitude": 48.86, "longitude": 2.35},
		"192.0.2.128/25":   map[string]any{"registered_country": map[string]any{"iso_code": "US"}},
		"2001:db8:1::/48":  map[string]any{"country": map[string]any{"iso_code": "JP"}},
		"2001:db8:ff::/48": map[string]any{"city": "somewhere"},
	})
	writeMMDB(t, networks, "Test-ASN", 1_600_000_000, map[string]any{"203.0.113.0/24": map[string]any{"autonomous_system_number": uint32(1136)}, "2001:db8::/32": map[string]any{"autonomous_system_number": uint32(64500)}})
	l, err := geo.OpenLocator(geo.LocatorConfig{Places: places, Networks: networks})
	if err != nil {
		t.Fatal(err)
	}
	middle := func(country string) geo.Point {
		p, _ := geo.Centroid(country)
		return p
	}
	for ip, want := range map[string]geo.Place{
		"203.0.113.9":         {Point: amsterdam, Country: "NL", OK: true, ASN: 1136, Source: "database"},
		"::ffff:203.0.113.9":  {Point: amsterdam, Country: "NL", OK: true, ASN: 1136, Source: "database"},
		"198.51.100.1":        {Point: middle("SG"), Country: "SG", OK: true, Source: "country"},
		"192.0.2.1":           {Point: paris, Country: "FR", OK: true, Source: "database"},
		"192.0.2.200":         {Point: middle("US"), Country: "US", OK: true, Source: "country"},
		"2001:db8:1::5":       {Point: middle("JP"), Country: "JP", OK: true, ASN: 64500, Source: "country"},
		"2001:db8:ff::5":      {ASN: 64500},
		"100.64.0.1":          {},
		"fe80::1%eth0":        {},
		"2001:db8:1::5%other": {Point: middle("JP"), Country: "JP", OK: true, ASN: 64500, Source: "country"},
	} {
		if d := cmp.Diff(l.Locate(netip.MustParseAddr(ip)), want); d != "" {
			t.Errorf("%s: %s", ip, d)
		}
	}
	if p := l.Locate(netip.Addr{}); p.OK || p.ASN != 0 {
		t.Errorf("no address is at %v", p)
	}
	d := l.Databases()
	if len(d) != 2 || d[0].Type != "Test-City" || d[0].BuiltAt.Unix() != 1_700_000_000 || d[1].Name != "networks" {
		t.Errorf("%+v", d)
	}
	if err := os.WriteFile(places, []byte("no database"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := geo.OpenLocator(geo.LocatorConfig{Places: places}); err == nil {
		t.Error("a file that is none is opened")
	}
}
