package dash

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"strings"

	"segue/media"
)

// MaxManifest bounds a manifest that is read, in bytes.
const MaxManifest = 1 << 20

// Pathway is one place that has everything a manifest names: a service location in DASH's words.
type Pathway struct {
	ID  string // serviceLocation
	URL string // folder of the manifest there, absolute, with its trailing slash
}

// Document is a manifest that was read, cut where its locations go. It is not changed by its methods.
type Document struct {
	before, after []byte // the bytes around
	prefix        string // of the elements' names: "" or "mpd:"
}

// Parse reads a manifest whose URLs are relative to it, as they have to be to lie on several pathways. Locations of the
// whole manifest and content steering that it has already are dropped. Errors wrap media.ErrInvalid.
func Parse(b []byte) (*Document, error) {
	bad := func(why string) (*Document, error) {
		return nil, fmt.Errorf("manifest: %s: %w", why, media.ErrInvalid)
	}
	if len(b) > MaxManifest {
		return bad("too long")
	}
	d := &Document{}
	x := xml.NewDecoder(bytes.NewReader(b))
	x.Strict = true
	var open []string // names of the elements around
	from := int64(0)  // what is kept begins here
	skip := -1        // depth of an element that is dropped
	text := ""        // in a BaseURL
	cut := false
	keep := func(to int64) {
		if cut {
			d.after = append(d.after, b[from:to]...)
		} else {
			d.before = append(d.before, b[from:to]...)
		}
		from = to
	}
	for {
		at := x.InputOffset()
		token, err := x.RawToken()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return bad(err.Error())
		}
		switch e := token.(type) {
		case xml.Directive:
			return bad("document type declarations are not read")
		case xml.StartElement:
			if len(open) == 0 {
				if e.Name.Local != "MPD" || cut {
					return bad("want one MPD element")
				}
				if e.Name.Space != "" {
					d.prefix = e.Name.Space + ":"
				}
				if bytes.HasSuffix(b[at:x.InputOffset()], []byte("/>")) {
					return bad("it is empty")
				}
				keep(x.InputOffset())
				cut = true
			}
			if name := e.Name.Local; skip < 0 && len(open) == 1 && (name == "BaseURL" || name == "ContentSteering" || name == "Location") {
				keep(at)
				skip = len(open)
			}
			if skip < 0 {
				for _, a := range e.Attr {
					switch a.Name.Local {
					case "media", "initialization", "index", "sourceURL":
						if err := relative(a.Value); err != nil {
							return bad(err.Error())
						}
					}
				}
			}
			open = append(open, e.Name.Space+":"+e.Name.Local)
			text = ""
		case xml.CharData:
			text += string(e)
		case xml.EndElement:
			if len(open) == 0 || open[len(open)-1] != e.Name.Space+":"+e.Name.Local {
				return bad("elements are not closed in order")
			}
			open = open[:len(open)-1]
			if skip < 0 && e.Name.Local == "BaseURL" {
				if err := relative(strings.TrimSpace(text)); err != nil {
					return bad(err.Error())
				}
			}
			if skip == len(open) {
				from, skip = x.InputOffset(), -1
			}
		}
	}
	if !cut || len(open) > 0 {
		return bad("it ends early")
	}
	keep(int64(len(b)))
	return d, nil
}

// relative refuses a URL that would leave the pathway's folder or its token.
func relative(s string) error {
	u, err := url.Parse(strings.NewReplacer("$", "", "%", "").Replace(s)) // identifiers of templates: $Number%05d$
	if err != nil || u.IsAbs() || u.Host != "" || u.User != nil || strings.HasPrefix(u.Path, "/") || strings.Contains(s, "\\") {
		return fmt.Errorf("URL %q is not relative to the manifest", s)
	}
	if clean := path.Clean(u.Path); clean == ".." || strings.HasPrefix(clean, "../") {
		return fmt.Errorf("URL %q leaves the manifest's folder", s)
	}
	return nil
}

// Steered prints the manifest with one BaseURL per pathway, and with the steering server that says which of them to use
// (ETSI TS 103 998 6): server is absolute. A player asks it before it begins, since Shaka takes the URLs of a SegmentBase
// once, and would know one pathway only; without an answer it uses the first. pathways holds at least one.
func (d *Document) Steered(server string, pathways []Pathway) []byte {
	out := make([]byte, 0, len(d.before)+len(d.after)+len(server)+300*len(pathways))
	out = append(out, d.before...)
	for _, w := range pathways {
		out = fmt.Appendf(out, "\n  <%sBaseURL serviceLocation=\"%s\">%s</%sBaseURL>", d.prefix, escape(w.ID), escape(w.URL), d.prefix)
	}
	out = fmt.Appendf(out, "\n  <%sContentSteering defaultServiceLocation=\"%s\" queryBeforeStart=\"true\">%s</%sContentSteering>", d.prefix, escape(pathways[0].ID), escape(server), d.prefix)
	return append(out, d.after...)
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder takes everything
	return b.String()
}
