// The home feed's shelves: rows of pictures that one can play, each with the reason why it is there.

import type { Album, Api, Track } from "./api";
import { albumGrid, art, el, section, type TrackActions } from "./view";

interface Reason { type: string; text: string }
interface Recommended { track: Track; reason: Reason }
interface Mix { number: number; name: string; track_count: number; tracks?: Recommended[] }
interface Shelf { id: string; title: string; reason?: Reason; tracks?: Recommended[]; albums?: Album[]; mixes?: Mix[] }

/** shelves asks for the home feed. Without it the page is what it was: an empty list. */
export async function shelves(api: Api, act: TrackActions): Promise<HTMLElement[]> {
  const home = await api.get<{ shelves: Shelf[] }>("/v1/me/home").catch(() => ({ shelves: [] as Shelf[] }));
  return home.shelves.flatMap((s) => {
    const inside = s.tracks ? trackRow(s.tracks, s, act) : s.albums ? albumGrid(s.albums) : s.mixes ? mixRow(s.mixes, api, act) : undefined;
    if (!inside) return [];
    inside.classList.add("shelf");
    const box = section(s.title, inside);
    box.dataset.shelf = s.id;
    return [box];
  });
}

function trackRow(list: Recommended[], shelf: Shelf, act: TrackActions): HTMLElement {
  const tracks = list.map((r) => r.track);
  return el("div", { class: "grid" }, ...list.map((r, i) => el("button", { class: "tile", title: r.reason.text, "aria-label": `Play ${r.track.title} by ${r.track.artists.map((a) => a.name).join(", ")}. ${r.reason.text}`, onclick: () => act.play(tracks, i) },
    art(r.track.album, 180), el("div", { class: "title" }, r.track.title), el("div", { class: "by" }, r.track.artists.map((a) => a.name).join(", ")),
    r.reason.text !== shelf.reason?.text && el("div", { class: "why" }, r.reason.text))));
}

function mixRow(mixes: Mix[], api: Api, act: TrackActions): HTMLElement {
  const play = async (number: number) => {
    const all = await api.get<{ items: Mix[] }>("/v1/me/mixes");
    const tracks = all.items.find((m) => m.number === number)?.tracks?.map((r) => r.track) ?? [];
    if (tracks.length) act.play(tracks, 0);
  };
  return el("div", { class: "grid" }, ...mixes.map((m) => el("button", { class: "tile", "aria-label": `Play the mix ${m.name}`, onclick: () => void play(m.number) },
    art({ id: "mix" + m.number + m.name, title: m.name }, 180), el("div", { class: "title" }, m.name), el("div", { class: "by" }, `${m.track_count} tracks`))));
}
