package eventlog

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// Publish sends a notice to whoever subscribes to its subject at this moment, in this process and in others. The guarantee
// is core NATS's: at most once, nothing is stored. A subscriber that is away, slow or behind a broken connection misses
// it and nobody is told; one sender's notices keep their order. So a notice says that something is worth asking for,
// and is never the only place where it stands. An error says that it was not sent. The subject must not lie in a Stream.
func (l *Log) Publish(subject string, body []byte) error {
	if err := l.conn.Publish(subject, body); err != nil {
		return fmt.Errorf("publish to %s: %w", subject, err)
	}
	return nil
}

// Subscribe hands each notice of a subject (NATS wildcards: *, >) to take, one at a time, until ctx ends, also over
// lost and regained connections. A take that is slow for long loses notices: see Publish. body is take's to keep.
// ready, which may be nil, is called when notices published from then on arrive.
func (l *Log) Subscribe(ctx context.Context, subject string, ready func(), take func(subject string, body []byte)) error {
	sub, err := l.conn.SubscribeSync(subject)
	if err == nil {
		// The server has it when it answers this; a server that is away learns of it when it is back.
		if err = l.conn.FlushTimeout(5 * time.Second); err != nil && !l.Connected() {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	defer sub.Unsubscribe() // fails only when the connection is closed
	if ready != nil {
		ready()
	}
	for {
		m, err := sub.NextMsgWithContext(ctx)
		switch {
		case err == nil:
			take(m.Subject, m.Data)
		case ctx.Err() != nil:
			return nil
		case err == nats.ErrSlowConsumer: // some were dropped; the next ones come
		default:
			return fmt.Errorf("subscribed to %s: %w", subject, err)
		}
	}
}

// Connected reports whether the server can be reached now: false means that notices come late or not at all.
func (l *Log) Connected() bool { return l.conn.IsConnected() }
