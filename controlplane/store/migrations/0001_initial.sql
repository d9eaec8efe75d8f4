-- +goose Up
-- One dialect for SQLite and PostgreSQL: TEXT, BIGINT and DOUBLE PRECISION only; times are microseconds of Unix time in
-- UTC; lists and documents are JSON in TEXT; ids are ULIDs; secrets are stored as SHA-256 in hex.
CREATE TABLE users (
  id TEXT PRIMARY KEY, email TEXT NOT NULL, email_key TEXT NOT NULL UNIQUE, display_name TEXT NOT NULL,
  password_hash TEXT NOT NULL, plan TEXT NOT NULL, created_at BIGINT NOT NULL
);
CREATE TABLE sessions (
  id TEXT PRIMARY KEY, user_id TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE, device_type TEXT NOT NULL, device_name TEXT NOT NULL,
  created_at BIGINT NOT NULL, seen_at BIGINT NOT NULL, expires_at BIGINT NOT NULL, revoked_at BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX sessions_user ON sessions(user_id);
CREATE TABLE refresh_tokens (
  hash TEXT PRIMARY KEY, session_id TEXT NOT NULL REFERENCES sessions(id) ON DELETE CASCADE, used_at BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX refresh_tokens_session ON refresh_tokens(session_id);
CREATE TABLE admin_tokens (
  hash TEXT PRIMARY KEY, name TEXT NOT NULL, scopes TEXT NOT NULL, created_at BIGINT NOT NULL
);
CREATE TABLE signing_keys (
  id TEXT PRIMARY KEY, purpose TEXT NOT NULL, private_key TEXT NOT NULL, public_key TEXT NOT NULL, created_at BIGINT NOT NULL,
  retired_at BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE source_claims (sha256 TEXT PRIMARY KEY, track_id TEXT NOT NULL);
CREATE TABLE track_claims (track_id TEXT PRIMARY KEY, track_key TEXT NOT NULL, duration_ms BIGINT NOT NULL);
CREATE INDEX track_claims_key ON track_claims(track_key);
CREATE TABLE publications (track_id TEXT NOT NULL, version TEXT NOT NULL, PRIMARY KEY (track_id, version));
CREATE TABLE album_claims (album_key TEXT PRIMARY KEY, album_id TEXT NOT NULL);
CREATE TABLE artists (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, name_key TEXT NOT NULL UNIQUE
);
CREATE TABLE albums (
  id TEXT PRIMARY KEY, title TEXT NOT NULL, artist_id TEXT NOT NULL REFERENCES artists(id), date TEXT NOT NULL, art_version TEXT NOT NULL,
  created_at BIGINT NOT NULL
);
CREATE INDEX albums_artist ON albums(artist_id);
CREATE TABLE tracks (
  id TEXT PRIMARY KEY, album_id TEXT NOT NULL REFERENCES albums(id), artist_id TEXT NOT NULL REFERENCES artists(id), title TEXT NOT NULL,
  version TEXT NOT NULL, duration_ms BIGINT NOT NULL, disc_number BIGINT NOT NULL, track_number BIGINT NOT NULL, date TEXT NOT NULL,
  genres TEXT NOT NULL, renditions TEXT NOT NULL, loudness TEXT NOT NULL, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL
);
CREATE INDEX tracks_album ON tracks(album_id, disc_number, track_number, id);
CREATE INDEX tracks_artist ON tracks(artist_id);

CREATE TABLE playbacks (
  play_id TEXT PRIMARY KEY, user_id TEXT NOT NULL, track_id TEXT NOT NULL, version TEXT NOT NULL, plan TEXT NOT NULL, edge TEXT NOT NULL,
  created_at BIGINT NOT NULL, expires_at BIGINT NOT NULL
);
CREATE INDEX playbacks_expiry ON playbacks(expires_at);

CREATE TABLE regions (
  name TEXT PRIMARY KEY, display_name TEXT NOT NULL, latitude DOUBLE PRECISION NOT NULL, longitude DOUBLE PRECISION NOT NULL
);
CREATE TABLE join_tokens (
  hash TEXT PRIMARY KEY, region TEXT NOT NULL REFERENCES regions(name), expires_at BIGINT NOT NULL, uses_left BIGINT NOT NULL
);
CREATE TABLE edges (
  id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, region TEXT NOT NULL REFERENCES regions(name), url TEXT NOT NULL,
  public_key TEXT NOT NULL UNIQUE, draining BIGINT NOT NULL DEFAULT 0, created_at BIGINT NOT NULL
);

CREATE TABLE outbox (
  id TEXT PRIMARY KEY, subject TEXT NOT NULL, body TEXT NOT NULL
);
