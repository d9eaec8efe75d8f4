package search

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"segue/media"
)

// Doc is one thing that can be found.
type Doc struct {
	Kind       string // one of the kinds given to Open
	ID         string
	Name       string  // title or name: what it is called
	Also       []Text  // other texts whose words find it: artist, album, genres
	Popularity float64 // of whatever scale, the same one within a kind; 0 and less is unknown
	Genres     []string
	Year       int             // 0: unknown
	Artists    []string        // ids
	Source     json.RawMessage // what is returned; JSON
}

// Text is a searchable text and the name that highlights call it by.
type Text struct{ Field, Text string }

// shortPrefix: beginnings up to so many signs have lists of their own, since thousands of words share them; longer ones
// are ranges of the dictionary.
const shortPrefix = 3

// level is the popularity as segments keep it. It is the upper half of a float32, which sorts as the float does: a
// resolution of 0.4 %, on any scale.
func level(popularity float64) uint16 {
	if !(popularity > 0) {
		return 0
	}
	return uint16(math.Float32bits(float32(min(popularity, math.MaxFloat32))) >> 15)
}

func popularity(level uint16) float64 { return float64(math.Float32frombits(uint32(level) << 15)) }

// appendStored is the form on disk: a hash of all that a searcher can see, then strings with their lengths.
func (d Doc) appendStored(to []byte) []byte {
	str := func(s string) {
		to = binary.AppendUvarint(to, uint64(len(s)))
		to = append(to, s...)
	}
	from := len(to)
	to = append(to, make([]byte, 8)...)
	str(d.Name)
	to = binary.AppendUvarint(to, uint64(len(d.Also)))
	for _, t := range d.Also {
		str(t.Field)
		str(t.Text)
	}
	to = append(to, d.Source...)
	end := len(to)
	// The rest is hashed only. Two checksums are no worse than one of their length, and the processor makes them.
	str(d.Kind)
	str(d.ID)
	to = binary.AppendUvarint(to, uint64(level(d.Popularity)))
	to = binary.AppendVarint(to, int64(d.Year))
	for _, list := range [][]string{d.Genres, d.Artists} {
		to = binary.AppendUvarint(to, uint64(len(list)))
		for _, s := range list {
			str(s)
		}
	}
	body := to[from+8:]
	binary.LittleEndian.PutUint32(to[from:], crc32.Checksum(body, castagnoli))
	binary.LittleEndian.PutUint32(to[from+4:], crc32.ChecksumIEEE(body))
	return to[:end]
}

// hash tells whether two docs are the same to a searcher.
func (d Doc) hash() uint64 { return binary.LittleEndian.Uint64(d.appendStored(nil)) }

// readStored is the way back; Source shares b.
func readStored(b []byte) (d Doc, hash uint64, err error) {
	bad := fmt.Errorf("search index: stored document: %w", media.ErrCorrupt)
	if len(b) < 8 {
		return d, 0, bad
	}
	hash, b = binary.LittleEndian.Uint64(b), b[8:]
	number := func() uint64 {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			err = bad
			return 0
		}
		b = b[size:]
		return n
	}
	take := func() string {
		n := number()
		if n > uint64(len(b)) {
			err = bad
			return ""
		}
		s := string(b[:n])
		b = b[n:]
		return s
	}
	d.Name = take()
	for n := number(); n > 0 && err == nil; n-- {
		d.Also = append(d.Also, Text{take(), take()})
	}
	d.Source = b
	return d, hash, err
}

// key names a document among all kinds.
func key(kind, id string) string { return kind + "/" + id }

// terms gives the document's terms of the first four fields; one may come several times.
func (d Doc) terms(add func(field int, term string)) {
	chunks := split(d.Name)
	if k := exactKey(chunks); k != "" {
		add(inExact, k)
		if rest, ok := strings.CutPrefix(k, "the "); ok {
			add(inExact, rest)
		}
	}
	words(chunks, func(w string) {
		add(inName, w)
		add(inWords, w)
	})
	for _, t := range d.Also {
		words(split(t.Text), func(w string) { add(inWords, w) })
	}
	for _, g := range d.Genres {
		add(inFilter, genreTerm(g))
	}
	if d.Year != 0 {
		add(inFilter, yearTerm(d.Year))
	}
	for _, a := range d.Artists {
		add(inFilter, artistTerm(a))
	}
}

// words of a text.
func words(chunks []chunk, word func(string)) {
	for _, c := range chunks {
		if c.whole.text != "" {
			word(c.whole.text)
		}
		for _, p := range c.parts {
			word(p.text)
		}
	}
}

func genreTerm(g string) string {
	k := exactKey(split(g))
	return "g" + k
}
func yearTerm(y int) string {
	s := strconv.Itoa(y)
	return "y00000"[:max(1, 6-len(s))] + s
}
func artistTerm(a string) string { return "a" + a }

// clean makes a document that any mouth can swallow: short texts in valid UTF-8.
func clean(d Doc) Doc {
	d.Name = short(d.Name)
	d.Also = slices.Clone(d.Also)
	for i, t := range d.Also {
		d.Also[i].Text = short(t.Text)
	}
	return d
}

// maxText bounds each text of a document or query, in bytes: no name is longer, and nobody's is to cost more.
const maxText = 1 << 20

// short is the beginning of a text, in UTF-8.
func short(text string) string {
	text = text[:min(len(text), maxText)]
	for len(text) > maxText-utf8.UTFMax && !utf8.ValidString(text[max(0, len(text)-utf8.UTFMax):]) {
		text = text[:len(text)-1] // a sign that was cut in two
	}
	return strings.ToValidUTF8(text, "\ufffd")
}
