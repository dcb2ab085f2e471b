// Overview: one sentence, the path of the frames, charts, the newest frames, losses.
import { html } from "./lib.js";
import { Figure, State, Table } from "./parts.js";
import { Chart } from "./chart.js";
import { fullest } from "./edges.js";
import { Frames } from "./frames.js";
import { bytes, clock, count, counted, duration, hostName, ms, percent, printable, short, words } from "./format.js";

const Step = ({ name, rate, unit, notes, href }) => html`<li><a href=${href}><b>${name}</b>
  <span class="rate">${rate}</span> <small>${unit}</small></a>${notes.filter(Boolean).map((note) => html`<p>
    ${note}</p>`)}</li>`;

function dropped(event) {
  const byReason = new Map();
  // The edges of a host report the same XDP filter, except those that may not read its maps.
  const reporting = event.edges.filter((edge) => edge.kernel_dropped?.length);
  const kernels = new Map(reporting.map((edge) => [edge.host, edge.kernel_dropped]));
  const kernel = [...kernels].map(([host, rows]) => ({ id: `kernel of ${hostName(host)}`, dropped: rows }));
  for (const process of [...kernel, ...event.edges, ...event.workers]) {
    for (const drop of process.dropped) {
      const row = byReason.get(drop.reason) ?? { key: drop.reason, frames: 0, intended: drop.intended, where: [] };
      row.frames += drop.frames;
      row.where.push(process.id);
      byReason.set(drop.reason, row);
    }
  }
  return [...byReason.values()].sort((a, b) => a.intended - b.intended || b.frames - a.frames);
}

const named = (ids) => ids.slice(0, 3).map(printable).join(", ") + (ids.length > 3 ? `, ${ids.length - 3} more` : "");

function waiting(s) {
  if (s.lag_records === null) return "unknown how much waits";
  const wait = counted(s.lag_records, "batch waits", "batches wait");
  return s.lag_s > 0 ? `${wait}, the oldest for ${duration(s.lag_s)}` : wait;
}

// Partitions with lag; the page of topics has all of them.
function lagNote(event) {
  const behind = lags(event)
    .filter((row) => row.lag_s > 0)
    .sort((a, b) => b.lag_s - a.lag_s);
  if (!event.workers.length) return "no worker reports";
  if (!behind.length) return "nothing waits";
  const named = behind.slice(0, 3).map((row) => `${row.partition}: ${duration(row.lag_s)}`);
  return named.join(", ") + (behind.length > 3 ? `, ${behind.length - 3} more` : "");
}

const both = (p50, p99) => `${short(p50)} / ${ms(p99)}`;

const MEAN_OF = 10; // samples used for a forecast
const mean = (column) => {
  const newest = (column ?? []).slice(-MEAN_OF);
  return newest.reduce((a, b) => a + (b ?? 0), 0) / Math.max(1, newest.length);
};

// Time until klais_raw is read completely, at the rates of the last seconds.
export function clearing(s, h) {
  if (s.lag_records === null) return "No worker reports how many batches wait in klais_raw.";
  if (!s.lag_records) return "No batches wait in klais_raw.";
  const faster = mean(h.worker_received) - mean(h.edge_passed);
  const wait = `${waiting(s)} in klais_raw.`;
  if (!s.lag_frames || s.lag_s < 5) return `${wait} The workers read them within seconds.`;
  if (faster <= 0) return `${wait} The workers are slower than the arrivals: the lag grows.`;
  const left = duration(s.lag_frames / faster);
  return `${wait} The workers process ${short(faster)} frames/s more than arrive: done in ${left}.`;
}

// Intervals of the history with unintended drops, newest first.
export function losses(h) {
  const found = [];
  for (const [name, where, page] of [
    ["edge_dropped_unintended", "edges", "edges"],
    ["worker_dropped_unintended", "lanes", "topics"],
  ]) {
    let open = null;
    (h[name] ?? []).forEach((rate, i) => {
      if (rate > 0 && open && h.at_ms[i] - open.until <= JOINED_MS) {
        open.until = h.at_ms[i];
        open.frames += rate;
      } else if (rate > 0) {
        open = { key: `${name} ${h.at_ms[i]}`, where, page, since: h.at_ms[i], until: h.at_ms[i], frames: rate };
        found.push(open);
      }
    });
  }
  return found.sort((a, b) => b.until - a.until);
}

const JOINED_MS = 30_000; // losses closer than this are merged

function Losses({ h }) {
  const found = losses(h);
  const [begin, end] = [h.at_ms[0], h.at_ms.at(-1)];
  if (!h.at_ms.length) return null;
  const columns = [
    { label: "where", cell: (row) => html`<a href=${`#/${row.page}`}>${row.where}</a>` },
    { label: "since", kind: "short", cell: (row) => clock(row.since) },
    { label: "until", kind: "short", cell: (row) => (end - row.until < 3000 ? "now" : clock(row.until)) },
    { label: "frames, about", number: true, cell: (row) => count(Math.round(row.frames)) },
  ];
  return html`<${Table} caption=${`Losses in the last ${duration((end - begin) / 1000)}`} columns=${columns}
    rows=${found} empty="None: all drops were intended." />`;
}

// The lag in seconds of each partition, reported by the worker that owns it.
export function lags(event) {
  return event.workers
    .flatMap((worker) =>
      Object.entries(worker.gauges.lag_s ?? {}).map(([partition, lag_s]) => ({
        key: partition,
        partition: Number(partition),
        worker: worker.id,
        lag_s,
        batches: worker.gauges.lag_records?.[partition],
      })),
    )
    .sort((a, b) => a.partition - b.partition);
}

const MAX_RESTORING = 3; // lanes named here; the page of topics has all

// Progress of the lanes that recover: "lane 2: 61 % of the journal replayed".
export function restoring(event) {
  return event.workers
    .flatMap((worker) => worker.restoring ?? [])
    .map((row) => `lane ${row.partition}: ${printable(row.text)}`);
}

function inSpools(s, edges) {
  const full = fullest(edges);
  return `${short(s.spool_frames)} frames in spools (${bytes(s.spool_bytes)}${full && `; ${full}`})`;
}

export function Overview({ store, theme, about, paused }) {
  const event = store.now;
  if (!event) return html`<p class="empty">Waiting for the first figures…</p>`;
  const s = event.sample;
  const h = store.history;
  const path = event.path ?? s; // mean rates of the last seconds; a recording may be older
  const columns = [
    { label: "reason", cell: (row) => html`<code>${words(row.key)}</code>` },
    {
      label: "intended",
      cell: (row) => (row.intended ? "yes" : html`<${State} value="critical" text="no: a loss" />`),
    },
    { label: "where", kind: "text", cell: (row) => named(row.where) },
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
    <ol class="path" aria-label="The path of the frames, frames/s, mean of 10 s">
      <${Step} name="arrive" href="#/edges" rate=${short(path.edge_received)} unit="frames/s"
        notes=${[
          counted(s.edges, "edge", "edges"),
          s.spool_frames > 0 && inSpools(s, event.edges),
          s.edge_dropped > 0 && `${short(s.edge_dropped)}/s dropped`,
        ]} />
      <${Step} name="klais_raw" href="#/topics" rate=${short(path.edge_passed)} unit="frames/s"
        notes=${[waiting(s), `Kafka p99 ${ms(s.kafka_p99_ms)}`]} />
      <${Step} name="workers" href="#/topics" rate=${short(path.worker_received)} unit="frames/s"
        notes=${[
          `${count(s.lanes_live)} of ${event.partitions} lanes live`,
          ...restoring(event).slice(0, MAX_RESTORING),
          `${count(s.queue_depth)} frames queued`,
          s.worker_dropped > 0 && `${short(s.worker_dropped)}/s dropped`,
        ]} />
      <${Step} name="iot_telemetry" href="#/devices" rate=${short(path.worker_passed)} unit="frames/s"
        notes=${[counted(s.devices, "device", "devices"), s.flags > 0 && `${short(s.flags)}/s flags`]} />
    </ol>
    <p>${clearing(s, h)}</p>
    <dl class="figures">
      <${Figure} label="batch latency, edge p50 / p99" value=${both(s.edge_p50_ms, s.edge_p99_ms)} />
      <${Figure} label="batch latency, worker p50 / p99" value=${both(s.worker_p50_ms, s.worker_p99_ms)} />
      <${Figure} label="lag, by partition" value=${duration(s.lag_s)} note=${lagNote(event)} />
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
      <${Chart} title="Lag (s): age of the oldest batch in klais_raw" theme=${theme} history=${h}
        lines=${[{ name: "lag_s", label: "oldest of all partitions" }]} />
      <${Chart} title="Latency p99 (ms)" theme=${theme} history=${h} show=${ms} lines=${[
        { name: "edge_p99_ms", label: "edge" },
        { name: "worker_p99_ms", label: "worker" },
        { name: "kafka_p99_ms", label: "Kafka" },
      ]} />
    </div>
    <${Frames} about=${about} most=${6} paused=${paused} caption="Newest frames of the lanes of this worker" />
    <${Losses} h=${h} />
    <${Table} caption="Frames dropped since the processes started and the kernel filters were loaded"
      columns=${columns} rows=${dropped(event)}
      empty="No frame was dropped." />`;
}
