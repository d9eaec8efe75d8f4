package model

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Config is how to train. A zero field is its default.
type Config struct {
	Dim     int    // of factors: 64
	Near    int    // neighbours kept for each track: 40
	Sweeps  int    // of ALS over everything: 8; a model that goes on from another one takes 2
	Threads int    // 1: a control plane has other work
	Seed    uint64 // the same plays and seed make the same model (with one thread)
	Trial   int    // listeners that parameters are tried on: 4,000; negative: none are tried, Default is taken
	// Group says whose a track is, for diversity: an artist's number from 1. Nil: not known.
	Group func(track string) uint32
}

// Default is what is taken where there is too little to try anything on.
var Default = Chosen{All: 0.1, Ridge: 0.01, Factors: 0.5, Similar: 0.4, Popular: 0.1}

func (c Config) filled() Config {
	c.Dim, c.Near, c.Threads, c.Trial = cmp.Or(c.Dim, 64), cmp.Or(c.Near, 40), cmp.Or(c.Threads, 1), cmp.Or(c.Trial, 4000)
	return c
}

// ErrTooLittle: there is nothing to learn from.
var ErrTooLittle = errors.New("too few plays to learn from")

// least is what two listeners who share a track come to.
const least = 2

// Train learns from a log. With before, of which the log goes on, it starts from there: two sweeps, neighbours of what was
// heard since, parameters as they were. It stops at ctx's end, between steps.
func Train(ctx context.Context, log *Log, before *Model, c Config) (*Model, error) {
	c = c.filled()
	log.settle()
	t := newTraining(log, c)
	if t.byUser.rows() < least || len(t.items) < least {
		return nil, fmt.Errorf("%d listeners and %d tracks: %w", t.byUser.rows(), len(t.items), ErrTooLittle)
	}
	m := &Model{Info: Info{Made: log.Now, Until: log.Now, Full: log.Now, Tracks: len(t.items), Users: log.Users(), Pairs: len(t.byUser.col), Sampled: log.Sampled(),
		Dim: min(c.Dim, max(8, len(t.items)/4)), Near: c.Near, Chosen: Default}, charts: map[string][]uint32{}}
	if before != nil && before.Dim == m.Dim && before.Near == m.Near {
		m.Full, m.Chosen, m.Recall, m.PopularRecall = before.Full, before.Chosen, before.Recall, before.PopularRecall
	} else {
		before = nil
		if c.Trial > 0 {
			if err := t.choose(ctx, m); err != nil {
				return nil, err
			}
		}
	}
	if err := t.learn(ctx, m, before); err != nil {
		return nil, err
	}
	m.ids, m.recent, m.groups = make([]string, len(t.items)), make([]float32, len(t.items)), make([]uint32, len(t.items))
	for i, old := range t.items {
		m.ids[i], m.recent[i] = log.ids[old], log.recent[old]
		if c.Group != nil {
			m.groups[i] = c.Group(log.ids[old])
		}
	}
	t.chart(m)
	m.finish()
	return m, nil
}

// training is a log made ready.
type training struct {
	Config
	log    *Log
	items  []uint32 // tracks that are in: numbers of the log
	number []int32  // of the log's tracks here; -1: not in
	byUser *matrix
	last   []uint32 // when, along byUser
	byItem *matrix
}

func newTraining(log *Log, c Config) *training {
	t := &training{Config: c, log: log}
	listeners := make([]uint32, len(log.ids))
	for _, p := range log.pairs {
		listeners[p.item]++
	}
	for i, n := range listeners {
		if n > 0 {
			t.items = append(t.items, uint32(i))
		}
	}
	if len(t.items) > log.limits.Tracks {
		slices.SortFunc(t.items, func(a, b uint32) int { return cmp.Or(cmp.Compare(listeners[b], listeners[a]), cmp.Compare(a, b)) })
		t.items = t.items[:log.limits.Tracks]
		slices.Sort(t.items)
	}
	t.number = make([]int32, len(log.ids))
	for i := range t.number {
		t.number[i] = -1
	}
	for i, old := range t.items {
		t.number[old] = int32(i)
	}
	t.byUser, t.last = t.matrix(func(pair) bool { return true })
	t.byItem = t.byUser.transposed(len(t.items))
	return t
}

// matrix holds the pairs that take says yes to; listeners who have none of them have empty rows.
func (t *training) matrix(take func(pair) bool) (*matrix, []uint32) {
	m := &matrix{start: make([]uint32, 1, len(t.log.hashes)+1)}
	var last []uint32
	for _, p := range t.log.pairs {
		for len(m.start)-1 < int(p.user) {
			m.start = append(m.start, uint32(len(m.col)))
		}
		if n := t.number[p.item]; n >= 0 && take(p) {
			m.col, m.val, last = append(m.col, uint32(n)), append(m.val, log1p(p.heard)), append(last, p.last)
		}
	}
	for len(m.start)-1 < len(t.log.hashes) {
		m.start = append(m.start, uint32(len(m.col)))
	}
	return m, last
}

// learn makes factors and neighbours.
func (t *training) learn(ctx context.Context, m *Model, before *Model) error {
	rng := rand.New(rand.NewPCG(t.Seed, 1))
	n := len(t.items)
	items := randomFactors(n, m.Dim, rng)
	sweeps := cmp.Or(t.Sweeps, 8)
	m.near, m.sims = make([]uint32, n*m.Near), make([]float32, n*m.Near)
	want := func(int) bool { return true }
	if before != nil {
		sweeps = min(sweeps, 2)
		changed := make([]bool, n)
		since := seconds(before.Until)
		for i, c := range t.byUser.col {
			changed[c] = changed[c] || t.last[i] >= since
		}
		here := make([]int32, len(before.ids))
		for i := range here {
			here[i] = -1
		}
		for i, old := range t.items {
			b := before.Find(t.log.ids[old])
			if b < 0 {
				changed[i] = true
				continue
			}
			here[b] = int32(i)
			copy(items.row(i, m.Dim), before.vecs.row(b, m.Dim))
		}
		for b, i := range here {
			if i < 0 || changed[i] {
				continue
			}
			row, sims := before.neighbours(b)
			at := int(i) * m.Near
			for j, to := range row {
				if sims[j] > 0 && here[to] >= 0 {
					m.near[at], m.sims[at] = uint32(here[to]), sims[j]
					at++
				}
			}
		}
		want = func(i int) bool { return changed[i] }
	}
	near{k: m.Near, shrink: shrink, perTrack: perTrack, threads: t.Threads}.find(t.byUser, t.byItem, want, m.near, m.sims)
	users := make(factors, t.byUser.rows()*m.Dim)
	a := als{dim: m.Dim, sweeps: 1, all: m.Chosen.All, ridge: m.Chosen.Ridge, threads: t.Threads}
	for range sweeps {
		if err := ctx.Err(); err != nil {
			return err
		}
		a.train(t.byUser, t.byItem, users, items)
	}
	m.vecs = items
	return nil
}

const (
	shrink   = 5    // listeners; docs/performance.md
	perTrack = 2000 // listeners of one track that its neighbours are made of
)

func (t *training) chart(m *Model) {
	all := map[uint32]float32{}
	for i, old := range t.items {
		all[uint32(i)] = t.log.recent[old]
	}
	m.charts[""] = top(all, chartLength)
	for name, c := range t.log.charts {
		var list []uint32
		for _, old := range top(c, len(c)) {
			if i := t.number[old]; i >= 0 && len(list) < chartLength {
				list = append(list, uint32(i))
			}
		}
		m.charts[name] = list
	}
}

// Trials. Of some listeners the latest fifth of their tracks is held back; models of the rest are asked for it. That needs no
// more than what is known at the time, as in service.

const (
	trialAt   = 20 // of a list so long
	trialLess = 5  // tracks of a listener who can be tried on
)

type trial struct {
	heard []Heard
	want  map[int]bool
}

func (t *training) choose(ctx context.Context, m *Model) error {
	// Held back: what was heard after a moment that splits all plays at nine tenths, so that a model never knows the future; a
	// log without times is split by listener.
	times := make([]uint32, 0, len(t.last))
	for _, at := range t.last {
		if at > 0 {
			times = append(times, at)
		}
	}
	slices.Sort(times)
	timed := len(times) > len(t.last)/2 && len(times) > 1 && times[0] != times[len(times)-1]
	var split uint32
	rng := rand.New(rand.NewPCG(t.Seed, 2))
	back := map[uint64]bool{} // user and item, where there are no times
	if timed {
		split = times[len(times)*9/10]
	} else {
		for u := range t.byUser.rows() {
			cols, _ := t.byUser.row(u)
			for _, c := range cols {
				if len(cols) >= trialLess && rng.IntN(10) == 0 {
					back[uint64(u)<<32|uint64(c)] = true
				}
			}
		}
	}
	held := func(p pair) bool {
		if timed {
			return p.last >= split
		}
		return back[uint64(p.user)<<32|uint64(t.number[p.item])]
	}
	byUser, last := t.matrix(func(p pair) bool { return !held(p) })
	byHeld, _ := t.matrix(held)
	var trials []trial
	span := time.Duration(0)
	if timed {
		span = time.Duration(split-times[0]) * time.Second
	}
	for _, u := range rng.Perm(byUser.rows()) {
		cols, vals := byUser.row(u)
		wanted, _ := byHeld.row(u)
		if len(cols) < trialLess || len(wanted) == 0 {
			continue
		}
		x := trial{want: map[int]bool{}}
		for _, c := range wanted {
			x.want[int(c)] = true
		}
		for i, c := range cols {
			h := Heard{Item: int(c), Weight: expm1(vals[i])}
			if timed {
				h.Ago = time.Duration(split-min(split, last[int(byUser.start[u])+i])) * time.Second
			}
			x.heard = append(x.heard, h)
		}
		if trials = append(trials, x); len(trials) == t.Trial {
			break
		}
	}
	if len(trials) < 20 {
		return nil
	}
	// A model of the past, on as many listeners as is quick.
	past := *t
	past.byUser, past.last = thinned(byUser, last, 5*t.Trial)
	past.byItem = past.byUser.transposed(len(t.items))
	past.Sweeps = 4
	p := *m
	p.recent, p.charts, p.ids = pastRecent(past.byUser, past.last, split, len(t.items)), map[string][]uint32{}, make([]string, len(t.items))
	all := map[uint32]float32{}
	for i, r := range p.recent {
		all[uint32(i)] = r
	}
	p.charts[""] = top(all, chartLength)

	few := trials[:min(len(trials), 300)]
	score := -1.0
	for i, try := range []Chosen{{All: 0.1, Ridge: 0.01}, {All: 0.3, Ridge: 0.01}, {All: 0.3, Ridge: 0.003}, {All: 0.1, Ridge: 0.05}} {
		if err := ctx.Err(); err != nil {
			return err
		}
		q := p
		q.Chosen = try
		q.Chosen.Factors = 1
		if i == 0 {
			if err := past.learn(ctx, &q, nil); err != nil {
				return err
			}
			p.near, p.sims = q.near, q.sims
		} else {
			past.factors(&q)
		}
		q.near, q.sims = p.near, p.sims
		q.finish()
		if r, _ := q.try(few); r > score {
			score, p.vecs, p.Chosen = r, q.vecs, q.Chosen
		}
	}
	p.finish()
	score = -1
	chosen := p.Chosen
	for _, half := range []time.Duration{0, span / 2, span / 8} {
		for _, w := range [][3]float32{{1, 0, 0}, {0, 1, 0}, {1, 0, .15}, {.5, .5, 0}, {.7, .3, .1}, {.3, .7, .1}, {.7, .3, .3}} {
			if err := ctx.Err(); err != nil {
				return err
			}
			p.Chosen.HalfLife, p.Chosen.Factors, p.Chosen.Similar, p.Chosen.Popular = half, w[0], w[1], w[2]
			if r, _ := p.try(few); r > score {
				score, chosen = r, p.Chosen
			}
		}
		if span == 0 {
			break
		}
	}
	p.Chosen = chosen
	_, m.Recall = p.try(trials)
	p.Chosen = Chosen{All: chosen.All, Popular: 1}
	_, m.PopularRecall = p.try(trials)
	m.Chosen = chosen
	return nil
}

// factors makes factors alone.
func (t *training) factors(m *Model) {
	m.vecs = randomFactors(len(t.items), m.Dim, rand.New(rand.NewPCG(t.Seed, 1)))
	als{dim: m.Dim, sweeps: t.Sweeps, all: m.Chosen.All, ridge: m.Chosen.Ridge, threads: t.Threads}.train(t.byUser, t.byItem, make(factors, t.byUser.rows()*m.Dim), m.vecs)
}

// try ranks for the trials: mean NDCG and recall at 20 of what is new to each listener.
func (m *Model) try(trials []trial) (ndcg, recall float64) {
	for _, x := range trials {
		known := map[int]bool{}
		for _, h := range x.heard {
			known[h.Item] = true
		}
		list := m.Rank(Ask{Heard: x.heard, N: trialAt, Leave: func(i int) bool { return known[i] }})
		items := make([]int, len(list))
		for i, s := range list {
			items[i] = s.Item
		}
		n, r := Grade(items, x.want, trialAt)
		ndcg, recall = ndcg+n, recall+r
	}
	return ndcg / float64(len(trials)), recall / float64(len(trials))
}

// thinned keeps the rows of about n listeners; the others are empty.
func thinned(m *matrix, last []uint32, n int) (*matrix, []uint32) {
	if m.rows() <= n {
		return m, last
	}
	out := &matrix{start: make([]uint32, 1, m.rows()+1)}
	var when []uint32
	step := m.rows() / n
	for u := range m.rows() {
		if u%step == 0 {
			cols, vals := m.row(u)
			out.col, out.val = append(out.col, cols...), append(out.val, vals...)
			when = append(when, last[m.start[u]:m.start[u+1]]...)
		}
		out.start = append(out.start, uint32(len(out.col)))
	}
	return out, when
}

// pastRecent is Log.recent as it was at a time.
func pastRecent(byUser *matrix, last []uint32, at uint32, items int) []float32 {
	out := make([]float32, items)
	for i, c := range byUser.col {
		ago := float32(0)
		if at > last[i] {
			ago = float32(at-last[i]) / float32(chartHalfLife/time.Second)
		}
		out[c] += expm1(byUser.val[i]) * exp2(-ago)
	}
	return out
}
