package search_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"segue/controlplane/search"

	"github.com/google/go-cmp/cmp"
)

// journal is a table and its event log in one file: a line is a change, in order. A reader's place is another file. It
// stands for SQL with its outbox and for the log: what is in it is committed.
type journal struct {
	*table
	dir  string
	file *os.File
	ids  []string // of each line
}

type change struct {
	ID      string
	Name    string
	Deleted bool
}

func openJournal(dir string) (*journal, error) {
	f, err := os.OpenFile(filepath.Join(dir, "journal"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	j := &journal{table: newTable("track"), dir: dir, file: f}
	for in := bufio.NewScanner(f); in.Scan(); {
		var c change
		if json.Unmarshal(in.Bytes(), &c) != nil {
			break // the line that was being written: it never happened
		}
		j.take(c)
	}
	return j, nil
}

func (j *journal) take(c change) {
	if c.Deleted {
		j.remove(c.ID)
	} else {
		j.put(search.Doc{ID: c.ID, Name: c.Name, Popularity: float64(len(c.Name))})
	}
	j.ids = append(j.ids, c.ID)
}

func (j *journal) write(c change) error {
	b, _ := json.Marshal(c)
	if _, err := j.file.Write(append(b, '\n')); err != nil {
		return err
	}
	j.take(c)
	return nil
}

// follow applies what was not acknowledged, in batches, as the reader of events does.
func (j *journal) follow(ctx context.Context, x *search.Index) error {
	b, _ := os.ReadFile(filepath.Join(j.dir, "place"))
	place, _ := strconv.Atoi(string(b))
	for ids := range slices.Chunk(j.ids[min(place, len(j.ids)):], 17) {
		if err := x.Apply(ctx, "track", ids...); err != nil {
			return err
		}
		place += len(ids)
		tmp := filepath.Join(j.dir, "place.new")
		if err := os.WriteFile(tmp, []byte(strconv.Itoa(place)), 0o644); err != nil {
			return err
		}
		if err := os.Rename(tmp, filepath.Join(j.dir, "place")); err != nil {
			return err
		}
	}
	return nil
}

func randomChange(r *rand.Rand) change {
	c := change{ID: fmt.Sprintf("%03d", r.IntN(400)), Deleted: r.IntN(5) == 0}
	if !c.Deleted {
		c.Name = fmt.Sprintf("song %d %s", r.IntN(1000), strings.Repeat("la ", r.IntN(5)))
	}
	return c
}

// child changes the table and indexes until it is killed.
func child(dir string) {
	err := func() error {
		j, err := openJournal(dir)
		if err != nil {
			return err
		}
		x, err := search.Open(search.Config{Dir: filepath.Join(dir, "search"), Sources: []search.Source{j.source()}})
		if err != nil {
			return err
		}
		go func() { _ = x.Run(context.Background()) }()
		r := rand.New(rand.NewPCG(uint64(os.Getpid()), uint64(time.Now().UnixNano())))
		fmt.Println("up")
		for i := 0; ; i++ {
			for range 1 + r.IntN(50) {
				if err := j.write(randomChange(r)); err != nil {
					return err
				}
			}
			if i%20 == 19 {
				x.StartRebuild()
			}
			if err := j.follow(context.Background(), x); err != nil {
				return err
			}
			if i == 3 {
				fmt.Println("indexed")
			}
		}
	}()
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// Killed at any moment, while filling, changing, rebuilding or merging, the index is the table's again after a restart.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(7, 7))
	for round := range 8 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "SEGUE_SEARCH_CHILD="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		want := "up"
		if round%2 == 1 {
			want = "indexed"
		}
		in := bufio.NewScanner(out)
		for in.Scan() && in.Text() != want {
		}
		killed := time.AfterFunc(time.Duration(r.IntN(400))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		for in.Scan() {
		}
		killed.Stop()
		if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" {
			t.Fatalf("round %d: the child ended by itself: %v", round, err)
		}
		func() {
			j, err := openJournal(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer j.file.Close()
			x, err := search.Open(search.Config{Dir: filepath.Join(dir, "search"), Sources: []search.Source{j.source()}})
			if err != nil {
				t.Fatal(err)
			}
			defer x.Close()
			if x.Building() {
				if err := x.Rebuild(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if err := j.follow(t.Context(), x); err != nil {
				t.Fatal(err)
			}
			same(t, x, j.table)
		}()
	}
}

// same compares an index with its table: by Verify, and by looking for every name.
func same(t *testing.T, x *search.Index, tables ...*table) {
	t.Helper()
	report, err := x.Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := search.Report{Tables: map[string]int64{}, Index: map[string]int64{}}
	for _, table := range tables {
		table.mu.Lock()
		want.Tables[table.kind], want.Index[table.kind] = int64(len(table.rows)), int64(len(table.rows))
		table.mu.Unlock()
	}
	if d := cmp.Diff(report, want); d != "" {
		t.Fatal(d)
	}
	for _, table := range tables {
		for id, d := range table.rows {
			r, err := x.Find(t.Context(), search.Query{Text: d.Name, Kinds: []string{table.kind}, Limit: 100})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(r.Lists[table.kind].Hits, func(h search.Hit) bool { return h.ID == id && string(h.Source) == string(d.Source) }) && len(r.Lists[table.kind].Hits) < 100 {
				t.Fatalf("%s %q is not found", id, d.Name)
			}
		}
	}
}

// Random changes by several writers while the index is rebuilt again and again: it ends as the tables are, and a document
// that never changes is found all the time.
func TestRandomChanges(t *testing.T) {
	for _, steps := range []int{1, 2} {
		tracks, artists := newTable("track", search.Doc{ID: "fixed", Name: "Lighthouse"}), newTable("artist")
		x := built(t, steps, tracks, artists)
		ctx, stop := context.WithCancel(t.Context())
		var readers, writers sync.WaitGroup
		readers.Go(func() {
			for ctx.Err() == nil {
				if r, err := x.Find(ctx, search.Query{Text: "lighth"}); err == nil && len(r.Lists["track"].Hits) != 1 {
					t.Error("the fixed one is not found")
					return
				} else if err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
		readers.Go(func() { _ = x.Run(ctx) })
		for w := range 3 {
			writers.Go(func() {
				r := rand.New(rand.NewPCG(uint64(w), uint64(steps)))
				for range 8 {
					for _, table := range []*table{tracks, artists} {
						var ids []string
						for range 1 + r.IntN(20) {
							c := randomChange(r)
							if ids = append(ids, c.ID); c.Deleted {
								table.remove(c.ID)
							} else {
								table.put(search.Doc{ID: c.ID, Name: c.Name})
							}
						}
						if err := x.Apply(ctx, table.kind, ids...); err != nil {
							t.Error(err)
						}
					}
				}
			})
		}
		for range 3 {
			if err := x.Rebuild(ctx); err != nil {
				t.Error(err)
			}
		}
		writers.Wait()
		same(t, x, tracks, artists)
		stop()
		readers.Wait()
	}
}

// What the events never told is found by Verify and put right by Mend.
func TestMend(t *testing.T) {
	tracks, artists := newTable("track"), newTable("artist")
	for i := range 1200 {
		tracks.put(search.Doc{ID: fmt.Sprint(i), Name: fmt.Sprint("Song ", i)})
		artists.put(search.Doc{ID: fmt.Sprint(i), Name: fmt.Sprint("Band ", i)})
	}
	x := built(t, 2, tracks, artists)
	same(t, x, tracks, artists)
	tracks.put(search.Doc{ID: "new", Name: "New"})
	tracks.put(search.Doc{ID: "7", Name: "Other name"})
	tracks.put(search.Doc{ID: "8", Name: "Song 8", Popularity: 5})
	tracks.remove("9")
	artists.remove("10")
	r, err := x.Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r.Missing != 1 || r.Stale != 2 || r.Extra != 2 || r.Mended != 0 || len(r.Differences) != 5 {
		t.Errorf("%+v", r)
	}
	if r, err = x.Mend(t.Context()); err != nil || r.Mended != 5 {
		t.Errorf("%+v %v", r, err)
	}
	same(t, x, tracks, artists)
}

// An index survives its process; one of other kinds, and a damaged one, is made again.
func TestReopened(t *testing.T) {
	dir := t.TempDir()
	tables := world()
	x := open(t, dir, tables...)
	if !x.Building() {
		t.Error("an empty index is not being built")
	}
	if r := find(t, x, search.Query{Text: "yesterday"}); !r.Building || len(r.Lists["track"].Hits) != 0 {
		t.Errorf("%+v", r)
	}
	if err := x.Rebuild(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := find(t, x, search.Query{Text: "yesterday"}); r.Building || len(r.Lists["track"].Hits) != 3 {
		t.Errorf("%+v", r)
	}
	reopen := func(building bool, tables ...*table) {
		t.Helper()
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
		x = open(t, dir, tables...)
		if x.Building() != building {
			t.Errorf("building %t, want %t", x.Building(), building)
		}
	}
	reopen(false, tables...)
	same(t, x, tables...)
	reopen(true, tables[:3]...)
	if err := x.Rebuild(t.Context()); err != nil {
		t.Fatal(err)
	}
	reopen(true, tables...)
	if err := x.Rebuild(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Changes are there again, and none of what was replaced.
	tables[0].put(search.Doc{ID: "help", Name: "Help Yourself"})
	tables[0].remove("lodz")
	if err := x.Apply(t.Context(), "track", "help", "lodz"); err != nil {
		t.Fatal(err)
	}
	reopen(false, tables...)
	same(t, x, tables...)
	damage := func(pattern string, how func(path string) error) {
		t.Helper()
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(dir, "v*", pattern))
		if err != nil || len(files) == 0 {
			t.Fatal(files, err)
		}
		for _, f := range files {
			if err := how(f); err != nil {
				t.Fatal(err)
			}
		}
		x = open(t, dir, tables...)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- x.Run(ctx) }()
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if s := x.Status(); s.State == search.Ready && !s.EndedAt.IsZero() {
				break
			} else if time.Now().After(end) {
				t.Fatalf("%s damaged: it is not made again: %+v", pattern, s)
			}
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		same(t, x, tables...)
	}
	damage("*.seg", func(f string) error { return os.Truncate(f, 100) })
	damage("*.seg", os.Remove)
	damage("*.seg", func(f string) error { // one bit in the middle
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		b[len(b)/3] ^= 4
		return os.WriteFile(f, b, 0o600)
	})
	damage("segments.json", func(f string) error { return os.WriteFile(f, []byte("not a list"), 0o600) })
	damage("segments.json", os.Remove)
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
}
