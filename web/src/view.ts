// What is on the page: small functions from data to elements. Text goes in as text, never as HTML.

import type { Album, Art, Artist, Track } from "./api";

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

const names = (list: { id: string; name: string }[]) => list.flatMap((a, i) => [i ? ", " : "", el("a", { href: "#/artist/" + a.id }, a.name)]);

export interface TrackActions { play(list: Track[], i: number): void; enqueue(t: Track): void }

export function trackList(tracks: Track[], act: TrackActions, numbers = false): HTMLElement {
  // On an album of several discs a number alone would say little: 2-9 is the ninth of the second.
  const discs = numbers && tracks.some((t) => (t.disc_number || 1) > 1);
  const number = (t: Track, i: number) => (discs ? (t.disc_number || 1) + "-" : "") + (t.track_number || i + 1);
  // The whole row plays, as people expect who tap on a title; what is a link or a button in it stays one.
  const tap = (i: number) => (e: Event) => { if (!(e.target as Element).closest("a, button")) act.play(tracks, i); };
  return el("ol", { class: "tracks" }, ...tracks.map((t, i) => el("li", { "data-track": t.id, onclick: tap(i) },
    el("button", { class: "hit", "aria-label": `Play ${t.title}`, onclick: () => act.play(tracks, i) },
      numbers ? el("span", { class: "number" }, number(t, i)) : art({ ...t.album }, 40)),
    el("div", { class: "names" }, el("div", { class: "title" }, t.title), el("div", { class: "by" }, ...names(t.artists))),
    el("a", { class: "album", href: "#/album/" + t.album.id }, t.album.title),
    el("span", { class: "time" }, clock(t.duration_ms)),
    el("button", { class: "add", title: "Add to the queue", "aria-label": `Add ${t.title} to the queue`, onclick: () => act.enqueue(t) }, "+"),
  )));
}

export function albumGrid(albums: Album[]): HTMLElement {
  return el("div", { class: "grid" }, ...albums.map((a) => el("a", { class: "tile", href: "#/album/" + a.id },
    art(a, 180), el("div", { class: "title" }, a.title), el("div", { class: "by" }, a.artists.map((x) => x.name).join(", ")))));
}

export function artistRow(artists: Artist[]): HTMLElement {
  return el("div", { class: "chips" }, ...artists.map((a) => el("a", { class: "chip", href: "#/artist/" + a.id }, a.name)));
}

export function section(title: string, ...children: Child[]): HTMLElement {
  return el("section", {}, el("h2", {}, title), ...children);
}
