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
}

// New returns the service on a database and an origin.
func New(db *store.DB, objects Objects) *Service { return &Service{db, objects} }

// Claim finds or makes the identity of a source: by its bytes, else by names, numbers and length.
func (s *Service) Claim(ctx context.Context, r api.ClaimRequest) (api.Claim, error) {
	var c api.Claim
	if len(r.SourceSHA256) != 64 || !media.ValidVersion(string(r.Version)) || r.Tags.Title == "" || r.Tags.Artist == "" || r.Tags.AlbumArtist == "" || r.Tags.Album == "" {
		return c, fmt.Errorf("claim: want source_sha256, version, and tags with title, artist, album_artist and album: %w", media.ErrInvalid)
	}
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		c = api.Claim{}
		// The album's row first, with a write: it holds back other claims of the album until this one is done.
		if _, err := tx.ExecContext(ctx, `INSERT INTO album_claims (album_key, album_id) VALUES ($1, $2) ON CONFLICT (album_key) DO UPDATE SET album_key = excluded.album_key`,
			albumKey(r.Tags), ulid.Make().String()); err != nil {
			return err
		}
		if err := tx.QueryRowContext(ctx, `SELECT album_id FROM album_claims WHERE album_key = $1`, albumKey(r.Tags)).Scan(&c.AlbumID); err != nil {
			return err
		}
		err := tx.QueryRowContext(ctx, `SELECT track_id FROM source_claims WHERE sha256 = $1`, r.SourceSHA256).Scan(&c.TrackID)
		if errors.Is(err, sql.ErrNoRows) {
			err = claimByName(ctx, tx, r, &c.TrackID)
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
func claimByName(ctx context.Context, tx *sql.Tx, r api.ClaimRequest, id *media.TrackID) error {
	rows, err := tx.QueryContext(ctx, `SELECT track_id, duration_ms FROM track_claims WHERE track_key = $1 ORDER BY track_id`, trackKey(r.Tags))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var known string
		var ms int64
		if err := rows.Scan(&known, &ms); err != nil {
			return err
		}
		if *id == "" && media.SameLength(time.Duration(ms)*time.Millisecond, time.Duration(r.DurationMS)*time.Millisecond) {
			*id = media.TrackID(known)
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	if *id == "" {
		*id = media.TrackID(ulid.Make().String())
		if _, err := tx.ExecContext(ctx, `INSERT INTO track_claims (track_id, track_key, duration_ms) VALUES ($1, $2, $3)`, string(*id), trackKey(r.Tags), r.DurationMS); err != nil {
			return err
		}
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO source_claims (sha256, track_id) VALUES ($1, $2) ON CONFLICT (sha256) DO NOTHING`, r.SourceSHA256, string(*id))
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
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		var known int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM track_claims WHERE track_id = $1`, string(t.ID)).Scan(&known); err != nil {
			return err
		}
		if known == 0 {
			return fmt.Errorf("track %s was never claimed: %w", t.ID, media.ErrInvalid)
		}
		albumArtist, err := artist(ctx, tx, t.Tags.AlbumArtist)
		if err != nil {
			return err
		}
		performer, err := artist(ctx, tx, t.Tags.Artist)
		if err != nil {
			return err
		}
		var album, art string
		if err := tx.QueryRowContext(ctx, `SELECT album_id FROM album_claims WHERE album_key = $1`, albumKey(t.Tags)).Scan(&album); err != nil {
			return fmt.Errorf("album of %s was never claimed: %w", t.ID, media.ErrInvalid)
		}
		if t.Art != nil {
			art = string(t.Art.Version)
		}
		now := store.Micros(time.Now())
		// A track without a picture does not take the album's away.
		if _, err := tx.ExecContext(ctx, `INSERT INTO albums (id, title, artist_id, date, art_version, created_at) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (id) DO UPDATE SET title = excluded.title, artist_id = excluded.artist_id,
			date = CASE WHEN excluded.date = '' THEN albums.date ELSE excluded.date END,
			art_version = CASE WHEN excluded.art_version = '' THEN albums.art_version ELSE excluded.art_version END`,
			album, t.Tags.Album, albumArtist, t.Tags.Date, art, now); err != nil {
			return err
		}
		for i := range t.Renditions {
			t.Renditions[i].Segments = nil // track.json in the origin has them
		}
		genres := t.Tags.Genres
		if genres == nil {
			genres = []string{}
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO tracks (id, album_id, artist_id, title, version, duration_ms, disc_number, track_number, date, genres, renditions, loudness, created_at, updated_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $13)
			ON CONFLICT (id) DO UPDATE SET album_id = excluded.album_id, artist_id = excluded.artist_id, title = excluded.title, version = excluded.version,
			duration_ms = excluded.duration_ms, disc_number = excluded.disc_number, track_number = excluded.track_number, date = excluded.date,
			genres = excluded.genres, renditions = excluded.renditions, loudness = excluded.loudness, updated_at = excluded.updated_at`,
			string(t.ID), album, performer, t.Tags.Title, string(t.Version), t.Source.Duration().Milliseconds(), t.Tags.DiscNumber, t.Tags.TrackNumber,
			t.Tags.Date, text(genres), text(t.Renditions), text(t.Loudness), now); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO publications (track_id, version) VALUES ($1, $2) ON CONFLICT (track_id, version) DO NOTHING`, string(t.ID), string(t.Version)); err != nil {
			return err
		}
		list, err := tracks(ctx, tx, ` WHERE t.id = $1`, string(t.ID))
		if err != nil {
			return err
		}
		out = list[0].Track
		return store.Emit(ctx, tx, "track", string(t.ID))
	})
	return out, err
}

// ErrMissing: an object that a track names is not in the origin.
var ErrMissing = errors.New("object is not in the origin")

// check is about the document alone.
func check(t media.Track) error {
	switch {
	case !media.ValidID(string(t.ID)) || !media.ValidVersion(string(t.Version)):
		return fmt.Errorf("track_id or version is malformed: %w", media.ErrInvalid)
	case t.Tags.Title == "" || t.Tags.Artist == "" || t.Tags.AlbumArtist == "" || t.Tags.Album == "":
		return fmt.Errorf("tags lack title, artist, album_artist or album: %w", media.ErrInvalid)
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

func artist(ctx context.Context, tx *sql.Tx, name string) (id string, err error) {
	key := strings.ToLower(name)
	if _, err := tx.ExecContext(ctx, `INSERT INTO artists (id, name, name_key) VALUES ($1, $2, $3) ON CONFLICT (name_key) DO NOTHING`, ulid.Make().String(), name, key); err != nil {
		return "", err
	}
	err = tx.QueryRowContext(ctx, `SELECT id FROM artists WHERE name_key = $1`, key).Scan(&id)
	return id, err
}

func albumKey(t media.Tags) string { return strings.ToLower(t.AlbumArtist + "\x1f" + t.Album) }

func trackKey(t media.Tags) string {
	return albumKey(t) + "\x1f" + strconv.Itoa(t.DiscNumber) + "\x1f" + strconv.Itoa(t.TrackNumber) + "\x1f" + strings.ToLower(t.Title)
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic("bug: " + err.Error())
	}
	return string(b)
}
