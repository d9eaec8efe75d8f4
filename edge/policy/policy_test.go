package policy_test

import (
	"net/http"
	"testing"
	"time"

	"segue/edge/policy"
)

var at = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestPlan(t *testing.T) {
	o := policy.Object{Size: 1000, ETag: `"v1"`, ModTime: at}
	f := func(why string, r policy.Request, status int, offset, length int64) {
		t.Helper()
		if r.Method == "" {
			r.Method = "GET"
		}
		if got, want := policy.Plan(r, o), (policy.Answer{Status: status, Offset: offset, Length: length}); got != want {
			t.Errorf("%s: %+v gives %+v, want %+v", why, r, got, want)
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
	f("several: 14.2 lets us ignore", R{Range: "bytes=0-1,5-6"}, 200, 0, 1000)
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

func TestLifetime(t *testing.T) {
	f := func(why string, want time.Duration, ok bool, pairs ...string) {
		t.Helper()
		h := http.Header{"Date": {at.Format(http.TimeFormat)}}
		for i := 0; i < len(pairs); i += 2 {
			h.Add(pairs[i], pairs[i+1])
		}
		if got, gotOK := policy.Lifetime(h, at); got != want || gotOK != ok {
			t.Errorf("%s: %s, %t, want %s, %t", why, got, gotOK, want, ok)
		}
	}
	f("max-age", 60*time.Second, true, "Cache-Control", "max-age=60")
	f("s-maxage wins: RFC 9111 5.2.2.10", 30*time.Second, true, "Cache-Control", "max-age=60, s-maxage=30")
	f("Age counts: 4.2.3", 50*time.Second, true, "Cache-Control", "max-age=60", "Age", "10")
	f("no-store: 5.2.2.5", 0, false, "Cache-Control", "no-store, max-age=60")
	f("private: 5.2.2.7", 0, false, "Cache-Control", "private")
	f("no-cache: 5.2.2.4", 0, true, "Cache-Control", "No-Cache")
	f("CDN-Cache-Control: RFC 9213", 5*time.Second, true, "Cache-Control", "no-store", "CDN-Cache-Control", "max-age=5")
	f("Expires", time.Hour, true, "Expires", at.Add(time.Hour).Format(http.TimeFormat))
	f("Expires invalid: 5.3", 0, true, "Expires", "0")
	f("heuristic: 4.2.2", time.Hour, true, "Last-Modified", at.Add(-10*time.Hour).Format(http.TimeFormat))
	f("nothing", 0, true)
	f("Vary is passed", 0, false, "Cache-Control", "max-age=60", "Vary", "Accept")
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
