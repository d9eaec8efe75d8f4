// Other people's players on our renditions: hls.js, dash.js and Shaka Player, each rendition, in Chromium; and other
// people's parsers on our files and tokens.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import { browser, listener, start, until } from "./platform.mjs";

const require = createRequire(import.meta.url);
let platform, chrome, call, pages, track;

before(async () => {
  platform = await start(["victory2.ogg"]);
  call = await listener(platform.credentials);
  await until("the track is found", async () => { track = (await call("GET", "/v1/search?q=lossless+victory")).tracks[0]; return track; });
  chrome = await browser();
  const scripts = { "/hls.js": require.resolve("hls.js/dist/hls.js"), "/dash.js": require.resolve("dashjs"), "/shaka.js": require.resolve("shaka-player/dist/shaka-player.compiled.js") };
  pages = createServer((req, res) => {
    if (scripts[req.url]) { res.setHeader("Content-Type", "text/javascript"); res.end(readFileSync(scripts[req.url])); return; }
    res.setHeader("Content-Type", "text/html");
    res.end(`<!doctype html><audio id=a controls crossorigin=anonymous></audio><script src=/hls.js></script><script src=/dash.js></script><script src=/shaka.js></script>`);
  });
  await new Promise((r) => pages.listen(0, "127.0.0.1", r));
});
after(async () => {
  await chrome?.close();
  pages?.close();
  assert.equal(await platform?.stop(), 0);
});

// Runs in the page: plays with one player, fixed to one rendition, seeks to the middle, and measures what is heard.
async function playWith({ player, hls, dash, rendition }) {
  const audio = document.getElementById("a");
  const errors = [];
  audio.onerror = () => errors.push("media error " + audio.error.message);
  const context = new AudioContext(), meter = context.createAnalyser();
  context.createMediaElementSource(audio).connect(meter).connect(context.destination);
  await context.resume();
  const wait = async (what, f, ms = 30000) => {
    for (const end = Date.now() + ms; Date.now() < end; await new Promise((r) => setTimeout(r, 50))) if (f()) return;
    throw new Error(`${player} ${rendition}: not in time: ${what}; at ${audio.currentTime} of ${audio.duration}, ${errors}`);
  };
  if (player === "hls.js") {
    const h = new Hls({ debug: false });
    h.on(Hls.Events.ERROR, (_, d) => { if (d.fatal) errors.push(d.details); });
    h.on(Hls.Events.MANIFEST_PARSED, () => { h.currentLevel = h.levels.findIndex((l) => l.uri.includes("/" + rendition + ".m3u8")); });
    h.loadSource(hls);
    h.attachMedia(audio);
  } else if (player === "dash.js") {
    const d = dashjs.MediaPlayer().create();
    d.updateSettings({ streaming: { abr: { autoSwitchBitrate: { audio: false } } } });
    d.on(dashjs.MediaPlayer.events.ERROR, (e) => errors.push(e.error?.message ?? "error"));
    d.setCustomInitialTrackSelectionFunction((tracks) => tracks.filter((t) => t.bitrateList.some((b) => b.id === rendition)));
    d.on(dashjs.MediaPlayer.events.STREAM_INITIALIZED, () => d.setRepresentationForTypeById("audio", rendition, true));
    d.initialize(audio, dash, false);
  } else {
    shaka.polyfill.installAll();
    const s = new shaka.Player();
    await s.attach(audio);
    s.addEventListener("error", (e) => errors.push("shaka " + e.detail.code));
    s.configure({ abr: { enabled: false } });
    await s.load(player === "shaka-hls" ? hls : dash);
    const named = s.getVariantTracks().filter((t) => (t.originalAudioId ?? t.label ?? "").includes(rendition) || t.originalVideoId === rendition);
    if (named.length === 0 && player === "shaka-dash") throw new Error("no variant for " + rendition + " among " + JSON.stringify(s.getVariantTracks().map((t) => [t.originalAudioId, t.audioCodec, t.bandwidth])));
    if (named.length) s.selectVariantTrack(named[0], true);
  }
  await wait("metadata", () => audio.readyState >= 1 && audio.duration > 0);
  const from = Math.max(audio.duration / 2, audio.duration - 5);
  audio.currentTime = from;
  await audio.play();
  await wait("it plays on from there", () => audio.currentTime > from + 0.8);
  let level = 0;
  const b = new Float32Array(meter.fftSize);
  for (let i = 0; i < 20; i++) {
    meter.getFloatTimeDomainData(b);
    level = Math.max(level, ...b.map(Math.abs));
    await new Promise((r) => setTimeout(r, 25));
  }
  await wait("it comes to its end", () => audio.ended, 15000);
  return { level, duration: audio.duration, end: audio.currentTime, errors };
}

const supported = ["aac_96", "opus_128", "aac_160", "aac_256", "flac"];
for (const player of ["hls.js", "dash.js", "shaka-dash"]) {
  for (const rendition of supported) {
    test(`${player} plays ${rendition}`, async () => {
      assert.ok(track.renditions.includes(rendition), rendition + " is packaged");
      const p = await call("POST", "/v1/playback", { track_id: track.id });
      const page = await chrome.newPage();
      const served = new Set();
      page.on("response", (r) => { const m = /([a-z]+_?\d*)\.mp4/.exec(r.url()); if (m) served.add(m[1]); });
      await page.goto(`http://127.0.0.1:${pages.address().port}/`);
      const r = await page.evaluate(playWith, { player, hls: p.hls_url, dash: p.dash_url, rendition });
      await page.close();
      assert.deepEqual(r.errors, []);
      assert.ok(r.level > 0.01, `level ${r.level}`);
      assert.ok(Math.abs(r.duration - p.duration_ms / 1000) < 0.05, `duration ${r.duration}, track ${p.duration_ms} ms`);
      assert.ok(served.has(rendition), `asked for ${[...served]}`);
    });
  }
}

test("shaka plays the HLS form too", async () => {
  const p = await call("POST", "/v1/playback", { track_id: track.id });
  const page = await chrome.newPage();
  await page.goto(`http://127.0.0.1:${pages.address().port}/`);
  const r = await page.evaluate(playWith, { player: "shaka-hls", hls: p.hls_url, dash: p.dash_url, rendition: "aac_160" });
  await page.close();
  assert.deepEqual(r.errors, []);
  assert.ok(r.level > 0.01);
});

test("GPAC's parser finds every file sound", async () => {
  const { createFile } = await import("mp4box");
  const p = await call("POST", "/v1/playback", { track_id: track.id });
  const base = p.hls_url.replace(/[^/]+$/, "");
  const doc = await (await fetch(base + "track.json")).json();
  for (const r of doc.renditions) {
    const buffer = await (await fetch(base + r.file)).arrayBuffer();
    const file = createFile();
    let info, wrong;
    file.onReady = (i) => { info = i; };
    file.onError = (...e) => { wrong = e.join(" "); };
    buffer.fileStart = 0;
    file.appendBuffer(buffer, true);
    file.flush();
    assert.equal(wrong, undefined);
    assert.ok(info?.isFragmented, r.name);
    assert.equal(info.tracks.length, 1);
    assert.equal(info.tracks[0].codec, r.codec, r.name);
    assert.deepEqual(file.boxes.slice(0, 3).map((b) => b.type), ["ftyp", "moov", "sidx"]);
    assert.equal(file.boxes.filter((b) => b.type === "moof").length, r.segments.length);
    assert.equal(file.boxes.reduce((n, b) => n + b.size, 0), buffer.byteLength, "boxes fill the file");
    const samples = file.getTrackSamplesInfo(1);
    assert.equal(samples.reduce((n, s) => n + s.duration, 0), r.gapless.priming + r.gapless.samples, r.name);
  }
});

test("a free account gets the limited manifests, and the edge holds it to them", async () => {
  const base = platform.credentials.player_url.replace(/\/$/, "");
  const login = { email: "free@example.org", password: "a free account" };
  const made = await fetch(base + "/v1/users", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(login) });
  assert.equal(made.status, 201);
  const free = await listener(platform.credentials, login);
  const p = await free("POST", "/v1/playback", { track_id: track.id });
  assert.match(p.hls_url, /master_160\.m3u8$/);
  assert.equal((await fetch(p.hls_url)).status, 200);
  const folder = p.hls_url.replace(/[^/]+$/, "");
  assert.equal((await fetch(folder + "aac_160.mp4", { headers: { Range: "bytes=0-9" } })).status, 206);
  for (const name of ["aac_256.mp4", "flac.mp4", "aac_256.m3u8"]) {
    const r = await fetch(folder + name);
    assert.equal(r.status, 403, name);
    assert.equal(r.headers.get("content-type"), "application/problem+json");
  }
});
