package edge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"segue/edge/policy"
	"segue/media"
)

// exchange asks HTTP origins on behalf of players, and stores what may be stored: RFC 9111 3, 4. One request for a key is
// under way at a time: those who come meanwhile wait for the head of its answer, share it if it may be shared, and else
// go on their own.
type exchange struct {
	metas   *metas
	fills   *Coalesce
	loose   int64         // bytes of a response that may be stored with no strong validator: such blocks cannot be fetched again
	wait    time.Duration // for the head of an answer
	shield  *Shield       // edges that are asked before origins; nil: none
	metrics *metrics
	life    context.Context // of what outlives its request
	stop    context.CancelFunc
	behind  sync.WaitGroup // validations behind a stale answer

	mu      sync.Mutex // guards flights
	flights map[string]*flight

	refused decisions // for inspection
}

// flight is one request under way. m is set before done is closed; nil: not to be shared.
type flight struct {
	done   chan struct{}
	m      *Meta
	remote bool // a peer is asked: its own request for the key must not wait for that
}

// errorFor is how long a stale response serves when its origin fails and nobody said whether it may: DESIGN's "5xx
// stale". passFor is how long a key whose responses may not be stored is not waited for.
const (
	errorFor = 24 * time.Hour
	passFor  = 10 * time.Second
	sniff    = 1 << 20 // bytes of a response of unknown length that are read to find its end
)

func newExchange(t *metas, c *Coalesce, memory int64, wait time.Duration, m *metrics) *exchange {
	life, stop := context.WithCancel(context.Background())
	return &exchange{metas: t, fills: c, loose: max(BlockSize, min(memory/8, 64<<20)), wait: wait, metrics: m, life: life, stop: stop, flights: map[string]*flight{}}
}

// ask is a player's request, taken out of its connection.
type ask struct {
	method string // GET, or POST for keepPost
	route  *Route
	key    string
	header http.Header // end-to-end
	plan   policy.Request
	begun  time.Time
	epoch  int64 // of the exchange that runs for it, see Meta
	peer   bool  // it comes from a peer, and goes to the origin
}

func (a *ask) field(name string) []string { return a.header[http.CanonicalHeaderKey(name)] }

// outcome is what an origin's answer came to: a Meta to answer with, or a response to pass on.
type outcome struct {
	meta     *Meta
	response *passing // nil with meta
	forward  string   // for Cache-Status, RFC 9211 2.2: `fwd=miss; fwd-status=200; stored`
	from     Tier     // who answered: TierOrigin or TierShield
}

// passing is a response for one player. Close ends it.
type passing struct {
	*http.Response
	cancel context.CancelFunc
}

// Read implements io.Reader.
func (p *passing) Read(b []byte) (int, error) { return p.Body.Read(b) }

// Close implements io.Closer.
func (p *passing) Close() error {
	defer p.cancel()
	return p.Body.Close()
}

// fetch asks the origin for what a request needs. old, when not nil, is a stored response that is stale.
func (x *exchange) fetch(a *ask, old *Meta) (outcome, error) {
	alone := a.header.Get("Authorization") != "" || policy.NoStore(a.header.Get("Cache-Control")) || old != nil && old.Status == 0
	if old != nil && (old.Status == 0 || old.part()) {
		old = nil
	}
	if alone {
		return x.send(a, old, true)
	}
	name := id(a.route, a.key)
	x.mu.Lock()
	f := x.flights[name]
	if f == nil {
		f = &flight{done: make(chan struct{}), remote: x.remote(a)}
		x.flights[name] = f
		x.mu.Unlock()
		defer func() {
			x.mu.Lock()
			delete(x.flights, name)
			x.mu.Unlock()
			close(f.done)
		}()
		o, err := x.send(a, old, false)
		f.m = o.meta
		return o, err
	}
	x.mu.Unlock()
	if f.remote && a.peer {
		return x.send(a, old, true)
	}
	x.metrics.coalesced.Inc()
	timer := time.NewTimer(x.wait)
	defer timer.Stop()
	select {
	case <-f.done:
	case <-timer.C:
		return outcome{}, context.DeadlineExceeded
	}
	// What the origin said after this request came answers it, however short it is fresh; if it is the same variant.
	if m := x.metas.find(a.route, a.key, a.field); f.m != nil && m != nil && m.Object == f.m.Object {
		return outcome{meta: m, forward: "fwd=miss; collapsed", from: TierOrigin}, nil
	}
	return x.send(a, old, true)
}

// refresh validates a stored response behind the answer that it gave: RFC 5861 3.
func (x *exchange) refresh(a *ask, old *Meta) {
	x.mu.Lock()
	_, busy := x.flights[id(a.route, a.key)]
	x.mu.Unlock()
	if busy || x.life.Err() != nil {
		return
	}
	x.behind.Go(func() {
		if o, err := x.fetch(a, old); err == nil && o.response != nil {
			o.response.Close()
		}
	})
}

// send does one exchange with the origin.
func (x *exchange) send(a *ask, old *Meta, exact bool) (outcome, error) {
	a.epoch = x.metas.purges.tick()
	if old != nil {
		old = x.metas.purges.judge(old)
	}
	header := a.header.Clone()
	for _, name := range []string{"If-None-Match", "If-Modified-Since", "If-Match", "If-Unmodified-Since", "If-Range"} {
		delete(header, name)
	}
	delete(header, "Range")
	reason := "fwd=miss"
	if old != nil {
		reason = "fwd=stale"
		for name, values := range policy.Conditions(old.Fields.header()) {
			header[name] = values
		}
	} else if rng := widen(a.plan.Range, exact); rng != "" {
		header.Set("Range", rng)
	}
	ctx, end := context.WithCancelCause(x.life)
	cancel := func() { end(context.Canceled) }
	timer := time.AfterFunc(x.wait, func() { end(context.DeadlineExceeded) })
	asked := time.Now()
	var resp *http.Response
	var err error
	from := TierShield
	if !exact && x.remote(a) {
		resp = x.shield.parent(ctx, a.route, a.key, header)
	}
	if resp == nil {
		from, asked = TierOrigin, time.Now()
		resp, err = a.route.forward(ctx, http.MethodGet, a.key, header, nil, old == nil)
	}
	answered := time.Now()
	if !timer.Stop() && err != nil {
		err = errors.Join(context.DeadlineExceeded, err)
	}
	failed := err != nil || resp.StatusCode >= 500 && resp.StatusCode != http.StatusNotImplemented
	if failed && old != nil && old.OnError(answered) {
		status := ""
		if err == nil {
			resp.Body.Close()
			status = "; fwd-status=" + strconv.Itoa(resp.StatusCode)
		}
		cancel()
		x.metrics.staleOnError.Inc()
		return outcome{meta: old, forward: "fwd=stale" + status + "; detail=stale-if-error", from: from}, nil
	}
	if err != nil {
		cancel()
		x.refused.note(id(a.route, a.key), 0, "the origin failed")
		return outcome{}, err
	}
	p := &passing{resp, cancel}
	reason += "; fwd-status=" + strconv.Itoa(resp.StatusCode)
	if resp.StatusCode == http.StatusNotModified && old != nil {
		p.Close()
		m, vary := x.freshen(a, old, resp.Header, asked, answered)
		x.metas.put(m, vary, a.field)
		return outcome{meta: m, forward: reason, from: from}, nil
	}
	m, err := x.keep(a, p, policy.Response{Status: resp.StatusCode, Header: resp.Header, Asked: asked, Answered: answered}, header.Get("Range"), from)
	switch {
	case err != nil:
		p.Close()
		return outcome{}, err
	case m != nil:
		return outcome{meta: m, forward: reason + "; stored", from: from}, nil
	case failed && old == nil:
	case resp.StatusCode < 500:
		x.metas.put(&Meta{Key: a.key, Route: a.route, Answered: answered, Epoch: a.epoch, Stored: policy.Stored{FreshUntil: answered.Add(passFor)}}, nil, nil)
	}
	if err := narrow(p.Response, a.plan.Range, header.Get("Range")); err != nil {
		p.Close()
		return outcome{}, err
	}
	return outcome{response: p, forward: reason, from: from}, nil
}

// invalidate forgets a key that an unsafe method may have changed: RFC 9111 4.4. The next requests for it go to the origin:
// the peer that owns it has not seen the change.
func (x *exchange) invalidate(r *Route, key string) {
	x.metas.forget(r, key)
	if x.remote(&ask{route: r, key: key}) {
		now := time.Now()
		x.metas.put(&Meta{Key: key, Route: r, Answered: now, Epoch: x.metas.purges.tick(), Stored: policy.Stored{FreshUntil: now.Add(passFor)}}, nil, nil)
	}
}

// remote reports whether the request for a is a peer's to answer.
func (x *exchange) remote(a *ask) bool {
	return !a.peer && x.shield != nil && len(x.shield.owners(spot(a.route, a.key))) > 0
}

// freshen is a stored response after a 304: RFC 9111 4.3.4.
func (x *exchange) freshen(a *ask, old *Meta, h http.Header, asked, answered time.Time) (*Meta, []string) {
	merged := policy.Update(old.Fields.header(), h)
	r := policy.Judge(http.MethodGet, a.header.Get("Authorization") != "", policy.Response{Status: old.Status, Header: merged, Asked: asked, Answered: answered})
	m := *old
	m.Fields, m.Answered, m.Age, m.Stored = makeFields(merged, r.Hide), answered, r.Age, r.Keep(answered, errorFor)
	m.times(merged)
	m.Epoch, m.Tags = a.epoch, makeTags(&m)
	return &m, policy.Fields(merged["Vary"])
}

func (m *Meta) times(h http.Header) {
	m.ModTime, m.Date = time.Time{}, m.Answered
	if t, err := http.ParseTime(h.Get("Last-Modified")); err == nil {
		m.ModTime = t
	}
	if t, err := http.ParseTime(h.Get("Date")); err == nil {
		m.Date = t
	}
}

// keep stores a response if it may and can be, and starts to fill blocks from its body, which is then no longer the
// caller's. asked is the Range that was sent, from who answered. Nil: it is to be passed on.
func (x *exchange) keep(a *ask, p *passing, r policy.Response, asked string, from Tier) (*Meta, error) {
	rules := policy.Judge(a.method, a.header.Get("Authorization") != "", r)
	not := func(why string) (*Meta, error) {
		x.refused.note(id(a.route, a.key), r.Status, why)
		return nil, nil
	}
	switch {
	case !rules.Store:
		return not(rules.Why)
	case policy.NoStore(a.header.Get("Cache-Control")):
		return not("the request says no-store")
	}
	m := &Meta{Key: a.key, Route: a.route, Status: r.Status, Answered: r.Answered, Age: rules.Age, Epoch: a.epoch, Stored: rules.Keep(r.Answered, errorFor)}
	var length int64
	var err error
	if m.First, length, m.Whole, err = extent(p.Response); err != nil {
		return nil, err
	}
	if m.Whole < 0 && r.Status != http.StatusPartialContent {
		if length, err = x.sniff(p); err != nil {
			return nil, err
		} else if length < 0 {
			return not("long, and does not say how long")
		}
		m.Whole = length
	}
	m.ETag, m.Strong = policy.Validators(r.Header, m.Whole)
	first, skip := uint32(0), int64(0)
	if r.Status == http.StatusPartialContent {
		m.Status = http.StatusOK
		said := r.Header.Get("Content-Range")
		r.Header.Del("Content-Range")
		framed := p.ContentLength
		switch {
		case framed >= 0 && framed != length && m.Strong:
			return nil, fmt.Errorf("origin sends %d bytes for a Content-Range of %d: %w", framed, length, media.ErrCorrupt)
		case framed >= 0 && framed != length:
			// Framing and Content-Range differ: what came is what is held. An end that the range was said to reach is then
			// where the bytes end; nothing else is claimed of the representation.
			if m.First+length == m.Whole {
				m.Whole = m.First + framed
			}
			length = framed
		}
		switch {
		case m.Whole < 0:
			return not("part of a whole of unknown length")
		case m.Strong: // whole blocks of it, to be combined with others: RFC 9110 15.3.7.3
			first = uint32((m.First + BlockSize - 1) / BlockSize)
			skip = int64(first)*BlockSize - m.First
			length += m.First
			m.First, m.Size = 0, m.Whole
		default:
			m.Size, m.Asked, m.Said = length, asked, said
		}
	} else {
		m.Size = m.Whole
	}
	ranges := p.StatusCode == http.StatusPartialContent || strings.Contains(strings.ToLower(r.Header.Get("Accept-Ranges")), "bytes")
	if m.Size > x.loose && !(m.Strong && ranges) {
		return not("too large to be held without ranges and a strong validator")
	}
	m.Fields = makeFields(r.Header, rules.Hide)
	m.times(r.Header)
	vary := policy.Fields(r.Header["Vary"])
	m.identify(policy.Variant(vary, a.field), x.metas.purges)
	count := wholeBlocks(m.Size, length) - int64(first)
	if m.Strong && ranges {
		count = min(count, maxFill)
		if from, _, ok := plainRange(a.plan.Range); ok && from/BlockSize >= int64(first)+count {
			count = 0 // far from what is wanted: that is fetched by its own range
		}
	}
	// The blocks first, then the Meta: who finds it must find them on their way.
	x.fills.adopt(m, first, int(max(0, count)), skip, from, p, func() { x.metas.forget(m.Route, m.Key) })
	x.metas.put(m, vary, a.field)
	x.refused.note(id(a.route, a.key), r.Status, "")
	if len(rules.Hide) > 0 { // what may not be stored is for this one player
		own := *m
		own.Fields = makeFields(r.Header, nil)
		m = &own
	}
	return m, nil
}

// wholeBlocks is how many blocks, from the first, lie within the first length bytes of an object of that size.
func wholeBlocks(size, length int64) int64 {
	if length >= size {
		return (size + BlockSize - 1) / BlockSize
	}
	return length / BlockSize
}

// sniff finds the length of a short response that does not say it. -1: it is long, and all of it is still to be read.
func (x *exchange) sniff(p *passing) (int64, error) {
	head, err := io.ReadAll(io.LimitReader(p.Body, sniff+1))
	if err != nil {
		return 0, err
	}
	rest := p.Body
	p.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(head), rest), rest}
	if len(head) > sniff {
		return -1, nil
	}
	return int64(len(head)), nil
}

// widen turns a player's Range into the one to ask an origin for when nothing is known of the object: the blocks that
// it touches. What has no plain form is asked for as it is, and so is everything when exact is set.
func widen(field string, exact bool) string {
	if field == "" || exact {
		return field
	}
	first, last, ok := plainRange(field)
	if !ok {
		return field
	}
	out := "bytes=" + strconv.FormatInt(first/BlockSize*BlockSize, 10) + "-"
	if last >= 0 {
		out += strconv.FormatInt(last/BlockSize*BlockSize+BlockSize-1, 10)
	}
	return out
}

// plainRange reads "bytes=a-b" and "bytes=a-", where last is -1.
func plainRange(field string) (first, last int64, ok bool) {
	spec, ok := strings.CutPrefix(field, "bytes=")
	if !ok {
		return 0, 0, false
	}
	from, to, ok := strings.Cut(spec, "-")
	first, err := strconv.ParseInt(from, 10, 64)
	if !ok || err != nil || first < 0 {
		return 0, 0, false
	}
	if to == "" {
		return first, -1, true
	}
	last, err = strconv.ParseInt(to, 10, 64)
	return first, last, err == nil && last >= first && last < 1<<62
}

// narrow cuts a partial response to a range that was widened back to what the player asked for.
func narrow(resp *http.Response, wanted, asked string) error {
	if resp.StatusCode != http.StatusPartialContent || wanted == asked {
		return nil
	}
	first, last, ok := plainRange(wanted)
	from, length, whole, err := extent(resp)
	if !ok || err != nil || from > first || from+length <= first {
		return fmt.Errorf("origin answers %s with %q: %w", asked, resp.Header.Get("Content-Range"), media.ErrCorrupt)
	}
	if last < 0 || last >= from+length {
		last = from + length - 1
	}
	if _, err := io.CopyN(io.Discard, resp.Body, first-from); err != nil {
		return err
	}
	total := "*"
	if whole >= 0 {
		total = strconv.FormatInt(whole, 10)
	}
	resp.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%s", first, last, total))
	resp.ContentLength = last - first + 1
	body := resp.Body
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(body, resp.ContentLength), body}
	return nil
}

// end waits for what runs behind answers.
func (x *exchange) end() {
	x.stop()
	x.behind.Wait()
}

// hidden are request fields that end at this edge: they steer the cache or describe the player to it.
var hidden = []string{"Host", "Content-Length", "Expect", "Cmcd-Request", "Cmcd-Object", "Cmcd-Status", "Cmcd-Session", "Segue-Peer", purgedTo, routedTo}

func endsHere(name string) bool { return slices.Contains(hidden, name) }
