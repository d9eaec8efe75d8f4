package search

import (
	"slices"
	"unicode/utf8"
)

// typos is how many a word of so many letters may have. In the first letter only short words may: nobody misses that of
// a long one twice.
func typos(letters int) int {
	switch {
	case letters < 4:
		return 0
	case letters < 8:
		return 1
	}
	return 2
}

// nearly lists words of a dictionary that are w with a typo or two; of unfinished words also those that begin so. Letters
// swapped are one typo.
func nearly(d *dict, w string, prefix bool) []int {
	letters := utf8.RuneCountInString(w)
	var out []int
	for n := 1; n <= typos(letters) && len(out) == 0; n++ {
		first, end := 0, d.len()
		if n == 2 {
			_, size := utf8.DecodeRuneInString(w)
			first, end = d.prefix(w[:size])
		}
		out = walk(d, first, end, []rune(w), n, prefix && letters >= 5, 4*maxTerms)
	}
	if len(out) > maxTerms {
		// Those of about the same length are meant.
		slices.SortStableFunc(out, func(a, b int) int {
			return distance(len(d.strs.at(a)), len(w)) - distance(len(d.strs.at(b)), len(w))
		})
		out = out[:maxTerms]
	}
	return out
}

func distance(a, b int) int { return max(a-b, b-a) }

// walk goes through the words in [first, end) in their order and keeps the table of the edit distance (optimal string
// alignment) of what a word has in common with the one before. Where a beginning is too far from w already, all words
// with it are passed over at once.
func walk(d *dict, first, end int, w []rune, most int, prefix bool, limit int) (out []int) {
	const far = 1 << 6
	width := len(w) + 1
	table := make([]uint8, (maxWordSize+2)*width) // a row for each letter of the word, and one for none
	row := func(i int) []uint8 { return table[i*width : (i+1)*width] }
	for j := range width {
		table[j] = uint8(min(j, far))
	}
	var letters [maxWordSize + 1]rune
	var least, ends [maxWordSize + 2]int // of each row: its least value, and the bytes up to its letter
	var before, target []byte
	depth := 0
word:
	for i := first; i < end && len(out) < limit; {
		t := d.strs.at(i)
		common := 0
		for common < min(len(before), len(t)) && before[common] == t[common] {
			common++
		}
		for depth > 0 && ends[depth] > common {
			depth--
		}
		before = t
		for ends[depth] < len(t) {
			r, size := utf8.DecodeRune(t[ends[depth]:])
			letters[depth] = r
			depth++
			ends[depth] = ends[depth-1] + size
			last, here := row(depth-1), row(depth)
			// Only cells near the diagonal can be as low as most.
			low, high := max(1, depth-most), min(len(w), depth+most)
			if here[0] = uint8(min(depth, far)); low > 1 {
				here[low-1] = far
			}
			smallest := far
			if low == 1 {
				smallest = int(here[0])
			}
			for j := low; j <= high; j++ {
				v := last[j-1]
				if w[j-1] != r {
					v++
				}
				if j < depth+most { // the cell above is in its row's band
					v = min(v, last[j]+1)
				}
				v = min(v, here[j-1]+1)
				if depth > 1 && j > 1 && r == w[j-2] && letters[depth-2] == w[j-1] {
					v = min(v, row(depth - 2)[j-2]+1)
				}
				here[j] = v
				smallest = min(smallest, int(v))
			}
			least[depth] = smallest
			if prefix && low <= high && high == len(w) && int(here[len(w)]) <= most {
				for last := d.seek(after(append(target[:0], t[:ends[depth]]...)), i+1); i < last && i < end && len(out) < limit; i++ {
					out = append(out, i)
				}
				continue word
			}
			// The next row comes from this one, or by a swap from the one before.
			if low <= high && (smallest <= most || least[depth-1] < most) {
				continue
			}
			// No word with this beginning is near. Where the letters before have all the typos there may be, the one
			// here is of w, and the next such word can be looked up.
			target = append(target[:0], t[:ends[depth-1]]...)
			if next := nextOf(w[max(0, low-2):max(high, 0)], r); least[depth-1] < most {
				target = after(append(target, t[ends[depth-1]:ends[depth]]...))
			} else if next != 0 && low <= high {
				target = utf8.AppendRune(target, next)
			} else if target = after(target); len(target) == 0 {
				return out
			}
			i = d.seek(target, i+1)
			continue word
		}
		if distance(depth, len(w)) <= most && int(row(depth)[len(w)]) <= most {
			out = append(out, i)
		}
		i++
	}
	return out
}

// nextOf is the least of some letters above r; 0 when there is none.
func nextOf(letters []rune, r rune) (next rune) {
	for _, l := range letters {
		if l > r && (next == 0 || l < next) {
			next = l
		}
	}
	return next
}

// after is the least string above all that begin with s: no term has a byte 0xff, they are UTF-8.
func after(s []byte) []byte {
	if len(s) > 0 {
		s[len(s)-1]++
	}
	return s
}

// near reports whether two words are at most so many typos apart.
func near(a, b string, most int) bool {
	if distance(utf8.RuneCountInString(a), utf8.RuneCountInString(b)) > most {
		return false
	}
	one := dict{strs: strs{}}
	one.strs.add([]byte(a))
	return len(walk(&one, 0, 1, []rune(b), most, false, 1)) > 0
}
