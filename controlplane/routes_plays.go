package controlplane

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/api/edgelog"
	"segue/controlplane/identity"
	"segue/controlplane/plays"
	"segue/media"

	"github.com/danielgtaylor/huma/v2"
	"github.com/julienschmidt/httprouter"
)

// playsRoutes take what players and edges report, and show what of it cannot be stored.
func (cp *ControlPlane) playsRoutes(a huma.API, router *httprouter.Router) {
	const tag = "Play logs"
	op := operation("events", http.MethodPost, "/v1/events", "Playback", "Report play events", needUser)
	op.Description = fmt.Sprintf("A JSON array, or NDJSON, of 1 to %d events, also with Content-Encoding gzip or zstd. 202 means that the accepted ones are durable, and a repeat is "+
		"harmless: it is accepted again, and counts once. Events may be 30 days late. With sent_at, the player's clock at the moment of sending, the times of all events are "+
		"corrected by what that clock is wrong. 503 with Retry-After: keep them, and send them later.", plays.MaxEvents)
	op.DefaultStatus, op.MaxBodyBytes, op.Metadata[wireBody], op.Metadata[encoded] = http.StatusAccepted, 2<<20, typeOf[[]api.Event](), true
	event := a.OpenAPI().Components.Schemas.Schema(typeOf[api.Event](), true, "Event")
	op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		"application/json":     {Schema: &huma.Schema{Type: huma.TypeArray, Items: event}},
		"application/x-ndjson": {Schema: event},
	}}
	register(cp, a, op, func(ctx context.Context, in *struct {
		SentAt  string `query:"sent_at" maxLength:"40" doc:"RFC 3339, or milliseconds since 1970"`
		RawBody []byte
	}) (*answer[api.EventsAccepted], error) {
		sent, err := sentAt(in.SentAt)
		if err != nil {
			return nil, err
		}
		events, err := parseEvents(in.RawBody)
		if err != nil {
			return nil, err
		}
		p := principal(ctx)
		from := cp.reporter(ctx, "")
		from.UserID, from.SentAt, from.DeviceType = p.UserID, sent, cp.deviceType(ctx, p)
		out, err := cp.ingest.Take(ctx, from, events)
		if err != nil {
			return nil, err
		}
		cp.opinions(p.UserID, events, out)
		if err := cp.playback.Heard(ctx, p.UserID, events); err != nil { // the events are durable: nothing is to be sent again
			cp.log.Warn("end of a stream is not noted, it will time out", "request", requestID(ctx), "err", err)
		}
		cp.tasteOf(ctx, p.UserID, events)
		return reply(out, nil)
	})

	op = operation("cmcd", http.MethodPost, "/v1/cmcd", tag, "Report CMCD version 2 in event mode", "")
	op.Description = fmt.Sprintf("CTA-5004-B: 1 to %d reports, one a line, each with a session (sid) and an event (e). For any player; no account is needed, and none is known from it. "+
		"A repeat of the same report counts once.", plays.MaxReports)
	op.DefaultStatus, op.MaxBodyBytes, op.Metadata[encoded] = http.StatusNoContent, 1<<20, true
	text := &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString}}
	op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/cmcd": text, "text/cmcd": text, "text/plain": text}}
	op.Responses = map[string]*huma.Response{"204": {Description: "All reports are durable"}}
	cp.plain(a, router, op, func(w http.ResponseWriter, r *http.Request) error {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			_, err = cp.ingest.Reports(r.Context(), cp.reporter(r.Context(), r.UserAgent()), body)
		}
		if err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})

	op = operation("edge-logs", http.MethodPost, "/v1/fleet/logs", "Fleet", "Hand over an edge's request log", needEdge)
	op.Description = "Frames, one after the other, as package edgelog writes them. 202 means that all are durable, and the edge may forget them."
	op.DefaultStatus, op.MaxBodyBytes, op.BodyReadTimeout = http.StatusAccepted, edgelog.MaxBody, 30*time.Second
	op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{edgelog.ContentType: {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}}
	accepted := a.OpenAPI().Components.Schemas.Schema(typeOf[api.EdgeLogsAccepted](), true, "EdgeLogsAccepted")
	op.Responses = map[string]*huma.Response{"202": {Description: "Accepted", Content: map[string]*huma.MediaType{"application/json": {Schema: accepted}}}}
	cp.plain(a, router, op, func(w http.ResponseWriter, r *http.Request) error {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		name, region := cp.edgeNamed(r.Context(), edgeID(r.Context()))
		out, err := cp.ingest.Requests(r.Context(), name, region, body)
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusAccepted)
		_ = json.NewEncoder(w).Encode(out) // the edge may be gone: it sends them again
		return nil
	})

	who := adminScope + identity.ScopeAdmin
	op = operation("list-deadletters", http.MethodGet, "/v1/admin/deadletters", tag, "Messages of the play logs that can never be stored", who)
	register(cp, a, op, func(ctx context.Context, in *struct {
		Cursor int64 `query:"cursor" minimum:"0"`
		Limit  int   `query:"limit" minimum:"1" maximum:"500" default:"100"`
	}) (*answer[api.Page[api.DeadLetter]], error) {
		list, next, err := cp.dead.List(ctx, uint64(in.Cursor), in.Limit)
		out := api.Page[api.DeadLetter]{Items: list}
		if next > 0 {
			out.Next = strconv.FormatUint(next, 10)
		}
		return reply(out, err)
	})
	type byNumber struct {
		ID int64 `path:"id" minimum:"1"`
	}
	register(cp, a, operation("get-deadletter", http.MethodGet, "/v1/admin/deadletters/{id}", tag, "One of them, with what is in it", who), func(ctx context.Context, in *byNumber) (*answer[api.DeadLetter], error) {
		return reply(cp.dead.Get(ctx, uint64(in.ID)))
	})
	op = operation("replay-deadletter", http.MethodPost, "/v1/admin/deadletters/{id}/replay", tag, "Try again to store one", who)
	op.DefaultStatus = http.StatusNoContent
	register(cp, a, op, func(ctx context.Context, in *byNumber) (*struct{}, error) {
		return nil, cp.dead.Replay(ctx, uint64(in.ID))
	})
	op = operation("drop-deadletter", http.MethodDelete, "/v1/admin/deadletters/{id}", tag, "Give one up for good", who)
	op.DefaultStatus = http.StatusNoContent
	register(cp, a, op, func(ctx context.Context, in *byNumber) (*struct{}, error) {
		return nil, cp.dead.Drop(ctx, uint64(in.ID))
	})
}

// reporter is what the request itself says of who reports.
func (cp *ControlPlane) reporter(ctx context.Context, agent string) plays.From {
	return plays.From{Country: cp.places.Country(client(ctx)), Network: networkOf(client(ctx)), UserAgent: agent}
}

// networkOf takes off an address what tells people apart: IPv4 keeps /24, IPv6 /48. Empty: not known.
func networkOf(a netip.Addr) string {
	bits := 48
	if a = a.Unmap(); a.Is4() {
		bits = 24
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return ""
	}
	return p.Masked().String()
}

// sentAt reads when a batch was sent by the player's clock; empty: zero, not said.
func sentAt(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if ms, err := strconv.ParseInt(s, 10, 64); err == nil && ms > 0 && ms < 1<<43 {
		return time.UnixMilli(ms), nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.Year() < 1970 || t.Year() > 2200 {
		return t, fmt.Errorf("sent_at: want RFC 3339, or milliseconds since 1970: %w", media.ErrInvalid)
	}
	return t, nil
}

// deviceType is the type of the device that a session is of; empty: not known. The play logs can do without.
func (cp *ControlPlane) deviceType(ctx context.Context, p identity.Principal) string {
	n := &cp.names
	n.mu.Lock()
	t, ok := n.devices[p.DeviceID]
	n.mu.Unlock()
	if ok {
		return t
	}
	devices, err := cp.identity.DeviceNames(ctx, p.UserID)
	if err != nil {
		return ""
	}
	t = cmp.Or(devices[p.DeviceID].Type, "other")
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.devices == nil || len(n.devices) >= 100_000 {
		n.devices = map[string]string{}
	}
	n.devices[p.DeviceID] = t
	return t
}

// fewNames remembers what play logs say of edges and devices, for a while.
type fewNames struct {
	mu      sync.Mutex // guards the fields below
	read    time.Time  // when edges were
	edges   map[string]api.Edge
	regions map[string]string // of edges, by name
	devices map[string]string // types, by id
}

// namesFor is how long an edge may be called by an old name or region.
const namesFor = 5 * time.Second

// edgeNamed is the name and the region of an edge by its id; regionOf the region by its name. What is not known, or not to be had now, is empty.
func (cp *ControlPlane) edgeNamed(ctx context.Context, id string) (name, region string) {
	edges, _ := cp.edgeNames(ctx)
	e := edges[id]
	return cmp.Or(e.Name, id), e.Region
}

func (cp *ControlPlane) regionOf(name string) string {
	_, regions := cp.edgeNames(context.Background())
	return regions[name]
}

func (cp *ControlPlane) edgeNames(ctx context.Context) (edges map[string]api.Edge, regions map[string]string) {
	n := &cp.names
	n.mu.Lock()
	defer n.mu.Unlock()
	if time.Since(n.read) > namesFor {
		n.read = time.Now() // also after a failure: nobody waits for SQL twice
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if list, err := cp.fleet.Edges(ctx); err == nil {
			n.edges, n.regions = map[string]api.Edge{}, map[string]string{}
			for _, e := range list {
				n.edges[e.ID], n.regions[e.Name] = e, e.Region
			}
		}
	}
	return n.edges, n.regions
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
