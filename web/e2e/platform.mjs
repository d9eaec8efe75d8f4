// Starts the real program on a temporary folder with real music and on free ports, and ends it.
import { spawn, execFileSync } from "node:child_process";
import { copyFileSync, mkdtempSync, mkdirSync, readFileSync, readdirSync, rmSync, existsSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

export const root = join(dirname(fileURLToPath(import.meta.url)), "../..");

/** freePorts returns the first of n ports in a row that nobody uses, on any of the hosts. */
export async function freePorts(n, hosts = ["127.0.0.1"]) {
  for (let base = 20000 + Math.floor(Math.random() * 20000); ; base += n) {
    const free = await Promise.all(Array.from({ length: n }, (_, i) => i).flatMap((i) => hosts.map((host) => new Promise((yes) => {
      const s = createServer().once("error", () => yes(false)).listen(base + i, host, () => s.close(() => yes(true)));
    }))));
    if (free.every(Boolean)) return base;
  }
}

export const musicDir = () => {
  const base = "/usr/share/games/wesnoth";
  const found = existsSync(base) ? readdirSync(base).map((v) => join(base, v, "data/core/music")).filter(existsSync) : [];
  if (!found.length) throw new Error("the Debian package wesnoth-1.16-music is not installed; `make deps` installs it");
  return found[0];
};

/** start runs `segue up` with some real tracks, one of them also as FLAC, until they are all in the catalogue. */
export async function start(tracks = ["victory.ogg", "victory2.ogg", "defeat.ogg", "breaking_the_chains.ogg"]) {
  const dir = mkdtempSync(join(tmpdir(), "segue-e2e-"));
  const music = join(dir, "music"), data = join(dir, "data");
  mkdirSync(music);
  for (const t of tracks) copyFileSync(join(musicDir(), t), join(music, t));
  execFileSync("ffmpeg", ["-nostdin", "-v", "error", "-i", join(music, tracks[0]), "-map_metadata", "-1", "-metadata", "title=Lossless Victory", "-metadata", "artist=Test", "-metadata", "album=Lossless", join(music, "lossless.flac")]);
  const port = await freePorts(6);
  const at = (i) => `127.0.0.1:${port + i}`;
  const args = ["up", "--data", data, "--music", music, "--listen", at(0), "--edge-listen", at(1), "--debug-listen", at(3), "--clickhouse-http", at(4), "--clickhouse-native", at(5)];
  const child = spawn(join(root, "bin/segue"), args, { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  const ended = new Promise((yes) => child.on("exit", (code) => yes(code)));
  await new Promise((yes, no) => {
    const timer = setTimeout(() => no(new Error("not ready in 120 s:\n" + output)), 120_000);
    const read = (b) => {
      output += b;
      if (/packaged \(.*failed in/.test(output)) { clearTimeout(timer); yes(); }
    };
    child.stdout.on("data", read);
    child.stderr.on("data", read);
    void ended.then((code) => { clearTimeout(timer); no(new Error(`ended with ${code}:\n${output}`)); });
  });
  if (!/, 0 failed in/.test(output)) throw new Error("ingest failed:\n" + output);
  const credentials = JSON.parse(readFileSync(join(data, "credentials.json"), "utf8"));
  return {
    data, music, credentials, output: () => output, args,
    /** sql asks ClickHouse as the analyst and returns rows. */
    async sql(query) {
      const ch = credentials.clickhouse;
      const r = await fetch(ch.http_url + "/?database=segue&default_format=JSON", { method: "POST", body: query, headers: { "X-ClickHouse-User": ch.user, "X-ClickHouse-Key": ch.password } });
      const text = await r.text();
      if (!r.ok) throw new Error(text);
      return JSON.parse(text).data;
    },
    async stop() {
      child.kill("SIGTERM");
      const code = await ended;
      rmSync(dir, { recursive: true, force: true });
      return code;
    },
  };
}

/** listener signs in over the API. */
export async function listener(credentials, login = credentials.listener) {
  const base = credentials.player_url.replace(/\/$/, "");
  let headers = { "Content-Type": "application/json" };
  const call = async (method, path, body) => {
    const r = await fetch(base + path, { method, headers, body: body && JSON.stringify(body) });
    if (!r.ok) throw new Error(`${method} ${path}: ${r.status} ${await r.text()}`);
    return r.json();
  };
  const s = await call("POST", "/v1/sessions", { email: login.email, password: login.password });
  headers = { ...headers, Authorization: "Bearer " + s.access_token };
  return call;
}

export function browser() {
  const path = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);
  if (!path) throw new Error("Chromium is not installed; `make deps` installs it");
  return chromium.launch({ executablePath: path, args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required"] });
}

/** until waits for a condition, and says what it waited for. */
export async function until(what, f, ms = 20_000) {
  let last;
  for (const end = Date.now() + ms; Date.now() < end; await new Promise((r) => setTimeout(r, 100))) {
    try { if (await f()) return; } catch (e) { last = e; }
  }
  throw new Error(`not within ${ms} ms: ${what}${last ? ": " + last.message : ""}`);
}
