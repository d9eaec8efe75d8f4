// Package dash writes the DASH manifest of a track: ISO/IEC 23009-1 on-demand profile, one self-contained file per
// Representation, indexed by its sidx. Pure functions over media.Track.
package dash

import (
	"encoding/xml"
	"fmt"
	"time"

	"segue/media"
)

// Profile is the profile identifier of ISO/IEC 23009-1 8.3.
const Profile = "urn:mpeg:dash:profile:isoff-on-demand:2011"

type mpd struct {
	XMLName       xml.Name `xml:"MPD"`
	Xmlns         string   `xml:"xmlns,attr"`
	Profiles      string   `xml:"profiles,attr"`
	Type          string   `xml:"type,attr"`
	Duration      string   `xml:"mediaPresentationDuration,attr"`
	MinBufferTime string   `xml:"minBufferTime,attr"`
	Period        period   `xml:"Period"`
}

type period struct {
	ID   string          `xml:"id,attr"`
	Sets []adaptationSet `xml:"AdaptationSet"`
}

type adaptationSet struct {
	ID              int              `xml:"id,attr"`
	ContentType     string           `xml:"contentType,attr"`
	MimeType        string           `xml:"mimeType,attr"`
	Lang            string           `xml:"lang,attr"`
	Aligned         bool             `xml:"subsegmentAlignment,attr"`
	StartsWithSAP   int              `xml:"subsegmentStartsWithSAP,attr"`
	Role            descriptor       `xml:"Role"`
	Representations []representation `xml:"Representation"`
}

type descriptor struct {
	SchemeIDURI string `xml:"schemeIdUri,attr"`
	Value       string `xml:"value,attr"`
}

type representation struct {
	ID           string      `xml:"id,attr"`
	Bandwidth    int         `xml:"bandwidth,attr"`
	Codecs       string      `xml:"codecs,attr"`
	SamplingRate int         `xml:"audioSamplingRate,attr"`
	Channels     descriptor  `xml:"AudioChannelConfiguration"`
	BaseURL      string      `xml:"BaseURL"`
	SegmentBase  segmentBase `xml:"SegmentBase"`
}

type segmentBase struct {
	IndexRange     string         `xml:"indexRange,attr"`
	Timescale      int            `xml:"timescale,attr"`
	Initialization initialization `xml:"Initialization"`
}

type initialization struct {
	Range string `xml:"range,attr"`
}

// Manifest is manifest.mpd, or its limited form: one AdaptationSet per codec, since a player switches within a set.
func Manifest(duration time.Duration, renditions []media.Rendition) ([]byte, error) {
	m := mpd{
		Xmlns: "urn:mpeg:dash:schema:mpd:2011", Profiles: Profile, Type: "static",
		Duration: iso8601(duration), MinBufferTime: "PT4S", Period: period{ID: "0"},
	}
	sets := map[string]int{}
	for _, r := range renditions {
		i, ok := sets[r.Codec]
		if !ok {
			i = len(m.Period.Sets)
			sets[r.Codec] = i
			m.Period.Sets = append(m.Period.Sets, adaptationSet{ID: i + 1, ContentType: "audio", MimeType: "audio/mp4", Lang: "und",
				Aligned: true, StartsWithSAP: 1, Role: descriptor{"urn:mpeg:dash:role:2011", "main"}})
		}
		m.Period.Sets[i].Representations = append(m.Period.Sets[i].Representations, representation{
			ID: r.Name, Bandwidth: r.PeakBps, Codecs: r.Codec, SamplingRate: r.SampleRateHz,
			Channels:    descriptor{"urn:mpeg:dash:23003:3:audio_channel_configuration:2011", fmt.Sprint(r.Channels)},
			BaseURL:     r.File,
			SegmentBase: segmentBase{span(r.Index), r.Timescale, initialization{span(r.Init)}},
		})
	}
	b, err := xml.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("bug: manifest: %w", err)
	}
	return append([]byte(xml.Header), append(b, '\n')...), nil
}

// span prints a byte range as in RFC 9110 14.1.2: first and last byte.
func span(s media.ByteSpan) string { return fmt.Sprintf("%d-%d", s.Offset, s.Offset+s.Size-1) }

// iso8601 prints an xs:duration, with microseconds.
func iso8601(d time.Duration) string {
	us := d.Round(time.Microsecond).Microseconds()
	return fmt.Sprintf("PT%d.%06dS", us/1e6, us%1e6)
}
