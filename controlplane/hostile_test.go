package controlplane_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"segue/controlplane/api"
	"segue/media"

	"github.com/oklog/ulid/v2"
)

// document is the part of an OpenAPI document that the tests walk.
type document struct {
	Paths      map[string]map[string]operationDoc `json:"paths"`
	Components struct {
		Schemas map[string]map[string]any `json:"schemas"`
	} `json:"components"`
}

type operationDoc struct {
	ID         string                `json:"operationId"`
	Security   []map[string][]string `json:"security"`
	Parameters []struct {
		Name     string         `json:"name"`
		In       string         `json:"in"`
		Required bool           `json:"required"`
		Schema   map[string]any `json:"schema"`
	} `json:"parameters"`
	RequestBody *struct {
		Content map[string]struct {
			Schema map[string]any `json:"schema"`
		} `json:"content"`
	} `json:"requestBody"`
	Responses map[string]struct {
		Content map[string]struct {
			Schema map[string]any `json:"schema"`
		} `json:"content"`
	} `json:"responses"`
}

func (s *server) document() document {
	s.t.Helper()
	resp, err := http.Get(s.URL + "/openapi.json")
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var d document
	if err := json.NewDecoder(resp.Body).Decode(&d); err != nil {
		s.t.Fatal(err)
	}
	return d
}

// example makes a value that a schema allows, so that a hostile one is the only fault of its request.
func (d document) example(schema map[string]any, depth int) any {
	if ref, ok := schema["$ref"].(string); ok {
		schema = d.Components.Schemas[ref[strings.LastIndex(ref, "/")+1:]]
	}
	if depth > 6 {
		return nil
	}
	if list, ok := schema["enum"].([]any); ok {
		return list[0]
	}
	kind, _ := schema["type"].(string)
	if list, ok := schema["type"].([]any); ok && len(list) > 0 {
		kind, _ = list[0].(string)
	}
	switch kind {
	case "object":
		out := map[string]any{}
		props, _ := schema["properties"].(map[string]any)
		for name, p := range props {
			if p, ok := p.(map[string]any); ok {
				out[name] = d.example(p, depth+1)
			}
		}
		return out
	case "array":
		items, _ := schema["items"].(map[string]any)
		return []any{d.example(items, depth+1)}
	case "integer", "number":
		if m, ok := schema["minimum"].(float64); ok {
			return m
		}
		return 1
	case "boolean":
		return true
	}
	switch schema["format"] {
	case "date-time":
		return "2026-01-02T03:04:05Z"
	case "email":
		return "somebody@example.org"
	}
	if schema["contentEncoding"] == "base64" {
		return "AAAA"
	}
	if n, ok := schema["minLength"].(float64); ok && n == 26 {
		return ulid.Make().String()
	}
	if n, ok := schema["minLength"].(float64); ok && n > 1 {
		return strings.Repeat("a", int(n))
	}
	return "a"
}

// hostile strings: each is good for one kind of mistake behind a parameter or a field.
var hostile = []string{
	"", " ", "'; DROP TABLE users; --", `" OR "1"="1`, "%", "_", "\\", "+(", `title:"`, "*", "a~999999", "a^-1 AND (", "/.*/", "[a TO", "\u202egnp.exe", "e\u0301\u0301\u0301\u0301", "𝕬🎵👩‍👩‍👧",
	"\ufeff\u200b", "../../etc/passwd", "${jndi:x}", "<script>alert(1)</script>", "\x00", "a\x00b", "\xff\xfe", "\xed\xa0\x80", "-1", "0", "99999999999999999999", "1e400", "NaN", "null", "true",
	"\r\nX-Injected: yes", strings.Repeat("x", 5000), strings.Repeat("\u0301", 300), "00000000000000000000000000", "7ZZZZZZZZZZZZZZZZZZZZZZZZZ", strings.Repeat("é", 13),
}

// values are hostile JSON values for a field.
func values() []any {
	out := []any{nil, true, -1, 0, 1e300, -1e300, json.Number("99999999999999999999999"), 1.5, []any{}, []any{nil}, map[string]any{}, map[string]any{"a": map[string]any{}}, json.RawMessage(`"\ud83d"`), "a\x00b",
		[]any{[]any{[]any{}}}, "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"}
	for _, s := range hostile {
		out = append(out, s)
	}
	return out
}

// mutations are bodies with one thing wrong each.
func mutations(good any) (out []string) {
	add := func(v any) {
		if b, err := json.Marshal(v); err == nil {
			out = append(out, string(b))
		}
	}
	add(good)
	if list, ok := good.([]any); ok {
		for i := range 3 {
			add(slices.Repeat(list, i*600))
		}
		if len(list) > 0 {
			for _, m := range mutations(list[0]) {
				out = append(out, "["+m+"]")
			}
		}
		return out
	}
	object, ok := good.(map[string]any)
	if !ok {
		for _, v := range values() {
			add(v)
		}
		return out
	}
	add(map[string]any{})
	for name, old := range object {
		delete(object, name)
		add(object)
		for _, v := range values() {
			object[name] = v
			add(object)
		}
		object[name] = old
		switch inner := old.(type) {
		case map[string]any:
			for name, old := range inner {
				for _, v := range values() {
					inner[name] = v
					add(object)
				}
				inner[name] = old
			}
		case []any:
			object[name] = slices.Repeat(inner, 500)
			add(object)
			object[name] = old
		}
	}
	object["unknown_field"] = 1
	add(object)
	delete(object, "unknown_field")
	return out
}

// broken bodies are no JSON, or too much of it.
var broken = []string{"", "{", "[", "nul", "{}{}", `{"a":1,}`, "\xff\xfe{}", "\x00", `"\u0000"`, `{"\u0000":1}`, strings.Repeat("[", 60_000), strings.Repeat(`{"a":`, 9_000), `{"a":"` + strings.Repeat("x", 3<<20) + `"}`,
	"<xml/>", "a=b", strings.Repeat("9", 5000), "null", "true", "0", `""`, "[]", "[null]", "[1,2]", "{\"a\":\"\xed\xa0\x80\"}"}

// TestHostileRequests sends to every documented operation what nobody should send, as anybody, listener, operator and
// with bad tokens; the answer must be a documented one, and never our fault.
func TestHostileRequests(t *testing.T) {
	databases(t, func(t *testing.T, s *server) {
		_, sess := s.signIn("ada@example.org")
		track := s.publish(media.Tags{Title: "A", Artist: "B", AlbumArtist: "B", Album: "C"}, 100, "a")
		m := s.join("eu-1", "eu", "http://eu.example", 52, 5)
		tokens := []string{"", sess.AccessToken, adminToken, "x.y.z", sess.AccessToken + "x", sess.RefreshToken, "eyJhbGciOiJub25lIn0.e30."}
		d := s.document()
		client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		sent, seen := 0, map[string]bool{}
		send := func(op operationDoc, method, target, token, contentType, body string, header http.Header) {
			t.Helper()
			u, err := url.Parse(s.URL)
			if err != nil {
				t.Fatal(err)
			}
			path, query, _ := strings.Cut(target, "?")
			u.Opaque = "//" + u.Host + path // as it is written
			u.RawQuery = query
			req := &http.Request{Method: method, URL: u, Host: u.Host, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}
			if body == "" {
				req.Body, req.ContentLength = http.NoBody, 0
			}
			req = req.WithContext(t.Context())
			for name, v := range header {
				req.Header[name] = v
			}
			if token != "" {
				req.Header.Set("Authorization", "Bearer "+token)
			}
			if contentType != "" {
				req.Header.Set("Content-Type", contentType)
			}
			resp, err := client.Do(req)
			if err != nil {
				if len(body) > 1<<20 || len(target) > 4000 {
					return // refused and hung up on while it was being sent
				}
				t.Errorf("%s %.200s: %v", method, target, err)
				return
			}
			defer resp.Body.Close()
			var b []byte
			if resp.Header.Get("Content-Type") == "text/event-stream" {
				b = make([]byte, 1) // it goes on for as long as it is read
				_, err = io.ReadFull(resp.Body, b)
			} else {
				b, err = io.ReadAll(resp.Body)
			}
			if err != nil {
				t.Fatalf("%s %.200s: %v", method, target, err)
			}
			sent++
			if why := undocumented(op, resp, b, method); why != "" && !seen[op.ID+why] {
				seen[op.ID+why] = true
				t.Errorf("%s %.300s with body %.300q (%s): %s\n%.600s", method, target, body, contentType, why, b)
			}
		}
		for path, methods := range d.Paths {
			for method, op := range methods {
				method = strings.ToUpper(method)
				if strings.Contains(op.ID, "sign-out") {
					continue // it would end the session that the others use; TestAccounts has it
				}
				good := func(with map[string]string) string {
					target, query := path, url.Values{}
					for _, p := range op.Parameters {
						value, given := with[p.Name]
						if !given {
							value = fmt.Sprint(d.example(p.Schema, 0))
							if strings.Contains(p.Name, "id") {
								value = string(track.ID)
							}
						}
						switch {
						case p.In == "path":
							target = strings.ReplaceAll(target, "{"+p.Name+"}", url.PathEscape(value))
						case p.In == "query" && (p.Required || given):
							query.Set(p.Name, value)
						}
					}
					if len(query) > 0 {
						target += "?" + query.Encode()
					}
					return target
				}
				contentType, body := "", ""
				var example any
				if op.RequestBody != nil {
					contentType = "application/json"
					example = d.example(op.RequestBody.Content[contentType].Schema, 0)
					b, err := json.Marshal(example)
					if err != nil {
						t.Fatal(err)
					}
					body = string(b)
				}
				for _, token := range tokens {
					send(op, method, good(nil), token, contentType, body, nil)
				}
				right := "" // the token that opens this operation: what follows is about what comes after
				if len(op.Security) > 0 {
					for scheme := range op.Security[0] {
						right = map[string]string{"listener": sess.AccessToken, "operator": adminToken, "edge": m.token(t)}[scheme]
					}
				}
				for _, token := range []string{right} {
					for _, h := range []http.Header{{"If-Match": {`"stale"`}}, {"If-Match": {"nonsense"}}, {"If-None-Match": {`*`}}, {"Idempotency-Key": {"k\"k"}}, {"Idempotency-Key": {strings.Repeat("k", 300)}},
						{"Idempotency-Key": {"é"}}, {"Accept": {"text/html"}}, {"Accept": {";;;"}}, {"X-Request-Id": {"\xff"}}, {"Authorization": {"Basic eDp5"}}, {"If-Match": {"\xff\xfe"}}, {"Content-Encoding": {"gzip"}}} {
						send(op, method, good(nil), token, contentType, body, h)
					}
					for _, p := range op.Parameters {
						for _, v := range hostile {
							if p.In == "header" {
								if !strings.ContainsAny(v, "\r\n\x00") {
									send(op, method, good(nil), token, contentType, body, http.Header{http.CanonicalHeaderKey(p.Name): {v}})
								}
								continue
							}
							if p.In == "path" && (v == "" || strings.Contains(v, "/")) {
								continue // another path
							}
							send(op, method, good(map[string]string{p.Name: v}), token, contentType, body, nil)
						}
					}
					send(op, method, good(nil)+"?%zz=1", token, contentType, body, nil)
					send(op, method, good(nil)+"?a=%ff&a;b=%00", token, contentType, body, nil)
					if op.RequestBody == nil {
						send(op, method, good(nil), token, "application/json", `{"unexpected":"\u0000"}`, nil)
						continue
					}
					for _, b := range slices.Concat(broken, mutations(example)) {
						send(op, method, good(nil), token, contentType, b, nil)
					}
					for _, ct := range []string{"text/plain", "application/xml", "multipart/form-data", "multipart/form-data; boundary=x", "nonsense", "application/json; charset=latin1", ";", "application/x-ndjson", "application/cbor", "application/octet-stream"} {
						send(op, method, good(nil), token, ct, body, nil)
						send(op, method, good(nil), token, ct, "\x00\xff", nil)
					}
				}
			}
		}
		t.Logf("%d requests", sent)
	})
}

// undocumented says what is wrong with an answer, or nothing.
func undocumented(op operationDoc, resp *http.Response, body []byte, method string) string {
	status := strconv.Itoa(resp.StatusCode)
	doc, ok := op.Responses[status]
	switch {
	case !ok:
		return status + " is not documented"
	case resp.StatusCode >= 500 && resp.StatusCode != 503:
		return status + " is our fault"
	case resp.Header.Get("X-Injected") != "":
		return "a header was injected"
	case resp.StatusCode < 400 || method == http.MethodHead:
		return ""
	}
	if _, ok := doc.Content["application/problem+json"]; !ok || resp.Header.Get("Content-Type") != "application/problem+json" {
		return status + " is no problem document: " + resp.Header.Get("Content-Type")
	}
	var p api.Problem
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&p); err != nil || p.Status != resp.StatusCode || !strings.HasPrefix(p.Type, "/problems/") || p.Title == "" {
		return fmt.Sprintf("%s with a bad problem document: %v", status, err)
	}
	if resp.StatusCode == 503 && p.Type != "/problems/no-edge" && p.Type != "/problems/no-play-logs" {
		return "503 " + p.Type
	}
	return ""
}
