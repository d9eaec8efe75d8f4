package fleet

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"segue/controlplane/api"
	"segue/geo"
	"segue/media"
)

// graph is the whole configuration, to check a change against.
type graph struct {
	rows    map[key]*row
	secrets map[string]string // by id
	edges   []edgeRow
}

// edgeRow is an edge as it joined.
type edgeRow struct {
	id, name, region, url string
	draining              bool
}

// querier is a database or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// each reads the rows of a query.
func each(ctx context.Context, q querier, query string, take func(scan func(...any) error) error, args ...any) error {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := take(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

func readGraph(ctx context.Context, q querier) (*graph, error) {
	g := &graph{rows: map[key]*row{}, secrets: map[string]string{}}
	err := each(ctx, q, `SELECT kind, name, body, revision, drain_until, drain_author FROM fleet_resources`, func(scan func(...any) error) error {
		var r row
		var body string
		if err := scan(&r.Kind, &r.Name, &body, &r.revision, &r.drainUntil, &r.drainAuthor); err != nil {
			return err
		}
		r.body = json.RawMessage(body)
		g.rows[r.key] = &r
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := each(ctx, q, `SELECT id, secret FROM fleet_secrets`, func(scan func(...any) error) error {
		var id, secret string
		if err := scan(&id, &secret); err != nil {
			return err
		}
		b, err := base64.StdEncoding.DecodeString(secret)
		g.secrets[id] = string(b)
		return err
	}); err != nil {
		return nil, err
	}
	g.edges, err = readEdges(ctx, q)
	return g, err
}

func readEdges(ctx context.Context, q querier) (list []edgeRow, err error) {
	err = each(ctx, q, `SELECT id, name, region, url, draining FROM edges ORDER BY name`, func(scan func(...any) error) error {
		var e edgeRow
		var draining int
		err := scan(&e.id, &e.name, &e.region, &e.url, &draining)
		e.draining = draining != 0
		list = append(list, e)
		return err
	})
	return list, err
}

// all yields the resources of a kind by name.
func all[N any](g *graph, kind Kind) (list []Resource[N], err error) {
	for _, k := range slices.SortedFunc(maps.Keys(g.rows), func(a, b key) int { return strings.Compare(a.Name, b.Name) }) {
		if k.Kind != kind {
			continue
		}
		r, err := decode[N](g.rows[k])
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

func (g *graph) has(kind Kind, name string) bool { return g.rows[key{kind, name}] != nil }

// canonical brings a resource into the one form that means what it means, and finds what is wrong with it alone. It returns
// the secret that is to be kept with it, if it has a new one.
func (g *graph) canonical(k key, old *row, spec any, f *faults) (*kept, error) {
	switch n := spec.(type) {
	case *api.NewRegion:
		canonicalRegion(n, f)
	case *api.NewEdgePool:
		n.Tier, n.State, n.Weight, n.CapacityMbps = cmp.Or(n.Tier, "edge"), cmp.Or(n.State, api.StateActive), cmp.Or(n.Weight, 1), cmp.Or(n.CapacityMbps, 1000)
		if n.Match = sortedSet(n.Match, strings.ToLower); len(n.Match) == 0 {
			n.Match = []string{"*"}
		}
		for i, m := range n.Match {
			if m == "" || strings.Trim(m, "abcdefghijklmnopqrstuvwxyz0123456789-*") != "" || len(m) > 63 {
				f.add(fmt.Sprintf("body.match[%d]", i), "%q is no pattern of an edge's name: want lower-case letters, digits, dashes and *", m)
			}
		}
		n.Only, n.Never = entries("body.only", n.Only, f), entries("body.never", n.Never, f)
	case *api.NewOrigin:
		was := api.NewOrigin{}
		if old != nil {
			if err := json.Unmarshal(old.body, &was); err != nil {
				return nil, fmt.Errorf("%s: %w: %w", k, media.ErrCorrupt, err)
			}
		}
		canonicalOrigin(n, f)
		if n.AuthHeader == "" {
			if n.Secret != "" {
				f.add("body.auth_header", "say which header the secret is the value of")
			}
			n.Secret, n.SecretID = "", ""
			return nil, nil
		}
		if n.Secret == "" && was.SecretID == "" {
			f.add("body.secret", "auth_header needs a secret")
		}
		if strings.ContainsFunc(n.Secret, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
			f.add("body.secret", "a header's value has no control characters")
		}
		return g.keep(&n.Secret, &n.SecretID, n.SecretVersion, was.SecretVersion, was.SecretID, f), nil
	case *api.NewRoute:
		n.State, n.Regions = cmp.Or(n.State, api.StateActive), sortedSet(n.Regions, strings.ToLower)
		checkPrefix(n.Prefix, f)
	case *api.NewSteeringPolicy:
		for name, r := range n.Regions {
			at := "body.regions." + name
			r.Only, r.Never = entries(at+".only", r.Only, f), entries(at+".never", r.Never, f)
			n.Regions[name] = r
		}
		for name, w := range n.Weights {
			if w < 0 || w > 100 {
				f.add("body.weights."+name, "want 0 to 100")
			}
		}
	case *api.NewFleetKey:
		was := api.NewFleetKey{}
		if old != nil {
			if err := json.Unmarshal(old.body, &was); err != nil {
				return nil, fmt.Errorf("%s: %w: %w", k, media.ErrCorrupt, err)
			}
		}
		return g.canonicalKey(n, &was, f), nil
	case *api.NewActivation:
		if full := n.Percent == nil; full {
			p := 100.0
			n.Percent = &p
		}
		n.Regions = sortedSet(n.Regions, strings.ToLower)
	}
	return nil, nil
}

func canonicalRegion(n *api.NewRegion, f *faults) {
	n.State = cmp.Or(n.State, api.StateActive)
	if n.Latitude < -90 || n.Latitude > 90 {
		f.add("body.latitude", "want -90 to 90 degrees")
	}
	if n.Longitude < -180 || n.Longitude > 180 {
		f.add("body.longitude", "want -180 to 180 degrees")
	}
	if unprintable(n.DisplayName) {
		f.add("body.display_name", "has control characters")
	}
	n.Only, n.Never = entries("body.only", n.Only, f), entries("body.never", n.Never, f)
	for i, s := range n.ClientCIDRs {
		p, err := prefixOf(s)
		if err != nil {
			f.add(fmt.Sprintf("body.client_cidrs[%d]", i), "%q is no network: want 203.0.113.0/24 or 2001:db8::/32", s)
			continue
		}
		n.ClientCIDRs[i] = p.String()
	}
	n.ClientCIDRs = sortedSet(n.ClientCIDRs, nil)
	if len(n.Labels) == 0 {
		n.Labels = nil
	}
	for name, v := range n.Labels {
		if name == "" || len(name) > 63 || len(v) > 255 || unprintable(name) || unprintable(v) {
			f.add("body.labels", "names have 1 to 63 bytes and values at most 255, without control characters")
		}
	}
	if len(n.Fallback) == 0 {
		n.Fallback = nil
	}
}

// prefixOf reads a network; an address alone is one of itself.
func prefixOf(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err == nil && p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return p, fmt.Errorf("%s: %w", s, media.ErrInvalid)
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), err
}

func canonicalOrigin(n *api.NewOrigin, f *faults) {
	u, err := url.Parse(n.URL)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || unprintable(n.URL):
		f.add("body.url", "want http(s)://host[:port][/path] or s3://bucket[/prefix]?endpoint=http://host:port")
	case strings.EqualFold(u.Scheme, "s3"):
		u.Scheme = "s3"
		if e, err := url.Parse(u.Query().Get("endpoint")); err != nil || u.Query().Has("endpoint") && e.Host == "" {
			f.add("body.url", "endpoint: want http(s)://host[:port]")
		}
		n.URL = u.String()
		for _, x := range []struct {
			name string
			set  bool
		}{{"host_header", n.HostHeader != ""}, {"auth_header", n.AuthHeader != ""}, {"connect_timeout_ms", n.ConnectTimeoutMS != 0}, {"first_byte_timeout_ms", n.FirstByteTimeoutMS != 0}} {
			if x.set {
				f.add("body."+x.name, "is for origins that speak plain HTTP")
			}
		}
	case !strings.EqualFold(u.Scheme, "http") && !strings.EqualFold(u.Scheme, "https") || u.RawQuery != "" || u.ForceQuery:
		f.add("body.url", "want http(s)://host[:port][/path] or s3://bucket[/prefix]?endpoint=http://host:port")
	default:
		u.Scheme, u.Host = strings.ToLower(u.Scheme), strings.ToLower(u.Host)
		if u.Scheme == "http" {
			u.Host = strings.TrimSuffix(u.Host, ":80")
		} else {
			u.Host = strings.TrimSuffix(u.Host, ":443")
		}
		n.URL = strings.TrimRight(u.String(), "/")
		if n.FreshSeconds != 0 {
			f.add("body.fresh_seconds", "is for buckets; how long an HTTP origin's objects are fresh its responses say")
		}
	}
	n.HostHeader = strings.ToLower(n.HostHeader)
	if h, err := url.Parse("http://" + n.HostHeader); n.HostHeader != "" && (err != nil || h.Host != n.HostHeader) {
		f.add("body.host_header", "want host[:port]")
	}
	if strings.ContainsFunc(n.AuthHeader, func(r rune) bool {
		return r > 0x7e || !strings.ContainsRune("!#$%&'*+-.^_`|~", r) && (r < '0' || r > '9') && (r|0x20 < 'a' || r|0x20 > 'z')
	}) {
		f.add("body.auth_header", "is no name of a header")
	}
	switch strings.ToLower(n.AuthHeader) {
	case "host", "range", "connection", "content-length", "transfer-encoding", "te", "upgrade", "via", "cdn-loop":
		f.add("body.auth_header", "%s is not for secrets", n.AuthHeader)
	}
}

func checkPrefix(p string, f *faults) {
	switch {
	case !strings.HasPrefix(p, "/") || !strings.HasSuffix(p, "/"):
		f.add("body.prefix", "want one that begins and ends with a slash")
	case p != "/" && path.Clean(p)+"/" != p || strings.Contains(p, "//") || strings.ContainsAny(p, "?#%\\ ") || unprintable(p):
		f.add("body.prefix", "want a plain path: no empty or dotted parts, no escapes, no query")
	case p == "/t/" || strings.HasPrefix(p, "/t/"):
		f.add("body.prefix", "/t/ is for tokens")
	}
}

func (g *graph) canonicalKey(n, was *api.NewFleetKey, f *faults) *kept {
	n.State = cmp.Or(n.State, api.StateActive)
	utc := func(t *time.Time) *time.Time {
		if t == nil {
			return nil
		}
		u := t.UTC().Truncate(time.Second)
		return &u
	}
	n.NotBefore, n.NotAfter = utc(n.NotBefore), utc(n.NotAfter)
	if n.NotBefore != nil && n.NotAfter != nil && !n.NotAfter.After(*n.NotBefore) {
		f.add("body.not_after", "want a time after not_before")
	}
	if n.Algorithm == "EdDSA" {
		if len(n.PublicKey) != ed25519.PublicKeySize {
			f.add("body.public_key", "want the %d bytes of an Ed25519 key in base64", ed25519.PublicKeySize)
		}
		if n.Secret != "" {
			f.add("body.secret", "EdDSA has a public_key")
		}
		n.Secret, n.SecretID = "", ""
		return nil
	}
	if len(n.PublicKey) > 0 {
		f.add("body.public_key", "HS256 has a secret")
	}
	n.PublicKey = nil
	switch {
	case n.Secret == "" && was.SecretID == "":
		f.add("body.secret", "HS256 needs a secret")
	case n.Secret != "" && len(n.Secret) < 32:
		f.add("body.secret", "want at least 32 bytes")
	}
	return g.keep(&n.Secret, &n.SecretID, n.SecretVersion, was.SecretVersion, was.SecretID, f)
}

// entries makes a rule's set canonical.
func entries(at string, list []string, f *faults) []string {
	list = sortedSet(list, strings.ToUpper)
	for i, e := range list {
		_, country := geo.Centroid(e)
		if number, network := strings.CutPrefix(e, "AS"); !country && (!network || number == "" || len(number) > 10 || strings.Trim(number, "0123456789") != "") {
			f.add(fmt.Sprintf("%s[%d]", at, i), "%q: want a country of ISO 3166-1 (NL) or a network (AS1136)", e)
		}
	}
	return list
}

// sortedSet is nil when it is empty: equal sets are equal bodies.
func sortedSet(list []string, form func(string) string) []string {
	if len(list) == 0 {
		return nil
	}
	out := make([]string, len(list))
	for i, s := range list {
		if out[i] = strings.TrimSpace(s); form != nil {
			out[i] = form(out[i])
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func unprintable(s string) bool {
	return !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f })
}

// check finds what is wrong with a resource among the others.
func (g *graph) check(k key) error {
	f := &faults{}
	region := func(at, name string) {
		if !g.has(KindRegion, name) {
			f.add(at, "there is no region %q", name)
		}
	}
	fallback := func(at, self string, list []string) {
		for i, name := range list {
			at := fmt.Sprintf("%s[%d]", at, i)
			if name == self {
				f.add(at, "a region is not its own")
			} else if slices.Contains(list[:i], name) {
				f.add(at, "%q stands there twice", name)
			} else {
				region(at, name)
			}
		}
	}
	switch k.Kind {
	case KindRegion:
		r, err := decode[api.NewRegion](g.rows[k])
		if err != nil {
			return err
		}
		fallback("body.fallback", k.Name, r.Spec.Fallback)
		others, err := all[api.NewRegion](g, KindRegion)
		if err != nil {
			return err
		}
		for i, c := range r.Spec.ClientCIDRs {
			for _, o := range others {
				if o.Name != k.Name && slices.Contains(o.Spec.ClientCIDRs, c) {
					f.add(fmt.Sprintf("body.client_cidrs[%d]", i), "%s belongs to region %s", c, o.Name)
				}
			}
		}
	case KindPool:
		p, err := decode[api.NewEdgePool](g.rows[k])
		if err != nil {
			return err
		}
		region("body.region", p.Spec.Region)
		others, err := all[api.NewEdgePool](g, KindPool)
		if err != nil {
			return err
		}
		for i, m := range p.Spec.Match {
			for _, o := range others {
				if o.Name != k.Name && o.Spec.Region == p.Spec.Region && slices.Contains(o.Spec.Match, m) {
					f.add(fmt.Sprintf("body.match[%d]", i), "pool %s of the region has %q already", o.Name, m)
				}
			}
		}
	case KindRoute:
		r, err := decode[api.NewRoute](g.rows[k])
		if err != nil {
			return err
		}
		if !g.has(KindOrigin, r.Spec.Origin) {
			f.add("body.origin", "there is no origin %q", r.Spec.Origin)
		}
		if p := r.Spec.SteeringPolicy; p != "" && !g.has(KindPolicy, p) {
			f.add("body.steering_policy", "there is no steering policy %q", p)
		}
		for i, name := range r.Spec.Regions {
			region(fmt.Sprintf("body.regions[%d]", i), name)
		}
		others, err := all[api.NewRoute](g, KindRoute)
		if err != nil {
			return err
		}
		for _, o := range others {
			if o.Name != k.Name && o.Spec.Prefix == r.Spec.Prefix && o.Spec.State == api.StateActive && r.Spec.State == api.StateActive && meet(o.Spec.Regions, r.Spec.Regions) {
				f.add("body.prefix", "route %s has it already", o.Name)
			}
		}
	case KindPolicy:
		p, err := decode[api.NewSteeringPolicy](g.rows[k])
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(p.Spec.Weights)) {
			if !g.has(KindPool, name) {
				f.add("body.weights."+name, "there is no pool %q", name)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(p.Spec.Regions)) {
			region("body.regions."+name, name)
			fallback("body.regions."+name+".fallback", name, p.Spec.Regions[name].Fallback)
		}
	case kindActivation:
		a, err := decode[storedActivation](g.rows[k])
		if err != nil {
			return err
		}
		for i, name := range a.Spec.Regions {
			region(fmt.Sprintf("body.regions[%d]", i), name)
		}
	}
	return f.err(k)
}

// meet reports whether two sets of regions have one in common; an empty one is all.
func meet(a, b []string) bool {
	return len(a) == 0 || len(b) == 0 || slices.ContainsFunc(a, func(name string) bool { return slices.Contains(b, name) })
}

// unused returns an ErrInUse that names those who use a resource, or nil.
func (g *graph) unused(k key) error {
	var by []api.FieldProblem
	use := func(kind Kind, name, field string) {
		by = append(by, api.FieldProblem{Location: string(kind) + "/" + name, Message: "names it in " + field})
	}
	pools, err := all[api.NewEdgePool](g, KindPool)
	if err != nil {
		return err
	}
	routes, err := all[api.NewRoute](g, KindRoute)
	if err != nil {
		return err
	}
	policies, err := all[api.NewSteeringPolicy](g, KindPolicy)
	if err != nil {
		return err
	}
	switch k.Kind {
	case KindRegion:
		for _, p := range pools {
			if p.Spec.Region == k.Name {
				use(KindPool, p.Name, "region")
			}
		}
		regions, err := all[api.NewRegion](g, KindRegion)
		if err != nil {
			return err
		}
		for _, r := range regions {
			if r.Name != k.Name && slices.Contains(r.Spec.Fallback, k.Name) {
				use(KindRegion, r.Name, "fallback")
			}
		}
		for _, r := range routes {
			if slices.Contains(r.Spec.Regions, k.Name) {
				use(KindRoute, r.Name, "regions")
			}
		}
		for _, p := range policies {
			for _, name := range slices.Sorted(maps.Keys(p.Spec.Regions)) {
				if name == k.Name || slices.Contains(p.Spec.Regions[name].Fallback, k.Name) {
					use(KindPolicy, p.Name, "regions."+name)
				}
			}
		}
	case KindPool:
		for _, p := range policies {
			if _, ok := p.Spec.Weights[k.Name]; ok {
				use(KindPolicy, p.Name, "weights")
			}
		}
	case KindOrigin:
		for _, r := range routes {
			if r.Spec.Origin == k.Name {
				use(KindRoute, r.Name, "origin")
			}
		}
	case KindPolicy:
		for _, r := range routes {
			if r.Spec.SteeringPolicy == k.Name {
				use(KindRoute, r.Name, "steering_policy")
			}
		}
	}
	if len(by) == 0 {
		return nil
	}
	return &Faults{k.String(), ErrInUse, by}
}
