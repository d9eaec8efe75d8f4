-- +goose Up
-- What a person keeps and whom they follow. One row of listeners per person who has any of it: its lock puts a person's
-- changes in one order, and its counters are right because each changes in the transaction that changes the list.
CREATE TABLE listeners (
  user_id TEXT PRIMARY KEY REFERENCES users(id) ON DELETE CASCADE,
  share_listening TEXT NOT NULL DEFAULT 'nobody', discoverable BIGINT NOT NULL DEFAULT 0, keep_history BIGINT NOT NULL DEFAULT 1, cleared_at BIGINT NOT NULL DEFAULT 0,
  tracks BIGINT NOT NULL DEFAULT 0, albums BIGINT NOT NULL DEFAULT 0, artists BIGINT NOT NULL DEFAULT 0, users BIGINT NOT NULL DEFAULT 0, followers BIGINT NOT NULL DEFAULT 0
);
-- Items have no foreign key: what leaves the catalogue stays in the library, as not available.
CREATE TABLE saved_tracks (
  user_id TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE, item_id TEXT NOT NULL, added_at BIGINT NOT NULL, PRIMARY KEY (user_id, item_id)
);
CREATE INDEX saved_tracks_newest ON saved_tracks(user_id, added_at, item_id);
CREATE TABLE saved_albums (
  user_id TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE, item_id TEXT NOT NULL, added_at BIGINT NOT NULL, PRIMARY KEY (user_id, item_id)
);
CREATE INDEX saved_albums_newest ON saved_albums(user_id, added_at, item_id);
CREATE TABLE followed_artists (
  user_id TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE, item_id TEXT NOT NULL, added_at BIGINT NOT NULL, PRIMARY KEY (user_id, item_id)
);
CREATE INDEX followed_artists_newest ON followed_artists(user_id, added_at, item_id);
CREATE TABLE followed_users (
  user_id TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE, item_id TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE, added_at BIGINT NOT NULL,
  PRIMARY KEY (user_id, item_id)
);
CREATE INDEX followed_users_newest ON followed_users(user_id, added_at, item_id);
CREATE INDEX followed_users_followers ON followed_users(item_id, added_at, user_id);
CREATE TABLE blocked_users (
  user_id TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE, item_id TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE, added_at BIGINT NOT NULL,
  PRIMARY KEY (user_id, item_id)
);
CREATE INDEX blocked_users_newest ON blocked_users(user_id, added_at, item_id);
CREATE INDEX blocked_users_by ON blocked_users(item_id);
CREATE TABLE recent_plays (
  user_id TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE, play_id TEXT NOT NULL, track_id TEXT NOT NULL, context_type TEXT NOT NULL, context_id TEXT NOT NULL,
  played_at BIGINT NOT NULL, PRIMARY KEY (user_id, play_id)
);
CREATE INDEX recent_plays_newest ON recent_plays(user_id, played_at, play_id);

-- Merged artists are few: a feed finds them without a look at every artist that is followed.
CREATE INDEX artists_merged ON artists(id, merged_into) WHERE merged_into <> '';

-- The player of a person, over all devices. seq counts its changes; state_seq, queue_seq and devices_seq are what it was when that part
-- last changed, so that one number tells a stream what it has not seen. queue_entry is the current entry of the queue, and queue_position_ms
-- where to go on in it, placed_seq when somebody put it there other than by playing; from track_id on it is what the active device says that it does.
CREATE TABLE players (
  user_id TEXT PRIMARY KEY REFERENCES users(id) ON DELETE CASCADE,
  seq BIGINT NOT NULL, state_seq BIGINT NOT NULL DEFAULT 0, queue_seq BIGINT NOT NULL DEFAULT 0, devices_seq BIGINT NOT NULL DEFAULT 0,
  active_device TEXT NOT NULL DEFAULT '', queue_entry TEXT NOT NULL DEFAULT '', queue_position_ms BIGINT NOT NULL DEFAULT 0, placed_seq BIGINT NOT NULL DEFAULT 0,
  track_id TEXT NOT NULL DEFAULT '', entry_id TEXT NOT NULL DEFAULT '', play_id TEXT NOT NULL DEFAULT '', position_ms BIGINT NOT NULL DEFAULT 0,
  paused BIGINT NOT NULL DEFAULT 1, volume BIGINT NOT NULL DEFAULT 100, reported_at BIGINT NOT NULL DEFAULT 0
);
-- Apart from players: it may be long, and reports of the state must not rewrite it. entries is JSON; entries_made gives each a name of its own.
CREATE TABLE queues (
  user_id TEXT PRIMARY KEY REFERENCES users(id) ON DELETE CASCADE,
  entries TEXT NOT NULL, entries_made BIGINT NOT NULL, shuffle BIGINT NOT NULL, repeat_mode TEXT NOT NULL, context_type TEXT NOT NULL, context_id TEXT NOT NULL
);
-- A command waits here until it expires, so that a stream that comes back gets what it missed.
CREATE TABLE player_commands (
  user_id TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE, seq BIGINT NOT NULL, device_id TEXT NOT NULL, type TEXT NOT NULL, body TEXT NOT NULL,
  expires_at BIGINT NOT NULL, PRIMARY KEY (user_id, seq)
);
-- A hub is one running replica; it holds streams. A device is connected while it has a stream at a hub that was seen lately.
CREATE TABLE player_hubs (id TEXT PRIMARY KEY, seen_at BIGINT NOT NULL);
CREATE TABLE player_streams (
  id TEXT PRIMARY KEY, user_id TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE, device_id TEXT NOT NULL, plays BIGINT NOT NULL, hub_id TEXT NOT NULL,
  opened_at BIGINT NOT NULL
);
CREATE INDEX player_streams_user ON player_streams(user_id);
CREATE INDEX player_streams_hub ON player_streams(hub_id);
