// Edges, the XDP filter, and blocked devices.
import { html } from "./lib.js";
import { State, Table } from "./parts.js";
import { Blocks, filters } from "./blocks.js";
import { bytes, count, duration, hostName, ms, percent, printable, short, words } from "./format.js";

const NEARLY_FULL = 0.8;
const FULL_SOON_S = 600;

// Share of a spool's limit that is used; null without a spool, or where the edge does not say.
export const fill = (gauges) =>
  gauges.spool_max_bytes >= 1 ? (gauges.spool_bytes ?? 0) / gauges.spool_max_bytes : null;

const wholePercent = (share) => `${Math.floor(100 * share)} %`;

function spool(gauges) {
  if (gauges.spool_max_bytes === 0 && !gauges.spooled) return "no spool";
  const used = bytes(gauges.spool_bytes ?? 0);
  const share = fill(gauges);
  const text = share === null ? used : `${used} of ${bytes(gauges.spool_max_bytes)} (${wholePercent(share)})`;
  const shown = share >= NEARLY_FULL ? html`<${State} value="warning" text=${text} />` : text;
  return html`<div>${count(gauges.spooled ?? 0)} frames</div><div>${shown}</div>`;
}

function spoolFull(gauges) {
  const left = gauges.spool_full_s;
  if (left === 0) return html`<${State} value="critical" text="is full" />`;
  if (!Number.isFinite(left)) return fill(gauges) === null ? "–" : "no growth";
  const text = `in ${duration(left)}`;
  return left < FULL_SOON_S ? html`<${State} value="critical" text=${text} />` : text;
}

// The spool that is the fullest and the one that is full first, for the overview; empty without figures.
export function fullest(edges) {
  const shares = edges.map((edge) => fill(edge.gauges)).filter((share) => share !== null);
  const left = Math.min(...edges.map((edge) => edge.gauges.spool_full_s ?? Infinity));
  if (!shares.length) return "";
  const used = `${edges.length > 1 ? "the fullest is " : ""}${wholePercent(Math.max(...shares))} full`;
  if (left === 0) return `${used}, no room`;
  return Number.isFinite(left) ? `${used}, full in ${duration(left)}` : used;
}

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
  { label: "spool", number: true, cell: (row) => spool(row.gauges) },
  { label: "spool full", number: true, cell: (row) => spoolFull(row.gauges) },
  { label: "p99", number: true, cell: (row) => ms(row.gauges.processing_ms?.p99) },
  { label: "CPU", number: true, cell: (row) => percent(row.gauges.cpu_share) },
  { label: "up", number: true, cell: (row) => duration(row.uptime_s) },
];

const verdicts = (event) =>
  filters(event).flatMap((filter) =>
    Object.entries(filter.packets)
      .filter(([, packets]) => packets > 0)
      .map(([verdict, packets]) => ({
        key: `${filter.key} ${verdict}`,
        host: filter.key,
        verdict,
        packets,
        // A filter without figures of the second before has no rates; in others, verdicts without packets have none.
        rate: filter.perS ? (filter.perS.get(verdict) ?? 0) : null,
        drops: filter.drops.has(verdict),
        intended: filter.drops.get(verdict),
      })),
  );

const LIMITS_BY = new Map([
  ["load", "given at load: set-points are not confirmed"],
  ["controller", "the controller"],
  ["operator", "an operator"],
]);

const attachedTo = (filter) => {
  if (!filter.interfaces) return "–";
  return filter.interfaces.length ? filter.interfaces.map(printable).join(", ") : "none that this edge can see";
};

const ofFilters = [
  { label: "host", cell: (row) => hostName(row.key) },
  { label: "maps below", cell: (row) => html`<code>${printable(row.key.split(":")[1] ?? "–")}</code>` },
  { label: "interfaces", cell: (row) => attachedTo(row) },
  { label: "limits by", cell: (row) => LIMITS_BY.get(row.limits_by) ?? printable(row.limits_by ?? "–") },
  { label: "set-points confirmed", number: true, cell: (row) => before(row.set_points_age_s) },
  { label: "passed", number: true, cell: (row) => count(row.packets.pass) },
];

const before = (seconds) => (seconds === undefined ? "never" : `${duration(seconds)} ago`);

// What happens to packets with a verdict; a rule in monitor mode only counts those that it would drop.
function effect(row) {
  if (row.verdict.startsWith("would_")) return "pass (monitor mode)";
  if (!row.drops) return "pass";
  return row.intended ? "are dropped" : html`<${State} value="critical" text="are dropped: a loss" />`;
}

const ofVerdicts = [
  { label: "host", cell: (row) => hostName(row.host) },
  { label: "verdict", kind: "short", cell: (row) => words(row.verdict) },
  { label: "the packets", kind: "short", cell: (row) => effect(row) },
  { label: "packets/s", number: true, cell: (row) => short(row.rate) },
  { label: "packets", number: true, cell: (row) => count(row.packets) },
];

export function Edges({ store, about, paused }) {
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
    <${Blocks} event=${event} about=${about} paused=${paused} />`;
}
