// Who changed what, when and why.
import { html } from "./lib.js";
import { usePoll } from "./hooks.js";
import { Failure, noRows, Scope, Table } from "./parts.js";
import { overrideText } from "./control.js";
import { printable } from "./format.js";

const columns = [
  { label: "time", kind: "short", cell: (row) => new Date(row.at).toLocaleString("en-GB") },
  { label: "what", cell: (row) => html`<${Scope} scope=${row.scope} />` },
  { label: "by", cell: (row) => printable(row.author ?? "?") },
  { label: "from", cell: (row) => printable(row.address || "command line") },
  { label: "reason", kind: "text", cell: (row) => printable(row.reason ?? "") },
  { label: "before", cell: (row) => printable(overrideText(row.before ?? {}) || "nothing set") },
  { label: "after", cell: (row) => printable(overrideText(row.after ?? {}) || "nothing set") },
];

export function Audit({ paused }) {
  const { data, error } = usePoll("/api/v1/audit?limit=200", 3000, paused);
  return html`<${Failure} error=${error} />
    <${Table} caption="Changes by people, the newest first (kept for 30 days)" columns=${columns}
      rows=${(data?.changes ?? []).map((row) => ({ ...row, key: row.offset }))}
        empty=${noRows(data, error, "Nobody has changed anything.")} />`;
}
