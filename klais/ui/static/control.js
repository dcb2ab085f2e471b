// The controller and the dam: decisions with their inputs, and overrides.
import { html, useState } from "./lib.js";
import { ChangeDialog, Figure, Scope, State, Table, WhyNot } from "./parts.js";
import { Chart } from "./chart.js";
import { put, remove } from "./api.js";
import { clock, count, percent, printable, short, until } from "./format.js";

const decisions = [
  { label: "time", kind: "short", cell: (row) => clock(row.at) },
  { label: "rate", number: true, cell: (row) => short(row.rate) },
  { label: "lag", number: true, cell: (row) => short(row.inputs?.lag) },
  { label: "CPU", number: true, cell: (row) => (row.inputs ? percent(row.inputs.cpu) : "–") },
  { label: "P", number: true, cell: (row) => row.terms?.p?.toFixed(3) ?? "–" },
  { label: "I", number: true, cell: (row) => row.terms?.i?.toFixed(3) ?? "–" },
  { label: "D", number: true, cell: (row) => row.terms?.d?.toFixed(3) ?? "–" },
  { label: "cut", number: true, cell: (row) => (row.cut ? percent(row.cut) : "–") },
  { label: "reason", kind: "text", cell: (row) => printable(row.reason ?? "") },
  { label: "forecast", kind: "text", cell: (row) => printable(row.forecast?.why ?? "–") },
];

const sentence = (decision) =>
  `Newest decision, ${clock(decision.at)}: ${short(decision.rate)} frames/s (${printable(decision.reason ?? "")}).`;

export function overrideText(row) {
  const parts = [];
  if (row.block && !row.unblock) parts.push("blocked");
  if (row.ack) parts.push("acknowledged");
  if (row.mute) parts.push("muted");
  if (row.mode) parts.push(`mode ${row.mode}`);
  if (row.rate) parts.push(`rate ${short(row.rate)}/s`);
  if (row.burst) parts.push(`burst ${short(row.burst)}`);
  for (const name of ["gains", "setpoints"]) if (row[name]) parts.push(`${name} ${JSON.stringify(row[name])}`);
  return parts.join(", ");
}

// The block and the limits of a device have each their own end.
function endsOf(row, nowMs) {
  const limits = row.scope.startsWith("device/") && (row.rate || row.burst);
  if (!limits) return until(row.until_ms, nowMs);
  const end = until(row.limits_until_ms, nowMs);
  return row.block ? `block: ${until(row.until_ms, nowMs)}, limits: ${end}` : end;
}

export const overrides = (nowMs) => [
  { label: "what", cell: (row) => html`<${Scope} scope=${row.scope} />` },
  { label: "sets", cell: (row) => printable(overrideText(row)) },
  { label: "by", cell: (row) => printable(row.author ?? "?") },
  { label: "reason", kind: "text", cell: (row) => printable(row.reason ?? "") },
  { label: "ends", cell: (row) => endsOf(row, nowMs) },
];

export function Control({ store, about, theme }) {
  const [dialog, setDialog] = useState("");
  const event = store.now;
  if (!event) return html`<p class="empty">Waiting for the first figures…</p>`;
  const c = event.control;
  const s = event.sample;
  const flat = (value) => ({ values: store.history.at_ms.map(() => value), color: "--quiet", dash: true });
  const can = about?.may_change;
  const newest = c.decisions[0];
  const close = () => setDialog("");
  return html`
    <p class="sentence"><${State} value="ok" text=${`mode ${c.mode}`} /> ${" "}
      ${
        c.mode === "auto"
          ? event.leader
            ? `The controller (${printable(event.leader)}) sets the rate.`
            : "The controller sets the rate, but none reports now."
          : c.mode === "manual"
            ? "An operator set the rate."
            : "The settings fix the rate."
      } ${newest && sentence(newest)}</p>
    <dl class="figures">
      <${Figure} label="rate in force" value=${`${short(c.rate)}/s`} /><${Figure} label="burst"
        value=${`${short(c.burst)} frames`} />
      <${Figure} label="arrives" value=${`${short(s.edge_received)}/s`} /><${Figure} label="controller output"
        value=${percent(s.pid_output)} />
      <${Figure} label="burst probability" value=${percent(s.burst_probability)} />
      <${Figure} label="frames queued" value=${count(s.queue_depth)} />
    </dl>
    <div class="buttons"><button disabled=${!can} onClick=${() => setDialog("rate")}>Set the rate…</button>
      <button disabled=${!can} onClick=${() => setDialog("auto")}>Let the controller set it…</button>
      <button disabled=${!can} onClick=${() => setDialog("end")}>End the override…</button>
      <${WhyNot} about=${about} /></div>
    ${
      dialog === "rate" &&
      html`<${ChangeDialog} about=${about} onClose=${close} title="Set the global rate" confirm="Set the rate"
      explain=${`Frames above it wait in the queue. At least ${short(c.setpoints.rate_min)} frames/s.`}
      fields=${[
        { name: "rate", label: "Rate, frames/s", min: c.setpoints.rate_min, required: true, value: Math.round(c.rate) },
      ]}
      send=${(body) => put("/api/v1/override", { ...body, mode: "manual" })} />`
    }
    ${
      dialog === "auto" &&
      html`<${ChangeDialog} about=${about} onClose=${close} title="Let the controller set the rate"
      confirm="Set mode auto" send=${(body) => put("/api/v1/override", { ...body, mode: "auto" })} />`
    }
    ${
      dialog === "end" &&
      html`<${ChangeDialog} about=${about} onClose=${close} ends=${false} title="End the override"
      confirm="End it" send=${(body) => remove("/api/v1/override", body)} />`
    }
    <div class="charts">
      <${Chart} title="Rate in force and arriving frames (frames/s)" theme=${theme} history=${store.history}
        lines=${[
        { name: "edge_received", label: "arrives" },
        { name: "rate_limit", label: "limit" },
      ]} />
      <${Chart} title="Lag against its set-point (frames)" theme=${theme} history=${store.history} lines=${[
        { name: "lag_frames", label: "lag" },
        { label: "set-point", ...flat(c.setpoints.lag) },
      ]} />
      <${Chart} title="CPU, busiest worker and machine, against the set-point" theme=${theme}
        history=${store.history} show=${percent}
        lines=${[
          { name: "cpu_share", label: "worker" },
          { name: "host_cpu_share", label: "machine" },
          { label: "set-point", ...flat(c.setpoints.cpu) },
        ]} />
      <${Chart} title="Output, cut and burst probability" theme=${theme} history=${store.history}
        show=${percent} lines=${[
        { name: "pid_output", label: "output" },
        { name: "cut", label: "cut" },
        { name: "burst_probability", label: "burst probability" },
      ]} />
    </div>
    <${Table} caption="Overrides in force" columns=${overrides(event.at_ms)} empty="There are no overrides."
      rows=${c.overrides.map((row) => ({ ...row, key: row.scope }))} />
    <${Table} caption="Newest decisions" columns=${decisions}
      empty="No decision yet: a decision is written only if it changes something."
      rows=${c.decisions.map((row, i) => ({ ...row, key: `${row.at}-${i}` }))} />`;
}
