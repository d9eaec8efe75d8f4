package plays_test

import (
	"strings"
	"testing"

	"segue/controlplane/plays"
	"segue/internal/testenv"

	"github.com/google/go-cmp/cmp"
)

// TestClusterStatements: what a cluster would be told is well formed to ClickHouse's own parser, every table is replicated and
// stands below a Distributed one, and nothing but names and engines differs from one server's.
func TestClusterStatements(t *testing.T) {
	ch := testenv.StartClickHouse(t)
	list, err := plays.Schema{Cluster: "music"}.Statements()
	if err != nil {
		t.Fatal(err)
	}
	tables, distributed := map[string]bool{}, map[string]bool{}
	for _, s := range list {
		if !strings.HasPrefix(s, "INSERT") && !strings.Contains(s, " ON CLUSTER `music`") {
			t.Errorf("not for the whole cluster: %s", s)
		}
		var out strings.Builder
		if err := plays.Query(t.Context(), strings.TrimSuffix(ch.QueryURL(), "/segue")+"/default", "EXPLAIN AST "+s, "TSV", &out); err != nil {
			t.Errorf("%s\n%v", s, err)
		}
		if name, rest, ok := strings.Cut(strings.TrimPrefix(s, "CREATE TABLE IF NOT EXISTS "), " ON CLUSTER"); ok && strings.HasPrefix(s, "CREATE TABLE") && name != "play_events_before" {
			if strings.Contains(rest, "ENGINE = Distributed(`music`, currentDatabase(), "+name+"_local, ") {
				distributed[name+"_local"] = true
			} else if strings.Contains(rest, "MergeTree('/clickhouse/tables/{shard}/{database}/"+strings.TrimSuffix(name, "_local")+"', '{replica}'") {
				tables[name] = true
			} else {
				t.Errorf("neither replicated nor distributed: %s", s)
			}
		}
	}
	if d := cmp.Diff(tables, distributed); d != "" || len(tables) < 8 {
		t.Error(d, tables)
	}
}
