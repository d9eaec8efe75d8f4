package controlplane

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"segue/controlplane/store"
	"segue/internal/eventlog"
	"segue/media"
)

// appendTime is how long a request waits for the event log before its events go to SQL.
const appendTime = 2 * time.Second

// append makes play events durable: in the event log, or, while that is away, in the outbox, from where the relay carries
// them on. IDs stay the same on both ways, so an event that took both is one in the log. When the outbox is full too,
// nothing is acknowledged: media.ErrBusy.
func (cp *ControlPlane) append(ctx context.Context, messages ...eventlog.Message) error {
	if len(messages) == 0 {
		return nil
	}
	err := cp.eventlog.do(func() error {
		actx, end := cp.tracing.span(ctx, "event log append")
		actx, cancel := context.WithTimeout(actx, appendTime)
		defer cancel()
		err := cp.events.Append(actx, messages...)
		end(err)
		if ctx.Err() != nil {
			return nil // the client left: that says nothing of the log, and nothing is acknowledged below
		}
		return err
	})
	if err == nil || ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	events := make([]store.Event, len(messages))
	for i, m := range messages {
		m.Body = append([]byte(bytesInOutbox), base64.StdEncoding.EncodeToString(m.Body)...)
		events[i] = store.Event(m)
	}
	if err := cp.db.Keep(ctx, cp.cfg.MaxOutbox, events...); errors.Is(err, store.ErrFull) {
		p := newProblem(http.StatusServiceUnavailable, "busy", "the event log is away, and as many events wait for it as may: keep them, and send them later")
		p.RetryAfter = 5
		return errors.Join(p, media.ErrBusy)
	} else if err != nil {
		return err
	}
	cp.metrics.outboxed.Add(float64(len(events)))
	return nil
}

// bytesInOutbox begins a body that is not text: the outbox holds nothing else.
const bytesInOutbox = "base64:"

// appendLog makes messages durable in the event log, or says at once that it cannot: their senders keep them. media.ErrBusy.
func (cp *ControlPlane) appendLog(ctx context.Context, messages ...eventlog.Message) error {
	err := cp.eventlog.do(func() error {
		actx, cancel := context.WithTimeout(ctx, appendTime)
		defer cancel()
		err := cp.events.Append(actx, messages...)
		if ctx.Err() != nil {
			return nil
		}
		return err
	})
	if err == nil || ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	cp.log.Debug("the event log takes nothing", "err", err)
	p := newProblem(http.StatusServiceUnavailable, "busy", "the event log is away or full: keep it, and send it later")
	p.RetryAfter = 5
	return errors.Join(p, media.ErrBusy)
}

// relay carries events of the outbox into the log.
func (cp *ControlPlane) relay(ctx context.Context, events []store.Event) error {
	messages := make([]eventlog.Message, len(events))
	for i, e := range events {
		messages[i] = eventlog.Message(e)
		if text, ok := strings.CutPrefix(string(e.Body), bytesInOutbox); ok {
			b, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				return fmt.Errorf("bug: event %s of the outbox: %w", e.ID, err)
			}
			messages[i].Body = b
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return cp.events.Append(ctx, messages...)
}
