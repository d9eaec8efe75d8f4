package identity_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/identity"
	"segue/controlplane/store"
	"segue/internal/testenv"
	"segue/media"

	"github.com/google/go-cmp/cmp"
)

const password = "correct horse"

// world is one database, and what the fake other service heard.
type world struct {
	*identity.Service
	t  *testing.T
	db *store.DB

	mu    sync.Mutex // guards heard
	heard []string
}

// TestIdentity runs everything on SQLite and on PostgreSQL, each test on an empty database.
func TestIdentity(t *testing.T) {
	tests := []struct {
		name string
		f    func(*testing.T, *world)
	}{
		{"accounts", testAccounts}, {"profiles", testProfiles}, {"parallel sign-ups", testParallelSignUps}, {"devices", testDevices}, {"many devices", testManyDevices},
		{"refresh", testRefresh}, {"two refreshes at once", testRefreshesAtOnce}, {"replicas", testReplicas}, {"keys", testKeys}, {"password", testPassword},
		{"throttle", testThrottle}, {"plans", testPlans}, {"family", testFamily}, {"crowded family", testCrowdedFamily}, {"plans under fire", testPlansUnderFire},
		{"deletion", testDeletion}, {"failed deletion", testFailedDeletion}, {"admin tokens", testAdminTokens}, {"admin users", testAdminUsers},
		{"oidc", testOIDC}, {"oidc attacks", testOIDCAttacks},
	}
	run := func(t *testing.T, open func(t *testing.T, n int) *store.DB) {
		for n, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				db := open(t, n)
				t.Cleanup(func() { db.Close() })
				w := &world{t: t, db: db}
				w.Service = w.replica(identity.Config{})
				test.f(t, w)
			})
		}
	}
	openOne := func(t *testing.T, dsn string) *store.DB {
		t.Helper()
		db, err := store.Open(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	t.Run("sqlite", func(t *testing.T) {
		run(t, func(t *testing.T, _ int) *store.DB { return openOne(t, "sqlite:"+t.TempDir()+"/segue.db") })
	})
	t.Run("postgres", func(t *testing.T) {
		url := testenv.Postgres(t)
		first := openOne(t, url)
		defer first.Close()
		run(t, func(t *testing.T, n int) *store.DB {
			if _, err := first.ExecContext(t.Context(), fmt.Sprintf("CREATE DATABASE test%d", n)); err != nil {
				t.Fatal(err)
			}
			return openOne(t, strings.Replace(url, "/postgres?", fmt.Sprintf("/test%d?", n), 1))
		})
	})
}

// replica is one more service on the database, with a fake other service that writes down what it hears.
func (w *world) replica(cfg identity.Config) *identity.Service {
	w.t.Helper()
	s, err := identity.New(w.t.Context(), w.db, cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	hear := func(format string, args ...any) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.heard = append(w.heard, fmt.Sprintf(format, args...))
		return nil
	}
	s.SetPersonal([]identity.Personal{{Name: "empty"}, {
		Name:   "notes",
		Export: func(_ context.Context, id string) (any, error) { return map[string]string{"of": id}, nil },
		Forget: func(_ context.Context, _ *sql.Tx, id string) error { return hear("forget %s", id) },
		PlanChanged: func(_ context.Context, _ *sql.Tx, id string, plan api.Plan) error {
			return hear("plan %s %s", id, plan)
		},
		DeviceRemoved: func(_ context.Context, _ *sql.Tx, id, device string) error {
			return hear("device %s %s", id, device)
		},
	}})
	return s
}

// hears checks what the other service heard since the last check, in any order.
func (w *world) hears(want ...string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	slices.Sort(w.heard)
	slices.Sort(want)
	if d := cmp.Diff(w.heard, want); d != "" {
		w.t.Errorf("heard (-), want (+): %s", d)
	}
	w.heard = nil
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.db.ExecContext(w.t.Context(), sql, args...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) count(sql string, args ...any) (n int) {
	w.t.Helper()
	if err := w.db.QueryRowContext(w.t.Context(), sql, args...).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

func (w *world) signUp(name string) api.User {
	w.t.Helper()
	u, err := w.SignUp(w.t.Context(), api.NewUser{Email: name + "@example.org", Password: password}, api.PlanFree)
	if err != nil {
		w.t.Fatal(err)
	}
	return u
}

func (w *world) signIn(name, device string) (api.Session, identity.Principal) {
	w.t.Helper()
	s, err := w.SignIn(w.t.Context(), api.NewSession{Email: name + "@example.org", Password: password, Device: api.Device{ID: device, Type: "phone", Name: "Pocket"}}, netip.Addr{})
	if err != nil {
		w.t.Fatal(err)
	}
	p, err := w.Verify(s.AccessToken)
	if err != nil {
		w.t.Fatal(err)
	}
	return s, p
}

func (w *world) user(id string) api.User {
	w.t.Helper()
	u, err := w.User(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return u
}

// is fails the test when err is not what is wanted; nil wants none.
func is(t *testing.T, why string, err, want error) {
	t.Helper()
	if want == nil && err != nil || want != nil && !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", why, err, want)
	}
}

// events are the kinds and ids of user events since the last call.
func (w *world) events() []string {
	w.t.Helper()
	rows, err := w.db.QueryContext(w.t.Context(), `SELECT body FROM outbox WHERE subject = 'catalog.user' ORDER BY id`)
	if err != nil {
		w.t.Fatal(err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var body string
		if err := rows.Scan(&body); err != nil {
			w.t.Fatal(err)
		}
		out = append(out, body)
	}
	if err := rows.Err(); err != nil {
		w.t.Fatal(err)
	}
	rows.Close()
	w.exec(`DELETE FROM outbox`)
	return out
}

func testAccounts(t *testing.T, w *world) {
	u := w.signUp("ada")
	if u.DisplayName != "ada" || u.Plan != api.PlanFree || u.Discoverable || u.PlanExpiresAt != nil {
		t.Errorf("%+v", u)
	}
	event := `{"kind":"user","ids":["` + u.ID + `"]}`
	if d := cmp.Diff(w.events(), []string{event}); d != "" {
		t.Error(d)
	}
	set := func(c api.UserChange) error { _, err := w.Change(t.Context(), u.ID, c); return err }
	is(t, "a name", set(api.UserChange{DisplayName: new("  Ada 🎵 Лавлейс ")}), nil)
	is(t, "discoverable", set(api.UserChange{Discoverable: new(true)}), nil)
	if n := len(w.events()); n != 2 {
		t.Errorf("%d events of a name and of discoverable", n)
	}
	is(t, "a country", set(api.UserChange{Country: new("NL")}), nil)
	if n := len(w.events()); n != 0 {
		t.Errorf("%d events of a country", n)
	}
	if u := w.user(u.ID); u.DisplayName != "Ada 🎵 Лавлейс" || !u.Discoverable || u.Country != "NL" {
		t.Errorf("%+v", u)
	}
	is(t, "no country", set(api.UserChange{Country: new("")}), nil)
	for _, code := range []string{"nl", "NLD", "UK", "ZZ", "EU", "001", "N", "Ñ", "XX"} {
		is(t, "country "+code, set(api.UserChange{Country: &code}), media.ErrInvalid)
	}
	for _, name := range []string{"", "  ", "a\nb", "\x00", strings.Repeat("é", 81), "\xff\xfe", "a\u202eb", "\u200b\u200d", "\u2066"} {
		is(t, fmt.Sprintf("name %q", name), set(api.UserChange{DisplayName: &name}), media.ErrInvalid)
	}
	if u := w.user(u.ID); u.DisplayName != "Ada 🎵 Лавлейс" || u.Country != "" {
		t.Errorf("%+v", u)
	}
	_, err := w.Change(t.Context(), "01ARZ3NDEKTSV4RRFFQ69G5FAV", api.UserChange{DisplayName: new("x")})
	is(t, "nobody", err, media.ErrNotFound)
	for _, email := range []string{"", "a", "@", "a@b", "Ada <ada@example.org>", "a@b.c\n", strings.Repeat("a", 250) + "@b.cc", "\"a\x00\"@b.cc", "a\x00@b.cc", "\xff@b.cc"} {
		_, err := w.SignUp(t.Context(), api.NewUser{Email: email, Password: password}, api.PlanFree)
		is(t, "email "+email, err, media.ErrInvalid)
	}
	_, err = w.SignUp(t.Context(), api.NewUser{Email: "ADA@EXAMPLE.ORG", Password: password}, api.PlanFree)
	is(t, "taken", err, identity.ErrTaken)
	for _, email := range []string{"a\x00@b.cc", "\xff@b.cc", strings.Repeat("x", 100_000)} {
		_, err := w.SignIn(t.Context(), api.NewSession{Email: email, Password: password, Device: api.Device{ID: "\x00\xff"}}, netip.Addr{})
		is(t, "sign in as nobody", err, media.ErrNoAccess)
	}
	// Keyboards differ in the form of é.
	_, err = w.SignUp(t.Context(), api.NewUser{Email: "zoë@example.org", Password: "caf\u00e9 caf\u00e9"}, api.PlanFree)
	is(t, "unicode", err, nil)
	_, err = w.SignIn(t.Context(), api.NewSession{Email: "ZOE\u0308@example.org", Password: "cafe\u0301 cafe\u0301"}, netip.Addr{})
	is(t, "the same in another form", err, nil)
}

func testProfiles(t *testing.T, w *world) {
	var ids []string
	for i := range 4 {
		u := w.signUp(fmt.Sprint("user", i))
		ids = append(ids, u.ID)
		if i > 0 {
			if _, err := w.Change(t.Context(), u.ID, api.UserChange{Discoverable: new(true)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := w.AdminChange(t.Context(), ids[1], api.AdminUserChange{Suspended: new(true)}); err != nil {
		t.Fatal(err)
	}
	want := []api.Profile{{ID: ids[2], DisplayName: "user2"}, {ID: ids[3], DisplayName: "user3"}}
	got, err := w.Profiles(t.Context(), append(ids, "nobody")...)
	slices.SortFunc(got, func(a, b api.Profile) int { return strings.Compare(a.ID, b.ID) })
	if d := cmp.Diff(got, want); d != "" || err != nil {
		t.Error(err, d)
	}
	if got, err := w.Profiles(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("%v %v", got, err)
	}
	many := append(slices.Repeat([]string{"nobody"}, 1200), ids[2])
	if got, err := w.Profiles(t.Context(), many...); err != nil || len(got) != 1 {
		t.Errorf("%v %v", got, err)
	}
	got = nil
	if err := w.EachProfile(t.Context(), func(p api.Profile) error { got = append(got, p); return nil }); err != nil || cmp.Diff(got, want) != "" {
		t.Errorf("%v %v", got, err)
	}
	_, err = w.Profile(t.Context(), ids[0])
	is(t, "not discoverable", err, media.ErrNotFound)
}

func testParallelSignUps(t *testing.T, w *world) {
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() {
			_, errs[i] = w.SignUp(t.Context(), api.NewUser{Email: []string{"a@example.org", "A@example.org"}[i%2], Password: password}, api.PlanFree)
		})
	}
	wg.Wait()
	made := 0
	for _, err := range errs {
		if err == nil {
			made++
		} else {
			is(t, "the others", err, identity.ErrTaken)
		}
	}
	if n := w.count(`SELECT COUNT(*) FROM users`); made != 1 || n != 1 || len(w.events()) != 1 {
		t.Errorf("%d of %d made an account, %d rows", made, len(errs), n)
	}
}

func testDevices(t *testing.T, w *world) {
	u, other := w.signUp("ada"), w.signUp("bob")
	first, p1 := w.signIn("ada", "")
	second, p2 := w.signIn("ada", "")
	_, foreign := w.signIn("bob", first.DeviceID) // not theirs: a new one
	if p1.DeviceID != first.DeviceID || p1.DeviceID == p1.SessionID || p1.DeviceID == p2.DeviceID || foreign.DeviceID == p1.DeviceID {
		t.Errorf("%+v %+v %+v", p1, p2, foreign)
	}
	if _, err := w.RenameDevice(t.Context(), u.ID, "", p1.DeviceID, "Kitchen"); err != nil {
		t.Fatal(err)
	}
	again, p3 := w.signIn("ada", p1.DeviceID)
	if p3.DeviceID != p1.DeviceID || p3.SessionID == p1.SessionID {
		t.Errorf("%+v", p3)
	}
	_, err := w.Verify(first.AccessToken)
	is(t, "the session that was on the device", err, media.ErrNoAccess)
	list, err := w.Devices(t.Context(), u.ID, p3.DeviceID)
	if err != nil || len(list) != 2 || list[0].ID != p3.DeviceID || list[0].Name != "Kitchen" || !list[0].Current || list[1].Current || !list[0].SignedIn || list[0].Type != "phone" {
		t.Errorf("%+v %v", list, err)
	}
	is(t, "sign out", w.SignOut(t.Context(), p2), nil)
	if list, err := w.Devices(t.Context(), u.ID, ""); err != nil || len(list) != 2 || list[1].SignedIn {
		t.Errorf("%+v %v", list, err)
	}
	_, err = w.Refresh(t.Context(), second.RefreshToken)
	is(t, "refresh after sign-out", err, media.ErrNoAccess)

	is(t, "another's device", w.RemoveDevice(t.Context(), other.ID, p1.DeviceID), media.ErrNotFound)
	_, err = w.RenameDevice(t.Context(), other.ID, "", p1.DeviceID, "Mine")
	is(t, "another's device", err, media.ErrNotFound)
	_, err = w.RenameDevice(t.Context(), u.ID, "", p1.DeviceID, "a\nb")
	is(t, "a bad name", err, media.ErrInvalid)
	w.hears()
	is(t, "remove", w.RemoveDevice(t.Context(), u.ID, p1.DeviceID), nil)
	w.hears("device " + u.ID + " " + p1.DeviceID)
	is(t, "remove again", w.RemoveDevice(t.Context(), u.ID, p1.DeviceID), media.ErrNotFound)
	_, err = w.Verify(again.AccessToken)
	is(t, "a token of the removed device", err, media.ErrNoAccess)
	_, err = w.Refresh(t.Context(), again.RefreshToken)
	is(t, "a refresh on the removed device", err, media.ErrNoAccess)
	if _, p := w.signIn("ada", p1.DeviceID); p.DeviceID == p1.DeviceID {
		t.Error("a removed device came back")
	}
	_, err = w.SignIn(t.Context(), api.NewSession{Email: "ada@example.org", Password: password, Device: api.Device{Type: "toaster"}}, netip.Addr{})
	is(t, "an unknown type", err, media.ErrInvalid)

	// A refresh is what a device is seen by.
	s, p := w.signIn("bob", "")
	w.exec(`UPDATE devices SET last_active_at = 0`)
	if _, err := w.Refresh(t.Context(), s.RefreshToken); err != nil {
		t.Fatal(err)
	}
	if list, err := w.Devices(t.Context(), other.ID, p.DeviceID); err != nil || time.Since(list[0].LastActiveAt) > time.Minute || list[0].ID != p.DeviceID {
		t.Errorf("%+v %v", list, err)
	}
}

func testManyDevices(t *testing.T, w *world) {
	u := w.signUp("ada")
	first, p := w.signIn("ada", "")
	for i := range 55 { // as if they had signed in without naming a device, each a second after the other
		w.exec(`INSERT INTO devices (id, user_id, type, name, created_at, last_active_at) VALUES ($1, $2, 'web', 'Browser', $3, $3)`, fmt.Sprintf("%026d", i), u.ID, int64(i+1)*1_000_000)
	}
	_, last := w.signIn("ada", "")
	list, err := w.Devices(t.Context(), u.ID, last.DeviceID)
	if err != nil || len(list) != 50 || list[0].ID != last.DeviceID || list[1].ID != p.DeviceID {
		t.Errorf("%d devices: %+v %v", len(list), list[:2], err)
	}
	if _, err := w.Verify(first.AccessToken); err != nil {
		t.Error(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.heard) != 7 {
		t.Errorf("%d devices went: %v", len(w.heard), w.heard)
	}
}

func testRefresh(t *testing.T, w *world) {
	w.signUp("ada")
	refresh := func(token string) api.Session {
		t.Helper()
		s, err := w.Refresh(t.Context(), token)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	dead := func(why string, s api.Session) {
		t.Helper()
		_, err := w.Refresh(t.Context(), s.RefreshToken)
		is(t, why+": refresh", err, media.ErrNoAccess)
		_, err = w.Verify(s.AccessToken)
		is(t, why+": access", err, media.ErrNoAccess)
	}
	one, _ := w.signIn("ada", "")
	two := refresh(one.RefreshToken)
	if two.RefreshToken == one.RefreshToken || two.AccessToken == one.AccessToken || two.DeviceID != one.DeviceID {
		t.Errorf("%+v", two)
	}
	if again := refresh(one.RefreshToken); again.RefreshToken != two.RefreshToken { // its answer was lost
		t.Error("the retry has another successor")
	}
	three := refresh(two.RefreshToken)
	four := refresh(three.RefreshToken)
	if again := refresh(three.RefreshToken); again.RefreshToken != four.RefreshToken { // one change in between was not retried
		t.Error("the retry has another successor")
	}
	_, err := w.Refresh(t.Context(), two.RefreshToken) // long used
	is(t, "reuse", err, media.ErrNoAccess)
	dead("after reuse", four)

	// Two who hold one token after a retry: the second is found out at the next change.
	one, _ = w.signIn("ada", "")
	two = refresh(one.RefreshToken)
	refresh(one.RefreshToken)
	three = refresh(two.RefreshToken)
	_, err = w.Refresh(t.Context(), two.RefreshToken)
	is(t, "a second retry running", err, media.ErrNoAccess)
	dead("after a second retry running", three)

	// The window is short.
	one, _ = w.signIn("ada", "")
	two = refresh(one.RefreshToken)
	w.exec(`UPDATE sessions SET rotated_at = rotated_at - 60000000`)
	_, err = w.Refresh(t.Context(), one.RefreshToken)
	is(t, "a minute later", err, media.ErrNoAccess)
	dead("a minute later", two)

	one, _ = w.signIn("ada", "")
	w.exec(`UPDATE sessions SET expires_at = 1`)
	_, err = w.Refresh(t.Context(), one.RefreshToken)
	is(t, "expired", err, media.ErrNoAccess)
	one, _ = w.signIn("ada", "")
	for _, token := range []string{"", "sgr_", one.RefreshToken[:40], one.RefreshToken + "A", "sgr_" + strings.Repeat("A", 52), one.AccessToken, strings.Repeat("x", 10000), "sgr_\x00\xff"} {
		_, err = w.Refresh(t.Context(), token)
		is(t, "a foreign token", err, media.ErrNoAccess)
	}
	refresh(one.RefreshToken) // and none of these ended it
	// Nobody who reads the database finds a token in it.
	if n := w.count(`SELECT COUNT(*) FROM sessions WHERE token_hash LIKE $1 OR family_hash LIKE $1 OR previous_hash LIKE $1`, "%"+one.RefreshToken[10:20]+"%"); n != 0 {
		t.Error("a token is stored")
	}
}

func testRefreshesAtOnce(t *testing.T, w *world) {
	w.signUp("ada")
	s, _ := w.signIn("ada", "")
	var wg sync.WaitGroup
	got := make([]api.Session, 8)
	for i := range got {
		wg.Go(func() {
			var err error
			if got[i], err = w.Refresh(t.Context(), s.RefreshToken); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, g := range got {
		if g.RefreshToken != got[0].RefreshToken {
			t.Error("two have successors that differ: one of them would be signed out")
		}
	}
	if _, err := w.Refresh(t.Context(), got[3].RefreshToken); err != nil {
		t.Error(err)
	}
	if n := w.count(`SELECT COUNT(*) FROM sessions`); n != 1 {
		t.Errorf("%d sessions", n)
	}
}

// testReplicas: what ends at one is refused by the other within seconds, and what one signs the other believes.
func testReplicas(t *testing.T, w *world) {
	w.signUp("ada")
	other := w.replica(identity.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		other.Run(ctx, func(err error) { t.Error(err) })
	}()
	defer func() { cancel(); <-done }()
	refused := func(why string, s api.Session) {
		t.Helper()
		begun := time.Now()
		for end := begun.Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if _, err := other.Verify(s.AccessToken); errors.Is(err, media.ErrNoAccess) {
				t.Logf("%s: refused by the other replica after %v", why, time.Since(begun).Round(10*time.Millisecond))
				return
			}
		}
		t.Errorf("%s: the other replica still accepts it", why)
	}
	believed := func(s api.Session) {
		t.Helper()
		if _, err := other.Verify(s.AccessToken); err != nil {
			t.Error(err)
		}
	}
	one, p := w.signIn("ada", "")
	two, _ := w.signIn("ada", "")
	believed(one)
	is(t, "sign out", w.SignOut(t.Context(), p), nil)
	_, err := w.Verify(one.AccessToken)
	is(t, "here", err, media.ErrNoAccess)
	refused("sign-out", one)
	believed(two)
	three, _ := w.signIn("ada", "")
	is(t, "everywhere", w.SignOutEverywhere(t.Context(), p.UserID), nil)
	refused("sign-out everywhere", two)
	refused("sign-out everywhere", three)
	four, _ := w.signIn("ada", "")
	if _, err := w.AdminChange(t.Context(), p.UserID, api.AdminUserChange{Suspended: new(true)}); err != nil {
		t.Fatal(err)
	}
	refused("suspension", four)
	_, err = w.SignIn(t.Context(), api.NewSession{Email: "ada@example.org", Password: password}, netip.Addr{})
	is(t, "a suspended account", err, identity.ErrSuspended)
	_, err = w.SignIn(t.Context(), api.NewSession{Email: "ada@example.org", Password: "wrong one"}, netip.Addr{})
	is(t, "a suspended account and a wrong password", err, media.ErrNoAccess)
	if _, err := w.AdminChange(t.Context(), p.UserID, api.AdminUserChange{Suspended: new(false)}); err != nil {
		t.Fatal(err)
	}
	five, _ := w.signIn("ada", "")
	is(t, "deletion", w.AdminDelete(t.Context(), p.UserID), nil)
	refused("deletion", five)
	// One that starts now knows it too.
	_, err = w.replica(identity.Config{}).Verify(five.AccessToken)
	is(t, "a new replica", err, media.ErrNoAccess)
}

func testKeys(t *testing.T, w *world) {
	w.signUp("ada")
	old, _ := w.signIn("ada", "")
	other := w.replica(identity.Config{}) // nothing runs: it learns by need only
	k := w.Keys()
	first, _ := k.Current()
	made, err := k.Rotate(t.Context())
	if err != nil || made.Signs || !made.StartsAt.After(time.Now()) {
		t.Fatalf("%+v %v", made, err)
	}
	if id, _ := k.Current(); id != first || len(k.List()) != 2 || len(k.JWKS()["keys"].([]map[string]string)) != 2 || len(k.Public()) != 2 {
		t.Error("a new key signs before others know it, or is not published")
	}
	w.exec(`UPDATE signing_keys SET starts_at = $1 WHERE id = $2`, store.Micros(time.Now()), made.ID)
	if err := k.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.Known = func(string) bool { return false }
	if id, _ := k.Current(); id != first {
		t.Error("a key signs that those who verify do not know")
	}
	w.exec(`UPDATE signing_keys SET starts_at = $1 WHERE id = $2`, store.Micros(time.Now().Add(-time.Hour)), first)
	w.exec(`UPDATE signing_keys SET starts_at = $1 WHERE id = $2`, store.Micros(time.Now().Add(-11*time.Minute)), made.ID)
	if err := k.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if id, _ := k.Current(); id != made.ID {
		t.Error("a key waits for ever for those who do not say that they know it")
	}
	k.Known = nil
	if id, _ := k.Current(); id != made.ID {
		t.Error("a key that started does not sign")
	}
	young, _ := w.signIn("ada", "")
	for _, s := range []api.Session{old, young} {
		if _, err := w.Verify(s.AccessToken); err != nil {
			t.Error(err)
		}
		if _, err := other.Verify(s.AccessToken); err != nil {
			t.Errorf("the other replica: %v", err)
		}
	}
	is(t, "revoke", k.Revoke(t.Context(), first), nil)
	is(t, "revoke again", k.Revoke(t.Context(), first), media.ErrNotFound)
	_, err = w.Verify(old.AccessToken)
	is(t, "a token of a revoked key", err, media.ErrNoAccess)
	if err := other.Keys().Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = other.Verify(old.AccessToken)
	is(t, "a token of a revoked key, elsewhere", err, media.ErrNoAccess)
	is(t, "revoke the last", k.Revoke(t.Context(), made.ID), nil)
	if list := k.List(); len(list) != 1 || !list[0].Signs || list[0].ID == made.ID {
		t.Errorf("%+v", list)
	}
	if n := w.count(`SELECT COUNT(*) FROM signing_keys WHERE retired_at > 0 AND private_key <> ''`); n != 0 {
		t.Error("a retired key keeps its secret")
	}
	if n := w.count(`SELECT COUNT(*) FROM signing_keys WHERE purpose = 'access'`); n != 3 {
		t.Errorf("%d keys were ever there", n)
	}

	// By itself: an old key gets a successor, and what was superseded long ago goes.
	current, _ := k.Current()
	ago := func(d time.Duration) int64 { return store.Micros(time.Now().Add(-d)) }
	w.exec(`INSERT INTO signing_keys (id, purpose, private_key, public_key, created_at, starts_at) SELECT 'older', purpose, private_key, public_key, 1, 1 FROM signing_keys WHERE id = $1`, current)
	w.exec(`UPDATE signing_keys SET created_at = $1, starts_at = $1 WHERE id = $2`, ago(31*24*time.Hour), current)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.Run(ctx, func(err error) { t.Error(err) }) }()
	for end := time.Now().Add(10 * time.Second); len(k.List()) != 2 || k.List()[1].ID != current; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("%+v", k.List())
			break
		}
	}
	cancel()
	<-done
}

func testPassword(t *testing.T, w *world) {
	u := w.signUp("ada")
	here, p := w.signIn("ada", "")
	there, _ := w.signIn("ada", "")
	change := func(old, new string) error {
		return w.ChangePassword(t.Context(), p, api.NewPassword{OldPassword: old, NewPassword: new})
	}
	is(t, "wrong", change("wrong one", "another horse"), media.ErrDenied)
	is(t, "too short", change(password, "short"), media.ErrInvalid)
	is(t, "too long", change(password, strings.Repeat("x", 257)), media.ErrInvalid)
	is(t, "right", change(password, "another horse"), nil)
	if _, err := w.Verify(here.AccessToken); err != nil {
		t.Errorf("the session that asked: %v", err)
	}
	if _, err := w.Refresh(t.Context(), here.RefreshToken); err != nil {
		t.Errorf("the session that asked: %v", err)
	}
	_, err := w.Verify(there.AccessToken)
	is(t, "another session", err, media.ErrNoAccess)
	_, err = w.Refresh(t.Context(), there.RefreshToken)
	is(t, "another session", err, media.ErrNoAccess)
	_, err = w.SignIn(t.Context(), api.NewSession{Email: u.Email, Password: password}, netip.Addr{})
	is(t, "the old password", err, media.ErrNoAccess)
	_, err = w.SignIn(t.Context(), api.NewSession{Email: u.Email, Password: "another horse"}, netip.Addr{})
	is(t, "the new password", err, nil)

	// Two who change it at once: one is told.
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i := range errs {
		wg.Go(func() { errs[i] = change("another horse", fmt.Sprint("new horse ", i)) })
	}
	wg.Wait()
	if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs...), media.ErrDenied) {
		t.Errorf("%v", errs)
	}
}

func testThrottle(t *testing.T, w *world) {
	w.signUp("ada")
	_, p := w.signIn("ada", "")
	from := netip.MustParseAddr("2001:db8::1")
	try := func(name, pass, device string) (time.Duration, error) {
		t.Helper()
		_, err := w.SignIn(t.Context(), api.NewSession{Email: name + "@example.org", Password: pass, Device: api.Device{ID: device}}, from)
		if th, ok := errors.AsType[*identity.Throttled](err); ok {
			return th.Wait, nil
		}
		return 0, err
	}
	// hold makes the delays that there are end after d from now: a busy machine may take longer than a second for two tries.
	hold := func(d time.Duration) {
		w.exec(`UPDATE wrong_passwords SET blocked_until = $1 WHERE blocked_until > 0`, store.Micros(time.Now().Add(d)))
	}
	var texts []string
	for _, name := range []string{"ada", "nobody"} { // nobody learns from the delay who has an account
		for range 5 {
			_, err := try(name, "wrong one", "")
			is(t, name, err, media.ErrNoAccess)
			texts = append(texts, err.Error())
		}
		until := w.count(`SELECT max(blocked_until) FROM wrong_passwords WHERE last_at = (SELECT max(last_at) FROM wrong_passwords)`)
		if wait := time.Until(store.Time(int64(until))); until == 0 || wait > time.Second {
			t.Errorf("%s waits %v", name, wait)
		}
		hold(time.Minute)
		if wait, err := try(name, "wrong one", ""); wait <= 0 || wait > time.Minute || err != nil {
			t.Errorf("%s: %v %v", name, wait, err)
		}
	}
	if slices.Sort(texts); len(slices.Compact(texts)) != 1 {
		t.Errorf("answers differ: %q", slices.Compact(texts))
	}
	hold(time.Minute)
	if wait, err := try("ada", password, ""); wait <= 0 {
		t.Errorf("the right password within the delay: %v %v", wait, err)
	}
	// From where they always sign in, people are not locked out by others.
	if _, err := try("ada", password, p.DeviceID); err != nil {
		t.Error(err)
	}
	wait := time.Duration(0)
	for n := range 20 { // the delay grows, to a limit
		w.exec(`UPDATE wrong_passwords SET blocked_until = 0`)
		if _, err := try("ada", "wrong one", ""); !errors.Is(err, media.ErrNoAccess) {
			t.Fatal(err)
		}
		now, _ := try("ada", "wrong one", "")
		if now < wait-time.Second || now > 15*time.Minute {
			t.Errorf("failure %d: %v after %v", n, now, wait)
		}
		wait = now
	}
	if wait < 14*time.Minute {
		t.Errorf("after 25 wrong passwords the delay is %v", wait)
	}
	// All replicas know.
	_, err := w.replica(identity.Config{}).SignIn(t.Context(), api.NewSession{Email: "ada@example.org", Password: password}, netip.Addr{})
	if _, ok := errors.AsType[*identity.Throttled](err); !ok {
		t.Errorf("another replica: %v", err)
	}
	w.exec(`UPDATE wrong_passwords SET blocked_until = 0`)
	if _, err := try("ada", password, ""); err != nil {
		t.Error(err)
	}
	for range 5 { // forgiven
		_, err := try("ada", "wrong one", "")
		is(t, "after a right one", err, media.ErrNoAccess)
	}
	// One network that tries many accounts.
	for n := range 60 {
		if wait, _ := try(fmt.Sprint("victim", n), "wrong one", ""); wait > 0 {
			from = netip.MustParseAddr("2001:db8::ffff") // its next address
			if wait, _ := try("somebody", "wrong one", ""); wait <= 0 {
				t.Error("the next address of the network may try")
			}
			from = netip.MustParseAddr("192.0.2.1")
			if wait, _ := try("somebody", "wrong one", ""); wait > 0 {
				t.Error("another network may not try")
			}
			break
		} else if n == 59 {
			t.Error("60 accounts were tried from one address")
		}
	}
	// And who has a session does not guess either.
	waited := false
	for range 8 {
		err := w.ChangePassword(t.Context(), p, api.NewPassword{OldPassword: "wrong one", NewPassword: "another horse"})
		_, ok := errors.AsType[*identity.Throttled](err)
		waited = waited || ok
	}
	if !waited {
		t.Error("eight wrong old passwords are not throttled")
	}
}
