package edgelog_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"segue/controlplane/api/edgelog"

	"github.com/google/go-cmp/cmp"
)

const logName = "01J00000000000000000000000"

func sample(i int) edgelog.Row {
	return edgelog.Row{At: time.UnixMicro(1_800_000_000_123_456 + int64(i)).UTC(), Duration: 1500 * time.Microsecond, FirstByte: 200 * time.Microsecond, Status: 206, Bytes: 65536, ConnRequests: 3,
		Client: "192.0.2.0/24", Method: "GET", Route: "/", Key: "media/T/v/aac_96.mp4", Range: "bytes=0-65535", Tier: "memory", Cache: "hit", PlayID: "01J", SessionID: "01J",
		UserAgent: "ü\xff", Proto: "HTTP/1.1", TLS: "1.3", Version: 2, Object: "a", Format: "h", Stream: "v", State: "p", Content: "c", BitrateKbps: 160, TopKbps: 256,
		ThroughputKbps: 9000, RequestedKbps: 500, DurationMS: 4000, Sequence: 7, BufferMS: 0, DeadlineMS: -1, RateThousandths: 1000, Startup: i%2 == 0, Starved: i%2 == 1}
}

func frame(t testing.TB, first uint64, n int) []byte {
	t.Helper()
	var raw []byte
	for i := range n {
		r := sample(i)
		raw = edgelog.AppendRow(raw, &r)
	}
	b, err := edgelog.AppendFrame(nil, edgelog.Head{Log: logName, First: first, Rows: n}, raw)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestRoundTrip: frames one after the other come back as they were written.
func TestRoundTrip(t *testing.T) {
	b := append(frame(t, 1, 3), frame(t, 4, 1)...)
	var got []edgelog.Row
	var seqs []uint64
	for rest := b; len(rest) > 0; {
		h, f, after, err := edgelog.Cut(rest)
		if err != nil || h.Log != logName {
			t.Fatal(h, err)
		}
		rest = after
		if err := edgelog.Rows(h, f, func(seq uint64, r *edgelog.Row) { got, seqs = append(got, *r), append(seqs, seq) }); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(got, []edgelog.Row{sample(0), sample(1), sample(2), sample(0)}); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(seqs, []uint64{1, 2, 3, 4}); d != "" {
		t.Error(d)
	}
}

// TestDamage: every cut and every flipped bit is seen.
func TestDamage(t *testing.T) {
	b := frame(t, 9, 2)
	for n := range len(b) {
		if _, _, _, err := edgelog.Cut(b[:n]); !errors.Is(err, edgelog.ErrShort) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	for i := range len(b) {
		c := append([]byte(nil), b...)
		c[i] ^= 4
		if _, _, _, err := edgelog.Cut(c); err == nil {
			t.Errorf("byte %d changed, and nobody sees it", i)
		}
	}
}

// TestBounds: what would be too large is refused when it is written.
func TestBounds(t *testing.T) {
	for name, h := range map[string]edgelog.Head{"no rows": {Log: logName}, "too many": {Log: logName, Rows: edgelog.MaxRows + 1}, "no log": {Rows: 1}} {
		if _, err := edgelog.AppendFrame(nil, h, []byte("x")); err == nil {
			t.Error(name)
		}
	}
	if _, err := edgelog.AppendFrame(nil, edgelog.Head{Log: logName, Rows: 1}, make([]byte, edgelog.MaxRaw+1)); err == nil {
		t.Error("too many bytes")
	}
}

func FuzzFrame(f *testing.F) {
	f.Add(frame(f, 1, 2))
	f.Add([]byte("SGL1" + strings.Repeat("\x00", 60)))
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			h, frame, rest, err := edgelog.Cut(b)
			if err != nil {
				return
			}
			n := 0
			if err := edgelog.Rows(h, frame, func(uint64, *edgelog.Row) { n++ }); err == nil && n != h.Rows {
				t.Errorf("%d rows of %d", n, h.Rows)
			}
			b = rest
		}
	})
}
