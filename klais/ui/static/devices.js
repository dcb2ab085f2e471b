// The table of devices, over all workers.
import { html, useEffect, useState } from "./lib.js";
import { go, usePoll } from "./hooks.js";
import { store } from "./store.js";
import { Bulk } from "./bulk.js";
import { DeviceLink, Failure, Missing, noRows, State, Table } from "./parts.js";
import { ago, count, counted, duration, printable } from "./format.js";

const STATES = ["normal", "silent", "flagged", "limited", "blocked"];
const SIZES = ["50", "100", "500"];
const INTERVALS = ["5", "20", "100"];
const SILENT = new Map([
  ["", "any time"],
  ["60", "1 minute"],
  ["600", "10 minutes"],
  ["3600", "1 hour"],
  ["86400", "1 day"],
]);

// A time in the address that is none of these is a choice too; the worker refuses what is not a number.
const silentText = (seconds) =>
  SILENT.get(seconds) ?? (/^\d{1,10}$/.test(seconds) ? duration(Number(seconds)) : printable(seconds));

const intervalsText = (count) => (count ? `${printable(count)} of its intervals` : "any number");

function csv(rows) {
  // Spreadsheets evaluate text that begins like a formula, and a device id may be one.
  const risky = (value) => typeof value === "string" && /^[=+\-@\t\r]/.test(value);
  const inert = (value) => (risky(value) ? `'${value}` : String(value ?? ""));
  const quoted = (value) => `"${inert(value).replaceAll('"', '""')}"`;
  const names = Object.keys(rows[0] ?? {});
  return [names, ...rows.map((row) => names.map((name) => row[name]))]
    .map((line) => line.map(quoted).join(","))
    .join("\n");
}

// The cursor of the page before, by what was asked and its cursor; kept while the window is open, so that it holds
// whichever way the browser went, back and forward.
const trail = new Map();
const placeOf = ({ after, ...asked }) => JSON.stringify([Object.entries(asked).sort(), after ?? ""]);

// Under the pointer, and under the focus on a row, no row changes its place.
function useStill() {
  const [pointed, setPointed] = useState(false);
  const [focused, setFocused] = useState(false);
  const inRows = (element) => Boolean(element?.closest?.("tbody"));
  return [
    pointed || focused,
    {
      onMouseEnter: () => setPointed(true),
      onMouseLeave: () => setPointed(false),
      onFocusIn: (event) => setFocused(inRows(event.target)),
      onFocusOut: (event) => inRows(event.relatedTarget) || setFocused(false),
    },
  ];
}

// Copies the rows, and says so: a page that is neither encrypted nor local has no clipboard.
async function copy(rows, say) {
  try {
    await navigator.clipboard.writeText(csv(rows));
    say(`Copied ${counted(rows.length, "row", "rows")}.`);
  } catch {
    say("The browser has no clipboard here: it needs HTTPS or this computer. Use klais devices list -o csv.");
  }
}

function pathOf(query) {
  const asked = new URLSearchParams({ scope: "all", size: query.size ?? "50", sort: query.sort ?? "last_seen" });
  for (const name of ["order", "state", "q", "after", "dropped", "queued", "silent_s", "silent_intervals"])
    if (query[name]) asked.set(name, query[name]);
  return `/devices/?${asked}`;
}

export function Devices({ query, about, paused }) {
  const [still, under] = useStill();
  const [typed, setTyped] = useState(query.q ?? "");
  const [said, say] = useState("");
  const { data, error, again } = usePoll(pathOf(query), 2000, still || paused);
  const change = (more) => go("devices", { ...query, after: "", ...more });
  const size = query.size ?? "50";
  const silent = query.silent_s ?? "";
  const back = trail.get(placeOf(query));
  useEffect(() => setTyped(query.q ?? ""), [query.q]);
  const now = store.clock();
  const sort = query.sort ?? "last_seen";
  const order = data?.order ?? "desc";
  const sortBy = (key) => change({ sort: key, order: key === sort ? (order === "asc" ? "desc" : "asc") : "" });
  const number = (key, label) => ({ key, label, sort: true, number: true, cell: (row) => count(row[key]) });
  const columns = [
    { key: "device_id", label: "device", sort: true, cell: (row) => html`<${DeviceLink} id=${row.device_id} />` },
    { key: "state", label: "state", sort: true, cell: (row) => html`<${State} value=${row.state} />` },
    { key: "last_seen", label: "last seen", sort: true, kind: "short", cell: (row) => ago(row.last_seen, now) },
    number("received", "received"),
    number("admitted", "admitted"),
    number("dropped", "dropped"),
    number("device_rate", "over its rate"),
    number("duplicate", "duplicates"),
    number("blocked", "blocked"),
    number("malformed", "malformed"),
    number("gaps", "gaps"),
    number("score", "anomaly score"),
  ];
  const states = data?.devices_by_state ?? {};
  const held = still ? " (the rows do not move while you point at one)" : "";
  return html`
    <form class="filters" role="search" onSubmit=${(e) => {
      e.preventDefault();
      change({ q: typed });
    }}>
      <label>Part of the id <input type="search" value=${typed} maxlength="16"
        onInput=${(e) => setTyped(e.target.value)} /></label>
      <button type="submit">Search</button>
      <label>Page size <select value=${size} onChange=${(e) => change({ size: e.target.value })}>
        ${[...new Set([...SIZES, size])].map((each) => html`<option value=${each}>${each}</option>`)}</select></label>
      <label class="check"><input type="checkbox" checked=${query.dropped === "true"}
        onChange=${(e) => change({ dropped: e.target.checked ? "true" : "" })} /> with drops only</label>
      <label class="check"><input type="checkbox" checked=${query.queued === "true"}
        onChange=${(e) => change({ queued: e.target.checked ? "true" : "" })} /> with queued frames only</label>
      <label>Silent for <select value=${silent} onChange=${(e) => change({ silent_s: e.target.value })}>
        ${[...new Set([...SILENT.keys(), silent])].map(
          (each) => html`<option value=${each}>${silentText(each)}</option>`,
        )}</select></label>
      <label>Overdue by more than <select value=${query.silent_intervals ?? ""}
        onChange=${(e) => change({ silent_intervals: e.target.value })}>
        ${[...new Set(["", ...INTERVALS, query.silent_intervals ?? ""])].map(
          (each) => html`<option value=${each}>${intervalsText(each)}</option>`,
        )}</select></label>
      <button type="button" disabled=${!data?.items?.length} onClick=${() => copy(data.items, say)}>Copy as CSV</button>
      <span role="status">${said}</span>
    </form>
    ${
      data?.recorded &&
      html`<p><small>Recorded figures: the rows of ${count(data.recorded.rows)} of
        ${" "}${counted(data.recorded.devices, "device", "devices")}.</small></p>`
    }
    <div class="chips" role="group" aria-label="State">
      <button aria-pressed=${!query.state} onClick=${() => change({ state: "" })}>all</button>
      ${STATES.map(
        (state) => html`<button aria-pressed=${query.state === state} onClick=${() => change({ state })}>
        <${State} value=${state} /> ${count(states[state])}</button>`,
      )}
    </div>
    <${Failure} error=${error} />
    <${Missing} data=${data} />
    <div ...${under}>
      <${Table} caption=${counted(data?.total, "device", "devices") + held}
        columns=${columns} rows=${(data?.items ?? []).map((row) => ({ ...row, key: row.device_id }))}
        sort=${sort} order=${order} onSort=${sortBy} empty=${noRows(data, error, "No device matches.")} />
    </div>
    <${Bulk} about=${about} rows=${data?.items ?? []} say=${say} onDone=${again} />
    <nav class="pages" aria-label="Pages of the table">
      <button disabled=${!query.after} onClick=${() => {
        go("devices", { ...query, after: back ?? "" });
      }}>${query.after && back === undefined ? "First page" : "Previous page"}</button>
      <button disabled=${!data?.next} onClick=${() => {
        trail.set(placeOf({ ...query, after: data.next }), query.after ?? "");
        go("devices", { ...query, after: data.next });
      }}>Next page</button>
    </nav>`;
}
