package cat

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"segue/media"

	"github.com/fxamacker/cbor/v2"
)

// Request is what of a request a token may restrict. Nothing of it is kept.
type Request struct {
	Method string
	Scheme string     // "http" or "https", as the client sees it
	Host   string     // the Host header: a name, perhaps with a port
	Key    media.Key  // the path, without the token and its first slash, decoded
	Client netip.Addr // invalid: unknown, in no network and no country
	// Country tells the ISO 3166 code of an address, "" when it is not known; it is asked only when a token wants to
	// know. Nil: a token that is limited to countries is refused.
	Country func(netip.Addr) string
}

// Part is a part of a URL that catu may restrict.
type Part int8

// Parts of catu. A parent path is the path up to its last slash, without it; a stem is the filename up to its first
// dot; an extension is the rest, with the dot.
const (
	Scheme Part = iota
	Host
	Port
	Path
	query // refused: the door drops queries, players put CMCD into them
	ParentPath
	Filename
	Stem
	Extension
)

// How says how a Match compares.
type How int8

// Ways to compare, with the numbers of CTA-5007. Regular expressions (4) are refused: their dialect is not ours.
const (
	Exact     How = 0
	Prefix    How = 1
	Suffix    How = 2
	Contains  How = 3
	SHA256    How = -1 // Value is the sum, not its text
	SHA512256 How = -2
)

// Match is one limit of catu.
type Match struct {
	Part  Part
	How   How
	Value string
}

var (
	errEnded     = denied("has expired")
	errObject    = denied("does not allow this object")
	errMethod    = denied("does not allow this method")
	errNetwork   = denied("does not allow this client address")
	errCountry   = denied("does not allow this country")
	errNoCountry = denied("is limited to countries, and none is known here for the client")
)

func denied(why string) error { return refuse(media.ErrDenied, why) }

func (c *Claims) ended(now time.Time) bool { return !now.Before(c.Expires.Add(Leeway)) }

// Check reports whether the claims grant a request now: nil, or an error that wraps media.ErrDenied and says which
// limit does not hold. It allocates nothing, but for some rare forms of Match, and for what Country does.
func (c *Claims) Check(now time.Time, r *Request) error {
	switch {
	case c.ended(now):
		return errEnded
	case len(c.Methods) > 0 && !slices.Contains(c.Methods, r.Method):
		return errMethod
	case !c.Allows(r.Key):
		return errObject
	}
	for i := range c.URI {
		if !c.URI[i].holds(r) {
			return errObject
		}
	}
	if len(c.Networks) > 0 {
		client := r.Client.Unmap().WithZone("")
		if !slices.ContainsFunc(c.Networks, func(p netip.Prefix) bool { return p.Contains(client) }) {
			return errNetwork
		}
	}
	if len(c.Countries) > 0 {
		if r.Country == nil || !r.Client.IsValid() {
			return errNoCountry
		}
		at := r.Country(r.Client)
		if at == "" {
			return errNoCountry
		}
		if !slices.ContainsFunc(c.Countries, func(code string) bool { return inRegion(at, code) }) {
			return errCountry
		}
	}
	return nil
}

// inRegion: a subdivision is in its country, but a country is not in its subdivision. Codes compare without case.
func inRegion(at, code string) bool {
	return len(at) >= len(code) && strings.EqualFold(at[:len(code)], code) && (len(at) == len(code) || at[len(code)] == '-')
}

// Allows reports whether the claims grant an object by PathPrefix and Renditions: its path begins with the one, and a
// rendition's file or playlist is of the others. Check asks about all the rest too.
func (c *Claims) Allows(key media.Key) bool {
	if c.PathPrefix != "" && (c.PathPrefix[0] != '/' || !strings.HasPrefix(string(key), c.PathPrefix[1:])) {
		return false
	}
	if len(c.Renditions) == 0 {
		return true
	}
	name := string(key)[strings.LastIndexByte(string(key), '/')+1:]
	switch name {
	case media.MasterPlaylist, media.Manifest, media.LimitedMasterPlaylist, media.LimitedManifest, media.TrackFile:
		return true
	}
	base, _, _ := strings.Cut(name, ".")
	return slices.Contains(c.Renditions, base)
}

func (c *Claims) limitsPath() bool {
	return c.PathPrefix != "" || slices.ContainsFunc(c.URI, func(m Match) bool { return m.Part == Path || m.Part == ParentPath })
}

func (m *Match) holds(r *Request) bool {
	var s string
	key := string(r.Key)
	name := key[strings.LastIndexByte(key, '/')+1:]
	switch m.Part {
	case Scheme:
		s = r.Scheme
	case Host:
		s = strings.ToLower(hostOf(r.Host))
	case Port:
		s = portOf(r.Scheme, r.Host)
	case Path:
		s = "/" + key
	case ParentPath:
		s = strings.TrimSuffix("/"+key, "/"+name)
	case Filename:
		s = name
	case Stem:
		s, _, _ = strings.Cut(name, ".")
	case Extension:
		s = ""
		if dot := strings.IndexByte(name, '.'); dot >= 0 {
			s = name[dot:]
		}
	default:
		return false
	}
	switch m.How {
	case Exact:
		return s == m.Value
	case Prefix:
		return strings.HasPrefix(s, m.Value)
	case Suffix:
		return strings.HasSuffix(s, m.Value)
	case Contains:
		return strings.Contains(s, m.Value)
	case SHA256:
		sum := sha256.Sum256([]byte(s))
		return string(sum[:]) == m.Value
	case SHA512256:
		sum := sha512.Sum512_256([]byte(s))
		return string(sum[:]) == m.Value
	}
	return false
}

func hostOf(s string) string {
	if host, _, err := net.SplitHostPort(s); err == nil {
		return host
	}
	return strings.Trim(s, "[]")
}

func portOf(scheme, host string) string {
	if _, port, err := net.SplitHostPort(host); err == nil && port != "" {
		return port
	}
	if scheme == "https" {
		return "443"
	}
	return "80"
}

func (c *Claims) encodeURI() map[int64]map[int64]any {
	out := map[int64]map[int64]any{}
	put := func(m Match) {
		if out[int64(m.Part)] == nil {
			out[int64(m.Part)] = map[int64]any{}
		}
		if m.How < 0 {
			out[int64(m.Part)][int64(m.How)] = []byte(m.Value)
			return
		}
		out[int64(m.Part)][int64(m.How)] = m.Value
	}
	for _, m := range c.URI {
		put(m)
	}
	if c.PathPrefix != "" {
		put(Match{Path, Prefix, c.PathPrefix})
	}
	return out
}

// parseURI reads catu: part -> way to compare -> value. Several limits must all hold.
func (c *Claims) parseURI(raw cbor.RawMessage) error {
	var catu map[int64]map[int64]cbor.RawMessage
	if err := dec.Unmarshal(raw, &catu); err != nil {
		return errors.New("has a broken catu")
	}
	for part := int64(Scheme); part <= int64(Extension); part++ { // in order: the same token always gives the same Claims
		hows := catu[part]
		if _, there := catu[part]; there && (len(hows) == 0 || Part(part) == query) {
			return errors.New("has a catu with an empty limit, or one on the query, which is not supported")
		}
		delete(catu, part)
		for _, how := range []How{SHA512256, SHA256, Exact, Prefix, Suffix, Contains} {
			raw, there := hows[int64(how)]
			if !there {
				continue
			}
			delete(hows, int64(how))
			m := Match{Part: Part(part), How: how}
			var ok bool
			if how < 0 {
				m.Value, ok = sum(raw)
			} else {
				ok = dec.Unmarshal(raw, &m.Value) == nil && (m.Value != "" || how == Exact)
			}
			switch {
			case !ok:
				return errors.New("has a broken catu")
			case m.Part == Path && m.How == Prefix:
				if m.Value[0] != '/' {
					return errors.New("has a catu with a path that does not begin with a slash")
				}
				c.PathPrefix = m.Value
			default:
				if m.Part == Host || m.Part == Scheme {
					m.Value = lowerUnlessSum(m)
				}
				c.URI = append(c.URI, m)
			}
		}
		if len(hows) > 0 {
			return errors.New("has a catu with a match that is not supported")
		}
	}
	if len(catu) > 0 {
		return errors.New("has a catu with a part of the URL that is not supported")
	}
	return nil
}

// lowerUnlessSum: RFC 3986 6.2.2.1, scheme and host have no case.
func lowerUnlessSum(m Match) string {
	if m.How < 0 {
		return m.Value
	}
	return strings.ToLower(m.Value)
}

// sum reads 32 bytes, or their hexadecimal text as some issuers send it.
func sum(raw cbor.RawMessage) (string, bool) {
	var b []byte
	if dec.Unmarshal(raw, &b) != nil {
		var s string
		if dec.Unmarshal(raw, &s) != nil {
			return "", false
		}
		var err error
		if b, err = hex.DecodeString(s); err != nil {
			return "", false
		}
	}
	return string(b), len(b) == sha256.Size
}
