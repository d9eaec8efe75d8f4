package edge

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"iter"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func testShield(self string, key ed25519.PrivateKey, peers []Peer) *Shield {
	s := newShield(nothing{}, nil, "loop", func() int64 { return 0 }, slog.New(slog.DiscardHandler), newMetrics(prometheus.NewRegistry()))
	s.set(self, key, peers)
	return s
}

// nothing is a Source that yields nothing.
type nothing struct{}

func (nothing) Fetch(context.Context, Want) iter.Seq2[Piece, error] {
	return func(func(Piece, error) bool) {}
}

func object(i int) ObjectID {
	sum := sha256.Sum256(fmt.Append(nil, i))
	return ObjectID(sum[:16])
}

func spotOf(i int) uint64 { return spot(&Route{Prefix: "/"}, fmt.Sprint(i)) }

// owner is the best edge for an object as each edge of the list sees it; they must agree.
func owner(t *testing.T, names []string, o uint64) string {
	t.Helper()
	_, key, _ := ed25519.GenerateKey(bytes.NewReader(make([]byte, 32)))
	got := ""
	for _, self := range names {
		var peers []Peer
		for _, n := range names {
			peers = append(peers, Peer{Name: n, URL: "http://" + n})
		}
		is := self
		if owners := testShieldCached(self, key, peers).owners(o); len(owners) > 0 {
			is = owners[0].Name
		}
		if got != "" && got != is {
			t.Fatalf("edges disagree on %x: %s and %s", o, got, is)
		}
		got = is
	}
	return got
}

var shields = map[string]*Shield{}

func testShieldCached(self string, key ed25519.PrivateKey, peers []Peer) *Shield {
	name := fmt.Sprint(self, len(peers), peers[len(peers)-1].Name)
	if shields[name] == nil {
		shields[name] = testShield(self, key, peers)
	}
	return shields[name]
}

func TestOwnersAreEvenAndStable(t *testing.T) {
	all := []string{"a", "b", "c", "d", "e"}
	const objects = 5000
	owns := map[string]int{}
	for i := range objects {
		before := owner(t, all, spotOf(i))
		owns[before]++
		if after := owner(t, all[:4], spotOf(i)); before != "e" && after != before {
			t.Fatalf("object %d went from %s to %s because e left", i, before, after)
		}
	}
	for n, k := range owns {
		if k < objects/5*85/100 || k > objects/5*115/100 {
			t.Errorf("%s owns %d of %d", n, k, objects)
		}
	}
}

func TestLoadedOwnerIsPassedBy(t *testing.T) {
	_, key, _ := ed25519.GenerateKey(nil)
	s := testShield("self", key, []Peer{{Name: "a"}, {Name: "b"}})
	for i := 0; ; i++ {
		if owners := s.owners(spotOf(i)); len(owners) == 2 {
			owners[0].care.busy.Store(loadFloor - 1)
			if s.owners(spotOf(i))[0] != owners[0] {
				t.Error("an owner below the floor was passed by")
			}
			owners[0].care.busy.Store(100)
			owners[1].care.busy.Store(20)
			if got := s.owners(spotOf(i)); len(got) != 1 || got[0] != owners[1] {
				t.Error("an owner with five times the other's load is asked still")
			}
			return
		}
	}
}

func TestAskedByAPeerAsksNone(t *testing.T) {
	_, key, _ := ed25519.GenerateKey(nil)
	s := testShield("self", key, []Peer{{Name: "a"}, {Name: "b"}})
	m := &Meta{Route: &Route{Prefix: "/"}, Strong: true}
	for i := 0; ; i++ {
		m.Object = object(i)
		if s.remote(m) {
			break
		}
	}
	m.alone = true
	if s.remote(m) {
		t.Error("a peer's request goes on to a peer")
	}
	c := newCoalesce(NewMemory(BlockSize), nothing{}, s.remote, BlockSize, time.Minute, s.metrics)
	defer c.end()
	// Nor does it wait for what comes from a peer: that one may wait for us.
	own := *m
	own.alone = false
	c.pending[coming{BlockKey{m.Object, 0}, false}] = &arriving{}
	if c.coming(Want{&own, 0, 0}, 0) == nil || c.coming(Want{m, 0, 0}, 0) != nil {
		t.Error("who waits for a block that comes from a peer: want our own players, and no peer")
	}
}

func TestPeerIdentity(t *testing.T) {
	_, a, _ := ed25519.GenerateKey(nil)
	_, b, _ := ed25519.GenerateKey(nil)
	_, stranger, _ := ed25519.GenerateKey(nil)
	public := func(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }
	list := []Peer{{Name: "a", Key: public(a)}, {Name: "b", Key: public(b)}, {Name: "c", Key: public(stranger)}}
	sb := testShield("b", b, list)
	now := time.Now()
	token := func(self string, key ed25519.PrivateKey, to string) string {
		r := testShield(self, key, list).fleet.Load()
		for _, p := range r.peers {
			if p.Name == to {
				s, err := p.sign(r, now)
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
		}
		panic("no " + to)
	}
	good := token("a", a, "b")
	for range 2 { // verified, then remembered
		if !sb.knows(good, now) {
			t.Error("a peer is not known")
		}
	}
	if sb.knows(good, now.Add(2*time.Minute)) {
		t.Error("a token outlives its end")
	}
	for what, bad := range map[string]string{"another's name": token("a", stranger, "b"), "for another": token("a", a, "c"), "garbage": "a.b.c", "nothing": ""} {
		if sb.knows(bad, now) {
			t.Errorf("%s is taken", what)
		}
	}
	sb.set("b", b, list[1:])
	if sb.knows(good, now) {
		t.Error("who left the list is known still")
	}
}
