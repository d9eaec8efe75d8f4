package edge

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	diskWriters  = 2
	diskQueue    = 128     // blocks waiting for all writers: 32 MiB that may be pinned by a slow disk
	maxBatch     = 32      // blocks a writer takes at once
	maxEvictions = 64      // groups that leave for one write: 256 MiB
	maxFloor     = 8 << 30 // of space left free on the file system, in bytes; 5 % if that is less
)

var (
	errDiskFull = errors.New("no free space on the file system")
	errDiskBusy = errors.New("all that could leave is in use")
)

// diskWrite is one block on its way to the disk, or with done only a mark in the queue: closed when it is reached.
type diskWrite struct {
	id    ObjectID
	size  int64
	n     uint32
	block *Block
	done  chan struct{}
}

// Keep queues a block for the disk, whatever the doorkeeper knows of it. When the writers are behind it is not kept.
func (d *Disk) Keep(m *Meta, p Piece) {
	if m.Size > maxDiskObject || !m.Strong { // without a strong validator an object is not found again
		return
	}
	d.metrics.kept.Inc()
	if !d.usable(opWrite) {
		d.metrics.refused.WithLabelValues(refusedFailing).Inc()
		return
	}
	select {
	case d.queues[int(m.Object[0])%len(d.queues)] <- diskWrite{id: m.Object, size: m.Size, n: p.N, block: p.Block}:
	default:
		d.metrics.refused.WithLabelValues(refusedQueue).Inc()
	}
}

// writer writes what is queued, neighbours together, until stop is closed and the queue is empty.
func (d *Disk) writer(queue <-chan diskWrite) {
	batch := make([]diskWrite, 0, maxBatch)
	for {
		select {
		case w := <-queue:
			batch = append(batch[:0], w)
		case <-d.stop:
			select {
			case w := <-queue:
				batch = append(batch[:0], w)
			default:
				return
			}
		}
		for more := true; more && len(batch) < maxBatch; {
			select {
			case w := <-queue:
				batch = append(batch, w)
			default:
				more = false
			}
		}
		d.writeBatch(batch)
		clear(batch) // or the blocks would stay in memory until the next batch
	}
}

func (d *Disk) writeBatch(batch []diskWrite) {
	slices.SortStableFunc(batch, func(a, b diskWrite) int {
		return cmp.Or(bytes.Compare(a.id[:], b.id[:]), cmp.Compare(a.n, b.n))
	})
	for first := 0; first < len(batch); {
		last := first + 1
		for last < len(batch) && last-first < d.longest && batch[last].id == batch[first].id && batch[last].n/groupBlocks == batch[first].n/groupBlocks {
			last++
		}
		run := slices.DeleteFunc(slices.Clone(batch[first:last]), func(w diskWrite) bool { return w.block == nil })
		if len(run) > 0 {
			d.writeRun(run)
		}
		first = last
	}
	for _, w := range batch {
		if w.done != nil {
			close(w.done)
		}
	}
}

// writeRun writes blocks of one group. The index learns of them when their bytes are with the kernel: a killed process
// leaves at worst bytes that nobody knows of.
func (d *Disk) writeRun(run []diskWrite) {
	id, size, number := run[0].id, run[0].size, run[0].n/groupBlocks
	refuse := func(reason string) { d.metrics.refused.WithLabelValues(reason).Add(float64(len(run))) }
	if !d.usable(opWrite) {
		refuse(refusedFailing)
		return
	}
	length := int64(0)
	for _, w := range run {
		length += int64(len(w.block.Bytes))
	}
	if err := d.makeRoom(length); err != nil {
		if errors.Is(err, errDiskBusy) {
			refuse(refusedBusy)
			return
		}
		refuse(refusedFailing)
		d.fault(opWrite, err)
		return
	}
	g, todo := d.enter(id, size, number, run)
	if g == nil || len(todo) == 0 {
		d.leave(nil, length, nil, nil)
		if g == nil {
			refuse(refusedBusy)
		}
		return
	}
	sums, err := d.writeBlocks(todo)
	d.leave(g, length, todo, sums)
	if err != nil {
		refuse(refusedFailing)
		d.fault(opWrite, err)
		return
	}
	d.works(opWrite)
	d.poke()
}

// enter finds or makes the group of a run and pins it; todo is what it lacks. It is nil when the group is being
// cleared, and not pinned when todo is empty.
func (d *Disk) enter(id ObjectID, size int64, number uint32, run []diskWrite) (g *diskGroup, todo []diskWrite) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if o := d.index.objects[id]; o != nil && o.dying {
		return nil, nil
	}
	if g = d.index.add(id, size, number); g == nil || g.dying {
		return nil, nil
	}
	for _, w := range run {
		if g.present>>(w.n%groupBlocks)&1 == 0 {
			todo = append(todo, w)
		}
	}
	if len(todo) > 0 {
		g.busy++
	}
	return g, todo
}

// leave gives a reservation back, and tells the index of the blocks that were written: those with a sum.
func (d *Disk) leave(g *diskGroup, reserved int64, run []diskWrite, sums []uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reserved -= reserved
	if g == nil {
		return
	}
	g.busy--
	if g.purged {
		g.purged = g.busy > 0
		return
	}
	for i, sum := range sums {
		bit := run[i].n % groupBlocks
		g.sums[bit] = sum
		d.index.setPresent(g, g.present|1<<bit)
		d.metrics.written.Add(float64(len(run[i].block.Bytes)))
	}
	g.used = uint32(time.Now().Unix())
	if len(sums) > 0 {
		d.note(g)
	}
}

// writeBlocks returns the sums of the blocks that were written whole.
func (d *Disk) writeBlocks(run []diskWrite) (sums []uint32, err error) {
	path := d.path(run[0].id)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(path), 0o755); err == nil {
			f, err = os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
		}
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for _, w := range run {
		if _, err := d.writeAt(f, w.block.Bytes, int64(w.n)*BlockSize); err != nil {
			return sums, err
		}
		sums = append(sums, blockSum(w.id, w.n, w.block.Bytes))
	}
	return sums, nil
}

// makeRoom reserves more bytes, for which groups leave: to stay within the budget, and to leave free space to others.
// The error is errDiskBusy, errDiskFull or the file system's.
func (d *Disk) makeRoom(more int64) error {
	total, free, err := d.space(d.dir)
	if err != nil {
		return fmt.Errorf("free space: %w", err)
	}
	lack := more - (free - min(total/20, maxFloor)) // of space on the file system
	for evicted := 0; ; evicted++ {
		d.mu.Lock()
		if d.index.held+d.reserved+more <= d.budget && lack <= 0 {
			d.reserved += more
			d.mu.Unlock()
			return nil
		}
		var leaving []*diskGroup
		whole := false
		if evicted < maxEvictions {
			leaving, whole = d.choose()
		}
		empty := d.index.held == 0
		d.mu.Unlock()
		switch {
		case leaving == nil && empty && lack > 0:
			return errDiskFull
		case leaving == nil:
			return errDiskBusy
		}
		lack -= d.clear(leaving, whole)
	}
}

// choose picks the groups that leave next, all of one object, and marks them: from now on they are misses and nothing
// is added to them. Whole says that they are all that the object has. The caller holds mu.
func (d *Disk) choose() (leaving []*diskGroup, whole bool) {
	g := d.index.victim()
	if g == nil {
		return nil, false
	}
	leaving = []*diskGroup{g}
	if d.whole.Load() {
		leaving = slices.Clone(g.object.groups)
		if slices.ContainsFunc(leaving, func(g *diskGroup) bool { return g.busy > 0 || g.dying }) {
			return nil, false
		}
	}
	for _, g := range leaving {
		d.metrics.evicted.Add(float64(g.bytes()))
		g.dying, g.freed = true, g.bytes()
		d.index.setPresent(g, 0)
		d.note(g)
	}
	g.object.dying = len(leaving) == len(g.object.groups)
	return leaving, g.object.dying
}

// clear gives back the space of groups that were marked, and returns how much it was. Nobody writes to them meanwhile,
// and who reads them finds that they do not match or are gone.
func (d *Disk) clear(leaving []*diskGroup, whole bool) (freed int64) {
	o := leaving[0].object
	path := d.path(o.id)
	var err error
	if whole {
		err = os.Remove(path)
		d.files.drop(o.id) // after: who opened it before is found, who comes later finds no file
	} else {
		err = punchFile(path, int64(leaving[0].number)*groupBlocks*BlockSize, groupBlocks*BlockSize)
	}
	switch {
	case errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EOPNOTSUPP):
		d.whole.Store(true) // what was not given back goes with the object
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		d.fault(opWrite, err)
	default:
		for _, g := range leaving {
			freed += g.freed
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, g := range leaving {
		d.index.remove(g)
	}
	if len(o.groups) > 0 || whole {
		return freed
	}
	// Its last groups left side by side, each by a hole. The object stays as a place holder while the file goes.
	o.dying = true
	d.index.objects[o.id] = o
	d.mu.Unlock()
	err = os.Remove(path)
	d.files.drop(o.id)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.fault(opWrite, err)
	}
	d.mu.Lock()
	delete(d.index.objects, o.id)
	return freed
}

// Remove forgets all blocks of an object at once, and gives their space back. A block of it that is just being written
// is not kept.
func (d *Disk) Remove(id ObjectID) {
	d.mu.Lock()
	o := d.index.objects[id]
	if o == nil || o.dying {
		d.mu.Unlock()
		return
	}
	var leaving []*diskGroup
	for _, g := range o.groups {
		switch {
		case g.dying:
		case g.busy > 0:
			g.purged = true
			d.index.setPresent(g, 0)
			d.note(g)
		default:
			g.dying, g.freed = true, g.bytes()
			d.index.setPresent(g, 0)
			d.note(g)
			leaving = append(leaving, g)
		}
	}
	o.dying = len(leaving) == len(o.groups)
	whole := o.dying
	d.mu.Unlock()
	d.poke()
	if whole {
		d.clear(leaving, true)
		return
	}
	for _, g := range leaving {
		d.clear([]*diskGroup{g}, false)
	}
}

// sweep removes what an earlier life left behind: files that the index does not know (their record was not written
// when the process was killed, or the index was damaged), and objects whose file takes far more space than the index
// knows of. It runs once, beside everything else.
func (d *Disk) sweep() {
	for _, folder := range glob(d.dir, func(name string) bool { return len(name) == 2 }) {
		for _, path := range glob(folder, func(name string) bool { return strings.HasSuffix(name, dataSuffix) }) {
			select {
			case <-d.stop:
				return
			default:
			}
			raw, err := hex.DecodeString(strings.TrimSuffix(filepath.Base(path), dataSuffix))
			if err == nil && len(raw) == len(ObjectID{}) && d.path(ObjectID(raw)) == path {
				d.sweepFile(ObjectID(raw), path)
			}
		}
	}
}

// sweepSlack is the space that a file may take beyond what the index knows, in bytes: file systems round up.
const sweepSlack = 8 * BlockSize

func (d *Disk) sweepFile(id ObjectID, path string) {
	taken, err := allocated(path)
	if err != nil {
		return // gone meanwhile
	}
	d.mu.Lock()
	o := d.index.objects[id]
	if o == nil { // a place holder keeps writers away while the file goes
		d.index.objects[id] = &diskObject{id: id, dying: true}
		d.mu.Unlock()
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			d.fault(opWrite, err)
		}
		d.mu.Lock()
		delete(d.index.objects, id)
		d.mu.Unlock()
		return
	}
	held, busy := int64(0), o.dying
	for _, g := range o.groups {
		held += g.bytes()
		busy = busy || g.busy > 0
	}
	d.mu.Unlock()
	if !busy && taken > held+held/4+sweepSlack {
		d.Remove(id)
	}
}

// glob lists the paths in a folder whose names are right; none if it cannot be read.
func glob(folder string, right func(name string) bool) (paths []string) {
	f, err := os.Open(folder)
	if err != nil {
		return nil
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil
	}
	for _, name := range names {
		if right(name) {
			paths = append(paths, filepath.Join(folder, name))
		}
	}
	return paths
}
