package fleet

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"segue/controlplane/api"
	"segue/edge"
)

// catchUp applies all purges that were ordered while this edge was away.
func (m *Member) catchUp(ctx context.Context) error {
	cctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		if n, err := m.purge(cctx, ""); err != nil || n == 0 {
			return err
		}
	}
}

// followPurges applies purges as they are ordered, until ctx ends.
func (m *Member) followPurges(ctx context.Context) {
	var p pause
	for ctx.Err() == nil {
		_, err := m.purge(ctx, "&wait=25s")
		if err != nil && ctx.Err() == nil {
			m.log.Warn("purges cannot be followed, trying on", "err", err)
		}
		p.after(ctx, err)
	}
}

// purge asks for what follows the last purge that holds here, which acknowledges that one, and applies it.
func (m *Member) purge(ctx context.Context, wait string) (n int, err error) {
	var feed api.PurgeFeed
	if err := m.client.Call(ctx, http.MethodGet, fmt.Sprintf("/v1/fleet/purges?after=%d%s", m.edge.PurgedTo(), wait), nil, &feed); err != nil {
		return 0, err
	}
	orders := make([]edge.Purge, len(feed.Purges))
	for i, p := range feed.Purges {
		orders[i] = edge.Purge{Kind: edge.PurgeKind(p.Kind), Value: p.Value, Soft: p.Soft, Epoch: p.Epoch}
	}
	return len(orders), m.edge.Purge(orders...)
}
