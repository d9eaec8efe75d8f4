-- One row per play; counted says that it was heard for 30 s, or to the end of a shorter track.
CREATE OR REPLACE VIEW plays{{on}} AS
SELECT toString(play_id) AS play_id, CAST(min(s.started_at), 'DateTime64(3, \'UTC\')') AS started_at, CAST(max(s.last_at), 'DateTime64(3, \'UTC\')') AS last_at,
  toString(any(s.user_key)) AS user_key, toString(any(s.plan)) AS plan, toString(any(s.track_id)) AS track_id, CAST(any(s.title), 'String') AS title,
  CAST(any(s.artist), 'String') AS artist, CAST(any(s.album), 'String') AS album, CAST(max(s.duration_ms), 'UInt32') AS duration_ms, CAST(max(s.played_ms), 'UInt32') AS played_ms,
  max(s.played_ms) >= least(30000, greatest(max(s.duration_ms), 1000) - 500) AS counted, CAST(max(s.startup_ms), 'UInt32') AS startup_ms, CAST(max(s.ended), 'UInt8') AS ended,
  toUInt64(length(groupUniqArrayArray(s.stalls))) AS stalls, toUInt64(length(groupUniqArrayArray(s.errors))) AS errors, groupUniqArrayArray(s.edges) AS edges,
  groupUniqArrayArray(s.renditions) AS renditions, toString(max(s.player)) AS player, s.play_at AS play_at, toString(any(s.artist_id)) AS artist_id,
  toString(any(s.album_id)) AS album_id, toString(any(s.genre)) AS genre, toString(max(s.country)) AS country, toString(max(s.region)) AS region,
  toString(max(s.device_type)) AS device_type, toString(max(s.context_type)) AS context_type, CAST(max(s.context_id), 'String') AS context_id, CAST(max(s.offline), 'UInt8') AS offline
FROM play_states AS s GROUP BY s.play_at, play_id;

-- Quality of experience per playback.
CREATE OR REPLACE VIEW sessions{{on}} AS
SELECT toString(play_id) AS sid, s.play_at AS play_at, CAST(min(s.started_at), 'DateTime64(3, \'UTC\')') AS started_at, CAST(max(s.last_at), 'DateTime64(3, \'UTC\')') AS last_at,
  CAST(max(s.startup_ms), 'UInt32') AS startup_ms, CAST(max(s.played_ms), 'UInt32') AS played_ms, toUInt64(length(groupUniqArrayArray(s.stalls))) AS stalls,
  toUInt64(arraySum(x -> x.2, groupUniqArrayArray(s.stalls))) AS stall_ms, toUInt32(if(min(s.lowest_kbps) = 4294967295, 0, min(s.lowest_kbps))) AS lowest_kbps,
  CAST(max(s.highest_kbps), 'UInt32') AS highest_kbps, groupUniqArrayArray(s.renditions) AS renditions, toUInt64(length(groupUniqArrayArray(s.switches))) AS rendition_switches,
  toUInt64(length(groupUniqArrayArray(s.seeks))) AS seeks, toUInt64(length(groupUniqArrayArray(s.errors))) AS errors, CAST(max(s.ended), 'UInt8') AS ended,
  groupUniqArrayArray(s.edges) AS edges, toString(max(s.region)) AS region, toString(max(s.country)) AS country, toString(max(s.device_type)) AS device_type,
  toString(max(s.player)) AS player, toString(any(s.plan)) AS plan, toString(any(s.track_id)) AS track_id, toString(any(s.user_key)) AS user_key
FROM play_states AS s WHERE s.offline = 0 GROUP BY s.play_at, play_id;

-- The sets as numbers. A play is in one hour and one day: these may be added up over time. Listeners may not.
CREATE OR REPLACE VIEW track_hourly{{on}} AS
SELECT hour, toString(track_id) AS track_id, CAST(any(s.title), 'String') AS title, toString(any(s.artist_id)) AS artist_id, CAST(any(s.artist), 'String') AS artist,
  uniqExactMerge(s.starts) AS starts, uniqExactMerge(s.plays) AS plays, uniqExactMerge(s.completions) AS completions, uniqCombined64Merge(s.listeners) AS listeners,
  toUInt64(arraySum(mapValues(maxMap(s.heard)))) AS heard_ms
FROM track_hourly_states AS s GROUP BY hour, track_id;

CREATE OR REPLACE VIEW artist_daily{{on}} AS
SELECT day, toString(artist_id) AS artist_id, CAST(any(s.artist), 'String') AS artist, uniqExactMerge(s.starts) AS starts, uniqExactMerge(s.plays) AS plays,
  uniqCombined64Merge(s.listeners) AS listeners
FROM artist_daily_states AS s GROUP BY day, artist_id;

CREATE OR REPLACE VIEW country_daily{{on}} AS
SELECT day, toString(country) AS country, toString(plan) AS plan, uniqExactMerge(s.starts) AS starts, uniqExactMerge(s.plays) AS plays, uniqCombined64Merge(s.listeners) AS listeners
FROM country_daily_states AS s GROUP BY day, country, plan;

CREATE OR REPLACE VIEW edge_minutely{{on}} AS
SELECT minute, toString(edge) AS edge, toString(region) AS region, toString(country) AS country, status, toString(cache) AS cache, toString(tier) AS tier,
  toString(rendition) AS rendition, sum(b.requests) AS requests, sum(b.bytes) AS bytes, sum(b.duration_us) AS duration_us, sum(b.starved) AS starved,
  quantilesTDigestMerge(0.5, 0.95, 0.99)(b.first_byte) AS first_byte_us
FROM edge_minute_batches AS b FINAL GROUP BY minute, edge, region, country, status, cache, tier, rendition;
