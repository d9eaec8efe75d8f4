package edge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"segue/media"
)

// purgeLog keeps purges in one small file that is appended to, and written anew when most of it counts no more. Each
// record is on the disk before its purge is acknowledged.
//
//	"segue-purges-1\n"   then records: length 2 | CRC32C of the body 4 | body
type purgeLog struct {
	path    string
	file    *os.File
	records int
}

// purgeRecord is one purge, as it is kept.
type purgeRecord struct {
	kind   byte
	soft   bool
	number int64 // of this edge's clock
	salt   uint64
	fleet  int64  // Purge.Epoch
	hash   uint64 // recordExact: keyHash or tagHash
	prefix string // recordPrefix
}

// Kinds of purge records.
const (
	recordNone   = 'n' // says only which purges of the fleet were applied
	recordExact  = 'x'
	recordPrefix = 'p'
	recordFloor  = 'f' // everything
)

const (
	purgeFile    = "purges.log"
	purgeMagic   = "segue-purges-1\n"
	purgeHead    = 6
	maxPurgeBody = maxPurgeValue + 64
)

// openPurgeLog reads the records of a folder's file. A torn end, of a purge that nobody was told to be done, is cut
// off; whole is false when more than that is damaged. Its errors are of the folder as a whole.
func openPurgeLog(dir string) (l *purgeLog, records []purgeRecord, whole bool, err error) {
	l = &purgeLog{path: filepath.Join(dir, purgeFile)}
	b, err := os.ReadFile(l.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, false, fmt.Errorf("purges: %w", err)
	}
	good := 0
	if whole = len(b) < len(purgeMagic) || string(b[:len(purgeMagic)]) == purgeMagic; whole && len(b) >= len(purgeMagic) {
		good = len(purgeMagic)
		for rest := b[good:]; len(rest) >= purgeHead; rest = b[good:] {
			n := int(binary.BigEndian.Uint16(rest))
			if len(rest) < purgeHead+n || crc32.Checksum(rest[purgeHead:purgeHead+n], castagnoli) != binary.BigEndian.Uint32(rest[2:]) {
				break
			}
			r, err := decodePurge(rest[purgeHead : purgeHead+n])
			if err != nil {
				break
			}
			records = append(records, r)
			good += purgeHead + n
		}
		whole = len(b)-good <= purgeHead+maxPurgeBody
	}
	l.records = len(records)
	if l.file, err = os.OpenFile(l.path, os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return nil, nil, false, fmt.Errorf("purges: %w", err)
	}
	if err = l.file.Truncate(int64(good)); err == nil {
		_, err = l.file.Seek(int64(good), 0)
	}
	if err == nil && good == 0 {
		_, err = l.file.WriteString(purgeMagic)
	}
	if err != nil {
		return nil, nil, false, errors.Join(fmt.Errorf("purges: %w", err), l.file.Close())
	}
	return l, records, whole, nil
}

// append keeps records, all or none.
func (l *purgeLog) append(records []purgeRecord) error {
	at, err := l.file.Seek(0, 1)
	if err != nil {
		return fmt.Errorf("keep purges: %w", err)
	}
	if _, err = l.file.Write(encodePurges(nil, records)); err == nil {
		err = l.file.Sync()
	}
	if err != nil { // what is half written would hide what comes after it
		_, back := l.file.Seek(at, 0)
		return errors.Join(fmt.Errorf("keep purges: %w", err), l.file.Truncate(at), back)
	}
	l.records += len(records)
	return nil
}

// rewrite replaces the file by one with these records only.
func (l *purgeLog) rewrite(records []purgeRecord) (err error) {
	f, err := os.OpenFile(l.path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("keep purges: %w", err)
	}
	if _, err = f.Write(encodePurges([]byte(purgeMagic), records)); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(l.path+".new", l.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("keep purges: %w", err), f.Close())
	}
	l.file.Close() // all of it is in the new one
	l.file, l.records = f, len(records)
	return nil
}

func encodePurges(b []byte, records []purgeRecord) []byte {
	for _, r := range records {
		body := []byte{r.kind, 0}
		if r.soft {
			body[1] = 1
		}
		for _, n := range []uint64{uint64(r.number), r.salt, uint64(r.fleet), r.hash} {
			body = binary.AppendUvarint(body, n)
		}
		body = appendString(body, r.prefix)
		b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
		b = binary.BigEndian.AppendUint32(b, crc32.Checksum(body, castagnoli))
		b = append(b, body...)
	}
	return b
}

func decodePurge(b []byte) (purgeRecord, error) {
	r := reader{b: b}
	head := r.take(2)
	if r.err != nil {
		return purgeRecord{}, media.ErrCorrupt
	}
	out := purgeRecord{kind: head[0], soft: head[1] != 0}
	out.number, out.salt, out.fleet, out.hash = int64(r.uvarint()), r.uvarint(), int64(r.uvarint()), r.uvarint()
	out.prefix = string([]byte(r.string()))
	return out, r.err
}
