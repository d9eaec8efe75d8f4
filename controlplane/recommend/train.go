package recommend

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/recommend/model"
	"segue/controlplane/store"
	"segue/media"
)

// plays are read as far back as they are kept, and up to some minutes ago: a play that goes on is not whole.
const (
	readBack = 400 * 24 * time.Hour
	settled  = 10 * time.Minute
	lookEach = 5 * time.Minute
)

// Run trains when it is time, until ctx ends.
func (s *Service) Run(ctx context.Context, failed func(error)) error {
	if s.ask.Plays == nil {
		return nil
	}
	tick := time.NewTicker(lookEach)
	defer tick.Stop()
	retry, wait := time.Now().Add(time.Minute), lookEach // what starts has more urgent things to do
	for {
		now := time.Now()
		m := s.model.Load()
		due := m == nil || now.Sub(m.Until) > s.cfg.Every
		if !due { // somebody who wants no part in it any more does not wait for the hour
			due, _ = s.leftSince(ctx, m.Full) // with SQL away nothing can be learnt either
		}
		if due && !now.Before(retry) {
			switch err := s.Train(ctx, false); {
			case err == nil:
				wait = lookEach
			case ctx.Err() != nil:
			default:
				if !errors.Is(err, model.ErrTooLittle) && !errors.Is(err, media.ErrBusy) {
					failed(err)
				}
				retry = now.Add(wait)
				wait = min(2*wait, s.cfg.Every)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case full := <-s.order:
			_ = s.Train(ctx, full) // Model tells how it went
		}
	}
}

// left are the pseudonyms of those who want nothing to be learnt from them.
func (s *Service) left(ctx context.Context) (map[string]bool, error) {
	users, err := s.ids(ctx, `SELECT user_id FROM recommend_people WHERE personalised = 0`)
	if err != nil {
		return nil, err
	}
	names, err := s.ask.Pseudonyms(ctx, users)
	out := map[string]bool{}
	for _, n := range names {
		out[n] = true
	}
	return out, err
}

// leftSince reports whether somebody left since a time.
func (s *Service) leftSince(ctx context.Context, t time.Time) (bool, error) {
	ids, err := s.ids(ctx, `SELECT user_id FROM recommend_people WHERE personalised = 0 AND changed_at >= $1 LIMIT 1`, store.Micros(t))
	return len(ids) > 0, err
}

// ErrWorse: what was learnt is not sane, and the model before stays.
var ErrWorse = errors.New("the new model is not used")

// Train learns from the play logs and puts the new model in the old one's place, when it is whole and not worse than
// plain popularity. It goes on from the last training if that is of today and full is false. Only one runs at a time:
// media.ErrBusy. Errors: model.ErrTooLittle, ErrWorse.
func (s *Service) Train(ctx context.Context, full bool) (err error) {
	if s.ask.Plays == nil {
		return fmt.Errorf("there are no play logs to learn from: %w", media.ErrNotFound)
	}
	if !s.turn.TryLock() {
		return fmt.Errorf("a training runs: %w", media.ErrBusy)
	}
	defer s.turn.Unlock()
	s.setRunning(true, nil)
	defer func() { s.setRunning(false, err) }()
	now := time.Now().UTC()
	out, err := s.left(ctx)
	if err != nil {
		return fmt.Errorf("train recommendations: %w", err)
	}
	before := s.model.Load()
	var log *model.Log
	since := now.Add(-readBack)
	if !full && before != nil && now.Sub(before.Full) < s.cfg.Full {
		gone, err := s.leftSince(ctx, before.Full)
		if err != nil {
			return fmt.Errorf("train recommendations: %w", err)
		}
		full = gone
	}
	if !full && before != nil && now.Sub(before.Full) < s.cfg.Full {
		if log, err = model.LoadLog(s.path("plays"), now, s.cfg.Limits); err == nil {
			since = log.Until
		} else if !errors.Is(err, os.ErrNotExist) {
			s.log.Warn("what was learnt from is read again", "err", err)
		}
	}
	if log == nil || err != nil {
		log, before = model.NewLog(now, s.cfg.Limits), nil
	}
	until := now.Add(-settled)
	begun := time.Now()
	if err := s.ask.Plays(ctx, since, until, func(p model.Play) {
		if !out[p.User] {
			log.Add(p)
		}
	}); err != nil {
		return fmt.Errorf("train recommendations: %w", err)
	}
	cfg := s.cfg.Model
	if cfg.Group, err = s.groups(ctx); err != nil {
		return fmt.Errorf("train recommendations: %w", err)
	}
	m, err := model.Train(ctx, log, before, cfg)
	if err != nil {
		return fmt.Errorf("train recommendations: %w", err)
	}
	m.Until, log.Until = until, until
	if err := sane(m, s.model.Load()); err != nil {
		return err
	}
	if err := log.Save(s.path("plays")); err != nil {
		return err
	}
	if err := m.Save(s.path("model")); err != nil {
		return err
	}
	s.model.Store(m)
	s.log.Info("recommendations learnt", "tracks", m.Tracks, "listeners", m.Users, "whole", before == nil, "recall", m.Recall, "dur", time.Since(begun))
	return nil
}

// sane holds a new model against plain popularity and against the one before.
func sane(m, before *model.Model) error {
	switch {
	case m.Recall < 0.8*m.PopularRecall:
		return fmt.Errorf("it finds %.3f of what was held back, popularity alone %.3f: %w", m.Recall, m.PopularRecall, ErrWorse)
	case before != nil && m.Tracks < before.Tracks/2:
		return fmt.Errorf("it knows %d tracks, the one before %d: %w", m.Tracks, before.Tracks, ErrWorse)
	}
	return nil
}

// groups gives each track the number of its artist.
func (s *Service) groups(ctx context.Context) (func(string) uint32, error) {
	of := map[string]uint32{}
	err := s.rows(ctx, `SELECT id, artist_id FROM tracks WHERE removed_at = 0 AND version <> ''`, nil, func(scan func(...any) error) error {
		var id, artist string
		if err := scan(&id, &artist); err != nil {
			return err
		}
		of[id] = groupOf(artist)
		return nil
	})
	return func(id string) uint32 { return of[id] }, err
}

// groupOf is an artist's number. Two artists with one number would share a cap: with a million artists, some hundred do.
func groupOf(artist string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(artist))
	return max(h.Sum32(), 1)
}

func (s *Service) setRunning(running bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = running
	if running {
		return
	}
	s.runs++
	s.lastErr = ""
	if err != nil {
		s.lastErr = err.Error()
	}
}

// Begin orders a training from Run; Model tells how it ends. One that was ordered before or runs is not ordered twice.
func (s *Service) Begin(full bool) error {
	if s.ask.Plays == nil {
		return fmt.Errorf("there are no play logs to learn from: %w", media.ErrNotFound)
	}
	select {
	case s.order <- full:
	default:
	}
	return nil
}

// Model says what is served.
func (s *Service) Model() api.RecommendModel {
	s.mu.Lock()
	out := api.RecommendModel{Running: s.running || len(s.order) > 0, Runs: s.runs, Error: s.lastErr}
	s.mu.Unlock()
	if m := s.model.Load(); m != nil {
		out.Made, out.Until, out.Full = &m.Made, &m.Until, &m.Full
		out.Tracks, out.Users, out.Pairs, out.Sampled, out.Bytes = m.Tracks, m.Users, m.Pairs, m.Sampled, m.Bytes()
		out.Recall, out.PopularRecall = m.Recall, m.PopularRecall
	}
	return out
}
