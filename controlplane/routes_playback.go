package controlplane

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"segue/controlplane/api"
	"segue/controlplane/plays"
	"segue/media"

	"github.com/danielgtaylor/huma/v2"
)

func (cp *ControlPlane) playbackRoutes(a huma.API) {
	const tag = "Playback"
	op := operation("playback", http.MethodPost, "/v1/playback", tag, "Start to play a track", needUser)
	op.Description = "Returns URLs on the nearest healthy edge, with a token in their path that ends at expires_at, and the other edges as pathways."
	op.DefaultStatus = http.StatusCreated
	register(cp, a, op, func(ctx context.Context, in *struct{ Body api.NewPlayback }) (*answer[api.Playback], error) {
		p := principal(ctx)
		return reply(cp.playback.Start(ctx, p.UserID, p.Plan, in.Body, client(ctx)))
	})
	op = operation("events", http.MethodPost, "/v1/events", tag, "Report play events", needUser)
	op.Description = fmt.Sprintf("A JSON array, or NDJSON, of 1 to %d events. 202 means that the accepted ones are durable; a repeat is harmless.", plays.MaxEvents)
	op.DefaultStatus, op.MaxBodyBytes, op.Metadata[wireBody] = http.StatusAccepted, 2<<20, typeOf[[]api.Event]()
	event := a.OpenAPI().Components.Schemas.Schema(typeOf[api.Event](), true, "Event")
	op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		"application/json":     {Schema: &huma.Schema{Type: huma.TypeArray, Items: event}},
		"application/x-ndjson": {Schema: event},
	}}
	register(cp, a, op, func(ctx context.Context, in *struct{ RawBody []byte }) (*answer[api.EventsAccepted], error) {
		events, err := parseEvents(in.RawBody)
		if err != nil {
			return nil, err
		}
		return reply(cp.ingest.Take(ctx, principal(ctx).UserID, events))
	})
}

// parseEvents reads an array or a sequence of objects: NDJSON is one.
func parseEvents(b []byte) ([]api.Event, error) {
	var events []api.Event
	if b = bytes.TrimSpace(b); len(b) > 0 && b[0] == '[' {
		if err := json.Unmarshal(b, &events); err != nil {
			return nil, fmt.Errorf("body: %v: %w", err, media.ErrInvalid)
		}
	} else {
		for d := json.NewDecoder(bytes.NewReader(b)); len(events) <= plays.MaxEvents; {
			var e api.Event
			if err := d.Decode(&e); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, fmt.Errorf("body: event %d: %v: %w", len(events)+1, err, media.ErrInvalid)
			}
			events = append(events, e)
		}
	}
	if len(events) == 0 || len(events) > plays.MaxEvents {
		return nil, fmt.Errorf("body: want 1 to %d events: %w", plays.MaxEvents, media.ErrInvalid)
	}
	return events, nil
}
