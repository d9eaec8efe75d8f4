package controlplane

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
	"time"

	"segue/controlplane/once"
	"segue/media"

	"github.com/danielgtaylor/huma/v2"
)

// Idempotency-Key (draft-ietf-httpapi-idempotency-key-header) is taken by every POST of a listener, an operator or
// anybody whose body is small. Bigger ones (events, publishing) carry ids of their own, and edges repeat themselves.
func takesKey(op *huma.Operation) bool {
	return op.Method == http.MethodPost && op.MaxBodyBytes <= smallBody && op.Metadata[need] != needEdge && !flagged(op, streams)
}

// secretAnswer marks an operation whose answer holds tokens or secrets: it is never stored. register sets it where a
// name in the answer tells so.
const secretAnswer = "secret-answer"

// maxKept bounds a stored answer.
const maxKept = 1 << 20

// kept are the headers that belong to an answer.
var kept = []string{"Content-Type", "ETag", "Location", "Cache-Control"}

const keyText = "Makes a repeat harmless: for 24 hours the same key with the same request gets the first answer again (with Idempotency-Replayed: true); with another request 422; " +
	"while the first one is being done 409 with Retry-After. Any 1 to 255 visible characters, quoted or not. Only success is remembered: what failed may be sent again with its key."

const secretText = "Accepted, and not acted upon: the answer of this operation holds secrets, which are not stored for a repeat. A repeat is done again, and gets secrets of its own."

// secretNames are properties whose value opens something.
var secretNames = []string{"token", "secret", "password", "private", "hls_url", "dash_url", "file_url", "licence", "license"}

// holdsSecrets looks through the names in a JSON type.
func holdsSecrets(t reflect.Type, seen map[reflect.Type]bool) bool {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		return holdsSecrets(t.Elem(), seen)
	case reflect.Struct:
		if seen[t] {
			return false
		}
		seen[t] = true
		for i := range t.NumField() {
			f := t.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			for _, s := range secretNames {
				if name != "-" && strings.Contains(strings.ToLower(name), s) {
					return true
				}
			}
			if f.IsExported() && holdsSecrets(f.Type, seen) {
				return true
			}
		}
	}
	return false
}

// once does a request with a key once.
func (cp *ControlPlane) once(op *huma.Operation, next http.Handler) http.Handler {
	if op.Metadata[keyed] != true {
		return next
	}
	secret := flagged(op, secretAnswer)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, given, err := idempotencyKey(r.Header)
		if err != nil {
			cp.writeProblem(w, r, err)
			return
		}
		out, isHeld := w.(*held)
		if !given || secret || !isHeld {
			next.ServeHTTP(w, r)
			return
		}
		body, err := io.ReadAll(r.Body) // takeBody has it in memory
		if err != nil {
			cp.writeProblem(w, r, err)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		v := visitOf(r.Context())
		req := once.Request{Owner: v.owner, UserID: principal(r.Context()).UserID, Operation: op.OperationID, Key: key,
			Parts: []string{r.URL.Path, r.URL.RawQuery, r.Header.Get("Content-Type"), r.Header.Get("If-Match"), string(body)}}
		if req.Owner == "" {
			req.Owner = "address:" + network(v.addr)
		}
		claim, answer, err := cp.keys.Begin(r.Context(), req, time.Now())
		switch {
		case errors.Is(err, once.ErrReused):
			cp.writeProblem(w, r, newProblem(http.StatusUnprocessableEntity, "idempotency-key-reused", "this Idempotency-Key came with another request before"))
			return
		case errors.Is(err, once.ErrInProgress):
			w.Header().Set("Retry-After", "1")
			cp.writeProblem(w, r, newProblem(http.StatusConflict, "idempotency-key-in-use", "the first request with this Idempotency-Key is not answered yet"))
			return
		case err != nil:
			cp.writeProblem(w, r, err)
			return
		case answer != nil:
			cp.metrics.replayed.Inc()
			for name, value := range answer.Header {
				w.Header().Set(name, value)
			}
			w.Header().Set("Idempotency-Replayed", "true")
			w.WriteHeader(answer.Status)
			_, _ = io.WriteString(w, answer.Body)
			return
		}
		// What was done is written down also when the client went away meanwhile: its repeat is what this is for.
		end := func(f func(context.Context) error) error {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), 5*time.Second)
			defer cancel()
			return f(ctx)
		}
		ended := false
		defer func() {
			if !ended { // it panicked
				_ = end(claim.Drop)
			}
		}()
		next.ServeHTTP(w, r)
		ended = true
		if out.status >= 300 || out.status == 0 {
			err = end(claim.Drop)
		} else {
			err = end(func(ctx context.Context) error { return claim.Keep(ctx, keep(out)) })
		}
		if err != nil {
			cp.log.Warn("idempotency key cannot be ended, a repeat waits a minute", "request", v.id, "err", err)
		}
	})
}

func keep(out *held) once.Answer {
	if out.body.Len() > maxKept {
		return once.Answer{Status: http.StatusConflict, Header: map[string]string{"Content-Type": "application/problem+json"},
			Body: `{"type":"/problems/idempotency-answer-not-kept","title":"Conflict","status":409,"detail":"it was done; its answer is too large to be kept"}`}
	}
	a := once.Answer{Status: out.status, Header: map[string]string{}, Body: out.body.String()}
	for _, name := range kept {
		if v := out.Header().Get(name); v != "" {
			a.Header[name] = v
		}
	}
	return a
}

// idempotencyKey reads the header: an RFC 9651 string, or the bare text that many clients send.
func idempotencyKey(h http.Header) (key string, given bool, err error) {
	values := h.Values("Idempotency-Key")
	if len(values) == 0 {
		return "", false, nil
	}
	key = values[0]
	if len(key) >= 2 && key[0] == '"' && key[len(key)-1] == '"' {
		key = key[1 : len(key)-1]
	}
	ok := len(values) == 1 && len(key) >= 1 && len(key) <= 255
	for _, c := range []byte(key) {
		ok = ok && c > ' ' && c < 0x7f
	}
	if !ok {
		return "", true, newProblemAt("header.Idempotency-Key", "want 1 to 255 visible characters of ASCII")
	}
	return key, true, nil
}

func newProblemAt(location, message string) error {
	p := newProblem(http.StatusBadRequest, "invalid-request", location+": "+message)
	p.Errors = append(p.Errors, fieldProblem(location, message))
	return p
}

// sweepKeys forgets old answers, until ctx ends.
func (cp *ControlPlane) sweepKeys(ctx context.Context) error {
	for {
		if _, err := cp.keys.Sweep(ctx, time.Now()); err != nil && ctx.Err() == nil && !errors.Is(err, media.ErrBusy) {
			cp.log.Warn("old idempotency keys are not swept", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(10 * time.Minute):
		}
	}
}
