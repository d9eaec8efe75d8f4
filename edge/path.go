package edge

import (
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"

	"segue/media"
)

// normalPath brings the path of a request target, as sent and without its query, into the one form that routes, tokens
// and keys go by (RFC 3986 6.2.2): what needs no encoding is decoded, what needs one is encoded, in upper case. An
// encoded slash stays encoded, for it is no separator. What two servers could understand differently is refused, with
// an error that wraps media.ErrInvalid: dot segments, encoded or not, two slashes at the start (a host, to some),
// backslashes, control characters, broken encodings, overlong UTF-8. A normal path costs no allocation.
func normalPath(raw string) (string, error) {
	if !strings.HasPrefix(raw, "/") || strings.HasPrefix(raw, "//") {
		return "", badPath("begins with one slash")
	}
	path, err := recode(raw)
	if err != nil {
		return "", err
	}
	if !strings.Contains(path, "/.") { // nearly all
		return path, nil
	}
	for segment := range strings.SplitSeq(path[1:], "/") {
		if name, _, _ := strings.Cut(segment, ";"); name == "." || name == ".." { // some servers cut parameters off first
			return "", badPath("has no dot segments")
		}
	}
	return path, nil
}

// objectKey is the key that a normal path names, or a part of one that begins after a slash. Errors wrap
// media.ErrInvalid: an encoded slash, bytes that are no UTF-8, and what media.ParseKey refuses.
func objectKey(path string) (media.Key, error) {
	if strings.Contains(path, "%2F") {
		return "", badPath("has no encoded slash")
	}
	name, err := url.PathUnescape(path)
	if err != nil || !utf8.ValidString(name) {
		return "", badPath("is UTF-8")
	}
	return media.ParseKey(name)
}

func badPath(should string) error { return fmt.Errorf("a path %s: %w", should, media.ErrInvalid) }

// recode is the part of normalPath that works on bytes.
func recode(raw string) (string, error) {
	var out []byte // nil: all of raw so far is normal
	var before byte
	for i := 0; i < len(raw); i++ {
		c, size := raw[i], 1
		if pathBytes[c] && out == nil {
			before = c
			continue
		}
		if c == '%' {
			if i+2 >= len(raw) {
				return "", badPath("has whole percent-encodings")
			}
			high, low := unhex(raw[i+1]), unhex(raw[i+2])
			if high < 0 || low < 0 {
				return "", badPath("has whole percent-encodings")
			}
			c, size = byte(high<<4|low), 3
		}
		switch {
		case c < ' ' || c == 0x7f || c == '\\' || size == 1 && (c == ' ' || c == '#' || c == '?'):
			return "", badPath("has no control characters, backslashes and fragments")
		case c == 0xc0, c == 0xc1, before == 0xe0 && c >= 0x80 && c < 0xa0, before == 0xf0 && c >= 0x80 && c < 0x90: // RFC 3629 10
			return "", badPath("has no overlong UTF-8")
		}
		before = c
		plain := isUnreserved(c) || size == 1 && pathBytes[c]
		normal := plain && size == 1 || !plain && size == 3 && isUpper(raw[i+1]) && isUpper(raw[i+2])
		if out == nil && !normal {
			out = append(make([]byte, 0, len(raw)+16), raw[:i]...)
		}
		switch {
		case out == nil:
		case plain:
			out = append(out, c)
		default:
			const digits = "0123456789ABCDEF"
			out = append(out, '%', digits[c>>4], digits[c&15])
		}
		i += size - 1
	}
	if out == nil {
		return raw, nil
	}
	return string(out), nil
}

// pathBytes are those that stand for themselves in a path: RFC 3986 3.3, pchar and the slash.
var pathBytes = func() (set [256]bool) {
	for c := range set {
		set[c] = isUnreserved(byte(c)) || strings.IndexByte("/:@!$&'()*+,;=", byte(c)) >= 0
	}
	return set
}()

// isUnreserved is RFC 3986 2.3.
func isUnreserved(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || c == '-' || c == '.' || c == '_' || c == '~'
}

func isUpper(c byte) bool { return c < 'a' }

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}
