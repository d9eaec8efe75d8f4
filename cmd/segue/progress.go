package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"segue/packager"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progress shows how a batch of files goes: a bar with rate and time left on a terminal, a line a file elsewhere.
// Failures are kept and printed at the end.
type progress struct {
	w      io.Writer
	bar    *progressbar.ProgressBar // nil: plain lines
	total  int
	seen   int
	begun  time.Time
	audio  time.Duration
	made   int
	same   int
	failed []packager.Result
}

func newProgress(w io.Writer, total int) *progress {
	p := &progress{w: w, total: total, begun: time.Now()}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.bar = progressbar.NewOptions(total, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription("packaging"),
			progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString("tracks"), progressbar.OptionSetPredictTime(true),
			progressbar.OptionSetWidth(30), progressbar.OptionClearOnFinish(), progressbar.OptionThrottle(100*time.Millisecond))
		_ = p.bar.RenderBlank()
	}
	return p
}

func (p *progress) done(r packager.Result) {
	p.seen++
	name, what := filepath.Base(r.Path), "packaged"
	switch {
	case r.Err != nil:
		p.failed = append(p.failed, r)
		what = "failed"
	case r.Skipped:
		p.same++
		what = "unchanged"
	default:
		p.made++
		p.audio += r.Audio
	}
	if p.bar != nil {
		p.bar.Describe(fmt.Sprintf("%-30.30s", name))
		_ = p.bar.Add(1)
		return
	}
	left := ""
	if p.seen < p.total {
		each := time.Since(p.begun) / time.Duration(p.seen)
		left = fmt.Sprintf(", about %s left", (each * time.Duration(p.total-p.seen)).Round(time.Second))
	}
	fmt.Fprintf(p.w, "[%d/%d] %-9s %s%s\n", p.seen, p.total, what, name, left)
}

// end prints the sum and every failure with its reason, also of a run that ended early by err. The error that it returns,
// that one or that files failed, makes the exit status 1.
func (p *progress) end(err error) error {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
	dur := time.Since(p.begun)
	fmt.Fprintf(p.w, "%d packaged (%s of audio, %.0f times real time), %d unchanged, %d failed in %s\n", p.made, p.audio.Round(time.Second),
		p.audio.Seconds()/max(dur.Seconds(), 0.001), p.same, len(p.failed), dur.Round(100*time.Millisecond))
	for _, r := range p.failed {
		fmt.Fprintf(p.w, "  failed: %s: %s\n", r.Path, r.Err)
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("interrupted with %d of %d files done; the same command goes on from there", p.seen, p.total)
	} else if err != nil {
		return err
	}
	if len(p.failed) > 0 {
		return fmt.Errorf("%d of %d files could not be packaged", len(p.failed), p.total)
	}
	return nil
}
