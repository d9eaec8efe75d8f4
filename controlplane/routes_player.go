package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/player"
	"segue/media"

	"github.com/danielgtaylor/huma/v2"
	"github.com/julienschmidt/httprouter"
)

// IfMatch is the condition on a queue's revision. Its name is exported because huma looks into embedded structs only then.
type IfMatch struct {
	Revision string `header:"If-Match" maxLength:"64" doc:"ETag of the queue as the caller knows it: 412 when it is another one now. Absent: any"`
}

func (m IfMatch) parse() (int64, error) {
	if m.Revision == "" || m.Revision == "*" {
		return player.AnyRevision, nil
	}
	n, err := strconv.ParseInt(strings.Trim(strings.TrimPrefix(m.Revision, "W/"), `"`), 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("If-Match: want one ETag of a queue: %w", media.ErrInvalid)
	}
	return n, nil
}

func (cp *ControlPlane) playerRoutes(a huma.API, router *httprouter.Router) {
	const tag = "Player"
	op := operation("queue", http.MethodGet, "/v1/me/queue", tag, "The queue", needUser)
	register(cp, a, op, func(ctx context.Context, in *struct {
		Expand int `query:"expand" minimum:"0" maximum:"200" default:"50" doc:"how many entries, from the current one on, to give the catalogue's tracks for"`
	}) (*revised[api.Queue], error) {
		q, err := cp.player.Queue(ctx, principal(ctx).UserID, in.Expand)
		if err != nil {
			return nil, err
		}
		return &revised[api.Queue]{etag(q.Revision), q}, nil
	})
	changed := func(q api.QueueChanged, err error) (*revised[api.QueueChanged], error) {
		if err != nil {
			return nil, err
		}
		return &revised[api.QueueChanged]{etag(q.Revision), q}, nil
	}
	op = operation("put-queue", http.MethodPut, "/v1/me/queue", tag, "Replace the queue", needUser)
	op.Description, op.MaxBodyBytes = "Says where the next play or transfer begins; what plays now goes on until then.", 1<<20
	register(cp, a, op, func(ctx context.Context, in *struct {
		IfMatch
		Body api.NewQueue
	}) (*revised[api.QueueChanged], error) {
		r, err := in.parse()
		if err != nil {
			return nil, err
		}
		return changed(cp.player.PutQueue(ctx, principal(ctx).UserID, r, in.Body))
	})
	op = operation("patch-queue", http.MethodPatch, "/v1/me/queue", tag, "Change flags or the current entry", needUser)
	register(cp, a, op, func(ctx context.Context, in *struct {
		IfMatch
		Body api.QueueChange
	}) (*revised[api.QueueChanged], error) {
		r, err := in.parse()
		if err != nil {
			return nil, err
		}
		return changed(cp.player.PatchQueue(ctx, principal(ctx).UserID, r, in.Body))
	})
	op = operation("add-to-queue", http.MethodPost, "/v1/me/queue/entries", tag, "Add tracks to the queue", needUser)
	op.Description, op.MaxBodyBytes = fmt.Sprintf("At the end, or next. A queue has at most %d entries; those that were played make room.", player.MaxEntries), 1<<20
	register(cp, a, op, func(ctx context.Context, in *struct {
		IfMatch
		Body api.NewEntries
	}) (*revised[api.QueueChanged], error) {
		r, err := in.parse()
		if err != nil {
			return nil, err
		}
		return changed(cp.player.AddEntries(ctx, principal(ctx).UserID, r, in.Body))
	})
	op = operation("remove-from-queue", http.MethodDelete, "/v1/me/queue/entries/{id}", tag, "Take an entry out of the queue", needUser)
	op.Description = "Repeating it changes nothing."
	register(cp, a, op, func(ctx context.Context, in *struct {
		IfMatch
		ID string `path:"id" maxLength:"32"`
	}) (*revised[api.QueueChanged], error) {
		r, err := in.parse()
		if err != nil {
			return nil, err
		}
		return changed(cp.player.RemoveEntry(ctx, principal(ctx).UserID, r, in.ID))
	})
	op = operation("move-in-queue", http.MethodPost, "/v1/me/queue/entries/{id}/move", tag, "Move an entry of the queue", needUser)
	register(cp, a, op, func(ctx context.Context, in *struct {
		IfMatch
		ID   string `path:"id" maxLength:"32"`
		Body api.MoveEntry
	}) (*revised[api.QueueChanged], error) {
		r, err := in.parse()
		if err != nil {
			return nil, err
		}
		return changed(cp.player.MoveEntry(ctx, principal(ctx).UserID, r, in.ID, in.Body))
	})

	register(cp, a, operation("player", http.MethodGet, "/v1/me/player", tag, "What plays where", needUser), func(ctx context.Context, _ *struct{}) (*answer[api.Player], error) {
		return reply(cp.player.Player(ctx, principal(ctx).UserID))
	})
	op = operation("report-state", http.MethodPut, "/v1/me/player/state", tag, "Say what this device plays", needUser)
	op.Description = "For the active device: at every change, and every 30 s while it plays. A device becomes active by a transfer, or by its report while none is active. " +
		"409 /problems/not-active: another device is; this one has to stop."
	register(cp, a, op, func(ctx context.Context, in *struct{ Body api.StateReport }) (*answer[api.PlayerState], error) {
		p := principal(ctx)
		return reply(cp.player.Report(ctx, p.UserID, p.DeviceID, in.Body))
	})
	for _, path := range []string{"/v1/me/queue/transfer", "/v1/me/player/transfer"} {
		op := operation("transfer-"+strings.Split(path, "/")[3], http.MethodPost, path, tag, "Go on with playing on another device", needUser)
		op.Description = "The device before is told to stop, the new one to start where that was. One's own device needs no stream; another one does."
		register(cp, a, op, func(ctx context.Context, in *struct{ Body api.Transfer }) (*answer[api.PlayerState], error) {
			p := principal(ctx)
			return reply(cp.player.Transfer(ctx, p.UserID, p.DeviceID, in.Body))
		})
	}
	for _, kind := range player.Commands {
		op := operation("player-"+kind, http.MethodPost, "/v1/me/player/"+kind, tag, "Ask a device: "+kind, needUser)
		op.Description = "202: it is told on its stream, and its next report says what it did; the answer is the state before that. " +
			"To ask a device that is not active to play is a transfer. 409 /problems/no-active-device: none was named and none is active and connected."
		op.DefaultStatus = http.StatusAccepted
		register(cp, a, op, func(ctx context.Context, in *struct{ Body *api.NewCommand }) (*answer[api.PlayerState], error) {
			p := principal(ctx)
			if in.Body == nil {
				in.Body = &api.NewCommand{}
			}
			return reply(cp.player.Command(ctx, p.UserID, p.DeviceID, kind, *in.Body))
		})
	}

	// A stream has no end to wait for, which huma does: the route is plain, and documented by hand.
	op = operation("event-stream", http.MethodGet, "/v1/me/events/stream", tag, "Hear of all that concerns one's player", needUser)
	op.Description = "Server-sent events, as long as the session lives; while it is open the device is connected. Events, with data in JSON: state (PlayerState), queue " +
		"(QueueChanged: get the queue anew), devices (a list of PlayerDevice), command (Command, for this device). At first the whole picture comes; " +
		"with Last-Event-ID what changed since, and commands of the last 30 s. A comment comes every 15 s. The Authorization header is needed: in browsers, use fetch."
	op.Parameters = []*huma.Param{
		{Name: "plays", In: "query", Schema: &huma.Schema{Type: huma.TypeBoolean, Default: true}, Description: "false: the device only shows and commands"},
		{Name: "Last-Event-ID", In: "header", Schema: &huma.Schema{Type: huma.TypeString}, Description: "id of the last event that was seen"},
	}
	event := &huma.Schema{OneOf: []*huma.Schema{}}
	for _, name := range []huma.Schema{*a.OpenAPI().Components.Schemas.Schema(typeOf[api.PlayerState](), true, ""), *a.OpenAPI().Components.Schemas.Schema(typeOf[api.QueueChanged](), true, ""),
		{Type: huma.TypeArray, Items: a.OpenAPI().Components.Schemas.Schema(typeOf[api.PlayerDevice](), true, "")}, *a.OpenAPI().Components.Schemas.Schema(typeOf[api.Command](), true, "")} {
		event.OneOf = append(event.OneOf, &name)
	}
	op.Responses = map[string]*huma.Response{"200": {Description: "The stream; the schema is that of an event's data", Content: map[string]*huma.MediaType{"text/event-stream": {Schema: event}}}}
	op.Metadata[streams], op.Metadata[longPoll] = true, true
	cp.plain(a, router, op, cp.stream)
}

const (
	heartbeatEvery = 15 * time.Second // proxies cut silent connections after half a minute or more
	streamWriteFor = 10 * time.Second // a client that does not read for so long is gone
)

// stream answers with events until the client goes, the session ends or this replica stops. An error means that nothing
// was answered yet.
func (cp *ControlPlane) stream(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	p := principal(ctx)
	last, _ := strconv.ParseInt(r.Header.Get("Last-Event-ID"), 10, 64) // what is not a number of ours is none
	st, err := cp.player.Open(ctx, player.Opening{UserID: p.UserID, SessionID: p.SessionID, DeviceID: p.DeviceID, Plays: r.URL.Query().Get("plays") != "false", After: last})
	if err != nil {
		return err
	}
	defer st.Close()
	c := http.NewResponseController(w)
	send := func(text string) error {
		// Limits of time are for whole requests elsewhere, here for each write. A writer that has none is one of a test.
		_ = c.SetWriteDeadline(time.Now().Add(streamWriteFor))
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
		return c.Flush()
	}
	_ = c.SetReadDeadline(time.Time{})
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx must not wait for more
	for text := "retry: 2000\n\n"; ; {
		if err := send(text); err != nil {
			return nil // the client is gone
		}
		events, err := st.Next(ctx, heartbeatEvery)
		if err != nil {
			return nil // so is the session, the client or this replica
		}
		if text, err = encodeEvents(events); err != nil {
			cp.log.Error("bug: stream", "request", requestID(ctx), "err", err)
			return nil
		}
	}
}

// encodeEvents writes them as HTML 9.2.6 says; none are a comment.
func encodeEvents(events []player.Event) (string, error) {
	if len(events) == 0 {
		return ":\n\n", nil
	}
	var b strings.Builder
	for _, e := range events {
		data, err := json.Marshal(e.Data)
		if err != nil {
			return "", err
		}
		if e.ID != 0 {
			fmt.Fprintf(&b, "id: %d\n", e.ID)
		}
		fmt.Fprintf(&b, "event: %s\ndata: %s\n\n", e.Kind, data)
	}
	return b.String(), nil
}
