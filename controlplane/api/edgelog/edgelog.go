// Package edgelog is the form in which an edge writes down the requests that it answered: on its disk, and on the way to the
// control plane. A frame is some rows in sequence, compressed and with a checksum; it is made once and never divided or
// changed, so that a frame that comes twice can be known again.
//
//	frame  "SGL1" | CRC-32C of what follows | length of the payload | log (26 bytes) | seq of the first row | rows | payload: zstd of the rows
//
// Numbers of the head are little-endian: 4, 4, 8 and 4 bytes. A log is a ULID: an edge makes a new one when its disk has none. Seqs
// count its rows from 1; one that is missing was dropped.
package edgelog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"sync"
	"time"
	"unsafe"

	"github.com/klauspost/compress/zstd"
)

const (
	// MaxRows bounds the rows of a frame.
	MaxRows = 8192
	// MaxFrame bounds a frame, with its head, in bytes.
	MaxFrame = 384 << 10
	// MaxRaw bounds the rows of a frame before they are compressed, in bytes: what a reader has to have room for.
	MaxRaw = 8 << 20
	// MaxBody bounds the frames of one request to the control plane, in bytes.
	MaxBody = 2 << 20
	// ContentType is that of a request's body: frames, one after the other.
	ContentType = "application/vnd.segue.edgelog"

	magic = "SGL1"
	head  = 4 + 4 + 4 + logLen + 8 + 4
	// logLen is the length of a log's name.
	logLen = 26
)

var (
	// ErrShort: the bytes end within a frame.
	ErrShort = errors.New("edge log: the frame is cut off")
	// ErrCorrupt: this is not a frame, or not as it was written.
	ErrCorrupt = errors.New("edge log: not a frame, or a damaged one")

	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// Row is one request. Texts of rows that were read are parts of one buffer.
type Row struct {
	At                                    time.Time // to the microsecond
	Duration, FirstByte                   time.Duration
	Status, Bytes                         int64
	ConnRequests                          int64
	Client                                string // network of the client's address: 192.0.2.0/24, 2001:db8::/48; empty: not known
	Method, Route, Key, Range             string
	Tier, Cache                           string
	PlayID, SessionID                     string // of the token; what the player calls it, else PlayID
	UserAgent, Referer, Proto, TLS        string
	Version                               int64 // of CMCD; 0: the player said nothing
	Object, Format, Stream, State         string
	Content                               string
	BitrateKbps, TopKbps, ThroughputKbps  int64
	RequestedKbps, DurationMS, Sequence   int64
	BufferMS, DeadlineMS, RateThousandths int64 // -1: not said
	Startup, Starved                      bool
}

func (r *Row) texts() [17]*string {
	return [...]*string{&r.Client, &r.Method, &r.Route, &r.Key, &r.Range, &r.Tier, &r.Cache, &r.PlayID, &r.SessionID, &r.UserAgent, &r.Referer, &r.Proto, &r.TLS,
		&r.Object, &r.Format, &r.Stream, &r.State}
}

func (r *Row) numbers() [13]*int64 {
	return [...]*int64{&r.Status, &r.Bytes, &r.ConnRequests, &r.Version, &r.BitrateKbps, &r.TopKbps, &r.ThroughputKbps, &r.RequestedKbps, &r.DurationMS, &r.Sequence,
		&r.BufferMS, &r.DeadlineMS, &r.RateThousandths}
}

// AppendRow appends a row in the form that Frame compresses.
func AppendRow(b []byte, r *Row) []byte {
	for _, s := range r.texts() {
		b = append(binary.AppendUvarint(b, uint64(len(*s))), *s...)
	}
	b = append(binary.AppendUvarint(b, uint64(len(r.Content))), r.Content...)
	b = binary.AppendVarint(b, r.At.UnixMicro())
	b = binary.AppendVarint(b, r.Duration.Microseconds())
	b = binary.AppendVarint(b, r.FirstByte.Microseconds())
	for _, n := range r.numbers() {
		b = binary.AppendVarint(b, *n)
	}
	flags := byte(0)
	if r.Startup {
		flags |= 1
	}
	if r.Starved {
		flags |= 2
	}
	return append(b, flags)
}

// Head is what a frame says of itself.
type Head struct {
	Log   string
	First uint64 // seq
	Rows  int
}

var encoders = sync.Pool{New: func() any {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(256<<10))
	if err != nil {
		panic("bug: " + err.Error())
	}
	return e
}}

// AppendFrame appends a frame of rows made by AppendRow. It fails when the frame would be over MaxFrame or rows over MaxRaw: write fewer rows.
func AppendFrame(b []byte, h Head, rows []byte) ([]byte, error) {
	if len(h.Log) != logLen || h.Rows < 1 || h.Rows > MaxRows || len(rows) > MaxRaw {
		return b, fmt.Errorf("edge log: %d rows of %d bytes in log %q cannot be a frame", h.Rows, len(rows), h.Log)
	}
	start := len(b)
	b = append(b, magic...)
	b = append(b, make([]byte, 8)...)
	b = append(b, h.Log...)
	b = binary.LittleEndian.AppendUint64(b, h.First)
	b = binary.LittleEndian.AppendUint32(b, uint32(h.Rows))
	e := encoders.Get().(*zstd.Encoder)
	b = e.EncodeAll(rows, b)
	encoders.Put(e)
	if len(b)-start > MaxFrame {
		return b[:start], fmt.Errorf("edge log: a frame of %d bytes is too large", len(b)-start)
	}
	binary.LittleEndian.PutUint32(b[start+8:], uint32(len(b)-start-head))
	binary.LittleEndian.PutUint32(b[start+4:], crc32.Checksum(b[start+8:], castagnoli))
	return b, nil
}

// Cut takes the first frame off b: its head, the frame whole, and the rest. Errors: ErrShort, ErrCorrupt.
func Cut(b []byte) (h Head, frame, rest []byte, err error) {
	if len(b) < head {
		return h, nil, b, ErrShort
	}
	n := int(binary.LittleEndian.Uint32(b[8:]))
	rows := int(binary.LittleEndian.Uint32(b[head-4:]))
	if string(b[:4]) != magic || n > MaxFrame-head || rows < 1 || rows > MaxRows {
		return h, nil, b, ErrCorrupt
	}
	if len(b) < head+n {
		return h, nil, b, ErrShort
	}
	frame, rest = b[:head+n:head+n], b[head+n:]
	if crc32.Checksum(frame[8:], castagnoli) != binary.LittleEndian.Uint32(frame[4:]) {
		return h, nil, b, ErrCorrupt
	}
	h = Head{Log: string(b[12 : 12+logLen]), First: binary.LittleEndian.Uint64(b[12+logLen:]), Rows: rows}
	return h, frame, rest, nil
}

var decoders = sync.Pool{New: func() any {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxRaw), zstd.WithDecoderLowmem(true))
	if err != nil {
		panic("bug: " + err.Error())
	}
	return d
}}

// Rows hands out the rows of a frame that Cut returned, with their seqs. The row is each's only until its call ends; its texts may be kept.
// Errors: ErrCorrupt, before or after some rows.
func Rows(h Head, frame []byte, each func(seq uint64, r *Row)) error {
	d := decoders.Get().(*zstd.Decoder)
	raw, err := d.DecodeAll(frame[head:], nil)
	decoders.Put(d)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	in := reader{unsafe.String(unsafe.SliceData(raw), len(raw)), false} // nobody writes to raw
	for i := range h.Rows {
		var r Row
		for _, s := range r.texts() {
			*s = in.text()
		}
		r.Content = in.text()
		r.At = time.UnixMicro(in.number()).UTC()
		r.Duration, r.FirstByte = micros(in.number()), micros(in.number())
		for _, n := range r.numbers() {
			*n = in.number()
		}
		flags := in.byte()
		r.Startup, r.Starved = flags&1 != 0, flags&2 != 0
		if in.bad {
			return ErrCorrupt
		}
		each(h.First+uint64(i), &r)
	}
	if in.left != "" {
		return ErrCorrupt
	}
	return nil
}

func micros(n int64) time.Duration {
	return time.Duration(min(max(n, 0), math.MaxInt64/1000)) * time.Microsecond
}

// reader reads texts and numbers. After the first mistake it returns zeros, and bad is set.
type reader struct {
	left string
	bad  bool
}

func (in *reader) byte() byte {
	if in.left == "" {
		in.bad = true
		return 0
	}
	c := in.left[0]
	in.left = in.left[1:]
	return c
}

func (in *reader) unsigned() (n uint64) {
	for shift := 0; shift < 64; shift += 7 {
		c := in.byte()
		n |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return n
		}
	}
	in.bad = true
	return 0
}

func (in *reader) number() int64 {
	n := in.unsigned()
	return int64(n>>1) ^ -int64(n&1)
}

func (in *reader) text() string {
	n := in.unsigned()
	if n > uint64(len(in.left)) {
		in.bad, in.left = true, ""
		return ""
	}
	s := in.left[:n]
	in.left = in.left[n:]
	return s
}
