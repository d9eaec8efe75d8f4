package edge

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// The index file is a header and then records of fixed length (diskRecord), appended as things change and written anew
// when most are out of date. It is never synced while it grows: a killed process loses nothing that reached write(2),
// and a power cut loses a tail, whose blocks are then misses, or has records whose blocks do not match, misses too.
const (
	indexName   = "index"
	indexMagic  = "segue edge disk index 2\n"
	minRecords  = 4096    // below which the file is not worth writing anew
	maxPending  = 1 << 20 // bytes of records that wait for a failing disk; beyond, the file is written anew later
	keeperEvery = 10 * time.Second
)

// indexFile is the file as the keeper sees it. The zero value has no file: the next write makes one.
type indexFile struct {
	file    *os.File
	end     int64 // where the next record goes
	records int
}

func (f *indexFile) close() error {
	if f.file == nil {
		return nil
	}
	return f.file.Close()
}

// note appends a group's state to what is to be written. The caller holds mu.
func (d *Disk) note(g *diskGroup) {
	if d.stale {
		return
	}
	if d.pending = g.appendRecord(d.pending); len(d.pending) > maxPending {
		d.pending, d.stale = nil, true
	}
}

// keep writes what the index and the metas have to write, until end is closed.
func (d *Disk) keep() {
	tick := time.NewTicker(keeperEvery)
	defer tick.Stop()
	for {
		select {
		case <-d.wake:
			_ = d.flush() // counted and logged
		case done := <-d.syncs:
			done <- d.flushSync()
		case <-tick.C:
			if d.usable(opWrite) {
				d.shrink()
			}
			_ = d.flush()
		case <-d.end:
			_ = d.flushSync()
			return
		}
	}
}

// shrink evicts when others fill the file system, though nothing is written here.
func (d *Disk) shrink() {
	switch err := d.makeRoom(0); {
	case err == nil || errors.Is(err, errDiskBusy):
	case errors.Is(err, errDiskFull): // nothing here to give; a write will say so
	default:
		d.fault(opWrite, err)
	}
}

// flush writes what waits. It returns errDiskFailing when it is too early for another try.
func (d *Disk) flush() error {
	if !d.usable(opIndex) {
		return errDiskFailing
	}
	wrote, err := d.flushIndex()
	if err != nil {
		d.fault(opIndex, err)
		return err // the metas wait: their log is worth more than a second try of a disk that just failed
	}
	more, err := d.metas.flush()
	if err != nil {
		d.fault(opMetas, err)
		return err
	}
	if wrote || more {
		d.works(opIndex)
	}
	return nil
}

var errDiskFailing = errors.New("the disk failed lately")

func (d *Disk) flushSync() error {
	if err := d.flush(); err != nil {
		return err
	}
	err := d.metas.sync()
	if d.file.file != nil {
		err = errors.Join(err, d.file.file.Sync())
	}
	return err
}

func (d *Disk) flushIndex() (wrote bool, err error) {
	d.mu.Lock()
	records := d.pending
	d.pending = nil
	anew := d.stale || d.file.records+len(records)/diskRecordLen > 2*d.index.groups+minRecords
	d.stale = false
	d.mu.Unlock()
	switch {
	case anew || d.file.file == nil && len(records) > 0:
		wrote, err = true, d.rewriteIndex()
	case len(records) > 0:
		wrote = true
		// At a known place: what a failed write left behind is written over, and records stay aligned.
		if _, err = d.file.file.WriteAt(records, d.file.end); err == nil {
			d.file.end += int64(len(records))
			d.file.records += len(records) / diskRecordLen
		}
	}
	if err != nil {
		d.mu.Lock()
		d.stale = true // the records are lost
		d.pending = nil
		d.mu.Unlock()
	}
	return wrote, err
}

// rewriteIndex writes the state of all groups to a new file, in the order of eviction, and puts it in the old one's
// place. Changes meanwhile are noted as always and follow in the new file, so it does not matter if they are in the
// new file already.
func (d *Disk) rewriteIndex() (err error) {
	tmp := filepath.Join(d.dir, indexName+".tmp")
	f, err := os.Create(tmp)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
			_ = os.Remove(tmp)
		}
	}()
	if _, err := f.WriteString(indexMagic); err != nil {
		return err
	}
	next := indexFile{file: f, end: int64(len(indexMagic))}
	const atOnce = 1024 // groups, while the lock is held: about 100 us
	buf := make([]byte, 0, (atOnce+16)*diskRecordLen)
	var at *diskGroup // pinned, so that it stays in line: the next to be written
	for first := true; first || at != nil; first = false {
		buf = buf[:0]
		d.mu.Lock()
		g := d.index.tail
		if at != nil {
			at.busy--
			g, at = at, nil
		}
		for ; g != nil; g = g.newer {
			if len(buf) >= atOnce*diskRecordLen && !g.dying {
				at = g
				g.busy++
				break
			}
			if g.present != 0 {
				buf = g.appendRecord(buf)
			}
		}
		d.mu.Unlock()
		if _, err := f.Write(buf); err != nil {
			d.unpin(at)
			return err
		}
		next.end += int64(len(buf))
		next.records += len(buf) / diskRecordLen
	}
	if err := f.Sync(); err != nil { // or a power cut may leave an empty file under the good name
		return err
	}
	if err := os.Rename(tmp, filepath.Join(d.dir, indexName)); err != nil {
		return err
	}
	if d.file.file != nil {
		_ = d.file.file.Close() // replaced
	}
	d.file = next
	return nil
}

func (d *Disk) unpin(g *diskGroup) {
	if g == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if g.busy--; g.busy == 0 {
		g.purged = false
	}
}

// loadIndex reads the index of an earlier life. Whatever is wrong with it costs what it named.
func (d *Disk) loadIndex() {
	path := filepath.Join(d.dir, indexName)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	readOnly := false
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f, err = os.Open(path) // a disk that went read-only still serves
		readOnly = true
	}
	if err != nil {
		d.stale = true
		if !errors.Is(err, fs.ErrNotExist) {
			d.fault(opIndex, err)
		}
		return
	}
	records, damaged, err := readIndex(f, d.index)
	if err != nil {
		d.fault(opIndex, err)
	}
	if damaged > 0 {
		d.log.Warn("disk cache: the index is damaged, what it lost is fetched anew", "file", path, "records", records, "damaged", damaged)
	}
	if err != nil || damaged > 0 || readOnly {
		d.stale = true
		_ = f.Close()
		return
	}
	d.file = indexFile{file: f, end: int64(len(indexMagic)) + int64(records)*diskRecordLen, records: records}
}

// readIndex replays an index file. Records is the number of whole ones, damaged the number of those that do not match
// their checksum (a wrong header damages all). A torn end is neither.
func readIndex(r io.Reader, x *diskIndex) (records, damaged int, err error) {
	in := bufio.NewReaderSize(r, 1<<20)
	magic := make([]byte, len(indexMagic))
	if _, err := io.ReadFull(in, magic); err != nil || string(magic) != indexMagic {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || err == nil {
			return 0, 1, nil
		}
		return 0, 0, fmt.Errorf("index header: %w", err)
	}
	buf := make([]byte, diskRecordLen)
	for {
		switch _, err := io.ReadFull(in, buf); {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return records, damaged, nil
		case err != nil:
			return records, damaged, fmt.Errorf("index: %w", err)
		}
		records++
		rec, err := parseRecord(buf)
		if err != nil {
			damaged++
			continue
		}
		x.apply(&rec)
	}
}

// ReadDiskIndex lists the objects in the folder of a disk tier, also while an edge uses it, in no order.
func ReadDiskIndex(dir string) ([]DiskObject, error) {
	f, err := os.Open(filepath.Join(dir, indexName))
	if err != nil {
		return nil, fmt.Errorf("disk cache: %w", err)
	}
	defer f.Close()
	x := &diskIndex{objects: map[ObjectID]*diskObject{}}
	if _, _, err := readIndex(f, x); err != nil {
		return nil, fmt.Errorf("disk cache: %w", err)
	}
	return x.list(), nil
}
