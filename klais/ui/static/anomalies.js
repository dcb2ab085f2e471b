// Devices that were flagged, the newest flag first.
import { html } from "./lib.js";
import { usePoll } from "./hooks.js";
import { store } from "./store.js";
import { DeviceLink, Failure, Missing, noRows, State, Table } from "./parts.js";
import { ago, count, counted, printable, short } from "./format.js";

export function Anomalies({ paused }) {
  const { data, error } = usePoll("/anomalies/?scope=all&size=100", 5000, paused);
  const now = store.clock();
  const columns = [
    { label: "device", cell: (row) => html`<${DeviceLink} id=${row.device_id} />` },
    { label: "state", cell: (row) => html`<${State} value=${row.state} />` },
    { label: "flagged", kind: "short", cell: (row) => ago(row.flagged_at, now) },
    { label: "feature", cell: (row) => html`<code>${printable(row.flag?.feature ?? "")}</code>` },
    { label: "value", number: true, cell: (row) => short(row.flag?.value) },
    { label: "expected", number: true, cell: (row) => short(row.flag?.expected) },
    { label: "how unusual", number: true, cell: (row) => short(row.flag?.score) },
    { label: "why", kind: "text", cell: (row) => printable(row.flag?.explanation ?? "") },
    { label: "flags in all", number: true, cell: (row) => count(row.flags) },
  ];
  return html`<p>A flag says that a value is unusual for its device. It drops nothing.
      ${data && ` ${count(data.flags.written)} flags were written, ${count(data.flags.suppressed)} suppressed.`}</p>
    <${Failure} error=${error} />
    <${Missing} data=${data} />
    <${Table} caption=${`${counted(data?.total, "device was", "devices were")} flagged`} columns=${columns}
      rows=${(data?.items ?? []).map((row) => ({ ...row, key: row.device_id }))}
      empty=${noRows(data, error, "No device was ever flagged.")} />`;
}
