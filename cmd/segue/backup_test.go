package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/catalog/sample"
	"segue/internal/platform"
	"segue/internal/serve"
	"segue/internal/testenv"

	"github.com/oklog/ulid/v2"
)

// upped is a `segue up` that runs.
type upped struct {
	cmd   *exec.Cmd
	creds platform.Credentials
}

// up starts a platform on a data folder and waits until it is ready.
func up(t *testing.T, data string, args ...string) *upped {
	t.Helper()
	args = append([]string{"up", "--data", data, "--listen", testenv.Addr(t), "--edge-listen", testenv.Addr(t), "--edges", "1", "--debug-listen", "",
		"--clickhouse-http", testenv.Addr(t), "--clickhouse-native", testenv.Addr(t), "--clickhouse-library", testenv.Library(t)}, args...)
	u := &upped{cmd: exec.Command(testenv.Program(t, "segue"), args...)}
	var stderr bytes.Buffer
	u.cmd.Stderr = &stderr
	out, err := u.cmd.StdoutPipe()
	if err == nil {
		err = u.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = u.cmd.Process.Kill() })
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "ready after ") {
			go io.Copy(io.Discard, out)
			b, err := os.ReadFile(filepath.Join(data, "credentials.json"))
			if err == nil {
				err = json.Unmarshal(b, &u.creds)
			}
			if err != nil {
				t.Fatal(err)
			}
			return u
		}
	}
	t.Fatalf("it did not start: %v %s", u.cmd.Wait(), stderr.String())
	return nil
}

func (u *upped) client(t *testing.T, token string) *api.Client {
	t.Helper()
	c, err := api.NewClient(strings.TrimSuffix(u.creds.PlayerURL, "/"), func() (string, error) { return token, nil })
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (u *upped) kill() {
	_ = u.cmd.Process.Kill()
	_ = u.cmd.Wait()
}

func get[T any](t *testing.T, c *api.Client, path string) (out T) {
	t.Helper()
	if err := c.Call(t.Context(), http.MethodGet, path, nil, &out); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return out
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not in time: " + what)
		}
	}
}

// TestBackupAndRestore keeps a platform that is written to meanwhile, kills it, and goes on in another folder.
func TestBackupAndRestore(t *testing.T) {
	testenv.Tool(t, "ffmpeg")
	music, work := t.TempDir(), t.TempDir()
	song, err := os.ReadFile(filepath.Join(testenv.Music(t), "victory.ogg"))
	if err == nil {
		err = os.WriteFile(filepath.Join(music, "victory.ogg"), song, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	first := up(t, filepath.Join(work, "one"), "--music", music)
	admin := first.client(t, first.creds.AdminToken)
	var lines bytes.Buffer
	for l := range sample.Lines(1, 300) {
		if err := json.NewEncoder(&lines).Encode(l); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := admin.Import(t.Context(), 1, &lines); err != nil || r.Failed > 0 {
		t.Fatal(r, err)
	}
	person := api.NewSession{Email: first.creds.Listener.Email, Password: first.creds.Listener.Password, Device: api.Device{Type: "web", Name: "Browser"}}
	sess, err := first.client(t, "").SignIn(t.Context(), person)
	if err != nil {
		t.Fatal(err)
	}
	user := first.client(t, sess.AccessToken)
	tracks := get[api.Page[api.Track]](t, user, "/v1/tracks?limit=100").Items
	list := func(name string) api.Playlist {
		t.Helper()
		var p api.Playlist
		if err := user.Call(t.Context(), http.MethodPost, "/v1/playlists", api.NewPlaylist{Name: name}, &p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	add := func(id string, of ...api.Track) error {
		var in api.AddItems
		for _, k := range of {
			in.Items = append(in.Items, api.NewItem{TrackID: k.ID})
		}
		return user.Call(context.WithoutCancel(t.Context()), http.MethodPost, "/v1/playlists/"+id+"/items", in, nil)
	}
	still, busy := list("ruhig 🌊"), list("busy")
	if err := add(still.ID, tracks[:50]...); err != nil {
		t.Fatal(err)
	}
	var played api.Track
	eventually(t, "the song is there", func() bool {
		for _, k := range get[api.SearchResult](t, user, "/v1/search?q=victory&type=track").Tracks {
			if len(k.Renditions) > 0 {
				played = k
			}
		}
		return played.ID != ""
	})
	var play api.Playback
	eventually(t, "the edge is there", func() bool {
		return user.Call(t.Context(), http.MethodPost, "/v1/playback", api.NewPlayback{TrackID: played.ID}, &play) == nil
	})

	// Somebody writes all the time. What was acknowledged before the backup began is in it.
	var mu sync.Mutex
	var events []string
	items := 0
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			e := api.Event{ID: ulid.Make().String(), PlayID: play.PlayID, Type: api.EventProgress, At: time.Now(), PositionMS: int64(i), PlayedMS: int64(i)}
			if err := user.Call(context.WithoutCancel(t.Context()), http.MethodPost, "/v1/events", []api.Event{e}, nil); err != nil {
				t.Errorf("an event: %v", err)
				return
			}
			err := add(busy.ID, tracks[i%len(tracks)])
			if err != nil {
				t.Errorf("an item: %v", err)
				return
			}
			mu.Lock()
			events = append(events, e.ID)
			items++
			mu.Unlock()
		}
	})
	eventually(t, "some are written", func() bool { mu.Lock(); defer mu.Unlock(); return items > 20 })
	file := filepath.Join(work, "backup.tar.zst")
	mu.Lock()
	sure, sureItems := len(events), items
	mu.Unlock()
	does := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(testenv.Program(t, "segue"), append([]string{"admin"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
		return string(out)
	}
	does("backup", "--data", filepath.Join(work, "one"), "--out", file, "--with-media")
	close(stop)
	writer.Wait()
	stillItems := get[api.Page[api.PlaylistItem]](t, user, "/v1/playlists/"+still.ID+"/items?limit=500")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(work, "one", "backup-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	first.kill()

	refusals(t, work, file)
	two := filepath.Join(work, "two")
	if out := does("restore", file, "--data", two); !strings.Contains(out, "play events") {
		t.Error(out)
	}
	second := up(t, two)
	again := second.client(t, sess.AccessToken) // a token from before
	if me := get[api.User](t, again, "/v1/me"); me.ID != sess.User.ID {
		t.Errorf("%+v", me)
	}
	if got, err := second.client(t, "").SignIn(t.Context(), person); err != nil || got.User.ID != sess.User.ID {
		t.Errorf("sign in: %+v %v", got, err)
	}
	if got, err := second.client(t, "").Refresh(t.Context(), api.Refresh{RefreshToken: sess.RefreshToken}); err != nil || got.User.ID != sess.User.ID {
		t.Errorf("refresh: %+v %v", got, err)
	}
	same(t, "the quiet playlist", get[api.Page[api.PlaylistItem]](t, again, "/v1/playlists/"+still.ID+"/items?limit=500"), stillItems)
	if p := get[api.Playlist](t, again, "/v1/playlists/"+busy.ID); p.TrackCount < sureItems {
		t.Errorf("%d items of %d", p.TrackCount, sureItems)
	}
	eventually(t, "search", func() bool {
		return len(get[api.SearchResult](t, again, "/v1/search?type=track&q="+url.QueryEscape(tracks[0].Title)).Tracks) > 0
	})
	for _, what := range []string{play.FileURL, ""} { // a token from before, and a new one, at the edge of before
		if what == "" {
			eventually(t, "the edge is back", func() bool {
				return again.Call(t.Context(), http.MethodPost, "/v1/playback", api.NewPlayback{TrackID: played.ID}, &play) == nil
			})
			what = play.FileURL
		}
		u, err := url.Parse(what)
		if err != nil {
			t.Fatal(err)
		}
		u.Host = strings.TrimPrefix(second.creds.Edges[0].URL, "http://")
		eventually(t, "media are served", func() bool {
			resp, err := http.Get(u.String())
			if err != nil {
				return false
			}
			resp.Body.Close()
			return resp.StatusCode == http.StatusOK
		})
	}
	// Events of before are counted once in a ClickHouse that is new, and others follow.
	e := api.Event{ID: ulid.Make().String(), PlayID: play.PlayID, Type: api.EventProgress, At: time.Now()}
	if err := again.Call(t.Context(), http.MethodPost, "/v1/events", []api.Event{e}, nil); err != nil {
		t.Error(err)
	}
	want := append(events[:sure:sure], e.ID)
	count := func(q string) int {
		out, _ := exec.Command(testenv.Program(t, "segue"), "admin", "sql", "--data", two, "--format", "TSV", q).Output()
		n, _ := strconv.Atoi(strings.TrimSpace(string(out)))
		return n
	}
	eventually(t, "events in ClickHouse", func() bool {
		return count(`SELECT count() FROM play_events FINAL WHERE event_id IN ('`+strings.Join(want, "','")+`')`) == len(want)
	})
	_ = second.cmd.Process.Signal(os.Interrupt)
	_ = second.cmd.Wait()

	// Nothing runs: the files are kept as they are, without media this time.
	cold := filepath.Join(work, "cold.tar.zst")
	does("backup", "--data", two, "--out", cold)
	if a, b := size(t, file), size(t, cold); a < b+int64(len(song))/2 {
		t.Errorf("with media %d bytes, without %d", a, b)
	}
	three := filepath.Join(work, "three")
	if out := does("restore", cold, "--data", three); !strings.Contains(out, "media objects are not in the backup") {
		t.Error(out)
	}
	if _, err := os.Stat(filepath.Join(three, "segue.db")); err != nil {
		t.Error(err)
	}
}

// refusals: what is no backup, or not a whole one, is one clear line and status 2, and nothing is left.
func refusals(t *testing.T, work, file string) {
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	f := func(why, says string, content []byte) {
		t.Helper()
		bad, to := filepath.Join(work, "bad"), filepath.Join(work, "bad-data")
		if err := os.WriteFile(bad, content, 0o600); err != nil {
			t.Fatal(err)
		}
		err := run(t.Context(), []string{"admin", "restore", bad, "--data", to}, io.Discard, io.Discard)
		if serve.ExitCode(err) != 2 || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", why, err)
		}
		if left, _ := filepath.Glob(to + "*"); len(left) > 0 {
			t.Errorf("%s: left behind: %v", why, left)
		}
	}
	f("empty", "not a backup", nil)
	f("text", "not a backup", []byte("hello"))
	for _, n := range []int{10, 1000, len(good) / 3, len(good) / 2, len(good) - 1000, len(good) - 1} {
		says := "torn"
		if n <= 1000 {
			says = "backup"
		}
		f(fmt.Sprintf("cut to %d bytes", n), says, good[:n])
	}
	for _, at := range []int{len(good) / 4, len(good) / 2, len(good) * 3 / 4} {
		b := bytes.Clone(good)
		b[at] ^= 0x40
		f("a flipped bit", "torn", b)
	}
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "mine"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	g := func(says string, args ...string) {
		t.Helper()
		if err := run(t.Context(), append([]string{"admin"}, args...), io.Discard, io.Discard); serve.ExitCode(err) != 2 || !strings.Contains(err.Error(), says) {
			t.Errorf("%v: %v", args, err)
		}
	}
	g("not empty", "restore", file, "--data", full)
	g("no such file", "restore", filepath.Join(work, "none"), "--data", filepath.Join(work, "bad-data"))
	g("there already", "backup", "--data", filepath.Join(work, "one"), "--out", file)
	g("not the data folder", "backup", "--data", full, "--out", filepath.Join(work, "x"))
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	a, err := json.Marshal(got)
	b, err2 := json.Marshal(want)
	if err != nil || err2 != nil || string(a) != string(b) {
		t.Errorf("%s: %s, want %s", what, a, b)
	}
}
