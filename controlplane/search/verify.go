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

// hash is that of a stored document.
func (f found) hash() (uint64, error) {
	b, err := f.in.read(f.doc)
	if err != nil {
		return 0, err
	}
	_, h, err := readStored(b)
	return h, err
}

func (x *Index) compare(ctx context.Context, mend bool) (out Report, err error) {
	defer func() {
		if v := recover(); v != nil { // what damaged files do to their readers
			err = fmt.Errorf("search index: %w: %v", media.ErrCorrupt, v)
		}
	}()
	out = Report{Tables: map[string]int64{}, Index: map[string]int64{}}
	x.swap.RLock()
	v := x.current.Load().acquire()
	x.swap.RUnlock()
	if v == nil {
		return out, fmt.Errorf("search index is closed: %w", media.ErrBusy)
	}
	defer v.release()
	x.checked.Store(0)
	x.set(func(s *Status) { s.Check.Total = int64(v.docs) })
	seen := map[*piece]*roaring.Bitmap{}
	for k, s := range x.cfg.Sources {
		var suspects []string
		for _, p := range v.pieces[k] {
			seen[p] = roaring.New()
		}
		err := s.Each(ctx, func(d Doc) error {
			d.Kind = s.Kind
			at, ok := v.locate(k, d.ID)
			if ok {
				seen[at.in].Add(at.doc)
				h, err := at.hash()
				ok = err == nil && h == clean(d).hash()
			}
			if !ok {
				suspects = append(suspects, d.ID)
			}
			out.Tables[s.Kind]++
			x.checked.Add(1)
			return nil
		})
		if err != nil {
			return out, fmt.Errorf("search: compare %s: %w", s.Kind, err)
		}
		for _, p := range v.pieces[k] {
			out.Index[s.Kind] += int64(p.live())
			for d := range uint32(p.docs) {
				if !p.deleted.Contains(d) && !seen[p].Contains(d) {
					suspects = append(suspects, string(p.id(d)))
				}
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
	k := slices.Index(x.kinds, s.Kind)
	var out []Difference
	there := map[string]bool{}
	for _, d := range docs {
		d.Kind = s.Kind
		there[d.ID] = true
		at, ok := v.locate(k, d.ID)
		if !ok {
			out = append(out, Difference{s.Kind, d.ID, "missing"})
		} else if h, err := at.hash(); err != nil || h != clean(d).hash() {
			out = append(out, Difference{s.Kind, d.ID, "stale"})
		}
	}
	for _, id := range ids {
		if _, ok := v.locate(k, id); ok && !there[id] {
			out = append(out, Difference{s.Kind, id, "extra"})
		}
	}
	return out, nil
}
