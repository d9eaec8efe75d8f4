package model

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"
)

// Play is what one listener did with one track, added up.
type Play struct {
	User    string // any stable name, such as a pseudonym; only its hash is kept
	Track   string
	Country string // ISO 3166-1 alpha-2; empty: not known
	Plan    string
	Heard   float64   // plays that counted, or a weight
	Skipped float64   // plays that were left before they did
	Last    time.Time // the latest of them; zero: not known
}

// Limits bound what a Log takes. A zero field is its default.
type Limits struct {
	Pairs   int // of listener and track: 20 million. More: half of the listeners, chosen by hash, go
	PerUser int // tracks of one listener, the latest: 400
	Tracks  int // most heard: 1 million
	Chart   int // tracks counted for one country or plan: 20,000. More: the less heard half goes
}

func (l Limits) filled() Limits {
	l.Pairs, l.PerUser = cmp.Or(l.Pairs, 20_000_000), cmp.Or(l.PerUser, 400)
	l.Tracks, l.Chart = cmp.Or(l.Tracks, 1_000_000), cmp.Or(l.Chart, 20_000)
	return l
}

// pair is one listener and one track: 16 bytes, of which there are most.
type pair struct {
	user, item uint32
	heard      float32
	last       uint32 // seconds of Unix time
}

// Log gathers plays within bounds: 16 bytes a pair while it grows, about 60 a listener and 120 a track. It is not safe
// for concurrent use.
type Log struct {
	Now    time.Time // what "lately" is measured from
	Until  time.Time // for who fills it: plays before it are in. Kept by Save
	limits Limits

	users  map[uint64]uint32 // hash of a name -> number
	hashes []uint64          // number -> hash
	tracks map[string]uint32
	ids    []string
	pairs  []pair
	above  uint64                        // hashes up to here are taken
	recent []float32                     // per track: plays, of which one a month old counts half
	charts map[string]map[uint32]float32 // "DE", "plan:free" -> recent of the tracks
}

// NewLog makes an empty one.
func NewLog(now time.Time, l Limits) *Log {
	return &Log{Now: now, limits: l.filled(), users: map[uint64]uint32{}, tracks: map[string]uint32{}, above: math.MaxUint64, charts: map[string]map[uint32]float32{}}
}

// chartHalfLife: what was heard a month ago counts half in charts.
const chartHalfLife = 30 * 24 * time.Hour

// Add takes a play. Several of one listener and track are added up.
func (l *Log) Add(p Play) {
	if p.Heard <= 0 || p.User == "" || p.Track == "" || math.IsNaN(p.Heard) || math.IsInf(p.Heard, 0) {
		return // what was only skipped says that it was offered, not that it is liked
	}
	item, ok := l.tracks[p.Track]
	if !ok {
		item = uint32(len(l.ids))
		l.tracks[p.Track] = item
		l.ids, l.recent = append(l.ids, p.Track), append(l.recent, 0)
	}
	lately := p.Heard
	if !p.Last.IsZero() {
		lately *= math.Exp2(-float64(max(0, l.Now.Sub(p.Last))) / float64(chartHalfLife))
	}
	l.recent[item] += float32(lately)
	for _, chart := range [2]string{p.Country, "plan:" + p.Plan} {
		if chart != "" && chart != "plan:" {
			l.count(chart, item, float32(lately))
		}
	}

	hash := xxhash.Sum64String(p.User)
	if hash > l.above {
		return
	}
	user, ok := l.users[hash]
	if !ok {
		user = uint32(len(l.hashes))
		l.users[hash] = user
		l.hashes = append(l.hashes, hash)
	}
	l.pairs = append(l.pairs, pair{user, item, float32(min(p.Heard, 1000)), seconds(p.Last)})
	if len(l.pairs) >= l.limits.Pairs {
		l.settle()
		for len(l.pairs) >= l.limits.Pairs*9/10 {
			l.thin()
		}
	}
}

func seconds(t time.Time) uint32 {
	return uint32(min(max(t.Unix(), 0), math.MaxUint32))
}

// count adds to a chart. One that has grown to twice its bound loses the less heard half.
func (l *Log) count(name string, item uint32, n float32) {
	c := l.charts[name]
	if c == nil {
		if len(l.charts) >= maxCharts {
			return
		}
		c = map[uint32]float32{}
		l.charts[name] = c
	}
	c[item] += n
	if len(c) > 2*l.limits.Chart {
		for _, e := range top(c, len(c))[l.limits.Chart:] {
			delete(c, e)
		}
	}
}

// maxCharts: there are 249 countries and three plans.
const maxCharts = 512

// top is the n most heard of a chart, most heard first.
func top(c map[uint32]float32, n int) []uint32 {
	list := slices.SortedFunc(maps.Keys(c), func(a, b uint32) int { return cmp.Or(cmp.Compare(c[b], c[a]), cmp.Compare(a, b)) })
	return list[:min(n, len(list))]
}

// settle adds up what is of one listener and track, and keeps the latest PerUser of each listener.
func (l *Log) settle() {
	slices.SortFunc(l.pairs, func(a, b pair) int {
		return cmp.Or(cmp.Compare(a.user, b.user), cmp.Compare(a.item, b.item))
	})
	out := l.pairs[:0]
	for _, p := range l.pairs {
		if n := len(out); n > 0 && out[n-1].user == p.user && out[n-1].item == p.item {
			out[n-1].heard, out[n-1].last = out[n-1].heard+p.heard, max(out[n-1].last, p.last)
		} else {
			out = append(out, p)
		}
	}
	l.pairs = out[:0]
	for from := 0; from < len(out); {
		to := from
		for to < len(out) && out[to].user == out[from].user {
			to++
		}
		own := out[from:to]
		if len(own) > l.limits.PerUser {
			slices.SortFunc(own, func(a, b pair) int { return cmp.Or(cmp.Compare(b.last, a.last), cmp.Compare(a.item, b.item)) })
			own = own[:l.limits.PerUser]
			slices.SortFunc(own, func(a, b pair) int { return cmp.Compare(a.item, b.item) })
		}
		l.pairs = append(l.pairs, own...)
		from = to
	}
}

// thin takes half of the listeners away. Hashes decide, so that it is the same ones whatever the order of plays.
func (l *Log) thin() {
	l.above /= 2
	renumbered := make([]uint32, len(l.hashes))
	hashes := l.hashes[:0]
	for old, h := range l.hashes {
		if h > l.above {
			delete(l.users, h)
			renumbered[old] = math.MaxUint32
			continue
		}
		renumbered[old] = uint32(len(hashes))
		l.users[h] = uint32(len(hashes))
		hashes = append(hashes, h)
	}
	l.hashes = hashes
	l.pairs = slices.DeleteFunc(l.pairs, func(p pair) bool { return renumbered[p.user] == math.MaxUint32 })
	for i := range l.pairs {
		l.pairs[i].user = renumbered[l.pairs[i].user]
	}
}

// Users and Tracks are how many there are; Sampled is the share of the listeners that was kept.
func (l *Log) Users() int       { return len(l.hashes) }
func (l *Log) Tracks() int      { return len(l.ids) }
func (l *Log) Sampled() float64 { return float64(l.above) / math.MaxUint64 }

// Forget takes listeners out, by the names under which they were added. What they added to charts fades by itself.
func (l *Log) Forget(users map[string]bool) {
	gone := map[uint32]bool{}
	for name := range users {
		if n, ok := l.users[xxhash.Sum64String(name)]; ok {
			gone[n] = true
		}
	}
	if len(gone) > 0 {
		l.pairs = slices.DeleteFunc(l.pairs, func(p pair) bool { return gone[p.user] })
	}
}

// matrix is rows of (column, value), compressed: row i is from start[i] to start[i+1].
type matrix struct {
	start []uint32
	col   []uint32
	val   []float32
}

func (m *matrix) rows() int { return len(m.start) - 1 }

func (m *matrix) row(i int) ([]uint32, []float32) {
	a, b := m.start[i], m.start[i+1]
	return m.col[a:b], m.val[a:b]
}

// transposed has the same entries, by column.
func (m *matrix) transposed(columns int) *matrix {
	t := &matrix{start: make([]uint32, columns+1), col: make([]uint32, len(m.col)), val: make([]float32, len(m.val))}
	for _, c := range m.col {
		t.start[c+1]++
	}
	for i := range columns {
		t.start[i+1] += t.start[i]
	}
	next := slices.Clone(t.start[:columns])
	for r := range m.rows() {
		cols, vals := m.row(r)
		for i, c := range cols {
			t.col[next[c]], t.val[next[c]] = uint32(r), vals[i]
			next[c]++
		}
	}
	return t
}
