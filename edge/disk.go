package edge

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"

	"segue/media"
)

// Disk keeps blocks in one sparse file per object, with an index file beside it: a header, then one record of block
// number and CRC32C per block, appended after the block's bytes were written. A record whose block does not match, for
// whatever reason, is a miss: a crash at any moment costs refetches, never a wrong byte. A block is admitted when it
// is missed for the second time. A failing disk is logged once and passed by.
type Disk struct {
	dir     string
	budget  int64
	below   Source
	alloc   func(n int) *Block
	log     *slog.Logger
	metrics *metrics

	mu      sync.Mutex // guards the fields below; not held over reads and writes of blocks
	objects map[ObjectID]*diskObject
	used    int64
	missed  map[BlockKey]struct{} // missed once, lately
	queue   []BlockKey            // missed, oldest first
	broken  bool                  // a fault was logged
}

type diskObject struct {
	size   int64
	blocks map[uint32]uint32 // block -> CRC32C
	bytes  int64
	used   time.Time
	writes sync.Mutex // one writer appends to the index at a time
}

const (
	diskMagic   = "segue-disk-1\n"
	diskRecord  = 12      // block, CRC32C of the block, CRC32C of these eight bytes
	maxMissed   = 1 << 16 // keys remembered for admission
	diskHeader  = len(diskMagic) + 8
	dataSuffix  = ".blocks"
	indexSuffix = ".index"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// openDisk reads the indexes of an earlier life. Its errors are of the folder as a whole.
func openDisk(dir string, budget int64, below Source, alloc func(n int) *Block, log *slog.Logger, m *metrics) (*Disk, error) {
	d := &Disk{dir: dir, budget: budget, below: below, alloc: alloc, log: log, metrics: m, objects: map[ObjectID]*diskObject{}, missed: map[BlockKey]struct{}{}}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("disk cache: %w", err)
	}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, indexSuffix) {
			return err
		}
		raw, err := hex.DecodeString(strings.TrimSuffix(filepath.Base(path), indexSuffix))
		if err != nil || len(raw) != 16 {
			return nil // not ours
		}
		info, err := e.Info()
		if err != nil {
			return nil
		}
		if o := readIndex(path); o != nil {
			o.used = info.ModTime()
			d.objects[ObjectID(raw)] = o
			d.used += o.bytes
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("disk cache: %w", err)
	}
	d.mu.Lock()
	d.makeRoom(0)
	d.mu.Unlock()
	return d, nil
}

func readIndex(path string) *diskObject {
	b, err := os.ReadFile(path)
	if err != nil || len(b) < diskHeader || string(b[:len(diskMagic)]) != diskMagic {
		return nil
	}
	o := &diskObject{size: int64(binary.BigEndian.Uint64(b[len(diskMagic):])), blocks: map[uint32]uint32{}}
	whole := int64(len(b))
	for b = b[diskHeader:]; len(b) >= diskRecord; b = b[diskRecord:] {
		n := binary.BigEndian.Uint32(b)
		if crc32.Checksum(b[:8], castagnoli) != binary.BigEndian.Uint32(b[8:]) || int64(n)*BlockSize >= o.size {
			break // torn: what follows is unknown
		}
		if _, twice := o.blocks[n]; !twice {
			o.bytes += int64(blockLen(o.size, n))
		}
		o.blocks[n] = binary.BigEndian.Uint32(b[4:])
	}
	if len(b) > 0 { // cut the torn end, or records appended after it could never be read
		if err := os.Truncate(path, whole-int64(len(b))); err != nil {
			return nil
		}
	}
	return o
}

// Fetch implements Source.
func (d *Disk) Fetch(ctx context.Context, w Want) iter.Seq2[Piece, error] {
	return func(yield func(Piece, error) bool) {
		for n := w.First; n <= w.Last; {
			if b := d.read(w.Meta, n); b != nil {
				if !yield(Piece{n, b, TierDisk}, nil) {
					return
				}
				n++
				continue
			}
			last := n
			for last < w.Last && !d.has(BlockKey{w.Meta.Object, last + 1}) {
				last++
			}
			for p, err := range d.below.Fetch(ctx, Want{w.Meta, n, last}) {
				if !yield(p, err) || err != nil {
					return
				}
				if d.admit(BlockKey{w.Meta.Object, p.N}) {
					d.write(w.Meta, p)
				}
			}
			n = last + 1
		}
	}
}

func (d *Disk) has(k BlockKey) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	o := d.objects[k.Object]
	if o == nil {
		return false
	}
	_, ok := o.blocks[k.Block]
	return ok
}

// read returns a block whose bytes match their checksum, or nil.
func (d *Disk) read(m *Meta, n uint32) *Block {
	d.mu.Lock()
	o := d.objects[m.Object]
	var sum uint32
	ok := false
	if o != nil && o.size == m.Size {
		if sum, ok = o.blocks[n]; ok {
			o.used = time.Now()
		}
	}
	d.mu.Unlock()
	if !ok {
		return nil
	}
	block := d.alloc(blockLen(m.Size, n))
	body := block.Bytes
	f, err := os.Open(d.path(m.Object) + dataSuffix)
	if err == nil {
		_, err = f.ReadAt(body, int64(n)*BlockSize)
		f.Close()
	}
	if err == nil && crc32.Checksum(body, castagnoli) != sum {
		err = media.ErrCorrupt
	}
	if err == nil {
		return block
	}
	d.fault("read", err)
	d.mu.Lock()
	if _, still := o.blocks[n]; still {
		delete(o.blocks, n)
		o.bytes -= int64(len(body))
		d.used -= int64(len(body))
	}
	d.mu.Unlock()
	return nil
}

// admit says whether a block that was just missed is worth the disk: the second time it is.
func (d *Disk) admit(k BlockKey) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, again := d.missed[k]; again {
		delete(d.missed, k)
		return true
	}
	d.missed[k] = struct{}{}
	d.queue = append(d.queue, k)
	for len(d.queue) > maxMissed {
		delete(d.missed, d.queue[0])
		d.queue = d.queue[1:]
	}
	return false
}

func (d *Disk) write(m *Meta, p Piece) {
	d.mu.Lock()
	o := d.objects[m.Object]
	if o == nil {
		o = &diskObject{size: m.Size, blocks: map[uint32]uint32{}}
		d.objects[m.Object] = o
	}
	o.used = time.Now()
	d.makeRoom(int64(len(p.Block.Bytes)))
	d.mu.Unlock()

	o.writes.Lock()
	defer o.writes.Unlock()
	sum := crc32.Checksum(p.Block.Bytes, castagnoli)
	if err := d.append(m, p, sum); err != nil {
		d.fault("write", err)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.objects[m.Object] != o {
		return // evicted meanwhile
	}
	if _, had := o.blocks[p.N]; !had {
		o.bytes += int64(len(p.Block.Bytes))
		d.used += int64(len(p.Block.Bytes))
	}
	o.blocks[p.N] = sum
}

func (d *Disk) append(m *Meta, p Piece, sum uint32) (err error) {
	path := d.path(m.Object)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	data, err := os.OpenFile(path+dataSuffix, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, data.Close()) }()
	if _, err := data.WriteAt(p.Block.Bytes, int64(p.N)*BlockSize); err != nil {
		return err
	}
	index, err := os.OpenFile(path+indexSuffix, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, index.Close()) }()
	var b []byte
	if at, err := index.Seek(0, 2); err != nil {
		return err
	} else if at == 0 {
		b = binary.BigEndian.AppendUint64([]byte(diskMagic), uint64(m.Size))
	}
	record := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, p.N), sum)
	record = binary.BigEndian.AppendUint32(record, crc32.Checksum(record, castagnoli))
	_, err = index.Write(append(b, record...))
	return err
}

// makeRoom evicts the objects unused for longest until more bytes fit. The caller holds mu.
func (d *Disk) makeRoom(more int64) {
	if d.used+more <= d.budget {
		return
	}
	ids := make([]ObjectID, 0, len(d.objects))
	for id := range d.objects {
		ids = append(ids, id)
	}
	sort.Slice(ids, func(i, j int) bool { return d.objects[ids[i]].used.Before(d.objects[ids[j]].used) })
	for _, id := range ids {
		if d.used+more <= d.budget*9/10 { // some room at once, so that this is rare
			return
		}
		d.used -= d.objects[id].bytes
		delete(d.objects, id)
		_ = os.Remove(d.path(id) + indexSuffix) // the index first: data without it is never read
		_ = os.Remove(d.path(id) + dataSuffix)
		d.metrics.diskEvicted.Inc()
	}
}

func (d *Disk) path(id ObjectID) string {
	name := hex.EncodeToString(id[:])
	return filepath.Join(d.dir, name[:2], name)
}

// fault counts, and logs the first: a dying disk must not fill the log too.
func (d *Disk) fault(what string, err error) {
	d.metrics.diskFaults.Inc()
	d.mu.Lock()
	first := !d.broken
	d.broken = true
	d.mu.Unlock()
	if first {
		d.log.Error("disk cache fault, going on without it where it fails", "op", what, "err", err)
	}
}

// Used is the number of bytes held.
func (d *Disk) Used() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.used
}
