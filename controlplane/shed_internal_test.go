package controlplane

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestOverload: three times what the gate can serve, for ten seconds of a bubble's time. Browsing pays for it, what plays
// does not, and nobody's answer is late.
func TestOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const places, work = 8, 10 * time.Millisecond // 800 a second
		g := newGate(places)
		var served, shed [classes]atomic.Int64
		var slowest [classes]atomic.Int64
		one := func(c class) {
			begun := time.Now()
			err := g.enter(t.Context(), c)
			if waited := int64(time.Since(begun)); waited > slowest[c].Load() {
				slowest[c].Store(waited)
			}
			if err != nil {
				shed[c].Add(1)
				return
			}
			defer g.leave()
			served[c].Add(1)
			time.Sleep(work)
		}
		for i := range 10_000 { // one each millisecond of each: 1000 browse, 1000 browse, 400 vital
			go one(browse)
			go one(browse)
			if i%5 < 2 {
				go one(vital)
			}
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if n := shed[vital].Load(); n != 0 {
			t.Errorf("%d vital requests were shed with browsing to shed", n)
		}
		if n := served[vital].Load(); n != 4000 {
			t.Errorf("%d of 4000 vital requests were served", n)
		}
		if n := served[browse].Load(); n < 3800 || n > 4200 { // what is left of 8000 places
			t.Errorf("%d browse requests were served: the places were not used", n)
		}
		if d := time.Duration(slowest[vital].Load()); d > 2*work {
			t.Errorf("a vital request waited %v", d)
		}
		if d := time.Duration(slowest[browse].Load()); d > queueInterval {
			t.Errorf("a browse request waited %v", d)
		}
		t.Logf("served %d browse, %d vital; shed %d browse; slowest %v and %v", served[browse].Load(), served[vital].Load(), shed[browse].Load(),
			time.Duration(slowest[browse].Load()), time.Duration(slowest[vital].Load()))
		if busy, waiting := g.load(); busy != 0 || waiting != 0 {
			t.Errorf("%d busy and %d waiting after the end", busy, waiting)
		}
	})
}

// TestFullLine: a full line sends away the lowest class, the newest first.
func TestFullLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(1)
		g.line = 2
		if err := g.enter(t.Context(), ordinary); err != nil {
			t.Fatal(err)
		}
		results := make(chan string, 3)
		wait := func(name string, c class) {
			go func() {
				if err := g.enter(t.Context(), c); err != nil {
					name += " shed"
				}
				results <- name
			}()
			synctest.Wait()
		}
		wait("first", browse)
		wait("second", browse)
		if err := g.enter(t.Context(), browse); !errors.Is(err, errShed) {
			t.Errorf("a full line took one more: %v", err)
		}
		wait("vital", vital)
		if got := <-results; got != "second shed" {
			t.Error(got)
		}
		for _, want := range []string{"vital", "first"} {
			g.leave()
			if got := <-results; got != want {
				t.Errorf("%s came before %s", got, want)
			}
		}
		g.leave()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := g.enter(ctx, browse); err != nil {
			t.Error("a free place is not given: ", err)
		}
	})
}
