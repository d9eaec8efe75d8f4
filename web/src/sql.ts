// The console's query page: a statement, its answer as a table and as a chart. ClickHouse sees a user who may only read.

import { el } from "./view";

interface Column { name: string; type: string }
interface Table { columns: Column[]; rows: unknown[][]; truncated: boolean; duration_ms: number }

const $ = <T extends HTMLElement>(id: string) => document.getElementById(id) as T;
const token = $<HTMLInputElement>("token"), sql = $<HTMLTextAreaElement>("sql"), kind = $<HTMLSelectElement>("kind"), examples = $<HTMLSelectElement>("examples");
const kept = "segue.stats-token";

const questions: Record<string, string> = {
  "Plays a day": "SELECT toDate(play_at) AS day, countIf(counted) AS plays, uniqExact(user_key) AS listeners\nFROM plays GROUP BY day ORDER BY day",
  "Most heard tracks": "SELECT title, artist, countIf(counted) AS plays\nFROM plays WHERE play_at > now() - INTERVAL 30 DAY\nGROUP BY title, artist ORDER BY plays DESC LIMIT 20",
  "Start-up time by edge": "SELECT arrayJoin(edges) AS edge, count() AS starts, quantile(0.5)(startup_ms) AS p50_ms, quantile(0.95)(startup_ms) AS p95_ms\nFROM sessions WHERE startup_ms > 0 GROUP BY edge ORDER BY edge",
  "Hit ratio by edge and hour": "SELECT toStartOfHour(minute) AS hour, sumIf(requests, cache = 'hit') / sum(requests) AS hit_ratio, sum(bytes) AS bytes\nFROM edge_minutely WHERE minute > now() - INTERVAL 1 DAY GROUP BY hour ORDER BY hour",
};
examples.replaceChildren(el("option", { value: "" }, "…"), ...Object.keys(questions).map((q) => el("option", { value: q }, q)));
examples.onchange = () => { if (questions[examples.value]) sql.value = questions[examples.value]!; };
token.value = sessionStorage.getItem(kept) ?? "";
sql.value = questions["Plays a day"]!;

let last: Table | undefined;

$<HTMLFormElement>("ask").onsubmit = async (e) => {
  e.preventDefault();
  const go = $<HTMLButtonElement>("go");
  go.disabled = true;
  say("…");
  try {
    const r = await fetch("/v1/admin/sql", { method: "POST", headers: { Authorization: "Bearer " + token.value, "Content-Type": "application/json" }, body: JSON.stringify({ sql: sql.value }) });
    const body = await r.json();
    if (!r.ok) throw new Error(body.detail ?? r.statusText);
    sessionStorage.setItem(kept, token.value); // it works: kept as long as this tab is open
    last = body as Table;
    say(`${last.rows.length} rows in ${last.duration_ms} ms${last.truncated ? "; there are more" : ""}`);
    show();
  } catch (err) {
    last = undefined;
    show();
    say((err as Error).message);
  } finally {
    go.disabled = false;
  }
};
sql.addEventListener("keydown", (e) => { if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) $<HTMLFormElement>("ask").requestSubmit(); });
kind.onchange = show;

const say = (text: string) => { $("said").textContent = text; };
const cell = (v: unknown) => v === null ? "" : typeof v === "object" ? JSON.stringify(v) : String(v);
const isNumber = (c: Column | undefined) => !!c && /^(Nullable\()?(U?Int|Float|Decimal)/.test(c.type);

function show() {
  $<HTMLButtonElement>("csv").disabled = !last;
  const t = last;
  $("table").replaceChildren(...(t ? [el("table", {}, el("thead", {}, el("tr", {}, ...t.columns.map((c) => el("th", { title: c.type }, c.name)))),
    el("tbody", {}, ...t.rows.slice(0, 1000).map((r) => el("tr", {}, ...r.map((v, i) => el("td", { class: isNumber(t.columns[i]) ? "number" : undefined }, cell(v)))))))] : []));
  $("chart").replaceChildren(...(t && kind.value !== "none" ? chart(t, kind.value as "line" | "bar") : []));
}

const colours = ["#2fbf8f", "#7aa7ff", "#ffc76b", "#e2707c", "#b58cff", "#7fd4e8"];

/** chart draws the numbers of a table over its first column that is none, or over the rows. */
function chart(t: Table, form: "line" | "bar"): Node[] {
  const over = t.columns.findIndex((c) => !isNumber(c)), shown = t.columns.map((_, i) => i).filter((i) => i !== over && isNumber(t.columns[i])).slice(0, colours.length);
  const rows = t.rows.slice(0, 500);
  if (!shown.length || !rows.length) return [el("p", { class: "empty" }, "There is no number to draw.")];
  const w = 900, h = 260, left = 60, bottom = 24, most = Math.max(1e-9, ...rows.flatMap((r) => shown.map((i) => Number(r[i]) || 0)));
  const y = (v: number) => h - bottom - (Math.max(0, v) / most) * (h - bottom - 10), x = (i: number) => left + ((i + 0.5) * (w - left)) / rows.length;
  const ns = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(ns, "svg");
  const put = (tag: string, attributes: Record<string, string | number>, text?: string) => {
    const e = document.createElementNS(ns, tag);
    for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, String(v));
    if (text !== undefined) e.textContent = text;
    svg.append(e);
  };
  svg.setAttribute("viewBox", `0 0 ${w} ${h}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", shown.map((i) => t.columns[i]!.name).join(", "));
  for (let i = 0; i <= 4; i++) {
    const v = (most * i) / 4;
    put("line", { x1: left, x2: w, y1: y(v), y2: y(v), stroke: "currentColor", "stroke-opacity": 0.15 });
    put("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end", "font-size": 11, fill: "currentColor" }, v >= 1000 ? v.toLocaleString("en", { notation: "compact" }) : String(Math.round(v * 100) / 100));
  }
  const each = (w - left) / rows.length, bar = Math.max(1, (each * 0.8) / shown.length);
  shown.forEach((c, k) => {
    if (form === "line") put("polyline", { points: rows.map((r, i) => `${x(i)},${y(Number(r[c]) || 0)}`).join(" "), fill: "none", stroke: colours[k]!, "stroke-width": 2 });
    else rows.forEach((r, i) => put("rect", { x: x(i) - each * 0.4 + k * bar, y: y(Number(r[c]) || 0), width: bar, height: h - bottom - y(Number(r[c]) || 0), fill: colours[k]! }));
  });
  const step = Math.ceil(rows.length / 8);
  rows.forEach((r, i) => { if (i % step === 0) put("text", { x: x(i), y: h - 6, "text-anchor": "middle", "font-size": 11, fill: "currentColor" }, (over >= 0 ? cell(r[over]) : String(i + 1)).slice(0, 16)); });
  return [svg, el("p", { class: "legend" }, ...shown.map((c, k) => {
    const name = el("span", {}, "■ " + t.columns[c]!.name + " ");
    name.style.color = colours[k]!; // an attribute would be refused by the page's policy
    return name;
  }))];
}

$("csv").onclick = () => {
  if (!last) return;
  const quote = (s: string) => (/[",\n\r]/.test(s) ? `"${s.replaceAll('"', '""')}"` : s);
  const text = [last.columns.map((c) => c.name), ...last.rows.map((r) => r.map(cell))].map((r) => r.map(quote).join(",")).join("\r\n") + "\r\n";
  const a = el("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: "answer.csv" });
  a.click();
  setTimeout(() => URL.revokeObjectURL(a.href), 1000);
};
