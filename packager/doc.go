// Package packager turns audio files into the objects of the origin's layout, and publishes them.
//
//	file -> sha256 -> ffprobe -> Catalog.Claim -> ffmpeg decode (PCM, EBU R128)
//	     -> ffmpeg encode, once per rendition -> CMAF file, playlists, manifests -> Sink.Put -> Catalog.Publish
//
// ffmpeg decodes and encodes; boxes, index and manifests are ours, made from one segment table, so they agree. The
// source is decoded once to PCM: its exact number of samples becomes the edit list of every rendition. Order of
// publishing: audio, pictures, playlists and manifests, track.json, catalogue. A crash leaves unreferenced objects,
// never a reference to a missing one, and the next run does that track again.
//
// ffmpeg reads foreign bytes, so it gets a time limit, a memory limit per block, the protocols file and pipe only, an
// explicit "file:" before every path, and no demuxer that opens other files (hls, concat, dash, …).
package packager
