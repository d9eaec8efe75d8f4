-- +goose Up
-- What was answered to a request with an Idempotency-Key, for a day. status 0: it is being done, until locked_until.
-- owner, fingerprint and key are keyed hashes or ids; user_id is set when the owner is a listener, whose rows go with the account.
CREATE TABLE idempotency_keys (
  owner TEXT NOT NULL, operation TEXT NOT NULL, key TEXT NOT NULL, user_id TEXT REFERENCES users(id) ON DELETE CASCADE,
  fingerprint TEXT NOT NULL, status BIGINT NOT NULL, header TEXT NOT NULL, body TEXT NOT NULL, locked_until BIGINT NOT NULL, created_at BIGINT NOT NULL,
  PRIMARY KEY (owner, operation, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys(created_at);
CREATE INDEX idempotency_keys_user ON idempotency_keys(user_id);
