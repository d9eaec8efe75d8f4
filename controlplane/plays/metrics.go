package plays

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	describeRows     = prometheus.NewDesc("segue_plays_rows_total", "Rows inserted into ClickHouse, repeats included.", []string{"table"}, nil)
	describeBatches  = prometheus.NewDesc("segue_plays_batches_total", "Inserts into ClickHouse.", []string{"table"}, nil)
	describeDead     = prometheus.NewDesc("segue_plays_dead_total", "Messages that can never be stored, put aside.", []string{"table"}, nil)
	describeFailures = prometheus.NewDesc("segue_plays_failures_total", "Inserts that failed and are tried again.", []string{"table"}, nil)
	describeMessages = prometheus.NewDesc("segue_plays_lag_messages", "Messages in the log that are not in ClickHouse yet.", []string{"stream"}, nil)
	describeLagRows  = prometheus.NewDesc("segue_plays_lag_rows", "Rows in the log that are not in ClickHouse yet, by the mean of the messages so far.", []string{"stream"}, nil)
	describeSeconds  = prometheus.NewDesc("segue_plays_lag_seconds", "Age of the oldest message that is not in ClickHouse yet; 0: there is none.", []string{"stream"}, nil)
	describeBytes    = prometheus.NewDesc("segue_plays_log_bytes", "Bytes of the log on disk; at its bound, nothing more is taken.", []string{"stream"}, nil)
	describeBound    = prometheus.NewDesc("segue_plays_log_bound_bytes", "The bound of those bytes.", []string{"stream"}, nil)
)

// Describe implements prometheus.Collector.
func (s *Sink) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{describeRows, describeBatches, describeDead, describeFailures, describeMessages, describeLagRows, describeSeconds, describeBytes, describeBound} {
		to <- d
	}
}

// Collect implements prometheus.Collector. The lag is asked of the log, and left out while that is away.
func (s *Sink) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	log := s.reads.Load()
	for _, f := range feeds {
		c := s.tables[f.table]
		count := func(d *prometheus.Desc, n int64) {
			to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), f.table)
		}
		count(describeRows, c.rows.Load())
		count(describeBatches, c.batches.Load())
		count(describeDead, c.dead.Load())
		count(describeFailures, c.failures.Load())
		if log == nil {
			continue
		}
		lag, err := log.Lag(ctx, f.stream.Name, readerName)
		if err != nil {
			continue
		}
		gauge := func(d *prometheus.Desc, v float64) {
			to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, f.stream.Name)
		}
		mean := float64(c.rows.Load()) / float64(max(1, c.messages.Load()))
		gauge(describeMessages, float64(lag.Messages))
		gauge(describeLagRows, float64(lag.Messages)*max(mean, 1))
		gauge(describeSeconds, lag.Oldest.Seconds())
		gauge(describeBytes, float64(lag.Bytes))
		gauge(describeBound, float64(f.stream.MaxBytes))
	}
}
