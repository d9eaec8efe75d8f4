package loadtest

import (
	"net/url"
	"strconv"
	"strings"
	"time"

	"segue/media"
)

// variant is one rendition of a master playlist, on one pathway.
type variant struct {
	name    string // of the rendition: the playlist's file without its ending
	bps     int
	pathway string // empty: the playlist names none
	base    string // folder, absolute, with its trailing slash
}

// master is what a player learns of a multivariant playlist.
type master struct {
	variants []variant
	steering string // SERVER-URI, absolute; empty: none
	first    string // PATHWAY-ID to begin with
}

// attribute finds NAME=value in an attribute list (RFC 8216 4.2), without quotes.
func attribute(list, name string) string {
	for list != "" {
		key, rest, ok := strings.Cut(list, "=")
		if !ok {
			return ""
		}
		var value string
		if strings.HasPrefix(rest, `"`) {
			value, list, _ = strings.Cut(rest[1:], `"`)
			list = strings.TrimPrefix(list, ",")
		} else {
			value, list, _ = strings.Cut(rest, ",")
		}
		if strings.TrimSpace(key) == name {
			return value
		}
	}
	return ""
}

// parseMaster reads a multivariant playlist that came from a URL.
func parseMaster(from string, b []byte) (master, error) {
	var m master
	base, err := url.Parse(from)
	if err != nil || !strings.HasPrefix(string(b), "#EXTM3U") {
		return m, fail(kindProtocol, "%s is no playlist", from)
	}
	absolute := func(s string) string {
		u, err := base.Parse(s)
		if err != nil {
			return ""
		}
		return u.String()
	}
	inf := ""
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "#EXT-X-CONTENT-STEERING:"):
			list := line[len("#EXT-X-CONTENT-STEERING:"):]
			m.steering, m.first = absolute(attribute(list, "SERVER-URI")), attribute(list, "PATHWAY-ID")
		case strings.HasPrefix(line, "#EXT-X-STREAM-INF:"):
			inf = line[len("#EXT-X-STREAM-INF:"):]
		case line == "" || line[0] == '#':
		default:
			at := absolute(line)
			slash := strings.LastIndexByte(at, '/')
			bps, _ := strconv.Atoi(attribute(inf, "AVERAGE-BANDWIDTH"))
			if bps == 0 {
				bps, _ = strconv.Atoi(attribute(inf, "BANDWIDTH"))
			}
			if slash < 0 || inf == "" {
				return m, fail(kindProtocol, "%s has a variant that cannot be read", from)
			}
			file, _, _ := strings.Cut(at[slash+1:], "?")
			m.variants = append(m.variants, variant{strings.TrimSuffix(file, ".m3u8"), bps, attribute(inf, "PATHWAY-ID"), at[:slash+1]})
			inf = ""
		}
	}
	if len(m.variants) == 0 {
		return m, fail(kindProtocol, "%s has no variants", from)
	}
	return m, nil
}

// tape is a media playlist: where which second of a rendition lies in its file. It is shared by all who play it.
type tape struct {
	key      media.Key // of the file
	init     media.ByteSpan
	spans    []media.ByteSpan
	starts   []time.Duration // of each segment, and the end of the last
	segments int
}

// length is the playing time.
func (t *tape) length() time.Duration { return t.starts[t.segments] }

// parseTape reads a media playlist of byte ranges in one file. key is that of the playlist.
func parseTape(key media.Key, b []byte) (*tape, error) {
	bad := func(why string) (*tape, error) { return nil, fail(kindProtocol, "%s: %s", key, why) }
	if !strings.HasPrefix(string(b), "#EXTM3U") {
		return bad("no playlist")
	}
	span := func(s string) (media.ByteSpan, bool) {
		size, offset, ok := strings.Cut(s, "@")
		n, err1 := strconv.ParseInt(size, 10, 64)
		at, err2 := strconv.ParseInt(offset, 10, 64)
		return media.ByteSpan{Offset: at, Size: n}, ok && err1 == nil && err2 == nil && n > 0 && at >= 0
	}
	t := &tape{}
	var at time.Duration
	var next media.ByteSpan
	var lasts time.Duration
	file := ""
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		var ok bool
		switch {
		case strings.HasPrefix(line, "#EXT-X-MAP:"):
			if t.init, ok = span(attribute(line[len("#EXT-X-MAP:"):], "BYTERANGE")); !ok {
				return bad("EXT-X-MAP without a range")
			}
		case strings.HasPrefix(line, "#EXTINF:"):
			text, _, _ := strings.Cut(line[len("#EXTINF:"):], ",")
			s, err := strconv.ParseFloat(text, 64)
			if err != nil || !(s > 0 && s < 3600) {
				return bad("EXTINF " + text)
			}
			lasts = time.Duration(s * float64(time.Second))
		case strings.HasPrefix(line, "#EXT-X-BYTERANGE:"):
			if next, ok = span(line[len("#EXT-X-BYTERANGE:"):]); !ok {
				return bad("EXT-X-BYTERANGE without an offset")
			}
		case line == "" || line[0] == '#':
		default:
			if lasts == 0 || next.Size == 0 || file != "" && file != line {
				return bad("a segment that is no range of the one file")
			}
			file = line
			t.spans, t.starts = append(t.spans, next), append(t.starts, at)
			at += lasts
			lasts, next = 0, media.ByteSpan{}
		}
	}
	if len(t.spans) == 0 || t.init.Size == 0 {
		return bad("no segments")
	}
	t.segments, t.starts = len(t.spans), append(t.starts, at)
	folder := string(key)[:strings.LastIndexByte(string(key), '/')+1]
	t.key = media.Key(folder + file)
	return t, nil
}
