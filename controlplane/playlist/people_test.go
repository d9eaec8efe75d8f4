package playlist_test

import (
	"bytes"
	"cmp"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"slices"
	"strings"
	"testing"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/playlist"
	"segue/media"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/oklog/ulid/v2"
)

// testRoles: everybody tries everything, on a private and on a public playlist.
func testRoles(t *testing.T, e *env) {
	ctx := t.Context()
	owner, editor, viewer, invited, stranger := e.users[0], e.users[1], e.users[2], e.users[3], e.users[4]
	track := e.track("a")
	for _, public := range []bool{false, true} {
		id := e.together(owner, editor)
		must(t, e.Invite(ctx, owner, id, viewer, api.RoleViewer))
		_, err := e.Keep(ctx, viewer, id)
		must(t, err)
		must(t, e.Invite(ctx, owner, id, invited, api.RoleEditor))
		_, err = e.Change(ctx, owner, id, nil, api.PlaylistChange{Public: &public})
		must(t, err)
		es := e.add(owner, id, api.AddItems{}, track, track)
		link, err := e.Share(ctx, owner, id, api.NewShareLink{})
		must(t, err)
		read := func(who string) error { _, err := e.Get(ctx, who, id); return err }
		ok, denied := error(nil), media.ErrDenied
		nobody := media.ErrNotFound // what a stranger gets of a private one
		sees := media.ErrNotFound
		if public {
			nobody, sees = media.ErrDenied, nil
		}
		for _, c := range []struct {
			what string
			try  func(who string) error
			want [5]error // owner, editor, viewer, invited, stranger
		}{
			{"get", read, [5]error{ok, ok, ok, ok, sees}},
			{"items", func(who string) error { _, err := e.Items(ctx, who, id, 0, "", 10); return err }, [5]error{ok, ok, ok, ok, sees}},
			{"revisions", func(who string) error { _, err := e.Revisions(ctx, who, id, "", 10); return err }, [5]error{ok, ok, ok, ok, nobody}},
			{"collaborators", func(who string) error { _, err := e.Collaborators(ctx, who, id); return err }, [5]error{ok, ok, ok, ok, nobody}},
			{"add", func(who string) error {
				_, err := e.Add(ctx, who, id, nil, api.AddItems{Items: []api.NewItem{{TrackID: media.TrackID(track)}}})
				return err
			}, [5]error{ok, ok, denied, denied, nobody}},
			{"move", func(who string) error {
				_, err := e.Move(ctx, who, id, nil, api.MoveItems{EntryIDs: es[:1], AtEnd: true})
				return err
			}, [5]error{ok, ok, denied, denied, nobody}},
			{"remove", func(who string) error { _, err := e.Remove(ctx, who, id, nil, es[1:]); return err }, [5]error{ok, ok, denied, denied, nobody}},
			{"undo", func(who string) error { _, err := e.Undo(ctx, who, id, nil, api.UndoPlaylist{}); return err }, [5]error{ok, ok, denied, denied, nobody}},
			{"restore", func(who string) error {
				_, err := e.Restore(ctx, who, id, nil, api.RestorePlaylist{Revision: 2})
				return err
			}, [5]error{ok, ok, denied, denied, nobody}},
			{"rename", func(who string) error {
				_, err := e.Change(ctx, who, id, nil, api.PlaylistChange{Name: ptr("by " + who)})
				return err
			}, [5]error{ok, ok, denied, denied, nobody}},
			{"cover", func(who string) error { _, err := e.SetCover(ctx, who, id, nil, picture(t, "png", 80, 80)); return err }, [5]error{ok, ok, denied, denied, nobody}},
			{"publish", func(who string) error {
				_, err := e.Change(ctx, who, id, nil, api.PlaylistChange{Public: ptr(!public)})
				if err == nil {
					_, err = e.Change(ctx, who, id, nil, api.PlaylistChange{Public: &public})
				}
				return err
			}, [5]error{ok, denied, denied, denied, nobody}},
			{"invite", func(who string) error { return e.Invite(ctx, who, id, invited, api.RoleEditor) }, [5]error{ok, denied, denied, denied, nobody}},
			{"invite nobody", func(who string) error { return e.Invite(ctx, who, id, ulid.Make().String(), api.RoleEditor) }, [5]error{media.ErrNotFound, denied, denied, denied, nobody}},
			{"dismiss", func(who string) error { return e.Dismiss(ctx, who, id, ulid.Make().String()) }, [5]error{ok, denied, denied, denied, nobody}},
			{"share", func(who string) error { _, err := e.Share(ctx, who, id, api.NewShareLink{}); return err }, [5]error{ok, denied, denied, denied, nobody}},
			{"links", func(who string) error { _, err := e.Links(ctx, who, id); return err }, [5]error{ok, denied, denied, denied, nobody}},
			{"unshare", func(who string) error { return e.Unshare(ctx, who, id, link.ID) }, [5]error{ok, denied, denied, denied, nobody}},
			{"hand over", func(who string) error { _, err := e.HandOver(ctx, who, id, nil, invited); return err }, [5]error{media.ErrInvalid, denied, denied, denied, nobody}},
			{"drop", func(who string) error {
				if who == owner {
					return e.Drop(ctx, who, id)
				}
				return nil
			}, [5]error{denied, ok, ok, ok, ok}},
			{"delete", func(who string) error {
				if who == owner {
					return nil
				}
				return e.Delete(ctx, who, id, nil)
			}, [5]error{ok, denied, denied, denied, nobody}},
		} {
			for i, who := range []string{owner, editor, viewer, invited, stranger} {
				if err := c.try(who); !errors.Is(err, c.want[i]) {
					t.Errorf("public %v, %s by %d: %v, want %v", public, c.what, i, err, c.want[i])
				}
			}
		}
		must(t, e.Delete(ctx, owner, id, nil))
		fails(t, "deleted", read(owner), media.ErrNotFound)
	}
}

func testInvitations(t *testing.T, e *env) {
	ctx, ada, bob, eve := t.Context(), e.users[0], e.users[1], e.users[2]
	id := e.create(ada)
	must(t, e.Invite(ctx, ada, id, bob, api.RoleEditor))
	must(t, e.Invite(ctx, ada, id, eve, api.RoleViewer))
	list, err := e.Invitations(ctx, bob)
	must(t, err)
	if len(list) != 1 || list[0].Role != api.RoleEditor || list[0].Playlist.ID != id || list[0].Playlist.Owner.DisplayName != "user 0" {
		t.Errorf("%+v", list)
	}
	if page, err := e.List(ctx, bob, playlist.Query{Limit: 10}); err != nil || len(page.Items) != 0 {
		t.Errorf("in the list before it was accepted: %+v %v", page, err)
	}
	p, err := e.Keep(ctx, bob, id)
	must(t, err)
	if p.Role != api.RoleEditor || !p.InLibrary || p.Followers != 0 {
		t.Errorf("%+v", p)
	}
	must(t, e.Drop(ctx, eve, id)) // declines
	people, err := e.Collaborators(ctx, bob, id)
	must(t, err)
	if len(people) != 2 || people[0].Role != api.RoleOwner || people[1].User != (api.UserRef{ID: bob, DisplayName: "user 1"}) || people[1].Pending {
		t.Errorf("%+v", people)
	}
	must(t, e.Invite(ctx, ada, id, bob, api.RoleViewer)) // another role, no new invitation
	if p, err = e.Get(ctx, bob, id); err != nil || p.Role != api.RoleViewer {
		t.Errorf("%+v %v", p, err)
	}
	fails(t, "a role that there is not", e.Invite(ctx, ada, id, bob, api.RoleOwner), media.ErrInvalid)
	fails(t, "the owner", e.Invite(ctx, ada, id, ada, api.RoleViewer), media.ErrInvalid)
	_, err = e.HandOver(ctx, ada, id, nil, eve)
	fails(t, "to a stranger", err, media.ErrInvalid)

	p, err = e.HandOver(ctx, ada, id, nil, bob)
	must(t, err)
	if p.Owner.ID != bob || p.Role != api.RoleEditor || p.Revision != 2 || !p.InLibrary {
		t.Errorf("%+v", p)
	}
	fails(t, "no owner any more", e.Delete(ctx, ada, id, nil), media.ErrDenied)
	must(t, e.Dismiss(ctx, ada, id, ada)) // leaves
	if page, err := e.List(ctx, ada, playlist.Query{Limit: 10}); err != nil || len(page.Items) != 0 {
		t.Errorf("in the list after leaving: %+v %v", page, err)
	}
	_, err = e.Get(ctx, ada, id)
	fails(t, "left", err, media.ErrNotFound)
	fails(t, "the owner leaves", e.Dismiss(ctx, bob, id, bob), media.ErrDenied)
}

func testShareLinks(t *testing.T, e *env) {
	ctx, ada, bob, eve := t.Context(), e.users[0], e.users[1], e.users[2]
	p, err := e.Create(ctx, ada, api.NewPlaylist{Name: "Für Elise 🎹", Description: "x"})
	must(t, err)
	id := p.ID
	var tracks []string
	for i := range 12 {
		tracks = append(tracks, e.track(fmt.Sprint(i)))
	}
	e.add(ada, id, api.AddItems{}, tracks...)
	see, err := e.Share(ctx, ada, id, api.NewShareLink{})
	must(t, err)
	edit, err := e.Share(ctx, ada, id, api.NewShareLink{Role: api.RoleEditor, TTLSeconds: 3600})
	must(t, err)
	v, err := e.Preview(ctx, see.Token)
	must(t, err)
	if v.Name != "Für Elise 🎹" || v.OwnerName != "user 0" || v.TrackCount != 12 || len(v.Tracks) != 10 || v.Tracks[0] != (api.SharedTrack{Title: "0", Artist: "Somebody, Another"}) || v.Role != api.RoleViewer || len(v.Mosaic) != 4 {
		t.Errorf("%+v", v)
	}
	b, err := json.Marshal(v)
	must(t, err)
	if strings.Contains(string(b), ada) || strings.Contains(string(b), id) {
		t.Errorf("a preview tells who is who: %s", b)
	}
	p, err = e.Accept(ctx, bob, see.Token)
	must(t, err)
	if p.Role != api.RoleViewer || !p.InLibrary {
		t.Errorf("%+v", p)
	}
	if p, err = e.Accept(ctx, bob, edit.Token); err != nil || p.Role != api.RoleEditor {
		t.Errorf("%+v %v", p, err)
	}
	if p, err = e.Accept(ctx, bob, see.Token); err != nil || p.Role != api.RoleEditor {
		t.Errorf("a lower role replaced a higher one: %+v %v", p, err)
	}
	if p, err = e.Accept(ctx, ada, edit.Token); err != nil || p.Role != api.RoleOwner {
		t.Errorf("%+v %v", p, err)
	}
	links, err := e.Links(ctx, ada, id)
	must(t, err)
	if len(links) != 2 || links[0].ID != edit.ID || links[0].Accepted != 1 || links[1].Accepted != 1 || links[0].Token != "" || links[0].ExpiresAt.Sub(links[0].CreatedAt) != time.Hour {
		t.Errorf("%+v", links)
	}
	must(t, e.Unshare(ctx, ada, id, see.ID))
	must(t, e.Unshare(ctx, ada, id, see.ID))
	e.exec(`UPDATE playlist_links SET expires_at = 1 WHERE id = $1`, edit.ID)
	for _, token := range []string{see.Token, edit.Token, "", "x\x00", strings.Repeat("x", 1000)} {
		_, err = e.Preview(ctx, token)
		fails(t, "revoked, over or odd", err, media.ErrNotFound)
		_, err = e.Accept(ctx, eve, token)
		fails(t, "revoked, over or odd", err, media.ErrNotFound)
	}
	if links, err = e.Links(ctx, ada, id); err != nil || len(links) != 0 {
		t.Errorf("%+v %v", links, err)
	}
	if p, err = e.Get(ctx, bob, id); err != nil || p.Role != api.RoleEditor {
		t.Errorf("who came through a link is gone with it: %+v %v", p, err)
	}
}

func testFollowing(t *testing.T, e *env) {
	ctx, ada, bob := t.Context(), e.users[0], e.users[1]
	id := e.create(ada)
	_, err := e.Keep(ctx, bob, id)
	fails(t, "a private one", err, media.ErrNotFound)
	publish := func(public bool) {
		t.Helper()
		_, err := e.Change(ctx, ada, id, nil, api.PlaylistChange{Public: &public})
		must(t, err)
	}
	publish(true)
	kept := func(want int, kind string) {
		t.Helper()
		if page, err := e.List(ctx, bob, playlist.Query{Limit: 10, Kind: kind}); err != nil || len(page.Items) != want {
			t.Errorf("%d in the list, want %d, %v", len(page.Items), want, err)
		}
	}
	for range 2 {
		p, err := e.Keep(ctx, bob, id)
		must(t, err)
		if p.Followers != 1 || p.Role != "" || !p.InLibrary {
			t.Errorf("%+v", p)
		}
	}
	kept(1, "followed")
	publish(false)
	kept(0, "")
	must(t, e.Drop(ctx, bob, ulid.Make().String()))
	publish(true)
	kept(1, "")
	// A follower who becomes a collaborator is no follower.
	must(t, e.Invite(ctx, ada, id, bob, api.RoleEditor))
	p, err := e.Keep(ctx, bob, id)
	must(t, err)
	if p.Followers != 0 || p.Role != api.RoleEditor {
		t.Errorf("%+v", p)
	}
	kept(1, "shared")
	kept(0, "followed")
	must(t, e.Drop(ctx, bob, id))
	kept(0, "")
	_, err = e.Keep(ctx, bob, id)
	must(t, err)
	for range 2 {
		must(t, e.Drop(ctx, bob, id))
	}
	if p, err = e.Get(ctx, bob, id); err != nil || p.Followers != 0 || p.InLibrary {
		t.Errorf("%+v %v", p, err)
	}
	page, err := e.PublicOf(ctx, ada, "", 10)
	must(t, err)
	if len(page.Items) != 1 || page.Items[0].ID != id {
		t.Errorf("%+v", page)
	}
	_, err = e.PublicOf(ctx, "\x00", "", 10)
	fails(t, "an odd id", err, media.ErrInvalid)
}

func testOwnList(t *testing.T, e *env) {
	ctx, ada := t.Context(), e.users[0]
	ids := map[string]string{}
	for _, name := range []string{"b", "A", "d", "C"} {
		p, err := e.Create(ctx, ada, api.NewPlaylist{Name: name})
		must(t, err)
		ids[name] = p.ID
	}
	_, err := e.Change(ctx, ada, ids["A"], nil, api.PlaylistChange{Description: ptr("new")})
	must(t, err)
	list := func(q playlist.Query, want string) {
		t.Helper()
		q.Limit = 3
		var names []string
		for {
			page, err := e.List(ctx, ada, q)
			must(t, err)
			for _, p := range page.Items {
				names = append(names, p.Name)
				if p.Role != api.RoleOwner || !p.InLibrary || p.SavedAt.IsZero() {
					t.Errorf("%+v", p)
				}
			}
			if q.Cursor = page.Next; q.Cursor == "" {
				break
			}
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%+v: %s, want %s", q, got, want)
		}
	}
	list(playlist.Query{}, "C d A b")
	list(playlist.Query{Sort: "name"}, "A b C d")
	list(playlist.Query{Sort: "updated"}, "A C d b")
	list(playlist.Query{Sort: "added"}, "C d A b")
	list(playlist.Query{Kind: "own"}, "C d A b")
	list(playlist.Query{Kind: "shared"}, "")
	place := func(name string, in api.LibraryPlace) {
		t.Helper()
		must(t, e.Place(ctx, ada, ids[name], in))
	}
	place("b", api.LibraryPlace{})
	list(playlist.Query{}, "b C d A")
	place("b", api.LibraryPlace{After: ids["A"]})
	place("d", api.LibraryPlace{Before: ids["C"]})
	list(playlist.Query{}, "d C A b")
	for i := range 200 { // until there is no room between two
		place([]string{"C", "A"}[i%2], api.LibraryPlace{After: ids["d"]})
	}
	list(playlist.Query{}, "d A C b")

	f, err := e.NewFolder(ctx, ada, api.NewPlaylistFolder{Name: "folder"})
	must(t, err)
	place("A", api.LibraryPlace{FolderID: &f.ID})
	place("b", api.LibraryPlace{FolderID: &f.ID, After: ids["A"]})
	list(playlist.Query{}, "d C A b")
	list(playlist.Query{Folder: "top"}, "d C")
	list(playlist.Query{Folder: f.ID, Sort: "name"}, "A b")
	p, err := e.Create(ctx, ada, api.NewPlaylist{Name: "e", FolderID: f.ID})
	must(t, err)
	list(playlist.Query{Folder: f.ID}, "e A b")
	fails(t, "after one of another folder", e.Place(ctx, ada, p.ID, api.LibraryPlace{After: ids["d"]}), media.ErrInvalid)
	fails(t, "after itself", e.Place(ctx, ada, p.ID, api.LibraryPlace{After: p.ID}), media.ErrInvalid)
	fails(t, "somebody else's list", e.Place(ctx, e.users[1], p.ID, api.LibraryPlace{}), media.ErrNotFound)
	fails(t, "no such folder", e.Place(ctx, ada, p.ID, api.LibraryPlace{FolderID: ptr(ulid.Make().String())}), media.ErrInvalid)
	theirs, err := e.NewFolder(ctx, e.users[1], api.NewPlaylistFolder{Name: "theirs"})
	must(t, err)
	fails(t, "somebody else's folder", e.Place(ctx, ada, p.ID, api.LibraryPlace{FolderID: &theirs.ID}), media.ErrInvalid)
	for _, q := range []playlist.Query{{Sort: "x"}, {Kind: "x"}, {Folder: "\x00"}, {Cursor: "!"}, {Cursor: "e30"}} {
		_, err := e.List(ctx, ada, q)
		fails(t, fmt.Sprint(q), err, media.ErrInvalid)
	}
}

func testFolders(t *testing.T, e *env) {
	ctx, ada := t.Context(), e.users[0]
	make := func(name, parent string) string {
		t.Helper()
		f, err := e.NewFolder(ctx, ada, api.NewPlaylistFolder{Name: name, ParentID: parent})
		must(t, err)
		return f.ID
	}
	tree := func(want ...string) {
		t.Helper()
		list, err := e.Folders(ctx, ada)
		must(t, err)
		name := map[string]string{}
		for _, f := range list {
			name[f.ID] = f.Name
		}
		var got []string
		for _, f := range list {
			got = append(got, name[f.ParentID]+"/"+f.Name)
		}
		slices.SortStableFunc(got, func(a, b string) int { // by parent's name; their own order is to stay
			x, _, _ := strings.Cut(a, "/")
			y, _, _ := strings.Cut(b, "/")
			return cmp.Compare(x, y)
		})
		if d := gocmp.Diff(got, want); d != "" {
			t.Error(d)
		}
	}
	a, b := make("a", ""), make("b", "")
	c := make("c", a)
	d := make("d", c)
	x := make("x", a)
	tree("/b", "/a", "a/x", "a/c", "c/d")
	change := func(id string, in api.PlaylistFolderChange) error {
		_, err := e.ChangeFolder(ctx, ada, id, in)
		return err
	}
	must(t, change(a, api.PlaylistFolderChange{Before: b}))
	must(t, change(c, api.PlaylistFolderChange{Name: ptr(" C ")}))
	tree("/a", "/b", "C/d", "a/x", "a/C")
	fails(t, "into itself", change(a, api.PlaylistFolderChange{ParentID: &d}), media.ErrInvalid)
	fails(t, "into nothing", change(a, api.PlaylistFolderChange{ParentID: ptr(ulid.Make().String())}), media.ErrInvalid)
	fails(t, "no name", change(a, api.PlaylistFolderChange{Name: ptr("")}), media.ErrInvalid)
	fails(t, "not there", change(ulid.Make().String(), api.PlaylistFolderChange{}), media.ErrNotFound)
	_, err := e.ChangeFolder(ctx, e.users[1], a, api.PlaylistFolderChange{})
	fails(t, "somebody else's", err, media.ErrNotFound)
	deep := make("5", make("4", d))
	_, err = e.NewFolder(ctx, ada, api.NewPlaylistFolder{Name: "6", ParentID: deep})
	fails(t, "too deep", err, playlist.ErrLimit)
	fails(t, "too deep with what is in it", change(a, api.PlaylistFolderChange{ParentID: &b}), playlist.ErrLimit)

	// What is in a folder that is deleted moves up, with its order, above what is there.
	p, err := e.Create(ctx, ada, api.NewPlaylist{Name: "p", FolderID: c})
	must(t, err)
	q, err := e.Create(ctx, ada, api.NewPlaylist{Name: "q", FolderID: c})
	must(t, err)
	_, err = e.Create(ctx, ada, api.NewPlaylist{Name: "r", FolderID: a})
	must(t, err)
	y := make("y", c)
	must(t, e.DeleteFolder(ctx, ada, c))
	tree("/a", "/b", "4/5", "a/y", "a/d", "a/x", "d/4")
	list, err := e.List(ctx, ada, playlist.Query{Folder: a, Limit: 10})
	must(t, err)
	if len(list.Items) != 3 || list.Items[0].ID != q.ID || list.Items[1].ID != p.ID || list.Items[2].Name != "r" {
		t.Errorf("%+v", list.Items)
	}
	for _, id := range []string{y, x, a} {
		must(t, e.DeleteFolder(ctx, ada, id))
	}
	tree("/d", "/b", "4/5", "d/4")
	if list, err = e.List(ctx, ada, playlist.Query{Folder: "top", Limit: 10}); err != nil || len(list.Items) != 3 {
		t.Errorf("%+v %v", list, err)
	}
	fails(t, "again", e.DeleteFolder(ctx, ada, a), media.ErrNotFound)
}

func testLimits(t *testing.T, e *env) {
	ctx, ada, bob := t.Context(), e.users[0], e.users[1]
	id := e.together(ada, bob)
	x := e.track("x")
	for range 10 {
		e.add(ada, id, api.AddItems{}, slices.Repeat([]string{x}, 999)...)
	}
	e.add(ada, id, api.AddItems{}, slices.Repeat([]string{x}, 9)...)
	one := api.AddItems{Items: []api.NewItem{{TrackID: media.TrackID(x)}, {TrackID: media.TrackID(x)}}}
	_, err := e.Add(ctx, ada, id, nil, one)
	fails(t, "10001 tracks", err, playlist.ErrLimit)
	one.Items = one.Items[:1]
	last, err := e.Add(ctx, ada, id, nil, one)
	if err != nil || last.Total != playlist.MaxItems {
		t.Fatal(err)
	}
	_, err = e.Remove(ctx, ada, id, nil, last.EntryIDs)
	must(t, err)
	e.add(bob, id, api.AddItems{}, x)
	_, err = e.Undo(ctx, ada, id, nil, api.UndoPlaylist{Mine: true})
	fails(t, "10001 tracks by an undo", err, playlist.ErrLimit)
	_, err = e.Restore(ctx, ada, id, nil, api.RestorePlaylist{Revision: last.Revision})
	fails(t, "10001 tracks by a restore", err, playlist.ErrLimit)
	p, err := e.Restore(ctx, ada, id, nil, api.RestorePlaylist{Revision: last.Revision, Keep: "none"})
	if err != nil || p.TrackCount != playlist.MaxItems {
		t.Errorf("%+v %v", p, err)
	}

	for range playlist.MaxLinks {
		_, err := e.Share(ctx, ada, id, api.NewShareLink{Role: api.RoleViewer, TTLSeconds: 60})
		must(t, err)
	}
	_, err = e.Share(ctx, ada, id, api.NewShareLink{})
	fails(t, "links", err, playlist.ErrLimit)
	e.exec(`UPDATE playlist_links SET expires_at = 1 WHERE playlist_id = $1`, id)
	link, err := e.Share(ctx, ada, id, api.NewShareLink{})
	must(t, err)

	for range playlist.MaxMembers - 1 {
		e.exec(`INSERT INTO playlist_members (playlist_id, user_id, role, accepted, created_at) VALUES ($1, $2, 'viewer', 0, 0)`, id, e.user("x"))
	}
	fails(t, "people", e.Invite(ctx, ada, id, e.users[2], api.RoleViewer), playlist.ErrLimit)
	_, err = e.Accept(ctx, e.users[2], link.Token)
	fails(t, "people by link", err, playlist.ErrLimit)
	must(t, e.Invite(ctx, ada, id, bob, api.RoleViewer)) // is in it

	e.exec(`INSERT INTO playlists (id, owner_id, name, description, public, cover, mosaic, item_count, duration_ms, followers, revision, kept_from, created_at, updated_at)
		WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) SELECT CAST($1 AS TEXT) || i, CAST($2 AS TEXT), 'x', '', 0, '', '[]', 0, 0, 0, 1, 1, 0, 0 FROM n`, ulid.Make().String()[:20], bob)
	_, err = e.Create(ctx, bob, api.NewPlaylist{Name: "one too many"})
	fails(t, "playlists", err, playlist.ErrLimit)
	_, err = e.HandOver(ctx, ada, id, nil, bob)
	fails(t, "playlists by a hand-over", err, playlist.ErrLimit)
	for i := range playlist.MaxFolders {
		e.exec(`INSERT INTO playlist_folders (id, user_id, parent_id, name, position, created_at) VALUES ($1, $2, '', 'x', $3, 0)`, ulid.Make().String(), ada, i)
	}
	_, err = e.NewFolder(ctx, ada, api.NewPlaylistFolder{Name: "x"})
	fails(t, "folders", err, playlist.ErrLimit)
}

// picture is red in its upper left quarter, blue elsewhere.
func picture(t *testing.T, kind string, width, height int) []byte {
	t.Helper()
	m := image.NewRGBA(image.Rect(0, 0, width, height))
	for y := range height {
		for x := range width {
			c := color.RGBA{0, 0, 255, 255}
			if x < width/2 && y < height/2 {
				c = color.RGBA{255, 0, 0, 255}
			}
			m.SetRGBA(x, y, c)
		}
	}
	var b bytes.Buffer
	if kind == "png" {
		must(t, png.Encode(&b, m))
	} else {
		must(t, jpeg.Encode(&b, m, &jpeg.Options{Quality: 90}))
	}
	return b.Bytes()
}

// turned puts an Exif segment with an orientation behind the start of a JPEG.
func turned(file []byte, orientation byte) []byte {
	exif := append([]byte("Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00"), orientation, 0, 0, 0, 0, 0, 0, 0)
	return slices.Concat(file[:2], []byte{0xff, 0xe1, 0, byte(len(exif) + 2)}, exif, file[2:])
}

func testCovers(t *testing.T, e *env) {
	ctx, ada := t.Context(), e.users[0]
	id := e.create(ada)
	e.add(ada, id, api.AddItems{}, e.track("a"))
	red := func(file []byte) [4]bool { // upper left, upper right, lower left, lower right
		t.Helper()
		m, kind, err := image.Decode(bytes.NewReader(file))
		must(t, err)
		n := m.Bounds().Dx()
		var out [4]bool
		for i, at := range []image.Point{{n / 4, n / 4}, {n * 3 / 4, n / 4}, {n / 4, n * 3 / 4}, {n * 3 / 4, n * 3 / 4}} {
			r, _, b, _ := m.At(at.X, at.Y).RGBA()
			out[i] = r > b
		}
		if kind != "jpeg" || n != m.Bounds().Dy() {
			t.Errorf("a %s of %v", kind, m.Bounds())
		}
		return out
	}
	f := func(why string, file []byte, want [4]bool) {
		t.Helper()
		p, err := e.SetCover(ctx, ada, id, nil, file)
		must(t, err)
		if p.Cover == nil || len(p.Mosaic) != 0 {
			t.Fatalf("%s: %+v", why, p)
		}
		for _, size := range p.Cover.Sizes {
			key := strings.TrimPrefix(strings.Replace(p.Cover.URL, "{size}", fmt.Sprint(size), 1), "/r/")
			e.mu.Lock()
			body := e.put[media.Key(key)]
			e.mu.Unlock()
			if got := red(body); got != want {
				t.Errorf("%s at %d: %v", why, size, got)
			}
			if bytes.Contains(body, []byte("Exif")) {
				t.Errorf("%s: what else was in the file is still there", why)
			}
			if !strings.HasPrefix(key, "art/"+id+"/") || media.Key(key).Protected() {
				t.Errorf("stored as %s", key)
			}
		}
	}
	upperLeft := [4]bool{true}
	f("png", picture(t, "png", 200, 200), upperLeft)
	f("small", picture(t, "png", 64, 64), upperLeft)
	f("wide", picture(t, "jpeg", 400, 200), upperLeft)
	jpeg := picture(t, "jpeg", 200, 200)
	for orientation, want := range map[byte][4]bool{1: {true}, 2: {1: true}, 3: {3: true}, 4: {2: true}, 5: {true}, 6: {1: true}, 7: {3: true}, 8: {2: true}, 9: {true}} {
		f(fmt.Sprint("orientation ", orientation), turned(jpeg, orientation), want)
	}
	p, err := e.Get(ctx, ada, id)
	must(t, err)
	n := p.Revision
	if p, err = e.Undo(ctx, ada, id, nil, api.UndoPlaylist{}); err != nil || p.Revision != n+1 || p.Cover == nil {
		t.Errorf("%+v %v", p, err)
	}
	if p, err = e.DropCover(ctx, ada, id, nil); err != nil || p.Cover != nil || len(p.Mosaic) != 1 {
		t.Errorf("%+v %v", p, err)
	}
	for why, file := range map[string][]byte{"nothing": nil, "text": []byte("hello"), "half": jpeg[:len(jpeg)/2], "tiny": picture(t, "png", 63, 100), "a bomb": bomb()} {
		_, err := e.SetCover(ctx, ada, id, nil, file)
		fails(t, why, err, media.ErrInvalid)
	}
	_, err = e.SetCover(ctx, ada, id, nil, make([]byte, playlist.MaxCover+1))
	fails(t, "large", err, media.ErrTooLarge)
}

// bomb is the beginning of a PNG that says it is 30000 pixels wide and high.
func bomb() []byte {
	return []byte("\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x75\x30\x00\x00\x75\x30\x08\x02\x00\x00\x00\x13\xbf\x5b\x8b")
}

func testEvents(t *testing.T, e *env) {
	ctx, ada, bob := t.Context(), e.users[0], e.users[1]
	events := func(id string) int64 {
		return e.number(`SELECT count(*) FROM outbox WHERE subject = 'catalog.playlist' AND body = $1`, `{"kind":"playlist","ids":["`+id+`"]}`)
	}
	id := e.together(ada, bob)
	private := e.create(ada)
	f := func(want int64) {
		t.Helper()
		if got := events(id); got != want {
			t.Errorf("%d events, want %d", got, want)
		}
	}
	f(0)
	change := func(in api.PlaylistChange) {
		t.Helper()
		_, err := e.Change(ctx, ada, id, nil, in)
		must(t, err)
	}
	change(api.PlaylistChange{Name: ptr("x")})
	f(0)
	change(api.PlaylistChange{Public: ptr(true)})
	f(1)
	e.add(bob, id, api.AddItems{}, e.track("a"))
	f(2)
	index := func() (found []string) {
		t.Helper()
		must(t, e.EachPublic(ctx, func(p api.Playlist) error {
			if p.ID == id || p.ID == private {
				found = append(found, p.Name)
			}
			return nil
		}))
		return found
	}
	if got := index(); len(got) != 1 || got[0] != "x" {
		t.Errorf("%v", got)
	}
	list, err := e.Public(ctx, private, id, id, ulid.Make().String())
	must(t, err)
	if len(list) != 1 || list[0].ID != id || list[0].TrackCount != 1 || list[0].Role != "" {
		t.Errorf("%+v", list)
	}
	if list, err = e.Public(ctx); err != nil || len(list) != 0 {
		t.Errorf("%+v %v", list, err)
	}
	change(api.PlaylistChange{Public: ptr(false)})
	f(3)
	if got := index(); len(got) != 0 {
		t.Errorf("%v", got)
	}
	change(api.PlaylistChange{Public: ptr(true)})
	must(t, e.Delete(ctx, ada, id, nil))
	f(5)
}

func testForget(t *testing.T, e *env) {
	ctx, ada, bob, eve, fay := t.Context(), e.users[0], e.users[1], e.users[2], e.users[3]
	alone := e.create(ada)
	public, err := e.Create(ctx, ada, api.NewPlaylist{Name: "public", Public: true})
	must(t, err)
	_, err = e.Keep(ctx, bob, public.ID)
	must(t, err)
	watched := e.create(ada) // with a viewer only
	must(t, e.Invite(ctx, ada, watched, bob, api.RoleViewer))
	_, err = e.Keep(ctx, bob, watched)
	must(t, err)
	shared := e.together(ada, fay) // fay came first; eve was only invited
	must(t, e.Invite(ctx, ada, shared, bob, api.RoleEditor))
	_, err = e.Keep(ctx, bob, shared)
	must(t, err)
	must(t, e.Invite(ctx, ada, shared, eve, api.RoleEditor))
	e.add(ada, shared, api.AddItems{}, e.track("a"))
	link, err := e.Share(ctx, ada, shared, api.NewShareLink{})
	must(t, err)
	theirs := e.together(bob, ada)
	e.add(ada, theirs, api.AddItems{}, e.track("t"))
	followed, err := e.Create(ctx, bob, api.NewPlaylist{Name: "followed", Public: true})
	must(t, err)
	_, err = e.Keep(ctx, ada, followed.ID)
	must(t, err)
	f, err := e.NewFolder(ctx, ada, api.NewPlaylistFolder{Name: "folder"})
	must(t, err)
	must(t, e.Place(ctx, ada, followed.ID, api.LibraryPlace{FolderID: &f.ID}))

	out, err := e.Export(ctx, ada)
	must(t, err)
	b, err := json.Marshal(out)
	must(t, err)
	var x playlist.Exported
	must(t, json.Unmarshal(b, &x))
	if len(x.Playlists) != 4 || len(x.Library) != 6 || len(x.Folders) != 1 || len(x.Added) != 1 || x.Added[0].Title != "t" || len(x.Collaborations) != 1 || len(x.Links) != 1 ||
		x.Library[5].FolderID != f.ID || x.Playlists[3].Items[0].Title != "a" {
		t.Errorf("%s", b)
	}
	if strings.Contains(string(b), bob) || strings.Contains(string(b), fay) {
		t.Errorf("somebody else's data: %s", b)
	}

	must(t, e.db.Tx(ctx, func(tx *sql.Tx) error {
		if err := e.Forget(ctx, tx, ada); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM users WHERE id = $1`, ada)
		return err
	}))
	for _, id := range []string{alone, public.ID, watched} {
		_, err := e.Get(ctx, bob, id)
		fails(t, "gone with the account", err, media.ErrNotFound)
	}
	p, err := e.Get(ctx, fay, shared)
	must(t, err)
	if p.Owner.ID != fay || p.Role != api.RoleOwner || p.TrackCount != 1 || p.Revision != 3 {
		t.Errorf("%+v", p)
	}
	items := e.items(bob, shared, 0, 10)
	if len(items) != 1 || items[0].Title != "a" || items[0].AddedBy != nil {
		t.Errorf("%+v", items)
	}
	if i := e.items(bob, theirs, 0, 10); len(i) != 1 || i[0].AddedBy != nil {
		t.Errorf("%+v", i)
	}
	revisions, err := e.Revisions(ctx, bob, shared, "", 10)
	must(t, err)
	if len(revisions.Items) != 3 || revisions.Items[0].Operation != api.PlaylistOwner || revisions.Items[0].Author != nil || revisions.Items[2].Author != nil {
		t.Errorf("%+v", revisions)
	}
	people, err := e.Collaborators(ctx, fay, shared)
	must(t, err)
	if len(people) != 3 { // fay, bob, and eve, who is still invited
		t.Errorf("%+v", people)
	}
	_, err = e.Preview(ctx, link.Token)
	fails(t, "a link of somebody who is gone", err, media.ErrNotFound)
	if p, err = e.Get(ctx, bob, followed.ID); err != nil || p.Followers != 0 {
		t.Errorf("%+v %v", p, err)
	}
	for _, table := range []string{"playlist_library", "playlist_members", "playlist_folders", "playlist_shelves"} {
		if n := e.number(`SELECT count(*) FROM `+table+` WHERE user_id = $1`, ada); n != 0 {
			t.Errorf("%d lines in %s", n, table)
		}
	}
	if n := e.number(`SELECT count(*) FROM outbox WHERE body LIKE $1`, "%"+public.ID+"%"); n < 2 {
		t.Errorf("%d events of a public playlist that was made and went", n)
	}
}
