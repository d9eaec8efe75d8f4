package plays

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"segue/internal/eventlog"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// Bounds of the sink's memory, for each of its three readers. What a batch takes is its messages, the columns made of them, and the block that is
// sent: about five times the messages for events, ten for compressed edge requests. docs/operations.md says what that is.
const (
	batchBytes    = 16 << 20 // of messages: some 50,000 events
	requestBytes  = 4 << 20  // of compressed edge requests: some 100,000
	batchMessages = 20_000
	batchWait     = 2 * time.Second // DESIGN 9: 10,000 to 100,000 rows, or 2 s
)

// feed is one stream and the table that it ends in.
type feed struct {
	stream eventlog.Stream
	table  string
	bytes  int
	rows   func(country func(netip.Addr) string) rows
}

var feeds = []feed{
	{Stream, "play_events", batchBytes, newEventRows},
	{RequestStream, "edge_requests", requestBytes, newRequestRows},
	{CMCDStream, "cmcd_events", batchBytes, newReportRows},
}

// readerName is the sink's place in each stream.
const readerName = "clickhouse"

// Sink moves the logs into ClickHouse. It is made whole before Run.
type Sink struct {
	opts   *clickhouse.Options
	schema Schema
	log    *slog.Logger

	// Country places the networks of edges' clients; nil: they have no country.
	Country func(netip.Addr) string
	// Dead keeps what can never be stored; when it returns nil that is durable. Nil: it is logged and passed over.
	Dead func(ctx context.Context, d Dead) error

	Rows    atomic.Int64 // of events that were inserted
	Batches atomic.Int64
	tables  map[string]*counters // by table

	reads atomic.Pointer[eventlog.Log]

	mu   sync.Mutex  // guards conn
	conn driver.Conn // nil until the schema is there
}

type counters struct{ rows, batches, dead, failures, messages atomic.Int64 }

// NewSink takes a URL clickhouse://user:password@host:9000/database.
func NewSink(url string, schema Schema, log *slog.Logger) (*Sink, error) {
	opts, err := options(url)
	s := &Sink{opts: opts, schema: schema, log: log, tables: map[string]*counters{}}
	for _, f := range feeds {
		s.tables[f.table] = &counters{}
	}
	return s, err
}

// Run reads the logs until ctx ends. With ClickHouse away everything stays in the logs.
func (s *Sink) Run(ctx context.Context, log *eventlog.Log) error {
	defer func() {
		if s.conn != nil {
			s.conn.Close()
		}
	}()
	s.reads.Store(log)
	var all sync.WaitGroup
	all.Go(func() { // analysts have tables to ask before the first event comes, and those of this version
		for failed := false; ; failed = true {
			_, err := s.open(ctx)
			if err == nil || ctx.Err() != nil {
				return
			}
			if !failed {
				s.log.Warn("the tables of the play logs have to wait", "err", err)
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(openAgain):
			}
		}
	})
	for _, f := range feeds {
		all.Go(func() {
			buffer := f.rows(s.Country)
			_ = log.ConsumeBatches(ctx, s.log, eventlog.BatchReader{Stream: f.stream.Name, Name: readerName, Bytes: f.bytes, Messages: batchMessages, Wait: batchWait},
				func(ctx context.Context, batch []eventlog.Entry) error { return s.take(ctx, f, buffer, batch) })
		})
	}
	all.Wait()
	return nil
}

// openAgain is between two tries to make the tables when nobody has a row to store: ClickHouse may start later.
const openAgain = 2 * time.Second

// open returns the connection, and makes the tables the first time.
func (s *Sink) open(ctx context.Context) (driver.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil {
		conn, err := Open(ctx, s.opts, s.schema)
		if err != nil {
			return nil, err
		}
		s.conn = conn
	}
	return s.conn, nil
}

// take stores a batch. It bears repeats: of the whole batch, whose token ClickHouse knows, and of its messages in others, since
// the tables keep one row per event and the sums are of sets.
func (s *Sink) take(ctx context.Context, f feed, buffer rows, batch []eventlog.Entry) error {
	c := s.tables[f.table]
	conn, err := s.open(ctx)
	if err != nil {
		c.failures.Add(1)
		return err
	}
	defer undo(buffer.columns(), 0)
	good := make([]eventlog.Entry, 0, len(batch))
	n := 0
	for _, m := range batch {
		added, err := buffer.add(message{m.Body, m.ID, m.At})
		if d, ok := errors.AsType[*dead](err); ok {
			if err := s.bury(ctx, f, m, d.reason); err != nil {
				return err
			}
			continue
		} else if err != nil {
			return err
		}
		good, n = append(good, m), n+added
	}
	if n == 0 {
		return nil
	}
	if err := s.insert(ctx, conn, f, buffer, good); err != nil {
		if !hopeless(err) || ctx.Err() != nil {
			c.failures.Add(1)
			return fmt.Errorf("insert %d rows into %s: %w", n, f.table, err)
		}
		if len(good) == 1 {
			return s.bury(ctx, f, good[0], err.Error())
		}
		// Something in it can never be stored: halve until it stands alone.
		undo(buffer.columns(), 0)
		for half := range slices.Chunk(good, (len(good)+1)/2) {
			if err := s.take(ctx, f, f.rows(s.Country), half); err != nil {
				return err
			}
		}
		return nil
	}
	c.rows.Add(int64(n))
	c.batches.Add(1)
	c.messages.Add(int64(len(good)))
	if f.table == "play_events" {
		s.Rows.Add(int64(n))
	}
	s.Batches.Add(1)
	return nil
}

func (s *Sink) insert(ctx context.Context, conn driver.Conn, f feed, buffer rows, batch []eventlog.Entry) error {
	columns := buffer.columns()
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.name
	}
	settings := clickhouse.Settings{"insert_deduplication_token": token(f.stream.Name, batch), "deduplicate_blocks_in_dependent_materialized_views": 1, "insert_deduplicate": 1}
	if s.schema.Cluster != "" {
		settings["distributed_foreground_insert"] = 1 // acknowledged means stored, not spooled on the server that was asked
	}
	b, err := conn.PrepareBatch(clickhouse.Context(ctx, clickhouse.WithSettings(settings)), "INSERT INTO "+f.table+" ("+strings.Join(names, ", ")+")")
	if err != nil {
		return err
	}
	for i, c := range columns {
		if err := c.put(b.Column(i)); err != nil {
			return errors.Join(&dead{fmt.Sprintf("column %s: %v", c.name, err)}, b.Abort())
		}
	}
	return b.Send()
}

// token names a batch by the places of its messages.
func token(stream string, batch []eventlog.Entry) string {
	h := sha256.New()
	h.Write([]byte(stream))
	var b [16]byte
	for _, m := range batch {
		binary.LittleEndian.PutUint64(b[:8], m.Seq)
		binary.LittleEndian.PutUint64(b[8:], uint64(m.At.UnixNano())) // a stream that was made anew counts from one again
		h.Write(b[:])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// hopeless says that an insert fails because of its rows, not of the server's state: then another try is no help. The codes are ClickHouse's.
func hopeless(err error) bool {
	if _, ok := errors.AsType[*dead](err); ok {
		return true
	}
	e, ok := errors.AsType[*clickhouse.Exception](err)
	if !ok {
		return false
	}
	return slices.Contains([]int32{
		6, 26, 27, 38, 41, 72, // cannot parse: text, quoted string, input, date, datetime, number
		53, 69, 70, 131, // type mismatch, argument out of bound, cannot convert, string too large
		252,      // too many parts: only of one insert's partitions, see below
		321, 349, // value out of range, NULL into a column that takes none
		469, // violated constraint
	}, e.Code) && (e.Code != 252 || strings.Contains(e.Message, "partitions for single INSERT block"))
}

func (s *Sink) bury(ctx context.Context, f feed, m eventlog.Entry, reason string) error {
	s.log.Error("a message can never be stored", "stream", f.stream.Name, "id", m.ID, "err", reason)
	if s.Dead != nil {
		d := Dead{Stream: f.stream.Name, Subject: m.Subject, ID: m.ID, Seq: m.Seq, At: m.At, Reason: reason, Body: m.Body}
		if err := s.Dead(ctx, d); err != nil {
			return fmt.Errorf("keep what can never be stored: %w", err)
		}
	}
	s.tables[f.table].dead.Add(1)
	return nil
}
