package playlist

import (
	"database/sql"
	"errors"
	"fmt"

	"segue/media"
)

// Positions are whole numbers with gaps. Rows of all times of a playlist are in one order of positions, and only rows of
// one entry share one: so an entry that left, or stood elsewhere, can come back to its place among the others, and an
// entry that was removed still marks where it was.
const (
	gap   = int64(1) << 36 // between entries added one after another: 36 inserts go between two of them before room must be made
	bound = int64(1) << 61 // positions are between -bound and bound: 2^25 adds at one end
	roomy = int64(1) << 12 // a window in which room is made has at least this between two, or it grows
)

// place is where entries go. The zero value is the end.
type place struct {
	before, after string // entries
	start, end    bool
}

// check refuses more than one place, and none when one is needed.
func (p place) check(needed bool) error {
	n := 0
	for _, set := range []bool{p.before != "", p.after != "", p.start, p.end} {
		if set {
			n++
		}
	}
	if n > 1 || n == 0 && needed {
		return fmt.Errorf("before, after, at_start, at_end: want one of them: %w", media.ErrInvalid)
	}
	return nil
}

// slots returns n rising positions for entries that go to a place.
func (c *change) slots(at place, n int) ([]int64, error) {
	var low, high sql.NullInt64 // the neighbours
	var err error
	ask := func(to *sql.NullInt64, which string, args ...any) {
		if err == nil {
			err = c.tx.QueryRowContext(c.ctx, `SELECT `+which, append([]any{c.p.id}, args...)...).Scan(to)
		}
	}
	const from = ` FROM playlist_items WHERE playlist_id = $1`
	switch {
	case at.before != "":
		ask(&high, `position`+from+` AND entry_id = $2 ORDER BY from_revision DESC LIMIT 1`, at.before)
		ask(&low, `max(position)`+from+` AND position < $2`, high.Int64)
	case at.after != "":
		ask(&low, `position`+from+` AND entry_id = $2 ORDER BY from_revision DESC LIMIT 1`, at.after)
		ask(&high, `min(position)`+from+` AND position > $2`, low.Int64)
	case at.start:
		ask(&high, `min(position)`+from)
	default:
		ask(&low, `max(position)`+from)
	}
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("before, after: there was never an entry %q here: %w", at.before+at.after, media.ErrInvalid)
	} else if err != nil || n == 0 {
		return nil, err
	}
	step, all := gap, gap*int64(n+1)
	first := low.Int64
	switch {
	case !low.Valid && !high.Valid:
		first = -step // the first one is at 0
	case !high.Valid && low.Int64 <= bound-all:
	case !low.Valid && high.Int64 >= -bound+all:
		first = high.Int64 - all
	default:
		a, b := -bound, bound
		if low.Valid {
			a = low.Int64
		}
		if high.Valid {
			b = high.Int64
		}
		if first, step = a, (b-a)/int64(n+1); step < 1 {
			if first, step, err = c.makeRoom(a, n); err != nil {
				return nil, err
			}
		}
	}
	out := make([]int64, n)
	for i := range out {
		out[i] = first + step*int64(i+1)
	}
	return out, nil
}

// makeRoom spreads the positions around a so that n more go between it and the next one: those are first + step, first +
// 2*step, … It takes as few neighbours as will do: 64 on each side, as a rule.
func (c *change) makeRoom(a int64, n int) (first, step int64, err error) {
	for window := int64(64 + n); ; window *= 4 {
		var low, high, below, above int64
		side := func(which string, end, count *int64) {
			if err == nil {
				err = c.tx.QueryRowContext(c.ctx, `SELECT coalesce(`+which+` LIMIT $3) w`, c.p.id, a, window).Scan(end, count)
			}
		}
		side(`min(position), $2), count(*) FROM (SELECT DISTINCT position FROM playlist_items WHERE playlist_id = $1 AND position <= $2 ORDER BY position DESC`, &low, &below)
		side(`max(position), $2), count(*) FROM (SELECT DISTINCT position FROM playlist_items WHERE playlist_id = $1 AND position > $2 ORDER BY position`, &high, &above)
		if err != nil {
			return 0, 0, err
		}
		slots := below + above + int64(n) + 1
		// Between two fences, which are not used themselves: just outside the window, or a piece further where nothing is.
		left, right := low-1, high+1
		if below < window {
			left = max(-bound, low-gap*window)
		}
		if above < window {
			right = min(bound, high+gap*window)
		}
		if below < window && above < window && (right-left)/slots < roomy { // all there is
			left, right = -gap*slots/2, gap*slots/2
		}
		if step = (right - left) / slots; step < roomy {
			continue
		}
		_, err = c.tx.ExecContext(c.ctx, `UPDATE playlist_items SET position = CAST($2 AS BIGINT) + CAST($3 AS BIGINT) * r.n + CASE WHEN r.was > $4 THEN CAST($5 AS BIGINT) ELSE 0 END
			FROM (SELECT position AS was, row_number() OVER (ORDER BY position) AS n FROM playlist_items WHERE playlist_id = $1 AND position BETWEEN $6 AND $7 GROUP BY position) r
			WHERE playlist_items.playlist_id = $1 AND playlist_items.position = r.was`, c.p.id, left, step, a, step*int64(n), low, high)
		return left + step*below, step, err
	}
}
