package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"

	"segue/controlplane/api"
	"segue/internal/serve"
	"segue/media"
	"segue/packager"
)

// Ingest is `segue ingest`: audio in, published on a running platform.
type Ingest struct {
	Paths     []string      `arg:"" name:"path" help:"Audio files or folders." type:"path"`
	Server    string        `help:"Control plane." default:"http://127.0.0.1:8080"`
	Token     string        `help:"Admin token with the scope ingest." env:"SEGUE_ADMIN_TOKEN" placeholder:"TOKEN"`
	TokenFile string        `help:"File that holds it." default:"segue-data/admin.token" type:"path"`
	Encoding  encodingFlags `embed:""`
}

// Run packages and publishes every file; a second run finds nothing to do.
func (c *Ingest) Run(ctx context.Context, io *IO) error {
	files, err := packager.Scan(c.Paths)
	if err != nil {
		return err
	}
	if err := packager.CheckFFmpeg(); err != nil {
		return err
	}
	token, err := adminToken(c.Token, c.TokenFile)
	if err != nil {
		return err
	}
	client, err := api.NewClient(c.Server, func() (string, error) { return token, nil })
	if err != nil {
		return serve.SetupError{Err: err}
	}
	if err := client.Ready(ctx); err != nil {
		return serve.Setupf("%w; is the platform running there? see --server", err)
	}
	// Asked for what cannot be there: a token that is refused is found out before any file is read.
	if _, err := (api.Ingester{Client: client}).Stat(ctx, "media/none"); err != nil && !errors.Is(err, media.ErrNotFound) {
		return serve.Setupf("%w; want an admin token of %s with the scope ingest, see --token-file", err, c.Server)
	}
	return ingest(ctx, client, c.Encoding.config(), files, newProgress(io.Stderr, len(files)))
}

func adminToken(given, file string) (string, error) {
	if given != "" {
		return given, nil
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", serve.Setupf("no admin token: %s does not exist; give --token or --token-file", file)
	} else if err != nil {
		return "", serve.SetupError{Err: err}
	}
	return strings.TrimSpace(string(b)), nil
}

// ingest packages files into a control plane.
func ingest(ctx context.Context, client *api.Client, cfg packager.Config, files []string, bar *progress) error {
	remote := api.Ingester{Client: client}
	p, err := packager.New(cfg, remote, catalogAdapter{remote})
	if err != nil {
		return err
	}
	return bar.end(p.Run(ctx, files, bar.done))
}

// catalogAdapter gives the packager the control plane in the packager's words.
type catalogAdapter struct{ remote api.Ingester }

func (a catalogAdapter) Claim(ctx context.Context, r packager.ClaimRequest) (packager.Claim, error) {
	c, err := a.remote.Claim(ctx, api.ClaimRequest{SourceSHA256: r.SourceSHA256, Version: r.Version, Tags: r.Tags, DurationMS: r.Duration.Milliseconds()})
	return packager.Claim{TrackID: c.TrackID, AlbumID: c.AlbumID, Published: c.Published}, err
}

func (a catalogAdapter) Publish(ctx context.Context, t media.Track) error {
	return a.remote.Publish(ctx, t)
}
