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
// A slot is given back when the last reference to its *Block is gone, and its pages are released by a hole in the file
// before anybody else gets it: pages that a socket still has to send keep their old content and go when they are sent.
// Writing over a slot in place would change replies under way.
type arena struct {
	file    *os.File // owns fd
	fd      int
	mem     []byte
	span    int64 // bytes of address space of each class; memory is taken only where it is written
	limit   int64 // bytes of slots given out at once, in whole pages
	collect int64 // from here on a collection is asked for: what was evicted is not noticed as free otherwise

	mu      sync.Mutex // guards the fields below
	used    int64
	classes [len(slotSizes)]slots
	done    chan struct{} // closed when the collection under way has ended; nil: none is
	freed   chan struct{} // holds one signal that a slot was given back
}

// slots are the free slots of one class: those given back, and those from fresh on.
type slots struct {
	free  []int32
	fresh int32
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
		slot, ok := a.take(class, pages(n))
		if !ok {
			continue
		}
		at := int64(class)*a.span + int64(slot)*slotSizes[class]
		b := &Block{Bytes: a.mem[at : at+int64(n) : at+int64(n)], file: a.fd, offset: at}
		runtime.AddCleanup(b, a.release, freed{class, slot, pages(n)})
		return b
	}
	return &Block{Bytes: make([]byte, n)}
}

// take finds a slot. Without one, it waits for a collection.
func (a *arena) take(class int, size int64) (int32, bool) {
	a.mu.Lock()
	s := &a.classes[class]
	room := a.used+size <= a.limit && (len(s.free) > 0 || int64(s.fresh+1)*slotSizes[class] <= a.span)
	if (!room || a.used+size > a.collect) && a.done == nil {
		a.done = make(chan struct{})
		go a.gc(a.done)
	}
	if !room {
		done := a.done
		a.mu.Unlock()
		<-done
		return 0, false
	}
	a.used += size
	slot := s.fresh
	if k := len(s.free); k > 0 {
		slot, s.free = s.free[k-1], s.free[:k-1]
	} else {
		s.fresh++
	}
	a.mu.Unlock()
	return slot, true
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
		quiet = quiet || a.used < a.collect
		if quiet {
			a.done = nil
		}
		a.mu.Unlock()
	}
	close(done)
}

type freed struct {
	class int
	slot  int32
	size  int64
}

// release is the end of a block.
func (a *arena) release(f freed) {
	punch(a.fd, int64(f.class)*a.span+int64(f.slot)*slotSizes[f.class], f.size)
	a.mu.Lock()
	a.classes[f.class].free = append(a.classes[f.class].free, f.slot)
	a.used -= f.size
	a.mu.Unlock()
	select {
	case a.freed <- struct{}{}:
	default:
	}
}
