package plays

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/api/edgelog"
	"segue/internal/eventlog"
	"segue/media"
)

const formRequests = 1

// Requests takes frames of an edge's request log. When it returns nil they are durable, and the edge may forget them. Frames that were taken
// before are taken again, and count once. Errors: media.ErrInvalid, when the first frame is none; frames behind a damaged one are left
// to the edge, which sends them in its next request.
func (g *Ingest) Requests(ctx context.Context, edge, region string, body []byte) (api.EdgeLogsAccepted, error) {
	var out api.EdgeLogsAccepted
	now := time.Now().UTC()
	var messages []eventlog.Message
	for rest := body; len(rest) > 0; {
		h, frame, after, err := edgelog.Cut(rest)
		if err != nil {
			return out, fmt.Errorf("body: frame %d: %v: %w", out.Frames+1, err, media.ErrInvalid)
		}
		b := make([]byte, 0, 64+len(frame))
		b = append(b, formRequests)
		for _, s := range []string{edge, region} {
			b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
		}
		b = append(binary.AppendVarint(b, now.UnixMilli()), frame...)
		messages = append(messages, eventlog.Message{ID: fmt.Sprintf("%s-%s-%d", edge, h.Log, h.First), Subject: RequestStream.Name + ".requests", Body: b})
		out.Frames, out.Rows, rest = out.Frames+1, out.Rows+h.Rows, after
	}
	if len(messages) == 0 {
		return out, fmt.Errorf("body: no frame: %w", media.ErrInvalid)
	}
	return out, g.direct(ctx, messages...)
}
