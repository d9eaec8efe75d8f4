package search

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"segue/media"

	"github.com/RoaringBitmap/roaring/v2"
)

// fieldWriter makes a field of its terms in ascending order.
type fieldWriter struct {
	dict
	docs uint32 // of the segment: no list is longer
	bits []uint64
}

func (w *fieldWriter) add(term []byte, docs []uint32) {
	w.strs.add(term)
	w.lists = appendList(w.lists, docs)
	w.at = binary.LittleEndian.AppendUint32(w.at, uint32(len(w.lists)))
}

// appendList writes ascending numbers; see dict.docs.
func appendList(to []byte, docs []uint32) []byte {
	if len(docs) <= few {
		to = append(to, byte(len(docs)))
		last := uint32(0)
		for _, d := range docs {
			to = binary.AppendUvarint(to, uint64(d-last))
			last = d
		}
		return to
	}
	b := roaring.New()
	b.AddMany(docs)
	b.RunOptimize()
	out, err := b.ToBytes()
	if err != nil {
		panic("bug: " + err.Error())
	}
	return append(append(to, few+1), out...)
}

// unique sorts what came from several lists. Many are sorted by setting their bits.
func (w *fieldWriter) unique(docs []uint32) []uint32 {
	if uint32(len(docs)) < w.docs/32 || len(docs) < 64 {
		slices.Sort(docs)
		return slices.Compact(docs)
	}
	if w.bits == nil {
		w.bits = make([]uint64, w.docs/64+1)
	}
	for _, d := range docs {
		w.bits[d/64] |= 1 << (d % 64)
	}
	docs = docs[:0]
	for i, word := range w.bits {
		for ; word != 0; word &= word - 1 {
			docs = append(docs, uint32(i)*64+uint32(bits.TrailingZeros64(word)))
		}
		w.bits[i] = 0
	}
	return docs
}

// beginnings makes the field of short beginnings that belongs to a field whose terms come by in order.
type beginnings struct {
	fieldWriter
	words bool // not of whole names
	open  [shortPrefix]struct {
		term []byte
		docs []uint32
	}
	done []begun
}

type begun struct {
	term string
	list []byte
}

// term notes the next term and its documents.
func (p *beginnings) term(term []byte, docs []uint32) {
	if r, _ := utf8.DecodeRune(term); p.words && isDense(r) {
		return // its signs are terms themselves
	}
	n := 0
	for at := 0; n < shortPrefix && at < len(term); n++ {
		_, size := utf8.DecodeRune(term[at:])
		at += size
		if o := &p.open[n]; string(o.term) != string(term[:at]) {
			p.close(n)
			o.term = append(o.term[:0], term[:at]...)
		}
	}
	if n > 0 {
		p.close(n) // what is longer than a term this short is another's
		o := &p.open[n-1]
		o.docs = append(o.docs, docs...)
	}
}

// close ends the beginnings of more than n signs; each goes into the next shorter one.
func (p *beginnings) close(n int) {
	for i := shortPrefix - 1; i >= n; i-- {
		o := &p.open[i]
		if len(o.term) == 0 {
			continue
		}
		docs := p.unique(o.docs)
		p.done = append(p.done, begun{string(o.term), appendList(nil, docs)})
		if i > 0 {
			p.open[i-1].docs = append(p.open[i-1].docs, docs...)
		}
		o.term, o.docs = o.term[:0], docs[:0]
	}
}

func (p *beginnings) finish() dict {
	p.close(0)
	slices.SortFunc(p.done, func(a, b begun) int { return strings.Compare(a.term, b.term) })
	for _, b := range p.done {
		p.strs.add([]byte(b.term))
		p.lists = append(p.lists, b.list...)
		p.at = binary.LittleEndian.AppendUint32(p.at, uint32(len(p.lists)))
	}
	return p.dict
}

// middlesOf makes inMiddle of the words.
func middlesOf(words *dict) dict {
	var pairs []uint64 // three bytes, number of the word
	for i := range words.len() {
		w := words.strs.at(i)
		if r, _ := utf8.DecodeRune(w); len(w) <= 3 || isDense(r) {
			continue
		}
		for j := 0; j+3 <= len(w); j++ {
			pairs = append(pairs, uint64(w[j])<<48|uint64(w[j+1])<<40|uint64(w[j+2])<<32|uint64(i))
		}
	}
	slices.Sort(pairs)
	pairs = slices.Compact(pairs)
	var out fieldWriter
	var list []uint32
	for i := 0; i < len(pairs); {
		key := pairs[i] >> 32
		for list = list[:0]; i < len(pairs) && pairs[i]>>32 == key; i++ {
			list = append(list, uint32(pairs[i]))
		}
		out.add([]byte{byte(key >> 16), byte(key >> 8), byte(key)}, list)
	}
	return out.dict
}

// makeFields makes all fields of a segment from the first four, whose terms each gives in ascending order; it is called
// for several fields at once.
func makeFields(docs int, each func(field int, add func(term []byte, docs []uint32))) (*[inFields]dict, error) {
	var out [inFields]dict
	var wg sync.WaitGroup
	errs := make([]error, inFilter+1)
	for f := inExact; f <= inFilter; f++ {
		wg.Go(func() {
			defer func() {
				if v := recover(); v != nil { // what damaged files do to their readers
					errs[f] = fmt.Errorf("search index: field %d: %w: %v", f, media.ErrCorrupt, v)
				}
			}()
			w := fieldWriter{docs: uint32(docs)}
			short := beginnings{fieldWriter: fieldWriter{docs: uint32(docs)}, words: f != inExact}
			each(f, func(term []byte, docs []uint32) {
				if w.add(term, docs); f != inFilter {
					short.term(term, docs)
				}
			})
			out[f] = w.dict
			switch f {
			case inExact:
				out[inBegins] = short.finish()
			case inName:
				out[inNamePre] = short.finish()
			case inWords:
				out[inPre], out[inMiddle] = short.finish(), middlesOf(&out[f])
			}
		})
	}
	wg.Wait()
	return &out, errors.Join(errs...)
}
