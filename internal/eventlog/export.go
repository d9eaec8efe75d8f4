package eventlog

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Export gives take every message that is in a stream now, oldest first, whatever its readers have taken already. What is
// appended meanwhile may be given too.
func (l *Log) Export(ctx context.Context, stream string, take func(Message) error) error {
	s, err := l.js.Stream(ctx, strings.ToUpper(stream))
	if err != nil {
		return fmt.Errorf("read %s: %w", stream, err)
	}
	info, err := s.Info(ctx)
	if err != nil {
		return fmt.Errorf("read %s: %w", stream, err)
	}
	if info.State.Msgs == 0 {
		return nil
	}
	reader, err := s.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return fmt.Errorf("read %s: %w", stream, err)
	}
	for {
		batch, err := reader.Fetch(1000, jetstream.FetchMaxWait(5*time.Second))
		if err != nil {
			return fmt.Errorf("read %s: %w", stream, err)
		}
		came := 0
		for m := range batch.Messages() {
			came++
			meta, err := m.Metadata()
			if err == nil {
				err = take(Message{ID: m.Headers().Get(nats.MsgIdHdr), Subject: m.Subject(), Body: m.Data()})
			}
			if err != nil {
				return fmt.Errorf("read %s: %w", stream, err)
			}
			if meta.Sequence.Stream >= info.State.LastSeq || meta.NumPending == 0 { // the last ones may have ended by their age
				return nil
			}
		}
		if err := batch.Error(); err != nil {
			return fmt.Errorf("read %s: %w", stream, err)
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("read %s: %w", stream, err)
		}
		if came == 0 {
			return fmt.Errorf("read %s: no message came for 5 s, and there are more", stream)
		}
	}
}
