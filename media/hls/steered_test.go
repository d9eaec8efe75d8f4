package hls_test

import (
	"errors"
	"strings"
	"testing"

	"segue/media"
	"segue/media/hls"

	"github.com/google/go-cmp/cmp"
)

var pathways = []hls.Pathway{{ID: "eu-1", URL: "https://eu.example/t/tok/media/a/b/"}, {ID: "us-1", URL: "https://us.example/t/tok/media/a/b/"}}

func TestSteered(t *testing.T) {
	f := func(master, want string) {
		t.Helper()
		p, err := hls.ParseMultivariant([]byte(master))
		if err != nil {
			t.Fatal(err)
		}
		got := p.Steered("/steering/hls?t=tok", pathways)
		if d := cmp.Diff(string(got), want); d != "" {
			t.Error(d)
		}
	}
	r := media.Rendition{Name: "aac_96", Codec: "mp4a.40.2", AverageBps: 97000, PeakBps: 120000}
	f(string(hls.Multivariant([]media.Rendition{r})), `#EXTM3U
#EXT-X-VERSION:7
#EXT-X-INDEPENDENT-SEGMENTS
#EXT-X-CONTENT-STEERING:SERVER-URI="/steering/hls?t=tok",PATHWAY-ID="eu-1"
#EXT-X-STREAM-INF:BANDWIDTH=120000,AVERAGE-BANDWIDTH=97000,CODECS="mp4a.40.2",STABLE-VARIANT-ID="aac_96",PATHWAY-ID="eu-1"
https://eu.example/t/tok/media/a/b/aac_96.m3u8
#EXT-X-STREAM-INF:BANDWIDTH=120000,AVERAGE-BANDWIDTH=97000,CODECS="mp4a.40.2",STABLE-VARIANT-ID="aac_96",PATHWAY-ID="us-1"
https://us.example/t/tok/media/a/b/aac_96.m3u8
`)
	// Of others: rendition groups, I-frames, an ID and a steering server of their own.
	f("\ufeff#EXTM3U\r\n# a comment\r\n#EXT-X-CONTENT-STEERING:SERVER-URI=\"https://old\"\r\n"+`#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a,b",NAME="x",URI="audio/1.m3u8"
#EXT-X-MEDIA:TYPE=CLOSED-CAPTIONS,GROUP-ID="cc",NAME="y",INSTREAM-ID="CC1"
#EXT-X-STREAM-INF:BANDWIDTH=1,AUDIO="a,b",CLOSED-CAPTIONS="cc",STABLE-VARIANT-ID="v",PATHWAY-ID="old"
v.m3u8?q=1
#EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1,URI="i.m3u8"
`, `#EXTM3U
#EXT-X-CONTENT-STEERING:SERVER-URI="/steering/hls?t=tok",PATHWAY-ID="eu-1"
#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a,b",NAME="x",URI="https://eu.example/t/tok/media/a/b/audio/1.m3u8",STABLE-RENDITION-ID="audio/1"
#EXT-X-MEDIA:TYPE=CLOSED-CAPTIONS,GROUP-ID="cc",NAME="y",INSTREAM-ID="CC1"
#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a,b@us-1",NAME="x",URI="https://us.example/t/tok/media/a/b/audio/1.m3u8",STABLE-RENDITION-ID="audio/1"
#EXT-X-MEDIA:TYPE=CLOSED-CAPTIONS,GROUP-ID="cc@us-1",NAME="y",INSTREAM-ID="CC1"
#EXT-X-STREAM-INF:BANDWIDTH=1,AUDIO="a,b",CLOSED-CAPTIONS="cc",STABLE-VARIANT-ID="v",PATHWAY-ID="eu-1"
https://eu.example/t/tok/media/a/b/v.m3u8?q=1
#EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1,URI="https://eu.example/t/tok/media/a/b/i.m3u8",STABLE-VARIANT-ID="i",PATHWAY-ID="eu-1"
#EXT-X-STREAM-INF:BANDWIDTH=1,AUDIO="a,b@us-1",CLOSED-CAPTIONS="cc@us-1",STABLE-VARIANT-ID="v",PATHWAY-ID="us-1"
https://us.example/t/tok/media/a/b/v.m3u8?q=1
#EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1,URI="https://us.example/t/tok/media/a/b/i.m3u8",STABLE-VARIANT-ID="i",PATHWAY-ID="us-1"
`)
}

func TestParseMultivariantRefuses(t *testing.T) {
	for _, s := range []string{"", "#EXTM3U\n", "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n", "#EXTM3U\nx.m3u8\n", "#EXTM3U\n#EXTINF:1,\nx.mp4\n", "hello",
		"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nhttps://elsewhere.example/x.m3u8\n", "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n/x.m3u8\n", "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n../x.m3u8\n",
		"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n//elsewhere.example/x\n", "#EXTM3U\n#EXT-X-STREAM-INF:A=\"x\nx.m3u8\n", "#EXTM3U\n#EXT-X-STREAM-INF:B\nx.m3u8\n",
		"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n#EXT-X-STREAM-INF:BANDWIDTH=2\nx.m3u8\n", "#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO\n#EXT-X-STREAM-INF:BANDWIDTH=1\nx.m3u8\n"} {
		if _, err := hls.ParseMultivariant([]byte(s)); !errors.Is(err, media.ErrInvalid) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// FuzzSteered: what is accepted prints as a playlist that is accepted, with every URI on its pathway.
func FuzzSteered(f *testing.F) {
	f.Add("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1,CODECS=\"a,b\"\nx.m3u8\n")
	f.Add("#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"g\",URI=\"a.m3u8\"\n#EXT-X-STREAM-INF:AUDIO=\"g\"\nx/y.m3u8?z=1\n#EXT-X-I-FRAME-STREAM-INF:URI=\"i\"\n")
	f.Fuzz(func(t *testing.T, master string) {
		p, err := hls.ParseMultivariant([]byte(master))
		if err != nil {
			return
		}
		out := string(p.Steered("/s", pathways))
		n := 0
		for line := range strings.Lines(out) {
			line = strings.TrimSpace(line)
			if !strings.HasPrefix(line, "#") {
				n++
				if !strings.HasPrefix(line, pathways[0].URL) && !strings.HasPrefix(line, pathways[1].URL) {
					t.Fatalf("%q is on no pathway", line)
				}
			}
		}
		if n%2 != 0 || n > 2*len(p.Variants()) {
			t.Fatalf("%d URIs of %d variants", n, len(p.Variants()))
		}
		back, err := hls.ParseMultivariant([]byte(strings.ReplaceAll(strings.ReplaceAll(out, pathways[0].URL, ""), pathways[1].URL, "")))
		if err != nil || len(back.Variants()) != 2*len(p.Variants()) {
			t.Fatalf("%v of %q", err, out)
		}
	})
}
