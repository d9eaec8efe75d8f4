package cmcd

import (
	"strconv"
	"strings"
	"unsafe"
)

// cut splits a text at the first separator that stands outside of strings and inner lists (RFC 9651 3.1, 3.3.3). Where
// a string or list does not end, neither does the first part.
func cut(s string, separator byte) (first, rest string) {
	quoted, depth := false, 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == separator && depth == 0:
			return s[:i], s[i+1:]
		case c == '(':
			depth++
		case c == ')':
			depth = max(0, depth-1)
		}
	}
	return s, ""
}

func trim(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

func isKey(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') && c != '-' && c != '_' && c != '.' && c != '*' {
			return false
		}
	}
	return s != ""
}

// member takes the items of an inner list apart: "3200;v 160;a" gives "3200;v" and the rest.
func member(s string) (item, rest string) { return cut(strings.TrimLeft(s, " "), ' ') }

// inner returns what is between the parentheses of a value that is an inner list.
func inner(value string) (list string, isList, ok bool) {
	if !strings.HasPrefix(value, "(") {
		return "", false, true
	}
	value, _ = cut(value, ';') // parameters of the list itself
	if len(value) < 2 || value[len(value)-1] != ')' {
		return "", true, false
	}
	return value[1 : len(value)-1], true, true
}

// numberOf reads a number, or of an inner list the one for audio, else the first.
func numberOf(value string) (float64, bool) {
	list, isList, ok := inner(value)
	if !isList {
		bare, _ := cut(value, ';')
		return bareNumber(bare)
	}
	if !ok {
		return 0, false
	}
	found, first := 0.0, true
	for list != "" {
		var item string
		if item, list = member(list); item == "" {
			continue
		}
		bare, params := cut(item, ';')
		f, ok := bareNumber(bare)
		if !ok {
			return 0, false
		}
		audio := false
		for params != "" && !audio {
			var p string
			p, params = cut(params, ';')
			audio = p == "a"
		}
		if first || audio {
			found, first = f, false
		}
		if audio {
			break
		}
	}
	return found, !first
}

// bareNumber is an integer or decimal of RFC 9651 3.3: at most 15 digits, no exponent.
func bareNumber(s string) (float64, bool) {
	n := 0
	for i := 0; i < len(s) && i < 15 && s[i] >= '0' && s[i] <= '9'; i++ { // what nearly all are
		if n = n*10 + int(s[i]-'0'); i == len(s)-1 {
			return float64(n), true
		}
	}
	if len(s) > 17 || strings.Trim(s, "-.0123456789") != "" {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil
}

// textOf reads a string or token, or the first of an inner list.
func textOf(value string) (string, bool) {
	list, isList, ok := inner(value)
	if isList {
		if !ok {
			return "", false
		}
		value, _ = member(list)
	}
	value, _ = cut(value, ';')
	if len(value) > maxText {
		return "", false
	}
	if !strings.HasPrefix(value, `"`) {
		return value, value != "" && strings.IndexFunc(value, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '(' || r == ')' }) < 0
	}
	if len(value) < 2 || value[len(value)-1] != '"' {
		return "", false
	}
	s := value[1 : len(value)-1]
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return "", false
		}
	}
	if strings.IndexByte(s, '\\') < 0 {
		return s, strings.IndexByte(s, '"') < 0
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '"' {
			return "", false
		}
		if s[i] == '\\' {
			if i++; i == len(s) {
				return "", false
			}
		}
		b = append(b, s[i])
	}
	return string(b), true
}

// nextOf reads nor: in version 1 one string that is URL-encoded once more, in version 2 an inner list of strings, each
// perhaps with a range as parameter r.
func nextOf(value string) ([]Next, bool) {
	list, isList, ok := inner(value)
	if !isList {
		path, ok := textOf(value)
		if !ok {
			return nil, false
		}
		path, ok = unescape(path, false)
		return []Next{{Path: path}}, ok
	}
	var out []Next
	for ok && list != "" {
		var item string
		if item, list = member(list); item == "" {
			continue
		}
		if len(out) == MaxNext {
			return out, false
		}
		bare, params := cut(item, ';')
		var n Next
		if n.Path, ok = textOf(bare); !ok {
			break
		}
		for ok && params != "" {
			var p string
			p, params = cut(params, ';')
			if r, isRange := strings.CutPrefix(strings.TrimLeft(p, " "), "r="); isRange {
				n.Range, ok = textOf(r)
			}
		}
		if ok {
			out = append(out, n)
		}
	}
	return out, ok && len(out) > 0
}

// unescape decodes percent-encoding; a broken one stays as it is, and ok is false. plus says that "+" is a space.
func unescape(s string, plus bool) (out string, ok bool) {
	if strings.IndexByte(s, '%') < 0 && (!plus || strings.IndexByte(s, '+') < 0) {
		return s, true
	}
	b := make([]byte, len(s))
	n := 0
	ok = true
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '%' && i+2 < len(s) && hex[s[i+1]]|hex[s[i+2]] < 16:
			c = hex[s[i+1]]<<4 | hex[s[i+2]]
			i += 2
		case c == '%':
			ok = false
		case c == '+' && plus:
			c = ' '
		}
		b[n] = c
		n++
	}
	return unsafe.String(unsafe.SliceData(b), n), ok // nobody else has b
}

// hex is the value of a hexadecimal digit, 16 of anything else.
var hex = func() (table [256]byte) {
	for c := range table {
		table[c] = 16
	}
	for i := range byte(10) {
		table['0'+i] = i
	}
	for i := range byte(6) {
		table['a'+i], table['A'+i] = 10+i, 10+i
	}
	return table
}()

// AppendJSON appends what was said as a JSON object, under the names of the specification.
func (d *Data) AppendJSON(b []byte) []byte {
	b = append(b, '{')
	first := true
	for i, key := range keys {
		if d.sent&(1<<i) == 0 || key == "nrr" && d.Has("nor") { // nor holds the range
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		if key == "nrr" {
			key = "nor"
		}
		b = append(AppendString(b, key), ':')
		_, field := d.field(key)
		switch p := field.(type) {
		case *bool:
			b = strconv.AppendBool(b, *p)
		case *int64:
			b = strconv.AppendInt(b, *p, 10)
		case *float64:
			b = strconv.AppendFloat(b, *p, 'f', -1, 64)
		case *string:
			b = AppendString(b, *p)
		case *[]Next:
			b = append(b, '[')
			for j, n := range *p {
				if j > 0 {
					b = append(b, ',')
				}
				b = append(AppendString(append(b, `{"path":`...), n.Path), `,"range":`...)
				b = append(AppendString(b, n.Range), '}')
			}
			b = append(b, ']')
		}
	}
	return append(b, '}')
}

// AppendString appends s as a JSON string (RFC 8259 7). Bytes that are no UTF-8 become U+FFFD.
func AppendString(b []byte, s string) []byte {
	const digits = "0123456789abcdef"
	b = append(b, '"')
	plain := 0
	for i, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(append(b, s[plain:i]...), '\\', byte(r))
		case r < ' ':
			b = append(append(b, s[plain:i]...), '\\', 'u', '0', '0', digits[r>>4], digits[r&15])
		case r == 0xfffd && (i+2 >= len(s) || s[i:i+3] != "\uFFFD"):
			b = append(append(b, s[plain:i]...), "\uFFFD"...)
		default:
			continue
		}
		plain = i + 1
	}
	return append(append(b, s[plain:]...), '"')
}
