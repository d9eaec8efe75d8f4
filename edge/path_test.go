package edge

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"segue/media"
)

func TestNormalPath(t *testing.T) {
	f := func(raw, want string) {
		t.Helper()
		got, err := normalPath(raw)
		if got != want || (want == "") != errors.Is(err, media.ErrInvalid) {
			t.Errorf("%q: %q %v, want %q", raw, got, err, want)
		}
	}
	f("/", "/")
	f("/a/b", "/a/b")
	f("/a/b/", "/a/b/")
	f("/a//b", "/a//b") // another name than /a/b, at some origins
	f("/%61%2d%7E", "/a-~")
	f("/%e2%82%ac", "/%E2%82%AC")
	f("/\u20ac", "/%E2%82%AC")
	f("/a%20b", "/a%20b")
	f(`/"<>^`+"`{|}[]", "/%22%3C%3E%5E%60%7B%7C%7D%5B%5D")
	f("/a%2fb", "/a%2Fb") // no separator
	f("/a:@!$&'()*+,;=", "/a:@!$&'()*+,;=")
	f("/%3A", "/%3A")       // reserved: not the same as ":"
	f("/%252e", "/%252e")   // decoded once, never twice
	f("/%3f%23", "/%3F%23") // part of a name
	f("/%e9", "/%E9")       // no UTF-8, but some origins have such names
	f("/.a/..b/c./...", "/.a/..b/c./...")
	for _, bad := range []string{"", "a", "*", "//a", "//", "http://h/a", "/.", "/..", "/a/../b", "/a/./b", "/a/..", "/%2e%2e/a", "/a/%2E%2e", "/a/.%2e/", "/..;x/a", "/a/.;/b",
		`/a\b`, "/a%5cb", "/a%5C..%5Cb", "/a\x00", "/%00", "/a%0d%0aX", "/a\tb", "/a b", "/a#b", "/a%7f", "/%", "/%2", "/%zz", "/a%u002e",
		"/%c0%ae%c0%ae/", "/%c0%af", "/%c1%9c", "/%e0%80%af", "/\xc0\xaf", "/%f0%80%80%af", "/\xe0\x80\xae"} {
		f(bad, "")
	}
}

func TestObjectKey(t *testing.T) {
	f := func(path string, want media.Key) {
		t.Helper()
		got, err := objectKey(path)
		if got != want || (want == "") != errors.Is(err, media.ErrInvalid) {
			t.Errorf("%q: %q %v", path, got, err)
		}
	}
	f("media/T/v/a.mp4", "media/T/v/a.mp4")
	f("a%20b/%E2%82%AC", "a b/\u20ac")
	f("%3A%252e", ":%2e")
	f("a%2Fb", "")
	f("%E9", "")
	f("a//b", "")
	f("a/", "")
	f("", "")
}

// FuzzNormalPath: what is normal stays so, decodes to what was sent, and holds nothing that was to be refused.
func FuzzNormalPath(f *testing.F) {
	for _, s := range []string{"/a/b", "/%61/..%2f", "/%e2%82%ac/\u20ac", "/a%5c", "/%c0%ae/", "/a;b=c/..;/", "/%25%32%65"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		path, err := normalPath(raw)
		if err != nil {
			return
		}
		if again, err := normalPath(path); again != path || err != nil {
			t.Errorf("%q -> %q -> %q %v", raw, path, again, err)
		}
		was, err1 := url.PathUnescape(raw)
		is, err2 := url.PathUnescape(path)
		if err1 != nil || err2 != nil || was != is {
			t.Errorf("%q means %q, %q means %q", raw, was, path, is)
		}
		for i := range len(path) {
			if path[i] <= ' ' || path[i] >= 0x7f || path[i] == '\\' {
				t.Errorf("%q -> %q", raw, path)
			}
		}
		if strings.ContainsAny(is, "\x00\\\r\n") {
			t.Errorf("%q means %q", raw, is)
		}
		for segment := range strings.SplitSeq(strings.ReplaceAll(path, "%2E", "."), "/") {
			if segment == "." || segment == ".." {
				t.Errorf("%q -> %q", raw, path)
			}
		}
		if key, err := objectKey(path[1:]); err == nil && string(key) != is[1:] {
			t.Errorf("%q names %q", path, key)
		}
	})
}

func TestNormalPathAllocs(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() {
		if _, err := normalPath("/media/01J/abc/aac_96.mp4"); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkNormalPath(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := normalPath("/media/01J8ZQ4T9S3V5W6X7Y8Z9A0B1C/0123456789abcdef/aac_96.mp4"); err != nil {
			b.Fatal(err)
		}
	}
}
