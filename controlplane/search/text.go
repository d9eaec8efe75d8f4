package search

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

const (
	maxWords    = 64  // words of one text that are indexed; what comes after them is not found
	maxParts    = 256 // of one chunk that are indexed: whoever compares two texts pays for each pair
	maxWordSize = 64  // bytes of a folded word that count; longer ones are found by their beginning
)

// span is one thing that can be found in a text, and where it stands there (bytes of the text as given).
type span struct {
	text       string
	start, end int
	kind       spanKind
}

type spanKind uint8

const (
	plain  spanKind = iota // a word: found by its beginning and with typos
	joined                 // parts of a word with marks in it, without them: acdc, dont
	gram                   // one or two signs of a script that puts no spaces: found as it is
	symbol                 // an emoji, or a name of nothing but marks: found as it is
)

// chunk is what stands between spaces. parts are its words and grams in order; whole is its joined form, "" when that is
// the same as its only part.
type chunk struct {
	parts []span
	whole span
}

// split takes a text apart: what docs and queries are both made of. A text of a million signs costs what its first
// maxWords words cost.
func split(text string) []chunk {
	if isASCII(text) {
		if out, ok := splitPlain(text); ok {
			return out
		}
	}
	return splitAny(text)
}

func splitAny(text string) []chunk {
	var out []chunk
	words := 0
	for pos := 0; pos < len(text) && words < maxWords; {
		r, size := utf8.DecodeRuneInString(text[pos:])
		if unicode.IsSpace(r) || r == '\u200b' {
			pos += size
			continue
		}
		end := pos
		for end < len(text) && end-pos < 1024 {
			r, size := utf8.DecodeRuneInString(text[end:])
			if unicode.IsSpace(r) || r == '\u200b' {
				break
			}
			end += size
		}
		if c := newChunk(text, pos, end); len(c.parts) > 0 {
			c.parts = c.parts[:min(len(c.parts), maxParts)]
			words += len(c.parts)
			out = append(out, c)
		}
		pos = end
	}
	return out
}

// splitPlain is split for what most texts are: ASCII words of letters and digits, with marks at their ends at most. ok is
// false for any other text.
func splitPlain(text string) (_ []chunk, ok bool) {
	text = strings.ToLower(text)
	n := 0
	for i := range len(text) {
		if isWordByte(text[i]) && (i == 0 || !isWordByte(text[i-1])) {
			n++
		}
	}
	n = min(n, maxWords)
	out, spans := make([]chunk, 0, n), make([]span, n)
	for pos := 0; pos < len(text) && len(out) < maxWords; {
		if isSpaceByte(text[pos]) {
			pos++
			continue
		}
		from := pos
		for pos < len(text) && !isWordByte(text[pos]) && !isSpaceByte(text[pos]) {
			pos++
		}
		start := pos
		for pos < len(text) && isWordByte(text[pos]) {
			pos++
		}
		end := pos
		for pos < len(text) && !isWordByte(text[pos]) && !isSpaceByte(text[pos]) {
			pos++
		}
		if start == end || pos-from > maxWordSize || pos < len(text) && !isSpaceByte(text[pos]) {
			return nil, false
		}
		s := spans[len(out) : len(out)+1 : len(out)+1]
		s[0] = span{text[start:end], start, end, plain}
		out = append(out, chunk{parts: s})
	}
	return out, true
}

func isWordByte(c byte) bool  { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }
func isSpaceByte(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

func newChunk(text string, start, end int) chunk {
	var c chunk
	var whole strings.Builder
	begun, marks, grams, apostrophe := -1, 0, false, false
	var symbols []span
	flush := func(to int) {
		if begun < 0 {
			return
		}
		if w := foldWord(text[begun:to]); w != "" {
			from := len(c.parts)
			c.parts = appendWord(c.parts, w, text[begun:to], begun, to)
			grams = grams || slices.ContainsFunc(c.parts[from:], func(s span) bool { return s.kind == gram })
			whole.WriteString(w)
		}
		begun = -1
	}
	for pos := start; pos < end; {
		r, size := utf8.DecodeRuneInString(text[pos:])
		switch {
		case unicode.IsLetter(r) || unicode.IsNumber(r) || unicode.IsMark(r) && r != '\ufe0f':
			if begun < 0 {
				begun = pos
			}
		case isApostrophe(r):
			flush(pos)
			apostrophe = true
			marks++
		case unicode.Is(unicode.So, r):
			flush(pos)
			symbols = append(symbols, span{string(r), pos, pos + size, symbol})
		default:
			flush(pos)
			marks++
		}
		pos += size
	}
	flush(end)
	switch {
	case len(c.parts) == 0 && len(symbols) == 0:
		switch t := strings.TrimFunc(norm.NFKC.String(text[start:end]), unicode.IsControl); {
		case t == "&":
			c.parts = []span{{"and", start, end, plain}}
		case t != "" && utf8.ValidString(t):
			c.parts = []span{{clip(t), start, end, symbol}}
		}
	case len(c.parts) > 1 && !grams && (marks > 0 || apostrophe):
		c.whole = span{clip(whole.String()), start, end, joined}
	}
	c.parts = append(c.parts, symbols...)
	return c
}

func isApostrophe(r rune) bool {
	return r == '\'' || r == '\u2019' || r == '\u2018' || r == '\u02bc' || r == '`' || r == '\u00b4' || r == '\uff07'
}

// appendWord adds a folded word; its runs in scripts without spaces become single signs and pairs.
func appendWord(to []span, w, original string, start, end int) []span {
	if isASCII(w) || strings.IndexFunc(w, isDense) < 0 {
		return append(to, span{clip(w), start, end, plain})
	}
	// Offsets of signs are exact when folding kept their number, else the whole word is pointed at.
	runes := []rune(w)
	at := make([]int, 0, len(runes)+1)
	for i := range original {
		at = append(at, start+i)
	}
	exact := len(at) == len(runes)
	at = append(at, end)
	place := func(i, j int) (int, int) {
		if exact {
			return at[i], at[j]
		}
		return start, end
	}
	for i := 0; i < len(runes); {
		j := i + 1
		for j < len(runes) && isDense(runes[j]) == isDense(runes[i]) {
			j++
		}
		if !isDense(runes[i]) {
			s, e := place(i, j)
			to = append(to, span{clip(string(runes[i:j])), s, e, plain})
			i = j
			continue
		}
		for k := i; k < j; k++ {
			s, e := place(k, k+1)
			to = append(to, span{string(runes[k]), s, e, gram})
			if k+1 < j {
				s, e := place(k, k+2)
				to = append(to, span{string(runes[k : k+2]), s, e, gram})
			}
		}
		i = j
	}
	return to
}

// isDense: scripts whose words are not set apart by spaces, and Hangul, whose words carry their endings.
func isDense(r rune) bool {
	return r >= 0xe00 && (unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar, unicode.Bopomofo) || r == 'ー')
}

// clip cuts a word at a rune, so that no dictionary holds a book.
func clip(w string) string {
	if len(w) <= maxWordSize {
		return w
	}
	n := maxWordSize
	for n > 0 && !utf8.RuneStart(w[n]) {
		n--
	}
	return w[:n]
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// letters that no decomposition takes apart.
var letters = map[rune]string{'ß': "ss", 'æ': "ae", 'œ': "oe", 'ø': "o", 'ł': "l", 'đ': "d", 'ħ': "h", 'þ': "th", 'ð': "d", 'ı': "i", 'ŋ': "n", 'ŧ': "t", 'ƒ': "f",
	'ς': "σ", 'ə': "e", 'ʻ': "", 'ʼ': "", 'ـ': "", 'ى': "ي", 'ة': "ه", 'ґ': "г", 'ѐ': "е"}

// foldWord takes case, accents, width and ligatures away, and everything that is no letter or digit. Marks that make
// other letters stay: the vowels of Indic scripts, the voicing of kana (whose two alphabets become one).
func foldWord(s string) string {
	if isASCII(s) {
		return strings.ToLower(s)
	}
	var b strings.Builder
	b.Grow(len(s))
	compose := false
	for _, r := range norm.NFKD.String(strings.ToLower(s)) {
		if t, ok := letters[r]; ok {
			b.WriteString(t)
			continue
		}
		switch {
		case isAccent(r):
		case r >= 'ァ' && r <= 'ヶ':
			b.WriteRune(r - ('ァ' - 'ぁ'))
		case unicode.IsLetter(r) || unicode.IsNumber(r) || unicode.IsMark(r):
			compose = compose || r > 0x1000
			b.WriteRune(unicode.ToLower(r))
		}
	}
	if compose {
		return norm.NFC.String(b.String()) // Hangul and kana
	}
	return b.String()
}

// isAccent: combining marks of Latin, Greek and Cyrillic, points of Hebrew and Arabic, variation selectors.
func isAccent(r rune) bool {
	return r >= 0x300 && r <= 0x36f || r >= 0x1ab0 && r <= 0x1aff || r >= 0x1dc0 && r <= 0x1dff || r >= 0x20d0 && r <= 0x20ff || r >= 0xfe00 && r <= 0xfe2f ||
		r >= 0x591 && r <= 0x5c7 || r >= 0x610 && r <= 0x61a || r >= 0x64b && r <= 0x65f || r == 0x670
}

// exactKey is a text as a whole: two with the same key are the same to a listener. "" when there is nothing in it, or
// too much.
func exactKey(chunks []chunk) string {
	var b strings.Builder
	for i, c := range chunks {
		if i > 0 {
			b.WriteByte(' ')
		}
		if c.whole.text != "" {
			b.WriteString(c.whole.text)
			continue
		}
		dense := ""
		for j, p := range c.parts {
			if p.kind == gram && utf8.RuneCountInString(p.text) == 2 {
				continue // pairs say again what the signs say
			}
			if j > 0 && p.kind != gram && dense == "" {
				b.WriteByte(' ')
			}
			if p.kind == gram {
				dense = p.text
			} else {
				dense = ""
			}
			b.WriteString(p.text)
		}
	}
	if b.Len() > 256 {
		return ""
	}
	return b.String()
}

// begin is the first n runes of s, or all.
func begin(s string, n int) string {
	for i := range s {
		if n == 0 {
			return s[:i]
		}
		n--
	}
	return s
}
