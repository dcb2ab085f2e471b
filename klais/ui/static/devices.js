// The table of devices, over all workers.
import { html, useEffect, useState } from "./lib.js";
import { go, usePoll } from "./hooks.js";
import { DeviceLink, Failure, State, Table } from "./parts.js";
import { ago, count, counted, printable } from "./format.js";

const STATES = ["normal", "silent", "flagged", "limited", "blocked"];
const SIZES = ["50", "100", "500"];

function csv(rows) {
  // Spreadsheets compute a text that begins like a formula, and a device may call itself one.
  const risky = (value) => typeof value === "string" && /^[=+\-@\t\r]/.test(value);
  const inert = (value) => (risky(value) ? `'${value}` : String(value ?? ""));
  const quoted = (value) => `"${inert(value).replaceAll('"', '""')}"`;
  const names = Object.keys(rows[0] ?? {});
  return [names, ...rows.map((row) => names.map((name) => row[name]))]
    .map((line) => line.map(quoted).join(","))
    .join("\n");
}

function pathOf(query) {
  const asked = new URLSearchParams({ scope: "all", size: query.size ?? "50", sort: query.sort ?? "last_seen" });
  for (const name of ["order", "state", "q", "after", "dropped", "silent_s"])
    if (query[name]) asked.set(name, query[name]);
  return `/devices/?${asked}`;
}

export function Devices({ query, paused }) {
  const [over, setOver] = useState(false);
  const [typed, setTyped] = useState(query.q ?? "");
  const [trail, setTrail] = useState([]); // cursors of the pages before this one
  const { data, error } = usePoll(pathOf(query), 2000, over || paused);
  const change = (more) => {
    setTrail([]);
    go("devices", { ...query, after: "", ...more });
  };
  useEffect(() => setTyped(query.q ?? ""), [query.q]);
  const now = Date.now();
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
  const still = over ? " (the table stands still under the pointer)" : "";
  return html`
    <form class="filters" role="search" onSubmit=${(e) => {
      e.preventDefault();
      change({ q: typed });
    }}>
      <label>Part of the id <input type="search" value=${typed} maxlength="16"
        onInput=${(e) => setTyped(e.target.value)} /></label>
      <button type="submit">Search</button>
      <label>Page size <select value=${query.size ?? "50"} onChange=${(e) => change({ size: e.target.value })}>
        ${SIZES.map((size) => html`<option value=${size}>${size}</option>`)}</select></label>
      <label class="check"><input type="checkbox" checked=${query.dropped === "true"}
        onChange=${(e) => change({ dropped: e.target.checked ? "true" : "" })} /> with drops only</label>
      <button type="button" onClick=${() => navigator.clipboard?.writeText(csv(data?.items ?? []))}>Copy as CSV</button>
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
    ${
      data?.workers_missing?.length > 0 &&
      html`<p class="failure">These workers did not answer, their devices are
      missing here: ${data.workers_missing.map(printable).join(", ")}</p>`
    }
    <div onMouseEnter=${() => setOver(true)} onMouseLeave=${() => setOver(false)}
      onFocusIn=${() => setOver(true)} onFocusOut=${() => setOver(false)}>
      <${Table} caption=${counted(data?.total, "device", "devices") + still}
        columns=${columns} rows=${(data?.items ?? []).map((row) => ({ ...row, key: row.device_id }))}
        sort=${sort} order=${order} onSort=${sortBy} empty=${data ? "No device matches." : "Asking the workers…"} />
    </div>
    <nav class="pages" aria-label="Pages of the table">
      <button disabled=${!query.after} onClick=${() => {
        go("devices", { ...query, after: trail.at(-1) ?? "" });
        setTrail(trail.slice(0, -1));
      }}>Previous page</button>
      <button disabled=${!data?.next} onClick=${() => {
        setTrail([...trail, query.after ?? ""]);
        go("devices", { ...query, after: data.next });
      }}>Next page</button>
    </nav>`;
}
