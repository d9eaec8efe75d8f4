package controlplane_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/png"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"segue/controlplane/api"
	"segue/internal/testenv"
	"segue/media"

	"github.com/google/go-cmp/cmp"
	"github.com/oklog/ulid/v2"
)

// person calls a server with headers of their own choice.
type person struct {
	t     *testing.T
	base  string
	token string
	id    string
}

func (s *server) person(email string) person {
	s.t.Helper()
	_, sess := s.signIn(email)
	return person{s.t, s.URL, sess.AccessToken, sess.User.ID}
}

// do returns the status and the header, and reads the answer into out, when that is not nil. match is an If-Match.
func (p person) do(method, path, match string, in, out any) (int, http.Header) {
	p.t.Helper()
	var body io.Reader
	switch v := in.(type) {
	case nil:
	case []byte:
		body = bytes.NewReader(v)
	default:
		b, err := json.Marshal(in)
		if err != nil {
			p.t.Fatal(err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequest(method, p.base+path, body)
	if err != nil {
		p.t.Fatal(err)
	}
	if p.token != "" {
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	if match != "" {
		req.Header.Set("If-Match", match)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Error(err)
		return 0, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Error(err)
	}
	if out != nil {
		if err := json.Unmarshal(b, out); err != nil {
			p.t.Errorf("%s %s: %d %s: %v", method, path, resp.StatusCode, b, err)
		}
	}
	return resp.StatusCode, resp.Header
}

func TestPlaylistsOverHTTP(t *testing.T) {
	databases(t, func(t *testing.T, s *server) {
		ada, bob, eve := s.person("ada@example.org"), s.person("bob@example.org"), s.person("eve@example.org")
		nobody := person{t, s.URL, "", ""}
		track := s.publish(media.Tags{Title: "Café", Artist: "B", AlbumArtist: "B", Album: "C"}, 100, "a")
		want := func(why string, got int, status int) {
			t.Helper()
			if got != status {
				t.Errorf("%s: %d, want %d", why, got, status)
			}
		}
		tried := func(who person, method, path, match string, in any, status int, slug string) http.Header {
			t.Helper()
			var problem api.Problem
			got, header := who.do(method, path, match, in, &problem)
			if got != status || problem.Type != "/problems/"+slug || header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s %s: %d %+v, want %d %s", method, path, got, problem, status, slug)
			}
			return header
		}
		var p api.Playlist
		status, header := ada.do("POST", "/v1/playlists", "", api.NewPlaylist{Name: "Für Elise"}, &p)
		want("create", status, 201)
		if header.Get("ETag") != `"1"` || p.Name != "Für Elise" || p.Owner.DisplayName != "ada" {
			t.Errorf("%v %+v", header, p)
		}
		path := "/v1/playlists/" + p.ID
		add := api.AddItems{Items: []api.NewItem{{TrackID: track.ID}}}
		var c api.ItemsChanged
		status, header = ada.do("POST", path+"/items", `"1"`, add, &c)
		want("add", status, 200)
		if header.Get("ETag") != `"2"` || c.Revision != 2 || len(c.EntryIDs) != 1 {
			t.Errorf("%v %+v", header, c)
		}
		for _, match := range []string{`"1"`, `"x"`, `W/"2"`, `2`, `"1", "7"`} {
			if h := tried(ada, "POST", path+"/items", match, add, 412, "precondition-failed"); h.Get("ETag") != `"2"` {
				t.Errorf("If-Match %s: %v", match, h)
			}
		}
		for _, match := range []string{`"1" , "2"`, `*`, ""} {
			status, _ = ada.do("PATCH", path, match, api.PlaylistChange{Description: new(string)}, nil) // of nothing
			want("If-Match "+match, status, 200)
		}
		var page api.PlaylistItems
		status, header = ada.do("GET", path+"/items", "", nil, &page)
		want("items", status, 200)
		if len(page.Items) != 1 || page.Items[0].Title != "Café" || page.Items[0].Track == nil || page.Items[0].Track.ID != track.ID || page.Items[0].AddedBy.DisplayName != "ada" || header.Get("ETag") != `"2"` {
			t.Errorf("%+v", page)
		}
		if _, _ = ada.do("POST", path+"/items?duplicates=skip", "", add, &c); len(c.Skipped) != 1 || c.Revision != 2 {
			t.Errorf("%+v", c)
		}
		tried(eve, "GET", path, "", nil, 404, "not-found")
		tried(eve, "POST", path+"/items", "", add, 404, "not-found")
		tried(nobody, "GET", path, "", nil, 401, "unauthenticated")
		tried(ada, "GET", "/v1/playlists/%00", "", nil, 400, "invalid-request")
		tried(ada, "GET", "/v1/playlists/"+ulid.Make().String(), "", nil, 404, "not-found")
		tried(ada, "POST", "/v1/playlists", "", map[string]any{"nam": "x"}, 422, "validation")
		tried(ada, "POST", "/v1/playlists", "", api.NewPlaylist{Name: " "}, 400, "invalid-request")
		tried(ada, "POST", path+"/items", "", api.AddItems{Items: []api.NewItem{{TrackID: media.TrackID(ulid.Make().String())}}}, 400, "invalid-request")
		tried(ada, "POST", path+"/items", "", api.AddItems{Items: []api.NewItem{}}, 422, "validation")
		tried(ada, "POST", path+"/items/move", "", api.MoveItems{EntryIDs: []string{}, AtEnd: true}, 422, "validation")
		tried(ada, "GET", path+"/items?cursor=x", "", nil, 400, "invalid-request")

		// A link: for those without an account a look, then a role.
		var link api.ShareLink
		status, _ = ada.do("POST", path+"/share-links", "", nil, &link)
		want("share", status, 201)
		var shared api.SharedPlaylist
		status, _ = nobody.do("GET", link.URL, "", nil, &shared)
		want("preview", status, 200)
		if shared.Name != "Für Elise" || shared.OwnerName != "ada" || len(shared.Tracks) != 1 || shared.Tracks[0].Title != "Café" || len(shared.Mosaic) != 1 {
			t.Errorf("%+v", shared)
		}
		tried(nobody, "POST", link.URL, "", nil, 401, "unauthenticated")
		tried(nobody, "GET", "/v1/shared/sgs_NOTHING", "", nil, 404, "not-found")
		status, _ = bob.do("POST", link.URL, "", nil, &p)
		want("accept", status, 200)
		tried(bob, "POST", path+"/items", "", add, 403, "forbidden")
		tried(bob, "DELETE", path, "", nil, 403, "forbidden")
		status, _ = ada.do("DELETE", path+"/share-links/"+link.ID, "", nil, nil)
		want("revoke", status, 204)
		tried(nobody, "GET", link.URL, "", nil, 404, "not-found")
		status, _ = ada.do("PUT", path+"/collaborators/"+bob.id, "", api.SetCollaborator{Role: "editor"}, nil)
		want("promote", status, 204)
		tried(ada, "PUT", path+"/collaborators/"+ulid.Make().String(), "", api.SetCollaborator{Role: "editor"}, 404, "not-found")
		status, _ = bob.do("POST", path+"/items", "", add, &c)
		want("add by an editor", status, 200)
		status, _ = bob.do("POST", path+"/items/move", "", api.MoveItems{EntryIDs: c.EntryIDs, AtStart: true}, nil)
		want("move", status, 200)
		status, _ = bob.do("DELETE", path+"/items", "", api.EntryIDs{EntryIDs: c.EntryIDs}, &c)
		want("remove", status, 200)
		if len(c.EntryIDs) != 1 || c.Total != 1 {
			t.Errorf("%+v", c)
		}
		status, _ = bob.do("DELETE", path+"/items/"+c.EntryIDs[0], "", nil, &c)
		want("remove again", status, 200)
		if len(c.EntryIDs) != 0 || len(c.Left) != 1 {
			t.Errorf("%+v", c)
		}
		status, _ = bob.do("POST", path+"/undo", "", nil, &p)
		want("undo", status, 200)
		if p.TrackCount != 2 || p.Revision != 6 {
			t.Errorf("%+v", p)
		}
		status, _ = bob.do("POST", path+"/restore", `"6"`, api.RestorePlaylist{Revision: 2}, &p)
		want("restore", status, 200)
		var revisions api.Page[api.PlaylistRevision]
		status, _ = ada.do("GET", path+"/revisions?limit=5", "", nil, &revisions)
		want("revisions", status, 200)
		if len(revisions.Items) != 5 || revisions.Items[0].Operation != api.PlaylistRestored || revisions.Items[0].Author.DisplayName != "bob" || revisions.Next == "" {
			t.Errorf("%+v", revisions)
		}
		status, _ = ada.do("GET", path+"/revisions/3/items", "", nil, &page)
		want("items of a revision", status, 200)
		if page.Revision != 3 || len(page.Items) != 2 {
			t.Errorf("%+v", page)
		}
		tried(ada, "GET", path+"/revisions/99/items", "", nil, 404, "not-found")
		tried(ada, "POST", path+"/undo", "", api.UndoPlaylist{Revision: 3, Count: 2}, 400, "invalid-request")

		// A cover goes to the origin, where edges serve it without a token.
		var file bytes.Buffer
		if err := png.Encode(&file, image.NewRGBA(image.Rect(0, 0, 100, 100))); err != nil {
			t.Fatal(err)
		}
		status, _ = ada.do("PUT", path+"/cover", "", file.Bytes(), &p)
		want("cover", status, 200)
		if p.Cover == nil {
			t.Fatalf("%+v", p)
		}
		o, err := s.objects.Stat(t.Context(), media.Key(strings.TrimPrefix(strings.Replace(p.Cover.URL, "{size}", "300", 1), "/r/")))
		if err != nil || o.ContentType != "image/jpeg" || o.Key.Protected() {
			t.Errorf("%+v %v", o, err)
		}
		tried(ada, "PUT", path+"/cover", "", []byte("hello"), 400, "invalid-request")
		tried(ada, "PUT", path+"/cover", "", make([]byte, 9<<20), 413, "too-large")
		tried(eve, "PUT", path+"/cover", "", file.Bytes(), 404, "not-found")

		// Public: followed, listed, in folders.
		public := true
		status, _ = ada.do("PATCH", path, "", api.PlaylistChange{Public: &public}, &p)
		want("publish", status, 200)
		var seen api.Playlist
		status, _ = eve.do("PUT", "/v1/me/library/playlists/"+p.ID, "", nil, &seen)
		want("follow", status, 200)
		if seen.Followers != 1 || !seen.InLibrary || seen.Role != "" {
			t.Errorf("%+v", seen)
		}
		tried(eve, "POST", path+"/items", "", add, 403, "forbidden")
		var folder api.PlaylistFolder
		status, _ = eve.do("POST", "/v1/me/playlist-folders", "", api.NewPlaylistFolder{Name: "f"}, &folder)
		want("folder", status, 201)
		status, _ = eve.do("PATCH", "/v1/me/library/playlists/"+p.ID, "", api.LibraryPlace{FolderID: &folder.ID}, nil)
		want("into it", status, 204)
		var list api.Page[api.LibraryPlaylist]
		eve.do("GET", "/v1/playlists?kind=followed&folder="+folder.ID, "", nil, &list)
		if len(list.Items) != 1 || list.Items[0].FolderID != folder.ID || list.Items[0].Name != "Für Elise" {
			t.Errorf("%+v", list)
		}
		status, _ = eve.do("DELETE", "/v1/me/playlist-folders/"+folder.ID, "", nil, nil)
		want("delete folder", status, 204)
		var of api.Page[api.Playlist]
		eve.do("GET", "/v1/users/"+ada.id+"/playlists", "", nil, &of)
		if len(of.Items) != 1 {
			t.Errorf("%+v", of)
		}
		status, _ = eve.do("DELETE", "/v1/me/library/playlists/"+p.ID, "", nil, nil)
		want("unfollow", status, 204)
		tried(ada, "DELETE", "/v1/me/library/playlists/"+p.ID, "", nil, 403, "forbidden")
		status, header = ada.do("POST", path+"/owner", "", api.NewOwner{UserID: bob.id}, &p)
		want("hand over", status, 200)
		tried(ada, "DELETE", path, "", nil, 403, "forbidden")
		tried(bob, "DELETE", path, `"1"`, nil, 412, "precondition-failed")
		status, _ = bob.do("DELETE", path, header.Get("ETag"), nil, nil)
		want("delete", status, 204)
		tried(bob, "GET", path, "", nil, 404, "not-found")
		var empty api.Playlist
		bob.do("POST", "/v1/playlists", "", api.NewPlaylist{Name: "empty"}, &empty)
		tried(bob, "POST", "/v1/playlists/"+empty.ID+"/undo", "", api.UndoPlaylist{}, 409, "nothing-to-undo")
	})
}

// act is an acknowledged change that became a revision.
type act struct {
	revision              int64
	added, removed, moved []string
	before, after         string
	start                 bool
}

// place is where an entry stands, or stood before it was moved or removed. Its name is the entry's id and a number.
type place struct {
	entry string
	here  bool
}

// TestPlaylistWriters: many people change one playlist at once, with and without If-Match, and send some changes again.
// Then all acknowledged changes are done again by the numbers of their revisions, on a plain slice: what comes out at the
// end, and at every revision that a reader saw meanwhile, is what the server has.
func TestPlaylistWriters(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { writers(t, newServer(t, "sqlite:"+t.TempDir()+"/segue.db", "")) })
	t.Run("postgres", func(t *testing.T) { // two replicas
		dsn := testenv.Postgres(t)
		writers(t, newServer(t, dsn, ""), newServer(t, dsn, ""))
	})
}

func writers(t *testing.T, servers ...*server) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	s := servers[0]
	track := s.publish(media.Tags{Title: "A", Artist: "B", AlbumArtist: "B", Album: "C"}, 100, "a")
	people := []person{s.person("ada@example.org"), s.person("bob@example.org"), s.person("eve@example.org")}
	var p api.Playlist
	people[0].do("POST", "/v1/playlists", "", api.NewPlaylist{Name: "ours"}, &p)
	path := "/v1/playlists/" + p.ID
	var link api.ShareLink
	people[0].do("POST", path+"/share-links", "", api.NewShareLink{Role: "editor"}, &link)
	for _, who := range people[1:] {
		if status, _ := who.do("POST", link.URL, "", nil, nil); status != 200 {
			t.Fatal(status)
		}
	}

	var mu sync.Mutex // guards the variables below
	var acts []act
	var known []string            // entries, also removed ones
	reads := map[int64][]string{} // what readers saw, by revision
	stale, repeated := 0, 0
	note := func(a act) {
		mu.Lock()
		defer mu.Unlock()
		acts = append(acts, a)
		known = append(known, a.added...)
	}
	anyEntry := func(rng *rand.Rand) string {
		mu.Lock()
		defer mu.Unlock()
		if len(known) == 0 {
			return ""
		}
		return known[rng.IntN(len(known))]
	}

	// change sends a change until it is acknowledged, half of the time with If-Match. ok is false when it was given up.
	change := func(rng *rand.Rand, who person, method, path string, in any) (out api.ItemsChanged, ok bool) {
		match := ""
		if rng.IntN(2) == 0 {
			_, header := who.do("GET", path[:strings.Index(path, "/items")], "", nil, nil)
			match = header.Get("ETag")
		}
		for try := 0; ; try++ {
			status, header := who.do(method, path, match, in, &out)
			switch {
			case status == 412 && match != "" && header.Get("ETag") != "" && header.Get("ETag") != match:
				mu.Lock()
				stale++
				mu.Unlock()
				if match = header.Get("ETag"); try == 3 {
					match = "" // waited long enough
				}
				out = api.ItemsChanged{}
			case status != 200:
				t.Errorf("%s %s: %d", method, path, status)
				return out, false
			default:
				if match != "" && len(out.EntryIDs) > 0 && match != fmt.Sprintf(`"%d"`, out.Revision-1) {
					t.Errorf("matched %s and made %d", match, out.Revision)
				}
				return out, true
			}
		}
	}

	var wg sync.WaitGroup
	done := make(chan struct{})
	for w := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(w)))
			who := people[w%len(people)]
			who.base = servers[w%len(servers)].URL
			for range 40 {
				switch k := rng.IntN(10); {
				case k < 5:
					in := api.AddItems{}
					for range 1 + rng.IntN(3) {
						in.Items = append(in.Items, api.NewItem{TrackID: track.ID, EntryID: ulid.Make().String()})
					}
					switch at := anyEntry(rng); rng.IntN(4) {
					case 0:
						in.Before = at
					case 1:
						in.After = at
					case 2:
						in.AtStart = true
					}
					out, ok := change(rng, who, "POST", path+"/items", in)
					if !ok {
						return
					}
					if len(out.EntryIDs) != len(in.Items) {
						t.Errorf("%d of %d added", len(out.EntryIDs), len(in.Items))
					}
					note(act{revision: out.Revision, added: out.EntryIDs, before: in.Before, after: in.After, start: in.AtStart})
					if rng.IntN(3) == 0 { // as if the answer had been lost
						mu.Lock()
						repeated++
						mu.Unlock()
						if again, ok := change(rng, who, "POST", path+"/items", in); ok && len(again.EntryIDs) != 0 {
							t.Errorf("a repeat added %v", again.EntryIDs)
						}
					}
				case k < 7:
					in := api.EntryIDs{EntryIDs: []string{ulid.Make().String()}}
					for range 2 {
						if e := anyEntry(rng); e != "" {
							in.EntryIDs = append(in.EntryIDs, e)
						}
					}
					if out, ok := change(rng, who, "DELETE", path+"/items", in); ok && len(out.EntryIDs) > 0 {
						note(act{revision: out.Revision, removed: out.EntryIDs})
						if again, ok := change(rng, who, "DELETE", path+"/items", in); ok && len(again.EntryIDs) != 0 {
							t.Errorf("a repeat removed %v", again.EntryIDs)
						}
					}
				default:
					what, at := []string{anyEntry(rng), anyEntry(rng)}, anyEntry(rng)
					if slices.Contains(what, at) {
						continue
					}
					in := api.MoveItems{EntryIDs: slices.Compact(what)}
					switch rng.IntN(4) {
					case 0:
						in.Before = at
					case 1:
						in.After = at
					case 2:
						in.AtStart = true
					default:
						in.AtEnd = true
					}
					if out, ok := change(rng, who, "POST", path+"/items/move", in); ok && len(out.EntryIDs) > 0 {
						note(act{revision: out.Revision, moved: out.EntryIDs, before: in.Before, after: in.After, start: in.AtStart})
					}
				}
			}
		})
	}
	read := func(who person, limit int) (int64, []string) {
		seen, revision := []string{}, int64(0)
		for cursor := ""; ; {
			var page api.PlaylistItems
			if status, _ := who.do("GET", fmt.Sprintf("%s/items?limit=%d&cursor=%s", path, limit, cursor), "", nil, &page); status != 200 || revision != 0 && page.Revision != revision {
				t.Errorf("status %d, a page of revision %d after one of %d", status, page.Revision, revision)
				return 0, nil
			}
			revision = page.Revision
			for _, i := range page.Items {
				seen = append(seen, i.EntryID)
			}
			if cursor = page.Next; cursor == "" {
				return revision, seen
			}
		}
	}
	var readers sync.WaitGroup
	for r := range 2 {
		readers.Go(func() {
			who := people[r]
			who.base = servers[r%len(servers)].URL
			for {
				if revision, seen := read(who, 5+20*r); revision != 0 {
					mu.Lock()
					reads[revision] = seen
					mu.Unlock()
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	wg.Wait()
	close(done)
	readers.Wait()
	revision, final := read(people[0], 500)
	reads[revision] = final

	slices.SortFunc(acts, func(a, b act) int { return int(a.revision - b.revision) })
	var line []place
	last := map[string]string{} // entry -> the name of its newest place
	n := 0
	find := func(entry string) int {
		return slices.IndexFunc(line, func(x place) bool { return x.entry == last[entry] })
	}
	stand := func(a act, what []string) {
		at := len(line)
		switch {
		case a.before != "":
			at = find(a.before)
		case a.after != "":
			at = find(a.after) + 1
		case a.start:
			at = 0
		}
		var in []place
		for _, e := range what {
			n++
			in = append(in, place{fmt.Sprint(e, " ", n), true})
		}
		line = slices.Insert(line, at, in...)
		for _, x := range in {
			last[x.entry[:26]] = x.entry
		}
	}
	leave := func(what []string) {
		for _, e := range what {
			i := find(e)
			if i < 0 || !line[i].here {
				t.Errorf("%s left and was not there", e)
				continue
			}
			line[i].here = false
		}
	}
	compared := 0
	for i, a := range acts {
		if a.revision != int64(i+2) {
			t.Fatalf("change %d is revision %d: a gap, or a number given twice", i, a.revision)
		}
		leave(a.removed)
		leave(a.moved)
		stand(a, slices.Concat(a.added, a.moved))
		if seen, ok := reads[a.revision]; ok {
			now := []string{}
			for _, x := range line {
				if x.here {
					now = append(now, x.entry[:26])
				}
			}
			if d := cmp.Diff(seen, now); d != "" {
				t.Fatalf("at revision %d: %s", a.revision, d)
			}
			compared++
		}
	}
	if int64(len(acts)+1) != revision {
		t.Errorf("%d changes were acknowledged, the playlist is at revision %d", len(acts), revision)
	}
	t.Logf("%d changes, %d entries at the end, %d refused as stale, %d adds repeated, %d states compared", len(acts), len(final), stale, repeated, compared)
	if compared < 3 || stale == 0 || repeated == 0 {
		t.Error("too little happened at once")
	}
	next := revision
	for cursor := ""; ; {
		var page api.Page[api.PlaylistRevision]
		people[0].do("GET", path+"/revisions?limit=50&cursor="+cursor, "", nil, &page)
		for _, r := range page.Items {
			if r.Revision != next || r.Author == nil {
				t.Fatalf("%+v, want revision %d", r, next)
			}
			next--
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	if next != 0 {
		t.Errorf("the history ends at %d", next+1)
	}
}
