package edge_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"segue/edge"
	"segue/internal/testenv"
)

// unreachable are required tests of the suite that no cache can pass, and why. Everything else must pass.
var unreachable = map[string]string{
	"stale-close-must-revalidate":  noAnswer,
	"stale-close-proxy-revalidate": noAnswer,
	"stale-close-no-cache":         noAnswer,
	"stale-close-s-maxage=2":       noAnswer,
	"age-parse-prefix":             "wants `Age: 0,7200` to be fresh where age-parse-dup-0 wants `Age: 0, 0` to be stale: an Age that is a list makes a response stale here",
}

const noAnswer = "the origin closes the connection, and a 502 has not the header of the origin that the test reads"

// misses are the optimal tests that are not passed, and why.
var misses = map[string]string{
	"vary-normalise-lang-select":     "would need Content-Language to be matched with weights: RFC 9111 4.1 lets a cache do it",
	"conditional-lm-fresh-no-lm":     "asks for a 304 to a date before the response's own: RFC 9111 4.3.2 says otherwise",
	"partial-store-partial-complete": "asks for the rest of a response that has no validator: RFC 9110 15.3.7.3 forbids to combine it",
}

// TestPublicSuite lets http-tests/cache-tests judge the edge as a cache in front of an HTTP origin. The lists above must
// be exact: a test that passes while it is listed fails too.
func TestPublicSuite(t *testing.T) {
	node := testenv.Tool(t, "node")
	dir := filepath.Join(testenv.Root(t), ".cache/publicsuite/node_modules/http-cache-tests")
	if _, err := os.Stat(dir); err != nil {
		t.Fatalf("%v; `make deps` installs it", err)
	}
	port := testenv.Port(t)
	server := exec.Command(node, "--no-warnings", "server/server.mjs")
	server.Dir = dir
	server.Env = append(os.Environ(), "npm_config_protocol=http", fmt.Sprintf("npm_config_port=%d", port), "npm_config_pidfile="+filepath.Join(t.TempDir(), "pid"))
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	origin := fmt.Sprintf("http://127.0.0.1:%d", port)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if resp, err := http.Get(origin + "/"); err == nil {
			resp.Body.Close()
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	o, err := edge.NewHTTPOrigin(origin)
	if err != nil {
		t.Fatal(err)
	}
	_, base := start(t, edge.Config{Routes: []*edge.Route{{Prefix: "/", Origin: o}}})
	out, err := exec.Command(node, "--no-warnings", filepath.Join(testenv.Root(t), "edge/testdata/publicsuite/run.mjs"), dir, base).Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var results []struct {
		ID, Kind string
		Passed   bool
		Why      string
	}
	if err := json.Unmarshal(out, &results); err != nil || len(results) < 300 {
		t.Fatalf("%d results: %v", len(results), err)
	}
	all, passed := map[string]int{}, map[string]int{}
	var checks []string
	for _, r := range results {
		all[r.Kind]++
		if r.Passed {
			passed[r.Kind]++
		}
		known := unreachable[r.ID] + misses[r.ID]
		switch {
		case r.Kind == "check":
			if r.Passed {
				checks = append(checks, r.ID)
			}
		case r.Passed && known != "":
			t.Errorf("%s passes, and is listed as out of reach: %s", r.ID, known)
		case !r.Passed && known == "":
			t.Errorf("%s (%s): %s", r.ID, r.Kind, r.Why)
		}
	}
	slices.Sort(checks)
	t.Logf("required %d of %d, optimal %d of %d; behaviour checks that say yes: %s", passed["required"], all["required"], passed["optimal"], all["optimal"], strings.Join(checks, " "))
}
