package serve_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"segue/internal/serve"
)

// TestProfilerPushes: what was measured until the end is pushed at the end, under the program's name and tags.
func TestProfilerPushes(t *testing.T) {
	var mu sync.Mutex
	var names []string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		names = append(names, r.URL.Path+" "+r.URL.Query().Get("name"))
	}))
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	err := serve.Profiler{Server: server.URL, App: "segue-edge", Tags: map[string]string{"node": "ams-1"}}.Run(ctx, cancel)
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if all := strings.Join(names, "\n"); !strings.Contains(all, "/ingest segue-edge") || !strings.Contains(all, "node=ams-1") {
		t.Errorf("pushed: %q", names)
	}
}

func TestProfilerRefusesNonsense(t *testing.T) {
	if err := (serve.Profiler{Server: "somewhere"}).Run(t.Context(), func() {}); serve.ExitCode(err) != 2 {
		t.Errorf("%v", err)
	}
}
