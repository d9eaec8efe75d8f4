package edge

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"iter"
	"net/http"
	"slices"
	"strings"
	"time"
	"unsafe"

	"segue/edge/policy"
	"segue/media"
)

// Meta is what a cache key names now: the head of a response and the name of its bytes. It is shared: never change one
// that was handed out.
type Meta struct {
	Key    string
	Route  *Route
	Status int // as it was answered, 206 becoming 200; 0: not cacheable, pass each request on

	Size  int64  // bytes that blocks hold: the whole representation, or a part of it
	First int64  // where in the representation those bytes begin
	Whole int64  // bytes of the whole representation; Size unless this is a part
	Asked string // of a part with no strong validator: the Range that it answered, word for word,
	Said  string // and its Content-Range

	Fields fields // to send, but for those of framing, Age and Via
	ETag   string // with its quotes; for a store always strong
	Strong bool   // ETag names the bytes, RFC 9110 8.8.1: ranges that are missing may be fetched later
	ModTime,
	Date time.Time // of the response, or zero

	Answered time.Time     // when the origin said so
	Age      time.Duration // then
	policy.Stored
	Epoch  int64 // of purges.tick, before the origin was asked: purges with a greater number may concern it
	Tags   tags
	Object ObjectID

	alone bool // in the hands of a request that may go to the origin, but not to a peer
}

// part reports whether only a part of the representation is held.
func (m *Meta) part() bool { return m.Size != m.Whole }

// identify sets Object from what decides the bytes; variant tells apart the responses that vary (policy.Variant). What
// has no strong validator gets an object of its own: its bytes never meet another response's. After a hard purge the same
// version is another object: its blocks of before cannot be found any more.
func (m *Meta) identify(variant string, p *purges) {
	m.Tags = makeTags(m)
	salt, once := p.salt(m)
	if !m.Strong || once {
		rand.Read(m.Object[:]) // never fails: crypto/rand ends the process instead
		return
	}
	name := binary.BigEndian.AppendUint64([]byte(m.Route.Prefix+"\x00"+m.Key+"\x00"+m.ETag+"\x00"+variant+"\x00"), uint64(m.Size))
	if salt != 0 {
		name = binary.BigEndian.AppendUint64(name, salt)
	}
	sum := sha256.Sum256(name)
	m.Object = ObjectID(sum[:16])
}

// object is what policy needs to know of the whole representation.
func (m *Meta) object() policy.Object {
	return policy.Object{Size: m.Whole, ETag: m.ETag, ModTime: m.ModTime, Date: m.Date}
}

// fields is a list of header fields in one string: name, NUL, value, NUL, …, names in canonical form. It costs no
// allocation to read.
type fields string

// All yields the fields in order.
func (f fields) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for rest := string(f); rest != ""; {
			name, after, _ := strings.Cut(rest, "\x00")
			value, next, _ := strings.Cut(after, "\x00")
			if !yield(name, value) {
				return
			}
			rest = next
		}
	}
}

// get is the first value of a field, or empty.
func (f fields) get(name string) string {
	for n, value := range f.All() {
		if n == name {
			return value
		}
	}
	return ""
}

// header is f as net/http has it.
func (f fields) header() http.Header {
	h := http.Header{}
	for name, value := range f.All() {
		h[name] = append(h[name], value)
	}
	return h
}

// makeFields takes what is stored of a response's fields, without those in hide (lower case) and those of framing.
func makeFields(h http.Header, hide []string) fields {
	var b strings.Builder
	names := make([]string, 0, len(h))
	for name := range h {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if slices.Contains(hide, strings.ToLower(name)) || name == "Content-Length" || name == "Age" || name == "Cdn-Cache-Control" || name == "Surrogate-Control" {
			continue
		}
		for _, value := range h[name] {
			if !strings.Contains(value, "\x00") {
				b.WriteString(name + "\x00" + value + "\x00")
			}
		}
	}
	return fields(b.String())
}

// encode makes the record that the table keeps.
func (m *Meta) encode() []byte {
	b := make([]byte, 0, 160+len(m.Key)+len(m.Fields))
	flags := uint64(0)
	if m.Strong {
		flags |= 1
	}
	if m.Validate {
		flags |= 2
	}
	for _, n := range []uint64{uint64(m.Status), flags, uint64(m.Size), uint64(m.First), uint64(m.Whole), uint64(m.Age)} {
		b = binary.AppendUvarint(b, n)
	}
	for _, t := range []time.Time{m.ModTime, m.Date, m.Answered, m.FreshUntil, m.RevalidateUntil, m.ErrorUntil} {
		b = binary.AppendVarint(b, nanos(t))
	}
	b = binary.AppendVarint(b, m.Epoch)
	b = append(b, m.Object[:]...)
	for _, s := range []string{m.Key, m.ETag, string(m.Fields), m.Asked, m.Said, string(m.Tags)} {
		b = appendString(b, s)
	}
	return b
}

// decodeMeta reads a record; the strings of the Meta share its memory.
func decodeMeta(b []byte) (*Meta, error) {
	r := reader{b: b}
	m := &Meta{Status: int(r.uvarint())}
	flags := r.uvarint()
	m.Strong, m.Validate = flags&1 != 0, flags&2 != 0
	m.Size, m.First, m.Whole, m.Age = int64(r.uvarint()), int64(r.uvarint()), int64(r.uvarint()), time.Duration(r.uvarint())
	for _, t := range []*time.Time{&m.ModTime, &m.Date, &m.Answered, &m.FreshUntil, &m.RevalidateUntil, &m.ErrorUntil} {
		if n := r.varint(); n != 0 {
			*t = time.Unix(0, n).UTC()
		}
	}
	m.Epoch = r.varint()
	copy(m.Object[:], r.take(16))
	for _, s := range []*string{&m.Key, &m.ETag, (*string)(&m.Fields), &m.Asked, &m.Said, (*string)(&m.Tags)} {
		*s = r.string()
	}
	return m, r.err
}

// nanos is a time as a number; 0 is the zero time. Times beyond what int64 holds are as far as it goes.
func nanos(t time.Time) int64 {
	switch {
	case t.IsZero():
		return 0
	case t.Year() > 2261:
		return 1<<63 - 1
	case t.Year() < 1678:
		return 1 - 1<<63
	}
	return t.UnixNano()
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// reader reads records; after the first fault it returns zeros.
type reader struct {
	b   []byte
	err error
}

func (r *reader) uvarint() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 {
		r.err, r.b = media.ErrCorrupt, nil
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) varint() int64 {
	n, size := binary.Varint(r.b)
	if size <= 0 {
		r.err, r.b = media.ErrCorrupt, nil
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) take(n uint64) []byte {
	if uint64(len(r.b)) < n {
		r.err, r.b = media.ErrCorrupt, nil
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) string() string {
	b := r.take(r.uvarint())
	return unsafe.String(unsafe.SliceData(b), len(b)) // bigcache hands out a copy: nobody writes to it
}
