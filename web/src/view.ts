// What is on the page: small functions from data to elements. Text goes in as text, never as HTML.

import type { Album, Art, Artist, Playlist, Track } from "./api";

type Child = Node | string | undefined | false;

export function el<K extends keyof HTMLElementTagNameMap>(tag: K, props: Record<string, unknown> = {}, ...children: Child[]): HTMLElementTagNameMap[K] {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(props)) {
    if (k.startsWith("on")) e.addEventListener(k.slice(2), v as EventListener);
    else if (k === "class") e.className = String(v);
    else if (v === true) e.setAttribute(k, "");
    else if (v !== undefined && v !== false) e.setAttribute(k, String(v));
  }
  e.append(...children.filter((c): c is Node | string => c !== undefined && c !== false));
  return e;
}

/** art is an album's picture, or one made of its name: two colours that are always the same for the same album. */
export function art(a: { id: string; title: string; art?: Art }, size: number): HTMLElement {
  const box = el("div", { class: "art" });
  paintArt(box, a, size);
  return box;
}

export function paintArt(box: HTMLElement, a: { id: string; title: string; art?: Art } | undefined, size: number) {
  box.replaceChildren();
  box.style.background = "";
  if (!a) return;
  let h = 0;
  for (const c of a.id) h = (h * 31 + c.charCodeAt(0)) >>> 0;
  box.style.background = `linear-gradient(135deg, hsl(${h % 360} 55% 42%), hsl(${(h >> 9) % 360} 60% 22%))`;
  box.append(el("span", {}, a.title.split(/\s+/).filter((w) => /^\p{L}|\p{N}/u.test(w)).slice(0, 2).map((w) => w[0]).join("").toUpperCase()));
  if (a.art) {
    const best = a.art.sizes.find((s) => s >= size * devicePixelRatio) ?? a.art.sizes.at(-1);
    const img = el("img", { src: a.art.url.replace("{size}", String(best)), alt: "", loading: "lazy", width: size, height: size });
    img.addEventListener("error", () => img.remove());
    box.append(img);
  }
}

export function clock(ms: number): string {
  const s = Math.max(0, Math.round(ms / 1000)), h = Math.floor(s / 3600), m = Math.floor(s / 60) % 60;
  return (h ? h + ":" + String(m).padStart(2, "0") : String(m)) + ":" + String(s % 60).padStart(2, "0");
}

/** many is a number with its noun. */
export const many = (n: number, noun: string) => `${n} ${noun}${n === 1 ? "" : "s"}`;

const names = (list: { id: string; name: string }[]) => list.flatMap((a, i) => [i ? ", " : "", el("a", { href: "#/artist/" + a.id }, a.name)]);

/** What can be done with the tracks of a list. remove: this list can lose them; move: it has an order of its own. */
export interface TrackActions {
  play(list: Track[], i: number): void;
  enqueue(t: Track): void;
  liked(id: string): boolean;
  like(t: Track, on: boolean): Promise<void>;
  more(t: Track, at: HTMLElement): void;
}
export interface ListActions { remove?(i: number): void; move?(from: number, to: number): void }

export function trackList(tracks: Track[], act: TrackActions, numbers = false, list: ListActions = {}): HTMLElement {
  // On an album of several discs a number alone would say little: 2-9 is the ninth of the second.
  const discs = numbers && tracks.some((t) => (t.disc_number || 1) > 1);
  const number = (t: Track, i: number) => (discs ? (t.disc_number || 1) + "-" : "") + (t.track_number || i + 1);
  // The whole row plays, as people expect who tap on a title; what is a link or a button in it stays one.
  const tap = (i: number) => (e: Event) => { if (!(e.target as Element).closest("a, button")) act.play(tracks, i); };
  const move = list.move;
  const drag = (i: number) => move ? {
    draggable: "true",
    ondragstart: (e: DragEvent) => e.dataTransfer!.setData("text/segue-row", String(i)),
    ondragover: (e: DragEvent) => { if (e.dataTransfer!.types.includes("text/segue-row")) e.preventDefault(); },
    ondrop: (e: DragEvent) => { e.preventDefault(); move(Number(e.dataTransfer!.getData("text/segue-row")), i); },
    onkeydown: (e: KeyboardEvent) => {
      const to = i + (e.key === "ArrowUp" ? -1 : e.key === "ArrowDown" ? 1 : 0);
      if (e.altKey && to !== i && to >= 0 && to < tracks.length) { e.preventDefault(); move(i, to); }
    },
  } : {};
  return el("ol", { class: "tracks" }, ...tracks.map((t, i) => el("li", { "data-track": t.id, onclick: tap(i), ...drag(i) },
    el("button", { class: "hit", "aria-label": `Play ${t.title}`, onclick: () => act.play(tracks, i) },
      numbers ? el("span", { class: "number" }, number(t, i)) : art({ ...t.album }, 40)),
    el("div", { class: "names" }, el("div", { class: "title" }, t.title), el("div", { class: "by" }, ...names(t.artists))),
    el("a", { class: "album", href: "#/album/" + t.album.id }, t.album.title),
    el("span", { class: "time" }, clock(t.duration_ms)),
    heart(act.liked(t.id), t.title, (on) => act.like(t, on)),
    list.remove ? el("button", { class: "add", title: "Take out", "aria-label": `Take ${t.title} out of the playlist`, onclick: () => list.remove!(i) }, "×")
      : el("button", { class: "add", title: "Add to the queue", "aria-label": `Add ${t.title} to the queue`, onclick: () => act.enqueue(t) }, "+"),
    el("button", { class: "more-of", title: "More", "aria-label": `More for ${t.title}`, "aria-haspopup": "menu", onclick: (e: Event) => act.more(t, e.currentTarget as HTMLElement) }, "⋯"),
  )));
}

export function albumGrid(albums: Album[]): HTMLElement {
  return el("div", { class: "grid" }, ...albums.map((a) => el("a", { class: "tile", href: "#/album/" + a.id },
    art(a, 180), el("div", { class: "title" }, a.title), el("div", { class: "by" }, a.artists.map((x) => x.name).join(", ")))));
}

/** heart is a button that likes or saves; it shows the new state at once, and the old one again if that failed. */
export function heart(on: boolean, what: string, change: (on: boolean) => Promise<void>): HTMLButtonElement {
  const b = el("button", { class: "heart" });
  const show = () => {
    b.textContent = on ? "♥" : "♡";
    b.setAttribute("aria-pressed", String(on));
    b.setAttribute("aria-label", on ? `Take ${what} out of your library` : `Save ${what} to your library`);
  };
  b.addEventListener("click", async () => {
    on = !on;
    show();
    try { await change(on); } catch { on = !on; show(); }
  });
  show();
  return b;
}

/** menu opens a list of commands below an element; a click elsewhere or Escape closes it. */
export function menu(at: HTMLElement, items: [string, () => void][]) {
  document.querySelector(".menu")?.remove();
  const box = el("div", { class: "menu", role: "menu" }, ...items.map(([name, f]) => el("button", { role: "menuitem", onclick: () => { close(); f(); } }, name)));
  const away = (e: Event) => {
    if (e instanceof KeyboardEvent && e.key === "Escape") at.focus();
    else if (e instanceof KeyboardEvent || box.contains(e.target as Node)) return;
    close();
  };
  const close = () => { box.remove(); removeEventListener("pointerdown", away); removeEventListener("keydown", away); };
  document.body.append(box);
  const r = at.getBoundingClientRect();
  box.style.left = Math.max(8, Math.min(r.right - box.offsetWidth, innerWidth - box.offsetWidth - 8)) + "px";
  box.style.top = (r.bottom + box.offsetHeight > innerHeight ? r.top - box.offsetHeight : r.bottom) + scrollY + "px";
  addEventListener("pointerdown", away);
  addEventListener("keydown", away);
  box.querySelector("button")?.focus();
}

export function playlistGrid(lists: Playlist[]): HTMLElement {
  return el("div", { class: "grid" }, ...lists.map((p) => el("a", { class: "tile", href: "#/playlist/" + p.id },
    art({ id: p.id, title: p.name, art: p.cover ?? p.mosaic?.[0] }, 180), el("div", { class: "title" }, p.name),
    el("div", { class: "by" }, [p.role === "owner" ? "" : p.owner.display_name, many(p.track_count, "track")].filter(Boolean).join(" · ")))));
}

export function artistRow(artists: Artist[]): HTMLElement {
  return el("div", { class: "chips" }, ...artists.map((a) => el("a", { class: "chip", href: "#/artist/" + a.id }, a.name)));
}

export function section(title: string, ...children: Child[]): HTMLElement {
  return el("section", {}, el("h2", {}, title), ...children);
}
