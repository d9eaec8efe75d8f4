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

-- One row per play; counted says that it was heard for 30 s, or to the end of a shorter track. Made anew at every start:
-- a view holds nothing. The casts take the aggregate states' types off, which not every client knows.
CREATE OR REPLACE VIEW plays AS
SELECT toString(play_id) AS play_id, CAST(min(s.started_at), 'DateTime64(3, \'UTC\')') AS started_at, CAST(max(s.last_at), 'DateTime64(3, \'UTC\')') AS last_at,
  CAST(any(s.user_key), 'String') AS user_key, CAST(any(s.plan), 'String') AS plan, CAST(any(s.track_id), 'String') AS track_id, CAST(any(s.title), 'String') AS title,
  CAST(any(s.artist), 'String') AS artist, CAST(any(s.album), 'String') AS album, CAST(max(s.duration_ms), 'UInt32') AS duration_ms, CAST(max(s.played_ms), 'UInt32') AS played_ms,
  max(s.played_ms) >= least(30000, greatest(max(s.duration_ms), 1000) - 500) AS counted, CAST(max(s.startup_ms), 'UInt32') AS startup_ms, CAST(max(s.ended), 'UInt8') AS ended,
  uniqExactMerge(s.stalls) AS stalls, uniqExactMerge(s.errors) AS errors, groupUniqArrayArray(s.edges) AS edges,
  groupUniqArrayArray(s.renditions) AS renditions, CAST(any(s.player), 'String') AS player
FROM play_states AS s GROUP BY play_id;
