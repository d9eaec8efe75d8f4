package fleet

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"
)

// shown is a change as operators read it.
func shown(c change) (api.Change, error) {
	out := api.Change{Kind: string(c.Kind), Name: c.Name}
	var before, after map[string]any
	for raw, into := range map[*json.RawMessage]*map[string]any{&c.Before: &before, &c.After: &after} {
		if *raw != nil {
			if err := json.Unmarshal(*raw, into); err != nil {
				return out, fmt.Errorf("revision of %s: %w: %w", c.key, media.ErrCorrupt, err)
			}
		}
	}
	switch {
	case c.Before == nil:
		out.Action, out.Patch = "created", after
	case c.After == nil:
		out.Action, out.Patch = "deleted", before
	default:
		out.Action, out.Patch = "updated", mergePatch(before, after)
	}
	return out, nil
}

// mergePatch is the JSON merge patch from one object to another: RFC 7396.
func mergePatch(from, to map[string]any) map[string]any {
	patch := map[string]any{}
	for name := range from {
		if _, ok := to[name]; !ok {
			patch[name] = nil
		}
	}
	for name, v := range to {
		was, ok := from[name]
		if ok && reflect.DeepEqual(was, v) {
			continue
		}
		a, one := was.(map[string]any)
		b, two := v.(map[string]any)
		if one && two {
			patch[name] = mergePatch(a, b)
		} else {
			patch[name] = v
		}
	}
	return patch
}

// Revisions lists those below a number (0: all), newest first.
func (s *Service) Revisions(ctx context.Context, below int64, limit int) (list []api.Revision, err error) {
	list = []api.Revision{}
	err = each(ctx, s.db, `SELECT number, author, created_at, undoes, changes FROM fleet_revisions WHERE number < $1 OR $1 = 0 ORDER BY number DESC LIMIT $2`, func(scan func(...any) error) error {
		r, _, err := scanRevision(scan)
		list = append(list, r)
		return err
	}, below, limit)
	return list, err
}

func scanRevision(scan func(...any) error) (r api.Revision, changes []change, err error) {
	var at int64
	var raw string
	if err := scan(&r.Number, &r.Author, &at, &r.Undoes, &raw); err != nil {
		return r, nil, err
	}
	r.CreatedAt, r.Changes = store.Time(at), []api.Change{}
	if err := json.Unmarshal([]byte(raw), &changes); err != nil {
		return r, nil, fmt.Errorf("revision %d: %w: %w", r.Number, media.ErrCorrupt, err)
	}
	for _, c := range changes {
		one, err := shown(c)
		if err != nil {
			return r, nil, err
		}
		r.Changes = append(r.Changes, one)
	}
	return r, changes, nil
}

const revisionColumns = `SELECT number, author, created_at, undoes, changes FROM fleet_revisions WHERE number = $1`

// Revision returns one, or media.ErrNotFound.
func (s *Service) Revision(ctx context.Context, number int64) (api.Revision, error) {
	r, _, err := scanRevision(s.db.QueryRowContext(ctx, revisionColumns, number).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("revision %d: %w", number, media.ErrNotFound)
	}
	return r, err
}

// Rollback undoes one revision by a new one: what it changed becomes what it was before. Errors: media.ErrNotFound; ErrSince when
// a later revision changed the same, which is to be undone first; those of Put and Delete.
func (s *Service) Rollback(ctx context.Context, number int64, author string) (api.Revision, error) {
	var undone int64
	err := s.change(ctx, func(tx *sql.Tx, g *graph) error {
		_, changes, err := scanRevision(tx.QueryRowContext(ctx, revisionColumns, number).Scan)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("revision %d: %w", number, media.ErrNotFound)
		} else if err != nil {
			return err
		}
		var back []change
		for _, c := range changes {
			now := g.rows[c.key]
			if now == nil && c.After != nil || now != nil && (c.After == nil || !bytes.Equal(now.body, c.After)) || now != nil && now.drainUntil != 0 {
				return fmt.Errorf("%s: %w", c.key, ErrSince)
			}
			back = append(back, change{c.key, c.After, c.Before})
			if c.Before == nil {
				delete(g.rows, c.key)
			} else {
				g.rows[c.key] = &row{key: c.key, body: c.Before}
			}
		}
		for _, c := range back {
			if c.After == nil {
				if err := g.unused(c.key); err != nil {
					return err
				}
				if c.Kind == KindRegion {
					if err := s.empty(g, c.Name); err != nil {
						return err
					}
				}
				continue
			}
			if err := g.check(c.key); err != nil {
				return err
			}
			if err := g.restorable(ctx, tx, c); err != nil {
				return err
			}
		}
		undone, err = s.commit(ctx, tx, author, number, back...)
		return err
	})
	if err != nil {
		return api.Revision{}, err
	}
	return s.Revision(ctx, undone)
}

// restorable finds what a body of the past names that is gone for good: its secret, its release.
func (g *graph) restorable(ctx context.Context, tx *sql.Tx, c change) error {
	f := &faults{}
	var named struct {
		SecretID string `json:"secret_id"`
	}
	switch c.Kind {
	case kindActivation:
		var a storedActivation
		if err := json.Unmarshal(c.After, &a); err != nil {
			return fmt.Errorf("%s: %w: %w", c.key, media.ErrCorrupt, err)
		}
		for _, n := range []int64{a.Release, a.Base} {
			if n != 0 {
				if err := activatable(ctx, tx, g, n, f); err != nil {
					return err
				}
			}
		}
	case KindOrigin, KindKey:
		if err := json.Unmarshal(c.After, &named); err != nil {
			return fmt.Errorf("%s: %w: %w", c.key, media.ErrCorrupt, err)
		}
		if _, ok := g.secrets[named.SecretID]; named.SecretID != "" && !ok {
			f.add("body.secret", "the secret that it had is not kept any more: declare it again")
		}
	}
	return f.err(c.key)
}
