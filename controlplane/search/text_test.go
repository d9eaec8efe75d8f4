package search_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"segue/controlplane/search"

	"github.com/google/go-cmp/cmp"
)

// The short way to take a text apart is the long one's, wherever it is taken.
func TestSplit(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	taken := 0
	for range 20_000 {
		var b strings.Builder
		for range r.IntN(30) {
			b.WriteByte("aB3z  \t!'&-/.,(~\x00"[r.IntN(17)])
		}
		plain, long, ok := search.Split(b.String())
		if !ok {
			continue
		}
		taken++
		if d := cmp.Diff(plain, long); d != "" {
			t.Fatalf("%q: %s", b.String(), d)
		}
	}
	if taken < 1000 {
		t.Errorf("%d texts went the short way", taken)
	}
}

// distance is optimal string alignment as textbooks have it.
func distance(a, b []rune) int {
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}

// Going through the dictionary finds the words that comparing with each of them finds.
func TestNearly(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	letters := []rune("abcdé東")
	word := func(most int) string {
		w := make([]rune, 1+r.IntN(most))
		for i := range w {
			w[i] = letters[min(r.IntN(len(letters)), r.IntN(len(letters)))]
		}
		return string(w)
	}
	var words []string
	for range 3000 {
		words = append(words, word(9))
	}
	slices.Sort(words)
	words = slices.Compact(words)
	for range 400 {
		w := word(8)
		for most := 1; most <= 2; most++ {
			for _, prefix := range []bool{false, true} {
				var want []string
				for _, other := range words {
					o := []rune(other)
					near := distance(o, []rune(w)) <= most
					for n := 0; prefix && !near && n <= len(o); n++ {
						near = n > 0 && distance(o[:n], []rune(w)) <= most
					}
					if near {
						want = append(want, other)
					}
				}
				if d := cmp.Diff(search.Nearly(words, w, most, prefix), want); d != "" {
					t.Fatalf("%q, %d, %t: %s", w, most, prefix, d)
				}
			}
		}
	}
}

// Texts without spaces have very many parts: comparing those of a query with those of a name took seconds, and in a
// fuzzer minutes. It takes milliseconds; the bound here is for a busy machine.
func TestPartsWithoutEnd(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	random := func(sep string, letters int) string {
		var b strings.Builder
		for b.Len() < 100_000 {
			for range letters {
				b.WriteByte(byte('a' + r.IntN(26)))
			}
			b.WriteString(sep)
		}
		return b.String()
	}
	names := newTable("track")
	x := built(t, 1, names)
	for _, s := range []string{strings.Repeat("/a", 50_000), random("/", 1), random("/", 4), random("'", 9), strings.Repeat("\U0010ffff東京", 10_000), strings.Repeat("🔥", 25_000), strings.Repeat("a\u0301", 30_000)} {
		names.put(search.Doc{ID: "it", Name: s, Also: []search.Text{{Field: "artist", Text: s}, {Field: "album", Text: s}}})
		if err := x.Apply(t.Context(), "track", "it"); err != nil {
			t.Fatal(err)
		}
		for _, q := range []string{s, "x" + s} {
			begun := cpu()
			find(t, x, search.Query{Text: q})
			if took := cpu() - begun; took > time.Second {
				t.Errorf("%.20q…: %s", q, took)
			}
		}
	}
	// Bytes that are no text become signs of another length.
	find(t, x, search.Query{Text: strings.Repeat("\xff", 7) + " don't"})
}
