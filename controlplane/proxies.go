package controlplane

import (
	"net"
	"net/http"
	"net/netip"
	"strings"

	"segue/internal/serve"
)

// proxies are the networks whose word on a client's address is believed.
type proxies []netip.Prefix

// parseProxies takes networks (10.0.0.0/8) and single addresses.
func parseProxies(list []string) (proxies, error) {
	var out proxies
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a, aerr := netip.ParseAddr(s)
			if aerr != nil {
				return nil, serve.Setupf("trusted proxy %q: want an address or a network, as 10.0.0.0/8", s)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

func (p proxies) trust(a netip.Addr) bool {
	for _, n := range p {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// client is the address that a request came from, and whether it came over TLS: the last one on the way that no trusted
// proxy stands for. What strangers write into the headers stands further left, and is never read.
func (p proxies) client(r *http.Request) (netip.Addr, bool) {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	addr, _ := netip.ParseAddr(host)
	addr, secure := addr.Unmap().WithZone(""), r.TLS != nil
	if !p.trust(addr) {
		return addr, secure
	}
	hops, proto := forwarded(r.Header)
	if proto != "" {
		secure = strings.EqualFold(proto, "https")
	}
	for i := len(hops) - 1; i >= 0; i-- {
		hop, ok := hopAddr(hops[i])
		if !ok {
			break // hidden or nonsense: the proxy that wrote it is all that is known
		}
		addr = hop
		if !p.trust(addr) {
			break
		}
	}
	return addr, secure
}

// forwarded lists the hops, client first, of Forwarded (RFC 7239) or else X-Forwarded-For, and the protocol that the
// nearest proxy says.
func forwarded(h http.Header) (hops []string, proto string) {
	if all := h.Values("Forwarded"); len(all) > 0 {
		for element := range strings.SplitSeq(strings.Join(all, ","), ",") {
			hop := ""
			for pair := range strings.SplitSeq(element, ";") {
				name, value, _ := strings.Cut(strings.TrimSpace(pair), "=")
				value = strings.Trim(strings.TrimSpace(value), `"`)
				switch strings.ToLower(strings.TrimSpace(name)) {
				case "for":
					hop = value
				case "proto":
					proto = value
				}
			}
			hops = append(hops, hop)
		}
		return hops, proto
	}
	if all := h.Values("X-Forwarded-For"); len(all) > 0 {
		hops = strings.Split(strings.Join(all, ","), ",")
	}
	if all := h.Values("X-Forwarded-Proto"); len(all) > 0 {
		list := strings.Split(all[len(all)-1], ",")
		proto = strings.TrimSpace(list[len(list)-1])
	}
	return hops, proto
}

// hopAddr reads 192.0.2.1, 192.0.2.1:80, 2001:db8::1, [2001:db8::1] and [2001:db8::1]:80.
func hopAddr(s string) (netip.Addr, bool) {
	s = strings.TrimSpace(s)
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return a.Unmap().WithZone(""), true
	}
	if a, err := netip.ParseAddrPort(s); err == nil {
		return a.Addr().Unmap().WithZone(""), true
	}
	return netip.Addr{}, false
}

// network names the one who is likely behind an address: an IPv4 address, a /64 of IPv6, which one customer has whole.
func network(a netip.Addr) string {
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}
