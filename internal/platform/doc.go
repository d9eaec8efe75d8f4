// Package platform is the whole product in one process, for `segue up` and for end-to-end tests.
//
//	event log -> ClickHouse engine (child process) -> control plane -> edges -> ready -> ingest of --music
//
// Parts start in that order and stop in reverse. They use the same seams as when they run alone: an edge joins
// with a token and heartbeats over HTTP, ingest speaks the admin API, players fetch through the edges. All state
// is in one data folder, held by a lock:
//
//	lock credentials.json admin.token   this package
//	origin/                             media objects (dirstore), unless --origin says elsewhere
//	segue.db                            SQLite, unless --database says elsewhere
//	search/ events/ clickhouse/         search index, JetStream, the engine
//	edges/<name>/                       an edge's identity, last configuration and disk cache
package platform
