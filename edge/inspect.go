package edge

import (
	"encoding/hex"
	"net/http"
	"net/url"
	"runtime"
	"sort"
	"strings"
	"sync"
	"time"

	"segue/edge/policy"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Inspection is what an edge knows of one URL.
type Inspection struct {
	Route    string    `json:"route"` // its prefix
	Key      string    `json:"key"`
	State    string    `json:"state"` // fresh, stale, negative, pass (its responses may not be stored), varies, none
	VariesBy []string  `json:"varies_by,omitempty"`
	Stored   []Stored  `json:"stored"` // one per variant
	Last     *Decision `json:"last,omitempty"`
}

// Stored is one stored response.
type Stored struct {
	State         string        `json:"state"` // fresh, stale, negative, purged
	Status        int           `json:"status"`
	SizeBytes     int64         `json:"size_bytes"`
	WholeBytes    int64         `json:"whole_bytes"` // of the representation of which this may be a part
	ETag          string        `json:"etag,omitempty"`
	Strong        bool          `json:"strong"`
	LastModified  time.Time     `json:"last_modified,omitzero"`
	Answered      time.Time     `json:"answered"`
	FreshSeconds  float64       `json:"fresh_seconds"`          // left; negative: stale since
	StaleSeconds  float64       `json:"stale_while_seconds"`    // left for stale-while-revalidate; 0: none
	ErrorSeconds  float64       `json:"stale_if_error_seconds"` // left for stale-if-error; 0: none
	Tags          []string      `json:"tags"`
	Variant       string        `json:"variant,omitempty"`
	Object        string        `json:"object"` // in hex
	Blocks        string        `json:"blocks"` // a letter per block: m memory, d disk, . neither
	Header        []HeaderField `json:"header"`
	MemoryBlocks  int           `json:"memory_blocks"`
	DiskBlocks    int           `json:"disk_blocks"`
	MissingBlocks int           `json:"missing_blocks"`
}

// HeaderField is one line of a stored header.
type HeaderField struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Decision is why a response was not stored.
type Decision struct {
	At     time.Time `json:"at"`
	Status int       `json:"status"`
	Reason string    `json:"reason"` // not stored: no-store
}

// maxBlocksShown bounds Stored.Blocks: 2 GiB.
const maxBlocksShown = 8192

// Inspect says what is known of a URL or a key. The error wraps media.ErrInvalid or media.ErrNotFound when no route has
// it.
func (e *Edge) Inspect(target string) (Inspection, error) {
	if u, err := url.Parse(target); err == nil && u.Host != "" {
		target = u.RequestURI()
	}
	t, err := e.door.locate(slash(target))
	if err != nil {
		return Inspection{}, err
	}
	out := Inspection{Route: t.route.Prefix, Key: t.key, State: "none", Stored: []Stored{}, Last: e.asks.refused.get(id(t.route, t.key))}
	now := time.Now()
	records, names := e.door.metas.records(t.route, t.key)
	if out.VariesBy = names; names != nil {
		out.State = "varies"
	}
	for _, r := range records {
		if r.meta.Status == 0 {
			out.State = "pass"
			continue
		}
		s := e.stored(r.meta, now)
		s.Variant = r.variant
		out.Stored = append(out.Stored, s)
		if names == nil {
			out.State = s.State
		}
	}
	return out, nil
}

func (e *Edge) stored(m *Meta, now time.Time) Stored {
	left := func(t time.Time) float64 { return max(0, t.Sub(now).Seconds()) }
	s := Stored{State: "stale", Status: m.Status, Tags: []string{}, Header: []HeaderField{}}
	judged := e.door.metas.purges.judge(m)
	switch {
	case judged == nil:
		s.State = "purged"
	case m.Status == http.StatusNotFound || m.Status == http.StatusGone:
		s.State, m = "negative", judged
	case judged.Use(now) == policy.Fresh:
		s.State, m = "fresh", judged
	default:
		m = judged
	}
	s.SizeBytes, s.WholeBytes, s.ETag, s.Strong, s.LastModified, s.Answered = m.Size, m.Whole, m.ETag, m.Strong, m.ModTime, m.Answered
	s.FreshSeconds, s.StaleSeconds, s.ErrorSeconds = m.FreshUntil.Sub(now).Seconds(), left(m.RevalidateUntil), left(m.ErrorUntil)
	eachTag(m, func(tag string) { s.Tags = append(s.Tags, tag) })
	s.Object = hex.EncodeToString(m.Object[:])
	for name, value := range m.Fields.All() {
		s.Header = append(s.Header, HeaderField{name, value})
	}
	var b strings.Builder
	for n := uint32(0); int64(n)*BlockSize < m.Size && n < maxBlocksShown; n++ {
		switch key := (BlockKey{m.Object, n}); {
		case e.door.memory.Has(key):
			b.WriteByte('m')
			s.MemoryBlocks++
		case e.disk != nil && e.disk.Has(key):
			b.WriteByte('d')
			s.DiskBlocks++
		default:
			b.WriteByte('.')
			s.MissingBlocks++
		}
	}
	s.Blocks = b.String()
	return s
}

// Top is how an edge does as a whole.
type Top struct {
	Name        string             `json:"name"`
	UpSeconds   float64            `json:"up_seconds"`
	Ready       bool               `json:"ready"`
	Requests    int64              `json:"requests"`
	HitRatio    float64            `json:"hit_ratio"`
	ServedBytes int64              `json:"served_bytes"`
	Connections int64              `json:"connections"`
	Memory      Use                `json:"memory"`
	Disk        *Use               `json:"disk,omitempty"`
	Tiers       map[string]float64 `json:"tiers"` // requests by the tier of their first byte
	OpenFills   int                `json:"open_fill_blocks"`
	Metas       int                `json:"metas"`
	PurgeMarks  int                `json:"purge_marks"`
	PurgedTo    int64              `json:"purged_to"` // the fleet's number
	Prefetch    map[string]float64 `json:"prefetch"`
	Breakers    map[string]float64 `json:"breakers,omitempty"` // state by name: 0 closed
	HeapBytes   uint64             `json:"heap_bytes"`
	Goroutines  int                `json:"goroutines"`
	RecentlyNot []NotStored        `json:"not_stored"` // the newest keys that were not stored
}

// Use is how full a tier is, in bytes.
type Use struct {
	Used  int64 `json:"used_bytes"`
	Limit int64 `json:"limit_bytes"`
}

// NotStored is a key with the last reason why its response was not stored.
type NotStored struct {
	Key string `json:"key"`
	Decision
}

// Top says how the edge does.
func (e *Edge) Top() Top {
	c := e.Counters()
	t := Top{Name: e.cfg.Name, UpSeconds: time.Since(e.begun).Seconds(), Ready: e.door.ready.Load(), Requests: c.Requests, ServedBytes: c.ServedBytes,
		Connections: c.Connections, Memory: Use{c.MemoryBytes, e.cfg.Memory}, Tiers: byLabel(e.door.metrics.requests, "tier"), OpenFills: e.fills.waiting(),
		Metas: e.door.metas.cache.Len(), PurgeMarks: e.door.metas.purges.live() - 1, PurgedTo: e.PurgedTo(), Prefetch: e.door.ahead.counts(),
		Breakers: e.breakers(), Goroutines: runtime.NumGoroutine(), RecentlyNot: e.asks.refused.newest(10)}
	if c.Requests > 0 {
		t.HitRatio = float64(c.Hits) / float64(c.Requests)
	}
	if e.disk != nil {
		t.Disk = &Use{c.DiskBytes, e.cfg.DiskSize}
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	t.HeapBytes = m.HeapInuse
	return t
}

// waiting is how many blocks are being filled.
func (c *Coalesce) waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pending)
}

// byLabel sums a family by the values of one label.
func byLabel(c prometheus.Collector, label string) map[string]float64 {
	out := map[string]float64{}
	ch := make(chan prometheus.Metric, 16)
	go func() { c.Collect(ch); close(ch) }()
	for m := range ch {
		var d dto.Metric
		if err := m.Write(&d); err != nil {
			continue
		}
		out[labelOf(&d, label)] += d.GetCounter().GetValue() + d.GetGauge().GetValue()
	}
	return out
}

func labelOf(d *dto.Metric, label string) string {
	for _, l := range d.GetLabel() {
		if l.GetName() == label {
			return l.GetValue()
		}
	}
	return ""
}

// breakers are the states of all circuit breakers that the edge has gauges of.
func (e *Edge) breakers() map[string]float64 {
	if e.gather == nil {
		return nil
	}
	families, err := e.gather.Gather()
	if err != nil {
		return nil
	}
	out := map[string]float64{}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "segue_edge_") || !strings.Contains(f.GetName(), "breaker") {
			continue
		}
		for _, d := range f.GetMetric() {
			name := f.GetName()
			for _, l := range d.GetLabel() {
				name += " " + l.GetName() + "=" + l.GetValue()
			}
			out[name] = d.GetGauge().GetValue() + d.GetCounter().GetValue()
		}
	}
	return out
}

// metaRecord is one stored Meta of a key.
type metaRecord struct {
	meta    *Meta
	variant string
}

// records are all Metas of a key, also those that a purge took, and the fields that its variants differ by.
func (t *metas) records(r *Route, key string) (out []metaRecord, vary []string) {
	add := func(b []byte, variant string) {
		if m, err := decodeMeta(b[1:]); err == nil {
			m.Route = r
			out = append(out, metaRecord{m, variant})
		}
	}
	b, err := t.cache.Get(id(r, key))
	if err != nil || len(b) == 0 {
		return nil, nil
	}
	if b[0] == recordMeta {
		add(b, "")
		return out, nil
	}
	epoch, vary, _ := decodeVary(b[1:])
	prefix := id(r, key) + "\x00" + epoch
	for it := t.cache.Iterator(); it.SetNext(); {
		if e, err := it.Value(); err == nil && strings.HasPrefix(e.Key(), prefix) && len(e.Value()) > 0 && e.Value()[0] == recordMeta {
			add(e.Value(), strings.ReplaceAll(strings.TrimRight(e.Key()[len(prefix):], "\x00"), "\x00", " "))
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].variant < out[j].variant })
	return out, vary
}

// decisions remembers why the responses of the last keys were not stored. The zero value is ready.
type decisions struct {
	mu    sync.Mutex // guards the fields below
	last  map[string]Decision
	queue []string // names in last, the oldest first; some may have left it
}

const maxDecisions = 1000

// note keeps a reason; empty: the key was stored.
func (d *decisions) note(name string, status int, reason string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if reason == "" {
		delete(d.last, name)
		return
	}
	if d.last == nil {
		d.last = map[string]Decision{}
	}
	if _, had := d.last[name]; !had {
		d.queue = append(d.queue, name)
	}
	d.last[name] = Decision{time.Now(), status, "not stored: " + reason}
	for len(d.queue) > maxDecisions {
		delete(d.last, d.queue[0])
		d.queue = d.queue[1:]
	}
}

func (d *decisions) get(name string) *Decision {
	d.mu.Lock()
	defer d.mu.Unlock()
	if last, ok := d.last[name]; ok {
		return &last
	}
	return nil
}

func (d *decisions) newest(n int) []NotStored {
	d.mu.Lock()
	out := make([]NotStored, 0, len(d.last))
	for name, last := range d.last {
		prefix, key, _ := strings.Cut(name, "\x00")
		out = append(out, NotStored{prefix + key, last})
	}
	d.mu.Unlock()
	sort.Slice(out, func(i, j int) bool { return out[i].At.After(out[j].At) })
	return out[:min(n, len(out))]
}
