package search

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/blevesearch/bleve/v2/index/scorch"
	segapi "github.com/blevesearch/scorch_segment_api/v2"
)

// view is what queries see: the segments of all shards at one moment. It is immutable and counted: the files that it
// reads stay until the last query has left it.
type view struct {
	snapshots []*scorch.IndexSnapshot
	segments  []*segment
	docs      int
	byKind    []int     // documents of each kind; may count deleted ones that are not merged away yet
	most      []float64 // the highest popularity of each kind
	number    uint64    // differs from every other view's

	refs atomic.Int64
}

var viewNumber atomic.Uint64

func (v *view) acquire() bool {
	for {
		n := v.refs.Load()
		if n <= 0 {
			return false
		}
		if v.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (v *view) release() {
	if v.refs.Add(-1) == 0 {
		for _, s := range v.snapshots {
			_ = s.Close() // counts down; what fails with it is a file that is not closed
		}
	}
}

func (v *view) finish(kinds, docs int) {
	v.docs, v.number = docs, viewNumber.Add(1)
	v.byKind, v.most = make([]int, kinds), make([]float64, kinds)
	// The largest first: it most often holds enough, and its order is the most telling.
	slices.SortStableFunc(v.segments, func(a, b *segment) int { return b.ranks.docs - a.ranks.docs })
	for _, s := range v.segments {
		for k, list := range s.ranks.byRank {
			v.byKind[k] += len(list)
			if len(list) > 0 {
				v.most[k] = max(v.most[k], popularity(s.ranks.level[list[0]]))
			}
		}
		if s.deleted != nil {
			for k, b := range s.ranks.ofKind {
				v.byKind[k] -= int(b.AndCardinality(s.deleted))
			}
		}
	}
}

// segment is one scorch segment with what is kept in memory about it.
type segment struct {
	base    segapi.Segment
	deleted *roaring.Bitmap // nil: none
	ranks   *ranks
	dicts   *sync.Pool // of *dicts
}

// dicts are the dictionaries of one query: they have state, so that two queries may not share them.
type dicts [len(fieldNames)]dict

type dict struct {
	segapi.TermDictionary
}

var fieldNames = [...]string{fieldExact, fieldName, fieldWords, fieldNamePre, fieldPre, fieldFilter}

const (
	inExact = iota
	inName
	inWords
	inNamePre
	inPre
	inFilter
)

func newSegment(s *scorch.SegmentSnapshot, r *ranks) *segment {
	return &segment{s.Segment(), s.Deleted(), r, &sync.Pool{New: func() any { return new(dicts) }}}
}

// ranks is the order of a segment's documents, 7 bytes each, and its words.
type ranks struct {
	docs    int
	kind    []uint8
	level   []uint16
	byRank  [][]uint32        // by kind: documents, the most popular first
	ofKind  []*roaring.Bitmap // by kind
	lexicon []byte            // words of fieldWords that have a middle, each between two line feeds
}

// newRanks reads them from the postings of fieldRank, whose terms are in the order that is wanted.
func newRanks(s segapi.Segment, kinds int) (*ranks, error) {
	n := int(s.Count())
	r := &ranks{docs: n, kind: make([]uint8, n), level: make([]uint16, n), byRank: make([][]uint32, kinds), ofKind: make([]*roaring.Bitmap, kinds)}
	for k := range r.ofKind {
		r.ofKind[k] = roaring.New()
	}
	d, err := s.Dictionary(fieldRank)
	if err != nil {
		return nil, err
	}
	terms := all(d, nil, nil)
	var list segapi.PostingsList
	for i := len(terms) - 1; i >= 0; i-- {
		t := terms[i]
		if len(t) != 3 || int(t[0]) >= kinds {
			continue
		}
		if list, err = d.PostingsList([]byte(t), nil, list); err != nil {
			return nil, err
		}
		b := bitmap(list)
		level := binary.BigEndian.Uint16([]byte(t[1:]))
		k := t[0]
		for it := b.ManyIterator(); ; {
			var buf [256]uint32
			got := it.NextMany(buf[:])
			if got == 0 {
				break
			}
			for _, doc := range buf[:got] {
				r.kind[doc], r.level[doc] = k, level
			}
			r.byRank[k] = append(r.byRank[k], buf[:got]...)
			r.ofKind[k].AddMany(buf[:got])
		}
	}
	for k := range r.ofKind {
		r.byRank[k] = slices.Clip(r.byRank[k])
		r.ofKind[k].RunOptimize()
	}
	if d, err = s.Dictionary(fieldWords); err != nil {
		return nil, err
	}
	lexicon := []byte{'\n'}
	for _, t := range all(d, nil, nil) {
		first, _ := utf8.DecodeRuneInString(t)
		if len(t) > 3 && !isDense(first) {
			lexicon = append(append(lexicon, t...), '\n')
		}
	}
	r.lexicon = bytes.Clone(lexicon)
	return r, nil
}

// omitting is a dictionary that lists its terms without reading their postings.
type omitting interface {
	AutomatonIteratorOmitCount(a segapi.Automaton, start, end []byte) segapi.DictionaryIterator
}

// each calls f with the terms that a takes (nil: all) in [start, end), until it returns false.
func each(d segapi.TermDictionary, a segapi.Automaton, start, end []byte, f func(term string) bool) {
	var it segapi.DictionaryIterator
	if o, ok := d.(omitting); ok {
		it = o.AutomatonIteratorOmitCount(a, start, end)
	} else {
		it = d.AutomatonIterator(a, start, end)
	}
	for {
		e, err := it.Next()
		if err != nil || e == nil || !f(e.Term) {
			return
		}
	}
}

func all(d segapi.TermDictionary, start, end []byte) (out []string) {
	each(d, nil, start, end, func(t string) bool { out = append(out, t); return true })
	return out
}

// bitmap returns a list's documents. It may be a view of the file: never change it.
func bitmap(list segapi.PostingsList) *roaring.Bitmap {
	it, ok := list.Iterator(false, false, false, nil).(segapi.OptimizablePostingsIterator)
	if !ok {
		return none
	}
	if doc, ok := it.DocNum1Hit(); ok {
		return roaring.BitmapOf(uint32(doc))
	}
	if b := it.ActualBitmap(); b != nil {
		return b
	}
	return none
}

var none = roaring.New()

// in returns the dictionary of a field; ok is false when the segment has no such field.
func (s *segment) in(d *dicts, field int) (*dict, bool) {
	if d[field].TermDictionary == nil {
		td, err := s.base.Dictionary(fieldNames[field])
		if err != nil || td == nil {
			return nil, false
		}
		d[field].TermDictionary = td
	}
	return &d[field], true
}

// postings are the documents of a term, deleted ones included. Never change them.
func (s *segment) postings(d *dicts, field int, term string) *roaring.Bitmap {
	t, ok := s.in(d, field)
	if !ok {
		return none
	}
	list, err := t.PostingsList([]byte(term), nil, nil)
	if err != nil {
		return none
	}
	return bitmap(list)
}
