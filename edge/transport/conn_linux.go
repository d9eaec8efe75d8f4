package transport

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// outgoing is what one send has yet to send: first vec, then left bytes of file from offset on.
type outgoing struct {
	vec    [2]unix.Iovec
	file   int
	offset int64
	left   int64
	done   int64
}

func (o *outgoing) set(held []byte, p Piece) {
	*o = outgoing{}
	o.vec[0] = iovec(held)
	if p.File != 0 && len(p.Bytes) > 0 {
		o.file, o.offset, o.left = p.File, p.Offset, int64(len(p.Bytes))
	} else {
		o.vec[1] = iovec(p.Bytes)
	}
}

func iovec(b []byte) (v unix.Iovec) {
	if len(b) > 0 {
		v.Base = &b[0]
		v.SetLen(len(b))
	}
	return v
}

// tryRead is one read(2). Calls that cannot block are made as raw ones: the scheduler need not hear of them.
func (c *Conn) tryRead(fd uintptr) bool {
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(&c.in[0])), uintptr(len(c.in)))
		switch errno {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			if c.state.Load() == stateActive {
				c.waiting.Store(waitRead)
			}
			return false
		}
		c.n, c.readErr = int(n), errno
		return true
	}
}

// tryWrite sends as much as the socket takes; false means that it is full.
func (c *Conn) tryWrite(fd uintptr) bool {
	o := &c.out
	for {
		var n uintptr
		var errno syscall.Errno
		switch {
		case o.vec[0].Len > 0 && o.left > 0:
			n, _, errno = syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(o.vec[0].Base)), uintptr(o.vec[0].Len), unix.MSG_MORE|unix.MSG_NOSIGNAL, 0, 0)
		case o.vec[0].Len > 0 && o.vec[1].Len > 0:
			n, _, errno = syscall.RawSyscall(syscall.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&o.vec[0])), 2)
		case o.vec[0].Len > 0:
			n, _, errno = syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(o.vec[0].Base)), uintptr(o.vec[0].Len))
		case o.vec[1].Len > 0:
			n, _, errno = syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(o.vec[1].Base)), uintptr(o.vec[1].Len))
		case o.left > 0:
			n, _, errno = syscall.RawSyscall6(syscall.SYS_SENDFILE, fd, uintptr(o.file), uintptr(unsafe.Pointer(&o.offset)), uintptr(o.left), 0, 0)
			if errno == 0 && n == 0 {
				errno = syscall.EIO // the file is shorter than its piece: a bug, but no reason to spin
			}
		default:
			c.writeErr = 0
			return true
		}
		switch errno {
		case 0:
			o.advance(int64(n))
			c.sent.Add(int64(n))
		case syscall.EINTR:
		case syscall.EAGAIN:
			c.waiting.Store(waitWrite)
			return false
		default:
			c.writeErr = errno
			return true
		}
	}
}

func (o *outgoing) advance(n int64) {
	o.done += n
	for i := range o.vec {
		v := &o.vec[i]
		k := min(n, int64(v.Len))
		if k == 0 {
			continue
		}
		n -= k
		if v.Len -= uint64(k); v.Len == 0 {
			v.Base = nil
		} else {
			v.Base = (*byte)(unsafe.Add(unsafe.Pointer(v.Base), k))
		}
	}
	o.left -= n // sendfile moved the offset
}

// unacknowledged is how many sent bytes the peer has not acknowledged.
func (c *Conn) unacknowledged() int64 {
	n := 0
	c.raw.Control(func(fd uintptr) {
		if k, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ); err == nil {
			n = k
		}
	})
	return int64(n)
}
