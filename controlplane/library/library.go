// Package library keeps what a person likes and whom they follow, what they played lately, and who may see it.
//
//	PUT /v1/me/library/tracks/{id} -> saved_tracks + listeners.tracks, one transaction
//
// Lists hold ids and times; what the ids mean is asked of the catalogue when a page is read, so a track that leaves it
// stays listed as not available. Every list is one person's and nobody else's: what others see of it is the number of
// followers of a public profile, and what somebody plays now who shares it.
package library

import (
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"
)

// Kind is one of a person's lists.
type Kind string

const (
	Tracks  Kind = "tracks"
	Albums  Kind = "albums"
	Artists Kind = "artists" // followed
	Users   Kind = "users"   // followed
)

// tables maps a kind to its table; the counter in listeners has the kind's name.
var tables = map[Kind]string{Tracks: "saved_tracks", Albums: "saved_albums", Artists: "followed_artists", Users: "followed_users"}

// limits bound a person's lists: one list must not make everybody's database slow. The release feed looks at all
// followed artists, hence fewer of them.
var limits = map[Kind]int64{Tracks: 100_000, Albums: 20_000, Artists: 5_000, Users: 5_000}

// MaxAsked bounds the ids of one Contains.
const MaxAsked = 200

// Person is what is known of an account.
type Person struct {
	ID           string
	DisplayName  string
	Discoverable bool // others may find the profile
}

// Listening is what an account plays at this moment.
type Listening struct {
	UserID  string
	TrackID media.TrackID
	At      time.Time
}

// Sources is what the library asks of other services. Each returns those of the ids that there are, in any order.
type Sources struct {
	Tracks  func(ctx context.Context, ids ...string) ([]api.Track, error)
	Albums  func(ctx context.Context, ids ...string) ([]api.Album, error)
	Artists func(ctx context.Context, ids ...string) ([]api.Artist, error)
	People  func(ctx context.Context, ids ...string) ([]Person, error)
	Playing func(ctx context.Context, userIDs ...string) ([]Listening, error) // those who play now
}

// Service is safe for concurrent use.
type Service struct {
	db   *store.DB
	ask  Sources
	seen seen
}

// New wires the service.
func New(db *store.DB, ask Sources) *Service { return &Service{db: db, ask: ask} }

// listener is a row of listeners, locked until the transaction ends.
type listener struct {
	cleared     time.Time
	keepHistory bool
}

// lock makes and locks a person's row: whoever changes a person's lists comes here first. Errors: media.ErrNotFound for
// an account that is gone.
func lock(ctx context.Context, tx *sql.Tx, userID string) (l listener, err error) {
	var cleared, keep int64
	err = tx.QueryRowContext(ctx, `INSERT INTO listeners (user_id) SELECT id FROM users WHERE id = $1 ON CONFLICT (user_id) DO UPDATE SET user_id = excluded.user_id
		RETURNING cleared_at, keep_history`, userID).Scan(&cleared, &keep)
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("user %s: %w", userID, media.ErrNotFound)
	}
	return listener{store.Time(cleared), keep != 0}, err
}

// Put adds an item to a list; repeating it changes nothing. Errors: media.ErrNotFound for an item that does not exist
// or may not be known of, media.ErrTooLarge when the list is full, media.ErrInvalid for oneself.
func (s *Service) Put(ctx context.Context, userID string, kind Kind, id string) error {
	if !media.ValidID(id) {
		return fmt.Errorf("%s %q: %w", kind, id, media.ErrNotFound)
	}
	if kind == Users {
		return s.followUser(ctx, userID, id)
	}
	id, there, err := s.resolve(ctx, kind, id)
	if err != nil {
		return err
	}
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		if _, err := lock(ctx, tx, userID); err != nil {
			return err
		}
		if !there { // what left the catalogue stays in a list, and repeating its Put is no error
			var n int
			if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM `+tables[kind]+` WHERE user_id = $1 AND item_id = $2`, userID, id).Scan(&n); err != nil || n > 0 {
				return err
			}
			return fmt.Errorf("%s %s: %w", kind, id, media.ErrNotFound)
		}
		_, err := add(ctx, tx, userID, kind, id)
		return err
	})
}

// resolve finds an item in the catalogue; an artist who was merged into another one is that one.
func (s *Service) resolve(ctx context.Context, kind Kind, id string) (string, bool, error) {
	switch kind {
	case Tracks:
		list, err := s.ask.Tracks(ctx, id)
		return id, len(list) > 0 && list[0].Unavailable != api.Removed, err
	case Albums:
		list, err := s.ask.Albums(ctx, id)
		return id, len(list) > 0 && list[0].Unavailable != api.Removed, err
	default:
		list, err := s.ask.Artists(ctx, id)
		if err == nil && len(list) > 0 && list[0].MergedInto != "" {
			id = string(list[0].MergedInto)
			list, err = s.ask.Artists(ctx, id)
		}
		return id, len(list) > 0 && list[0].Unavailable != api.Removed, err
	}
}

// add inserts an item and counts it; the caller holds the lock. It reports whether the item is new.
func add(ctx context.Context, tx *sql.Tx, userID string, kind Kind, id string) (bool, error) {
	n, err := affected(tx.ExecContext(ctx, `INSERT INTO `+tables[kind]+` (user_id, item_id, added_at) VALUES ($1, $2, $3) ON CONFLICT (user_id, item_id) DO NOTHING`,
		userID, id, store.Micros(time.Now())))
	if err != nil || n == 0 {
		return false, err
	}
	count := string(kind)
	n, err = affected(tx.ExecContext(ctx, `UPDATE listeners SET `+count+` = `+count+` + 1 WHERE user_id = $1 AND `+count+` < $2`, userID, limits[kind]))
	if err == nil && n == 0 {
		err = fmt.Errorf("a list of %s holds at most %d: %w", kind, limits[kind], media.ErrTooLarge)
	}
	return true, err
}

// Delete takes an item out of a list; repeating it changes nothing.
func (s *Service) Delete(ctx context.Context, userID string, kind Kind, id string) error {
	if !media.ValidID(id) {
		return nil // is in no list
	}
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		if kind == Users {
			return unfollow(ctx, tx, userID, id)
		}
		if _, err := lock(ctx, tx, userID); err != nil {
			return err
		}
		_, err := remove(ctx, tx, userID, kind, id)
		return err
	})
}

// remove deletes an item and uncounts it; the caller holds the lock. It reports whether the item was there.
func remove(ctx context.Context, tx *sql.Tx, userID string, kind Kind, id string) (bool, error) {
	n, err := affected(tx.ExecContext(ctx, `DELETE FROM `+tables[kind]+` WHERE user_id = $1 AND item_id = $2`, userID, id))
	if err != nil || n == 0 {
		return false, err
	}
	_, err = tx.ExecContext(ctx, `UPDATE listeners SET `+string(kind)+` = `+string(kind)+` - 1 WHERE user_id = $1`, userID)
	return true, err
}

func affected(res sql.Result, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// Contains says of each id whether it is in the list. More than MaxAsked are media.ErrInvalid.
func (s *Service) Contains(ctx context.Context, userID string, kind Kind, ids []string) (map[string]bool, error) {
	out := map[string]bool{}
	if len(ids) > MaxAsked {
		return nil, fmt.Errorf("%s: want at most %d ids: %w", kind, MaxAsked, media.ErrInvalid)
	}
	args := []any{userID}
	var marks []string
	for _, id := range ids {
		out[id] = false
		if media.ValidID(id) {
			args = append(args, id)
			marks = append(marks, "$"+strconv.Itoa(len(args)))
		}
	}
	if len(marks) == 0 {
		return out, nil
	}
	rows, err := s.db.QueryContext(ctx, `SELECT item_id FROM `+tables[kind]+` WHERE user_id = $1 AND item_id IN (`+strings.Join(marks, ", ")+`)`, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		out[id] = true
	}
	return out, rows.Err()
}

// Has returns nil when the item is in the list, else media.ErrNotFound.
func (s *Service) Has(ctx context.Context, userID string, kind Kind, id string) error {
	in, err := s.Contains(ctx, userID, kind, []string{id})
	if err == nil && !in[id] {
		err = fmt.Errorf("%s %s: %w", kind, id, media.ErrNotFound)
	}
	return err
}

// Counts returns the sizes of a person's lists.
func (s *Service) Counts(ctx context.Context, userID string) (c api.LibraryCounts, err error) {
	err = s.db.QueryRowContext(ctx, `SELECT tracks, albums, artists, users, followers FROM listeners WHERE user_id = $1`, userID).
		Scan(&c.Tracks, &c.Albums, &c.Artists, &c.Users, &c.Followers)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return c, err
}

// entry is one of a list: an id and when it came.
type entry struct {
	id string
	at time.Time
}

// view is one way to read a table of lists: whose list it is, and what is in it.
type view struct{ table, owner, other string }

func (k Kind) view() view { return view{tables[k], "user_id", "item_id"} }

// page reads a part of a list, newest first.
func (s *Service) page(ctx context.Context, v view, userID, cursor string, limit int) (list []entry, next string, err error) {
	at, id, err := parseCursor(cursor)
	if err != nil {
		return nil, "", err
	}
	rows, err := s.db.QueryContext(ctx, `SELECT `+v.other+`, added_at FROM `+v.table+` WHERE `+v.owner+` = $1 AND added_at <= $2 AND (added_at < $2 OR `+v.other+` < $3)
		ORDER BY added_at DESC, `+v.other+` DESC LIMIT $4`, userID, at, id, limit+1)
	if err != nil {
		return nil, "", err
	}
	defer rows.Close()
	for rows.Next() {
		var e entry
		var micros int64
		if err := rows.Scan(&e.id, &micros); err != nil {
			return nil, "", err
		}
		e.at = store.Time(micros)
		list = append(list, e)
	}
	if len(list) > limit {
		list = list[:limit]
		next = makeCursor(store.Micros(list[limit-1].at), list[limit-1].id)
	}
	return list, next, rows.Err()
}

func ids(list []entry) []string {
	out := make([]string, len(list))
	for i, e := range list {
		out[i] = e.id
	}
	return out
}

// SavedTracks pages through the liked tracks, newest first. Cursor "" is the beginning; a foreign one is media.ErrInvalid:
// so for all lists.
func (s *Service) SavedTracks(ctx context.Context, userID, cursor string, limit int) (p api.Page[api.SavedTrack], err error) {
	list, next, err := s.page(ctx, Tracks.view(), userID, cursor, limit)
	if err != nil {
		return p, err
	}
	known, err := s.tracks(ctx, ids(list)...)
	p.Items, p.Next = []api.SavedTrack{}, next
	for _, e := range list {
		t := known[media.TrackID(e.id)]
		p.Items = append(p.Items, api.SavedTrack{ID: media.TrackID(e.id), AddedAt: e.at, Available: playable(t), Track: t})
	}
	return p, err
}

// tracks asks the catalogue and puts the answer in a map.
func (s *Service) tracks(ctx context.Context, ids ...string) (map[media.TrackID]*api.Track, error) {
	list, err := s.ask.Tracks(ctx, ids...)
	out := map[media.TrackID]*api.Track{}
	for i := range list {
		out[list[i].ID] = &list[i]
	}
	return out, err
}

func playable(t *api.Track) bool { return t != nil && t.Unavailable == "" }

// SavedAlbums pages through the liked albums, newest first.
func (s *Service) SavedAlbums(ctx context.Context, userID, cursor string, limit int) (p api.Page[api.SavedAlbum], err error) {
	list, next, err := s.page(ctx, Albums.view(), userID, cursor, limit)
	if err != nil {
		return p, err
	}
	albums, err := s.ask.Albums(ctx, ids(list)...)
	known := map[media.AlbumID]*api.Album{}
	for i := range albums {
		known[albums[i].ID] = &albums[i]
	}
	p.Items, p.Next = []api.SavedAlbum{}, next
	for _, e := range list {
		a := known[media.AlbumID(e.id)]
		p.Items = append(p.Items, api.SavedAlbum{ID: media.AlbumID(e.id), AddedAt: e.at, Available: a != nil && a.Unavailable == "", Album: a})
	}
	return p, err
}

// A cursor is the place of the last entry seen: a number or text to order by, and an id.
func makeCursor(at int64, id string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(at, 10) + " " + id))
}

// parseCursor of "" is before the newest.
func parseCursor(s string) (at int64, id string, err error) {
	if s == "" {
		return 1<<63 - 1, "", nil
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		var text string
		text, id, _ = strings.Cut(string(b), " ")
		at, err = strconv.ParseInt(text, 10, 64)
	}
	if err != nil || !media.ValidID(id) {
		return 0, "", fmt.Errorf("cursor is not one of ours: %w", media.ErrInvalid)
	}
	return at, id, nil
}
