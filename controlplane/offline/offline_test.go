package offline_test

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/offline"
	"segue/controlplane/store"
	"segue/internal/testenv"
	"segue/media"
	"segue/media/cat"

	"github.com/google/go-cmp/cmp"
	"github.com/oklog/ulid/v2"
)

// world is the service on a real database, with a catalogue and playlists made up.
type world struct {
	*offline.Service
	t      *testing.T
	db     *store.DB
	plans  map[string]api.Plan
	tracks map[media.TrackID]offline.Track
	lists  map[string][]media.TrackID // playlists by id
	reader map[string]string          // of a playlist, when only one may read it

	mu      sync.Mutex // guards revoked
	revoked map[string]string
}

func databases(t *testing.T, f func(t *testing.T, w *world)) {
	t.Run("sqlite", func(t *testing.T) { f(t, newWorld(t, "sqlite:"+t.TempDir()+"/x.db")) })
	t.Run("postgres", func(t *testing.T) { f(t, newWorld(t, testenv.Postgres(t))) })
}

func newWorld(t *testing.T, dsn string) *world {
	t.Helper()
	db, err := store.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, db: db, plans: map[string]api.Plan{}, tracks: map[media.TrackID]offline.Track{}, lists: map[string][]media.TrackID{}, reader: map[string]string{}, revoked: map[string]string{}}
	w.Service = offline.New(db, offline.Sources{
		Plan: func(_ context.Context, user string) (api.Plan, error) { return w.plans[user], nil },
		Devices: func(p api.Plan) int {
			if p == api.PlanFree {
				return 0
			}
			return 5
		},
		Device: func(_ context.Context, _, device string) (string, error) { return "the " + device, nil },
		Item: func(_ context.Context, user, kind, id string) (string, []media.TrackID, error) {
			list, ok := w.lists[id]
			if who := w.reader[id]; kind != api.OfflinePlaylist || !ok || who != "" && who != user {
				return "", nil, fmt.Errorf("%s %s: %w", kind, id, media.ErrNotFound)
			}
			return "List", list, nil
		},
		Briefs: func(_ context.Context, ids ...media.TrackID) (map[media.TrackID]offline.Brief, error) {
			out := map[media.TrackID]offline.Brief{}
			for _, id := range ids {
				if k, ok := w.tracks[id]; ok {
					out[id] = offline.Brief{Version: k.Version, AvailableIn: k.AvailableIn}
				}
			}
			return out, nil
		},
		Track: func(_ context.Context, id media.TrackID) (offline.Track, error) {
			if k, ok := w.tracks[id]; ok {
				return k, nil
			}
			return offline.Track{}, media.ErrNotFound
		},
		Here: func(_ context.Context, _ api.Listener, in []string) (bool, error) {
			return !slices.Contains(in, "nowhere"), nil
		},
		Edge:   func(api.Listener, string) (string, error) { return "http://eu.example", nil },
		Key:    func() cat.Key { return cat.Key{ID: "k", Alg: cat.HS256, Secret: []byte("0123456789abcdef")} },
		Signer: func() (string, ed25519.PrivateKey) { return "k", private },
		Revoke: func(_ context.Context, _ *sql.Tx, reason string, _ time.Time, ctis ...string) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, c := range ctis {
				w.revoked[c] = reason
			}
			return nil
		},
	})
	return w
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

func (w *world) track(version string) media.TrackID {
	id := media.TrackID(ulid.Make().String())
	w.tracks[id] = offline.Track{Track: api.Track{ID: id, Version: media.Version(strings.Repeat(version, 26)), Title: "T " + version},
		Media: []media.Rendition{{Name: "aac_160", Codec: "mp4a.40.2", BitrateBps: 160_000, Size: 10}, {Name: "aac_256", Codec: "mp4a.40.2", BitrateBps: 256_000, Size: 20}, {Name: "flac", Codec: "fLaC", BitrateBps: 900_000, Size: 90}}}
	return id
}

func (w *world) list(tracks ...media.TrackID) string {
	id := ulid.Make().String()
	w.lists[id] = tracks
	return id
}

func on(user, device string) api.Listener { return api.Listener{UserID: user, DeviceID: device} }

func (w *world) licence(l api.Listener, playlist string) api.OfflineLicence {
	w.t.Helper()
	k, err := w.Create(w.t.Context(), l, api.NewOfflineLicence{Kind: api.OfflinePlaylist, ID: playlist})
	if err != nil {
		w.t.Fatal(err)
	}
	return k
}

func (w *world) files(l api.Listener, id string, since int64) api.OfflineFiles {
	w.t.Helper()
	f, err := w.Files(w.t.Context(), l, id, since, "", 1000)
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

func names(f api.OfflineFiles) (out []string) {
	for _, k := range f.Files {
		out = append(out, string(k.TrackID)+" "+string(k.Version[:1])+" "+k.Rendition)
	}
	slices.Sort(out)
	return out
}

func (w *world) tx(f func(ctx context.Context, tx *sql.Tx) error) {
	w.t.Helper()
	if err := w.db.Tx(w.t.Context(), func(tx *sql.Tx) error { return f(w.t.Context(), tx) }); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) state(user, id, state, reason string) {
	w.t.Helper()
	k, err := w.Licence(w.t.Context(), user, id)
	if err != nil || k.State != state || k.Reason != reason || (k.Document != "") != (state == api.LicenceActive) {
		w.t.Errorf("%s %q (document %v) %v, want %s %q", k.State, k.Reason, k.Document != "", err, state, reason)
	}
}

func is(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// TestPlaylistLicence: a licence of a playlist follows it, and a device gets what came and went since it last looked.
func TestPlaylistLicence(t *testing.T) {
	databases(t, func(t *testing.T, w *world) {
		ada := w.user(api.PlanPremium)
		phone := on(ada, "phone")
		a, b, c := w.track("a"), w.track("b"), w.track("c")
		list := w.list(a, b, a, media.TrackID(ulid.Make().String())) // a twice, and one that has left the catalogue
		k := w.licence(phone, list)
		if k.Files != 2 || k.Bytes != 40 || k.Revision != 1 || k.Title != "List" {
			t.Errorf("%+v", k)
		}
		f := w.files(phone, k.ID, 0)
		if d := cmp.Diff(names(f), []string{string(a) + " a aac_256", string(b) + " b aac_256"}); d != "" || len(f.Removed) != 0 {
			t.Error(d, f.Removed)
		}
		if f = w.files(phone, k.ID, f.Revision); len(f.Files) != 0 || len(f.Removed) != 0 || f.Revision != 1 {
			t.Errorf("nothing changed: %+v", f)
		}
		// One goes, one comes, one has a new version.
		w.lists[list] = []media.TrackID{a, c}
		again := w.tracks[a]
		again.Version = media.Version(strings.Repeat("d", 26))
		w.tracks[a] = again
		f = w.files(phone, k.ID, 1)
		if d := cmp.Diff(names(f), []string{string(a) + " d aac_256", string(c) + " c aac_256"}); d != "" || !slices.Equal(f.Removed, []media.TrackID{b}) || f.Revision != 2 {
			t.Error(d, f.Removed, f.Revision)
		}
		// What came back is no longer among the removed.
		w.lists[list] = []media.TrackID{a, b, c}
		if f = w.files(phone, k.ID, 1); len(f.Files) != 3 || len(f.Removed) != 0 || f.Revision != 3 {
			t.Errorf("%v %v %d", names(f), f.Removed, f.Revision)
		}
		// Not available here: not among the files.
		away := w.tracks[c]
		away.AvailableIn = []string{"nowhere"}
		w.tracks[c] = away
		if f = w.files(phone, k.ID, 3); len(f.Files) != 0 || !slices.Equal(f.Removed, []media.TrackID{c}) {
			t.Errorf("%v %v", names(f), f.Removed)
		}
		// A playlist that one may not read any more: the licence is of nothing, and says so.
		w.reader[list] = "somebody else"
		if f = w.files(phone, k.ID, 4); len(f.Files) != 0 || len(f.Removed) != 2 {
			t.Errorf("%v %v", names(f), f.Removed)
		}
		if r, err := w.Renew(t.Context(), phone, k.ID); err != nil || r.State != api.LicenceActive || r.Files != 0 {
			t.Errorf("%+v %v", r, err)
		}
		_, err := w.Create(t.Context(), phone, api.NewOfflineLicence{Kind: api.OfflinePlaylist, ID: list})
		is(t, "a licence for somebody's list", err, media.ErrNotFound)
		delete(w.reader, list)
		if f = w.files(phone, k.ID, 0); len(f.Files) != 2 {
			t.Errorf("readable again: %v", names(f))
		}
		// An empty one may be licensed, and grows; one that is too long may not.
		empty := w.list()
		e := w.licence(phone, empty)
		w.lists[empty] = []media.TrackID{a}
		if f = w.files(phone, e.ID, 0); len(f.Files) != 1 {
			t.Errorf("%v", names(f))
		}
		long := w.list()
		for range 10_001 {
			w.lists[long] = append(w.lists[long], media.TrackID(ulid.Make().String()))
		}
		_, err = w.Create(t.Context(), phone, api.NewOfflineLicence{Kind: api.OfflinePlaylist, ID: long})
		is(t, "too long", err, offline.ErrFull)
		w.state(ada, k.ID, api.LicenceActive, "")
	})
}

// TestEnds: whatever takes offline away from an account or a device ends the licences that it should, and no others; downloads
// that may run are refused.
func TestEnds(t *testing.T) {
	databases(t, func(t *testing.T, w *world) {
		a := w.track("a")
		ends := func(what, reason string, gone []string, end func(ctx context.Context, tx *sql.Tx, user string) error) {
			t.Helper()
			ada, bob := w.user(api.PlanPremium), w.user(api.PlanPremium)
			list := w.list(a)
			ids := map[string]string{}
			for _, d := range []string{"phone", "tablet", "car"} {
				ids[d] = w.licence(on(ada, d), list).ID
			}
			other := w.licence(on(bob, "phone"), list).ID
			w.files(on(ada, "phone"), ids["phone"], 0) // its download may run
			w.files(on(bob, "phone"), other, 0)
			w.tx(func(ctx context.Context, tx *sql.Tx) error { return end(ctx, tx, ada) })
			for d, id := range ids {
				if slices.Contains(gone, d) {
					w.state(ada, id, api.LicenceRevoked, reason)
					_, err := w.Files(t.Context(), on(ada, d), id, 0, "", 10)
					is(t, what+": files", err, offline.ErrRevoked)
					_, err = w.Renew(t.Context(), on(ada, d), id)
					is(t, what+": renewal", err, offline.ErrRevoked)
				} else {
					w.state(ada, id, api.LicenceActive, "")
				}
			}
			w.state(bob, other, api.LicenceActive, "")
			w.mu.Lock()
			defer w.mu.Unlock()
			if slices.Contains(gone, "phone") != (w.revoked[ids["phone"]] == reason) || w.revoked[ids["tablet"]] != "" || w.revoked[other] != "" {
				t.Errorf("%s: edges refuse %v", what, w.revoked)
			}
		}
		all := []string{"phone", "tablet", "car"}
		ends("a device is removed", api.RevokedDevice, []string{"phone"}, func(ctx context.Context, tx *sql.Tx, user string) error {
			return w.DeviceRemoved(ctx, tx, user, "phone")
		})
		ends("another is", api.RevokedDevice, []string{"tablet"}, func(ctx context.Context, tx *sql.Tx, user string) error {
			return w.DeviceRemoved(ctx, tx, user, "tablet")
		})
		ends("one that has none is", api.RevokedDevice, nil, func(ctx context.Context, tx *sql.Tx, user string) error {
			return w.DeviceRemoved(ctx, tx, user, "fridge")
		})
		ends("the plan ends", api.RevokedPlan, all, func(ctx context.Context, tx *sql.Tx, user string) error {
			return w.PlanChanged(ctx, tx, user, api.PlanFree)
		})
		ends("another plan with offline", api.RevokedPlan, nil, func(ctx context.Context, tx *sql.Tx, user string) error {
			return w.PlanChanged(ctx, tx, user, api.PlanFamily)
		})
		ends("the account goes", api.RevokedAccount, all, w.Forget)
		ends("an operator ends it", "stolen", all, func(ctx context.Context, tx *sql.Tx, user string) error {
			_, err := w.RevokeUser(ctx, tx, user, "stolen")
			return err
		})
	})
}

// TestForgetAndExport: an account's licences are in its export, whole, and gone with the account.
func TestForgetAndExport(t *testing.T) {
	databases(t, func(t *testing.T, w *world) {
		ada, bob := w.user(api.PlanPremium), w.user(api.PlanPremium)
		list := w.list(w.track("a"))
		one, two := w.licence(on(ada, "phone"), list), w.licence(on(ada, "tablet"), list)
		theirs := w.licence(on(bob, "phone"), list)
		if err := w.Delete(t.Context(), ada, two.ID); err != nil {
			t.Fatal(err)
		}
		got, err := w.Export(t.Context(), ada)
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		var out []api.OfflineLicence
		if err := json.Unmarshal(b, &out); err != nil || len(out) != 2 || out[0].ID != one.ID || out[1].ID != two.ID || out[1].Reason != api.RevokedReturned || out[0].DeviceName != "the phone" || out[0].Title != "List" {
			t.Errorf("%s %v", b, err)
		}
		if nothing, err := w.Export(t.Context(), w.user(api.PlanFree)); err != nil || cmp.Diff(nothing, []api.OfflineLicence{}) != "" {
			t.Errorf("of nobody: %+v %v", nothing, err)
		}
		w.tx(func(ctx context.Context, tx *sql.Tx) error {
			if err := w.Forget(ctx, tx, ada); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, `DELETE FROM users WHERE id = $1`, ada)
			return err
		})
		for _, table := range []string{"offline_licences", "offline_items", "offline_accounts"} {
			var n int
			if err := w.db.QueryRowContext(t.Context(), `SELECT count(*) FROM `+table).Scan(&n); err != nil || n != 1 {
				t.Errorf("%s: %d rows of %d, %v", table, n, 1, err)
			}
		}
		_, err = w.Licence(t.Context(), ada, one.ID)
		is(t, "a licence of nobody", err, media.ErrNotFound)
		w.state(bob, theirs.ID, api.LicenceActive, "")
	})
}

// TestRace: a licence that is granted while the plan ends is over too, in whatever order they come.
func TestRace(t *testing.T) {
	databases(t, func(t *testing.T, w *world) {
		list := w.list(w.track("a"))
		for i := range 20 {
			ada := w.user(api.PlanPremium)
			first := w.licence(on(ada, "phone"), list)
			var wg sync.WaitGroup
			wg.Go(func() {
				_, err := w.Renew(t.Context(), on(ada, "phone"), first.ID)
				if err != nil && !errors.Is(err, offline.ErrRevoked) && !errors.Is(err, offline.ErrPlan) {
					t.Error(err)
				}
			})
			wg.Go(func() {
				w.tx(func(ctx context.Context, tx *sql.Tx) error { return w.PlanChanged(ctx, tx, ada, api.PlanFree) })
			})
			wg.Wait()
			if k, err := w.Licence(t.Context(), ada, first.ID); err != nil || k.State != api.LicenceRevoked {
				t.Fatalf("round %d: %+v %v", i, k, err)
			}
		}
	})
}
