package search_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"segue/controlplane/search"
)

// The catalogue of the benchmarks: made up, the same at every run. Words are syllables, used as often as words are
// (Zipf); one artist in ten is known, one track in a hundred.
var benchTracks = flag.Int("tracks", 100_000, "tracks in the benchmarks' catalogue; there are a tenth as many artists and a sixth as many albums")

type catalogue struct {
	tracks  int
	words   []string
	artists []string
}

func newCatalogue(tracks int) *catalogue {
	r := rand.New(rand.NewPCG(1, 2))
	c := &catalogue{tracks: tracks}
	heads := strings.Fields("b c d f g h j k l m n p r s t v w y z th ch sh st tr br gr cl pl fr qu bl cr dr sp sw gl wh")
	vowels := strings.Fields("a e i o u a e i o ea ou ie ai oo ee")
	tails := strings.Fields("n r s t l m d ck ng nd st rt x p ll ss th y") // and none
	seen := map[string]bool{}
	for len(c.words) < max(2000, min(300_000, tracks/3)) {
		var b strings.Builder
		for range 1 + r.IntN(3) {
			b.WriteString(heads[r.IntN(len(heads))] + vowels[r.IntN(len(vowels))])
			if r.IntN(2) == 0 {
				b.WriteString(tails[r.IntN(len(tails))])
			}
		}
		if w := b.String(); !seen[w] {
			seen[w] = true
			c.words = append(c.words, w)
		}
	}
	copy(c.words, strings.Fields("the a of love you me in my to and i on remix live feat night time heart it all version no is baby go day home dance world blue"))
	z := rand.NewZipf(r, 1.05, 4, uint64(len(c.words)-1))
	for i := range tracks / 10 {
		n := 1 + r.IntN(3)
		var name []string
		for range n {
			name = append(name, c.words[(z.Uint64()*7+uint64(i*r.IntN(2)))%uint64(len(c.words))])
		}
		c.artists = append(c.artists, strings.Join(name, " "))
	}
	return c
}

func (c *catalogue) source(kind string, n int, doc func(r *rand.Rand, z *rand.Zipf, i int) search.Doc) search.Source {
	return search.Source{Kind: kind, Count: func(context.Context) (int64, error) { return int64(n), nil },
		Load: func(context.Context, []string) ([]search.Doc, error) { return nil, nil },
		Each: func(_ context.Context, f func(search.Doc) error) error {
			r := rand.New(rand.NewPCG(3, uint64(len(kind))))
			z := rand.NewZipf(r, 1.05, 4, uint64(len(c.words)-1))
			for i := range n {
				if err := f(doc(r, z, i)); err != nil {
					return err
				}
			}
			return nil
		}}
}

func (c *catalogue) title(r *rand.Rand, z *rand.Zipf) string {
	var t []string
	for range 1 + r.IntN(4) {
		t = append(t, c.words[z.Uint64()])
	}
	return strings.Join(t, " ")
}

func id(kind string, i int) string { return fmt.Sprintf("01J%s%020d", strings.ToUpper(kind[:3]), i) }

// fame is heavy-tailed, as numbers of listeners are.
func fame(r *rand.Rand) float64 { return float64(int(10 / (r.Float64() + 1e-6))) }

func (c *catalogue) sources() []search.Source {
	n := c.tracks
	return []search.Source{
		c.source("track", n, func(r *rand.Rand, z *rand.Zipf, i int) search.Doc {
			a := int(uint64(len(c.artists)) * z.Uint64() / uint64(len(c.words)))
			title, artist, album := c.title(r, z), c.artists[a], c.title(r, z)
			genre := []string{"Rock", "Pop", "Jazz", "Classical", "Hip-Hop", "Folk"}[i%6]
			year := 1960 + i%66
			source := `{"id":"` + id("track", i) + `","title":"` + title + `","artists":[{"id":"` + id("artist", a) + `","name":"` + artist + `"}],"album":{"id":"` + id("album", i/6) + `","title":"` + album +
				`","artists":[{"id":"` + id("artist", a) + `","name":"` + artist + `"}],"art":{"url":"/r/art/` + id("album", i/6) + `/abcdefghijklmnopqrstuvwxyz/{size}.jpg","sizes":[64,300,640]}},"genres":["` + genre +
				`"],"duration_ms":` + strconv.Itoa(180000+i%100000) + `,"track_number":3,"disc_number":1,"date":"` + strconv.Itoa(year) + `","version":"abcdefghijklmnopqrstuvwxyz","renditions":["aac_96","aac_160","aac_256","opus_128","flac"],"loudness":{"integrated_lufs":-9.1,"true_peak_dbtp":-0.3},"created_at":"2026-01-01T00:00:00Z"}`
			return search.Doc{ID: id("track", i), Name: title, Also: []search.Text{{Field: "artist", Text: artist}, {Field: "album", Text: album}, {Field: "genre", Text: genre}},
				Popularity: fame(r), Genres: []string{genre}, Year: year, Artists: []string{id("artist", a)}, Source: json.RawMessage(source)}
		}),
		c.source("album", n/6, func(r *rand.Rand, z *rand.Zipf, i int) search.Doc {
			a := int(uint64(len(c.artists)) * z.Uint64() / uint64(len(c.words)))
			title := c.title(r, z)
			return search.Doc{ID: id("album", i), Name: title, Also: []search.Text{{Field: "artist", Text: c.artists[a]}}, Popularity: fame(r), Year: 1960 + i%66, Artists: []string{id("artist", a)},
				Source: json.RawMessage(`{"id":"` + id("album", i) + `","title":"` + title + `","artists":[{"id":"` + id("artist", a) + `","name":"` + c.artists[a] + `"}],"date":"1999","track_count":12,"duration_ms":1234567}`)}
		}),
		c.source("artist", len(c.artists), func(r *rand.Rand, z *rand.Zipf, i int) search.Doc {
			return search.Doc{ID: id("artist", i), Name: c.artists[i], Popularity: fame(r), Artists: []string{id("artist", i)},
				Source: json.RawMessage(`{"id":"` + id("artist", i) + `","name":"` + c.artists[i] + `","album_count":3,"track_count":30}`)}
		}),
	}
}

var benchIndex = sync.OnceValues(func() (*search.Index, string) {
	dir, err := os.MkdirTemp("", "segue-search-")
	if err != nil {
		panic(err)
	}
	x, err := search.Open(search.Config{Dir: dir, Sources: newCatalogue(*benchTracks).sources(), CacheBytes: -1})
	if err != nil {
		panic(err)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	begun, worked := time.Now(), cpu()
	if err := x.Rebuild(context.Background()); err != nil {
		panic(err)
	}
	dur, worked := time.Since(begun), cpu()-worked
	runtime.GC()
	runtime.ReadMemStats(&after)
	s := x.Status()
	n := 0
	for _, k := range s.Documents {
		n += k
	}
	defer func() { fmt.Println("after the build:", memory()) }()
	making := cpu()
	for _, source := range newCatalogue(*benchTracks).sources() {
		_ = source.Each(context.Background(), func(search.Doc) error { return nil })
	}
	making = cpu() - making
	fmt.Printf("%d documents %v in %s: %.0f a second; %s of CPU, %s of it to make them up: %.0f a second of a core without that; %d MB on disk, %d MB of heap\n", n, s.Documents, dur.Round(time.Millisecond), float64(n)/dur.Seconds(), worked.Round(time.Millisecond), making.Round(time.Millisecond), float64(n)/(worked-making).Seconds(), s.Bytes>>20, (int64(after.HeapAlloc)-int64(before.HeapAlloc))>>20)
	return x, dir
})

func TestMain(m *testing.M) {
	flag.Parse()
	if dir := os.Getenv("SEGUE_SEARCH_CHILD"); dir != "" {
		child(dir)
	}
	code := m.Run()
	if benchMade {
		x, dir := benchIndex()
		fmt.Println("after all queries:", memory())
		_ = x.Close()
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// cpu is what the process has worked: on a busy machine it says more than the clock does.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// memory is what the process takes, and what of it are pages of the index's files, which the kernel may take back.
func memory() string {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err.Error()
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && slices.Contains([]string{"VmHWM:", "VmRSS:", "RssAnon:", "RssFile:"}, f[0]) {
			kb, _ := strconv.Atoi(f[1])
			out = append(out, fmt.Sprintf("%s %d MB", f[0], kb>>10))
		}
	}
	return strings.Join(out, ", ")
}

var benchMade bool

// queries of each class, made from the catalogue.
func queries(class string, c *catalogue, n int) (out []string) {
	r := rand.New(rand.NewPCG(9, 9))
	z := rand.NewZipf(r, 1.05, 4, uint64(len(c.words)-1))
	cut := func(w string, n int) string { return w[:min(n, len(w))] }
	for range n {
		w, w2 := c.words[z.Uint64()], c.words[z.Uint64()]
		for len(w) < 5 {
			w = c.words[r.IntN(len(c.words))]
		}
		switch class {
		case "prefix1":
			w = cut(w, 1)
		case "prefix2":
			w = cut(w, 2)
		case "prefix3":
			w = cut(w, 3)
		case "prefix5":
			w = cut(w, 5)
		case "word", "tracks only", "with filters", "deep page":
		case "title":
			w = c.title(r, z)
		case "two words":
			w = w + " " + w2
		case "artist and title":
			w = strings.ToLower(c.artists[int(uint64(len(c.artists))*z.Uint64()/uint64(len(c.words)))]) + " " + w2
		case "typo":
			i := 1 + r.IntN(len(w)-1)
			w = w[:i] + string(rune('a'+r.IntN(26))) + w[i:]
		case "two typos":
			i := 1 + r.IntN(len(w)-1)
			w = w[:i] + "q" + w[i:] + " " + w2[:1] + "x" + w2[1:]
		case "middle":
			w = w[1:]
		case "miss":
			w = fmt.Sprintf("zq%dxv%d", r.IntN(1000), r.IntN(1000))
		}
		out = append(out, w)
	}
	return out
}

var classes = []string{"prefix1", "prefix2", "prefix3", "prefix5", "word", "tracks only", "with filters", "deep page", "title", "two words", "artist and title", "typo", "two typos", "middle", "miss", "mix"}

// mix is what listeners do, about: most queries are of somebody who is still typing.
func mix(c *catalogue, n int) (out []string) {
	for class, share := range map[string]int{"prefix1": 8, "prefix2": 10, "prefix3": 14, "prefix5": 20, "word": 12, "title": 8, "two words": 8, "artist and title": 8, "typo": 6, "two typos": 2, "middle": 2, "miss": 2} {
		out = append(out, queries(class, c, n*share/100)...)
	}
	slices.Sort(out)
	rand.New(rand.NewPCG(8, 8)).Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// BenchmarkFind is one query at a time, with no cache of answers, each of all kinds with 20 hits; p99 of a class beside its
// mean.
func BenchmarkFind(b *testing.B) {
	benchMade = true
	x, _ := benchIndex()
	c := newCatalogue(*benchTracks)
	for _, class := range classes {
		b.Run(class, func(b *testing.B) {
			list := queries(class, c, 2000)
			if class == "mix" {
				list = mix(c, 5000)
			}
			deep := map[string]string{} // the cursor of the fifth page
			for _, text := range list {
				for range 4 {
					if _, ok := deep[text]; class != "deep page" || ok && deep[text] == "" {
						break
					}
					r, err := x.Find(b.Context(), search.Query{Text: text, Kinds: []string{"track"}, Cursor: deep[text]})
					if err != nil {
						b.Fatal(err)
					}
					deep[text] = r.Lists["track"].Next
				}
			}
			var times []time.Duration
			i, hits, worked := 0, 0, cpu()
			for b.Loop() {
				begun := time.Now()
				q := search.Query{Text: list[i%len(list)]}
				switch class {
				case "tracks only":
					q.Kinds = []string{"track"}
				case "with filters":
					q.Kinds, q.Genre, q.YearFrom, q.YearTo = []string{"track"}, "Jazz", 1980, 1999
				case "deep page":
					q.Kinds, q.Cursor = []string{"track"}, deep[q.Text]
				}
				r, err := x.Find(b.Context(), q)
				if err != nil {
					b.Fatal(err)
				}
				times = append(times, time.Since(begun))
				hits += len(r.Lists["track"].Hits) + len(r.Lists["album"].Hits) + len(r.Lists["artist"].Hits)
				i++
			}
			b.ReportMetric(float64((cpu()-worked).Microseconds())/float64(i), "cpu-us/op")
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)*99/100].Microseconds()), "p99-us")
			b.ReportMetric(float64(times[len(times)-1].Microseconds()), "max-us")
			b.ReportMetric(float64(hits)/float64(i), "hits/op")
			b.ReportAllocs()
		})
	}
}
