package search

import (
	"cmp"
	"slices"
	"strings"
	"unicode/utf8"
)

// ranges finds the words of the question in a text: whole and, for the last one, by their beginning; a word that is not
// there so, in the middle of others or nearly.
func (q question) ranges(text string) [][2]int {
	var spans []span
	for _, c := range split(text) {
		spans = append(spans, c.parts...)
		if c.whole.text != "" {
			spans = append(spans, c.whole)
		}
	}
	var out [][2]int
	for i, w := range q.parts {
		had := len(out)
		for _, loose := range []bool{false, true} {
			if loose && !w.loose {
				break
			}
			for _, s := range spans {
				n, at, ok := covers(s, w.span, i == len(q.parts)-1, loose)
				if !ok {
					continue
				}
				start, end := s.start, s.end
				// Part of a word is marked when its letters stand in the text as they were folded.
				if n < len(s.text) && isASCII(text[s.start:s.end]) && s.end-s.start == len(s.text) {
					start += at
					end = start + n
				} else if at == 0 && n < len(s.text) {
					end = start + runesIn(text[start:s.end], utf8.RuneCountInString(s.text[:n]), utf8.RuneCountInString(s.text))
				}
				out = append(out, [2]int{start, end})
			}
			if len(out) > had {
				break
			}
		}
	}
	slices.SortFunc(out, func(a, b [2]int) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) })
	merged := out[:0]
	for _, r := range out {
		if n := len(merged); n > 0 && r[0] <= merged[n-1][1] {
			merged[n-1][1] = max(merged[n-1][1], r[1])
			continue
		}
		merged = append(merged, r)
	}
	return merged
}

// runesIn is the number of bytes of the first n of the text's signs, when folding kept their number; else all.
func runesIn(text string, n, folded int) int {
	if utf8.RuneCountInString(text) != folded {
		return len(text)
	}
	return len(begin(text, n))
}

// covers reports how many bytes of a text's word a query's word matches, and from where.
func covers(s, w span, last, loose bool) (n, at int, ok bool) {
	words := (s.kind == plain || s.kind == joined) && (w.kind == plain || w.kind == joined)
	if !loose {
		return len(w.text), 0, s.text == w.text || last && words && strings.HasPrefix(s.text, w.text)
	}
	letters := utf8.RuneCountInString(w.text)
	if !words || letters < 3 {
		return 0, 0, false
	}
	if i := strings.Index(s.text, w.text); i >= 0 {
		return len(w.text), i, true
	}
	most := typos(letters)
	if most == 0 {
		return 0, 0, false
	}
	if near(s.text, w.text, most) {
		return len(s.text), 0, true
	}
	if b := begin(s.text, letters); last && letters >= 5 && near(b, w.text, most) {
		return len(b), 0, true
	}
	return 0, 0, false
}
