// What a listener keeps and shares, on several tabs and devices, and what an operator sees.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { browser, listener, start, until } from "./platform.mjs";

let platform, chrome, context, page, url;
const problems = [];

async function open(where) {
  const p = await where.newPage();
  p.on("pageerror", (e) => problems.push(e.message));
  return p;
}

async function signIn(p) {
  const { listener } = platform.credentials;
  await p.goto(url);
  await p.fill("[name=email]", listener.email);
  await p.fill("[name=password]", listener.password);
  await p.keyboard.press("Enter");
  await p.waitForSelector(".tracks li");
}

before(async () => {
  platform = await start();
  url = platform.credentials.player_url;
  chrome = await browser();
  context = await chrome.newContext({ viewport: { width: 1200, height: 800 } });
  page = await open(context);
  await signIn(page);
});
after(async () => {
  await chrome?.close();
  assert.deepEqual(problems, []);
  assert.equal(await platform?.stop(), 0, "segue up ends with status 0");
});

const row = (title) => page.locator(".tracks li", { has: page.locator(`.title:text-is("${title}")`) });

test("a heart keeps a track, an album and an artist, and the library shows them", async () => {
  await row("Breaking the Chains").locator(".heart").click();
  await page.click("section:has(h2:text-is('Albums')) .tile >> nth=0");
  await page.waitForSelector(".head h1");
  const album = await page.textContent(".head h1");
  await page.click(".head .heart");
  await page.click(".tracks .by a >> nth=0");
  await page.waitForFunction((a) => document.querySelector(".head h1")?.textContent !== a, album);
  const artist = await page.textContent(".head h1");
  await page.click(".head .heart");
  await until("all are kept", async () => (await page.locator(".head .heart[aria-pressed=true]").count()) === 1);
  await page.click("nav >> text=Library");
  await page.waitForSelector("#new-playlist");
  await until("the track is there", async () => (await page.locator(".tracks .title").allTextContents()).includes("Breaking the Chains"));
  assert.ok((await page.locator(".tile .title").allTextContents()).includes(album), "the album");
  assert.ok((await page.locator(".chip").allTextContents()).includes(artist), "the artist");
  await row("Breaking the Chains").locator(".heart").click();
  await page.reload();
  await page.waitForSelector("#new-playlist");
  assert.equal(await page.locator(".tracks li").count(), 0, "taken out again");
});

let playlist;
test("a playlist: made from a track, added to, ordered, taken from, undone", async () => {
  await page.click("nav >> text=Home");
  await row("Breaking the Chains").locator(".more-of").click();
  await page.click(".menu >> text=Add to a playlist");
  await page.click(".menu >> text=New playlist");
  await page.fill(".ask input", "Sunday \"morning\" 🎵");
  await page.keyboard.press("Enter");
  await page.waitForSelector("h1:has-text('Sunday \"morning\" 🎵')");
  playlist = page.url();
  await page.click("nav >> text=Home");
  await row("Lossless Victory").locator(".more-of").click();
  await page.click(".menu >> text=Add to a playlist");
  await page.click(".menu >> text=Sunday");
  await page.waitForFunction(() => document.getElementById("toast").textContent.includes("now"));
  await page.goto(playlist);
  const titles = async () => (await page.locator(".tracks .title").allTextContents()).join();
  await until("both", async () => (await titles()) === "Breaking the Chains,Lossless Victory");
  await row("Lossless Victory").locator(".hit").focus();
  await page.keyboard.press("Alt+ArrowUp");
  await until("ordered", async () => (await titles()) === "Lossless Victory,Breaking the Chains");
  await page.click("[aria-label='Take Lossless Victory out of the playlist']");
  await until("taken out", async () => (await titles()) === "Breaking the Chains");
  await page.click("text=Edit ▾");
  await page.click(".menu >> text=Undo");
  await until("undone", async () => (await titles()) === "Lossless Victory,Breaking the Chains");
});

test("a link shows the playlist to people without an account, and another person keeps it", async () => {
  await context.grantPermissions(["clipboard-read", "clipboard-write"], { origin: new URL(url).origin });
  await page.click("text=Edit ▾");
  await page.click(".menu >> text=Share by a link");
  await page.waitForFunction(() => document.getElementById("toast").textContent.includes("copied"));
  const link = await page.evaluate(() => navigator.clipboard.readText());
  assert.match(link, /#\/shared\/./);
  const other = await open(await chrome.newContext());
  await other.goto(link);
  await other.waitForSelector("h1:has-text('Sunday')");
  assert.equal(await other.locator(".preview li").count(), 2);
  assert.equal(await other.isVisible("#bar"), false, "no player for a guest");
  await other.click("#view a.primary");
  await other.click("#sign-swap");
  await other.fill("[name=email]", "friend@example.org");
  await other.fill("[name=password]", "a long password");
  await other.click("#sign-go");
  await other.waitForSelector(".tracks li");
  await other.goto(link);
  await other.click("text=Add to your library");
  await other.waitForSelector("h1:has-text('Sunday')");
  await other.click("nav >> text=Library");
  await other.waitForSelector(".tile:has-text('Sunday')");
  await other.context().close();
});

const playing = () => page.evaluate(() => { const p = window.segue.player; return { at: p.audio.currentTime, paused: p.audio.paused, play: p.playback?.play_id }; });

test("another device takes over: this page stops, says why, and takes over again when a person presses play", async () => {
  await page.goto(playlist);
  await row("Breaking the Chains").locator(".hit").click();
  await until("it plays", async () => (await playing()).at > 1);
  const call = await listener(platform.credentials);
  const { items } = await call("GET", "/v1/tracks?limit=1");
  for (let i = 0; i < 5; i++) await call("POST", "/v1/playback", { track_id: items[0].id, take_over: true });
  await until("this page stops", async () => { const s = await playing(); return s.paused && !s.play; }, 30_000);
  assert.match(await page.textContent("#toast"), /another device/);
  await page.click("#play");
  await until("it plays again", async () => { const s = await playing(); return s.at > 1 && !s.paused; });
});

test("devices: they are listed; tabs of one browser sign out together", async () => {
  const second = await open(context);
  await second.goto(url + "#/account");
  await second.waitForSelector("#devices li");
  assert.match(await second.textContent("#devices"), /this one/);
  await page.click("#account");
  await page.click(".menu >> text=Sign out");
  await page.waitForSelector("#sign:visible");
  await second.waitForSelector("#sign:visible");
  assert.equal((await playing()).paused, true, "silence");
  await signIn(page);
  await second.waitForSelector("#devices li");
  await second.close();
});

test("the console: a map with the fleet, an explanation, a purge, and a drain that can be undone", async () => {
  await page.goto(url + "#/console");
  await page.fill("[name=token]", "wrong");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.querySelector(".card .bad")?.textContent.includes("does not open"));
  await page.fill("[name=token]", platform.credentials.admin_token);
  await page.keyboard.press("Enter");
  await page.waitForSelector(".edges tbody tr");
  assert.equal(await page.locator(".map .place.healthy").count(), 2, "both regions on the map");
  await page.fill("#explain [name=ip]", "81.2.69.142");
  await page.click("#explain .primary");
  await page.waitForFunction(() => /eu-west-1/.test(document.querySelector(".picks li")?.textContent ?? ""));
  await page.fill("#purge [name=value]", "art/");
  await page.selectOption("#purge [name=kind]", "prefix");
  await page.click("#purge .primary");
  await page.waitForFunction(() => document.querySelector(".answer").textContent === "Purged on 2 of 2 edges.");
  await page.locator("tr", { hasText: "us-east-1" }).getByText("Drain").click();
  await page.waitForFunction(() => document.querySelector("tr.draining b")?.textContent === "us-east-1");
  await page.locator("tr", { hasText: "us-east-1" }).getByText("Undrain").click();
  await page.waitForFunction(() => document.querySelectorAll("tr.healthy").length === 2);
});
