package edge

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"segue/media"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sony/gobreaker/v2"
)

// testCare is a care with its own metrics and log.
func testCare(slots int64) (*care, *prometheus.Registry, *bytes.Buffer) {
	reg, out := prometheus.NewRegistry(), &bytes.Buffer{}
	return newCare("/", slots, originFailing, slog.New(slog.NewTextHandler(out, nil)), newMetrics(reg)), reg, out
}

// metric adds up the samples of a family whose labels have all the values given.
func metric(t *testing.T, reg *prometheus.Registry, name string, labels ...string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	samples:
		for _, m := range f.GetMetric() {
			for _, want := range labels {
				found := false
				for _, l := range m.GetLabel() {
					found = found || l.GetValue() == want
				}
				if !found {
					continue samples
				}
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

var errDown = errors.New("connection refused")

func TestSlotsAreBoundedAndWaitsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, reg, _ := testCare(2)
		a, err := c.admit(t.Context(), true)
		if err != nil {
			t.Fatal(err)
		}
		b, err := c.admit(t.Context(), true)
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		if _, err := c.admit(t.Context(), true); !errors.Is(err, media.ErrBusy) || time.Since(begun) != patience {
			t.Errorf("got %v after %v, want busy after %v", err, time.Since(begun), patience)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun = time.Now()
		if _, err := c.admit(ctx, true); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != time.Second {
			t.Errorf("got %v after %v, want the caller's own end", err, time.Since(begun))
		}
		got := make(chan error)
		go func() {
			l, err := c.admit(t.Context(), true)
			if err == nil {
				l.end()
			}
			got <- err
		}()
		synctest.Wait()
		a.end()
		a.end() // ends once
		if err := <-got; err != nil {
			t.Error(err)
		}
		b.end()
		c.waiting.Store(maxWaiting)
		c.slots.TryAcquire(2)
		if _, err := c.admit(t.Context(), true); !errors.Is(err, media.ErrBusy) {
			t.Errorf("got %v from a full queue", err)
		}
		if n := metric(t, reg, "segue_edge_upstream_requests"); n != 0 || c.busy.Load() != 0 {
			t.Errorf("%v under way at the end", n)
		}
		for _, reason := range []string{"patience", "queue"} {
			if n := metric(t, reg, "segue_edge_upstream_refused_total", reason); n != 1 {
				t.Errorf("refused for %s: %v, want 1", reason, n)
			}
		}
	})
}

func TestBreakerOpensProbesAndCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, reg, _ := testCare(8)
		calls, failure := 0, error(errDown)
		try := func() error {
			_, l, err := perform(t.Context(), c, call[int]{verb: "get", once: func(context.Context) (int, error) { calls++; return 0, failure }})
			if err == nil {
				l.end()
			}
			return err
		}
		for range originFailing {
			if err := try(); !errors.Is(err, errDown) {
				t.Fatal(err)
			}
		}
		if err := try(); !errors.Is(err, media.ErrBusy) || calls != originFailing {
			t.Errorf("%v after %d calls: the breaker is not open", err, calls)
		}
		time.Sleep(breakerFor + time.Millisecond)
		if err := try(); !errors.Is(err, errDown) { // a probe; it fails
			t.Error(err)
		}
		if err := try(); !errors.Is(err, media.ErrBusy) {
			t.Error("a failed probe left the breaker half-open")
		}
		time.Sleep(breakerFor + time.Millisecond)
		failure = nil
		for range breakerProbes {
			if err := try(); err != nil {
				t.Error(err)
			}
		}
		if c.breaker.State() != gobreaker.StateClosed {
			t.Errorf("%v after good probes", c.breaker.State())
		}
		failure = media.ErrNotFound // an answer
		for range 3 * originFailing {
			_ = try()
		}
		failure = context.Canceled // a caller who left
		for range 3 * originFailing {
			_ = try()
		}
		if c.breaker.State() != gobreaker.StateClosed {
			t.Errorf("%v after answers of no and callers who left", c.breaker.State())
		}
		if n := metric(t, reg, "segue_edge_breaker_changes_total", "open"); n != 2 {
			t.Errorf("opened %v times, want 2", n)
		}
	})
}

// A body that breaks counts although its head was fine.
func TestBrokenBodiesOpenTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, _ := testCare(8)
		for range 20 {
			_, l, err := perform(t.Context(), c, call[int]{verb: "get", once: func(context.Context) (int, error) { return 0, nil }})
			if err != nil {
				break
			}
			body := newCaredBody(io.NopCloser(strings.NewReader("half")), l, 8)
			if _, err := io.ReadAll(body); err != io.ErrUnexpectedEOF {
				t.Errorf("got %v of a short body", err)
			}
			body.Close()
		}
		if c.breaker.State() != gobreaker.StateOpen {
			t.Error(c.breaker.State())
		}
	})
}

func TestRepeatsAreATenth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, reg, _ := testCare(8)
		calls := 0
		for i := range 1000 {
			// One of ten fails on each try: a rate that no breaker stops.
			_, l, err := perform(t.Context(), c, call[int]{verb: "get", again: true, once: func(context.Context) (int, error) {
				calls++
				if i%10 == 0 {
					return 0, errDown
				}
				return 0, nil
			}})
			if err == nil {
				l.end()
			}
		}
		if repeats := calls - 1000; repeats < 50 || repeats > 1000/10+budgetBurst {
			t.Errorf("%d repeats of 1000 requests", repeats)
		} else if n := metric(t, reg, "segue_edge_upstream_repeats_total", "retry"); int(n) != repeats {
			t.Errorf("%v counted, %d made", n, repeats)
		}
		if metric(t, reg, "segue_edge_repeats_refused_total") == 0 {
			t.Error("no repeat was refused")
		}
	})
}

func TestHedge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, reg, _ := testCare(8)
		var calls, cancelled, dropped atomic.Int32
		stuck := false
		k := call[int32]{verb: "get", hedge: true, drop: func(int32) { dropped.Add(1) }}
		k.once = func(ctx context.Context) (int32, error) {
			n := calls.Add(1)
			if stuck && n%2 == 1 {
				<-ctx.Done()
				cancelled.Add(1)
				return 0, ctx.Err()
			}
			time.Sleep(5 * time.Millisecond)
			return n, nil
		}
		for range 2 * paceStep {
			_, l, err := perform(t.Context(), c, k)
			if err != nil {
				t.Fatal(err)
			}
			l.end()
		}
		if calls.Load() != 2*paceStep {
			t.Errorf("%d calls while nothing was slow", calls.Load())
		}
		stuck = true
		calls.Store(0)
		begun := time.Now()
		n, l, err := perform(t.Context(), c, k)
		if err != nil || n != 2 || time.Since(begun) != minHedge+5*time.Millisecond {
			t.Errorf("call %d answered after %v: %v", n, time.Since(begun), err)
		}
		synctest.Wait()
		if cancelled.Load() != 1 || c.busy.Load() != 1 {
			t.Errorf("%d losers cancelled, %d slots taken", cancelled.Load(), c.busy.Load())
		}
		if l.ctx.Err() != nil {
			t.Error("the winner was cancelled with the loser")
		}
		l.end()
		if l.ctx.Err() == nil || c.busy.Load() != 0 {
			t.Error("the winner did not end")
		}
		// A loser that answers all the same is dropped, and a hedge whose budget is gone is not made.
		k.once = func(context.Context) (int32, error) {
			n := calls.Add(1)
			time.Sleep(minHedge + 5*time.Millisecond + time.Duration(n%2)*30*time.Millisecond)
			return n, nil
		}
		calls.Store(0)
		for range 3 * budgetBurst {
			_, l, err := perform(t.Context(), c, k)
			if err != nil {
				t.Fatal(err)
			}
			l.end()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		hedges := metric(t, reg, "segue_edge_upstream_repeats_total", "hedge")
		if dropped.Load() == 0 || hedges > budgetBurst+10 || c.busy.Load() != 0 {
			t.Errorf("%d dropped of %v hedges, %d slots taken", dropped.Load(), hedges, c.busy.Load())
		}
		if metric(t, reg, "segue_edge_hedges_won_total") == 0 {
			t.Error("no hedge won")
		}
	})
}

func TestStallIsATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, out := testCare(8)
		_, l, err := perform(t.Context(), c, call[int]{verb: "get", once: func(context.Context) (int, error) { return 0, nil }})
		if err != nil {
			t.Fatal(err)
		}
		body := newCaredBody(stalled{l.ctx}, l, 10)
		begun := time.Now()
		if _, err := body.Read(make([]byte, 1)); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != stallAfter {
			t.Errorf("got %v after %v", err, time.Since(begun))
		}
		body.Close()
		for range 100 {
			c.complain("some/key", context.DeadlineExceeded)
		}
		if n := strings.Count(out.String(), "some/key"); n != 1 {
			t.Errorf("%d lines of 100 failures: %s", n, out)
		}
		time.Sleep(logEvery)
		c.complain("other", context.DeadlineExceeded)
		if !strings.Contains(out.String(), "unlogged_before=99") {
			t.Errorf("what was not logged is not told: %s", out)
		}
	})
}

type stalled struct{ ctx context.Context }

func (s stalled) Read([]byte) (int, error) { <-s.ctx.Done(); return 0, s.ctx.Err() }
func (s stalled) Close() error             { return nil }
