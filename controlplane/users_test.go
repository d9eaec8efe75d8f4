package controlplane_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"segue/controlplane"
	"segue/controlplane/api"
	"segue/controlplane/identity"
	"segue/internal/testenv"
	"segue/origin/memstore"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// do is a call whose answer is of no interest.
func do(t *testing.T, c *api.Client, method, path string, in any) {
	t.Helper()
	if err := c.Call(t.Context(), method, path, in, nil); err != nil {
		t.Errorf("%s %s: %v", method, path, err)
	}
}

// asked is a call whose headers are of interest.
func (s *server) asked(method, path, token, body string) *http.Response {
	s.t.Helper()
	req, err := http.NewRequest(method, s.URL+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	resp.Body = io.NopCloser(bytes.NewReader(b))
	return resp
}

func TestUsers(t *testing.T) {
	databases(t, func(t *testing.T, s *server) {
		anybody := s.client("")
		ada, sess := s.signIn("ada@example.org")
		bob, bobs := s.signIn("bob@example.org")

		// Profile.
		refused(t, bob, "GET", "/v1/users/"+sess.User.ID, nil, 404, "not-found")
		me := call[api.User](t, ada, "PATCH", "/v1/me", api.UserChange{DisplayName: new("Ada 🎵"), Discoverable: new(true), Country: new("NL")})
		if me.DisplayName != "Ada 🎵" || !me.Discoverable || me.Country != "NL" {
			t.Errorf("%+v", me)
		}
		if p := call[api.Profile](t, bob, "GET", "/v1/users/"+sess.User.ID, nil); p != (api.Profile{ID: sess.User.ID, DisplayName: "Ada 🎵"}) {
			t.Errorf("%+v", p)
		}
		refused(t, ada, "PATCH", "/v1/me", api.UserChange{Country: new("nowhere")}, 400, "invalid-request")
		refused(t, ada, "PATCH", "/v1/me", map[string]any{"plan": "premium"}, 422, "validation")
		refused(t, ada, "GET", "/v1/users/"+ulid.Make().String(), nil, 404, "not-found")
		if plans := call[api.Page[api.PlanLimits]](t, anybody, "GET", "/v1/plans", nil); len(plans.Items) != 3 || plans.Items[2].Members != 6 {
			t.Errorf("%+v", plans)
		}

		for _, id := range []string{"%00", "%ff"} { // what no database takes as text
			refused(t, ada, "GET", "/v1/users/"+strings.Repeat(id, 26), nil, 400, "invalid-request")
		}
		refused(t, ada, "GET", "/v1/users/short", nil, 422, "validation")

		// Devices and sessions.
		second := call[api.Session](t, anybody, "POST", "/v1/sessions", api.NewSession{Email: "ada@example.org", Password: "correct horse"})
		devices := call[api.Page[api.OwnDevice]](t, ada, "GET", "/v1/me/devices", nil).Items
		if len(devices) != 2 || devices[0].Current || !devices[1].Current || devices[1].ID != sess.DeviceID || devices[1].Name != "test" {
			t.Errorf("%+v", devices)
		}
		if d := call[api.OwnDevice](t, ada, "PATCH", "/v1/me/devices/"+second.DeviceID, api.DeviceChange{Name: "Kitchen"}); d.Name != "Kitchen" {
			t.Errorf("%+v", d)
		}
		refused(t, bob, "PATCH", "/v1/me/devices/"+second.DeviceID, api.DeviceChange{Name: "Mine"}, 404, "not-found")
		refused(t, bob, "DELETE", "/v1/me/devices/"+second.DeviceID, nil, 404, "not-found")
		do(t, ada, "DELETE", "/v1/me/devices/"+second.DeviceID, nil)
		refused(t, s.client(second.AccessToken), "GET", "/v1/me", nil, 401, "unauthenticated")

		third := call[api.Session](t, anybody, "POST", "/v1/sessions", api.NewSession{Email: "ada@example.org", Password: "correct horse"})
		refused(t, ada, "PUT", "/v1/me/password", api.NewPassword{OldPassword: "wrong", NewPassword: "another horse"}, 403, "forbidden")
		do(t, ada, "PUT", "/v1/me/password", api.NewPassword{OldPassword: "correct horse", NewPassword: "another horse"})
		refused(t, s.client(third.AccessToken), "GET", "/v1/me", nil, 401, "unauthenticated")
		do(t, ada, "GET", "/v1/me", nil)
		do(t, ada, "DELETE", "/v1/sessions", nil)
		refused(t, ada, "GET", "/v1/me", nil, 401, "unauthenticated")
		refused(t, anybody, "POST", "/v1/sessions/refresh", api.Refresh{RefreshToken: sess.RefreshToken}, 401, "unauthenticated")
		signedIn := s.asked("POST", "/v1/sessions", "", `{"email":"ada@example.org","password":"another horse"}`)
		if signedIn.StatusCode != 201 || signedIn.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s, Cache-Control %q", signedIn.Status, signedIn.Header.Get("Cache-Control"))
		}

		// Guessing.
		var resp *http.Response
		for range 6 {
			resp = s.asked("POST", "/v1/sessions", "", `{"email":"victim@example.org","password":"a guess"}`)
		}
		if resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "1" || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s, Retry-After %q, %s", resp.Status, resp.Header.Get("Retry-After"), resp.Header.Get("Content-Type"))
		}

		// Plans and families.
		user := "/v1/admin/users/" + bobs.User.ID
		refused(t, bob, "PATCH", user, api.AdminUserChange{Plan: new(api.PlanPremium)}, 401, "unauthenticated")
		refused(t, bob, "POST", "/v1/me/family/invites", nil, 403, "forbidden")
		refused(t, s.admin, "PATCH", user, api.AdminUserChange{Plan: new(api.Plan("gold"))}, 422, "validation")
		if u := call[api.AdminUser](t, s.admin, "PATCH", user, api.AdminUserChange{Plan: new(api.PlanFamily), PlanExpiresAt: new(time.Now().Add(time.Hour))}); u.OwnPlan != api.PlanFamily || u.PlanExpiresAt == nil || u.SignedInAt == nil {
			t.Errorf("%+v", u)
		}
		invite := call[api.FamilyInvite](t, bob, "POST", "/v1/me/family/invites", nil)
		eve, eves := s.signIn("eve@example.org")
		refused(t, eve, "POST", "/v1/me/family", api.JoinFamily{Code: "sgf_guess"}, 404, "not-found")
		if f := call[api.Family](t, eve, "POST", "/v1/me/family", api.JoinFamily{Code: invite.Code}); !f.Active || len(f.Members) != 2 || f.Members[1].ID != eves.User.ID {
			t.Errorf("%+v", f)
		}
		if u := call[api.User](t, eve, "GET", "/v1/me", nil); u.Plan != api.PlanFamily {
			t.Errorf("%+v", u)
		}
		refused(t, eve, "DELETE", "/v1/me/family/members/"+bobs.User.ID, nil, 404, "not-found")
		do(t, bob, "DELETE", "/v1/me/family/members/"+eves.User.ID, nil)
		refused(t, eve, "GET", "/v1/me/family", nil, 404, "not-found")
		do(t, bob, "DELETE", "/v1/me/family/invites", nil)
		do(t, bob, "DELETE", "/v1/me/family", nil)

		// Operators.
		if page := call[api.Page[api.AdminUser]](t, s.admin, "GET", "/v1/admin/users?email=B&limit=1", nil); len(page.Items) != 1 || page.Items[0].Email != "bob@example.org" || page.Next != "" {
			t.Errorf("%+v", page)
		}
		do(t, s.admin, "PATCH", "/v1/admin/users/"+eves.User.ID, api.AdminUserChange{Suspended: new(true)})
		refused(t, eve, "GET", "/v1/me", nil, 401, "unauthenticated")
		refused(t, anybody, "POST", "/v1/sessions", api.NewSession{Email: "eve@example.org", Password: "correct horse"}, 403, "account-suspended")
		do(t, s.admin, "DELETE", "/v1/admin/users/"+eves.User.ID, nil)
		refused(t, s.admin, "GET", "/v1/admin/users/"+eves.User.ID, nil, 404, "not-found")

		tok := call[api.AdminToken](t, s.admin, "POST", "/v1/admin/tokens", api.NewAdminToken{Name: "support", Scopes: []string{"users"}})
		support := s.client(tok.Token)
		do(t, support, "GET", "/v1/admin/users", nil)
		refused(t, support, "GET", "/v1/admin/edges", nil, 403, "forbidden")
		refused(t, support, "POST", "/v1/admin/tokens", api.NewAdminToken{Name: "more", Scopes: []string{"admin"}}, 403, "forbidden")
		refused(t, s.admin, "POST", "/v1/admin/tokens", api.NewAdminToken{Name: "x", Scopes: []string{"root"}}, 400, "invalid-request")
		tokens := call[api.Page[api.AdminToken]](t, s.admin, "GET", "/v1/admin/tokens", nil).Items
		if len(tokens) != 2 || tokens[0].Token != "" {
			t.Errorf("%+v", tokens)
		}
		refused(t, s.admin, "DELETE", "/v1/admin/tokens/"+tokens[0].ID, nil, 409, "last-admin-token")
		do(t, s.admin, "DELETE", "/v1/admin/tokens/"+tok.ID, nil)
		refused(t, support, "GET", "/v1/admin/users", nil, 401, "unauthenticated")

		for _, purpose := range []string{"access", "tokens"} {
			path := "/v1/admin/keys/" + purpose
			if k := call[api.SigningKey](t, s.admin, "POST", path, nil); k.Signs || k.Purpose != purpose {
				t.Errorf("%+v", k)
			}
			list := call[api.Page[api.SigningKey]](t, s.admin, "GET", path, nil).Items
			if len(list) != 2 || list[0].Signs || !list[1].Signs {
				t.Fatalf("%+v", list)
			}
			do(t, bob, "GET", "/v1/me", nil)
			do(t, s.admin, "DELETE", path+"/"+list[1].ID, nil)
			refused(t, s.admin, "DELETE", path+"/"+list[1].ID, nil, 404, "not-found")
			if purpose == "tokens" {
				continue // of media: sessions do not depend on them
			}
			refused(t, bob, "GET", "/v1/me", nil, 401, "unauthenticated")
			bobs = call[api.Session](t, anybody, "POST", "/v1/sessions", api.NewSession{Email: "bob@example.org", Password: "correct horse"})
			bob = s.client(bobs.AccessToken)
		}
		refused(t, s.admin, "GET", "/v1/admin/keys/none", nil, 422, "validation")

		// Everything, and then nothing.
		export := s.asked("GET", "/v1/me/export", bobs.AccessToken, "")
		b, _ := io.ReadAll(export.Body)
		if export.StatusCode != 200 || !strings.HasPrefix(export.Header.Get("Content-Disposition"), "attachment") || !strings.Contains(string(b), bobs.DeviceID) || strings.Contains(string(b), "null") {
			t.Errorf("%s %v %s", export.Status, export.Header, b)
		}
		refused(t, bob, "DELETE", "/v1/me", api.Goodbye{Password: "wrong"}, 403, "forbidden")
		do(t, bob, "DELETE", "/v1/me", api.Goodbye{Password: "correct horse"})
		refused(t, bob, "GET", "/v1/me", nil, 401, "unauthenticated")
		refused(t, anybody, "POST", "/v1/sessions", api.NewSession{Email: "bob@example.org", Password: "correct horse"}, 401, "unauthenticated")

		if i := call[api.OIDCInfo](t, anybody, "GET", "/v1/sessions/oidc", nil); i.Enabled {
			t.Errorf("%+v", i)
		}
		refused(t, anybody, "GET", "/v1/sessions/oidc/start?challenge="+strings.Repeat("A", 43), nil, 404, "not-found")
		refused(t, anybody, "POST", "/v1/sessions/oidc", api.OIDCSession{Code: "sgo_x", Verifier: "x"}, 401, "unauthenticated")
	})
}

// someone is the one account at the provider.
type someone struct{ storage.User }

func (s *someone) GetUserByID(string) *storage.User       { return &s.User }
func (s *someone) GetUserByUsername(string) *storage.User { return &s.User }
func (s *someone) ExampleClientID() string                { return "service" }

// TestOIDCInABrowser goes through every redirect between player, control plane and a real provider.
func TestOIDCInABrowser(t *testing.T) {
	listen := testenv.Addr(t)
	base := "http://" + listen
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	issuer, old := "http://"+ln.Addr().String(), slog.Default()
	clients := map[string]*storage.Client{"segue": storage.WebClient("segue", "s", base+identity.CallbackPath)}
	provider := &httptest.Server{Listener: ln, Config: &http.Server{Handler: exampleop.SetupServer(issuer, storage.NewStorageWithClients(&someone{storage.User{ID: "1", Username: "ada", Password: "there",
		FirstName: "Ada", Email: "ada@example.org", EmailVerified: true}}, clients), slog.New(slog.DiscardHandler), false, op.WithAllowInsecure())}}
	slog.SetDefault(old)
	provider.Start()
	defer provider.Close()

	cp, err := controlplane.Open(t.Context(), controlplane.Config{Listen: listen, Database: "sqlite:" + t.TempDir() + "/segue.db", Data: t.TempDir(), PlaysKey: bytes.Repeat([]byte{1}, 32), PerSecond: -1,
		Identity: identity.Config{OIDC: identity.OIDC{Issuer: issuer, ClientID: "segue", ClientSecret: "s", RedirectBase: base}}}, &memstore.Store{}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done, up := make(chan error, 1), make(chan struct{})
	go func() { done <- cp.Run(ctx, func() { close(up) }) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	<-up

	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	var last *http.Request // that was sent or, when it is the player's page, was about to be
	browser := &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		last = r
		if r.URL.Path == "/" {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	visit := func(resp *http.Response, err error) (page []byte) {
		t.Helper()
		if err == nil {
			page, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		return page
	}
	verifier := rand.Text()
	sum := sha256.Sum256([]byte(verifier))
	page := visit(browser.Get(base + "/v1/sessions/oidc/start?challenge=" + base64.RawURLEncoding.EncodeToString(sum[:])))
	m := regexp.MustCompile(`name="id" value="([^"]+)"`).FindSubmatch(page)
	if m == nil {
		t.Fatalf("no login form: %s", page)
	}
	visit(browser.PostForm(issuer+"/login/username", url.Values{"id": {string(m[1])}, "username": {"ada"}, "password": {"there"}}))
	code, ok := strings.CutPrefix(last.URL.Fragment, "oidc=")
	if !ok || last.URL.Host != listen || last.URL.RawQuery != "" {
		t.Fatalf("back at %s", last.URL)
	}
	c, err := api.NewClient(base, nil)
	if err != nil {
		t.Fatal(err)
	}
	in := api.OIDCSession{Code: code, Verifier: verifier, Device: api.Device{Type: "web", Name: "Browser"}}
	if s := call[api.Session](t, c, "POST", "/v1/sessions/oidc", in); s.User.Email != "ada@example.org" || s.DeviceID == "" {
		t.Errorf("%+v", s)
	}
	refused(t, c, "POST", "/v1/sessions/oidc", in, 401, "unauthenticated") // once
	for query, want := range map[string]string{"?state=x&code=y": "oidc_error=expired", "?error=access_denied&state=x": "oidc_error=access_denied", "?error=%0d%0aSet-Cookie:x": "oidc_error=failed", "": "oidc_error=expired"} {
		visit(browser.Get(base + identity.CallbackPath + query))
		if last.URL.Fragment != want {
			t.Errorf("%s: back at %s", query, last.URL)
		}
	}
	refused(t, c, "GET", "/v1/sessions/oidc/start?challenge=short", nil, 400, "invalid-request")
	refused(t, c, "GET", "/v1/sessions/oidc/start", nil, 422, "validation")
}
