package transport

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what a Listener allows. Zero values mean the defaults.
type Config struct {
	MaxConns   int           // connections at once; default 200,000
	MaxPerAddr int           // of them from one address, or one /64 of IPv6; default: no limit
	ParkAfter  time.Duration // between two requests, until goroutine and buffers are given back; default 1 s
	IdleFor    time.Duration // between two requests, until the connection is closed; default 2 min
	TLS        *tls.Config   // nil: plain
}

// Stats counts since the Listener began. Open and Parked are of now.
type Stats struct {
	Accepted, RefusedTotal, RefusedAddr int64
	CutReading, CutWriting, IdledOut    int64
	Open, Parked                        int64
}

const (
	tick = 250 * time.Millisecond // of the sweep
	// slowTicks and slowBytes: who moves fewer bytes in so many ticks of waiting, in either direction, is cut. 1 KiB/s is
	// a tenth of the thinnest rendition, and a header of 8 KiB in 8 s.
	slowTicks = int64(10 * time.Second / tick)
	slowBytes = 10 << 10
	// After so many connections were parked, and so many ticks in which none was, the memory of their goroutines and
	// buffers goes back to the system. A server where there is always one more to park collects often enough by itself.
	trimAt    = 1000
	trimTicks = int64(4 * time.Second / tick)
	backlog   = 256
)

// Listener accepts on several listeners at once, and gives out connections that were parked and have a request again.
type Listener struct {
	cfg   Config
	inner []net.Listener
	ready chan net.Conn
	tick  atomic.Int64

	once sync.Once
	ctx  context.Context
	stop context.CancelFunc
	all  sync.WaitGroup // accepting, polling, sweeping

	mu      sync.Mutex // guards the fields below
	closed  bool
	live    []*Conn // not parked
	perAddr map[netip.Addr]int
	open    int
	parked  int
	oldest  *Conn // parked, longest ago
	newest  *Conn
	untrim  int   // parked since memory was given back
	parkAt  int64 // tick of the last parking
	poll    *poller

	accepted, refusedTotal, refusedAddr, cutReading, cutWriting, idledOut atomic.Int64
}

// New wraps listeners; what they accept must be TCP, or it is handed on as it is. Nothing starts before the first
// Accept.
func New(cfg Config, inner ...net.Listener) (*Listener, error) {
	if len(inner) == 0 {
		return nil, errors.New("no listener")
	}
	cfg.MaxConns = cmp.Or(cfg.MaxConns, 200_000)
	cfg.MaxPerAddr = cmp.Or(cfg.MaxPerAddr, cfg.MaxConns)
	cfg.ParkAfter = cmp.Or(cfg.ParkAfter, time.Second)
	cfg.IdleFor = cmp.Or(cfg.IdleFor, 2*time.Minute)
	l := &Listener{cfg: cfg, inner: inner, ready: make(chan net.Conn, backlog), perAddr: map[netip.Addr]int{}}
	poll, err := newPoller()
	if err != nil {
		return nil, fmt.Errorf("parking: %w", err)
	}
	l.poll = poll
	l.ctx, l.stop = context.WithCancel(context.Background())
	return l, nil
}

// Accept implements net.Listener: new connections, and parked ones that have something to read.
func (l *Listener) Accept() (net.Conn, error) {
	l.once.Do(l.start)
	select {
	case c := <-l.ready:
		return c, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (l *Listener) start() {
	for _, in := range l.inner {
		l.all.Go(func() { l.accept(in) })
	}
	l.all.Go(func() { l.poll.run(l.resume) })
	l.all.Go(func() {
		t := time.NewTicker(tick)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				l.tick.Add(1)
				l.sweep()
			case <-l.ctx.Done():
				return
			}
		}
	})
}

func (l *Listener) accept(in net.Listener) {
	for delay := time.Duration(0); ; {
		c, err := in.Accept()
		if err != nil {
			if l.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of descriptors, or the peer has gone already: wait for better times, as net/http does.
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			select {
			case <-time.After(delay):
				continue
			case <-l.ctx.Done():
				return
			}
		}
		delay = 0
		if t, ok := c.(*net.TCPConn); ok {
			if c = l.admit(t); c == nil {
				continue
			}
		}
		select {
		case l.ready <- c:
		case <-l.ctx.Done():
			c.Close()
			return
		}
	}
}

// admit makes a Conn, or closes t and returns nil.
func (l *Listener) admit(t *net.TCPConn) net.Conn {
	c := &Conn{tcp: t, ln: l}
	if a, ok := t.RemoteAddr().(*net.TCPAddr); ok {
		c.addr = network(a.AddrPort().Addr())
	}
	raw, err := t.SyscallConn()
	if err == nil {
		c.raw = raw
		err = raw.Control(func(fd uintptr) { c.fd = int(fd) })
	}
	if err != nil {
		t.Close()
		return nil
	}
	c.readRaw, c.writeRaw = c.tryRead, c.tryWrite
	c.outer = c
	c.since.Store(l.tick.Load())
	l.mu.Lock()
	switch {
	case l.closed:
	case l.open >= l.cfg.MaxConns:
		l.refusedTotal.Add(1)
	case l.perAddr[c.addr] >= l.cfg.MaxPerAddr:
		l.refusedAddr.Add(1)
	default:
		l.open++
		l.perAddr[c.addr]++
		l.enter(c)
		l.mu.Unlock()
		l.accepted.Add(1)
		if l.cfg.TLS != nil {
			return newTLS(c, l.cfg.TLS)
		}
		return c
	}
	l.mu.Unlock()
	t.SetLinger(0)
	t.Close()
	return nil
}

// network is what one client is likely to hold: an IPv4 address or a /64.
func network(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

// enter and leave keep the table of connections that are not parked; l.mu is held.
func (l *Listener) enter(c *Conn) {
	c.index = len(l.live)
	l.live = append(l.live, c)
}

func (l *Listener) leave(c *Conn) {
	last := len(l.live) - 1
	l.live[c.index] = l.live[last]
	l.live[c.index].index = c.index
	l.live[last] = nil
	l.live = l.live[:last]
	c.index = -1
}

// park takes a connection over from its server. False: it has to be closed.
func (l *Listener) park(c *Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || c.tcp.SetReadDeadline(time.Time{}) != nil || !c.state.CompareAndSwap(stateParking, stateParked) {
		return false
	}
	if l.poll.watch(c) != nil {
		return false
	}
	l.leave(c)
	c.older, c.newer = l.newest, nil
	if l.newest != nil {
		l.newest.newer = c
	} else {
		l.oldest = c
	}
	l.newest = c
	l.parked++
	l.untrim++
	l.parkAt = l.tick.Load()
	return true
}

// unpark takes a connection out of the list of parked ones; l.mu is held.
func (l *Listener) unpark(c *Conn) {
	if c.older != nil {
		c.older.newer = c.newer
	} else {
		l.oldest = c.newer
	}
	if c.newer != nil {
		c.newer.older = c.older
	} else {
		l.newest = c.older
	}
	c.older, c.newer = nil, nil
	l.poll.forget(c)
	l.parked--
	l.enter(c)
}

// resume gives a parked connection out again; gone says that the peer has closed it and sent nothing.
func (l *Listener) resume(c *Conn, gone bool) {
	l.mu.Lock()
	if c.state.Load() != stateParked { // closed meanwhile
		l.mu.Unlock()
		return
	}
	l.unpark(c)
	c.since.Store(l.tick.Load())
	c.state.Store(stateIdle)
	l.mu.Unlock()
	if gone {
		c.shut()
		return
	}
	select {
	case l.ready <- c.outer:
	case <-l.ctx.Done():
		c.shut()
	}
}

// gone forgets a closed connection.
func (l *Listener) gone(c *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.index >= 0 {
		l.leave(c)
	}
	l.open--
	if l.perAddr[c.addr]--; l.perAddr[c.addr] <= 0 {
		delete(l.perAddr, c.addr)
	}
}

// sweep looks at every connection: idle ones are parked or closed, stuck ones cut.
func (l *Listener) sweep() {
	now := l.tick.Load()
	var cut, tired []*Conn
	l.mu.Lock()
	for _, c := range l.live {
		switch c.state.Load() {
		case stateIdle:
			c.markWait = waitNothing
			if now-c.since.Load() >= int64(l.cfg.ParkAfter/tick) {
				c.mu.Lock()
				if c.state.CompareAndSwap(stateIdle, stateParking) {
					c.tcp.SetReadDeadline(time.Unix(1, 0))
				}
				c.mu.Unlock()
			}
		case stateActive:
			if c.stuck(now) {
				cut = append(cut, c)
			}
		}
	}
	for c := l.oldest; c != nil && now-c.since.Load() >= int64(l.cfg.IdleFor/tick); c = l.oldest {
		l.unpark(c)
		c.state.Store(stateIdle)
		tired = append(tired, c)
	}
	trim := l.untrim >= trimAt && now-l.parkAt >= trimTicks
	if trim {
		l.untrim = 0
	}
	l.mu.Unlock()
	for _, c := range tired {
		l.idledOut.Add(1)
		c.shut()
	}
	for _, c := range cut {
		if c.markWait == waitWrite {
			l.cutWriting.Add(1)
		} else {
			l.cutReading.Add(1)
		}
		c.cut()
	}
	if trim {
		// An idle server allocates nothing, so nothing else would collect what a thousand connections left behind.
		debug.FreeOSMemory()
	}
}

// stuck says that c has waited for its peer for a whole window and moved too little. Only the sweep calls it.
func (c *Conn) stuck(now int64) bool {
	w := c.waiting.Load()
	if w == waitNothing {
		c.markWait = w
		return false
	}
	if w == c.markWait && now-c.markTick < slowTicks {
		return false
	}
	// What lies in the kernel's buffer has not moved yet: a slow peer frees it in large steps.
	moved := c.got.Load()
	if w == waitWrite {
		moved = c.sent.Load() - c.unacknowledged()
	}
	stuck := w == c.markWait && moved-c.markBytes < slowBytes
	c.markWait, c.markTick, c.markBytes = w, now, moved
	return stuck
}

// Close stops accepting and closes parked connections; those in a request go on. It waits for the listener's own
// goroutines.
func (l *Listener) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return net.ErrClosed
	}
	l.closed = true
	var parked []*Conn
	for l.oldest != nil {
		c := l.oldest
		l.unpark(c)
		c.state.Store(stateIdle)
		parked = append(parked, c)
	}
	l.mu.Unlock()
	l.stop()
	var errs []error
	for _, in := range l.inner {
		errs = append(errs, in.Close())
	}
	l.poll.close()
	l.all.Wait()
	for _, c := range parked {
		c.shut()
	}
	for {
		select {
		case c := <-l.ready: // accepted, and never given out
			c.Close()
			continue
		default:
		}
		return errors.Join(errs...)
	}
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return l.inner[0].Addr() }

// Stats counts.
func (l *Listener) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Stats{Accepted: l.accepted.Load(), RefusedTotal: l.refusedTotal.Load(), RefusedAddr: l.refusedAddr.Load(),
		CutReading: l.cutReading.Load(), CutWriting: l.cutWriting.Load(), IdledOut: l.idledOut.Load(), Open: int64(l.open), Parked: int64(l.parked)}
}
