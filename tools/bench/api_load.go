package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"segue/controlplane/api"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// operation is one of the mix. share is in percent.
type operation struct {
	name  string
	share int
	call  func(w *world, rng *rand.Rand) call
}

// call is one request of a listener.
type call struct {
	method, path string
	body         any
	want         int
}

// operations are what a listener does in a minute, as the web player does it: a song begins every three and a half minutes,
// but people skip, so a start is taken to be one request in seven; the page of a track is asked for before; a search is eight
// keystrokes; and pages of playlists and albums are opened in between. Starts write (a stream's slot, a play), all else reads. They
// take over: the run before may have been a minute ago, on other devices.
var operations = []operation{
	{"search as you type", 40, func(w *world, rng *rand.Rand) call {
		text := []rune(w.texts[rng.IntN(len(w.texts))])
		return call{http.MethodGet, "/v1/search?limit=10&q=" + url.QueryEscape(string(text[:1+rng.IntN(min(12, len(text)))])), nil, http.StatusOK}
	}},
	{"track", 20, func(w *world, rng *rand.Rand) call {
		return call{http.MethodGet, "/v1/tracks/" + w.tracks.pick(rng), nil, http.StatusOK}
	}},
	{"album", 10, func(w *world, rng *rand.Rand) call {
		return call{http.MethodGet, "/v1/albums/" + w.albums.pick(rng), nil, http.StatusOK}
	}},
	{"playlist", 8, func(w *world, rng *rand.Rand) call {
		return call{http.MethodGet, "/v1/playlists/" + w.playlists.pick(rng), nil, http.StatusOK}
	}},
	{"playlist's items", 8, func(w *world, rng *rand.Rand) call {
		return call{http.MethodGet, "/v1/playlists/" + w.playlists.pick(rng) + "/items?limit=100", nil, http.StatusOK}
	}},
	{"playback", 14, func(w *world, rng *rand.Rand) call {
		return call{http.MethodPost, "/v1/playback", map[string]any{"track_id": w.playable.pick(rng), "take_over": true}, http.StatusCreated}
	}},
}

// zipf picks ids by Zipf's law with an exponent of 0.9: the head of a catalogue is asked for most, its tail makes half of all.
type zipfIDs struct {
	ids []string
	sum []float64
}

func newZipf(ids []string) zipfIDs {
	// By what order they came says nothing of how often they are asked for.
	rng := rand.New(rand.NewPCG(3, 3))
	ids = slices.Clone(ids)
	rng.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	z := zipfIDs{ids, make([]float64, len(ids))}
	total := 0.0
	for i := range z.sum {
		total += math.Pow(float64(i+1), -0.9)
		z.sum[i] = total
	}
	return z
}

func (z zipfIDs) pick(rng *rand.Rand) string {
	return z.ids[sort.SearchFloat64s(z.sum, rng.Float64()*z.sum[len(z.sum)-1])]
}

// open is one measurement: requests begin by the clock, whether the ones before are answered or not, and each is timed from
// when it was due. What the server delays is in the figures, however much of it there is.
type open struct {
	world  *world
	rate   float64
	length time.Duration
	only   string // one operation; "": the mix

	mu    sync.Mutex // guards the fields below
	times map[string]*hdrhistogram.Histogram
	bad   map[string]int // by operation
	texts map[string]int // why
	asked int64
}

// inFlight bounds what waits: past it the server is hopelessly late, and what is due fails at once.
const inFlight = 5000

func (o *open) reset() {
	o.times, o.bad, o.texts, o.asked = map[string]*hdrhistogram.Histogram{}, map[string]int{}, map[string]int{}, 0
	for _, op := range operations {
		o.times[op.name] = newHistogram()
	}
}

// closed is no open loop: callers that ask again when they are answered.
func (o *open) closed(ctx context.Context, callers int, length time.Duration) {
	o.reset()
	var asked atomic.Int64
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), uint64(i)))
			for end := time.Now().Add(length); time.Now().Before(end) && ctx.Err() == nil; {
				op, begun := o.choose(rng), time.Now()
				why := o.world.send(ctx, op.call(o.world, rng), rng.IntN(len(o.world.sessions)), int(asked.Add(1)))
				o.note(op.name, time.Since(begun), why)
			}
		})
	}
	wg.Wait()
	o.asked = asked.Load()
}

func (o *open) run(ctx context.Context) {
	o.reset()
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	room := make(chan struct{}, inFlight)
	var wg sync.WaitGroup
	begun := time.Now()
	for due := begun; due.Sub(begun) < o.length && ctx.Err() == nil; due = due.Add(time.Duration(rng.ExpFloat64() / o.rate * float64(time.Second))) { // people come as a Poisson process
		if d := time.Until(due); d > 0 {
			time.Sleep(d)
		}
		op := o.choose(rng)
		c, who, to := op.call(o.world, rng), rng.IntN(len(o.world.sessions)), int(o.asked)
		o.asked++
		select {
		case room <- struct{}{}:
		default:
			o.note(op.name, 0, "more than 5000 wait")
			continue
		}
		wg.Go(func() {
			why := o.world.send(ctx, c, who, to)
			o.note(op.name, time.Since(due), why)
			<-room
		})
	}
	wg.Wait()
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, int64(2*time.Minute/time.Microsecond), 3)
}

func (o *open) choose(rng *rand.Rand) operation {
	n := rng.IntN(100)
	for _, op := range operations {
		if o.only == op.name || o.only == "" && n < op.share {
			return op
		}
		n -= op.share
	}
	panic("bug: shares are not 100")
}

func (o *open) note(name string, took time.Duration, why string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if why != "" {
		o.bad[name]++
		o.texts[why]++
		return
	}
	_ = o.times[name].RecordValue(min(max(1, took.Microseconds()), int64(2*time.Minute/time.Microsecond))) // within its range
}

func (o *open) all() *hdrhistogram.Histogram {
	h := newHistogram()
	for _, t := range o.times {
		h.Merge(t)
	}
	return h
}

func (o *open) sent() int { return int(o.asked) }
func (o *open) failed() (n int) {
	for _, bad := range o.bad {
		n += bad
	}
	return n
}

// why lists the reasons of failures, the most frequent first.
func (o *open) why() string {
	var list []string
	for text, n := range o.texts {
		list = append(list, fmt.Sprintf("%d x %s", n, text))
	}
	slices.Sort(list)
	if len(list) > 5 {
		list = list[:5]
	}
	return fmt.Sprint(list)
}

func (o *open) print() {
	fmt.Print("| | requests | failed | p50 | p99 | p99.9 | most |\n|---|---|---|---|---|---|---|\n")
	line := func(name string, h *hdrhistogram.Histogram, bad int) {
		fmt.Printf("| %s | %d | %d | %.1f | %.1f | %.1f | %.1f |\n", name, h.TotalCount(), bad, ms(h.ValueAtQuantile(50)), ms(h.ValueAtQuantile(99)), ms(h.ValueAtQuantile(99.9)), ms(h.Max()))
	}
	for _, op := range operations {
		line(op.name, o.times[op.name], o.bad[op.name])
	}
	line("all", o.all(), o.failed())
	if o.failed() > 0 {
		fmt.Printf("\nFailures: %s\n", o.why())
	}
}

// send sends a request to one of the replicas, and says what was wrong with the answer.
func (w *world) send(ctx context.Context, c call, who, to int) string {
	var body io.Reader
	if c.body != nil {
		b, err := json.Marshal(c.body)
		if err != nil {
			return err.Error()
		}
		body = bytes.NewReader(b)
	}
	replicas := w.platform.replicas
	req, err := http.NewRequestWithContext(ctx, c.method, "http://"+replicas[to%len(replicas)].listen+c.path, body)
	if err != nil {
		return err.Error()
	}
	req.Header.Set("Authorization", w.sessions[who].bearer.Load().(string))
	if c.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := w.http.Do(req)
	if err != nil {
		return "no answer"
	}
	defer resp.Body.Close()
	if resp.StatusCode != c.want {
		var p api.Problem
		_ = json.NewDecoder(resp.Body).Decode(&p) // what it is not, it does not say
		return fmt.Sprintf("%s %d %s", c.method, resp.StatusCode, p.Type)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return "half an answer"
	}
	return ""
}
