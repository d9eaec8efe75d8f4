package catalog_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/catalog"
	"segue/controlplane/catalog/sample"
	"segue/controlplane/store"
	"segue/internal/testenv"
	"segue/media"
	"segue/origin/memstore"
)

// A catalogue of a million tracks, on both databases:
//
//	go test ./controlplane/catalog -run xxx -bench . -benchtime 2000x -tracks 1000000 -timeout 1h
var (
	benchTracks = flag.Int("tracks", 20_000, "tracks of the catalogue that benchmarks read")
	benchOn     = flag.String("on", "sqlite,postgres", "databases of benchmarks")
)

// ndjson streams a sample.
func ndjson(tracks int) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		for l := range sample.Lines(1, tracks) {
			b, err := json.Marshal(l)
			if err == nil {
				_, err = w.Write(append(b, '\n'))
			}
			if err != nil {
				return // the reader is gone
			}
		}
		w.Close()
	}()
	return r
}

func open(b testing.TB, dsn string) (*store.DB, *catalog.Service) {
	b.Helper()
	db, err := store.Open(context.Background(), dsn)
	if err != nil {
		b.Fatal(err)
	}
	return db, catalog.New(db, &memstore.Store{})
}

// filled is a catalogue that was made once, with ids out of it.
type filled struct {
	*catalog.Service
	db                      *store.DB
	tracks, albums, artists []string
}

var benches struct {
	sync.Mutex
	made map[string]*filled
	dir  string
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, f := range benches.made {
		f.db.Close()
	}
	if benches.dir != "" {
		os.RemoveAll(benches.dir)
	}
	os.Exit(code)
}

// on runs a benchmark on each database. The SQLite one is made once; PostgreSQL lives as long as the benchmark that
// started it.
func on(b *testing.B, run func(b *testing.B, f *filled)) {
	for _, name := range []string{"sqlite", "postgres"} {
		if !chosen(name) {
			continue
		}
		b.Run(name, func(b *testing.B) {
			benches.Lock()
			f := benches.made[name]
			if f == nil {
				f = fill(b, name)
				if name == "sqlite" {
					if benches.made == nil {
						benches.made = map[string]*filled{}
					}
					benches.made[name] = f
				} else {
					b.Cleanup(func() { f.db.Close() })
				}
			}
			benches.Unlock()
			run(b, f)
		})
	}
}

func chosen(name string) bool { return slices.Contains(strings.Split(*benchOn, ","), name) }

func fill(b *testing.B, name string) *filled {
	b.Helper()
	dsn := ""
	if name == "sqlite" {
		dir, err := os.MkdirTemp("", "segue-bench-")
		if err != nil {
			b.Fatal(err)
		}
		benches.dir = dir
		dsn = "sqlite:" + filepath.Join(dir, "segue.db")
	} else {
		dsn = testenv.Postgres(b)
	}
	db, s := open(b, dsn)
	begun := time.Now()
	r := ndjson(*benchTracks)
	defer r.Close()
	out, err := s.Import(context.Background(), r, 1)
	if err != nil || out.Failed > 0 {
		b.Fatalf("%+v %v", out, err)
	}
	dur := time.Since(begun)
	b.Logf("%s: %d tracks, %d albums, %d artists imported in %s: %.0f tracks/s", name, out.Tracks, out.Albums, out.Artists, dur.Round(time.Millisecond), float64(out.Tracks)/dur.Seconds())
	if name == "postgres" {
		if _, err := db.Exec(`ANALYZE`); err != nil {
			b.Fatal(err)
		}
	}
	f := &filled{Service: s, db: db}
	rng := rand.New(rand.NewPCG(2, 2))
	for l := range sample.Lines(1, *benchTracks) {
		switch l.Type {
		case "track":
			if rng.IntN(1+*benchTracks/5000) == 0 {
				f.tracks = append(f.tracks, l.ID)
			}
		case "album":
			if rng.IntN(1+*benchTracks/20000) == 0 {
				f.albums = append(f.albums, l.ID)
			}
		case "artist":
			if rng.IntN(1+*benchTracks/40000) == 0 {
				f.artists = append(f.artists, l.ID)
			}
		}
	}
	return f
}

func BenchmarkImport(b *testing.B) {
	for _, name := range []string{"sqlite", "postgres"} {
		if !chosen(name) {
			continue
		}
		b.Run(name, func(b *testing.B) {
			for range b.N {
				dsn := "sqlite:" + filepath.Join(b.TempDir(), "segue.db")
				if name == "postgres" {
					dsn = testenv.Postgres(b)
				}
				db, s := open(b, dsn)
				begun, worked := time.Now(), cpu()
				r := ndjson(*benchTracks)
				out, err := s.Import(b.Context(), r, 1)
				r.Close()
				if err != nil || out.Tracks != *benchTracks {
					b.Fatalf("%+v %v", out, err)
				}
				b.ReportMetric(float64(out.Tracks)/time.Since(begun).Seconds(), "tracks/s")
				b.ReportMetric(float64((cpu()-worked).Microseconds())/float64(out.Tracks), "cpu-us/track") // on SQLite with the database's
				if name == "postgres" {
					b.ReportMetric(float64(serverCPU(b, db).Microseconds())/float64(out.Tracks), "server-cpu-us/track")
				}
				db.Close()
			}
		})
	}
}

// cpu is what the process has worked: on a busy machine it says more than the clock does.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// serverCPU is what the processes of a PostgreSQL on this machine have worked.
func serverCPU(b *testing.B, db *store.DB) (sum time.Duration) {
	rows, err := db.Query(`SELECT pid FROM pg_stat_activity`)
	if err != nil {
		b.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var pid int
		if err := rows.Scan(&pid); err != nil {
			b.Fatal(err)
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // it is gone
		}
		_, after, _ := strings.Cut(string(stat), ") ")
		f := strings.Fields(after)
		user, _ := strconv.Atoi(f[11])
		system, _ := strconv.Atoi(f[12])
		sum += time.Duration(user+system) * 10 * time.Millisecond // a tick, on every Linux there is
	}
	return sum
}

// BenchmarkRead is every read of listeners, with nothing in the service's caches but in the first.
func BenchmarkRead(b *testing.B) {
	on(b, func(b *testing.B, f *filled) {
		ctx := b.Context()
		some := func(ids []string, i int) string { return ids[i*7919%len(ids)] }
		reads := func(name string, read func(i int) error) {
			b.Run(name, func(b *testing.B) {
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					if err := read(i); err != nil {
						b.Fatal(err)
					}
					i++
				}
			})
		}
		reads("track-cached", func(i int) error {
			_, err := f.Track(ctx, media.TrackID(f.tracks[i%min(100, len(f.tracks))]))
			return err
		})
		reads("track", func(i int) error {
			id := some(f.tracks, i)
			f.Forget("track", id)
			_, err := f.Track(ctx, media.TrackID(id))
			return err
		})
		reads("album", func(i int) error {
			id := some(f.albums, i)
			f.Forget("album", id)
			_, err := f.Album(ctx, media.AlbumID(id))
			return err
		})
		reads("artist", func(i int) error {
			id := some(f.artists, i)
			f.Forget("artist", id)
			_, err := f.Artist(ctx, media.ArtistID(id))
			return err
		})
		// Deep into a list: from page to page.
		cursor := ""
		reads("browse-tracks-50", func(int) error {
			page, err := f.Tracks(ctx, cursor, 50)
			cursor = page.Next
			return err
		})
		cursor = ""
		reads("browse-albums-50", func(int) error {
			page, err := f.Albums(ctx, catalog.ByTitle, cursor, 50)
			cursor = page.Next
			return err
		})
		cursor = ""
		reads("new-releases-50", func(int) error {
			page, err := f.Albums(ctx, catalog.ByReleaseDate, cursor, 50)
			cursor = page.Next
			return err
		})
		cursor = ""
		reads("browse-artists-50", func(int) error {
			page, err := f.Artists(ctx, cursor, 50)
			cursor = page.Next
			return err
		})
		cursor = ""
		reads("genre-tracks-50", func(int) error {
			page, err := f.GenreTracks(ctx, "pop", cursor, 50)
			cursor = page.Next
			return err
		})
		cursor = ""
		reads("genre-albums-50", func(int) error {
			page, err := f.GenreAlbums(ctx, "pop", cursor, 50)
			cursor = page.Next
			return err
		})
		reads("tracks-by-id-100", func(i int) error {
			at := i * 7919 % max(1, len(f.tracks)-100)
			_, err := f.TracksByID(ctx, f.tracks[at:min(len(f.tracks), at+100)]...)
			return err
		})
		b.Run("each", func(b *testing.B) {
			for range b.N {
				begun, n := time.Now(), 0
				if err := f.Each(ctx, func(api.Track) error { n++; return nil }); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(n)/time.Since(begun).Seconds(), "tracks/s")
			}
		})
	})
}
