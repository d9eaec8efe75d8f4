// Package evaluate measures recommendations on a play log: what was heard until a moment teaches, what was heard after it
// is to be found again. Three ways are compared on the same split and listeners: what is popular, item-item cosine, and
// ours. Only tracks that are new to a listener count: to find again what somebody hears every day is no art.
package evaluate

import (
	"bufio"
	"cmp"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"segue/controlplane/recommend/model"
	"segue/media"
)

// Event is a line of a log: a play, or with a weight several.
type Event struct {
	User, Item string
	Weight     float64
	At         time.Time // zero: not known
}

// maxEvents bounds a log: 100 bytes each.
const maxEvents = 50_000_000

// Read reads lines user,item[,weight][,time], or with a first line that names columns user, item, weight and time in any
// order, others being passed over. Without such a line a third column is a weight, unless it is larger than 10 million or
// not a number: then it is a time. Times are seconds or milliseconds of Unix time, or RFC 3339. What cannot be read is
// media.ErrInvalid with its line.
func Read(r io.Reader) ([]Event, error) {
	in := csv.NewReader(bufio.NewReaderSize(r, 1<<20))
	in.FieldsPerRecord, in.ReuseRecord, in.TrimLeadingSpace = -1, true, true
	user, item, weight, at := 0, 1, -1, -1
	guess := true
	names := map[string]string{} // one copy of each text
	intern := func(s string) string {
		if have, ok := names[s]; ok {
			return have
		}
		s = strings.Clone(s)
		names[s] = s
		return s
	}
	var out []Event
	for n := 1; ; n++ {
		row, err := in.Read()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		bad := func(what string) error { return fmt.Errorf("line %d: %s: %w", n, what, media.ErrInvalid) }
		if err != nil {
			return nil, bad(err.Error())
		}
		if n == 1 {
			row[0] = strings.TrimPrefix(row[0], "\ufeff")
			columns := map[string]int{}
			for i, name := range row {
				columns[strings.ToLower(strings.TrimSpace(name))] = i
			}
			named := func(options ...string) int {
				for _, o := range options {
					if i, ok := columns[o]; ok {
						return i
					}
				}
				return -1
			}
			if u, i := named("user", "user_id", "userid"), named("item", "item_id", "track", "track_id", "itemid"); u >= 0 && i >= 0 {
				user, item, guess = u, i, false
				weight, at = named("weight", "plays", "count", "rating"), named("time", "timestamp", "at")
				continue
			}
		}
		if len(row) <= max(user, item) {
			return nil, bad("want user,item[,weight][,time]")
		}
		e := Event{User: intern(row[user]), Item: intern(row[item]), Weight: 1}
		w, t := weight, at
		if guess && len(row) >= 4 {
			w, t = 2, 3
		} else if guess && len(row) == 3 {
			if f, err := strconv.ParseFloat(row[2], 64); err != nil || f > 1e7 {
				t = 2
			} else {
				w = 2
			}
		}
		if w >= 0 && w < len(row) && row[w] != "" {
			if e.Weight, err = strconv.ParseFloat(row[w], 64); err != nil || math.IsNaN(e.Weight) || math.IsInf(e.Weight, 0) || e.Weight < 0 {
				return nil, bad("weight " + strconv.Quote(row[w]))
			}
		}
		if t >= 0 && t < len(row) && row[t] != "" {
			if e.At, err = parseTime(row[t]); err != nil {
				return nil, bad("time " + strconv.Quote(row[t]))
			}
		}
		if e.User == "" || e.Item == "" {
			return nil, bad("user or item is empty")
		}
		if e.Weight > 0 {
			out = append(out, e)
		}
		if len(out) > maxEvents {
			return nil, bad(fmt.Sprintf("more than %d lines", maxEvents))
		}
	}
}

func parseTime(s string) (time.Time, error) {
	if f, err := strconv.ParseFloat(s, 64); err == nil && f >= 0 && f < 1e14 {
		if f > 1e11 {
			f /= 1000
		}
		return time.Unix(int64(f), 0).UTC(), nil
	}
	return time.Parse(time.RFC3339, s)
}

// Score is one way's result.
type Score struct {
	Method   string  `json:"method"`
	Recall   float64 `json:"recall_at_20"`   // found of what could be found with 20 tracks
	NDCG     float64 `json:"ndcg_at_20"`     // the earlier in the list, the more it counts
	Coverage float64 `json:"coverage_at_20"` // share of all tracks that were recommended to anybody
}

// Result is what Run found.
type Result struct {
	Split     string       `json:"split"` // "time", or "random" for a log without times
	Events    int          `json:"events"`
	Users     int          `json:"users"` // of the first part
	Items     int          `json:"items"`
	Tried     int          `json:"tried"` // listeners who were asked for
	TrainedIn string       `json:"trained_in"`
	Chosen    model.Chosen `json:"chosen"`
	Scores    []Score      `json:"scores"`
}

// Print writes it as a table.
func (r Result) Print(w io.Writer) error {
	fmt.Fprintf(w, "%d events, %d listeners, %d tracks; split by %s; %d listeners tried\n\n", r.Events, r.Users, r.Items, r.Split, r.Tried)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "METHOD\tRECALL@20\tNDCG@20\tCOVERAGE@20\t\n")
	for _, s := range r.Scores {
		fmt.Fprintf(t, "%s\t%.4f\t%.4f\t%.1f %%\t\n", s.Method, s.Recall, s.NDCG, 100*s.Coverage)
	}
	return t.Flush()
}

// Options of Run. A zero field is its default.
type Options struct {
	Test   float64 // share of the events that is to be found: 0.2
	Most   int     // listeners tried: 5,000
	Seed   uint64
	Config model.Config
}

const (
	at    = 20
	known = 5 // tracks of a listener's first part, at least
)

// Run measures. Errors: media.ErrInvalid for a log that nothing can be learnt from.
func Run(ctx context.Context, events []Event, o Options) (Result, error) {
	o.Test, o.Most = cmp.Or(o.Test, 0.2), cmp.Or(o.Most, 5000)
	r := Result{Events: len(events)}
	rng := rand.New(rand.NewPCG(o.Seed, 3))
	var split time.Time
	train, test := map[string]map[string]*Event{}, map[string]map[string]*Event{}
	r.Split, split = splitOf(events, o.Test)
	items := map[string]bool{}
	back := map[string]bool{} // by user and item, in a random split
	for i := range events {
		e := &events[i]
		part, learn := train, true
		if r.Split == "time" {
			if e.At.After(split) {
				part, learn = test, false
			}
		} else {
			pair := e.User + "\x00" + e.Item
			if _, ok := back[pair]; !ok {
				back[pair] = rng.Float64() < o.Test
			}
			if back[pair] {
				part, learn = test, false
			}
		}
		own := part[e.User]
		if own == nil {
			own = map[string]*Event{}
			part[e.User] = own
		}
		if have := own[e.Item]; have != nil {
			have.Weight += e.Weight
			if e.At.After(have.At) {
				have.At = e.At
			}
		} else {
			copied := *e
			own[e.Item] = &copied
		}
		if learn {
			items[e.Item] = true
		}
	}
	r.Users, r.Items = len(train), len(items)
	log := model.NewLog(split, model.Limits{})
	for _, user := range slices.Sorted(maps.Keys(train)) {
		for _, item := range slices.Sorted(maps.Keys(train[user])) {
			e := train[user][item]
			log.Add(model.Play{User: user, Track: item, Heard: e.Weight, Last: e.At})
		}
	}
	begun := time.Now()
	o.Config.Seed = o.Seed
	m, err := model.Train(ctx, log, nil, o.Config)
	if errors.Is(err, model.ErrTooLittle) {
		return r, fmt.Errorf("%v: %w", err, media.ErrInvalid)
	} else if err != nil {
		return r, err
	}
	r.TrainedIn, r.Chosen = time.Since(begun).Round(10*time.Millisecond).String(), m.Chosen
	cosine := newCosine(train, m)

	var people []string
	for user, own := range train {
		if len(own) >= known && len(test[user]) > 0 {
			people = append(people, user)
		}
	}
	slices.Sort(people)
	rng.Shuffle(len(people), func(i, j int) { people[i], people[j] = people[j], people[i] })
	popular := popularity(train, m)
	methods := []string{"popularity", "item cosine", "ours", "ours, diverse"}
	sums := make([]Score, len(methods))
	covered := make([]map[int]bool, len(methods))
	for i := range covered {
		covered[i] = map[int]bool{}
	}
	for _, user := range people {
		if err := ctx.Err(); err != nil {
			return r, err
		}
		had := map[int]bool{}
		var heard []model.Heard
		for item, e := range train[user] {
			n := m.Find(item)
			if n < 0 {
				continue
			}
			had[n] = true
			h := model.Heard{Item: n, Weight: float32(e.Weight)}
			if !split.IsZero() && !e.At.IsZero() {
				h.Ago = split.Sub(e.At)
			}
			heard = append(heard, h)
		}
		slices.SortFunc(heard, func(a, b model.Heard) int { return cmp.Or(cmp.Compare(a.Ago, b.Ago), cmp.Compare(a.Item, b.Item)) })
		want := map[int]bool{}
		for item := range test[user] {
			if n := m.Find(item); n >= 0 && !had[n] { // what nobody heard before cannot be found from plays
				want[n] = true
			}
		}
		if len(want) == 0 {
			continue
		}
		leave := func(i int) bool { return had[i] }
		ours := m.Rank(model.Ask{Heard: heard[:min(len(heard), 400)], N: 200, Leave: leave})
		lists := [][]int{first(popular, leave), cosine.rank(heard, leave), numbers(ours[:min(at, len(ours))]),
			numbers(m.Diverse(ours, model.Rules{N: at, Spread: 0.2}, nil))}
		for i, list := range lists {
			ndcg, recall := model.Grade(list, want, at)
			sums[i].NDCG += ndcg
			sums[i].Recall += recall
			for _, n := range list {
				covered[i][n] = true
			}
		}
		if r.Tried++; r.Tried == o.Most {
			break
		}
	}
	if r.Tried == 0 {
		return r, fmt.Errorf("no listener has %d tracks in the first part and a new one in the second: %w", known, media.ErrInvalid)
	}
	for i, s := range sums {
		r.Scores = append(r.Scores, Score{methods[i], s.Recall / float64(r.Tried), s.NDCG / float64(r.Tried), float64(len(covered[i])) / float64(max(1, r.Items))})
	}
	return r, nil
}

// splitOf finds the moment before which all but the last share of events were; a log without times is split at random.
func splitOf(events []Event, test float64) (string, time.Time) {
	var times []int64
	for _, e := range events {
		if !e.At.IsZero() {
			times = append(times, e.At.Unix())
		}
	}
	if len(times) < len(events)*9/10 || len(times) == 0 {
		return "random", time.Time{}
	}
	slices.Sort(times)
	if times[0] == times[len(times)-1] {
		return "random", time.Time{}
	}
	return "time", time.Unix(times[int(float64(len(times)-1)*(1-test))], 0).UTC()
}

func numbers(list []model.Scored) []int {
	out := make([]int, len(list))
	for i, s := range list {
		out[i] = s.Item
	}
	return out
}

// first is the head of a list without some.
func first(list []int, leave func(int) bool) []int {
	var out []int
	for _, n := range list {
		if !leave(n) {
			if out = append(out, n); len(out) == at {
				break
			}
		}
	}
	return out
}

// popularity is the first baseline: by the number of listeners.
func popularity(train map[string]map[string]*Event, m *model.Model) []int {
	listeners := make([]int, m.Tracks)
	for _, own := range train {
		for item := range own {
			if n := m.Find(item); n >= 0 {
				listeners[n]++
			}
		}
	}
	out := make([]int, len(listeners))
	for i := range out {
		out[i] = i
	}
	slices.SortFunc(out, func(a, b int) int { return cmp.Or(cmp.Compare(listeners[b], listeners[a]), cmp.Compare(a, b)) })
	return out
}

// cosine is the second baseline: similarity of columns of log(1+weight), the 100 nearest, summed over what was heard.
type cosine struct {
	near [][]model.Scored
	sum  []float64
}

func newCosine(train map[string]map[string]*Event, m *model.Model) *cosine {
	type entry struct {
		n int
		w float64
	}
	var rows [][]entry
	byItem := make([][]int, m.Tracks)
	length := make([]float64, m.Tracks)
	for _, user := range slices.Sorted(maps.Keys(train)) {
		var row []entry
		for item, e := range train[user] {
			if n := m.Find(item); n >= 0 {
				row = append(row, entry{n, math.Log1p(e.Weight)})
			}
		}
		slices.SortFunc(row, func(a, b entry) int { return cmp.Compare(a.n, b.n) })
		for _, e := range row {
			byItem[e.n] = append(byItem[e.n], len(rows))
			length[e.n] += e.w * e.w
		}
		rows = append(rows, row)
	}
	c := &cosine{near: make([][]model.Scored, m.Tracks), sum: make([]float64, m.Tracks)}
	acc := make([]float64, m.Tracks)
	for i := range byItem {
		var touched []int
		for _, u := range byItem[i] {
			at, _ := slices.BinarySearchFunc(rows[u], i, func(e entry, i int) int { return cmp.Compare(e.n, i) })
			for _, e := range rows[u] {
				if acc[e.n] == 0 {
					touched = append(touched, e.n)
				}
				acc[e.n] += rows[u][at].w * e.w
			}
		}
		var list []model.Scored
		for _, n := range touched {
			if n != i {
				list = append(list, model.Scored{Item: n, Score: float32(acc[n] / math.Sqrt(length[i]*length[n]))})
			}
			acc[n] = 0
		}
		slices.SortFunc(list, func(a, b model.Scored) int { return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(a.Item, b.Item)) })
		c.near[i] = slices.Clone(list[:min(100, len(list))])
	}
	return c
}

func (c *cosine) rank(heard []model.Heard, leave func(int) bool) []int {
	clear(c.sum)
	var touched []int
	for _, h := range heard {
		w := math.Log1p(float64(h.Weight))
		for _, s := range c.near[h.Item] {
			if c.sum[s.Item] == 0 {
				touched = append(touched, s.Item)
			}
			c.sum[s.Item] += w * float64(s.Score)
		}
	}
	slices.SortFunc(touched, func(a, b int) int { return cmp.Or(cmp.Compare(c.sum[b], c.sum[a]), cmp.Compare(a, b)) })
	return first(touched, leave)
}
