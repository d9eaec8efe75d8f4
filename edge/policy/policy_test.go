package policy_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"segue/edge/policy"

	"github.com/google/go-cmp/cmp"
)

var at = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestPlan(t *testing.T) {
	o := policy.Object{Size: 1000, ETag: `"v1"`, ModTime: at}
	f := func(why string, r policy.Request, status int, offset, length int64) {
		t.Helper()
		if r.Method == "" {
			r.Method = "GET"
		}
		if d := cmp.Diff(policy.Answer{Status: status, Offset: offset, Length: length}, policy.Plan(r, o)); d != "" {
			t.Errorf("%s: %+v: %s", why, r, d)
		}
	}
	type R = policy.Request
	f("plain", R{}, 200, 0, 1000)
	f("first bytes", R{Range: "bytes=0-99"}, 206, 0, 100)
	f("open", R{Range: "bytes=900-"}, 206, 900, 100)
	f("suffix", R{Range: "bytes=-10"}, 206, 990, 10)
	f("suffix over the size", R{Range: "bytes=-5000"}, 206, 0, 1000)
	f("end over the size", R{Range: "bytes=990-5000"}, 206, 990, 10)
	f("overflowing end", R{Range: "bytes=990-99999999999999999999"}, 206, 990, 10)
	f("unit in capitals", R{Range: "Bytes=1-1"}, 206, 1, 1)
	f("at the end: RFC 9110 15.5.17", R{Range: "bytes=1000-"}, 416, 0, 0)
	f("empty suffix", R{Range: "bytes=-0"}, 416, 0, 0)
	f("backwards is invalid: 14.1.1", R{Range: "bytes=5-4"}, 200, 0, 1000)
	f("no number", R{Range: "bytes=a-b"}, 200, 0, 1000)
	f("signed number", R{Range: "bytes=+1-2"}, 200, 0, 1000)
	f("other unit: 14.2", R{Range: "items=0-1"}, 200, 0, 1000)
	f("several that overlap: 14.2", R{Range: "bytes=0-5,5-6"}, 200, 0, 1000)
	f("HEAD has no ranges: 14.2", R{Method: "HEAD", Range: "bytes=0-1"}, 200, 0, 1000)
	f("If-Range holds", R{Range: "bytes=0-1", IfRange: `"v1"`}, 206, 0, 2)
	f("If-Range of another version", R{Range: "bytes=0-1", IfRange: `"v0"`}, 200, 0, 1000)
	f("If-Range weak: 13.1.5", R{Range: "bytes=0-1", IfRange: `W/"v1"`}, 200, 0, 1000)
	f("If-Range date", R{Range: "bytes=0-1", IfRange: at.Format(http.TimeFormat)}, 206, 0, 2)
	f("If-Range later date is no match: 13.1.5", R{Range: "bytes=0-1", IfRange: at.Add(time.Hour).Format(http.TimeFormat)}, 200, 0, 1000)
	f("If-None-Match", R{IfNoneMatch: `"x", W/"v1"`}, 304, 0, 0)
	f("If-None-Match star", R{IfNoneMatch: "*"}, 304, 0, 0)
	f("If-None-Match other", R{IfNoneMatch: `"v11"`}, 200, 0, 1000)
	f("If-None-Match broken", R{IfNoneMatch: `v1`}, 200, 0, 1000)
	f("If-None-Match wins over If-Modified-Since: 13.1.3", R{IfNoneMatch: `"x"`, IfModifiedSince: at.Format(http.TimeFormat)}, 200, 0, 1000)
	f("If-Modified-Since", R{IfModifiedSince: at.Format(http.TimeFormat)}, 304, 0, 0)
	f("If-Modified-Since earlier", R{IfModifiedSince: at.Add(-time.Second).Format(http.TimeFormat)}, 200, 0, 1000)
	f("If-Match", R{IfMatch: `"v0"`}, 412, 0, 0)
	f("If-Match weak never matches: 13.1.1", R{IfMatch: `W/"v1"`}, 412, 0, 0)
	f("If-Match good, range", R{IfMatch: `"v1"`, Range: "bytes=1-2"}, 206, 1, 2)
	f("If-Unmodified-Since", R{IfUnmodifiedSince: at.Add(-time.Second).Format(http.TimeFormat)}, 412, 0, 0)
	o.Size = 0
	f("empty object", R{}, 200, 0, 0)
	f("range of an empty object", R{Range: "bytes=0-"}, 416, 0, 0)
}

func TestJudge(t *testing.T) {
	judge := func(status int, method string, authorized bool, pairs ...string) policy.Rules {
		h := http.Header{"Date": {at.Format(http.TimeFormat)}}
		for i := 0; i < len(pairs); i += 2 {
			h.Add(pairs[i], pairs[i+1])
		}
		return policy.Judge(method, authorized, policy.Response{Status: status, Header: h, Asked: at, Answered: at})
	}
	fresh := func(why string, want time.Duration, pairs ...string) {
		t.Helper()
		if r := judge(200, "GET", false, pairs...); !r.Store || r.Fresh-r.Age != want {
			t.Errorf("%s: %+v, want fresh for %s", why, r, want)
		}
	}
	not := func(why string, r policy.Rules) {
		t.Helper()
		if r.Store || r.Why != why {
			t.Errorf("want it refused for %q: %+v", why, r)
		}
	}
	later := at.Add(time.Hour).Format(http.TimeFormat)
	fresh("max-age", 60*time.Second, "Cache-Control", "max-age=60")
	fresh("s-maxage wins: RFC 9111 5.2.2.10", 30*time.Second, "Cache-Control", "max-age=60, s-maxage=30")
	fresh("Age counts: 4.2.3", 50*time.Second, "Cache-Control", "max-age=60", "Age", "10")
	fresh("the first of two counts", 60*time.Second, "Cache-Control", "max-age=60, max-age=1")
	fresh("in a quoted string it is not a directive", time.Second, "Cache-Control", `x="a, max-age=60", max-age=1`)
	fresh("quoted", 60*time.Second, "Cache-Control", `max-age="60"`)
	fresh("too large is very long: 1.2.2", policy.Forever, "Cache-Control", "max-age=99999999999999999999")
	fresh("invalid is stale: 4.2.1", 0, "Cache-Control", "max-age=-1", "Expires", later)
	fresh("a space makes it no directive", time.Hour, "Cache-Control", "max-age =60", "Expires", later)
	fresh("Expires", time.Hour, "Expires", later)
	fresh("Expires invalid: 5.3", 0, "Expires", "0")
	fresh("heuristic: 4.2.2", time.Hour, "Last-Modified", at.Add(-10*time.Hour).Format(http.TimeFormat))
	fresh("heuristic is bounded", 24*time.Hour, "Last-Modified", at.AddDate(-5, 0, 0).Format(http.TimeFormat))
	fresh("a validator alone", 0, "ETag", `"a"`)
	fresh("CDN-Cache-Control: RFC 9213", 5*time.Second, "Cache-Control", "no-store", "CDN-Cache-Control", "max-age=5")
	fresh("it stands for Expires too", 5*time.Second, "Expires", "0", "CDN-Cache-Control", "max-age=5")
	fresh("Surrogate-Control", 5*time.Second, "Cache-Control", "no-store", "Surrogate-Control", "max-age=5")
	fresh("aimed at us", 5*time.Second, "Surrogate-Control", "max-age=5;segue")
	fresh("aimed at another", time.Minute, "Cache-Control", "max-age=60", "Surrogate-Control", "max-age=5;them")
	if r := judge(404, "GET", false); !r.Store || r.Fresh != policy.Negative {
		t.Errorf("a 404 that says nothing: %+v", r)
	}
	not("no-store", judge(200, "GET", false, "Cache-Control", "No-Store, max-age=60"))
	not("no-store", judge(200, "GET", false, "Cache-Control", "no-store", "CDN-Cache-Control", "max-age=5, &&&"))
	not("no-store", judge(200, "GET", false, "Cache-Control", "no-store", "CDN-Cache-Control", `max-age="5"`))
	not("private", judge(200, "GET", false, "Cache-Control", "private, max-age=60"))
	not("vary *", judge(200, "GET", false, "Cache-Control", "max-age=60", "Vary", "Foo, *"))
	not("no freshness", judge(200, "GET", false))
	not("status", judge(403, "GET", false, "Last-Modified", at.Add(-time.Hour).Format(http.TimeFormat)))
	not("authorization", judge(200, "GET", true, "Cache-Control", "max-age=60"))
	not("must-understand", judge(599, "GET", false, "Cache-Control", "max-age=60, must-understand"))
	not("method", judge(200, "POST", false, "Cache-Control", "max-age=60"))
	not("set-cookie", judge(200, "GET", false, "Last-Modified", at.Add(-time.Hour).Format(http.TimeFormat), "Set-Cookie", "a=b"))
	for _, cc := range []string{"public, max-age=60", "max-age=60, must-revalidate", "s-maxage=60"} { // RFC 9111 3.5
		if r := judge(200, "GET", true, "Cache-Control", cc); !r.Store {
			t.Errorf("with Authorization, %s: %+v", cc, r)
		}
	}
	if r := judge(599, "GET", false, "Cache-Control", "public", "Last-Modified", at.Add(-10*time.Hour).Format(http.TimeFormat)); !r.Store || r.Fresh != time.Hour {
		t.Errorf("public makes any status heuristically cacheable: %+v", r)
	}
	r := judge(200, "GET", false, "Cache-Control", `max-age=60, no-cache="a, B", stale-while-revalidate=5, stale-if-error=7`, "Connection", "c")
	if r.Validate || r.Strict || r.WhileStale != 5*time.Second || r.IfError != 7*time.Second || len(r.Hide) != 3 || r.Hide[1] != "b" {
		t.Errorf("%+v", r)
	}
	for _, v := range [][]string{{"abc"}, {"-1"}, {"1.5"}, {"0, 0"}, {"0", "0"}} {
		r := policy.Judge("GET", false, policy.Response{Status: 200, Header: http.Header{"Cache-Control": {"max-age=60"}, "Age": v}, Asked: at, Answered: at})
		if r.Age < r.Fresh {
			t.Errorf("Age %q leaves it fresh", v)
		}
	}
}

func TestUse(t *testing.T) {
	s := policy.Rules{Store: true, Age: time.Second, Fresh: 10 * time.Second, WhileStale: 5 * time.Second, IfError: 20 * time.Second}.Keep(at, 0)
	for after, want := range map[time.Duration]policy.Use{0: policy.Fresh, 8 * time.Second: policy.Fresh, 9 * time.Second: policy.Stale, 14 * time.Second: policy.Validate} {
		if got := s.Use(at.Add(after)); got != want {
			t.Errorf("after %s: %d, want %d", after, got, want)
		}
	}
	if !s.OnError(at.Add(28*time.Second)) || s.OnError(at.Add(30*time.Second)) {
		t.Error("stale-if-error counts from when it became stale")
	}
	if (policy.Rules{Strict: true, IfError: time.Hour}).Keep(at, time.Hour).OnError(at) {
		t.Error("must-revalidate forbids stale answers whatever else is said: RFC 9111 5.2.2.2")
	}
}

func TestVariant(t *testing.T) {
	same := func(want bool, name string, a, b []string) {
		t.Helper()
		of := func(lines []string) string {
			return policy.Variant([]string{name}, func(string) []string { return lines })
		}
		if got := of(a) == of(b); got != want {
			t.Errorf("%s: %q and %q: %t", name, a, b, got)
		}
	}
	same(true, "foo", []string{"1, 2"}, []string{"1", "2"})
	same(true, "foo", []string{"1,2"}, []string{" 1, 2 "})
	same(false, "foo", []string{"1"}, []string{"2"})
	same(false, "foo", nil, []string{""})
	same(false, "foo", []string{"a, b"}, []string{"b, a"})
	same(true, "accept-language", []string{"en, de"}, []string{"De,  eN"})
}

func TestUpdate(t *testing.T) {
	got := policy.Update(http.Header{"Etag": {`"a"`}, "Age": {"5"}, "X": {"old"}, "Y": {"kept"}, "Content-Length": {"5"}},
		http.Header{"Etag": {`"b"`}, "X": {"new"}, "Content-Length": {"0"}, "Connection": {"z"}, "Z": {"1"}})
	want := http.Header{"Etag": {`"a"`}, "X": {"new"}, "Y": {"kept"}, "Content-Length": {"5"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestInvalidates(t *testing.T) {
	got := policy.Invalidates(201, http.Header{"Location": {"new"}, "Content-Location": {"http://other/x"}}, "host", "/a/b?q=1")
	if d := cmp.Diff([]string{"/a/b?q=1", "/a/new"}, got); d != "" {
		t.Error(d)
	}
	if got := policy.Invalidates(500, nil, "host", "/a"); got != nil {
		t.Errorf("a failure invalidates %v", got)
	}
}

func TestRanges(t *testing.T) {
	f := func(field string, ok bool, want ...policy.Part) {
		t.Helper()
		got, gotOK := policy.Ranges(field, 100)
		if d := cmp.Diff(want, got); d != "" || ok != gotOK {
			t.Errorf("%s: %t %s", field, gotOK, d)
		}
	}
	f("bytes=0-1,10-19, -5", true, policy.Part{Length: 2}, policy.Part{Offset: 10, Length: 10}, policy.Part{Offset: 95, Length: 5})
	f("bytes=0-1,200-", true, policy.Part{Length: 2})
	f("bytes=200-300,400-", true)
	f("bytes=0-50,40-60", false)
	f("bytes=0-1,x", false)
	f("bytes=", false)
	many := strings.Fields("0-0 2-2 4-4 6-6 8-8 10-10 12-12 14-14 16-16 18-18 20-20 22-22 24-24 26-26 28-28 30-30 32-32")
	f("bytes="+strings.Join(many, ","), false)
}

func FuzzJudge(f *testing.F) {
	f.Add("max-age=1, x=\"a,b\"", "max-age=5", "0", "Foo, *")
	f.Add("no-cache=\"a", "a=(1 2);q", "1,2", ",")
	f.Fuzz(func(t *testing.T, cc, cdn, age, vary string) {
		r := policy.Judge("GET", false, policy.Response{Status: 200, Header: http.Header{"Cache-Control": {cc}, "Cdn-Cache-Control": {cdn}, "Age": {age}, "Vary": {vary}}, Asked: at, Answered: at})
		if r.Fresh < 0 || r.Fresh > policy.Forever || r.Age < 0 || r.Age > 2*policy.Forever || r.Store == (r.Why != "") {
			t.Errorf("%+v", r)
		}
	})
}

func FuzzPlan(f *testing.F) {
	f.Add("bytes=0-1", `"a"`, `W/"b", "c"`, int64(10))
	f.Add("bytes=-5", "Fri, 02 Jan 2026 03:04:05 GMT", "*", int64(0))
	f.Fuzz(func(t *testing.T, rng, ifRange, inm string, size int64) {
		if size < 0 {
			return
		}
		a := policy.Plan(policy.Request{Method: "GET", Range: rng, IfRange: ifRange, IfNoneMatch: inm}, policy.Object{Size: size, ETag: `"v"`, ModTime: at})
		if a.Offset < 0 || a.Length < 0 || a.Offset+a.Length > size || a.Status == 206 && a.Length == 0 {
			t.Errorf("%+v of %d", a, size)
		}
	})
}
