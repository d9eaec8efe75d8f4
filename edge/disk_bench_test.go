package edge

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkDiskHit reads blocks that are in the kernel's page cache. The baseline is the pread alone: no index, no
// checksum.
func BenchmarkDiskHit(b *testing.B) {
	for _, size := range []int64{64 << 10, BlockSize} {
		d, _, _ := startDisk(b, b.TempDir(), 1<<30, nil)
		var ms []*Meta
		for i := range 64 {
			ms = append(ms, diskMeta(i, size))
		}
		fillDisk(b, d, ms...)
		body := &Block{Bytes: make([]byte, size)}
		d.alloc = func(n int) *Block { return body } // what it costs to make one is memory's
		b.Run(fmt.Sprintf("%dKiB/tier", size>>10), func(b *testing.B) {
			b.SetBytes(size)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if d.read(ms[i%len(ms)], 0) == nil {
					b.Fatal("a miss")
				}
				i++
			}
		})
		b.Run(fmt.Sprintf("%dKiB/pread", size>>10), func(b *testing.B) {
			var files []*os.File
			for _, m := range ms {
				f, err := os.Open(d.path(m.Object))
				if err != nil {
					b.Fatal(err)
				}
				defer f.Close()
				files = append(files, f)
			}
			b.SetBytes(size)
			i := 0
			for b.Loop() {
				if _, err := files[i%len(files)].ReadAt(body.Bytes, 0); err != nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
}

// BenchmarkDiskOpen opens a folder with 100,000 objects of 10 blocks, without and with 100,000 metas, from the page
// cache.
func BenchmarkDiskOpen(b *testing.B) {
	for _, metas := range []int{0, 100_000} {
		b.Run(fmt.Sprintf("%dmetas", metas), func(b *testing.B) {
			dir := b.TempDir()
			d, _, _ := startDisk(b, dir, 1<<40, nil)
			d.mu.Lock()
			for i := range 100_000 {
				g := d.index.add(diskMeta(i, 10*BlockSize).Object, 10*BlockSize, 0)
				d.index.setPresent(g, 1<<10-1)
			}
			d.stale = true
			d.mu.Unlock()
			record := make([]byte, 250)
			for i := range metas {
				d.PutMeta(benchMetaID(i), record)
				if i%1000 == 0 {
					syncDisk(b, d)
				}
			}
			if err := d.Close(); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				d, _, _ := startDisk(b, dir, 1<<40, nil)
				b.StopTimer()
				if n, m := len(d.index.objects), len(d.metas.places); n != 100_000 || m != metas {
					b.Fatal(n, "objects", m, "metas")
				}
				d.Close()
				b.StartTimer()
			}
		})
	}
}

func benchMetaID(i int) string {
	return fmt.Sprintf("/media/01J8ZQ4V7N3K5M6P8R9S0T1U2V/%08d/aac_160.mp4", i)
}

// BenchmarkDiskWrite writes through queue, writers, index and page cache, to a disk that is not full and to one that
// evicts as much as it takes. The baseline is the pwrite alone.
func BenchmarkDiskWrite(b *testing.B) {
	for name, budget := range map[string]int64{"growing": 1 << 40, "evicting": 256 << 20} {
		b.Run(name, func(b *testing.B) {
			d, _, _ := startDisk(b, b.TempDir(), budget, nil)
			block := &Block{Bytes: diskBody(diskMeta(0, BlockSize), 0)}
			b.SetBytes(BlockSize)
			i := 0
			for b.Loop() {
				m := diskMeta(i/16%500, 16*BlockSize+int64(i/8000)) // one object after the other
				d.queues[int(m.Object[0])%len(d.queues)] <- diskWrite{id: m.Object, size: m.Size, n: uint32(i % 16), block: block}
				i++
			}
			syncDisk(b, d)
		})
	}
	b.Run("pwrite", func(b *testing.B) {
		f, err := os.Create(filepath.Join(b.TempDir(), "file"))
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		body := diskBody(diskMeta(0, BlockSize), 0)
		b.SetBytes(BlockSize)
		i := int64(0)
		for b.Loop() {
			if _, err := f.WriteAt(body, i%8000*BlockSize); err != nil {
				b.Fatal(err)
			}
			i++
		}
	})
}

// BenchmarkDiskEvict chooses and removes a group among 100,000 of which all were hit lately, and adds one.
func BenchmarkDiskEvict(b *testing.B) {
	x := &diskIndex{objects: map[ObjectID]*diskObject{}}
	for i := range 100_000 {
		x.add(diskMeta(i, BlockSize).Object, BlockSize, 0).visited = true
	}
	i := 100_000
	for b.Loop() {
		x.remove(x.victim())
		x.add(diskMeta(i, BlockSize).Object, BlockSize, 0).visited = true
		i++
	}
}

func BenchmarkDiskMetas(b *testing.B) {
	d, _, _ := startDisk(b, b.TempDir(), 1<<40, nil)
	record := make([]byte, 250)
	for i := range 10_000 {
		d.PutMeta(benchMetaID(i), record)
	}
	syncDisk(b, d)
	b.Run("get", func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			if _, ok := d.GetMeta(benchMetaID(i % 10_000)); !ok {
				b.Fatal("a miss")
			}
			i++
		}
	})
	b.Run("put", func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			d.PutMeta(benchMetaID(i%10_000), record)
			i++
		}
	})
}
