package playlist

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"

	"github.com/oklog/ulid/v2"
)

// A shelf is somebody's own list: playlists in folders, each folder with an order of its own.

// lockShelf takes somebody's shelf until the transaction ends. Who also needs a playlist's lock takes that first.
func lockShelf(ctx context.Context, tx *sql.Tx, who string) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO playlist_shelves (user_id) VALUES ($1) ON CONFLICT (user_id) DO UPDATE SET user_id = excluded.user_id`, who)
	return err
}

// order is a table whose rows stand in groups of one user's: the playlists of a folder, the folders of a folder.
type order struct{ table, id, group string }

var (
	playlistOrder = order{"playlist_library", "playlist_id", "folder_id"}
	folderOrder   = order{"playlist_folders", "id", "parent_id"}
)

// sql fills in a statement for the table.
func (o order) sql(text string) string {
	return strings.NewReplacer("{table}", o.table, "{id}", o.id, "{group}", o.group).Replace(text)
}

// slot returns a position in a group, before or after another row of it, or at its top; under the lock of the shelf.
func (o order) slot(ctx context.Context, tx *sql.Tx, who, group, before, after string) (int64, error) {
	if before != "" && after != "" {
		return 0, fmt.Errorf("before, after: want one of them: %w", media.ErrInvalid)
	}
	for range 2 {
		var low, high sql.NullInt64
		var err error
		ask := func(to *sql.NullInt64, column, where string, arg any) {
			if err == nil {
				err = tx.QueryRowContext(ctx, o.sql(`SELECT `+column+` FROM {table} WHERE user_id = $1 AND {group} = $2 AND `+where), who, group, arg).Scan(to)
			}
		}
		switch {
		case before != "":
			ask(&high, `position`, `{id} = $3`, before)
			ask(&low, `max(position)`, `position < $3`, high.Int64)
		case after != "":
			ask(&low, `position`, `{id} = $3`, after)
			ask(&high, `min(position)`, `position > $3`, low.Int64)
		default:
			ask(&high, `min(position)`, `position >= $3`, -bound)
		}
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return 0, fmt.Errorf("before, after: %q is not in this folder: %w", before+after, media.ErrInvalid)
		case err != nil:
			return 0, err
		case !low.Valid && !high.Valid:
			return 0, nil
		case !high.Valid && low.Int64 < bound-gap:
			return low.Int64 + gap, nil
		case !low.Valid && high.Int64 > gap-bound:
			return high.Int64 - gap, nil
		case low.Valid && high.Valid && high.Int64-low.Int64 > 1:
			return low.Int64 + (high.Int64-low.Int64)/2, nil
		}
		if err := o.respace(ctx, tx, who, group); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("bug: no room in a folder of %s", who)
}

// respace numbers a group anew, in its order.
func (o order) respace(ctx context.Context, tx *sql.Tx, who, group string) error {
	_, err := tx.ExecContext(ctx, o.sql(`UPDATE {table} SET position = r.n * CAST($3 AS BIGINT)
		FROM (SELECT {id} AS was, row_number() OVER (ORDER BY position, {id}) AS n FROM {table} WHERE user_id = $1 AND {group} = $2) r
		WHERE {table}.user_id = $1 AND {table}.{id} = r.was`), who, group, gap)
	return err
}

// keep puts a playlist on top of a folder of somebody's list, when it is not in the list; under the lock of the shelf.
func keep(ctx context.Context, tx *sql.Tx, who, id, folder string, follows int, now int64) error {
	var n int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM playlist_library WHERE user_id = $1`, who).Scan(&n); err != nil {
		return err
	}
	if n >= MaxKept {
		return fmt.Errorf("a list holds at most %d playlists: %w", MaxKept, ErrLimit)
	}
	if err := folderExists(ctx, tx, who, folder, "folder_id"); err != nil {
		return err
	}
	position, err := playlistOrder.slot(ctx, tx, who, folder, "", "")
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO playlist_library (user_id, playlist_id, folder_id, position, follows, added_at) VALUES ($1, $2, $3, $4, $5, $6)`, who, id, folder, position, follows, now)
	return err
}

// joinLibrary puts a playlist, whose lock is held, into somebody's list, as followed or as their own; p's followers are
// counted.
func joinLibrary(ctx context.Context, tx *sql.Tx, p *row, who string, follows int, now int64) error {
	if err := lockShelf(ctx, tx, who); err != nil {
		return err
	}
	var before int
	err := tx.QueryRowContext(ctx, `SELECT follows FROM playlist_library WHERE user_id = $1 AND playlist_id = $2`, who, p.id).Scan(&before)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		if err := keep(ctx, tx, who, p.id, "", follows, now); err != nil {
			return err
		}
	case err != nil || follows == before:
		return err
	default:
		if _, err := tx.ExecContext(ctx, `UPDATE playlist_library SET follows = $3 WHERE user_id = $1 AND playlist_id = $2`, who, p.id, follows); err != nil {
			return err
		}
	}
	if follows == before {
		return nil
	}
	return follow(ctx, tx, p, follows-before)
}

func follow(ctx context.Context, tx *sql.Tx, p *row, by int) error {
	p.followers += int64(by)
	_, err := tx.ExecContext(ctx, `UPDATE playlists SET followers = followers + $2 WHERE id = $1`, p.id, by)
	return err
}

// Keep puts a playlist into the caller's list: a public one is followed, an invitation accepted. A repeat is harmless.
func (s *Service) Keep(ctx context.Context, who, id string) (api.Playlist, error) {
	var p row
	err := s.db.Tx(ctx, func(tx *sql.Tx) (err error) {
		if p, err = lock(ctx, tx, id); err != nil {
			return err
		}
		role, err := allow(ctx, tx, p, who, "")
		if err != nil {
			return err
		}
		if role == "" {
			return joinLibrary(ctx, tx, &p, who, 1, store.Micros(time.Now()))
		}
		if _, err := tx.ExecContext(ctx, `UPDATE playlist_members SET accepted = 1 WHERE playlist_id = $1 AND user_id = $2`, id, who); err != nil {
			return err
		}
		return joinLibrary(ctx, tx, &p, who, 0, store.Micros(time.Now()))
	})
	if err != nil {
		return api.Playlist{}, err
	}
	return s.renderOne(ctx, who, p)
}

// Drop takes a playlist out of the caller's list: unfollows, declines an invitation, leaves. One's own cannot be dropped.
// It is no error when it is not in the list.
func (s *Service) Drop(ctx context.Context, who, id string) error {
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		p, err := lock(ctx, tx, id)
		if errors.Is(err, media.ErrNotFound) {
			return nil // also gone
		} else if err != nil {
			return err
		}
		if p.owner == who {
			return fmt.Errorf("one's own playlist stays in the list: delete it, or hand it over: %w", media.ErrDenied)
		}
		if err := leave(ctx, tx, id, who); err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, `DELETE FROM playlist_library WHERE playlist_id = $1 AND user_id = $2 AND follows = 1`, id, who)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err
		}
		return follow(ctx, tx, &p, -1)
	})
}

// Place moves a playlist within the caller's list. Errors: media.ErrNotFound when it is not in the list.
func (s *Service) Place(ctx context.Context, who, id string, in api.LibraryPlace) error {
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		if err := lockShelf(ctx, tx, who); err != nil {
			return err
		}
		var folder string
		err := tx.QueryRowContext(ctx, `SELECT folder_id FROM playlist_library WHERE user_id = $1 AND playlist_id = $2`, who, id).Scan(&folder)
		if errors.Is(err, sql.ErrNoRows) || !media.ValidID(id) {
			return missing(id)
		} else if err != nil {
			return err
		}
		if in.FolderID != nil {
			folder = *in.FolderID
		}
		if err := folderExists(ctx, tx, who, folder, "folder_id"); err != nil {
			return err
		}
		if in.Before == id || in.After == id {
			return fmt.Errorf("before, after: the playlist itself: %w", media.ErrInvalid)
		}
		position, err := playlistOrder.slot(ctx, tx, who, folder, in.Before, in.After)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE playlist_library SET folder_id = $3, position = $4 WHERE user_id = $1 AND playlist_id = $2`, who, id, folder, position)
		return err
	})
}

// Query chooses from somebody's list.
type Query struct {
	Folder string // "": all, "top": in no folder, or a folder's id
	Kind   string // "": all, own, shared or followed
	Sort   string // custom (folder by folder, as arranged), name, updated or added (newest first)
	Cursor string
	Limit  int
}

// sorts say by what a list is ordered, and how it goes on after a line: by its keys, which are $3 to $5.
var sorts = map[string]struct{ keys, by, after string }{
	"custom":  {`l.folder_id, l.position, p.id`, `l.folder_id, l.position, p.id`, `(l.folder_id > $3 OR l.folder_id = $3 AND (l.position > $4 OR l.position = $4 AND p.id > $5))`},
	"name":    {`lower(p.name), 0, p.id`, `lower(p.name), p.id`, `(lower(p.name) > $3 OR lower(p.name) = $3 AND p.id > $5) AND $4 = 0`},
	"updated": {`'', p.updated_at, p.id`, `p.updated_at DESC, p.id`, `(p.updated_at < $4 OR p.updated_at = $4 AND p.id > $5) AND $3 = ''`},
	"added":   {`'', l.added_at, p.id`, `l.added_at DESC, p.id`, `(l.added_at < $4 OR l.added_at = $4 AND p.id > $5) AND $3 = ''`},
}

type listCursor struct {
	Sort, Text string
	Number     int64
	ID         string
}

// List pages through the caller's list. A followed playlist that is not public any more is not shown, and is there again
// when it is. The whole list is at most MaxKept lines, so all but the custom order sort them.
func (s *Service) List(ctx context.Context, who string, q Query) (api.Page[api.LibraryPlaylist], error) {
	out := api.Page[api.LibraryPlaylist]{Items: []api.LibraryPlaylist{}}
	if q.Sort == "" {
		q.Sort = "custom"
	}
	sort, ok := sorts[q.Sort]
	if !ok {
		return out, fmt.Errorf("sort: want custom, name, updated or added: %w", media.ErrInvalid)
	}
	where, args := ``, []any{who, q.Limit + 1}
	if q.Cursor != "" {
		var c listCursor
		b, err := base64.RawURLEncoding.DecodeString(q.Cursor)
		if err != nil || json.Unmarshal(b, &c) != nil || c.Sort != q.Sort || strings.ContainsRune(c.Text+c.ID, 0) {
			return out, fmt.Errorf("cursor is not one of ours, or is of another order: %w", media.ErrInvalid)
		}
		where, args = ` AND `+sort.after, append(args, c.Text, c.Number, c.ID)
	}
	if q.Folder != "" {
		args = append(args, strings.TrimPrefix(q.Folder, "top"))
		if q.Folder != "top" && !media.ValidID(q.Folder) {
			return out, fmt.Errorf("folder: want top or a folder's id: %w", media.ErrInvalid)
		}
		where += fmt.Sprintf(` AND l.folder_id = $%d`, len(args))
	}
	switch q.Kind {
	case "":
	case "own":
		where += ` AND p.owner_id = $1`
	case "followed":
		where += ` AND l.follows = 1`
	case "shared":
		where += ` AND p.owner_id <> $1 AND l.follows = 0`
	default:
		return out, fmt.Errorf("kind: want own, shared or followed: %w", media.ErrInvalid)
	}
	type line struct {
		row
		folder, role string
		added        int64
		text, id     string
		number       int64
	}
	list, err := collect(ctx, s.db, func(v *line) []any {
		return append(v.fields(), &v.folder, &v.added, &v.role, &v.text, &v.number, &v.id)
	}, `SELECT `+columns+`, l.folder_id, l.added_at, coalesce(m.role, ''), `+sort.keys+`
		FROM playlist_library l JOIN playlists p ON p.id = l.playlist_id LEFT JOIN playlist_members m ON m.playlist_id = p.id AND m.user_id = l.user_id AND m.accepted = 1
		WHERE l.user_id = $1 AND (p.owner_id = $1 OR p.public = 1 OR m.role IS NOT NULL)`+where+` ORDER BY `+sort.by+` LIMIT $2`, args...)
	if err != nil {
		return out, err
	}
	if len(list) > q.Limit {
		list = list[:q.Limit]
		last := list[q.Limit-1]
		out.Next = base64.RawURLEncoding.EncodeToString([]byte(text(listCursor{q.Sort, last.text, last.number, last.id})))
	}
	rows := make([]row, len(list))
	for i, v := range list {
		rows[i] = v.row
	}
	playlists, err := s.render(ctx, rows...)
	if err != nil {
		return out, err
	}
	for i, v := range list {
		p := playlists[i]
		p.InLibrary, p.Role = true, v.role
		if p.Owner.ID == who {
			p.Role = api.RoleOwner
		}
		out.Items = append(out.Items, api.LibraryPlaylist{Playlist: p, FolderID: v.folder, SavedAt: store.Time(v.added)})
	}
	return out, nil
}

// PublicOf pages through the public playlists that somebody owns, newest first.
func (s *Service) PublicOf(ctx context.Context, owner, cursor string, limit int) (api.Page[api.Playlist], error) {
	out := api.Page[api.Playlist]{Items: []api.Playlist{}}
	if !media.ValidID(owner) || cursor != "" && !media.ValidID(cursor) {
		return out, fmt.Errorf("user or cursor is not one of ours: %w", media.ErrInvalid)
	}
	if cursor == "" {
		cursor = "~" // after every id
	}
	list, err := collect(ctx, s.db, (*row).fields, `SELECT `+columns+` FROM playlists p WHERE p.owner_id = $1 AND p.public = 1 AND p.id < $2 ORDER BY p.id DESC LIMIT $3`, owner, cursor, limit+1)
	if err != nil {
		return out, err
	}
	if len(list) > limit {
		list = list[:limit]
		out.Next = list[limit-1].id
	}
	out.Items, err = s.render(ctx, list...)
	return out, err
}

// folder is a line of the table playlist_folders.
type folder struct {
	id, parent, name string
	created          int64
	count            int
}

func folders(ctx context.Context, q querier, who string) ([]folder, error) {
	return collect(ctx, q, func(f *folder) []any { return []any{&f.id, &f.parent, &f.name, &f.created, &f.count} },
		`SELECT f.id, f.parent_id, f.name, f.created_at, (SELECT count(*) FROM playlist_library l WHERE l.user_id = f.user_id AND l.folder_id = f.id)
		FROM playlist_folders f WHERE f.user_id = $1 ORDER BY f.parent_id, f.position, f.id`, who)
}

// folderExists checks that a folder is the caller's; "" is the top and always there.
func folderExists(ctx context.Context, q querier, who, id, field string) error {
	if id == "" {
		return nil
	}
	var n int
	if media.ValidID(id) {
		if err := q.QueryRowContext(ctx, `SELECT count(*) FROM playlist_folders WHERE user_id = $1 AND id = $2`, who, id).Scan(&n); err != nil {
			return err
		}
	}
	if n == 0 {
		return fmt.Errorf("%s: there is no such folder: %w", field, media.ErrInvalid)
	}
	return nil
}

func (f folder) wire() api.PlaylistFolder {
	return api.PlaylistFolder{ID: f.id, Name: f.name, ParentID: f.parent, PlaylistCount: f.count, CreatedAt: store.Time(f.created)}
}

// Folders lists all folders, those of one parent together in their order.
func (s *Service) Folders(ctx context.Context, who string) ([]api.PlaylistFolder, error) {
	list, err := folders(ctx, s.db, who)
	out := []api.PlaylistFolder{}
	for _, f := range list {
		out = append(out, f.wire())
	}
	return out, err
}

// NewFolder makes a folder on top of its parent. Errors: media.ErrInvalid, ErrLimit.
func (s *Service) NewFolder(ctx context.Context, who string, in api.NewPlaylistFolder) (out api.PlaylistFolder, err error) {
	f := folder{id: ulid.Make().String(), parent: in.ParentID, created: store.Micros(time.Now())}
	if f.name, err = checkName("name", in.Name); err != nil {
		return out, err
	}
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		if err := lockShelf(ctx, tx, who); err != nil {
			return err
		}
		all, err := folders(ctx, tx, who)
		if err != nil {
			return err
		}
		if len(all) >= MaxFolders {
			return fmt.Errorf("an account has at most %d folders: %w", MaxFolders, ErrLimit)
		}
		if err := fits(append(all, f), f); err != nil {
			return err
		}
		position, err := folderOrder.slot(ctx, tx, who, f.parent, "", "")
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO playlist_folders (id, user_id, parent_id, name, position, created_at) VALUES ($1, $2, $3, $4, $5, $6)`, f.id, who, f.parent, f.name, position, f.created)
		return err
	})
	return f.wire(), err
}

// fits checks f's place among all folders (with f in its new place): its parent is there, it is not within itself, and
// nothing gets too deep.
func fits(all []folder, f folder) error {
	parent := map[string]string{}
	for _, x := range all {
		parent[x.id] = x.parent
	}
	parent[f.id] = f.parent
	if _, ok := parent[f.parent]; f.parent != "" && !ok {
		return fmt.Errorf("parent_id: there is no such folder: %w", media.ErrInvalid)
	}
	for id := range parent {
		depth := 0
		for at := id; at != ""; at = parent[at] {
			if depth++; depth > len(parent) {
				return fmt.Errorf("parent_id: the folder would be within itself: %w", media.ErrInvalid)
			}
		}
		if depth > MaxFolderDepth {
			return fmt.Errorf("parent_id: folders are at most %d deep: %w", MaxFolderDepth, ErrLimit)
		}
	}
	return nil
}

// ChangeFolder renames or moves a folder with what is in it. Errors: media.ErrNotFound, media.ErrInvalid, ErrLimit.
func (s *Service) ChangeFolder(ctx context.Context, who, id string, in api.PlaylistFolderChange) (api.PlaylistFolder, error) {
	var f folder
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		if err := lockShelf(ctx, tx, who); err != nil {
			return err
		}
		all, err := folders(ctx, tx, who)
		if err != nil {
			return err
		}
		if f, err = folderOf(all, id); err != nil {
			return err
		}
		if in.Name != nil {
			if f.name, err = checkName("name", *in.Name); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `UPDATE playlist_folders SET name = $2 WHERE id = $1`, id, f.name); err != nil {
				return err
			}
		}
		if in.ParentID == nil && in.Before == "" && in.After == "" {
			return nil
		}
		if in.ParentID != nil {
			f.parent = *in.ParentID
		}
		if err := fits(all, f); err != nil {
			return err
		}
		if in.Before == id || in.After == id {
			return fmt.Errorf("before, after: the folder itself: %w", media.ErrInvalid)
		}
		position, err := folderOrder.slot(ctx, tx, who, f.parent, in.Before, in.After)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE playlist_folders SET parent_id = $2, position = $3 WHERE id = $1`, id, f.parent, position)
		return err
	})
	return f.wire(), err
}

func folderOf(all []folder, id string) (folder, error) {
	for _, f := range all {
		if f.id == id {
			return f, nil
		}
	}
	return folder{}, fmt.Errorf("folder %q: %w", id, media.ErrNotFound)
}

// DeleteFolder deletes a folder; what is in it moves to its parent, on top.
func (s *Service) DeleteFolder(ctx context.Context, who, id string) error {
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		if err := lockShelf(ctx, tx, who); err != nil {
			return err
		}
		all, err := folders(ctx, tx, who)
		if err != nil {
			return err
		}
		f, err := folderOf(all, id)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM playlist_folders WHERE id = $1`, id); err != nil {
			return err
		}
		for _, o := range []order{playlistOrder, folderOrder} {
			// Both are numbered from 1 gap on; then what moves goes below 0, which is above what the parent has.
			if err := o.respace(ctx, tx, who, id); err != nil {
				return err
			}
			if err := o.respace(ctx, tx, who, f.parent); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, o.sql(`UPDATE {table} SET {group} = $3, position = position - CAST($4 AS BIGINT) WHERE user_id = $1 AND {group} = $2`),
				who, id, f.parent, gap*(MaxKept+1)); err != nil {
				return err
			}
		}
		return nil
	})
}
