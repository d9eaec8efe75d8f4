package playlist

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"
)

// What is kept of the past: the last KeepRevisions changes, none older than KeepFor, and at most keepClosed places that
// entries have left. The last change is always kept. What is too much goes with every pruneEvery-th change.
const (
	KeepRevisions = 500
	KeepFor       = 90 * 24 * time.Hour
	keepClosed    = 50_000
	pruneEvery    = 16
)

// revision is a line of the table playlist_revisions.
type revision struct {
	number, at            int64
	author                sql.NullString
	operation             string
	added, removed, moved int
	closed, undoneBy      int64
	changesText, ofText   string
	changes               map[string]api.PlaylistDetail
	of                    []int64
}

func (r *revision) fields() []any {
	return []any{&r.number, &r.at, &r.author, &r.operation, &r.added, &r.removed, &r.moved, &r.closed, &r.undoneBy, &r.changesText, &r.ofText}
}

func revisions(ctx context.Context, q querier, tail string, args ...any) ([]revision, error) {
	list, err := collect(ctx, q, (*revision).fields, `SELECT revision, at, author, operation, added, removed, moved, closed, undone_by, changes, of_revisions FROM playlist_revisions `+tail, args...)
	if err != nil {
		return nil, err
	}
	for i := range list {
		r := &list[i]
		if err := errors.Join(json.Unmarshal([]byte(r.changesText), &r.changes), json.Unmarshal([]byte(r.ofText), &r.of)); err != nil {
			return nil, fmt.Errorf("revision %d: %w: %w", r.number, media.ErrCorrupt, err)
		}
	}
	return list, nil
}

// Revisions pages through the changes, newest first; for people in the playlist. Errors: media.ErrInvalid of a cursor.
func (s *Service) Revisions(ctx context.Context, who, id, cursor string, limit int) (api.Page[api.PlaylistRevision], error) {
	out := api.Page[api.PlaylistRevision]{Items: []api.PlaylistRevision{}}
	before := live
	if cursor != "" {
		n, err := strconv.ParseInt(cursor, 10, 64)
		if err != nil {
			return out, fmt.Errorf("cursor is not one of ours: %w", media.ErrInvalid)
		}
		before = n
	}
	p, err := read(ctx, s.db, id)
	if err != nil {
		return out, err
	}
	if _, err := allow(ctx, s.db, p, who, api.RoleViewer); err != nil {
		return out, err
	}
	list, err := revisions(ctx, s.db, `WHERE playlist_id = $1 AND revision < $2 ORDER BY revision DESC LIMIT $3`, id, before, limit+1)
	if err != nil {
		return out, err
	}
	if len(list) > limit {
		list = list[:limit]
		out.Next = strconv.FormatInt(list[limit-1].number, 10)
	}
	var people []string
	for _, r := range list {
		people = append(people, r.author.String)
	}
	names, err := s.names(ctx, people)
	if err != nil {
		return out, err
	}
	for _, r := range list {
		v := api.PlaylistRevision{Revision: r.number, At: store.Time(r.at), Operation: r.operation, Added: r.added, Removed: r.removed, Moved: r.moved, Changes: r.changes, Of: r.of, UndoneBy: r.undoneBy}
		if r.author.Valid {
			v.Author = &api.UserRef{ID: r.author.String, DisplayName: names[r.author.String]}
		}
		out.Items = append(out.Items, v)
	}
	return out, nil
}

// inMind is an entry's state while changes are taken back one after another, before anything is written.
type inMind struct {
	was, is placement
	in      bool // it is in the playlist
	wasIn   bool
}

// mind is the state of the entries concerned.
type mind map[string]*inMind

// think looks up where entries stand now; placements says what is known of each entry.
func (c *change) think(m mind, known []placement) error {
	var ask []string
	for _, k := range known {
		if m[k.entry] == nil {
			m[k.entry] = &inMind{is: k}
			ask = append(ask, k.entry)
		}
	}
	now, err := c.standing(ask)
	for e, k := range now {
		m[e] = &inMind{was: k, is: k, in: true, wasIn: true}
	}
	return err
}

// write stores what is different from before.
func (c *change) write(m mind) error {
	var out []string
	var in []placement
	for e, v := range m {
		moved := v.in && v.wasIn && (v.is.position != v.was.position)
		if v.wasIn && (!v.in || moved) {
			out = append(out, e)
		}
		if v.in && (!v.wasIn || moved) {
			in = append(in, v.is)
		}
		switch {
		case moved:
			c.moved++
		case v.in && !v.wasIn:
			c.added++
			c.p.durationMS += v.is.durationMS
		case !v.in && v.wasIn:
			c.removed++
			c.p.durationMS -= v.was.durationMS
		}
	}
	if n := c.p.items + int64(c.added-c.removed); n > MaxItems && c.added > 0 {
		return fmt.Errorf("a playlist holds at most %d tracks, this would make it %d: %w", MaxItems, n, ErrLimit)
	}
	slices.Sort(out) // the order of a map is no order to take locks in
	slices.SortFunc(in, func(a, b placement) int { return cmp.Compare(a.position, b.position) })
	if err := c.leave(out); err != nil {
		return err
	}
	return c.stand(in)
}

// takeBack reverses one revision in mind: what it added goes, what it removed comes back to its place, what it moved
// goes back, and details get their former value; each only where nobody changed the same thing since.
func (c *change) takeBack(r revision, m mind) error {
	list, err := c.placements(`(from_revision = $2 OR to_revision = $2)`, r.number)
	if err != nil {
		return err
	}
	if err := c.think(m, list); err != nil {
		return err
	}
	from, to := map[string]placement{}, map[string]placement{}
	for _, k := range list {
		if k.to == r.number {
			from[k.entry] = k
		} else {
			to[k.entry] = k
		}
	}
	for e, v := range m {
		before, left := from[e]
		after, came := to[e]
		switch {
		case left && came: // moved: unless it was moved again
			if v.in && v.is.origin == after.origin {
				v.is.position, v.is.origin = before.position, before.origin
			}
		case left: // removed: unless it is back
			if !v.in {
				v.in, v.is = true, before
			}
		case came: // added
			v.in = false
		}
	}
	for field, at := range map[string]*string{"name": &c.p.name, "description": &c.p.description, "cover": &c.p.cover} {
		if d, ok := r.changes[field]; ok && *at == d.To {
			*at = d.From
		}
	}
	return nil
}

// Undo takes back changes as one new change. What others did since stays: an entry that was moved again stays where it
// is, one that was removed again stays out, a name that was changed again stays. Visibility, ownership and people are
// never undone by it. Undoing an undo, by its number, is a redo. Errors: ErrNothing, ErrLimit, media.ErrNotFound of a
// revision that is not kept, StaleError.
func (s *Service) Undo(ctx context.Context, who, id string, match Match, in api.UndoPlaylist) (api.Playlist, error) {
	if in.Revision != 0 && (in.Count > 1 || in.Mine) {
		return api.Playlist{}, fmt.Errorf("revision: goes without count and mine: %w", media.ErrInvalid)
	}
	p, err := s.write(ctx, who, id, match, api.RoleEditor, api.PlaylistUndone, func(c *change) error {
		c.recorded = true
		// To take back the oldest kept one, what was before it would be needed.
		query, args := `WHERE playlist_id = $1 AND revision > $2 `, []any{id, c.p.keptFrom}
		switch {
		case in.Revision != 0:
			query, args = query+`AND revision = $3`, append(args, in.Revision)
		case in.Mine:
			query, args = query+`AND author = $3 `, append(args, who)
			fallthrough
		default:
			query += `AND undone_by = 0 AND operation NOT IN ('create', 'undo', 'owner', 'visibility') ORDER BY revision DESC LIMIT ` + strconv.Itoa(max(1, in.Count))
		}
		targets, err := revisions(ctx, c.tx, query, args...)
		if err != nil {
			return err
		}
		switch {
		case len(targets) == 0 && in.Revision != 0:
			return fmt.Errorf("revision %d of playlist %s: %w", in.Revision, id, media.ErrNotFound)
		case len(targets) == 0:
			return ErrNothing
		case targets[0].undoneBy != 0:
			return fmt.Errorf("revision %d was taken back by %d: %w", targets[0].number, targets[0].undoneBy, ErrNothing)
		case slices.Contains([]string{api.PlaylistCreated, api.PlaylistOwner, api.PlaylistVisibility}, targets[0].operation):
			return fmt.Errorf("revision: %q cannot be taken back: %w", targets[0].operation, media.ErrInvalid)
		}
		m, was := mind{}, c.p
		for _, r := range targets {
			if err := c.takeBack(r, m); err != nil {
				return err
			}
			c.of = append(c.of, r.number)
			if _, err := c.tx.ExecContext(ctx, `UPDATE playlist_revisions SET undone_by = $3 WHERE playlist_id = $1 AND revision = $2`, id, r.number, c.rev); err != nil {
				return err
			}
			if r.operation == api.PlaylistUndone { // a redo: what it had taken back counts again
				if _, err := c.tx.ExecContext(ctx, `UPDATE playlist_revisions SET undone_by = 0 WHERE playlist_id = $1 AND undone_by = $2`, id, r.number); err != nil {
					return err
				}
			}
		}
		for field, d := range map[string][2]string{"name": {was.name, c.p.name}, "description": {was.description, c.p.description}, "cover": {was.cover, c.p.cover}} {
			if d[0] != d[1] {
				c.changes[field] = api.PlaylistDetail{From: d[0], To: d[1]}
			}
		}
		return c.write(m)
	})
	if err != nil {
		return api.Playlist{}, err
	}
	return s.renderOne(ctx, who, p)
}

// Restore makes the items those of an earlier revision, as one new change: what was there then is back, in the places
// and the order of then. Entries that were not there then stay between the neighbours they have, when in.Keep says so:
// those that others added (the default), all, or none. Details, visibility and people stay as they are.
func (s *Service) Restore(ctx context.Context, who, id string, match Match, in api.RestorePlaylist) (api.Playlist, error) {
	p, err := s.write(ctx, who, id, match, api.RoleEditor, api.PlaylistRestored, func(c *change) error {
		if in.Revision < c.p.keptFrom || in.Revision > c.p.revision {
			return fmt.Errorf("revision %d of playlist %s: %w", in.Revision, id, media.ErrNotFound)
		}
		c.recorded, c.of = true, []int64{in.Revision}
		then, err := c.placements(`from_revision <= $2 AND to_revision + 0 > $2`, in.Revision)
		if err != nil {
			return err
		}
		now, err := c.placements(`to_revision = $2`, live)
		if err != nil {
			return err
		}
		m := mind{}
		for _, k := range now {
			stays := in.Keep == "all" || in.Keep != "none" && k.by.String != who
			m[k.entry] = &inMind{was: k, is: k, in: stays, wasIn: true}
		}
		for _, k := range then {
			v := m[k.entry]
			if v == nil {
				v = &inMind{}
				m[k.entry] = v
			}
			v.in, v.is = true, k
		}
		return c.write(m)
	})
	if err != nil {
		return api.Playlist{}, err
	}
	return s.renderOne(ctx, who, p)
}

// prune forgets what is too old or too much. Items can be read as of p.keptFrom and later; the change keptFrom itself
// cannot be taken back any more.
func (c *change) prune() error {
	list, err := revisions(c.ctx, c.tx, `WHERE playlist_id = $1 ORDER BY revision DESC LIMIT $2`, c.p.id, KeepRevisions)
	if err != nil {
		return err
	}
	oldest, closed := c.now-KeepFor.Microseconds(), int64(0)
	from := c.rev - 1 // what the last change changed
	for _, r := range list {
		if r.number >= from {
			closed += r.closed
			continue
		}
		// To read as of r, the rows that r+1 closed are needed: they are in closed.
		if closed > keepClosed || r.at < oldest {
			break
		}
		from = r.number
		closed += r.closed
	}
	if from = max(from, c.p.keptFrom); from == c.p.keptFrom {
		return nil
	}
	c.p.keptFrom = from
	for _, query := range []string{
		`UPDATE playlists SET kept_from = $2 WHERE id = $1`,
		`DELETE FROM playlist_items WHERE playlist_id = $1 AND to_revision <= $2`,
		`DELETE FROM playlist_revisions WHERE playlist_id = $1 AND revision < $2`,
	} {
		if _, err := c.tx.ExecContext(c.ctx, query, c.p.id, from); err != nil {
			return err
		}
	}
	return nil
}
