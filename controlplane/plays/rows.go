package plays

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"segue/controlplane/api/edgelog"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/oklog/ulid/v2"
)

// Rows on their way into a table stand in columns, as ClickHouse takes them.
type column interface {
	put(to driver.BatchColumn) error
	cut(rows int) // forgets what is behind so many rows
}

type list[T any] struct{ values []T }

func (l *list[T]) add(v T)                         { l.values = append(l.values, v) }
func (l *list[T]) put(to driver.BatchColumn) error { return to.Append(l.values) }
func (l *list[T]) cut(rows int)                    { clear(l.values[rows:]); l.values = l.values[:rows] }

// named are the columns of one table, by name.
type named struct {
	name string
	column
}

// rows gathers what messages hold. add leaves nothing behind when it fails: a *dead says that it always will.
type rows interface {
	add(m message) (n int, err error)
	columns() []named
}

// message is what rows are made of.
type message struct {
	body []byte
	id   string
	at   time.Time // when the log took it
}

// dead is why a message can never be stored.
type dead struct{ reason string }

func (d *dead) Error() string { return d.reason }

// undo forgets the rows behind n in all columns.
func undo(columns []named, n int) {
	for _, c := range columns {
		c.cut(n)
	}
}

// eventRows are rows of play_events.
type eventRows struct {
	eventID, playID, kind, userKey, plan, trackID, version, title, artistID, artist, albumID, album, genre, rendition, edge, region list[string]
	country, deviceType, player, message, contextType, contextID                                                                    list[string]
	at, receivedAt, playAt                                                                                                          list[time.Time]
	skew                                                                                                                            list[int64]
	duration, position, played, bitrate, startup, stall                                                                             list[uint32]
	offline                                                                                                                         list[uint8]
	all                                                                                                                             []named
}

func newEventRows(func(netip.Addr) string) rows {
	r := &eventRows{}
	r.all = []named{{"event_id", &r.eventID}, {"play_id", &r.playID}, {"type", &r.kind}, {"at", &r.at}, {"received_at", &r.receivedAt}, {"skew_ms", &r.skew}, {"play_at", &r.playAt},
		{"user_key", &r.userKey}, {"plan", &r.plan}, {"track_id", &r.trackID}, {"version", &r.version}, {"title", &r.title}, {"artist_id", &r.artistID}, {"artist", &r.artist},
		{"album_id", &r.albumID}, {"album", &r.album}, {"genre", &r.genre}, {"duration_ms", &r.duration}, {"position_ms", &r.position}, {"played_ms", &r.played},
		{"rendition", &r.rendition}, {"bitrate_kbps", &r.bitrate}, {"edge", &r.edge}, {"region", &r.region}, {"country", &r.country}, {"device_type", &r.deviceType},
		{"player", &r.player}, {"startup_ms", &r.startup}, {"stall_ms", &r.stall}, {"message", &r.message}, {"context_type", &r.contextType}, {"context_id", &r.contextID},
		{"offline", &r.offline}}
	return r
}

func (r *eventRows) columns() []named { return r.all }

func (r *eventRows) add(m message) (int, error) {
	events, err := Decode(m.body)
	if err != nil {
		return 0, &dead{err.Error()}
	}
	before := len(r.at.values)
	for i := range events {
		e := &events[i]
		at, err := playTime(e.PlayID)
		if err == nil && len(e.ID) != 26 {
			err = fmt.Errorf("event %q has no id of 26 characters", e.ID)
		}
		if err == nil && (len(e.UserKey) > 32 || len(e.TrackID) > 26 || len(e.Version) > 26) {
			err = fmt.Errorf("event %s: a key is too long", e.ID)
		}
		if err != nil {
			undo(r.all, before)
			return 0, &dead{err.Error()}
		}
		var contextType, contextID string
		if e.Context != nil {
			contextType, contextID = e.Context.Type, e.Context.ID
		}
		offline := uint8(0)
		if e.LicenceID != "" {
			offline = 1
		}
		r.eventID.add(e.ID)
		r.playID.add(e.PlayID)
		r.kind.add(e.Type)
		r.at.add(e.At)
		r.receivedAt.add(e.ReceivedAt)
		r.skew.add(e.SkewMS)
		r.playAt.add(at)
		r.userKey.add(padded(e.UserKey, 32))
		r.plan.add(string(e.Plan))
		r.trackID.add(padded(string(e.TrackID), 26))
		r.version.add(padded(string(e.Version), 26))
		r.title.add(e.Title)
		r.artistID.add(e.ArtistID)
		r.artist.add(e.Artist)
		r.albumID.add(e.AlbumID)
		r.album.add(e.Album)
		r.genre.add(e.Genre)
		r.duration.add(u32(e.DurationMS))
		r.position.add(u32(e.PositionMS))
		r.played.add(u32(e.PlayedMS))
		r.rendition.add(e.Rendition)
		r.bitrate.add(bitrateKbps(e.Rendition))
		r.edge.add(e.Edge)
		r.region.add(e.Region)
		r.country.add(e.Country)
		r.deviceType.add(e.DeviceType)
		r.player.add(e.Player)
		r.startup.add(u32(e.StartupMS))
		r.stall.add(u32(e.StallMS))
		r.message.add(e.Message)
		r.contextType.add(contextType)
		r.contextID.add(contextID)
		r.offline.add(offline)
	}
	return len(events), nil
}

// padded is a text for a FixedString column, which takes no other length.
func padded(s string, n int) string {
	if len(s) >= n {
		return s
	}
	return s + strings.Repeat("\x00", n-len(s))
}

func u32(n int64) uint32 { return uint32(min(max(n, 0), 1<<32-1)) }

// playTime is when a play was granted, or began offline: the time in its ULID, which all its events share.
func playTime(playID string) (time.Time, error) {
	id, err := ulid.ParseStrict(playID)
	if err != nil {
		return time.Time{}, fmt.Errorf("play %q: not a ULID", playID)
	}
	at := ulid.Time(id.Time()).UTC()
	if at.Year() < 2020 || at.Year() > 2261 { // DateTime64 in milliseconds goes no further, and a play of before there were any has a wrong clock
		return time.Time{}, errors.New("play " + playID + ": its time cannot be")
	}
	return at, nil
}

// bitrateKbps reads the number in a rendition's name, as aac_160; 0: it has none.
func bitrateKbps(rendition string) uint32 {
	_, number, _ := strings.Cut(rendition, "_")
	n, err := strconv.ParseUint(number, 10, 20)
	if err != nil {
		return 0
	}
	return uint32(n)
}

// requestRows are rows of edge_requests. A message holds frames of one edge.
type requestRows struct {
	country                                                                                                 func(netip.Addr) string
	edge, region, log, sid, playID, trackID, version, rendition, method, route, key, byteRange, cache, tier list[string]
	client, countries, deviceType, userAgent, referer, proto, tls, object, format, stream, state, content   list[string]
	at, receivedAt                                                                                          list[time.Time]
	seq, batch, bytes                                                                                       list[uint64]
	status                                                                                                  list[uint16]
	firstByte, duration, connRequests, bitrate, top, throughput, requested, segment, sequence               list[uint32]
	buffer, deadline                                                                                        list[*uint32]
	rate                                                                                                    list[*float32]
	cmcdVersion, startup, starved                                                                           list[uint8]
	all                                                                                                     []named
	places                                                                                                  map[string]string // client -> country
}

func newRequestRows(country func(netip.Addr) string) rows {
	r := &requestRows{country: country, places: map[string]string{}}
	r.all = []named{{"at", &r.at}, {"received_at", &r.receivedAt}, {"edge", &r.edge}, {"region", &r.region}, {"log", &r.log}, {"seq", &r.seq}, {"batch", &r.batch}, {"sid", &r.sid},
		{"play_id", &r.playID}, {"track_id", &r.trackID}, {"version", &r.version}, {"rendition", &r.rendition}, {"method", &r.method}, {"route", &r.route}, {"key", &r.key},
		{"status", &r.status}, {"bytes", &r.bytes}, {"range", &r.byteRange}, {"cache", &r.cache}, {"tier", &r.tier}, {"first_byte_us", &r.firstByte}, {"duration_us", &r.duration},
		{"client", &r.client}, {"country", &r.countries}, {"device_type", &r.deviceType}, {"user_agent", &r.userAgent}, {"referer", &r.referer}, {"proto", &r.proto}, {"tls", &r.tls},
		{"conn_requests", &r.connRequests}, {"cmcd_version", &r.cmcdVersion}, {"cmcd_object", &r.object}, {"cmcd_format", &r.format}, {"cmcd_stream", &r.stream},
		{"cmcd_state", &r.state}, {"cmcd_content", &r.content}, {"cmcd_bitrate_kbps", &r.bitrate}, {"cmcd_top_kbps", &r.top}, {"cmcd_throughput_kbps", &r.throughput},
		{"cmcd_requested_kbps", &r.requested}, {"cmcd_buffer_ms", &r.buffer}, {"cmcd_duration_ms", &r.segment}, {"cmcd_deadline_ms", &r.deadline}, {"cmcd_rate", &r.rate},
		{"cmcd_startup", &r.startup}, {"cmcd_starved", &r.starved}, {"cmcd_sequence", &r.sequence}}
	return r
}

func (r *requestRows) columns() []named { return r.all }

func (r *requestRows) add(m message) (int, error) {
	before := len(r.at.values)
	fail := func(err error) (int, error) {
		undo(r.all, before)
		return 0, &dead{err.Error()}
	}
	if len(m.body) == 0 || m.body[0] != formRequests {
		return fail(errors.New("not a message of edge requests"))
	}
	d := newDecoder(m.body[1:])
	edge, region, received := d.string(), d.string(), time.UnixMilli(d.varint()).UTC()
	if d.bad {
		return fail(errors.New("not a message of edge requests"))
	}
	rest := m.body[len(m.body)-len(d.text):]
	for len(rest) > 0 {
		h, frame, after, err := edgelog.Cut(rest)
		if err != nil {
			return fail(err)
		}
		rest = after
		if err := edgelog.Rows(h, frame, func(seq uint64, q *edgelog.Row) { r.row(edge, region, received, h, seq, q) }); err != nil {
			return fail(err)
		}
	}
	return len(r.at.values) - before, nil
}

func (r *requestRows) row(edge, region string, received time.Time, h edgelog.Head, seq uint64, q *edgelog.Row) {
	track, version, rendition := ofMedia(q.Key)
	r.at.add(q.At)
	r.receivedAt.add(received)
	r.edge.add(edge)
	r.region.add(region)
	r.log.add(h.Log)
	r.seq.add(seq)
	r.batch.add(h.First)
	r.sid.add(clean(q.SessionID))
	r.playID.add(clean(q.PlayID))
	r.trackID.add(clean(track))
	r.version.add(clean(version))
	r.rendition.add(clean(rendition))
	r.method.add(clean(q.Method))
	r.route.add(clean(q.Route))
	r.key.add(clean(q.Key))
	r.status.add(uint16(min(max(q.Status, 0), 1<<16-1)))
	r.bytes.add(uint64(max(q.Bytes, 0)))
	r.byteRange.add(clean(q.Range))
	r.cache.add(clean(q.Cache))
	r.tier.add(clean(q.Tier))
	r.firstByte.add(u32(q.FirstByte.Microseconds()))
	r.duration.add(u32(q.Duration.Microseconds()))
	r.client.add(clean(q.Client))
	r.countries.add(placeOf(r.places, r.country, q.Client))
	r.deviceType.add(deviceOf(q.UserAgent))
	r.userAgent.add(clean(q.UserAgent))
	r.referer.add(clean(q.Referer))
	r.proto.add(clean(q.Proto))
	r.tls.add(clean(q.TLS))
	r.connRequests.add(u32(q.ConnRequests))
	r.cmcdVersion.add(uint8(min(max(q.Version, 0), 255)))
	r.object.add(clean(q.Object))
	r.format.add(clean(q.Format))
	r.stream.add(clean(q.Stream))
	r.state.add(clean(q.State))
	r.content.add(clean(q.Content))
	r.bitrate.add(u32(q.BitrateKbps))
	r.top.add(u32(q.TopKbps))
	r.throughput.add(u32(q.ThroughputKbps))
	r.requested.add(u32(q.RequestedKbps))
	r.buffer.add(said(q.BufferMS))
	r.segment.add(u32(q.DurationMS))
	r.deadline.add(said(q.DeadlineMS))
	r.rate.add(saidRate(q.RateThousandths))
	r.startup.add(flag(q.Startup))
	r.starved.add(flag(q.Starved))
	r.sequence.add(u32(q.Sequence))
}

// said is a number that may not have been said: -1.
func said(n int64) *uint32 {
	if n < 0 {
		return nil
	}
	v := u32(n)
	return &v
}

func saidRate(thousandths int64) *float32 {
	if thousandths < 0 {
		return nil
	}
	v := float32(thousandths) / 1000
	return &v
}

func flag(on bool) uint8 {
	if on {
		return 1
	}
	return 0
}

// ofMedia takes the key of a track's object apart: media/<track>/<version>/<rendition>.mp4.
func ofMedia(key string) (track, version, rendition string) {
	rest, ok := strings.CutPrefix(strings.TrimPrefix(key, "/"), "media/")
	if !ok {
		return "", "", ""
	}
	track, rest, _ = strings.Cut(rest, "/")
	version, file, _ := strings.Cut(rest, "/")
	if name, _, ok := strings.Cut(file, "."); ok && name != "master" && name != "manifest" && name != "track" {
		rendition = name
	}
	if len(track) > 64 || len(version) > 64 || len(rendition) > 64 {
		return "", "", ""
	}
	return track, version, rendition
}

// placeOf is the country of a network, which many rows share.
func placeOf(known map[string]string, country func(netip.Addr) string, network string) string {
	if network == "" || country == nil {
		return ""
	}
	c, ok := known[network]
	if !ok {
		if p, err := netip.ParsePrefix(network); err == nil {
			c = country(p.Addr())
		}
		if len(known) >= maxKnown {
			clear(known)
		}
		known[strings.Clone(network)] = c
	}
	return c
}

// deviceOf guesses from a User-Agent, in the words of api.Device.
func deviceOf(agent string) string {
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(agent, w) {
				return true
			}
		}
		return false
	}
	switch {
	case agent == "":
		return ""
	case has("SmartTV", "SMART-TV", "Tizen", "Web0S", "AppleTV", "BRAVIA", "GoogleTV", "CrKey", "Roku"):
		return "tv"
	case has("Sonos", "HomePod", "AudioAccessory"):
		return "speaker"
	case has("Mobile", "Android", "iPhone", "iPad", "okhttp", "CFNetwork", "ExoPlayer"):
		return "phone"
	case has("curl/", "Wget/", "Go-http-client", "python-", "Lavf/"):
		return "cli"
	case has("Mozilla/"):
		return "web"
	}
	return "other"
}
