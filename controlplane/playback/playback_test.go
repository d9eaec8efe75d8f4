package playback_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/playback"
	"segue/controlplane/store"
	"segue/geo"
	"segue/internal/testenv"
	"segue/media"
	"segue/media/cat"

	"github.com/google/go-cmp/cmp"
	"github.com/oklog/ulid/v2"
)

// world is a playback service on a real database, with everything else made up.
type world struct {
	*playback.Service
	t       testing.TB
	db      *store.DB
	cfg     playback.Config
	sources playback.Sources
	tracks  map[media.TrackID]playback.Track
	plans   map[string]api.Plan
	streams int
	where   string
	account string
	mu      sync.Mutex // guards the fields below
	revoked []string
	told    []string
}

var secret = cat.Key{ID: "k", Alg: cat.HS256, Secret: []byte("0123456789abcdef")}

func newWorld(t testing.TB, database string) *world {
	t.Helper()
	db, err := store.Open(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	w := &world{t: t, db: db, tracks: map[media.TrackID]playback.Track{}, plans: map[string]api.Plan{}, streams: 1}
	w.sources = playback.Sources{
		Plan: func(_ context.Context, user string) (api.Plan, error) { return w.plans[user], nil },
		Limits: func(p api.Plan) playback.Limits {
			if p == api.PlanFree {
				return playback.Limits{MaxBitrateBps: 160_000, Streams: w.streams}
			}
			return playback.Limits{Lossless: true, Streams: w.streams}
		},
		Track: func(_ context.Context, id media.TrackID) (playback.Track, error) {
			if t, ok := w.tracks[id]; ok {
				return t, nil
			}
			return playback.Track{}, media.ErrNotFound
		},
		Device: func(_ context.Context, _, device string) (string, error) { return "the " + device, nil },
		Nodes: func(time.Time) []geo.Node {
			return []geo.Node{{ID: "1", Name: "eu-1", URL: "http://eu.example", Healthy: true}}
		},
		Locate: func(netip.Addr) geo.Place { return geo.Place{} },
		Where:  func(netip.Addr) string { return w.where },
		Key:    func() cat.Key { return secret },
		Revoke: func(_ context.Context, _ *sql.Tx, _ string, _ time.Time, ctis ...string) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.revoked = append(w.revoked, ctis...)
			return nil
		},
		Country: func(context.Context, string) (string, error) { return w.account, nil },
		TakenOver: func(_ context.Context, _, device, play, by string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.told = append(w.told, device+" "+play+" "+by)
		},
	}
	w.Service = playback.New(db, w.cfg, w.sources)
	return w
}

func databases(t *testing.T, f func(t *testing.T, w *world)) {
	t.Run("sqlite", func(t *testing.T) { f(t, newWorld(t, "sqlite:"+t.TempDir()+"/x.db")) })
	t.Run("postgres", func(t *testing.T) { f(t, newWorld(t, testenv.Postgres(t))) })
}

func (w *world) user(plan api.Plan) string {
	w.t.Helper()
	id := ulid.Make().String()
	if _, err := w.db.ExecContext(w.t.Context(), `INSERT INTO users (id, email, email_key, display_name, password_hash, plan, created_at) VALUES ($1, $1, $1, '', '', $2, 0)`, id, string(plan)); err != nil {
		w.t.Fatal(err)
	}
	w.plans[id] = plan
	return id
}

var renditions = []media.Rendition{{Name: "aac_96", File: "aac_96.mp4", Codec: "mp4a.40.2", BitrateBps: 96_000, Size: 1_000_000}, {Name: "opus_128", File: "opus_128.mp4", Codec: "Opus", BitrateBps: 128_000},
	{Name: "aac_160", File: "aac_160.mp4", Codec: "mp4a.40.2", BitrateBps: 160_000, Size: 1_000_000, Index: media.ByteSpan{Offset: 900, Size: 100}},
	{Name: "aac_256", File: "aac_256.mp4", Codec: "mp4a.40.2", BitrateBps: 256_000, Size: 1_000_000, Index: media.ByteSpan{Offset: 900, Size: 100}}, {Name: "flac", File: "flac.mp4", Codec: "fLaC", BitrateBps: 900_000, Lossless: true}}

func (w *world) track(countries ...string) media.TrackID {
	id := media.TrackID(ulid.Make().String())
	w.tracks[id] = playback.Track{Track: api.Track{ID: id, Version: media.Version(strings.Repeat("a", 26))}, Media: renditions, AvailableIn: countries}
	return id
}

func is(t testing.TB, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func on(user, device string) api.Listener {
	return api.Listener{UserID: user, DeviceID: device}
}

func (w *world) start(l api.Listener, n api.NewPlayback) api.Playback {
	w.t.Helper()
	p, err := w.Start(w.t.Context(), l, n)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func claims(t testing.TB, url string) cat.Claims {
	t.Helper()
	_, rest, _ := strings.Cut(url, "/t/")
	token, _, _ := strings.Cut(rest, "/")
	c, err := cat.Verify([]cat.Key{secret}, playback.Issuer, time.Now(), token)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRenditionsByPlanAndAbility(t *testing.T) {
	w := newWorld(t, "sqlite:"+t.TempDir()+"/x.db")
	id := w.track()
	users := map[api.Plan]string{api.PlanFree: w.user(api.PlanFree), api.PlanPremium: w.user(api.PlanPremium)}
	f := func(plan api.Plan, n api.NewPlayback, want string) {
		t.Helper()
		n.TrackID = id
		p, err := w.Start(t.Context(), on(users[plan], "d"), n)
		if err != nil {
			if !strings.HasPrefix(err.Error(), want) {
				t.Errorf("%s %+v: %v, want %s", plan, n, err, want)
			}
			return
		}
		name := func(url string) string { return url[strings.LastIndex(url, "/")+1:] }
		got := fmt.Sprint(p.Renditions, " ", name(p.FileURL), " ", name(p.HLSURL), " ", name(p.DASHURL), " ", claims(t, p.HLSURL).Renditions)
		if got != want {
			t.Errorf("%s %+v:\n got %s\nwant %s", plan, n, got, want)
		}
	}
	all := "[aac_96 opus_128 aac_160 aac_256 flac]"
	f(api.PlanPremium, api.NewPlayback{}, all+" aac_256.mp4 master.m3u8 manifest.mpd []")
	f(api.PlanFree, api.NewPlayback{}, "[aac_96 opus_128 aac_160] aac_160.mp4 master_160.m3u8 manifest_160.mpd [aac_96 opus_128 aac_160]")
	f(api.PlanPremium, api.NewPlayback{Rendition: "flac"}, all+" flac.mp4 master.m3u8 manifest.mpd []")
	f(api.PlanPremium, api.NewPlayback{MaxBitrateBps: 160_000}, "[aac_96 opus_128 aac_160] aac_160.mp4 master_160.m3u8 manifest_160.mpd [aac_96 opus_128 aac_160]")
	f(api.PlanPremium, api.NewPlayback{MaxBitrateBps: 160_000, Rendition: "flac"}, "[aac_96 opus_128 aac_160] flac.mp4 master_160.m3u8 manifest_160.mpd [aac_96 opus_128 aac_160 flac]")
	f(api.PlanPremium, api.NewPlayback{Codecs: []string{"FLAC", "opus"}}, "[opus_128 flac] flac.mp4 master.m3u8 manifest.mpd []")
	f(api.PlanPremium, api.NewPlayback{Codecs: []string{"opus"}}, "[opus_128] opus_128.mp4 opus_128.m3u8 manifest_160.mpd [aac_96 opus_128 aac_160]")
	f(api.PlanPremium, api.NewPlayback{Renditions: []string{"aac_256", "aac_96"}, Codecs: []string{"mp4a.40.5"}}, "[aac_96 aac_256] aac_256.mp4 master.m3u8 manifest.mpd []")
	f(api.PlanFree, api.NewPlayback{Codecs: []string{"flac"}}, "renditions: it is not in your plan")
	f(api.PlanFree, api.NewPlayback{Rendition: "aac_256"}, "rendition aac_256: it is not in your plan")
	f(api.PlanPremium, api.NewPlayback{Codecs: []string{"ac-3"}}, "codecs, max_bitrate_bps, renditions: this track has nothing that fits")
	f(api.PlanPremium, api.NewPlayback{Rendition: "mp3"}, `rendition "mp3" is not one`)
}

func TestCountries(t *testing.T) {
	w := newWorld(t, "sqlite:"+t.TempDir()+"/x.db")
	strict := playback.New(w.db, playback.Config{RefuseUnknownCountry: true}, w.sources)
	user, id := w.user(api.PlanFree), w.track("DE", "nl")
	f := func(s *playback.Service, where, account string, want error) {
		t.Helper()
		w.where, w.account = where, account
		_, err := s.Start(t.Context(), on(user, "d"), api.NewPlayback{TrackID: id})
		is(t, where+"/"+account, err, want)
	}
	f(w.Service, "NL", "", nil)
	f(w.Service, "US", "DE", playback.ErrNotHere) // where they are counts more than where they signed up
	f(w.Service, "", "DE", nil)
	f(w.Service, "", "US", playback.ErrNotHere)
	f(w.Service, "", "", nil)
	f(strict, "", "", playback.ErrNotHere)
	f(strict, "", "nl", nil)

	bare := w.track()
	b := w.tracks[bare]
	b.Media = nil
	w.tracks[bare] = b
	_, err := w.Start(t.Context(), on(user, "d"), api.NewPlayback{TrackID: bare})
	is(t, "no audio yet", err, playback.ErrNoMedia)
	_, err = w.Start(t.Context(), on(user, "d"), api.NewPlayback{TrackID: media.TrackID(ulid.Make().String())})
	is(t, "removed", err, media.ErrNotFound)
}

func TestStreams(t *testing.T) {
	databases(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		user, id, next := w.user(api.PlanPremium), w.track(), w.track()
		phone, desk := on(user, "phone"), on(user, "desk")
		one := w.start(phone, api.NewPlayback{TrackID: id, NextTrackIDs: []media.TrackID{next, media.TrackID(ulid.Make().String())}})
		if len(one.Next) != 1 || one.Next[0].TrackID != next || one.Next[0].Bytes < 1000 || claims(t, one.Next[0].URL).ID != one.PlayID {
			t.Errorf("%+v", one.Next)
		}
		_, err := w.Start(ctx, desk, api.NewPlayback{TrackID: id})
		busy, _ := errors.AsType[*api.DevicesError](err)
		if !errors.Is(err, playback.ErrStreamLimit) || busy == nil || cmp.Diff(busy.Have, []api.BusyDevice{{ID: "phone", Name: "the phone", PlayID: one.PlayID}}) != "" {
			t.Fatalf("%v %+v", err, busy)
		}
		// The same device goes on to the next track: both plays live, nothing is revoked.
		two := w.start(phone, api.NewPlayback{TrackID: next})
		is(t, "the first while the second is prepared", w.Keepalive(ctx, user, one.PlayID), nil)
		is(t, "the second", w.Keepalive(ctx, user, two.PlayID), nil)
		is(t, "somebody else's", w.Keepalive(ctx, w.user(api.PlanFree), two.PlayID), playback.ErrOver)
		is(t, "end of the first", w.Heard(ctx, user, []api.Event{{PlayID: one.PlayID, Type: api.EventEnd, At: time.Now()}}), nil)
		is(t, "the first after its end", w.Keepalive(ctx, user, one.PlayID), playback.ErrOver)
		renewed, err := w.Renew(ctx, phone, two.PlayID, api.NewPlayback{MaxBitrateBps: 100_000})
		if err != nil || renewed.PlayID != two.PlayID || renewed.Rendition != "aac_96" || claims(t, renewed.HLSURL).ID != two.PlayID {
			t.Errorf("%v %+v", err, renewed)
		}
		_, err = w.Renew(ctx, on(w.user(api.PlanFree), "x"), two.PlayID, api.NewPlayback{})
		is(t, "renew another's", err, media.ErrNotFound)

		three := w.start(desk, api.NewPlayback{TrackID: id, TakeOver: true})
		if d := cmp.Diff(w.revoked, []string{two.PlayID}); d != "" {
			t.Error(d)
		}
		if d := cmp.Diff(w.told, []string{"phone " + two.PlayID + " the desk"}); d != "" {
			t.Error(d)
		}
		is(t, "taken over", w.Keepalive(ctx, user, two.PlayID), playback.ErrOver)
		_, err = w.Renew(ctx, phone, two.PlayID, api.NewPlayback{})
		is(t, "renew after take-over", err, playback.ErrOver)

		// Silence of a minute: the stream is dead, and a start of another device asks nobody. A sign keeps it.
		silent := func() {
			if _, err := w.db.ExecContext(ctx, `UPDATE streams SET seen_at = $1 WHERE user_id = $2`, store.Micros(time.Now().Add(-61*time.Second)), user); err != nil {
				t.Fatal(err)
			}
		}
		silent()
		is(t, "progress", w.Heard(ctx, user, []api.Event{{PlayID: three.PlayID, Type: api.EventProgress, At: time.Now()}, {PlayID: one.PlayID, Type: api.EventProgress, At: time.Now()}}), nil)
		is(t, "write", w.Write(ctx), nil)
		_, err = w.Start(ctx, phone, api.NewPlayback{TrackID: id})
		is(t, "a sign of life", err, playback.ErrStreamLimit)
		silent()
		four := w.start(phone, api.NewPlayback{TrackID: id})
		if len(w.told) != 1 || len(w.revoked) != 1 {
			t.Errorf("a dead stream is no take-over: %v %v", w.told, w.revoked)
		}
		is(t, "late events", w.Heard(ctx, user, []api.Event{{PlayID: four.PlayID, Type: api.EventEnd, At: time.Now()}}), nil)
		w.start(desk, api.NewPlayback{TrackID: id}) // it ended

		w.streams = 2
		w.start(phone, api.NewPlayback{TrackID: id})
		_, err = w.Start(ctx, on(user, "tv"), api.NewPlayback{TrackID: id})
		is(t, "a third of two", err, playback.ErrStreamLimit)
		w.start(on(user, "tv"), api.NewPlayback{TrackID: id, TakeOver: true})
		if len(w.told) != 2 || !strings.HasPrefix(w.told[1], "desk ") {
			t.Errorf("who is silent longest goes: %v", w.told)
		}
		is(t, "removed device", w.db.Tx(ctx, func(tx *sql.Tx) error { return w.DeviceRemoved(ctx, tx, user, "tv") }), nil)
		w.start(desk, api.NewPlayback{TrackID: id})

		// What is kept goes with the account; what could be fetched is refused before.
		n := len(w.revoked)
		is(t, "forget", w.db.Tx(ctx, func(tx *sql.Tx) error {
			if err := w.Forget(ctx, tx, user); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, `DELETE FROM users WHERE id = $1`, user)
			return err
		}), nil)
		if len(w.revoked)-n != 8 {
			t.Errorf("%d plays are refused after the account, want 8", len(w.revoked)-n)
		}
		_, err = w.Play(ctx, one.PlayID)
		is(t, "a play of a deleted account", err, media.ErrNotFound)
	})
}

// Of many devices that start at once, with and without taking over, exactly one stream lives.
func TestOneStreamOfMany(t *testing.T) {
	databases(t, func(t *testing.T, w *world) {
		for _, takeOver := range []bool{false, true} {
			user, id := w.user(api.PlanFree), w.track()
			var wg sync.WaitGroup
			var mu sync.Mutex
			var plays []string
			for i := range 50 {
				wg.Go(func() {
					p, err := w.Start(t.Context(), on(user, fmt.Sprint("d", i)), api.NewPlayback{TrackID: id, TakeOver: takeOver})
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						plays = append(plays, p.PlayID)
					} else if takeOver || !errors.Is(err, playback.ErrStreamLimit) {
						t.Errorf("take over %t: %v", takeOver, err)
					}
				})
			}
			wg.Wait()
			want := 1
			if takeOver {
				want = 50
			}
			live := 0
			for _, p := range plays {
				if w.Keepalive(t.Context(), user, p) == nil {
					live++
				}
			}
			if live != 1 || len(plays) != want || takeOver && len(w.revoked) != 49 {
				t.Errorf("take over %t: %d live of %d granted, %d revoked", takeOver, live, len(plays), len(w.revoked))
			}
		}
	})
}

func TestSweep(t *testing.T) {
	databases(t, func(t *testing.T, w *world) {
		user, id := w.user(api.PlanFree), w.track()
		p := w.start(on(user, "d"), api.NewPlayback{TrackID: id})
		is(t, "soon", w.Sweep(t.Context(), time.Now().Add(30*24*time.Hour)), nil)
		_, err := w.Play(t.Context(), p.PlayID)
		is(t, "events of it may come", err, nil)
		is(t, "late", w.Sweep(t.Context(), time.Now().Add(32*24*time.Hour)), nil)
		_, err = w.Play(t.Context(), p.PlayID)
		is(t, "swept", err, media.ErrNotFound)
	})
}

// BenchmarkStart is the cost of a start: parallel ones of different accounts.
func BenchmarkStart(b *testing.B) {
	for name, database := range map[string]func() string{"sqlite": func() string { return "sqlite:" + b.TempDir() + "/x.db" }, "postgres": func() string { return testenv.Postgres(b) }} {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b, database())
			id := w.track()
			var users []string
			for range 1000 {
				users = append(users, w.user(api.PlanFree))
			}
			var mu sync.Mutex
			n := 0
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					mu.Lock()
					user := users[n%len(users)]
					n++
					mu.Unlock()
					if _, err := w.Start(b.Context(), on(user, "d"), api.NewPlayback{TrackID: id}); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
