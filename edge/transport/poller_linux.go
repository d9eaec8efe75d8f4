package transport

import (
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// poller is an epoll set of parked connections. The set's own descriptor sits in Go's poller, so that waiting for it
// holds no thread.
type poller struct {
	file *os.File
	raw  syscall.RawConn
	fd   int

	mu    sync.Mutex // guards conns
	conns map[int32]*Conn
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	p := &poller{file: os.NewFile(uintptr(fd), "epoll"), fd: fd, conns: map[int32]*Conn{}}
	if p.raw, err = p.file.SyscallConn(); err != nil {
		p.file.Close()
		return nil, err
	}
	return p, nil
}

// watch waits for c to be readable, once. The kernel forgets a closed descriptor by itself.
func (p *poller) watch(c *Conn) error {
	p.mu.Lock()
	p.conns[int32(c.fd)] = c
	p.mu.Unlock()
	op := unix.EPOLL_CTL_MOD
	if !c.added {
		op = unix.EPOLL_CTL_ADD
	}
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(c.fd)}
	err := unix.EpollCtl(p.fd, op, c.fd, &ev)
	if err != nil {
		p.mu.Lock()
		delete(p.conns, int32(c.fd))
		p.mu.Unlock()
		return os.NewSyscallError("epoll_ctl", err)
	}
	c.added = true
	return nil
}

// forget drops a connection that is closed while it is watched.
func (p *poller) forget(c *Conn) {
	p.mu.Lock()
	if p.conns[int32(c.fd)] == c {
		delete(p.conns, int32(c.fd))
	}
	p.mu.Unlock()
}

// run calls ready for each connection that woke up, until close.
func (p *poller) run(ready func(c *Conn, gone bool)) {
	events := make([]unix.EpollEvent, 128)
	for {
		n := 0
		err := p.raw.Read(func(fd uintptr) bool {
			for {
				k, err := unix.EpollWait(int(fd), events, 0)
				if err == unix.EINTR {
					continue
				}
				n = k
				return err != nil || k > 0
			}
		})
		if err != nil || n < 0 {
			return // closed
		}
		for _, ev := range events[:n] {
			p.mu.Lock()
			c := p.conns[ev.Fd]
			delete(p.conns, ev.Fd)
			p.mu.Unlock()
			if c != nil {
				ready(c, ev.Events&(unix.EPOLLHUP|unix.EPOLLERR) != 0)
			}
		}
	}
}

func (p *poller) close() { p.file.Close() }
