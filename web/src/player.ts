// Player plays a queue: playback grant -> hls.js (or the browser's own HLS) -> gain -> level meter -> speakers.
// It moves to the next edge when one fails, and tells the control plane what it saw.

import Hls, { ErrorTypes, Events as HlsEvents, type ErrorData, type Level } from "hls.js";
import { Api, Problem, type Playback, type Track } from "./api";
import { Events } from "./events";

export interface Source { edge: string; tier: string; rendition: string }

/** Qualities that one can choose: a rendition's name, or "auto": AAC by bandwidth. */
export const auto = "auto";

const progressEvery = 15_000; // ms of playing between two progress events
const aliveEvery = 10_000; // ms between two signs of life: a play that was taken over is noticed that soon

export class Player extends EventTarget {
  queue: Track[] = [];
  index = -1;
  source?: Source;
  playback?: Playback;
  loading = false;
  quality = localStorage.getItem("segue.quality") ?? auto;
  readonly audio = new Audio();

  private hls?: Hls;
  private pathway = 0;
  private context?: AudioContext;
  private gain?: GainNode;
  private analyser?: AnalyserNode;
  private generation = 0;

  // Of the play in hand, for its events.
  private asked = 0;
  private started = false;
  private playedMs = 0;
  private lastAt = -1;
  private reportedMs = 0;
  private stallSince = 0;
  private failures = 0;

  constructor(private api: Api, private events: Events) {
    super();
    const a = this.audio;
    a.preload = "auto";
    a.crossOrigin = "anonymous";
    a.volume = Number(localStorage.getItem("segue.volume") ?? 1);
    a.addEventListener("playing", () => this.onPlaying());
    a.addEventListener("pause", () => { if (this.started && !a.ended) this.report("pause"); this.changed(); });
    a.addEventListener("play", () => { if (this.started) this.report("resume"); this.changed(); });
    a.addEventListener("waiting", () => { if (this.started && !a.seeking) this.stallSince = performance.now(); });
    a.addEventListener("timeupdate", () => this.onTime());
    a.addEventListener("seeking", () => { this.lastAt = -1; });
    a.addEventListener("seeked", () => { if (this.started) this.report("seek"); });
    a.addEventListener("ended", () => { this.finish(); void this.next(false); });
    a.addEventListener("error", () => { if (!this.hls) void this.failover("media error " + a.error?.code); });
    addEventListener("pagehide", () => this.finish());
    setInterval(() => void this.alive(), aliveEvery);
    const s = navigator.mediaSession;
    s?.setActionHandler("previoustrack", () => void this.previous());
    s?.setActionHandler("nexttrack", () => void this.next());
  }

  get track(): Track | undefined { return this.queue[this.index]; }
  get duration(): number { return (this.playback?.duration_ms ?? 0) / 1000; }
  get paused(): boolean { return this.audio.paused; }

  /** play starts the track at an index of a new queue, or of the one at hand. */
  async play(index: number, queue = this.queue, pressed = true): Promise<void> {
    this.finish();
    this.queue = queue;
    this.index = index;
    const track = this.track;
    if (!track) { this.stop(); return; }
    const mine = ++this.generation;
    this.wake();
    this.asked = performance.now();
    this.started = false; this.playedMs = 0; this.reportedMs = 0; this.lastAt = -1; this.stallSince = 0; this.failures = 0;
    this.loading = true; this.source = undefined; this.playback = undefined;
    this.audio.pause();
    this.changed();
    try {
      const p = await this.api.post<Playback>("/v1/playback", { track_id: track.id, take_over: pressed }); // another device makes way for a person, not for the next track
      if (mine !== this.generation) return;
      this.playback = p;
      this.pathway = 0;
      if (this.gain && this.context) this.gain.gain.setValueAtTime(Math.min(1, 10 ** (p.gain_db / 20)), this.context.currentTime);
      this.load(p.hls_url, 0);
      await this.audio.play();
    } catch (e) {
      if (mine !== this.generation || (e instanceof DOMException && e.name === "AbortError")) return;
      this.loading = false;
      this.fail(e instanceof Error ? e.message : String(e));
    }
    this.changed();
  }

  /** leave ends playing: somebody signed out. */
  leave() { this.queue = []; this.index = -1; this.stop(); }

  toggle() {
    this.wake();
    if (!this.playback) { if (this.queue.length) void this.play(Math.max(0, this.index)); return; }
    if (this.audio.paused) void this.audio.play().catch((e: Error) => this.fail(e.message));
    else this.audio.pause();
  }

  next(pressed = true): Promise<void> { return this.index + 1 < this.queue.length ? this.play(this.index + 1, this.queue, pressed) : Promise.resolve(this.stop()); }

  /** previous goes back to the beginning first, as players do. */
  previous(): Promise<void> {
    if (this.audio.currentTime > 3 || this.index <= 0) { this.seek(0); return Promise.resolve(); }
    return this.play(this.index - 1);
  }

  seek(seconds: number) { if (this.playback) this.audio.currentTime = Math.max(0, Math.min(seconds, this.duration - 0.25)); }

  setVolume(v: number) {
    this.audio.volume = v;
    localStorage.setItem("segue.volume", String(v));
  }

  setQuality(q: string) {
    this.quality = q;
    localStorage.setItem("segue.quality", q);
    if (this.playback && this.hls) this.load(this.hls.url!, this.audio.currentTime, !this.audio.paused);
    this.changed();
  }

  enqueue(t: Track) { this.queue = [...this.queue, t]; this.changed(); }

  playNext(t: Track) { this.queue = this.queue.toSpliced(this.index + 1, 0, t); this.changed(); }

  remove(i: number) {
    if (i === this.index) return;
    this.queue = this.queue.filter((_, k) => k !== i);
    if (i < this.index) this.index--;
    this.changed();
  }

  /** level is the loudest sample of the last moment, 0 to 1. */
  level(): number {
    if (!this.analyser) return 0;
    const b = new Float32Array(this.analyser.fftSize);
    this.analyser.getFloatTimeDomainData(b);
    return b.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
  }

  spectrum(bins: Uint8Array<ArrayBuffer>) { this.analyser?.getByteFrequencyData(bins); }

  // A browser lets audio start only in a gesture: this is called in one.
  private wake() {
    if (!this.context) {
      this.context = new AudioContext();
      this.gain = this.context.createGain();
      this.analyser = this.context.createAnalyser();
      this.analyser.fftSize = 1024;
      this.context.createMediaElementSource(this.audio).connect(this.gain).connect(this.analyser).connect(this.context.destination);
    }
    void this.context.resume();
  }

  private load(url: string, at: number, play = false) {
    this.hls?.destroy();
    this.hls = undefined;
    if (!Hls.isSupported()) { // the browser's own HLS
      this.audio.src = url;
      this.audio.currentTime = at;
      this.source = { edge: this.playback?.pathways[this.pathway]?.id ?? "", tier: "", rendition: "" };
      if (play) void this.audio.play();
      return;
    }
    const hls = new Hls({ startPosition: at, maxBufferLength: 30, backBufferLength: 30, startFragPrefetch: true, abrEwmaDefaultEstimate: 1_500_000 });
    this.hls = hls;
    hls.on(HlsEvents.MANIFEST_PARSED, () => {
      const name = (l: Level) => /([^/]+)\.m3u8/.exec(l.uri)?.[1] ?? "";
      const fixed = hls.levels.findIndex((l) => name(l) === this.quality);
      if (fixed >= 0) { hls.currentLevel = fixed; return; }
      // Automatic: AAC only. Another codec in mid-track would reset the decoder.
      for (let i = hls.levels.length - 1; i >= 0; i--) if (!hls.levels[i]!.audioCodec?.startsWith("mp4a")) hls.removeLevel(i);
    });
    hls.on(HlsEvents.FRAG_LOADED, (_, d) => {
      const status = (d.networkDetails as XMLHttpRequest | undefined)?.getResponseHeader?.("Cache-Status") ?? "";
      const before = this.source?.rendition;
      const rendition = /([^/]+)\.mp4/.exec(d.frag.url)?.[1] ?? "";
      this.source = { edge: status.split(";")[0]!.trim() || this.playback?.pathways[this.pathway]?.id || "", tier: /detail=([a-z]+)/.exec(status)?.[1] ?? "", rendition };
      if (this.started && before && before !== rendition) this.report("rendition");
      this.changed();
    });
    hls.on(HlsEvents.ERROR, (_, d) => this.onHlsError(d));
    hls.loadSource(url);
    hls.attachMedia(this.audio);
    if (play) void this.audio.play();
  }

  private onHlsError(d: ErrorData) {
    if (!d.fatal) return;
    if (d.type === ErrorTypes.MEDIA_ERROR && this.failures++ < 2) { this.hls?.recoverMediaError(); return; }
    void this.failover(d.details + (d.response ? " " + d.response.code : ""));
  }

  // The next edge, from where the music stopped; after the last one a new grant, since the token may have ended.
  private async failover(why: string) {
    const p = this.playback;
    if (!p || this.failures++ > 6) { this.fail(why); return; }
    this.report("error", { message: why.slice(0, 200) });
    const at = this.audio.currentTime, base = p.pathways[this.pathway]!.base_url;
    if (this.pathway + 1 < p.pathways.length) {
      this.pathway++;
      this.load(p.pathways[this.pathway]!.base_url + p.hls_url.slice(p.pathways[0]!.base_url.length), at, true);
      return;
    }
    try {
      const fresh = await this.api.post<Playback>(`/v1/playback/${p.play_id}/renew`, {});
      if (p !== this.playback) return;
      this.playback = fresh;
      this.pathway = 0;
      this.load(fresh.hls_url, at, true);
    } catch (e) {
      if (p !== this.playback) return;
      if (!(e instanceof Problem) || e.type !== "/problems/play-over") { this.fail(why + " at " + base.split("/t/")[0]); return; }
      this.over();
    }
  }

  private async alive() {
    const p = this.playback;
    if (!p || this.audio.paused) return;
    try {
      await this.api.put(`/v1/playback/${p.play_id}/keepalive`);
      this.failures = 0; // a minute of music between two troubles is not the same trouble
    } catch (e) {
      if (p === this.playback && e instanceof Problem && e.type === "/problems/play-over") this.over();
    }
  }

  // over: somebody plays on another device of this account.
  private over() {
    this.hls?.stopLoad();
    this.audio.pause();
    this.playback = undefined; // play begins anew
    this.fail("this account plays on another device now; press play to go on here");
  }

  private fail(why: string) {
    this.loading = false;
    this.dispatchEvent(new CustomEvent("problem", { detail: why }));
    this.changed();
  }

  private onPlaying() {
    this.loading = false;
    if (!this.started) {
      this.started = true;
      this.report("start", { startup_ms: Math.round(performance.now() - this.asked) });
    } else if (this.stallSince) {
      this.report("stall", { stall_ms: Math.round(performance.now() - this.stallSince) });
    }
    this.stallSince = 0;
    if (this.track && navigator.mediaSession) {
      navigator.mediaSession.metadata = new MediaMetadata({ title: this.track.title, artist: this.track.artists.map((a) => a.name).join(", "), album: this.track.album.title });
    }
    this.changed();
  }

  private onTime() {
    const at = this.audio.currentTime * 1000;
    if (this.lastAt >= 0 && at > this.lastAt && at - this.lastAt < 2000 && !this.audio.paused) this.playedMs += at - this.lastAt;
    this.lastAt = at;
    if (this.playedMs - this.reportedMs >= progressEvery) this.report("progress");
    this.dispatchEvent(new Event("time"));
  }

  private report(type: string, more: { startup_ms?: number; stall_ms?: number; message?: string } = {}) {
    if (!this.playback) return;
    this.reportedMs = this.playedMs;
    this.events.add({
      play_id: this.playback.play_id, type, position_ms: Math.round(this.audio.currentTime * 1000), played_ms: Math.round(this.playedMs),
      rendition: this.source?.rendition, edge: this.source?.edge, ...more,
    });
  }

  private finish() {
    if (this.started) this.report("end");
    this.started = false;
  }

  private stop() {
    this.finish();
    this.generation++;
    this.hls?.destroy();
    this.hls = undefined;
    this.audio.removeAttribute("src");
    this.audio.load();
    this.playback = undefined; this.source = undefined; this.loading = false;
    this.changed();
  }

  private changed() { this.dispatchEvent(new Event("change")); }
}
