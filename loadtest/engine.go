package loadtest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"segue/controlplane/api"
	"segue/media"
)

// Config is one run of one generator.
type Config struct {
	Base      string        // of the control plane: http://host:port
	Scenario  Scenario      //
	Listeners int           // at once, where the scenario's share is 1
	Duration  time.Duration // of the measured part
	Warm      time.Duration // before it, not measured: listeners come over its first half; zero: a tenth, at least 5 s
	Seed      uint64        // of all that is drawn; zero: 1
	Accounts  string        // file that accounts are kept in; empty: new ones, which nobody keeps
	Tracks    int           // most popular tracks of the catalogue that are played; zero: 10,000
	From      string        // network of own addresses to speak from, as 10.0.0.0/24; empty: 127.16.0.0/12 against loopback, else the system's choice
	Verify    float64       // part of segments whose sha256 is compared with the file's; negative: none; zero: 0.01
	Begin     time.Time     // of the warm-up, for several generators at once; zero: when the accounts are there
	Version   string        // of this program

	MaxInFlight int           // requests at once: beyond, they wait, and the run is invalid for it. Zero: 4 per listener, at least 64
	MaxLag      time.Duration // p99 of the generator's own lateness from which the run is invalid; zero: 50 ms
	Timeout     time.Duration // of one request; zero: 10 s

	// On has what the scenario's deeds mean. One that is missing is an error before the run.
	On map[string]func(ctx context.Context) error
	// Progress hears of the run about once a second, from one goroutine at a time; nil: nobody does.
	Progress func(Progress)
}

// Progress is how far a run is.
type Progress struct {
	Phase    string // catalogue, accounts, warm-up, run, compare
	Done, Of int    // accounts; seconds of a phase
	Now      *Result
}

// engine is a run.
type engine struct {
	cfg      Config
	scenario *Scenario
	base     string
	net      dialer
	from     netip.Prefix
	accounts *Accounts
	tracks   []api.Track
	ranks    ranks
	clock    *clock
	life     context.Context // of the run: listeners' requests end with it
	rec      *recorder
	slots    chan struct{} // requests at once

	active   atomic.Int64 // listeners
	inFlight atomic.Int64
	arrived  atomic.Int64
	wanted   atomic.Int64  // listeners that should leave soon, after a fall of the shape
	from0    time.Duration // when the measured part begins, on the clock
	ends     time.Duration
	telling  sync.Mutex // one Progress at a time

	mu    sync.Mutex // guards tapes
	tapes map[media.Key]*tape
}

// Run runs a load test. An error means that there is no result; a run that proves nothing has one that says so.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	e, err := newEngine(cfg)
	if err != nil {
		return nil, err
	}
	most := float64(e.cfg.Listeners) * e.scenario.peak()
	if err := e.prepare(ctx, int(math.Ceil(most+5*math.Sqrt(most)))+5); err != nil { // five deviations of a Poisson number
		return nil, err
	}
	if err := e.catalogue(ctx); err != nil {
		return nil, err
	}
	if wait := time.Until(e.cfg.Begin); wait > 0 {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
	return e.run(ctx)
}

func newEngine(cfg Config) (*engine, error) {
	u, err := url.Parse(cfg.Base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("base %q: want http://host:port: %w", cfg.Base, media.ErrInvalid)
	}
	cfg.Base = u.Scheme + "://" + u.Host
	if cfg.Scenario.Name == "" {
		cfg.Scenario = steady()
		cfg.Scenario.Name = "steady"
	}
	if err := cfg.Scenario.Validate(); err != nil {
		return nil, err
	}
	if cfg.Listeners < 1 || cfg.Duration < time.Second {
		return nil, fmt.Errorf("want at least one listener and one second: %w", media.ErrInvalid)
	}
	for _, d := range cfg.Scenario.Do {
		if cfg.On[d.Do] == nil && d.Do != "album-drop" { // that one is only a mark: the listeners do it
			return nil, fmt.Errorf("scenario %s does %q: nobody said what that is: %w", cfg.Scenario.Name, d.Do, media.ErrInvalid)
		}
	}
	cfg.Warm = cmp.Or(cfg.Warm, max(cfg.Duration/10, 5*time.Second))
	cfg.Seed, cfg.Tracks, cfg.Verify = cmp.Or(cfg.Seed, 1), cmp.Or(cfg.Tracks, 10_000), cmp.Or(cfg.Verify, .01)
	cfg.MaxInFlight, cfg.MaxLag, cfg.Timeout = cmp.Or(cfg.MaxInFlight, max(64, 4*cfg.Listeners)), cmp.Or(cfg.MaxLag, 50*time.Millisecond), cmp.Or(cfg.Timeout, 10*time.Second)
	e := &engine{cfg: cfg, scenario: &cfg.Scenario, base: cfg.Base, slots: make(chan struct{}, cfg.MaxInFlight), tapes: map[media.Key]*tape{}}
	if cfg.From != "" {
		if e.from, err = netip.ParsePrefix(cfg.From); err != nil {
			return nil, fmt.Errorf("from %q: want a network, as 10.0.0.0/24: %w", cfg.From, media.ErrInvalid)
		}
	} else if ip, err := netip.ParseAddr(u.Hostname()); runtime.GOOS == "linux" && (err == nil && ip.Is4() && ip.IsLoopback() || u.Hostname() == "localhost") {
		e.from = netip.MustParsePrefix("127.16.0.0/12")
	}
	if e.accounts, err = openAccounts(cfg.Accounts, cfg.Base); err != nil {
		return nil, err
	}
	e.rec = newRecorder(max(time.Second, (cfg.Duration / 600).Round(time.Second)))
	e.net = dialer{timeout: cfg.Timeout, dials: func() { e.rec.count(func(c *Counts) { c.Dials++ }) }}
	return e, nil
}

// address is the own address that listener i speaks from, or nil.
func (e *engine) address(i int) net.IP {
	if !e.from.IsValid() {
		return nil
	}
	bits := e.from.Addr().BitLen() - e.from.Bits()
	if bits > 24 {
		bits = 24
	}
	room := 1<<bits - 2
	if room < 1 {
		return e.from.Addr().AsSlice()
	}
	a := e.from.Masked().Addr().AsSlice()
	n := i%room + 1
	for k := len(a) - 1; n > 0; k-- {
		sum := int(a[k]) + n
		a[k], n = byte(sum), sum>>8
	}
	return a
}

// catalogue reads what there is to play: the most popular first, as the platform counts.
func (e *engine) catalogue(ctx context.Context) error {
	c, err := api.NewClient(e.base, func() (string, error) { return e.accounts.List[0].token, nil })
	if err != nil {
		return err
	}
	cursor := ""
	for len(e.tracks) < e.cfg.Tracks {
		page, err := c.ListTracks(ctx, api.ListTracksOptions{Limit: 200, Cursor: cursor})
		if err != nil {
			return fmt.Errorf("read the catalogue: %w", err)
		}
		for _, t := range page.Items {
			if t.Unavailable == "" && len(t.AvailableIn) == 0 && t.Version != "" {
				e.tracks = append(e.tracks, t)
			}
		}
		e.progress(Progress{Phase: "catalogue", Done: len(e.tracks), Of: e.cfg.Tracks})
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	if len(e.tracks) == 0 {
		return fmt.Errorf("the platform at %s has nothing to play; `segue loadtest seed` makes some tracks of noise: %w", e.base, media.ErrNotFound)
	}
	slices.SortStableFunc(e.tracks, func(a, b api.Track) int { return compare(b.Popularity, a.Popularity) })
	e.tracks = e.tracks[:min(len(e.tracks), e.cfg.Tracks)]
	e.ranks = newRanks(len(e.tracks), e.scenario.Zipf)
	return nil
}

func (e *engine) progress(p Progress) {
	if e.cfg.Progress == nil {
		return
	}
	e.telling.Lock()
	defer e.telling.Unlock()
	e.cfg.Progress(p)
}

// refusal is an answer of 400 or more.
type refusal struct {
	status int
	after  time.Duration // Retry-After
	text   string
}

func (r *refusal) Error() string { return fmt.Sprintf("status %d: %s", r.status, r.text) }

func statusOf(err error) int {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.status
	}
	return 0
}

// nameOf is an error's kind for the report: its status, or how the network failed.
func nameOf(err error) string {
	if status := statusOf(err); status != 0 {
		return strconv.Itoa(status)
	}
	return string(kindOf(err))
}

// call speaks JSON with the control plane.
func (e *engine) call(ctx context.Context, w *wire, method, path, token string, in, out any) error {
	x := exchange{method: method, path: path, keep: true}
	if token != "" {
		x.headers = "Authorization: Bearer " + token + "\r\n"
	}
	if in != nil {
		var err error
		if x.body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("bug: %w", err)
		}
		x.headers += "Content-Type: application/json\r\n"
	}
	if err := w.do(ctx, &x); err != nil {
		return err
	}
	if err := x.refused(); err != nil {
		return err
	}
	if out != nil {
		if err := json.Unmarshal(x.Body, out); err != nil {
			return fail(kindProtocol, "%s %s: %w", method, path, err)
		}
	}
	return nil
}

// refused turns an answer of 400 and more into an error.
func (x *exchange) refused() error {
	if x.Status < 400 {
		return nil
	}
	s, _ := strconv.Atoi(x.RetryAfter)
	return &refusal{x.Status, time.Duration(s) * time.Second, string(x.Body[:min(len(x.Body), 200)])}
}

// run is the run itself: people come, until its end.
func (e *engine) run(ctx context.Context) (*Result, error) {
	runtime.GC()
	cpu, base := cpuTime(), resident()
	e.from0, e.ends = e.cfg.Warm, e.cfg.Warm+e.cfg.Duration
	e.clock = newClock(e.wake)
	began := e.clock.begun
	life, stop := context.WithCancel(ctx)
	defer stop()
	e.life = life
	var parts sync.WaitGroup
	parts.Go(func() { e.clock.serve(life) })
	parts.Go(func() { e.arrive(life) })
	parts.Go(func() { e.deeds(life) })

	measured := false
	var rss int64
	second := time.NewTicker(time.Second / 2)
	defer second.Stop()
	for even := false; ctx.Err() == nil; even = !even {
		now := e.clock.now()
		if !measured && now >= e.from0 {
			measured, cpu = true, cpuTime()
			e.rec.restart(e.from0)
		}
		if now >= e.ends {
			break
		}
		e.rec.listeners(now, e.active.Load(), e.inFlight.Load())
		if even && e.cfg.Progress != nil {
			p := Progress{Phase: "warm-up", Done: int(now.Seconds()), Of: int(e.from0.Seconds())}
			if measured {
				p = Progress{Phase: "run", Done: int((now - e.from0).Seconds()), Of: int(e.cfg.Duration.Seconds())}
			}
			p.Now = e.result(now, began)
			e.progress(p)
		}
		if even {
			rss = max(rss, resident())
		}
		select {
		case <-ctx.Done():
		case <-second.C:
		}
	}
	end := min(e.clock.now(), e.ends)
	out := e.result(end, began) // before the listeners are cut off: what that breaks is no error of the platform's
	out.Counts.CPUSeconds, out.Counts.RSSBytes, out.Counts.BaseRSS = cpuTime()-cpu, rss, base
	stop()
	parts.Wait()
	if err := e.accounts.save(); err != nil { // tokens were renewed meanwhile
		return nil, err
	}
	if !measured {
		return nil, fmt.Errorf("the run ended in its warm-up: %w", context.Cause(ctx))
	}
	e.compareSamples(context.WithoutCancel(ctx), out)
	e.judge(out)
	return out, nil
}

// result is what is known at a moment.
func (e *engine) result(now time.Duration, began time.Time) *Result {
	out := &Result{Format: 1, Name: e.scenario.Name, Base: e.base, Machine: machine(), Version: e.cfg.Version, Began: began.Add(e.from0).UTC(), SecondsRun: max(now-e.rec.since(), 0).Seconds(),
		Planned: e.cfg.Duration.Seconds(), IntervalS: e.rec.every.Seconds(), Wanted: e.cfg.Listeners, Generators: 1, Seed: e.cfg.Seed}
	out.Connections = "each listener has up to two TCP connections of its own, one to its edge and one to the control plane, kept while the server keeps them; none is shared"
	if e.from.IsValid() {
		out.Connections += "; listeners speak from addresses of " + e.from.String()
	}
	e.rec.fill(out)
	return out
}

// judge says whether the generator was good enough for the figures to be the platform's.
func (e *engine) judge(out *Result) {
	no := func(format string, args ...any) {
		out.Verdict.Reasons = append(out.Verdict.Reasons, fmt.Sprintf(format, args...))
	}
	if lag := time.Duration(out.Moments[momentLag].P99) * time.Microsecond; lag > e.cfg.MaxLag {
		no("the generator was late by itself: p99 of its lag is %s, more than %s", lag.Round(time.Millisecond), e.cfg.MaxLag)
	}
	if cores := out.Counts.CPUSeconds / out.seconds(); cores > .9*float64(runtime.GOMAXPROCS(0)) {
		no("the generator used %.1f of its %d cores", cores, runtime.GOMAXPROCS(0))
	}
	if out.Counts.Dropped > 0 {
		no("%d sessions could not begin: there were not enough accounts", out.Counts.Dropped)
	}
	for _, k := range out.Errors {
		if k.Kind == string(kindGenerator) {
			no("%d times the generator ran out of files, ports or memory", k.Count)
			break
		}
	}
	if out.SecondsRun < .99*out.Planned {
		no("it was ended after %.0f of %.0f seconds", out.SecondsRun, out.Planned)
	}
	if most := float64(out.Wanted) * e.scenario.peak(); float64(out.Counts.Peak) < .9*most-3 {
		no("only %d of %.0f listeners were there at once", out.Counts.Peak, most)
	}
	if out.Moments[momentStartup].Count == 0 {
		no("nothing was played")
	}
	out.Verdict.Valid = len(out.Verdict.Reasons) == 0
}

// arrive lets sessions begin: in the first half of the warm-up as many as the scenario begins with, whose rest is that of
// sessions seen at a random moment; from then on by a Poisson process whose rate keeps up the scenario's numbers.
func (e *engine) arrive(ctx context.Context) {
	rng := rand.New(rand.NewPCG(e.cfg.Seed, 0))
	n := int(math.Round(float64(e.cfg.Listeners) * e.scenario.share(0)))
	ramp := e.cfg.Warm / 2
	mean := e.scenario.Session
	for i := range n {
		e.begin(time.Duration(float64(ramp)*(float64(i)+rng.Float64())/float64(n)), e.session(rng, mean))
	}
	const step = 100 * time.Millisecond // of the rate
	tick := time.NewTicker(step)
	defer tick.Stop()
	for at := time.Duration(0); at < e.ends; at += step {
		part := func(t time.Duration) float64 {
			return e.scenario.share(min(max(float64(t-e.from0)/float64(e.cfg.Duration), 0), 1)) * float64(e.cfg.Listeners)
		}
		// Whoever leaves is replaced, and growth is added. The initial ones leave from the moment they are there.
		present := min(float64(at)/float64(max(ramp, 1)), 1)
		expect := part(at)*present*step.Seconds()/mean.Seconds() + part(at+step) - part(at)
		if expect < 0 {
			e.wanted.Add(int64(poisson(rng, -expect))) // the shape falls faster than people leave: some go early
			expect = 0
		}
		for range poisson(rng, expect) {
			e.begin(at+time.Duration(rng.Float64()*float64(step)), e.session(rng, mean))
		}
		for e.clock.now() < at-step { // so that nobody comes late because of this loop
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}
}

// session draws a length.
func (e *engine) session(rng *rand.Rand, mean time.Duration) time.Duration {
	return max(time.Duration(rng.ExpFloat64()*float64(mean)), 10*time.Second)
}

// poisson draws a count of a small mean.
func poisson(rng *rand.Rand, mean float64) int {
	if mean > 30 { // the sum of two is one
		return poisson(rng, mean/2) + poisson(rng, mean/2)
	}
	limit, p, n := math.Exp(-mean), rng.Float64(), 0
	for p > limit {
		p *= rng.Float64()
		n++
	}
	return n
}

// begin has a session begin at a moment.
func (e *engine) begin(at, lasts time.Duration) {
	id := e.arrived.Add(1)
	if late := e.clock.now() - at; late > 0 { // the clock takes it from now on
		e.rec.moment(at+late, momentLag, late)
	}
	l := &listener{e: e, ctx: e.life, id: int(id), due: at, ends: at + lasts}
	l.pcg.Seed(e.cfg.Seed, uint64(id))
	e.clock.add(l)
}

// wake is what the clock does to a listener whose moment has come.
func (e *engine) wake(l *listener) {
	select {
	case e.slots <- struct{}{}:
	case <-l.ctx.Done():
		return
	}
	now := e.clock.now()
	e.rec.moment(now, momentLag, now-max(l.due, l.ready)) // what a request before took longer is not the generator's
	e.inFlight.Add(1)
	again := l.step()
	e.inFlight.Add(-1)
	<-e.slots
	if l.ctx.Err() != nil || !again {
		l.close()
		return
	}
	e.clock.add(l)
}

// deeds does to the platform what the scenario says.
func (e *engine) deeds(ctx context.Context) {
	for _, d := range e.scenario.Do {
		at := e.from0 + time.Duration(d.At*float64(e.cfg.Duration))
		select {
		case <-ctx.Done():
			return
		case <-time.After(at - e.clock.now()):
		}
		what := d.Do
		if f := e.cfg.On[d.Do]; f != nil {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				what += " (failed: " + err.Error() + ")"
				e.rec.failed(e.clock.now(), "do "+d.Do, string(kindGenerator))
			}
		}
		e.rec.mark(e.clock.now(), what)
	}
}

// tape gives the parsed playlist that all share.
func (e *engine) tape(key media.Key, b []byte) (*tape, error) {
	e.mu.Lock()
	t := e.tapes[key]
	e.mu.Unlock()
	if t != nil {
		return t, nil
	}
	t, err := parseTape(key, b)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tapes[key] = t
	return t, nil
}

// cpuTime is what this process has used, in seconds.
func cpuTime() float64 {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// resident is this process's memory, in bytes; 0 where there is no /proc.
func resident() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// machine says what this is.
func machine() string {
	model := runtime.GOARCH
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d × %s, %s", runtime.NumCPU(), model, runtime.GOOS)
}
