package edge

import "github.com/prometheus/client_golang/prometheus"

// diskMetrics counts what the disk tier does.
type diskMetrics struct {
	hits    prometheus.Counter
	misses  prometheus.Counter
	written prometheus.Counter
	kept    prometheus.Counter
	refused *prometheus.CounterVec // reason
	evicted prometheus.Counter
	faults  *prometheus.CounterVec // op
	failing *prometheus.GaugeVec   // op
}

// The reasons for which an admitted block is not kept.
const (
	refusedQueue   = "queue"   // the writers are behind
	refusedFailing = "failing" // the disk failed lately
	refusedBusy    = "busy"    // its place is being cleared
)

// newDiskMetrics registers them; used and objects are read at each scrape.
func newDiskMetrics(reg prometheus.Registerer, used, objects func() float64) *diskMetrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "segue_edge_disk_" + name, Help: help})
	}
	m := &diskMetrics{
		hits:    counter("hits_total", "Blocks read from the disk that matched their checksum."),
		misses:  counter("misses_total", "Blocks asked of the disk that it did not have."),
		written: counter("written_bytes_total", "Bytes of blocks written."),
		kept:    counter("admitted_total", "Blocks missed for the second time and queued for the disk."),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "segue_edge_disk_refused_total", Help: "Admitted blocks that were not kept, by reason."}, []string{"reason"}),
		evicted: counter("evicted_bytes_total", "Bytes of blocks that left the disk for others."),
		faults:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "segue_edge_disk_faults_total", Help: "Operations on the disk that failed, and blocks that did not match their checksum."}, []string{"op"}),
		failing: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "segue_edge_disk_failing", Help: "1 while the disk is passed by because it failed."}, []string{"op"}),
	}
	for _, op := range []string{opRead, opWrite} {
		m.failing.WithLabelValues(op).Set(0)
	}
	for _, op := range []string{opRead, opWrite, opChecksum, opIndex, opMetas} {
		m.faults.WithLabelValues(op).Add(0)
	}
	for _, reason := range []string{refusedQueue, refusedFailing, refusedBusy} {
		m.refused.WithLabelValues(reason).Add(0)
	}
	reg.MustRegister(m.hits, m.misses, m.written, m.kept, m.refused, m.evicted, m.faults, m.failing,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "segue_edge_disk_used_bytes", Help: "Bytes of blocks on the disk."}, used),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "segue_edge_disk_objects", Help: "Objects with blocks on the disk."}, objects))
	return m
}
