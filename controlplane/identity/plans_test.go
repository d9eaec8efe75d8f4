package identity_test

import (
	"context"
	"database/sql"
	"encoding/json"
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
	"segue/media"
)

func (w *world) setPlan(id string, plan api.Plan, until *time.Time) {
	w.t.Helper()
	if _, err := w.AdminChange(w.t.Context(), id, api.AdminUserChange{Plan: &plan, PlanExpiresAt: until}); err != nil {
		w.t.Fatal(err)
	}
}

// plan is what Plan says, which must be what User says.
func (w *world) plan(id string) api.Plan {
	w.t.Helper()
	plan, err := w.Plan(w.t.Context(), id)
	if u := w.user(id); err != nil || u.Plan != plan {
		w.t.Errorf("%s, %v, and the user has %s", plan, err, u.Plan)
	}
	return plan
}

// expire makes the account's plan end now, by the clock.
func (w *world) expire(id string) {
	w.t.Helper()
	w.exec(`UPDATE users SET plan_until = $1 WHERE id = $2`, store.Micros(time.Now().Add(-time.Second)), id)
}

func testPlans(t *testing.T, w *world) {
	u := w.signUp("ada")
	w.setPlan(u.ID, api.PlanPremium, new(time.Now().Add(time.Hour)))
	w.hears("plan " + u.ID + " premium")
	if got := w.user(u.ID); got.Plan != api.PlanPremium || got.PlanExpiresAt == nil || time.Until(*got.PlanExpiresAt) < 59*time.Minute {
		t.Errorf("%+v", got)
	}
	w.setPlan(u.ID, api.PlanPremium, nil) // prolonged: the same plan
	w.hears()
	w.setPlan(u.ID, api.PlanPremium, new(time.Now().Add(time.Hour)))
	w.expire(u.ID)
	if p := w.plan(u.ID); p != api.PlanFree { // at once, sweeper or not
		t.Error(p)
	}
	w.hears()
	var wg sync.WaitGroup
	other := w.replica(identity.Config{})
	for _, s := range []*identity.Service{w.Service, other, w.Service, other} { // once, however many look
		wg.Go(func() {
			if err := s.EndPlans(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	w.hears("plan " + u.ID + " free")
	// Renewed after its end but before anybody noticed: it never changed for the others.
	w.setPlan(u.ID, api.PlanPremium, nil)
	w.hears("plan " + u.ID + " premium")
	w.expire(u.ID)
	w.setPlan(u.ID, api.PlanPremium, nil)
	is(t, "sweep", w.EndPlans(t.Context()), nil)
	w.hears()

	for why, c := range map[string]api.AdminUserChange{
		"a plan that is none":   {Plan: new(api.Plan("gold"))},
		"an end that is past":   {Plan: new(api.PlanPremium), PlanExpiresAt: new(time.Now().Add(-time.Hour))},
		"an end of free":        {Plan: new(api.PlanFree), PlanExpiresAt: new(time.Now().Add(time.Hour))},
		"an end without a plan": {PlanExpiresAt: new(time.Now().Add(time.Hour))},
	} {
		_, err := w.AdminChange(t.Context(), u.ID, c)
		is(t, why, err, media.ErrInvalid)
	}
	_, err := w.AdminChange(t.Context(), "nobody", api.AdminUserChange{Plan: new(api.PlanFree)})
	is(t, "nobody", err, media.ErrNotFound)
	if l := w.Limits(api.PlanFree); l.MaxBitrateBps != media.LimitedBps || l.OfflineDevices != 0 || l.Streams != 1 || l.Lossless {
		t.Errorf("%+v", l)
	}
	if l := w.replica(identity.Config{PremiumStreams: 3}).Limits(api.PlanPremium); l.Streams != 3 || l.OfflineDevices != 5 || l.MaxBitrateBps != 0 || !l.Lossless {
		t.Errorf("%+v", l)
	}
	if l := w.Limits("gold"); l.Plan != api.PlanFree {
		t.Errorf("%+v", l)
	}

	// What another service cannot do with a plan that ended, it is asked again, and nobody else waits for it.
	bob := w.signUp("bob")
	for _, id := range []string{u.ID, bob.ID} {
		w.setPlan(id, api.PlanPremium, nil)
		w.expire(id)
	}
	w.heard = nil
	broken := w.replica(identity.Config{})
	broken.SetPersonal([]identity.Personal{{Name: "broken", PlanChanged: func(_ context.Context, _ *sql.Tx, id string, _ api.Plan) error {
		if id == u.ID {
			return errors.New("not now")
		}
		return nil
	}}})
	if err := broken.EndPlans(t.Context()); err == nil || !strings.Contains(err.Error(), "not now") {
		t.Error(err)
	}
	is(t, "sweep", w.EndPlans(t.Context()), nil)
	w.hears("plan " + u.ID + " free")
}

func (w *world) invite(owner string) string {
	w.t.Helper()
	i, err := w.Invite(w.t.Context(), owner)
	if err != nil {
		w.t.Fatal(err)
	}
	return i.Code
}

func testFamily(t *testing.T, w *world) {
	owner, ada, bob := w.signUp("owner"), w.signUp("ada"), w.signUp("bob")
	join := func(u api.User, code string) error { _, err := w.JoinFamily(t.Context(), u.ID, code); return err }
	_, err := w.Invite(t.Context(), owner.ID)
	is(t, "without the plan", err, media.ErrDenied)
	_, err = w.Family(t.Context(), owner.ID)
	is(t, "without a family", err, media.ErrNotFound)
	w.setPlan(owner.ID, api.PlanFamily, nil)
	w.hears("plan " + owner.ID + " family")
	code := w.invite(owner.ID)
	is(t, "a wrong code", join(ada, "sgf_nothing"), media.ErrNotFound)
	is(t, "join", join(ada, code), nil)
	is(t, "join again", join(ada, code), nil)
	is(t, "the owner joins", join(owner, code), nil)
	w.hears("plan " + ada.ID + " family")
	if p := w.plan(ada.ID); p != api.PlanFamily {
		t.Error(p)
	}
	fresh := w.invite(owner.ID)
	is(t, "the code before", join(bob, code), media.ErrNotFound)
	is(t, "join", join(bob, fresh), nil)
	f, err := w.Family(t.Context(), bob.ID)
	if err != nil || !f.Active || len(f.Members) != 3 || !f.Members[0].Owner || f.Members[0].ID != owner.ID || f.Members[1].ID != ada.ID || f.Members[2].ID != bob.ID || f.Members[1].Owner {
		t.Errorf("%+v %v", f, err)
	}
	_, err = w.Invite(t.Context(), ada.ID)
	is(t, "a member invites", err, media.ErrDenied)
	is(t, "a member removes another", w.RemoveMember(t.Context(), ada.ID, bob.ID), media.ErrNotFound)
	w.heard = nil

	// The owner's plan ends: members have their own again, and get it back when it goes on.
	w.setPlan(bob.ID, api.PlanPremium, nil)
	w.hears() // the family's plan was there before
	w.expire(owner.ID)
	if a, b := w.plan(ada.ID), w.plan(bob.ID); a != api.PlanFree || b != api.PlanPremium {
		t.Error(a, b)
	}
	is(t, "a family that has ended", join(w.signUp("late"), fresh), media.ErrNotFound)
	is(t, "sweep", w.EndPlans(t.Context()), nil)
	w.hears("plan "+owner.ID+" free", "plan "+ada.ID+" free", "plan "+bob.ID+" premium")
	if f, err := w.Family(t.Context(), ada.ID); err != nil || f.Active || len(f.Members) != 3 {
		t.Errorf("%+v %v", f, err)
	}
	w.setPlan(owner.ID, api.PlanFamily, nil)
	w.hears("plan "+owner.ID+" family", "plan "+ada.ID+" family", "plan "+bob.ID+" family")

	// Others may not be in two.
	second := w.signUp("second")
	w.setPlan(second.ID, api.PlanFamily, nil)
	w.heard = nil
	is(t, "an owner joins another", join(second, fresh), identity.ErrInFamily)
	is(t, "a member joins another", join(ada, w.invite(second.ID)), identity.ErrInFamily)

	is(t, "leave", w.LeaveFamily(t.Context(), ada.ID), nil)
	is(t, "leave again", w.LeaveFamily(t.Context(), ada.ID), nil)
	w.hears("plan " + ada.ID + " free")
	is(t, "back", join(ada, fresh), nil)
	is(t, "remove", w.RemoveMember(t.Context(), owner.ID, ada.ID), nil)
	is(t, "back by the code that is gone", join(ada, fresh), media.ErrNotFound)
	is(t, "remove again", w.RemoveMember(t.Context(), owner.ID, ada.ID), media.ErrNotFound)
	w.heard = nil
	// A member who buys the family plan leaves.
	w.setPlan(bob.ID, api.PlanFamily, nil)
	w.hears()
	if f, err := w.Family(t.Context(), bob.ID); err != nil || len(f.Members) != 1 || f.Members[0].ID != bob.ID {
		t.Errorf("%+v %v", f, err)
	}
	// An owner who goes.
	is(t, "join", join(ada, w.invite(owner.ID)), nil)
	w.heard = nil
	is(t, "delete", w.AdminDelete(t.Context(), owner.ID), nil)
	w.hears("forget "+owner.ID, "plan "+ada.ID+" free")
	if p := w.plan(ada.ID); p != api.PlanFree {
		t.Error(p)
	}
	// An owner who sends everybody away.
	is(t, "join", join(ada, w.invite(bob.ID)), nil)
	w.heard = nil
	is(t, "dissolve", w.LeaveFamily(t.Context(), bob.ID), nil)
	w.hears("plan " + ada.ID + " free")
	code = w.invite(bob.ID)
	is(t, "uninvite", w.Uninvite(t.Context(), bob.ID), nil)
	is(t, "join", join(ada, code), media.ErrNotFound)
	code = w.invite(bob.ID)
	w.exec(`UPDATE family_invites SET expires_at = 1`)
	is(t, "an old code", join(ada, code), media.ErrNotFound)
}

func testCrowdedFamily(t *testing.T, w *world) {
	owner := w.signUp("owner")
	w.setPlan(owner.ID, api.PlanFamily, nil)
	code := w.invite(owner.ID)
	other := w.replica(identity.Config{})
	var users []api.User
	for i := range 7 {
		users = append(users, w.signUp(fmt.Sprint("user", i)))
	}
	w.heard = nil
	var wg sync.WaitGroup
	errs := make([]error, len(users))
	for i, u := range users {
		wg.Go(func() { _, errs[i] = []*identity.Service{w.Service, other}[i%2].JoinFamily(t.Context(), u.ID, code) })
	}
	wg.Wait()
	in := 0
	for i, err := range errs {
		if want := map[bool]api.Plan{true: api.PlanFamily, false: api.PlanFree}[err == nil]; w.plan(users[i].ID) != want {
			t.Errorf("%v and %s", err, w.plan(users[i].ID))
		}
		if err == nil {
			in++
		} else {
			is(t, "no room", err, identity.ErrFamilyFull)
		}
	}
	if f, err := w.Family(t.Context(), owner.ID); in != 5 || err != nil || len(f.Members) != identity.MaxMembers || len(w.heard) != 5 {
		t.Errorf("%d joined, %+v %v, heard %d", in, f, err, len(w.heard))
	}
}

// testPlansUnderFire: whatever happens at once, what the other services were told last is what is.
func testPlansUnderFire(t *testing.T, w *world) {
	owner, ada := w.signUp("owner"), w.signUp("ada")
	w.setPlan(owner.ID, api.PlanFamily, nil)
	code := w.invite(owner.ID)
	w.Service.SetPersonal([]identity.Personal{{Name: "told", PlanChanged: func(ctx context.Context, tx *sql.Tx, id string, plan api.Plan) error {
		// In the transaction: what does not commit was not said.
		_, err := tx.ExecContext(ctx, `UPDATE users SET country = $1 WHERE id = $2`, string(plan), id)
		return err
	}}})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 6 {
				var err error
				switch (i + n) % 5 {
				case 0:
					_, err = w.JoinFamily(t.Context(), ada.ID, code)
				case 1:
					err = w.LeaveFamily(t.Context(), ada.ID)
				case 2:
					_, err = w.AdminChange(t.Context(), ada.ID, api.AdminUserChange{Plan: new(api.PlanPremium)})
				case 3:
					_, err = w.AdminChange(t.Context(), owner.ID, api.AdminUserChange{Plan: new([]api.Plan{api.PlanFree, api.PlanFamily}[n%2])})
				case 4:
					_, err = w.AdminChange(t.Context(), ada.ID, api.AdminUserChange{Plan: new(api.PlanFree)})
				}
				if err != nil && !errors.Is(err, media.ErrNotFound) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, u := range []api.User{owner, ada} {
		u = w.user(u.ID)
		if u.Country != "" && u.Country != string(u.Plan) {
			t.Errorf("%s has %s, and the others were told %s", u.DisplayName, u.Plan, u.Country)
		}
	}
}

// userTables are the tables with a column user_id, and those whose rows lead to users by another name.
func (w *world) userTables() []string {
	w.t.Helper()
	q := `SELECT table_name FROM information_schema.columns WHERE column_name = 'user_id' AND table_schema = 'public' ORDER BY 1`
	if w.db.Embedded {
		q = `SELECT m.name FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table' AND c.name = 'user_id' ORDER BY 1`
	}
	rows, err := w.db.QueryContext(w.t.Context(), q)
	if err != nil {
		w.t.Fatal(err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			w.t.Fatal(err)
		}
		out = append(out, name)
	}
	if err := rows.Err(); err != nil {
		w.t.Fatal(err)
	}
	return out
}

func testDeletion(t *testing.T, w *world) {
	tables := w.userTables()
	for _, want := range []string{"devices", "family_members", "oidc_identities", "sessions"} {
		if !slices.Contains(tables, want) {
			t.Fatalf("the walk is broken: %v", tables)
		}
	}
	// Whoever adds a table of people, it goes with them.
	kept := `SELECT count(*) FROM information_schema.referential_constraints r JOIN information_schema.key_column_usage k ON k.constraint_name = r.constraint_name
	  WHERE k.table_name = $1 AND k.column_name = 'user_id' AND r.delete_rule = 'CASCADE'`
	if w.db.Embedded {
		kept = `SELECT count(*) FROM pragma_foreign_key_list($1) WHERE "from" = 'user_id' AND "table" = 'users' AND on_delete = 'CASCADE'`
	}
	for _, table := range tables {
		if w.count(kept, table) == 0 {
			t.Errorf("%s.user_id does not refer to users(id) ON DELETE CASCADE", table)
		}
	}
	ada, bob, owner := w.signUp("ada"), w.signUp("bob"), w.signUp("owner")
	for _, id := range []string{ada.ID, bob.ID} {
		w.exec(`INSERT INTO playbacks (play_id, user_id, device_id, track_id, version, plan, edge, licence_id, created_at, expires_at) VALUES ($1, $2, 'd', 't', 'v', 'free', 'e', '', 1, 1)`, "play of "+id[20:], id)
		w.exec(`INSERT INTO oidc_identities (issuer, subject, user_id, created_at) VALUES ('https://id.example', $1, $1, 1)`, id)
	}
	w.setPlan(owner.ID, api.PlanFamily, nil)
	code := w.invite(owner.ID)
	for _, u := range []api.User{ada, bob} {
		if _, err := w.JoinFamily(t.Context(), u.ID, code); err != nil {
			t.Fatal(err)
		}
	}
	s, p := w.signIn("ada", "")
	w.signIn("ada", "")
	w.signIn("bob", "")
	rows := func(id string) map[string]int {
		out := map[string]int{}
		for _, table := range tables {
			if n := w.count(`SELECT COUNT(*) FROM `+table+` WHERE user_id = $1`, id); n > 0 {
				out[table] = n
			}
		}
		return out
	}
	if n := rows(ada.ID); len(n) < 4 {
		t.Errorf("too little to delete: %v", n)
	}
	e, err := w.Export(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"email":"ada@example.org"`, `"parts":{"notes":{"of":"` + ada.ID + `"}}`, `"issuer":"https://id.example"`, p.DeviceID, p.SessionID, `"family":{"active":true`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("the export lacks %s: %s", want, b)
		}
	}
	for _, not := range []string{"argon2", s.RefreshToken} {
		if strings.Contains(string(b), not) {
			t.Errorf("the export tells a secret: %s", b)
		}
	}
	is(t, "a wrong password", w.Delete(t.Context(), p, "wrong one"), media.ErrDenied)
	w.events()
	w.heard = nil
	before := rows(bob.ID)
	is(t, "delete", w.Delete(t.Context(), p, password), nil)
	w.hears("forget " + ada.ID)
	if ev := w.events(); len(ev) != 1 || !strings.Contains(ev[0], ada.ID) {
		t.Errorf("%v", ev)
	}
	if n := rows(ada.ID); len(n) != 0 {
		t.Errorf("left: %v", n)
	}
	if n := rows(bob.ID); fmt.Sprint(n) != fmt.Sprint(before) {
		t.Errorf("of another: %v, was %v", n, before)
	}
	// Nowhere in the database, whatever the column is called.
	w.nowhere(ada.ID, "ada@example.org")
	_, err = w.Verify(s.AccessToken)
	is(t, "access", err, media.ErrNoAccess)
	_, err = w.Refresh(t.Context(), s.RefreshToken)
	is(t, "refresh", err, media.ErrNoAccess)
	is(t, "delete again", w.Delete(t.Context(), p, password), media.ErrNotFound)
	if u := w.signUp("ada"); u.ID == ada.ID {
		t.Error("the address has the old account")
	}
}

// nowhere looks into every text column of every table.
func (w *world) nowhere(values ...string) {
	w.t.Helper()
	q := `SELECT table_name, column_name FROM information_schema.columns WHERE data_type = 'text' AND table_schema = 'public'`
	if w.db.Embedded {
		q = `SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table' AND c.type = 'TEXT'`
	}
	rows, err := w.db.QueryContext(w.t.Context(), q)
	if err != nil {
		w.t.Fatal(err)
	}
	defer rows.Close()
	var columns [][2]string
	for rows.Next() {
		var c [2]string
		if err := rows.Scan(&c[0], &c[1]); err != nil {
			w.t.Fatal(err)
		}
		columns = append(columns, c)
	}
	rows.Close()
	if len(columns) < 50 {
		w.t.Fatalf("the walk is broken: %v", columns)
	}
	for _, c := range columns {
		for _, v := range values {
			if n := w.count(`SELECT COUNT(*) FROM `+c[0]+` WHERE `+c[1]+` LIKE $1`, "%"+v+"%"); n > 0 {
				w.t.Errorf("%s is in %s.%s", v, c[0], c[1])
			}
		}
	}
}

func testFailedDeletion(t *testing.T, w *world) {
	u := w.signUp("ada")
	s, p := w.signIn("ada", "")
	w.events()
	w.SetPersonal([]identity.Personal{{Name: "broken", Forget: func(context.Context, *sql.Tx, string) error { return errors.New("not now") }}})
	if err := w.Delete(t.Context(), p, password); err == nil {
		t.Fatal("no error")
	}
	// All or nothing.
	if _, err := w.Verify(s.AccessToken); err != nil || w.user(u.ID).ID != u.ID || len(w.events()) != 0 {
		t.Errorf("half deleted: %v", err)
	}
	if _, err := w.Refresh(t.Context(), s.RefreshToken); err != nil {
		t.Error(err)
	}
	if _, err := w.SignIn(t.Context(), api.NewSession{Email: u.Email, Password: password}, netip.Addr{}); err != nil {
		t.Error(err)
	}
}

func testAdminTokens(t *testing.T, w *world) {
	if err := w.PutAdminToken(t.Context(), "operator", "sga_chosen-by-the-operator", identity.ScopeAdmin); err != nil {
		t.Fatal(err)
	}
	is(t, "again", w.PutAdminToken(t.Context(), "operator", "sga_chosen-by-the-operator", identity.ScopeAdmin), nil)
	made := func(n api.NewAdminToken) api.AdminToken {
		t.Helper()
		tok, err := w.NewAdminToken(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	ingest := made(api.NewAdminToken{Name: "packager", Scopes: []string{"ingest", "catalog", "ingest"}, ExpiresAt: new(time.Now().Add(time.Hour))})
	is(t, "its scope", w.VerifyAdmin(t.Context(), ingest.Token, identity.ScopeIngest), nil)
	is(t, "not its scope", w.VerifyAdmin(t.Context(), ingest.Token, identity.ScopeUsers), media.ErrDenied)
	is(t, "unknown", w.VerifyAdmin(t.Context(), ingest.Token+"x", identity.ScopeIngest), media.ErrNoAccess)
	list, err := w.AdminTokens(t.Context())
	if err != nil || len(list) != 2 || list[1].ID != ingest.ID || list[1].Token != "" || len(list[1].Scopes) != 2 || list[1].ExpiresAt == nil || list[0].ExpiresAt != nil {
		t.Fatalf("%+v %v", list, err)
	}
	w.exec(`UPDATE admin_tokens SET expires_at = 1 WHERE id = $1`, ingest.ID)
	is(t, "expired", w.VerifyAdmin(t.Context(), ingest.Token, identity.ScopeIngest), media.ErrNoAccess)
	for why, n := range map[string]api.NewAdminToken{
		"no name":          {Scopes: []string{"admin"}},
		"no scope":         {Name: "x"},
		"an unknown scope": {Name: "x", Scopes: []string{"admin", "root"}},
		"an end past":      {Name: "x", Scopes: []string{"admin"}, ExpiresAt: new(time.Now().Add(-time.Hour))},
	} {
		_, err := w.NewAdminToken(t.Context(), n)
		is(t, why, err, media.ErrInvalid)
	}
	is(t, "the last admin", w.DeleteAdminToken(t.Context(), list[0].ID), identity.ErrLastAdmin)
	is(t, "another", w.DeleteAdminToken(t.Context(), ingest.ID), nil)
	is(t, "nobody's", w.DeleteAdminToken(t.Context(), ingest.ID), media.ErrNotFound)
	// Two admins who delete each other: one stays.
	second := made(api.NewAdminToken{Name: "second", Scopes: []string{"admin"}})
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i, id := range []string{list[0].ID, second.ID} {
		wg.Go(func() { errs[i] = w.DeleteAdminToken(t.Context(), id) })
	}
	wg.Wait()
	if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs...), identity.ErrLastAdmin) {
		t.Errorf("%v", errs)
	}
}

func testAdminUsers(t *testing.T, w *world) {
	for _, name := range []string{"ada", "adam", "a_b", "axb", "bob", "ÄDA"} {
		w.signUp(name)
	}
	find := func(prefix string, limit int) string {
		t.Helper()
		var out []string
		for cursor := ""; ; {
			page, err := w.AdminUsers(t.Context(), prefix, cursor, limit)
			if err != nil {
				t.Fatal(err)
			}
			for _, u := range page.Items {
				out = append(out, u.DisplayName)
			}
			if cursor = page.Next; cursor == "" {
				return strings.Join(out, " ")
			}
			if len(page.Items) != limit {
				t.Errorf("a page of %d, want %d", len(page.Items), limit)
			}
		}
	}
	for _, limit := range []int{1, 2, 3, 50} {
		f := func(prefix, want string) {
			t.Helper()
			if got := find(prefix, limit); got != want {
				t.Errorf("%q by %d: %q, want %q", prefix, limit, got, want)
			}
		}
		f("AD", "ada adam")
		f("a_", "a_b") // no pattern
		f("%", "")
		f("a\x00", "")
		f("\xff", "")
		f("äd", "ÄDA")
		f("", "a_b ada adam axb bob ÄDA")
	}
	for _, cursor := range []string{"!", "AA", "_w"} { // no base64, a NUL, no UTF-8
		_, err := w.AdminUsers(t.Context(), "", cursor, 10)
		is(t, "cursor "+cursor, err, media.ErrInvalid)
	}
}
