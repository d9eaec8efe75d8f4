package steer

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"segue/geo"
	"segue/media"
	"segue/media/cat"

	"github.com/oklog/ulid/v2"
)

const (
	// snapshotFor is how old the registry's nodes may be in an answer: little beside the three seconds of silence after
	// which a node is dead, and much beside the time that an answer takes.
	snapshotFor = 100 * time.Millisecond

	// half is the part of a token's life after which a play gets the next one: a player that pauses for an hour still has a
	// token that works.
	half = 3 * time.Hour

	// maxPlay is how long a play can be renewed from its beginning.
	maxPlay = 24 * time.Hour

	// maxGrants bounds the tokens that are remembered as verified, in each of two generations: some 500 bytes each.
	maxGrants = 20_000
)

// Config is what steering asks of others. All but Policy are required.
type Config struct {
	Nodes  func(now time.Time) []geo.Node
	Locate func(netip.Addr) geo.Place
	Issuer string                                                   // iss of access tokens
	Keys   func() []cat.Key                                         // the first one signs, all verify
	Object func(ctx context.Context, key media.Key) ([]byte, error) // a small object of the origin
	Policy func(object string) (p geo.Policy, name string)          // how nodes are chosen for an object; nil: as by default
}

// Service is safe for concurrent use.
type Service struct {
	cfg    Config
	nodes  atomic.Pointer[snapshot]
	grants grants
	files  files
}

// New wires what steering asks.
func New(c Config) *Service {
	if c.Policy == nil {
		c.Policy = func(string) (geo.Policy, string) { return geo.Policy{}, "" }
	}
	return &Service{cfg: c}
}

type snapshot struct {
	at     time.Time
	nodes  []geo.Node
	byName map[string]*geo.Node
}

func (s *Service) snapshot(now time.Time) *snapshot {
	if p := s.nodes.Load(); p != nil && now.Sub(p.at) < snapshotFor && !now.Before(p.at) {
		return p
	}
	p := &snapshot{at: now, nodes: s.cfg.Nodes(now)}
	p.byName = make(map[string]*geo.Node, len(p.nodes))
	for i := range p.nodes {
		p.byName[p.nodes[i].Name] = &p.nodes[i]
	}
	s.nodes.Store(p)
	return p
}

// Explain decides as for a client that asks for an object, both as in Client.
func (s *Service) Explain(now time.Time, client netip.Addr, id, object string) (geo.Place, geo.Decision) {
	place := s.cfg.Locate(client)
	p, _ := s.cfg.Policy(object)
	return place, geo.Decide(geo.Client{Place: place, ID: id, Object: object, Tokens: strings.HasPrefix(object, "media/")}, s.snapshot(now).nodes, p)
}

// ErrNoEdge: no edge is healthy.
var ErrNoEdge = fmt.Errorf("no edge is there to serve this, try again soon: %w", media.ErrBusy)

// Redirect is the URL of a path on the edge that is best for a client. path begins with a slash and may have a query; what
// it may be is the edge's to judge.
func (s *Service) Redirect(now time.Time, client netip.Addr, object, path string) (string, error) {
	_, d := s.Explain(now, client, "", object)
	if len(d.Picks) == 0 {
		return "", ErrNoEdge
	}
	return d.Picks[0].URL + path, nil
}

// Grant is a play, as its token says.
type Grant struct {
	Token   string
	Play    string
	Folder  string // of the track's version, with its trailing slash
	Limited bool   // some renditions are not in it
	claims  cat.Claims
	begun   time.Time
	epoch   int // 0: the token that the play began with; each renewal is one more
}

// Grant reads an access token. Errors: media.ErrNoAccess for one that is none of ours; ErrOver.
func (s *Service) Grant(now time.Time, token string) (*Grant, error) {
	g := s.grants.get(token)
	if g == nil {
		c, err := cat.Verify(s.cfg.Keys(), s.cfg.Issuer, now, token)
		if err != nil {
			return nil, over(err)
		}
		folder, ok := strings.CutPrefix(c.PathPrefix, "/")
		if !ok || !strings.HasSuffix(folder, "/") || c.PlayID == "" {
			return nil, fmt.Errorf("this token is not that of a play: %w", media.ErrNoAccess)
		}
		g = &Grant{Token: token, Play: c.PlayID, Folder: folder, Limited: len(c.Renditions) > 0, claims: c, begun: c.NotBefore}
		if id, err := ulid.ParseStrict(c.PlayID); err == nil {
			g.begun = id.Timestamp()
		}
		// A minute for tokens that are cut to whole seconds.
		g.epoch = max(0, int(c.Expires.Sub(g.begun)+time.Minute)/int(half)-2)
		s.grants.put(token, g)
	}
	if now.After(g.claims.Expires.Add(cat.Leeway)) {
		return nil, ErrOver
	}
	return g, nil
}

// ErrOver: the play's token has ended. Players that are told so stop to ask.
var ErrOver = fmt.Errorf("this play is over: %w", media.ErrDenied)

func over(err error) error {
	if strings.Contains(err.Error(), "expired") {
		return ErrOver
	}
	return err
}

// renewed is the play's grant for now: the same, or with the next token when the one at hand is half over. A renewed token
// keeps its cti, so that who revokes a play revokes all of them.
func (s *Service) renewed(now time.Time, g *Grant) (*Grant, error) {
	if g.claims.Expires.Sub(now) > half {
		return g, nil
	}
	epoch := int(now.Sub(g.begun) / half)
	c := g.claims
	c.Expires = g.begun.Add(time.Duration(epoch+2) * half)
	if last := g.begun.Add(maxPlay); c.Expires.After(last) {
		c.Expires = last
	}
	c.Expires = c.Expires.Truncate(time.Second)
	if !c.Expires.After(g.claims.Expires.Add(time.Minute)) {
		return g, nil
	}
	token, err := cat.Mint(s.cfg.Keys()[0], c) // the same for the same epoch: EdDSA and the claims' encoding are deterministic
	if err != nil {
		return nil, fmt.Errorf("renew the token of play %s: %w", g.Play, err)
	}
	return s.Grant(now, token)
}

// pathwayID names an edge for a player: later tokens make it another pathway, since players ignore a clone that they know.
func (g *Grant) pathwayID(node string) string {
	if g.epoch == 0 {
		return node
	}
	return fmt.Sprintf("%s.t%d", node, g.epoch)
}

// nodeOf undoes pathwayID.
func nodeOf(pathway string) string {
	if i := strings.LastIndex(pathway, ".t"); i > 0 && strings.Trim(pathway[i+2:], "0123456789") == "" {
		return pathway[:i]
	}
	return pathway
}

func (g *Grant) folderOn(n *geo.Node) string { return n.URL + "/t/" + g.Token + "/" + g.Folder }

func (s *Service) decide(now time.Time, g *Grant, client netip.Addr) (*snapshot, geo.Decision) {
	snap := s.snapshot(now)
	p, _ := s.cfg.Policy(g.Folder)
	p.Max = cmp.Or(p.Max, 3)
	return snap, geo.Decide(geo.Client{Place: s.cfg.Locate(client), ID: g.Play, Object: g.Folder, Tokens: true}, snap.nodes, p)
}

// grants remembers verified tokens: a signature costs a hundred times a steering answer. When one generation is full the
// older one is dropped.
type grants struct {
	mu       sync.Mutex // guards the fields below
	now, old map[string]*Grant
}

func (c *grants) get(token string) *Grant {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.now[token]
	if g == nil {
		if g = c.old[token]; g != nil {
			c.keep(token, g)
		}
	}
	return g
}

func (c *grants) put(token string, g *Grant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keep(token, g)
}

func (c *grants) keep(token string, g *Grant) {
	if c.now == nil || len(c.now) >= maxGrants {
		c.old, c.now = c.now, make(map[string]*Grant, maxGrants/8)
	}
	c.now[token] = g
}
