// Package policy holds the rules of HTTP that an edge follows, as pure functions over headers, sizes and times: what
// a request selects of an object (RFC 9110 13, 14), whether and how long a response may be kept (RFC 9111 3, 4.2),
// and how to say what the cache did (RFC 9211).
package policy

import (
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

// Object is the selected representation. ETag is strong, with its quotes; ModTime zero means unknown.
type Object struct {
	Size    int64
	ETag    string
	ModTime time.Time
}

// Answer is the status and the bytes that go out: Length bytes from Offset. Only 200 and 206 have a body.
type Answer struct {
	Status         int
	Offset, Length int64
}

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
	} else if at, ok := date(r.IfModifiedSince); ok && !o.ModTime.IsZero() && !o.ModTime.After(at) {
		return Answer{Status: http.StatusNotModified}
	}
	whole := Answer{Status: http.StatusOK, Length: o.Size}
	// RFC 9110 14.2: Range is defined for GET only.
	if r.Range == "" || r.Method != http.MethodGet || !rangeStillHolds(r.IfRange, o) {
		return whole
	}
	offset, length, kind := parseRange(r.Range, o.Size)
	switch kind {
	case rangeIgnored:
		return whole
	case rangeUnsatisfiable:
		return Answer{Status: http.StatusRequestedRangeNotSatisfiable}
	}
	return Answer{Status: http.StatusPartialContent, Offset: offset, Length: length}
}

// rangeStillHolds is RFC 9110 13.1.5: a strong ETag or an exact date, else the whole object is sent.
func rangeStillHolds(ifRange string, o Object) bool {
	switch {
	case ifRange == "":
		return true
	case strings.HasPrefix(ifRange, `"`):
		return ifRange == o.ETag
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

// parseRange reads one range of RFC 9110 14.1.2. Another unit, broken syntax and several ranges are ignored, as
// 14.2 lets a server do: the whole object answers them.
func parseRange(s string, size int64) (offset, length int64, kind int) {
	unit, spec, ok := strings.Cut(s, "=")
	if !ok || !strings.EqualFold(strings.TrimSpace(unit), "bytes") {
		return 0, 0, rangeIgnored
	}
	first, last, ok := strings.Cut(strings.Trim(spec, " \t"), "-")
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
		if list[:end+2] == etag && !(strong && weak) {
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

// Lifetime says how long a shared cache may use a complete 200 response without asking: RFC 9111 3, 4.2 and RFC 9213.
// ok false means that it must not be stored. Zero means stored, but validated on every use.
func Lifetime(h http.Header, now time.Time) (d time.Duration, ok bool) {
	control := strings.Join(h.Values("Cdn-Cache-Control"), ",") // RFC 9213 2.1: the targeted field wins
	if control == "" {
		control = strings.Join(h.Values("Cache-Control"), ",")
	}
	cc := directives(control)
	for _, never := range []string{"no-store", "private"} {
		if _, found := cc[never]; found {
			return 0, false
		}
	}
	if h.Get("Vary") != "" || h.Get("Set-Cookie") != "" || h.Get("Content-Encoding") != "" {
		return 0, false // kept apart until variants have keys of their own
	}
	if _, found := cc["no-cache"]; found {
		return 0, true
	}
	for _, name := range []string{"s-maxage", "max-age"} { // RFC 9111 4.2.1: the first that applies
		if v, found := cc[name]; found {
			n, good := number(v)
			if !good {
				return 0, true // 4.2.1: invalid freshness is stale
			}
			return max(0, time.Duration(min(n, 1<<31))*time.Second-age(h)), true
		}
	}
	sent := now
	if at, good := date(h.Get("Date")); good {
		sent = at
	}
	if v := h.Get("Expires"); v != "" {
		at, good := date(v)
		if !good {
			return 0, true // 5.3: an invalid date means expired
		}
		return max(0, at.Sub(sent)-age(h)), true
	}
	// 4.2.2: heuristic freshness, a tenth of the time since the last change, at most a day.
	if at, good := date(h.Get("Last-Modified")); good {
		return max(0, min(sent.Sub(at)/10, 24*time.Hour)-age(h)), true
	}
	return 0, true
}

func age(h http.Header) time.Duration {
	n, _ := number(h.Get("Age"))
	return time.Duration(min(n, 1<<31)) * time.Second
}

// directives reads Cache-Control: RFC 9111 5.2. The first of a repeated directive counts.
func directives(s string) map[string]string {
	out := map[string]string{}
	for part := range strings.SplitSeq(s, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		name = strings.ToLower(strings.TrimSpace(name))
		if _, seen := out[name]; !seen && name != "" {
			out[name] = strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	return out
}

// Strong reports whether h has a strong validator, and returns it as an entity tag: the ETag itself, or one made of a
// Last-Modified that RFC 9110 8.8.2.2 calls strong (at least a minute older than the response).
func Strong(h http.Header, size int64) (string, bool) {
	if etag := h.Get("Etag"); len(etag) >= 2 && etag[0] == '"' && etag[len(etag)-1] == '"' {
		return etag, true
	}
	modified, ok1 := date(h.Get("Last-Modified"))
	sent, ok2 := date(h.Get("Date"))
	if h.Get("Etag") == "" && ok1 && ok2 && sent.Sub(modified) >= time.Minute {
		return `"` + strconv.FormatInt(modified.Unix(), 36) + "-" + strconv.FormatInt(size, 36) + `"`, true
	}
	return "", false
}
