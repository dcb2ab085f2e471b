// The frame of all pages: navigation, theme, pause, connection.
import { html, render, useEffect, useRef, useState } from "./lib.js";
import { useRoute, useStore } from "./hooks.js";
import { store } from "./store.js";
import { get } from "./api.js";
import { printable } from "./format.js";
import { Overview } from "./overview.js";
import { Devices } from "./devices.js";
import { Device } from "./device.js";
import { Control } from "./control.js";
import { Anomalies } from "./anomalies.js";
import { Incidents } from "./incidents.js";
import { Topics } from "./topics.js";
import { Edges } from "./edges.js";
import { Audit } from "./audit.js";
import { About, Login } from "./about.js";

const PAGES = {
  overview: ["Overview", Overview],
  devices: ["Devices", Devices],
  control: ["Control and dam", Control],
  anomalies: ["Anomalies", Anomalies],
  incidents: ["Incidents", Incidents],
  topics: ["Topics and lag", Topics],
  edges: ["Edges and XDP", Edges],
  audit: ["Changes", Audit],
  about: ["About", About],
};
const THEME = "klais.theme";

const Missing = () => html`<p class="empty" role="alert">There is no such page here. The pages stand at the top.</p>`;

function useAbout() {
  const [about, setAbout] = useState(null);
  const load = () => get("/api/v1/about").then(setAbout, () => setAbout({ login_needed: true, may_change: false }));
  useEffect(() => {
    load();
  }, []);
  return [about, load];
}

function useTheme() {
  const [theme, setTheme] = useState(localStorage.getItem(THEME) ?? "auto");
  useEffect(() => {
    if (theme === "auto") document.documentElement.removeAttribute("data-theme");
    else document.documentElement.dataset.theme = theme;
    localStorage.setItem(THEME, theme);
  }, [theme]);
  return [theme, setTheme];
}

function App() {
  const live = useStore();
  const route = useRoute();
  const [about, reload] = useAbout();
  const [theme, setTheme] = useTheme();
  const [paused, setPaused] = useState(false);
  const heading = useRef(null);
  const first = useRef(true);
  const isDevice = route.page === "device";
  const isLogin = route.page === "login";
  const [title, Body] = isDevice
    ? [`Device ${printable(route.id)}`, Device]
    : isLogin
      ? ["Log in", Login]
      : (PAGES[route.page] ?? [`No page ${printable(route.page)}`, Missing]);

  useEffect(() => {
    document.title = `${title} · KLAIS`;
    if (!first.current) heading.current?.focus();
    first.current = false;
  }, [title]);
  const status = live.connected ? (live.now?.status ?? "waiting") : "lost";
  const pause = () => {
    store.paused = !paused;
    setPaused(!paused);
  };

  return html`<header><a class="brand" href="#/overview">KLAIS</a>
      <nav aria-label="Pages">${Object.entries(PAGES).map(
        ([name, [label]]) => html`<a href=${`#/${name}`}
        aria-current=${name === route.page || (isDevice && name === "devices") ? "page" : undefined}>${label}</a>`,
      )}</nav>
      <div class="tools"><button aria-pressed=${paused} onClick=${pause}>${paused ? "Go on" : "Pause"}</button>
        <label>Theme <select value=${theme} onChange=${(e) => setTheme(e.target.value)}>
          <option value="auto">auto</option><option value="light">light</option><option
            value="dark">dark</option>
        </select></label>
        ${
          about?.session
            ? html`<a href="#/login">${printable(about.session.name)}</a>`
            : about?.login_needed && html`<a href="#/login">Log in</a>`
        }</div></header>
    <p class="hidden" role="status">${`Status: ${status}`}</p>
    ${
      !live.connected &&
      html`<p class="banner" role="alert">No connection to the worker: these are the figures of
      ${live.now ? ` ${new Date(live.now.at_ms).toLocaleTimeString("en-GB")}` : " no time yet"}.
      The page tries again by itself.</p>`
    }
    ${live.error && live.error.status === 401 && html`<p class="banner">Reading needs a token: <a
      href="#/login">log in</a>.</p>`}
    <main id="main"><h1 tabindex="-1" ref=${heading}>${title}</h1>
      <${Body} key=${isDevice ? route.id : route.page} store=${live} query=${route.query} id=${route.id}
        about=${about}
        paused=${paused} theme=${theme} onChange=${reload} /></main>`;
}

store.start();
render(html`<${App} />`, document.getElementById("app"));
