package edge

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"segue/media"

	"github.com/gofrs/flock"
	"github.com/prometheus/client_golang/prometheus"
)

// Disk keeps blocks in one sparse file per object, and what it knows of them in memory and in one index file
// (disk_index.go, disk_journal.go). Every block read is checked against its CRC32C: whatever a crash, a cut or a bad
// sector did, it is a miss, never a wrong byte. A block is admitted when it is missed for the second time and written
// off the reply's path. A disk that fails or is full is logged once, passed by, and tried again after a minute.
//
// It also keeps small records by name for the Meta table: PutMeta, GetMeta, DeleteMeta.
type Disk struct {
	dir     string
	budget  int64
	below   Source
	alloc   func(n int) *Block
	log     *slog.Logger
	metrics *diskMetrics
	door    *doorkeeper
	files   *openFiles
	metas   *metaLog
	lock    *flock.Flock
	queues  []chan diskWrite
	wake    chan struct{}   // the index or the metas have something to write
	syncs   chan chan error // Sync is waiting
	stop    chan struct{}   // closed: writers end
	end     chan struct{}   // closed: the keeper ends
	workers sync.WaitGroup  // writers and sweep
	keeper  sync.WaitGroup
	closing sync.Once
	longest int         // blocks written at once: a small budget must not be emptied for one write
	whole   atomic.Bool // no holes can be punched here: objects leave whole

	// The two calls that tests make fail.
	writeAt func(f *os.File, b []byte, offset int64) (int, error)
	space   func(dir string) (total, free int64, err error)

	mu       sync.Mutex // guards the fields below; not held over I/O
	index    *diskIndex
	pending  []byte // index records to be written
	stale    bool   // the index file lacks records: it must be written anew
	reserved int64  // bytes being written
	reads    breaker
	writes   breaker
	indexes  breaker   // writes of index and metas
	damaged  time.Time // when a damaged block was last logged

	file indexFile // the keeper's alone
}

// errDiskInUse says that another process has the folder.
var errDiskInUse = errors.New("in use by another process")

// diskSick says whether an error of openDisk is of the disk, which may heal and is no reason not to serve, and not of
// the configuration.
func diskSick(err error) bool {
	for _, sick := range []error{syscall.ENOSPC, syscall.EROFS, syscall.EIO, syscall.EDQUOT} {
		if errors.Is(err, sick) {
			return true
		}
	}
	return false
}

// openDisk locks the folder, reads the index and the metas of an earlier life, and starts the writers. An error is
// errDiskInUse or of the folder as a whole; a damaged index costs its damaged records only. End it with Close.
func openDisk(dir string, budget int64, below Source, alloc func(n int) *Block, log *slog.Logger, reg prometheus.Registerer) (*Disk, error) {
	d, err := newDisk(dir, budget, below, alloc, log, reg)
	if err != nil {
		return nil, err
	}
	d.start()
	return d, nil
}

func newDisk(dir string, budget int64, below Source, alloc func(n int) *Block, log *slog.Logger, reg prometheus.Registerer) (*Disk, error) {
	if err := os.MkdirAll(filepath.Join(dir, metaFolder), 0o755); err != nil {
		return nil, fmt.Errorf("disk cache: %w", err)
	}
	d := &Disk{dir: dir, budget: budget, below: below, alloc: alloc, log: log, door: newDoorkeeper(budget),
		lock: flock.New(filepath.Join(dir, "lock")), wake: make(chan struct{}, 1), syncs: make(chan chan error),
		stop: make(chan struct{}), end: make(chan struct{}), writeAt: (*os.File).WriteAt, space: diskSpace,
		index: &diskIndex{objects: map[ObjectID]*diskObject{}}, longest: int(min(max(budget/8/BlockSize, 1), groupBlocks))}
	switch ok, err := d.lock.TryLock(); {
	case err != nil:
		return nil, fmt.Errorf("disk cache: %w", err)
	case !ok:
		return nil, fmt.Errorf("disk cache %s: %w", dir, errDiskInUse)
	}
	d.files = newOpenFiles(d.path)
	d.metrics = newDiskMetrics(reg, func() float64 { return float64(d.Used()) }, func() float64 {
		d.mu.Lock()
		defer d.mu.Unlock()
		return float64(len(d.index.objects))
	})
	d.loadIndex()
	d.metas = openMetaLog(filepath.Join(dir, metaFolder), min(max(budget/64, minMetaBudget), maxMetaBudget))
	return d, nil
}

func (d *Disk) start() {
	for range diskWriters {
		q := make(chan diskWrite, diskQueue/diskWriters)
		d.queues = append(d.queues, q)
		d.workers.Go(func() { d.writer(q) })
	}
	d.workers.Go(d.sweep)
	d.keeper.Go(d.keep)
}

// Close writes what is queued and ends the tier. Fetches after it go below.
func (d *Disk) Close() error {
	var err error
	d.closing.Do(func() {
		close(d.stop)
		d.workers.Wait()
		close(d.end)
		d.keeper.Wait()
		d.mu.Lock()
		d.index = &diskIndex{objects: map[ObjectID]*diskObject{}} // the folder may be another process's from now on
		d.mu.Unlock()
		d.files.closeAll()
		err = errors.Join(d.file.close(), d.metas.close(), d.lock.Unlock())
	})
	return err
}

// Sync returns when all that was queued before it is on stable storage.
func (d *Disk) Sync() error {
	for _, q := range d.queues {
		done := make(chan struct{})
		select {
		case q <- diskWrite{done: done}:
		case <-d.stop:
			return fs.ErrClosed
		}
		select {
		case <-done:
		case <-d.end:
			return fs.ErrClosed
		}
	}
	done := make(chan error, 1)
	select {
	case d.syncs <- done:
		return <-done
	case <-d.end:
		return fs.ErrClosed
	}
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
			last := d.absent(w.Meta, n, w.Last)
			d.metrics.misses.Add(float64(last - n + 1))
			for p, err := range d.below.Fetch(ctx, Want{w.Meta, n, last}) {
				more := yield(p, err) // first: the reply does not wait for the disk
				if err != nil {
					return
				}
				if d.door.again(BlockKey{w.Meta.Object, p.N}) {
					d.Keep(w.Meta, p)
				}
				if !more {
					return
				}
			}
			n = last + 1
		}
	}
}

// absent returns the last block of the run of blocks from first, which is missing, to last that are not on the disk.
func (d *Disk) absent(m *Meta, first, last uint32) uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	o := d.index.objects[m.Object]
	if o == nil {
		return last
	}
	for n := first; n < last; n++ {
		if at, ok := o.find((n + 1) / groupBlocks); ok && o.groups[at].present>>((n+1)%groupBlocks)&1 == 1 {
			return n
		}
	}
	return last
}

// read returns a block whose bytes match their checksum, or nil.
func (d *Disk) read(m *Meta, n uint32) *Block {
	at, ok := d.lookup(m, n)
	if !ok {
		return nil
	}
	block := d.alloc(blockLen(m.Size, n))
	f, err := d.files.get(m.Object)
	if err == nil {
		_, err = f.ReadAt(block.Bytes, int64(n)*BlockSize)
		d.files.put(f)
	}
	if err == nil && blockSum(m.Object, n, block.Bytes) == at.sum {
		d.works(opRead)
		d.metrics.hits.Inc()
		return block
	}
	if !d.forget(at) {
		return nil // it was evicted while it was read, and is perhaps there again
	}
	var sys *os.PathError // a short file, an absent file and wrong bytes are damage; the rest is the disk's failure
	if errors.As(err, &sys) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrClosed) {
		d.fault(opRead, err)
	} else {
		d.damage(m.Object, n, err)
	}
	return nil
}

// diskPlace is a block as the index knew it when a read began.
type diskPlace struct {
	group  *diskGroup
	bit    uint32
	sum    uint32
	losses uint32
}

// lookup finds a block that is on the disk, and marks it as used.
func (d *Disk) lookup(m *Meta, n uint32) (at diskPlace, ok bool) {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	g := d.index.group(m.Object, n/groupBlocks)
	bit := n % groupBlocks
	if g == nil || g.object.size != m.Size || g.present>>bit&1 == 0 || !d.reads.usable(now) {
		return at, false
	}
	g.used = uint32(now.Unix())
	if !g.visited {
		g.visited = true
		d.note(g)
	}
	return diskPlace{g, bit, g.sums[bit], g.losses}, true
}

// Has reports whether a block is on the disk, and touches nothing.
func (d *Disk) Has(k BlockKey) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	g := d.index.group(k.Object, k.Block/groupBlocks)
	return g != nil && g.present>>(k.Block%groupBlocks)&1 != 0
}

// forget takes a bad block out of the index. False: something left its group since the read began.
func (d *Disk) forget(at diskPlace) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	g := at.group // one that left the index is empty: it lost its blocks
	if g.losses != at.losses {
		return false
	}
	d.index.setPresent(g, g.present&^(1<<at.bit))
	d.note(g)
	return true
}

func (d *Disk) path(id ObjectID) string {
	name := hex.EncodeToString(id[:])
	return filepath.Join(d.dir, name[:2], name+dataSuffix)
}

const dataSuffix = ".blocks"

// Used is the number of bytes held.
func (d *Disk) Used() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.index.held
}

// Objects lists what is on the disk, in no order.
func (d *Disk) Objects() []DiskObject {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.index.list()
}

func (x *diskIndex) list() []DiskObject {
	out := make([]DiskObject, 0, len(x.objects))
	for _, o := range x.objects {
		if one := o.describe(); one.Blocks > 0 {
			out = append(out, one)
		}
	}
	return out
}

// PutMeta keeps a small record under a name, in the background. One that is too large, or comes faster than the disk
// takes it, is not kept.
func (d *Disk) PutMeta(id string, record []byte) {
	if d.metas.put(id, record) {
		d.poke()
	}
}

// GetMeta returns the record last put under a name, or false. The bytes are the caller's.
func (d *Disk) GetMeta(id string) ([]byte, bool) {
	record, ok, again := d.metas.get(id)
	if again {
		d.poke()
	}
	return record, ok
}

// DeleteMeta forgets a name: at once for GetMeta, for a later life after the next Sync.
func (d *Disk) DeleteMeta(id string) {
	d.metas.remove(id)
	d.poke()
}

// poke wakes the keeper.
func (d *Disk) poke() {
	select {
	case d.wake <- struct{}{}:
	default: // it is awake
	}
}

// The operations that fail, as they stand in metrics.
const (
	opRead     = "read"
	opWrite    = "write"
	opChecksum = "checksum"
	opIndex    = "index"
	opMetas    = "metas"
)

const (
	retryAfter = time.Minute
	maxStrikes = 4 // failed reads in a row until the disk is passed by: one bad sector is not a bad disk
)

// breaker passes a failing disk by. The zero value lets everything through.
type breaker struct {
	failing bool
	strikes int
	retry   time.Time
}

func (b *breaker) usable(now time.Time) bool { return !b.failing || !now.Before(b.retry) }

// breaker returns the breaker of an operation. The caller holds mu.
func (d *Disk) breaker(op string) *breaker {
	switch op {
	case opRead:
		return &d.reads
	case opWrite:
		return &d.writes
	}
	return &d.indexes
}

// usable says whether an operation is worth a try.
func (d *Disk) usable(op string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.breaker(op).usable(time.Now())
}

// fault counts a failure and logs the first of a row: a dying disk must not fill the log too.
func (d *Disk) fault(op string, err error) {
	d.metrics.faults.WithLabelValues(op).Inc()
	d.mu.Lock()
	b := d.breaker(op)
	b.strikes++
	was := d.failing(op)
	if op != opRead || b.strikes >= maxStrikes {
		b.failing = true
	}
	b.retry = time.Now().Add(retryAfter)
	is := d.failing(op)
	d.mu.Unlock()
	if is && !was {
		d.metrics.failing.WithLabelValues(breakerName(op)).Set(1)
		d.log.Error("disk cache fails: going on in memory, with another try each minute", "op", op, "dir", d.dir, "err", err)
	}
}

// works notes a success.
func (d *Disk) works(op string) {
	d.mu.Lock()
	was := d.failing(op)
	*d.breaker(op) = breaker{}
	is := d.failing(op)
	d.mu.Unlock()
	if was && !is {
		d.metrics.failing.WithLabelValues(breakerName(op)).Set(0)
		d.log.Info("disk cache works again", "op", op, "dir", d.dir)
	}
}

// failing says whether reads fail, or writes of any kind: one line in the log for both. The caller holds mu.
func (d *Disk) failing(op string) bool {
	if op == opRead {
		return d.reads.failing
	}
	return d.writes.failing || d.indexes.failing
}

func breakerName(op string) string {
	if op == opRead {
		return opRead
	}
	return opWrite
}

// damage counts a block that is not what was written, and logs one a minute.
func (d *Disk) damage(id ObjectID, n uint32, err error) {
	d.metrics.faults.WithLabelValues(opChecksum).Inc()
	now := time.Now()
	d.mu.Lock()
	first := now.Sub(d.damaged) > time.Minute
	if first {
		d.damaged = now
	}
	d.mu.Unlock()
	if first {
		if err == nil {
			err = media.ErrCorrupt
		}
		d.log.Warn("disk cache: a damaged block is fetched anew", "object", hex.EncodeToString(id[:]), "block", n, "err", err)
	}
}
