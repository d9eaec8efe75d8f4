// Package playlist holds playlists: what is in them, who may see and change them, what they were, and everybody's own
// list of them in folders.
//
//	write -> lock of the playlist's row -> role -> If-Match -> change -> revision n+1, with its author and what it did
//
// An entry has an id of its own and stands at a position from one revision until before another: one row of
// playlist_items says so. An add is a new row, a remove ends one, a move ends one and makes one; nothing else in the
// playlist is touched. So any kept revision can be read as it was, pages of one read are of one revision, and a change is
// taken back by putting entries where they stood.
//
// Without If-Match no writer loses what another did: adds commute, removes name entries, moves name a neighbour, and
// even a neighbour that was removed still marks its place.
//
// A private playlist of others is media.ErrNotFound, so nobody learns that there is one; a write without the role is
// media.ErrDenied.
package playlist
