package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"testing"
	"time"

	"segue/controlplane/api"

	"github.com/google/go-cmp/cmp"
)

func TestEdges(t *testing.T) {
	skew, off := int64(12), int64(-31_400)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/admin/edges" || r.Header.Get("Authorization") != "Bearer secret" {
			t.Errorf("asked %s as %s", r.URL, r.Header.Get("Authorization"))
		}
		_ = json.NewEncoder(w).Encode(api.Page[api.Edge]{Items: []api.Edge{
			{Name: "eu-1", Region: "eu", URL: "http://eu-1", State: "healthy", LastSeen: time.Now().Add(-time.Second), Heartbeat: &api.Heartbeat{Connections: 12, EgressBps: 34_500_000, CPURatio: 0.25, HitRatio: 0.975},
				Opinions: api.Opinions{Heartbeat: "up", Registry: "up", Probe: "up", Players: "-"}, ClockSkewMS: &skew},
			{Name: "eu-2", Region: "eu", URL: "http://eu-2", State: "damped", LastSeen: time.Now().Add(-time.Second), Heartbeat: &api.Heartbeat{},
				Opinions: api.Opinions{Heartbeat: "up", Registry: "-", Probe: "up", Players: "-"}, ClockSkewMS: &off, ClockWrong: true, Reason: "flapping", Penalty: 2835},
			{Name: "us-1", Region: "us", URL: "http://us-1", State: "dead", Opinions: api.Opinions{Heartbeat: "-", Registry: "-", Probe: "down", Players: "-"}, Reason: "probe-failed", ProbeError: "connection refused"},
		}})
	}))
	defer server.Close()
	var out, errors bytes.Buffer
	if err := run(t.Context(), []string{"admin", "edges", "--server", server.URL, "--token", "secret"}, &out, &errors); err != nil {
		t.Fatal(err, errors.String())
	}
	want := `EDGE REGION STATE HEARD BEAT/REGISTRY/PROBE/PLAYERS CONNS Mbit/s CPU HITS CLOCK URL REMARK
eu-1 eu healthy 1s ago up/up/up/- 12 34.5 25 % 98 % +0.0 s http://eu-1 
eu-2 eu damped 1s ago up/-/up/- 0 0.0 0 % 0 % -31.4 s http://eu-2 CLOCK IS WRONG: no players with tokens; flapping; penalty 2835
us-1 us dead never -/-/down/- http://us-1 probe-failed; probe: connection refused
`
	got := regexp.MustCompile(` {2,}`).ReplaceAllString(out.String(), " ")
	if d := cmp.Diff(regexp.MustCompile(`1\.\ds ago`).ReplaceAllString(got, "1s ago"), want); d != "" {
		t.Error(d)
	}
}
