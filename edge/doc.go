// Package edge is the cache that players fetch from.
//
//	player -> Door (token, key) -> metas -> policy.Plan -> Memory+Coalesce -> Disk -> Shield -> Upstream -> origin
//
// An object is a run of aligned blocks of 256 KiB. A Meta says what a cache key names now: size, validator,
// freshness. A BlockKey holds a hash of cache key and validator, so blocks of two versions never meet in one reply.
// One verb moves bytes: Source.Fetch, "these blocks of that object, in order"; the tiers are that verb, stacked.
//
// Invariants: the bytes path never waits for the control plane. A missing run is one ranged request upstream however
// many wait for it, each block is handed on as it arrives, and the fill outlives the caller who began it. A bad byte
// on disk is a miss. fasthttp stays in door.go; tiers and policy know nothing of it.
package edge
