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

// entry is a Doc on its way into a segment. Terms are made by the analysis workers of scorch, not by the caller.
type entry struct {
	doc    Doc
	kind   byte
	fields []index.Field
}

func newEntry(d Doc, kind byte) *entry {
	e := &entry{doc: d, kind: kind}
	e.fields = []index.Field{&terms{name: fieldRank, entry: e}}
	for _, f := range fieldNames {
		e.fields = append(e.fields, &terms{name: f})
	}
	return e
}

// analyze fills all fields; scorch calls it through the first one.
func (e *entry) analyze() {
	d := e.doc
	set := func(field, size int) func(string) {
		t := e.fields[1+field].(*terms)
		t.freq = make(index.TokenFrequencies, size)
		once := t.once()
		return func(term string) { t.freq[term] = once }
	}
	e.fields[0].(*terms).freq = index.TokenFrequencies{rankTerm(e.kind, d.Popularity): e.fields[0].(*terms).once()}
	chunks := split(d.Name)
	exact := set(inExact, 5)
	if k := exactKey(chunks); k != "" {
		exact(k)
		for n := 1; n <= shortPrefix; n++ {
			exact(shortKey + begin(k, n))
		}
		if rest, ok := strings.CutPrefix(k, "the "); ok {
			exact(rest)
		}
	}
	n := 2 * len(chunks)
	name, namePre := set(inName, n), set(inNamePre, 2*n)
	also := make([][]chunk, len(d.Also))
	for i, t := range d.Also {
		also[i] = split(t.Text)
		n += 2 * len(also[i])
	}
	all, pre := set(inWords, n), set(inPre, 2*n)
	addTerms(chunks, name, namePre)
	addTerms(chunks, all, pre)
	for _, c := range also {
		addTerms(c, all, pre)
	}
	filter := set(inFilter, len(d.Genres)+len(d.Artists)+1)
	for _, g := range d.Genres {
		filter(genreTerm(g))
	}
	if d.Year != 0 {
		filter(yearTerm(d.Year))
	}
	for _, a := range d.Artists {
		filter(artistTerm(a))
	}
}

// addTerms gives the words of a text, and their short beginnings.
func addTerms(chunks []chunk, word, pre func(string)) {
	begins := func(t string) {
		for n := 1; n <= shortPrefix; n++ {
			b := begin(t, n)
			if pre(b); len(b) == len(t) {
				break
			}
		}
	}
	for _, c := range chunks {
		if c.whole.text != "" {
			word(c.whole.text)
			begins(c.whole.text)
		}
		for _, p := range c.parts {
			if word(p.text); p.kind == plain {
				begins(p.text)
			}
		}
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

// Every term stands once, so that all share one of these two. Dense fields carry no frequency, which is a byte less a
// posting; in the others it lets zap write a term of one document in one word.
var never, once = func() (a, b *index.TokenFreq) {
	a, b = &index.TokenFreq{}, &index.TokenFreq{}
	b.SetFrequency(1)
	return a, b
}()

func (t *terms) once() *index.TokenFreq {
	if t.name == fieldPre || t.name == fieldNamePre || t.name == fieldRank {
		return never
	}
	return once
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
	d.Name = short(d.Name)
	d.Also = slices.Clone(d.Also)
	for i, t := range d.Also {
		d.Also[i].Text = short(t.Text)
	}
	return d
}

// maxText bounds each text of a document or query, in bytes: no name is longer, and nobody's is to cost more.
const maxText = 2000

// short is the beginning of a text, in UTF-8.
func short(text string) string {
	text = text[:min(len(text), maxText)]
	for len(text) > maxText-utf8.UTFMax && !utf8.ValidString(text[max(0, len(text)-utf8.UTFMax):]) {
		text = text[:len(text)-1] // a sign that was cut in two
	}
	return strings.ToValidUTF8(text, "\ufffd")
}
