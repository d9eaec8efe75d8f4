package media

import "time"

// Track is the document track.json: everything about one version of a track that a player, an edge or the
// catalogue needs, made by the packager once and never changed.
type Track struct {
	ID         TrackID     `json:"track_id"`
	Version    Version     `json:"version"`
	Source     Source      `json:"source"`
	Tags       Tags        `json:"tags"`
	Loudness   Loudness    `json:"loudness"`
	Art        *Art        `json:"art,omitempty"`
	Renditions []Rendition `json:"renditions"` // lossy ones by rising bit rate, then lossless
	Encoder    string      `json:"encoder"`    // settings fingerprint, part of the version
}

// Source describes the audio that was packaged.
type Source struct {
	SHA256       string `json:"sha256"` // of the file's bytes, lower-case hex
	Format       string `json:"format"` // ffprobe's format_name
	Codec        string `json:"codec"`  // ffprobe's codec_name
	SampleRateHz int    `json:"sample_rate_hz"`
	Channels     int    `json:"channels"`
	Samples      int64  `json:"samples"` // decoded samples per channel at SampleRateHz
	Lossless     bool   `json:"lossless"`
}

// Duration is the exact playing time of the source.
func (s Source) Duration() time.Duration {
	if s.SampleRateHz == 0 {
		return 0
	}
	whole, rest := s.Samples/int64(s.SampleRateHz), s.Samples%int64(s.SampleRateHz)
	return time.Duration(whole)*time.Second + time.Duration(rest)*time.Second/time.Duration(s.SampleRateHz)
}

// Tags are the names found in the source, cleaned (valid UTF-8 in NFC, no control characters, trimmed).
// Title, Artist, AlbumArtist and Album are never empty: the packager falls back to the file's and folder's names.
type Tags struct {
	Title       string   `json:"title"`
	Artist      string   `json:"artist"`
	AlbumArtist string   `json:"album_artist"`
	Album       string   `json:"album"`
	Composer    string   `json:"composer,omitempty"`
	Genres      []string `json:"genres,omitempty"`
	Date        string   `json:"date,omitempty"` // YYYY, YYYY-MM or YYYY-MM-DD
	TrackNumber int      `json:"track_number,omitempty"`
	DiscNumber  int      `json:"disc_number,omitempty"`
	ISRC        string   `json:"isrc,omitempty"`
}

// Loudness is measured by EBU R128 on the decoded source.
type Loudness struct {
	IntegratedLUFS float64 `json:"integrated_lufs"` // -70 for silence
	TruePeakDBTP   float64 `json:"true_peak_dbtp"`
	RangeLU        float64 `json:"range_lu"`
}

// SameLength reports whether two files of the same names and numbers are likely the same recording: rips and encoders
// differ by some silence, other recordings by more than two seconds.
func SameLength(a, b time.Duration) bool { return (a - b).Abs() <= 2*time.Second }

// TargetLUFS is the integrated loudness that players normalise to.
const TargetLUFS = -14.0

// GainDB is what a player adds to reach TargetLUFS without lifting the true peak over -1 dBTP.
func (l Loudness) GainDB() float64 { return min(TargetLUFS-l.IntegratedLUFS, -1-l.TruePeakDBTP) }

// Art names the picture of the track's album: objects ArtKey(AlbumID, Version, size).
type Art struct {
	AlbumID AlbumID `json:"album_id"`
	Version Version `json:"version"`
}

// Rendition is one encoding of a track: one file <Name>.mp4 and one playlist <Name>.m3u8.
type Rendition struct {
	Name         string    `json:"name"`        // aac_96, aac_160, aac_256, opus_128, flac
	File         string    `json:"file"`        // Name + ".mp4"
	Codec        string    `json:"codec"`       // RFC 6381: mp4a.40.2, Opus, fLaC
	BitrateBps   int       `json:"bitrate_bps"` // nominal: what the encoder was asked for; lossless: the average
	AverageBps   int       `json:"average_bps"` // HLS AVERAGE-BANDWIDTH: file bits over playing time, rounded up
	PeakBps      int       `json:"peak_bps"`    // HLS BANDWIDTH: largest segment bit rate, RFC 8216 4.3.4.2
	SampleRateHz int       `json:"sample_rate_hz"`
	Channels     int       `json:"channels"`
	Lossless     bool      `json:"lossless"`
	Size         int64     `json:"size"`      // bytes of the file
	SHA256       string    `json:"sha256"`    // of the file, lower-case hex
	Init         ByteSpan  `json:"init"`      // ftyp + moov
	Index        ByteSpan  `json:"index"`     // sidx
	Timescale    int       `json:"timescale"` // ticks per second of Segments and Gapless; the sample rate
	Segments     []Segment `json:"segments"`
	Gapless      Gapless   `json:"gapless"`
}

// ByteSpan is a run of bytes of the rendition's file.
type ByteSpan struct {
	Offset int64 `json:"offset"`
	Size   int64 `json:"size"`
}

// Segment is one moof+mdat. Segments follow each other with no gap from the end of the index to the file's end.
type Segment struct {
	Offset   int64 `json:"offset"`
	Size     int64 `json:"size"`
	Duration int64 `json:"duration"` // ticks of Timescale, as the sidx says
}

// Gapless says which decoded samples are music: skip Priming, then play Samples, drop Padding.
// Priming + Samples + Padding is what a decoder that ignores the edit list puts out.
type Gapless struct {
	Priming int64 `json:"priming"`
	Samples int64 `json:"samples"`
	Padding int64 `json:"padding"`
}

// Names of the fixed files of a version. The limited pair lists only the renditions of at most LimitedBps: a
// player of a free plan gets a manifest in which every entry is allowed, with no rewriting at the edge.
const (
	MasterPlaylist        = "master.m3u8"
	Manifest              = "manifest.mpd"
	LimitedMasterPlaylist = "master_160.m3u8"
	LimitedManifest       = "manifest_160.mpd"
	TrackFile             = "track.json"

	LimitedBps = 160_000
)

// MaxTrackFile bounds track.json, in bytes: three hours in five renditions take about 1 MiB.
const MaxTrackFile = 16 << 20
