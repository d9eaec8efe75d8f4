package fleet

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"
)

const (
	// quietFor without a request from a player is when a draining edge is said to serve nobody: more than two segments of
	// 4 s, which is how often those ask that have all they want.
	quietFor = 10 * time.Second

	drainFor = 5 * time.Minute // of a region that is deleted, unless it is told
	maxDrain = 24 * time.Hour
)

// hearTraffic notes when an edge last had requests.
func (s *Service) hearTraffic(id string, h api.Heartbeat, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.busy[id]; !ok || h.RequestsPerSec > 0 {
		s.busy[id] = now
	}
}

// drainedAt reports whether a draining edge serves nobody any more.
func (s *Service) drained(id string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.busy[id]
	return ok && now.Sub(at) > quietFor || ok && s.beats[id].Connections == 0 && s.beats[id].Draining
}

// empty returns an ErrInUse that names the edges of a region that live, or nil.
func (s *Service) empty(g *graph, region string) error {
	var by []api.FieldProblem
	now := time.Now()
	for _, e := range g.edges {
		if e.region == region && s.living(e.id, now) {
			by = append(by, api.FieldProblem{Location: "edge/" + e.name, Message: "is in the region and answers: stop it, or force, which drains it first"})
		}
	}
	if by == nil {
		return nil
	}
	return &Faults{"region " + region, ErrInUse, by}
}

// DeleteRegion takes a region away, with its join tokens and the registrations of edges that are dead. While edges of it
// live that is an ErrInUse, unless force: then it drains, no edge joins it any more, and it goes when its edges serve nobody, at
// the latest after wait (0: 5 minutes); gone is false until then. Other errors: those of Delete.
func (s *Service) DeleteRegion(ctx context.Context, name string, c Condition, force bool, wait time.Duration, author string) (gone bool, err error) {
	if wait == 0 {
		wait = drainFor
	}
	if wait < 0 || wait > maxDrain {
		return false, &Faults{"region " + name, ErrFields, []api.FieldProblem{{Location: "query.drain_timeout", Message: "want at most 24h"}}}
	}
	err = s.change(ctx, func(tx *sql.Tx, g *graph) error {
		gone = false
		k := key{KindRegion, name}
		old := g.rows[k]
		if old == nil {
			return fmt.Errorf("%s: %w", k, media.ErrNotFound)
		}
		if err := c.check(k, old); err != nil {
			return err
		}
		if err := g.unused(k); err != nil {
			return err
		}
		err := s.empty(g, name)
		if err == nil {
			gone = true
			_, err = s.commit(ctx, tx, author, 0, change{key: k, Before: old.body})
			return err
		} else if !force || !errors.Is(err, ErrInUse) {
			return err
		}
		if old.drainUntil != 0 {
			wait = min(wait, time.Until(store.Time(old.drainUntil)))
		}
		// The clock's lock is held; that the state is read anew needs no new revision, since every look reads what drains.
		_, err = tx.ExecContext(ctx, `UPDATE fleet_resources SET drain_until = $1, drain_author = $2 WHERE kind = $3 AND name = $4`,
			store.Micros(time.Now().Add(wait)), author, string(KindRegion), name)
		if err == nil {
			_, err = tx.ExecContext(ctx, `DELETE FROM join_tokens WHERE region = $1`, name)
		}
		if err != nil {
			return err
		}
		// A revision of its own, so that other replicas see it and operators read of it.
		_, err = s.commit(ctx, tx, author, 0, change{key: k, Before: old.body, After: old.body})
		return err
	})
	return gone, err
}

// finish takes those regions away that are being deleted and whose edges serve nobody any more, or whose time is over.
func (s *Service) finish(ctx context.Context) error {
	st, now := s.state.Load(), time.Now()
	for name, r := range st.regions {
		if r.DrainUntil == nil {
			continue
		}
		busy := slices.ContainsFunc(st.graph.edges, func(e edgeRow) bool { return e.region == name && s.living(e.id, now) && !s.drained(e.id, now) })
		if busy && now.Before(*r.DrainUntil) {
			continue
		}
		err := s.change(ctx, func(tx *sql.Tx, g *graph) error {
			k := key{KindRegion, name}
			old := g.rows[k]
			if old == nil || old.drainUntil == 0 || g.unused(k) != nil { // another replica was first; or somebody names it since
				return nil
			}
			_, err := s.commit(ctx, tx, old.drainAuthor, 0, change{key: k, Before: old.body})
			return err
		})
		if err != nil {
			return fmt.Errorf("delete region %s: %w", name, err)
		}
	}
	return nil
}

// DrainRegion drains all edges of a region, or takes them back. It is a change of the region's state like any other.
func (s *Service) DrainRegion(ctx context.Context, name string, on bool, author string) error {
	for range 3 { // against changes meanwhile
		r, err := Get[api.NewRegion](ctx, s, KindRegion, name)
		if err != nil {
			return err
		}
		next := r.Spec
		switch {
		case on && next.State == api.StateActive:
			next.State = api.StateDraining
		case !on:
			next.State = api.StateActive
		}
		if _, err = Put(ctx, s, KindRegion, name, next, Condition{Match: []int64{r.Revision}}, author); !errors.Is(err, media.ErrChanged) {
			return err
		}
	}
	return fmt.Errorf("region %s is being changed by others: %w", name, media.ErrBusy)
}

// DeleteEdge takes an edge's registration away: it has to join anew. While it answers players that is an ErrInUse, unless force.
func (s *Service) DeleteEdge(ctx context.Context, id string, force bool) error {
	st, now := s.state.Load(), time.Now()
	if e, ok := st.edges[id]; ok && !force && s.living(id, now) && !(st.draining(id) != "" && s.drained(id, now)) {
		return &Faults{"edge " + e.name, ErrInUse, []api.FieldProblem{{Location: "edge/" + e.name, Message: "answers players: drain it and wait, stop it, or force"}}}
	}
	res, err := s.db.ExecContext(ctx, `DELETE FROM edges WHERE id = $1`, id)
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

// Status is who runs what. streams counts by edge's name the plays that go on.
func (s *Service) Status(ctx context.Context, streams map[string]int) (api.FleetStatus, error) {
	if err := s.Reload(ctx); err != nil {
		return api.FleetStatus{}, err
	}
	edges, err := s.Edges(ctx)
	if err != nil {
		return api.FleetStatus{}, err
	}
	st, now := s.state.Load(), time.Now()
	out := api.FleetStatus{Revision: st.revision, Edges: []api.FleetEdge{}}
	if st.active != nil {
		out.Activation = &st.active.Activation
	}
	for _, e := range edges {
		said := st.said[e.ID]
		f := api.FleetEdge{ID: e.ID, Name: e.Name, Region: e.Region, State: e.State, LastSeen: e.LastSeen, Wanted: st.wanted[e.ID], Release: said.release, Refused: said.refused, RefusedReason: said.reason,
			Config: said.config, Keys: strings.Fields(said.keys), Tier: "edge", Weight: 1, CapacityMbps: 1000, Draining: st.draining(e.ID), Streams: streams[e.Name]}
		if f.Keys == nil {
			f.Keys = []string{}
		}
		if said.since != 0 {
			at := store.Time(said.since)
			f.Since = &at
		}
		if f.Wanted != f.Release && st.active != nil {
			f.LagSeconds = max(0, now.Sub(st.active.at).Seconds())
		}
		if h := e.Heartbeat; h != nil { // without a pool it is what the edge says of itself
			f.Tier, f.Weight, f.CapacityMbps = cmp.Or(h.Tier, f.Tier), cmp.Or(h.Weight, f.Weight), cmp.Or(int64(h.CapacityBps/1e6), f.CapacityMbps)
		}
		if p := st.poolOf[e.ID]; p != nil {
			f.Pool, f.Tier, f.Weight, f.CapacityMbps, f.Canary = p.Name, p.Spec.Tier, p.Spec.Weight, p.Spec.CapacityMbps, p.Spec.Canary
		}
		if h := e.Heartbeat; h != nil {
			f.Version, f.Connections, f.RequestsPerSec = h.Version, h.Connections, h.RequestsPerSec
			f.Config = cmp.Or(h.ConfigRevision, f.Config)
			if f.Draining == "" && h.Draining {
				f.Draining = "itself"
			}
			s.mu.Lock()
			f.IdleSeconds = now.Sub(s.busy[e.ID]).Seconds()
			s.mu.Unlock()
		}
		f.Drained = f.Draining != "" && (e.State == "dead" || s.drained(e.ID, now))
		if f.Draining != "" && f.State == "healthy" {
			f.State = "draining"
		}
		out.Edges = append(out.Edges, f)
	}
	return out, nil
}

// IPRanges lists the addresses of edges by region.
func (s *Service) IPRanges() []api.IPRange {
	st := s.state.Load()
	by := map[string]*api.IPRange{}
	for _, e := range st.graph.edges {
		r := by[e.region]
		if r == nil {
			r = &api.IPRange{Region: e.region, CIDRs: []string{}, Hosts: []string{}}
			by[e.region] = r
		}
		u, err := url.Parse(e.url)
		if err != nil {
			continue // checked when it joined
		}
		if a, err := netip.ParseAddr(u.Hostname()); err == nil {
			r.CIDRs = append(r.CIDRs, netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()).String())
		} else {
			r.Hosts = append(r.Hosts, u.Hostname())
		}
	}
	out := []api.IPRange{}
	for _, r := range by {
		slices.Sort(r.CIDRs)
		slices.Sort(r.Hosts)
		r.CIDRs, r.Hosts = slices.Compact(r.CIDRs), slices.Compact(r.Hosts)
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b api.IPRange) int { return strings.Compare(a.Region, b.Region) })
	return out
}
