package model

import (
	"cmp"
	"math"
	"slices"
	"sync"
)

// Neighbours of a track are those that the same listeners hear: the cosine of their columns, with shrinkage, so that two
// tracks that one person happened to hear are not taken for twins. A listener of many tracks says less of each.

// near are its parameters.
type near struct {
	k        int     // neighbours kept for each track
	shrink   float32 // added to the denominator, in units of listeners
	perTrack int     // listeners looked at for one track; more are passed over in even steps
	threads  int
}

// find returns k neighbours of each track that want names, best first: ids, and similarities of which 0 ends the row.
// Working memory: 8 bytes a track and thread.
func (p near) find(byUser, byItem *matrix, want func(item int) bool, ids []uint32, sims []float32) {
	n := byItem.rows()
	damp := make([]float32, byUser.rows())
	for u := range damp {
		damp[u] = 1 / float32(math.Sqrt(1+float64(byUser.start[u+1]-byUser.start[u])))
	}
	length := make([]float32, n) // of a column, damped as the products are
	for i := range n {
		users, vals := byItem.row(i)
		var s float32
		for j, u := range users {
			s += vals[j] * vals[j] * damp[u]
		}
		length[i] = s
	}
	shrink := p.shrink * damped(byUser)
	var group sync.WaitGroup
	for thread := range p.threads {
		group.Go(func() {
			acc := make([]float32, n)
			var touched []uint32
			type hit struct {
				item uint32
				sim  float32
			}
			var hits []hit
			for i := thread; i < n; i += p.threads {
				if !want(i) {
					continue
				}
				users, vals := byItem.row(i)
				step := max(1, (len(users)+p.perTrack-1)/p.perTrack)
				for at := i % step; at < len(users); at += step {
					u := users[at]
					w := vals[at] * damp[u]
					cols, others := byUser.row(int(u))
					for j, c := range cols {
						if acc[c] == 0 {
							touched = append(touched, c)
						}
						acc[c] += w * others[j]
					}
				}
				hits = hits[:0]
				for _, c := range touched {
					if int(c) != i {
						sim := acc[c] * float32(step) / (float32(math.Sqrt(float64(length[i])*float64(length[c]))) + shrink)
						hits = append(hits, hit{c, min(sim, 1)})
					}
					acc[c] = 0
				}
				touched = touched[:0]
				slices.SortFunc(hits, func(a, b hit) int { return cmp.Or(cmp.Compare(b.sim, a.sim), cmp.Compare(a.item, b.item)) })
				row, simRow := ids[i*p.k:(i+1)*p.k], sims[i*p.k:(i+1)*p.k]
				clear(simRow)
				for j, h := range hits[:min(p.k, len(hits))] {
					row[j], simRow[j] = h.item, h.sim
				}
			}
		})
	}
	group.Wait()
}

// damped is what a listener of the usual number of tracks weighs, so that shrink is in listeners.
func damped(byUser *matrix) float32 {
	if byUser.rows() == 0 {
		return 1
	}
	return 1 / float32(math.Sqrt(1+float64(len(byUser.col))/float64(byUser.rows())))
}
