package plays

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unsafe"

	"segue/edge/cmcd"
	"segue/internal/eventlog"
	"segue/media"
)

// MaxReports is how many CMCD reports one request may bring.
const MaxReports = 1000

const formReports = 1

// report is one line of event mode, as it stands in the log: no token, no query.
type report struct {
	id                                                                                                          uint64
	sid, event, eventName, state, content, object, format, stream, host, cdn, url, errorCode                    string
	at, sequence, version, bitrate, top, throughput, buffer, playhead, startDelay, rate, starvations, starvedMS int64
	droppedFrames, responseStatus, firstByte, lastByte                                                          int64
	starved                                                                                                     bool
}

func (r *report) texts() [12]*string {
	return [...]*string{&r.sid, &r.event, &r.eventName, &r.state, &r.content, &r.object, &r.format, &r.stream, &r.host, &r.cdn, &r.url, &r.errorCode}
}

func (r *report) numbers() [16]*int64 {
	return [...]*int64{&r.at, &r.sequence, &r.version, &r.bitrate, &r.top, &r.throughput, &r.buffer, &r.playhead, &r.startDelay, &r.rate, &r.starvations, &r.starvedMS,
		&r.droppedFrames, &r.responseStatus, &r.firstByte, &r.lastByte}
}

// Reports takes the body of a CMCD version 2 event mode request (CTA-5004-B): one report a line, each a list of keys and values. When it returns nil
// they are durable. Errors: media.ErrInvalid when no line can be read, or one has no session: such a player is not to send it again.
func (g *Ingest) Reports(ctx context.Context, from From, body []byte) (int, error) {
	now := time.Now().UTC()
	b := []byte{formReports}
	b = binary.AppendVarint(b, now.UnixMilli())
	for _, s := range []string{from.Network, from.Country, short(clean(from.UserAgent), 512)} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	n := 0
	for line := range bytes.Lines(body) {
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if n == MaxReports {
			return 0, fmt.Errorf("body: at most %d reports: %w", MaxReports, media.ErrInvalid)
		}
		var d cmcd.Data
		d.AddText(unsafe.String(unsafe.SliceData(line), len(line))) // read, and copied below
		switch {
		case len(line) > cmcd.MaxLen:
			return 0, fmt.Errorf("body: report %d has more than %d bytes: %w", n+1, cmcd.MaxLen, media.ErrInvalid)
		case d.Empty():
			return 0, fmt.Errorf("body: report %d is no list of CMCD keys: %w", n+1, media.ErrInvalid)
		case d.SessionID == "" || len(d.SessionID) > 64:
			return 0, fmt.Errorf("body: report %d has no session (sid): %w", n+1, media.ErrInvalid)
		case d.Event == "":
			return 0, fmt.Errorf("body: report %d has no event (e): %w", n+1, media.ErrInvalid)
		}
		sum := sha256.Sum256(line) // the session is in it
		r := report{id: binary.LittleEndian.Uint64(sum[:]), sid: d.SessionID, event: d.Event, eventName: d.EventName, state: d.State, content: d.ContentID, object: d.ObjectType,
			format: d.Format, stream: d.StreamType, host: d.Host, cdn: d.CDN, url: bareURL(d.URL), errorCode: d.ErrorCode, at: d.TimestampMS, sequence: d.Sequence,
			version: max(d.Version, 1), bitrate: d.BitrateKbps, top: d.TopKbps, throughput: d.ThroughputKbps, buffer: -1, playhead: -1, startDelay: -1, rate: -1, starvations: d.Starvations,
			starvedMS: d.StarvedMS, droppedFrames: d.DroppedFrames, responseStatus: d.Status, firstByte: d.FirstByteMS, lastByte: d.LastByteMS, starved: d.Starved}
		for _, o := range []struct {
			key   string
			value int64
			to    *int64
		}{{"bl", d.BufferMS, &r.buffer}, {"pt", d.PlayheadMS, &r.playhead}, {"msd", d.StartDelayMS, &r.startDelay}, {"pr", int64(d.Rate * 1000), &r.rate}} {
			if d.Has(o.key) {
				*o.to = o.value
			}
		}
		if at := time.UnixMilli(r.at); at.After(now.Add(clockSlack)) || at.Before(now.Add(-lateFor)) {
			r.at = now.UnixMilli() // not said, or not to be believed
		}
		b = binary.LittleEndian.AppendUint64(b, r.id)
		for _, s := range r.texts() {
			*s = clean(*s)
			b = append(binary.AppendUvarint(b, uint64(len(*s))), *s...)
		}
		for _, v := range r.numbers() {
			b = binary.AppendVarint(b, *v)
		}
		b = append(b, flag(r.starved))
		n++
	}
	if n == 0 {
		return 0, fmt.Errorf("body: want 1 to %d reports: %w", MaxReports, media.ErrInvalid)
	}
	sum := sha256.Sum256(body)
	return n, g.direct(ctx, eventlog.Message{ID: hex.EncodeToString(sum[:16]), Subject: CMCDStream.Name + ".report", Body: b})
}

func short(s string, n int) string { return s[:min(len(s), n)] }

// bareURL takes a token and what follows the path off a URL.
func bareURL(url string) string {
	if i := strings.IndexAny(url, "?#"); i >= 0 {
		url = url[:i]
	}
	if i := strings.Index(url, "/t/"); i >= 0 {
		_, path, _ := strings.Cut(url[i+3:], "/")
		url = url[:i] + "/" + path
	}
	return url
}

// reportRows are rows of cmcd_events.
type reportRows struct {
	sid, event, eventName, state, content, object, format, stream, host, cdn, track, url, errorCode, client, country list[string]
	deviceType, userAgent                                                                                            list[string]
	at, receivedAt                                                                                                   list[time.Time]
	id                                                                                                               list[uint64]
	sequence, bitrate, top, throughput, starvations, starvedMS, droppedFrames, firstByte, lastByte                   list[uint32]
	buffer, playhead, startDelay                                                                                     list[*uint32]
	rate                                                                                                             list[*float32]
	version, starved                                                                                                 list[uint8]
	status                                                                                                           list[uint16]
	all                                                                                                              []named
}

func newReportRows(func(netip.Addr) string) rows {
	r := &reportRows{}
	r.all = []named{{"at", &r.at}, {"received_at", &r.receivedAt}, {"sid", &r.sid}, {"id", &r.id}, {"event", &r.event}, {"event_name", &r.eventName}, {"sequence", &r.sequence},
		{"state", &r.state}, {"version", &r.version}, {"content", &r.content}, {"object", &r.object}, {"format", &r.format}, {"stream", &r.stream}, {"host", &r.host}, {"cdn", &r.cdn},
		{"track_id", &r.track}, {"url", &r.url}, {"bitrate_kbps", &r.bitrate}, {"top_kbps", &r.top}, {"throughput_kbps", &r.throughput}, {"buffer_ms", &r.buffer},
		{"playhead_ms", &r.playhead}, {"start_delay_ms", &r.startDelay}, {"rate", &r.rate}, {"starved", &r.starved}, {"starvations", &r.starvations}, {"starved_ms", &r.starvedMS},
		{"dropped_frames", &r.droppedFrames}, {"error_code", &r.errorCode}, {"response_status", &r.status}, {"first_byte_ms", &r.firstByte}, {"last_byte_ms", &r.lastByte},
		{"client", &r.client}, {"country", &r.country}, {"device_type", &r.deviceType}, {"user_agent", &r.userAgent}}
	return r
}

func (r *reportRows) columns() []named { return r.all }

func (r *reportRows) add(m message) (int, error) {
	before := len(r.at.values)
	fail := func() (int, error) {
		undo(r.all, before)
		return 0, &dead{errNoReports.Error()}
	}
	if len(m.body) == 0 || m.body[0] != formReports {
		return fail()
	}
	d := newDecoder(m.body[1:])
	received := time.UnixMilli(d.varint()).UTC()
	client, country, agent := d.string(), d.string(), d.string()
	for d.text != "" {
		var q report
		for i := range 8 {
			q.id |= uint64(d.byte()) << (8 * i)
		}
		for _, s := range q.texts() {
			*s = d.string()
		}
		for _, v := range q.numbers() {
			*v = d.varint()
		}
		q.starved = d.byte() == 1
		if d.bad || len(r.at.values)-before == MaxReports {
			return fail()
		}
		path := q.url
		if i := strings.Index(path, "/media/"); i >= 0 {
			path = path[i:]
		}
		track, _, _ := ofMedia(path)
		r.at.add(time.UnixMilli(q.at).UTC())
		r.receivedAt.add(received)
		r.sid.add(q.sid)
		r.id.add(q.id)
		r.event.add(q.event)
		r.eventName.add(q.eventName)
		r.sequence.add(u32(q.sequence))
		r.state.add(q.state)
		r.version.add(uint8(min(max(q.version, 0), 255)))
		r.content.add(q.content)
		r.object.add(q.object)
		r.format.add(q.format)
		r.stream.add(q.stream)
		r.host.add(q.host)
		r.cdn.add(q.cdn)
		r.track.add(track)
		r.url.add(q.url)
		r.bitrate.add(u32(q.bitrate))
		r.top.add(u32(q.top))
		r.throughput.add(u32(q.throughput))
		r.buffer.add(said(q.buffer))
		r.playhead.add(said(q.playhead))
		r.startDelay.add(said(q.startDelay))
		r.rate.add(saidRate(q.rate))
		r.starved.add(flag(q.starved))
		r.starvations.add(u32(q.starvations))
		r.starvedMS.add(u32(q.starvedMS))
		r.droppedFrames.add(u32(q.droppedFrames))
		r.errorCode.add(q.errorCode)
		r.status.add(uint16(min(max(q.responseStatus, 0), 1<<16-1)))
		r.firstByte.add(u32(q.firstByte))
		r.lastByte.add(u32(q.lastByte))
		r.client.add(client)
		r.country.add(country)
		r.deviceType.add(deviceOf(agent))
		r.userAgent.add(agent)
	}
	return len(r.at.values) - before, nil
}

var errNoReports = errors.New("not a message of CMCD reports")
