// Block or unblock all devices that a table lists.
import { html, useState } from "./lib.js";
import { ChangeDialog, WhyNot } from "./parts.js";
import { post } from "./api.js";
import { counted, printable } from "./format.js";

const NAMED = 5; // devices that a dialog names
const MANY = 100; // from here on, the number has to be typed

const devices = (ids) => counted(ids.length, "device", "devices");

function names(ids) {
  const more = ids.length > NAMED ? ` and ${ids.length - NAMED} more` : "";
  return ids.slice(0, NAMED).map(printable).join(", ") + more;
}

const typed = (ids) => ({
  name: "count",
  label: `The number of devices, ${ids.length}, to confirm`,
  min: ids.length,
  max: ids.length,
  required: true,
});

function Dialog({ asked, about, say, onClose }) {
  const { verb, ids } = asked;
  const send = async ({ count: _, ...body }) => {
    await post(`/api/v1/devices:${verb.toLowerCase()}`, { ...body, device_ids: ids });
    say(`${verb}ed ${devices(ids)}.`);
  };
  return html`<${ChangeDialog} about=${about} onClose=${onClose} ends=${verb === "Block"} confirm=${verb}
    title=${`${verb} ${devices(ids)}`} explain=${`${names(ids)}.`} fields=${ids.length > MANY ? [typed(ids)] : []}
    send=${send} />`;
}

// `rows`: those listed when a button is pressed; later ones are not meant. `say` tells what was done.
export function Bulk({ about, rows, say, onDone }) {
  const [asked, setAsked] = useState(null);
  const can = about?.may_change;
  const ask = (verb) => {
    const ids = rows.filter((row) => (row.state === "blocked") === (verb === "Unblock")).map((row) => row.device_id);
    if (ids.length) setAsked({ verb, ids });
    else say(verb === "Block" ? "All listed devices are blocked." : "None of the listed devices is blocked.");
  };
  return html`<div class="buttons"><button type="button" disabled=${!can}
      onClick=${() => ask("Block")}>Block all listed…</button>
    <button type="button" disabled=${!can} onClick=${() => ask("Unblock")}>Unblock all listed…</button>
    <${WhyNot} about=${about} /></div>
    ${asked && html`<${Dialog} asked=${asked} about=${about} say=${say} onClose=${() => {
      setAsked(null);
      onDone();
    }} />`}`;
}
