package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"segue/controlplane"
	"segue/controlplane/api"
	"segue/controlplane/catalog/sample"
	"segue/internal/serve"
	"segue/internal/testenv"
	"segue/origin/memstore"

	"github.com/prometheus/client_golang/prometheus"
)

// TestReindexVerifyRevoke is an operator at a control plane that runs.
func TestReindexVerifyRevoke(t *testing.T) {
	const secret = "sga_secret-of-the-operator"
	cp, err := controlplane.Open(t.Context(), controlplane.Config{Listen: testenv.Addr(t), Database: "sqlite:" + t.TempDir() + "/segue.db", Data: t.TempDir(), PlaysKey: bytes.Repeat([]byte{1}, 32), AdminToken: secret, PerSecond: -1},
		&memstore.Store{}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
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
	select {
	case <-up:
	case err := <-done:
		t.Fatal(err)
	}
	srv := httptest.NewServer(cp.Handler())
	defer srv.Close()
	admin, err := api.NewClient(srv.URL, func() (string, error) { return secret, nil })
	if err != nil {
		t.Fatal(err)
	}
	var lines bytes.Buffer
	for l := range sample.Lines(1, 200) {
		if err := json.NewEncoder(&lines).Encode(l); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := admin.Import(t.Context(), 1, &lines); err != nil || r.Failed > 0 {
		t.Fatal(r, err)
	}
	user, err := admin.SignUp(t.Context(), api.NewUser{Email: "ada@example.org", Password: "correct horse"})
	if err != nil {
		t.Fatal(err)
	}
	does := func(command string, want ...string) {
		t.Helper()
		var out, stderr bytes.Buffer
		err := run(t.Context(), append(strings.Fields("admin "+command), "--server", srv.URL, "--token", secret), &out, &stderr)
		text := out.String() + stderr.String()
		if err != nil {
			t.Errorf("%s: %v", command, err)
		}
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%s: no %q in:\n%s", command, w, text)
			}
		}
	}
	refuses := func(token, command, says string, code int) {
		t.Helper()
		err := run(t.Context(), append(strings.Fields("admin "+command), "--server", srv.URL, "--token", token), io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), says) || serve.ExitCode(err) != code {
			t.Errorf("%s: %v", command, err)
		}
	}
	eventually(t, "the index has followed the import", func() bool {
		x := get[api.SearchIndex](t, admin, "/v1/admin/search")
		return x.State == "ready" && x.Documents["track"] == 200
	})
	does("verify", "track", "200", "missing 0, extra 0, stale 0, mended 0")
	does("reindex", "search index of replica one: ")
	does("verify --mend", "missing 0, extra 0, stale 0, mended 0")
	refuses("sga_of-somebody-who-is-none", "verify", "401", 1)
	refuses("sga_of-somebody-who-is-none", "reindex", "401", 1)

	does("revoke --user "+user.ID, "nothing of it is in force")
	does("revoke --cti 01ARZ3NDEKTSV4RRFFQ69G5FAV --reason lost", "01ARZ3NDEKTSV4RRFFQ69G5FAV")
	refuses(secret, "revoke --user nobody", "nobody", 1)
	refuses(secret, "revoke --play 01ARZ3NDEKTSV4RRFFQ69G5FAV", "01ARZ3NDEKTSV4RRFFQ69G5FAV", 1)
	refuses(secret, "revoke", "--play", 2)
	refuses(secret, "revoke --play a --cti b", "--cti", 2)
	refuses("sga_of-somebody-who-is-none", "revoke --cti x", "401", 1)
}
