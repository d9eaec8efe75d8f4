package controlplane_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"segue/controlplane"
	"segue/controlplane/api"
	"segue/controlplane/plays"
	"segue/internal/eventlog"
	"segue/internal/testenv"
	"segue/media"
	"segue/origin/memstore"

	"github.com/google/go-cmp/cmp"
	"github.com/oklog/ulid/v2"
)

// postgresTool is a program of the newest PostgreSQL that is installed.
func postgresTool(t *testing.T, name string) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if err != nil || len(found) == 0 {
		t.Fatalf("%s is not installed; `make deps` installs it", name)
	}
	return found[len(found)-1]
}

// TestPostgresBackup does what docs/operations.md says, with the real programs, while the platform is written to.
func TestPostgresBackup(t *testing.T) {
	database, dir, objects := testenv.Postgres(t), t.TempDir(), &memstore.Store{}
	nats := runNATS(t, -1, dir)
	at, stop := replica(t, controlplane.Config{Database: database, NATS: nats.ClientURL()}, objects)
	s := &server{Server: &httptest.Server{URL: at}, t: t, objects: objects}
	s.admin = s.client(adminToken)
	track := s.publish(media.Tags{Title: "Breaking the Chains", Artist: "B", AlbumArtist: "B", Album: "C"}, 100, "a")
	ada, session := s.signIn("ada@example.org")
	s.join("eu-1", "eu", "http://eu.example", 52, 5)
	play := call[api.Playback](t, ada, "POST", "/v1/playback", api.NewPlayback{TrackID: track.ID})
	list := call[api.Playlist](t, ada, "POST", "/v1/playlists", api.NewPlaylist{Name: "ruhig 🌊"})
	call[api.ItemsChanged](t, ada, "POST", "/v1/playlists/"+list.ID+"/items", api.AddItems{Items: []api.NewItem{{TrackID: track.ID}, {TrackID: track.ID}}})
	items := call[api.Page[api.PlaylistItem]](t, ada, "GET", "/v1/playlists/"+list.ID+"/items", nil)

	var mu sync.Mutex
	var sent []string
	quit := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for {
			select {
			case <-quit:
				return
			default:
			}
			e := api.Event{ID: ulid.Make().String(), PlayID: play.PlayID, Type: api.EventProgress, At: time.Now()}
			if err := ada.Call(context.WithoutCancel(t.Context()), "POST", "/v1/events", []api.Event{e}, nil); err != nil {
				t.Errorf("an event: %v", err)
				return
			}
			mu.Lock()
			sent = append(sent, e.ID)
			mu.Unlock()
		}
	})
	eventually(t, "some are written", func() bool { mu.Lock(); defer mu.Unlock(); return len(sent) > 20 })
	dump := filepath.Join(t.TempDir(), "segue.dump")
	program := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(postgresTool(t, name), args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
	}
	program("pg_dump", "--format=custom", "--file="+dump, database) // the database first
	close(quit)
	writer.Wait()
	stop()
	nats.Shutdown()
	nats.WaitForShutdown()
	kept := t.TempDir() // then the log, here by its files
	if err := os.CopyFS(kept, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}

	// Another place, where nothing is.
	fresh := testenv.Postgres(t)
	program("pg_restore", "--exit-on-error", "--no-owner", "--dbname="+fresh, dump)
	nats = runNATS(t, -1, kept)
	defer func() { nats.Shutdown(); nats.WaitForShutdown() }()
	at, _ = replica(t, controlplane.Config{Database: fresh, NATS: nats.ClientURL()}, objects)
	s = &server{Server: &httptest.Server{URL: at}, t: t, objects: objects}
	s.admin = s.client(adminToken)
	again := s.client(session.AccessToken)
	if me := call[api.User](t, again, "GET", "/v1/me", nil); me.ID != session.User.ID {
		t.Errorf("%+v", me)
	}
	call[api.Session](t, s.client(""), "POST", "/v1/sessions", api.NewSession{Email: "ada@example.org", Password: "correct horse", Device: api.Device{Type: "web", Name: "Browser"}})
	if d := cmp.Diff(call[api.Page[api.PlaylistItem]](t, again, "GET", "/v1/playlists/"+list.ID+"/items", nil), items); d != "" {
		t.Error(d)
	}
	eventually(t, "search is made anew", func() bool {
		return len(call[api.SearchResult](t, again, "GET", "/v1/search?q=chains", nil).Tracks) == 1
	})
	e := api.Event{ID: ulid.Make().String(), PlayID: play.PlayID, Type: api.EventProgress, At: time.Now()}
	call[api.EventsAccepted](t, again, "POST", "/v1/events", []api.Event{e})
	log, err := eventlog.Open(t.Context(), eventlog.Config{URL: nats.ClientURL()})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	times := map[string]int{}
	if err := log.Export(t.Context(), "plays", func(m eventlog.Message) error {
		events, err := plays.Decode(m.Body)
		for _, e := range events {
			times[e.ID]++
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, id := range append(sent, e.ID) {
		if times[id] != 1 {
			t.Errorf("event %s is %d times in the log", id, times[id])
		}
	}
}

// TestBackupCall: only for the operator, only of the embedded form, one at a time, and what is broken off does not look whole.
func TestBackupCall(t *testing.T) {
	s := newServer(t, "sqlite:"+t.TempDir()+"/segue.db", "")
	user, _ := s.signIn("ada@example.org")
	refused(t, user, "GET", "/v1/admin/backup", nil, 401, "unauthenticated")
	weak := call[api.AdminToken](t, s.admin, "POST", "/v1/admin/tokens", api.NewAdminToken{Name: "x", Scopes: []string{"fleet"}})
	refused(t, s.client(weak.Token), "GET", "/v1/admin/backup", nil, 403, "forbidden")
	body, err := s.admin.Stream(t.Context(), http.MethodGet, "/v1/admin/backup")
	if err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 512)
	if _, err := body.Read(head); err != nil || !strings.HasPrefix(string(head), controlplane.BackupDatabase) {
		t.Errorf("%q %v", head[:20], err)
	}
	body.Close()
	eventually(t, "one that was left lets another one begin", func() bool {
		b, err := s.admin.Stream(t.Context(), http.MethodGet, "/v1/admin/backup")
		if err == nil {
			b.Close()
		}
		return err == nil
	})
	pg := newServer(t, testenv.Postgres(t), "")
	refused(t, pg.admin, "GET", "/v1/admin/backup", nil, 409, "not-embedded")
}
