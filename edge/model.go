package edge

import "encoding/binary"

// Model is the cache of one edge with no bytes in it: Memory, the doorkeeper and the index of the disk decide as they do in an
// edge that runs, on the sizes of blocks alone. It is for planning: a model of a terabyte takes some megabytes. It is for one
// goroutine, and does no I/O; what a disk cannot keep up with is not in it.
type Model struct {
	memory *Memory
	index  diskIndex
	door   *doorkeeper
	disk   int64 // bytes; 0: none
	sizes  [BlockSize/4096 + 1]*Block
}

// NewModel makes one of so many bytes of blocks in memory, and on disk; disk 0: none.
func NewModel(memory, disk int64) *Model {
	m := &Model{memory: &Memory{budget: max(memory, BlockSize)}, disk: disk, index: diskIndex{objects: map[ObjectID]*diskObject{}}}
	for i := range m.memory.tables {
		m.memory.tables[i].blocks = map[BlockKey]*memoryNode{}
	}
	if disk > 0 {
		m.door = newDoorkeeper(disk)
	}
	bytes := make([]byte, BlockSize) // all blocks share them: Memory looks at lengths alone
	for i := range m.sizes {
		m.sizes[i] = &Block{Bytes: bytes[:i*4096]}
	}
	return m
}

// Ask is one reader's request that needs a block of an object of that size. It returns where the block was: TierMemory,
// TierDisk, or "" when it was in neither. Then it is taken in as if it had been fetched.
func (m *Model) Ask(k BlockKey, size int64) Tier {
	if m.memory.Get(k) != nil {
		return TierMemory
	}
	block := m.sizes[pages(blockLen(size, k.Block))/4096]
	if m.disk > 0 {
		if g := m.index.group(k.Object, k.Block/groupBlocks); g != nil && g.present>>(k.Block%groupBlocks)&1 == 1 {
			g.visited = true
			m.memory.Put(k, block)
			return TierDisk
		}
		again := m.door.again(k)
		m.memory.PutAnd(k, block, func() { m.keep(k, size) })
		if again {
			m.keep(k, size)
		}
		return ""
	}
	m.memory.Put(k, block)
	return ""
}

// keep is Disk.Keep and its writer, done at once.
func (m *Model) keep(k BlockKey, size int64) {
	for evicted := 0; m.index.held+int64(blockLen(size, k.Block)) > m.disk; evicted++ {
		g := m.index.victim()
		if g == nil || evicted == maxEvictions {
			return
		}
		m.index.setPresent(g, 0)
		m.index.remove(g)
	}
	if g := m.index.add(k.Object, size, k.Block/groupBlocks); g != nil {
		m.index.setPresent(g, g.present|1<<(k.Block%groupBlocks))
	}
}

// Holds reports whether a block is in memory, and touches nothing: what is, is not fetched ahead.
func (m *Model) Holds(k BlockKey) bool { return m.memory.Has(k) }

// Held is how many bytes of blocks are in memory and on the disk.
func (m *Model) Held() (memory, disk int64) { return m.memory.Used(), m.index.held }

// Owners ranks the edges of a region for objects, as Shield does when nobody is loaded.
type Owners struct{ seeds []uint64 }

// NewOwners is for edges of these names.
func NewOwners(names []string) Owners {
	o := Owners{make([]uint64, len(names))}
	for i, n := range names {
		o.seeds[i] = seed(n)
	}
	return o
}

// Of is the edge, by its place among the names, that the others ask for an object.
func (o Owners) Of(id ObjectID) int {
	best, at := 0, binary.LittleEndian.Uint64(id[:8]) // a Shield hashes the object's name: any hash of it spreads as well
	for i := range o.seeds {
		if weight(o.seeds[i], at) > weight(o.seeds[best], at) {
			best = i
		}
	}
	return best
}
