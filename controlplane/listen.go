package controlplane

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"segue/internal/serve"
)

// listen serves until ctx ends or a worker failed. Then, in this order: not ready, time for load balancers to see that,
// long polls sent away, no new connections, and what is in service gets its time.
func (cp *ControlPlane) listen(ctx context.Context, failed <-chan error, ready func()) error {
	ln, err := serve.Listen(cp.cfg.Listen)
	if err != nil {
		return err
	}
	// A body's and an answer's time are set per operation: an upload may take an hour, a search may not.
	srv := &http.Server{Handler: cp.handler, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		ErrorLog: slog.NewLogLogger(cp.log.Handler(), slog.LevelDebug)}
	srv.RegisterOnShutdown(cp.player.EndStreams)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	ready()
	select {
	case err = <-failed:
	case err = <-served:
		return err
	case <-ctx.Done():
		cp.draining.Store(true)
		srv.SetKeepAlivesEnabled(false) // "Connection: close": clients go elsewhere with their next request
		time.Sleep(cp.cfg.Drain)
	}
	cp.stop()
	sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if serr := srv.Shutdown(sctx); serr != nil {
		_ = srv.Close()
	}
	<-served
	return err
}
