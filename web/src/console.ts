// The operator's console: the fleet on a map and in a table, and what can be done with it.

import { feature } from "topojson-client";
import type { Topology } from "topojson-specification";
import type { MultiPolygon, Polygon, Position } from "geojson";
import world from "world-atlas/land-110m.json";
import { Problem, type Page } from "./api";
import { el, section } from "./view";

interface Region { name: string; display_name: string; latitude: number; longitude: number }
interface Heartbeat { version: string; connections: number; egress_bps: number; requests_per_second: number; hit_ratio: number; cpu_ratio: number; memory_bytes: number; disk_bytes: number; config_revision: string }
interface Edge { id: string; name: string; region: string; url: string; state: string; last_seen: string; heartbeat?: Heartbeat }
interface Explained { name: string; region: string; distance_km?: number; load_ratio?: number; reason: string }
interface Explanation { place: { country?: string; region?: string; asn?: number; source?: string }; home_region: string; picks: Explained[] | null; rejected: Explained[] | null }
interface Purge { id: string; edges: { name: string; state: string; done_at?: string }[] | null }

const kept = "segue.admin"; // the token, for as long as the tab lives

class Admin {
  async call<T>(method: string, path: string, body?: unknown): Promise<T> {
    const r = await fetch(path, { method, headers: { Authorization: "Bearer " + (sessionStorage.getItem(kept) ?? ""), ...(body === undefined ? {} : { "Content-Type": "application/json" }) }, body: body === undefined ? undefined : JSON.stringify(body) });
    const text = await r.text(), json = text ? JSON.parse(text) : undefined;
    if (!r.ok) throw new Problem(r.status, json?.type ?? "", json?.detail ?? r.statusText);
    return json as T;
  }
}

const svg = (tag: string, props: Record<string, string | number>, ...children: (Node | string)[]) => {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [k, v] of Object.entries(props)) e.setAttribute(k, String(v));
  e.append(...children);
  return e;
};

// Plate carree: a degree is a unit, north is up.
const x = (longitude: number) => longitude + 180, y = (latitude: number) => 90 - latitude;
/** path is a ring of land. One that crosses the date line is begun there, and goes on as a shape of its own at the other edge. */
function path(ring: Position[]): string {
  const jumps = (i: number) => i > 0 && Math.abs(ring[i]![0]! - ring[i - 1]![0]!) > 180;
  const first = ring.findIndex((_, i) => jumps(i));
  if (first > 0) ring = [...ring.slice(first), ...ring.slice(1, first)];
  return ring.map((p, i) => (i === 0 ? "M" : jumps(i) ? "ZM" : "L") + `${x(p[0]!).toFixed(1)},${y(p[1]!).toFixed(1)}`).join("") + "Z";
}

let land = "";
function outline(): string {
  if (land) return land;
  const topology = world as unknown as Topology;
  const shapes = feature(topology, topology.objects.land!) as unknown as { features?: { geometry: Polygon | MultiPolygon }[]; geometry?: Polygon | MultiPolygon };
  for (const g of (shapes.features ?? [{ geometry: shapes.geometry! }]).map((f) => f.geometry)) {
    for (const polygon of g.type === "Polygon" ? [g.coordinates] : g.coordinates) {
      for (const ring of polygon) land += path(ring);
    }
  }
  return land;
}

/** map shows each region where it is: a ring of its edges by state, and how many there are. */
function map(regions: Region[], edges: Edge[]): Node {
  const m = svg("svg", { viewBox: "0 0 360 150", class: "map", role: "img", "aria-label": "Regions on a map" }, svg("path", { d: outline(), class: "land" }));
  for (const r of regions) {
    const own = edges.filter((e) => e.region === r.name), healthy = own.filter((e) => e.state === "healthy").length;
    const state = !own.length ? "none" : healthy === own.length ? "healthy" : healthy ? "some" : "dead";
    m.append(svg("g", { class: "place " + state, transform: `translate(${x(r.longitude)} ${y(r.latitude)})` },
      svg("circle", { r: 3.2 + Math.min(4, own.length / 2) }), svg("text", { y: 1.4, class: "count" }, String(own.length)), svg("text", { y: -6 - Math.min(4, own.length / 2) }, r.display_name || r.name),
      svg("title", {}, `${r.name}: ${healthy} of ${own.length} edges healthy`)));
  }
  return m;
}

const percent = (v: number) => Math.round(v * 100) + " %";
const bits = (v: number) => v >= 1e9 ? (v / 1e9).toFixed(1) + " Gbit/s" : v >= 1e6 ? (v / 1e6).toFixed(1) + " Mbit/s" : Math.round(v / 1e3) + " kbit/s";
const bytes = (v: number) => v >= 1 << 30 ? (v / (1 << 30)).toFixed(1) + " GiB" : Math.round(v / (1 << 20)) + " MiB";

export class Console {
  private admin = new Admin();
  private timer = 0;

  constructor(private say: (text: string) => void) {}

  leave() { clearTimeout(this.timer); }

  /** page asks for an admin token when there is none, and else shows the fleet, anew every two seconds. */
  async page(): Promise<Node[]> {
    this.leave();
    if (!sessionStorage.getItem(kept)) return [this.door("")];
    const box = el("div", { class: "console" });
    try {
      await this.draw(box);
    } catch (e) {
      if (!(e instanceof Problem) || e.status !== 401 && e.status !== 403) throw e;
      sessionStorage.removeItem(kept);
      return [this.door("This token does not open the console: " + e.message)];
    }
    return [el("div", { class: "head" }, el("h1", {}, "Fleet"), el("span", { class: "grow" }), el("a", { class: "link", href: "/console/sql" }, "Ask the play logs"), el("button", { class: "link", onclick: () => { sessionStorage.removeItem(kept); dispatchEvent(new Event("hashchange")); } }, "Forget the token")), box, this.tools()];
  }

  private door(error: string): Node {
    const form = el("form", { class: "card", onsubmit: (e: Event) => {
      e.preventDefault();
      sessionStorage.setItem(kept, String(new FormData(form).get("token")).trim());
      dispatchEvent(new Event("hashchange"));
    } }, el("h1", {}, "Console"), el("p", {}, "An admin token opens it: segue up prints one, and segue admin makes more."), el("label", {}, "Admin token ", el("input", { name: "token", type: "password", autocomplete: "off", required: true })), el("p", { class: "bad", role: "alert" }, error), el("button", { class: "primary" }, "Open"));
    return el("div", { class: "middle" }, form);
  }

  private async draw(box: HTMLElement) {
    const [regions, edges] = await Promise.all([this.admin.call<Page<Region>>("GET", "/v1/admin/regions"), this.admin.call<Page<Edge>>("GET", "/v1/admin/edges")]);
    const sum = (f: (h: Heartbeat) => number) => edges.items.reduce((n, e) => n + (e.heartbeat && e.state !== "dead" ? f(e.heartbeat) : 0), 0);
    const live = edges.items.filter((e) => e.state === "healthy").length;
    const figure = (name: string, value: string) => el("div", { class: "figure" }, el("b", {}, value), el("span", {}, name));
    const rate = sum((h) => h.requests_per_second);
    box.replaceChildren(map(regions.items, edges.items),
      el("div", { class: "figures" }, figure("edges healthy", `${live} of ${edges.items.length}`), figure("egress", bits(sum((h) => h.egress_bps))), figure("requests/s", rate.toFixed(rate < 10 ? 1 : 0)), figure("connections", String(sum((h) => h.connections))),
        figure("hits", rate ? percent(sum((h) => h.hit_ratio * h.requests_per_second) / rate) : "–")),
      el("div", { class: "wide" }, el("table", { class: "edges" }, el("thead", {}, el("tr", {}, ...["Edge", "Region", "State", "Egress", "Requests/s", "Hits", "CPU", "Memory", "Disk", "Connections", "Version", ""].map((t) => el("th", {}, t)))),
        el("tbody", {}, ...edges.items.map((e) => this.row(e))))));
    this.timer = window.setTimeout(async () => {
      if (!box.isConnected) return;
      try { if (!document.hidden) { await this.draw(box); return; } } catch (err) { this.say("The fleet did not load: " + (err as Error).message); }
      this.timer = window.setTimeout(() => void this.draw(box).catch(() => {}), 4000);
    }, 2000);
  }

  private row(e: Edge): HTMLElement {
    const h = e.heartbeat, draining = e.state === "draining";
    const act = async () => {
      try { await this.admin.call("POST", `/v1/admin/edges/${e.id}/${draining ? "undrain" : "drain"}`); this.say(draining ? `${e.name} takes players again` : `${e.name} is drained: players move away`); } catch (err) { this.say((err as Error).message); }
    };
    return el("tr", { class: e.state }, el("td", {}, el("b", {}, e.name), el("div", { class: "by" }, e.url)), el("td", {}, e.region), el("td", {}, el("span", { class: "state" }, e.state)),
      ...(h ? [bits(h.egress_bps), h.requests_per_second.toFixed(1), percent(h.hit_ratio), percent(h.cpu_ratio), bytes(h.memory_bytes), bytes(h.disk_bytes), String(h.connections), h.version] : Array<string>(8).fill("–")).map((v) => el("td", { class: "n" }, v)),
      el("td", {}, el("button", { class: "link", disabled: e.state === "dead", onclick: () => void act() }, draining ? "Undrain" : "Drain")));
  }

  private tools(): Node {
    const out = el("div", { class: "answer", role: "status" });
    const explain = el("form", { class: "fields", id: "explain", onsubmit: async (e: Event) => {
      e.preventDefault();
      const f = new FormData(explain), q = new URLSearchParams({ ip: String(f.get("ip")) });
      if (f.get("track")) q.set("track", String(f.get("track")));
      try {
        const a = await this.admin.call<Explanation>("GET", "/v1/admin/explain?" + q);
        out.replaceChildren(el("p", {}, `Place: ${[a.place.country, a.place.asn && "AS" + a.place.asn, a.place.source && "by " + a.place.source].filter(Boolean).join(", ") || "unknown"}; home region ${a.home_region || "none"}`),
          el("ol", { class: "picks" }, ...(a.picks ?? []).map((p) => el("li", {}, el("b", {}, p.name), ` ${p.region}`, el("span", { class: "by" }, ["", p.reason, p.distance_km === undefined ? "" : Math.round(p.distance_km) + " km", p.load_ratio === undefined ? "" : "load " + percent(p.load_ratio)].filter((v, i) => !i || v).join(" · "))))),
          el("ul", {}, ...(a.rejected ?? []).map((r) => el("li", { class: "by" }, `${r.name}: ${r.reason}`))));
      } catch (err) { out.replaceChildren(el("p", { class: "bad" }, (err as Error).message)); }
    } }, el("input", { name: "ip", placeholder: "Address of a player", "aria-label": "Address of a player", required: true }), el("input", { name: "track", placeholder: "Track (ID), if you like", "aria-label": "Track" }), el("button", { class: "primary" }, "Explain"));
    const purge = el("form", { class: "fields", id: "purge", onsubmit: async (e: Event) => {
      e.preventDefault();
      const f = new FormData(purge);
      try {
        let p = await this.admin.call<Purge>("POST", "/v1/admin/purges", { kind: f.get("kind"), value: f.get("value"), soft: f.get("soft") === "on" });
        for (let i = 0; ; i++) {
          const done = (p.edges ?? []).filter((x) => x.done_at), late = (p.edges ?? []).filter((x) => !x.done_at);
          out.replaceChildren(el("p", {}, `Purged on ${done.length} of ${(p.edges ?? []).length} edges` + (late.length ? `; waiting for ${late.map((x) => x.name + (x.state === "dead" ? " (dead: it purges when it is back)" : "")).join(", ")}` : ".")));
          if (!late.some((x) => x.state !== "dead") || i > 40) break;
          await new Promise((r) => setTimeout(r, 250));
          p = await this.admin.call<Purge>("GET", "/v1/admin/purges/" + p.id);
        }
      } catch (err) { out.replaceChildren(el("p", { class: "bad" }, (err as Error).message)); }
    } }, el("select", { name: "kind", "aria-label": "Kind" }, ...["key", "prefix", "tag"].map((k) => el("option", {}, k))), el("input", { name: "value", placeholder: "What: a path, its beginning, or a tag", "aria-label": "What", required: true }),
      el("label", { class: "tick" }, el("input", { type: "checkbox", name: "soft" }), "soft: only stale"), el("button", { class: "primary" }, "Purge"));
    return el("div", {}, section("Where would a player go, and why", explain), section("Purge", purge), out);
  }
}
