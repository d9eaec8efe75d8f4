package controlplane

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// limits are the token buckets of the gateway.
type limits struct {
	flood   *limiter // per address, over everything
	address *limiter // per address, while nobody is proven
	account *limiter // per account, edge or admin token
	guess   *limiter // per address, where a password or token is guessed at
}

func newLimits(perSecond float64) *limits {
	return &limits{
		flood:   newLimiter("address-total", 20*perSecond, 2),
		address: newLimiter("address", perSecond, 2),
		account: newLimiter("account", perSecond, 2),
		guess:   newLimiter("password", min(1, perSecond), 20),
	}
}

func (l *limits) all() []*limiter { return []*limiter{l.flood, l.address, l.account, l.guess} }

// maxBuckets bounds the memory of one limiter: about 150 bytes each.
const maxBuckets = 100_000

// limiter is a token bucket per name. A name whose bucket is full again is forgotten: it would begin full.
type limiter struct {
	policy string
	rate   rate.Limit
	burst  int
	full   time.Duration // from empty to full

	mu      sync.Mutex // guards the fields below
	buckets map[string]*bucket
	swept   time.Time
	busy    map[string]*bucket // those that other replicas should hear of
}

type bucket struct {
	*rate.Limiter
	used  time.Time
	spent int // that other replicas have not heard of
}

// newLimiter allows perSecond and bursts of seconds times that, at least ten; a negative rate is no limit.
func newLimiter(policy string, perSecond, seconds float64) *limiter {
	l := &limiter{policy: policy, rate: rate.Limit(perSecond), burst: max(10, int(perSecond*seconds)), buckets: map[string]*bucket{}, busy: map[string]*bucket{}, swept: time.Now()}
	if perSecond < 0 {
		l.rate = rate.Inf
		return l
	}
	l.full = time.Duration(float64(l.burst) / perSecond * float64(time.Second))
	return l
}

// take returns 0, or how long to wait. It says in h, unless that is nil, what is left.
func (l *limiter) take(h http.Header, name string) time.Duration {
	if l.rate == rate.Inf {
		return 0
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.bucket(name, now)
	var wait time.Duration
	if r := b.ReserveN(now, 1); r.DelayFrom(now) > 0 {
		wait = r.DelayFrom(now)
		r.CancelAt(now)
	} else if b.spent++; b.TokensAt(now) < float64(l.burst)*3/4 && len(l.busy) < maxBusy {
		l.busy[name] = b // who uses little is nobody's concern: all of it is told when that changes
	}
	if h != nil {
		// draft-ietf-httpapi-ratelimit-headers-10: q requests in w seconds; r left, all q again after t seconds.
		left := b.TokensAt(now)
		h.Add("RateLimit-Policy", fmt.Sprintf(`"%s";q=%d;w=%d`, l.policy, l.burst, seconds(l.full)))
		h.Add("RateLimit", fmt.Sprintf(`"%s";r=%d;t=%d`, l.policy, max(0, int(left)), seconds(time.Duration((float64(l.burst)-left)/float64(l.rate)*float64(time.Second)))))
	}
	return wait
}

// maxBusy bounds what replicas tell each other at once.
const maxBusy = 2000

// bucket is the one of a name, full when there was none. l.mu is held.
func (l *limiter) bucket(name string, now time.Time) *bucket {
	if now.Sub(l.swept) > max(l.full, time.Second) || len(l.buckets) >= maxBuckets {
		l.sweep(now)
	}
	b := l.buckets[name]
	if b == nil {
		b = &bucket{Limiter: rate.NewLimiter(l.rate, l.burst)}
		l.buckets[name] = b
	}
	b.used = now
	return b
}

// untold returns what busy callers used since they were last told of.
func (l *limiter) untold() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.busy) == 0 {
		return nil
	}
	out := make(map[string]int, len(l.busy))
	for name, b := range l.busy {
		out[name] = b.spent
		b.spent = 0
	}
	clear(l.busy)
	return out
}

// charge takes what a caller used at another replica out of its budget here, which may leave it in debt.
func (l *limiter) charge(name string, n int) {
	if l.rate == rate.Inf || n <= 0 {
		return
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bucket(name, now).ReserveN(now, min(n, l.burst))
}

// sweep forgets full buckets and, when there are too many still, any: a flood of names must not cost memory.
func (l *limiter) sweep(now time.Time) {
	for k, b := range l.buckets {
		if now.Sub(b.used) > l.full {
			delete(l.buckets, k)
		}
	}
	for k := range l.buckets {
		if len(l.buckets) <= maxBuckets*9/10 {
			break
		}
		delete(l.buckets, k)
	}
	l.swept = now
}

// seconds rounds up: who waits so long does not come too early.
func seconds(d time.Duration) int { return int(math.Ceil(d.Seconds())) }

// tooMany answers 429.
func (cp *ControlPlane) tooMany(w http.ResponseWriter, r *http.Request, wait time.Duration) {
	cp.metrics.limited.Inc()
	w.Header().Set("Retry-After", strconv.Itoa(max(1, seconds(wait))))
	cp.writeProblem(w, r, newProblem(http.StatusTooManyRequests, "too-many-requests", "too many requests, see Retry-After"))
}

// anonymous limits what is outside the API, by address.
func (cp *ControlPlane) anonymous(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if wait := cp.limits.address.take(w.Header(), network(client(r.Context()))); wait > 0 {
			cp.tooMany(w, r, wait)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// guessable: where a password or a token can be tried, or accounts made by the thousand.
func guessable(method, path string, anybody bool) bool {
	return method != http.MethodGet && (anybody || strings.Contains(path, "password"))
}
