package catalog

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"
)

// Playable is a track with what playback needs of its renditions; their Segments are nil.
type Playable struct {
	api.Track
	Media       []media.Rendition
	AvailableIn []string // ISO 3166-1 alpha-2; none: everywhere
}

// querier is *sql.DB or *sql.Tx.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

func tracks(ctx context.Context, q querier, tail string, args ...any) ([]Playable, error) {
	rows, err := q.QueryContext(ctx, `SELECT t.id, t.title, t.version, t.duration_ms, t.disc_number, t.track_number, t.date, t.genres, t.renditions, t.loudness, t.created_at,
		r.id, r.name, a.id, a.title, a.art_version, ar.id, ar.name
		FROM tracks t JOIN artists r ON r.id = t.artist_id JOIN albums a ON a.id = t.album_id JOIN artists ar ON ar.id = a.artist_id`+tail, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []Playable{}
	for rows.Next() {
		var p Playable
		var performer, albumArtist api.ArtistRef
		var genres, renditions, loudness, art string
		var created int64
		if err := rows.Scan(&p.ID, &p.Title, &p.Version, &p.DurationMS, &p.DiscNumber, &p.TrackNumber, &p.Date, &genres, &renditions, &loudness, &created,
			&performer.ID, &performer.Name, &p.Album.ID, &p.Album.Title, &art, &albumArtist.ID, &albumArtist.Name); err != nil {
			return nil, err
		}
		for _, f := range []struct {
			text string
			to   any
		}{{genres, &p.Genres}, {renditions, &p.Media}, {loudness, &p.Loudness}} {
			if err := json.Unmarshal([]byte(f.text), f.to); err != nil {
				return nil, fmt.Errorf("track %s in SQL: %w: %w", p.ID, media.ErrCorrupt, err)
			}
		}
		p.Artists = []api.ArtistRef{performer}
		p.Album.Artists, p.Album.Art = []api.ArtistRef{albumArtist}, artOf(p.Album.ID, art)
		p.CreatedAt = store.Time(created)
		p.Renditions = []string{}
		for _, r := range p.Media {
			p.Renditions = append(p.Renditions, r.Name)
		}
		out = append(out, p)
	}
	return out, rows.Err()
}

func artOf(album media.AlbumID, version string) *api.Art {
	if version == "" {
		return nil
	}
	return &api.Art{URL: "/r/" + media.ArtPrefix(album, media.Version(version)) + "{size}.jpg", Sizes: media.ArtSizes}
}

// Track returns one track, or media.ErrNotFound.
func (s *Service) Track(ctx context.Context, id media.TrackID) (Playable, error) {
	list, err := tracks(ctx, s.db, ` WHERE t.id = $1`, string(id))
	if err != nil {
		return Playable{}, err
	}
	if len(list) == 0 {
		return Playable{}, fmt.Errorf("track %s: %w", id, media.ErrNotFound)
	}
	return list[0], nil
}

// TracksByID returns those of the tracks that there are, in no order.
func (s *Service) TracksByID(ctx context.Context, ids ...string) ([]api.Track, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	marks, args := make([]string, len(ids)), make([]any, len(ids))
	for i, id := range ids {
		marks[i], args[i] = "$"+strconv.Itoa(i+1), id
	}
	list, err := tracks(ctx, s.db, ` WHERE t.id IN (`+strings.Join(marks, ", ")+`)`, args...)
	return plain(list), err
}

// Tracks pages through all tracks by title. Cursor "" is the beginning; a foreign one is media.ErrInvalid.
func (s *Service) Tracks(ctx context.Context, cursor string, limit int) (api.Page[api.Track], error) {
	after, err := parseCursor(cursor)
	if err != nil {
		return api.Page[api.Track]{}, err
	}
	list, err := tracks(ctx, s.db, ` WHERE t.title > $1 OR (t.title = $1 AND t.id > $2) ORDER BY t.title, t.id LIMIT $3`, after[0], after[1], limit+1)
	page := api.Page[api.Track]{Items: plain(list)}
	if len(page.Items) > limit {
		page.Items = page.Items[:limit]
		last := page.Items[limit-1]
		page.Next = makeCursor(last.Title, string(last.ID))
	}
	return page, err
}

// Each calls f for every track, for rebuilding what is derived.
func (s *Service) Each(ctx context.Context, f func(api.Track) error) error {
	for cursor := ""; ; {
		page, err := s.Tracks(ctx, cursor, 500)
		if err != nil {
			return err
		}
		for _, t := range page.Items {
			if err := f(t); err != nil {
				return err
			}
		}
		if cursor = page.Next; cursor == "" {
			return nil
		}
	}
}

func plain(list []Playable) []api.Track {
	out := make([]api.Track, len(list))
	for i, p := range list {
		out[i] = p.Track
	}
	return out
}

func (s *Service) albums(ctx context.Context, tail string, args ...any) ([]api.Album, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT a.id, a.title, a.date, a.art_version, r.id, r.name, count(t.id), coalesce(sum(t.duration_ms), 0)
		FROM albums a JOIN artists r ON r.id = a.artist_id LEFT JOIN tracks t ON t.album_id = a.id `+tail, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []api.Album{}
	for rows.Next() {
		var a api.Album
		var by api.ArtistRef
		var art string
		if err := rows.Scan(&a.ID, &a.Title, &a.Date, &art, &by.ID, &by.Name, &a.TrackCount, &a.DurationMS); err != nil {
			return nil, err
		}
		a.Artists, a.Art = []api.ArtistRef{by}, artOf(a.ID, art)
		out = append(out, a)
	}
	return out, rows.Err()
}

const albumGroup = ` GROUP BY a.id, a.title, a.date, a.art_version, r.id, r.name `

// Albums pages through all albums by title.
func (s *Service) Albums(ctx context.Context, cursor string, limit int) (api.Page[api.Album], error) {
	after, err := parseCursor(cursor)
	if err != nil {
		return api.Page[api.Album]{}, err
	}
	list, err := s.albums(ctx, `WHERE a.title > $1 OR (a.title = $1 AND a.id > $2)`+albumGroup+`ORDER BY a.title, a.id LIMIT $3`, after[0], after[1], limit+1)
	page := api.Page[api.Album]{Items: list}
	if len(list) > limit {
		page.Items = list[:limit]
		page.Next = makeCursor(list[limit-1].Title, string(list[limit-1].ID))
	}
	return page, err
}

// Album returns one album with its tracks in order, or media.ErrNotFound.
func (s *Service) Album(ctx context.Context, id media.AlbumID) (api.Album, error) {
	list, err := s.albums(ctx, `WHERE a.id = $1`+albumGroup, string(id))
	if err != nil {
		return api.Album{}, err
	}
	if len(list) == 0 {
		return api.Album{}, fmt.Errorf("album %s: %w", id, media.ErrNotFound)
	}
	ts, err := tracks(ctx, s.db, ` WHERE t.album_id = $1 ORDER BY CASE WHEN t.disc_number = 0 THEN 1 ELSE t.disc_number END, t.track_number, t.title, t.id`, string(id))
	list[0].Tracks = plain(ts)
	return list[0], err
}

// Artists pages through all artists by name.
func (s *Service) Artists(ctx context.Context, cursor string, limit int) (api.Page[api.Artist], error) {
	after, err := parseCursor(cursor)
	if err != nil {
		return api.Page[api.Artist]{}, err
	}
	list, err := s.artists(ctx, `WHERE r.name > $1 OR (r.name = $1 AND r.id > $2) ORDER BY r.name, r.id LIMIT $3`, after[0], after[1], limit+1)
	page := api.Page[api.Artist]{Items: list}
	if len(list) > limit {
		page.Items = list[:limit]
		page.Next = makeCursor(list[limit-1].Name, string(list[limit-1].ID))
	}
	return page, err
}

func (s *Service) artists(ctx context.Context, tail string, args ...any) ([]api.Artist, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT r.id, r.name, (SELECT count(*) FROM albums a WHERE a.artist_id = r.id), (SELECT count(*) FROM tracks t WHERE t.artist_id = r.id)
		FROM artists r `+tail, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []api.Artist{}
	for rows.Next() {
		var a api.Artist
		if err := rows.Scan(&a.ID, &a.Name, &a.AlbumCount, &a.TrackCount); err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, rows.Err()
}

// Artist returns one artist with the albums by or with them, or media.ErrNotFound.
func (s *Service) Artist(ctx context.Context, id media.ArtistID) (api.Artist, error) {
	list, err := s.artists(ctx, `WHERE r.id = $1`, string(id))
	if err != nil {
		return api.Artist{}, err
	}
	if len(list) == 0 {
		return api.Artist{}, fmt.Errorf("artist %s: %w", id, media.ErrNotFound)
	}
	list[0].Albums, err = s.albums(ctx, `WHERE a.artist_id = $1 OR a.id IN (SELECT album_id FROM tracks WHERE artist_id = $1)`+albumGroup+`ORDER BY a.date, a.title, a.id`, string(id))
	return list[0], err
}

// A cursor is the sort key of the last row seen, sealed against reading meaning into it.
func makeCursor(name, id string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(name + "\x00" + id))
}

func parseCursor(s string) ([2]string, error) {
	if s == "" {
		return [2]string{}, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	name, id, ok := strings.Cut(string(b), "\x00")
	if err != nil || !ok {
		return [2]string{}, fmt.Errorf("cursor is not one of ours: %w", media.ErrInvalid)
	}
	return [2]string{name, id}, nil
}
