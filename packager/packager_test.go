package packager_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"segue/internal/serve"
	"segue/internal/testenv"
	"segue/media"
	"segue/origin/dirstore"
	"segue/packager"

	"github.com/Eyevinn/mp4ff/mp4"
)

// ffmpeg runs the program and fails the test when it complains at all.
func ffmpeg(t *testing.T, args ...string) []byte {
	t.Helper()
	return ffmpegAt(t, "warning", args...)
}

// ffmpegAt fails the test when the program says anything of at least a level. Of sources that a test makes for itself,
// only errors count.
func ffmpegAt(t *testing.T, level string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(testenv.Tool(t, "ffmpeg"), append([]string{"-nostdin", "-v", level}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil || stderr.Len() > 0 {
		t.Fatalf("ffmpeg %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.Bytes()
}

type folder struct {
	dir string
	p   *packager.Packager
}

func open(t *testing.T, dir string) folder {
	t.Helper()
	testenv.Tool(t, "ffmpeg")
	s, err := dirstore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	c, err := packager.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	p, err := packager.New(packager.Config{TempDir: t.TempDir()}, s, c)
	if err != nil {
		t.Fatal(err)
	}
	return folder{dir, p}
}

func (f folder) path(tr media.Track, name string) string {
	return filepath.Join(f.dir, string(media.TrackKey(tr.ID, tr.Version, name)))
}

// samples decodes a file to mono 32-bit floats, nothing trimmed but what the decoder trims by itself.
func samples(t *testing.T, path string, rate string) []float32 {
	t.Helper()
	b := ffmpeg(t, "-i", "file:"+path, "-ac", "1", "-ar", rate, "-f", "f32le", "-")
	out := make([]float32, len(b)/4)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return out
}

// TestFormats packages sources of many kinds and reads the result with ffmpeg, which knows nothing of ours.
func TestFormats(t *testing.T) {
	dir := t.TempDir()
	// A sweep has no period: what is shifted by one sample does not fit any more.
	sweep := func(name string, seconds string, args ...string) string {
		path := filepath.Join(dir, name)
		ffmpegAt(t, "error", append([]string{"-f", "lavfi", "-i", "aevalsrc=0.5*sin(2*PI*(100+150*t)*t):d=" + seconds + ":s=48000"}, append(args, "-y", "file:"+path)...)...)
		return path
	}
	cases := []struct {
		name     string
		path     string
		lossless bool
	}{
		{"real Ogg Vorbis", filepath.Join(testenv.Music(t), "victory.ogg"), false},
		{"CD quality FLAC", sweep("cd.flac", "9.7", "-ar", "44100", "-ac", "2", "-sample_fmt", "s16"), true},
		{"24 bit at 96 kHz", sweep("hires.flac", "5.3", "-ar", "96000", "-ac", "2", "-sample_fmt", "s32", "-bits_per_raw_sample", "24"), true},
		{"mono WAV at 22.05 kHz", sweep("mono.wav", "4.1", "-ar", "22050", "-ac", "1"), true},
		{"5.1 WAV", sweep("surround.wav", "4.5", "-ac", "6", "-channel_layout", "5.1"), true},
		{"MP3", sweep("some.mp3", "6", "-ar", "44100", "-ac", "2"), false},
		{"shorter than a segment", sweep("blip.wav", "0.05", "-ar", "44100", "-ac", "2"), true},
		{"named like a protocol", sweep("concat:a|b.wav", "1", "-ar", "44100"), true},
	}
	f := open(t, t.TempDir())
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := f.p.Package(t.Context(), c.path)
			if r.Err != nil || r.Skipped {
				t.Fatalf("%+v", r)
			}
			src := r.Track.Source
			want := 4
			if c.lossless {
				want = 5
			}
			if len(r.Track.Renditions) != want {
				t.Errorf("%d renditions, want %d", len(r.Track.Renditions), want)
			}
			if math.IsNaN(r.Track.Loudness.IntegratedLUFS) || r.Track.Loudness.IntegratedLUFS > 0 {
				t.Errorf("%+v", r.Track.Loudness)
			}
			for _, rd := range r.Track.Renditions {
				f.checkRendition(t, r.Track, rd)
				if rd.Lossless {
					bits := map[bool]string{true: "s16le", false: "s32le"}[!strings.Contains(c.name, "24 bit")]
					a := ffmpegAt(t, "error", "-i", "file:"+c.path, "-map", "0:a", "-f", bits, "-")
					b := ffmpeg(t, "-i", "file:"+f.path(r.Track, rd.File), "-f", bits, "-")
					if !bytes.Equal(a, b) {
						t.Errorf("flac differs from its source: %d and %d bytes", len(a), len(b))
					}
					continue
				}
				if c.name == "CD quality FLAC" && rd.BitrateBps >= 128000 {
					checkAlignment(t, c.path, f.path(r.Track, rd.File), rd)
				}
			}
			if got := src.Duration().Seconds(); src.Samples <= 0 || got <= 0 {
				t.Errorf("%+v", src)
			}
			for _, list := range []string{media.MasterPlaylist, media.LimitedMasterPlaylist, media.Manifest, media.LimitedManifest} {
				ffmpeg(t, "-i", "file:"+f.path(r.Track, list), "-map", "0", "-f", "null", "-")
			}
		})
	}
}

// checkRendition compares what track.json says with the boxes of the file and with what a decoder puts out.
func (f folder) checkRendition(t *testing.T, tr media.Track, r media.Rendition) {
	t.Helper()
	path := f.path(tr, r.File)
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	doc, err := mp4.DecodeFile(file)
	if err != nil {
		t.Fatalf("%s: %v", r.Name, err)
	}
	elst := doc.Moov.Trak.Edts.Elst[0].Entries[0]
	if elst.MediaTime != r.Gapless.Priming || int64(elst.SegmentDuration) != r.Gapless.Samples {
		t.Errorf("%s: edit list %+v, gapless %+v", r.Name, elst, r.Gapless)
	}
	if len(doc.Sidx.SidxRefs) != len(r.Segments) {
		t.Fatalf("%s: sidx has %d references, track.json %d", r.Name, len(doc.Sidx.SidxRefs), len(r.Segments))
	}
	at, total := r.Index.Offset+r.Index.Size, int64(0)
	for i, s := range r.Segments {
		ref := doc.Sidx.SidxRefs[i]
		if s.Offset != at || int64(ref.ReferencedSize) != s.Size || int64(ref.SubSegmentDuration) != s.Duration {
			t.Errorf("%s: segment %d is %+v, sidx %+v, and should begin at %d", r.Name, i, s, ref, at)
		}
		var head [8]byte
		if _, err := file.ReadAt(head[:], s.Offset); err != nil || string(head[4:]) != "moof" {
			t.Errorf("%s: segment %d begins with %q", r.Name, i, head)
		}
		at += s.Size
		total += s.Duration
	}
	if at != r.Size || total != r.Gapless.Samples {
		t.Errorf("%s: segments end at %d of %d bytes, play %d of %d samples", r.Name, at, r.Size, total, r.Gapless.Samples)
	}
	// The music is as long as the source, to the sample.
	if want := math.Round(float64(tr.Source.Samples) * float64(r.SampleRateHz) / float64(tr.Source.SampleRateHz)); float64(r.Gapless.Samples) != want {
		t.Errorf("%s: %d samples of music, source has %.0f", r.Name, r.Gapless.Samples, want)
	}
	channels := r.Channels
	got := int64(len(ffmpeg(t, "-i", "file:"+path, "-f", "s16le", "-")) / 2 / channels)
	want := r.Gapless.Priming + r.Gapless.Samples + r.Gapless.Padding
	if r.Codec == "Opus" { // ffmpeg's Opus decoder drops the pre-skip by itself
		want -= r.Gapless.Priming
	}
	if got != want {
		t.Errorf("%s: ffmpeg decodes %d samples, gapless data say %d", r.Name, got, want)
	}
}

// checkAlignment proves the gapless data by the sound: trimmed as they say, the rendition is the source, and shifted by
// some samples it is not.
func checkAlignment(t *testing.T, source, rendition string, r media.Rendition) {
	t.Helper()
	rate := "44100"
	if r.SampleRateHz == 48000 {
		rate = "48000"
	}
	a, b := samples(t, source, rate), samples(t, rendition, rate)
	if r.Codec != "Opus" {
		b = b[r.Gapless.Priming:]
	}
	b = b[:min(int64(len(b)), r.Gapless.Samples)]
	a = a[:min(len(a), len(b))]
	snr := func(shift int) float64 {
		var signal, noise float64
		for i := 2000; i < len(a)-2000; i++ {
			d := float64(a[i]) - float64(b[i+shift])
			signal += float64(a[i]) * float64(a[i])
			noise += d * d
		}
		return 10 * math.Log10(signal/noise)
	}
	best, at := math.Inf(-1), 0
	for shift := -4; shift <= 4; shift++ {
		if s := snr(shift); s > best {
			best, at = s, shift
		}
	}
	if at != 0 || best < 15 {
		t.Errorf("%s: fits best shifted by %d samples, with %.1f dB", r.Name, at, best)
	}
}

func TestTagsAndArt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "Björk", "Début")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f := open(t, t.TempDir())
	tone := func(name string, args ...string) string {
		path := filepath.Join(dir, name)
		ffmpegAt(t, "error", append([]string{"-f", "lavfi", "-i", "sine=f=440:d=1"}, append(args, "-y", "file:"+path)...)...)
		return path
	}
	ffmpegAt(t, "error", "-f", "lavfi", "-i", "testsrc=s=800x600:d=0.1", "-frames:v", "1", "-update", "1", "-y", "file:"+filepath.Join(dir, "Cover.JPG"))
	r := f.p.Package(t.Context(), tone("07 - Human_Behaviour.wav"))
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	if g := r.Track.Tags; g.Title != "Human Behaviour" || g.Artist != "Björk" || g.AlbumArtist != "Björk" || g.Album != "Début" || g.TrackNumber != 7 {
		t.Errorf("from the file's name: %+v", g)
	}
	if r.Track.Art == nil {
		t.Fatal("cover.jpg beside the track was not taken")
	}
	for _, size := range media.ArtSizes {
		path := filepath.Join(f.dir, string(media.ArtKey(r.Track.Art.AlbumID, r.Track.Art.Version, size)))
		out, err := exec.Command("ffprobe", "-v", "error", "-show_entries", "stream=codec_name,width,height", "-of", "csv=p=0", path).Output()
		if got := strings.TrimSpace(string(out)); err != nil || got != "mjpeg,"+itoa(size)+","+itoa(size) {
			t.Errorf("art of %d is %q, %v", size, got, err)
		}
	}
	// An embedded picture and real tags, with a control character and a number of the form 3/12.
	flac := tone("x.flac", "-i", filepath.Join(dir, "Cover.JPG"), "-map", "0:a", "-map", "1:v", "-c:v", "copy", "-disposition:v", "attached_pic", "-metadata", "title=  A\x07 B  ",
		"-metadata", "artist=C", "-metadata", "album=D", "-metadata", "track=3/12", "-metadata", "date=2005-03-01", "-metadata", "genre=Jazz; Funk")
	if err := os.Remove(filepath.Join(dir, "Cover.JPG")); err != nil {
		t.Fatal(err)
	}
	r = f.p.Package(t.Context(), flac)
	g := r.Track.Tags
	if r.Err != nil || r.Track.Art == nil || g.Title != "A B" || g.TrackNumber != 3 || g.Date != "2005-03-01" || len(g.Genres) != 2 {
		t.Errorf("%v %+v %+v", r.Err, g, r.Track.Art)
	}
}

func itoa(n int) string { b, _ := json.Marshal(n); return string(b) }

// TestCompilation: files with no album artist join the album of their folder.
func TestCompilation(t *testing.T) {
	f := open(t, t.TempDir())
	dir := t.TempDir()
	for i, artist := range []string{"A", "B"} {
		ffmpegAt(t, "error", "-f", "lavfi", "-i", "sine=d=1:f="+itoa(300+100*i), "-metadata", "title=T"+artist, "-metadata", "artist="+artist, "-metadata", "album=Mix", "-y", "file:"+filepath.Join(dir, artist+".flac"))
	}
	for _, name := range []string{"A.flac", "B.flac"} {
		if r := f.p.Package(t.Context(), filepath.Join(dir, name)); r.Err != nil || r.Track.Tags.AlbumArtist != packager.VariousArtists {
			t.Errorf("%s: %q, %v", name, r.Track.Tags.AlbumArtist, r.Err)
		}
	}
}

// TestBrokenFilesAreReported: each with its reason, while the rest succeeds.
func TestBrokenFilesAreReported(t *testing.T) {
	dir := t.TempDir()
	write := func(name, body string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ffmpegAt(t, "error", "-f", "lavfi", "-i", "sine=d=2", "-y", "file:"+filepath.Join(dir, "good.flac"))
	write("text.mp3", "this is no music\n")
	write("empty.ogg", "")
	// Playlists that would make ffmpeg read other files or the network.
	write("hls.flac", "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n")
	write("concat.wav", "ffconcat version 1.0\nfile "+filepath.Join(dir, "good.flac")+"\n")
	ffmpegAt(t, "error", "-f", "lavfi", "-i", "testsrc=d=0.2", "-y", "file:"+filepath.Join(dir, "silent.mp4"))
	files, err := packager.Scan([]string{dir})
	if err != nil || len(files) != 6 {
		t.Fatal(files, err)
	}
	f := open(t, t.TempDir())
	got := map[string]error{}
	if err := f.p.Run(t.Context(), files, func(r packager.Result) { got[filepath.Base(r.Path)] = r.Err }); err != nil {
		t.Fatal(err)
	}
	for name, err := range got {
		if (err == nil) != (name == "good.flac") {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: the reason has several lines: %v", name, err)
		}
	}
	if len(got) != 6 {
		t.Errorf("%d results of 6", len(got))
	}
}

func TestResume(t *testing.T) {
	music := t.TempDir()
	for i := range 6 {
		ffmpegAt(t, "error", "-f", "lavfi", "-i", "sine=d=8:f="+itoa(200+50*i), "-y", "file:"+filepath.Join(music, itoa(i)+".flac"))
	}
	files, err := packager.Scan([]string{music})
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	done := 0
	err = open(t, out).p.Run(ctx, files, func(r packager.Result) {
		if done++; done == 2 {
			cancel() // as a Ctrl-C would
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted: %v", err)
	}
	count := func() (made, same int) {
		if err := open(t, out).p.Run(t.Context(), files, func(r packager.Result) {
			switch {
			case r.Err != nil:
				t.Error(r.Err)
			case r.Skipped:
				same++
			default:
				made++
			}
		}); err != nil {
			t.Fatal(err)
		}
		return made, same
	}
	if made, same := count(); made+same != 6 || same < 2 {
		t.Errorf("going on made %d and kept %d", made, same)
	}
	if made, same := count(); made != 0 || same != 6 {
		t.Errorf("the third run made %d and kept %d", made, same)
	}
}

// lost is a catalogue whose server went away.
type lost struct{ asked atomic.Int32 }

func (l *lost) Claim(context.Context, packager.ClaimRequest) (packager.Claim, error) {
	l.asked.Add(1)
	return packager.Claim{}, fmt.Errorf("claim: %w", media.ErrUnreachable)
}

func (l *lost) Publish(context.Context, media.Track) error { return nil }

func TestRunEndsWithoutItsCatalogue(t *testing.T) {
	music := t.TempDir()
	for i := range 9 {
		ffmpegAt(t, "error", "-f", "lavfi", "-i", "sine=d=0.1:f="+itoa(200+50*i), "-y", "file:"+filepath.Join(music, itoa(i)+".flac"))
	}
	files, err := packager.Scan([]string{music})
	if err != nil {
		t.Fatal(err)
	}
	l := &lost{}
	p, err := packager.New(packager.Config{Jobs: 2}, nil, l)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Run(t.Context(), files, func(packager.Result) {}); !errors.Is(err, media.ErrUnreachable) || l.asked.Load() > 4 {
		t.Errorf("%v after %d files", err, l.asked.Load())
	}
}

func TestTimeLimit(t *testing.T) {
	dir := t.TempDir()
	ffmpegAt(t, "error", "-f", "lavfi", "-i", "anoisesrc=d=600", "-y", "file:"+filepath.Join(dir, "long.wav"))
	s, err := dirstore.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := packager.OpenFolder(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p, err := packager.New(packager.Config{TimeLimit: 400 * time.Millisecond}, s, c)
	if err != nil {
		t.Fatal(err)
	}
	if r := p.Package(t.Context(), filepath.Join(dir, "long.wav")); !errors.Is(r.Err, media.ErrTooLarge) {
		t.Errorf("%v", r.Err)
	}
}

func TestScan(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.flac", "b/c.mp3", "cover.jpg", ".hidden.mp3", "b/list.m3u8", ".git/x.ogg"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	files, err := packager.Scan([]string{dir, filepath.Join(dir, "a.flac")})
	if err != nil || len(files) != 2 || filepath.Base(files[0]) != "a.flac" || filepath.Base(files[1]) != "c.mp3" {
		t.Errorf("%v %v", files, err)
	}
	for _, bad := range []string{filepath.Join(dir, "none"), t.TempDir()} {
		_, err := packager.Scan([]string{bad})
		if _, setup := errors.AsType[serve.SetupError](err); !setup {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
