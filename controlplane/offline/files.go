package offline

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"
	"segue/media/cat"
)

// file is what the licence's row of a track keeps: all but the URL.
type file struct {
	api.OfflineFile
	unchanged bool // is the row that stands
}

// item is a row.
type item struct {
	version  media.Version
	file     string // JSON
	revision int64
	removed  bool
}

func items(ctx context.Context, q querier, licence string) (map[media.TrackID]item, error) {
	rows, err := q.QueryContext(ctx, `SELECT track_id, version, file, revision, removed FROM offline_items WHERE licence_id = $1`, licence)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[media.TrackID]item{}
	for rows.Next() {
		var id media.TrackID
		var i item
		var removed int64
		if err := rows.Scan(&id, &i.version, &i.file, &i.revision, &removed); err != nil {
			return nil, err
		}
		i.removed = removed != 0
		out[id] = i
	}
	return out, rows.Err()
}

// current is what a licence should be of now. What it is for may be gone: then it is of nothing.
func (s *Service) current(ctx context.Context, l api.Listener, k licence) (string, []file, error) {
	have, err := items(ctx, s.db, k.ID)
	if err != nil {
		return "", nil, err
	}
	title, files, err := s.files(ctx, l, k, have)
	if errors.Is(err, media.ErrNotFound) {
		return k.Title, nil, nil
	}
	return title, files, err
}

// files lists what a licence should be of, reading only those tracks whole that have is not of already.
func (s *Service) files(ctx context.Context, l api.Listener, k licence, have map[media.TrackID]item) (title string, out []file, err error) {
	title, ids, err := s.ask.Item(ctx, l.UserID, k.Kind, k.ItemID)
	if err != nil {
		return "", nil, err
	}
	ids = slices.Clone(ids)
	slices.Sort(ids)
	ids = slices.Compact(ids) // a playlist may have a track twice
	if len(ids) > maxFiles {
		return "", nil, fmt.Errorf("%d tracks: %w", len(ids), ErrFull)
	}
	briefs := map[media.TrackID]Brief{}
	if len(ids) > 0 {
		if briefs, err = s.ask.Briefs(ctx, ids...); err != nil {
			return "", nil, err
		}
	}
	for _, id := range ids {
		b, ok := briefs[id]
		if !ok {
			continue
		}
		if here, err := s.ask.Here(ctx, l, b.AvailableIn); err != nil {
			return "", nil, err
		} else if !here {
			continue
		}
		if h, ok := have[id]; ok && !h.removed && h.version == b.Version {
			var f file
			if err := json.Unmarshal([]byte(h.file), &f.OfflineFile); err != nil {
				return "", nil, fmt.Errorf("file of licence %s in SQL: %w: %w", k.ID, media.ErrCorrupt, err)
			}
			f.unchanged = true
			out = append(out, f)
			continue
		}
		t, err := s.ask.Track(ctx, id)
		if errors.Is(err, media.ErrNotFound) {
			continue // went just now
		} else if err != nil {
			return "", nil, err
		}
		r, ok := pick(t.Media, k.Rendition)
		if !ok {
			continue
		}
		out = append(out, file{OfflineFile: api.OfflineFile{TrackID: t.ID, Version: t.Version, Rendition: r.Name, Codec: r.Codec, Size: r.Size, SHA256: r.SHA256, DurationMS: t.DurationMS,
			Loudness: t.Loudness, GainDB: t.Loudness.GainDB(), Gapless: r.Gapless, SampleRate: r.SampleRateHz, Title: t.Title, Artists: t.Artists, Album: t.Album}})
	}
	return title, out, nil
}

// pick is the rendition asked for, else the best AAC, else the best.
func pick(all []media.Rendition, want string) (best media.Rendition, ok bool) {
	score := func(r media.Rendition) int64 {
		n := int64(r.BitrateBps)
		if strings.HasPrefix(strings.ToLower(r.Codec), "mp4a") {
			n += 1 << 30
		}
		if r.Name == want {
			n += 1 << 31
		}
		return n
	}
	for _, r := range all {
		if !ok || score(r) > score(best) {
			best, ok = r, true
		}
	}
	return best, ok
}

// put brings a licence's rows to what it should be of; when that changes anything, it has a new revision.
func put(ctx context.Context, tx *sql.Tx, id string, files []file) error {
	have, err := items(ctx, tx, id)
	if err != nil {
		return err
	}
	var revision int64
	if err := tx.QueryRowContext(ctx, `SELECT revision FROM offline_licences WHERE id = $1`, id).Scan(&revision); err != nil {
		return err
	}
	changed := revision == 0
	lines := sha256.New()
	var bytes int64
	for _, f := range files {
		fmt.Fprintf(lines, "%s %s %s %s\n", f.TrackID, f.Version, f.Rendition, f.SHA256)
		bytes += f.Size
		f.URL, f.ExpiresAt = "", time.Time{}
		b, err := json.Marshal(f.OfflineFile)
		if err != nil {
			return fmt.Errorf("bug: %w", err)
		}
		h, ok := have[f.TrackID]
		delete(have, f.TrackID)
		if ok && !h.removed && h.file == string(b) {
			continue
		}
		changed = true
		if _, err := tx.ExecContext(ctx, `INSERT INTO offline_items (licence_id, track_id, version, file, revision, removed) VALUES ($1, $2, $3, $4, $5, 0)
			ON CONFLICT (licence_id, track_id) DO UPDATE SET version = excluded.version, file = excluded.file, revision = excluded.revision, removed = 0`,
			id, string(f.TrackID), string(f.Version), string(b), revision+1); err != nil {
			return err
		}
	}
	for track, h := range have {
		if h.removed {
			continue
		}
		changed = true
		if _, err := tx.ExecContext(ctx, `UPDATE offline_items SET removed = 1, revision = $1 WHERE licence_id = $2 AND track_id = $3`, revision+1, id, string(track)); err != nil {
			return err
		}
	}
	if !changed {
		return nil
	}
	_, err = tx.ExecContext(ctx, `UPDATE offline_licences SET revision = $1, files = $2, bytes = $3, digest = $4 WHERE id = $5`, revision+1, len(files), bytes, hex.EncodeToString(lines.Sum(nil)), id)
	return err
}

// Files is one page of a licence's files, with URLs. Errors: media.ErrNotFound, media.ErrDenied for another device's,
// ErrRevoked, ErrExpired, media.ErrInvalid for a cursor, and those of Sources.Edge.
func (s *Service) Files(ctx context.Context, l api.Listener, id string, since int64, cursor string, limit int) (api.OfflineFiles, error) {
	out := api.OfflineFiles{LicenceID: id, Files: []api.OfflineFile{}, Removed: []media.TrackID{}}
	k, err := own(ctx, s.db, l, id)
	if err != nil {
		return out, err
	}
	if err := inForce(k); err != nil {
		return out, err
	}
	after := ""
	if cursor != "" {
		if out.Revision, after, err = parseCursor(cursor); err != nil {
			return out, err
		}
	} else {
		_, files, err := s.current(ctx, l, k)
		if err != nil {
			return out, err
		}
		// A track less, or one that is new or another version: nothing else can differ.
		if len(files) != k.Files || slices.ContainsFunc(files, func(f file) bool { return !f.unchanged }) {
			if err := s.db.Tx(ctx, func(tx *sql.Tx) error {
				if err := lock(ctx, tx, l.UserID); err != nil {
					return err
				}
				return put(ctx, tx, id, files)
			}); err != nil {
				return out, err
			}
		}
	}
	now := time.Now()
	until := now.Add(downloadFor).UTC().Truncate(time.Second)
	// From here on a revocation knows of the tokens; after one there are none.
	res, err := s.db.ExecContext(ctx, `UPDATE offline_licences SET token_until = $1 WHERE id = $2 AND revoked_at = 0`, store.Micros(until), id)
	if err != nil {
		return out, err
	}
	if n, err := res.RowsAffected(); err != nil {
		return out, err
	} else if n == 0 {
		return out, ErrRevoked
	}
	if k, err = one(ctx, s.db, l.UserID, id); err != nil {
		return out, err
	}
	if cursor == "" {
		out.Revision = k.Revision
		if since > 0 {
			if out.Removed, err = s.removed(ctx, id, since); err != nil {
				return out, err
			}
		}
	}
	rows, err := s.db.QueryContext(ctx, `SELECT track_id, file FROM offline_items WHERE licence_id = $1 AND removed = 0 AND revision > $2 AND track_id > $3 ORDER BY track_id LIMIT $4`, id, since, after, limit+1)
	if err != nil {
		return out, err
	}
	defer rows.Close()
	for rows.Next() {
		var track, text string
		if err := rows.Scan(&track, &text); err != nil {
			return out, err
		}
		if len(out.Files) == limit {
			out.Next = base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(out.Revision, 10) + " " + after))
			break
		}
		after = track
		var f api.OfflineFile
		if err := json.Unmarshal([]byte(text), &f); err != nil {
			return out, fmt.Errorf("file of licence %s in SQL: %w: %w", id, media.ErrCorrupt, err)
		}
		prefix := media.TrackPrefix(f.TrackID, f.Version)
		edge, err := s.ask.Edge(l, prefix)
		if err != nil {
			return out, err
		}
		token, err := cat.Mint(s.ask.Key(), cat.Claims{Issuer: issuer, ID: id, NotBefore: now.Add(-time.Minute).Truncate(time.Second), Expires: until, PathPrefix: "/" + prefix,
			Plan: string(k.plan), Renditions: []string{f.Rendition}})
		if err != nil {
			return out, err
		}
		f.URL, f.ExpiresAt = edge+"/t/"+token+"/"+prefix+f.Rendition+".mp4", until
		out.Files = append(out.Files, f)
	}
	return out, rows.Err()
}

func (s *Service) removed(ctx context.Context, id string, since int64) ([]media.TrackID, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT track_id FROM offline_items WHERE licence_id = $1 AND removed = 1 AND revision > $2 ORDER BY track_id`, id, since)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []media.TrackID{}
	for rows.Next() {
		var track media.TrackID
		if err := rows.Scan(&track); err != nil {
			return nil, err
		}
		out = append(out, track)
	}
	return out, rows.Err()
}

// parseCursor reads the revision of the first page and the last track seen.
func parseCursor(cursor string) (revision int64, after string, err error) {
	b, err := base64.RawURLEncoding.DecodeString(cursor)
	number, after, _ := strings.Cut(string(b), " ")
	revision, nerr := strconv.ParseInt(number, 10, 64)
	if err != nil || nerr != nil || !media.ValidID(after) {
		return 0, "", fmt.Errorf("cursor is not one of ours: %w", media.ErrInvalid)
	}
	return revision, after, nil
}
