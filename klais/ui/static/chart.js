// A chart of series over time: uPlot, with a text summary and the figures as a table.
import { html, useEffect, useRef, useState } from "./lib.js";
import uPlot from "./vendor/uplot.js";
import { clock, hourAndMinute, short } from "./format.js";

const HEIGHT = 150;
const HOLE_MS = 5000; // samples further apart are not joined by a line, because the values between them are unknown
const EMPTY_S = 60;
const TICKS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];
const DAY_S = 86400; // without samples, uPlot's own range is before that

// A canvas does not know light-dark(): an element resolves the token.
export function color(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(${name})`;
  // The lines keep their colours where others are forced, as their keys do.
  if (!["--quiet", "--line"].includes(name)) probe.style.forcedColorAdjust = "none";
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function lastMinute(high) {
  const end = high > DAY_S ? high : Date.now() / 1000;
  return [end - EMPTY_S, end];
}

const times = (_, ticks, __, ___, stepS) => ticks.map((at) => (stepS < 60 ? clock(at * 1000) : hourAndMinute(at)));

const fitted = (low, high) => {
  const room = 0.1 * (high - low) || Math.abs(0.1 * high) || 1;
  return low === null ? [0, 1] : [low - room, high + room];
};

function options(width, lines, show, fit) {
  const axis = { stroke: color("--quiet"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false } };
  return {
    width,
    height: HEIGHT,
    legend: { show: false },
    cursor: { drag: { x: false, y: false } },
    scales: {
      x: { time: true, range: (_, low, high) => (low > DAY_S && high > low ? [low, high] : lastMinute(high)) },
      y: {
        range: (_, low, high) => (fit ? fitted(low, high) : [Math.min(0, low ?? 0), high > 0 ? high * 1.1 : 1]),
      },
    },
    axes: [
      { ...axis, size: 30, space: 70, incrs: TICKS_S, values: times },
      { ...axis, size: 66, values: (_, ticks) => ticks.map(show) },
    ],
    series: [
      {},
      ...lines.map((line, i) => ({
        label: line.label,
        stroke: color(line.color ?? `--series-${i + 1}`),
        width: 1.5,
        dash: line.dash ? [5, 4] : undefined,
        points: { show: fit, size: 4 },
      })),
    ],
  };
}

const least = (values) => values.reduce((a, b) => Math.min(a, b));
const most = (values) => values.reduce((a, b) => Math.max(a, b));

function summary(lines, columns, show, fit) {
  return lines
    .map((line, i) => {
      const values = columns[i].filter((value) => value !== null);
      if (!values.length) return `${line.label}: no figures yet`;
      if (fit) return `${line.label}: now ${show(values.at(-1))}, from ${show(least(values))} to ${show(most(values))}`;
      const top = Math.max(0, most(values));
      const now = columns[i].at(-1);
      return `${line.label}: now ${now === null ? "unknown" : show(now)}, at most ${show(top)}`;
    })
    .join("; ");
}

// The columns of uPlot, with a null between samples that are far apart.
function broken(at, columns, holeMs) {
  const out = [[], ...columns.map(() => [])];
  at.forEach((atMs, i) => {
    if (i > 0 && atMs - at[i - 1] > holeMs) {
      out[0].push((at[i - 1] + 1) / 1000);
      for (let k = 0; k < columns.length; k += 1) out[k + 1].push(null);
    }
    out[0].push(atMs / 1000);
    columns.forEach((column, k) => out[k + 1].push(column[i] ?? null));
  });
  return out;
}

// lines: [{ name | values, label, color, dash }]; history: columns with at_ms. `fit`: single measurements, however far
// apart, in the range of their values; else a series per second, from 0.
export function Chart({ title, lines, history, show = short, theme, fit = false }) {
  const holder = useRef(null);
  const plot = useRef(null);
  const [table, setTable] = useState(false);
  const at = history.at_ms ?? [];
  const columns = lines.map((line) => line.values ?? history[line.name] ?? at.map(() => null));
  const labels = lines.map((line) => line.label).join("|");

  useEffect(() => {
    const node = holder.current;
    const width = () => Math.max(200, node.clientWidth);
    plot.current = new uPlot(options(width(), lines, show, fit), [[], ...lines.map(() => [])], node);
    const watch = new ResizeObserver(() => plot.current?.setSize({ width: width(), height: HEIGHT }));
    watch.observe(node);
    return () => {
      watch.disconnect();
      plot.current.destroy();
      plot.current = null;
    };
  }, [labels, theme]);

  useEffect(() => {
    plot.current?.setData(broken(at, columns, fit ? Infinity : HOLE_MS));
  });

  return html`<figure class="chart">
    <figcaption><b>${title}</b> ${lines.map(
      (line, i) => html`<span class="key">
      <i class=${`swatch ${(line.color ?? `--series-${i + 1}`).slice(2)}`}
        aria-hidden="true"></i>${line.label}</span>`,
    )}
      <button class="link" aria-expanded=${table} onClick=${() => setTable(!table)}>as table</button></figcaption>
    <div ref=${holder} role="img" aria-label=${`${title}. ${summary(lines, columns, show, fit)}`}></div>
    ${
      table &&
      html`<div class="scroll" tabindex="0"><table><caption class="hidden">${title}</caption>
      <thead><tr><th scope="col">time</th>${lines.map((line) => html`<th
        scope="col">${line.label}</th>`)}</tr></thead>
      <tbody>${at
        .map((t, i) => i)
        .slice(-15)
        .reverse()
        .map(
          (i) => html`<tr><th scope="row">${clock(at[i])}</th>
        ${columns.map((column) => html`<td class="n">${column[i] === null ? "–" : show(column[i])}</td>`)}</tr>`,
        )}
      </tbody></table></div>`
    }
  </figure>`;
}
