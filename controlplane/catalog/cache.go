package catalog

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"segue/controlplane/api"

	"github.com/maypok86/otter/v2"
)

// cache keeps what is read one by one: tracks for playback, the pages of albums and artists. A change forgets what it
// touched, here before the change's call returns and in other replicas by its event; the time limit is a net under that.
// otter, because of what golang-lru lacks: a bound by weight (an album's page is 1 KB or 1 MB), an eviction that a walk
// through the catalogue does not empty, one load for many who ask, and a load that began before a Forget is not kept.
type cache[V any] struct {
	entries *otter.Cache[string, V]
	load    otter.LoaderFunc[string, V]
}

const cachedFor = 5 * time.Minute

func newCache[V any](maxBytes uint64, weigh func(V) int, load func(context.Context, string) (V, error)) cache[V] {
	return cache[V]{otter.Must(&otter.Options[string, V]{
		MaximumWeight:    maxBytes,
		Weigher:          func(id string, v V) uint32 { return uint32(len(id) + weigh(v)) },
		ExpiryCalculator: otter.ExpiryWriting[string, V](cachedFor),
	}), load}
}

func (c cache[V]) get(ctx context.Context, id string) (V, error) {
	return c.entries.Get(ctx, id, c.load)
}

func (c cache[V]) forget(ids []string) {
	for _, id := range ids {
		c.entries.Invalidate(id)
	}
}

// Bytes of what is kept, about: structs, strings and lists as they lie in memory.
func weighTrack(t api.Track) int {
	n := 700 + len(t.Title) + len(t.Album.Title)
	for _, list := range [][]api.ArtistRef{t.Artists, t.Album.Artists, t.Credits} {
		n += 130 * len(list)
	}
	return n + 40*(len(t.Genres)+len(t.Renditions)+len(t.AvailableIn))
}

func weighAlbum(a api.Album) int {
	n := 500 + len(a.Title) + 130*len(a.Artists) + 40*(len(a.Genres)+len(a.AvailableIn))
	for _, t := range a.Tracks {
		n += weighTrack(t)
	}
	return n
}

func weighArtist(a api.Artist) int {
	n := 300 + len(a.Name)
	for _, t := range a.TopTracks {
		n += weighTrack(t)
	}
	for _, list := range [][]api.Album{a.Albums, a.AppearsOn} {
		for _, album := range list {
			n += weighAlbum(album)
		}
	}
	return n
}

func weighPlayable(p Playable) int { return weighTrack(p.Track) + 350*len(p.Media) }

// Forget drops what is cached of rows that changed; kind and ids are those of their event.
func (s *Service) Forget(kind string, ids ...string) {
	switch kind {
	case "track":
		s.tracks.forget(ids)
	case "album":
		s.albums.forget(ids)
	case "artist":
		s.artists.forget(ids)
	}
}

// change runs a write in a transaction and emits what it touched, then forgets that here.
func (s *Service) change(ctx context.Context, f func(*write) error) error {
	var w *write
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		w = s.newWrite(ctx, tx)
		if err := f(w); err != nil {
			return err
		}
		if err := w.settle(); err != nil {
			return fmt.Errorf("settle: %w", err)
		}
		return w.emit()
	})
	// Also after an error: a commit may have been made although its answer was lost.
	if w != nil {
		s.Forget("track", w.tracks.list()...)
		s.Forget("album", w.albums.list()...)
		s.Forget("artist", w.artists.list()...)
	}
	return err
}
