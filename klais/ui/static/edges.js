// Edges, the XDP filter, and blocked devices.
import { html } from "./lib.js";
import { State, Table } from "./parts.js";
import { overrides } from "./control.js";
import { bytes, count, duration, hostName, ms, percent, printable, short, words } from "./format.js";

const edges = [
  { label: "edge", cell: (row) => html`<code>${printable(row.id)}</code>` },
  { label: "host", cell: (row) => hostName(row.host) },
  {
    label: "Kafka",
    cell: (row) =>
      row.gauges.breaker === "closed"
        ? html`<${State} value="ok" text="reached" />`
        : html`<${State} value="warning" text=${`breaker ${row.gauges.breaker ?? "unknown"}`} />`,
  },
  { label: "received/s", number: true, cell: (row) => short(row.rates.received) },
  { label: "passed/s", number: true, cell: (row) => short(row.rates.passed) },
  { label: "dropped/s", number: true, cell: (row) => short(row.rates.dropped) },
  { label: "in flight", number: true, cell: (row) => bytes(row.gauges.inflight_bytes ?? 0) },
  {
    label: "spool",
    number: true,
    cell: (row) => `${count(row.gauges.spooled ?? 0)} frames, ${bytes(row.gauges.spool_bytes ?? 0)}`,
  },
  { label: "p99", number: true, cell: (row) => ms(row.gauges.processing_ms?.p99) },
  { label: "CPU", number: true, cell: (row) => percent(row.gauges.cpu_share) },
  { label: "up", number: true, cell: (row) => duration(row.uptime_s) },
];

// One filter per host: every edge of the host reports the same one.
function filters(event) {
  const found = new Map();
  for (const edge of event.edges) {
    const filter = edge.gauges.xdp;
    if (filter?.packets) found.set(edge.host ?? edge.id, { key: edge.host ?? edge.id, ...filter });
  }
  return [...found.values()];
}

const verdicts = (event) =>
  filters(event).flatMap((filter) =>
    Object.entries(filter.packets)
      .filter(([, packets]) => packets > 0)
      .map(([verdict, packets]) => ({ key: `${filter.key} ${verdict}`, host: filter.key, verdict, packets })),
  );

const LIMITS_BY = {
  load: "given at load: set-points are not confirmed",
  controller: "the controller",
  operator: "an operator",
};

const ofFilters = [
  { label: "host", cell: (row) => hostName(row.key) },
  { label: "maps below", cell: (row) => html`<code>${printable(row.key.split(":")[1] ?? "–")}</code>` },
  { label: "limits by", cell: (row) => LIMITS_BY[row.limits_by] ?? printable(row.limits_by ?? "–") },
  { label: "set-points confirmed", number: true, cell: (row) => before(row.set_points_age_s) },
  { label: "passed", number: true, cell: (row) => count(row.packets.pass) },
];

const before = (seconds) => (seconds === undefined ? "never" : `${duration(seconds)} ago`);

const ofVerdicts = [
  { label: "host", cell: (row) => hostName(row.host) },
  { label: "verdict", kind: "short", cell: (row) => words(row.verdict) },
  { label: "packets", number: true, cell: (row) => count(row.packets) },
];

export function Edges({ store }) {
  const event = store.now;
  if (!event) return html`<p class="empty">Waiting for the first figures…</p>`;
  const drops = event.edges.flatMap((edge) =>
    edge.dropped.map((drop) => ({ key: `${edge.id} ${drop.reason}`, edge: edge.id, ...drop })),
  );
  const ofDrops = [
    { label: "edge", cell: (row) => html`<code>${printable(row.edge)}</code>` },
    { label: "reason", cell: (row) => words(row.reason) },
    {
      label: "intended",
      cell: (row) => (row.intended ? "yes" : html`<${State} value="critical" text="no: a loss" />`),
    },
    { label: "frames", number: true, cell: (row) => count(row.frames) },
  ];
  const blocks = event.control.overrides.filter((row) => row.scope.startsWith("device/"));
  return html`
    <${Table} caption="Edges" columns=${edges} rows=${event.edges.map((row) => ({ ...row, key: row.id }))}
      empty="No edge reports." />
    ${
      Object.keys(event.silent).length > 0 &&
      html`<p class="failure">Silent: ${Object.entries(event.silent)
        .map(([id, age]) => `${printable(id)} for ${duration(age)}`)
        .join(", ")}</p>`
    }
    <${Table} caption="Dropped by the edges since they started" columns=${ofDrops} rows=${drops}
      empty="No frame was dropped." />
    <${Table} caption="Kernel filters" columns=${ofFilters} rows=${filters(event)}
      empty="No edge reports a kernel filter: load one with klais xdp load." />
    ${
      filters(event).length > 0 &&
      html`<${Table} caption="Verdicts of the kernel filter since it was loaded" columns=${ofVerdicts}
        rows=${verdicts(event)} empty="It has received no packets." />`
    }
    <${Table} caption="Blocked and limited devices" columns=${overrides(event.at_ms)}
      rows=${blocks.map((row) => ({ ...row, key: row.scope }))}
        empty="No device is blocked or has its own limits." />`;
}
