package steer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"segue/geo"
	"segue/media"
)

const (
	// ttl is how often players ask, in seconds: an edge that dies is left sooner, by the player's own failover to the next
	// pathway of the last answer.
	ttl = 10

	// busyTTL is for those who ask too often.
	busyTTL = 300

	// slowBps is the throughput under which a pathway is bad for music: 1.5 times the best lossy rendition.
	slowBps = 400_000

	// slowFor is how long a pathway that was slow comes last in the answers to that player.
	slowFor = 5 * time.Minute

	// maxNames bounds the pathways that a request names.
	maxNames = 16
)

// Format is a kind of content steering.
type Format string

// Formats.
const (
	HLS  Format = "hls"  // RFC 8216bis 7
	DASH Format = "dash" // ETSI TS 103 998
)

// dialect is how the players of one format speak.
type dialect struct {
	contentType string
	pathway     string // query parameter: the pathway in use
	throughput  string // query parameter: bit/s
	// serviceLocations repeats the priority under the name of DASH-IF's draft, which VHS (video.js) reads.
	serviceLocations bool
	// variants: a clone can name the URL of each variant, and so have another token, port or scheme. DASH has no such thing.
	variants bool
	// bareHost: HOST of a clone is a host name alone; hls.js and Shaka keep the port of the pathway that is cloned.
	bareHost bool
}

var dialects = map[Format]dialect{
	HLS:  {contentType: "application/vnd.apple.steering-list", pathway: "_HLS_pathway", throughput: "_HLS_throughput", variants: true, bareHost: true},
	DASH: {contentType: "application/json", pathway: "_DASH_pathway", throughput: "_DASH_throughput", serviceLocations: true},
}

// Quirk is one thing that real players do, and what is done about it.
type Quirk struct{ Player, Does, So string }

// Quirks are minded by this package; the code names each by its number, and the tests have a case for each.
var Quirks = []Quirk{
	0:  {"hls.js", "reloads in a loop without TTL", "TTL is always there, and 5 or more"},
	1:  {"hls.js", "stops to ask for ever after a 429", "who asks too often gets an answer with a long TTL"},
	2:  {"hls.js, Shaka", "send the pathway without quotes, dash.js with them", "both are read"},
	3:  {"dash.js", "sends all pathways since the last answer, and their throughputs, as lists", "the last one is in use, each throughput counts for its own"},
	4:  {"hls.js, Shaka", "ignore a port in HOST of a clone; Shaka ignores the URLs of variants", "HOST has none, and is not there for another port: Shaka then stays on the base; the URLs of variants have the port"},
	5:  {"dash.js", "drops the port of the pathway that is cloned, and takes proto://host:port for HOST", "it gets that if the port is not the usual one; it is known by its quotes"},
	6:  {"hls.js", "ignores a clone whose ID it knows; dash.js breaks if that is the ID of its base", "the ID has the token's epoch, and is never that of its base"},
	7:  {"Shaka", "adds its parameters once more to the address of the last answer if that has no RELOAD-URI", "RELOAD-URI is always there, and absolute"},
	8:  {"hls.js, dash.js", "stop to ask after a 410 (dash.js: 404 too)", "a play that is over is 410, and nothing else is"},
	9:  {"VHS", "reads SERVICE-LOCATION-PRIORITY for DASH", "it has the same list"},
	10: {"Shaka", "takes the URLs of a DASH SegmentBase once, when the track begins", "the manifest has it ask before that, so that it knows all pathways: it does not follow later answers, but leaves a dead edge"},
}

// Query is one question for a steering manifest.
type Query struct {
	Format Format
	Client netip.Addr
	Base   string     // scheme://host that the player reached
	Params url.Values // as documented in docs/steering.md
	Busy   bool       // the client asks too often
}

type manifest struct {
	Version  int      `json:"VERSION"`
	TTL      int      `json:"TTL"`
	Reload   string   `json:"RELOAD-URI"`
	Priority []string `json:"PATHWAY-PRIORITY"`
	Services []string `json:"SERVICE-LOCATION-PRIORITY,omitempty"`
	Clones   []clone  `json:"PATHWAY-CLONES,omitempty"`
}

type clone struct {
	Base    string      `json:"BASE-ID"`
	ID      string      `json:"ID"`
	Replace replacement `json:"URI-REPLACEMENT"`
}

type replacement struct {
	Host     string            `json:"HOST,omitempty"`
	Variants map[string]string `json:"PER-VARIANT-URIS,omitempty"`
}

// ContentType is that of a format's manifests.
func (f Format) ContentType() string { return dialects[f].contentType }

// Parameters of the address of steering.
const (
	paramToken    = "t" // of a play; absent: a manifest that is not ours
	paramPathways = "p" // names in the manifest, best first
	paramVariants = "v" // HLS: STABLE-VARIANT-IDs of the manifest
	paramSlow     = "x" // pathways that were slow, name:until
	paramObject   = "o" // without a token: what the manifest is of, any text
)

// Manifest answers a question. Errors: media.ErrInvalid, media.ErrNoAccess, ErrOver, ErrNoEdge.
func (s *Service) Manifest(now time.Time, q Query) ([]byte, error) {
	d, ok := dialects[q.Format]
	if !ok {
		return nil, fmt.Errorf("steering for %q: %w", q.Format, media.ErrNotFound)
	}
	known, err := names(q.Params.Get(paramPathways))
	if err != nil {
		return nil, err
	}
	m := manifest{Version: 1, TTL: ttl} // quirk 0
	if q.Busy {
		m.TTL = busyTTL // quirk 1
	}
	at := report(d, q.Params)
	slow := slowOnes(now, q.Params.Get(paramSlow), at)
	reload := make(url.Values, 4)
	if token := q.Params.Get(paramToken); token != "" {
		err = s.ofPlay(now, q, d, token, known, slow, at, &m, reload)
	} else {
		err = s.ofOthers(now, q, known, slow, &m)
	}
	if err != nil {
		return nil, err
	}
	if d.serviceLocations {
		m.Services = m.Priority // quirk 9
	}
	for _, keep := range []string{paramPathways, paramVariants, paramObject} {
		if v := q.Params.Get(keep); v != "" {
			reload.Set(keep, v)
		}
	}
	if len(slow) > 0 {
		reload.Set(paramSlow, formatSlow(slow))
	}
	m.Reload = q.Base + "/steering/" + string(q.Format) + "?" + reload.Encode() // quirk 7
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(m); err != nil {
		return nil, fmt.Errorf("bug: %w", err)
	}
	return b.Bytes(), nil
}

// ofPlay orders the pathways of a play, with clones for edges that its playlist does not have and for a newer token.
func (s *Service) ofPlay(now time.Time, q Query, d dialect, token string, known []string, slow []slowPathway, at []measure, m *manifest, reload url.Values) error {
	g, err := s.Grant(now, token)
	if err != nil {
		return err
	}
	if d.variants { // else a clone has the token of its base
		if g, err = s.renewed(now, g); err != nil {
			return err
		}
	}
	reload.Set(paramToken, g.Token)
	snap, decision := s.decide(now, g, q.Client)
	picks := lastSlow(decision.Picks, slow)
	var variants []string
	if d.variants {
		if variants, err = names(q.Params.Get(paramVariants)); err != nil {
			return err
		}
	}
	base := ""
	for _, name := range slices.Backward(known) {
		if base == "" || snap.byName[name] != nil {
			base = name
		}
	}
	for i := range picks {
		n := &picks[i].Node
		id := g.pathwayID(n.Name)
		if len(known) > 0 && !slices.Contains(known, id) {
			c, ok := s.clone(d, q, snap, g, base, id, n, variants)
			if !ok {
				continue
			}
			m.Clones = append(m.Clones, c)
		}
		m.Priority = append(m.Priority, id)
	}
	for _, name := range known {
		// One that drains comes last: it works still, and a player whose only other pathway fails has somewhere to go.
		if n := snap.byName[name]; n != nil && n.Healthy && n.Draining && g.epoch == 0 && !slices.Contains(m.Priority, name) {
			m.Priority = append(m.Priority, name)
		}
	}
	if len(m.Priority) == 0 {
		// Nothing is healthy as far as is known here. The player knows better: it stays where it is, and goes through the rest.
		if len(at) > 0 {
			m.Priority = append(m.Priority, at[len(at)-1].pathway)
		}
		for _, name := range known {
			if !slices.Contains(m.Priority, name) {
				m.Priority = append(m.Priority, name)
			}
		}
	}
	if len(m.Priority) == 0 {
		return ErrNoEdge
	}
	return nil
}

// clone describes a pathway that the player's manifest does not have. ok false: this player could not reach it.
func (s *Service) clone(d dialect, q Query, snap *snapshot, g *Grant, base, id string, n *geo.Node, variants []string) (clone, bool) {
	u, err := url.Parse(n.URL)
	if err != nil || base == "" || base == id { // quirk 6
		return clone{}, false
	}
	c := clone{Base: base, ID: id}
	switch of := snap.byName[base]; {
	case !d.bareHost && u.Port() != "" && !unquoted(q.Params.Get(d.pathway)):
		c.Replace.Host = u.Scheme + "://" + u.Host // quirk 5
	case of == nil || samePort(of.URL, n.URL):
		c.Replace.Host = u.Hostname() // quirk 4
	case len(variants) == 0:
		return clone{}, false
	}
	if len(variants) > 0 {
		c.Replace.Variants = make(map[string]string, len(variants))
		for _, v := range variants {
			c.Replace.Variants[v] = g.folderOn(n) + v + ".m3u8"
		}
	}
	return c, true
}

func samePort(a, b string) bool {
	x, errA := url.Parse(a)
	y, errB := url.Parse(b)
	return errA == nil && errB == nil && x.Scheme == y.Scheme && x.Port() == y.Port()
}

// ofOthers orders the pathways of a manifest that this platform did not make: names of edges, of regions, or of anything
// else, which come last, in the order given.
func (s *Service) ofOthers(now time.Time, q Query, known []string, slow []slowPathway, m *manifest) error {
	if len(known) == 0 {
		return fmt.Errorf("%s: want the names of the manifest's pathways: %w", paramPathways, media.ErrInvalid)
	}
	snap := s.snapshot(now)
	p, _ := s.cfg.Policy(q.Params.Get(paramObject))
	p.Max = len(snap.nodes)
	decision := geo.Decide(geo.Client{Place: s.cfg.Locate(q.Client), ID: q.Client.String(), Object: q.Params.Get(paramObject)}, snap.nodes, p)
	add := func(name string) {
		if slices.Contains(known, name) && !slices.Contains(m.Priority, name) {
			m.Priority = append(m.Priority, name)
		}
	}
	for _, k := range decision.Picks {
		add(k.Name)
		add(k.Region)
	}
	ours := func(name string) bool {
		return snap.byName[name] != nil || slices.ContainsFunc(snap.nodes, func(n geo.Node) bool { return n.Region == name })
	}
	for _, name := range known {
		if !ours(name) {
			add(name)
		}
	}
	slices.SortStableFunc(m.Priority, func(a, b string) int { return isSlow(a, slow) - isSlow(b, slow) })
	if len(m.Priority) == 0 {
		m.Priority = known
	}
	return nil
}

// measure is what a player says of a pathway; bps is 0 if it says nothing.
type measure struct {
	pathway string
	bps     int64
}

// report reads what a player says of the pathways it used: the last one is in use (quirks 2 and 3).
func report(d dialect, v url.Values) []measure {
	var out []measure
	rates := strings.Split(strings.Trim(v.Get(d.throughput), `"`), ",")
	for i, name := range strings.Split(strings.Trim(v.Get(d.pathway), `"`), ",") {
		if name = strings.TrimSpace(name); !validName(name) || i >= maxNames {
			continue
		}
		k := measure{pathway: name}
		if i < len(rates) {
			k.bps, _ = strconv.ParseInt(strings.TrimSpace(rates[i]), 10, 64)
		}
		out = append(out, k)
	}
	return out
}

// unquoted reports a pathway that is not in quotes: not dash.js.
func unquoted(s string) bool { return s != "" && !strings.HasPrefix(s, `"`) }

// slowPathway is a pathway that comes last for a while. It is kept in the player's own address: there is no state here.
type slowPathway struct {
	name  string
	until int64 // Unix seconds
}

func slowOnes(now time.Time, text string, at []measure) []slowPathway {
	var out []slowPathway
	for _, k := range at {
		if k.bps > 0 && k.bps < slowBps {
			out = append(out, slowPathway{nodeOf(k.pathway), now.Add(slowFor).Unix()})
		}
	}
	for entry := range strings.SplitSeq(text, ",") {
		name, until, _ := strings.Cut(entry, ":")
		end, err := strconv.ParseInt(until, 10, 64)
		if err != nil || !validName(name) || end <= now.Unix() || end > now.Add(slowFor).Unix() || len(out) >= maxNames || isSlow(name, out) == 1 {
			continue
		}
		out = append(out, slowPathway{name, end})
	}
	return out
}

func formatSlow(slow []slowPathway) string {
	var b []byte
	for i, k := range slow {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(append(append(b, k.name...), ':'), k.until, 10)
	}
	return string(b)
}

// isSlow is 1 for a slow pathway and 0 for another, so that it sorts.
func isSlow(name string, slow []slowPathway) int {
	if slices.ContainsFunc(slow, func(k slowPathway) bool { return k.name == name }) {
		return 1
	}
	return 0
}

func lastSlow(picks []geo.Pick, slow []slowPathway) []geo.Pick {
	if len(slow) > 0 {
		slices.SortStableFunc(picks, func(a, b geo.Pick) int { return isSlow(a.Name, slow) - isSlow(b.Name, slow) })
	}
	return picks
}

// names reads a list of pathway or variant IDs.
func names(s string) ([]string, error) {
	if s == "" {
		return nil, nil
	}
	list := strings.Split(strings.Trim(s, `"`), ",")
	if len(list) > maxNames {
		return nil, fmt.Errorf("at most %d names: %w", maxNames, media.ErrInvalid)
	}
	for _, name := range list {
		if !validName(name) {
			return nil, fmt.Errorf("name %q: want letters, digits, dots, dashes and underscores: %w", name, media.ErrInvalid)
		}
	}
	return list, nil
}

// validName is the form of a pathway ID: RFC 8216bis 7.1.
func validName(s string) bool {
	if s == "" || len(s) > 80 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return true
}
