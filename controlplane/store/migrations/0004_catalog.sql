-- +goose Up
-- What lists are ordered by is in a column with an index, and so are counts: no page is made by looking at all rows.
-- A sort key is a folded name; the empty one marks a row from before this migration, which catalog.Upgrade completes.
-- removed_at 0 is a row that is there. A row that was removed keeps its ID and names, for playlists that hold it.
-- available_in is countries (ISO 3166-1 alpha-2) with a space between them; empty: everywhere (a track: as its album).
-- curated 1: names come from an import or an operator, so a file's tags no longer change them.
ALTER TABLE artists ADD COLUMN sort_key TEXT NOT NULL DEFAULT '';
ALTER TABLE artists ADD COLUMN popularity DOUBLE PRECISION NOT NULL DEFAULT 0;
ALTER TABLE artists ADD COLUMN album_count BIGINT NOT NULL DEFAULT 0;
ALTER TABLE artists ADD COLUMN track_count BIGINT NOT NULL DEFAULT 0;
ALTER TABLE artists ADD COLUMN merged_into TEXT NOT NULL DEFAULT '';
ALTER TABLE artists ADD COLUMN import_hash TEXT NOT NULL DEFAULT '';
ALTER TABLE artists ADD COLUMN removed_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE artists ADD COLUMN updated_at BIGINT NOT NULL DEFAULT 0;
CREATE INDEX artists_sorted ON artists(sort_key, id) WHERE removed_at = 0;

ALTER TABLE albums ADD COLUMN sort_key TEXT NOT NULL DEFAULT '';
ALTER TABLE albums ADD COLUMN type TEXT NOT NULL DEFAULT 'album';
ALTER TABLE albums ADD COLUMN upc TEXT NOT NULL DEFAULT '';
ALTER TABLE albums ADD COLUMN genres TEXT NOT NULL DEFAULT '[]';
ALTER TABLE albums ADD COLUMN popularity DOUBLE PRECISION NOT NULL DEFAULT 0;
ALTER TABLE albums ADD COLUMN track_count BIGINT NOT NULL DEFAULT 0;
ALTER TABLE albums ADD COLUMN duration_ms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE albums ADD COLUMN available_in TEXT NOT NULL DEFAULT '';
ALTER TABLE albums ADD COLUMN curated BIGINT NOT NULL DEFAULT 0;
ALTER TABLE albums ADD COLUMN import_hash TEXT NOT NULL DEFAULT '';
ALTER TABLE albums ADD COLUMN removed_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE albums ADD COLUMN updated_at BIGINT NOT NULL DEFAULT 0;
DROP INDEX albums_artist;
CREATE INDEX albums_artist ON albums(artist_id, date, id);
CREATE INDEX albums_sorted ON albums(sort_key, id) WHERE removed_at = 0;
CREATE INDEX albums_released ON albums(date, id) WHERE removed_at = 0;
CREATE INDEX albums_upc ON albums(upc) WHERE upc <> '';

ALTER TABLE tracks ADD COLUMN sort_key TEXT NOT NULL DEFAULT '';
ALTER TABLE tracks ADD COLUMN isrc TEXT NOT NULL DEFAULT '';
ALTER TABLE tracks ADD COLUMN popularity DOUBLE PRECISION NOT NULL DEFAULT 0;
ALTER TABLE tracks ADD COLUMN available_in TEXT NOT NULL DEFAULT '';
ALTER TABLE tracks ADD COLUMN curated BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tracks ADD COLUMN import_hash TEXT NOT NULL DEFAULT '';
ALTER TABLE tracks ADD COLUMN removed_at BIGINT NOT NULL DEFAULT 0;
DROP INDEX tracks_artist;
CREATE INDEX tracks_artist ON tracks(artist_id, popularity, id);
CREATE INDEX tracks_sorted ON tracks(sort_key, id) WHERE removed_at = 0;
CREATE INDEX tracks_isrc ON tracks(isrc) WHERE isrc <> '';

-- The first artist of an album or track is in its row. Here are the others, in order from 1. Roles main, featured and
-- remixer perform; other roles are credits. join_phrase stands before the name: "A" " feat. " "B".
CREATE TABLE album_credits (
  album_id TEXT NOT NULL REFERENCES albums(id), position BIGINT NOT NULL, artist_id TEXT NOT NULL REFERENCES artists(id), role TEXT NOT NULL,
  join_phrase TEXT NOT NULL, PRIMARY KEY (album_id, position)
);
CREATE INDEX album_credits_artist ON album_credits(artist_id, album_id);
CREATE TABLE track_credits (
  track_id TEXT NOT NULL REFERENCES tracks(id), position BIGINT NOT NULL, artist_id TEXT NOT NULL REFERENCES artists(id), role TEXT NOT NULL,
  join_phrase TEXT NOT NULL, PRIMARY KEY (track_id, position)
);
CREATE INDEX track_credits_artist ON track_credits(artist_id, track_id);

-- A genre's id is its folded name. Popularity and date are copies, so that a genre's page is read from an index.
CREATE TABLE genres (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, track_count BIGINT NOT NULL DEFAULT 0, album_count BIGINT NOT NULL DEFAULT 0
);
CREATE TABLE track_genres (
  track_id TEXT NOT NULL REFERENCES tracks(id), genre_id TEXT NOT NULL REFERENCES genres(id), popularity DOUBLE PRECISION NOT NULL,
  PRIMARY KEY (track_id, genre_id)
);
CREATE INDEX track_genres_popular ON track_genres(genre_id, popularity, track_id);
CREATE TABLE album_genres (
  album_id TEXT NOT NULL REFERENCES albums(id), genre_id TEXT NOT NULL REFERENCES genres(id), date TEXT NOT NULL, PRIMARY KEY (album_id, genre_id)
);
CREATE INDEX album_genres_released ON album_genres(genre_id, date, album_id);

-- One row: who holds its lock imports a chunk, so that two imports of one file count nothing twice.
CREATE TABLE import_turn (id BIGINT PRIMARY KEY, turns BIGINT NOT NULL);
INSERT INTO import_turn (id, turns) VALUES (1, 0);
