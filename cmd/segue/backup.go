package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"segue/internal/platform"
	"segue/internal/serve"
)

// AdminBackup is `segue admin backup`: all that cannot be made anew of a platform of `segue up`, running or not.
type AdminBackup struct {
	Data      string `help:"Data folder of the platform." default:"./segue-data" type:"path"`
	Out       string `help:"File to write, .tar.zst; it holds every secret of the platform." required:"" type:"path" placeholder:"FILE"`
	WithMedia bool   `help:"With the media objects of the data folder; without, they are kept by themselves."`
}

// Run writes the file whole, or not at all.
func (c *AdminBackup) Run(ctx context.Context, io *IO) (err error) {
	if _, err := os.Stat(c.Out); err == nil {
		return serve.Setupf("%s is there already: choose another --out", c.Out)
	}
	f, err := os.CreateTemp(filepath.Dir(c.Out), filepath.Base(c.Out)+".new-") // mode 0600
	if err != nil {
		return serve.Setupf("--out: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	s, err := platform.Backup(ctx, platform.BackupConfig{Data: c.Data, Media: c.WithMedia, Version: version}, f)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return serve.Setupf("--out: %w", err)
	}
	if err := os.Link(f.Name(), c.Out); errors.Is(err, fs.ErrExist) { // a rename would replace one that came meanwhile
		return serve.Setupf("%s is there already: choose another --out", c.Out)
	} else if err != nil {
		if err := os.Rename(f.Name(), c.Out); err != nil { // not all file systems have links
			return serve.Setupf("--out: %w", err)
		}
	}
	what := "without media objects"
	if s.Media {
		what = "with media objects"
	}
	_, err = fmt.Fprintf(io.Stdout, "%s: %d files, %d MiB before compression, %s\n", c.Out, s.Files, s.Bytes>>20, what)
	return err
}

// AdminRestore is `segue admin restore`.
type AdminRestore struct {
	File string `arg:"" help:"A backup." type:"path"`
	Data string `help:"Folder to make; it must not be there, or be empty." default:"./segue-data" type:"path"`
}

// Run says what to do next.
func (c *AdminRestore) Run(ctx context.Context, io *IO) error {
	s, err := platform.Restore(ctx, c.File, c.Data)
	if err != nil {
		return err
	}
	fmt.Fprintf(io.Stdout, "%s: %d files of %s, %d play events in the log\n", c.Data, s.Files, s.MadeAt.Local().Format("2006-01-02 15:04:05"), s.Events)
	if !s.Media {
		fmt.Fprintf(io.Stdout, "media objects are not in the backup: put them into %s, or start with --origin\n", filepath.Join(c.Data, "origin"))
	}
	_, err = fmt.Fprintf(io.Stdout, "segue up --data %s starts it; search is made anew\n", c.Data)
	return err
}
