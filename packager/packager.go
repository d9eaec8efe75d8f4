package packager

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"segue/media"
	"segue/media/dash"
	"segue/media/hls"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
)

// settings names everything that decides the bytes of a packaging, and is hashed into its version. Raise the number
// whenever the same source would come out differently.
const settings = "segue/1 aac_96 aac_160 aac_256 opus_128 flac 4s"

// ClaimRequest is what is known of a source before it is decoded. Duration is what its container says, 0: nothing.
type ClaimRequest struct {
	SourceSHA256 string
	Version      media.Version
	Tags         media.Tags
	Duration     time.Duration
}

// Claim is the identity under which a source is packaged. Published: the catalogue has had this very version already.
type Claim struct {
	TrackID   media.TrackID
	AlbumID   media.AlbumID
	Published bool
}

// Catalog says which track a file is, and takes it when its objects are in place. Both calls are idempotent and
// safe for concurrent use.
type Catalog interface {
	Claim(ctx context.Context, r ClaimRequest) (Claim, error)
	Publish(ctx context.Context, t media.Track) error
}

// Sink takes objects, as origin.Store does. The reader given to Put can seek.
type Sink interface {
	Put(ctx context.Context, o media.Object, r io.Reader) (media.Object, error)
	Stat(ctx context.Context, key media.Key) (media.Object, error)
}

// Config tunes a Packager. The zero value is the default.
type Config struct {
	Jobs      int           // ffmpeg processes at once; default: one per core
	TimeLimit time.Duration // for one ffmpeg process; default 15 min
	TempDir   string        // decoded audio: about 40 MB a minute and job; default: the system's
}

// MaxDuration is the longest source accepted.
const MaxDuration = 3 * time.Hour

// Packager packages files into one sink and one catalogue.
type Packager struct {
	cfg     Config
	ffmpeg  *ffmpeg
	sink    Sink
	catalog Catalog
	albums  albumArtists
}

// New finds ffmpeg; its absence is a serve.SetupError.
func New(cfg Config, sink Sink, catalog Catalog) (*Packager, error) {
	if cfg.Jobs <= 0 {
		cfg.Jobs = runtime.NumCPU()
	}
	if cfg.TimeLimit <= 0 {
		cfg.TimeLimit = 15 * time.Minute
	}
	ff, err := findFFmpeg(cfg.TimeLimit, semaphore.NewWeighted(int64(cfg.Jobs)))
	if err != nil {
		return nil, err
	}
	return &Packager{cfg: cfg, ffmpeg: ff, sink: sink, catalog: catalog}, nil
}

// Result is the fate of one file.
type Result struct {
	Path    string
	Track   media.Track   // zero when Skipped or Err is set
	Skipped bool          // published before: nothing was done
	Err     error         // why the file was not packaged
	Audio   time.Duration // playing time packaged
}

// Run packages files, several at once, and calls done after each, one call at a time. A file's failure stands in its
// Result and stops nobody; only ctx's end, or a catalogue or sink that is media.ErrUnreachable, ends the run early.
func (p *Packager) Run(ctx context.Context, files []string, done func(Result)) error {
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(p.cfg.Jobs)
	for _, path := range files {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			r := p.Package(gctx, path)
			if gctx.Err() != nil {
				return gctx.Err()
			}
			if errors.Is(r.Err, media.ErrUnreachable) { // every other file would fail so
				return r.Err
			}
			mu.Lock()
			defer mu.Unlock()
			done(r)
			return nil
		})
	}
	err := g.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// Package packages one file.
func (p *Packager) Package(ctx context.Context, path string) Result {
	r := Result{Path: path}
	r.Track, r.Skipped, r.Err = p.one(ctx, path)
	if r.Err == nil && !r.Skipped {
		r.Audio = r.Track.Source.Duration()
	}
	return r
}

func (p *Packager) one(ctx context.Context, path string) (t media.Track, skipped bool, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return t, false, err
	}
	sum, err := hashFile(ctx, path)
	if err != nil {
		return t, false, err
	}
	src, err := p.ffmpeg.probe(ctx, path)
	if err != nil {
		return t, false, err
	}
	t = media.Track{Source: src.Source, Tags: src.tags(path), Encoder: settings, Version: version(sum, settings)}
	t.Source.SHA256 = sum
	if src.albumArtist() == "" {
		t.Tags.AlbumArtist = or(p.albums.find(ctx, p.ffmpeg, path, t.Tags.Album), t.Tags.AlbumArtist)
	}
	claim, err := p.catalog.Claim(ctx, ClaimRequest{sum, t.Version, t.Tags, src.duration})
	if err != nil || claim.Published {
		return t, err == nil, err
	}
	t.ID = claim.TrackID

	tmp, err := os.MkdirTemp(p.cfg.TempDir, "segue-package-")
	if err != nil {
		return t, false, err
	}
	defer os.RemoveAll(tmp)
	pcm, err := p.ffmpeg.decode(ctx, path, src, filepath.Join(tmp, "pcm"))
	if err != nil {
		return t, false, err
	}
	t.Source.Samples, t.Loudness = pcm.samples, pcm.loudness

	encodings := encodingsFor(t.Source, src.bits)
	renditions, art := make([]media.Rendition, len(encodings)), (*media.Art)(nil)
	g, gctx := errgroup.WithContext(ctx)
	for i, e := range encodings {
		g.Go(func() (err error) {
			renditions[i], err = p.rendition(gctx, t, pcm, e, tmp)
			return err
		})
	}
	g.Go(func() (err error) {
		art, err = p.art(gctx, path, src, claim.AlbumID, tmp)
		return err
	})
	if err := g.Wait(); err != nil {
		return t, false, err
	}
	t.Renditions, t.Art = renditions, art
	if err := p.manifests(ctx, t); err != nil {
		return t, false, err
	}
	return t, false, p.catalog.Publish(ctx, t)
}

// rendition encodes, boxes and stores one rendition and its playlist.
func (p *Packager) rendition(ctx context.Context, t media.Track, in pcm, e encoding, tmp string) (media.Rendition, error) {
	encoded := filepath.Join(tmp, e.name+".enc.mp4")
	if err := p.ffmpeg.encode(ctx, in, e, encoded); err != nil {
		return media.Rendition{}, err
	}
	out := filepath.Join(tmp, e.name+".mp4")
	r, err := fragment(encoded, out, e, in)
	if err != nil {
		return r, fmt.Errorf("fragment %s: %w", e.name, err)
	}
	_ = os.Remove(encoded)
	if r.SHA256, err = hashFile(ctx, out); err != nil {
		return r, err
	}
	if err := p.put(ctx, media.TrackKey(t.ID, t.Version, r.File), out, r.SHA256); err != nil {
		return r, err
	}
	return r, os.Remove(out)
}

// manifests stores the small objects, the one that names all others last.
func (p *Packager) manifests(ctx context.Context, t media.Track) error {
	type object struct {
		name string
		body []byte
	}
	var objects []object
	var limited []media.Rendition
	for _, r := range t.Renditions {
		objects = append(objects, object{r.Name + ".m3u8", hls.Media(r)})
		if !r.Lossless && r.BitrateBps <= media.LimitedBps {
			limited = append(limited, r)
		}
	}
	for _, set := range []struct {
		hls, dash  string
		renditions []media.Rendition
	}{
		{media.MasterPlaylist, media.Manifest, t.Renditions},
		{media.LimitedMasterPlaylist, media.LimitedManifest, limited},
	} {
		mpd, err := dash.Manifest(t.Source.Duration(), set.renditions)
		if err != nil {
			return err
		}
		objects = append(objects, object{set.hls, hls.Multivariant(set.renditions)}, object{set.dash, mpd})
	}
	doc, err := json.MarshalIndent(t, "", " ")
	if err != nil {
		return fmt.Errorf("bug: %s: %w", media.TrackFile, err)
	}
	for _, o := range append(objects, object{media.TrackFile, doc}) {
		sum := sha256.Sum256(o.body)
		if err := p.putBytes(ctx, media.TrackKey(t.ID, t.Version, o.name), o.body, hex.EncodeToString(sum[:])); err != nil {
			return err
		}
	}
	return nil
}

func (p *Packager) put(ctx context.Context, key media.Key, file, sum string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	_, err = p.sink.Put(ctx, media.Object{Key: key, Size: info.Size(), SHA256: sum, ContentType: media.ContentTypes[filepath.Ext(string(key))]}, f)
	return err
}

func (p *Packager) putBytes(ctx context.Context, key media.Key, body []byte, sum string) error {
	_, err := p.sink.Put(ctx, media.Object{Key: key, Size: int64(len(body)), SHA256: sum, ContentType: media.ContentTypes[filepath.Ext(string(key))]},
		strings.NewReader(string(body)))
	return err
}

// version derives a name from everything that decides the bytes.
func version(parts ...string) media.Version {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return media.Version(strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:]))[:26])
}

func hashFile(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return "", err
	} else if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is no regular file: %w", path, media.ErrInvalid)
	}
	sum := sha256.New()
	stop := atomic.Bool{}
	defer context.AfterFunc(ctx, func() { stop.Store(true) })()
	buf := make([]byte, 1<<20)
	for !stop.Load() {
		n, err := f.Read(buf)
		sum.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			return hex.EncodeToString(sum.Sum(nil)), nil
		} else if err != nil {
			return "", err
		}
	}
	return "", ctx.Err()
}
