package serve

import (
	"context"
	"fmt"
	"net/url"

	"github.com/grafana/pyroscope-go"
)

// Profiler pushes profiles of processor and memory to a Pyroscope server, all the time.
type Profiler struct {
	Server string            // http(s)://host:port; empty: off
	App    string            // the program
	Tags   map[string]string // such as the node's name
}

// Run pushes until ctx ends. A server that is away costs the profiles of that time.
func (p Profiler) Run(ctx context.Context, ready func()) error {
	if p.Server == "" {
		ready()
		<-ctx.Done()
		return nil
	}
	if u, err := url.Parse(p.Server); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return Setupf("--pyroscope %q: want http://host:port", p.Server)
	}
	profiler, err := pyroscope.Start(pyroscope.Config{ApplicationName: p.App, ServerAddress: p.Server, Tags: p.Tags,
		ProfileTypes: []pyroscope.ProfileType{pyroscope.ProfileCPU, pyroscope.ProfileInuseSpace, pyroscope.ProfileAllocSpace, pyroscope.ProfileGoroutines}})
	if err != nil {
		return fmt.Errorf("profiler: %w", err)
	}
	ready()
	<-ctx.Done()
	return profiler.Stop()
}
