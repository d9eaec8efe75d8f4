// Package cmcd reads Common Media Client Data, versions 1 and 2 (CTA-5004, CTA-5004-B): what a player says about itself
// with each request, in the query argument CMCD or in four headers. It is a hint and never a reason to refuse: what is
// broken is left out, and Data.Broken says that something was.
//
//	var d cmcd.Data
//	d.AddQuery("CMCD=bl%3D21300%2Cbs%2Csid%3D%226e2f%22")   // d.BufferMS 21300, d.Starved, d.SessionID
//	d.AddText(header.Get("CMCD-Request"))                   // the same text, not encoded
//
// Texts are bounded in length and keys. Nothing is allocated for a request without CMCD, nor for headers; a query costs
// its decoded text, and a "next object" its list.
package cmcd

import (
	"math"
	"strings"
)

const (
	// MaxLen bounds one text, in bytes before decoding: a URL of 4 KiB holds no more. The rest is not read.
	MaxLen = 4096
	// MaxKeys bounds how many keys of one text are read. Version 2 names about fifty.
	MaxKeys = 64
	// MaxNext bounds Data.Next.
	MaxNext = 8
	// maxText is the longest text of a value, in bytes: cid and cdn may have 128 characters.
	maxText = 256
	// param is the name of the query argument.
	param = "CMCD"
)

// Data is what a player said. Zero values are what it did not say; Has tells a zero that was sent from none. Texts are
// parts of the texts that were added: they are as short-lived. Where version 2 has a list with one number per object
// type, the number of type a (audio) counts, or the first when none has it.
type Data struct {
	Version int64 // v; 0 means 1
	Unknown int   // keys that were there and are not known here, own keys of players among them
	Broken  bool  // something was left out, because it was not well formed or too much

	SessionID, ContentID       string // sid, cid
	ObjectType                 string // ot: m manifest, a audio, v video, av, i init, c caption, tt, k key, o other
	Format, StreamType         string // sf: d DASH, h HLS, s Smooth, o other; st: v on demand, l live, ll low latency
	BitrateKbps, TopKbps       int64  // br, tb
	LowestKbps                 int64  // lb
	AggregateKbps              int64  // ab, instead of br
	TopAggregateKbps           int64  // tab
	LowestAggregateKbps        int64  // lab
	PlayheadKbps               int64  // pb: of what is heard now
	TopPlayheadKbps            int64  // tpb
	DurationMS, DeadlineMS     int64  // d, dl
	BufferMS, TargetBufferMS   int64  // bl, tbl
	ThroughputKbps             int64  // mtp
	RequestedKbps              int64  // rtp: as fast as is of use, at most
	Rate                       float64
	Startup, Starved           bool   // su, bs
	Starvations, StarvedMS     int64  // bsa, bsd
	Background, NotRendered    bool   // bg, nr
	State                      string // sta: s starting, p playing, k seeking, r rebuffering, a paused, e ended, f fatal, q quit, d preloading
	LiveLatencyMS              int64  // ltc
	StartDelayMS, PlayheadMS   int64  // msd, pt
	DroppedFrames              int64  // dfa
	Sequence                   int64  // sn
	CDN, Signature             string // cdn, cs
	ErrorCode                  string // ec, the first
	Next                       []Next // nor, nrr: what the player will probably ask for next
	Event, EventName           string // e, cen: reports only
	TimestampMS                int64  // ts: since 1970
	Host, URL                  string // h, url
	Status                     int64  // rc
	FirstByteMS, FirstBodyMS   int64  // ttfb, ttfbb
	LastByteMS                 int64  // ttlb
	ServerDynamic, ServerState string // cmsdd, cmsds
	sent                       uint64 // by place in keys
}

// Next is an object that a player means to ask for.
type Next struct {
	Path  string // relative to the object of the request, as in a playlist; empty: the same object
	Range string // as after "bytes=" in a Range header; empty: the whole object
}

// keys lists the keys that are known, in order; their places are the bits of Data.sent.
var keys = [...]string{"ab", "bg", "bl", "br", "bs", "bsa", "bsd", "cdn", "cen", "cid", "cmsdd", "cmsds", "cs", "d", "dfa", "dl", "e", "ec", "h", "lab", "lb",
	"ltc", "msd", "mtp", "nor", "nr", "nrr", "ot", "pb", "pr", "pt", "rc", "rtp", "sf", "sid", "sn", "st", "sta", "su", "tab", "tb", "tbl", "tpb", "ts",
	"ttfb", "ttfbb", "ttlb", "url", "v"}

// field is the place of a key in keys, and where its value goes: *int64, *float64, *string, *bool or *[]Next. A key that
// is not known has the place -1.
func (d *Data) field(key string) (place int, value any) {
	switch key {
	case "ab":
		return 0, &d.AggregateKbps
	case "bg":
		return 1, &d.Background
	case "bl":
		return 2, &d.BufferMS
	case "br":
		return 3, &d.BitrateKbps
	case "bs":
		return 4, &d.Starved
	case "bsa":
		return 5, &d.Starvations
	case "bsd":
		return 6, &d.StarvedMS
	case "cdn":
		return 7, &d.CDN
	case "cen":
		return 8, &d.EventName
	case "cid":
		return 9, &d.ContentID
	case "cmsdd":
		return 10, &d.ServerDynamic
	case "cmsds":
		return 11, &d.ServerState
	case "cs":
		return 12, &d.Signature
	case "d":
		return 13, &d.DurationMS
	case "dfa":
		return 14, &d.DroppedFrames
	case "dl":
		return 15, &d.DeadlineMS
	case "e":
		return 16, &d.Event
	case "ec":
		return 17, &d.ErrorCode
	case "h":
		return 18, &d.Host
	case "lab":
		return 19, &d.LowestAggregateKbps
	case "lb":
		return 20, &d.LowestKbps
	case "ltc":
		return 21, &d.LiveLatencyMS
	case "msd":
		return 22, &d.StartDelayMS
	case "mtp":
		return 23, &d.ThroughputKbps
	case "nor":
		return 24, &d.Next
	case "nrr":
		return 26, &d.Next
	case "nr":
		return 25, &d.NotRendered
	case "ot":
		return 27, &d.ObjectType
	case "pb":
		return 28, &d.PlayheadKbps
	case "pr":
		return 29, &d.Rate
	case "pt":
		return 30, &d.PlayheadMS
	case "rc":
		return 31, &d.Status
	case "rtp":
		return 32, &d.RequestedKbps
	case "sf":
		return 33, &d.Format
	case "sid":
		return 34, &d.SessionID
	case "sn":
		return 35, &d.Sequence
	case "st":
		return 36, &d.StreamType
	case "sta":
		return 37, &d.State
	case "su":
		return 38, &d.Startup
	case "tab":
		return 39, &d.TopAggregateKbps
	case "tb":
		return 40, &d.TopKbps
	case "tbl":
		return 41, &d.TargetBufferMS
	case "tpb":
		return 42, &d.TopPlayheadKbps
	case "ts":
		return 43, &d.TimestampMS
	case "ttfb":
		return 44, &d.FirstByteMS
	case "ttfbb":
		return 45, &d.FirstBodyMS
	case "ttlb":
		return 46, &d.LastByteMS
	case "url":
		return 47, &d.URL
	case "v":
		return 48, &d.Version
	}
	return -1, nil
}

// Has reports whether a key, as "bl", was there with a value that could be read.
func (d *Data) Has(key string) bool {
	i, _ := d.field(key)
	return i >= 0 && d.sent&(1<<i) != 0
}

// Empty reports whether the player said nothing that is known here.
func (d *Data) Empty() bool { return d.sent == 0 }

// AddQuery reads the CMCD argument of a query, as it stands in a URL after "?". Of several the first counts.
func (d *Data) AddQuery(query string) {
	start, end := find(query)
	if start < 0 {
		return
	}
	_, value, _ := strings.Cut(query[start:end], "=")
	if len(value) > MaxLen {
		value, d.Broken = value[:MaxLen], true
	}
	text, ok := unescape(value, true)
	d.Broken = d.Broken || !ok
	d.AddText(text)
}

// Strip returns a query without its CMCD arguments. It allocates only when one stands between others.
func Strip(query string) string {
	for {
		start, end := find(query)
		switch {
		case start < 0:
			return query
		case end == len(query):
			query = query[:max(0, start-1)]
		case start == 0:
			query = query[end+1:]
		default:
			query = query[:start] + query[end+1:]
		}
	}
}

// find returns the extent of the first CMCD argument of a query, or -1.
func find(query string) (start, end int) {
	for start = 0; start <= len(query); {
		i := strings.Index(query[start:], param)
		if i < 0 {
			return -1, 0
		}
		start += i
		end = start + len(param)
		if (start == 0 || query[start-1] == '&') && (end == len(query) || query[end] == '=' || query[end] == '&') {
			if amp := strings.IndexByte(query[end:], '&'); amp >= 0 {
				return start, end + amp
			}
			return start, len(query)
		}
		start = end
	}
	return -1, 0
}

// AddText reads a text of keys and values, as the value of a header or a decoded argument. A key that comes again
// replaces what there was.
func (d *Data) AddText(text string) {
	if len(text) > MaxLen {
		text, d.Broken = text[:MaxLen], true
	}
	rangeOfNext := ""
	for n := 0; text != ""; {
		var item string
		item, text = cut(text, ',')
		if item = trim(item); item == "" {
			continue
		}
		if n++; n > MaxKeys {
			d.Broken = true
			break
		}
		key, value, valued := strings.Cut(item, "=")
		i, field := d.field(key)
		if i < 0 {
			if isKey(key) {
				d.Unknown++
			} else {
				d.Broken = true
			}
			continue
		}
		var ok bool
		switch p := field.(type) {
		case *bool:
			*p = value == "?1" || !valued // RFC 9651 3.2: a key alone is true
			ok = !valued || value == "?0" || value == "?1"
		case *int64:
			var f float64
			if f, ok = numberOf(value); ok && math.Abs(f) < 1<<53 {
				*p = int64(math.Round(f))
			} else {
				ok = false
			}
		case *float64:
			*p, ok = numberOf(value)
		case *string:
			var s string
			if s, ok = textOf(value); ok {
				*p = s
			}
		case *[]Next:
			if key == "nrr" {
				rangeOfNext, ok = textOf(value)
			} else {
				*p, ok = nextOf(value)
			}
		}
		if ok {
			d.sent |= 1 << i
		} else {
			d.Broken = true
		}
	}
	if rangeOfNext != "" { // version 1: the range of the one next object; alone: of this object
		if len(d.Next) == 0 {
			d.Next = []Next{{}}
		}
		d.Next[0].Range = rangeOfNext
	}
}
