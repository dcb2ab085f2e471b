// About this worker, and the login.
import { html, useState } from "./lib.js";
import { Failure, Figure } from "./parts.js";
import { post } from "./api.js";
import { printable } from "./format.js";

const LINKS = [
  ["/devices/", "the devices, with filters and pages"],
  ["/anomalies/", "the devices that were flagged"],
  ["/incidents/", "incidents, and what is muted"],
  ["/dam/", "tokens and queues of the lanes"],
  ["/control/", "the rate in force, its reasons, and overrides"],
  ["/topics/", "topics, consumer groups and their lag"],
  ["/health", "what is wrong, if anything"],
  ["/api/v1/settings", "the settings in force and where each comes from, secrets masked"],
  ["/metrics", "metrics for Prometheus"],
  ["/openapi.json", "all of these and their parameters as an OpenAPI document"],
];

// A recording holds few of them, so there they are no links.
const Place = ({ path, about }) =>
  about?.read_only ? html`<code>${path}</code>` : html`<a href=${path}><code>${path}</code></a>`;

export function About({ about }) {
  return html`<dl class="figures"><${Figure} label="version" value=${about?.version ?? "–"} />
      <${Figure} label="this worker" value=${printable(about?.worker ?? "–")} />
      <${Figure} label="logged in" value=${about?.session ? printable(about.session.name) : "no"} /></dl>
    <h2>The same figures for programs</h2>
    <p>${about?.read_only ? "A worker answers with JSON at these addresses." : "This worker answers with JSON."}</p>
    <ul>${LINKS.map(([path, label]) => html`<li><${Place} path=${path} about=${about} />: ${label}</li>`)}</ul>
    <h2>Other workers</h2>
    ${
      about?.workers?.length
        ? html`<ul>${about.workers.map((url) => html`<li>${printable(url)}</li>`)}</ul>`
        : html`<p class="empty">None.</p>`
    }`;
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
