package search

import (
	"bytes"
	"cmp"
	"context"
	"math"
	"slices"
	"unicode/utf8"

	"github.com/RoaringBitmap/roaring/v2"
)

// found is one document that matches.
type found struct {
	in    *piece
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
	work := map[int][]*evaluation{}
	total, exact := uint64(0), false
	for _, k := range q.kinds {
		for _, p := range v.pieces[k] {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			e := &evaluation{piece: p}
			work[k] = append(work[k], e)
			e.first(q)
			total += e.all.GetCardinality()
			exact = exact || !e.exact.IsEmpty()
		}
	}
	again := total < fewHits && !exact
	for _, k := range q.kinds {
		for _, e := range work[k] {
			if again {
				if err := ctx.Err(); err != nil {
					return nil, err
				}
				e.second(q)
			}
			lists[k] = e.collect(lists[k], v.most[k], q.reach)
		}
		for i := range lists[k] {
			lists[k][i].score = math.Round(lists[k][i].score*1e6) / 1e6 // cursors hold it
		}
	}
	return lists, nil
}

// evaluation is one query on one segment.
type evaluation struct {
	*piece
	filter  *roaring.Bitmap // nil: all
	matches []match
	exact   *roaring.Bitmap // the whole name
	begins  *roaring.Bitmap // the name begins with the whole query
	all     *roaring.Bitmap // everything that matches
}

var none = roaring.New()

// get returns the documents of a term, deleted ones included. Never change them.
func (e *evaluation) get(field int, term string) *roaring.Bitmap {
	d := &e.fields[field]
	if i, ok := d.find(term); ok {
		return d.docs(i)
	}
	return none
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
		b := m.words
		if u.prefix {
			b = m.pre // which has the whole words too
		}
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
		e.begins = e.get(inBegins, q.exact)
	} else if first, end := e.fields[inExact].prefix(q.exact); end-first <= maxTerms {
		// More names that begin so say nothing about any of them.
		e.begins = e.span(inExact, first, end)
	}
}

// live takes what is deleted or filtered out away.
func (e *evaluation) live(b *roaring.Bitmap) *roaring.Bitmap {
	if b.IsEmpty() {
		return none
	}
	if e.deleted.Bitmap != nil {
		b = roaring.AndNot(b, e.deleted.Bitmap)
	}
	if e.filter != nil {
		b = roaring.And(b, e.filter)
	}
	return b
}

// beginnings finds what has words that begin with the unit's last one, and its other words.
func (e *evaluation) beginnings(u unit) (words, name *roaring.Bitmap) {
	last := u.words[len(u.words)-1]
	words, name = e.begin(last)
	if rest := u.words[:len(u.words)-1]; len(rest) > 0 {
		words, name = roaring.And(words, e.every(inWords, rest)), roaring.And(name, e.every(inName, rest))
	}
	if u.whole != "" {
		w, n := e.begin(u.whole)
		words, name = union(words, w), union(name, n)
	}
	return words, name
}

// begin finds what has words that begin so: all of them, or in the name.
func (e *evaluation) begin(word string) (words, name *roaring.Bitmap) {
	if utf8.RuneCountInString(word) <= shortPrefix {
		return e.get(inPre, word), e.get(inNamePre, word)
	}
	first, end := e.fields[inWords].prefix(word)
	words = e.span(inWords, first, min(end, first+maxTerms))
	first, end = e.fields[inName].prefix(word)
	return words, e.span(inName, first, min(end, first+maxTerms))
}

// span is what has any of some terms.
func (e *evaluation) span(field, first, end int) *roaring.Bitmap {
	list := make([]*roaring.Bitmap, 0, end-first)
	for i := first; i < end; i++ {
		list = append(list, e.fields[field].docs(i))
	}
	return union(list...)
}

// any is what has any of some words of inWords: all of it, or with the word in the name. within, if not nil, is all that
// matters: with a small one a list costs a look, however long it is.
func (e *evaluation) any(terms []int, within *roaring.Bitmap) (words, name *roaring.Bitmap) {
	var all, named []*roaring.Bitmap
	take := func(to []*roaring.Bitmap, b *roaring.Bitmap) []*roaring.Bitmap {
		if within != nil {
			b = roaring.And(b, within)
		}
		if b.IsEmpty() {
			return to
		}
		return append(to, b)
	}
	for _, t := range terms {
		before := len(all)
		if all = take(all, e.fields[inWords].docs(t)); len(all) > before {
			named = take(named, e.get(inName, string(e.fields[inWords].strs.at(t))))
		}
	}
	return union(all...), union(named...)
}

// second widens each word by its typos and by words that it stands in the middle of.
func (e *evaluation) second(q question) {
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
	// What cannot be widened first, then long words, which have few neighbours: the others look no further than there.
	order := make([]int, len(q.units))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		weight := func(u unit) int {
			if !u.plain {
				return math.MaxInt
			}
			return len(u.words[0])
		}
		return cmp.Compare(weight(q.units[b]), weight(q.units[a]))
	})
	e.all = none
	within := e.filter
	for _, i := range order {
		u, m := q.units[i], &e.matches[i]
		if u.plain {
			m.mid, m.nameMid = e.any(middle(&e.fields[inWords], &e.fields[inMiddle], u.words[0]), within)
			m.near, m.nameNear = e.any(nearly(&e.fields[inWords], u.words[0], u.prefix), within)
		}
		b := union(m.words, m.pre, m.mid, m.near)
		if within != nil {
			b = roaring.And(b, within)
		}
		if within = b; b.IsEmpty() {
			return
		}
	}
	e.all = e.live(within)
	if !e.all.IsEmpty() && q.exact != "" {
		e.exact = e.live(e.get(inExact, q.exact))
	}
}

// middle lists words that hold w, which has three letters or more.
func middle(words, middles *dict, w string) (out []int) {
	if utf8.RuneCountInString(w) < 3 {
		return nil
	}
	// Its rarest three bytes are looked up.
	var rarest *roaring.Bitmap
	for i := 0; i+3 <= len(w); i++ {
		n, ok := middles.find(w[i : i+3])
		if !ok {
			return nil
		}
		if b := middles.docs(n); rarest == nil || b.GetCardinality() < rarest.GetCardinality() {
			rarest = b
		}
	}
	pattern := []byte(w)
	for it := rarest.Iterator(); it.HasNext() && len(out) < maxTerms; {
		if t := int(it.Next()); bytes.Contains(words.strs.at(t), pattern) {
			out = append(out, t)
		}
	}
	return out
}

// collect adds documents: of each way to match the reach most popular ones, scored. The ways overlap, and a document
// counts once.
func (e *evaluation) collect(to []found, most float64, reach int) []found {
	if e.all.IsEmpty() {
		return to
	}
	var docs []uint32
	if e.all.GetCardinality() <= uint64(reach) {
		docs = e.all.ToArray()
	} else {
		docs = popular(docs, e.all, reach)
		docs = popular(docs, e.exact, reach)
		// All words in the name; all of them whole.
		var name, whole []*roaring.Bitmap
		for _, m := range e.matches {
			named := m.name
			if m.namePre != nil {
				named = m.namePre
			}
			name = append(name, union(named, m.nameMid, m.nameNear))
			whole = append(whole, m.name)
		}
		docs = popular(docs, e.live(intersect(name)), reach)
		docs = popular(docs, e.live(intersect(whole)), reach)
		slices.Sort(docs)
		docs = slices.Compact(docs)
	}
	for _, d := range docs {
		to = append(to, found{e.piece, d, e.score(d, most)})
	}
	return to
}

// popular adds the n most popular documents of b, which are its first.
func popular(to []uint32, b *roaring.Bitmap, n int) []uint32 {
	from := len(to)
	to = slices.Grow(to, n)
	it := b.ManyIterator()
	for end := from + n; len(to) < end; {
		got := it.NextMany(to[len(to):end])
		if got == 0 {
			break
		}
		to = to[:len(to)+got]
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
		s += math.Log1p(popularity(e.level(doc))) / math.Log1p(most)
	}
	return s
}
