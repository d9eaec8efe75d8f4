-- +goose Up
-- What was last known good of each edge, so that a control plane that begins anew, or lost its registry, need not ask for it.
CREATE TABLE edges_last_known (
  edge_id TEXT PRIMARY KEY REFERENCES edges(id) ON DELETE CASCADE, beat TEXT NOT NULL, good_at BIGINT NOT NULL
);
