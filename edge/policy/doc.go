// Package policy holds the rules of HTTP that an edge follows, as pure functions over fields, sizes and times.
//
//	plan.go    what a request selects of an object: conditions and ranges (RFC 9110 13, 14)
//	store.go   whether a response may be stored, and for how long it is fresh (RFC 9111 3, 4.2; RFC 5861; RFC 9213)
//	reuse.go   whether a stored response answers a request, which of several, how it is validated and updated (RFC 9111 4)
//
// Nothing here does I/O or reads a clock. The public suite http-tests/cache-tests is the judge of the whole; the tables
// beside the files are of the single rules.
package policy
