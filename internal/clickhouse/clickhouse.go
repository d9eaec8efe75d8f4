// Package clickhouse runs ClickHouse's own engine, with its own HTTP and native listeners, out of libchdb.so: the
// embedded default for play logs. It is the server side of clickhouse-local: one node, no replication, users from a file;
// for one machine and for tests. Engine starts it in a child process, since it is C++ with its own threads and signals;
// Serve is that child.
//
// Users: "segue" writes, "analyst" reads. ClickHouse's "default" stays open to loopback with no password, because the
// engine's own session is that user; it is granted nothing but what starts the listeners.
package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"segue/internal/serve"

	"github.com/ebitengine/purego"
)

// Names of the users and of the database that they share.
const (
	Writer   = "segue"
	Analyst  = "analyst"
	Database = "segue"
)

// Config says where one engine keeps its data and listens.
type Config struct {
	Library         string // libchdb.so
	Dir             string
	HTTP, Native    string // host:port, one host
	WriterPassword  string
	AnalystPassword string
}

// FindLibrary looks for libchdb.so: the path given, else where `make` and packages put it. Its error says where it
// looked.
func FindLibrary(given string) (string, error) {
	tried := []string{given}
	if given == "" {
		below := "node_modules/@chdb/lib-linux-x64-gnu/libchdb.so"
		tried = []string{filepath.Join(".cache/chdb", below), "/usr/lib/segue/libchdb.so"}
		if exe, err := os.Executable(); err == nil {
			tried = append(tried, filepath.Join(filepath.Dir(exe), "libchdb.so"), filepath.Join(filepath.Dir(exe), "..", ".cache/chdb", below))
		}
	}
	for _, path := range tried {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return filepath.Abs(path)
		}
	}
	return "", fmt.Errorf("libchdb.so is not at %s", strings.Join(tried, ", "))
}

const configXML = `<clickhouse>
  <logger><level>error</level><console>0</console></logger>
  <user_directories><users_xml><path>users.xml</path></users_xml></user_directories>
</clickhouse>
`

// usersXML: readonly 2 lets analysts set limits of their own queries, as clients do, and write nothing.
const usersXML = `<clickhouse>
  <profiles>
    <default><max_memory_usage>2000000000</max_memory_usage></default>
    <reader><readonly>2</readonly><max_execution_time>60</max_execution_time><max_memory_usage>1000000000</max_memory_usage></reader>
  </profiles>
  <quotas><default></default></quotas>
  <users>
    <default><password></password><networks><host>localhost</host></networks><profile>default</profile><quota>default</quota>
      <grants><query>GRANT SYSTEM LISTEN ON *.*</query></grants></default>
    <segue><password>%[1]s</password><networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota>
      <grants><query>GRANT ALL ON segue.*</query><query>GRANT TABLE ENGINE ON *</query><query>GRANT KILL QUERY ON *.*</query><query>GRANT SELECT ON system.*</query></grants></segue>
    <analyst><password>%[2]s</password><networks><ip>::/0</ip></networks><profile>reader</profile><quota>default</quota>
      <grants><query>GRANT SELECT ON segue.*</query></grants></analyst>
  </users>
</clickhouse>
`

// untilKilled is the query that keeps the engine alive. It needs no grant, unlike reading a pipe.
const untilKilled = "SELECT sleepEachRow(1) FROM numbers(1000000000) SETTINGS max_block_size=1 FORMAT Null"

// Serve runs the engine in this process until ctx ends; ready is called when it answers. The process should exit
// afterwards: the library leaves threads behind.
func Serve(ctx context.Context, c Config, ready func()) error {
	host, httpPort, err := net.SplitHostPort(c.HTTP)
	if err != nil {
		return serve.Setupf("clickhouse HTTP address %q: want host:port", c.HTTP)
	}
	nativeHost, nativePort, err := net.SplitHostPort(c.Native)
	if err != nil || nativeHost != host {
		return serve.Setupf("clickhouse native address %q: want %s:port", c.Native, host)
	}
	if err := c.prepare(); err != nil {
		return err
	}
	held, err := lock(c.Dir)
	if err != nil {
		return err
	}
	defer held.Close()
	for _, addr := range []string{c.HTTP, c.Native} { // the engine would only mumble about a taken port
		ln, err := serve.Listen(addr)
		if err != nil {
			return err
		}
		ln.Close()
	}
	lib, err := purego.Dlopen(c.Library, purego.RTLD_NOW|purego.RTLD_GLOBAL)
	if err != nil {
		return serve.Setupf("load %s: %w", c.Library, err)
	}
	var handlers func(int32)
	purego.RegisterLibFunc(&handlers, lib, "chdb_set_signal_handlers_enabled")
	handlers(0) // before anything else: its handlers would catch Go's signals
	var query func(argc int32, argv **byte) *result
	purego.RegisterLibFunc(&query, lib, "query_stable_v2")

	args := []string{"clickhouse", "--config-file", filepath.Join(c.Dir, "config.xml"), "--path", filepath.Join(c.Dir, "data"),
		"--listen_host", host, "--http_port", httpPort, "--tcp_port", nativePort,
		"--query", "SYSTEM START LISTEN HTTP; SYSTEM START LISTEN TCP; " + untilKilled}
	argv := make([]*byte, len(args)+1)
	for i, a := range args {
		argv[i] = &append([]byte(a), 0)[0]
	}
	var asked atomic.Bool
	ended := make(chan struct{})
	watch, stopWatching := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWatching()
	go func() {
		if c.waitUntilUp(watch) == nil {
			ready()
		}
	}()
	defer context.AfterFunc(ctx, func() {
		asked.Store(true)
		for { // a kill that comes before the query has begun finds nothing
			c.killQuery()
			select {
			case <-ended:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	})()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r := query(int32(len(args)), &argv[0])
	close(ended)
	runtime.KeepAlive(argv)
	switch {
	case asked.Load():
		return nil
	case r == nil:
		return errors.New("clickhouse engine returned nothing")
	default:
		return fmt.Errorf("clickhouse engine stopped by itself: %s", text(r.err))
	}
}

// result is local_result_v2 of chdb.h.
type result struct {
	_   *byte // buf
	_   uintptr
	_   unsafe.Pointer
	_   float64 // elapsed
	_   uint64  // rows read
	_   uint64  // bytes read
	err *byte
}

func text(p *byte) string {
	if p == nil {
		return ""
	}
	n := 0
	for *(*byte)(unsafe.Add(unsafe.Pointer(p), n)) != 0 {
		n++
	}
	return string(unsafe.Slice(p, n))
}

func (c Config) prepare() error {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return serve.Setupf("clickhouse folder: %w", err)
	}
	for name, body := range map[string]string{"config.xml": configXML, "users.xml": fmt.Sprintf(usersXML, c.WriterPassword, c.AnalystPassword)} {
		if err := os.WriteFile(filepath.Join(c.Dir, name), []byte(body), 0o600); err != nil {
			return serve.Setupf("clickhouse folder: %w", err)
		}
	}
	return nil
}

func (c Config) killQuery() {
	resp, err := c.post("KILL QUERY WHERE query LIKE 'SELECT sleepEachRow%' ASYNC")
	if err == nil {
		resp.Body.Close()
	}
}

func (c Config) post(sql string) (*http.Response, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	u := url.URL{Scheme: "http", Host: c.HTTP, Path: "/", RawQuery: url.Values{"user": {Writer}, "password": {c.WriterPassword}}.Encode()}
	return client.Post(u.String(), "text/plain", strings.NewReader(sql))
}

func (c Config) waitUntilUp(ctx context.Context) error {
	for {
		if resp, err := c.post("SELECT 1"); err == nil {
			resp.Body.Close()
			if conn, derr := net.Dial("tcp", c.Native); derr == nil && resp.StatusCode == http.StatusOK {
				return conn.Close()
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Engine is the parent's side: a child process that runs `<program> clickhouse …`.
type Engine struct {
	Config
	Program string // path of the segue program
}

// Run starts the child and waits until it answers, then until ctx ends or the child does. The child's output goes to
// engine.log in Dir. The child ends when this process does, however it does: it watches its standard input.
func (e Engine) Run(ctx context.Context, ready func()) error {
	if err := e.prepare(); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(e.Dir, "engine.log"))
	if err != nil {
		return serve.Setupf("clickhouse folder: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(e.Program, "clickhouse", "--path", e.Dir, "--http", e.HTTP, "--native", e.Native, "--library", e.Library, "--secrets-from-stdin")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the parent, which stops in order
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start clickhouse: %w", err)
	}
	if _, err := fmt.Fprintf(stdin, "%s\n%s\n", e.WriterPassword, e.AnalystPassword); err != nil {
		return errors.Join(err, cmd.Wait())
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	up, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	go func() {
		if e.waitUntilUp(up) == nil {
			ready()
		} else if ctx.Err() == nil {
			_ = cmd.Process.Kill()
		}
	}()
	select {
	case err := <-exited:
		return fmt.Errorf("clickhouse engine ended (%v): %s", err, e.lastWords())
	case <-ctx.Done():
	}
	stdin.Close()
	select {
	case err := <-exited:
		// With clients still connected the engine waits five seconds for them and then leaves by exit(1), after its
		// tables were shut down as always: that is a stop like any other.
		if x, ok := errors.AsType[*exec.ExitError](err); ok && x.ExitCode() == 1 && !strings.HasPrefix(e.lastWords(), "error:") {
			return nil
		}
		return err
	case <-time.After(15 * time.Second):
		return errors.Join(errors.New("clickhouse engine did not stop, killed"), cmd.Process.Kill(), <-exited)
	}
}

func (e Engine) lastWords() string {
	b, err := os.ReadFile(filepath.Join(e.Dir, "engine.log"))
	if err != nil || len(b) == 0 {
		return "it said nothing"
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// UntilEOF returns a context that ends with ctx or when r does: how a child learns that its parent is gone.
func UntilEOF(ctx context.Context, r io.Reader) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, r)
		cancel()
	}()
	return ctx, cancel
}
