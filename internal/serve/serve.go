// Package serve is what every process of ours shares around its work: parts started in order and stopped in
// reverse, signals, exit status, the logger, the strict configuration file and the private listener.
//
//	func main() { serve.Main(run) }
//
//	serve.Run(ctx, log,
//		serve.Part{"clickhouse", engine.Run}, // ready when it answers
//		serve.Part{"control plane", cp.Run},  // starts after that, stops before it
//		serve.Part{"edge", edge.Run})
package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"
)

// Part is one long-lived piece of a process. Run blocks until ctx ends, returns after its goroutines have, and
// calls ready once, when its service can be used. A nil error before ctx ends means "finished, carry on".
type Part struct {
	Name string
	Run  func(ctx context.Context, ready func()) error
}

// Run starts parts one after the other, each when the one before is ready, then waits until ctx ends or a part
// fails, and stops them in reverse order, each fully before the next. It returns the first failure, with the
// part's name, or nil.
func Run(ctx context.Context, log *slog.Logger, parts ...Part) error {
	type running struct {
		name   string
		cancel context.CancelFunc
		done   chan struct{}
	}
	var started []running
	failed := make(chan error, len(parts))
	var first error
	base := context.WithoutCancel(ctx) // parts end one by one, not all at the moment ctx does

start:
	for _, p := range parts {
		pctx, cancel := context.WithCancel(base)
		r := running{p.Name, cancel, make(chan struct{})}
		ready := make(chan struct{})
		begun := time.Now()
		go func() {
			defer close(r.done)
			var once bool
			err := p.Run(pctx, func() {
				if !once {
					once = true
					close(ready)
				}
			})
			if err != nil && !(pctx.Err() != nil && errors.Is(err, context.Canceled)) {
				failed <- fmt.Errorf("%s: %w", p.Name, err)
			}
		}()
		started = append(started, r)
		select {
		case <-ready:
			log.Debug("part ready", "part", p.Name, "dur", time.Since(begun))
		case <-r.done: // finished by itself: fine without an error
		case first = <-failed:
			break start
		case <-ctx.Done():
			break start
		}
	}
	if first == nil && len(started) == len(parts) {
		select {
		case first = <-failed:
		case <-ctx.Done():
		}
	}
	for i := len(started) - 1; i >= 0; i-- {
		begun := time.Now()
		started[i].cancel()
		<-started[i].done
		log.Debug("part stopped", "part", started[i].name, "dur", time.Since(begun))
	}
	if first == nil {
		select {
		case first = <-failed: // failed in its stop, or beside ctx's end
		default:
		}
	}
	return first
}

// SetupError is a condition that the person who starts the program can mend: a busy port, a missing program, a
// wrong key. Its text is one line that says what is wrong and what to do. Main exits with status 2 on it.
type SetupError struct{ Err error }

func (e SetupError) Error() string { return e.Err.Error() }
func (e SetupError) Unwrap() error { return e.Err }

// Setupf makes a SetupError; %w works as in fmt.Errorf.
func Setupf(format string, args ...any) error { return SetupError{fmt.Errorf(format, args...)} }

// Main runs the program's body under a context that ends at SIGINT or SIGTERM (a second signal kills at once),
// prints its error as one line and exits: 0 for nil, 2 for a SetupError, 1 otherwise.
func Main(run func(ctx context.Context, args []string, stdout, stderr io.Writer) error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	err := checkClock(time.Now(), commitTime())
	if err == nil {
		err = run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
	}
	os.Exit(ExitCode(err))
}

// checkClock refuses a clock that stands before the program's own making: tokens, ids and play logs would all be wrong.
// A zero commit is unknown, and is no reason to refuse. A day is allowed for the clock of whoever committed.
func checkClock(now, commit time.Time) error {
	if commit.IsZero() || now.After(commit.Add(-24*time.Hour)) {
		return nil
	}
	return Setupf("the clock says %s, before this program was made (%s); set it", now.UTC().Format(time.DateTime), commit.UTC().Format(time.DateTime))
}

// commitTime is that of the commit that the program was built from; zero where the build did not note it.
func commitTime() (t time.Time) {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.time" {
				t, _ = time.Parse(time.RFC3339, s.Value) // zero on nonsense
			}
		}
	}
	return t
}

// ExitCode is the process status for an error of a run function.
func ExitCode(err error) int {
	switch _, setup := errors.AsType[SetupError](err); {
	case err == nil:
		return 0
	case setup:
		return 2
	default:
		return 1
	}
}

// Logger writes records of at least level as logfmt-like text, or as JSON, to w.
func Logger(w io.Writer, level slog.Leveler, json bool) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if json {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
