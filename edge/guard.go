package edge

import (
	"bytes"
	"net/http"
)

// maxFields is how many header lines a request may have; browsers send about twenty.
const maxFields = 100

// guard judges a request's head by its bytes and returns 0, or the status to refuse it with; then the connection has to
// be closed, for two readers of the same bytes could disagree on where the request ends. It refuses what fasthttp 1.78
// lets through: obs-fold and bare line feeds (RFC 9112 5.2, 2.2), a length together with a transfer coding or one other
// than chunked (6.1, 6.3), too many fields, a version that is not ours, bytes in the target that no URL has. All else
// that smuggles, fasthttp refuses itself; smuggling_test.go has both lists. fields are the lines after the first one, as
// they came, with the empty one at the end. Nothing is allocated.
func guard(proto, target, fields []byte) int {
	if len(target) > maxURL {
		return http.StatusRequestURITooLong
	}
	if !bytes.HasPrefix(proto, []byte("HTTP/1.")) {
		return http.StatusHTTPVersionNotSupported
	}
	for _, c := range target {
		if c <= ' ' || c == 0x7f || c == '#' {
			return http.StatusBadRequest
		}
	}
	length, coding := false, false
	for n := 0; len(fields) > 0; n++ {
		end := bytes.IndexByte(fields, '\n')
		if end < 1 || fields[end-1] != '\r' || fields[0] == ' ' || fields[0] == '\t' {
			return http.StatusBadRequest
		}
		if n > maxFields {
			return http.StatusRequestHeaderFieldsTooLarge
		}
		line := fields[:end-1]
		fields = fields[end+1:]
		if len(line) < len("Content-Length:") { // both names are longer than most lines
			continue
		}
		switch {
		case line[14] == ':' && bytes.EqualFold(line[:14], []byte("Content-Length")):
			length = true
		case len(line) > 17 && line[17] == ':' && bytes.EqualFold(line[:17], []byte("Transfer-Encoding")):
			coding = true
			if !bytes.EqualFold(bytes.Trim(line[18:], " \t"), []byte("chunked")) {
				return http.StatusBadRequest
			}
		}
	}
	if length && coding {
		return http.StatusBadRequest
	}
	return 0
}
