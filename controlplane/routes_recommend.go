package controlplane

import (
	"context"
	"net/http"
	"path/filepath"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/identity"
	"segue/controlplane/plays"
	"segue/controlplane/recommend"
	"segue/controlplane/recommend/model"

	"github.com/danielgtaylor/huma/v2"
)

// newRecommend wires what recommendations ask of the others. reader may be nil.
func (cp *ControlPlane) newRecommend(reader *plays.Reader) *recommend.Service {
	ask := recommend.Sources{Tracks: cp.catalog.TracksByID, Releases: cp.library.Releases,
		Person: func(ctx context.Context, userID string) (string, api.Plan, error) {
			u, err := cp.identity.User(ctx, userID)
			return u.Country, u.Plan, err
		},
		Pseudonyms: func(_ context.Context, userIDs []string) ([]string, error) {
			out := make([]string, len(userIDs))
			for i, id := range userIDs {
				out[i] = cp.ingest.UserKey(id)
			}
			return out, nil
		}}
	if reader != nil {
		ask.Plays = func(ctx context.Context, since, until time.Time, add func(model.Play)) error {
			return cp.clickhouse.do(func() error {
				return reader.Pairs(ctx, since, until, func(p plays.Pair) {
					add(model.Play{User: p.UserKey, Track: p.TrackID, Country: p.Country, Plan: p.Plan, Heard: float64(p.Heard), Skipped: float64(p.Skipped), Last: p.Last})
				})
			})
		}
	}
	return recommend.New(cp.db, recommend.Config{Dir: filepath.Join(cp.cfg.Data, "recommend"), Limits: model.Limits{Pairs: cp.cfg.TrainPairs}}, ask, cp.log)
}

// tasteOf has recommendations learn of what a player reported. The events are durable by now: a taste that lacks a play
// is no reason to refuse them.
func (cp *ControlPlane) tasteOf(ctx context.Context, userID string, events []api.Event) {
	if err := cp.recommend.Heard(ctx, userID, events); err != nil {
		cp.log.Warn("recommendations lack a play", "request", requestID(ctx), "err", err)
	}
}

func (cp *ControlPlane) recommendRoutes(a huma.API) {
	const tag = "Recommendations"
	op := operation("home", http.MethodGet, "/v1/me/home", tag, "The home feed", needUser)
	op.Description = "Shelves of tracks, albums and mixes, best first, with the reason for each. What was played or skipped just now counts. Shelf ids: made-for-you, because, mixes, " +
		"new-from-followed, popular, genre, new. A track is on one shelf, an artist twice on a shelf at most (of because: three times); what was heard in the last 14 days is held back from what is to be " +
		"discovered. Who wants no personalisation gets popular and new."
	register(cp, a, op, func(ctx context.Context, _ *struct{}) (*answer[api.Home], error) {
		return reply(cp.recommend.Home(ctx, principal(ctx).UserID))
	})
	op = operation("radio", http.MethodGet, "/v1/me/radio/{id}", tag, "What comes next in a radio of a track or an artist", needUser)
	op.Description = "Ask again for more, with what the player has already in exclude. Skips in the meantime count at once."
	register(cp, a, op, func(ctx context.Context, in *struct {
		Named
		Limit   int      `query:"limit" minimum:"1" maximum:"100" default:"25"`
		Exclude []string `query:"exclude" maxItems:"500" doc:"ids of tracks, with commas between"`
	}) (*answer[api.Radio], error) {
		return reply(cp.recommend.Radio(ctx, principal(ctx).UserID, in.ID, in.Exclude, in.Limit))
	})
	op = operation("similar-tracks", http.MethodGet, "/v1/tracks/{id}/similar", tag, "What goes with a track", needUser)
	op.Description = "Heard by the same people; where too few heard it, alike in the catalogue."
	register(cp, a, op, func(ctx context.Context, in *struct {
		Named
		Limit int `query:"limit" minimum:"1" maximum:"40" default:"20"`
	}) (*answer[api.Similar], error) {
		return reply(cp.recommend.Similar(ctx, principal(ctx).UserID, in.ID, in.Limit))
	})
	op = operation("mixes", http.MethodGet, "/v1/me/mixes", tag, "The mixes of this week", needUser)
	op.Description = "Made when they are first asked for in a week (ISO 8601, UTC), and the same until it ends. None for who has heard fewer than 10 tracks."
	register(cp, a, op, func(ctx context.Context, _ *struct{}) (*answer[api.Mixes], error) {
		return reply(cp.recommend.Mixes(ctx, principal(ctx).UserID))
	})
	register(cp, a, operation("get-taste", http.MethodGet, "/v1/me/taste", tag, "What one says about recommendations", needUser), func(ctx context.Context, _ *struct{}) (*answer[api.Taste], error) {
		return reply(cp.recommend.Taste(ctx, principal(ctx).UserID))
	})
	op = operation("set-taste", http.MethodPatch, "/v1/me/taste", tag, "Choose genres, or no personalisation", needUser)
	op.Description = "With personalised false, what recommendations keep of one is deleted, nothing is kept from then on, and the next model is learnt without one's plays."
	register(cp, a, op, func(ctx context.Context, in *struct{ Body api.TasteChange }) (*answer[api.Taste], error) {
		return reply(cp.recommend.SetTaste(ctx, principal(ctx).UserID, in.Body))
	})
	const who = adminScope + identity.ScopeAdmin
	state := func() (*answer[api.RecommendModel], error) {
		m := cp.recommend.Model()
		m.Replica = cp.cfg.Replica
		return reply(m, nil)
	}
	op = operation("recommend-model", http.MethodGet, "/v1/admin/recommendations", tag, "What the recommendations of this replica rest on", who)
	register(cp, a, op, func(context.Context, *struct{}) (*answer[api.RecommendModel], error) { return state() })
	op = operation("train-recommendations", http.MethodPost, "/v1/admin/recommendations/train", tag, "Learn now", who)
	op.Description = "Goes on after the answer; the model that serves stays until a new one is whole and sane. 404: this replica has no play logs to learn from."
	op.DefaultStatus = http.StatusAccepted
	register(cp, a, op, func(_ context.Context, in *struct{ Body api.NewTraining }) (*answer[api.RecommendModel], error) {
		if err := cp.recommend.Begin(in.Body.Full); err != nil {
			return nil, err
		}
		return state()
	})
}
