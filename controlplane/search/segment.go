package search

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"

	"segue/media"

	"github.com/RoaringBitmap/roaring/v2"
)

// segment is a file of documents of one kind that never changes. They stand in the order of popularity, the most popular
// first and those of one level by id, so that the first documents of any list are its best.
//
//	stored documents | sections of numbers, ids and fields | where they are, CRC-32, magic
//
// Sections are read through a mapping and are in memory from the start, as pages that the kernel may take back. Stored
// documents are read with pread, which takes no memory of the process, but for the most popular ones.
type segment struct {
	path   string
	file   *os.File
	mapped []byte

	docs    int
	levels  []byte // uint16 each
	stored  u64s   // where each stored document ends
	ids     strs
	table   u32s // of ids by their hash, open addressing: document + 1, 0 for none
	gone    strs // ids of older segments that are not there any more
	fields  [inFields]dict
	refs    atomic.Int64
	outlive atomic.Bool // the file stays when the last reader leaves
}

// Fields. The first four are made of documents; the others follow from them.
const (
	inExact   = iota // the whole name
	inName           // words of the name
	inWords          // words of the name and of everything else
	inFilter         // genre, year, artist id
	inBegins         // the first signs of the whole name, up to shortPrefix
	inNamePre        // beginnings of the name's words, up to shortPrefix signs
	inPre            // beginnings of all words
	inMiddle         // three bytes of a word of inWords: numbers of words, not of documents
	inFields
)

// Sections of a file, in order; those of fields follow, four each.
const (
	secLevels = iota
	secStored
	secIDs
	secIDEnds
	secTable
	secGone
	secGoneEnds
	secFields
	sections = secFields + 4*inFields
)

const (
	magic     = "segueix4"
	footerLen = sections*16 + 8 + 4 + len(magic)
)

type u32s []byte

func (a u32s) at(i int) uint32 { return binary.LittleEndian.Uint32(a[4*i:]) }
func (a u32s) len() int        { return len(a) / 4 }

type u64s []byte

func (a u64s) at(i int) uint64 { return binary.LittleEndian.Uint64(a[8*i:]) }

// strs is a list of strings.
type strs struct {
	ends u32s
	text []byte
}

func (s strs) len() int { return s.ends.len() }

// at is the mapping's: copy what is kept.
func (s strs) at(i int) []byte {
	from := uint32(0)
	if i > 0 {
		from = s.ends.at(i - 1)
	}
	return s.text[from:s.ends.at(i)]
}

// openSegment opens a file that was written to its end; media.ErrCorrupt when it is not one.
func openSegment(path string) (s *segment, err error) {
	bad := fmt.Errorf("search index: %s: %w", path, media.ErrCorrupt)
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("search index: %w", err)
	}
	s = &segment{path: path, file: f}
	s.refs.Store(1)
	s.outlive.Store(true)
	defer func() {
		if err != nil {
			s.release()
		}
	}()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("search index: %w", err)
	}
	size := st.Size()
	if size < int64(footerLen) || size != int64(int(size)) {
		return nil, bad
	}
	if s.mapped, err = syscall.Mmap(int(f.Fd()), 0, int(size), syscall.PROT_READ, syscall.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("search index: %s: map into memory: %w", path, err)
	}
	foot := s.mapped[len(s.mapped)-footerLen:]
	if string(foot[footerLen-len(magic):]) != magic {
		return nil, bad
	}
	var sec [sections][]byte
	for i := range sec {
		from, n := binary.LittleEndian.Uint64(foot[16*i:]), binary.LittleEndian.Uint64(foot[16*i+8:])
		if from > uint64(size) || n > uint64(size)-from {
			return nil, bad
		}
		sec[i] = s.mapped[from : from+n : from+n]
	}
	s.docs = int(binary.LittleEndian.Uint64(foot[16*sections:]))
	s.levels, s.stored, s.ids, s.table, s.gone = sec[secLevels], sec[secStored], strs{sec[secIDEnds], sec[secIDs]}, sec[secTable], strs{sec[secGoneEnds], sec[secGone]}
	if s.docs < 0 || len(s.levels) != 2*s.docs || len(s.stored) != 8*s.docs || s.ids.len() != s.docs || s.table.len() < s.docs || s.table.len()&(s.table.len()-1) != 0 {
		return nil, bad
	}
	for f := range s.fields {
		at := secFields + 4*f
		s.fields[f] = dict{strs{sec[at+1], sec[at]}, sec[at+3], sec[at+2]}
		if s.fields[f].at.len() != s.fields[f].len() {
			return nil, bad
		}
	}
	if s.docs > 0 {
		touch(s.mapped[min(s.stored.at(s.docs-1), uint64(size)):])
	}
	return s, nil
}

// touch reads a byte of each page, so that no query has to wait for one: a page fault in a list costs more than the list.
func touch(b []byte) {
	var sum byte
	for i := 0; i < len(b); i += 4096 {
		sum ^= b[i]
	}
	runtime.KeepAlive(sum) // else the compiler leaves the loop out
}

func (s *segment) acquire() { s.refs.Add(1) }

// release ends one use; after the last the file is closed, and removed unless it is to outlive that.
func (s *segment) release() {
	if s.refs.Add(-1) > 0 {
		return
	}
	if s.mapped != nil {
		_ = syscall.Munmap(s.mapped)
		s.mapped = nil
	}
	_ = s.file.Close() // it was only read
	if !s.outlive.Load() {
		_ = os.Remove(s.path) // a later start sweeps what stays
	}
}

// check compares the checksum.
func (s *segment) check(ctx context.Context) error {
	left := int64(len(s.mapped) - len(magic) - 4)
	want := binary.LittleEndian.Uint32(s.mapped[left:])
	sum := crc32.New(castagnoli)
	for r := io.NewSectionReader(s.file, 0, left); left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.CopyN(sum, r, min(left, 4<<20))
		if left -= n; err != nil {
			return fmt.Errorf("search index: %s: %w", s.path, err)
		}
	}
	if sum.Sum32() != want {
		return fmt.Errorf("search index: %s: checksum: %w", s.path, media.ErrCorrupt)
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (s *segment) level(doc uint32) uint16 { return binary.LittleEndian.Uint16(s.levels[2*doc:]) }
func (s *segment) id(doc uint32) []byte    { return s.ids.at(int(doc)) }

// lookup finds a document by id.
func (s *segment) lookup(id []byte) (doc uint32, ok bool) {
	if s.docs == 0 {
		return 0, false
	}
	mask := uint32(s.table.len() - 1)
	for i := hashID(id) & mask; ; i = (i + 1) & mask {
		d := s.table.at(int(i))
		if d == 0 {
			return 0, false
		}
		if string(s.id(d-1)) == string(id) {
			return d - 1, true
		}
	}
}

// hashID is FNV-1a.
func hashID(id []byte) uint32 {
	h := uint32(2166136261)
	for _, b := range id {
		h = (h ^ uint32(b)) * 16777619
	}
	return h ^ h>>15
}

// readMapped: of the stored documents the first so many bytes, which are the most popular ones, are read from the mapping.
const readMapped = 64 << 20

// read returns a stored document, which is the caller's.
func (s *segment) read(doc uint32) ([]byte, error) {
	from := uint64(0)
	if doc > 0 {
		from = s.stored.at(int(doc) - 1)
	}
	end := s.stored.at(int(doc))
	if end < from || end > uint64(len(s.mapped)) {
		return nil, fmt.Errorf("search index: %s: %w", s.path, media.ErrCorrupt)
	}
	b := make([]byte, end-from)
	if end <= readMapped {
		copy(b, s.mapped[from:])
		return b, nil
	}
	if _, err := s.file.ReadAt(b, int64(from)); err != nil {
		return nil, fmt.Errorf("search index: %w", err)
	}
	return b, nil
}

// dict is a field: its terms in order, and the documents of each.
type dict struct {
	strs
	at    u32s // where each term's list ends
	lists []byte
}

// find returns the number of a term.
func (d *dict) find(term string) (int, bool) {
	i := d.from(term, 0)
	return i, i < d.len() && string(d.strs.at(i)) == term
}

// from is the first term that is not below another, at or after low.
func (d *dict) from(term string, low int) int {
	high := d.len()
	for low < high {
		if m := int(uint(low+high) >> 1); string(d.strs.at(m)) < term {
			low = m + 1
		} else {
			high = m
		}
	}
	return low
}

// seek is from for a term that is likely near: it looks at more and more distant ones.
func (d *dict) seek(term []byte, low int) int {
	n, step := d.len(), 1
	for low+step < n && bytes.Compare(d.strs.at(low+step), term) < 0 {
		low += step
		step *= 2
	}
	high := min(n, low+step)
	for low < high {
		if m := int(uint(low+high) >> 1); bytes.Compare(d.strs.at(m), term) < 0 {
			low = m + 1
		} else {
			high = m
		}
	}
	return low
}

// prefix is the range of terms that begin so.
func (d *dict) prefix(p string) (first, end int) {
	first = d.from(p, 0)
	return first, d.seek(after([]byte(p)), first)
}

// few: lists of up to so many are differences in one or more bytes each; longer ones are bitmaps of roaring.
const few = 16

func (d *dict) list(i int) []byte {
	from := uint32(0)
	if i > 0 {
		from = d.at.at(i - 1)
	}
	return d.lists[from:d.at.at(i)]
}

// docs is a term's list. It may be a view of the file: never change it.
func (d *dict) docs(i int) *roaring.Bitmap {
	b := d.list(i)
	out := roaring.New()
	if b[0] > few {
		if _, err := out.FromBuffer(b[1:]); err != nil {
			panic(fmt.Errorf("search index: list of a term: %w: %w", media.ErrCorrupt, err)) // Find and merges recover
		}
		return out
	}
	var list [few]uint32
	out.AddMany(decodeFew(list[:0], b))
	return out
}

func decodeFew(to []uint32, b []byte) []uint32 {
	n, b := int(b[0]), b[1:]
	doc := uint32(0)
	for range n {
		v, size := binary.Uvarint(b)
		doc, b = doc+uint32(v), b[max(size, 0):]
		to = append(to, doc)
	}
	return to
}

// appendDocs adds a term's list to another.
func (d *dict) appendDocs(to []uint32, i int) []uint32 {
	b := d.list(i)
	if b[0] <= few {
		return decodeFew(to, b)
	}
	it := d.docs(i).ManyIterator()
	for {
		n := len(to)
		if cap(to)-n < 1024 {
			to = append(make([]uint32, 0, 2*cap(to)+4096), to...)
		}
		got := it.NextMany(to[n:cap(to)])
		if got == 0 {
			return to
		}
		to = to[:n+got]
	}
}

// segmentWriter writes a segment's file: stored documents first, in order, then the sections.
type segmentWriter struct {
	path   string
	file   *os.File
	buf    *bufio.Writer
	sum    hash.Hash32
	size   uint64
	docs   int
	levels []byte
	stored []byte
	ids    strs
	foot   []byte
	gone   strs
}

func createSegment(path string, docs int) (*segmentWriter, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("search index: %w", err)
	}
	sum := crc32.New(castagnoli)
	return &segmentWriter{path: path, file: f, sum: sum, buf: bufio.NewWriterSize(io.MultiWriter(f, sum), 256<<10), levels: make([]byte, 0, 2*docs), stored: make([]byte, 0, 8*docs)}, nil
}

// add takes the next document. Errors of the buffer come out of finish.
func (w *segmentWriter) add(id []byte, level uint16, stored []byte) {
	_, _ = w.buf.Write(stored)
	w.size += uint64(len(stored))
	w.docs++
	w.levels = binary.LittleEndian.AppendUint16(w.levels, level)
	w.stored = binary.LittleEndian.AppendUint64(w.stored, w.size)
	w.ids.add(id)
}

func (s *strs) add(v []byte) {
	s.text = append(s.text, v...)
	s.ends = binary.LittleEndian.AppendUint32(s.ends, uint32(len(s.text)))
}

func (w *segmentWriter) section(b []byte) {
	w.foot = binary.LittleEndian.AppendUint64(w.foot, w.size)
	w.foot = binary.LittleEndian.AppendUint64(w.foot, uint64(len(b)))
	_, _ = w.buf.Write(b)
	w.size += uint64(len(b))
}

// finish writes the rest and opens the segment. durable: it is on disk then.
func (w *segmentWriter) finish(fields *[inFields]dict, durable bool) (*segment, error) {
	w.section(w.levels)
	w.section(w.stored)
	w.section(w.ids.text)
	w.section(w.ids.ends)
	slots := 1
	for slots < 2*w.docs {
		slots *= 2
	}
	table := make([]byte, 4*slots)
	for d := range w.docs {
		i := hashID(w.ids.at(d)) & uint32(slots-1)
		for u32s(table).at(int(i)) != 0 {
			i = (i + 1) & uint32(slots-1)
		}
		binary.LittleEndian.PutUint32(table[4*i:], uint32(d)+1)
	}
	w.section(table)
	w.section(w.gone.text)
	w.section(w.gone.ends)
	for i := range fields {
		d := &fields[i]
		w.section(d.text)
		w.section(d.ends)
		w.section(d.lists)
		w.section(d.at)
	}
	w.foot = binary.LittleEndian.AppendUint64(w.foot, uint64(w.docs))
	_, _ = w.buf.Write(w.foot)
	err := w.buf.Flush()
	if err == nil {
		_, err = w.file.Write(append(binary.LittleEndian.AppendUint32(nil, w.sum.Sum32()), magic...))
	}
	if err == nil && durable {
		err = w.file.Sync()
	}
	if err = errors.Join(err, w.file.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("search index: write: %w", err), os.Remove(w.path))
	}
	return openSegment(w.path)
}

// abandon removes a file that is not finished.
func (w *segmentWriter) abandon() {
	_ = w.file.Close()
	_ = os.Remove(w.path)
}

// sync puts a segment on disk that was not made durable.
func (s *segment) sync() error {
	if err := s.file.Sync(); err != nil {
		return fmt.Errorf("search index: %w", err)
	}
	return nil
}
