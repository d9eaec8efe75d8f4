package search

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"segue/media"
)

// Report is what Verify found.
type Report struct {
	Tables      map[string]int64 // documents by kind, in the sources
	Index       map[string]int64 // and in the index
	Missing     int64            // are in the sources only
	Extra       int64            // are in the index only
	Stale       int64            // are in both, with different content
	Mended      int64
	Differences []Difference // the first maxDifferences of them
}

// Difference is one document that is not as its source has it.
type Difference struct{ Kind, ID, What string } // missing, extra, stale

const maxDifferences = 100

// Verify compares the index with the sources, document by document. Changes that come meanwhile are no differences:
// what seems to differ is looked at again at the end.
func (x *Index) Verify(ctx context.Context) (Report, error) { return x.compare(ctx, false) }

// Mend is Verify, and brings what differs up to date.
func (x *Index) Mend(ctx context.Context) (Report, error) { return x.compare(ctx, true) }

// StartCheck asks Run for a Verify, or a Mend; Status tells how it goes.
func (x *Index) StartCheck(mend bool) (Status, error) {
	x.mu.Lock()
	running := x.status.Check.Running
	if !running {
		x.status.Check = Check{Running: true, Mend: mend, StartedAt: time.Now()}
	}
	x.mu.Unlock()
	if running {
		return Status{}, fmt.Errorf("search index is being compared already: %w", media.ErrBusy)
	}
	x.checked.Store(0)
	x.checks <- mend // has room for the one that may run
	return x.Status(), nil
}

func (x *Index) check(ctx context.Context, mend bool) {
	r, err := x.compare(ctx, mend)
	x.set(func(s *Status) {
		s.Check.Running, s.Check.EndedAt, s.Check.Report = false, time.Now(), r
		if err != nil {
			s.Check.Error = err.Error()
		}
	})
}

// entryAt is where a document stands in a view.
type entryAt struct {
	segment int
	doc     uint32
}

// locate finds documents of a view by key.
func (v *view) locate(keys []string) (map[string]entryAt, error) {
	out := make(map[string]entryAt, len(keys))
	for i, s := range v.segments {
		docs, err := s.base.DocNumbers(keys)
		if err != nil {
			return nil, err
		}
		if s.deleted != nil {
			docs.AndNot(s.deleted)
		}
		for it := docs.Iterator(); it.HasNext(); {
			doc := it.Next()
			id, err := s.base.DocID(uint64(doc))
			if err != nil {
				return nil, err
			}
			out[string(id)] = entryAt{i, doc}
		}
	}
	return out, nil
}

func (v *view) hash(at entryAt) (h uint64, err error) {
	verr := v.segments[at.segment].base.VisitStoredFields(uint64(at.doc), func(field string, _ byte, value []byte, _ []uint64) bool {
		if field == fieldStored {
			_, h, err = readStored(value)
			return false
		}
		return true
	})
	if verr != nil {
		err = verr
	}
	return h, err
}

func (x *Index) compare(ctx context.Context, mend bool) (Report, error) {
	out := Report{Tables: map[string]int64{}, Index: map[string]int64{}}
	x.swap.RLock()
	v := x.current.Load().acquire()
	x.swap.RUnlock()
	if v == nil {
		return out, fmt.Errorf("search index is closed: %w", media.ErrBusy)
	}
	defer v.release()
	x.checked.Store(0)
	x.set(func(s *Status) { s.Check.Total = int64(v.docs) })
	seen := make([]*roaring.Bitmap, len(v.segments))
	for i := range seen {
		seen[i] = roaring.New()
	}
	for k, s := range x.cfg.Sources {
		var suspects []string
		var docs []Doc
		flush := func() error {
			keys := make([]string, len(docs))
			for i, d := range docs {
				keys[i] = key(s.Kind, d.ID)
			}
			found, err := v.locate(keys)
			if err != nil {
				return fmt.Errorf("search index: %w: %w", media.ErrCorrupt, err)
			}
			for i, d := range docs {
				at, ok := found[keys[i]]
				if ok {
					seen[at.segment].Add(at.doc)
					h, err := v.hash(at)
					ok = err == nil && h == clean(d).hash()
				}
				if !ok {
					suspects = append(suspects, d.ID)
				}
			}
			out.Tables[s.Kind] += int64(len(docs))
			x.checked.Add(int64(len(docs)))
			docs = docs[:0]
			return nil
		}
		err := s.Each(ctx, func(d Doc) error {
			d.Kind = s.Kind
			if docs = append(docs, d); len(docs) < 500 {
				return nil
			}
			return flush()
		})
		if err == nil {
			err = flush()
		}
		if err != nil {
			return out, fmt.Errorf("search: compare %s: %w", s.Kind, err)
		}
		for i, seg := range v.segments {
			mine := seg.ranks.ofKind[k]
			if seg.deleted != nil {
				mine = roaring.AndNot(mine, seg.deleted)
			}
			out.Index[s.Kind] += int64(mine.GetCardinality())
			for it := roaring.AndNot(mine, seen[i]).Iterator(); it.HasNext(); {
				id, err := seg.base.DocID(uint64(it.Next()))
				if err != nil {
					return out, fmt.Errorf("search index: %w: %w", media.ErrCorrupt, err)
				}
				suspects = append(suspects, string(id)[len(s.Kind)+1:])
			}
		}
		slices.Sort(suspects)
		for some := range slices.Chunk(slices.Compact(suspects), 500) {
			found, err := x.differences(ctx, s, some)
			if err != nil {
				return out, err
			}
			var ids []string
			for _, d := range found {
				switch d.What {
				case "missing":
					out.Missing++
				case "extra":
					out.Extra++
				default:
					out.Stale++
				}
				if len(out.Differences) < maxDifferences {
					out.Differences = append(out.Differences, d)
				}
				ids = append(ids, d.ID)
			}
			if mend && len(ids) > 0 {
				if err := x.Apply(ctx, s.Kind, ids...); err != nil {
					return out, err
				}
				out.Mended += int64(len(ids))
			}
		}
	}
	return out, nil
}

// differences compares some documents as both sides have them now. No change is applied meanwhile.
func (x *Index) differences(ctx context.Context, s Source, ids []string) ([]Difference, error) {
	x.writing.Lock()
	defer x.writing.Unlock()
	docs, err := s.Load(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("search: read %s: %w", s.Kind, err)
	}
	v := x.current.Load().acquire()
	defer v.release()
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = key(s.Kind, id)
	}
	found, err := v.locate(keys)
	if err != nil {
		return nil, fmt.Errorf("search index: %w: %w", media.ErrCorrupt, err)
	}
	var out []Difference
	there := map[string]bool{}
	for _, d := range docs {
		d.Kind = s.Kind
		there[d.ID] = true
		at, ok := found[key(s.Kind, d.ID)]
		if !ok {
			out = append(out, Difference{s.Kind, d.ID, "missing"})
			continue
		}
		if h, err := v.hash(at); err != nil || h != clean(d).hash() {
			out = append(out, Difference{s.Kind, d.ID, "stale"})
		}
	}
	for _, id := range ids {
		if _, ok := found[key(s.Kind, id)]; ok && !there[id] {
			out = append(out, Difference{s.Kind, id, "extra"})
		}
	}
	return out, nil
}
