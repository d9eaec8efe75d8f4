package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"strconv"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/identity"
	"segue/controlplane/search"
	"segue/media"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"
)

// searchSources are the kinds that can be found, from the services that have them: of playlists and users those that are public.

func (cp *ControlPlane) searchSources() []search.Source {
	return []search.Source{
		sourceOf("track", cp.catalog.TracksByID, cp.catalog.Each, func(t api.Track) (search.Doc, bool) {
			d := search.Doc{ID: string(t.ID), Name: t.Title, Popularity: t.Popularity, Genres: t.Genres, Year: year(t.Date), Artists: ids(t.Artists, t.Album.Artists)}
			d.Also = append(names(t.Artists), search.Text{Field: "album", Text: t.Album.Title})
			for _, g := range t.Genres {
				d.Also = append(d.Also, search.Text{Field: "genre", Text: g})
			}
			return d, t.Unavailable != api.Removed
		}),
		sourceOf("album", cp.catalog.AlbumsByID, cp.catalog.EachAlbum, func(a api.Album) (search.Doc, bool) {
			return search.Doc{ID: string(a.ID), Name: a.Title, Also: names(a.Artists), Popularity: a.Popularity, Genres: a.Genres, Year: year(a.Date), Artists: ids(a.Artists)}, a.Unavailable != api.Removed
		}),
		sourceOf("artist", cp.catalog.ArtistsByID, cp.catalog.EachArtist, func(a api.Artist) (search.Doc, bool) {
			return search.Doc{ID: string(a.ID), Name: a.Name, Popularity: a.Popularity, Artists: []string{string(a.ID)}}, a.Unavailable != api.Removed
		}),
		sourceOf("playlist", cp.playlist.Public, cp.playlist.EachPublic, func(p api.Playlist) (search.Doc, bool) {
			return search.Doc{ID: p.ID, Name: p.Name, Also: []search.Text{{Field: "owner", Text: p.Owner.DisplayName}}, Popularity: float64(p.Followers)}, true
		}),
		sourceOf("user", cp.identity.Profiles, cp.identity.EachProfile, func(p api.Profile) (search.Doc, bool) {
			return search.Doc{ID: p.ID, Name: p.DisplayName}, true
		}),
	}
}

// sourceOf makes a source from a service's reader by id, its reader of everything, and what of a value is searched; ok
// is false for one that must not be found. What is returned is the value as JSON.
func sourceOf[T any](kind string, byID func(context.Context, ...string) ([]T, error), each func(context.Context, func(T) error) error, doc func(T) (search.Doc, bool)) search.Source {
	document := func(v T) (search.Doc, bool, error) {
		d, ok := doc(v)
		var err error
		if ok {
			d.Source, err = json.Marshal(v)
		}
		return d, ok, err
	}
	return search.Source{Kind: kind,
		Load: func(ctx context.Context, ids []string) ([]search.Doc, error) {
			list, err := byID(ctx, ids...)
			out := make([]search.Doc, 0, len(list))
			for _, v := range list {
				d, ok, err := document(v)
				if err != nil {
					return nil, err
				}
				if ok {
					out = append(out, d)
				}
			}
			return out, err
		},
		Each: func(ctx context.Context, f func(search.Doc) error) error {
			return each(ctx, func(v T) error {
				d, ok, err := document(v)
				if err != nil || !ok {
					return err
				}
				return f(d)
			})
		}}
}

func names(list []api.ArtistRef) (out []search.Text) {
	for _, a := range list {
		out = append(out, search.Text{Field: "artist", Text: a.Name})
	}
	return out
}

func ids(lists ...[]api.ArtistRef) (out []string) {
	for _, list := range lists {
		for _, a := range list {
			out = append(out, string(a.ID))
		}
	}
	return out
}

// year of YYYY, YYYY-MM or YYYY-MM-DD; 0 when there is none.
func year(date string) int {
	n, _ := strconv.Atoi(date[:min(4, len(date))])
	return n
}

// stored is a T as the JSON that the index keeps: it is sent as it is, and documented as T.
type stored[T any] json.RawMessage

func (s stored[T]) MarshalJSON() ([]byte, error) { return s, nil }
func (s stored[T]) Schema(r huma.Registry) *huma.Schema {
	return r.Schema(reflect.TypeFor[T](), true, "")
}

// searchResult is api.SearchResult with what is found as the index has it.
type searchResult struct {
	Query      string                           `json:"query"`
	Top        *api.SearchTop                   `json:"top,omitempty"`
	Tracks     []stored[api.Track]              `json:"tracks"`
	Albums     []stored[api.Album]              `json:"albums"`
	Artists    []stored[api.Artist]             `json:"artists"`
	Playlists  []stored[api.Playlist]           `json:"playlists"`
	Users      []stored[api.Profile]            `json:"users"`
	Highlights map[string][]api.SearchHighlight `json:"highlights"`
	Next       map[string]string                `json:"next,omitempty"`
	Building   bool                             `json:"building,omitempty" doc:"the index is filled for the first time: there may be more to find soon"`
}

func storedList[T any](r search.Result, kind string) []stored[T] {
	out := make([]stored[T], 0, len(r.Lists[kind].Hits))
	for _, h := range r.Lists[kind].Hits {
		out = append(out, stored[T](h.Source))
	}
	return out
}

func newSearchResult(text string, r search.Result) searchResult {
	out := searchResult{Query: text, Tracks: storedList[api.Track](r, "track"), Albums: storedList[api.Album](r, "album"), Artists: storedList[api.Artist](r, "artist"),
		Playlists: storedList[api.Playlist](r, "playlist"), Users: storedList[api.Profile](r, "user"),
		Highlights: map[string][]api.SearchHighlight{}, Next: map[string]string{}, Building: r.Building}
	if r.Top != nil {
		out.Top = &api.SearchTop{Type: r.Top.Kind, ID: r.Top.ID}
	}
	for kind, list := range r.Lists {
		if list.Next != "" {
			out.Next[kind] = list.Next
		}
		for _, h := range list.Hits {
			for _, l := range h.Highlights {
				out.Highlights[h.ID] = append(out.Highlights[h.ID], api.SearchHighlight(l))
			}
		}
	}
	return out
}

func (cp *ControlPlane) searchRoutes(a huma.API) {
	op := operation("search", http.MethodGet, "/v1/search", "Catalogue", "Find tracks, albums, artists, playlists and users", needUser)
	op.Description = "Every word must be found, in any order and in any of name, artists, album and genres; the last one also by its beginning, from one letter on. Only when that finds next to nothing, " +
		"words of four letters are found with one typo, of eight with two, and words of three from the middle of others. Case, accents and width do not matter; Chinese, Japanese and Korean are found by any part. " +
		"Whole names and popular ones come first. An answer is at most about a second behind a change."
	op.Metadata[wireAnswer] = reflect.TypeFor[api.SearchResult]()
	register(cp, a, op, func(ctx context.Context, in *struct {
		Query    string   `query:"q" required:"true" minLength:"1" maxLength:"1000" doc:"the first 12 words count"`
		Type     []string `query:"type" enum:"track,album,artist,playlist,user" doc:"default: all"`
		Limit    int      `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"of each type"`
		Cursor   string   `query:"cursor" maxLength:"2048" doc:"next of the answer before; with one type only"`
		Genre    string   `query:"genre" maxLength:"100"`
		Artist   string   `query:"artist" maxLength:"26" doc:"id"`
		YearFrom int      `query:"year_from" minimum:"0" maximum:"9999"`
		YearTo   int      `query:"year_to" minimum:"0" maximum:"9999"`
	}) (*answer[searchResult], error) {
		r, err := cp.index.Find(ctx, search.Query{Text: in.Query, Kinds: in.Type, Limit: in.Limit, Cursor: in.Cursor, Genre: in.Genre, Artist: in.Artist, YearFrom: in.YearFrom, YearTo: in.YearTo})
		return reply(newSearchResult(in.Query, r), err)
	})

	const tag, who = "Operations", adminScope + identity.ScopeAdmin
	register(cp, a, operation("search-index", http.MethodGet, "/v1/admin/search", tag, "How the search index of this replica is", who), func(context.Context, *struct{}) (*answer[api.SearchIndex], error) {
		return reply(cp.searchIndex(), nil)
	})
	op = operation("rebuild-search", http.MethodPost, "/v1/admin/search/rebuild", tag, "Make the search index of this replica anew", who)
	op.DefaultStatus = http.StatusAccepted
	op.Description = "The present one is searched until the new one takes its place. GET /v1/admin/search tells how far it is."
	register(cp, a, op, func(context.Context, *struct{}) (*answer[api.SearchIndex], error) {
		if s := cp.index.Status(); s.State != search.Ready {
			return nil, newProblem(http.StatusConflict, "already-running", "the search index is being built already")
		}
		cp.index.StartRebuild()
		return reply(cp.searchIndex(), nil)
	})
	op = operation("check-search", http.MethodPost, "/v1/admin/search/check", tag, "Compare the search index of this replica with the database", who)
	op.DefaultStatus = http.StatusAccepted
	op.Description = "With mend, what differs is brought up to date. GET /v1/admin/search tells how far it is and what it found."
	register(cp, a, op, func(_ context.Context, in *struct{ Body api.NewSearchCheck }) (*answer[api.SearchIndex], error) {
		if _, err := cp.index.StartCheck(in.Body.Mend); errors.Is(err, media.ErrBusy) {
			return nil, newProblem(http.StatusConflict, "already-running", "the search index is being compared already")
		} else if err != nil {
			return nil, err
		}
		return reply(cp.searchIndex(), nil)
	})
}

func (cp *ControlPlane) searchIndex() api.SearchIndex {
	s := cp.index.Status()
	out := api.SearchIndex{Replica: cp.cfg.Replica, State: s.State, Documents: s.Documents, Bytes: s.Bytes, Done: s.Done, Total: s.Total, StartedAt: when(s.StartedAt), EndedAt: when(s.EndedAt), Error: s.Error}
	if c := s.Check; !c.StartedAt.IsZero() {
		r := c.Report
		out.Check = &api.SearchCheck{Running: c.Running, Mend: c.Mend, Done: c.Done, Total: c.Total, StartedAt: c.StartedAt.UTC(), EndedAt: when(c.EndedAt), Error: c.Error,
			Tables: r.Tables, Index: r.Index, Missing: r.Missing, Extra: r.Extra, Stale: r.Stale, Mended: r.Mended}
		for _, d := range r.Differences {
			out.Check.Differences = append(out.Check.Differences, api.SearchDifference{Type: d.Kind, ID: d.ID, What: d.What})
		}
	}
	return out
}

func when(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// searchMetrics tell how full the index is and how much its cache of answers saves.
func searchMetrics(x *search.Index) []prometheus.Collector {
	out := []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "segue_search_building", Help: "1 while the index is filled for the first time."}, func() float64 {
			if x.Building() {
				return 1
			}
			return 0
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "segue_search_queries_total", Help: "Queries answered."}, func() float64 { n, _ := x.Answers(); return float64(n) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "segue_search_cached_total", Help: "Queries answered from the cache of answers."}, func() float64 { _, n := x.Answers(); return float64(n) }),
	}
	for _, kind := range x.Kinds() {
		out = append(out, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "segue_search_documents", Help: "Documents in the index, by type.", ConstLabels: prometheus.Labels{"type": kind}},
			func() float64 { return float64(x.Documents()[kind]) }))
	}
	return out
}
