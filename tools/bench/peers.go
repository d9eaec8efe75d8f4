package main

import (
	"bytes"
	"embed"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"
)

//go:embed conf
var conf embed.FS

// setting is what a configuration file is filled with.
type setting struct {
	Dir, Listen, Port, Origin, OriginHost, OriginPort string
	Memory, MemoryMB, VolumeMB                        int64
}

// peer is one server under test, running.
type peer struct {
	name string
	base string
	dir  string
	cmd  *exec.Cmd
}

// serverCore and clientCore keep the two sides apart.
const (
	serverCore = "0"
	clientCore = "1"
)

func freePort() string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "0"
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

// start runs a peer as a cache of memory bytes in front of an origin, host:port, and waits until it listens.
func (r *runner) start(name, origin string, memory int64) (*peer, error) {
	dir, err := os.MkdirTemp("/dev/shm", "bench-"+name+"-") // tmpfs
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	port := freePort()
	s := setting{Dir: dir, Listen: "127.0.0.1:" + port, Port: port, Origin: origin, Memory: memory, MemoryMB: memory >> 20, VolumeMB: max(128, memory>>20)}
	s.OriginHost, s.OriginPort, _ = net.SplitHostPort(origin)
	p := &peer{name: name, base: "http://" + s.Listen, dir: dir}
	var args []string
	switch name {
	case "segue":
		args = []string{r.edge, "--listen", s.Listen, "--origin", "http://" + origin, "--memory", strconv.FormatInt(s.MemoryMB, 10) + "MiB", "--log-level", "warn"}
		if r.debug != "" {
			args = append(args, "--debug-listen", r.debug)
		}
	case "nginx":
		if err := write("nginx.conf", dir+"/nginx.conf", s); err != nil {
			return nil, err
		}
		args = []string{"nginx", "-p", dir, "-c", dir + "/nginx.conf"}
	case "varnish":
		if err := write("varnish.vcl", dir+"/v.vcl", s); err != nil {
			return nil, err
		}
		args = []string{"varnishd", "-F", "-j", "none", "-n", dir + "/work", "-a", s.Listen, "-f", dir + "/v.vcl", "-s", "malloc," + strconv.FormatInt(s.MemoryMB, 10) + "M",
			"-p", "timeout_idle=300", "-p", "thread_pools=1", "-p", "thread_pool_max=5000", "-p", "listen_depth=16384"}
	case "trafficserver":
		// A root of its own, with Debian's configuration but for our files.
		for _, d := range []string{"run", "logs", "cache"} {
			if err := os.Mkdir(dir+"/"+d, 0o755); err != nil {
				return nil, err
			}
		}
		if err := os.CopyFS(dir+"/etc", os.DirFS("/etc/trafficserver")); err != nil {
			return nil, err
		}
		for file, to := range map[string]string{"ats-records.config": "etc/records.config", "ats-remap.config": "etc/remap.config",
			"ats-storage.config": "etc/storage.config", "ats-runroot.yaml": "runroot.yaml"} {
			if err := write(file, dir+"/"+to, s); err != nil {
				return nil, err
			}
		}
		args = []string{"traffic_server", "--run-root=" + dir}
	case "squid":
		if err := write("squid.conf", dir+"/squid.conf", s); err != nil {
			return nil, err
		}
		if err := os.Chmod(dir, 0o777); err != nil { // it runs as another user
			return nil, err
		}
		args = []string{"squid", "-N", "-f", dir + "/squid.conf", "-n", "bench" + port}
	default:
		return nil, fmt.Errorf("%q: no such peer", name)
	}
	p.cmd = exec.Command("taskset", append([]string{"-c", serverCore}, args...)...)
	p.cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(dir + "/log")
	if err != nil {
		return nil, err
	}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	for range 300 {
		if c, err := net.Dial("tcp", s.Listen); err == nil {
			c.Close()
			time.Sleep(500 * time.Millisecond)
			for _, pid := range p.pids() { // Traffic Server binds its network thread to all cores again
				if out, err := exec.Command("taskset", "-a", "-c", "-p", serverCore, pid).CombinedOutput(); err != nil {
					p.stop()
					return nil, fmt.Errorf("taskset: %w: %s", err, out)
				}
			}
			return p, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	text, _ := os.ReadFile(dir + "/log")
	p.stop()
	return nil, fmt.Errorf("%s does not listen: %s", name, text)
}

func write(from, to string, s setting) error {
	text, err := conf.ReadFile("conf/" + from)
	if err != nil {
		return err
	}
	t, err := template.New(from).Parse(string(text))
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, s); err != nil {
		return err
	}
	return os.WriteFile(to, out.Bytes(), 0o644)
}

// stop ends the peer's process group, which is its own.
func (p *peer) stop() {
	group := -p.cmd.Process.Pid
	syscall.Kill(group, syscall.SIGTERM)
	done := make(chan struct{})
	go func() { p.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(3 * time.Second):
	}
	syscall.Kill(group, syscall.SIGKILL)
	<-done
	os.RemoveAll(p.dir)
}

// pids are the peer's processes: of its session, by walking up from each to the one started.
func (p *peer) pids() (out []string) {
	root := p.cmd.Process.Pid
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(d))
		for at := pid; at > 1; {
			if at == root {
				out = append(out, strconv.Itoa(pid))
				break
			}
			fields := stat(at)
			if len(fields) < 2 {
				break
			}
			at, _ = strconv.Atoi(fields[1])
		}
	}
	return out
}

// stat is /proc/PID/stat after the name: state, parent, …
func stat(pid int) []string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return nil
	}
	return strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
}

// cpu is the time all of the peer's processes used, in seconds.
func (p *peer) cpu() (seconds float64) {
	for _, pid := range p.pids() {
		n, _ := strconv.Atoi(pid)
		if f := stat(n); len(f) > 12 {
			user, _ := strconv.ParseFloat(f[11], 64)
			sys, _ := strconv.ParseFloat(f[12], 64)
			seconds += (user + sys) / 100 // USER_HZ
		}
	}
	return seconds
}
