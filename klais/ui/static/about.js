// About this worker, and the login.
import { html, useState } from "./lib.js";
import { usePoll } from "./hooks.js";
import { Failure, Figure, noRows, Table } from "./parts.js";
import { post } from "./api.js";
import { printable } from "./format.js";

const LINKS = [
  ["/devices/", "the devices, with filters and pages"],
  ["/anomalies/", "the devices that were flagged"],
  ["/incidents/", "incidents, and what is muted"],
  ["/dam/", "tokens and queues of the lanes"],
  ["/control/", "the rate in force, its reasons, and overrides"],
  ["/topics/", "topics, consumer groups and their lag"],
  ["/health", "problems, if there are any"],
  ["/api/v1/settings", "the settings in force with their sources, secrets masked"],
  ["/metrics", "metrics for Prometheus"],
  ["/openapi.json", "all of these and their parameters as an OpenAPI document"],
];

// A recording has only a few of them, so they are not links.
const Place = ({ path, about }) =>
  about?.read_only ? html`<code>${path}</code>` : html`<a href=${path}><code>${path}</code></a>`;

const value = (text) => html`<code>${printable(text ?? "not set")}</code>`;
const SOURCES = new Map([
  ["env", "the environment"],
  ["flag", "an option"],
]);
const OF_SETTINGS = [
  { label: "setting", cell: (row) => html`<code>${row.name}</code>` },
  { label: "value", cell: (row) => value(row.value) },
  { label: "default", cell: (row) => value(row.default) },
  { label: "from", kind: "text", cell: (row) => printable(row.place || (SOURCES.get(row.source) ?? row.source)) },
];

// The settings that were given; those with their defaults are in the JSON.
function Settings({ paused }) {
  const { data, error } = usePoll("/api/v1/settings", 10000, paused);
  const given = (data?.settings ?? []).filter((row) => row.source !== "default");
  return html`<${Failure} error=${error} />
    <${Table} caption="Settings of this worker that are given; the others have their defaults" columns=${OF_SETTINGS}
      rows=${given.map((row) => ({ ...row, key: row.name }))} empty=${noRows(data, error, "None.")} />`;
}

export function About({ about, paused }) {
  return html`<dl class="figures"><${Figure} label="version" value=${about?.version ?? "–"} />
      <${Figure} label="this worker" value=${printable(about?.worker ?? "–")} />
      <${Figure} label="logged in" value=${about?.session ? printable(about.session.name) : "no"} /></dl>
    <h2>The same figures for programs</h2>
    <p>${about?.read_only ? "A worker answers with JSON at these addresses." : "This worker answers with JSON."}</p>
    <ul>${LINKS.map(([path, label]) => html`<li><${Place} path=${path} about=${about} />: ${label}</li>`)}</ul>
    ${
      about?.grafana &&
      html`<h2>Dashboards</h2>
        <p><a href=${about.grafana} rel="noreferrer">Grafana</a> at <code>${printable(about.grafana)}</code></p>`
    }
    <h2>Other workers</h2>
    ${
      about?.workers?.length
        ? html`<ul>${about.workers.map((url) => html`<li>${printable(url)}</li>`)}</ul>`
        : html`<p class="empty">None.</p>`
    }
    ${about && !about.read_only && html`<${Settings} paused=${paused} />`}`;
}

export function Login({ about, query, onChange }) {
  const [error, setError] = useState(null);
  async function submit(event) {
    event.preventDefault();
    const form = new FormData(event.target);
    try {
      await post("/ui/login", { token: form.get("token"), name: form.get("name") });
      setError(null);
      onChange();
      location.hash = query.to ?? "/overview";
    } catch (failure) {
      setError(failure);
    }
  }
  async function leave() {
    await post("/ui/logout", {});
    onChange();
  }
  if (about?.session) {
    return html`<p>You are logged in as ${printable(about.session.name)}.</p><button
      onClick=${leave}>Log out</button>`;
  }
  return html`<form class="login" onSubmit=${submit}>
    <p>Changes need the token of this system: the value of KLAIS_API_TOKEN, or the file api.token in the state folder of
      the worker. Your name is shown with every change that you make.</p>
    <label>Your name <input name="name" required maxlength="64" autocomplete="username" /></label>
    <label>Token <input name="token" type="password" required autocomplete="current-password" /></label>
    <${Failure} error=${error} /><button type="submit" class="primary">Log in</button></form>`;
}
