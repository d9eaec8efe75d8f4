package policy

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dunglas/httpsfv"
)

// Response is the head of an answer from upstream. Asked and Answered are when the request went out and the head came in.
type Response struct {
	Status          int
	Header          http.Header
	Asked, Answered time.Time
}

// Rules is what a shared cache may do with one response.
type Rules struct {
	Store      bool
	Why        string        // for a response that may not be stored: the rule, in a few words
	Age        time.Duration // at Answered: RFC 9111 4.2.3
	Fresh      time.Duration // lifetime since the origin made it: RFC 9111 4.2.1; stale once Age exceeds it
	Validate   bool          // no-cache: stored, but validated on every use
	Strict     bool          // never used stale, whatever happened: RFC 9111 5.2.2.2, 5.2.2.8, 5.2.2.10
	WhileStale time.Duration // used stale for so long while it is validated: RFC 5861 3
	IfError    time.Duration // used stale for so long when the origin fails: RFC 5861 4; negative: not said
	Hide       []string      // fields that may not be stored: named in Connection, no-cache="…" or private="…"
}

// Limits that keep sums of durations within range, and what is not said within reason.
const (
	maxDelta     = 1 << 31         // seconds, RFC 9111 1.2.2
	maxHeuristic = 24 * time.Hour  // RFC 9111 4.2.2 leaves it to the cache
	Negative     = 5 * time.Second // of a 404 or 410 that says nothing: enough against a herd, short for a publisher
	Forever      = maxDelta * time.Second
)

// heuristic are the final statuses that may be stored with no explicit freshness: RFC 9110 15.1.
var heuristic = []int{200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501}

// understood are the statuses whose requirements this cache knows: RFC 9111 5.2.2.3.
var understood = []int{200, 203, 204, 206, 300, 301, 302, 303, 307, 308, 400, 403, 404, 405, 410, 414, 421, 451, 500, 501, 502, 503, 504}

// Judge says what may be done with the response to a request of that method; authorized says that the request had an
// Authorization field. RFC 9111 3.
func Judge(method string, authorized bool, r Response) Rules {
	cc, targeted := control(r.Header)
	out := Rules{IfError: -1, Age: initialAge(r)}
	no := func(why string) Rules { return Rules{Why: why} }
	if cc.has("must-understand") { // RFC 9111 5.2.2.3: it overrides no-store where the status is understood
		if !slices.Contains(understood, r.Status) {
			return no("must-understand")
		}
		delete(cc, "no-store")
	}
	private, _ := cc["private"]
	switch {
	case method != http.MethodGet && method != http.MethodPost:
		return no("method")
	case r.Status < 200 || r.Status == http.StatusNotModified:
		return no("status")
	case cc.has("no-store"):
		return no("no-store")
	case cc.has("private") && private == "":
		return no("private")
	case slices.Contains(Fields(r.Header["Vary"]), "*"):
		return no("vary *")
	case authorized && !cc.has("public") && !cc.has("must-revalidate") && !cc.has("s-maxage"): // RFC 9111 3.5
		return no("authorization")
	}
	fresh, explicit, known := lifetime(cc, targeted, r)
	switch {
	case method == http.MethodPost && (!explicit || r.Header.Get("Content-Location") == ""): // RFC 9110 9.3.3
		return no("method")
	case !known:
		return no("no freshness")
	case !explicit && !cc.has("public") && !slices.Contains(heuristic, r.Status):
		return no("status")
	case !explicit && r.Header.Get("Set-Cookie") != "": // a cookie that nobody meant to share
		return no("set-cookie")
	}
	out.Store, out.Fresh = true, fresh
	noCache, found := cc["no-cache"]
	out.Validate = found && noCache == ""
	for _, list := range []string{noCache, private} {
		out.Hide = append(out.Hide, Fields([]string{list})...)
	}
	out.Hide = append(out.Hide, Fields(r.Header["Connection"])...)
	out.Strict = out.Validate || cc.has("must-revalidate") || cc.has("proxy-revalidate") || cc.has("s-maxage")
	if d, ok := cc.seconds("stale-while-revalidate"); ok && !out.Strict {
		out.WhileStale = d
	}
	if d, ok := cc.seconds("stale-if-error"); ok {
		out.IfError = d
	}
	return out
}

// lifetime is RFC 9111 4.2.1. known false: nothing says for how long, and there is no validator to ask with.
func lifetime(cc controls, targeted bool, r Response) (d time.Duration, explicit, known bool) {
	for _, name := range []string{"s-maxage", "max-age"} { // the first that applies
		if cc.has(name) {
			d, _ := cc.seconds(name) // invalid freshness is stale: zero
			return d, true, true
		}
	}
	sent, ok := date(r.Header.Get("Date"))
	if !ok {
		sent = r.Answered
	}
	if v, found := r.Header["Expires"]; found && !targeted { // RFC 9213 2.2: a targeted field stands for Expires too
		at, ok := date(v[0])
		if !ok { // RFC 9111 5.3: an invalid date means expired
			return 0, true, true
		}
		return min(max(0, at.Sub(sent)), Forever), true, true
	}
	// RFC 9111 4.2.2: a tenth of the time since the last change.
	if at, ok := date(r.Header.Get("Last-Modified")); ok {
		return max(0, min(sent.Sub(at)/10, maxHeuristic)), false, true
	}
	if r.Status == http.StatusNotFound || r.Status == http.StatusGone {
		return Negative, false, true
	}
	return 0, false, r.Header.Get("Etag") != "" || cc.has("no-cache")
}

// initialAge is corrected_initial_age of RFC 9111 4.2.3. An Age that cannot be read makes the response as old as can be.
func initialAge(r Response) time.Duration {
	delay := max(0, r.Answered.Sub(r.Asked))
	age := time.Duration(0)
	if v := r.Header["Age"]; len(v) > 0 {
		n, ok := number(strings.TrimSpace(v[0]))
		if !ok || len(v) > 1 {
			return Forever
		}
		age = time.Duration(min(n, maxDelta)) * time.Second
	}
	apparent := time.Duration(0)
	if sent, ok := date(r.Header.Get("Date")); ok {
		apparent = min(max(0, r.Answered.Sub(sent).Truncate(time.Second)), Forever)
	}
	return max(apparent, age+delay)
}

// controls are cache directives by lower-case name, with unquoted values.
type controls map[string]string

func (c controls) has(name string) bool { _, ok := c[name]; return ok }

// seconds reads a delta-seconds, RFC 9111 1.2.2; ok is false for one that is absent or invalid.
func (c controls) seconds(name string) (time.Duration, bool) {
	n, ok := number(c[name])
	return time.Duration(min(n, maxDelta)) * time.Second, ok
}

// control finds the directives for this cache: CDN-Cache-Control where it is a valid dictionary (RFC 9213 2.1), else
// Surrogate-Control (W3C Edge Architecture 1.0), else Cache-Control. targeted says that it was one of the first two.
func control(h http.Header) (cc controls, targeted bool) {
	if cc := dictionary(h["Cdn-Cache-Control"]); len(cc) > 0 {
		return cc, true
	}
	if v := h["Surrogate-Control"]; len(v) > 0 {
		if cc := directives(strings.Join(v, ",")); cc.surrogate() {
			return cc, true
		}
	}
	return directives(strings.Join(h["Cache-Control"], ",")), false
}

// surrogate drops directives meant for another device and reports whether any is left: "max-age=60;their-name".
func (c controls) surrogate() bool {
	for name, value := range c {
		if value, target, aimed := strings.Cut(value, ";"); aimed {
			if target = strings.TrimSpace(target); target != Surrogate && !strings.Contains(target, "+") && target != "" {
				delete(c, name)
				continue
			}
			c[name] = strings.TrimSpace(value)
		}
	}
	return len(c) > 0
}

// Surrogate is the device token by which Surrogate-Control may name this cache, as it says in Surrogate-Capability.
const Surrogate = "segue"

// dictionary reads a targeted field, RFC 9213 2.2: a structured dictionary, or nothing at all if it is not one. A
// directive with a value of another type than its own makes the field invalid.
func dictionary(lines []string) controls {
	if len(lines) == 0 {
		return nil
	}
	d, err := httpsfv.UnmarshalDictionary(lines)
	if err != nil {
		return nil
	}
	out := controls{}
	for _, name := range d.Names() {
		m, _ := d.Get(name)
		item, ok := m.(httpsfv.Item)
		if !ok {
			continue
		}
		value := ""
		switch v := item.Value.(type) {
		case int64:
			value = strconv.FormatInt(v, 10)
		case bool:
			if !v {
				continue
			}
		case string:
			value = v
		case httpsfv.Token:
			value = string(v)
		}
		if _, isNumber := item.Value.(int64); !isNumber && (name == "max-age" || name == "s-maxage") {
			return nil
		}
		out[name] = value
	}
	return out
}

// directives reads Cache-Control: RFC 9111 5.2. The first of a repeated directive counts; one with a space around its
// equals sign is not a directive.
func directives(s string) controls {
	out := controls{}
	for _, part := range split(s) {
		name, value, _ := strings.Cut(part, "=")
		if strings.TrimRight(name, " \t") != name || strings.TrimLeft(value, " \t") != value {
			continue
		}
		name = strings.ToLower(name)
		if _, seen := out[name]; !seen && name != "" {
			if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
				value = value[1 : len(value)-1]
			}
			out[name] = value
		}
	}
	return out
}

// split cuts a list at commas outside quoted strings, RFC 9110 5.6.1, and trims the parts.
func split(s string) []string {
	var out []string
	quoted, from := false, 0
	add := func(part string) {
		if part = strings.Trim(part, " \t"); part != "" {
			out = append(out, part)
		}
	}
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ',' && !quoted:
			add(s[from:i])
			from = i + 1
		}
	}
	add(s[min(from, len(s)):])
	return out
}

// Fields reads a list of field names, in lower case: Vary, Connection.
func Fields(lines []string) []string {
	var out []string
	for _, line := range lines {
		for _, name := range split(line) {
			out = append(out, strings.ToLower(name))
		}
	}
	return out
}

// Validators returns the entity tag of a response and whether it is strong: the ETag itself, or one made of a
// Last-Modified that RFC 9110 8.8.2.2 calls strong, at least a minute older than the response, and the size.
func Validators(h http.Header, size int64) (etag string, strong bool) {
	etag = h.Get("Etag")
	if len(etag) >= 2 && etag[0] == '"' && etag[len(etag)-1] == '"' {
		return etag, true
	}
	modified, ok1 := date(h.Get("Last-Modified"))
	sent, ok2 := date(h.Get("Date"))
	if etag == "" && ok1 && ok2 && sent.Sub(modified) >= time.Minute {
		return `"` + strconv.FormatInt(modified.Unix(), 36) + "-" + strconv.FormatInt(size, 36) + `"`, true
	}
	return etag, false
}
