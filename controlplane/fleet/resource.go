package fleet

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
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

// Kind is a kind of declared resources, as revisions name it.
type Kind string

// The kinds. Whose resources an activation is, is in release.go.
const (
	KindRegion     Kind = "region"
	KindPool       Kind = "pool"
	KindOrigin     Kind = "origin"
	KindRoute      Kind = "route"
	KindPolicy     Kind = "steering-policy"
	KindKey        Kind = "signing-key"
	kindActivation Kind = "activation"
)

var (
	// ErrInUse: a resource that others name is not deleted.
	ErrInUse = errors.New("it is in use")
	// ErrFields is what a *Faults is.
	ErrFields = errors.New("the configuration would not be right")
	// ErrUnconditional: an update has to say what it is an update of.
	ErrUnconditional = errors.New("it exists and is not the same: send If-Match with its ETag to change it, or If-None-Match: * to create only")
	// ErrSince: a revision cannot be undone, because what it changed has changed since.
	ErrSince = errors.New("it has changed since")
)

// StaleError: a condition did not hold. Revision is what the resource is at. It is a media.ErrChanged.
type StaleError struct {
	Text     string
	Revision int64
}

func (e StaleError) Error() string        { return e.Text }
func (e StaleError) Is(target error) bool { return target == media.ErrChanged }

// Faults says which fields are at fault, or which resources stand in the way. It is an ErrFields or ErrInUse.
type Faults struct {
	text   string
	is     error
	fields []api.FieldProblem
}

func (f *Faults) Error() string {
	if f.is == ErrInUse {
		return f.text + " is in use: " + f.is.Error()
	}
	return f.text + " is not right: " + f.is.Error()
}

func (f *Faults) Unwrap() error              { return f.is }
func (f *Faults) Fields() []api.FieldProblem { return f.fields }

// Condition is what a change asks of what is there: RFC 9110 13.1. The zero value asks nothing.
type Condition struct {
	Create bool    // If-None-Match: *
	Match  []int64 // If-Match; nil: not given
	Any    bool    // If-Match: *
}

func (c Condition) given() bool { return c.Create || c.Any || c.Match != nil }

// check compares a condition with the resource that is there, if there is one.
func (c Condition) check(k key, old *row) error {
	switch {
	case c.Create && old != nil:
		return StaleError{fmt.Sprintf("%s exists: import it, or choose another name", k), old.revision}
	case (c.Any || c.Match != nil) && old == nil:
		return fmt.Errorf("%s: %w", k, media.ErrNotFound)
	case c.Match != nil && !slices.Contains(c.Match, old.revision):
		return StaleError{fmt.Sprintf("%s has changed meanwhile: it is at revision %d", k, old.revision), old.revision}
	}
	return nil
}

// key names a resource.
type key struct {
	Kind Kind   `json:"kind"`
	Name string `json:"name"`
}

func (k key) String() string { return string(k.Kind) + " " + k.Name }

// row is a resource as it is stored. Body is canonical: equal bodies are equal resources.
type row struct {
	key
	body        json.RawMessage
	revision    int64
	drainUntil  int64
	drainAuthor string
}

// Resource is a declared resource with what is kept beside it.
type Resource[N any] struct {
	Name       string
	Spec       N
	Revision   int64
	DrainUntil *time.Time
}

func decode[N any](r *row) (Resource[N], error) {
	out := Resource[N]{Name: r.Name, Revision: r.revision}
	if r.drainUntil != 0 {
		at := store.Time(r.drainUntil)
		out.DrainUntil = &at
	}
	if err := json.Unmarshal(r.body, &out.Spec); err != nil {
		return out, fmt.Errorf("%s: %w: %w", r.key, media.ErrCorrupt, err)
	}
	return out, nil
}

// Get returns a resource, or media.ErrNotFound.
func Get[N any](ctx context.Context, s *Service, kind Kind, name string) (Resource[N], error) {
	r := &row{key: key{kind, name}}
	if !nameForm.MatchString(name) { // nor is it something that every database can be asked for
		return Resource[N]{}, fmt.Errorf("%s %.63q: %w", kind, name, media.ErrNotFound)
	}
	var body string
	err := s.db.QueryRowContext(ctx, `SELECT body, revision, drain_until, drain_author FROM fleet_resources WHERE kind = $1 AND name = $2`, string(kind), name).
		Scan(&body, &r.revision, &r.drainUntil, &r.drainAuthor)
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("%s: %w", r.key, media.ErrNotFound)
	}
	if err != nil {
		return Resource[N]{}, err
	}
	r.body = json.RawMessage(body)
	return decode[N](r)
}

// List pages through the resources of a kind by name. after is the last name of the page before; more says that there are
// others behind this page.
func List[N any](ctx context.Context, s *Service, kind Kind, after string, limit int) (list []Resource[N], more bool, err error) {
	rows, err := s.db.QueryContext(ctx, `SELECT name, body, revision, drain_until FROM fleet_resources WHERE kind = $1 AND name > $2 ORDER BY name LIMIT $3`, string(kind), after, limit+1)
	if err != nil {
		return nil, false, err
	}
	defer rows.Close()
	for rows.Next() {
		r := &row{key: key{Kind: kind}}
		var body string
		if err := rows.Scan(&r.Name, &body, &r.revision, &r.drainUntil); err != nil {
			return nil, false, err
		}
		r.body = json.RawMessage(body)
		one, err := decode[N](r)
		if err != nil {
			return nil, false, err
		}
		list = append(list, one)
	}
	if len(list) > limit {
		list, more = list[:limit], true
	}
	return list, more, rows.Err()
}

// Put declares a resource: it is made canonical, checked with all others, and written as a revision by author. One that is
// there already and the same stays as it is. Errors: StaleError, media.ErrNotFound, ErrUnconditional, a *Faults.
func Put[N any](ctx context.Context, s *Service, kind Kind, name string, want N, c Condition, author string) (Resource[N], error) {
	var out Resource[N]
	err := s.change(ctx, func(tx *sql.Tx, g *graph) error {
		k, spec := key{kind, name}, want
		old := g.rows[k]
		if err := c.check(k, old); err != nil {
			return err
		}
		if old != nil && old.drainUntil != 0 {
			return fmt.Errorf("%s is being deleted: %w", k, ErrInUse)
		}
		f := &faults{}
		if !nameForm.MatchString(name) {
			f.add("path.name", "want 1 to 63 lower-case letters, digits and dashes, with a letter or digit at both ends")
		}
		kept, err := g.canonical(k, old, &spec, f)
		if err != nil {
			return err
		}
		body, err := json.Marshal(spec)
		if err != nil {
			return fmt.Errorf("bug: %w", err)
		}
		if old != nil && !c.Create && string(old.body) == string(body) {
			out, err = decode[N](old)
			return cmp.Or(f.err(k), err)
		}
		if old != nil && !c.given() {
			return fmt.Errorf("%s: %w", k, ErrUnconditional)
		}
		if err := f.err(k); err != nil {
			return err
		}
		next := &row{key: k, body: body}
		g.rows[k] = next
		if err := g.check(k); err != nil {
			return err
		}
		if kept != nil { // in base64: it may be any bytes
			if _, err := tx.ExecContext(ctx, `INSERT INTO fleet_secrets (id, kind, name, secret, created_at) VALUES ($1, $2, $3, $4, $5)`,
				kept.id, string(kind), name, base64.StdEncoding.EncodeToString([]byte(kept.secret)), store.Micros(time.Now())); err != nil {
				return err
			}
		}
		ch := change{key: k, After: body}
		if old != nil {
			ch.Before = old.body
		}
		if next.revision, err = s.commit(ctx, tx, author, 0, ch); err != nil {
			return err
		}
		out, err = decode[N](next)
		return err
	})
	return out, err
}

// Delete takes a resource away. Errors: media.ErrNotFound, StaleError, an ErrInUse that names who uses it.
func (s *Service) Delete(ctx context.Context, kind Kind, name string, c Condition, author string) error {
	return s.change(ctx, func(tx *sql.Tx, g *graph) error {
		k := key{kind, name}
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
		_, err := s.commit(ctx, tx, author, 0, change{key: k, Before: old.body})
		return err
	})
}

// change runs f alone among all changes of the configuration, and reads the configuration anew after it.
func (s *Service) change(ctx context.Context, f func(*sql.Tx, *graph) error) error {
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `UPDATE fleet_clock SET revision = revision WHERE id = 1`); err != nil { // the lock
			return err
		}
		g, err := readGraph(ctx, tx)
		if err != nil {
			return err
		}
		return f(tx, g)
	})
	if err != nil {
		return err
	}
	if err := s.Reload(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("the change is made; reading it: %w", err)
	}
	return nil
}

// change is one resource's part of a revision, as it is stored. Before nil: it was made; After nil: deleted.
type change struct {
	key
	Before json.RawMessage `json:"before,omitempty"`
	After  json.RawMessage `json:"after,omitempty"`
}

// commit writes changes as the next revision.
func (s *Service) commit(ctx context.Context, tx *sql.Tx, author string, undoes int64, list ...change) (int64, error) {
	var revision int64
	if err := tx.QueryRowContext(ctx, `UPDATE fleet_clock SET revision = revision + 1 WHERE id = 1 RETURNING revision`).Scan(&revision); err != nil {
		return 0, err
	}
	for _, c := range list {
		if err := write(ctx, tx, c, revision); err != nil {
			return 0, fmt.Errorf("%s: %w", c.key, err)
		}
	}
	b, err := json.Marshal(list)
	if err != nil {
		return 0, fmt.Errorf("bug: %w", err)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO fleet_revisions (number, author, created_at, undoes, changes) VALUES ($1, $2, $3, $4, $5)`,
		revision, author, store.Micros(time.Now()), undoes, string(b))
	return revision, err
}

func write(ctx context.Context, tx *sql.Tx, c change, revision int64) error {
	if c.After == nil {
		if c.Kind == KindRegion {
			for _, q := range []string{`DELETE FROM join_tokens WHERE region = $1`, `DELETE FROM edges WHERE region = $1`, `DELETE FROM regions WHERE name = $1`} {
				if _, err := tx.ExecContext(ctx, q, c.Name); err != nil {
					return err
				}
			}
		}
		if c.Kind == KindKey { // no release and no rollback brings it back
			if _, err := tx.ExecContext(ctx, `DELETE FROM fleet_secrets WHERE kind = $1 AND name = $2`, string(c.Kind), c.Name); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM fleet_resources WHERE kind = $1 AND name = $2`, string(c.Kind), c.Name)
		return err
	}
	if c.Kind == KindRegion { // whom edges and join tokens refer to
		var r api.NewRegion
		if err := json.Unmarshal(c.After, &r); err != nil {
			return fmt.Errorf("bug: %w", err)
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO regions (name, display_name, latitude, longitude) VALUES ($1, $2, $3, $4)
			ON CONFLICT (name) DO UPDATE SET display_name = excluded.display_name, latitude = excluded.latitude, longitude = excluded.longitude`,
			c.Name, r.DisplayName, r.Latitude, r.Longitude); err != nil {
			return err
		}
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO fleet_resources (kind, name, body, revision) VALUES ($1, $2, $3, $4)
		ON CONFLICT (kind, name) DO UPDATE SET body = excluded.body, revision = excluded.revision`, string(c.Kind), c.Name, string(c.After), revision)
	return err
}

// Upgrade declares the regions of a database from before there were resources. It is called once, before anything else.
func (s *Service) Upgrade(ctx context.Context) error {
	rows, err := s.db.QueryContext(ctx, `SELECT name, display_name, latitude, longitude FROM regions r
		WHERE NOT EXISTS (SELECT 1 FROM fleet_resources WHERE kind = 'region' AND name = r.name) ORDER BY name`)
	if err != nil {
		return err
	}
	defer rows.Close()
	old := map[string]api.NewRegion{}
	for rows.Next() {
		var name string
		r := api.NewRegion{State: api.StateActive}
		if err := rows.Scan(&name, &r.DisplayName, &r.Latitude, &r.Longitude); err != nil {
			return err
		}
		old[name] = r
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	for name, r := range old {
		_, err := Put(ctx, s, KindRegion, name, r, Condition{Create: true}, "upgrade")
		if err != nil && !errors.Is(err, media.ErrChanged) { // another replica was first
			return fmt.Errorf("declare region %s: %w", name, err)
		}
	}
	return s.Reload(ctx)
}

// kept is a secret to be kept.
type kept struct{ id, secret string }

// keep takes the secret out of a body that names its id. Without a new one the old one stays, for as long as its version does.
func (g *graph) keep(secret, id *string, version, oldVersion int64, oldID string, f *faults) *kept {
	given := *secret
	*secret, *id = "", oldID
	switch {
	case given != "" && oldID != "" && g.secrets[oldID] == given:
		return nil
	case given != "":
		*id = strings.ToLower(rand.Text()[:16])
		return &kept{*id, given}
	case oldID != "" && version != oldVersion:
		f.add("body.secret", "a new secret_version comes with its secret")
	}
	return nil
}

// faults collects what is wrong with a resource.
type faults struct{ list []api.FieldProblem }

func (f *faults) add(location, format string, args ...any) {
	f.list = append(f.list, api.FieldProblem{Location: location, Message: fmt.Sprintf(format, args...)})
}

func (f *faults) err(k key) error {
	if len(f.list) == 0 {
		return nil
	}
	return &Faults{k.String(), ErrFields, f.list}
}
