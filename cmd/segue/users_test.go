package main

import (
	"bytes"
	"io"
	"log/slog"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"segue/controlplane"
	"segue/controlplane/api"
	"segue/internal/serve"
	"segue/origin/memstore"

	"github.com/prometheus/client_golang/prometheus"
)

// TestAdminTokensAndUsers is an operator's afternoon.
func TestAdminTokensAndUsers(t *testing.T) {
	const secret = "sga_secret-of-the-operator"
	cp, err := controlplane.Open(t.Context(), controlplane.Config{Database: "sqlite:" + t.TempDir() + "/segue.db", Data: t.TempDir(), PlaysKey: bytes.Repeat([]byte{1}, 32), AdminToken: secret, PerSecond: -1},
		&memstore.Store{}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	defer cp.Close()
	srv := httptest.NewServer(cp.Handler())
	defer srv.Close()
	for _, email := range []string{"ada@example.org", "ada@example.org.uk", "bob@example.org"} {
		if err := cp.PutUser(t.Context(), api.NewUser{Email: email, Password: "correct horse"}, api.PlanFree); err != nil {
			t.Fatal(err)
		}
	}
	as := func(token, command string) (string, error) {
		var out bytes.Buffer
		err := run(t.Context(), append(strings.Fields("admin "+command), "--server", srv.URL, "--token", token), &out, io.Discard)
		return out.String(), err
	}
	does := func(command string, want ...string) string {
		t.Helper()
		out, err := as(secret, command)
		if err != nil {
			t.Errorf("%s: %v", command, err)
		}
		for _, w := range want {
			if !regexp.MustCompile(w).MatchString(out) {
				t.Errorf("%s: no %s in:\n%s", command, w, out)
			}
		}
		return out
	}
	refuses := func(token, command, says string, code int) {
		t.Helper()
		if out, err := as(token, command); err == nil || !strings.Contains(err.Error(), says) || serve.ExitCode(err) != code {
			t.Errorf("%s: %v, %s", command, err, out)
		}
	}
	support := strings.TrimSpace(does("token create support --scope users,stats --for 24h", "^sga_[A-Z2-7]{26}\n$"))
	list := does("token list", `operator +admin .* -`, `support +stats,users .*Z`)
	if strings.Contains(list, support) {
		t.Errorf("a secret is listed: %s", list)
	}
	refuses(support, "token list", "scope", 1)
	refuses(secret, "token create x --scope root", "want one or more of", 1)
	refuses(secret, "token delete "+strings.Fields(strings.Split(list, "\n")[1])[0], "last", 1)

	if out, err := as(support, "users set-plan ADA@example.org premium --until 2099-01-31"); err != nil || !regexp.MustCompile(`ada@example.org: premium, ends 2099-02-01T00:00Z`).MatchString(out) {
		t.Errorf("%s %v", out, err)
	}
	if out := does("users list ada", `ada@example.org +ada +premium +2099-02-01T00:00Z`, `ada@example.org.uk +ada +free +-`); strings.Contains(out, "bob") {
		t.Error(out)
	}
	if out := does("users list --limit 1"); strings.Count(out, "@") != 1 {
		t.Error(out)
	}
	refuses(secret, "users set-plan nobody@example.org free", "no account", 2)
	refuses(secret, "users set-plan ada@example.org gold", "gold", 2)
	refuses(secret, "users set-plan ada@example.org premium --until tomorrow", "YYYY-MM-DD", 2)
	refuses(secret, "users set-plan ada@example.org premium --until 2020-01-01", "to come", 1)
	does("users suspend bob@example.org", "suspended")
	does("users list bob", "suspended")
	if out := does("users suspend bob@example.org --undo"); strings.Contains(out, "suspended") {
		t.Error(out)
	}
	refuses(secret, "users delete bob@example.org", "--yes", 2)
	does("users delete bob@example.org --yes")
	if out := does("users list"); strings.Contains(out, "bob") {
		t.Error(out)
	}
	does("token delete " + strings.Fields(strings.Split(list, "\n")[2])[0])
	refuses(support, "users list", "unknown", 1)
}
