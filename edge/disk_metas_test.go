package edge

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sealRecord returns an index record with the right checksum.
func sealRecord(b []byte) []byte {
	b = bytes.Clone(b)
	binary.BigEndian.PutUint32(b[diskRecordLen-4:], crc32.Checksum(b[:diskRecordLen-4], castagnoli))
	return b
}

func flushMetas(t testing.TB, l *metaLog) {
	t.Helper()
	if _, err := l.flush(); err != nil {
		t.Fatal(err)
	}
}

func wantMeta(t testing.TB, l *metaLog, id, want string) {
	t.Helper()
	if got, ok, _ := l.get(id); string(got) != want || ok != (want != "") {
		t.Errorf("meta %.40q is %.40q, want %.40q", id, got, want)
	}
}

func TestMetaLog(t *testing.T) {
	dir := t.TempDir()
	l := openMetaLog(dir, minMetaBudget)
	long := strings.Repeat("k", 1024)
	l.put("a", []byte("one"))
	wantMeta(t, l, "a", "one") // before it is written
	flushMetas(t, l)
	l.put("a", []byte("two"))
	l.put(long, bytes.Repeat([]byte("v"), 4096))
	l.put("b", []byte("gone"))
	wantMeta(t, l, "a", "two")
	flushMetas(t, l)
	l.remove("b")
	wantMeta(t, l, "b", "")
	wantMeta(t, l, "never", "")
	l.put("c", make([]byte, maxMetaRecord+1))
	wantMeta(t, l, "c", "")
	flushMetas(t, l)
	check := func(l *metaLog) {
		t.Helper()
		wantMeta(t, l, "a", "two")
		wantMeta(t, l, "b", "")
		wantMeta(t, l, long, strings.Repeat("v", 4096))
	}
	check(l)
	l.close()
	wantMeta(t, l, "a", "")
	for range 20 { // restarts do not use the segments up
		l = openMetaLog(dir, minMetaBudget)
		check(l)
		l.put("d", []byte("more"))
		flushMetas(t, l)
		l.close()
	}
	if paths := glob(dir, func(string) bool { return true }); len(paths) != 1 {
		t.Errorf("segments: %v", paths)
	}
}

func TestMetaLogStaysWithinItsBudget(t *testing.T) {
	dir := t.TempDir()
	l := openMetaLog(dir, minMetaBudget)
	record := bytes.Repeat([]byte("r"), 2000)
	for i := range 12_000 { // three times the budget
		l.put(fmt.Sprint(i), record)
		if i%50 == 0 {
			flushMetas(t, l)
		}
		if _, ok, _ := l.get("0"); !ok { // what is used stays
			t.Fatalf("the first meta was lost after %d others", i)
		}
	}
	flushMetas(t, l)
	total := int64(0)
	for _, path := range glob(dir, func(string) bool { return true }) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if total > minMetaBudget+maxMetaQueue || total < minMetaBudget/2 {
		t.Errorf("%d bytes in a budget of %d", total, minMetaBudget)
	}
	wantMeta(t, l, "1", "")
	wantMeta(t, l, "11999", string(record))
	if n := len(l.places); n > 5000 {
		t.Errorf("%d places are remembered", n)
	}
	l.close()
	l = openMetaLog(dir, minMetaBudget)
	wantMeta(t, l, "0", string(record))
	wantMeta(t, l, "11999", string(record))
	l.close()
}

// TestMetaLogDamage flips every bit and cuts at every length: a record is right or absent, and a deleted one stays
// deleted unless its deletion was cut off.
func TestMetaLogDamage(t *testing.T) {
	l := openMetaLog(t.TempDir(), minMetaBudget)
	l.put("deleted", []byte("old"))
	l.put("kept", []byte("record"))
	l.remove("deleted")
	l.put("last", []byte("new"))
	whole := bytes.Clone(l.pending)
	deletion := len(whole) - len(appendMetaFrame(nil, metaPut, "last", []byte("new")))
	open := func(b []byte) *metaLog {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "0000000001.log"), b, 0o644); err != nil {
			t.Fatal(err)
		}
		return openMetaLog(dir, minMetaBudget)
	}
	check := func(what string, l *metaLog, deletedMayBeThere bool) {
		t.Helper()
		for id, want := range map[string]string{"deleted": "old", "kept": "record", "last": "new"} {
			got, ok, _ := l.get(id)
			if ok && string(got) != want || ok && id == "deleted" && !deletedMayBeThere {
				t.Errorf("%s: %s is %q", what, id, got)
			}
		}
		l.put("after", []byte("it works"))
		if _, err := l.flush(); err != nil {
			t.Error(err)
		}
		l.close()
		l = openMetaLog(l.dir, minMetaBudget)
		wantMeta(t, l, "after", "it works")
		l.close()
	}
	for cut := range whole {
		check(fmt.Sprint("cut at ", cut), open(whole[:cut]), cut < deletion)
	}
	for bit := range len(whole) * 8 {
		b := bytes.Clone(whole)
		b[bit/8] ^= 1 << (bit % 8)
		check(fmt.Sprint("bit ", bit), open(b), false)
	}
	check("zeros", open(append(bytes.Clone(whole), make([]byte, 5000)...)), false)
}

// TestMetaLogForgetsWhenItCannotWrite: a deletion may be among what was lost.
func TestMetaLogForgetsWhenItCannotWrite(t *testing.T) {
	dir := t.TempDir()
	l := openMetaLog(dir, minMetaBudget)
	l.put("a", []byte("one"))
	flushMetas(t, l)
	l.segments[0].file.Close() // writes fail from now on
	l.remove("a")
	l.put("b", []byte("two"))
	if _, err := l.flush(); err == nil {
		t.Fatal("no error")
	}
	wantMeta(t, l, "b", "")
	l.put("b", []byte("three"))
	flushMetas(t, l)
	wantMeta(t, l, "b", "three")
	l.close()
	l = openMetaLog(dir, minMetaBudget)
	wantMeta(t, l, "a", "")
	wantMeta(t, l, "b", "three")
	l.close()
}

// FuzzMetaLog replays any bytes: places must be within them, and what get returns must have a right checksum.
func FuzzMetaLog(f *testing.F) {
	b := appendMetaFrame(nil, metaPut, "a", []byte("record"))
	b = appendMetaFrame(b, metaDelete, "b", nil)
	f.Add(b)
	f.Add(b[:len(b)-1])
	f.Add(append(b, 0, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= metaHead { // a fuzzer does not guess checksums
			b = bytes.Clone(b)
			binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:metaHead], castagnoli))
		}
		l := openMetaLog(t.TempDir(), minMetaBudget)
		defer l.close()
		end := l.replay(1, b)
		if end < 0 || end > int64(len(b)) {
			t.Fatalf("the end is at %d of %d", end, len(b))
		}
		for _, p := range l.places {
			if int64(p.offset)+int64(p.length) > end || p.length < metaHead {
				t.Fatalf("a place beyond the end: %+v of %d", p, end)
			}
		}
	})
}
