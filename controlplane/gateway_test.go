package controlplane_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"segue/controlplane"
	"segue/controlplane/api"
	"segue/controlplane/once"
	"segue/controlplane/store"
	"segue/internal/testenv"
	"segue/media"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// raw sends a request as it is: headers come in pairs.
func (s *server) raw(method, path, body string, headers ...string) (*http.Response, string) {
	s.t.Helper()
	req, err := http.NewRequest(method, s.URL+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := (&http.Transport{DisableCompression: true}).RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp, string(b)
}

func TestIdempotencyKeys(t *testing.T) {
	databases(t, func(t *testing.T, s *server) {
		order := func(key, value string) (*http.Response, string) {
			return s.raw("POST", "/v1/admin/purges", `{"kind":"tag","value":"`+value+`"}`, "Authorization", "Bearer "+adminToken, "Content-Type", "application/json", "Idempotency-Key", key)
		}
		first, body := order(`"key-1"`, "a")
		again, same := order("key-1", "a")
		if first.StatusCode != 201 || again.StatusCode != 201 || body != same || again.Header.Get("Idempotency-Replayed") != "true" || first.Header.Get("Idempotency-Replayed") != "" {
			t.Errorf("%d %d %s %s", first.StatusCode, again.StatusCode, body, same)
		}
		if resp, b := order("key-1", "b"); resp.StatusCode != 422 || !strings.Contains(b, "/problems/idempotency-key-reused") {
			t.Errorf("another request with the key: %d %s", resp.StatusCode, b)
		}
		if resp, _ := order("key-2", "a"); resp.Header.Get("Idempotency-Replayed") != "" {
			t.Error("another key is no repeat")
		}
		// What failed may come again, also mended.
		if resp, _ := order("key-3", ""); resp.StatusCode != 422 {
			t.Error(resp.Status)
		}
		if resp, b := order("key-3", "c"); resp.StatusCode != 201 {
			t.Errorf("%s %s", resp.Status, b)
		}
		// Many at once: it is done once. The others wait, or are told to.
		ids, mu := map[string]bool{}, sync.Mutex{}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				resp, b := order("key-4", "d")
				mu.Lock()
				defer mu.Unlock()
				switch {
				case resp.StatusCode == 201:
					ids[b] = true
				case resp.StatusCode != 409 || resp.Header.Get("Retry-After") == "":
					t.Errorf("%s %s", resp.Status, b)
				}
			})
		}
		wg.Wait()
		if len(ids) != 1 {
			t.Errorf("one key made %d purges", len(ids))
		}
		// Strangers have keys of their own, and nobody gets another one's tokens.
		signIn := func() string {
			_, b := s.raw("POST", "/v1/sessions", `{"email":"ada@example.org","password":"correct horse","device":{"type":"cli","name":"x"}}`, "Idempotency-Key", "key-1")
			return b
		}
		s.signIn("ada@example.org")
		if a, b := signIn(), signIn(); a == b || !strings.Contains(a, "access_token") {
			t.Errorf("tokens were kept for a repeat: %s", a)
		}
	})
}

// TestIdempotencyAcrossReplicas is the memory below: shared by SQL, swept, and taken over from the dead.
func TestIdempotencyAcrossReplicas(t *testing.T) {
	test := func(dsn string) func(*testing.T) {
		return func(t *testing.T) {
			var replicas []*once.Memory
			for range 2 {
				db, err := store.Open(t.Context(), dsn)
				if err != nil {
					t.Fatal(err)
				}
				defer db.Close()
				replicas = append(replicas, once.New(db, bytes.Repeat([]byte{7}, 32)))
			}
			now := time.Now()
			r := once.Request{Owner: "address:x", Operation: "op", Key: "k", Parts: []string{"p"}}
			claim, _, err := replicas[0].Begin(t.Context(), r, now)
			if err != nil || claim == nil {
				t.Fatal(err)
			}
			if _, _, err := replicas[1].Begin(t.Context(), r, now); !errors.Is(err, once.ErrInProgress) {
				t.Errorf("in progress: %v", err)
			}
			next, _, err := replicas[1].Begin(t.Context(), r, now.Add(2*time.Minute)) // the first one is dead
			if err != nil || next == nil {
				t.Fatal(err)
			}
			if err := claim.Keep(t.Context(), once.Answer{Status: 201, Body: "late"}); err != nil { // it was not: too late
				t.Error(err)
			}
			if err := next.Keep(t.Context(), once.Answer{Status: 201, Header: map[string]string{"ETag": `"1"`}, Body: "é"}); err != nil {
				t.Error(err)
			}
			_, a, err := replicas[0].Begin(t.Context(), r, now)
			if err != nil || a == nil || a.Body != "é" || a.Header["ETag"] != `"1"` {
				t.Errorf("%+v %v", a, err)
			}
			if n, err := replicas[0].Sweep(t.Context(), now.Add(23*time.Hour)); n != 0 || err != nil {
				t.Error(n, err)
			}
			if n, err := replicas[0].Sweep(t.Context(), now.Add(25*time.Hour)); n != 1 || err != nil {
				t.Error(n, err)
			}
			r.UserID = "nobody"
			if _, _, err := replicas[0].Begin(t.Context(), r, now); !errors.Is(err, media.ErrNoAccess) {
				t.Errorf("an account that is gone: %v", err)
			}
		}
	}
	t.Run("sqlite", test("sqlite:"+t.TempDir()+"/segue.db"))
	t.Run("postgres", func(t *testing.T) { test(testenv.Postgres(t))(t) })
}

func TestRepresentations(t *testing.T) {
	s := newServer(t, "sqlite:"+t.TempDir()+"/segue.db", "")
	_, sess := s.signIn("ada@example.org")
	for i := range 6 {
		s.publish(media.Tags{Title: fmt.Sprint("Title ", i), Artist: "B", AlbumArtist: "B", Album: "C", TrackNumber: i + 1}, 100, string(rune('a'+i)))
	}
	auth := "Bearer " + sess.AccessToken
	plain, body := s.raw("GET", "/v1/tracks", "", "Authorization", auth)
	tag := plain.Header.Get("ETag")
	if plain.StatusCode != 200 || !strings.HasPrefix(tag, `"`) || plain.Header.Get("Cache-Control") != "private, no-cache" || len(body) < 1024 || plain.Header.Get("Content-Encoding") != "" {
		t.Errorf("%v", plain.Header)
	}
	if vary := strings.Join(plain.Header.Values("Vary"), ", "); vary != "Authorization, Accept-Encoding" {
		t.Error(vary)
	}
	for _, known := range []string{tag, "W/" + tag, `"x", ` + tag, "*"} {
		if resp, b := s.raw("GET", "/v1/tracks", "", "Authorization", auth, "If-None-Match", known); resp.StatusCode != 304 || b != "" || resp.Header.Get("ETag") != tag {
			t.Errorf("If-None-Match %s: %d %v", known, resp.StatusCode, resp.Header)
		}
	}
	zipped, packed := s.raw("GET", "/v1/tracks", "", "Authorization", auth, "Accept-Encoding", "br, gzip;q=0.5")
	z, err := gzip.NewReader(strings.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(z); err != nil || string(b) != body {
		t.Errorf("gzip holds something else: %v", err)
	}
	if zipped.Header.Get("ETag") == tag || zipped.Header.Get("Content-Encoding") != "gzip" {
		t.Errorf("%v", zipped.Header)
	}
	if resp, _ := s.raw("GET", "/v1/tracks", "", "Authorization", auth, "Accept-Encoding", "gzip", "If-None-Match", zipped.Header.Get("ETag")); resp.StatusCode != 304 || resp.Header.Get("ETag") != zipped.Header.Get("ETag") {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	if resp, _ := s.raw("GET", "/v1/tracks", "", "Authorization", auth, "Accept-Encoding", "gzip;q=0"); resp.Header.Get("Content-Encoding") != "" {
		t.Error("gzip was refused and sent")
	}
	if resp, b := s.raw("HEAD", "/v1/tracks", "", "Authorization", auth); resp.StatusCode != 200 || b != "" || resp.ContentLength != int64(len(body)) || resp.Header.Get("ETag") != tag {
		t.Errorf("HEAD: %d %q %v", resp.StatusCode, b, resp.Header)
	}
	if resp, _ := s.raw("GET", "/v1/tracks", ""); resp.StatusCode != 401 || resp.Header.Get("Cache-Control") != "no-store" || resp.Header.Get("WWW-Authenticate") == "" || resp.Header.Get("ETag") != "" {
		t.Errorf("%v", resp.Header)
	}
	for _, path := range []string{"/", "/v1/me", "/nothing", "/openapi.json"} {
		resp, _ := s.raw("GET", path, "", "X-Request-Id", "my-request-17")
		h := resp.Header
		if h.Get("X-Request-Id") != "my-request-17" || h.Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(h.Get("Content-Security-Policy"), "frame-ancestors 'none'") || h.Get("Strict-Transport-Security") != "" {
			t.Errorf("%s: %v", path, h)
		}
		if resp, _ := s.raw("GET", path, "", "X-Request-Id", "bad id\t"); len(resp.Header.Get("X-Request-Id")) != 26 {
			t.Errorf("%s: an odd request id is taken over", path)
		}
	}
	if resp, _ := s.raw("OPTIONS", "/v1/playback", ""); resp.StatusCode != 204 || !strings.Contains(resp.Header.Get("Access-Control-Allow-Headers"), "Idempotency-Key") {
		t.Errorf("%v", resp.Header)
	}
}

func TestLimitsPerAccountAndNetwork(t *testing.T) {
	s := newServerWith(t, "sqlite:"+t.TempDir()+"/segue.db", "", func(c *controlplane.Config) {
		c.PerSecond, c.TrustedProxies = 20, []string{"127.0.0.1", "10.0.0.0/8"}
	})
	_, ada := s.signIn("ada@example.org")
	_, bob := s.signIn("bob@example.org")
	get := func(token, from string) *http.Response {
		resp, _ := s.raw("GET", "/v1/me", "", "Authorization", "Bearer "+token, "X-Forwarded-For", from)
		return resp
	}
	until429 := func(f func(i int) *http.Response) *http.Response {
		t.Helper()
		for i := range 200 {
			if resp := f(i); resp.StatusCode == 429 {
				return resp
			}
		}
		t.Error("no limit")
		return get("", "198.51.100.1")
	}
	resp := until429(func(i int) *http.Response { return get(ada.AccessToken, fmt.Sprintf("192.0.2.%d", i)) }) // from anywhere
	if resp.Header.Get("RateLimit-Policy") != `"account";q=40;w=2` || !strings.HasPrefix(resp.Header.Get("RateLimit"), `"account";r=0;t=`) || resp.Header.Get("Retry-After") != "1" {
		t.Errorf("%v", resp.Header)
	}
	if resp := get(bob.AccessToken, "192.0.2.1"); resp.StatusCode != 200 {
		t.Errorf("another account at the same address: %d", resp.StatusCode)
	}
	// Tokens that are made up have no budgets of their own; a /64 is one network; what a client writes itself is not believed.
	until429(func(i int) *http.Response { return get(fmt.Sprint("made-up-", i), "203.0.113.7") })
	until429(func(i int) *http.Response { return get("", fmt.Sprintf("2001:db8::%x", i)) })
	until429(func(i int) *http.Response { return get("", fmt.Sprintf("192.0.2.%d, 198.51.100.9, 10.1.1.1", i)) })
	if resp := get("", "2001:db8:0:1::1"); resp.StatusCode != 401 {
		t.Errorf("another network: %d", resp.StatusCode)
	}
	resp = until429(func(i int) *http.Response {
		resp, _ := s.raw("GET", "/v1/me", "", "Forwarded", fmt.Sprintf(`for="[2001:db8::%x]:80";proto=https`, i), "X-Forwarded-For", fmt.Sprintf("192.0.2.%d", i))
		return resp
	})
	if resp.Header.Get("Strict-Transport-Security") == "" {
		t.Errorf("%v", resp.Header)
	}
}

// TestSlowAndLarge talks to the real listener: what is slow or large costs a connection for a bounded time.
func TestSlowAndLarge(t *testing.T) {
	addr := testenv.Addr(t)
	newServerWith(t, "sqlite:"+t.TempDir()+"/segue.db", "", func(c *controlplane.Config) { c.Listen = addr })
	const limit = 15 * time.Second
	talk := func(text string) (answer string, took time.Duration) {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		begun := time.Now()
		_ = conn.SetDeadline(begun.Add(2 * limit))
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(conn) // the server ends it
		return string(b), time.Since(begun)
	}
	var wg sync.WaitGroup
	f := func(why, text, want string) {
		wg.Go(func() {
			if got, took := talk(text); !strings.Contains(got, want) || took > limit {
				t.Errorf("%s: %.300q after %v, want %q", why, got, took, want)
			}
		})
	}
	f("slow headers", "GET /v1/me HTTP/1.1\r\nHost: x\r\n", "")
	f("slow body", "POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", "408 Request Timeout")
	f("slow body of a stranger", "POST /v1/playback HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", "401 Unauthorized")
	f("large", "POST /v1/sessions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 70000\r\n\r\n"+strings.Repeat(" ", 70000), "413 Request Entity Too Large")
	f("large headers", "GET /v1/me HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("y", 60<<10)+"\r\n\r\n", "431")
	f("deep", "POST /v1/sessions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 60000\r\n\r\n"+strings.Repeat("[", 60000), "400 Bad Request")
	wg.Wait()
}

func TestTraces(t *testing.T) {
	var mu sync.Mutex
	var spans []*otlp.Span
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := io.Reader(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(body)
			if err != nil {
				t.Error(err)
				return
			}
			body = z
		}
		b, err := io.ReadAll(body)
		var req collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(b, &req)
		}
		if err != nil || r.URL.Path != "/v1/traces" {
			t.Error(r.URL, err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, rs := range req.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				spans = append(spans, ss.Spans...)
			}
		}
	}))
	defer sink.Close()
	s := newServerWith(t, "sqlite:"+t.TempDir()+"/segue.db", "", func(c *controlplane.Config) { c.TraceEndpoint = sink.URL })
	_, sess := s.signIn("ada@example.org")
	s.raw("GET", "/v1/me", "", "Authorization", "Bearer "+sess.AccessToken, "Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	eventually(t, "the span of the request and that of its SQL are there", func() bool {
		mu.Lock()
		defer mu.Unlock()
		for _, parent := range spans {
			if parent.Name != "me" || fmt.Sprintf("%x", parent.TraceId) != "0af7651916cd43dd8448eb211c80319c" || fmt.Sprintf("%x", parent.ParentSpanId) != "b7ad6b7169203331" {
				continue
			}
			for _, child := range spans {
				if child.Name == "sql" && bytes.Equal(child.ParentSpanId, parent.SpanId) {
					return true
				}
			}
		}
		return false
	})
	for _, span := range spans {
		if strings.Contains(span.String(), sess.AccessToken) || strings.Contains(span.String(), "correct horse") {
			t.Error("a secret is in a span")
		}
	}
}

// TestClientRetries: only what may be repeated, as long as the server says, with one key.
func TestClientRetries(t *testing.T) {
	var mu sync.Mutex
	seen := map[string][]string{} // path -> keys
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen[r.URL.Path] = append(seen[r.URL.Path], r.Header.Get("Idempotency-Key"))
		if len(seen[r.URL.Path]) < 2 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, "{}")
	}))
	defer srv.Close()
	c, err := api.NewClient(srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.NewPurge(t.Context(), api.NewPurge{}); err != nil {
		t.Error(err)
	}
	if _, err := c.Me(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := c.SignIn(t.Context(), api.NewSession{}); err == nil {
		t.Error("a sign-in was repeated")
	}
	if keys := seen["/v1/admin/purges"]; len(keys) != 2 || keys[0] == "" || keys[0] != keys[1] {
		t.Errorf("%q", keys)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if _, err := c.GetTrack(ctx, "x"); err == nil || time.Since(begun) > 900*time.Millisecond {
		t.Errorf("%v after %v", err, time.Since(begun))
	}
}
