package edge

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"iter"
	"log/slog"
	"math/rand/v2"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestModelIsTheCache asks a Model and the real tiers (Memory, Coalesce's order of looking, Disk) for the same blocks in the same
// order: each answer must come from the same tier.
func TestModelIsTheCache(t *testing.T) {
	const size, objects = 5*BlockSize - 1000, 60
	for _, onDisk := range []int64{0, 40 * BlockSize} {
		memory := NewMemory(16 * BlockSize)
		var below Source = sourceFunc(func(_ context.Context, w Want) iter.Seq2[Piece, error] {
			return func(yield func(Piece, error) bool) {
				for n := w.First; n <= w.Last; n++ {
					if !yield(Piece{n, memory.Alloc(blockLen(w.Meta.Size, n)), TierOrigin}, nil) {
						return
					}
				}
			}
		})
		var disk *Disk
		reg := prometheus.NewRegistry()
		if onDisk > 0 {
			var err error
			if disk, err = openDisk(t.TempDir(), onDisk, below, memory.Alloc, slog.New(slog.DiscardHandler), reg); err != nil {
				t.Fatal(err)
			}
			defer disk.Close()
			below = disk
		}
		model := NewModel(16*BlockSize, onDisk)
		rng := rand.New(rand.NewPCG(1, 1))
		seen := map[Tier]int{}
		for range 1500 {
			o := int(float64(objects) * rng.Float64() * rng.Float64())
			meta := &Meta{Size: size, Whole: size, Strong: true, ETag: `"x"`}
			sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(o)))
			meta.Object = ObjectID(sum[:16])
			k := BlockKey{meta.Object, uint32(rng.IntN(5))}
			got := model.Ask(k, size)
			want := TierMemory
			if memory.Get(k) == nil {
				for p, err := range below.Fetch(t.Context(), Want{meta, k.Block, k.Block}) {
					if err != nil {
						t.Fatal(err)
					}
					want = p.Tier
					var first func()
					if disk != nil && p.Tier != TierDisk {
						first = func() { disk.Keep(meta, p) }
					}
					memory.PutAnd(k, p.Block, first)
				}
			}
			if disk != nil {
				if err := disk.Sync(); err != nil {
					t.Fatal(err)
				}
			}
			if got == "" {
				got = TierOrigin
			}
			if got != want {
				t.Fatalf("disk %d: object %d block %d: the model says %q, the cache %q", onDisk, o, k.Block, got, want)
			}
			seen[want]++
		}
		if seen[TierMemory] == 0 || seen[TierOrigin] == 0 || onDisk > 0 && seen[TierDisk] == 0 {
			t.Errorf("disk %d: not all tiers were met: %v", onDisk, seen)
		}
	}
}

type sourceFunc func(context.Context, Want) iter.Seq2[Piece, error]

func (f sourceFunc) Fetch(ctx context.Context, w Want) iter.Seq2[Piece, error] { return f(ctx, w) }
