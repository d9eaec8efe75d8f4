package controlplane_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"segue/controlplane"
	"segue/controlplane/api"
	"segue/internal/testenv"
	"segue/media"
	"segue/origin/memstore"

	natsd "github.com/nats-io/nats-server/v2/server"
	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
)

// replica is a control plane on its own listener, as it runs in production. stop stops it and returns how long it took.
func replica(t testing.TB, cfg controlplane.Config, objects *memstore.Store) (url string, stop func() time.Duration) {
	t.Helper()
	cfg.Listen, cfg.Data, cfg.PlaysKey, cfg.PerSecond, cfg.AdminToken = testenv.Addr(t), t.TempDir(), bytes.Repeat([]byte{1}, 32), cmp.Or(cfg.PerSecond, -1), adminToken
	cp, err := controlplane.Open(t.Context(), cfg, objects, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done, up := make(chan error, 1), make(chan struct{})
	go func() { done <- cp.Run(ctx, func() { close(up) }) }()
	select {
	case <-up:
	case err := <-done:
		t.Fatal(err)
	}
	stop = sync.OnceValue(func() time.Duration {
		begun := time.Now()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		return time.Since(begun)
	})
	t.Cleanup(func() { stop() })
	return "http://" + cfg.Listen, stop
}

func runNATS(t testing.TB, port int, dir string) *natsd.Server {
	t.Helper()
	s, err := natsd.NewServer(&natsd.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("NATS does not start")
	}
	return s
}

// streamed is one event as it came over HTTP.
type streamed struct{ id, event, data string }

// stream is an open event stream; events closes when it ends.
type stream struct {
	t      testing.TB
	events chan streamed
	close  func()
}

func openStream(t testing.TB, url, token, lastID string) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "GET", url+"/v1/me/events/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" || resp.Header.Get("Cache-Control") != "no-store" {
		b, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s %v %s", resp.Status, resp.Header, b)
	}
	s := &stream{t, make(chan streamed, 1000), cancel}
	go func() {
		defer close(s.events)
		defer resp.Body.Close()
		var e streamed
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			switch key, value, _ := strings.Cut(lines.Text(), ": "); key {
			case "id":
				e.id = value
			case "event":
				e.event = value
			case "data":
				e.data = value
			case "":
				if e.event != "" {
					s.events <- e
				}
				e = streamed{}
			}
		}
	}()
	return s
}

// until waits for an event of a kind that holds a text.
func (s *stream) until(kind, text string) streamed {
	s.t.Helper()
	var came []streamed
	for timeout := time.After(10 * time.Second); ; {
		select {
		case e, ok := <-s.events:
			if !ok {
				s.t.Fatalf("the stream ended before %s %s; came %v", kind, text, came)
			}
			if came = append(came, e); e.event == kind && strings.Contains(e.data, text) {
				return e
			}
		case <-timeout:
			s.t.Fatalf("no %s with %s; came %v", kind, text, came)
		}
	}
}

// ends waits for the end of the stream.
func (s *stream) ends() {
	s.t.Helper()
	for timeout := time.After(10 * time.Second); ; {
		select {
		case _, ok := <-s.events:
			if !ok {
				return
			}
		case <-timeout:
			s.t.Fatal("the stream does not end")
		}
	}
}

func signInAgain(t *testing.T, s *server, email, device string) api.Session {
	t.Helper()
	return call[api.Session](t, s.client(""), "POST", "/v1/sessions", api.NewSession{Email: email, Password: "correct horse", Device: api.Device{Type: "tv", Name: device}})
}

// TestTransferBetweenReplicas: a device on each of two replicas, on one PostgreSQL and one NATS.
func TestTransferBetweenReplicas(t *testing.T) {
	database, dir := testenv.Postgres(t), t.TempDir()
	nats := runNATS(t, -1, dir)
	defer func() { nats.Shutdown(); nats.WaitForShutdown() }()
	objects := &memstore.Store{}
	urlOne, stopOne := replica(t, controlplane.Config{Database: database, NATS: nats.ClientURL(), Replica: "one", Replicas: 2}, objects)
	urlTwo, _ := replica(t, controlplane.Config{Database: database, NATS: nats.ClientURL(), Replica: "two", Replicas: 2}, objects)
	s1, s2 := &server{Server: &httptest.Server{URL: urlOne}, t: t, objects: objects}, &server{Server: &httptest.Server{URL: urlTwo}, t: t, objects: objects}
	phone, phoneSession := s1.signIn("ada@example.org")
	tvSession := signInAgain(t, s2, "ada@example.org", "Télé 📺")
	tv := s2.client(tvSession.AccessToken)
	phoneStream, tvStream := openStream(t, urlOne, phoneSession.AccessToken, ""), openStream(t, urlTwo, tvSession.AccessToken, "")
	tvStream.until("state", `"paused":true`)
	phoneStream.until("devices", "Télé 📺") // came on the other replica

	track := ulid.Make().String()
	call[api.PlayerState](t, phone, "PUT", "/v1/me/player/state", map[string]any{"track_id": track, "position_ms": 42_000, "paused": false})
	tvStream.until("state", track)
	moves := func(by, to *api.Client, device string, stopped, started *stream) time.Duration {
		t.Helper()
		begun := time.Now()
		call[api.PlayerState](t, by, "POST", "/v1/me/queue/transfer", api.Transfer{DeviceID: device})
		stopped.until("command", `"type":"stop"`)
		started.until("command", `"type":"start"`)
		took := time.Since(begun)
		call[api.PlayerState](t, to, "PUT", "/v1/me/player/state", api.StateReport{TrackID: media.TrackID(track), PositionMS: 43_000})
		return took
	}
	if took := moves(phone, tv, tvSession.DeviceID, phoneStream, tvStream); took > time.Second {
		t.Errorf("a transfer takes %v", took)
	}
	refused(t, phone, "PUT", "/v1/me/player/state", api.StateReport{TrackID: media.TrackID(track)}, 409, "not-active")
	if took := moves(phone, phone, phoneSession.DeviceID, tvStream, phoneStream); took > time.Second {
		t.Errorf("a transfer back takes %v", took)
	}
	call[api.PlayerState](t, tv, "POST", "/v1/me/player/pause", nil)
	phoneStream.until("command", `"type":"pause"`)

	// With NATS away SQL is asked every second, and when it is back all is as before.
	port := nats.Addr().String()
	nats.Shutdown()
	nats.WaitForShutdown()
	if took := moves(phone, tv, tvSession.DeviceID, phoneStream, tvStream); took > 5*time.Second {
		t.Errorf("without NATS a transfer takes %v", took)
	}
	var n int
	fmt.Sscanf(port[strings.LastIndexByte(port, ':')+1:], "%d", &n)
	nats = runNATS(t, n, dir)
	eventually(t, "transfers are fast again", func() bool {
		a := moves(phone, phone, phoneSession.DeviceID, tvStream, phoneStream)
		b := moves(phone, tv, tvSession.DeviceID, phoneStream, tvStream)
		return max(a, b) < 500*time.Millisecond
	})

	// A replica that stops ends its streams and does not wait for them; the device goes on at the other one.
	last := phoneStream
	if took := stopOne(); took > 3*time.Second {
		t.Errorf("stopping takes %v with a stream open", took)
	}
	last.ends()
	phoneStream = openStream(t, urlTwo, phoneSession.AccessToken, "1")
	tvStream.until("devices", phoneSession.DeviceID)
	call[api.PlayerState](t, tv, "POST", "/v1/me/player/transfer", api.Transfer{DeviceID: phoneSession.DeviceID})
	phoneStream.until("command", `"type":"start"`)
}

// TestStreams: over HTTP, as long as the session lives.
func TestStreams(t *testing.T) {
	databases(t, func(t *testing.T, s *server) {
		user, sess := s.signIn("ada@example.org")
		tvSession := signInAgain(t, s, "ada@example.org", "TV")
		st, tv := openStream(t, s.URL, sess.AccessToken, ""), openStream(t, s.URL, tvSession.AccessToken, "")
		st.until("state", "paused")
		changed := call[api.QueueChanged](t, user, "PUT", "/v1/me/queue", api.NewQueue{TrackIDs: []media.TrackID{media.TrackID(ulid.Make().String())}})
		e := st.until("queue", fmt.Sprint(changed.Revision))
		for _, want := range []struct {
			token  string
			status int
		}{{"", 401}, {"x.y.z", 401}, {adminToken, 401}} {
			req, _ := http.NewRequest("GET", s.URL+"/v1/me/events/stream", nil)
			req.Header.Set("Authorization", "Bearer "+want.token)
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != want.status || resp.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%q: %s", want.token, resp.Status)
			}
		}
		st.close()
		st = openStream(t, s.URL, sess.AccessToken, e.id)
		st.until("devices", sess.DeviceID)

		// Signing out ends the stream of that session only.
		if err := user.Call(t.Context(), "DELETE", "/v1/sessions/current", nil, nil); err != nil {
			t.Fatal(err)
		}
		st.ends()
		call[api.QueueChanged](t, s.client(tvSession.AccessToken), "PUT", "/v1/me/queue", api.NewQueue{TrackIDs: []media.TrackID{}})
		tv.until("queue", "revision")
		if err := s.client(tvSession.AccessToken).Call(t.Context(), "DELETE", "/v1/me", api.Goodbye{Password: "correct horse"}, nil); err != nil {
			t.Fatal(err)
		}
		tv.ends()
	})
}

func TestQueueOverHTTP(t *testing.T) {
	databases(t, func(t *testing.T, s *server) {
		user, sess := s.signIn("ada@example.org")
		track := s.publish(media.Tags{Title: "A", Artist: "B", AlbumArtist: "B", Album: "C"}, 100, "a")
		do := func(method, path, ifMatch string, in any) (*http.Response, []byte) {
			t.Helper()
			b, err := json.Marshal(in)
			if err != nil {
				t.Fatal(err)
			}
			req, err := http.NewRequest(method, s.URL+path, bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+sess.AccessToken)
			req.Header.Set("Content-Type", "application/json")
			if ifMatch != "" {
				req.Header.Set("If-Match", ifMatch)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			return resp, body
		}
		ids := make([]media.TrackID, 5000) // the longest that there may be
		for i := range ids {
			ids[i] = track.ID
		}
		resp, body := do("PUT", "/v1/me/queue", `"0"`, api.NewQueue{TrackIDs: ids})
		if resp.StatusCode != 200 {
			t.Fatalf("%s %s", resp.Status, body)
		}
		etag := strings.Replace(resp.Header.Get("ETag"), "-gzip", "", 1) // the answer came compressed
		q := call[api.Queue](t, user, "GET", "/v1/me/queue?expand=3", nil)
		if len(q.Entries) != 5000 || len(q.Tracks) != 1 || q.Tracks[0].Title != "A" || etag != fmt.Sprintf("%q", fmt.Sprint(q.Revision)) {
			t.Errorf("%d entries, %+v, %s", len(q.Entries), q.Tracks, etag)
		}
		if resp, body := do("DELETE", "/v1/me/queue/entries/"+q.Entries[7].ID, etag, nil); resp.StatusCode != 200 || resp.Header.Get("ETag") == etag {
			t.Errorf("%s %s", resp.Status, body)
		}
		for _, m := range []string{etag, `"999999"`} {
			if resp, body := do("POST", "/v1/me/queue/entries", m, api.NewEntries{TrackIDs: ids[:1], Next: true}); resp.StatusCode != 412 || !strings.Contains(string(body), "/problems/precondition-failed") {
				t.Errorf("%s %s", resp.Status, body)
			}
		}
		if resp, _ := do("POST", "/v1/me/queue/entries", "*", api.NewEntries{TrackIDs: ids[:1], Next: true}); resp.StatusCode != 200 {
			t.Error(resp.Status)
		}
		if resp, _ := do("PATCH", "/v1/me/queue", "fish", map[string]any{"shuffle": true}); resp.StatusCode != 400 {
			t.Error(resp.Status)
		}
		refused(t, user, "PATCH", "/v1/me/queue", map[string]any{"repeat": "sometimes"}, 422, "validation")
		refused(t, user, "PUT", "/v1/me/queue", api.NewQueue{TrackIDs: append(ids, track.ID)}, 422, "validation")
		refused(t, user, "POST", "/v1/me/player/pause", nil, 409, "no-active-device")
		refused(t, user, "POST", "/v1/me/player/seek", api.NewCommand{}, 400, "invalid-request")
		refused(t, user, "POST", "/v1/me/queue/transfer", api.Transfer{DeviceID: ulid.Make().String()}, 404, "not-found")
		call[api.PlayerState](t, user, "POST", "/v1/me/queue/transfer", api.Transfer{DeviceID: sess.DeviceID})
		if p := call[api.Player](t, user, "GET", "/v1/me/player", nil); p.State.ActiveDeviceID != sess.DeviceID || p.State.TrackID != track.ID {
			t.Errorf("%+v", p)
		}
	})
}

// BenchmarkStreams opens 1,000 streams over TCP and says what each costs: in SQL and time to open, and in memory of the
// server and the client of this test together.
func BenchmarkStreams(b *testing.B) {
	const n = 1000
	url, _ := replica(b, controlplane.Config{Database: "sqlite:" + filepath.Join(b.TempDir(), "segue.db")}, &memstore.Store{})
	c, err := api.NewClient(url, nil)
	if err != nil {
		b.Fatal(err)
	}
	var tokens []string
	for i := range n / 10 { // ten devices each, at most 20 are allowed
		email := fmt.Sprintf("u%d@example.org", i)
		if err := c.Call(b.Context(), "POST", "/v1/users", api.NewUser{Email: email, Password: "correct horse"}, nil); err != nil {
			b.Fatal(err)
		}
		var sess api.Session
		if err := c.Call(b.Context(), "POST", "/v1/sessions", api.NewSession{Email: email, Password: "correct horse"}, &sess); err != nil {
			b.Fatal(err)
		}
		tokens = append(tokens, sess.AccessToken)
	}
	memory := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	for b.Loop() {
		before, begun := memory(), time.Now()
		conns := make([]io.ReadCloser, 0, n)
		for i := range n {
			conn, err := rawStream(url, tokens[i%len(tokens)])
			if err != nil {
				b.Fatal(err)
			}
			conns = append(conns, conn)
		}
		b.ReportMetric(float64(time.Since(begun).Microseconds())/n, "µs/open")
		b.ReportMetric(float64(memory()-before)/n, "B/stream")
		for _, c := range conns {
			c.Close()
		}
	}
}

// rawStream opens a stream with as little memory on this side as may be, and reads the first event.
func rawStream(url, token string) (io.ReadCloser, error) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(conn, "GET /v1/me/events/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", token); err != nil {
		return nil, err
	}
	var got []byte
	for buf := make([]byte, 2048); !bytes.Contains(got, []byte("event: state")); {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		got = append(got, buf[:n]...)
	}
	return conn, nil
}
