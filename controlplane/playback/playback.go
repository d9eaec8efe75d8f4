// Package playback grants plays: it decides which renditions a plan may hear, chooses edges, mints the token that says
// both, and remembers whose play it is.
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
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/geo"
	"segue/media"
	"segue/media/cat"

	"github.com/oklog/ulid/v2"
)

// tokenFor is how long a playback's URLs work: longer than anybody pauses a song.
const tokenFor = 6 * time.Hour

// Issuer is iss of access tokens.
const Issuer = "segue"

// Track is what playback needs of the catalogue.
type Track struct {
	api.Track
	Media []media.Rendition
}

// Service is safe for concurrent use.
type Service struct {
	db     *store.DB
	track  func(ctx context.Context, id media.TrackID) (Track, error)
	nodes  func(now time.Time) []geo.Node
	locate func(netip.Addr) geo.Place
	key    func() cat.Key // that signs

	Policy geo.Policy // how edges are chosen; set before the first call
}

// New wires what playback asks.
func New(db *store.DB, track func(context.Context, media.TrackID) (Track, error), nodes func(time.Time) []geo.Node, locate func(netip.Addr) geo.Place, key func() cat.Key) *Service {
	return &Service{db: db, track: track, nodes: nodes, locate: locate, key: key}
}

// ErrNoEdge: no edge is healthy.
var ErrNoEdge = errors.New("no edge is there to play from, try again soon")

// Start grants one listen. Errors: media.ErrNotFound, media.ErrDenied when the plan has not the rendition that was
// asked for, media.ErrInvalid for one that the track has not, ErrNoEdge.
func (s *Service) Start(ctx context.Context, userID string, plan api.Plan, n api.NewPlayback, client netip.Addr) (api.Playback, error) {
	t, err := s.track(ctx, n.TrackID)
	if err != nil {
		return api.Playback{}, err
	}
	allowed, limited := Allowed(plan, t.Media)
	chosen, err := choose(t.Media, allowed, n.Rendition)
	if err != nil {
		return api.Playback{}, err
	}
	now := time.Now()
	d := geo.Decide(geo.Client{Place: s.locate(client), ID: userID, Object: media.TrackPrefix(t.ID, t.Version)}, s.nodes(now), s.Policy)
	if len(d.Picks) == 0 {
		return api.Playback{}, ErrNoEdge
	}
	p := api.Playback{PlayID: ulid.Make().String(), TrackID: t.ID, Version: t.Version, Rendition: chosen.Name, Renditions: allowed,
		ExpiresAt: now.Add(tokenFor).UTC().Truncate(time.Second), DurationMS: t.DurationMS, Loudness: t.Loudness, GainDB: t.Loudness.GainDB(),
		Gapless: chosen.Gapless, SampleRate: chosen.SampleRateHz, Pathways: []api.Pathway{}}
	claims := cat.Claims{Issuer: Issuer, ID: p.PlayID, NotBefore: now.Add(-time.Minute), Expires: p.ExpiresAt, // a minute for clocks that differ
		PathPrefix: "/" + media.TrackPrefix(t.ID, t.Version), PlayID: p.PlayID, Plan: string(plan)}
	if limited {
		claims.Renditions = allowed
	}
	token, err := cat.Mint(s.key(), claims)
	if err != nil {
		return api.Playback{}, err
	}
	for _, k := range d.Picks {
		p.Pathways = append(p.Pathways, api.Pathway{ID: k.Name, Region: k.Region, BaseURL: k.URL + "/t/" + token + "/", DistanceKm: k.DistanceKm})
	}
	base := p.Pathways[0].BaseURL + media.TrackPrefix(t.ID, t.Version)
	p.HLSURL, p.DASHURL, p.FileURL = base+media.MasterPlaylist, base+media.Manifest, base+chosen.File
	if limited {
		p.HLSURL, p.DASHURL = base+media.LimitedMasterPlaylist, base+media.LimitedManifest
	}
	_, err = s.db.ExecContext(ctx, `INSERT INTO playbacks (play_id, user_id, track_id, version, plan, edge, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		p.PlayID, userID, string(t.ID), string(t.Version), string(plan), p.Pathways[0].ID, store.Micros(now), store.Micros(p.ExpiresAt))
	return p, err
}

// Allowed lists the renditions that a plan may hear; limited says that some are missing.
func Allowed(plan api.Plan, all []media.Rendition) (names []string, limited bool) {
	names = []string{}
	for _, r := range all {
		if plan == api.PlanFree && (r.Lossless || r.BitrateBps > media.LimitedBps) {
			limited = true
			continue
		}
		names = append(names, r.Name)
	}
	return names, limited
}

// choose finds the rendition of file_url: the one asked for, else the best AAC, which every player decodes.
func choose(all []media.Rendition, allowed []string, want string) (media.Rendition, error) {
	var best media.Rendition
	for _, r := range all {
		ok := slices.Contains(allowed, r.Name)
		switch {
		case want == r.Name && !ok:
			return r, fmt.Errorf("rendition %s is not in your plan: %w", want, media.ErrDenied)
		case want == r.Name:
			return r, nil
		case want == "" && ok && strings.HasPrefix(r.Codec, "mp4a") && r.BitrateBps > best.BitrateBps:
			best = r
		}
	}
	if best.Name == "" {
		return best, fmt.Errorf("rendition %q is not one of this track: %w", cmp.Or(want, "aac"), media.ErrInvalid)
	}
	return best, nil
}

// Play is what is known of a play that was granted.
type Play struct {
	UserID    string
	TrackID   media.TrackID
	Version   media.Version
	Plan      api.Plan
	CreatedAt time.Time
	ExpiresAt time.Time
}

// Play returns a granted play, or media.ErrNotFound.
func (s *Service) Play(ctx context.Context, id string) (Play, error) {
	var p Play
	var plan string
	var created, expires int64
	err := s.db.QueryRowContext(ctx, `SELECT user_id, track_id, version, plan, created_at, expires_at FROM playbacks WHERE play_id = $1`, id).
		Scan(&p.UserID, &p.TrackID, &p.Version, &plan, &created, &expires)
	if errors.Is(err, sql.ErrNoRows) {
		return p, fmt.Errorf("play %s: %w", id, media.ErrNotFound)
	}
	p.Plan, p.CreatedAt, p.ExpiresAt = api.Plan(plan), store.Time(created), store.Time(expires)
	return p, err
}
