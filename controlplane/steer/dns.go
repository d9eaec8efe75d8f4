package steer

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"segue/geo"

	"github.com/miekg/dns"
)

const (
	// maxUDP is the longest UDP answer: what passes every path in one piece (DNS flag day 2020).
	maxUDP = 1232

	// perAnswer is how many edges of the nearest region are in an answer: a player tries the second when the first is gone.
	// Edges of other regions are not in it, since resolvers shuffle.
	perAnswer = 2
)

// DNS answers for one zone, with the edges that are nearest to the client's network: the one of EDNS Client Subnet
// (RFC 7871) if the resolver sends it, else the resolver's own.
type DNS struct {
	steer *Service
	zone  Zone
	begun time.Time
	view  atomic.Pointer[view]
	limit limiter
	// Told counts answers by kind: answer, refused, limited, dropped, error. Set before Run; may be nil.
	Told func(kind string)
}

// NewDNS returns the responder of a zone that was read.
func NewDNS(s *Service, z Zone) *DNS {
	return &DNS{steer: s, zone: z, begun: time.Now(), limit: limiter{seed: maphash.MakeSeed(), most: z.PerSecond}}
}

// view is a snapshot of the registry by address family.
type view struct {
	of        *snapshot
	v4, v6    []geo.Node
	addresses map[string][]netip.Addr
}

func (d *DNS) nodes(now time.Time) *view {
	snap := d.steer.snapshot(now)
	if v := d.view.Load(); v != nil && v.of == snap {
		return v
	}
	v := &view{of: snap, addresses: make(map[string][]netip.Addr, len(snap.nodes))}
	for _, n := range snap.nodes {
		list := d.zone.Addresses[n.Name]
		if u, err := url.Parse(n.URL); err == nil && list == nil {
			if a, err := netip.ParseAddr(u.Hostname()); err == nil {
				list = []netip.Addr{a.Unmap().WithZone("")}
			}
		}
		v.addresses[n.Name] = list
		if slices.ContainsFunc(list, netip.Addr.Is4) {
			v.v4 = append(v.v4, n)
		}
		if slices.ContainsFunc(list, netip.Addr.Is6) {
			v.v6 = append(v.v6, n)
		}
	}
	d.view.Store(v)
	return v
}

// Reply answers a message from an address; nil: not at all. It does no I/O.
func (d *DNS) Reply(now time.Time, q *dns.Msg, from netip.Addr, udp bool) *dns.Msg {
	if q.Response || !from.IsValid() { // an answer is never answered: two servers would never end
		d.told("dropped")
		return nil
	}
	from = from.Unmap().WithZone("")
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable, m.Compress = false, true
	size := dns.MinMsgSize
	var subnet *dns.EDNS0_SUBNET
	edns := q.IsEdns0()
	if edns != nil {
		size = min(maxUDP, max(dns.MinMsgSize, int(edns.UDPSize())))
		reply := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
		reply.SetUDPSize(maxUDP)
		for _, o := range edns.Option {
			if s, ok := o.(*dns.EDNS0_SUBNET); ok && subnet == nil {
				subnet = &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: s.Family, SourceNetmask: s.SourceNetmask, Address: s.Address}
				reply.Option = append(reply.Option, subnet)
			}
		}
		m.Extra = append(m.Extra, reply)
	}
	if udp && d.limit.over(now, from) {
		// Every other one is told to come by TCP, where the sender cannot be forged; the rest is not answered.
		if d.limit.slip.Add(1)%2 == 0 {
			d.told("dropped")
			return nil
		}
		d.told("limited")
		m.Truncated = true
		return m
	}
	switch {
	case q.Opcode != dns.OpcodeQuery:
		return d.fail(m, dns.RcodeNotImplemented)
	case len(q.Question) != 1:
		return d.fail(m, dns.RcodeFormatError)
	case edns != nil && edns.Version() != 0:
		m.IsEdns0().SetExtendedRcode(dns.RcodeBadVers) // RFC 6891 6.1.3
		return d.fail(m, dns.RcodeBadVers)
	}
	ask := q.Question[0]
	name := strings.ToLower(ask.Name)
	if ask.Qclass != dns.ClassINET || !dns.IsSubDomain(d.zone.Zone, name) || ask.Qtype == dns.TypeAXFR || ask.Qtype == dns.TypeIXFR {
		return d.fail(m, dns.RcodeRefused)
	}
	client, ok := ecs(subnet, from)
	if !ok {
		return d.fail(m, dns.RcodeFormatError) // RFC 7871 7.1.2
	}
	m.Authoritative = true
	d.told("answer")
	d.answer(now, m, ask, name, client, subnet)
	if udp {
		m.Truncate(size)
	}
	return m
}

func (d *DNS) told(kind string) {
	if d.Told != nil {
		d.Told(kind)
	}
}

func (d *DNS) fail(m *dns.Msg, code int) *dns.Msg {
	d.told(map[bool]string{true: "refused", false: "error"}[code == dns.RcodeRefused])
	m.Rcode = code
	return m
}

// ecs is the address to place: that of the client's network, or of the resolver if it does not tell or tells nothing.
func ecs(s *dns.EDNS0_SUBNET, from netip.Addr) (netip.Addr, bool) {
	if s == nil {
		return from, true
	}
	bits := map[uint16]int{1: 32, 2: 128}[s.Family]
	a, ok := netip.AddrFromSlice(s.Address)
	if s.Family == 1 {
		a = a.Unmap()
	}
	if s.Family == 0 && s.SourceNetmask == 0 {
		return from, true
	}
	if !ok || bits == 0 || int(s.SourceNetmask) > bits || a.BitLen() != bits {
		return from, false
	}
	if s.SourceNetmask == 0 { // the client asks not to be placed: RFC 7871 7.1.2
		return from, true
	}
	p, err := a.Prefix(int(s.SourceNetmask))
	return p.Addr(), err == nil && p.Addr() == a // bits beyond the mask are zero, or it is malformed
}

func (d *DNS) answer(now time.Time, m *dns.Msg, ask dns.Question, name string, client netip.Addr, subnet *dns.EDNS0_SUBNET) {
	z := &d.zone
	header := func(kind uint16, ttl int) dns.RR_Header {
		return dns.RR_Header{Name: ask.Name, Rrtype: kind, Class: dns.ClassINET, Ttl: uint32(ttl)} // with the capitals of the question
	}
	apex := name == z.Zone
	label := ""
	if !apex {
		label = strings.TrimSuffix(name, "."+z.Zone)
	}
	v := d.nodes(now)
	var fixed []netip.Addr // of a name server or a single edge
	steered, exists := apex || slices.Contains(z.Names, label), true
	if i := slices.IndexFunc(z.NS, func(n NameServer) bool { return n.Name == name }); i >= 0 && !steered {
		fixed = z.NS[i].Addresses
	} else if list, ok := v.addresses[label]; ok && !steered {
		fixed = list
	} else if !steered {
		steered = slices.Contains(z.Names, "*") && !strings.Contains(label, ".")
		exists = steered
	}
	switch {
	case !exists:
		m.Rcode = dns.RcodeNameError
	case ask.Qtype == dns.TypeANY:
		m.Answer = append(m.Answer, &dns.HINFO{Hdr: header(dns.TypeHINFO, 3600), Cpu: "RFC8482"}) // RFC 8482 4.2
	case apex && ask.Qtype == dns.TypeSOA:
		m.Answer = append(m.Answer, z.soa(d.begun))
	case apex && ask.Qtype == dns.TypeNS:
		for _, n := range z.NS {
			m.Answer = append(m.Answer, &dns.NS{Hdr: header(dns.TypeNS, 3600), Ns: n.Name})
			for _, a := range n.Addresses {
				if dns.IsSubDomain(z.Zone, n.Name) {
					m.Extra = append(m.Extra, address(dns.RR_Header{Name: n.Name, Class: dns.ClassINET, Ttl: 3600}, a))
				}
			}
		}
	case ask.Qtype == dns.TypeA || ask.Qtype == dns.TypeAAAA:
		addresses := fixed
		if steered {
			var ok bool
			if addresses, ok = d.nearest(now, v, client, ask.Qtype); !ok {
				m.Rcode, m.Authoritative = dns.RcodeServerFailure, false // resolvers then use what they had: RFC 8767
				return
			}
			if subnet != nil {
				subnet.SourceScope = subnet.SourceNetmask
			}
		}
		for _, a := range addresses {
			if a.Is4() == (ask.Qtype == dns.TypeA) {
				m.Answer = append(m.Answer, address(header(0, z.TTLSeconds), a))
			}
		}
	}
	if len(m.Answer) == 0 {
		soa := z.soa(d.begun)
		soa.Hdr.Ttl = soa.Minttl // RFC 2308 3
		m.Ns = append(m.Ns, soa)
	}
}

// nearest are addresses of the edges of the region that is best for a client. ok false: there are edges, and none is healthy.
func (d *DNS) nearest(now time.Time, v *view, client netip.Addr, kind uint16) ([]netip.Addr, bool) {
	nodes := v.v4
	if kind == dns.TypeAAAA {
		nodes = v.v6
	}
	if len(nodes) == 0 {
		return nil, len(v.of.nodes) > 0
	}
	p, _ := d.steer.cfg.Policy("")
	p.Max = perAnswer
	who := client.String()
	decision := geo.Decide(geo.Client{Place: d.steer.cfg.Locate(client), ID: who, Object: who}, nodes, p)
	var out []netip.Addr
	for _, k := range decision.Picks {
		if k.Region == decision.Picks[0].Region {
			out = append(out, v.addresses[k.Name]...)
		}
	}
	return out, len(out) > 0
}

func address(h dns.RR_Header, a netip.Addr) dns.RR {
	if a.Is4() {
		h.Rrtype = dns.TypeA
		return &dns.A{Hdr: h, A: a.AsSlice()}
	}
	h.Rrtype = dns.TypeAAAA
	return &dns.AAAA{Hdr: h, AAAA: a.AsSlice()}
}

// Run serves UDP and TCP until ctx ends.
func (d *DNS) Run(ctx context.Context, listen string, ready func()) error {
	packets, err := net.ListenPacket("udp", listen)
	if err != nil {
		return fmt.Errorf("DNS: %w", err)
	}
	streams, err := net.Listen("tcp", packets.LocalAddr().String())
	if err != nil {
		packets.Close()
		return fmt.Errorf("DNS: %w", err)
	}
	handler := func(udp bool) dns.Handler {
		return dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
			from, err := netip.ParseAddrPort(w.RemoteAddr().String())
			if err != nil {
				return
			}
			if m := d.Reply(time.Now(), q, from.Addr(), udp); m != nil {
				_ = w.WriteMsg(m) // the asker may be gone
			} else if !udp {
				_ = w.Close()
			}
		})
	}
	servers := []*dns.Server{
		{PacketConn: packets, Handler: handler(true), UDPSize: maxUDP},
		{Listener: streams, Handler: handler(false), ReadTimeout: 2 * time.Second, WriteTimeout: 2 * time.Second, IdleTimeout: func() time.Duration { return 5 * time.Second }, MaxTCPQueries: 128},
	}
	done := make(chan error, len(servers))
	up := make(chan struct{}, len(servers))
	for _, s := range servers {
		s.NotifyStartedFunc = func() { up <- struct{}{} }
		go func() { done <- s.ActivateAndServe() }()
	}
	ended := 0
	for range servers {
		select {
		case <-up:
		case err = <-done:
			ended++
		}
	}
	if err == nil {
		ready()
		select {
		case err = <-done:
			ended++
		case <-ctx.Done():
		}
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	for _, s := range servers {
		_ = s.ShutdownContext(stop) // one that has ended says so
	}
	for ; ended < len(servers); ended++ {
		err = errors.Join(err, <-done)
	}
	return err
}

// limiter counts the answers to each network in this second, in a table of fixed size: networks that share a place share
// the limit. The count is a little off when two meet at the turn of a second; nothing depends on it.
type limiter struct {
	seed  maphash.Seed
	most  int // negative: no limit
	slip  atomic.Uint64
	slots [1 << 14]atomic.Uint64 // second << 32 | count
}

func (l *limiter) over(now time.Time, from netip.Addr) bool {
	if l.most < 0 {
		return false
	}
	bits := 24
	if from.Is6() {
		bits = 56
	}
	p, err := from.Prefix(bits)
	if err != nil {
		return true
	}
	slot := &l.slots[maphash.Comparable(l.seed, p)%uint64(len(l.slots))]
	second := uint64(now.Unix()) << 32
	if v := slot.Load(); v&^0xffffffff != second {
		slot.Store(second + 1)
		return l.most < 1
	}
	return int(slot.Add(1)&0xffffffff) > l.most
}
