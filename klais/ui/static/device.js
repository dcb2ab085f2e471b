// One device: the rule that acts on its frames, its figures, its profile, and changes.
import { html, useEffect, useRef, useState } from "./lib.js";
import { usePoll } from "./hooks.js";
import { store } from "./store.js";
import { ChangeDialog, DeviceLink, Failure, Figure, State, Table, WhyNot } from "./parts.js";
import { Chart } from "./chart.js";
import { Frames } from "./frames.js";
import { ofDevice, put, remove } from "./api.js";
import { ago, count, printable, short, words } from "./format.js";

const KEPT = 150;

// Rates of the device while its page is open: the worker keeps no history per device.
function useRates(detail) {
  const kept = useRef({ at_ms: [], received: [], admitted: [], before: null });
  useEffect(() => {
    if (!detail) return;
    const now = { at: Date.now(), received: detail.counters.received, admitted: detail.counters.admitted };
    const { before } = kept.current;
    if (before && now.at > before.at) {
      const seconds = (now.at - before.at) / 1000;
      for (const name of ["received", "admitted"]) {
        kept.current[name] = [...kept.current[name], Math.max(0, now[name] - before[name]) / seconds].slice(-KEPT);
      }
      kept.current.at_ms = [...kept.current.at_ms, now.at].slice(-KEPT);
    }
    kept.current.before = now;
  }, [detail]);
  return kept.current;
}

const Gauge = ({ bucket }) => html`<label>Tokens <meter min="0" max=${bucket.burst} value=${bucket.tokens}
  low=${bucket.burst * 0.1} optimum=${bucket.burst}>
    </meter> ${short(bucket.tokens)} of ${short(bucket.burst)}, filled at
  ${" "}${short(bucket.rate_per_s)} frames/s</label>`;

const Window = ({ window: w }) => html`<div class="bits" role="img"
  aria-label=${`${w.received} of the last ${w.size} sequence numbers were received; highest ${w.highest}`}>
  ${Array.from({ length: w.size }, (_, i) => (w.highest - w.size + 1 + i + 2 ** 32) % 2 ** 32).map(
    (n) => html`<i class=${w.numbers.includes(n) ? "seen" : "gap"} title=${String(n)}></i>`,
  )}</div>`;

function Dialogs({ which, id, about, onClose }) {
  const common = { about, onClose };
  const name = printable(id);
  switch (which) {
    case "block":
      return html`<${ChangeDialog} ...${common} title=${`Block ${name}`} confirm="Block"
        explain="All its frames are dropped, by the workers and by the XDP filter, if loaded."
        send=${(body) => put(ofDevice(id, "block"), body)} />`;
    case "unblock":
      return html`<${ChangeDialog} ...${common} ends=${false} title=${`Unblock ${name}`} confirm="Unblock"
        send=${(body) => remove(ofDevice(id, "block"), body)} />`;
    case "limit":
      return html`<${ChangeDialog} ...${common} title=${`Limits of ${name}`} confirm="Set limits" fields=${[
        { name: "rate", label: "Rate, frames/s", min: 0 },
        { name: "burst", label: "Burst, frames", min: 1 },
      ]}
        send=${(body) => put(ofDevice(id, "limits"), body)} />`;
    case "unlimit":
      return html`<${ChangeDialog} ...${common} ends=${false} title=${`Default limits for ${name}`}
        confirm="Use the defaults"
        send=${(body) => remove(ofDevice(id, "limits"), body)} />`;
    default:
      return null;
  }
}

// Shown for a device without recorded details: links to the recorded ones.
const NotRecorded = ({ id, recorded }) => html`<p class="empty" role="alert">The recording has no details of
    ${" "}<code>${printable(id)}</code>; a running worker shows those of every device. It has details of:</p>
  <ul>${recorded.map((each) => html`<li><${DeviceLink} id=${each} /></li>`)}</ul>`;

export function Device(props) {
  const recorded = props.about?.recorded_devices;
  if (recorded && !recorded.includes(props.id)) return html`<${NotRecorded} id=${props.id} recorded=${recorded} />`;
  return html`<${Known} ...${props} />`;
}

function Known({ id, about, paused, theme }) {
  const base = `/devices/${encodeURIComponent(id)}/`;
  const path = about ? base : null; // a recording first lists its devices
  const detail = usePoll(path, 1000, paused);
  const why = usePoll(path && `${base}why/`, 1000, paused);
  const [dialog, setDialog] = useState("");
  const rates = useRates(detail.data);
  const d = detail.data;
  const w = why.data;
  const unknown = detail.error?.code === "unknown_device";
  const rules = w ? [...w.rules].sort((a, b) => b.active - a.active) : [];
  const blocked = w?.rules.some((rule) => rule.rule === "blocked" && rule.active);
  const features = [
    { label: "feature", cell: (row) => html`<code>${printable(row.feature)}</code>` },
    { label: "mean", number: true, cell: (row) => short(row.mean) },
    { label: "± deviation", number: true, cell: (row) => short(row.deviation) },
    { label: "samples", number: true, cell: (row) => count(row.samples) },
  ];
  const counters = [
    { label: "counter", cell: (row) => words(row.key) },
    { label: "frames", number: true, cell: (row) => count(row.value) },
  ];
  const can = about?.may_change;
  return html`
    ${
      unknown
        ? html`<p class="empty" role="alert">No worker knows the device <code>${printable(id)}</code>: none of its
          ${" "}frames passed yet, or it was removed after a long silence. Is the id right?
          ${" "}<a href=${`#/devices?q=${encodeURIComponent(id)}`}>Search for it</a>.
          ${" "}You can still block it.</p>`
        : html`<${Failure} error=${detail.error ?? why.error} />`
    }
    ${w && html`<p class="sentence"><${State} value=${d?.state ?? "normal"} /> ${printable(w.explanation)}</p>`}
    <div class="buttons">
      ${
        blocked
          ? html`<button disabled=${!can} onClick=${() => setDialog("unblock")}>Unblock…</button>`
          : html`<button disabled=${!can} onClick=${() => setDialog("block")}>Block…</button>`
      }
      <button disabled=${!can} onClick=${() => setDialog("limit")}>Own limits…</button>
      <button disabled=${!can} onClick=${() => setDialog("unlimit")}>Default limits…</button>
      <${WhyNot} about=${about} />
    </div>
    ${dialog && html`<${Dialogs} which=${dialog} id=${id} about=${about} onClose=${() => {
      setDialog("");
      detail.again();
      why.again();
    }} />`}
    ${
      w &&
      html`<h2>Why</h2><ol class="rules">${rules.map(
        (rule) => html`<li class=${rule.active ? "acting" : ""}>
      <b>${words(rule.rule)}</b> ${rule.active ? html`<span class="state limited">acts now</span>` : ""}
      <p>${printable(rule.explanation)}</p></li>`,
      )}</ol>`
    }
    ${
      d &&
      html`<dl class="figures">
        <${Figure} label="first seen" value=${ago(d.first_seen, store.clock())} />
        <${Figure} label="last seen" value=${ago(d.last_seen, store.clock())} />
        <${Figure} label="partition" value=${d.partition} />
        ${d.type && html`<${Figure} label="type" value=${printable(d.type.name ?? "not known yet")} />`}
        <${Figure} label="anomaly score" value=${short(d.flag?.score)} />
      </dl>
      <p><${Gauge} bucket=${d.bucket} /></p>
      <h2>Sequence window</h2><${Window} window=${d.window} />
      <p><small>The newest ${d.window.size} sequence numbers, up to ${d.window.highest}: filled = received, empty = not
        ${" "}received.</small></p>
      <div class="charts"><${Chart} title="Frames per second, since this page was opened" theme=${theme}
        history=${rates}
        lines=${[
          { name: "received", label: "received" },
          { name: "admitted", label: "admitted" },
        ]} /></div>
      <${Frames} about=${about} device=${id} most=${20} paused=${paused} theme=${theme}
        caption="Last frames of this device" />
      <${Table} caption="Profile: what the detector has learned" columns=${features}
        rows=${d.profile.map((row) => ({ ...row, key: row.feature }))} empty="Nothing yet." />
      ${
        d.flag &&
        html`<p>Last flag ${ago(d.flag.at, store.clock())}: ${printable(d.flag.explanation)} Flags drop nothing.</p>`
      }
      <${Table} caption="Counters since the device was first seen" columns=${counters}
        rows=${Object.entries(d.counters).map(([key, value]) => ({ key, value }))} />`
    }`;
}
