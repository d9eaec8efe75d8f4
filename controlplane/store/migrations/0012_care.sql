-- +goose Up
-- Revocations in the order in which edges hear of them. seq 0: not numbered yet; a replica numbers what has committed, under
-- the lock of the clock, so that who has read up to a number has read everything below it.
ALTER TABLE revoked_tokens ADD COLUMN seq BIGINT NOT NULL DEFAULT 0;
CREATE INDEX revoked_tokens_seq ON revoked_tokens(seq, cti);
CREATE TABLE revocation_clock (id BIGINT PRIMARY KEY, seq BIGINT NOT NULL);
INSERT INTO revocation_clock (id, seq) VALUES (1, 0);

-- Pictures in the origin that nothing named when they were looked at, since marked_at; seen_at is the last look.
CREATE TABLE old_pictures (
  item_id TEXT NOT NULL, version TEXT NOT NULL, marked_at BIGINT NOT NULL, seen_at BIGINT NOT NULL, PRIMARY KEY (item_id, version)
);
CREATE TABLE picture_turn (id BIGINT PRIMARY KEY, next_at BIGINT NOT NULL);
INSERT INTO picture_turn (id, next_at) VALUES (1, 0);
