package plays

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"segue/internal/eventlog"
	"segue/internal/serve"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

//go:embed schema.sql
var schema string

// Sink moves events from the log into ClickHouse.
type Sink struct {
	opts    *clickhouse.Options
	log     *slog.Logger
	conn    driver.Conn // nil until the schema is there
	Rows    atomic.Int64
	Batches atomic.Int64
}

// NewSink takes a URL clickhouse://user:password@host:9000/database.
func NewSink(url string, log *slog.Logger) (*Sink, error) {
	opts, err := options(url)
	return &Sink{opts: opts, log: log}, err
}

func options(url string) (*clickhouse.Options, error) {
	opts, err := clickhouse.ParseDSN(url)
	if err != nil || !strings.HasPrefix(url, "clickhouse://") || opts.Auth.Database == "" {
		return nil, serve.Setupf("clickhouse URL: want clickhouse://user:password@host:9000/database")
	}
	opts.DialTimeout, opts.ReadTimeout = 3*time.Second, 30*time.Second
	opts.Compression = &clickhouse.Compression{Method: clickhouse.CompressionLZ4}
	return opts, nil
}

// Run reads the log until ctx ends. With ClickHouse away the events stay in the log.
func (s *Sink) Run(ctx context.Context, log *eventlog.Log) error {
	defer func() {
		if s.conn != nil {
			s.conn.Close()
		}
	}()
	// 100,000 rows or 2 s, whatever is first: DESIGN 9.
	return log.Consume(ctx, s.log, eventlog.Reader{Stream: Stream.Name, Name: "clickhouse", Batch: 100_000, Wait: 2 * time.Second}, s.take)
}

func (s *Sink) take(ctx context.Context, batch []eventlog.Message) error {
	if s.conn == nil {
		conn, err := Open(ctx, s.opts)
		if err != nil {
			return err
		}
		s.conn = conn
	}
	b, err := s.conn.PrepareBatch(ctx, `INSERT INTO play_events (event_id, play_id, type, at, received_at, user_key, plan, track_id, version, title, artist, album,
		duration_ms, position_ms, played_ms, rendition, edge, startup_ms, stall_ms, player, message)`)
	if err != nil {
		return fmt.Errorf("clickhouse: %w", err)
	}
	rows := 0
	for _, m := range batch {
		var e Stamped
		if err := json.Unmarshal(m.Body, &e); err != nil {
			s.log.Error("event in the log cannot be read, passed over", "id", m.ID, "err", err)
			continue
		}
		if err := b.Append(e.ID, e.PlayID, e.Type, e.At, e.ReceivedAt, e.UserKey, string(e.Plan), string(e.TrackID), string(e.Version), e.Title, e.Artist, e.Album,
			uint32(e.DurationMS), uint32(e.PositionMS), uint32(e.PlayedMS), e.Rendition, e.Edge, uint32(e.StartupMS), uint32(e.StallMS), e.Player, e.Message); err != nil {
			return errors.Join(fmt.Errorf("clickhouse: %w", err), b.Abort())
		}
		rows++
	}
	if err := b.Send(); err != nil {
		return fmt.Errorf("clickhouse: insert %d events: %w", rows, err)
	}
	s.Rows.Add(int64(rows))
	s.Batches.Add(1)
	return nil
}

// Open connects and brings database and tables up to date.
func Open(ctx context.Context, opts *clickhouse.Options) (driver.Conn, error) {
	first := *opts
	first.Auth.Database = "" // it may not be there yet
	conn, err := clickhouse.Open(&first)
	if err != nil {
		return nil, fmt.Errorf("clickhouse: %w", err)
	}
	err = conn.Exec(ctx, "CREATE DATABASE IF NOT EXISTS "+quoteName(opts.Auth.Database))
	conn.Close()
	if err != nil {
		return nil, fmt.Errorf("clickhouse: %w", err)
	}
	if conn, err = clickhouse.Open(opts); err != nil {
		return nil, fmt.Errorf("clickhouse: %w", err)
	}
	for statement := range strings.SplitSeq(schema, ";\n") {
		if strings.TrimSpace(statement) == "" {
			continue
		}
		if err := conn.Exec(ctx, statement); err != nil {
			conn.Close()
			return nil, fmt.Errorf("clickhouse: schema: %w", err)
		}
	}
	return conn, nil
}

func quoteName(s string) string { return "`" + strings.ReplaceAll(s, "`", "``") + "`" }
