package edge

import (
	"container/list"
	"fmt"
	"math"
	"math/rand/v2"
	"sort"
	"testing"
)

// BenchmarkEviction compares Memory with the policies it could have, by hit ratio on Zipf's law over 20,000 blocks of
// 64 KiB with room for 4,096 of them (256 MiB), alone and with scans: now and then 2,000 blocks that are never asked for
// again. The second of two million requests counts; scans do not. Time per operation is of a request, hit or miss.
//
//	go test -run '^$' -bench Eviction -benchtime 1x ./edge
func BenchmarkEviction(b *testing.B) {
	const objects, room, requests = 20_000, 4096, 2_000_000
	for _, scans := range []bool{false, true} {
		for _, alpha := range []float64{.8, .9, 1, 1.1} {
			cdf := make([]float64, objects)
			sum := 0.0
			for i := range cdf {
				sum += math.Pow(float64(i+1), -alpha)
				cdf[i] = sum
			}
			rng := rand.New(rand.NewPCG(1, 2))
			trace := make([]uint32, 0, requests)
			for next := uint32(1 << 20); len(trace) < requests; {
				if scans && rng.IntN(8000) == 0 {
					for range 2000 {
						next++
						trace = append(trace, next)
					}
				}
				trace = append(trace, uint32(sort.SearchFloat64s(cdf, rng.Float64()*sum)))
			}
			for _, p := range []struct {
				name string
				make func(room int) func(uint32) bool
			}{{"memory", overMemory}, {"lru", lru}, {"s3fifo", s3fifo}, {"wtinylfu", wTinyLFU}} {
				b.Run(fmt.Sprintf("zipf%.1f/scans=%v/%s", alpha, scans, p.name), func(b *testing.B) {
					var hits, all int
					for range b.N {
						access := p.make(room)
						hits, all = 0, 0
						for i, k := range trace {
							if hit := access(k); i > requests/2 && k < objects {
								all++
								if hit {
									hits++
								}
							}
						}
					}
					b.ReportMetric(100*float64(hits)/float64(all), "hit%")
					b.ReportMetric(100*cdf[room-1]/sum, "best%")
					b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/requests, "ns/request")
				})
			}
		}
	}
}

// BenchmarkMemoryGet is a hit, by as many readers as there are processors.
func BenchmarkMemoryGet(b *testing.B) {
	m := NewMemory(256 << 20)
	for k := range 4096 {
		m.Put(BlockKey{objectID(k), 0}, m.Alloc(64<<10))
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for k := 0; pb.Next(); k++ {
			if m.Get(BlockKey{objectID(k & 4095), 0}) == nil {
				b.Error("a miss")
				return
			}
		}
	})
}

// BenchmarkMemoryFill is a block that comes and another that leaves, its bytes written: written over in place, or on new
// pages because the old block left by sendfile, or in the heap.
func BenchmarkMemoryFill(b *testing.B) {
	for _, kind := range []string{"warm", "sent", "heap"} {
		for _, size := range []int{64 << 10, 256 << 10} {
			b.Run(fmt.Sprintf("%s/%dKiB", kind, size>>10), func(b *testing.B) {
				m := NewMemory(256 << 20)
				if kind == "heap" {
					m.arena = nil
				}
				src := make([]byte, size)
				b.SetBytes(int64(size))
				for k := 0; b.Loop(); k++ {
					block := m.Alloc(size)
					copy(block.Bytes, src)
					if kind == "sent" && block.place != nil {
						block.place.large.Store(fileAfter + 1)
					}
					m.Put(BlockKey{objectID(k), uint32(k >> 24)}, block)
				}
			})
		}
	}
}

func overMemory(room int) func(uint32) bool {
	m := NewMemory(int64(room) * 64 << 10)
	return func(k uint32) bool {
		key := BlockKey{objectID(int(k)), 0}
		if m.Get(key) != nil {
			return true
		}
		m.Put(key, m.Alloc(64<<10))
		return false
	}
}

func lru(room int) func(uint32) bool {
	at, order := map[uint32]*list.Element{}, list.New()
	return func(k uint32) bool {
		if e := at[k]; e != nil {
			order.MoveToFront(e)
			return true
		}
		if order.Len() >= room {
			delete(at, order.Remove(order.Back()).(uint32))
		}
		at[k] = order.PushFront(k)
		return false
	}
}

// s3fifo is S3-FIFO (Yang et al., SOSP 2023): a tenth for newcomers, the ghost as long as the main queue.
func s3fifo(room int) func(uint32) bool {
	type entry struct {
		key  uint32
		freq int
	}
	small, main, ghosts := list.New(), list.New(), list.New()
	at, ghost := map[uint32]*entry{}, map[uint32]*list.Element{}
	evictMain := func() {
		for {
			e := main.Remove(main.Back()).(*entry)
			if e.freq == 0 {
				delete(at, e.key)
				return
			}
			e.freq--
			main.PushFront(e)
		}
	}
	evict := func() {
		for small.Len() >= room/10 {
			e := small.Remove(small.Back()).(*entry)
			if e.freq > 0 {
				e.freq = 0
				main.PushFront(e)
				if main.Len() > room-room/10 {
					evictMain()
					return
				}
				continue
			}
			delete(at, e.key)
			ghost[e.key] = ghosts.PushFront(e.key)
			if ghosts.Len() > room-room/10 {
				delete(ghost, ghosts.Remove(ghosts.Back()).(uint32))
			}
			return
		}
		evictMain()
	}
	return func(k uint32) bool {
		if e := at[k]; e != nil {
			e.freq = min(e.freq+1, 3)
			return true
		}
		for small.Len()+main.Len() >= room {
			evict()
		}
		e := &entry{key: k}
		at[k] = e
		if g := ghost[k]; g != nil {
			ghosts.Remove(g)
			delete(ghost, k)
			main.PushFront(e)
		} else {
			small.PushFront(e)
		}
		return false
	}
}

// wTinyLFU is W-TinyLFU (Einziger et al., 2017) as in Caffeine: a window of 1 %, a segmented LRU, a sketch of four-bit
// counters that is halved every ten times the room.
func wTinyLFU(room int) func(uint32) bool {
	const width = 1 << 13
	var counts [4][width]uint8
	added := 0
	slot := func(k uint32, i int) *uint8 {
		x := uint64(k)*0x9E3779B97F4A7C15 + uint64(i)*0xD6E8FEB86659FD93
		x = (x ^ x>>32) * 0xD6E8FEB86659FD93
		return &counts[i][(x^x>>32)%width]
	}
	freq := func(k uint32) uint8 { return min(*slot(k, 0), *slot(k, 1), *slot(k, 2), *slot(k, 3)) }
	type entry struct {
		key uint32
		in  *list.List
	}
	window, probation, protected := list.New(), list.New(), list.New()
	at := map[uint32]*list.Element{}
	to := func(e *entry, l *list.List) {
		e.in = l
		at[e.key] = l.PushFront(e)
	}
	wide := max(1, room/100)
	return func(k uint32) bool {
		if f := freq(k); f < 15 {
			for i := range counts {
				if c := slot(k, i); *c == f {
					*c++
				}
			}
		}
		if added++; added == 10*room {
			added /= 2
			for i := range counts {
				for j := range counts[i] {
					counts[i][j] /= 2
				}
			}
		}
		if el := at[k]; el != nil {
			e := el.Value.(*entry)
			if e.in != probation {
				e.in.MoveToFront(el)
				return true
			}
			probation.Remove(el)
			to(e, protected)
			if protected.Len() > (room-wide)*8/10 {
				to(protected.Remove(protected.Back()).(*entry), probation)
			}
			return true
		}
		to(&entry{key: k}, window)
		if window.Len() <= wide {
			return false
		}
		candidate := window.Remove(window.Back()).(*entry)
		if probation.Len()+protected.Len() < room-wide {
			to(candidate, probation)
			return false
		}
		from := probation
		if from.Len() == 0 {
			from = protected
		}
		victim := from.Back().Value.(*entry)
		if freq(candidate.key) <= freq(victim.key) {
			delete(at, candidate.key)
			return false
		}
		from.Remove(from.Back())
		delete(at, victim.key)
		to(candidate, probation)
		return false
	}
}
