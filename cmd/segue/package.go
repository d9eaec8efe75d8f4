package main

import (
	"context"
	"time"

	"segue/internal/serve"
	"segue/origin/dirstore"
	"segue/packager"
)

// Package is `segue package`: audio in, a static folder out, no platform needed.
type Package struct {
	Paths    []string      `arg:"" name:"in> … <outdir" help:"Audio files or folders, then the folder that gets media/ and art/." type:"path"`
	Encoding encodingFlags `embed:""`
}

type encodingFlags struct {
	Jobs      int           `help:"ffmpeg processes at once; 0: one per core." placeholder:"N"`
	TimeLimit time.Duration `help:"For one ffmpeg process." default:"15m"`
	Temp      string        `help:"Folder for decoded audio; default: the system's." type:"existingdir" placeholder:"DIR"`
}

func (f encodingFlags) config() packager.Config {
	return packager.Config{Jobs: f.Jobs, TimeLimit: f.TimeLimit, TempDir: f.Temp}
}

// Run packages every file; a second run finds nothing to do.
func (c *Package) Run(ctx context.Context, io *IO) error {
	if len(c.Paths) < 2 {
		return serve.Setupf("want what to package and the folder to put it in: segue package IN… OUTDIR")
	}
	in, out := c.Paths[:len(c.Paths)-1], c.Paths[len(c.Paths)-1]
	files, err := packager.Scan(in)
	if err != nil {
		return err
	}
	if err := packager.CheckFFmpeg(); err != nil {
		return err
	}
	store, err := dirstore.Open(out)
	if err != nil {
		return serve.SetupError{Err: err}
	}
	defer store.Close()
	catalog, err := packager.OpenFolder(out)
	if err != nil {
		return serve.SetupError{Err: err}
	}
	p, err := packager.New(c.Encoding.config(), store, catalog)
	if err != nil {
		return err
	}
	bar := newProgress(io.Stderr, len(files))
	return bar.end(p.Run(ctx, files, bar.done))
}
