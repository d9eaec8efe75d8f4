// Package search finds tracks, albums and artists: a Bleve index on each replica, filled from the catalogue's events.
// It is derived: New with another mapping throws the old index away and Build fills it from the catalogue.
package search

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"segue/controlplane/api"
	"segue/media"

	"github.com/blevesearch/bleve/v2"
	"github.com/blevesearch/bleve/v2/analysis/analyzer/custom"
	"github.com/blevesearch/bleve/v2/analysis/char/asciifolding"
	"github.com/blevesearch/bleve/v2/analysis/token/lowercase"
	unicodetokens "github.com/blevesearch/bleve/v2/analysis/tokenizer/unicode"
	"github.com/blevesearch/bleve/v2/mapping"
	"github.com/blevesearch/bleve/v2/search/query"
)

// generation is raised when the mapping or what is stored changes: an index of another one is thrown away.
const generation = "2"

// Index is safe for concurrent use.
type Index struct {
	index bleve.Index
	empty bool
}

// doc is what is indexed. Source is what comes out, stored as JSON.
type doc struct {
	Kind   string `json:"kind"` // track, album, artist
	Name   string `json:"name"`
	Also   string `json:"also"` // words that find it too: artist, album, genres
	Source string `json:"source"`
}

// Open opens or makes the index in dir.
func Open(dir string) (*Index, error) {
	path := filepath.Join(dir, "v"+generation)
	index, err := bleve.Open(path)
	if err == nil {
		n, err := index.DocCount()
		return &Index{index, n == 0}, err
	}
	if !errors.Is(err, bleve.ErrorIndexPathDoesNotExist) {
		// Derived data that cannot be read is made again.
		if err := os.RemoveAll(path); err != nil {
			return nil, fmt.Errorf("search index: %w", err)
		}
	}
	m, err := newMapping()
	if err != nil {
		return nil, fmt.Errorf("bug: search mapping: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("search index: %w", err)
	}
	index, err = bleve.New(path, m)
	if err != nil {
		return nil, fmt.Errorf("search index: %w", err)
	}
	return &Index{index, true}, nil
}

func newMapping() (mapping.IndexMapping, error) {
	m := bleve.NewIndexMapping()
	if err := m.AddCustomAnalyzer("names", map[string]any{"type": custom.Name, "char_filters": []string{asciifolding.Name},
		"tokenizer": unicodetokens.Name, "token_filters": []string{lowercase.Name}}); err != nil {
		return nil, err
	}
	names := bleve.NewTextFieldMapping()
	names.Analyzer, names.Store, names.IncludeTermVectors, names.IncludeInAll = "names", false, false, false
	kind := bleve.NewKeywordFieldMapping()
	kind.Store, kind.IncludeInAll = false, false
	source := bleve.NewTextFieldMapping()
	source.Index, source.Store, source.IncludeInAll, source.DocValues = false, true, false, false
	d := bleve.NewDocumentStaticMapping()
	d.AddFieldMappingsAt("kind", kind)
	d.AddFieldMappingsAt("name", names)
	d.AddFieldMappingsAt("also", names)
	d.AddFieldMappingsAt("source", source)
	m.DefaultMapping = d
	m.DefaultAnalyzer = "names"
	return m, nil
}

// Close closes the files.
func (x *Index) Close() error { return x.index.Close() }

// Empty reports whether Open found nothing: Build should fill it.
func (x *Index) Empty() bool { return x.empty }

// Put indexes tracks, with their albums and artists. Repeating it changes nothing.
func (x *Index) Put(tracks ...api.Track) error {
	b := x.index.NewBatch()
	for _, t := range tracks {
		words := []string{t.Album.Title, strings.Join(t.Genres, " ")}
		for _, a := range t.Artists {
			words = append(words, a.Name)
		}
		var albumBy []string
		for _, a := range t.Album.Artists {
			albumBy = append(albumBy, a.Name)
		}
		for _, a := range slices.Concat(t.Artists, t.Album.Artists) {
			if err := add(b, "artist", string(a.ID), a.Name, "", api.Artist{ID: a.ID, Name: a.Name}); err != nil {
				return err
			}
		}
		if err := add(b, "track", string(t.ID), t.Title, strings.Join(words, " "), t); err != nil {
			return err
		}
		album := api.Album{ID: t.Album.ID, Title: t.Album.Title, Artists: t.Album.Artists, Art: t.Album.Art, Date: t.Date}
		if err := add(b, "album", string(t.Album.ID), t.Album.Title, strings.Join(albumBy, " "), album); err != nil {
			return err
		}
	}
	if err := x.index.Batch(b); err != nil {
		return fmt.Errorf("search index: %w", err)
	}
	return nil
}

func add(b *bleve.Batch, kind, id, name, also string, source any) error {
	body, err := json.Marshal(source)
	if err != nil {
		return fmt.Errorf("bug: %w", err)
	}
	return b.Index(kind+"/"+id, doc{kind, name, also, string(body)})
}

// Build fills the index from all tracks; each gives them in any order.
func (x *Index) Build(each func(func(api.Track) error) error) error {
	var some []api.Track
	err := each(func(t api.Track) error {
		if some = append(some, t); len(some) < 500 {
			return nil
		}
		err := x.Put(some...)
		some = some[:0]
		return err
	})
	if err != nil {
		return err
	}
	return x.Put(some...)
}

// Kinds are what can be searched for.
var Kinds = []string{"track", "album", "artist"}

// Find answers a query, best first in each kind asked for, at most limit of each. Every word must be found, the last one
// by its beginning too, longer ones with one or two letters wrong.
func (x *Index) Find(ctx context.Context, text string, kinds []string, limit int) (api.SearchResult, error) {
	out := api.SearchResult{Query: text, Tracks: []api.Track{}, Albums: []api.Album{}, Artists: []api.Artist{}}
	words := strings.FieldsFunc(text, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsNumber(r) })
	if len(words) == 0 || len(words) > 16 {
		return out, nil
	}
	for _, kind := range kinds {
		must := []query.Query{}
		for i, w := range words {
			must = append(must, word(w, i == len(words)-1))
		}
		k := bleve.NewTermQuery(kind)
		k.SetField("kind")
		k.SetBoost(0)
		req := bleve.NewSearchRequestOptions(bleve.NewConjunctionQuery(append(must, k)...), limit, 0, false)
		req.Fields = []string{"source"}
		res, err := x.index.SearchInContext(ctx, req)
		if err != nil {
			return out, fmt.Errorf("search: %w", err)
		}
		for _, hit := range res.Hits {
			source, _ := hit.Fields["source"].(string)
			var err error
			switch kind {
			case "track":
				out.Tracks, err = read(out.Tracks, source)
			case "album":
				out.Albums, err = read(out.Albums, source)
			case "artist":
				out.Artists, err = read(out.Artists, source)
			}
			if err != nil {
				return out, err
			}
		}
	}
	return out, nil
}

func read[T any](list []T, source string) ([]T, error) {
	var v T
	if err := json.Unmarshal([]byte(source), &v); err != nil {
		return list, fmt.Errorf("search index: %w: %w", media.ErrCorrupt, err)
	}
	return append(list, v), nil
}

// word finds one word: exact before prefix before nearly, in the name before elsewhere.
func word(w string, last bool) query.Query {
	var any []query.Query
	for field, boost := range map[string]float64{"name": 3, "also": 1} {
		exact := bleve.NewMatchQuery(w)
		exact.SetField(field)
		exact.SetBoost(4 * boost)
		any = append(any, exact)
		folded := fold(w)
		if last && folded != "" {
			begins := bleve.NewPrefixQuery(folded)
			begins.SetField(field)
			begins.SetBoost(2 * boost)
			any = append(any, begins)
		}
		if n := len([]rune(folded)); n >= 4 {
			near := bleve.NewFuzzyQuery(folded)
			near.SetField(field)
			near.SetFuzziness(min(2, n/4))
			near.SetPrefix(1)
			near.SetBoost(0.5 * boost)
			any = append(any, near)
		}
	}
	return bleve.NewDisjunctionQuery(any...)
}

// fold does to a word what the analyzer does: prefix and fuzzy queries are not analysed.
func fold(w string) string {
	return strings.ToLower(string(asciifolding.New().Filter([]byte(w))))
}
