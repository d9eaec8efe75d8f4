// Package testenv starts the real foreign servers of the tests on free loopback ports: MinIO, PostgreSQL, the embedded
// ClickHouse engine; and finds the real music. A missing tool fails the test and names the command that installs it;
// `go test -short` skips what needs one.
package testenv

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"segue/internal/clickhouse"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

// Root is the module's folder.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
	}
	t.Fatal("no go.mod above the test")
	return ""
}

// Port returns a free loopback port.
func Port(t testing.TB) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// Addr is a free loopback address.
func Addr(t testing.TB) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(Port(t))) }

// need skips in -short mode and fails when err says that a tool is missing.
func need(t testing.TB, err error) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a real service: run without -short")
	}
	if err != nil {
		t.Fatalf("%v; `make deps` installs it", err)
	}
}

// start runs a server until the test ends; its output is shown when the test failed.
func start(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		done := make(chan struct{})
		go func() { _ = cmd.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-done
		}
		log.Close()
		if t.Failed() {
			b, _ := os.ReadFile(log.Name())
			t.Logf("%s wrote:\n%s", cmd.Path, b[max(0, len(b)-4000):])
		}
	})
}

// eventually calls f until it works.
func eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("%s does not come up: %v", what, err)
}

// S3 is a running MinIO.
type S3 struct{ Endpoint, AccessKey, SecretKey string }

// MinIO starts one.
func MinIO(t testing.TB) S3 {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(Root(t), ".cache/minio-*/minio"))
	if err == nil && len(found) == 0 {
		err = errors.New("MinIO is not in .cache")
	}
	need(t, err)
	s := S3{"http://" + Addr(t), "segue-test", "segue-test-secret"}
	cmd := exec.Command(found[0], "server", "--quiet", "--address", s.Endpoint[len("http://"):], t.TempDir())
	cmd.Env = append(os.Environ(), "MINIO_ROOT_USER="+s.AccessKey, "MINIO_ROOT_PASSWORD="+s.SecretKey, "MINIO_BROWSER=off", "MINIO_UPDATE=off")
	start(t, cmd)
	eventually(t, "MinIO", func() error {
		// Its health page is ready before its buckets are: then this is no 503 any more, but the 403 of a stranger.
		resp, err := http.Get(s.Endpoint + "/")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode != http.StatusForbidden {
				err = errors.New(resp.Status)
			}
		}
		return err
	})
	return s
}

// Postgres starts a server and returns the URL of an empty database.
func Postgres(t testing.TB) string {
	t.Helper()
	bins, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err == nil && len(bins) == 0 {
		err = errors.New("PostgreSQL is not installed")
	}
	need(t, err)
	bin := filepath.Dir(bins[len(bins)-1])
	// It refuses to run as root, and its folder must be reachable for its user: t.TempDir is not.
	dir, err := os.MkdirTemp("", "segue-pg-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	as := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.Dir = "/"
		if os.Getuid() == 0 {
			u, err := user.Lookup("postgres")
			if err != nil {
				t.Fatal(err)
			}
			uid, _ := strconv.Atoi(u.Uid)
			gid, _ := strconv.Atoi(u.Gid)
			if err := os.Chown(dir, uid, gid); err != nil {
				t.Fatal(err)
			}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		}
		return cmd
	}
	data := filepath.Join(dir, "data")
	if out, err := as("initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "--locale=C").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	port := strconv.Itoa(Port(t))
	if out, err := as("pg_ctl", "-D", data, "-w", "-l", filepath.Join(dir, "log"), "-o", "-c listen_addresses=127.0.0.1 -c fsync=off -p "+port+" -k "+dir, "start").CombinedOutput(); err != nil {
		t.Fatalf("pg_ctl: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := as("pg_ctl", "-D", data, "-m", "immediate", "stop").CombinedOutput(); err != nil {
			t.Errorf("pg_ctl stop: %v\n%s", err, out)
		}
	})
	url := "postgres://postgres@127.0.0.1:" + port + "/postgres?sslmode=disable"
	eventually(t, "PostgreSQL", func() error {
		db, err := sql.Open("pgx", url)
		if err != nil {
			return err
		}
		defer db.Close()
		return db.Ping()
	})
	return url
}

// programs builds each program once per test binary, with the flags of the Makefile: what `make` built is
// not compiled again.
var programs = map[string]func() (string, error){"segue": build("segue"), "segue-edge": build("segue-edge"), "segue-controlplane": build("segue-controlplane")}

func build(name string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		dir, err := os.MkdirTemp("", name+"-bin-")
		if err != nil {
			return "", err
		}
		out, err := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(dir, name), "segue/cmd/"+name).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("%w: %s", err, out)
		}
		return filepath.Join(dir, name), nil
	})
}

// Program is the path of a freshly built program: segue (the engine runs in a child of it) or segue-edge.
func Program(t testing.TB, name string) string {
	t.Helper()
	path, err := programs[name]()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// ClickHouse is a running engine. Stop and Start take it away and back, with its data.
type ClickHouse struct {
	clickhouse.Config
	t      testing.TB
	cancel context.CancelFunc
	done   chan error
}

// Library is the path of libchdb.so, the embedded engine.
func Library(t testing.TB) string {
	t.Helper()
	path, err := clickhouse.FindLibrary(filepath.Join(Root(t), ".cache/chdb/node_modules/@chdb/lib-linux-x64-gnu/libchdb.so"))
	need(t, err)
	return path
}

// StartClickHouse starts one on an empty folder.
func StartClickHouse(t testing.TB) *ClickHouse {
	t.Helper()
	c := &ClickHouse{t: t, Config: clickhouse.Config{Library: Library(t), Dir: t.TempDir(), HTTP: Addr(t), Native: Addr(t), WriterPassword: "write", AnalystPassword: "read"}}
	c.Start()
	t.Cleanup(c.Stop)
	return c
}

// Start starts the engine and waits until it answers.
func (c *ClickHouse) Start() {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel, c.done = cancel, make(chan error, 1)
	up := make(chan struct{})
	go func() {
		c.done <- clickhouse.Engine{Config: c.Config, Program: Program(c.t, "segue")}.Run(ctx, func() { close(up) })
	}()
	select {
	case <-up:
	case err := <-c.done:
		c.t.Fatalf("ClickHouse engine: %v", err)
	}
}

// Stop stops the engine.
func (c *ClickHouse) Stop() {
	if c.cancel == nil {
		return
	}
	c.cancel()
	if err := <-c.done; err != nil {
		c.t.Errorf("ClickHouse engine: %v", err)
	}
	c.cancel = nil
}

// URL is for the sink, as the writer.
func (c *ClickHouse) URL() string {
	return "clickhouse://" + clickhouse.Writer + ":" + c.WriterPassword + "@" + c.Native + "/" + clickhouse.Database
}

// QueryURL is for questions over HTTP, as the analyst.
func (c *ClickHouse) QueryURL() string {
	return "http://" + clickhouse.Analyst + ":" + c.AnalystPassword + "@" + c.HTTP + "/" + clickhouse.Database
}

// Music is a folder of real, tagged Ogg Vorbis tracks.
func Music(t testing.TB) string {
	t.Helper()
	dirs, err := filepath.Glob("/usr/share/games/wesnoth/*/data/core/music")
	if err == nil && len(dirs) == 0 {
		err = errors.New("the Debian package wesnoth-1.16-music is not installed")
	}
	need(t, err)
	return dirs[0]
}

// Tool is a program's path.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	need(t, err)
	return path
}
