package controlplane

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"time"

	"segue/controlplane/identity"

	"github.com/danielgtaylor/huma/v2"
	"github.com/oklog/ulid/v2"
)

// The way of a request, outermost first. guard stands before everything that is served; operate stands before each
// operation of the API, and knows which one it is.
//
//	guard    id, client's address, log line, CORS and security headers, panics, flood from one address
//	 router  pages and redirects (anonymous: limit per address), or
//	  operate
//	   observe    span, metrics
//	   authorise  who calls and may they; limits per account, or per address when nobody is proven
//	   takeBody   reads the body, within its size and time; refuses text that no database keeps
//	   represent  holds the answer: ETag, 304, gzip; sends it after the place in service is free again
//	   admit      a place among those in service, or 503 when the queue is too slow
//	   once       Idempotency-Key
//	    huma      decodes, validates, calls the handler, encodes
type step func(op *huma.Operation, next http.Handler) http.Handler

func (cp *ControlPlane) operate(op *huma.Operation, handle http.Handler) http.Handler {
	for _, s := range slices.Backward([]step{cp.observe, cp.authorise, cp.takeBody, cp.represent, cp.admit, cp.once}) {
		handle = s(op, handle)
	}
	return handle
}

type ctxKey int

const (
	keyVisit ctxKey = iota
	keyPrincipal
	keyEdge
	keyAdmin // SHA-256 of the admin token, in hex
)

// visit is what the gateway knows of one request. Only the request's own goroutine writes it.
type visit struct {
	id        string
	addr      netip.Addr
	operation string // empty: not of the API
	owner     string // who is proven to call: user:ID, edge:ID, admin:HASH; empty: nobody
	secure    bool   // came over TLS, to us or to a trusted proxy
}

func visitOf(ctx context.Context) *visit {
	if v, ok := ctx.Value(keyVisit).(*visit); ok {
		return v
	}
	return &visit{}
}

func requestID(ctx context.Context) string { return visitOf(ctx).id }

// client is the address that a request came from.
func client(ctx context.Context) netip.Addr { return visitOf(ctx).addr }

// principal is the listener that a request speaks for; only behind needUser.
func principal(ctx context.Context) identity.Principal {
	p, _ := ctx.Value(keyPrincipal).(identity.Principal)
	return p
}

// edgeID is the edge that a request speaks for; only behind needEdge.
func edgeID(ctx context.Context) string {
	id, _ := ctx.Value(keyEdge).(string)
	return id
}

// guard stands before everything.
func (cp *ControlPlane) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		v := &visit{id: incomingID(r)}
		v.addr, v.secure = cp.proxies.client(r)
		r = r.WithContext(context.WithValue(r.Context(), keyVisit, v))
		w := &watched{ResponseWriter: rw}
		w.Header().Set("X-Request-Id", v.id)
		openHeaders(w.Header(), v.secure)
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				cp.metrics.panics.Inc()
				cp.log.Error("bug: request panicked", "request", v.id, "operation", v.operation, "path", withoutToken(r.URL.Path), "err", p, "stack", string(debug.Stack()))
				if w.status != 0 {
					panic(http.ErrAbortHandler) // half an answer is on its way: it must not look whole
				}
				cp.writeProblem(w, r, errors.New("panic"))
			}
			level := slog.LevelDebug
			if w.status >= 500 {
				level = slog.LevelInfo
			}
			// The path holds no secrets: tokens travel in headers and bodies. The query may hold what people look for.
			cp.log.Log(r.Context(), level, "request", "request", v.id, "method", r.Method, "path", withoutToken(r.URL.Path), "operation", v.operation, "status", w.status,
				"dur", time.Since(begun), "client", v.addr.String())
		}()
		if r.Method == http.MethodOptions {
			preflight(w)
			return
		}
		if r.ContentLength != 0 {
			// For whoever is refused before the body is read; takeBody has its own deadline for the others.
			_ = http.NewResponseController(w).SetReadDeadline(begun.Add(bodyTime))
		}
		// What one address may cause in all, proven or not: it bounds the signatures that are checked for it.
		if wait := cp.limits.flood.take(nil, network(v.addr)); wait > 0 {
			cp.tooMany(w, r, wait)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// incomingID takes over a caller's request id when it is short and plain, else makes one.
func incomingID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	if len(id) < 8 || len(id) > 64 {
		return ulid.Make().String()
	}
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '_' {
			return ulid.Make().String()
		}
	}
	return id
}

// watched notes the status.
type watched struct {
	http.ResponseWriter
	status int
}

func (w *watched) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *watched) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (w *watched) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// openHeaders are on every answer. The API is called with bearer tokens, never cookies, so any page may call it.
func openHeaders(h http.Header, secure bool) {
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Expose-Headers", "ETag, Idempotency-Replayed, Link, Location, RateLimit, RateLimit-Policy, Retry-After, X-Request-Id")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'") // pages set their own
	if secure {
		h.Set("Strict-Transport-Security", "max-age=31536000") // RFC 6797 7.2: over TLS only
	}
}

func preflight(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE")
	h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Content-Digest, If-Match, If-None-Match, Idempotency-Key, Last-Event-ID, X-Request-Id, Traceparent, Tracestate")
	h.Set("Access-Control-Max-Age", "86400")
	w.WriteHeader(http.StatusNoContent)
}

// pagePolicy lets a page load its own scripts and styles, and play: hls.js reads playlists and segments from edges at any
// address, plays through a blob: of MediaSource and works in a blob: worker; pictures are redirected to edges.
const pagePolicy = "default-src 'self'; script-src 'self'; worker-src 'self' blob:; style-src 'self' 'unsafe-inline'; img-src * data: blob:; media-src * data: blob:; connect-src *; " +
	"font-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

func page(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", pagePolicy)
		next.ServeHTTP(w, r)
	})
}
