package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// runner makes the comparisons.
type runner struct {
	rounds int
	each   time.Duration
	edge   string
	debug  string
	churn  int64
}

func (r *runner) run(peers, only []string) error {
	steps := map[string]func([]string) error{"hot": r.hot, "zipf": r.zipf, "herd": r.herd, "cold": r.cold, "idle": r.idle, "soak": r.soak}
	for _, name := range only {
		step := steps[name]
		if step == nil {
			return fmt.Errorf("%q: no such comparison", name)
		}
		if err := step(peers); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		fmt.Println()
	}
	return nil
}

// onClient runs a command on the client's core.
func onClient(args ...string) ([]byte, error) {
	var stderr bytes.Buffer
	cmd := exec.Command("taskset", append([]string{"-c", clientCore}, args...)...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return out, nil
}

// self runs a verb of this program on the client's core and reads the numbers it prints.
func self(args ...string) (numbers []float64, err error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	out, err := onClient(append([]string{exe}, args...)...)
	if err != nil {
		return nil, err
	}
	for _, f := range strings.Fields(string(out)) {
		v, err := strconv.ParseFloat(f, 64)
		if err != nil {
			return nil, err
		}
		numbers = append(numbers, v)
	}
	return numbers, nil
}

// startOrigin runs the origin in a process of its own, on the client's core.
func startOrigin(args ...string) (addr string, stop func(), err error) {
	exe, err := os.Executable()
	if err != nil {
		return "", nil, err
	}
	addr = "127.0.0.1:" + freePort()
	cmd := exec.Command("taskset", append([]string{"-c", clientCore, exe, "origin", "--listen", addr}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() { cmd.Process.Kill(); cmd.Wait() }
	for range 100 {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return addr, stop, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	stop()
	return "", nil, fmt.Errorf("the origin does not listen")
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

type hotCase struct {
	name, path, script string
	size               int64
}

var hotCases = []hotCase{
	{"16 KiB", "/16384/hot", "", 16 << 10},
	{"256 KiB", "/262144/hot", "", 256 << 10},
	{"128 KiB of 8 MiB", "/8388608/hot", "ranges.lua", 128 << 10},
}

// hot measures hits: all peers run all the time, and take turns.
func (r *runner) hot(names []string) error {
	origin, stop, err := startOrigin()
	if err != nil {
		return err
	}
	defer stop()
	var peers []*peer
	for _, name := range names {
		p, err := r.start(name, origin, 256<<20)
		if err != nil {
			return err
		}
		defer p.stop()
		peers = append(peers, p)
		for _, c := range hotCases {
			for range 2 {
				if _, err := self("cold", "--base", p.base, "--path", c.path); err != nil {
					return err
				}
			}
		}
	}
	script, err := os.CreateTemp("", "ranges*.lua")
	if err != nil {
		return err
	}
	defer os.Remove(script.Name())
	text, _ := conf.ReadFile("conf/ranges.lua")
	script.Write(text)
	script.Close()
	rate, cost := map[string][]float64{}, map[string][]float64{}
	for range r.rounds {
		for _, c := range hotCases {
			for _, p := range peers {
				args := []string{"wrk", "-t1", "-c64", "-d" + r.each.String()}
				if c.script != "" {
					args = append(args, "-s", script.Name())
				}
				used := p.cpu()
				out, err := onClient(append(args, p.base+c.path)...)
				if err != nil {
					return err
				}
				used = p.cpu() - used
				var n float64
				for line := range strings.Lines(string(out)) {
					if i := strings.Index(line, " requests in "); i > 0 {
						n, _ = strconv.ParseFloat(strings.TrimSpace(line[:i]), 64)
					}
					if strings.Contains(line, "Non-2xx") || strings.Contains(line, "Socket errors") {
						return fmt.Errorf("%s: %s", p.name, line)
					}
				}
				k := c.name + p.name
				rate[k] = append(rate[k], n/r.each.Seconds())
				cost[k] = append(cost[k], used/(n*float64(c.size)/1e9))
			}
		}
	}
	fmt.Printf("Hot hits, one core: requests/s (CPU seconds per GB); medians of %d rounds of %s, 64 connections.\n\n", r.rounds, r.each)
	fmt.Print("| |")
	for _, c := range hotCases {
		fmt.Printf(" %s |", c.name)
	}
	fmt.Print("\n|---|---|---|---|\n")
	for _, p := range peers {
		fmt.Printf("| %s |", p.name)
		for _, c := range hotCases {
			k := c.name + p.name
			fmt.Printf(" %.0f (%.3f) |", median(rate[k]), median(cost[k]))
		}
		fmt.Println()
	}
	return nil
}

func (r *runner) zipf(names []string) error {
	// Client and origin share a core, and are busier than most servers here: the server's own time tells more than the rate.
	const requests = 300_000
	fmt.Print("Zipf 0.9 over 20,000 x 64 KiB, 256 MB, one core, 32 connections; the second of two times 150,000 requests.\n\n| | requests/s | hits % | server's CPU, us per request |\n|---|---|---|---|\n")
	return r.each1(names, nil, 256<<20, func(p *peer, origin string) error {
		used := p.cpu()
		v, err := self("zipf", "--base", p.base, "--origin", "http://"+origin, "--n", "32", "--requests", strconv.Itoa(requests))
		if err == nil {
			fmt.Printf("| %s | %.0f | %.1f | %.0f |\n", p.name, v[0], v[1], (p.cpu()-used)/requests*1e6)
		}
		return err
	})
}

// each1 runs a measurement on each peer alone, with an origin of its own.
func (r *runner) each1(names, originArgs []string, memory int64, f func(p *peer, origin string) error) error {
	for _, name := range names {
		err := func() error {
			origin, stop, err := startOrigin(originArgs...)
			if err != nil {
				return err
			}
			defer stop()
			p, err := r.start(name, origin, memory)
			if err != nil {
				return err
			}
			defer p.stop()
			return f(p, origin)
		}()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (r *runner) herd(names []string) error {
	const rounds = 5
	fmt.Printf("500 clients on one cold object of 1 MiB; origin 20 ms, 20 MB/s; medians of %d. Times in ms.\n\n| | origin GETs | first byte p50 | p99 | whole p50 | p99 |\n|---|---|---|---|---|---|\n", rounds)
	return r.each1(names, []string{"--delay", "20ms", "--rate", "20000000"}, 256<<20, func(p *peer, origin string) error {
		var rows [5][]float64
		for i := range rounds {
			before, _, err := originStats("http://" + origin)
			if err != nil {
				return err
			}
			v, err := self("herd", "--base", p.base, "--path", fmt.Sprintf("/1048576/herd%d", i), "--n", "500")
			if err != nil {
				return err
			}
			after, _, err := originStats("http://" + origin)
			if err != nil {
				return err
			}
			for k, x := range append([]float64{float64(after - before)}, v...) {
				rows[k] = append(rows[k], x)
			}
		}
		fmt.Printf("| %s | %.0f | %.0f | %.0f | %.0f | %.0f |\n", p.name, median(rows[0]), median(rows[1]), median(rows[2]), median(rows[3]), median(rows[4]))
		return nil
	})
}

func (r *runner) cold(names []string) error {
	fmt.Print("Cold 64 KiB at 32 MiB of 64 MiB; origin 30 ms, 20 MiB/s; medians of 5. nginx with `slice 1m`.\n\n| | bytes from the origin | first byte, ms |\n|---|---|---|\n")
	return r.each1(names, []string{"--delay", "30ms", "--rate", "20971520"}, 256<<20, func(p *peer, origin string) error {
		prefix := ""
		if p.name == "nginx" {
			prefix = "/slice"
		}
		var sent, first []float64
		for i := range 5 {
			_, before, err := originStats("http://" + origin)
			if err != nil {
				return err
			}
			v, err := self("cold", "--base", p.base, "--path", fmt.Sprintf("%s/67108864/cold%d", prefix, i), "--range", "33554432-33619967")
			if err != nil {
				return err
			}
			time.Sleep(time.Second) // what a server goes on to fetch counts, up to here
			_, after, err := originStats("http://" + origin)
			if err != nil {
				return err
			}
			sent, first = append(sent, float64(after-before)), append(first, v[0])
		}
		fmt.Printf("| %s | %.0f | %.1f |\n", p.name, median(sent), median(first))
		return nil
	})
}

func (r *runner) idle(names []string) error {
	const n = 10_000
	fmt.Printf("%d idle keep-alive connections, after one request each.\n\n| | KB each | still open |\n|---|---|---|\n", n)
	return r.each1(names, nil, 256<<20, func(p *peer, origin string) error {
		v, err := self("idle", "--base", p.base, "--path", "/16384/hot", "--n", strconv.Itoa(n), "--pids", strings.Join(p.pids(), ","))
		if err == nil {
			fmt.Printf("| %s | %.2f | %.0f |\n", p.name, v[0], v[1])
		}
		return err
	})
}

// soak is for one server at a time: --peers segue.
func (r *runner) soak(names []string) error {
	const memory = 256 << 20
	fmt.Printf("Memory while %d GB are fetched and evicted, 256 MiB configured, 64 connections; MB.\n\n| | most | at each tenth of the way |\n|---|---|---|\n", r.churn/1e9)
	return r.each1(names, nil, memory, func(p *peer, origin string) error {
		v, err := self("soak", "--base", p.base, "--origin", "http://"+origin, "--n", "64", "--churn", strconv.FormatInt(r.churn, 10), "--pids", strings.Join(p.pids(), ","))
		if err != nil {
			return err
		}
		fmt.Printf("| %s | %.0f |", p.name, v[0]/1e3)
		for _, kb := range v[1:] {
			fmt.Printf(" %.0f", kb/1e3)
		}
		fmt.Println(" |")
		return nil
	})
}
