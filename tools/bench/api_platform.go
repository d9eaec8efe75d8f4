package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"segue/controlplane/api"

	"github.com/golang-jwt/jwt/v5"
	natsd "github.com/nats-io/nats-server/v2/server"
)

const (
	benchToken    = "sga_of-the-benchmark"
	benchPlaysKey = "the-benchmark-makes-pseudonyms-with-this"
)

// platform is the servers under test. NATS, where there is one, runs in this program.
type platform struct {
	name     string
	dsn      string
	dir      string
	replicas []*replica
	postgres []string // its folder, when it is ours; empty: SQLite
	nats     *natsd.Server
	admin    *api.Client
	stopBeat context.CancelFunc
}

type replica struct {
	listen, debug string
	cmd           *exec.Cmd
	done          chan struct{}
	log           bytes.Buffer
}

// platform starts what an arrangement needs; the first time it makes the database, which takes some minutes.
func (b *apiBench) platform(ctx context.Context, name string) (_ *platform, err error) {
	kept := map[string]string{"sqlite": "sqlite", "postgres": "postgres", "two": "postgres"}[name]
	if kept == "" {
		return nil, fmt.Errorf("want sqlite, postgres or two")
	}
	p := &platform{name: name, dir: filepath.Join(b.dir, kept)}
	defer func() {
		if err != nil {
			p.stop()
		}
	}()
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return nil, err
	}
	p.dsn = "sqlite:" + filepath.Join(p.dir, "segue.db")
	if kept == "postgres" {
		if err := p.startPostgres(); err != nil {
			return nil, err
		}
	}
	made := filepath.Join(p.dir, "made")
	if _, err := os.Stat(made); err != nil {
		if err := b.make(ctx, p); err != nil {
			return nil, fmt.Errorf("make the database: %w", err)
		}
		if err := os.WriteFile(made, nil, 0o644); err != nil {
			return nil, err
		}
	}
	names := []string{"one"}
	if name == "two" {
		names = append(names, "two")
		if err := p.startNATS(); err != nil {
			return nil, err
		}
	}
	for _, n := range names {
		if err := p.start(b.program, n, len(names), 1); err != nil {
			return nil, err
		}
	}
	if err := p.join(ctx); err != nil {
		return nil, err
	}
	return p, p.indexed(ctx)
}

// start starts a replica; cores 0 leaves GOMAXPROCS alone.
func (p *platform) start(program, name string, of, cores int) error {
	r := &replica{listen: "127.0.0.1:" + freePort(), debug: "127.0.0.1:" + freePort(), done: make(chan struct{})}
	for file, text := range map[string]string{"admin.token": benchToken, "plays.key": benchPlaysKey} {
		if err := os.WriteFile(filepath.Join(p.dir, file), []byte(text), 0o600); err != nil {
			return err
		}
	}
	args := []string{"--listen", r.listen, "--debug-listen", r.debug, "--data", filepath.Join(p.dir, "data-"+name), "--database", p.dsn, "--origin", filepath.Join(p.dir, "origin"), "--rate-limit=-1",
		"--admin-token-file", filepath.Join(p.dir, "admin.token"), "--plays-key-file", filepath.Join(p.dir, "plays.key"), "--replica", name, "--replicas", strconv.Itoa(of), "--drain", "0s", "--log-level", "warn"}
	if p.nats != nil {
		args = append(args, "--nats", p.nats.ClientURL())
	}
	if err := os.MkdirAll(filepath.Join(p.dir, "origin"), 0o755); err != nil {
		return err
	}
	r.cmd = exec.Command(program, args...)
	r.cmd.Env = os.Environ()
	if cores > 0 {
		r.cmd.Env = append(r.cmd.Env, "GOMAXPROCS="+strconv.Itoa(cores))
	}
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r.cmd.Stdout, r.cmd.Stderr = &r.log, &r.log
	if err := r.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w; `make bench-api` builds it", program, err)
	}
	go func() { r.cmd.Wait(); close(r.done) }()
	p.replicas = append(p.replicas, r)
	for end := time.Now().Add(5 * time.Minute); ; time.Sleep(50 * time.Millisecond) { // the first start may have a schema to bring up to date
		select {
		case <-r.done:
			return fmt.Errorf("%s ended: %s", program, r.log.Bytes())
		default:
		}
		if resp, err := http.Get("http://" + r.listen + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				break
			}
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s is not ready: %s", program, r.log.Bytes())
		}
	}
	if p.admin == nil {
		var err error
		p.admin, err = api.NewClient("http://"+r.listen, func() (string, error) { return benchToken, nil })
		return err
	}
	return nil
}

// stopReplicas ends the replicas as an operator does.
func (p *platform) stopReplicas() {
	if p.stopBeat != nil {
		p.stopBeat()
		p.stopBeat = nil
	}
	for _, r := range p.replicas {
		r.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-r.done:
		case <-time.After(15 * time.Second):
			r.cmd.Process.Kill()
			<-r.done
		}
	}
	p.replicas, p.admin = nil, nil
}

func (p *platform) stop() {
	p.stopReplicas()
	if p.nats != nil {
		p.nats.Shutdown()
		p.nats.WaitForShutdown()
	}
	if p.postgres != nil {
		p.pg("pg_ctl", "-D", p.postgres[0], "-m", "fast", "-w", "stop").Run()
	}
}

// pg makes a command of PostgreSQL's, which refuses to run as root.
func (p *platform) pg(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(p.postgres[1], name), args...)
	cmd.Dir = "/"
	if u, err := user.Lookup("postgres"); os.Getuid() == 0 && err == nil {
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	return cmd
}

// startPostgres runs a server of our own on the folder that is kept, with the defaults of a distribution but for memory.
func (p *platform) startPostgres() error {
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(bins) == 0 {
		return errors.New("PostgreSQL is not installed: `make deps` does it")
	}
	data := filepath.Join(p.dir, "pgdata")
	p.postgres = []string{data, bins[len(bins)-1]}
	if _, err := os.Stat(data); err != nil {
		if err := os.MkdirAll(data, 0o700); err != nil {
			return err
		}
		if cred := p.pg("initdb").SysProcAttr; cred != nil {
			if err := os.Chown(data, int(cred.Credential.Uid), int(cred.Credential.Gid)); err != nil {
				return err
			}
		}
		if out, err := p.pg("initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C").CombinedOutput(); err != nil {
			p.postgres = nil
			return fmt.Errorf("initdb: %w: %s", err, out)
		}
	}
	port := freePort()
	if out, err := p.pg("pg_ctl", "-D", data, "-w", "-t", "120", "-l", filepath.Join(data, "log"), "-o", "-c listen_addresses=127.0.0.1 -c shared_buffers=512MB -c max_wal_size=4GB -p "+port+" -k "+data, "start").CombinedOutput(); err != nil {
		return fmt.Errorf("pg_ctl: %w: %s", err, out)
	}
	p.dsn = "postgres://postgres@127.0.0.1:" + port + "/postgres?sslmode=disable"
	return nil
}

func (p *platform) startNATS() error {
	dir, err := os.MkdirTemp("", "bench-nats-")
	if err != nil {
		return err
	}
	s, err := natsd.NewServer(&natsd.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true})
	if err != nil {
		return err
	}
	go s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		return errors.New("NATS does not start")
	}
	p.nats = s
	return nil
}

// join has one edge in the fleet, which nobody fetches from: a start needs somewhere to send players. It beats to all replicas.
func (p *platform) join(ctx context.Context) error {
	_, _, err := p.admin.PutRegion(ctx, "eu", api.NewRegion{Latitude: 52, Longitude: 5}, "", api.PutRegionOptions{IfNoneMatch: "*"})
	if problem, ok := errors.AsType[*api.Problem](err); err != nil && !(ok && problem.Status == http.StatusPreconditionFailed) { // 412: of an earlier run
		return err
	}
	t, err := p.admin.NewJoinToken(ctx, api.NewJoinToken{Region: "eu"})
	if err != nil {
		return err
	}
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	const url = "http://127.0.0.1:1"
	joined, err := p.admin.Join(ctx, api.Join{Token: t.Token, Name: "eu-" + strconv.FormatInt(time.Now().UnixNano(), 36), URL: url, PublicKey: public})
	if err != nil {
		return err
	}
	var clients []*api.Client
	for _, r := range p.replicas {
		c, err := api.NewClient("http://"+r.listen, func() (string, error) {
			now := time.Now()
			return jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.RegisteredClaims{Issuer: joined.EdgeID, Subject: joined.EdgeID, Audience: jwt.ClaimStrings{"segue-fleet"},
				IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(45 * time.Second))}).SignedString(private)
		})
		if err != nil {
			return err
		}
		if _, err := c.Heartbeat(ctx, api.Heartbeat{URL: url, At: time.Now()}); err != nil {
			return err
		}
		clients = append(clients, c)
	}
	ctx, p.stopBeat = context.WithCancel(ctx)
	for _, c := range clients {
		go func() {
			for tick := time.NewTicker(time.Second); ; {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					_, _ = c.Heartbeat(ctx, api.Heartbeat{URL: url, At: time.Now()}) // what comes of a lost one is seen in the figures
				}
			}
		}()
	}
	return nil
}

// indexed waits until every replica has a whole search index.
func (p *platform) indexed(ctx context.Context) error {
	begun := time.Now()
	for i, r := range p.replicas {
		c, err := api.NewClient("http://"+r.listen, func() (string, error) { return benchToken, nil })
		if err != nil {
			return err
		}
		for {
			var x api.SearchIndex
			if err := c.Call(ctx, http.MethodGet, "/v1/admin/search", nil, &x); err != nil {
				return err
			}
			if x.State == "ready" {
				break
			}
			fmt.Fprintf(os.Stderr, "\r\x1b[Ksearch index of replica %d: %d of about %d documents, %s ", i+1, x.Done, x.Total, time.Since(begun).Round(time.Second))
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(300 * time.Millisecond):
			}
		}
	}
	if time.Since(begun) > time.Second {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
	}
	return nil
}

// cpu is what all replicas used, in seconds; resident what they hold, in bytes.
func (p *platform) cpu() (seconds float64) {
	for _, r := range p.replicas {
		seconds += cpuOf(r.cmd.Process.Pid)
	}
	return seconds
}

func (p *platform) resident() (bytes int64) {
	for _, r := range p.replicas {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", r.cmd.Process.Pid))
		if f := strings.Fields(string(b)); len(f) > 1 {
			pages, _ := strconv.ParseInt(f[1], 10, 64)
			bytes += pages * int64(os.Getpagesize())
		}
	}
	return bytes
}

func cpuOf(pid int) float64 {
	f := stat(pid)
	if len(f) < 15 {
		return 0
	}
	sum := 0.0
	for _, s := range f[11:15] { // its own, and that of the children it waited for: PostgreSQL's connections are such
		n, _ := strconv.ParseFloat(s, 64)
		sum += n
	}
	return sum / 100 // USER_HZ
}

// databaseCPU is what PostgreSQL used, in seconds: the server, its workers, and the connections that are open.
func (p *platform) databaseCPU() (seconds float64) {
	if p.postgres == nil {
		return 0
	}
	b, err := os.ReadFile(filepath.Join(p.postgres[0], "postmaster.pid"))
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	root, _ := strconv.Atoi(line)
	seconds = cpuOf(root)
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(d))
		if f := stat(pid); len(f) > 1 && f[1] == strconv.Itoa(root) {
			seconds += cpuOf(pid)
		}
	}
	return seconds
}
