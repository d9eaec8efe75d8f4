package packager

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"segue/internal/serve"
	"segue/media"

	"golang.org/x/sync/semaphore"
)

// ffmpeg runs the two programs, at most as many at once as the semaphore lets.
type ffmpeg struct {
	program, prober string
	formats         string // demuxers allowed: all that read one file only
	limit           time.Duration
	running         *semaphore.Weighted
}

// CheckFFmpeg returns the SetupError that New would, without making anything.
func CheckFFmpeg() error {
	_, err := findFFmpeg(time.Minute, semaphore.NewWeighted(1))
	return err
}

func findFFmpeg(limit time.Duration, running *semaphore.Weighted) (*ffmpeg, error) {
	f := &ffmpeg{limit: limit, running: running}
	var err error
	if f.program, err = exec.LookPath("ffmpeg"); err == nil {
		f.prober, err = exec.LookPath("ffprobe")
	}
	if err != nil {
		return nil, serve.Setupf("%w; install ffmpeg (Debian: apt-get install ffmpeg)", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, f.program, "-hide_banner", "-demuxers").Output()
	if err != nil {
		return nil, serve.Setupf("%s -demuxers: %w; its installation is broken", f.program, err)
	}
	f.formats, err = safeDemuxers(string(out))
	return f, err
}

// unsafe are demuxers that open other files or devices, or take anything for audio.
var unsafeDemuxer = regexp.MustCompile(`^(hls|dash|concat|concatf|imf|rtsp|rtp|sdp|sap|lavfi|image2.*|.*_pipe|tty|ffmetadata|webm_dash_manifest|live_flv|avisynth|vapoursynth|mpjpeg|alsa|oss|pulse|jack|x11grab|fbdev|v4l2|video4linux2.*|kmsgrab|iec61883|dv1394|openal|libcdio|libdc1394|sndio|caca|srt|ass|ssa|webvtt|bin|rawvideo|data|s8|u8|[sfu](16|24|32|64)[bl]e|alaw|mulaw|vidc|codec2raw|sln|g722|g726.*|gsm|aptx.*|sbc|adp|ipu)$`)

func safeDemuxers(list string) (string, error) {
	var names []string
	for line := range strings.Lines(list) {
		fields := strings.Fields(line)
		if len(fields) < 2 || !strings.Contains(fields[0], "D") || fields[1] == "=" {
			continue
		}
		for name := range strings.SplitSeq(fields[1], ",") {
			if !unsafeDemuxer.MatchString(name) {
				names = append(names, name)
			}
		}
	}
	if !slices.Contains(names, "ogg") || !slices.Contains(names, "flac") || slices.Contains(names, "hls") {
		return "", serve.Setupf("ffmpeg -demuxers lists neither ogg nor flac; its installation is broken")
	}
	return strings.Join(names, ","), nil
}

// source is what ffprobe says of a file.
type source struct {
	media.Source
	bits     int // per sample, 0 when lossy
	duration time.Duration
	picture  int // stream index of an embedded picture, or -1
	tag      map[string]string
}

// lossless are codecs whose samples FLAC can hold bit by bit (integer PCM of up to 24 bits).
var lossless = []string{"flac", "alac", "wavpack", "ape", "tta", "tak", "shorten", "mlp", "truehd", "wmalossless", "als", "ralf",
	"pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_u8", "pcm_s8", "pcm_s16le_planar", "pcm_s24le_planar", "pcm_bluray", "pcm_dvd"}

func (f *ffmpeg) probe(ctx context.Context, path string) (source, error) {
	out, err := f.run(ctx, f.prober, append(f.input(path), "-v", "error", "-show_streams", "-show_format", "-of", "json")...)
	if err != nil {
		return source{}, fmt.Errorf("no audio that ffmpeg can read: %w", err)
	}
	var doc struct {
		Streams []struct {
			Index         int
			CodecName     string `json:"codec_name"`
			CodecType     string `json:"codec_type"`
			SampleRate    string `json:"sample_rate"`
			Channels      int
			BitsPerSample int    `json:"bits_per_sample"`
			BitsPerRaw    string `json:"bits_per_raw_sample"`
			Duration      string
			Disposition   struct {
				AttachedPic int `json:"attached_pic"`
			}
			Tags map[string]string
		}
		Format struct {
			FormatName string `json:"format_name"`
			Duration   string
			Tags       map[string]string
		}
	}
	if err := json.Unmarshal(out.stdout, &doc); err != nil {
		return source{}, fmt.Errorf("bug: ffprobe's answer: %w", err)
	}
	s := source{picture: -1, tag: map[string]string{}}
	add := func(tags map[string]string) {
		for k, v := range tags {
			if k = strings.ToLower(k); s.tag[k] == "" {
				s.tag[k] = v
			}
		}
	}
	add(doc.Format.Tags)
	for _, st := range doc.Streams {
		switch {
		case st.CodecType == "video" && st.Disposition.AttachedPic == 1 && s.picture < 0:
			s.picture = st.Index
		case st.CodecType == "audio" && s.Codec == "":
			rate, _ := strconv.Atoi(st.SampleRate)
			raw, _ := strconv.Atoi(st.BitsPerRaw)
			s.Source = media.Source{Format: doc.Format.FormatName, Codec: st.CodecName, SampleRateHz: rate, Channels: st.Channels}
			s.bits = max(raw, st.BitsPerSample)
			for _, d := range []string{st.Duration, doc.Format.Duration} {
				if sec, err := strconv.ParseFloat(d, 64); err == nil && s.duration == 0 {
					s.duration = time.Duration(sec * float64(time.Second))
				}
			}
			add(st.Tags)
		}
	}
	switch {
	case s.Codec == "":
		return s, fmt.Errorf("no audio in it: %w", media.ErrInvalid)
	case s.SampleRateHz < 4000 || s.SampleRateHz > 768000 || s.Channels < 1 || s.Channels > 8:
		return s, fmt.Errorf("%d Hz in %d channels cannot be packaged: %w", s.SampleRateHz, s.Channels, media.ErrInvalid)
	case s.duration > MaxDuration:
		return s, fmt.Errorf("plays %s, at most %s can be packaged: %w", s.duration.Round(time.Second), MaxDuration, media.ErrTooLarge)
	}
	s.Lossless = slices.Contains(lossless, s.Codec) && s.bits <= 24
	if !s.Lossless {
		s.bits = 0
	} else if s.bits == 0 {
		s.bits = 16
	}
	return s, nil
}

// pcm is a decoded source: a file of interleaved samples.
type pcm struct {
	file     string
	format   string // ffmpeg's raw format: s16le, s32le, f32le
	rate     int
	channels int
	samples  int64 // per channel
	loudness media.Loudness
}

var pcmBytes = map[string]int64{"s16le": 2, "s32le": 4, "f32le": 4}

// decode writes the whole source as PCM and measures its loudness on the way.
func (f *ffmpeg) decode(ctx context.Context, path string, s source, out string) (pcm, error) {
	p := pcm{file: out, format: "f32le", rate: s.SampleRateHz, channels: s.Channels}
	switch {
	case s.Lossless && s.bits <= 16:
		p.format = "s16le"
	case s.Lossless:
		p.format = "s32le"
	}
	args := append([]string{"-nostdin", "-hide_banner", "-nostats", "-v", "info", "-max_alloc", "1073741824"}, f.input(path)...)
	args = append(args, "-map_metadata", "-1", "-t", strconv.Itoa(int(MaxDuration.Seconds())),
		"-filter_complex", "[0:a:0]asplit[a][b];[b]ebur128=peak=true:framelog=verbose,anullsink", "-map", "[a]",
		"-ar", strconv.Itoa(p.rate), "-ac", strconv.Itoa(p.channels), "-f", p.format, "-y", "file:"+out)
	res, err := f.run(ctx, f.program, args...)
	if err != nil {
		return p, fmt.Errorf("decode: %w", err)
	}
	info, err := os.Stat(out)
	if err != nil {
		return p, err
	}
	p.samples = info.Size() / (pcmBytes[p.format] * int64(p.channels))
	if p.samples == 0 {
		return p, fmt.Errorf("decode: no sample came out; %s: %w", lastLine(res.stderr), media.ErrCorrupt)
	}
	if got := time.Duration(float64(p.samples) / float64(p.rate) * float64(time.Second)); got < s.duration/2 {
		return p, fmt.Errorf("decode: %s of %s could be read, the file is damaged: %w", got.Round(time.Second), s.duration.Round(time.Second), media.ErrCorrupt)
	}
	p.loudness, err = parseLoudness(string(res.stderr))
	return p, err
}

var loudnessField = regexp.MustCompile(`(?m)^\s+(I|LRA|Peak):\s+(-?inf|-?[0-9.]+|nan)\s`)

// parseLoudness reads the summary that the ebur128 filter logs last.
func parseLoudness(log string) (media.Loudness, error) {
	l := media.Loudness{IntegratedLUFS: math.NaN(), TruePeakDBTP: math.NaN()}
	_, summary, _ := strings.Cut(log[max(0, strings.LastIndex(log, "Summary:")):], "Summary:")
	for _, m := range loudnessField.FindAllStringSubmatch(summary, -1) {
		v, err := strconv.ParseFloat(m[2], 64)
		if err != nil || math.IsInf(v, 0) || math.IsNaN(v) {
			v = -120 // digital silence: JSON has no infinity
		}
		switch m[1] {
		case "I":
			l.IntegratedLUFS = max(v, -70) // the gate of EBU R128
		case "LRA":
			l.RangeLU = max(v, 0)
		case "Peak":
			l.TruePeakDBTP = v
		}
	}
	if math.IsNaN(l.IntegratedLUFS) || math.IsNaN(l.TruePeakDBTP) {
		return l, fmt.Errorf("decode: ffmpeg measured no loudness: %w", media.ErrCorrupt)
	}
	return l, nil
}

// encoding is one rendition to make.
type encoding struct {
	name, codec string // codec: RFC 6381
	bps         int    // 0: lossless
	rate        int
	channels    int
	frame       int64 // samples per packet; 0: as the encoder's file says
	priming     int64 // samples that the encoder puts before the music
	args        []string
}

// encodingsFor lists the renditions of a source. Rates above 48 kHz come down to 48 or 44.1 for the lossy ones, more than
// two channels to stereo: what browsers and phones play.
func encodingsFor(s media.Source, bits int) []encoding {
	rate, channels := s.SampleRateHz, min(s.Channels, 2)
	if rates := []int{48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000}; !slices.Contains(rates, rate) {
		rate = 48000
		if s.SampleRateHz%44100 == 0 {
			rate = 44100
		}
	}
	var list []encoding
	for _, kbps := range []int{96, 160, 256} {
		list = append(list, encoding{fmt.Sprintf("aac_%d", kbps), "mp4a.40.2", kbps * 1000, rate, channels, 1024, 1024,
			[]string{"-c:a", "aac", "-b:a", strconv.Itoa(kbps) + "k"}})
	}
	// 312: libopus' look-ahead at 48 kHz, what ffmpeg writes as pre-skip.
	opus := encoding{"opus_128", "Opus", 128000, 48000, channels, 960, 312, []string{"-c:a", "libopus", "-b:a", "128k", "-frame_duration", "20"}}
	list = slices.Insert(list, 1, opus)
	if s.Lossless {
		format := "s16"
		if bits > 16 {
			format = "s32"
		}
		list = append(list, encoding{"flac", "fLaC", 0, s.SampleRateHz, s.Channels, 0, 0,
			[]string{"-c:a", "flac", "-compression_level", "5", "-sample_fmt", format, "-strict", "-2"}})
	}
	return list
}

func (f *ffmpeg) encode(ctx context.Context, in pcm, e encoding, out string) error {
	args := []string{"-nostdin", "-hide_banner", "-nostats", "-v", "error", "-protocol_whitelist", "file",
		"-f", in.format, "-ar", strconv.Itoa(in.rate), "-ac", strconv.Itoa(in.channels), "-i", "file:" + in.file}
	args = append(args, e.args...)
	args = append(args, "-ar", strconv.Itoa(e.rate), "-ac", strconv.Itoa(e.channels), "-map_metadata", "-1", "-fflags", "+bitexact", "-f", "mp4", "-y", "file:"+out)
	if _, err := f.run(ctx, f.program, args...); err != nil {
		return fmt.Errorf("encode %s: %w", e.name, err)
	}
	return nil
}

func (f *ffmpeg) input(path string) []string {
	return []string{"-protocol_whitelist", "file,pipe", "-format_whitelist", f.formats, "-i", "file:" + path}
}

type output struct{ stdout, stderr []byte }

// run runs a program to its end or its time limit; its error is the last line that the program wrote.
func (f *ffmpeg) run(ctx context.Context, program string, args ...string) (output, error) {
	if err := f.running.Acquire(ctx, 1); err != nil {
		return output{}, err
	}
	defer f.running.Release(1)
	limited, cancel := context.WithTimeout(ctx, f.limit)
	defer cancel()
	cmd := exec.CommandContext(limited, program, args...)
	cmd.WaitDelay = 2 * time.Second
	var stdout bytes.Buffer
	stderr := tail{keep: 64 << 10}
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return output{}, ctx.Err()
	case errors.Is(limited.Err(), context.DeadlineExceeded):
		return output{}, fmt.Errorf("stopped after %s: %w", f.limit, media.ErrTooLarge)
	case err != nil:
		return output{}, fmt.Errorf("%s (%w)", lastLine(stderr.b), err)
	}
	return output{stdout.Bytes(), stderr.b}, nil
}

// tail keeps the end of what is written to it.
type tail struct {
	b    []byte
	keep int
}

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if over := len(t.b) - t.keep; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

func lastLine(b []byte) string {
	lines := strings.FieldsFunc(strings.TrimSpace(string(b)), func(r rune) bool { return r == '\n' || r == '\r' })
	if len(lines) == 0 {
		return "no message"
	}
	return strings.ToValidUTF8(lines[len(lines)-1], "?")
}
