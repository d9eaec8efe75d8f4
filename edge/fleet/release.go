package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"segue/controlplane/api"
	"segue/edge"
	"segue/media"
)

// run puts a release in force, whole or not at all; nil: the edge's own routes alone. An error says why not, and the one
// before it stays.
func (m *Member) run(ctx context.Context, r *api.EdgeRelease) error {
	if r == nil {
		if m.release == nil {
			return nil
		}
		if err := m.edge.SetRoutes(nil); err != nil {
			return err
		}
		m.release, m.origins = nil, nil
		return nil
	}
	if m.release != nil && m.release.Digest == r.Digest {
		m.release = r // the same to this edge
		return nil
	}
	routes, origins, err := m.open(ctx, r)
	if err != nil {
		return err
	}
	if err := m.edge.SetRoutes(routes); err != nil {
		return err
	}
	m.release, m.origins = r, origins
	return nil
}

// open makes a release's routes, and finds what is wrong with it here. Origins that were open stay so: with their connections.
func (m *Member) open(ctx context.Context, r *api.EdgeRelease) (routes []*edge.Route, origins map[string]edge.Origin, err error) {
	origins = map[string]edge.Origin{}
	for _, route := range r.Routes {
		spec, err := json.Marshal(route.Origin)
		if err != nil {
			return nil, nil, fmt.Errorf("bug: %w", err)
		}
		o := origins[string(spec)]
		if o == nil {
			o = m.origins[string(spec)]
		}
		if o == nil {
			if o, err = m.origin(ctx, route.Origin); err != nil {
				return nil, nil, fmt.Errorf("route %s: origin %s: %w", route.Name, route.Origin.Name, err)
			}
		}
		origins[string(spec)] = o
		routes = append(routes, &edge.Route{Prefix: route.Prefix, Origin: o, Public: route.Public, Slots: int64(route.Origin.MaxRequests)})
	}
	return routes, origins, nil
}

func (m *Member) origin(ctx context.Context, o api.EdgeOrigin) (edge.Origin, error) {
	u, err := url.Parse(o.URL)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.URL, media.ErrInvalid)
	}
	plain := u.Scheme == "http" || u.Scheme == "https"
	at := u
	if !plain {
		if at, err = url.Parse(u.Query().Get("endpoint")); err != nil {
			return nil, fmt.Errorf("%s: %w", o.URL, media.ErrInvalid)
		}
	}
	if !m.allowed(at) {
		return nil, fmt.Errorf("this edge may not reach %s: it is not among its --allow-origin: %w", cmp.Or(at.Host, o.URL), media.ErrDenied)
	}
	if !plain {
		if m.cfg.Open == nil {
			return nil, fmt.Errorf("%s: this edge has no origins of this kind: %w", o.URL, media.ErrInvalid)
		}
		octx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		return m.cfg.Open(octx, o)
	}
	opts := edge.HTTPOptions{Host: o.HostHeader, Connect: time.Duration(o.ConnectTimeoutMS) * time.Millisecond, FirstByte: time.Duration(o.FirstByteTimeoutMS) * time.Millisecond}
	if o.AuthHeader != "" {
		opts.Header = http.Header{http.CanonicalHeaderKey(o.AuthHeader): {o.Secret}}
	}
	return edge.OpenHTTPOrigin(o.URL, opts)
}

// allowed reports whether the edge's operator lets it reach a host.
func (m *Member) allowed(u *url.URL) bool {
	if len(m.cfg.AllowOrigins) == 0 {
		return true
	}
	for _, pattern := range m.cfg.AllowOrigins {
		pattern = strings.ToLower(pattern)
		suffix, below := strings.CutPrefix(pattern, "*.")
		for _, host := range []string{strings.ToLower(u.Host), strings.ToLower(u.Hostname())} {
			if host == pattern || below && strings.HasSuffix(host, "."+suffix) {
				return true
			}
		}
	}
	return false
}
