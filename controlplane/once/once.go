// Package once remembers what was answered to a request that carries a key of its own, so that a repeat of the request
// is answered again and not done again, on any replica. It knows no HTTP: an answer is a status, some headers and a body.
package once

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"segue/controlplane/store"
	"segue/media"
)

const (
	// KeptFor is how long an answer is given again.
	KeptFor = 24 * time.Hour
	// lockedFor: who has not ended a request after this long has died. It is more than any operation may take.
	lockedFor = time.Minute
)

var (
	// ErrReused: the key came with another request before.
	ErrReused = errors.New("this key was used for another request")
	// ErrInProgress: the first request with the key is not answered yet.
	ErrInProgress = errors.New("a request with this key is being done")
)

// Memory is safe for concurrent use. The secret makes fingerprints: a request may hold a password, and the database
// must not become a place to guess it.
type Memory struct {
	db     *store.DB
	secret []byte
}

// New takes at least 16 bytes of secret, the same on all replicas.
func New(db *store.DB, secret []byte) *Memory {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte("idempotency"))
	return &Memory{db, h.Sum(nil)}
}

// Request names one request. Owner is who sent it; UserID too when that is a listener.
type Request struct {
	Owner, UserID, Operation, Key string
	Parts                         []string // all that makes the request what it is
}

// Answer is what is kept.
type Answer struct {
	Status int
	Header map[string]string
	Body   string // text without NUL
}

// Claim is a request that is being done: end it by Keep or Drop.
type Claim struct {
	m                     *Memory
	owner, operation, key string
	until                 int64
}

func (m *Memory) hash(parts ...string) string {
	h := hmac.New(sha256.New, m.secret)
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s,", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil)[:20])
}

// Begin claims a request, or returns the answer that it had: exactly one of the two is not nil when the error is.
// Errors: ErrReused, ErrInProgress, media.ErrNoAccess for a listener whose account is gone. A claim whose holder died is
// given to the next one after a minute.
func (m *Memory) Begin(ctx context.Context, r Request, now time.Time) (*Claim, *Answer, error) {
	c := &Claim{m: m, owner: m.hash(r.Owner), operation: r.Operation, key: m.hash("key", r.Key), until: store.Micros(now.Add(lockedFor))}
	print := m.hash(r.Parts...)
	for range 3 { // what is found may be swept or dropped before it is read
		won, err := m.insert(ctx, c, r.UserID, print, now)
		if err != nil {
			return nil, nil, fmt.Errorf("idempotency key: %w", err)
		}
		if won {
			return c, nil, nil
		}
		var found, header, body string
		var status, locked, created int64
		err = m.db.QueryRowContext(ctx, `SELECT fingerprint, status, header, body, locked_until, created_at FROM idempotency_keys WHERE owner = $1 AND operation = $2 AND key = $3`, c.owner, c.operation, c.key).
			Scan(&found, &status, &header, &body, &locked, &created)
		switch {
		case errors.Is(err, sql.ErrNoRows) && r.UserID != "":
			var one int
			if err := m.db.QueryRowContext(ctx, `SELECT 1 FROM users WHERE id = $1`, r.UserID).Scan(&one); errors.Is(err, sql.ErrNoRows) {
				return nil, nil, fmt.Errorf("the account is gone: %w", media.ErrNoAccess)
			} else if err != nil {
				return nil, nil, fmt.Errorf("idempotency key: %w", err)
			}
			continue
		case errors.Is(err, sql.ErrNoRows):
			continue
		case err != nil:
			return nil, nil, fmt.Errorf("idempotency key: %w", err)
		case created <= store.Micros(now.Add(-KeptFor)):
			if _, err := m.db.ExecContext(ctx, `DELETE FROM idempotency_keys WHERE owner = $1 AND operation = $2 AND key = $3 AND created_at = $4`, c.owner, c.operation, c.key, created); err != nil {
				return nil, nil, fmt.Errorf("idempotency key: %w", err)
			}
			continue
		case found != print:
			return nil, nil, ErrReused
		case status != 0:
			a := &Answer{Status: int(status), Body: body}
			if err := json.Unmarshal([]byte(header), &a.Header); err != nil {
				return nil, nil, fmt.Errorf("idempotency key: stored header: %w", err)
			}
			return nil, a, nil
		case locked > store.Micros(now):
			return nil, nil, ErrInProgress
		}
		res, err := m.db.ExecContext(ctx, `UPDATE idempotency_keys SET locked_until = $1 WHERE owner = $2 AND operation = $3 AND key = $4 AND status = 0 AND locked_until = $5`,
			c.until, c.owner, c.operation, c.key, locked)
		if err != nil {
			return nil, nil, fmt.Errorf("idempotency key: %w", err)
		}
		if n, err := res.RowsAffected(); err == nil && n == 1 {
			return c, nil, nil
		}
	}
	return nil, nil, ErrInProgress
}

func (m *Memory) insert(ctx context.Context, c *Claim, userID, print string, now time.Time) (won bool, err error) {
	const columns = `INSERT INTO idempotency_keys (owner, operation, key, user_id, fingerprint, status, header, body, locked_until, created_at) `
	var res sql.Result
	if userID == "" {
		res, err = m.db.ExecContext(ctx, columns+`VALUES ($1, $2, $3, NULL, $4, 0, '', '', $5, $6) ON CONFLICT (owner, operation, key) DO NOTHING`,
			c.owner, c.operation, c.key, print, c.until, store.Micros(now))
	} else {
		res, err = m.db.ExecContext(ctx, columns+`SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS TEXT), id, CAST($4 AS TEXT), 0, '', '', CAST($5 AS BIGINT), CAST($6 AS BIGINT) FROM users WHERE id = $7
			ON CONFLICT (owner, operation, key) DO NOTHING`, c.owner, c.operation, c.key, print, c.until, store.Micros(now), userID)
	}
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

// Keep stores the answer for repeats.
func (c *Claim) Keep(ctx context.Context, a Answer) error {
	header, err := json.Marshal(a.Header)
	if err != nil {
		return fmt.Errorf("bug: %w", err)
	}
	_, err = c.m.db.ExecContext(ctx, `UPDATE idempotency_keys SET status = $1, header = $2, body = $3 WHERE owner = $4 AND operation = $5 AND key = $6 AND status = 0 AND locked_until = $7`,
		a.Status, string(header), a.Body, c.owner, c.operation, c.key, c.until)
	return err
}

// Drop forgets the request: nothing was done, and it may come again.
func (c *Claim) Drop(ctx context.Context) error {
	_, err := c.m.db.ExecContext(ctx, `DELETE FROM idempotency_keys WHERE owner = $1 AND operation = $2 AND key = $3 AND status = 0 AND locked_until = $4`, c.owner, c.operation, c.key, c.until)
	return err
}

// Sweep forgets what is older than KeptFor, some at a time, and says how many rows went.
func (m *Memory) Sweep(ctx context.Context, now time.Time) (gone int64, err error) {
	for {
		res, err := m.db.ExecContext(ctx, `DELETE FROM idempotency_keys WHERE (owner, operation, key) IN
			(SELECT owner, operation, key FROM idempotency_keys WHERE created_at <= $1 ORDER BY created_at LIMIT 1000)`, store.Micros(now.Add(-KeptFor)))
		if err != nil {
			return gone, err
		}
		n, err := res.RowsAffected()
		gone += n
		if err != nil || n < 1000 {
			return gone, err
		}
	}
}
