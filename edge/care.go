package edge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"segue/media"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sony/gobreaker/v2"
	"golang.org/x/sync/semaphore"
)

// care is how an edge treats one upstream, an origin or a peer: so many requests at a time and no more, none while it is
// down, few repeats, and a second request where the first one dawdles. Each upstream has its own: a slow one stalls
// nobody else's. Safe for concurrent use.
//
//	perform -> race (hedge) -> attempt -> admit: queue, slot, breaker -> once
type care struct {
	upstream string // the route's prefix, or peer: in metrics and logs
	log      *slog.Logger
	metrics  *metrics
	slots    *semaphore.Weighted
	cap      int64
	busy     atomic.Int64 // slots taken
	waiting  atomic.Int64
	breaker  *gobreaker.TwoStepCircuitBreaker[struct{}]
	budget   budget
	pace     pace
	said     atomic.Int64 // when a failure was logged, Unix nanoseconds
	unsaid   atomic.Int64 // failures since then
}

const (
	originSlots = 128 // requests to one origin at once: more connections make an origin slower, not faster
	peerSlots   = 256

	originFailing = 10 // failures in a row that open the breaker
	peerFailing   = 3  // there is another way

	maxWaiting  = 1024             // for a slot of one upstream
	patience    = 5 * time.Second  // for a slot
	stallAfter  = 10 * time.Second // without a byte of a body: it is broken
	maxTries    = 3                // of one request, the first one included
	pauseBefore = 20 * time.Millisecond
	minHedge    = 20 * time.Millisecond
	logEvery    = 10 * time.Second

	breakerWindow = 10 * time.Second
	breakerFor    = 2 * time.Second // open, then half-open
	breakerProbes = 3               // at a time while half-open, and that many successes close it
)

// newCare makes the care of one upstream. It opens its breaker after failing times in a row, and when half of at least
// twenty requests within the window failed.
func newCare(upstream string, slots int64, failing uint32, log *slog.Logger, m *metrics) *care {
	c := &care{upstream: upstream, log: log, metrics: m, slots: semaphore.NewWeighted(slots), cap: slots}
	c.budget.tenths.Store(budgetBurst * 10)
	c.breaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests: breakerProbes, Interval: breakerWindow, BucketPeriod: breakerWindow / 10, Timeout: breakerFor,
		ReadyToTrip: func(n gobreaker.Counts) bool {
			return n.ConsecutiveFailures >= failing || n.Requests >= 20 && 2*n.TotalFailures >= n.Requests
		},
		IsSuccessful: func(err error) bool { return err == nil || answered(err) },
		IsExcluded:   func(err error) bool { return errors.Is(err, context.Canceled) || errors.Is(err, media.ErrBusy) },
		OnStateChange: func(_ string, from, to gobreaker.State) { // under the breaker's lock
			m.breakerChanges.WithLabelValues(upstream, to.String()).Inc()
			log.Info("circuit breaker", "upstream", upstream, "was", from.String(), "is", to.String())
		},
	})
	return c
}

// answered: the upstream did its work, and its answer is no.
func answered(err error) bool {
	return errors.Is(err, media.ErrNotFound) || errors.Is(err, media.ErrChanged) || errors.Is(err, media.ErrRange) || errors.Is(err, media.ErrInvalid)
}

// spare: there is room for what nobody waits for yet.
func (c *care) spare() bool {
	return 2*c.busy.Load() < c.cap && c.breaker.State() == gobreaker.StateClosed
}

// lease is one request under way: its slot, its context, its say in the breaker. The context's cause tells the
// upstream's time-outs (context.DeadlineExceeded) from a caller who left (context.Canceled).
type lease struct {
	care   *care
	ctx    context.Context
	cancel context.CancelCauseFunc
	done   func(error)
	told   atomic.Bool
	ended  atomic.Bool
}

// admit waits for a slot, if wait is set, and asks the breaker. Errors: media.ErrBusy, the context's.
func (c *care) admit(ctx context.Context, wait bool) (*lease, error) {
	if c.breaker.State() == gobreaker.StateOpen {
		return nil, c.refuse("breaker")
	}
	if !c.slots.TryAcquire(1) {
		if !wait {
			return nil, media.ErrBusy // nobody is worse off: it was a second request
		}
		if err := c.queue(ctx); err != nil {
			return nil, err
		}
	}
	done, err := c.breaker.Allow()
	if err != nil {
		c.slots.Release(1)
		return nil, c.refuse("breaker")
	}
	l := &lease{care: c, done: done}
	l.ctx, l.cancel = context.WithCancelCause(ctx)
	c.busy.Add(1)
	c.metrics.upstreamBusy.WithLabelValues(c.upstream).Inc()
	return l, nil
}

func (c *care) queue(ctx context.Context) error {
	defer c.waiting.Add(-1)
	if c.waiting.Add(1) > maxWaiting {
		return c.refuse("queue")
	}
	gauge := c.metrics.upstreamWaiting.WithLabelValues(c.upstream)
	gauge.Inc()
	defer gauge.Dec()
	qctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if c.slots.Acquire(qctx, 1) == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return c.refuse("patience")
}

func (c *care) refuse(reason string) error {
	c.metrics.upstreamRefused.WithLabelValues(c.upstream, reason).Inc()
	return fmt.Errorf("upstream %s: %s: %w", c.upstream, reason, media.ErrBusy)
}

// report tells the breaker how the request went. The first call counts; after it, only failures do, as requests of
// their own: a body that breaks when its head was fine.
func (l *lease) report(err error) {
	if !l.told.Swap(true) {
		l.done(err)
		return
	}
	if err != nil && !answered(err) {
		if done, busy := l.care.breaker.Allow(); busy == nil {
			done(err)
		}
	}
}

// cause makes an error that came of the end of the context say why it ended.
func (l *lease) cause(err error) error {
	if err != nil && l.ctx.Err() != nil {
		return fmt.Errorf("%w: %v", context.Cause(l.ctx), err) // err may say "canceled" of a time-out
	}
	return err
}

// end frees the slot. It may be called again.
func (l *lease) end() {
	if l.ended.Swap(true) {
		return
	}
	l.cancel(context.Canceled)
	l.care.busy.Add(-1)
	l.care.metrics.upstreamBusy.WithLabelValues(l.care.upstream).Dec()
	l.care.slots.Release(1)
}

// call is a request that can be made several times.
type call[T any] struct {
	verb         string // in metrics
	again, hedge bool   // it may be repeated after a failure; while it is under way
	once         func(context.Context) (T, error)
	drop         func(T)       // of an answer that came second
	fault        func(T) error // of the upstream, in an answer that is passed on nevertheless; nil: there is none
}

// perform makes a call. The caller ends the lease when the answer was read to its end.
func perform[T any](ctx context.Context, c *care, k call[T]) (T, *lease, error) {
	c.budget.earn()
	for try := 1; ; try++ {
		v, l, err := race(ctx, c, k)
		if err == nil || !k.again || try == maxTries || !transient(err) || !c.again(ctx, "retry") {
			return v, l, err
		}
	}
}

// again says whether the budget allows a repeat, and pauses before it.
func (c *care) again(ctx context.Context, kind string) bool {
	if ctx.Err() != nil {
		return false
	}
	if !c.budget.spend() {
		c.metrics.budgetEmpty.WithLabelValues(c.upstream).Inc()
		return false
	}
	c.metrics.repeats.WithLabelValues(c.upstream, kind).Inc()
	select {
	case <-time.After(pauseBefore/2 + rand.N(pauseBefore)):
		return true
	case <-ctx.Done():
		return false
	}
}

// transient failures may be gone a moment later; a time-out has cost the caller's time already.
func transient(err error) bool {
	return !answered(err) && !errors.Is(err, media.ErrBusy) && !errors.Is(err, media.ErrCorrupt) &&
		!errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled)
}

type result[T any] struct {
	v      T
	l      *lease
	err    error
	second bool
}

// race makes one attempt, and a second one if the first takes longer than most did lately. The first answer wins; what
// comes after it is dropped, its request cancelled.
func race[T any](ctx context.Context, c *care, k call[T]) (T, *lease, error) {
	slow := c.pace.slow()
	if !k.hedge || slow == 0 {
		return attempt(ctx, c, k, true)
	}
	rctx, stop := context.WithCancelCause(ctx)
	results, settled := make(chan result[T]), make(chan struct{})
	defer close(settled)
	begin := func(second bool) context.CancelCauseFunc {
		actx, cancel := context.WithCancelCause(rctx)
		go func() {
			r := result[T]{second: second}
			r.v, r.l, r.err = attempt(actx, c, k, !second)
			select {
			case results <- r:
			case <-settled: // lost
				if r.err == nil {
					k.drop(r.v)
					r.l.end()
				}
			}
		}()
		return cancel
	}
	cancels := []context.CancelCauseFunc{begin(false)}
	timer := time.NewTimer(max(slow, minHedge))
	defer timer.Stop()
	for running := 1; ; {
		select {
		case <-timer.C:
			if !c.budget.spend() {
				c.metrics.budgetEmpty.WithLabelValues(c.upstream).Inc()
				continue
			}
			c.metrics.repeats.WithLabelValues(c.upstream, "hedge").Inc()
			cancels = append(cancels, begin(true))
			running++
		case r := <-results:
			running--
			if r.err != nil && running > 0 {
				continue
			}
			if r.err == nil && r.second {
				c.metrics.hedgesWon.WithLabelValues(c.upstream).Inc()
			}
			for i, cancel := range cancels {
				if r.err != nil || (i == 1) != r.second {
					cancel(context.Canceled)
				}
			}
			if r.err != nil {
				stop(context.Canceled)
				return r.v, r.l, r.err
			}
			r.l.onEnd(stop)
			return r.v, r.l, nil
		case <-ctx.Done():
			stop(context.Cause(ctx))
			var none T
			return none, nil, context.Cause(ctx)
		}
	}
}

// onEnd ends a context above the lease's with it.
func (l *lease) onEnd(stop context.CancelCauseFunc) {
	own := l.cancel
	l.cancel = func(err error) { own(err); stop(err) }
}

func attempt[T any](ctx context.Context, c *care, k call[T], wait bool) (v T, l *lease, err error) {
	if l, err = c.admit(ctx, wait); err != nil {
		return v, nil, err
	}
	c.metrics.originRequests.WithLabelValues(k.verb).Inc()
	begun := time.Now()
	if v, err = k.once(l.ctx); err != nil {
		err = l.cause(err)
		l.report(err)
		l.end()
		return v, nil, err
	}
	c.pace.add(time.Since(begun))
	if k.fault != nil {
		err = k.fault(v)
	}
	l.report(err)
	return v, l, nil
}

// complain logs a failure of the upstream, at most one line per logEvery. What is no failure is not logged.
func (c *care) complain(key string, err error) {
	if err == nil || answered(err) || errors.Is(err, media.ErrBusy) || errors.Is(err, context.Canceled) {
		return
	}
	c.metrics.upstreamFailures.WithLabelValues(c.upstream).Inc()
	now, last := time.Now().UnixNano(), c.said.Load()
	if now-last < int64(logEvery) || !c.said.CompareAndSwap(last, now) {
		c.unsaid.Add(1)
		return
	}
	c.log.Warn("upstream failed", "upstream", c.upstream, "key", key, "err", err, "unlogged_before", c.unsaid.Swap(0))
}

// caredBody is the body of an answer under a lease, left bytes long; -1: its end is where it ends.
type caredBody struct {
	io.ReadCloser
	lease *lease
	timer *time.Timer
	left  int64
}

func newCaredBody(body io.ReadCloser, l *lease, length int64) *caredBody {
	timer := time.AfterFunc(time.Hour, func() { l.cancel(context.DeadlineExceeded) })
	timer.Stop()
	return &caredBody{body, l, timer, length}
}

// Read implements io.Reader. An end before its time is io.ErrUnexpectedEOF.
func (b *caredBody) Read(p []byte) (int, error) {
	b.timer.Reset(stallAfter)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	if b.left >= 0 {
		b.left = max(0, b.left-int64(n))
	}
	if err == io.EOF && b.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && err != io.EOF {
		err = b.lease.cause(err)
		b.lease.report(err)
	}
	return n, err
}

// Close implements io.Closer.
func (b *caredBody) Close() error {
	defer b.lease.end()
	b.timer.Stop()
	return b.ReadCloser.Close()
}

// breakers tells of each upstream how many breakers are open: one of a route, any number of peers'.
type breakers func() []*care

var breakersOpen = prometheus.NewDesc("segue_edge_breakers_open", "Circuit breakers that are open now.", []string{"upstream"}, nil)

// Describe implements prometheus.Collector.
func (b breakers) Describe(out chan<- *prometheus.Desc) { out <- breakersOpen }

// Collect implements prometheus.Collector.
func (b breakers) Collect(out chan<- prometheus.Metric) {
	open := map[string]float64{}
	for _, c := range b() {
		open[c.upstream] += 0
		if c.breaker.State() == gobreaker.StateOpen {
			open[c.upstream]++
		}
	}
	for upstream, n := range open {
		out <- prometheus.MustNewConstMetric(breakersOpen, prometheus.GaugeValue, n, upstream)
	}
}

// budgetBurst is how many repeats are allowed at once; each request adds a tenth of one.
const budgetBurst = 10

// budget bounds repeats to a tenth of the requests, so that they cannot multiply the load of an upstream in trouble.
type budget struct{ tenths atomic.Int64 }

func (b *budget) earn() {
	if b.tenths.Load() < budgetBurst*10 { // may pass it by as many as call at once: of no consequence
		b.tenths.Add(1)
	}
}

func (b *budget) spend() bool {
	for {
		n := b.tenths.Load()
		if n < 10 {
			return false
		}
		if b.tenths.CompareAndSwap(n, n-10) {
			return true
		}
	}
}

// pace estimates the 95th percentile of recent times to the first byte, from the last of them.
type pace struct {
	recent [64]atomic.Int64 // nanoseconds, a ring
	next   atomic.Uint64
	p95    atomic.Int64 // 0: too few were seen
}

const paceStep = 16 // samples between two estimates

func (p *pace) add(d time.Duration) {
	n := p.next.Add(1)
	p.recent[n%uint64(len(p.recent))].Store(max(1, int64(d)))
	if n%paceStep != 0 || n < 2*paceStep {
		return
	}
	times := make([]int64, 0, len(p.recent))
	for i := range p.recent {
		if t := p.recent[i].Load(); t > 0 {
			times = append(times, t)
		}
	}
	slices.Sort(times)
	p.p95.Store(times[len(times)*95/100])
}

// slow is the time after which a request is slower than nearly all were; 0: not known yet.
func (p *pace) slow() time.Duration { return time.Duration(p.p95.Load()) }
