package recommend_test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"segue/controlplane/recommend/model"
)

// BenchmarkServed asks for home feeds and radios of listeners with 200 plays, over SQLite and a model of 100,000 tracks,
// with nothing kept from one to the next. p50 and p99 are wall time; cpu is of the whole process, which does nothing else.
func BenchmarkServed(b *testing.B) {
	w := newWorld(b, "sqlite:"+filepath.Join(b.TempDir(), "db"))
	rng := rand.New(rand.NewPCG(9, 9))
	l := model.NewLog(time.Now(), model.Limits{})
	const tracks = 100_000
	ids := make([]string, tracks)
	for i := range ids {
		ids[i] = fmt.Sprintf("%026d", i)
	}
	all := append(slices.Concat(w.rock, w.jazz), ids...)
	for u := range 20_000 {
		taste := rng.IntN(len(all))
		for range 40 {
			i := (taste + int(rng.ExpFloat64()*300)) % len(all)
			if rng.IntN(3) == 0 {
				i = rng.IntN(120) // the catalogue's own are heard by all
			}
			l.Add(model.Play{User: fmt.Sprint(u), Track: all[i], Country: "DE", Plan: "free", Heard: 1, Last: time.Now()})
		}
	}
	m, err := model.Train(b.Context(), l, nil, model.Config{Trial: -1, Sweeps: 2})
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("%d tracks: %.0f bytes each", m.Tracks, float64(m.Bytes())/float64(m.Tracks))
	w.SetModel(m)
	var people []string
	for i := range 20 {
		u := w.user(fmt.Sprint("bench", i), "DE")
		people = append(people, u)
		for n := range 200 {
			w.exec(`INSERT INTO recommend_signals (user_id, play_id, track_id, heard, at) VALUES ($1, $2, $3, 1, $4)`, u, fmt.Sprint(i, "-", n), all[rng.IntN(len(all))], time.Now().UnixMicro()-int64(n)*3600e6)
		}
		if _, err := w.Home(b.Context(), u); err != nil { // the week's mixes are made once
			b.Fatal(err)
		}
	}
	for name, ask := range map[string]func(u string) error{
		"home":  func(u string) error { _, err := w.Home(b.Context(), u); return err },
		"radio": func(u string) error { _, err := w.Radio(b.Context(), u, w.rock[0], nil, 25); return err },
	} {
		b.Run(name, func(b *testing.B) {
			var took []time.Duration
			before := used()
			for i := 0; b.Loop(); i++ {
				begun := time.Now()
				if err := ask(people[i%len(people)]); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(begun))
			}
			slices.Sort(took)
			b.ReportMetric(float64((used()-before).Microseconds())/float64(len(took))/1000, "cpu-ms/op")
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
}

// used is the processor time of this process.
func used() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
