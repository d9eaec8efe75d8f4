package api

import (
	"time"

	"segue/media"
)

// Roles of people in a playlist. A viewer sees a private playlist; an editor also changes what is in it and how it is
// called; its one owner also decides who sees it and deletes it.
const (
	RoleOwner  = "owner"
	RoleEditor = "editor"
	RoleViewer = "viewer"
)

// UserRef names a person inside another answer. DisplayName is empty when the account is gone.
type UserRef struct {
	ID          string `json:"id"`
	DisplayName string `json:"display_name"`
}

// NewPlaylist is the body of POST /v1/playlists.
type NewPlaylist struct {
	Name        string `json:"name" doc:"1 to 200 characters after trimming"`
	Description string `json:"description,omitempty" doc:"at most 2000 characters"`
	Public      bool   `json:"public,omitempty" doc:"anybody with an account may read and follow it, and search finds it"`
	FolderID    string `json:"folder_id,omitempty" doc:"where to put it in one's own list; default: the top"`
}

// PlaylistChange is the body of PATCH /v1/playlists/{id}; fields left out stay as they are.
type PlaylistChange struct {
	Name        *string `json:"name,omitempty" doc:"1 to 200 characters after trimming"`
	Description *string `json:"description,omitempty" doc:"at most 2000 characters"`
	Public      *bool   `json:"public,omitempty" doc:"only the owner may say"`
}

// Playlist is a playlist without its items. Cover is the picture that was uploaded; without one Mosaic has the art of
// the first four albums in it (fewer, when there are fewer).
type Playlist struct {
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	Description string    `json:"description"`
	Owner       UserRef   `json:"owner"`
	Public      bool      `json:"public"`
	Cover       *Art      `json:"cover,omitempty"`
	Mosaic      []Art     `json:"mosaic,omitempty"`
	TrackCount  int       `json:"track_count"`
	DurationMS  int64     `json:"duration_ms"`
	Followers   int64     `json:"followers"`
	Revision    int64     `json:"revision" doc:"rises by one with every change; the ETag is this number in quotes"`
	CreatedAt   time.Time `json:"created_at"`
	UpdatedAt   time.Time `json:"updated_at"`
	Role        string    `json:"role,omitempty" doc:"the caller's: owner, editor, viewer; left out when none"`
	InLibrary   bool      `json:"in_library" doc:"it is in the caller's own list"`
}

// LibraryPlaylist is a playlist in one's own list.
type LibraryPlaylist struct {
	Playlist
	FolderID string    `json:"folder_id,omitempty"` // left out: at the top
	SavedAt  time.Time `json:"saved_at"`
}

// PlaylistItem is one place in a playlist. EntryID is the place's own, so a track may be in twice. When the track cannot
// be played, since it has left the catalogue or has no media, Unavailable is set, Track is left out, and Title and Artist
// are the last known.
type PlaylistItem struct {
	EntryID     string        `json:"entry_id"`
	TrackID     media.TrackID `json:"track_id"`
	Title       string        `json:"title"`
	Artist      string        `json:"artist"`
	Track       *Track        `json:"track,omitempty"`
	Unavailable bool          `json:"unavailable,omitempty"`
	AddedBy     *UserRef      `json:"added_by,omitempty"` // left out: the account is gone
	AddedAt     time.Time     `json:"added_at"`
}

// PlaylistItems is one page of items. All pages that follow one another through Next are of the same Revision, also
// when the playlist changes meanwhile.
type PlaylistItems struct {
	Items    []PlaylistItem `json:"items"`
	Next     string         `json:"next,omitempty"`
	Revision int64          `json:"revision"`
	Total    int            `json:"total" doc:"items in the playlist now, on all pages"`
}

// NewItem is a track to add. EntryID may be a ULID made by the client: adding it again is then harmless, so an add
// whose answer was lost can be sent again.
type NewItem struct {
	TrackID media.TrackID `json:"track_id"`
	EntryID string        `json:"entry_id,omitempty" doc:"a ULID; default: one is made"`
}

// AddItems is the body of POST /v1/playlists/{id}/items. Before and After are entry ids; without one the items go to
// the end. An entry that was removed still marks its place.
type AddItems struct {
	Items      []NewItem `json:"items" minItems:"1" maxItems:"1000"`
	Before     string    `json:"before,omitempty"`
	After      string    `json:"after,omitempty"`
	AtStart    bool      `json:"at_start,omitempty"`
	Duplicates string    `json:"duplicates,omitempty" enum:"allow,skip" doc:"skip leaves out tracks that are in the playlist already; default allow"`
}

// EntryIDs is the body of DELETE /v1/playlists/{id}/items.
type EntryIDs struct {
	EntryIDs []string `json:"entry_ids" minItems:"1" maxItems:"1000"`
}

// MoveItems is the body of POST /v1/playlists/{id}/items/move. The entries come to stand together, in the order given,
// before or after an entry that is not one of them, or at the start or the end: exactly one of the four.
type MoveItems struct {
	EntryIDs []string `json:"entry_ids" minItems:"1" maxItems:"1000"`
	Before   string   `json:"before,omitempty"`
	After    string   `json:"after,omitempty"`
	AtStart  bool     `json:"at_start,omitempty"`
	AtEnd    bool     `json:"at_end,omitempty"`
}

// ItemsChanged answers a change of items. EntryIDs are those that were added, removed or moved by it; Left are the
// others: tracks skipped as duplicates have no entry and are in Skipped.
type ItemsChanged struct {
	Revision int64           `json:"revision"`
	EntryIDs []string        `json:"entry_ids"`
	Left     []string        `json:"left,omitempty" doc:"entries that are not in the playlist (any more), or were added before"`
	Skipped  []media.TrackID `json:"skipped,omitempty"`
	Total    int             `json:"total"`
}

// Collaborator is a person in a playlist. Until an invited person accepts, with PUT /v1/me/library/playlists/{id},
// Pending is set and the role is to look only.
type Collaborator struct {
	User    UserRef   `json:"user"`
	Role    string    `json:"role"`
	Pending bool      `json:"pending,omitempty"`
	Since   time.Time `json:"since"`
}

// SetCollaborator is the body of PUT /v1/playlists/{id}/collaborators/{user_id}.
type SetCollaborator struct {
	Role string `json:"role" enum:"editor,viewer"`
}

// PlaylistInvitation is a playlist that one was invited to and has not answered yet.
type PlaylistInvitation struct {
	Playlist Playlist  `json:"playlist"`
	Role     string    `json:"role"`
	At       time.Time `json:"at"`
}

// NewOwner is the body of POST /v1/playlists/{id}/owner.
type NewOwner struct {
	UserID string `json:"user_id"`
}

// NewShareLink is the body of POST /v1/playlists/{id}/share-links.
type NewShareLink struct {
	Role       string `json:"role,omitempty" enum:"viewer,editor" doc:"what those who accept become; default viewer"`
	TTLSeconds int64  `json:"ttl_seconds,omitempty" minimum:"60" maximum:"31536000" doc:"default 30 days"`
}

// ShareLink opens a playlist. Token and URL are in the answer to its creation only: what is stored cannot be turned
// back into them.
type ShareLink struct {
	ID        string    `json:"id"`
	Role      string    `json:"role"`
	Token     string    `json:"token,omitempty"`
	URL       string    `json:"url,omitempty" doc:"/v1/shared/{token}, relative to the control plane"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at"`
	Accepted  int64     `json:"accepted" doc:"how many became collaborators through it"`
}

// SharedPlaylist is what a share link shows to somebody without an account: no ids of people, no entries.
type SharedPlaylist struct {
	Name        string        `json:"name"`
	Description string        `json:"description"`
	OwnerName   string        `json:"owner_name"`
	Cover       *Art          `json:"cover,omitempty"`
	Mosaic      []Art         `json:"mosaic,omitempty"`
	TrackCount  int           `json:"track_count"`
	DurationMS  int64         `json:"duration_ms"`
	Tracks      []SharedTrack `json:"tracks" doc:"the first ten"`
	Role        string        `json:"role" doc:"what accepting gives: viewer or editor"`
	ExpiresAt   time.Time     `json:"expires_at"`
}

// SharedTrack is a line of a SharedPlaylist.
type SharedTrack struct {
	Title  string `json:"title"`
	Artist string `json:"artist"`
}

// Operations of PlaylistRevision.Operation.
const (
	PlaylistCreated    = "create"
	PlaylistDetails    = "details"    // name, description, cover; see Changes
	PlaylistVisibility = "visibility" // public, nothing else
	PlaylistAdded      = "add"
	PlaylistRemoved    = "remove"
	PlaylistMoved      = "move"
	PlaylistUndone     = "undo" // of an undo: redo
	PlaylistRestored   = "restore"
	PlaylistOwner      = "owner"
)

// PlaylistRevision is one change. Numbers have no gaps; the first is 1.
type PlaylistRevision struct {
	Revision  int64                     `json:"revision"`
	Author    *UserRef                  `json:"author,omitempty"` // left out: the account is gone
	At        time.Time                 `json:"at"`
	Operation string                    `json:"operation" enum:"create,details,visibility,add,remove,move,undo,restore,owner"`
	Added     int                       `json:"added,omitempty"`
	Removed   int                       `json:"removed,omitempty"`
	Moved     int                       `json:"moved,omitempty"`
	Changes   map[string]PlaylistDetail `json:"changes,omitempty" doc:"by field: name, description, cover, public"`
	Of        []int64                   `json:"of,omitempty" doc:"of an undo: the revisions it took back; of a restore: the revision it went to"`
	UndoneBy  int64                     `json:"undone_by,omitempty" doc:"the revision that took this one back"`
}

// PlaylistDetail is a field before and after a change. A cover is its version; empty: none.
type PlaylistDetail struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// UndoPlaylist is the body of POST /v1/playlists/{id}/undo. The zero value takes back the last change.
type UndoPlaylist struct {
	Count    int   `json:"count,omitempty" minimum:"1" maximum:"100" doc:"how many changes, the last first; default 1"`
	Mine     bool  `json:"mine,omitempty" doc:"count only the caller's own changes"`
	Revision int64 `json:"revision,omitempty" minimum:"2" doc:"take back exactly this one; with the number of an undo: redo"`
}

// RestorePlaylist is the body of POST /v1/playlists/{id}/restore. Keep says which entries that were added after the
// revision stay: others (those that other people added; default), all or none.
type RestorePlaylist struct {
	Revision int64  `json:"revision" minimum:"1"`
	Keep     string `json:"keep,omitempty" enum:"others,all,none"`
}

// LibraryPlace is the body of PATCH /v1/me/library/playlists/{id}: where a playlist stands in one's own list. Before
// and After are playlist ids in the same folder; without one it goes to the top of the folder.
type LibraryPlace struct {
	FolderID *string `json:"folder_id,omitempty" doc:"empty: out of all folders; left out: the folder it is in"`
	Before   string  `json:"before,omitempty"`
	After    string  `json:"after,omitempty"`
}

// PlaylistFolder groups playlists in one's own list. Folders may lie in folders, five deep.
type PlaylistFolder struct {
	ID            string    `json:"id"`
	Name          string    `json:"name"`
	ParentID      string    `json:"parent_id,omitempty"`
	PlaylistCount int       `json:"playlist_count" doc:"directly in it"`
	CreatedAt     time.Time `json:"created_at"`
}

// NewPlaylistFolder is the body of POST /v1/me/playlist-folders.
type NewPlaylistFolder struct {
	Name     string `json:"name" doc:"1 to 200 characters after trimming"`
	ParentID string `json:"parent_id,omitempty"`
}

// PlaylistFolderChange is the body of PATCH /v1/me/playlist-folders/{id}. Before and After are folder ids in the same
// parent.
type PlaylistFolderChange struct {
	Name     *string `json:"name,omitempty" doc:"1 to 200 characters after trimming"`
	ParentID *string `json:"parent_id,omitempty" doc:"empty: out of all folders"`
	Before   string  `json:"before,omitempty"`
	After    string  `json:"after,omitempty"`
}
