package registry_test

import (
	"math"
	"testing"
	"time"

	"segue/geo"
	"segue/internal/registry"
)

func TestLoadIsSmoothed(t *testing.T) {
	var m registry.Memory
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	beat := func(after time.Duration, load, want float64) {
		t.Helper()
		now = now.Add(after)
		m.Announce(geo.Node{ID: "a", Name: "a", LoadRatio: load}, now)
		if got := m.Nodes(now)[0].LoadRatio; math.Abs(got-want) > 1e-9 {
			t.Errorf("load %f, want %f", got, want)
		}
	}
	beat(0, 0.2, 0.2)
	beat(2*time.Second, 1, 0.4) // one busy moment
	beat(2*time.Second, 0.2, 0.35)
	beat(registry.DeadAfter, 0.9, 0.9) // it was away: nothing of before counts
}
