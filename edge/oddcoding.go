package edge

import (
	"bytes"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
)

// Some origins send a Transfer-Encoding that is no coding at all, and the body as it is. net/http refuses such a
// response. So the connections on which requests without a body go out take that field out of a response's head; the
// body then ends with the connection, RFC 9112 6.3.

// codings are the registered transfer codings, which change the bytes: they are left to net/http.
var codings = []string{"", "chunked", "compress", "deflate", "gzip", "identity", "x-compress", "x-gzip"}

// maxHead bounds a response's head that is looked at, in bytes.
const maxHead = 64 << 10

// headFilter is a connection of a client that sends one request, without a body, and reads its response before the next.
type headFilter struct {
	net.Conn
	expect atomic.Bool // a head comes next
	head   []byte      // read and not given out
}

// Write implements net.Conn. What comes back after it begins with a head.
func (f *headFilter) Write(p []byte) (int, error) {
	f.expect.Store(true)
	return f.Conn.Write(p)
}

// Read implements net.Conn.
func (f *headFilter) Read(p []byte) (int, error) {
	if len(f.head) > 0 {
		n := copy(p, f.head)
		f.head = f.head[n:]
		return n, nil
	}
	n, err := f.Conn.Read(p)
	if n > 0 && f.expect.Swap(false) { // looked at now: net/http begins to read before it writes
		end := bytes.Index(p[:n], []byte("\r\n\r\n"))
		if end >= 0 && !bytes.Contains(bytes.ToLower(p[:end]), []byte("transfer-encoding:")) { // nearly always
			return n, err
		}
		for f.head = append(f.head[:0], p[:n]...); err == nil && end < 0 && len(f.head) < maxHead; end = bytes.Index(f.head, []byte("\r\n\r\n")) {
			n, err = f.Conn.Read(p)
			f.head = append(f.head, p[:n]...)
		}
		if end >= 0 {
			f.head = append(known(f.head[:end+2]), f.head[end+2:]...)
		}
		n = copy(p, f.head)
		f.head = f.head[n:]
		if len(f.head) > 0 {
			err = nil // it comes again with the next Read
		}
	}
	return n, err
}

// known is a head without a Transfer-Encoding that names no registered coding.
func known(head []byte) []byte {
	out := make([]byte, 0, len(head))
	for line := range bytes.SplitAfterSeq(head, []byte("\r\n")) {
		name, value, _ := strings.Cut(string(line), ":")
		if http.CanonicalHeaderKey(name) == "Transfer-Encoding" {
			if coding, _, _ := strings.Cut(value, ","); !slices.Contains(codings, strings.ToLower(strings.TrimSpace(coding))) {
				continue
			}
		}
		out = append(out, line...)
	}
	return out
}
