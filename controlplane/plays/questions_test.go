package plays_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"segue/controlplane/plays"
	"segue/internal/clickhouse"
	"segue/internal/testenv"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/oklog/ulid/v2"
)

// madePlay is one generated play, and what its edge logged of it.
type madePlay struct {
	id, user, title, artist, country, plan, edge, player, device, context string
	at                                                                    time.Time
	duration, played, startup                                             int64 // ms
	ended                                                                 bool
	stalls                                                                []int64 // ms
}

func (p madePlay) counted() bool   { return p.played >= min(30000, max(p.duration, 1000)-500) }
func (p madePlay) completed() bool { return 10*p.played >= 9*p.duration }
func (p madePlay) last() time.Time { return p.at.Add(time.Duration(p.played) * time.Millisecond) }

type madeRequest struct {
	edge, log, play, rendition, cache string
	seq, bytes, firstByte             int64
	at                                time.Time
}

// makePlays invents them, the same ones each time but for their ids.
func makePlays() (list []madePlay, requests []madeRequest) {
	rng := rand.New(rand.NewPCG(25, 25))
	begin := time.Date(2026, 9, 28, 0, 0, 0, 0, time.UTC) // a Monday, and two months
	entropy := ulid.Monotonic(rand.NewChaCha8([32]byte{1}), 0)
	pick := func(of ...string) string { return of[rng.IntN(len(of))] }
	seq := map[string]int64{}
	logs := map[string]string{"eu-1": strings.Repeat("A", 26), "us-1": strings.Repeat("B", 26)}
	for range 2000 {
		user := rng.IntN(60)
		start := float64(user%4) * 7 // days: some come later
		at := begin.Add(time.Duration((start + rng.Float64()*(35-start)) * 24 * float64(time.Hour))).Truncate(time.Millisecond)
		track := int(rng.ExpFloat64()*4) % 20
		p := madePlay{id: ulid.MustNew(ulid.Timestamp(at), entropy).String(), user: fmt.Sprintf("%032d", user), title: fmt.Sprintf("Track %02d", track), artist: fmt.Sprintf("Artist %d", track%5),
			country: pick("DE", "US", "US", ""), plan: pick("free", "premium"), player: pick("web/1", "hls.js/1.7"), device: pick("web", "phone", "tv"), context: pick("album", "playlist", ""),
			at: at, duration: int64(20000 + 10000*track), startup: int64(80 + rng.IntN(900)), ended: rng.IntN(10) > 0}
		p.edge = map[bool]string{true: "eu-1", false: "us-1"}[p.country == "DE" || rng.IntN(4) == 0]
		switch rng.IntN(4) {
		case 0:
			p.played = rng.Int64N(29000)
		case 1:
			p.played = rng.Int64N(p.duration + 1)
		default:
			p.played = p.duration
		}
		p.played = min(p.played, p.duration)
		for range max(0, rng.IntN(8)-5) {
			p.stalls = append(p.stalls, int64(200+rng.IntN(3000)))
		}
		list = append(list, p)
		for n := range 1 + rng.IntN(4) {
			seq[p.edge]++
			if s := seq[p.edge]; s%500 < 3 {
				continue // lost
			}
			requests = append(requests, madeRequest{edge: p.edge, log: logs[p.edge], play: p.id, rendition: pick("aac_96", "aac_160"), cache: pick("hit", "hit", "hit", "miss"),
				seq: seq[p.edge], bytes: 1000 + rng.Int64N(200000), firstByte: 100 + rng.Int64N(40000), at: p.at.Add(time.Duration(n) * time.Second)})
		}
	}
	return list, requests
}

// insert writes them into the tables, some of them twice.
func insert(t *testing.T, ch *testenv.ClickHouse, list []madePlay, requests []madeRequest) {
	t.Helper()
	opts, err := chgo.ParseDSN(ch.URL())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := plays.Open(t.Context(), opts, plays.Schema{})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	var events, edges bytes.Buffer
	const form = "2006-01-02 15:04:05.000"
	entropy := ulid.Monotonic(rand.NewChaCha8([32]byte{2}), 0)
	for i, p := range list {
		add := func(kind string, after, played int64, more map[string]any) {
			at := p.at.Add(time.Duration(after) * time.Millisecond)
			row := map[string]any{"event_id": ulid.MustNew(ulid.Timestamp(at), entropy).String(), "play_id": p.id, "type": kind, "at": at.Format(form), "received_at": at.Add(time.Second).Format(form),
				"play_at": p.at.Format(form), "user_key": p.user, "plan": p.plan, "track_id": fmt.Sprintf("%-26s", p.title), "version": strings.Repeat("v", 26), "title": p.title, "artist": p.artist,
				"artist_id": p.artist, "duration_ms": p.duration, "played_ms": played, "edge": p.edge, "country": p.country, "device_type": p.device, "player": p.player, "context_type": p.context, "rendition": "aac_160", "bitrate_kbps": 160}
			for k, v := range more {
				row[k] = v
			}
			b, _ := json.Marshal(row)
			for range 1 + i%7/6 { // some come twice
				events.Write(b)
				events.WriteByte('\n')
			}
		}
		add("start", 0, 0, map[string]any{"startup_ms": p.startup})
		for _, ms := range p.stalls {
			add("stall", 0, 0, map[string]any{"stall_ms": ms})
		}
		kind := "progress"
		if p.ended {
			kind = "end"
		}
		add(kind, p.played, p.played, nil)
	}
	for i, r := range requests {
		b, _ := json.Marshal(map[string]any{"at": r.at.Format("2006-01-02 15:04:05.000000"), "received_at": r.at.Format(form), "edge": r.edge, "log": r.log, "seq": r.seq, "batch": r.seq, "sid": r.play, "play_id": r.play,
			"rendition": r.rendition, "cache": r.cache, "status": 206, "bytes": r.bytes, "first_byte_us": r.firstByte})
		for range 1 + i%9/8 {
			edges.Write(b)
			edges.WriteByte('\n')
		}
	}
	url := "http://" + clickhouse.Writer + ":" + ch.WriterPassword + "@" + ch.HTTP + "/" + clickhouse.Database
	for table, rows := range map[string]*bytes.Buffer{"play_events": &events, "edge_requests": &edges} {
		if err := plays.Query(t.Context(), url, "INSERT INTO "+table+" FORMAT JSONEachRow\n"+rows.String(), "TSV", &bytes.Buffer{}); err != nil {
			t.Fatal(err)
		}
	}
}

// by groups things.
func by[T any](list []T, key func(T) string) map[string][]T {
	out := map[string][]T{}
	for _, x := range list {
		out[key(x)] = append(out[key(x)], x)
	}
	return out
}

func count[T any](list []T, is func(T) bool) (n int) {
	for _, x := range list {
		if is(x) {
			n++
		}
	}
	return n
}

func sum[T any](list []T, of func(T) int64) (n int64) {
	for _, x := range list {
		n += of(x)
	}
	return n
}

func different[T any](list []T, key func(T) string) int { return len(by(list, key)) }

// quantile is the value at a share of the list in order.
func quantile(list []int64, level float64) int64 {
	slices.Sort(list)
	return list[min(int(level*float64(len(list))), len(list)-1)]
}

func values[T any](list []T, of func(T) int64) []int64 {
	out := make([]int64, len(list))
	for i, x := range list {
		out[i] = of(x)
	}
	return out
}

func date(t time.Time) string { return t.UTC().Format(time.DateOnly) }
func month(t time.Time) string {
	return date(time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC))
}
func monday(t time.Time) string { return date(t.AddDate(0, 0, -(int(t.Weekday())+6)%7)) }

// answers computes what the document's questions from 11 on say of the plays: lines of columns.
func answers(list []madePlay, requests []madeRequest) map[string][]string {
	out := map[string][]string{}
	add := func(question string, columns ...any) {
		var f []string
		for _, c := range columns {
			f = append(f, fmt.Sprint(c))
		}
		out[question] = append(out[question], strings.Join(f, "\t"))
	}
	user := func(p madePlay) string { return p.user }
	var counted []madePlay
	for _, p := range list {
		if p.counted() {
			counted = append(counted, p)
		}
	}
	for m, of := range by(counted, func(p madePlay) string { return month(p.at) }) {
		days := by(of, func(p madePlay) string { return date(p.at) })
		total := 0
		for _, d := range days {
			total += different(d, user)
		}
		daily := float64(total) / float64(len(days))
		add("11", m, daily, different(of, user), daily/float64(different(of, user)))
	}
	first := map[string]string{}
	for _, p := range counted {
		if w := monday(p.at); first[p.user] == "" || w < first[p.user] {
			first[p.user] = w
		}
	}
	for key, of := range by(counted, func(p madePlay) string {
		a, _ := time.Parse(time.DateOnly, first[p.user])
		b, _ := time.Parse(time.DateOnly, monday(p.at))
		return first[p.user] + "\t" + strconv.Itoa(int(b.Sub(a).Hours())/168)
	}) {
		add("12", key, different(of, user))
	}
	for title, of := range by(list, func(p madePlay) string { return p.title }) {
		if len(of) >= 20 {
			n := count(of, madePlay.completed)
			add("13", title, len(of), n, float64(n)/float64(len(of)))
		}
	}
	for key, of := range by(list, func(p madePlay) string { return p.artist + "\t" + p.context }) {
		if len(of) >= 20 {
			n := count(of, func(p madePlay) bool { return p.ended && !p.counted() })
			add("14", key, len(of), n, float64(n)/float64(len(of)))
		}
	}
	startup := func(p madePlay) int64 { return p.startup }
	for country, of := range by(list, func(p madePlay) string { return p.country }) {
		v := values(of, startup)
		add("15", country, len(of), quantile(v, 0.5), quantile(v, 0.95), quantile(v, 0.99))
	}
	for key, of := range by(list, func(p madePlay) string { return p.edge + "\t" + p.player }) {
		v := values(of, startup)
		add("16", key, len(of), quantile(v, 0.5), quantile(v, 0.95))
	}
	played := func(p madePlay) int64 { return p.played }
	for edge, of := range by(list, func(p madePlay) string { return p.edge }) {
		stalled := sum(of, func(p madePlay) int64 { return sum(p.stalls, func(ms int64) int64 { return ms }) })
		times := sum(of, func(p madePlay) int64 { return int64(len(p.stalls)) })
		add("17", edge, times, float64(times)/(float64(sum(of, played))/3600000), 100*float64(stalled)/float64(sum(of, played)+stalled))
	}
	size := func(r madeRequest) int64 { return r.bytes }
	hit := func(r madeRequest) bool { return r.cache == "hit" }
	for key, of := range by(requests, func(r madeRequest) string { return r.edge + "\t" + r.rendition }) {
		hits := sum(of, func(r madeRequest) int64 {
			if hit(r) {
				return r.bytes
			}
			return 0
		})
		add("18", key, len(of), float64(count(of, hit))/float64(len(of)), float64(hits)/float64(sum(of, size)), sum(of, size))
	}
	chart := map[string]map[string]int{}
	for key, of := range by(counted, func(p madePlay) string { return monday(p.at) + "\t" + p.country + "\n" + p.title + "\n" + p.user }) {
		f := strings.Split(key, "\n")
		if strings.HasSuffix(f[0], "\t") {
			continue // country not known
		}
		if chart[f[0]] == nil {
			chart[f[0]] = map[string]int{}
		}
		chart[f[0]][f[1]] += min(len(of), 10)
	}
	for week, titles := range chart {
		type place struct {
			title string
			n     int
		}
		var places []place
		for title, n := range titles {
			places = append(places, place{title, n})
		}
		slices.SortFunc(places, func(a, b place) int { return cmp.Or(cmp.Compare(b.n, a.n), cmp.Compare(a.title, b.title)) })
		for _, p := range places[:min(5, len(places))] {
			add("19", week, p.title, p.n)
		}
	}
	for key, of := range by(counted, func(p madePlay) string { return strings.Join([]string{month(p.at), p.artist, p.country, p.plan}, "\t") }) {
		add("20", key, len(of), float64(sum(of, played))/60000)
	}
	for key, of := range by(requests, func(r madeRequest) string { return r.edge + "\t" + r.log }) {
		latest := slices.Max(values(of, func(r madeRequest) int64 { return r.seq }))
		add("21", key, len(of), latest, latest-int64(len(of)))
	}
	for edge, of := range by(requests, func(r madeRequest) string { return r.edge }) {
		seqs := values(of, func(r madeRequest) int64 { return r.seq })
		slices.Sort(seqs)
		before := int64(0)
		for _, s := range seqs {
			if s > before+1 {
				add("22", edge, before+1, s-1, s-before-1)
			}
			before = s
		}
	}
	known := map[string]madePlay{}
	for _, p := range list {
		known[p.id] = p
	}
	type seen struct {
		edge                string
		startup, first      float64
		requests, hits, one int
	}
	perPlay := map[string]*seen{}
	for _, r := range requests {
		s := perPlay[r.play]
		if s == nil {
			s = &seen{edge: r.edge, startup: float64(known[r.play].startup)}
			perPlay[r.play] = s
		}
		s.requests++
		s.first = max(s.first, float64(r.firstByte)/1000)
		if hit(r) {
			s.hits++
		}
	}
	perEdge := map[string]*seen{}
	for _, s := range perPlay {
		e := perEdge[s.edge]
		if e == nil {
			e = &seen{}
			perEdge[s.edge] = e
		}
		e.one++
		e.startup, e.first, e.requests, e.hits = e.startup+s.startup, e.first+s.first, e.requests+s.requests, e.hits+s.hits
	}
	for edge, e := range perEdge {
		add("23", edge, e.one, e.startup/float64(e.one), e.first/float64(e.one), float64(e.hits)/float64(e.requests))
	}
	for key, of := range by(list, func(p madePlay) string { return p.device + "\t" + strconv.Itoa(p.at.Hour()) }) {
		add("24", key, len(of), different(of, user))
	}
	minutes := map[int64]int{}
	for _, p := range list {
		for m := p.at.Unix() / 60; m <= p.last().Unix()/60; m++ {
			minutes[m]++
		}
	}
	busiest := map[string]int{}
	for m, n := range minutes {
		d := date(time.Unix(m*60, 0))
		busiest[d] = max(busiest[d], n)
	}
	for d, n := range busiest {
		add("25", d, n)
	}
	return out
}

// TestQuestions runs the document's questions from 11 on. Lines are compared in the order of their text, since an order among
// equals is nobody's promise, and numbers as far as the statements round.
func TestQuestions(t *testing.T) {
	ch := testenv.StartClickHouse(t)
	doc, err := os.ReadFile(filepath.Join(testenv.Root(t), "docs/analytics.md"))
	if err != nil {
		t.Fatal(err)
	}
	list, requests := makePlays()
	insert(t, ch, list, requests)
	want := answers(list, requests)
	blocks := regexp.MustCompile("(?ms)^### (\\d+)\\. ([^\n]+)\n.*?^```sql\n(.*?)^```").FindAllStringSubmatch(string(doc), -1)
	if len(blocks) != 25 || strings.Count(string(doc), "```sql") != 25 {
		t.Errorf("%d questions and %d blocks of SQL, want 25", len(blocks), strings.Count(string(doc), "```sql"))
	}
	for _, b := range blocks {
		if n, _ := strconv.Atoi(b[1]); n <= 10 {
			continue // TestAnalyticsDocument's
		}
		got := strings.Split(strings.TrimSuffix(ask(t, ch, b[3]), "\n"), "\n")
		expected := want[b[1]]
		if len(got) != len(expected) {
			t.Errorf("%s. %s: %d lines, want %d\n%s\nwant\n%s", b[1], b[2], len(got), len(expected), strings.Join(got, "\n"), strings.Join(expected, "\n"))
			continue
		}
		slices.Sort(got)
		slices.Sort(expected)
		for i := range got {
			if !sameLine(got[i], expected[i]) {
				t.Errorf("%s. %s\n got %s\nwant %s", b[1], b[2], got[i], expected[i])
				break
			}
		}
	}
}

func sameLine(a, b string) bool {
	x, y := strings.Split(a, "\t"), strings.Split(b, "\t")
	if len(x) != len(y) {
		return false
	}
	for i := range x {
		if x[i] == y[i] {
			continue
		}
		f, err1 := strconv.ParseFloat(x[i], 64)
		g, err2 := strconv.ParseFloat(y[i], 64)
		digits := 0
		if _, after, ok := strings.Cut(x[i], "."); ok {
			digits = len(after)
		}
		if err1 != nil || err2 != nil || math.Abs(f-g) > 0.51*math.Pow(10, -float64(min(digits, 3))) {
			return false
		}
	}
	return true
}
