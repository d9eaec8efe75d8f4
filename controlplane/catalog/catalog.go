// Package catalog holds what can be played: artists, albums and tracks in SQL, made from what packagers publish.
//
//	Claim (who is this file?) -> objects go to the origin -> Publish (checks them, writes rows and an event)
//
// An identity outlives its bytes: a better rip of a track is a new version of the same ID. Readers outside SQL (search,
// caches) follow the events, written in the transaction of the change.
package catalog

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"

	"github.com/oklog/ulid/v2"
)

// Objects is what the catalogue asks the origin: does it hold an object?
type Objects interface {
	Stat(ctx context.Context, key media.Key) (media.Object, error)
}

// Service is safe for concurrent use.
type Service struct {
	db      *store.DB
	objects Objects
	tracks  cache[Playable]
	albums  cache[api.Album]
	artists cache[api.Artist]
}

// New returns the service on a database and an origin. Its caches take at most 80 MiB.
func New(db *store.DB, objects Objects) *Service {
	s := &Service{db: db, objects: objects}
	s.tracks = newCache(32<<20, weighPlayable, s.readTrack)
	s.albums = newCache(32<<20, weighAlbum, s.readAlbum)
	s.artists = newCache(16<<20, weighArtist, s.readArtist)
	return s
}

// Claim finds or makes the identity of a source: by its bytes, else by names, numbers and length.
func (s *Service) Claim(ctx context.Context, r api.ClaimRequest) (api.Claim, error) {
	var c api.Claim
	if len(r.SourceSHA256) != 64 || !media.ValidVersion(string(r.Version)) || r.Tags.Title == "" || r.Tags.Artist == "" || r.Tags.AlbumArtist == "" || r.Tags.Album == "" {
		return c, fmt.Errorf("claim: want source_sha256, version, and tags with title, artist, album_artist and album: %w", media.ErrInvalid)
	}
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		c = api.Claim{}
		// An album that an import made waits for its files.
		album := ulid.Make().String()
		err := tx.QueryRowContext(ctx, `SELECT a.id FROM artists r JOIN albums a ON a.artist_id = r.id WHERE r.name_key = $1 AND a.sort_key = $2 ORDER BY a.id LIMIT 1`,
			nameKey(splitArtists(r.Tags.AlbumArtist)[0].name), sortKey(r.Tags.Album)).Scan(&album)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		// The album's row first, with a write: it holds back other claims of the album until this one is done.
		if _, err := tx.ExecContext(ctx, `INSERT INTO album_claims (album_key, album_id) VALUES ($1, $2) ON CONFLICT (album_key) DO UPDATE SET album_key = excluded.album_key`,
			albumKey(r.Tags), album); err != nil {
			return err
		}
		if err := tx.QueryRowContext(ctx, `SELECT album_id FROM album_claims WHERE album_key = $1`, albumKey(r.Tags)).Scan(&c.AlbumID); err != nil {
			return err
		}
		err = tx.QueryRowContext(ctx, `SELECT track_id FROM source_claims WHERE sha256 = $1`, r.SourceSHA256).Scan(&c.TrackID)
		if errors.Is(err, sql.ErrNoRows) {
			err = claimByName(ctx, tx, r, c.AlbumID, &c.TrackID)
		}
		if err != nil {
			return err
		}
		var n int
		err = tx.QueryRowContext(ctx, `SELECT count(*) FROM publications WHERE track_id = $1 AND version = $2`, string(c.TrackID), string(r.Version)).Scan(&n)
		c.Published = n > 0
		return err
	})
	return c, err
}

// claimByName finds the track of the same names, numbers and length, or makes one, and notes the source's bytes.
func claimByName(ctx context.Context, tx *sql.Tx, r api.ClaimRequest, album media.AlbumID, id *media.TrackID) error {
	find := func(text string, args ...any) error {
		return query(ctx, tx, text, args, func(rows *sql.Rows) error {
			var known string
			var ms int64
			if err := rows.Scan(&known, &ms); err != nil {
				return err
			}
			if *id == "" && (ms == 0 || media.SameLength(time.Duration(ms)*time.Millisecond, time.Duration(r.DurationMS)*time.Millisecond)) {
				*id = media.TrackID(known)
			}
			return nil
		})
	}
	if err := find(`SELECT track_id, duration_ms FROM track_claims WHERE track_key = $1 ORDER BY track_id`, trackKey(r.Tags)); err != nil {
		return err
	}
	if *id == "" {
		// A track that an import made, and that no file has claimed yet.
		if err := find(`SELECT t.id, t.duration_ms FROM tracks t WHERE t.album_id = $1 AND t.sort_key = $2 AND t.track_number = $3 AND t.version = ''
			AND CASE WHEN t.disc_number = 0 THEN 1 ELSE t.disc_number END = $4 AND NOT EXISTS (SELECT 1 FROM track_claims c WHERE c.track_id = t.id) ORDER BY t.id`,
			string(album), sortKey(r.Tags.Title), r.Tags.TrackNumber, max(1, r.Tags.DiscNumber)); err != nil {
			return err
		}
		if *id == "" {
			*id = media.TrackID(ulid.Make().String())
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO track_claims (track_id, track_key, duration_ms) VALUES ($1, $2, $3)`, string(*id), trackKey(r.Tags), r.DurationMS); err != nil {
			return err
		}
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO source_claims (sha256, track_id) VALUES ($1, $2) ON CONFLICT (sha256) DO NOTHING`, r.SourceSHA256, string(*id))
	return err
}

// Publish takes a packaged track into the catalogue. All objects that it names must be in the origin with the sizes
// that it says: else ErrMissing, and nothing changes. Repeating it changes nothing.
func (s *Service) Publish(ctx context.Context, t media.Track) (api.Track, error) {
	if err := check(t); err != nil {
		return api.Track{}, err
	}
	if err := s.complete(ctx, t); err != nil {
		return api.Track{}, err
	}
	var out api.Track
	err := s.change(ctx, func(w *write) error {
		if err := w.publish(t); err != nil {
			return err
		}
		if err := w.settle(); err != nil {
			return err
		}
		list, err := tracks(ctx, w.tx, `WHERE t.id = $1`, string(t.ID))
		if err == nil {
			out = list[0].Track
		}
		return err
	})
	return out, err
}

func (w *write) publish(t media.Track) error {
	var known int
	if err := w.tx.QueryRowContext(w.ctx, `SELECT count(*) FROM track_claims WHERE track_id = $1`, string(t.ID)).Scan(&known); err != nil {
		return err
	}
	if known == 0 {
		return fmt.Errorf("track %s was never claimed: %w", t.ID, media.ErrInvalid)
	}
	var album string
	if err := w.tx.QueryRowContext(w.ctx, `SELECT album_id FROM album_claims WHERE album_key = $1`, albumKey(t.Tags)).Scan(&album); err != nil {
		return fmt.Errorf("album of %s was never claimed: %w", t.ID, media.ErrInvalid)
	}
	albumArtists, performers := splitArtists(t.Tags.AlbumArtist), splitArtists(t.Tags.Artist)
	if t.Tags.Composer != "" {
		for _, name := range semicolons(t.Tags.Composer) {
			performers = append(performers, credit{name, api.RoleComposer, ""})
		}
	}
	var all []string
	for _, c := range slices.Concat(albumArtists, performers) {
		all = append(all, c.name)
	}
	ids, err := w.byName(all)
	if err != nil {
		return err
	}
	parts := func(list []credit) []part {
		var out []part
		for _, c := range list {
			if id := ids[nameKey(c.name)]; !slices.ContainsFunc(out, func(p part) bool { return p.id == id && p.role == c.role }) {
				out = append(out, part{id, c.role, c.join})
			}
		}
		return out
	}
	by, with := parts(albumArtists), parts(performers)
	if err := w.publishAlbum(album, t, by); err != nil {
		return err
	}
	for i := range t.Renditions {
		t.Renditions[i].Segments = nil // track.json in the origin has them
	}
	genres, err := cleanGenres(t.Tags.Genres)
	if err != nil {
		genres = []string{} // what a file says of itself does not keep it out
	}
	isrc, err := cleanISRC(t.Tags.ISRC)
	if err != nil {
		isrc = ""
	}
	// What was there is locked before it is read, also when that is nothing.
	var curated int
	var oldAlbum, oldArtist string
	if err := w.exec(`UPDATE tracks SET updated_at = $1 WHERE id = $2`, w.now, string(t.ID)); err != nil {
		return err
	}
	err = w.tx.QueryRowContext(w.ctx, `SELECT curated, album_id, artist_id FROM tracks WHERE id = $1`, string(t.ID)).Scan(&curated, &oldAlbum, &oldArtist)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	w.tracks.add(string(t.ID))
	w.albums.add(oldAlbum)
	w.artists.add(oldArtist)
	if curated != 0 {
		if err := w.exec(`UPDATE tracks SET version = $1, duration_ms = $2, renditions = $3, loudness = $4 WHERE id = $5`,
			string(t.Version), t.Source.Duration().Milliseconds(), text(t.Renditions), text(t.Loudness), string(t.ID)); err != nil {
			return err
		}
	} else {
		w.albums.add(album)
		if err := w.exec(`INSERT INTO tracks (id, album_id, artist_id, title, sort_key, version, duration_ms, disc_number, track_number, date, genres, isrc, renditions, loudness, created_at, updated_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $15)
			ON CONFLICT (id) DO UPDATE SET album_id = excluded.album_id, artist_id = excluded.artist_id, title = excluded.title, sort_key = excluded.sort_key, version = excluded.version,
			duration_ms = excluded.duration_ms, disc_number = excluded.disc_number, track_number = excluded.track_number, date = excluded.date, isrc = excluded.isrc,
			genres = excluded.genres, renditions = excluded.renditions, loudness = excluded.loudness, updated_at = excluded.updated_at`,
			string(t.ID), album, with[0].id, t.Tags.Title, sortKey(t.Tags.Title), string(t.Version), t.Source.Duration().Milliseconds(), t.Tags.DiscNumber, t.Tags.TrackNumber,
			t.Tags.Date, text(genres), isrc, text(t.Renditions), text(t.Loudness), w.now); err != nil {
			return err
		}
		if err := w.putCredits("track", map[string][]part{string(t.ID): with}); err != nil {
			return err
		}
	}
	return w.exec(`INSERT INTO publications (track_id, version) VALUES ($1, $2) ON CONFLICT (track_id, version) DO NOTHING`, string(t.ID), string(t.Version))
}

// publishAlbum makes the album of a file, or takes over what the file says of it.
func (w *write) publishAlbum(id string, t media.Track, by []part) error {
	art, kind := "", "album"
	if t.Art != nil {
		art = string(t.Art.Version)
	}
	if strings.EqualFold(t.Tags.AlbumArtist, variousArtists) {
		kind = "compilation"
	}
	w.albums.add(id)
	if err := w.exec(`UPDATE albums SET updated_at = $1 WHERE id = $2`, w.now, id); err != nil {
		return err
	}
	var curated int
	var oldArtist string
	err := w.tx.QueryRowContext(w.ctx, `SELECT curated, artist_id FROM albums WHERE id = $1`, id).Scan(&curated, &oldArtist)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	w.artists.add(oldArtist)
	if curated != 0 { // a picture is all that it may lack
		return w.exec(`UPDATE albums SET art_version = $1 WHERE id = $2 AND $1 <> ''`, art, id)
	}
	// A track without a picture does not take the album's away.
	if err := w.exec(`INSERT INTO albums (id, title, sort_key, type, artist_id, date, art_version, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)
		ON CONFLICT (id) DO UPDATE SET title = excluded.title, sort_key = excluded.sort_key, artist_id = excluded.artist_id,
		date = CASE WHEN excluded.date = '' THEN albums.date ELSE excluded.date END,
		art_version = CASE WHEN excluded.art_version = '' THEN albums.art_version ELSE excluded.art_version END`,
		id, t.Tags.Album, sortKey(t.Tags.Album), kind, by[0].id, t.Tags.Date, art, w.now); err != nil {
		return err
	}
	return w.putCredits("album", map[string][]part{id: by})
}

// variousArtists is what packagers call the artist of a compilation.
const variousArtists = "Various Artists"

// ErrMissing: an object that a track names is not in the origin.
var ErrMissing = errors.New("object is not in the origin")

// check is about the document alone.
func check(t media.Track) error {
	switch {
	case !media.ValidID(string(t.ID)) || !media.ValidVersion(string(t.Version)):
		return fmt.Errorf("track_id or version is malformed: %w", media.ErrInvalid)
	case t.Tags.Title == "" || t.Tags.Artist == "" || t.Tags.AlbumArtist == "" || t.Tags.Album == "":
		return fmt.Errorf("tags lack title, artist, album_artist or album: %w", media.ErrInvalid)
	case checkDate(t.Tags.Date) != nil:
		return checkDate(t.Tags.Date)
	case len(t.Renditions) == 0 || t.Source.Samples <= 0 || t.Source.SampleRateHz <= 0:
		return fmt.Errorf("track has no rendition or no length: %w", media.ErrInvalid)
	case t.Art != nil && (!media.ValidID(string(t.Art.AlbumID)) || !media.ValidVersion(string(t.Art.Version))):
		return fmt.Errorf("art is malformed: %w", media.ErrInvalid)
	}
	return nil
}

// complete asks the origin for every object that a player could be sent to.
func (s *Service) complete(ctx context.Context, t media.Track) error {
	want := map[media.Key]int64{}
	for _, r := range t.Renditions {
		if _, err := media.ParseKey(r.Name); err != nil || strings.ContainsAny(r.Name, "/ ") || r.File != r.Name+".mp4" {
			return fmt.Errorf("rendition %q of file %q: %w", r.Name, r.File, media.ErrInvalid)
		}
		want[media.TrackKey(t.ID, t.Version, r.File)] = r.Size
		want[media.TrackKey(t.ID, t.Version, r.Name+".m3u8")] = -1
	}
	for _, name := range []string{media.MasterPlaylist, media.Manifest, media.LimitedMasterPlaylist, media.LimitedManifest, media.TrackFile} {
		want[media.TrackKey(t.ID, t.Version, name)] = -1
	}
	if t.Art != nil {
		for _, size := range media.ArtSizes {
			want[media.ArtKey(t.Art.AlbumID, t.Art.Version, size)] = -1
		}
	}
	for key, size := range want {
		o, err := s.objects.Stat(ctx, key)
		if errors.Is(err, media.ErrNotFound) {
			return fmt.Errorf("%s: %w", key, ErrMissing)
		} else if err != nil {
			return fmt.Errorf("ask the origin: %w", err)
		}
		if size >= 0 && o.Size != size {
			return fmt.Errorf("%s has %d bytes in the origin, %d in the document: %w", key, o.Size, size, ErrMissing)
		}
	}
	return nil
}

func albumKey(t media.Tags) string { return bounded(strings.ToLower(t.AlbumArtist + "\x1f" + t.Album)) }

func trackKey(t media.Tags) string {
	return bounded(strings.ToLower(t.AlbumArtist+"\x1f"+t.Album) + "\x1f" + strconv.Itoa(t.DiscNumber) + "\x1f" + strconv.Itoa(t.TrackNumber) + "\x1f" + strings.ToLower(t.Title))
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic("bug: " + err.Error())
	}
	return string(b)
}
