// Package edge is the cache that players fetch from.
//
//	player -> transport -> door (token, key) -> metas -> policy.Plan -> Memory+Coalesce -> Disk -> Shield -> Upstream -> origin
//	                                  \ route of an HTTP origin -> exchange (RFC 9111) -> origin, its body into the same blocks
//
// An object is a run of aligned blocks of 256 KiB. A Meta says what a cache key names now: size, validator,
// freshness. A BlockKey holds a hash of cache key and validator, so blocks of two versions never meet in one reply.
// One verb moves bytes: Source.Fetch, "these blocks of that object, in order"; the tiers are that verb, stacked.
//
// Invariants: the bytes path never waits for the control plane. A missing run is one ranged request upstream however
// many wait for it, each block is handed on as it arrives, and the fill outlives the caller who began it. A bad byte
// on disk is a miss. fasthttp stays in the door's files (door, forward, reply, record, prefetch); tiers and policy know
// nothing of it. A hit from memory allocates nothing: strings of a request are borrowed, and copied by who keeps them.
//
//	door.go forward.go reply.go multipart.go   requests in, replies out         meta.go metas.go purge.go   what keys name
//	memory arena_*.go coalesce.go disk*.go     tiers                            exchange.go httporigin.go   HTTP origins
//	shield.go upstream.go care.go              peers and origins                verdict.go                  tokens
//	prefetch.go record.go requestlog.go inspect.go                              beside the path
package edge
