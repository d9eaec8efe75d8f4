package edge

import (
	"encoding/binary"
	"sync"
)

// doorkeeper remembers, in fixed memory, which blocks were missed once: the second miss is worth the disk, and what
// was asked for once only (most of the catalogue, every scan) never wears it. It keeps fingerprints of 32 bits in
// sets of eight, the oldest of a set leaves first; a false "again" comes once in half a billion.
type doorkeeper struct {
	mu   sync.Mutex // guards the fields below
	sets [][doorkeeperWays]uint32
	next []uint8 // in each set, the place to be written next
}

const doorkeeperWays = 8

// newDoorkeeper remembers about twice as many blocks as the budget holds: 4 KiB to 20 MiB of memory.
func newDoorkeeper(budget int64) *doorkeeper {
	n := 1 << 7
	for n < 1<<19 && int64(n)*doorkeeperWays*BlockSize < 2*budget {
		n *= 2
	}
	return &doorkeeper{sets: make([][doorkeeperWays]uint32, n), next: make([]uint8, n)}
}

// again says whether k was here lately, and forgets it then.
func (d *doorkeeper) again(k BlockKey) bool {
	h := (binary.LittleEndian.Uint64(k.Object[:]) + uint64(k.Block)) * 0x9E3779B97F4A7C15 // the id is a hash: this only spreads Block
	print := uint32(h) | 1                                                                // zero is an empty place
	set := (h >> 32) & uint64(len(d.sets)-1)
	d.mu.Lock()
	defer d.mu.Unlock()
	ways := &d.sets[set]
	for i, p := range ways {
		if p == print {
			ways[i] = 0
			return true
		}
	}
	ways[d.next[set]] = print
	d.next[set] = (d.next[set] + 1) % doorkeeperWays
	return false
}
