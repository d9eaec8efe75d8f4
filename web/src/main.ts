// The page: routes by the location's hash, wires the player bar, and knows the keyboard.

import { account } from "./account";
import { Api, Problem, type Album, type Artist, type Found, type Page, type Track } from "./api";
import { Console } from "./console";
import { Events } from "./events";
import { Library, Pages } from "./library";
import { Player, auto } from "./player";
import { shelves } from "./shelves";
import { albumGrid, art, artistRow, clock, el, heart, many, menu, paintArt, playlistGrid, section, trackList, type TrackActions } from "./view";

const $ = <T extends HTMLElement>(id: string) => document.getElementById(id) as T;
const api = new Api(), events = new Events(api), player = new Player(api, events);
Object.assign(window, { segue: { player } }); // for the console, and for tests

const view = $("view"), seek = $<HTMLInputElement>("seek"), volume = $<HTMLInputElement>("volume"), quality = $<HTMLSelectElement>("quality");
const searchBox = $<HTMLFormElement>("search").elements.namedItem("q") as HTMLInputElement;

let toastTimer = 0;
function toast(text: string) {
  $("toast").textContent = text;
  $("toast").className = "on";
  clearTimeout(toastTimer);
  toastTimer = window.setTimeout(() => { $("toast").className = ""; }, 5000);
}

const act: TrackActions = {
  play: (list, i) => void player.play(i, list),
  enqueue: (t) => { player.enqueue(t); toast(`“${t.title}” is in the queue`); },
  liked: (id) => library.holds("tracks", id),
  like: (t, on) => library.keep("tracks", t.id, on),
  more: (t, at) => menu(at, [
    ["Play next", () => player.playNext(t)], ["Add to the queue", () => act.enqueue(t)], ["Add to a playlist…", () => void pages.add(t, at).catch((e: Error) => toast(e.message))],
    ["Go to the album", () => { location.hash = "#/album/" + t.album.id; }], ...t.artists.map((a): [string, () => void] => [`Go to ${a.name}`, () => { location.hash = "#/artist/" + a.id; }]),
  ]),
};
const library = new Library(api), pages = new Pages(api, library, act, toast, () => void route()), fleet = new Console(toast);
/** tracks is a list whose hearts are known. */
async function tracks(list: Track[], numbers = false): Promise<HTMLElement> {
  await library.learn("tracks", list.map((t) => t.id));
  return trackList(list, act, numbers);
}

// Views. Each replaces the page's middle; an answer that comes after the next navigation is dropped.
let visit = 0;
async function route() {
  const [, what = "", arg = ""] = location.hash.split("/").map(decodeURIComponent);
  const open = what === "console" || what === "shared"; // to people without an account too
  $("door").hidden = !!api.user || open;
  $("app").hidden = !api.user && !open;
  $("app").classList.toggle("guest", !api.user);
  if (!api.user && !open) { (sign.elements.namedItem("email") as HTMLInputElement).focus(); return; }
  const mine = ++visit;
  fleet.leave();
  for (const a of document.querySelectorAll<HTMLAnchorElement>("header nav a")) a.toggleAttribute("aria-current", a.hash === "#/" + what);
  if (what !== "search") searchBox.value = "";
  try {
    const page = what === "search" ? await search(arg) : what === "album" ? await album(arg) : what === "artist" ? await artist(arg)
      : what === "library" ? await pages.home() : what === "playlist" ? await pages.playlist(arg) : what === "shared" ? await pages.shared(arg) : what === "account" ? await account(api, toast, () => void route())
      : what === "console" ? await fleet.page() : await home();
    if (mine !== visit) return;
    view.replaceChildren(...page);
    mark();
  } catch (e) {
    if (mine === visit) view.replaceChildren(el("p", { class: "empty", role: "alert" }, e instanceof Problem && e.status === 404 ? "There is nothing here." : "This did not load: " + (e as Error).message));
  }
}

async function home(): Promise<Node[]> {
  const mine = visit;
  const [albums, first, feed] = await Promise.all([api.get<Page<Album>>("/v1/albums?limit=24"), api.get<Page<Track>>("/v1/tracks?limit=50"), shelves(api, act)]);
  if (!first.next) lookAgain(mine, first.items.length);
  if (first.items.length === 0) return [el("p", { class: "empty" }, "No music yet. It appears here as it is ingested.")];
  const list = el("div"), all: Track[] = [];
  const grow = async (p: Page<Track>) => {
    all.push(...p.items);
    list.replaceChildren(await tracks(all));
    if (p.next) list.append(el("button", { class: "more", onclick: async () => await grow(await api.get(`/v1/tracks?limit=50&cursor=${p.next}`)) }, "Show more"));
    mark();
  };
  await grow(first);
  return [...feed, section("Albums", albumGrid(albums.items)), section("Tracks", list)];
}

/** lookAgain shows what was ingested since, for as long as the home page is looked at and short. */
function lookAgain(mine: number, had: number) {
  setTimeout(async () => {
    if (mine !== visit || !api.user) return;
    const now = document.hidden ? undefined : await api.get<Page<Track>>("/v1/tracks?limit=50").catch(() => undefined);
    if (mine !== visit) return;
    if (!now || now.items.length === had) return lookAgain(mine, had);
    const focused = document.activeElement?.closest<HTMLElement>("[data-track]")?.dataset.track, at = scrollY;
    await route();
    scrollTo(0, at);
    if (focused) view.querySelector<HTMLElement>(`[data-track="${focused}"] .hit`)?.focus();
  }, 4000);
}

async function search(q: string): Promise<Node[]> {
  if (searchBox.value !== q && document.activeElement !== searchBox) searchBox.value = q;
  if (!q.trim()) return home();
  const r = await api.get<Found>("/v1/search?limit=30&q=" + encodeURIComponent(q));
  const out: Node[] = [];
  if (r.artists.length) out.push(section("Artists", artistRow(r.artists)));
  if (r.albums.length) out.push(section("Albums", albumGrid(r.albums)));
  if (r.tracks.length) out.push(section("Tracks", await tracks(r.tracks)));
  if (r.playlists?.length) out.push(section("Playlists", playlistGrid(r.playlists)));
  return out.length ? out : [el("p", { class: "empty" }, `Nothing found for “${q}”.`)];
}

async function album(id: string): Promise<Node[]> {
  const a = await api.get<Album>("/v1/albums/" + encodeURIComponent(id)), all = a.tracks ?? [];
  await library.learn("albums", [a.id]);
  return [el("div", { class: "head" }, art(a, 200), el("div", {},
    el("h1", {}, a.title), el("p", { class: "by" }, [a.artists.map((x) => x.name).join(", "), a.date?.slice(0, 4), many(all.length, "track"), clock(a.duration_ms)].filter(Boolean).join(" · ")),
    el("button", { class: "primary", onclick: () => act.play(all, 0) }, "Play"), heart(library.holds("albums", a.id), a.title, (on) => library.keep("albums", a.id, on)))), await tracks(all, true)];
}

async function artist(id: string): Promise<Node[]> {
  const a = await api.get<Artist>("/v1/artists/" + encodeURIComponent(id));
  await library.learn("artists", [a.id]);
  return [el("div", { class: "head" }, el("h1", {}, a.name), heart(library.holds("artists", a.id), a.name, (on) => library.keep("artists", a.id, on))), section("Albums", albumGrid(a.albums ?? [])), ...(a.appears_on?.length ? [section("Appears on", albumGrid(a.appears_on))] : [])];
}

// The player bar.
function mark() {
  for (const li of document.querySelectorAll<HTMLElement>("[data-track]")) li.classList.toggle("playing", li.dataset.track === player.track?.id && !!player.playback);
}

function draw() {
  const t = player.track, p = player.playback;
  $("now-title").textContent = t ? t.title : "Nothing is playing";
  $("now-artist").textContent = t ? t.artists.map((a) => a.name).join(", ") : "";
  paintArt($("now-art"), t?.album, 56);
  const button = $("play");
  button.classList.toggle("is-playing", !player.paused);
  button.classList.toggle("is-loading", player.loading);
  button.setAttribute("aria-label", player.paused ? "Play" : "Pause");
  seek.disabled = !p;
  $("length").textContent = clock(p?.duration_ms ?? 0);
  const s = player.source, place = $("source");
  place.replaceChildren(...(s ? [el("b", {}, s.edge), s.tier ? el("span", { class: "tier " + s.tier }, s.tier) : "", s.rendition ? el("i", {}, s.rendition.replace("_", " ")) : ""] : []));
  const options = [auto, ...(p?.renditions ?? [])];
  if (options.join() !== [...quality.options].map((o) => o.value).join()) quality.replaceChildren(...options.map((o) => el("option", { value: o }, o === auto ? "Auto" : o.replace("_", " "))));
  quality.value = options.includes(player.quality) ? player.quality : auto;
  $<HTMLButtonElement>("next").disabled = player.index + 1 >= player.queue.length;
  $<HTMLButtonElement>("prev").disabled = !t;
  document.title = t && !player.paused ? `${t.title} · Segue` : "Segue";
  drawQueue();
  mark();
}

function drawQueue() {
  const box = $("queue");
  if (box.hidden) return;
  box.replaceChildren(el("h2", {}, "Queue"), player.queue.length ? el("ol", {}, ...player.queue.map((t, i) => el("li", { class: i === player.index ? "playing" : i < player.index ? "past" : "" },
    el("button", { class: "hit", onclick: () => void player.play(i) }, el("span", { class: "title" }, t.title), el("span", { class: "by" }, t.artists.map((a) => a.name).join(", "))),
    i !== player.index && el("button", { class: "add", "aria-label": `Take ${t.title} out of the queue`, onclick: () => player.remove(i) }, "×")))) : el("p", { class: "empty" }, "Play something."));
}

let dragging = false;
function drawTime() {
  const at = player.audio.currentTime, d = player.duration;
  if (!dragging) {
    seek.value = String(d ? Math.round((at / d) * 1000) : 0);
    $("at").textContent = clock(at * 1000);
  }
  seek.style.setProperty("--done", `${Number(seek.value) / 10}%`);
  seek.setAttribute("aria-valuetext", `${clock(at * 1000)} of ${clock(d * 1000)}`);
}

player.addEventListener("change", draw);
player.addEventListener("time", drawTime);
player.addEventListener("problem", (e) => toast((e as CustomEvent<string>).detail));
$("play").onclick = () => player.toggle();
$("prev").onclick = () => void player.previous();
$("next").onclick = () => void player.next();
seek.oninput = () => { dragging = true; $("at").textContent = clock((Number(seek.value) / 1000) * player.duration * 1000); drawTime(); };
seek.onchange = () => { dragging = false; player.seek((Number(seek.value) / 1000) * player.duration); };
volume.value = String(Math.round(player.audio.volume * 100));
volume.oninput = () => player.setVolume(Number(volume.value) / 100);
quality.onchange = () => player.setQuality(quality.value);
const toggleQueue = () => {
  $("queue").hidden = !$("queue").hidden;
  $("show-queue").setAttribute("aria-expanded", String(!$("queue").hidden));
  drawQueue();
};
$("show-queue").onclick = toggleQueue;

const meter = $<HTMLCanvasElement>("meter"), pen = meter.getContext("2d")!, bins = new Uint8Array(512);
function drawMeter() {
  requestAnimationFrame(drawMeter);
  if (document.hidden) return;
  pen.clearRect(0, 0, meter.width, meter.height);
  if (player.paused) return;
  player.spectrum(bins);
  pen.fillStyle = getComputedStyle(meter).color;
  for (let i = 0; i < 8; i++) { // octave bands: each as wide as all before it
    const from = 1 << i, band = bins.subarray(from, from * 2);
    const h = (band.reduce((m, v) => Math.max(m, v), 0) / 255) * meter.height;
    pen.fillRect(i * 6, meter.height - h, 4, h);
  }
}
drawMeter();

// Search as you type.
let typing = 0;
searchBox.oninput = () => {
  clearTimeout(typing);
  typing = window.setTimeout(() => {
    history.replaceState(null, "", searchBox.value.trim() ? "#/search/" + encodeURIComponent(searchBox.value) : "#/");
    void route();
  }, 150);
};
$<HTMLFormElement>("search").onsubmit = (e) => { e.preventDefault(); searchBox.blur(); view.focus(); };

addEventListener("hashchange", () => void route());
addEventListener("keydown", (e) => {
  const typingNow = e.target instanceof HTMLInputElement && e.target.type !== "range" || e.target instanceof HTMLSelectElement;
  if (e.key === "Escape" && typingNow) (e.target as HTMLElement).blur();
  if (typingNow || e.ctrlKey || e.metaKey || e.altKey || !api.user) return;
  const onButton = e.target instanceof HTMLButtonElement, onRange = e.target instanceof HTMLInputElement;
  const keys: Record<string, (() => void) | false> = {
    " ": !onButton && (() => player.toggle()),
    "/": () => searchBox.focus(),
    n: () => void player.next(), p: () => void player.previous(), q: toggleQueue,
    ArrowRight: !onRange && (() => player.seek(player.audio.currentTime + 10)),
    ArrowLeft: !onRange && (() => player.seek(player.audio.currentTime - 10)),
  };
  const f = keys[e.key];
  if (f) { e.preventDefault(); f(); }
});

// The door: sign in or up.
let signUp = false;
const sign = $<HTMLFormElement>("sign");
$("sign-swap").onclick = () => {
  signUp = !signUp;
  $("sign-lead").textContent = signUp ? "Make an account: free, up to 160 kbit/s." : "Sign in to listen.";
  $("sign-go").textContent = signUp ? "Sign up" : "Sign in";
  $("sign-swap").textContent = signUp ? "I have an account" : "New here? Make an account";
};
sign.onsubmit = async (e) => {
  e.preventDefault();
  const f = new FormData(sign), email = String(f.get("email")), password = String(f.get("password"));
  $("sign-error").textContent = "";
  $<HTMLButtonElement>("sign-go").disabled = true;
  try {
    await (signUp ? api.signUp(email, password) : api.signIn(email, password));
    show();
  } catch (err) {
    $("sign-error").textContent = (err as Error).message;
  } finally {
    $<HTMLButtonElement>("sign-go").disabled = false;
  }
};
$("account").onclick = () => menu($("account"), [["Account and devices", () => { location.hash = "#/account"; }], ["Operator's console", () => { location.hash = "#/console"; }], ["API", () => { location.href = "/docs"; }], ["Sign out", () => void api.signOut()]]);
api.onSignedOut = () => { player.leave(); library.forget(); show(); };
api.follow(show);

function show() {
  if (api.user) {
    $("account").textContent = api.user.display_name || api.user.email;
    $("account").title = `${api.user.email} (${api.user.plan})`;
    draw();
    void events.flush();
  }
  void route();
}

void api.resume().then(show);
