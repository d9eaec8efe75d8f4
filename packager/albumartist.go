package packager

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// VariousArtists stands for the album artist of a compilation that names none.
const VariousArtists = "Various Artists"

// maxSiblings bounds the files of a folder that are looked at for one without an album artist.
const maxSiblings = 500

// albumArtists finds the album artist of files that have no such tag from the files around them, so that a compilation
// is one album: what a sibling of the same album says, else VariousArtists when the album's artists differ. Each folder
// is probed once.
type albumArtists struct {
	mu      sync.Mutex // guards folders
	folders map[string]func() map[string]albumFacts
}

type albumFacts struct {
	albumArtist string // the first that is tagged, in order of file name
	artist      string
	several     bool // artists
}

// find returns the album artist for a file of a folder, or "" when the folder says nothing.
func (a *albumArtists) find(ctx context.Context, f *ffmpeg, path, album string) string {
	dir := filepath.Dir(path)
	a.mu.Lock()
	if a.folders == nil {
		a.folders = map[string]func() map[string]albumFacts{}
	}
	facts := a.folders[dir]
	if facts == nil {
		facts = sync.OnceValue(func() map[string]albumFacts { return readFolder(ctx, f, dir) })
		a.folders[dir] = facts
	}
	a.mu.Unlock()
	switch k := facts()[strings.ToLower(album)]; {
	case k.albumArtist != "":
		return k.albumArtist
	case k.several:
		return VariousArtists
	}
	return ""
}

func readFolder(ctx context.Context, f *ffmpeg, dir string) map[string]albumFacts {
	out := map[string]albumFacts{}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > maxSiblings {
		return out
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || sidecars[strings.ToLower(filepath.Ext(e.Name()))] {
			continue
		}
		s, err := f.probe(ctx, filepath.Join(dir, e.Name()))
		if err != nil {
			continue // it is reported when its turn comes
		}
		t := s.tags(filepath.Join(dir, e.Name()))
		k := out[strings.ToLower(t.Album)]
		if tagged := s.albumArtist(); k.albumArtist == "" {
			k.albumArtist = tagged
		}
		if k.artist == "" {
			k.artist = t.Artist
		}
		k.several = k.several || !strings.EqualFold(k.artist, t.Artist)
		out[strings.ToLower(t.Album)] = k
	}
	return out
}
