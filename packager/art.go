package packager

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"segue/media"
)

// maxPicture bounds an embedded or neighbouring picture, in bytes.
const maxPicture = 32 << 20

// art stores the picture of a track's album in all sizes: the embedded one, else cover.jpg and the like beside the
// file. A picture that cannot be read is no reason to refuse the music: then there is none.
func (p *Packager) art(ctx context.Context, path string, s source, album media.AlbumID, tmp string) (*media.Art, error) {
	picture := filepath.Join(tmp, "picture")
	if s.picture >= 0 {
		args := append([]string{"-nostdin", "-v", "error"}, p.ffmpeg.input(path)...)
		args = append(args, "-map", "0:"+strconv.Itoa(s.picture), "-c", "copy", "-frames:v", "1", "-f", "image2pipe", "-y", "file:"+picture)
		if _, err := p.ffmpeg.run(ctx, p.ffmpeg.program, args...); err != nil {
			return nil, ctx.Err()
		}
	} else if b, err := os.ReadFile(beside(path)); err != nil {
		return nil, nil
	} else if err := os.WriteFile(picture, b, 0o600); err != nil { // under a name that ffmpeg reads nothing into
		return nil, err
	}
	sum, err := hashFile(ctx, picture)
	if err != nil {
		return nil, ctx.Err()
	}
	art := &media.Art{AlbumID: album, Version: version(sum, fmt.Sprint("jpeg/1 ", media.ArtSizes))}
	if _, err := p.sink.Stat(ctx, media.ArtKey(album, art.Version, media.ArtSizes[len(media.ArtSizes)-1])); err == nil {
		return art, nil // another track of the album brought it
	}
	for _, size := range media.ArtSizes {
		out := filepath.Join(tmp, strconv.Itoa(size)+".jpg")
		filter := fmt.Sprintf("scale=%[1]d:%[1]d:force_original_aspect_ratio=increase:flags=lanczos,crop=%[1]d:%[1]d,format=yuvj420p", size)
		_, err := p.ffmpeg.run(ctx, p.ffmpeg.program, "-nostdin", "-v", "error", "-max_alloc", "536870912", "-protocol_whitelist", "file,pipe",
			"-format_whitelist", "jpeg_pipe,png_pipe,webp_pipe,gif,bmp_pipe,tiff_pipe", "-i", "file:"+picture,
			"-frames:v", "1", "-vf", filter, "-q:v", "3", "-f", "image2", "-update", "1", "-y", "file:"+out)
		if err != nil {
			return nil, ctx.Err()
		}
		sum, err := hashFile(ctx, out)
		if err != nil {
			return nil, err
		}
		if err := p.put(ctx, media.ArtKey(album, art.Version, size), out, sum); err != nil {
			return nil, err
		}
	}
	return art, nil
}

// beside finds a picture file next to the track, or "".
func beside(path string) string {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return ""
	}
	best, rank := "", 99
	for _, e := range entries {
		ext := strings.ToLower(filepath.Ext(e.Name()))
		if ext != ".jpg" && ext != ".jpeg" && ext != ".png" {
			continue
		}
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || info.Size() > maxPicture {
			continue
		}
		for i, name := range []string{"cover", "folder", "front", "album", "albumart"} {
			if strings.TrimSuffix(strings.ToLower(e.Name()), ext) == name && i < rank {
				best, rank = filepath.Join(filepath.Dir(path), e.Name()), i
			}
		}
	}
	return best
}
