package store_test

import (
	"database/sql"
	"os"
	"testing"

	"segue/controlplane/store"
	"segue/internal/testenv"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

// TestMigrateIdentity: a database from before devices goes on with its accounts, admin tokens, keys and plays.
func TestMigrateIdentity(t *testing.T) {
	test := func(t *testing.T, driver string, dialect goose.Dialect, name, dsn string) {
		db, err := sql.Open(driver, name)
		if err != nil {
			t.Fatal(err)
		}
		provider, err := goose.NewProvider(dialect, db, os.DirFS("migrations"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := provider.UpTo(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
		for _, q := range []string{
			`INSERT INTO users (id, email, email_key, display_name, password_hash, plan, created_at) VALUES ('u', 'A@b.c', 'a@b.c', 'A', 'h', 'premium', 1)`,
			`INSERT INTO sessions (id, user_id, device_type, device_name, created_at, seen_at, expires_at) VALUES ('s', 'u', 'web', 'Browser', 1, 1, 1)`,
			`INSERT INTO refresh_tokens (hash, session_id) VALUES ('r', 's')`,
			`INSERT INTO admin_tokens (hash, name, scopes, created_at) VALUES ('0123456789abcdef0123456789abcdef', 'operator', 'admin', 1), ('fedcba9876543210fedcba9876543210', 'other', 'fleet', 1)`,
			`INSERT INTO signing_keys (id, purpose, private_key, public_key, created_at) VALUES ('k', 'access', 'x', 'y', 1)`,
			`INSERT INTO playbacks (play_id, user_id, track_id, version, plan, edge, created_at, expires_at) VALUES ('p', 'u', 't', 'v', 'free', 'e', 1, 1), ('q', 'gone', 't', 'v', 'free', 'e', 1, 1)`,
		} {
			if _, err := db.ExecContext(t.Context(), q); err != nil {
				t.Fatal(err)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		now, err := store.Open(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		defer now.Close()
		f := func(q, want string) {
			t.Helper()
			var got string
			if err := now.QueryRowContext(t.Context(), q).Scan(&got); err != nil || got != want {
				t.Errorf("%s: %q %v, want %q", q, got, err, want)
			}
		}
		f(`SELECT plan || discoverable || suspended_at || plan_until || country FROM users`, "premium000")
		f(`SELECT id || expires_at FROM admin_tokens WHERE name = 'operator'`, "0123456789abcdef01234567890")
		f(`SELECT id || starts_at FROM signing_keys`, "k0")
		f(`SELECT COUNT(*) FROM sessions`, "0")
		f(`SELECT play_id || user_id FROM playbacks`, "pu")
	}
	t.Run("sqlite", func(t *testing.T) {
		path := t.TempDir() + "/segue.db"
		test(t, "sqlite", goose.DialectSQLite3, "file:"+path+"?_pragma=foreign_keys(1)", "sqlite:"+path)
	})
	t.Run("postgres", func(t *testing.T) {
		url := testenv.Postgres(t)
		test(t, "pgx", goose.DialectPostgres, url, url)
	})
}
