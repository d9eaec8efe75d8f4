package playlist

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	_ "image/png" // covers come as JPEG or PNG
	"strings"

	"segue/controlplane/api"
	"segue/media"

	"golang.org/x/image/draw"
)

const (
	// MaxCover bounds an uploaded picture, in bytes.
	MaxCover = 8 << 20
	// maxSide bounds its width and height, in pixels: decoded it takes up to 8 bytes a pixel.
	maxSide, minSide = 4096, 64
	coverQuality     = 85
)

// coverOf is the uploaded picture of a playlist. It lies where an album's picture would, art/<playlist id>/<version>/
// <size>.jpg: like all art it is served without a token to whoever knows its name.
func coverOf(p row) *api.Art {
	if p.cover == "" {
		return nil
	}
	return &api.Art{URL: "/r/" + media.ArtPrefix(media.AlbumID(p.id), media.Version(p.cover)) + "{size}.jpg", Sizes: media.ArtSizes}
}

// SetCover makes a JPEG or PNG the cover: its middle square, in all of media.ArtSizes, encoded anew, so that nothing else
// that was in the file (where it was taken, by what) is published. Errors: media.ErrInvalid, media.ErrTooLarge.
func (s *Service) SetCover(ctx context.Context, who, id string, match Match, picture []byte) (api.Playlist, error) {
	p, err := read(ctx, s.db, id)
	if err == nil {
		_, err = allow(ctx, s.db, p, who, api.RoleEditor) // before the work; write asks again
	}
	if err != nil {
		return api.Playlist{}, err
	}
	if len(picture) > MaxCover {
		return api.Playlist{}, fmt.Errorf("the picture has %d bytes, want at most %d: %w", len(picture), MaxCover, media.ErrTooLarge)
	}
	sum := sha256.Sum256(append([]byte("cover/1 "), picture...))
	version := media.Version(strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:26])
	files, err := s.cut(ctx, picture)
	if err != nil {
		return api.Playlist{}, err
	}
	for i, size := range media.ArtSizes { // objects first, the row that names them after
		key := media.ArtKey(media.AlbumID(id), version, size)
		if _, err := s.deps.Put(ctx, media.Object{Key: key, Size: int64(len(files[i])), ContentType: "image/jpeg"}, bytes.NewReader(files[i])); err != nil {
			return api.Playlist{}, fmt.Errorf("store cover: %w", err)
		}
	}
	return s.setCover(ctx, who, id, match, string(version))
}

// DropCover takes the cover away: the mosaic shows again.
func (s *Service) DropCover(ctx context.Context, who, id string, match Match) (api.Playlist, error) {
	return s.setCover(ctx, who, id, match, "")
}

func (s *Service) setCover(ctx context.Context, who, id string, match Match, version string) (api.Playlist, error) {
	p, err := s.write(ctx, who, id, match, api.RoleEditor, api.PlaylistDetails, func(c *change) error {
		c.detail("cover", &c.p.cover, version)
		return nil
	})
	if err != nil {
		return api.Playlist{}, err
	}
	return s.renderOne(ctx, who, p)
}

// cut makes the JPEGs of all sizes; one picture at a time, for its memory.
func (s *Service) cut(ctx context.Context, picture []byte) ([][]byte, error) {
	cfg, kind, err := image.DecodeConfig(bytes.NewReader(picture))
	if err != nil {
		return nil, fmt.Errorf("the picture is not a JPEG or PNG: %w", media.ErrInvalid)
	}
	if min(cfg.Width, cfg.Height) < minSide || max(cfg.Width, cfg.Height) > maxSide {
		return nil, fmt.Errorf("the picture is %dx%d pixels, want sides of %d to %d: %w", cfg.Width, cfg.Height, minSide, maxSide, media.ErrInvalid)
	}
	select {
	case s.drawing <- struct{}{}:
		defer func() { <-s.drawing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	src, _, err := image.Decode(bytes.NewReader(picture))
	if err != nil {
		return nil, fmt.Errorf("the picture is damaged: %w", media.ErrInvalid)
	}
	b := src.Bounds()
	side := min(b.Dx(), b.Dy())
	square := image.Rect(0, 0, side, side).Add(image.Pt(b.Min.X+(b.Dx()-side)/2, b.Min.Y+(b.Dy()-side)/2))
	turn := 1
	if kind == "jpeg" {
		turn = orientation(picture)
	}
	out := make([][]byte, len(media.ArtSizes))
	for i, size := range media.ArtSizes {
		dst := image.NewRGBA(image.Rect(0, 0, size, size))
		draw.Draw(dst, dst.Bounds(), image.NewUniform(color.White), image.Point{}, draw.Src) // below what is transparent
		draw.CatmullRom.Scale(dst, dst.Bounds(), src, square, draw.Over, nil)
		var file bytes.Buffer
		if err := jpeg.Encode(&file, upright(dst, turn), &jpeg.Options{Quality: coverQuality}); err != nil {
			return nil, fmt.Errorf("bug: %w", err)
		}
		out[i] = file.Bytes()
	}
	return out, nil
}

// orientation reads how a JPEG is to be turned, Exif 2.3 4.6.4 tag 0x0112: 1 to 8; 1, as it is, when it does not say.
func orientation(file []byte) int {
	for at := 2; at+4 <= len(file) && file[at] == 0xff; {
		marker, size := file[at+1], int(file[at+2])<<8|int(file[at+3])
		end := at + 2 + size
		if marker == 0xda || size < 2 || end > len(file) { // the picture begins
			return 1
		}
		if body, ok := bytes.CutPrefix(file[at+4:end], []byte("Exif\x00\x00")); marker == 0xe1 && ok {
			return exifOrientation(body)
		}
		at = end
	}
	return 1
}

func exifOrientation(tiff []byte) int {
	if len(tiff) < 8 {
		return 1
	}
	little := tiff[0] == 'I'
	number := func(at, n int) int { // of n bytes; -1 outside
		if at < 0 || at+n > len(tiff) {
			return -1
		}
		v := 0
		for i := range n {
			b := tiff[at+i]
			if little {
				b = tiff[at+n-1-i]
			}
			v = v<<8 | int(b)
		}
		return v
	}
	ifd := number(4, 4)
	for i := range max(0, number(ifd, 2)) {
		if entry := ifd + 2 + 12*i; number(entry, 2) == 0x0112 {
			if v := number(entry+8, 2); v >= 1 && v <= 8 {
				return v
			}
			return 1
		}
	}
	return 1
}

// upright turns a square picture as orientation says.
func upright(src *image.RGBA, turn int) *image.RGBA {
	if turn <= 1 || turn > 8 {
		return src
	}
	n := src.Bounds().Dx()
	dst := image.NewRGBA(src.Bounds())
	for y := range n {
		for x := range n {
			fx, fy := x, y // where the pixel comes from
			switch turn {
			case 2:
				fx = n - 1 - x
			case 3:
				fx, fy = n-1-x, n-1-y
			case 4:
				fy = n - 1 - y
			case 5:
				fx, fy = y, x
			case 6:
				fx, fy = y, n-1-x
			case 7:
				fx, fy = n-1-y, n-1-x
			case 8:
				fx, fy = n-1-y, x
			}
			dst.SetRGBA(x, y, src.RGBAAt(fx, fy))
		}
	}
	return dst
}
