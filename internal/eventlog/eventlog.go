// Package eventlog is the append-only log: NATS JetStream, in this process with a file store or as a cluster elsewhere,
// through one client. A message that Append returned for survives the process; readers acknowledge after their own
// work is safe, so nothing is lost; a message's ID makes a repeated Append harmless.
//
// The embedded server flushes to disk once a second: a crash of the process loses nothing, a power cut at most the
// last second.
package eventlog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"segue/internal/serve"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Config says where the log is. URL empty: embedded, in Dir.
type Config struct {
	URL string // nats://host:4222[,…]
	Dir string
}

// Stream is one log of subjects "<Name>.>".
type Stream struct {
	Name   string        // lower-case letters
	MaxAge time.Duration // 0: kept for ever
	// MaxBytes bounds what is kept, on disk; 0: no bound. A full stream takes nothing more: it never drops what it took.
	MaxBytes int64
}

// duplicatesFor is how long an ID is remembered: longer than a player keeps trying to deliver.
const duplicatesFor = 2 * time.Hour

// ackTime is how long an acknowledgement may take; one that is lost with its connection must not be waited for for ever.
const ackTime = 10 * time.Second

// Log is safe for concurrent use.
type Log struct {
	server *server.Server // nil: remote
	conn   *nats.Conn
	js     jetstream.JetStream
}

// Open starts or reaches the log and makes its streams. What the operator can mend is a serve.SetupError.
func Open(ctx context.Context, c Config, streams ...Stream) (*Log, error) {
	l := &Log{}
	opts := []nats.Option{nats.Name("segue"), nats.MaxReconnects(-1), nats.ReconnectWait(500 * time.Millisecond),
		nats.ReconnectBufSize(-1)} // away is an error at once: whoever appends keeps the message elsewhere
	if c.URL == "" {
		if err := os.MkdirAll(c.Dir, 0o755); err != nil {
			return nil, serve.Setupf("event log: %w", err)
		}
		s, err := server.NewServer(&server.Options{JetStream: true, StoreDir: c.Dir, DontListen: true, NoSigs: true, NoLog: true, SyncInterval: time.Second,
			JetStreamMaxStore: 1 << 50}) // streams have bounds of their own; it would set all of them aside at once, and start on no small disk
		if err != nil {
			return nil, serve.Setupf("event log in %s: %w", c.Dir, err)
		}
		l.server = s
		go s.Start() // returns at once when DontListen is set; Close waits for its end
		if !s.ReadyForConnections(20 * time.Second) {
			s.Shutdown()
			return nil, serve.Setupf("event log in %s does not start; is the disk full?", c.Dir)
		}
		opts = append(opts, nats.InProcessServer(s))
	}
	var err error
	if l.conn, err = nats.Connect(c.URL, opts...); err != nil {
		l.Close()
		return nil, serve.Setupf("event log %s: %w; start NATS with JetStream, or correct --nats", c.URL, err)
	}
	if l.js, err = jetstream.New(l.conn, jetstream.WithPublishAsyncTimeout(ackTime), jetstream.WithPublishAsyncMaxPending(64<<10)); err != nil {
		l.Close()
		return nil, fmt.Errorf("event log: %w", err)
	}
	for _, st := range streams {
		sctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := l.makeStream(sctx, jetstream.StreamConfig{Name: strings.ToUpper(st.Name), Subjects: []string{st.Name + ".>"},
			Storage: jetstream.FileStorage, MaxAge: st.MaxAge, MaxBytes: cmp.Or(st.MaxBytes, -1), Discard: jetstream.DiscardNew, Duplicates: duplicatesFor, Compression: jetstream.S2Compression})
		cancel()
		if err != nil {
			l.Close()
			return nil, serve.Setupf("event log: stream %s: %w; has the server JetStream?", st.Name, err)
		}
	}
	return l, nil
}

// noRoom is JetStream's code for a bound that is more than it has set aside for all streams.
const noRoom jetstream.ErrorCode = 10047

// makeStream makes or changes a stream. A server that cannot set so many bytes aside gets a smaller bound, down to a sixteenth.
func (l *Log) makeStream(ctx context.Context, c jetstream.StreamConfig) error {
	for least := c.MaxBytes / 16; ; c.MaxBytes /= 2 {
		_, err := l.js.CreateOrUpdateStream(ctx, c)
		e, ok := errors.AsType[*jetstream.APIError](err)
		if !ok || e.ErrorCode != noRoom {
			return err
		}
		if c.MaxBytes/2 >= max(least, 1<<20) {
			continue
		}
		if _, is := l.js.Stream(ctx, c.Name); is == nil { // of a time when there was more room: it goes on with its own bound
			return nil
		}
		return err
	}
}

// Close ends the connection and the embedded server. Acknowledged messages are kept.
func (l *Log) Close() {
	if l.conn != nil {
		l.conn.Close()
	}
	if l.server != nil {
		l.server.Shutdown()
		l.server.WaitForShutdown()
	}
}

// Message is one entry. ID names it for ever; Body is the caller's to keep.
type Message struct {
	ID      string
	Subject string
	Body    []byte
}

// Append returns when all messages are in the log. On an error some may be: append them again, with the same IDs.
func (l *Log) Append(ctx context.Context, messages ...Message) error {
	futures := make([]jetstream.PubAckFuture, len(messages))
	for i, m := range messages {
		f, err := l.js.PublishAsync(m.Subject, m.Body, jetstream.WithMsgID(m.ID))
		if err != nil {
			return fmt.Errorf("append to %s: %w", m.Subject, err)
		}
		futures[i] = f
	}
	for i, f := range futures {
		select {
		case <-f.Ok():
		case err := <-f.Err():
			return fmt.Errorf("append to %s: %w", messages[i].Subject, err)
		case <-ctx.Done():
			return fmt.Errorf("append to %s: %w", messages[i].Subject, ctx.Err())
		}
	}
	return nil
}

// Reader is one durable reader of a stream: its place is kept in the log under Name.
type Reader struct {
	Stream string
	Name   string        // [a-z0-9-]+
	Batch  int           // messages handed over at once, at most
	Wait   time.Duration // for a batch to fill
}

// retryAfter is the pause after a batch that was not taken.
const retryAfter = time.Second

// Consume hands batches to take, in order, until ctx ends. A batch is acknowledged when take returns nil, else given
// again: take must bear repeats. Failures are logged, the first of a row only.
func (l *Log) Consume(ctx context.Context, log *slog.Logger, r Reader, take func(ctx context.Context, batch []Message) error) error {
	var consumer jetstream.Consumer // made anew after a failure: the server may have come back without it
	failing := false
	for ctx.Err() == nil {
		var err error
		if consumer == nil {
			consumer, err = l.js.CreateOrUpdateConsumer(ctx, strings.ToUpper(r.Stream), jetstream.ConsumerConfig{Durable: r.Name,
				AckPolicy: jetstream.AckExplicitPolicy, AckWait: 5 * time.Minute, MaxAckPending: 4 * r.Batch, DeliverPolicy: jetstream.DeliverAllPolicy})
		}
		if err == nil {
			err = l.batch(ctx, consumer, r, take)
		}
		switch {
		case err == nil:
			if failing {
				log.Info("reader goes on", "stream", r.Stream, "reader", r.Name)
			}
			failing = false
		case ctx.Err() != nil:
		default:
			if !failing {
				log.Warn("reader waits, nothing is lost", "stream", r.Stream, "reader", r.Name, "err", err)
			}
			failing, consumer = true, nil
			select {
			case <-ctx.Done():
			case <-time.After(retryAfter):
			}
		}
	}
	return nil
}

func (l *Log) batch(ctx context.Context, consumer jetstream.Consumer, r Reader, take func(context.Context, []Message) error) error {
	// The first message is waited for, the rest gets Wait to gather.
	first, err := consumer.Fetch(1, jetstream.FetchMaxWait(r.Wait))
	if err != nil {
		return err
	}
	var batch []Message
	var pending []jetstream.Msg
	gather := func(in jetstream.MessageBatch) error {
		for m := range in.Messages() {
			pending = append(pending, m)
			batch = append(batch, Message{ID: m.Headers().Get(nats.MsgIdHdr), Subject: m.Subject(), Body: m.Data()})
		}
		if err := in.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, jetstream.ErrNoMessages) {
			return err
		}
		return nil
	}
	if err := gather(first); err != nil || len(pending) == 0 {
		return err
	}
	more, err := consumer.Fetch(r.Batch-1, jetstream.FetchMaxWait(r.Wait))
	if err != nil {
		return err
	}
	if err := gather(more); err != nil {
		return err
	}
	if err := take(ctx, batch); err != nil {
		for _, m := range pending {
			err = errors.Join(err, m.Nak())
		}
		return err
	}
	// An acknowledgement that is lost on the way means a repeat, which take bears.
	for _, m := range pending[:len(pending)-1] {
		if err := m.Ack(); err != nil {
			return err
		}
	}
	return pending[len(pending)-1].DoubleAck(ctx)
}
