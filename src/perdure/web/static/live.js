// Live views: shows what an actor's live method returns, again after every change.
//
//   import { live } from "/-/live.js";
//   const stop = live("/cart/alice/view", (view) => draw(view), { onError, onState });
//
// path     of a live method, or of an actor for its live fields; arguments as its query
// onValue  gets the whole value, after each change; what it got before is never altered
// onError  gets the problem document when the view ends for good; without it, it is logged
// onState  gets "connecting", "open" or "closed"
//
// A connection that is lost is made anew, after a growing wait, and goes on where it was.

const WAIT_MS = 500;
const WAIT_MAX_MS = 15_000;

/** Follow a live view; returns a function that stops it. */
export function live(path, onValue, { onError = console.error, onState = () => {} } = {}) {
  let source = null, timer = 0, failures = 0, value, token = "", state = "", stopped = false;

  function tell(next) {
    if (next !== state) onState((state = next));
  }

  function address() {
    const url = new URL(path, document.baseURI);
    url.pathname = url.pathname.replace(/\/$/, "") + "/live";
    if (token) url.searchParams.set("last_event_id", token);
    return url;
  }

  function connect() {
    tell("connecting");
    source = new EventSource(address());
    source.onopen = () => { failures = 0; tell("open"); };
    source.addEventListener("snapshot", (event) => take(event, JSON.parse(event.data)));
    source.addEventListener("patch", (event) => take(event, merged(value, JSON.parse(event.data))));
    // The server's last word, or, without data, a connection that broke or was refused.
    source.addEventListener("error", (event) => event.data ? fail(JSON.parse(event.data)) : again());
  }

  function take(event, next) {
    token = event.lastEventId;
    onValue((value = next));
  }

  function again() {
    tell("connecting");
    source.close();
    const wait = Math.min(WAIT_MAX_MS, WAIT_MS * 2 ** failures++) * (0.5 + Math.random());
    timer = setTimeout(failures > 1 ? ask : connect, wait);
  }

  // An EventSource does not say why it was refused, so a plain request asks.
  async function ask() {
    const aborter = new AbortController();
    try {
      const reply = await fetch(address(), { signal: aborter.signal });
      if (reply.status >= 400 && reply.status < 500) {
        const problem = await reply.json().catch(() => ({ status: reply.status }));
        return stopped || fail(problem);
      }
    } catch { /* nobody is there */ } finally {
      aborter.abort();
    }
    if (!stopped) connect();
  }

  function fail(problem) {
    if (problem.status === 503) return again();
    stop();
    onError(problem);
  }

  function stop() {
    stopped = true;
    clearTimeout(timer);
    source.close();
    tell("closed");
  }

  connect();
  return stop;
}

/** JSON Merge Patch (RFC 7396), into a new value. */
export function merged(value, patch) {
  if (!isObject(patch)) return patch;
  const result = isObject(value) ? { ...value } : {};
  for (const [name, change] of Object.entries(patch)) {
    if (change === null) delete result[name];
    else define(result, name, merged(result[name], change));
  }
  return result;
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

// An assignment to a member called __proto__ would change what the object inherits from.
function define(object, name, value) {
  Object.defineProperty(object, name, {
    value, writable: true, enumerable: true, configurable: true,
  });
}
