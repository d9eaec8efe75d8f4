package controlplane

import (
	"errors"
	"fmt"
	"time"

	"segue/media"

	"github.com/sony/gobreaker/v2"
)

// breaker stands before a part that the API can do without: after some failures in a row the part is left alone for a
// while, so that nobody waits for what will not come.
type breaker struct {
	*gobreaker.CircuitBreaker[struct{}]
}

const (
	breakAfter = 3               // failures in a row
	breakFor   = 2 * time.Second // then one call tries again
)

// newBreaker makes one; name is its label in the metrics.
func (cp *ControlPlane) newBreaker(name string) breaker {
	gauge := cp.metrics.breakers.WithLabelValues(name)
	return breaker{gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name: name, Timeout: breakFor,
		ReadyToTrip: func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= breakAfter },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			gauge.Set(map[gobreaker.State]float64{gobreaker.StateClosed: 0, gobreaker.StateHalfOpen: 1, gobreaker.StateOpen: 2}[to])
			if from == gobreaker.StateClosed {
				cp.log.Warn("left alone for now, the API goes on without it", "part", name)
			} else if to == gobreaker.StateClosed {
				cp.log.Info("is back", "part", name)
			}
		},
	})}
}

// do calls f, or returns media.ErrBusy at once.
func (b breaker) do(f func() error) error {
	_, err := b.Execute(func() (struct{}, error) { return struct{}{}, f() })
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		return fmt.Errorf("%s is away: %w", b.Name(), media.ErrBusy)
	}
	return err
}
