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

// Releases pages through the albums of followed artists, newest release first; what is to come is not shown before its
// day (in UTC). It reads the index of the catalogue's albums by artist and date, 20,000 short entries for 2,000 artists
// with ten albums each, and keeps the newest.
func (s *Service) Releases(ctx context.Context, userID, cursor string, limit int) (p api.Page[api.Album], err error) {
	date, id, err := parseRelease(cursor)
	if err != nil {
		return p, err
	}
	// An album's first artist is in its row, further ones are credits. Who was merged goes on under another id.
	const followed = `FROM followed_artists f JOIN artists r ON r.id = f.item_id JOIN `
	const artist = `= CASE WHEN r.merged_into = '' THEN r.id ELSE r.merged_into END`
	const where = ` WHERE f.user_id = $1 AND a.removed_at = 0 AND a.date > '' AND a.date <= $2 AND (a.date < $2 OR a.id < $3)`
	rows, err := s.db.QueryContext(ctx, `SELECT a.date, a.id `+followed+`albums a ON a.artist_id `+artist+where+`
		UNION SELECT a.date, a.id `+followed+`album_credits c ON c.artist_id `+artist+` JOIN albums a ON a.id = c.album_id`+where+` AND c.role = $5
		ORDER BY 1 DESC, 2 DESC LIMIT $4`, userID, date, id, limit+1, api.RoleMain)
	if err != nil {
		return p, err
	}
	defer rows.Close()
	p.Items = []api.Album{}
	var list []string
	for rows.Next() {
		if len(list) == limit {
			p.Next = base64.RawURLEncoding.EncodeToString([]byte(date + " " + list[limit-1]))
			break
		}
		if err := rows.Scan(&date, &id); err != nil {
			return p, err
		}
		list = append(list, id)
	}
	if err := rows.Err(); err != nil {
		return p, err
	}
	rows.Close()
	albums, err := s.ask.Albums(ctx, list...)
	known := map[string]api.Album{}
	for _, a := range albums {
		known[string(a.ID)] = a
	}
	for _, id := range list {
		if a, ok := known[id]; ok { // else it left the catalogue just now
			p.Items = append(p.Items, a)
		}
	}
	return p, err
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
