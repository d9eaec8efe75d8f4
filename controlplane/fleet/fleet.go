// Package fleet admits edges, hears their heartbeats and hands them their configuration.
//
//	operator -> join token -> edge joins with its public key -> signs heartbeats (2 s) and config polls with it
//
// The identity of an edge is its Ed25519 key: no secret of an edge is ever here.
//
//	operator -> resources, checked as a whole, each change a revision -> release, a snapshot -> activation -> edges, by and by
//	                  '-> state: what edges are answered with and players are steered by, in memory
//
// docs/decisions/0009-fleet-revisions.md says what counts when.
package fleet

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/geo"
	"segue/internal/registry"
	"segue/media"

	"github.com/golang-jwt/jwt/v5"
	"github.com/oklog/ulid/v2"
)

// Audience is aud of the JWTs that edges sign.
const Audience = "segue-fleet"

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Service is safe for concurrent use.
type Service struct {
	db    *store.DB
	nodes *registry.Health
	keys  func() []api.TokenKey // verify-only

	news newest // purge

	recalled newest // revocations

	// Steering is how edges are chosen where no declared policy says it. It is set before use.
	Steering  geo.Policy
	begun     time.Time
	reloading sync.Mutex // one at a time
	state     atomic.Pointer[state]
	known     atomic.Value // string: the key that all edges were found to know last

	mu      sync.Mutex           // guards the fields below
	busy    map[string]time.Time // by edge: when it last had requests
	beats   map[string]api.Heartbeat
	ids     map[string][]byte          // public keys of the edges that there are
	purged  map[string]int64           // by edge: the epoch that it acknowledged
	members map[string]registry.Member // the edges that there are, as SQL said last

	// Share, when set before use, carries this replica's heartbeats to the others, which give them to Shared.
	Share func([]byte)
	self  string // marks the own ones: not the replica's name, two may have the same by mistake
}

// New returns the service; keys gives the public halves that edges verify tokens with.
func New(db *store.DB, nodes *registry.Health, keys func() []api.TokenKey) *Service {
	return &Service{db: db, nodes: nodes, keys: keys, beats: map[string]api.Heartbeat{}, ids: map[string][]byte{}, purged: map[string]int64{},
		busy: map[string]time.Time{}, begun: time.Now(), members: map[string]registry.Member{}, self: rand.Text()}
}

// NewJoinToken makes a token that admits edges into one region.
func (s *Service) NewJoinToken(ctx context.Context, n api.NewJoinToken) (api.JoinToken, error) {
	ttl, uses := time.Duration(n.TTLSeconds)*time.Second, n.MaxUses
	if ttl == 0 {
		ttl = time.Hour
	}
	if uses == 0 {
		uses = 1
	}
	if ttl < 0 || ttl > 24*time.Hour || uses < 0 || uses > 1000 {
		return api.JoinToken{}, fmt.Errorf("ttl_seconds: want at most 86400; max_uses: at most 1000: %w", media.ErrInvalid)
	}
	r, err := Get[api.NewRegion](ctx, s, KindRegion, n.Region)
	if err != nil {
		return api.JoinToken{}, err
	}
	if r.Spec.State == api.StateDisabled || r.DrainUntil != nil {
		return api.JoinToken{}, fmt.Errorf("region %s takes no edges: %w", n.Region, ErrInUse)
	}
	t := api.JoinToken{Token: "sgj_" + rand.Text(), Region: n.Region, ExpiresAt: time.Now().Add(ttl).UTC().Truncate(time.Second), UsesLeft: uses}
	hash := digest(t.Token)
	t.ID = joinTokenID(hash)
	_, err = s.db.ExecContext(ctx, `INSERT INTO join_tokens (hash, id, region, expires_at, uses_left) VALUES ($1, $2, $3, $4, $5)`, hash, t.ID, t.Region, store.Micros(t.ExpiresAt), uses)
	return t, err
}

// joinTokenID names a join token in public.
func joinTokenID(hash string) string { return hash[:26] }

// JoinTokens lists those that still admit edges, by id from after on, without their secrets.
func (s *Service) JoinTokens(ctx context.Context, after string, limit int) (list []api.JoinToken, err error) {
	list = []api.JoinToken{}
	err = each(ctx, s.db, `SELECT id, region, expires_at, uses_left FROM join_tokens WHERE id > $1 AND expires_at > $2 AND uses_left > 0 ORDER BY id LIMIT $3`, func(scan func(...any) error) error {
		var t api.JoinToken
		var ends int64
		err := scan(&t.ID, &t.Region, &ends, &t.UsesLeft)
		t.ExpiresAt = store.Time(ends)
		list = append(list, t)
		return err
	}, after, store.Micros(time.Now()), limit)
	return list, err
}

// JoinToken returns one without its secret, or media.ErrNotFound: also when it has ended or is used up.
func (s *Service) JoinToken(ctx context.Context, id string) (api.JoinToken, error) {
	t := api.JoinToken{ID: id}
	var ends int64
	err := s.db.QueryRowContext(ctx, `SELECT region, expires_at, uses_left FROM join_tokens WHERE id = $1 AND expires_at > $2 AND uses_left > 0`, id, store.Micros(time.Now())).
		Scan(&t.Region, &ends, &t.UsesLeft)
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("join token: %w", media.ErrNotFound)
	}
	t.ExpiresAt = store.Time(ends)
	return t, err
}

// DeleteJoinToken takes one back. Errors: media.ErrNotFound.
func (s *Service) DeleteJoinToken(ctx context.Context, id string) error {
	res, err := s.db.ExecContext(ctx, `DELETE FROM join_tokens WHERE id = $1`, id)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil {
		return err
	} else if n == 0 {
		return fmt.Errorf("join token: %w", media.ErrNotFound)
	}
	return nil
}

// Join admits an edge. Errors: media.ErrInvalid; media.ErrNoAccess for a bad token; ErrNameTaken.
func (s *Service) Join(ctx context.Context, j api.Join) (api.Joined, error) {
	if !nameForm.MatchString(j.Name) {
		return api.Joined{}, fmt.Errorf("name: want lower-case letters, digits and dashes: %w", media.ErrInvalid)
	}
	if err := checkURL(j.URL); err != nil {
		return api.Joined{}, err
	}
	if len(j.PublicKey) != ed25519.PublicKeySize {
		return api.Joined{}, fmt.Errorf("public_key: want %d bytes of Ed25519: %w", ed25519.PublicKeySize, media.ErrInvalid)
	}
	key := base64.StdEncoding.EncodeToString(j.PublicKey)
	var out api.Joined
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		now := store.Micros(time.Now())
		var region string
		err := tx.QueryRowContext(ctx, `SELECT region FROM join_tokens WHERE hash = $1 AND expires_at > $2`, digest(j.Token), now).Scan(&region)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("join token is unknown or has expired: %w", media.ErrNoAccess)
		} else if err != nil {
			return err
		}
		// The same key again is the same edge: it lost its answer, or its folder's edge.id.
		err = tx.QueryRowContext(ctx, `SELECT id, region FROM edges WHERE public_key = $1`, key).Scan(&out.EdgeID, &out.Region)
		if err == nil || !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		res, err := tx.ExecContext(ctx, `UPDATE join_tokens SET uses_left = uses_left - 1 WHERE hash = $1 AND uses_left > 0`, digest(j.Token))
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil {
			return err
		} else if n == 0 {
			return fmt.Errorf("join token is used up: %w", media.ErrNoAccess)
		}
		if st := s.state.Load(); st != nil && (st.regions[region].Spec.State == api.StateDisabled || st.regions[region].DrainUntil != nil) {
			return fmt.Errorf("region %s takes no edges: %w", region, media.ErrDenied)
		}
		out = api.Joined{EdgeID: ulid.Make().String(), Region: region}
		_, err = tx.ExecContext(ctx, `INSERT INTO edges (id, name, region, url, public_key, created_at) VALUES ($1, $2, $3, $4, $5, $6)`, out.EdgeID, j.Name, region, j.URL, key, now)
		if store.Duplicate(err) {
			return ErrNameTaken
		}
		return err
	})
	if err == nil {
		err = s.Reload(ctx)
	}
	return out, err
}

// ErrNameTaken: another edge has the name.
var ErrNameTaken = errors.New("another edge has this name; choose another, or delete that edge")

func checkURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.Path != "" || u.RawQuery != "" || u.User != nil {
		return fmt.Errorf("url: want http(s)://host[:port] with no path: %w", media.ErrInvalid)
	}
	return nil
}

// Verify reads the JWT that an edge signed and returns the edge's id. Errors: media.ErrNoAccess.
func (s *Service) Verify(ctx context.Context, token string) (string, error) {
	var c jwt.RegisteredClaims
	qctx, cancel := context.WithTimeout(ctx, lookFor)
	defer cancel()
	_, err := jwt.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		var key string
		if err := s.db.QueryRowContext(qctx, `SELECT public_key FROM edges WHERE id = $1`, c.Issuer).Scan(&key); err != nil {
			return s.keyWithoutDatabase(c.Issuer, err)
		}
		b, err := base64.StdEncoding.DecodeString(key)
		return ed25519.PublicKey(b), err
	}, jwt.WithValidMethods([]string{"EdDSA"}), jwt.WithAudience(Audience), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(clockLeeway))
	if err != nil || c.Subject != c.Issuer || c.IssuedAt == nil || c.ExpiresAt.Sub(c.IssuedAt.Time) > time.Minute {
		return "", fmt.Errorf("edge identity is not valid: %w", media.ErrNoAccess)
	}
	return c.Issuer, nil
}

// Heartbeat notes that an edge lives.
func (s *Service) Heartbeat(ctx context.Context, id string, h api.Heartbeat) (api.HeartbeatReply, error) {
	if err := checkURL(h.URL); err != nil {
		return api.HeartbeatReply{}, err
	}
	now := time.Now()
	m, err := s.member(ctx, id)
	if err != nil {
		return api.HeartbeatReply{}, err
	}
	s.heard(m, h, now)
	return api.HeartbeatReply{Draining: m.Draining || s.state.Load().draining(id) != "", Now: time.Now().UTC()}, nil
}

// Edges lists all edges by name.
func (s *Service) Edges(ctx context.Context) ([]api.Edge, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT id, name, region, url, draining FROM edges ORDER BY name`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []api.Edge{}
	conditions := s.conditions()
	for rows.Next() {
		var e api.Edge
		var draining int
		if err := rows.Scan(&e.ID, &e.Name, &e.Region, &e.URL, &draining); err != nil {
			return nil, err
		}
		s.describe(&e, conditions[e.ID], draining != 0 || s.state.Load().draining(e.ID) != "")
		out = append(out, e)
	}
	return out, rows.Err()
}

// Drain takes an edge out of every answer, or back; the edge hears of it with its next heartbeat.
func (s *Service) Drain(ctx context.Context, id string, on bool) error {
	flag := 0
	if on {
		flag = 1
	}
	res, err := s.db.ExecContext(ctx, `UPDATE edges SET draining = $1 WHERE id = $2`, flag, id)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil {
		return err
	} else if n == 0 {
		return fmt.Errorf("edge %s: %w", id, media.ErrNotFound)
	}
	return s.Reload(ctx)
}

// Config is the configuration of an edge now. Its revision changes when anything else in it does. It asks no database:
// it is called a few times a second for each edge that waits.
func (s *Service) Config(id, issuer string) (api.EdgeConfig, error) {
	st := s.state.Load()
	if st == nil {
		return api.EdgeConfig{}, fmt.Errorf("the configuration is not read yet: %w", media.ErrBusy)
	}
	c := api.EdgeConfig{Issuer: issuer, Keys: append(s.keys(), st.verify(time.Now())...), Peers: s.peers(id)}
	release := st.parts[part{st.wanted[id], st.edges[id].region}]
	b, err := json.Marshal(c)
	if err != nil {
		return c, fmt.Errorf("bug: %w", err)
	}
	what := string(b)
	if release != nil {
		what += fmt.Sprint(" ", release.Number, " ", release.Digest)
	}
	c.Revision, c.Release = digest(what)[:16], release
	return c, nil
}

// peers lists the healthy edges that share a region with one. Draining ones are none: what they own moves on before they
// leave. An edge that was not heard yet has no peers.
func (s *Service) peers(id string) []api.Peer {
	nodes := s.Nodes(time.Now())
	region := ""
	for _, n := range nodes {
		if n.ID == id {
			region = n.Region
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []api.Peer{}
	for _, n := range nodes {
		if key := s.ids[n.ID]; n.ID != id && n.Region == region && n.Healthy && !n.Draining && key != nil {
			out = append(out, api.Peer{Name: n.Name, Region: n.Region, URL: n.URL, PublicKey: key})
		}
	}
	return out
}

func digest(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}
