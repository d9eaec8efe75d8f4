package fleet

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"
)

// theActivation is the one resource that says which release is in force: its changes are revisions too.
var theActivation = key{kindActivation, "fleet"}

// storedActivation is its body.
type storedActivation struct {
	api.NewActivation
	Base int64 `json:"base"`
}

type activation struct {
	api.Activation
	at time.Time
}

// everybody: no edge runs anything else.
func (a *activation) everybody() bool { return *a.Percent >= 100 && len(a.Regions) == 0 }

// contents takes a snapshot of the resources that a release holds.
func (g *graph) contents() (*api.ReleaseContents, error) {
	c := &api.ReleaseContents{Origins: []api.Origin{}, Routes: []api.Route{}, SteeringPolicies: []api.SteeringPolicy{}, Keys: []api.FleetKey{}}
	routes, err := all[api.NewRoute](g, KindRoute)
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, r := range routes {
		if r.Spec.State == api.StateActive {
			c.Routes = append(c.Routes, api.Route{Name: r.Name, NewRoute: r.Spec, Revision: r.Revision})
			used[r.Spec.Origin] = true
		}
	}
	origins, err := all[api.NewOrigin](g, KindOrigin)
	if err != nil {
		return nil, err
	}
	for _, o := range origins {
		if used[o.Name] {
			c.Origins = append(c.Origins, api.Origin{Name: o.Name, NewOrigin: o.Spec, Revision: o.Revision})
		}
	}
	policies, err := all[api.NewSteeringPolicy](g, KindPolicy)
	if err != nil {
		return nil, err
	}
	for _, p := range policies {
		c.SteeringPolicies = append(c.SteeringPolicies, api.SteeringPolicy{Name: p.Name, NewSteeringPolicy: p.Spec, Revision: p.Revision})
	}
	keys, err := all[api.NewFleetKey](g, KindKey)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if k.Spec.State == api.StateActive {
			c.Keys = append(c.Keys, api.FleetKey{Name: k.Name, NewFleetKey: k.Spec, Revision: k.Revision})
		}
	}
	return c, nil
}

// digestOf names contents by what they mean: not by the revisions that they came with.
func digestOf(c *api.ReleaseContents) (string, error) {
	flat, err := flatten(c)
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(flat)
	if err != nil {
		return "", fmt.Errorf("bug: %w", err)
	}
	return digest(string(b))[:32], nil
}

// flatten is contents by kind and name, as bodies.
func flatten(c *api.ReleaseContents) (map[string]json.RawMessage, error) {
	out := map[string]json.RawMessage{}
	var bad error
	add := func(kind Kind, name string, body any) {
		b, err := json.Marshal(body)
		if err != nil {
			bad = fmt.Errorf("bug: %w", err)
		}
		out[string(kind)+" "+name] = b
	}
	for _, o := range c.Origins {
		add(KindOrigin, o.Name, o.NewOrigin)
	}
	for _, r := range c.Routes {
		add(KindRoute, r.Name, r.NewRoute)
	}
	for _, p := range c.SteeringPolicies {
		add(KindPolicy, p.Name, p.NewSteeringPolicy)
	}
	for _, k := range c.Keys {
		add(KindKey, k.Name, k.NewFleetKey)
	}
	return out, bad
}

// NewRelease makes a release of the resources as they are.
func (s *Service) NewRelease(ctx context.Context, n api.NewRelease, author string) (api.Release, error) {
	if unprintable(n.Note) {
		return api.Release{}, &Faults{"note", ErrFields, []api.FieldProblem{{Location: "body.note", Message: "has control characters"}}}
	}
	var out api.Release
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		r := api.Release{Author: author, Note: n.Note}
		if err := tx.QueryRowContext(ctx, `UPDATE fleet_clock SET revision = revision WHERE id = 1 RETURNING revision`).Scan(&r.Revision); err != nil { // the lock
			return err
		}
		g, err := readGraph(ctx, tx)
		if err != nil {
			return err
		}
		if r.Contents, err = g.contents(); err != nil {
			return err
		}
		if r.Digest, err = digestOf(r.Contents); err != nil {
			return err
		}
		b, err := json.Marshal(r.Contents)
		if err != nil {
			return fmt.Errorf("bug: %w", err)
		}
		if err := tx.QueryRowContext(ctx, `SELECT COALESCE(MAX(number), 0) + 1 FROM fleet_releases`).Scan(&r.Number); err != nil {
			return err
		}
		at := store.Micros(time.Now())
		r.CreatedAt = store.Time(at)
		_, err = tx.ExecContext(ctx, `INSERT INTO fleet_releases (number, digest, revision, author, note, created_at, contents) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			r.Number, r.Digest, r.Revision, author, n.Note, at, string(b))
		out = r
		return err
	})
	return out, err
}

// Release returns one with its contents, or media.ErrNotFound.
func (s *Service) Release(ctx context.Context, number int64) (api.Release, error) {
	return readRelease(ctx, s.db, number)
}

func readRelease(ctx context.Context, q interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}, number int64) (api.Release, error) {
	r := api.Release{Number: number}
	var at int64
	var contents string
	err := q.QueryRowContext(ctx, `SELECT digest, revision, author, note, created_at, contents FROM fleet_releases WHERE number = $1`, number).
		Scan(&r.Digest, &r.Revision, &r.Author, &r.Note, &at, &contents)
	if errors.Is(err, sql.ErrNoRows) {
		return r, fmt.Errorf("release %d: %w", number, media.ErrNotFound)
	} else if err != nil {
		return r, err
	}
	r.CreatedAt = store.Time(at)
	if err := json.Unmarshal([]byte(contents), &r.Contents); err != nil {
		return r, fmt.Errorf("release %d: %w: %w", number, media.ErrCorrupt, err)
	}
	return r, nil
}

// Releases lists those below a number (0: all), newest first, without their contents.
func (s *Service) Releases(ctx context.Context, below int64, limit int) (list []api.Release, err error) {
	list = []api.Release{}
	err = each(ctx, s.db, `SELECT number, digest, revision, author, note, created_at FROM fleet_releases WHERE number < $1 OR $1 = 0 ORDER BY number DESC LIMIT $2`, func(scan func(...any) error) error {
		var r api.Release
		var at int64
		err := scan(&r.Number, &r.Digest, &r.Revision, &r.Author, &r.Note, &at)
		r.CreatedAt = store.Time(at)
		list = append(list, r)
		return err
	}, below, limit)
	return list, err
}

// DeleteRelease forgets one. Errors: media.ErrNotFound; ErrInUse while edges are to run it.
func (s *Service) DeleteRelease(ctx context.Context, number int64) error {
	return s.change(ctx, func(tx *sql.Tx, g *graph) error {
		if r := g.rows[theActivation]; r != nil {
			a, err := decode[storedActivation](r)
			if err != nil {
				return err
			}
			if a.Spec.Release == number || a.Spec.Base == number {
				return &Faults{fmt.Sprintf("release %d", number), ErrInUse, []api.FieldProblem{{Location: "activation/fleet", Message: "edges are to run it"}}}
			}
		}
		res, err := tx.ExecContext(ctx, `DELETE FROM fleet_releases WHERE number = $1`, number)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil {
			return err
		} else if n == 0 {
			return fmt.Errorf("release %d: %w", number, media.ErrNotFound)
		}
		return nil
	})
}

// Activation is which release is in force, or media.ErrNotFound.
func (s *Service) Activation(ctx context.Context) (api.Activation, error) {
	r, err := Get[storedActivation](ctx, s, kindActivation, theActivation.Name)
	return api.Activation{NewActivation: r.Spec.NewActivation, Base: r.Spec.Base, Revision: r.Revision}, err
}

// Activate gives a release to edges. Errors: those of Put.
func (s *Service) Activate(ctx context.Context, n api.NewActivation, c Condition, author string) (api.Activation, error) {
	var out api.Activation
	err := s.change(ctx, func(tx *sql.Tx, g *graph) error {
		old := g.rows[theActivation]
		if err := c.check(theActivation, old); err != nil {
			return err
		}
		next := storedActivation{NewActivation: n}
		if next.Percent == nil {
			p := 100.0
			next.Percent = &p
		}
		next.Regions = sortedSet(next.Regions, strings.ToLower)
		ch := change{key: theActivation}
		if old != nil {
			was, err := decode[storedActivation](old)
			if err != nil {
				return err
			}
			ch.Before, next.Base = old.body, was.Spec.Base
			if (&activation{Activation: api.Activation{NewActivation: was.Spec.NewActivation}}).everybody() {
				next.Base = was.Spec.Release
			}
		}
		f := &faults{}
		if err := activatable(ctx, tx, g, n.Release, f); err != nil {
			return err
		}
		if (&activation{Activation: api.Activation{NewActivation: next.NewActivation}}).everybody() {
			next.Base = next.Release
		}
		body, err := json.Marshal(next)
		if err != nil {
			return fmt.Errorf("bug: %w", err)
		}
		if old != nil && !c.Create && string(old.body) == string(body) {
			out = api.Activation{NewActivation: next.NewActivation, Base: next.Base, Revision: old.revision}
			return f.err(theActivation)
		}
		if old != nil && !c.given() {
			return fmt.Errorf("%s: %w", theActivation, ErrUnconditional)
		}
		g.rows[theActivation] = &row{key: theActivation, body: body}
		if err := g.check(theActivation); err != nil {
			return err
		}
		if err := f.err(theActivation); err != nil {
			return err
		}
		ch.After = body
		revision, err := s.commit(ctx, tx, author, 0, ch)
		out = api.Activation{NewActivation: next.NewActivation, Base: next.Base, Revision: revision}
		return err
	})
	return out, err
}

// activatable finds what keeps a release from being given to edges: it is not there, or a secret that it names is not any more.
func activatable(ctx context.Context, tx *sql.Tx, g *graph, number int64, f *faults) error {
	r, err := readRelease(ctx, tx, number)
	if errors.Is(err, media.ErrNotFound) {
		f.add("body.release", "there is no release %d", number)
		return nil
	} else if err != nil {
		return err
	}
	for _, o := range r.Contents.Origins {
		if _, ok := g.secrets[o.SecretID]; o.SecretID != "" && !ok {
			f.add("body.release", "release %d needs a secret of origin %s that is not kept any more: make a new release", number, o.Name)
		}
	}
	return nil
}

// Deactivate has edges run their own routes again. Errors: media.ErrNotFound, StaleError.
func (s *Service) Deactivate(ctx context.Context, c Condition, author string) error {
	return s.Delete(ctx, kindActivation, theActivation.Name, c, author)
}

// Pending is what a release made now would change in the newest that is active.
func (s *Service) Pending(ctx context.Context) (api.PendingChanges, error) {
	out := api.PendingChanges{Changes: []api.Change{}}
	g, err := readGraph(ctx, s.db)
	if err != nil {
		return out, err
	}
	if err := s.db.QueryRowContext(ctx, `SELECT revision FROM fleet_clock WHERE id = 1`).Scan(&out.Revision); err != nil {
		return out, err
	}
	now, err := g.contents()
	if err != nil {
		return out, err
	}
	before := &api.ReleaseContents{}
	if r := g.rows[theActivation]; r != nil {
		a, err := decode[storedActivation](r)
		if err != nil {
			return out, err
		}
		out.Release = a.Spec.Release
		active, err := s.Release(ctx, out.Release)
		if err != nil {
			return out, err
		}
		before = active.Contents
	}
	was, err := flatten(before)
	if err != nil {
		return out, err
	}
	is, err := flatten(now)
	if err != nil {
		return out, err
	}
	var names []string
	for name := range was {
		names = append(names, name)
	}
	for name := range is {
		if was[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if string(was[name]) != string(is[name]) {
			kind, name, _ := strings.Cut(name, " ")
			k := key{Kind(kind), name}
			c, err := shown(change{k, was[kind+" "+name], is[kind+" "+name]})
			if err != nil {
				return out, err
			}
			out.Changes = append(out.Changes, c)
		}
	}
	return out, nil
}

// sweepSecrets forgets secrets that neither a resource nor a release nor one of the last revisions names.
func (s *Service) sweepSecrets(ctx context.Context) error {
	_, err := s.db.ExecContext(ctx, `DELETE FROM fleet_secrets WHERE created_at < $1
		AND NOT EXISTS (SELECT 1 FROM fleet_resources r WHERE r.body LIKE '%' || fleet_secrets.id || '%')
		AND NOT EXISTS (SELECT 1 FROM fleet_releases r WHERE r.contents LIKE '%' || fleet_secrets.id || '%')`, store.Micros(time.Now().Add(-time.Hour)))
	if err != nil {
		return fmt.Errorf("forget secrets: %w", err)
	}
	return nil
}
