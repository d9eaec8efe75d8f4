package controlplane_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"segue/controlplane/api"

	"github.com/google/go-cmp/cmp"
)

// faults fails the test unless an error is a 422 or 409 that points at a field.
func faults(t *testing.T, err error, status int, location string) {
	t.Helper()
	p, ok := errors.AsType[*api.Problem](err)
	if !ok || p.Status != status {
		t.Errorf("%v, want %d at %s", err, status, location)
		return
	}
	for _, f := range p.Errors {
		if f.Location == location {
			return
		}
	}
	t.Errorf("%v does not point at %s: %+v", err, location, p.Errors)
}

func answered(t *testing.T, err error, want int) {
	t.Helper()
	p, ok := errors.AsType[*api.Problem](err)
	if !ok || p.Status != want {
		t.Errorf("%v, want %d", err, want)
	}
}

// TestDeclaredFleet goes through the life of the resources as an operator's tool does.
func TestDeclaredFleet(t *testing.T) {
	databases(t, func(t *testing.T, s *server) {
		ctx, c := t.Context(), s.admin
		create := api.PutRegionOptions{IfNoneMatch: "*"}
		eu, tag, err := c.PutRegion(ctx, "eu", api.NewRegion{DisplayName: "Europe", Latitude: 52, Longitude: 5, Only: []string{"nl", "DE", "nl"},
			ClientCIDRs: []string{"10.1.2.3/16", "2001:DB8::1/32", "192.0.2.7"}}, "", create)
		if err != nil {
			t.Fatal(err)
		}
		want := api.Region{Name: "eu", Revision: 1, NewRegion: api.NewRegion{DisplayName: "Europe", Latitude: 52, Longitude: 5, State: "active", Only: []string{"DE", "NL"},
			ClientCIDRs: []string{"10.1.0.0/16", "192.0.2.7/32", "2001:db8::/32"}}}
		if diff := cmp.Diff(want, eu); diff != "" || tag != `"1"` {
			t.Errorf("%s %s", tag, diff)
		}
		_, _, err = c.PutRegion(ctx, "eu", api.NewRegion{}, "", create)
		answered(t, err, 412)
		_, _, err = c.PutRegion(ctx, "eu", api.NewRegion{DisplayName: "other"}, "", api.PutRegionOptions{})
		answered(t, err, 428)
		_, _, err = c.PutRegion(ctx, "eu", api.NewRegion{DisplayName: "other"}, `"0"`, api.PutRegionOptions{})
		answered(t, err, 412)
		_, _, err = c.PutRegion(ctx, "nowhere", api.NewRegion{DisplayName: "other"}, `"1"`, api.PutRegionOptions{})
		answered(t, err, 404)
		if same, tag, err := c.PutRegion(ctx, "eu", api.NewRegion{DisplayName: "Europe", Latitude: 52, Longitude: 5, Only: []string{"NL", "DE"},
			ClientCIDRs: []string{"192.0.2.7", "10.1.0.0/16", "2001:db8::/32"}}, "", api.PutRegionOptions{}); err != nil || same.Revision != 1 || tag != `"1"` {
			t.Errorf("the same again: %+v %s %v", same, tag, err)
		}
		for field, bad := range map[string]api.NewRegion{"body.latitude": {Latitude: 91}, "body.longitude": {Longitude: -181}, "body.only[0]": {Only: []string{"XX"}}, "body.client_cidrs[1]": {ClientCIDRs: []string{"10.0.0.0/8", "10.0.0.0/99"}},
			"body.fallback[0]": {Fallback: []string{"mars"}}, "body.client_cidrs[0]": {ClientCIDRs: []string{"192.0.2.7/32"}}, "body.display_name": {DisplayName: "a\x07"}} {
			_, _, err = c.PutRegion(ctx, "us", bad, "", create)
			faults(t, err, 422, field)
		}
		_, _, err = c.PutRegion(ctx, "US_1", api.NewRegion{}, "", create)
		faults(t, err, 422, "path.name")
		for ip, want := range map[string]string{"10.1.200.1": "eu", "192.0.2.7": "eu", "2001:db8:1::2": "eu", "10.2.0.1": "", "192.0.2.8": ""} {
			if e := call[api.Explanation](t, c, "GET", "/v1/admin/explain?ip="+ip, nil); e.Place.Region != want {
				t.Errorf("%s belongs to %q, want %q", ip, e.Place.Region, want)
			}
		}
		us := call[api.Region](t, c, "PUT", "/v1/admin/regions/us", api.NewRegion{DisplayName: "US", Latitude: 39, Longitude: -77, Fallback: []string{"eu"}})

		// What names something that is not there is an error at its field.
		_, _, err = c.PutPool(ctx, "fast", api.NewEdgePool{Region: "asia"}, "", api.PutPoolOptions{})
		faults(t, err, 422, "body.region")
		_, _, err = c.PutRoute(ctx, "news", api.NewRoute{Prefix: "/news/", Origin: "news", SteeringPolicy: "p", Regions: []string{"asia"}}, "", api.PutRouteOptions{})
		for _, f := range []string{"body.origin", "body.steering_policy", "body.regions[0]"} {
			faults(t, err, 422, f)
		}
		_, _, err = c.PutSteeringPolicy(ctx, "default", api.NewSteeringPolicy{Weights: map[string]float64{"fast": 2}, Regions: map[string]api.PolicyRegion{"eu": {Fallback: []string{"us", "asia"}}}}, "", api.PutSteeringPolicyOptions{})
		faults(t, err, 422, "body.weights.fast")
		faults(t, err, 422, "body.regions.eu.fallback[1]")

		pool, _, err := c.PutPool(ctx, "fast", api.NewEdgePool{Region: "eu", Match: []string{"eu-fast-*"}, Weight: 2}, "", api.PutPoolOptions{})
		if err != nil || pool.Tier != "edge" || pool.CapacityMbps != 1000 || pool.State != "active" {
			t.Errorf("%+v %v", pool, err)
		}
		_, _, err = c.PutPool(ctx, "other", api.NewEdgePool{Region: "eu", Match: []string{"eu-fast-*"}}, "", api.PutPoolOptions{})
		faults(t, err, 422, "body.match[0]")
		for field, bad := range map[string]api.NewOrigin{"body.url": {URL: "ftp://example.org"}, "body.auth_header": {URL: "http://a.example", Secret: "x"}, "body.secret": {URL: "http://a.example", AuthHeader: "Authorization"},
			"body.host_header": {URL: "http://a.example", HostHeader: "a/b"}, "body.fresh_seconds": {URL: "http://a.example", FreshSeconds: 3}} {
			_, _, err = c.PutOrigin(ctx, "news", bad, "", api.PutOriginOptions{})
			faults(t, err, 422, field)
		}
		news, tag, err := c.PutOrigin(ctx, "news", api.NewOrigin{URL: "HTTP://News.Example:80/base/", AuthHeader: "Authorization", Secret: "Bearer very secret", SecretVersion: 1}, "", api.PutOriginOptions{IfNoneMatch: "*"})
		if err != nil || news.URL != "http://news.example/base" || news.Secret != "" || news.SecretID == "" {
			t.Fatalf("%+v %v", news, err)
		}
		if again, _, err := c.PutOrigin(ctx, "news", api.NewOrigin{URL: "http://news.example/base", AuthHeader: "Authorization", SecretVersion: 1}, tag, api.PutOriginOptions{}); err != nil || again != news {
			t.Errorf("without its secret: %+v %v", again, err)
		}
		_, _, err = c.PutOrigin(ctx, "news", api.NewOrigin{URL: "http://news.example/base", AuthHeader: "Authorization", SecretVersion: 2}, tag, api.PutOriginOptions{})
		faults(t, err, 422, "body.secret")
		if _, _, err = c.PutSteeringPolicy(ctx, "slow", api.NewSteeringPolicy{Weights: map[string]float64{"fast": 0}}, "", api.PutSteeringPolicyOptions{}); err != nil {
			t.Fatal(err)
		}
		route := api.NewRoute{Prefix: "/news/", Origin: "news", SteeringPolicy: "slow", Regions: []string{"us", "eu"}}
		if _, _, err = c.PutRoute(ctx, "news", route, "", api.PutRouteOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, prefix := range []string{"news/", "/news", "/a/../b/", "/t/", "/t/x/", "//", "/a//b/", "/a?b/", "/news/"} {
			_, _, err = c.PutRoute(ctx, "more", api.NewRoute{Prefix: prefix, Origin: "news"}, "", api.PutRouteOptions{})
			faults(t, err, 422, "body.prefix")
		}

		// What is in use stays, and the answer says who uses it.
		_, err = c.DeleteRegion(ctx, "eu", "", api.DeleteRegionOptions{})
		for _, who := range []string{"pool/fast", "region/us", "route/news"} {
			faults(t, err, 409, who)
		}
		faults(t, c.DeletePool(ctx, "fast", "", api.DeletePoolOptions{}), 409, "steering-policy/slow")
		faults(t, c.DeleteOrigin(ctx, "news", "", api.DeleteOriginOptions{}), 409, "route/news")
		faults(t, c.DeleteSteeringPolicy(ctx, "slow", "", api.DeleteSteeringPolicyOptions{}), 409, "route/news")
		answered(t, c.DeleteRoute(ctx, "news", `"1"`, api.DeleteRouteOptions{}), 412)
		answered(t, c.DeleteRoute(ctx, "gone", "", api.DeleteRouteOptions{}), 404)
		_, _, err = c.GetRoute(ctx, "gone")
		answered(t, err, 404)

		// Lists have cursors.
		var names []string
		for opts := (api.ListRegionsOptions{Limit: 1}); ; {
			page, err := c.ListRegions(ctx, opts)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range page.Items {
				names = append(names, r.Name)
			}
			if opts.Cursor = page.Next; opts.Cursor == "" {
				break
			}
		}
		if got := strings.Join(names, " "); got != "eu us" {
			t.Errorf("regions: %s", got)
		}

		// A key's secret is never shown; a revoked key is gone from edges at once.
		_, _, err = c.PutSigningKey(ctx, "partner", api.NewFleetKey{Algorithm: "HS256", Secret: "short"}, "", api.PutSigningKeyOptions{})
		faults(t, err, 422, "body.secret")
		_, _, err = c.PutSigningKey(ctx, "partner", api.NewFleetKey{Algorithm: "EdDSA", PublicKey: []byte("short")}, "", api.PutSigningKeyOptions{})
		faults(t, err, 422, "body.public_key")
		m := s.join("eu-1", "eu2", "http://eu.example", 52, 5)
		edgeKeys := func() (ids []string) {
			t.Helper()
			edge := call[api.EdgeConfig](t, m.client(t, s), "GET", "/v1/fleet/config", nil)
			for _, k := range edge.Keys {
				if k.Alg == "HS256" {
					ids = append(ids, k.ID+"="+string(k.Key))
				}
			}
			return ids
		}
		secret := strings.Repeat("s", 32)
		_, tag, err = c.PutSigningKey(ctx, "partner", api.NewFleetKey{Algorithm: "HS256", Secret: secret}, "", api.PutSigningKeyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := edgeKeys(); len(got) != 1 || got[0] != "partner="+secret {
			t.Errorf("edges have %q", got)
		}
		if _, _, err = c.PutSigningKey(ctx, "partner", api.NewFleetKey{Algorithm: "HS256", State: "revoked"}, tag, api.PutSigningKeyOptions{}); err != nil {
			t.Fatal(err)
		}
		if got := edgeKeys(); got != nil {
			t.Errorf("edges have a revoked key: %q", got)
		}

		// Every change is a revision with author and patch, and none holds a secret.
		revisions := call[api.Page[api.Revision]](t, c, "GET", "/v1/admin/fleet/revisions", nil)
		b, err := json.Marshal(revisions)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), secret) || strings.Contains(string(b), "very secret") {
			t.Errorf("a secret in %s", b)
		}
		last := revisions.Items[0]
		if last.Author != "operator" || len(last.Changes) != 1 {
			t.Errorf("%+v", last)
		}
		if diff := cmp.Diff(api.Change{Kind: "signing-key", Name: "partner", Action: "updated", Patch: map[string]any{"state": "revoked"}}, last.Changes[0]); diff != "" {
			t.Error(diff)
		}

		// One can be undone, unless what it changed has changed since.
		_, tag, err = c.GetRegion(ctx, "us")
		if err != nil {
			t.Fatal(err)
		}
		moved := us.NewRegion
		moved.Fallback, moved.Latitude = nil, 40
		there, _, err := c.PutRegion(ctx, "us", moved, tag, api.PutRegionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		undo := func(n int64) (api.Revision, error) { return c.UndoRevision(ctx, n) }
		_, err = undo(us.Revision)
		answered(t, err, 409)
		undone, err := undo(there.Revision)
		if err != nil || undone.Undoes != there.Revision {
			t.Fatalf("%+v %v", undone, err)
		}
		if diff := cmp.Diff(map[string]any{"fallback": []any{"eu"}, "latitude": 39.0}, undone.Changes[0].Patch); diff != "" {
			t.Error(diff)
		}
		if back := call[api.Region](t, c, "GET", "/v1/admin/regions/us", nil); back.Latitude != 39 || back.Revision != undone.Number {
			t.Errorf("%+v", back)
		}
		_, err = undo(1) // the creation of a region that is in use
		faults(t, err, 409, "pool/fast")
		_, err = undo(999)
		answered(t, err, 404)

		// Ten who change the same from what they read: one of them does, the others are told.
		_, tag, err = c.GetRegion(ctx, "us")
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		results := make([]error, 10)
		for i := range results {
			wg.Go(func() {
				mine := us.NewRegion
				mine.DisplayName = fmt.Sprint("of ", i)
				_, _, results[i] = c.PutRegion(ctx, "us", mine, tag, api.PutRegionOptions{})
			})
		}
		wg.Wait()
		won := 0
		for _, err := range results {
			if err == nil {
				won++
			} else {
				answered(t, err, 412)
			}
		}
		if won != 1 {
			t.Errorf("%d of 10 changes from the same revision were taken", won)
		}

		// A new region joins edges; its tokens are listed without their secrets and can be taken back.
		token := call[api.JoinToken](t, c, "POST", "/v1/admin/join-tokens", api.NewJoinToken{Region: "us", MaxUses: 2})
		read := call[api.JoinToken](t, c, "GET", "/v1/admin/join-tokens/"+token.ID, nil)
		if token.Token == "" || read.Token != "" || read.UsesLeft != 2 || !read.ExpiresAt.Equal(token.ExpiresAt) {
			t.Errorf("%+v %+v", token, read)
		}
		if err := c.DeleteJoinToken(ctx, token.ID); err != nil {
			t.Error(err)
		}
		_, err = c.GetJoinToken(ctx, token.ID)
		answered(t, err, 404)

		// An edge that lives holds its region, unless by force: then it drains first.
		beat := func() api.HeartbeatReply {
			t.Helper()
			return call[api.HeartbeatReply](t, m.client(t, s), "POST", "/v1/fleet/heartbeat", api.Heartbeat{URL: "http://eu.example", RequestsPerSec: 5})
		}
		beat()
		_, err = c.DeleteRegion(ctx, "eu2", "", api.DeleteRegionOptions{})
		faults(t, err, 409, "edge/eu-1")
		if r, err := c.DeleteRegion(ctx, "eu2", "", api.DeleteRegionOptions{Force: true, DrainTimeout: "2s"}); err != nil || r.DrainUntil == nil {
			t.Fatalf("%+v %v", r, err)
		}
		if !beat().Draining {
			t.Error("the edge of a region that goes is not told to drain")
		}
		_, _, err = c.PutRegion(ctx, "eu2", api.NewRegion{DisplayName: "stay"}, "", api.PutRegionOptions{})
		answered(t, err, 409)
		eventually(t, "the region is gone", func() bool {
			_, _, err := c.GetRegion(ctx, "eu2")
			p, ok := errors.AsType[*api.Problem](err)
			return ok && p.Status == 404
		})
		if edges := call[api.Page[api.Edge]](t, c, "GET", "/v1/admin/edges", nil); len(edges.Items) != 0 {
			t.Errorf("edges of a region that is gone: %+v", edges.Items)
		}
	})
}
