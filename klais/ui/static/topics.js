// Topics, consumer groups and their lag, and the lanes of each worker.
import { html, useRef } from "./lib.js";
import { usePoll, useSort } from "./hooks.js";
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

// A column that the reader may sort by.
const sorted = (key, label, value, more) => ({ key, label, sort: true, value, cell: value, ...more });
const NUMBER = { number: true };
const code = (value) => ({ cell: (row) => html`<code>${printable(value(row))}</code>` });
const named = (key, label, value) => sorted(key, label, value, code(value));

// Of the group that is the furthest behind; null without groups, which are also unknown while Kafka is away.
function largestLag(topic) {
  const lags = Object.values(topic.groups ?? {}).map((group) => group.lag ?? 0);
  return lags.length ? Math.max(...lags) : null;
}

const OF_TOPICS = [
  named("topic", "topic", (row) => row.key),
  sorted("partitions", "partitions", (row) => Object.keys(row.end_offsets).length, NUMBER),
  sorted("end", "end offsets", (row) => row.end, { ...NUMBER, cell: (row) => count(row.end) }),
  sorted("in_per_s", "records/s", (row) => row.in_per_s, { ...NUMBER, cell: (row) => short(row.in_per_s) }),
  sorted("lag", "lag of the last group", largestLag, { ...NUMBER, cell: (row) => count(largestLag(row)) }),
];
const OF_PARTITIONS = [
  sorted("partition", "partition", (row) => row.partition),
  named("worker", "worker", (row) => row.worker),
  sorted("batches", "waiting batches", (row) => row.batches, { ...NUMBER, cell: (row) => count(row.batches) }),
  sorted("lag_s", "oldest", (row) => row.lag_s, {
    ...NUMBER,
    cell: (row) => (row.lag_s > 0 ? duration(row.lag_s) : "nothing waits"),
  }),
];

export function Topics({ store, paused }) {
  const { data, error } = usePoll("/topics/", 2000, paused);
  const kept = useRef(new Map());
  const topics = Object.entries(data?.topics ?? {}).map(([name, topic]) => ({ key: name, ...topic }));
  const unknown = topics.some((topic) => !topic.groups);
  const groups = topics.flatMap((topic) =>
    Object.entries(topic.groups ?? {}).map(([group, about]) => ({
      key: `${group} ${topic.key}`,
      group,
      topic: topic.key,
      in_per_s: topic.in_per_s,
      ends: topic.end_offsets,
      ...about,
    })),
  );
  const ofGroups = [
    named("group", "group", (row) => row.group),
    named("topic", "topic", (row) => row.topic),
    { label: "state", cell: (row) => row.state },
    { label: "members", number: true, cell: (row) => count(row.members) },
    sorted("lag", "lag, records", (row) => row.lag, {
      number: true,
      cell: (row) => html`${count(row.lag)}
      <details><summary>by partition</summary>${Object.keys(row.ends).map(
        (p) => html`<div>${p}: ${p in row.committed ? count(row.lag_by_partition[p]) : "no commit"}</div>`,
      )}</details>`,
    }),
    { label: "trend", cell: (row) => (row.lag === null ? "–" : trend(kept, row.key, row.lag ?? 0)) },
    { label: "time to clear", number: true, cell: (row) => timeToClear(row) },
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
  const byPartition = useSort(event ? lags(event) : [], OF_PARTITIONS, "partition");
  const byTopic = useSort(topics, OF_TOPICS);
  const byGroup = useSort(groups, ofGroups);
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
      html`<${Table} caption="Lag of each partition of klais_raw" columns=${OF_PARTITIONS} ...${byPartition}
        empty="No lane reports." />`
    }
    <${Table} caption="Topics" columns=${OF_TOPICS} ...${byTopic} empty=${noRows(data, error, "No topic.")} />
    <${Table} caption="Consumer groups" columns=${ofGroups} ...${byGroup}
      empty=${noRows(data, error, unknown ? "Unknown: Kafka does not answer." : "No group has committed an offset.")} />
    ${
      data &&
      html`<p>The lag of the group <code>klais</code> is as of the newest checkpoints; the table of workers shows the
      batches that lanes have not read.</p>`
    }`;
}
