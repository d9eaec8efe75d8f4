package edge

import (
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests       *prometheus.CounterVec // status class, tier
	servedBytes    prometheus.Counter
	filledBytes    *prometheus.CounterVec // tier
	originRequests *prometheus.CounterVec // verb
	coalesced      prometheus.Counter
	staleOnError   prometheus.Counter
	staleWhile     prometheus.Counter
	evicted        prometheus.Counter
	refused        *prometheus.CounterVec // reason
	tokensVerified prometheus.Counter
	firstByte      prometheus.Histogram

	seen [600][6]atomic.Pointer[seen] // by status
}

// answered counts a reply. The counters of what was seen before are found without a look at their labels.
func (m *metrics) answered(status int, tier Tier) {
	if status < 0 || status >= len(m.seen) {
		status = 0
	}
	c := &m.seen[status]
	for i := range c {
		p := c[i].Load()
		if p == nil {
			p = &seen{tier, m.requests.WithLabelValues(strconv.Itoa(status), string(tier))}
			if !c[i].CompareAndSwap(nil, p) {
				p = c[i].Load()
			}
		}
		if p.tier == tier {
			p.Inc()
			return
		}
	}
	m.requests.WithLabelValues(strconv.Itoa(status), string(tier)).Inc()
}

// seen is the counter of one status and tier.
type seen struct {
	tier Tier
	prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		requests:       prometheus.NewCounterVec(prometheus.CounterOpts{Name: "segue_edge_requests_total", Help: "Requests by status and by the tier of their first byte."}, []string{"status", "tier"}),
		servedBytes:    prometheus.NewCounter(prometheus.CounterOpts{Name: "segue_edge_served_bytes_total", Help: "Body bytes promised to players."}),
		filledBytes:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "segue_edge_filled_bytes_total", Help: "Bytes brought into memory, by the tier they came from."}, []string{"tier"}),
		originRequests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "segue_edge_origin_requests_total", Help: "Requests to origins."}, []string{"verb"}),
		coalesced:      prometheus.NewCounter(prometheus.CounterOpts{Name: "segue_edge_coalesced_total", Help: "Waits on a block that somebody else was filling."}),
		staleOnError:   prometheus.NewCounter(prometheus.CounterOpts{Name: "segue_edge_stale_on_error_total", Help: "Stale responses that stood for an origin that failed."}),
		staleWhile:     prometheus.NewCounter(prometheus.CounterOpts{Name: "segue_edge_stale_while_revalidate_total", Help: "Stale responses that were used while the origin was asked."}),
		evicted:        prometheus.NewCounter(prometheus.CounterOpts{Name: "segue_edge_memory_evicted_total", Help: "Blocks that left memory for others."}),
		refused:        prometheus.NewCounterVec(prometheus.CounterOpts{Name: "segue_edge_refused_total", Help: "Requests refused for their token."}, []string{"reason"}),
		tokensVerified: prometheus.NewCounter(prometheus.CounterOpts{Name: "segue_edge_tokens_verified_total", Help: "Signatures checked."}),
		firstByte: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "segue_edge_first_byte_seconds", Help: "From request to first block.",
			Buckets: []float64{.00005, .0001, .0005, .001, .005, .01, .05, .1, .5, 1, 5}}),
	}
	reg.MustRegister(m.requests, m.servedBytes, m.filledBytes, m.originRequests, m.coalesced, m.staleOnError, m.staleWhile, m.evicted, m.refused, m.tokensVerified, m.firstByte)
	return m
}
