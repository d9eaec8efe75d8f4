-- +goose Up
-- Sessions come and go on devices, which last. A session's refresh tokens share a family; its row knows the current token and
-- the one before. Sessions of the older form cannot be carried over: people sign in once more.
DROP TABLE refresh_tokens;
DROP TABLE sessions;
CREATE TABLE devices (
  id TEXT PRIMARY KEY, user_id TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE, type TEXT NOT NULL, name TEXT NOT NULL,
  created_at BIGINT NOT NULL, last_active_at BIGINT NOT NULL
);
CREATE INDEX devices_user ON devices(user_id, last_active_at);
CREATE TABLE sessions (
  id TEXT PRIMARY KEY, user_id TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE, device_id TEXT NOT NULL REFERENCES devices(id) ON DELETE CASCADE,
  family_hash TEXT NOT NULL UNIQUE, token_hash TEXT NOT NULL, previous_hash TEXT NOT NULL DEFAULT '', salt TEXT NOT NULL DEFAULT '',
  rotated_at BIGINT NOT NULL DEFAULT 0, retried BIGINT NOT NULL DEFAULT 0, retried_before BIGINT NOT NULL DEFAULT 0,
  created_at BIGINT NOT NULL, seen_at BIGINT NOT NULL, expires_at BIGINT NOT NULL
);
CREATE INDEX sessions_user ON sessions(user_id);
CREATE INDEX sessions_device ON sessions(device_id);
CREATE INDEX sessions_expiry ON sessions(expires_at);
-- What ended while its access token may still live: every replica reads this instead of asking for each request.
CREATE TABLE ended_sessions (id TEXT PRIMARY KEY, ended_at BIGINT NOT NULL);
CREATE INDEX ended_sessions_time ON ended_sessions(ended_at);

ALTER TABLE users ADD COLUMN country TEXT NOT NULL DEFAULT '';
ALTER TABLE users ADD COLUMN discoverable BIGINT NOT NULL DEFAULT 0;
ALTER TABLE users ADD COLUMN suspended_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE users ADD COLUMN signed_in_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE users ADD COLUMN plan_until BIGINT NOT NULL DEFAULT 0;
CREATE INDEX users_plan_until ON users(plan_until);

-- One row, whose lock puts everything that changes anybody's plan in one order.
CREATE TABLE plan_lock (id BIGINT PRIMARY KEY, turn BIGINT NOT NULL);
INSERT INTO plan_lock (id, turn) VALUES (1, 0);
CREATE TABLE family_members (
  user_id TEXT PRIMARY KEY REFERENCES users(id) ON DELETE CASCADE, owner_id TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE, joined_at BIGINT NOT NULL
);
CREATE INDEX family_members_owner ON family_members(owner_id);
CREATE TABLE family_invites (
  owner_id TEXT PRIMARY KEY REFERENCES users(id) ON DELETE CASCADE, hash TEXT NOT NULL UNIQUE, expires_at BIGINT NOT NULL
);

ALTER TABLE admin_tokens ADD COLUMN id TEXT NOT NULL DEFAULT '';
ALTER TABLE admin_tokens ADD COLUMN expires_at BIGINT NOT NULL DEFAULT 0;
UPDATE admin_tokens SET id = substr(hash, 1, 26);
CREATE UNIQUE INDEX admin_tokens_id ON admin_tokens(id);

ALTER TABLE signing_keys ADD COLUMN starts_at BIGINT NOT NULL DEFAULT 0;

-- Wrong passwords, by a hash of what they were tried on: an address, a device, a network.
CREATE TABLE wrong_passwords (key TEXT PRIMARY KEY, failures BIGINT NOT NULL, last_at BIGINT NOT NULL, blocked_until BIGINT NOT NULL);
CREATE INDEX wrong_passwords_time ON wrong_passwords(last_at);

CREATE TABLE oidc_identities (
  issuer TEXT NOT NULL, subject TEXT NOT NULL, user_id TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE, created_at BIGINT NOT NULL,
  PRIMARY KEY (issuer, subject)
);
CREATE INDEX oidc_identities_user ON oidc_identities(user_id);
-- Sign-ins on their way to the provider and back, and those that came back and wait for their player.
CREATE TABLE oidc_flows (
  state_hash TEXT PRIMARY KEY, nonce TEXT NOT NULL, verifier TEXT NOT NULL, challenge TEXT NOT NULL, expires_at BIGINT NOT NULL
);
CREATE TABLE oidc_codes (
  hash TEXT PRIMARY KEY, challenge TEXT NOT NULL, issuer TEXT NOT NULL, subject TEXT NOT NULL, email TEXT NOT NULL, name TEXT NOT NULL, expires_at BIGINT NOT NULL
);
