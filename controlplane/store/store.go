// Package store is the control plane's SQL: one handle for SQLite and PostgreSQL, migrations, transactions and the
// outbox. Statements are the same text on both, with $1 placeholders; services own theirs.
package store

import (
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"strings"
	"time"

	"segue/internal/serve"

	"github.com/jackc/pgx/v5/pgconn"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"github.com/oklog/ulid/v2"
	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

//go:embed migrations/*.sql
var migrations embed.FS

// DB is the handle. Its embedded *sql.DB runs single statements; writes of several go through Tx.
type DB struct {
	*sql.DB
	Embedded bool // SQLite: one replica only

	// Observe, when set before use, is told of every statement outside of a transaction (by its text, which holds no values)
	// and of every transaction; what it returns is told of the end.
	Observe func(ctx context.Context, text string) (context.Context, func(error))
}

func (db *DB) observe(ctx context.Context, text string) (context.Context, func(error)) {
	if db.Observe == nil {
		return ctx, func(error) {}
	}
	return db.Observe(ctx, text)
}

// ExecContext is sql.DB's.
func (db *DB) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	ctx, end := db.observe(ctx, query)
	res, err := db.DB.ExecContext(ctx, query, args...)
	end(err)
	return res, err
}

// QueryContext is sql.DB's.
func (db *DB) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	octx, end := db.observe(ctx, query)
	rows, err := db.DB.QueryContext(octx, query, args...)
	end(err)
	return rows, err
}

// QueryRowContext is sql.DB's.
func (db *DB) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	octx, end := db.observe(ctx, query)
	row := db.DB.QueryRowContext(octx, query, args...)
	end(row.Err())
	return row
}

// Open connects and brings the schema up to date. dsn is sqlite:PATH or a postgres:// URL. What the operator can mend
// (an unreachable server, an unwritable file, a wrong URL) is a serve.SetupError that never holds the password.
func Open(ctx context.Context, dsn string) (*DB, error) {
	driver, dialect, name := "pgx", goose.DialectPostgres, dsn
	path, embedded := strings.CutPrefix(dsn, "sqlite:")
	if embedded {
		q := url.Values{"_txlock": {"immediate"}, "_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(NORMAL)", "foreign_keys(1)", "cache_size(-16384)", "temp_store(memory)"}}
		driver, dialect, name = "sqlite", goose.DialectSQLite3, "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+q.Encode()
	} else if !strings.HasPrefix(dsn, "postgres://") && !strings.HasPrefix(dsn, "postgresql://") {
		return nil, serve.Setupf("database %q: want sqlite:PATH or postgres://user@host/name", redact(dsn))
	}
	db, err := sql.Open(driver, name)
	if err != nil {
		return nil, serve.Setupf("database %s: not a valid URL", redact(dsn))
	}
	db.SetMaxOpenConns(16)
	db.SetMaxIdleConns(16)
	pctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := db.PingContext(pctx); err != nil {
		db.Close()
		return nil, serve.Setupf("database %s: %w; start it, or correct --database", redact(dsn), oneLine{err})
	}
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, fmt.Errorf("bug: %w", err)
	}
	provider, err := goose.NewProvider(dialect, db, dir)
	if err == nil {
		_, err = provider.Up(ctx)
	}
	if err != nil {
		db.Close()
		return nil, serve.Setupf("database %s: migrate: %w", redact(dsn), err)
	}
	return &DB{DB: db, Embedded: embedded}, nil
}

// oneLine prints an error of several lines, as pgx makes them, as one.
type oneLine struct{ error }

func (e oneLine) Error() string { return strings.Join(strings.Fields(e.error.Error()), " ") }
func (e oneLine) Unwrap() error { return e.error }

func redact(dsn string) string {
	u, err := url.Parse(dsn)
	if err != nil {
		return "(unreadable)"
	}
	return u.Redacted()
}

// Tx runs f in one transaction, and again when the database says that it lost a race; f must not keep anything from a
// run that did not commit.
func (db *DB) Tx(ctx context.Context, f func(*sql.Tx) error) (err error) {
	ctx, end := db.observe(ctx, "transaction")
	defer func() { end(err) }()
	for try := 0; ; try++ {
		err = db.once(ctx, f)
		if err == nil || try == 9 || !raced(err) || ctx.Err() != nil {
			return err
		}
		time.Sleep(time.Duration(rand.Int64N(int64(time.Millisecond) << try)))
	}
}

func (db *DB) once(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // no effect after Commit
	if err := f(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// raced: serialisation failure and deadlock in PostgreSQL, a busy writer in SQLite.
func raced(err error) bool {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code == "40001" || pg.Code == "40P01"
	}
	if lite, ok := errors.AsType[*sqlite.Error](err); ok {
		return lite.Code()&0xff == sqlite3.SQLITE_BUSY
	}
	return false
}

// Duplicate reports whether a statement failed because a unique value was there already.
func Duplicate(err error) bool {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code == "23505"
	}
	if lite, ok := errors.AsType[*sqlite.Error](err); ok {
		return lite.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || lite.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY
	}
	return false
}

// Micros and Time convert the form in which times are stored.
func Micros(t time.Time) int64    { return t.UnixMicro() }
func Time(micros int64) time.Time { return time.UnixMicro(micros).UTC() }

// Event is one outbox entry.
type Event struct {
	ID      string
	Subject string
	Body    []byte // JSON
}

// Changed is the body of every event about rows that readers outside SQL copy (search, caches, feeds): which ones, not
// what they are now. A reader asks SQL for them, so neither the order of events nor a repeat can leave it behind.
type Changed struct {
	Kind string   `json:"kind"` // track, album, artist, playlist, user
	IDs  []string `json:"ids"`  // made, changed or deleted
}

// Emit writes an event in the transaction of the change that it tells of. Its subject is catalog.<kind>.
func Emit(ctx context.Context, tx *sql.Tx, kind string, ids ...string) error {
	body, err := json.Marshal(Changed{kind, ids})
	if err != nil {
		return fmt.Errorf("bug: %w", err)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO outbox (id, subject, body) VALUES ($1, $2, $3)`, ulid.Make().String(), "catalog."+kind, string(body))
	return err
}

// ErrFull: as much waits in the outbox as may.
var ErrFull = errors.New("the outbox is full")

// Keep puts events into the outbox, unless limit or more wait there already: ErrFull, and none is kept. One that waits
// already is not kept twice. The bound is soft: those who come at once may pass it together.
func (db *DB) Keep(ctx context.Context, limit int, events ...Event) error {
	return db.Tx(ctx, func(tx *sql.Tx) error {
		var waiting int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM (SELECT 1 FROM outbox LIMIT $1) AS w`, limit).Scan(&waiting); err != nil {
			return fmt.Errorf("outbox: %w", err)
		}
		if waiting >= limit {
			return ErrFull
		}
		for _, e := range events {
			if _, err := tx.ExecContext(ctx, `INSERT INTO outbox (id, subject, body) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING`, e.ID, e.Subject, string(e.Body)); err != nil {
				return fmt.Errorf("outbox: %w", err)
			}
		}
		return nil
	})
}

// relayed is how many events go in one batch.
const relayed = 256

// Relay moves committed events to publish, oldest first, until ctx ends; a batch leaves the outbox after publish took all
// of it. publish sees events again that it took before (a batch that failed half way, several replicas that relay at
// once), with the same ID: it drops the second.
func (db *DB) Relay(ctx context.Context, every time.Duration, publish func(ctx context.Context, batch []Event) error, failed func(error)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	failing := false
	for {
		n, err := db.relay(ctx, publish)
		if err != nil && ctx.Err() == nil && !failing {
			failed(fmt.Errorf("relay outbox: %w", err)) // once: not five times a second, for hours
		}
		failing = err != nil
		if n == relayed && err == nil {
			continue // there may be more
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (db *DB) relay(ctx context.Context, publish func(ctx context.Context, batch []Event) error) (int, error) {
	rows, err := db.DB.QueryContext(ctx, `SELECT id, subject, body FROM outbox ORDER BY id LIMIT $1`, relayed)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var events []Event
	for rows.Next() {
		var e Event
		var body string
		if err := rows.Scan(&e.ID, &e.Subject, &body); err != nil {
			return 0, err
		}
		e.Body = []byte(body)
		events = append(events, e)
	}
	if err := rows.Err(); err != nil {
		return 0, err
	}
	rows.Close()
	if len(events) == 0 {
		return 0, nil
	}
	if err := publish(ctx, events); err != nil {
		return 0, err
	}
	return len(events), db.Tx(ctx, func(tx *sql.Tx) error {
		for _, e := range events {
			if _, err := tx.ExecContext(ctx, `DELETE FROM outbox WHERE id = $1`, e.ID); err != nil {
				return err
			}
		}
		return nil
	})
}
