package edge

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestDiskDamagedBlocks(t *testing.T) {
	dir := t.TempDir()
	d, _, lines := startDisk(t, dir, 64<<20, nil)
	m := diskMeta(1, 8*BlockSize)
	fillDisk(t, d, m)
	f, err := os.OpenFile(d.path(m.Object), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range []int64{0, BlockSize + 77, 8*BlockSize - 1} { // one bit each of blocks 0, 1 and 7
		b := make([]byte, 1)
		f.ReadAt(b, at)
		b[0] ^= 4
		f.WriteAt(b, at)
	}
	if got := fetchDisk(t, d, m, 0, 7); got != 5 {
		t.Errorf("%d good blocks, want 5", got)
	}
	if got := diskCount(t, d.metrics.faults.WithLabelValues(opChecksum)); got != 3 || lines.warnings.Load() != 1 {
		t.Errorf("%v faults in %d lines", got, lines.warnings.Load())
	}
	fetchDisk(t, d, m, 0, 7)
	syncDisk(t, d)
	if got := fetchDisk(t, d, m, 0, 7); got != 8 {
		t.Errorf("%d blocks after healing, want 8", got)
	}
	// Right bytes in a wrong place are damage too.
	b := make([]byte, BlockSize)
	f.ReadAt(b, 2*BlockSize)
	f.WriteAt(b, 3*BlockSize)
	if got := fetchDisk(t, d, m, 3, 3); got != 0 {
		t.Error("a misplaced block was served")
	}
	if err := f.Truncate(5 * BlockSize); err != nil {
		t.Fatal(err)
	}
	if got := fetchDisk(t, d, m, 4, 7); got != 1 {
		t.Errorf("%d blocks of a cut file", got)
	}
	if err := os.Remove(d.path(m.Object)); err != nil {
		t.Fatal(err)
	}
	d.files.drop(m.Object)
	if got := fetchDisk(t, d, m, 0, 7); got != 0 || lines.errors.Load() != 0 {
		t.Errorf("%d blocks of a file that is gone, %d errors", got, lines.errors.Load())
	}
}

func TestDiskDamagedIndex(t *testing.T) {
	dir := t.TempDir()
	d, _, _ := startDisk(t, dir, 64<<20, nil)
	var ms []*Meta
	for i := range 8 {
		ms = append(ms, diskMeta(i, 3*BlockSize-int64(i)))
	}
	fillDisk(t, d, ms...)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(filepath.Join(dir, indexName))
	if err != nil {
		t.Fatal(err)
	}
	reopen := func(index []byte) (fromDisk int) {
		t.Helper()
		copied := t.TempDir()
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(copied, indexName), index, 0o644); err != nil {
			t.Fatal(err)
		}
		d, _, lines := startDisk(t, copied, 64<<20, nil)
		for _, m := range ms {
			fromDisk += fetchDisk(t, d, m, 0, 2)
		}
		fillDisk(t, d, ms...)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		d, _, _ = startDisk(t, copied, 64<<20, nil) // it healed
		for _, m := range ms {
			if got := fetchDisk(t, d, m, 0, 2); got != 3 {
				t.Fatalf("%d blocks after healing", got)
			}
		}
		d.Close()
		if lines.errors.Load() > 0 {
			t.Error("damage is no error of the disk")
		}
		return fromDisk
	}
	if got := reopen(good); got != 24 {
		t.Errorf("%d blocks of a good index", got)
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 15 {
		bad := bytes.Clone(good)
		bad[rnd.IntN(len(bad))] ^= 1 << rnd.IntN(8)
		reopen(bad)
		reopen(good[:rnd.IntN(len(good))])
	}
	if got := reopen(append(bytes.Clone(good), make([]byte, 10*diskRecordLen)...)); got != 24 { // a power cut
		t.Errorf("%d blocks of an index with zeros after it", got)
	}
	reopen(nil)
}

// TestDiskFails makes writes fail, then lets the minute pass.
func TestDiskFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		broken.Store(true)
		d, _, lines := startDisk(t, t.TempDir(), 64<<20, func(d *Disk) {
			d.writeAt = func(f *os.File, b []byte, at int64) (int, error) {
				if broken.Load() {
					n, _ := f.WriteAt(b[:len(b)/3], at) // torn
					return n, &os.PathError{Op: "write", Path: f.Name(), Err: syscall.ENOSPC}
				}
				return f.WriteAt(b, at)
			}
		})
		m := diskMeta(1, 20*BlockSize)
		for range 5 {
			fetchDisk(t, d, m, 0, 19)
			syncDisk(t, d)
		}
		faults := func() float64 { return diskCount(t, d.metrics.faults.WithLabelValues(opWrite)) }
		failing := func() float64 { return diskCount(t, d.metrics.failing.WithLabelValues(opWrite)) }
		if lines.errors.Load() != 1 || failing() != 1 || faults() > diskWriters || d.Used() != 0 {
			t.Errorf("%d lines, failing %v, %v faults, %d bytes", lines.errors.Load(), failing(), faults(), d.Used())
		}
		time.Sleep(retryAfter) // in the bubble: no time at all
		before := faults()
		for range 2 {
			fetchDisk(t, d, m, 0, 19)
			syncDisk(t, d)
		}
		if faults() == before || lines.errors.Load() != 1 {
			t.Errorf("no other try, or another line: %v faults, %d lines", faults(), lines.errors.Load())
		}
		broken.Store(false)
		time.Sleep(retryAfter)
		for range 2 {
			fetchDisk(t, d, m, 0, 19)
			syncDisk(t, d)
		}
		if got := fetchDisk(t, d, m, 0, 19); got != 20 || failing() != 0 || lines.infos.Load() != 1 {
			t.Errorf("%d blocks after it healed, failing %v, %d lines", got, failing(), lines.infos.Load())
		}
		d.Close()
	})
}

// TestDiskReadFails makes the disk fail to read: a folder cannot be read as a file, whoever asks.
func TestDiskReadFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _, lines := startDisk(t, t.TempDir(), 64<<20, nil)
		m, good := diskMeta(1, 6*BlockSize), diskMeta(2, BlockSize)
		fillDisk(t, d, m, good)
		if err := os.Remove(d.path(m.Object)); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(d.path(m.Object), 0o755); err != nil {
			t.Fatal(err)
		}
		if got := fetchDisk(t, d, m, 0, 5); got != 0 || lines.errors.Load() != 1 {
			t.Errorf("%d blocks, %d lines", got, lines.errors.Load())
		}
		if fetchDisk(t, d, good, 0, 0) != 0 {
			t.Error("a disk that cannot read is still asked")
		}
		time.Sleep(retryAfter)
		if fetchDisk(t, d, good, 0, 0) != 1 || lines.infos.Load() != 1 {
			t.Error("no other try after a minute")
		}
		d.Close()
	})
}

func TestDiskFloor(t *testing.T) {
	var others atomic.Int64 // bytes that others have on the file system
	var d *Disk
	d, _, lines := startDisk(t, t.TempDir(), 100*BlockSize, func(self *Disk) {
		d = self
		d.space = func(string) (total, free int64, err error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			return 100 * BlockSize, 100*BlockSize - others.Load() - d.index.held, nil
		}
	})
	for i := range 20 {
		fillDisk(t, d, diskMeta(i, 6*BlockSize))
	}
	if used := d.Used(); used > 95*BlockSize || used < 80*BlockSize {
		t.Errorf("%d blocks of 100, 5 must be free", used/BlockSize)
	}
	others.Store(50 * BlockSize)
	d.shrink()
	if used := d.Used(); used > 45*BlockSize || used < 30*BlockSize {
		t.Errorf("%d blocks of 100, others have 50", used/BlockSize)
	}
	others.Store(100 * BlockSize)
	d.shrink()
	if d.Used() != 0 || lines.errors.Load() != 0 {
		t.Errorf("%d bytes on a full disk, %d lines", d.Used(), lines.errors.Load())
	}
	d.Keep(diskMeta(1, 1), Piece{Block: &Block{Bytes: []byte{1}}})
	syncDisk(t, d)
	if lines.errors.Load() != 1 || !d.failing(opWrite) {
		t.Errorf("%d lines about a full disk", lines.errors.Load())
	}
}

func TestDiskQueueIsBounded(t *testing.T) {
	gate := make(chan struct{})
	d, _, _ := startDisk(t, t.TempDir(), 1<<30, func(d *Disk) {
		d.writeAt = func(f *os.File, b []byte, at int64) (int, error) {
			<-gate
			return f.WriteAt(b, at)
		}
	})
	block := &Block{Bytes: make([]byte, BlockSize)}
	for i := range 10 {
		m := diskMeta(i, 100*BlockSize)
		for n := range uint32(100) {
			d.Keep(m, Piece{N: n, Block: block}) // does not wait
		}
	}
	if got := diskCount(t, d.metrics.refused.WithLabelValues(refusedQueue)); got < 1000-diskQueue-diskWriters*maxBatch {
		t.Errorf("%v of 1000 blocks were refused by a queue of %d", got, diskQueue)
	}
	close(gate)
	syncDisk(t, d)
}
