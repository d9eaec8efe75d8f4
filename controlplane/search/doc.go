// Package search finds tracks, albums, artists, playlists and users as a listener types: a Bleve index on each replica,
// filled from SQL and kept up by the event log. It is derived data: whatever happens to it, it is made again.
//
//	events (which ids) -> Apply -> rows from SQL -> shards (scorch) -> view
//	query -> split -> postings of each word -> AND -> most popular first -> score -> hits with their stored JSON
//
// Bleve's own searcher scores every posting of every term, so that one letter over a million tracks costs a tenth of a
// second. Here Bleve stores, merges and looks up (package scorch: dictionaries, postings, documents), and find.go answers
// from its postings as bitmaps: it intersects them and takes the most popular documents first, in an order that each
// segment keeps in memory (7 bytes a document), until there are enough. Short beginnings have postings of their own;
// typos and middles of words are looked for only when nothing else is found.
//
// A generation is a folder of shards. One is served; another may be filled beside it (Rebuild) and takes its place in
// one step. While the first one is filled it is served as far as it is, and answers say so.
//
// What a caller may rely on: a change that Apply returned for survives kill -9 and is found by the next Find; applying
// changes again, or late, or in any order ends at what SQL holds; a query is never an error because of what it says.
// What it does not do: stemming, synonyms, phrases in quotes, ranking by what a listener likes.
package search
