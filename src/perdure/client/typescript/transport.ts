interface ServerCall {
  readonly method: string;
  readonly path: string;
  readonly query: Readonly<Record<string, unknown>>;
  readonly body: string | undefined;
  readonly idempotencyKey: string | undefined;
  readonly isRead: boolean;
}

/** Why an attempt gave no result. */
interface FailedAttempt {
  readonly problem: ProblemDocument;
  /** Another attempt may have a result. */
  readonly mayPass: boolean;
  readonly wasSent: boolean;
  readonly mayBeDone: boolean;
  readonly retryAfterMs: number;
}

const PROBLEM_TYPE = "urn:perdure:problem:";
const ATTEMPT_MS = 35_000; // a little more than a server takes until it gives a call up by itself
const SILENCE_MS = 60_000; // a live view gives a sign of life every 15 seconds
const PAUSE_MS = 100; // doubled with each attempt
const PAUSE_MAX_MS = 2_000;
const LIVE_PAUSE_MS = 250;
const LIVE_PAUSE_MAX_MS = 15_000;
const EVENT_CHARACTERS_MAX = 64 << 20;
// what Node.js says of a connection that was never made; browsers do not tell
const NOT_SENT = new Set(["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "UND_ERR_CONNECT_TIMEOUT"]);

class Transport {
  private readonly _url: string;
  private readonly _headers: Record<string, string>;
  private readonly _timeoutMs: number;
  private readonly _attemptsMax: number;
  private readonly _fetch: typeof fetch;

  constructor(url: string, options: ClientOptions) {
    if (!/^https?:\/\/[^/@]+(\/|$)/.test(url) && (url !== "" || typeof location === "undefined")) {
      throw new TypeError("that is no server's address; write it like http://localhost:8000");
    }
    this._url = url.replace(/\/+$/, "");
    this._headers = { ...options.headers };
    if (options.token !== undefined) this._headers["Authorization"] = `Bearer ${options.token}`;
    this._timeoutMs = options.timeoutMs ?? 60_000;
    this._attemptsMax = options.attemptsMax ?? 10;
    if (!(this._timeoutMs > 0) || !(this._attemptsMax >= 1)) {
      throw new RangeError("timeoutMs must be above zero, and attemptsMax at least 1");
    }
    const given = options.fetch ?? fetch;
    this._fetch = (...told) => given(...told); // a browser's own wants to be called as a function
  }

  // -- calls --------------------------------------------------------------------------------------

  async call(call: ServerCall): Promise<unknown> {
    const endMs = performance.now() + this._timeoutMs;
    const mayBeRepeated =
      call.isRead ||
      call.idempotencyKey !== undefined ||
      ["GET", "PUT", "DELETE"].includes(call.method);
    let mayBeDone = false;
    for (let attempt = 1; ; attempt++) {
      const outcome = await this._attempt(call, endMs);
      if ("text" in outcome) return read(outcome.text);
      const pauseMs = pauseBefore(attempt, outcome.retryAfterMs);
      const isUnsafe = outcome.wasSent && !mayBeRepeated;
      const isLate = performance.now() + pauseMs >= endMs;
      if (!outcome.mayPass) throw errorOf(outcome.problem);
      if (isUnsafe || isLate || attempt >= this._attemptsMax) {
        const inDoubt = mayBeDone && !call.isRead;
        throw errorOf((inDoubt ? unanswered(outcome.problem.detail) : outcome).problem);
      }
      mayBeDone ||= outcome.mayBeDone;
      await sleep(pauseMs);
    }
  }

  private async _attempt(
    call: ServerCall,
    endMs: number,
  ): Promise<FailedAttempt | { readonly text: string }> {
    const headers: Record<string, string> = { ...this._headers };
    if (call.idempotencyKey !== undefined) headers["Idempotency-Key"] = call.idempotencyKey;
    if (call.body !== undefined) headers["Content-Type"] = "application/json";
    const leftMs = endMs - performance.now();
    const controller = new AbortController();
    const timer = setTimeout(() => controller.abort(), Math.max(0, Math.min(ATTEMPT_MS, leftMs)));
    try {
      const response = await this._fetch(this._address(call.path, call.query), {
        method: call.method,
        headers,
        body: call.body ?? null,
        redirect: "manual",
        signal: controller.signal,
      });
      const text = await response.text();
      return response.ok ? { text } : failureOf(response, text);
    } catch (error) {
      if (controller.signal.aborted && leftMs <= ATTEMPT_MS) {
        const detail = `no answer within ${this._timeoutMs} ms`;
        return { ...failed(localProblem(504, "deadline", "Deadline passed", detail)) };
      }
      const code = codeOf(error);
      if (!NOT_SENT.has(code)) return unanswered(String(error));
      const detail = `${this._url} cannot be reached: ${code}`;
      const problem = localProblem(503, "unreachable", "Try again later", detail);
      return { ...failed(problem), mayPass: true, wasSent: false, mayBeDone: false };
    } finally {
      clearTimeout(timer);
    }
  }

  private _address(path: string, query: Readonly<Record<string, unknown>>): string {
    const parameters = new URLSearchParams();
    for (const [name, value] of Object.entries(query)) {
      if (value !== undefined) parameters.set(name, queryText(value));
    }
    const text = parameters.toString();
    return this._url + path + (text && `?${text}`);
  }

  // -- live views ---------------------------------------------------------------------------------

  /**
   * What a live view shows: first as it is, then after each change. A connection that is lost is made
   * anew, after a growing, random wait, and goes on where it was. `break` ends it.
   */
  async *values(
    path: string,
    query: Readonly<Record<string, unknown>>,
  ): AsyncGenerator<unknown, void, void> {
    let value: unknown;
    let token = "";
    let failures = 0;
    for (;;) {
      try {
        for await (const event of this._events(path, query, token)) {
          failures = 0;
          token = event.id || token;
          const data: unknown = JSON.parse(event.data);
          if (event.name === "error") {
            const problem = data as ProblemDocument;
            if (problem.status === 503) break;
            throw errorOf(problem);
          }
          value = event.name === "snapshot" ? data : patched(value, data);
          yield value;
        }
      } catch (error) {
        if (!(error instanceof LostConnection)) throw error;
      }
      const pauseMs = Math.min(LIVE_PAUSE_MS * 2 ** failures, LIVE_PAUSE_MAX_MS);
      await sleep(pauseMs * (0.5 + Math.random()));
      failures = Math.min(failures + 1, 10);
    }
  }

  private async *_events(
    path: string,
    query: Readonly<Record<string, unknown>>,
    token: string,
  ): AsyncGenerator<{ name: string; id: string; data: string }, void, void> {
    const headers: Record<string, string> = { ...this._headers, Accept: "text/event-stream" };
    if (token) headers["Last-Event-ID"] = token;
    const controller = new AbortController();
    let timer = setTimeout(() => controller.abort(), SILENCE_MS);
    try {
      const address = this._address(path, query);
      const wanted = { headers, redirect: "manual", signal: controller.signal } as const;
      const response = await connected(this._fetch(address, wanted));
      if (!response.ok || response.body === null) {
        const failure = failureOf(response, await connected(response.text()));
        if (!failure.mayPass) throw errorOf(failure.problem);
        return;
      }
      const reader = response.body.getReader();
      const decoder = new TextDecoder();
      let buffer = "";
      for (;;) {
        const { done, value } = await connected(reader.read());
        if (done) return;
        clearTimeout(timer);
        timer = setTimeout(() => controller.abort(), SILENCE_MS);
        const blocks = (buffer + decoder.decode(value, { stream: true })).split("\n\n");
        buffer = blocks.pop() ?? "";
        if (buffer.length > EVENT_CHARACTERS_MAX) throw new LostConnection();
        for (const block of blocks) {
          const fields = new Map(block.split("\n").map(fieldOf));
          const data = fields.get("data");
          if (data === undefined) continue;
          yield { name: fields.get("event") ?? "", id: fields.get("id") ?? "", data };
        }
      }
    } finally {
      clearTimeout(timer);
      controller.abort();
    }
  }
}

class LostConnection extends Error {}

async function connected<T>(result: Promise<T>): Promise<T> {
  try {
    return await result;
  } catch {
    throw new LostConnection();
  }
}

// -- what came of an attempt ----------------------------------------------------------------------

function failureOf(response: Response, text: string): FailedAttempt {
  const problem = problemOf(response, text);
  const status = response.status;
  const kind = problem.type.replace(PROBLEM_TYPE, "");
  const retryAfterMs = millisecondsOf(response.headers.get("Retry-After"));
  // a call that is half done is not done again: "interrupted"
  const isTrouble = [502, 503, 504].includes(status) && kind !== "interrupted";
  const mayPass =
    isTrouble || kind === "request-running" || (status === 429 && retryAfterMs !== undefined);
  return {
    problem,
    mayPass,
    wasSent: true,
    // any other 503 says that an actor did nothing
    mayBeDone: status === 502 || status === 504 || kind === "outcome-unknown",
    retryAfterMs: retryAfterMs ?? 0,
  };
}

function problemOf(response: Response, text: string): ProblemDocument {
  try {
    const document: unknown = JSON.parse(text);
    if (typeof document === "object" && document !== null && "type" in document) {
      return { ...document, type: String(document.type), status: response.status };
    }
  } catch {
    // no problem document
  }
  const title = response.statusText || `HTTP status ${response.status}`;
  return { type: "about:blank", title, status: response.status };
}

function localProblem(
  status: number,
  kind: string,
  title: string,
  detail: string,
): ProblemDocument {
  return { type: PROBLEM_TYPE + kind, title, status, detail };
}

function failed(problem: ProblemDocument): FailedAttempt {
  return { problem, mayPass: false, wasSent: true, mayBeDone: true, retryAfterMs: 0 };
}

/** A call was sent, and nobody knows what became of it. */
function unanswered(why: string | undefined): FailedAttempt {
  const detail = `the call may have been done, there was no answer: ${why}`;
  return { ...failed(localProblem(504, "unanswered", "Deadline passed", detail)), mayPass: true };
}

function errorOf(problem: ProblemDocument): ApiError {
  const kind = problem.type.replace(PROBLEM_TYPE, "");
  return new (ERRORS.get(kind) ?? ApiError)(problem);
}

function read(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    const detail = "the answer is not JSON";
    throw errorOf(localProblem(500, "unencodable", "Internal error", detail));
  }
}

// -- small things ---------------------------------------------------------------------------------

/** The value after a JSON Merge Patch (RFC 7396); neither is changed. */
function patched(value: unknown, patch: unknown): unknown {
  if (!isObject(patch)) return patch;
  const members = new Map<string, unknown>(isObject(value) ? Object.entries(value) : []);
  for (const [name, change] of Object.entries(patch)) {
    if (change === null) members.delete(name);
    else members.set(name, patched(members.get(name), change));
  }
  return Object.fromEntries(members); // unlike an assignment, this takes "__proto__" for a name
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function fieldOf(line: string): [string, string] {
  const end = line.indexOf(": ");
  return end < 0 ? [line, ""] : [line.slice(0, end), line.slice(end + 2)];
}

function codeOf(error: unknown): string {
  const cause: unknown = error instanceof Error ? error.cause : undefined;
  return isObject(cause) && "code" in cause ? String(cause.code) : "";
}

/** How long to wait after this attempt, at random, so that many do not come back at once. */
function pauseBefore(attempt: number, retryAfterMs: number): number {
  const pauseMs = Math.min(PAUSE_MS * 2 ** (attempt - 1), PAUSE_MAX_MS) * (0.5 + Math.random());
  return Math.max(pauseMs, retryAfterMs * (1 + Math.random() / 2));
}

/** How long a `Retry-After` says to wait: a number of seconds, or until a date. */
function millisecondsOf(retryAfter: string | null): number | undefined {
  if (retryAfter === null) return undefined;
  const ms = /^\d+$/.test(retryAfter) ? Number(retryAfter) * 1000 : Date.parse(retryAfter) - Date.now();
  return Number.isNaN(ms) ? undefined : Math.max(0, ms);
}

function queryText(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}

function pathText(value: unknown): string {
  return encodeURIComponent(queryText(value));
}

function newKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
