package plays

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"segue/controlplane/api"
	"segue/internal/eventlog"
	"segue/media"
)

// DeadStream keeps messages that can never be stored, with the reason, until somebody has looked: a newer program may be able to, and replays them.
var DeadStream = eventlog.Stream{Name: "deadletter", MaxAge: 180 * 24 * time.Hour, MaxBytes: 1 << 30}

// Dead is one of them.
type Dead struct {
	Stream  string    `json:"stream"`
	Subject string    `json:"subject"`
	ID      string    `json:"id"`
	Seq     uint64    `json:"seq"` // in Stream
	At      time.Time `json:"at"`  // when the stream took it
	Reason  string    `json:"reason"`
	Body    []byte    `json:"body"`
}

// DeadLetters looks after them.
type DeadLetters struct{ log *eventlog.Log }

// NewDeadLetters takes the log that holds DeadStream.
func NewDeadLetters(log *eventlog.Log) *DeadLetters { return &DeadLetters{log} }

// Keep adds one. A repeat is harmless.
func (l *DeadLetters) Keep(ctx context.Context, d Dead) error {
	if len(d.Reason) > 2000 {
		d.Reason = d.Reason[:2000]
	}
	// JSON makes a body a third longer, and the log takes messages of at most 1 MiB: so large ones are cut, which only one who wrote into the
	// log past us can make.
	if len(d.Body) > 600<<10 {
		d.Body, d.Reason = d.Body[:600<<10], "cut to 600 KiB: "+d.Reason
	}
	b, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("bug: %w", err)
	}
	return l.log.Append(ctx, eventlog.Message{ID: fmt.Sprintf("dead-%s-%d-%d", d.Stream, d.Seq, d.At.UnixNano()), Subject: DeadStream.Name + "." + d.Stream, Body: b})
}

// List returns at most n from the place on, oldest first, and the place to go on from; 0: that was all.
func (l *DeadLetters) List(ctx context.Context, from uint64, n int) ([]api.DeadLetter, uint64, error) {
	list, next, err := l.log.List(ctx, DeadStream.Name, from, n)
	out := make([]api.DeadLetter, 0, len(list))
	for _, e := range list {
		d, err := readDead(e)
		if err != nil {
			return nil, 0, err
		}
		out = append(out, wire(e, d, false))
	}
	return out, next, err
}

// Get returns one with what is in it. Errors: media.ErrNotFound.
func (l *DeadLetters) Get(ctx context.Context, seq uint64) (api.DeadLetter, error) {
	e, d, err := l.find(ctx, seq)
	if err != nil {
		return api.DeadLetter{}, err
	}
	return wire(e, d, true), nil
}

// Replay gives one back to its stream, at its end, and takes it out here. Errors: media.ErrNotFound.
func (l *DeadLetters) Replay(ctx context.Context, seq uint64) error {
	e, d, err := l.find(ctx, seq)
	if err != nil {
		return err
	}
	// The log would drop its own id as a repeat. Asked for twice at once, this one is.
	if err := l.log.Append(ctx, eventlog.Message{ID: fmt.Sprintf("replay-%d-%d", seq, e.At.UnixNano()), Subject: d.Subject, Body: d.Body}); err != nil {
		return err
	}
	return l.log.Remove(ctx, DeadStream.Name, seq)
}

// Drop takes one out for good. Errors: media.ErrNotFound.
func (l *DeadLetters) Drop(ctx context.Context, seq uint64) error {
	if _, _, err := l.find(ctx, seq); err != nil {
		return err
	}
	return l.log.Remove(ctx, DeadStream.Name, seq)
}

func (l *DeadLetters) find(ctx context.Context, seq uint64) (eventlog.Entry, Dead, error) {
	e, ok, err := l.log.Find(ctx, DeadStream.Name, seq)
	if err != nil {
		return e, Dead{}, err
	}
	if !ok {
		return e, Dead{}, fmt.Errorf("dead letter %d: %w", seq, media.ErrNotFound)
	}
	d, err := readDead(e)
	return e, d, err
}

func readDead(e eventlog.Entry) (Dead, error) {
	var d Dead
	if err := json.Unmarshal(e.Body, &d); err != nil {
		return d, fmt.Errorf("dead letter %d: %w", e.Seq, err)
	}
	return d, nil
}

func wire(e eventlog.Entry, d Dead, whole bool) api.DeadLetter {
	out := api.DeadLetter{ID: int64(e.Seq), Stream: d.Stream, MessageID: d.ID, LoggedAt: d.At, FailedAt: e.At, Reason: d.Reason, Bytes: int64(len(d.Body))}
	if !whole {
		return out
	}
	out.Body = d.Body
	if events, err := Decode(d.Body); err == nil && d.Stream == Stream.Name {
		for _, s := range events {
			out.Events = append(out.Events, s.Event)
		}
	}
	return out
}
