// The part of the control plane's API that the player uses. Types are those of /openapi.json.

export interface Ref { id: string; name: string }
export interface Art { url: string; sizes: number[] }
export interface AlbumRef { id: string; title: string; art?: Art }
export interface Track { id: string; title: string; artists: Ref[]; album: AlbumRef; duration_ms: number; track_number?: number; disc_number?: number; date?: string; renditions: string[] }
export interface Album { id: string; title: string; artists: Ref[]; date?: string; art?: Art; track_count: number; duration_ms: number; tracks?: Track[] }
export interface Artist { id: string; name: string; album_count: number; track_count: number; albums?: Album[]; appears_on?: Album[] }
export interface Page<T> { items: T[]; next?: string }
export interface Playlist {
  id: string; name: string; description: string; owner: { id: string; display_name: string }; public: boolean; cover?: Art; mosaic?: Art[];
  track_count: number; duration_ms: number; followers: number; revision: number; role?: "owner" | "editor" | "viewer"; in_library: boolean;
}
export interface PlaylistItem { entry_id: string; track_id: string; title: string; artist: string; track?: Track; unavailable?: boolean; added_by?: { display_name: string }; added_at: string }
export interface PlaylistItems { items: PlaylistItem[]; next?: string; revision: number; total: number }
export interface Saved<K extends string, T> { id: string; available: boolean; added_at: string; track?: K extends "track" ? T : never; album?: K extends "album" ? T : never; artist?: K extends "artist" ? T : never }
export interface Device { id: string; type: string; name: string; last_active_at: string; signed_in: boolean; current: boolean }
export interface Shared { name: string; description: string; owner_name: string; track_count: number; duration_ms: number; tracks: { title: string; artist: string }[]; role: string; expires_at: string }
export interface Found { query: string; tracks: Track[]; albums: Album[]; artists: Artist[]; playlists: Playlist[] }
export interface Pathway { id: string; region: string; base_url: string; distance_km: number }
export interface Playback { play_id: string; hls_url: string; file_url: string; rendition: string; renditions: string[]; duration_ms: number; gain_db: number; pathways: Pathway[] }
export interface User { email: string; display_name: string; plan: string }
interface Session { device_id: string; access_token: string; expires_in: number; refresh_token: string; user: User }

export class Problem extends Error {
  constructor(readonly status: number, readonly type: string, message: string) { super(message); }
}

const kept = "segue.refresh";
const device = "segue.device"; // this browser, as its account knows it: kept when somebody signs out

export class Api {
  user?: User;
  onSignedOut = () => {};
  private access = "";
  private accessEnds = 0;
  private refreshing?: Promise<void>;

  /** resume signs in with the token of an earlier visit; false: there is none that works. */
  async resume(): Promise<boolean> {
    if (!localStorage.getItem(kept)) return false;
    try { await this.refresh(); return true; } catch { return false; }
  }

  async signIn(email: string, password: string): Promise<void> {
    const name = /Mobi/.test(navigator.userAgent) ? "Browser on a phone" : "Browser";
    this.take(await this.send("POST", "/v1/sessions", { email, password, device: { id: localStorage.getItem(device) ?? undefined, type: "web", name } }));
  }

  async signUp(email: string, password: string): Promise<void> {
    await this.send("POST", "/v1/users", { email, password });
    await this.signIn(email, password);
  }

  async signOut(): Promise<void> {
    try { await this.call("DELETE", "/v1/sessions/current"); } catch { /* the token ends by itself */ }
    this.forget();
  }

  get<T>(path: string): Promise<T> { return this.call("GET", path); }
  post<T>(path: string, body: unknown, keepalive = false): Promise<T> { return this.call("POST", path, body, keepalive); }
  put(path: string, body?: unknown): Promise<void> { return this.call("PUT", path, body); }
  patch<T>(path: string, body: unknown): Promise<T> { return this.call("PATCH", path, body); }
  remove<T = void>(path: string, body?: unknown): Promise<T> { return this.call("DELETE", path, body); }

  /** open reads what anybody may read. */
  open<T>(path: string): Promise<T> { return this.send("GET", path); }

  private async call<T>(method: string, path: string, body?: unknown, keepalive = false): Promise<T> {
    if (Date.now() > this.accessEnds) await this.refresh();
    try {
      return await this.send(method, path, body, keepalive);
    } catch (e) {
      if (!(e instanceof Problem) || e.status !== 401) throw e;
      await this.refresh();
      return this.send(method, path, body, keepalive);
    }
  }

  private async send<T>(method: string, path: string, body?: unknown, keepalive = false): Promise<T> {
    const headers: Record<string, string> = {};
    if (this.access) headers.Authorization = "Bearer " + this.access;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const r = await fetch(path, { method, headers, keepalive, body: body === undefined ? undefined : JSON.stringify(body) });
    const text = await r.text();
    const json = text ? JSON.parse(text) : undefined;
    if (!r.ok) throw new Problem(r.status, json?.type ?? "", json?.detail ?? r.statusText);
    return json as T;
  }

  /** follow signs this tab in and out with the others of the browser; changed is called after it. */
  follow(changed: () => void) {
    addEventListener("storage", (e) => {
      if (e.key !== kept) return;
      if (!e.newValue && this.user) this.forget();
      else if (e.newValue && !this.user) void this.resume().then(changed);
    });
  }

  // A refresh token works once: tabs of one browser share it, so only one of them uses it at a time. Where a browser has no locks
  // (a page that is not from a safe origin) two may: the server gives both the same answer for a minute.
  private refresh(): Promise<void> {
    return this.refreshing ??= (async () => {
      try {
        await (navigator.locks ? navigator.locks.request.bind(navigator.locks, kept) : (f: () => Promise<void>) => f())(async () => {
          const token = localStorage.getItem(kept);
          if (!token) throw new Problem(401, "", "signed out");
          this.access = "";
          this.take(await this.send("POST", "/v1/sessions/refresh", { refresh_token: token }));
        });
      } catch (e) {
        if (e instanceof Problem && e.status === 401) this.forget();
        throw e;
      } finally {
        this.refreshing = undefined;
      }
    })();
  }

  private take(s: Session) {
    this.access = s.access_token;
    this.accessEnds = Date.now() + (s.expires_in - 30) * 1000;
    this.user = s.user;
    localStorage.setItem(kept, s.refresh_token);
    localStorage.setItem(device, s.device_id);
  }

  private forget() {
    this.access = ""; this.accessEnds = 0; this.user = undefined;
    localStorage.removeItem(kept);
    this.onSignedOut();
  }
}
