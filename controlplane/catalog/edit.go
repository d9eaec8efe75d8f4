package catalog

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"

	"segue/controlplane/api"
	"segue/media"

	"github.com/oklog/ulid/v2"
)

// named turns the artists of an edit into parts: known ones by id, others by name. The first that is main stands first.
func (w *write) named(list []api.ArtistName) ([]part, error) {
	ids, byName := []string{}, []string{}
	for i, a := range list {
		role := cmp.Or(a.Role, api.RoleMain)
		switch {
		case a.ID != "":
			ids = append(ids, api.ImportID("artist", a.ID))
		default:
			name, err := cleanName("artists", a.Name)
			if err != nil {
				return nil, err
			}
			list[i].Name = name
			byName = append(byName, name)
		}
		if !roleForm(role) || a.Join != nil && len(*a.Join) > 40 {
			return nil, fmt.Errorf("artists: role %q: want a lower-case word, and a join of at most 40 bytes: %w", role, media.ErrInvalid)
		}
	}
	known, err := w.byID(ids)
	if err != nil {
		return nil, err
	}
	called, err := w.byName(byName)
	if err != nil {
		return nil, err
	}
	return partsOf(list, known, called)
}

// partsOf puts artists that were looked up in order: main one first.
func partsOf(list []api.ArtistName, known, called map[string]string) ([]part, error) {
	if len(list) > maxCredits {
		return nil, fmt.Errorf("artists: want at most %d: %w", maxCredits, media.ErrInvalid)
	}
	var out []part
	for _, a := range list {
		id := called[nameKey(a.Name)]
		if a.ID != "" {
			if id = known[api.ImportID("artist", a.ID)]; id == "" {
				return nil, fmt.Errorf("artists: there is no artist %s: %w", a.ID, media.ErrInvalid)
			}
		}
		role := cmp.Or(a.Role, api.RoleMain)
		if slices.ContainsFunc(out, func(p part) bool { return p.id == id && p.role == role }) {
			continue
		}
		join := joinOf(role)
		if a.Join != nil {
			join = *a.Join
		}
		out = append(out, part{id, role, join})
	}
	first := slices.IndexFunc(out, func(p part) bool { return p.role == api.RoleMain })
	if first < 0 {
		return nil, fmt.Errorf("artists: want at least one with the role main: %w", media.ErrInvalid)
	}
	p := out[first]
	return slices.Insert(slices.Delete(out, first, first+1), 0, p), nil
}

func roleForm(role string) bool {
	return len(role) <= 40 && !strings.ContainsFunc(role, func(r rune) bool { return (r < 'a' || r > 'z') && r != '-' && r != '_' })
}

// sets collects the columns of an edit.
type sets struct {
	columns []string
	args    []any
	err     error
}

func (s *sets) set(column string, v any) {
	s.args = append(s.args, v)
	s.columns = append(s.columns, fmt.Sprintf("%s = $%d", column, len(s.args)))
}

// to sets a column when the edit has a value for it that passes clean.
func to[T, C any](s *sets, column string, v *T, clean func(T) (C, error)) {
	if v == nil || s.err != nil {
		return
	}
	c, err := clean(*v)
	if err != nil {
		s.err = err
		return
	}
	s.set(column, c)
}

func asIs[T any](v T) (T, error)           { return v, nil }
func dated(s string) (string, error)       { return s, checkDate(s) }
func genreList(l []string) (string, error) { g, err := cleanGenres(l); return text(g), err }
func named(what string) func(string) (string, error) {
	return func(s string) (string, error) { return cleanName(what, s) }
}

func sorted(s string) (string, error) { c, err := cleanName("title", s); return sortKey(c), err }

func (w *write) update(table, id string, s sets) error {
	if s.err != nil || len(s.columns) == 0 {
		return s.err
	}
	return w.exec(`UPDATE `+table+` SET `+strings.Join(s.columns, ", ")+fmt.Sprintf(` WHERE id = $%d`, len(s.args)+1), append(s.args, id)...)
}

// hold locks a row and reads what it refers to; media.ErrNotFound when it is not there. removed ones are.
func (w *write) hold(table, columns, id string, into ...any) error {
	if err := w.exec(`UPDATE `+table+` SET updated_at = $1 WHERE id = $2`, w.now, id); err != nil {
		return err
	}
	err := w.tx.QueryRowContext(w.ctx, `SELECT `+columns+` FROM `+table+` WHERE id = $1`, id).Scan(into...)
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%s %s: %w", strings.TrimSuffix(table, "s"), id, media.ErrNotFound)
	}
	return err
}

// touchTracks notes tracks, their albums and all their artists.
func (w *write) touchTracks(where string, args ...any) error {
	if err := query(w.ctx, w.tx, `SELECT t.id, t.album_id, t.artist_id FROM tracks t WHERE `+where, args, func(r *sql.Rows) error {
		var id, album, artist string
		err := r.Scan(&id, &album, &artist)
		w.tracks.add(id)
		w.albums.add(album)
		w.artists.add(artist)
		return err
	}); err != nil {
		return err
	}
	return query(w.ctx, w.tx, `SELECT c.artist_id FROM track_credits c JOIN tracks t ON t.id = c.track_id WHERE `+where, args, func(r *sql.Rows) error {
		var artist string
		err := r.Scan(&artist)
		w.artists.add(artist)
		return err
	})
}

// touchAlbums notes albums, their tracks and their artists.
func (w *write) touchAlbums(where string, args ...any) error {
	if err := query(w.ctx, w.tx, `SELECT a.id, a.artist_id FROM albums a WHERE `+where, args, func(r *sql.Rows) error {
		var id, artist string
		err := r.Scan(&id, &artist)
		w.albums.add(id)
		w.artists.add(artist)
		return err
	}); err != nil {
		return err
	}
	if err := query(w.ctx, w.tx, `SELECT c.artist_id FROM album_credits c JOIN albums a ON a.id = c.album_id WHERE `+where, args, func(r *sql.Rows) error {
		var artist string
		err := r.Scan(&artist)
		w.artists.add(artist)
		return err
	}); err != nil {
		return err
	}
	return w.touchTracks(`t.album_id IN (SELECT a.id FROM albums a WHERE `+where+`)`, args...)
}

// EditTrack changes a track's names and numbers. Errors: media.ErrNotFound, media.ErrInvalid.
func (s *Service) EditTrack(ctx context.Context, id media.TrackID, e api.TrackEdit) (api.Track, error) {
	err := s.change(ctx, func(w *write) error {
		var removed int64
		if err := w.hold("tracks", "removed_at", string(id), &removed); err != nil {
			return err
		}
		if removed != 0 {
			return fmt.Errorf("track %s: %w", id, media.ErrNotFound)
		}
		if err := w.touchTracks(`t.id = $1`, string(id)); err != nil {
			return err
		}
		var c sets
		to(&c, "title", e.Title, named("title"))
		to(&c, "sort_key", e.Title, sorted)
		to(&c, "date", e.Date, dated)
		to(&c, "isrc", e.ISRC, cleanISRC)
		to(&c, "genres", e.Genres, genreList)
		to(&c, "disc_number", e.DiscNumber, asIs)
		to(&c, "track_number", e.TrackNumber, asIs)
		to(&c, "available_in", e.AvailableIn, cleanCountries)
		if e.AlbumID != nil {
			var removed int64
			if err := w.hold("albums", "removed_at", *e.AlbumID, &removed); errors.Is(err, media.ErrNotFound) || err == nil && removed != 0 {
				return fmt.Errorf("album_id: there is no album %s: %w", *e.AlbumID, media.ErrInvalid)
			} else if err != nil {
				return err
			}
			w.albums.add(*e.AlbumID)
			c.set("album_id", *e.AlbumID)
		}
		if e.Artists != nil {
			parts, err := w.named(*e.Artists)
			if err != nil {
				return err
			}
			c.set("artist_id", parts[0].id)
			if err := w.putCredits("track", map[string][]part{string(id): parts}); err != nil {
				return err
			}
		}
		c.set("curated", 1)
		return w.update("tracks", string(id), c)
	})
	if err != nil {
		return api.Track{}, err
	}
	p, err := s.Track(ctx, id)
	return p.Track, err
}

// EditAlbum changes an album. Errors: media.ErrNotFound, media.ErrInvalid.
func (s *Service) EditAlbum(ctx context.Context, id media.AlbumID, e api.AlbumEdit) (api.Album, error) {
	err := s.change(ctx, func(w *write) error {
		var removed int64
		if err := w.hold("albums", "removed_at", string(id), &removed); err != nil {
			return err
		}
		if removed != 0 {
			return fmt.Errorf("album %s: %w", id, media.ErrNotFound)
		}
		if err := w.touchAlbums(`a.id = $1`, string(id)); err != nil {
			return err
		}
		var c sets
		to(&c, "title", e.Title, named("title"))
		to(&c, "sort_key", e.Title, sorted)
		to(&c, "type", e.Type, albumType)
		to(&c, "date", e.Date, dated)
		to(&c, "upc", e.UPC, cleanUPC)
		to(&c, "available_in", e.AvailableIn, cleanCountries)
		if e.Artists != nil {
			parts, err := w.named(*e.Artists)
			if err != nil {
				return err
			}
			c.set("artist_id", parts[0].id)
			if err := w.putCredits("album", map[string][]part{string(id): parts}); err != nil {
				return err
			}
		}
		c.set("curated", 1)
		return w.update("albums", string(id), c)
	})
	if err != nil {
		return api.Album{}, err
	}
	return s.Album(ctx, id)
}

func albumType(s string) (string, error) {
	if s = cmp.Or(s, "album"); !slices.Contains(api.AlbumTypes, s) {
		return "", fmt.Errorf("type %q: want one of %s: %w", s, strings.Join(api.AlbumTypes, ", "), media.ErrInvalid)
	}
	return s, nil
}

// EditArtist renames an artist. Files that name the old one still find it. Errors: media.ErrNotFound, media.ErrInvalid.
func (s *Service) EditArtist(ctx context.Context, id media.ArtistID, e api.ArtistEdit) (api.Artist, error) {
	err := s.change(ctx, func(w *write) error {
		var removed int64
		if err := w.hold("artists", "removed_at", string(id), &removed); err != nil {
			return err
		}
		if removed != 0 {
			return fmt.Errorf("artist %s: %w", id, media.ErrNotFound)
		}
		if err := w.touchArtist(string(id)); err != nil {
			return err
		}
		var c sets
		to(&c, "name", e.Name, named("name"))
		if e.Name != nil && c.err == nil {
			// Files may say either name from now on: the new one is an alias, as if merged, unless somebody else has it.
			if err := w.exec(`INSERT INTO artists (id, name, name_key, sort_key, merged_into, removed_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $6) ON CONFLICT (name_key) DO NOTHING`,
				ulid.Make().String(), *e.Name, nameKey(*e.Name), sortKey(*e.Name), string(id), w.now); err != nil {
				return err
			}
		}
		if e.SortName != nil {
			to(&c, "sort_key", e.SortName, sorted)
		} else {
			to(&c, "sort_key", e.Name, sorted)
		}
		return w.update("artists", string(id), c)
	})
	if err != nil {
		return api.Artist{}, err
	}
	return s.Artist(ctx, id)
}

// touchArtist notes an artist with all that shows the name: albums with their tracks, and tracks.
func (w *write) touchArtist(id string) error {
	w.artists.add(id)
	if err := w.touchAlbums(`a.artist_id = $1 OR a.id IN (SELECT c.album_id FROM album_credits c WHERE c.artist_id = $1)`, id); err != nil {
		return err
	}
	return w.touchTracks(`t.artist_id = $1 OR t.id IN (SELECT g.track_id FROM track_credits g WHERE g.artist_id = $1)`, id)
}

// Remove takes a track, an album with its tracks, or an artist with all that is first of all theirs, out of what is
// listed, found and played. Nothing is deleted. Again: nothing changes. Errors: media.ErrNotFound.
func (s *Service) Remove(ctx context.Context, kind, id string) error {
	return s.show(ctx, kind, id, false)
}

// Restore undoes a Remove: of an album or artist, what went with it comes back too. A track of an album that is removed
// is media.ErrInvalid, and so is one who was merged.
func (s *Service) Restore(ctx context.Context, kind, id string) error {
	return s.show(ctx, kind, id, true)
}

func (s *Service) show(ctx context.Context, kind, id string, again bool) error {
	return s.change(ctx, func(w *write) error {
		var removed int64
		var of string
		columns := map[string]string{"track": "removed_at, album_id", "album": "removed_at, artist_id", "artist": "removed_at, merged_into"}[kind]
		if err := w.hold(kind+"s", columns, id, &removed, &of); err != nil {
			return err
		}
		if (removed == 0) == again { // it is so already
			return nil
		}
		from, to := int64(0), w.now
		if again {
			from, to = removed, 0
			above := map[string]string{"track": "albums", "album": "artists"}[kind]
			var gone int64
			if above != "" {
				if err := w.hold(above, "removed_at", of, &gone); err != nil {
					return err
				}
			}
			if gone != 0 || kind == "artist" && of != "" {
				return fmt.Errorf("%s %s: restore what it belongs to first, %s: %w", kind, id, of, media.ErrInvalid)
			}
		}
		// What was removed at the very time goes back with it, and nothing else does.
		switch kind {
		case "track":
			if err := w.touchTracks(`t.id = $1`, id); err != nil {
				return err
			}
		case "album":
			if err := w.touchAlbums(`a.id = $1`, id); err != nil {
				return err
			}
			if err := w.exec(`UPDATE tracks SET removed_at = $1 WHERE album_id = $2 AND removed_at = $3`, to, id, from); err != nil {
				return err
			}
		case "artist":
			if err := w.touchArtist(id); err != nil {
				return err
			}
			for _, text := range []string{`UPDATE tracks SET removed_at = $1 WHERE artist_id = $2 AND removed_at = $3`,
				`UPDATE tracks SET removed_at = $1 WHERE removed_at = $3 AND album_id IN (SELECT id FROM albums WHERE artist_id = $2 AND removed_at = $3)`,
				`UPDATE albums SET removed_at = $1 WHERE artist_id = $2 AND removed_at = $3`} {
				if err := w.exec(text, to, id, from); err != nil {
					return err
				}
			}
		}
		return w.exec(`UPDATE `+kind+`s SET removed_at = $1 WHERE id = $2`, to, id)
	})
}

// Merge makes one artist of two: everything of id becomes into's, files that name id find into, and id leads there.
// Errors: media.ErrNotFound, media.ErrInvalid when either is gone or both are one.
func (s *Service) Merge(ctx context.Context, id, into media.ArtistID) (api.Artist, error) {
	err := s.change(ctx, func(w *write) error {
		for _, one := range slices.Sorted(slices.Values([]string{string(id), string(into)})) { // in one order: two merges crosswise do not wait for each other for ever
			var removed int64
			if err := w.hold("artists", "removed_at", one, &removed); err != nil {
				return err
			}
			if removed != 0 || id == into {
				return fmt.Errorf("artist %s is gone, or the same: %w", one, media.ErrInvalid)
			}
		}
		if err := w.touchArtist(string(id)); err != nil {
			return err
		}
		w.artists.add(string(into))
		for _, text := range []string{
			`UPDATE albums SET artist_id = $2 WHERE artist_id = $1`,
			`UPDATE tracks SET artist_id = $2 WHERE artist_id = $1`,
			`UPDATE album_credits SET artist_id = $2 WHERE artist_id = $1`,
			`UPDATE track_credits SET artist_id = $2 WHERE artist_id = $1`,
			`UPDATE artists SET merged_into = $2 WHERE merged_into = $1`,
		} {
			if err := w.exec(text, string(id), string(into)); err != nil {
				return err
			}
		}
		// Who was both the artist and the guest is the artist.
		for _, text := range []string{
			`DELETE FROM album_credits WHERE artist_id = $1 AND album_id IN (SELECT a.id FROM albums a WHERE a.artist_id = $1)`,
			`DELETE FROM track_credits WHERE artist_id = $1 AND role IN ('main', 'featured', 'remixer') AND track_id IN (SELECT t.id FROM tracks t WHERE t.artist_id = $1)`,
		} {
			if err := w.exec(text, string(into)); err != nil {
				return err
			}
		}
		return w.exec(`UPDATE artists SET merged_into = $1, removed_at = $2 WHERE id = $3`, string(into), w.now, string(id))
	})
	if err != nil {
		return api.Artist{}, err
	}
	return s.Artist(ctx, into)
}

// SetPopularity sets what tracks, albums or artists (kind) are ordered and ranked by, 0 or more, some thousand in a
// transaction. Unknown ids are passed over. Give what changed: everything given is told to the readers of events.
func (s *Service) SetPopularity(ctx context.Context, kind string, all iter.Seq2[string, float64]) error {
	if kind != "track" && kind != "album" && kind != "artist" {
		return fmt.Errorf("popularity of %q: %w", kind, media.ErrInvalid)
	}
	var rows [][]any
	put := func() error {
		err := s.db.Tx(ctx, func(tx *sql.Tx) error {
			w := s.newWrite(ctx, tx)
			given := map[string]set{"track": w.tracks, "album": w.albums, "artist": w.artists}[kind]
			for _, r := range rows {
				given.add(r[0].(string))
			}
			if err := w.rows(`UPDATE `+kind+`s SET popularity = v.column2 FROM (VALUES `, "?::TEXT,?::DOUBLE PRECISION", `) AS v WHERE `+kind+`s.id = v.column1`, rows); err != nil {
				return err
			}
			if kind == "track" {
				if err := w.rows(`UPDATE track_genres SET popularity = v.column2 FROM (VALUES `, "?::TEXT,?::DOUBLE PRECISION", `) AS v WHERE track_genres.track_id = v.column1`, rows); err != nil {
					return err
				}
			}
			return w.emit()
		})
		// An album shows its tracks, an artist both; who they are is not asked for here.
		s.tracks.entries.InvalidateAll()
		s.albums.entries.InvalidateAll()
		s.artists.entries.InvalidateAll()
		rows = rows[:0]
		return err
	}
	for id, p := range all {
		if math.IsNaN(p) || math.IsInf(p, 0) || p < 0 {
			return fmt.Errorf("popularity of %s is %v: %w", id, p, media.ErrInvalid)
		}
		if rows = append(rows, []any{id, p}); len(rows) == 2048 {
			if err := put(); err != nil {
				return err
			}
		}
	}
	if len(rows) == 0 {
		return nil
	}
	return put()
}

// Upgrade completes rows from before there were sort keys, genres and counts. It may be repeated and interrupted.
func (s *Service) Upgrade(ctx context.Context) error {
	for _, table := range []struct{ name, title, kind string }{{"artists", "name", "artist"}, {"albums", "title", "album"}, {"tracks", "title", "track"}} {
		for more := true; more; {
			err := s.change(ctx, func(w *write) error {
				var rows [][]any
				if err := query(ctx, w.tx, `SELECT id, `+table.title+` FROM `+table.name+` WHERE sort_key = '' ORDER BY id LIMIT 1000`, nil, func(r *sql.Rows) error {
					var id, title string
					err := r.Scan(&id, &title)
					rows = append(rows, []any{id, sortKey(title)})
					switch table.kind {
					case "artist":
						w.artists.add(id)
					case "album":
						w.albums.add(id)
					case "track":
						w.tracks.add(id)
					}
					return err
				}); err != nil {
					return err
				}
				more = len(rows) == 1000
				return w.rows(`UPDATE `+table.name+` SET sort_key = v.column2 FROM (VALUES `, "?::TEXT,?::TEXT", `) AS v WHERE `+table.name+`.id = v.column1`, rows)
			})
			if err != nil {
				return fmt.Errorf("upgrade the catalogue: %w", err)
			}
		}
	}
	return nil
}
