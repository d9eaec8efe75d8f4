// Package steer prints the decisions of geo for those who ask: HLS and DASH content steering, playlists with several
// pathways, redirects, and DNS. What a player does oddly stands in tables beside the printer that minds it.
//
//	address, play -> snapshot of the registry -> geo.Decide -> steering manifest | playlist | redirect | DNS answer
//
// A play is known by its access token alone: it is signed, names the track's folder, and edges hold the player to it. No
// answer needs SQL, and only a playlist reads the origin, once per version.
package steer
