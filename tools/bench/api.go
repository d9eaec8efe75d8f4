package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// apiBench asks control planes as listeners do and says what that costs: see doc.go.
type apiBench struct {
	tracks, users, items int
	listeners            int
	rate                 float64
	each                 time.Duration
	dir                  string
	program              string
	databases            []string
	steps                []string
	top                  float64
	profile              string
}

func (b *apiBench) flags(fs *flag.FlagSet) {
	fs.IntVar(&b.tracks, "tracks", 1_000_000, "of the catalogue; users and playlists shrink with it")
	fs.IntVar(&b.listeners, "listeners", 400, "accounts that are signed in, each on one device")
	fs.Float64Var(&b.rate, "rate", 500, "requests a second, and where the ladder begins")
	fs.DurationVar(&b.each, "for", 20*time.Second, "length of one measurement at that rate; a rung of the ladder is 8 s")
	fs.StringVar(&b.dir, "dir", ".cache/bench-api", "where databases are kept: they are made once")
	fs.StringVar(&b.program, "program", "bin/segue-controlplane", "the binary")
	fs.Float64Var(&b.top, "top", 20_000, "where the ladder ends")
	fs.StringVar(&b.profile, "profile", "", "folder for CPU profiles of the mix")
	fs.Func("only", "of mix,cost,ladder, with commas", func(s string) error { b.steps = strings.Split(s, ","); return nil })
	fs.Func("databases", "of sqlite,postgres,two (two replicas on one PostgreSQL), with commas", func(s string) error { b.databases = strings.Split(s, ","); return nil })
	b.databases, b.steps = []string{"sqlite", "postgres", "two"}, []string{"mix", "cost", "ladder"}
}

func (b *apiBench) run(ctx context.Context) (err error) {
	if b.tracks < 1000 || b.listeners < 1 || b.rate <= 0 {
		return errors.New("want at least 1000 tracks, one listener and a rate above 0")
	}
	b.users, b.items = max(b.tracks/5, b.listeners), b.tracks
	if b.dir, err = filepath.Abs(filepath.Join(b.dir, fmt.Sprint(b.tracks))); err != nil {
		return err
	}
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return err
	}
	fmt.Printf("Control plane, GOMAXPROCS=1 each: %d tracks, %d users, %d playlist rows; %d listeners; %d cores, %s.\n", b.tracks, b.users, b.items, b.listeners, runtime.NumCPU(), runtime.Version())
	fmt.Printf("The mix: %s.\n", mixText())
	for _, name := range b.databases {
		if err := b.database(ctx, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// database measures one arrangement: sqlite, postgres, or two replicas on one PostgreSQL.
func (b *apiBench) database(ctx context.Context, name string) error {
	p, err := b.platform(ctx, name)
	if err != nil {
		return err
	}
	defer p.stop()
	w, err := b.newWorld(ctx, p)
	if err != nil {
		return err
	}
	defer w.close()
	fmt.Printf("\n## %s\n", map[string]string{"sqlite": "SQLite, one replica", "postgres": "PostgreSQL, one replica", "two": "PostgreSQL and one NATS, two replicas"}[name])
	steps := map[string]func(context.Context, *world) error{"mix": b.mix, "cost": b.cost, "ladder": b.ladder}
	for _, s := range b.steps {
		step := steps[s]
		if step == nil {
			return fmt.Errorf("%q: no such step", s)
		}
		if err := w.renew(ctx); err != nil {
			return err
		}
		if err := step(ctx, w); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

// mix is the measurement at the rate that has to be met.
func (b *apiBench) mix(ctx context.Context, w *world) error {
	warm := open{world: w, rate: b.rate, length: 3 * time.Second}
	warm.run(ctx)
	profiled := make(chan error, 1)
	if b.profile != "" {
		go func() { profiled <- b.takeProfile(ctx, w.platform) }()
	} else {
		profiled <- nil
	}
	o := open{world: w, rate: b.rate, length: b.each}
	before, begun := w.platform.cpu(), time.Now()
	o.run(ctx)
	used := (w.platform.cpu() - before) / time.Since(begun).Seconds()
	fmt.Printf("\nOpen loop, %.0f requests/s for %s; ms from the time at which a request was due.\n\n", b.rate, b.each)
	o.print()
	fmt.Printf("\nThe control plane used %.0f %% of a core and %d MB.\n", used*100, w.platform.resident()>>20)
	if db := w.platform.databaseCPU(); db > 0 {
		fmt.Printf("PostgreSQL has used %.0f s of CPU so far.\n", db)
	}
	return <-profiled
}

// cost runs each operation alone, four at a time without a pause: what it takes of the control plane's CPU, with what that takes
// idle left out. Unlike times and rates this holds on a machine that others use too.
func (b *apiBench) cost(ctx context.Context, w *world) error {
	const length = 5 * time.Second
	before := w.platform.cpu()
	time.Sleep(length)
	idle := (w.platform.cpu() - before) / length.Seconds()
	fmt.Print("\nEach operation alone; CPU of the control plane, and of PostgreSQL, in microseconds a request.\n\n| | requests | failed | control plane | database |\n|---|---|---|---|---|\n")
	for _, op := range operations {
		o := open{world: w, only: op.name}
		o.closed(ctx, 4, time.Second)
		before, db, begun := w.platform.cpu(), w.platform.databaseCPU(), time.Now()
		o.closed(ctx, 4, length)
		n := float64(max(1, o.sent()-o.failed()))
		used := w.platform.cpu() - before - idle*time.Since(begun).Seconds()
		fmt.Printf("| %s | %d | %d | %.0f | %.0f |\n", op.name, o.sent(), o.failed(), used/n*1e6, (w.platform.databaseCPU()-db)/n*1e6)
		if o.failed() > 0 {
			fmt.Fprintf(os.Stderr, "failures of %s: %s\n", op.name, o.why())
		}
	}
	return nil
}

const (
	bearable = 200 * time.Millisecond // p99, of the rate that is called sustained
	rung     = 8 * time.Second
)

// ladder raises the rate by a quarter until the p99 is past what is bearable, or a thousandth of the requests fail.
func (b *apiBench) ladder(ctx context.Context, w *world) error {
	fmt.Printf("\n| requests/s asked for | answered | p50 | p99 | failed | CPU %% |\n|---|---|---|---|---|---|\n")
	best := 0.0
	for rate := b.rate; rate <= b.top; rate *= 1.25 {
		warm := open{world: w, rate: rate, length: time.Second}
		warm.run(ctx)
		o := open{world: w, rate: rate, length: rung}
		before, begun := w.platform.cpu(), time.Now()
		o.run(ctx)
		took := time.Since(begun).Seconds()
		all := o.all()
		p99 := time.Duration(all.ValueAtQuantile(99)) * time.Microsecond
		fmt.Printf("| %.0f | %.0f | %.1f | %.1f | %d | %.0f |\n", rate, float64(all.TotalCount())/took, ms(all.ValueAtQuantile(50)), ms(all.ValueAtQuantile(99)), o.failed(), (w.platform.cpu()-before)/took*100)
		if p99 > bearable || o.failed()*1000 > o.sent() {
			if why := o.why(); why != "" {
				fmt.Printf("\nFailures: %s\n", why)
			}
			break
		}
		best = rate
	}
	fmt.Printf("\nHighest rate with a p99 below %s: %.0f requests/s.\n", bearable, best)
	return nil
}

// takeProfile keeps a CPU profile of every replica while it is asked.
func (b *apiBench) takeProfile(ctx context.Context, p *platform) error {
	if err := os.MkdirAll(b.profile, 0o755); err != nil {
		return err
	}
	for i, r := range p.replicas {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", r.debug, max(1, int(b.each.Seconds())-1)), nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return fmt.Errorf("profile: %w", err)
		}
		defer resp.Body.Close()
		f, err := os.Create(filepath.Join(b.profile, fmt.Sprintf("%s-%d.pprof", p.name, i+1)))
		if err != nil {
			return err
		}
		_, err = io.Copy(f, resp.Body)
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("profile: %w", err)
		}
	}
	return nil
}

func mixText() string {
	var parts []string
	for _, op := range operations {
		parts = append(parts, fmt.Sprintf("%d %% %s", op.share, op.name))
	}
	return strings.Join(slices.Clip(parts), ", ")
}

func ms(micros int64) float64 { return float64(micros) / 1000 }
