package plays

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unsafe"

	"segue/controlplane/api"
	"segue/media"
)

// How events stand in the log. A message holds what one request brought: a byte that names the form, then the events one
// after the other, each a sequence of texts (length, bytes) and numbers (zigzag varints) in a fixed order. The form is ours alone and
// is a tenth of the work that JSON is; older messages, one event as a JSON object each, are read too.
const formEvents = 1

var errForm = errors.New("not a message of play events")

// Encode makes the body of a message.
func Encode(events []Stamped) []byte {
	b := make([]byte, 0, 1+len(events)*320)
	b = append(b, formEvents)
	for i := range events {
		b = appendEvent(b, &events[i])
	}
	return b
}

func appendEvent(b []byte, e *Stamped) []byte {
	context := api.PlayContext{}
	if e.Context != nil {
		context = *e.Context
	}
	for _, s := range [...]string{e.ID, e.PlayID, e.Type, e.Rendition, e.Edge, e.Player, e.Message, context.Type, context.ID, e.LicenceID, e.UserKey, string(e.TrackID), string(e.Version),
		e.Title, e.Artist, e.Album, string(e.Plan), e.ArtistID, e.AlbumID, e.Genre, e.Country, e.Region, e.DeviceType} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	for _, n := range [...]int64{e.At.UnixMilli(), e.ReceivedAt.UnixMilli(), e.PositionMS, e.PlayedMS, e.StartupMS, e.StallMS, e.DurationMS, e.SkewMS} {
		b = binary.AppendVarint(b, n)
	}
	return b
}

// decoder reads texts and numbers. After the first mistake it returns zeros, and bad is set.
type decoder struct {
	text string
	bad  bool
}

// newDecoder reads b, which nobody may write to any more: texts are parts of it.
func newDecoder(b []byte) *decoder { return &decoder{text: unsafe.String(unsafe.SliceData(b), len(b))} }

func (d *decoder) uvarint() uint64 {
	var n uint64
	for i := 0; i < len(d.text) && i < binary.MaxVarintLen64; i++ {
		c := d.text[i]
		n |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			d.text = d.text[i+1:]
			return n
		}
	}
	d.bad, d.text = true, ""
	return 0
}

func (d *decoder) byte() byte {
	if d.text == "" {
		d.bad = true
		return 0
	}
	c := d.text[0]
	d.text = d.text[1:]
	return c
}

func (d *decoder) varint() int64 {
	n := d.uvarint()
	return int64(n>>1) ^ -int64(n&1)
}

func (d *decoder) string() string {
	n := d.uvarint()
	if n > uint64(len(d.text)) {
		d.bad, d.text = true, ""
		return ""
	}
	s := d.text[:n]
	d.text = d.text[n:]
	return s
}

// Decode reads the body of a message; the events' texts are parts of it. It is also for other readers of the log.
func Decode(body []byte) ([]Stamped, error) {
	if len(body) > 0 && body[0] == '{' {
		var e Stamped
		if err := json.Unmarshal(body, &e); err != nil {
			return nil, fmt.Errorf("%w: %w", errForm, err)
		}
		return []Stamped{e}, nil
	}
	if len(body) == 0 || body[0] != formEvents {
		return nil, errForm
	}
	var out []Stamped
	for d := newDecoder(body[1:]); d.text != ""; {
		var e Stamped
		d.event(&e)
		if d.bad || len(out) == maxPerMessage {
			return nil, errForm
		}
		out = append(out, e)
	}
	return out, nil
}

// maxPerMessage bounds what a message is believed to hold.
const maxPerMessage = 10 * MaxEvents

func (d *decoder) event(e *Stamped) {
	var context api.PlayContext
	var trackID, version, plan string
	for _, s := range [...]*string{&e.ID, &e.PlayID, &e.Type, &e.Rendition, &e.Edge, &e.Player, &e.Message, &context.Type, &context.ID, &e.LicenceID, &e.UserKey, &trackID, &version,
		&e.Title, &e.Artist, &e.Album, &plan, &e.ArtistID, &e.AlbumID, &e.Genre, &e.Country, &e.Region, &e.DeviceType} {
		*s = d.string()
	}
	e.TrackID, e.Version, e.Plan = media.TrackID(trackID), media.Version(version), api.Plan(plan)
	if context.Type != "" || context.ID != "" {
		e.Context = &context
	}
	at, received := d.varint(), d.varint()
	e.At, e.ReceivedAt = time.UnixMilli(at).UTC(), time.UnixMilli(received).UTC()
	for _, n := range [...]*int64{&e.PositionMS, &e.PlayedMS, &e.StartupMS, &e.StallMS, &e.DurationMS, &e.SkewMS} {
		*n = d.varint()
	}
}

// clean is a text that ClickHouse's columns and its readers take: UTF-8.
func clean(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
