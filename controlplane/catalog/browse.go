package catalog

import (
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"segue/controlplane/api"
	"segue/media"
)

// Lists are read from an index in its order, a page at a time from a key on: their cost is that of the page, wherever
// it is. A cursor is the key of the last row seen, so rows that come and go meanwhile neither repeat nor hide others.

// Track returns one track, or media.ErrNotFound. It may have no media yet; it may be shared: change nothing in it.
func (s *Service) Track(ctx context.Context, id media.TrackID) (Playable, error) {
	return s.tracks.get(ctx, string(id))
}

// ErrNoMedia: a track is known by name only.
var ErrNoMedia = errors.New("it cannot be played yet")

// Playable is Track for who wants to play it: one without media is ErrNoMedia.
func (s *Service) Playable(ctx context.Context, id media.TrackID) (Playable, error) {
	p, err := s.Track(ctx, id)
	if err == nil && p.Version == "" {
		return p, fmt.Errorf("track %s has no audio yet: %w", id, ErrNoMedia)
	}
	return p, err
}

func (s *Service) readTrack(ctx context.Context, id string) (Playable, error) {
	list, err := tracks(ctx, s.db, `WHERE t.id = $1 AND t.removed_at = 0`, id)
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("track %s: %w", id, media.ErrNotFound)
	}
	if err != nil {
		return Playable{}, err
	}
	return list[0], nil
}

// maxAlbumTracks bounds the answer of one album.
const maxAlbumTracks = 5000

// Album returns one album with its tracks in order, or media.ErrNotFound. It may be shared: change nothing in it.
func (s *Service) Album(ctx context.Context, id media.AlbumID) (api.Album, error) {
	return s.albums.get(ctx, string(id))
}

func (s *Service) readAlbum(ctx context.Context, id string) (api.Album, error) {
	list, err := albums(ctx, s.db, `WHERE a.id = $1 AND a.removed_at = 0`, id)
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("album %s: %w", id, media.ErrNotFound)
	}
	if err != nil {
		return api.Album{}, err
	}
	ts, err := tracks(ctx, s.db, `WHERE t.album_id = $1 AND t.removed_at = 0 ORDER BY CASE WHEN t.disc_number = 0 THEN 1 ELSE t.disc_number END, t.track_number, t.title, t.id LIMIT $2`,
		id, maxAlbumTracks)
	list[0].Tracks = plain(ts)
	return list[0], err
}

// Lists of an artist's page; the whole ones are pages of their own.
const (
	topTracks    = 10
	firstAlbums  = 50
	firstAppears = 50
)

// Artist returns one artist with the most popular tracks, the albums, and the albums of others with a part of theirs;
// or media.ErrNotFound. One that was merged is answered with who it is now. It may be shared: change nothing in it.
func (s *Service) Artist(ctx context.Context, id media.ArtistID) (api.Artist, error) {
	a, err := s.artists.get(ctx, string(id))
	if err == nil && a.MergedInto != "" {
		return s.artists.get(ctx, string(a.MergedInto))
	}
	return a, err
}

func (s *Service) readArtist(ctx context.Context, id string) (api.Artist, error) {
	list, err := artists(ctx, s.db, `WHERE r.id = $1`, id)
	if err == nil && (len(list) == 0 || list[0].Unavailable != "" && list[0].MergedInto == "") {
		err = fmt.Errorf("artist %s: %w", id, media.ErrNotFound)
	}
	if err != nil {
		return api.Artist{}, err
	}
	a := list[0]
	if a.MergedInto != "" {
		return a, nil
	}
	top, err := s.artistTracks(ctx, id, "", topTracks)
	if err != nil {
		return a, err
	}
	a.TopTracks = top.Items
	page, err := s.artistAlbums(ctx, id, "", firstAlbums)
	if err != nil {
		return a, err
	}
	a.Albums = page.Items
	// Restricted to the artist's parts first: nobody has as many as there are albums.
	a.AppearsOn, err = albums(ctx, s.db, `WHERE a.removed_at = 0 AND a.artist_id <> $1 AND a.id IN (
			SELECT t.album_id FROM tracks t WHERE t.artist_id = $1 AND t.removed_at = 0
			UNION SELECT t.album_id FROM track_credits c JOIN tracks t ON t.id = c.track_id WHERE c.artist_id = $1 AND t.removed_at = 0)
		AND NOT EXISTS (SELECT 1 FROM album_credits c WHERE c.album_id = a.id AND c.artist_id = $1) ORDER BY a.date DESC, a.id DESC LIMIT $2`, id, firstAppears)
	return a, err
}

// Orders of Albums.
const (
	ByTitle       = "title"
	ByReleaseDate = "-release_date"
)

// Tracks pages through all tracks by title. Cursor "" is the beginning; a foreign one is media.ErrInvalid.
func (s *Service) Tracks(ctx context.Context, cursor string, limit int) (api.Page[api.Track], error) {
	after, err := parseCursor(cursor, "t")
	if err != nil {
		return api.Page[api.Track]{}, err
	}
	return s.trackPage(ctx, "t", limit, `WHERE t.removed_at = 0 AND (t.sort_key, t.id) > ($1, $2) ORDER BY t.sort_key, t.id LIMIT $3`, func(t api.Track) string { return sortKey(t.Title) },
		after.key, after.id, limit+1)
}

// trackPage reads one row more than asked for, to know whether there is another page.
func (s *Service) trackPage(ctx context.Context, list string, limit int, tail string, key func(api.Track) string, args ...any) (api.Page[api.Track], error) {
	rows, err := tracks(ctx, s.db, tail, args...)
	return page(list, plain(rows), limit, err, key, func(t api.Track) string { return string(t.ID) })
}

func page[T any](list string, items []T, limit int, err error, key, id func(T) string) (api.Page[T], error) {
	p := api.Page[T]{Items: items}
	if len(items) > limit {
		p.Items = items[:limit]
		p.Next = makeCursor(list, key(items[limit-1]), id(items[limit-1]))
	}
	return p, err
}

func albumID(a api.Album) string   { return string(a.ID) }
func albumDate(a api.Album) string { return a.Date }

// Albums pages through all albums by title, or the newest first up to today.
func (s *Service) Albums(ctx context.Context, order, cursor string, limit int) (api.Page[api.Album], error) {
	if order == ByReleaseDate {
		after, err := parseCursor(cursor, "r")
		if err != nil {
			return api.Page[api.Album]{}, err
		}
		if cursor == "" {
			after = position{key: time.Now().UTC().AddDate(0, 0, 1).Format(time.DateOnly)} // somewhere it is tomorrow already
		}
		list, err := albums(ctx, s.db, `WHERE a.removed_at = 0 AND (a.date, a.id) < ($1, $2) ORDER BY a.date DESC, a.id DESC LIMIT $3`, after.key, after.id, limit+1)
		return page("r", list, limit, err, albumDate, albumID)
	}
	after, err := parseCursor(cursor, "a")
	if err != nil {
		return api.Page[api.Album]{}, err
	}
	list, err := albums(ctx, s.db, `WHERE a.removed_at = 0 AND (a.sort_key, a.id) > ($1, $2) ORDER BY a.sort_key, a.id LIMIT $3`, after.key, after.id, limit+1)
	return page("a", list, limit, err, func(a api.Album) string { return sortKey(a.Title) }, albumID)
}

// Artists pages through all artists by name.
func (s *Service) Artists(ctx context.Context, cursor string, limit int) (api.Page[api.Artist], error) {
	after, err := parseCursor(cursor, "n")
	if err != nil {
		return api.Page[api.Artist]{}, err
	}
	// The key may be a sort name of its own, which is not in the answer: asked for beside.
	var keys []string
	list := []api.Artist{}
	err = query(ctx, s.db, `SELECT r.id, r.name, r.album_count, r.track_count, r.popularity, r.sort_key FROM artists r
		WHERE r.removed_at = 0 AND (r.sort_key, r.id) > ($1, $2) ORDER BY r.sort_key, r.id LIMIT $3`, []any{after.key, after.id, limit + 1}, func(rows *sql.Rows) error {
		var a api.Artist
		var key string
		if err := rows.Scan(&a.ID, &a.Name, &a.AlbumCount, &a.TrackCount, &a.Popularity, &key); err != nil {
			return err
		}
		list, keys = append(list, a), append(keys, key)
		return nil
	})
	return page("n", list, limit, err, func(api.Artist) string { return keys[limit-1] }, func(a api.Artist) string { return string(a.ID) })
}

// ArtistTracks pages through what an artist performs, the most popular first.
func (s *Service) ArtistTracks(ctx context.Context, id media.ArtistID, cursor string, limit int) (api.Page[api.Track], error) {
	a, err := s.Artist(ctx, id)
	if err != nil {
		return api.Page[api.Track]{}, err
	}
	return s.artistTracks(ctx, string(a.ID), cursor, limit)
}

func (s *Service) artistTracks(ctx context.Context, id, cursor string, limit int) (api.Page[api.Track], error) {
	after, popularity, err := popularCursor(cursor, "p")
	if err != nil {
		return api.Page[api.Track]{}, err
	}
	// Each half comes from an index: of the first, no more than a page is read; the second is what the artist guests on.
	return s.trackPage(ctx, "p", limit, `WHERE t.id IN (
		SELECT id FROM (SELECT id FROM tracks WHERE artist_id = $1 AND removed_at = 0 AND (popularity, id) < ($2, $3) ORDER BY popularity DESC, id DESC LIMIT $4) AS own
		UNION SELECT g.id FROM track_credits c JOIN tracks g ON g.id = c.track_id WHERE c.artist_id = $1 AND c.role IN ('main', 'featured', 'remixer') AND g.removed_at = 0
			AND (g.popularity, g.id) < ($2, $3)
		) ORDER BY t.popularity DESC, t.id DESC LIMIT $4`, trackPopularity, id, popularity, after.id, limit+1)
}

func trackPopularity(t api.Track) string { return strconv.FormatFloat(t.Popularity, 'g', -1, 64) }

// ArtistAlbums pages through the albums of an artist, the newest first.
func (s *Service) ArtistAlbums(ctx context.Context, id media.ArtistID, cursor string, limit int) (api.Page[api.Album], error) {
	a, err := s.Artist(ctx, id)
	if err != nil {
		return api.Page[api.Album]{}, err
	}
	return s.artistAlbums(ctx, string(a.ID), cursor, limit)
}

func (s *Service) artistAlbums(ctx context.Context, id, cursor string, limit int) (api.Page[api.Album], error) {
	after, err := parseCursor(cursor, "d")
	if err != nil {
		return api.Page[api.Album]{}, err
	}
	if cursor == "" {
		after = position{key: afterAll}
	}
	list, err := albums(ctx, s.db, `WHERE a.id IN (
		SELECT id FROM (SELECT id FROM albums WHERE artist_id = $1 AND removed_at = 0 AND (date, id) < ($2, $3) ORDER BY date DESC, id DESC LIMIT $4) AS own
		UNION SELECT g.id FROM album_credits c JOIN albums g ON g.id = c.album_id WHERE c.artist_id = $1 AND g.removed_at = 0 AND (g.date, g.id) < ($2, $3)
		) ORDER BY a.date DESC, a.id DESC LIMIT $4`, id, after.key, after.id, limit+1)
	return page("d", list, limit, err, albumDate, albumID)
}

// Genres lists all genres that have tracks or albums, by name. There are hundreds, not millions: one page.
func (s *Service) Genres(ctx context.Context) (api.Page[api.Genre], error) {
	p := api.Page[api.Genre]{Items: []api.Genre{}}
	err := query(ctx, s.db, `SELECT id, name, track_count, album_count FROM genres WHERE track_count > 0 OR album_count > 0 ORDER BY id LIMIT 5000`, nil, func(rows *sql.Rows) error {
		var g api.Genre
		if err := rows.Scan(&g.ID, &g.Name, &g.TrackCount, &g.AlbumCount); err != nil {
			return err
		}
		p.Items = append(p.Items, g)
		return nil
	})
	return p, err
}

// Genre returns one genre, or media.ErrNotFound.
func (s *Service) Genre(ctx context.Context, id string) (api.Genre, error) {
	g := api.Genre{ID: id}
	err := s.db.QueryRowContext(ctx, `SELECT name, track_count, album_count FROM genres WHERE id = $1`, id).Scan(&g.Name, &g.TrackCount, &g.AlbumCount)
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("genre %s: %w", id, media.ErrNotFound)
	}
	return g, err
}

// GenreTracks pages through the tracks of a genre, the most popular first.
func (s *Service) GenreTracks(ctx context.Context, id, cursor string, limit int) (api.Page[api.Track], error) {
	after, popularity, err := popularCursor(cursor, "g")
	if err == nil {
		_, err = s.Genre(ctx, id)
	}
	if err != nil {
		return api.Page[api.Track]{}, err
	}
	return s.trackPage(ctx, "g", limit, `JOIN (SELECT track_id, popularity FROM track_genres WHERE genre_id = $1 AND (popularity, track_id) < ($2, $3) ORDER BY popularity DESC, track_id DESC LIMIT $4) AS g
		ON g.track_id = t.id ORDER BY g.popularity DESC, g.track_id DESC`, trackPopularity, id, popularity, after.id, limit+1)
}

// GenreAlbums pages through the albums of a genre, the newest first.
func (s *Service) GenreAlbums(ctx context.Context, id, cursor string, limit int) (api.Page[api.Album], error) {
	after, err := parseCursor(cursor, "h")
	if err == nil {
		_, err = s.Genre(ctx, id)
	}
	if err != nil {
		return api.Page[api.Album]{}, err
	}
	if cursor == "" {
		after = position{key: afterAll}
	}
	list, err := albums(ctx, s.db, `JOIN (SELECT album_id, date FROM album_genres WHERE genre_id = $1 AND (date, album_id) < ($2, $3) ORDER BY date DESC, album_id DESC LIMIT $4) AS g
		ON g.album_id = a.id ORDER BY g.date DESC, g.album_id DESC`, id, after.key, after.id, limit+1)
	return page("h", list, limit, err, albumDate, albumID)
}

// TracksByISRC finds recordings by their code, at most 200: one is on many albums.
func (s *Service) TracksByISRC(ctx context.Context, isrc string) (api.Page[api.Track], error) {
	code, err := cleanISRC(isrc)
	if err != nil {
		return api.Page[api.Track]{}, err
	}
	list, err := tracks(ctx, s.db, `WHERE t.isrc = $1 AND t.isrc <> '' AND t.removed_at = 0 ORDER BY t.id LIMIT 200`, code)
	return api.Page[api.Track]{Items: plain(list)}, err
}

// AlbumsByUPC finds releases by their code, at most 200.
func (s *Service) AlbumsByUPC(ctx context.Context, upc string) (api.Page[api.Album], error) {
	code, err := cleanUPC(upc)
	if err != nil {
		return api.Page[api.Album]{}, err
	}
	list, err := albums(ctx, s.db, `WHERE a.upc = $1 AND a.upc <> '' AND a.removed_at = 0 ORDER BY a.id LIMIT 200`, code)
	return api.Page[api.Album]{Items: list}, err
}

// afterAll is later than every date.
const afterAll = "9999-99-99"

// position is where a page begins: after the row with this key and id.
type position struct{ key, id string }

// A cursor is a position in one list, sealed against reading meaning into it.
func makeCursor(list, key, id string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(list + "\x00" + key + "\x00" + id))
}

func parseCursor(s, list string) (position, error) {
	if s == "" {
		return position{}, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	parts := strings.Split(strings.ToValidUTF8(string(b), "\x00"), "\x00")
	if err != nil || len(parts) != 3 || parts[0] != list {
		return position{}, fmt.Errorf("cursor is not one of this list: %w", media.ErrInvalid)
	}
	return position{parts[1], parts[2]}, nil
}

// popularCursor is a cursor of a list by popularity, highest first.
func popularCursor(s, list string) (position, float64, error) {
	p, err := parseCursor(s, list)
	if err != nil || s == "" {
		return p, math.MaxFloat64, err
	}
	f, err := strconv.ParseFloat(p.key, 64)
	if err != nil || math.IsNaN(f) {
		return p, 0, fmt.Errorf("cursor is not one of this list: %w", media.ErrInvalid)
	}
	return p, f, nil
}
