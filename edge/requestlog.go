package edge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"segue/edge/cmcd"
	"segue/media"

	"github.com/prometheus/client_golang/prometheus"
)

// Record is one request that was answered. Its texts may be borrowed until Add returns, which copies them.
type Record struct {
	Time         time.Time     // when the request was there
	Duration     time.Duration // until the last byte was handed to the system
	FirstByte    time.Duration // until there was a status to send
	Client       netip.Addr
	Method       string
	Route        string // its prefix
	Key          string // of the object: no token, no query
	Status       int
	Bytes        int64  // of the body, as sent
	Range        string // the header
	Tier         Tier   // of the first block; empty: no object was read
	Cache        string // hit, miss, stale, bypass, …
	PlayID       string // from the token
	UserAgent    string
	Referer      string
	Proto        string // "HTTP/1.1"
	TLS          string // version; empty: none
	ConnRequests uint64 // answered on this connection so far, this one included
	CMCD         cmcd.Data
}

// Session is the playback that a request belongs to: the token's, else what the player calls it. Empty: unknown.
func (r *Record) Session() string { return cmp.Or(r.PlayID, r.CMCD.SessionID) }

// Sink takes the records of a log. It is called by one goroutine; batch and records are its own until it returns. After
// an error the batch counts as lost.
type Sink interface {
	Take(batch []*Record) error
}

// LogConfig is how requests are recorded.
type LogConfig struct {
	Room           int  // records that wait for the sinks, rounded up to a power of two, 2 at least; default 8192 (about 10 MB). When full, new ones are dropped
	WholeAddresses bool // keep client addresses whole. Else they lose what tells people apart: IPv4 keeps /24, IPv6 /48
}

// RequestLog carries records from handlers to sinks. Handlers never wait: a ring of slots takes their records (the
// bounded queue of Vyukov: a slot's turn says whose it is), and one goroutine gives them on.
type RequestLog struct {
	whole   bool
	sinks   []Sink
	log     *slog.Logger
	slots   []slot
	tail    atomic.Uint64 // the next place to fill
	_       [56]byte      // keep head, which the writer moves, off tail's cache line
	head    uint64        // the next place to read; the writer's alone
	wake    chan struct{}
	kept    prometheus.Counter
	dropped prometheus.Counter
	lost    prometheus.Counter
}

type slot struct {
	turn   atomic.Uint64 // place p may be filled when it is p, read when it is p+1; then it becomes p+len(slots)
	record Record
	next   [cmcd.MaxNext]cmcd.Next
	text   []byte // what record's texts point into; it keeps its size
}

const (
	logBatch   = 512                    // records handed to a sink at once
	logDelay   = 250 * time.Millisecond // the longest a record waits for its sink, if that is not busy
	maxLogText = 512                    // bytes kept of texts whose length the client decides
)

// NewRequestLog makes a log; Run carries.
func NewRequestLog(cfg LogConfig, log *slog.Logger, reg prometheus.Registerer, sinks ...Sink) (*RequestLog, error) {
	room := 2 // with one slot, full and free would be the same turn
	for room < cmp.Or(cfg.Room, 8192) {
		room *= 2
	}
	if cfg.Room < 0 || room > 1<<20 {
		return nil, fmt.Errorf("a request log has room for 1 to %d records: %w", 1<<20, media.ErrInvalid)
	}
	l := &RequestLog{whole: cfg.WholeAddresses, sinks: sinks, log: log, slots: make([]slot, room), wake: make(chan struct{}, 1),
		kept:    prometheus.NewCounter(prometheus.CounterOpts{Name: "segue_edge_log_records_total", Help: "Requests recorded."}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{Name: "segue_edge_log_dropped_total", Help: "Requests not recorded, because records came faster than they were written."}),
		lost:    prometheus.NewCounter(prometheus.CounterOpts{Name: "segue_edge_log_lost_total", Help: "Records that a sink could not write."})}
	for i := range l.slots {
		l.slots[i].turn.Store(uint64(i))
	}
	reg.MustRegister(l.kept, l.dropped, l.lost)
	return l, nil
}

// Add records a request, or drops it when there is no room. It never waits, is safe for concurrent use, and keeps
// nothing of r. A nil log does nothing.
func (l *RequestLog) Add(r *Record) {
	if l == nil {
		return
	}
	var s *slot
	place := l.tail.Load()
	for {
		s = &l.slots[place&uint64(len(l.slots)-1)]
		ahead := int64(s.turn.Load() - place)
		if ahead == 0 && l.tail.CompareAndSwap(place, place+1) {
			break
		}
		if ahead < 0 { // a round behind: the writer has not read it yet
			l.dropped.Inc()
			return
		}
		place = l.tail.Load()
	}
	s.fill(r)
	if !l.whole {
		s.record.Client = coarse(s.record.Client)
	}
	s.turn.Store(place + 1)
	if quarter := uint64(len(l.slots)+3) / 4; (place+1)%quarter == 0 {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// coarse takes off an address what tells people apart.
func coarse(a netip.Addr) netip.Addr {
	a = a.Unmap()
	bits := 48
	if a.Is4() {
		bits = 24
	}
	p, _ := a.Prefix(bits) // of an invalid address: invalid
	return p.Addr()
}

func (s *slot) fill(r *Record) {
	s.record = *r
	to := &s.record
	to.UserAgent = short(to.UserAgent)
	to.Referer = short(withoutQuery(to.Referer))
	to.Range, to.Method, to.Key = short(to.Range), short(to.Method), to.Key[:min(len(to.Key), maxURL)]
	s.text = s.text[:0]
	for _, t := range [...]*string{&to.Method, &to.Route, &to.Key, &to.Range, (*string)(&to.Tier), &to.Cache, &to.PlayID, &to.UserAgent,
		&to.Referer, &to.Proto, &to.TLS} {
		s.put(t)
	}
	s.text = to.CMCD.Keep(s.text, s.next[:])
	hideTokens(&to.Referer)
	hideTokens(&to.CMCD.URL)
	for i := range to.CMCD.Next {
		hideTokens(&to.CMCD.Next[i].Path)
	}
}

// put copies a text to the slot's own and lets it point there. Texts put before a growth keep the old memory alive.
func (s *slot) put(t *string) {
	if *t == "" {
		return
	}
	n := len(s.text)
	s.text = append(s.text, *t...)
	*t = unsafe.String(&s.text[n], len(*t))
}

func short(s string) string { return s[:min(len(s), maxLogText)] }

// withoutQuery: what follows is the business of the page that sent it.
func withoutQuery(url string) string {
	if i := strings.IndexAny(url, "?#"); i >= 0 {
		return url[:i]
	}
	return url
}

// hideTokens cuts a URL before an access token: a token works for whoever reads the log.
func hideTokens(url *string) {
	if strings.HasPrefix(*url, tokenFolder) {
		*url = tokenFolder
	} else if i := strings.Index(*url, "/"+tokenFolder); i >= 0 {
		*url = (*url)[:i+1+len(tokenFolder)]
	}
}

// Run gives records to the sinks until ctx ends; what was added until then is still given. Stop what adds first.
func (l *RequestLog) Run(ctx context.Context, ready func()) error {
	ready()
	tick := time.NewTicker(logDelay)
	defer tick.Stop()
	var batch [logBatch]*Record
	failing := false
	for done := false; !done; {
		select {
		case <-ctx.Done():
			done = true
		case <-tick.C:
		case <-l.wake:
		}
		for n := l.read(&batch); n > 0; n = l.read(&batch) {
			if err := l.give(batch[:n]); err != nil && !failing {
				l.log.Error("request log cannot be written", "err", err)
				failing = true
			} else if err == nil {
				failing = false
			}
			l.release(n)
		}
	}
	return nil
}

// read takes what is ready, in order; the slots stay taken until release.
func (l *RequestLog) read(batch *[logBatch]*Record) (n int) {
	for ; n < min(logBatch, len(l.slots)); n++ {
		place := l.head + uint64(n)
		s := &l.slots[place&uint64(len(l.slots)-1)]
		if s.turn.Load() != place+1 {
			break
		}
		batch[n] = &s.record
	}
	return n
}

func (l *RequestLog) release(n int) {
	for range n {
		l.slots[l.head&uint64(len(l.slots)-1)].turn.Store(l.head + uint64(len(l.slots)))
		l.head++
	}
}

func (l *RequestLog) give(batch []*Record) error {
	var all error
	for _, s := range l.sinks {
		if err := s.Take(batch); err != nil {
			l.lost.Add(float64(len(batch)))
			all = errors.Join(all, err)
		}
	}
	l.kept.Add(float64(len(batch)))
	return all
}
