package transport

import (
	"crypto/tls"
	"errors"
	"io"
	"net/netip"
)

// tlsConn is TLS over a Conn. Its state survives parking: keys and counters, and what was read of a record.
type tlsConn struct {
	*tls.Conn
	under *Conn
}

func newTLS(c *Conn, cfg *tls.Config) *tlsConn {
	t := &tlsConn{tls.Server(c, cfg), c}
	c.outer = t
	c.state.Store(stateActive) // a handshake is due at once
	return t
}

// Handshake ends with the connection idle: a browser may connect long before it asks.
func (t *tlsConn) Handshake() error {
	if t.ConnectionState().HandshakeComplete { // parked, and back
		return nil
	}
	err := t.Conn.Handshake()
	t.under.Idle()
	return err
}

// Client is the peer's address.
func (t *tlsConn) Client() netip.Addr { return t.under.Client() }

// Idle says that a request was answered in full and none has begun.
func (t *tlsConn) Idle() { t.under.Idle() }

// Read says io.EOF between two requests when the connection is to be parked.
func (t *tlsConn) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	if errors.Is(err, errInterrupted) && t.under.state.Load() == stateParking {
		return n, io.EOF
	}
	return n, err
}

// Close parks, or says goodbye and closes.
func (t *tlsConn) Close() error {
	if t.under.state.Load() == stateParking && t.under.ln.park(t.under) {
		return nil
	}
	return t.Conn.Close()
}
