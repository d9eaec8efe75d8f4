package identity_test

import (
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
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"segue/controlplane/api"
	"segue/controlplane/identity"
	"segue/media"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// people are the accounts at the provider.
type people map[string]*storage.User

func (p people) GetUserByID(id string) *storage.User { return p[id] }
func (p people) GetUserByUsername(name string) *storage.User {
	for _, u := range p {
		if u.Username == name {
			return u
		}
	}
	return nil
}
func (p people) ExampleClientID() string { return "service" }

const redirectBase = "http://player.example"

// startProvider runs a certified implementation of a provider, with its own login page.
func startProvider(t *testing.T) (identity.OIDC, people) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := identity.OIDC{Issuer: "http://" + ln.Addr().String(), ClientID: "segue", ClientSecret: "client secret", RedirectBase: redirectBase + "/"}
	who := people{
		"id-ada":   {ID: "id-ada", Username: "ada", Password: "there", FirstName: "Ada", LastName: "Lovelace", Email: "Ada@example.org", EmailVerified: true},
		"id-eve":   {ID: "id-eve", Username: "eve", Password: "there", FirstName: "Eve", LastName: "Evil", Email: "ada@example.org", EmailVerified: false},
		"id-mute":  {ID: "id-mute", Username: "mute", Password: "there"},
		"id-clash": {ID: "id-clash", Username: "clash", Password: "there", FirstName: "Other", Email: "bob@example.org", EmailVerified: true},
	}
	clients := map[string]*storage.Client{"segue": storage.WebClient("segue", "client secret", redirectBase+identity.CallbackPath)}
	old := slog.Default()
	handler := exampleop.SetupServer(cfg.Issuer, storage.NewStorageWithClients(who, clients), slog.New(slog.DiscardHandler), false, op.WithAllowInsecure())
	t.Cleanup(func() { slog.SetDefault(old) })
	srv := &httptest.Server{Listener: ln, Config: &http.Server{Handler: handler}}
	srv.Start()
	t.Cleanup(srv.Close)
	return cfg, who
}

var hiddenID = regexp.MustCompile(`name="id" value="([^"]+)"`)

// browse is what a person does at the provider: from the first page to the callback that the browser is sent to.
func browse(t *testing.T, start, user string) url.Values {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	var callback *url.URL
	c := &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(r.URL.String(), redirectBase) {
			callback = r.URL
			return http.ErrUseLastResponse
		}
		return nil
	}}
	resp, err := c.Get(start)
	if err != nil {
		t.Fatal(err)
	}
	page, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	m := hiddenID.FindSubmatch(page)
	if err != nil || m == nil {
		t.Fatalf("no login form: %v %s", err, page)
	}
	form := *resp.Request.URL
	form.RawQuery = ""
	resp, err = c.PostForm(form.String(), url.Values{"id": {string(m[1])}, "username": {user}, "password": {"there"}})
	if err != nil {
		t.Fatal(err)
	}
	page, _ = io.ReadAll(resp.Body)
	resp.Body.Close()
	if callback == nil {
		t.Fatalf("the provider does not send back: %s %s", resp.Status, page)
	}
	if callback.Path != identity.CallbackPath {
		t.Fatalf("sent to %s", callback)
	}
	return callback.Query()
}

// player is the side of the flow that the web player plays.
type player struct{ verifier, challenge string }

func newPlayer() player {
	v := rand.Text()
	sum := sha256.Sum256([]byte(v))
	return player{v, base64.RawURLEncoding.EncodeToString(sum[:])}
}

// code goes the whole way to the code that comes back to the player.
func (p player) code(t *testing.T, s *identity.Service, user string) string {
	t.Helper()
	start, err := s.StartOIDC(t.Context(), p.challenge)
	if err != nil {
		t.Fatal(err)
	}
	back := browse(t, start, user)
	code, err := s.FinishOIDC(t.Context(), back.Get("state"), back.Get("code"))
	if err != nil {
		t.Fatal(err)
	}
	return code
}

func testOIDC(t *testing.T, w *world) {
	_, err := w.StartOIDC(t.Context(), newPlayer().challenge)
	is(t, "without a provider", err, media.ErrNotFound)
	cfg, who := startProvider(t)
	s := w.replica(identity.Config{OIDC: cfg})
	other := w.replica(identity.Config{OIDC: cfg}) // the way may cross replicas
	if i := s.OIDCInfo(); !i.Enabled || i.Issuer != cfg.Issuer || w.OIDCInfo().Enabled {
		t.Errorf("%+v", i)
	}
	signIn := func(user, device string) (api.Session, error) {
		p := newPlayer()
		return other.SignInOIDC(context.Background(), api.OIDCSession{Code: p.code(t, s, user), Verifier: p.verifier, Device: api.Device{ID: device, Type: "web"}})
	}
	sess, err := signIn("ada", "")
	if err != nil || sess.User.Email != "Ada@example.org" || sess.User.DisplayName != "Ada Lovelace" || sess.User.Plan != api.PlanFree {
		t.Fatalf("%+v %v", sess, err)
	}
	p, err := s.Verify(sess.AccessToken)
	if err != nil || p.UserID != sess.User.ID {
		t.Errorf("%+v %v", p, err)
	}
	who["id-ada"].Email = "ada@elsewhere.example" // the account follows the subject, not the address
	again, err := signIn("ada", sess.DeviceID)
	if err != nil || again.User.ID != sess.User.ID || again.DeviceID != sess.DeviceID {
		t.Errorf("%+v %v", again, err)
	}
	if _, err := s.Refresh(t.Context(), again.RefreshToken); err != nil {
		t.Error(err)
	}
	// An address that the provider did not verify opens no account of that address.
	eve, err := signIn("eve", "")
	if err != nil || eve.User.ID == sess.User.ID || eve.User.Email != "" || eve.User.DisplayName != "Eve Evil" {
		t.Errorf("%+v %v", eve, err)
	}
	mute, err := signIn("mute", "")
	if err != nil || mute.User.Email != "" || mute.User.DisplayName == "" {
		t.Errorf("%+v %v", mute, err)
	}
	// A password account with the address is not taken over; its owner links.
	bob := w.signUp("bob")
	_, err = signIn("clash", "")
	is(t, "an address with an account", err, identity.ErrTaken)
	pl := newPlayer()
	if _, err := s.LinkOIDC(t.Context(), bob.ID, api.OIDCLink{Code: pl.code(t, s, "clash"), Verifier: pl.verifier}); err != nil {
		t.Error(err)
	}
	linked, err := signIn("clash", "")
	if err != nil || linked.User.ID != bob.ID {
		t.Errorf("%+v %v", linked, err)
	}
	pl = newPlayer()
	_, err = s.LinkOIDC(t.Context(), bob.ID, api.OIDCLink{Code: pl.code(t, s, "ada"), Verifier: pl.verifier})
	is(t, "link another's", err, identity.ErrOtherLink)
	_, err = s.LinkOIDC(t.Context(), bob.ID, api.OIDCLink{Code: "sgo_x", Verifier: pl.verifier})
	is(t, "link nothing", err, media.ErrDenied)

	// An account without a password: what needs one needs a recent sign-in.
	_, err = w.SignIn(t.Context(), api.NewSession{Email: "Ada@example.org", Password: ""}, netip.Addr{})
	is(t, "no password", err, media.ErrNoAccess)
	p, err = s.Verify(again.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	w.exec(`UPDATE sessions SET created_at = created_at - 660000000`)
	is(t, "delete after a while", s.Delete(t.Context(), p, ""), media.ErrDenied)
	again, err = signIn("ada", "")
	if err != nil {
		t.Fatal(err)
	}
	if p, err = s.Verify(again.AccessToken); err != nil {
		t.Fatal(err)
	}
	is(t, "set a password", s.ChangePassword(t.Context(), p, api.NewPassword{NewPassword: password}), nil)
	is(t, "delete with none now", s.Delete(t.Context(), p, ""), media.ErrDenied)
	_, err = w.SignIn(t.Context(), api.NewSession{Email: "ada@example.org", Password: password}, netip.Addr{})
	is(t, "the password", err, nil)
	is(t, "delete", s.Delete(t.Context(), p, password), nil)
	if anew, err := signIn("ada", ""); err != nil || anew.User.ID == sess.User.ID {
		t.Errorf("%+v %v", anew, err)
	}
	// A suspended one stays out.
	if _, err := w.AdminChange(t.Context(), bob.ID, api.AdminUserChange{Suspended: new(true)}); err != nil {
		t.Fatal(err)
	}
	_, err = signIn("clash", "")
	is(t, "suspended", err, identity.ErrSuspended)
}

func testOIDCAttacks(t *testing.T, w *world) {
	cfg, _ := startProvider(t)
	s := w.replica(identity.Config{OIDC: cfg})
	pl := newPlayer()
	for _, challenge := range []string{"", "x", pl.verifier, pl.challenge + "=", strings.Repeat("A", 44)} {
		_, err := s.StartOIDC(t.Context(), challenge)
		is(t, "challenge "+challenge, err, media.ErrInvalid)
	}
	start, err := s.StartOIDC(t.Context(), pl.challenge)
	if err != nil {
		t.Fatal(err)
	}
	if u, err := url.Parse(start); err != nil || u.Query().Get("code_challenge_method") != "S256" || u.Query().Get("nonce") == "" || u.Query().Get("state") == "" {
		t.Errorf("%s", start)
	}
	back := browse(t, start, "ada")
	_, err = s.FinishOIDC(t.Context(), "someothers", back.Get("code"))
	is(t, "a state of nobody", err, identity.ErrOldFlow)
	// Another's code with one's own state: the provider's PKCE refuses it.
	mine, err := s.StartOIDC(t.Context(), pl.challenge)
	if err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse(mine)
	_, err = s.FinishOIDC(t.Context(), u.Query().Get("state"), back.Get("code"))
	is(t, "another's code", err, media.ErrNoAccess)
	is(t, "and that flow is over", func() error {
		_, err := s.FinishOIDC(t.Context(), u.Query().Get("state"), back.Get("code"))
		return err
	}(), identity.ErrOldFlow)

	start, err = s.StartOIDC(t.Context(), pl.challenge)
	if err != nil {
		t.Fatal(err)
	}
	back = browse(t, start, "ada")
	code, err := s.FinishOIDC(t.Context(), back.Get("state"), back.Get("code"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.FinishOIDC(t.Context(), back.Get("state"), back.Get("code"))
	is(t, "the callback again", err, identity.ErrOldFlow)
	_, err = s.SignInOIDC(t.Context(), api.OIDCSession{Code: code, Verifier: newPlayer().verifier})
	is(t, "a player that did not begin it", err, media.ErrNoAccess)
	_, err = s.SignInOIDC(t.Context(), api.OIDCSession{Code: code, Verifier: pl.verifier})
	is(t, "a code that was tried", err, media.ErrNoAccess)

	code = pl.code(t, s, "ada")
	w.exec(`UPDATE oidc_codes SET expires_at = 1`)
	_, err = s.SignInOIDC(t.Context(), api.OIDCSession{Code: code, Verifier: pl.verifier})
	is(t, "an old code", err, media.ErrNoAccess)
	start, err = s.StartOIDC(t.Context(), pl.challenge)
	if err != nil {
		t.Fatal(err)
	}
	back = browse(t, start, "ada")
	w.exec(`UPDATE oidc_flows SET nonce = 'another'`)
	_, err = s.FinishOIDC(t.Context(), back.Get("state"), back.Get("code"))
	is(t, "the answer to another question", err, media.ErrNoAccess)

	wrong := cfg
	wrong.ClientSecret = "not it"
	s2 := w.replica(identity.Config{OIDC: wrong})
	start, err = s2.StartOIDC(t.Context(), pl.challenge)
	if err != nil {
		t.Fatal(err)
	}
	back = browse(t, start, "ada")
	_, err = s2.FinishOIDC(t.Context(), back.Get("state"), back.Get("code"))
	is(t, "a wrong client secret", err, media.ErrNoAccess)
	wrong.Issuer = "http://127.0.0.1:1"
	_, err = w.replica(identity.Config{OIDC: wrong}).StartOIDC(t.Context(), pl.challenge)
	is(t, "a provider that is down", err, media.ErrBusy)
	if n := w.count(`SELECT COUNT(*) FROM users`); n != 0 {
		t.Errorf("%d accounts were made", n)
	}
	for why, c := range map[string]identity.OIDC{
		"no client":     {Issuer: "https://id.example", RedirectBase: "https://me.example"},
		"no base":       {Issuer: "https://id.example", ClientID: "x"},
		"a path":        {Issuer: "/id", ClientID: "x", RedirectBase: "https://me.example"},
		"another thing": {Issuer: "ftp://id.example", ClientID: "x", RedirectBase: "https://me.example"},
	} {
		is(t, why, c.Validate(), media.ErrInvalid)
	}
	is(t, "good", cfg.Validate(), nil)
	is(t, "none", identity.OIDC{}.Validate(), nil)
}
