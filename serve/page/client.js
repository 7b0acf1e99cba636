// The client of the service: the API key, the models, and POST /solve with its server-sent events.

/** Thrown for an answer with an error: the service's message, and the HTTP status. */
export class ServiceError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const KEY = "rft-key";
let keyInMemory = "";

export function storedKey() {
  try { return sessionStorage.getItem(KEY) || keyInMemory; } catch { return keyInMemory; }
}

export function storeKey(value) {
  keyInMemory = value;
  try { value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY); } catch { /* the browser allows no storage: the key lasts until the page is reloaded */ }
}

function headers() {
  return { "Content-Type": "application/json", ...(storedKey() ? { Authorization: `Bearer ${storedKey()}` } : {}) };
}

async function okOrThrow(response) {
  if (response.ok) return response;
  let message = `the service answered ${response.status}`;
  try { message = (await response.json()).error.message || message; } catch { /* the body is not JSON: the message has the status only */ }
  throw new ServiceError(response.status, message);
}

/** The list of models (`data`), and whether their engines share CPUs (`shared_cpus`). */
export async function servedModels() {
  return (await okOrThrow(await fetch("/v1/models", { headers: headers() }))).json();
}

export async function modelDetails(id) {
  const path = id.split("/").map(encodeURIComponent).join("/");
  return (await okOrThrow(await fetch(`/v1/models/${path}`, { headers: headers() }))).json();
}

/** Yields [event, data] until the stream ends. Aborting the signal closes it, which cancels the samples in the engine. */
export async function* solve(body, signal) {
  const content = JSON.stringify({ ...body, stream: true, deltas: true });
  const response = await okOrThrow(await fetch("/solve", { method: "POST", headers: headers(), body: content, signal }));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let incomplete = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (incomplete + value).split("\n\n");
    incomplete = blocks.pop();
    for (const block of blocks) {
      const [event, data] = block.split("\ndata: ");
      yield [event.replace("event: ", ""), JSON.parse(data)];
    }
  }
}
