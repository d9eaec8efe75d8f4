// Package registrytest is the contract of registry.Registry.
package registrytest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"segue/geo"
	"segue/internal/registry"

	"github.com/google/go-cmp/cmp"
)

// View follows a registry.
type View struct {
	mu    sync.Mutex // guards the fields below
	last  registry.Snapshot
	calls int
	busy  bool
	twice bool
}

// Watch begins to follow r until the test ends.
func Watch(t testing.TB, r registry.Registry) *View {
	v := &View{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Watch(ctx, v.take) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch: %v", err)
		}
		if v.twice {
			t.Error("take was called twice at once")
		}
	})
	return v
}

func (v *View) take(s registry.Snapshot) {
	v.mu.Lock()
	v.twice = v.twice || v.busy
	v.busy = true
	v.last = s
	v.calls++
	v.mu.Unlock()
	v.mu.Lock()
	v.busy = false
	v.mu.Unlock()
}

// Last is the last snapshot.
func (v *View) Last() registry.Snapshot {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.last
}

// Passing names the nodes that pass.
func (v *View) Passing() string {
	var out []string
	for _, e := range v.Last().Entries {
		if e.Passing {
			out = append(out, e.ID)
		}
	}
	return strings.Join(out, " ")
}

// Until waits for the nodes that pass to be these, and returns how long it took.
func (v *View) Until(t testing.TB, what, want string, within time.Duration) time.Duration {
	t.Helper()
	begun := time.Now()
	for time.Since(begun) < within {
		if v.Passing() == want && v.Last().Lost == nil {
			return time.Since(begun)
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("%s: passing are %q, want %q, within %v; %+v", what, v.Passing(), want, within, v.Last())
	return 0
}

// Beat is a node with every field set.
func Beat(i int) registry.Beat {
	return registry.Beat{ID: fmt.Sprintf("01ARZ3NDEKTSV4RRFFQ69G5F%02d", i), Name: fmt.Sprintf("eu-%d", i), Region: "eu", URL: fmt.Sprintf("http://127.0.0.1:%d", 9000+i), Version: "v1", Tier: geo.TierShield,
		CapacityBps: 2.5e9, Weight: 1.5, Load: registry.Load{Ratio: 0.25, Connections: 1234, EgressBps: 5_000_000, CPURatio: 0.125, HitRatio: 0.75, DiskRatio: 0.5}}
}

// Announcing keeps a node announced every second until stop, which returns when it does no more.
func Announcing(r registry.Registry, b registry.Beat) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			_ = r.Announce(ctx, b) // what comes of it, the reader sees
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	})
	return func() { cancel(); done.Wait() }
}

// Run checks a registry that is empty. edge and reader are two ends of one registry, and may be the same.
func Run(t *testing.T, edge, reader registry.Registry) {
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	one, two := Beat(1), Beat(2)
	v := Watch(t, reader)
	v.Until(t, "an empty registry", "", 20*time.Second)
	must(edge.Withdraw(ctx, "01NOBODY")) // no error

	stopOne := Announcing(edge, one)
	v.Until(t, "the first", one.ID, 5*time.Second)
	if d := cmp.Diff(v.Last().Entries[0].Beat, one); d != "" {
		t.Errorf("what comes out is not what went in: %s", d)
	}
	stopTwo := Announcing(edge, two)
	v.Until(t, "a second", one.ID+" "+two.ID, 5*time.Second)
	late := Watch(t, reader)
	late.Until(t, "who comes late sees the same", one.ID+" "+two.ID, 5*time.Second)

	// Announced again: the last word counts.
	stopTwo()
	two.Draining, two.Load.Ratio, two.URL = true, 0.9, "http://127.0.0.1:1"
	stopTwo = Announcing(edge, two)
	changed := func() bool {
		i := slices.IndexFunc(v.Last().Entries, func(e registry.Entry) bool { return e.ID == two.ID })
		return i >= 0 && v.Last().Entries[i].Draining && v.Last().Entries[i].URL == two.URL
	}
	for end := time.Now().Add(5 * time.Second); !changed(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("a change is not seen: %+v", v.Last())
		}
	}

	// Who falls silent does not pass; the other does.
	stopOne()
	took := v.Until(t, "a node fell silent", two.ID, 5*time.Second)
	if took > registry.DeadAfter+300*time.Millisecond {
		t.Errorf("silence was noticed after %v, want %v", took, registry.DeadAfter)
	}
	t.Logf("silence was noticed after %v", took.Round(time.Millisecond))
	stopOne = Announcing(edge, one)
	took = v.Until(t, "and is back", one.ID+" "+two.ID, 5*time.Second)
	t.Logf("a return after %v", took.Round(time.Millisecond))

	stopTwo()
	must(edge.Withdraw(ctx, two.ID))
	took = v.Until(t, "withdrawn", one.ID, 2*time.Second)
	t.Logf("a withdrawal after %v", took.Round(time.Millisecond))
	must(edge.Withdraw(ctx, two.ID))
	must(edge.Announce(ctx, two)) // and back
	v.Until(t, "back after a withdrawal", one.ID+" "+two.ID, 2*time.Second)

	// What a reader got is the reader's.
	s := v.Last()
	for i := range s.Entries {
		s.Entries[i] = registry.Entry{}
	}
	late.Until(t, "another reader's entries", one.ID+" "+two.ID, 2*time.Second)

	// Many at a time.
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			for range 5 {
				if err := edge.Announce(ctx, Beat(10+i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	for end := time.Now().Add(2 * time.Second); strings.Count(v.Passing(), " ") < 20; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("of many: %s", v.Passing())
		}
	}
	stopOne()
}
