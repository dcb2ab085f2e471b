// Small parts of all pages.
import { html, useEffect, useLayoutEffect, useRef, useState } from "./lib.js";
import { toLogin } from "./hooks.js";
import { store } from "./store.js";
import { printable } from "./format.js";

const SHAPES = {
  ok: "●",
  warning: "▲",
  critical: "■",
  normal: "●",
  silent: "○",
  flagged: "▲",
  limited: "◆",
  blocked: "■",
};

// A state as a word with a shape: colour is never the only hint.
export const State = ({ value, text }) =>
  html`<span class=${`state ${value}`}><span
    aria-hidden="true">${SHAPES[value] ?? "●"}</span> ${text ?? value}</span>`;

export const DeviceLink = ({ id }) =>
  html`<a href=${`#/device/${encodeURIComponent(id)}`}><code>${printable(id)}</code></a>`;

// Scope of an override: a device, or the global rate.
export function Scope({ scope }) {
  if (scope.startsWith("device/")) return html`<${DeviceLink} id=${scope.slice("device/".length)} />`;
  return scope === "override" ? "the global rate" : html`<code>${printable(scope)}</code>`;
}

export function Figure({ label, value, note, state }) {
  return html`<div class=${`figure ${state ?? ""}`}>
    <dt>${label}</dt>
    <dd>${value}${note && html` <small>${note}</small>`}</dd>
  </div>`;
}

// Why the buttons for changes are disabled.
export const WhyNot = ({ about }) =>
  about &&
  !about.may_change &&
  html`<small>${
    about.read_only
      ? "Recorded figures: nothing can be changed."
      : html`<a href=${toLogin()}>Log in</a> to change something.`
  }</small>`;

export const Failure = ({ error }) => error && html`<p class="failure" role="alert">${printable(error.message)}</p>`;

// What a list of devices of all workers lacks.
export function Missing({ data }) {
  const lanes = data?.partitions_missing ?? [];
  const workers = data?.workers_missing ?? [];
  const named = (names) => names.slice(0, 8).map(printable).join(", ") + (names.length > 8 ? ", …" : "");
  return [
    workers.length > 0 && `These workers did not respond, their devices are missing here: ${named(workers)}`,
    lanes.length > 0 && `No live lane has these partitions, their devices are missing here: ${named(lanes)}`,
  ].map((text) => text && html`<p class="failure">${text}</p>`);
}

// The focus stays where it was when rows change places under it, and goes to the table when its row is gone.
function useKeptFocus() {
  const table = useRef(null);
  const had = table.current?.contains(document.activeElement) ? document.activeElement : null;
  useLayoutEffect(() => {
    if (!had || document.activeElement === had) return;
    (had.isConnected ? had : table.current).focus({ preventScroll: true });
  });
  return table;
}

// What an empty table says before there is an answer, or where there is none.
export const noRows = (data, error, text) => (data ? text : error ? "Unknown." : "Asking the workers…");

// rows of objects; columns: [{ key, label, cell(row), number, kind, sort }]; kind "short": never on two lines;
// a table with a column of kind "text" (sentences) shows each row as a card where the window is narrow
export function Table({ caption, columns, rows, sort, order, onSort, empty }) {
  const kind = columns.some((column) => column.kind === "text") ? "cards" : "";
  const table = useKeptFocus();
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${caption} ref=${table}>
    <table role="table" class=${kind}><caption><span>${caption}</span></caption><thead
      role="rowgroup"><tr role="row">${columns.map((column) => {
      const sorted = column.sort && sort === column.key;
      const aria = sorted ? (order === "asc" ? "ascending" : "descending") : undefined;
      return html`<th scope="col" role="columnheader" class=${column.number ? "n" : ""} aria-sort=${aria}>${
        column.sort && onSort
          ? html`<button class="sort" onClick=${() => onSort(column.key)}>${column.label}
            <span aria-hidden="true">${sorted ? (order === "asc" ? " ▲" : " ▼") : ""}</span></button>`
          : column.label
      }</th>`;
    })}</tr></thead>
    <tbody role="rowgroup">${
      rows.length
        ? rows.map(
            (row) =>
              html`<tr role="row" key=${row.key}>${columns.map((column, i) =>
                i === 0
                  ? html`<th scope="row" role="rowheader" data-label=${column.label}>${column.cell(row)}</th>`
                  : html`<td role="cell" data-label=${column.label}
                      class=${column.number ? "n" : (column.kind ?? "")}>${column.cell(row)}</td>`,
              )}</tr>`,
          )
        : html`<tr role="row"><td role="cell" colspan=${columns.length} class="empty">${
            empty ?? "Nothing here."
          }</td></tr>`
    }</tbody>
    </table></div>`;
}

const AUTHOR = "klais.author";
const ENDS = [
  ["600", "10 minutes"],
  ["3600", "1 hour"],
  ["86400", "1 day"],
  ["", "until it is removed"],
];

// A closed dialog gives the focus back to the button that opened it. If its row is gone by then, the table gets the
// focus, or the heading of the page.
function keepFocus(opener, place) {
  if (opener?.isConnected) return;
  (place?.isConnected ? place : document.querySelector("h1")).focus({ preventScroll: true });
}

// A form in a dialog that asks for a reason; `fields` are more inputs: numbers, or text with `pattern` and `title`;
// `send(values)` makes the change.
export function ChangeDialog({ title, explain, fields = [], ends = true, confirm, about, send, onClose }) {
  const dialog = useRef(null);
  // Defaults at the time when the dialog opened. With `value`, each refresh of the page would overwrite the operator's
  // input.
  const [first] = useState(() => Object.fromEntries(fields.map((field) => [field.name, field.value])));
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  useEffect(() => {
    const opener = document.activeElement;
    const place = opener?.closest("[role=region]");
    dialog.current.showModal();
    return () => keepFocus(opener, place);
  }, []);
  const named = about?.session?.name;

  async function submit(event) {
    event.preventDefault();
    const form = new FormData(event.target);
    const text = (name) => (form.get(name) ?? "").toString().trim();
    const body = { reason: text("reason") };
    if (!named) {
      body.author = text("author");
      localStorage.setItem(AUTHOR, body.author);
    }
    if (ends) body.for_s = text("for_s") === "" ? null : Number(text("for_s"));
    for (const { name, type } of fields)
      body[name] = type === "text" ? text(name) : text(name) === "" ? null : Number(text(name));
    setBusy(true);
    try {
      await send(body);
      store.showNext = true;
      dialog.current?.close();
    } catch (failure) {
      setError(failure);
    }
    setBusy(false);
  }

  return html`<dialog ref=${dialog} onClose=${onClose} aria-labelledby="dialog-title">
    <form onSubmit=${submit}><h2 id="dialog-title">${title}</h2>${explain && html`<p>${explain}</p>`}
      ${fields.map(
        (field) => html`<label>${field.label}<input name=${field.name} type=${field.type ?? "number"} step="any"
        min=${field.min} max=${field.max} required=${field.required} pattern=${field.pattern} title=${field.title}
        autocomplete="off" defaultValue=${first[field.name]} /></label>`,
      )}
      ${
        ends &&
        html`<label>For<select name="for_s">${ENDS.map(
          ([value, label]) => html`<option value=${value}>${label}</option>`,
        )}</select></label>`
      }
      <label>Reason<input name="reason" required maxlength="200" autocomplete="off" /></label>
      ${
        !named &&
        html`<label>Your name<input name="author" required maxlength="64"
        defaultValue=${localStorage.getItem(AUTHOR) ?? ""} /></label>`
      }
      <${Failure} error=${error} />
      <div class="buttons"><button type="submit" class="primary" disabled=${busy}>${confirm ?? title}</button>
        <button type="button" onClick=${() => dialog.current.close()}>Cancel</button></div>
    </form></dialog>`;
}
