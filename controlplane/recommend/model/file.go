package model

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
	"time"

	"segue/media"
)

// Files: a line that names kind and version, a line of JSON, arrays of little-endian numbers whose lengths the JSON gives, and
// a CRC32C of all of it. A file is written beside its place and renamed, so that a reader sees the old one or the new one.

const (
	modelKind = "segue recommend model 1\n"
	logKind   = "segue recommend plays 1\n"
)

// modelHead and logHead are the JSON lines.
type modelHead struct {
	Info
	Charts map[string][]uint32 `json:"charts"`
}

type logHead struct {
	Now    time.Time                     `json:"now"`
	Until  time.Time                     `json:"until"`
	Users  int                           `json:"users"`
	Tracks int                           `json:"tracks"`
	Pairs  int                           `json:"pairs"`
	Above  uint64                        `json:"above"`
	Charts map[string]map[uint32]float32 `json:"charts"`
}

// maxHead bounds a JSON line: charts of 512 times 40,000 entries.
const maxHead = 1 << 30

// Save writes the model to a file, whole or not at all.
func (m *Model) Save(path string) error {
	return write(path, modelKind, modelHead{Info: m.Info, Charts: m.charts}, func(w *writer) {
		w.texts(m.ids)
		w.floats(m.recent)
		w.uints(m.groups)
		w.uints(m.near)
		w.floats(m.sims)
		w.floats(m.vecs)
	})
}

// Load reads a model. Errors: fs.ErrNotExist, media.ErrCorrupt.
func Load(path string) (*Model, error) {
	var h modelHead
	m := &Model{}
	err := read(path, modelKind, &h, func(r *reader, size int64) {
		m.Info, m.charts = h.Info, h.Charts
		n := m.Tracks
		if n < 0 || m.Dim < 1 || m.Near < 1 || m.Dim > 4096 || m.Near > 4096 || int64(n)*int64(8+4*m.Dim+8*m.Near) > size {
			r.fail("sizes that cannot be")
			return
		}
		m.ids = r.texts(n)
		m.recent, m.groups = r.floats(n), r.uints(n)
		m.near, m.sims = r.uints(n*m.Near), r.floats(n*m.Near)
		m.vecs = r.floats(n * m.Dim)
		for _, i := range m.near {
			if int(i) >= n {
				r.fail("a neighbour that is not there")
				return
			}
		}
		for _, c := range m.charts {
			for _, i := range c {
				if int(i) >= n {
					r.fail("a chart of what is not there")
					return
				}
			}
		}
	})
	if err != nil {
		return nil, err
	}
	m.finish()
	return m, nil
}

// Save writes the log, so that a later training goes on from it.
func (l *Log) Save(path string) error {
	l.settle()
	return write(path, logKind, logHead{l.Now, l.Until, len(l.hashes), len(l.ids), len(l.pairs), l.above, l.charts}, func(w *writer) {
		w.texts(l.ids)
		w.floats(l.recent)
		for _, h := range l.hashes {
			w.number64(h)
		}
		for _, p := range l.pairs {
			w.number(p.user)
			w.number(p.item)
			w.number(math.Float32bits(p.heard))
			w.number(p.last)
		}
	})
}

// LoadLog reads a log, to go on with at now: charts fade by the time since. Errors: fs.ErrNotExist, media.ErrCorrupt.
func LoadLog(path string, now time.Time, limits Limits) (*Log, error) {
	var h logHead
	l := NewLog(now, limits)
	err := read(path, logKind, &h, func(r *reader, size int64) {
		if h.Users < 0 || h.Tracks < 0 || h.Pairs < 0 || int64(h.Users)*8+int64(h.Tracks)*8+int64(h.Pairs)*16 > size {
			r.fail("sizes that cannot be")
			return
		}
		l.above, l.Until = h.Above, h.Until
		l.ids, l.recent = r.texts(h.Tracks), r.floats(h.Tracks)
		l.hashes = make([]uint64, h.Users)
		for i := range l.hashes {
			l.hashes[i] = r.number64()
			l.users[l.hashes[i]] = uint32(i)
		}
		l.pairs = make([]pair, h.Pairs)
		for i := range l.pairs {
			p := pair{r.number(), r.number(), math.Float32frombits(r.number()), r.number()}
			if int(p.user) >= h.Users || int(p.item) >= h.Tracks {
				r.fail("a pair that cannot be")
				return
			}
			l.pairs[i] = p
		}
		for i, id := range l.ids {
			l.tracks[id] = uint32(i)
		}
		fade := float32(math.Exp2(-float64(max(0, now.Sub(h.Now))) / float64(chartHalfLife)))
		for i := range l.recent {
			l.recent[i] *= fade
		}
		for name, c := range h.Charts {
			for i := range c {
				if int(i) >= h.Tracks {
					r.fail("a chart of what is not there")
					return
				}
				c[i] *= fade
			}
			l.charts[name] = c
		}
	})
	return l, err
}

type writer struct {
	*bufio.Writer
	buf [8]byte
}

func (w *writer) number(v uint32)   { w.Write(binary.LittleEndian.AppendUint32(w.buf[:0], v)) }
func (w *writer) number64(v uint64) { w.Write(binary.LittleEndian.AppendUint64(w.buf[:0], v)) }

func (w *writer) uints(list []uint32) {
	for _, v := range list {
		w.number(v)
	}
}

func (w *writer) floats(list []float32) {
	for _, v := range list {
		w.number(math.Float32bits(v))
	}
}

func (w *writer) texts(list []string) {
	for _, s := range list {
		w.number(uint32(len(s)))
		w.WriteString(s)
	}
}

func write(path, kind string, head any, body func(*writer)) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(f.Name())
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	w := &writer{Writer: bufio.NewWriterSize(io.MultiWriter(f, sum), 1<<20)}
	b, err := json.Marshal(head)
	if err != nil {
		return err
	}
	w.WriteString(kind)
	w.Write(append(b, '\n'))
	body(w)
	if err := w.Flush(); err != nil { // a bufio.Writer keeps its first error
		return err
	}
	if _, err := f.Write(binary.LittleEndian.AppendUint32(nil, sum.Sum32())); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

type reader struct {
	*bufio.Reader
	buf [8]byte
	err error
}

func (r *reader) fail(why string) {
	if r.err == nil {
		r.err = fmt.Errorf("%s: %w", why, media.ErrCorrupt)
	}
}

func (r *reader) number() uint32 {
	if _, err := io.ReadFull(r, r.buf[:4]); err != nil {
		r.fail("it ends too soon")
		return 0
	}
	return binary.LittleEndian.Uint32(r.buf[:4])
}

func (r *reader) number64() uint64 {
	if _, err := io.ReadFull(r, r.buf[:]); err != nil {
		r.fail("it ends too soon")
		return 0
	}
	return binary.LittleEndian.Uint64(r.buf[:])
}

func (r *reader) uints(n int) []uint32 {
	out := make([]uint32, n)
	for i := range out {
		out[i] = r.number()
	}
	return out
}

func (r *reader) floats(n int) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = math.Float32frombits(r.number())
		if f := float64(out[i]); math.IsNaN(f) || math.IsInf(f, 0) {
			r.fail("a number that is none")
		}
	}
	return out
}

func (r *reader) texts(n int) []string {
	out := make([]string, n)
	for i := range out {
		size := r.number()
		if size > 1<<16 || r.err != nil {
			r.fail("a name that is too long")
			return out
		}
		b := make([]byte, size)
		if _, err := io.ReadFull(r, b); err != nil {
			r.fail("it ends too soon")
		}
		out[i] = string(b)
	}
	return out
}

func read(path, kind string, head any, body func(r *reader, size int64)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	corrupt := func(why string) error { return fmt.Errorf("%s: %s: %w", path, why, media.ErrCorrupt) }
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() < int64(len(kind))+4 {
		return corrupt("it is too short")
	}
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	r := &reader{Reader: bufio.NewReaderSize(io.TeeReader(io.LimitReader(f, info.Size()-4), sum), 1<<20)}
	got := make([]byte, len(kind))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != kind {
		return corrupt("it is of another kind or version")
	}
	line, err := r.ReadSlice('\n')
	long := append([]byte(nil), line...)
	for errors.Is(err, bufio.ErrBufferFull) && len(long) < maxHead {
		line, err = r.ReadSlice('\n')
		long = append(long, line...)
	}
	if err != nil || json.Unmarshal(long, head) != nil {
		return corrupt("its head cannot be read")
	}
	body(r, info.Size())
	if r.err != nil {
		return fmt.Errorf("%s: %w", path, r.err)
	}
	if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
		return corrupt("it goes on behind its end")
	}
	var want [4]byte
	if _, err := f.ReadAt(want[:], info.Size()-4); err != nil || binary.LittleEndian.Uint32(want[:]) != sum.Sum32() {
		return corrupt("its checksum is wrong")
	}
	return nil
}
