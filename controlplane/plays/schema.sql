-- One row per event. Repeats have the same key and are merged away; read with FINAL where every row must count once.
CREATE TABLE IF NOT EXISTS play_events (
  event_id FixedString(26) CODEC(ZSTD), play_id FixedString(26) CODEC(ZSTD), type LowCardinality(String),
  at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD), received_at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD),
  user_key FixedString(32) CODEC(ZSTD), plan LowCardinality(String), track_id FixedString(26) CODEC(ZSTD), version FixedString(26) CODEC(ZSTD),
  title String CODEC(ZSTD), artist LowCardinality(String), album LowCardinality(String), duration_ms UInt32,
  position_ms UInt32 CODEC(T64, ZSTD), played_ms UInt32 CODEC(T64, ZSTD), rendition LowCardinality(String), edge LowCardinality(String),
  startup_ms UInt32 CODEC(T64, ZSTD), stall_ms UInt32 CODEC(T64, ZSTD), player LowCardinality(String), message String CODEC(ZSTD)
) ENGINE = ReplacingMergeTree(received_at) PARTITION BY toYYYYMM(at) ORDER BY (toDate(at), track_id, play_id, event_id)
TTL toDateTime(at) + INTERVAL 13 MONTH;

-- What is known of each play, in states that a repeated event does not change.
CREATE TABLE IF NOT EXISTS play_states (
  play_id FixedString(26), started_at SimpleAggregateFunction(min, DateTime64(3, 'UTC')), last_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')),
  user_key SimpleAggregateFunction(any, String), plan SimpleAggregateFunction(any, String), track_id SimpleAggregateFunction(any, String),
  title SimpleAggregateFunction(any, String), artist SimpleAggregateFunction(any, String), album SimpleAggregateFunction(any, String),
  duration_ms SimpleAggregateFunction(max, UInt32), played_ms SimpleAggregateFunction(max, UInt32), startup_ms SimpleAggregateFunction(max, UInt32),
  ended SimpleAggregateFunction(max, UInt8), errors AggregateFunction(uniqExact, String), stalls AggregateFunction(uniqExact, String),
  edges SimpleAggregateFunction(groupUniqArrayArray, Array(String)), renditions SimpleAggregateFunction(groupUniqArrayArray, Array(String)),
  player SimpleAggregateFunction(any, String)
) ENGINE = AggregatingMergeTree ORDER BY play_id;

CREATE MATERIALIZED VIEW IF NOT EXISTS play_events_to_states TO play_states AS
SELECT play_id, min(at) AS started_at, max(at) AS last_at, any(toString(e.user_key)) AS user_key, any(toString(e.plan)) AS plan, any(toString(e.track_id)) AS track_id,
  any(e.title) AS title, any(toString(e.artist)) AS artist, any(toString(e.album)) AS album, max(e.duration_ms) AS duration_ms, max(e.played_ms) AS played_ms,
  max(e.startup_ms) AS startup_ms, max(toUInt8(e.type = 'end')) AS ended, uniqExactStateIf(toString(e.event_id), e.type = 'error') AS errors,
  uniqExactStateIf(toString(e.event_id), e.type = 'stall') AS stalls, groupUniqArrayIf(toString(e.edge), e.edge != '') AS edges,
  groupUniqArrayIf(toString(e.rendition), e.rendition != '') AS renditions, any(toString(e.player)) AS player
FROM play_events AS e GROUP BY play_id;

-- One row per play; counted says that it was heard for 30 s, or to the end of a shorter track.
CREATE VIEW IF NOT EXISTS plays AS
SELECT toString(play_id) AS play_id, min(s.started_at) AS started_at, max(s.last_at) AS last_at, any(s.user_key) AS user_key, any(s.plan) AS plan, any(s.track_id) AS track_id,
  any(s.title) AS title, any(s.artist) AS artist, any(s.album) AS album, max(s.duration_ms) AS duration_ms, max(s.played_ms) AS played_ms,
  max(s.played_ms) >= least(30000, greatest(max(s.duration_ms), 1000) - 500) AS counted, max(s.startup_ms) AS startup_ms, max(s.ended) AS ended,
  uniqExactMerge(s.stalls) AS stalls, uniqExactMerge(s.errors) AS errors, groupUniqArrayArray(s.edges) AS edges,
  groupUniqArrayArray(s.renditions) AS renditions, any(s.player) AS player
FROM play_states AS s GROUP BY play_id;
