// Topics, consumer groups and their lag, and the lanes of each worker.
import { html, useRef } from "./lib.js";
import { usePoll } from "./hooks.js";
import { Failure, noRows, Table } from "./parts.js";
import { clearing, lags } from "./overview.js";
import { count, duration, ms, percent, printable, short } from "./format.js";

function trend(kept, key, value) {
  const before = kept.current.get(key) ?? value;
  kept.current.set(key, before * 0.8 + value * 0.2);
  const change = value - before;
  return Math.abs(change) < Math.max(1, before * 0.05) ? "→ steady" : change > 0 ? "↗ grows" : "↘ falls";
}

function timeToClear(row) {
  if (!row.lag) return "nothing waits";
  if (row.out_per_s === null || row.in_per_s === null) return "unknown yet";
  const faster = row.out_per_s - row.in_per_s;
  if (Math.abs(faster) < Math.max(1, row.in_per_s * 0.05)) return "arrivals equal departures";
  return faster > 0 ? duration(row.lag / faster) : "growing";
}

// Lanes that are not live yet, with their progress.
function recovering(event) {
  const rows = event.workers.flatMap(({ id, restoring }) =>
    (restoring ?? []).map((row) => ({ key: `${id} ${row.partition}`, worker: id, ...row })),
  );
  return rows.sort((a, b) => a.partition - b.partition);
}

const ofRecovering = [
  { label: "partition", cell: (row) => row.partition },
  { label: "worker", cell: (row) => html`<code>${printable(row.worker)}</code>` },
  { label: "progress", kind: "text", cell: (row) => printable(row.text) },
];

export function Topics({ store, paused }) {
  const { data, error } = usePoll("/topics/", 2000, paused);
  const kept = useRef(new Map());
  const topics = Object.entries(data?.topics ?? {}).map(([name, topic]) => ({ key: name, ...topic }));
  const groups = topics.flatMap((topic) =>
    Object.entries(topic.groups).map(([group, about]) => ({
      key: `${group} ${topic.key}`,
      group,
      topic: topic.key,
      in_per_s: topic.in_per_s,
      ends: topic.end_offsets,
      ...about,
    })),
  );
  const of = [
    { label: "topic", cell: (row) => html`<code>${printable(row.key)}</code>` },
    { label: "partitions", number: true, cell: (row) => count(Object.keys(row.end_offsets).length) },
    { label: "end offsets", number: true, cell: (row) => count(row.end) },
    { label: "records/s", number: true, cell: (row) => short(row.in_per_s) },
  ];
  const ofGroups = [
    { label: "group", cell: (row) => html`<code>${printable(row.group)}</code>` },
    { label: "topic", cell: (row) => html`<code>${printable(row.topic)}</code>` },
    { label: "state", cell: (row) => row.state },
    { label: "members", number: true, cell: (row) => count(row.members) },
    {
      label: "lag, records",
      number: true,
      cell: (row) => html`${count(row.lag)}
      <details><summary>by partition</summary>${Object.keys(row.ends).map(
        (p) => html`<div>${p}: ${p in row.committed ? count(row.lag_by_partition[p]) : "no commit"}</div>`,
      )}</details>`,
    },
    { label: "trend", cell: (row) => (row.lag === null ? "–" : trend(kept, row.key, row.lag ?? 0)) },
    { label: "time to clear", number: true, cell: (row) => timeToClear(row) },
  ];
  const ofPartitions = [
    { label: "partition", cell: (row) => row.partition },
    { label: "worker", cell: (row) => html`<code>${printable(row.worker)}</code>` },
    { label: "waiting batches", number: true, cell: (row) => count(row.batches) },
    { label: "oldest", number: true, cell: (row) => (row.lag_s > 0 ? duration(row.lag_s) : "nothing waits") },
  ];
  const workers = [
    { label: "worker", cell: (row) => html`<code>${printable(row.id)}</code>` },
    {
      label: "lanes live",
      number: true,
      cell: (row) => `${count(row.gauges.lanes_live)} of ${count(row.gauges.lanes)}`,
    },
    { label: "takes, frames/s", number: true, cell: (row) => short(row.rates.received) },
    {
      label: "lag, batches",
      number: true,
      cell: (row) => count(Object.values(row.gauges.lag_records ?? {}).reduce((a, b) => a + b, 0)),
    },
    { label: "queue", number: true, cell: (row) => count(row.gauges.queue_depth) },
    { label: "devices", number: true, cell: (row) => count(row.gauges.devices) },
    { label: "p99", number: true, cell: (row) => ms(row.gauges.processing_ms?.p99) },
    { label: "CPU", number: true, cell: (row) => percent(row.gauges.cpu_share) },
    { label: "checkpoint", number: true, cell: (row) => duration(row.gauges.checkpoint_age_s) },
    { label: "lane restarts", number: true, cell: (row) => count(row.gauges.lane_restarts) },
  ];
  const event = store.now;
  return html`<${Failure} error=${error} />
    ${event && html`<p class="sentence">${clearing(event.sample, store.history)}</p>`}
    ${
      event &&
      html`<${Table} caption="Workers" columns=${workers}
        rows=${event.workers.map((row) => ({ ...row, key: row.id }))}
      empty="No worker reports." />`
    }
    ${
      event &&
      recovering(event).length > 0 &&
      html`<${Table} caption="Lanes that recover: their frames wait in klais_raw" columns=${ofRecovering}
        rows=${recovering(event)} />`
    }
    ${
      event &&
      html`<${Table} caption="Lag of each partition of klais_raw" columns=${ofPartitions} rows=${lags(event)}
        empty="No lane reports." />`
    }
    <${Table} caption="Topics" columns=${of} rows=${topics} empty=${noRows(data, error, "No topic.")} />
    <${Table} caption="Consumer groups" columns=${ofGroups} rows=${groups}
      empty=${noRows(data, error, "No group has committed an offset.")} />
    ${
      data &&
      html`<p>The lag of the group <code>klais</code> is as of the newest checkpoints; the table of workers shows the
      batches that lanes have not read.</p>`
    }`;
}
