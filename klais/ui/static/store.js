// The live figures: history at the start, then one event per second. Paused while the tab is hidden.
import { get } from "./api.js";

const SECONDS = 900;
const SILENT_MS = 3000;
const CALM = matchMedia("(prefers-reduced-motion: reduce)");
const CALM_MS = 5000; // between two updates, for who wants little motion
const BACK_MS = 60000; // an event so far before the newest sample is of a clock that was set back
const SKEW_MS = 5000; // a smaller difference between the clocks is that of an event on its way

export const calmMs = () => (CALM.matches ? CALM_MS : 0);

class Store {
  constructor() {
    this.now = null; // the newest event
    this.history = { at_ms: [] };
    this.connected = true; // false after a while without events
    this.paused = false;
    this.showNext = false; // the next event is drawn also while paused: it shows what the operator changed
    this.error = null;
    this.drawnMs = 0;
    this.aheadMs = 0; // of the worker's clock against that of this browser
    this.listeners = new Set();
    this.source = null;
    this.heardMs = 0;
    this.filling = null;
    this.missingMs = null; // samples after this time are missing; null: none
  }

  subscribe(listener) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  notify() {
    for (const listener of this.listeners) listener();
  }

  start() {
    document.addEventListener("visibilitychange", () => {
      this.heardMs = Date.now(); // a hidden tab receives no events: the connection is not lost
      if (document.hidden) this.close();
      else this.open();
    });
    this.heardMs = Date.now();
    setInterval(() => this.poll(), 1000);
    this.open();
  }

  open() {
    if (this.source || document.hidden) return;
    this.source = new EventSource("/api/v1/stream");
    this.source.onopen = () => {
      this.missingMs ??= this.history.at_ms.at(-1) ?? 0;
      this.fill();
    };
    this.source.onmessage = (event) => this.receive(JSON.parse(event.data));
    this.source.onerror = () => {
      // A browser retries automatically, but not after a response such as 401 or 503.
      if (this.source?.readyState === EventSource.CLOSED) {
        this.close();
        this.askWhy();
        setTimeout(() => this.open(), 2000);
      }
    };
  }

  // Why the worker refuses the stream: an EventSource does not say it.
  async askWhy() {
    const abort = new AbortController();
    try {
      const answer = await fetch("/api/v1/stream", { signal: abort.signal, cache: "no-store" });
      if (!answer.ok) this.error = { status: answer.status, message: (await answer.json()).error };
      abort.abort();
    } catch {
      this.error = null; // it does not answer
    }
    this.notify();
  }

  // The time (epoch ms) by the worker's clock, which every time on the page is of.
  clock() {
    return Date.now() + (Math.abs(this.aheadMs) > SKEW_MS ? this.aheadMs : 0);
  }

  close() {
    this.source?.close();
    this.source = null;
  }

  poll() {
    const connected = this.source !== null && Date.now() - this.heardMs < SILENT_MS;
    if (connected !== this.connected && !document.hidden) {
      this.connected = connected;
      this.notify();
    }
  }

  // Samples missing since the stream ended (at first: all). New events may arrive in between.
  fill() {
    this.filling ??= this.load().finally(() => {
      this.filling = null;
    });
  }

  async load() {
    try {
      this.merge(await get(`/api/v1/history?seconds=${SECONDS}&after_ms=${this.missingMs}`));
      this.missingMs = null;
      this.error = null;
    } catch (error) {
      this.error = error;
      setTimeout(() => this.missingMs !== null && this.source && this.fill(), 2000);
    }
    this.notify();
  }

  // Samples of both, in time order.
  merge(found) {
    const at = new Map();
    for (const columns of [found, this.history]) columns.at_ms.forEach((atMs, i) => at.set(atMs, [columns, i]));
    const kept = [...at].sort((a, b) => a[0] - b[0]).slice(-SECONDS);
    const joined = {};
    for (const name of new Set([...Object.keys(found), ...Object.keys(this.history)])) {
      joined[name] = kept.map(([atMs, [columns, i]]) => (name === "at_ms" ? atMs : (columns[name]?.[i] ?? null)));
    }
    this.history = joined;
  }

  // The worker's clock was set back: samples from that time on are of its wrong time.
  cut(atMs) {
    const at = this.history.at_ms;
    const before = (_, i) => at[i] < atMs;
    this.history = Object.fromEntries(Object.entries(this.history).map(([name, all]) => [name, all.filter(before)]));
  }

  append(event) {
    const joined = {};
    const held = this.history.at_ms.length;
    for (const name of new Set([...Object.keys(this.history), ...Object.keys(event.sample)])) {
      const value = name === "at_ms" ? event.at_ms : (event.sample[name] ?? null);
      joined[name] = [...(this.history[name] ?? new Array(held).fill(null)), value].slice(-SECONDS);
    }
    this.history = joined;
  }

  receive(event) {
    this.heardMs = Date.now();
    this.connected = true;
    this.error = null;
    if (event.at_ms < (this.history.at_ms.at(-1) ?? 0) - BACK_MS) this.cut(event.at_ms);
    if (event.at_ms > (this.history.at_ms.at(-1) ?? 0)) this.append(event);
    this.now = event;
    this.aheadMs = event.at_ms - this.heardMs;
    if (this.showNext || (!this.paused && this.heardMs - this.drawnMs >= calmMs())) {
      this.showNext = false;
      this.drawnMs = this.heardMs;
      this.notify();
    }
  }
}

export const store = new Store();
