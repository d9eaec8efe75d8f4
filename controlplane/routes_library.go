package controlplane

import (
	"context"
	"net/http"

	"segue/controlplane/api"
	"segue/controlplane/library"

	"github.com/danielgtaylor/huma/v2"
)

func (cp *ControlPlane) libraryRoutes(a huma.API) {
	const tag, social = "Library", "People"
	for _, l := range []struct {
		kind             library.Kind
		path, tag        string
		one, put, remove string
	}{
		{library.Tracks, "/v1/me/library/tracks/{id}", tag, "track", "Like a track", "Like a track no longer"},
		{library.Albums, "/v1/me/library/albums/{id}", tag, "album", "Like an album", "Like an album no longer"},
		{library.Artists, "/v1/me/following/artists/{id}", social, "artist", "Follow an artist", "Follow an artist no longer"},
		{library.Users, "/v1/me/following/users/{id}", social, "user", "Follow a person", "Follow a person no longer"},
	} {
		op := operation("put-"+string(l.kind), http.MethodPut, l.path, l.tag, l.put, needUser)
		op.Description, op.DefaultStatus = "Repeating it changes nothing. 404: there is none, or none that the caller may know of. 413: the list is full.", http.StatusNoContent
		register(cp, a, op, func(ctx context.Context, in *byID) (*struct{}, error) {
			return nil, cp.library.Put(ctx, principal(ctx).UserID, l.kind, in.ID)
		})
		op = operation("drop-"+string(l.kind), http.MethodDelete, l.path, l.tag, l.remove, needUser)
		op.DefaultStatus = http.StatusNoContent
		register(cp, a, op, func(ctx context.Context, in *byID) (*struct{}, error) {
			return nil, cp.library.Delete(ctx, principal(ctx).UserID, l.kind, in.ID)
		})
		op = operation("has-"+l.one, http.MethodGet, l.path, l.tag, "Whether it is there", needUser)
		op.Description, op.DefaultStatus = "204 or 404; /v1/me/library/contains asks for many.", http.StatusNoContent
		register(cp, a, op, func(ctx context.Context, in *byID) (*struct{}, error) {
			return nil, cp.library.Has(ctx, principal(ctx).UserID, l.kind, in.ID)
		})
	}
	const kept = "Newest first. What left the catalogue stays listed, with available false."
	op := operation("saved-tracks", http.MethodGet, "/v1/me/library/tracks", tag, "Liked tracks", needUser)
	op.Description = kept
	register(cp, a, op, func(ctx context.Context, in *pageQuery) (*answer[api.Page[api.SavedTrack]], error) {
		return reply(cp.library.SavedTracks(ctx, principal(ctx).UserID, in.Cursor, in.Limit))
	})
	op = operation("saved-albums", http.MethodGet, "/v1/me/library/albums", tag, "Liked albums", needUser)
	op.Description = kept
	register(cp, a, op, func(ctx context.Context, in *pageQuery) (*answer[api.Page[api.SavedAlbum]], error) {
		return reply(cp.library.SavedAlbums(ctx, principal(ctx).UserID, in.Cursor, in.Limit))
	})
	register(cp, a, operation("library", http.MethodGet, "/v1/me/library", tag, "How much is in one's library", needUser), func(ctx context.Context, _ *struct{}) (*answer[api.LibraryCounts], error) {
		return reply(cp.library.Counts(ctx, principal(ctx).UserID))
	})
	op = operation("library-contains", http.MethodGet, "/v1/me/library/contains", tag, "Which of many are in one's library", needUser)
	register(cp, a, op, func(ctx context.Context, in *struct {
		Tracks  []string `query:"tracks" maxItems:"200" doc:"ids, with commas between"`
		Albums  []string `query:"albums" maxItems:"200"`
		Artists []string `query:"artists" maxItems:"200" doc:"followed"`
		Users   []string `query:"users" maxItems:"200" doc:"followed"`
	}) (*answer[api.LibraryContains], error) {
		var out api.LibraryContains
		for _, l := range []struct {
			kind library.Kind
			ids  []string
			to   *map[string]bool
		}{{library.Tracks, in.Tracks, &out.Tracks}, {library.Albums, in.Albums, &out.Albums}, {library.Artists, in.Artists, &out.Artists}, {library.Users, in.Users, &out.Users}} {
			var err error
			if *l.to, err = cp.library.Contains(ctx, principal(ctx).UserID, l.kind, l.ids); err != nil {
				return nil, err
			}
		}
		return reply(out, nil)
	})
	op = operation("releases", http.MethodGet, "/v1/me/releases", tag, "Albums of followed artists", needUser)
	op.Description = "Newest release first; albums with no date are not in it, nor those whose day is to come."
	register(cp, a, op, func(ctx context.Context, in *pageQuery) (*answer[api.Page[api.Album]], error) {
		return reply(cp.library.Releases(ctx, principal(ctx).UserID, in.Cursor, in.Limit))
	})
	op = operation("recently-played", http.MethodGet, "/v1/me/recently-played", tag, "What one played lately", needUser)
	op.Description = "Latest first, the last 500 plays. A play is in it from its first start or progress event; its context is what that event says."
	register(cp, a, op, func(ctx context.Context, in *pageQuery) (*answer[api.Page[api.RecentPlay]], error) {
		return reply(cp.library.Recent(ctx, principal(ctx).UserID, in.Cursor, in.Limit))
	})
	op = operation("clear-recently-played", http.MethodDelete, "/v1/me/recently-played", tag, "Clear what one played lately", needUser)
	op.Description, op.DefaultStatus = "Plays that were granted before do not come back, also when their events come later.", http.StatusNoContent
	register(cp, a, op, func(ctx context.Context, _ *struct{}) (*struct{}, error) {
		return nil, cp.library.ClearRecent(ctx, principal(ctx).UserID)
	})

	op = operation("followed-artists", http.MethodGet, "/v1/me/following/artists", social, "Followed artists", needUser)
	op.Description = kept
	register(cp, a, op, func(ctx context.Context, in *pageQuery) (*answer[api.Page[api.FollowedArtist]], error) {
		return reply(cp.library.FollowedArtists(ctx, principal(ctx).UserID, in.Cursor, in.Limit))
	})
	people := func(id, path, summary string, list func(ctx context.Context, userID, cursor string, limit int) (api.Page[api.Person], error)) {
		register(cp, a, operation(id, http.MethodGet, path, social, summary, needUser), func(ctx context.Context, in *pageQuery) (*answer[api.Page[api.Person]], error) {
			return reply(list(ctx, principal(ctx).UserID, in.Cursor, in.Limit))
		})
	}
	people("followed-users", "/v1/me/following/users", "Followed people, newest first", cp.library.FollowedUsers)
	people("followers", "/v1/me/followers", "One's followers, newest first", cp.library.Followers)
	people("blocked", "/v1/me/blocked", "Blocked people, newest first", cp.library.Blocked)
	for _, d := range []struct {
		id, method, path, summary, description string
		do                                     func(ctx context.Context, userID, id string) error
	}{
		{"remove-follower", http.MethodDelete, "/v1/me/followers/{id}", "Remove a follower", "They may follow again: block them to prevent it.", cp.library.RemoveFollower},
		{"block", http.MethodPut, "/v1/me/blocked/{id}", "Block a person", "Ends that the two follow each other. They cannot follow again, nor see the profile's numbers.", cp.library.Block},
		{"unblock", http.MethodDelete, "/v1/me/blocked/{id}", "Block a person no longer", "", cp.library.Unblock},
	} {
		op := operation(d.id, d.method, d.path, social, d.summary, needUser)
		op.Description, op.DefaultStatus = d.description, http.StatusNoContent
		register(cp, a, op, func(ctx context.Context, in *byID) (*struct{}, error) {
			return nil, d.do(ctx, principal(ctx).UserID, in.ID)
		})
	}
	op = operation("social", http.MethodGet, "/v1/users/{id}/social", social, "How many follow a public profile", needUser)
	register(cp, a, op, func(ctx context.Context, in *byID) (*answer[api.Social], error) {
		return reply(cp.library.Social(ctx, principal(ctx).UserID, in.ID))
	})
	op = operation("friends-listening", http.MethodGet, "/v1/me/friends/listening", social, "What followed people play now", needUser)
	op.Description = "Only of those who share it with their followers, which nobody does at first."
	register(cp, a, op, func(ctx context.Context, _ *struct{}) (*answer[api.FriendsListening], error) {
		return reply(cp.library.FriendsListening(ctx, principal(ctx).UserID))
	})
	register(cp, a, operation("get-privacy", http.MethodGet, "/v1/me/privacy", social, "What others learn of one's listening", needUser), func(ctx context.Context, _ *struct{}) (*answer[api.Privacy], error) {
		return reply(cp.library.Privacy(ctx, principal(ctx).UserID))
	})
	register(cp, a, operation("set-privacy", http.MethodPatch, "/v1/me/privacy", social, "Say what others learn of one's listening", needUser), func(ctx context.Context, in *struct{ Body api.PrivacyChange }) (*answer[api.Privacy], error) {
		return reply(cp.library.SetPrivacy(ctx, principal(ctx).UserID, in.Body))
	})
}
