package library

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"segue/controlplane/api"
	"segue/media"
)

// windows are how far back a page looks at first, in months: who follows many artists finds a page full in the shortest,
// which costs one look into the index per artist; who follows few has few looks to repeat. 0 is all time.
var windows = []int{4, 24, 0}

// Releases pages through the albums of followed artists, newest release first; what is to come is not shown before its
// day (in UTC).
func (s *Service) Releases(ctx context.Context, userID, cursor string, limit int) (p api.Page[api.Album], err error) {
	date, id, err := parseRelease(cursor)
	if err != nil {
		return p, err
	}
	var list []release
	for _, months := range windows {
		since := before(date, months)
		if list, err = s.releases(ctx, userID, since, date, id, limit+1); err != nil {
			return p, err
		}
		if len(list) > limit || since == "" {
			break
		}
	}
	if len(list) > limit {
		list = list[:limit]
		last := list[limit-1]
		p.Next = base64.RawURLEncoding.EncodeToString([]byte(last.date + " " + last.id))
	}
	ids := make([]string, len(list))
	for i, r := range list {
		ids[i] = r.id
	}
	albums, err := s.ask.Albums(ctx, ids...)
	known := map[string]api.Album{}
	for _, a := range albums {
		known[string(a.ID)] = a
	}
	p.Items = []api.Album{}
	for _, id := range ids {
		if a, ok := known[id]; ok { // else it left the catalogue just now
			p.Items = append(p.Items, a)
		}
	}
	return p, err
}

// before is the day some months before a date, or "" for a date that cannot be read and for 0 months.
func before(date string, months int) string {
	for _, form := range []string{time.DateOnly, "2006-01", "2006"} {
		if t, err := time.Parse(form, date); err == nil && months > 0 {
			return t.AddDate(0, -months, 0).Format(time.DateOnly)
		}
	}
	return ""
}

type release struct{ date, id string }

// releases reads what came out after since, up to a place in the list. An album's first artist is in its row, further
// ones are credits. Who was merged goes on under another id.
func (s *Service) releases(ctx context.Context, userID, since, date, id string, limit int) ([]release, error) {
	const where = ` WHERE a.removed_at = 0 AND a.date > $6 AND a.date <= $2 AND (a.date < $2 OR a.id < $3)`
	rows, err := s.db.QueryContext(ctx, `WITH who AS (SELECT item_id AS id FROM followed_artists WHERE user_id = $1
			UNION ALL SELECT r.merged_into FROM artists r JOIN followed_artists f ON f.item_id = r.id WHERE r.merged_into <> '' AND f.user_id = $1)
		SELECT a.date, a.id FROM who JOIN albums a ON a.artist_id = who.id`+where+`
		UNION SELECT a.date, a.id FROM who JOIN album_credits c ON c.artist_id = who.id JOIN albums a ON a.id = c.album_id`+where+` AND c.role = $5
		ORDER BY 1 DESC, 2 DESC LIMIT $4`, userID, date, id, limit, api.RoleMain, since)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []release
	for rows.Next() {
		var r release
		if err := rows.Scan(&r.date, &r.id); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

// parseRelease of "" is behind today's last album. Dates are of ISO 8601 with the day or month left out, as files have
// them, so that their texts are in order of time.
func parseRelease(cursor string) (date, id string, err error) {
	if cursor == "" {
		return time.Now().UTC().Format(time.DateOnly), "~", nil // "~" is behind all ids
	}
	b, err := base64.RawURLEncoding.DecodeString(cursor)
	i := strings.LastIndexByte(string(b), ' ')
	if err != nil || i < 0 || !media.ValidID(string(b[i+1:])) || !utf8.Valid(b) || strings.ContainsRune(string(b), 0) {
		return "", "", fmt.Errorf("cursor is not one of ours: %w", media.ErrInvalid)
	}
	return string(b[:i]), string(b[i+1:]), nil
}
