package hls_test

import (
	"testing"

	"segue/media"
	"segue/media/hls"

	"github.com/google/go-cmp/cmp"
)

func TestPlaylists(t *testing.T) {
	r := media.Rendition{
		Name: "aac_96", File: "aac_96.mp4", Codec: "mp4a.40.2", AverageBps: 97000, PeakBps: 120000, Timescale: 44100,
		Init:     media.ByteSpan{Size: 700},
		Segments: []media.Segment{{Offset: 756, Size: 48000, Duration: 176128}, {Offset: 48756, Size: 900, Duration: 198450}},
	}
	want := `#EXTM3U
#EXT-X-VERSION:7
#EXT-X-TARGETDURATION:5
#EXT-X-PLAYLIST-TYPE:VOD
#EXT-X-INDEPENDENT-SEGMENTS
#EXT-X-MAP:URI="aac_96.mp4",BYTERANGE="700@0"
#EXTINF:3.993832,
#EXT-X-BYTERANGE:48000@756
aac_96.mp4
#EXTINF:4.500000,
#EXT-X-BYTERANGE:900@48756
aac_96.mp4
#EXT-X-ENDLIST
`
	if d := cmp.Diff(string(hls.Media(r)), want); d != "" {
		t.Error(d)
	}
	want = `#EXTM3U
#EXT-X-VERSION:7
#EXT-X-INDEPENDENT-SEGMENTS
#EXT-X-STREAM-INF:BANDWIDTH=120000,AVERAGE-BANDWIDTH=97000,CODECS="mp4a.40.2"
aac_96.m3u8
`
	if d := cmp.Diff(string(hls.Multivariant([]media.Rendition{r})), want); d != "" {
		t.Error(d)
	}
}
