package loadtest

import (
	"context"
	"sync"
	"time"
)

// clock wakes listeners at their moments: one goroutine and one timer for all of them.
type clock struct {
	begun time.Time
	run   func(l *listener) // in a goroutine of its own

	mu   sync.Mutex  // guards the fields below
	heap []*listener // by due
	poke chan struct{}
	busy sync.WaitGroup
}

func newClock(run func(*listener)) *clock {
	return &clock{begun: time.Now(), run: run, poke: make(chan struct{}, 1)}
}

// now is the time of the run.
func (c *clock) now() time.Duration { return time.Since(c.begun) }

// at is a moment of the run in the time of the world.
func (c *clock) at(d time.Duration) time.Time { return c.begun.Add(d) }

// add has l run at l.due.
func (c *clock) add(l *listener) {
	l.ready = c.now()
	c.mu.Lock()
	c.heap = append(c.heap, l)
	i := len(c.heap) - 1
	for i > 0 && c.heap[(i-1)/4].due > l.due {
		c.heap[i] = c.heap[(i-1)/4]
		i = (i - 1) / 4
	}
	c.heap[i] = l
	c.mu.Unlock()
	if i == 0 {
		select {
		case c.poke <- struct{}{}:
		default:
		}
	}
}

// pop takes the first out; c.mu is held and there is one.
func (c *clock) pop() *listener {
	first := c.heap[0]
	n := len(c.heap) - 1
	last := c.heap[n]
	c.heap[n] = nil
	c.heap = c.heap[:n]
	i := 0
	for n > 0 {
		least := -1
		for k := 4*i + 1; k < min(4*i+5, n); k++ {
			if least < 0 || c.heap[k].due < c.heap[least].due {
				least = k
			}
		}
		if least < 0 || c.heap[least].due >= last.due {
			break
		}
		c.heap[i] = c.heap[least]
		i = least
	}
	if n > 0 {
		c.heap[i] = last
	}
	return first
}

// serve wakes until ctx ends, and returns when all who were woken are done.
func (c *clock) serve(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	defer c.busy.Wait()
	for ctx.Err() == nil {
		c.mu.Lock()
		wait := time.Hour
		for len(c.heap) > 0 {
			if wait = c.heap[0].due - c.now(); wait > 0 {
				break
			}
			l := c.pop()
			c.busy.Add(1)
			go func() {
				defer c.busy.Done()
				c.run(l)
			}()
			wait = time.Hour
		}
		c.mu.Unlock()
		timer.Reset(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-c.poke:
		}
	}
}
