package edge

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"segue/controlplane/api/edgelog"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

func openSpool(t testing.TB, dir string, budget int64) *Spool {
	t.Helper()
	s, err := OpenSpool(dir, budget, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// put writes n records whose keys count from first.
func put(t testing.TB, s *Spool, first, n int) {
	t.Helper()
	for n > 0 {
		var batch []*Record
		for range min(n, 100) {
			batch = append(batch, &Record{Time: time.Now(), Client: netip.MustParseAddr("192.0.2.77"), Method: "GET", Key: fmt.Sprint("key/", first), Status: 200, Bytes: 5, UserAgent: "Player/1"})
			first++
		}
		n -= len(batch)
		if err := s.Take(batch); err != nil {
			t.Fatal(err)
		}
	}
}

// drain ships everything, and returns how often each key and each number came.
func drain(t testing.TB, s *Spool, atMost int) (keys map[string]int, seqs map[string]int) {
	t.Helper()
	keys, seqs = map[string]int{}, map[string]int{}
	for {
		ship, ok, err := s.Ship(atMost)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return keys, seqs
		}
		if len(ship.Frames) > max(atMost, edgelog.MaxFrame) {
			t.Errorf("a shipment of %d bytes", len(ship.Frames))
		}
		read(t, ship, keys, seqs)
		if err := s.Taken(ship); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t testing.TB, ship Shipment, keys, seqs map[string]int) {
	t.Helper()
	rows := 0
	for rest := ship.Frames; len(rest) > 0; {
		h, frame, after, err := edgelog.Cut(rest)
		if err != nil {
			t.Fatal(err)
		}
		rest = after
		if err := edgelog.Rows(h, frame, func(seq uint64, r *edgelog.Row) {
			keys[r.Key]++
			seqs[fmt.Sprint(h.Log, seq)]++
			rows++
			if r.Client != "192.0.2.0/24" {
				t.Errorf("client %q leaves the edge", r.Client)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	if rows != ship.Rows {
		t.Errorf("%d rows in a shipment that says %d", rows, ship.Rows)
	}
}

func valueOf(t testing.TB, c prometheus.Counter) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

func each(t testing.TB, got map[string]int, n int) {
	t.Helper()
	for i := range n {
		if got[fmt.Sprint("key/", i)] != 1 {
			t.Errorf("record %d came %d times", i, got[fmt.Sprint("key/", i)])
		}
	}
	if len(got) != n {
		t.Errorf("%d records came of %d", len(got), n)
	}
}

// TestSpool: what is not taken comes again, also in the next life after a kill, and what was taken does not.
func TestSpool(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, dir, 64<<20)
	put(t, s, 0, 3000)
	first, ok, err := s.Ship(1)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if again, _, _ := s.Ship(1); string(again.Frames) != string(first.Frames) {
		t.Error("what is not taken does not come again")
	}
	keys, seqs := map[string]int{}, map[string]int{}
	read(t, first, keys, seqs)
	if err := s.Taken(first); err != nil {
		t.Fatal(err)
	}
	// Killed here: nothing is closed.
	s = openSpool(t, dir, 64<<20)
	put(t, s, 3000, 1000)
	k, q := drain(t, s, 100_000)
	for key, n := range k {
		keys[key] += n
	}
	for seq, n := range q {
		seqs[seq] += n
	}
	each(t, keys, 4000)
	if len(seqs) != 4000 {
		t.Errorf("%d numbers for 4000 rows", len(seqs))
	}
	if _, rows := s.waiting(); rows != 0 {
		t.Errorf("%d rows wait", rows)
	}
	put(t, s, 0, 10)
	if k, _ := drain(t, s, 1<<20); len(k) != 10 {
		t.Errorf("%d rows after everything was taken", len(k))
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*.seg")); len(files) > 1 {
		t.Errorf("%d segments are left", len(files))
	}
}

// TestSpoolTornEnd: a frame that a crash cut off costs itself and nothing else.
func TestSpoolTornEnd(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, dir, 64<<20)
	put(t, s, 0, 200)
	files, _ := filepath.Glob(filepath.Join(dir, "*.seg"))
	info, err := os.Stat(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(files[0], info.Size()-3); err != nil {
		t.Fatal(err)
	}
	s = openSpool(t, dir, 64<<20)
	put(t, s, 100, 50)
	k, _ := drain(t, s, 1<<20)
	each(t, k, 150)
	if n := valueOf(t, s.torn); n != 1 {
		t.Errorf("%v torn segments counted", n)
	}
}

// TestSpoolBudget: the oldest rows go when the disk budget is spent, every one is counted, and the rest comes whole.
func TestSpoolBudget(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, dir, spoolLeast)
	const rows = 300_000
	put(t, s, 0, rows)
	var onDisk int64
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	for _, f := range files {
		if info, err := os.Stat(f); err == nil {
			onDisk += info.Size()
		}
	}
	if onDisk > spoolLeast+edgelog.MaxFrame {
		t.Errorf("%d bytes on disk with a budget of %d", onDisk, spoolLeast)
	}
	keys, _ := drain(t, s, 1<<20)
	dropped := int(valueOf(t, s.dropped))
	if dropped == 0 || len(keys)+dropped != rows {
		t.Errorf("%d rows came and %d were dropped of %d", len(keys), dropped, rows)
	}
	for i := dropped; i < rows; i++ {
		if keys[fmt.Sprint("key/", i)] != 1 {
			t.Fatalf("record %d came %d times: the oldest should go", i, keys[fmt.Sprint("key/", i)])
		}
	}
}

// TestSpoolManyHands: records come while others are shipped.
func TestSpoolManyHands(t *testing.T) {
	s := openSpool(t, t.TempDir(), 64<<20)
	done := make(chan struct{})
	go func() { defer close(done); put(t, s, 0, 50_000) }()
	keys := map[string]int{}
	for busy := true; busy; {
		select {
		case <-done:
			busy = false
		default:
		}
		k, _ := drain(t, s, 200_000)
		for key, n := range k {
			keys[key] += n
		}
	}
	each(t, keys, 50_000)
}

func BenchmarkSpool(b *testing.B) {
	s := openSpool(b, b.TempDir(), 1<<30)
	var batch []*Record
	for range 512 {
		batch = append(batch, sample())
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Take(batch); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/512, "ns/row")
}
