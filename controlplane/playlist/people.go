package playlist

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"

	"github.com/oklog/ulid/v2"
)

// member is a line of the table playlist_members.
type member struct {
	user, role      string
	accepted, since int64
}

// locked runs f in a transaction that holds a playlist's lock, after the check of the caller's role. It is for what is
// no revision: people and links.
func (s *Service) locked(ctx context.Context, who, id, need string, f func(tx *sql.Tx, p row, role string) error) error {
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		p, err := lock(ctx, tx, id)
		if err != nil {
			return err
		}
		role, err := allow(ctx, tx, p, who, need)
		if err != nil {
			return err
		}
		return f(tx, p, role)
	})
}

// Collaborators lists the people in a playlist, the owner first; for those who are in it.
func (s *Service) Collaborators(ctx context.Context, who, id string) ([]api.Collaborator, error) {
	p, err := read(ctx, s.db, id)
	if err != nil {
		return nil, err
	}
	if _, err := allow(ctx, s.db, p, who, api.RoleViewer); err != nil {
		return nil, err
	}
	list, err := collect(ctx, s.db, func(m *member) []any { return []any{&m.user, &m.role, &m.accepted, &m.since} },
		`SELECT user_id, role, accepted, created_at FROM playlist_members WHERE playlist_id = $1 ORDER BY created_at, user_id`, id)
	if err != nil {
		return nil, err
	}
	list = append([]member{{p.owner, api.RoleOwner, 1, p.created}}, list...)
	var people []string
	for _, m := range list {
		people = append(people, m.user)
	}
	names, err := s.names(ctx, people)
	if err != nil {
		return nil, err
	}
	out := make([]api.Collaborator, len(list))
	for i, m := range list {
		out[i] = api.Collaborator{User: api.UserRef{ID: m.user, DisplayName: names[m.user]}, Role: m.role, Pending: m.accepted == 0, Since: store.Time(m.since)}
	}
	return out, nil
}

// Invite makes somebody a collaborator as soon as they accept, or gives one another role. Errors: media.ErrNotFound,
// also of the person; ErrLimit.
func (s *Service) Invite(ctx context.Context, who, id, user, role string) error {
	if role != api.RoleEditor && role != api.RoleViewer {
		return fmt.Errorf("role: want editor or viewer: %w", media.ErrInvalid)
	}
	if err := s.exists(ctx, user); err != nil {
		// Who may not even see the playlist learns nothing of who has an account.
		return s.locked(ctx, who, id, api.RoleOwner, func(*sql.Tx, row, string) error { return err })
	}
	return s.locked(ctx, who, id, api.RoleOwner, func(tx *sql.Tx, p row, _ string) error {
		if user == p.owner {
			return fmt.Errorf("user_id: the owner has a role already: %w", media.ErrInvalid)
		}
		if err := roomForMember(ctx, tx, id, user); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO playlist_members (playlist_id, user_id, role, accepted, created_at) VALUES ($1, $2, $3, 0, $4)
			ON CONFLICT (playlist_id, user_id) DO UPDATE SET role = excluded.role`, id, user, role, store.Micros(time.Now()))
		return err
	})
}

func (s *Service) exists(ctx context.Context, user string) error {
	if media.ValidID(user) {
		names, err := s.names(ctx, []string{user})
		if err != nil {
			return err
		}
		if _, ok := names[user]; ok {
			return nil
		}
	}
	return fmt.Errorf("user %q: %w", user, media.ErrNotFound)
}

// roomForMember checks that one more person fits, unless they are in already.
func roomForMember(ctx context.Context, tx *sql.Tx, id, user string) error {
	var n int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM playlist_members WHERE playlist_id = $1 AND user_id <> $2`, id, user).Scan(&n); err != nil {
		return err
	}
	if n >= MaxMembers {
		return fmt.Errorf("a playlist has at most %d collaborators: %w", MaxMembers, ErrLimit)
	}
	return nil
}

// Dismiss takes a person out: the owner anybody, everybody else themselves. It is no error when they are not in it.
func (s *Service) Dismiss(ctx context.Context, who, id, user string) error {
	return s.locked(ctx, who, id, "", func(tx *sql.Tx, p row, role string) error {
		switch {
		case user == p.owner:
			return fmt.Errorf("the owner cannot leave: hand the playlist over, or delete it: %w", media.ErrDenied)
		case role != api.RoleOwner && user != who:
			return fmt.Errorf("only the owner takes others out: %w", media.ErrDenied)
		}
		return leave(ctx, tx, id, user)
	})
}

// leave takes a person and their line in their own list away.
func leave(ctx context.Context, tx *sql.Tx, id, user string) error {
	res, err := tx.ExecContext(ctx, `DELETE FROM playlist_members WHERE playlist_id = $1 AND user_id = $2`, id, user)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return err
	}
	_, err = tx.ExecContext(ctx, `DELETE FROM playlist_library WHERE playlist_id = $1 AND user_id = $2 AND follows = 0`, id, user)
	return err
}

// HandOver makes a collaborator the owner; the former owner stays as an editor. It is a revision.
func (s *Service) HandOver(ctx context.Context, who, id string, match Match, user string) (api.Playlist, error) {
	p, err := s.write(ctx, who, id, match, api.RoleOwner, api.PlaylistOwner, func(c *change) error {
		if user == who {
			return nil
		}
		return c.handOver(user)
	})
	if err != nil {
		return api.Playlist{}, err
	}
	return s.renderOne(ctx, who, p)
}

func (c *change) handOver(user string) error {
	var accepted int64
	err := c.tx.QueryRowContext(c.ctx, `SELECT accepted FROM playlist_members WHERE playlist_id = $1 AND user_id = $2`, c.p.id, user).Scan(&accepted)
	if errors.Is(err, sql.ErrNoRows) || err == nil && accepted == 0 {
		return fmt.Errorf("user_id: only a collaborator, who accepted, becomes the owner: %w", media.ErrInvalid)
	} else if err != nil {
		return err
	}
	if err := lockShelf(c.ctx, c.tx, user); err != nil {
		return err
	}
	if err := roomForOne(c.ctx, c.tx, user); err != nil {
		return err
	}
	if _, err := c.tx.ExecContext(c.ctx, `UPDATE playlist_members SET user_id = $3, role = 'editor', created_at = $4 WHERE playlist_id = $1 AND user_id = $2`, c.p.id, user, c.p.owner, c.now); err != nil {
		return err
	}
	c.p.owner, c.recorded = user, true
	return nil
}

// Invitations lists what somebody was invited to and has not answered, newest first.
func (s *Service) Invitations(ctx context.Context, who string) ([]api.PlaylistInvitation, error) {
	type invitation struct {
		row
		role string
		at   int64
	}
	list, err := collect(ctx, s.db, func(v *invitation) []any { return append(v.fields(), &v.role, &v.at) },
		`SELECT `+columns+`, m.role, m.created_at FROM playlist_members m JOIN playlists p ON p.id = m.playlist_id WHERE m.user_id = $1 AND m.accepted = 0 ORDER BY m.created_at DESC, p.id LIMIT 200`, who)
	if err != nil {
		return nil, err
	}
	rows := make([]row, len(list))
	for i, v := range list {
		rows[i] = v.row
	}
	playlists, err := s.render(ctx, rows...)
	if err != nil {
		return nil, err
	}
	out := make([]api.PlaylistInvitation, len(list))
	for i, v := range list {
		playlists[i].Role = api.RoleViewer
		out[i] = api.PlaylistInvitation{Playlist: playlists[i], Role: v.role, At: store.Time(v.at)}
	}
	return out, nil
}

const linkFor = 30 * 24 * time.Hour // a share link without another word

// link is a line of the table playlist_links.
type link struct {
	id, playlist, role         string
	created, expires, accepted int64
}

func (l *link) fields() []any {
	return []any{&l.id, &l.playlist, &l.role, &l.created, &l.expires, &l.accepted}
}

func (l link) wire() api.ShareLink {
	return api.ShareLink{ID: l.id, Role: l.role, CreatedAt: store.Time(l.created), ExpiresAt: store.Time(l.expires), Accepted: l.accepted}
}

const linkColumns = `id, playlist_id, role, created_at, expires_at, accepted`

// digest is how a link's secret is stored: it has full entropy.
func digest(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// Share makes a link; only the owner may. Errors: ErrLimit.
func (s *Service) Share(ctx context.Context, who, id string, in api.NewShareLink) (api.ShareLink, error) {
	now := time.Now()
	token := "sgs_" + rand.Text()
	ttl := cmp.Or(time.Duration(in.TTLSeconds)*time.Second, linkFor)
	l := link{ulid.Make().String(), id, cmp.Or(in.Role, api.RoleViewer), store.Micros(now), store.Micros(now.Add(ttl)), 0}
	err := s.locked(ctx, who, id, api.RoleOwner, func(tx *sql.Tx, _ row, _ string) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM playlist_links WHERE playlist_id = $1 AND expires_at <= $2`, id, l.created); err != nil {
			return err
		}
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM playlist_links WHERE playlist_id = $1`, id).Scan(&n); err != nil {
			return err
		}
		if n >= MaxLinks {
			return fmt.Errorf("a playlist has at most %d share links: %w", MaxLinks, ErrLimit)
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO playlist_links (`+linkColumns+`, token_hash, created_by) VALUES ($1, $2, $3, $4, $5, 0, $6, $7)`,
			l.id, id, l.role, l.created, l.expires, digest(token), who)
		return err
	})
	out := l.wire()
	out.Token, out.URL = token, "/v1/shared/"+token
	return out, err
}

// Links lists the links that still open, newest first; only for the owner.
func (s *Service) Links(ctx context.Context, who, id string) ([]api.ShareLink, error) {
	p, err := read(ctx, s.db, id)
	if err != nil {
		return nil, err
	}
	if _, err := allow(ctx, s.db, p, who, api.RoleOwner); err != nil {
		return nil, err
	}
	list, err := collect(ctx, s.db, (*link).fields, `SELECT `+linkColumns+` FROM playlist_links WHERE playlist_id = $1 AND expires_at > $2 ORDER BY created_at DESC, id DESC`, id, store.Micros(time.Now()))
	out := []api.ShareLink{}
	for _, l := range list {
		out = append(out, l.wire())
	}
	return out, err
}

// Unshare revokes a link. People who came through it stay.
func (s *Service) Unshare(ctx context.Context, who, id, linkID string) error {
	return s.locked(ctx, who, id, api.RoleOwner, func(tx *sql.Tx, _ row, _ string) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM playlist_links WHERE playlist_id = $1 AND id = $2`, id, linkID)
		return err
	})
}

// opened finds the link of a token. One that is unknown, revoked or over is media.ErrNotFound.
func opened(ctx context.Context, q querier, token string) (link, error) {
	var l link
	err := q.QueryRowContext(ctx, `SELECT `+linkColumns+` FROM playlist_links WHERE token_hash = $1 AND expires_at > $2`, digest(token), store.Micros(time.Now())).Scan(l.fields()...)
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("share link, or it is over: %w", media.ErrNotFound)
	}
	return l, err
}

// previewTracks are shown to those who have no account.
const previewTracks = 10

// Preview is what a share link shows to anybody.
func (s *Service) Preview(ctx context.Context, token string) (api.SharedPlaylist, error) {
	l, err := opened(ctx, s.db, token)
	if err != nil {
		return api.SharedPlaylist{}, err
	}
	p, err := read(ctx, s.db, l.playlist)
	if err != nil {
		return api.SharedPlaylist{}, err
	}
	list, err := s.render(ctx, p)
	if err != nil {
		return api.SharedPlaylist{}, err
	}
	v := list[0]
	out := api.SharedPlaylist{Name: v.Name, Description: v.Description, OwnerName: v.Owner.DisplayName, Cover: v.Cover, Mosaic: v.Mosaic, TrackCount: v.TrackCount, DurationMS: v.DurationMS,
		Role: l.role, ExpiresAt: store.Time(l.expires), Tracks: []api.SharedTrack{}}
	places, err := s.page(ctx, p, p.revision, "", previewTracks)
	if err != nil {
		return out, err
	}
	items, err := s.renderItems(ctx, places)
	for _, i := range items {
		out.Tracks = append(out.Tracks, api.SharedTrack{Title: i.Title, Artist: i.Artist})
	}
	return out, err
}

// Accept makes somebody what a share link gives; a higher role that they have stays. It puts the playlist into their list.
func (s *Service) Accept(ctx context.Context, who, token string) (api.Playlist, error) {
	var p row
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		l, err := opened(ctx, tx, token)
		if err != nil {
			return err
		}
		if p, err = lock(ctx, tx, l.playlist); err != nil {
			return err
		}
		if l, err = opened(ctx, tx, token); err != nil { // again: it may have been revoked before the lock was ours
			return err
		}
		role, pending, err := roleOf(ctx, tx, p, who)
		if err != nil || role == api.RoleOwner {
			return err
		}
		better := ranks[l.role] > ranks[role]
		if !pending && !better {
			return nil
		}
		if role == "" {
			if err := roomForMember(ctx, tx, p.id, who); err != nil {
				return err
			}
		}
		if better {
			role = l.role
		}
		now := store.Micros(time.Now())
		if _, err := tx.ExecContext(ctx, `INSERT INTO playlist_members (playlist_id, user_id, role, accepted, created_at) VALUES ($1, $2, $3, 1, $4)
			ON CONFLICT (playlist_id, user_id) DO UPDATE SET role = excluded.role, accepted = 1`, p.id, who, role, now); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE playlist_links SET accepted = accepted + 1 WHERE id = $1`, l.id); err != nil {
			return err
		}
		return joinLibrary(ctx, tx, &p, who, 0, now)
	})
	if err != nil {
		return api.Playlist{}, err
	}
	return s.renderOne(ctx, who, p)
}

// oldestEditor of a playlist, "" when there is none.
func oldestEditor(ctx context.Context, tx *sql.Tx, id string) (string, error) {
	list, err := collect(ctx, tx, one[string], `SELECT user_id FROM playlist_members WHERE playlist_id = $1 AND role = 'editor' AND accepted = 1 ORDER BY created_at, user_id LIMIT 1`, id)
	return slices.Concat(list, []string{""})[0], err
}
