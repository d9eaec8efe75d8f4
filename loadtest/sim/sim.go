package sim

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"sync"
	"time"

	"segue/edge"
	"segue/geo"
	"segue/loadtest"
	"segue/media"
)

// Config is a fleet and its listeners. The zero value of a field is what its comment says.
type Config struct {
	People     float64         // who listen in a month; 1e6
	HoursMonth float64         // that each of them listens; 25
	Countries  []Country       // nil: the world
	Day        [24]float64     // how listening spreads over the hours of the own clock; all zero: a usual day
	Regions    []Region        // nil: sixteen places
	Popularity Popularity      // zero: Luminate
	Skip       []loadtest.Left // nil: Lamere's
	TrackS     float64         // length of a track in seconds; 200
	BufferS    float64         // that players fetch ahead, and lose at a skip, in seconds; 30
	Bps        float64         // of a rendition, with its container; 165e3
	Edge       Machine         //
	Policy     geo.Policy      //
	Reserve    float64         // part of a region's capacity that its peak leaves free; 0.3
	Origin     float64         // bit/s that the origin can send; 0: no limit
	Fail       string          // region that fails at its peak; empty: the largest; "none": none

	Plays    float64 // plays simulated per day and replica, about; 1e6
	Replicas int     // 3
	WarmDays float64 // before the day that counts, from empty caches; 1
	Seed     uint64  // 1
	AskOnce  bool    // count each play as one request for a block, and not each of its segments: what if the edge did
}

// Machine is one edge: what `segue loadtest` and `make bench` measure of real hardware.
type Machine struct {
	Memory, Disk int64   // bytes of blocks; 64 GiB, 4 TiB
	Bps          float64 // that it sends at most, sustained; 20e9
	DiskBps      float64 // that its disk reads; 16e9
	PerSecond    float64 // requests of a segment that its processors answer; 60e3
	CostMonth    float64 // of the machine; 700
	CostMbps     float64 // of traffic, per Mbit/s of the month's peak; 0.2
}

// Defaults fills what is zero.
func (c *Config) defaults() {
	c.People, c.HoursMonth = cmp.Or(c.People, 1e6), cmp.Or(c.HoursMonth, 25)
	if c.Countries == nil {
		c.Countries = world
	}
	if c.Day == [24]float64{} {
		c.Day = day
	}
	if c.Regions == nil {
		c.Regions = regions
	}
	if c.Popularity.Tracks == 0 {
		c.Popularity = Luminate()
	}
	if c.Skip == nil {
		c.Skip = []loadtest.Left{{By: 5, Part: .2414}, {By: 10, Part: .2897}, {By: 30, Part: .3505}, {By: 240, Part: .486}}
	}
	c.TrackS, c.BufferS, c.Bps, c.Reserve = cmp.Or(c.TrackS, 200), cmp.Or(c.BufferS, 30), cmp.Or(c.Bps, 165e3), cmp.Or(c.Reserve, .3)
	e := &c.Edge
	e.Memory, e.Disk = cmp.Or(e.Memory, 64<<30), cmp.Or(e.Disk, 4<<40)
	e.Bps, e.DiskBps, e.PerSecond = cmp.Or(e.Bps, 20e9), cmp.Or(e.DiskBps, 16e9), cmp.Or(e.PerSecond, 60e3)
	e.CostMonth, e.CostMbps = cmp.Or(e.CostMonth, 700), cmp.Or(e.CostMbps, .2)
	c.Plays, c.Replicas, c.WarmDays, c.Seed = cmp.Or(c.Plays, 1e6), cmp.Or(c.Replicas, 3), cmp.Or(c.WarmDays, 1), cmp.Or(c.Seed, 1)
}

func (c *Config) validate() error {
	bad := func(why string) error { return fmt.Errorf("capacity model: %s: %w", why, media.ErrInvalid) }
	sum := 0.0
	for _, v := range c.Day {
		if !(v >= 0) {
			return bad("an hour with less than nobody")
		}
		sum += v
	}
	switch {
	case !(c.People >= 1 && c.People <= 1e10) || !(c.HoursMonth > 0 && c.HoursMonth <= 720):
		return bad("want 1 to 1e10 people, who listen 0 to 720 hours a month")
	case sum == 0 || len(c.Countries) == 0 || len(c.Regions) == 0:
		return bad("want hours, countries and regions")
	case !(c.TrackS >= 8 && c.TrackS <= 7200) || !(c.Bps >= 8000 && c.Bps <= 1e8) || !(c.Reserve >= 0 && c.Reserve < 1):
		return bad("want tracks of 8 s to 2 h, 8 kbit/s to 100 Mbit/s, a reserve of 0 to 1")
	case c.Edge.Memory < edge.BlockSize || c.Edge.Bps <= 0 || c.Edge.PerSecond <= 0:
		return bad("want an edge with memory, bandwidth and requests")
	case c.Replicas < 1 || c.Replicas > 20 || !(c.Plays >= 1000 && c.Plays <= 1e9) || !(c.WarmDays >= 0 && c.WarmDays <= 60):
		return bad("want 1 to 20 replicas of 1e3 to 1e9 plays, 0 to 60 days of warming up")
	}
	for _, k := range c.Countries {
		if _, ok := geo.Centroid(k.Code); !ok || !(k.Weight >= 0) {
			return bad("country " + k.Code)
		}
	}
	if c.Fail != "" && c.Fail != "none" && !slices.ContainsFunc(c.Regions, func(r Region) bool { return r.Name == c.Fail }) {
		return bad("there is no region " + c.Fail)
	}
	return c.Popularity.Validate()
}

const segmentS = 4.0 // of a segment, as the packager cuts

// size is that of a rendition's file.
func (c *Config) size() int64 { return int64(c.TrackS * c.Bps / 8) }

// heard is the mean time of a play, in seconds.
func (c *Config) heard() float64 {
	sum, from := 0.0, loadtest.Left{}
	for _, l := range c.Skip {
		sum += (l.Part - from.Part) * math.Min((l.By+from.By)/2, c.TrackS)
		from = l
	}
	return sum + (1-from.Part)*c.TrackS
}

// perDay is plays on a day.
func (c *Config) perDay() float64 { return c.People * c.HoursMonth / 30 * 3600 / c.heard() }

// sample is what stands for the catalogue.
type sample struct {
	factor  float64 // of tracks, and of caches
	objects []object
	cdf     []float64 // of simulated plays
	scale   float64   // simulated plays per day over real ones
}

// object stands for ranks from to, of which it is one. weight is how many plays one simulated play of it is.
type object struct {
	id       edge.ObjectID
	from, to float64
	weight   float64
	spread   bool // it stands for so much that its plays have to go where those of all its tracks would
}

// mostPlays of one object per day are simulated: one in 4 s, which no cache forgets.
const mostPlays = 20_000

const (
	minTracks = 2000 // of a sample
	minBlocks = 2048 // in the memory of a simulated edge, if two of a region can have so many
)

// draw takes a sample of the catalogue for about c.Plays plays a day.
func (c *Config) draw(rng *rand.Rand) *sample {
	p := &c.Popularity
	total := p.mass(1, p.Tracks+1)
	day := c.perDay()
	// A sample of too few tracks, or too small caches, is no smaller picture of the whole: then there are more plays than asked for.
	factor := math.Min(1, math.Max(c.Plays/day, minTracks/p.Tracks))
	s := &sample{factor: factor}
	sum := 0.0
	for from := 1.0; from <= p.Tracks; {
		to := math.Min(from*2, p.Tracks+1)
		mass := p.mass(from, to) / total * day // plays a day of the octave
		n := math.Max(1, math.Round((to-from)*factor))
		for i := range int(n) {
			a, b := from+math.Floor(float64(i)/n*(to-from)), from+math.Floor(float64(i+1)/n*(to-from))
			rank := math.Floor(a + rng.Float64()*(b-a))
			plays := p.plays(rank) / total * day
			o := object{from: a, to: b, weight: plays, spread: n < 32 && b-a > 1} // weight is made of plays below
			h := rng.Uint64()
			for k := range 8 {
				o.id[k], o.id[8+k] = byte(h>>(8*k)), byte(uint64(rank)>>(8*k))
			}
			s.objects = append(s.objects, o)
		}
		// Plays of the sampled, which together stand for all of the octave.
		of := s.objects[len(s.objects)-int(n):]
		have := 0.0
		for i := range of {
			have += of[i].weight
		}
		for i := range of {
			real := of[i].weight
			of[i].weight = mass / have * real / math.Min(real, mostPlays)
			sum += math.Min(real, mostPlays)
			s.cdf = append(s.cdf, sum)
		}
		from = to
	}
	s.scale = sum / day
	return s
}

// counts are sums of one region over a time, in real plays and bytes.
type counts struct {
	plays, requests, bytes      float64
	hits                        [3]float64 // requests by memory, disk, shield
	shieldBytes, origin, disk   float64    // bytes that came from there
	distance                    float64    // km times plays
	away                        float64    // plays of its people that went to another region
	peakBps, peakReq, peakDisk  float64
	peakOrigin, peakConcurrency float64
}

// cluster is a region in the simulation: fewer edges than there are, with larger caches, so that the sum is the sampled part.
type cluster struct {
	edges  []*edge.Model
	owners edge.Owners
}

// maxEdges of a region are simulated.
const maxEdges = 6

// run is one replica.
type run struct {
	c        *Config
	s        *sample
	rng      *rand.Rand
	clusters []cluster
	nodes    []geo.Node
	place    map[string]int // node's name -> region * maxEdges + edge
	clients  []geo.Client   // by country
	scaleBps []float64      // of each region: real bit/s that one node's LoadRatio of 1 is
}

func nodeName(region string, i int) string { return fmt.Sprintf("%s-%d", region, i+1) }

func (c *Config) newRun(seed uint64, edges []int) *run {
	rng := rand.New(rand.NewPCG(c.Seed, seed))
	r := &run{c: c, rng: rng, s: c.draw(rng), place: map[string]int{}}
	for i, reg := range c.Regions {
		blocks := float64(c.Edge.Memory) / edge.BlockSize * r.s.factor * float64(edges[i])
		n := min(edges[i], max(2, min(maxEdges, int(blocks/minBlocks))))
		room := r.s.factor * float64(edges[i]) / float64(n)
		names := make([]string, n)
		cl := cluster{}
		for k := range n {
			names[k] = nodeName(reg.Name, k)
			cl.edges = append(cl.edges, edge.NewModel(int64(float64(c.Edge.Memory)*room), int64(float64(c.Edge.Disk)*room)))
			r.nodes = append(r.nodes, geo.Node{ID: names[k], Name: names[k], Region: reg.Name, URL: "http://" + names[k], At: reg.At, Healthy: true})
			r.place[names[k]] = i*maxEdges + k
		}
		cl.owners = edge.NewOwners(names)
		r.clusters = append(r.clusters, cl)
		r.scaleBps = append(r.scaleBps, c.Edge.Bps*float64(edges[i])/float64(n))
	}
	for _, k := range c.Countries {
		at, _ := geo.Centroid(k.Code)
		r.clients = append(r.clients, geo.Client{Place: geo.Place{Point: at, Country: k.Code, OK: true}})
	}
	return r
}

// rate is how many plays begin per second in a country at a time of the world, for one play a second on average in all.
func (c *Config) rate(k *Country, at time.Duration) float64 {
	hour := math.Mod(at.Hours()+k.UTC+48, 24)
	i := int(hour)
	part := hour - float64(i)
	mean := 0.0
	for _, v := range c.Day {
		mean += v / 24
	}
	weights := 0.0
	for i := range c.Countries {
		weights += c.Countries[i].Weight
	}
	return k.Weight / weights * (c.Day[i]*(1-part) + c.Day[(i+1)%24]*part) / mean
}

// leaves draws how long a play is heard, in seconds.
func (r *run) leaves() float64 {
	u, from := r.rng.Float64(), loadtest.Left{}
	for _, l := range r.c.Skip {
		if u < l.Part {
			return math.Min(from.By+(l.By-from.By)*(u-from.Part)/(l.Part-from.Part), r.c.TrackS)
		}
		from = l
	}
	return r.c.TrackS
}

const step = time.Minute

// simulate lets time pass from a moment on. After each step it calls heard with the counts of the step by region.
func (r *run) simulate(from, to time.Duration, heard func(at time.Duration, by []counts)) {
	c := r.c
	perSecond := c.perDay() * r.s.scale / 86400
	rates := make([]float64, len(c.Countries))
	for at := from; at < to; at += step {
		by := make([]counts, len(c.Regions))
		sum := 0.0
		for i := range c.Countries {
			sum += c.rate(&c.Countries[i], at)
			rates[i] = sum
		}
		sent := make([]float64, len(r.nodes))
		for range poisson(r.rng, sum*perSecond*step.Seconds()) {
			country := min(sort.SearchFloat64s(rates, r.rng.Float64()*sum), len(rates)-1)
			o := &r.s.objects[min(sort.SearchFloat64s(r.s.cdf, r.rng.Float64()*r.s.cdf[len(r.s.cdf)-1]), len(r.s.objects)-1)]
			r.play(country, o, by, sent)
		}
		for i := range r.nodes { // what the next minute's clients are told: the heartbeat
			region := r.place[r.nodes[i].Name] / maxEdges
			bps := sent[i] * 8 / step.Seconds()
			r.nodes[i].LoadRatio = min(1, .5*r.nodes[i].LoadRatio+.5*bps/r.scaleBps[region])
		}
		for i := range by {
			b := &by[i]
			b.peakBps, b.peakReq = b.bytes*8/step.Seconds(), b.requests/step.Seconds()
			b.peakDisk, b.peakOrigin = b.disk*8/step.Seconds(), b.origin*8/step.Seconds()
			b.peakConcurrency = b.peakBps / c.Bps
		}
		heard(at, by)
	}
}

// play is one play: where it is sent, and what its requests find there.
func (r *run) play(country int, o *object, by []counts, sent []float64) {
	c := r.c
	client := r.clients[country]
	rank := o.from
	if o.spread {
		rank = math.Floor(o.from + r.rng.Float64()*(o.to-o.from))
	}
	client.Object = fmt.Sprintf("%x/%.0f", o.id[:4], rank)
	client.ID = fmt.Sprintf("%x", r.rng.Uint64())
	d := geo.Decide(client, r.nodes, c.Policy)
	if len(d.Picks) == 0 {
		return
	}
	at := r.place[d.Picks[0].Name]
	region, node := at/maxEdges, at%maxEdges
	b := &by[region]
	w := o.weight
	b.plays += w
	b.distance += w * d.Picks[0].DistanceKm
	if d.Picks[0].Region != d.Home {
		b.away += w
	}
	bytes, got := r.clusters[region].Play(node, o.id, c.size(), int64(math.Min(r.leaves()+c.BufferS, c.TrackS)*c.Bps/8), int64(segmentS*c.Bps/8), c.AskOnce)
	b.requests += w * float64(got.Requests)
	b.bytes += w * float64(bytes)
	b.origin += w * float64(got.OriginBytes)
	b.shieldBytes += w * float64(got.ShieldBytes)
	b.disk += w * float64(got.DiskBytes)
	for i := range b.hits {
		b.hits[i] += w * float64(got.Hits[i])
	}
	for i := range r.nodes {
		if r.nodes[i].Name == d.Picks[0].Name {
			sent[i] += w * float64(bytes)
			break
		}
	}
}

// Found is what the requests of one play found.
type Found struct {
	Requests                            int
	Hits                                [3]int // requests by memory, disk, shield: the tier of their first block
	DiskBytes, ShieldBytes, OriginBytes int64  // of blocks that came from there
}

// head is what a player asks of a file before its first segment: ftyp and moov.
const head = 700

// Play is a play of heard bytes of an object on one edge: the head, then segment by segment. As on an edge, one that follows
// another has what comes next fetched ahead.
func (cl *cluster) Play(node int, id edge.ObjectID, size, heard, segment int64, once bool) (bytes int64, f Found) {
	const block = edge.BlockSize
	last := uint32((size - 1) / block)
	took := int64(-1) // the last block that this play asked for
	take := func(n uint32, count bool) {
		if n > last || once && int64(n) <= took {
			if count {
				f.Hits[0]++
			}
			return
		}
		took = max(took, int64(n))
		k := edge.BlockKey{Object: id, Block: n}
		length := min(block, size-int64(n)*block)
		tier := cl.edges[node].Ask(k, size)
		where := 0
		switch tier {
		case edge.TierMemory:
		case edge.TierDisk:
			where = 1
			f.DiskBytes += length
		default:
			where = 3
			if owner := cl.owners.Of(id); owner != node {
				switch cl.edges[owner].Ask(k, size) {
				case edge.TierMemory:
					where = 2
				case edge.TierDisk:
					where = 2
					f.DiskBytes += length
				}
				f.ShieldBytes += length
			}
			if where == 3 {
				f.OriginBytes += length
			}
		}
		if count && where < 3 {
			f.Hits[where]++
		}
	}
	ahead := func(from, to int64) { // fetched, if it is not there; no request of a player
		for n := from / block; n <= (min(to, size)-1)/block; n++ {
			if !cl.edges[node].Holds(edge.BlockKey{Object: id, Block: uint32(n)}) {
				take(uint32(n), false)
			}
		}
	}
	f.Requests++
	bytes = head
	take(0, true)
	ahead(head, head+block)
	end := min(size, max(heard, segment))
	for at := int64(head); at < end; at += segment {
		to := min(at+segment, size)
		f.Requests++
		bytes += to - at
		take(uint32(at/block), true)
		if (to-1)/block != at/block {
			take(uint32((to-1)/block), false)
		}
		if to < size {
			ahead(to, to+segment)
		}
	}
	return bytes, f
}

// poisson draws a count.
func poisson(rng *rand.Rand, mean float64) int {
	if mean > 500 {
		return max(0, int(math.Round(mean+math.Sqrt(mean)*rng.NormFloat64())))
	}
	n := 0
	for t := rng.ExpFloat64(); t < mean; t += rng.ExpFloat64() {
		n++
	}
	return n
}

// parallel runs f for 0 to n-1, as many at once as there are processors.
func parallel(n, most int, f func(int)) {
	slots := make(chan struct{}, most)
	var all sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		all.Go(func() {
			f(i)
			<-slots
		})
	}
	all.Wait()
}
