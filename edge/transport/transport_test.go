package transport_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"segue/edge/transport"

	"github.com/valyala/fasthttp"
)

// server is a fasthttp server on a Listener, as the edge builds it.
type server struct {
	l    *transport.Listener
	addr string
	http *fasthttp.Server
}

func start(t *testing.T, cfg transport.Config, handler fasthttp.RequestHandler) *server {
	t.Helper()
	in, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := transport.New(cfg, in)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{l, in.Addr().String(), &fasthttp.Server{Handler: handler, CloseOnShutdown: true, Logger: silent{}, ConnState: func(c net.Conn, st fasthttp.ConnState) {
		if i, ok := c.(interface{ Idle() }); ok && st == fasthttp.StateIdle {
			i.Idle()
		}
	}}}
	done := make(chan error, 1)
	go func() { done <- s.http.Serve(l) }()
	t.Cleanup(func() {
		if err := s.http.Shutdown(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

type silent struct{}

func (silent) Printf(string, ...any) {}

func hello(ctx *fasthttp.RequestCtx) { fmt.Fprintf(ctx, "hello %s", ctx.Path()) }

func dial(t *testing.T, s *server) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func ask(t *testing.T, c net.Conn, path string) {
	t.Helper()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if want := "hello " + path; err != nil || string(b) != want {
		t.Fatalf("got %q, %v, want %q", b, err, want)
	}
}

// until polls what other goroutines do; it fails after a while.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

// park lets time pass until n connections are parked.
func park(t *testing.T, s *server, n int64) {
	t.Helper()
	until(t, "connections are not parked", func() bool {
		s.l.Sweep(4)
		return s.l.Stats().Parked == n
	})
}

func TestParkedConnectionComesBack(t *testing.T) {
	s := start(t, transport.Config{}, hello)
	var conns []net.Conn
	for i := range 20 {
		c := dial(t, s)
		if i%2 == 0 { // the others are parked before their first request
			ask(t, c, "/first")
		}
		conns = append(conns, c)
	}
	until(t, "not all accepted", func() bool { return s.l.Stats().Open == 20 })
	for round := range 3 {
		park(t, s, 20)
		if n := s.http.GetOpenConnectionsCount(); n > 1 { // one is the wait for Accept
			t.Errorf("the server still has %d connections", n)
		}
		for _, c := range conns {
			ask(t, c, fmt.Sprintf("/round/%d", round))
		}
	}
	conns[0].Close()
	until(t, "a connection that its peer closed counts", func() bool { return s.l.Stats().Open == 19 })
	park(t, s, 19)
}

func TestIdleConnectionIsClosed(t *testing.T) {
	s := start(t, transport.Config{IdleFor: time.Minute}, hello)
	c := dial(t, s)
	ask(t, c, "/")
	park(t, s, 1)
	s.l.Sweep(4 * 60)
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read: %v, want EOF", err)
	}
	if st := s.l.Stats(); st.IdledOut != 1 || st.Open != 0 {
		t.Errorf("%+v", st)
	}
}

func TestRequestThatMeetsTheSweep(t *testing.T) {
	s := start(t, transport.Config{ParkAfter: 1}, hello) // parked as soon as the sweep sees it
	stop := make(chan struct{})
	swept := make(chan struct{})
	go func() {
		defer close(swept)
		for {
			select {
			case <-stop:
				return
			default:
				s.l.Sweep(0)
			}
		}
	}()
	c := dial(t, s)
	for i := range 500 {
		ask(t, c, fmt.Sprintf("/%d", i))
	}
	close(stop)
	<-swept
}

func TestLimits(t *testing.T) {
	s := start(t, transport.Config{MaxConns: 3, MaxPerAddr: 2}, hello)
	a, b := dial(t, s), dial(t, s)
	ask(t, a, "/")
	ask(t, b, "/")
	if third, err := net.Dial("tcp", s.addr); err == nil { // the reset may come before Dial returns
		defer third.Close()
		third.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := third.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
			t.Errorf("a third connection of one address: %v", err)
		}
	}
	until(t, "a third connection of one address is let in", func() bool { return s.l.Stats().RefusedAddr == 1 })
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	other, err := from.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	ask(t, other, "/")
	a.Close()
	until(t, "a closed connection counts", func() bool { return s.l.Stats().Open == 2 })
	ask(t, dial(t, s), "/again")
	if late, err := from.Dial("tcp", s.addr); err == nil { // the reset may come before Dial returns
		defer late.Close()
	}
	until(t, "not refused", func() bool { return s.l.Stats().RefusedTotal == 1 })
}

func TestNetworkOfAnAddress(t *testing.T) {
	f := func(a, b string, same bool) {
		t.Helper()
		if got := transport.SameNetwork(a, b); got != same {
			t.Errorf("%s and %s count together: %v", a, b, got)
		}
	}
	f("192.0.2.1", "192.0.2.1", true)
	f("192.0.2.1", "192.0.2.2", false)
	f("::ffff:192.0.2.1", "192.0.2.1", true)
	f("2001:db8::1", "2001:db8::ffff:1", true)
	f("2001:db8::1", "2001:db8:0:1::1", false)
}

func TestSlowRequestIsCut(t *testing.T) {
	s := start(t, transport.Config{}, hello)
	c := dial(t, s)
	steady := dial(t, s)
	io.WriteString(c, "GET / HTTP/1.1\r\nHo")
	for i := 0; s.l.Stats().CutReading == 0; i++ {
		if i > 5000 {
			t.Fatal("a request that never ends is served for ever")
		}
		s.l.Sweep(transport.SlowTicks / 2)
		io.WriteString(c, "s") // a byte now and then is no progress
		time.Sleep(time.Millisecond)
	}
	ask(t, steady, "/still-here")
}

func TestSlowReaderIsCut(t *testing.T) {
	big := bytes.Repeat([]byte("x"), 64<<20)
	s := start(t, transport.Config{}, func(ctx *fasthttp.RequestCtx) { ctx.Response.SetBodyRaw(big) })
	c := dial(t, s)
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	reading := dial(t, s)
	io.WriteString(reading, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	buf := make([]byte, 1<<20)
	for i := 0; s.l.Stats().CutWriting == 0; i++ {
		if i > 5000 {
			t.Fatal("a reply that nobody reads is sent for ever")
		}
		if i < 40 { // this one reads 1 MiB a window
			if _, err := io.ReadFull(reading, buf); err != nil {
				t.Fatalf("the reader that makes progress: %v", err)
			}
		}
		time.Sleep(time.Millisecond)
		s.l.Sweep(transport.SlowTicks / 4)
	}
	if st := s.l.Stats(); st.CutReading != 0 {
		t.Errorf("%+v", st)
	}
}

// pieces is a Body of a file, piece by piece.
type pieces struct {
	file  int
	bytes []byte
	at    int
	size  int // of a piece
}

func (p *pieces) Piece(limit int64) (transport.Piece, error) {
	if p.at == len(p.bytes) {
		return transport.Piece{}, io.EOF
	}
	n := int(min(int64(p.size), int64(len(p.bytes)-p.at), limit))
	out := transport.Piece{Bytes: p.bytes[p.at : p.at+n], File: p.file, Offset: int64(p.at)}
	p.at += n
	return out, nil
}

func (p *pieces) Read(b []byte) (int, error) {
	if p.at == len(p.bytes) {
		return 0, io.EOF
	}
	n := copy(b, p.bytes[p.at:])
	p.at += n
	return n, nil
}

// sent is pieces that go by the connection's ReadFrom.
type sent struct{ pieces }

func (p *sent) WriteTo(w io.Writer) (int64, error) { return w.(io.ReaderFrom).ReadFrom(&p.pieces) }

func TestPiecesArriveWhole(t *testing.T) {
	want := make([]byte, 3<<20+17)
	for i := range want {
		want[i] = byte(i % 251)
	}
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Write(want); err != nil {
		t.Fatal(err)
	}
	fd := int(file.Fd())
	s := start(t, transport.Config{}, func(ctx *fasthttp.RequestCtx) {
		var n, size int
		fmt.Sscanf(string(ctx.Path()), "/%d/%d", &n, &size)
		ctx.Response.SetBodyStream(&sent{pieces{fd, want[:n], 0, size}}, n)
	})
	c := dial(t, s)
	c.SetDeadline(time.Now().Add(time.Minute))
	r := bufio.NewReader(c)
	for _, n := range []int{1, 100, 4000, 5000, 65536, 98304, 262144, len(want)} {
		for _, size := range []int{1000, 65536, 98304, 262144} {
			fmt.Fprintf(c, "GET /%d/%d HTTP/1.1\r\nHost: x\r\n\r\n", n, size)
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			if err != nil || !bytes.Equal(got, want[:n]) {
				t.Errorf("%d bytes in pieces of %d: got %d, %v", n, size, len(got), err)
			}
		}
	}
}

func TestTLSParksToo(t *testing.T) {
	certs := httptest.NewUnstartedServer(nil) // has a certificate to borrow
	certs.StartTLS()
	defer certs.Close()
	s := start(t, transport.Config{TLS: &tls.Config{Certificates: certs.TLS.Certificates}}, hello)
	pool := x509.NewCertPool()
	pool.AddCert(certs.Certificate())
	c := tls.Client(dial(t, s), &tls.Config{RootCAs: pool, ServerName: "example.com"})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		park(t, s, 1)
		ask(t, c, fmt.Sprintf("/%d", i))
	}
}

func TestDrain(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	s := start(t, transport.Config{}, func(ctx *fasthttp.RequestCtx) {
		if strings.HasPrefix(string(ctx.Path()), "/slow") {
			close(entered)
			<-release
		}
		hello(ctx)
	})
	parked := dial(t, s)
	ask(t, parked, "/")
	park(t, s, 1)
	busy := dial(t, s)
	io.WriteString(busy, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
	<-entered
	down := make(chan error, 1)
	go func() { down <- s.http.Shutdown() }()
	parked.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := parked.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("a parked connection while draining: %v, want EOF", err)
	}
	close(release)
	busy.SetReadDeadline(time.Now().Add(20 * time.Second))
	resp, err := http.ReadResponse(bufio.NewReader(busy), nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(resp.Body); string(b) != "hello /slow" || !resp.Close {
		t.Errorf("%q, Connection: close is %v", b, resp.Close)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
}
