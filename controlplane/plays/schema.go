package plays

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"segue/internal/serve"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

//go:embed migrations/*.sql
var migrations embed.FS

//go:embed views.sql
var views string

// Retention is how long rows are kept, in days, by the time of what they tell of. 0: for ever.
type Retention struct {
	Events   int // play_events, and what is known of each play
	Rollups  int // sets of plays by hour and day
	Requests int // edge_requests
	Minutes  int // sums of edge_requests
	CMCD     int // cmcd_events
}

// DefaultRetention: single events for 13 months, so that a month can be compared with the one a year ago; sums for five years;
// requests, which are many and say where people are, for a month.
var DefaultRetention = Retention{Events: 396, Rollups: 1826, Requests: 31, Minutes: 396, CMCD: 92}

// Schema is how the tables are made.
type Schema struct {
	// Cluster, when set, makes replicated tables of every shard and Distributed ones above them, ON CLUSTER; the servers' configuration has to
	// define the cluster, Keeper, and the macros {shard} and {replica}. Every table T is then T_local on each server.
	Cluster   string
	Retention Retention
}

// ttls says which column of which table decides, and by which setting.
func (s Schema) ttls() []struct {
	table, column string
	days          int
} {
	r := s.Retention
	return []struct {
		table, column string
		days          int
	}{
		{"play_events", "toDateTime(play_at)", r.Events}, {"play_states", "toDateTime(play_at)", r.Events}, {"track_hourly_states", "hour", r.Rollups},
		{"artist_daily_states", "day", r.Rollups}, {"country_daily_states", "day", r.Rollups}, {"edge_requests", "toDateTime(at)", r.Requests},
		{"edge_minute_batches", "minute", r.Minutes}, {"cmcd_events", "toDateTime(at)", r.CMCD},
	}
}

// funcs are what the statements are written with.
func (s Schema) funcs() template.FuncMap {
	return template.FuncMap{
		"on": func() string {
			if s.Cluster == "" {
				return ""
			}
			return " ON CLUSTER " + quoteName(s.Cluster)
		},
		"local": s.local,
		"engine": func(engine, table, args string) string {
			if s.Cluster == "" {
				return engine + "(" + args + ")"
			}
			if args != "" {
				args = ", " + args
			}
			return "Replicated" + engine + "('/clickhouse/tables/{shard}/{database}/" + table + "', '{replica}'" + args + ")"
		},
		// A batch that is sent again after an answer that was lost is known by its token. Replicated tables remember tokens anyway.
		"settings": func() string {
			if s.Cluster == "" {
				return " SETTINGS non_replicated_deduplication_window = 1000"
			}
			return " SETTINGS replicated_deduplication_window = 1000"
		},
		"distributed": func(table, key string) string {
			if s.Cluster == "" {
				return ""
			}
			return fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s ON CLUSTER %s AS %s ENGINE = Distributed(%s, currentDatabase(), %s, %s);\n",
				table, quoteName(s.Cluster), s.local(table), quoteName(s.Cluster), s.local(table), key)
		},
	}
}

// local is the table that holds a server's rows.
func (s Schema) local(table string) string {
	if s.Cluster == "" {
		return table
	}
	return table + "_local"
}

// render makes the statements of a file.
func (s Schema) render(name, text string) ([]string, error) {
	t, err := template.New(name).Funcs(s.funcs()).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("bug: %s: %w", name, err)
	}
	var b strings.Builder
	if err := t.Execute(&b, nil); err != nil {
		return nil, fmt.Errorf("bug: %s: %w", name, err)
	}
	var out []string
	for statement := range strings.SplitSeq(b.String(), ";\n") {
		if bare := withoutComments(statement); bare != "" {
			out = append(out, bare)
		}
	}
	return out, nil
}

func withoutComments(statement string) string {
	var b strings.Builder
	for line := range strings.Lines(statement) {
		if !strings.HasPrefix(line, "--") {
			b.WriteString(line)
		}
	}
	return strings.TrimSpace(b.String())
}

// Statements lists all statements that make the schema from nothing, in order: for a look at what a cluster would be told.
func (s Schema) Statements() ([]string, error) {
	var out []string
	files, err := migrations.ReadDir("migrations")
	if err != nil {
		return nil, fmt.Errorf("bug: %w", err)
	}
	for _, f := range files {
		text, err := migrations.ReadFile("migrations/" + f.Name())
		if err != nil {
			return nil, fmt.Errorf("bug: %w", err)
		}
		list, err := s.render(f.Name(), string(text))
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	list, err := s.render("views.sql", views)
	return append(out, list...), err
}

// migrate brings the tables up to date, forward only. ClickHouse has no transactions over statements: each statement is
// noted when it is done, and bears to be done again when its note was lost. Replicas that start together do the same
// statements twice, which is harmless for the same reason.
func (s Schema) migrate(ctx context.Context, conn driver.Conn) error {
	bootstrap, err := s.render("version", `CREATE TABLE IF NOT EXISTS {{local "schema_steps"}}{{on}} (version UInt32, step UInt32, name String, done_at DateTime('UTC') DEFAULT now())
		ENGINE = {{engine "ReplacingMergeTree" "schema_steps" ""}} ORDER BY (version, step);
{{distributed "schema_steps" "version"}}`)
	if err != nil {
		return err
	}
	for _, statement := range bootstrap {
		if err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("schema: %w", err)
		}
	}
	rows, err := conn.Query(ctx, "SELECT DISTINCT version, step FROM schema_steps")
	if err != nil {
		return fmt.Errorf("schema: %w", err)
	}
	done := map[[2]uint32]bool{}
	for rows.Next() {
		var k [2]uint32
		if err := rows.Scan(&k[0], &k[1]); err != nil {
			return errors.Join(fmt.Errorf("schema: %w", err), rows.Close())
		}
		done[k] = true
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("schema: %w", err)
	}
	files, err := migrations.ReadDir("migrations") // sorted by name
	if err != nil {
		return fmt.Errorf("bug: %w", err)
	}
	newest := uint32(0)
	for _, f := range files {
		number, _, _ := strings.Cut(f.Name(), "_")
		version, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			return fmt.Errorf("bug: migration %s has no number: %w", f.Name(), err)
		}
		newest = uint32(version)
		text, err := migrations.ReadFile("migrations/" + f.Name())
		if err != nil {
			return fmt.Errorf("bug: %w", err)
		}
		statements, err := s.render(f.Name(), string(text))
		if err != nil {
			return err
		}
		for i, statement := range statements {
			key := [2]uint32{newest, uint32(i)}
			if done[key] {
				continue
			}
			if err := conn.Exec(ctx, statement); err != nil {
				return fmt.Errorf("schema: %s, statement %d: %w", f.Name(), i+1, err)
			}
			if err := conn.Exec(ctx, "INSERT INTO schema_steps (version, step, name) VALUES (?, ?, ?)", key[0], key[1], f.Name()); err != nil {
				return fmt.Errorf("schema: %s, statement %d: %w", f.Name(), i+1, err)
			}
		}
	}
	for k := range done {
		if k[0] > newest {
			return serve.Setupf("the tables in ClickHouse are of version %d, this program knows %d: use a newer one", k[0], newest)
		}
	}
	statements, err := s.render("views.sql", views)
	if err != nil {
		return err
	}
	for _, statement := range statements { // a view holds nothing: made anew at every start
		if err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("schema: views: %w", err)
		}
	}
	return s.retain(ctx, conn)
}

// retain puts the retention in force where it is another one.
func (s Schema) retain(ctx context.Context, conn driver.Conn) error {
	on := ""
	if s.Cluster != "" {
		on = " ON CLUSTER " + quoteName(s.Cluster)
	}
	for _, t := range s.ttls() {
		var create string
		if err := conn.QueryRow(ctx, "SELECT create_table_query FROM system.tables WHERE database = currentDatabase() AND name = ?", s.local(t.table)).Scan(&create); err != nil {
			return fmt.Errorf("schema: retention of %s: %w", t.table, err)
		}
		has := strings.Contains(create, " TTL ")
		change := ""
		if t.days > 0 && !strings.Contains(create, fmt.Sprintf("toIntervalDay(%d)", t.days)) {
			change = fmt.Sprintf("MODIFY TTL %s + toIntervalDay(%d)", t.column, t.days)
		} else if t.days <= 0 && has {
			change = "REMOVE TTL"
		}
		if change == "" {
			continue
		}
		if err := conn.Exec(ctx, "ALTER TABLE "+s.local(t.table)+on+" "+change+" SETTINGS materialize_ttl_after_modify = 0"); err != nil {
			return fmt.Errorf("schema: retention of %s: %w", t.table, err)
		}
	}
	return nil
}

func options(url string) (*clickhouse.Options, error) {
	opts, err := clickhouse.ParseDSN(url)
	if err != nil || !strings.HasPrefix(url, "clickhouse://") || opts.Auth.Database == "" {
		return nil, serve.Setupf("clickhouse URL: want clickhouse://user:password@host:9000/database")
	}
	opts.DialTimeout, opts.ReadTimeout = 3*time.Second, time.Minute
	opts.MaxOpenConns, opts.MaxIdleConns = 8, 4
	opts.Compression = &clickhouse.Compression{Method: clickhouse.CompressionLZ4}
	return opts, nil
}

// Open connects and brings database and tables up to date.
func Open(ctx context.Context, opts *clickhouse.Options, schema Schema) (driver.Conn, error) {
	first := *opts
	first.Auth.Database = "" // it may not be there yet
	conn, err := clickhouse.Open(&first)
	if err != nil {
		return nil, fmt.Errorf("clickhouse: %w", err)
	}
	create := "CREATE DATABASE IF NOT EXISTS " + quoteName(opts.Auth.Database)
	if schema.Cluster != "" {
		create += " ON CLUSTER " + quoteName(schema.Cluster)
	}
	err = conn.Exec(ctx, create)
	conn.Close()
	if err != nil {
		return nil, fmt.Errorf("clickhouse: %w", err)
	}
	if conn, err = clickhouse.Open(opts); err != nil {
		return nil, fmt.Errorf("clickhouse: %w", err)
	}
	if err := schema.migrate(ctx, conn); err != nil {
		conn.Close()
		return nil, fmt.Errorf("clickhouse: %w", err)
	}
	return conn, nil
}

func quoteName(s string) string { return "`" + strings.ReplaceAll(s, "`", "``") + "`" }

// Tables lists the tables and views that are for analysts; the others are what these are made of.
func Tables() []string {
	return slices.Clone([]string{"plays", "sessions", "play_events", "edge_requests", "cmcd_events", "track_hourly", "artist_daily", "country_daily", "edge_minutely"})
}
