package catalog

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
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
	ctx      context.Context
	tx       *sql.Tx
	embedded bool // SQLite
	now      int64

	stmts                   map[string]*sql.Stmt // of SQLite
	locked                  set                  // artists and albums whose rows this transaction has written, and that say so
	tracks, albums, artists set
	fresh                   map[string]genred // tracks that are new: there is nothing old about them to look for
	settled                 bool
}

// genred is what a track's place on the pages of genres follows from.
type genred struct {
	genres     []byte
	popularity float64
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

func (s *Service) newWrite(ctx context.Context, tx *sql.Tx) *write {
	return &write{ctx: ctx, tx: tx, embedded: s.db.Embedded, now: store.Micros(time.Now()), stmts: map[string]*sql.Stmt{}, locked: set{}, tracks: set{}, albums: set{}, artists: set{},
		fresh: map[string]genred{}}
}

func (w *write) exec(text string, args ...any) error {
	_, err := w.tx.ExecContext(w.ctx, text, args...)
	return err
}

// A statement takes very many values at once: on PostgreSQL as arrays, one parameter each, so that a text is parsed and
// planned once for all. SQLite has no arrays; it takes as many parameters without names (it looks for a name by walking a
// list, which for thousands of $1, $2, … is all it does).
const (
	manyValues = 1024    // parameters of a statement on SQLite
	manyIDs    = 1 << 14 // of an array
)

// query calls row for every row over ids. Its text has one "IN %s".
func (w *write) query(text string, ids []string, row func(*sql.Rows) error) error {
	return w.lists(text, ids, nil, func(text string, args []any) error {
		if !w.embedded {
			return query(w.ctx, w.tx, text, args, row)
		}
		stmt, err := w.prepare(text)
		if err != nil {
			return err
		}
		return rowsOf(stmt.QueryContext(w.ctx, args...))(row)
	})
}

// over runs a statement over ids, some at a time. Its text has one "IN %s"; the parameters before it are args.
func (w *write) over(text string, ids []string, args ...any) error {
	return w.lists(text, ids, args, w.run)
}

func (w *write) lists(text string, ids []string, args []any, run func(text string, args []any) error) error {
	most := manyValues
	if !w.embedded {
		most = manyIDs
	}
	for some := range slices.Chunk(ids, most) {
		in, list := "= ANY($"+strconv.Itoa(len(args)+1)+")", []any{some}
		if w.embedded {
			// A power of two, so that few texts are prepared.
			n := 1
			for n < len(some) {
				n *= 2
			}
			in, list = "IN (?"+strings.Repeat(",?", n-1)+")", make([]any, n)
			for i := range list {
				list[i] = some[min(i, len(some)-1)]
			}
		}
		if err := run(strings.Replace(text, "IN %s", in, 1), append(slices.Clone(args), list...)); err != nil {
			return err
		}
	}
	return nil
}

// run is exec with a statement that SQLite prepares once in a transaction; pgx does so by itself.
func (w *write) run(text string, args []any) error {
	if !w.embedded {
		return w.exec(text, args...)
	}
	stmt, err := w.prepare(text)
	if err == nil {
		_, err = stmt.ExecContext(w.ctx, args...)
	}
	return err
}

func (w *write) prepare(text string) (stmt *sql.Stmt, err error) {
	if stmt = w.stmts[text]; stmt == nil {
		if stmt, err = w.tx.PrepareContext(w.ctx, text); err == nil {
			w.stmts[text] = stmt // closed with the transaction
		}
	}
	return stmt, err
}

// rows runs a statement that takes many rows: head, which ends with "VALUES ", the rows, and tail. marks is one row: "?",
// or "?::TYPE" for a cast, is a parameter, and anything else is as it is. A column has values of one Go type.
func (w *write) rows(head, marks, tail string, rows [][]any) error {
	if len(rows) == 0 {
		return nil
	}
	if !w.embedded {
		text, args := arrays(marks, rows)
		return w.exec(strings.TrimSuffix(head, "VALUES ")+text+tail, args...)
	}
	n := 64 // and then powers of two
	for len(rows) > 0 {
		for n > 1 && (n > len(rows) || n*len(rows[0]) > manyValues) {
			n /= 2
		}
		args := make([]any, 0, n*len(rows[0]))
		for _, r := range rows[:n] {
			args = append(args, r...)
		}
		if err := w.run(head+valuesList(marks, n)+tail, args); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

// valuesList is n rows for SQLite.
func valuesList(marks string, n int) string {
	parts := strings.Split(marks, ",")
	for i, p := range parts {
		if _, cast, ok := strings.Cut(p, "::"); ok {
			parts[i] = "CAST(? AS " + cast + ")"
		}
	}
	row := "(" + strings.Join(parts, ",") + ")"
	return row + strings.Repeat(","+row, n-1)
}

// arrays is rows for PostgreSQL: an array of each column. The columns are called as those of a VALUES list are.
func arrays(marks string, rows [][]any) (string, []any) {
	var list, from, names []string
	var args []any
	for i, p := range strings.Split(marks, ",") {
		if p[0] != '?' {
			list = append(list, p)
			continue
		}
		j := len(args)
		kind := ""
		switch rows[0][j].(type) {
		case string:
			kind, args = "TEXT", append(args, column[string](rows, j))
		case int:
			kind, args = "BIGINT", append(args, column[int](rows, j))
		case int64:
			kind, args = "BIGINT", append(args, column[int64](rows, j))
		case float64:
			kind, args = "DOUBLE PRECISION", append(args, column[float64](rows, j))
		default:
			panic(fmt.Sprintf("bug: a row with a %T", rows[0][j]))
		}
		name := "column" + strconv.Itoa(i+1)
		list, names, from = append(list, name), append(names, name), append(from, "CAST($"+strconv.Itoa(j+1)+" AS "+kind+"[])")
	}
	return "SELECT " + strings.Join(list, ",") + " FROM unnest(" + strings.Join(from, ",") + ") AS u(" + strings.Join(names, ",") + ")", args
}

func column[T any](rows [][]any, j int) []T {
	out := make([]T, len(rows))
	for i, r := range rows {
		out[i] = r[j].(T)
	}
	return out
}

// lock takes the rows of albums and artists, which also puts writers of one album in a line: the counts that settle
// makes see what the one before committed.
func (w *write) lock() error {
	if err := w.over(`UPDATE albums SET updated_at = $1 WHERE id IN %s`, w.unlocked(w.albums.list()), w.now); err != nil {
		return err
	}
	return w.over(`UPDATE artists SET updated_at = $1 WHERE id IN %s`, w.unlocked(w.artists.list()), w.now)
}

func (w *write) unlocked(ids []string) []string {
	return slices.DeleteFunc(ids, func(id string) bool { _, ok := w.locked[id]; return ok })
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
	var ids []string
	for _, id := range w.tracks.list() {
		if _, ok := w.fresh[id]; !ok {
			ids = append(ids, id)
		}
	}
	old := false
	if err := w.query(`SELECT genre_id, count(*) FROM track_genres WHERE track_id IN %s GROUP BY genre_id`, ids, func(rows *sql.Rows) error {
		var genre string
		var n int
		err := rows.Scan(&genre, &n)
		delta[genre] -= n
		old = true
		return err
	}); err != nil {
		return err
	}
	if old {
		if err := w.over(`DELETE FROM track_genres WHERE track_id IN %s`, ids); err != nil {
			return err
		}
	}
	var rows [][]any
	add := func(id string, g genred) error {
		return eachGenre(g.genres, names, func(genre string) {
			delta[genre]++
			rows = append(rows, []any{id, genre, g.popularity})
		})
	}
	if err := w.query(`SELECT id, genres, popularity FROM tracks WHERE id IN %s AND removed_at = 0`, ids, func(r *sql.Rows) error {
		var id string
		var genres sql.RawBytes
		var g genred
		if err := r.Scan(&id, &genres, &g.popularity); err != nil {
			return err
		}
		g.genres = genres
		return add(id, g)
	}); err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(w.fresh)) {
		if err := add(id, w.fresh[id]); err != nil {
			return err
		}
	}
	if err := w.putGenres(names); err != nil {
		return err
	}
	return w.rows(`INSERT INTO track_genres (track_id, genre_id, popularity) VALUES `, "?,?,?", "", rows)
}

// eachGenre calls f for every genre of a JSON list, once, and notes what it is called.
func eachGenre(list []byte, names map[string]string, f func(id string)) error {
	if len(list) == 2 { // []
		return nil
	}
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

// putGenres makes the genres that there are not yet, and notes the names that the others have: the first spelling stays.
func (w *write) putGenres(names map[string]string) error {
	missing := maps.Clone(names)
	if err := w.query(`SELECT id, name FROM genres WHERE id IN %s`, slices.Sorted(maps.Keys(names)), func(r *sql.Rows) error {
		var id, name string
		err := r.Scan(&id, &name)
		names[id] = name
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
	if err := w.over(`UPDATE artists SET updated_at = $1 WHERE id IN %s`, w.unlocked(slices.Clone(ids)), w.now); err != nil {
		return nil, err
	}
	w.locked.add(ids...)
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
