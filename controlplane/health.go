package controlplane

import (
	"context"
	"strings"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/fleet"
	"segue/internal/registry"
	"segue/internal/serve"

	"github.com/prometheus/client_golang/prometheus"
)

// beats is the subject on which replicas tell each other of heartbeats: a load balancer gives each edge to one of them.
const beats = "fleet.beats"

// openHealth wires what is heard of edges: heartbeats, probes, listeners, and Consul.
func (cp *ControlPlane) openHealth(reg prometheus.Registerer) (err error) {
	cp.health = registry.NewHealth(registry.HealthConfig{Rules: cp.cfg.Health, Log: cp.log}, &registry.Memory{})
	cp.fleet = fleet.New(cp.db, cp.health, cp.verifyKeys)
	if cp.cfg.Replicas > 1 {
		cp.fleet.Share = func(body []byte) {
			if err := cp.events.Publish(beats, body); err != nil {
				cp.log.Debug("a heartbeat is not told to the other replicas", "err", err)
			}
		}
	}
	if cp.cfg.Registry.URL != "" {
		if cp.consul, err = registry.OpenConsul(cp.cfg.Registry); err != nil {
			return serve.SetupError{Err: err}
		}
	}
	reg.MustRegister(healthMetrics{cp.health})
	return nil
}

func (cp *ControlPlane) startHealth(start func(string, func(context.Context) error), background func(string, func(context.Context, func(error)) error)) {
	background("edges", cp.fleet.WatchHealth)
	start("probes", cp.health.Run)
	if cp.fleet.Share != nil {
		start("heartbeats of other replicas", func(ctx context.Context) error {
			return cp.events.Subscribe(ctx, beats, nil, func(_ string, body []byte) { cp.fleet.Shared(body) })
		})
	}
	if cp.consul != nil {
		start("consul", func(ctx context.Context) error { return cp.consul.Watch(ctx, cp.health.Outside) })
	}
}

// opinions tells the registry what a listener found at edges. The events are durable by then.
func (cp *ControlPlane) opinions(userID string, events []api.Event, fate api.EventsAccepted) {
	rejected := make(map[string]bool, len(fate.Results))
	for _, r := range fate.Results {
		rejected[r.ID] = true
	}
	now := time.Now()
	for _, e := range events {
		// What a player sends late says nothing of now.
		if e.Edge == "" || rejected[e.ID] || e.LicenceID != "" || now.Sub(e.At).Abs() > time.Minute {
			continue
		}
		edge, _, _ := strings.Cut(e.Edge, ".") // a pathway of a renewed token: eu-1.t2
		switch e.Type {
		case api.EventStart, api.EventProgress:
			cp.health.Report(edge, userID, true, now)
		case api.EventError:
			cp.health.Report(edge, userID, false, now)
		}
	}
}

// healthMetrics shows the fleet as this replica sees it.
type healthMetrics struct{ *registry.Health }

var (
	edgesDesc    = prometheus.NewDesc("segue_fleet_edges", "Edges as this replica sees them.", []string{"state"}, nil)
	skewDesc     = prometheus.NewDesc("segue_fleet_clock_skew_seconds", "The largest distance of an edge's clock from ours.", nil, nil)
	ownClockDesc = prometheus.NewDesc("segue_fleet_own_clock_wrong", "1: most edges have another time than this replica.", nil, nil)
	knownDesc    = prometheus.NewDesc("segue_fleet_last_known_age_seconds", "Age of the oldest thing that players are still sent by: 0 while every edge in use is heard or answers.", nil, nil)
	outsideDesc  = prometheus.NewDesc("segue_registry_age_seconds", "Time since Consul was heard.", nil, nil)
)

// Describe is prometheus.Collector's.
func (m healthMetrics) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{edgesDesc, skewDesc, ownClockDesc, knownDesc, outsideDesc} {
		c <- d
	}
}

// Collect is prometheus.Collector's.
func (m healthMetrics) Collect(c chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	now := time.Now()
	n := map[string]int{"up": 0, "down": 0, "damped": 0, "held": 0, "clock-wrong": 0}
	var skew, age time.Duration
	for _, e := range m.Conditions(now) {
		v := e.Verdict
		switch {
		case v.Up && v.Held && v.Beat != registry.Up:
			n["held"]++
			last := e.Heard
			if last.IsZero() {
				last = e.Known
			}
			age = max(age, now.Sub(last))
		case v.Up:
			n["up"]++
		case v.Suppressed:
			n["damped"]++
		default:
			n["down"]++
		}
		if v.ClockWrong {
			n["clock-wrong"]++ // also one of the others
		}
		skew = max(skew, e.Skew.Abs())
	}
	for state, count := range n {
		gauge(edgesDesc, float64(count), state)
	}
	gauge(skewDesc, skew.Seconds())
	gauge(knownDesc, age.Seconds())
	own := 0.0
	if m.OurClock() {
		own = 1
	}
	gauge(ownClockDesc, own)
	if age, ok := m.OutsideAge(now); ok {
		gauge(outsideDesc, age.Seconds())
	}
}
