package identity

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"encoding/base32"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"

	"github.com/oklog/ulid/v2"
)

// ErrSuspended: an operator has closed the account.
var ErrSuspended = errors.New("this account is suspended")

// SignIn opens a session on a device. from is the caller's address, for the limits; its zero value has none. A wrong
// address and a wrong password are the same media.ErrNoAccess and take the same time. Errors: also *Throttled,
// ErrSuspended, media.ErrInvalid with the field's name first.
func (s *Service) SignIn(ctx context.Context, n api.NewSession, from netip.Addr) (api.Session, error) {
	if err := checkDevice(&n.Device); err != nil {
		return api.Session{}, err
	}
	a, err := s.find(ctx, s.db, "email_key", emailKey(n.Email))
	if err != nil && !errors.Is(err, media.ErrNotFound) {
		return api.Session{}, err
	}
	known, err := s.ownsDevice(ctx, a.ID, n.Device.ID)
	if err != nil {
		return api.Session{}, err
	}
	targets := signInTargets(emailKey(n.Email), known, from)
	if err := s.check(ctx, a.hash, n.Password, targets...); err != nil {
		return api.Session{}, err
	}
	if a.suspendedAt != 0 {
		return api.Session{}, ErrSuspended // only who has the password hears of it
	}
	return s.open(ctx, a, n.Device, func(tx *sql.Tx) error { return forgetWrongOn(ctx, tx, targets[0]) })
}

// open makes a session; also runs in its transaction. It fails when the account changed its password, was suspended or
// deleted since a was read.
func (s *Service) open(ctx context.Context, a account, d api.Device, also func(*sql.Tx) error) (api.Session, error) {
	session, refresh, now := ulid.Make().String(), newRefreshToken(), time.Now()
	device := ""
	err := s.endAfter(ctx, func(tx *sql.Tx) (ended []string, err error) {
		res, err := tx.ExecContext(ctx, `UPDATE users SET signed_in_at = $1 WHERE id = $2 AND password_hash = $3 AND suspended_at = 0`, store.Micros(now), a.ID, a.hash)
		if err := changedOne(res, err, "user"); errors.Is(err, media.ErrNotFound) {
			return nil, errWrong()
		} else if err != nil {
			return nil, err
		}
		if also != nil {
			if err := also(tx); err != nil {
				return nil, err
			}
		}
		if device, ended, err = s.takeDevice(ctx, tx, a.ID, d, now); err != nil {
			return nil, err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO sessions (id, user_id, device_id, family_hash, token_hash, created_at, seen_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $6, $7)`,
			session, a.ID, device, digest(refresh.family), digest(refresh.secret), store.Micros(now), store.Micros(now.Add(sessionFor)))
		return ended, err
	})
	if err != nil {
		return api.Session{}, err
	}
	return s.grant(a.User, session, device, refresh, now)
}

// refreshToken is sgr_, then 26 characters that all tokens of a session share, then 26 of its own.
type refreshToken struct{ family, secret string }

const (
	refreshPrefix = "sgr_"
	secretLen     = 26 // of rand.Text: 128 bits and more
)

func newRefreshToken() refreshToken { return refreshToken{rand.Text(), rand.Text()} }

func (r refreshToken) String() string { return refreshPrefix + r.family + r.secret }

func parseRefreshToken(s string) (refreshToken, bool) {
	rest, ok := strings.CutPrefix(s, refreshPrefix)
	if !ok || len(rest) != 2*secretLen {
		return refreshToken{}, false
	}
	return refreshToken{rest[:secretLen], rest[secretLen:]}, true
}

// after is the token that follows r under a salt. Who has the salt but not r (the database) or r but not the salt (a
// client) cannot make it.
func (r refreshToken) after(salt string) refreshToken {
	mac := hmac.New(sha256.New, []byte(salt))
	mac.Write([]byte(r.family + r.secret))
	return refreshToken{r.family, base32.StdEncoding.EncodeToString(mac.Sum(nil))[:secretLen]}
}

// retryFor is how long a used refresh token may come again.
const retryFor = time.Minute

// Refresh changes a refresh token for a new pair. One that was used before means that somebody else has it too: the
// whole session ends, within seconds on every replica. Errors: media.ErrNoAccess.
//
// One case is not like that: the answer was lost, and the client asks again. So within retryFor of its use, and until its
// successor is used, a token gives the same successor again, but not in two changes running. What that gives a thief is
// little: of two who hold one token after a retry, the second to use it is found out at the next change at the latest.
//
//  1. R1 is used, R2 is on its way to the client and lost. The client uses R1 again: R2 again.
//  2. A thief who has R1 does the same: both have R2. One of them uses it and gets R3; when the other uses R2, even
//     within retryFor, the change before was retried too: the session ends for both.
func (s *Service) Refresh(ctx context.Context, token string) (api.Session, error) {
	have, ok := parseRefreshToken(token)
	if !ok {
		return api.Session{}, fmt.Errorf("refresh token is unknown: %w", media.ErrNoAccess)
	}
	var id, userID, device string
	var next refreshToken
	var outcome error
	now := time.Now()
	err := s.endAfter(ctx, func(tx *sql.Tx) ([]string, error) {
		outcome = nil
		// Its lock puts those who come at once in order.
		if _, err := tx.ExecContext(ctx, `UPDATE sessions SET seen_at = $1 WHERE family_hash = $2`, store.Micros(now), digest(have.family)); err != nil {
			return nil, err
		}
		var current, previous, salt string
		var rotated, retried, retriedBefore, expires int64
		err := tx.QueryRowContext(ctx, `SELECT id, user_id, device_id, token_hash, previous_hash, salt, rotated_at, retried, retried_before, expires_at FROM sessions WHERE family_hash = $1`, digest(have.family)).
			Scan(&id, &userID, &device, &current, &previous, &salt, &rotated, &retried, &retriedBefore, &expires)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return nil, fmt.Errorf("session has ended: %w", media.ErrNoAccess)
		case err != nil:
			return nil, err
		case expires <= store.Micros(now):
			return nil, fmt.Errorf("session has ended: %w", media.ErrNoAccess)
		case same(digest(have.secret), current):
			salt = rand.Text()
			next = have.after(salt)
			if _, err := tx.ExecContext(ctx, `UPDATE sessions SET token_hash = $1, previous_hash = $2, salt = $3, rotated_at = $4, retried = 0, retried_before = $5, expires_at = $6 WHERE id = $7`,
				digest(next.secret), current, salt, store.Micros(now), retried, store.Micros(now.Add(sessionFor)), id); err != nil {
				return nil, err
			}
			_, err := tx.ExecContext(ctx, `UPDATE devices SET last_active_at = $1 WHERE id = $2`, store.Micros(now), device)
			return nil, err
		case same(digest(have.secret), previous) && retriedBefore == 0 && store.Micros(now)-rotated < retryFor.Microseconds():
			next = have.after(salt)
			_, err := tx.ExecContext(ctx, `UPDATE sessions SET retried = 1 WHERE id = $1`, id)
			return nil, err
		default:
			outcome = fmt.Errorf("refresh token was used before, the session is ended: %w", media.ErrNoAccess)
			return endSessions(ctx, tx, `id = $1`, id)
		}
	})
	if err = errors.Join(err, outcome); err != nil {
		return api.Session{}, err
	}
	u, err := s.User(ctx, userID)
	if errors.Is(err, media.ErrNotFound) {
		return api.Session{}, fmt.Errorf("session has ended: %w", media.ErrNoAccess)
	} else if err != nil {
		return api.Session{}, err
	}
	return s.grant(u, id, device, next, now)
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

func (s *Service) grant(u api.User, session, device string, refresh refreshToken, now time.Time) (api.Session, error) {
	access, err := s.keys.sign(Principal{UserID: u.ID, SessionID: session, DeviceID: device, Plan: u.Plan}, now)
	return api.Session{AccessToken: access, TokenType: "Bearer", ExpiresInSeconds: int(accessFor.Seconds()), RefreshToken: refresh.String(), DeviceID: device, User: u}, err
}

// SignOut ends a session: its refresh token is worth nothing at once, its access token within seconds on every replica.
func (s *Service) SignOut(ctx context.Context, p Principal) error {
	return s.endAfter(ctx, func(tx *sql.Tx) ([]string, error) {
		return endSessions(ctx, tx, `id = $1 AND user_id = $2`, p.SessionID, p.UserID)
	})
}

// SignOutEverywhere ends all sessions of an account.
func (s *Service) SignOutEverywhere(ctx context.Context, userID string) error {
	return s.endAfter(ctx, func(tx *sql.Tx) ([]string, error) { return endSessions(ctx, tx, `user_id = $1`, userID) })
}

// endSessions ends those that match, in a transaction, and returns their ids, for s.ended after the commit.
func endSessions(ctx context.Context, tx *sql.Tx, where string, args ...any) ([]string, error) {
	rows, err := tx.QueryContext(ctx, `DELETE FROM sessions WHERE `+where+` RETURNING id`, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var ids []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	rows.Close()
	for _, id := range ids {
		if _, err := tx.ExecContext(ctx, `INSERT INTO ended_sessions (id, ended_at) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING`, id, store.Micros(time.Now())); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// endAfter runs a transaction that ends sessions, and then refuses their access tokens here at once; the other replicas
// read of it.
func (s *Service) endAfter(ctx context.Context, f func(*sql.Tx) ([]string, error)) error {
	var ids []string
	err := s.db.Tx(ctx, func(tx *sql.Tx) (err error) {
		ids, err = f(tx)
		return err
	})
	if err == nil {
		s.ended.add(ids, time.Now())
	}
	return err
}

const (
	endedFor = accessFor + time.Minute // after that every access token of the session has ended by itself

	// lookBack covers the clocks of replicas that differ, and transactions that take long to commit.
	lookBack = time.Minute
)

// ended is what a replica knows of the sessions that ended lately.
type ended struct {
	mu    sync.RWMutex // guards the fields below
	at    map[string]time.Time
	since time.Time // of the last good poll; zero: none yet
	swept time.Time
}

func (e *ended) has(id string) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	_, ok := e.at[id]
	return ok
}

func (e *ended) add(ids []string, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.at == nil {
		e.at = map[string]time.Time{}
	}
	for _, id := range ids {
		e.at[id] = now
	}
	if now.Sub(e.swept) > time.Minute {
		for id, at := range e.at {
			if now.Sub(at) > endedFor {
				delete(e.at, id)
			}
		}
		e.swept = now
	}
}

// poll reads what ended since the last poll: one range of an index.
func (e *ended) poll(ctx context.Context, db *store.DB, now time.Time) error {
	e.mu.RLock()
	since := e.since.Add(-lookBack)
	e.mu.RUnlock()
	if oldest := now.Add(-endedFor - lookBack); since.Before(oldest) {
		since = oldest
	}
	rows, err := db.QueryContext(ctx, `SELECT id FROM ended_sessions WHERE ended_at > $1`, store.Micros(since))
	if err != nil {
		return err
	}
	defer rows.Close()
	var ids []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return err
		}
		ids = append(ids, id)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	e.add(ids, now)
	e.mu.Lock()
	e.since = now
	e.mu.Unlock()
	return nil
}
