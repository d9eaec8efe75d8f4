package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"segue/internal/serve"
	"segue/internal/testenv"
)

// TestSetupErrors: what the operator can mend is one clear line and status 2, and nothing is left half-written.
func TestSetupErrors(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	music, noMusic := t.TempDir(), t.TempDir()
	for path, body := range map[string]string{filepath.Join(music, "a.flac"): "x", filepath.Join(noMusic, "readme.txt"): "x"} {
		if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	config := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(config, []byte("lisen: 127.0.0.1:1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	free := func() []string {
		return []string{"--listen", testenv.Addr(t), "--edge-listen", testenv.Addr(t), "--edges", "1", "--debug-listen", "", "--clickhouse-http", testenv.Addr(t), "--clickhouse-native", testenv.Addr(t)}
	}
	f := func(why, says string, args ...string) {
		t.Helper()
		data := filepath.Join(t.TempDir(), "data")
		args = slices.Concat(args[:1], []string{"--data", data}, free(), args[1:]) // the last of a repeated flag counts
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)               // what starts in spite of it ends
		defer cancel()
		err := run(ctx, args, io.Discard, io.Discard)
		if err == nil {
			t.Errorf("%s: it started", why)
			return
		}
		if serve.ExitCode(err) != 2 || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", why, err)
		}
		for _, name := range []string{"segue.db", "credentials.json", "events", "origin/media"} {
			if _, err := os.Stat(filepath.Join(data, name)); err == nil {
				t.Errorf("%s: left %s behind", why, name)
			}
		}
	}
	f("wrong key in the config file", `"lisen"`, "up", "--config", config)
	f("unknown flag", "--colour", "up", "--colour", "red")
	f("unwritable data folder", "--data", "up", "--data", "/proc/none")
	f("no such music folder", "does not exist", "up", "--music", "/none")
	f("music folder without music", "no music", "up", "--music", noMusic)
	twice := testenv.Addr(t)
	f("one port twice", twice, "up", "--listen", twice, "--edge-listen", twice)
	f("busy port", busy.Addr().String(), "up", "--listen", busy.Addr().String())
	f("bad size", "KiB", "up", "--edge-memory", "lots")
	f("too many edges", "--edges", "up", "--edges", "99")
	f("no such library", "libchdb.so", "up", "--clickhouse-library", "/none/libchdb.so")
	f("unreachable S3", "connection refused", "up", "--origin", "s3://bucket?endpoint=http://"+testenv.Addr(t))
	t.Setenv("PATH", t.TempDir())
	f("no ffmpeg", "apt-get install ffmpeg", "up", "--music", music)
}

func TestUnreachablePostgres(t *testing.T) {
	data := t.TempDir()
	err := run(t.Context(), []string{"up", "--data", data, "--database", "postgres://u:hush@" + testenv.Addr(t) + "/x", "--listen", testenv.Addr(t), "--edge-listen", testenv.Addr(t), "--edges", "1",
		"--debug-listen", "", "--clickhouse-http", testenv.Addr(t), "--clickhouse-native", testenv.Addr(t)}, io.Discard, io.Discard)
	if serve.ExitCode(err) != 2 || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "hush") || !strings.Contains(err.Error(), "--database") {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(data, "credentials.json")); err == nil {
		t.Error("it left credentials.json behind")
	}
}

func TestIngestRefusedAtOnce(t *testing.T) {
	testenv.Tool(t, "ffmpeg")
	platform := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer platform.Close()
	song := filepath.Join(t.TempDir(), "a.flac")
	if err := os.WriteFile(song, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	f := func(says string, args ...string) {
		t.Helper()
		if err := run(t.Context(), append([]string{"ingest", song}, args...), io.Discard, io.Discard); serve.ExitCode(err) != 2 || !strings.Contains(err.Error(), says) {
			t.Errorf("%v: %v", args, err)
		}
	}
	f("--token-file", "--server", platform.URL, "--token", "wrong")
	f("--server", "--server", "http://"+testenv.Addr(t), "--token", "x")
	f("does not exist", "--server", platform.URL, "--token-file", "/none")
}

func TestVersionAndHelp(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"--help"}, {"up", "--help"}, {"package", "--help"}, {"ingest", "--help"}, {"admin", "sql", "--help"}} {
		var out bytes.Buffer
		if err := run(t.Context(), args, &out, io.Discard); err != nil || !strings.Contains(out.String(), "segue") {
			t.Errorf("%v: %v, %q", args, err, out.String())
		}
	}
}

// TestPackageReportsFailures runs the program itself: the good file is there, the bad one is named, the status is 1.
func TestPackageReportsFailures(t *testing.T) {
	testenv.Tool(t, "ffmpeg")
	in, out := t.TempDir(), t.TempDir()
	song, err := os.ReadFile(filepath.Join(testenv.Music(t), "victory.ogg"))
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string][]byte{"good.ogg": song, "bad.ogg": []byte("no music")} {
		if err := os.WriteFile(filepath.Join(in, name), body, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(testenv.Program(t, "segue"), "package", in, out)
	text, err := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); err == nil || code != 1 {
		t.Errorf("status %d", code)
	}
	for _, want := range []string{"1 packaged", "1 failed", "failed: " + filepath.Join(in, "bad.ogg") + ": ", "error: 1 of 2 files"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the output lacks %q:\n%s", want, text)
		}
	}
	if found, _ := filepath.Glob(filepath.Join(out, "media/*/*/track.json")); len(found) != 1 {
		t.Errorf("packaged: %v", found)
	}
}
