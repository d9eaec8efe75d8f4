package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: bench run|api|origin|zipf|herd|cold|idle|soak [flags]")
		os.Exit(2)
	}
	if err := dispatch(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func dispatch(verb string, args []string) error {
	fs := flag.NewFlagSet(verb, flag.ExitOnError)
	switch verb {
	case "origin":
		var o origin
		listen := fs.String("listen", "127.0.0.1:9080", "host:port")
		fs.DurationVar(&o.delay, "delay", 0, "before the first byte")
		fs.Int64Var(&o.rate, "rate", 0, "bytes per second of one reply; 0: no limit")
		fs.Parse(args)
		return o.serve(*listen)
	case "api":
		var b apiBench
		b.flags(fs)
		fs.Parse(args)
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		return b.run(ctx)
	case "run":
		r := runner{}
		only := fs.String("only", "hot,zipf,herd,cold,idle", "which comparisons; soak is one more")
		peers := fs.String("peers", "segue,nginx,varnish,trafficserver,squid", "which servers")
		fs.IntVar(&r.rounds, "rounds", 5, "rounds of the hot comparison; medians count")
		fs.DurationVar(&r.each, "for", 3*time.Second, "length of one hot measurement")
		fs.Int64Var(&r.churn, "churn", 300<<30, "bytes fetched from the origin in a soak: a day of 100 Mbit/s with a quarter missed is 270 GB")
		fs.StringVar(&r.edge, "edge", "bin/segue-edge", "the binary")
		fs.StringVar(&r.debug, "segue-debug", "", "HOST:PORT for segue-edge's profiles")
		fs.Parse(args)
		return r.run(strings.Split(*peers, ","), strings.Split(*only, ","))
	}
	base := fs.String("base", "http://127.0.0.1:8080", "server")
	path := fs.String("path", "/", "object")
	n := fs.Int("n", 500, "connections")
	requests := fs.Int("requests", 300_000, "requests, half of them to warm up")
	rng := fs.String("range", "", "first-last")
	hold := fs.Duration("hold", 15*time.Second, "how long connections idle before their memory is read")
	pids := fs.String("pids", "", "processes of the server, with commas")
	seed := fs.Uint64("seed", 1, "of the trace")
	alpha := fs.Float64("alpha", 0.9, "of Zipf's law")
	churn := fs.Int64("churn", 10<<30, "bytes to fetch from the origin in a soak")
	stats := fs.String("origin", "http://127.0.0.1:9080", "the origin, for its counters")
	fs.Parse(args)
	switch verb {
	case "zipf":
		return zipf(*base, *stats, *n, *requests, *alpha, *seed)
	case "herd":
		return herd(*base, *path, *n)
	case "cold":
		return cold(*base, *path, *rng)
	case "soak":
		return soak(*base, *stats, *pids, *n, *churn)
	case "idle":
		return idle(*base, *path, *n, *hold, *pids)
	}
	return fmt.Errorf("%q: no such verb", verb)
}
