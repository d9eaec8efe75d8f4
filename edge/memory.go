package edge

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
)

// Memory keeps blocks within a budget of bytes. Eviction is SIEVE (Zhang et al., NSDI 2024): a hit only sets a bit, and a
// block seen once leaves before one that was hit. A Get takes a shared lock of one of many tables and moves nothing; the
// queue is one for all, so that neither budget nor order suffers from being split: filling is rare beside reading.
// docs/performance.md compares it with LRU, S3-FIFO and W-TinyLFU.
type Memory struct {
	tables [64]memoryTable
	arena  *arena // nil: blocks lie in Go's heap

	mu     sync.Mutex // guards the fields below, and is taken before a table's
	head   *memoryNode
	tail   *memoryNode // oldest
	hand   *memoryNode
	used   int64
	budget int64
}

type memoryTable struct {
	mu     sync.RWMutex // guards blocks
	blocks map[BlockKey]*memoryNode
	_      [32]byte // a cache line of its own
}

type memoryNode struct {
	key     BlockKey
	block   *Block
	newer   *memoryNode
	older   *memoryNode
	visited atomic.Bool
	first   func() // at the first hit; nil: nothing
	told    atomic.Bool
}

// place is where a block lies in an arena.
type place struct {
	file   int // descriptor
	offset int64
	slot   slot
	large  atomic.Int32 // large replies from it, up to fileAfter+1
	last   atomic.Int64 // flow after the last of them
}

// fileAfter is how many large replies leave a block by writev before the others leave by sendfile. A block that was sent
// costs its pages when it is evicted, and taking new ones is worth some dozen replies: what is read once or twice and
// leaves is not to pay that. docs/performance.md, "Edge".
const fileAfter = 16

// byFile says that a reply of n bytes, a large one, is to leave by sendfile, and remembers it. Bytes that the processor
// has in its own cache are cheaper copied than page after page passed on: a block that was sent moments ago is copied.
func (p *place) byFile(n int) bool {
	now := flow.Add(int64(n))
	recent := now-p.last.Swap(now) <= int64(n)+flowCached
	k := p.large.Load()
	if k <= fileAfter {
		p.large.Add(1)
		return false
	}
	return !recent
}

// flow counts the bytes of large replies; flowCached is how many of them may pass between two replies of a block for the
// second to find it in a processor's cache: a quarter of a common second-level one of 1 MiB.
var flow atomic.Int64

const flowCached = 256 << 10

// sent says that a reply left by sendfile: a socket may hold on to the pages.
func (p *place) sent() bool { return p.large.Load() > fileAfter }

// slot is a part of an arena, and how many bytes of memory are in it.
type slot struct {
	class int
	index int32
	size  int64
}

// NewMemory makes a cache of at most budget bytes of blocks; at least one block.
func NewMemory(budget int64) *Memory {
	m := &Memory{budget: max(budget, BlockSize)}
	m.arena = newArena(m.budget)
	for i := range m.tables {
		m.tables[i].blocks = map[BlockKey]*memoryNode{}
	}
	return m
}

// Alloc returns a block of n bytes to be filled; nobody else has it yet.
func (m *Memory) Alloc(n int) *Block { return m.arena.alloc(n) }

func (m *Memory) table(k BlockKey) *memoryTable {
	// The object's id is a hash already; the block number spreads one object over the tables.
	return &m.tables[(binary.LittleEndian.Uint32(k.Object[:])+k.Block)%uint32(len(m.tables))]
}

// Get returns a shared block, or nil.
func (m *Memory) Get(k BlockKey) *Block {
	t := m.table(k)
	t.mu.RLock()
	n := t.blocks[k]
	t.mu.RUnlock()
	if n == nil {
		return nil
	}
	if !n.visited.Load() { // a write that changes nothing still moves the cache line between cores
		n.visited.Store(true)
		if n.first != nil && !n.told.Swap(true) {
			n.first()
		}
	}
	return n.block
}

// Has reports whether a block is held, and touches nothing.
func (m *Memory) Has(k BlockKey) bool {
	t := m.table(k)
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.blocks[k] != nil
}

// Put keeps a block. It returns how many blocks left for it.
func (m *Memory) Put(k BlockKey, b *Block) (evicted int) { return m.PutAnd(k, b, nil) }

// PutAnd is Put, and first is called when the block is asked for again: by the one who asks, so it must not wait.
func (m *Memory) PutAnd(k BlockKey, b *Block, first func()) (evicted int) {
	size := b.cost()
	t := m.table(k)
	m.mu.Lock()
	defer m.mu.Unlock()
	if t.blocks[k] != nil || size > m.budget { // tables change only under m.mu
		return 0
	}
	for m.used+size > m.budget {
		m.evict()
		evicted++
	}
	n := &memoryNode{key: k, block: b, first: first, older: m.head}
	if m.head != nil {
		m.head.newer = n
	}
	m.head = n
	if m.tail == nil {
		m.tail = n
	}
	m.used += size
	t.mu.Lock()
	t.blocks[k] = n
	t.mu.Unlock()
	return evicted
}

// evict removes the first block at or before the hand, towards newer ones, that was not hit since the hand passed.
func (m *Memory) evict() {
	n := m.hand
	if n == nil {
		n = m.tail
	}
	for n.visited.Swap(false) {
		if n = n.newer; n == nil {
			n = m.tail
		}
	}
	m.hand = n.newer
	m.unlink(n)
}

// Remove drops all blocks of an object. It looks at every block: for what must not be found again.
func (m *Memory) Remove(id ObjectID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for n := m.head; n != nil; {
		older := n.older
		if n.key.Object == id {
			if m.hand == n {
				m.hand = n.newer
			}
			m.unlink(n)
		}
		n = older
	}
}

// unlink takes a block out; m.mu is held.
func (m *Memory) unlink(n *memoryNode) {
	if n.newer != nil {
		n.newer.older = n.older
	} else {
		m.head = n.older
	}
	if n.older != nil {
		n.older.newer = n.newer
	} else {
		m.tail = n.newer
	}
	m.used -= n.block.cost()
	t := m.table(n.key)
	t.mu.Lock()
	delete(t.blocks, n.key)
	t.mu.Unlock()
}

// Used is the number of bytes held.
func (m *Memory) Used() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used
}
