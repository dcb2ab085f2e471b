// The numbers in the payloads of a device since its page was opened: a worker keeps no values.
import { html, useRef, useState } from "./lib.js";
import { Chart } from "./chart.js";
import { printable } from "./format.js";

const KEPT = 300;
const MAX_FIELDS = 50;
const MAX_DEPTH = 4;

// The numbers of a payload by the path of their field, as [[path, number], ...]; none for a cut or malformed one.
export function numbers(payload) {
  const found = [];
  const visit = (value, path) => {
    if (found.length >= MAX_FIELDS || path.length > MAX_DEPTH) return;
    if (Number.isFinite(value) && path.length) found.push([path.join("."), value]);
    else if (value && typeof value === "object" && !Array.isArray(value))
      for (const [name, part] of Object.entries(value)) visit(part, [...path, name]);
  };
  try {
    visit(JSON.parse(payload), []);
  } catch {
    return [];
  }
  return found;
}

// Frames of all answers, oldest first; one that comes twice is kept once.
function useFrames(frames) {
  const kept = useRef(new Map());
  for (const frame of frames) {
    const key = `${frame.ts} ${frame.seq}`;
    if (kept.current.has(key)) continue;
    kept.current.set(key, { at: frame.ts, values: new Map(numbers(String(frame.payload))) });
  }
  const extra = kept.current.size - KEPT;
  for (const key of [...kept.current.keys()].slice(0, Math.max(0, extra))) kept.current.delete(key);
  return [...kept.current.values()].sort((a, b) => a.at - b.at);
}

export function Values({ frames, theme }) {
  const rows = useFrames(frames);
  const [chosen, choose] = useState(null);
  const fields = [...new Set(rows.flatMap((row) => [...row.values.keys()]))].slice(0, MAX_FIELDS);
  if (!fields.length) return null;
  const field = fields.includes(chosen) ? chosen : fields[0];
  const having = rows.filter((row) => row.values.has(field));
  const history = { at_ms: having.map((row) => row.at), value: having.map((row) => row.values.get(field)) };
  return html`<label>Values of <select value=${field} onChange=${(e) => choose(e.target.value)}>
      ${fields.map((each) => html`<option value=${each}>${printable(each)}</option>`)}</select></label>
    <div class="charts"><${Chart} title=${`${printable(field)}, since this page was opened`} theme=${theme}
      history=${history} lines=${[{ name: "value", label: "value" }]} fit /></div>`;
}
