// Requests to this server. Every error has a readable text.

export class ApiError extends Error {
  constructor(status, code, text, details) {
    super(text);
    this.status = status;
    this.code = code;
    this.details = details;
  }
}

async function ask(method, path, body, signal) {
  let answer;
  try {
    answer = await fetch(path, {
      method,
      signal,
      credentials: "same-origin",
      cache: "no-store",
      headers: body === undefined ? { Accept: "application/json" } : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "no_answer", "the worker does not answer", {});
  }
  const found = await answer.json().catch(() => null);
  if (answer.ok) return found;
  throw new ApiError(answer.status, found?.code ?? "error", found?.error ?? `HTTP ${answer.status}`, found?.details);
}

export const get = (path, signal) => ask("GET", path, undefined, signal);
export const put = (path, body) => ask("PUT", path, body);
export const post = (path, body) => ask("POST", path, body);
export const remove = (path, body) => ask("DELETE", path, body);
export const ofSource = (prefix) => `/api/v1/sources/${encodeURIComponent(prefix)}/block`;
export const ofDevice = (id, what) => `/api/v1/devices/${encodeURIComponent(id)}/${what}`;
