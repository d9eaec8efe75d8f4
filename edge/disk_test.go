package edge

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// diskOrigin is a Source whose every byte follows from object and place.
type diskOrigin struct{ blocks atomic.Int64 }

func (s *diskOrigin) Fetch(ctx context.Context, w Want) iter.Seq2[Piece, error] {
	return func(yield func(Piece, error) bool) {
		for n := w.First; n <= w.Last; n++ {
			s.blocks.Add(1)
			if !yield(Piece{n, &Block{Bytes: diskBody(w.Meta, n)}, TierOrigin}, nil) {
				return
			}
		}
	}
}

// diskNoise is where all bodies are cut from: each block begins at a place of its own, as good as always.
var diskNoise = func() []byte {
	b := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{}).Read(b)
	return b
}()

func diskBody(m *Meta, n uint32) []byte {
	h := (binary.LittleEndian.Uint64(m.Object[:]) + uint64(n)) * 0x9E3779B97F4A7C15 >> 20
	at := int(h % uint64(len(diskNoise)-BlockSize))
	return diskNoise[at : at+blockLen(m.Size, n)]
}

// diskMeta is the i-th of a set of objects, of the given size.
func diskMeta(i int, size int64) *Meta {
	m := &Meta{Route: &Route{Prefix: "/"}, Key: fmt.Sprint(i), Size: size, Whole: size, Strong: true}
	m.identify("", &purges{})
	return m
}

func diskAlloc(n int) *Block { return &Block{Bytes: make([]byte, n)} }

// logLines counts the lines of a log by level.
type logLines struct {
	slog.Handler
	errors, warnings, infos atomic.Int32
}

func (l *logLines) Enabled(context.Context, slog.Level) bool { return true }
func (l *logLines) Handle(_ context.Context, r slog.Record) error {
	switch r.Level {
	case slog.LevelError:
		l.errors.Add(1)
	case slog.LevelWarn:
		l.warnings.Add(1)
	default:
		l.infos.Add(1)
	}
	return nil
}

func startDisk(t testing.TB, dir string, budget int64, change func(*Disk)) (*Disk, *diskOrigin, *logLines) {
	t.Helper()
	origin, lines := &diskOrigin{}, &logLines{Handler: slog.DiscardHandler}
	d, err := newDisk(dir, budget, origin, diskAlloc, slog.New(lines), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(d)
	}
	d.start()
	t.Cleanup(func() { d.Close() })
	return d, origin, lines
}

// fetchDisk reads a run, checks every byte and returns how many blocks came from the disk.
func fetchDisk(t testing.TB, d *Disk, m *Meta, first, last uint32) (fromDisk int) {
	t.Helper()
	next := first
	for p, err := range d.Fetch(t.Context(), Want{m, first, last}) {
		if err != nil {
			t.Fatal(err)
		}
		if p.N != next || !bytes.Equal(p.Block.Bytes, diskBody(m, p.N)) {
			t.Fatalf("object %s: wrong bytes of block %d, %d was due", m.Key, p.N, next)
		}
		if p.Tier == TierDisk {
			fromDisk++
		}
		next++
	}
	if next != last+1 {
		t.Fatalf("object %s: run ended before block %d", m.Key, next)
	}
	return fromDisk
}

// fillDisk puts whole objects on the disk.
func fillDisk(t testing.TB, d *Disk, ms ...*Meta) {
	t.Helper()
	for _, m := range ms {
		for n := range uint32(blockCount(m.Size)) {
			d.Keep(m, Piece{N: n, Block: &Block{Bytes: diskBody(m, n)}})
			if n%32 == 31 {
				syncDisk(t, d) // the queue has a bound
			}
		}
		syncDisk(t, d)
	}
}

func syncDisk(t testing.TB, d *Disk) {
	t.Helper()
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
}

// diskCount reads a counter or a gauge.
func diskCount(t testing.TB, c prometheus.Collector) float64 {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil || len(families) != 1 || len(families[0].Metric) != 1 {
		t.Fatal(families, err)
	}
	m := families[0].Metric[0]
	return m.GetCounter().GetValue() + m.GetGauge().GetValue() // one of them is absent
}

// checkIndex walks the index and compares it with itself.
func checkIndex(t testing.TB, x *diskIndex) {
	t.Helper()
	held, groups := int64(0), 0
	var newer *diskGroup
	for g := x.head; g != nil; g = g.older {
		if g.newer != newer || x.group(g.object.id, g.number) != g {
			t.Fatal("the line of groups is broken")
		}
		held += g.bytes()
		groups++
		newer = g
	}
	if newer != x.tail || held != x.held || groups != x.groups {
		t.Fatalf("the index says %d bytes in %d groups, they are %d in %d", x.held, x.groups, held, groups)
	}
	for id, o := range x.objects {
		if o.id != id || len(o.groups) == 0 && !o.dying {
			t.Fatal("an object without blocks")
		}
		groups -= len(o.groups)
	}
	if groups != 0 {
		t.Fatal("groups without an object")
	}
}

func TestDiskAdmitsOnSecondMiss(t *testing.T) {
	d, origin, _ := startDisk(t, t.TempDir(), 64<<20, nil)
	m := diskMeta(1, 5*BlockSize+100)
	if got := fetchDisk(t, d, m, 0, 5); got != 0 {
		t.Errorf("%d blocks from an empty disk", got)
	}
	syncDisk(t, d)
	if d.Used() != 0 {
		t.Error("kept at the first miss")
	}
	fetchDisk(t, d, m, 1, 3)
	syncDisk(t, d)
	used := d.Used()
	if got := fetchDisk(t, d, m, 0, 5); got != 3 || used != 3*BlockSize {
		t.Errorf("%d blocks from the disk of %d bytes, want 3", got, used)
	}
	syncDisk(t, d)
	before := origin.blocks.Load()
	if got := fetchDisk(t, d, m, 0, 5); got != 6 || origin.blocks.Load() != before || d.Used() != m.Size {
		t.Errorf("%d blocks from the disk of %d bytes, want all", got, d.Used())
	}
	if got := d.Objects(); len(got) != 1 || got[0].ID != m.Object || got[0].Size != m.Size || got[0].Held != m.Size || got[0].Blocks != 6 || time.Since(got[0].Used) > time.Minute {
		t.Errorf("listed as %+v", got)
	}
}

func TestDiskRestart(t *testing.T) {
	dir := t.TempDir()
	d, _, _ := startDisk(t, dir, 64<<20, nil)
	ms := []*Meta{diskMeta(1, 40*BlockSize), diskMeta(2, 1), diskMeta(3, 2*BlockSize+1)}
	fillDisk(t, d, ms...)
	d.PutMeta("name", []byte("record"))
	d.Remove(ms[2].Object)
	syncDisk(t, d)
	listed, err := ReadDiskIndex(dir) // beside the running tier
	if err != nil || len(listed) != 2 {
		t.Errorf("listed %v, %v", listed, err)
	}
	killed := t.TempDir() // what a killed process leaves: it said nothing more
	if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if fetchDisk(t, d, ms[1], 0, 0) != 0 {
		t.Error("a closed tier serves")
	}
	for _, dir := range []string{dir, killed} {
		d, origin, lines := startDisk(t, dir, 64<<20, nil)
		if got := fetchDisk(t, d, ms[0], 0, 39); got != 40 || origin.blocks.Load() != 0 {
			t.Errorf("%d blocks after a restart", got)
		}
		if fetchDisk(t, d, ms[1], 0, 0) != 1 || fetchDisk(t, d, ms[2], 0, 2) != 0 {
			t.Error("a block is lost, or one came back")
		}
		if record, ok := d.GetMeta("name"); !ok || string(record) != "record" {
			t.Error("the meta is lost")
		}
		if lines.errors.Load()+lines.warnings.Load() > 0 {
			t.Error("a restart is worth no complaint")
		}
		d.mu.Lock()
		checkIndex(t, d.index)
		d.mu.Unlock()
	}
}

// TestDiskModel does things at random and compares with the truth: every byte, and the budget.
func TestDiskModel(t *testing.T) {
	for seed := range uint64(6) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		dir := t.TempDir()
		budget := int64(BlockSize) * (1 + rnd.Int64N(100))
		whole := seed%3 == 2 // as on a file system that punches no holes
		open := func() *Disk {
			d, _, _ := startDisk(t, dir, budget, func(d *Disk) { d.whole.Store(whole) })
			return d
		}
		var ms []*Meta
		for i := range 12 {
			ms = append(ms, diskMeta(i, 1+rnd.Int64N(int64(1+rnd.IntN(40))*BlockSize)))
		}
		metas := map[string]string{}
		d := open()
		fromDisk := 0
		for step := range 300 {
			m := ms[min(rnd.IntN(12), rnd.IntN(12))]
			last := uint32(blockCount(m.Size) - 1)
			name := m.Key
			switch op := rnd.IntN(100); {
			case op < 70:
				first := rnd.Uint32N(last + 1)
				fromDisk += fetchDisk(t, d, m, first, first+rnd.Uint32N(last-first+1))
			case op < 80:
				record := fmt.Sprint("record ", step)
				metas[name] = record
				d.PutMeta(name, []byte(record))
			case op < 84:
				delete(metas, name)
				d.DeleteMeta(name)
			case op < 90:
				d.Remove(m.Object)
			case op < 94:
				syncDisk(t, d)
			case op < 97: // the process ends
				if err := d.Close(); err != nil {
					t.Fatal(err)
				}
				d = open()
			default: // the process is killed: the folder is as it is now
				syncDisk(t, d)
				other := t.TempDir()
				if err := os.CopyFS(other, os.DirFS(dir)); err != nil {
					t.Fatal(err)
				}
				d.Close()
				dir = other
				d = open()
			}
			if record, ok := d.GetMeta(name); ok != (metas[name] != "") || string(record) != metas[name] {
				t.Fatalf("seed %d step %d: meta %q is %q, want %q", seed, step, name, record, metas[name])
			}
			if used := d.Used(); used > budget {
				t.Fatalf("seed %d: %d bytes on a disk of %d", seed, used, budget)
			}
		}
		syncDisk(t, d)
		d.mu.Lock()
		checkIndex(t, d.index)
		d.mu.Unlock()
		if budget > 30*BlockSize && fromDisk < 100 {
			t.Errorf("seed %d: only %d blocks came from the disk", seed, fromDisk)
		}
		d.Close()
		checkSpace(t, dir, budget)
	}
}

// checkSpace compares what the files take with the budget.
func checkSpace(t *testing.T, dir string, budget int64) {
	t.Helper()
	taken := int64(0)
	paths, err := filepath.Glob(dir + "/*/*" + dataSuffix)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		n, err := allocated(path)
		if err != nil {
			t.Fatal(err)
		}
		taken += n
	}
	// Damaged and half-written blocks may take space that nobody counts, until they are swept.
	if taken > budget+budget/4+int64(len(paths))*8192+sweepSlack {
		t.Errorf("%d files take %d bytes, the budget is %d", len(paths), taken, budget)
	}
}

func TestDiskEvicts(t *testing.T) {
	dir := t.TempDir()
	d, _, _ := startDisk(t, dir, 40*BlockSize, nil)
	hot := diskMeta(0, 10*BlockSize)
	fillDisk(t, d, hot)
	for i := range 50 { // a scan that was admitted somehow
		if got := fetchDisk(t, d, hot, 0, 9); got != 10 {
			t.Fatalf("after %d others the hot object has %d blocks", i, got)
		}
		fillDisk(t, d, diskMeta(100+i, 5*BlockSize))
	}
	big := diskMeta(1, 200*BlockSize) // larger than the disk: it keeps some of it
	fillDisk(t, d, big)
	if used := d.Used(); used > 40*BlockSize || used < 20*BlockSize {
		t.Errorf("%d blocks are held", used/BlockSize)
	}
	if diskCount(t, d.metrics.evicted) == 0 {
		t.Error("evictions are not counted")
	}
	fetchDisk(t, d, big, 0, 199)
	d.Close()
	checkSpace(t, dir, 40*BlockSize)
}

func TestDiskSweepsOrphans(t *testing.T) {
	dir := t.TempDir()
	d, _, _ := startDisk(t, dir, 64<<20, nil)
	known, orphan := diskMeta(1, 40*BlockSize), diskMeta(2, BlockSize)
	fillDisk(t, d, orphan)
	syncDisk(t, d)
	d.Close()
	os.Remove(filepath.Join(dir, indexName))
	foreign := filepath.Join(filepath.Dir(d.path(orphan.Object)), "README")
	os.WriteFile(foreign, []byte("not ours"), 0o644)

	d, _, _ = startDisk(t, dir, 64<<20, nil)
	fillDisk(t, d, known)
	d.Close()
	if _, err := os.Stat(d.path(orphan.Object)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the orphan is there: %v", err)
	}
	if _, err := os.Stat(foreign); err != nil {
		t.Error("a foreign file was removed")
	}
}

func TestDiskLock(t *testing.T) {
	dir := t.TempDir()
	d, _, _ := startDisk(t, dir, 64<<20, nil)
	_, err := openDisk(dir, 64<<20, &diskOrigin{}, diskAlloc, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if !errors.Is(err, errDiskInUse) || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), dir) {
		t.Errorf("a second opening: %v", err)
	}
	d.Close()
	if d, err = openDisk(dir, 64<<20, &diskOrigin{}, diskAlloc, slog.New(slog.DiscardHandler), prometheus.NewRegistry()); err != nil {
		t.Fatal(err)
	}
	d.Close()
}

// TestDiskTogether lets everything happen at once, for the race detector.
func TestDiskTogether(t *testing.T) {
	d, _, _ := startDisk(t, t.TempDir(), 60*BlockSize, nil)
	var wg sync.WaitGroup
	for worker := range 4 {
		rnd := rand.New(rand.NewPCG(uint64(worker), 9))
		wg.Go(func() {
			for range 150 {
				m := diskMeta(rnd.IntN(10), 20*BlockSize)
				last := uint32(blockCount(m.Size) - 1)
				first := rnd.Uint32N(last + 1)
				next := first
				for p, err := range d.Fetch(context.Background(), Want{m, first, last}) {
					if err != nil || p.N != next || !bytes.Equal(p.Block.Bytes, diskBody(m, p.N)) {
						t.Errorf("wrong bytes, or %v", err)
						return
					}
					next++
				}
				d.PutMeta(m.Key, bytes.Repeat([]byte(m.Key), 100))
				if record, ok := d.GetMeta(fmt.Sprint(rnd.IntN(10))); ok && len(record) == 0 {
					t.Error("an empty meta")
				}
				switch rnd.IntN(20) {
				case 0:
					d.Remove(m.Object)
				case 1:
					d.Objects()
				case 2:
					d.shrink()
				case 3:
					d.DeleteMeta(m.Key)
				case 4:
					d.Sync()
				}
			}
		})
	}
	wg.Wait()
	syncDisk(t, d)
	d.mu.Lock()
	checkIndex(t, d.index)
	d.mu.Unlock()
	if got := diskCount(t, d.metrics.faults.WithLabelValues(opChecksum)); got != 0 {
		t.Errorf("%v blocks did not match: readers and evictions got in each other's way", got)
	}
}

func TestDoorkeeper(t *testing.T) {
	d := newDoorkeeper(0)
	k := func(i int) BlockKey { return BlockKey{diskMeta(i, 1).Object, uint32(i)} }
	if d.again(k(1)) || !d.again(k(1)) || d.again(k(1)) {
		t.Error("want no, yes, no")
	}
	wrong := 0
	for i := range 100_000 {
		if d.again(k(i + 10)) {
			wrong++
		}
	}
	if wrong > 0 {
		t.Errorf("%d of 100,000 first misses look like second ones", wrong)
	}
	remembered := 0
	for i := range 1000 {
		if d.again(k(100_009 - i)) {
			remembered++
		}
	}
	if remembered < 500 {
		t.Errorf("%d of the last 1000 are remembered, by a table of 1024", remembered)
	}
}

func TestOpenFilesAreBounded(t *testing.T) {
	dir := t.TempDir()
	c := newOpenFiles(func(id ObjectID) string { return filepath.Join(dir, fmt.Sprintf("%x", id[:2])) })
	id := func(i int) ObjectID { return ObjectID{byte(i >> 8), byte(i)} }
	for i := range 2 * maxOpenFiles {
		if err := os.WriteFile(c.path(id(i)), []byte{byte(i)}, 0o644); err != nil {
			t.Fatal(err)
		}
		f, err := c.get(id(i))
		if err != nil {
			t.Fatal(err)
		}
		c.put(f)
	}
	if len(c.files) != maxOpenFiles || c.line.Len() != maxOpenFiles {
		t.Errorf("%d files are open", len(c.files))
	}
	held, err := c.get(id(2*maxOpenFiles - 1))
	if err != nil {
		t.Fatal(err)
	}
	c.closeAll()
	b := make([]byte, 1)
	if _, err := held.ReadAt(b, 0); err != nil || b[0] != byte((2*maxOpenFiles-1)%256) {
		t.Errorf("a file in use was closed: %v", err)
	}
	c.put(held)
	if _, err := held.ReadAt(b, 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a file nobody has is open: %v", err)
	}
}

// FuzzDiskIndex reads any bytes as an index: it must be consistent, and the same after it was written and read again.
func FuzzDiskIndex(f *testing.F) {
	x := &diskIndex{objects: map[ObjectID]*diskObject{}}
	b := []byte(indexMagic)
	for i := range 3 {
		g := x.add(diskMeta(i, int64(i+1)*5*BlockSize+1).Object, int64(i+1)*5*BlockSize+1, 0)
		x.setPresent(g, 0b10011)
		b = g.appendRecord(b)
	}
	f.Add(b)
	f.Add(b[:len(b)-5])
	f.Add([]byte(indexMagic))
	f.Add([]byte("something else"))
	f.Fuzz(func(t *testing.T, b []byte) {
		x := &diskIndex{objects: map[ObjectID]*diskObject{}}
		if _, _, err := readIndex(bytes.NewReader(b), x); err != nil {
			t.Fatal(err)
		}
		checkIndex(t, x)
		// A fuzzer does not guess checksums: parse each record as if it had the right one.
		for at := len(indexMagic); at+diskRecordLen <= len(b); at += diskRecordLen {
			if r, err := parseRecord(sealRecord(b[at : at+diskRecordLen])); err == nil {
				x.apply(&r)
			}
		}
		checkIndex(t, x)
		again := []byte(indexMagic)
		for g := x.tail; g != nil; g = g.newer {
			again = g.appendRecord(again)
		}
		y := &diskIndex{objects: map[ObjectID]*diskObject{}}
		if records, damaged, err := readIndex(bytes.NewReader(again), y); err != nil || damaged > 0 || records != x.groups {
			t.Fatalf("%d records of %d, %d damaged, %v", records, x.groups, damaged, err)
		}
		checkIndex(t, y)
		if x.held != y.held || x.groups != y.groups {
			t.Fatalf("%d bytes in %d groups became %d in %d", x.held, x.groups, y.held, y.groups)
		}
		for x.groups > 0 {
			g := x.victim()
			if g == nil {
				t.Fatal("no victim though nothing is busy")
			}
			x.remove(g)
		}
		checkIndex(t, x)
	})
}
