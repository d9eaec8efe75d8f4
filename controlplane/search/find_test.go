package search_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"segue/controlplane/search"
	"segue/media"
)

// table is a source in memory.
type table struct {
	kind string
	mu   sync.Mutex // guards rows
	rows map[string]search.Doc
}

func newTable(kind string, docs ...search.Doc) *table {
	t := &table{kind: kind, rows: map[string]search.Doc{}}
	for _, d := range docs {
		t.put(d)
	}
	return t
}

func (t *table) put(d search.Doc) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if d.Source == nil {
		d.Source = json.RawMessage(fmt.Sprintf("{%q:%q,%q:%q}", "id", d.ID, "name", d.Name))
	}
	t.rows[d.ID] = d
}

func (t *table) remove(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.rows, id)
}

func (t *table) source() search.Source {
	return search.Source{Kind: t.kind,
		Count: func(context.Context) (int64, error) {
			t.mu.Lock()
			defer t.mu.Unlock()
			return int64(len(t.rows)), nil
		},
		Load: func(_ context.Context, ids []string) (out []search.Doc, _ error) {
			t.mu.Lock()
			defer t.mu.Unlock()
			for _, id := range ids {
				if d, ok := t.rows[id]; ok {
					out = append(out, d)
				}
			}
			return out, nil
		},
		Each: func(_ context.Context, f func(search.Doc) error) error {
			t.mu.Lock()
			var all []search.Doc
			for _, d := range t.rows {
				all = append(all, d)
			}
			t.mu.Unlock()
			slices.SortFunc(all, func(a, b search.Doc) int { return strings.Compare(a.ID, b.ID) })
			for _, d := range all {
				if err := f(d); err != nil {
					return err
				}
			}
			return nil
		}}
}

func open(t testing.TB, dir string, tables ...*table) *search.Index {
	t.Helper()
	c := search.Config{Dir: dir}
	for _, s := range tables {
		c.Sources = append(c.Sources, s.source())
	}
	x, err := search.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// built is an index of the tables. Its documents came in so many steps: some with the build, the others as changes, so that
// they are in several segments, and every other one had another name before.
func built(t testing.TB, steps int, tables ...*table) *search.Index {
	t.Helper()
	later := map[*table][]search.Doc{}
	for _, table := range tables {
		for i, id := range slices.Sorted(maps.Keys(table.rows)) {
			if d := table.rows[id]; steps > 1 && i%steps != 0 {
				later[table] = append(later[table], d)
				if i%2 == 0 {
					d.Name = "Working Title"
					table.rows[id] = d
				} else {
					table.remove(id)
				}
			}
		}
	}
	x := open(t, t.TempDir(), tables...)
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := x.Rebuild(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		for i := range steps - 1 {
			var ids []string
			for j, d := range later[table] {
				if j%(steps-1) == i {
					table.put(d)
					ids = append(ids, d.ID)
				}
			}
			if err := x.Apply(t.Context(), table.kind, ids...); err != nil {
				t.Fatal(err)
			}
		}
	}
	return x
}

func by(artist, album string) []search.Text {
	return []search.Text{{Field: "artist", Text: artist}, {Field: "album", Text: album}}
}

// world is a small catalogue of many scripts.
func world() []*table {
	return []*table{
		newTable("track",
			search.Doc{ID: "yesterday", Name: "Yesterday", Also: by("The Beatles", "Help!"), Popularity: 90, Genres: []string{"Rock"}, Year: 1965, Artists: []string{"beatles"}},
			search.Doc{ID: "yesterday-cover", Name: "Yesterday", Also: by("Cover Band", "Tribute"), Popularity: 1, Genres: []string{"Pop"}, Year: 2001, Artists: []string{"cover"}},
			search.Doc{ID: "yesterday-once", Name: "Yesterday Once More", Also: by("Carpenters", "Now & Then"), Popularity: 60, Genres: []string{"Pop"}, Year: 1973},
			search.Doc{ID: "help", Name: "Help!", Also: by("The Beatles", "Help!"), Popularity: 70, Genres: []string{"Rock"}, Year: 1965, Artists: []string{"beatles"}},
			search.Doc{ID: "chains", Name: "Breaking the Chains", Also: by("Timothy Pinkham", "OST")},
			search.Doc{ID: "lodz", Name: "Łódź Café", Also: by("Björk", "Été")},
			search.Doc{ID: "strasse", Name: "Große Straße", Also: by("Ärzte", "Übermut")},
			search.Doc{ID: "aeon", Name: "Ænima Ørsted", Also: by("Mötley Crüe", "Þing")},
			search.Doc{ID: "zvezda", Name: "Звезда по имени Солнце", Also: by("Кино", "Чёрный альбом"), Year: 1989},
			search.Doc{ID: "yolka", Name: "Ёлка", Also: by("Дискотека Авария", "Новый год")},
			search.Doc{ID: "sakura", Name: "さくらの歌", Also: by("宇多田ヒカル", "初恋"), Popularity: 5},
			search.Doc{ID: "tokyo", Name: "東京都の夜", Also: by("椎名林檎", "無罪")},
			search.Doc{ID: "gangnam", Name: "강남스타일", Also: by("싸이", "싸이6甲"), Popularity: 80},
			search.Doc{ID: "wide", Name: "ＦＵＬＬ ＷＩＤＴＨ", Also: by("ﾊﾝｶｸ", "x")},
			search.Doc{ID: "combining", Name: "Beyonce\u0301 Live", Also: by("Beyonce\u0301", "Live")},
			search.Doc{ID: "dont", Name: "Don’t Stop Me Now", Also: by("Queen", "Jazz"), Popularity: 50},
			search.Doc{ID: "thunder", Name: "Thunderstruck", Also: by("AC/DC", "The Razors Edge"), Popularity: 75, Artists: []string{"acdc"}},
			search.Doc{ID: "fire", Name: "Fire 🔥🔥", Also: by("P!nk", "Hot"), Year: 2020},
			search.Doc{ID: "arabic", Name: "أغنية الحب", Also: by("فيروز", "بيروت")},
			search.Doc{ID: "hebrew", Name: "שִׁיר אַהֲבָה", Also: by("עידן רייכל", "א")},
			search.Doc{ID: "greek", Name: "Ο Ήλιος", Also: by("Μίκης Θεοδωράκης", "Φως")},
			search.Doc{ID: "nova-scotia", Name: "Nova Scotia", Also: by("Somebody", "East"), Popularity: 100},
			search.Doc{ID: "hindi", Name: "तुम ही हो", Also: by("अरिजीत सिंह", "आशिकी")},
			search.Doc{ID: "thai", Name: "รักแท้", Also: by("บอย", "รัก")},
		),
		newTable("album",
			search.Doc{ID: "al-help", Name: "Help!", Also: []search.Text{{Field: "artist", Text: "The Beatles"}}, Popularity: 50, Year: 1965, Artists: []string{"beatles"}},
			search.Doc{ID: "al-jazz", Name: "Jazz", Also: []search.Text{{Field: "artist", Text: "Queen"}}, Popularity: 20, Year: 1978},
			search.Doc{ID: "al-beatles", Name: "The Beatles", Also: []search.Text{{Field: "artist", Text: "The Beatles"}}, Popularity: 60, Year: 1968, Artists: []string{"beatles"}},
		),
		newTable("artist",
			search.Doc{ID: "beatles", Name: "The Beatles", Popularity: 95, Artists: []string{"beatles"}},
			search.Doc{ID: "nova", Name: "Nova", Popularity: 0},
			search.Doc{ID: "acdc", Name: "AC/DC", Popularity: 80},
			search.Doc{ID: "exclaim", Name: "!!!", Popularity: 2},
			search.Doc{ID: "sg", Name: "Simon & Garfunkel", Popularity: 40},
			search.Doc{ID: "metallica", Name: "Metallica", Popularity: 85},
			search.Doc{ID: "the-the", Name: "The The"},
			search.Doc{ID: "rem", Name: "R.E.M.", Popularity: 30},
		),
		newTable("playlist", search.Doc{ID: "pl-rock", Name: "Rock Yesterday and Today", Popularity: 3}),
		newTable("user", search.Doc{ID: "u-ada", Name: "Ada Lovelace"}),
	}
}

func find(t testing.TB, x *search.Index, q search.Query) search.Result {
	t.Helper()
	r, err := x.Find(t.Context(), q)
	if err != nil {
		t.Fatalf("%+v: %v", q, err)
	}
	return r
}

func hits(r search.Result, kind string) []string {
	out := []string{}
	for _, h := range r.Lists[kind].Hits {
		out = append(out, h.ID)
	}
	return out
}

func TestFind(t *testing.T) {
	for _, steps := range []int{1, 3, 7} {
		t.Run(fmt.Sprint(steps), func(t *testing.T) {
			x := built(t, steps, world()...)
			f := func(kind, text string, want ...string) {
				t.Helper()
				if got := hits(find(t, x, search.Query{Text: text}), kind); !slices.Equal(got, want) {
					t.Errorf("%s %q: %q, want %q", kind, text, got, want)
				}
			}
			// As typed, from the first letter on; the known one of one name first, whole names before longer ones.
			f("track", "y", "yesterday", "yesterday-once", "yesterday-cover")
			f("track", "yest", "yesterday", "yesterday-once", "yesterday-cover")
			f("track", "yesterday", "yesterday", "yesterday-cover", "yesterday-once")
			f("track", "YESTERDAY once", "yesterday-once")
			f("track", "once yes", "yesterday-once")
			f("track", "beatles yesterday", "yesterday")
			f("track", "yesterday cover band", "yesterday-cover")
			f("artist", "beatles", "beatles")
			f("artist", "the b", "beatles")
			f("album", "beatles", "al-beatles", "al-help")
			f("playlist", "yesterday", "pl-rock")
			f("user", "love", "u-ada")
			// Case, accents, width, ligatures.
			f("track", "cafe bjork", "lodz")
			f("track", "LODZ", "lodz")
			f("track", "grosse strasse", "strasse")
			f("track", "GROSSE STRASSE", "strasse")
			f("track", "große", "strasse")
			f("track", "aenima orsted", "aeon")
			f("track", "motley thing", "aeon")
			f("track", "елка", "yolka")
			f("track", "черный звезда", "zvezda")
			f("track", "ЗВЕЗДА ПО", "zvezda")
			f("track", "full width", "wide")
			f("track", "ｆｕｌｌ", "wide")
			f("track", "ハンカク", "wide")
			f("track", "beyoncé live", "combining")
			f("track", "beyonce", "combining")
			f("track", "الحب اغنية", "arabic")
			f("track", "שיר אהבה", "hebrew")
			f("track", "ηλιος", "greek")
			f("track", "θεοδωρακης φωσ", "greek")
			f("track", "तुम", "hindi")
			// Scripts without spaces: any part.
			f("track", "くら", "sakura")
			f("track", "クラ", "sakura")
			f("track", "歌", "sakura")
			f("track", "京都", "tokyo")
			f("track", "東京都の夜", "tokyo")
			f("track", "京東")
			f("track", "宇多田", "sakura")
			f("track", "스타일", "gangnam")
			f("track", "강남 싸이", "gangnam")
			f("track", "แท้", "thai")
			// Marks in words.
			f("track", "dont stop", "dont")
			f("track", "don't stop", "dont")
			f("track", "don’t", "dont")
			f("track", "acdc thunder", "thunder")
			f("track", "ac/dc", "thunder")
			f("track", "pnk", "fire")
			f("track", "p!nk", "fire")
			f("track", "🔥", "fire")
			f("artist", "!!!", "exclaim")
			f("artist", "acdc", "acdc")
			f("artist", "rem", "rem")
			f("artist", "r.e.m.", "rem")
			f("artist", "simon and garfunkel", "sg")
			f("artist", "simon & gar", "sg")
			f("artist", "the the", "the-the", "beatles")
			// Typos: none in three letters, one from four, two from eight; swapped letters are one.
			f("artist", "beatels", "beatles")
			f("artist", "baetles", "beatles")
			f("artist", "betles", "beatles")
			f("artist", "metalica", "metallica")
			f("artist", "metlalicca", "metallica")
			f("artist", "mettalli", "metallica")
			f("track", "chians", "chains")
			f("track", "thundrestruk", "thunder")
			f("track", "beetles yestreday", "yesterday")
			f("track", "hxlp beatles", "help", "yesterday")
			f("artist", "rxm")
			// The middle of a word.
			f("track", "hain", "chains")
			f("track", "derstr", "thunder")
			f("track", "ai") // two letters: only beginnings
		})
	}
}

func TestTop(t *testing.T) {
	x := built(t, 1, world()...)
	for text, want := range map[string]string{"beatles": "artist/beatles", "The Beatles": "artist/beatles", "yesterday": "track/yesterday", "nova": "artist/nova", "help": "track/help",
		"jazz": "album/al-jazz", "beatles help": "track/help", "ada": "user/u-ada", "nova scotia": "track/nova-scotia"} {
		r := find(t, x, search.Query{Text: text})
		if r.Top == nil || r.Top.Kind+"/"+r.Top.ID != want {
			t.Errorf("%q: top %+v, want %s", text, r.Top, want)
		}
	}
	if r := find(t, x, search.Query{Text: "nothing of the kind"}); r.Top != nil {
		t.Errorf("%+v", r.Top)
	}
}

func TestFilters(t *testing.T) {
	x := built(t, 2, world()...)
	f := func(q search.Query, want ...string) {
		t.Helper()
		q.Kinds = []string{"track"}
		if got := hits(find(t, x, q), "track"); !slices.Equal(got, want) {
			t.Errorf("%+v: %q, want %q", q, got, want)
		}
	}
	f(search.Query{Text: "y", Genre: "pop"}, "yesterday-once", "yesterday-cover")
	f(search.Query{Text: "y", Genre: "POP", YearFrom: 2000}, "yesterday-cover")
	f(search.Query{Text: "y", YearFrom: 1965, YearTo: 1965}, "yesterday")
	f(search.Query{Text: "y", YearTo: 1980}, "yesterday", "yesterday-once")
	f(search.Query{Text: "y", YearFrom: 2010, YearTo: 1990})
	f(search.Query{Text: "y", Artist: "beatles"}, "yesterday")
	f(search.Query{Text: "yestreday", Genre: "rock"}, "yesterday")
	f(search.Query{Text: "y", Genre: "Polka"})
	f(search.Query{Text: "y", Artist: "* OR 1=1"})
}

func TestHighlights(t *testing.T) {
	x := built(t, 1, world()...)
	f := func(text, id string, want ...string) {
		t.Helper()
		var got []string
		for _, l := range find(t, x, search.Query{Text: text}).Lists {
			for _, h := range l.Hits {
				if h.ID != id {
					continue
				}
				for _, p := range h.Highlights {
					for _, r := range p.Ranges {
						got = append(got, p.Field+":"+p.Text[r[0]:r[1]])
					}
				}
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q in %s: %q, want %q", text, id, got, want)
		}
	}
	f("beatles yest", "yesterday", "name:Yest", "artist:Beatles")
	f("cafe bjo", "lodz", "name:Café", "artist:Bjö")
	f("hain", "chains", "name:hain")
	f("beatels", "beatles", "name:Beatles")
	f("strass", "strasse", "name:Straße") // ß became two letters
	f("京都", "tokyo", "name:京都")
	f("ada", "u-ada", "name:Ada")
	f("acdc", "thunder", "artist:AC/DC")
	f("🔥", "fire", "name:🔥🔥")
}

func TestCursors(t *testing.T) {
	var docs []search.Doc
	for i := range 250 {
		docs = append(docs, search.Doc{ID: fmt.Sprintf("%03d", i), Name: fmt.Sprintf("Song %d", i), Popularity: float64(i / 10)})
	}
	x := built(t, 2, newTable("track", docs...))
	seen := map[string]bool{}
	q := search.Query{Text: "song", Kinds: []string{"track"}, Limit: 7}
	last := 2.0
	for pages := 0; ; pages++ {
		l := find(t, x, q).Lists["track"]
		for _, h := range l.Hits {
			if seen[h.ID] {
				t.Fatalf("%s comes twice", h.ID)
			}
			if h.Score > last+1 {
				t.Errorf("%s has %v after %v", h.ID, h.Score, last)
			}
			seen[h.ID], last = true, h.Score
		}
		if q.Cursor = l.Next; q.Cursor == "" {
			break
		}
		if pages > 100 {
			t.Fatal("no end of pages")
		}
	}
	if len(seen) != len(docs) {
		t.Errorf("%d of %d were paged through", len(seen), len(docs))
	}
	for _, bad := range []search.Query{{Text: "song", Cursor: "x", Kinds: []string{"track"}}, {Text: "song", Cursor: "!", Kinds: []string{"track"}}, {Text: "song", Kinds: []string{"tracks"}},
		{Text: "song", Cursor: q.Cursor + "QUJDREVGR0hJSg", Kinds: []string{}}} {
		if _, err := x.Find(t.Context(), bad); !errors.Is(err, media.ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// The popular ones of very many are found, and a whole name among them however unknown it is.
func TestManyMatches(t *testing.T) {
	var docs []search.Doc
	for i := range 3000 {
		docs = append(docs, search.Doc{ID: fmt.Sprintf("%04d", i), Name: fmt.Sprintf("Love of %d", i*7919%3000), Popularity: math.Pow(1.01, float64(i))})
	}
	docs = append(docs, search.Doc{ID: "exact", Name: "Love"}, search.Doc{ID: "album", Name: "Song", Also: by("Somebody", "Love")})
	x := built(t, 2, newTable("track", docs...))
	got := hits(find(t, x, search.Query{Text: "l", Limit: 3}), "track")
	if want := []string{"2999", "2998", "2997"}; !slices.Equal(got, want) {
		t.Error(got, want)
	}
	if got = hits(find(t, x, search.Query{Text: "love", Limit: 100}), "track"); !slices.Contains(got, "exact") || !slices.Contains(got, "2999") {
		t.Error(got)
	}
}

// Query text is data, whatever it looks like.
func TestHostileQueries(t *testing.T) {
	x := built(t, 1, world()...)
	for _, text := range hostile {
		if _, err := x.Find(t.Context(), search.Query{Text: text}); err != nil {
			t.Errorf("%.40q: %v", text, err)
		}
	}
	for _, text := range []string{"", " ", "***", "' OR 1=1 --", "name:yesterday", "+yesterday -beatles", "/.*/", "yesterday~2", "\"yesterday once\"", "😀", "\x00", "\xff\xfe"} {
		r := find(t, x, search.Query{Text: text})
		want := map[string][]string{"\"yesterday once\"": {"yesterday-once"}, "+yesterday -beatles": {"yesterday"}}[text]
		if got := hits(r, "track"); len(got)+len(want) > 0 && !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

var hostile = []string{strings.Repeat("word ", 1000), strings.Repeat("x", 100_000), strings.Repeat("é", 5000), strings.Repeat("\u0301", 1000), "a" + strings.Repeat("\u0301", 1000), strings.Repeat("東", 3000), strings.Repeat("/a", 3000),
	"\ufdfa", "İstanbul", "ŉ", "\u200b", "\u202e", "\ud7ff", "a\x00b", "\U0010ffff", strings.Repeat("'", 500), "🏳️‍🌈", "👨‍👩‍👧‍👦", "ﬁ", "Ⅷ", "½", strings.Repeat("aaaaaaaaab", 8), "\xf0\x9f", "\x01", "yest\xff"}

func FuzzFind(f *testing.F) {
	x := built(f, 1, world()...)
	for _, s := range hostile {
		f.Add(s, "", 0)
	}
	f.Add("yesterday", "Rock", 1965)
	f.Fuzz(func(t *testing.T, text, genre string, year int) {
		r, err := x.Find(t.Context(), search.Query{Text: text, Genre: genre, YearFrom: year})
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range r.Lists {
			for _, h := range l.Hits {
				for _, p := range h.Highlights {
					for _, r := range p.Ranges {
						_ = p.Text[r[0]:r[1]]
					}
				}
			}
		}
	})
}

// Whatever a document is called, it is found by that name, and by the beginning of its first word.
func FuzzName(f *testing.F) {
	for _, s := range hostile {
		f.Add(s)
	}
	names := newTable("track")
	x := built(f, 1, names)
	f.Fuzz(func(t *testing.T, name string) {
		names.put(search.Doc{ID: "it", Name: name})
		if err := x.Apply(t.Context(), "track", "it"); err != nil {
			t.Fatal(err)
		}
		r, err := x.Find(t.Context(), search.Query{Text: name})
		if err != nil {
			t.Fatal(err)
		}
		if strings.IndexFunc(name, func(r rune) bool { return r >= 'a' && r <= 'z' || r >= '0' && r <= '9' }) >= 0 && len(r.Lists["track"].Hits) == 0 {
			t.Errorf("%q does not find itself", name)
		}
	})
}
