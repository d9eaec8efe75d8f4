package steer_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"segue/controlplane/steer"
	"segue/geo"

	"github.com/miekg/dns"
)

const zoneText = `{"zone": "Play.example", "ns": [{"name": "ns1.play.example", "addresses": ["192.0.2.53", "2001:db8::53"]}, {"name": "ns2.elsewhere.example"}],
	"hostmaster": "dns.admin@example", "names": ["www"], "addresses": {"eu-2": ["198.51.100.2", "2001:db8:1::2"], "us-1": ["203.0.113.1", "2001:db8:2::1"]}, "per_second": %d}`

// resolvers in Europe begin with 81, in America with 8 or 2600:.
func placeOf(a netip.Addr) geo.Place {
	switch text := a.String(); {
	case strings.HasPrefix(text, "81."), strings.HasPrefix(text, "2a00:"):
		return paris
	case strings.HasPrefix(text, "8."), strings.HasPrefix(text, "2600:"):
		return geo.Place{Point: geo.Point{Lat: 40, Lon: -75}, OK: true, Country: "US"}
	}
	return geo.Place{}
}

func newDNS(t testing.TB, perSecond int) (*steer.DNS, *[]geo.Node) {
	path := filepath.Join(t.TempDir(), "zone.json")
	if err := os.WriteFile(path, fmt.Appendf(nil, zoneText, perSecond), 0o644); err != nil {
		t.Fatal(err)
	}
	zone, err := steer.ReadZone(path)
	if err != nil {
		t.Fatal(err)
	}
	nodes := []geo.Node{
		{Name: "eu-1", Region: "eu", URL: "http://198.51.100.1:8081", At: geo.Point{Lat: 52, Lon: 5}, Healthy: true},
		{Name: "eu-2", Region: "eu", URL: "https://eu-2.play.example", At: geo.Point{Lat: 52, Lon: 5}, Healthy: true},
		{Name: "us-1", Region: "us", URL: "https://us-1.play.example", At: geo.Point{Lat: 39, Lon: -77}, Healthy: true},
		{Name: "us-x", Region: "us", URL: "https://unknown.example", At: geo.Point{Lat: 39, Lon: -77}, Healthy: true},
	}
	s := steer.New(steer.Config{Nodes: func(time.Time) []geo.Node { return append([]geo.Node(nil), nodes...) }, Locate: placeOf})
	return steer.NewDNS(s, zone), &nodes
}

func question(name string, kind uint16, subnet string) *dns.Msg {
	q := new(dns.Msg)
	q.SetQuestion(name, kind)
	if subnet != "" {
		p := netip.MustParsePrefix(subnet)
		o := &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: uint8(p.Bits()), Address: p.Addr().AsSlice()}
		if p.Addr().Is6() {
			o.Family = 2
		}
		q.SetEdns0(4096, false)
		q.IsEdns0().Option = append(q.IsEdns0().Option, o)
	}
	return q
}

// brief is an answer in a line.
func brief(m *dns.Msg) string {
	if m == nil {
		return "nothing"
	}
	out := []string{dns.RcodeToString[m.Rcode]}
	for _, list := range [][]dns.RR{m.Answer, m.Ns} {
		for _, rr := range list {
			text := strings.Fields(rr.String())
			out = append(out, strings.Join(append(text[:2:2], text[3:]...), " "))
		}
	}
	return strings.Join(out, "; ")
}

func TestDNS(t *testing.T) {
	d, nodes := newDNS(t, -1)
	from := netip.MustParseAddr("192.0.2.99")
	f := func(q *dns.Msg, want string) {
		t.Helper()
		if _, err := q.Pack(); err != nil {
			t.Fatal(err)
		}
		if got := brief(d.Reply(begun, q, from, true)); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s, want %s", q.Question[0].String(), got, want)
		}
	}
	f(question("play.example.", dns.TypeA, "81.2.69.0/24"), "NOERROR; play.example. 20 A 198.51.100.")
	f(question("PLAY.example.", dns.TypeA, "8.8.8.0/24"), "NOERROR; PLAY.example. 20 A 203.0.113.1")
	f(question("www.play.example.", dns.TypeAAAA, "2a00:1450::/32"), "NOERROR; www.play.example. 20 AAAA 2001:db8:1::2")
	f(question("play.example.", dns.TypeAAAA, "2600::/16"), "NOERROR; play.example. 20 AAAA 2001:db8:2::1")
	f(question("eu-1.play.example.", dns.TypeA, ""), "NOERROR; eu-1.play.example. 20 A 198.51.100.1")
	f(question("eu-1.play.example.", dns.TypeAAAA, ""), "NOERROR; play.example. 20 SOA ns1.play.example. dns\\.admin.example.")
	f(question("ns1.play.example.", dns.TypeA, ""), "NOERROR; ns1.play.example. 20 A 192.0.2.53")
	f(question("play.example.", dns.TypeNS, ""), "NOERROR; play.example. 3600 NS ns1.play.example.; play.example. 3600 NS ns2.elsewhere.example.")
	f(question("play.example.", dns.TypeSOA, ""), "NOERROR; play.example. 3600 SOA ns1.play.example.")
	f(question("play.example.", dns.TypeANY, ""), `NOERROR; play.example. 3600 HINFO "RFC8482" ""`)
	f(question("play.example.", dns.TypeTXT, ""), "NOERROR; play.example. 20 SOA")
	f(question("nobody.play.example.", dns.TypeA, ""), "NXDOMAIN; play.example. 20 SOA")
	f(question("a.www.play.example.", dns.TypeA, ""), "NXDOMAIN; play.example. 20 SOA")
	f(question("example.", dns.TypeA, ""), "REFUSED")
	f(question("xplay.example.", dns.TypeA, ""), "REFUSED")
	f(question("play.example.", dns.TypeAXFR, ""), "REFUSED")
	chaos := question("version.bind.", dns.TypeTXT, "")
	chaos.Question[0].Qclass = dns.ClassCHAOS
	f(chaos, "REFUSED")
	update := question("play.example.", dns.TypeSOA, "")
	update.Opcode = dns.OpcodeUpdate
	f(update, "NOTIMP")
	two := question("play.example.", dns.TypeA, "")
	two.Question = append(two.Question, two.Question[0])
	f(two, "FORMERR")
	version := question("play.example.", dns.TypeA, "81.2.69.0/24")
	version.IsEdns0().SetVersion(1)
	if m := d.Reply(begun, version, from, true); m.IsEdns0().ExtendedRcode() != dns.RcodeBadVers && m.Rcode != dns.RcodeBadVers {
		t.Errorf("EDNS version 1: %v", m)
	}
	loop := question("play.example.", dns.TypeA, "")
	loop.Response = true
	f(loop, "nothing")

	// The client's subnet comes back with its scope; where it made no difference, with none.
	for name, scope := range map[string]uint8{"play.example.": 24, "eu-1.play.example.": 0} {
		o := d.Reply(begun, question(name, dns.TypeA, "81.2.69.0/24"), from, true).IsEdns0().Option[0].(*dns.EDNS0_SUBNET)
		if o.SourceNetmask != 24 || o.SourceScope != scope || !o.Address.Equal(net.IPv4(81, 2, 69, 0)) {
			t.Errorf("%s: %+v", name, o)
		}
	}
	bits := question("play.example.", dns.TypeA, "81.2.69.0/24")
	bits.IsEdns0().Option[0].(*dns.EDNS0_SUBNET).Address = net.IPv4(81, 2, 69, 1).To4()
	if got := brief(d.Reply(begun, bits, from, true)); got != "FORMERR" {
		t.Errorf("bits beyond the mask: %s", got)
	}
	private := question("play.example.", dns.TypeA, "0.0.0.0/0") // "do not place me": then the resolver is placed
	if got := brief(d.Reply(begun, private, netip.MustParseAddr("8.8.8.8"), true)); !strings.Contains(got, "203.0.113.1") {
		t.Error(got)
	}

	// Health, in the next snapshot.
	(*nodes)[0].Healthy, (*nodes)[1].Draining = false, true
	m := d.Reply(begun.Add(time.Second), question("play.example.", dns.TypeA, "81.2.69.0/24"), from, true)
	if got := brief(m); got != "NOERROR; play.example. 20 A 203.0.113.1" {
		t.Error(got)
	}
	(*nodes)[2].Healthy = false
	if got := brief(d.Reply(begun.Add(2*time.Second), question("play.example.", dns.TypeA, ""), from, true)); got != "SERVFAIL" {
		t.Error(got)
	}
}

// A flood from one network is answered in part, shortly, and only over UDP.
func TestDNSLimit(t *testing.T) {
	d, _ := newDNS(t, 10)
	count := map[string]int{}
	ask := func(from string, udp bool) {
		m := d.Reply(begun, question("play.example.", dns.TypeA, ""), netip.MustParseAddr(from), udp)
		switch {
		case m == nil:
			count["dropped"]++
		case m.Truncated && len(m.Answer) == 0 && len(m.Ns) == 0:
			count["truncated"]++
		default:
			count["answered"]++
		}
	}
	for i := range 100 {
		ask(fmt.Sprintf("8.8.8.%d", i), true)
	}
	if count["answered"] != 10 || count["truncated"] != 45 || count["dropped"] != 45 {
		t.Errorf("%v", count)
	}
	ask("8.8.8.1", false)
	ask("81.0.0.1", true)
	if count["answered"] != 12 {
		t.Errorf("TCP or another network is limited: %v", count)
	}
}

func TestReadZoneRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "zone.json")
	for text, want := range map[string]string{
		`{"zone": "a.example"}`: "name server",
		`{"zone": "", "ns": [{"name": "x.example"}], "hostmaster": "a@b"}`:                         "zone",
		`{"zone": "a.example", "ns": [{"name": "ns.a.example"}], "hostmaster": "a@b"}`:             "no addresses",
		`{"zone": "a.example", "ns": [{"name": "x.example"}], "hostmaster": "ab"}`:                 "hostmaster",
		`{"zone": "a.example", "ns": [{"name": "x.example"}], "hostmaster": "a@b", "colour": 1}`:   "colour",
		`{"zone": "a.example", "ns": [{"name": "x y"}], "hostmaster": "a@b"}`:                      "domain names",
		`{"zone": "a.example", "ns": [{"name": "x"}], "hostmaster": "a@b", "ttl_seconds": 999999}`: "ttl_seconds",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := steer.ReadZone(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestDig asks over the network with the tool of the people who run the other name servers.
func TestDig(t *testing.T) {
	dig, err := exec.LookPath("dig")
	if err != nil {
		t.Fatal("dig is not installed: apt-get install bind9-dnsutils")
	}
	d, _ := newDNS(t, -1)
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := probe.Addr().String()
	probe.Close()
	ctx, cancel := context.WithCancel(t.Context())
	up, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- d.Run(ctx, addr, func() { close(up) }) }()
	select {
	case <-up:
	case err := <-done:
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(addr)
	ask := func(want string, args ...string) {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), dig, append([]string{"@127.0.0.1", "-p", port, "+tries=1", "+time=5"}, args...)...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) || strings.Contains(string(out), "Warning") || strings.Contains(string(out), "malformed") {
			t.Errorf("dig %v: %v, want %q in\n%s", args, err, want, out)
		}
	}
	ask("198.51.100.", "+subnet=81.2.69.0/24", "play.example", "A")
	ask("CLIENT-SUBNET: 81.2.69.0/24/24", "+subnet=81.2.69.160/24", "play.example", "A")
	ask("203.0.113.1", "+subnet=8.8.8.0/24", "play.example", "A")
	ask("2001:db8:2::1", "+subnet=2600::/40", "play.example", "AAAA")
	ask("203.0.113.1", "+tcp", "+subnet=8.8.8.0/24", "play.example", "A")
	ask("status: NOERROR", "+noedns", "play.example", "NS")
	ask("flags: qr aa rd", "play.example", "SOA")
	ask("status: REFUSED", "www.elsewhere.example", "A")
	ask("RFC8482", "+notcp", "play.example", "ANY")
	ask("status: NXDOMAIN", "nothing.play.example", "A")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// FuzzDNS: any packet has an answer to itself that fits, or none.
func FuzzDNS(f *testing.F) {
	d, _ := newDNS(f, -1)
	for _, q := range []*dns.Msg{question("play.example.", dns.TypeA, "81.2.69.0/24"), question("x.play.example.", dns.TypeANY, "2600::/40"), question("eu-1.play.example.", dns.TypeNS, "")} {
		b, err := q.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, true)
	}
	f.Fuzz(func(t *testing.T, packet []byte, udp bool) {
		q := new(dns.Msg)
		if q.Unpack(packet) != nil {
			return // the server answers that by itself
		}
		m := d.Reply(begun, q, netip.MustParseAddr("192.0.2.99"), udp)
		if m == nil {
			return
		}
		b, err := m.Pack()
		if err != nil {
			t.Fatalf("%v\n%v", err, m)
		}
		most := dns.MinMsgSize
		if o := q.IsEdns0(); o != nil {
			most = max(most, min(1232, int(o.UDPSize())))
		}
		if m.Id != q.Id || !m.Response || udp && len(b) > most {
			t.Fatalf("%d bytes, at most %d\n%v", len(b), most, m)
		}
	})
}

func BenchmarkDNS(b *testing.B) {
	d, _ := newDNS(b, -1)
	packet, err := question("play.example.", dns.TypeA, "81.2.69.0/24").Pack()
	if err != nil {
		b.Fatal(err)
	}
	from := netip.MustParseAddr("192.0.2.99")
	b.ReportAllocs()
	for b.Loop() {
		q := new(dns.Msg)
		if err := q.Unpack(packet); err != nil {
			b.Fatal(err)
		}
		if _, err := d.Reply(begun, q, from, true).Pack(); err != nil {
			b.Fatal(err)
		}
	}
}
