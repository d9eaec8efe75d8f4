package loadtest

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// wire is one TCP connection of one listener to one server, speaking HTTP/1.1. net/http would cost two goroutines and two
// buffers for each of them while nothing happens, and hides when it connects again.
type wire struct {
	net  *dialer
	from net.IP // nil: the system chooses
	at   string // scheme://host:port
	conn net.Conn
}

// dialer makes connections.
type dialer struct {
	timeout time.Duration // of one request
	tls     *tls.Config
	dials   func() // hears of each new connection
}

// exchange is one request and what came back. Body is nil, or the whole body when keep is set.
type exchange struct {
	method, path string
	headers      string // lines, each with its end
	body         []byte
	keep         bool      // Body is wanted
	hash         hash.Hash // sees the body; nil: nobody does
	most         int64     // of body bytes kept; zero: 4 MiB

	Status      int
	Bytes       int64     // of the body
	First, Last time.Time // byte of the head, byte of the body
	Body        []byte
	CacheStatus string
	RetryAfter  string
	Location    string
}

// kind of an error, for the report. A closed set.
type kind string

// Kinds of errors that are not a status.
const (
	kindRefused   kind = "refused" // nobody listens
	kindReset     kind = "reset"   // the connection broke
	kindTimeout   kind = "timeout"
	kindProtocol  kind = "protocol"     // no HTTP, no playlist, no JSON
	kindShort     kind = "short-body"   // fewer bytes than were promised
	kindWrong     kind = "wrong-bytes"  // the hash of what came is not that of the file
	kindGenerator kind = "generator"    // files, ports or memory of this machine ran out
	kindNoPathway kind = "no-pathway"   // no edge of the list serves the segment
	kindRejected  kind = "not-accepted" // events that the server did not take
)

// failure is an error with its kind.
type failure struct {
	kind kind
	err  error
}

func (f *failure) Error() string { return string(f.kind) + ": " + f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func fail(k kind, format string, args ...any) error { return &failure{k, fmt.Errorf(format, args...)} }

// kindOf sorts the errors of the network.
func kindOf(err error) kind {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.kind
	}
	for _, own := range []error{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, own) {
			return kindGenerator
		}
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return kindRefused
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return kindTimeout
	}
	if n, ok := errors.AsType[net.Error](err); ok && n.Timeout() {
		return kindTimeout
	}
	return kindReset
}

const readBuffer = 64 << 10

var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, readBuffer) }}

// split cuts a URL into what is dialled and what is asked for.
func split(raw string) (at, path string, err error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok || scheme != "http" && scheme != "https" {
		return "", "", fail(kindProtocol, "%q is no http URL", raw)
	}
	host, path, _ := strings.Cut(rest, "/")
	if host == "" {
		return "", "", fail(kindProtocol, "%q has no host", raw)
	}
	return scheme + "://" + host, "/" + path, nil
}

// do sends a request and reads the answer, over the open connection or a new one. An idle connection that the server has
// closed meanwhile is no error: the request goes out once more on a new one (RFC 9112 9.3.1), as every player does it.
func (w *wire) do(ctx context.Context, x *exchange) error {
	for {
		reused := w.conn != nil
		err := w.once(ctx, x)
		if err == nil {
			return nil
		}
		w.close()
		if !reused || x.Status != 0 || ctx.Err() != nil || kindOf(err) != kindReset {
			return err
		}
	}
}

func (w *wire) close() {
	if w.conn != nil {
		w.conn.Close()
		w.conn = nil
	}
}

func (w *wire) open(ctx context.Context) error {
	if w.conn != nil {
		return nil
	}
	u, err := url.Parse(w.at)
	if err != nil {
		return fail(kindProtocol, "%q: %w", w.at, err)
	}
	address := u.Host
	if u.Port() == "" {
		address = net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	}
	d := net.Dialer{Timeout: w.net.timeout, KeepAlive: -1}
	if w.from != nil {
		d.LocalAddr = &net.TCPAddr{IP: w.from}
	}
	if w.net.dials != nil {
		w.net.dials()
	}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	if u.Scheme == "https" {
		cfg := w.net.tls.Clone()
		if cfg == nil {
			cfg = &tls.Config{}
		}
		cfg.ServerName = u.Hostname()
		conn = tls.Client(conn, cfg)
	}
	w.conn = conn
	return nil
}

func (w *wire) once(ctx context.Context, x *exchange) (err error) {
	x.Status, x.Bytes, x.Body, x.CacheStatus, x.RetryAfter, x.Location = 0, 0, nil, "", "", ""
	if err := w.open(ctx); err != nil {
		return err
	}
	if err := w.conn.SetDeadline(time.Now().Add(w.net.timeout)); err != nil {
		return err
	}
	conn := w.conn                                                                   // it runs beside us, when w may have closed its own already
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // the end of a run waits for nobody
	defer stop()
	_, host, _ := strings.Cut(w.at, "://")
	head := make([]byte, 0, 512+len(x.headers)+len(x.path)+len(x.body))
	head = append(head, x.method...)
	head = append(head, ' ')
	head = append(head, x.path...)
	head = append(head, " HTTP/1.1\r\nHost: "...)
	head = append(head, host...)
	head = append(head, "\r\nUser-Agent: segue-loadtest/1\r\n"...)
	head = append(head, x.headers...)
	if x.body != nil || x.method == "POST" {
		head = append(head, "Content-Length: "...)
		head = strconv.AppendInt(head, int64(len(x.body)), 10)
		head = append(head, "\r\n"...)
	}
	head = append(head, "\r\n"...)
	head = append(head, x.body...)
	if _, err := w.conn.Write(head); err != nil {
		return err
	}
	r := readers.Get().(*bufio.Reader)
	r.Reset(w.conn)
	defer func() {
		r.Reset(nil)
		readers.Put(r)
	}()
	for {
		length, closes, err := x.readHead(r)
		if err != nil {
			return err
		}
		if x.Status >= 100 && x.Status < 200 {
			continue
		}
		if err := x.readBody(r, length); err != nil {
			return err
		}
		x.Last = time.Now()
		if closes || r.Buffered() > 0 {
			w.close()
		}
		return nil
	}
}

const chunked, untilClosed = -1, -2

// readHead reads status and fields. length is that of the body, chunked or untilClosed.
func (x *exchange) readHead(r *bufio.Reader) (length int64, closes bool, err error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return 0, false, err // nothing came: the connection was closed
	}
	x.First = time.Now()
	if len(line) < 12 || string(line[:7]) != "HTTP/1." {
		return 0, false, fail(kindProtocol, "no HTTP: %.40q", line)
	}
	if x.Status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, false, fail(kindProtocol, "no status: %.40q", line)
	}
	closes = line[7] == '0'
	length = untilClosed
	for n := 0; ; n++ {
		line, err := r.ReadSlice('\n')
		if err != nil || n > 200 {
			return 0, false, fail(kindProtocol, "head does not end: %w", err)
		}
		text := strings.TrimRight(string(line), "\r\n")
		if text == "" {
			break
		}
		name, value, _ := strings.Cut(text, ":")
		value = strings.TrimSpace(value)
		switch len(name) { // most fields are of no interest
		case 14:
			if strings.EqualFold(name, "Content-Length") {
				if length, err = strconv.ParseInt(value, 10, 64); err != nil || length < 0 {
					return 0, false, fail(kindProtocol, "length %q", value)
				}
			}
		case 17:
			if strings.EqualFold(name, "Transfer-Encoding") && strings.EqualFold(value, "chunked") {
				length = chunked
			}
		case 10:
			if strings.EqualFold(name, "Connection") {
				closes = closes || strings.EqualFold(value, "close")
			}
		case 12:
			if strings.EqualFold(name, "Cache-Status") {
				x.CacheStatus = value
			}
		case 11:
			if strings.EqualFold(name, "Retry-After") {
				x.RetryAfter = value
			}
		case 8:
			if strings.EqualFold(name, "Location") {
				x.Location = value
			}
		}
	}
	if x.Status == 204 || x.Status == 304 || x.method == "HEAD" {
		length = 0
	}
	return length, closes || length == untilClosed, nil
}

func (x *exchange) readBody(r *bufio.Reader, length int64) error {
	switch length {
	case untilClosed:
		return x.take(r, 1<<62, true)
	case chunked:
		for {
			line, err := r.ReadSlice('\n')
			if err != nil {
				return fail(kindShort, "chunk: %w", err)
			}
			text, _, _ := strings.Cut(strings.TrimSpace(string(line)), ";")
			n, err := strconv.ParseInt(text, 16, 63)
			if err != nil {
				return fail(kindProtocol, "chunk %q", text)
			}
			if n > 0 {
				if err := x.take(r, n, false); err != nil {
					return err
				}
			}
			for { // the end of the chunk, or the trailer
				line, err := r.ReadSlice('\n')
				if err != nil {
					return fail(kindShort, "chunk: %w", err)
				}
				if n > 0 || len(strings.TrimSpace(string(line))) == 0 {
					break
				}
			}
			if n == 0 {
				return nil
			}
		}
	}
	return x.take(r, length, false)
}

// take reads n bytes of the body out of the reader's own buffer: nothing is copied but what is kept.
func (x *exchange) take(r *bufio.Reader, n int64, toEnd bool) error {
	most := x.most
	if most == 0 {
		most = 4 << 20
	}
	if x.keep && x.Body == nil && !toEnd {
		x.Body = make([]byte, 0, min(n, most))
	}
	for n > 0 {
		if r.Buffered() == 0 {
			if _, err := r.Peek(1); err != nil {
				if toEnd && err == io.EOF {
					return nil
				}
				return fail(map[bool]kind{true: kindTimeout, false: kindShort}[kindOf(err) == kindTimeout], "%d bytes of the body missing: %w", n, err)
			}
		}
		part, _ := r.Peek(int(min(int64(r.Buffered()), n)))
		if x.hash != nil {
			x.hash.Write(part)
		}
		if x.keep {
			if int64(len(x.Body)+len(part)) > most {
				return fail(kindProtocol, "a body of more than %d bytes", most)
			}
			x.Body = append(x.Body, part...)
		}
		x.Bytes += int64(len(part))
		n -= int64(len(part))
		if _, err := r.Discard(len(part)); err != nil {
			return err
		}
	}
	return nil
}
