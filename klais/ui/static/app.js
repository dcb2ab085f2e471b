// The frame of all pages: navigation, theme, pause, connection.
import { html, render, useEffect, useRef, useState } from "./lib.js";
import { toLogin, useRoute, useStore } from "./hooks.js";
import { store } from "./store.js";
import { get } from "./api.js";
import { clock, printable } from "./format.js";
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

const Missing = () => html`<p class="empty" role="alert">There is no such page. The pages are at the top.</p>`;

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

// What a canvas has to be drawn again for: it does not know the colours of the page by itself.
const LOOKS = ["(prefers-color-scheme: dark)", "(forced-colors: active)"].map((query) => matchMedia(query));

function useLook(theme) {
  const [, changed] = useState(0);
  useEffect(() => {
    const draw = () => changed((n) => n + 1);
    for (const look of LOOKS) look.addEventListener("change", draw);
    return () => LOOKS.forEach((look) => look.removeEventListener("change", draw));
  }, []);
  return [theme, ...LOOKS.map((look) => look.matches)].join(" ");
}

function Banner({ live }) {
  if (live.error?.status === 401)
    return html`<p class="banner" role="alert">Reading needs a token: <a href=${toLogin()}>log in</a>.</p>`;
  if (live.connected) return null;
  const refused = live.error?.status && ` (${printable(live.error.message)})`;
  return html`<p class="banner" role="alert">No connection to the worker${refused}: ${
    live.now ? `these are the figures of ${clock(live.now.at_ms)}` : "there are no figures yet"
  }. The page retries automatically.</p>`;
}

function App() {
  const live = useStore();
  const route = useRoute();
  const [about, reload] = useAbout();
  const [theme, setTheme] = useTheme();
  const look = useLook(theme);
  const [paused, setPaused] = useState(false);
  const heading = useRef(null);
  const first = useRef(true);
  const isDevice = route.page === "device" && route.id !== "";
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
  useEffect(() => {
    // A jump to #main would leave the page: the part after the # is the route.
    const skip = (event) => {
      event.preventDefault();
      heading.current?.focus();
    };
    const link = document.querySelector(".skip");
    link.addEventListener("click", skip);
    return () => link.removeEventListener("click", skip);
  }, []);
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
      <div class="tools"><button aria-pressed=${paused} onClick=${pause}>${paused ? "Resume" : "Pause"}</button>
        <label>Theme <select value=${theme} onChange=${(e) => setTheme(e.target.value)}>
          <option value="auto">auto</option><option value="light">light</option><option
            value="dark">dark</option>
        </select></label>
        ${
          about?.session
            ? html`<a href="#/login">${printable(about.session.name)}</a>`
            : about?.login_needed && html`<a href=${toLogin()}>Log in</a>`
        }</div></header>
    <p class="hidden" role="status">${`Status: ${status}`}</p>
    <${Banner} live=${live} />
    <main id="main"><h1 tabindex="-1" ref=${heading}>${title}</h1>
      <${Body} key=${isDevice ? route.id : route.page} store=${live} query=${route.query} id=${route.id}
        about=${about}
        paused=${paused} theme=${look} onChange=${reload} /></main>`;
}

store.start();
render(html`<${App} />`, document.getElementById("app"));
