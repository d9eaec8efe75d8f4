package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path"

	"segue/internal/serve"
)

// ErrNotEmbedded: the database is a PostgreSQL, which has tools of its own.
var ErrNotEmbedded = errors.New("the database is PostgreSQL: keep it with pg_dump, see docs/operations.md")

// Snapshot writes a copy of the database as it is at one moment to a new file, while others read and write on.
func (db *DB) Snapshot(ctx context.Context, to string) error {
	if !db.Embedded {
		return ErrNotEmbedded
	}
	if _, err := db.DB.ExecContext(ctx, `VACUUM INTO $1`, to); err != nil {
		return fmt.Errorf("copy the database: %w", err)
	}
	return nil
}

// SnapshotFile is Snapshot of a SQLite file that nobody has open. The file's schema stays what it is: a backup before an
// upgrade is of what was before it.
func SnapshotFile(ctx context.Context, from, to string) error {
	db, err := openFile(from)
	if err != nil {
		return err
	}
	defer db.Close()
	return (&DB{DB: db, Embedded: true}).Snapshot(ctx, to)
}

// CheckFile says whether a SQLite file is whole, and of a schema that this program knows. Errors: serve.SetupError.
func CheckFile(ctx context.Context, file string) error {
	db, err := openFile(file)
	if err != nil {
		return err
	}
	defer db.Close()
	var verdict string
	if err := db.QueryRowContext(ctx, `PRAGMA quick_check`).Scan(&verdict); err != nil {
		return serve.Setupf("database: %w", err)
	}
	if verdict != "ok" {
		return serve.Setupf("database is damaged: %s", verdict)
	}
	var schema int
	if err := db.QueryRowContext(ctx, `SELECT max(version_id) FROM goose_db_version WHERE is_applied = 1`).Scan(&schema); err != nil {
		return serve.Setupf("database is none of Segue: %w", err)
	}
	if newest, err := newestSchema(); err != nil {
		return err
	} else if schema > newest {
		return serve.Setupf("database is of a newer Segue (schema %d, this one knows %d): use that one", schema, newest)
	}
	return nil
}

func openFile(file string) (*sql.DB, error) {
	q := url.Values{"mode": {"rw"}, "_pragma": {"busy_timeout(10000)"}}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: file}).EscapedPath()+"?"+q.Encode())
	if err != nil {
		return nil, serve.Setupf("database %s: %w", file, err)
	}
	return db, nil
}

// newestSchema is the number of the last migration.
func newestSchema() (int, error) {
	list, err := migrations.ReadDir("migrations")
	if err != nil || len(list) == 0 {
		return 0, fmt.Errorf("bug: migrations: %w", err)
	}
	var n int
	if _, err := fmt.Sscanf(path.Base(list[len(list)-1].Name()), "%d_", &n); err != nil { // ReadDir sorts
		return 0, fmt.Errorf("bug: migrations: %w", err)
	}
	return n, nil
}
