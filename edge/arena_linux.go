package edge

import (
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// arena holds blocks outside Go's heap, in a memory file (memfd_create(2)) that is mapped once: the collector never
// looks at them, and a reply can leave by sendfile(2) without a copy.
//
// A slot is given back when the last reference to its *Block is gone. If it never left by sendfile it is warm: the next
// block is written over it, with no page fault. Otherwise its pages are released by a hole in the file before anybody
// else gets it: pages that a socket, ours or the peer's on this machine, still has to hand on keep their old content
// and go when they are read. Writing over them in place would change replies under way.
type arena struct {
	file    *os.File // owns fd
	fd      int
	mem     []byte
	span    int64 // bytes of address space of each class; memory is taken only where it is written
	limit   int64 // bytes of slots at once, warm ones included, in whole pages
	collect int64 // from here on a collection is asked for: what was evicted is not noticed as free otherwise

	mu      sync.Mutex // guards the fields below
	used    int64      // bytes of memory in slots
	warm    int64      // of them in warm slots
	classes [len(slotSizes)]slots
	done    chan struct{} // closed when the collection under way has ended; nil: none is
	freed   chan struct{} // holds one signal that a slot was given back
}

// slots are the free slots of one class: empty ones, those from fresh on, and warm ones, which hold pages.
type slots struct {
	empty []int32
	fresh int32
	warm  []slot
}

// slotSizes in bytes. A block takes pages, not its slot: the classes only keep page tables dense.
var slotSizes = [...]int64{4 << 10, 16 << 10, 64 << 10, BlockSize}

// newArena makes an arena for a cache of budget bytes, or nil where the system has no memory files.
func newArena(budget int64) *arena {
	slack := max(budget/8, 4<<20)
	a := &arena{limit: budget + slack, collect: budget + slack/2, freed: make(chan struct{}, 1)}
	// A class must do for as many blocks as fit into memory, and its smallest block takes a quarter of a slot.
	a.span = 4 * ((a.limit + BlockSize - 1) / BlockSize * BlockSize)
	fd, err := unix.MemfdCreate("segue-blocks", unix.MFD_CLOEXEC)
	if err != nil {
		return nil
	}
	a.fd, a.file = fd, os.NewFile(uintptr(fd), "segue-blocks")
	whole := a.span * int64(len(slotSizes))
	if a.file.Truncate(whole) == nil {
		a.mem, err = unix.Mmap(fd, 0, int(whole), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
		if err == nil && punch(fd, 0, 4096) == nil {
			unix.Madvise(a.mem, unix.MADV_DONTDUMP)
			// Blocks hold on to their arena through their cleanups: when the last is gone, so is the file.
			runtime.AddCleanup(a, func(mem []byte) { unix.Munmap(mem) }, a.mem)
			return a
		}
	}
	a.file.Close()
	return nil
}

func punch(fd int, offset, n int64) error {
	for {
		err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, n)
		if err != unix.EINTR {
			return err
		}
	}
}

// alloc returns a block of n bytes. It lies in the heap when a is nil, or full of blocks that readers still hold.
func (a *arena) alloc(n int) *Block {
	if a == nil || n == 0 {
		return &Block{Bytes: make([]byte, n)}
	}
	class := 0
	for slotSizes[class] < int64(n) {
		class++
	}
	for range 3 {
		s, ok := a.take(class, pages(n))
		if !ok {
			continue
		}
		p := &place{file: a.fd, offset: a.offset(s), slot: s}
		switch {
		case s.size == 0: // one call for all pages instead of a fault for each; an old kernel has the faults
			unix.Madvise(a.mem[p.offset:p.offset+pages(n)], unix.MADV_POPULATE_WRITE)
		case s.size > pages(n):
			punch(a.fd, p.offset+pages(n), s.size-pages(n))
		}
		p.slot.size = pages(n)
		b := &Block{Bytes: a.mem[p.offset : p.offset+int64(n) : p.offset+int64(n)], place: p}
		runtime.AddCleanup(b, a.release, p)
		return b
	}
	return &Block{Bytes: make([]byte, n)}
}

func (a *arena) offset(s slot) int64 {
	return int64(s.class)*a.span + int64(s.index)*slotSizes[s.class]
}

// take finds a slot for size bytes, with the size that it holds already. Without one, it waits for a collection.
func (a *arena) take(class int, size int64) (got slot, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := &a.classes[class]
	if k := len(s.warm); k > 0 && s.warm[k-1].size >= size {
		got, s.warm = s.warm[k-1], s.warm[:k-1]
		a.warm -= got.size
		a.used -= got.size - size
		return got, true
	}
	for a.used+size > a.limit && a.warm > 0 {
		a.cool()
	}
	room := a.used+size <= a.limit && (len(s.empty) > 0 || int64(s.fresh+1)*slotSizes[class] <= a.span)
	if (!room || a.used-a.warm+size > a.collect) && a.done == nil {
		a.done = make(chan struct{})
		go a.gc(a.done)
	}
	if !room {
		done := a.done
		a.mu.Unlock()
		<-done
		a.mu.Lock()
		return got, false
	}
	a.used += size
	got = slot{class: class, index: s.fresh}
	if k := len(s.empty); k > 0 {
		got.index, s.empty = s.empty[k-1], s.empty[:k-1]
	} else {
		s.fresh++
	}
	return got, true
}

// cool empties a warm slot of the class that holds most; a.mu is held.
func (a *arena) cool() {
	most := 0
	for i := range a.classes {
		if int64(len(a.classes[i].warm))*slotSizes[i] > int64(len(a.classes[most].warm))*slotSizes[most] {
			most = i
		}
	}
	s := &a.classes[most]
	cold := s.warm[len(s.warm)-1]
	s.warm = s.warm[:len(s.warm)-1]
	punch(a.fd, a.offset(cold), cold.size)
	s.empty = append(s.empty, cold.index)
	a.used -= cold.size
	a.warm -= cold.size
}

// gc collects, which is cheap: blocks are not in the heap, and little else is. Cleanups run some time after the
// collection, by themselves: it waits for those that are due.
func (a *arena) gc(done chan struct{}) {
	runtime.GC()
	for quiet := false; !quiet; {
		select {
		case <-a.freed:
		case <-time.After(2 * time.Millisecond):
			quiet = true
		}
		a.mu.Lock()
		quiet = quiet || a.used-a.warm < a.collect
		if quiet {
			a.done = nil
		}
		a.mu.Unlock()
	}
	close(done)
}

// release is the end of a block.
func (a *arena) release(p *place) {
	sent := p.sent()
	if sent {
		punch(a.fd, p.offset, p.slot.size)
	}
	a.mu.Lock()
	s := &a.classes[p.slot.class]
	if sent {
		s.empty = append(s.empty, p.slot.index)
		a.used -= p.slot.size
	} else {
		s.warm = append(s.warm, p.slot)
		a.warm += p.slot.size
	}
	a.mu.Unlock()
	select {
	case a.freed <- struct{}{}:
	default:
	}
}
