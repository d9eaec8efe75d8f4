package controlplane

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/identity"
	"segue/controlplane/plays"
	"segue/controlplane/stats"
	"segue/media"

	"github.com/danielgtaylor/huma/v2"
)

// newStats wires what statistics ask of the others. reader may be nil.
func (cp *ControlPlane) newStats(reader *plays.Reader) *stats.Service {
	ask := stats.Sources{UserKey: cp.ingest.UserKey, Tracks: cp.catalog.TracksByID, Artists: cp.catalog.ArtistsByID}
	if reader != nil {
		ask.Rows = func(ctx context.Context, sql string, params map[string]string, each func(scan func(...any) error) error) error {
			var err error
			if away := cp.clickhouse.do(func() error {
				err = reader.Rows(ctx, sql, params, each)
				if ctx.Err() != nil {
					return nil // the client left: that says nothing of ClickHouse
				}
				return err
			}); away != nil {
				return away
			}
			return err
		}
	}
	return stats.New(cp.db, ask, cp.log)
}

func (cp *ControlPlane) statsRoutes(a huma.API) {
	const tag = "Statistics"
	const late = " From the play logs, some seconds after it was heard. While they cannot be asked, the last answer comes with stale true; 503 when there is none."
	op := operation("stats-me", http.MethodGet, "/v1/stats/me", tag, "What one heard", needUser)
	op.Description = "Minutes, plays, what was heard most, days, and days in a row." + late
	register(cp, a, op, func(ctx context.Context, in *struct {
		Period string `query:"period" enum:"week,month,year,all" default:"month" doc:"the last 7, 30 or 365 days, or as long as play logs are kept"`
	}) (*answer[api.Recap], error) {
		return reply(cp.stats.Recap(ctx, principal(ctx).UserID, in.Period))
	})
	op = operation("stats-artist", http.MethodGet, "/v1/stats/artists/{id}", tag, "What is heard of an artist", needUser)
	op.Description = "In the last 28 days." + late
	register(cp, a, op, func(ctx context.Context, in *byID) (*answer[api.ArtistStats], error) {
		return reply(cp.stats.Artist(ctx, in.ID))
	})
	op = operation("stats-track", http.MethodGet, "/v1/stats/tracks/{id}", tag, "What is heard of a track", needUser)
	op.Description = "In the last 28 days." + late
	register(cp, a, op, func(ctx context.Context, in *byID) (*answer[api.TrackStats], error) {
		return reply(cp.stats.Track(ctx, in.ID))
	})
	op = operation("stats-chart", http.MethodGet, "/v1/stats/charts/{country}", tag, "The 100 most heard tracks of a country and a week", needUser)
	op.Description = "A play counts from 30 s; of one listener and track at most 10 a week do. Weeks begin on Monday, in UTC." + late
	register(cp, a, op, func(ctx context.Context, in *struct {
		Country string `path:"country" pattern:"^([A-Z]{2}|all)$" doc:"ISO 3166-1 alpha-2, or all"`
		Week    string `query:"week" maxLength:"8" doc:"ISO 8601: 2026-W48; default: the last whole one"`
	}) (*answer[api.Chart], error) {
		return reply(cp.stats.Chart(ctx, in.Country, in.Week))
	})
	op = operation("sql", http.MethodPost, "/v1/admin/sql", tag, "Ask ClickHouse", adminScope+identity.ScopeStats)
	op.Description = "One statement, as a user who may only read; docs/analytics.md has the tables and examples. At most 10,000 rows, 8 MiB and 30 s. 400 has ClickHouse's own words. " +
		"503 of type no-play-logs: it is away, or this platform has none."
	register(cp, a, op, func(ctx context.Context, in *struct{ Body api.Question }) (*answer[api.Table], error) {
		return reply(cp.askClickHouse(ctx, in.Body))
	})
}

// Limits of a question in the console.
const (
	maxRows   = 10_000
	maxTable  = 8 << 20
	askedTime = 30 * time.Second
)

func (cp *ControlPlane) askClickHouse(ctx context.Context, q api.Question) (out api.Table, err error) {
	if cp.cfg.Analyst == "" {
		return out, fmt.Errorf("there is no ClickHouse: %w", stats.ErrAway)
	}
	limit := min(cmp.Or(q.MaxRows, 1000), maxRows)
	ctx, cancel := context.WithTimeout(ctx, askedTime+time.Second)
	defer cancel()
	body := &bounded{left: maxTable}
	begun := time.Now()
	err = plays.Ask(ctx, cp.cfg.Analyst, q.SQL, "JSONCompact", map[string]string{"max_result_rows": strconv.Itoa(limit + 1), "result_overflow_mode": "break",
		"max_execution_time": strconv.Itoa(int(askedTime.Seconds())), "max_block_size": strconv.Itoa(min(limit+1, 65536))}, body)
	if said, ok := errors.AsType[plays.Refused](err); ok {
		return out, fmt.Errorf("%s: %w", said.Error(), media.ErrInvalid)
	} else if errors.Is(err, media.ErrTooLarge) {
		return out, fmt.Errorf("the answer is over %d MiB: ask for less: %w", maxTable>>20, media.ErrInvalid)
	} else if err != nil {
		cp.log.Warn("clickhouse does not answer", "err", err)
		return out, stats.ErrAway
	}
	var answer struct {
		Meta []api.Column `json:"meta"`
		Data [][]any      `json:"data"`
	}
	if err := json.Unmarshal(body.Bytes(), &answer); err != nil {
		return out, fmt.Errorf("want a statement that answers with rows, and no FORMAT in it: %w", media.ErrInvalid)
	}
	out = api.Table{Columns: answer.Meta, Rows: answer.Data, DurationMS: time.Since(begun).Milliseconds()}
	if out.Columns == nil {
		out.Columns = []api.Column{}
	}
	if out.Rows == nil {
		out.Rows = [][]any{}
	}
	if len(out.Rows) > limit {
		out.Rows, out.Truncated = out.Rows[:limit], true
	}
	return out, nil
}

// bounded is a buffer that takes no more than so many bytes.
type bounded struct {
	bytes.Buffer
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, media.ErrTooLarge
	}
	return b.Buffer.Write(p)
}
