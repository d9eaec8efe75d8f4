// Command bench compares edges side by side on one machine, and loads control planes. Edges: segue-edge, nginx, Varnish and Traffic Server, each with one
// core, the client and the origin with the other. It prints Markdown; docs/performance.md says what came out and why.
//
//	make bench-edge                            everything: some twenty minutes
//	go run ./tools/bench run --only hot,zipf   parts of it; --peers segue,nginx; --rounds 3; --for 4s
//	go run ./tools/bench origin                the origin alone
//
// It also asks control planes as listeners do (api.go): an open loop, so that a server that is late is late in the figures, on a
// database of a million tracks that is made once and kept in .cache/bench-api.
//
//	make bench-api                                        SQLite, PostgreSQL, two replicas: half an hour, the first time more
//	make bench-api ARGS="-tracks 100000 -only cost"       a smaller one; what each operation costs
//	make bench-api ARGS="-databases sqlite -only mix -profile profiles"
//
// A peer is configured as a cache that holds everything in memory or in tmpfs, with its logs off; conf/ has the files.
package main
