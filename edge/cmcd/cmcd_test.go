package cmcd_test

import (
	"encoding/json"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"segue/edge/cmcd"
)

// TestText: the examples of CTA-5004 (headers and decoded arguments) and CTA-5004-B, and what players make of them.
func TestText(t *testing.T) {
	f := func(text, want string, broken bool) {
		t.Helper()
		var d cmcd.Data
		d.AddText(text)
		if got := string(d.AppendJSON(nil)); got != want || d.Broken != broken {
			t.Errorf("%s\n got %s broken %t\nwant %s", text, got, d.Broken, want)
		}
	}
	// CTA-5004 section 5
	f(`br=3200,d=4004,ot=v,tb=6000`, `{"br":3200,"d":4004,"ot":"v","tb":6000}`, false)
	f(`bl=21300,dl=18500,mtp=25400,nor="..%2F300kbps%2Ftrack.m4v",su`, `{"bl":21300,"dl":18500,"mtp":25400,"nor":[{"path":"../300kbps/track.m4v","range":""}],"su":true}`, false)
	f(`bs,rtp=15000`, `{"bs":true,"rtp":15000}`, false)
	f(`cid="faec5fc2-ac30-11ea-bb37-0242ac130002",pr=1.08,sf=d,sid="6e2fb550-c457-11e9-bb97-0800200c9a66",st=v`,
		`{"cid":"faec5fc2-ac30-11ea-bb37-0242ac130002","pr":1.08,"sf":"d","sid":"6e2fb550-c457-11e9-bb97-0800200c9a66","st":"v"}`, false)
	f(`nrr="12323-48763",sid="x"`, `{"nor":[{"path":"","range":"12323-48763"}],"sid":"x"}`, false)
	f(`nrr="0-99",nor="a.mp4"`, `{"nor":[{"path":"a.mp4","range":"0-99"}]}`, false)
	f(`com.example-myNumericKey=500,com.example-myStringKey="myStringValue",d=4004`, `{"d":4004}`, false)
	// CTA-5004-B: lists by object type
	f(`bl=(21300),br=(3200;v 160;a),mtp=(25400),v=2`, `{"bl":21300,"br":160,"mtp":25400,"v":2}`, false)
	f(`br=(3200;v 500;av)`, `{"br":3200}`, false)
	f(`nor=("../300kbps/seg7.m4v" "init.mp4";r="0-999" "x, y.mp4";r="-500"),v=2`,
		`{"nor":[{"path":"../300kbps/seg7.m4v","range":""},{"path":"init.mp4","range":"0-999"},{"path":"x, y.mp4","range":"-500"}],"v":2}`, false)
	f(`e=ps,sta=p,ts=1747345123456,ltc=2100,msd=300,pb=(160;a),sn=7,cdn="a",ec=("E1" "E2"),bg=?0,v=2`,
		`{"bg":false,"cdn":"a","e":"ps","ec":"E1","ltc":2100,"msd":300,"pb":160,"sn":7,"sta":"p","ts":1747345123456,"v":2}`, false)
	f(`e=rr,rc=200,ttfb=12,ttlb=30,url="https://example.com/a.mp4"`, `{"e":"rr","rc":200,"ttfb":12,"ttlb":30,"url":"https://example.com/a.mp4"}`, false)
	// zero is not nothing
	f(`bl=0,dl=0`, `{"bl":0,"dl":0}`, false)
	f(``, `{}`, false)
	f(` bl=1 , , br=2,`, `{"bl":1,"br":2}`, false)
	f(`cid="a\"b\\c,d=1"`, `{"cid":"a\"b\\c,d=1"}`, false)
	f(`br=3200;x=1,sid="s";y`, `{"br":3200,"sid":"s"}`, false)
	f(`br=1,br=2`, `{"br":2}`, false)
	// broken: what could be read
	f(`br=abc,bl=5`, `{"bl":5}`, true)
	f(`br,bl=5`, `{"bl":5}`, true)
	f(`br=1e9,bl=5`, `{"bl":5}`, true)
	f(`br=99999999999999999,bl=5`, `{"bl":5}`, true)
	f(`su=yes,bl=5`, `{"bl":5}`, true)
	f(`sid="open,bl=5`, `{}`, true)
	f(`nor=("open,bl=5`, `{}`, true)
	f(`nor=()`, `{}`, true)
	f(`nor=("a" b c "d`+"\x01"+`")`, `{}`, true)
	f(`br=(),bl=5`, `{"bl":5}`, true)
	f(`sid=,bl=5`, `{"bl":5}`, true)
	f(`sid="a"b",bl=5`, `{}`, true) // the third quote opens a string that takes the rest
	f(`sid="`+strings.Repeat("x", 300)+`",bl=5`, `{"bl":5}`, true)
	f(`=5,bl=5`, `{"bl":5}`, true)
	f("\x00=5,bl=5", `{"bl":5}`, true)
	f(`nor="%2"`, `{}`, true)
	f(strings.Repeat("x-y=1,", 64)+"bl=5", `{}`, true)
	f(strings.Repeat(" ", cmcd.MaxLen)+"bl=5", `{}`, true)
}

func TestQuery(t *testing.T) {
	f := func(query, want, stripped string) {
		t.Helper()
		var d cmcd.Data
		d.AddQuery(query)
		if got := string(d.AppendJSON(nil)); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
		if got := cmcd.Strip(query); got != stripped {
			t.Errorf("%s: stripped %q, want %q", query, got, stripped)
		}
	}
	f("", `{}`, "")
	f("a=b", `{}`, "a=b")
	f("CMCD=bl%3D21300%2Cbs", `{"bl":21300,"bs":true}`, "")
	f("CMCD=bl=21300,bs", `{"bl":21300,"bs":true}`, "")
	f("a=b&CMCD=bl%3D1", `{"bl":1}`, "a=b")
	f("CMCD=bl%3D1&a=b", `{"bl":1}`, "a=b")
	f("a=b&CMCD=bl%3D1&c=d", `{"bl":1}`, "a=b&c=d")
	f("CMCD=bl%3D1&CMCD=bl%3D2&a=b&CMCD", `{"bl":1}`, "a=b")
	f("CMCD", `{}`, "")
	f("CMCD&a", `{}`, "a")
	f("xCMCD=bl%3D1", `{}`, "xCMCD=bl%3D1")
	f("CMCDx=bl%3D1&y=CMCD=bl", `{}`, "CMCDx=bl%3D1&y=CMCD=bl")
	f("cmcd=bl%3D1", `{}`, "cmcd=bl%3D1") // the name has its case
	f("CMCD=sid%3D%22a+b%2Bc%22", `{"sid":"a b+c"}`, "")
	f("CMCD=bl%3D1%2", `{}`, "") // "1%2" is no number
	f("CMCD=bs%2Cbl%3D1%zz%2Csu", `{"bs":true,"su":true}`, "")
	f("CMCD="+url.QueryEscape(`nor="`+url.QueryEscape("../a b/c.mp4")+`"`), `{"nor":[{"path":"../a+b/c.mp4","range":""}]}`, "")
}

func TestHas(t *testing.T) {
	var d cmcd.Data
	if !d.Empty() || d.Has("bl") {
		t.Error("said nothing")
	}
	d.AddText("bl=0,com.example-x=1,br=x")
	if d.Empty() || !d.Has("bl") || d.Has("br") || d.Has("com.example-x") || d.Has("zz") || d.Unknown != 1 || !d.Broken {
		t.Errorf("%+v", d)
	}
}

// FuzzText: no text panics or is unbounded, and what was read is JSON.
func FuzzText(f *testing.F) {
	f.Add(`bl=21300,br=(3200;v 160;a),nor=("../a" "b";r="0-9"),su,sid="a\"b"`, "CMCD=bl%3D1&a=b")
	f.Add(`nor="..%2Fa",nrr="1-2",pr=1.08,v=2,cid="`, "a=b&CMCD=%22%5c&CMCD=&c")
	f.Fuzz(func(t *testing.T, text, query string) {
		var d cmcd.Data
		d.AddText(text)
		d.AddQuery(query)
		if len(d.Next) > cmcd.MaxNext || d.Unknown > 2*cmcd.MaxKeys || len(d.SessionID) > 256 {
			t.Errorf("unbounded: %+v", d)
		}
		var m map[string]any
		if err := json.Unmarshal(d.AppendJSON(nil), &m); err != nil {
			t.Errorf("%v: %s", err, d.AppendJSON(nil))
		}
		stripped := cmcd.Strip(query)
		var none cmcd.Data
		none.AddQuery(stripped)
		if !reflect.DeepEqual(none, cmcd.Data{}) || cmcd.Strip(stripped) != stripped {
			t.Errorf("%q stripped is %q", query, stripped)
		}
	})
}

func TestAllocs(t *testing.T) {
	text := `bl=21300,br=(3200;v 160;a),su,sid="6e2fb550-c457-11e9-bb97-0800200c9a66",pr=1.08,com.example-x=1`
	f := func(what string, want float64, call func()) {
		t.Helper()
		if n := testing.AllocsPerRun(100, call); n > want {
			t.Errorf("%s: %v allocations", what, n)
		}
	}
	f("absent", 0, func() { var d cmcd.Data; d.AddQuery("a=b&c=d"); d.AddText("") })
	f("strip", 0, func() { cmcd.Strip("a=b&c=d"); cmcd.Strip("CMCD=bl%3D1") })
	f("header", 0, func() { var d cmcd.Data; d.AddText(text) })
	query := "CMCD=" + url.QueryEscape(text)
	f("query", 1, func() { var d cmcd.Data; d.AddQuery(query) })
}

func BenchmarkQuery(b *testing.B) {
	query := "CMCD=" + url.QueryEscape(`bl=21300,br=160,d=4004,mtp=25400,nor="..%2Fa.mp4",ot=a,rtp=500,sf=h,sid="6e2fb550-c457-11e9-bb97-0800200c9a66",st=v,su,tb=256`)
	b.Run("absent", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var d cmcd.Data
			d.AddQuery("a=b")
		}
	})
	b.Run("hls.js", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var d cmcd.Data
			d.AddQuery(query)
		}
	})
}

// TestEveryKey: each key has a place of its own, and goes where only it goes.
func TestEveryKey(t *testing.T) {
	numbers := "ab bl br bsa bsd d dfa dl lab lb ltc msd mtp pb pt rc rtp sn tab tb tbl tpb ts ttfb ttfbb ttlb v"
	texts := "cdn cen cid cmsdd cmsds cs e ec h ot sf sid st sta url"
	flags := "bg bs nr su"
	for i, key := range strings.Fields(numbers + " " + texts + " " + flags) {
		value, want := strconv.Itoa(i+1), strconv.Itoa(i+1)
		switch {
		case slices.Contains(strings.Fields(texts), key):
			value, want = `"x`+value+`"`, `"x`+value+`"`
		case slices.Contains(strings.Fields(flags), key):
			value, want = "?1", "true"
		}
		var d cmcd.Data
		d.AddText(key + "=" + value)
		if got := string(d.AppendJSON(nil)); got != `{"`+key+`":`+want+`}` || !d.Has(key) {
			t.Errorf("%s: %s", key, got)
		}
		d.Keep(nil, make([]cmcd.Next, cmcd.MaxNext))
		if got := string(d.AppendJSON(nil)); got != `{"`+key+`":`+want+`}` {
			t.Errorf("%s kept: %s", key, got)
		}
	}
}

// TestKeep: what was kept does not change with what it was read from.
func TestKeep(t *testing.T) {
	b := []byte(`cid="c",nor=("a";r="0-9" "b"),sid="s",ec=("E")`)
	var d cmcd.Data
	d.AddText(unsafe.String(&b[0], len(b)))
	want := string(d.AppendJSON(nil))
	read := d.Next
	d.Keep(make([]byte, 0, 1), make([]cmcd.Next, cmcd.MaxNext))
	clear(b)
	if got := string(d.AppendJSON(nil)); got != want || &d.Next[0] == &read[0] {
		t.Errorf("%s, was %s", got, want)
	}
}
