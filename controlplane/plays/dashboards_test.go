package plays_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"segue/controlplane/plays"
	"segue/internal/clickhouse"
	"segue/internal/testenv"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
)

// query is one of a dashboard.
type query struct{ board, panel, sql string }

// dashboards reads the queries, with the macros of Grafana's plugin expanded for a range of time.
func dashboards(t testing.TB, from, to time.Time) (out []query) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(testenv.Root(t), "deploy/grafana/*.json"))
	if err != nil || len(files) != 3 {
		t.Fatalf("%d dashboards: %v", len(files), err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var board struct {
			UID    string `json:"uid"`
			Title  string `json:"title"`
			Panels []struct {
				ID      int    `json:"id"`
				Title   string `json:"title"`
				Targets []struct {
					SQL string `json:"rawSql"`
				} `json:"targets"`
			} `json:"panels"`
		}
		if err := json.Unmarshal(b, &board); err != nil || board.UID == "" || len(board.Panels) == 0 {
			t.Fatalf("%s: %v", f, err)
		}
		for _, p := range board.Panels {
			if len(p.Targets) != 1 {
				t.Errorf("%s: panel %s has %d queries", f, p.Title, len(p.Targets))
				continue
			}
			out = append(out, query{strings.TrimSuffix(filepath.Base(f), ".json"), p.Title, expand(t, p.Targets[0].SQL, from, to)})
		}
	}
	return out
}

// expand writes macros out as grafana-clickhouse-datasource does.
func expand(t testing.TB, sql string, from, to time.Time) string {
	step := max(60, int(to.Sub(from).Seconds())/300)
	sql = strings.ReplaceAll(sql, "$__interval_s", strconv.Itoa(step))
	for {
		i := strings.Index(sql, "$__")
		if i < 0 {
			return sql
		}
		open, end := strings.IndexByte(sql[i:], '('), strings.IndexByte(sql[i:], ')')
		if open < 0 || end < open {
			t.Fatalf("macro in %s", sql)
		}
		column := sql[i+open+1 : i+end]
		var text string
		switch sql[i : i+open] {
		case "$__timeFilter":
			text = fmt.Sprintf("%s >= toDateTime(%d) AND %s <= toDateTime(%d)", column, from.Unix(), column, to.Unix())
		case "$__dateFilter":
			text = fmt.Sprintf("%s >= toDate('%s') AND %s <= toDate('%s')", column, from.UTC().Format(time.DateOnly), column, to.UTC().Format(time.DateOnly))
		default:
			t.Fatalf("macro in %s", sql)
		}
		sql = sql[:i] + text + sql[i+end+1:]
	}
}

// TestDashboards runs every query on generated plays: each works as the analyst, and shows something.
func TestDashboards(t *testing.T) {
	ch := testenv.StartClickHouse(t)
	list, requests := makePlays()
	insert(t, ch, list, requests)
	for _, q := range dashboards(t, list[0].at.AddDate(0, 0, -60), list[0].at.AddDate(0, 0, 60)) {
		got := ask(t, ch, q.sql)
		switch q.panel {
		case "Errors of players", "Errors, by edge and status": // there are none in these plays
		default:
			if strings.Count(got, "\n") < 1 {
				t.Errorf("%s, %s: nothing comes of\n%s", q.board, q.panel, q.sql)
			}
		}
	}
}

// rows is how many plays the benchmark makes; requests are as many, in as many minutes.
var benchmarkRows = func() int {
	if n, err := strconv.Atoi(os.Getenv("SEGUE_BENCH_ROWS")); err == nil {
		return n
	}
	return 100_000_000
}()

// BenchmarkDashboards asks every query over the last 30 days of SEGUE_BENCH_ROWS rows (100 million) that the engine makes by
// itself, half of them plays and half requests, and reports the slowest. Ten million take some minutes.
func BenchmarkDashboards(b *testing.B) {
	ch := testenv.StartClickHouse(b)
	opts, err := chgo.ParseDSN(ch.URL())
	if err != nil {
		b.Fatal(err)
	}
	conn, err := plays.Open(b.Context(), opts, plays.Schema{})
	if err != nil {
		b.Fatal(err)
	}
	conn.Close()
	writer := "http://" + clickhouse.Writer + ":" + ch.WriterPassword + "@" + ch.HTTP + "/" + clickhouse.Database
	do := func(sql string) {
		b.Helper()
		if err := plays.Query(b.Context(), writer, sql, "TSV", &bytes.Buffer{}); err != nil {
			b.Fatalf("%s\n%v", sql, err)
		}
	}
	const each = 1_000_000
	made := 0
	for ; made < benchmarkRows/2; made += each {
		do(fmt.Sprintf(`INSERT INTO play_events (event_id, play_id, type, at, received_at, play_at, user_key, plan, track_id, version, title, artist_id, artist, duration_ms, played_ms, rendition, bitrate_kbps, edge,
			country, device_type, player, startup_ms, context_type)
			SELECT leftPad(toString(n), 26, '0'), leftPad(toString(n), 26, '0'), 'end', when, when, when, leftPad(toString(cityHash64(n, 1) %% 1000000), 32, '0'), ['free','premium'][1 + n %% 2], leftPad(toString(track), 26, '0'), '',
				concat('Track ', toString(track)), toString(track %% 10000), concat('Artist ', toString(track %% 10000)), 200000, cityHash64(n, 3) %% 200000, 'aac_160', 160, concat('edge-', toString(cityHash64(n, 4) %% 20)),
				['DE','US','FR','GB','JP','BR'][1 + cityHash64(n, 5) %% 6], ['web','phone','tv'][1 + cityHash64(n, 6) %% 3], 'web/1', 50 + cityHash64(n, 7) %% 900, 'album'
			FROM (SELECT number + %d AS n, toDateTime64(now() - cityHash64(n, 2) %% 2592000, 3, 'UTC') AS when, toUInt64(pow(100000, (cityHash64(n, 8) %% 1000000) / 1000000.)) AS track FROM numbers(%d))
			SETTINGS max_insert_threads = 1`, made, each))
		do(fmt.Sprintf(`INSERT INTO edge_requests (at, received_at, edge, region, log, seq, batch, sid, rendition, status, bytes, cache, tier, first_byte_us, duration_us, country)
			SELECT when, when, concat('edge-', toString(n %% 20)), 'eu', leftPad(toString(n %% 20), 26, '0'), intDiv(n, 20), intDiv(n, 20000), '', 'aac_160', if(cityHash64(n, 3) %% 100 = 0, 404, 206), 1000 + cityHash64(n, 4) %% 200000,
				if(cityHash64(n, 5) %% 10 < 9, 'hit', 'miss'), if(cityHash64(n, 5) %% 10 < 9, 'memory', 'origin'), cityHash64(n, 6) %% 50000, 100000, ['DE','US','FR','GB','JP','BR'][1 + cityHash64(n, 7) %% 6]
			FROM (SELECT number + %d AS n, toDateTime64(now() - 2592000 + intDiv(n * 2592000, %d), 6, 'UTC') AS when FROM numbers(%d))`, made, max(benchmarkRows/2, 1), each))
	}
	now := time.Now()
	for _, days := range []int{1, 30} {
		for _, q := range dashboards(b, now.AddDate(0, 0, -days), now) {
			b.Run(fmt.Sprintf("days=%d/%s/%s", days, q.board, strings.ReplaceAll(q.panel, " ", "_")), func(b *testing.B) {
				for b.Loop() {
					if err := plays.Query(b.Context(), ch.QueryURL(), q.sql, "TSV", &bytes.Buffer{}); err != nil {
						b.Fatalf("%s\n%v", q.sql, err)
					}
				}
			})
		}
	}
}
