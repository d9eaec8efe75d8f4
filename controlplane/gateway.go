package controlplane

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/identity"
	"segue/media"

	"github.com/danielgtaylor/huma/v2"
	"github.com/oklog/ulid/v2"
	"golang.org/x/time/rate"
)

type ctxKey int

const (
	keyRequestID ctxKey = iota
	keyClient
	keyPrincipal
	keyEdge
)

func requestID(ctx context.Context) string {
	id, _ := ctx.Value(keyRequestID).(string)
	return id
}

// client is the address that a request came from.
func client(ctx context.Context) netip.Addr {
	a, _ := ctx.Value(keyClient).(netip.Addr)
	return a
}

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

// guard stands before everything: request id, limits per address, CORS, security headers, and a last net for panics.
func (cp *ControlPlane) guard(next http.Handler) http.Handler {
	limit := newLimiter(cp.cfg.PerSecond, 2)
	slow := newLimiter(min(1, cp.cfg.PerSecond), 20) // where a password or token is guessed at
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := ulid.Make().String()
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		addr, _ := netip.ParseAddr(host)
		ctx := context.WithValue(context.WithValue(r.Context(), keyRequestID, id), keyClient, addr.Unmap())
		r = r.WithContext(ctx)
		h := w.Header()
		h.Set("X-Request-Id", id)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		// Bearer tokens, no cookies: any page may call.
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Access-Control-Expose-Headers", "ETag, Retry-After, X-Request-Id")
		if r.Method == http.MethodOptions {
			h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE")
			h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Content-Digest, If-Match, If-None-Match, Idempotency-Key, Last-Event-ID")
			h.Set("Access-Control-Max-Age", "86400")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		defer func() {
			if v := recover(); v != nil && v != http.ErrAbortHandler {
				cp.log.Error("bug: request panicked", "request", id, "path", withoutToken(r.URL.Path), "err", v, "stack", string(debug.Stack()))
				cp.writeProblem(w, r, errors.New("panic"))
			}
		}()
		who := addr.String()
		if a := r.Header.Get("Authorization"); a != "" {
			who = a[max(0, len(a)-43):] // an account has its own budget, also behind a shared address
		}
		wait := limit.take(who)
		if strings.HasPrefix(r.URL.Path, "/v1/sessions") || r.URL.Path == "/v1/users" || r.URL.Path == "/v1/fleet/join" {
			wait = max(wait, slow.take(addr.String()))
		}
		if wait > 0 {
			cp.metrics.limited.Inc()
			h.Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
			cp.writeProblem(w, r, newProblem(http.StatusTooManyRequests, "too-many-requests", "too many requests, see Retry-After"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// limiter is a token bucket per name. Names unused for a minute are forgotten.
type limiter struct {
	rate  rate.Limit
	burst int

	mu      sync.Mutex // guards the fields below
	buckets map[string]*bucket
	swept   time.Time
}

type bucket struct {
	*rate.Limiter
	used time.Time
}

// newLimiter allows perSecond and bursts of seconds times that, at least ten; a negative rate is no limit.
func newLimiter(perSecond, seconds float64) *limiter {
	l := &limiter{rate: rate.Limit(perSecond), burst: max(10, int(perSecond*seconds)), buckets: map[string]*bucket{}, swept: time.Now()}
	if perSecond < 0 {
		l.rate = rate.Inf
	}
	return l
}

// take returns 0, or how long to wait.
func (l *limiter) take(name string) time.Duration {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.swept) > time.Minute {
		for k, b := range l.buckets {
			if now.Sub(b.used) > time.Minute {
				delete(l.buckets, k)
			}
		}
		l.swept = now
	}
	b := l.buckets[name]
	if b == nil {
		b = &bucket{Limiter: rate.NewLimiter(l.rate, l.burst)}
		l.buckets[name] = b
	}
	b.used = now
	r := b.ReserveN(now, 1)
	if d := r.DelayFrom(now); d > 0 {
		r.CancelAt(now)
		return d
	}
	return 0
}

// need says in an operation's metadata who may call it.
const need = "need"

// Kinds of need; adminScope and a colon stand before an admin scope.
const (
	needUser   = "user"
	needEdge   = "edge"
	adminScope = "admin:"
)

func bearer(header string) string {
	scheme, token, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// authenticate checks a bearer token against a need and returns the context that knows who calls.
func (cp *ControlPlane) authenticate(ctx context.Context, kind, token string) (context.Context, error) {
	if token == "" {
		return ctx, fmt.Errorf("a bearer token is missing: %w", media.ErrNoAccess)
	}
	scope, admin := strings.CutPrefix(kind, adminScope)
	switch {
	case admin:
		return ctx, cp.identity.VerifyAdmin(ctx, token, scope)
	case kind == needEdge:
		id, err := cp.fleet.Verify(ctx, token)
		return context.WithValue(ctx, keyEdge, id), err
	default:
		p, err := cp.identity.Verify(token)
		return context.WithValue(ctx, keyPrincipal, p), err
	}
}

// middleware runs inside huma: it measures, and authenticates by the operation's need.
func (cp *ControlPlane) middleware(a huma.API) func(huma.Context, func(huma.Context)) {
	return func(c huma.Context, next func(huma.Context)) {
		begun := time.Now()
		op := c.Operation()
		defer func() {
			cp.metrics.requests.WithLabelValues(op.OperationID, strconv.Itoa(c.Status())).Inc()
			cp.metrics.seconds.WithLabelValues(op.OperationID).Observe(time.Since(begun).Seconds())
		}()
		if kind, ok := op.Metadata[need].(string); ok {
			ctx, err := cp.authenticate(c.Context(), kind, bearer(c.Header("Authorization")))
			if err != nil {
				p := cp.problem(ctx, err).(*api.Problem)
				p.Instance = requestID(ctx)
				if p.GetStatus() == http.StatusUnauthorized {
					c.SetHeader("WWW-Authenticate", "Bearer")
				}
				c.SetHeader("Content-Type", "application/problem+json")
				c.SetHeader("Cache-Control", "no-store")
				c.SetStatus(p.GetStatus())
				_ = a.Marshal(c.BodyWriter(), "application/json", p)
				return
			}
			c = huma.WithContext(c, ctx)
		}
		next(c)
	}
}
