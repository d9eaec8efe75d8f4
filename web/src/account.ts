// The account: plan, password, devices, what others see, one's data.

import { Problem, type Api, type Device, type Page, type User } from "./api";
import { ask } from "./library";
import { el, section } from "./view";

interface Privacy { share_listening: "nobody" | "followers"; keep_history: boolean }
interface Family { members: { id: string; display_name: string; owner: boolean }[] }

export async function account(api: Api, say: (text: string) => void, reload: () => void): Promise<Node[]> {
  const [me, devices, privacy] = await Promise.all([api.get<User & { id: string }>("/v1/me"), api.get<Page<Device>>("/v1/me/devices"), api.get<Privacy>("/v1/me/privacy")]);
  const family = me.plan === "family" ? await api.get<Family>("/v1/me/family").catch((e) => { if (e instanceof Problem) return undefined; throw e; }) : undefined;
  const change = async (f: () => Promise<unknown>, done?: string) => {
    try { await f(); if (done) say(done); reload(); } catch (e) { say((e as Error).message); }
  };
  const when = (t: string) => new Date(t).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  const password = el("form", { class: "fields", onsubmit: (e: Event) => {
    e.preventDefault();
    const f = new FormData(password);
    void change(() => api.put("/v1/me/password", { old_password: f.get("old"), new_password: f.get("new") }), "The password is changed; other devices are signed out");
  } }, el("input", { name: "old", type: "password", autocomplete: "current-password", placeholder: "Password now", "aria-label": "Password now", required: true }),
    el("input", { name: "new", type: "password", autocomplete: "new-password", placeholder: "New password", "aria-label": "New password", minlength: 8, required: true }), el("button", { class: "primary" }, "Change"));
  const tick = (text: string, on: boolean, f: (on: boolean) => PrivacyChange) => el("label", { class: "tick" },
    el("input", { type: "checkbox", checked: on, onchange: (e: Event) => void change(() => api.patch("/v1/me/privacy", f((e.target as HTMLInputElement).checked))) }), text);
  return [
    el("div", { class: "head" }, el("div", {}, el("h1", {}, me.display_name), el("p", { class: "by" }, `${me.email} · ${me.plan}`)), el("span", { class: "grow" }),
      el("button", { class: "link", onclick: async () => { const name = await ask("Your name, as others see it", me.display_name); if (name) void change(() => api.patch("/v1/me", { display_name: name })); } }, "Change name")),
    section("Devices", el("ul", { class: "rows", id: "devices" }, ...devices.items.map((d) => el("li", {}, el("span", {}, el("b", {}, d.name || d.type), d.current ? " (this one)" : "", el("span", { class: "by" }, ` ${d.type} · ${d.signed_in ? "" : "signed out · "}${when(d.last_active_at)}`)), el("span", { class: "grow" }),
      el("button", { class: "link", onclick: async () => { const name = await ask("Name of the device", d.name); if (name) void change(() => api.patch("/v1/me/devices/" + d.id, { name })); } }, "Rename"),
      !d.current && el("button", { class: "link", onclick: () => void change(() => api.remove("/v1/me/devices/" + d.id), "It is signed out, and its downloads end") }, "Remove")))),
      el("button", { class: "link", onclick: () => void change(() => api.remove("/v1/sessions"), "Signed out everywhere") }, "Sign out everywhere")),
    ...(family ? [section("Family", el("ul", { class: "rows" }, ...family.members.map((m) => el("li", {}, m.display_name, m.owner ? el("span", { class: "by" }, " pays") : ""))))] : []),
    section("Password", password),
    section("Privacy", tick("People who follow me see what I play", privacy.share_listening === "followers", (on) => ({ share_listening: on ? "followers" : "nobody" })),
      tick("Keep what I played lately", privacy.keep_history, (on) => ({ keep_history: on }))),
    section("Your data", el("button", { class: "link", onclick: () => void change(async () => {
      const blob = new Blob([JSON.stringify(await api.get("/v1/me/export"), null, 2)], { type: "application/json" }), a = el("a", { href: URL.createObjectURL(blob), download: "segue-export.json" });
      a.click();
    }) }, "Download everything as JSON"), " ", el("button", { class: "link bad", onclick: async () => {
      const given = await ask("Your password, to delete the account and all that belongs to it", "");
      if (given) void change(async () => { await api.remove("/v1/me", { password: given }); location.reload(); });
    } }, "Delete the account…")),
  ];
}

type PrivacyChange = Partial<Privacy>;
