// The newest frames with their payloads: a tap, asked once a second. Payloads are private (docs/security.md).
import { html, useRef, useState } from "./lib.js";
import { toLogin, usePoll } from "./hooks.js";
import { DeviceLink, Failure, noRows, State, Table } from "./parts.js";
import { Values } from "./values.js";
import { clock, count, printable, words } from "./format.js";

const PERIOD_MS = 1000;
const SHOWN = 300; // characters of a payload

const cut = (text) => (text.length > SHOWN ? `${text.slice(0, SHOWN)}…` : text);
const STATES = { passed: "ok", released: "ok", queued: "limited" };

const Outcome = ({ frame }) => html`<${State} value=${STATES[frame.verdict] ?? "blocked"}
  text=${words(frame.reason ?? frame.verdict)} /> ${frame.flagged && html`<${State} value="flagged" />`}`;

const Device = ({ id }) => (id === null ? "unknown" : html`<${DeviceLink} id=${id} />`);
const time = { label: "time", kind: "short", cell: (row) => clock(row.ts) };
const outcome = { label: "outcome", cell: (row) => html`<${Outcome} frame=${row} />` };
const payload = {
  label: "payload",
  kind: "text",
  cell: (row) => html`<code class="payload">${printable(cut(String(row.payload)))}</code>`,
};
const OF_ALL = [
  time,
  { label: "device", cell: (row) => html`<${Device} id=${row.device_id} />` },
  outcome,
  payload,
];
const OF_ONE = [
  time,
  { label: "number", number: true, cell: (row) => (row.seq === null ? "–" : String(row.seq)) },
  outcome,
  { label: "bytes", number: true, cell: (row) => count(row.bytes) },
  { label: "edge", number: true, cell: (row) => count(row.edge) },
  { label: "sender", cell: (row) => printable(row.source ?? "–") },
  payload,
];

const LogIn = ({ caption }) => html`<h2>${caption}</h2>
  <p class="empty">Payloads are private, so they need the token for changes:
    ${" "}<a href=${toLogin()}>log in</a> with it to see the newest frames.</p>`;

// The frames of all answers so far, newest first. An answer that another viewer has got too may come twice.
function useKept(data, most) {
  const kept = useRef({ rows: [], newest: "" });
  const newest = data ? `${data.worker} ${data.second} ${data.at_ms}` : "";
  if (newest !== kept.current.newest) {
    const rows = data.frames.map((frame, i) => ({ ...frame, key: `${newest} ${i}` })).reverse();
    kept.current = { rows: [...rows, ...kept.current.rows].slice(0, most), newest };
  }
  return kept.current.rows;
}

function Shown({ device, most, paused, caption, theme }) {
  const [held, setHeld] = useState(false);
  const asked = new URLSearchParams({ limit: most, ...(device === undefined ? {} : { device_id: device }) });
  const { data, error } = usePoll(`/api/v1/frames?${asked}`, PERIOD_MS, held || paused);
  const rows = useKept(data, most);
  if (error?.status === 401) return html`<${LogIn} caption=${caption} />`;
  return html`<${Failure} error=${error} />
    <${Table} caption=${caption} columns=${device === undefined ? OF_ALL : OF_ONE} rows=${rows}
      empty=${noRows(data, error, "None since you opened this page.")} />
    <p><button aria-pressed=${held} onClick=${() => setHeld(!held)}>Hold these frames</button>
      ${" "}<small>An even sample, at most ${most} frames a second${
        data && !held ? `: ${count(data.frames.length)} of ${count(data.matched)} in the last one` : ""
      }. klais tap shows more.</small></p>
    ${device !== undefined && html`<${Values} frames=${data?.frames ?? []} theme=${theme} />`}`;
}

// `device`: only its frames, of whichever worker; without it those of this worker's lanes.
export function Frames({ about, device, most, paused, caption, theme }) {
  if (!about) return null;
  if (about.read_only)
    return html`<h2>${caption}</h2><p class="empty">A recording has no payloads: a running worker shows the newest
      ${" "}frames here.</p>`;
  if (!about.may_change) return html`<${LogIn} caption=${caption} />`;
  return html`<${Shown} device=${device} most=${most} paused=${paused} caption=${caption} theme=${theme} />`;
}
