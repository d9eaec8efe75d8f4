package catalog

import (
	"context"
	"database/sql"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"

	"github.com/oklog/ulid/v2"
)

// write is one transaction that changes the catalogue. Its user notes what it touches; settle then brings up to date
// what follows from the rows (counts, an album's genres, the genres' pages), and emit tells. What follows is always made
// from the rows anew, never by adding to what was there; only the counts of genres, whose rows are too many, are.
type write struct {
	ctx context.Context
	tx  *sql.Tx
	now int64

	stmts                   map[string]*sql.Stmt
	tracks, albums, artists set
	settled                 bool
}

type set map[string]struct{}

func (s set) add(ids ...string) {
	for _, id := range ids {
		if id != "" {
			s[id] = struct{}{}
		}
	}
}

// list is in order: two writers that lock the same rows do it in the same order, mostly.
func (s set) list() []string { return slices.Sorted(maps.Keys(s)) }

func newWrite(ctx context.Context, tx *sql.Tx) *write {
	return &write{ctx, tx, store.Micros(time.Now()), map[string]*sql.Stmt{}, set{}, set{}, set{}, false}
}

func (w *write) exec(text string, args ...any) error {
	_, err := w.tx.ExecContext(w.ctx, text, args...)
	return err
}

// query calls row for every row over ids; see each.
func (w *write) query(text string, ids []string, row func(*sql.Rows) error) error {
	return each(w.ctx, w.tx, text, ids, row)
}

// over runs a statement over ids, some at a time. Its text has one %s for the IN list; args come after the ids.
func (w *write) over(text string, ids []string, args ...any) error {
	for some := range slices.Chunk(ids, inMost) {
		in, list := anyOf(1+len(args), some)
		if err := w.exec(strings.Replace(text, "%s", in, 1), append(slices.Clone(args), list...)...); err != nil {
			return err
		}
	}
	return nil
}

// rows runs a statement that takes many rows: head + VALUES lists + tail. marks is one row: "?", or "?::TYPE" for a cast,
// is a parameter, and anything else is as it is. Rows go 256 at a time, so that few texts are prepared however many there are.
func (w *write) rows(head, marks, tail string, rows [][]any) error {
	for len(rows) > 0 {
		n := 1
		for _, size := range []int{256, 32, 8} {
			if len(rows) >= size {
				n = size
				break
			}
		}
		text := head + "\x00" + marks + "\x00" + tail + strconv.Itoa(n)
		stmt := w.stmts[text]
		if stmt == nil {
			var err error
			if stmt, err = w.tx.PrepareContext(w.ctx, head+valuesList(marks, n)+tail); err != nil {
				return err
			}
			w.stmts[text] = stmt // closed with the transaction
		}
		args := make([]any, 0, n*len(rows[0]))
		for _, r := range rows[:n] {
			args = append(args, r...)
		}
		if _, err := stmt.ExecContext(w.ctx, args...); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

func valuesList(marks string, n int) string {
	parts := strings.Split(marks, ",")
	var b strings.Builder
	at := 0
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		for j, p := range parts {
			b.WriteString(map[bool]string{true: "(", false: ","}[j == 0])
			if p[0] != '?' {
				b.WriteString(p)
				continue
			}
			at++
			if _, cast, ok := strings.Cut(p, "::"); ok {
				b.WriteString("CAST($" + strconv.Itoa(at) + " AS " + cast + ")")
			} else {
				b.WriteString("$" + strconv.Itoa(at))
			}
		}
		b.WriteByte(')')
	}
	return b.String()
}

// lock takes the rows of albums and artists, which also puts writers of one album in a line: the counts that settle
// makes see what the one before committed.
func (w *write) lock() error {
	if err := w.over(`UPDATE albums SET updated_at = $1 WHERE id IN %s`, w.albums.list(), w.now); err != nil {
		return err
	}
	return w.over(`UPDATE artists SET updated_at = $1 WHERE id IN %s`, w.artists.list(), w.now)
}

func (w *write) settle() error {
	if w.settled {
		return nil
	}
	w.settled = true
	if err := w.lock(); err != nil {
		return err
	}
	trackDelta, albumDelta := map[string]int{}, map[string]int{}
	names := map[string]string{}
	if err := w.settleTracks(trackDelta, names); err != nil {
		return err
	}
	if err := w.settleAlbums(albumDelta, names); err != nil {
		return err
	}
	if err := w.countGenres(trackDelta, albumDelta); err != nil {
		return err
	}
	return w.over(`UPDATE artists SET
		album_count = (SELECT count(*) FROM albums a WHERE a.artist_id = artists.id AND a.removed_at = 0)
			+ (SELECT count(*) FROM album_credits c JOIN albums a ON a.id = c.album_id WHERE c.artist_id = artists.id AND a.artist_id <> artists.id AND a.removed_at = 0),
		track_count = (SELECT count(*) FROM tracks t WHERE t.artist_id = artists.id AND t.removed_at = 0)
			+ (SELECT count(DISTINCT t.id) FROM track_credits c JOIN tracks t ON t.id = c.track_id
				WHERE c.artist_id = artists.id AND t.artist_id <> artists.id AND c.role IN ('main', 'featured', 'remixer') AND t.removed_at = 0)
		WHERE id IN %s`, w.artists.list())
}

// settleTracks makes the rows of genres' pages.
func (w *write) settleTracks(delta map[string]int, names map[string]string) error {
	ids := w.tracks.list()
	count := func(by int) func(rows *sql.Rows) error {
		return func(rows *sql.Rows) error {
			var genre string
			var n int
			err := rows.Scan(&genre, &n)
			delta[genre] += by * n
			return err
		}
	}
	if err := w.query(`SELECT genre_id, count(*) FROM track_genres WHERE track_id IN %s GROUP BY genre_id`, ids, count(-1)); err != nil {
		return err
	}
	if len(delta) > 0 {
		if err := w.over(`DELETE FROM track_genres WHERE track_id IN %s`, ids); err != nil {
			return err
		}
	}
	var rows [][]any
	if err := w.query(`SELECT id, genres, popularity FROM tracks WHERE id IN %s AND removed_at = 0 AND genres <> '[]'`, ids, func(r *sql.Rows) error {
		var id string
		var genres sql.RawBytes
		var popularity float64
		if err := r.Scan(&id, &genres, &popularity); err != nil {
			return err
		}
		return eachGenre(genres, names, func(genre string) {
			delta[genre]++
			rows = append(rows, []any{id, genre, popularity})
		})
	}); err != nil {
		return err
	}
	if err := w.putGenres(names); err != nil {
		return err
	}
	return w.rows(`INSERT INTO track_genres (track_id, genre_id, popularity) VALUES `, "?,?,?", "", rows)
}

// eachGenre calls f for every genre of a JSON list, once, and notes what it is called.
func eachGenre(list []byte, names map[string]string, f func(id string)) error {
	var genres []string
	if err := json.Unmarshal(list, &genres); err != nil {
		return err
	}
	var seen []string
	for _, g := range genres {
		id := genreID(g)
		if id == "" || slices.Contains(seen, id) {
			continue
		}
		seen = append(seen, id)
		if names[id] == "" {
			names[id] = g
		}
		f(id)
	}
	return nil
}

// putGenres makes the genres that there are not yet.
func (w *write) putGenres(names map[string]string) error {
	missing := maps.Clone(names)
	if err := w.query(`SELECT id FROM genres WHERE id IN %s`, slices.Sorted(maps.Keys(names)), func(r *sql.Rows) error {
		var id string
		err := r.Scan(&id)
		delete(missing, id)
		return err
	}); err != nil {
		return err
	}
	var rows [][]any
	for _, id := range slices.Sorted(maps.Keys(missing)) {
		rows = append(rows, []any{id, missing[id]})
	}
	return w.rows(`INSERT INTO genres (id, name) VALUES `, "?,?", ` ON CONFLICT (id) DO NOTHING`, rows)
}

// maxAlbumGenres: an album is found under the genres that most of its tracks have.
const maxAlbumGenres = 5

// settleAlbums counts the tracks of albums and takes over their genres.
func (w *write) settleAlbums(delta map[string]int, names map[string]string) error {
	type sum struct {
		tracks, durationMS int64
		genres             map[string]int
	}
	ids := w.albums.list()
	sums := map[string]*sum{}
	if err := w.query(`SELECT album_id, duration_ms, genres FROM tracks WHERE album_id IN %s AND removed_at = 0`, ids, func(r *sql.Rows) error {
		var id string
		var ms int64
		var genres sql.RawBytes
		if err := r.Scan(&id, &ms, &genres); err != nil {
			return err
		}
		a := sums[id]
		if a == nil {
			a = &sum{genres: map[string]int{}}
			sums[id] = a
		}
		a.tracks++
		a.durationMS += ms
		if len(genres) == 2 {
			return nil
		}
		return eachGenre(genres, names, func(genre string) { a.genres[genre]++ })
	}); err != nil {
		return err
	}
	if err := w.putGenres(names); err != nil {
		return err
	}
	known := false
	if err := w.query(`SELECT genre_id, count(*) FROM album_genres WHERE album_id IN %s GROUP BY genre_id`, ids, func(r *sql.Rows) error {
		var genre string
		var n int
		err := r.Scan(&genre, &n)
		delta[genre] -= n
		known = true
		return err
	}); err != nil {
		return err
	}
	if known {
		if err := w.over(`DELETE FROM album_genres WHERE album_id IN %s`, ids); err != nil {
			return err
		}
	}
	var updates, genres [][]any
	if err := w.query(`SELECT id, date, removed_at FROM albums WHERE id IN %s`, ids, func(r *sql.Rows) error {
		var id, date string
		var removed int64
		if err := r.Scan(&id, &date, &removed); err != nil {
			return err
		}
		a := sums[id]
		if a == nil {
			a = &sum{}
		}
		most := slices.SortedFunc(maps.Keys(a.genres), func(x, y string) int {
			if d := a.genres[y] - a.genres[x]; d != 0 {
				return d
			}
			return strings.Compare(x, y)
		})
		most = most[:min(len(most), maxAlbumGenres)]
		called := []string{}
		for _, g := range most {
			called = append(called, names[g])
			if removed == 0 {
				genres = append(genres, []any{id, g, date})
				delta[g]++
			}
		}
		updates = append(updates, []any{id, a.tracks, a.durationMS, text(called)})
		return nil
	}); err != nil {
		return err
	}
	if err := w.rows(`UPDATE albums SET track_count = v.column2, duration_ms = v.column3, genres = v.column4 FROM (VALUES `, "?::TEXT,?::BIGINT,?::BIGINT,?::TEXT",
		`) AS v WHERE albums.id = v.column1`, updates); err != nil {
		return err
	}
	return w.rows(`INSERT INTO album_genres (album_id, genre_id, date) VALUES `, "?,?,?", "", genres)
}

func (w *write) countGenres(tracks, albums map[string]int) error {
	all := set{}
	all.add(slices.Collect(maps.Keys(tracks))...)
	all.add(slices.Collect(maps.Keys(albums))...)
	for _, id := range all.list() {
		if tracks[id] == 0 && albums[id] == 0 {
			continue
		}
		if err := w.exec(`UPDATE genres SET track_count = track_count + $1, album_count = album_count + $2 WHERE id = $3`, tracks[id], albums[id], id); err != nil {
			return err
		}
	}
	return nil
}

// emitMost bounds one event, far below what the log takes in one message.
const emitMost = 1000

func (w *write) emit() error {
	for kind, ids := range map[string]set{"track": w.tracks, "album": w.albums, "artist": w.artists} {
		for some := range slices.Chunk(ids.list(), emitMost) {
			if err := store.Emit(w.ctx, w.tx, kind, some...); err != nil {
				return err
			}
		}
	}
	return nil
}

// byName finds the artists of these names, or makes them, and touches them: name key -> id.
func (w *write) byName(list []string) (map[string]string, error) {
	called := map[string]string{}
	for _, name := range list {
		if _, ok := called[nameKey(name)]; !ok {
			called[nameKey(name)] = name
		}
	}
	keys := slices.Sorted(maps.Keys(called))
	var rows [][]any
	for _, key := range keys {
		rows = append(rows, []any{ulid.Make().String(), called[key], key, sortKey(called[key]), w.now})
	}
	// The update locks the row: an artist that is being merged is the other one afterwards.
	if err := w.rows(`INSERT INTO artists (id, name, name_key, sort_key, updated_at) VALUES `, "?,?,?,?,?",
		` ON CONFLICT (name_key) DO UPDATE SET updated_at = excluded.updated_at`, rows); err != nil {
		return nil, err
	}
	out := map[string]string{}
	err := w.query(`SELECT name_key, id, merged_into FROM artists WHERE name_key IN %s`, keys, func(r *sql.Rows) error {
		var key, id, into string
		err := r.Scan(&key, &id, &into)
		if into != "" {
			id = into
		}
		out[key] = id
		w.artists.add(id)
		return err
	})
	return out, err
}

// byID finds artists by id, locks and touches them: id -> id, or who it was merged into. Unknown ones are not in it.
func (w *write) byID(ids []string) (map[string]string, error) {
	ids = slices.Sorted(slices.Values(ids))
	ids = slices.Compact(ids)
	out := map[string]string{}
	if err := w.over(`UPDATE artists SET updated_at = $1 WHERE id IN %s`, ids, w.now); err != nil {
		return nil, err
	}
	err := w.query(`SELECT id, merged_into FROM artists WHERE id IN %s`, ids, func(r *sql.Rows) error {
		var id, into string
		err := r.Scan(&id, &into)
		out[id] = id
		if into != "" {
			out[id] = into
		}
		w.artists.add(out[id])
		return err
	})
	return out, err
}

// part is an artist of an album or track with a known id.
type part struct{ id, role, join string }

// putCredits writes the artists from position 1 on; what was there goes.
func (w *write) putCredits(kind string, parts map[string][]part) error {
	ids := slices.Sorted(maps.Keys(parts))
	old := false
	if err := w.query(`SELECT artist_id FROM `+kind+`_credits WHERE `+kind+`_id IN %s`, ids, func(r *sql.Rows) error {
		var id string
		err := r.Scan(&id)
		w.artists.add(id)
		old = true
		return err
	}); err != nil {
		return err
	}
	if old {
		if err := w.over(`DELETE FROM `+kind+`_credits WHERE `+kind+`_id IN %s`, ids); err != nil {
			return err
		}
	}
	var rows [][]any
	for _, id := range ids {
		for i, p := range parts[id] {
			if i > 0 {
				rows = append(rows, []any{id, i, p.id, p.role, p.join})
			}
		}
	}
	return w.rows(`INSERT INTO `+kind+`_credits (`+kind+`_id, position, artist_id, role, join_phrase) VALUES `, "?,?,?,?,?", "", rows)
}

func nameKey(name string) string { return bounded(strings.ToLower(name)) }

// joinOf is what stands before an artist when nothing is said.
func joinOf(role string) string {
	switch role {
	case api.RoleMain:
		return ", "
	case api.RoleFeatured:
		return " feat. "
	case api.RoleRemixer:
		return " remixed by "
	}
	return ""
}
