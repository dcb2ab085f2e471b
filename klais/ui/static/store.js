// The live figures: history at the start, then one event a second. Paused while the tab is hidden.
import { get } from "./api.js";

const SECONDS = 900;
const SILENT_MS = 3000;

class Store {
  constructor() {
    this.now = null; // the newest event
    this.history = { at_ms: [] };
    this.connected = false;
    this.paused = false;
    this.error = null;
    this.listeners = new Set();
    this.source = null;
    this.heardMs = 0;
    this.filling = null;
  }

  subscribe(listener) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  tell() {
    for (const listener of this.listeners) listener();
  }

  start() {
    document.addEventListener("visibilitychange", () => (document.hidden ? this.close() : this.open()));
    setInterval(() => this.look(), 1000);
    this.open();
  }

  open() {
    if (this.source || document.hidden) return;
    this.heardMs = Date.now();
    this.source = new EventSource("/api/v1/stream");
    this.source.onopen = () => this.fill();
    this.source.onmessage = (event) => this.take(JSON.parse(event.data));
    this.source.onerror = () => {
      // A browser tries again by itself, but not after an answer such as 401 or 503.
      if (this.source?.readyState === EventSource.CLOSED) {
        this.close();
        setTimeout(() => this.open(), 2000);
      }
    };
  }

  close() {
    this.source?.close();
    this.source = null;
  }

  look() {
    const connected = this.source !== null && Date.now() - this.heardMs < SILENT_MS;
    if (connected !== this.connected && !document.hidden) {
      this.connected = connected;
      this.tell();
    }
  }

  // What is missing behind the newest sample: all of it at the first time, a hole after a lost connection.
  fill() {
    this.filling ??= this.load().finally(() => {
      this.filling = null;
    });
  }

  async load() {
    const last = this.history.at_ms.at(-1) ?? 0;
    try {
      const found = await get(`/api/v1/history?seconds=${SECONDS}&after_ms=${last}`);
      const newest = this.history.at_ms.at(-1) ?? 0;
      if (newest === last) this.append(found);
      else if (last === 0) this.history = found; // events came meanwhile: they are in what was loaded
      this.error = null;
    } catch (error) {
      this.error = error;
    }
    this.tell();
  }

  append(found) {
    const joined = {};
    for (const name of Object.keys(found)) {
      joined[name] = [...(this.history[name] ?? []), ...found[name]].slice(-SECONDS);
    }
    this.history = joined;
  }

  take(event) {
    this.heardMs = Date.now();
    this.connected = true;
    this.error = null;
    const last = this.history.at_ms.at(-1) ?? 0;
    if (event.at_ms > last && last > 0) {
      const one = { at_ms: [event.at_ms] };
      for (const [name, value] of Object.entries(event.sample)) one[name] = [value];
      this.append(one);
    } else if (last === 0) {
      this.fill();
    }
    this.now = event;
    if (!this.paused) this.tell();
  }
}

export const store = new Store();
