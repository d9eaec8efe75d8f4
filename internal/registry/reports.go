package registry

import (
	"sync"
	"time"
)

const (
	reportsFor = 30 * time.Second // what a listener found counts for so long
	// complaints is how many different listeners must have failed at an edge before that is an opinion; and they must be
	// two thirds of those who tried.
	complaints = 3
	praises    = 2   // successes of different listeners that are one
	maxReports = 256 // listeners that are remembered per edge
)

// Reports are what listeners found at edges: by the last thing that each of them said of each edge. A listener who fails
// at several edges at a time has a bad network, and is not counted at any. The zero value is ready, and safe for concurrent
// use.
type Reports struct {
	mu    sync.Mutex // guards edges
	edges map[string]map[string]report
}

type report struct {
	at time.Time
	ok bool
}

// Report notes what a listener found at an edge.
func (r *Reports) Report(edge, listener string, ok bool, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.edges == nil {
		r.edges = map[string]map[string]report{}
	}
	by := r.edges[edge]
	if by == nil {
		by = map[string]report{}
		r.edges[edge] = by
	}
	if _, known := by[listener]; !known && len(by) >= maxReports {
		oldest, when := "", at
		for l, rep := range by {
			if !rep.at.After(when) {
				oldest, when = l, rep.at
			}
		}
		delete(by, oldest)
	}
	by[listener] = report{at, ok}
}

// Votes are the listeners' opinions of edges now; edges without one are not in it.
func (r *Reports) Votes(now time.Time) map[string]Vote {
	r.mu.Lock()
	defer r.mu.Unlock()
	bad := map[string]int{} // at how many edges a listener failed
	for edge, by := range r.edges {
		for l, rep := range by {
			switch {
			case now.Sub(rep.at) >= reportsFor:
				delete(by, l)
			case !rep.ok:
				bad[l]++
			}
		}
		if len(by) == 0 {
			delete(r.edges, edge)
		}
	}
	out := map[string]Vote{}
	for edge, by := range r.edges {
		good, failed := 0, 0
		for l, rep := range by {
			if rep.ok {
				good++
			} else if bad[l] == 1 {
				failed++
			}
		}
		switch {
		case failed >= complaints && failed >= 2*good:
			out[edge] = Down
		case good >= praises && good > failed:
			out[edge] = Up
		}
	}
	return out
}
