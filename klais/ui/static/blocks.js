// Blocks of klais_control and of the kernel filters in one table, blocked sources, and devices with own limits.
import { html, useState } from "./lib.js";
import { usePoll } from "./hooks.js";
import { ChangeDialog, DeviceLink, Failure, Table, WhyNot } from "./parts.js";
import { ofDevice, ofSource, put, remove } from "./api.js";
import { count, counted, duration, hostName, printable, short, until } from "./format.js";

const MAX_ROWS = 500; // overrides of an event, and rows of one answer of /devices/
const ASKED = `/devices/?scope=all&state=blocked&sort=blocked&size=${MAX_ROWS}`;
const idOf = (row) => row.scope.slice("device/".length);
const list = (found) => (Array.isArray(found) ? found : []);

// One filter per host: every edge of the host reports the same one.
export function filters(event) {
  const found = new Map();
  for (const edge of event.edges) {
    const filter = edge.gauges.xdp;
    const drops = new Map((edge.kernel_dropped ?? []).map((drop) => [drop.reason, drop.intended]));
    const perS = filter?.rates && new Map(Object.entries(filter.rates));
    if (filter?.packets) found.set(edge.host ?? edge.id, { ...filter, key: edge.host ?? edge.id, drops, perS });
  }
  return [...found.values()];
}

const where = (kernels) => (kernels ? `workers and ${counted(kernels, "kernel filter", "kernel filters")}` : "workers");

// Each filter reports the devices whose blocks dropped the most packets.
function droppedBy(kernels, id) {
  const counts = kernels.map((filter) => filter.block_drops?.[id]).filter(Number.isFinite);
  return counts.length ? counts.reduce((sum, each) => sum + each, 0) : undefined;
}

// Those of klais_control first: they hold everywhere. Then those that only one host's filter knows.
function blocks(event, dropped) {
  const kernels = filters(event);
  const controlled = event.control.overrides
    .filter((row) => row.scope.startsWith("device/") && row.block && !row.unblock)
    .filter((row) => (row.until_ms ?? Infinity) > event.at_ms)
    .map((row) => ({
      key: row.scope,
      id: idOf(row),
      controlled: true,
      where: where(kernels.length),
      by: row.author ?? "?",
      reason: row.reason ?? "",
      ends: until(row.until_ms, event.at_ms),
      dropped: dropped.get(idOf(row)),
      inKernel: droppedBy(kernels, idOf(row)),
    }));
  const local = kernels.flatMap((filter) =>
    list(filter.local_blocks).map((block) => ({
      key: `${filter.key} ${block.device_id}`,
      id: String(block.device_id),
      where: `only the kernel filter of ${hostName(filter.key)}`,
      by: "klais xdp block",
      reason: "",
      ends: block.left_s === null || block.left_s === undefined ? until() : `in ${duration(block.left_s)}`,
      inKernel: block.dropped,
    })),
  );
  return [...controlled, ...local];
}

const ofBlocks = [
  { label: "device", cell: (row) => html`<${DeviceLink} id=${row.id} />` },
  { label: "acts in", cell: (row) => row.where },
  { label: "by", cell: (row) => printable(row.by) },
  { label: "reason", kind: "text", cell: (row) => printable(row.reason || "–") },
  { label: "ends", cell: (row) => row.ends },
  { label: "kernel dropped", number: true, cell: (row) => count(row.inKernel) },
  { label: "lane dropped", number: true, cell: (row) => count(row.dropped) },
];

// Those of a single filter are removed on its host.
const unblocked = (ask) => ({
  label: "unblock",
  cell: (row) =>
    row.controlled
      ? html`<button disabled=${!ask} aria-label=${`Unblock ${printable(row.prefix ?? row.id)}`}
        onClick=${() => ask(row)}>Unblock…</button>`
      : html`<code>klais xdp unblock</code>`,
});

const total = (drops, prefix) => {
  const counts = drops.map((each) => each?.[prefix]).filter(Number.isFinite);
  return counts.length ? counts.reduce((sum, each) => sum + each, 0) : undefined;
};

// An edge and a filter each report the blocks that dropped the most.
function sources(event) {
  const kernels = filters(event);
  return event.control.overrides
    .filter((row) => row.scope.startsWith("source/") && row.block && !row.unblock)
    .filter((row) => (row.until_ms ?? Infinity) > event.at_ms)
    .map((row) => {
      const prefix = row.scope.slice("source/".length);
      return {
        key: row.scope,
        prefix,
        controlled: true,
        where: kernels.length ? `edges and ${counted(kernels.length, "kernel filter", "kernel filters")}` : "edges",
        by: row.author ?? "?",
        reason: row.reason ?? "",
        ends: until(row.until_ms, event.at_ms),
        inKernel: total(kernels.map((filter) => filter.source_drops), prefix),
        inEdge: total(event.edges.map((edge) => edge.gauges.source_drops), prefix),
      };
    });
}

const ofSources = [
  { label: "source", cell: (row) => html`<code>${printable(row.prefix)}</code>` },
  { label: "acts in", cell: (row) => row.where },
  { label: "by", cell: (row) => printable(row.by) },
  { label: "reason", kind: "text", cell: (row) => printable(row.reason || "–") },
  { label: "ends", cell: (row) => row.ends },
  { label: "kernel dropped", number: true, cell: (row) => count(row.inKernel) },
  { label: "edge dropped", number: true, cell: (row) => count(row.inEdge) },
];

const ofLimits = [
  { label: "device", cell: (row) => html`<${DeviceLink} id=${row.id} />` },
  { label: "rate", number: true, cell: (row) => (row.rate ? `${short(row.rate)}/s` : "–") },
  { label: "burst", number: true, cell: (row) => short(row.burst) },
  { label: "by", cell: (row) => printable(row.author ?? "?") },
  { label: "reason", kind: "text", cell: (row) => printable(row.reason ?? "") },
  { label: "ends", cell: (row) => row.ends },
];

const Kernels = ({ kernels }) =>
  kernels.length > 0 &&
  html`<p>${kernels.map((filter) => {
    const only = filter.packets.would_blocked;
    const now = Number.isFinite(filter.blocked) && `blocks ${counted(filter.blocked, "device", "devices")} and `;
    const gone = counted(filter.packets.blocked, "packet", "packets");
    const goneOfSources = filter.packets.blocked_source
      ? ` It dropped ${count(filter.packets.blocked_source)} packets of blocked sources.`
      : "";
    return html`The kernel filter of ${hostName(filter.key)} ${now}has dropped ${gone} of blocked devices since it was
      ${" "}loaded${only > 0 && `, and let ${count(only)} pass, because the rule is only monitored`}.${goneOfSources} `;
  })}<small>A filter counts since a block began; what it drops reaches no lane.</small></p>`;

// A request for the path needs a character of an address; the server checks the rest.
const PREFIX = {
  name: "prefix",
  label: "Address or prefix, such as 192.0.2.0/24",
  type: "text",
  required: true,
  pattern: ".*[0-9A-Fa-f:].*",
  title: "an IPv4 or IPv6 address, or a prefix",
};

function Dialog({ asked, about, onClose }) {
  const common = { about, onClose };
  if (!asked.key)
    return html`<${ChangeDialog} ...${common} title="Block a source" confirm="Block" fields=${[PREFIX]}
      explain="Edges and kernel filters drop every frame from it, whatever device ids they name. A prefix has 8 to 32
        bits for IPv4, 16 to 128 for IPv6. Any sender can forge an address unless the network prevents it."
      send=${({ prefix, ...body }) => put(ofSource(prefix), body)} />`;
  const path = asked.prefix ? ofSource(asked.prefix) : ofDevice(asked.id, "block");
  return html`<${ChangeDialog} ...${common} ends=${false} title=${`Unblock ${printable(asked.prefix ?? asked.id)}`}
    confirm="Unblock" send=${(body) => remove(path, body)} />`;
}

export function Blocks({ event, about, paused }) {
  const [asked, setAsked] = useState(null);
  const ask = about?.may_change ? setAsked : null;
  const some = event.control.overrides.some((row) => row.block && row.scope.startsWith("device/"));
  const { data, error } = usePoll(some ? ASKED : null, 5000, paused);
  const dropped = new Map(list(data?.items).map((row) => [row.device_id, row.blocked]));
  const overrides = event.control.overrides;
  const limited = overrides
    .filter((row) => row.scope.startsWith("device/") && (row.rate || row.burst))
    .filter((row) => (row.limits_until_ms ?? Infinity) > event.at_ms)
    .map((row) => ({ ...row, key: row.scope, id: idOf(row), ends: until(row.limits_until_ms, event.at_ms) }));
  return html`<${Table} caption="Blocks: of the whole system, and of one kernel filter"
      columns=${[...ofBlocks, unblocked(ask)]} rows=${blocks(event, dropped)} empty="No device is blocked." />
    <${Failure} error=${error} />
    <${Kernels} kernels=${filters(event)} />
    ${
      overrides.length >= MAX_ROWS &&
      html`<p><small>Only ${count(MAX_ROWS)} overrides, the newest of each kind: klais control status lists
        ${" "}all.</small></p>`
    }
    <div class="buttons"><button disabled=${!ask} onClick=${() => ask({})}>Block a source…</button>
      <${WhyNot} about=${about} /></div>
    <${Table} caption="Blocked sources" columns=${[...ofSources, unblocked(ask)]} rows=${sources(event)}
      empty="No source address is blocked. Block the address of a sender that invents device ids." />
    <${Table} caption="Devices with limits of their own" columns=${ofLimits} rows=${limited}
      empty="No device has limits of its own." />
    ${asked && html`<${Dialog} asked=${asked} about=${about} onClose=${() => setAsked(null)} />`}`;
}
