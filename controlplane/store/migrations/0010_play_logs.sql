-- +goose Up
-- Pseudonyms whose rows are to be deleted from the play logs: their account is gone. A row stays until nothing of theirs can arrive any more.
CREATE TABLE play_forgets (
  user_key TEXT PRIMARY KEY, asked_at BIGINT NOT NULL, next_at BIGINT NOT NULL
);
CREATE INDEX play_forgets_next ON play_forgets(next_at);
