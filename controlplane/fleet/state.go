package fleet

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"path"
	"reflect"
	"slices"
	"strings"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/geo"
	"segue/internal/registry"
)

// configEvery is how often a replica looks for changes that others made and for what edges said to others.
const configEvery = 250 * time.Millisecond

// state is the configuration as edges are answered and players are steered by it: in memory, swapped whole.
type state struct {
	graph    *graph
	revision int64
	edges    map[string]edgeRow
	pools    []Resource[api.NewEdgePool]
	poolOf   map[string]*Resource[api.NewEdgePool] // by edge id
	regions  map[string]Resource[api.NewRegion]
	said     map[string]saying // by edge id

	active   *activation // nil: edges run their own routes
	wanted   map[string]int64
	parts    map[part]*api.EdgeRelease
	keys     []fleetKey
	policies map[string]geo.Policy
	routes   []Resource[api.NewRoute] // that name a policy, longest prefix first
	base     geo.Policy               // of what has no policy
	ties     map[netip.Prefix]string
	bits     []int // lengths of ties, longest first
}

// part names what edges of a region run of a release.
type part struct {
	release int64
	region  string
}

// fleetKey is a declared key, while its time is.
type fleetKey struct {
	api.TokenKey
	notBefore, notAfter *time.Time
}

// saying is what an edge said last of its configuration.
type saying struct {
	config  string
	release int64
	since   int64
	refused int64
	reason  string
	keys    string // ids, with spaces around each
}

// Reload reads the configuration. It is read before edges are answered.
func (s *Service) Reload(ctx context.Context) error {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	next := &state{edges: map[string]edgeRow{}, said: map[string]saying{}}
	// First the clock: what changes meanwhile is read once more by the next look.
	if err := s.db.QueryRowContext(ctx, `SELECT revision FROM fleet_clock WHERE id = 1`).Scan(&next.revision); err != nil {
		return fmt.Errorf("read the fleet's configuration: %w", err)
	}
	old := s.state.Load()
	same := old != nil && old.revision == next.revision
	var err error
	if same {
		g := *old.graph
		next.graph = &g
		next.graph.edges, err = readEdges(ctx, s.db)
	} else {
		next.graph, err = readGraph(ctx, s.db)
	}
	if err == nil {
		err = each(ctx, s.db, `SELECT edge_id, config, release, since, refused, reason, keys FROM edge_states`, func(scan func(...any) error) error {
			var id string
			var y saying
			err := scan(&id, &y.config, &y.release, &y.since, &y.refused, &y.reason, &y.keys)
			next.said[id] = y
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("read the fleet's configuration: %w", err)
	}
	if same && reflect.DeepEqual(old.graph.edges, next.graph.edges) && maps.Equal(old.said, next.said) {
		return nil
	}
	if err := s.compile(ctx, next); err != nil {
		return fmt.Errorf("read the fleet's configuration: %w", err)
	}
	s.state.Store(next)
	if old != nil {
		for id := range old.edges {
			if _, stays := next.edges[id]; !stays { // whoever deleted it
				s.forget(id)
			}
		}
	}
	return nil
}

// compile works out of the rows what is asked often.
func (s *Service) compile(ctx context.Context, st *state) (err error) {
	g := st.graph
	for _, e := range g.edges {
		st.edges[e.id] = e
	}
	if st.pools, err = all[api.NewEdgePool](g, KindPool); err != nil {
		return err
	}
	st.poolOf = map[string]*Resource[api.NewEdgePool]{}
	for _, e := range g.edges {
		st.poolOf[e.id] = st.pool(e.region, e.name)
	}
	regions, err := all[api.NewRegion](g, KindRegion)
	if err != nil {
		return err
	}
	st.regions, st.ties = map[string]Resource[api.NewRegion]{}, map[netip.Prefix]string{}
	for _, r := range regions {
		st.regions[r.Name] = r
		for _, c := range r.Spec.ClientCIDRs {
			p, err := netip.ParsePrefix(c)
			if err != nil {
				return err
			}
			st.ties[p] = r.Name
			if !slices.Contains(st.bits, p.Bits()) {
				st.bits = append(st.bits, p.Bits())
			}
		}
	}
	slices.SortFunc(st.bits, func(a, b int) int { return b - a })
	st.base = s.policy(regions, nil)
	keys, err := all[api.NewFleetKey](g, KindKey)
	if err != nil {
		return err
	}
	if r := g.rows[theActivation]; r == nil {
		for _, k := range keys {
			st.addKey(k.Name, k.Spec)
		}
		return nil
	} else if st.active, err = s.readActivation(ctx, r); err != nil {
		return err
	}
	st.wanted = st.active.assign(g.edges)
	contents := map[int64]*api.ReleaseContents{}
	for _, n := range []int64{st.active.Release, st.active.Base} {
		if n != 0 && contents[n] == nil {
			r, err := s.Release(ctx, n)
			if err != nil {
				return err
			}
			contents[n] = r.Contents
		}
	}
	st.parts = map[part]*api.EdgeRelease{}
	for n, c := range contents {
		for name := range st.regions {
			st.parts[part{n, name}] = partOf(n, c, name, g.secrets)
		}
	}
	// The keys of both, so that a token opens the same on all edges while a release is on its way.
	for _, n := range []int64{st.active.Release, st.active.Base} {
		if c := contents[n]; c != nil {
			for _, k := range c.Keys {
				if now, ok := g.rows[key{KindKey, k.Name}]; ok {
					live, err := decode[api.NewFleetKey](now)
					if err != nil {
						return err
					}
					if live.Spec.State == api.StateActive {
						st.addKey(k.Name, k.NewFleetKey)
					}
				}
			}
		}
	}
	// Policies are the control plane's to apply, not an edge's: those of the release that is everybody's.
	whole := contents[st.active.Base]
	if st.active.everybody() {
		whole = contents[st.active.Release]
	}
	if whole == nil {
		return nil
	}
	st.policies = map[string]geo.Policy{}
	for _, p := range whole.SteeringPolicies {
		st.policies[p.Name] = s.policy(regions, &p.NewSteeringPolicy)
	}
	for _, r := range whole.Routes {
		if r.SteeringPolicy != "" {
			st.routes = append(st.routes, Resource[api.NewRoute]{Name: r.Name, Spec: r.NewRoute})
		}
	}
	slices.SortStableFunc(st.routes, func(a, b Resource[api.NewRoute]) int { return len(b.Spec.Prefix) - len(a.Spec.Prefix) })
	return nil
}

func (st *state) addKey(name string, k api.NewFleetKey) {
	if k.State != api.StateActive || slices.ContainsFunc(st.keys, func(other fleetKey) bool { return other.ID == name }) {
		return
	}
	t := api.TokenKey{ID: name, Alg: k.Algorithm, Key: k.PublicKey}
	if k.SecretID != "" {
		secret, ok := st.graph.secrets[k.SecretID]
		if !ok {
			return // taken away: it is not good any more
		}
		t.Key = []byte(secret)
	}
	st.keys = append(st.keys, fleetKey{t, k.NotBefore, k.NotAfter})
}

// partOf is what edges of a region need of a release.
func partOf(number int64, c *api.ReleaseContents, region string, secrets map[string]string) *api.EdgeRelease {
	p := &api.EdgeRelease{Number: number, Routes: []api.EdgeRoute{}}
	origins := map[string]api.NewOrigin{}
	for _, o := range c.Origins {
		origins[o.Name] = o.NewOrigin
	}
	for _, r := range c.Routes {
		if len(r.Regions) > 0 && !slices.Contains(r.Regions, region) {
			continue
		}
		o := origins[r.Origin]
		p.Routes = append(p.Routes, api.EdgeRoute{Name: r.Name, Prefix: r.Prefix, Public: r.Public, Origin: api.EdgeOrigin{Name: r.Origin, URL: o.URL, HostHeader: o.HostHeader, ConnectTimeoutMS: o.ConnectTimeoutMS,
			FirstByteTimeoutMS: o.FirstByteTimeoutMS, MaxRequests: o.MaxRequests, FreshSeconds: o.FreshSeconds, AuthHeader: o.AuthHeader, Secret: secrets[o.SecretID]}})
	}
	b, err := json.Marshal(p.Routes)
	if err != nil {
		panic("bug: " + err.Error())
	}
	p.Digest = digest(string(b))[:16]
	return p
}

// policy makes a declared policy what geo.Decide takes. Nil is the operator's file. Regions say of themselves what it does
// not say of them.
func (s *Service) policy(regions []Resource[api.NewRegion], n *api.NewSteeringPolicy) geo.Policy {
	p := s.Steering
	own := p.Regions
	if n != nil {
		p = geo.Policy{Max: n.Max, BandKm: n.BandKm, LoadBound: n.LoadBound, CanaryPercent: n.CanaryPercent, Weights: n.Weights}
		own = map[string]geo.Region{}
		for name, r := range n.Regions {
			own[name] = geo.Region{Rule: geo.Rule{Only: r.Only, Never: r.Never}, Fallback: r.Fallback, SpillAt: r.SpillAt}
		}
	}
	p.Regions = map[string]geo.Region{}
	maps.Copy(p.Regions, own)
	for _, r := range regions {
		said := own[r.Name]
		both := geo.Region{Rule: said.Rule, Fallback: said.Fallback, SpillAt: cmp.Or(said.SpillAt, r.Spec.SpillAt)}
		if len(both.Fallback) == 0 {
			both.Fallback = r.Spec.Fallback
		}
		if len(both.Only)+len(both.Never) == 0 {
			both.Rule = geo.Rule{Only: r.Spec.Only, Never: r.Spec.Never}
		}
		if !reflect.DeepEqual(both, geo.Region{}) {
			p.Regions[r.Name] = both
		}
	}
	return p
}

// pool finds the pool of an edge: of those of its region the one with the longest pattern that matches; nil: none does.
func (st *state) pool(region, name string) *Resource[api.NewEdgePool] {
	var best *Resource[api.NewEdgePool]
	longest := -1
	for i := range st.pools {
		p := &st.pools[i]
		if p.Spec.Region != region {
			continue
		}
		for _, m := range p.Spec.Match {
			if ok, err := path.Match(m, name); err == nil && ok && len(m) > longest {
				best, longest = p, len(m)
			}
		}
	}
	return best
}

// Nodes is the registry's, with what pools and regions say of them.
func (s *Service) Nodes(now time.Time) []geo.Node {
	list, st := s.nodes.Nodes(now), s.state.Load()
	if st == nil {
		return list
	}
	list = slices.Clone(list) // the registry gives the same to everybody
	for i := range list {
		n := &list[i]
		n.Draining = n.Draining || st.draining(n.ID) != ""
		p, known := st.poolOf[n.ID]
		if !known {
			p = st.pool(n.Region, n.Name)
		}
		if p != nil {
			n.Pool, n.Tier, n.Weight, n.CapacityBps, n.Canary = p.Name, geo.Tier(p.Spec.Tier), p.Spec.Weight, float64(p.Spec.CapacityMbps)*1e6, p.Spec.Canary
			n.Rule = geo.Rule{Only: p.Spec.Only, Never: p.Spec.Never}
		}
	}
	return list
}

// capacityBps is what an edge can send, by its pool, else by what it says itself.
func (st *state) capacityBps(id string, said float64) float64 {
	if st != nil && st.poolOf[id] != nil {
		return float64(st.poolOf[id].Spec.CapacityMbps) * 1e6
	}
	if said > 0 {
		return said
	}
	return capacityBps
}

// draining says what of the configuration drains an edge: edge, pool, region; "": nothing.
func (st *state) draining(id string) string {
	if st == nil {
		return "" // not read yet
	}
	e, ok := st.edges[id]
	if !ok {
		return ""
	}
	p := st.poolOf[id]
	switch r := st.regions[e.region]; {
	case e.draining:
		return "edge"
	case p != nil && p.Spec.State == api.StateDraining:
		return "pool"
	case r.Spec.State == api.StateDraining || r.Spec.State == api.StateDisabled || r.DrainUntil != nil:
		return "region"
	}
	return ""
}

// Policy is how edges are chosen for an object, which is a path without its first slash, and the name of that policy; "":
// it has none, and the operator's file and the regions say how.
func (s *Service) Policy(object string) (geo.Policy, string) {
	st := s.state.Load()
	if st == nil {
		return s.Steering, ""
	}
	for i := range st.routes {
		if r := &st.routes[i].Spec; object != "" && strings.HasPrefix("/"+object, r.Prefix) {
			return st.policies[r.SteeringPolicy], r.SteeringPolicy
		}
	}
	if p, ok := st.policies[defaultPolicy]; ok {
		return p, defaultPolicy
	}
	return st.base, ""
}

// defaultPolicy is the name of the policy for what no route has one for.
const defaultPolicy = "default"

// Tie is the region that declares an address as one of its clients; "": none does.
func (s *Service) Tie(a netip.Addr) string {
	st := s.state.Load()
	if st == nil {
		return ""
	}
	for _, bits := range st.bits {
		if p, err := a.Prefix(bits); err == nil {
			if name, ok := st.ties[p]; ok {
				return name
			}
		}
	}
	return ""
}

// verify lists the declared keys that are good now.
func (st *state) verify(now time.Time) (list []api.TokenKey) {
	for _, k := range st.keys {
		if (k.notBefore == nil || !now.Before(*k.notBefore)) && (k.notAfter == nil || now.Before(*k.notAfter)) {
			list = append(list, k.TokenKey)
		}
	}
	return list
}

// Said notes an edge's word on its configuration.
func (s *Service) Said(ctx context.Context, id string, e api.EdgeState) error {
	now := store.Micros(time.Now())
	keys := " " + strings.Join(e.Keys, " ") + " "
	for _, text := range []*string{&e.Revision, &e.Reason, &keys} {
		*text = strings.ReplaceAll(*text, "\x00", "") // PostgreSQL keeps none
	}
	_, err := s.db.ExecContext(ctx, `INSERT INTO edge_states (edge_id, config, release, since, refused, reason, keys, at) VALUES ($1, $2, $3, $4, $5, $6, $7, $4)
		ON CONFLICT (edge_id) DO UPDATE SET config = excluded.config, since = CASE WHEN edge_states.release = excluded.release THEN edge_states.since ELSE excluded.since END,
		release = excluded.release, refused = excluded.refused, reason = excluded.reason, keys = excluded.keys, at = excluded.at`,
		id, e.Revision, e.Release, now, e.Refused, e.Reason, keys)
	return err // Watch reads it
}

// living reports whether an edge answers, or may: just after a start nobody was heard yet.
func (s *Service) living(id string, now time.Time) bool {
	lives, heard := s.nodes.Lives(id, now)
	return lives || !heard && now.Sub(s.begun) < 2*registry.DeadAfter
}

// Known reports whether all edges that live have said that they verify tokens with a key: then it may sign.
func (s *Service) Known(keyID string) bool {
	if known, ok := s.known.Load().(string); ok && known == keyID { // asked for every token that is signed
		return true
	}
	st, now := s.state.Load(), time.Now()
	if st == nil {
		return false
	}
	for id := range st.edges {
		if s.living(id, now) && !strings.Contains(st.said[id].keys, " "+keyID+" ") {
			return false
		}
	}
	s.known.Store(keyID)
	return true
}

// fraction draws a number in (0, 1) from an edge's id: the same on every replica and in every release.
func fraction(id string) float64 {
	h := uint64(14695981039346656037) // FNV-1a, then the finalizer of SplitMix64
	for i := range len(id) {
		h = (h ^ uint64(id[i])) * 1099511628211
	}
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return (float64((h^h>>31)>>11) + 0.5) / (1 << 53)
}

// assign says which release each edge is to run; 0: its own routes.
func (a *activation) assign(edges []edgeRow) map[string]int64 {
	out := make(map[string]int64, len(edges))
	least, at, drawn := math.Inf(1), "", false
	for _, e := range edges {
		out[e.id] = a.Base
		if len(a.Regions) > 0 && !slices.Contains(a.Regions, e.region) {
			continue
		}
		f := fraction(e.id)
		if f < *a.Percent/100 {
			out[e.id], drawn = a.Release, true
		}
		if f < least {
			least, at = f, e.id
		}
	}
	if !drawn && at != "" && *a.Percent > 0 { // few edges: one at least
		out[at] = a.Release
	}
	return out
}

// readActivation reads the activation with the time from which it counts.
func (s *Service) readActivation(ctx context.Context, r *row) (*activation, error) {
	d, err := decode[storedActivation](r)
	if err != nil {
		return nil, err
	}
	a := &activation{Activation: api.Activation{NewActivation: d.Spec.NewActivation, Base: d.Spec.Base, Revision: r.revision}}
	var at int64
	err = s.db.QueryRowContext(ctx, `SELECT created_at FROM fleet_revisions WHERE number = $1`, r.revision).Scan(&at)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	a.at = store.Time(at)
	return a, err
}

// Watch keeps the configuration up to date with what other replicas write, ends what is being deleted and forgets secrets
// that nothing names, until ctx ends. A database that does not answer leaves the configuration as it was.
func (s *Service) Watch(ctx context.Context, failed func(error)) error {
	tick := time.NewTicker(configEvery)
	defer tick.Stop()
	ok, swept := true, time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := s.Reload(ctx)
		if err == nil {
			err = s.finish(ctx)
		}
		if err == nil && time.Since(swept) > time.Minute {
			swept = time.Now()
			err = s.sweepSecrets(ctx)
		}
		if err != nil && ok && ctx.Err() == nil {
			failed(err)
		}
		ok = err == nil
	}
}
