package search

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"segue/media"

	"github.com/RoaringBitmap/roaring/v2"
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
	parts      []span     // for highlights
	reach      int        // documents of each kind and way to match
	impossible bool       // no document can match
}

func newQuestion(q Query, kinds []string) (question, error) {
	out := question{reach: max(reach, 2*q.Limit)}
	if q.Cursor != "" {
		out.reach = furtherReach
	}
	chunks := split(short(q.Text))
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
		out.parts = append(out.parts, c.parts...)
		if c.whole.text != "" {
			out.parts = append(out.parts, c.whole)
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

// found is one document that matches.
type found struct {
	seg   *segment
	doc   uint32
	score float64
}

// match is what one unit matches in a segment: words of the name, and of anything; exactly, by their beginning, by their
// middle, nearly. Bitmaps are nil for none, and never changed.
type match struct {
	name, words, namePre, pre, nameMid, mid, nameNear, near *roaring.Bitmap
}

// search ranks what matches, by kind.
func (v *view) search(ctx context.Context, q question) (map[int][]found, error) {
	lists := map[int][]found{}
	if len(q.units) == 0 || q.impossible {
		return lists, nil
	}
	work := make([]evaluation, 0, len(v.segments))
	defer func() {
		for _, e := range work {
			e.seg.dicts.Put(e.dicts)
		}
	}()
	total := uint64(0)
	exact := false
	for _, s := range v.segments {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		e := evaluation{seg: s, dicts: s.dicts.Get().(*dicts)}
		work = append(work, e)
		w := &work[len(work)-1]
		w.first(q)
		total += w.all.GetCardinality()
		exact = exact || !w.exact.IsEmpty()
	}
	if total < fewHits && !exact {
		for i := range work {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			work[i].second(q)
		}
	}
	for i := range work {
		for _, k := range q.kinds {
			lists[k] = work[i].collect(lists[k], k, v.most[k], q.reach)
		}
	}
	for k, list := range lists {
		for i := range list {
			list[i].score = math.Round(list[i].score*1e6) / 1e6 // cursors hold it
		}
		lists[k] = list
	}
	return lists, nil
}

// evaluation is one query on one segment.
type evaluation struct {
	seg     *segment
	dicts   *dicts
	filter  *roaring.Bitmap // nil: all
	matches []match
	exact   *roaring.Bitmap // the whole name
	begins  *roaring.Bitmap // the name begins with the whole query
	all     *roaring.Bitmap // everything that matches
}

func (e *evaluation) get(field int, term string) *roaring.Bitmap {
	return e.seg.postings(e.dicts, field, term)
}

// every: documents that have all the terms.
func (e *evaluation) every(field int, terms []string) *roaring.Bitmap {
	if len(terms) == 1 {
		return e.get(field, terms[0])
	}
	var list []*roaring.Bitmap
	for _, t := range terms {
		b := e.get(field, t)
		if b.IsEmpty() {
			return none
		}
		list = append(list, b)
	}
	return intersect(list)
}

// intersect begins with the smallest.
func intersect(list []*roaring.Bitmap) *roaring.Bitmap {
	if len(list) == 0 {
		return none
	}
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b *roaring.Bitmap) int { return cmp.Compare(a.GetCardinality(), b.GetCardinality()) })
	out := list[0]
	for _, b := range list[1:] {
		if out.IsEmpty() {
			return none
		}
		out = roaring.And(out, b)
	}
	return out
}

func union(list ...*roaring.Bitmap) *roaring.Bitmap {
	n := 0
	for _, b := range list {
		if b != nil && !b.IsEmpty() {
			list[n] = b
			n++
		}
	}
	switch n {
	case 0:
		return none
	case 1:
		return list[0]
	case 2:
		return roaring.Or(list[0], list[1])
	}
	return roaring.FastOr(list[:n]...)
}

// first finds words as they are, and the last one by its beginning.
func (e *evaluation) first(q question) {
	for _, terms := range q.filters {
		var any []*roaring.Bitmap
		for _, t := range terms {
			any = append(any, e.get(inFilter, t))
		}
		b := union(any...)
		if e.filter != nil {
			b = roaring.And(e.filter, b)
		}
		e.filter = b
	}
	e.exact, e.begins = none, none
	e.matches = make([]match, len(q.units))
	var need []*roaring.Bitmap
	for i, u := range q.units {
		m := &e.matches[i]
		m.words = e.every(inWords, u.words)
		m.name = e.every(inName, u.words)
		if u.whole != "" {
			m.words, m.name = union(m.words, e.get(inWords, u.whole)), union(m.name, e.get(inName, u.whole))
		}
		if u.prefix {
			m.pre, m.namePre = e.beginnings(u)
		}
		b := union(m.words, m.pre)
		if b.IsEmpty() {
			e.all = none
			// The rest is not needed unless second is, and that looks itself.
			for j := i + 1; j < len(q.units); j++ {
				e.matches[j] = match{}
			}
			e.matches = e.matches[:i+1]
			return
		}
		need = append(need, b)
	}
	e.all = e.live(intersect(need))
	if e.all.IsEmpty() || q.exact == "" {
		return
	}
	e.exact = e.live(e.get(inExact, q.exact))
	if utf8.RuneCountInString(q.exact) <= shortPrefix {
		e.begins = e.get(inExact, shortKey+q.exact)
	} else if d, ok := e.seg.in(e.dicts, inExact); ok {
		// Too many names that begin so: that says nothing about any of them.
		if terms, ok := e.withPrefix(d, q.exact); ok {
			e.begins = e.any(inExact, terms)
		}
	}
}

// live takes what is deleted or filtered out away.
func (e *evaluation) live(b *roaring.Bitmap) *roaring.Bitmap {
	if b.IsEmpty() {
		return none
	}
	if e.seg.deleted != nil && !e.seg.deleted.IsEmpty() {
		b = roaring.AndNot(b, e.seg.deleted)
	}
	if e.filter != nil {
		b = roaring.And(b, e.filter)
	}
	return b
}

// beginnings finds what has words that begin with the unit's last one, and its other words.
func (e *evaluation) beginnings(u unit) (words, name *roaring.Bitmap) {
	last := u.words[len(u.words)-1]
	if utf8.RuneCountInString(last) <= shortPrefix {
		words, name = e.get(inPre, last), e.get(inNamePre, last)
	} else {
		words, name = none, none
		if d, ok := e.seg.in(e.dicts, inWords); ok {
			terms, _ := e.withPrefix(d, last)
			words = e.any(inWords, terms)
			name = e.any(inName, terms)
		}
	}
	if rest := u.words[:len(u.words)-1]; len(rest) > 0 {
		words, name = roaring.And(words, e.every(inWords, rest)), roaring.And(name, e.every(inName, rest))
	}
	if u.whole != "" {
		if d, ok := e.seg.in(e.dicts, inWords); ok && len(u.whole) > shortPrefix {
			terms, _ := e.withPrefix(d, u.whole)
			words, name = union(words, e.any(inWords, terms)), union(name, e.any(inName, terms))
		}
	}
	return words, name
}

// withPrefix lists terms that begin so; ok is false when there are more than maxTerms.
func (e *evaluation) withPrefix(d *dict, prefix string) (terms []string, ok bool) {
	end := []byte(prefix)
	end[len(end)-1]++ // no term holds 0xff: they are UTF-8
	ok = true
	each(d, nil, []byte(prefix), end, func(t string) bool {
		if len(terms) == maxTerms {
			ok = false
			return false
		}
		terms = append(terms, t)
		return true
	})
	return terms, ok
}

func (e *evaluation) any(field int, terms []string) *roaring.Bitmap {
	list := make([]*roaring.Bitmap, 0, len(terms))
	for _, t := range terms {
		if b := e.get(field, t); !b.IsEmpty() {
			list = append(list, b)
		}
	}
	return union(list...)
}

// second widens each word by its typos and by words that it stands in the middle of.
func (e *evaluation) second(q question) {
	var need []*roaring.Bitmap
	for len(e.matches) < len(q.units) { // first gave up
		u := q.units[len(e.matches)]
		m := match{words: e.every(inWords, u.words), name: e.every(inName, u.words)}
		if u.whole != "" {
			m.words, m.name = union(m.words, e.get(inWords, u.whole)), union(m.name, e.get(inName, u.whole))
		}
		if u.prefix {
			m.pre, m.namePre = e.beginnings(u)
		}
		e.matches = append(e.matches, m)
	}
	for i, u := range q.units {
		m := &e.matches[i]
		if u.plain {
			w := u.words[0]
			mid := middles(e.seg.ranks.lexicon, w)
			m.mid, m.nameMid = e.any(inWords, mid), e.any(inName, mid)
			if d, ok := e.seg.in(e.dicts, inWords); ok {
				near := nearly(d, w, u.prefix)
				m.near, m.nameNear = e.any(inWords, near), e.any(inName, near)
			}
		}
		b := union(m.words, m.pre, m.mid, m.near)
		if b.IsEmpty() {
			e.all = none
			return
		}
		need = append(need, b)
	}
	e.all = e.live(intersect(need))
	if !e.all.IsEmpty() && q.exact != "" {
		e.exact = e.live(e.get(inExact, q.exact))
	}
}

// middles lists words of a lexicon that hold w, which has three letters or more.
func middles(lexicon []byte, w string) (out []string) {
	if utf8.RuneCountInString(w) < 3 {
		return nil
	}
	pattern := []byte(w)
	for at := 0; len(out) < maxTerms; {
		i := bytes.Index(lexicon[at:], pattern)
		if i < 0 {
			break
		}
		at += i
		start := bytes.LastIndexByte(lexicon[:at], '\n') + 1
		end := at + bytes.IndexByte(lexicon[at:], '\n')
		out = append(out, string(lexicon[start:end]))
		at = end
	}
	return out
}

// collect adds a kind's documents: of each way to match the reach most popular ones, scored. The ways overlap, and a
// document counts once.
func (e *evaluation) collect(to []found, kind int, most float64, reach int) []found {
	if e.all == nil || e.all.IsEmpty() {
		return to
	}
	r := e.seg.ranks
	ofKind := r.ofKind[kind]
	if ofKind.IsEmpty() {
		return to
	}
	mine := roaring.And(e.all, ofKind)
	if mine.IsEmpty() {
		return to
	}
	var docs []uint32
	if mine.GetCardinality() <= uint64(reach) {
		docs = mine.ToArray()
	} else {
		docs = e.popular(docs, mine, kind, reach)
		if x := roaring.And(e.exact, mine); !x.IsEmpty() {
			docs = e.popular(docs, x, kind, reach)
		}
		// All words in the name; all of them whole.
		var name, whole []*roaring.Bitmap
		for _, m := range e.matches {
			name = append(name, union(m.name, m.namePre, m.nameMid, m.nameNear))
			whole = append(whole, m.name)
		}
		if b := roaring.And(intersect(name), mine); !b.IsEmpty() {
			docs = e.popular(docs, b, kind, reach)
		}
		if b := intersect(whole); !b.IsEmpty() {
			docs = e.popular(docs, roaring.And(b, mine), kind, reach)
		}
		slices.Sort(docs)
		docs = slices.Compact(docs)
	}
	for _, d := range docs {
		to = append(to, found{e.seg, d, e.score(d, most)})
	}
	return to
}

// popular adds the n most popular documents of b, which are all of one kind; of equals the earlier ones.
func (e *evaluation) popular(to []uint32, b *roaring.Bitmap, kind, n int) []uint32 {
	r := e.seg.ranks
	all := int(b.GetCardinality())
	if all <= n {
		return append(to, b.ToArray()...)
	}
	// Either every document of b is looked at, or those of the kind in their order until n of them were in b.
	// 4: a look into a bitmap against a step through it.
	if order := r.byRank[kind]; 4*n*len(order)/all < all {
		found := 0
		for _, d := range order {
			if b.Contains(d) {
				to = append(to, d)
				if found++; found == n {
					break
				}
			}
		}
		return to
	}
	// heap has the least of the best at its root: most documents are compared with that one only.
	heap := make([]uint64, 0, n)
	down := func(i int) {
		for {
			least := i
			for _, c := range [2]int{2*i + 1, 2*i + 2} {
				if c < len(heap) && heap[c] < heap[least] {
					least = c
				}
			}
			if least == i {
				return
			}
			heap[i], heap[least] = heap[least], heap[i]
			i = least
		}
	}
	var buf [512]uint32
	for it := b.ManyIterator(); ; {
		got := it.NextMany(buf[:])
		if got == 0 {
			break
		}
		for _, d := range buf[:got] {
			key := uint64(r.level[d])<<32 | uint64(^d)
			switch {
			case len(heap) < n:
				if heap = append(heap, key); len(heap) == n {
					for i := n/2 - 1; i >= 0; i-- {
						down(i)
					}
				}
			case key > heap[0]:
				heap[0] = key
				down(0)
			}
		}
	}
	for _, key := range heap {
		to = append(to, ^uint32(key))
	}
	return to
}

// score is the mean of how well each word matches (1 for a whole word of the name), and what the whole name and the
// popularity add: a listener who types a name means the known one of those called so, and rather a hit that begins so
// than an unknown that is called exactly so.
func (e *evaluation) score(doc uint32, most float64) float64 {
	has := func(b *roaring.Bitmap) bool { return b != nil && b.Contains(doc) }
	sum := 0.0
	for _, m := range e.matches {
		switch {
		case has(m.name):
			sum += 1
		case has(m.namePre):
			sum += 0.75
		case has(m.words):
			sum += 0.6
		case has(m.nameMid):
			sum += 0.55
		case has(m.pre):
			sum += 0.45
		case has(m.nameNear):
			sum += 0.4
		case has(m.mid):
			sum += 0.3
		default:
			sum += 0.2
		}
	}
	s := sum / float64(len(e.matches))
	if has(e.exact) {
		s += 1.05
	} else if has(e.begins) {
		s += 0.2
	}
	if most > 0 {
		s += math.Log1p(popularity(e.seg.ranks.level[doc])) / math.Log1p(most)
	}
	return s
}
