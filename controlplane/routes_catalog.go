package controlplane

import (
	"context"
	"net/http"

	"segue/controlplane/api"
	"segue/media"

	"github.com/danielgtaylor/huma/v2"
)

type pageQuery struct {
	Cursor string `query:"cursor" maxLength:"2048" doc:"next of the page before"`
	Limit  int    `query:"limit" minimum:"1" maximum:"200" default:"50"`
}

type byID struct {
	ID string `path:"id" minLength:"26" maxLength:"26" pattern:"^[0-9A-Za-z]+$"`
}

func (cp *ControlPlane) catalogRoutes(a huma.API) {
	const tag = "Catalogue"
	register(cp, a, operation("list-tracks", http.MethodGet, "/v1/tracks", tag, "All tracks, by title", needUser), func(ctx context.Context, in *pageQuery) (*answer[api.Page[api.Track]], error) {
		return reply(cp.catalog.Tracks(ctx, in.Cursor, in.Limit))
	})
	register(cp, a, operation("get-track", http.MethodGet, "/v1/tracks/{id}", tag, "One track", needUser), func(ctx context.Context, in *byID) (*answer[api.Track], error) {
		t, err := cp.catalog.Track(ctx, media.TrackID(in.ID))
		return reply(t.Track, err)
	})
	register(cp, a, operation("list-albums", http.MethodGet, "/v1/albums", tag, "All albums, by title", needUser), func(ctx context.Context, in *pageQuery) (*answer[api.Page[api.Album]], error) {
		return reply(cp.catalog.Albums(ctx, in.Cursor, in.Limit))
	})
	register(cp, a, operation("get-album", http.MethodGet, "/v1/albums/{id}", tag, "One album with its tracks", needUser), func(ctx context.Context, in *byID) (*answer[api.Album], error) {
		return reply(cp.catalog.Album(ctx, media.AlbumID(in.ID)))
	})
	register(cp, a, operation("list-artists", http.MethodGet, "/v1/artists", tag, "All artists, by name", needUser), func(ctx context.Context, in *pageQuery) (*answer[api.Page[api.Artist]], error) {
		return reply(cp.catalog.Artists(ctx, in.Cursor, in.Limit))
	})
	register(cp, a, operation("get-artist", http.MethodGet, "/v1/artists/{id}", tag, "One artist with albums", needUser), func(ctx context.Context, in *byID) (*answer[api.Artist], error) {
		return reply(cp.catalog.Artist(ctx, media.ArtistID(in.ID)))
	})
	op := operation("search", http.MethodGet, "/v1/search", tag, "Find tracks, albums and artists", needUser)
	op.Description = "Every word must be found, in any order; the last one also by its beginning, longer ones with a letter or two wrong. Case and accents do not matter."
	register(cp, a, op, func(ctx context.Context, in *struct {
		Query string   `query:"q" required:"true" minLength:"1" maxLength:"200"`
		Type  []string `query:"type" enum:"track,album,artist" default:"track,album,artist"`
		Limit int      `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"of each type"`
	}) (*answer[api.SearchResult], error) {
		return reply(cp.index.Find(ctx, in.Query, in.Type, in.Limit))
	})
}
