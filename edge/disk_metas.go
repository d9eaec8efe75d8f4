package edge

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/maphash"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// metaLog keeps small records by name in a few segment files: puts and deletions are appended to the newest, the oldest
// leaves whole when there are too many. Memory holds a place per record, about 40 bytes. Writes gather in memory until
// flush, reads see them at once. A record that is read from an old segment is appended again, so what is used stays.
//
// A frame is a head and a body, each with its CRC32C:
//
//	CRC32C of the next 12 | CRC32C of the body 4 | id length 2 | kind 1 | 0 | record length 4 || id | record
type metaLog struct {
	dir     string
	segment int64 // bytes after which a new one begins
	seed    maphash.Seed

	mu       sync.Mutex // guards the fields below; not held over I/O
	places   map[uint64]metaPlace
	segments []*metaSegment // oldest first; put appends to the last
	pending  []byte         // the end of the last segment, not written yet
	flushing []byte         // what comes before it, being written
	spare    []byte         // the next pending: memory, no content
}

type metaPlace struct {
	segment uint32
	offset  uint32
	length  uint32 // of the frame
}

type metaSegment struct {
	number  uint32
	file    *os.File
	size    int64 // with what is not written yet
	written int64
}

const (
	metaFolder    = "metas"
	metaHead      = 16
	metaPut       = 1
	metaDelete    = 2
	maxMetaID     = 8 << 10
	maxMetaRecord = 64 << 10
	metaSegments  = 8
	minMetaBudget = 8 << 20  // bytes of all segments
	maxMetaBudget = 64 << 20 // some 200,000 records
	maxMetaQueue  = 4 << 20  // bytes not written yet
)

// openMetaLog reads what is in dir. What cannot be read is forgotten.
func openMetaLog(dir string, budget int64) *metaLog {
	l := &metaLog{dir: dir, segment: budget / metaSegments, seed: maphash.MakeSeed(), places: map[uint64]metaPlace{}}
	for _, path := range glob(dir, func(string) bool { return true }) {
		number, err := strconv.ParseUint(strings.TrimSuffix(filepath.Base(path), ".log"), 10, 32)
		if err != nil || l.path(uint32(number)) != path {
			continue // not ours
		}
		if f, err := os.OpenFile(path, os.O_RDWR, 0); err == nil {
			l.segments = append(l.segments, &metaSegment{number: uint32(number), file: f})
		} else if f, err := os.Open(path); err == nil { // the disk is read-only
			l.segments = append(l.segments, &metaSegment{number: uint32(number), file: f})
		}
	}
	slices.SortFunc(l.segments, func(a, b *metaSegment) int { return cmp.Compare(a.number, b.number) })
	var b []byte
	for _, s := range l.segments {
		info, err := s.file.Stat()
		n := 0
		if err == nil {
			length := int(min(info.Size(), 2*maxMetaBudget))
			b = slices.Grow(b[:0], length)[:length]
			n, err = io.ReadFull(s.file, b)
		}
		if err != nil {
			clear(l.places) // a deletion may be in what cannot be read
		}
		s.written = l.replay(s.number, b[:n])
		s.size = s.written
	}
	// A torn end must go before something is written over its beginning. If it cannot, the next segment begins.
	if n := len(l.segments); n > 0 {
		if last := l.segments[n-1]; last.file.Truncate(last.size) != nil {
			l.segments = append(l.segments, &metaSegment{number: last.number + 1})
		}
	}
	return l
}

func (l *metaLog) path(number uint32) string {
	return filepath.Join(l.dir, fmt.Sprintf("%010d.log", number))
}

// replay applies the frames of a segment and returns where they end. A damaged frame may have been a deletion: all that
// came before it is forgotten, for a record must not come back after it was deleted. A torn end is no damage.
func (l *metaLog) replay(segment uint32, b []byte) (end int64) {
	for at := 0; ; {
		rest := b[at:]
		if len(rest) < metaHead || allZero(rest) { // zeros: a power cut
			return int64(at)
		}
		idLen, recLen, kind, ok := parseMetaHead(rest)
		if !ok {
			clear(l.places)
			return int64(at)
		}
		length := metaHead + idLen + recLen
		if len(rest) < length {
			return int64(at)
		}
		body := rest[metaHead:length]
		hash := maphash.Bytes(l.seed, body[:idLen])
		switch {
		case crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(rest[4:]):
			clear(l.places)
		case kind == metaPut:
			l.places[hash] = metaPlace{segment, uint32(at), uint32(length)}
		default:
			delete(l.places, hash)
		}
		at += length
	}
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

func parseMetaHead(b []byte) (idLen, recLen int, kind byte, ok bool) {
	if len(b) < metaHead || crc32.Checksum(b[4:metaHead], castagnoli) != binary.BigEndian.Uint32(b) {
		return 0, 0, 0, false
	}
	idLen, recLen, kind = int(binary.BigEndian.Uint16(b[8:])), int(binary.BigEndian.Uint32(b[12:])), b[10]
	return idLen, recLen, kind, idLen <= maxMetaID && recLen <= maxMetaRecord && (kind == metaPut || kind == metaDelete)
}

func appendMetaFrame(b []byte, kind byte, id string, record []byte) []byte {
	at := len(b)
	b = append(b, make([]byte, metaHead)...)
	b = append(append(b, id...), record...)
	head := b[at : at+metaHead]
	binary.BigEndian.PutUint32(head[4:], crc32.Checksum(b[at+metaHead:], castagnoli))
	binary.BigEndian.PutUint16(head[8:], uint16(len(id)))
	head[10] = kind
	binary.BigEndian.PutUint32(head[12:], uint32(len(record)))
	binary.BigEndian.PutUint32(head, crc32.Checksum(head[4:], castagnoli))
	return b
}

// put returns false when the record is not kept: too large, or too much waits already. An older one is forgotten then.
func (l *metaLog) put(id string, record []byte) bool {
	if len(id) > maxMetaID || len(record) > maxMetaRecord {
		l.remove(id)
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pending) > maxMetaQueue {
		l.forget(id)
		return false
	}
	l.append(metaPut, id, record)
	return true
}

func (l *metaLog) remove(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget(id)
}

// forget appends a deletion if there is something to delete. The caller holds mu.
func (l *metaLog) forget(id string) {
	hash := maphash.String(l.seed, id)
	if _, ok := l.places[hash]; ok { // or a colliding name's: then both are forgotten, here and at the next replay
		delete(l.places, hash)
		l.append(metaDelete, id, nil)
	}
}

// append puts a frame at the end of the last segment. The caller holds mu.
func (l *metaLog) append(kind byte, id string, record []byte) {
	if len(l.segments) == 0 {
		l.segments = append(l.segments, &metaSegment{number: 1})
	}
	s := l.segments[len(l.segments)-1]
	before := len(l.pending)
	l.pending = appendMetaFrame(l.pending, kind, id, record)
	length := len(l.pending) - before
	if kind == metaPut {
		l.places[maphash.String(l.seed, id)] = metaPlace{s.number, uint32(s.size), uint32(length)}
	}
	s.size += int64(length)
}

// get returns a record. Again says that it was appended anew, for it was about to leave.
func (l *metaLog) get(id string) (record []byte, ok, again bool) {
	hash := maphash.String(l.seed, id)
	l.mu.Lock()
	place, ok := l.places[hash]
	if !ok {
		l.mu.Unlock()
		return nil, false, false
	}
	at := slices.IndexFunc(l.segments, func(s *metaSegment) bool { return s.number == place.segment })
	frame := make([]byte, place.length)
	var file *os.File
	if s := l.segments[at]; int64(place.offset) < s.written { // a place is always in a segment that is there
		file = s.file
	} else { // in memory still: flushing begins where written ends, pending follows
		waiting := place.offset - uint32(s.written)
		if int(waiting) < len(l.flushing) {
			copy(frame, l.flushing[waiting:])
		} else {
			copy(frame, l.pending[int(waiting)-len(l.flushing):])
		}
	}
	l.mu.Unlock()
	if file != nil {
		if _, err := file.ReadAt(frame, int64(place.offset)); err != nil {
			frame = nil // the segment left meanwhile, or the disk fails
		}
	}
	idLen, _, kind, ok := parseMetaHead(frame)
	if !ok || kind != metaPut || crc32.Checksum(frame[metaHead:], castagnoli) != binary.BigEndian.Uint32(frame[4:]) {
		return nil, false, false
	}
	if string(frame[metaHead:metaHead+idLen]) != id {
		return nil, false, false // another name with this hash
	}
	record = frame[metaHead+idLen:]
	if len(l.segmentsAfter(place.segment)) >= metaSegments/2 {
		l.mu.Lock()
		if l.places[hash] == place && len(l.pending) <= maxMetaQueue { // not deleted or replaced meanwhile
			l.append(metaPut, id, record)
			again = true
		}
		l.mu.Unlock()
	}
	return record, true, again
}

func (l *metaLog) segmentsAfter(number uint32) []*metaSegment {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, _ := slices.BinarySearchFunc(l.segments, number+1, func(s *metaSegment, n uint32) int { return cmp.Compare(s.number, n) })
	return l.segments[at:]
}

// flush writes what gathered. When that fails everything is forgotten and removed, for a deletion may be among it. One
// flush at a time.
func (l *metaLog) flush() (wrote bool, err error) {
	for ; ; wrote = true {
		l.mu.Lock()
		if len(l.pending) == 0 {
			l.mu.Unlock()
			return wrote, nil
		}
		s := l.segments[len(l.segments)-1]
		l.flushing, l.pending, l.spare = l.pending, l.spare, nil
		l.mu.Unlock()
		file := s.file
		if file == nil {
			file, err = os.OpenFile(l.path(s.number), os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o644)
		}
		if err == nil {
			_, err = file.WriteAt(l.flushing, s.written)
		}
		l.mu.Lock()
		s.file = file
		if err == nil {
			s.written += int64(len(l.flushing))
		}
		l.spare, l.flushing = l.flushing[:0], nil
		var gone []*metaSegment
		if err != nil {
			gone = l.segments
			l.segments, l.pending = []*metaSegment{{number: s.number + 1}}, nil
			clear(l.places)
		} else if len(l.pending) == 0 && s.size >= l.segment {
			l.segments = append(l.segments, &metaSegment{number: s.number + 1})
			if more := len(l.segments) - metaSegments; more > 0 {
				gone = slices.Clone(l.segments[:more])
				l.segments = slices.Clone(l.segments[more:])
				oldest := l.segments[0].number
				maps.DeleteFunc(l.places, func(_ uint64, p metaPlace) bool { return p.segment < oldest })
			}
		}
		l.mu.Unlock()
		for _, g := range gone {
			if g.file != nil {
				_ = g.file.Close()
			}
			if rerr := os.Remove(l.path(g.number)); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
				err = errors.Join(err, rerr)
			}
		}
		if err != nil {
			return wrote, err
		}
	}
}

// sync returns when what was flushed is on stable storage. Not at the same time as flush.
func (l *metaLog) sync() error {
	var err error
	for _, s := range l.segmentsAfter(0) {
		if s.file != nil {
			err = errors.Join(err, s.file.Sync())
		}
	}
	return err
}

// close ends the log; what was not flushed is lost.
func (l *metaLog) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	for _, s := range l.segments {
		if s.file != nil {
			err = errors.Join(err, s.file.Close())
		}
	}
	l.segments = nil
	clear(l.places)
	return err
}
