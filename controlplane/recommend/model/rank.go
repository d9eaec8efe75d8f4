package model

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Heard is one track that a listener heard.
type Heard struct {
	Item   int
	Weight float32 // plays; negative: it was skipped
	Ago    time.Duration
}

// Scored is one track for one listener.
type Scored struct {
	Item  int
	Score float32 // from 0 to about 1; comparable within one ranking only
	// Because is the heard track that speaks most for it, or -1 when none does.
	Because int
}

// Ask says what a ranking is to be of.
type Ask struct {
	Heard []Heard
	// Seeds restrict the ranking to what goes with these tracks, as a radio does; none: everything.
	Seeds []int
	// Chart names charts whose tracks are looked at besides what goes with what was heard.
	Charts []string
	Leave  func(item int) bool // true: not that one; nil: all may be
	N      int                 // how many; at least as many are looked at
}

// scratch is what one ranking works with; kept for the next one, since it is as long as there are tracks.
type scratch struct {
	similar  []float32 // per item: similarity to what was heard
	best     []float32 // the largest part of it
	because  []int32
	seen     []bool
	touched  []uint32
	vec      []float32
	solver   *solver
	cols     []uint32
	w, t     []float32
	scored   []Scored
	capacity int
}

var scratches sync.Pool

func (m *Model) scratch() *scratch {
	s, _ := scratches.Get().(*scratch)
	if s == nil || s.capacity < len(m.ids) || len(s.vec) != m.Dim {
		n := len(m.ids)
		s = &scratch{similar: make([]float32, n), best: make([]float32, n), because: make([]int32, n), seen: make([]bool, n), vec: make([]float32, m.Dim),
			solver: newSolver(m.Dim), capacity: n}
	}
	return s
}

func (s *scratch) release() {
	for _, i := range s.touched {
		s.similar[i], s.best[i], s.seen[i] = 0, 0, false
	}
	s.touched, s.cols, s.w, s.t, s.scored = s.touched[:0], s.cols[:0], s.w[:0], s.t[:0], s.scored[:0]
	scratches.Put(s)
}

func (s *scratch) touch(i uint32) {
	if !s.seen[i] {
		s.seen[i] = true
		s.because[i] = -1
		s.touched = append(s.touched, i)
	}
}

// weigh is how much a heard track counts.
func (c Chosen) weigh(h Heard) float32 {
	w := log1p(float32(math.Abs(float64(h.Weight))))
	if c.HalfLife > 0 {
		w *= float32(math.Exp2(-float64(max(0, h.Ago)) / float64(c.HalfLife)))
	}
	return w
}

// A model of few tracks looks at all of them; a larger one at what goes with what was heard, and at charts.
const lookAtAll = 20_000

// Rank returns up to N tracks, best first. What was heard may be among them: Leave keeps it out.
func (m *Model) Rank(a Ask) []Scored {
	if len(m.ids) == 0 || a.N <= 0 {
		return nil
	}
	s := m.scratch()
	defer s.release()
	m.gather(s, a)
	c := m.Chosen
	known := len(s.cols) > 0
	if !known {
		c.Factors, c.Similar, c.Popular = 0, 0, 1
	}
	if len(a.Seeds) > 0 {
		// A radio is of its seed: the listener's taste orders what goes with it, and what is popular has no say.
		c.Popular = 0
	}
	var mostSimilar, mostFactors float32 = 1e-9, 1e-9
	for _, i := range s.touched {
		mostSimilar = max(mostSimilar, s.similar[i])
	}
	for _, i := range s.touched {
		if a.Leave != nil && a.Leave(int(i)) {
			continue
		}
		var f float32
		if c.Factors > 0 {
			f = dot(s.vec, m.vecs.row(int(i), m.Dim))
			mostFactors = max(mostFactors, f)
		}
		s.scored = append(s.scored, Scored{Item: int(i), Score: f, Because: int(s.because[i])})
	}
	for j := range s.scored {
		x := &s.scored[j]
		x.Score = c.Factors*x.Score/mostFactors + c.Similar*s.similar[x.Item]/mostSimilar + c.Popular*m.heavy[x.Item]
	}
	out := best(s.scored, a.N)
	return slices.Clone(out)
}

// gather makes the listener's vector, and finds what to look at.
func (m *Model) gather(s *scratch, a Ask) {
	add := func(item int, w float32) {
		if w == 0 {
			return
		}
		s.cols = append(s.cols, uint32(item))
		if w > 0 {
			s.w, s.t = append(s.w, w), append(s.t, w)
		} else {
			s.w, s.t = append(s.w, -w), append(s.t, 0) // known, and not wanted
		}
	}
	spread := func(item int, w float32) {
		row, sims := m.neighbours(item)
		for j, to := range row {
			if sims[j] == 0 {
				break
			}
			s.touch(to)
			part := w * sims[j]
			s.similar[to] += part
			if part > s.best[to] {
				s.best[to], s.because[to] = part, int32(item)
			}
		}
	}
	if len(a.Seeds) > 0 {
		for _, seed := range a.Seeds {
			add(seed, 2)
			spread(seed, 1)
			row, sims := m.neighbours(seed)
			for j, to := range row { // and what goes with what goes with it, so that a radio does not end
				if sims[j] == 0 || j == 20 {
					break
				}
				next, more := m.neighbours(int(to))
				for k, far := range next {
					if more[k] == 0 {
						break
					}
					s.touch(far)
					part := sims[j] * more[k] / 2
					s.similar[far] += part
					if part > s.best[far] {
						s.best[far], s.because[far] = part, int32(seed)
					}
				}
			}
		}
		for _, h := range a.Heard {
			add(h.Item, sign(h.Weight)*m.Chosen.weigh(h)/4)
		}
	} else {
		for _, h := range a.Heard {
			w := m.Chosen.weigh(h)
			add(h.Item, sign(h.Weight)*w)
			spread(h.Item, sign(h.Weight)*w)
		}
		for _, name := range append(a.Charts, "") {
			for _, i := range m.charts[name] {
				s.touch(i)
			}
		}
		if len(m.ids) <= lookAtAll {
			for i := range uint32(len(m.ids)) {
				s.touch(i)
			}
		}
	}
	clear(s.vec)
	if len(s.cols) > 0 && m.Dim > 0 {
		ridge := m.Chosen.Ridge * (float32(len(s.cols)) + float32(len(m.ids))*m.Chosen.All)
		s.solver.solve(s.vec, m.gram, ridge, m.vecs, s.cols, s.w, s.t, 12)
	}
}

func (m *Model) neighbours(item int) ([]uint32, []float32) {
	a, b := item*m.Near, (item+1)*m.Near
	return m.near[a:b], m.sims[a:b]
}

// Similar returns what goes with a track, best first: its neighbours, and, of those, first the ones that are also alike in
// what they have in common.
func (m *Model) Similar(item, n int) []Scored {
	row, sims := m.neighbours(item)
	var out []Scored
	for j, to := range row {
		if sims[j] == 0 {
			break
		}
		out = append(out, Scored{Item: int(to), Score: sims[j] * (1 + max(0, m.Alike(item, int(to)))) / 2, Because: item})
	}
	return best(out, n)
}

// Alike is the cosine of two tracks' factors.
func (m *Model) Alike(a, b int) float32 {
	x, y := m.vecs.row(a, m.Dim), m.vecs.row(b, m.Dim)
	n := norm(x) * norm(y)
	if n == 0 {
		return 0
	}
	return dot(x, y) / n
}

// best sorts the n largest to the front, and returns them.
func best(list []Scored, n int) []Scored {
	order := func(a, b Scored) int { return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(a.Item, b.Item)) }
	if len(list) > 8*n && n > 0 {
		// Most of a long list is below a bar that some of it show.
		heap := slices.Clone(list[:n])
		slices.SortFunc(heap, order)
		bar := heap[n-1].Score
		kept := heap
		for _, x := range list[n:] {
			if x.Score < bar {
				continue
			}
			kept = append(kept, x)
			if len(kept) >= 4*n {
				slices.SortFunc(kept, order)
				kept = kept[:n]
				bar = kept[n-1].Score
			}
		}
		slices.SortFunc(kept, order)
		return kept[:min(n, len(kept))]
	}
	slices.SortFunc(list, order)
	return list[:min(n, len(list))]
}

// Rules keep a list from being all of one kind.
type Rules struct {
	N        int
	PerGroup int     // tracks of one group (artist), 0: any number
	Spread   float32 // from 0, the best ones, to 1, the most unlike ones: maximal marginal relevance
	Apart    bool    // no two of one group in a row, as far as that can be
}

// Diverse picks from a ranking, which it leaves as it is. group says whose a track is; nil: the groups of training.
func (m *Model) Diverse(list []Scored, r Rules, group func(item int) string) []Scored {
	list = list[:min(len(list), max(10*r.N, 200))]
	if len(list) == 0 {
		return nil
	}
	groupOf := make([]string, len(list))
	for i, x := range list {
		if group != nil {
			groupOf[i] = group(x.Item)
		} else if g := m.groups[x.Item]; g != 0 {
			groupOf[i] = strconv.Itoa(int(g))
		}
	}
	worst, top := list[len(list)-1].Score, list[0].Score
	scale := max(top-worst, 1e-9)
	like := make([]float32, len(list)) // to the nearest of those picked
	used := make([]bool, len(list))
	count := map[string]int{}
	var out []Scored
	lastGroup := ""
	lengths := make([]float32, len(list))
	for i, x := range list {
		lengths[i] = norm(m.vecs.row(x.Item, m.Dim)) + 1e-9
	}
	for len(out) < r.N {
		pick, pickScore := -1, float32(math.Inf(-1))
		for try := 0; try < 2 && pick < 0; try++ { // the second time a neighbour of the same group will do
			for i, x := range list {
				g := groupOf[i]
				if used[i] || g != "" && (r.PerGroup > 0 && count[g] >= r.PerGroup || r.Apart && try == 0 && g == lastGroup) {
					continue
				}
				if score := (1-r.Spread)*(x.Score-worst)/scale - r.Spread*like[i]; score > pickScore {
					pick, pickScore = i, score
				}
			}
		}
		if pick < 0 {
			break
		}
		used[pick], lastGroup = true, groupOf[pick]
		count[groupOf[pick]]++
		out = append(out, list[pick])
		if r.Spread > 0 {
			v, l := m.vecs.row(list[pick].Item, m.Dim), lengths[pick]
			for i, x := range list {
				if !used[i] {
					like[i] = max(like[i], dot(v, m.vecs.row(x.Item, m.Dim))/(l*lengths[i]))
				}
			}
		}
	}
	return out
}

func sign(x float32) float32 {
	if x < 0 {
		return -1
	}
	return 1
}

func log1p(x float32) float32 { return float32(math.Log1p(float64(x))) }
