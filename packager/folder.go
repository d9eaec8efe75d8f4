package packager

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"segue/media"

	"github.com/oklog/ulid/v2"
)

// Folder is the catalogue of a packaged folder with no platform: its track.json files are the record. Identities follow
// the same rules as on a platform: same bytes, or same names and numbers and nearly the same length, are one track.
type Folder struct {
	mu     sync.Mutex               // guards the maps
	bytes  map[string]media.TrackID // by the source's digest
	names  map[string][]named       // by trackKey
	albums map[string]media.AlbumID
	done   map[string]bool // track id + version
}

// OpenFolder reads the track.json files below dir, which may be empty.
func OpenFolder(dir string) (*Folder, error) {
	f := &Folder{bytes: map[string]media.TrackID{}, names: map[string][]named{}, albums: map[string]media.AlbumID{}, done: map[string]bool{}}
	files, err := fs.Glob(os.DirFS(dir), "media/*/*/"+media.TrackFile)
	if err != nil {
		return nil, fmt.Errorf("bug: %w", err)
	}
	for _, name := range files {
		t, err := readTrack(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		f.know(t.ID, t.Source.SHA256, t.Tags, t.Source.Duration())
		if t.Art != nil {
			f.albums[albumKey(t.Tags)] = t.Art.AlbumID
		}
		f.done[string(t.ID)+string(t.Version)] = true
	}
	return f, nil
}

func readTrack(path string) (media.Track, error) {
	var t media.Track
	file, err := os.Open(path)
	if err != nil {
		return t, err
	}
	defer file.Close()
	if err := json.NewDecoder(io.LimitReader(file, media.MaxTrackFile)).Decode(&t); err != nil {
		return t, fmt.Errorf("read %s: %w", path, err)
	}
	return t, nil
}

// Claim implements Catalog.
func (f *Folder) Claim(_ context.Context, r ClaimRequest) (Claim, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := f.bytes[r.SourceSHA256]
	for _, n := range f.names[trackKey(r.Tags)] {
		if id == "" && media.SameLength(n.duration, r.Duration) {
			id = n.id
		}
	}
	id = cmp.Or(id, media.TrackID(ulid.Make().String()))
	f.know(id, r.SourceSHA256, r.Tags, r.Duration)
	album := cmp.Or(f.albums[albumKey(r.Tags)], media.AlbumID(ulid.Make().String()))
	f.albums[albumKey(r.Tags)] = album
	return Claim{TrackID: id, AlbumID: album, Published: f.done[string(id)+string(r.Version)]}, nil
}

// Publish implements Catalog: track.json, already put, is the publication.
func (f *Folder) Publish(_ context.Context, t media.Track) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done[string(t.ID)+string(t.Version)] = true
	return nil
}

type named struct {
	id       media.TrackID
	duration time.Duration
}

func (f *Folder) know(id media.TrackID, sum string, tags media.Tags, d time.Duration) {
	f.bytes[sum] = id
	key := trackKey(tags)
	if !slices.ContainsFunc(f.names[key], func(n named) bool { return n.id == id }) {
		f.names[key] = append(f.names[key], named{id, d})
	}
}

func albumKey(t media.Tags) string {
	return strings.ToLower(t.AlbumArtist + "\x00" + t.Album)
}

func trackKey(t media.Tags) string {
	return albumKey(t) + "\x00" + strconv.Itoa(t.DiscNumber) + "\x00" + strconv.Itoa(t.TrackNumber) + "\x00" + strings.ToLower(t.Title)
}
