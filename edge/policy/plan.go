package policy

import (
	"cmp"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Request is what of a request decides the answer. Empty fields are absent headers.
type Request struct {
	Method            string // GET or HEAD
	Range             string
	IfRange           string
	IfMatch           string
	IfNoneMatch       string
	IfModifiedSince   string
	IfUnmodifiedSince string
}

// Object is the selected representation. ETag has its quotes, and W/ when it is weak; empty, or a zero time: unknown.
type Object struct {
	Size    int64
	ETag    string
	ModTime time.Time
	Date    time.Time // of the response: stands in for ModTime in If-Modified-Since, RFC 9111 4.3.2
}

// Answer is the status and the bytes that go out: Length bytes from Offset, or, when Parts is set, a multipart of those.
// Only 200 and 206 have a body.
type Answer struct {
	Status         int
	Offset, Length int64
	Parts          []Part
}

// Part is one range of several: Length bytes from Offset.
type Part struct{ Offset, Length int64 }

// MaxParts bounds the ranges of one request. RFC 9110 14.2 lets a server ignore what looks like an attack: more ranges
// than that, ranges that overlap, or that together are more than the object.
const MaxParts = 16

// Plan decides the answer to a request on an object. It follows the order of RFC 9110 13.2.2.
func Plan(r Request, o Object) Answer {
	if r.IfMatch != "" {
		if !matches(r.IfMatch, o.ETag, true) {
			return Answer{Status: http.StatusPreconditionFailed}
		}
	} else if at, ok := date(r.IfUnmodifiedSince); ok && !o.ModTime.IsZero() && o.ModTime.After(at) {
		return Answer{Status: http.StatusPreconditionFailed}
	}
	if r.IfNoneMatch != "" {
		if matches(r.IfNoneMatch, o.ETag, false) {
			return Answer{Status: http.StatusNotModified}
		}
	} else if at, ok := date(r.IfModifiedSince); ok {
		if since := cmp.Or(o.ModTime, o.Date); !since.IsZero() && !since.After(at) {
			return Answer{Status: http.StatusNotModified}
		}
	}
	whole := Answer{Status: http.StatusOK, Length: o.Size}
	// RFC 9110 14.2: Range is defined for GET only.
	if r.Range == "" || r.Method != http.MethodGet || !rangeStillHolds(r.IfRange, o) {
		return whole
	}
	if spec, plain := strings.CutPrefix(r.Range, "bytes="); plain && strings.IndexByte(spec, ',') < 0 { // nearly always
		if offset, length, kind := parseRange(spec, o.Size); kind == rangeGood {
			return Answer{Status: http.StatusPartialContent, Offset: offset, Length: length}
		}
	}
	parts, ok := Ranges(r.Range, o.Size)
	switch {
	case !ok:
		return whole
	case len(parts) == 0:
		return Answer{Status: http.StatusRequestedRangeNotSatisfiable}
	case len(parts) == 1:
		return Answer{Status: http.StatusPartialContent, Offset: parts[0].Offset, Length: parts[0].Length}
	}
	return Answer{Status: http.StatusPartialContent, Parts: parts}
}

// Ranges reads a Range field against the size of an object: RFC 9110 14.1.2, 14.2. ok is false for what is ignored:
// another unit, broken syntax, and what MaxParts says. No part means that none can be satisfied.
func Ranges(field string, size int64) (parts []Part, ok bool) {
	unit, set, ok := strings.Cut(field, "=")
	if !ok || !strings.EqualFold(strings.TrimSpace(unit), "bytes") {
		return nil, false
	}
	total := int64(0)
	for n := 0; ; n++ {
		spec, rest, more := strings.Cut(set, ",")
		set = rest
		if spec = strings.Trim(spec, " \t"); spec != "" {
			offset, length, kind := parseRange(spec, size)
			switch {
			case kind == rangeIgnored || n >= MaxParts:
				return nil, false
			case kind == rangeGood:
				for _, p := range parts {
					if offset < p.Offset+p.Length && p.Offset < offset+length {
						return nil, false
					}
				}
				if total += length; total > size {
					return nil, false
				}
				parts = append(parts, Part{offset, length})
			}
		} else if !more && n == 0 {
			return nil, false
		}
		if !more {
			return parts, true
		}
	}
}

// rangeStillHolds is RFC 9110 13.1.5: a strong ETag or an exact date, else the whole object is sent.
func rangeStillHolds(ifRange string, o Object) bool {
	switch {
	case ifRange == "":
		return true
	case strings.HasPrefix(ifRange, `"`):
		return ifRange == o.ETag // a weak one begins with W
	case strings.HasPrefix(ifRange, "W/"):
		return false
	}
	at, ok := date(ifRange)
	return ok && !o.ModTime.IsZero() && o.ModTime.Equal(at)
}

const (
	rangeGood = iota
	rangeIgnored
	rangeUnsatisfiable
)

// parseRange reads one range-spec of RFC 9110 14.1.2.
func parseRange(spec string, size int64) (offset, length int64, kind int) {
	first, last, ok := strings.Cut(spec, "-")
	if !ok {
		return 0, 0, rangeIgnored
	}
	if first == "" { // suffix: the last n bytes
		n, ok := number(last)
		switch {
		case !ok:
			return 0, 0, rangeIgnored
		case n == 0 || size == 0:
			return 0, 0, rangeUnsatisfiable
		}
		n = min(n, size)
		return size - n, n, rangeGood
	}
	from, ok := number(first)
	if !ok {
		return 0, 0, rangeIgnored
	}
	to := size - 1
	if last != "" {
		n, ok := number(last)
		if !ok || n < from {
			return 0, 0, rangeIgnored
		}
		to = min(to, n)
	}
	if from >= size {
		return 0, 0, rangeUnsatisfiable
	}
	return from, to - from + 1, rangeGood
}

// number reads 1*DIGIT; what does not fit is as large as can be.
func number(s string) (int64, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 1<<63 - 1, true
	}
	return n, true
}

// matches is RFC 9110 13.1.1 and 13.1.2: "*" or a list of entity tags, compared strongly or weakly.
func matches(list, etag string, strong bool) bool {
	if strings.TrimSpace(list) == "*" {
		return true
	}
	for list != "" {
		list = strings.TrimLeft(list, " \t,")
		weak := strings.HasPrefix(list, "W/")
		if weak {
			list = list[2:]
		}
		if !strings.HasPrefix(list, `"`) {
			return false // broken
		}
		end := strings.IndexByte(list[1:], '"')
		if end < 0 {
			return false
		}
		if bare, isWeak := strings.CutPrefix(etag, "W/"); list[:end+2] == bare && !(strong && (weak || isWeak)) {
			return true
		}
		list = list[end+2:]
	}
	return false
}

func date(s string) (time.Time, bool) {
	if s == "" {
		return time.Time{}, false
	}
	t, err := http.ParseTime(s)
	return t, err == nil
}
