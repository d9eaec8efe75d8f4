package edge

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"segue/edge/policy"
	"segue/media"
	"segue/origin/memstore"

	"github.com/prometheus/client_golang/prometheus"
)

// serveObjects runs an edge with objects of the given sizes, /o/<size>, and returns its address.
func serveObjects(t testing.TB, sizes ...int) string {
	t.Helper()
	var store memstore.Store
	for _, n := range sizes {
		o := media.Object{Key: media.Key(fmt.Sprintf("art/o/v/%d.jpg", n)), Size: int64(n), ContentType: "image/jpeg"}
		if _, err := store.Put(context.Background(), o, bytes.NewReader(make([]byte, n))); err != nil {
			t.Fatal(err)
		}
	}
	e, err := New(Config{Routes: []*Route{{Prefix: "/", Origin: StoreOrigin{Store: &store, Fresh: time.Hour}}}}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	up, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- e.Serve(ctx, ln, func() { close(up) }) }()
	<-up
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

// hit returns a function that asks for one object over one connection, and allocates nothing itself.
func hit(t testing.TB, addr string, size int, rng string) func() {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Minute))
	head := fmt.Sprintf("GET /art/o/v/%d.jpg HTTP/1.1\r\nHost: x\r\n", size)
	if rng != "" {
		head += "Range: bytes=" + rng + "\r\n"
	}
	req := []byte(head + "\r\n")
	buf := make([]byte, 256<<10)
	end, length := []byte("\r\n\r\n"), []byte("Content-Length: ")
	return func() {
		if _, err := c.Write(req); err != nil {
			t.Fatal(err)
		}
		n, at := 0, -1
		for at < 0 {
			k, err := c.Read(buf[n:])
			if err != nil {
				t.Fatal(err)
			}
			n += k
			at = bytes.Index(buf[:n], end)
		}
		want := 0
		for _, d := range buf[bytes.Index(buf[:at], length)+len(length) : at] {
			if d < '0' || d > '9' {
				break
			}
			want = want*10 + int(d-'0')
		}
		for left := want - (n - at - len(end)); left > 0; {
			k, err := c.Read(buf[:min(left, len(buf))])
			if err != nil {
				t.Fatal(err)
			}
			left -= k
		}
	}
}

// A hit's budget, the same at every body size.
const (
	maxHitAllocs = 4 // all of them in the door: transport and body have none
	maxHitBytes  = 512
)

var hits = []struct {
	name, rng string
	size, n   int
}{
	{"1KiB", "", 1 << 10, 1 << 10},
	{"16KiB", "", 16 << 10, 16 << 10},
	{"64KiB", "", 64 << 10, 64 << 10},
	{"256KiB", "", 256 << 10, 256 << 10},
	{"8MiB", "", 8 << 20, 8 << 20},
	{"128KiBof8MiB", "1000000-1131071", 8 << 20, 128 << 10},
	{"1MiBof8MiB", "1000000-2048575", 8 << 20, 1 << 20},
}

func hitSizes() (sizes []int) {
	for _, h := range hits {
		sizes = append(sizes, h.size)
	}
	return sizes
}

func TestHitAllocatesTheSameAtEverySize(t *testing.T) {
	if raceEnabled {
		return // pools drop things at random then
	}
	addr := serveObjects(t, hitSizes()...)
	for _, h := range hits {
		ask := hit(t, addr, h.size, h.rng)
		ask()
		ask()
		var before, after runtime.MemStats
		const n = 300
		runtime.ReadMemStats(&before)
		for range n {
			ask()
		}
		runtime.ReadMemStats(&after)
		count, size := float64(after.Mallocs-before.Mallocs)/n, float64(after.TotalAlloc-before.TotalAlloc)/n
		t.Logf("%s: %.1f allocations, %.0f bytes", h.name, count, size)
		if count > maxHitAllocs+.5 || size > maxHitBytes {
			t.Errorf("%s: a hit costs %.1f allocations, %.0f bytes; the budget is %d and %d", h.name, count, size, maxHitAllocs, maxHitBytes)
		}
	}
}

func BenchmarkHit(b *testing.B) {
	addr := serveObjects(b, hitSizes()...)
	for _, h := range hits {
		b.Run(h.name, func(b *testing.B) {
			ask := hit(b, addr, h.size, h.rng)
			ask()
			b.SetBytes(int64(h.n))
			b.ReportAllocs()
			for b.Loop() {
				ask()
			}
		})
	}
}

func TestBodyTakesMemoryFirst(t *testing.T) {
	m := NewMemory(64 << 20)
	src := &fixed{m: m}
	d := &door{memory: m, source: src, wait: time.Minute}
	meta := &Meta{Size: 5*BlockSize + 100, Object: objectID(1)}
	for _, n := range []uint32{0, 1, 3} {
		b := m.Alloc(blockLen(meta.Size, n))
		for i := range b.Bytes {
			b.Bytes[i] = byte(n + 1)
		}
		m.Put(BlockKey{meta.Object, n}, b)
	}
	var want []byte
	for n := range uint32(6) {
		want = append(want, bytes.Repeat([]byte{byte(n + 1)}, blockLen(meta.Size, n))...)
	}
	read := func(offset, length int64) (Tier, string) {
		t.Helper()
		src.asked = nil
		b, tier, err := d.open(meta, policy.Answer{Offset: offset, Length: length})
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if offset%2 == 0 {
			_, err = b.WriteTo(&got)
		} else {
			_, err = io.Copy(&got, struct{ io.Reader }{b})
		}
		b.Close()
		if err != nil || !bytes.Equal(got.Bytes(), want[offset:offset+length]) {
			t.Errorf("%d bytes at %d: %d came, %v", length, offset, got.Len(), err)
		}
		var asked []string
		for _, w := range src.asked {
			asked = append(asked, fmt.Sprintf("%d-%d", w.First, w.Last))
		}
		return tier, strings.Join(asked, " ")
	}
	f := func(offset, length int64, tier Tier, asked string) {
		t.Helper()
		if gotTier, got := read(offset, length); gotTier != tier || got != asked {
			t.Errorf("%d bytes at %d: %s, asked for %q, want %s, %q", length, offset, gotTier, got, tier, asked)
		}
	}
	f(0, 2*BlockSize, TierMemory, "")
	f(1001, 2000, TierMemory, "")
	f(BlockSize-1, 2, TierMemory, "")
	f(0, meta.Size, TierMemory, "2-5")
	f(2*BlockSize+1, 10, TierOrigin, "2-2")
	f(5*BlockSize+99, 1, TierOrigin, "5-5")
}

func TestBodyEndsEarlyWithAnError(t *testing.T) {
	m := NewMemory(1 << 20)
	d := &door{memory: m, source: &fixed{m: m}, wait: time.Minute}
	meta := &Meta{Size: BlockSize, Object: objectID(1)}
	b, _, err := d.open(meta, policy.Answer{Length: 2 * BlockSize}) // the source has but one
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	b.last = 0
	if n, err := b.WriteTo(bufio.NewWriter(io.Discard)); err == nil || n > BlockSize {
		t.Errorf("%d bytes, %v", n, err)
	}
}
