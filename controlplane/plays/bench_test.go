package plays_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/plays"
	"segue/internal/eventlog"
	"segue/internal/testenv"
	"segue/media"

	"github.com/oklog/ulid/v2"
)

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// engineCPU is the time that the engine's process has used, from /proc: it is no child of ours that has ended.
func engineCPU(b *testing.B, dir string) time.Duration {
	b.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		b.Fatal(err)
	}
	for _, e := range entries {
		cmd, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err != nil || !strings.Contains(string(cmd), "\x00"+dir+"\x00") {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		user, _ := strconv.Atoi(f[11])
		system, _ := strconv.Atoi(f[12])
		return time.Duration(user+system) * 10 * time.Millisecond
	}
	return 0
}

// BenchmarkPipeline takes batches of events as requests bring them (JSON) through the ingest, the embedded log and the sink into the embedded
// engine, all on this machine, as fast as they go: b.N batches of 200. It ends when the last row can be read.
// events/s is wall time; the CPU times per event, of this process and of the engine, are also true on a machine that is busy.
func BenchmarkPipeline(b *testing.B) {
	ch := testenv.StartClickHouse(b)
	log, err := eventlog.Open(b.Context(), eventlog.Config{Dir: b.TempDir()}, plays.Streams()...)
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	known := map[string]plays.Play{}
	var ids []string
	now := time.Now().UTC()
	for i := range 20_000 {
		id := ulid.MustNew(ulid.Timestamp(now.Add(-time.Duration(i%3600)*time.Second)), ulid.DefaultEntropy()).String()
		known[id] = plays.Play{UserID: fmt.Sprint("user", i%5000), Plan: api.PlanPremium, Version: media.Version(strings.Repeat("v", 26)), CreatedAt: now.Add(-time.Hour),
			Track: api.Track{ID: media.TrackID(fmt.Sprintf("%026d", i%2000)), Title: fmt.Sprint("A song with a name ", i%2000), DurationMS: 200_000, Album: api.AlbumRef{ID: media.AlbumID(fmt.Sprintf("%026d", i%300)), Title: "An album"},
				Artists: []api.ArtistRef{{ID: media.ArtistID(fmt.Sprintf("%026d", i%200)), Name: "Somebody who sings"}}, Genres: []string{"Jazz"}}}
		ids = append(ids, id)
	}
	ingest := plays.NewIngest(log.Append, []byte("0123456789abcdef"), func(_ context.Context, id string) (plays.Play, error) { return known[id], nil })
	ingest.Region = func(string) string { return "eu" }
	sink, err := plays.NewSink(ch.URL(), plays.Schema{Retention: plays.DefaultRetention}, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	const size = 200
	types := []string{api.EventStart, api.EventProgress, api.EventProgress, api.EventProgress, api.EventProgress, api.EventEnd}
	var bodies [][]byte
	for n := range 50 {
		var events []api.Event
		for i := range size {
			k := (n*size + i) % len(ids)
			events = append(events, api.Event{ID: "00000000000000000000000000", PlayID: ids[k], Type: types[i%6], At: now, PositionMS: 30_000 * int64(i%6), PlayedMS: 30_000 * int64(i%6), Rendition: "aac_160", Edge: "eu-1", StartupMS: 120, Player: "segue-web/1"})
		}
		body, err := json.Marshal(events)
		if err != nil {
			b.Fatal(err)
		}
		bodies = append(bodies, body)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- sink.Run(ctx, log) }()
	defer func() { cancel(); <-done }()
	for id, p := range known { // all of one account: the ingest asks nobody else
		p.UserID = "user"
		known[id] = p
	}

	// How late rows are, sampled while the load runs.
	var late []time.Duration
	cpu, engine, rows := cpuTime(), engineCPU(b, ch.Dir), sink.Rows.Load()
	b.ResetTimer()
	var next atomic.Int64
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				var events []api.Event
				if err := json.Unmarshal(bodies[int(n)%len(bodies)], &events); err != nil {
					b.Error(err)
					return
				}
				for i := range events {
					events[i].ID = ulid.Make().String()
				}
				if out, err := ingest.Take(ctx, plays.From{UserID: "user", Country: "DE", DeviceType: "web"}, events); err != nil || out.Accepted != size {
					b.Error(out, err)
					return
				}
				for n-sink.Rows.Load()/size > 2000 && ctx.Err() == nil { // the log would only grow
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	workers.Wait()
	for sink.Rows.Load()-rows < int64(b.N)*size && !b.Failed() {
		time.Sleep(5 * time.Millisecond)
	}
	elapsed := b.Elapsed()
	b.StopTimer()
	total := float64(b.N * size)
	b.ReportMetric(total/elapsed.Seconds(), "events/s")
	b.ReportMetric(float64((cpuTime()-cpu).Nanoseconds())/total, "cpu-ns/event")
	b.ReportMetric(float64((engineCPU(b, ch.Dir)-engine).Nanoseconds())/total, "engine-ns/event")

	for range 20 { // with nothing else to do
		begun := time.Now()
		e := api.Event{ID: ulid.Make().String(), PlayID: ids[0], Type: api.EventProgress, At: now}
		before := sink.Rows.Load()
		if _, err := ingest.Take(ctx, plays.From{UserID: "user"}, []api.Event{e}); err != nil {
			b.Fatal(err)
		}
		for sink.Rows.Load() == before {
			time.Sleep(time.Millisecond)
		}
		late = append(late, time.Since(begun))
	}
	slices.Sort(late)
	b.ReportMetric(float64(late[18].Milliseconds()), "late-p95-ms")
}

// BenchmarkIngest is one request's events to the log's messages, without JSON and without the log.
func BenchmarkIngest(b *testing.B) {
	id := ulid.Make().String()
	play := plays.Play{UserID: "user", Plan: api.PlanPremium, Version: media.Version(strings.Repeat("v", 26)), CreatedAt: time.Now(), Track: api.Track{ID: media.TrackID(strings.Repeat("T", 26)), Title: "A song with a name"}}
	ingest := plays.NewIngest(func(context.Context, ...eventlog.Message) error { return nil }, []byte("0123456789abcdef"), func(context.Context, string) (plays.Play, error) { return play, nil })
	events := make([]api.Event, 200)
	for i := range events {
		events[i] = api.Event{ID: ulid.Make().String(), PlayID: id, Type: api.EventProgress, At: time.Now(), Rendition: "aac_160", Edge: "eu-1", Player: "segue-web/1"}
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ingest.Take(b.Context(), plays.From{UserID: "user"}, events); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/200, "ns/event")
}
