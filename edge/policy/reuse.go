package policy

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Stored is what of a stored response decides its use. Times are absolute, so that a look needs no arithmetic: the
// response is fresh before FreshUntil; RevalidateUntil and ErrorUntil end the uses of a stale one (RFC 5861); zero times
// mean never.
type Stored struct {
	FreshUntil      time.Time
	RevalidateUntil time.Time // used as it is while it is validated
	ErrorUntil      time.Time // used as it is when the origin fails
	Validate        bool      // asked about on every use
}

// Keep turns rules into times. unsaid is how long a stale response serves when the origin fails and the response says
// neither that it may nor that it may not: RFC 9111 4.2.4 allows it to a disconnected cache.
func (r Rules) Keep(answered time.Time, unsaid time.Duration) Stored {
	born := answered.Add(-r.Age)
	s := Stored{FreshUntil: born.Add(r.Fresh), Validate: r.Validate}
	if r.WhileStale > 0 {
		s.RevalidateUntil = s.FreshUntil.Add(r.WhileStale)
	}
	switch {
	case r.IfError >= 0 && !r.Strict:
		s.ErrorUntil = s.FreshUntil.Add(r.IfError)
	case !r.Strict:
		s.ErrorUntil = s.FreshUntil.Add(unsaid)
	}
	return s
}

// Use is what to do with a stored response for a request: RFC 9111 4.
type Use int

// The uses.
const (
	Fresh    Use = iota // answer with it
	Stale               // answer with it, and validate it meanwhile
	Validate            // ask the origin first
)

// Use decides at a time. Request directives are not honoured but for no-store and only-if-cached, which are the door's
// business: a listener's browser must not make a shared cache work for nothing (RFC 9111 5.2.1 leaves it to the cache).
func (s Stored) Use(now time.Time) Use {
	switch {
	case !s.Validate && now.Before(s.FreshUntil):
		return Fresh
	case !s.Validate && now.Before(s.RevalidateUntil):
		return Stale
	}
	return Validate
}

// OnError says whether a stored response may stand for an origin that failed.
func (s Stored) OnError(now time.Time) bool { return now.Before(s.ErrorUntil) }

// hopByHop are fields of one connection, never stored and never sent on: RFC 9110 7.6.1, RFC 9111 3.1.
var hopByHop = []string{"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Authorization", "Proxy-Connection",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// EndToEnd removes from h the fields of one connection and those that Connection names.
func EndToEnd(h http.Header) {
	for _, name := range Fields(h["Connection"]) {
		h.Del(name)
	}
	for _, name := range hopByHop {
		delete(h, name)
	}
}

// keep are fields of the bytes themselves: a 304 does not change them. RFC 9111 3.2.
var keep = []string{"Content-Encoding", "Content-Length", "Content-Md5", "Content-Range", "Etag"}

// Update returns the fields of a stored response as a 304 freshens them: RFC 9111 3.2, 4.3.4.
func Update(stored, fresh http.Header) http.Header {
	out := stored.Clone()
	fresh = fresh.Clone()
	EndToEnd(fresh)
	out.Del("Age")  // the 304's, or none
	out.Del("Date") // likewise: the response is as of now
	for name, values := range fresh {
		if !slices.Contains(keep, name) {
			out[name] = values
		}
	}
	return out
}

// Conditions are the fields that ask an origin whether a stored response still holds: RFC 9111 4.3.1.
func Conditions(stored http.Header) http.Header {
	out := http.Header{}
	if etag := stored.Get("Etag"); etag != "" {
		out.Set("If-None-Match", etag)
	}
	if at := stored.Get("Last-Modified"); at != "" {
		out.Set("If-Modified-Since", at)
	}
	return out
}

// OnlyIfCached and NoStore read Cache-Control of a request: RFC 9111 5.2.1.5, 5.2.1.7.
func OnlyIfCached(cacheControl string) bool {
	return cacheControl != "" && directives(cacheControl).has("only-if-cached")
}

// NoStore reports whether a request asks that its response not be stored.
func NoStore(cacheControl string) bool {
	return cacheControl != "" && directives(cacheControl).has("no-store")
}

// Safe reports whether a method changes nothing at the origin: RFC 9110 9.2.1.
func Safe(method string) bool {
	return slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace}, method)
}

// Invalidates lists the request targets that a response to an unsafe method makes doubtful beside its own:
// RFC 9111 4.4. Other hosts' are not ours. base is the path of the request.
func Invalidates(status int, h http.Header, host, base string) []string {
	if status < 200 || status > 399 {
		return nil
	}
	out := []string{base}
	for _, name := range []string{"Location", "Content-Location"} {
		if v := h.Get(name); v != "" {
			if at, ok := SameHost(v, host, base); ok {
				out = append(out, at)
			}
		}
	}
	return out
}

// SameHost resolves a reference against the request's target, and keeps it if it is on the same host.
func SameHost(ref, host, base string) (string, bool) {
	from, err := url.Parse("http://" + host + base)
	if err != nil {
		return "", false
	}
	to, err := from.Parse(ref)
	if err != nil || to.Host != from.Host {
		return "", false
	}
	return to.RequestURI(), true
}

// variesBy normalises the values of one field for comparison: RFC 9111 4.1. Lines are combined and the space around
// commas is dropped; of Accept-Language neither order nor case decides, as RFC 9110 12.5.4 has the weights do that.
func variesBy(name string, lines []string) string {
	var parts []string
	for _, line := range lines {
		parts = append(parts, split(line)...)
	}
	if name == "accept-language" {
		for i := range parts {
			parts[i] = strings.ToLower(strings.ReplaceAll(parts[i], " ", ""))
		}
		slices.Sort(parts)
	}
	return strings.Join(parts, ",")
}

// Variant names, among the responses stored for a key that differ by the fields in vary (lower case), the one that a
// request selects. field returns the request's lines of a field.
func Variant(vary []string, field func(name string) []string) string {
	var b strings.Builder
	for _, name := range vary {
		v := variesBy(name, field(name))
		b.WriteString(name)
		b.WriteByte('\x00')
		if lines := field(name); lines == nil {
			b.WriteByte('-') // absent is not the same as empty
		}
		b.WriteString(v)
		b.WriteByte('\x00')
	}
	return b.String()
}
