//go:build unix

package transport

import (
	"context"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// Listen opens n listeners on one address, with SO_REUSEPORT when n > 1: the kernel spreads connections over them, and
// accepting is no longer one queue. A port of 0 is the same for all.
func Listen(addr string, n int) ([]net.Listener, error) {
	cfg := net.ListenConfig{}
	if n > 1 {
		cfg.Control = func(_, _ string, raw syscall.RawConn) (err error) {
			if cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }); cerr != nil {
				return cerr
			}
			return err
		}
	}
	var out []net.Listener
	for range max(1, n) {
		ln, err := cfg.Listen(context.Background(), "tcp", addr)
		if err != nil {
			for _, l := range out {
				l.Close()
			}
			return nil, err
		}
		addr = ln.Addr().String()
		out = append(out, ln)
	}
	return out, nil
}
