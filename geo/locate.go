package geo

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/oschwald/maxminddb-golang/v2"
)

// LocatorConfig names what a Locator reads. Every file may be missing from it; a file that is named has to be readable.
type LocatorConfig struct {
	Places   string // MMDB file with cities or countries: MaxMind, DB-IP, ip-location-db
	Networks string // MMDB file with autonomous systems
	Rules    string // JSON file with own rules, see Rules
	Home     Place  // where addresses of the own network (loopback, private) are
}

// Locator places addresses. It is safe for concurrent use.
type Locator struct {
	home     Place
	places   file[maxminddb.Reader]
	networks file[maxminddb.Reader]
	rules    file[ruleTable]
}

// OpenLocator reads the files.
func OpenLocator(c LocatorConfig) (*Locator, error) {
	l := &Locator{home: c.Home}
	if c.Home.OK {
		l.home.Source = cmp.Or(c.Home.Source, "home")
	}
	l.places.name, l.places.path, l.places.parse = "places", c.Places, parseMMDB
	l.networks.name, l.networks.path, l.networks.parse = "networks", c.Networks, parseMMDB
	l.rules.name, l.rules.path, l.rules.parse = "rules", c.Rules, parseRules
	for _, f := range []reader{&l.places, &l.networks, &l.rules} {
		if _, err := f.load(); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// Watch reads files again when they are replaced, until ctx ends, and tells each time: with the error of a new file that
// cannot be read, in which case the old one stays in use.
func (l *Locator) Watch(ctx context.Context, every time.Duration, told func(path string, err error)) error {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		for _, f := range []reader{&l.places, &l.networks, &l.rules} {
			if changed, err := f.load(); changed {
				told(f.where(), err)
			}
		}
	}
}

// reader is a file of any kind.
type reader interface {
	load() (changed bool, err error)
	where() string
	describe() (Database, bool)
}

// Database describes one file in use.
type Database struct {
	Name    string    `json:"name"` // places, networks, rules
	Path    string    `json:"path"`
	Type    string    `json:"type,omitempty"` // as the file says: GeoLite2-City, …
	BuiltAt time.Time `json:"built_at"`       // of the data, as the file says; of rules: when the file was written
	ReadAt  time.Time `json:"read_at"`
	Error   string    `json:"error,omitempty"` // why a newer file is not in use
}

// Databases lists the files that were named.
func (l *Locator) Databases() []Database {
	out := []Database{}
	for _, f := range []reader{&l.places, &l.networks, &l.rules} {
		if d, ok := f.describe(); ok {
			out = append(out, d)
		}
	}
	return out
}

// own says whether an address cannot be in a database: it is inside the operator's network.
func own(ip netip.Addr) bool {
	return !ip.IsValid() || ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast()
}

// Country is the ISO 3166-1 alpha-2 code of an address, or "" where it is not known; of the own network it is Home's.
func (l *Locator) Country(ip netip.Addr) string { return l.Locate(ip).Country }

// Locate places an address. An own rule counts before the databases, and one for an address before one for a network. A
// country without coordinates is at its centroid.
func (l *Locator) Locate(ip netip.Addr) Place {
	ip = ip.Unmap().WithZone("")
	var p Place
	if own(ip) {
		p = l.home
	} else if db := l.places.get(); db != nil {
		p = lookup(db, ip)
	}
	if db := l.networks.get(); db != nil && ip.IsValid() {
		var rec struct {
			ASN uint32 `maxminddb:"autonomous_system_number"`
		}
		if db.Lookup(ip).Decode(&rec) == nil {
			p.ASN = rec.ASN
		}
	}
	if t := l.rules.get(); t != nil {
		if r := t.find(ip); r != nil && r.ASN != 0 {
			p.ASN = r.ASN
		}
		if r := t.networks[p.ASN]; r != nil && p.ASN != 0 {
			r.apply(&p)
		}
		if r := t.find(ip); r != nil {
			r.apply(&p)
		}
	}
	if !p.OK {
		if p.Point, p.OK = Centroid(p.Country); p.OK {
			p.Source = "country"
		}
	}
	return p
}

func lookup(db *maxminddb.Reader, ip netip.Addr) Place {
	// The shapes of MaxMind and DB-IP, and the flat one of ip-location-db.
	var rec struct {
		Location struct {
			Latitude  *float64 `maxminddb:"latitude"`
			Longitude *float64 `maxminddb:"longitude"`
		} `maxminddb:"location"`
		Country struct {
			ISO string `maxminddb:"iso_code"`
		} `maxminddb:"country"`
		Registered struct {
			ISO string `maxminddb:"iso_code"`
		} `maxminddb:"registered_country"`
		Code      string   `maxminddb:"country_code"`
		Latitude  *float64 `maxminddb:"latitude"`
		Longitude *float64 `maxminddb:"longitude"`
		ASN       uint32   `maxminddb:"autonomous_system_number"`
	}
	if err := db.Lookup(ip).Decode(&rec); err != nil {
		return Place{}
	}
	p := Place{Country: cmp.Or(rec.Country.ISO, rec.Code, rec.Registered.ISO), ASN: rec.ASN}
	for _, at := range [][2]*float64{{rec.Location.Latitude, rec.Location.Longitude}, {rec.Latitude, rec.Longitude}} {
		if at[0] != nil && at[1] != nil {
			p.Point, p.OK, p.Source = Point{*at[0], *at[1]}, true, "database"
			break
		}
	}
	return p
}

// Rules is the form of the file of own rules: what an operator knows better than a database. Unknown members are errors.
//
//	{"rules": [
//	  {"cidr": "10.20.0.0/16", "latitude": 52.4, "longitude": 4.9, "country": "NL"},
//	  {"asn": 1136, "region": "eu-west"}
//	]}
type Rules struct {
	Rules []Override `json:"rules"`
}

// Override sets what it names and leaves the rest. Exactly one of CIDR and ASN says for whom; a CIDR with an ASN beside it
// gives its addresses that ASN. The longest CIDR wins.
type Override struct {
	CIDR      string   `json:"cidr,omitempty"`
	ASN       uint32   `json:"asn,omitempty"`
	Country   string   `json:"country,omitempty"` // ISO 3166-1 alpha-2
	Latitude  *float64 `json:"latitude,omitempty"`
	Longitude *float64 `json:"longitude,omitempty"`
	Region    string   `json:"region,omitempty"` // always this one first, however far
}

func (o *Override) apply(p *Place) {
	if o.Country != "" {
		if p.Country != o.Country { // a point in another country would contradict it
			p.Point, p.OK, p.Source = Point{}, false, ""
		}
		p.Country = o.Country
	}
	if o.Latitude != nil {
		p.Point, p.OK, p.Source = Point{*o.Latitude, *o.Longitude}, true, "rule"
	}
	if o.Region != "" {
		p.Region = o.Region
	}
}

func (o *Override) check() (netip.Prefix, error) {
	if o.CIDR == "" && o.ASN == 0 {
		return netip.Prefix{}, fmt.Errorf("neither cidr nor asn")
	}
	if (o.Latitude == nil) != (o.Longitude == nil) || o.Latitude != nil && (*o.Latitude < -90 || *o.Latitude > 90 || *o.Longitude < -180 || *o.Longitude > 180) {
		return netip.Prefix{}, fmt.Errorf("latitude and longitude: want both, in degrees")
	}
	if o.Country != "" {
		if _, ok := Centroid(o.Country); !ok {
			return netip.Prefix{}, fmt.Errorf("country %q: want ISO 3166-1 alpha-2, in capitals", o.Country)
		}
	}
	if o.CIDR == "" {
		return netip.Prefix{}, nil
	}
	p, err := netip.ParsePrefix(o.CIDR)
	if err != nil {
		return p, fmt.Errorf("cidr %q: want address/bits", o.CIDR)
	}
	if p.Addr().Is4In6() {
		return p, fmt.Errorf("cidr %q: write it as IPv4", o.CIDR)
	}
	return p.Masked(), nil
}

// ruleTable finds the longest prefix by one look per length that occurs.
type ruleTable struct {
	prefixes map[netip.Prefix]*Override
	bits4    []int // lengths that occur, longest first
	bits6    []int
	networks map[uint32]*Override
}

func (t *ruleTable) find(ip netip.Addr) *Override {
	bits := t.bits4
	if ip.Is6() {
		bits = t.bits6
	}
	for _, n := range bits {
		if p, err := ip.Prefix(n); err == nil {
			if o := t.prefixes[p]; o != nil {
				return o
			}
		}
	}
	return nil
}

func parseRules(b []byte) (*ruleTable, string, time.Time, error) {
	var r Rules
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return nil, "", time.Time{}, err
	}
	t := &ruleTable{prefixes: map[netip.Prefix]*Override{}, networks: map[uint32]*Override{}}
	for i := range r.Rules {
		o := &r.Rules[i]
		p, err := o.check()
		switch {
		case err != nil:
			return nil, "", time.Time{}, fmt.Errorf("rule %d: %w", i+1, err)
		case !p.IsValid() && t.networks[o.ASN] != nil, p.IsValid() && t.prefixes[p] != nil:
			return nil, "", time.Time{}, fmt.Errorf("rule %d: there is one for the same addresses before it", i+1)
		case !p.IsValid():
			t.networks[o.ASN] = o
			continue
		}
		t.prefixes[p] = o
		bits := &t.bits4
		if p.Addr().Is6() {
			bits = &t.bits6
		}
		if !slices.Contains(*bits, p.Bits()) {
			*bits = append(*bits, p.Bits())
		}
	}
	for _, bits := range [][]int{t.bits4, t.bits6} {
		slices.Sort(bits)
		slices.Reverse(bits)
	}
	return t, "", time.Time{}, nil
}

func parseMMDB(b []byte) (*maxminddb.Reader, string, time.Time, error) {
	// From memory and not mapped: a file that is written over in place would otherwise change, or end, under a reader.
	db, err := maxminddb.OpenBytes(b)
	if err != nil {
		return nil, "", time.Time{}, err
	}
	return db, db.Metadata.DatabaseType, time.Unix(int64(db.Metadata.BuildEpoch), 0).UTC(), nil
}

// file is a file that is read again when it changed. One goroutine loads, any may get.
type file[T any] struct {
	name, path string
	parse      func([]byte) (v *T, kind string, built time.Time, err error)
	now        atomic.Pointer[loaded[T]]
	tried      bool
	seen       stamp // of the last try, good or bad
}

type loaded[T any] struct {
	v     *T
	about Database
}

type stamp struct {
	at   time.Time
	size int64
}

func (f *file[T]) get() *T {
	if l := f.now.Load(); l != nil {
		return l.v
	}
	return nil
}

// load reads the file if it is another one than at the last try; changed says so.
func (f *file[T]) load() (changed bool, err error) {
	if f.path == "" {
		return false, nil
	}
	info, err := os.Stat(f.path)
	var s stamp
	if err == nil {
		s = stamp{info.ModTime(), info.Size()}
	}
	if f.tried && s == f.seen { // a missing file has the zero stamp
		return false, nil
	}
	f.tried, f.seen = true, s
	var b []byte
	if err == nil {
		b, err = os.ReadFile(f.path)
	}
	var next loaded[T]
	if err == nil {
		next.about = Database{Name: f.name, Path: f.path, ReadAt: time.Now().UTC()}
		next.v, next.about.Type, next.about.BuiltAt, err = f.parse(b)
		if next.about.BuiltAt.IsZero() {
			next.about.BuiltAt = s.at.UTC()
		}
	}
	if err != nil {
		err = fmt.Errorf("%s %s: %w", f.name, f.path, err)
		if old := f.now.Load(); old != nil {
			next = *old
			next.about.Error = err.Error()
			f.now.Store(&next)
		}
		return true, err
	}
	f.now.Store(&next)
	return true, nil
}

func (f *file[T]) where() string { return f.path }

func (f *file[T]) describe() (Database, bool) {
	l := f.now.Load()
	if l == nil {
		return Database{}, false
	}
	return l.about, true
}
