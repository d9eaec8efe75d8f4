package store_test

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"segue/controlplane/store"
	"segue/internal/testenv"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

// row is a statement of a fixture: since is the migration that made its table, until the last one in which it has this form; 0: it
// has it still.
type row struct {
	since, until int
	statement    string
}

// fixture is something in every table of every release, as the platform of that release would have written it.
var fixture = []row{
	{1, 2, `INSERT INTO users (id, email, email_key, display_name, password_hash, plan, created_at) VALUES ('u', 'A@b.c', 'a@b.c', 'Ada 🎧', 'h', 'premium', 11), ('v', 'v@b.c', 'v@b.c', '', 'h', 'free', 12)`},
	{3, 0, `INSERT INTO users (id, email, email_key, display_name, password_hash, plan, created_at, country, discoverable, plan_until) VALUES ('u', 'A@b.c', 'a@b.c', 'Ada 🎧', 'h', 'premium', 11, 'IS', 1, 99), ('v', 'v@b.c', 'v@b.c', '', 'h', 'free', 12, '', 0, 0)`},
	{1, 2, `INSERT INTO sessions (id, user_id, device_type, device_name, created_at, seen_at, expires_at) VALUES ('s', 'u', 'web', 'Browser', 1, 1, 1)`},
	{1, 2, `INSERT INTO refresh_tokens (hash, session_id) VALUES ('r', 's')`},
	{1, 2, `INSERT INTO admin_tokens (hash, name, scopes, created_at) VALUES ('0123456789abcdef0123456789abcdef', 'operator', 'admin', 1)`},
	{3, 0, `INSERT INTO admin_tokens (id, hash, name, scopes, created_at) VALUES ('0123456789abcdef0123456789', '0123456789abcdef0123456789abcdef', 'operator', 'admin', 1)`},
	{1, 0, `INSERT INTO signing_keys (id, purpose, private_key, public_key, created_at) VALUES ('k', 'access', 'x', 'y', 1)`},
	{1, 0, `INSERT INTO source_claims (sha256, track_id) VALUES ('aa', 't')`},
	{1, 0, `INSERT INTO track_claims (track_id, track_key, duration_ms) VALUES ('t', 'key', 1000)`},
	{1, 0, `INSERT INTO publications (track_id, version) VALUES ('t', 'v1')`},
	{1, 0, `INSERT INTO album_claims (album_key, album_id) VALUES ('ak', 'a')`},
	{1, 0, `INSERT INTO artists (id, name, name_key) VALUES ('r', 'Björk', 'bjork')`},
	{1, 0, `INSERT INTO albums (id, title, artist_id, date, art_version, created_at) VALUES ('a', 'Post', 'r', '1995-06', 'zz', 2)`},
	{1, 0, `INSERT INTO tracks (id, album_id, artist_id, title, version, duration_ms, disc_number, track_number, date, genres, renditions, loudness, created_at, updated_at)
		VALUES ('t', 'a', 'r', 'Hyperballad', 'v1', 321000, 1, 3, '1995', '["Pop"]', '[{"name":"aac_96"}]', '{}', 3, 3)`},
	{1, 2, `INSERT INTO playbacks (play_id, user_id, track_id, version, plan, edge, created_at, expires_at) VALUES ('p', 'u', 't', 'v1', 'free', 'e', 1, 1), ('q', 'gone', 't', 'v1', 'free', 'e', 1, 1)`},
	{3, 6, `INSERT INTO playbacks (play_id, user_id, track_id, version, plan, edge, created_at, expires_at) VALUES ('p', 'u', 't', 'v1', 'free', 'e', 1, 1)`},
	{7, 0, `INSERT INTO playbacks (play_id, user_id, device_id, track_id, version, plan, edge, licence_id, created_at, expires_at) VALUES ('p', 'u', '', 't', 'v1', 'free', 'e', '', 1, 1)`},
	{1, 0, `INSERT INTO regions (name, display_name, latitude, longitude) VALUES ('eu', 'Europe', 52.5, -4.25)`},
	{1, 0, `INSERT INTO join_tokens (hash, region, expires_at, uses_left) VALUES ('j', 'eu', 1, 1)`},
	{1, 0, `INSERT INTO edges (id, name, region, url, public_key, draining, created_at) VALUES ('e', 'eu-1', 'eu', 'http://e', 'pk', 1, 1)`},
	{1, 0, `INSERT INTO outbox (id, subject, body) VALUES ('01', 'catalog.track', '{"kind":"track","ids":["t"]}')`},
	{2, 0, `UPDATE purge_clock SET epoch = 5`},
	{2, 0, `INSERT INTO purges (epoch, id, kind, value, soft, created_at) VALUES (5, 'pu', 'tag', 'x', 0, 1)`},
	{2, 0, `INSERT INTO purge_acks (epoch, edge_id, at) VALUES (5, 'e', 2)`},
	{3, 0, `INSERT INTO devices (id, user_id, type, name, created_at, last_active_at) VALUES ('d', 'u', 'web', 'Browser', 1, 1)`},
	{3, 0, `INSERT INTO sessions (id, user_id, device_id, family_hash, token_hash, created_at, seen_at, expires_at) VALUES ('s', 'u', 'd', 'f', 'th', 1, 1, 1)`},
	{3, 0, `INSERT INTO family_members (user_id, owner_id, joined_at) VALUES ('v', 'u', 1)`},
	{3, 0, `INSERT INTO oidc_identities (issuer, subject, user_id, created_at) VALUES ('i', 's', 'u', 1)`},
	{4, 0, `UPDATE artists SET sort_key = 'bjork', popularity = 2.5`},
	{4, 0, `INSERT INTO track_credits (track_id, position, artist_id, role, join_phrase) VALUES ('t', 1, 'r', 'lyricist', '')`},
	{4, 0, `INSERT INTO genres (id, name, track_count) VALUES ('pop', 'Pop', 1)`},
	{4, 0, `INSERT INTO track_genres (track_id, genre_id, popularity) VALUES ('t', 'pop', 0.5)`},
	{5, 0, `INSERT INTO playlists (id, owner_id, name, description, public, cover, mosaic, item_count, duration_ms, followers, revision, kept_from, created_at, updated_at) VALUES ('pl', 'u', 'Mine', '', 1, 'cc', '[]', 1, 321000, 0, 2, 1, 1, 1)`},
	{5, 0, `INSERT INTO playlist_items (playlist_id, entry_id, from_revision, to_revision, origin, position, track_id, album_id, title, artist, duration_ms, added_by, added_at)
		VALUES ('pl', 'e1', 2, 9223372036854775807, 2, -68719476736, 't', 'a', 'Hyperballad', 'Björk', 321000, 'u', 1)`},
	{5, 0, `INSERT INTO playlist_revisions (playlist_id, revision, author, at, operation, added, removed, moved, closed, changes, of_revisions) VALUES ('pl', 2, 'u', 1, 'add', 1, 0, 0, 0, '{}', '[]')`},
	{5, 0, `INSERT INTO playlist_library (user_id, playlist_id, folder_id, position, follows, added_at) VALUES ('u', 'pl', '', 0, 0, 1)`},
	{6, 0, `INSERT INTO listeners (user_id, tracks) VALUES ('u', 1)`},
	{6, 0, `INSERT INTO saved_tracks (user_id, item_id, added_at) VALUES ('u', 't', 1)`},
	{6, 0, `INSERT INTO followed_users (user_id, item_id, added_at) VALUES ('v', 'u', 1)`},
	{6, 0, `INSERT INTO recent_plays (user_id, play_id, track_id, context_type, context_id, played_at) VALUES ('u', 'p', 't', '', '', 1)`},
	{6, 0, `INSERT INTO players (user_id, seq, track_id) VALUES ('u', 3, 't')`},
	{6, 0, `INSERT INTO queues (user_id, entries, entries_made, shuffle, repeat_mode, context_type, context_id) VALUES ('u', '[]', 0, 0, 'off', '', '')`},
	{7, 0, `INSERT INTO streams (user_id, slot, device_id, device_name, play_id, before_id, seen_at, turn) VALUES ('u', 0, 'd', 'Browser', 'p', '', 1, 0)`},
	{7, 0, `INSERT INTO revoked_tokens (cti, reason, created_at, expires_at) VALUES ('p', 'operator', 1, 4102444800000000)`},
	{7, 0, `INSERT INTO offline_licences (id, user_id, device_id, device_name, plan, kind, item_id, title, rendition, revision, files, bytes, digest, created_at, renewed_at, expires_at, token_until, revoked_at, reason)
		VALUES ('l', 'u', 'd', 'Browser', 'premium', 'track', 't', 'Hyperballad', '', 1, 1, 4, 'dd', 1, 1, 9, 0, 0, '')`},
	{7, 0, `INSERT INTO offline_items (licence_id, track_id, version, file, revision, removed) VALUES ('l', 't', 'v1', '{}', 1, 0)`},
	{8, 0, `INSERT INTO idempotency_keys (owner, operation, key, user_id, fingerprint, status, header, body, locked_until, created_at) VALUES ('user:u', 'op', 'k', 'u', 'f', 201, '{}', 'b', 0, 1)`},
}

// kept is what has to be there afterwards, whichever release it came from.
var kept = []struct {
	since       int
	query, want string
}{
	{1, `SELECT email || display_name || plan || created_at FROM users WHERE id = 'u'`, "A@b.cAda 🎧premium11"},
	{3, `SELECT country || discoverable || plan_until FROM users WHERE id = 'u'`, "IS199"},
	{1, `SELECT id || name || scopes FROM admin_tokens`, "0123456789abcdef0123456789operatoradmin"},
	{1, `SELECT id || purpose || private_key FROM signing_keys`, "kaccessx"},
	{1, `SELECT t.title || t.version || t.renditions || a.title || a.art_version || r.name || t.removed_at || a.removed_at FROM tracks t JOIN albums a ON a.id = t.album_id JOIN artists r ON r.id = t.artist_id`,
		`Hyperballadv1[{"name":"aac_96"}]PostzzBjörk00`},
	{1, `SELECT play_id || user_id || licence_id FROM playbacks`, "pu"},
	{1, `SELECT e.name || e.draining || r.latitude || r.longitude FROM edges e JOIN regions r ON r.name = e.region`, "eu-1152.5-4.25"},
	{1, `SELECT id || body FROM outbox`, `01{"kind":"track","ids":["t"]}`},
	{2, `SELECT epoch || value || (SELECT at FROM purge_acks) || (SELECT epoch FROM purge_clock) FROM purges`, "5x25"},
	{3, `SELECT s.id || d.name FROM sessions s JOIN devices d ON d.id = s.device_id`, "sBrowser"},
	{3, `SELECT owner_id FROM family_members WHERE user_id = 'v'`, "u"},
	{4, `SELECT sort_key || popularity FROM artists`, "bjork2.5"},
	{5, `SELECT p.name || p.cover || i.title || i.position || (SELECT operation FROM playlist_revisions) FROM playlists p JOIN playlist_items i ON i.playlist_id = p.id`, "MineccHyperballad-68719476736add"},
	{6, `SELECT s.item_id || l.tracks || (SELECT seq FROM players) FROM saved_tracks s JOIN listeners l ON l.user_id = s.user_id`, "t13"},
	{7, `SELECT l.title || i.version || (SELECT play_id FROM streams) FROM offline_licences l JOIN offline_items i ON i.licence_id = l.id`, "Hyperballadv1p"},
	{7, `SELECT cti || reason || expires_at FROM revoked_tokens`, "poperator4102444800000000"},
	{8, `SELECT owner || body FROM idempotency_keys`, "user:ub"},
}

// TestMigrateFromEveryRelease: a database of each schema there was, with something in every table, becomes today's and keeps it.
func TestMigrateFromEveryRelease(t *testing.T) {
	files, err := filepath.Glob("migrations/*.sql")
	if err != nil || len(files) < 8 {
		t.Fatal(files, err)
	}
	var numbers []int
	for _, f := range files {
		n, err := strconv.Atoi(strings.SplitN(filepath.Base(f), "_", 2)[0])
		if err != nil {
			t.Fatal(err)
		}
		numbers = append(numbers, n)
	}
	test := func(t *testing.T, driver string, dialect goose.Dialect, name, dsn string, from int) {
		db, err := sql.Open(driver, name)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		provider, err := goose.NewProvider(dialect, db, os.DirFS("migrations"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := provider.UpTo(t.Context(), int64(from)); err != nil {
			t.Fatal(err)
		}
		for _, r := range fixture {
			if r.since > from || r.until != 0 && r.until < from {
				continue
			}
			if _, err := db.ExecContext(t.Context(), r.statement); err != nil {
				t.Fatalf("%s: %v", r.statement, err)
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
		for _, k := range kept {
			if k.since > from {
				continue
			}
			var got string
			if err := now.QueryRowContext(t.Context(), k.query).Scan(&got); err != nil || got != k.want {
				t.Errorf("%s: %q %v, want %q", k.query, got, err, k.want)
			}
		}
		if now.Embedded { // PostgreSQL checks while it goes
			rows, err := now.QueryContext(t.Context(), `PRAGMA foreign_key_check`)
			if err != nil {
				t.Fatal(err)
			}
			defer rows.Close()
			for rows.Next() {
				t.Error("a reference to nothing is left")
			}
		}
		// Everything that is about a person goes with the person, also what came from an older form.
		if _, err := now.ExecContext(t.Context(), `DELETE FROM users`); err != nil {
			t.Fatal(err)
		}
		for _, table := range []string{"sessions", "devices", "playbacks", "playlists", "playlist_items", "saved_tracks", "players", "streams", "offline_licences", "offline_items", "family_members", "idempotency_keys"} {
			var n int
			if err := now.QueryRowContext(t.Context(), `SELECT count(*) FROM `+table).Scan(&n); err != nil || n != 0 {
				t.Errorf("%s: %d left, %v", table, n, err)
			}
		}
	}
	t.Run("sqlite", func(t *testing.T) {
		for _, n := range numbers {
			t.Run(fmt.Sprint(n), func(t *testing.T) {
				path := t.TempDir() + "/segue.db"
				test(t, "sqlite", goose.DialectSQLite3, "file:"+path+"?_pragma=foreign_keys(1)", "sqlite:"+path, n)
			})
		}
	})
	t.Run("postgres", func(t *testing.T) {
		url := testenv.Postgres(t)
		admin, err := sql.Open("pgx", url)
		if err != nil {
			t.Fatal(err)
		}
		defer admin.Close()
		for _, n := range numbers {
			t.Run(fmt.Sprint(n), func(t *testing.T) {
				name := fmt.Sprintf("from_%d", n)
				if _, err := admin.ExecContext(t.Context(), `CREATE DATABASE `+name); err != nil {
					t.Fatal(err)
				}
				at := strings.Replace(url, "/postgres?", "/"+name+"?", 1)
				test(t, "pgx", goose.DialectPostgres, at, at, n)
			})
		}
	})
}
