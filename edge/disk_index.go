package edge

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"
	"slices"
	"time"

	"segue/media"
)

// groupBlocks is the number of neighbouring blocks that share one index record and leave the disk together: 4 MiB,
// about one track. Smaller groups cost more memory per block, larger ones evict what is still wanted.
const groupBlocks = 16

// diskIndex knows what is on the disk: objects, their groups of blocks, and the order in which groups leave. The order
// is SIEVE's (Zhang et al., NSDI 2024), as in Memory: a hit sets a mark and moves nothing. It does no I/O and has no
// lock of its own. About 100 bytes per object, 100 per group, 4 per block.
type diskIndex struct {
	objects map[ObjectID]*diskObject
	head    *diskGroup // newest
	tail    *diskGroup // oldest
	hand    *diskGroup
	groups  int
	held    int64 // bytes of the blocks present
}

type diskObject struct {
	id     ObjectID
	size   int64
	groups []*diskGroup // by number
	dying  bool         // its file is being removed: nothing may be added
}

// diskGroup is the state of up to groupBlocks neighbouring blocks of one object.
type diskGroup struct {
	object       *diskObject
	number       uint32
	present      uint16 // a bit per block
	visited      bool   // hit since the hand passed
	dying        bool   // its hole is being punched: nothing may be added
	losses       uint32 // times that blocks were taken out: a reader compares it before it blames the disk
	purged       bool   // what its writers are at is not to be kept
	busy         int32  // writers at work: it cannot leave
	freed        int64  // dying: the bytes that it held
	used         uint32 // last hit or write, seconds since 1970
	sums         []uint32
	newer, older *diskGroup
}

func (x *diskIndex) group(id ObjectID, number uint32) *diskGroup {
	if o := x.objects[id]; o != nil {
		if at, ok := o.find(number); ok {
			return o.groups[at]
		}
	}
	return nil
}

func (o *diskObject) find(number uint32) (int, bool) {
	return slices.BinarySearchFunc(o.groups, number, func(g *diskGroup, n uint32) int { return int(int64(g.number) - int64(n)) })
}

// add returns a group, made and put first in line if it is new. It returns nil if the object is known with another
// size, which no honest id has.
func (x *diskIndex) add(id ObjectID, size int64, number uint32) *diskGroup {
	o := x.objects[id]
	if o == nil {
		o = &diskObject{id: id, size: size}
		x.objects[id] = o
	}
	if o.size != size {
		return nil
	}
	at, ok := o.find(number)
	if ok {
		return o.groups[at]
	}
	g := &diskGroup{object: o, number: number, sums: make([]uint32, groupLen(size, number)), older: x.head}
	o.groups = slices.Insert(o.groups, at, g)
	if x.head != nil {
		x.head.newer = g
	} else {
		x.tail = g
	}
	x.head = g
	x.groups++
	return g
}

// remove takes a group out, and its object with the last one.
func (x *diskIndex) remove(g *diskGroup) {
	x.setPresent(g, 0)
	if x.hand == g {
		x.hand = g.newer
	}
	if g.newer != nil {
		g.newer.older = g.older
	} else {
		x.head = g.older
	}
	if g.older != nil {
		g.older.newer = g.newer
	} else {
		x.tail = g.newer
	}
	x.groups--
	o := g.object
	if at, ok := o.find(g.number); ok {
		o.groups = slices.Delete(o.groups, at, at+1)
	}
	if len(o.groups) == 0 {
		delete(x.objects, o.id)
	}
}

func (x *diskIndex) setPresent(g *diskGroup, present uint16) {
	x.held -= g.bytes()
	if g.present&^present != 0 {
		g.losses++
	}
	g.present = present
	x.held += g.bytes()
}

// maxSteps bounds one search for a victim, and with it how long the lock is held, when everything was hit lately.
const maxSteps = 256

// victim chooses the next group to leave: the first at or before the hand, towards newer ones, that was not hit since
// the hand passed. It is nil when all are busy or dying.
func (x *diskIndex) victim() *diskGroup {
	g := x.hand
	var second *diskGroup // hit, but the best if no better one is near
	for range min(maxSteps, 2*x.groups) {
		if g == nil {
			if g = x.tail; g == nil {
				break
			}
		}
		next := g.newer
		if g.busy == 0 && !g.dying {
			if !g.visited {
				x.hand = next
				return g
			}
			g.visited = false
			if second == nil {
				second = g
			}
		}
		g = next
	}
	x.hand = g
	return second
}

// bytes is the size of the blocks present.
func (g *diskGroup) bytes() int64 {
	n := int64(bits.OnesCount16(g.present)) * BlockSize
	last := len(g.sums) - 1
	if g.present>>last&1 == 1 {
		n += int64(blockLen(g.object.size, g.number*groupBlocks+uint32(last))) - BlockSize
	}
	return n
}

// blockCount is the number of blocks of an object of that size.
func blockCount(size int64) int64 { return (size + BlockSize - 1) / BlockSize }

// groupLen is the number of blocks in a group, less than groupBlocks in an object's last.
func groupLen(size int64, number uint32) int {
	return int(min(groupBlocks, blockCount(size)-int64(number)*groupBlocks))
}

// blockSum is the CRC32C of a block's place and its bytes: right bytes in a wrong place do not match either.
func blockSum(id ObjectID, n uint32, body []byte) uint32 {
	var place [20]byte
	binary.BigEndian.PutUint32(place[copy(place[:], id[:]):], n)
	return crc32.Update(crc32.Checksum(place[:], castagnoli), castagnoli, body)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// diskRecord is the whole state of one group as the index file holds it. The last record of a group is the valid one;
// no block present means that the group is gone. Fixed length, so that a damaged record costs only itself:
//
//	object 16 | size 8 | group 4 | present 2 | visited 1 | 0 | used 4 | sums 16 x 4 | CRC32C of the above 4
type diskRecord struct {
	id      ObjectID
	size    int64
	number  uint32
	present uint16
	visited bool
	used    uint32
	sums    [groupBlocks]uint32
}

const diskRecordLen = 16 + 8 + 4 + 2 + 1 + 1 + 4 + 4*groupBlocks + 4

func (g *diskGroup) appendRecord(b []byte) []byte {
	at := len(b)
	b = append(b, g.object.id[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(g.object.size))
	b = binary.BigEndian.AppendUint32(b, g.number)
	b = binary.BigEndian.AppendUint16(b, g.present)
	visited := byte(0)
	if g.visited {
		visited = 1
	}
	b = append(b, visited, 0)
	b = binary.BigEndian.AppendUint32(b, g.used)
	for n := range groupBlocks {
		sum := uint32(0)
		if n < len(g.sums) {
			sum = g.sums[n]
		}
		b = binary.BigEndian.AppendUint32(b, sum)
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
}

// parseRecord reads one record of diskRecordLen bytes. Its error is media.ErrCorrupt.
func parseRecord(b []byte) (r diskRecord, err error) {
	const body = diskRecordLen - 4
	if crc32.Checksum(b[:body], castagnoli) != binary.BigEndian.Uint32(b[body:]) {
		return r, media.ErrCorrupt
	}
	r.id = ObjectID(b)
	r.size = int64(binary.BigEndian.Uint64(b[16:]))
	r.number = binary.BigEndian.Uint32(b[24:])
	r.present = binary.BigEndian.Uint16(b[28:])
	r.visited = b[30] == 1
	r.used = binary.BigEndian.Uint32(b[32:])
	for n := range r.sums {
		r.sums[n] = binary.BigEndian.Uint32(b[36+4*n:])
	}
	if r.size <= 0 || r.size > maxDiskObject || int64(r.number)*groupBlocks >= blockCount(r.size) || r.present>>groupLen(r.size, r.number) != 0 {
		return r, media.ErrCorrupt
	}
	return r, nil
}

// maxDiskObject keeps block numbers within 32 bits.
const maxDiskObject = int64(1<<32) * BlockSize

// apply replays one record.
func (x *diskIndex) apply(r *diskRecord) {
	if r.present == 0 {
		if g := x.group(r.id, r.number); g != nil && g.object.size == r.size {
			x.remove(g)
		}
		return
	}
	g := x.add(r.id, r.size, r.number)
	if g == nil {
		return
	}
	x.setPresent(g, r.present)
	copy(g.sums, r.sums[:])
	g.visited, g.used = r.visited, r.used
}

// DiskObject is one object on the disk, for the eyes of an operator.
type DiskObject struct {
	ID     ObjectID
	Size   int64     // of the whole object, bytes
	Held   int64     // bytes on the disk
	Blocks int       // on the disk
	Used   time.Time // last hit or write; hits are noted once per turn of eviction, so it may be late
}

func (o *diskObject) describe() DiskObject {
	out := DiskObject{ID: o.id, Size: o.size}
	used := uint32(0)
	for _, g := range o.groups {
		out.Held += g.bytes()
		out.Blocks += bits.OnesCount16(g.present)
		used = max(used, g.used)
	}
	out.Used = time.Unix(int64(used), 0).UTC()
	return out
}
