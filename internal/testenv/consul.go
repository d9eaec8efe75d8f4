package testenv

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Consul is a running agent, which is a server. Kill and Start take it away and back, with its data and addresses.
type Consul struct {
	Addr string // HTTP, or HTTPS when the configuration says so
	PID  int

	t    testing.TB
	args []string
	cmd  *exec.Cmd
	log  *os.File
}

func consulPath(t testing.TB) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(Root(t), ".cache/consul-*/consul"))
	if err == nil && len(found) == 0 {
		err = errors.New("Consul is not in .cache")
	}
	need(t, err)
	return found[0]
}

// StartConsul starts one server in development mode. more is configuration in HCL; with it the caller waits until the agent
// answers.
func StartConsul(t testing.TB, more ...string) *Consul {
	t.Helper()
	port := Port(t)
	args := []string{"agent", "-dev", "-bind", "127.0.0.1", "-client", "127.0.0.1", "-http-port", strconv.Itoa(port), "-dns-port", "-1", "-grpc-port", "-1", "-grpc-tls-port", "-1",
		"-server-port", strconv.Itoa(Port(t)), "-serf-lan-port", strconv.Itoa(Port(t)), "-serf-wan-port", "-1", "-log-level", "warn", "-disable-host-node-id", "-hcl", "disable_update_check = true"}
	for _, m := range more {
		args = append(args, "-hcl", m)
	}
	c := newConsul(t, port, args)
	c.Start()
	if len(more) == 0 {
		c.await()
	}
	return c
}

// StartConsulCluster starts n servers with data on disk that elect a leader among them.
func StartConsulCluster(t testing.TB, n int) []*Consul {
	t.Helper()
	serf := make([]int, n)
	for i := range serf {
		serf[i] = Port(t)
	}
	var out []*Consul
	for i := range n {
		port := Port(t)
		args := []string{"agent", "-server", "-bootstrap-expect", strconv.Itoa(n), "-node", fmt.Sprint("n", i), "-data-dir", t.TempDir(), "-bind", "127.0.0.1", "-client", "127.0.0.1",
			"-http-port", strconv.Itoa(port), "-dns-port", "-1", "-grpc-port", "-1", "-grpc-tls-port", "-1", "-server-port", strconv.Itoa(Port(t)), "-serf-lan-port", strconv.Itoa(serf[i]), "-serf-wan-port", "-1",
			"-log-level", "warn", "-disable-host-node-id", "-hcl", "performance { raft_multiplier = 1 } leave_on_terminate = false disable_update_check = true"}
		for j := range n {
			if j != i {
				args = append(args, "-retry-join", fmt.Sprintf("127.0.0.1:%d", serf[j]))
			}
		}
		args = append(args, "-retry-interval", "1s")
		out = append(out, newConsul(t, port, args))
	}
	for _, c := range out {
		c.Start()
	}
	for _, c := range out {
		c.await()
	}
	return out
}

func newConsul(t testing.TB, port int, args []string) *Consul {
	c := &Consul{Addr: "127.0.0.1:" + strconv.Itoa(port), t: t, args: append([]string{consulPath(t)}, args...)}
	t.Cleanup(func() {
		c.Kill()
		if t.Failed() && c.log != nil {
			b, _ := os.ReadFile(c.log.Name())
			t.Logf("Consul at %s wrote:\n%s", c.Addr, b[max(0, len(b)-3000):])
		}
	})
	return c
}

// Start starts the agent.
func (c *Consul) Start() {
	c.t.Helper()
	log, err := os.CreateTemp(c.t.TempDir(), "log")
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.Command(c.args[0], c.args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.cmd, c.log, c.PID = cmd, log, cmd.Process.Pid
}

// await waits until the agent knows a leader.
func (c *Consul) await() {
	c.t.Helper()
	eventually(c.t, "Consul", func() error {
		leader, err := c.leader()
		if err == nil && leader == "" {
			err = errors.New("no leader")
		}
		return err
	})
}

func (c *Consul) leader() (string, error) {
	client := http.Client{Timeout: time.Second}
	resp, err := client.Get("http://" + c.Addr + "/v1/status/leader")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b := make([]byte, 64)
	n, _ := resp.Body.Read(b)
	return strings.Trim(string(b[:n]), "\"\n"), nil
}

// Leads reports whether this server is the leader of its cluster.
func (c *Consul) Leads() bool {
	leader, err := c.leader()
	for i, a := range c.args {
		if a == "-server-port" && err == nil {
			return leader == "127.0.0.1:"+c.args[i+1]
		}
	}
	return false
}

// Kill ends it at once, as SIGKILL does. A second time it does nothing.
func (c *Consul) Kill() {
	if c.cmd == nil {
		return
	}
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
	c.cmd = nil
	c.log.Close()
}

// URL is for registry.OpenConsul.
func (c *Consul) URL() string { return "consul://" + c.Addr }
