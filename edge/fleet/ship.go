package fleet

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"segue/controlplane/api"
	"segue/edge"
)

const (
	shipBytes   = 1 << 20 // of frames in one request; the control plane takes twice as much
	shipTime    = 30 * time.Second
	shipRetry   = time.Second // the first pause after a failure; it doubles
	shipRetries = 30 * time.Second
)

// ship hands the request log over until ctx ends. What was not acknowledged is kept and sent again, also in a next life; only the spool drops.
func (m *Member) ship(ctx context.Context, spool *edge.Spool) {
	pause, failing := shipRetry, false
	wait := func(d time.Duration, more <-chan struct{}) {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-ctx.Done():
		case <-more:
		case <-t.C:
		}
	}
	atMost := shipBytes
	for ctx.Err() == nil {
		s, ok, err := spool.Ship(atMost)
		if err == nil && !ok {
			wait(time.Second, spool.More())
			continue
		}
		if err == nil {
			sctx, cancel := context.WithTimeout(ctx, shipTime)
			_, err = m.client.SendEdgeLogs(sctx, s.Frames)
			cancel()
			if p, refused := errors.AsType[*api.Problem](err); refused && (p.Status == http.StatusBadRequest || p.Status == http.StatusRequestEntityTooLarge || p.Status == http.StatusUnprocessableEntity) {
				// One of the frames is not understood: find it, one at a time, and give it up.
				if atMost > 1 {
					atMost = 1
					continue
				}
				m.log.Error("a part of the request log is refused for good", "rows", s.Rows, "err", err)
				spool.Refused(s.Rows)
				err = nil
			}
			if err == nil {
				err = spool.Taken(s)
			}
		}
		switch {
		case err == nil:
			if failing {
				m.log.Info("request log is handed over again")
			}
			pause, failing, atMost = shipRetry, false, shipBytes
		case ctx.Err() != nil:
		default:
			if !failing {
				m.log.Warn("request log waits on disk", "err", err)
			}
			failing = true
			if p, ok := errors.AsType[*api.Problem](err); ok && p.RetryAfter > 0 {
				pause = max(pause, time.Duration(p.RetryAfter)*time.Second)
			}
			wait(pause/2+rand.N(pause), nil)
			pause = min(2*pause, shipRetries)
		}
	}
}
