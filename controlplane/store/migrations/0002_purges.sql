-- +goose Up
-- One row: the epoch of the last purge. Its lock puts purges in one order, in which they also become visible.
CREATE TABLE purge_clock (id BIGINT PRIMARY KEY, epoch BIGINT NOT NULL);
INSERT INTO purge_clock (id, epoch) VALUES (1, 0);
CREATE TABLE purges (
  epoch BIGINT PRIMARY KEY, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, value TEXT NOT NULL, soft BIGINT NOT NULL, created_at BIGINT NOT NULL
);
CREATE TABLE purge_acks (
  epoch BIGINT NOT NULL REFERENCES purges(epoch) ON DELETE CASCADE, edge_id TEXT NOT NULL REFERENCES edges(id) ON DELETE CASCADE, at BIGINT NOT NULL,
  PRIMARY KEY (epoch, edge_id)
);
