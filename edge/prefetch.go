package edge

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"segue/edge/cmcd"
	"segue/edge/policy"
	"segue/media"
	"segue/media/cat"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"
)

// ahead fetches what players will probably ask for next: the blocks after those of a reader whose ranges follow each
// other, the start of a file whose head was asked for, and the objects that a player names in CMCD (nor, nrr). It goes
// through the same Source as players, only when nobody waits for an origin, a few at a time, and what is not asked for
// within a minute counts as wasted. A prefetch that there is no room for is dropped: nothing ever waits for one.
type ahead struct {
	door    *door
	idle    func() bool // nobody waits for an origin
	limit   int64       // blocks that were fetched ahead and not asked for yet
	timeout time.Duration
	life    context.Context
	stop    context.CancelFunc
	slots   chan struct{}
	running sync.WaitGroup
	readers [1 << 12]reading

	open  atomic.Int64 // len(early): a request looks no further when there are none
	mu    sync.Mutex   // guards the fields below
	ended bool
	early map[BlockKey]time.Time // fetched ahead, not asked for yet
	queue []BlockKey             // keys of early, the oldest first; some may have left it

	count *prometheus.CounterVec // blocks
}

// reading is where a reader's last range of an object ended. Two readers in one place cost a prefetch, never a wrong byte.
type reading struct {
	who atomic.Uint64
	end atomic.Int64
}

const (
	aheadSlots  = 4
	aheadBlocks = 4 // of one prefetch, at most
	aheadLife   = time.Minute
	aheadGap    = 64 << 10 // between two ranges that follow each other: an index may stand there
	aheadNext   = 2        // objects of one CMCD list
)

func newAhead(d *door, memory int64, idle func() bool, timeout time.Duration, reg prometheus.Registerer) *ahead {
	life, stop := context.WithCancel(context.Background())
	p := &ahead{door: d, idle: idle, limit: max(1, memory/16/BlockSize), timeout: timeout, life: life, stop: stop, slots: make(chan struct{}, aheadSlots), early: map[BlockKey]time.Time{},
		count: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "segue_edge_prefetch_blocks_total",
			Help: "Blocks fetched before they were asked for: started, then used (asked for within a minute) or wasted; dropped: there was no room, or the edge was busy."}, []string{"result"})}
	for _, result := range []string{"started", "used", "wasted", "dropped"} {
		p.count.WithLabelValues(result)
	}
	reg.MustRegister(p.count)
	return p
}

// served hears of every reply that has bytes: length of them from offset of what m's blocks hold.
func (p *ahead) served(ctx *fasthttp.RequestCtx, m *Meta, offset, length int64) {
	if p.open.Load() > 0 {
		p.use(m, uint32(offset/BlockSize), uint32((offset+length-1)/BlockSize))
	}
	end := offset + length
	if end >= m.Size || !m.Strong || m.part() {
		return
	}
	// One listener is one address, over all its connections; the object's name is a hash already.
	who := uint64(1)
	if a, ok := ctx.RemoteAddr().(*net.TCPAddr); ok {
		for _, b := range a.IP {
			who = (who ^ uint64(b)) * 1099511628211
		}
	}
	for _, b := range m.Object[:8] {
		who = (who ^ uint64(b)) * 1099511628211
	}
	r := &p.readers[who>>32%uint64(len(p.readers))]
	gap := offset - r.end.Load()
	follows := r.who.Load() == who && gap >= 0 && gap <= aheadGap
	head := offset == 0 && length <= aheadGap
	r.who.Store(who)
	r.end.Store(end)
	if follows || head {
		first, more := uint32(end/BlockSize), length
		if head {
			more = BlockSize
		}
		last := uint32((min(end+more, m.Size) - 1) / BlockSize)
		p.run(m, first, min(last, first+aheadBlocks-1))
	}
}

// run fetches those of the blocks that are not in memory.
func (p *ahead) run(m *Meta, first, last uint32) {
	first, last, ok := p.missing(m, first, last)
	if !ok || !p.enter(int(last-first)+1) {
		return
	}
	go func() {
		defer p.leave()
		if first, last, ok := p.claim(m, first, last); ok {
			p.fetch(m, first, last)
		}
	}()
}

// missing narrows a run to what is neither in memory nor on its way.
func (p *ahead) missing(m *Meta, first, last uint32) (from, to uint32, ok bool) {
	there := func(n uint32) bool {
		key := BlockKey{m.Object, n}
		if p.door.memory.Has(key) {
			return true
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		_, coming := p.early[key]
		return coming
	}
	for first <= last && there(first) {
		first++
	}
	for first < last && there(last) {
		last--
	}
	return first, last, first <= last
}

// enter takes a slot for a prefetch of n blocks, or counts it as dropped. leave must follow a yes.
func (p *ahead) enter(n int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended && p.idle() {
		select {
		case p.slots <- struct{}{}:
			p.running.Add(1)
			return true
		default:
		}
	}
	p.count.WithLabelValues("dropped").Add(float64(n))
	return false
}

// claim narrows a run to what is missing, and notes it as fetched ahead, if that is not too much.
func (p *ahead) claim(m *Meta, first, last uint32) (from, to uint32, ok bool) {
	if first, last, ok = p.missing(m, first, last); !ok {
		return 0, 0, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	n := int64(last-first) + 1
	if int64(len(p.early))+n > p.limit {
		p.count.WithLabelValues("dropped").Add(float64(n))
		return 0, 0, false
	}
	now := time.Now()
	for k := first; k <= last; k++ {
		key := BlockKey{m.Object, k}
		p.early[key] = now
		p.queue = append(p.queue, key)
	}
	p.open.Store(int64(len(p.early)))
	p.count.WithLabelValues("started").Add(float64(last-first) + 1)
	time.AfterFunc(aheadLife, func() { p.sweep(now.Add(aheadLife)) })
	return first, last, true
}

func (p *ahead) leave() {
	<-p.slots
	p.running.Done()
}

func (p *ahead) fetch(m *Meta, first, last uint32) {
	ctx, cancel := context.WithTimeout(p.life, p.timeout)
	defer cancel()
	for _, err := range p.door.source.Fetch(ctx, Want{m, first, last}) {
		if err != nil { // whoever needs it asks, and hears why; these blocks go as wasted
			return
		}
	}
}

// use counts blocks of a reply that were fetched ahead.
func (p *ahead) use(m *Meta, first, last uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := first; n <= last && len(p.early) > 0; n++ {
		if key := (BlockKey{m.Object, n}); !p.early[key].IsZero() {
			delete(p.early, key)
			p.count.WithLabelValues("used").Inc()
		}
	}
	p.open.Store(int64(len(p.early)))
}

// sweep gives up on the blocks that nobody asked for in their time.
func (p *ahead) sweep(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.queue) > 0 {
		at, waiting := p.early[p.queue[0]]
		if waiting && now.Sub(at) < aheadLife {
			break
		}
		if waiting {
			delete(p.early, p.queue[0])
			p.count.WithLabelValues("wasted").Inc()
		}
		p.queue = p.queue[1:]
	}
	p.open.Store(int64(len(p.early)))
}

func (p *ahead) counts() map[string]float64 { return byLabel(p.count, "result") }

// hint prefetches what a player says in CMCD that it will ask for next. What it names is looked up as a request of its
// own would be: on this edge and route, under the same token.
func (p *ahead) hint(ctx *fasthttp.RequestCtx, t target, raw string) {
	field := ctx.Request.Header.Peek("CMCD-Request")
	_, query, _ := strings.Cut(raw, "?")
	if len(field) == 0 && !strings.Contains(query, "CMCD=") || !ctx.IsGet() {
		return
	}
	var said cmcd.Data
	said.AddQuery(query)
	said.AddText(string(field))
	for _, next := range said.Next[:min(len(said.Next), aheadNext)] {
		if to, first, last, ok := p.resolve(t, raw, next); ok {
			p.object(ctx, to, first, last)
		}
	}
}

// resolve finds what a "next object" names; last is -1 for "to the end".
func (p *ahead) resolve(t target, raw string, next cmcd.Next) (to target, first, last int64, ok bool) {
	if last = -1; next.Range != "" {
		if first, last, ok = plainRange("bytes=" + next.Range); !ok {
			return to, 0, 0, false
		}
	}
	if next.Path == "" {
		return t, first, last, next.Range != ""
	}
	path, _, _ := strings.Cut(raw, "?")
	base, err := url.Parse(path)
	if err != nil {
		return to, 0, 0, false
	}
	ref, err := url.Parse(next.Path)
	if err != nil || ref.Scheme != "" || ref.Host != "" || ref.User != nil || ref.Opaque != "" || strings.HasPrefix(next.Path, "//") {
		return to, 0, 0, false // elsewhere
	}
	to, err = p.door.locate(base.ResolveReference(ref).RequestURI())
	if err != nil || to.route != t.route || to.token != t.token {
		return to, 0, 0, false
	}
	if d := p.door; d.gate != nil && !to.route.Public && media.Key(to.key).Protected() {
		if _, err := d.gate.allow(to.token, &cat.Request{Method: http.MethodGet, Key: media.Key(to.key)}, time.Now()); err != nil {
			return to, 0, 0, false
		}
	}
	return to, first, last, true
}

// object fetches a range of an object, if there is room.
func (p *ahead) object(ctx *fasthttp.RequestCtx, t target, first, last int64) {
	var a *ask
	t.key, t.token = strings.Clone(t.key), "" // they may be borrowed
	if t.route.http() != nil {
		h := requestHeader(ctx)
		if h.Get("Authorization") != "" {
			return
		}
		for _, name := range []string{"Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "Cache-Control", "Pragma"} {
			h.Del(name)
		}
		a = &ask{method: http.MethodGet, route: t.route, key: t.key, header: h, begun: time.Now()}
		if end := first/BlockSize*BlockSize + aheadBlocks*BlockSize - 1; last < 0 || last > end {
			last = end
		}
		a.plan = policy.Request{Method: http.MethodGet, Range: "bytes=" + strconv.FormatInt(first, 10) + "-" + strconv.FormatInt(last, 10)}
	}
	if !p.enter(1) {
		return
	}
	go func() {
		defer p.leave()
		m := p.find(t, a)
		if m == nil || m.Status != http.StatusOK || !m.Strong || m.part() || first >= m.Size {
			return
		}
		if last < 0 || last >= m.Size {
			last = m.Size - 1
		}
		from := uint32(first / BlockSize)
		if from, to, ok := p.claim(m, from, min(uint32(last/BlockSize), from+aheadBlocks-1)); ok {
			p.fetch(m, from, to)
		}
	}()
}

// find returns the Meta of an object; an HTTP origin is asked with a.
func (p *ahead) find(t target, a *ask) *Meta {
	d := p.door
	if a == nil {
		ctx, cancel := context.WithTimeout(p.life, p.timeout)
		defer cancel()
		m, _, err := d.metas.stat(ctx, t.route, t.key)
		if err != nil {
			return nil
		}
		return m
	}
	m := d.metas.find(t.route, t.key, a.field)
	if m != nil && m.Use(time.Now()) != policy.Validate {
		return m
	}
	if m != nil && m.Status == 0 || p.life.Err() != nil { // its responses may not be stored
		return nil
	}
	o, err := d.exchange.fetch(a, m)
	if err != nil {
		return nil
	}
	if o.response != nil {
		o.response.Close()
	}
	return o.meta
}

// end stops all prefetches and returns when they have ended.
func (p *ahead) end() {
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	p.stop()
	p.running.Wait()
}
