package loadtest_test

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
	"github.com/google/go-cmp/cmp"

	"segue/internal/clickhouse"
	"segue/internal/testenv"
	"segue/loadtest"
)

// made is a result with start-ups as given, in steps of one second.
func made(t *testing.T, steps int, startup func(step int) []time.Duration) *loadtest.Result {
	t.Helper()
	r := &loadtest.Result{Format: 1, Name: "made", Base: "http://x", IntervalS: 1, Wanted: 10, Generators: 1, SecondsRun: float64(steps), Planned: float64(steps), Verdict: loadtest.Verdict{Valid: true}, Moments: map[string]loadtest.Latency{},
		Operations: map[string]loadtest.Operation{}, Began: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	encode := func(h *hdr.Histogram) []byte {
		b, err := h.EncodeV2()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	all := hdr.New(1, loadtest.Longest.Microseconds(), 2)
	for i := range steps {
		one := hdr.New(1, loadtest.Longest.Microseconds(), 2)
		for _, d := range startup(i) {
			_ = one.RecordValue(d.Microseconds())
			_ = all.RecordValue(d.Microseconds())
		}
		r.Intervals = append(r.Intervals, loadtest.Interval{AtS: float64(i + 1), Listeners: 10, Requests: 100, Bytes: 1 << 20, Plays: one.TotalCount(), Tiers: [5]int64{90, 5, 0, 5, 0}, Startup: encode(one)})
	}
	r.Moments["startup"] = loadtest.Latency{Count: all.TotalCount(), Mean: all.Mean(), P50: all.ValueAtQuantile(50), P95: all.ValueAtQuantile(95), P99: all.ValueAtQuantile(99), P999: all.ValueAtQuantile(99.9), Max: all.Max(), HDR: encode(all)}
	r.Operations["segment"] = loadtest.Operation{Response: r.Moments["startup"], Service: r.Moments["startup"], Bytes: 1}
	r.Tiers = []loadtest.TierCount{{Tier: "memory", Requests: 90, Bytes: 900}, {Tier: "origin", Requests: 10, Bytes: 100}}
	r.Counts = loadtest.Counts{Plays: all.TotalCount(), Peak: 10, PlayedS: 100}
	return r
}

// around draws start-ups around a mean.
func around(seed uint64, mean float64) func(int) []time.Duration {
	rng := rand.New(rand.NewPCG(seed, 1))
	return func(int) (out []time.Duration) {
		for range 20 {
			out = append(out, time.Duration(mean*math.Exp(.3*rng.NormFloat64())*1e6)*time.Nanosecond)
		}
		return out
	}
}

func TestConditions(t *testing.T) {
	r := made(t, 5, func(int) []time.Duration { return []time.Duration{100 * time.Millisecond, 300 * time.Millisecond} })
	r.Counts.Stalls, r.Counts.StallS = 2, 1
	r.Errors = []loadtest.ErrorCount{{Operation: "segment", Kind: "503", Count: 1}}
	for text, holds := range map[string]bool{
		"startup.p99>200ms": true, "startup.p99>1s": false, "startup.p50 > 0.09s": true, "segment.max>=299ms": true, "stalls>0": true, "stalls>2": false, "stall_ratio>0.9%": true, "stall_ratio>0.02": false,
		"hit_ratio<0.95": true, "hit_ratio<90%": false, "errors>1%": true, "errors>50%": false, "egress<1Gbit/s": true, "plays<10": false, "plays<=10": true, "seek.p99>1ms": false, "playback.p99>1ms": true, // never measured: cannot be told
	} {
		c, err := loadtest.ParseCondition(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if err := c.Check(r); (err != nil) != holds {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, text := range []string{"", "startup>1s", "startup.p99>1", "startup.p98>1s", "strtup.p99>1s", "stalls.p99>1", "errors>1s", "egress<5parsec", "stalls=>1", "stalls>x"} {
		if _, err := loadtest.ParseCondition(text); err == nil {
			t.Errorf("%q was read", text)
		}
	}
}

// TestMerge: percentiles of several generators are those of all of their samples, not means of percentiles.
func TestMerge(t *testing.T) {
	fast := made(t, 4, func(int) []time.Duration {
		return []time.Duration{10 * time.Millisecond, 10 * time.Millisecond, 10 * time.Millisecond}
	})
	slow := made(t, 4, func(int) []time.Duration { return []time.Duration{time.Second} })
	slow.Began = fast.Began.Add(time.Second) // its intervals are one step later
	slow.Intervals[0].Mark = "edge-dies"
	slow.Verdict = loadtest.Verdict{Reasons: []string{"late"}}
	both, err := loadtest.Merge(fast, slow)
	if err != nil {
		t.Fatal(err)
	}
	near := func(us int64, d time.Duration) bool {
		return math.Abs(float64(us)-float64(d.Microseconds())) <= .01*float64(d.Microseconds())
	}
	s := both.Moments["startup"]
	if s.Count != 16 || !near(s.P50, 10*time.Millisecond) || !near(s.P99, time.Second) {
		t.Errorf("%+v", s)
	}
	if len(both.Intervals) != 5 || both.Intervals[1].Requests != 200 || both.Intervals[4].Requests != 100 || both.Intervals[1].Mark != "edge-dies" || both.Wanted != 20 || both.Generators != 2 {
		t.Errorf("%+v", both.Intervals)
	}
	if both.Verdict.Valid || len(both.Verdict.Reasons) == 0 {
		t.Error("one generator was too slow, but together they count as valid")
	}
	if _, err := loadtest.Merge(); err == nil {
		t.Error("nothing was merged")
	}
	other := made(t, 4, around(1, 1))
	other.Base = "http://y"
	if _, err := loadtest.Merge(fast, other); err == nil {
		t.Error("runs against two platforms were merged")
	}
}

// TestCompare: chance is not called a change, and a change is found.
func TestCompare(t *testing.T) {
	wrong := 0
	for seed := range uint64(8) {
		c, err := loadtest.Compare(made(t, 60, around(seed, 100)), made(t, 60, around(seed+100, 100)))
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Worse()) > 0 {
			wrong++
		}
	}
	if wrong > 1 {
		t.Errorf("%d of 8 pairs of the same platform differ", wrong)
	}
	c, err := loadtest.Compare(made(t, 60, around(1, 100)), made(t, 60, around(2, 130)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"startup p50", "startup p99"}, c.Worse()); diff != "" {
		t.Errorf("30 %% slower: %s", diff)
	}
	var text strings.Builder
	c.Print(&text)
	if !strings.Contains(text.String(), "worse") {
		t.Error(text.String())
	}
	short, err := loadtest.Compare(made(t, 3, around(1, 100)), made(t, 3, around(2, 500)))
	if err != nil || len(short.Worse()) > 0 {
		t.Errorf("three seconds prove nothing: %v, %v", short.Worse(), err)
	}
}

// TestJSONAndHTML: a result survives its JSON, and its report needs nothing from elsewhere.
func TestJSONAndHTML(t *testing.T) {
	r := made(t, 30, around(1, 100))
	r.Intervals[3].Mark = `</svg><script>alert(1)</script>`
	r.Name = "<b>steady</b>"
	var b bytes.Buffer
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	back, err := loadtest.ReadResult(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, back); diff != "" {
		t.Error(diff)
	}
	var page bytes.Buffer
	if err := back.HTML(&page); err != nil {
		t.Fatal(err)
	}
	html := page.String()
	for _, not := range []string{"<script", "src=", "href=", "url(", "@import", "<b>steady", "ZgotmplZ"} {
		if strings.Contains(html, not) {
			t.Errorf("the report has %q", not)
		}
	}
	if strings.Count(html, "<svg") != 6 || !strings.Contains(html, "alert(1)") {
		t.Errorf("%d charts", strings.Count(html, "<svg"))
	}
	for _, broken := range []string{"", "{}", `{"format": 2, "interval": 1}`, `{"format": 1, "interval": 1, "unknown": 1}`} {
		if _, err := loadtest.ReadResult(strings.NewReader(broken)); err == nil {
			t.Errorf("%q was read", broken)
		}
	}
	back.Moments["startup"] = loadtest.Latency{Count: 1, HDR: []byte("nonsense")}
	if _, err := loadtest.Merge(back, r); err == nil {
		t.Error("a broken histogram was merged")
	}
}

// TestToClickHouse writes a result twice: it is there once.
func TestToClickHouse(t *testing.T) {
	ch := testenv.StartClickHouse(t)
	r := made(t, 30, around(1, 100))
	db, err := http.Post("http://"+clickhouse.Writer+":"+ch.WriterPassword+"@"+ch.HTTP, "text/plain", strings.NewReader("CREATE DATABASE "+clickhouse.Database))
	if err != nil || db.StatusCode != http.StatusOK {
		t.Fatal(db, err)
	}
	db.Body.Close()
	where := "http://" + clickhouse.Writer + ":" + ch.WriterPassword + "@" + ch.HTTP + "/" + clickhouse.Database
	for range 2 {
		if err := loadtest.ToClickHouse(t.Context(), where, r); err != nil {
			t.Fatal(err)
		}
	}
	do := loadtest.Wire("http://" + ch.HTTP)
	for query, want := range map[string]string{
		"SELECT%20count(),sum(plays)%20FROM%20segue.loadtest_intervals%20FINAL":                      "30\t600\n",
		"SELECT%20p99_us%20FROM%20segue.loadtest_runs%20FINAL%20WHERE%20measure='startup'":           fmt.Sprintln(r.Moments["startup"].P99),
		"SELECT%20round(value,2)%20FROM%20segue.loadtest_runs%20FINAL%20WHERE%20measure='hit_ratio'": "0.9\n",
	} {
		if _, got, _, err := do("GET", "/?user="+clickhouse.Writer+"&password="+ch.WriterPassword+"&query="+query, "", nil); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v, want %q", query, got, err, want)
		}
	}
	if err := loadtest.ToClickHouse(context.Background(), "http://127.0.0.1:1/x", r); err == nil {
		t.Error("nobody took it")
	}
}

func TestScenarios(t *testing.T) {
	for _, name := range loadtest.Scenarios() {
		s, err := loadtest.LoadScenario(name)
		if err != nil || s.Name != name || s.About == "" {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
	for _, bad := range []string{"name: x\nunknown: 1", "about: no name", "name: x\nsearch: 2", "name: x\nshape: [{at: 1, share: 1}, {at: 0, share: 1}]", "name: x\nskip: [{by: 5, part: 0.5}, {by: 6, part: 0.4}]", "name: x\nhot: [{from: 1, to: 0, tracks: 1, part: 1}]", "name: x\nsession: 1ms", "name: [", "name: x\nzipf: .nan"} {
		if _, err := loadtest.ParseScenario([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
	if _, err := loadtest.LoadScenario("none-of-them"); err == nil {
		t.Error("a scenario that is not there")
	}
}
