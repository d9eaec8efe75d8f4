package edge

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"iter"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"segue/edge/policy"
	"segue/media"

	"github.com/golang-jwt/jwt/v5"
)

// Peer is another edge of the region.
type Peer struct {
	Name string
	URL  string // http(s)://host[:port]
	Key  ed25519.PublicKey
}

// Shield asks the edge of the region that owns an object for its blocks, so that each object leaves the origin once for
// all of them. Owners are chosen by rendezvous hashing (Thaler and Ravishankar, 1998) with bounded load (Mirrokni et
// al., 2018): of the edges ranked by a hash of name and object, the first that is not loaded over the average. An edge
// that owns an object, or was asked for it by a peer, asks the origin.
type Shield struct {
	below   Source
	alloc   func(n int) *Block
	loop    string // what this edge is called in CDN-Loop
	log     *slog.Logger
	metrics *metrics
	purged  func() int64           // the fleet's number of the last purge that was applied here
	fleet   atomic.Pointer[region] // nil: no peers
	setting sync.Mutex
}

// region is one list of peers: what rendezvous hashing, requests and their checks need.
type region struct {
	self  string
	key   ed25519.PrivateKey
	seed  uint64 // of self
	peers []*peer
	known sync.Map // token of a peer -> time.Time until which it is good
}

type peer struct {
	Peer
	seed   uint64
	care   *care
	client *http.Client

	mu     sync.Mutex // guards the fields below
	token  string     // what this edge tells the peer of itself
	renew  time.Time
	signed ed25519.PublicKey // whose token it is
}

const (
	peerTries   = 2  // owners asked before the origin
	loadFactor  = 5  // of four: a peer has at most 1.25 times the average of requests under way,
	loadFloor   = 32 // or this many: below, nobody is loaded
	peerDial    = time.Second
	peerAnswer  = 5 * time.Second // for the head of an answer
	peerTokenOK = 45 * time.Second
	clockSkew   = 10 * time.Second
	peerIssue   = "segue-peer:" // and the name of who is asked: aud

	// purgedTo is a field of a peer's request: the last purge of the fleet that it has applied. Who has not come so far
	// may hold the very bytes that were purged, and declines.
	purgedTo = "Segue-Purged-To"

	// routedTo is a field of a peer's request for a key of an HTTP origin: which origin that is. Releases of the fleet come to edges
	// one after the other, and a peer that has another origin behind the same path declines.
	routedTo = "Segue-Routed-To"
)

func newShield(below Source, alloc func(n int) *Block, loop string, purged func() int64, log *slog.Logger, m *metrics) *Shield {
	return &Shield{below: below, alloc: alloc, loop: loop, purged: purged, log: log, metrics: m}
}

// set replaces the peers. Those that stay keep their connections and what is known of their health.
func (s *Shield) set(self string, key ed25519.PrivateKey, peers []Peer) {
	s.setting.Lock()
	defer s.setting.Unlock()
	old := s.fleet.Load()
	next := &region{self: self, key: key, seed: seed(self)}
	for _, p := range peers {
		if p.Name == self {
			continue
		}
		next.peers = append(next.peers, s.peer(old, p))
	}
	s.fleet.Store(next)
	if old == nil {
		return
	}
	for _, p := range old.peers {
		if !slices.Contains(next.peers, p) {
			p.client.CloseIdleConnections()
		}
	}
}

func (s *Shield) peer(old *region, p Peer) *peer {
	if old != nil {
		for _, o := range old.peers {
			if o.Name == p.Name && o.URL == p.URL && o.Key.Equal(p.Key) {
				return o
			}
		}
	}
	return &peer{Peer: p, seed: seed(p.Name), care: newCare("peer", peerSlots, peerFailing, s.log.With("peer", p.Name), s.metrics), client: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:           (&net.Dialer{Timeout: peerDial}).DialContext,
			TLSHandshakeTimeout:   peerDial,
			ResponseHeaderTimeout: peerAnswer,
			MaxIdleConnsPerHost:   peerSlots,
			IdleConnTimeout:       time.Minute,
			DisableCompression:    true,
		}}}
}

// cares lists those of the peers.
func (s *Shield) cares() (out []*care) {
	if r := s.fleet.Load(); r != nil {
		for _, p := range r.peers {
			out = append(out, p.care)
		}
	}
	return out
}

// seed spreads names over 64 bits.
func seed(name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return mix(h.Sum64())
}

// mix is the finalizer of SplitMix64: each bit of the input changes half of the output's.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// spot is where a key stands among the edges. It is the key's and not the object's: of a plain HTTP origin's resource an edge
// knows nothing else before the first answer, and what follows is to come from the same edge.
func spot(r *Route, key string) uint64 { return seed(id(r, key)) }

// weight ranks an edge for a spot.
func weight(seed, spot uint64) uint64 { return mix(seed ^ spot) }

// owners lists whom to ask for what stands at a spot, best first; none when this edge is the one, or nobody better is left. All
// edges with the same list agree, but for load.
func (r *region) owners(o uint64) []*peer {
	own := weight(r.seed, o)
	total := int64(1)
	var better []*peer
	for _, p := range r.peers {
		total += p.care.busy.Load()
		if weight(p.seed, o) > own {
			better = append(better, p)
		}
	}
	slices.SortFunc(better, func(a, b *peer) int { return cmp.Compare(weight(b.seed, o), weight(a.seed, o)) })
	limit := max(loadFloor, int64(math.Ceil(float64(total)*loadFactor/4/float64(len(r.peers)+1))))
	better = slices.DeleteFunc(better, func(p *peer) bool { return p.care.busy.Load() >= limit })
	return better[:min(len(better), peerTries)]
}

// remote reports whether a peer would be asked for an object: one that all edges know by the same name and bytes.
func (s *Shield) remote(m *Meta) bool {
	return !m.alone && m.Strong && !m.part() && len(m.Fields.get("Vary")) == 0 && len(s.owners(spot(m.Route, m.Key))) > 0
}

func (s *Shield) owners(o uint64) []*peer {
	if r := s.fleet.Load(); r != nil {
		return r.owners(o)
	}
	return nil
}

// Fetch implements Source.
func (s *Shield) Fetch(ctx context.Context, w Want) iter.Seq2[Piece, error] {
	if !s.remote(w.Meta) {
		return s.below.Fetch(ctx, w)
	}
	return func(yield func(Piece, error) bool) {
		r := s.fleet.Load()
		for _, p := range r.owners(spot(w.Meta.Route, w.Meta.Key)) {
			err := s.ask(ctx, r, p, &w, yield)
			if err == nil || err == errStopped {
				s.metrics.peerRuns.WithLabelValues("served").Inc()
				return
			}
			if ctx.Err() != nil {
				yield(Piece{}, ctx.Err())
				return
			}
			if errors.Is(err, errDeclined) { // it lives: the next one would say no better
				s.metrics.peerRuns.WithLabelValues("declined").Inc()
				break
			}
			s.metrics.peerRuns.WithLabelValues("down").Inc()
			p.care.complain(w.Meta.Key, err)
		}
		for p, err := range s.below.Fetch(ctx, w) {
			if !yield(p, err) {
				return
			}
		}
	}
}

// errDeclined: a peer answered, but not with the bytes wanted. That is no fault of its own: its origin may be down, its
// list of peers may be older, or it may know another version.
var errDeclined = fmt.Errorf("peer declined: %w", media.ErrNotFound)

// parent sends a GET for a key of an HTTP origin to the edges that own it: a shared cache in front of that origin, whose answers
// are as good as the origin's (RFC 9111 4.2.3 has their age). nil: none of them could answer, and the origin is to be asked.
func (s *Shield) parent(ctx context.Context, route *Route, key string, header http.Header) *http.Response {
	r := s.fleet.Load()
	if r == nil {
		return nil
	}
	for _, p := range r.owners(spot(route, key)) {
		resp, l, err := perform(ctx, p.care, call[*http.Response]{verb: "peer", once: func(ctx context.Context) (*http.Response, error) {
			h := header.Clone()
			if err := s.introduce(h, r, p); err != nil {
				return nil, err
			}
			h.Set(routedTo, route.http().name)
			at := &HTTPOrigin{base: p.URL + strings.TrimSuffix(route.Prefix, "/"), client: p.client, bodies: p.client}
			resp, err := at.send(ctx, http.MethodGet, key, h, nil)
			if err != nil {
				return nil, err
			}
			// 401 and 403: it does not know this edge yet. 5xx: it says no better than the origin itself.
			if c := resp.StatusCode; c >= 500 || c == http.StatusUnauthorized || c == http.StatusForbidden || resp.Header.Get("Cache-Status") == "" {
				resp.Body.Close()
				return nil, fmt.Errorf("%s: %w", resp.Status, errDeclined)
			}
			return resp, nil
		}})
		if err == nil {
			s.metrics.peerRuns.WithLabelValues("served").Inc()
			resp.Body = newCaredBody(resp.Body, l, -1)
			return resp
		}
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errDeclined) {
			s.metrics.peerRuns.WithLabelValues("declined").Inc()
			return nil
		}
		s.metrics.peerRuns.WithLabelValues("down").Inc()
		p.care.complain(key, err)
	}
	return nil
}

// introduce adds to a request for a peer who asks, and how far it has purged.
func (s *Shield) introduce(h http.Header, r *region, p *peer) error {
	token, err := p.sign(r, time.Now())
	if err != nil {
		return err
	}
	h.Set("Segue-Peer", token)
	h.Add("Cdn-Loop", s.loop) // RFC 8586 2
	if n := s.purged(); n > 0 {
		h.Set(purgedTo, strconv.FormatInt(n, 10))
	}
	return nil
}

// ask gets the blocks of w from a peer and moves w over what was handed on.
func (s *Shield) ask(ctx context.Context, r *region, p *peer, w *Want, yield func(Piece, error) bool) error {
	rng := w.bytes()
	target := p.URL + (&url.URL{Path: w.Meta.Route.Prefix + w.Meta.Key}).EscapedPath()
	if w.Meta.Route.http() != nil {
		target = p.URL + w.Meta.Route.Prefix + w.Meta.Key
	}
	body, l, err := perform(ctx, p.care, call[io.ReadCloser]{verb: "peer", once: func(ctx context.Context) (io.ReadCloser, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errDeclined, err)
		}
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", rng.Offset, rng.Offset+rng.Length-1))
		req.Header.Set("If-Match", w.Meta.ETag) // RFC 9110 13.1.1
		if err := s.introduce(req.Header, r, p); err != nil {
			return nil, err
		}
		resp, err := p.client.Do(req)
		if err != nil {
			if u, ok := errors.AsType[*url.Error](err); ok {
				err = u.Err
			}
			return nil, err
		}
		first, length, whole, err := extent(resp)
		etag, _ := policy.Validators(resp.Header, whole)
		if err != nil || resp.StatusCode != http.StatusPartialContent || first != rng.Offset || length != rng.Length || whole != w.Meta.Whole || etag != w.Meta.ETag {
			resp.Body.Close()
			return nil, fmt.Errorf("%s: %w", resp.Status, errDeclined)
		}
		return resp.Body, nil
	}})
	if err != nil {
		return err
	}
	in := newCaredBody(body, l, rng.Length)
	defer in.Close()
	return blocks(in, w, s.alloc, TierShield, yield)
}

// sign returns a token by which a peer knows this edge; one serves for most of its life.
func (p *peer) sign(r *region, now time.Time) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	mine := r.key.Public().(ed25519.PublicKey)
	if now.Before(p.renew) && p.signed.Equal(mine) {
		return p.token, nil
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.RegisteredClaims{Issuer: r.self, Subject: r.self, Audience: jwt.ClaimStrings{peerIssue + p.Name},
		IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(peerTokenOK))}).SignedString(r.key)
	if err != nil {
		return "", fmt.Errorf("bug: %w", err)
	}
	p.token, p.renew, p.signed = token, now.Add(peerTokenOK-2*clockSkew), mine
	return token, nil
}

// knows reports whether a token is a peer's for this edge. A good one is remembered until its end, or until the list of
// peers changes.
func (s *Shield) knows(token string, now time.Time) bool {
	r := s.fleet.Load()
	if r == nil {
		return false
	}
	if until, ok := r.known.Load(token); ok && now.Before(until.(time.Time)) {
		return true
	}
	var c jwt.RegisteredClaims
	_, err := jwt.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) {
		for _, p := range r.peers {
			if p.Name == c.Issuer && len(p.Key) == ed25519.PublicKeySize {
				return p.Key, nil
			}
		}
		return nil, media.ErrNoAccess
	}, jwt.WithValidMethods([]string{"EdDSA"}), jwt.WithAudience(peerIssue+r.self), jwt.WithExpirationRequired(), jwt.WithIssuedAt(),
		jwt.WithLeeway(clockSkew), jwt.WithTimeFunc(func() time.Time { return now }))
	if err != nil || c.Subject != c.Issuer || c.IssuedAt == nil || c.ExpiresAt.Sub(c.IssuedAt.Time) > time.Minute {
		s.metrics.peersRefused.Inc()
		return false
	}
	r.known.Range(func(k, until any) bool { // a peer has a new one every half minute: there are never many
		if !now.Before(until.(time.Time)) {
			r.known.Delete(k)
		}
		return true
	})
	r.known.Store(strings.Clone(token), c.ExpiresAt.Time)
	return true
}
