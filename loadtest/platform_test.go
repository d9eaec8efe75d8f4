package loadtest_test

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"segue/controlplane/api"
	"segue/internal/testenv"
	"segue/loadtest"
)

// start runs a program until a line of its output begins with word, or, for "", at once.
func start(t *testing.T, word, program string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(program, args...)
	var errors strings.Builder
	cmd.Stderr = &errors
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Logf("%s wrote: %s", program, errors.String())
		}
	})
	ready := make(chan bool, 1)
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if word != "" && strings.HasPrefix(lines.Text(), word) {
				ready <- true
			}
		}
		_ = cmd.Wait()
		close(ended)
		ready <- false
	}()
	if word != "" && !<-ready {
		t.Fatalf("%s %v ended: %s", program, args, errors.String())
	}
	return cmd
}

// TestEdgeDies has listeners on a real platform, and kills one of its two edges with SIGKILL in the middle: everybody plays on from the
// other one, out of the buffer, and whoever presses play gets there too.
func TestEdgeDies(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a platform: run without -short")
	}
	segue, edge := testenv.Program(t, "segue"), testenv.Program(t, "segue-edge")
	data, listen := t.TempDir(), testenv.Addr(t)
	base := "http://" + listen
	start(t, "ready after ", segue, "up", "--data", data, "--listen", listen, "--edge-listen", testenv.Addr(t), "--edges", "1", "--debug-listen", "", "--clickhouse-http", testenv.Addr(t), "--clickhouse-native", testenv.Addr(t))
	secret, err := os.ReadFile(filepath.Join(data, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	admin, err := api.NewClient(base, func() (string, error) { return strings.TrimSpace(string(secret)), nil })
	if err != nil {
		t.Fatal(err)
	}
	seed := loadtest.Seed{Tracks: 8, Length: 40 * time.Second}
	for range 2 { // the second time there is nothing to do
		if err := seed.Ingest(t.Context(), admin, nil); err != nil {
			t.Fatal(err)
		}
	}
	join, err := admin.NewJoinToken(t.Context(), api.NewJoinToken{Region: "eu-west"})
	if err != nil {
		t.Fatal(err)
	}
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(join.Token), 0o600); err != nil {
		t.Fatal(err)
	}
	other := testenv.Addr(t)
	victim := start(t, "", edge, "--listen", other, "--origin", filepath.Join(data, "origin"), "--control", base, "--join-token-file", token, "--name", "eu-west-9", "--public-url", "http://"+other, "--state", t.TempDir())
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		edges, err := admin.ListEdges(t.Context())
		healthy := 0
		for _, e := range edges.Items {
			if e.State == "healthy" {
				healthy++
			}
		}
		if healthy == 2 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("two edges do not come up: %+v, %v", edges, err)
		}
	}

	s := scenario(t, "name: edge-dies\nsession: 1m\nsteered: 0.5\nskip: [{by: 3, part: 0.3}]\ndo: [{at: 0.4, do: edge-dies}]")
	r := run(t, loadtest.Config{Base: base, Scenario: s, Listeners: 30, Duration: 15 * time.Second, Warm: 4 * time.Second, Verify: .5, MaxLag: time.Minute,
		On: map[string]func(context.Context) error{"edge-dies": func(context.Context) error { return victim.Process.Kill() }}})
	var text strings.Builder
	loadtest.Summary(&text, r)
	t.Log(text.String())
	c := r.Counts
	if c.Plays < 5 || c.Failed != 0 || c.Failovers == 0 || c.Sampled == 0 || c.Mismatched != 0 {
		t.Errorf("plays %d, failed %d, failovers %d, samples %d, wrong %d", c.Plays, c.Failed, c.Failovers, c.Sampled, c.Mismatched)
	}
	for _, e := range r.Errors {
		if e.Kind != "refused" && e.Kind != "reset" && e.Kind != "short-body" {
			t.Errorf("an edge that is gone refuses and breaks connections; but: %+v", e)
		}
	}
	for text, holds := range map[string]bool{"startup.p99>1us": true, "failed>0": false, "hit_ratio<1%": false, "plays<1": false, "egress<1kbit/s": false} {
		cond, err := loadtest.ParseCondition(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := cond.Check(r); (err != nil) != holds {
			t.Errorf("%s: %v", text, err)
		}
	}
}
