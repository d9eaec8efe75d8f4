package controlplane_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"segue/controlplane/api"
	"segue/internal/testenv"
	"segue/media"
	"segue/origin/dirstore"
)

func artKey(i int) media.Key { return media.Key(fmt.Sprintf("art/A/v/%d.jpg", i)) }

// Three edges of one region, each a process, share what they have as their control plane tells them. One is killed: the
// others answer every request with the right bytes all the while, and it leaves the fleet within 3 s.
func TestKilledPeer(t *testing.T) {
	const objects = 60
	body := func(i int) []byte { return bytes.Repeat(fmt.Appendf(nil, "object %d;", i), 40_000) }
	folder := t.TempDir()
	store, err := dirstore.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 * objects {
		if _, err := store.Put(t.Context(), media.Object{Key: artKey(i), Size: int64(len(body(i))), ContentType: "image/jpeg"}, bytes.NewReader(body(i))); err != nil {
			t.Fatal(err)
		}
	}
	s := newServer(t, "sqlite:"+filepath.Join(t.TempDir(), "db"), "")
	ctx, client := t.Context(), s.admin
	var token api.JoinToken
	if err := client.Call(ctx, http.MethodPut, "/v1/admin/regions/eu", api.NewRegion{DisplayName: "EU"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := client.Call(ctx, http.MethodPost, "/v1/admin/join-tokens", api.NewJoinToken{Region: "eu", MaxUses: 3}, &token); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token.Token), 0o600); err != nil {
		t.Fatal(err)
	}
	var bases []string
	var edges []*exec.Cmd
	program := testenv.Program(t, "segue-edge")
	for i := range 3 {
		addr := testenv.Addr(t)
		cmd := exec.Command(program, "--listen", addr, "--origin", folder, "--memory", "64MiB", "--control", s.URL, "--name", fmt.Sprintf("e%d", i),
			"--join-token-file", file, "--state", filepath.Join(t.TempDir(), "state"), "--log-level", "error")
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill() // it may be dead
			_ = cmd.Wait()
		})
		bases, edges = append(bases, "http://"+addr), append(edges, cmd)
	}
	states := func() (out []string) {
		var page api.Page[api.Edge]
		if err := client.Call(ctx, http.MethodGet, "/v1/admin/edges", nil, &page); err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Items {
			out = append(out, e.State)
		}
		return out
	}
	until := func(what string, f func() bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); !f(); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: not within 30 s; edges are %v", what, states())
			}
		}
	}
	until("three edges", func() bool { return strings.Join(states(), " ") == "healthy healthy healthy" })
	read := func(base string, i int) (cacheStatus string) {
		resp, err := http.Get(base + "/" + string(artKey(i)))
		if err != nil {
			t.Errorf("object %d: %v", i, err)
			return ""
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK || !bytes.Equal(got, body(i)) {
			t.Errorf("object %d: %s, %d bytes, %v", i, resp.Status, len(got), err)
		}
		return resp.Header.Get("Cache-Status")
	}
	next := -1
	until("a reply that came from a peer", func() bool { // the list of peers comes with the next poll
		next++
		return strings.Contains(read(bases[next%3], next%objects), "detail=shield")
	})

	killed := time.Now()
	if err := edges[2].Process.Kill(); err != nil {
		t.Fatal(err)
	}
	gone := time.Duration(0)
	for i := range 4 * objects { // what it owned comes from the next of the ring, or from the origin
		read(bases[i%2], objects+i)
		if gone == 0 && strings.Join(states(), " ") == "healthy healthy dead" {
			gone = time.Since(killed)
		}
	}
	until("the killed one is dead", func() bool {
		if gone == 0 && strings.Join(states(), " ") == "healthy healthy dead" {
			gone = time.Since(killed)
		}
		return gone > 0
	})
	if gone > 3500*time.Millisecond { // half a second for looking
		t.Errorf("the killed edge was in the fleet for %s", gone)
	}
	t.Logf("dead after %s", gone)
}
