package search

import (
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	segapi "github.com/blevesearch/scorch_segment_api/v2"
	"github.com/blevesearch/vellum/levenshtein"
)

// builders of automata for one and two typos; letters swapped are one.
var builders = sync.OnceValue(func() (b [3]*levenshtein.LevenshteinAutomatonBuilder) {
	for n := 1; n <= 2; n++ {
		var err error
		if b[n], err = levenshtein.NewLevenshteinAutomatonBuilder(uint8(n), true); err != nil {
			panic("bug: " + err.Error())
		}
	}
	return b
})

// typos is how many a word of so many letters may have. In the first letter only short words may: nobody misses that of
// a long one twice.
func typos(letters int) int {
	switch {
	case letters < 4:
		return 0
	case letters < 8:
		return 1
	}
	return 2
}

// nearly lists words of a dictionary that are w with a typo or two; of unfinished words also those that begin so.
func nearly(d segapi.TermDictionary, w string, prefix bool) []string {
	letters := utf8.RuneCountInString(w)
	var out []string
	for n := 1; n <= typos(letters) && len(out) == 0; n++ {
		dfa, err := builders()[n].BuildDfa(w, uint8(n))
		if err != nil {
			return nil // a word of more states than an automaton has: it has no neighbours
		}
		var start, end []byte
		if n == 2 {
			start, end = firstLetter(w)
		}
		var a segapi.Automaton = dfa
		if prefix && letters >= 5 {
			a = beginning{dfa}
		}
		each(d, a, start, end, func(t string) bool {
			out = append(out, t)
			return len(out) < 4*maxTerms
		})
	}
	if len(out) > maxTerms {
		// Those of about the same length are meant.
		slices.SortStableFunc(out, func(a, b string) int { return distance(len(a), len(w)) - distance(len(b), len(w)) })
		out = out[:maxTerms]
	}
	return out
}

func distance(a, b int) int { return max(a-b, b-a) }

func firstLetter(w string) (start, end []byte) {
	_, n := utf8.DecodeRuneInString(w)
	start, end = []byte(w[:n]), []byte(strings.Clone(w[:n]))
	end[n-1]++
	return start, end
}

// beginning takes every word with a beginning that the automaton takes.
type beginning struct{ segapi.Automaton }

const behind = 1 << 30

func (b beginning) Accept(state int, c byte) int {
	if state == behind {
		return behind
	}
	next := b.Automaton.Accept(state, c)
	if b.Automaton.IsMatch(next) {
		return behind
	}
	return next
}
func (b beginning) IsMatch(state int) bool         { return state == behind || b.Automaton.IsMatch(state) }
func (b beginning) CanMatch(state int) bool        { return state == behind || b.Automaton.CanMatch(state) }
func (b beginning) WillAlwaysMatch(state int) bool { return state == behind }
