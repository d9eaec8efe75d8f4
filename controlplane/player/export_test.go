package player

import "context"

// Sweep does at once what Run does every 15 s, and Beat what it does every 5 s.
func (s *Service) Sweep(ctx context.Context) error {
	if err := s.compare(ctx); err != nil {
		return err
	}
	return s.buryDead(ctx)
}

// Beat: see Sweep.
func (s *Service) Beat(ctx context.Context) error { return s.beat(ctx) }
