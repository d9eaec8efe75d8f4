package fleet_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/fleet"
	"segue/controlplane/store"
	"segue/internal/registry"
	"segue/internal/testenv"
	"segue/media"
)

func databases(t *testing.T, f func(t *testing.T, dsn string)) {
	t.Run("sqlite", func(t *testing.T) { f(t, "sqlite:"+t.TempDir()+"/segue.db") })
	t.Run("postgres", func(t *testing.T) { f(t, testenv.Postgres(t)) })
}

// replica is a fleet on a database that others may be on too.
func replica(t *testing.T, dsn string) (*fleet.Service, *store.DB) {
	t.Helper()
	db, err := store.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return fleet.New(db, registry.NewHealth(registry.HealthConfig{}, &registry.Memory{}), func() []api.TokenKey { return nil }), db
}

func revoke(t *testing.T, s *fleet.Service, db *store.DB, until time.Time, ctis ...string) {
	t.Helper()
	if err := db.Tx(t.Context(), func(tx *sql.Tx) error { return s.Revoke(t.Context(), tx, "operator", until, ctis...) }); err != nil {
		t.Fatal(err)
	}
}

// all asks from a place until there is no more.
func all(t *testing.T, s *fleet.Service, place string) (ctis []string, next string, bytes int) {
	t.Helper()
	for {
		feed, err := s.Revoked(t.Context(), place, 0)
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(feed)
		if err != nil {
			t.Fatal(err)
		}
		bytes += len(b)
		for _, k := range feed.Tokens {
			ctis = append(ctis, k.CTI)
		}
		if place = feed.Next; !feed.More {
			return ctis, place, bytes
		}
	}
}

// TestRevokedFeed: each edge hears of each revocation once, from whichever replica it asks.
func TestRevokedFeed(t *testing.T) {
	databases(t, func(t *testing.T, dsn string) {
		one, db := replica(t, dsn)
		two, _ := replica(t, dsn)
		until := time.Now().Add(time.Hour)
		number := func(s *fleet.Service) {
			t.Helper()
			if err := s.NumberRevoked(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		is := func(got []string, want ...string) {
			t.Helper()
			if strings.Join(got, " ") != strings.Join(want, " ") {
				t.Errorf("%v, want %v", got, want)
			}
		}
		got, place, _ := all(t, one, "")
		is(got)
		revoke(t, one, db, until, "b", "a")
		number(two)
		revoke(t, one, db, until, "c-1")
		number(one)
		got, after, _ := all(t, two, place)
		is(got, "a", "b", "c-1")
		got, _, _ = all(t, one, after)
		is(got)
		revoke(t, one, db, until, "a")                // a repeat is no news
		revoke(t, one, db, until.Add(time.Hour), "b") // a later end is
		revoke(t, one, db, time.Now().Add(-time.Second), "over")
		number(one)
		got, after, _ = all(t, one, after)
		is(got, "b")
		for _, bad := range []string{"x", "-", "0-a", "-1-a", "9999999999999999999999-a", "5"} {
			if _, err := one.Revoked(t.Context(), bad, 0); !errors.Is(err, media.ErrInvalid) {
				t.Errorf("%q: %v", bad, err)
			}
		}
		// Who waits at one replica hears what was revoked at the other.
		ctx, cancel := context.WithCancel(t.Context())
		var watch sync.WaitGroup
		for _, s := range []*fleet.Service{one, two} {
			watch.Go(func() { _ = s.WatchRevoked(ctx, func(err error) { t.Error(err) }) })
		}
		defer watch.Wait()
		defer cancel()
		heard := make(chan api.RevokedFeed, 1)
		go func() {
			feed, err := two.Revoked(ctx, after, time.Minute)
			if err != nil {
				t.Error(err)
			}
			heard <- feed
		}()
		revoke(t, one, db, until, "d")
		select {
		case feed := <-heard:
			if len(feed.Tokens) != 1 || feed.Tokens[0].CTI != "d" || !feed.Tokens[0].ExpiresAt.Equal(until.Truncate(time.Microsecond)) {
				t.Errorf("%+v", feed)
			}
			after = feed.Next
		case <-time.After(20 * time.Second):
			t.Fatal("nobody is told")
		}
		// Transactions that commit in any order, and readers in between: nobody misses one.
		var writers sync.WaitGroup
		const each, by = 100, 4
		for i := range by {
			writers.Go(func() {
				for k := range each {
					revoke(t, one, db, until, fmt.Sprintf("w%d-%d", i, k))
				}
			})
		}
		seen := map[string]int{}
		done := make(chan struct{})
		go func() { writers.Wait(); close(done) }()
		for end, last := false, false; !last; {
			last = end
			select {
			case <-done:
				end = true
				number(one)
			default:
			}
			ctis, next, _ := all(t, two, after)
			after = next
			for _, c := range ctis {
				seen[c]++
			}
		}
		for i := range by {
			for k := range each {
				if c := fmt.Sprintf("w%d-%d", i, k); seen[c] != 1 {
					t.Errorf("%s was heard %d times", c, seen[c])
				}
			}
		}
	})
}

// TestManyRevoked: a hundred thousand in force cost a new edge one download, and every other one what is new.
func TestManyRevoked(t *testing.T) {
	databases(t, func(t *testing.T, dsn string) {
		s, db := replica(t, dsn)
		const many = 100_000
		until := time.Now().Add(time.Hour)
		if err := db.Tx(t.Context(), func(tx *sql.Tx) error {
			for from := 0; from < many; from += 50 {
				var lines []string
				for i := range 50 {
					lines = append(lines, fmt.Sprintf("('01ARZ3NDEKTSV4RRFF%08d', 'taken-over', 1, %d)", from+i, store.Micros(until)))
				}
				if _, err := tx.ExecContext(t.Context(), `INSERT INTO revoked_tokens (cti, reason, created_at, expires_at) VALUES `+strings.Join(lines, ", ")); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := s.NumberRevoked(t.Context()); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		ctis, place, bytes := all(t, s, "")
		if len(ctis) != many || bytes > 12<<20 {
			t.Errorf("%d tokens in %d bytes", len(ctis), bytes)
		}
		t.Logf("all %d: %d bytes in %v", many, bytes, time.Since(begun))
		revoke(t, s, db, until, "one-more")
		if err := s.NumberRevoked(t.Context()); err != nil {
			t.Fatal(err)
		}
		begun = time.Now()
		ctis, _, bytes = all(t, s, place)
		if len(ctis) != 1 || bytes > 500 {
			t.Errorf("one more: %d tokens, %d bytes", len(ctis), bytes)
		}
		t.Logf("one more: %d bytes in %v", bytes, time.Since(begun))
		const polls = 200
		begun = time.Now()
		for range polls {
			if err := s.NumberRevoked(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("a replica's look: %v", time.Since(begun)/polls)
	})
}
