// Hooks of this page.
import { useEffect, useRef, useState } from "./lib.js";
import { calmMs, store } from "./store.js";
import { get } from "./api.js";

// The live figures; renders again with each event.
export function useStore() {
  const [, draw] = useState(0);
  useEffect(() => store.subscribe(() => draw((n) => n + 1)), []);
  return store;
}

// A page of the JSON views, asked again every `periodMs` while it is visible; `held` stops that (an answer that comes
// meanwhile is not shown), `again()` asks now.
export function usePoll(path, periodMs, held = false) {
  const [state, setState] = useState({ data: null, error: null });
  const [turn, setTurn] = useState(0);
  const hold = useRef(held);
  hold.current = held;
  useEffect(() => {
    if (!path) return undefined;
    const abort = new AbortController();
    let timer = null;
    let first = true;
    const round = async () => {
      const shown = () => first || (!store.paused && !hold.current);
      if (shown() && (first || !document.hidden)) {
        try {
          const data = await get(path, abort.signal);
          if (shown()) setState({ data, error: null });
        } catch (error) {
          if (error.name === "AbortError") return;
          setState((before) => ({ data: before.data, error }));
        }
      }
      first = false;
      if (!abort.signal.aborted) timer = setTimeout(round, Math.max(periodMs, calmMs()));
    };
    round();
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, [path, periodMs, turn]);
  return { ...state, again: () => setTurn((n) => n + 1) };
}

// Rows in the order that the reader chose, as properties of a Table; of columns with `value(row)`. Unknown values are
// last in both orders; without a `key` they are in the order given until the reader chooses one.
export function useSort(rows, columns, key, order = "asc") {
  const [by, setBy] = useState({ key, order });
  const column = columns.find((each) => each.sort && each.key === by.key);
  const sign = by.order === "asc" ? 1 : -1;
  const known = (value) => value !== null && value !== undefined;
  const compare = (a, b) => {
    if (!known(a) || !known(b)) return known(b) - known(a);
    return sign * (typeof a === "string" ? a.localeCompare(b) : a - b);
  };
  const onSort = (next) => {
    const first = columns.find((each) => each.key === next).number ? "desc" : "asc";
    setBy(next === by.key ? { key: next, order: by.order === "asc" ? "desc" : "asc" } : { key: next, order: first });
  };
  const sorted = !column ? rows : [...rows].sort((a, b) => compare(column.value(a), column.value(b)));
  return { rows: sorted, sort: by.key, order: by.order, onSort };
}

// The address behind the #: { page, id, query, go(query) }.
export function parseRoute() {
  const [path, search] = (location.hash.slice(1) || "/overview").split("?");
  const [, page, ...rest] = path.split("/");
  let id = rest.join("/");
  try {
    id = decodeURIComponent(id);
  } catch {
    /* shown unchanged */
  }
  return { page: page || "overview", id, query: Object.fromEntries(new URLSearchParams(search ?? "")) };
}

export function go(page, query = {}) {
  const kept = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const search = new URLSearchParams(kept).toString();
  location.hash = `/${page}${search ? "?" + search : ""}`;
}

// The login, which leads back to this page.
export const toLogin = () =>
  location.hash.startsWith("#/login")
    ? location.hash
    : `#/login?to=${encodeURIComponent(location.hash.slice(1) || "/overview")}`;

export function useRoute() {
  const [route, setRoute] = useState(parseRoute());
  useEffect(() => {
    const changed = () => setRoute(parseRoute());
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return route;
}
