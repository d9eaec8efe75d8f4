package search

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"segue/media"
)

// Query is what a listener asks for. Text is data: no sign in it has a meaning.
type Query struct {
	Text   string
	Kinds  []string // empty: all
	Limit  int      // hits of each kind; 0: 20
	Cursor string   // Next of the list before; only with one kind

	// Filters leave out what they do not fit, and what has no such property.
	Genre            string
	Artist           string // id
	YearFrom, YearTo int    // 0: open
}

// Result has one list for each kind asked for.
type Result struct {
	Lists map[string]List
	Top   *Hit // the best hit of all kinds, only of a first page; nil: there is none

	Building bool // the index is being filled for the first time: there may be more to find
}

// List is one kind's hits, best first. Next is the cursor of the page after, "" when there is none.
type List struct {
	Hits []Hit
	Next string
}

// Hit is one thing found. Source is what its Doc had, shared by all who found it: do not write to it.
type Hit struct {
	Kind, ID   string
	Score      float64
	Source     json.RawMessage
	Highlights []Highlight
}

// Highlight says where the query's words stand in a text.
type Highlight struct {
	Field  string
	Text   string
	Ranges [][2]int // first byte and the one after the last, ascending, none overlapping
}

const (
	maxQueryWords = 12   // of a query; what comes after them is not looked at
	reach         = 100  // documents of each kind that a first page ranks: the most popular of each way to match
	furtherReach  = 1000 // and that the pages after it do: with them a list ends
	fewHits       = 3    // with fewer than this, typos and middles of words are looked for
	maxTerms      = 256  // words of a segment that one beginning, typo or middle stands for, at most
	maxYears      = 300  // of a range
)

// unit is one word of a query, or what stands between two spaces.
type unit struct {
	words  []string // all must be there
	whole  string   // or this one; "" for none
	plain  bool     // words[0] is the only one, and may be misspelt
	prefix bool     // the last word is not finished
}

// question is a Query taken apart.
type question struct {
	units      []unit
	exact      string
	kinds      []int      // index of each kind asked for
	filters    [][]string // each: any of these terms of fieldFilter
	parts      []wanted   // for highlights, each text once
	reach      int        // documents of each kind and way to match
	impossible bool       // no document can match
}

// wanted is a part of a query that is marked in what is found; loose: also where it is misspelt, or in the middle of a word.
type wanted struct {
	span
	loose bool
}

func (q *question) highlight(p span, loose bool) {
	q.parts = slices.DeleteFunc(q.parts, func(w wanted) bool { return w.text == p.text })
	q.parts = append(q.parts, wanted{p, loose})
}

func newQuestion(q Query, kinds []string) (question, error) {
	out := question{reach: max(reach, 2*q.Limit)}
	if q.Cursor != "" {
		out.reach = furtherReach
	}
	q.Text = short(q.Text)
	chunks := split(q.Text)
	if len(chunks) > maxQueryWords {
		chunks = chunks[:maxQueryWords]
	}
	out.exact = exactKey(chunks)
	for i, c := range chunks {
		u := unit{whole: c.whole.text}
		last := i == len(chunks)-1
		var plains int
		for j, p := range c.parts {
			// Of signs without spaces between them, pairs say it all when there are any.
			if p.kind == gram && utf8.RuneCountInString(p.text) == 1 && (j > 0 && c.parts[j-1].kind == gram || j+1 < len(c.parts) && c.parts[j+1].kind == gram) {
				continue
			}
			if len(u.words) < maxQueryWords {
				u.words = append(u.words, p.text)
			}
			if p.kind == plain {
				plains++
			}
			u.prefix = last && p.kind == plain
		}
		if apostrophe := c.whole.text != "" && strings.ContainsFunc(q.Text[c.whole.start:c.whole.end], isApostrophe); apostrophe {
			u.words, u.whole, plains, u.prefix = []string{c.whole.text}, "", 1, last
		}
		u.plain = plains == 1 && len(u.words) == 1
		out.units = append(out.units, u)
		for _, p := range c.parts {
			out.highlight(p, u.plain)
		}
		if c.whole.text != "" {
			out.highlight(c.whole, u.plain)
		}
	}
	asked := q.Kinds
	if len(asked) == 0 {
		asked = kinds
	}
	for _, k := range asked {
		i := slices.Index(kinds, k)
		if i < 0 {
			return out, fmt.Errorf("type %q is none of %s: %w", k, strings.Join(kinds, ", "), media.ErrInvalid)
		}
		if !slices.Contains(out.kinds, i) {
			out.kinds = append(out.kinds, i)
		}
	}
	if q.Genre != "" {
		out.filters = append(out.filters, []string{genreTerm(q.Genre)})
	}
	if q.Artist != "" {
		out.filters = append(out.filters, []string{artistTerm(q.Artist)})
	}
	if q.YearFrom != 0 || q.YearTo != 0 {
		from, to := max(q.YearFrom, 1), q.YearTo
		if to == 0 {
			to = 9999
		}
		from = max(from, min(to, 2100)-maxYears) // no recording is older
		var years []string
		for y := from; y <= to && len(years) <= maxYears; y++ {
			years = append(years, yearTerm(y))
		}
		out.filters = append(out.filters, years)
		out.impossible = len(years) == 0
	}
	return out, nil
}
