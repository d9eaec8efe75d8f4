package plays_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/api/edgelog"
	"segue/controlplane/plays"
	"segue/internal/eventlog"
	"segue/internal/testenv"
	"segue/media"

	"github.com/google/go-cmp/cmp"
	"github.com/oklog/ulid/v2"
)

// pipe is an ingest, a log and a sink on a real engine.
type pipe struct {
	t      *testing.T
	ch     *testenv.ClickHouse
	log    *eventlog.Log
	ingest *plays.Ingest
	sink   *plays.Sink
	dead   *plays.DeadLetters
	known  map[string]plays.Play
}

func newPipe(t *testing.T, schema plays.Schema) *pipe {
	t.Helper()
	p := &pipe{t: t, ch: testenv.StartClickHouse(t), known: map[string]plays.Play{}}
	var err error
	if p.log, err = eventlog.Open(t.Context(), eventlog.Config{Dir: t.TempDir()}, plays.Streams()...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.log.Close)
	p.ingest = plays.NewIngest(p.log.Append, []byte("0123456789abcdef"), func(_ context.Context, id string) (plays.Play, error) {
		g, ok := p.known[id]
		if !ok {
			return g, media.ErrNotFound
		}
		return g, nil
	})
	p.ingest.Region = func(edge string) string { return map[string]string{"eu-1": "eu"}[edge] }
	p.dead = plays.NewDeadLetters(p.log)
	p.sink = p.newSink(schema)
	return p
}

func (p *pipe) newSink(schema plays.Schema) *plays.Sink {
	p.t.Helper()
	s, err := plays.NewSink(p.ch.URL(), schema, slog.New(slog.DiscardHandler))
	if err != nil {
		p.t.Fatal(err)
	}
	s.Dead = p.dead.Keep
	s.Country = func(netip.Addr) string { return "NL" }
	return s
}

// run lets the sink work until the test ends.
func (p *pipe) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.sink.Run(ctx, p.log) }()
	p.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			p.t.Error(err)
		}
	})
}

// grant makes a play of a listener.
func (p *pipe) grant(user string, at time.Time) string {
	id := ulid.MustNew(ulid.Timestamp(at), ulid.DefaultEntropy()).String()
	p.known[id] = plays.Play{UserID: user, Plan: api.PlanFree, Version: media.Version(strings.Repeat("v", 26)), CreatedAt: at, ExpiresAt: at.Add(time.Hour),
		Track: api.Track{ID: media.TrackID(strings.Repeat("T", 26)), Title: "Größe", DurationMS: 100_000, Genres: []string{"Jazz"}, Album: api.AlbumRef{ID: "A", Title: "Alb"},
			Artists: []api.ArtistRef{{ID: "R", Name: "Ann"}}}}
	return id
}

func event(play, kind string, at time.Time, played int64) api.Event {
	return api.Event{ID: ulid.Make().String(), PlayID: play, Type: kind, At: at, PlayedMS: played, PositionMS: played, Rendition: "aac_160", Edge: "eu-1", Player: "test/1"}
}

func (p *pipe) take(from plays.From, events ...api.Event) api.EventsAccepted {
	p.t.Helper()
	out, err := p.ingest.Take(p.t.Context(), from, events)
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

// await asks until the answer is what is wanted.
func (p *pipe) await(sql, want string) {
	p.t.Helper()
	got := ""
	for end := time.Now().Add(40 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		var b strings.Builder
		if err := plays.Query(p.t.Context(), p.ch.QueryURL(), sql, "TSV", &b); err == nil {
			if got = b.String(); got == want {
				return
			}
		} else {
			got = err.Error()
		}
	}
	p.t.Errorf("%s\n%s, want %s", sql, got, want)
}

// TestEventsAreStored: what the server knows of an event is in its row; a wrong clock is corrected; other people's plays, and what is older than a
// month, are refused; a repeat in whatever grouping counts once.
func TestEventsAreStored(t *testing.T) {
	p := newPipe(t, plays.Schema{Retention: plays.DefaultRetention})
	p.run()
	now := time.Now().UTC()
	id, foreign, old := p.grant("ada", now.Add(-time.Minute)), p.grant("eve", now), p.grant("ada", now.Add(-40*24*time.Hour))
	from := plays.From{UserID: "ada", Country: "DE", DeviceType: "phone", SentAt: now.Add(-30 * 365 * 24 * time.Hour)} // a clock that began anew
	wrong := event(id, api.EventStart, from.SentAt.Add(-10*time.Second), 0)
	if out := p.take(from, wrong); out.Accepted != 1 {
		t.Fatalf("%+v", out)
	}
	right := plays.From{UserID: "ada", Country: "DE", DeviceType: "phone", SentAt: now}
	a, b := event(id, api.EventProgress, now, 31_000), event(id, api.EventEnd, now, 40_000)
	late := event(old, api.EventProgress, now.Add(-31*24*time.Hour), 1000)
	out := p.take(right, a, event(foreign, api.EventProgress, now, 1), late, b)
	if out.Accepted != 2 || out.Rejected != 2 {
		t.Errorf("%+v", out)
	}
	p.take(right, b)
	p.take(right, a, b)
	p.await("SELECT count() FROM play_events FINAL", "3\n")
	p.await("SELECT type, abs(dateDiff('second', at, received_at)) BETWEEN 8 AND 12, skew_ms > 900000000000, country, region, device_type, artist_id, artist, album_id, genre, bitrate_kbps "+
		"FROM play_events FINAL WHERE type = 'start'", "start\t1\t1\tDE\teu\tphone\tR\tAnn\tA\tJazz\t160\n")
	p.await("SELECT played_ms, counted, ended, title, user_key = '"+p.ingest.UserKey("ada")+"' FROM plays", "40000\t1\t1\tGröße\t1\n")
	for _, table := range []string{"track_hourly", "artist_daily", "country_daily"} {
		p.await("SELECT sum(starts), sum(plays), sum(listeners) FROM "+table, "1\t1\t1\n")
	}
	p.await("SELECT sum(heard_ms) FROM track_hourly", "40000\n")
}

// TestRequestsAndReports: an edge's log and CMCD reports become rows; batches that come twice, also after a merge of the log's memory, count once.
func TestRequestsAndReports(t *testing.T) {
	p := newPipe(t, plays.Schema{Retention: plays.DefaultRetention})
	p.run()
	name := ulid.Make().String()
	at := time.Now().UTC().Truncate(time.Minute)
	frame := func(first uint64, n int) []byte {
		var raw []byte
		for i := range n {
			r := edgelog.Row{At: at.Add(time.Duration(i) * time.Millisecond), Duration: time.Millisecond, FirstByte: 300 * time.Microsecond, Status: 200, Bytes: 1000, Client: "192.0.2.0/24", Method: "GET",
				Key: "media/" + strings.Repeat("T", 26) + "/" + strings.Repeat("v", 26) + "/aac_96.mp4", Tier: "memory", Cache: "hit", SessionID: "s1", Version: 1, BufferMS: 2000, DeadlineMS: -1, RateThousandths: -1}
			raw = edgelog.AppendRow(raw, &r)
		}
		b, err := edgelog.AppendFrame(nil, edgelog.Head{Log: name, First: first, Rows: n}, raw)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	both := append(frame(1, 3), frame(4, 2)...)
	got, err := p.ingest.Requests(t.Context(), "eu-1", "eu", both)
	if d := cmp.Diff(got, api.EdgeLogsAccepted{Frames: 2, Rows: 5}); d != "" || err != nil {
		t.Error(d, err)
	}
	p.await("SELECT count(), sum(bytes) FROM edge_requests", "5\t5000\n")
	// The log knows frames by their ids for two hours. After that they come again: here, as another edge's message of the same frames.
	if err := p.log.Append(t.Context(), eventlog.Message{ID: "again", Subject: "edgelogs.requests", Body: requestsMessage("eu-1", "eu", both)}); err != nil {
		t.Fatal(err)
	}
	for lag, err := p.log.Lag(t.Context(), "edgelogs", "clickhouse"); err != nil || lag.Messages > 0; lag, err = p.log.Lag(t.Context(), "edgelogs", "clickhouse") {
		if t.Context().Err() != nil {
			t.Fatal("the sink does not come to an end")
		}
		time.Sleep(20 * time.Millisecond)
	}
	p.await("SELECT count(), sum(bytes), uniqExact(seq) FROM edge_requests FINAL", "5\t5000\t5\n")
	p.await("SELECT sum(requests), sum(bytes), any(rendition), any(region), any(country) FROM edge_minutely", "5\t5000\taac_96\teu\tNL\n")
	p.await("SELECT DISTINCT sid, track_id = '"+strings.Repeat("T", 26)+"', client, cmcd_buffer_ms, cmcd_deadline_ms FROM edge_requests", "s1\t1\t192.0.2.0/24\t2000\t\\N\n")

	for _, bad := range []string{"", "no frame", string(both[:len(both)-1])} {
		if _, err := p.ingest.Requests(t.Context(), "eu-1", "eu", []byte(bad)); !errors.Is(err, media.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}

	body := []byte(`e=ps,sta=p,sid="s1",ts=` + fmt.Sprint(at.UnixMilli()) + `,v=2,bl=(3000),url="http://e/t/SECRET/media/` + strings.Repeat("T", 26) + `/v/aac_96.mp4?x=1"` + "\n" + `e=e,ec="404",sid="s1",v=2` + "\n")
	from := plays.From{Country: "DE", Network: "192.0.2.0/24", UserAgent: "Mozilla/5.0 (iPhone) Mobile"}
	for range 2 {
		if n, err := p.ingest.Reports(t.Context(), from, body); n != 2 || err != nil {
			t.Error(n, err)
		}
	}
	p.await("SELECT event, state, buffer_ms, url, track_id != '', country, device_type, error_code FROM cmcd_events FINAL ORDER BY event DESC",
		"ps\tp\t3000\thttp://e/media/"+strings.Repeat("T", 26)+"/v/aac_96.mp4\t1\tDE\tphone\t\ne\t\t\\N\t\t0\tDE\tphone\t404\n")
	for _, bad := range []string{"", "\n\n", "{}", `e=ps`, `sid="x"`, `e=ps,sid="` + strings.Repeat("x", 65) + `"`} {
		if _, err := p.ingest.Reports(t.Context(), from, []byte(bad)); !errors.Is(err, media.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// requestsMessage is a message as Ingest makes them.
func requestsMessage(edge, region string, frames []byte) []byte {
	b := []byte{1, byte(len(edge))}
	b = append(b, edge...)
	b = append(append(b, byte(len(region))), region...)
	return append(append(b, 0x80, 0x80, 0x01), frames...)
}

// TestDeadLetters: what can never be stored does not stop what can; it is kept with its reason, and replayed or dropped.
func TestDeadLetters(t *testing.T) {
	p := newPipe(t, plays.Schema{Retention: plays.DefaultRetention})
	now := time.Now().UTC()
	id := p.grant("ada", now)
	good := event(id, api.EventStart, now, 0)
	refused := event(id, api.EventError, now, 0)
	refused.Message = "never"
	if err := p.log.Append(t.Context(), eventlog.Message{ID: "broken", Subject: "plays.events", Body: []byte{1, 200}}, eventlog.Message{ID: "json", Subject: "plays.events", Body: []byte("{")}); err != nil {
		t.Fatal(err)
	}
	p.run()
	p.take(plays.From{UserID: "ada"}, good)
	p.await("SELECT count() FROM play_events", "1\n")
	list := func() []api.DeadLetter {
		l, _, err := p.dead.List(t.Context(), 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	wait := func(n int) []api.DeadLetter {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); len(list()) != n && time.Now().Before(end); {
			time.Sleep(20 * time.Millisecond)
		}
		if len(list()) != n {
			t.Fatalf("%d dead letters, want %d", len(list()), n)
		}
		return list()
	}
	for _, d := range wait(2) {
		if err := p.dead.Drop(t.Context(), uint64(d.ID)); err != nil {
			t.Error(err)
		}
	}
	// A row that ClickHouse itself refuses, among others in one batch: only its message is put aside.
	p.alter("ALTER TABLE play_events ADD CONSTRAINT c CHECK message != 'never'")
	var batch []api.Event
	for range 10 {
		batch = append(batch, event(id, api.EventProgress, now, 1000))
	}
	p.take(plays.From{UserID: "ada"}, batch...)
	p.take(plays.From{UserID: "ada"}, refused)
	p.take(plays.From{UserID: "ada"}, event(id, api.EventEnd, now, 2000))
	p.await("SELECT count() FROM play_events FINAL", "12\n")
	l := wait(1)
	if !strings.Contains(l[0].Reason, "469") && !strings.Contains(l[0].Reason, "onstraint") {
		t.Errorf("reason: %s", l[0].Reason)
	}
	whole, err := p.dead.Get(t.Context(), uint64(l[0].ID))
	if err != nil || len(whole.Events) != 1 || whole.Events[0].ID != refused.ID {
		t.Errorf("%+v %v", whole, err)
	}
	p.alter("ALTER TABLE play_events DROP CONSTRAINT c")
	if err := p.dead.Replay(t.Context(), uint64(l[0].ID)); err != nil {
		t.Fatal(err)
	}
	p.await("SELECT count() FROM play_events FINAL WHERE message = 'never'", "1\n")
	wait(0)
	if err := p.dead.Drop(t.Context(), 1); !errors.Is(err, media.ErrNotFound) {
		t.Errorf("one that is not there: %v", err)
	}
}

// alter changes a table as the writer.
func (p *pipe) alter(sql string) {
	p.t.Helper()
	u := strings.Replace(p.ch.QueryURL(), "analyst:"+p.ch.AnalystPassword, "segue:"+p.ch.WriterPassword, 1)
	var b strings.Builder
	if err := plays.Query(p.t.Context(), u, sql, "TSV", &b); err != nil {
		p.t.Fatal(err)
	}
}

// TestFullLogTakesNothing: a log at its bound refuses, so that memory never holds what disk cannot.
func TestFullLogTakesNothing(t *testing.T) {
	l, err := eventlog.Open(t.Context(), eventlog.Config{Dir: t.TempDir()}, eventlog.Stream{Name: "plays", MaxBytes: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var kept atomic.Int64
	for i := range 200 {
		if err := l.Append(t.Context(), eventlog.Message{ID: fmt.Sprint(i), Subject: "plays.events", Body: make([]byte, 1000+i)}); err != nil {
			break
		}
		kept.Add(1)
	}
	lag, err := l.Lag(t.Context(), "plays", "nobody")
	if err != nil || kept.Load() == 200 || kept.Load() == 0 || int64(lag.Messages) != kept.Load() {
		t.Errorf("%d were taken, %d are there: %v", kept.Load(), lag.Messages, err)
	}
}

// TestSchemaComesOfAge: tables of before there were versions are carried over; a second start changes nothing; retention follows the settings.
func TestSchemaComesOfAge(t *testing.T) {
	p := newPipe(t, plays.Schema{Retention: plays.DefaultRetention})
	id := ulid.Make()
	var out strings.Builder
	if err := plays.Query(t.Context(), "http://segue:"+p.ch.WriterPassword+"@"+p.ch.HTTP+"/default", "CREATE DATABASE segue", "TSV", &out); err != nil {
		t.Fatal(err)
	}
	p.alter(`CREATE TABLE play_events (event_id FixedString(26), play_id FixedString(26), type LowCardinality(String), at DateTime64(3, 'UTC'), received_at DateTime64(3, 'UTC'),
		user_key FixedString(32), plan LowCardinality(String), track_id FixedString(26), version FixedString(26), title String, artist LowCardinality(String), album LowCardinality(String),
		duration_ms UInt32, position_ms UInt32, played_ms UInt32, rendition LowCardinality(String), edge LowCardinality(String), startup_ms UInt32, stall_ms UInt32,
		player LowCardinality(String), message String) ENGINE = ReplacingMergeTree(received_at) PARTITION BY toYYYYMM(at) ORDER BY (toDate(at), track_id, play_id, event_id)`)
	p.alter("INSERT INTO play_events (event_id, play_id, type, at, track_id, duration_ms, played_ms, rendition) VALUES ('" + ulid.Make().String() + "', '" + id.String() + "', 'end', now64(3), 'T', 100000, 40000, 'aac_96')")
	p.run()
	p.await("SELECT count(), sum(counted), max(toUnixTimestamp64Milli(play_at)) FROM plays", fmt.Sprintf("1\t1\t%d\n", id.Time()))
	p.await("SELECT bitrate_kbps FROM play_events", "96\n")
	p.await("SELECT sum(plays) FROM track_hourly", "1\n")
	p.await("SELECT count() >= 20 FROM schema_steps FINAL", "1\n")
	again := p.newSink(plays.Schema{Retention: plays.Retention{Events: 30}})
	if err := again.Forget(t.Context(), strings.Repeat("0", 32)); err != nil { // opens
		t.Fatal(err)
	}
	p.await("SELECT count() FROM play_events FINAL", "1\n")
}

// TestForget: one listener's rows go, with the requests and reports of the sessions; the others' stay.
func TestForget(t *testing.T) {
	p := newPipe(t, plays.Schema{Retention: plays.DefaultRetention})
	p.run()
	now := time.Now().UTC()
	ada, eve := p.grant("ada", now), p.grant("eve", now)
	p.take(plays.From{UserID: "ada"}, event(ada, api.EventProgress, now, 40_000))
	p.take(plays.From{UserID: "eve"}, event(eve, api.EventProgress, now, 40_000))
	for _, sid := range []string{ada, eve} {
		if _, err := p.ingest.Reports(t.Context(), plays.From{}, []byte(`e=ps,sta=p,v=2,sid="`+sid+`"`)); err != nil {
			t.Fatal(err)
		}
	}
	p.await("SELECT (SELECT count() FROM plays), (SELECT count() FROM cmcd_events)", "2\t2\n")
	if err := p.sink.Forget(t.Context(), p.ingest.UserKey("ada")); err != nil {
		t.Fatal(err)
	}
	p.await("SELECT (SELECT groupArray(play_id) FROM plays), (SELECT groupArray(toString(play_id)) FROM play_events), (SELECT groupArray(sid) FROM cmcd_events)",
		fmt.Sprintf("['%[1]s']\t['%[1]s']\t['%[1]s']\n", eve))
}

// TestMessages: a message comes back as it was, and nothing that is read makes the reader fail otherwise than by its error.
func TestMessages(t *testing.T) {
	e := event(ulid.Make().String(), api.EventStart, time.Now().UTC().Truncate(time.Millisecond), 5)
	e.Context = &api.PlayContext{Type: "album", ID: "x"}
	in := []plays.Stamped{{Event: e, UserKey: "k", TrackID: "t", Version: "v", Title: "ü", Plan: api.PlanFree, ReceivedAt: e.At, SkewMS: -5, Country: "DE"}, {Event: event("p", "end", e.At, 0), ReceivedAt: e.At}}
	out, err := plays.Decode(plays.Encode(in))
	if d := cmp.Diff(in, out); d != "" || err != nil {
		t.Error(d, err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(plays.Encode([]plays.Stamped{{Event: api.Event{ID: "x", At: time.Unix(1, 0)}}}))
	f.Add([]byte(`{"event_id":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		events, err := plays.Decode(b)
		if err == nil && len(b) > 0 && b[0] == 1 {
			if again, err := plays.Decode(plays.Encode(events)); err != nil || len(again) != len(events) {
				t.Error(err)
			}
		}
	})
}
