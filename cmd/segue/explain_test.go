package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"segue/controlplane/api"

	"github.com/google/go-cmp/cmp"
)

func TestExplain(t *testing.T) {
	lat, lon, km, load := 52.37, 4.9, 12.4, 0.314
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("ip") != "203.0.113.7" || r.Header.Get("Authorization") != "Bearer secret" {
			t.Errorf("asked %s as %s", r.URL, r.Header.Get("Authorization"))
		}
		_ = json.NewEncoder(w).Encode(api.Explanation{IP: "203.0.113.7", Place: api.ExplainedPlace{Latitude: &lat, Longitude: &lon, Country: "NL", ASN: 1136, Source: "database"}, Home: "eu-west", Spill: true,
			Picks:    []api.ExplainedEdge{{Name: "us-east-1", Region: "us-east", DistanceKm: &km, LoadRatio: &load, Reason: "spill-over"}},
			Rejected: []api.ExplainedEdge{{Name: "eu-west-2", Region: "eu-west", Reason: "no-heartbeat"}},
			Files:    []api.ExplainedGeoFile{{Name: "places", Path: "/x.mmdb", BuiltAt: time.Date(2026, 6, 17, 0, 0, 0, 0, time.UTC)}}})
	}))
	defer server.Close()
	var out, errors bytes.Buffer
	if err := run(t.Context(), []string{"admin", "explain", "--ip", "203.0.113.7", "--server", server.URL, "--token", "secret"}, &out, &errors); err != nil {
		t.Fatal(err, errors.String())
	}
	want := `client 203.0.113.7: at 52.4,4.9 (from database), country NL, AS1136
nearest region eu-west, which has no room for it

     EDGE       REGION   KM  LOAD  REASON
1    us-east-1  us-east  12  31 %  spill-over
not  eu-west-2  eu-west            no-heartbeat

places: /x.mmdb, built 2026-06-17
`
	if d := cmp.Diff(out.String(), want); d != "" {
		t.Error(d)
	}
}
