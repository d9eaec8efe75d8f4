package loadtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"segue/media"
)

// clickhouseTables are made where results are written: a row per run and measure, and the time line. A result that is
// written twice is there once.
var clickhouseTables = []string{
	`CREATE TABLE IF NOT EXISTS loadtest_runs (began DateTime64(3, 'UTC'), scenario LowCardinality(String), base String, version String, listeners UInt32, valid Bool, measure LowCardinality(String),
		count UInt64, mean_us Float64, p50_us UInt64, p95_us UInt64, p99_us UInt64, p999_us UInt64, max_us UInt64, value Float64) ENGINE = ReplacingMergeTree ORDER BY (began, scenario, base, measure)`,
	`CREATE TABLE IF NOT EXISTS loadtest_intervals (began DateTime64(3, 'UTC'), scenario LowCardinality(String), base String, at DateTime64(3, 'UTC'), listeners UInt32, requests UInt64, bytes UInt64, plays UInt64,
		stalls UInt64, errors UInt64, memory UInt64, disk UInt64, shield UInt64, origin UInt64, lag_us UInt64, startup_p50_us UInt64, startup_p99_us UInt64, marks String) ENGINE = ReplacingMergeTree ORDER BY (began, scenario, base, at)`,
}

// ToClickHouse writes a result over ClickHouse's HTTP interface; where is http://user:password@host:8123/database.
func ToClickHouse(ctx context.Context, where string, r *Result) error {
	u, err := url.Parse(where)
	if err != nil || u.Host == "" || strings.Trim(u.Path, "/") == "" {
		return fmt.Errorf("ClickHouse %q: want http://user:password@host:8123/database: %w", where, media.ErrInvalid)
	}
	send := func(query string, body []byte) error {
		to := *u
		to.User, to.Path, to.RawQuery = nil, "/", url.Values{"database": {strings.Trim(u.Path, "/")}, "query": {query}, "date_time_input_format": {"best_effort"}}.Encode()
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), bytes.NewReader(body))
		if err != nil {
			return err
		}
		if u.User != nil {
			password, _ := u.User.Password()
			req.SetBasicAuth(u.User.Username(), password)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return fmt.Errorf("write the result to ClickHouse at %s: %w: %w", u.Host, media.ErrUnreachable, err)
		}
		defer resp.Body.Close()
		if text, _ := io.ReadAll(io.LimitReader(resp.Body, 500)); resp.StatusCode != http.StatusOK {
			return fmt.Errorf("ClickHouse at %s: %s: %s", u.Host, resp.Status, strings.TrimSpace(string(text)))
		}
		return nil
	}
	for _, t := range clickhouseTables {
		if err := send(t, nil); err != nil {
			return err
		}
	}
	var runs, steps bytes.Buffer
	began := r.Began.UTC().Format(time.RFC3339Nano)
	head := func() map[string]any { return map[string]any{"began": began, "scenario": r.Name, "base": r.Base} }
	put := func(to *bytes.Buffer, row map[string]any) error { return json.NewEncoder(to).Encode(row) }
	measure := func(name string, l Latency, value float64) error {
		row := head()
		maps.Copy(row, map[string]any{"version": r.Version, "listeners": r.Wanted, "valid": r.Verdict.Valid, "measure": name, "count": l.Count, "mean_us": l.Mean, "p50_us": l.P50, "p95_us": l.P95, "p99_us": l.P99,
			"p999_us": l.P999, "max_us": l.Max, "value": value})
		return put(&runs, row)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Moments)) {
		if err := measure(name, r.Moments[name], 0); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Operations)) {
		if err := measure("request "+name, r.Operations[name].Response, 0); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(simple)) {
		if err := measure(name, Latency{}, simple[name](r)); err != nil {
			return err
		}
	}
	for _, i := range r.Intervals {
		h, err := histogram(i.Startup)
		if err != nil {
			return err
		}
		row := head()
		maps.Copy(row, map[string]any{"at": r.Began.Add(time.Duration(i.AtS * float64(time.Second))).UTC().Format(time.RFC3339Nano), "listeners": i.Listeners, "requests": i.Requests, "bytes": i.Bytes, "plays": i.Plays,
			"stalls": i.Stalls, "errors": i.Errors, "memory": i.Tiers[0], "disk": i.Tiers[1], "shield": i.Tiers[2], "origin": i.Tiers[3], "lag_us": i.LagUS,
			"startup_p50_us": h.ValueAtQuantile(50), "startup_p99_us": h.ValueAtQuantile(99), "marks": i.Mark})
		if err := put(&steps, row); err != nil {
			return err
		}
	}
	if err := send("INSERT INTO loadtest_runs FORMAT JSONEachRow", runs.Bytes()); err != nil {
		return err
	}
	return send("INSERT INTO loadtest_intervals FORMAT JSONEachRow", steps.Bytes())
}
