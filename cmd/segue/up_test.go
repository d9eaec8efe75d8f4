package main

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"segue/internal/clickhouse"
	"segue/internal/testenv"
)

// TestRestarts kills a platform, starts it again at once, refuses a second one on its folder, and stops it as Ctrl-C does.
func TestRestarts(t *testing.T) {
	engine := testenv.Library(t)
	data := t.TempDir()
	args := []string{"up", "--data", data, "--listen", testenv.Addr(t), "--edge-listen", testenv.Addr(t), "--edges", "1", "--debug-listen", "",
		"--clickhouse-http", testenv.Addr(t), "--clickhouse-native", testenv.Addr(t), "--clickhouse-library", engine}
	up := func() *exec.Cmd {
		t.Helper()
		cmd := exec.Command(testenv.Program(t, "segue"), args...)
		var errors strings.Builder
		cmd.Stderr = &errors
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "ready after ") {
				return cmd
			}
		}
		t.Fatalf("it did not start: %v %s", cmd.Wait(), errors.String())
		return nil
	}
	first := up()
	_ = first.Process.Kill()
	_ = first.Wait()
	second := up() // its ports are those of the first, whose engine is still stopping

	out, err := exec.Command(testenv.Program(t, "segue"), args...).CombinedOutput()
	if x, ok := err.(*exec.ExitError); !ok || x.ExitCode() != 2 || !strings.Contains(string(out), "in use by another segue") {
		t.Errorf("a second one on the folder: %v, %s", err, out)
	}
	_ = second.Process.Signal(os.Interrupt)
	ended := make(chan error, 1)
	go func() { ended <- second.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("after Ctrl-C: %v", err)
		}
	case <-time.After(30 * time.Second):
		_ = second.Process.Signal(syscall.SIGQUIT)
		t.Fatal("it does not stop")
	}
	if err := clickhouse.AwaitStopped(t.Context(), data+"/clickhouse", time.Millisecond); err != nil {
		t.Errorf("its engine outlived it: %v", err)
	}
}
