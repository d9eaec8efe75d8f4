// Package media is the vocabulary that every other package shares: identifiers, object keys, renditions, the
// track document and the sentinel errors. It has types and pure functions only, and imports nothing of ours.
//
//	media/<track_id>/<version>/<rendition>.mp4     one CMAF file per rendition: ftyp moov sidx (moof mdat)+
//	media/<track_id>/<version>/<rendition>.m3u8    HLS media playlist: byte ranges of that one file
//	media/<track_id>/<version>/master.m3u8         HLS multivariant playlist
//	media/<track_id>/<version>/manifest.mpd        DASH on-demand profile
//	media/<track_id>/<version>/track.json          Track, below
//	art/<album_id>/<version>/<size>.jpg            64, 300, 640
//
// Invariant: an object never changes under its key. New bytes get a new Version, hence a new key.
package media
