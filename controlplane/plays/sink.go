package plays

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"segue/internal/eventlog"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/oklog/ulid/v2"
)

// Sink moves events from the log into ClickHouse.
type Sink struct {
	opts    *clickhouse.Options
	schema  Schema
	log     *slog.Logger
	conn    driver.Conn // nil until the schema is there
	Rows    atomic.Int64
	Batches atomic.Int64
}

// NewSink takes a URL clickhouse://user:password@host:9000/database.
func NewSink(url string, schema Schema, log *slog.Logger) (*Sink, error) {
	opts, err := options(url)
	return &Sink{opts: opts, schema: schema, log: log}, err
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
		conn, err := Open(ctx, s.opts, s.schema)
		if err != nil {
			return err
		}
		s.conn = conn
	}
	b, err := s.conn.PrepareBatch(ctx, `INSERT INTO play_events (event_id, play_id, type, at, received_at, skew_ms, play_at, user_key, plan, track_id, version, title, artist_id, artist,
		album_id, album, genre, duration_ms, position_ms, played_ms, rendition, bitrate_kbps, edge, region, country, device_type, player, startup_ms, stall_ms, message,
		context_type, context_id, offline)`)
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
		var contextType, contextID string
		if e.Context != nil {
			contextType, contextID = e.Context.Type, e.Context.ID
		}
		var offline uint8
		if e.LicenceID != "" {
			offline = 1
		}
		if err := b.Append(e.ID, e.PlayID, e.Type, e.At, e.ReceivedAt, e.SkewMS, playAt(e.PlayID), e.UserKey, string(e.Plan), string(e.TrackID), string(e.Version), e.Title,
			e.ArtistID, e.Artist, e.AlbumID, e.Album, e.Genre, uint32(e.DurationMS), uint32(e.PositionMS), uint32(e.PlayedMS), e.Rendition, bitrateKbps(e.Rendition), e.Edge,
			e.Region, e.Country, e.DeviceType, e.Player, uint32(e.StartupMS), uint32(e.StallMS), e.Message, contextType, contextID, offline); err != nil {
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

// playAt is when a play was granted, or began offline: the time in its ULID, the same for all its events.
func playAt(playID string) time.Time {
	id, err := ulid.ParseStrict(playID)
	if err != nil {
		return time.Time{}
	}
	return ulid.Time(id.Time()).UTC()
}

// bitrateKbps reads the number in a rendition's name, as aac_160; 0: it has none.
func bitrateKbps(rendition string) uint32 {
	_, number, _ := strings.Cut(rendition, "_")
	n, err := strconv.ParseUint(number, 10, 20)
	if err != nil {
		return 0
	}
	return uint32(n)
}
