package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/catalog/sample"
	"segue/internal/serve"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// AdminImport is `segue admin import`: metadata in bulk. A part of the lines at a time is sent and answered, so that
// there is something to show, and a place to go on from.
type AdminImport struct {
	operator
	File     string `arg:"" optional:"" help:"NDJSON, one artist, album or track a line (see POST /v1/admin/import); - is standard input." placeholder:"FILE"`
	Generate int    `help:"No file: a made-up catalogue of so many tracks, the same one for the same seed." placeholder:"TRACKS"`
	Seed     uint64 `help:"Of --generate." default:"1"`
	Print    bool   `help:"With --generate: write the lines to standard output instead."`
	FromLine int    `help:"Begin at this line: to go on where an import stopped." default:"1" placeholder:"N"`
}

const (
	partLines = 20_000
	partBytes = 16 << 20
)

// Run sends all lines. Lines that were refused are printed at the end and make the exit status 1.
func (c *AdminImport) Run(ctx context.Context, out *IO) error {
	if (c.File == "") == (c.Generate <= 0) {
		return serve.Setupf("want either a file or --generate TRACKS")
	}
	if c.FromLine < 1 {
		return serve.Setupf("--from-line %d: lines are counted from 1", c.FromLine)
	}
	lines, total, closer, err := c.lines()
	if err != nil {
		return err
	}
	defer closer()
	if c.Print {
		w := bufio.NewWriter(out.Stdout)
		for l, err := range lines {
			if err != nil {
				return err
			}
			if _, err := w.Write(l); err != nil {
				return err
			}
		}
		return w.Flush()
	}
	client, err := c.client()
	if err != nil {
		return err
	}
	p := newImportProgress(out.Stderr, total)
	number, first := 0, c.FromLine
	var part bytes.Buffer
	var passed int64 // bytes of lines before FromLine
	send := func() error {
		if part.Len() == 0 {
			return nil
		}
		r, err := client.Import(ctx, first, bytes.NewReader(part.Bytes()))
		if err != nil {
			p.stop()
			return fmt.Errorf("%w; lines before %d are in: the same command with --from-line %d goes on", err, first, first)
		}
		p.add(r, passed+int64(part.Len()))
		first, passed = number+1, 0
		part.Reset()
		return nil
	}
	for l, err := range lines {
		if err != nil {
			p.stop()
			return fmt.Errorf("%w; the same command with --from-line %d goes on", errors.Join(err, send()), number+1)
		}
		if number++; number < c.FromLine {
			passed += int64(len(l))
			continue
		}
		part.Write(l)
		if number-first+1 == partLines || part.Len() >= partBytes {
			if err := send(); err != nil {
				return err
			}
		}
	}
	if err := send(); err != nil {
		return err
	}
	return p.end()
}

// lines gives the lines with their ends, and how many bytes there are; 0 when that is not known.
func (c *AdminImport) lines() (lines iter.Seq2[[]byte, error], total int64, closer func(), err error) {
	if c.Generate > 0 {
		return func(yield func([]byte, error) bool) {
			for l := range sample.Lines(c.Seed, c.Generate) {
				b, err := json.Marshal(l)
				if !yield(append(b, '\n'), err) {
					return
				}
			}
		}, 0, func() {}, nil
	}
	f, closer := os.Stdin, func() {}
	if c.File != "-" {
		if f, err = os.Open(c.File); err != nil {
			return nil, 0, nil, serve.SetupError{Err: err}
		}
		closer = func() { f.Close() }
	}
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		total = info.Size()
	}
	return func(yield func([]byte, error) bool) {
		r := bufio.NewReaderSize(f, 256<<10)
		for {
			b, err := r.ReadBytes('\n')
			if len(b) > 0 && !yield(b, nil) {
				return
			}
			if err != nil {
				if !errors.Is(err, io.EOF) {
					yield(nil, err)
				}
				return
			}
		}
	}, total, closer, nil
}

// importProgress shows a bar with rate and time left on a terminal, and a line a part elsewhere.
type importProgress struct {
	w     io.Writer
	bar   *progressbar.ProgressBar // nil: plain lines
	total int64                    // bytes; 0: not known
	sent  int64
	begun time.Time
	sum   api.ImportResult
}

func newImportProgress(w io.Writer, total int64) *importProgress {
	p := &importProgress{w: w, total: total, begun: time.Now()}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		size := total
		if size == 0 {
			size = -1
		}
		p.bar = progressbar.NewOptions64(size, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription("importing"), progressbar.OptionShowBytes(true),
			progressbar.OptionSetPredictTime(true), progressbar.OptionSetWidth(30), progressbar.OptionClearOnFinish(), progressbar.OptionThrottle(100*time.Millisecond))
		_ = p.bar.RenderBlank()
	}
	return p
}

func (p *importProgress) add(r api.ImportResult, bytes int64) {
	p.sent += bytes
	p.sum.Lines += r.Lines
	p.sum.Artists += r.Artists
	p.sum.Albums += r.Albums
	p.sum.Tracks += r.Tracks
	p.sum.Unchanged += r.Unchanged
	p.sum.Failed += r.Failed
	for _, e := range r.Errors { // they are shown as they come: a file may be wrong from end to end
		if p.bar != nil {
			_ = p.bar.Clear()
		}
		fmt.Fprintf(p.w, "line %d: %s\n", e.Line, e.Message)
	}
	if more := r.Failed - len(r.Errors); more > 0 {
		fmt.Fprintf(p.w, "and %d lines more of these\n", more)
	}
	dur := time.Since(p.begun)
	rate := float64(p.sum.Lines) / max(dur.Seconds(), 0.001)
	if p.bar != nil {
		p.bar.Describe(fmt.Sprintf("%d lines, %.0f/s", p.sum.Lines, rate))
		_ = p.bar.Add64(bytes)
		return
	}
	left := ""
	if p.total > p.sent && p.sent > 0 {
		left = fmt.Sprintf(", %d%%, about %s left", 100*p.sent/p.total, time.Duration(float64(dur)*float64(p.total-p.sent)/float64(p.sent)).Round(time.Second))
	}
	fmt.Fprintf(p.w, "%d lines, %.0f/s%s\n", p.sum.Lines, rate, left)
}

func (p *importProgress) stop() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}

func (p *importProgress) end() error {
	p.stop()
	fmt.Fprintf(p.w, "%d artists, %d albums, %d tracks in; %d lines unchanged, %d failed; %s\n", p.sum.Artists, p.sum.Albums, p.sum.Tracks, p.sum.Unchanged, p.sum.Failed,
		time.Since(p.begun).Round(100*time.Millisecond))
	if p.sum.Failed > 0 {
		return fmt.Errorf("%d of %d lines were refused; mend them and send them, or the whole file, again", p.sum.Failed, p.sum.Lines)
	}
	return nil
}
