package search

// Split for tests, by the way of most texts and by that of all.
func Split(text string) (plain, any []string, ok bool) {
	flat := func(list []chunk) (out []string) {
		for _, c := range list {
			for _, p := range c.parts {
				out = append(out, p.text, text[p.start:p.end])
			}
			out = append(out, "|"+c.whole.text)
		}
		return out
	}
	list, ok := splitPlain(text)
	return flat(list), flat(splitAny(text)), ok
}

// Nearly lists the words that are a typo or more from w, as the index finds them.
func Nearly(words []string, w string, most int, prefix bool) (out []string) {
	var d dict
	for _, word := range words {
		d.strs.add([]byte(word))
	}
	for _, i := range walk(&d, 0, d.len(), []rune(w), most, prefix, 1<<30) {
		out = append(out, words[i])
	}
	return out
}
