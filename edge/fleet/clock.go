package fleet

import (
	"net/http"
	"sync/atomic"
	"time"
)

// clock learns from the control plane's answers how far this machine's clock is off, so that an edge with a wrong clock can
// still prove who it is and say so. It moves nothing but the times in the edge's JWT.
type clock struct {
	ahead atomic.Int64 // nanoseconds, within Date's second; 0: right, or not known yet
}

// trusted is how far a clock may be off by the Date of an answer, which counts whole seconds, before it is corrected.
const trusted = 2 * time.Second

func (c *clock) now() time.Time { return time.Now().Add(-time.Duration(c.ahead.Load())) }

func (c *clock) learn(date string, sent, came time.Time) {
	at, err := http.ParseTime(date)
	if err != nil || came.Sub(sent) > 5*time.Second { // a long poll: its Date is that of no moment that we know
		return
	}
	ahead := sent.Add(came.Sub(sent) / 2).Sub(at.Add(time.Second / 2))
	if ahead.Abs() <= trusted {
		ahead = 0
	}
	c.ahead.Store(int64(ahead))
}

// through is an http.RoundTripper that learns.
type through struct {
	next  http.RoundTripper
	clock *clock
}

// RoundTrip is http.RoundTripper's.
func (t through) RoundTrip(r *http.Request) (*http.Response, error) {
	sent := time.Now()
	resp, err := t.next.RoundTrip(r)
	if err == nil {
		t.clock.learn(resp.Header.Get("Date"), sent, time.Now())
	}
	return resp, err
}
