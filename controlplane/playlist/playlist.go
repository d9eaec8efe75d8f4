package playlist

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"

	"github.com/oklog/ulid/v2"
)

// Limits. Reaching one is ErrLimit.
const (
	MaxItems       = 10_000 // in a playlist
	MaxOwned       = 5_000  // playlists of one account
	MaxKept        = 10_000 // playlists in one's list: own, shared and followed
	MaxMembers     = 100    // people in a playlist besides its owner, with those invited
	MaxLinks       = 50     // share links of a playlist
	MaxFolders     = 1_000  // of one account
	MaxFolderDepth = 5

	maxName        = 200  // characters
	maxDescription = 2000 // characters
)

var (
	// ErrLimit: a documented limit is reached; the error says which.
	ErrLimit = errors.New("limit reached")
	// ErrNothing: there is no change that could be taken back.
	ErrNothing = errors.New("nothing to take back")
)

// StaleError: the revision that a caller's If-Match names is not the present one. It is a media.ErrChanged.
type StaleError struct{ Revision int64 } // the present one

func (e StaleError) Error() string {
	return fmt.Sprintf("If-Match: the playlist changed, it is at revision %d", e.Revision)
}
func (e StaleError) Unwrap() error { return media.ErrChanged }

// Match is a caller's If-Match: the revisions that will do. nil is any.
type Match []int64

// Deps are what playlists need of others. Tracks returns those of the tracks that there are, removed ones with
// Unavailable set, and Names the display names of the accounts that there are; both in any order and for up to 1000 ids.
// Put stores an object in the origin.
type Deps struct {
	Tracks func(ctx context.Context, ids ...string) ([]api.Track, error)
	Names  func(ctx context.Context, ids ...string) (map[string]string, error)
	Put    func(ctx context.Context, o media.Object, r io.Reader) (media.Object, error)
}

// Service is safe for concurrent use.
type Service struct {
	db      *store.DB
	deps    Deps
	drawing chan struct{} // pictures decoded at once: each may take 130 MB
}

// New returns the service on a database.
func New(db *store.DB, deps Deps) *Service { return &Service{db, deps, make(chan struct{}, 1)} }

// live is the to_revision of where an entry stands now.
const live int64 = math.MaxInt64

// row is a line of the table playlists.
type row struct {
	id, owner, name, description, cover, mosaic string
	public, items                               int64
	durationMS, followers, revision, keptFrom   int64
	created, updated                            int64
}

const columns = `p.id, p.owner_id, p.name, p.description, p.cover, p.mosaic, p.public, p.item_count, p.duration_ms, p.followers, p.revision, p.kept_from, p.created_at, p.updated_at`

func (r *row) fields() []any {
	return []any{&r.id, &r.owner, &r.name, &r.description, &r.cover, &r.mosaic, &r.public, &r.items, &r.durationMS, &r.followers, &r.revision, &r.keptFrom, &r.created, &r.updated}
}

// querier is *sql.DB or *sql.Tx.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// collect reads all rows of a query.
func collect[T any](ctx context.Context, q querier, scan func(*T) []any, query string, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []T{}
	for rows.Next() {
		var v T
		if err := rows.Scan(scan(&v)...); err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

func one[T any](v *T) []any { return []any{v} }

// marks returns "$n, $n+1, …" for values, and them as arguments.
func marks[T any](n int, values []T) (string, []any) {
	text, args := make([]string, len(values)), make([]any, len(values))
	for i, v := range values {
		text[i], args[i] = "$"+strconv.Itoa(n+i), v
	}
	return strings.Join(text, ", "), args
}

// lock takes a playlist's row until the transaction ends: writers of a playlist come one after another.
func lock(ctx context.Context, tx *sql.Tx, id string) (row, error) {
	var p row
	if !media.ValidID(id) {
		return p, missing(id)
	}
	// PostgreSQL knows no alias of the target in RETURNING before its own; the table's name serves both.
	err := tx.QueryRowContext(ctx, `UPDATE playlists SET revision = revision WHERE id = $1 RETURNING `+strings.ReplaceAll(columns, "p.", "playlists."), id).Scan(p.fields()...)
	if errors.Is(err, sql.ErrNoRows) {
		err = missing(id)
	}
	return p, err
}

// read returns a playlist without a lock.
func read(ctx context.Context, q querier, id string) (row, error) {
	var p row
	if !media.ValidID(id) {
		return p, missing(id)
	}
	err := q.QueryRowContext(ctx, `SELECT `+columns+` FROM playlists p WHERE p.id = $1`, id).Scan(p.fields()...)
	if errors.Is(err, sql.ErrNoRows) {
		err = missing(id)
	}
	return p, err
}

// missing is the same for a playlist that is not there and for one that the caller may not know of.
func missing(id string) error { return fmt.Errorf("playlist %q: %w", id, media.ErrNotFound) }

// roleOf returns what somebody is in a playlist, "" for nobody. A pending one was invited and may look only.
func roleOf(ctx context.Context, q querier, p row, who string) (role string, pending bool, err error) {
	if p.owner == who {
		return api.RoleOwner, false, nil
	}
	var accepted int64
	err = q.QueryRowContext(ctx, `SELECT role, accepted FROM playlist_members WHERE playlist_id = $1 AND user_id = $2`, p.id, who).Scan(&role, &accepted)
	if errors.Is(err, sql.ErrNoRows) {
		return "", false, nil
	}
	return role, accepted == 0, err
}

var ranks = map[string]int{"": 0, api.RoleViewer: 1, api.RoleEditor: 2, api.RoleOwner: 3}

// allow checks that somebody may act in a playlist as need says; "" is whoever may see it.
func allow(ctx context.Context, q querier, p row, who, need string) (role string, err error) {
	role, pending, err := roleOf(ctx, q, p, who)
	switch {
	case err != nil:
		return "", err
	case role == "" && p.public == 0:
		return "", missing(p.id)
	case ranks[need] > ranks[api.RoleViewer] && pending:
		return "", fmt.Errorf("accept the invitation first: %w", media.ErrDenied)
	case ranks[role] < ranks[need]:
		return "", fmt.Errorf("this takes the role %q in the playlist: %w", need, media.ErrDenied)
	}
	return role, nil
}

// change is one change of a playlist in the making, under its lock. What f of write leaves in it becomes the revision.
type change struct {
	ctx  context.Context
	tx   *sql.Tx
	who  string
	role string
	now  int64
	rev  int64 // the number that it gets
	p    row   // as it will be; write stores it

	operation             string
	added, removed, moved int
	closed                int
	changes               map[string]api.PlaylistDetail
	of                    []int64
	recorded              bool // a revision also when nothing is different
}

// write makes one change: it takes the lock, checks role and If-Match, calls f, and stores the playlist with its new
// revision. When f changed nothing there is no revision either.
func (s *Service) write(ctx context.Context, who, id string, match Match, need, operation string, f func(*change) error) (out row, err error) {
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		p, err := lock(ctx, tx, id)
		if err != nil {
			return err
		}
		role, err := allow(ctx, tx, p, who, need)
		if err != nil {
			return err
		}
		if match != nil && !slices.Contains(match, p.revision) {
			return StaleError{p.revision}
		}
		wasPublic := p.public
		c := &change{ctx: ctx, tx: tx, who: who, role: role, now: store.Micros(time.Now()), rev: p.revision + 1, p: p, operation: operation, changes: map[string]api.PlaylistDetail{}}
		if err := f(c); err != nil {
			return err
		}
		if c.added+c.removed+c.moved > 0 {
			if err := c.draw(); err != nil {
				return err
			}
		} else if len(c.changes) == 0 && !c.recorded {
			out = p
			return nil
		}
		if err := c.store(sql.NullString{String: who, Valid: true}); err != nil {
			return err
		}
		out = c.p
		if wasPublic != 0 || c.p.public != 0 {
			return store.Emit(ctx, tx, "playlist", id)
		}
		return nil
	})
	return out, err
}

// store writes the playlist and the revision's line.
func (c *change) store(author sql.NullString) error {
	c.p.revision, c.p.updated = c.rev, c.now
	c.p.items += int64(c.added - c.removed)
	if c.p.items > MaxItems && c.added > 0 {
		return fmt.Errorf("a playlist holds at most %d tracks, this would make it %d: %w", MaxItems, c.p.items, ErrLimit)
	}
	if _, err := c.tx.ExecContext(c.ctx, `UPDATE playlists SET owner_id = $2, name = $3, description = $4, cover = $5, mosaic = $6, public = $7, item_count = $8, duration_ms = $9,
		revision = $10, updated_at = $11 WHERE id = $1`,
		c.p.id, c.p.owner, c.p.name, c.p.description, c.p.cover, c.p.mosaic, c.p.public, c.p.items, c.p.durationMS, c.p.revision, c.p.updated); err != nil {
		return err
	}
	if _, err := c.tx.ExecContext(c.ctx, `INSERT INTO playlist_revisions (playlist_id, revision, author, at, operation, added, removed, moved, closed, changes, of_revisions)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
		c.p.id, c.rev, author, c.now, c.operation, c.added, c.removed, c.moved, c.closed, text(c.changes), text(c.of)); err != nil {
		return err
	}
	if c.rev%pruneEvery == 0 {
		return c.prune()
	}
	return nil
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic("bug: " + err.Error())
	}
	return string(b)
}

// detail notes the change of a field.
func (c *change) detail(field string, at *string, to string) {
	if *at != to {
		c.changes[field] = api.PlaylistDetail{From: *at, To: to}
		*at = to
	}
}

// checkName trims a name and checks it; field is what the error begins with.
func checkName(field, name string) (string, error) {
	name = strings.TrimSpace(name)
	if n := utf8.RuneCountInString(name); n < 1 || n > maxName {
		return "", fmt.Errorf("%s: has %d characters, want 1 to %d: %w", field, n, maxName, media.ErrInvalid)
	}
	if !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return "", fmt.Errorf("%s: has control characters: %w", field, media.ErrInvalid)
	}
	return name, nil
}

func checkDescription(d string) (string, error) {
	d = strings.TrimSpace(strings.ReplaceAll(d, "\r\n", "\n"))
	if n := utf8.RuneCountInString(d); n > maxDescription {
		return "", fmt.Errorf("description: has %d characters, want at most %d: %w", n, maxDescription, media.ErrInvalid)
	}
	if !utf8.ValidString(d) || strings.ContainsFunc(d, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }) {
		return "", fmt.Errorf("description: has control characters: %w", media.ErrInvalid)
	}
	return d, nil
}

// Create makes an empty playlist, on top of the owner's list. Errors: media.ErrInvalid, ErrLimit.
func (s *Service) Create(ctx context.Context, who string, n api.NewPlaylist) (api.Playlist, error) {
	name, err := checkName("name", n.Name)
	if err != nil {
		return api.Playlist{}, err
	}
	description, err := checkDescription(n.Description)
	if err != nil {
		return api.Playlist{}, err
	}
	var p row
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		now := store.Micros(time.Now())
		p = row{id: ulid.Make().String(), owner: who, name: name, description: description, mosaic: "[]", keptFrom: 1, created: now}
		if n.Public {
			p.public = 1
		}
		if err := lockShelf(ctx, tx, who); err != nil {
			return err
		}
		if err := roomForOne(ctx, tx, who); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO playlists (id, owner_id, name, description, public, cover, mosaic, item_count, duration_ms, followers, revision, kept_from, created_at, updated_at)
			VALUES ($1, $2, $3, $4, $5, '', $6, 0, 0, 0, 1, 1, $7, $7)`, p.id, who, name, description, p.public, p.mosaic, now); err != nil {
			return err
		}
		if err := keep(ctx, tx, who, p.id, n.FolderID, 0, now); err != nil {
			return err
		}
		c := &change{ctx: ctx, tx: tx, who: who, now: now, rev: 1, p: p, operation: api.PlaylistCreated}
		if err := c.store(sql.NullString{String: who, Valid: true}); err != nil {
			return err
		}
		p = c.p
		if n.Public {
			return store.Emit(ctx, tx, "playlist", p.id)
		}
		return nil
	})
	if err != nil {
		return api.Playlist{}, err
	}
	return s.renderOne(ctx, who, p)
}

// roomForOne checks that an account may own one more playlist; under the lock of its shelf.
func roomForOne(ctx context.Context, tx *sql.Tx, who string) error {
	var n int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM playlists WHERE owner_id = $1`, who).Scan(&n); err != nil {
		return err
	}
	if n >= MaxOwned {
		return fmt.Errorf("an account owns at most %d playlists: %w", MaxOwned, ErrLimit)
	}
	return nil
}

// Get returns a playlist that the caller may see. Errors: media.ErrNotFound.
func (s *Service) Get(ctx context.Context, who, id string) (api.Playlist, error) {
	p, err := read(ctx, s.db, id)
	if err != nil {
		return api.Playlist{}, err
	}
	if _, err := allow(ctx, s.db, p, who, ""); err != nil {
		return api.Playlist{}, err
	}
	return s.renderOne(ctx, who, p)
}

// Change renames, describes, publishes. Editors may, but only the owner decides who sees it.
func (s *Service) Change(ctx context.Context, who, id string, match Match, in api.PlaylistChange) (_ api.Playlist, err error) {
	var name, description string
	if in.Name != nil {
		if name, err = checkName("name", *in.Name); err != nil {
			return api.Playlist{}, err
		}
	}
	if in.Description != nil {
		if description, err = checkDescription(*in.Description); err != nil {
			return api.Playlist{}, err
		}
	}
	p, err := s.write(ctx, who, id, match, api.RoleEditor, api.PlaylistDetails, func(c *change) error {
		if in.Name != nil {
			c.detail("name", &c.p.name, name)
		}
		if in.Description != nil {
			c.detail("description", &c.p.description, description)
		}
		if in.Public == nil || *in.Public == (c.p.public != 0) {
			return nil
		}
		if c.role != api.RoleOwner {
			return fmt.Errorf("public: only the owner decides who sees the playlist: %w", media.ErrDenied)
		}
		if len(c.changes) == 0 {
			c.operation = api.PlaylistVisibility
		}
		c.changes["public"] = api.PlaylistDetail{From: strconv.FormatBool(!*in.Public), To: strconv.FormatBool(*in.Public)}
		c.p.public = 1 - c.p.public
		return nil
	})
	if err != nil {
		return api.Playlist{}, err
	}
	return s.renderOne(ctx, who, p)
}

// Delete deletes a playlist for everybody.
func (s *Service) Delete(ctx context.Context, who, id string, match Match) error {
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		p, err := lock(ctx, tx, id)
		if err != nil {
			return err
		}
		if _, err := allow(ctx, tx, p, who, api.RoleOwner); err != nil {
			return err
		}
		if match != nil && !slices.Contains(match, p.revision) {
			return StaleError{p.revision}
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM playlists WHERE id = $1`, id); err != nil {
			return err
		}
		if p.public != 0 {
			return store.Emit(ctx, tx, "playlist", id)
		}
		return nil
	})
}

// renderOne is render for one, with the caller's part in it.
func (s *Service) renderOne(ctx context.Context, who string, p row) (api.Playlist, error) {
	role, pending, err := roleOf(ctx, s.db, p, who)
	if err != nil {
		return api.Playlist{}, err
	}
	if pending {
		role = api.RoleViewer
	}
	list, err := s.render(ctx, p)
	if err != nil {
		return api.Playlist{}, err
	}
	list[0].Role = role
	var n int
	err = s.db.QueryRowContext(ctx, `SELECT count(*) FROM playlist_library WHERE user_id = $1 AND playlist_id = $2`, who, p.id).Scan(&n)
	list[0].InLibrary = n > 0
	return list[0], err
}

// render makes answers of rows, without what depends on the caller.
func (s *Service) render(ctx context.Context, rows ...row) ([]api.Playlist, error) {
	var people, tracks []string
	mosaics := make([][]string, len(rows))
	for i, p := range rows {
		people = append(people, p.owner)
		if p.cover == "" {
			if err := json.Unmarshal([]byte(p.mosaic), &mosaics[i]); err != nil {
				return nil, fmt.Errorf("mosaic of playlist %s: %w: %w", p.id, media.ErrCorrupt, err)
			}
			tracks = append(tracks, mosaics[i]...)
		}
	}
	names, err := s.names(ctx, people)
	if err != nil {
		return nil, err
	}
	known, err := s.tracks(ctx, tracks)
	if err != nil {
		return nil, err
	}
	out := make([]api.Playlist, len(rows))
	for i, p := range rows {
		out[i] = api.Playlist{ID: p.id, Name: p.name, Description: p.description, Owner: api.UserRef{ID: p.owner, DisplayName: names[p.owner]}, Public: p.public != 0,
			Cover: coverOf(p), TrackCount: int(p.items), DurationMS: p.durationMS, Followers: p.followers, Revision: p.revision, CreatedAt: store.Time(p.created), UpdatedAt: store.Time(p.updated)}
		for _, id := range mosaics[i] {
			if t, ok := known[id]; ok && t.Album.Art != nil && len(out[i].Mosaic) < 4 {
				out[i].Mosaic = append(out[i].Mosaic, *t.Album.Art)
			}
		}
	}
	return out, nil
}

const lookup = 1000 // ids in one question to others

func (s *Service) names(ctx context.Context, ids []string) (map[string]string, error) {
	out := map[string]string{}
	for some := range slices.Chunk(distinct(ids), lookup) {
		m, err := s.deps.Names(ctx, some...)
		if err != nil {
			return nil, fmt.Errorf("names of accounts: %w", err)
		}
		for id, name := range m {
			out[id] = name
		}
	}
	return out, nil
}

func (s *Service) tracks(ctx context.Context, ids []string) (map[string]api.Track, error) {
	out := map[string]api.Track{}
	for some := range slices.Chunk(distinct(ids), lookup) {
		list, err := s.deps.Tracks(ctx, some...)
		if err != nil {
			return nil, fmt.Errorf("tracks of playlists: %w", err)
		}
		for _, t := range list {
			out[string(t.ID)] = t
		}
	}
	return out, nil
}

func distinct(ids []string) []string {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	return slices.Compact(ids)
}

func artists(list []api.ArtistRef) string {
	names := make([]string, len(list))
	for i, a := range list {
		names[i] = a.Name
	}
	return strings.Join(names, ", ")
}
