package transport

import (
	"net/netip"
	"time"
)

// Sweep lets n ticks pass at once.
func (l *Listener) Sweep(n int) {
	l.tick.Add(int64(n))
	l.sweep()
}

// SlowTicks is the window in which a peer must make progress.
const SlowTicks = int(slowTicks)

// SameNetwork says whether two addresses count as one client.
func SameNetwork(a, b string) bool {
	return network(netip.MustParseAddr(a)) == network(netip.MustParseAddr(b))
}

// Recheck makes the next handshake look at the files.
func (f *Files) Recheck() { f.looked = time.Time{} }
