package playlist

import (
	"context"
	"database/sql"
	"slices"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
)

// Public returns those of the playlists that are public, for the search index: what it does not return is to leave it.
func (s *Service) Public(ctx context.Context, ids ...string) ([]api.Playlist, error) {
	out := []api.Playlist{}
	for some := range slices.Chunk(distinct(ids), lookup) {
		in, args := marks(1, some)
		list, err := collect(ctx, s.db, (*row).fields, `SELECT `+columns+` FROM playlists p WHERE p.public = 1 AND p.id IN (`+in+`)`, args...)
		if err != nil {
			return nil, err
		}
		rendered, err := s.render(ctx, list...)
		if err != nil {
			return nil, err
		}
		out = append(out, rendered...)
	}
	return out, nil
}

// EachPublic calls f for every public playlist, for building the search index.
func (s *Service) EachPublic(ctx context.Context, f func(api.Playlist) error) error {
	for after := ""; ; {
		list, err := collect(ctx, s.db, (*row).fields, `SELECT `+columns+` FROM playlists p WHERE p.public = 1 AND p.id > $1 ORDER BY p.id LIMIT 200`, after)
		if err != nil || len(list) == 0 {
			return err
		}
		after = list[len(list)-1].id
		rendered, err := s.render(ctx, list...)
		if err != nil {
			return err
		}
		for _, p := range rendered {
			if err := f(p); err != nil {
				return err
			}
		}
	}
}

// Exported is all that is kept of somebody here.
type Exported struct {
	Playlists      []ExportedPlaylist   `json:"playlists"` // own ones
	Library        []ExportedEntry      `json:"library"`   // one's list: own, shared and followed
	Folders        []api.PlaylistFolder `json:"folders"`
	Collaborations []ExportedEntry      `json:"collaborations"`
	Links          []ExportedEntry      `json:"share_links"`
	Added          []ExportedAdded      `json:"added_to_playlists_of_others"`
}

// ExportedPlaylist is an own playlist with its items.
type ExportedPlaylist struct {
	ID          string         `json:"id"`
	Name        string         `json:"name"`
	Description string         `json:"description"`
	Public      bool           `json:"public"`
	CreatedAt   time.Time      `json:"created_at"`
	UpdatedAt   time.Time      `json:"updated_at"`
	Items       []ExportedItem `json:"items"`
}

// ExportedItem is an item of an own playlist.
type ExportedItem struct {
	TrackID string    `json:"track_id"`
	Title   string    `json:"title"`
	Artist  string    `json:"artist"`
	AddedAt time.Time `json:"added_at"`
}

// ExportedAdded is an item that one added to the playlist of another.
type ExportedAdded struct {
	PlaylistID string `json:"playlist_id"`
	ExportedItem
}

// ExportedEntry is a playlist in one's list, or one that one collaborates in.
type ExportedEntry struct {
	PlaylistID string    `json:"playlist_id"`
	FolderID   string    `json:"folder_id,omitempty"`
	Role       string    `json:"role,omitempty"`
	At         time.Time `json:"at"`
}

// Export returns an Exported.
func (s *Service) Export(ctx context.Context, who string) (any, error) {
	out := Exported{Playlists: []ExportedPlaylist{}, Added: []ExportedAdded{}}
	own, err := collect(ctx, s.db, (*row).fields, `SELECT `+columns+` FROM playlists p WHERE p.owner_id = $1 ORDER BY p.id`, who)
	if err != nil {
		return nil, err
	}
	for _, p := range own {
		e := ExportedPlaylist{p.id, p.name, p.description, p.public != 0, store.Time(p.created), store.Time(p.updated), []ExportedItem{}}
		list, err := collect(ctx, s.db, (*placement).fields, `SELECT `+placementColumns+` FROM playlist_items WHERE playlist_id = $1 AND to_revision = $2 ORDER BY position`, p.id, live)
		if err != nil {
			return nil, err
		}
		for _, m := range list {
			e.Items = append(e.Items, ExportedItem{m.track, m.title, m.artist, store.Time(m.at)})
		}
		out.Playlists = append(out.Playlists, e)
	}
	for _, part := range []struct {
		to    *[]ExportedEntry
		query string
	}{
		{&out.Library, `SELECT playlist_id, folder_id, '', added_at FROM playlist_library WHERE user_id = $1 ORDER BY folder_id, position`},
		{&out.Collaborations, `SELECT playlist_id, '', role, created_at FROM playlist_members WHERE user_id = $1 ORDER BY created_at`},
		{&out.Links, `SELECT playlist_id, '', role, created_at FROM playlist_links WHERE created_by = $1 ORDER BY created_at`},
	} {
		type line struct {
			ExportedEntry
			at int64
		}
		list, err := collect(ctx, s.db, func(v *line) []any { return []any{&v.PlaylistID, &v.FolderID, &v.Role, &v.at} }, part.query, who)
		if err != nil {
			return nil, err
		}
		*part.to = []ExportedEntry{}
		for _, v := range list {
			v.At = store.Time(v.at)
			*part.to = append(*part.to, v.ExportedEntry)
		}
	}
	type line struct {
		ExportedAdded
		at int64
	}
	added, err := collect(ctx, s.db, func(v *line) []any { return []any{&v.PlaylistID, &v.TrackID, &v.Title, &v.Artist, &v.at} }, `SELECT i.playlist_id, i.track_id, i.title, i.artist, i.added_at
		FROM playlist_items i JOIN playlists p ON p.id = i.playlist_id WHERE i.added_by = $1 AND i.to_revision = $2 AND p.owner_id <> $1 ORDER BY i.added_at`, who, live)
	if err != nil {
		return nil, err
	}
	for _, v := range added {
		v.AddedAt = store.Time(v.at)
		out.Added = append(out.Added, v.ExportedAdded)
	}
	out.Folders, err = s.Folders(ctx, who)
	return out, err
}

// Forget runs before somebody's account is deleted. Their playlists go with it, but one that others edit passes to the
// editor who has been in it longest, as a revision without author. What they added to the playlists of others stays there,
// without their name.
func (s *Service) Forget(ctx context.Context, tx *sql.Tx, who string) error {
	own, err := collect(ctx, tx, one[string], `SELECT id FROM playlists WHERE owner_id = $1 ORDER BY id`, who)
	if err != nil {
		return err
	}
	var gone []string
	for _, id := range own {
		p, err := lock(ctx, tx, id)
		if err != nil {
			return err
		}
		heir, err := oldestEditor(ctx, tx, id)
		if err != nil {
			return err
		}
		if heir != "" {
			c := &change{ctx: ctx, tx: tx, who: who, now: store.Micros(time.Now()), rev: p.revision + 1, p: p, operation: api.PlaylistOwner}
			c.p.owner = heir // the limit of playlists does not count here: better one too many than none
			if err := c.store(sql.NullString{}); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `DELETE FROM playlist_members WHERE playlist_id = $1 AND user_id = $2`, id, heir); err != nil {
				return err
			}
		}
		if p.public != 0 {
			gone = append(gone, id)
		}
	}
	if _, err := tx.ExecContext(ctx, `UPDATE playlists SET followers = followers - 1 WHERE id IN (SELECT playlist_id FROM playlist_library WHERE user_id = $1 AND follows = 1)`, who); err != nil {
		return err
	}
	for some := range slices.Chunk(gone, lookup) {
		if err := store.Emit(ctx, tx, "playlist", some...); err != nil {
			return err
		}
	}
	return nil
}
