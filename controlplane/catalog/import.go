package catalog

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"math"
	"slices"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"
)

const (
	chunkLines   = 8000     // of one transaction: pages of indexes are written once in it, however many rows they get
	chunkBytes   = 16 << 20 // of one transaction
	maxLineBytes = 1 << 20
	maxErrors    = 1000 // reported; all are counted
)

// line is one that was read and is in itself right.
type line struct {
	api.ImportLine
	number int
	id     string
	hash   string
	cleaned
}

// cleaned are values in the form of their columns.
type cleaned struct{ genres, isrc, upc, availableIn, kind string }

// Import reads NDJSON of api.ImportLine until its end, some thousand lines in a transaction. Lines are numbered from
// first on. What is wrong with a line is in the result and stops nothing; an error is of the database or of r, and what was
// counted before it stays done. Repeating an import, whole or from any artist on, changes what differs.
func (s *Service) Import(ctx context.Context, r io.Reader, first int) (api.ImportResult, error) {
	in := &importing{s: s, out: api.ImportResult{Errors: []api.ImportError{}}, seen: map[string]bool{}}
	br := bufio.NewReaderSize(r, 256<<10)
	for number := first; ; number++ {
		b, long, err := readLine(br)
		if len(bytes.TrimSpace(b)) > 0 || long {
			in.out.Lines++
			if long {
				in.fail(number, fmt.Errorf("line is longer than %d bytes: %w", maxLineBytes, media.ErrTooLarge))
			} else if ferr := in.take(ctx, number, b); ferr != nil {
				_ = in.wait() // the first error counts
				return in.out, fmt.Errorf("import up to line %d: %w", number, ferr)
			}
		}
		if errors.Is(err, io.EOF) {
			err = errors.Join(in.flush(ctx), in.wait())
			return in.out, err
		} else if err != nil {
			return in.out, errors.Join(fmt.Errorf("read line %d: %w", number, err), in.flush(ctx), in.wait())
		}
	}
}

// readLine returns a line, which is the reader's until the next call; of one that is too long the rest is passed over.
func readLine(br *bufio.Reader) (b []byte, long bool, err error) {
	b, err = br.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return b, false, err
	}
	whole := bytes.Clone(b)
	for errors.Is(err, bufio.ErrBufferFull) {
		b, err = br.ReadSlice('\n')
		if long = long || len(whole)+len(b) > maxLineBytes; !long {
			whole = append(whole, b...)
		}
	}
	return whole, long, err
}

// importing is one call of Import: what is gathered for the next transaction, and the result. One transaction runs while
// the next one's lines are read.
type importing struct {
	s     *Service
	out   api.ImportResult
	chunk []line
	bytes int
	seen  map[string]bool // ids in chunk: a repeat begins the next one, so that the later line wins
	wrote chan written    // of the transaction that runs; nil: none does
	done  int             // transactions
}

type written struct {
	*chunk
	err error
}

func (in *importing) fail(number int, err error) {
	in.out.Failed++
	if len(in.out.Errors) < maxErrors {
		in.out.Errors = append(in.out.Errors, api.ImportError{Line: number, Message: err.Error()})
	}
}

func (in *importing) take(ctx context.Context, number int, b []byte) error {
	l, err := parseLine(b)
	if err != nil {
		in.fail(number, err)
		return nil
	}
	l.number = number
	if in.seen[l.id] || len(in.chunk) == chunkLines || in.bytes > chunkBytes {
		if err := in.flush(ctx); err != nil {
			return err
		}
	}
	in.seen[l.id] = true
	in.chunk = append(in.chunk, l)
	in.bytes += len(b)
	return nil
}

func parseLine(b []byte) (line, error) {
	var l line
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&l.ImportLine); err != nil {
		return l, fmt.Errorf("not a line of an import: %w", err)
	}
	if d.More() {
		return l, fmt.Errorf("more than one value on a line: %w", media.ErrInvalid)
	}
	var err error
	fix := func(f func(string) (string, error), v *string) {
		if err == nil {
			*v, err = f(*v)
		}
	}
	if l.Type != "artist" && l.Type != "album" && l.Type != "track" {
		return l, fmt.Errorf("type %q: want artist, album or track: %w", l.Type, media.ErrInvalid)
	}
	if l.ID == "" || len(l.ID) > 200 {
		return l, fmt.Errorf("id: want 1 to 200 bytes: %w", media.ErrInvalid)
	}
	if math.IsNaN(l.Popularity) || l.Popularity < 0 || l.DurationMS < 0 || l.DiscNumber < 0 || l.TrackNumber < 0 || l.DiscNumber > 9999 || l.TrackNumber > 9999 {
		return l, fmt.Errorf("a number is below 0, or above 9999 for a disc or track: %w", media.ErrInvalid)
	}
	switch l.Type {
	case "artist":
		fix(named("name"), &l.Name)
	case "album":
		fix(named("title"), &l.Title)
		l.kind = l.AlbumType
		fix(albumType, &l.kind)
		if err == nil && len(l.Artists) == 0 {
			err = fmt.Errorf("artists: an album has at least one: %w", media.ErrInvalid)
		}
	case "track":
		fix(named("title"), &l.Title)
		if err == nil && l.AlbumID == "" {
			err = fmt.Errorf("album_id: a track is on an album: %w", media.ErrInvalid)
		}
	}
	fix(dated, &l.Date)
	l.isrc, l.upc = l.ISRC, l.UPC
	fix(cleanISRC, &l.isrc)
	fix(cleanUPC, &l.upc)
	l.genres = "[]"
	if err == nil && len(l.Genres) > 0 {
		l.genres, err = genreList(l.Genres)
	}
	if err == nil {
		l.availableIn, err = cleanCountries(l.AvailableIn)
	}
	for i := range l.Artists {
		a := &l.Artists[i]
		if a.ID == "" {
			fix(named("artists"), &a.Name)
		}
		if err == nil && (!roleForm(a.Role) || a.Join != nil && len(*a.Join) > 40) {
			err = fmt.Errorf("artists: want a role of lower-case letters, and a join of at most 40 bytes: %w", media.ErrInvalid)
		}
	}
	if err != nil {
		return l, err
	}
	l.id = api.ImportID(l.Type, l.ID)
	h := fnv.New64a()
	_, _ = h.Write(bytes.TrimSpace(b))
	l.hash = hex.EncodeToString(h.Sum(nil))
	return l, nil
}

// flush begins to write the chunk, when the one before is written.
func (in *importing) flush(ctx context.Context) error {
	if err := in.wait(); err != nil || len(in.chunk) == 0 {
		return err
	}
	lines, wrote := in.chunk, make(chan written, 1)
	in.wrote = wrote
	statistics := in.done&(in.done-1) == 0 // after 1, 2, 4, 8, …
	go func() {
		var err error
		if statistics {
			err = in.s.statistics(ctx)
		}
		var c *chunk
		if err == nil {
			c, err = in.s.importChunk(ctx, lines)
		}
		wrote <- written{c, err}
	}()
	clear(in.seen)
	in.chunk, in.bytes = make([]line, 0, chunkLines), 0
	return nil
}

// statistics makes PostgreSQL look at how large the tables are by now: it keeps the plans that it made when they were
// empty, which read all of a table, until it knows better. SQLite plans by the indexes alone.
func (s *Service) statistics(ctx context.Context) error {
	if s.db.Embedded {
		return nil
	}
	_, err := s.db.ExecContext(ctx, `ANALYZE artists, albums, tracks, album_credits, track_credits, genres, album_genres, track_genres`)
	return err
}

// wait ends the transaction that runs, and counts what it did.
func (in *importing) wait() error {
	if in.wrote == nil {
		return nil
	}
	c := <-in.wrote
	in.wrote = nil
	if c.err != nil {
		return c.err
	}
	in.done++
	in.out.Artists += c.artistLines
	in.out.Albums += c.albumLines
	in.out.Tracks += c.trackLines
	in.out.Unchanged += c.unchanged
	for _, number := range slices.Sorted(maps.Keys(c.failed)) {
		in.fail(number, c.failed[number])
	}
	return nil
}

// importChunk is one transaction. Two imports, and an import and a packager, may make one name at once: the loser does it
// again.
func (s *Service) importChunk(ctx context.Context, lines []line) (c *chunk, err error) {
	for range 3 {
		err = s.change(ctx, func(w *write) error {
			c = &chunk{write: w, failed: map[int]error{}}
			return c.put(lines)
		})
		if !store.Duplicate(err) {
			break
		}
	}
	return c, err
}

// chunk is one transaction of an import.
type chunk struct {
	*write
	failed                                         map[int]error // line -> why
	artistLines, albumLines, trackLines, unchanged int

	byIDs, byNames map[string]string // artists
	known          map[string]string // tracks that there were -> import_hash
}

func (c *chunk) put(lines []line) error {
	if c.embedded {
		// Rows go to all places of all indexes: 64 MiB of their pages stay with the connection for the next transaction.
		if err := c.exec(`PRAGMA cache_size = -65536`); err != nil {
			return err
		}
	}
	if err := c.exec(`UPDATE import_turn SET turns = turns + 1 WHERE id = 1`); err != nil {
		return err
	}
	of := map[string][]line{}
	for _, l := range lines {
		of[l.Type] = append(of[l.Type], l)
	}
	for kind, extra := range map[string]string{"artist": "", "album": ", artist_id", "track": ", album_id, artist_id"} {
		changed, err := c.changed(kind, extra, of[kind])
		if err != nil {
			return err
		}
		of[kind] = changed
	}
	if err := c.putArtists(of["artist"]); err != nil {
		return err
	}
	if err := c.findArtists(of["album"], of["track"]); err != nil {
		return err
	}
	if err := c.putAlbums(of["album"]); err != nil {
		return err
	}
	return c.putTracks(of["track"])
}

// changed drops lines that are as they were the last time, and touches what the others had.
func (c *chunk) changed(kind, extra string, lines []line) ([]line, error) {
	ids := make([]string, len(lines))
	for i, l := range lines {
		ids[i] = l.id
	}
	known := map[string]string{}
	defer func() {
		if kind == "track" {
			c.known = known
		}
	}()
	err := c.query(`SELECT id, import_hash`+extra+` FROM `+kind+`s WHERE id IN %s`, ids, func(r *sql.Rows) error {
		var id, hash, one, two string
		into := []any{&id, &hash, &one, &two}[:2]
		switch kind {
		case "album":
			into = append(into, &two)
		case "track":
			into = append(into, &one, &two)
		}
		err := r.Scan(into...)
		known[id] = hash
		c.albums.add(one)
		c.artists.add(two)
		return err
	})
	out := lines[:0:0]
	for _, l := range lines {
		if known[l.id] == l.hash {
			c.unchanged++
			continue
		}
		out = append(out, l)
	}
	return out, err
}

func (c *chunk) putArtists(lines []line) error {
	// A name leads to one artist, the first that had it; others of the same name are found by id only.
	var keys []string
	for _, l := range lines {
		keys = append(keys, nameKey(l.Name))
	}
	owner := map[string]string{}
	if err := c.query(`SELECT name_key, id FROM artists WHERE name_key IN %s`, keys, func(r *sql.Rows) error {
		var key, id string
		err := r.Scan(&key, &id)
		owner[key] = id
		return err
	}); err != nil {
		return err
	}
	var rows [][]any
	for _, l := range lines {
		key := nameKey(l.Name)
		if owner[key] == "" {
			owner[key] = l.id
		} else if owner[key] != l.id {
			key += "\x1f" + l.id
		}
		rows = append(rows, []any{l.id, l.Name, key, sortKey(cmp.Or(l.SortName, l.Name)), l.Popularity, l.hash, c.now})
		c.artists.add(l.id)
		c.locked.add(l.id)
		c.artistLines++
	}
	return c.rows(`INSERT INTO artists (id, name, name_key, sort_key, popularity, import_hash, updated_at) VALUES `, "?,?,?,?,?,?,?",
		` ON CONFLICT (id) DO UPDATE SET name = excluded.name, name_key = excluded.name_key, sort_key = excluded.sort_key, import_hash = excluded.import_hash,
		updated_at = excluded.updated_at, popularity = CASE WHEN excluded.popularity = 0 THEN artists.popularity ELSE excluded.popularity END`, rows)
}

// findArtists looks up all artists that albums and tracks name, and makes those named by name only.
func (c *chunk) findArtists(lists ...[]line) (err error) {
	ids, called := set{}, []string{}
	for _, lines := range lists {
		for _, l := range lines {
			for _, a := range l.Artists {
				if a.ID != "" {
					ids.add(api.ImportID("artist", a.ID))
				} else {
					called = append(called, a.Name)
				}
			}
		}
	}
	if c.byIDs, err = c.byID(ids.list()); err != nil {
		return err
	}
	c.byNames, err = c.byName(called)
	return err
}

func (c *chunk) putAlbums(lines []line) error {
	var rows [][]any
	parts := map[string][]part{}
	for _, l := range lines {
		p, err := partsOf(l.Artists, c.byIDs, c.byNames)
		if err != nil {
			c.failed[l.number] = err
			continue
		}
		rows = append(rows, []any{l.id, l.Title, sortKey(l.Title), l.kind, p[0].id, l.Date, l.upc, l.Popularity, l.availableIn, l.hash, c.now, c.now})
		parts[l.id] = p
		c.albums.add(l.id)
		c.locked.add(l.id)
		c.albumLines++
	}
	if err := c.rows(`INSERT INTO albums (id, title, sort_key, type, artist_id, date, upc, popularity, available_in, import_hash, created_at, updated_at, art_version, curated) VALUES `,
		"?,?,?,?,?,?,?,?,?,?,?,?,'',1", ` ON CONFLICT (id) DO UPDATE SET title = excluded.title, sort_key = excluded.sort_key, type = excluded.type, artist_id = excluded.artist_id,
		date = excluded.date, upc = excluded.upc, available_in = excluded.available_in, import_hash = excluded.import_hash, curated = 1, updated_at = excluded.updated_at,
		popularity = CASE WHEN excluded.popularity = 0 THEN albums.popularity ELSE excluded.popularity END`, rows); err != nil {
		return err
	}
	return c.putCredits("album", parts)
}

func (c *chunk) putTracks(lines []line) error {
	refs := set{}
	for _, l := range lines {
		refs.add(api.ImportID("album", l.AlbumID))
	}
	albumArtist := map[string]string{}
	if err := c.query(`SELECT id, artist_id FROM albums WHERE id IN %s`, refs.list(), func(r *sql.Rows) error {
		var id, artist string
		err := r.Scan(&id, &artist)
		albumArtist[id] = artist
		return err
	}); err != nil {
		return err
	}
	var rows [][]any
	parts := map[string][]part{}
	for _, l := range lines {
		album := api.ImportID("album", l.AlbumID)
		if albumArtist[album] == "" {
			c.failed[l.number] = fmt.Errorf("album_id: there is no album %s: %w", l.AlbumID, media.ErrInvalid)
			continue
		}
		p := []part{{albumArtist[album], api.RoleMain, ""}}
		if len(l.Artists) > 0 {
			var err error
			if p, err = partsOf(l.Artists, c.byIDs, c.byNames); err != nil {
				c.failed[l.number] = err
				continue
			}
		}
		rows = append(rows, []any{l.id, album, p[0].id, l.Title, sortKey(l.Title), l.DurationMS, l.DiscNumber, l.TrackNumber, l.Date, l.genres, l.isrc, l.Popularity, l.availableIn, l.hash, c.now, c.now})
		parts[l.id] = p
		c.tracks.add(l.id)
		if _, ok := c.known[l.id]; !ok {
			c.fresh[l.id] = genred{[]byte(l.genres), l.Popularity}
		}
		c.albums.add(album)
		c.artists.add(p[0].id)
		c.trackLines++
	}
	// With media, the length is that of the media.
	if err := c.rows(`INSERT INTO tracks (id, album_id, artist_id, title, sort_key, duration_ms, disc_number, track_number, date, genres, isrc, popularity, available_in, import_hash,
		created_at, updated_at, version, renditions, loudness, curated) VALUES `, "?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,'','[]','{}',1",
		` ON CONFLICT (id) DO UPDATE SET album_id = excluded.album_id, artist_id = excluded.artist_id, title = excluded.title, sort_key = excluded.sort_key,
		duration_ms = CASE WHEN tracks.version = '' THEN excluded.duration_ms ELSE tracks.duration_ms END, disc_number = excluded.disc_number, track_number = excluded.track_number,
		date = excluded.date, genres = excluded.genres, isrc = excluded.isrc, available_in = excluded.available_in, import_hash = excluded.import_hash, curated = 1,
		updated_at = excluded.updated_at, popularity = CASE WHEN excluded.popularity = 0 THEN tracks.popularity ELSE excluded.popularity END`, rows); err != nil {
		return err
	}
	return c.putCredits("track", parts)
}
