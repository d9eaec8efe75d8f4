package search

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"

	"segue/media"
)

// nowhere is a document that a merge left out.
const nowhere = ^uint32(0)

// mergeSegments makes one segment of several of one kind, the oldest first, without what is deleted in them; of an id in
// several the newest counts. oldest: there is no older segment that their gone ids are about. to tells where each
// document went. Since all are in one order, the documents of each are merged and never sorted.
func mergeSegments(ctx context.Context, path string, in []*piece, oldest, durable bool) (_ *segment, to [][]uint32, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("search index: merge: %w: %v", media.ErrCorrupt, v)
		}
	}()
	docs, to, err := alive(in)
	if err != nil {
		return nil, nil, err
	}
	w, err := createSegment(path, docs)
	if err != nil {
		return nil, nil, err
	}
	done := false
	defer func() {
		if !done {
			w.abandon()
		}
	}()
	if err := w.copy(ctx, in, to); err != nil {
		return nil, nil, err
	}
	if !oldest {
		var gone []string
		for i, p := range in {
			for j := range p.gone.len() {
				id := p.gone.at(j)
				if !slices.ContainsFunc(in[i+1:], func(n *piece) bool { _, ok := n.lookup(id); return ok }) {
					gone = append(gone, string(id))
				}
			}
		}
		slices.Sort(gone)
		for _, g := range slices.Compact(gone) {
			w.gone.add([]byte(g))
		}
	}
	fields, err := makeFields(docs, func(field int, add func(term []byte, docs []uint32)) { mergeField(ctx, in, to, field, add) })
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, nil, err
	}
	done = true
	s, err := w.finish(fields, durable)
	return s, to, err
}

// alive counts the documents that stay; to has 0 for them, and nowhere for the others.
func alive(in []*piece) (docs int, to [][]uint32, err error) {
	all := 0
	for _, p := range in {
		all += p.docs
	}
	slots := 1
	for slots < 2*all {
		slots *= 2
	}
	type place struct{ piece, doc uint32 } // the piece plus one; 0: free
	seen := make([]place, slots)
	to = make([][]uint32, len(in))
	for i := len(in) - 1; i >= 0; i-- {
		p := in[i]
		to[i] = make([]uint32, p.docs)
	next:
		for d := range uint32(p.docs) {
			if p.deleted.Contains(d) {
				to[i][d] = nowhere
				continue
			}
			id := p.id(d)
			at := hashID(id) & uint32(slots-1)
			for ; seen[at].piece != 0; at = (at + 1) & uint32(slots-1) {
				if other := in[seen[at].piece-1]; string(other.id(seen[at].doc)) == string(id) {
					to[i][d] = nowhere
					continue next
				}
			}
			seen[at] = place{uint32(i) + 1, d}
			docs++
		}
	}
	return docs, to, nil
}

// copy writes the stored documents in their new order and notes it.
func (w *segmentWriter) copy(ctx context.Context, in []*piece, to [][]uint32) error {
	next, readers := make([]uint32, len(in)), make([]*bufio.Reader, len(in))
	var live []int
	// skip goes to the next document of a piece that stays.
	skip := func(i int) (bool, error) {
		p := in[i]
		for ; int(next[i]) < p.docs; next[i]++ {
			if to[i][next[i]] != nowhere {
				return true, nil
			}
			if _, err := readers[i].Discard(p.size(next[i])); err != nil {
				return false, err
			}
		}
		return false, nil
	}
	for i, p := range in {
		end := int64(0)
		if p.docs > 0 {
			end = int64(p.stored.at(p.docs - 1))
		}
		readers[i] = bufio.NewReaderSize(io.NewSectionReader(p.file, 0, end), 128<<10)
		more, err := skip(i)
		if err != nil {
			return fmt.Errorf("search index: %w", err)
		}
		if more {
			live = append(live, i)
		}
	}
	var stored []byte
	var failed error
	inOrder(live, func(a, b int) bool { return less(in[a].segment, next[a], in[b].segment, next[b]) }, func(i int) bool {
		p, d := in[i], next[i]
		to[i][d] = uint32(w.docs)
		if n := p.size(d); cap(stored) < n {
			stored = make([]byte, n, 2*n)
		} else {
			stored = stored[:n]
		}
		if _, failed = io.ReadFull(readers[i], stored); failed != nil {
			return false
		}
		w.add(p.id(d), p.level(d), stored)
		if w.docs%10_000 == 0 && ctx.Err() != nil {
			failed = ctx.Err()
		}
		next[i]++
		more := false
		if failed == nil {
			more, failed = skip(i)
		}
		return more && failed == nil
	})
	if failed != nil {
		return fmt.Errorf("search index: merge: %w", failed)
	}
	return nil
}

// size is that of a stored document.
func (s *segment) size(doc uint32) int {
	if doc == 0 {
		return int(s.stored.at(0))
	}
	return int(s.stored.at(int(doc)) - s.stored.at(int(doc)-1))
}

// inOrder goes through several lists at once: it calls take for the one whose next is the least, until none is left.
// take returns false at a list's end.
func inOrder(heap []int, less func(a, b int) bool, take func(i int) bool) {
	down := func(i int) {
		for {
			least := i
			for _, c := range [2]int{2*i + 1, 2*i + 2} {
				if c < len(heap) && less(heap[c], heap[least]) {
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
	for i := len(heap)/2 - 1; i >= 0; i-- {
		down(i)
	}
	for len(heap) > 0 {
		if !take(heap[0]) {
			heap[0] = heap[len(heap)-1]
			heap = heap[:len(heap)-1]
		}
		down(0)
	}
}

// mergeField gives the terms of all pieces in order, with the documents where they are now.
func mergeField(ctx context.Context, in []*piece, to [][]uint32, field int, add func(term []byte, docs []uint32)) {
	next, terms := make([]int, len(in)), make([][]byte, len(in))
	var live []int
	most := 0
	for i, p := range in {
		if d := &p.fields[field]; d.len() > 0 {
			terms[i] = d.strs.at(0)
			live = append(live, i)
		}
		most += p.docs
	}
	sorter := fieldWriter{docs: uint32(most)}
	var term []byte
	var list, part []uint32
	from, given := 0, 0
	give := func() {
		if from > 1 {
			list = sorter.unique(list)
		}
		if len(list) > 0 {
			add(term, list)
		}
		list, from = list[:0], 0
		given++
	}
	inOrder(live, func(a, b int) bool { return bytes.Compare(terms[a], terms[b]) < 0 }, func(i int) bool {
		if !bytes.Equal(term, terms[i]) {
			if term != nil {
				give()
			}
			term = append(term[:0], terms[i]...)
		}
		d := &in[i].fields[field]
		part = d.appendDocs(part[:0], next[i])
		for _, doc := range part {
			if now := to[i][doc]; now != nowhere {
				list = append(list, now)
			}
		}
		from++
		if next[i]++; next[i] == d.len() || given%4096 == 0 && ctx.Err() != nil {
			return false
		}
		terms[i] = d.strs.at(next[i])
		return true
	})
	if term != nil {
		give()
	}
}
