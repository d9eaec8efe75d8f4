-- +goose Up
-- The fleet's configuration: resources by name, each with the revision that it is from; every change is a revision.
-- One row: the last revision. Its lock puts changes in one order.
CREATE TABLE fleet_clock (id BIGINT PRIMARY KEY, revision BIGINT NOT NULL);
INSERT INTO fleet_clock (id, revision) VALUES (1, 0);
-- drain_until: the resource is being deleted, by drain_author, and goes then at the latest; 0: it is not.
CREATE TABLE fleet_resources (
  kind TEXT NOT NULL, name TEXT NOT NULL, body TEXT NOT NULL, revision BIGINT NOT NULL, drain_until BIGINT NOT NULL DEFAULT 0,
  drain_author TEXT NOT NULL DEFAULT '', PRIMARY KEY (kind, name)
);
-- Bodies, revisions and releases name secrets by id. They are kept for as long as one of these does.
CREATE TABLE fleet_secrets (id TEXT PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, secret TEXT NOT NULL, created_at BIGINT NOT NULL);
CREATE INDEX fleet_secrets_name ON fleet_secrets(kind, name);
CREATE TABLE fleet_revisions (
  number BIGINT PRIMARY KEY, author TEXT NOT NULL, created_at BIGINT NOT NULL, undoes BIGINT NOT NULL, changes TEXT NOT NULL
);
CREATE TABLE fleet_releases (
  number BIGINT PRIMARY KEY, digest TEXT NOT NULL, revision BIGINT NOT NULL, author TEXT NOT NULL, note TEXT NOT NULL, created_at BIGINT NOT NULL,
  contents TEXT NOT NULL
);
-- What edges said last of their configuration.
CREATE TABLE edge_states (
  edge_id TEXT PRIMARY KEY REFERENCES edges(id) ON DELETE CASCADE, config TEXT NOT NULL, release BIGINT NOT NULL, since BIGINT NOT NULL,
  refused BIGINT NOT NULL, reason TEXT NOT NULL, keys TEXT NOT NULL, at BIGINT NOT NULL
);
ALTER TABLE join_tokens ADD COLUMN id TEXT NOT NULL DEFAULT '';
UPDATE join_tokens SET id = substr(hash, 1, 26);
CREATE UNIQUE INDEX join_tokens_id ON join_tokens(id);
CREATE INDEX join_tokens_region ON join_tokens(region);
CREATE INDEX edges_region ON edges(region);
