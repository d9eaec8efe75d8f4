package controlplane_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"segue/controlplane/api"
	"segue/media"
	"segue/media/dash"
	"segue/media/hls"
)

// get asks as a player: without credentials, following nothing.
func get(t *testing.T, url string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	c := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func TestSteering(t *testing.T) {
	databases(t, func(t *testing.T, s *server) {
		user, _ := s.signIn("ada@example.org")
		track := s.publish(media.Tags{Title: "A", Artist: "B", AlbumArtist: "B", Album: "C"}, 100, "a")
		renditions := []media.Rendition{{Name: "aac_96", File: "aac_96.mp4", Codec: "mp4a.40.2"}, {Name: "aac_160", File: "aac_160.mp4", Codec: "mp4a.40.2"}}
		mpd, err := dash.Manifest(100*time.Second, renditions)
		if err != nil {
			t.Fatal(err)
		}
		for name, body := range map[string]string{media.LimitedMasterPlaylist: string(hls.Multivariant(renditions)), media.LimitedManifest: string(mpd)} {
			if _, err := s.objects.Put(t.Context(), media.Object{Key: media.TrackKey(track.ID, track.Version, name), Size: int64(len(body))}, strings.NewReader(body)); err != nil {
				t.Fatal(err)
			}
		}
		far := s.join("us-1", "us", "http://us.example", 39, -77)
		near := s.join("eu-1", "eu", "http://eu.example", 52.4, 4.9)
		beat := func(m member, url string) {
			call[api.HeartbeatReply](t, m.client(t, s), "POST", "/v1/fleet/heartbeat", api.Heartbeat{URL: url})
		}
		p := call[api.Playback](t, user, "POST", "/v1/playback", api.NewPlayback{TrackID: track.ID})
		if !strings.HasPrefix(p.SteeredHLSURL, s.URL+"/play/") || !strings.HasSuffix(p.SteeredDASHURL, "/manifest.mpd") {
			t.Fatalf("%+v", p)
		}
		resp, list := get(t, p.SteeredHLSURL)
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/vnd.apple.mpegurl" || resp.Header.Get("Access-Control-Allow-Origin") != "*" || strings.Count(list, "\nhttp://eu.example/t/") != 2 || strings.Count(list, "\nhttp://us.example/t/") != 2 {
			t.Errorf("%v %s", resp, list)
		}
		if resp, mpd := get(t, p.SteeredDASHURL); resp.StatusCode != 200 || !strings.Contains(mpd, "<ContentSteering defaultServiceLocation=\"eu-1\"") {
			t.Errorf("%v %s", resp, mpd)
		}
		_, rest, _ := strings.Cut(list, `SERVER-URI="`)
		server, _, _ := strings.Cut(rest, `"`)
		priority := func() []string {
			t.Helper()
			resp, body := get(t, server+"&_HLS_pathway=eu-1&_HLS_throughput=5000000")
			var a struct {
				Priority []string `json:"PATHWAY-PRIORITY"`
			}
			if err := json.Unmarshal([]byte(body), &a); err != nil || resp.Header.Get("Content-Type") != "application/vnd.apple.steering-list" || resp.Header.Get("Cache-Control") != "private, no-store" {
				t.Fatalf("%v %v %s", err, resp, body)
			}
			return a.Priority
		}
		if got := priority(); len(got) != 2 || got[0] != "eu-1" {
			t.Errorf("%v", got)
		}
		if err := s.admin.Call(t.Context(), "POST", "/v1/admin/edges/"+near.id+"/drain", nil, nil); err != nil {
			t.Fatal(err)
		}
		beat(near, "http://eu.example")
		beat(far, "http://us.example")
		eventually(t, "players leave an edge that drains", func() bool { return strings.Join(priority(), " ") == "us-1 eu-1" })
		if err := s.admin.Call(t.Context(), "POST", "/v1/admin/edges/"+near.id+"/undrain", nil, nil); err != nil {
			t.Fatal(err)
		}
		beat(near, "http://eu.example")
		beat(far, "http://us.example")
		eventually(t, "and come back", func() bool { return strings.Join(priority(), " ") == "eu-1 us-1" })

		// Redirects: public, by token, of a route, refused; explained to operators only.
		_, token, _ := strings.Cut(p.HLSURL, "/t/")
		token, _, _ = strings.Cut(token, "/")
		key := string(media.TrackKey(track.ID, track.Version, "aac_96.mp4"))
		redirect := func(path string, status int, to string) {
			t.Helper()
			if resp, body := get(t, s.URL+path); resp.StatusCode != status || resp.Header.Get("Location") != to {
				t.Errorf("%s: %d %q %s", path, resp.StatusCode, resp.Header.Get("Location"), body)
			}
		}
		redirect("/r/t/"+token+"/"+key, 302, "http://eu.example/t/"+token+"/"+key)
		redirect("/r/news/a%20b.json?page=2", 302, "http://eu.example/news/a%20b.json?page=2")
		redirect("/r/t/"+token+"/media/other/x.mp4", 403, "")
		redirect("/r/t/nonsense/"+key, 401, "")
		redirect("/r/"+key, 403, "")
		redirect("/r/news/%2e%2e/x", 400, "")
		redirect("/r/"+key+"?explain=1", 403, "")
		if resp, _ := get(t, s.URL+"/r/news/a?explain=1"); resp.StatusCode != 401 {
			t.Errorf("explained to anybody: %v", resp.Status)
		}
		var e api.Explanation
		if _, body := get(t, s.URL+"/r/news/a?explain=1", "Authorization", "Bearer "+adminToken); json.Unmarshal([]byte(body), &e) != nil || len(e.Picks) != 2 || e.Picks[0].Reason != "nearest" {
			t.Errorf("%s", body)
		}
		e = call[api.Explanation](t, s.admin, "GET", "/v1/admin/explain?ip=192.0.2.1&track="+string(track.ID), nil)
		if len(e.Picks) != 2 || e.Place.Latitude != nil || e.Picks[0].Reason != "hash" || !strings.HasPrefix(e.Object, "media/") {
			t.Errorf("%+v", e)
		}
		refused(t, s.admin, "GET", "/v1/admin/explain?ip=nonsense", nil, 400, "invalid-request")
		refused(t, user, "GET", "/v1/admin/explain?ip=192.0.2.1", nil, 401, "unauthenticated")
		for path, status := range map[string]int{"/steering/hls": 400, "/steering/mss?p=a": 404, "/steering/hls?t=x": 401, "/play/x/master.m3u8": 401, "/play/" + token + "/other.m3u8": 404} {
			if resp, body := get(t, s.URL+path); resp.StatusCode != status {
				t.Errorf("%s: %d, want %d: %s", path, resp.StatusCode, status, body)
			}
		}
	})
}
