package cat

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// Claims is what a token grants. An empty field does not restrict, but for Expires and the path, which are required.
type Claims struct {
	Issuer     string
	ID         string         // cti: names the grant, for revocation; a renewed token keeps it
	NotBefore  time.Time      // whole seconds; zero: no limit
	Expires    time.Time      // whole seconds
	PathPrefix string         // catu: the path, without the token, begins so. Empty: URI has to limit the path
	URI        []Match        // catu: all other limits on the URL; each must hold
	Methods    []string       // catm
	Networks   []netip.Prefix // catnip: the client is in one of them
	Countries  []string       // catgeoiso3166: codes of ISO 3166-1 ("SE") or 3166-2 ("SE-AB"); the client is in one
	Renewal    Renewal        // catr; zero: none
	PlayID     string         // private: the playback it was made for
	Plan       string         // private
	Renditions []string       // private: names allowed in the folder of a track
}

// Claim keys: RFC 8392 4, CTA-5007 and, below -65536, ours (RFC 8392 9.1: private use).
const (
	claimIss, claimSub, claimExp, claimNbf, claimIat, claimCti = 1, 2, 4, 5, 6, 7

	claimCatreplay, claimCatv, claimCatnip, claimCatu, claimCatm = 308, 310, 311, 312, 313
	claimGeoISO3166, claimCatr                                   = 316, 323

	claimPlay, claimPlan, claimRenditions = -70001, -70002, -70003
)

// unsupported names the claims that a foreign issuer may send and that are not enforced here, for a clear reason.
var unsupported = map[int64]string{3: "aud", 8: "cnf", 282: "geohash", 309: "catpor", 314: "catalpn", 315: "cath", 317: "catgeocoord",
	318: "catgeoalt", 319: "cattpk", 320: "catifdata", 321: "catdpop", 322: "catif"}

// Tags of catnip: RFC 9164 3.
const tagIPv4, tagIPv6 = 52, 54

func (c *Claims) encode() map[int64]any {
	m := map[int64]any{claimIss: c.Issuer, claimExp: c.Expires.Unix(), claimCti: []byte(c.ID), claimCatv: 1, claimCatu: c.encodeURI()}
	put := func(key int64, v any, there bool) {
		if there {
			m[key] = v
		}
	}
	put(claimNbf, c.NotBefore.Unix(), !c.NotBefore.IsZero())
	put(claimCatm, c.Methods, len(c.Methods) > 0)
	put(claimGeoISO3166, c.Countries, len(c.Countries) > 0)
	put(claimPlay, c.PlayID, c.PlayID != "")
	put(claimPlan, c.Plan, c.Plan != "")
	put(claimRenditions, c.Renditions, len(c.Renditions) > 0)
	put(claimCatr, c.Renewal.encode(), c.Renewal.Extend > 0)
	var networks []cbor.Tag
	for _, p := range c.Networks {
		tag := uint64(tagIPv4)
		if p.Addr().Is6() {
			tag = tagIPv6
		}
		networks = append(networks, cbor.Tag{Number: tag, Content: []any{p.Bits(), trimZeros(p.Masked().Addr().AsSlice())}})
	}
	put(claimCatnip, networks, len(networks) > 0)
	return m
}

// parseClaims reads a payload. Its errors complete "token …".
func parseClaims(payload []byte) (Claims, error) {
	var c Claims
	var raw map[int64]cbor.RawMessage
	if err := dec.Unmarshal(payload, &raw); err != nil {
		return c, errors.New("has broken claims")
	}
	for k, v := range raw {
		var err error
		switch k {
		case claimIss:
			err = dec.Unmarshal(v, &c.Issuer)
		case claimExp:
			c.Expires, err = seconds(v)
		case claimNbf:
			c.NotBefore, err = seconds(v)
		case claimCti:
			var id []byte
			err = dec.Unmarshal(v, &id)
			c.ID = string(id)
		case claimCatv:
			if !isInt(v, 1) {
				err = errors.New("is of a version other than 1")
			}
		case claimCatreplay:
			if !isInt(v, 0) { // 1 and 2 need a count of uses that is shared by all edges
				err = errors.New("may be used once only, which is not supported")
			}
		case claimCatu:
			err = c.parseURI(v)
		case claimCatm:
			c.Methods, err = texts(v)
		case claimGeoISO3166:
			c.Countries, err = texts(v)
		case claimCatnip:
			c.Networks, err = networks(v)
		case claimCatr:
			c.Renewal, err = parseRenewal(v)
		case claimPlay:
			err = dec.Unmarshal(v, &c.PlayID)
		case claimPlan:
			err = dec.Unmarshal(v, &c.Plan)
		case claimRenditions:
			c.Renditions, err = texts(v)
		case claimSub, claimIat: // they inform and do not restrict
		default:
			err = fmt.Errorf("holds the claim %d %s, which is not supported", k, unsupported[k])
		}
		if err != nil {
			return c, err
		}
	}
	if c.Expires.IsZero() || !c.limitsPath() {
		return c, errors.New("has no end or no path")
	}
	return c, nil
}

func isInt(raw cbor.RawMessage, want int64) bool {
	var n int64
	return dec.Unmarshal(raw, &n) == nil && n == want
}

// texts reads a list of alternatives. None would allow nobody: such a token is a mistake.
func texts(raw cbor.RawMessage) ([]string, error) {
	var list []string
	if err := dec.Unmarshal(raw, &list); err != nil || len(list) == 0 {
		return nil, errors.New("has a broken or empty list")
	}
	return list, nil
}

// seconds reads a NumericDate of RFC 8392 2: an integer or a float.
func seconds(raw cbor.RawMessage) (time.Time, error) {
	f, err := number(raw)
	if err != nil || f < 0 || f > 1<<40 { // 36,000 years: a time.Time counts right up to there
		return time.Time{}, errors.New("has a broken date")
	}
	return time.Unix(int64(f), 0).UTC(), nil
}

// number reads an integer or a float. Integers up to 2^53 are exact.
func number(raw cbor.RawMessage) (float64, error) {
	var n int64
	if err := dec.Unmarshal(raw, &n); err == nil {
		return float64(n), nil
	}
	var f float64
	if err := dec.Unmarshal(raw, &f); err != nil || math.IsNaN(f) {
		return 0, errors.New("has a broken number")
	}
	return f, nil
}

// networks reads catnip: tagged addresses and prefixes of RFC 9164, and numbers of autonomous systems. One that matches
// is enough, so a number, which no verifier here can look up, matches nobody; with nothing else the token is refused.
func networks(raw cbor.RawMessage) ([]netip.Prefix, error) {
	var list []cbor.RawMessage
	if err := dec.Unmarshal(raw, &list); err != nil {
		return nil, errors.New("has a broken catnip")
	}
	var out []netip.Prefix
	for _, item := range list {
		var asn uint32
		if dec.Unmarshal(item, &asn) == nil {
			continue
		}
		p, ok := network(item)
		if !ok {
			return nil, errors.New("has a broken catnip")
		}
		out = append(out, p)
	}
	if len(out) == 0 {
		return nil, errors.New("limits the client by autonomous system, which is not supported")
	}
	return out, nil
}

func network(item cbor.RawMessage) (p netip.Prefix, ok bool) {
	var tag cbor.RawTag
	if dec.Unmarshal(item, &tag) != nil || tag.Number != tagIPv4 && tag.Number != tagIPv6 {
		return p, false
	}
	size := 4
	if tag.Number == tagIPv6 {
		size = 16
	}
	var b []byte
	bits := size * 8
	if dec.Unmarshal(tag.Content, &b) != nil { // RFC 9164 3.1.2: [length, prefix without trailing zeros]
		var pair []cbor.RawMessage
		if dec.Unmarshal(tag.Content, &pair) != nil || len(pair) != 2 || dec.Unmarshal(pair[0], &bits) != nil || dec.Unmarshal(pair[1], &b) != nil {
			return p, false
		}
		for len(b) < size {
			b = append(b, 0)
		}
	}
	addr, ok := netip.AddrFromSlice(b)
	if !ok || len(b) != size || bits < 0 || bits > size*8 {
		return p, false
	}
	return netip.PrefixFrom(addr, bits).Masked(), true
}

func trimZeros(b []byte) []byte {
	for len(b) > 0 && b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	return b
}
