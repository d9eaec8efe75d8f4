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

	upstreamBusy     *prometheus.GaugeVec   // upstream
	upstreamWaiting  *prometheus.GaugeVec   // upstream
	upstreamRefused  *prometheus.CounterVec // upstream, reason
	upstreamFailures *prometheus.CounterVec // upstream
	breakerChanges   *prometheus.CounterVec // upstream, to
	repeats          *prometheus.CounterVec // upstream, kind
	hedgesWon        *prometheus.CounterVec // upstream
	budgetEmpty      *prometheus.CounterVec // upstream
	readAhead        prometheus.Counter
	peerRuns         *prometheus.CounterVec // result
	peersRefused     prometheus.Counter
	loops            prometheus.Counter

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
	// Upstream is the prefix of a route, or "peer" for all peers together.
	m.upstreamBusy = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "segue_edge_upstream_requests", Help: "Requests under way, by upstream."}, []string{"upstream"})
	m.upstreamWaiting = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "segue_edge_upstream_waiting", Help: "Requests that wait for a slot of their upstream."}, []string{"upstream"})
	m.upstreamRefused = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "segue_edge_upstream_refused_total", Help: "Requests not made: the queue was full, the wait too long, or the breaker open."}, []string{"upstream", "reason"})
	m.upstreamFailures = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "segue_edge_upstream_failures_total", Help: "Requests to upstreams that failed for good, after any repeat."}, []string{"upstream"})
	m.breakerChanges = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "segue_edge_breaker_changes_total", Help: "Changes of circuit breakers, by the state after."}, []string{"upstream", "to"})
	m.repeats = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "segue_edge_upstream_repeats_total", Help: "Requests made again: retry of a failure, resume of a broken body, hedge of a slow answer."}, []string{"upstream", "kind"})
	m.hedgesWon = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "segue_edge_hedges_won_total", Help: "Hedges that answered before the request they stood by."}, []string{"upstream"})
	m.budgetEmpty = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "segue_edge_repeats_refused_total", Help: "Repeats that the budget did not allow."}, []string{"upstream"})
	m.readAhead = prometheus.NewCounter(prometheus.CounterOpts{Name: "segue_edge_read_ahead_total", Help: "Fills begun ahead of a reader of a long range."})
	m.peerRuns = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "segue_edge_peer_runs_total", Help: "Runs of blocks asked of peers, by result: served, broken, down, declined."}, []string{"result"})
	m.peersRefused = prometheus.NewCounter(prometheus.CounterOpts{Name: "segue_edge_peer_identities_refused_total", Help: "Requests whose Segue-Peer was not that of a peer."})
	m.loops = prometheus.NewCounter(prometheus.CounterOpts{Name: "segue_edge_loops_total", Help: "Requests refused because they had been here before (CDN-Loop)."})
	reg.MustRegister(m.upstreamBusy, m.upstreamWaiting, m.upstreamRefused, m.upstreamFailures, m.breakerChanges, m.repeats, m.hedgesWon, m.budgetEmpty,
		m.readAhead, m.peerRuns, m.peersRefused, m.loops)
	return m
}
