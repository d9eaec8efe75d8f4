-- The first tables had no version: what they hold is carried over at the end of this file.
DROP VIEW IF EXISTS plays{{on}};
DROP VIEW IF EXISTS play_events_to_states{{on}};
RENAME TABLE IF EXISTS play_events TO play_events_before{{on}};
DROP TABLE IF EXISTS play_states{{on}};
CREATE TABLE IF NOT EXISTS play_events_before{{on}} (
  event_id FixedString(26), play_id FixedString(26), type LowCardinality(String), at DateTime64(3, 'UTC'), received_at DateTime64(3, 'UTC'),
  user_key FixedString(32), plan LowCardinality(String), track_id FixedString(26), version FixedString(26),
  title String, artist LowCardinality(String), album LowCardinality(String), duration_ms UInt32,
  position_ms UInt32, played_ms UInt32, rendition LowCardinality(String), edge LowCardinality(String),
  startup_ms UInt32, stall_ms UInt32, player LowCardinality(String), message String
) ENGINE = MergeTree ORDER BY (track_id, play_id, event_id);

-- One row per event. Everything that partition and sorting key are made of belongs to the play or the id, never to the delivery:
-- a repeat has the same key, however late it comes and whatever clock it was corrected by, and is merged away.
CREATE TABLE IF NOT EXISTS {{local "play_events"}}{{on}} (
  event_id FixedString(26) CODEC(ZSTD), play_id FixedString(26) CODEC(ZSTD), type LowCardinality(String),
  at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD), received_at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD), skew_ms Int64 CODEC(T64, ZSTD),
  play_at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD),
  user_key FixedString(32) CODEC(ZSTD), plan LowCardinality(String), track_id FixedString(26) CODEC(ZSTD), version FixedString(26) CODEC(ZSTD),
  title String CODEC(ZSTD), artist_id String CODEC(ZSTD), artist String CODEC(ZSTD), album_id String CODEC(ZSTD), album String CODEC(ZSTD),
  genre LowCardinality(String), duration_ms UInt32 CODEC(T64, ZSTD),
  position_ms UInt32 CODEC(T64, ZSTD), played_ms UInt32 CODEC(T64, ZSTD), rendition LowCardinality(String), bitrate_kbps UInt32 CODEC(T64, ZSTD),
  edge LowCardinality(String), region LowCardinality(String), country LowCardinality(String), device_type LowCardinality(String), player LowCardinality(String),
  startup_ms UInt32 CODEC(T64, ZSTD), stall_ms UInt32 CODEC(T64, ZSTD), message String CODEC(ZSTD),
  context_type LowCardinality(String), context_id String CODEC(ZSTD), offline UInt8
) ENGINE = {{engine "ReplacingMergeTree" "play_events" "received_at"}} PARTITION BY toYYYYMM(play_at) ORDER BY (toDate(play_at), track_id, play_id, event_id){{settings}};
{{distributed "play_events" "cityHash64(play_id)"}}

-- What is known of each play, in states that a repeated event does not change: min, max, any, the latest, sets of events.
CREATE TABLE IF NOT EXISTS {{local "play_states"}}{{on}} (
  play_at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD), play_id FixedString(26) CODEC(ZSTD),
  started_at SimpleAggregateFunction(min, DateTime64(3, 'UTC')), last_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')),
  user_key SimpleAggregateFunction(any, FixedString(32)), plan SimpleAggregateFunction(any, LowCardinality(String)),
  track_id SimpleAggregateFunction(any, FixedString(26)), title SimpleAggregateFunction(any, String), artist_id SimpleAggregateFunction(any, String),
  artist SimpleAggregateFunction(any, String), album_id SimpleAggregateFunction(any, String), album SimpleAggregateFunction(any, String),
  genre SimpleAggregateFunction(any, LowCardinality(String)), duration_ms SimpleAggregateFunction(max, UInt32), played_ms SimpleAggregateFunction(max, UInt32),
  startup_ms SimpleAggregateFunction(max, UInt32), ended SimpleAggregateFunction(max, UInt8), offline SimpleAggregateFunction(max, UInt8),
  country SimpleAggregateFunction(max, LowCardinality(String)), region SimpleAggregateFunction(max, LowCardinality(String)),
  device_type SimpleAggregateFunction(max, LowCardinality(String)), player SimpleAggregateFunction(max, LowCardinality(String)),
  context_type SimpleAggregateFunction(max, LowCardinality(String)), context_id SimpleAggregateFunction(max, String),
  edges SimpleAggregateFunction(groupUniqArrayArray, Array(String)), renditions SimpleAggregateFunction(groupUniqArrayArray, Array(String)),
  lowest_kbps SimpleAggregateFunction(min, UInt32), highest_kbps SimpleAggregateFunction(max, UInt32),
  stalls SimpleAggregateFunction(groupUniqArrayArray, Array(Tuple(UInt64, UInt32))), errors SimpleAggregateFunction(groupUniqArrayArray, Array(UInt64)),
  switches SimpleAggregateFunction(groupUniqArrayArray, Array(UInt64)), seeks SimpleAggregateFunction(groupUniqArrayArray, Array(UInt64))
) ENGINE = {{engine "AggregatingMergeTree" "play_states" ""}} PARTITION BY toYYYYMM(play_at) ORDER BY (toDate(play_at), play_id, play_at){{settings}};
{{distributed "play_states" "cityHash64(play_id)"}}
CREATE MATERIALIZED VIEW IF NOT EXISTS play_states_mv{{on}} TO {{local "play_states"}} AS
SELECT e.play_at AS play_at, e.play_id AS play_id, min(e.at) AS started_at, max(e.at) AS last_at, any(e.user_key) AS user_key, any(e.plan) AS plan,
  any(e.track_id) AS track_id, any(e.title) AS title, any(e.artist_id) AS artist_id, any(e.artist) AS artist, any(e.album_id) AS album_id, any(e.album) AS album,
  any(e.genre) AS genre, max(e.duration_ms) AS duration_ms, max(e.played_ms) AS played_ms, max(e.startup_ms) AS startup_ms,
  max(toUInt8(e.type = 'end')) AS ended, max(e.offline) AS offline, max(e.country) AS country, max(e.region) AS region, max(e.device_type) AS device_type,
  max(e.player) AS player, max(e.context_type) AS context_type, max(e.context_id) AS context_id,
  groupUniqArrayIf(toString(e.edge), e.edge != '') AS edges, groupUniqArrayIf(toString(e.rendition), e.rendition != '') AS renditions,
  min(if(e.bitrate_kbps = 0, 4294967295, e.bitrate_kbps)) AS lowest_kbps, max(e.bitrate_kbps) AS highest_kbps,
  groupUniqArrayIf((cityHash64(e.event_id), e.stall_ms), e.type = 'stall') AS stalls, groupUniqArrayIf(cityHash64(e.event_id), e.type = 'error') AS errors,
  groupUniqArrayIf(cityHash64(e.event_id), e.type = 'rendition') AS switches, groupUniqArrayIf(cityHash64(e.event_id), e.type = 'seek') AS seeks
FROM {{local "play_events"}} AS e GROUP BY e.play_at, e.play_id;

-- Sets of plays by hour and track, day and artist, day and country. A play is in the hour and the day of its play_at, with every event.
-- A set does not grow when a play comes again; heard is the longest time reported per play.
CREATE TABLE IF NOT EXISTS {{local "track_hourly_states"}}{{on}} (
  hour DateTime('UTC') CODEC(DoubleDelta, ZSTD), track_id FixedString(26) CODEC(ZSTD), country LowCardinality(String),
  title SimpleAggregateFunction(any, String), artist_id SimpleAggregateFunction(any, String), artist SimpleAggregateFunction(any, String),
  starts AggregateFunction(uniqExact, UInt64), plays AggregateFunction(uniqExact, UInt64), completions AggregateFunction(uniqExact, UInt64),
  listeners AggregateFunction(uniqCombined64, UInt64), heard SimpleAggregateFunction(maxMap, Map(UInt64, UInt32))
) ENGINE = {{engine "AggregatingMergeTree" "track_hourly_states" ""}} PARTITION BY toYYYYMM(hour) ORDER BY (hour, track_id, country){{settings}};
{{distributed "track_hourly_states" "cityHash64(track_id)"}}
CREATE MATERIALIZED VIEW IF NOT EXISTS track_hourly_mv{{on}} TO {{local "track_hourly_states"}} AS
SELECT toStartOfHour(toDateTime(e.play_at, 'UTC')) AS hour, e.track_id AS track_id, e.country AS country, any(e.title) AS title, any(e.artist_id) AS artist_id,
  any(e.artist) AS artist, uniqExactState(cityHash64(e.play_id)) AS starts,
  uniqExactStateIf(cityHash64(e.play_id), e.played_ms >= least(30000, greatest(e.duration_ms, 1000) - 500)) AS plays,
  uniqExactStateIf(cityHash64(e.play_id), e.duration_ms > 0 AND e.played_ms >= 0.9 * e.duration_ms) AS completions,
  uniqCombined64State(cityHash64(e.user_key)) AS listeners, maxMap(map(cityHash64(e.play_id), e.played_ms)) AS heard
FROM {{local "play_events"}} AS e GROUP BY hour, track_id, country;

CREATE TABLE IF NOT EXISTS {{local "artist_daily_states"}}{{on}} (
  day Date CODEC(DoubleDelta, ZSTD), artist_id String CODEC(ZSTD), artist SimpleAggregateFunction(any, String),
  starts AggregateFunction(uniqExact, UInt64), plays AggregateFunction(uniqExact, UInt64), listeners AggregateFunction(uniqCombined64, UInt64)
) ENGINE = {{engine "AggregatingMergeTree" "artist_daily_states" ""}} PARTITION BY toYYYYMM(day) ORDER BY (day, artist_id){{settings}};
{{distributed "artist_daily_states" "cityHash64(artist_id)"}}
CREATE MATERIALIZED VIEW IF NOT EXISTS artist_daily_mv{{on}} TO {{local "artist_daily_states"}} AS
SELECT toDate(e.play_at) AS day, e.artist_id AS artist_id, any(e.artist) AS artist, uniqExactState(cityHash64(e.play_id)) AS starts,
  uniqExactStateIf(cityHash64(e.play_id), e.played_ms >= least(30000, greatest(e.duration_ms, 1000) - 500)) AS plays,
  uniqCombined64State(cityHash64(e.user_key)) AS listeners
FROM {{local "play_events"}} AS e GROUP BY day, artist_id;

CREATE TABLE IF NOT EXISTS {{local "country_daily_states"}}{{on}} (
  day Date CODEC(DoubleDelta, ZSTD), country LowCardinality(String), plan LowCardinality(String),
  starts AggregateFunction(uniqExact, UInt64), plays AggregateFunction(uniqExact, UInt64), listeners AggregateFunction(uniqCombined64, UInt64)
) ENGINE = {{engine "AggregatingMergeTree" "country_daily_states" ""}} PARTITION BY toYYYYMM(day) ORDER BY (day, country, plan){{settings}};
{{distributed "country_daily_states" "rand()"}}
CREATE MATERIALIZED VIEW IF NOT EXISTS country_daily_mv{{on}} TO {{local "country_daily_states"}} AS
SELECT toDate(e.play_at) AS day, e.country AS country, e.plan AS plan, uniqExactState(cityHash64(e.play_id)) AS starts,
  uniqExactStateIf(cityHash64(e.play_id), e.played_ms >= least(30000, greatest(e.duration_ms, 1000) - 500)) AS plays,
  uniqCombined64State(cityHash64(e.user_key)) AS listeners
FROM {{local "play_events"}} AS e GROUP BY day, country, plan;

-- One row per request that an edge answered; (edge, log, seq) is its name for ever.
CREATE TABLE IF NOT EXISTS {{local "edge_requests"}}{{on}} (
  at DateTime64(6, 'UTC') CODEC(DoubleDelta, ZSTD), received_at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD),
  edge LowCardinality(String), region LowCardinality(String), log FixedString(26) CODEC(ZSTD), seq UInt64 CODEC(Delta, ZSTD), batch UInt64 CODEC(Delta, ZSTD),
  sid String CODEC(ZSTD), play_id String CODEC(ZSTD), track_id String CODEC(ZSTD), version String CODEC(ZSTD), rendition LowCardinality(String),
  method LowCardinality(String), route LowCardinality(String), key String CODEC(ZSTD), status UInt16 CODEC(T64, ZSTD), bytes UInt64 CODEC(T64, ZSTD),
  range String CODEC(ZSTD), cache LowCardinality(String), tier LowCardinality(String), first_byte_us UInt32 CODEC(T64, ZSTD), duration_us UInt32 CODEC(T64, ZSTD),
  client LowCardinality(String), country LowCardinality(String), device_type LowCardinality(String), user_agent LowCardinality(String), referer LowCardinality(String),
  proto LowCardinality(String), tls LowCardinality(String), conn_requests UInt32 CODEC(T64, ZSTD),
  cmcd_version UInt8, cmcd_object LowCardinality(String), cmcd_format LowCardinality(String), cmcd_stream LowCardinality(String), cmcd_state LowCardinality(String),
  cmcd_content String CODEC(ZSTD), cmcd_bitrate_kbps UInt32 CODEC(T64, ZSTD), cmcd_top_kbps UInt32 CODEC(T64, ZSTD), cmcd_throughput_kbps UInt32 CODEC(T64, ZSTD),
  cmcd_requested_kbps UInt32 CODEC(T64, ZSTD), cmcd_buffer_ms Nullable(UInt32) CODEC(ZSTD), cmcd_duration_ms UInt32 CODEC(T64, ZSTD),
  cmcd_deadline_ms Nullable(UInt32) CODEC(ZSTD), cmcd_rate Nullable(Float32) CODEC(ZSTD), cmcd_startup UInt8, cmcd_starved UInt8, cmcd_sequence UInt32 CODEC(T64, ZSTD),
  INDEX sid sid TYPE bloom_filter GRANULARITY 4, INDEX track track_id TYPE bloom_filter GRANULARITY 4
) ENGINE = {{engine "ReplacingMergeTree" "edge_requests" "received_at"}} PARTITION BY toYYYYMM(at) ORDER BY (toStartOfHour(at), edge, log, seq){{settings}};
{{distributed "edge_requests" "cityHash64(edge, log, batch)"}}

-- Sums per minute and batch. An edge's batch is never divided, neither by the edge nor by an insert, so that a batch that comes
-- again makes the same rows again, which replace themselves.
CREATE TABLE IF NOT EXISTS {{local "edge_minute_batches"}}{{on}} (
  minute DateTime('UTC') CODEC(DoubleDelta, ZSTD), edge LowCardinality(String), region LowCardinality(String), country LowCardinality(String),
  status UInt16 CODEC(T64, ZSTD), cache LowCardinality(String), tier LowCardinality(String), rendition LowCardinality(String), log FixedString(26) CODEC(ZSTD),
  batch UInt64 CODEC(Delta, ZSTD), requests UInt64 CODEC(T64, ZSTD), bytes UInt64 CODEC(T64, ZSTD), duration_us UInt64 CODEC(T64, ZSTD), starved UInt64 CODEC(T64, ZSTD),
  first_byte AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), UInt32)
) ENGINE = {{engine "ReplacingMergeTree" "edge_minute_batches" ""}} PARTITION BY toYYYYMM(minute)
ORDER BY (minute, edge, region, country, status, cache, tier, rendition, log, batch){{settings}};
{{distributed "edge_minute_batches" "cityHash64(edge, log, batch)"}}
CREATE MATERIALIZED VIEW IF NOT EXISTS edge_minutely_mv{{on}} TO {{local "edge_minute_batches"}} AS
SELECT toStartOfMinute(toDateTime(r.at, 'UTC')) AS minute, r.edge AS edge, r.region AS region, r.country AS country, r.status AS status, r.cache AS cache, r.tier AS tier,
  r.rendition AS rendition, r.log AS log, r.batch AS batch, count() AS requests, sum(r.bytes) AS bytes, sum(r.duration_us) AS duration_us, sum(r.cmcd_starved) AS starved,
  quantilesTDigestState(0.5, 0.95, 0.99)(r.first_byte_us) AS first_byte
FROM {{local "edge_requests"}} AS r GROUP BY minute, edge, region, country, status, cache, tier, rendition, log, batch;

-- One row per report of CMCD version 2 event mode. id is a hash of session and report.
CREATE TABLE IF NOT EXISTS {{local "cmcd_events"}}{{on}} (
  at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD), received_at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD), sid String CODEC(ZSTD), id UInt64 CODEC(ZSTD),
  event LowCardinality(String), event_name LowCardinality(String), sequence UInt32 CODEC(T64, ZSTD), state LowCardinality(String), version UInt8,
  content String CODEC(ZSTD), object LowCardinality(String), format LowCardinality(String), stream LowCardinality(String), host LowCardinality(String), cdn LowCardinality(String),
  track_id String CODEC(ZSTD), url String CODEC(ZSTD), bitrate_kbps UInt32 CODEC(T64, ZSTD), top_kbps UInt32 CODEC(T64, ZSTD), throughput_kbps UInt32 CODEC(T64, ZSTD),
  buffer_ms Nullable(UInt32) CODEC(ZSTD), playhead_ms Nullable(UInt32) CODEC(ZSTD), start_delay_ms Nullable(UInt32) CODEC(ZSTD), rate Nullable(Float32) CODEC(ZSTD),
  starved UInt8, starvations UInt32 CODEC(T64, ZSTD), starved_ms UInt32 CODEC(T64, ZSTD), dropped_frames UInt32 CODEC(T64, ZSTD), error_code LowCardinality(String),
  response_status UInt16 CODEC(T64, ZSTD), first_byte_ms UInt32 CODEC(T64, ZSTD), last_byte_ms UInt32 CODEC(T64, ZSTD),
  client LowCardinality(String), country LowCardinality(String), device_type LowCardinality(String), user_agent LowCardinality(String)
) ENGINE = {{engine "ReplacingMergeTree" "cmcd_events" "received_at"}} PARTITION BY toYYYYMM(at) ORDER BY (toDate(at), sid, id){{settings}};
{{distributed "cmcd_events" "cityHash64(sid)"}}

-- What the first tables held. The time of a play is in its ULID.
INSERT INTO play_events (event_id, play_id, type, at, received_at, play_at, user_key, plan, track_id, version, title, artist, album, duration_ms, position_ms, played_ms,
  rendition, bitrate_kbps, edge, player, startup_ms, stall_ms, message)
SELECT event_id, play_id, type, at, received_at, fromUnixTimestamp64Milli(arrayFold((a, c) -> a * 32 + position('0123456789ABCDEFGHJKMNPQRSTVWXYZ', c) - 1, splitByString('', substring(play_id, 1, 10)), toInt64(0)), 'UTC'), user_key, plan, track_id, version, title, artist, album, duration_ms, position_ms, played_ms,
  rendition, toUInt32OrZero(extract(toString(rendition), '_([0-9]+)$')), edge, player, startup_ms, stall_ms, message FROM play_events_before;
DROP TABLE play_events_before{{on}};
