// Package transport carries the edge's connections: a net.Listener whose connections send a reply in few system calls,
// cost little while nobody asks for anything, and are cut when a peer stops making progress.
//
//	accept -> limits -> Conn -> HTTP server -> idle for a second -> parked in an epoll set -> bytes arrive -> Accept again
//
// A parked connection has no goroutine and no buffers: it left the HTTP server as one that ended, and comes back through
// Accept as a new one when its next request arrives. A server needs no timeouts of its own: a sweep looks at every
// connection some times a second, so that the hot path sets no timers.
package transport
