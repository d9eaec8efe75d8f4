package search

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"segue/media"

	"github.com/blevesearch/bleve/v2/document"
	index "github.com/blevesearch/bleve_index_api"
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

// Fields of the index. Their names are short since every segment holds them; a posting is a document number and no more.
const (
	fieldExact   = "x" // the whole name, and behind shortKey its first signs
	fieldName    = "n" // words of the name
	fieldWords   = "w" // words of the name and of everything else
	fieldNamePre = "q" // beginnings of the name's words, up to shortPrefix signs
	fieldPre     = "p" // beginnings of all words
	fieldRank    = "r" // kind and popularity, one term per document: rankTerm
	fieldFilter  = "f" // genre, year, artist id
	fieldStored  = "s" // what comes out
)

// shortPrefix: beginnings up to so many signs have postings of their own, since thousands of words share them; longer
// ones are looked up in the dictionary.
const shortPrefix = 3

const shortKey = "\x01"

// rankTerm sorts by kind and popularity. The number is the upper half of a float32, which sorts as the float does: a
// resolution of 0.4 %, on any scale.
func rankTerm(kind byte, popularity float64) string {
	l := level(popularity)
	return string([]byte{kind, byte(l >> 8), byte(l)})
}

func level(popularity float64) uint16 {
	if !(popularity > 0) {
		return 0
	}
	return uint16(math.Float32bits(float32(min(popularity, math.MaxFloat32))) >> 15)
}

func popularity(level uint16) float64 { return float64(math.Float32frombits(uint32(level) << 15)) }

// hash tells whether two docs are the same to a searcher.
func (d Doc) hash() uint64 {
	h := fnv.New64a()
	add := func(s string) { fmt.Fprintf(h, "%d:%s", len(s), s) }
	add(generation)
	add(d.Kind)
	add(d.ID)
	add(d.Name)
	for _, t := range d.Also {
		add(t.Field)
		add(t.Text)
	}
	add(strconv.Itoa(int(level(d.Popularity))) + " " + strconv.Itoa(d.Year))
	for _, list := range [][]string{d.Genres, d.Artists} {
		add(strconv.Itoa(len(list)))
		for _, s := range list {
			add(s)
		}
	}
	add(string(d.Source))
	return h.Sum64()
}

// stored is the form on disk: hash, then strings with their lengths.
func (d Doc) stored() []byte {
	b := binary.LittleEndian.AppendUint64(make([]byte, 0, len(d.Source)+len(d.Name)+128), d.hash())
	add := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	add(d.Name)
	b = binary.AppendUvarint(b, uint64(len(d.Also)))
	for _, t := range d.Also {
		add(t.Field)
		add(t.Text)
	}
	return append(b, d.Source...)
}

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

// key names a document in the index.
func key(kind, id string) string { return kind + "/" + id }

// words collects distinct terms of a text.
type words map[string]bool

func (w words) add(chunks []chunk) {
	for _, c := range chunks {
		if c.whole.text != "" {
			w[c.whole.text] = true
		}
		for _, p := range c.parts {
			w[p.text] = w[p.text] || p.kind == plain
		}
	}
}

// begins adds the short beginnings of words; true in w means that a word has beginnings.
func (w words) begins() words {
	out := make(words, 3*len(w))
	for t, plain := range w {
		for n := 1; plain && n <= shortPrefix; n++ {
			b := begin(t, n)
			out[b] = true
			if len(b) == len(t) {
				break
			}
		}
	}
	return out
}

// entry is a Doc on its way into a segment. Terms are made by the analysis workers of scorch, not by the caller.
type entry struct {
	doc    Doc
	kind   byte
	fields []index.Field
}

func newEntry(d Doc, kind byte) *entry {
	e := &entry{doc: d, kind: kind}
	e.fields = []index.Field{&terms{name: fieldRank, entry: e}}
	for _, f := range []string{fieldExact, fieldName, fieldWords, fieldNamePre, fieldPre, fieldFilter} {
		e.fields = append(e.fields, &terms{name: f})
	}
	return e
}

// analyze fills all fields; scorch calls it through the first one.
func (e *entry) analyze() {
	d := e.doc
	chunks := split(d.Name)
	exact, name := words{}, words{}
	if k := exactKey(chunks); k != "" {
		exact[k] = true
		for n := 1; n <= shortPrefix; n++ {
			exact[shortKey+begin(k, n)] = true
		}
		if rest, ok := strings.CutPrefix(k, "the "); ok {
			exact[rest] = true
		}
	}
	name.add(chunks)
	all := make(words, 2*len(name))
	all.add(chunks)
	for _, t := range d.Also {
		all.add(split(t.Text))
	}
	filter := words{}
	for _, g := range d.Genres {
		filter[genreTerm(g)] = true
	}
	if d.Year != 0 {
		filter[yearTerm(d.Year)] = true
	}
	for _, a := range d.Artists {
		filter[artistTerm(a)] = true
	}
	for i, w := range []words{{rankTerm(e.kind, d.Popularity): true}, exact, name, all, name.begins(), all.begins(), filter} {
		e.fields[i].(*terms).set(w)
	}
}

func genreTerm(g string) string {
	k := exactKey(split(g))
	return "g" + k
}
func yearTerm(y int) string      { return fmt.Sprintf("y%05d", y) }
func artistTerm(a string) string { return "a" + a }

// The methods below are index.Document.
func (e *entry) ID() string { return key(e.doc.Kind, e.doc.ID) }
func (e *entry) Size() int  { return len(e.doc.Name) + len(e.doc.Source) + 1024 }
func (e *entry) VisitFields(f index.FieldVisitor) {
	for _, field := range e.fields {
		f(field)
	}
}
func (e *entry) VisitComposite(index.CompositeFieldVisitor) {}
func (e *entry) HasComposite() bool                         { return false }
func (e *entry) NumPlainTextBytes() uint64                  { return uint64(len(e.doc.Name)) }
func (e *entry) StoredFieldsBytes() uint64                  { return uint64(len(e.doc.Source)) }
func (e *entry) Indexed() bool                              { return false }
func (e *entry) AddIDField() {
	e.fields = append(e.fields, document.NewTextFieldCustom("_id", nil, []byte(e.ID()), index.IndexField|index.StoreField, nil),
		document.NewTextFieldCustom(fieldStored, nil, e.doc.stored(), index.StoreField, nil))
}

// terms is one index.Field.
type terms struct {
	name  string
	entry *entry // of the first field only
	freq  index.TokenFrequencies
}

// set: every term stands once. Dense fields carry no frequency, which is a byte less a posting; in the others it lets
// zap write a term of one document in one word.
func (t *terms) set(w words) {
	n := 1
	if t.name == fieldPre || t.name == fieldNamePre || t.name == fieldRank {
		n = 0
	}
	t.freq = make(index.TokenFrequencies, len(w))
	all := make([]index.TokenFreq, len(w))
	i := 0
	for s := range w {
		all[i].Term = []byte(s)
		all[i].SetFrequency(n)
		t.freq[s] = &all[i]
		i++
	}
}

func (t *terms) Analyze() {
	if t.entry != nil {
		t.entry.analyze()
	}
}
func (t *terms) Name() string                                     { return t.name }
func (t *terms) Value() []byte                                    { return nil }
func (t *terms) ArrayPositions() []uint64                         { return nil }
func (t *terms) EncodedFieldType() byte                           { return 't' }
func (t *terms) Options() index.FieldIndexingOptions              { return index.IndexField }
func (t *terms) AnalyzedLength() int                              { return 1 }
func (t *terms) AnalyzedTokenFrequencies() index.TokenFrequencies { return t.freq }
func (t *terms) NumPlainTextBytes() uint64                        { return 0 }

// clean makes a document that any mouth can swallow: valid UTF-8, sorted lists.
func clean(d Doc) Doc {
	if !utf8.ValidString(d.Name) {
		d.Name = strings.ToValidUTF8(d.Name, "\ufffd")
	}
	d.Also = slices.Clone(d.Also)
	for i, t := range d.Also {
		d.Also[i].Text = strings.ToValidUTF8(t.Text, "\ufffd")
	}
	return d
}
