// Package hls writes the HLS playlists of a track (RFC 8216) and puts them on several pathways: a media playlist per rendition, whose segments are byte
// ranges of one CMAF file, and multivariant playlists over all or some renditions. Pure functions over media.Track,
// so a playlist cannot disagree with the segment index.
package hls

import (
	"fmt"
	"math"
	"strings"

	"segue/media"
)

// Media is the playlist <rendition>.m3u8.
func Media(r media.Rendition) []byte {
	var b strings.Builder
	target := 1
	for _, s := range r.Segments {
		// RFC 8216 4.3.3.1: each EXTINF, rounded to the nearest integer, is at most the target duration.
		target = max(target, int(math.Round(seconds(s.Duration, r.Timescale))))
	}
	// Version 7: EXT-X-MAP in a playlist without I-frames only (6) and the fMP4 format.
	fmt.Fprintf(&b, "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:%d\n#EXT-X-PLAYLIST-TYPE:VOD\n#EXT-X-INDEPENDENT-SEGMENTS\n", target)
	fmt.Fprintf(&b, "#EXT-X-MAP:URI=%q,BYTERANGE=\"%d@%d\"\n", r.File, r.Init.Size, r.Init.Offset)
	for _, s := range r.Segments {
		fmt.Fprintf(&b, "#EXTINF:%.6f,\n#EXT-X-BYTERANGE:%d@%d\n%s\n", seconds(s.Duration, r.Timescale), s.Size, s.Offset, r.File)
	}
	b.WriteString("#EXT-X-ENDLIST\n")
	return []byte(b.String())
}

// Multivariant is master.m3u8, or its limited form, over the renditions given, in their order.
func Multivariant(renditions []media.Rendition) []byte {
	var b strings.Builder
	b.WriteString("#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n")
	for _, r := range renditions {
		fmt.Fprintf(&b, "#EXT-X-STREAM-INF:BANDWIDTH=%d,AVERAGE-BANDWIDTH=%d,CODECS=%q\n%s.m3u8\n", r.PeakBps, r.AverageBps, r.Codec, r.Name)
	}
	return []byte(b.String())
}

func seconds(ticks int64, timescale int) float64 { return float64(ticks) / float64(timescale) }
