package playlist

import (
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"

	"github.com/oklog/ulid/v2"
)

// placement is a line of the table playlist_items: an entry, and where it stood from one revision until before another.
type placement struct {
	entry            string
	from, to, origin int64
	position         int64
	track, album     string
	title, artist    string
	durationMS       int64
	by               sql.NullString
	at               int64
}

const placementColumns = `entry_id, from_revision, to_revision, origin, position, track_id, album_id, title, artist, duration_ms, added_by, added_at`

func (m *placement) fields() []any {
	return []any{&m.entry, &m.from, &m.to, &m.origin, &m.position, &m.track, &m.album, &m.title, &m.artist, &m.durationMS, &m.by, &m.at}
}

func (c *change) placements(where string, args ...any) ([]placement, error) {
	return collect(c.ctx, c.tx, (*placement).fields, `SELECT `+placementColumns+` FROM playlist_items WHERE playlist_id = $1 AND `+where, append([]any{c.p.id}, args...)...)
}

// few bounds the arguments of a statement: SQLite's driver looks each one up among all.
const few = 250

// Where few entries of many are asked for, "to_revision + 0" keeps SQLite from the index of all that stand: one entry of
// 10000 costs 0.1 ms instead of 8.

// standing returns where those of the entries that are in the playlist stand now.
func (c *change) standing(entries []string) (map[string]placement, error) {
	out := map[string]placement{}
	for some := range slices.Chunk(entries, few) {
		in, args := marks(3, some)
		list, err := c.placements(`to_revision + 0 > $2 AND entry_id IN (`+in+`)`, append([]any{c.rev}, args...)...)
		if err != nil {
			return nil, err
		}
		for _, m := range list {
			out[m.entry] = m
		}
	}
	return out, nil
}

// leave ends the places of entries that stand.
func (c *change) leave(entries []string) error {
	c.closed += len(entries)
	for some := range slices.Chunk(entries, few) {
		in, args := marks(3, some)
		if _, err := c.tx.ExecContext(c.ctx, `UPDATE playlist_items SET to_revision = $2 WHERE playlist_id = $1 AND entry_id IN (`+in+`) AND to_revision + 0 > $2`,
			append([]any{c.p.id, c.rev}, args...)...); err != nil {
			return err
		}
	}
	return nil
}

// stand writes new places, from this revision on.
func (c *change) stand(list []placement) error {
	const own = 10 // values of a line, besides those that all share
	for some := range slices.Chunk(list, few/own) {
		lines, args := make([]string, len(some)), []any{c.p.id, c.rev, live}
		for i, m := range some {
			text, values := marks(len(args)+1, []any{m.entry, m.origin, m.position, m.track, m.album, m.title, m.artist, m.durationMS, m.by, m.at})
			entry, rest, _ := strings.Cut(text, ", ")
			lines[i] = "($1, " + entry + ", $2, $3, " + rest + ")"
			args = append(args, values...)
		}
		if _, err := c.tx.ExecContext(c.ctx, `INSERT INTO playlist_items (playlist_id, `+placementColumns+`) VALUES `+strings.Join(lines, ", "), args...); err != nil {
			return err
		}
	}
	return nil
}

// draw chooses the tracks whose albums are the mosaic: of the first albums in the playlist, one each. They are more than
// four since an album may have no picture.
func (c *change) draw() error {
	type head struct{ track, album string }
	list, err := collect(c.ctx, c.tx, func(h *head) []any { return []any{&h.track, &h.album} },
		`SELECT track_id, album_id FROM playlist_items WHERE playlist_id = $1 AND to_revision = $2 ORDER BY position LIMIT 50`, c.p.id, live)
	if err != nil {
		return err
	}
	tracks, albums := []string{}, []string{}
	for _, h := range list {
		if len(tracks) < 8 && !slices.Contains(albums, h.album) {
			tracks, albums = append(tracks, h.track), append(albums, h.album)
		}
	}
	c.p.mosaic = text(tracks)
	return nil
}

// Add adds tracks. Without match it always succeeds, up to MaxItems: adds of several writers commute. An item whose
// EntryID was in the playlist before is left out, so that a repeat is harmless; it does not bring back what was removed.
// Errors: media.ErrInvalid (a track that there is not, a place that never was), ErrLimit, StaleError, media.ErrDenied,
// media.ErrNotFound.
func (s *Service) Add(ctx context.Context, who, id string, match Match, in api.AddItems) (api.ItemsChanged, error) {
	var out api.ItemsChanged
	at := place{before: in.Before, after: in.After, start: in.AtStart}
	if err := at.check(false); err != nil {
		return out, err
	}
	p, err := read(ctx, s.db, id)
	if err == nil {
		_, err = allow(ctx, s.db, p, who, api.RoleEditor) // before the work; write asks again
	}
	if err != nil {
		return out, err
	}
	ids, entries := make([]string, len(in.Items)), map[string]bool{}
	for i, n := range in.Items {
		if n.EntryID != "" && (!media.ValidID(n.EntryID) || entries[n.EntryID]) {
			return out, fmt.Errorf("items[%d].entry_id: %q is not a ULID, or is in the list twice: %w", i, n.EntryID, media.ErrInvalid)
		}
		entries[n.EntryID], ids[i] = true, string(n.TrackID)
		if !media.ValidID(ids[i]) {
			return out, fmt.Errorf("items[%d].track_id: %q is not a track's id: %w", i, n.TrackID, media.ErrInvalid)
		}
	}
	known, err := s.tracks(ctx, ids)
	if err != nil {
		return out, err
	}
	for i, id := range ids {
		if t, ok := known[id]; !ok || t.Unavailable == api.Removed {
			return out, fmt.Errorf("items[%d].track_id: there is no track %s: %w", i, id, media.ErrInvalid)
		}
	}
	p, err = s.write(ctx, who, id, match, api.RoleEditor, api.PlaylistAdded, func(c *change) error {
		out = api.ItemsChanged{EntryIDs: []string{}}
		before, err := c.were(in.Items)
		if err != nil {
			return err
		}
		inIt := map[string]bool{}
		if in.Duplicates == "skip" {
			if inIt, err = c.holds(ids); err != nil {
				return err
			}
		}
		var list []placement
		for _, n := range in.Items {
			t := known[string(n.TrackID)]
			switch {
			case before[n.EntryID]:
				out.Left = append(out.Left, n.EntryID)
				continue
			case in.Duplicates == "skip" && inIt[string(t.ID)]:
				out.Skipped = append(out.Skipped, t.ID)
				continue
			}
			if n.EntryID == "" {
				n.EntryID = ulid.Make().String()
			}
			inIt[string(t.ID)] = true
			list = append(list, placement{entry: n.EntryID, origin: c.rev, track: string(t.ID), album: string(t.Album.ID), title: t.Title, artist: artists(t.Artists), durationMS: t.DurationMS,
				by: sql.NullString{String: who, Valid: true}, at: c.now})
			out.EntryIDs = append(out.EntryIDs, n.EntryID)
			c.p.durationMS += t.DurationMS
		}
		if len(list) == 0 {
			return nil
		}
		if n := c.p.items + int64(len(list)); n > MaxItems {
			return fmt.Errorf("a playlist holds at most %d tracks, this would make it %d: %w", MaxItems, n, ErrLimit)
		}
		slots, err := c.slots(at, len(list))
		if err != nil {
			return err
		}
		for i := range list {
			list[i].position = slots[i]
		}
		c.added = len(list)
		return c.stand(list)
	})
	out.Revision, out.Total = p.revision, int(p.items)
	return out, err
}

// were tells which of the items' own entry ids were ever in the playlist.
func (c *change) were(items []api.NewItem) (map[string]bool, error) {
	var ids []string
	for _, n := range items {
		if n.EntryID != "" {
			ids = append(ids, n.EntryID)
		}
	}
	return c.among(`entry_id`, ids, 0)
}

// holds tells which tracks are in the playlist now.
func (c *change) holds(tracks []string) (map[string]bool, error) {
	return c.among(`track_id`, tracks, c.rev)
}

func (c *change) among(column string, ids []string, after int64) (map[string]bool, error) {
	out := map[string]bool{}
	for some := range slices.Chunk(ids, few) {
		in, args := marks(3, some)
		list, err := collect(c.ctx, c.tx, one[string], `SELECT DISTINCT `+column+` FROM playlist_items WHERE playlist_id = $1 AND to_revision + 0 > $2 AND `+column+` IN (`+in+`)`,
			append([]any{c.p.id, after}, args...)...)
		if err != nil {
			return nil, err
		}
		for _, id := range list {
			out[id] = true
		}
	}
	return out, nil
}

// Remove takes entries out. Those that are not in the playlist are left out of the answer's EntryIDs, no error: a repeat
// is harmless.
func (s *Service) Remove(ctx context.Context, who, id string, match Match, entries []string) (out api.ItemsChanged, err error) {
	entries, err = checkEntries(entries)
	if err != nil {
		return out, err
	}
	p, err := s.write(ctx, who, id, match, api.RoleEditor, api.PlaylistRemoved, func(c *change) error {
		out = api.ItemsChanged{EntryIDs: []string{}}
		now, err := c.standing(entries)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if m, ok := now[e]; ok {
				out.EntryIDs = append(out.EntryIDs, e)
				c.p.durationMS -= m.durationMS
			} else {
				out.Left = append(out.Left, e)
			}
		}
		c.removed = len(out.EntryIDs)
		return c.leave(out.EntryIDs)
	})
	out.Revision, out.Total = p.revision, int(p.items)
	return out, err
}

// Move puts entries together, in the order given. Those that are not in the playlist any more are left out, no error.
func (s *Service) Move(ctx context.Context, who, id string, match Match, in api.MoveItems) (out api.ItemsChanged, err error) {
	entries, err := checkEntries(in.EntryIDs)
	if err != nil {
		return out, err
	}
	at := place{before: in.Before, after: in.After, start: in.AtStart, end: in.AtEnd}
	if err := at.check(true); err != nil {
		return out, err
	}
	if slices.Contains(entries, at.before+at.after) {
		return out, fmt.Errorf("before, after: the entry is one of those to move: %w", media.ErrInvalid)
	}
	p, err := s.write(ctx, who, id, match, api.RoleEditor, api.PlaylistMoved, func(c *change) error {
		out = api.ItemsChanged{EntryIDs: []string{}}
		now, err := c.standing(entries)
		if err != nil {
			return err
		}
		var list []placement
		for _, e := range entries {
			if m, ok := now[e]; ok {
				m.origin = c.rev
				list = append(list, m)
				out.EntryIDs = append(out.EntryIDs, e)
			} else {
				out.Left = append(out.Left, e)
			}
		}
		slots, err := c.slots(at, len(list)) // also with nothing to move: a wrong place is an error
		if err != nil {
			return err
		}
		for i := range list {
			list[i].position = slots[i]
		}
		c.moved = len(list)
		if err := c.leave(out.EntryIDs); err != nil {
			return err
		}
		return c.stand(list)
	})
	out.Revision, out.Total = p.revision, int(p.items)
	return out, err
}

// checkEntries refuses what cannot be an entry, and drops repeats.
func checkEntries(ids []string) ([]string, error) {
	var out []string
	seen := map[string]bool{}
	for i, id := range ids {
		if !media.ValidID(id) {
			return nil, fmt.Errorf("entry_ids[%d]: %q is not an entry's id: %w", i, id, media.ErrInvalid)
		}
		if !seen[id] {
			out = append(out, id)
		}
		seen[id] = true
	}
	return out, nil
}

// Items returns a page of items of the present revision, or of the one given when that is not 0. A cursor continues in
// the revision of its first page. Errors: media.ErrNotFound, also of a revision that is not kept; media.ErrInvalid of a
// cursor.
func (s *Service) Items(ctx context.Context, who, id string, revision int64, cursor string, limit int) (api.PlaylistItems, error) {
	out := api.PlaylistItems{Items: []api.PlaylistItem{}}
	p, err := read(ctx, s.db, id)
	if err != nil {
		return out, err
	}
	if _, err := allow(ctx, s.db, p, who, ""); err != nil {
		return out, err
	}
	out.Revision, out.Total = p.revision, int(p.items)
	if revision != 0 {
		out.Revision = revision
	}
	after := ""
	if cursor != "" {
		if out.Revision, after, err = parseItemsCursor(cursor); err != nil {
			return out, err
		}
	}
	list, err := s.page(ctx, p, out.Revision, after, limit+1)
	if errors.Is(err, media.ErrNotFound) && cursor != "" {
		err = fmt.Errorf("cursor: its revision is not kept any more, begin again: %w", media.ErrInvalid)
	}
	if err != nil {
		return out, err
	}
	if len(list) > limit {
		list = list[:limit]
		out.Next = base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(out.Revision, 10) + " " + list[limit-1].entry))
	}
	out.Items, err = s.renderItems(ctx, list)
	return out, err
}

func parseItemsCursor(s string) (int64, string, error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	revision, entry, _ := strings.Cut(string(b), " ")
	n, nerr := strconv.ParseInt(revision, 10, 64)
	if err != nil || nerr != nil || !media.ValidID(entry) {
		return 0, "", fmt.Errorf("cursor is not one of ours: %w", media.ErrInvalid)
	}
	return n, entry, nil
}

// page reads up to n places of a revision that follow an entry; "" is the beginning. Positions are looked up in the
// statement that uses them, since they change when room is made.
func (s *Service) page(ctx context.Context, p row, revision int64, after string, n int) ([]placement, error) {
	ask := func(which, while string) ([]placement, error) {
		query, args := `SELECT `+placementColumns+` FROM playlist_items WHERE playlist_id = $1 AND `+which+` AND EXISTS (SELECT 1 FROM playlists WHERE id = $1 AND `+while+`)`, []any{p.id, revision, n}
		if after != "" {
			query += ` AND position > (SELECT position FROM playlist_items WHERE playlist_id = $1 AND entry_id = $4 AND from_revision <= $2 AND to_revision + 0 > $2)`
			args = append(args, after)
		}
		return collect(ctx, s.db, (*placement).fields, query+` ORDER BY position LIMIT $3`, args...)
	}
	if revision == p.revision { // the usual case, by the index of what stands now; if nothing comes, it may have changed since p was read
		if list, err := ask(`to_revision = 9223372036854775807`, `revision = $2`); err != nil || len(list) > 0 {
			return list, err
		}
	}
	list, err := ask(`from_revision <= $2 AND to_revision + 0 > $2`, `kept_from <= $2 AND revision >= $2`)
	if err != nil || len(list) > 0 {
		return list, err
	}
	// Nothing: the end, or a revision or an entry that is not kept.
	var known int
	err = s.db.QueryRowContext(ctx, `SELECT count(*) FROM playlists WHERE id = $1 AND kept_from <= $2 AND revision >= $2 AND ($3 = '' OR EXISTS
		(SELECT 1 FROM playlist_items WHERE playlist_id = $1 AND entry_id = $3 AND from_revision <= $2 AND to_revision + 0 > $2))`, p.id, revision, after).Scan(&known)
	if err == nil && known == 0 {
		err = fmt.Errorf("revision %d of playlist %s: %w", revision, p.id, media.ErrNotFound)
	}
	return list, err
}

func (s *Service) renderItems(ctx context.Context, list []placement) ([]api.PlaylistItem, error) {
	var ids, people []string
	for _, m := range list {
		ids = append(ids, m.track)
		if m.by.Valid {
			people = append(people, m.by.String)
		}
	}
	known, err := s.tracks(ctx, ids)
	if err != nil {
		return nil, err
	}
	names, err := s.names(ctx, people)
	if err != nil {
		return nil, err
	}
	out := make([]api.PlaylistItem, len(list))
	for i, m := range list {
		out[i] = api.PlaylistItem{EntryID: m.entry, TrackID: media.TrackID(m.track), Title: m.title, Artist: m.artist, Unavailable: true, AddedAt: store.Time(m.at)}
		if t, ok := known[m.track]; ok {
			out[i].Title, out[i].Artist = t.Title, artists(t.Artists)
			if t.Unavailable == "" {
				out[i].Track, out[i].Unavailable = &t, false
			}
		}
		if m.by.Valid {
			out[i].AddedBy = &api.UserRef{ID: m.by.String, DisplayName: names[m.by.String]}
		}
	}
	return out, nil
}
