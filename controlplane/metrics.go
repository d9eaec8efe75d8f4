package controlplane

import (
	"segue/geo"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	queued   *prometheus.HistogramVec
	shed     *prometheus.CounterVec
	limited  prometheus.Counter
	steered  *prometheus.CounterVec
	dns      *prometheus.CounterVec
	replayed prometheus.Counter
	panics   prometheus.Counter
	breakers *prometheus.GaugeVec
	outboxed prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	buckets := []float64{.001, .0025, .005, .01, .025, .05, .1, .25, 1, 5, 30}
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "segue_api_requests_total", Help: "Requests by operation and status."}, []string{"operation", "status"}),
		seconds:  prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "segue_api_request_seconds", Help: "Time to answer, by operation.", Buckets: buckets}, []string{"operation"}),
		queued:   prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "segue_api_queue_seconds", Help: "Time before a place in service was free, or was given up.", Buckets: buckets}, []string{"class"}),
		shed:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "segue_api_shed_total", Help: "Requests refused with 503 because the queue was too slow."}, []string{"class"}),
		limited:  prometheus.NewCounter(prometheus.CounterOpts{Name: "segue_api_limited_total", Help: "Requests refused with 429."}),
		replayed: prometheus.NewCounter(prometheus.CounterOpts{Name: "segue_api_replayed_total", Help: "Repeats answered by their Idempotency-Key."}),
		panics:   prometheus.NewCounter(prometheus.CounterOpts{Name: "segue_api_panics_total", Help: "Requests that hit a bug."}),
		breakers: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "segue_api_breaker_state", Help: "0 closed, 1 trying, 2 open: the part is left alone."}, []string{"part"}),
		outboxed: prometheus.NewCounter(prometheus.CounterOpts{Name: "segue_api_events_outboxed_total", Help: "Play events that wait in SQL because the event log was away."}),
		steered:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "segue_steering_answers_total", Help: "Steering manifests by format and result; busy: with a long TTL for who asks too often."}, []string{"format", "result"}),
		dns:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "segue_dns_answers_total", Help: "DNS messages by what became of them: answer, refused, error, limited (truncated), dropped."}, []string{"result"}),
	}
	reg.MustRegister(m.steered, m.dns, m.requests, m.seconds, m.queued, m.shed, m.limited, m.replayed, m.panics, m.breakers, m.outboxed)
	return m
}

// places shows how old the files are that addresses are placed with.
func (m *metrics) places(reg prometheus.Registerer, l *geo.Locator) {
	for _, d := range l.Databases() {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "segue_geo_file_age_seconds", Help: "Time since the data of a file of places was built.",
			ConstLabels: prometheus.Labels{"file": d.Name}}, func() float64 { return geoAge(l, d.Name) }))
	}
}

// watch adds what is read when it is asked for.
func (m *metrics) watch(reg prometheus.Registerer, g *gate) {
	gauge := func(name, help string, f func() int) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(f()) }))
	}
	gauge("segue_api_in_service", "Requests in service.", func() int { busy, _ := g.load(); return busy })
	gauge("segue_api_waiting", "Requests that wait for a place in service.", func() int { _, waiting := g.load(); return waiting })
}
