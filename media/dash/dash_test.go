package dash_test

import (
	"testing"
	"time"

	"segue/media"
	"segue/media/dash"

	"github.com/google/go-cmp/cmp"
)

func TestManifest(t *testing.T) {
	r := media.Rendition{Name: "flac", File: "flac.mp4", Codec: "fLaC", PeakBps: 900000, SampleRateHz: 44100, Channels: 2, Timescale: 44100,
		Init: media.ByteSpan{Size: 700}, Index: media.ByteSpan{Offset: 700, Size: 56}}
	got, err := dash.Manifest(61500*time.Millisecond, []media.Rendition{r})
	if err != nil {
		t.Fatal(err)
	}
	want := `<?xml version="1.0" encoding="UTF-8"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011" type="static" mediaPresentationDuration="PT61.500000S" minBufferTime="PT4S">
  <Period id="0">
    <AdaptationSet id="1" contentType="audio" mimeType="audio/mp4" lang="und" subsegmentAlignment="true" subsegmentStartsWithSAP="1">
      <Role schemeIdUri="urn:mpeg:dash:role:2011" value="main"></Role>
      <Representation id="flac" bandwidth="900000" codecs="fLaC" audioSamplingRate="44100">
        <AudioChannelConfiguration schemeIdUri="urn:mpeg:dash:23003:3:audio_channel_configuration:2011" value="2"></AudioChannelConfiguration>
        <BaseURL>flac.mp4</BaseURL>
        <SegmentBase indexRange="700-755" timescale="44100">
          <Initialization range="0-699"></Initialization>
        </SegmentBase>
      </Representation>
    </AdaptationSet>
  </Period>
</MPD>
`
	if d := cmp.Diff(string(got), want); d != "" {
		t.Error(d)
	}
}
