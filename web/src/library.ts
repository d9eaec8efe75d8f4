// What a listener keeps: liked tracks, saved albums, followed artists, playlists.

import { type Album, type Api, type Artist, type Page, type Playlist, type PlaylistItem, type PlaylistItems, type Saved, type Shared, type Track } from "./api";
import { albumGrid, art, artistRow, clock, el, heart, many, menu, playlistGrid, section, trackList, type TrackActions } from "./view";

const kinds = { tracks: "/v1/me/library/tracks/", albums: "/v1/me/library/albums/", artists: "/v1/me/following/artists/" } as const;
type Kind = keyof typeof kinds;

/** Library knows which of the things on the page are in the listener's library. */
export class Library {
  private has = { tracks: new Map<string, boolean>(), albums: new Map<string, boolean>(), artists: new Map<string, boolean>() };

  constructor(private api: Api) {}

  /** learn asks about those ids that are not known yet, at most 50 at a time. */
  async learn(kind: Kind, ids: string[]): Promise<void> {
    const unknown = [...new Set(ids)].filter((id) => !this.has[kind].has(id));
    for (let i = 0; i < unknown.length; i += 50) {
      const some = unknown.slice(i, i + 50);
      const r = await this.api.get<Record<Kind, Record<string, boolean>>>(`/v1/me/library/contains?${kind}=${some.join(",")}`);
      for (const id of some) this.has[kind].set(id, r[kind]?.[id] ?? false);
    }
  }

  holds(kind: Kind, id: string): boolean { return this.has[kind].get(id) ?? false; }

  async keep(kind: Kind, id: string, on: boolean): Promise<void> {
    await (on ? this.api.put(kinds[kind] + id) : this.api.remove(kinds[kind] + id));
    this.has[kind].set(id, on);
  }

  forget() { for (const m of Object.values(this.has)) m.clear(); }
}

export class Pages {
  constructor(private api: Api, private library: Library, private act: TrackActions, private say: (text: string) => void, private reload: () => void) {}

  /** all reads a list to its end, at most so many pages. */
  private async all<T>(path: string, pages = 20): Promise<T[]> {
    const out: T[] = [];
    for (let cursor = "", i = 0; i < pages; i++) {
      const p = await this.api.get<Page<T>>(path + (path.includes("?") ? "&" : "?") + "limit=100" + (cursor && "&cursor=" + cursor));
      out.push(...p.items);
      if (!p.next) break;
      cursor = p.next;
    }
    return out;
  }

  async home(): Promise<Node[]> {
    const [lists, tracks, albums, artists] = await Promise.all([
      this.all<Playlist>("/v1/playlists"), this.all<Saved<"track", Track>>("/v1/me/library/tracks", 5),
      this.all<Saved<"album", Album>>("/v1/me/library/albums", 5), this.all<Saved<"artist", Artist>>("/v1/me/following/artists", 5)]);
    const liked = tracks.flatMap((s) => s.available && s.track ? [s.track] : []);
    await this.library.learn("tracks", liked.map((t) => t.id));
    const hint = (text: string) => el("p", { class: "hint" }, text);
    return [
      el("div", { class: "head" }, el("h1", {}, "Your library"), el("span", { class: "grow" }), el("button", { class: "primary", id: "new-playlist", onclick: () => void this.create() }, "New playlist")),
      section("Playlists", lists.length ? playlistGrid(lists) : hint("None yet. Make one, or follow one that you are given.")),
      section("Liked tracks", liked.length ? trackList(liked, this.act) : hint("The heart beside a track puts it here.")),
      ...(albums.length ? [section("Albums", albumGrid(albums.flatMap((s) => s.album ? [s.album] : [])))] : []),
      ...(artists.length ? [section("Artists that you follow", artistRow(artists.flatMap((s) => s.artist ? [s.artist] : [])))] : []),
    ];
  }

  async create(first?: Track): Promise<void> {
    const name = await ask("Name of the playlist", first ? first.album.title : "My playlist");
    if (!name) return;
    const p = await this.api.post<Playlist>("/v1/playlists", { name });
    if (first) await this.api.post(`/v1/playlists/${p.id}/items`, { items: [{ track_id: first.id }] });
    location.hash = "#/playlist/" + p.id;
  }

  /** add lets the listener choose one of the playlists that they may change. */
  async add(t: Track, at: HTMLElement): Promise<void> {
    const lists = (await this.all<Playlist>("/v1/playlists")).filter((p) => p.role === "owner" || p.role === "editor");
    menu(at, [["New playlist…", () => void this.create(t)], ...lists.map((p): [string, () => void] => [p.name, async () => {
      const r = await this.api.post<{ skipped?: string[] }>(`/v1/playlists/${p.id}/items`, { items: [{ track_id: t.id }], duplicates: "skip" });
      this.say(r.skipped?.length ? `“${t.title}” is in “${p.name}” already` : `“${t.title}” is in “${p.name}” now`);
    }])]);
  }

  async playlist(id: string): Promise<Node[]> {
    const path = "/v1/playlists/" + encodeURIComponent(id);
    const p = await this.api.get<Playlist>(path), items: PlaylistItem[] = [];
    for (let cursor = ""; ;) {
      const page = await this.api.get<PlaylistItems>(`${path}/items?limit=500${cursor && "&cursor=" + cursor}`);
      items.push(...page.items);
      if (!page.next || items.length >= 10_000) break;
      cursor = page.next;
    }
    const playable = items.filter((i) => i.track && !i.unavailable), tracks = playable.map((i) => i.track!);
    await this.library.learn("tracks", tracks.map((t) => t.id));
    const mine = p.role === "owner", edits = mine || p.role === "editor";
    const change = async (f: () => Promise<unknown>) => {
      try { await f(); } catch (e) { this.say((e as Error).message); }
      this.reload();
    };
    const gone = items.length - tracks.length;
    return [
      el("div", { class: "head" }, art({ id: p.id, title: p.name, art: p.cover ?? p.mosaic?.[0] }, 200), el("div", {},
        el("h1", {}, p.name), p.description && el("p", {}, p.description),
        el("p", { class: "by" }, [mine ? (p.public ? "Public" : "Private") : "By " + p.owner.display_name, many(p.track_count, "track"), clock(p.duration_ms), p.followers ? many(p.followers, "follower") : ""].filter(Boolean).join(" · ")),
        el("button", { class: "primary", disabled: !tracks.length, onclick: () => this.act.play(tracks, 0) }, "Play"),
        !mine && heart(p.in_library, p.name, (on) => on ? this.api.put(`/v1/me/library/playlists/${p.id}`) : this.api.remove(`/v1/me/library/playlists/${p.id}`)),
        edits && el("button", { class: "link", "aria-haspopup": "menu", onclick: (e: Event) => menu(e.currentTarget as HTMLElement, [
          ["Rename…", async () => { const name = await ask("Name of the playlist", p.name); if (name) void change(() => this.api.patch(path, { name })); }],
          ["Describe…", async () => { const d = await ask("Description", p.description); if (d !== undefined) void change(() => this.api.patch(path, { description: d })); }],
          ["Undo the last change", () => void change(() => this.api.post(path + "/undo", {}))],
          ...(mine ? [
            [p.public ? "Make private" : "Make public", () => void change(() => this.api.patch(path, { public: !p.public }))],
            ["Share by a link…", () => void this.share(p)],
            ["Delete…", async () => { if (await ask(`Type the name to delete “${p.name}”`, "") === p.name) { await this.api.remove(path); location.hash = "#/library"; } }],
          ] as [string, () => void][] : []),
        ]) }, "Edit ▾"))),
      tracks.length ? trackList(tracks, this.act, false, edits ? {
        remove: (i) => void change(() => this.api.remove(path + "/items", { entry_ids: [playable[i]!.entry_id] })),
        move: (from, to) => { if (from !== to) void change(() => this.api.post(path + "/items/move", { entry_ids: [playable[from]!.entry_id], [to > from ? "after" : "before"]: playable[to]!.entry_id })); },
      } : {}) : el("p", { class: "empty" }, "Nothing in it yet: “⋯” beside a track puts it here."),
      ...(gone ? [el("p", { class: "hint" }, `${gone} more cannot be played now.`)] : []),
      ...(edits && tracks.length > 1 ? [el("p", { class: "hint" }, "Drag tracks to order them, or Alt with the arrow keys.")] : []),
    ];
  }

  private async share(p: Playlist): Promise<void> {
    const link = await this.api.post<{ token: string; expires_at: string }>(`/v1/playlists/${p.id}/share-links`, {});
    const url = location.origin + "/#/shared/" + link.token;
    try { await navigator.clipboard.writeText(url); this.say("The link is copied; it ends on " + new Date(link.expires_at).toLocaleDateString()); } catch { await ask("A link for everybody, until " + new Date(link.expires_at).toLocaleDateString(), url); }
  }

  /** shared is what a link shows, also to people without an account. */
  async shared(token: string): Promise<Node[]> {
    const path = "/v1/shared/" + encodeURIComponent(token), s = await this.api.open<Shared>(path);
    return [el("div", { class: "head" }, art({ id: s.name, title: s.name }, 200), el("div", {}, el("h1", {}, s.name), s.description && el("p", {}, s.description),
      el("p", { class: "by" }, `By ${s.owner_name} · ${many(s.track_count, "track")} · ${clock(s.duration_ms)}`),
      this.api.user ? el("button", { class: "primary", onclick: async () => { const p = await this.api.post<Playlist>(path, {}); location.hash = "#/playlist/" + p.id; } }, "Add to your library")
        : el("a", { class: "primary", href: "#/" }, "Sign in to listen"))),
      el("ol", { class: "preview" }, ...s.tracks.map((t) => el("li", {}, el("b", {}, t.title), " ", el("span", { class: "by" }, t.artist))))];
  }
}

/** ask is a small dialog with one line of text; undefined: it was given up. */
export function ask(what: string, value: string): Promise<string | undefined> {
  return new Promise((answer) => {
    const input = el("input", { name: "text", value, maxlength: 200, "aria-label": what });
    const box = el("dialog", { class: "ask" }, el("form", { method: "dialog" }, el("label", {}, what, input), el("div", { class: "row" }, el("button", { type: "button", class: "link", onclick: () => box.close() }, "Cancel"), el("button", { class: "primary", value: "ok" }, "OK"))));
    box.addEventListener("close", () => { box.remove(); answer(box.returnValue === "ok" ? input.value.trim() : undefined); });
    document.body.append(box);
    box.showModal();
    input.select();
  });
}

