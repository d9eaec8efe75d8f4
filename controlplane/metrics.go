package controlplane

import (
	"segue/geo"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	limited  prometheus.Counter
	steered  *prometheus.CounterVec
	dns      *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "segue_api_requests_total", Help: "Requests by operation and status."}, []string{"operation", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "segue_api_request_seconds", Help: "Time to answer, by operation.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, 1, 5, 30}}, []string{"operation"}),
		limited: prometheus.NewCounter(prometheus.CounterOpts{Name: "segue_api_limited_total", Help: "Requests refused with 429."}),
		steered: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "segue_steering_answers_total", Help: "Steering manifests by format and result; busy: with a long TTL for who asks too often."}, []string{"format", "result"}),
		dns:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "segue_dns_answers_total", Help: "DNS messages by what became of them: answer, refused, error, limited (truncated), dropped."}, []string{"result"}),
	}
	reg.MustRegister(m.requests, m.seconds, m.limited, m.steered, m.dns)
	return m
}

// places shows how old the files are that addresses are placed with.
func (m *metrics) places(reg prometheus.Registerer, l *geo.Locator) {
	for _, d := range l.Databases() {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "segue_geo_file_age_seconds", Help: "Time since the data of a file of places was built.",
			ConstLabels: prometheus.Labels{"file": d.Name}}, func() float64 { return geoAge(l, d.Name) }))
	}
}
