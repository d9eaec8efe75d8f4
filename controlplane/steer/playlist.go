package steer

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"segue/media"
	"segue/media/dash"
	"segue/media/hls"
)

// maxFiles bounds the parsed manifests that are remembered, in each of two generations: some kilobytes each.
const maxFiles = 2000

// Playlist is the master playlist (HLS) or manifest (DASH) of a play, with everything on several edges and the address of
// steering. base is the scheme://host that the player reached. Errors: those of Grant, ErrNoEdge, media.ErrNotFound for a
// version that the origin has no more.
func (s *Service) Playlist(ctx context.Context, now time.Time, f Format, token string, client netip.Addr, base string) ([]byte, error) {
	g, err := s.Grant(now, token)
	if err != nil {
		return nil, err
	}
	_, d := s.decide(now, g, client)
	if len(d.Picks) == 0 {
		return nil, ErrNoEdge
	}
	file, err := s.file(ctx, f, g)
	if err != nil {
		return nil, err
	}
	ids := make([]string, len(d.Picks))
	for i := range d.Picks {
		ids[i] = d.Picks[i].Name
	}
	v := url.Values{paramToken: {token}, paramPathways: {strings.Join(ids, ",")}}
	if f == DASH {
		places := make([]dash.Pathway, len(ids))
		for i := range d.Picks {
			places[i] = dash.Pathway{ID: ids[i], URL: g.folderOn(&d.Picks[i].Node)}
		}
		return file.mpd.Steered(base+"/steering/dash?"+v.Encode(), places), nil
	}
	v.Set(paramVariants, file.variants)
	places := make([]hls.Pathway, len(ids))
	for i := range d.Picks {
		places[i] = hls.Pathway{ID: ids[i], URL: g.folderOn(&d.Picks[i].Node)}
	}
	return file.hls.Steered(base+"/steering/hls?"+v.Encode(), places), nil
}

// file is a manifest of the origin, read once: its key has the version, so that it never changes.
type file struct {
	hls      *hls.Playlist
	variants string
	mpd      *dash.Document
}

type files struct {
	mu       sync.Mutex // guards the fields below
	now, old map[media.Key]*file
}

func (s *Service) file(ctx context.Context, f Format, g *Grant) (*file, error) {
	name := map[Format][2]string{HLS: {media.MasterPlaylist, media.LimitedMasterPlaylist}, DASH: {media.Manifest, media.LimitedManifest}}[f]
	if name[0] == "" {
		return nil, fmt.Errorf("a playlist for %q: %w", f, media.ErrNotFound)
	}
	key := media.Key(g.Folder + name[0])
	if g.Limited {
		key = media.Key(g.Folder + name[1])
	}
	c := &s.files
	c.mu.Lock()
	p := c.now[key]
	if p == nil {
		p = c.old[key]
	}
	c.mu.Unlock()
	if p != nil {
		return p, nil
	}
	b, err := s.cfg.Object(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("manifest of play %s: %w", g.Play, err)
	}
	p = &file{}
	if f == DASH {
		if p.mpd, err = dash.Parse(b); err != nil {
			return nil, fmt.Errorf("%s: %w: %w", key, media.ErrCorrupt, err)
		}
	} else {
		if p.hls, err = hls.ParseMultivariant(b); err != nil {
			return nil, fmt.Errorf("%s: %w: %w", key, media.ErrCorrupt, err)
		}
		var ids []string
		for _, v := range p.hls.Variants() {
			if v.URI == v.ID+".m3u8" { // the only form that a clone can name
				ids = append(ids, v.ID)
			}
		}
		p.variants = strings.Join(ids, ",")
	}
	c.mu.Lock()
	if c.now == nil || len(c.now) >= maxFiles {
		c.old, c.now = c.now, map[media.Key]*file{}
	}
	c.now[key] = p
	c.mu.Unlock()
	return p, nil
}
