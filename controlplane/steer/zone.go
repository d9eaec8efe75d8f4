package steer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"segue/media"

	"github.com/miekg/dns"
)

// Zone is the file of the DNS responder: what it answers for. Unknown members are errors.
//
//	{"zone": "play.example.org", "ns": [{"name": "ns1.example.org", "addresses": ["192.0.2.53"]}], "hostmaster": "dns@example.org"}
//
// The zone's own name and Names are answered with the nearest edges; <name of an edge>.<zone> with that edge.
type Zone struct {
	Zone       string                  `json:"zone"`
	NS         []NameServer            `json:"ns"`
	Hostmaster string                  `json:"hostmaster"`            // mail address
	Names      []string                `json:"names,omitempty"`       // more names below the zone: "www", "*"
	TTLSeconds int                     `json:"ttl_seconds,omitempty"` // of addresses; zero: 20
	Addresses  map[string][]netip.Addr `json:"addresses,omitempty"`   // of edges whose URL has a host name, by the edge's name
	// PerSecond are the UDP answers that one network (/24, /56) gets in a second before it is told to come by TCP; zero: 200,
	// negative: no limit. It keeps a forged sender from being flooded.
	PerSecond int `json:"per_second,omitempty"`
}

// NameServer is one server of the zone. Addresses are needed where its name is below the zone.
type NameServer struct {
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
}

// ReadZone reads and checks a zone's file.
func ReadZone(path string) (Zone, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Zone{}, fmt.Errorf("DNS zone: %w", err)
	}
	var z Zone
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&z); err != nil {
		return z, fmt.Errorf("DNS zone %s: %v: %w", path, err, media.ErrInvalid)
	}
	if err := z.check(); err != nil {
		return z, fmt.Errorf("DNS zone %s: %w", path, err)
	}
	return z, nil
}

// defaultDNSTTL is short, since an answer outlives the health of an edge by it, and long beside a resolver's round trip.
const defaultDNSTTL = 20

func (z *Zone) check() error {
	bad := func(what string) error { return fmt.Errorf("%s: %w", what, media.ErrInvalid) }
	name := func(s string) bool {
		_, ok := dns.IsDomainName(s)
		return ok && s != "" && !strings.ContainsAny(s, " \\\t\"")
	}
	if !name(z.Zone) || z.Zone == "." {
		return bad("zone: want a domain name")
	}
	z.Zone = dns.CanonicalName(z.Zone)
	if len(z.NS) == 0 {
		return bad("ns: want at least one name server")
	}
	for i := range z.NS {
		if !name(z.NS[i].Name) {
			return bad("ns: want domain names")
		}
		z.NS[i].Name = dns.CanonicalName(z.NS[i].Name)
		if dns.IsSubDomain(z.Zone, z.NS[i].Name) && len(z.NS[i].Addresses) == 0 {
			return bad("ns: " + z.NS[i].Name + " is in the zone and has no addresses")
		}
	}
	local, domain, ok := strings.Cut(z.Hostmaster, "@")
	if !ok || !name(domain) || !name(local) {
		return bad("hostmaster: want a mail address")
	}
	for i, n := range z.Names {
		if n != "*" && !name(n) {
			return bad("names: want names below the zone")
		}
		z.Names[i] = strings.ToLower(strings.TrimSuffix(n, "."))
	}
	if z.TTLSeconds == 0 {
		z.TTLSeconds = defaultDNSTTL
	}
	if z.TTLSeconds < 0 || z.TTLSeconds > 3600 {
		return bad("ttl_seconds: want 1 to 3600")
	}
	if z.PerSecond == 0 {
		z.PerSecond = 200
	}
	for edge, list := range z.Addresses {
		for i := range list {
			if list[i] = list[i].Unmap(); !list[i].IsValid() {
				return bad("addresses of " + edge)
			}
		}
	}
	return nil
}

// soa is the zone's start of authority. Nobody transfers the zone, so the serial says only when the server began.
func (z *Zone) soa(begun time.Time) *dns.SOA {
	local, domain, _ := strings.Cut(z.Hostmaster, "@")
	return &dns.SOA{Hdr: dns.RR_Header{Name: z.Zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 3600}, Ns: z.NS[0].Name,
		Mbox: strings.ReplaceAll(local, ".", "\\.") + "." + dns.CanonicalName(domain), Serial: uint32(begun.Unix()), Refresh: 7200, Retry: 3600, Expire: 1209600,
		Minttl: uint32(z.TTLSeconds)} // RFC 2308 4: how long it is remembered that something is not there
}
