package serve

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/pprof"
	"time"
)

// Debug is the private listener of a process: /metrics and /debug/pprof. It must never face the internet.
type Debug struct {
	Listen  string       // host:port; empty: no listener
	Metrics http.Handler // answers /metrics
	// Also are more handlers, by the patterns of http.ServeMux.
	Also map[string]http.Handler
}

// Run serves until ctx ends.
func (d Debug) Run(ctx context.Context, ready func()) error {
	if d.Listen == "" {
		ready()
		<-ctx.Done()
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", d.Metrics)
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	for pattern, h := range d.Also {
		mux.Handle(pattern, h)
	}
	ln, err := Listen(d.Listen)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	ready()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Listen opens a TCP listener; a port in use or an address that is not ours is a SetupError that names it.
func Listen(addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, Setupf("listen on %s: %w; free the port or choose another address", addr, err)
	}
	return ln, nil
}
