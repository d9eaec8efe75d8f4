package edge

import (
	"sync"
	"sync/atomic"
)

// Memory keeps blocks within a budget of bytes, in shards. Eviction is SIEVE (Zhang et al., NSDI 2024): a hit only
// sets a bit, so the hot path takes a read lock and moves nothing; a block seen once leaves before one that was hit.
type Memory struct {
	shards []memoryShard
	arena  *arena // nil: blocks lie in Go's heap
}

type memoryShard struct {
	mu     sync.RWMutex // guards the fields below; visited is atomic
	blocks map[BlockKey]*memoryNode
	head   *memoryNode // newest
	tail   *memoryNode // oldest
	hand   *memoryNode
	used   int64
	budget int64
}

type memoryNode struct {
	key     BlockKey
	block   *Block
	newer   *memoryNode
	older   *memoryNode
	visited atomic.Bool
}

// Alloc returns a block of n bytes to be filled; nobody else has it yet.
func (m *Memory) Alloc(n int) *Block { return m.arena.alloc(n) }

// NewMemory makes a cache of at most budget bytes of blocks; at least one block.
func NewMemory(budget int64) *Memory {
	n := max(1, min(64, budget/(16*BlockSize))) // a shard of few blocks evicts badly
	m := &Memory{shards: make([]memoryShard, n), arena: newArena(budget)}
	for i := range m.shards {
		m.shards[i].blocks = map[BlockKey]*memoryNode{}
		m.shards[i].budget = max(budget/n, BlockSize)
	}
	return m
}

func (m *Memory) shard(k BlockKey) *memoryShard {
	// The object's id is a hash already; the block number spreads one object over shards.
	h := uint64(k.Object[0]) | uint64(k.Object[1])<<8 | uint64(k.Object[2])<<16
	return &m.shards[(h+uint64(k.Block))%uint64(len(m.shards))]
}

// Get returns a shared block, or nil.
func (m *Memory) Get(k BlockKey) *Block {
	s := m.shard(k)
	s.mu.RLock()
	n := s.blocks[k]
	s.mu.RUnlock()
	if n == nil {
		return nil
	}
	if !n.visited.Load() { // a write that changes nothing still moves the cache line between cores
		n.visited.Store(true)
	}
	return n.block
}

// Put keeps a block. It returns how many blocks left for it.
func (m *Memory) Put(k BlockKey, b *Block) (evicted int) {
	size := int64(len(b.Bytes))
	s := m.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.blocks[k] != nil || size > s.budget {
		return 0
	}
	for s.used+size > s.budget {
		s.evict()
		evicted++
	}
	n := &memoryNode{key: k, block: b, older: s.head}
	if s.head != nil {
		s.head.newer = n
	}
	s.head = n
	if s.tail == nil {
		s.tail = n
	}
	s.blocks[k] = n
	s.used += size
	return evicted
}

// evict removes the first block at or before the hand, towards newer ones, that was not hit since the hand passed.
func (s *memoryShard) evict() {
	n := s.hand
	if n == nil {
		n = s.tail
	}
	for n.visited.Swap(false) {
		if n = n.newer; n == nil {
			n = s.tail
		}
	}
	s.hand = n.newer
	if n.newer != nil {
		n.newer.older = n.older
	} else {
		s.head = n.older
	}
	if n.older != nil {
		n.older.newer = n.newer
	} else {
		s.tail = n.newer
	}
	delete(s.blocks, n.key)
	s.used -= int64(len(n.block.Bytes))
}

// Used is the number of bytes held.
func (m *Memory) Used() (n int64) {
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.RLock()
		n += s.used
		s.mu.RUnlock()
	}
	return n
}
