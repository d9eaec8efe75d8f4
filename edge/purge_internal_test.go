package edge

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func newPurges(t testing.TB, dir string) *purges {
	t.Helper()
	p, err := openPurges(dir, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func storeMeta(key string, epoch int64, h ...string) *Meta {
	m := &Meta{Key: key, Route: &Route{Prefix: "/s/", Origin: StoreOrigin{}}, Strong: true, Epoch: epoch}
	m.FreshUntil = time.Now().Add(time.Hour)
	for _, tag := range h {
		m.Tags += makeTagsOf(tag)
	}
	return m
}

func makeTagsOf(tag string) tags {
	h := tagHash(tag)
	var b []byte
	for i := range 8 {
		b = append(b, byte(h>>(8*i)))
	}
	return tags(b)
}

func apply(t testing.TB, p *purges, rs ...purgeRecord) {
	t.Helper()
	if _, err := p.apply(rs); err != nil {
		t.Fatal(err)
	}
}

// TestPurgeTablesAreBounded: what is too much to keep purges more, never less.
func TestPurgeTablesAreBounded(t *testing.T) {
	p := newPurges(t, "")
	old := storeMeta("k", p.tick())
	for i := range maxExact + 10 {
		apply(t, p, purgeRecord{kind: recordExact, hash: tagHash(fmt.Sprint("tag", i)), soft: i%2 == 0})
	}
	if n := p.live(); n > maxExact+2 {
		t.Errorf("%d marks", n)
	}
	if p.judge(old) != nil {
		t.Error("a Meta older than a purge that was forgotten is used")
	}
	if m := storeMeta("k", p.tick()); p.judge(m) != m {
		t.Error("a new Meta is not used")
	}
	mid := storeMeta("k", p.tick())
	for i := range maxPrefixes + 10 {
		apply(t, p, purgeRecord{kind: recordPrefix, prefix: fmt.Sprintf("/x/%d/", i), soft: true})
	}
	if len(p.prefixes) > maxPrefixes {
		t.Errorf("%d prefixes", len(p.prefixes))
	}
	if m := p.judge(mid); m == nil || m == mid || m.FreshUntil.After(time.Now()) {
		t.Errorf("a Meta older than a soft purge that was forgotten: %+v, want a stale one", m)
	}
	apply(t, p, purgeRecord{kind: recordPrefix, prefix: "/x/"})
	if len(p.prefixes) != 1 {
		t.Errorf("%d prefixes, though one says it all", len(p.prefixes))
	}
}

func TestPurgePrefixes(t *testing.T) {
	f := func(prefix, key string, want bool) {
		t.Helper()
		if got := begins(storeMeta(key, 0), prefix); got != want {
			t.Errorf("%s of /s/%s: %t", prefix, key, got)
		}
	}
	f("/", "a", true)
	f("/s", "a", true)
	f("/s/", "a", true)
	f("/s/a", "a", true)
	f("/s/a", "ab", true)
	f("/s/ab", "a", false)
	f("/t/", "a", false)
	f("/sa", "a", false)
}

// TestPurgeClock: Metas of a life whose clock was ahead are not newer than a purge.
func TestPurgeClock(t *testing.T) {
	p := newPurges(t, "")
	ahead := storeMeta("k", p.tick()+int64(time.Hour))
	apply(t, p, purgeRecord{kind: recordExact, hash: keyHash("/s/", "k")})
	if p.judge(ahead) != nil {
		t.Error("purged, and used")
	}
	if other := storeMeta("other", ahead.Epoch); p.judge(other) == nil {
		t.Error("not purged, and given up")
	}
	ancient := storeMeta("other", p.tick()-int64(2*oldestMeta))
	if m := p.judge(ancient); m == nil || m.FreshUntil.After(time.Now()) {
		t.Error("a Meta older than all that is remembered counts as fresh")
	}
}

func TestPurgeLog(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, purgeFile)
	p := newPurges(t, dir)
	before := storeMeta("k", p.tick(), "a")
	apply(t, p, purgeRecord{kind: recordExact, hash: tagHash("a"), fleet: 5}, purgeRecord{kind: recordPrefix, prefix: "/x/", soft: true, fleet: 6})
	again := newPurges(t, dir)
	if again.fleet.Load() != 6 || again.newest.Load() != p.newest.Load() || again.judge(before) != nil {
		t.Errorf("after a restart: fleet %d, newest %d", again.fleet.Load(), again.newest.Load())
	}
	salt, once := p.salt(storeMeta("k", p.tick(), "a"))
	if s, o := again.salt(storeMeta("k", again.tick(), "a")); s != salt || o || once || s != 5 {
		t.Errorf("salt %d %t, before the restart %d", s, o, salt)
	}

	// A torn end is cut, and what comes after it is read.
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range 20 {
		if err := os.WriteFile(path, whole[:len(whole)-cut], 0o644); err != nil {
			t.Fatal(err)
		}
		p := newPurges(t, dir)
		if p.floor.hard != 0 {
			t.Errorf("a torn end of %d bytes purged everything", cut)
		}
		apply(t, p, purgeRecord{kind: recordExact, hash: tagHash("b"), fleet: 9})
		if p := newPurges(t, dir); p.fleet.Load() != 9 || p.floor.hard != 0 {
			t.Errorf("cut by %d: fleet %d", cut, p.fleet.Load())
		}
	}

	// Rewritten when most of it counts no more.
	p = newPurges(t, dir)
	var many []purgeRecord
	for i := range 3000 {
		many = append(many, purgeRecord{kind: recordExact, hash: tagHash(fmt.Sprint(i % 300)), fleet: int64(100 + i)})
	}
	apply(t, p, many...)
	if info, err := os.Stat(path); err != nil || info.Size() > 120<<10 {
		t.Errorf("%v %v", info.Size(), err)
	}
	again = newPurges(t, dir)
	if again.fleet.Load() != 3099 || again.newest.Load() != p.newest.Load() || again.of(before) != p.of(before) || again.live() != p.live() {
		t.Errorf("after rewriting: %d %+v", again.fleet.Load(), again.of(before))
	}

	// Damage in its middle: nobody knows what was purged.
	whole, _ = os.ReadFile(path)
	if len(whole) < purgeHead+2*maxPurgeBody {
		t.Fatal("too short for the test")
	}
	for _, at := range []int{0, len(purgeMagic) + 9} {
		b := slices.Clone(whole)
		b[at] ^= 1
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		p := newPurges(t, dir)
		if p.judge(storeMeta("unrelated", p.tick()-int64(time.Minute))) != nil {
			t.Errorf("damaged at %d: what was stored before is used", at)
		}
	}
}

type removals []ObjectID

func (r *removals) Remove(id ObjectID) { *r = append(*r, id) }

// TestHardPurgeGivesBytesUp: the tiers are told which objects nobody can find any more.
func TestHardPurgeGivesBytesUp(t *testing.T) {
	p := newPurges(t, "")
	route := &Route{Prefix: "/s/", Origin: StoreOrigin{}}
	table, err := newMetas(newRouteTable(routes{route}), 1<<20, time.Second, p, newMetrics(prometheus.NewRegistry()))
	if err != nil {
		t.Fatal(err)
	}
	var given removals
	table.removers = []remover{&given}
	var want []ObjectID
	for i := range 100 {
		m := &Meta{Key: fmt.Sprint(i), Route: route, Status: 200, Strong: true, Epoch: p.tick()}
		m.identify("", p)
		table.put(m, nil, nil)
		if i/10 == 4 {
			want = append(want, m.Object)
		}
	}
	apply(t, p, purgeRecord{kind: recordPrefix, prefix: "/s/4"}) // 4, 40 to 49
	if table.find(route, "40", nil) != nil || table.find(route, "50", nil) == nil {
		t.Error("the wrong Meta was purged")
	}
	table.sweep()
	if len(given) != 11 || table.cache.Len() != 89 {
		t.Errorf("%d objects given up, %d Metas left", len(given), table.cache.Len())
	}
	for _, id := range want {
		if !slices.Contains(given, id) {
			t.Error("an object was kept")
		}
	}
}

// BenchmarkJudge is what purges cost a hit.
func BenchmarkJudge(b *testing.B) {
	f := func(name string, p *purges, m *Meta) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if p.judge(m) != m {
					b.Fatal("purged")
				}
			}
		})
	}
	key := "media/01ARZ3NDEKTSV4RRFFQ69G5FAV/abcdefghijklmnopqrstuvwxyz/aac_160.mp4"
	none, some := newPurges(b, ""), newPurges(b, "")
	old := storeMeta(key, some.tick(), "a", "b")
	for i := range 1000 {
		apply(b, some, purgeRecord{kind: recordExact, hash: tagHash(fmt.Sprint(i))})
	}
	few := newPurges(b, "")
	few.exact = some.exact
	few.newest.Store(some.newest.Load())
	for i := range maxPrefixes {
		apply(b, some, purgeRecord{kind: recordPrefix, prefix: fmt.Sprintf("/s/media/x%d/", i)})
	}
	f("none", none, old)
	f("younger", some, storeMeta(key, some.tick(), "a", "b"))
	f("older", few, old)
	f("older-256-prefixes", some, old)
}

// TestPrefetchWasted: what nobody asked for in a minute gives its room back.
func TestPrefetchWasted(t *testing.T) {
	d := &door{memory: NewMemory(64 * BlockSize)}
	p := newAhead(d, 64*BlockSize, func() bool { return true }, time.Second, prometheus.NewRegistry())
	m := &Meta{Size: 10 * BlockSize}
	if _, _, ok := p.claim(m, 0, 3); !ok {
		t.Fatal("no room")
	}
	if _, _, ok := p.claim(m, 4, 5); ok {
		t.Error("more than its share")
	}
	p.use(m, 1, 1)
	p.sweep(time.Now().Add(aheadLife + time.Second))
	if got := p.counts(); got["used"] != 1 || got["wasted"] != 3 || got["dropped"] != 2 || p.open.Load() != 0 {
		t.Errorf("%v", got)
	}
	if _, _, ok := p.claim(m, 4, 5); !ok {
		t.Error("its room did not come back")
	}
}
