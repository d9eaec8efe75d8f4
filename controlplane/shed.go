package controlplane

import (
	"container/list"
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// class says what is given up first when there is more to do than can be done; decision 0007.
type class int

const (
	browse   class = iota // finding music: the player has something on its screen already
	ordinary              // the rest
	vital                 // what plays now: playback, events, tokens, the fleet
	classes
)

func (c class) String() string { return [...]string{"browse", "ordinary", "vital"}[c] }

// priority is an operation's class, in its metadata; else it follows from what the operation is.
const priority = "priority"

var vitalPaths = []string{"/v1/playback", "/v1/events", "/v1/cmcd", "/v1/fleet/", "/v1/sessions/refresh", "/v1/me/queue", "/steering"}
var browsePaths = []string{"/v1/search", "/v1/tracks", "/v1/albums", "/v1/artists", "/v1/genres", "/v1/stats", "/v1/me/home", "/v1/me/radio", "/v1/me/releases", "/v1/playlists", "/v1/users/"}

func classOf(op *huma.Operation) class {
	if c, ok := op.Metadata[priority].(class); ok {
		return c
	}
	under := func(paths []string) bool {
		for _, p := range paths {
			if strings.HasPrefix(op.Path, p) {
				return true
			}
		}
		return false
	}
	switch {
	case op.Metadata[need] == needEdge || under(vitalPaths):
		return vital
	case op.Method == http.MethodGet && under(browsePaths):
		return browse
	}
	return ordinary
}

// The queue before the places in service. A line that never empties for queueInterval is a standing one: then nobody
// may wait for long, since waiting only makes every answer late (CoDel; in this form: "Fail at Scale", ACM Queue 2015).
const (
	queueTarget   = 20 * time.Millisecond  // a wait in a standing line
	queueInterval = 200 * time.Millisecond // a wait otherwise: a burst
)

// patience of a class, in those times.
var patience = [classes]time.Duration{browse: 1, ordinary: 5, vital: 50}

var errShed = errors.New("too busy")

// gate bounds the requests in service. The free place goes to the highest class, and in it to who came first.
type gate struct {
	places, line int // in service; waiting at most

	mu      sync.Mutex // guards the fields below
	busy    int
	waiting [classes]list.List // of *waiter
	emptyAt time.Time          // when nobody waited last
}

type waiter struct {
	in   chan error // gets nil with a place, errShed without
	at   *list.Element
	of   class
	done bool
}

// newGate makes a gate; places 0: 16 per core, at least 32. Most of a request's time is waiting for SQL.
func newGate(places int) *gate {
	if places <= 0 {
		places = max(32, 16*runtime.GOMAXPROCS(0))
	}
	return &gate{places: places, line: 16 * places, emptyAt: time.Now()}
}

// enter waits for a place; the caller gives it back with leave when the error is nil.
func (g *gate) enter(ctx context.Context, c class) error {
	g.mu.Lock()
	n := g.length()
	if n == 0 {
		g.emptyAt = time.Now()
		if g.busy < g.places {
			g.busy++
			g.mu.Unlock()
			return nil
		}
	}
	if n >= g.line && !g.evict(c) {
		g.mu.Unlock()
		return errShed
	}
	wait := queueInterval
	if time.Since(g.emptyAt) > queueInterval {
		wait = queueTarget
	}
	w := &waiter{in: make(chan error, 1), of: c}
	w.at = g.waiting[c].PushBack(w)
	g.mu.Unlock()

	timer := time.NewTimer(wait * patience[c])
	defer timer.Stop()
	var err error
	select {
	case err := <-w.in:
		return err
	case <-timer.C:
		err = errShed
	case <-ctx.Done():
		err = ctx.Err()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if w.done { // a place, or the end, came in the same moment
		return <-w.in
	}
	g.remove(w)
	return err
}

// leave gives the place to the next one.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := classes - 1; c >= 0; c-- {
		if e := g.waiting[c].Front(); e != nil {
			w := e.Value.(*waiter)
			g.remove(w)
			w.done = true
			w.in <- nil
			return
		}
	}
	g.busy--
}

// evict sends away the last one of the lowest class below c.
func (g *gate) evict(c class) bool {
	for low := range c {
		if e := g.waiting[low].Back(); e != nil {
			w := e.Value.(*waiter)
			g.remove(w)
			w.done = true
			w.in <- errShed
			return true
		}
	}
	return false
}

func (g *gate) remove(w *waiter) {
	g.waiting[w.of].Remove(w.at)
	if g.length() == 0 {
		g.emptyAt = time.Now()
	}
}

func (g *gate) length() (n int) {
	for c := range g.waiting {
		n += g.waiting[c].Len()
	}
	return n
}

// load is what the gauges show.
func (g *gate) load() (busy, waiting int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.busy, g.length()
}

// admit lets an operation begin when there is a place for it. A long poll does nothing most of its time, and a stream is
// bounded by its operator: they take none.
func (cp *ControlPlane) admit(op *huma.Operation, next http.Handler) http.Handler {
	if flagged(op, longPoll) || flagged(op, streams) {
		return next
	}
	c := classOf(op)
	waited, shed := cp.metrics.queued.WithLabelValues(c.String()), cp.metrics.shed.WithLabelValues(c.String())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		err := cp.gate.enter(r.Context(), c)
		waited.Observe(time.Since(begun).Seconds())
		if err != nil {
			shed.Inc()
			w.Header().Set("Retry-After", strconv.Itoa(1+rand.IntN(3))) // not all at once
			cp.writeProblem(w, r, newProblem(http.StatusServiceUnavailable, "overloaded", "too busy now, see Retry-After"))
			return
		}
		defer cp.gate.leave()
		next.ServeHTTP(w, r)
	})
}
