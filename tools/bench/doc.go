// Command bench compares edges side by side on one machine: segue-edge, nginx, Varnish and Traffic Server, each with one
// core, the client and the origin with the other. It prints Markdown; docs/performance.md says what came out and why.
//
//	make bench-edge                            everything: some twenty minutes
//	go run ./tools/bench run --only hot,zipf   parts of it; --peers segue,nginx; --rounds 3; --for 4s
//	go run ./tools/bench origin                the origin alone
//
// A peer is configured as a cache that holds everything in memory or in tmpfs, with its logs off; conf/ has the files.
package main
