package search

import (
	"sync/atomic"

	"github.com/RoaringBitmap/roaring/v2"
)

// view is what queries see: the segments at one moment. It is immutable and counted: files stay open until the last query
// has left them.
type view struct {
	pieces [][]*piece // by kind, the oldest first
	docs   int
	byKind []int     // documents of each kind
	most   []float64 // the highest popularity of each kind
	number uint64    // differs from every other view's

	refs atomic.Int64
}

// piece is a segment and what is deleted in it by now. It never changes.
type piece struct {
	*segment
	deleted deletions
}

// live is how many documents are not deleted.
func (p *piece) live() int {
	if p.deleted.Bitmap == nil {
		return p.docs
	}
	return p.docs - int(p.deleted.GetCardinality())
}

// without returns the piece with more documents deleted.
func (p *piece) without(docs []uint32) *piece {
	b := roaring.New()
	if p.deleted.Bitmap != nil {
		b = p.deleted.Clone()
	}
	b.AddMany(docs)
	return &piece{p.segment, deletions{b}}
}

// deletions are documents of a piece that are gone; nil is none.
type deletions struct{ *roaring.Bitmap }

func (d deletions) Contains(doc uint32) bool { return d.Bitmap != nil && d.Bitmap.Contains(doc) }

var viewNumber atomic.Uint64

func newView(pieces [][]*piece) *view {
	v := &view{byKind: make([]int, len(pieces)), most: make([]float64, len(pieces)), number: viewNumber.Add(1)}
	v.refs.Store(1)
	for k, list := range pieces {
		v.pieces = append(v.pieces, append([]*piece(nil), list...))
		for _, p := range list {
			p.acquire()
			v.byKind[k] += p.live()
			if p.docs > 0 {
				v.most[k] = max(v.most[k], popularity(p.level(0)))
			}
		}
		v.docs += v.byKind[k]
	}
	return v
}

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
	if v.refs.Add(-1) > 0 {
		return
	}
	for _, list := range v.pieces {
		for _, p := range list {
			p.release()
		}
	}
}

// locate finds a document by id.
func (v *view) locate(kind int, id string) (at found, ok bool) {
	for _, p := range v.pieces[kind] {
		if d, ok := p.lookup([]byte(id)); ok && !p.deleted.Contains(d) {
			return found{in: p, doc: d}, true
		}
	}
	return at, false
}
