package transport

import (
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The life of a Conn. A server's goroutine owns it while idle, active or parking; the listener while it is parked.
const (
	stateIdle    = iota // waiting for the first byte of a request
	stateActive         // in a request or its reply
	stateParking        // the sweep asked the goroutine, which waits for a request, to let go
	stateParked
	stateClosed
)

// What a Conn waits for in the middle of a request: the sweep watches its progress.
const (
	waitNothing = iota
	waitRead
	waitWrite
)

// Conn is one TCP connection. Reading is for one goroutine at a time, and so is writing; Close for any.
type Conn struct {
	tcp   *net.TCPConn
	raw   syscall.RawConn
	fd    int
	ln    *Listener
	outer net.Conn // what Accept returns: the Conn itself, or its TLS
	addr  netip.Addr

	state   atomic.Int32
	since   atomic.Int64 // tick at which it became idle
	waiting atomic.Int32
	got     atomic.Int64 // bytes read
	sent    atomic.Int64 // bytes handed to the kernel

	mu    sync.Mutex // between the sweep, which interrupts a Read, and a Read that got bytes meanwhile
	index int        // in its place of the listener's table of connections that are not parked; guarded by it
	older *Conn      // in the list of parked ones; guarded by the listener
	newer *Conn
	added bool // to the epoll set

	// The sweep's notes: what the Conn waited for, since when, and how far it was then.
	markWait  int32
	markTick  int64
	markBytes int64

	// The call in hand.
	in       []byte
	hold     bool   // keep the next Write back, to send it with what follows
	held     []byte // kept back; valid until the call that set hold returns
	out      outgoing
	n        int
	readErr  syscall.Errno
	writeErr syscall.Errno
	readRaw  func(fd uintptr) bool
	writeRaw func(fd uintptr) bool
}

// errInterrupted ends a Read that the sweep interrupted. It is temporary for crypto/tls, whose Conn goes on later.
var errInterrupted error = os.ErrDeadlineExceeded

// Piece is a part of a body: Bytes, to be sent from where they also lie, File from Offset on. File 0: from Bytes.
type Piece struct {
	Bytes  []byte
	File   int // descriptor
	Offset int64
}

// Body is what a Conn sends without a copy: pieces, in order, then io.EOF. A piece stays valid until the next call of
// the body. It is a Reader too, for connections that cannot take pieces.
type Body interface {
	io.Reader
	Piece(max int64) (Piece, error)
}

// Idle says that a request was answered in full and none has begun.
func (c *Conn) Idle() {
	c.since.Store(c.ln.tick.Load())
	c.state.CompareAndSwap(stateActive, stateIdle)
}

// Hold keeps the next Write back, to be sent with the ReadFrom or Write that follows, in the same call if possible;
// the bytes must not change until then. Release must follow.
func (c *Conn) Hold() { c.hold = true }

// Release ends Hold, and sends what is still kept back.
func (c *Conn) Release() error {
	c.hold = false
	_, err := c.send(Piece{})
	return err
}

// Read implements net.Conn. When the connection is to be parked, it says io.EOF between two requests.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.in = p
	err := c.raw.Read(c.readRaw)
	c.in = nil
	if c.waiting.Load() != waitNothing {
		c.waiting.Store(waitNothing)
	}
	switch {
	case err != nil:
		if c.state.Load() == stateParking {
			if c.outer != net.Conn(c) {
				return 0, errInterrupted
			}
			return 0, io.EOF
		}
		return 0, err
	case c.readErr != 0:
		c.doomed()
		return 0, &net.OpError{Op: "read", Net: "tcp", Source: c.tcp.LocalAddr(), Addr: c.tcp.RemoteAddr(), Err: os.NewSyscallError("read", c.readErr)}
	case c.n == 0:
		c.doomed()
		return 0, io.EOF
	}
	c.got.Add(int64(c.n))
	if c.state.Load() != stateActive && !c.state.CompareAndSwap(stateIdle, stateActive) {
		c.mu.Lock() // the sweep interrupted just now: take it back
		if c.state.CompareAndSwap(stateParking, stateActive) {
			c.tcp.SetReadDeadline(time.Time{})
		}
		c.mu.Unlock()
	}
	return c.n, nil
}

// doomed makes sure that Close closes: nothing more will come.
func (c *Conn) doomed() {
	c.mu.Lock()
	if c.state.CompareAndSwap(stateParking, stateActive) {
		c.tcp.SetReadDeadline(time.Time{})
	}
	c.mu.Unlock()
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	if c.hold && c.held == nil {
		c.held = p
		return len(p), nil
	}
	n, err := c.send(Piece{Bytes: p})
	return int(n), err
}

// ReadFrom sends a reader's bytes: pieces of a Body straight from where they lie, anything else through a buffer.
func (c *Conn) ReadFrom(r io.Reader) (n int64, err error) {
	limit, body := int64(1<<63-1), r
	lr, limited := r.(*io.LimitedReader)
	if limited {
		limit, body = lr.N, lr.R
	}
	b, ok := body.(Body)
	if !ok {
		return io.Copy(writerOnly{c}, r)
	}
	for limit > 0 {
		p, err := b.Piece(limit)
		if err == io.EOF {
			break
		}
		if err != nil {
			return n, err
		}
		limit -= int64(len(p.Bytes))
		k, err := c.send(p)
		n += k
		if limited {
			lr.N -= k
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

type writerOnly struct{ io.Writer }

// send sends what is held, then a piece. It returns how much of the piece went out.
func (c *Conn) send(p Piece) (int64, error) {
	held := c.held
	c.held = nil
	if len(held)+len(p.Bytes) == 0 {
		return 0, nil
	}
	c.out.set(held, p)
	err := c.raw.Write(c.writeRaw)
	if c.waiting.Load() != waitNothing {
		c.waiting.Store(waitNothing)
	}
	n := max(0, c.out.done-int64(len(held)))
	c.out = outgoing{}
	if err == nil && c.writeErr != 0 {
		err = &net.OpError{Op: "write", Net: "tcp", Source: c.tcp.LocalAddr(), Addr: c.tcp.RemoteAddr(), Err: os.NewSyscallError("write", c.writeErr)}
	}
	return n, err
}

// Close implements net.Conn. A connection that its server let go because the sweep asked for it is parked instead.
func (c *Conn) Close() error {
	if c.state.Load() == stateParking && c.ln.park(c) {
		return nil
	}
	return c.shut()
}

// shut closes for good.
func (c *Conn) shut() error {
	if c.state.Swap(stateClosed) == stateClosed {
		return net.ErrClosed
	}
	err := c.tcp.Close()
	c.ln.gone(c)
	return err
}

// cut closes at once, without a farewell: the peer gets a reset, and the kernel forgets what was queued for it.
func (c *Conn) cut() {
	c.tcp.SetLinger(0)
	c.shut()
}

// Client is the peer's address.
func (c *Conn) Client() netip.Addr {
	if a, ok := c.tcp.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.tcp.LocalAddr() }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.tcp.RemoteAddr() }

// SetDeadline implements net.Conn: nothing to do, the sweep sees to slow peers.
func (c *Conn) SetDeadline(time.Time) error { return c.open() }

// SetReadDeadline implements net.Conn, like SetDeadline.
func (c *Conn) SetReadDeadline(time.Time) error { return c.open() }

// SetWriteDeadline implements net.Conn, like SetDeadline.
func (c *Conn) SetWriteDeadline(time.Time) error { return c.open() }

func (c *Conn) open() error {
	if c.state.Load() == stateClosed {
		return net.ErrClosed
	}
	return nil
}
