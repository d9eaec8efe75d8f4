package controlplane_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"segue/controlplane/api"
	"segue/media"

	"github.com/golang-jwt/jwt/v5"
	"github.com/oklog/ulid/v2"
)

// device signs in on one more device of an account.
func (s *server) device(email, name string) (*api.Client, api.Session) {
	s.t.Helper()
	sess := call[api.Session](s.t, s.client(""), "POST", "/v1/sessions", api.NewSession{Email: email, Password: "correct horse", Device: api.Device{Type: "phone", Name: name}})
	return s.client(sess.AccessToken), sess
}

func (s *server) plan(user string, plan api.Plan) {
	s.t.Helper()
	call[api.AdminUser](s.t, s.admin, "PATCH", "/v1/admin/users/"+user, api.AdminUserChange{Plan: &plan})
}

func status(t *testing.T, url string) int {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// A revoked token is refused by a real edge within seconds, and only that one.
func TestRevocationReachesEdges(t *testing.T) {
	databases(t, func(t *testing.T, s *server) {
		origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "audio") }))
		defer origin.Close()
		call[api.Region](t, s.admin, "PUT", "/v1/admin/regions/eu", api.NewRegion{Latitude: 52, Longitude: 5})
		s.startEdge("eu-1", t.TempDir(), origin.URL)
		track := s.publish(media.Tags{Title: "A", Artist: "B", AlbumArtist: "B", Album: "C"}, 100, "a")
		user, sess := s.signIn("ada@example.org")
		other, _ := s.signIn("bob@example.org")
		start := func(c *api.Client, takeOver bool) api.Playback {
			t.Helper()
			return call[api.Playback](t, c, "POST", "/v1/playback", api.NewPlayback{TrackID: track.ID, TakeOver: takeOver})
		}
		mine, theirs := start(user, false), start(other, false)
		refusedAfter := func(what, url string) {
			t.Helper()
			begun := time.Now()
			eventually(t, what, func() bool { return status(t, url) == http.StatusForbidden })
			if d := time.Since(begun); d > 3*time.Second {
				t.Errorf("%s: refused after %s", what, d)
			}
			if got := status(t, theirs.FileURL); got != 200 {
				t.Errorf("%s: another listener gets %d", what, got)
			}
		}
		if status(t, mine.FileURL) != 200 || status(t, theirs.FileURL) != 200 {
			t.Fatal("the edge does not play")
		}
		desk, _ := s.device("ada@example.org", "desk")
		refused(t, desk, "POST", "/v1/playback", api.NewPlayback{TrackID: track.ID}, 409, "stream-limit")
		err := desk.Call(t.Context(), "POST", "/v1/playback", api.NewPlayback{TrackID: track.ID}, nil)
		if p, _ := errors.AsType[*api.Problem](err); p == nil || len(p.Devices) != 1 || p.Devices[0].Name != "test" || p.Devices[0].PlayID != mine.PlayID || p.Devices[0].ID == "" {
			t.Errorf("%+v", p)
		}
		second := start(desk, true)
		refusedAfter("take-over", mine.FileURL)
		refused(t, user, "PUT", "/v1/playback/"+mine.PlayID+"/keepalive", nil, 410, "play-over")
		refused(t, user, "POST", "/v1/playback/"+mine.PlayID+"/renew", api.RenewPlayback{}, 410, "play-over")
		renewed := call[api.Playback](t, desk, "POST", "/v1/playback/"+second.PlayID+"/renew", api.RenewPlayback{})
		if status(t, second.FileURL) != 200 || status(t, renewed.FileURL) != 200 {
			t.Error("the new stream does not play")
		}
		r := call[api.Revocation](t, s.admin, "POST", "/v1/admin/revocations", api.NewRevocation{PlayID: second.PlayID})
		if len(r.CTIs) != 1 || r.CTIs[0] != second.PlayID {
			t.Errorf("%+v", r)
		}
		refusedAfter("an operator's revocation of a play", renewed.FileURL)
		third := start(user, false)
		call[api.Revocation](t, s.admin, "POST", "/v1/admin/revocations", api.NewRevocation{UserID: sess.User.ID, Reason: "stolen"})
		refusedAfter("an operator's revocation of an account", third.FileURL)
		fourth := start(user, false)
		call[api.Revocation](t, s.admin, "POST", "/v1/admin/revocations", api.NewRevocation{CTI: fourth.PlayID})
		refusedAfter("an operator's revocation of a token", fourth.FileURL)
		refused(t, s.admin, "POST", "/v1/admin/revocations", api.NewRevocation{}, 400, "invalid-request")
		refused(t, s.admin, "POST", "/v1/admin/revocations", api.NewRevocation{PlayID: "x", CTI: "y"}, 400, "invalid-request")
		refused(t, s.admin, "POST", "/v1/admin/revocations", api.NewRevocation{UserID: "nobody"}, 404, "not-found")
		refused(t, user, "POST", "/v1/admin/revocations", api.NewRevocation{CTI: "y"}, 401, "unauthenticated")
	})
}

func TestOffline(t *testing.T) {
	databases(t, func(t *testing.T, s *server) {
		origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "data") }))
		defer origin.Close()
		call[api.Region](t, s.admin, "PUT", "/v1/admin/regions/eu", api.NewRegion{Latitude: 52, Longitude: 5})
		s.startEdge("eu-1", t.TempDir(), origin.URL)
		tags := media.Tags{Title: "Ä", Artist: "B", AlbumArtist: "B", Album: "C"}
		one := s.publish(tags, 100, "a")
		phone, sess := s.signIn("ada@example.org")
		want := api.NewOfflineLicence{Kind: "album", ID: string(one.Album.ID)}
		refused(t, phone, "POST", "/v1/offline/licences", want, 403, "plan-required")
		s.plan(sess.User.ID, api.PlanPremium)
		refused(t, phone, "POST", "/v1/offline/licences", api.NewOfflineLicence{Kind: "album", ID: ulid.Make().String()}, 404, "not-found")
		refused(t, phone, "POST", "/v1/offline/licences", api.NewOfflineLicence{Kind: "track", ID: string(one.ID), Rendition: "mp2"}, 400, "invalid-request")
		refused(t, phone, "POST", "/v1/offline/licences", api.NewOfflineLicence{Kind: "shelf", ID: string(one.ID)}, 422, "validation")

		l := call[api.OfflineLicence](t, phone, "POST", "/v1/offline/licences", want)
		if l.State != "active" || l.Title != "C" || l.Files != 1 || l.Revision != 1 || time.Until(l.ExpiresAt) < 29*24*time.Hour || l.RenewAfter == nil {
			t.Errorf("%+v", l)
		}
		if again := call[api.OfflineLicence](t, phone, "POST", "/v1/offline/licences", want); again.ID != l.ID || again.Revision != 1 {
			t.Errorf("the same again: %+v", again)
		}
		keys := call[api.KeySet](t, s.client(""), "GET", "/v1/offline/jwks.json", nil)
		tok, err := jwt.Parse(l.Document, func(*jwt.Token) (any, error) {
			b, err := base64.RawURLEncoding.DecodeString(keys.Keys[0].X)
			return ed25519.PublicKey(b), err
		}, jwt.WithAudience("segue-offline"), jwt.WithExpirationRequired())
		if err != nil || tok.Claims.(jwt.MapClaims)["jti"] != l.ID || tok.Header["typ"] != "segue-licence+jwt" {
			t.Errorf("%v %+v", err, tok)
		}
		refused(t, s.client(l.Document), "GET", "/v1/me", nil, 401, "unauthenticated") // it opens no door

		path := "/v1/offline/licences/" + l.ID
		files := call[api.OfflineFiles](t, phone, "GET", path+"/files", nil)
		if len(files.Files) != 1 || files.Files[0].Rendition != "aac_256" || files.Files[0].Size != 4 || files.Files[0].Title != "Ä" || len(files.Removed) != 0 || files.Revision != 1 {
			t.Fatalf("%+v", files)
		}
		if b := fetch(t, files.Files[0].URL); b != "data" {
			t.Errorf("%q", b)
		}
		if got := status(t, strings.Replace(files.Files[0].URL, "aac_256", "aac_96", 1)); got != 403 {
			t.Errorf("a token for one rendition gives another: %d", got)
		}

		// The album grows: one more file, and only that.
		tags.Title, tags.TrackNumber = "Second", 2
		two := s.publish(tags, 60, "b")
		files = call[api.OfflineFiles](t, phone, "GET", path+"/files?since=1", nil)
		if len(files.Files) != 1 || files.Files[0].TrackID != two.ID || files.Revision != 2 {
			t.Errorf("%+v", files)
		}
		page := call[api.OfflineFiles](t, phone, "GET", path+"/files?limit=1", nil)
		last := call[api.OfflineFiles](t, phone, "GET", path+"/files?limit=1&cursor="+page.Next, nil)
		if page.Next == "" || last.Next != "" || last.Revision != 2 || len(last.Files) != 1 || last.Files[0].TrackID == page.Files[0].TrackID {
			t.Errorf("%+v\n%+v", page, last)
		}
		refused(t, phone, "GET", path+"/files?cursor=x", nil, 400, "invalid-request")

		// Late plays: counted for their licence, refused to strangers, harmless when they come again.
		event := api.Event{ID: ulid.Make().String(), PlayID: ulid.Make().String(), Type: api.EventEnd, At: time.Now().UTC(), PlayedMS: 31_000, LicenceID: l.ID, TrackID: one.ID}
		stranger, _ := s.signIn("eve@example.org")
		send := func(c *api.Client, e api.Event) int {
			t.Helper()
			return call[api.EventsAccepted](t, c, "POST", "/v1/events", []api.Event{e}).Accepted
		}
		if n := send(stranger, event); n != 0 {
			t.Error("a stranger's event with somebody's licence is taken")
		}
		for try := range 2 {
			if send(phone, event) != 1 {
				t.Errorf("an offline play is refused, the %d. time", try+1)
			}
		}
		if n := send(stranger, event); n != 0 {
			t.Error("a stranger's event of a known play is taken")
		}
		foreign := event
		foreign.ID, foreign.PlayID, foreign.TrackID = ulid.Make().String(), ulid.Make().String(), media.TrackID(ulid.Make().String())
		old := event
		old.ID, old.PlayID = ulid.Make().String(), ulid.MustNew(ulid.Timestamp(time.Now().Add(-time.Hour)), ulid.DefaultEntropy()).String()
		if send(phone, foreign) != 0 || send(phone, old) != 0 {
			t.Error("a play of another track, or from before the licence, is taken")
		}

		// At most five devices, also when they come at once; one that gives back makes room.
		var wg sync.WaitGroup
		var mu sync.Mutex
		granted := 1
		for i := range 8 {
			c, _ := s.device("ada@example.org", fmt.Sprint("device ", i))
			wg.Go(func() {
				err := c.Call(t.Context(), "POST", "/v1/offline/licences", want, nil)
				mu.Lock()
				defer mu.Unlock()
				if p, _ := errors.AsType[*api.Problem](err); err == nil {
					granted++
				} else if p == nil || p.Type != "/problems/offline-device-limit" || len(p.Devices) != 5 || p.Devices[0].Licences != 1 {
					t.Errorf("%v", err)
				}
			})
		}
		wg.Wait()
		if granted != 5 {
			t.Errorf("%d devices have licences", granted)
		}
		list := call[api.Page[api.BusyDevice]](t, phone, "GET", "/v1/offline/devices", nil)
		if len(list.Items) != 5 || list.Items[0].Name != "test" {
			t.Fatalf("%+v", list)
		}
		if err := phone.Call(t.Context(), "DELETE", "/v1/offline/devices/"+list.Items[4].ID, nil, nil); err != nil {
			t.Fatal(err)
		}
		sixth, _ := s.device("ada@example.org", "sixth")
		theirs := call[api.OfflineLicence](t, sixth, "POST", "/v1/offline/licences", want)
		refused(t, phone, "GET", "/v1/offline/licences/"+theirs.ID+"/files", nil, 403, "forbidden") // another device's
		refused(t, stranger, "GET", path, nil, 404, "not-found")
		if all := call[api.Page[api.OfflineLicence]](t, phone, "GET", "/v1/offline/licences", nil); len(all.Items) != 6 {
			t.Errorf("%d licences of the account", len(all.Items))
		}
		if mine := call[api.Page[api.OfflineLicence]](t, phone, "GET", "/v1/offline/licences?device=current", nil); len(mine.Items) != 1 || mine.Items[0].ID != l.ID {
			t.Errorf("%+v", mine)
		}
		if r := call[api.OfflineLicence](t, phone, "POST", path+"/renew", nil); r.State != "active" || r.Revision != 2 {
			t.Errorf("%+v", r)
		}

		// The plan ends: licences and downloads with it. What was heard before is still taken.
		url := call[api.OfflineFiles](t, phone, "GET", path+"/files", nil).Files[0].URL
		if status(t, url) != 200 {
			t.Fatal("no download")
		}
		s.plan(sess.User.ID, api.PlanFree)
		refused(t, phone, "POST", path+"/renew", nil, 410, "licence-revoked")
		refused(t, phone, "GET", path+"/files", nil, 410, "licence-revoked")
		if r := call[api.OfflineLicence](t, phone, "GET", path, nil); r.State != "revoked" || r.Reason != "plan-ended" || r.Document != "" {
			t.Errorf("%+v", r)
		}
		eventually(t, "the edge refuses the download", func() bool { return status(t, url) == 403 })
		event.ID = ulid.Make().String()
		if send(phone, event) != 1 {
			t.Error("a late event of a play under a licence that ended since is refused")
		}
		if _, err := hex.DecodeString(files.Files[0].SHA256); err != nil {
			t.Error(err)
		}
	})
}
