-- +goose Up
-- Playbacks know their device and, for what was heard offline, their licence; they go with their account.
ALTER TABLE playbacks RENAME TO playbacks_before;
CREATE TABLE playbacks (
  play_id TEXT PRIMARY KEY, user_id TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE, device_id TEXT NOT NULL, track_id TEXT NOT NULL,
  version TEXT NOT NULL, plan TEXT NOT NULL, edge TEXT NOT NULL, licence_id TEXT NOT NULL, created_at BIGINT NOT NULL, expires_at BIGINT NOT NULL
);
INSERT INTO playbacks (play_id, user_id, device_id, track_id, version, plan, edge, licence_id, created_at, expires_at)
  SELECT play_id, user_id, '', track_id, version, plan, edge, '', created_at, expires_at FROM playbacks_before WHERE user_id IN (SELECT id FROM users);
DROP TABLE playbacks_before;
CREATE INDEX playbacks_expiry ON playbacks(expires_at);
CREATE INDEX playbacks_user ON playbacks(user_id, expires_at);

-- What an account hears now: a slot for each stream that its plan allows, held by one device. Slot 0 is also the lock that
-- puts the starts of an account in one order. play_id '' is an empty slot; before_id is the play that play_id follows
-- without a gap.
CREATE TABLE streams (
  user_id TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE, slot BIGINT NOT NULL, device_id TEXT NOT NULL, device_name TEXT NOT NULL,
  play_id TEXT NOT NULL, before_id TEXT NOT NULL, seen_at BIGINT NOT NULL, turn BIGINT NOT NULL, PRIMARY KEY (user_id, slot)
);

-- Tokens that edges refuse before their end. expires_at is the end of the last token with the cti.
CREATE TABLE revoked_tokens (
  cti TEXT PRIMARY KEY, reason TEXT NOT NULL, created_at BIGINT NOT NULL, expires_at BIGINT NOT NULL
);
CREATE INDEX revoked_tokens_expiry ON revoked_tokens(expires_at);

-- The row of an account is the lock on its licences.
CREATE TABLE offline_accounts (
  user_id TEXT PRIMARY KEY REFERENCES users(id) ON DELETE CASCADE, turn BIGINT NOT NULL
);
-- revoked_at 0: in force until expires_at. token_until is the end of the last download token. rendition '': the best AAC.
CREATE TABLE offline_licences (
  id TEXT PRIMARY KEY, user_id TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE, device_id TEXT NOT NULL, device_name TEXT NOT NULL, plan TEXT NOT NULL,
  kind TEXT NOT NULL, item_id TEXT NOT NULL, title TEXT NOT NULL, rendition TEXT NOT NULL, revision BIGINT NOT NULL, files BIGINT NOT NULL,
  bytes BIGINT NOT NULL, digest TEXT NOT NULL, created_at BIGINT NOT NULL, renewed_at BIGINT NOT NULL, expires_at BIGINT NOT NULL,
  token_until BIGINT NOT NULL, revoked_at BIGINT NOT NULL, reason TEXT NOT NULL
);
CREATE INDEX offline_licences_user ON offline_licences(user_id, id);
CREATE INDEX offline_licences_expiry ON offline_licences(expires_at);
-- One row for each track that a licence has or had: removed ones stay, so that a device learns of them.
CREATE TABLE offline_items (
  licence_id TEXT NOT NULL REFERENCES offline_licences(id) ON DELETE CASCADE, track_id TEXT NOT NULL, version TEXT NOT NULL, file TEXT NOT NULL,
  revision BIGINT NOT NULL, removed BIGINT NOT NULL, PRIMARY KEY (licence_id, track_id)
);
