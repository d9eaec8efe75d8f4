package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"segue/controlplane/api"
	"segue/internal/serve"
	"segue/loadtest"

	"golang.org/x/term"
)

// LoadTest is `segue loadtest`.
type LoadTest struct {
	Run     loadRun     `cmd:"" default:"withargs" help:"Have simulated listeners play music from a running platform."`
	Merge   loadMerge   `cmd:"" help:"Add up the results of several generators of one run."`
	Compare loadCompare `cmd:"" help:"Say what differs between two runs, and whether it means something."`
	Report  loadReport  `cmd:"" help:"Make the HTML report of a result."`
	Seed    loadSeed    `cmd:"" help:"Fill a platform's catalogue with tracks of noise, to have something to play."`
}

type loadRun struct {
	Base       string            `help:"Control plane." default:"http://127.0.0.1:8080"`
	Scenario   string            `help:"${scenarios}, or a YAML file." default:"steady"`
	Listeners  int               `help:"Listeners at once." default:"100"`
	Duration   time.Duration     `help:"How long is measured." default:"1m"`
	Warm       time.Duration     `help:"Time before that, in which listeners come; default: a tenth, at least 5s." placeholder:"TIME"`
	Seed       uint64            `help:"Of everything that is drawn: the same seed, the same people." default:"1"`
	Tracks     int               `help:"The most popular ones that are played." default:"10000"`
	Accounts   string            `help:"File that keeps the accounts made on the platform for the next run." default:"segue-loadtest.accounts" type:"path"`
	From       string            `help:"Network of own addresses to speak from, as 10.0.0.0/24; default: 127.16.0.0/12 against loopback." placeholder:"CIDR"`
	Verify     float64           `help:"Part of segments whose sha256 is compared with the file's." default:"0.01"`
	BeginAt    time.Time         `help:"When to begin (RFC 3339), for several generators at once." name:"begin-at" placeholder:"TIME"`
	On         map[string]string `help:"What a scenario's deed means: edge-dies='kill -9 1234'. May be repeated." placeholder:"DEED=COMMAND" mapsep:"none"`
	AdminToken string            `help:"File with an admin token, for the deed purge." name:"admin-token-file" type:"path" placeholder:"FILE"`
	MaxLag     time.Duration     `help:"p99 of the generator's own lateness from which the run is invalid." default:"50ms"`
	outputs    `embed:""`
}

// outputs are the ways in which a result leaves.
type outputs struct {
	JSON       string   `help:"Write the result here." name:"json" type:"path" placeholder:"FILE"`
	HTML       string   `help:"Write the report here." name:"html" type:"path" placeholder:"FILE"`
	Fail       []string `help:"Exit with 1 when this is so: startup.p99>1s, stalls>0, errors>0.1%, hit_ratio<0.9. May be repeated." placeholder:"CONDITION" sep:"none"`
	ClickHouse string   `help:"Write the result there too: http://user:password@host:8123/database." name:"clickhouse" placeholder:"URL"`
}

// Run runs a load test.
func (c *loadRun) Run(ctx context.Context, io *IO) error {
	s, err := loadtest.LoadScenario(c.Scenario)
	if err != nil {
		return serve.SetupError{Err: err}
	}
	if _, err := c.conditions(); err != nil {
		return err
	}
	cfg := loadtest.Config{Base: c.Base, Scenario: s, Listeners: c.Listeners, Duration: c.Duration, Warm: c.Warm, Seed: c.Seed, Tracks: c.Tracks, Accounts: c.Accounts, From: c.From, Verify: c.Verify,
		Begin: c.BeginAt, Version: version, MaxLag: c.MaxLag, On: map[string]func(context.Context) error{}}
	if c.Verify == 0 {
		cfg.Verify = -1
	}
	if c.AdminToken != "" {
		token, err := readSecret(c.AdminToken)
		if err != nil {
			return err
		}
		admin, err := api.NewClient(c.Base, func() (string, error) { return token, nil })
		if err != nil {
			return serve.SetupError{Err: err}
		}
		cfg.On["purge"] = func(ctx context.Context) error {
			_, err := admin.NewPurge(ctx, api.NewPurge{Kind: "prefix", Value: "/media/"})
			return err
		}
	}
	for deed, command := range c.On {
		cfg.On[deed] = func(ctx context.Context) error {
			out, err := exec.CommandContext(ctx, "/bin/sh", "-c", command).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%s: %w: %s", command, err, strings.TrimSpace(string(out)))
			}
			return nil
		}
	}
	live := loadtest.Live{W: io.Stderr}
	if f, ok := io.Stderr.(*os.File); ok {
		live.Terminal = term.IsTerminal(int(f.Fd()))
	}
	cfg.Progress = live.Show
	r, err := loadtest.Run(ctx, cfg)
	live.End()
	if err != nil {
		return err
	}
	return c.finish(context.WithoutCancel(ctx), io, r)
}

func readSecret(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", serve.SetupError{Err: err}
	}
	return strings.TrimSpace(string(b)), nil
}

func (o *outputs) conditions() (out []loadtest.Condition, err error) {
	for _, text := range o.Fail {
		c, err := loadtest.ParseCondition(text)
		if err != nil {
			return nil, serve.SetupError{Err: err}
		}
		out = append(out, c)
	}
	return out, nil
}

// finish writes a result wherever it is wanted, and turns what is not well into an error.
func (o *outputs) finish(ctx context.Context, io *IO, r *loadtest.Result) error {
	conditions, err := o.conditions()
	if err != nil {
		return err
	}
	loadtest.Summary(io.Stdout, r)
	var errs []error
	if o.JSON != "" {
		errs = append(errs, writeFile(o.JSON, r.Write))
	}
	if o.HTML != "" {
		errs = append(errs, writeFile(o.HTML, r.HTML))
	}
	if o.ClickHouse != "" {
		errs = append(errs, loadtest.ToClickHouse(ctx, o.ClickHouse, r))
	}
	for _, c := range conditions {
		if err := c.Check(r); err != nil {
			errs = append(errs, err)
		}
	}
	if !r.Verdict.Valid {
		errs = append(errs, fmt.Errorf("the run is invalid: %s", strings.Join(r.Verdict.Reasons, "; ")))
	}
	return errors.Join(errs...)
}

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

func readResults(paths []string) ([]*loadtest.Result, error) {
	var out []*loadtest.Result
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			return nil, serve.SetupError{Err: err}
		}
		r, err := loadtest.ReadResult(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
		out = append(out, r)
	}
	return out, nil
}

type loadMerge struct {
	Results []string `arg:"" help:"JSON files of the generators." type:"existingfile"`
	outputs `embed:""`
}

// Run merges.
func (c *loadMerge) Run(ctx context.Context, io *IO) error {
	all, err := readResults(c.Results)
	if err != nil {
		return err
	}
	r, err := loadtest.Merge(all...)
	if err != nil {
		return err
	}
	return c.finish(ctx, io, r)
}

type loadReport struct {
	Result  string `arg:"" help:"JSON file." type:"existingfile"`
	outputs `embed:""`
}

// Run prints and writes the report of a result.
func (c *loadReport) Run(ctx context.Context, io *IO) error {
	all, err := readResults([]string{c.Result})
	if err != nil {
		return err
	}
	return c.finish(ctx, io, all[0])
}

type loadCompare struct {
	Before string `arg:"" help:"JSON file of the one run." type:"existingfile"`
	After  string `arg:"" help:"JSON file of the other." type:"existingfile"`
	Worse  bool   `help:"Exit with 1 when something became worse that means something."`
}

// Run compares.
func (c *loadCompare) Run(io *IO) error {
	all, err := readResults([]string{c.Before, c.After})
	if err != nil {
		return err
	}
	d, err := loadtest.Compare(all[0], all[1])
	if err != nil {
		return err
	}
	d.Print(io.Stdout)
	if worse := d.Worse(); c.Worse && len(worse) > 0 {
		return fmt.Errorf("worse: %s", strings.Join(worse, ", "))
	}
	return nil
}

type loadSeed struct {
	Server    string        `help:"Control plane." default:"http://127.0.0.1:8080"`
	TokenFile string        `help:"File with an admin token of scope ingest." default:"segue-data/admin.token" type:"path"`
	Tracks    int           `help:"How many." default:"200"`
	Length    time.Duration `help:"Of each." default:"3m"`
	Seed      uint64        `help:"The same seed makes the same tracks, once." default:"1"`
}

// Run makes tracks of noise.
func (c *loadSeed) Run(ctx context.Context, io *IO) error {
	token, err := readSecret(c.TokenFile)
	if err != nil {
		return err
	}
	to, err := api.NewClient(c.Server, func() (string, error) { return token, nil })
	if err != nil {
		return serve.SetupError{Err: err}
	}
	if err := (loadtest.Seed{Tracks: c.Tracks, Length: c.Length, Seed: c.Seed}).Ingest(ctx, to, nil); err != nil {
		return err
	}
	_, err = fmt.Fprintf(io.Stdout, "%d tracks of noise are there\n", c.Tracks)
	return err
}
