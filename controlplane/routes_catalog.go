package controlplane

import (
	"context"
	"net/http"
	"reflect"
	"strconv"

	"segue/controlplane/api"
	"segue/controlplane/identity"
	"segue/media"

	"github.com/danielgtaylor/huma/v2"
	"github.com/julienschmidt/httprouter"
)

type pageQuery struct {
	Cursor string `query:"cursor" maxLength:"2048" doc:"next of the page before"`
	Limit  int    `query:"limit" minimum:"1" maximum:"200" default:"50"`
}

type byID struct {
	ID string `path:"id" minLength:"26" maxLength:"26" pattern:"^[0-9A-Za-z]+$"`
}

// The named forms are for embedding: huma fills embedded fields only when their names are exported.
type (
	Paged = pageQuery
	Named = byID
)

type pageOf struct {
	Named
	Paged
}

type genrePage struct {
	ID string `path:"id" maxLength:"500" doc:"as in GET /v1/genres"`
	Paged
}

func (cp *ControlPlane) catalogRoutes(a huma.API, router *httprouter.Router) {
	const tag = "Catalogue"
	op := operation("list-tracks", http.MethodGet, "/v1/tracks", tag, "All tracks, by title", needUser)
	op.Description = "With isrc: the tracks with that code, in one page."
	register(cp, a, op, func(ctx context.Context, in *struct {
		Paged
		ISRC string `query:"isrc" maxLength:"20"`
	}) (*answer[api.Page[api.Track]], error) {
		if in.ISRC != "" {
			return reply(cp.catalog.TracksByISRC(ctx, in.ISRC))
		}
		return reply(cp.catalog.Tracks(ctx, in.Cursor, in.Limit))
	})
	register(cp, a, operation("get-track", http.MethodGet, "/v1/tracks/{id}", tag, "One track, with its credits", needUser), func(ctx context.Context, in *byID) (*answer[api.Track], error) {
		t, err := cp.catalog.Track(ctx, media.TrackID(in.ID))
		return reply(t.Track, err)
	})
	op = operation("list-albums", http.MethodGet, "/v1/albums", tag, "All albums, by title or the newest first", needUser)
	op.Description = "The newest first: released up to today. With upc: the albums with that code, in one page."
	register(cp, a, op, func(ctx context.Context, in *struct {
		Paged
		Sort string `query:"sort" enum:"title,-release_date" default:"title"`
		UPC  string `query:"upc" maxLength:"20"`
	}) (*answer[api.Page[api.Album]], error) {
		if in.UPC != "" {
			return reply(cp.catalog.AlbumsByUPC(ctx, in.UPC))
		}
		return reply(cp.catalog.Albums(ctx, in.Sort, in.Cursor, in.Limit))
	})
	register(cp, a, operation("get-album", http.MethodGet, "/v1/albums/{id}", tag, "One album with its tracks", needUser), func(ctx context.Context, in *byID) (*answer[api.Album], error) {
		return reply(cp.catalog.Album(ctx, media.AlbumID(in.ID)))
	})
	register(cp, a, operation("list-artists", http.MethodGet, "/v1/artists", tag, "All artists, by name", needUser), func(ctx context.Context, in *pageQuery) (*answer[api.Page[api.Artist]], error) {
		return reply(cp.catalog.Artists(ctx, in.Cursor, in.Limit))
	})
	op = operation("get-artist", http.MethodGet, "/v1/artists/{id}", tag, "One artist with the first tracks and albums", needUser)
	op.Description = "The 10 most popular tracks, the 50 newest albums, and the 50 newest albums of others with a part of theirs. The id of an artist who was merged into another one is answered with that one."
	register(cp, a, op, func(ctx context.Context, in *byID) (*answer[api.Artist], error) {
		return reply(cp.catalog.Artist(ctx, media.ArtistID(in.ID)))
	})
	register(cp, a, operation("list-artist-tracks", http.MethodGet, "/v1/artists/{id}/tracks", tag, "Tracks that an artist performs, the most popular first", needUser), func(ctx context.Context, in *pageOf) (*answer[api.Page[api.Track]], error) {
		return reply(cp.catalog.ArtistTracks(ctx, media.ArtistID(in.ID), in.Cursor, in.Limit))
	})
	register(cp, a, operation("list-artist-albums", http.MethodGet, "/v1/artists/{id}/albums", tag, "Albums of an artist, the newest first", needUser), func(ctx context.Context, in *pageOf) (*answer[api.Page[api.Album]], error) {
		return reply(cp.catalog.ArtistAlbums(ctx, media.ArtistID(in.ID), in.Cursor, in.Limit))
	})
	register(cp, a, operation("list-genres", http.MethodGet, "/v1/genres", tag, "All genres, by name", needUser), func(ctx context.Context, _ *struct{}) (*answer[api.Page[api.Genre]], error) {
		return reply(cp.catalog.Genres(ctx))
	})
	register(cp, a, operation("get-genre", http.MethodGet, "/v1/genres/{id}", tag, "One genre", needUser), func(ctx context.Context, in *struct {
		ID string `path:"id" maxLength:"500"`
	}) (*answer[api.Genre], error) {
		return reply(cp.catalog.Genre(ctx, in.ID))
	})
	register(cp, a, operation("list-genre-tracks", http.MethodGet, "/v1/genres/{id}/tracks", tag, "Tracks of a genre, the most popular first", needUser), func(ctx context.Context, in *genrePage) (*answer[api.Page[api.Track]], error) {
		return reply(cp.catalog.GenreTracks(ctx, in.ID, in.Cursor, in.Limit))
	})
	register(cp, a, operation("list-genre-albums", http.MethodGet, "/v1/genres/{id}/albums", tag, "Albums of a genre, the newest first", needUser), func(ctx context.Context, in *genrePage) (*answer[api.Page[api.Album]], error) {
		return reply(cp.catalog.GenreAlbums(ctx, in.ID, in.Cursor, in.Limit))
	})
	cp.curateRoutes(a, router)
}

// curateRoutes are for who keeps the catalogue.
func (cp *ControlPlane) curateRoutes(a huma.API, router *httprouter.Router) {
	const tag, who = "Catalogue", adminScope + identity.ScopeIngest
	const curated = "What is absent stays. From then on the tags of files no longer change it; an import with another line does."
	op := operation("edit-track", http.MethodPatch, "/v1/admin/tracks/{id}", tag, "Change a track", who)
	op.Description = curated
	register(cp, a, op, func(ctx context.Context, in *struct {
		Named
		Body api.TrackEdit
	}) (*answer[api.Track], error) {
		return reply(cp.catalog.EditTrack(ctx, media.TrackID(in.ID), in.Body))
	})
	op = operation("edit-album", http.MethodPatch, "/v1/admin/albums/{id}", tag, "Change an album", who)
	op.Description = curated
	register(cp, a, op, func(ctx context.Context, in *struct {
		Named
		Body api.AlbumEdit
	}) (*answer[api.Album], error) {
		return reply(cp.catalog.EditAlbum(ctx, media.AlbumID(in.ID), in.Body))
	})
	op = operation("edit-artist", http.MethodPatch, "/v1/admin/artists/{id}", tag, "Rename an artist", who)
	op.Description = "Files that say the old name still find the artist, and those that say the new one do too."
	register(cp, a, op, func(ctx context.Context, in *struct {
		Named
		Body api.ArtistEdit
	}) (*answer[api.Artist], error) {
		return reply(cp.catalog.EditArtist(ctx, media.ArtistID(in.ID), in.Body))
	})
	op = operation("merge-artist", http.MethodPost, "/v1/admin/artists/{id}/merge", tag, "Make an artist another one", who)
	op.Description = "Albums, tracks and credits become the other one's; the old id and name lead there. It cannot be undone."
	register(cp, a, op, func(ctx context.Context, in *struct {
		Named
		Body api.ArtistMerge
	}) (*answer[api.Artist], error) {
		return reply(cp.catalog.Merge(ctx, media.ArtistID(in.ID), in.Body.Into))
	})
	for kind, with := range map[string]string{"track": "a track", "album": "an album with its tracks", "artist": "an artist with their albums and tracks"} {
		op := operation("remove-"+kind, http.MethodDelete, "/v1/admin/"+kind+"s/{id}", tag, "Take "+with+" out of the catalogue", who)
		op.Description = "It is no longer listed, found or played. Playlists keep it as unavailable. Nothing is deleted; audio that is cached at edges goes by a purge."
		register(cp, a, op, func(ctx context.Context, in *byID) (*struct{}, error) {
			return nil, cp.catalog.Remove(ctx, kind, in.ID)
		})
		op = operation("restore-"+kind, http.MethodPost, "/v1/admin/"+kind+"s/{id}/restore", tag, "Bring back "+with, who)
		op.Description = "What was removed with it comes back with it."
		register(cp, a, op, func(ctx context.Context, in *byID) (*struct{}, error) {
			return nil, cp.catalog.Restore(ctx, kind, in.ID)
		})
	}

	// The body is read as it comes, which huma does not do: the route is plain, and documented by hand.
	op = operation("import", http.MethodPost, "/v1/admin/import", tag, "Take artists, albums and tracks into the catalogue, without audio", who)
	op.Description = "NDJSON of any length, written some thousand lines at a time; see ImportLine. What is wrong with a line is in the answer and keeps out that line only. A repeat changes what differs: an import that broke off is sent again, whole or from any line on."
	op.Parameters = []*huma.Param{{Name: "first_line", In: "query", Schema: &huma.Schema{Type: huma.TypeInteger}, Description: "the number of the body's first line, for the errors; default 1"}}
	schemas := a.OpenAPI().Components.Schemas
	op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/x-ndjson": {Schema: schemas.Schema(reflect.TypeFor[api.ImportLine](), true, "ImportLine")}}}
	op.Responses = map[string]*huma.Response{"200": {Description: "all lines were read", Content: map[string]*huma.MediaType{"application/json": {Schema: schemas.Schema(reflect.TypeFor[api.ImportResult](), true, "ImportResult")}}}}
	op.Metadata[streams] = true
	cp.plain(a, router, op, func(w http.ResponseWriter, r *http.Request) error {
		out, err := cp.importLines(r)
		if err == nil {
			writeJSON(w, out)
		}
		return err
	})
}

func (cp *ControlPlane) importLines(r *http.Request) (api.ImportResult, error) {
	first := 1
	if v := r.URL.Query().Get("first_line"); v != "" {
		var err error
		if first, err = strconv.Atoi(v); err != nil || first < 1 {
			return api.ImportResult{}, newProblem(http.StatusBadRequest, "invalid-request", "first_line: want a number from 1 on")
		}
	}
	return cp.catalog.Import(r.Context(), r.Body, first)
}
