package edge

import (
	"net"
	"sync/atomic"

	"segue/edge/transport"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"
)

// connections tells what the listener in use counts; before Serve, zeros.
type connections struct {
	of atomic.Pointer[transport.Listener]
}

func (c *connections) stats() (s transport.Stats) {
	if l := c.of.Load(); l != nil {
		s = l.Stats()
	}
	return s
}

var (
	connsOpen     = prometheus.NewDesc("segue_edge_connections", "Connections now, by what they do: serving holds a goroutine, parked does not.", []string{"state"}, nil)
	connsAccepted = prometheus.NewDesc("segue_edge_connections_accepted_total", "Connections accepted.", nil, nil)
	connsRefused  = prometheus.NewDesc("segue_edge_connections_refused_total", "Connections refused at once, by the limit that was reached.", []string{"limit"}, nil)
	connsCut      = prometheus.NewDesc("segue_edge_connections_cut_total", "Connections ended by the edge: slow in reading or writing, or idle for too long.", []string{"reason"}, nil)
)

// Describe implements prometheus.Collector.
func (c *connections) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{connsOpen, connsAccepted, connsRefused, connsCut} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *connections) Collect(out chan<- prometheus.Metric) {
	s := c.stats()
	send := func(d *prometheus.Desc, t prometheus.ValueType, v int64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, t, float64(v), labels...)
	}
	send(connsOpen, prometheus.GaugeValue, s.Open-s.Parked, "serving")
	send(connsOpen, prometheus.GaugeValue, s.Parked, "parked")
	send(connsAccepted, prometheus.CounterValue, s.Accepted)
	send(connsRefused, prometheus.CounterValue, s.RefusedTotal, "total")
	send(connsRefused, prometheus.CounterValue, s.RefusedAddr, "address")
	send(connsCut, prometheus.CounterValue, s.CutReading, "slow-request")
	send(connsCut, prometheus.CounterValue, s.CutWriting, "slow-reply")
	send(connsCut, prometheus.CounterValue, s.IdledOut, "idle")
}

// idle tells the transport when a connection is between two requests.
func idle(c net.Conn, s fasthttp.ConnState) {
	if i, ok := c.(interface{ Idle() }); ok && s == fasthttp.StateIdle {
		i.Idle()
	}
}
