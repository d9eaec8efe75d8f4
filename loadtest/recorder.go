package loadtest

import (
	"sort"
	"strings"
	"sync"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
)

// Operations, as they stand in results. Latencies of requests count from the moment they were meant to begin.
const (
	opSignIn   = "sign_in"
	opRefresh  = "refresh"
	opSearch   = "search"
	opPlayback = "playback" // POST /v1/playback
	opRenew    = "renew"
	opMaster   = "master"
	opPlaylist = "playlist"
	opInit     = "init"
	opSegment  = "segment"
	opScrape   = "scrape" // whole files, as fast as they come
	opEvents   = "events"
	opSteering = "steering"
)

// Moments of listening, which are no single requests.
const (
	momentStartup = "startup" // from pressing play to the whole first segment, through all that lies between
	momentSeek    = "seek"    // from the seek to the segment it went to
	momentStall   = "stall"   // silence that nobody asked for, in mid-play
	momentGap     = "gap"     // silence between a track that ended and the next
	momentLag     = "lag"     // what the generator was late by itself
)

// Longest is the largest latency that is kept apart from even longer ones.
const Longest = 10 * time.Minute

// newHistogram counts microseconds with an error of at most 1 %.
func newHistogram() *hdr.Histogram { return hdr.New(1, Longest.Microseconds(), 2) }

func note(h *hdr.Histogram, d time.Duration) {
	_ = h.RecordValue(min(max(d.Microseconds(), 1), Longest.Microseconds())) // in bounds by the line itself
}

// Tiers of the edge's cache, as Cache-Status tells them, and what it does not tell.
var tiers = []string{"memory", "disk", "shield", "origin", "unknown"}

// tierOf reads the detail of the last cache in a Cache-Status (RFC 9211): the nearest to us.
func tierOf(status string) int {
	if i := strings.LastIndexByte(status, ','); i >= 0 {
		status = status[i+1:]
	}
	_, detail, ok := strings.Cut(status, "detail=")
	detail, _, _ = strings.Cut(detail, ";")
	for i, t := range tiers {
		if ok && strings.TrimSpace(detail) == t {
			return i
		}
	}
	return len(tiers) - 1
}

// operation is what is known of one kind of request.
type operation struct {
	response *hdr.Histogram // from the intended moment to the last byte
	service  *hdr.Histogram // from the first byte sent to the last received
	bytes    int64
}

type errorKey struct{ op, kind string }

// recorder gathers what listeners see.
type recorder struct {
	every time.Duration

	mu        sync.Mutex // guards the fields below
	from      time.Duration
	ops       map[string]*operation
	moments   map[string]*hdr.Histogram
	errors    map[errorKey]int64
	tierHits  [5]int64
	tierBytes [5]int64
	intervals []*tick
	counts    Counts
	kept      []reference
}

// tick is one interval of the run.
type tick struct {
	Interval
	startup *hdr.Histogram
}

// Counts are sums over a run.
type Counts struct {
	Arrivals   int64   `json:"arrivals"`                 // sessions begun
	Dropped    int64   `json:"dropped"`                  // sessions that could not begin for want of accounts
	Plays      int64   `json:"plays"`                    // first sounds
	Failed     int64   `json:"failed_plays"`             // plays that never sounded or broke for good
	Skips      int64   `json:"skips"`                    // left before the end
	Seeks      int64   `json:"seeks"`                    //
	Pauses     int64   `json:"pauses"`                   //
	Stalls     int64   `json:"stalls"`                   //
	StallS     float64 `json:"stall_seconds"`            //
	PlayedS    float64 `json:"played_seconds"`           // of sound
	Failovers  int64   `json:"failovers"`                // a request that failed on one edge and went to the next
	Moves      int64   `json:"moves"`                    // to another edge because steering said so
	Switches   int64   `json:"rendition_switches"`       //
	Events     int64   `json:"events"`                   // accepted
	Dials      int64   `json:"connections"`              // opened
	Sampled    int64   `json:"sha256_samples"`           // replies whose bytes were compared with the file's
	Mismatched int64   `json:"sha256_mismatches"`        //
	Unchecked  int64   `json:"sha256_unchecked"`         // samples of files that could not be fetched for comparison
	Peak       int64   `json:"peak_listeners"`           //
	InFlight   int64   `json:"peak_in_flight"`           // requests at once
	CPUSeconds float64 `json:"generator_cpu_s"`          //
	RSSBytes   int64   `json:"generator_rss_bytes"`      // at the peak
	BaseRSS    int64   `json:"generator_base_rss_bytes"` // before the first listener came
}

// Interval is one step of the run's time line.
type Interval struct {
	AtS       float64  `json:"at_s"` // end of the interval
	Listeners int64    `json:"listeners"`
	Requests  int64    `json:"requests"`
	Bytes     int64    `json:"bytes"` // of media, from edges
	Plays     int64    `json:"plays"`
	Stalls    int64    `json:"stalls"`
	Errors    int64    `json:"errors"`
	Tiers     [5]int64 `json:"tiers"`           // requests of media by memory, disk, shield, origin, unknown
	LagUS     int64    `json:"lag_us"`          // the longest
	Startup   []byte   `json:"startup"`         // an HDR histogram, V2 encoding
	Mark      string   `json:"marks,omitempty"` // what happened at this time
}

func newRecorder(every time.Duration) *recorder {
	return &recorder{every: every, ops: map[string]*operation{}, moments: map[string]*hdr.Histogram{}, errors: map[errorKey]int64{}}
}

// tick finds the interval of a moment; r.mu is held.
func (r *recorder) tick(at time.Duration) *tick {
	i := int(max(at-r.from, 0) / r.every)
	for len(r.intervals) <= i {
		t := &tick{startup: newHistogram()}
		t.AtS = (time.Duration(len(r.intervals)+1) * r.every).Seconds()
		r.intervals = append(r.intervals, t)
	}
	return r.intervals[i]
}

// request notes a request that ended well. meant and sent are when it was to begin and did.
func (r *recorder) request(op string, meant, sent, end time.Duration, bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.ops[op]
	if o == nil {
		o = &operation{response: newHistogram(), service: newHistogram()}
		r.ops[op] = o
	}
	note(o.response, end-meant)
	note(o.service, end-sent)
	o.bytes += bytes
	r.tick(end).Requests++
}

// media notes where the bytes of a request came from.
func (r *recorder) media(at time.Duration, tier int, bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tierHits[tier]++
	r.tierBytes[tier] += bytes
	t := r.tick(at)
	t.Bytes += bytes
	t.Tiers[tier]++
}

// failed notes an error.
func (r *recorder) failed(at time.Duration, op string, k string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors[errorKey{op, k}]++
	t := r.tick(at)
	t.Errors++
	t.Requests++
}

// moment notes a span of listening.
func (r *recorder) moment(at time.Duration, name string, d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.moments[name]
	if h == nil {
		h = newHistogram()
		r.moments[name] = h
	}
	note(h, d)
	switch name {
	case momentStartup:
		note(r.tick(at).startup, d)
	case momentStall:
		r.counts.Stalls++
		r.counts.StallS += d.Seconds()
		r.tick(at).Stalls++
	case momentLag:
		t := r.tick(at)
		t.LagUS = max(t.LagUS, d.Microseconds())
	}
}

// count changes the sums.
func (r *recorder) count(f func(c *Counts)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.counts)
}

// sound notes that a play began to sound.
func (r *recorder) sound(at time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts.Plays++
	r.tick(at).Plays++
}

// mark notes that something happened.
func (r *recorder) mark(at time.Duration, what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tick(at)
	if t.Mark != "" {
		what = t.Mark + ", " + what
	}
	t.Mark = what
}

// listeners notes how many listen.
func (r *recorder) listeners(at time.Duration, n, inFlight int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tick(at).Listeners = n
	r.counts.Peak = max(r.counts.Peak, n)
	r.counts.InFlight = max(r.counts.InFlight, inFlight)
}

// restart forgets all: the time before was for warming up.
func (r *recorder) restart(at time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.from = at
	r.ops, r.moments, r.errors = map[string]*operation{}, map[string]*hdr.Histogram{}, map[errorKey]int64{}
	r.tierHits, r.tierBytes, r.intervals, r.counts = [5]int64{}, [5]int64{}, nil, Counts{}
}

// keep remembers the hash of a reply for comparison with the file, when the run is over.
func (r *recorder) keep(s reference) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.kept) < maxSamples {
		r.kept = append(r.kept, s)
	}
}

// since is when what is recorded began.
func (r *recorder) since() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.from
}

// fill writes what was recorded into a result.
func (r *recorder) fill(out *Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out.Counts = r.counts
	out.Operations, out.Moments = map[string]Operation{}, map[string]Latency{}
	for name, o := range r.ops {
		out.Operations[name] = Operation{Response: latency(o.response), Service: latency(o.service), Bytes: o.bytes}
	}
	for name, h := range r.moments {
		out.Moments[name] = latency(h)
	}
	for k, n := range r.errors {
		out.Errors = append(out.Errors, ErrorCount{k.op, k.kind, n})
	}
	sort.Slice(out.Errors, func(i, j int) bool {
		a, b := out.Errors[i], out.Errors[j]
		return a.Count > b.Count || a.Count == b.Count && a.Operation+a.Kind < b.Operation+b.Kind
	})
	for i, t := range tiers {
		if r.tierHits[i] > 0 {
			out.Tiers = append(out.Tiers, TierCount{t, r.tierHits[i], r.tierBytes[i]})
		}
	}
	for _, t := range r.intervals {
		i := t.Interval
		i.Startup = encode(t.startup)
		out.Intervals = append(out.Intervals, i)
	}
}
