package edge

import (
	"bytes"
	"context"
	"iter"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func objectID(n int) (id ObjectID) {
	id[0], id[1], id[2], id[15] = byte(n), byte(n>>8), byte(n>>16), 1
	return id
}

func TestMemoryKeepsWhatIsHit(t *testing.T) {
	m := NewMemory(4 * BlockSize)
	put := func(n int) { m.Put(BlockKey{objectID(n), 0}, m.Alloc(BlockSize)) }
	for n := range 4 {
		put(n)
	}
	m.Get(BlockKey{objectID(0), 0})
	for n := 4; n < 7; n++ {
		put(n)
	}
	for n, want := range []bool{true, false, false, false, true, true, true} {
		if got := m.Get(BlockKey{objectID(n), 0}) != nil; got != want {
			t.Errorf("block %d is there: %v, want %v", n, got, want)
		}
	}
	if got := m.Used(); got != 4*BlockSize {
		t.Errorf("%d bytes held", got)
	}
}

// TestMemoryStaysInBudget churns through many times the budget, with readers that hold blocks for a while, and looks at
// what the process really takes: budget and a fifth, with blocks of all sizes and no block changed under its reader.
func TestMemoryStaysInBudget(t *testing.T) {
	const budget = 64 << 20
	runtime.GC()
	base := resident(t)
	m := NewMemory(budget)
	var peak, heap atomic.Int64
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(7, uint64(w)))
			var held [4]*Block
			var marks [4]byte
			for i := range 500 {
				n := 1 + rng.IntN(BlockSize)
				if i%3 == 0 {
					n = 1 + rng.IntN(8<<10)
				}
				b := m.Alloc(n)
				if b.place == nil {
					heap.Add(1)
				}
				mark := byte(i)
				if b.place != nil && i%5 == 0 {
					b.place.large.Store(fileAfter + 1)
				}
				b.Bytes[0] = mark
				for k := 1; k < n; k *= 2 {
					copy(b.Bytes[k:], b.Bytes[:k])
				}
				m.Put(BlockKey{objectID(w<<16 | i), 0}, b)
				k := i % len(held)
				if old := held[k]; old != nil && (old.Bytes[0] != marks[k] || bytes.Count(old.Bytes, []byte{marks[k]}) != len(old.Bytes)) {
					t.Error("a block changed while it was held")
				}
				held[k], marks[k] = b, mark
				if i%50 == 0 {
					now := resident(t) - base
					for p := peak.Load(); now > p && !peak.CompareAndSwap(p, now); p = peak.Load() {
					}
				}
			}
			runtime.KeepAlive(held)
		})
	}
	wg.Wait()
	t.Logf("peak %d MiB over the start, budget %d MiB, %d blocks in the heap", peak.Load()>>20, budget>>20, heap.Load())
	if limit := int64(budget + budget/5); peak.Load() > limit && !raceEnabled {
		t.Errorf("took %d MiB, limit %d MiB", peak.Load()>>20, limit>>20)
	}
	if m.arena != nil && heap.Load() > 40 {
		t.Errorf("%d of 2000 blocks found no room in the arena", heap.Load())
	}
}

// resident is this process's memory in bytes, memory files included.
func resident(t *testing.T) int64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// fixed is a source of blocks that tells how often it was asked.
type fixed struct {
	m     *Memory
	asked []Want
}

func (f *fixed) Fetch(_ context.Context, w Want) iter.Seq2[Piece, error] {
	f.asked = append(f.asked, w)
	return func(yield func(Piece, error) bool) {
		for n := w.First; n <= w.Last; n++ {
			b := f.m.Alloc(blockLen(w.Meta.Size, n))
			for i := range b.Bytes {
				b.Bytes[i] = byte(n + 1)
			}
			if !yield(Piece{n, b, TierOrigin}, nil) {
				return
			}
		}
	}
}
