package serve_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"segue/internal/serve"

	"github.com/alecthomas/kong"
)

// journal notes what parts do, in order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) note(s string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, s)
}

func (j *journal) part(name string) serve.Part {
	return serve.Part{Name: name, Run: func(ctx context.Context, ready func()) error {
		j.note("start " + name)
		ready()
		<-ctx.Done()
		j.note("stop " + name)
		return ctx.Err()
	}}
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func TestRunStartsInOrderAndStopsInReverse(t *testing.T) {
	var j journal
	ctx, cancel := context.WithCancel(t.Context())
	last := serve.Part{Name: "c", Run: func(ctx context.Context, ready func()) error {
		ready()
		cancel()
		<-ctx.Done()
		j.note("stop c")
		return nil
	}}
	if err := serve.Run(ctx, quiet, j.part("a"), j.part("b"), last); err != nil {
		t.Fatal(err)
	}
	want := []string{"start a", "start b", "stop c", "stop b", "stop a"}
	if !slices.Equal(j.lines, want) {
		t.Errorf("got %v, want %v", j.lines, want)
	}
}

func TestRunWaitsForReady(t *testing.T) {
	var j journal
	ctx, cancel := context.WithCancel(t.Context())
	slow := serve.Part{Name: "slow", Run: func(ctx context.Context, ready func()) error {
		cancel() // the process is told to stop before the part is ready: the next one never starts
		<-ctx.Done()
		return nil
	}}
	if err := serve.Run(ctx, quiet, slow, j.part("never")); err != nil {
		t.Fatal(err)
	}
	if len(j.lines) != 0 {
		t.Errorf("the second part ran: %v", j.lines)
	}
}

func TestRunStopsAllWhenOneFails(t *testing.T) {
	var j journal
	boom := errors.New("boom")
	bad := serve.Part{Name: "bad", Run: func(context.Context, func()) error { return boom }}
	err := serve.Run(t.Context(), quiet, j.part("a"), bad, j.part("never"))
	if !errors.Is(err, boom) || !strings.HasPrefix(err.Error(), "bad: ") {
		t.Errorf("got %v, want bad: boom", err)
	}
	if want := []string{"start a", "stop a"}; !slices.Equal(j.lines, want) {
		t.Errorf("got %v, want %v", j.lines, want)
	}
}

func TestRunGoesOnWhenAPartFinishes(t *testing.T) {
	var j journal
	ctx, cancel := context.WithCancel(t.Context())
	once := serve.Part{Name: "once", Run: func(context.Context, func()) error { j.note("once"); return nil }}
	end := serve.Part{Name: "end", Run: func(ctx context.Context, ready func()) error { ready(); cancel(); <-ctx.Done(); return nil }}
	if err := serve.Run(ctx, quiet, once, j.part("a"), end); err != nil {
		t.Fatal(err)
	}
	if want := []string{"once", "start a", "stop a"}; !slices.Equal(j.lines, want) {
		t.Errorf("got %v, want %v", j.lines, want)
	}
}

func TestExitCode(t *testing.T) {
	f := func(err error, want int) {
		t.Helper()
		if got := serve.ExitCode(err); got != want {
			t.Errorf("%v: got %d, want %d", err, got, want)
		}
	}
	f(nil, 0)
	f(errors.New("x"), 1)
	f(serve.Setupf("no ffmpeg: %w", io.EOF), 2)
	f(errors.Join(errors.New("x"), serve.Setupf("y")), 2)
}

func TestListenOnABusyPort(t *testing.T) {
	ln, err := serve.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if _, err := serve.Listen(ln.Addr().String()); serve.ExitCode(err) != 2 || !strings.Contains(err.Error(), ln.Addr().String()) {
		t.Errorf("got %v, want a setup error that names the address", err)
	}
}

func TestYAML(t *testing.T) {
	type cli struct {
		Listen string   `default:"d"`
		Edges  int      `default:"2"`
		Route  []string `sep:"none"`
		Tags   []string
		Quiet  bool
	}
	parse := func(file string, args ...string) (cli, error) {
		var c cli
		r, err := serve.YAML(strings.NewReader(file))
		if err != nil {
			return c, err
		}
		k, err := kong.New(&c, kong.Resolvers(r))
		if err != nil {
			t.Fatal(err)
		}
		_, err = k.Parse(args)
		return c, err
	}

	c, err := parse("listen: 127.0.0.1:1\nedges: 3\ntags: [a, 'b,c']\nroute: ['x,y', z]\nquiet: true\n", "--edges=4")
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:1" || c.Edges != 4 || !slices.Equal(c.Tags, []string{"a", "b,c"}) || !slices.Equal(c.Route, []string{"x,y", "z"}) || !c.Quiet {
		t.Errorf("got %+v", c)
	}
	if c, err = parse(""); err != nil || c.Listen != "d" {
		t.Errorf("empty file: %+v, %v", c, err)
	}

	refused := func(file, text string) {
		t.Helper()
		if _, err := parse(file); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: got %v, want an error with %q", file, err, text)
		}
	}
	refused("listn: x\n", `unknown key "listn"`)
	refused("listen: {a: b}\n", "mapping")
	refused("edges: many\n", "edges")
	refused("listen: [\n", "config file")
}
