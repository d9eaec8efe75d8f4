// The main job, as a person does it: sign in, search, play, hear, seek, and find the play in ClickHouse.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { browser, root, start, until } from "./platform.mjs";

let platform, chrome, page;
const problems = [];

before(async () => {
  platform = await start();
  chrome = await browser();
  page = await chrome.newPage({ viewport: { width: 1200, height: 800 } });
  page.on("pageerror", (e) => problems.push(e.message));
  page.on("console", (m) => { if (m.type() === "error") problems.push(m.text()); });
});
after(async () => {
  await chrome?.close();
  assert.equal(await platform?.stop(), 0, "segue up ends with status 0");
});

const state = () => page.evaluate(() => {
  const p = window.segue.player;
  return { at: p.audio.currentTime, paused: p.paused, level: p.level(), source: p.source, play: p.playback?.play_id, title: p.track?.title, id: p.track?.id, duration: p.duration };
});

/** loudest listens for a while: music has quiet moments. */
const loudest = async (ms) => {
  let most = 0;
  for (const end = Date.now() + ms; Date.now() < end;) most = Math.max(most, (await state()).level);
  return most;
};

test("sign in, with a wrong password first", async () => {
  const { player_url, listener } = platform.credentials;
  await page.goto(player_url);
  await page.fill("[name=email]", listener.email);
  await page.fill("[name=password]", "wrong password");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.getElementById("sign-error").textContent.includes("wrong"));
  problems.length = 0; // the browser logs the 401
  await page.fill("[name=password]", listener.password);
  await page.keyboard.press("Enter");
  await page.waitForSelector(".tracks li");
  assert.equal(await page.locator(".tracks li").count(), 5);
});

test("search by a part of the title", async () => {
  await page.keyboard.press("Escape");
  await page.keyboard.press("/");
  await page.keyboard.type("breaking cha");
  await page.waitForFunction(() => document.querySelectorAll(".tracks li").length === 1 && document.querySelector(".tracks .title").textContent === "Breaking the Chains");
});

let play;
test("play: sound comes out, from an edge", async () => {
  await page.click(".tracks .hit");
  await until("the position moves", async () => (await state()).at > 1.5);
  assert.ok(await loudest(1500) > 0.01, "level above silence");
  const s = await state();
  play = s.play;
  assert.match(s.source.edge, /^(eu-west|us-east)-1$/);
  assert.match(s.source.tier, /^(memory|disk|origin)$/);
  assert.match(await page.textContent("#source"), new RegExp(s.source.edge + ".*" + s.source.tier));
});

test("seek to the middle", async () => {
  const { duration } = await state();
  await page.evaluate(() => { const s = document.getElementById("seek"); s.value = "500"; s.dispatchEvent(new Event("input")); s.dispatchEvent(new Event("change")); });
  await until("it plays on from the middle", async () => { const s = await state(); return s.at > duration / 2 + 0.5 && !s.paused; });
  assert.ok(await loudest(1500) > 0.01);
});

test("keyboard: pause, resume, back ten seconds", async () => {
  await page.evaluate(() => document.activeElement.blur());
  await page.keyboard.press("Space");
  await until("it pauses", async () => (await state()).paused);
  const { at } = await state();
  await page.keyboard.press("ArrowLeft");
  await until("it went back", async () => (await state()).at < at - 8);
  await page.keyboard.press("Space");
  await until("it plays", async () => !(await state()).paused);
});

test("queue, next, previous, quality, volume", async () => {
  await page.click(".brand");
  await page.waitForFunction(() => document.querySelectorAll(".tracks li").length === 5);
  await page.locator(".tracks .title").nth(3).click(); // the whole row plays
  await until("the fourth plays", async () => (await state()).at > 0.3);
  const before = (await state()).id;
  await page.keyboard.press("q");
  assert.equal(await page.locator("#queue li").count(), 5);
  await page.click("#next");
  await until("the fifth plays", async () => { const s = await state(); return s.id !== before && s.at > 0.3; });
  await page.click("#prev");
  await until("the fourth plays again", async () => { const s = await state(); return s.id === before && s.at > 0.3; });
  await page.selectOption("#quality", "aac_96");
  await until("in the quality chosen", async () => (await state()).source?.rendition === "aac_96");
  await page.evaluate(() => { const v = document.getElementById("volume"); v.value = "30"; v.dispatchEvent(new Event("input")); });
  assert.equal(await page.evaluate(() => window.segue.player.audio.volume), 0.3);
  await page.keyboard.press("q");
});

test("the play is a row in ClickHouse", async () => {
  await until("the first play's row", async () => (await platform.sql(`SELECT * FROM plays WHERE play_id = '${play}' AND ended`)).length === 1, 60_000);
  const [row] = await platform.sql(`SELECT * FROM plays WHERE play_id = '${play}'`);
  assert.equal(row.title, "Breaking the Chains");
  assert.ok(row.played_ms > 1000 && row.played_ms < 60_000, `played ${row.played_ms} ms`);
  assert.ok(row.startup_ms > 0 && row.startup_ms < 5000, `started after ${row.startup_ms} ms`);
  assert.ok(row.edges.length > 0);
});

test("a phone's width has no sideways scroll", async () => {
  await page.setViewportSize({ width: 360, height: 740 });
  const [scroll, width] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(scroll <= width, `${scroll} px wide on ${width}`);
  for (const id of ["play", "next", "seek"]) assert.ok(await page.isVisible("#" + id), id);
});

test("a reload keeps the session, signing out ends it", async () => {
  await page.setViewportSize({ width: 1200, height: 800 });
  await page.reload();
  await page.waitForSelector(".tracks li");
  await page.click("#account");
  await page.click(".menu >> text=Sign out");
  await page.waitForSelector("#sign-go");
  await page.reload();
  await page.waitForSelector("#sign-go");
});

test("the API's documentation is readable, from this host alone", async () => {
  const docs = await chrome.newPage();
  const hosts = new Set();
  docs.on("request", (r) => { if (r.url().startsWith("http")) hosts.add(new URL(r.url()).host); });
  await docs.goto(platform.credentials.docs_url);
  await docs.waitForFunction(() => document.querySelector("rapi-doc")?.shadowRoot?.textContent.includes("Start to play a track"));
  assert.deepEqual([...hosts], [new URL(platform.credentials.docs_url).host]);
  await docs.close();
});

test("a second start on the same folder is refused in one line", () => {
  const r = spawnSync(join(root, "bin/segue"), platform.args, { encoding: "utf8" });
  assert.equal(r.status, 2);
  assert.match(r.stderr, /^error: data folder .* is in use by another segue[^\n]*\n$/);
});

test("nothing went wrong on the page", () => assert.deepEqual(problems, []));
