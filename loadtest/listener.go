package loadtest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"segue/controlplane/api"
	"segue/media"
)

// listener is one person with one player, for one session. Only one goroutine at a time has it.
type listener struct {
	e     *engine
	ctx   context.Context
	id    int
	pcg   rand.PCG
	due   time.Duration // when it wants to be woken
	ready time.Duration // when that was known
	ends  time.Duration // of the session

	account *account
	edge    wire // to the edge in use
	control wire
	bps     float64 // throughput seen, smoothed
	steered bool    // its player knows Content Steering
	scraper bool
	shown   int // tracks it went through, when it is a scraper
	play    *play
	next    *play // fetched ahead
}

// play is one track in the player.
type play struct {
	grant    api.Playback
	track    int
	variants []string // names, by rising bit rate
	rates    []int    // bit/s of these
	at       int      // of variants: in use
	tape     *tape
	places   []pathway
	place    int // of places: in use

	began   time.Duration // when position 0 was heard, had nobody paused, stalled or sought since
	from    int           // segment that is fetched next
	fetched time.Duration // when the last one was there
	leaves  time.Duration // position at which it is left
	natural bool          // that is its end
	seekAt  time.Duration // position; negative: never
	pauseAt time.Duration
	paused  time.Duration // moment at which it goes on; 0: it plays
	report  time.Duration // moment of the next progress
	heard   time.Duration // played before the last seek or progress
	mark    time.Duration // position from which heard counts on
	steerAt time.Duration // moment; 0: never
	steer   string
	events  []api.Event
	ahead   bool // the next one was asked for
}

// pathway is one edge that has the track.
type pathway struct {
	id    string
	base  string        // folder, with its trailing slash
	until time.Duration // it failed: not before this moment
}

const (
	progressEvery = 15 * time.Second // as the web player
	aheadOfEnd    = 10 * time.Second // the next track is fetched so long before the end
	penalty       = time.Minute      // of an edge that failed; Shaka's
	firstGuessBps = 1e6              // throughput before anything was measured; hls.js takes 500 kbit/s, dash.js 1 Mbit/s for audio
	usable        = 0.8              // part of the throughput that a rendition may take; hls.js: abrBandWidthUpFactor 0.7, down 0.95
)

// rng draws for this listener alone, so that a run with the same seed has the same people in it.
func (l *listener) rng() *rand.Rand { return rand.New(&l.pcg) }

func (l *listener) chance(p float64) bool { return p > 0 && l.rng().Float64() < p }

func (l *listener) close() {
	if l.account != nil {
		l.e.accounts.give(l.account)
		l.e.active.Add(-1)
		l.account = nil
	}
	l.edge.close()
	l.control.close()
}

// step does what is due, and says whether there is more. It sets due.
func (l *listener) step() (more bool) {
	switch {
	case l.account == nil:
		return l.arrive()
	case l.scraper:
		return l.scrape()
	case l.play == nil:
		return l.press()
	}
	return l.listen()
}

// arrive begins a session.
func (l *listener) arrive() bool {
	e := l.e
	if l.account = e.accounts.take(); l.account == nil {
		e.rec.count(func(c *Counts) { c.Dropped++ })
		return false
	}
	e.active.Add(1)
	e.rec.count(func(c *Counts) { c.Arrivals++ })
	from := e.address(l.id)
	l.edge, l.control = wire{net: &e.net, from: from}, wire{net: &e.net, from: from, at: e.base}
	l.steered, l.scraper, l.bps = l.chance(e.scenario.Steered), l.chance(e.scenario.Scrapers), firstGuessBps
	meant := l.due
	if l.chance(e.scenario.SignIn) {
		if !l.api(opSignIn, meant, func() error { return e.signIn(l.ctx, &l.control, l.account) }) {
			return false
		}
		meant = e.clock.now()
	}
	if !l.fresh(meant) {
		return false
	}
	if !l.scraper && l.chance(e.scenario.Search) {
		l.search(meant)
	}
	l.due = max(e.clock.now(), l.due)
	return true
}

// fresh renews the access token when it is about to end.
func (l *listener) fresh(meant time.Duration) bool {
	if time.Now().Before(l.account.until) {
		return true
	}
	return l.api(opRefresh, meant, func() error { return l.e.refresh(l.ctx, &l.control, l.account) })
}

// api does a call to the control plane and notes it.
func (l *listener) api(op string, meant time.Duration, f func() error) bool {
	sent := l.e.clock.now()
	err := f()
	end := l.e.clock.now()
	if err != nil {
		l.failed(end, op, err)
		return false
	}
	l.e.rec.request(op, meant, sent, end, 0)
	return true
}

// failed notes an error, unless the run is over.
func (l *listener) failed(at time.Duration, op string, err error) {
	if l.ctx.Err() == nil {
		l.e.rec.failed(at, op, nameOf(err))
	}
}

// search types the beginning of a title, as a person does: a request after two letters, after four, and so on.
func (l *listener) search(meant time.Duration) {
	title := []rune(l.e.tracks[l.e.ranks.draw(l.rng())].Title)
	for n := 2; n <= min(len(title), 8); n += 2 {
		q := "/v1/search?limit=10&q=" + url.QueryEscape(string(title[:n]))
		if !l.api(opSearch, meant, func() error { return l.e.call(l.ctx, &l.control, http.MethodGet, q, l.account.token, nil, nil) }) {
			return
		}
		meant = l.e.clock.now()
	}
}

// draw chooses what is played.
func (l *listener) draw() int {
	e := l.e
	at := float64(e.clock.now()-e.from0) / float64(e.cfg.Duration)
	for _, h := range e.scenario.Hot {
		if at >= h.From && at < h.To && l.chance(h.Part) {
			// Out of the middle of the catalogue: what nobody asked for before.
			n := len(e.tracks)
			return (n/2 + l.rng().IntN(min(h.Tracks, n))) % n
		}
	}
	return e.ranks.draw(l.rng())
}

// press is somebody who presses play: from this moment on they wait.
func (l *listener) press() bool {
	e, meant := l.e, l.due
	if meant >= l.ends || l.early() {
		return false
	}
	p, err := l.load(meant)
	now := e.clock.now()
	if err != nil {
		if l.ctx.Err() == nil {
			e.rec.count(func(c *Counts) { c.Failed++ })
		}
		l.due = now + time.Second + time.Duration(l.rng().Int64N(int64(4*time.Second))) // they try something else
		return true
	}
	e.rec.moment(now, momentStartup, now-meant)
	l.sound(p, now, now-meant)
	return true
}

// early says whether this listener is one of those who leave because the scenario's numbers fall.
func (l *listener) early() bool {
	for {
		n := l.e.wanted.Load()
		if n <= 0 {
			return false
		}
		if l.e.wanted.CompareAndSwap(n, n-1) {
			return true
		}
	}
}

// sound begins to play p at a moment, after a wait.
func (l *listener) sound(p *play, at, waited time.Duration) {
	e := l.e
	l.play, l.next = p, nil
	p.began, p.report, p.mark = at, at+progressEvery, 0
	p.leaves = e.scenario.leaves(l.rng(), p.tape.length())
	p.natural = p.leaves >= p.tape.length()
	p.seekAt, p.pauseAt = -1, -1
	if l.chance(e.scenario.Seek) {
		p.seekAt = time.Duration(l.rng().Float64() * float64(p.leaves))
	}
	if l.chance(e.scenario.Pause) {
		p.pauseAt = time.Duration(l.rng().Float64() * float64(p.leaves))
	}
	if p.steer != "" {
		p.steerAt = at
	}
	e.rec.sound(at)
	l.event(at, api.EventStart, func(v *api.Event) { v.StartupMS = waited.Milliseconds() })
	l.due = at
}

// load gets a track ready to sound: grant, playlists, the head of the file and its first segment.
func (l *listener) load(meant time.Duration) (*play, error) {
	e := l.e
	if !l.fresh(meant) {
		return nil, media.ErrNoAccess
	}
	p := &play{track: l.draw()}
	t := &e.tracks[p.track]
	ok := l.api(opPlayback, meant, func() error {
		return e.call(l.ctx, &l.control, http.MethodPost, "/v1/playback", l.account.token, api.NewPlayback{TrackID: t.ID, Renditions: e.scenario.Renditions, Codecs: []string{"mp4a.40.2"}, TakeOver: true}, &p.grant)
	})
	if !ok {
		return nil, media.ErrBusy
	}
	if err := l.choose(p); err != nil {
		return nil, err
	}
	if err := l.switchTo(p, l.best(p)); err != nil {
		return nil, err
	}
	return p, l.segment(p, e.clock.now())
}

// choose reads the master playlist: which renditions there are, and where.
func (l *listener) choose(p *play) error {
	e := l.e
	folder := media.TrackPrefix(p.grant.TrackID, p.grant.Version)
	from := p.grant.HLSURL
	w := &l.edge
	if l.steered && p.grant.SteeredHLSURL != "" {
		from, w = p.grant.SteeredHLSURL, &l.control
	} else {
		for _, place := range p.grant.Pathways {
			p.places = append(p.places, pathway{id: place.ID, base: place.BaseURL + folder})
		}
	}
	if from == "" {
		return fail(kindNoPathway, "no edge")
	}
	var x exchange
	var err error
	if w == &l.control {
		x, err = l.get(opMaster, w, from, "", nil)
	} else {
		_, name, _ := cutLast(from, "/")
		x, err = l.anywhere(opMaster, p, name, "", nil)
	}
	if err != nil {
		return err
	}
	m, err := parseMaster(from, x.Body)
	if err != nil {
		l.failed(e.clock.now(), opMaster, err)
		return err
	}
	rates := map[string]int{}
	for _, v := range m.variants {
		if !strings.HasPrefix(v.name, "aac_") && len(e.scenario.Renditions) == 0 {
			continue // a player that knows AAC
		}
		rates[v.name] = v.bps
		if w == &l.control && !slices.ContainsFunc(p.places, func(o pathway) bool { return o.id == v.pathway }) {
			p.places = append(p.places, pathway{id: v.pathway, base: v.base})
		}
	}
	for name := range rates {
		p.variants = append(p.variants, name)
	}
	slices.SortFunc(p.variants, func(a, b string) int { return rates[a] - rates[b] })
	for _, name := range p.variants {
		p.rates = append(p.rates, rates[name])
	}
	if w == &l.control {
		p.steer = m.steering
		p.place = max(0, slices.IndexFunc(p.places, func(o pathway) bool { return o.id == m.first }))
	}
	if len(p.variants) == 0 || len(p.places) == 0 {
		err := fail(kindProtocol, "%s has nothing to play", from)
		l.failed(e.clock.now(), opMaster, err)
		return err
	}
	return nil
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// best is the rendition that the throughput allows.
func (l *listener) best(p *play) int {
	at := 0
	for i, bps := range p.rates {
		if float64(bps) <= usable*l.bps {
			at = i
		}
	}
	return at
}

// switchTo takes another rendition: its playlist and its head.
func (l *listener) switchTo(p *play, i int) error {
	x, err := l.anywhere(opPlaylist, p, p.variants[i]+".m3u8", "", nil)
	if err != nil {
		return err
	}
	t, err := l.e.tape(media.Key(media.TrackPrefix(p.grant.TrackID, p.grant.Version)+p.variants[i]+".m3u8"), x.Body)
	if err == nil && p.tape != nil && t.segments != p.tape.segments {
		err = fail(kindProtocol, "%s has other segments than the rendition before", t.key)
	}
	if err != nil {
		l.failed(l.e.clock.now(), opPlaylist, err)
		return err
	}
	p.tape, p.at = t, i
	_, err = l.anywhere(opInit, p, p.variants[i]+".mp4", byteRange(t.init), nil)
	return err
}

func byteRange(s media.ByteSpan) string {
	return "bytes=" + strconv.FormatInt(s.Offset, 10) + "-" + strconv.FormatInt(s.Offset+s.Size-1, 10)
}

// get fetches over one connection, and notes it.
func (l *listener) get(op string, w *wire, raw, rng string, x *exchange) (exchange, error) {
	at, path, err := split(raw)
	if err != nil {
		return exchange{}, err
	}
	if w.at != at {
		w.close()
		w.at = at
	}
	if x == nil {
		x = &exchange{keep: op != opInit}
	}
	x.method, x.path, x.headers = http.MethodGet, path, ""
	if rng != "" {
		x.headers = "Range: " + rng + "\r\n"
	}
	e := l.e
	sent := e.clock.now()
	err = w.do(l.ctx, x)
	end := e.clock.now()
	switch {
	case err != nil:
	case x.Status >= 400:
		err = x.refused()
	case x.Status >= 300 || rng != "" && x.Status != http.StatusPartialContent:
		err = &refusal{status: x.Status, text: "unexpected"}
	}
	if err != nil {
		l.failed(end, op, err)
		return *x, err
	}
	if op != opSegment { // its intended moment is known to the caller
		e.rec.request(op, sent, sent, end, x.Bytes)
	}
	if w == &l.edge && (op == opSegment || op == opInit || op == opScrape) {
		e.rec.media(end, tierOf(x.CacheStatus), x.Bytes)
	}
	return *x, nil
}

// anywhere fetches a file of the play's folder from the pathway in use, or from the next ones that may work.
func (l *listener) anywhere(op string, p *play, file, rng string, again func() *exchange) (exchange, error) {
	e := l.e
	tried := 0
	for {
		now := e.clock.now()
		i := l.usablePlace(p, now)
		if i < 0 || tried > len(p.places) {
			err := fail(kindNoPathway, "none of %d edges has %s", len(p.places), file)
			l.failed(now, op, err)
			return exchange{}, err
		}
		p.place = i
		var x *exchange
		if again != nil {
			x = again()
		}
		got, err := l.get(op, &l.edge, p.places[i].base+file, rng, x)
		if err == nil || l.ctx.Err() != nil {
			return got, err
		}
		p.places[i].until = e.clock.now() + penalty
		tried++
		if l.usablePlace(p, e.clock.now()) >= 0 {
			e.rec.count(func(c *Counts) { c.Failovers++ })
		}
	}
}

// usablePlace is the pathway to use: the one in use, else the first that did not fail lately.
func (l *listener) usablePlace(p *play, now time.Duration) int {
	if p.place < len(p.places) && p.places[p.place].until <= now {
		return p.place
	}
	return slices.IndexFunc(p.places, func(o pathway) bool { return o.until <= now })
}

// segment fetches the next one. meant is when it was to be asked for.
func (l *listener) segment(p *play, meant time.Duration) error {
	e := l.e
	n := p.from
	span := p.tape.spans[n]
	var sum *exchange
	sampled := e.cfg.Verify > 0 && l.chance(e.cfg.Verify)
	fresh := func() *exchange {
		sum = &exchange{}
		if sampled {
			sum.hash = sha256.New()
		}
		return sum
	}
	file := p.variants[p.at] + ".mp4?CMCD=" + url.QueryEscape(l.cmcd(p, meant))
	sent := e.clock.now()
	x, err := l.anywhere(opSegment, p, file, byteRange(span), fresh)
	end := e.clock.now()
	if err == nil && x.Bytes != span.Size {
		err = fail(kindShort, "%d of %d bytes", x.Bytes, span.Size)
		l.failed(end, opSegment, err)
	}
	if err != nil {
		return err
	}
	e.rec.request(opSegment, meant, sent, end, x.Bytes)
	if sampled {
		s := reference{key: p.tape.key, grant: p.places[p.place].base, span: span}
		copy(s.sum[:], sum.hash.Sum(nil))
		e.rec.keep(s)
	}
	if took := (end - sent).Seconds(); took > 0 {
		l.bps += .3 * (float64(x.Bytes)*8/max(took, 1e-4) - l.bps)
	}
	p.from, p.fetched = n+1, end
	return nil
}

// cmcd is what a player says of itself with a segment request (CTA-5004).
func (l *listener) cmcd(p *play, now time.Duration) string {
	start := p.tape.starts[p.from]
	ahead := time.Duration(0)
	if p.began > 0 {
		ahead = max(0, start-l.position(p, now))
	}
	return fmt.Sprintf(`bl=%d,br=%d,cid="%s",d=%d,mtp=%d,ot=a,sf=h,sid="%s",st=v`, ahead.Milliseconds()/100*100, p.rates[p.at]/1000, p.grant.TrackID,
		(p.tape.starts[p.from+1] - start).Milliseconds(), int(l.bps/1000)/100*100, p.grant.PlayID)
}

// position is where in the track the ear is.
func (l *listener) position(p *play, now time.Duration) time.Duration {
	if p.paused > 0 {
		return p.pauseAt
	}
	return now - p.began
}

// listen does what is due of a play: it ends, is sought in, paused, reported, steered, fetched.
func (l *listener) listen() bool {
	e, p, meant := l.e, l.play, l.due
	ends := min(p.began+p.leaves, max(l.ends, p.began))
	if p.paused > 0 {
		ends = max(p.paused, l.ends) // nobody leaves in a pause but at its end
	}
	switch {
	case p.paused == 0 && meant >= ends:
		return l.leave(meant)
	case p.paused > 0 && meant >= p.paused:
		p.began += p.paused - p.began - p.pauseAt
		p.paused, p.pauseAt = 0, -1
		l.event(meant, api.EventResume, nil)
	case p.paused == 0 && p.pauseAt >= 0 && meant >= p.began+p.pauseAt:
		p.pauseAt = meant - p.began
		p.paused = meant + time.Duration(l.rng().ExpFloat64()*float64(e.scenario.PauseFor)) + time.Millisecond
		e.rec.count(func(c *Counts) { c.Pauses++ })
		l.event(meant, api.EventPause, nil)
		l.flush(meant)
	case p.paused == 0 && p.seekAt >= 0 && meant >= p.began+p.seekAt:
		if !l.seek(meant) {
			return l.broken(meant)
		}
	case p.steerAt > 0 && meant >= p.steerAt:
		l.follow(meant)
	case p.paused == 0 && meant >= p.report:
		p.report += progressEvery
		if !l.fresh(meant) {
			return l.broken(meant)
		}
		l.event(meant, api.EventProgress, nil)
		l.flush(meant)
	case p.paused == 0 && l.wantsNext(meant):
		p.ahead = true
		if next, err := l.load(meant); err == nil {
			l.next = next
		}
	case p.from < p.tape.segments && meant >= l.fetchAt(p):
		if !l.fetch(meant) {
			return l.broken(meant)
		}
	}
	l.due = l.soonest()
	return true
}

// wantsNext: the track will be heard out, its end is near and all of it is here.
func (l *listener) wantsNext(now time.Duration) bool {
	p := l.play
	return p.natural && !p.ahead && p.from == p.tape.segments && now >= p.began+p.leaves-aheadOfEnd && p.began+p.leaves < l.ends
}

// fetchAt is when the next segment is asked for: when there is room for it in the buffer.
func (l *listener) fetchAt(p *play) time.Duration {
	at := p.began + p.tape.starts[p.from] - l.e.scenario.Buffer
	if p.paused > 0 && p.tape.starts[p.from] > p.pauseAt+l.e.scenario.Buffer {
		return p.paused
	}
	return at
}

// soonest is the next moment at which something is due.
func (l *listener) soonest() time.Duration {
	p := l.play
	next := time.Duration(1<<63 - 1)
	if p.steerAt > 0 {
		next = min(next, p.steerAt)
	}
	if p.from < p.tape.segments {
		at := l.fetchAt(p)
		if at < p.fetched { // the buffer is being filled: the next one follows the last
			at = p.fetched
		}
		next = min(next, at)
	}
	if p.paused > 0 {
		return min(next, p.paused)
	}
	for _, at := range []time.Duration{p.seekAt, p.pauseAt} {
		if at >= 0 {
			next = min(next, p.began+at)
		}
	}
	if p.natural && !p.ahead && p.from == p.tape.segments && p.began+p.leaves < l.ends {
		next = min(next, max(p.began+p.leaves-aheadOfEnd, p.fetched))
	}
	return min(next, p.report, max(min(p.began+p.leaves, l.ends), p.began))
}

// fetch gets the next segment. Where it comes after the ear needs it, the ear heard nothing meanwhile.
func (l *listener) fetch(meant time.Duration) bool {
	p := l.play
	if i := l.best(p); i != p.at {
		l.e.rec.count(func(c *Counts) { c.Switches++ })
		if err := l.switchTo(p, i); err != nil {
			return false
		}
		l.event(meant, api.EventRendition, nil)
	}
	needed := p.began + p.tape.starts[p.from]
	if p.paused > 0 {
		needed = p.paused + p.tape.starts[p.from] - p.pauseAt
	}
	err := l.segment(p, meant)
	for try := 0; err != nil && l.ctx.Err() == nil && try < 3; try++ { // every edge failed: ask for others
		if !l.renew(meant) {
			return false
		}
		err = l.segment(p, meant)
	}
	if err != nil {
		return false
	}
	if late := p.fetched - needed; late > 0 {
		l.e.rec.moment(p.fetched, momentStall, late)
		p.began += late
		l.event(p.fetched, api.EventStall, func(v *api.Event) { v.StallMS = late.Milliseconds() })
	}
	return true
}

// renew asks for the edges that are best now.
func (l *listener) renew(meant time.Duration) bool {
	e, p := l.e, l.play
	var g api.Playback
	if !l.fresh(meant) || !l.api(opRenew, meant, func() error {
		return e.call(l.ctx, &l.control, http.MethodPost, "/v1/playback/"+p.grant.PlayID+"/renew", l.account.token, api.RenewPlayback{Renditions: e.scenario.Renditions, Codecs: []string{"mp4a.40.2"}}, &g)
	}) {
		return false
	}
	p.places, p.place = nil, 0
	for _, place := range g.Pathways {
		p.places = append(p.places, pathway{id: place.ID, base: place.BaseURL + media.TrackPrefix(g.TrackID, g.Version)})
	}
	return len(p.places) > 0
}

// broken ends a play that cannot go on.
func (l *listener) broken(meant time.Duration) bool {
	if l.ctx.Err() != nil {
		return false
	}
	l.e.rec.count(func(c *Counts) { c.Failed++ })
	l.event(meant, api.EventError, func(v *api.Event) { v.Message = "no segment" })
	l.event(meant, api.EventEnd, nil)
	l.flush(meant)
	l.play, l.next = nil, nil
	l.due = l.e.clock.now() + time.Second
	return true
}

// seek goes elsewhere in the track and waits for the segment there.
func (l *listener) seek(meant time.Duration) bool {
	e, p := l.e, l.play
	l.hear(meant)
	to := l.rng().IntN(p.tape.segments)
	p.from = to
	if err := l.segment(p, meant); err != nil {
		return false
	}
	now := e.clock.now()
	e.rec.moment(now, momentSeek, now-meant)
	e.rec.count(func(c *Counts) { c.Seeks++ })
	start := p.tape.starts[to]
	left := p.leaves - p.seekAt // so much more was to be heard
	p.began, p.seekAt, p.mark = now-start, -1, start
	if p.natural || start+left >= p.tape.length() {
		p.leaves, p.natural = p.tape.length(), true
	} else {
		p.leaves = start + left
	}
	if p.pauseAt >= 0 && p.pauseAt < start {
		p.pauseAt = -1
	}
	l.event(now, api.EventSeek, nil)
	return true
}

// hear adds what was heard since the last time.
func (l *listener) hear(now time.Duration) {
	p := l.play
	at := min(max(l.position(p, now), p.mark), p.tape.length())
	heard := at - p.mark
	p.heard += heard
	p.mark = at
	l.e.rec.count(func(c *Counts) { c.PlayedS += heard.Seconds() })
}

// leave ends a play: its track is over, or somebody had enough of it, or of listening.
func (l *listener) leave(meant time.Duration) bool {
	e, p := l.e, l.play
	over := p.natural && meant >= p.began+p.leaves
	l.event(meant, api.EventEnd, nil)
	if !over && meant < l.ends {
		e.rec.count(func(c *Counts) { c.Skips++ })
	}
	l.flush(meant)
	next := l.next
	l.play, l.next = nil, nil
	if meant >= l.ends || l.early() {
		return false
	}
	if over && next != nil { // it was here before it was needed
		e.rec.moment(meant, momentGap, 0)
		l.sound(next, meant, 0)
		return true
	}
	if over { // nobody presses: but there is silence until it sounds
		now := meant
		p, err := l.load(meant)
		if now = e.clock.now(); err != nil {
			l.due = now + time.Second
			return true
		}
		e.rec.moment(now, momentGap, now-meant)
		l.sound(p, now, now-meant)
		return true
	}
	l.due = meant // they skip: the next one is pressed at once
	return true
}

// event notes what the player saw, for the next batch.
func (l *listener) event(at time.Duration, what string, more func(*api.Event)) {
	p := l.play
	l.hear(at)
	when := l.e.clock.at(at)
	v := api.Event{ID: ulid.Make().String(), PlayID: p.grant.PlayID, Type: what, At: when, PositionMS: p.mark.Milliseconds(), PlayedMS: p.heard.Milliseconds(), Rendition: p.variants[p.at],
		Edge: p.places[p.place].id, Player: "segue-loadtest/1"}
	if more != nil {
		more(&v)
	}
	p.events = append(p.events, v)
}

// flush sends the events.
func (l *listener) flush(meant time.Duration) {
	p := l.play
	var got api.EventsAccepted
	batch := p.events
	if !l.api(opEvents, meant, func() error {
		return l.e.call(l.ctx, &l.control, http.MethodPost, "/v1/events", l.account.token, batch, &got)
	}) {
		return // they go with the next
	}
	p.events = nil
	l.e.rec.count(func(c *Counts) { c.Events += int64(got.Accepted) })
	if got.Rejected > 0 {
		l.e.rec.failed(l.e.clock.now(), opEvents, string(kindRejected))
	}
}

// steering is a Content Steering manifest (RFC 8216bis 7.1).
type steering struct {
	TTL      int      `json:"TTL"`
	Reload   string   `json:"RELOAD-URI"`
	Priority []string `json:"PATHWAY-PRIORITY"`
	Clones   []struct {
		ID      string `json:"ID"`
		Replace struct {
			Variants map[string]string `json:"PER-VARIANT-URIS"`
		} `json:"URI-REPLACEMENT"`
	} `json:"PATHWAY-CLONES"`
}

// follow asks the steering server, and goes where it says.
func (l *listener) follow(meant time.Duration) {
	e, p := l.e, l.play
	sep := "?"
	if strings.Contains(p.steer, "?") {
		sep = "&"
	}
	raw := p.steer + sep + "_HLS_pathway=" + url.QueryEscape(p.places[p.place].id) + "&_HLS_throughput=" + strconv.Itoa(int(l.bps))
	x, err := l.get(opSteering, &l.control, raw, "", nil)
	p.steerAt = e.clock.now() + 5*time.Minute
	if err != nil {
		if x.Status == http.StatusGone {
			p.steerAt = 0
		}
		return
	}
	var s steering
	if err := json.Unmarshal(x.Body, &s); err != nil {
		l.failed(e.clock.now(), opSteering, fail(kindProtocol, "steering: %w", err))
		return
	}
	p.steerAt = meant + time.Duration(max(s.TTL, 5))*time.Second
	if s.Reload != "" {
		p.steer = s.Reload
	}
	for _, c := range s.Clones {
		if slices.ContainsFunc(p.places, func(o pathway) bool { return o.id == c.ID }) {
			continue
		}
		for _, uri := range c.Replace.Variants {
			if base, _, ok := cutLast(uri, "/"); ok {
				p.places = append(p.places, pathway{id: c.ID, base: base + "/"})
				break
			}
		}
	}
	now := e.clock.now()
	for _, id := range s.Priority {
		i := slices.IndexFunc(p.places, func(o pathway) bool { return o.id == id })
		if i < 0 || p.places[i].until > now {
			continue
		}
		if i != p.place {
			p.place = i
			e.rec.count(func(c *Counts) { c.Moves++ })
		}
		return
	}
}

// scrape fetches a whole file and goes on to the next.
func (l *listener) scrape() bool {
	e, meant := l.e, l.due
	if meant >= l.ends || l.early() {
		return false
	}
	l.due = e.clock.now() + time.Second
	if !l.fresh(meant) {
		return true
	}
	t := &e.tracks[(l.id*7919+l.shown)%len(e.tracks)]
	l.shown++
	var g api.Playback
	if !l.api(opPlayback, meant, func() error {
		return e.call(l.ctx, &l.control, http.MethodPost, "/v1/playback", l.account.token, api.NewPlayback{TrackID: t.ID, TakeOver: true}, &g)
	}) {
		return true
	}
	if _, err := l.get(opScrape, &l.edge, g.FileURL, "", &exchange{}); err == nil {
		l.due = e.clock.now()
	}
	return true
}
