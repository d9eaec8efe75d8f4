package edge

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	killedDir    = "SEGUE_TEST_KILLED_DIR" // the folder that the child writes to
	killedBudget = 24 << 20
)

func killedObjects() (ms []*Meta) {
	for i := range 30 {
		ms = append(ms, diskMeta(i, int64(i%12+1)*BlockSize+int64(i*7919)))
	}
	return ms
}

// TestDiskKilledChild is the process that TestDiskKilled kills: it writes, reads, evicts and deletes until then.
func TestDiskKilledChild(t *testing.T) {
	dir := os.Getenv(killedDir)
	if dir == "" {
		return // nothing by itself: the parent is the test
	}
	d, err := openDisk(dir, killedBudget, &diskOrigin{}, diskAlloc, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ms := killedObjects()
	for step := 0; ; step++ {
		m := ms[rand.IntN(len(ms))]
		for n := range uint32(blockCount(m.Size)) {
			d.Keep(m, Piece{N: n, Block: &Block{Bytes: diskBody(m, n)}})
		}
		d.PutMeta(m.Key, fmt.Appendf(nil, "%s is at step %d", m.Key, step))
		other := ms[rand.IntN(len(ms))]
		fetchDisk(t, d, other, 0, uint32(blockCount(other.Size)-1))
		switch rand.IntN(20) {
		case 0:
			d.Remove(other.Object)
			d.DeleteMeta(other.Key)
		case 1:
			syncDisk(t, d)
		case 2:
			d.mu.Lock()
			d.stale = true // the index is written anew: killed in the middle of that too
			d.mu.Unlock()
		}
		os.Stdout.WriteString(".\n")
	}
}

// TestDiskKilled kills a writing process with SIGKILL at many moments. Each time the folder opens, every byte is right,
// and most of what was there is there.
func TestDiskKilled(t *testing.T) {
	dir := t.TempDir()
	fromDisk, metas, complaints := 0, 0, int32(0)
	rounds := 25
	if testing.Short() {
		rounds = 5
	}
	for round := range rounds {
		child := exec.Command(os.Args[0], "-test.run=^TestDiskKilledChild$")
		child.Env = append(os.Environ(), killedDir+"="+dir)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for range 1 + rand.IntN(60) {
			if !lines.Scan() || lines.Text() != "." {
				t.Fatalf("round %d: the child said %q", round, lines.Text())
			}
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() { // until it is dead
			if lines.Text() != "." {
				t.Errorf("round %d: the child said %q", round, lines.Text())
			}
		}
		var exit *exec.ExitError
		if err := child.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("round %d: the child ended by itself: %v", round, err)
		}

		d, _, said := startDisk(t, dir, killedBudget, nil)
		d.mu.Lock()
		checkIndex(t, d.index)
		d.mu.Unlock()
		for _, m := range killedObjects() {
			fromDisk += fetchDisk(t, d, m, 0, uint32(blockCount(m.Size)-1))
			if record, ok := d.GetMeta(m.Key); ok {
				metas++
				if !strings.HasPrefix(string(record), m.Key+" is at step ") {
					t.Errorf("round %d: meta of %s is %q", round, m.Key, record)
				}
			}
		}
		complaints += said.errors.Load()
		if damaged := diskCount(t, d.metrics.faults.WithLabelValues(opChecksum)); damaged > 4*groupBlocks {
			t.Errorf("round %d: %v blocks are not what was written", round, damaged)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		checkSpace(t, dir, killedBudget)
	}
	t.Logf("%d rounds: %d blocks and %d metas were there", rounds, fromDisk, metas)
	if fromDisk < rounds*20 || metas < rounds*5 || complaints > 0 {
		t.Errorf("%d rounds: %d blocks and %d metas were there, %d complaints", rounds, fromDisk, metas, complaints)
	}
}

// fullDir is a folder with room for few bytes, and a way to give it more: a small file system of its own, or where
// none can be mounted a limit on the size of files in this process.
func fullDir(t *testing.T, room int64) (dir string, widen func()) {
	dir = t.TempDir()
	options := func(n int64) string { return fmt.Sprintf("size=%d", n) }
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options(room)); err == nil {
		t.Cleanup(func() {
			if err := syscall.Unmount(dir, 0); err != nil {
				t.Error(err)
			}
		})
		return dir, func() {
			if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, options(16*room)); err != nil {
				t.Fatal(err)
			}
		}
	}
	signal.Ignore(syscall.SIGXFSZ)
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	widen = func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(widen)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: uint64(room / 4), Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	return dir, widen
}

// TestDiskFull runs into the end of a real file system, with the free-space floor out of the way.
func TestDiskFull(t *testing.T) {
	dir, widen := fullDir(t, 4<<20)
	d, _, said := startDisk(t, dir, 1<<30, func(d *Disk) {
		d.space = func(string) (total, free int64, err error) { return 0, 1 << 40, nil }
	})
	m := diskMeta(1, 30*BlockSize) // 7.5 MiB
	for range 4 {
		fetchDisk(t, d, m, 0, 29)
		_ = d.Sync() // fails: the disk does
	}
	if said.errors.Load() != 1 || diskCount(t, d.metrics.failing.WithLabelValues(opWrite)) != 1 {
		t.Errorf("%d lines about a full disk", said.errors.Load())
	}
	before := fetchDisk(t, d, m, 0, 29)
	widen()
	d.mu.Lock() // the minute is over
	d.writes.retry, d.indexes.retry = d.writes.retry.Add(-retryAfter), d.indexes.retry.Add(-retryAfter)
	d.mu.Unlock()
	for range 2 {
		fetchDisk(t, d, m, 0, 29)
		syncDisk(t, d)
	}
	if got := fetchDisk(t, d, m, 0, 29); got != 30 || got <= before || said.infos.Load() != 1 {
		t.Errorf("%d blocks when there is room again, %d before; %d lines", got, before, said.infos.Load())
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d, _, _ = startDisk(t, dir, 1<<30, nil)
	if got := fetchDisk(t, d, m, 0, 29); got != 30 {
		t.Errorf("%d blocks after a restart", got)
	}
	d.Close()
}

// TestDiskKeepsSpaceFree is the same file system with the floor: writes never fail, for older blocks leave.
func TestDiskKeepsSpaceFree(t *testing.T) {
	dir, _ := fullDir(t, 8<<20)
	d, _, said := startDisk(t, dir, 1<<30, nil)
	for i := range 12 {
		m := diskMeta(i, 5*BlockSize)
		fillDisk(t, d, m)
	}
	total, free, err := diskSpace(dir)
	if err != nil {
		t.Fatal(err)
	}
	if total < 64<<20 && (said.errors.Load() != 0 || free < total/25 || d.Used() < total/2) {
		t.Errorf("%d of %d bytes free, %d used, %d lines", free, total, d.Used(), said.errors.Load())
	}
	d.Close()
}

// TestDiskReadOnly restarts on a disk that went read-only: what is there is served, nothing is said twice.
func TestDiskReadOnly(t *testing.T) {
	dir := t.TempDir()
	d, _, _ := startDisk(t, dir, 64<<20, nil)
	m := diskMeta(1, 4*BlockSize)
	fillDisk(t, d, m)
	d.PutMeta("a", []byte("record"))
	d.Close()
	if err := syscall.Mount(dir, dir, "", syscall.MS_BIND, ""); err == nil {
		if err := syscall.Mount("", dir, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { syscall.Unmount(dir, 0) })
	} else if err := os.Chmod(filepath.Join(dir, indexName), 0o444); err != nil { // not root: permissions do
		t.Fatal(err)
	}
	d, origin, said := startDisk(t, dir, 64<<20, nil)
	if got := fetchDisk(t, d, m, 0, 3); got != 4 || origin.blocks.Load() != 0 {
		t.Errorf("%d blocks from a read-only disk", got)
	}
	if record, ok := d.GetMeta("a"); !ok || string(record) != "record" {
		t.Error("the meta is lost")
	}
	d.PutMeta("b", []byte("new"))
	other := diskMeta(2, 10*BlockSize)
	for range 3 {
		fetchDisk(t, d, other, 0, 9)
		_ = d.Sync()
	}
	if said.errors.Load() > 1 {
		t.Errorf("%d lines", said.errors.Load())
	}
	if _, ok := d.GetMeta("a"); !ok {
		t.Error("the meta was lost later")
	}
	d.Close()
}
