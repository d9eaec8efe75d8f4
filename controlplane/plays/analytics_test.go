package plays_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/plays"
	"segue/internal/eventlog"
	"segue/internal/testenv"
	"segue/media"

	"github.com/google/go-cmp/cmp"
	"github.com/oklog/ulid/v2"
)

// heard is one generated play.
type heard struct {
	user, title, artist string
	seconds             int64 // the track's
	at                  time.Time
	played              int64 // seconds
	startup             int64 // ms
	edge, rendition     string
	plan                api.Plan
	more                []api.Event // besides start, progress and end
}

// events spells a play out, as a player would report it.
func (h heard) events() []plays.Stamped {
	playID := ulid.MustNew(ulid.Timestamp(h.at), rand.Reader).String() // a play is in the hour and day that its id says
	user := fmt.Sprintf("%032s", h.user)
	track := fmt.Sprintf("%026s", h.title)
	var out []plays.Stamped
	add := func(after int64, e api.Event) {
		e.ID, e.PlayID, e.At = ulid.Make().String(), playID, h.at.Add(time.Duration(after)*time.Second)
		if e.Edge == "" {
			e.Edge = h.edge
		}
		e.Rendition, e.Player, e.PositionMS = h.rendition, "test/1", e.PlayedMS
		out = append(out, plays.Stamped{Event: e, UserKey: user, TrackID: media.TrackID(track), Version: media.Version(strings.Repeat("v", 26)), Title: h.title, Artist: h.artist,
			Album: "Album", DurationMS: h.seconds * 1000, Plan: h.plan, ReceivedAt: e.At.Add(2 * time.Second)})
	}
	add(0, api.Event{Type: api.EventStart, StartupMS: h.startup})
	for _, e := range h.more {
		add(1, e)
	}
	add(h.played, api.Event{Type: api.EventProgress, PlayedMS: h.played * 1000})
	add(h.played, api.Event{Type: api.EventEnd, PlayedMS: h.played * 1000})
	return out
}

// TestAnalyticsDocument carries known plays through log and sink into the engine, twice, and runs what the document says.
func TestAnalyticsDocument(t *testing.T) {
	ch := testenv.StartClickHouse(t)
	doc, err := os.ReadFile(filepath.Join(testenv.Root(t), "docs/analytics.md"))
	if err != nil {
		t.Fatal(err)
	}
	day1 := time.Now().UTC().Truncate(24 * time.Hour).Add(-48 * time.Hour)
	day2 := day1.Add(24 * time.Hour)
	stall := api.Event{Type: api.EventStall, StallMS: 1500}
	failure := api.Event{Type: api.EventError, Message: "media error 4"}
	var messages []eventlog.Message
	for _, h := range []heard{
		{"u1", "Alpha", "Ann", 200, day1.Add(10 * time.Hour), 200, 200, "eu-1", "aac_256", api.PlanPremium, nil},
		{"u1", "Beta", "Bob", 180, day1.Add(10*time.Hour + 5*time.Minute), 10, 300, "eu-1", "aac_256", api.PlanPremium, nil},
		{"u2", "Alpha", "Ann", 200, day1.Add(18 * time.Hour), 100, 400, "eu-1", "aac_160", api.PlanFree, []api.Event{stall}},
		{"u2", "Alpha", "Ann", 200, day2.Add(10 * time.Hour), 35, 250, "eu-1", "aac_160", api.PlanFree, []api.Event{failure}},
		{"u3", "Beta", "Bob", 180, day2.Add(18 * time.Hour), 180, 1200, "us-1", "aac_160", api.PlanFree, nil},
		{"u3", "Short", "Ann", 20, day2.Add(18*time.Hour + 3*time.Minute), 20, 220, "us-1", "aac_160", api.PlanFree, nil},
	} {
		for _, s := range h.events() {
			body, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			messages = append(messages, eventlog.Message{ID: s.ID, Subject: "plays.event", Body: body})
		}
	}
	// The second time it is as if the sink had died between its insert and its acknowledgement.
	for range 2 {
		carry(t, ch.URL(), messages)
	}

	documented := dictionary(string(doc))
	for _, table := range plays.Tables() {
		columns := documented[table]
		got := ask(t, ch, "DESCRIBE TABLE "+table)
		var lines []string
		for line := range strings.Lines(got) {
			f := strings.Split(line, "\t")
			lines = append(lines, f[0]+" "+strings.ReplaceAll(f[1], `\'`, `'`))
		}
		if d := cmp.Diff(columns, lines); d != "" {
			t.Errorf("columns of %s, document and engine:\n%s", table, d)
		}
	}

	d1, d2 := day1.Format(time.DateOnly), day2.Format(time.DateOnly)
	want := map[string]string{
		"1":  "Alpha\tAnn\t3\t2\nBeta\tBob\t1\t1\nShort\tAnn\t1\t1\n",
		"2":  d1 + "\t3\t2\t2\t5.2\n" + d2 + "\t3\t3\t2\t3.9\n",
		"3":  "Beta\t2\t1\t0.5\n",
		"4":  "eu-1\t4\t300\t400\nus-1\t2\t1200\t1200\n",
		"5":  "aac_160\t4\t1\t25\naac_256\t2\t0\t0\n",
		"6":  "media error 4\ttest/1\teu-1\t1\t1\n",
		"7":  "Alpha\t10\t1\nAlpha\t50\t1\nAlpha\t90\t1\n",
		"8":  "Alpha\tBeta\t1\nBeta\tShort\t1\n",
		"9":  d1 + "\t2\t1\n" + d2 + "\t1\t0\n",
		"10": "20\t2\t2\n",
	}
	firstTen, _, _ := strings.Cut(string(doc), "### 11.") // the others are TestQuestions'
	blocks := regexp.MustCompile("(?ms)^### (\\d+)\\. ([^\n]+)\n.*?^```sql\n(.*?)^```").FindAllStringSubmatch(firstTen, -1)
	if len(blocks) != len(want) || strings.Count(firstTen, "```sql") != len(want) {
		t.Errorf("%d questions and %d blocks of SQL in the document, %d answers known", len(blocks), strings.Count(firstTen, "```sql"), len(want))
	}
	for _, b := range blocks {
		if d := cmp.Diff(want[b[1]], ask(t, ch, b[3])); d != "" {
			t.Errorf("%s. %s\n%s", b[1], b[2], d)
		}
	}
}

// carry moves messages through a new log and the sink.
func carry(t *testing.T, url string, messages []eventlog.Message) {
	t.Helper()
	log, err := eventlog.Open(t.Context(), eventlog.Config{Dir: t.TempDir()}, plays.Streams()...)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if err := log.Append(t.Context(), messages...); err != nil {
		t.Fatal(err)
	}
	sink, err := plays.NewSink(url, plays.Schema{Retention: plays.DefaultRetention}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- sink.Run(ctx, log) }()
	for sink.Rows.Load() < int64(len(messages)) && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil || sink.Rows.Load() != int64(len(messages)) {
		t.Fatalf("%d of %d rows went in: %v", sink.Rows.Load(), len(messages), err)
	}
}

func ask(t *testing.T, ch *testenv.ClickHouse, sql string) string {
	t.Helper()
	var out bytes.Buffer
	if err := plays.Query(t.Context(), ch.QueryURL(), sql, "TSV", &out); err != nil {
		t.Errorf("%s\n%v", sql, err)
	}
	return out.String()
}

// dictionary reads "name type" of each column from the tables of a document, by the heading above them.
func dictionary(doc string) map[string][]string {
	out := map[string][]string{}
	row := regexp.MustCompile(`^\| (\w+) \| ([^|]+) \| `)
	table := ""
	for line := range strings.Lines(doc) {
		if name, ok := strings.CutPrefix(line, "### "); ok {
			table = strings.TrimSpace(name)
		}
		if m := row.FindStringSubmatch(line); m != nil && slices.Contains(plays.Tables(), table) && m[1] != "column" {
			out[table] = append(out[table], m[1]+" "+m[2])
		}
	}
	return out
}
