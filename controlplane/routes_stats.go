package controlplane

import (
	"context"
	"net/http"

	"segue/controlplane/api"
	"segue/controlplane/plays"
	"segue/controlplane/stats"

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
}
