package identity

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/media"

	"github.com/alexedwards/argon2id"
	"golang.org/x/text/unicode/norm"
)

// hash checks a new password and hashes it; field names it in errors.
func (s *Service) hash(ctx context.Context, field, password string) (string, error) {
	if len(password) < MinPassword || len(password) > MaxPassword {
		return "", fmt.Errorf("%s: want %d to %d bytes: %w", field, MinPassword, MaxPassword, media.ErrInvalid)
	}
	if err := s.hashing.Acquire(ctx, 1); err != nil {
		return "", err
	}
	defer s.hashing.Release(1)
	hash, err := argon2id.CreateHash(norm.NFC.String(password), hashing) // RFC 8265 4.2.2: keyboards differ in the form of é
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	return hash, nil
}

// check compares a password with a hash; an empty hash matches nothing and takes the same time. A wrong one counts
// against all targets, and while one of them is blocked nothing is compared. Errors: media.ErrNoAccess, *Throttled.
func (s *Service) check(ctx context.Context, hash, password string, targets ...target) error {
	if len(password) > MaxPassword {
		return errWrong()
	}
	if err := s.hashing.Acquire(ctx, 1); err != nil {
		return err
	}
	defer s.hashing.Release(1)
	// Inside the slot: whoever guesses in parallel gets as many guesses too many as there are slots, and no more.
	if err := s.blocked(ctx, targets); err != nil {
		return err
	}
	same, err := argon2id.ComparePasswordAndHash(norm.NFC.String(password), cmp.Or(hash, s.decoy))
	if err == nil && same && hash != "" {
		return nil
	}
	// A caller who hangs up is counted too.
	if err := s.countWrong(context.WithoutCancel(ctx), targets); err != nil {
		return err
	}
	return errWrong()
}

func errWrong() error { return fmt.Errorf("wrong address or password: %w", media.ErrNoAccess) }

// Throttled: too many wrong passwords. Wait is how long until the next try counts.
type Throttled struct{ Wait time.Duration }

func (t *Throttled) Error() string {
	return fmt.Sprintf("too many wrong passwords, try again in %s", t.Wait.Round(time.Second))
}

// forgetWrong is after how long without another one wrong passwords are forgotten.
const forgetWrong = 24 * time.Hour

// target is what passwords are tried on. The first free wrong ones cost nothing, then each doubles a delay, which starts
// with a second.
type target struct {
	key  string
	free int64
	most time.Duration
}

// signInTargets: a device that belongs to the account has a count of its own, so that whoever guesses from elsewhere
// cannot lock people out of where they always sign in. Device ids are not guessable. An account that does not exist is
// counted like any other: nobody learns from the delay whether there is one.
func signInTargets(emailKey, knownDevice string, from netip.Addr) []target {
	if knownDevice != "" {
		return []target{{digest("device " + emailKey + " " + knownDevice), 5, 15 * time.Minute}}
	}
	list := []target{{digest("account " + emailKey), 5, 15 * time.Minute}}
	if from.IsValid() {
		bits := 32
		if from.Is6() {
			bits = 64 // one customer has as many addresses as that leaves
		}
		if p, err := from.Prefix(bits); err == nil {
			list = append(list, target{digest("network " + p.String()), 50, 5 * time.Minute}) // many people may share one
		}
	}
	return list
}

func passwordTarget(userID string) target {
	return target{digest("password " + userID), 5, 15 * time.Minute}
}

func (t target) delay(failures int64) time.Duration {
	if failures < t.free {
		return 0
	}
	return min(t.most, time.Second<<min(failures-t.free, 20))
}

func (s *Service) blocked(ctx context.Context, targets []target) error {
	now := store.Micros(time.Now())
	var until int64
	for _, t := range targets {
		var u int64
		err := s.db.QueryRowContext(ctx, `SELECT blocked_until FROM wrong_passwords WHERE key = $1`, t.key).Scan(&u)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		until = max(until, u)
	}
	if until > now {
		return &Throttled{time.Duration(until-now) * time.Microsecond}
	}
	return nil
}

func (s *Service) countWrong(ctx context.Context, targets []target) error {
	now := time.Now()
	for _, t := range targets {
		var failures int64
		if err := s.db.QueryRowContext(ctx, `INSERT INTO wrong_passwords (key, failures, last_at, blocked_until) VALUES ($1, 1, $2, 0)
		  ON CONFLICT (key) DO UPDATE SET failures = CASE WHEN wrong_passwords.last_at < $3 THEN 1 ELSE wrong_passwords.failures + 1 END, last_at = $2 RETURNING failures`,
			t.key, store.Micros(now), store.Micros(now.Add(-forgetWrong))).Scan(&failures); err != nil {
			return err
		}
		if d := t.delay(failures); d > 0 {
			if _, err := s.db.ExecContext(ctx, `UPDATE wrong_passwords SET blocked_until = $1 WHERE key = $2`, store.Micros(now.Add(d)), t.key); err != nil {
				return err
			}
		}
	}
	return nil
}

// forgetWrongOn takes back what was counted, after a right password. A network is not forgiven: its owner could reset it with an
// account of their own.
func forgetWrongOn(ctx context.Context, tx *sql.Tx, t target) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM wrong_passwords WHERE key = $1`, t.key)
	return err
}

// recently is how long after a sign-in an account with no password may do what else needs one.
const recently = 10 * time.Minute

// confirm asks an account for its password, or, when it has none, for a recent sign-in. Errors: media.ErrDenied,
// *Throttled.
func (s *Service) confirm(ctx context.Context, a account, session, password, field string) error {
	if a.hash != "" {
		err := s.check(ctx, a.hash, password, passwordTarget(a.ID))
		if errors.Is(err, media.ErrNoAccess) {
			return fmt.Errorf("%s: wrong password: %w", field, media.ErrDenied) // not 401: the access token is good
		}
		return err
	}
	var created int64
	err := s.db.QueryRowContext(ctx, `SELECT created_at FROM sessions WHERE id = $1 AND user_id = $2`, session, a.ID).Scan(&created)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if time.Since(store.Time(created)) > recently {
		return fmt.Errorf("this account has no password: sign in anew first: %w", media.ErrDenied)
	}
	return nil
}

// ChangePassword ends all sessions of the account but the one that asks. Errors: media.ErrInvalid with the field's name
// first, media.ErrDenied for a wrong old password, *Throttled.
func (s *Service) ChangePassword(ctx context.Context, p Principal, n api.NewPassword) error {
	a, err := s.find(ctx, s.db, "id", p.UserID)
	if err != nil {
		return err
	}
	if err := s.confirm(ctx, a, p.SessionID, n.OldPassword, "old_password"); err != nil {
		return err
	}
	hash, err := s.hash(ctx, "new_password", n.NewPassword)
	if err != nil {
		return err
	}
	return s.endAfter(ctx, func(tx *sql.Tx) ([]string, error) {
		// The old hash is asked for: of two who change it at once, one is told.
		res, err := tx.ExecContext(ctx, `UPDATE users SET password_hash = $1 WHERE id = $2 AND password_hash = $3`, hash, a.ID, a.hash)
		if err := changedOne(res, err, "user"); errors.Is(err, media.ErrNotFound) {
			return nil, fmt.Errorf("old_password: the password was changed meanwhile: %w", media.ErrDenied)
		} else if err != nil {
			return nil, err
		}
		if err := forgetWrongOn(ctx, tx, passwordTarget(a.ID)); err != nil {
			return nil, err
		}
		return endSessions(ctx, tx, `user_id = $1 AND id <> $2`, a.ID, p.SessionID)
	})
}
