// Overview: one sentence, the path of the frames, losses, charts.
import { html } from "./lib.js";
import { Figure, State, Table } from "./parts.js";
import { Chart } from "./chart.js";
import { bytes, count, duration, ms, percent, printable, short, words } from "./format.js";

const Step = ({ name, rate, unit, notes, href }) => html`<li><a href=${href}><b>${name}</b>
  <span class="rate">${rate}</span> <small>${unit}</small></a>${notes.filter(Boolean).map((note) => html`<p>
    ${note}</p>`)}</li>`;

function dropped(event) {
  const byReason = new Map();
  for (const process of [...event.edges, ...event.workers]) {
    for (const drop of process.dropped) {
      const row = byReason.get(drop.reason) ?? { key: drop.reason, frames: 0, intended: drop.intended };
      row.frames += drop.frames;
      byReason.set(drop.reason, row);
    }
  }
  return [...byReason.values()].sort((a, b) => a.intended - b.intended || b.frames - a.frames);
}

export function Overview({ store, theme }) {
  const event = store.now;
  if (!event) return html`<p class="empty">Waiting for the first figures…</p>`;
  const s = event.sample;
  const h = store.history;
  const columns = [
    { label: "reason", cell: (row) => html`<code>${words(row.key)}</code>` },
    {
      label: "intended",
      cell: (row) => (row.intended ? "yes" : html`<${State} value="critical" text="no: a loss" />`),
    },
    { label: "frames", number: true, cell: (row) => count(row.frames) },
  ];
  return html`
    <p class=${`sentence ${event.status}`}><${State} value=${event.status} /> ${printable(event.sentence)}</p>
    ${
      event.problems.length > 0 &&
      html`<ul class="problems">${event.problems.map(
        (p) => html`<li>
      <${State} value=${p.severity} /> <a href=${`#/${p.page}`}>${printable(p.text)}</a></li>`,
      )}</ul>`
    }
    <ol class="path" aria-label="The path of the frames, frames/s">
      <${Step} name="arrive" href="#/edges" rate=${short(s.edge_received)} unit="frames/s"
        notes=${[
          `${count(s.edges)} ${s.edges === 1 ? "edge" : "edges"}`,
          s.spool_frames > 0 && `${short(s.spool_frames)} frames in spools (${bytes(s.spool_bytes)})`,
          s.edge_dropped > 0 && `${short(s.edge_dropped)}/s dropped`,
        ]} />
      <${Step} name="klais_raw" href="#/topics" rate=${short(s.edge_passed)} unit="frames/s"
        notes=${[`${count(s.lag_records)} batches wait`, `Kafka p99 ${ms(s.kafka_p99_ms)}`]} />
      <${Step} name="workers" href="#/topics" rate=${short(s.worker_received)} unit="frames/s"
        notes=${[
          `${count(s.lanes_live)} of ${event.partitions} lanes live`,
          `${count(s.queue_depth)} frames queued`,
          s.worker_dropped > 0 && `${short(s.worker_dropped)}/s dropped`,
        ]} />
      <${Step} name="iot_telemetry" href="#/devices" rate=${short(s.worker_passed)} unit="frames/s"
        notes=${[`${count(s.devices)} devices`, s.flags > 0 && `${short(s.flags)}/s flags`]} />
    </ol>
    <dl class="figures">
      <${Figure} label="batch latency, edge p50 / p99" value=${`${ms(s.edge_p50_ms)} / ${ms(s.edge_p99_ms)}`} />
      <${Figure} label="batch latency, worker p50 / p99" value=${`${ms(s.worker_p50_ms)} / ${ms(s.worker_p99_ms)}`} />
      <${Figure} label="rate limit" value=${`${short(event.control.rate)}/s`} note=${`mode ${event.control.mode}`} />
      <${Figure} label="CPU, busiest worker" value=${percent(s.cpu_share)} />
      <${Figure} label="oldest checkpoint" value=${duration(s.checkpoint_age_s)} />
      <${Figure} label="devices flagged now" value=${count(s.anomaly_devices)} />
    </dl>
    <div class="charts">
      <${Chart} title="Frames per second" theme=${theme} history=${h} lines=${[
        { name: "edge_received", label: "arrive" },
        { name: "worker_passed", label: "pass" },
      ]} />
      <${Chart} title="Drops per second" theme=${theme} history=${h} lines=${[
        { name: "edge_dropped", label: "edge" },
        { name: "worker_dropped", label: "lanes" },
        { name: "edge_dropped_unintended", label: "edge, lost", color: "--critical" },
        { name: "worker_dropped_unintended", label: "lanes, lost", color: "--warning" },
      ]} />
      <${Chart} title="Batches that wait in klais_raw" theme=${theme} history=${h}
        lines=${[{ name: "lag_records", label: "lag" }]} />
      <${Chart} title="Latency p99 (ms)" theme=${theme} history=${h} show=${ms} lines=${[
        { name: "edge_p99_ms", label: "edge" },
        { name: "worker_p99_ms", label: "worker" },
        { name: "kafka_p99_ms", label: "Kafka" },
      ]} />
    </div>
    <${Table} caption="Frames dropped since the processes started" columns=${columns} rows=${dropped(event)}
      empty="No frame was dropped." />`;
}
