package main

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"segue/edge"
	"segue/internal/serve"

	"github.com/prometheus/client_golang/prometheus"
)

// TestInspect: the command's answers about a running edge.
func TestInspect(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", map[string]string{"/yes": "max-age=60", "/no": "no-store"}[r.URL.Path])
		w.Header().Set("Cache-Tag", "red, green")
		_, _ = io.WriteString(w, "hello")
	}))
	defer origin.Close()
	o, err := edge.NewHTTPOrigin(origin.URL)
	if err != nil {
		t.Fatal(err)
	}
	e, err := edge.New(edge.Config{Name: "one", Routes: []*edge.Route{{Prefix: "/", Origin: o}}}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, done := t.Context(), make(chan error, 1)
	up := make(chan struct{})
	go func() { done <- e.Serve(ctx, ln, func() { close(up) }) }()
	<-up
	private := httptest.NewServer(e.Private())
	defer private.Close()
	for _, path := range []string{"/yes", "/no"} {
		resp, err := http.Get("http://" + ln.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	f := func(want string, args ...string) {
		t.Helper()
		var out bytes.Buffer
		args = append(append([]string{"inspect", "--debug", strings.TrimPrefix(private.URL, "http://")}, args...), "--log-level=error")
		if err := run(t.Context(), args, &out, io.Discard); err != nil {
			t.Fatal(err)
		}
		for part := range strings.SplitSeq(want, "|") {
			if !strings.Contains(out.String(), part) {
				t.Errorf("%v: no %q in\n%s", args, part, &out)
			}
		}
	}
	f("/yes  |fresh|200|red green|1 in memory|█", "/yes")
	f("/no |pass|not stored: no-store", "no")
	f("none", "/other")
	f("one  |ready|memory|requests|/no |no-store", "--top")
	f(`"state":"fresh"`, "--json", "http://edge.example/yes")
	f(`"not_stored":[`, "--json", "--top")

	for _, args := range [][]string{{"inspect"}, {"inspect", "/x", "--debug", "127.0.0.1:1"}} {
		if err := run(t.Context(), args, io.Discard, io.Discard); serve.ExitCode(err) != 2 {
			t.Errorf("%v: %v", args, err)
		}
	}
}
