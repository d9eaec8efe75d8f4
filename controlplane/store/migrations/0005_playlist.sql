-- +goose Up
-- A playlist's revision rises by one with every change; the row is the lock of its writers.
CREATE TABLE playlists (
  id TEXT PRIMARY KEY, owner_id TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE, name TEXT NOT NULL, description TEXT NOT NULL,
  public BIGINT NOT NULL, cover TEXT NOT NULL, mosaic TEXT NOT NULL, item_count BIGINT NOT NULL, duration_ms BIGINT NOT NULL, followers BIGINT NOT NULL,
  revision BIGINT NOT NULL, kept_from BIGINT NOT NULL, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL
);
CREATE INDEX playlists_owner ON playlists(owner_id, public, id);
CREATE INDEX playlists_public ON playlists(public, id);

-- A row says where an entry stood from one revision until before another; to_revision 9223372036854775807: it stands
-- there now. Positions of rows of all times are in one order, so that what left can come back to its place. origin is the
-- revision that first put the entry there: an undo that puts it back keeps it.
CREATE TABLE playlist_items (
  playlist_id TEXT NOT NULL REFERENCES playlists(id) ON DELETE CASCADE, entry_id TEXT NOT NULL, from_revision BIGINT NOT NULL, to_revision BIGINT NOT NULL,
  origin BIGINT NOT NULL, position BIGINT NOT NULL, track_id TEXT NOT NULL, album_id TEXT NOT NULL, title TEXT NOT NULL, artist TEXT NOT NULL,
  duration_ms BIGINT NOT NULL, added_by TEXT REFERENCES users(id) ON DELETE SET NULL, added_at BIGINT NOT NULL,
  PRIMARY KEY (playlist_id, entry_id, from_revision)
);
CREATE INDEX playlist_items_now ON playlist_items(playlist_id, to_revision, position);
CREATE INDEX playlist_items_position ON playlist_items(playlist_id, position);
CREATE INDEX playlist_items_track ON playlist_items(playlist_id, track_id);
CREATE INDEX playlist_items_adder ON playlist_items(added_by);

-- closed is the number of rows of playlist_items that end with this revision: what keeping it costs.
CREATE TABLE playlist_revisions (
  playlist_id TEXT NOT NULL REFERENCES playlists(id) ON DELETE CASCADE, revision BIGINT NOT NULL, author TEXT REFERENCES users(id) ON DELETE SET NULL,
  at BIGINT NOT NULL, operation TEXT NOT NULL, added BIGINT NOT NULL, removed BIGINT NOT NULL, moved BIGINT NOT NULL, closed BIGINT NOT NULL,
  changes TEXT NOT NULL, of_revisions TEXT NOT NULL, undone_by BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (playlist_id, revision)
);
CREATE INDEX playlist_revisions_author ON playlist_revisions(author);

CREATE TABLE playlist_members (
  playlist_id TEXT NOT NULL REFERENCES playlists(id) ON DELETE CASCADE, user_id TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE,
  role TEXT NOT NULL, accepted BIGINT NOT NULL, created_at BIGINT NOT NULL,
  PRIMARY KEY (playlist_id, user_id)
);
CREATE INDEX playlist_members_user ON playlist_members(user_id);
CREATE TABLE playlist_links (
  id TEXT PRIMARY KEY, playlist_id TEXT NOT NULL REFERENCES playlists(id) ON DELETE CASCADE, token_hash TEXT NOT NULL UNIQUE, role TEXT NOT NULL,
  created_by TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE, created_at BIGINT NOT NULL, expires_at BIGINT NOT NULL, accepted BIGINT NOT NULL
);
CREATE INDEX playlist_links_playlist ON playlist_links(playlist_id);
CREATE INDEX playlist_links_creator ON playlist_links(created_by);

-- One's own list: a row for each playlist that is one's own, shared with one, or followed. The shelf is its lock.
CREATE TABLE playlist_shelves (user_id TEXT PRIMARY KEY REFERENCES users(id) ON DELETE CASCADE);
CREATE TABLE playlist_library (
  user_id TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE, playlist_id TEXT NOT NULL REFERENCES playlists(id) ON DELETE CASCADE,
  folder_id TEXT NOT NULL, position BIGINT NOT NULL, follows BIGINT NOT NULL, added_at BIGINT NOT NULL,
  PRIMARY KEY (user_id, playlist_id)
);
CREATE INDEX playlist_library_order ON playlist_library(user_id, folder_id, position);
CREATE INDEX playlist_library_playlist ON playlist_library(playlist_id);
CREATE TABLE playlist_folders (
  id TEXT PRIMARY KEY, user_id TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE, parent_id TEXT NOT NULL, name TEXT NOT NULL,
  position BIGINT NOT NULL, created_at BIGINT NOT NULL
);
CREATE INDEX playlist_folders_order ON playlist_folders(user_id, parent_id, position);
