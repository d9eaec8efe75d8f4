package controlplane

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/identity"
	"segue/controlplane/steer"
	"segue/geo"
	"segue/media"

	"github.com/danielgtaylor/huma/v2"
	"github.com/julienschmidt/httprouter"
)

// steering answers players before the guard does: it has its own rule for those who ask too often, since a 429 ends the
// steering of some for ever.
func (cp *ControlPlane) steering(next http.Handler) http.Handler {
	limit := newLimiter("", cp.cfg.PerSecond, 2)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		format, ok := strings.CutPrefix(r.URL.Path, "/steering/")
		if !ok || r.Method != http.MethodGet && r.Method != http.MethodHead {
			next.ServeHTTP(w, r)
			return
		}
		addr, secure := cp.proxies.client(r)
		q := steer.Query{Format: steer.Format(format), Client: addr, Base: cp.base(r.Host, secure, ""), Params: r.URL.Query(), Busy: limit.take(nil, network(addr)) > 0}
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Timing-Allow-Origin", "*")
		b, err := cp.steer.Manifest(time.Now(), q)
		if err != nil {
			cp.metrics.steered.WithLabelValues(cmp.Or(known(format), "other"), "refused").Inc()
			cp.writeProblem(w, r, err)
			return
		}
		cp.metrics.steered.WithLabelValues(known(format), map[bool]string{true: "busy", false: "ok"}[q.Busy]).Inc()
		w.Header().Set("Content-Type", q.Format.ContentType())
		w.Header().Set("Cache-Control", "private, no-store") // it is one client's
		_, _ = w.Write(b)                                    // the client may be gone
	})
}

// known keeps the label of a metric to what there is.
func known(format string) string {
	if format == string(steer.HLS) || format == string(steer.DASH) {
		return format
	}
	return ""
}

// base is the scheme and host under which a client reached this replica, or the one that the operator set. What the client
// says of itself goes back to it alone.
func (cp *ControlPlane) base(host string, secure bool, forwarded string) string {
	if cp.cfg.PublicURL != "" {
		return cp.cfg.PublicURL
	}
	if secure || strings.EqualFold(forwarded, "https") {
		return "https://" + host
	}
	return "http://" + host
}

// reached is embedded in the input of an operation that answers with URLs of its own.
type reached struct {
	host, forwarded string
	secure          bool
}

// Resolve is called by huma.
func (o *reached) Resolve(c huma.Context) []error {
	o.host, o.secure, o.forwarded = c.Host(), c.TLS() != nil, c.Header("X-Forwarded-Proto")
	return nil
}

// steered adds the addresses of the play's steered manifests. Its token is in the path of every pathway.
func (cp *ControlPlane) steered(p api.Playback, err error, o *reached) (api.Playback, error) {
	if err != nil || len(p.Pathways) == 0 {
		return p, err
	}
	if _, token, ok := strings.Cut(strings.TrimSuffix(p.Pathways[0].BaseURL, "/"), "/t/"); ok {
		base := cp.base(o.host, o.secure, o.forwarded) + "/play/" + token + "/"
		p.SteeredHLSURL, p.SteeredDASHURL = base+media.MasterPlaylist, base+media.Manifest
	}
	return p, nil
}

// withoutToken is a path for the log: tokens stand in those of plays.
func withoutToken(path string) string {
	for _, prefix := range []string{"/play/", "/r/t/"} {
		if rest, ok := strings.CutPrefix(path, prefix); ok {
			_, after, _ := strings.Cut(rest, "/")
			return prefix + "-/" + after
		}
	}
	return path
}

// steeringPages are the addresses that players and not programs ask.
func (cp *ControlPlane) steeringPages(router *httprouter.Router) {
	playlist := func(w http.ResponseWriter, r *http.Request, ps httprouter.Params) {
		format := map[string]steer.Format{media.MasterPlaylist: steer.HLS, media.Manifest: steer.DASH}[ps.ByName("file")]
		b, err := cp.steer.Playlist(r.Context(), time.Now(), format, ps.ByName("token"), client(r.Context()), cp.base(r.Host, r.TLS != nil, r.Header.Get("X-Forwarded-Proto")))
		if err != nil {
			cp.writeProblem(w, r, err)
			return
		}
		w.Header().Set("Content-Type", media.ContentTypes[ps.ByName("file")[strings.LastIndexByte(ps.ByName("file"), '.'):]])
		w.Header().Set("Cache-Control", "private, no-store")
		_, _ = w.Write(b) // the client may be gone
	}
	for path, h := range map[string]httprouter.Handle{"/play/:token/:file": playlist, "/r/*path": cp.redirect} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			router.Handle(method, path, func(w http.ResponseWriter, r *http.Request, ps httprouter.Params) {
				cp.anonymous(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h(w, r, ps) })).ServeHTTP(w, r)
			})
		}
	}
}

// redirect sends a client to the same path on its edge: /r/<key>, or /r/t/<token>/<key> for what needs a token. What the
// path is, and whether the token allows it, the edge says.
func (cp *ControlPlane) redirect(w http.ResponseWriter, r *http.Request, ps httprouter.Params) {
	fail := func(err error) { cp.writeProblem(w, r, err) }
	now, who := time.Now(), client(r.Context())
	path := strings.TrimPrefix(r.URL.EscapedPath(), "/r")
	object := strings.TrimSuffix(ps.ByName("path")[1:], "/")
	if rest, ok := strings.CutPrefix(object, "t/"); ok {
		token, key, _ := strings.Cut(rest, "/")
		g, err := cp.steer.Grant(now, token)
		if err != nil {
			fail(err)
			return
		}
		if object = g.Folder; !strings.HasPrefix(key, g.Folder) {
			fail(fmt.Errorf("the token is not for this object: %w", media.ErrDenied))
			return
		}
		if _, err := media.ParseKey(key); err != nil {
			fail(err)
			return
		}
	} else if key, err := media.ParseKey(object); err != nil {
		fail(err)
		return
	} else if strings.HasPrefix(string(key), "media/") {
		fail(fmt.Errorf("this object needs a playback: %w", media.ErrDenied))
		return
	}
	q := r.URL.Query()
	if q.Get("explain") == "1" {
		if _, _, err := cp.authenticate(r.Context(), adminScope+identity.ScopeFleet, bearer(r.Header.Get("Authorization"))); err != nil {
			fail(err)
			return
		}
		writeJSON(w, cp.explanation(who, "", object))
		return
	}
	to, err := cp.steer.Redirect(now, who, object, path)
	if err != nil {
		fail(err)
		return
	}
	if r.URL.RawQuery != "" {
		to += "?" + r.URL.RawQuery
	}
	w.Header().Set("Cache-Control", "private, max-age=60") // edges come and go
	http.Redirect(w, r, to, http.StatusFound)
}

func (cp *ControlPlane) steeringRoutes(a huma.API) {
	op := operation("explain", http.MethodGet, "/v1/admin/explain", "Fleet", "Where a client would be sent, and why", adminScope+identity.ScopeFleet)
	op.Description = "The decision that steering, playback, redirects and DNS would make now for an address, with a reason for every edge."
	register(cp, a, op, func(ctx context.Context, in *struct {
		IP    string        `query:"ip" required:"true" doc:"IPv4 or IPv6 address of a client" maxLength:"64"`
		Track media.TrackID `query:"track" doc:"what it plays" maxLength:"26"`
		Who   string        `query:"who" doc:"a play's id, which decides on canaries and overflow" maxLength:"64"`
	}) (*answer[api.Explanation], error) {
		ip, err := netip.ParseAddr(in.IP)
		if err != nil {
			return nil, fmt.Errorf("ip: want an IPv4 or IPv6 address: %w", media.ErrInvalid)
		}
		object := ""
		if in.Track != "" {
			t, err := cp.catalog.Track(ctx, in.Track)
			if err != nil {
				return nil, err
			}
			object = media.TrackPrefix(t.ID, t.Version)
		}
		e := cp.explanation(ip.Unmap(), in.Who, object)
		e.TrackID = in.Track
		return reply(e, nil)
	})
}

func (cp *ControlPlane) explanation(ip netip.Addr, who, object string) api.Explanation {
	p, d := cp.steer.Explain(time.Now(), ip, who, object)
	e := api.Explanation{IP: ip.String(), Object: object, Home: d.Home, Spill: d.Spill, Canary: d.Canary, Picks: []api.ExplainedEdge{}, Rejected: []api.ExplainedEdge{}, Files: []api.ExplainedGeoFile{},
		Place: api.ExplainedPlace{Country: p.Country, ASN: p.ASN, Region: p.Region, Source: p.Source}}
	_, e.Policy = cp.fleet.Policy(object)
	if p.OK {
		e.Place.Latitude, e.Place.Longitude = &p.Lat, &p.Lon
	}
	for _, k := range d.Picks {
		x := api.ExplainedEdge{Name: k.Name, Region: k.Region, Pool: k.Pool, URL: k.URL, LoadRatio: &k.LoadRatio, Reason: string(k.Reason)}
		if p.OK {
			x.DistanceKm = &k.DistanceKm
		}
		e.Picks = append(e.Picks, x)
	}
	for _, r := range d.Rejected {
		e.Rejected = append(e.Rejected, api.ExplainedEdge{Name: r.Name, Region: r.Region, Pool: r.Pool, Reason: string(r.Reason)})
	}
	for _, f := range cp.places.Databases() {
		e.Files = append(e.Files, api.ExplainedGeoFile(f))
	}
	return e
}

// objectReader is the part of origin.Store that steered playlists need.
type objectReader interface {
	Get(ctx context.Context, key media.Key, rng media.ByteRange, ifMatch string) (io.ReadCloser, media.Object, error)
}

// readSmall reads an object of at most a mebibyte.
func readSmall(objects objectReader) func(context.Context, media.Key) ([]byte, error) {
	const most = 1 << 20
	return func(ctx context.Context, key media.Key) ([]byte, error) {
		r, o, err := objects.Get(ctx, key, media.WholeObject, "")
		if err != nil {
			return nil, err
		}
		defer r.Close()
		if o.Size > most {
			return nil, fmt.Errorf("%s: %d bytes: %w", key, o.Size, media.ErrTooLarge)
		}
		return io.ReadAll(io.LimitReader(r, most))
	}
}

// watchPlaces keeps the files that addresses are placed with up to date.
func (cp *ControlPlane) watchPlaces(ctx context.Context) error {
	return cp.places.Watch(ctx, 5*time.Second, func(path string, err error) {
		if err != nil {
			cp.log.Warn("a new file of places is not in use, the old one is", "key", path, "err", err)
			return
		}
		cp.log.Info("places read again", "key", path)
	})
}

// geoAge is a metric's value: seconds since a file of places was built; 0: there is none.
func geoAge(l *geo.Locator, name string) float64 {
	for _, d := range l.Databases() {
		if d.Name == name {
			return time.Since(d.BuiltAt).Seconds()
		}
	}
	return 0
}
