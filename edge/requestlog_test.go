package edge

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"segue/edge/cmcd"

	"github.com/prometheus/client_golang/prometheus"
)

type sinkFunc func(batch []*Record) error

func (f sinkFunc) Take(batch []*Record) error { return f(batch) }

func newTestLog(t testing.TB, cfg LogConfig, sinks ...Sink) *RequestLog {
	t.Helper()
	l, err := NewRequestLog(cfg, slog.New(slog.DiscardHandler), prometheus.NewRegistry(), sinks...)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// running starts a log; the function that it returns ends it, when all was given to the sinks.
func running(l *RequestLog) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = l.Run(ctx, func() {}) }()
	return func() { cancel(); <-done }
}

func sample() *Record {
	r := &Record{Time: time.Unix(1_800_000_000, 123_000_000), Duration: 1500 * time.Microsecond, FirstByte: 200 * time.Microsecond, Client: netip.MustParseAddr("192.0.2.77"),
		Method: "GET", Route: "/", Key: "media/T/v/aac_96.mp4", Status: 206, Bytes: 65536, Range: "bytes=0-65535", Tier: TierMemory, Cache: "hit", PlayID: "01J",
		UserAgent: `Player "1"`, Referer: "https://example.com/t/SECRET/list?token=SECRET", Proto: "HTTP/1.1", TLS: "1.3", ConnRequests: 3}
	r.CMCD.AddQuery("CMCD=bl%3D0%2Cnor%3D%22..%252Ft%252FSECRET%252Fb.mp4%22%2Csid%3D%22s1%22")
	return r
}

// TestRecordJSON: what stands in the file, and what must not: addresses whole, tokens, queries.
func TestRecordJSON(t *testing.T) {
	const want = `{"time":"2027-01-15T08:00:00.123Z","dur_us":1500,"first_byte_us":200,"client":"192.0.2.0","method":"GET","route":"/","key":"media/T/v/aac_96.mp4",` +
		`"status":206,"bytes":65536,"range":"bytes=0-65535","tier":"memory","cache":"hit","session":"01J","play":"01J","user_agent":"Player \"1\"",` +
		`"referer":"https://example.com/t/","proto":"HTTP/1.1","tls":"1.3","conn_requests":3,"cmcd":{"bl":0,"nor":[{"path":"../t/","range":""}],"sid":"s1"}}`
	var got []string
	l := newTestLog(t, LogConfig{}, sinkFunc(func(batch []*Record) error {
		for _, r := range batch {
			got = append(got, string(r.AppendJSON(nil)))
		}
		return nil
	}))
	end := running(l)
	r := sample()
	l.Add(r)
	if r.CMCD.Next[0].Path != "../t/SECRET/b.mp4" || r.Referer == "" {
		t.Error("the caller's record was changed", r)
	}
	l.Add(&Record{Time: time.Unix(1_800_000_000, 0), Status: 400})
	end()
	if len(got) != 2 || got[0] != want || got[1] != `{"time":"2027-01-15T08:00:00Z","dur_us":0,"key":"","status":400,"bytes":0}` {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "\n"), want)
	}
	if !json.Valid([]byte(want)) {
		t.Error("no JSON")
	}
}

func TestCoarse(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		a, _ := netip.ParseAddr(in)
		w, _ := netip.ParseAddr(want)
		if got := coarse(a); got != w {
			t.Errorf("%s: %s", in, got)
		}
	}
	f("192.0.2.77", "192.0.2.0")
	f("::ffff:192.0.2.77", "192.0.2.0")
	f("2001:db8:1:2:3::4", "2001:db8:1::")
	f("fe80::1%eth0", "fe80::")
	f("", "")
}

// TestLogBorrows: the texts of a record may change once Add has returned.
func TestLogBorrows(t *testing.T) {
	var got []Record
	l := newTestLog(t, LogConfig{Room: 4, WholeAddresses: true}, sinkFunc(func(batch []*Record) error {
		for _, r := range batch {
			c := *r
			c.Key, c.UserAgent = strings.Clone(r.Key), strings.Clone(r.UserAgent)
			got = append(got, c)
		}
		return nil
	}))
	for round := range 5 {
		end := running(l)
		for i := range 3 {
			b := fmt.Appendf(nil, "key %d.%d", round, i)
			l.Add(&Record{Key: string(b), UserAgent: strings.Repeat(string(b), 1+round), Status: round, Client: netip.MustParseAddr("192.0.2.77")})
			clear(b)
		}
		end()
	}
	if len(got) != 15 {
		t.Fatal(len(got), "records")
	}
	for i, r := range got {
		if key := fmt.Sprintf("key %d.%d", i/3, i%3); r.Key != key || r.UserAgent != strings.Repeat(key, 1+i/3) || r.Client.String() != "192.0.2.77" {
			t.Errorf("%d: %+v", i, r)
		}
	}
}

// TestLogFull: with nobody to write, records are dropped and counted, and those that came first are kept.
func TestLogFull(t *testing.T) {
	var got []int
	l := newTestLog(t, LogConfig{Room: 5}, sinkFunc(func(batch []*Record) error { // 8 slots
		for _, r := range batch {
			got = append(got, r.Status)
		}
		return nil
	}))
	for i := range 20 {
		l.Add(&Record{Status: i})
	}
	running(l)()
	if fmt.Sprint(got) != "[0 1 2 3 4 5 6 7]" || count(t, l.dropped) != 12 || count(t, l.kept) != 8 {
		t.Error(got, count(t, l.dropped), count(t, l.kept))
	}
	l.Add(&Record{Status: 99})
	running(l)()
	if got[len(got)-1] != 99 {
		t.Error("no room after the writer came", got)
	}
	tiny := newTestLog(t, LogConfig{Room: 1})
	for range 5 {
		tiny.Add(&Record{})
	}
	if n := count(t, tiny.dropped); n != 3 {
		t.Error(n, "dropped of 5 with room for 2")
	}
	var none *RequestLog
	none.Add(&Record{}) // no log: nothing happens
}

// TestLogParallel: every record arrives once and whole, or is counted as dropped.
func TestLogParallel(t *testing.T) {
	const writers, each = 8, 2000
	seen := map[string]int{}
	l := newTestLog(t, LogConfig{Room: 256}, sinkFunc(func(batch []*Record) error {
		for _, r := range batch {
			if r.Key != r.UserAgent {
				t.Errorf("mixed: %q %q", r.Key, r.UserAgent)
			}
			seen[strings.Clone(r.Key)]++
		}
		return nil
	}))
	end := running(l)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				key := fmt.Sprintf("%d-%d", w, i)
				l.Add(&Record{Key: key, UserAgent: key})
			}
		})
	}
	wg.Wait()
	end()
	for key, n := range seen {
		if n != 1 {
			t.Errorf("%s came %d times", key, n)
		}
	}
	if got := len(seen) + int(count(t, l.dropped)); got != writers*each {
		t.Errorf("%d seen, %v dropped", len(seen), count(t, l.dropped))
	}
}

func TestLogSinkFails(t *testing.T) {
	var out bytes.Buffer
	fail := true
	l, err := NewRequestLog(LogConfig{}, slog.New(slog.NewTextHandler(&out, nil)), prometheus.NewRegistry(), sinkFunc(func([]*Record) error {
		if fail {
			return errors.New("disk full")
		}
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	l.Add(sample())
	running(l)()
	fail = false
	l.Add(sample())
	running(l)()
	if count(t, l.lost) != 1 || strings.Count(out.String(), "disk full") != 1 {
		t.Error(count(t, l.lost), out.String())
	}
}

func lines(t *testing.T, path string) (n int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); n++ {
		if !json.Valid(s.Bytes()) {
			t.Errorf("%s line %d: %s", path, n+1, s.Text())
		}
	}
	return n
}

func TestAccessFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	a, err := OpenAccessFile(path)
	if err != nil {
		t.Fatal(err)
	}
	one := int64(len(sample().AppendJSON(nil)) + 1)
	a.limit = 3 * one
	take := func(n int) {
		t.Helper()
		batch := make([]*Record, n)
		for i := range batch {
			batch[i] = sample()
		}
		if err := a.Take(batch); err != nil {
			t.Fatal(err)
		}
	}
	take(1)
	take(2)
	take(1) // the fourth: a new file
	if lines(t, path) != 1 || lines(t, path+".1") != 3 {
		t.Error("not put aside")
	}
	take(5) // more than a file: still written, in one piece
	for range 10 {
		take(3)
	}
	found, err := filepath.Glob(path + "*")
	if err != nil || len(found) != 1+accessFiles {
		t.Error(found, err)
	}
	for _, f := range found {
		lines(t, f)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if a, err = OpenAccessFile(path); err != nil || a.size != 3*one { // continues
		t.Fatal(a, err)
	}
	// A folder that is gone is an error, not the end.
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	a.limit = 0
	if err := a.Take([]*Record{sample()}); err == nil {
		t.Error("written to nowhere")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	take(1)
	if lines(t, path) != 1 {
		t.Error("not opened again")
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if _, err := OpenAccessFile(filepath.Join(path, "x")); err == nil {
		t.Error("opened below a file")
	}
}

// half writes half of the first batch and fails.
type half struct{ bytes.Buffer }

func (h *half) Write(b []byte) (int, error) {
	if h.Len() == 0 {
		n, _ := h.Buffer.Write(b[:len(b)/2])
		return n, errors.New("disk full")
	}
	return h.Buffer.Write(b)
}

func TestAccessFileTorn(t *testing.T) {
	var h half
	a := &AccessFile{out: &h}
	if err := a.Take([]*Record{sample()}); err == nil {
		t.Fatal("no error")
	}
	if err := a.Take([]*Record{sample()}); err != nil {
		t.Fatal(err)
	}
	all := strings.Split(h.String(), "\n")
	if len(all) != 3 || json.Valid([]byte(all[0])) || !json.Valid([]byte(all[1])) {
		t.Error(all)
	}
}

func TestLogAddAllocs(t *testing.T) {
	l := newTestLog(t, LogConfig{Room: 16})
	r := sample()
	var batch [logBatch]*Record
	for range 64 { // the slots' texts grow once
		l.Add(r)
		l.release(l.read(&batch))
	}
	if n := testing.AllocsPerRun(200, func() { l.Add(r); l.release(l.read(&batch)) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkLogAdd(b *testing.B) {
	bare := sample()
	bare.CMCD = cmcd.Data{}
	for name, r := range map[string]*Record{"bare": bare, "cmcd": sample()} {
		b.Run(name, func(b *testing.B) {
			l := newTestLog(b, LogConfig{})
			var batch [logBatch]*Record
			for i := 0; b.Loop(); i++ { // the writer's part without its sink, as seldom as it comes
				l.Add(r)
				if i%logBatch == 0 {
					l.release(l.read(&batch))
				}
			}
			b.ReportAllocs()
		})
	}
	b.Run("full", func(b *testing.B) { // what a record costs that is dropped
		b.ReportAllocs()
		l := newTestLog(b, LogConfig{Room: 1})
		l.Add(bare)
		l.Add(bare)
		for b.Loop() {
			l.Add(bare)
		}
	})
	b.Run("json", func(b *testing.B) {
		b.ReportAllocs()
		r, buf := sample(), []byte(nil)
		for b.Loop() {
			buf = r.AppendJSON(buf[:0])
		}
	})
}
