-- +goose Up
-- What recommendations keep of people. The row of recommend_people is the lock on the rest. personalised 0: nothing is kept,
-- and nothing is learnt from their plays. genres is a JSON list of genre ids that they chose.
CREATE TABLE recommend_people (
  user_id TEXT PRIMARY KEY REFERENCES users(id) ON DELETE CASCADE, personalised BIGINT NOT NULL DEFAULT 1, genres TEXT NOT NULL DEFAULT '[]',
  changed_at BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX recommend_people_out ON recommend_people(user_id) WHERE personalised = 0;
-- The latest plays: heard 1, or skipped 0.
CREATE TABLE recommend_signals (
  user_id TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE, play_id TEXT NOT NULL, track_id TEXT NOT NULL, heard BIGINT NOT NULL, at BIGINT NOT NULL,
  PRIMARY KEY (user_id, play_id)
);
CREATE INDEX recommend_signals_latest ON recommend_signals(user_id, at, play_id);
-- A week's mixes, as they were made when they were first asked for. tracks is a JSON list of ids.
CREATE TABLE recommend_mixes (
  user_id TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE, week TEXT NOT NULL, number BIGINT NOT NULL, name TEXT NOT NULL, tracks TEXT NOT NULL,
  made_at BIGINT NOT NULL, PRIMARY KEY (user_id, week, number)
);
CREATE INDEX tracks_popular ON tracks(popularity, id) WHERE removed_at = 0 AND version <> '';
CREATE INDEX tracks_new ON tracks(id) WHERE removed_at = 0 AND version <> '';

-- The last answers about play logs, for when those cannot be asked. user_id is set when the answer is about a listener.
CREATE TABLE stats_answers (
  key TEXT PRIMARY KEY, user_id TEXT REFERENCES users(id) ON DELETE CASCADE, body TEXT NOT NULL, as_of BIGINT NOT NULL
);
CREATE INDEX stats_answers_user ON stats_answers(user_id);
CREATE INDEX stats_answers_age ON stats_answers(as_of);
