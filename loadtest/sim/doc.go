// Package sim plans capacity: a day of many listeners against a fleet that is not built yet, in compressed time.
//
//	people by country and hour -> plays -> geo.Decide -> edge.Model (memory, disk) -> owner's edge.Model -> origin
//
// What decides is the product's own code: geo.Decide sends each play to an edge, edge.Model is the eviction and admission of
// the cache, edge.Owners the region's owner of an object. What is modelled here is only what people do, in blocks of bytes.
//
// Nobody can simulate every one of the 1e9 plays of a day, and thinning the plays would thin what makes caches hit: how
// often each track is asked for. So it is the tracks that are sampled, each with all of its plays, and the caches
// shrink by the same factor (Waldspurger et al., "Efficient MRC Construction with SHARDS", FAST 2015). Popularity is heavy at its head,
// where few tracks are sampled or none: ranks are cut into octaves, of each at least one track is taken, and what is measured in an octave is
// weighed by its true part of all plays. Tracks with more plays than a cache could ever forget are simulated with fewer. The
// error is measured and not assumed: Replicas runs with other samples give the confidence interval in the result, and a test
// compares samples with the whole.
//
// Not in it: what a play costs in time (a play's blocks are asked for at once), loss, disks that are too slow, tastes that
// differ between countries (real ones make caches hit more).
package sim
