// Package fleet is an edge's side of the fleet: it joins once, then says every two seconds that it lives and polls for
// its configuration. Identity and last configuration are kept in a folder: an edge that starts while the control plane
// is away serves with what it knew.
//
//	identity.key   Ed25519 seed, mode 0600       edge.json   id and region       config.json   the last EdgeConfig, with the release in force
package fleet

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"segue/controlplane/api"
	"segue/edge"
	"segue/internal/registry"
	"segue/internal/serve"
	"segue/media/cat"

	"github.com/cenkalti/backoff/v5"
	"github.com/golang-jwt/jwt/v5"
)

// Config says which control plane, and who this edge is.
type Config struct {
	ControlPlane string // base URL
	Name         string // the pathway id; unique in the fleet
	PublicURL    string // how players reach this edge
	JoinToken    string // needed the first time only
	Dir          string
	Version      string
	Spool        *edge.Spool // the request log to hand over; nil: none

	// AllowOrigins are the hosts, with or without port, that a release may name as origins: *.example.org is all below it. Empty:
	// any. What an edge may reach is also its operator's to say.
	AllowOrigins []string
	// Open opens an origin that is none of plain HTTP, by its URL; nil: there are no others here.
	Open func(context.Context, api.EdgeOrigin) (edge.Origin, error)

	Tier           string  // edge or shield; empty: edge
	CapacityBps    float64 // what it can send; 0: not said
	Weight         float64 // its share among equals; 0: 1
	MaxConnections int64   // 0: not said
	DiskSize       int64   // bytes that its disk tier may have; 0: none
	Registry       Announcer
}

// Announcer is where the edge says that it lives, beside the control plane; nil: nowhere.
type Announcer interface {
	Announce(ctx context.Context, b registry.Beat) error
	Withdraw(ctx context.Context, id string) error
}

const (
	beatEvery = registry.BeatEvery
	audience  = "segue-fleet"
	// A control plane that was away comes back to all edges at once: they ask again after pauses that grow and differ.
	minPause = time.Second
	maxPause = 8 * time.Second
)

// Member is a member of the fleet.
type Member struct {
	cfg      Config
	edge     *edge.Edge
	log      *slog.Logger
	key      ed25519.PrivateKey
	joined   api.Joined
	client   *api.Client
	revision atomic.Value // string; the heartbeat says it
	trusted  string       // what of the configuration the edge's keys were made of
	revoked  revocations

	release *api.EdgeRelease       // in force; nil: none
	origins map[string]edge.Origin // of it, by what they were made of
	state   api.EdgeState          // what the control plane is to know
	told    *api.EdgeState         // what it was told last in this life
	unkept  *api.EdgeConfig        // that is to be written down for a restart; nil: it is

	clock clock
	said  atomic.Value // api.Heartbeat, the last
	out   atomic.Bool  // it drains
}

// Join reads the identity of an earlier life, or makes one and joins. It applies the configuration kept, if there is
// one. A control plane that refuses the join is a serve.SetupError; one that is away is waited for, until ctx ends.
func Join(ctx context.Context, cfg Config, e *edge.Edge, log *slog.Logger) (*Member, error) {
	m := &Member{cfg: cfg, edge: e, log: log}
	var err error
	if m.client, err = api.NewClient(cfg.ControlPlane, m.sign); err != nil {
		return nil, serve.SetupError{Err: err}
	}
	m.client.Through(func(next http.RoundTripper) http.RoundTripper { return through{next, &m.clock} })
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, serve.Setupf("edge folder: %w", err)
	}
	if m.key, err = openKey(filepath.Join(cfg.Dir, "identity.key")); err != nil {
		return nil, err
	}
	if err := m.read("edge.json", &m.joined); err != nil {
		return nil, err
	}
	if m.joined.EdgeID == "" {
		if err := m.join(ctx); err != nil {
			return nil, err
		}
	}
	m.openRevocations()
	var kept api.EdgeConfig
	if err := m.read("config.json", &kept); err != nil {
		return nil, err
	}
	if kept.Revision != "" {
		m.apply(ctx, kept)
	}
	return m, nil
}

func (m *Member) join(ctx context.Context) error {
	open, err := api.NewClient(m.cfg.ControlPlane, nil)
	if err != nil {
		return serve.SetupError{Err: err}
	}
	waiting := false
	m.joined, err = backoff.Retry(ctx, func() (j api.Joined, err error) {
		err = open.Call(ctx, http.MethodPost, "/v1/fleet/join", api.Join{Token: m.cfg.JoinToken, Name: m.cfg.Name, URL: m.cfg.PublicURL,
			PublicKey: m.key.Public().(ed25519.PublicKey), Version: m.cfg.Version}, &j)
		if p, ok := errors.AsType[*api.Problem](err); ok && p.Status < 500 && p.Status != http.StatusTooManyRequests {
			return j, backoff.Permanent(serve.Setupf("the control plane refuses this edge: %w", err))
		}
		if err != nil && !waiting {
			waiting = true
			m.log.Warn("waiting for the control plane to join", "err", err)
		}
		return j, err
	}, backoff.WithMaxElapsedTime(0))
	if err != nil {
		return err
	}
	return m.write("edge.json", m.joined)
}

// Run beats and polls until ctx ends. Its last act is a heartbeat that says "draining", so that players leave at once.
func (m *Member) Run(ctx context.Context, ready func()) error {
	if err := m.catchUp(ctx); err != nil { // before the first heartbeat: players are sent here after it
		m.log.Warn("purges of the time away are not known yet; asking on", "err", err)
	}
	if err := m.askRevoked(ctx, ""); err != nil {
		m.log.Warn("revocations of the time away are not known yet; asking on", "err", err)
	}
	if err := m.poll(ctx, false); err != nil { // the first keys; without them nothing protected can be served
		m.log.Warn("no configuration from the control plane, going on with what is known", "err", err)
	}
	var before edge.Counters
	var beforeCPU time.Duration
	last := time.Now()
	var trip time.Duration
	wrong := false
	beat := func(ctx context.Context, draining bool) error {
		now, c, cpu := time.Now(), m.edge.Counters(), cpuTime()
		sec := max(now.Sub(last).Seconds(), 0.001)
		h := api.Heartbeat{URL: m.cfg.PublicURL, Version: m.cfg.Version, At: now.UTC(), Draining: draining, Connections: c.Connections,
			EgressBps: int64(float64(c.ServedBytes-before.ServedBytes) * 8 / sec), RequestsPerSec: float64(c.Requests-before.Requests) / sec,
			CPURatio: min(1, (cpu-beforeCPU).Seconds()/sec/float64(runtime.NumCPU())), MemoryBytes: c.MemoryBytes, DiskBytes: c.DiskBytes, ConfigRevision: m.configured(),
			Tier: m.cfg.Tier, CapacityBps: m.cfg.CapacityBps, Weight: m.cfg.Weight, MaxConnections: m.cfg.MaxConnections, DiskSizeBytes: m.cfg.DiskSize, RoundTripMS: trip.Milliseconds()}
		if n := c.Requests - before.Requests; n > 0 {
			h.HitRatio = float64(c.Hits-before.Hits) / float64(n)
		}
		before, beforeCPU, last = c, cpu, now
		m.said.Store(h)
		bctx, cancel := context.WithTimeout(ctx, beatEvery)
		defer cancel()
		var r api.HeartbeatReply
		sent := time.Now()
		err := m.client.Call(bctx, http.MethodPost, "/v1/fleet/heartbeat", h, &r)
		if err != nil {
			trip = 0
			return err
		}
		trip = time.Since(sent)
		if skew := sent.Add(trip / 2).Sub(r.Now); !r.Now.IsZero() && (skew.Abs()-trip/2 > cat.Leeway) != wrong {
			if wrong = !wrong; wrong {
				m.log.Error("the clock of this machine is wrong: good tokens are refused, or old ones taken, and few players are sent here; set it", "skew", skew.Round(time.Millisecond).String())
			} else {
				m.log.Info("the clock is right again")
			}
		}
		if !draining {
			m.edge.Drain(r.Draining)
			m.out.Store(r.Draining)
		}
		return nil
	}
	beforeCPU = cpuTime()
	err := beat(ctx, false)
	ready()
	var pollers sync.WaitGroup
	defer pollers.Wait()
	if m.cfg.Registry != nil {
		pollers.Go(func() { m.announce(ctx) })
	}
	pollers.Go(func() { m.followPurges(ctx) })
	if m.cfg.Spool != nil {
		pollers.Go(func() { m.ship(ctx, m.cfg.Spool) })
	}
	pollers.Go(func() { m.followRevoked(ctx) })
	pollers.Go(func() {
		var p pause
		for ctx.Err() == nil {
			err := errors.Join(m.say(ctx), m.poll(ctx, true))
			if err != nil && ctx.Err() == nil {
				m.log.Debug("poll of the configuration", "err", err)
			}
			p.after(ctx, err)
		}
	})
	lost := false
	for ctx.Err() == nil {
		if was := lost; (err != nil) != was {
			if lost = err != nil; lost {
				m.log.Warn("control plane is out of reach, serving on", "err", err)
			} else {
				m.log.Info("control plane is back")
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(beatEvery - time.Duration(rand.Int64N(int64(beatEvery/10)))): // edges that began together do not stay so
			err = beat(ctx, false)
		}
	}
	pollers.Wait()
	_ = beat(context.WithoutCancel(ctx), true) // without it, silence says the same three seconds later
	return nil
}

// pause is between two tries of a call that fails: it doubles from minPause to maxPause, and each is anything from a half of
// that to one and a half. The zero value is ready.
type pause struct{ now time.Duration }

// after waits when err is not nil, until ctx ends at most.
func (p *pause) after(ctx context.Context, err error) {
	if err == nil {
		p.now = 0
		return
	}
	p.now = min(max(2*p.now, minPause), maxPause)
	select {
	case <-ctx.Done():
	case <-time.After(p.now/2 + time.Duration(rand.Int64N(int64(p.now)))):
	}
}

// poll asks for the configuration; with wait, for one that is not the current.
func (m *Member) poll(ctx context.Context, wait bool) error {
	path := "/v1/fleet/config"
	if wait {
		path += "?wait=25s"
	}
	var c api.EdgeConfig
	changed, err := m.client.Poll(ctx, path, m.configured(), &c)
	if err != nil || !changed {
		return err
	}
	if !m.apply(ctx, c) {
		c.Release, c.Revision = m.release, c.Revision+refused
	}
	m.unkept = &c
	return m.say(ctx)
}

// refused marks the revision of a configuration that is kept without its release: after a restart it is asked for again.
const refused = " without its release"

// say tells the control plane what became of the last configuration, if it does not know yet. That peers came or went is no
// news to it: else each of a hundred edges that join would have ninety-nine others write to it.
func (m *Member) say(ctx context.Context) error {
	if m.state.Revision == "" { // none yet
		return nil
	}
	if m.unkept != nil { // it is in force, but a restart would not know it: that is nothing to acknowledge
		if err := m.write("config.json", *m.unkept); err != nil {
			m.log.Error("the configuration is not kept for a restart, trying on", "err", err)
			return err
		}
		m.unkept = nil
	}
	if m.told != nil {
		same := *m.told
		same.Revision = m.state.Revision
		if reflect.DeepEqual(same, m.state) {
			return nil
		}
	}
	now := m.state
	sctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := m.client.Call(sctx, http.MethodPut, "/v1/fleet/state", now, nil); err != nil {
		return err
	}
	m.told = &now
	return nil
}

// configured is the revision in force; "": none yet.
func (m *Member) configured() string {
	revision, _ := m.revision.Load().(string)
	return revision
}

// apply puts a configuration in force: keys, revocations and peers always, the release whole or not at all. It reports
// whether the release is in force.
func (m *Member) apply(ctx context.Context, c api.EdgeConfig) bool {
	m.revision.Store(c.Revision)
	m.trust(c)
	m.state = api.EdgeState{Revision: strings.TrimSuffix(c.Revision, refused), Keys: []string{}}
	for _, k := range c.Keys {
		m.state.Keys = append(m.state.Keys, k.ID)
	}
	err := m.run(ctx, c.Release)
	if m.release != nil {
		m.state.Release = m.release.Number
	}
	if err != nil {
		m.log.Error("a release is refused, the one before it goes on", "release", c.Release.Number, "in_force", m.state.Release, "err", err)
		m.state.Refused, m.state.Reason = c.Release.Number, fmt.Sprintf("%.1000s", err)
	}
	return err == nil
}

// trust takes keys, revocations and peers over. Peers come and go often, keys do not: a new Trust costs the edge all verdicts
// that it remembers, so an old one is left alone.
func (m *Member) trust(c api.EdgeConfig) {
	peers := make([]edge.Peer, 0, len(c.Peers))
	for _, p := range c.Peers {
		peers = append(peers, edge.Peer{Name: p.Name, URL: p.URL, Key: p.PublicKey})
	}
	m.edge.SetPeers(m.cfg.Name, m.key, peers)
	trusted, err := json.Marshal(api.EdgeConfig{Issuer: c.Issuer, Keys: c.Keys})
	if err == nil && string(trusted) == m.trusted {
		return
	}
	m.trusted = string(trusted)
	t := edge.Trust{Issuer: c.Issuer}
	for _, k := range c.Keys {
		key := cat.Key{ID: k.ID, Alg: k.Alg}
		if k.Alg == cat.EdDSA {
			key.Public = k.Key
		} else {
			key.Secret = k.Key
		}
		t.Keys = append(t.Keys, key)
	}
	m.keys(t)
}

// sign makes the JWT of one call.
func (m *Member) sign() (string, error) {
	now := m.clock.now()
	return jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.RegisteredClaims{Issuer: m.joined.EdgeID, Subject: m.joined.EdgeID, Audience: jwt.ClaimStrings{audience},
		IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(45 * time.Second))}).SignedString(m.key)
}

func openKey(path string) (ed25519.PrivateKey, error) {
	seed, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		_, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			return nil, fmt.Errorf("bug: %w", err)
		}
		if err := os.WriteFile(path, private.Seed(), 0o600); err != nil {
			return nil, serve.Setupf("edge folder: %w", err)
		}
		return private, nil
	}
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, serve.Setupf("%s is damaged or cannot be read; delete the folder and join again", path)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

func (m *Member) read(name string, out any) error {
	b, err := os.ReadFile(filepath.Join(m.cfg.Dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, out)
	}
	if err != nil {
		return serve.Setupf("%s: %w; delete it to get it again from the control plane", filepath.Join(m.cfg.Dir, name), err)
	}
	return nil
}

func (m *Member) write(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("bug: %w", err)
	}
	path := filepath.Join(m.cfg.Dir, name)
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil { // else a power failure could leave the new name with nothing in it
		return err
	}
	return os.Rename(path+".new", path)
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
