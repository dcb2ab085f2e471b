// Readable numbers, times and escaped text.

// Text from a device as one printable line: controls, bidirectional marks and unusual spaces become \u escapes.
export function printable(text) {
  return String(text).replace(/[\p{C}\p{Z}]/gu, (c) =>
    c === " " ? c : "\\u" + c.codePointAt(0).toString(16).padStart(4, "0"),
  );
}

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const FINE = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export function count(value) {
  if (value === null || value === undefined) return "–";
  return Math.abs(value) >= 100 || Number.isInteger(value) ? WHOLE.format(value) : FINE.format(value);
}

export function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1e9) return FINE.format(value / 1e9) + " G";
  if (size >= 1e6) return FINE.format(value / 1e6) + " M";
  if (size >= 1e4) return FINE.format(value / 1e3) + " k";
  return count(value);
}

export function bytes(value) {
  if (value === null || value === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (Math.abs(value) >= 1024 && at < units.length - 1) {
    value /= 1024;
    at += 1;
  }
  return `${FINE.format(value)} ${units[at]}`;
}

export const percent = (share) => (share === null || share === undefined ? "–" : `${FINE.format(100 * share)} %`);

export const ms = (value) => (value === null || value === undefined ? "–" : `${FINE.format(value)} ms`);

export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  const sign = seconds < 0 ? "-" : "";
  const s = Math.abs(seconds);
  if (s < 90) return `${sign}${FINE.format(s)} s`;
  if (s < 5400) return `${sign}${Math.round(s / 60)} min`;
  if (s < 172800) return `${sign}${FINE.format(s / 3600)} h`;
  return `${sign}${FINE.format(s / 86400)} days`;
}

export const hourAndMinute = (atS) =>
  new Date(atS * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });

export const clock = (atMs) => new Date(atMs).toLocaleTimeString("en-GB");

export function ago(iso, nowMs) {
  if (!iso) return "never";
  const seconds = (nowMs - Date.parse(iso)) / 1000;
  return seconds < 1.5 ? "now" : `${duration(seconds)} ago`;
}

export function until(untilMs, nowMs) {
  if (untilMs === null || untilMs === undefined) return "until it is removed";
  return untilMs <= nowMs ? "ended" : `in ${duration((untilMs - nowMs) / 1000)}`;
}

export const counted = (value, one, many) => `${count(value)} ${value === 1 ? one : many}`;

// The name of a host includes the folder of its XDP maps.
export const hostName = (host) => printable((host ?? "").split(":")[0]);

export const words = (name) => printable(name).replaceAll("_", " ");
