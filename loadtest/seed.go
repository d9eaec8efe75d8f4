package loadtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"segue/controlplane/api"
	"segue/media"
	"segue/media/dash"
	"segue/media/hls"
)

// Seed is a catalogue of noise, so that an empty platform can be measured with as many tracks as wanted and no music.
// Files have the layout and the sizes of packaged tracks, manifests that players read, and bytes that nothing compresses;
// what they hold is no audio.
type Seed struct {
	Tracks int
	Length time.Duration // of each track; zero: 3 min
	Seed   uint64        // the same seed makes the same tracks, once
}

// seedRates are the renditions made, in bit/s.
var seedRates = []int{96_000, 160_000}

// Ingest makes the tracks and publishes them. done hears of each; nil: nobody does.
func (s Seed) Ingest(ctx context.Context, to *api.Client, done func(n, of int)) error {
	if s.Length == 0 {
		s.Length = 3 * time.Minute
	}
	if s.Tracks < 1 || s.Length < 5*time.Second || s.Length > time.Hour {
		return fmt.Errorf("want at least one track, of 5 s to 1 h: %w", media.ErrInvalid)
	}
	var next, made atomic.Int64
	errs := make(chan error, 4)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	for range cap(errs) {
		all.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= s.Tracks {
					return
				}
				if err := s.track(ctx, to, i); err != nil {
					errs <- fmt.Errorf("track %d: %w", i, err)
					cancel()
					return
				}
				if n := int(made.Add(1)); done != nil {
					done(n, s.Tracks)
				}
			}
		})
	}
	all.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return ctx.Err()
	}
}

var seedWords = strings.Fields("amber anchor april ash aurora autumn beacon birch border brass breath cedar cinder circle clover coast comet copper coral crow delta drift dust echo ember fable fern field flint foam forest garden glass gold harbour hazel hollow hush indigo iron island ivory juniper lantern lark linen maple marble meadow mirror moss myrtle nectar north oak ocean olive onyx orchard paper pearl pine plum poppy quartz quiet rain raven reed ridge river rose rust sable salt scarlet shade silver slate sleet smoke snow sparrow spruce star stone storm summer thistle thorn tide timber umber valley velvet violet water wheat willow winter wren")

func (s Seed) track(ctx context.Context, to *api.Client, i int) error {
	rng := rand.New(rand.NewPCG(s.Seed+1, uint64(i)))
	word := func() string { w := seedWords[rng.IntN(len(seedWords))]; return strings.ToUpper(w[:1]) + w[1:] }
	const album = 12
	head := rand.New(rand.NewPCG(s.Seed+2, uint64(i/album)))
	name := func() string {
		w := seedWords[head.IntN(len(seedWords))]
		return strings.ToUpper(w[:1]) + w[1:]
	}
	artist := fmt.Sprintf("%s %s (noise %d)", name(), name(), i/album/3)
	tags := media.Tags{Title: word() + " " + word(), Artist: artist, AlbumArtist: artist, Album: fmt.Sprintf("%s %s %d", name(), name(), i/album), Genres: []string{"Noise"}, TrackNumber: i%album + 1}
	const hz = 44100
	source := fmt.Sprintf("loadtest noise %d %d %s", s.Seed, i, s.Length)
	sum := sha256.Sum256([]byte(source))
	version := media.Version(strings.ToLower(base32Of(sum[:])))
	claim, err := to.Claim(ctx, api.ClaimRequest{SourceSHA256: hex.EncodeToString(sum[:]), Version: version, Tags: tags, DurationMS: s.Length.Milliseconds()})
	if err != nil || claim.Published {
		return err
	}
	samples := int64(s.Length.Seconds() * hz)
	t := media.Track{ID: claim.TrackID, Version: version, Tags: tags, Encoder: "loadtest noise 1", Loudness: media.Loudness{IntegratedLUFS: -14, TruePeakDBTP: -1},
		Source: media.Source{SHA256: hex.EncodeToString(sum[:]), Format: "noise", Codec: "noise", SampleRateHz: hz, Channels: 2, Samples: samples}}
	in := api.Ingester{Client: to}
	for _, bps := range seedRates {
		r, body := noise(rng, bps, hz, samples)
		t.Renditions = append(t.Renditions, r)
		if err := put(ctx, in, media.TrackKey(t.ID, t.Version, r.File), body); err != nil {
			return err
		}
		if err := put(ctx, in, media.TrackKey(t.ID, t.Version, r.Name+".m3u8"), hls.Media(r)); err != nil {
			return err
		}
	}
	manifest, err := dash.Manifest(s.Length, t.Renditions)
	if err != nil {
		return err
	}
	doc, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("bug: %w", err)
	}
	for _, f := range []struct {
		name string
		body []byte
	}{{media.MasterPlaylist, hls.Multivariant(t.Renditions)}, {media.LimitedMasterPlaylist, hls.Multivariant(t.Renditions)}, {media.Manifest, manifest}, {media.LimitedManifest, manifest}, {media.TrackFile, doc}} {
		if err := put(ctx, in, media.TrackKey(t.ID, t.Version, f.name), f.body); err != nil {
			return err
		}
	}
	return in.Publish(ctx, t)
}

// base32Of is the form of a Version.
func base32Of(sum []byte) string {
	const alphabet = "abcdefghijklmnopqrstuvwxyz234567"
	var b strings.Builder
	for i := range 26 {
		b.WriteByte(alphabet[sum[i]%32])
	}
	return b.String()
}

// noise is a rendition of segments of 4 s, at a bit rate that varies by a tenth.
func noise(rng *rand.Rand, bps, hz int, samples int64) (media.Rendition, []byte) {
	r := media.Rendition{Name: fmt.Sprintf("aac_%d", bps/1000), Codec: "mp4a.40.2", BitrateBps: bps, SampleRateHz: hz, Channels: 2, Timescale: hz, Gapless: media.Gapless{Samples: samples}}
	r.File = r.Name + ".mp4"
	segment := int64(4*hz) / 1024 * 1024 // on frames, as the packager cuts
	r.Init = media.ByteSpan{Size: 700}
	n := (samples + segment - 1) / segment
	r.Index = media.ByteSpan{Offset: 700, Size: 32 + 12*n}
	at := r.Index.Offset + r.Index.Size
	for i := range n {
		ticks := min(segment, samples-i*segment)
		size := int64(float64(ticks) / float64(hz) * float64(bps) / 8 * (.95 + .1*rng.Float64()))
		r.Segments = append(r.Segments, media.Segment{Offset: at, Size: size, Duration: ticks})
		r.PeakBps = max(r.PeakBps, int(float64(size)*8*float64(hz)/float64(ticks))+1)
		at += size
	}
	body := make([]byte, at)
	for i := 0; i+8 <= len(body); i += 8 {
		v := rng.Uint64()
		for k := range 8 {
			body[i+k] = byte(v >> (8 * k))
		}
	}
	sum := sha256.Sum256(body)
	r.Size, r.SHA256, r.AverageBps = at, hex.EncodeToString(sum[:]), int(float64(at)*8*float64(hz)/float64(samples))+1
	return r, body
}

func put(ctx context.Context, in api.Ingester, key media.Key, body []byte) error {
	sum := sha256.Sum256(body)
	_, name, _ := cutLast(string(key), ".")
	_, err := in.Put(ctx, media.Object{Key: key, Size: int64(len(body)), SHA256: hex.EncodeToString(sum[:]), ContentType: media.ContentTypes["."+name]}, io.NopCloser(bytes.NewReader(body)))
	return err
}
