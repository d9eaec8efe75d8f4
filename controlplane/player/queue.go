package player

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"segue/controlplane/api"
	"segue/media"
)

// MaxEntries bounds a queue. When it is full, entries that were played make room for new ones.
const MaxEntries = 5000

// MaxExpand bounds the tracks that Queue fills in.
const MaxExpand = 200

// AnyRevision as a condition is met by every queue.
const AnyRevision = -1

// queue is a row of queues.
type queue struct {
	entries []api.QueueEntry
	made    int64
	shuffle bool
	repeat  string
	from    api.PlayContext
}

func (q *queue) index(id string) int {
	return slices.IndexFunc(q.entries, func(e api.QueueEntry) bool { return e.ID == id })
}

// name makes entries of tracks.
func (q *queue) name(tracks []media.TrackID) []api.QueueEntry {
	out := make([]api.QueueEntry, len(tracks))
	for i, t := range tracks {
		q.made++
		out[i] = api.QueueEntry{ID: strconv.FormatInt(q.made, 36), TrackID: t}
	}
	return out
}

func loadQueue(ctx context.Context, q querier, userID string) (*queue, error) {
	out := &queue{repeat: api.RepeatOff, entries: []api.QueueEntry{}}
	rows, err := q.QueryContext(ctx, `SELECT entries, entries_made, shuffle, repeat_mode, context_type, context_id FROM queues WHERE user_id = $1`, userID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var entries string
		var shuffle int64
		if err := rows.Scan(&entries, &out.made, &shuffle, &out.repeat, &out.from.Type, &out.from.ID); err != nil {
			return nil, err
		}
		out.shuffle = shuffle != 0
		if err := json.Unmarshal([]byte(entries), &out.entries); err != nil {
			return nil, fmt.Errorf("queue of %s in SQL: %w: %w", userID, media.ErrCorrupt, err)
		}
	}
	return out, rows.Err()
}

func (q *queue) save(ctx context.Context, tx *sql.Tx, userID string) error {
	entries, err := json.Marshal(q.entries)
	if err != nil {
		return fmt.Errorf("bug: %w", err)
	}
	shuffle := 0
	if q.shuffle {
		shuffle = 1
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO queues (user_id, entries, entries_made, shuffle, repeat_mode, context_type, context_id) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (user_id) DO UPDATE SET entries = excluded.entries, entries_made = excluded.entries_made, shuffle = excluded.shuffle, repeat_mode = excluded.repeat_mode,
		context_type = excluded.context_type, context_id = excluded.context_id`, userID, string(entries), q.made, shuffle, q.repeat, q.from.Type, q.from.ID)
	return err
}

// Queue returns a person's queue with the catalogue's entries of the current track and those behind it, expand in all.
func (s *Service) Queue(ctx context.Context, userID string, expand int) (api.Queue, error) {
	out := api.Queue{Tracks: []api.Track{}}
	var p row
	var q *queue
	for { // both rows of one moment: the revision says so
		var err error
		if p, err = s.load(ctx, userID); err != nil {
			return out, err
		}
		if q, err = loadQueue(ctx, s.db, userID); err != nil {
			return out, err
		}
		again, err := s.load(ctx, userID)
		if err != nil {
			return out, err
		}
		if again.queueSeq == p.queueSeq {
			break
		}
	}
	out.Revision, out.CurrentID, out.PositionMS = p.queueSeq, p.queueEntry, p.queuePositionMS
	out.Shuffle, out.Repeat, out.Entries = q.shuffle, q.repeat, q.entries
	if q.from.Type != "" {
		out.Context = &q.from
	}
	at := max(0, q.index(p.queueEntry))
	var ids []string
	for _, e := range q.entries[at:min(len(q.entries), at+min(expand, MaxExpand))] {
		if id := string(e.TrackID); !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	tracks, err := s.ask.Tracks(ctx, ids...)
	slices.SortFunc(tracks, func(a, b api.Track) int { return slices.Index(ids, string(a.ID)) - slices.Index(ids, string(b.ID)) })
	out.Tracks = append(out.Tracks, tracks...)
	return out, err
}

// changeQueue runs f on the queue when its revision is the expected one, else media.ErrChanged.
func (s *Service) changeQueue(ctx context.Context, userID string, revision int64, f func(p *row, q *queue) error) (int64, error) {
	p, err := s.change(ctx, userID, func(tx *sql.Tx, p *row) error {
		if revision != AnyRevision && revision != p.queueSeq {
			return fmt.Errorf("the queue has revision %d: %w", p.queueSeq, media.ErrChanged)
		}
		q, err := loadQueue(ctx, tx, userID)
		if err != nil {
			return err
		}
		if err := f(p, q); err != nil {
			return err
		}
		p.queueSeq = p.seq
		return q.save(ctx, tx, userID)
	})
	return p.queueSeq, err
}

// place puts the queue at an entry. Who plays next begins there, not where the active device is.
func (p *row) place(entry string, positionMS int64) {
	p.queueEntry, p.queuePositionMS, p.placedSeq = entry, positionMS, p.seq
}

func checkTracks(ids []media.TrackID) error {
	for i, id := range ids {
		if !media.ValidID(string(id)) {
			return fmt.Errorf("track_ids[%d]: not an id: %w", i, media.ErrInvalid)
		}
	}
	return nil
}

// PutQueue replaces a queue. A track that does not exist is found out when it is played. Errors: media.ErrChanged when
// the revision is another one, media.ErrInvalid.
func (s *Service) PutQueue(ctx context.Context, userID string, revision int64, in api.NewQueue) (out api.QueueChanged, err error) {
	if err := checkTracks(in.TrackIDs); err != nil {
		return out, err
	}
	switch {
	case len(in.TrackIDs) > MaxEntries:
		return out, fmt.Errorf("track_ids: a queue has at most %d entries: %w", MaxEntries, media.ErrInvalid)
	case in.Current < 0 || in.Current > 0 && in.Current >= len(in.TrackIDs):
		return out, fmt.Errorf("current: there are %d tracks: %w", len(in.TrackIDs), media.ErrInvalid)
	case in.PositionMS < 0:
		return out, fmt.Errorf("position_ms: is negative: %w", media.ErrInvalid)
	case in.Context != nil && in.Context.ID != "" && !media.ValidID(in.Context.ID):
		return out, fmt.Errorf("context.id: not an id: %w", media.ErrInvalid)
	}
	out.Revision, err = s.changeQueue(ctx, userID, revision, func(p *row, q *queue) error {
		q.entries = q.name(in.TrackIDs)
		q.shuffle, q.repeat, q.from = in.Shuffle, api.RepeatOff, api.PlayContext{}
		if in.Repeat != "" {
			q.repeat = in.Repeat
		}
		if in.Context != nil {
			q.from = *in.Context
		}
		p.place("", 0)
		if len(q.entries) > 0 {
			p.place(q.entries[in.Current].ID, in.PositionMS)
		}
		out.Entries = q.entries
		return nil
	})
	return out, err
}

// PatchQueue changes flags and the current entry. Errors: media.ErrChanged, media.ErrInvalid.
func (s *Service) PatchQueue(ctx context.Context, userID string, revision int64, in api.QueueChange) (out api.QueueChanged, err error) {
	out.Revision, err = s.changeQueue(ctx, userID, revision, func(p *row, q *queue) error {
		if in.CurrentID != nil {
			if q.index(*in.CurrentID) < 0 {
				return fmt.Errorf("current_id: no such entry: %w", media.ErrInvalid)
			}
			p.place(*in.CurrentID, 0)
		}
		if in.PositionMS != nil {
			p.place(p.queueEntry, *in.PositionMS)
		}
		if in.Shuffle != nil {
			q.shuffle = *in.Shuffle
		}
		if in.Repeat != nil {
			q.repeat = *in.Repeat
		}
		return nil
	})
	return out, err
}

// AddEntries puts tracks at the end, or right behind the current entry. Errors: media.ErrChanged, media.ErrInvalid,
// also when more than MaxEntries were still to be played.
func (s *Service) AddEntries(ctx context.Context, userID string, revision int64, in api.NewEntries) (out api.QueueChanged, err error) {
	if len(in.TrackIDs) == 0 {
		return out, fmt.Errorf("track_ids: want at least one: %w", media.ErrInvalid)
	}
	if err := checkTracks(in.TrackIDs); err != nil {
		return out, err
	}
	out.Revision, err = s.changeQueue(ctx, userID, revision, func(p *row, q *queue) error {
		out.Entries = q.name(in.TrackIDs)
		at := len(q.entries)
		current := q.index(p.queueEntry)
		if in.Next {
			at = current + 1
		}
		q.entries = slices.Insert(q.entries, at, out.Entries...)
		if over := len(q.entries) - MaxEntries; over > max(0, current) {
			return fmt.Errorf("track_ids: a queue has at most %d entries: %w", MaxEntries, media.ErrInvalid)
		} else if over > 0 {
			q.entries = q.entries[over:]
		}
		if current < 0 {
			p.place(q.entries[0].ID, 0)
		}
		return nil
	})
	return out, err
}

// RemoveEntry takes one out; one that is not there was taken out before. The current one makes way for the next.
// Errors: media.ErrChanged.
func (s *Service) RemoveEntry(ctx context.Context, userID string, revision int64, id string) (out api.QueueChanged, err error) {
	out.Revision, err = s.changeQueue(ctx, userID, revision, func(p *row, q *queue) error {
		i := q.index(id)
		if i < 0 {
			return errUnchanged
		}
		q.entries = slices.Delete(q.entries, i, i+1)
		if p.queueEntry == id {
			p.place("", 0)
			if len(q.entries) > 0 {
				p.place(q.entries[min(i, len(q.entries)-1)].ID, 0)
			}
		}
		return nil
	})
	if errors.Is(err, errUnchanged) {
		p, lerr := s.load(ctx, userID)
		return api.QueueChanged{Revision: p.queueSeq}, lerr
	}
	return out, err
}

var errUnchanged = errors.New("nothing to change")

// MoveEntry puts one before another, or at the end. Errors: media.ErrChanged, media.ErrNotFound for an entry that is
// not there, media.ErrInvalid when the other is not.
func (s *Service) MoveEntry(ctx context.Context, userID string, revision int64, id string, in api.MoveEntry) (out api.QueueChanged, err error) {
	out.Revision, err = s.changeQueue(ctx, userID, revision, func(p *row, q *queue) error {
		i := q.index(id)
		if i < 0 {
			return fmt.Errorf("entry %s: %w", id, media.ErrNotFound)
		}
		if in.Before == id {
			return nil
		}
		e := q.entries[i]
		q.entries = slices.Delete(q.entries, i, i+1)
		to := len(q.entries)
		if in.Before != "" {
			if to = q.index(in.Before); to < 0 {
				return fmt.Errorf("before: no such entry: %w", media.ErrInvalid)
			}
		}
		q.entries = slices.Insert(q.entries, to, e)
		return nil
	})
	return out, err
}

// Next is the track that comes after one in a person's queue, or "" at its end, or when the queue does not play that track.
func (s *Service) Next(ctx context.Context, userID string, now media.TrackID) (media.TrackID, error) {
	p, err := s.load(ctx, userID)
	if err != nil {
		return "", err
	}
	q, err := loadQueue(ctx, s.db, userID)
	if err != nil {
		return "", err
	}
	at := q.index(p.queueEntry)
	switch {
	case q.repeat == api.RepeatTrack:
		return "", nil // it is there already
	case at < 0 || q.entries[at].TrackID != now:
		return "", nil
	case at+1 < len(q.entries):
		return q.entries[at+1].TrackID, nil
	case q.repeat == api.RepeatAll:
		return q.entries[0].TrackID, nil
	}
	return "", nil
}
