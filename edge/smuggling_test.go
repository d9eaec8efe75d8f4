package edge_test

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"segue/edge"
	"segue/origin/memstore"
)

// exchange sends bytes over one connection and returns the status of each answer; closed says that the server closed,
// which a request with "Connection: close" at the end of the bytes asks for, if it is reached.
func exchange(t *testing.T, addr, request string) (statuses []string, closed bool) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(c, request) }()
	b, err := io.ReadAll(c)
	for line := range strings.Lines(string(b)) {
		if _, status, ok := strings.Cut(line, "HTTP/1.1 "); ok {
			statuses = append(statuses, status[:3])
		}
	}
	return statuses, err == nil || !strings.Contains(err.Error(), "timeout")
}

// TestHeads sends heads that two servers could read differently, each followed by a second request. A bad one gets one
// answer, and the connection is closed: the second request, which a proxy may have taken for a body, is never answered.
func TestHeads(t *testing.T) {
	var store memstore.Store
	put(t, &store, "art/A/v/64.jpg", []byte("picture"), "image/jpeg")
	_, base := start(t, edge.Config{Routes: []*edge.Route{{Prefix: "/", Origin: edge.StoreOrigin{Store: &store, Fresh: time.Minute}}}})
	addr := strings.TrimPrefix(base, "http://")
	const last = "DELETE /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" // 405
	f := func(name, want, request string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, closed := exchange(t, addr, request+last)
			if strings.Join(got, " ") != want || !closed {
				t.Errorf("%q, closed %t; want %q", got, closed, want)
			}
		})
	}
	get := func(fields string) string { return "GET /art/A/v/64.jpg HTTP/1.1\r\nHost: h\r\n" + fields + "\r\n" }
	post := func(fields, body string) string {
		return "POST /art/A/v/64.jpg HTTP/1.1\r\nHost: h\r\n" + fields + "\r\n" + body
	}
	line := func(l string) string { return l + "\r\nHost: h\r\n\r\n" }

	// two answers: well understood
	f("plain", "200 405", get(""))
	f("a body with GET", "200 405", get("Content-Length: 3\r\n")+"abc")
	f("chunked", "405 405", post("Transfer-Encoding: chunked\r\n", "3;x=y\r\nabc\r\n0\r\n\r\n"))
	f("Chunked", "405 405", post("transfer-encoding:\tChunked \r\n", "0\r\n\r\n"))
	f("length", "405 405", post("Content-Length: 3\r\n", "abc"))
	f("an empty line before", "200 405", "\r\n"+get("")) // RFC 9112 2.2
	f("expect", "100 405 405", post("Content-Length: 3\r\nExpect: 100-continue\r\n", "abc"))
	f("unknown method", "405 405", line("BREW /art/A/v/64.jpg HTTP/1.1"))
	f("method in lower case", "405 405", line("get /art/A/v/64.jpg HTTP/1.1"))
	f("options", "204 405", line("OPTIONS * HTTP/1.1"))
	f("upgrade is not taken", "200 405", get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"))
	// RFC 9112 2.2 lets a server take LF for the end of a line. fasthttp does so here and does not tell; nobody's framing
	// hangs on the end of the first line.
	f("bare LF after the first line", "200 405", "GET /art/A/v/64.jpg HTTP/1.1\nHost: h\r\n\r\n")
	f("many fields", "200 405", get(strings.Repeat("a: b\r\n", 98)))

	// framing
	f("CL.TE", "400", post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nX"))
	f("TE.CL", "400", post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "0\r\n\r\n"))
	f("GET with both", "400", get("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n")+"0\r\n\r\n")
	f("identity and a length", "400", post("Content-Length: 3\r\nTransfer-Encoding: identity\r\n", "abc"))
	f("identity", "400", post("Transfer-Encoding: identity\r\n", ""))
	f("two codings", "400", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"))
	f("an unknown coding", "400", post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"))
	f("gzip, chunked", "400", post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"))
	f("coding after a control byte", "400", post("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"))
	f("coding in HTTP/1.0", "400", "POST /a HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
	f("the same length twice", "400", post("Content-Length: 3\r\nContent-Length: 3\r\n", "abc"))
	f("two lengths", "400", post("Content-Length: 3\r\nContent-Length: 0\r\n", "abc"))
	for _, bad := range []string{"3, 3", "+3", "-1", "0x3", "3 0", "99999999999999999999", ""} {
		f("length "+bad, "400", post("Content-Length: "+bad+"\r\n", "abc"))
	}
	f("chunk size in hex notation", "400", post("Transfer-Encoding: chunked\r\n", "0x3\r\nabc\r\n0\r\n\r\n"))
	f("chunks ended by LF", "400", post("Transfer-Encoding: chunked\r\n", "3\nabc\n0\n\n"))
	f("more than the chunk says", "400", post("Transfer-Encoding: chunked\r\n", "3\r\nabcXX0\r\n\r\n"))
	f("a length in the trailer", "400", post("Transfer-Encoding: chunked\r\n", "0\r\nContent-Length: 5\r\n\r\n"))

	// lines
	f("obs-fold", "400", get("X-A: b\r\n c\r\n"))
	f("obs-fold of a coding", "400", post("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"))
	f("obs-fold by a tab", "400", get("X-A: b\r\n\tc\r\n"))
	f("a fold before the first field", "400", "GET / HTTP/1.1\r\n Host: h\r\n\r\n")
	f("bare LF between fields", "400", get("X-A: b\nX-B: c\r\n"))
	f("bare LF at the end", "400", "GET /art/A/v/64.jpg HTTP/1.1\r\nHost: h\n\n")
	f("bare CR", "400", get("X-A: b\rX-B: c\r\n"))
	f("NUL", "400", get("X-A: b\x00c\r\n"))
	f("space before the colon", "400", get("Content-Length : 3\r\n"))
	f("no colon", "400", get("X-A\r\n"))
	f("no name", "400", get(": b\r\n"))
	f("a name that is no token", "400", get("X(A): b\r\n"))
	f("two hosts", "400", get("Host: other\r\n"))
	f("no host", "400", "GET /art/A/v/64.jpg HTTP/1.1\r\n\r\n")
	f("a host that is none", "400", "GET /art/A/v/64.jpg HTTP/1.1\r\nHost: a/b@c\r\n\r\n")
	f("a large field", "431", get("X-A: "+strings.Repeat("a", 9000)+"\r\n"))
	f("a very large field", "431", get("X-A: "+strings.Repeat("a", 200000)+"\r\n"))
	f("too many fields", "431", get(strings.Repeat("a: b\r\n", 101)))
	f("far too many fields", "431", get(strings.Repeat("a: b\r\n", 1200)))

	// first line
	f("a long URL", "414", line("GET /"+strings.Repeat("a", 5000)+" HTTP/1.1"))
	f("a very long URL", "431", line("GET /"+strings.Repeat("a", 50000)+" HTTP/1.1"))
	f("spaces", "400", line("GET  /art/A/v/64.jpg  HTTP/1.1"))
	f("tabs", "400", line("GET\t/art/A/v/64.jpg\tHTTP/1.1"))
	f("a space in the target", "400", line("GET /art/A/v/64.jpg x HTTP/1.1"))
	f("a fragment", "400", line("GET /art/A/v/64.jpg#x HTTP/1.1"))
	f("NUL in the target", "400", line("GET /art/A/v/64.jpg\x00 HTTP/1.1"))
	f("a method that is no token", "400", line("G(T /art/A/v/64.jpg HTTP/1.1"))
	f("no target", "400", line("GET HTTP/1.1"))
	f("HTTP/0.9", "400", "GET /art/A/v/64.jpg\r\n\r\n")
	f("HTTP/2.0", "505", line("GET /art/A/v/64.jpg HTTP/2.0"))
	f("HTTP/2 preface", "400", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	f("a version with a tail", "400", line("GET /art/A/v/64.jpg HTTP/1.1x"))
	f("a version in lower case", "400", line("GET /art/A/v/64.jpg http/1.1"))
}
