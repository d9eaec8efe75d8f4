// What a player saw, on its way to the control plane. Events wait in localStorage until they are accepted, so neither a
// closed tab nor a lost network loses them; their ids make a repeat harmless.

import { Api, Problem } from "./api";

export interface PlayEvent {
  event_id?: string; at?: string; player?: string; play_id: string; type: string; position_ms: number; played_ms: number;
  rendition?: string; edge?: string; startup_ms?: number; stall_ms?: number; message?: string;
}

const kept = "segue.events";
const most = 2000; // events kept at most: the oldest go first
const digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/** ulid makes an id: 48 bits of time, 80 random ones, in Crockford's base 32. */
export function ulid(now = Date.now()): string {
  let s = "";
  for (let i = 0, t = now; i < 10; i++, t = Math.floor(t / 32)) s = digits[t % 32] + s;
  for (const b of crypto.getRandomValues(new Uint8Array(16))) s += digits[b % 32];
  return s;
}

export class Events {
  private sending = false;
  private timer = 0;

  constructor(private api: Api) {
    addEventListener("pagehide", () => void this.flush(true));
    addEventListener("online", () => void this.flush());
  }

  add(e: PlayEvent) {
    const list = this.read();
    list.push({ event_id: ulid(), at: new Date().toISOString(), player: "segue-web/1", ...e });
    localStorage.setItem(kept, JSON.stringify(list.slice(-most)));
    clearTimeout(this.timer);
    this.timer = window.setTimeout(() => void this.flush(), 1000);
  }

  async flush(leaving = false): Promise<void> {
    const batch = this.read().slice(0, 200); // a keepalive request carries 64 KiB at most
    if (this.sending || batch.length === 0) return;
    this.sending = true;
    try {
      await this.api.post(`/v1/events?sent_at=${Date.now()}`, batch, leaving); // this clock may be wrong: the server compares
      this.drop(batch);
    } catch (e) {
      if (e instanceof Problem && (e.status === 400 || e.status === 422)) this.drop(batch); // it will never be taken
      else { clearTimeout(this.timer); this.timer = window.setTimeout(() => void this.flush(), 10_000); }
      return;
    } finally {
      this.sending = false;
    }
    if (!leaving) void this.flush();
  }

  private read(): PlayEvent[] {
    try { return JSON.parse(localStorage.getItem(kept) ?? "[]"); } catch { return []; }
  }

  private drop(batch: PlayEvent[]) {
    const gone = new Set(batch.map((e) => e.event_id));
    localStorage.setItem(kept, JSON.stringify(this.read().filter((e) => !gone.has(e.event_id))));
  }
}
