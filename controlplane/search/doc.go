// Package search finds tracks, albums, artists, playlists and users as a listener types: an index on each replica, filled
// from SQL and kept up by the event log. It is derived data: whatever happens to it, it is made again.
//
//	events (which ids) -> Apply -> rows from SQL -> a new segment -> view
//	query -> split -> lists of each word -> AND -> the first ones -> score -> hits with their stored JSON
//
// A segment is a file that never changes, with documents of one kind in the order of popularity: the first documents of
// any list are its best, so that a query ranks some hundred and never looks at the rest. Beginnings of up to three
// letters have lists of their own, longer ones are ranges of the sorted dictionary; typos and middles of words are looked
// for only when nothing else is found. What changes is a new small segment that hides older documents; segments are
// merged, in one order and hence without sorting, before there are many. Why this and no library's index: decision 0010.
//
// A generation is a folder of segments. One is served; another may be filled beside it (Rebuild) and takes its place in
// one step. While the first one is filled it is served as far as it is, and answers say so.
//
// What a caller may rely on: a change that Apply returned for survives kill -9 and is found by the next Find; applying
// changes again, or late, or in any order ends at what SQL holds; a query is never an error because of what it says.
// What it does not do: stemming, synonyms, phrases in quotes, ranking by what a listener likes.
package search
