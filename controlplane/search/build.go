package search

import (
	"bytes"
	"cmp"
	"slices"
)

// builder makes a segment of documents in memory: a batch of a build, or what changed.
type builder struct {
	fields [inFilter + 1]gathered
	doc    uint32
}

// gathered are the terms of one field with their documents, in the order in which they came.
type gathered struct {
	number map[string]uint32
	terms  []string
	last   []uint32 // of each term: the document that it stood in last, plus one
	pairs  []posting
}

type posting struct{ term, doc uint32 }

func (b *builder) add(field int, term string) {
	g := &b.fields[field]
	n, ok := g.number[term]
	if !ok {
		n = uint32(len(g.terms))
		g.number[term] = n
		g.terms = append(g.terms, term)
		g.last = append(g.last, 0)
	}
	if g.last[n] != b.doc+1 {
		g.last[n] = b.doc + 1
		g.pairs = append(g.pairs, posting{n, b.doc})
	}
}

// each gives the terms in order.
func (g *gathered) each(add func(term []byte, docs []uint32)) {
	start := make([]uint32, len(g.terms)+1)
	for _, p := range g.pairs {
		start[p.term+1]++
	}
	for i := range g.terms {
		start[i+1] += start[i]
	}
	docs := make([]uint32, len(g.pairs))
	at := slices.Clone(start)
	for _, p := range g.pairs {
		docs[at[p.term]] = p.doc
		at[p.term]++
	}
	order := make([]uint32, len(g.terms))
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortFunc(order, func(a, b uint32) int { return cmp.Compare(g.terms[a], g.terms[b]) })
	var term []byte
	for _, n := range order {
		term = append(term[:0], g.terms[n]...)
		add(term, docs[start[n]:start[n+1]])
	}
}

// build writes a segment of docs, all of one kind, and of ids that are gone. Of an id that comes twice the later counts.
func build(path string, docs []Doc, gone []string, durable bool) (*segment, error) {
	latest := make(map[string]int, len(docs))
	for i, d := range docs {
		latest[d.ID] = i
	}
	type ranked struct {
		doc   Doc
		level uint16
	}
	list := make([]ranked, 0, len(latest))
	for i, d := range docs {
		if latest[d.ID] == i {
			list = append(list, ranked{clean(d), level(d.Popularity)})
		}
	}
	slices.SortFunc(list, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(b.level, a.level), cmp.Compare(a.doc.ID, b.doc.ID))
	})
	w, err := createSegment(path, len(list))
	if err != nil {
		return nil, err
	}
	var b builder
	for f := range b.fields {
		b.fields[f].number = make(map[string]uint32, len(list))
		b.fields[f].pairs = make([]posting, 0, 4*len(list))
	}
	var stored, id []byte
	for i, r := range list {
		b.doc = uint32(i)
		r.doc.terms(b.add)
		stored, id = r.doc.appendStored(stored[:0]), append(id[:0], r.doc.ID...)
		w.add(id, r.level, stored)
	}
	slices.Sort(gone)
	for _, g := range slices.Compact(gone) {
		w.gone.add([]byte(g))
	}
	fields, err := makeFields(len(list), func(field int, add func(term []byte, docs []uint32)) { b.fields[field].each(add) })
	if err != nil {
		w.abandon()
		return nil, err
	}
	return w.finish(fields, durable)
}

// less is the order of documents in a segment.
func less(a *segment, docA uint32, b *segment, docB uint32) bool {
	if x, y := a.level(docA), b.level(docB); x != y {
		return x > y
	}
	return bytes.Compare(a.id(docA), b.id(docB)) < 0
}
