// The client of POST /solve: sends the question, reads the server-sent events. Nothing here touches the page.

/** Raised with what the service said: message, and the HTTP status. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const KEY = "rft-key";
let inMemory = "";

export function key() {
  try { return sessionStorage.getItem(KEY) || inMemory; } catch { return inMemory; }
}

export function keep(value) {
  inMemory = value;
  try { value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY); } catch { /* storage is off */ }
}

function headers() {
  return { "Content-Type": "application/json", ...(key() ? { Authorization: `Bearer ${key()}` } : {}) };
}

async function checked(response) {
  if (response.ok) return response;
  let message = `the service answered ${response.status}`;
  try { message = (await response.json()).error.message || message; } catch { /* no JSON: the status must do */ }
  throw new Refused(response.status, message);
}

export async function models() {
  const response = await checked(await fetch("/v1/models", { headers: headers() }));
  return (await response.json()).data;
}

export async function lineage(id) {
  const path = id.split("/").map(encodeURIComponent).join("/");
  return (await checked(await fetch(`/v1/models/${path}`, { headers: headers() }))).json();
}

/** Yields [event, data] until the stream ends. Aborting the signal closes it, which frees the engine. */
export async function* solve(body, signal) {
  const sent = JSON.stringify({ ...body, stream: true, deltas: true });
  const response = await checked(await fetch("/solve", { method: "POST", headers: headers(), body: sent, signal }));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (waiting + value).split("\n\n");
    waiting = blocks.pop();
    for (const block of blocks) {
      const [event, data] = block.split("\ndata: ");
      yield [event.replace("event: ", ""), JSON.parse(data)];
    }
  }
}
