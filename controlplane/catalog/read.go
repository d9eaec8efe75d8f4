package catalog

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"
)

// Rows become answers in a fixed number of queries, however many there are: the rows themselves, then what they name
// (albums, further artists, names) by one IN each. No query counts, and none runs once per row.

// Playable is a track with what playback needs of its renditions; their Segments are nil. AvailableIn of the embedded
// track is the track's own list, else its album's.
type Playable struct {
	api.Track
	Media []media.Rendition
}

// querier is *sql.DB or *sql.Tx.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// inMost bounds one IN list. SQLite takes $1 for a name and finds names by walking a list, so a statement's cost grows
// with the square of its parameters: with 4000 of them it is all there is, with some hundred it is nothing.
const inMost = 128

// anyOf writes ($from, …) and its arguments. Lists are padded to a power of two, so that drivers that keep prepared
// statements see few different texts.
func anyOf(from int, ids []string) (string, []any) {
	n := 1
	for n < len(ids) {
		n *= 2
	}
	var b strings.Builder
	args := make([]any, n)
	b.WriteByte('(')
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(from + i))
		args[i] = ids[min(i, len(ids)-1)]
	}
	b.WriteByte(')')
	return b.String(), args
}

// each runs a query over ids, some at a time, and calls row for every row. The text has one %s, for the IN list.
func each(ctx context.Context, q querier, text string, ids []string, row func(*sql.Rows) error) error {
	for some := range slices.Chunk(ids, inMost) {
		in, args := anyOf(1, some)
		if err := query(ctx, q, strings.Replace(text, "%s", in, 1), args, row); err != nil {
			return err
		}
	}
	return nil
}

func query(ctx context.Context, q querier, text string, args []any, row func(*sql.Rows) error) error {
	return rowsOf(q.QueryContext(ctx, text, args...))(row)
}

func rowsOf(rows *sql.Rows, err error) func(row func(*sql.Rows) error) error {
	return func(row func(*sql.Rows) error) error {
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			if err := row(rows); err != nil {
				return err
			}
		}
		return rows.Err()
	}
}

// names are what artists and albums of some rows are called.
type names struct {
	artists map[string]api.ArtistRef
	albums  map[string]albumHead
}

type albumHead struct {
	api.AlbumRef
	availableIn []string
}

// further are the artists of albums or tracks from position 1 on, in order.
type further map[string][]api.ArtistRef

func furtherArtists(ctx context.Context, q querier, kind string, ids []string) (further, error) {
	out := further{}
	err := each(ctx, q, `SELECT `+kind+`_id, artist_id, role, join_phrase FROM `+kind+`_credits WHERE `+kind+`_id IN %s ORDER BY `+kind+`_id, position`, ids, func(rows *sql.Rows) error {
		var id string
		var a api.ArtistRef
		if err := rows.Scan(&id, &a.ID, &a.Role, &a.Join); err != nil {
			return err
		}
		out[id] = append(out[id], a)
		return nil
	})
	return out, err
}

// readNames asks for the artists with the ids, and those in the lists.
func readNames(ctx context.Context, q querier, ids []string, lists ...further) (map[string]api.ArtistRef, error) {
	for _, l := range lists {
		for _, refs := range l {
			for _, a := range refs {
				ids = append(ids, string(a.ID))
			}
		}
	}
	slices.Sort(ids)
	out := map[string]api.ArtistRef{}
	err := each(ctx, q, `SELECT id, name FROM artists WHERE id IN %s`, slices.Compact(ids), func(rows *sql.Rows) error {
		var a api.ArtistRef
		if err := rows.Scan(&a.ID, &a.Name); err != nil {
			return err
		}
		out[string(a.ID)] = a
		return nil
	})
	return out, err
}

// performs reports whether a role stands among the artists; others are credits.
func performs(role string) bool {
	return role == api.RoleMain || role == api.RoleFeatured || role == api.RoleRemixer
}

// artistsOf puts the first artist and the further ones together.
func artistsOf(first string, more []api.ArtistRef, known map[string]api.ArtistRef) (performers, credits []api.ArtistRef) {
	performers = append(make([]api.ArtistRef, 0, 1+len(more)), known[first])
	for _, a := range more {
		a.Name = known[string(a.ID)].Name
		switch {
		case !performs(a.Role):
			credits = append(credits, a)
		case a.Role == api.RoleMain:
			a.Role = ""
			performers = append(performers, a)
		default:
			performers = append(performers, a)
		}
	}
	return performers, credits
}

const trackColumns = `SELECT t.id, t.album_id, t.artist_id, t.title, t.version, t.duration_ms, t.disc_number, t.track_number, t.date, t.genres, t.isrc, t.renditions, t.loudness,
	t.popularity, t.available_in, t.removed_at, t.created_at FROM tracks t `

// tracks reads the rows that tail selects, with their credits.
func tracks(ctx context.Context, q querier, tail string, args ...any) ([]Playable, error) {
	out := []Playable{}
	var first []string
	err := query(ctx, q, trackColumns+tail, args, func(rows *sql.Rows) error {
		var p Playable
		var performer string
		var genres, renditions, loudness sql.RawBytes
		var availableIn string
		var removed, created int64
		if err := rows.Scan(&p.ID, &p.Album.ID, &performer, &p.Title, &p.Version, &p.DurationMS, &p.DiscNumber, &p.TrackNumber, &p.Date, &genres, &p.ISRC, &renditions, &loudness,
			&p.Popularity, &availableIn, &removed, &created); err != nil {
			return err
		}
		p.Genres, p.Media = []string{}, []media.Rendition{}
		for _, f := range []struct {
			text []byte
			to   any
		}{{genres, &p.Genres}, {renditions, &p.Media}, {loudness, &p.Loudness}} {
			if len(f.text) == 2 { // [] or {}: what a million tracks without media have
				continue
			}
			if err := json.Unmarshal(f.text, f.to); err != nil {
				return fmt.Errorf("track %s in SQL: %w: %w", p.ID, media.ErrCorrupt, err)
			}
		}
		p.AvailableIn = countries(availableIn)
		p.CreatedAt = store.Time(created)
		p.Renditions = make([]string, len(p.Media))
		for i, r := range p.Media {
			p.Renditions[i] = r.Name
		}
		switch {
		case removed != 0:
			p.Unavailable = api.Removed
		case p.Version == "":
			p.Unavailable = api.NoMedia
		}
		first = append(first, performer)
		out = append(out, p)
		return nil
	})
	if err != nil || len(out) == 0 {
		return out, err
	}
	ids, albums := make([]string, len(out)), make([]string, len(out))
	for i, p := range out {
		ids[i], albums[i] = string(p.ID), string(p.Album.ID)
	}
	more, err := furtherArtists(ctx, q, "track", ids)
	if err != nil {
		return nil, err
	}
	n, err := albumHeads(ctx, q, albums, first, more)
	if err != nil {
		return nil, err
	}
	for i := range out {
		p := &out[i]
		p.Artists, p.Credits = artistsOf(first[i], more[string(p.ID)], n.artists)
		head := n.albums[string(p.Album.ID)]
		p.Album = head.AlbumRef
		if p.AvailableIn == nil {
			p.AvailableIn = head.availableIn
		}
	}
	return out, nil
}

// albumHeads reads the albums that tracks name, and the names of all artists in sight.
func albumHeads(ctx context.Context, q querier, albums, artists []string, more further) (names, error) {
	albums = slices.Clone(albums)
	slices.Sort(albums)
	albums = slices.Compact(albums)
	n := names{albums: map[string]albumHead{}}
	first := map[string]string{}
	artists = slices.Clone(artists)
	err := each(ctx, q, `SELECT id, title, artist_id, art_version, available_in FROM albums WHERE id IN %s`, albums, func(rows *sql.Rows) error {
		var h albumHead
		var by, art, in string
		if err := rows.Scan(&h.ID, &h.Title, &by, &art, &in); err != nil {
			return err
		}
		h.Art, h.availableIn = artOf(h.ID, art), countries(in)
		n.albums[string(h.ID)], first[string(h.ID)] = h, by
		artists = append(artists, by)
		return nil
	})
	if err != nil {
		return n, err
	}
	albumMore, err := furtherArtists(ctx, q, "album", albums)
	if err != nil {
		return n, err
	}
	if n.artists, err = readNames(ctx, q, artists, more, albumMore); err != nil {
		return n, err
	}
	for id, h := range n.albums {
		h.Artists, _ = artistsOf(first[id], albumMore[id], n.artists)
		n.albums[id] = h
	}
	return n, nil
}

func countries(column string) []string {
	if column == "" {
		return nil
	}
	return strings.Fields(column)
}

func artOf(album media.AlbumID, version string) *api.Art {
	if version == "" {
		return nil
	}
	return &api.Art{URL: "/r/" + media.ArtPrefix(album, media.Version(version)) + "{size}.jpg", Sizes: media.ArtSizes}
}

const albumColumns = `SELECT a.id, a.title, a.type, a.artist_id, a.date, a.genres, a.upc, a.art_version, a.track_count, a.duration_ms, a.popularity, a.available_in, a.removed_at FROM albums a `

// albums reads the rows that tail selects, without their tracks.
func albums(ctx context.Context, q querier, tail string, args ...any) ([]api.Album, error) {
	out := []api.Album{}
	var ids, first []string
	err := query(ctx, q, albumColumns+tail, args, func(rows *sql.Rows) error {
		var a api.Album
		var by, art, in string
		var genres sql.RawBytes
		var removed int64
		if err := rows.Scan(&a.ID, &a.Title, &a.Type, &by, &a.Date, &genres, &a.UPC, &art, &a.TrackCount, &a.DurationMS, &a.Popularity, &in, &removed); err != nil {
			return err
		}
		a.Genres = []string{}
		if !bytes.Equal(genres, []byte("[]")) {
			if err := json.Unmarshal(genres, &a.Genres); err != nil {
				return fmt.Errorf("album %s in SQL: %w: %w", a.ID, media.ErrCorrupt, err)
			}
		}
		a.Art, a.AvailableIn = artOf(a.ID, art), countries(in)
		if removed != 0 {
			a.Unavailable = api.Removed
		}
		out, ids, first = append(out, a), append(ids, string(a.ID)), append(first, by)
		return nil
	})
	if err != nil || len(out) == 0 {
		return out, err
	}
	more, err := furtherArtists(ctx, q, "album", ids)
	if err != nil {
		return nil, err
	}
	known, err := readNames(ctx, q, slices.Clone(first), more)
	for i := range out {
		out[i].Artists, _ = artistsOf(first[i], more[ids[i]], known)
	}
	return out, err
}

// artists reads the rows that tail selects, without their albums.
func artists(ctx context.Context, q querier, tail string, args ...any) ([]api.Artist, error) {
	out := []api.Artist{}
	err := query(ctx, q, `SELECT r.id, r.name, r.album_count, r.track_count, r.popularity, r.removed_at, r.merged_into FROM artists r `+tail, args, func(rows *sql.Rows) error {
		var a api.Artist
		var removed int64
		if err := rows.Scan(&a.ID, &a.Name, &a.AlbumCount, &a.TrackCount, &a.Popularity, &removed, &a.MergedInto); err != nil {
			return err
		}
		if removed != 0 {
			a.Unavailable = api.Removed
		}
		out = append(out, a)
		return nil
	})
	return out, err
}

func plain(list []Playable) []api.Track {
	out := make([]api.Track, len(list))
	for i, p := range list {
		out[i] = p.Track
		out[i].Credits = nil
	}
	return out
}

// byID reads rows by id with one of the readers above.
func byID[T any](ctx context.Context, q querier, column string, ids []string, read func(context.Context, querier, string, ...any) ([]T, error)) ([]T, error) {
	var out []T
	for some := range slices.Chunk(ids, inMost) {
		in, args := anyOf(1, some)
		list, err := read(ctx, q, `WHERE `+column+` IN `+in, args...)
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	return out, nil
}

// TracksByID returns those of the tracks that there are, in no order. Ones that were removed are among them, with
// Unavailable set: a list that held one can say what it was, and an index must drop it.
func (s *Service) TracksByID(ctx context.Context, ids ...string) ([]api.Track, error) {
	list, err := byID(ctx, s.db, "t.id", ids, tracks)
	return plain(list), err
}

// AlbumsByID returns those of the albums that there are, without their tracks, in no order; removed ones too.
func (s *Service) AlbumsByID(ctx context.Context, ids ...string) ([]api.Album, error) {
	return byID(ctx, s.db, "a.id", ids, albums)
}

// ArtistsByID returns those of the artists that there are, without their albums, in no order; removed and merged ones too.
func (s *Service) ArtistsByID(ctx context.Context, ids ...string) ([]api.Artist, error) {
	return byID(ctx, s.db, "r.id", ids, artists)
}

// bulk is how many rows the readers of everything take at once.
const bulk = 1000

// everything pages through a table by id, without what was removed.
func everything[T any](ctx context.Context, q querier, alias string, read func(context.Context, querier, string, ...any) ([]T, error), id func(T) string, f func(T) error) error {
	for after := ""; ; {
		list, err := read(ctx, q, `WHERE `+alias+`.id > $1 AND `+alias+`.removed_at = 0 ORDER BY `+alias+`.id LIMIT $2`, after, bulk)
		if err != nil {
			return err
		}
		for _, v := range list {
			if err := f(v); err != nil {
				return err
			}
		}
		if len(list) < bulk {
			return nil
		}
		after = id(list[bulk-1])
	}
}

// Each calls f for every track that was not removed, by id, for rebuilding what is derived. What changes meanwhile may
// be seen or not; its event comes after.
func (s *Service) Each(ctx context.Context, f func(api.Track) error) error {
	return everything(ctx, s.db, "t", tracks, func(p Playable) string { return string(p.ID) }, func(p Playable) error {
		p.Credits = nil
		return f(p.Track)
	})
}

// EachAlbum is Each for albums, without their tracks.
func (s *Service) EachAlbum(ctx context.Context, f func(api.Album) error) error {
	return everything(ctx, s.db, "a", albums, func(a api.Album) string { return string(a.ID) }, f)
}

// EachArtist is Each for artists, without their albums.
func (s *Service) EachArtist(ctx context.Context, f func(api.Artist) error) error {
	return everything(ctx, s.db, "r", artists, func(a api.Artist) string { return string(a.ID) }, f)
}
