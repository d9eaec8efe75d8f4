//go:build unix && !linux

package transport

import (
	"sync"
	"syscall"
)

// Without epoll and sendfile(2) as Linux has it: replies are written from memory, and a parked connection keeps a small
// goroutine, though no buffers.

type outgoing struct {
	rest [2][]byte
	done int64
}

func (o *outgoing) set(held []byte, p Piece) { *o = outgoing{rest: [2][]byte{held, p.Bytes}} }

func (c *Conn) tryRead(fd uintptr) bool {
	n, err := syscall.Read(int(fd), c.in)
	if err == syscall.EAGAIN || err == syscall.EINTR {
		if c.state.Load() == stateActive {
			c.waiting.Store(waitRead)
		}
		return false
	}
	c.n = n
	c.readErr, _ = err.(syscall.Errno)
	return true
}

func (c *Conn) tryWrite(fd uintptr) bool {
	for i := range c.out.rest {
		for len(c.out.rest[i]) > 0 {
			n, err := syscall.Write(int(fd), c.out.rest[i])
			if err == syscall.EAGAIN || err == syscall.EINTR {
				c.waiting.Store(waitWrite)
				return false
			}
			if c.writeErr, _ = err.(syscall.Errno); c.writeErr != 0 {
				return true
			}
			c.out.rest[i] = c.out.rest[i][n:]
			c.out.done += int64(n)
			c.sent.Add(int64(n))
		}
	}
	c.writeErr = 0
	return true
}

// unacknowledged is not known here: what the kernel took counts as progress.
func (c *Conn) unacknowledged() int64 { return 0 }

type poller struct {
	mu    sync.Mutex // guards ready
	ready func(c *Conn, gone bool)
	ended chan struct{}
}

func newPoller() (*poller, error) { return &poller{ended: make(chan struct{})}, nil }

func (p *poller) watch(c *Conn) error {
	go func() {
		err := c.raw.Read(func(fd uintptr) bool {
			var b [1]byte
			_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK)
			return err != syscall.EAGAIN && err != syscall.EINTR
		})
		p.mu.Lock()
		ready := p.ready
		p.mu.Unlock()
		ready(c, err != nil)
	}()
	return nil
}

func (p *poller) forget(*Conn) {}

func (p *poller) run(ready func(c *Conn, gone bool)) {
	p.mu.Lock()
	p.ready = ready
	p.mu.Unlock()
	<-p.ended
}

func (p *poller) close() { close(p.ended) }
