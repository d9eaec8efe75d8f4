package main

import (
	"context"
	"fmt"
	"os"

	"segue/internal/serve"
	"segue/loadtest/sim"

	"golang.org/x/term"
)

// Sim is `segue sim`.
type Sim struct {
	People   float64         `help:"Who listen in a month." default:"1e6"`
	Hours    float64         `help:"That each of them listens in a month." default:"25"`
	Config   string          `help:"JSON file with the rest: population, regions, popularity, policy; flags count before it." name:"world" type:"path" placeholder:"FILE"`
	Log      string          `help:"Fit the popularity to this play log: CSV with a header, a line per play; or track and count." name:"play-log" type:"path" placeholder:"FILE"`
	Tracks   float64         `help:"Tracks of the catalogue, when --zipf is given." default:"1e6"`
	Zipf     float64         `help:"Popularity by Zipf's law with this exponent; default: Luminate's curve of 2025." placeholder:"EXPONENT"`
	Memory   serve.ByteCount `help:"Blocks in memory, each edge." default:"64GiB"`
	Disk     serve.ByteCount `help:"Blocks on disk, each edge." default:"4TiB"`
	Gbps     float64         `help:"That an edge sends, Gbit/s." default:"20"`
	DiskGbps float64         `help:"That its disk reads, Gbit/s." default:"16"`
	Requests float64         `help:"Of segments per second that an edge answers." default:"60000"`
	Origin   float64         `help:"That the origin sends, Gbit/s; 0: not said." default:"0"`
	Reserve  float64         `help:"Part of a region's capacity that its peak leaves free." default:"0.3"`
	Fail     string          `help:"Region that fails at its peak, or none; default: the largest." placeholder:"REGION"`
	Plays    float64         `help:"Plays simulated per day and replica, about: more are slower, and nearer." default:"1e6"`
	Replicas int             `help:"Runs with other samples, for the error of the sampling." default:"3"`
	WarmDays float64         `help:"Days before the one that counts." default:"1"`
	Seed     uint64          `help:"Of everything that is drawn." default:"1"`
	AskOnce  bool            `help:"What if an edge counted a play as one request for a block, and not each of its segments."`
	JSON     string          `help:"Write the plan here." name:"json" type:"path" placeholder:"FILE"`
}

// Run plans capacity.
func (c *Sim) Run(_ context.Context, io *IO) error {
	var cfg sim.Config
	if c.Config != "" {
		b, err := os.ReadFile(c.Config)
		if err != nil {
			return serve.SetupError{Err: err}
		}
		if cfg, err = sim.ParseConfig(b); err != nil {
			return serve.SetupError{Err: err}
		}
	}
	cfg.People, cfg.HoursMonth, cfg.Reserve, cfg.Origin, cfg.Fail = c.People, c.Hours, c.Reserve, c.Origin*1e9, c.Fail
	cfg.Plays, cfg.Replicas, cfg.WarmDays, cfg.Seed, cfg.AskOnce = c.Plays, c.Replicas, c.WarmDays, c.Seed, c.AskOnce
	cfg.Edge.Memory, cfg.Edge.Disk, cfg.Edge.Bps, cfg.Edge.DiskBps, cfg.Edge.PerSecond = int64(c.Memory), int64(c.Disk), c.Gbps*1e9, c.DiskGbps*1e9, c.Requests
	if c.Zipf > 0 {
		cfg.Popularity = sim.Popularity{Tracks: c.Tracks, Zipf: c.Zipf}
	}
	if c.Log != "" {
		f, err := os.Open(c.Log)
		if err != nil {
			return serve.SetupError{Err: err}
		}
		fit, err := sim.FitLog(f)
		f.Close()
		if err != nil {
			return serve.SetupError{Err: fmt.Errorf("%s: %w", c.Log, err)}
		}
		cfg.Popularity = fit
	}
	var progress func(done, of int)
	if f, ok := io.Stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		progress = func(done, of int) { fmt.Fprintf(f, "\r%d %%\x1b[K", 100*done/of) }
	}
	p, err := sim.Run(cfg, progress)
	if progress != nil {
		fmt.Fprint(io.Stderr, "\r\x1b[K")
	}
	if err != nil {
		return serve.SetupError{Err: err}
	}
	p.Print(io.Stdout)
	if c.JSON != "" {
		return writeFile(c.JSON, p.Write)
	}
	return nil
}
