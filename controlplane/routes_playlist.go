package controlplane

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/playlist"

	"github.com/danielgtaylor/huma/v2"
)

// What several inputs embed has an exported name: huma passes over the others.

// IfMatching is the condition of a change.
type IfMatching struct {
	IfMatch []string `header:"If-Match" doc:"the ETag of the revision that the change is meant for; when the playlist is at another one: 412, with its ETag"`
}

// match reads an If-Match, RFC 9110 13.1.1. What cannot be one of our ETags matches nothing.
func (m IfMatching) match() playlist.Match {
	var out playlist.Match
	for _, part := range m.IfMatch {
		for tag := range strings.SplitSeq(part, ",") {
			if tag = strings.TrimSpace(tag); tag == "*" {
				return nil
			}
			n := int64(-1)
			if inner, ok := strings.CutPrefix(tag, `"`); ok {
				if inner, ok = strings.CutSuffix(inner, `"`); ok {
					if v, err := strconv.ParseInt(inner, 10, 64); err == nil {
						n = v
					}
				}
			}
			out = append(out, n)
		}
	}
	return out
}

// etag is the strong validator of a revision.
func etag(revision int64) string { return `"` + strconv.FormatInt(revision, 10) + `"` }

// revised is an answer with the ETag of a thing that has revisions: a playlist, the queue.
type revised[T any] struct {
	ETag string `header:"ETag" doc:"the revision in quotes; goes into If-Match"`
	Body T
}

// asRevised makes the answer, or an error that tells the present ETag.
func asRevised[T any](v T, revision int64, err error) (*revised[T], error) {
	if err != nil {
		return nil, withETag(err)
	}
	return &revised[T]{etag(revision), v}, nil
}

func withETag(err error) error {
	if stale, ok := errors.AsType[playlist.StaleError](err); ok {
		return huma.ErrorWithHeaders(err, http.Header{"Etag": {etag(stale.Revision)}})
	}
	return err
}

func onePlaylist(p api.Playlist, err error) (*revised[api.Playlist], error) {
	return asRevised(p, p.Revision, err)
}

func changedItems(c api.ItemsChanged, err error) (*revised[api.ItemsChanged], error) {
	return asRevised(c, c.Revision, err)
}

// orZero is for bodies that may be left out.
func orZero[T any](v *T) (out T) {
	if v != nil {
		out = *v
	}
	return out
}

func nothing(err error) (*struct{}, error) { return nil, withETag(err) }

// OnePlaylist is the path of one.
type OnePlaylist struct {
	ID string `path:"id" maxLength:"26"`
}

// ListPage is pageQuery, to embed.
type ListPage = pageQuery

func (cp *ControlPlane) playlistRoutes(a huma.API) {
	cp.playlistItself(a)
	cp.playlistItems(a)
	cp.playlistHistory(a)
	cp.playlistPeople(a)
	cp.playlistLibrary(a)
}

// playlistOp is an operation of listeners.
func playlistOp(id, method, path, summary, description string) huma.Operation {
	op := operation(id, method, path, "Playlists", summary, needUser)
	op.Description = description
	if method == http.MethodDelete {
		op.DefaultStatus = http.StatusNoContent
	}
	op.MaxBodyBytes = 256 << 10 // a thousand entries
	return op
}

func (cp *ControlPlane) playlistItself(a huma.API) {
	op := playlistOp("create-playlist", http.MethodPost, "/v1/playlists", "Make a playlist",
		"It is empty, private unless public is set, and on top of one's own list. An account owns at most 5000.")
	op.DefaultStatus = http.StatusCreated
	register(cp, a, op, func(ctx context.Context, in *struct{ Body api.NewPlaylist }) (*revised[api.Playlist], error) {
		return onePlaylist(cp.playlist.Create(ctx, principal(ctx).UserID, in.Body))
	})
	register(cp, a, playlistOp("get-playlist", http.MethodGet, "/v1/playlists/{id}", "One playlist, without its items",
		"A private one of others is 404. The ETag is for If-Match; it does not cover names of people, art and followers."),
		func(ctx context.Context, in *OnePlaylist) (*revised[api.Playlist], error) {
			return onePlaylist(cp.playlist.Get(ctx, principal(ctx).UserID, in.ID))
		})
	register(cp, a, playlistOp("change-playlist", http.MethodPatch, "/v1/playlists/{id}", "Rename, describe, publish",
		"Owner and editors; public: only the owner. Everybody who follows it keeps it in their list, but sees it only while it is public."),
		func(ctx context.Context, in *struct {
			OnePlaylist
			IfMatching
			Body api.PlaylistChange
		}) (*revised[api.Playlist], error) {
			return onePlaylist(cp.playlist.Change(ctx, principal(ctx).UserID, in.ID, in.match(), in.Body))
		})
	register(cp, a, playlistOp("delete-playlist", http.MethodDelete, "/v1/playlists/{id}", "Delete a playlist, for everybody", "Only the owner. There is no way back."),
		func(ctx context.Context, in *struct {
			OnePlaylist
			IfMatching
		}) (*struct{}, error) {
			return nothing(cp.playlist.Delete(ctx, principal(ctx).UserID, in.ID, in.match()))
		})

	op = playlistOp("put-playlist-cover", http.MethodPut, "/v1/playlists/{id}/cover", "Upload a cover",
		"A JPEG or PNG of at most 8 MiB and sides of 64 to 4096 pixels. Its middle square is encoded anew in the sizes of all art and stored as art/{playlist id}/{version}/{size}.jpg, which is served like album art, without a token, to whoever knows the URL. Without a cover a playlist has a mosaic of the first four albums in it.")
	op.MaxBodyBytes, op.BodyReadTimeout = playlist.MaxCover, 60*time.Second
	picture := &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}
	op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"image/jpeg": picture, "image/png": picture}}
	register(cp, a, op, func(ctx context.Context, in *struct {
		OnePlaylist
		IfMatching
		RawBody []byte
	}) (*revised[api.Playlist], error) {
		return onePlaylist(cp.playlist.SetCover(ctx, principal(ctx).UserID, in.ID, in.match(), in.RawBody))
	})
	op = playlistOp("delete-playlist-cover", http.MethodDelete, "/v1/playlists/{id}/cover", "Take the cover away", "The mosaic shows again.")
	op.DefaultStatus = http.StatusOK
	register(cp, a, op, func(ctx context.Context, in *struct {
		OnePlaylist
		IfMatching
	}) (*revised[api.Playlist], error) {
		return onePlaylist(cp.playlist.DropCover(ctx, principal(ctx).UserID, in.ID, in.match()))
	})
}

func (cp *ControlPlane) playlistItems(a huma.API) {
	type ItemsPage struct {
		Cursor string `query:"cursor" maxLength:"256" doc:"next of the page before"`
		Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"100"`
	}
	register(cp, a, playlistOp("list-playlist-items", http.MethodGet, "/v1/playlists/{id}/items", "The items, in order",
		"All pages of one read are of the revision of the first, also when somebody changes the playlist meanwhile; revision and ETag say which. A track that has left the catalogue stays in its place, with unavailable set and its last known title."),
		func(ctx context.Context, in *struct {
			OnePlaylist
			ItemsPage
		}) (*revised[api.PlaylistItems], error) {
			v, err := cp.playlist.Items(ctx, principal(ctx).UserID, in.ID, 0, in.Cursor, in.Limit)
			return asRevised(v, v.Revision, err)
		})
	op := playlistOp("add-playlist-items", http.MethodPost, "/v1/playlists/{id}/items", "Add tracks",
		"Up to 1000 at once, to the end, or before or after an entry; all or none of them. Without If-Match it succeeds whatever others do meanwhile, up to 10000 tracks in the playlist (then 409, limit-reached). A client that sends its own entry_id may repeat the call when it got no answer: what was added by the first is in left, and nothing is added twice.")
	register(cp, a, op, func(ctx context.Context, in *struct {
		OnePlaylist
		IfMatching
		Duplicates string `query:"duplicates" enum:"skip,allow" doc:"as in the body, which counts when both say"`
		Body       api.AddItems
	}) (*revised[api.ItemsChanged], error) {
		if in.Body.Duplicates == "" {
			in.Body.Duplicates = in.Duplicates
		}
		return changedItems(cp.playlist.Add(ctx, principal(ctx).UserID, in.ID, in.match(), in.Body))
	})
	op = playlistOp("remove-playlist-items", http.MethodDelete, "/v1/playlists/{id}/items", "Remove entries", "By entry id. Those that are not in it (any more) are named in left, no error: a repeat is harmless.")
	op.DefaultStatus = http.StatusOK
	register(cp, a, op, func(ctx context.Context, in *struct {
		OnePlaylist
		IfMatching
		Body api.EntryIDs
	}) (*revised[api.ItemsChanged], error) {
		return changedItems(cp.playlist.Remove(ctx, principal(ctx).UserID, in.ID, in.match(), in.Body.EntryIDs))
	})
	op = playlistOp("remove-playlist-item", http.MethodDelete, "/v1/playlists/{id}/items/{entry_id}", "Remove one entry", "For clients that cannot send a body with DELETE.")
	op.DefaultStatus = http.StatusOK
	register(cp, a, op, func(ctx context.Context, in *struct {
		OnePlaylist
		IfMatching
		Entry string `path:"entry_id" maxLength:"26"`
	}) (*revised[api.ItemsChanged], error) {
		return changedItems(cp.playlist.Remove(ctx, principal(ctx).UserID, in.ID, in.match(), []string{in.Entry}))
	})
	register(cp, a, playlistOp("move-playlist-items", http.MethodPost, "/v1/playlists/{id}/items/move", "Move entries",
		"They come to stand together, in the order given, next to another entry or at an end. An entry that was removed meanwhile still marks its place; of those to move it is left out."),
		func(ctx context.Context, in *struct {
			OnePlaylist
			IfMatching
			Body api.MoveItems
		}) (*revised[api.ItemsChanged], error) {
			return changedItems(cp.playlist.Move(ctx, principal(ctx).UserID, in.ID, in.match(), in.Body))
		})
	register(cp, a, playlistOp("list-playlist-items-of-revision", http.MethodGet, "/v1/playlists/{id}/revisions/{revision}/items", "The items as of a revision",
		"404 when the revision is not kept any more."),
		func(ctx context.Context, in *struct {
			OnePlaylist
			ItemsPage
			Revision int64 `path:"revision" minimum:"1"`
		}) (*answer[api.PlaylistItems], error) {
			return reply(cp.playlist.Items(ctx, principal(ctx).UserID, in.ID, in.Revision, in.Cursor, in.Limit))
		})
}

func (cp *ControlPlane) playlistHistory(a huma.API) {
	register(cp, a, playlistOp("list-playlist-revisions", http.MethodGet, "/v1/playlists/{id}/revisions", "What was changed, newest first",
		"For people in the playlist. Kept are the last 500 changes, none older than 90 days, and fewer when they moved or removed very many entries (50000 in all); the last one always."),
		func(ctx context.Context, in *struct {
			OnePlaylist
			ListPage
		}) (*answer[api.Page[api.PlaylistRevision]], error) {
			return reply(cp.playlist.Revisions(ctx, principal(ctx).UserID, in.ID, in.Cursor, in.Limit))
		})
	register(cp, a, playlistOp("undo-playlist", http.MethodPost, "/v1/playlists/{id}/undo", "Take changes back",
		"As one new revision. What was added goes, what was removed comes back to its place, what was moved goes back, name, description and cover get their former value; each only where nobody changed the same thing since, so nothing that others did is lost. Undo again takes back the change before. Undoing an undo by its number is a redo. Visibility, owner and people are not undone. 409 (nothing-to-undo) when there is nothing."),
		func(ctx context.Context, in *struct {
			OnePlaylist
			IfMatching
			Body *api.UndoPlaylist
		}) (*revised[api.Playlist], error) {
			return onePlaylist(cp.playlist.Undo(ctx, principal(ctx).UserID, in.ID, in.match(), orZero(in.Body)))
		})
	register(cp, a, playlistOp("restore-playlist", http.MethodPost, "/v1/playlists/{id}/restore", "Go back to a revision",
		"As one new revision, which can be undone. The items of then are back, in the order of then. What was added since stays between its neighbours when others added it (keep: others, the default), always (all), or never (none). Name, description, cover and visibility stay as they are."),
		func(ctx context.Context, in *struct {
			OnePlaylist
			IfMatching
			Body api.RestorePlaylist
		}) (*revised[api.Playlist], error) {
			return onePlaylist(cp.playlist.Restore(ctx, principal(ctx).UserID, in.ID, in.match(), in.Body))
		})
}

func (cp *ControlPlane) playlistPeople(a huma.API) {
	type OnePerson struct {
		OnePlaylist
		UserID string `path:"user_id" maxLength:"26"`
	}
	register(cp, a, playlistOp("list-playlist-collaborators", http.MethodGet, "/v1/playlists/{id}/collaborators", "The people in it", "The owner first; for those who are in it."),
		func(ctx context.Context, in *OnePlaylist) (*answer[api.Page[api.Collaborator]], error) {
			list, err := cp.playlist.Collaborators(ctx, principal(ctx).UserID, in.ID)
			return reply(api.Page[api.Collaborator]{Items: list}, err)
		})
	op := playlistOp("put-playlist-collaborator", http.MethodPut, "/v1/playlists/{id}/collaborators/{user_id}", "Invite somebody, or give another role",
		"Only the owner. Who is invited sees the playlist at once, and has the role after accepting it with PUT /v1/me/library/playlists/{id}. At most 100 people.")
	op.DefaultStatus = http.StatusNoContent
	register(cp, a, op, func(ctx context.Context, in *struct {
		OnePerson
		Body api.SetCollaborator
	}) (*struct{}, error) {
		return nil, cp.playlist.Invite(ctx, principal(ctx).UserID, in.ID, in.UserID, in.Body.Role)
	})
	register(cp, a, playlistOp("delete-playlist-collaborator", http.MethodDelete, "/v1/playlists/{id}/collaborators/{user_id}", "Take somebody out, or leave",
		"The owner takes out anybody, everybody else themselves. A share link lets people in again until it is revoked."),
		func(ctx context.Context, in *OnePerson) (*struct{}, error) {
			return nil, cp.playlist.Dismiss(ctx, principal(ctx).UserID, in.ID, in.UserID)
		})
	register(cp, a, playlistOp("hand-over-playlist", http.MethodPost, "/v1/playlists/{id}/owner", "Make a collaborator the owner", "Only the owner, who stays as an editor."),
		func(ctx context.Context, in *struct {
			OnePlaylist
			IfMatching
			Body api.NewOwner
		}) (*revised[api.Playlist], error) {
			return onePlaylist(cp.playlist.HandOver(ctx, principal(ctx).UserID, in.ID, in.match(), in.Body.UserID))
		})
	register(cp, a, playlistOp("list-playlist-invitations", http.MethodGet, "/v1/me/playlist-invitations", "What one was invited to",
		"Not answered yet, newest first. PUT /v1/me/library/playlists/{id} accepts, DELETE declines."),
		func(ctx context.Context, _ *struct{}) (*answer[api.Page[api.PlaylistInvitation]], error) {
			list, err := cp.playlist.Invitations(ctx, principal(ctx).UserID)
			return reply(api.Page[api.PlaylistInvitation]{Items: list}, err)
		})

	register(cp, a, playlistOp("list-playlist-share-links", http.MethodGet, "/v1/playlists/{id}/share-links", "The links that open it", "Only for the owner; without their tokens."),
		func(ctx context.Context, in *OnePlaylist) (*answer[api.Page[api.ShareLink]], error) {
			list, err := cp.playlist.Links(ctx, principal(ctx).UserID, in.ID)
			return reply(api.Page[api.ShareLink]{Items: list}, err)
		})
	op = playlistOp("create-playlist-share-link", http.MethodPost, "/v1/playlists/{id}/share-links", "Make a link that opens it",
		"Only the owner. The token is told once. With the role editor it is a link for collaborators. At most 50 at a time.")
	op.DefaultStatus = http.StatusCreated
	register(cp, a, op, func(ctx context.Context, in *struct {
		OnePlaylist
		Body *api.NewShareLink
	}) (*answer[api.ShareLink], error) {
		return reply(cp.playlist.Share(ctx, principal(ctx).UserID, in.ID, orZero(in.Body)))
	})
	register(cp, a, playlistOp("delete-playlist-share-link", http.MethodDelete, "/v1/playlists/{id}/share-links/{link_id}", "Revoke a link", "Who came in through it stays."),
		func(ctx context.Context, in *struct {
			OnePlaylist
			Link string `path:"link_id" minLength:"26" maxLength:"26"`
		}) (*struct{}, error) {
			return nil, cp.playlist.Unshare(ctx, principal(ctx).UserID, in.ID, in.Link)
		})
	type aLink struct {
		Token string `path:"token" maxLength:"64"`
	}
	op = operation("preview-shared-playlist", http.MethodGet, "/v1/shared/{token}", "Playlists", "What a share link shows", "")
	op.Description = "Without an account: title, cover, owner's display name and the first ten titles. 404 when the link was revoked or is over."
	register(cp, a, op, func(ctx context.Context, in *aLink) (*answer[api.SharedPlaylist], error) {
		return reply(cp.playlist.Preview(ctx, in.Token))
	})
	register(cp, a, playlistOp("accept-shared-playlist", http.MethodPost, "/v1/shared/{token}", "Accept a share link",
		"One becomes what the link gives, viewer or editor; a higher role stays. The playlist is in one's list then."),
		func(ctx context.Context, in *aLink) (*revised[api.Playlist], error) {
			return onePlaylist(cp.playlist.Accept(ctx, principal(ctx).UserID, in.Token))
		})
}

func (cp *ControlPlane) playlistLibrary(a huma.API) {
	register(cp, a, playlistOp("list-playlists", http.MethodGet, "/v1/playlists", "One's own list: own, shared and followed playlists",
		"Sort custom is folder by folder, as one arranged them; the folders' own order is in GET /v1/me/playlist-folders. A followed playlist that is not public any more is not shown."),
		func(ctx context.Context, in *struct {
			ListPage
			Folder string `query:"folder" maxLength:"26" doc:"a folder's id, or top: those in no folder; default: all"`
			Kind   string `query:"kind" enum:"own,shared,followed" doc:"default: all"`
			Sort   string `query:"sort" enum:"custom,name,updated,added" default:"custom" doc:"updated and added: newest first"`
		}) (*answer[api.Page[api.LibraryPlaylist]], error) {
			return reply(cp.playlist.List(ctx, principal(ctx).UserID, playlist.Query{Folder: in.Folder, Kind: in.Kind, Sort: in.Sort, Cursor: in.Cursor, Limit: in.Limit}))
		})
	register(cp, a, playlistOp("list-playlists-of-user", http.MethodGet, "/v1/users/{id}/playlists", "Somebody's public playlists, newest first", ""),
		func(ctx context.Context, in *struct {
			ID string `path:"id" minLength:"26" maxLength:"26"`
			ListPage
		}) (*answer[api.Page[api.Playlist]], error) {
			return reply(cp.playlist.PublicOf(ctx, in.ID, in.Cursor, in.Limit))
		})
	register(cp, a, playlistOp("keep-playlist", http.MethodPut, "/v1/me/library/playlists/{id}", "Follow a public playlist, or accept an invitation", "It is put on top of one's list. A repeat is harmless."),
		func(ctx context.Context, in *OnePlaylist) (*revised[api.Playlist], error) {
			return onePlaylist(cp.playlist.Keep(ctx, principal(ctx).UserID, in.ID))
		})
	register(cp, a, playlistOp("drop-playlist", http.MethodDelete, "/v1/me/library/playlists/{id}", "Unfollow, decline an invitation, or leave",
		"One's own playlist cannot be dropped (403): delete it or hand it over. A repeat is harmless."),
		func(ctx context.Context, in *OnePlaylist) (*struct{}, error) {
			return nil, cp.playlist.Drop(ctx, principal(ctx).UserID, in.ID)
		})
	op := playlistOp("place-playlist", http.MethodPatch, "/v1/me/library/playlists/{id}", "Move a playlist within one's list", "Into a folder, or before or after another one of the same folder.")
	op.DefaultStatus = http.StatusNoContent
	register(cp, a, op, func(ctx context.Context, in *struct {
		OnePlaylist
		Body api.LibraryPlace
	}) (*struct{}, error) {
		return nil, cp.playlist.Place(ctx, principal(ctx).UserID, in.ID, in.Body)
	})

	register(cp, a, playlistOp("list-playlist-folders", http.MethodGet, "/v1/me/playlist-folders", "All folders of one's list", "Those of one parent follow each other in their order."),
		func(ctx context.Context, _ *struct{}) (*answer[api.Page[api.PlaylistFolder]], error) {
			list, err := cp.playlist.Folders(ctx, principal(ctx).UserID)
			return reply(api.Page[api.PlaylistFolder]{Items: list}, err)
		})
	op = playlistOp("create-playlist-folder", http.MethodPost, "/v1/me/playlist-folders", "Make a folder", "At most 1000, five deep.")
	op.DefaultStatus = http.StatusCreated
	register(cp, a, op, func(ctx context.Context, in *struct{ Body api.NewPlaylistFolder }) (*answer[api.PlaylistFolder], error) {
		return reply(cp.playlist.NewFolder(ctx, principal(ctx).UserID, in.Body))
	})
	register(cp, a, playlistOp("change-playlist-folder", http.MethodPatch, "/v1/me/playlist-folders/{id}", "Rename or move a folder", "With all that is in it; not into itself."),
		func(ctx context.Context, in *struct {
			ID   string `path:"id" minLength:"26" maxLength:"26"`
			Body api.PlaylistFolderChange
		}) (*answer[api.PlaylistFolder], error) {
			return reply(cp.playlist.ChangeFolder(ctx, principal(ctx).UserID, in.ID, in.Body))
		})
	register(cp, a, playlistOp("delete-playlist-folder", http.MethodDelete, "/v1/me/playlist-folders/{id}", "Delete a folder", "What is in it moves to its parent; no playlist is deleted."),
		func(ctx context.Context, in *byID) (*struct{}, error) {
			return nil, cp.playlist.DeleteFolder(ctx, principal(ctx).UserID, in.ID)
		})
}
