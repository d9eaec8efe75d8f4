// Package playback grants plays: it decides which renditions a listener may hear and where, keeps an account to the streams
// its plan allows, chooses edges, mints the token that says all that, and remembers whose play it is.
//
//	Start -> plan, country, renditions -> edges -> one transaction: a slot for the stream, a row for the play -> URLs
//	events, Keepalive -> the stream lives; 60 s of silence, or its end, and its slot is free
package playback

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/geo"
	"segue/media"
	"segue/media/cat"

	"github.com/oklog/ulid/v2"
)

const (
	// tokenFor is how long a playback's URLs work: longer than anybody pauses a song. Renew makes new ones.
	tokenFor = 6 * time.Hour
	// prefetchFor is how long the start of a next track may be fetched: as long as most tracks take, and a pause.
	prefetchFor = 30 * time.Minute
	// keepFor is how long a play is known after its token ended: as long as events of it may come.
	keepFor = 31 * 24 * time.Hour
)

// Issuer is iss of access tokens.
const Issuer = "segue"

var (
	ErrNoEdge = errors.New("no edge is there to play from, try again soon")
	// ErrPlan: a better plan could play it.
	ErrPlan = errors.New("it is not in your plan")
	// ErrNotHere: the track is not available in the listener's country.
	ErrNotHere = errors.New("it is not available in your country")
	// ErrNoMedia: the track is known, but it has no audio yet.
	ErrNoMedia = errors.New("it cannot be played yet")
	// ErrOver: the play has ended, or another device has taken its place.
	ErrOver = errors.New("this play is over: start a new one")
	// ErrStreamLimit is the reason of an *api.DevicesError: the other devices that hold the streams of the plan.
	ErrStreamLimit = errors.New("another device of this account is playing; take_over ends that")
)

// Track is what playback needs of the catalogue. AvailableIn lists countries (ISO 3166-1 alpha-2); none: everywhere.
type Track struct {
	api.Track
	Media       []media.Rendition
	AvailableIn []string
}

// Limits is what a plan allows.
type Limits struct {
	MaxBitrateBps int // 0: no limit
	Lossless      bool
	Streams       int // at a time
}

// Sources is what playback asks of others. All but Policy, Country, Next and TakenOver are required.
type Sources struct {
	Plan   func(ctx context.Context, userID string) (api.Plan, error) // now
	Limits func(api.Plan) Limits
	Track  func(ctx context.Context, id media.TrackID) (Track, error) // media.ErrNotFound: there is none, or not any more
	Device func(ctx context.Context, userID, deviceID string) (name string, err error)
	Nodes  func(now time.Time) []geo.Node
	Policy func(object string) (p geo.Policy, name string) // how edges are chosen; nil: as by default
	Locate func(netip.Addr) geo.Place
	Where  func(netip.Addr) (country string) // "": not known
	Key    func() cat.Key                    // that signs
	Revoke func(ctx context.Context, tx *sql.Tx, reason string, until time.Time, ctis ...string) error

	// Country is the account's country, asked when Where does not know; nil or "": not known.
	Country func(ctx context.Context, userID string) (string, error)
	// Next is the track after one in the listener's queue, or ""; nil: there are no queues.
	Next func(ctx context.Context, userID string, now media.TrackID) (media.TrackID, error)
	// TakenOver tells a device, after the commit, that its play has ended because another device plays; nil: nobody is told.
	TakenOver func(ctx context.Context, userID, deviceID, playID, byDevice string)
}

// Config is the operator's choice. The zero value is the default.
type Config struct {
	// RefuseUnknownCountry: who is nowhere known gets no track that is limited to countries. Default: gets it.
	RefuseUnknownCountry bool
}

// Service is safe for concurrent use.
type Service struct {
	db  *store.DB
	ask Sources
	cfg Config

	mu    sync.Mutex // guards signs
	signs map[sign]time.Time
}

// New wires what playback asks. Signs of life are written while it is Run.
func New(db *store.DB, cfg Config, ask Sources) *Service {
	return &Service{db: db, ask: ask, cfg: cfg, signs: map[sign]time.Time{}}
}

// Start grants one listen. Errors: media.ErrNotFound, ErrNoMedia, ErrNotHere; ErrPlan when only a better plan has what was
// asked for, media.ErrInvalid when no plan has; ErrNoEdge; *api.DevicesError.
func (s *Service) Start(ctx context.Context, l api.Listener, n api.NewPlayback) (api.Playback, error) {
	id, now := ulid.Make().String(), time.Now()
	g, err := s.grant(ctx, l, id, n)
	if err != nil {
		return api.Playback{}, err
	}
	name, err := s.ask.Device(ctx, l.UserID, l.DeviceID)
	if err != nil {
		return api.Playback{}, err
	}
	p, err := s.answer(g, id, now)
	if err != nil {
		return api.Playback{}, err
	}
	var ended []slot
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		var err error
		if ended, err = s.take(ctx, tx, l, name, id, g.limits.Streams, n.TakeOver, now); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO playbacks (play_id, user_id, device_id, track_id, version, plan, edge, licence_id, created_at, expires_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, '', $8, $9)`, id, l.UserID, l.DeviceID, string(p.TrackID), string(p.Version), string(g.plan), p.Pathways[0].ID, store.Micros(now), store.Micros(p.ExpiresAt))
		return err
	})
	if err != nil {
		return api.Playback{}, err
	}
	if s.ask.TakenOver != nil {
		for _, e := range ended {
			s.ask.TakenOver(ctx, l.UserID, e.device, e.play, name)
		}
	}
	p.Next, err = s.prefetch(ctx, g, p, n, now)
	return p, err
}

// Renew gives new URLs for a play that goes on, from the edges that are best now. n.TrackID and n.TakeOver are not looked
// at. Errors: those of Start; media.ErrNotFound for a play of somebody else; ErrOver.
func (s *Service) Renew(ctx context.Context, l api.Listener, playID string, n api.NewPlayback) (api.Playback, error) {
	was, err := s.Play(ctx, playID)
	if err == nil && (was.UserID != l.UserID || was.LicenceID != "") {
		err = fmt.Errorf("play %s: %w", playID, media.ErrNotFound)
	}
	if err != nil {
		return api.Playback{}, err
	}
	n.TrackID = was.TrackID
	g, err := s.grant(ctx, l, playID, n)
	if err != nil {
		return api.Playback{}, err
	}
	if g.track.Version != was.Version { // another length, perhaps: positions of the old one are worth nothing in it
		return api.Playback{}, fmt.Errorf("there is a new version of the track: %w", ErrOver)
	}
	now := time.Now()
	p, err := s.answer(g, playID, now)
	if err != nil {
		return api.Playback{}, err
	}
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE streams SET seen_at = CASE WHEN seen_at < $1 THEN $1 ELSE seen_at END WHERE user_id = $2 AND (play_id = $3 OR before_id = $3)`, store.Micros(now), l.UserID, playID)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil {
			return err
		} else if n == 0 {
			return ErrOver
		}
		_, err = tx.ExecContext(ctx, `UPDATE playbacks SET expires_at = $1, edge = $2 WHERE play_id = $3`, store.Micros(p.ExpiresAt), p.Pathways[0].ID, playID)
		return err
	})
	if err != nil {
		return api.Playback{}, err
	}
	p.Next, err = s.prefetch(ctx, g, p, n, now)
	return p, err
}

// grant is what a listener may have of a track.
type grant struct {
	listener api.Listener
	plan     api.Plan
	limits   Limits
	track    Track
	choice   choice
	edges    []geo.Pick
}

func (s *Service) grant(ctx context.Context, l api.Listener, playID string, n api.NewPlayback) (g grant, err error) {
	g.listener = l
	if g.plan, err = s.ask.Plan(ctx, l.UserID); err != nil {
		return g, err
	}
	g.limits = s.ask.Limits(g.plan)
	if g.track, err = s.ask.Track(ctx, n.TrackID); err != nil {
		return g, err
	}
	if len(g.track.Media) == 0 {
		return g, fmt.Errorf("track %s: %w", n.TrackID, ErrNoMedia)
	}
	if err := s.Here(ctx, l.UserID, l.Client, g.track.AvailableIn); err != nil {
		return g, err
	}
	if g.choice, err = choose(g.limits, g.track.Media, n); err != nil {
		return g, err
	}
	g.edges, err = s.Edges(l, playID, media.TrackPrefix(g.track.ID, g.track.Version))
	return g, err
}

// Here reports whether something that is limited to countries is available to a listener: nil, or ErrNotHere.
func (s *Service) Here(ctx context.Context, userID string, client netip.Addr, countries []string) error {
	if len(countries) == 0 {
		return nil
	}
	at := s.ask.Where(client)
	if at == "" && s.ask.Country != nil {
		var err error
		if at, err = s.ask.Country(ctx, userID); err != nil {
			return err
		}
	}
	if at == "" && !s.cfg.RefuseUnknownCountry || slices.ContainsFunc(countries, func(c string) bool { return at != "" && strings.EqualFold(c, at) }) {
		return nil
	}
	return ErrNotHere
}

// Edges chooses edges for what a listener fetches below an object prefix, best first, or returns ErrNoEdge. All that
// playback sends to edges is decided here. who draws canaries and overflow: a play's id, by which content steering draws too, so
// that both begin on the same edge; or an account's, for what is no play.
func (s *Service) Edges(l api.Listener, who, object string) ([]geo.Pick, error) {
	var p geo.Policy
	if s.ask.Policy != nil {
		p, _ = s.ask.Policy(object)
	}
	d := geo.Decide(geo.Client{Place: s.ask.Locate(l.Client), ID: who, Object: object, Tokens: true}, s.ask.Nodes(time.Now()), p)
	if len(d.Picks) == 0 {
		return nil, ErrNoEdge
	}
	return d.Picks, nil
}

// answer mints the token and writes the URLs. The token's cti is the play: all tokens of it are revoked at once.
func (s *Service) answer(g grant, playID string, now time.Time) (api.Playback, error) {
	t, file := g.track, g.choice.file
	p := api.Playback{PlayID: playID, TrackID: t.ID, Version: t.Version, Rendition: file.Name, Renditions: g.choice.names,
		ExpiresAt: now.Add(tokenFor).UTC().Truncate(time.Second), DurationMS: t.DurationMS, Loudness: t.Loudness, GainDB: t.Loudness.GainDB(),
		Gapless: file.Gapless, SampleRate: file.SampleRateHz, Pathways: []api.Pathway{}, Next: []api.Prefetch{}}
	token, err := s.token(t, playID, g.plan, g.choice.claim, now, p.ExpiresAt)
	if err != nil {
		return api.Playback{}, err
	}
	for _, k := range g.edges {
		p.Pathways = append(p.Pathways, api.Pathway{ID: k.Name, Region: k.Region, BaseURL: k.URL + "/t/" + token + "/", DistanceKm: k.DistanceKm})
	}
	base := p.Pathways[0].BaseURL + media.TrackPrefix(t.ID, t.Version)
	p.HLSURL, p.DASHURL, p.FileURL = base+g.choice.hls, base+g.choice.dash, base+file.File
	return p, nil
}

func (s *Service) token(t Track, playID string, plan api.Plan, renditions []string, now, until time.Time) (string, error) {
	return cat.Mint(s.ask.Key(), cat.Claims{Issuer: Issuer, ID: playID, NotBefore: now.Add(-time.Minute).Truncate(time.Second), Expires: until, // a minute for clocks that differ
		PathPrefix: "/" + media.TrackPrefix(t.ID, t.Version), PlayID: playID, Plan: string(plan), Renditions: renditions})
}

// prefetch lists the starts of the tracks that come next. What cannot be played is left out: it is a hint. Its tokens have
// the play's cti: they end with it.
func (s *Service) prefetch(ctx context.Context, g grant, p api.Playback, n api.NewPlayback, now time.Time) ([]api.Prefetch, error) {
	ids := n.NextTrackIDs
	if len(ids) == 0 && s.ask.Next != nil {
		next, err := s.ask.Next(ctx, g.listener.UserID, p.TrackID)
		if err != nil {
			return nil, err
		}
		if next != "" {
			ids = []media.TrackID{next}
		}
	}
	out := []api.Prefetch{}
	for _, id := range ids {
		n.TrackID, n.Rendition = id, ""
		next, err := s.grant(ctx, g.listener, p.PlayID, n)
		if errors.Is(err, media.ErrNotFound) || errors.Is(err, ErrNoMedia) || errors.Is(err, ErrNotHere) || errors.Is(err, ErrPlan) || errors.Is(err, media.ErrInvalid) || errors.Is(err, ErrNoEdge) {
			continue
		} else if err != nil {
			return nil, err
		}
		t, r, until := next.track, next.choice.file, now.Add(prefetchFor).UTC().Truncate(time.Second)
		token, err := s.token(t, p.PlayID, g.plan, []string{r.Name}, now, until)
		if err != nil {
			return nil, err
		}
		const ahead = 8 // seconds: two segments
		out = append(out, api.Prefetch{TrackID: t.ID, Version: t.Version, Rendition: r.Name, ExpiresAt: until,
			URL:   next.edges[0].URL + "/t/" + token + "/" + media.TrackPrefix(t.ID, t.Version) + r.File,
			Bytes: min(r.Size, r.Index.Offset+r.Index.Size+int64(max(r.BitrateBps, r.AverageBps))/8*ahead)})
	}
	return out, nil
}

// Play is what is known of a play that was granted.
type Play struct {
	UserID    string
	DeviceID  string
	TrackID   media.TrackID
	Version   media.Version
	Plan      api.Plan
	LicenceID string // empty, but for a play that was made offline
	CreatedAt time.Time
	ExpiresAt time.Time
}

// Play returns a granted play, or media.ErrNotFound.
func (s *Service) Play(ctx context.Context, id string) (Play, error) {
	var p Play
	var plan string
	var created, expires int64
	err := s.db.QueryRowContext(ctx, `SELECT user_id, device_id, track_id, version, plan, licence_id, created_at, expires_at FROM playbacks WHERE play_id = $1`, id).
		Scan(&p.UserID, &p.DeviceID, &p.TrackID, &p.Version, &plan, &p.LicenceID, &created, &expires)
	if errors.Is(err, sql.ErrNoRows) {
		return p, fmt.Errorf("play %s: %w", id, media.ErrNotFound)
	}
	p.Plan, p.CreatedAt, p.ExpiresAt = api.Plan(plan), store.Time(created), store.Time(expires)
	return p, err
}

// PutOffline notes a play that a player made offline, under the id that the player gave it, and returns what stands: a
// repeat changes nothing, and an id that is taken is the other play's.
func (s *Service) PutOffline(ctx context.Context, id string, p Play) (Play, error) {
	if _, err := s.db.ExecContext(ctx, `INSERT INTO playbacks (play_id, user_id, device_id, track_id, version, plan, edge, licence_id, created_at, expires_at)
		VALUES ($1, $2, $3, $4, $5, $6, '', $7, $8, $9) ON CONFLICT (play_id) DO NOTHING`, id, p.UserID, p.DeviceID, string(p.TrackID), string(p.Version), string(p.Plan),
		p.LicenceID, store.Micros(p.CreatedAt), store.Micros(p.ExpiresAt)); err != nil {
		return Play{}, err
	}
	return s.Play(ctx, id)
}

// choice is what of a track's renditions a playback is about.
type choice struct {
	names     []string // that the plan allows and the player wants
	file      media.Rendition
	hls, dash string   // file names of manifests
	claim     []string // renditions that the token is limited to; nil: all
}

// choose narrows renditions by plan and by what the player says of itself.
//
// The manifests are of a fixed few (decision 0002), so one may list more than the player wants, but never what its token
// refuses. One rendition alone is its own media playlist.
func choose(l Limits, all []media.Rendition, n api.NewPlayback) (c choice, err error) {
	var allowed, wanted, both []media.Rendition
	for _, r := range all {
		in := (l.MaxBitrateBps == 0 || r.BitrateBps <= l.MaxBitrateBps) && (l.Lossless || !r.Lossless)
		want := fits(r, n)
		if in {
			allowed = append(allowed, r)
		}
		if want {
			wanted = append(wanted, r)
		}
		if in && want {
			both = append(both, r)
		}
	}
	switch {
	case len(wanted) == 0:
		return c, fmt.Errorf("codecs, max_bitrate_bps, renditions: this track has nothing that fits: %w", media.ErrInvalid)
	case len(both) == 0:
		return c, fmt.Errorf("renditions: %w", ErrPlan)
	}
	if n.Rendition != "" {
		named := func(r media.Rendition) bool { return r.Name == n.Rendition }
		if !slices.ContainsFunc(all, named) {
			return c, fmt.Errorf("rendition %q is not one of this track: %w", n.Rendition, media.ErrInvalid)
		}
		i := slices.IndexFunc(allowed, named)
		if i < 0 {
			return c, fmt.Errorf("rendition %s: %w", n.Rendition, ErrPlan)
		}
		c.file = allowed[i]
	} else {
		// AAC first, which every player decodes; then the most bits.
		c.file = slices.MaxFunc(both, func(a, b media.Rendition) int {
			aac := func(r media.Rendition) int {
				if family(r.Codec) == "mp4a" {
					return 1
				}
				return 0
			}
			return cmp.Or(cmp.Compare(aac(a), aac(b)), cmp.Compare(a.BitrateBps, b.BitrateBps))
		})
	}
	small := func(r media.Rendition) bool { return !r.Lossless && r.BitrateBps <= media.LimitedBps }
	limited := len(allowed) < len(all) || !slices.ContainsFunc(both, func(r media.Rendition) bool { return !small(r) })
	c.hls, c.dash = media.MasterPlaylist, media.Manifest
	if limited {
		c.hls, c.dash = media.LimitedMasterPlaylist, media.LimitedManifest
	}
	if len(both) == 1 {
		c.hls = both[0].Name + ".m3u8"
	}
	for _, r := range both {
		c.names = append(c.names, r.Name)
	}
	for _, r := range allowed {
		if !limited || small(r) || r.Name == c.file.Name || slices.Contains(c.names, r.Name) {
			c.claim = append(c.claim, r.Name)
		}
	}
	if len(c.claim) == len(all) {
		c.claim = nil
	}
	return c, nil
}

// fits: a player that says nothing of itself plays everything.
func fits(r media.Rendition, n api.NewPlayback) bool {
	codec := func(c string) bool { return family(c) == family(r.Codec) }
	return (len(n.Codecs) == 0 || slices.ContainsFunc(n.Codecs, codec)) && (n.MaxBitrateBps == 0 || r.BitrateBps <= n.MaxBitrateBps) &&
		(len(n.Renditions) == 0 || slices.Contains(n.Renditions, r.Name))
}

// family is the codec without its profile: mp4a of mp4a.40.2. Case does not count: Opus and fLaC are written in many ways.
func family(codec string) string {
	f, _, _ := strings.Cut(strings.ToLower(codec), ".")
	return f
}
