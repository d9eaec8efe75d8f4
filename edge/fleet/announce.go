package fleet

import (
	"context"
	"time"

	"segue/controlplane/api"
	"segue/geo"
	"segue/internal/registry"
)

const (
	announceEvery = time.Second
	withdrawTime  = 2 * time.Second // at the end
)

// announce keeps this edge in the registry until ctx ends, or out of it while it drains. It goes its own pace: a control
// plane that does not answer must not make the registry believe that this edge is dead.
func (m *Member) announce(ctx context.Context) {
	tick := time.NewTicker(announceEvery)
	defer tick.Stop()
	in, lost := false, false
	for {
		var err error
		switch out := m.out.Load(); {
		case !out:
			err = m.cfg.Registry.Announce(ctx, m.beat())
			in = in || err == nil
		case in:
			if err = m.cfg.Registry.Withdraw(ctx, m.joined.EdgeID); err == nil {
				in = false
			}
		}
		if was := lost; (err != nil) != was && ctx.Err() == nil {
			if lost = err != nil; lost {
				m.log.Warn("the registry is out of reach, trying on", "err", err)
			} else {
				m.log.Info("the registry is back")
			}
		}
		select {
		case <-ctx.Done():
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), withdrawTime)
			defer cancel()
			if err := m.cfg.Registry.Withdraw(end, m.joined.EdgeID); err != nil {
				m.log.Warn("the registry does not know of the end", "err", err)
			}
			return
		case <-tick.C:
		}
	}
}

// beat is the last heartbeat, as the registry has it.
func (m *Member) beat() registry.Beat {
	b := registry.Beat{ID: m.joined.EdgeID, Name: m.cfg.Name, Region: m.joined.Region, URL: m.cfg.PublicURL, Version: m.cfg.Version, Tier: geo.Tier(m.cfg.Tier),
		CapacityBps: m.cfg.CapacityBps, Weight: m.cfg.Weight}
	if h, ok := m.said.Load().(api.Heartbeat); ok {
		b.Load = registry.Load{Ratio: load(h), Connections: h.Connections, EgressBps: h.EgressBps, CPURatio: h.CPURatio, HitRatio: h.HitRatio}
		if h.DiskSizeBytes > 0 {
			b.Load.DiskRatio = float64(h.DiskBytes) / float64(h.DiskSizeBytes)
		}
	}
	return b
}

// load is the most used of what an edge can run out of, 0..1.
func load(h api.Heartbeat) float64 {
	ratio := h.CPURatio
	if h.CapacityBps > 0 {
		ratio = max(ratio, float64(h.EgressBps)/h.CapacityBps)
	}
	if h.MaxConnections > 0 {
		ratio = max(ratio, float64(h.Connections)/float64(h.MaxConnections))
	}
	return min(1, ratio)
}
