package hls

import (
	"bytes"
	"fmt"
	"net/url"
	"path"
	"strings"

	"segue/media"
)

// MaxMultivariant bounds a multivariant playlist that is read, in bytes.
const MaxMultivariant = 1 << 20

// Pathway is one place that has everything a multivariant playlist names: RFC 8216bis 4.4.6.6 and 7.
type Pathway struct {
	ID  string // [A-Za-z0-9._-]+
	URL string // folder of the playlist there, absolute, with its trailing slash
}

// Playlist is a multivariant playlist that was read. It is not changed by its methods.
type Playlist struct {
	head     []string // other tags, as they were
	media    []entry  // EXT-X-MEDIA
	variants []entry  // EXT-X-STREAM-INF and EXT-X-I-FRAME-STREAM-INF
}

// entry is a tag with attributes, and what it points at.
type entry struct {
	tag   string
	attrs []attr
	uri   string // empty: none
	id    string // STABLE-VARIANT-ID or STABLE-RENDITION-ID
}

type attr struct{ name, value string } // value as written, with its quotes

// Variant names a variant stream for PER-VARIANT-URIS of a pathway clone.
type Variant struct {
	ID  string // STABLE-VARIANT-ID of Steered
	URI string // relative to the playlist
}

const (
	tagVariant = "#EXT-X-STREAM-INF:"
	tagIFrames = "#EXT-X-I-FRAME-STREAM-INF:"
	tagMedia   = "#EXT-X-MEDIA:"
	tagSteer   = "#EXT-X-CONTENT-STEERING"
)

// ParseMultivariant reads a multivariant playlist whose URIs are relative to it, as they have to be to lie on several
// pathways. Content steering that it has already is dropped. Errors wrap media.ErrInvalid.
func ParseMultivariant(b []byte) (*Playlist, error) {
	bad := func(line int, why string) (*Playlist, error) {
		return nil, fmt.Errorf("multivariant playlist, line %d: %s: %w", line, why, media.ErrInvalid)
	}
	if len(b) > MaxMultivariant {
		return bad(1, "too long")
	}
	p := &Playlist{}
	waits := -1 // the variant whose URI comes next
	n := 0
	for line := range bytes.Lines(b) {
		n++
		s := strings.TrimRight(string(line), " \t\r\n")
		if strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 && r != '\t' || r == 0x7f }) {
			return bad(n, "control character")
		}
		if n == 1 {
			if strings.TrimPrefix(s, "\ufeff") != "#EXTM3U" {
				return bad(n, "want #EXTM3U")
			}
			continue
		}
		switch {
		case s == "" || s[0] == '#' && !strings.HasPrefix(s, "#EXT"):
		case strings.HasPrefix(s, tagSteer):
		case strings.HasPrefix(s, "#EXTINF") || strings.HasPrefix(s, "#EXT-X-TARGETDURATION"):
			return bad(n, "this is a media playlist")
		case strings.HasPrefix(s, tagVariant), strings.HasPrefix(s, tagIFrames), strings.HasPrefix(s, tagMedia):
			tag, list, _ := strings.Cut(s, ":")
			attrs, err := attributes(list)
			if err != nil {
				return bad(n, err.Error())
			}
			e := entry{tag: tag + ":", attrs: attrs, uri: value(attrs, "URI")}
			if e.tag == tagMedia {
				if value(attrs, "GROUP-ID") == "" {
					return bad(n, "EXT-X-MEDIA without GROUP-ID")
				}
				e.id = stable(value(attrs, "STABLE-RENDITION-ID"), e.uri)
				p.media = append(p.media, e)
			} else {
				e.id = stable(value(attrs, "STABLE-VARIANT-ID"), e.uri)
				p.variants = append(p.variants, e)
			}
			if e.uri != "" {
				if err := relative(e.uri); err != nil {
					return bad(n, err.Error())
				}
			}
			if e.tag == tagVariant {
				if waits >= 0 {
					return bad(n, "the variant before has no URI")
				}
				waits = len(p.variants) - 1
			}
		case s[0] == '#':
			p.head = append(p.head, s)
		case waits < 0:
			return bad(n, "URI without EXT-X-STREAM-INF")
		default:
			if err := relative(s); err != nil {
				return bad(n, err.Error())
			}
			v := &p.variants[waits]
			v.uri, v.id = s, stable(value(v.attrs, "STABLE-VARIANT-ID"), s)
			waits = -1
		}
	}
	if waits >= 0 || len(p.variants) == 0 {
		return bad(n, "a variant without URI, or none at all")
	}
	return p, nil
}

// value is the value of an attribute without its quotes; empty: it is not there.
func value(attrs []attr, name string) string {
	for _, a := range attrs {
		if a.name == name {
			return strings.Trim(a.value, `"`)
		}
	}
	return ""
}

// attributes reads an attribute list: RFC 8216 4.2.
func attributes(s string) ([]attr, error) {
	var out []attr
	for s != "" {
		name, rest, ok := strings.Cut(s, "=")
		if name = strings.TrimSpace(name); !ok || name == "" || strings.ContainsAny(name, "\", ") {
			return nil, fmt.Errorf("broken attribute list")
		}
		end := strings.IndexByte(rest, ',')
		if strings.HasPrefix(rest, `"`) {
			quote := strings.IndexByte(rest[1:], '"')
			if quote < 0 {
				return nil, fmt.Errorf("attribute %s has no closing quote", name)
			}
			end = quote + 2
			if end < len(rest) && rest[end] != ',' {
				return nil, fmt.Errorf("broken attribute list")
			}
			if end == len(rest) {
				end = -1
			}
		}
		v := rest
		if s = ""; end >= 0 {
			v, s = rest[:end], rest[end+1:]
		}
		if !strings.HasPrefix(v, `"`) && strings.Contains(v, `"`) {
			return nil, fmt.Errorf("broken attribute list")
		}
		out = append(out, attr{name, v})
	}
	return out, nil
}

// relative refuses a URI that would leave the pathway's folder or its token.
func relative(uri string) error {
	u, err := url.Parse(uri)
	if err != nil || u.IsAbs() || u.Host != "" || u.User != nil || strings.HasPrefix(u.Path, "/") || u.Path == "" || strings.ContainsAny(uri, "\"\\") {
		return fmt.Errorf("URI is not relative to the playlist")
	}
	if clean := path.Clean(u.Path); clean == ".." || strings.HasPrefix(clean, "../") {
		return fmt.Errorf("URI leaves the playlist's folder")
	}
	return nil
}

// stable is an ID as the playlist gives it, or one made from the file's name: RFC 8216bis 4.4.6.2, letters, digits, + / = . - _.
func stable(given, uri string) string {
	if given != "" {
		return given
	}
	name, _, _ := strings.Cut(uri, "?")
	name = strings.TrimSuffix(name, path.Ext(name))
	return strings.Map(func(r rune) rune {
		if r < 0x80 && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("+/=.-_", r)) {
			return r
		}
		return '_'
	}, name)
}

// Variants lists the variant streams in their order.
func (p *Playlist) Variants() []Variant {
	out := make([]Variant, 0, len(p.variants))
	for _, v := range p.variants {
		if v.uri != "" {
			out = append(out, Variant{v.id, v.uri})
		}
	}
	return out
}

// Steered prints the playlist with everything once per pathway, on absolute URLs, and with the steering server that says
// which of them to use. Until its first answer a player uses the first. For a player that knows no steering the others
// are redundant streams, RFC 8216 6.2.4. pathways holds at least one.
func (p *Playlist) Steered(server string, pathways []Pathway) []byte {
	b := make([]byte, 0, 256+len(pathways)*(len(p.variants)+len(p.media))*512)
	b = append(b, "#EXTM3U\n"...)
	for _, s := range p.head {
		b = append(append(b, s...), '\n')
	}
	b = append(b, tagSteer...)
	b = append(b, `:SERVER-URI="`...)
	b = append(b, server...)
	b = append(b, `",PATHWAY-ID="`...)
	b = append(b, pathways[0].ID...)
	b = append(b, "\"\n"...)
	for i, w := range pathways {
		for _, e := range p.media {
			b = append(b, e.tag...)
			for j, a := range e.attrs {
				b = comma(b, j)
				switch a.name {
				case "GROUP-ID":
					b = fmt.Appendf(b, `GROUP-ID="%s"`, group(a.value, i, w))
				case "URI":
					b = fmt.Appendf(b, `URI="%s%s"`, w.URL, e.uri)
				default:
					b = append(append(append(b, a.name...), '='), a.value...)
				}
			}
			if e.uri != "" && value(e.attrs, "STABLE-RENDITION-ID") == "" {
				b = fmt.Appendf(b, `,STABLE-RENDITION-ID="%s"`, e.id)
			}
			b = append(b, '\n')
		}
	}
	for i, w := range pathways {
		for _, e := range p.variants {
			b = append(b, e.tag...)
			n := 0
			for _, a := range e.attrs {
				switch a.name {
				case "PATHWAY-ID":
					continue
				case "AUDIO", "VIDEO", "SUBTITLES":
					b = fmt.Appendf(comma(b, n), `%s="%s"`, a.name, group(a.value, i, w))
				case "URI":
					b = fmt.Appendf(comma(b, n), `URI="%s%s"`, w.URL, e.uri)
				case "CLOSED-CAPTIONS":
					v := a.value
					if strings.HasPrefix(v, `"`) {
						v = `"` + group(v, i, w) + `"`
					}
					b = fmt.Appendf(comma(b, n), "CLOSED-CAPTIONS=%s", v)
				default:
					b = append(append(append(comma(b, n), a.name...), '='), a.value...)
				}
				n++
			}
			if value(e.attrs, "STABLE-VARIANT-ID") == "" {
				b = fmt.Appendf(comma(b, n), `STABLE-VARIANT-ID="%s"`, e.id)
				n++
			}
			b = append(comma(b, n), `PATHWAY-ID="`...)
			b = append(append(b, w.ID...), '"', '\n')
			if e.tag == tagVariant {
				b = append(append(append(b, w.URL...), e.uri...), '\n')
			}
		}
	}
	return b
}

func comma(b []byte, i int) []byte {
	if i > 0 {
		return append(b, ',')
	}
	return b
}

// group names a rendition group of a pathway: each has its own, since the URIs differ.
func group(quoted string, i int, w Pathway) string {
	name := strings.Trim(quoted, `"`)
	if i == 0 {
		return name
	}
	return name + "@" + w.ID
}
