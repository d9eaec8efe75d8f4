package eventlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Entry is a message as it stands in a stream. Body is shared: never write to it.
type Entry struct {
	ID      string
	Subject string
	Body    []byte
	Seq     uint64 // its place in the stream
	At      time.Time
	header  nats.Header
}

// Header is the value of one of the headers that the message was appended with; empty: it has none such.
func (e Entry) Header(name string) string { return e.header.Get(name) }

// BatchReader is a durable reader of a stream for a store that is far faster with large batches.
type BatchReader struct {
	Stream   string
	Name     string        // [a-z0-9-]+
	Bytes    int           // of messages in a batch, about: one pull of the server
	Messages int           // in a batch, at most
	Wait     time.Duration // for a batch to fill
}

const (
	// batchAckTime is how long a reader may be silent about a batch before others get it: as long as a reader that was killed
	// delays what it had.
	batchAckTime = 15 * time.Second
	// retryBatchMost is the longest pause between two tries of a batch.
	retryBatchMost = 5 * time.Second
)

// ConsumeBatches hands batches to take, in order, until ctx ends. The same batch is handed over until take returns nil, while
// the server is told that it is worked on: a store that knows a batch by its entries drops what it has already.
// Only then is it acknowledged; a reader that dies before is followed by others, which get the same entries in other batches.
// At most one batch is held in memory.
func (l *Log) ConsumeBatches(ctx context.Context, log *slog.Logger, r BatchReader, take func(ctx context.Context, batch []Entry) error) error {
	var consumer jetstream.Consumer // made anew after a failure: the server may have come back without it
	failing := false
	report := func(err error) {
		if err == nil && failing {
			log.Info("reader goes on", "stream", r.Stream, "reader", r.Name)
		} else if err != nil && !failing {
			log.Warn("reader waits, nothing is lost", "stream", r.Stream, "reader", r.Name, "err", err)
		}
		failing = err != nil
	}
	for ctx.Err() == nil {
		var err error
		if consumer == nil {
			consumer, err = l.js.CreateOrUpdateConsumer(ctx, strings.ToUpper(r.Stream), jetstream.ConsumerConfig{Durable: r.Name,
				AckPolicy: jetstream.AckExplicitPolicy, AckWait: batchAckTime, MaxAckPending: 4 * r.Messages, DeliverPolicy: jetstream.DeliverAllPolicy})
		}
		var batch []Entry
		var pending []jetstream.Msg
		if err == nil {
			batch, pending, err = l.pull(ctx, consumer, r)
		}
		if err == nil && len(batch) > 0 {
			err = l.work(ctx, r, batch, pending, take, report)
		}
		if ctx.Err() != nil {
			break
		}
		report(err)
		if err != nil {
			consumer = nil
			pause(ctx, retryAfter)
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// pull gathers one batch: what is there, for as long as r.Wait from the first message on.
func (l *Log) pull(ctx context.Context, consumer jetstream.Consumer, r BatchReader) (batch []Entry, pending []jetstream.Msg, err error) {
	gather := func(in jetstream.MessageBatch, err error) error {
		if err != nil {
			return err
		}
		for m := range in.Messages() {
			meta, err := m.Metadata()
			if err != nil {
				return fmt.Errorf("message without a place: %w", err)
			}
			pending = append(pending, m)
			batch = append(batch, Entry{ID: m.Headers().Get(nats.MsgIdHdr), Subject: m.Subject(), Body: m.Data(), Seq: meta.Sequence.Stream, At: meta.Timestamp, header: m.Headers()})
		}
		if err := in.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, jetstream.ErrNoMessages) {
			return err
		}
		return nil
	}
	if err = gather(consumer.Fetch(1, jetstream.FetchMaxWait(r.Wait))); err != nil || len(batch) == 0 {
		return nil, nil, err
	}
	end := time.Now().Add(r.Wait)
	bytes := len(batch[0].Body)
	for left := r.Wait; left > 10*time.Millisecond && bytes < r.Bytes && len(batch) < r.Messages && ctx.Err() == nil; left = time.Until(end) {
		before := len(batch)
		// A pull for bytes alone would bring a million tiny messages; one for messages alone, a gigabyte. The server ends a
		// pull for bytes before the message that does not fit.
		if err = gather(consumer.FetchBytes(max(r.Bytes-bytes, 2<<20), jetstream.FetchMaxWait(left))); err != nil {
			return nil, nil, err
		}
		for _, e := range batch[before:] {
			bytes += len(e.Body)
		}
		if len(batch) == before {
			break
		}
	}
	return batch, pending, nil
}

// work has take try until it is done, and acknowledges.
func (l *Log) work(ctx context.Context, r BatchReader, batch []Entry, pending []jetstream.Msg, take func(context.Context, []Entry) error, report func(error)) error {
	working, stop := context.WithCancel(ctx)
	var ticking sync.WaitGroup
	ticking.Go(func() {
		t := time.NewTicker(batchAckTime / 3)
		defer t.Stop()
		for {
			select {
			case <-working.Done():
				return
			case <-t.C:
				for _, m := range pending {
					if err := m.InProgress(); err != nil { // the connection is lost: then so is the claim to the batch
						break
					}
				}
			}
		}
	})
	defer ticking.Wait()
	defer stop()
	for wait := retryAfter; ; wait = min(2*wait, retryBatchMost) {
		err := take(ctx, batch)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		report(err)
		pause(ctx, wait)
	}
	// An acknowledgement that is lost on the way means a repeat, which take bears.
	for _, m := range pending[:len(pending)-1] {
		if err := m.Ack(); err != nil {
			return err
		}
	}
	actx, cancel := context.WithTimeout(ctx, ackTime)
	defer cancel()
	return pending[len(pending)-1].DoubleAck(actx)
}

// Lag is how far a durable reader is behind.
type Lag struct {
	Messages uint64
	Bytes    uint64        // of the whole stream: messages are kept after they were read
	Oldest   time.Duration // age of the first message that is not acknowledged; 0: there is none
}

// Lag asks for it. A reader that has never read has everything before it.
func (l *Log) Lag(ctx context.Context, stream, reader string) (Lag, error) {
	var lag Lag
	st, err := l.js.Stream(ctx, strings.ToUpper(stream))
	if err != nil {
		return lag, fmt.Errorf("stream %s: %w", stream, err)
	}
	state := st.CachedInfo().State
	lag.Bytes = state.Bytes
	first := state.FirstSeq
	c, err := st.Consumer(ctx, reader)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		lag.Messages = state.Msgs
	case err != nil:
		return lag, fmt.Errorf("reader %s of %s: %w", reader, stream, err)
	default:
		info := c.CachedInfo()
		lag.Messages, first = info.NumPending+uint64(info.NumAckPending), max(first, info.AckFloor.Stream+1)
	}
	if lag.Messages == 0 {
		return lag, nil
	}
	m, err := st.GetMsg(ctx, first)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return lag, nil
	} else if err != nil {
		return lag, fmt.Errorf("message %d of %s: %w", first, stream, err)
	}
	lag.Oldest = max(time.Since(m.Time), time.Microsecond)
	return lag, nil
}

// List returns at most n messages of a stream from the place on, oldest first, and the place to go on from; 0: that was all.
func (l *Log) List(ctx context.Context, stream string, from uint64, n int) (list []Entry, next uint64, err error) {
	st, err := l.js.Stream(ctx, strings.ToUpper(stream))
	if err != nil {
		return nil, 0, fmt.Errorf("stream %s: %w", stream, err)
	}
	state := st.CachedInfo().State
	for seq := max(from, state.FirstSeq, 1); seq <= state.LastSeq; {
		if len(list) == n {
			return list, seq, nil
		}
		m, err := st.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(stream+".>")) // the next one there is: some were taken out
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		} else if err != nil {
			return nil, 0, fmt.Errorf("message %d of %s: %w", seq, stream, err)
		}
		list = append(list, Entry{ID: m.Header.Get(nats.MsgIdHdr), Subject: m.Subject, Body: m.Data, Seq: m.Sequence, At: m.Time, header: m.Header})
		seq = m.Sequence + 1
	}
	return list, 0, nil
}

// Find returns one message, or false.
func (l *Log) Find(ctx context.Context, stream string, seq uint64) (Entry, bool, error) {
	list, _, err := l.List(ctx, stream, seq, 1)
	if err != nil || len(list) == 0 || list[0].Seq != seq {
		return Entry{}, false, err
	}
	return list[0], true, nil
}

// Remove takes one message out of a stream. One that is not there is no error.
func (l *Log) Remove(ctx context.Context, stream string, seq uint64) error {
	st, err := l.js.Stream(ctx, strings.ToUpper(stream))
	if err == nil {
		err = st.DeleteMsg(ctx, seq)
	}
	if err != nil && !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return fmt.Errorf("remove message %d of %s: %w", seq, stream, err)
	}
	return nil
}
