// Incidents: flags with one cause. Acknowledge known ones, mute expected ones.
import { html, useState } from "./lib.js";
import { usePoll } from "./hooks.js";
import { store } from "./store.js";
import { ChangeDialog, DeviceLink, Failure, noRows, State, Table, WhyNot } from "./parts.js";
import { put, remove } from "./api.js";
import { ago, count, counted, printable, until } from "./format.js";

const time = (atMs) => new Date(atMs).toISOString();
// The device of an incident of a single device; others have none.
const named = (row) => (row.devices === 1 && row.type !== "fleet" ? row.first.device : null);

// Scope of "Mute" for a row: its single device, else its feature.
const subject = (row) =>
  named(row) === null ? { what: "feature", name: row.feature } : { what: "device", name: named(row) };

function Who({ row }) {
  if (named(row) !== null) return html`<${DeviceLink} id=${named(row)} />`;
  if (row.type === "fleet") return "the whole fleet";
  return `${row.devices_exact ? "" : "about "}${counted(row.devices, "device", "devices")}`;
}

function Members({ row }) {
  if (row.members.length < 2) return "";
  const some = row.members.length < row.devices ? `${count(row.members.length)} of them` : "which";
  return html`<details><summary>${some}</summary>
    ${row.members.map((id) => html`<${DeviceLink} id=${id} /> `)}</details>`;
}

function Dialog({ dialog, about, onClose }) {
  const { row, mute, kind } = dialog;
  if (kind === "ack")
    return html`<${ChangeDialog} about=${about} onClose=${onClose} title="Acknowledge the incident"
      confirm="Acknowledge" explain=${printable(row.explanation)}
      send=${(body) => put(`/api/v1/incidents/${row.id}/ack`, body)} />`;
  if (kind === "unack")
    return html`<${ChangeDialog} about=${about} onClose=${onClose} ends=${false}
      title="Revoke the acknowledgement" confirm="Revoke" explain=${printable(row.explanation)}
      send=${(body) => remove(`/api/v1/incidents/${row.id}/ack`, body)} />`;
  const what = `${mute.what} ${printable(mute.name)}`;
  if (kind === "mute")
    return html`<${ChangeDialog} about=${about} onClose=${onClose} title=${`Mute ${what}`} confirm="Mute"
      explain="No new incident opens for it. Its flags are written and counted as before."
      send=${(body) => put("/api/v1/mutes", { ...body, ...mute })} />`;
  return html`<${ChangeDialog} about=${about} onClose=${onClose} ends=${false} title=${`Unmute ${what}`}
    confirm="Unmute" send=${(body) => remove("/api/v1/mutes", { ...body, ...mute })} />`;
}

export function Incidents({ about, paused }) {
  const { data, error, again } = usePoll("/api/v1/incidents?size=100", 3000, paused);
  const [dialog, setDialog] = useState(null);
  const now = store.clock();
  const can = about?.may_change;
  const ask = (label, aria, value) =>
    html`<button disabled=${!can} aria-label=${aria} onClick=${() => setDialog(value)}>${label}</button> `;
  const columns = [
    { label: "incident", cell: (row) => html`<code>${printable(row.id)}</code>` },
    {
      label: "state",
      cell: (row) => html`<${State} value=${row.state === "open" ? "warning" : "ok"} text=${row.state} />`,
    },
    { label: "since", kind: "short", cell: (row) => ago(time(row.opened_at), now) },
    { label: "who", cell: (row) => html`<${Who} row=${row} /><${Members} row=${row} />` },
    { label: "feature", cell: (row) => html`<code>${printable(row.feature)}</code>` },
    { label: "flags", number: true, cell: (row) => count(row.flags) },
    { label: "what happened", kind: "text", cell: (row) => printable(row.explanation) },
    {
      label: "acknowledged",
      // The same button with another text: the focus stays on it.
      cell: (row) => {
        const by = row.acknowledged;
        return html`${by && `by ${printable(by.author ?? "?")}: ${printable(by.reason ?? "")} `}${
          by
            ? ask("Revoke…", `Revoke the acknowledgement of incident ${row.id}`, { kind: "unack", row })
            : ask("Acknowledge…", `Acknowledge incident ${row.id}`, { kind: "ack", row })
        }`;
      },
    },
    {
      label: "mute",
      cell: (row) => ask("Mute…", `Mute incident ${row.id}`, { kind: "mute", row, mute: subject(row) }),
    },
  ];
  const muted = [
    { label: "what", cell: (row) => html`${printable(row.what)} <code>${printable(row.name)}</code>` },
    { label: "by", cell: (row) => printable(row.author ?? "?") },
    { label: "reason", kind: "text", cell: (row) => printable(row.reason ?? "") },
    { label: "ends", cell: (row) => until(row.until_ms, now) },
    {
      label: "unmute",
      cell: (row) =>
        ask("Unmute…", `Unmute ${row.what} ${printable(row.name)}`, {
          kind: "unmute",
          mute: { what: row.what, name: row.name },
        }),
    },
  ];
  return html`<p>Flags of many devices with one cause are one incident. It drops nothing. Acknowledge an incident that
    you know of: it stays open, and all users see who knows. Mute what you expect: no new incident opens for it.
    ${" "}<${WhyNot} about=${about} /></p>
    <${Failure} error=${error} />
    <${Table} caption=${`Incidents, the newest first: ${count(data?.open)} open`}
      columns=${columns} rows=${(data?.items ?? []).map((row) => ({ ...row, key: row.id }))}
      empty=${noRows(data, error, "There is no incident.")} />
    <${Table} caption="Muted: nothing opens an incident for" columns=${muted}
      rows=${(data?.mutes ?? []).map((row) => ({ ...row, key: row.scope }))} 
      empty=${noRows(data, error, "Nothing is muted.")} />
    ${dialog && html`<${Dialog} dialog=${dialog} about=${about} onClose=${() => {
      setDialog(null);
      again();
    }} />`}`;
}
